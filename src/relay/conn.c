// SPDX-License-Identifier: MIT
// One session with a prefill peer: how it comes up, the threads that read its two connections, the
// heartbeat, how it goes down. What a request's frames mean is fetch.c's.
#include "relay/far_impl.h"
#include "relay/speeds.h"
#include "relay/sys_impl.h"

#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>

#define GREET_MS     10000u // for each frame until the session stands
#define N_PINGS      3u     // of the first look at the round trip
#define DATA_WAIT_MS 50u    // then the data thread looks up
#define SAY_OUT_NS   300000000u

struct td_wire_header td_conn_header(const struct td_conn *c, enum td_wire_type type,
                                     uint64_t request)
{
    return (struct td_wire_header){
        .version = c->control.version, .type = (uint8_t)type, .request = request};
}

void td_conn_fail(struct td_conn *c, bool is_refused, const struct td_error *err)
{
    struct td_far *far = c->far;
    pthread_mutex_lock(&far->mutex);
    if (!c->code) {
        c->code = err->code ? err->code : TD_EIO;
        c->err = *err;
        c->is_refused = is_refused;
    }
    far->n_events++;
    pthread_cond_broadcast(&far->changed);
    if (c->has_writer) pthread_cond_signal(&c->to_say);
    pthread_mutex_unlock(&far->mutex);
    // What has come over data is taken in first: data_main, and whoever closes.
    if (c->link[TD_WIRE_CONTROL]) td_link_cancel(c->link[TD_WIRE_CONTROL]);
}

static int write_now(struct td_conn *c, const struct td_wire_msg *msg, struct td_error *err)
{
    struct td_error why;
    const int code = td_frames_write(&c->control, msg, &why);
    if (!code) return TD_OK;
    td_conn_fail(c, false, &why);
    if (err) *err = why;
    return code;
}

static void wipe(struct td_said *s)
{
    OPENSSL_cleanse(s, sizeof(*s) + s->msg.items_bytes); // the prompt
    free(s);
}

int td_conn_say(struct td_conn *c, const struct td_wire_msg *msg, struct td_error *err)
{
    struct td_said *s = malloc(sizeof(*s) + msg->items_bytes);
    if (!s) return td_fail(err, TD_ENOMEM, "no memory for a frame");
    s->next = NULL;
    s->msg = *msg;
    if (msg->items_bytes > 0) memcpy(s->items, msg->items, msg->items_bytes);
    s->msg.items = s->items;
    struct td_far *far = c->far;
    pthread_mutex_lock(&far->mutex);
    int code = c->code;
    if (code && err) *err = c->err;
    const bool is_queued = !code && c->has_writer;
    if (is_queued) {
        *c->said_end = s;
        c->said_end = &s->next;
        pthread_cond_signal(&c->to_say);
    }
    pthread_mutex_unlock(&far->mutex);
    if (is_queued) return TD_OK;
    if (!code) code = write_now(c, msg, err); // greeting
    wipe(s);
    return code;
}

static void *writer_main(void *ctx)
{
    struct td_conn *c = ctx;
    struct td_far *far = c->far;
    pthread_mutex_lock(&far->mutex);
    for (;;) {
        while (!c->said_first && !c->is_said_out && !c->code)
            pthread_cond_wait(&c->to_say, &far->mutex);
        struct td_said *s = c->said_first;
        if (!s || c->code) break;
        c->said_first = s->next;
        if (!c->said_first) c->said_end = &c->said_first;
        c->is_writing = true;
        pthread_mutex_unlock(&far->mutex);
        (void)write_now(c, &s->msg, NULL); // c->code says whether it failed
        wipe(s);
        pthread_mutex_lock(&far->mutex);
        c->is_writing = false;
    }
    far->n_events++;
    pthread_cond_broadcast(&far->changed);
    pthread_mutex_unlock(&far->mutex);
    return NULL;
}

static int start_writer(struct td_conn *c, struct td_error *err)
{
    c->said_end = &c->said_first;
    td_cond_init(&c->to_say);
    c->has_writer = pthread_create(&c->writer, NULL, writer_main, c) == 0;
    return c->has_writer ? TD_OK : td_fail(err, TD_ENOMEM, "no thread for a connection");
}

