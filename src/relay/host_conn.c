// SPDX-License-Identifier: MIT
// Connections of the prefill side: each is read by a thread of its own, from the first frame, which
// says what it is, to the end. A control connection owns its session; a data connection joins one.
#include "relay/host_impl.h"

#include "base/clock.h"

#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_MS 10000u // for the first frame; who is here holds the key

static void tell(struct td_host *host, enum td_host_event_kind kind, const char *address,
                 const char *text)
{
    char printable[240];
    td_peer_text(text, printable, sizeof(printable));
    const struct td_host_event e = {.kind = kind, .peer = address, .text = printable};
    td_host_tell(host, &e);
}

static void refused(struct td_host_conn *conn, const char *text)
{
    pthread_mutex_lock(&conn->host->mutex);
    conn->host->count.n_refused++;
    tell(conn->host, TD_HOST_REFUSED, conn->address, text);
    pthread_mutex_unlock(&conn->host->mutex);
}

// ---- control ----------------------------------------------------------------------------------

// A peer that says nothing for so long is dead.
static uint32_t silent_ms(const struct td_host *host)
{
    const uint32_t ms = 20 * host->cfg.progress_ms; // progress_ms is an hour at most
    return ms < 10000 ? 10000 : ms;
}

static int read_control(struct td_host_peer *peer, bool *is_bye, struct td_error *err)
{
    struct td_frames *f = peer->control;
    *is_bye = false;
    while (!*is_bye) {
        struct td_wire_header h;
        struct td_wire_msg msg;
        bool is_there;
        const uint32_t wait_ms = silent_ms(peer->host);
        int code = td_frames_header(f, &h, wait_ms, &is_there, err);
        if (!code && !is_there)
            code = td_fail(err, TD_EIO, "it said nothing for %.0f seconds", wait_ms / 1000.0);
        if (!code) code = td_frames_payload(f, &h, &msg, err);
        if (!code) code = td_host_take(peer, &msg, is_bye, err);
        if (!code) continue;
        if (code == TD_EFORMAT) td_peer_refuse(f, 0, TD_WIRE_E_FORMAT, err->msg);
        return code;
    }
    return TD_OK;
}

// The first thing the talker says. Mutex held.
static void say_welcome(struct td_host_peer *peer)
{
    const struct td_host_config *cfg = &peer->host->cfg;
    struct td_wire_msg msg = {.h = {.type = TD_WIRE_WELCOME},
                              .u.welcome = {.lease_ms = cfg->lease_ms,
                                            .progress_ms = cfg->progress_ms,
                                            .n_slots = cfg->n_slots,
                                            .max_tokens = cfg->n_ctx,
                                            .max_kv_bytes = cfg->max_kv_bytes}};
    memcpy(msg.u.welcome.token, peer->token, sizeof(peer->token));
    td_host_say(peer, &msg);
}

// Greets, and makes the session known.
static int begin_session(struct td_host_peer *peer, const struct td_wire_header *hello,
                         struct td_error *err)
{
    struct td_host *host = peer->host;
    struct td_peer theirs;
    bool weights_differ;
    int code = td_peer_answer(peer->control, hello, host->cfg.peer, &theirs, &weights_differ, err);
    if (code) return code;
    if (RAND_bytes(peer->token, sizeof(peer->token)) != 1)
        return td_fail(err, TD_EIO, "no random numbers from the operating system");
    pthread_mutex_lock(&host->mutex);
    if (host->is_stopping)
        code = td_fail(err, TD_ECANCEL, "the prefill side ends");
    else if (host->n_peers == TD_HOST_MAX_PEERS)
        code = td_fail(err, TD_EFULL, "there are %d sessions already", TD_HOST_MAX_PEERS);
    else if (pthread_create(&peer->talker, NULL, td_host_talker, peer) != 0)
        code = td_fail(err, TD_ENOMEM, "no thread for a session");
    if (!code) {
        peer->next = host->peers;
        host->peers = peer;
        host->n_peers++;
        say_welcome(peer); // not before: a data connection may follow it at once
        peer->is_rates_due = true;
        tell(host, TD_HOST_CAME, peer->address, theirs.hello.build);
    }
    pthread_mutex_unlock(&host->mutex);
    if (code) td_peer_refuse(peer->control, 0, TD_WIRE_E_BUSY, err->msg);
    return code;
}

