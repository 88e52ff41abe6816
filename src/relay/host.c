// SPDX-License-Identifier: MIT
// The prefill side's engine: requests compute together, one batch a step, and what they compute is
// told to their sending.
#include "relay/host_impl.h"

#include "base/clock.h"
#include "base/num.h"
#include "plan/rates.h"
#include "relay/sys_impl.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define LEASE_MS    60000u
#define PROGRESS_MS 500u
// Runs of fewer rows say little about the speed of a chunk.
#define MIN_RUN_ROWS 32u
// When every request is paused: how often it is looked whether one can go on.
#define PAUSE_NS 2000000u

bool td_host_wait(struct td_host *host, uint64_t until_ns)
{
    if (until_ns == 0) {
        pthread_cond_wait(&host->changed, &host->mutex);
        return true;
    }
    return td_cond_wait_until(&host->changed, &host->mutex, until_ns) == 0;
}

void td_host_tell(struct td_host *host, const struct td_host_event *e)
{
    if (!host->cfg.event) return;
    if (host->n_told == TD_HOST_MAX_TOLD) return; // whoever is told does not keep up
    struct td_host_told *t =
        &host->told_events[(host->first_told + host->n_told++) % TD_HOST_MAX_TOLD];
    t->e = *e;
    (void)snprintf(t->peer, sizeof(t->peer), "%s", e->peer);
    (void)snprintf(t->text, sizeof(t->text), "%s", e->text);
    pthread_cond_broadcast(&host->changed);
}

void *td_host_teller(void *ctx)
{
    struct td_host *host = ctx;
    pthread_mutex_lock(&host->mutex);
    for (;;) {
        while (host->n_told == 0 && !host->is_told_over) (void)td_host_wait(host, 0);
        if (host->n_told == 0) break;
        struct td_host_told t = host->told_events[host->first_told];
        host->first_told = (host->first_told + 1) % TD_HOST_MAX_TOLD;
        host->n_told--;
        pthread_mutex_unlock(&host->mutex);
        t.e.peer = t.peer;
        t.e.text = t.text;
        host->cfg.event(host->cfg.event_ctx, &t.e);
        pthread_mutex_lock(&host->mutex);
    }
    pthread_mutex_unlock(&host->mutex);
    return NULL;
}

// ---- computing --------------------------------------------------------------------------------

// Queues FINAL. Engine thread, with or without the mutex.
static void tell_final(struct td_host_job *job)
{
    if (job->is_final_told) return;
    job->is_final_told = true;
    const struct td_send_account account = {.far_ns = td_host_far_ns(job),
                                            .n_computed = job->request.n_tokens - 1 - job->n_reused,
                                            .n_reused = job->n_reused};
    td_sending_finish(job->sending, &account);
}

// Which request a span is of. On the engine's thread, which alone writes what is read here. After
// the last layer of the last position only logits are computed, for which nobody waits.
static void layer_done(void *ctx, const struct td_kv_span *span)
{
    struct td_host *host = ctx;
    const bool is_last = span->layer + 1 == host->spec->n_layers;
    for (uint32_t i = 0; i < host->n_running; i++) {
        struct td_host_job *job = host->running[i];
        if (td_session_kv(job->session) != span->kv) continue;
        td_sending_layer_done(job->sending, span);
        if (is_last && span->pos0 + span->n >= job->request.n_tokens - 1 &&
            !td_host_is_canary(job) && !host->cfg.send_at_end)
            tell_final(job);
    }
}

static bool is_near(double a, double b)
{
    return fabs(a - b) <= 0.1 * fmax(a, b);
}

static bool is_told(const struct td_host *host)
{
    const struct td_split_rate *a = &host->prefill, *b = &host->told;
    if (a->n_points != b->n_points) return false;
    for (uint32_t i = 0; i < a->n_points; i++)
        if (!is_near(a->points[i].depth_tokens, b->points[i].depth_tokens) ||
            !is_near(a->points[i].tokens_per_s, b->points[i].tokens_per_s))
            return false;
    return true;
}

// One request computed n rows from depth on, alone.
static void saw_speed(struct td_host *host, uint32_t depth, uint32_t n, uint64_t ns)
{
    host->max_run = td_max_u32(host->max_run, n);
    const uint32_t least = td_max_u32(MIN_RUN_ROWS, host->max_run / 2);
    td_rates_saw(&host->prefill, depth, n, (double)ns / 1e9, least);
    if (is_told(host)) return;
    host->told = host->prefill;
    for (struct td_host_peer *p = host->peers; p; p = p->next) p->is_rates_due = true;
    pthread_cond_broadcast(&host->changed);
}

// Queues the end of a request whose computing is done. Mutex held; given up meanwhile.
static void finish(struct td_host *host, struct td_host_job *job)
{
    job->state = TD_HOST_JOB_COMPUTED;
    job->n_computed = td_min_u32(job->n_computed, job->request.n_tokens - 1);
    pthread_mutex_unlock(&host->mutex);
    if (td_host_is_canary(job))
        td_sending_logits(job->sending, td_session_logits(job->session), host->spec->n_vocab);
    tell_final(job);
    pthread_mutex_lock(&host->mutex);
}

