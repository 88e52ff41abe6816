// SPDX-License-Identifier: MIT
// Both real ends in one process, over sockets: whatever the lengths, the prefixes, the breaks, the
// answer's logits are those of a machine that read the prompt itself, bit by bit.
#include "engine/support.h"
#include "link_support.h"
#include "relay/far.h"
#include "relay/fault_proxy.h"
#include "relay/host.h"

#include <math.h>
#include <stdio.h>

enum { N_CTX = 600, N_VOCAB = 1024, CHUNK = 64, WINDOW = 16 };

static struct td_model *g_model, *g_other; // the same shape, other weights
static int32_t g_tokens[N_CTX];

static int setup(void **state)
{
    (void)state;
    g_model = open_model("synth:tiny,window=16,vocab=1024,ctx=8192");
    g_other = open_model("synth:tiny,window=16,vocab=1024,ctx=8192,seed=2");
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    td_model_close(g_model);
    td_model_close(g_other);
    return 0;
}

// Another prompt.
static void new_tokens(uint64_t seed)
{
    struct td_rng rng = {seed};
    random_tokens(&rng, g_tokens, N_CTX, N_VOCAB);
}

// ---- the prefill side -------------------------------------------------------------------------

struct house {
    const struct td_model *model; // NULL: g_model
    const struct td_key *key;
    uint8_t weights; // digest's first byte
    uint32_t n_slots, lease_ms;
    double tokens_per_s; // pace; 0: none
    bool is_high;        // precision
    uint16_t port;       // 0: any
    struct td_engine *engine;
    struct td_listener *listener;
    struct td_peer peer;
    struct td_host *host;
    pthread_t thread;
    int code;
    struct td_error err;
};

static void *house_main(void *ctx)
{
    struct house *h = ctx;
    h->code = td_host_serve(h->host, &h->err);
    return NULL;
}

