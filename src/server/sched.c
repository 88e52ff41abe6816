// SPDX-License-Identifier: MIT
// The scheduler's thread, and the door to it.
#include "server/sched_impl.h"

#include "base/clock.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define DEFAULT_GAP_MS 1000u
// How long the thread sleeps at most: while peers read prompts, while there are peers, and before
// it uses a quiet moment to write to the disk.
#define FETCH_MS 20u
#define TEND_MS  100u
#define SAVE_MS  500u
// How long nobody has come before it reads ahead.
#define AHEAD_MS 200u

// ---- the thread -------------------------------------------------------------------------------

// What came in since the last look goes to the queue.
static void take_inbox(struct td_sched *s)
{
    pthread_mutex_lock(&s->mutex);
    struct td_work *w = s->inbox;
    s->inbox = NULL;
    s->has_wake = false;
    pthread_mutex_unlock(&s->mutex);
    while (w) {
        struct td_work *next = w->next;
        td_sched_enqueue(s, w);
        w = next;
    }
}

static void end_cancelled(struct td_sched *s)
{
    struct td_work **at = &s->queue;
    while (*at) {
        struct td_work *w = *at;
        if (!td_job_is_cancelled(w->job)) {
            at = &w->next;
            continue;
        }
        *at = w->next;
        td_sched_end(s, w, TD_JOB_CANCELLED, NULL);
    }
    for (uint32_t i = 0; i < s->cfg.n_slots; i++) {
        struct td_work *w = s->slots[i].work;
        if (w && td_job_is_cancelled(w->job)) td_sched_end(s, w, TD_JOB_CANCELLED, NULL);
    }
}

static void cancel_all(struct td_sched *s)
{
    while (s->queue) {
        struct td_work *w = s->queue;
        s->queue = w->next;
        td_sched_end(s, w, TD_JOB_CANCELLED, NULL);
    }
    for (uint32_t i = 0; i < s->cfg.n_slots; i++)
        if (s->slots[i].work) td_sched_end(s, s->slots[i].work, TD_JOB_CANCELLED, NULL);
}

// Waits end by a clock that nobody sets, where conditions can.
#ifdef __APPLE__
#define WAIT_CLOCK CLOCK_REALTIME
#else
#define WAIT_CLOCK CLOCK_MONOTONIC
#endif

static void cond_init(pthread_cond_t *cond)
{
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
#ifndef __APPLE__
    pthread_condattr_setclock(&attr, WAIT_CLOCK);
#endif
    pthread_cond_init(cond, &attr);
    pthread_condattr_destroy(&attr);
}

static void timeout_at(struct timespec *out, uint32_t timeout_ms)
{
    clock_gettime(WAIT_CLOCK, out);
    out->tv_sec += (time_t)(timeout_ms / 1000);
    out->tv_nsec += (long)(timeout_ms % 1000) * 1000000;
    if (out->tv_nsec >= 1000000000) out->tv_sec++, out->tv_nsec -= 1000000000;
}

// Waits until somebody has something to tell, at most timeout_ms (0: as long as it takes); false
// when it shall end.
static bool wait_for_news(struct td_sched *s, uint32_t timeout_ms)
{
    struct timespec end;
    timeout_at(&end, timeout_ms);
    int code = 0;
    pthread_mutex_lock(&s->mutex);
    while (!s->is_closing && !s->has_wake && code == 0)
        code = timeout_ms ? pthread_cond_timedwait(&s->wake, &s->mutex, &end)
                          : pthread_cond_wait(&s->wake, &s->mutex);
    const bool goes_on = !s->is_closing;
    pthread_mutex_unlock(&s->mutex);
    return goes_on;
}

static bool is_closing(struct td_sched *s)
{
    pthread_mutex_lock(&s->mutex);
    const bool is = s->is_closing;
    pthread_mutex_unlock(&s->mutex);
    return is;
}

