// SPDX-License-Identifier: MIT
// KV by span: read while it is made, written into another device, and taken up there as if it had
// been computed there. What a remote prefill will do, without the network.
#include "support.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>

static struct td_model *g_model; // window 16 on even layers

static int setup(void **state)
{
    (void)state;
    g_model = open_model("synth:tiny,window=16,vocab=1024,ctx=8192");
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    td_model_close(g_model);
    return 0;
}

enum { MAX_PINS = 512 };
struct pinned {
    struct td_kv_pin *pin[MAX_PINS];
    struct td_kv_span span[MAX_PINS];
    uint32_t n;
};

static void pin_it(void *ctx, const struct td_kv_span *span)
{
    struct pinned *p = ctx;
    assert_true(p->n < MAX_PINS);
    p->span[p->n] = *span;
    OK(td_backend_cpu()->kv_pin(&p->pin[p->n++], span, &err));
}

static size_t span_bytes(const struct td_kv_span *span, size_t elem_bytes)
{
    const struct td_kv_layer *l = &g_model->spec.kv[span->layer];
    return (size_t)2 * span->n * l->n_kv_heads * l->head_dim * elem_bytes;
}

// Prefills n - 1 tokens on one engine with every span pinned as it is made, goes on and rewinds
// there so that pages are written over, then moves the pinned spans to a second engine and runs
// token n - 1 there.
static void move(uint32_t n, uint32_t chunk, bool kv_f32)
{
    const struct td_backend *b = td_backend_cpu();
    struct td_rng rng = {n};
    int32_t tokens[400], other[400];
    random_tokens(&rng, tokens, 400, 1024);
    random_tokens(&rng, other, 400, 1024);
    struct td_engine_config cfg = config(chunk, 2);
    cfg.device.kv_f32 = kv_f32;
    struct td_engine *far = open_engine_cfg(g_model, cfg);
    struct td_engine *near = open_engine_cfg(g_model, cfg);
    struct td_session *s = open_session(far, 400);
    struct pinned p = {.n = 0};
    td_engine_watch(far, &p, pin_it);
    OK(td_session_sync(s, tokens, n - 1, NULL, 0, NULL, NULL, &err));
    td_engine_watch(far, NULL, NULL);
    // Another timeline over the same pages: the pinned ones must not change.
    OK(td_session_sync(s, other, 300, NULL, 0, NULL, NULL, &err));

    struct td_session *t = open_session(near, 400);
    struct td_kv *kv = td_session_kv(t);
    uint8_t *bytes = malloc(1 << 20);
    assert_non_null(bytes);
    for (uint32_t i = 0; i < p.n; i++) {
        const size_t size = span_bytes(&p.span[i], kv_f32 ? 4 : 2);
        assert_int_equal(b->kv_read(p.pin[i], bytes, size - 1, &err), TD_EARG);
        OK(b->kv_read(p.pin[i], bytes, size, &err));
        struct td_kv_span to = p.span[i];
        to.kv = kv;
        OK(b->kv_write(&to, bytes, size, &err));
        b->kv_unpin(p.pin[i]);
    }
    OK(b->kv_commit(kv, n - 1, &err));
    free(bytes);

    // The decode side adopts the prefix and runs the last token itself.
    OK(td_session_adopt(t, tokens, n, &err));
    OK(td_session_sync(t, tokens, n, NULL, 0, NULL, NULL, &err));
    assert_int_equal(td_session_reused(t), n - 1);

    struct td_session *local = open_session(near, 400);
    OK(td_session_sync(local, tokens, n, NULL, 0, NULL, NULL, &err));
    assert_memory_equal(td_session_logits(t), td_session_logits(local), 1024 * sizeof(float));
    td_session_close(local);
    td_session_close(t);
    td_session_close(s);
    td_engine_close(near);
    td_engine_close(far);
}

