// SPDX-License-Identifier: MIT
// Prefill on one engine, decode on another, over a link and in one process: the same bits as if the
// decode side had read the prompt itself, whatever the length, the chunk, the prefixes there and
// here, and wherever it breaks.
#include "relay/link_impl.h"
#include "relay/recv.h"
#include "relay/send.h"
#include "small_model.h"

#include <stdio.h>

// Both ends and what a test asks of them.
struct rig {
    uint32_t n_tokens, checkpoint_tokens;
    uint32_t n_queue;         // of the sender
    uint32_t cut_after;       // frames; 0: never
    uint32_t n_slow_frames;   // the receiver naps before each of the first so many
    uint32_t cancel_at_frame; // the sender's request is cancelled; 0: never
    enum td_type kv_type;
    struct td_engine *far, *near;
    struct td_session *far_session, *near_session;
    struct td_link *link[2]; // far, near
    struct td_frames far_data, near_data;
    struct td_sender *sender;
    struct td_sending *sending;
    struct td_recv *recv;
    struct td_send_report sent; // at the end
    uint32_t n_frames;          // received
};

static void open_rig(struct rig *r, const struct td_key *key, uint32_t chunk, bool kv_f32)
{
    *r = (struct rig){.checkpoint_tokens = 100, .kv_type = kv_f32 ? TD_F32 : TD_F16};
    struct td_engine_config cfg = config(chunk, 1);
    cfg.device.kv_f32 = kv_f32;
    r->far = open_engine_cfg(g_model, cfg);
    cfg.device.max_rows = 50; // another chunk here
    r->near = open_engine_cfg(g_model, cfg);
    r->far_session = open_session(r->far, N_CTX);
    r->near_session = open_session(r->near, N_CTX);
    connect_pair(r->link, key, (struct td_link_limits){.handshake_ms = 10000, .stall_ms = 10000});
}

static void close_rig(struct rig *r)
{
    td_session_close(r->far_session);
    td_session_close(r->near_session);
    close_engine(r->far);
    close_engine(r->near);
    td_link_close(r->link[0]);
    td_link_close(r->link[1]);
}

static void layer_done(void *ctx, const struct td_kv_span *span)
{
    td_sending_layer_done(ctx, span);
}

// The prefill side: computes positions [0, N - 1) while they are sent.
static void *far_main(void *ctx)
{
    struct rig *r = ctx;
    struct td_error e;
    const uint32_t n = r->n_tokens - 1;
    if (td_session_want(r->far_session, g_tokens, n, NULL, 0, &e)) return NULL;
    const uint32_t n_reused = td_session_reused(r->far_session);
    td_engine_watch(r->far, r->sending, layer_done);
    td_sending_reused(r->sending, n_reused, NULL);
    while (td_session_state(r->far_session) == TD_SESSION_PREFILLING)
        if (td_engine_step(r->far, NULL, &e)) return NULL;
    td_engine_watch(r->far, NULL, NULL);
    const struct td_send_account account = {
        .far_ns = 1, .n_computed = n - n_reused, .n_reused = n_reused};
    td_sending_finish(r->sending, &account);
    td_sending_wait(r->sending, 20000);
    return NULL;
}

static void *receiver_main(void *ctx)
{
    struct rig *r = ctx;
    struct td_error e;
    for (;;) {
        struct td_wire_header h;
        bool is_there;
        int code = td_frames_header(&r->near_data, &h, 20000, &is_there, &e);
        if (!code && !is_there) code = td_fail(&e, TD_EIO, "the far side said nothing");
        if (!code && r->n_frames < r->n_slow_frames) nap_ms(20);
        if (!code) code = td_recv_frame(r->recv, &r->near_data, &h, &e);
        if (!code && ++r->n_frames == r->cut_after) code = td_fail(&e, TD_EIO, "cut");
        if (!code && r->n_frames == r->cancel_at_frame) {
            td_sending_cancel(r->sending);
            code = td_fail(&e, TD_EIO, "cancelled");
        }
        if (code) {
            td_recv_stop(r->recv, code, &e);
            td_link_cancel(r->link[1]);
            td_link_cancel(r->link[0]);
            return NULL;
        }
        struct td_recv_report report;
        td_recv_report(r->recv, &report);
        if (report.is_done || h.type == TD_WIRE_FINAL) return NULL;
    }
}