// After a step that took ns: what it did for each request. Mutex held; given up meanwhile.
static void account(struct td_host *host, uint64_t ns)
{
    const struct td_backend *b = host->cfg.backend;
    uint32_t n_served = 0, n_rows = 0, depth = 0;
    for (uint32_t i = 0; i < host->n_running; i++) {
        struct td_host_job *job = host->running[i];
        const uint32_t n = b->kv_len(td_session_kv(job->session));
        job->run_ns = 0;
        if (n <= job->n_computed) continue;
        job->far_ns += ns;
        host->count.n_tokens += n - job->n_computed;
        n_served++;
        n_rows = n - job->n_computed;
        depth = job->n_computed;
        job->n_computed = n;
    }
    if (n_served == 1) saw_speed(host, depth, n_rows, ns);
    for (uint32_t i = 0; i < host->n_running; i++) {
        struct td_host_job *job = host->running[i];
        if (job->state != TD_HOST_JOB_RUNNING) continue;
        if (td_session_state(job->session) == TD_SESSION_READY)
            finish(host, job);
        else if (td_session_state(job->session) == TD_SESSION_IDLE)
            td_host_end_job(job, TD_WIRE_E_TROUBLE, "the engine stopped");
    }
}

// A batch of all requests that run. Mutex held; given up meanwhile.
static int step(struct td_host *host, struct td_error *err)
{
    const uint64_t begin_ns = td_clock_ns();
    for (uint32_t i = 0; i < host->n_running; i++) {
        host->running[i]->run_ns = begin_ns;
    }
    pthread_mutex_unlock(&host->mutex);
    const int code = td_engine_step(host->cfg.engine, NULL, err);
    const uint64_t ns = td_clock_ns() - begin_ns;
    pthread_mutex_lock(&host->mutex);
    if (code == TD_ENOMEM) {
        for (uint32_t i = 0; i < host->n_running; i++) host->running[i]->run_ns = 0;
        td_host_make_room(host);
        return TD_OK;
    }
    if (code && code != TD_ECANCEL) return code;
    account(host, ns);
    return TD_OK;
}

static bool has_over(const struct td_host *host)
{
    const struct td_host_job *job = host->jobs;
    while (job && job->state != TD_HOST_JOB_OVER) job = job->next;
    return job != NULL;
}

// A request whose peer or link does not keep up is not computed meanwhile: its session is idle, and
// the engine goes on with others. The time counts as computing that stalled.
static void pause(struct td_host_job *job)
{
    struct td_error ignored; // what is there is what was wanted
    if (td_session_adopt(job->session, job->tokens, job->request.n_tokens, &ignored)) return;
    job->paused_ns = td_clock_ns();
}

static void unpause(struct td_host_job *job)
{
    struct td_error err;
    const uint64_t ns = td_clock_ns() - job->paused_ns;
    const uint32_t n = job->request.n_tokens - !td_host_is_canary(job);
    job->paused_ns = 0;
    job->far_ns += ns;
    td_sending_stalled(job->sending, ns);
    if (td_session_want(job->session, job->tokens, n, NULL, 0, &err))
        td_host_end_job(job, TD_WIRE_E_TROUBLE, err.msg);
}

// Those that run in the next step; *n_paused: that would, but for a slow peer.
static uint32_t collect_running(struct td_host *host, uint32_t *n_paused)
{
    host->n_running = *n_paused = 0;
    for (struct td_host_job *job = host->jobs; job; job = job->next) {
        if (job->state != TD_HOST_JOB_RUNNING) continue;
        const bool lags = td_sending_lags(job->sending);
        if (lags && !job->paused_ns) pause(job);
        if (!lags && job->paused_ns) unpause(job);
        if (job->paused_ns)
            ++*n_paused;
        else if (job->state == TD_HOST_JOB_RUNNING)
            host->running[host->n_running++] = job;
    }
    return host->n_running;
}

int td_host_serve(struct td_host *host, struct td_error *err)
{
    int code = TD_OK;
    td_engine_watch(host->cfg.engine, host, layer_done);
    pthread_mutex_lock(&host->mutex);
    while (!host->is_stopping && !code) {
        (void)td_host_expire(host);
        td_host_release_over(host);
        td_host_begin_all(host);
        uint32_t n_paused;
        if (collect_running(host, &n_paused) > 0) {
            code = step(host, err);
            continue;
        }
        uint64_t until_ns = td_host_expire(host);
        if (n_paused > 0) until_ns = td_clock_ns() + PAUSE_NS;
        if (!host->is_stopping && !has_over(host)) (void)td_host_wait(host, until_ns);
    }
    if (!code && host->accept_code) {
        code = host->accept_code;
        if (err) *err = host->accept_err;
    }
    for (struct td_host_job *job = host->jobs; job; job = job->next)
        td_host_end_job(job, code ? TD_WIRE_E_TROUBLE : TD_WIRE_E_SHUTDOWN,
                        code ? "the engine failed" : "the prefill side ends");
    td_host_release_over(host);
    pthread_mutex_unlock(&host->mutex);
    td_engine_watch(host->cfg.engine, NULL, NULL);
    td_host_stop(host);
    return code;
}