// The session is no more: what of it can be resumed waits for that.
static void end_session(struct td_host_peer *peer, bool is_bye, const char *why)
{
    struct td_host *host = peer->host;
    pthread_mutex_lock(&host->mutex);
    peer->is_leaving = true;
    if (peer->data_conn) td_link_cancel(peer->data_conn->link);
    pthread_cond_broadcast(&host->changed);
    pthread_mutex_unlock(&host->mutex);
    td_link_cancel(peer->control->link); // the talker may be writing there
    pthread_join(peer->talker, NULL);
    pthread_mutex_lock(&host->mutex);
    while (peer->data_conn) (void)td_host_wait(host, 0);
    for (struct td_host_job *job = host->jobs; job; job = job->next) {
        if (job->peer != peer) continue;
        if (is_bye) td_host_end_job(job, 0, "the peer left");
        td_host_leave_job(job, true);
    }
    struct td_host_peer **at = &host->peers;
    while (*at != peer) at = &(*at)->next;
    *at = peer->next;
    host->n_peers--;
    tell(host, TD_HOST_LEFT, peer->address, why);
    pthread_cond_broadcast(&host->changed);
    pthread_mutex_unlock(&host->mutex);
}

static void run_control(struct td_host_conn *conn, struct td_frames *frames,
                        const struct td_wire_header *hello)
{
    struct td_error err;
    struct td_host_peer *peer = calloc(1, sizeof(*peer));
    if (!peer) return;
    peer->host = conn->host;
    peer->control_conn = conn;
    peer->control = frames;
    memcpy(peer->address, conn->address, sizeof(peer->address));
    int code = begin_session(peer, hello, &err);
    if (code) {
        refused(conn, err.msg);
    } else {
        bool is_bye;
        code = read_control(peer, &is_bye, &err);
        end_session(peer, !code, code ? err.msg : "it said goodbye");
    }
    OPENSSL_cleanse(peer, sizeof(*peer));
    free(peer);
}

// ---- data -------------------------------------------------------------------------------------

// Whether this filler is wanted. What announces it comes on the other connection, perhaps later.
// Mutex held; given up meanwhile.
static bool is_announced(struct td_host_peer *peer, const struct td_wire_header *h)
{
    const struct td_host_probe *p = &peer->probe;
    const uint64_t until_ns = td_clock_ns() + (uint64_t)TD_HOST_WAIT_MS * 1000000;
    while (p->request != h->request && peer->refused_probe != h->request && !peer->is_leaving &&
           td_host_wait(peer->host, until_ns)) {
    }
    return p->request == h->request && !p->is_towards_asker &&
           h->size_bytes <= p->size_bytes - p->n_bytes;
}

// Takes a frame of filler.
static int take_blast(struct td_host_peer *peer, struct td_frames *f,
                      const struct td_wire_header *h, struct td_error *err)
{
    struct td_host *host = peer->host;
    struct td_host_probe *p = &peer->probe;
    pthread_mutex_lock(&host->mutex);
    const bool is_wanted = is_announced(peer, h);
    const bool is_refused = peer->refused_probe == h->request;
    if (is_wanted && p->n_bytes == 0) p->begin_ns = td_clock_ns();
    pthread_mutex_unlock(&host->mutex);
    if (!is_wanted && !is_refused)
        return td_fail(err, TD_EFORMAT, "filler that no PROBE announced");
    struct td_wire_msg msg;
    const int code = td_frames_payload(f, h, &msg, err);
    if (code || !is_wanted) return code;
    pthread_mutex_lock(&host->mutex);
    p->n_bytes += h->size_bytes;
    if (p->n_bytes == p->size_bytes) {
        msg = (struct td_wire_msg){
            .h = {.type = TD_WIRE_PROBED, .request = h->request},
            .u.probed = {.size_bytes = p->size_bytes, .elapsed_ns = td_clock_ns() - p->begin_ns}};
        *p = (struct td_host_probe){0};
        td_host_say(peer, &msg);
    }
    pthread_mutex_unlock(&host->mutex);
    return TD_OK;
}

