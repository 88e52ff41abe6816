// SPDX-License-Identifier: MIT
// Prefill there, answer here, and between them a proxy that breaks things at a byte of its choice:
// under `auto` every prompt ends in the logits of an undisturbed one, whatever was broken, and
// nothing is left behind on either side. Prints what became of the prompts. bench/faults.py is the
// long campaign, with processes that are killed.
//   test_faults [SEED]
#include "engine/support.h"
#include "fault_proxy.h"
#include "link_support.h"
#include "relay/host.h"
#include "relay/remote.h"

#include <stdio.h>

enum {
    N_VOCAB = 1024,
    N_CTX = 500,
    N_PROMPTS = 4, // read again and again; the others once, for checkpoints all along the way
    N_ONCE = 6,
    CHUNK = 32,
    CHECKPOINT = 64,
    SILENT_MS = 500,
    RESUME_MS = 300,
};

static struct td_model *g_model;
static uint32_t g_lengths[N_PROMPTS + N_ONCE] = {300, 388, 129, 450};
static int32_t g_tokens[N_PROMPTS + N_ONCE][N_CTX];
static float g_logits[N_PROMPTS + N_ONCE][N_VOCAB];
static uint64_t g_seed = 1;

// Both ends, for many prompts.
struct rig {
    const struct td_key *key;
    struct td_engine *far, *near;
    struct td_peer peers[2];
    struct td_listener *listener;
    struct td_host *host;
    pthread_t thread;
    int serve_code;
    struct fault_proxy *proxy;
    struct td_rng rng;
    uint32_t n_paths[4]; // by enum td_remote_path
    uint32_t n_runs;
    uint32_t i_once;
};

static int setup(void **state)
{
    (void)state;
    g_model = open_model("synth:tiny,window=16,vocab=1024,ctx=8192");
    struct td_rng rng = {11};
    struct td_engine *e = open_engine_cfg(g_model, config(CHUNK, 1));
    for (int i = 0; i < N_PROMPTS + N_ONCE; i++) {
        random_tokens(&rng, g_tokens[i], N_CTX, N_VOCAB);
        if (i >= N_PROMPTS) g_lengths[i] = 400;
        // Every other one begins as the one before: something to reuse.
        if (i % 2 && i < N_PROMPTS) memcpy(g_tokens[i], g_tokens[i - 1], 100 * sizeof(int32_t));
        struct td_session *s = open_session(e, N_CTX);
        OK(td_session_sync(s, g_tokens[i], g_lengths[i], NULL, 0, NULL, NULL, &err));
        memcpy(g_logits[i], td_session_logits(s), sizeof(g_logits[i]));
        td_session_close(s);
    }
    td_engine_close(e);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    td_model_close(g_model);
    return 0;
}

static void *serve_main(void *ctx)
{
    struct rig *r = ctx;
    struct td_error e;
    r->serve_code = td_host_serve(r->host, &e);
    if (r->serve_code) fprintf(stderr, "td_host_serve: %s\n", e.msg);
    return NULL;
}

static const struct td_split_rate at_speed_there = {{{0, 12000}}, 1};

static void open_rig(struct rig *r, const struct td_key *key)
{
    *r = (struct rig){.key = key, .rng = {g_seed}};
    r->far = open_engine_cfg(g_model, config(CHUNK, 1));
    r->near = open_engine_cfg(g_model, config(50, 1)); // another chunk here
    // Slow enough for faults to meet a prompt that is being read.
    const struct td_pace pace = {.prefill = at_speed_there};
    td_engine_pace(r->far, &pace);
    static const uint8_t sum[32] = {1};
    for (int i = 0; i < 2; i++)
        OK(td_peer_init(&r->peers[i], i ? TD_WIRE_DECODE : TD_WIRE_PREFILL, &g_model->spec, sum,
                        sum, TD_F16, &err));
    const struct td_link_limits limits = {.stall_ms = 5000};
    OK(td_listener_open(&r->listener, "127.0.0.1:0", key, &limits, &err));
    const struct td_host_config cfg = {.engine = r->far,
                                       .backend = td_backend_cpu(),
                                       .peer = &r->peers[0],
                                       .kv_type = TD_F16,
                                       .n_slots = 2,
                                       .n_ctx = N_CTX,
                                       .max_kv_bytes = 256u << 20,
                                       .lease_ms = 1500,
                                       .progress_ms = 50,
                                       .prefill = at_speed_there,
                                       .decode = {{{0, 50}}, 1}};
    OK(td_host_open(&r->host, &cfg, r->listener, &err));
    assert_int_equal(pthread_create(&r->thread, NULL, serve_main, r), 0);
    r->proxy = fault_proxy_open("127.0.0.1", 0, "127.0.0.1", td_listener_port(r->listener));
    assert_non_null(r->proxy);
}