// One request from both ends; how it ended. *n_whole_out: positions the decode side has then.
static int relay(struct rig *r, uint32_t *n_whole_out)
{
    OK(td_session_want(r->near_session, g_tokens, r->n_tokens, NULL, 0, &err));
    const uint32_t have = td_session_reused(r->near_session);
    OK(td_session_adopt(r->near_session, g_tokens, r->n_tokens, &err));
    OK(td_session_reserve(r->near_session, r->n_tokens, &err));
    const struct td_recv_request in = {.id = 3,
                                       .backend = td_backend_cpu(),
                                       .spec = &g_model->spec,
                                       .kv = td_session_kv(r->near_session),
                                       .kv_type = r->kv_type,
                                       .n_tokens = r->n_tokens};
    *n_whole_out = have;
    if (have == r->n_tokens - 1) return TD_OK; // only the last token is missing
    OK(td_frames_init(&r->far_data, r->link[0], TD_WIRE_DATA, 1, &err));
    OK(td_frames_init(&r->near_data, r->link[1], TD_WIRE_DATA, 1, &err));
    const struct td_sender_config cfg = {.backend = td_backend_cpu(), .n_queue = r->n_queue};
    OK(td_sender_open(&r->sender, &cfg, &r->far_data, &err));
    const struct td_send_request out = {.id = 3,
                                        .spec = &g_model->spec,
                                        .kv = td_session_kv(r->far_session),
                                        .kv_type = r->kv_type,
                                        .n_tokens = r->n_tokens,
                                        .have = have,
                                        .checkpoint_tokens = r->checkpoint_tokens};
    OK(td_sending_begin(&r->sending, r->sender, &out, &err));
    OK(td_recv_open(&r->recv, &in, &err));
    pthread_t far, receiver;
    assert_int_equal(pthread_create(&far, NULL, far_main, r), 0);
    assert_int_equal(pthread_create(&receiver, NULL, receiver_main, r), 0);
    bool is_done = false;
    int code = TD_OK;
    while (!code && !is_done) {
        const uint32_t before = *n_whole_out;
        code = td_recv_wait(r->recv, 20000, n_whole_out, &is_done, &err);
        if (!code && *n_whole_out > before) td_sending_committed(r->sending, *n_whole_out);
    }
    pthread_join(receiver, NULL);
    pthread_join(far, NULL);
    td_engine_watch(r->far, NULL, NULL);
    td_sending_report(r->sending, &r->sent);
    td_sending_end(r->sending);
    td_sender_close(r->sender);
    td_recv_close(r->recv);
    td_frames_free(&r->far_data);
    td_frames_free(&r->near_data);
    return code;
}

// The decode side runs what is missing; its logits are those of an engine that read all itself.
static void finish(struct rig *r, uint32_t n_whole)
{
    OK(td_session_adopt(r->near_session, g_tokens, r->n_tokens, &err));
    OK(td_session_sync(r->near_session, g_tokens, r->n_tokens, NULL, 0, NULL, NULL, &err));
    assert_int_equal(td_session_reused(r->near_session), n_whole);
    struct td_engine_config cfg = config(200, 1);
    cfg.device.kv_f32 = r->kv_type == TD_F32;
    struct td_engine *e = open_engine_cfg(g_model, cfg);
    struct td_session *fresh = open_session(e, N_CTX);
    OK(td_session_sync(fresh, g_tokens, r->n_tokens, NULL, 0, NULL, NULL, &err));
    assert_memory_equal(td_session_logits(r->near_session), td_session_logits(fresh),
                        N_VOCAB * sizeof(float));
    td_session_close(fresh);
    td_engine_close(e);
}

static void relay_well(struct rig *r, uint32_t n_tokens)
{
    r->n_tokens = n_tokens;
    r->n_frames = 0;
    uint32_t n_whole;
    OK(relay(r, &n_whole));
    assert_int_equal(n_whole, n_tokens - 1);
    finish(r, n_whole);
}

static const uint32_t lengths[] = {2,          3,          WINDOW - 1, WINDOW,        WINDOW + 1,
                                   CHUNK - 1,  CHUNK,      CHUNK + 1,  3 * CHUNK + 7, WINDOW + 2,
                                   CHUNK + 15, CHUNK + 16, 500};

static void bits_are_those_of_a_local_prefill(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
        struct rig r;
        open_rig(&r, i % 2 ? &key_a : NULL, CHUNK, i % 3 == 0);
        relay_well(&r, lengths[i]);
        assert_int_equal(r.sent.n_pinned, 0); // COMMITTED let go of them
        close_rig(&r);
    }
}

