// SPDX-License-Identifier: MIT
// The decode side against a scripted prefill side: a small honest one that can be told to lie, to
// fall silent or to leave. Whatever it does, the session goes on from what is whole.
#include "pair_rig.h"
#include "relay/send.h"

#include <math.h>

enum { N = 200, WAIT_MS = 60000 };

static struct td_model *g_other; // the same shape, other weights

// What the prefill side does instead of what it should.
enum act {
    HONEST,
    NO_WELCOME,
    WRONG_WEIGHTS, // computes with other weights than it claims
    NO_LOGITS,
    BUSY,
    NO_ROOM,
    GIVES_UP, // ERROR (cancelled) that nobody asked for
    ACCEPTS_TWICE,
    REUSES_TOO_MUCH,
    TELLS_TOO_MUCH, // PROGRESS beyond the end
    COMMITS,        // a frame that only the decode side sends
    STRANGE_FRAMES, // of requests that nobody made
    SPAN_TOO_FAR,   // beyond the end of the request
    BAD_CHECKPOINT, // counts other spans
    ONLY_PONGS,     // alive, and does nothing
    NOTHING,        // not even that
    LEAVES,         // at REQUEST, and is gone at RESUME
    LEAVES_IN_DATA, // in the middle of a span
    N_ACTS
};

struct host {
    struct td_listener *listener;
    struct td_engine *engine;
    struct td_session *session;
    _Atomic enum act act;
    pthread_t thread;
    _Atomic bool is_closing;
    _Atomic uint32_t n_sessions, n_requests, n_cancels, n_resumes;
    // Of the session.
    struct td_link *link[2];
    struct td_frames control, data;
    struct td_wire_msg request;
    int32_t tokens[N_CTX];
    struct td_sending *sending;
};

static struct td_wire_msg frame_of(enum td_wire_type type, uint64_t request)
{
    return (struct td_wire_msg){.h = {.version = 1, .type = (uint8_t)type, .request = request}};
}

static void say(struct td_frames *f, const struct td_wire_msg *msg)
{
    struct td_error e;
    if (td_frames_write(f, msg, &e)) return; // the other end left
}

static void say_error(struct host *h, enum td_wire_reason reason, const char *text)
{
    td_peer_refuse(&h->control, h->request.h.request, reason, text);
}

static void layer_done(void *ctx, const struct td_kv_span *span)
{
    td_sending_layer_done(ctx, span);
}

static void send_logits(struct host *h)
{
    const float *logits = td_session_logits(h->session);
    struct td_wire_header head = frame_of(TD_WIRE_LOGITS, h->request.h.request).h;
    head.n = N_VOCAB;
    uint8_t bytes[TD_WIRE_HEADER_BYTES];
    struct td_error e;
    td_wire_seal(bytes, &head, logits, N_VOCAB * sizeof(float));
    if (td_frames_write_bulk(&h->data, bytes, logits, N_VOCAB * sizeof(float), &e)) return;
}

// Computes the prompt and sends its KV, as the real one does, but here and now.
static void compute(struct host *h)
{
    struct td_error e;
    const struct td_wire_request *q = &h->request.u.request;
    const uint64_t id = h->request.h.request;
    struct td_wire_msg msg = frame_of(TD_WIRE_ACCEPT, id);
    say(&h->control, &msg);
    struct td_sender *sender;
    const struct td_sender_config cfg = {.backend = td_backend_cpu()};
    const struct td_send_request out = {.id = id,
                                        .spec = &g_model->spec,
                                        .kv = td_session_kv(h->session),
                                        .kv_type = (enum td_type)h->request.h.kv_type,
                                        .n_tokens = q->n_tokens,
                                        .have = q->have,
                                        .checkpoint_tokens = q->checkpoint_tokens};
    if (td_sender_open(&sender, &cfg, &h->data, &e)) return;
    if (td_sending_begin(&h->sending, sender, &out, &e)) return;
    const bool is_canary = q->flags & TD_WIRE_CANARY;
    const uint32_t n = q->n_tokens - 1;
    const uint64_t t0 = td_clock_ns();
    int code = td_session_want(h->session, h->tokens, n, NULL, 0, &e);
    const uint32_t n_reused = td_session_reused(h->session);
    td_engine_watch(h->engine, h->sending, layer_done);
    td_sending_reused(h->sending, n_reused, NULL);
    while (!code && td_session_state(h->session) == TD_SESSION_PREFILLING) {
        code = td_engine_step(h->engine, NULL, &e);
        msg = frame_of(TD_WIRE_PROGRESS, id);
        msg.u.progress.far_ns = td_clock_ns() - t0;
        say(&h->control, &msg);
    }
    td_engine_watch(h->engine, NULL, NULL);
    if (!code && is_canary)
        code = td_session_sync(h->session, h->tokens, q->n_tokens, NULL, 0, NULL, NULL, &e);
    if (!code && is_canary && h->act != NO_LOGITS) send_logits(h);
    const struct td_send_account account = {
        .far_ns = td_clock_ns() - t0, .n_computed = n - n_reused, .n_reused = n_reused};
    td_sending_finish(h->sending, &account);
    td_sending_wait(h->sending, WAIT_MS);
    td_sending_end(h->sending);
    td_sender_close(sender);
}

