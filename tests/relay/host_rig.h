// SPDX-License-Identifier: MIT
// A prefill side over a small model, and a scripted decode side that speaks frames by hand.
#ifndef TD_TESTS_RELAY_HOST_RIG_H
#define TD_TESTS_RELAY_HOST_RIG_H

#include "pair_rig.h"
#include "relay/recv.h"

enum { SOON_MS = 30000 };

static inline void open_house_as(struct house *h, const struct td_host_config *wishes,
                                 const struct td_key *key)
{
    *h = (struct house){.key = key, .cfg = *wishes, .device_kv_bytes = wishes->max_kv_bytes};
    open_house(h);
}

// Pages for so many positions of a sequence in every layer.
static inline uint64_t max_kv_bytes(uint32_t n_tokens)
{
    struct td_engine *e = open_engine_cfg(g_model, config(CHUNK, 1));
    struct td_device_report report;
    td_engine_report(e, &report);
    td_engine_close(e);
    const uint64_t n_pages = (n_tokens + report.kv_page_tokens - 1) / report.kv_page_tokens;
    return n_pages * report.kv_page_bytes * g_model->spec.n_layers;
}

// Waits until no request is left.
static inline void wait_idle(struct house *h)
{
    struct td_host_report report;
    const uint64_t t0 = td_clock_ns();
    do {
        nap_ms(2);
        td_host_report(h->host, &report);
    } while (report.n_requests > 0 && seconds_since(t0) < SOON_MS / 1000.0);
    assert_int_equal(report.n_requests, 0);
}

// ---- the scripted decode side -----------------------------------------------------------------

struct client {
    const struct td_key *key;
    const char *where;
    struct td_link *link[2]; // control, data
    struct td_frames control, data;
    struct td_wire_welcome welcome;
    uint8_t first_token[32]; // of the session that asked
    // A request.
    uint64_t id;
    uint32_t n_tokens, have, checkpoint_tokens;
    enum td_type kv_type;
    uint32_t flags;
    struct td_engine *engine;
    struct td_session *session;
    struct td_recv *recv;
    pthread_t thread;
    _Atomic uint32_t n_frames; // of data
    uint32_t cut_after;        // 0: never
    float logits[N_VOCAB];
    uint32_t n_logits;
    int data_code;
    struct td_error data_err;
    // What came on the control connection.
    bool is_accepted;
    struct td_wire_accept accept;
    uint32_t n_progress, n_pings, n_pongs, n_rates;
    struct td_wire_progress progress;
    struct td_wire_probed probed;
    uint16_t reason; // of ERROR; 0: none came
    char text[240];
};

static inline void send_msg(struct td_frames *f, struct td_wire_msg msg)
{
    msg.h.version = msg.h.type == TD_WIRE_ERROR || msg.h.type == TD_WIRE_HELLO ? 0 : 1;
    OK(td_frames_write(f, &msg, &err));
}

static inline void join_data(struct client *c)
{
    OK(td_link_connect(&c->link[1], c->where, c->key, NULL, NULL, &err));
    OK(td_frames_init(&c->data, c->link[1], TD_WIRE_DATA, 1, &err));
    struct td_wire_msg msg = {.h = {.type = TD_WIRE_JOIN}};
    memcpy(msg.u.join_token, c->welcome.token, 32);
    send_msg(&c->data, msg);
    OK(td_peer_expect(&c->data, TD_WIRE_JOINED, SOON_MS, &msg, &err));
}

static inline void connect_control(struct client *c)
{
    struct td_peer ours, theirs;
    bool weights_differ;
    init_peer(&ours, TD_WIRE_DECODE, g_model, 0);
    OK(td_link_connect(&c->link[0], c->where, c->key, NULL, NULL, &err));
    OK(td_frames_init(&c->control, c->link[0], TD_WIRE_CONTROL, 0, &err));
    OK(td_peer_greet(&c->control, &ours, &theirs, &weights_differ, &err));
    struct td_wire_msg msg;
    OK(td_peer_expect(&c->control, TD_WIRE_WELCOME, SOON_MS, &msg, &err));
    c->welcome = msg.u.welcome;
}

static inline void open_client(struct client *c, const struct house *h, const struct td_key *key)
{
    *c = (struct client){.key = key, .where = h->where, .checkpoint_tokens = 100};
    c->kv_type = TD_F16;
    c->engine = open_engine_cfg(g_model, config(50, 1));
    c->session = open_session(c->engine, N_CTX + 1);
    connect_control(c);
    join_data(c);
}

