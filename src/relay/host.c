// SPDX-License-Identifier: MIT
// The prefill side's engine: which request computes in which slot, what it is told when, what
// becomes of it in the end. Requests compute together, one batch a step.
#include "relay/host_impl.h"

#include "base/clock.h"
#include "base/num.h"
#include "plan/rates.h"

#include <math.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define LEASE_MS    60000u
#define PROGRESS_MS 500u
// Runs of fewer rows say little about the speed of a chunk.
#define MIN_RUN_ROWS 32u

bool td_host_wait(struct td_host *host, uint64_t until_ns)
{
    if (until_ns == 0) {
        pthread_cond_wait(&host->changed, &host->mutex);
        return true;
    }
    // The condition's clock is td_clock_ns's.
    const struct timespec until = {.tv_sec = (time_t)(until_ns / 1000000000u),
                                   .tv_nsec = (long)(until_ns % 1000000000u)};
    return pthread_cond_timedwait(&host->changed, &host->mutex, &until) == 0;
}

void td_host_tell(struct td_host *host, const struct td_host_event *e)
{
    if (host->cfg.event) host->cfg.event(host->cfg.event_ctx, e);
}

// ---- the end of a request ---------------------------------------------------------------------

static void count_sent(struct td_host_job *job, struct td_host *host)
{
    struct td_send_report report;
    td_sending_report(job->sending, &report);
    host->count.bytes += report.sent_bytes;
    host->count.stall_ns += report.stall_ns;
}

void td_host_end_job(struct td_host_job *job, enum td_wire_reason reason, const char *text)
{
    struct td_host *host = job->host;
    if (job->state == TD_HOST_JOB_OVER) return;
    // The engine answers within a layer; a request that it does not run has nothing to stop.
    const bool is_running = job->state == TD_HOST_JOB_RUNNING;
    job->state = TD_HOST_JOB_OVER;
    job->reason = reason;
    td_peer_text(text, job->text, sizeof(job->text));
    if (is_running && job->session) td_session_cancel(job->session);
    if (job->sending) td_sending_cancel(job->sending);
    if (reason && is_running)
        job->is_error_due = true;
    else if (reason && job->peer)
        td_host_say_error(job->peer, job->id, reason, job->text);
    host->count.n_ended++;
    const struct td_host_event e = {.kind = TD_HOST_ENDED,
                                    .peer = job->address,
                                    .text = job->text,
                                    .request = job->id,
                                    .n_tokens = job->request.n_tokens,
                                    .n_reused = job->n_reused};
    td_host_tell(host, &e);
    pthread_cond_broadcast(&host->changed);
}

void td_host_leave_job(struct td_host_job *job, bool is_gone)
{
    struct td_host *host = job->host;
    if (is_gone) job->peer = NULL;
    if (job->state == TD_HOST_JOB_OVER) return;
    if (job->state == TD_HOST_JOB_TOKENS || td_host_is_canary(job))
        td_host_end_job(job, TD_WIRE_E_GONE, "the connection broke");
    else if (!job->lease_end_ns)
        job->lease_end_ns = td_clock_ns() + (uint64_t)host->cfg.lease_ms * 1000000;
}

static void free_job(struct td_host_job *job)
{
    if (job->tokens) OPENSSL_cleanse(job->tokens, job->request.n_tokens * sizeof(*job->tokens));
    free(job->tokens);
    free(job);
}

// The slot keeps what was computed for the next request that begins alike.
static void give_slot_back(struct td_host *host, struct td_host_job *job)
{
    struct td_host_slot *slot = job->slot;
    struct td_error ignored;
    slot->job = NULL;
    slot->n = 0;
    if (!td_session_adopt(slot->session, job->tokens, job->request.n_tokens, &ignored))
        slot->n = td_session_len(slot->session);
    free(slot->tokens);
    slot->tokens = job->tokens;
    job->tokens = NULL;
    slot->used = ++host->n_uses;
    job->slot = NULL;
    job->session = NULL;
}

