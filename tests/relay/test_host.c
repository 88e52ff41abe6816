// SPDX-License-Identifier: MIT
// The prefill side against a scripted peer: good requests give the bits of a local prefill, broken
// ones go on where they were, bad ones are told why and cost nothing that stays.
#include "engine/support.h"
#include "link_support.h"
#include "relay/host.h"
#include "relay/recv.h"

#include <stdio.h>

enum { N_CTX = 600, N_VOCAB = 1024, CHUNK = 64, SOON_MS = 30000 };

static struct td_model *g_model;
static int32_t g_tokens[N_CTX + 1];

static int setup(void **state)
{
    (void)state;
    g_model = open_model("synth:tiny,window=16,vocab=1024,ctx=8192");
    struct td_rng rng = {11};
    random_tokens(&rng, g_tokens, N_CTX + 1, N_VOCAB);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    td_model_close(g_model);
    return 0;
}

// ---- the prefill side -------------------------------------------------------------------------

struct house {
    struct td_engine *engine;
    struct td_listener *listener;
    struct td_peer peer;
    struct td_host *host;
    pthread_t thread;
    int code;
    struct td_error err;
    char where[32];
    uint32_t n_events[TD_HOST_ENDED + 1]; // one at a time
};

static void count_event(void *ctx, const struct td_host_event *e)
{
    struct house *h = ctx;
    h->n_events[e->kind]++;
    if (getenv("TEST_HOST_LOG"))
        fprintf(stderr, "event %d %s request %llu: %s\n", (int)e->kind, e->peer,
                (unsigned long long)e->request, e->text);
}

static void *house_main(void *ctx)
{
    struct house *h = ctx;
    h->code = td_host_serve(h->host, &h->err);
    return NULL;
}

static void open_house(struct house *h, const struct td_host_config *wishes,
                       const struct td_key *key)
{
    static const uint8_t tokenizer[32] = {1}, weights[32] = {2};
    *h = (struct house){0};
    h->engine = open_engine_cfg(g_model, config(CHUNK, 1));
    OK(td_listener_open(&h->listener, "127.0.0.1:0", key, NULL, &err));
    (void)snprintf(h->where, sizeof(h->where), "127.0.0.1:%u", td_listener_port(h->listener));
    OK(td_peer_init(&h->peer, TD_WIRE_PREFILL, &g_model->spec, tokenizer, weights, TD_F16, &err));
    struct td_host_config cfg = *wishes;
    cfg.engine = h->engine;
    cfg.backend = td_backend_cpu();
    cfg.peer = &h->peer;
    cfg.kv_type = TD_F16;
    if (!cfg.n_slots) cfg.n_slots = 1;
    cfg.n_ctx = N_CTX;
    cfg.max_kv_bytes = 1 << 20;
    cfg.event = count_event;
    cfg.event_ctx = h;
    OK(td_host_open(&h->host, &cfg, h->listener, &err));
    assert_int_equal(pthread_create(&h->thread, NULL, house_main, h), 0);
}

static void close_house(struct house *h)
{
    td_host_stop(h->host);
    pthread_join(h->thread, NULL);
    if (h->code) fail_msg("%s", h->err.msg);
    td_host_close(h->host);
    td_listener_close(h->listener);
    struct td_device_report report;
    td_engine_report(h->engine, &report);
    assert_int_equal(report.kv_bytes, 0); // no pin, no session was left behind
    td_engine_close(h->engine);
}

// Waits until no request is left.
static void wait_idle(struct house *h)
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

static void send_msg(struct td_frames *f, struct td_wire_msg msg)
{
    msg.h.version = msg.h.type == TD_WIRE_ERROR || msg.h.type == TD_WIRE_HELLO ? 0 : 1;
    OK(td_frames_write(f, &msg, &err));
}

static void join_data(struct client *c)
{
    OK(td_link_connect(&c->link[1], c->where, c->key, NULL, &err));
    OK(td_frames_init(&c->data, c->link[1], TD_WIRE_DATA, 1, &err));
    struct td_wire_msg msg = {.h = {.type = TD_WIRE_JOIN}};
    memcpy(msg.u.join_token, c->welcome.token, 32);
    send_msg(&c->data, msg);
    OK(td_peer_expect(&c->data, TD_WIRE_JOINED, SOON_MS, &msg, &err));
}

