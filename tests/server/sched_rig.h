// SPDX-License-Identifier: MIT
// What the scheduler's tests share: a model with its tokenizer, an engine and a scheduler by one
// call, and answers read to their end. Failure is the test's.
#ifndef TD_TESTS_SERVER_SCHED_RIG_H
#define TD_TESTS_SERVER_SCHED_RIG_H

// cmocka.h needs these first.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/clock.h"
#include "server/sched.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

// Longer than anything here takes on a busy machine: it only ends a test that hangs.
#define PATIENCE_SECONDS 100

static struct td_error err;

#define OK(call)                                                                                   \
    do {                                                                                           \
        if ((call) != TD_OK) fail_msg("%s: %s", #call, err.msg);                                   \
    } while (0)

struct rig {
    struct td_model *model;
    struct td_tokenizer *tokenizer;
    struct td_engine *engine;
    struct td_sched *sched;
    struct td_sched_config cfg;
};

struct rig_config {
    const char *path;
    uint32_t n_ctx, n_slots, n_queue, chunk, max_gap_ms;
    uint64_t max_kv_bytes;
};

static inline void rig_open(struct rig *r, const struct rig_config *c)
{
    OK(td_model_open(&r->model, c->path, NULL, &err));
    OK(td_tokenizer_open(&r->tokenizer, r->model->gguf, &err));
    const uint32_t chunk = c->chunk ? c->chunk : 64;
    // One thread: two that wait for one another are slow where others run, and test nothing here.
    const struct td_engine_config ecfg = {.device = {.n_threads = 1,
                                                     .max_rows = chunk,
                                                     .max_logits_rows = c->n_slots,
                                                     .max_kv_bytes = c->max_kv_bytes,
                                                     .isa = -1}};
    OK(td_engine_open(&r->engine, r->model, td_backend_cpu(), &ecfg, &err));
    r->cfg = (struct td_sched_config){.engine = r->engine,
                                      .tokenizer = r->tokenizer,
                                      .n_ctx = c->n_ctx,
                                      .n_slots = c->n_slots,
                                      .n_queue = c->n_queue,
                                      .chunk = chunk,
                                      .max_gap_ms = c->max_gap_ms,
                                      .max_kv_bytes = c->max_kv_bytes};
    OK(td_sched_open(&r->sched, &r->cfg, &err));
}

static inline void rig_close(struct rig *r)
{
    td_sched_close(r->sched);
    td_engine_close(r->engine);
    td_tokenizer_close(r->tokenizer);
    td_model_close(r->model);
}

// An answer as it is read.
struct answer {
    struct td_job *job;
    pthread_mutex_t mutex;
    pthread_cond_t news;
    bool has_news;
    char *text[3]; // by channel
    size_t n_text[3];
    char calls[4096]; // "name(args)" one after the other
    struct td_job_token *tokens;
    uint32_t n_tokens;
    uint32_t n_progress, n_remote_progress, n_events;
    bool has_ended, has_failed;
    enum td_job_end end;
    struct td_job_stats stats;
    struct td_error error;
    uint64_t end_ns;
};

static inline void answer_news(void *ctx)
{
    struct answer *a = ctx;
    pthread_mutex_lock(&a->mutex);
    a->has_news = true;
    pthread_cond_signal(&a->news);
    pthread_mutex_unlock(&a->mutex);
}

static inline void answer_begin(struct answer *a, const struct td_job_spec *spec)
{
    *a = (struct answer){0};
    pthread_mutex_init(&a->mutex, NULL);
    pthread_cond_init(&a->news, NULL);
    for (int i = 0; i < 3; i++) a->text[i] = calloc(1, 1);
    OK(td_job_open(&a->job, spec, &err));
    td_job_notify(a->job, answer_news, a);
}

static inline void answer_add(struct answer *a, const struct td_job_event *e)
{
    a->n_events++;
    assert_false(a->has_ended);
    switch (e->kind) {
    case TD_JOB_PROGRESS:
        a->n_progress++;
        a->n_remote_progress += e->is_remote;
        return;
    case TD_JOB_TEXT: {
        assert_int_equal(e->text[e->text_bytes], 0);
        const int c = (int)e->channel;
        a->text[c] = realloc(a->text[c], a->n_text[c] + e->text_bytes + 1);
        memcpy(a->text[c] + a->n_text[c], e->text, e->text_bytes + 1);
        a->n_text[c] += e->text_bytes;
        a->tokens = realloc(a->tokens, (a->n_tokens + e->n_tokens + 1) * sizeof(*a->tokens));
        for (uint32_t i = 0; i < e->n_tokens; i++) a->tokens[a->n_tokens++] = e->tokens[i];
        return;
    }
    case TD_JOB_TOOL_BEGIN:
    case TD_JOB_TOOL_ARGS:
    case TD_JOB_TOOL_END: {
        const size_t n = strlen(a->calls);
        const char *after = e->kind == TD_JOB_TOOL_BEGIN ? "(" : "";
        if (e->kind == TD_JOB_TOOL_END) after = ")";
        snprintf(a->calls + n, sizeof(a->calls) - n, "%s%s", e->text, after);
        return;
    }
    case TD_JOB_FAILED:
        a->has_failed = true;
        a->error = e->error;
        break;
    case TD_JOB_END: a->end = e->end; break;
    }
    a->has_ended = true;
    a->end_ns = td_clock_ns();
    a->stats = e->stats;
}

// Takes what is there.
static inline void answer_take(struct answer *a)
{
    struct td_job_event e;
    while (td_job_next(a->job, &e)) answer_add(a, &e);
}

// Reads until is_enough, or the end.
static inline void answer_read_until(struct answer *a, bool (*is_enough)(const struct answer *a))
{
    struct timespec end;
    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_sec += PATIENCE_SECONDS;
    for (;;) {
        answer_take(a);
        if (a->has_ended || (is_enough && is_enough(a))) return;
        pthread_mutex_lock(&a->mutex);
        int code = 0;
        while (!a->has_news && code == 0) code = pthread_cond_timedwait(&a->news, &a->mutex, &end);
        a->has_news = false;
        pthread_mutex_unlock(&a->mutex);
        if (code) fail_msg("no event for %d seconds", PATIENCE_SECONDS);
    }
}

static inline void answer_read(struct answer *a)
{
    answer_read_until(a, NULL);
    struct td_job_event e;
    assert_false(td_job_next(a->job, &e));
}

static inline void answer_end(struct answer *a)
{
    td_job_close(a->job);
    for (int i = 0; i < 3; i++) free(a->text[i]);
    free(a->tokens);
    pthread_cond_destroy(&a->news);
    pthread_mutex_destroy(&a->mutex);
}

static inline bool has_text(const struct answer *a)
{
    return a->n_text[0] + a->n_text[1] + a->n_text[2] > 0;
}

static inline bool has_progress(const struct answer *a)
{
    return a->n_progress > 0;
}

// A spec of plain text that goes on for n_answer tokens.
static inline struct td_job_spec spec_of(const int32_t *tokens, uint32_t n, uint32_t n_answer)
{
    return (struct td_job_spec){.tokens = tokens,
                                .n_tokens = n,
                                .max_tokens = n_answer,
                                .sampling = {.temp = 1, .top_p = 1, .seed = 7},
                                .ignore_end = true};
}

static inline void fill_tokens(int32_t *out, uint32_t n, uint32_t seed, uint32_t n_vocab)
{
    uint32_t x = seed * 2654435761u + 12345u;
    for (uint32_t i = 0; i < n; i++) {
        x = x * 1664525u + 1013904223u;
        out[i] = (int32_t)((x >> 8) % n_vocab);
    }
}

#endif