static void close_rig(struct rig *r)
{
    // Nobody is left: not a peer, not a request of one that went away.
    struct td_host_report report;
    for (uint32_t waited_ms = 0;; waited_ms += 20) {
        td_host_report(r->host, &report);
        if (report.n_peers == 0 && report.n_requests == 0) break;
        if (waited_ms > 20000)
            fail_msg("%u peers, %u requests are left", report.n_peers, report.n_requests);
        nap_ms(20);
    }
    td_host_stop(r->host);
    pthread_join(r->thread, NULL);
    assert_int_equal(r->serve_code, TD_OK);
    td_host_close(r->host);
    td_listener_close(r->listener);
    fault_proxy_close(r->proxy);
    struct td_device_report device;
    td_engine_report(r->far, &device);
    assert_int_equal(device.kv_bytes, 0); // no pin was left behind
    td_engine_report(r->near, &device);
    assert_int_equal(device.kv_bytes, 0);
    td_engine_close(r->far);
    td_engine_close(r->near);
    printf("%u prompts: %u remote, %u resumed, %u salvaged, %u local\n", r->n_runs,
           r->n_paths[TD_REMOTE_REMOTE], r->n_paths[TD_REMOTE_RESUMED],
           r->n_paths[TD_REMOTE_SALVAGED], r->n_paths[TD_REMOTE_LOCAL]);
}

// How a prompt is disturbed.
struct trouble {
    struct fault_plan plan;   // from the first connection on
    struct fault_plan faults; // added when the peer is connected: bytes count from there
    uint32_t n_have;          // read here before
    bool is_required;         // policy: an error is an answer too
};

static struct td_remote *open_remote(struct rig *r, const struct trouble *t)
{
    char where[32];
    (void)snprintf(where, sizeof(where), "127.0.0.1:%u", fault_proxy_port(r->proxy));
    const struct td_remote_config cfg = {
        .far = {.key = r->key,
                .limits = {.handshake_ms = 1500, .stall_ms = SILENT_MS},
                .engine = r->near,
                .backend = td_backend_cpu(),
                .peer = &r->peers[1],
                .engine_kv_type = TD_F16,
                .kv_type = TD_F16,
                .checkpoint_tokens = CHECKPOINT,
                .resume_ms = RESUME_MS,
                .silent_ms = SILENT_MS,
                .prefill = {{{0, 100}}, 1}, // as if: so that asking pays
                .decode = {{{0, 50}}, 1}},
        .peers = where,
        .policy = t->is_required ? TD_REMOTE_REQUIRE : TD_REMOTE_AUTO};
    struct td_remote *remote;
    OK(td_remote_open(&remote, &cfg, &err));
    return remote;
}