// All that was said is written, if the peer takes it soon; then the writer ends.
static void end_writer(struct td_conn *c)
{
    struct td_far *far = c->far;
    const uint64_t end_ns = td_clock_ns() + SAY_OUT_NS;
    bool is_out = false;
    while (!is_out && td_clock_ns() < end_ns) {
        pthread_mutex_lock(&far->mutex);
        c->is_said_out = true;
        pthread_cond_signal(&c->to_say);
        is_out = c->code || (!c->said_first && !c->is_writing);
        const uint64_t seen = far->n_events;
        pthread_mutex_unlock(&far->mutex);
        if (!is_out) td_far_wait(far, seen, 5);
    }
    struct td_error why;
    (void)td_fail(&why, TD_EIO, "the connection was closed here");
    td_conn_fail(c, false, &why);
    pthread_join(c->writer, NULL);
    pthread_mutex_lock(&far->mutex);
    c->has_writer = false;
    pthread_mutex_unlock(&far->mutex);
    pthread_cond_destroy(&c->to_say);
    while (c->said_first) {
        struct td_said *s = c->said_first;
        c->said_first = s->next;
        wipe(s);
    }
}

static const char *peer_of(const struct td_conn *c)
{
    return td_link_peer(c->link[TD_WIRE_CONTROL]);
}

// What arrives damaged is the link's fault: the same may come whole over another. A frame that is
// whole and wrong (TD_EFORMAT) is the peer's.
static int as_damage(int code, struct td_error *err)
{
    if (code != TD_EFORMAT && code != TD_EUNSUP) return code;
    if (err) err->code = TD_EIO;
    return TD_EIO;
}

static int header_in(struct td_frames *f, struct td_wire_header *out, uint32_t wait_ms,
                     bool *is_there, struct td_error *err)
{
    return as_damage(td_frames_header(f, out, wait_ms, is_there, err), err);
}

int td_conn_payload_in(struct td_frames *f, const struct td_wire_header *h, struct td_wire_msg *out,
                       struct td_error *err)
{
    return as_damage(td_frames_payload(f, h, out, err), err);
}

// ---- frames of the session itself --------------------------------------------------------------

static int take_ping(struct td_conn *c, const struct td_wire_msg *msg, struct td_error *err)
{
    const struct td_wire_msg pong = {.h = td_conn_header(c, TD_WIRE_PONG, 0),
                                     .u.t_ns = msg->u.t_ns};
    return td_conn_say(c, &pong, err);
}

static int say_ping(struct td_conn *c, struct td_error *err)
{
    c->ping_open_ns = c->ping_sent_ns = td_clock_ns();
    const struct td_wire_msg ping = {.h = td_conn_header(c, TD_WIRE_PING, 0),
                                     .u.t_ns = c->ping_open_ns};
    return td_conn_say(c, &ping, err);
}

static void take_pong(struct td_conn *c, const struct td_wire_msg *msg)
{
    // An answer to something else says nothing about time.
    if (!c->ping_open_ns || msg->u.t_ns != c->ping_open_ns) return;
    const uint64_t ns = td_clock_ns() - c->ping_open_ns;
    c->ping_open_ns = 0;
    c->n_pongs++;
    pthread_mutex_lock(&c->far->mutex);
    if (!c->far->round_trip_ns || ns < c->far->round_trip_ns) c->far->round_trip_ns = ns;
    pthread_mutex_unlock(&c->far->mutex);
}

// The session ends by the peer's wish. Unless it only lost track of us, it wants no other.
static int take_session_error(struct td_conn *c, const struct td_wire_msg *msg,
                              struct td_error *err)
{
    const uint16_t reason = msg->u.error.reason;
    char text[sizeof(msg->u.error.msg)];
    td_peer_text(msg->u.error.msg, text, sizeof(text));
    struct td_error why;
    const int code = td_fail(&why, td_far_code_of(reason), "%s says: %s", peer_of(c), text);
    const bool is_lost = reason == TD_WIRE_E_TIMEOUT || reason == TD_WIRE_E_FORMAT;
    td_conn_fail(c, !is_lost, &why);
    *err = why;
    return code;
}

static void take_rates(struct td_conn *c, const struct td_wire_msg *msg)
{
    pthread_mutex_lock(&c->far->mutex);
    td_speeds_get(msg, &c->far->prefill, &c->far->decode);
    pthread_mutex_unlock(&c->far->mutex);
}