static void open_house(struct house *h)
{
    static const uint8_t tokenizer[32] = {1};
    const uint8_t weights[32] = {h->weights};
    struct td_engine_config cfg = config(CHUNK, 1);
    if (h->is_high) cfg.device.precision = TD_PRECISION_HIGH;
    h->engine = open_engine_cfg(h->model ? h->model : g_model, cfg);
    if (h->tokens_per_s > 0) {
        const struct td_pace pace = {.prefill = {.points = {{0, h->tokens_per_s}}, .n_points = 1}};
        td_engine_pace(h->engine, &pace);
    }
    char where[32];
    (void)snprintf(where, sizeof(where), "127.0.0.1:%u", h->port);
    OK(td_listener_open(&h->listener, where, h->key, NULL, &err));
    h->port = td_listener_port(h->listener);
    OK(td_peer_init(&h->peer, TD_WIRE_PREFILL, &g_model->spec, tokenizer, weights, TD_F16, &err));
    const struct td_host_config host = {.engine = h->engine,
                                        .backend = td_backend_cpu(),
                                        .peer = &h->peer,
                                        .kv_type = TD_F16,
                                        .n_slots = h->n_slots ? h->n_slots : 1,
                                        .n_ctx = N_CTX,
                                        .max_kv_bytes = 1 << 24,
                                        .lease_ms = h->lease_ms,
                                        .progress_ms = 20};
    OK(td_host_open(&h->host, &host, h->listener, &err));
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

// ---- the decode side --------------------------------------------------------------------------

struct near {
    struct td_engine *engine;
    struct td_session *session;
    struct td_far *far;
    struct td_peer peer;
};

// wishes: checkpoint_tokens, kv_type, flags of identity.
static int open_near(struct near *n, uint16_t port, const struct td_key *key,
                     const struct td_far_config *wishes)
{
    static const uint8_t tokenizer[32] = {1}, weights[32] = {0};
    memset(n, 0, sizeof(*n));
    n->engine = open_engine_cfg(g_model, config(50, 1)); // another chunk here
    n->session = open_session(n->engine, N_CTX);
    OK(td_peer_init(&n->peer, TD_WIRE_DECODE, &g_model->spec, tokenizer, weights, TD_F16, &err));
    struct td_far_config cfg = {.no_canary = true};
    if (wishes) cfg = *wishes;
    if (cfg.peer) n->peer.identity.flags = TD_WIRE_ALLOW_WEIGHTS;
    char where[32];
    (void)snprintf(where, sizeof(where), "127.0.0.1:%u", port);
    cfg.where = where;
    cfg.key = key;
    cfg.engine = n->engine;
    cfg.backend = td_backend_cpu();
    cfg.peer = &n->peer;
    cfg.engine_kv_type = TD_F16;
    if (!cfg.kv_type) cfg.kv_type = TD_F16;
    if (!cfg.checkpoint_tokens) cfg.checkpoint_tokens = CHUNK;
    return td_far_open(&n->far, &cfg, &err);
}

static void close_near(struct near *n)
{
    td_far_close(n->far);
    td_session_close(n->session);
    struct td_device_report report;
    td_engine_report(n->engine, &report);
    assert_int_equal(report.kv_bytes, 0);
    td_engine_close(n->engine);
}

static enum td_fetch_state wait_for(struct td_fetch *f)
{
    enum td_fetch_state state;
    const uint64_t t0 = td_clock_ns();
    do {
        state = td_fetch_poll(f, 50, &err);
    } while (state == TD_FETCH_RUNNING && seconds_since(t0) < 60);
    return state;
}

// The rest is read here: the same bits as if all had been.
static void read_rest(struct near *n, uint32_t n_tokens, uint32_t n_whole)
{
    OK(td_session_sync(n->session, g_tokens, n_tokens, NULL, 0, NULL, NULL, &err));
    assert_int_equal(td_session_reused(n->session), n_whole);
    assert_fresh(g_model, n->session, g_tokens, n_tokens);
}

static enum td_fetch_state fetch(struct near *n, uint32_t n_tokens, struct td_fetch_report *report)
{
    struct td_fetch *f;
    OK(td_fetch_begin(&f, n->far, n->session, g_tokens, n_tokens, &err));
    const enum td_fetch_state state = wait_for(f);
    td_fetch_report(f, report);
    td_fetch_end(f);
    const struct td_error why = err;
    read_rest(n, n_tokens, report->n_committed);
    err = why;
    return state;
}

static void fetch_all(struct near *n, uint32_t n_tokens)
{
    struct td_fetch_report report;
    if (fetch(n, n_tokens, &report) != TD_FETCH_DONE) fail_msg("%u: %s", n_tokens, err.msg);
    assert_int_equal(report.n_committed, n_tokens - 1);
}

// ---- well -------------------------------------------------------------------------------------

static const uint32_t lengths[] = {2,          3,         WINDOW - 1, WINDOW,    WINDOW + 1,
                                   WINDOW + 2, CHUNK - 1, CHUNK,      CHUNK + 1, 3 * CHUNK + 7,
                                   500};

static void bits_are_those_of_a_local_prefill(void **state)
{
    (void)state;
    for (int has_key = 0; has_key < 2; has_key++) {
        struct house h = {.key = has_key ? &key_a : NULL};
        struct near n;
        open_house(&h);
        const struct td_far_config with_canary = {0};
        OK(open_near(&n, h.port, h.key, &with_canary));
        struct td_far_info info;
        td_far_info(n.far, &info);
        assert_true(info.canary_kv_error == 0 && fabs(info.canary_logits_kl) < 1e-9);
        assert_int_equal(info.is_encrypted, has_key);
        assert_false(info.weights_differ);
        for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
            new_tokens(100 + i);
            fetch_all(&n, lengths[i]);
        }
        // The far side has its beginning; this one does not.
        td_session_close(n.session);
        n.session = open_session(n.engine, N_CTX);
        fetch_all(&n, 400);
        close_near(&n);
        close_house(&h);
    }
}

static void a_prefix_on_either_side_changes_nothing(void **state)
{
    (void)state;
    static const uint32_t prefixes[][2] = {{0, 40},   {40, 0},    {40, 40},   {100, 70}, {70, 100},
                                           {190, 10}, {197, 150}, {198, 150}, {16, 197}, {64, 128}};
    struct house h = {.key = &key_a};
    struct near n;
    open_house(&h);
    OK(open_near(&n, h.port, &key_a, NULL));
    for (size_t i = 0; i < sizeof(prefixes) / sizeof(prefixes[0]); i++) {
        const uint32_t far = prefixes[i][0], near = prefixes[i][1];
        new_tokens(200 + i);
        if (far > 1) {
            fetch_all(&n, far + 1);
            td_session_close(n.session);
            n.session = open_session(n.engine, N_CTX);
        }
        if (near) OK(td_session_sync(n.session, g_tokens, near, NULL, 0, NULL, NULL, &err));
        fetch_all(&n, 3 * CHUNK + 7);
        // Generated tokens are known here, not there; then the next turn.
        struct td_sampler *sampler;
        const struct td_sampling greedy = {.top_p = 1};
        OK(td_sampler_open(&sampler, &greedy, N_VOCAB, &err));
        for (uint32_t k = 0; k < 20; k++) {
            const uint32_t at = 3 * CHUNK + 7 + k;
            const int32_t kept = g_tokens[at];
            OK(td_session_next(n.session, sampler, &g_tokens[at], &err));
            if (i % 2) g_tokens[at] = kept; // this turn's prompt goes another way
        }
        td_sampler_close(sampler);
        fetch_all(&n, 3 * CHUNK + 7 + 20 + 1);
        fetch_all(&n, 400);
    }
    close_near(&n);
    close_house(&h);
}

