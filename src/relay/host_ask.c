// SPDX-License-Identifier: MIT
// What a peer asks on its control connection. Whatever it sends costs a bounded amount: a request
// is counted before its tokens are given memory, and the memory is what this side's context takes.
#include "relay/host_impl.h"

#include "base/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct td_host_job *find(struct td_host_peer *peer, uint64_t id)
{
    for (struct td_host_job *job = peer->host->jobs; job; job = job->next)
        if (job->peer == peer && job->id == id && job->state != TD_HOST_JOB_OVER) return job;
    return NULL;
}

static int out_of_order(const struct td_wire_msg *msg, struct td_error *err)
{
    return td_fail(err, TD_EFORMAT, "%s of request %llu may not come now",
                   td_wire_type_name(msg->h.type), (unsigned long long)msg->h.request);
}

// A connection that has been claimed will carry soon. Mutex held; given up meanwhile.
static bool has_sender(struct td_host_peer *peer)
{
    const uint64_t until_ns = td_clock_ns() + (uint64_t)TD_HOST_WAIT_MS * 1000000;
    while (!peer->sender && peer->data_conn && !peer->is_leaving &&
           td_host_wait(peer->host, until_ns)) {
    }
    return peer->sender != NULL;
}

// ---- a request --------------------------------------------------------------------------------

static bool has_kv_type(const struct td_host *host, const struct td_wire_msg *msg)
{
    const enum td_type type = (enum td_type)msg->h.kv_type;
    const struct td_wire_request *r = &msg->u.request;
    struct td_ledger unused; // knows what a layer's KV can travel as
    return (type == host->cfg.kv_type || type == TD_Q8_0) &&
           !td_ledger_init(&unused, host->spec, type, r->have, r->n_tokens, NULL);
}

// Whether there is room for one more; the oldest request that nobody carries gives way.
static bool has_room(struct td_host *host, bool is_canary)
{
    uint32_t n = 0;
    struct td_host_job *oldest = NULL;
    for (struct td_host_job *job = host->jobs; job; job = job->next) {
        if (job->state == TD_HOST_JOB_OVER || td_host_is_canary(job)) continue;
        n++;
        if (job->lease_end_ns && (!oldest || job->lease_end_ns < oldest->lease_end_ns))
            oldest = job;
    }
    if (is_canary || n < host->cfg.n_slots) return true;
    if (!oldest) return false;
    td_host_end_job(oldest, TD_WIRE_E_GONE, "its slot was given to another request");
    return true;
}

// Why the request cannot be taken, and the sentence; 0: it can.
static enum td_wire_reason why_not(struct td_host_peer *peer, const struct td_wire_msg *msg,
                                   char text[160])
{
    struct td_host *host = peer->host;
    const struct td_wire_request *r = &msg->u.request;
    const bool is_canary = r->flags & TD_WIRE_CANARY;
    if (host->is_stopping) {
        (void)snprintf(text, 160, "the prefill side ends");
        return TD_WIRE_E_SHUTDOWN;
    }
    if (!has_kv_type(host, msg)) {
        (void)snprintf(text, 160, "KV of type %u cannot be sent", msg->h.kv_type);
        return TD_WIRE_E_KV_TYPE;
    }
    if (!is_canary && r->n_tokens > host->cfg.n_ctx) {
        (void)snprintf(text, 160, "%u tokens, at most %u fit", r->n_tokens, host->cfg.n_ctx);
        return TD_WIRE_E_BUDGET;
    }
    if (!peer->sender) {
        (void)snprintf(text, 160, "there is no data connection");
        return TD_WIRE_E_ORDER;
    }
    uint32_t n_own = 0, n_canaries = 0;
    for (const struct td_host_job *job = host->jobs; job; job = job->next) {
        if (job->peer != peer) continue;
        n_own++; // also one that is over: its tokens are there until the engine looks
        n_canaries += td_host_is_canary(job) && job->state != TD_HOST_JOB_OVER;
    }
    if (n_own >= TD_HOST_MAX_JOBS || (is_canary && n_canaries > 0) || !has_room(host, is_canary)) {
        (void)snprintf(text, 160, "every slot is taken");
        return TD_WIRE_E_BUSY;
    }
    return 0;
}

static void refuse(struct td_host_peer *peer, uint64_t id, enum td_wire_reason reason,
                   const char *text)
{
    struct td_host *host = peer->host;
    td_host_say_error(peer, id, reason, text);
    host->count.n_refused++;
    const struct td_host_event e = {
        .kind = TD_HOST_REFUSED, .peer = peer->address, .text = text, .request = id};
    td_host_tell(host, &e);
}

