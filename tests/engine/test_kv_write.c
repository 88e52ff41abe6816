// SPDX-License-Identifier: MIT
// KV that another thread writes into a waiting session while others run, on pages that they share
// at first, and in memory that was set aside for it. What a relay's receiver does, without one.
#include "support.h"

#include <pthread.h>
#include <stdlib.h>

enum { N = 500, N_VOCAB = 1024, N_LAYERS = 4, WINDOW = 16, MAX_SPAN = 64 };

static struct td_model *g_model; // window 16 on even layers
static int32_t g_tokens[N];
static uint8_t *g_kv[N_LAYERS]; // canonical K and V, position by position: (N - 1, K then V)
static size_t g_half[N_LAYERS]; // bytes of K of one position

// Keeps what each layer's KV is, position by position.
static void keep(void *ctx, const struct td_kv_span *span)
{
    (void)ctx;
    struct td_kv_pin *pin;
    OK(td_backend_cpu()->kv_pin(&pin, span, &err));
    const size_t half = g_half[span->layer];
    uint8_t *flat = malloc(2 * span->n * half);
    assert_non_null(flat);
    OK(td_backend_cpu()->kv_read(pin, flat, 2 * span->n * half, &err));
    for (uint32_t i = 0; i < span->n; i++) {
        uint8_t *to = g_kv[span->layer] + (span->pos0 + i) * 2 * half;
        memcpy(to, flat + i * half, half);
        memcpy(to + half, flat + (span->n + i) * half, half);
    }
    free(flat);
    td_backend_cpu()->kv_unpin(pin);
}

static int setup(void **state)
{
    (void)state;
    g_model = open_model("synth:tiny,window=16,vocab=1024,ctx=8192");
    struct td_rng rng = {21};
    random_tokens(&rng, g_tokens, N, N_VOCAB);
    for (uint32_t il = 0; il < N_LAYERS; il++) {
        const struct td_kv_layer *l = &g_model->spec.kv[il];
        g_half[il] = (size_t)2 * l->n_kv_heads * l->head_dim;
        g_kv[il] = malloc(N * 2 * g_half[il]);
        assert_non_null(g_kv[il]);
    }
    struct td_engine *e = open_engine_cfg(g_model, config(64, 1));
    struct td_session *s = open_session(e, N);
    td_engine_watch(e, NULL, keep);
    OK(td_session_sync(s, g_tokens, N - 1, NULL, 0, NULL, NULL, &err));
    td_session_close(s);
    td_engine_close(e);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    for (uint32_t il = 0; il < N_LAYERS; il++) free(g_kv[il]);
    td_model_close(g_model);
    return 0;
}

static int write_span(struct td_kv *kv, uint32_t layer, uint32_t pos0, uint32_t n,
                      struct td_error *e)
{
    const struct td_kv_span span = {kv, layer, pos0, n};
    const size_t half = g_half[layer];
    uint8_t *flat = malloc(2 * n * half);
    if (!flat) return td_fail(e, TD_ENOMEM, "no memory");
    for (uint32_t i = 0; i < n; i++) {
        const uint8_t *from = g_kv[layer] + (pos0 + i) * 2 * half;
        memcpy(flat + i * half, from, half);
        memcpy(flat + (n + i) * half, from + half, half);
    }
    const int code = td_backend_cpu()->kv_write(&span, flat, 2 * n * half, e);
    free(flat);
    return code;
}

// Writes positions [pos0, n) as a relay would: full layers whole, window layers what is seen from
// n.
static int write_up_to(struct td_kv *kv, uint32_t pos0, uint32_t n, struct td_error *e)
{
    for (uint32_t il = 0; il < N_LAYERS; il++) {
        const uint32_t seen = n < WINDOW ? 0 : n - (WINDOW - 1);
        const bool is_window = g_model->spec.kv[il].window > 0;
        for (uint32_t pos = is_window ? td_max_u32(pos0, seen) : pos0; pos < n;) {
            const uint32_t n_span = td_min_u32(MAX_SPAN, n - pos);
            const int code = write_span(kv, il, pos, n_span, e);
            if (code) return code;
            pos += n_span;
        }
    }
    return TD_OK;
}

struct writer {
    struct td_kv *kv;
    uint32_t pos0;
    int code;
    struct td_error err;
};

static void *writer_main(void *ctx)
{
    struct writer *w = ctx;
    w->code = write_up_to(w->kv, w->pos0, N - 1, &w->err);
    return NULL;
}