static void connect_control(struct client *c)
{
    static const uint8_t tokenizer[32] = {1}, weights[32] = {2};
    struct td_peer ours, theirs;
    bool weights_differ;
    OK(td_peer_init(&ours, TD_WIRE_DECODE, &g_model->spec, tokenizer, weights, TD_F16, &err));
    OK(td_link_connect(&c->link[0], c->where, c->key, NULL, &err));
    OK(td_frames_init(&c->control, c->link[0], TD_WIRE_CONTROL, 0, &err));
    OK(td_peer_greet(&c->control, &ours, &theirs, &weights_differ, &err));
    struct td_wire_msg msg;
    OK(td_peer_expect(&c->control, TD_WIRE_WELCOME, SOON_MS, &msg, &err));
    c->welcome = msg.u.welcome;
}

static void open_client(struct client *c, const struct house *h, const struct td_key *key)
{
    *c = (struct client){.key = key, .where = h->where, .checkpoint_tokens = 100};
    c->kv_type = TD_F16;
    c->engine = open_engine_cfg(g_model, config(50, 1));
    c->session = open_session(c->engine, N_CTX + 1);
    connect_control(c);
    join_data(c);
}

static void cut_one(struct td_link **link, struct td_frames *f)
{
    td_frames_free(f);
    td_link_close(*link);
    *link = NULL;
}

static void cut(struct client *c)
{
    cut_one(&c->link[0], &c->control);
    cut_one(&c->link[1], &c->data);
}

static void close_client(struct client *c, bool is_polite)
{
    if (c->link[0] && is_polite) send_msg(&c->control, (struct td_wire_msg){.h.type = TD_WIRE_BYE});
    if (c->link[0]) cut(c);
    td_session_close(c->session);
    td_engine_close(c->engine);
}

static void take_logits(struct client *c, const struct td_wire_header *h)
{
    struct td_wire_msg msg;
    c->data_code = td_frames_payload(&c->data, h, &msg, &c->data_err);
    if (c->data_code || h->pos0 + h->n > N_VOCAB) return;
    memcpy(c->logits + h->pos0, msg.items, msg.items_bytes);
    c->n_logits += h->n;
}

static void *data_main(void *ctx)
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
static bool take_control(struct client *c, uint32_t wait_ms)
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
static void expect_error(struct client *c, uint16_t reason)
{
    const uint64_t t0 = td_clock_ns();
    while (!c->reason && take_control(c, 20) && seconds_since(t0) < SOON_MS / 1000.0) {
    }
    if (c->reason != reason) fail_msg("reason %u: '%s'", c->reason, c->text);
    c->reason = 0;
}

static void send_tokens(struct client *c, uint32_t n_tokens)
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

static struct td_wire_msg request_of(struct client *c, uint32_t n_tokens, uint32_t have)
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
static void ask(struct client *c, uint32_t n_tokens)
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
static int fetch(struct client *c)
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

static void close_request(struct client *c)
{
    td_recv_close(c->recv);
    c->recv = NULL;
}

// The logits here are those of an engine that read all itself.
static void finish(struct client *c)
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

static void fetch_well(struct client *c, uint32_t n_tokens)
{
    ask(c, n_tokens);
    const int code = fetch(c);
    if (code) fail_msg("%d: %s; %s; %s", code, err.msg, c->data_err.msg, c->text);
    while (!c->is_accepted) assert_true(take_control(c, SOON_MS)); // on another connection
    finish(c);
    close_request(c);
}

// ---- tests ------------------------------------------------------------------------------------

static void good_requests_give_the_bits_of_a_local_prefill(void **state)
{
    (void)state;
    struct house h;
    open_house(&h, &(struct td_host_config){.progress_ms = 20}, &key_a);
    struct client c;
    open_client(&c, &h, &key_a);
    fetch_well(&c, 2);
    fetch_well(&c, 3 * CHUNK + 7);
    fetch_well(&c, 500); // a prefix on both sides
    assert_true(c.accept.n_reused > 0);
    assert_true(c.accept.kv_bytes > 0);
    close_client(&c, true);
    struct client d; // nothing here, all there
    open_client(&d, &h, &key_a);
    fetch_well(&d, 500);
    assert_int_equal(d.accept.n_reused, 498);
    while (d.n_pings == 0) assert_true(take_control(&d, 20)); // the heartbeat of an idle session
    close_client(&d, true);
    wait_idle(&h);
    struct td_host_report report;
    td_host_report(h.host, &report);
    assert_int_equal(report.n_done, 4);
    assert_int_equal(report.n_ended, 0);
    assert_int_equal(h.n_events[TD_HOST_CAME], 2);
    close_house(&h);
}