static int read_data(struct td_host_peer *peer, struct td_frames *f, struct td_error *err)
{
    for (;;) {
        struct td_wire_header h;
        struct td_wire_msg msg;
        bool is_there;
        int code = td_frames_header(f, &h, 60000, &is_there, err);
        if (code) return code;
        if (!is_there) continue; // silence is the control connection's to judge
        if (h.type == TD_WIRE_BLAST)
            code = take_blast(peer, f, &h, err);
        else if (h.type == TD_WIRE_PONG)
            code = td_frames_payload(f, &h, &msg, err);
        else
            code = td_fail(err, TD_EFORMAT, "%s on the data connection", td_wire_type_name(h.type));
        if (code) return code;
    }
}

// Puts the connection in the session with this token, in the place of the one before, if any.
static struct td_host_peer *claim(struct td_host_conn *conn, const uint8_t token[32],
                                  uint8_t version)
{
    struct td_host *host = conn->host;
    const uint64_t until_ns = td_clock_ns() + (uint64_t)TD_HOST_WAIT_MS * 1000000;
    for (;;) {
        struct td_host_peer *found = NULL;
        for (struct td_host_peer *p = host->peers; p; p = p->next)
            if (td_peer_same_token(p->token, token)) found = p;
        if (!found || found->is_leaving || host->is_stopping || found->control->version != version)
            return NULL;
        if (!found->data_conn) {
            found->data_conn = conn;
            return found;
        }
        td_link_cancel(found->data_conn->link);
        if (!td_host_wait(host, until_ns)) return NULL;
    }
}

static void set_sender(struct td_host_peer *peer, struct td_frames *frames,
                       struct td_sender *sender)
{
    pthread_mutex_lock(&peer->host->mutex);
    peer->data = frames;
    peer->sender = sender;
    pthread_cond_broadcast(&peer->host->changed);
    pthread_mutex_unlock(&peer->host->mutex);
}

// What it carried is carried by nobody.
static void unjoin(struct td_host_conn *conn, struct td_host_peer *peer, struct td_sender *sender)
{
    struct td_host *host = conn->host;
    td_link_cancel(conn->link); // whoever is writing there stops
    set_sender(peer, NULL, NULL);
    td_sender_close(sender);
    pthread_mutex_lock(&host->mutex);
    while (peer->is_data_used) (void)td_host_wait(host, 0);
    for (struct td_host_job *job = host->jobs; job; job = job->next)
        if (job->peer == peer) td_host_leave_job(job, false);
    peer->probe = (struct td_host_probe){0};
    peer->data_conn = NULL;
    pthread_cond_broadcast(&host->changed);
    pthread_mutex_unlock(&host->mutex);
}

static void run_data(struct td_host_conn *conn, struct td_frames *frames,
                     const struct td_wire_header *join)
{
    struct td_host *host = conn->host;
    struct td_error err;
    struct td_wire_msg msg;
    struct td_sender *sender = NULL;
    int code = td_frames_payload(frames, join, &msg, &err);
    if (!code) code = td_sender_open(&sender, &host->sender_cfg, frames, &err);
    struct td_host_peer *peer = NULL;
    if (!code) {
        pthread_mutex_lock(&host->mutex);
        peer = claim(conn, msg.u.join_token, frames->version);
        pthread_mutex_unlock(&host->mutex);
    }
    if (!peer) {
        if (!code) td_peer_refuse(frames, 0, TD_WIRE_E_TOKEN, "no session has this token");
        refused(conn, code ? err.msg : "it joined with a token of no session");
        td_sender_close(sender);
        return;
    }
    msg = (struct td_wire_msg){.h = {.type = TD_WIRE_JOINED, .version = frames->version}};
    code = td_frames_write(frames, &msg, &err);
    if (!code) {
        set_sender(peer, frames, sender);
        code = read_data(peer, frames, &err);
    }
    if (code == TD_EFORMAT) {
        td_peer_refuse(frames, 0, TD_WIRE_E_FORMAT, err.msg);
        refused(conn, err.msg);
    }
    unjoin(conn, peer, sender);
}

// ---- all --------------------------------------------------------------------------------------