// A session runs and appends to the very page in which the other's prefix ends.
static void another_thread_writes_while_others_run(void **state)
{
    (void)state;
    static const uint32_t prefixes[] = {1, 63, 64, 65, 100, 130, 200};
    for (size_t i = 0; i < sizeof(prefixes) / sizeof(prefixes[0]); i++) {
        const uint32_t n = prefixes[i];
        struct td_engine *e = open_engine_cfg(g_model, config(8, 2));
        struct td_session *s = open_session(e, N), *t = open_session(e, N);
        OK(td_session_sync(s, g_tokens, n, NULL, 0, NULL, NULL, &err));
        OK(td_backend_cpu()->kv_share(td_session_kv(t), td_session_kv(s), n, &err));
        OK(td_session_adopt(t, g_tokens, N, &err));
        OK(td_session_reserve(t, N, &err));
        int32_t other[N];
        memcpy(other, g_tokens, sizeof(other));
        for (uint32_t k = n; k < N; k++) other[k] = (other[k] + 7) % N_VOCAB;
        struct writer w = {.kv = td_session_kv(t), .pos0 = n};
        pthread_t thread;
        assert_int_equal(pthread_create(&thread, NULL, writer_main, &w), 0);
        OK(td_session_sync(s, other, n + 100, NULL, 0, NULL, NULL, &err));
        pthread_join(thread, NULL);
        if (w.code) fail_msg("%s", w.err.msg);
        OK(td_backend_cpu()->kv_commit(td_session_kv(t), N - 1, &err));
        OK(td_session_adopt(t, g_tokens, N, &err));
        OK(td_session_sync(t, g_tokens, N, NULL, 0, NULL, NULL, &err));
        assert_int_equal(td_session_reused(t), N - 1);
        assert_fresh(g_model, t, g_tokens, N);
        assert_fresh(g_model, s, other, n + 100);
        td_session_close(s);
        td_session_close(t);
        td_engine_close(e);
    }
}

// Takes what memory there is; ends in TD_ENOMEM.
static void be_greedy(struct td_session *s, int32_t *tokens, uint32_t n_max)
{
    int code = TD_OK;
    for (uint32_t n = td_session_len(s) + 1; n < n_max && !code; n += 64)
        code = td_session_sync(s, tokens, n, NULL, 0, NULL, NULL, &err);
    assert_int_equal(code, TD_ENOMEM);
}

static void what_is_reserved_is_there(void **state)
{
    (void)state;
    struct td_engine_config cfg = config(64, 1);
    struct td_engine *probe = open_engine_cfg(g_model, cfg);
    struct td_device_report report;
    td_engine_report(probe, &report);
    td_engine_close(probe);
    cfg.device.max_kv_bytes = 40 * report.kv_page_bytes;
    for (uint32_t step = 16; step <= 256; step *= 4) {
        struct td_engine *e = open_engine_cfg(g_model, cfg);
        struct td_session *t = open_session(e, N), *greedy = open_session(e, 8000);
        static int32_t tokens[8000];
        for (uint32_t i = 0; i < 8000; i++) tokens[i] = (int32_t)(i * 31 % N_VOCAB);
        assert_int_equal(td_session_reserve(t, N + 1, &err), TD_EFULL);
        // 8 pages of each full layer, two windows of two pages of the others.
        OK(td_session_reserve(t, N, &err));
        be_greedy(greedy, tokens, 8000);
        struct td_kv *kv = td_session_kv(t);
        for (uint32_t pos = 0; pos < N - 1;) {
            const uint32_t n = td_min_u32(pos + step, N - 1);
            OK(write_up_to(kv, pos, n, &err));
            be_greedy(greedy, tokens, 8000);
            OK(td_backend_cpu()->kv_commit(kv, n, &err));
            be_greedy(greedy, tokens, 8000);
            pos = n;
        }
        // Snapshots give way, sessions do not: there is no room for all of it again.
        struct td_session *u = open_session(e, 2000);
        assert_int_equal(td_session_reserve(u, 2000, &err), TD_ENOMEM);
        assert_non_null(strstr(err.msg, "KV cache has room for"));
        td_session_close(u);
        td_session_close(greedy);
        OK(td_session_adopt(t, g_tokens, N, &err));
        OK(td_session_sync(t, g_tokens, N, NULL, 0, NULL, NULL, &err));
        assert_int_equal(td_session_reused(t), N - 1);
        assert_fresh(g_model, t, g_tokens, N);
        td_session_close(t);
        // Nothing stays reserved.
        struct td_session *all = open_session(e, 2000);
        OK(td_session_reserve(all, 1000, &err));
        OK(td_session_reserve(all, 0, &err));
        OK(td_session_reserve(all, 1000, &err));
        td_session_close(all);
        all = open_session(e, 2000);
        OK(td_session_reserve(all, 1000, &err));
        td_session_close(all);
        td_engine_close(e);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(another_thread_writes_while_others_run),
        cmocka_unit_test(what_is_reserved_is_there),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