static void a_prefix_on_either_side_changes_nothing(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_PREFIXES; i++) {
        struct rig r;
        open_rig(&r, &key_a, CHUNK, false);
        const uint32_t far = g_prefixes[i][0], near = g_prefixes[i][1];
        if (far) OK(td_session_sync(r.far_session, g_tokens, far, NULL, 0, NULL, NULL, &err));
        if (near) OK(td_session_sync(r.near_session, g_tokens, near, NULL, 0, NULL, NULL, &err));
        relay_well(&r, 3 * CHUNK + 7);
        // Generated tokens are known here, not there; then the next turn.
        write_answer(r.near_session, 3 * CHUNK + 7, i % 2 == 0);
        relay_well(&r, 3 * CHUNK + 7 + N_WRITTEN + 1);
        relay_well(&r, 400);
        close_rig(&r);
    }
}

// Cut behind every frame: the decode side keeps the last checkpoint and reads the rest itself.
static void a_cut_keeps_the_last_checkpoint(void **state)
{
    (void)state;
    uint32_t n_salvaged = 0;
    for (uint32_t cut = 1;; cut++) {
        struct rig r;
        open_rig(&r, cut % 2 ? &key_a : NULL, CHUNK, false);
        r.n_tokens = 300;
        r.cut_after = cut;
        r.checkpoint_tokens = CHUNK;
        uint32_t n_whole;
        const int code = relay(&r, &n_whole);
        finish(&r, n_whole);
        close_rig(&r);
        n_salvaged += n_whole > 0 && n_whole < 299;
        if (n_whole == 299) break;
        assert_int_equal(code, TD_EIO);
        assert_int_equal(n_whole % CHUNK, 0);
        assert_true(cut < 100);
    }
    assert_true(n_salvaged >= 10);
}

static void a_full_queue_is_waited_for_and_counted(void **state)
{
    (void)state;
    struct rig r;
    open_rig(&r, NULL, CHUNK, false);
    const int size_bytes = 4096;
    assert_int_equal(
        setsockopt(r.link[0]->fd, SOL_SOCKET, SO_SNDBUF, &size_bytes, sizeof(size_bytes)), 0);
    r.n_queue = 1;
    r.n_slow_frames = 10;
    relay_well(&r, 500);
    assert_true(r.sent.stall_ns > 0);
    close_rig(&r);
    open_rig(&r, &key_a, CHUNK, false);
    relay_well(&r, 500);
    assert_int_equal(r.sent.stall_ns, 0);
    close_rig(&r);
}

static void a_cancelled_request_lets_go(void **state)
{
    (void)state;
    struct rig r;
    open_rig(&r, &key_a, CHUNK, false);
    r.n_tokens = 500;
    r.cancel_at_frame = 3;
    uint32_t n_whole;
    assert_int_equal(relay(&r, &n_whole), TD_EIO);
    assert_int_equal(r.sent.code, TD_ECANCEL);
    finish(&r, n_whole);
    close_rig(&r);
}

// A peer that holds the key and lies: refused by the header alone, and the KV is as it was.
static void a_lying_peer_is_refused(void **state)
{
    (void)state;
    struct rig r;
    open_rig(&r, &key_a, CHUNK, false);
    r.n_tokens = 200;
    OK(td_frames_init(&r.far_data, r.link[0], TD_WIRE_DATA, 1, &err));
    OK(td_frames_init(&r.near_data, r.link[1], TD_WIRE_DATA, 1, &err));
    static const struct td_wire_header lies[] = {
        {.layer = 4, .pos0 = 0, .n = 1},    {.layer = 511, .pos0 = 0, .n = 1},
        {.layer = 1, .pos0 = 5, .n = 1},    {.layer = 1, .pos0 = 0, .n = 200},
        {.layer = 0, .pos0 = 190, .n = 16},
    };
    static uint8_t bytes[TD_WIRE_MAX_DATA];
    for (size_t i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
        OK(td_session_want(r.near_session, g_tokens, r.n_tokens, NULL, 0, &err));
        OK(td_session_adopt(r.near_session, g_tokens, r.n_tokens, &err));
        const struct td_recv_request in = {.id = 3,
                                           .backend = td_backend_cpu(),
                                           .spec = &g_model->spec,
                                           .kv = td_session_kv(r.near_session),
                                           .kv_type = TD_F16,
                                           .n_tokens = r.n_tokens};
        OK(td_recv_open(&r.recv, &in, &err));
        struct td_wire_header h = lies[i];
        h.version = 1;
        h.type = TD_WIRE_SPAN;
        h.request = 3;
        h.kv_type = TD_F16;
        const struct td_kv_layer *l = &g_model->spec.kv[h.layer % 4];
        const uint32_t size = h.n * l->n_kv_heads * l->head_dim * 4;
        uint8_t header[TD_WIRE_HEADER_BYTES];
        td_wire_seal(header, &h, bytes, size);
        struct td_wire_header got;
        bool is_there = false;
        OK(td_link_write(r.link[0], header, sizeof(header), &err)); // the payload never follows
        int code = td_frames_header(&r.near_data, &got, 5000, &is_there, &err);
        if (!code) code = td_recv_frame(r.recv, &r.near_data, &got, &err);
        assert_int_equal(code, TD_EFORMAT);
        td_recv_close(r.recv);
        assert_int_equal(td_backend_cpu()->kv_len(td_session_kv(r.near_session)), 0);
    }
    td_frames_free(&r.far_data);
    td_frames_free(&r.near_data);
    close_rig(&r);
}