// A span of one position whose header says `edit`; false: the payload is cut short.
static void send_span(struct host *h, uint64_t id, uint32_t pos0, bool is_whole)
{
    const struct td_kv_layer *l = &g_model->spec.kv[1];
    const uint32_t size = l->n_kv_heads * l->head_dim * 4;
    static uint8_t zeros[4096];
    uint8_t bytes[TD_WIRE_HEADER_BYTES];
    struct td_wire_header head = frame_of(TD_WIRE_SPAN, id).h;
    head.kv_type = TD_F16;
    head.layer = 1;
    head.pos0 = pos0;
    head.n = 1;
    struct td_error e;
    td_wire_seal(bytes, &head, zeros, size);
    if (td_frames_write_bulk(&h->data, bytes, zeros, is_whole ? size : size / 2, &e)) return;
}

// False: the session ends.
static bool act_on_request(struct host *h)
{
    const uint64_t id = h->request.h.request;
    struct td_wire_msg msg;
    h->n_requests++;
    const bool is_canary = h->request.u.request.flags & TD_WIRE_CANARY;
    switch (is_canary ? HONEST : h->act) {
    case BUSY: say_error(h, TD_WIRE_E_BUSY, "every slot\nis taken"); return true;
    case NO_ROOM: say_error(h, TD_WIRE_E_BUDGET, "too long"); return true;
    case GIVES_UP: say_error(h, TD_WIRE_E_CANCELED, "no more"); return true;
    case ACCEPTS_TWICE:
        msg = frame_of(TD_WIRE_ACCEPT, id);
        say(&h->control, &msg);
        say(&h->control, &msg);
        return true;
    case REUSES_TOO_MUCH:
        msg = frame_of(TD_WIRE_ACCEPT, id);
        msg.u.accept.n_reused = N + 1;
        say(&h->control, &msg);
        return true;
    case TELLS_TOO_MUCH:
        msg = frame_of(TD_WIRE_PROGRESS, id);
        msg.u.progress.n_sent = N;
        say(&h->control, &msg);
        return true;
    case COMMITS:
        msg = frame_of(TD_WIRE_COMMITTED, id);
        say(&h->control, &msg);
        return true;
    case STRANGE_FRAMES:
        for (uint64_t i = 0; i < 5; i++) {
            msg = frame_of(TD_WIRE_PROGRESS, id + 7 + i);
            say(&h->control, &msg);
            msg = frame_of(TD_WIRE_PONG, 0);
            say(&h->control, &msg);
            send_span(h, id + 7 + i, 100000, true);
        }
        break;
    case SPAN_TOO_FAR: send_span(h, id, N - 1, true); return true;
    case BAD_CHECKPOINT:
        msg = frame_of(TD_WIRE_CHECKPOINT, id);
        msg.h.n = 100;
        msg.u.checkpoint.n_spans = 8;
        say(&h->data, &msg);
        return true;
    case ONLY_PONGS: return true;
    case NOTHING: nap_ms(1000); return false;
    case LEAVES: return false;
    case LEAVES_IN_DATA: send_span(h, id, 0, false); return false;
    case HONEST:
    case NO_WELCOME:
    case WRONG_WEIGHTS:
    case NO_LOGITS:
    case N_ACTS: break;
    }
    compute(h);
    return true;
}