static void moved_kv_gives_the_same_bits(void **state)
{
    (void)state;
    static const uint32_t lengths[] = {2, 3, 15, 16, 17, 18, 63, 64, 65, 66, 128, 129, 200, 331};
    for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
        move(lengths[i], 64, false);
        move(lengths[i], 50, i % 2 == 0);
    }
}

// The canonical layout is by position: any part of a span reads back as that part of what was
// written, K and V, whatever pages look like inside.
static void a_part_of_a_span_reads_as_it_was_written(void **state)
{
    (void)state;
    enum { POS0 = 30, N = 150 };
    const struct td_backend *b = td_backend_cpu();
    for (int kv_f32 = 0; kv_f32 < 2; kv_f32++) {
        struct td_engine_config cfg = config(64, 1);
        cfg.device.kv_f32 = kv_f32;
        struct td_engine *e = open_engine_cfg(g_model, cfg);
        struct td_session *s = open_session(e, 400);
        const struct td_kv_span whole = {td_session_kv(s), 1, POS0, N};
        const size_t n_bytes = span_bytes(&whole, kv_f32 ? 4 : 2), v = n_bytes / 2;
        uint8_t *in = malloc(n_bytes), *out = malloc(n_bytes);
        assert_true(in && out);
        struct td_rng rng = {7};
        for (size_t i = 0; i < n_bytes; i++) in[i] = (uint8_t)(td_rng_u64(&rng) >> 56);
        OK(b->kv_write(&whole, in, n_bytes, &err));
        for (uint32_t first = 0; first < N; first += 13) {
            for (uint32_t n = 1; n <= N - first; n += 21) {
                const struct td_kv_span part = {whole.kv, 1, POS0 + first, n};
                const size_t size = span_bytes(&part, kv_f32 ? 4 : 2);
                struct td_kv_pin *pin;
                OK(b->kv_pin(&pin, &part, &err));
                OK(b->kv_read(pin, out, size, &err));
                b->kv_unpin(pin);
                assert_memory_equal(out, in + v / N * first, size / 2);
                assert_memory_equal(out + size / 2, in + v + v / N * first, size / 2);
            }
        }
        free(in);
        free(out);
        td_session_close(s);
        td_engine_close(e);
    }
}

static void bad_spans_are_refused(void **state)
{
    (void)state;
    const struct td_backend *b = td_backend_cpu();
    struct td_engine *e = open_engine_cfg(g_model, config(64, 1));
    struct td_session *s = open_session(e, 100);
    const int32_t tokens[3] = {1, 2, 3};
    OK(td_session_sync(s, tokens, 3, NULL, 0, NULL, NULL, &err));
    struct td_kv *kv = td_session_kv(s);
    struct td_kv_pin *pin;
    const struct td_kv_span beyond_layers = {kv, 4, 0, 1}, beyond_ctx = {kv, 0, 90, 11},
                            wraps = {kv, 0, 5, UINT32_MAX}, empty = {kv, 0, 0, 0},
                            not_held = {kv, 0, 64, 1}, used = {kv, 0, 2, 1};
    assert_int_equal(b->kv_pin(&pin, &beyond_layers, &err), TD_EARG);
    assert_int_equal(b->kv_pin(&pin, &beyond_ctx, &err), TD_EARG);
    assert_int_equal(b->kv_pin(&pin, &wraps, &err), TD_EARG);
    assert_int_equal(b->kv_pin(&pin, &empty, &err), TD_EARG);
    assert_int_equal(b->kv_pin(&pin, &not_held, &err), TD_EARG);
    const struct td_kv_span never_written = {kv, 0, 2, 2};
    assert_int_equal(b->kv_pin(&pin, &never_written, &err), TD_EARG);
    uint8_t bytes[1024] = {0};
    assert_int_equal(b->kv_write(&used, bytes, span_bytes(&used, 2), &err), TD_EARG);
    assert_int_equal(b->kv_write(&beyond_layers, bytes, 4, &err), TD_EARG);
    assert_int_equal(b->kv_commit(kv, 4, &err), TD_EARG); // position 3 was never written
    assert_int_equal(b->kv_commit(kv, 2, &err), TD_EARG);
    assert_int_equal(b->kv_trim(kv, 4, &err), TD_EARG);
    td_session_close(s);
    td_engine_close(e);
}