// PROBED, or ERROR for a probe: whether it was that.
static bool take_measure(struct td_conn *c, const struct td_wire_msg *msg)
{
    struct td_far *far = c->far;
    pthread_mutex_lock(&far->mutex);
    struct td_measure *m = &far->measure;
    const bool is_it = m->request && m->request == msg->h.request;
    if (is_it && msg->h.type == TD_WIRE_PROBED) {
        m->is_probed = true;
        m->probed_ns = msg->u.probed.elapsed_ns;
        if (msg->u.probed.size_bytes != m->size_bytes)
            m->code =
                td_fail(&m->err, TD_EFORMAT, "%s counts other bytes than were sent", peer_of(c));
    } else if (is_it) {
        char text[sizeof(msg->u.error.msg)];
        td_peer_text(msg->u.error.msg, text, sizeof(text));
        m->code =
            td_fail(&m->err, td_far_code_of(msg->u.error.reason), "%s says: %s", peer_of(c), text);
    }
    far->n_events += is_it;
    pthread_cond_broadcast(&far->changed);
    pthread_mutex_unlock(&far->mutex);
    return is_it;
}

static int take_control(struct td_conn *c, const struct td_wire_msg *msg, struct td_error *err)
{
    switch ((enum td_wire_type)msg->h.type) {
    case TD_WIRE_PING: return take_ping(c, msg, err);
    case TD_WIRE_PONG: take_pong(c, msg); return TD_OK;
    case TD_WIRE_RATES: take_rates(c, msg); return TD_OK;
    case TD_WIRE_BYE: return td_fail(err, TD_EIO, "%s has left", peer_of(c));
    case TD_WIRE_PROBED: (void)take_measure(c, msg); return TD_OK;
    case TD_WIRE_ERROR:
        if (msg->h.request == 0) return take_session_error(c, msg, err);
        return take_measure(c, msg) ? TD_OK : td_fetch_control(c, msg, err);
    case TD_WIRE_ACCEPT:
    case TD_WIRE_PROGRESS: return td_fetch_control(c, msg, err);
    case TD_WIRE_HELLO:
    case TD_WIRE_IDENTITY:
    case TD_WIRE_WELCOME:
    case TD_WIRE_JOIN:
    case TD_WIRE_JOINED:
    case TD_WIRE_REQUEST:
    case TD_WIRE_TOKENS:
    case TD_WIRE_CANCEL:
    case TD_WIRE_RESUME:
    case TD_WIRE_COMMITTED:
    case TD_WIRE_PROBE:
    case TD_WIRE_BLAST:
    case TD_WIRE_SPAN:
    case TD_WIRE_CHECKPOINT:
    case TD_WIRE_FINAL:
    case TD_WIRE_LOGITS:
    case TD_WIRE_N_TYPES: break;
    }
    return td_fail(err, TD_EFORMAT, "%s: %s may not come now", peer_of(c),
                   td_wire_type_name(msg->h.type));
}

// Reads one control frame, if one comes in time.
static int read_control(struct td_conn *c, uint32_t wait_ms, struct td_error *err)
{
    struct td_wire_header h;
    struct td_wire_msg msg;
    bool is_there;
    int code = header_in(&c->control, &h, wait_ms, &is_there, err);
    if (code || !is_there) return code;
    code = td_conn_payload_in(&c->control, &h, &msg, err);
    if (code) return code;
    pthread_mutex_lock(&c->far->mutex);
    c->heard_ns = td_clock_ns();
    pthread_mutex_unlock(&c->far->mutex);
    return take_control(c, &msg, err);
}

// ---- the threads ------------------------------------------------------------------------------

// A frame that is refused ends the session; the peer is told why.
static void end_thread(struct td_conn *c, int code, const struct td_error *err)
{
    struct td_far *far = c->far;
    if (code == TD_EFORMAT) td_peer_refuse(&c->control, 0, TD_WIRE_E_FORMAT, err->msg);
    td_conn_fail(c, code == TD_EFORMAT, err);
    if (code == TD_EFORMAT) td_link_cancel(c->link[TD_WIRE_DATA]);
    pthread_mutex_lock(&far->mutex);
    c->n_running--;
    far->n_events++;
    pthread_cond_broadcast(&far->changed);
    pthread_mutex_unlock(&far->mutex);
}