static inline void cut_one(struct td_link **link, struct td_frames *f)
{
    td_frames_free(f);
    td_link_close(*link);
    *link = NULL;
}

static inline void cut(struct client *c)
{
    cut_one(&c->link[0], &c->control);
    cut_one(&c->link[1], &c->data);
}

static inline void close_client(struct client *c, bool is_polite)
{
    if (c->link[0] && is_polite) send_msg(&c->control, (struct td_wire_msg){.h.type = TD_WIRE_BYE});
    if (c->link[0]) cut(c);
    td_session_close(c->session);
    td_engine_close(c->engine);
}

static inline void take_logits(struct client *c, const struct td_wire_header *h)
{
    struct td_wire_msg msg;
    c->data_code = td_frames_payload(&c->data, h, &msg, &c->data_err);
    if (c->data_code || h->pos0 + h->n > N_VOCAB) return;
    memcpy(c->logits + h->pos0, msg.items, msg.items_bytes);
    c->n_logits += h->n;
}

static inline void *data_main(void *ctx)
{
    struct client *c = ctx;
    for (;;) {
        struct td_wire_header h;
        bool is_there;
        c->data_code = td_frames_header(&c->data, &h, SOON_MS, &is_there, &c->data_err);
        if (!c->data_code && !is_there)
            c->data_code = td_fail(&c->data_err, TD_EIO, "nothing came");
        if (!c->data_code && h.type == TD_WIRE_LOGITS) {
            take_logits(c, &h);
            continue;
        }
        if (!c->data_code) c->data_code = td_recv_frame(c->recv, &c->data, &h, &c->data_err);
        if (!c->data_code && ++c->n_frames == c->cut_after)
            c->data_code = td_fail(&c->data_err, TD_EIO, "cut");
        if (c->data_code || h.type == TD_WIRE_FINAL) return NULL;
    }
}

// Takes what has come on the control connection; false when the session is over.
static inline bool take_control(struct client *c, uint32_t wait_ms)
{
    struct td_wire_header h;
    struct td_wire_msg msg;
    bool is_there;
    if (td_frames_header(&c->control, &h, wait_ms, &is_there, &err)) return false;
    if (!is_there) return true;
    if (td_frames_payload(&c->control, &h, &msg, &err)) return false;
    switch (h.type) {
    case TD_WIRE_ACCEPT: c->is_accepted = true, c->accept = msg.u.accept; break;
    case TD_WIRE_PROGRESS: c->n_progress++, c->progress = msg.u.progress; break;
    case TD_WIRE_PING: c->n_pings++; break;
    case TD_WIRE_PONG: c->n_pongs++; break;
    case TD_WIRE_RATES: c->n_rates++; break;
    case TD_WIRE_PROBED: c->probed = msg.u.probed; break;
    case TD_WIRE_ERROR:
        c->reason = msg.u.error.reason;
        (void)snprintf(c->text, sizeof(c->text), "%s", msg.u.error.msg);
        break;
    default: fail_msg("%s", td_wire_type_name(h.type));
    }
    return true;
}

// Waits for ERROR; the session goes on if it was a request's.
static inline void expect_error(struct client *c, uint16_t reason)
{
    const uint64_t t0 = td_clock_ns();
    while (!c->reason && take_control(c, 20) && seconds_since(t0) < SOON_MS / 1000.0) {
    }
    if (c->reason != reason) fail_msg("reason %u: '%s'", c->reason, c->text);
    c->reason = 0;
}

static inline void send_tokens(struct client *c, uint32_t n_tokens)
{
    for (uint32_t i = 0; i < n_tokens; i += 200) {
        const uint32_t n = td_min_u32(200, n_tokens - i);
        send_msg(
            &c->control,
            (struct td_wire_msg){.h = {.type = TD_WIRE_TOKENS, .request = c->id, .pos0 = i, .n = n},
                                 .items = g_tokens + i,
                                 .items_bytes = n * 4});
    }
}

static inline struct td_wire_msg request_of(struct client *c, uint32_t n_tokens, uint32_t have)
{
    c->id++;
    return (struct td_wire_msg){
        .h = {.type = TD_WIRE_REQUEST, .request = c->id, .kv_type = (uint8_t)c->kv_type},
        .u.request = {.n_tokens = n_tokens,
                      .have = have,
                      .checkpoint_tokens = c->checkpoint_tokens,
                      .flags = c->flags,
                      .have_sum = td_wire_sum(g_tokens, have * 4),
                      .tokens_sum = td_wire_sum(g_tokens, n_tokens * 4)}};
}