// A request whose tokens follow, and why it is refused.
static void refused(struct client *c, struct td_wire_msg msg, uint16_t reason)
{
    send_msg(&c->control, msg);
    send_tokens(c, td_min_u32(msg.u.request.n_tokens, N_CTX));
    expect_error(c, reason);
}

static void bad_requests_are_told_why(void **state)
{
    (void)state;
    struct house h;
    open_house(&h, &(struct td_host_config){.progress_ms = 20}, NULL);
    struct client c;
    open_client(&c, &h, NULL);
    struct td_wire_msg msg = request_of(&c, 300, 100);
    msg.u.request.have_sum ^= 1;
    refused(&c, msg, TD_WIRE_E_FORMAT);
    msg = request_of(&c, 300, 100);
    msg.u.request.tokens_sum ^= 1;
    refused(&c, msg, TD_WIRE_E_FORMAT);
    msg = request_of(&c, 300, 0);
    msg.u.request.n_tokens = N_CTX + 1;
    refused(&c, msg, TD_WIRE_E_BUDGET);
    msg = request_of(&c, 300, 0);
    msg.u.request.n_tokens = TD_WIRE_MAX_TOKENS;
    refused(&c, msg, TD_WIRE_E_BUDGET);
    msg = request_of(&c, 300, 0);
    msg.h.kv_type = TD_F32;
    refused(&c, msg, TD_WIRE_E_KV_TYPE);
    const int32_t kept = g_tokens[50];
    g_tokens[50] = N_VOCAB;
    refused(&c, request_of(&c, 300, 0), TD_WIRE_E_FORMAT);
    g_tokens[50] = kept;
    fetch_well(&c, 300); // the session goes on
    wait_idle(&h);
    close_client(&c, true);
    close_house(&h);
}

static void a_cancelled_request_gives_its_slot_back(void **state)
{
    (void)state;
    struct house h;
    open_house(&h, &(struct td_host_config){.progress_ms = 20}, &key_a);
    struct client c;
    open_client(&c, &h, &key_a);
    for (uint32_t i = 0; i < 4; i++) {
        // Before its tokens are there, before it begins, and while it runs.
        send_msg(&c.control, request_of(&c, 600, 0));
        if (i > 0) send_tokens(&c, 600);
        if (i > 1) nap_ms(i * 5);
        send_msg(&c.control, (struct td_wire_msg){.h = {.type = TD_WIRE_CANCEL, .request = c.id}});
        expect_error(&c, TD_WIRE_E_CANCELED);
    }
    cut_one(&c.link[1], &c.data); // with what was on its way
    join_data(&c);
    fetch_well(&c, 600);
    wait_idle(&h);
    close_client(&c, true);
    close_house(&h);
}

// ---- breaks -----------------------------------------------------------------------------------

static void send_resume(struct client *c, const uint8_t token[32])
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

// How the next connection comes to be.
enum again { BOTH, ONLY_DATA, UNNOTICED, N_AGAIN };

static void connect_again(struct client *c, enum again how)
{
    if (how == BOTH) cut(c);
    if (how == ONLY_DATA) cut_one(&c->link[1], &c->data);
    struct client before = *c; // the host still takes these to be alive
    if (how != ONLY_DATA) connect_control(c);
    join_data(c);
    send_resume(c, c->first_token);
    if (how == UNNOTICED) cut(&before);
}