static int take_request(struct td_host_peer *peer, const struct td_wire_msg *msg,
                        struct td_error *err)
{
    struct td_host *host = peer->host;
    if (msg->h.request <= peer->last_request) return out_of_order(msg, err);
    peer->last_request = msg->h.request;
    (void)has_sender(peer);
    char text[160];
    const enum td_wire_reason reason = why_not(peer, msg, text);
    if (reason) {
        refuse(peer, msg->h.request, reason, text);
        return TD_OK;
    }
    struct td_host_job *job = calloc(1, sizeof(*job));
    int32_t *tokens = calloc(msg->u.request.n_tokens, sizeof(*tokens));
    if (!job || !tokens) {
        free(job);
        free(tokens);
        refuse(peer, msg->h.request, TD_WIRE_E_BUDGET, "no memory for the tokens");
        return TD_OK;
    }
    job->host = host;
    job->peer = peer;
    memcpy(job->address, peer->address, sizeof(job->address));
    memcpy(job->token, peer->token, sizeof(job->token));
    job->id = msg->h.request;
    job->kv_type = (enum td_type)msg->h.kv_type;
    job->request = msg->u.request;
    job->tokens = tokens;
    struct td_host_job **at = &host->jobs;
    while (*at) at = &(*at)->next;
    *at = job;
    return TD_OK;
}

static int take_tokens(struct td_host_peer *peer, const struct td_wire_msg *msg,
                       struct td_error *err)
{
    struct td_host *host = peer->host;
    struct td_host_job *job = find(peer, msg->h.request);
    // Of a request that was refused they come all the same.
    if (!job) return msg->h.request <= peer->last_request ? TD_OK : out_of_order(msg, err);
    const struct td_wire_request *r = &job->request;
    if (job->state != TD_HOST_JOB_TOKENS || msg->h.pos0 != job->n_got ||
        msg->h.n > r->n_tokens - job->n_got)
        return out_of_order(msg, err);
    for (uint32_t i = 0; i < msg->h.n; i++) {
        const int32_t token = td_wire_token(msg, i);
        if ((uint32_t)token >= host->spec->n_vocab) {
            td_host_end_job(job, TD_WIRE_E_FORMAT, "a token that is not in the vocabulary");
            return TD_OK;
        }
        job->tokens[job->n_got++] = token;
    }
    if (job->n_got < r->n_tokens) return TD_OK;
    const size_t have_bytes = r->have * sizeof(int32_t), bytes = r->n_tokens * sizeof(int32_t);
    if (td_wire_sum(job->tokens, have_bytes) != r->have_sum ||
        td_wire_sum(job->tokens, bytes) != r->tokens_sum) {
        td_host_end_job(job, TD_WIRE_E_FORMAT, "the tokens are not those that were announced");
        return TD_OK;
    }
    job->state = TD_HOST_JOB_WAITING;
    pthread_cond_broadcast(&host->changed);
    return TD_OK;
}

static void take_committed(struct td_host_peer *peer, const struct td_wire_msg *msg)
{
    struct td_host_job *job = find(peer, msg->h.request);
    if (!job || !job->sending) return;
    td_sending_committed(job->sending, msg->u.n_committed);
    struct td_send_report report;
    td_sending_report(job->sending, &report);
    // FINAL goes out when the last layer is done; the step may not be yet.
    if (report.is_finished && msg->u.n_committed >= job->request.n_tokens - 1)
        td_host_done_job(job);
}

// ---- after a break ----------------------------------------------------------------------------

// The request of that session and number, once nothing carries it any more. Mutex held; given up
// meanwhile. NULL: there is none.
static struct td_host_job *find_left(struct td_host_peer *peer, const uint8_t token[32],
                                     uint64_t id)
{
    struct td_host *host = peer->host;
    const uint64_t until_ns = td_clock_ns() + (uint64_t)TD_HOST_WAIT_MS * 1000000;
    for (;;) {
        struct td_host_job *job = NULL;
        for (struct td_host_job *at = host->jobs; at; at = at->next)
            if (at->id == id && at->state != TD_HOST_JOB_OVER &&
                td_peer_same_token(at->token, token))
                job = at;
        if (!job || (job->lease_end_ns && (!job->peer || job->peer == peer))) return job;
        if (job->peer == peer) return NULL; // it is carried by this very session
        // The connections before have not been noticed to be dead.
        td_link_cancel(job->peer->control_conn->link);
        if (peer->is_leaving || !td_host_wait(host, until_ns)) return NULL;
    }
}

// Goes on with what a session before has asked.
static int resume(struct td_host_peer *peer, struct td_host_job *job, const struct td_wire_msg *msg,
                  struct td_error *err)
{
    const struct td_wire_resume *r = &msg->u.resume;
    if (!job->sending)
        return r->n_spans == 0 ? TD_OK : td_fail(err, TD_EFORMAT, "nothing was sent yet");
    uint32_t marks[TD_WIRE_MAX_LAYERS];
    for (uint32_t i = 0; i < r->n_layers; i++) marks[i] = td_wire_mark(msg, i);
    return td_sending_resume(job->sending, peer->sender, marks, r, err);
}

