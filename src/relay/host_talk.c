// SPDX-License-Identifier: MIT
// What a peer is told on its control connection, by a thread of its own: neither the engine's
// thread nor the one that reads waits for a peer that does not read. It is also the heartbeat.
#include "relay/host_impl.h"

#include "base/clock.h"
#include "relay/speeds.h"

#include <string.h>

void td_host_say(struct td_host_peer *peer, const struct td_wire_msg *msg)
{
    if (peer->is_leaving) return;
    if (peer->n_say == TD_HOST_MAX_SAY) {
        td_link_cancel(peer->control_conn->link);
        return;
    }
    struct td_wire_msg *at = &peer->say[(peer->first_say + peer->n_say++) % TD_HOST_MAX_SAY];
    *at = *msg;
    at->h.version = msg->h.type == TD_WIRE_ERROR ? 0 : peer->control->version;
    pthread_cond_broadcast(&peer->host->changed);
}

void td_host_say_error(struct td_host_peer *peer, uint64_t request, enum td_wire_reason reason,
                       const char *text)
{
    struct td_wire_msg msg = {.h = {.type = TD_WIRE_ERROR, .request = request},
                              .u.error = {.reason = (uint16_t)reason}};
    td_peer_text(text, msg.u.error.msg, sizeof(msg.u.error.msg));
    td_host_say(peer, &msg);
}

void td_host_say_accept(struct td_host_job *job)
{
    const struct td_wire_msg msg = {
        .h = {.type = TD_WIRE_ACCEPT, .request = job->id},
        .u.accept = {.n_reused = job->n_reused, .kv_bytes = job->kv_bytes}};
    if (job->peer) td_host_say(job->peer, &msg);
}

static struct td_wire_msg progress_of(const struct td_host_job *job)
{
    struct td_wire_progress p = {.n_computed = job->n_computed, .far_ns = td_host_far_ns(job)};
    if (job->sending) {
        struct td_send_report report;
        td_sending_report(job->sending, &report);
        p.n_sent = report.n_sent;
        p.sent_bytes = report.sent_bytes;
        p.stall_ns = report.stall_ns;
    }
    return (struct td_wire_msg){.h = {.type = TD_WIRE_PROGRESS, .request = job->id},
                                .u.progress = p};
}

// A request whose KV cannot be sent any more would be waited for as long as PROGRESS comes: no
// memory to pin or to convert it. A connection that broke is another matter.
static void end_if_lost(struct td_host_job *job)
{
    struct td_send_report report = {.code = TD_OK};
    if (job->sending) td_sending_report(job->sending, &report);
    if (report.code && !report.is_away)
        td_host_end_job(job, report.code == TD_ENOMEM ? TD_WIRE_E_BUDGET : TD_WIRE_E_TROUBLE,
                        report.err.msg);
}

// PROGRESS of each request, or PING.
static void beat(struct td_host_peer *peer)
{
    uint32_t n = 0;
    for (struct td_host_job *job = peer->host->jobs; job; job = job->next) {
        if (job->peer != peer || job->state == TD_HOST_JOB_OVER) continue;
        end_if_lost(job);
        if (job->state != TD_HOST_JOB_OVER && td_host_is_held(job))
            td_host_end_job(job, TD_WIRE_E_TIMEOUT, "nothing of it was taken for too long");
        if (job->state == TD_HOST_JOB_OVER) continue;
        const struct td_wire_msg msg = progress_of(job);
        td_host_say(peer, &msg);
        n++;
    }
    const struct td_wire_msg ping = {.h = {.type = TD_WIRE_PING}, .u.t_ns = td_clock_ns()};
    if (n == 0) td_host_say(peer, &ping);
}

// Without the mutex; it is taken to read the rates.
static int write_rates(struct td_host_peer *peer, struct td_error *err)
{
    struct td_host *host = peer->host;
    pthread_mutex_lock(&host->mutex);
    const struct td_split_rate prefill = host->prefill;
    pthread_mutex_unlock(&host->mutex);
    uint8_t bytes[TD_SPEEDS_BYTES];
    struct td_wire_msg msg;
    td_speeds_put(&msg, bytes, peer->control->version, &prefill, &host->cfg.decode);
    return td_frames_write(peer->control, &msg, err);
}