static bool act_on_probe(struct host *h, const struct td_wire_msg *probe)
{
    static uint8_t filler[1 << 16];
    struct td_error e;
    uint64_t left = probe->u.probe.size_bytes;
    struct td_wire_header head;
    struct td_wire_msg msg = {0};
    bool is_there;
    while (left > 0 && probe->u.probe.towards_asker) {
        const uint32_t n = left < sizeof(filler) ? (uint32_t)left : (uint32_t)sizeof(filler);
        uint8_t bytes[TD_WIRE_HEADER_BYTES];
        head = frame_of(TD_WIRE_BLAST, probe->h.request).h;
        td_wire_seal(bytes, &head, filler, n);
        if (td_frames_write_bulk(&h->data, bytes, filler, n, &e)) return false;
        left -= n;
    }
    while (left > 0) { // filler comes once PING is answered
        if (td_frames_header(&h->control, &head, 10, &is_there, &e)) return false;
        if (is_there && td_frames_payload(&h->control, &head, &msg, &e)) return false;
        struct td_wire_msg pong = frame_of(TD_WIRE_PONG, 0);
        pong.u.t_ns = msg.u.t_ns;
        if (is_there && head.type == TD_WIRE_PING) say(&h->control, &pong);
        if (td_frames_header(&h->data, &head, 10, &is_there, &e)) return false;
        if (is_there && td_frames_payload(&h->data, &head, &msg, &e)) return false;
        if (is_there) left -= msg.items_bytes;
    }
    if (probe->u.probe.towards_asker) return true;
    msg = frame_of(TD_WIRE_PROBED, probe->h.request);
    msg.u.probed = (struct td_wire_probed){probe->u.probe.size_bytes, 1000000};
    say(&h->control, &msg);
    return true;
}

static bool act_on(struct host *h, const struct td_wire_msg *msg)
{
    struct td_wire_msg pong;
    switch (msg->h.type) {
    case TD_WIRE_PING:
        pong = frame_of(TD_WIRE_PONG, 0);
        pong.u.t_ns = msg->u.t_ns;
        say(&h->control, &pong);
        return true;
    case TD_WIRE_REQUEST: h->request = *msg; return true;
    case TD_WIRE_TOKENS:
        memcpy(h->tokens + msg->h.pos0, msg->items, msg->items_bytes);
        return msg->h.pos0 + msg->h.n < h->request.u.request.n_tokens || act_on_request(h);
    case TD_WIRE_RESUME:
        h->n_resumes++;
        h->request = *msg;
        say_error(h, TD_WIRE_E_GONE, "nothing is left");
        return true;
    case TD_WIRE_CANCEL: h->n_cancels++; return true;
    case TD_WIRE_PROBE: return act_on_probe(h, msg);
    case TD_WIRE_BYE:
    case TD_WIRE_ERROR: return false;
    default: return true;
    }
}

static bool greet(struct host *h)
{
    struct td_error e;
    struct td_peer ours, theirs;
    bool differ;
    init_peer(&ours, TD_WIRE_PREFILL, g_model, 0);
    if (td_frames_init(&h->control, h->link[0], TD_WIRE_CONTROL, 0, &e)) return false;
    if (td_peer_greet(&h->control, &ours, &theirs, &differ, &e)) return false;
    if (h->act == NO_WELCOME) {
        td_peer_refuse(&h->control, 0, TD_WIRE_E_BUSY, "full house");
        return false;
    }
    struct td_wire_msg msg = frame_of(TD_WIRE_WELCOME, 0);
    msg.u.welcome = (struct td_wire_welcome){
        .token = {9}, .progress_ms = 50, .n_slots = 1, .max_tokens = N_CTX};
    say(&h->control, &msg);
    for (int i = 0; !h->link[1]; i++)
        if (i > WAIT_MS / 100 || td_listener_accept(h->listener, 100, &h->link[1], &e))
            return false;
    if (td_frames_init(&h->data, h->link[1], TD_WIRE_DATA, 1, &e)) return false;
    if (td_peer_expect(&h->data, TD_WIRE_JOIN, WAIT_MS, &msg, &e)) return false;
    msg = frame_of(TD_WIRE_JOINED, 0);
    say(&h->data, &msg);
    return true;
}

static void *host_main(void *ctx)
{
    struct host *h = ctx;
    struct td_error e;
    while (!h->is_closing) {
        if (td_listener_accept(h->listener, 50, &h->link[0], &e)) break;
        if (!h->link[0]) continue;
        h->n_sessions++;
        bool goes_on = greet(h);
        while (goes_on && !h->is_closing) {
            struct td_wire_header head;
            struct td_wire_msg msg;
            bool is_there;
            int code = td_frames_header(&h->control, &head, 50, &is_there, &e);
            if (!code && is_there) code = td_frames_payload(&h->control, &head, &msg, &e);
            goes_on = !code && (!is_there || act_on(h, &msg));
        }
        td_frames_free(&h->control);
        td_frames_free(&h->data);
        for (int i = 0; i < 2; i++) {
            td_link_close(h->link[i]);
            h->link[i] = NULL;
        }
    }
    return NULL;
}