static void two_requests_share_a_connection(void **state)
{
    (void)state;
    struct house h = {.key = &key_a, .n_slots = 2, .tokens_per_s = 4000};
    struct near n;
    open_house(&h);
    OK(open_near(&n, h.port, &key_a, NULL));
    struct td_session *other = open_session(n.engine, N_CTX);
    int32_t tokens[N_CTX];
    new_tokens(301);
    memcpy(tokens, g_tokens, sizeof(tokens));
    new_tokens(302);
    struct td_fetch *f[2];
    OK(td_fetch_begin(&f[0], n.far, n.session, g_tokens, 400, &err));
    OK(td_fetch_begin(&f[1], n.far, other, tokens, 300, &err));
    double rate;
    assert_int_equal(td_far_measure(n.far, 1000, true, &rate, &err), TD_EARG);
    // Whoever is waited for, both go on.
    assert_int_equal(wait_for(f[1]), TD_FETCH_DONE);
    assert_int_equal(wait_for(f[0]), TD_FETCH_DONE);
    td_fetch_end(f[0]);
    td_fetch_end(f[1]);
    read_rest(&n, 400, 399);
    OK(td_session_sync(other, tokens, 300, NULL, 0, NULL, NULL, &err));
    assert_int_equal(td_session_reused(other), 299);
    assert_fresh(g_model, other, tokens, 300);
    OK(td_far_measure(n.far, 1 << 20, true, &rate, &err));
    OK(td_far_measure(n.far, 1 << 20, false, &rate, &err));
    td_session_close(other);
    close_near(&n);
    close_house(&h);
}

static double divergence(const float *a, const float *b)
{
    double sum[2] = {0}, kl = 0;
    for (int i = 0; i < N_VOCAB; i++) sum[0] += exp((double)a[i]), sum[1] += exp((double)b[i]);
    for (int i = 0; i < N_VOCAB; i++) {
        const double p = (double)a[i] - log(sum[0]), q = (double)b[i] - log(sum[1]);
        kl += exp(p) * (p - q);
    }
    return kl;
}

static void q8_0_is_half_the_bytes_and_nearly_the_same(void **state)
{
    (void)state;
    struct house h = {.key = &key_a};
    struct near n;
    open_house(&h);
    const struct td_far_config wishes = {.kv_type = TD_Q8_0};
    OK(open_near(&n, h.port, &key_a, &wishes));
    new_tokens(400);
    for (uint32_t n_tokens = 65; n_tokens <= 465; n_tokens += 200) {
        struct td_fetch *f;
        struct td_fetch_report report;
        OK(td_fetch_begin(&f, n.far, n.session, g_tokens, n_tokens, &err));
        if (wait_for(f) != TD_FETCH_DONE) fail_msg("%s", err.msg);
        td_fetch_report(f, &report);
        td_fetch_end(f);
        OK(td_session_sync(n.session, g_tokens, n_tokens, NULL, 0, NULL, NULL, &err));
        assert_int_equal(td_session_reused(n.session), n_tokens - 1);
        struct td_session *local = open_session(n.engine, N_CTX);
        OK(td_session_sync(local, g_tokens, n_tokens, NULL, 0, NULL, NULL, &err));
        const double kl = divergence(td_session_logits(local), td_session_logits(n.session));
        if (!(kl <= 1e-3)) fail_msg("KL of %u tokens by q8_0: %g", n_tokens, kl);
        td_session_close(local);
    }
    close_near(&n);
    close_house(&h);
}

// ---- not so well ------------------------------------------------------------------------------