// Writes zeros over a span of an f16 cache.
static void put(struct td_kv *kv, uint32_t layer, uint32_t pos0, uint32_t n, int code)
{
    const struct td_kv_span span = {kv, layer, pos0, n};
    static uint8_t bytes[1 << 20];
    assert_int_equal(td_backend_cpu()->kv_write(&span, bytes, span_bytes(&span, 2), &err), code);
}

static void put_all(struct td_kv *kv, uint32_t pos0, uint32_t n)
{
    for (uint32_t il = 0; il < 4; il++) put(kv, il, pos0, n, TD_OK);
}

static void a_gap_is_never_committed(void **state)
{
    (void)state;
    const struct td_backend *b = td_backend_cpu();
    struct td_engine *e = open_engine_cfg(g_model, config(64, 1));
    struct td_session *s = open_session(e, 400);
    struct td_kv *kv = td_session_kv(s);
    // Within a page, at its beginning, and between pages.
    put_all(kv, 40, 24);
    assert_int_equal(b->kv_commit(kv, 64, &err), TD_EARG);
    put_all(kv, 0, 39);
    assert_int_equal(b->kv_commit(kv, 64, &err), TD_EARG);
    put_all(kv, 39, 25);
    OK(b->kv_commit(kv, 64, &err));
    put_all(kv, 130, 20);
    assert_int_equal(b->kv_commit(kv, 150, &err), TD_EARG);
    put_all(kv, 64, 66);
    put_all(kv, 130, 20);
    assert_int_equal(b->kv_commit(kv, 151, &err), TD_EARG);
    OK(b->kv_commit(kv, 150, &err));
    // What was forgotten is not there again.
    OK(b->kv_trim(kv, 145, &err));
    assert_int_equal(b->kv_commit(kv, 150, &err), TD_EARG);
    put_all(kv, 145, 5);
    OK(b->kv_trim(kv, 145, &err));
    assert_int_equal(b->kv_commit(kv, 150, &err), TD_EARG);
    // Window layers need only what is seen from there: 15 positions.
    for (uint32_t il = 0; il < 4; il++) {
        const uint32_t window = g_model->spec.kv[il].window;
        if (window)
            put(kv, il, 300 - (window - 1), window - 1, TD_OK);
        else
            put(kv, il, 145, 155, TD_OK);
    }
    OK(b->kv_commit(kv, 300, &err));
    assert_int_equal(b->kv_len(kv), 300);
    // And are complete nowhere else: a page that is there is not enough.
    assert_true(b->kv_holds(kv, 300));
    assert_false(b->kv_holds(kv, 299));
    assert_int_equal(b->kv_trim(kv, 290, &err), TD_EARG);
    OK(b->kv_trim(kv, 0, &err));
    put_all(kv, 0, 20);
    OK(b->kv_commit(kv, 20, &err));
    assert_true(b->kv_holds(kv, 3));
    td_session_close(s);
    td_engine_close(e);
}