// A frame of filler. Without the mutex; is_data_used keeps the connection.
static int write_filler(struct td_host *host, struct td_frames *data, uint64_t request,
                        uint32_t n_bytes, struct td_error *err)
{
    struct td_wire_header h = {.version = data->version, .type = TD_WIRE_BLAST, .request = request};
    uint8_t header[TD_WIRE_HEADER_BYTES];
    td_wire_seal(header, &h, host->filler, n_bytes);
    return td_frames_write_bulk(data, header, host->filler, n_bytes, err);
}

static void blast(struct td_host_peer *peer)
{
    struct td_host *host = peer->host;
    struct td_host_probe *p = &peer->probe;
    struct td_frames *data = peer->data; // the peer may be told of another one meanwhile, or none
    const uint64_t n_left = p->size_bytes - p->n_bytes;
    const uint32_t n = n_left < TD_WIRE_MAX_DATA ? (uint32_t)n_left : TD_WIRE_MAX_DATA;
    const uint64_t request = p->request;
    peer->is_data_used = true;
    pthread_mutex_unlock(&host->mutex);
    struct td_error err;
    const int code = write_filler(host, data, request, n, &err);
    if (code) td_link_cancel(data->link); // its own thread hears of it
    pthread_mutex_lock(&host->mutex);
    peer->is_data_used = false;
    p->n_bytes += n;
    if (code || p->n_bytes == p->size_bytes) *p = (struct td_host_probe){0};
    pthread_cond_broadcast(&host->changed);
}

// Says the next thing there is to say, if any. Mutex held; given up meanwhile.
static bool say_one(struct td_host_peer *peer)
{
    struct td_host *host = peer->host;
    struct td_error err;
    int code = TD_OK;
    // How fast this end reads is known to whoever has an answer to anything after WELCOME.
    if (peer->n_say > 0 && !(peer->is_welcomed && peer->is_rates_due)) {
        peer->is_welcomed = true;
        const struct td_wire_msg msg = peer->say[peer->first_say];
        peer->first_say = (peer->first_say + 1) % TD_HOST_MAX_SAY;
        peer->n_say--;
        pthread_mutex_unlock(&host->mutex);
        code = td_frames_write(peer->control, &msg, &err);
        pthread_mutex_lock(&host->mutex);
    } else if (peer->is_rates_due) {
        peer->is_rates_due = false;
        pthread_mutex_unlock(&host->mutex);
        code = write_rates(peer, &err);
        pthread_mutex_lock(&host->mutex);
    } else if (peer->probe.request && peer->probe.is_towards_asker && peer->data) {
        blast(peer);
    } else {
        return false;
    }
    if (code) td_link_cancel(peer->control->link); // the thread that reads there ends the session
    if (code) peer->is_leaving = true;
    return true;
}

void *td_host_talker(void *ctx)
{
    struct td_host_peer *peer = ctx;
    struct td_host *host = peer->host;
    const uint64_t beat_ns = (uint64_t)host->cfg.progress_ms * 1000000;
    pthread_mutex_lock(&host->mutex);
    uint64_t next_ns = td_clock_ns() + beat_ns;
    while (!peer->is_leaving && !(host->is_stopping && peer->n_say == 0)) {
        if (td_clock_ns() >= next_ns && peer->n_say == 0) {
            next_ns = td_clock_ns() + beat_ns;
            beat(peer);
        }
        if (!say_one(peer)) (void)td_host_wait(host, next_ns);
    }
    const bool is_told = !peer->is_leaving;
    pthread_mutex_unlock(&host->mutex);
    if (is_told) {
        td_peer_refuse(peer->control, 0, TD_WIRE_E_SHUTDOWN, "the prefill side ends");
        td_link_cancel(peer->control->link);
    }
    return NULL;
}