// ---- open and close ---------------------------------------------------------------------------

void td_host_stop(struct td_host *host)
{
    atomic_store_explicit(&host->is_stop_asked, true, memory_order_release);
    td_listener_cancel(host->listener);
}

static void free_host(struct td_host *host)
{
    for (uint32_t i = 0; host->slots && i < host->cfg.n_slots; i++) {
        struct td_host_slot *slot = &host->slots[i];
        td_session_close(slot->session);
        free(slot->tokens);
    }
    free(host->slots);
    free((void *)host->running);
    free(host->told_events);
    free(host->filler);
    pthread_cond_destroy(&host->changed);
    pthread_mutex_destroy(&host->mutex);
    pthread_mutex_destroy(&host->send_mutex);
    free(host);
}

static int check(const struct td_host_config *cfg, struct td_error *err)
{
    enum { HOUR_MS = 3600 * 1000 };
    if (cfg->n_slots == 0 || cfg->n_slots > 1024)
        return td_fail(err, TD_EARG, "relay: %u slots; 1 to 1024 can be served", cfg->n_slots);
    if (cfg->n_ctx < 2 || cfg->n_ctx > TD_WIRE_MAX_TOKENS)
        return td_fail(err, TD_EARG, "relay: a context of %u tokens; 2 to %u can be served",
                       cfg->n_ctx, TD_WIRE_MAX_TOKENS);
    if (cfg->progress_ms > HOUR_MS || cfg->lease_ms > 24 * HOUR_MS)
        return td_fail(err, TD_EARG, "relay: a lease is a day at most, progress told every hour");
    return TD_OK;
}

// What was still to tell is told.
static void end_telling(struct td_host *host)
{
    if (!host->has_tell_thread) return;
    pthread_mutex_lock(&host->mutex);
    host->is_told_over = true;
    pthread_cond_broadcast(&host->changed);
    pthread_mutex_unlock(&host->mutex);
    pthread_join(host->tell_thread, NULL);
}

int td_host_open(struct td_host **out, const struct td_host_config *cfg,
                 struct td_listener *listener, struct td_error *err)
{
    *out = NULL;
    int code = check(cfg, err);
    if (code) return code;
    struct td_host *host = calloc(1, sizeof(*host));
    if (!host) return td_fail(err, TD_ENOMEM, "no memory for the prefill side");
    host->cfg = *cfg;
    if (!host->cfg.lease_ms) host->cfg.lease_ms = LEASE_MS;
    if (!host->cfg.progress_ms) host->cfg.progress_ms = PROGRESS_MS;
    host->spec = &td_engine_model(cfg->engine)->spec;
    host->listener = listener;
    host->prefill = host->told = cfg->prefill;
    host->sender_cfg = (struct td_sender_config){cfg->backend, cfg->n_queue, &host->send_mutex};
    pthread_mutex_init(&host->send_mutex, NULL);
    pthread_mutex_init(&host->mutex, NULL);
    td_cond_init(&host->changed);
    host->slots = calloc(cfg->n_slots, sizeof(*host->slots));
    host->running = calloc(cfg->n_slots + TD_HOST_MAX_PEERS, sizeof(struct td_host_job *));
    host->filler = calloc(1, TD_WIRE_MAX_DATA);
    host->told_events = calloc(TD_HOST_MAX_TOLD, sizeof(*host->told_events));
    if (!host->slots || !host->running || !host->filler || !host->told_events)
        code = td_fail(err, TD_ENOMEM, "no memory for the prefill side");
    for (uint32_t i = 0; !code && i < cfg->n_slots; i++)
        code = td_session_open(&host->slots[i].session, cfg->engine, cfg->n_ctx, err);
    if (!code && cfg->event) {
        host->has_tell_thread = pthread_create(&host->tell_thread, NULL, td_host_teller, host) == 0;
        if (!host->has_tell_thread) code = td_fail(err, TD_ENOMEM, "no thread for a log");
    }
    if (!code && pthread_create(&host->accept_thread, NULL, td_host_acceptor, host) != 0)
        code = td_fail(err, TD_ENOMEM, "no thread for the prefill side");
    if (code) end_telling(host);
    if (code)
        free_host(host);
    else
        *out = host;
    return code;
}

void td_host_close(struct td_host *host)
{
    if (!host) return;
    td_host_stop(host);
    pthread_join(host->accept_thread, NULL);
    pthread_mutex_lock(&host->mutex);
    td_host_release_over(host); // the acceptor has ended all
    pthread_mutex_unlock(&host->mutex);
    end_telling(host);
    free_host(host);
}

void td_host_report(struct td_host *host, struct td_host_report *out)
{
    pthread_mutex_lock(&host->mutex);
    *out = host->count;
    out->n_peers = host->n_peers;
    for (const struct td_host_job *job = host->jobs; job; job = job->next)
        out->n_requests += job->state != TD_HOST_JOB_OVER;
    out->prefill = host->prefill;
    pthread_mutex_unlock(&host->mutex);
}