static void run(struct rig *r, uint32_t i_prompt, const struct trouble *t)
{
    const uint32_t n = g_lengths[i_prompt];
    const int32_t *tokens = g_tokens[i_prompt];
    fault_proxy_begin(r->proxy, &t->plan);
    struct td_remote *remote = open_remote(r, t);
    struct td_session *s = open_session(r->near, N_CTX);
    if (t->n_have) OK(td_session_sync(s, tokens, t->n_have, NULL, 0, NULL, NULL, &err));
    if (t->faults.n_faults) {
        struct td_far *far;
        OK(td_remote_peer(remote, 0, &far, &err));
        for (uint32_t i = 0; i < t->faults.n_faults; i++)
            assert_true(fault_proxy_add(r->proxy, &t->faults.faults[i]));
    }
    const struct td_remote_ask ask = {.tokens = tokens, .n = n, .n_answer = 1};
    struct td_remote_stats st;
    struct td_error why = {0};
    const int code = td_remote_sync(remote, s, &ask, &st, &why);
    if (code && !t->is_required) fail_msg("run %u, prompt %u: %s", r->n_runs, i_prompt, why.msg);
    if (code) {
        assert_true(why.msg[0] != 0);
    } else {
        assert_int_equal(td_session_len(s), n);
        if (memcmp(td_session_logits(s), g_logits[i_prompt], sizeof(g_logits[i_prompt])) != 0)
            fail_msg("run %u, prompt %u: other logits, path %s", r->n_runs, i_prompt,
                     td_remote_path_text(st.path));
        if (st.n_have + st.n_remote + st.n_local != n)
            fail_msg("run %u: %u tokens, %u were here, %u came, %u computed here, path %s: %s",
                     r->n_runs, n, st.n_have, st.n_remote, st.n_local, td_remote_path_text(st.path),
                     st.reason);
        if (st.path == TD_REMOTE_SALVAGED) {
            // Up to a checkpoint, and something was missing.
            assert_true(st.n_remote > 0 && st.n_local > 1);
        }
        if (st.path == TD_REMOTE_REMOTE || st.path == TD_REMOTE_RESUMED)
            assert_int_equal(st.n_local, 1);
        assert_true(st.reason[0] != 0);
        r->n_paths[st.path]++;
    }
    r->n_runs++;
    td_session_close(s);
    td_remote_close(remote);
}

static uint32_t below(struct rig *r, uint64_t n)
{
    return (uint32_t)(td_rng_u64(&r->rng) % n);
}

// Bytes of a prompt's KV from the peer: 2 full layers and 2 with a window, about. Beyond the end a
// fault never strikes, which is a case too.
static uint64_t kv_bytes_of(uint32_t i_prompt)
{
    uint64_t bytes = 0;
    for (uint32_t il = 0; il < g_model->spec.n_layers; il++)
        if (g_model->spec.kv[il].window == 0)
            bytes += (uint64_t)g_model->spec.kv[il].n_kv_heads * g_model->spec.kv[il].head_dim * 4;
    return bytes * g_lengths[i_prompt];
}

// A fault in the prompt's data, or (one in four) in what is said about it.
static struct fault somewhere(struct rig *r, enum fault_kind kind, uint32_t i_prompt)
{
    struct fault f = {.kind = kind, .i_conn = 1, .direction = FAULT_TO_CLIENT};
    f.at_byte = below(r, kv_bytes_of(i_prompt) * 5 / 4);
    if (below(r, 4) == 0) {
        f.i_conn = 0;
        f.direction = below(r, 2) ? FAULT_TO_CLIENT : FAULT_TO_SERVER;
        f.at_byte = below(r, f.direction == FAULT_TO_SERVER ? 2000 : 1500);
    }
    f.is_all = below(r, 2);
    return f;
}

static void undisturbed(struct rig *r)
{
    for (uint32_t i = 0; i < N_PROMPTS; i++) {
        const struct trouble none = {.n_have = i % 2 ? 70 : 0};
        const uint32_t before = r->n_paths[TD_REMOTE_REMOTE];
        run(r, i, &none);
        assert_int_equal(r->n_paths[TD_REMOTE_REMOTE], before + 1);
    }
}