// Forgets requests that are over. Engine thread; mutex held.
static void release_over(struct td_host *host)
{
    struct td_host_job **at = &host->jobs;
    while (*at) {
        struct td_host_job *job = *at;
        if (job->state != TD_HOST_JOB_OVER) {
            at = &job->next;
            continue;
        }
        if (job->sending) {
            count_sent(job, host);
            td_sending_end(job->sending);
        }
        if (job->slot)
            give_slot_back(host, job);
        else
            td_session_close(job->session); // a canary's
        if (job->is_error_due && job->peer)
            td_host_say_error(job->peer, job->id, job->reason, job->text);
        *at = job->next;
        free_job(job);
    }
}

// Ends leases that are over; returns when the next one is, 0: none.
static uint64_t expire(struct td_host *host)
{
    const uint64_t now_ns = td_clock_ns();
    uint64_t next_ns = 0;
    for (struct td_host_job *job = host->jobs; job; job = job->next) {
        if (job->state == TD_HOST_JOB_OVER || !job->lease_end_ns) continue;
        if (job->lease_end_ns <= now_ns)
            td_host_end_job(job, TD_WIRE_E_GONE, "nobody came back for it in time");
        else if (!next_ns || job->lease_end_ns < next_ns)
            next_ns = job->lease_end_ns;
    }
    return next_ns;
}

// ---- slots ------------------------------------------------------------------------------------

static uint32_t n_alike(const struct td_host_slot *slot, const struct td_host_job *job)
{
    const uint32_t n = td_min_u32(slot->n, job->request.n_tokens);
    uint32_t i = 0;
    while (i < n && slot->tokens[i] == job->tokens[i]) i++;
    return i;
}

// The idle slot that saves most; a short common beginning is no reason to overwrite a long
// conversation while another slot is older.
static struct td_host_slot *choose_slot(struct td_host *host, const struct td_host_job *job)
{
    struct td_host_slot *best = NULL, *oldest = NULL;
    uint32_t n_best = 0;
    for (uint32_t i = 0; i < host->cfg.n_slots; i++) {
        struct td_host_slot *slot = &host->slots[i];
        if (slot->job) continue;
        if (!oldest || slot->used < oldest->used) oldest = slot;
        const uint32_t n = n_alike(slot, job);
        if (n > n_best && n >= slot->n / 4) {
            best = slot;
            n_best = n;
        }
    }
    return best ? best : oldest;
}

// Forgets the slot's KV.
static int reset_slot(struct td_host *host, struct td_host_slot *slot, struct td_error *err)
{
    td_session_close(slot->session);
    slot->session = NULL;
    slot->n = 0;
    return td_session_open(&slot->session, host->cfg.engine, host->cfg.n_ctx, err);
}

// The KV cache is full: what is kept for later goes first, then who has gone, then who came last.
static void make_room(struct td_host *host)
{
    struct td_host_slot *idle = NULL;
    for (uint32_t i = 0; i < host->cfg.n_slots; i++) {
        struct td_host_slot *slot = &host->slots[i];
        if (!slot->job && slot->n > 0 && (!idle || slot->used < idle->used)) idle = slot;
    }
    struct td_error ignored;
    if (idle && reset_slot(host, idle, &ignored)) return; // it opens when it is needed
    if (idle) return;
    struct td_host_job *left = NULL, *last = NULL;
    for (struct td_host_job *job = host->jobs; job; job = job->next) {
        if (job->state == TD_HOST_JOB_OVER || !job->session) continue;
        if (job->lease_end_ns && (!left || job->lease_end_ns < left->lease_end_ns)) left = job;
        if (job->state == TD_HOST_JOB_RUNNING) last = job;
    }
    if (left)
        td_host_end_job(left, TD_WIRE_E_GONE, "its memory was needed");
    else if (last)
        td_host_end_job(last, TD_WIRE_E_BUDGET, "no memory for its KV");
}

// ---- the beginning ----------------------------------------------------------------------------

// What will travel, if every checkpoint comes as early as it may.
static uint64_t kv_bytes_of(const struct td_host *host, const struct td_host_job *job)
{
    struct td_ledger l;
    const struct td_wire_request *r = &job->request;
    struct td_error ignored;
    if (td_ledger_init(&l, host->spec, job->kv_type, r->have, r->n_tokens, &ignored)) return 0;
    uint64_t bytes = 0;
    const uint64_t n = l.end - l.have, n_full = n / r->checkpoint_tokens;
    const uint32_t n_rest = (uint32_t)(n % r->checkpoint_tokens);
    for (uint32_t il = 0; il < l.n_layers; il++) {
        const struct td_ledger_layer *layer = &l.layers[il];
        uint64_t n_pos = n;
        if (layer->window > 0)
            n_pos = n_full * td_min_u32(r->checkpoint_tokens, layer->window - 1) +
                    td_min_u32(n_rest, layer->window - 1);
        bytes += n_pos * layer->position_bytes;
    }
    return bytes;
}

