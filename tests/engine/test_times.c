// SPDX-License-Identifier: MIT
// The times of the steps: every op has its share, the shares add up to the time the calls took,
// waiting is a part of it, and taking them changes no result.
#include "support.h"

#include "base/clock.h"

#include <stdlib.h>

static void times_add_up_and_cover_the_program(void **state)
{
    const uint32_t n_threads = **(uint32_t **)*state;
    struct td_model *m = open_model("synth:tiny");
    struct td_engine *e = open_engine_cfg(m, config(256, n_threads));
    struct td_session *s = open_session(e, 256);
    struct td_rng rng = {3};
    int32_t tokens[256];
    random_tokens(&rng, tokens, 256, m->spec.n_vocab);

    const uint32_t n = td_engine_step_times(e, NULL);
    struct td_step_time *times = calloc(n, sizeof(*times));
    assert_non_null(times);
    (void)td_engine_step_times(e, times);
    for (uint32_t i = 0; i < n; i++) assert_int_equal(times[i].time_ns, 0);

    OK(td_engine_time_steps(e, true, &err));
    const uint64_t t0_ns = td_clock_ns();
    OK(td_session_sync(s, tokens, 256, NULL, 0, NULL, NULL, &err));
    const uint64_t took_ns = td_clock_ns() - t0_ns;
    assert_int_equal(td_engine_step_times(e, times), n);
    uint64_t sum_ns = 0;
    uint32_t *n_seen = calloc(m->program.n_ops, sizeof(*n_seen));
    assert_non_null(n_seen);
    for (uint32_t i = 0; i < n; i++) {
        assert_non_null(times[i].name);
        assert_int_equal(times[i].n_runs, 1);
        assert_true(times[i].wait_ns <= times[i].time_ns);
        if (n_threads == 1) assert_int_equal(times[i].wait_ns, 0);
        sum_ns += times[i].time_ns;
        assert_true(times[i].i_op + times[i].n_ops <= m->program.n_ops);
        for (uint32_t k = 0; k < times[i].n_ops; k++) n_seen[times[i].i_op + k]++;
    }
    for (uint32_t i = 0; i < m->program.n_ops; i++) assert_int_equal(n_seen[i], 1);
    // The rest is the session's and the KV pages' doing; a busy machine may add pauses of its own.
    assert_true(sum_ns <= took_ns);
    if (sum_ns < took_ns - took_ns / 10)
        print_message("the steps took %.0f %% of the time\n",
                      100.0 * (double)sum_ns / (double)took_ns);
    assert_true(sum_ns > took_ns / 2);
    assert_fresh(m, s, tokens, 256);

    // Off: what was taken stays, and nothing is added.
    OK(td_engine_time_steps(e, false, &err));
    OK(td_session_sync(s, tokens, 200, NULL, 0, NULL, NULL, &err));
    (void)td_engine_step_times(e, times);
    for (uint32_t i = 0; i < n; i++) assert_int_equal(times[i].n_runs, 1);
    // On again: from zero.
    OK(td_engine_time_steps(e, true, &err));
    (void)td_engine_step_times(e, times);
    for (uint32_t i = 0; i < n; i++) assert_int_equal(times[i].time_ns + times[i].n_runs, 0);

    free(n_seen);
    free(times);
    td_session_close(s);
    td_engine_close(e);
    td_model_close(m);
}

int main(void)
{
    static uint32_t n_threads[] = {1, 2, 3};
    static uint32_t *states[] = {&n_threads[0], &n_threads[1], &n_threads[2]};
    const struct CMUnitTest tests[] = {
        {"one thread", times_add_up_and_cover_the_program, NULL, NULL, &states[0]},
        {"two threads", times_add_up_and_cover_the_program, NULL, NULL, &states[1]},
        {"three threads", times_add_up_and_cover_the_program, NULL, NULL, &states[2]},
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