static void *conn_main(void *ctx)
{
    struct td_host_conn *conn = ctx;
    struct td_host *host = conn->host;
    struct td_frames frames;
    struct td_wire_header h;
    struct td_error err;
    const int code = td_frames_first(&frames, conn->link, FIRST_MS, &h, &err);
    if (code)
        refused(conn, err.msg);
    else if (h.type == TD_WIRE_JOIN)
        run_data(conn, &frames, &h);
    else
        run_control(conn, &frames, &h);
    if (!code) td_frames_free(&frames);
    pthread_mutex_lock(&host->mutex);
    struct td_link *link = conn->link;
    conn->link = NULL;
    pthread_mutex_unlock(&host->mutex);
    td_link_close(link);
    pthread_mutex_lock(&host->mutex);
    conn->is_done = true;
    pthread_cond_broadcast(&host->changed);
    pthread_mutex_unlock(&host->mutex);
    return NULL;
}

// Joins the threads of connections that have ended. Mutex not held.
static void reap(struct td_host *host)
{
    for (;;) {
        pthread_mutex_lock(&host->mutex);
        struct td_host_conn **at = &host->conns;
        while (*at && !(*at)->is_done) at = &(*at)->next;
        struct td_host_conn *conn = *at;
        if (conn) {
            *at = conn->next;
            host->n_conns--;
        }
        pthread_mutex_unlock(&host->mutex);
        if (!conn) return;
        pthread_join(conn->thread, NULL);
        free(conn);
    }
}

static void add(struct td_host *host, struct td_link *link)
{
    struct td_host_conn *conn = calloc(1, sizeof(*conn));
    pthread_mutex_lock(&host->mutex);
    bool is_added = false;
    if (conn && host->n_conns < TD_HOST_MAX_CONNS) {
        conn->host = host;
        conn->link = link;
        (void)snprintf(conn->address, sizeof(conn->address), "%s", td_link_peer(link));
        is_added = pthread_create(&conn->thread, NULL, conn_main, conn) == 0;
    }
    if (is_added) {
        conn->next = host->conns;
        host->conns = conn;
        host->n_conns++;
    } else {
        host->count.n_refused++;
        tell(host, TD_HOST_REFUSED, td_link_peer(link), "too many connections");
    }
    pthread_mutex_unlock(&host->mutex);
    if (is_added) return;
    free(conn);
    td_link_close(link);
}

// Sessions are told by their talkers; what is no session yet is cut.
static void stop_all(struct td_host *host)
{
    pthread_mutex_lock(&host->mutex);
    host->is_stopping = true;
    for (struct td_host_job *job = host->jobs; job; job = job->next)
        td_host_end_job(job, TD_WIRE_E_SHUTDOWN, "the prefill side ends");
    for (struct td_host_conn *conn = host->conns; conn; conn = conn->next) {
        bool is_session = false;
        for (const struct td_host_peer *p = host->peers; p; p = p->next)
            is_session |= p->control_conn == conn || p->data_conn == conn;
        if (!is_session && conn->link) td_link_cancel(conn->link);
    }
    pthread_cond_broadcast(&host->changed);
    pthread_mutex_unlock(&host->mutex);
}

void *td_host_acceptor(void *ctx)
{
    struct td_host *host = ctx;
    struct td_error err;
    int code = TD_OK;
    while (!code && !atomic_load_explicit(&host->is_stop_asked, memory_order_acquire)) {
        struct td_link *link;
        code = td_listener_accept(host->listener, 1000, &link, &err);
        if (!code && link) add(host, link);
        reap(host);
    }
    if (code && !atomic_load_explicit(&host->is_stop_asked, memory_order_acquire)) {
        pthread_mutex_lock(&host->mutex);
        host->accept_code = code;
        host->accept_err = err;
        pthread_mutex_unlock(&host->mutex);
    }
    stop_all(host);
    for (;;) {
        pthread_mutex_lock(&host->mutex);
        const bool is_empty = !host->conns;
        bool any_done = false;
        for (const struct td_host_conn *conn = host->conns; conn; conn = conn->next)
            any_done |= conn->is_done;
        if (!is_empty && !any_done) (void)td_host_wait(host, 0);
        pthread_mutex_unlock(&host->mutex);
        if (is_empty) return NULL;
        reap(host);
    }
}