static int begin_sending(struct td_host *host, struct td_host_job *job, struct td_error *err)
{
    struct td_sender *sender = job->peer ? job->peer->sender : NULL;
    const struct td_send_request r = {.id = job->id,
                                      .spec = host->spec,
                                      .kv = td_session_kv(job->session),
                                      .kv_type = job->kv_type,
                                      .own_type = host->cfg.kv_type,
                                      .n_tokens = job->request.n_tokens,
                                      .have = job->request.have,
                                      .checkpoint_tokens = job->request.checkpoint_tokens,
                                      .send_at_end = host->cfg.send_at_end,
                                      .away = &host->sender_cfg};
    const int code = td_sending_begin(&job->sending, sender, &r, err);
    if (!code && !sender) td_host_leave_job(job, false);
    return code;
}

// Gives the request its session and says ACCEPT. Engine thread; mutex held.
static int begin(struct td_host *host, struct td_host_job *job, struct td_error *err)
{
    int code = TD_OK;
    const bool is_canary = td_host_is_canary(job);
    if (is_canary) {
        code = td_session_open(&job->session, host->cfg.engine, job->request.n_tokens, err);
    } else {
        if (!job->slot->session) code = reset_slot(host, job->slot, err);
        if (!code) job->session = job->slot->session;
    }
    if (code) return code;
    const uint32_t n = job->request.n_tokens - !is_canary;
    code = td_session_want(job->session, job->tokens, n, NULL, 0, err);
    if (!code) code = begin_sending(host, job, err);
    if (code) return code;
    job->n_reused = job->n_computed = td_session_reused(job->session);
    job->kv_bytes = kv_bytes_of(host, job);
    job->begin_ns = td_clock_ns();
    td_host_say_accept(job);
    const struct td_host_event e = {.kind = TD_HOST_BEGAN,
                                    .peer = job->address,
                                    .text = "",
                                    .request = job->id,
                                    .n_tokens = job->request.n_tokens,
                                    .n_reused = job->n_reused};
    td_host_tell(host, &e);
    return TD_OK;
}

// The next request that can begin: a canary needs no slot.
static struct td_host_job *choose_job(struct td_host *host)
{
    struct td_host_job *next = NULL;
    for (struct td_host_job *job = host->jobs; job; job = job->next) {
        if (job->state != TD_HOST_JOB_WAITING) continue;
        if (td_host_is_canary(job)) return job;
        if (!next) next = job;
    }
    if (!next) return NULL;
    next->slot = choose_slot(host, next);
    if (!next->slot) return NULL;
    next->slot->job = next;
    return next;
}

// Begins what can begin. Engine thread; mutex held, given up while a kept prefix is queued.
static void begin_all(struct td_host *host)
{
    struct td_host_job *job;
    while (!host->is_stopping && (job = choose_job(host))) {
        job->state = TD_HOST_JOB_RUNNING;
        struct td_error err;
        const int code = begin(host, job, &err);
        if (code) {
            td_host_end_job(job, code == TD_ENOMEM ? TD_WIRE_E_BUDGET : TD_WIRE_E_TROUBLE, err.msg);
            release_over(host);
            continue;
        }
        pthread_mutex_unlock(&host->mutex);
        td_sending_reused(job->sending, job->n_reused);
        pthread_mutex_lock(&host->mutex);
        release_over(host);
    }
}

// ---- computing --------------------------------------------------------------------------------

// Which request a span is of. On the engine's thread, which alone writes what is read here.
static void layer_done(void *ctx, const struct td_kv_span *span)
{
    struct td_host *host = ctx;
    for (uint32_t i = 0; i < host->n_running; i++) {
        struct td_host_job *job = host->running[i];
        if (td_session_kv(job->session) == span->kv) td_sending_layer_done(job->sending, span);
    }
}

