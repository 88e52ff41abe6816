// SPDX-License-Identifier: MIT
// A paced engine: no layer is told too early, nothing else changes, a cancel ends the wait. How
// late things may be is not asked: that is the machine's affair.
#include "engine/support.h"

#include "base/clock.h"

#include <pthread.h>
#include <time.h>

#define MODEL "tests/data/gptoss-tiny.gguf"
enum { CHUNK = 8, N_PROMPT = 32, MAX_EVENTS = 4096 };

struct event {
    uint32_t layer, pos0, n;
    uint64_t t_ns;
};
struct log {
    struct event events[MAX_EVENTS];
    uint32_t n;
};

static void on_layer(void *ctx, const struct td_kv_span *span)
{
    struct log *log = ctx;
    assert_true(log->n < MAX_EVENTS);
    log->events[log->n++] = (struct event){span->layer, span->pos0, span->n, td_clock_ns()};
}

static struct td_split_rate constant(double tokens_per_s)
{
    return (struct td_split_rate){.points = {{0, tokens_per_s}}, .n_points = 1};
}

static int32_t tokens[N_PROMPT + 1];

// Reads the prompt and one more token.
static uint64_t play(struct td_engine *e, struct log *log, float *logits)
{
    struct td_session *s = open_session(e, N_PROMPT + 1);
    if (log) td_engine_watch(e, log, on_layer);
    const uint64_t t0_ns = td_clock_ns();
    OK(td_session_sync(s, tokens, N_PROMPT, NULL, 0, NULL, NULL, &err));
    OK(td_session_append(s, tokens[N_PROMPT], &err));
    OK(td_engine_step(e, NULL, &err));
    const uint64_t took_ns = td_clock_ns() - t0_ns;
    memcpy(logits, td_session_logits(s), td_engine_model(e)->spec.n_vocab * sizeof(float));
    td_engine_watch(e, NULL, NULL);
    td_session_close(s);
    return took_ns;
}

static void test_held(void **state)
{
    (void)state;
    static struct log free_log, paced_log;
    struct td_model *m = open_model(MODEL);
    struct td_engine *e = open_engine_cfg(m, config(CHUNK, 2));
    float *a = test_malloc(m->spec.n_vocab * sizeof(float));
    float *b = test_malloc(m->spec.n_vocab * sizeof(float));
    struct td_rng rng = {.state = 1};
    random_tokens(&rng, tokens, N_PROMPT + 1, m->spec.n_vocab);
    (void)play(e, &free_log, a);

    const struct td_pace pace = {.prefill = constant(160), .decode = constant(10)};
    td_engine_pace(e, &pace);
    const uint64_t t0_ns = td_clock_ns();
    const uint64_t took_ns = play(e, &paced_log, b);
    assert_true(took_ns >= 300000000u); // 32 / 160 s + 1 / 10 s
    assert_memory_equal(a, b, m->spec.n_vocab * sizeof(float));

    // The same news in the same order, none before its time.
    const uint32_t n_layers = m->spec.n_layers;
    assert_int_equal(free_log.n, paced_log.n);
    assert_int_equal(paced_log.n, (N_PROMPT / CHUNK + 1) * n_layers);
    for (uint32_t i = 0; i < paced_log.n; i++) {
        const struct event *f = &free_log.events[i], *p = &paced_log.events[i];
        assert_int_equal(p->layer, f->layer);
        assert_int_equal(p->pos0, f->pos0);
        assert_int_equal(p->n, f->n);
        if (p->pos0 == N_PROMPT) continue;
        // Chunks before this one, and its own layers.
        const uint64_t chunk_ns = 1000000000ull * CHUNK / 160;
        const uint64_t due_ns =
            p->pos0 / CHUNK * chunk_ns + chunk_ns * (p->layer + 1) / n_layers - n_layers;
        if (p->t_ns < t0_ns + due_ns)
            fail_msg("layer %u at %u was told %.3f ms too early", p->layer, p->pos0,
                     (double)(t0_ns + due_ns - p->t_ns) * 1e-6);
    }

    // Without a watcher it is held as well; without a rate, or a pace, it is not.
    assert_true(play(e, NULL, b) >= 300000000u);
    const struct td_pace only_decode = {.decode = constant(10)};
    td_engine_pace(e, &only_decode);
    assert_true(play(e, NULL, b) >= 100000000u);
    td_engine_pace(e, NULL);
    paced_log.n = 0;
    (void)play(e, &paced_log, b);
    assert_memory_equal(a, b, m->spec.n_vocab * sizeof(float));
    assert_int_equal(paced_log.n, free_log.n);

    test_free(a);
    test_free(b);
    td_engine_close(e);
    td_model_close(m);
}

// Deeper is slower when the table says so.
static void test_by_depth(void **state)
{
    (void)state;
    struct td_model *m = open_model(MODEL);
    struct td_engine *e = open_engine_cfg(m, config(64, 1));
    struct td_session *s = open_session(e, 64);
    const struct td_pace pace = {
        .prefill = {.points = {{0, 1e6}, {16, 1e6}, {17, 80}}, .n_points = 3}};
    td_engine_pace(e, &pace);
    uint64_t t0_ns = td_clock_ns();
    OK(td_session_sync(s, tokens, 17, NULL, 0, NULL, NULL, &err));
    t0_ns = td_clock_ns();
    OK(td_session_sync(s, tokens, 17 + 8, NULL, 0, NULL, NULL, &err));
    assert_true(td_clock_ns() - t0_ns >= 100000000u); // 8 / 80 s
    td_session_close(s);
    td_engine_close(e);
    td_model_close(m);
}

static void *cancel_soon(void *session)
{
    const struct timespec soon = {.tv_nsec = 50000000};
    (void)nanosleep(&soon, NULL);
    td_session_cancel(session);
    return NULL;
}

// The wait would be an hour.
static void test_cancel(void **state)
{
    (void)state;
    struct td_model *m = open_model(MODEL);
    struct td_engine *e = open_engine_cfg(m, config(CHUNK, 2));
    struct td_session *s = open_session(e, N_PROMPT);
    const struct td_pace pace = {.prefill = constant(0.002)};
    td_engine_pace(e, &pace);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, cancel_soon, s), 0);
    const int code = td_session_sync(s, tokens, N_PROMPT, NULL, 0, NULL, NULL, &err);
    assert_int_equal(code, TD_ECANCEL);
    pthread_join(thread, NULL);
    assert_int_equal(td_session_state(s), TD_SESSION_IDLE);
    td_engine_pace(e, NULL);
    OK(td_session_sync(s, tokens, N_PROMPT, NULL, 0, NULL, NULL, &err));
    assert_fresh(m, s, tokens, N_PROMPT);
    td_session_close(s);
    td_engine_close(e);
    td_model_close(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_held),
        cmocka_unit_test(test_by_depth),
        cmocka_unit_test(test_cancel),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