static void a_broken_request_goes_on_where_it_was(void **state)
{
    (void)state;
    for (uint32_t at = 1;; at++) {
        struct house h;
        open_house(&h, &(struct td_host_config){.progress_ms = 20, .n_queue = at % 4},
                   at % 2 ? &key_a : NULL);
        struct client c;
        open_client(&c, &h, at % 2 ? &key_a : NULL);
        c.checkpoint_tokens = CHUNK;
        c.cut_after = at;
        ask(&c, 300);
        int code = fetch(&c);
        const bool is_cut = code != TD_OK;
        if (is_cut) {
            connect_again(&c, (enum again)(at % N_AGAIN));
            if (at > 3) { // once more
                c.cut_after = at + 3;
                code = fetch(&c);
                if (code) connect_again(&c, BOTH);
            }
            c.cut_after = 0;
            if (code) code = fetch(&c);
            if (code) fail_msg("cut after %u: %s; %s; %s", at, err.msg, c.data_err.msg, c.text);
            while (!c.is_accepted) assert_true(take_control(&c, SOON_MS));
            struct td_host_report report;
            td_host_report(h.host, &report);
            assert_true(report.n_resumed >= 1);
        }
        finish(&c);
        close_request(&c);
        wait_idle(&h);
        close_client(&c, true);
        close_house(&h);
        if (!is_cut) break;
        assert_true(at < 100);
    }
}

static void a_lease_ends(void **state)
{
    (void)state;
    struct house h;
    open_house(&h, &(struct td_host_config){.progress_ms = 20, .lease_ms = 30}, &key_a);
    struct client c;
    open_client(&c, &h, &key_a);
    c.cut_after = 3;
    ask(&c, 500);
    assert_int_equal(fetch(&c), TD_EIO);
    cut_one(&c.link[1], &c.data);
    expect_error(&c, TD_WIRE_E_GONE); // the session is still there and is told
    wait_idle(&h);
    join_data(&c);
    send_resume(&c, c.first_token);
    expect_error(&c, TD_WIRE_E_GONE);
    close_request(&c);
    c.cut_after = 0;
    OK(td_session_adopt(c.session, g_tokens, 500, &err));
    fetch_well(&c, 500); // asked anew, with what is here and there
    close_client(&c, false);
    close_house(&h);
}

// Who claims to have what was not sent gets nothing, and the slot is free again.
static void a_resume_that_lies_is_refused(void **state)
{
    (void)state;
    struct house h;
    open_house(&h, &(struct td_host_config){.progress_ms = 20}, &key_a);
    struct client c;
    open_client(&c, &h, &key_a);
    for (uint32_t lie = 0; lie < 3; lie++) {
        c.cut_after = 4;
        ask(&c, 500);
        assert_int_equal(fetch(&c), TD_EIO);
        cut_one(&c.link[1], &c.data);
        join_data(&c);
        uint8_t token[32];
        memcpy(token, c.first_token, 32);
        uint32_t marks[TD_WIRE_MAX_LAYERS] = {0};
        if (lie == 0) token[31] ^= 1;
        struct td_wire_msg msg = {.h = {.type = TD_WIRE_RESUME, .request = c.id + (lie == 1)},
                                  .u.resume = {.n_spans = 1,
                                               .span_sum = 7,
                                               .n_layers = g_model->spec.n_layers - (lie == 2)},
                                  .items = marks,
                                  .items_bytes = (g_model->spec.n_layers - (lie == 2)) * 4};
        memcpy(msg.u.resume.token, token, 32);
        send_msg(&c.control, msg);
        expect_error(&c, TD_WIRE_E_GONE);
        send_msg(&c.control, (struct td_wire_msg){.h = {.type = TD_WIRE_CANCEL, .request = c.id}});
        if (lie < 2) expect_error(&c, TD_WIRE_E_CANCELED); // that one was not touched
        close_request(&c);
        td_session_close(c.session);
        c.session = open_session(c.engine, N_CTX + 1);
        wait_idle(&h);
    }
    c.cut_after = 0;
    fetch_well(&c, 500);
    close_client(&c, true);
    close_house(&h);
}

// ---- the rest ---------------------------------------------------------------------------------