static uint64_t stall_ns(const struct td_host_job *job)
{
    struct td_send_report report;
    td_sending_report(job->sending, &report);
    return report.stall_ns;
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
    const struct td_send_account account = {.far_ns = job->far_ns,
                                            .n_computed = job->request.n_tokens - 1 - job->n_reused,
                                            .n_reused = job->n_reused};
    pthread_mutex_unlock(&host->mutex);
    if (td_host_is_canary(job))
        td_sending_logits(job->sending, td_session_logits(job->session), host->spec->n_vocab);
    td_sending_finish(job->sending, &account);
    pthread_mutex_lock(&host->mutex);
}

// After a step that took ns: what it did for each request. Mutex held; given up meanwhile.
static void account(struct td_host *host, uint64_t ns)
{
    const struct td_backend *b = host->cfg.backend;
    uint32_t n_served = 0, n_rows = 0, depth = 0;
    uint64_t stalled_ns = 0;
    for (uint32_t i = 0; i < host->n_running; i++) {
        struct td_host_job *job = host->running[i];
        const uint32_t n = b->kv_len(td_session_kv(job->session));
        job->run_ns = 0;
        stalled_ns += stall_ns(job) - job->stall_ns;
        if (n <= job->n_computed) continue;
        job->far_ns += ns;
        host->count.n_tokens += n - job->n_computed;
        n_served++;
        n_rows = n - job->n_computed;
        depth = job->n_computed;
        job->n_computed = n;
    }
    if (n_served == 1 && stalled_ns < ns) saw_speed(host, depth, n_rows, ns - stalled_ns);
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
        host->running[i]->stall_ns = stall_ns(host->running[i]);
    }
    pthread_mutex_unlock(&host->mutex);
    const int code = td_engine_step(host->cfg.engine, NULL, err);
    const uint64_t ns = td_clock_ns() - begin_ns;
    pthread_mutex_lock(&host->mutex);
    if (code == TD_ENOMEM) {
        for (uint32_t i = 0; i < host->n_running; i++) host->running[i]->run_ns = 0;
        make_room(host);
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

static uint32_t collect_running(struct td_host *host)
{
    host->n_running = 0;
    for (struct td_host_job *job = host->jobs; job; job = job->next)
        if (job->state == TD_HOST_JOB_RUNNING) host->running[host->n_running++] = job;
    return host->n_running;
}

int td_host_serve(struct td_host *host, struct td_error *err)
{
    int code = TD_OK;
    td_engine_watch(host->cfg.engine, host, layer_done);
    pthread_mutex_lock(&host->mutex);
    while (!host->is_stopping && !code) {
        (void)expire(host);
        release_over(host);
        begin_all(host);
        if (collect_running(host) > 0) {
            code = step(host, err);
            continue;
        }
        const uint64_t lease_ns = expire(host);
        if (!host->is_stopping && !has_over(host)) (void)td_host_wait(host, lease_ns);
    }
    for (struct td_host_job *job = host->jobs; job; job = job->next)
        td_host_end_job(job, code ? TD_WIRE_E_TROUBLE : TD_WIRE_E_SHUTDOWN,
                        code ? "the engine failed" : "the prefill side ends");
    release_over(host);
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
    pthread_condattr_t monotonic; // a clock that is set must not end leases
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&host->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    host->slots = calloc(cfg->n_slots, sizeof(*host->slots));
    host->running = calloc(cfg->n_slots + TD_HOST_MAX_PEERS, sizeof(struct td_host_job *));
    host->filler = calloc(1, TD_WIRE_MAX_DATA);
    if (!host->slots || !host->running || !host->filler)
        code = td_fail(err, TD_ENOMEM, "no memory for the prefill side");
    for (uint32_t i = 0; !code && i < cfg->n_slots; i++)
        code = td_session_open(&host->slots[i].session, cfg->engine, cfg->n_ctx, err);
    if (!code && pthread_create(&host->accept_thread, NULL, td_host_acceptor, host) != 0)
        code = td_fail(err, TD_ENOMEM, "no thread for the prefill side");
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
    release_over(host); // the acceptor has ended all
    pthread_mutex_unlock(&host->mutex);
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