// Nothing to compute: looks after peers and the disk, or sleeps. False when it shall end.
static bool rest(struct td_sched *s)
{
    if (s->n_at_work > 0 || s->queue) return wait_for_news(s, FETCH_MS);
    td_sched_count_engine(s, true);
    // Somebody may go on at once; only then is there time for what comes next, and for the disk.
    const bool has_disk = s->cfg.disk && s->n_saved != UINT32_MAX;
    if (!atomic_load(&s->is_draining) && td_sched_has_ahead(s)) {
        const uint64_t quiet_ms = (td_clock_ns() - s->busy_ns) / 1000000;
        if (quiet_ms < AHEAD_MS) return wait_for_news(s, (uint32_t)(AHEAD_MS - quiet_ms));
        td_sched_step_ahead(s);
        return !is_closing(s);
    }
    if (has_disk && s->is_resting) {
        if (!td_sched_save_one(s)) s->n_saved = UINT32_MAX;
        return s->saving ? wait_for_news(s, FETCH_MS) : !is_closing(s);
    }
    s->is_resting = true;
    if (has_disk) return wait_for_news(s, SAVE_MS);
    return wait_for_news(s, s->cfg.remote ? TEND_MS : 0);
}

static void *work(void *ctx)
{
    struct td_sched *s = ctx;
    bool goes_on = true;
    while (goes_on) {
        take_inbox(s);
        end_cancelled(s);
        (void)td_sched_saved(s);
        if (s->queue) td_sched_leave_ahead(s);
        td_sched_admit(s);
        const bool is_loading = td_sched_load_all(s);
        const bool wants_step = td_sched_poll(s);
        if (wants_step || td_sched_can_step(s)) {
            s->is_resting = false;
            const bool is_fine = td_sched_step(s);
            s->busy_ns = td_clock_ns();
            // A step of nobody here that failed is tried again, but not at once.
            goes_on = is_fine || td_sched_can_step(s) ? !is_closing(s) : wait_for_news(s, FETCH_MS);
        } else {
            goes_on = is_loading ? !is_closing(s) : rest(s);
        }
    }
    take_inbox(s);
    cancel_all(s);
    td_sched_forget_ahead(s);
    td_sched_save_all(s);
    return NULL;
}

// ---- the door ---------------------------------------------------------------------------------

static void wake(void *ctx)
{
    struct td_sched *s = ctx;
    pthread_mutex_lock(&s->mutex);
    s->has_wake = true;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->mutex);
}

static int start_thread(struct td_sched *s, struct td_error *err)
{
    // Signals are for the thread that waits for them.
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const int failure = pthread_create(&s->thread, NULL, work, s);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failure) return td_fail(err, TD_ENOMEM, "no thread for the scheduler");
    return TD_OK;
}

static void sched_free(struct td_sched *s)
{
    td_sched_forget_ahead(s);
    for (uint32_t i = 0; s->slots && i < s->cfg.n_slots; i++) td_session_close(s->slots[i].session);
    td_engine_limit_rows(s->cfg.engine, 0);
    pthread_cond_destroy(&s->wake);
    pthread_cond_destroy(&s->idle);
    pthread_mutex_destroy(&s->mutex);
    free(s->slots);
    free(s);
}

int td_sched_open(struct td_sched **out, const struct td_sched_config *cfg, struct td_error *err)
{
    *out = NULL;
    if (cfg->n_slots == 0 || cfg->n_ctx < 2 || cfg->chunk == 0)
        return td_fail(err, TD_EARG,
                       "%u slots of %u tokens in chunks of %u: at least 1, 2 and 1 are needed",
                       cfg->n_slots, cfg->n_ctx, cfg->chunk);
    struct td_sched *s = calloc(1, sizeof(*s));
    if (!s) return td_fail(err, TD_ENOMEM, "no memory for a scheduler");
    s->cfg = *cfg;
    if (s->cfg.n_queue == 0) s->cfg.n_queue = cfg->n_slots;
    if (s->cfg.max_gap_ms == 0) s->cfg.max_gap_ms = DEFAULT_GAP_MS;
    pthread_mutex_init(&s->mutex, NULL);
    cond_init(&s->wake);
    cond_init(&s->idle);
    td_pacer_init(&s->pacer, cfg->chunk, (double)s->cfg.max_gap_ms * 1e-3);
    td_engine_cache(cfg->engine, cfg->max_cache_bytes ? cfg->max_cache_bytes : UINT64_MAX);

    int code = TD_OK;
    s->slots = calloc(cfg->n_slots, sizeof(*s->slots));
    if (!s->slots) code = td_fail(err, TD_ENOMEM, "no memory for %u slots", cfg->n_slots);
    // What a slot needs beside its KV shall be there before the first request comes.
    for (uint32_t i = 0; i < cfg->n_slots && code == TD_OK; i++)
        code = td_session_open(&s->slots[i].session, cfg->engine, cfg->n_ctx, err);
    if (code == TD_OK) code = start_thread(s, err);
    if (code != TD_OK) {
        sched_free(s);
        return code;
    }
    *out = s;
    return TD_OK;
}

