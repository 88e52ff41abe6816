// SPDX-License-Identifier: MIT
// A scheduler that answers by a script, in place of the real one: for tests and fuzzing of the API
// alone. It also keeps what the last job asked for.
#ifndef TD_TESTS_SERVER_API_RIG_H
#define TD_TESTS_SERVER_API_RIG_H

#include "server/api.h"

#include "../text/small_vocab.h"

#include <stdio.h>

struct td_job {
    size_t i_next;
    bool is_cancelled;
    void (*notify)(void *ctx);
};

// What happens, and what a submit says.
static struct {
    const struct td_job_event *events;
    size_t n_events;
    size_t n_released; // of them that have happened
    int submit_code;
    const char *submit_message;
    uint32_t n_accepted; // jobs that are taken before submit_code is returned
    uint32_t retry_s;
} script;

// What was asked for.
static struct {
    struct td_job_spec spec;
    int32_t *tokens;
    uint32_t marks[64];
    char stops[TD_JOB_MAX_STOPS][64];
    struct td_logit_bias bias[16];
    uint64_t seeds[128];
    uint32_t n_jobs, n_open, n_submitted, n_cancelled;
    int32_t ahead[4096]; // (n_ahead) as told last
    uint32_t n_ahead;
} asked;

void td_sched_read_ahead(struct td_sched *s, const int32_t *tokens, uint32_t n,
                         const uint32_t *marks, uint32_t n_marks)
{
    (void)s;
    for (uint32_t i = 0; i < n_marks; i++)
        if (marks[i] > n || (i > 0 && marks[i] < marks[i - 1])) abort();
    asked.n_ahead = n < 4096 ? n : 4096;
    memcpy(asked.ahead, tokens, asked.n_ahead * sizeof(*tokens));
}

int td_job_open(struct td_job **out, const struct td_job_spec *spec, struct td_error *err)
{
    *out = NULL;
    if (spec->n_tokens == 0) return td_fail(err, TD_EARG, "no tokens");
    struct td_job *job = calloc(1, sizeof(*job));
    int32_t *tokens = malloc(spec->n_tokens * sizeof(*tokens));
    if (!job || !tokens) {
        free(job);
        free(tokens);
        return td_fail(err, TD_ENOMEM, "no memory for a job");
    }
    memcpy(tokens, spec->tokens, spec->n_tokens * sizeof(*tokens));
    free(asked.tokens);
    asked.tokens = tokens;
    asked.spec = *spec;
    for (uint32_t i = 0; i < spec->n_marks; i++) {
        // Ascending, and within the prompt.
        if (spec->marks[i] > spec->n_tokens || (i > 0 && spec->marks[i] < spec->marks[i - 1]))
            abort();
        if (i < 64) asked.marks[i] = spec->marks[i];
    }
    for (uint32_t i = 0; i < spec->n_stops; i++)
        (void)snprintf(asked.stops[i], sizeof(asked.stops[i]), "%s", spec->stops[i]);
    for (uint32_t i = 0; i < spec->sampling.n_bias && i < 16; i++)
        asked.bias[i] = spec->sampling.bias[i];
    if (asked.n_jobs < 128) asked.seeds[asked.n_jobs] = spec->sampling.seed;
    asked.n_jobs++;
    asked.n_open++;
    *out = job;
    return TD_OK;
}

void td_job_close(struct td_job *job)
{
    if (job) asked.n_open--;
    free(job);
}

void td_job_cancel(struct td_job *job)
{
    if (!job->is_cancelled) asked.n_cancelled++;
    job->is_cancelled = true;
}

void td_job_notify(struct td_job *job, void (*fn)(void *ctx), void *ctx)
{
    (void)ctx;
    job->notify = fn;
}

bool td_job_next(struct td_job *job, struct td_job_event *out)
{
    if (job->i_next >= script.n_events || job->i_next >= script.n_released) return false;
    *out = script.events[job->i_next++];
    return true;
}

int td_sched_submit(struct td_sched *s, struct td_job *job, uint32_t *retry_s_out,
                    struct td_error *err)
{
    (void)s;
    (void)job;
    if (script.submit_code && asked.n_submitted >= script.n_accepted) {
        *retry_s_out = script.retry_s;
        return td_fail(err, script.submit_code, "%s", script.submit_message);
    }
    asked.n_submitted++;
    return TD_OK;
}

static inline struct td_tokenizer *rig_tokenizer(void)
{
    struct td_tokenizer *t = NULL;
    uint8_t *bytes = NULL;
    struct td_gguf *g = small_gguf("gpt-4o", &bytes);
    if (td_tokenizer_open(&t, g, NULL)) abort();
    td_gguf_close(g);
    free(bytes);
    return t;
}

#define SAYS(channel_, text_)                                                                      \
    {                                                                                              \
        .kind = TD_JOB_TEXT, .channel = (channel_), .text = (text_),                               \
        .text_bytes = sizeof(text_) - 1                                                            \
    }
#define TOOL(kind_, text_)                                                                         \
    {                                                                                              \
        .kind = (kind_), .channel = TD_CHANNEL_COMMENTARY, .text = (text_),                        \
        .text_bytes = sizeof(text_) - 1                                                            \
    }
#define ENDS(end_)                                                                                 \
    {                                                                                              \
        .kind = TD_JOB_END, .end = (end_), .text = "", .stats = {                                  \
            .n_prompt = 70,                                                                        \
            .n_reused = 6,                                                                         \
            .n_written = 20,                                                                       \
            .n_reasoning = 8,                                                                      \
            .queue_seconds = 0.001,                                                                \
            .prompt_seconds = 0.5,                                                                 \
            .decode_seconds = 2,                                                                   \
            .ttft_seconds = 0.25                                                                   \
        }                                                                                          \
    }

#endif
