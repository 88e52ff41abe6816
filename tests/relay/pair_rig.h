// SPDX-License-Identifier: MIT
// Both ends over a small model in one process: a prefill side (house) and a decode side that asks
// peers (home).
#ifndef TD_TESTS_RELAY_PAIR_RIG_H
#define TD_TESTS_RELAY_PAIR_RIG_H

#include "relay/host.h"
#include "relay/remote.h"
#include "small_model.h"

#include <stdatomic.h>
#include <stdio.h>

static inline struct td_split_rate speed(double tokens_per_s)
{
    return (struct td_split_rate){.points = {{0, tokens_per_s}}, .n_points = tokens_per_s > 0};
}

// The identity of either end; weights is the first byte of their digest.
static inline void init_peer(struct td_peer *out, enum td_wire_role role,
                             const struct td_model *model, uint8_t weights)
{
    static const uint8_t tokenizer[32] = {1};
    const uint8_t digest[32] = {weights};
    OK(td_peer_init(out, role, &model->spec, tokenizer, digest, TD_F16, &err));
}

// ---- the prefill side -------------------------------------------------------------------------

struct house {
    // Wishes; zeroes are fine.
    const struct td_model *model; // NULL: g_model
    const struct td_key *key;
    uint8_t weights;
    bool is_high;              // precision
    double pace;               // prefill tokens per second that are held; 0: none
    uint16_t port;             // 0: any
    struct td_host_config cfg; // engine, peer and type are filled in; n_slots 0: 1; n_ctx 0: N_CTX
    uint64_t device_kv_bytes;  // limit of the engine's KV
    // What it is.
    struct td_engine *engine;
    struct td_listener *listener;
    struct td_peer peer;
    struct td_host *host;
    pthread_t thread;
    int code;
    struct td_error err;
    char where[32];
    _Atomic uint32_t n_events[TD_HOST_ENDED + 1]; // told by a thread of the host's
};

static inline void count_event(void *ctx, const struct td_host_event *e)
{
    struct house *h = ctx;
    h->n_events[e->kind]++;
    if (getenv("TEST_HOST_LOG"))
        fprintf(stderr, "event %d %s request %llu: %s\n", (int)e->kind, e->peer,
                (unsigned long long)e->request, e->text);
}

static inline void *house_main(void *ctx)
{
    struct house *h = ctx;
    h->code = td_host_serve(h->host, &h->err);
    return NULL;
}

static inline void open_house(struct house *h)
{
    const struct td_model *model = h->model ? h->model : g_model;
    struct td_host_config cfg = h->cfg;
    if (!cfg.backend) cfg.backend = td_backend_cpu();
    struct td_engine_config engine = config(CHUNK, 1);
    engine.device.max_kv_bytes = h->device_kv_bytes;
    if (h->is_high) engine.device.precision = TD_PRECISION_HIGH;
    OK(td_engine_open(&h->engine, model, cfg.backend, &engine, &err));
    const struct td_pace pace = {.prefill = speed(h->pace)};
    if (h->pace > 0) td_engine_pace(h->engine, &pace);
    (void)snprintf(h->where, sizeof(h->where), "127.0.0.1:%u", h->port);
    OK(td_listener_open(&h->listener, h->where, h->key, NULL, &err));
    h->port = td_listener_port(h->listener);
    (void)snprintf(h->where, sizeof(h->where), "127.0.0.1:%u", h->port);
    init_peer(&h->peer, TD_WIRE_PREFILL, model, h->weights);
    cfg.engine = h->engine;
    cfg.peer = &h->peer;
    cfg.kv_type = TD_F16;
    cfg.n_slots = cfg.n_slots ? cfg.n_slots : 1;
    cfg.n_ctx = cfg.n_ctx ? cfg.n_ctx : N_CTX;
    cfg.progress_ms = cfg.progress_ms ? cfg.progress_ms : 20;
    cfg.event = count_event;
    cfg.event_ctx = h;
    OK(td_host_open(&h->host, &cfg, h->listener, &err));
    assert_int_equal(pthread_create(&h->thread, NULL, house_main, h), 0);
}

static inline void close_house(struct house *h)
{
    td_host_stop(h->host);
    pthread_join(h->thread, NULL);
    if (h->code) fail_msg("%s", h->err.msg);
    td_host_close(h->host);
    td_listener_close(h->listener);
    close_engine(h->engine);
}

// ---- the decode side, one peer -----------------------------------------------------------------

enum { SOON_S = 90 };

struct near {
    struct td_engine *engine;
    struct td_session *session;
    struct td_far *far;
    struct td_peer peer;
    struct td_far_config cfg;
};