// A remote turn keeps what earlier turns left to return to.
static void adopting_keeps_the_snapshots_of_the_same_prefix(void **state)
{
    (void)state;
    const struct td_backend *b = td_backend_cpu();
    struct td_rng rng = {3};
    int32_t tokens[600];
    random_tokens(&rng, tokens, 600, 1024);
    struct td_engine *e = open_engine_cfg(g_model, config(64, 1));
    struct td_session *s = open_session(e, 600);
    const uint32_t mark = 100;
    OK(td_session_sync(s, tokens, 300, &mark, 1, NULL, NULL, &err));
    put_all(td_session_kv(s), 300, 200);
    OK(b->kv_commit(td_session_kv(s), 500, &err));
    OK(td_session_adopt(s, tokens, 600, &err));
    assert_int_equal(td_session_len(s), 500);
    tokens[100] = (tokens[100] + 1) % 1024;
    OK(td_session_want(s, tokens, 600, NULL, 0, &err));
    assert_int_equal(td_session_reused(s), 100);
    // Adopting another timeline does not.
    OK(td_session_sync(s, tokens, 300, NULL, 0, NULL, NULL, &err));
    put_all(td_session_kv(s), 300, 200);
    OK(b->kv_commit(td_session_kv(s), 500, &err));
    tokens[99] = (tokens[99] + 1) % 1024;
    OK(td_session_adopt(s, tokens, 600, &err));
    tokens[100] = (tokens[100] + 1) % 1024;
    OK(td_session_want(s, tokens, 600, NULL, 0, &err));
    assert_int_equal(td_session_reused(s), 0);
    td_session_close(s);
    td_engine_close(e);
}

// Pins that another thread reads and gives back while the engine goes on and rewinds.
struct mailbox {
    pthread_mutex_t mutex; // guards the two below
    struct pinned p;
    bool is_closed;
    struct td_engine *engine;
};

static void post_it(void *ctx, const struct td_kv_span *span)
{
    struct mailbox *m = ctx;
    pthread_mutex_lock(&m->mutex);
    if (m->p.n < MAX_PINS) pin_it(&m->p, span);
    pthread_mutex_unlock(&m->mutex);
}

static void *read_pins(void *arg)
{
    struct mailbox *m = arg;
    const struct td_backend *b = td_backend_cpu();
    uint8_t *bytes = malloc(1 << 20);
    for (bool is_done = bytes == NULL; !is_done;) {
        struct td_kv_pin *pin = NULL;
        size_t size = 0;
        pthread_mutex_lock(&m->mutex);
        if (m->p.n > 0) {
            pin = m->p.pin[--m->p.n];
            size = span_bytes(&m->p.span[m->p.n], 2);
        }
        is_done = !pin && m->is_closed;
        pthread_mutex_unlock(&m->mutex);
        if (!pin) {
            sched_yield();
            continue;
        }
        if (b->kv_read(pin, bytes, size, NULL) != TD_OK) break;
        b->kv_unpin(pin);
    }
    free(bytes);
    return NULL;
}

static void another_thread_reads_while_the_engine_runs(void **state)
{
    (void)state;
    struct td_rng rng = {4};
    int32_t tokens[400];
    random_tokens(&rng, tokens, 400, 1024);
    struct td_engine *e = open_engine_cfg(g_model, config(32, 2));
    struct td_session *s = open_session(e, 400);
    static struct mailbox m;
    m = (struct mailbox){.mutex = PTHREAD_MUTEX_INITIALIZER};
    pthread_t reader;
    assert_int_equal(pthread_create(&reader, NULL, read_pins, &m), 0);
    td_engine_watch(e, &m, post_it);
    struct td_device_report report;
    for (int round = 0; round < 6; round++) {
        int32_t *edited = &tokens[(size_t)round * 50];
        *edited = (*edited + 1) % 1024;
        OK(td_session_sync(s, tokens, 350, NULL, 0, NULL, NULL, &err));
        td_engine_report(e, &report);
    }
    td_engine_watch(e, NULL, NULL);
    pthread_mutex_lock(&m.mutex);
    m.is_closed = true;
    pthread_mutex_unlock(&m.mutex);
    pthread_join(reader, NULL);
    td_session_close(s);
    td_engine_report(e, &report);
    assert_int_equal(report.kv_bytes, 0);
    td_engine_close(e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(moved_kv_gives_the_same_bits),
        cmocka_unit_test(a_part_of_a_span_reads_as_it_was_written),
        cmocka_unit_test(bad_spans_are_refused),
        cmocka_unit_test(a_gap_is_never_committed),
        cmocka_unit_test(adopting_keeps_the_snapshots_of_the_same_prefix),
        cmocka_unit_test(another_thread_reads_while_the_engine_runs),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