static void who_differs_is_refused(void **state)
{
    (void)state;
    struct td_far_info info;
    struct near n;
    const struct td_far_config strict = {0}, lenient = {.peer = &n.peer};
    // Other weights, said so.
    struct house h = {.key = &key_a, .weights = 5, .model = g_other};
    open_house(&h);
    assert_int_equal(open_near(&n, h.port, &key_a, &strict), TD_EARG);
    assert_non_null(strstr(err.msg, "weights"));
    close_near(&n);
    OK(open_near(&n, h.port, &key_a, &lenient));
    td_far_info(n.far, &info);
    assert_true(info.weights_differ && info.canary_kv_error > 0.1 && info.canary_logits_kl > 0.1);
    close_near(&n);
    assert_int_equal(open_near(&n, h.port, &key_b, &lenient), TD_EIO); // another key
    close_near(&n);
    close_house(&h);
    // Other weights, not said.
    h = (struct house){.key = &key_a, .model = g_other};
    open_house(&h);
    assert_int_equal(open_near(&n, h.port, &key_a, &strict), TD_EARG);
    assert_non_null(strstr(err.msg, "does not compute what this machine does"));
    close_near(&n);
    close_house(&h);
    // The same weights by other arithmetic are within the tolerance.
    h = (struct house){.key = &key_a, .is_high = true};
    open_house(&h);
    OK(open_near(&n, h.port, &key_a, &strict));
    td_far_info(n.far, &info);
    assert_true(info.canary_kv_error > 0 && info.canary_kv_error < 2e-2);
    close_near(&n);
    close_house(&h);
}

static void a_cancelled_request_ends_there_too(void **state)
{
    (void)state;
    struct house h = {.tokens_per_s = 500};
    struct near n;
    open_house(&h);
    OK(open_near(&n, h.port, NULL, NULL));
    new_tokens(500);
    struct td_fetch *f;
    struct td_fetch_report report;
    OK(td_fetch_begin(&f, n.far, n.session, g_tokens, 500, &err));
    do {
        assert_int_equal(td_fetch_poll(f, 50, &err), TD_FETCH_RUNNING);
        td_fetch_report(f, &report);
    } while (report.n_committed == 0);
    td_fetch_cancel(f);
    assert_int_equal(td_fetch_poll(f, 0, &err), TD_FETCH_ENDED);
    assert_int_equal(err.code, TD_ECANCEL);
    td_fetch_end(f);
    read_rest(&n, 500, report.n_committed);
    struct td_host_report there;
    const uint64_t t0 = td_clock_ns();
    do {
        nap_ms(5);
        td_host_report(h.host, &there);
    } while (there.n_requests > 0 && seconds_since(t0) < 20);
    assert_int_equal(there.n_requests, 0);
    new_tokens(501);
    fetch_all(&n, 70);
    close_near(&n);
    close_house(&h);
}

static void cancel_at_mark(void *ctx, uint32_t i_fault, const struct fault *fault)
{
    (void)i_fault;
    struct td_fetch **f = ctx;
    if (fault->kind == FAULT_MARK) td_fetch_cancel(*f);
}

// Cancelled while the connection is being made anew: the far side hears of it all the same.
static void a_cancel_in_a_break_is_told(void **state)
{
    (void)state;
    struct house h = {.lease_ms = 600000, .tokens_per_s = 2000};
    open_house(&h);
    struct fault_proxy *proxy = fault_proxy_open("127.0.0.1", 0, "127.0.0.1", h.port);
    assert_non_null(proxy);
    struct td_fetch *f;
    fault_proxy_watch(proxy, &f, cancel_at_mark);
    // Connection 0 is control, 1 data, 2 control again.
    const struct fault_plan plan = {.n_faults = 2,
                                    .faults = {{.kind = FAULT_CUT,
                                                .i_conn = 1,
                                                .direction = FAULT_TO_CLIENT,
                                                .at_byte = 60000,
                                                .is_all = true},
                                               {.kind = FAULT_MARK,
                                                .i_conn = 2,
                                                .direction = FAULT_TO_CLIENT,
                                                .at_byte = 1,
                                                .ms = 50}}};
    fault_proxy_begin(proxy, &plan);
    struct near n;
    OK(open_near(&n, fault_proxy_port(proxy), NULL, NULL));
    new_tokens(800);
    OK(td_fetch_begin(&f, n.far, n.session, g_tokens, 500, &err));
    assert_int_equal(wait_for(f), TD_FETCH_ENDED);
    assert_int_equal(err.code, TD_ECANCEL);
    struct td_host_report there;
    const uint64_t t0 = td_clock_ns();
    do {
        nap_ms(5);
        (void)td_far_tend(n.far, 0, NULL);
        td_host_report(h.host, &there);
    } while (there.n_requests > 0 && seconds_since(t0) < 20);
    assert_int_equal(there.n_requests, 0);
    assert_true(td_far_is_up(n.far)); // nobody went away
    td_fetch_end(f);
    close_near(&n);
    fault_proxy_close(proxy);
    close_house(&h);
}