// One frame from end to end.
static int pass_on(struct rig *r, struct td_wire_header *h, const void *payload, uint32_t size)
{
    uint8_t header[TD_WIRE_HEADER_BYTES];
    h->version = 1;
    h->request = 3;
    td_wire_seal(header, h, payload, size);
    OK(td_frames_write_bulk(&r->far_data, header, payload, size, &err));
    struct td_wire_header got;
    bool is_there = false;
    OK(td_frames_header(&r->near_data, &got, 5000, &is_there, &err));
    return td_recv_frame(r->recv, &r->near_data, &got, &err);
}

static void *commit_main(void *ctx)
{
    struct rig *r = ctx;
    struct td_error e;
    bool is_done = false;
    for (int i = 0; i < 100 && !is_done; i++)
        if (td_recv_wait(r->recv, 200, NULL, &is_done, &e)) break;
    return NULL;
}

// Logits that come behind FINAL, when whoever asked may have forgotten where they go.
static void nothing_is_written_after_final(void **state)
{
    (void)state;
    struct rig r;
    open_rig(&r, &key_a, CHUNK, false);
    OK(td_frames_init(&r.far_data, r.link[0], TD_WIRE_DATA, 1, &err));
    OK(td_frames_init(&r.near_data, r.link[1], TD_WIRE_DATA, 1, &err));
    static float logits[N_VOCAB], theirs[N_VOCAB];
    for (int i = 0; i < N_VOCAB; i++) theirs[i] = 9;
    const struct td_recv_request in = {.id = 3,
                                       .backend = td_backend_cpu(),
                                       .spec = &g_model->spec,
                                       .kv = td_session_kv(r.near_session),
                                       .kv_type = TD_F16,
                                       .n_tokens = 2,
                                       .logits = logits};
    OK(td_recv_open(&r.recv, &in, &err));
    struct td_wire_msg final = {.h = {.version = 1, .type = TD_WIRE_FINAL, .request = 3, .n = 1}};
    static const uint8_t kv[1 << 16];
    for (uint32_t il = 0; il < g_model->spec.n_layers; il++) {
        const struct td_kv_layer *l = &g_model->spec.kv[il];
        const uint32_t size = l->n_kv_heads * l->head_dim * 4;
        struct td_wire_header h = {.type = TD_WIRE_SPAN, .layer = il, .n = 1, .kv_type = TD_F16};
        OK(pass_on(&r, &h, kv, size));
        final.u.final.n_spans++;
        final.u.final.span_sum += td_wire_span_digest(&h);
        final.u.final.span_bytes += size;
    }
    struct td_wire_header half = {.type = TD_WIRE_LOGITS, .n = N_VOCAB / 2};
    OK(pass_on(&r, &half, theirs, N_VOCAB / 2 * sizeof(float)));
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, commit_main, &r), 0);
    OK(td_frames_write(&r.far_data, &final, &err));
    struct td_wire_header got;
    bool is_there = false;
    OK(td_frames_header(&r.near_data, &got, 5000, &is_there, &err));
    OK(td_recv_frame(r.recv, &r.near_data, &got, &err));
    pthread_join(thread, NULL);
    struct td_wire_header rest = {.type = TD_WIRE_LOGITS, .pos0 = N_VOCAB / 2, .n = N_VOCAB / 2};
    assert_int_equal(pass_on(&r, &rest, theirs, N_VOCAB / 2 * sizeof(float)), TD_EFORMAT);
    assert_true(logits[N_VOCAB / 2 - 1] == theirs[0]);
    assert_true(logits[N_VOCAB / 2] == 0);
    td_recv_close(r.recv);
    td_frames_free(&r.far_data);
    td_frames_free(&r.near_data);
    close_rig(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bits_are_those_of_a_local_prefill),
        cmocka_unit_test(a_prefix_on_either_side_changes_nothing),
        cmocka_unit_test(a_cut_keeps_the_last_checkpoint),
        cmocka_unit_test(a_full_queue_is_waited_for_and_counted),
        cmocka_unit_test(a_cancelled_request_lets_go),
        cmocka_unit_test(a_lying_peer_is_refused),
        cmocka_unit_test(nothing_is_written_after_final),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