static void host_open(struct host *h, enum act act)
{
    memset(h, 0, sizeof(*h));
    h->act = act;
    h->engine = open_engine_cfg(act == WRONG_WEIGHTS ? g_other : g_model, config(CHUNK, 1));
    h->session = open_session(h->engine, N_CTX);
    OK(td_listener_open(&h->listener, "127.0.0.1:0", NULL, NULL, &err));
    assert_int_equal(pthread_create(&h->thread, NULL, host_main, h), 0);
}

static void host_close(struct host *h)
{
    h->is_closing = true;
    td_listener_cancel(h->listener);
    pthread_join(h->thread, NULL);
    td_listener_close(h->listener);
    td_session_close(h->session);
    close_engine(h->engine);
}

static bool is_silent(enum act act)
{
    return act == ONLY_PONGS || act == NOTHING;
}

static int near_open(struct near *n, struct host *h, bool no_canary)
{
    // Whoever leaves is seen to leave, so time ends nothing but the silence that is meant: on a
    // busy machine all takes seconds.
    const struct td_far_config wishes = {.limits = {.handshake_ms = WAIT_MS, .stall_ms = WAIT_MS},
                                         .resume_ms = WAIT_MS,
                                         .silent_ms = is_silent(h->act) ? 800 : WAIT_MS,
                                         .no_canary = no_canary};
    int code;
    int n_tries = 0;
    do {
        if (n_tries > 0) close_near(n);
        code = open_near(n, td_listener_port(h->listener), NULL, &wishes);
    } while (code == TD_EIO && is_silent(h->act) && ++n_tries < 50);
    return code;
}

static void an_honest_peer_gives_the_same_bits(void **state)
{
    (void)state;
    struct host h;
    struct near n;
    struct td_fetch_report report;
    host_open(&h, HONEST);
    OK(near_open(&n, &h, false));
    struct td_far_info info;
    td_far_info(n.far, &info);
    assert_true(info.canary_kv_error == 0 && fabs(info.canary_logits_kl) < 1e-9);
    assert_true(info.round_trip_seconds > 0 && info.connect_seconds > 0);
    assert_false(info.is_encrypted);
    assert_int_equal(fetch(&n, N, &report), TD_FETCH_DONE);
    assert_int_equal(report.n_committed, N - 1);
    assert_true(report.bytes > 0 && report.transfer_seconds > 0 && report.far_seconds > 0);
    assert_true(report.exposed_seconds >= 0 && report.exposed_seconds <= report.seconds);
    // The next turn, and one that has its own beginning.
    assert_int_equal(fetch(&n, N + 50, &report), TD_FETCH_DONE);
    assert_int_equal(report.n_have, N);
    struct td_fetch *f;
    assert_int_equal(td_fetch_begin(&f, n.far, n.session, g_tokens, N, &err), TD_EARG);
    assert_int_equal(td_fetch_begin(&f, n.far, n.session, g_tokens, 1, &err), TD_EARG);
    double rate[2] = {0};
    OK(td_far_measure(n.far, 3 << 20, true, &rate[0], &err));
    OK(td_far_measure(n.far, (3 << 20) + 5, false, &rate[1], &err));
    assert_true(rate[0] > 0 && rate[1] > 0);
    close_near(&n);
    host_close(&h);
}

static void a_peer_that_is_not_right_is_refused(void **state)
{
    (void)state;
    static const struct {
        enum act act;
        int code;
        const char *word;
    } cases[] = {{WRONG_WEIGHTS, TD_EARG, "KV of layer"},
                 {NO_LOGITS, TD_EFORMAT, "no logits"},
                 {NO_WELCOME, TD_EFULL, "full house"}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct host h;
        struct near n;
        host_open(&h, cases[i].act);
        assert_int_equal(near_open(&n, &h, false), cases[i].code);
        if (!strstr(err.msg, cases[i].word)) fail_msg("'%s' lacks '%s'", err.msg, cases[i].word);
        assert_null(n.far);
        close_near(&n);
        host_close(&h);
    }
}