// wishes (may be NULL: no canary): all but what is filled in here. Its peer, if any, only says that
// other weights are fine.
static inline int open_near(struct near *n, uint16_t port, const struct td_key *key,
                            const struct td_far_config *wishes)
{
    memset(n, 0, sizeof(*n));
    n->engine = open_engine_cfg(g_model, config(50, 1)); // another chunk here
    n->session = open_session(n->engine, N_CTX);
    init_peer(&n->peer, TD_WIRE_DECODE, g_model, 0);
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
    n->cfg = cfg;
    return td_far_open(&n->far, &cfg, &err);
}

static inline void close_near(struct near *n)
{
    td_far_close(n->far);
    td_session_close(n->session);
    close_engine(n->engine);
}

static inline enum td_fetch_state wait_for(struct td_fetch *f)
{
    enum td_fetch_state state;
    const uint64_t t0 = td_clock_ns();
    do {
        state = td_fetch_poll(f, 50, &err);
    } while (state == TD_FETCH_RUNNING && seconds_since(t0) < SOON_S);
    return state;
}

// The rest is read here: the same bits as if all had been.
static inline void read_rest(struct near *n, uint32_t n_tokens, uint32_t n_whole)
{
    OK(td_session_sync(n->session, g_tokens, n_tokens, NULL, 0, NULL, NULL, &err));
    assert_int_equal(td_session_reused(n->session), n_whole);
    assert_fresh(g_model, n->session, g_tokens, n_tokens);
}

// One request to its end, and the rest; err is why it ended.
static inline enum td_fetch_state fetch(struct near *n, uint32_t n_tokens,
                                        struct td_fetch_report *report)
{
    struct td_fetch *f;
    int code;
    // A short silence that is meant for the peer may have been the machine's own.
    for (int i = 0; i < 50; i++) {
        code = td_fetch_begin(&f, n->far, n->session, g_tokens, n_tokens, &err);
        if (code != TD_EIO || !n->cfg.silent_ms) break;
    }
    OK(code);
    const enum td_fetch_state state = wait_for(f);
    td_fetch_report(f, report);
    td_fetch_end(f);
    const struct td_error why = err;
    read_rest(n, n_tokens, report->n_committed);
    err = why;
    return state;
}

static inline void fetch_all(struct near *n, uint32_t n_tokens, struct td_fetch_report *report)
{
    struct td_fetch_report ignored;
    report = report ? report : &ignored;
    if (fetch(n, n_tokens, report) != TD_FETCH_DONE) fail_msg("%u: %s", n_tokens, err.msg);
    assert_int_equal(report->n_committed, n_tokens - 1);
}

// ---- the decode side, by policy -----------------------------------------------------------------

struct home {
    // Wishes; zeroes are fine.
    double pace; // prefill tokens per second that are held; 0: none
    double pace_decode;
    uint32_t flags;           // of its identity
    struct td_far_config far; // key, limits, speeds; the rest is filled in
    enum td_remote_policy policy;
    // What it is.
    struct td_engine *engine;
    struct td_session *session;
    struct td_peer peer;
    struct td_remote *remote;
    struct td_remote_stats stats;
};

static inline void open_home(struct home *h, const char *peers)
{
    h->engine = open_engine_cfg(g_model, config(50, 1)); // another chunk here
    const struct td_pace pace = {.prefill = speed(h->pace), .decode = speed(h->pace_decode)};
    if (h->pace > 0) td_engine_pace(h->engine, &pace);
    h->session = open_session(h->engine, N_CTX);
    init_peer(&h->peer, TD_WIRE_DECODE, g_model, 0);
    h->peer.identity.flags |= h->flags;
    struct td_remote_config cfg = {.far = h->far, .peers = peers, .policy = h->policy};
    cfg.far.engine = h->engine;
    cfg.far.backend = td_backend_cpu();
    cfg.far.peer = &h->peer;
    cfg.far.engine_kv_type = cfg.far.kv_type = TD_F16;
    if (!cfg.far.checkpoint_tokens) cfg.far.checkpoint_tokens = 100;
    if (!cfg.far.resume_ms) cfg.far.resume_ms = 100;
    OK(td_remote_open(&h->remote, &cfg, &err));
}

static inline void close_home(struct home *h)
{
    td_remote_close(h->remote);
    td_session_close(h->session);
    close_engine(h->engine);
}

// The prompt was read this way, all of it is accounted for, and the logits are right.
static inline void assert_read(struct home *h, uint32_t n, enum td_remote_path path)
{
    if (h->stats.path != path)
        fail_msg("%s (%s) instead of %s", td_remote_path_text(h->stats.path), h->stats.reason,
                 td_remote_path_text(path));
    assert_int_equal(h->stats.n_tokens, n);
    assert_int_equal(h->stats.n_have + h->stats.n_remote + h->stats.n_local, n);
    assert_true(h->stats.reason[0] != '\0');
    assert_fresh(g_model, h->session, g_tokens, n);
}

#endif