// Cut, reset, stalled or damaged while a prompt is read, once or several times.
static void breaks_while_reading(struct rig *r, enum fault_kind kind, uint32_t n_runs)
{
    for (uint32_t i = 0; i < n_runs; i++) {
        const uint32_t i_prompt = below(r, N_PROMPTS);
        struct trouble t = {.n_have = below(r, 3) ? 0 : 1 + below(r, 120)};
        t.faults.n_faults = 1 + below(r, 3);
        t.faults.faults[0] = somewhere(r, kind, i_prompt);
        t.faults.faults[0].ms = 2 * SILENT_MS;
        // What comes after a break is broken too.
        for (uint32_t k = 1; k < t.faults.n_faults; k++) {
            t.faults.faults[k] = somewhere(r, kind == FAULT_STALL ? FAULT_CUT : kind, i_prompt);
            t.faults.faults[k].i_conn += 2 * k;
        }
        run(r, i_prompt, &t);
    }
}

// Gone for longer than one tries to resume: what came is kept, the rest is read here.
static void away_for_long(struct rig *r, uint32_t n_runs)
{
    for (uint32_t i = 0; i < n_runs; i++) {
        const uint32_t i_prompt = N_PROMPTS + r->i_once++;
        struct trouble t = {.faults.n_faults = 1};
        // In the middle of the KV, when some of it is whole.
        const uint64_t bytes = kv_bytes_of(i_prompt);
        t.faults.faults[0] = (struct fault){.kind = below(r, 2) ? FAULT_CUT : FAULT_RESET,
                                            .i_conn = 1,
                                            .direction = FAULT_TO_CLIENT,
                                            .at_byte = bytes / 2 + below(r, bytes / 4),
                                            .refuse_ms = 4 * RESUME_MS,
                                            .is_all = below(r, 2)};
        t.is_required = i % 4 == 3;
        t.n_have = i % 2 ? 0 : below(r, 40);
        run(r, i_prompt, &t);
    }
}

// From the first byte of the first connection on: greeting, canary, a look at the link.
static void breaks_while_connecting(struct rig *r, uint32_t n_runs)
{
    for (uint32_t i = 0; i < n_runs; i++) {
        struct trouble t = {.is_required = below(r, 4) == 0};
        const enum fault_kind kind = (enum fault_kind)below(r, FAULT_STALL);
        t.plan.n_faults = 1;
        t.plan.faults[0] = (struct fault){.kind = kind,
                                          .i_conn = below(r, 2),
                                          .direction = (enum fault_direction)below(r, 2),
                                          .at_byte = below(r, 3000)};
        run(r, below(r, N_PROMPTS), &t);
    }
}

static void slow_links(struct rig *r, uint32_t n_runs)
{
    for (uint32_t i = 0; i < n_runs; i++) {
        struct trouble t = {0};
        t.plan.bytes_per_s = i % 2 ? 3000000 : 0;
        t.plan.latency_ms = i % 3 ? 5 : 0;
        run(r, below(r, N_PROMPTS), &t);
    }
}

static void campaign(const struct td_key *key)
{
    struct rig r;
    open_rig(&r, key);
    undisturbed(&r);
    breaks_while_reading(&r, FAULT_CUT, 10);
    breaks_while_reading(&r, FAULT_RESET, 6);
    breaks_while_reading(&r, FAULT_FLIP, 10);
    breaks_while_reading(&r, FAULT_STALL, 1);
    away_for_long(&r, N_ONCE);
    breaks_while_connecting(&r, 6);
    slow_links(&r, 2);
    undisturbed(&r); // as if nothing had been
    assert_true(r.n_paths[TD_REMOTE_RESUMED] > 0);
    assert_true(r.n_paths[TD_REMOTE_SALVAGED] > 0);
    close_rig(&r);
}

static void whatever_breaks_under_tls(void **state)
{
    (void)state;
    campaign(&key_a);
}

// Damaged bytes meet the frames' own sums.
static void whatever_breaks_in_the_clear(void **state)
{
    (void)state;
    g_seed++;
    campaign(NULL);
}

int main(int argc, char **argv)
{
    if (argc > 1) g_seed = strtoull(argv[1], NULL, 10);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whatever_breaks_under_tls),
        cmocka_unit_test(whatever_breaks_in_the_clear),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
