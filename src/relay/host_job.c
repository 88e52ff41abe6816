// SPDX-License-Identifier: MIT
// A request's life on the prefill side: which slot it gets, what its peer is told, what of it is
// kept in the end.
#include "relay/host_impl.h"

#include "base/clock.h"
#include "base/num.h"

#include <openssl/crypto.h>
#include <stdlib.h>

bool td_host_is_canary(const struct td_host_job *job)
{
    return job->request.flags & TD_WIRE_CANARY;
}

// ---- the end of a request ---------------------------------------------------------------------

uint64_t td_host_far_ns(const struct td_host_job *job)
{
    return job->far_ns + (job->run_ns ? td_clock_ns() - job->run_ns : 0);
}

static struct td_host_event event_of(const struct td_host_job *job, enum td_host_event_kind kind)
{
    struct td_host_event e = {.kind = kind,
                              .peer = job->address,
                              .text = "",
                              .request = job->id,
                              .n_tokens = job->request.n_tokens,
                              .n_reused = job->n_reused,
                              .seconds = (double)td_host_far_ns(job) / 1e9};
    if (!job->sending) return e;
    struct td_send_report report;
    td_sending_report(job->sending, &report);
    e.bytes = report.sent_bytes;
    e.stall_seconds = (double)report.stall_ns / 1e9;
    return e;
}

static void count_sent(struct td_host_job *job, struct td_host *host)
{
    struct td_send_report report;
    td_sending_report(job->sending, &report);
    host->count.bytes += report.sent_bytes;
    host->count.stall_ns += report.stall_ns;
}

void td_host_done_job(struct td_host_job *job)
{
    const struct td_host_event e = event_of(job, TD_HOST_DONE);
    job->state = TD_HOST_JOB_OVER;
    job->host->count.n_done++;
    td_host_tell(job->host, &e);
    pthread_cond_broadcast(&job->host->changed);
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
    struct td_host_event e = event_of(job, TD_HOST_ENDED);
    e.text = job->text;
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
    // A slot whose session could not be opened holds nothing.
    if (slot->session &&
        !td_session_adopt(slot->session, job->tokens, job->request.n_tokens, &ignored))
        slot->n = td_session_len(slot->session);
    free(slot->tokens);
    slot->tokens = job->tokens;
    job->tokens = NULL;
    slot->used = ++host->n_uses;
    job->slot = NULL;
    job->session = NULL;
}

void td_host_release_over(struct td_host *host)
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

bool td_host_is_held(struct td_host_job *job)
{
    struct td_send_report r = {0};
    if (job->sending) td_sending_report(job->sending, &r);
    const bool is_due = job->state == TD_HOST_JOB_TOKENS ||
                        (job->sending && !r.is_away && (r.n_waiting > 0 || r.is_final_sent));
    const uint64_t mark = job->n_got + r.sent_bytes + r.is_final_sent, now_ns = td_clock_ns();
    if (!is_due || !job->owed_ns || mark != job->owed_mark) {
        job->owed_ns = is_due ? now_ns : 0;
        job->owed_mark = mark;
        return false;
    }
    return now_ns - job->owed_ns > (uint64_t)job->host->cfg.lease_ms * 1000000;
}

uint64_t td_host_expire(struct td_host *host)
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

void td_host_make_room(struct td_host *host)
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
                                      .never_waits = true,
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
    const struct td_host_event e = event_of(job, TD_HOST_BEGAN);
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

void td_host_begin_all(struct td_host *host)
{
    struct td_host_job *job;
    while (!host->is_stopping && (job = choose_job(host))) {
        job->state = TD_HOST_JOB_RUNNING;
        struct td_error err;
        const int code = begin(host, job, &err);
        if (code) {
            td_host_end_job(job, code == TD_ENOMEM ? TD_WIRE_E_BUDGET : TD_WIRE_E_TROUBLE, err.msg);
            td_host_release_over(host);
            continue;
        }
        pthread_mutex_unlock(&host->mutex);
        struct td_timeline held;
        td_session_timeline(job->session, &held);
        td_sending_reused(job->sending, job->n_reused, &held);
        pthread_mutex_lock(&host->mutex);
        td_host_release_over(host);
    }
}