// Asks for g_tokens [0, n); the session's own prefix stays.
static inline void ask(struct client *c, uint32_t n_tokens)
{
    OK(td_session_want(c->session, g_tokens, n_tokens, NULL, 0, &err));
    c->have = td_session_reused(c->session);
    OK(td_session_adopt(c->session, g_tokens, n_tokens, &err));
    OK(td_session_reserve(c->session, n_tokens, &err));
    const struct td_recv_request in = {.id = c->id + 1,
                                       .backend = td_backend_cpu(),
                                       .spec = &g_model->spec,
                                       .kv = td_session_kv(c->session),
                                       .kv_type = c->kv_type,
                                       .n_tokens = n_tokens};
    OK(td_recv_open(&c->recv, &in, &err));
    c->n_tokens = n_tokens;
    c->n_frames = 0;
    c->n_logits = 0;
    c->is_accepted = false;
    c->reason = 0;
    memcpy(c->first_token, c->welcome.token, 32);
    send_msg(&c->control, request_of(c, n_tokens, c->have));
    send_tokens(c, n_tokens);
}

// Receives until it is done, or cut as the client wishes.
static inline int receive(struct client *c)
{
    assert_int_equal(pthread_create(&c->thread, NULL, data_main, c), 0);
    bool is_done = false;
    int code = TD_OK;
    uint32_t n_whole = c->have;
    while (!code && !is_done && !c->reason) {
        const uint32_t before = n_whole;
        code = td_recv_wait(c->recv, 2, &n_whole, &is_done, &err);
        if (n_whole > before)
            send_msg(&c->control,
                     (struct td_wire_msg){.h = {.type = TD_WIRE_COMMITTED, .request = c->id},
                                          .u.n_committed = n_whole});
        if (!take_control(c, 0)) code = TD_EIO;
        // The data thread's end is seen by trying.
        struct td_recv_report report;
        td_recv_report(c->recv, &report);
        if (!is_done && c->cut_after && c->n_frames >= c->cut_after) code = TD_EIO;
    }
    if (c->reason) td_link_cancel(c->link[1]);
    // A last checkpoint may be waited for.
    while (!is_done && td_recv_wait(c->recv, 0, &n_whole, &is_done, &err) == TD_OK && code) break;
    pthread_join(c->thread, NULL);
    return is_done ? TD_OK : code ? code : TD_ECANCEL;
}

static inline void close_request(struct client *c)
{
    td_recv_close(c->recv);
    c->recv = NULL;
}

// The logits here are those of an engine that read all itself.
static inline void finish(struct client *c)
{
    OK(td_session_adopt(c->session, g_tokens, c->n_tokens, &err));
    OK(td_session_sync(c->session, g_tokens, c->n_tokens, NULL, 0, NULL, NULL, &err));
    assert_int_equal(td_session_reused(c->session), c->n_tokens - 1);
    struct td_engine *e = open_engine_cfg(g_model, config(200, 1));
    struct td_session *fresh = open_session(e, N_CTX + 1);
    OK(td_session_sync(fresh, g_tokens, c->n_tokens, NULL, 0, NULL, NULL, &err));
    assert_memory_equal(td_session_logits(c->session), td_session_logits(fresh),
                        N_VOCAB * sizeof(float));
    if (c->n_logits) assert_memory_equal(c->logits, td_session_logits(fresh), sizeof(c->logits));
    td_session_close(fresh);
    td_engine_close(e);
}

static inline void fetch_well(struct client *c, uint32_t n_tokens)
{
    ask(c, n_tokens);
    const int code = receive(c);
    if (code) fail_msg("%d: %s; %s; %s", code, err.msg, c->data_err.msg, c->text);
    while (!c->is_accepted) assert_true(take_control(c, SOON_MS)); // on another connection
    finish(c);
    close_request(c);
}

static inline void send_resume(struct client *c, const uint8_t token[32])
{
    uint32_t marks[TD_WIRE_MAX_LAYERS];
    td_recv_marks(c->recv, marks);
    struct td_recv_report report;
    td_recv_report(c->recv, &report);
    struct td_wire_msg msg = {.h = {.type = TD_WIRE_RESUME, .request = c->id},
                              .u.resume = {.n_spans = report.n_spans,
                                           .span_sum = report.span_sum,
                                           .n_layers = g_model->spec.n_layers},
                              .items = marks,
                              .items_bytes = g_model->spec.n_layers * 4};
    memcpy(msg.u.resume.token, token, 32);
    c->is_accepted = false;
    send_msg(&c->control, msg);
}

#endif