static int take_resume(struct td_host_peer *peer, const struct td_wire_msg *msg)
{
    struct td_host *host = peer->host;
    const uint64_t id = msg->h.request;
    if (find(peer, id) && !find(peer, id)->lease_end_ns) {
        refuse(peer, id, TD_WIRE_E_ORDER, "the request has not been interrupted");
        return TD_OK;
    }
    if (!has_sender(peer)) {
        refuse(peer, id, TD_WIRE_E_ORDER, "there is no data connection");
        return TD_OK;
    }
    struct td_host_job *job = find_left(peer, msg->u.resume.token, id);
    if (!job || !peer->sender) {
        refuse(peer, id, TD_WIRE_E_GONE, "nothing is left of this request");
        return TD_OK;
    }
    struct td_error why;
    if (resume(peer, job, msg, &why)) {
        job->peer = NULL; // the answer is this session's
        td_host_end_job(job, TD_WIRE_E_GONE, why.msg);
        refuse(peer, id, TD_WIRE_E_GONE, why.msg);
        return TD_OK;
    }
    job->peer = peer;
    job->lease_end_ns = 0;
    if (id > peer->last_request) peer->last_request = id;
    if (job->state > TD_HOST_JOB_WAITING) td_host_say_accept(job);
    host->count.n_resumed++;
    const struct td_host_event e = {.kind = TD_HOST_RESUMED,
                                    .peer = peer->address,
                                    .text = "",
                                    .request = id,
                                    .n_tokens = job->request.n_tokens,
                                    .n_reused = job->n_reused};
    td_host_tell(host, &e);
    pthread_cond_broadcast(&host->changed);
    return TD_OK;
}

// ---- the rest ---------------------------------------------------------------------------------

static void take_probe(struct td_host_peer *peer, const struct td_wire_msg *msg)
{
    // Who has read the last byte of a probe may be quicker than who wrote it.
    const uint64_t until_ns = td_clock_ns() + (uint64_t)TD_HOST_WAIT_MS * 1000000;
    while (peer->probe.request && !peer->is_leaving && td_host_wait(peer->host, until_ns)) {
    }
    bool is_idle = has_sender(peer) && !peer->probe.request;
    for (const struct td_host_job *job = peer->host->jobs; job; job = job->next)
        is_idle &= job->peer != peer || job->state == TD_HOST_JOB_OVER;
    if (!is_idle) {
        peer->refused_probe = msg->h.request;
        pthread_cond_broadcast(&peer->host->changed);
        refuse(peer, msg->h.request, TD_WIRE_E_ORDER, "a probe needs an idle data connection");
        return;
    }
    peer->probe = (struct td_host_probe){.request = msg->h.request,
                                         .is_towards_asker = msg->u.probe.towards_asker,
                                         .size_bytes = msg->u.probe.size_bytes};
    pthread_cond_broadcast(&peer->host->changed);
}

static void take_cancel(struct td_host_peer *peer, uint64_t id)
{
    struct td_host_job *job = find(peer, id);
    if (job) td_host_end_job(job, TD_WIRE_E_CANCELED, "cancelled");
}

static void say_pong(struct td_host_peer *peer, uint64_t t_ns)
{
    const struct td_wire_msg msg = {.h = {.type = TD_WIRE_PONG}, .u.t_ns = t_ns};
    td_host_say(peer, &msg);
}

static int take_error(const struct td_host_peer *peer, const struct td_wire_msg *msg,
                      struct td_error *err)
{
    char text[sizeof(msg->u.error.msg)];
    td_peer_text(msg->u.error.msg, text, sizeof(text));
    return td_fail(err, TD_ECANCEL, "%s says: %s", peer->address, text);
}

int td_host_take(struct td_host_peer *peer, const struct td_wire_msg *msg, bool *is_bye,
                 struct td_error *err)
{
    struct td_host *host = peer->host;
    int code = TD_OK;
    pthread_mutex_lock(&host->mutex);
    switch (msg->h.type) {
    case TD_WIRE_REQUEST: code = take_request(peer, msg, err); break;
    case TD_WIRE_TOKENS: code = take_tokens(peer, msg, err); break;
    case TD_WIRE_COMMITTED: take_committed(peer, msg); break;
    case TD_WIRE_CANCEL: take_cancel(peer, msg->h.request); break;
    case TD_WIRE_RESUME: code = take_resume(peer, msg); break;
    case TD_WIRE_PROBE: take_probe(peer, msg); break;
    case TD_WIRE_PING: say_pong(peer, msg->u.t_ns); break;
    case TD_WIRE_PONG:
    case TD_WIRE_PROBED: // who asks for a measurement keeps it
    case TD_WIRE_RATES: break;
    case TD_WIRE_BYE: *is_bye = true; break;
    case TD_WIRE_ERROR:
        if (msg->h.request)
            take_cancel(peer, msg->h.request);
        else
            code = take_error(peer, msg, err);
        break;
    default: code = out_of_order(msg, err); break;
    }
    pthread_mutex_unlock(&host->mutex);
    return code;
}