// Sends PING when it is due; looks whether the peer still lives.
static int beat(struct td_conn *c, struct td_error *err)
{
    struct td_far *far = c->far;
    const uint64_t now_ns = td_clock_ns();
    const uint64_t silent_ns = (uint64_t)far->cfg.silent_ms * MS_NS;
    int code = TD_OK;
    pthread_mutex_lock(&far->mutex);
    if (now_ns > c->heard_ns && now_ns - c->heard_ns > silent_ns)
        code = td_fail(err, TD_EIO, "%s: nothing was heard for %.1f seconds", peer_of(c),
                       far->cfg.silent_ms / 1000.0);
    else if (td_fetch_is_stuck(c, now_ns, err))
        code = TD_EIO;
    pthread_mutex_unlock(&far->mutex);
    if (!code && now_ns - c->ping_sent_ns >= (uint64_t)c->ping_ms * MS_NS) code = say_ping(c, err);
    return code;
}

static void *control_main(void *ctx)
{
    struct td_conn *c = ctx;
    struct td_error err = {0};
    int code = TD_OK;
    while (!code) {
        const uint64_t since_ms = (td_clock_ns() - c->ping_sent_ns) / MS_NS;
        code = read_control(c, since_ms < c->ping_ms ? c->ping_ms - (uint32_t)since_ms : 0, &err);
        if (!code) code = beat(c, &err);
    }
    end_thread(c, code, &err);
    return NULL;
}

static int take_blast(struct td_conn *c, const struct td_wire_header *h, struct td_error *err)
{
    struct td_far *far = c->far;
    const uint64_t at_ns = td_clock_ns();
    struct td_wire_msg msg;
    const int code = td_conn_payload_in(&c->data, h, &msg, err);
    if (code) return code;
    bool is_too_much = false;
    pthread_mutex_lock(&far->mutex);
    struct td_measure *m = &far->measure;
    if (m->request && m->request == h->request) {
        if (m->n_bytes == 0) m->first_ns = at_ns;
        is_too_much = h->size_bytes > m->size_bytes - m->n_bytes;
        if (!is_too_much) m->n_bytes += h->size_bytes;
        m->last_ns = td_clock_ns();
        far->n_events++;
        pthread_cond_broadcast(&far->changed);
    }
    pthread_mutex_unlock(&far->mutex);
    return is_too_much ? td_fail(err, TD_EFORMAT, "%s: more BLAST than was asked for", peer_of(c))
                       : TD_OK;
}

static int take_data(struct td_conn *c, struct td_stretch *t, const struct td_wire_header *h,
                     uint64_t waited_ns, struct td_error *err)
{
    struct td_wire_msg msg;
    int code;
    switch ((enum td_wire_type)h->type) {
    case TD_WIRE_SPAN:
    case TD_WIRE_CHECKPOINT:
    case TD_WIRE_FINAL:
    case TD_WIRE_LOGITS: return td_fetch_data(c, t, h, waited_ns, err);
    case TD_WIRE_BLAST: return take_blast(c, h, err);
    case TD_WIRE_PING:
    case TD_WIRE_PONG: return td_conn_payload_in(&c->data, h, &msg, err);
    case TD_WIRE_ERROR:
        code = td_conn_payload_in(&c->data, h, &msg, err);
        return code ? code : take_control(c, &msg, err);
    case TD_WIRE_HELLO:
    case TD_WIRE_IDENTITY:
    case TD_WIRE_WELCOME:
    case TD_WIRE_RATES:
    case TD_WIRE_JOIN:
    case TD_WIRE_JOINED:
    case TD_WIRE_REQUEST:
    case TD_WIRE_TOKENS:
    case TD_WIRE_ACCEPT:
    case TD_WIRE_PROGRESS:
    case TD_WIRE_CANCEL:
    case TD_WIRE_RESUME:
    case TD_WIRE_COMMITTED:
    case TD_WIRE_PROBE:
    case TD_WIRE_PROBED:
    case TD_WIRE_BYE:
    case TD_WIRE_N_TYPES: break;
    }
    return td_fail(err, TD_EFORMAT, "%s: %s may not come on the data connection", peer_of(c),
                   td_wire_type_name(h->type));
}

// After the control connection has broken: nothing more comes, so this one ends too.
static int is_down(struct td_conn *c, struct td_error *err)
{
    pthread_mutex_lock(&c->far->mutex);
    const int code = c->code;
    if (code) *err = c->err;
    pthread_mutex_unlock(&c->far->mutex);
    return code ? TD_EIO : TD_OK;
}