static struct td_work *new_work(struct td_sched *s, struct td_job *job)
{
    const struct td_job_spec *spec = &job->spec;
    struct td_work *w = calloc(1, sizeof(*w));
    if (!w) return NULL;
    w->job = job;
    w->client = spec->client;
    w->submit_ns = td_clock_ns();
    w->n = w->n_prompt = spec->n_tokens;
    w->stats.n_prompt = spec->n_tokens;
    const uint32_t n_room = s->cfg.n_ctx - w->n_prompt;
    w->n_limit = spec->max_tokens && spec->max_tokens < n_room ? spec->max_tokens : n_room;
    w->tokens = malloc(((size_t)w->n_prompt + w->n_limit) * sizeof(*w->tokens));
    if (!w->tokens) {
        free(w);
        return NULL;
    }
    memcpy(w->tokens, spec->tokens, w->n_prompt * sizeof(*w->tokens));
    return w;
}

// Into the inbox, if there is room.
static int put(struct td_sched *s, struct td_work *w, uint32_t *retry_s_out, struct td_error *err)
{
    int code = TD_OK;
    pthread_mutex_lock(&s->mutex);
    const uint32_t n_ahead = s->n_running + s->n_queued;
    // A slot that is free counts although nobody has been led to it yet.
    const bool is_full = n_ahead >= s->cfg.n_slots + s->cfg.n_queue;
    if (is_full) {
        s->stats.n_refused++;
        const uint32_t retry_s = td_sched_retry_s(s->n_queued, s->cfg.n_slots, s->service_seconds);
        if (retry_s_out) *retry_s_out = retry_s;
        code = TD_EFULL;
        (void)td_fail(err, code,
                      "%u answers are being written and %u requests are waiting: try again in %u "
                      "seconds",
                      s->n_running, s->n_queued, retry_s);
    } else {
        if (s->inbox)
            s->inbox_last->next = w;
        else
            s->inbox = w;
        s->inbox_last = w;
        s->n_queued++;
        s->n_open++;
        s->has_wake = true;
        pthread_cond_signal(&s->wake);
    }
    pthread_mutex_unlock(&s->mutex);
    return code;
}

int td_sched_submit(struct td_sched *s, struct td_job *job, uint32_t *retry_s_out,
                    struct td_error *err)
{
    if (atomic_load(&s->is_draining))
        return td_fail(err, TD_ECANCEL, "the server is being shut down and takes no more requests");
    const uint32_t n = job->spec.n_tokens;
    if (n >= s->cfg.n_ctx)
        return td_fail(
            err, TD_EARG,
            "the prompt has %u tokens and the context holds %u, of which an answer needs "
            "at least 1",
            n, s->cfg.n_ctx);
    struct td_work *w = new_work(s, job);
    if (!w) return td_fail(err, TD_ENOMEM, "no memory for a request of %u tokens", n);
    int code = td_job_attach(job, wake, s, err);
    if (code == TD_OK) {
        code = put(s, w, retry_s_out, err);
        if (code == TD_OK) return TD_OK;
        td_job_unattach(job);
    }
    td_sched_free_work(w);
    return code;
}

void td_sched_drain(struct td_sched *s)
{
    atomic_store(&s->is_draining, true);
}

bool td_sched_wait_idle(struct td_sched *s, uint32_t timeout_ms)
{
    struct timespec end;
    timeout_at(&end, timeout_ms);
    pthread_mutex_lock(&s->mutex);
    int code = 0;
    while (s->n_open > 0 && code == 0) code = pthread_cond_timedwait(&s->idle, &s->mutex, &end);
    const bool is_idle = s->n_open == 0;
    pthread_mutex_unlock(&s->mutex);
    return is_idle;
}

void td_sched_close(struct td_sched *s)
{
    if (!s) return;
    td_sched_drain(s);
    pthread_mutex_lock(&s->mutex);
    s->is_closing = true;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->mutex);
    pthread_join(s->thread, NULL);
    sched_free(s);
}