static void whatever_a_peer_does_the_session_goes_on(void **state)
{
    (void)state;
    static const struct {
        enum act act;
        int code; // TD_OK: all came
        const char *word;
    } cases[] = {
        {BUSY, TD_EFULL, "every slot?is taken"},
        {NO_ROOM, TD_ENOMEM, "too long"},
        {GIVES_UP, TD_EIO, "no more"},
        {ACCEPTS_TWICE, TD_EFORMAT, "ACCEPT"},
        {REUSES_TOO_MUCH, TD_EFORMAT, "ACCEPT"},
        {TELLS_TOO_MUCH, TD_EFORMAT, "PROGRESS"},
        {COMMITS, TD_EFORMAT, "COMMITTED"},
        {STRANGE_FRAMES, TD_OK, ""},
        {SPAN_TOO_FAR, TD_EFORMAT, "beyond"},
        {BAD_CHECKPOINT, TD_EFORMAT, "checkpoint"},
        {ONLY_PONGS, TD_EIO, ""},
        {NOTHING, TD_EIO, ""},
        {LEAVES, TD_EIO, ""},
        {LEAVES_IN_DATA, TD_EIO, ""},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct host h;
        struct near n;
        struct td_fetch_report report;
        host_open(&h, cases[i].act);
        OK(near_open(&n, &h, true));
        err = (struct td_error){0};
        const enum td_fetch_state end = fetch(&n, N, &report);
        if (end != (cases[i].code ? TD_FETCH_ENDED : TD_FETCH_DONE))
            fail_msg("act %d: state %d: %s", (int)cases[i].act, (int)end, err.msg);
        if (cases[i].code && err.code != cases[i].code)
            fail_msg("act %d: %d: %s", (int)cases[i].act, err.code, err.msg);
        if (cases[i].code && !strstr(err.msg, cases[i].word))
            fail_msg("act %d: '%s' lacks '%s'", (int)cases[i].act, err.msg, cases[i].word);
        if (cases[i].act == LEAVES) assert_true(h.n_requests > 1); // nothing had come
        close_near(&n);
        host_close(&h);
    }
}

static void a_cancel_ends_it_at_once(void **state)
{
    (void)state;
    struct host h;
    struct near n;
    host_open(&h, HONEST); // its silence is not what ends anything here
    OK(near_open(&n, &h, true));
    h.act = ONLY_PONGS;
    struct td_fetch *f;
    OK(td_fetch_begin(&f, n.far, n.session, g_tokens, N, &err));
    td_fetch_cancel(f);
    assert_int_equal(td_fetch_poll(f, 5000, &err), TD_FETCH_ENDED);
    assert_int_equal(err.code, TD_ECANCEL);
    td_fetch_end(f);
    // One that is forgotten is cancelled; the connection serves the next.
    OK(td_fetch_begin(&f, n.far, n.session, g_tokens, N, &err));
    td_fetch_end(f);
    for (int i = 0; h.n_cancels < 2 && i < WAIT_MS / 10; i++) nap_ms(10);
    assert_int_equal(h.n_cancels, 2);
    assert_true(td_far_is_up(n.far));
    h.act = HONEST;
    struct td_fetch_report report;
    assert_int_equal(fetch(&n, N, &report), TD_FETCH_DONE);
    assert_int_equal(h.n_sessions, 1);
    close_near(&n);
    host_close(&h);
}

static void nobody_there_is_said(void **state)
{
    (void)state;
    struct host h;
    struct near n;
    host_open(&h, HONEST);
    host_close(&h);
    host_open(&h, HONEST);
    OK(near_open(&n, &h, true));
    host_close(&h);
    struct td_fetch *f;
    for (int i = 0; td_far_is_up(n.far) && i < WAIT_MS / 10; i++) nap_ms(10);
    assert_int_equal(td_fetch_begin(&f, n.far, n.session, g_tokens, N, &err), TD_EIO);
    assert_null(f);
    close_near(&n);
}

static int setup_both(void **state)
{
    g_other = open_model(MODEL ",seed=2");
    return setup(state);
}

static int teardown_both(void **state)
{
    td_model_close(g_other);
    return teardown(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_honest_peer_gives_the_same_bits),
        cmocka_unit_test(a_peer_that_is_not_right_is_refused),
        cmocka_unit_test(whatever_a_peer_does_the_session_goes_on),
        cmocka_unit_test(a_cancel_ends_it_at_once),
        cmocka_unit_test(nobody_there_is_said),
    };
    return cmocka_run_group_tests(tests, setup_both, teardown_both);
}