static void *data_main(void *ctx)
{
    struct td_conn *c = ctx;
    struct td_stretch stretch = {0};
    struct td_error err = {0};
    int code = TD_OK;
    uint64_t from_ns = td_clock_ns();
    while (!code) {
        struct td_wire_header h;
        bool is_there;
        code = header_in(&c->data, &h, DATA_WAIT_MS, &is_there, &err);
        const uint64_t now_ns = td_clock_ns();
        if (!code && !is_there && now_ns - from_ns > TD_CONN_QUIET_NS) code = is_down(c, &err);
        if (code || !is_there) continue;
        pthread_mutex_lock(&c->far->mutex);
        c->heard_ns = c->data_heard_ns = now_ns;
        c->is_taking = true;
        pthread_mutex_unlock(&c->far->mutex);
        code = take_data(c, &stretch, &h, now_ns - from_ns, &err);
        from_ns = td_clock_ns();
        pthread_mutex_lock(&c->far->mutex);
        c->data_heard_ns = from_ns;
        c->is_taking = false;
        pthread_mutex_unlock(&c->far->mutex);
    }
    end_thread(c, code, &err);
    return NULL;
}

// ---- up and down ------------------------------------------------------------------------------

// A peer that is slower than that while it greets would be called dead later.
static uint32_t greet_ms(const struct td_conn *c)
{
    return c->far->cfg.silent_ms < GREET_MS ? c->far->cfg.silent_ms : GREET_MS;
}

// What td_peer_expect fails with when the peer refused is no cancel of ours.
static int expect(struct td_conn *c, struct td_frames *f, enum td_wire_type type,
                  struct td_wire_msg *out, struct td_error *err)
{
    const int code = td_peer_expect(f, type, greet_ms(c), out, err);
    if (code != TD_ECANCEL) return code;
    const int why = td_far_code_of(out->u.error.reason);
    if (err) err->code = why;
    return why;
}

static int connect_link(struct td_conn *c, enum td_wire_channel which, struct td_error *err)
{
    struct td_far *far = c->far;
    const struct td_far_config *cfg = &far->cfg;
    struct td_link *link;
    const int code =
        td_link_connect(&link, cfg->where, cfg->key, &cfg->limits, &c->is_connect_over, err);
    pthread_mutex_lock(&far->mutex);
    c->link[which] = link;
    if (link && c->is_stopped) td_link_cancel(link);
    pthread_mutex_unlock(&far->mutex);
    return code;
}

static int open_control(struct td_conn *c, struct td_error *err)
{
    struct td_far *far = c->far;
    const struct td_far_config *cfg = &far->cfg;
    int code = connect_link(c, TD_WIRE_CONTROL, err);
    if (!code)
        code = td_frames_init(&c->control, c->link[TD_WIRE_CONTROL], TD_WIRE_CONTROL, 0, err);
    if (code) return code;
    code = td_peer_greet(&c->control, &far->peer, &c->theirs, &c->weights_differ, err);
    if (code == TD_ECANCEL) {
        code = TD_EARG;
        if (err) err->code = code;
    }
    if (code == TD_EIO && !cfg->key && err) {
        const struct td_error why = *err;
        (void)td_fail(err, code, "%s; perhaps it wants a key (--key)", why.msg);
    }
    if (!code && !(c->theirs.identity.kv_types & 1u << cfg->kv_type))
        code = td_fail(err, TD_EARG, "%s cannot send KV as %s", peer_of(c),
                       td_type_info(cfg->kv_type)->name);
    struct td_wire_msg msg;
    if (!code) code = expect(c, &c->control, TD_WIRE_WELCOME, &msg, err);
    if (code) return code;
    c->welcome = msg.u.welcome;
    // Often enough that its answers alone show that the peer lives.
    const uint32_t least = cfg->silent_ms / 4;
    c->ping_ms = c->welcome.progress_ms < least ? c->welcome.progress_ms : least;
    if (c->ping_ms < 10) c->ping_ms = 10;
    uint8_t buffer[TD_SPEEDS_BYTES];
    td_speeds_put(&msg, buffer, c->control.version, &cfg->prefill, &cfg->decode);
    return td_conn_say(c, &msg, err);
}