static void a_full_house_is_busy_until_somebody_has_gone(void **state)
{
    (void)state;
    struct house h;
    open_house(&h, &(struct td_host_config){.progress_ms = 20, .n_slots = 2, .n_queue = 1}, &key_a);
    struct client c[3];
    for (int i = 0; i < 3; i++) open_client(&c[i], &h, &key_a);
    for (int i = 0; i < 2; i++) {
        c[i].cut_after = 2;
        ask(&c[i], 600);
        assert_int_equal(fetch(&c[i]), TD_EIO);
    }
    send_msg(&c[2].control, request_of(&c[2], 300, 0));
    send_tokens(&c[2], 300);
    expect_error(&c[2], TD_WIRE_E_BUSY);
    cut(&c[0]); // its lease gives way
    struct td_host_report report;
    do {
        nap_ms(2);
        td_host_report(h.host, &report);
    } while (report.n_peers == 3);
    fetch_well(&c[2], 300);
    c[1].cut_after = 0; // goes on beside it
    OK(fetch(&c[1]));
    finish(&c[1]);
    for (int i = 0; i < 2; i++) close_request(&c[i]);
    for (int i = 0; i < 3; i++) close_client(&c[i], true);
    wait_idle(&h);
    close_house(&h);
}

static void a_canary_brings_logits(void **state)
{
    (void)state;
    struct house h;
    open_house(&h, &(struct td_host_config){.progress_ms = 20}, &key_a);
    struct client c;
    open_client(&c, &h, &key_a);
    for (uint32_t n = 2; n <= 256; n = n * 5 + 1) {
        c.flags = TD_WIRE_CANARY;
        fetch_well(&c, n);
        assert_int_equal(c.n_logits, N_VOCAB);
        OK(td_session_want(c.session, g_tokens + 7, 5, NULL, 0, &err)); // other tokens: have = 0
        OK(td_session_sync(c.session, g_tokens + 7, 5, NULL, 0, NULL, NULL, &err));
    }
    wait_idle(&h);
    close_client(&c, true);
    close_house(&h);
}

static void nothing_before_the_end_if_so_wished(void **state)
{
    (void)state;
    struct house h;
    open_house(&h, &(struct td_host_config){.progress_ms = 20, .send_at_end = true}, &key_a);
    struct client c;
    open_client(&c, &h, &key_a);
    c.checkpoint_tokens = 64;
    fetch_well(&c, 500);
    assert_int_equal(c.n_frames, g_model->spec.n_layers + 1); // one checkpoint, which is FINAL
    close_client(&c, true);
    close_house(&h);
}

static void probes_are_measured_both_ways(void **state)
{
    (void)state;
    struct house h;
    open_house(&h, &(struct td_host_config){.progress_ms = 20}, &key_a);
    struct client c;
    open_client(&c, &h, &key_a);
    const uint32_t size = (3u << 20) + 17;
    struct td_wire_msg msg = {.h = {.type = TD_WIRE_PROBE, .request = 1},
                              .u.probe = {.towards_asker = 1, .size_bytes = size}};
    send_msg(&c.control, msg);
    for (uint32_t n = 0; n < size;) {
        struct td_wire_header header;
        bool is_there;
        OK(td_frames_header(&c.data, &header, SOON_MS, &is_there, &err));
        assert_true(is_there && header.type == TD_WIRE_BLAST);
        OK(td_frames_payload(&c.data, &header, &msg, &err));
        n += header.size_bytes;
        assert_true(n <= size);
    }
    msg = (struct td_wire_msg){.h = {.type = TD_WIRE_PROBE, .request = 2},
                               .u.probe = {.towards_asker = 0, .size_bytes = 1000}};
    send_msg(&c.control, msg);
    // PONG says that PROBE was taken.
    send_msg(&c.control, (struct td_wire_msg){.h.type = TD_WIRE_PING, .u.t_ns = 1});
    while (!c.n_pongs) assert_true(take_control(&c, SOON_MS));
    static const uint8_t filler[500];
    for (int i = 0; i < 2; i++) {
        struct td_wire_header header = {.version = 1, .type = TD_WIRE_BLAST, .request = 2};
        uint8_t bytes[TD_WIRE_HEADER_BYTES];
        td_wire_seal(bytes, &header, filler, sizeof(filler));
        OK(td_frames_write_bulk(&c.data, bytes, filler, sizeof(filler), &err));
    }
    while (!c.probed.size_bytes) assert_true(take_control(&c, SOON_MS));
    assert_int_equal(c.probed.size_bytes, 1000);
    c.id = 2;
    fetch_well(&c, 100);
    close_client(&c, true);
    close_house(&h);
}