// A break during the canary is no verdict: it is tried again.
static void a_break_during_the_canary_is_no_verdict(void **state)
{
    (void)state;
    struct house h = {.key = NULL};
    open_house(&h);
    struct fault_proxy *proxy = fault_proxy_open("127.0.0.1", 0, "127.0.0.1", h.port);
    assert_non_null(proxy);
    const struct fault_plan plan = {
        .n_faults = 2,
        .faults = {
            {.kind = FAULT_CUT, .i_conn = 1, .direction = FAULT_TO_CLIENT, .at_byte = 3000},
            {.kind = FAULT_CUT, .i_conn = 2, .direction = FAULT_TO_CLIENT, .at_byte = 1500}}};
    fault_proxy_begin(proxy, &plan);
    struct near n;
    const struct td_far_config with_canary = {0};
    OK(open_near(&n, fault_proxy_port(proxy), NULL, &with_canary));
    struct fault_count count;
    fault_proxy_count(proxy, &count);
    assert_true(count.n_hit > 0);
    new_tokens(810);
    fetch_all(&n, 200);
    close_near(&n);
    fault_proxy_close(proxy);
    close_house(&h);
}

// A prompt that takes longer than the silence after which a peer counts as dead.
static void slow_is_not_dead(void **state)
{
    (void)state;
    struct house h = {.tokens_per_s = 150};
    open_house(&h);
    struct near n;
    const struct td_far_config wishes = {.silent_ms = 1200, .no_canary = true};
    OK(open_near(&n, h.port, NULL, &wishes));
    new_tokens(820);
    struct td_fetch_report report;
    if (fetch(&n, 400, &report) != TD_FETCH_DONE) fail_msg("%s", err.msg);
    assert_true(report.seconds > 2);
    close_near(&n);
    close_house(&h);
}

// The connection breaks, and who answers then says nothing: no handshake is waited for beyond the
// time in which a break is mended.
static void a_break_is_not_mended_for_ever(void **state)
{
    (void)state;
    struct house h = {.tokens_per_s = 2000};
    open_house(&h);
    struct fault_proxy *proxy = fault_proxy_open("127.0.0.1", 0, "127.0.0.1", h.port);
    assert_non_null(proxy);
    const struct fault_plan plan = {.n_faults = 2,
                                    .faults = {{.kind = FAULT_CUT,
                                                .i_conn = 1,
                                                .direction = FAULT_TO_CLIENT,
                                                .at_byte = 60000,
                                                .is_all = true},
                                               {.kind = FAULT_STALL,
                                                .i_conn = 2,
                                                .direction = FAULT_TO_CLIENT,
                                                .at_byte = 1,
                                                .ms = 3600000}}};
    fault_proxy_begin(proxy, &plan);
    struct near n;
    const struct td_far_config wishes = {
        .resume_ms = 300, .silent_ms = 3600000, .limits.stall_ms = 3600000, .no_canary = true};
    OK(open_near(&n, fault_proxy_port(proxy), NULL, &wishes));
    new_tokens(830);
    struct td_fetch_report report;
    assert_int_equal(fetch(&n, 500, &report), TD_FETCH_ENDED);
    assert_true(report.n_committed > 0);
    close_near(&n);
    fault_proxy_close(proxy);
    close_house(&h);
}