static int open_data(struct td_conn *c, struct td_error *err)
{
    int code = connect_link(c, TD_WIRE_DATA, err);
    if (!code)
        code =
            td_frames_init(&c->data, c->link[TD_WIRE_DATA], TD_WIRE_DATA, c->control.version, err);
    if (code) return code;
    struct td_wire_msg msg = {.h = td_conn_header(c, TD_WIRE_JOIN, 0)};
    memcpy(msg.u.join_token, c->welcome.token, sizeof(msg.u.join_token));
    code = td_frames_write(&c->data, &msg, err);
    return code ? code : expect(c, &c->data, TD_WIRE_JOINED, &msg, err);
}

// A few round trips; RATES, which the peer sent before, is taken on the way.
static int look(struct td_conn *c, struct td_error *err)
{
    int code = TD_OK;
    for (uint32_t i = 0; !code && i < N_PINGS; i++) {
        const uint64_t end_ns = td_clock_ns() + (uint64_t)greet_ms(c) * MS_NS;
        code = say_ping(c, err);
        while (!code && c->n_pongs == i) {
            if (td_clock_ns() > end_ns)
                code = td_fail(err, TD_EIO, "%s does not answer PING", peer_of(c));
            else
                code = read_control(c, greet_ms(c), err);
        }
    }
    return code;
}

struct td_conn *td_conn_new(struct td_far *far)
{
    struct td_conn *c = calloc(1, sizeof(*c));
    if (c) c->far = far;
    return c;
}

int td_conn_open(struct td_conn *c, struct td_error *err)
{
    const uint64_t t0 = td_clock_ns();
    int code = open_control(c, err);
    if (!code) code = open_data(c, err);
    c->connect_seconds = (double)(td_clock_ns() - t0) / 1e9;
    if (!code) code = look(c, err);
    return code ? code : start_writer(c, err);
}

void td_conn_stop(struct td_conn *c)
{
    pthread_mutex_lock(&c->far->mutex);
    c->is_stopped = true;
    atomic_store_explicit(&c->is_connect_over, true, memory_order_relaxed);
    for (int i = 0; i < 2; i++)
        if (c->link[i]) td_link_cancel(c->link[i]);
    pthread_mutex_unlock(&c->far->mutex);
}

int td_conn_start(struct td_conn *c, struct td_error *err)
{
    static void *(*const mains[2])(void *) = {control_main, data_main};
    struct td_far *far = c->far;
    c->heard_ns = c->data_heard_ns = td_clock_ns();
    for (int i = 0; i < 2; i++) {
        pthread_mutex_lock(&far->mutex);
        c->n_running++;
        pthread_mutex_unlock(&far->mutex);
        if (pthread_create(&c->threads[i], NULL, mains[i], c) == 0) {
            c->n_threads++;
            continue;
        }
        pthread_mutex_lock(&far->mutex);
        c->n_running--;
        pthread_mutex_unlock(&far->mutex);
        return td_fail(err, TD_ENOMEM, "no thread for a connection");
    }
    return TD_OK;
}

void td_conn_close(struct td_conn *c)
{
    if (!c) return;
    struct td_far *far = c->far;
    struct td_error why;
    if (c->n_threads == 2) {
        pthread_mutex_lock(&far->mutex);
        const bool is_up = !c->code;
        pthread_mutex_unlock(&far->mutex);
        const struct td_wire_msg bye = {.h = td_conn_header(c, TD_WIRE_BYE, 0)};
        if (is_up) (void)td_conn_say(c, &bye, NULL); // it is over in any case
    }
    if (c->has_writer) end_writer(c);
    (void)td_fail(&why, TD_EIO, "the connection was closed here");
    td_conn_fail(c, false, &why);
    if (c->link[TD_WIRE_DATA]) td_link_cancel(c->link[TD_WIRE_DATA]);
    for (;;) {
        pthread_mutex_lock(&far->mutex);
        const uint64_t seen = far->n_events;
        const bool is_over = c->n_running == 0 && c->n_users == 0;
        pthread_mutex_unlock(&far->mutex);
        if (is_over) break;
        td_fetch_commit_all(far); // the data thread may wait for it
        td_far_wait(far, seen, 1000);
    }
    for (uint32_t i = 0; i < c->n_threads; i++) pthread_join(c->threads[i], NULL);
    td_frames_free(&c->control);
    td_frames_free(&c->data);
    for (int i = 0; i < 2; i++) td_link_close(c->link[i]);
    free(c);
}