static void a_second_data_connection_takes_the_place_of_the_first(void **state)
{
    (void)state;
    struct house h;
    open_house(&h, &(struct td_host_config){.progress_ms = 20}, &key_a);
    struct client c;
    open_client(&c, &h, &key_a);
    fetch_well(&c, 100);
    struct client before = c;
    join_data(&c);
    fetch_well(&c, 200);
    uint8_t byte;
    assert_int_equal(td_link_read(before.link[1], &byte, 1, &err), TD_EIO);
    cut_one(&before.link[1], &before.data);
    close_client(&c, true);
    close_house(&h);
}

static void who_has_no_token_or_no_manners_is_put_out(void **state)
{
    (void)state;
    struct house h;
    open_house(&h, &(struct td_host_config){.progress_ms = 20}, &key_a);
    struct client c;
    open_client(&c, &h, &key_a);
    // A token of no session.
    struct client d = c;
    OK(td_link_connect(&d.link[1], d.where, d.key, NULL, &err));
    OK(td_frames_init(&d.data, d.link[1], TD_WIRE_DATA, 1, &err));
    struct td_wire_msg msg = {.h = {.type = TD_WIRE_JOIN}};
    memcpy(msg.u.join_token, c.welcome.token, 32);
    msg.u.join_token[0] ^= 1;
    send_msg(&d.data, msg);
    assert_int_equal(td_peer_expect(&d.data, TD_WIRE_JOINED, SOON_MS, &msg, &err), TD_ECANCEL);
    cut_one(&d.link[1], &d.data);
    // Garbage at the beginning, and a frame that may not be first.
    struct td_rng rng = {5};
    for (uint32_t i = 0; i < 6; i++) {
        struct td_link *link;
        OK(td_link_connect(&link, h.where, &key_a, NULL, &err));
        uint8_t bytes[200];
        for (size_t k = 0; k < sizeof(bytes); k++) bytes[k] = (uint8_t)td_rng_u64(&rng);
        if (i > 2) {
            msg = (struct td_wire_msg){.h = {.type = TD_WIRE_PING, .version = 1}};
            (void)td_wire_encode(bytes, sizeof(bytes), &msg);
        }
        OK(td_link_write(link, bytes, sizeof(bytes), &err));
        assert_int_not_equal(td_link_read(link, bytes, 1, &err), TD_OK);
        td_link_close(link);
    }
    fetch_well(&c, 100); // nobody else is disturbed
    // Numbers of requests ascend; else the session ends, and says why.
    c.id--;
    send_msg(&c.control, request_of(&c, 100, 0));
    expect_error(&c, TD_WIRE_E_FORMAT);
    while (take_control(&c, SOON_MS)) {
    }
    close_client(&c, false);
    wait_idle(&h);
    close_house(&h);
}

static void a_stop_is_told(void **state)
{
    (void)state;
    struct house h;
    open_house(&h, &(struct td_host_config){.progress_ms = 20, .n_queue = 1}, &key_a);
    struct client c;
    open_client(&c, &h, &key_a);
    c.cut_after = 2;
    ask(&c, 600);
    assert_int_equal(fetch(&c), TD_EIO);
    close_house(&h); // with a request under way
    expect_error(&c, TD_WIRE_E_SHUTDOWN);
    close_request(&c);
    close_client(&c, false);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(good_requests_give_the_bits_of_a_local_prefill),
        cmocka_unit_test(bad_requests_are_told_why),
        cmocka_unit_test(a_cancelled_request_gives_its_slot_back),
        cmocka_unit_test(a_broken_request_goes_on_where_it_was),
        cmocka_unit_test(a_lease_ends),
        cmocka_unit_test(a_resume_that_lies_is_refused),
        cmocka_unit_test(a_full_house_is_busy_until_somebody_has_gone),
        cmocka_unit_test(a_canary_brings_logits),
        cmocka_unit_test(nothing_before_the_end_if_so_wished),
        cmocka_unit_test(probes_are_measured_both_ways),
        cmocka_unit_test(a_second_data_connection_takes_the_place_of_the_first),
        cmocka_unit_test(who_has_no_token_or_no_manners_is_put_out),
        cmocka_unit_test(a_stop_is_told),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