// Cut, reset or damaged at many bytes of either connection: goes on where it was.
static void a_broken_link_is_mended(void **state)
{
    (void)state;
    struct house h = {.lease_ms = 20000};
    open_house(&h);
    struct fault_proxy *proxy = fault_proxy_open("127.0.0.1", 0, "127.0.0.1", h.port);
    assert_non_null(proxy);
    uint32_t n_resumed = 0, n_hit = 0;
    for (uint32_t i = 0; i < 40; i++) {
        // Connection 0 is control, 1 data.
        struct fault_plan plan = {.n_faults = 1};
        const bool is_data = i % 4 != 3;
        plan.faults[0] = (struct fault){.kind = i % 3 == 0   ? FAULT_CUT
                                                : i % 3 == 1 ? FAULT_RESET
                                                             : FAULT_FLIP,
                                        .i_conn = is_data,
                                        .direction = FAULT_TO_CLIENT,
                                        .at_byte = is_data ? 500 + i * 7919u : 700 + i * 13u};
        fault_proxy_begin(proxy, &plan);
        struct near n;
        if (open_near(&n, fault_proxy_port(proxy), NULL, NULL)) {
            close_near(&n); // broke before there was anything to mend
            continue;
        }
        new_tokens(600 + i);
        struct td_fetch_report report;
        const enum td_fetch_state end = fetch(&n, 400, &report);
        if (end != TD_FETCH_DONE) fail_msg("run %u: %s", i, err.msg);
        n_resumed += report.n_resumed;
        struct fault_count count;
        fault_proxy_count(proxy, &count);
        n_hit += count.n_hit;
        close_near(&n);
    }
    fault_proxy_close(proxy);
    close_house(&h);
    if (n_resumed < 20) fail_msg("%u of %u breaks were mended", n_resumed, n_hit);
}

// Both connections end for good while whole checkpoints are still unread: they are kept.
static void what_came_before_the_end_is_kept(void **state)
{
    (void)state;
    struct house h = {0};
    open_house(&h);
    struct fault_proxy *proxy = fault_proxy_open("127.0.0.1", 0, "127.0.0.1", h.port);
    assert_non_null(proxy);
    // 400 tokens are about 200 KiB.
    for (uint32_t i = 0; i < 4; i++) {
        struct fault_plan plan = {.n_faults = 1};
        plan.faults[0] = (struct fault){.kind = FAULT_CUT,
                                        .i_conn = 1,
                                        .direction = FAULT_TO_CLIENT,
                                        .at_byte = 100000 + 10000 * i,
                                        .refuse_ms = 60000,
                                        .is_all = true};
        fault_proxy_begin(proxy, &plan);
        struct near n;
        const struct td_far_config wishes = {.resume_ms = 200, .no_canary = true};
        OK(open_near(&n, fault_proxy_port(proxy), NULL, &wishes));
        new_tokens(650 + i);
        struct td_fetch_report report;
        assert_int_equal(fetch(&n, 400, &report), TD_FETCH_ENDED);
        if (report.n_committed < 2 * CHUNK || report.bytes < 70000)
            fail_msg("%u positions of %llu bytes are whole: %s", report.n_committed,
                     (unsigned long long)report.bytes, err.msg);
        close_near(&n);
    }
    fault_proxy_close(proxy);
    close_house(&h);
}

// The process there is another one: what is whole stays, the rest is read here.
static void a_restarted_peer_leaves_what_is_whole(void **state)
{
    (void)state;
    struct house h = {.key = &key_a, .tokens_per_s = 400};
    struct near n;
    open_house(&h);
    OK(open_near(&n, h.port, &key_a, NULL));
    new_tokens(700);
    struct td_fetch *f;
    struct td_fetch_report report;
    OK(td_fetch_begin(&f, n.far, n.session, g_tokens, 500, &err));
    do {
        assert_int_equal(td_fetch_poll(f, 50, &err), TD_FETCH_RUNNING);
        td_fetch_report(f, &report);
    } while (report.n_committed == 0);
    close_house(&h);
    open_house(&h);
    assert_int_equal(wait_for(f), TD_FETCH_ENDED);
    assert_int_equal(err.code, TD_EIO);
    td_fetch_report(f, &report);
    td_fetch_end(f);
    assert_true(report.n_committed >= CHUNK && report.n_committed < 499);
    read_rest(&n, 500, report.n_committed);
    new_tokens(701);
    fetch_all(&n, 70); // it serves the next
    close_near(&n);
    close_house(&h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bits_are_those_of_a_local_prefill),
        cmocka_unit_test(a_prefix_on_either_side_changes_nothing),
        cmocka_unit_test(two_requests_share_a_connection),
        cmocka_unit_test(q8_0_is_half_the_bytes_and_nearly_the_same),
        cmocka_unit_test(who_differs_is_refused),
        cmocka_unit_test(a_cancelled_request_ends_there_too),
        cmocka_unit_test(a_cancel_in_a_break_is_told),
        cmocka_unit_test(a_break_during_the_canary_is_no_verdict),
        cmocka_unit_test(slow_is_not_dead),
        cmocka_unit_test(a_break_is_not_mended_for_ever),
        cmocka_unit_test(a_broken_link_is_mended),
        cmocka_unit_test(what_came_before_the_end_is_kept),
        cmocka_unit_test(a_restarted_peer_leaves_what_is_whole),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
