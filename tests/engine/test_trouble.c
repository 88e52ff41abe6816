// SPDX-License-Identifier: MIT
// Errors in the middle: whoever failed is idle at what it finished, its neighbours go on, and what
// was promised about budgets and gaps holds.
#include "support.h"

#include <stdlib.h>

static struct td_model *g_model; // window 16 on even layers of 4

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

static uint64_t page_bytes(void)
{
    struct td_engine *e = open_engine_cfg(g_model, config(1, 1));
    struct td_device_report report;
    td_engine_report(e, &report);
    td_engine_close(e);
    return report.kv_page_bytes;
}

static uint64_t kv_bytes(const struct td_engine *e)
{
    struct td_device_report report;
    td_engine_report(e, &report);
    return report.kv_bytes;
}

static int fail_second(void *ctx, uint32_t i0, uint32_t n, const float *logits,
                       struct td_error *why)
{
    (void)n;
    (void)logits;
    ++*(int *)ctx;
    return i0 == 0 ? TD_OK : td_fail(why, TD_EIO, "the disk is full");
}

static void a_failed_evaluation_leaves_an_idle_session(void **state)
{
    (void)state;
    struct td_rng rng = {1};
    int32_t tokens[200];
    random_tokens(&rng, tokens, 200, 1024);
    struct td_engine *e = open_engine_cfg(g_model, config(32, 1));
    struct td_session *s = open_session(e, 200);
    int n_calls = 0;
    assert_int_equal(td_session_eval(s, tokens, 200, fail_second, &n_calls, &err), TD_EIO);
    assert_string_equal(err.msg, "the disk is full");
    assert_int_equal(n_calls, 2);
    assert_int_equal(td_session_state(s), TD_SESSION_IDLE);
    assert_int_equal(td_session_len(s), 64);
    // It wants nothing any more.
    uint32_t n_rows = 1;
    OK(td_engine_step(e, &n_rows, &err));
    assert_int_equal(n_rows, 0);
    OK(td_session_sync(s, tokens, 200, NULL, 0, NULL, NULL, &err));
    assert_int_equal(td_session_reused(s), 64);
    assert_fresh(g_model, s, tokens, 200);
    // A refused evaluation changes nothing.
    const int32_t bad[2] = {1, -1};
    assert_int_equal(td_session_eval(s, bad, 2, fail_second, &n_calls, &err), TD_EARG);
    assert_int_equal(td_session_len(s), 200);
    OK(td_session_sync(s, tokens, 200, NULL, 0, NULL, NULL, &err));
    assert_int_equal(td_session_reused(s), 199);
    td_session_close(s);
    td_engine_close(e);
}

static bool stop_at_the_end(void *ctx, uint64_t done, uint64_t total)
{
    (void)ctx;
    return done < total;
}

static void a_stop_after_the_last_chunk_is_a_stop(void **state)
{
    (void)state;
    struct td_rng rng = {2};
    int32_t tokens[100];
    random_tokens(&rng, tokens, 100, 1024);
    struct td_engine *e = open_engine_cfg(g_model, config(64, 1));
    struct td_session *s = open_session(e, 200);
    assert_int_equal(td_session_sync(s, tokens, 100, NULL, 0, stop_at_the_end, NULL, &err),
                     TD_ECANCEL);
    assert_int_equal(td_session_state(s), TD_SESSION_IDLE);
    // And nothing of it stays behind.
    OK(td_session_sync(s, tokens, 100, NULL, 0, NULL, NULL, &err));
    assert_int_equal(td_session_reused(s), 99);
    OK(td_session_append(s, 7, &err));
    OK(td_engine_step(e, NULL, &err));
    assert_int_equal(td_session_state(s), TD_SESSION_READY);
    td_session_close(s);
    td_engine_close(e);
}

// A prompt that does not fit in the pool must not stop an answer that does.
static void a_neighbour_without_memory_stops_nobody(void **state)
{
    (void)state;
    struct td_rng rng = {3};
    int32_t tokens[1000];
    random_tokens(&rng, tokens, 1000, 1024);
    struct td_engine_config cfg = config(64, 2);
    cfg.device.max_kv_bytes = page_bytes() * 4 * 5;
    struct td_engine *e = open_engine_cfg(g_model, cfg);
    struct td_session *big = open_session(e, 1000), *small = open_session(e, 64);
    OK(td_session_sync(small, tokens, 20, NULL, 0, NULL, NULL, &err));
    OK(td_session_want(big, tokens, 1000, NULL, 0, &err));
    for (uint32_t n = 20; n < 60; n++) {
        if (n % 8 == 4) assert_fresh(g_model, small, tokens, n);
        OK(td_session_append(small, tokens[n], &err));
        while (td_session_state(small) != TD_SESSION_READY) OK(td_engine_step(e, NULL, &err));
    }
    // Alone, the prompt says what is wrong; synced, it gives up.
    assert_int_equal(td_session_state(big), TD_SESSION_PREFILLING);
    assert_int_equal(td_engine_step(e, NULL, &err), TD_ENOMEM);
    assert_int_equal(td_session_sync(big, tokens, 1000, NULL, 0, NULL, NULL, &err), TD_ENOMEM);
    assert_int_equal(td_session_state(big), TD_SESSION_IDLE);
    uint32_t n_rows = 1;
    OK(td_engine_step(e, &n_rows, &err));
    assert_int_equal(n_rows, 0);
    td_session_close(big);
    td_session_close(small);
    td_engine_close(e);
}

enum { N_ANSWERS = 3 };

static void answer_for_90_steps(struct td_engine *e, struct td_session *const *s)
{
    for (int step = 0; step < 90; step++) {
        for (int i = 0; i < N_ANSWERS; i++)
            if (td_session_state(s[i]) == TD_SESSION_READY && td_session_len(s[i]) < 100)
                OK(td_session_append(s[i], 1, &err));
        OK(td_engine_step(e, NULL, &err));
    }
}

// More answers than a step has room for: each gets its turn.
static void share_room(uint32_t max_rows, uint32_t max_logits_rows)
{
    int32_t tokens[60];
    struct td_rng rng = {4};
    random_tokens(&rng, tokens, 60, 1024);
    struct td_engine_config cfg = config(max_rows, 1);
    cfg.device.max_logits_rows = max_logits_rows;
    struct td_engine *e = open_engine_cfg(g_model, cfg);
    struct td_session *s[N_ANSWERS], *prompt = open_session(e, 100);
    for (int i = 0; i < N_ANSWERS; i++) {
        s[i] = open_session(e, 100);
        OK(td_session_sync(s[i], tokens, 2, NULL, 0, NULL, NULL, &err));
    }
    OK(td_session_want(prompt, tokens, 60, NULL, 0, &err));
    answer_for_90_steps(e, s);
    // With room for more than the answers, the prompt is read beside them.
    if (max_rows > N_ANSWERS) assert_int_equal(td_session_state(prompt), TD_SESSION_READY);
    for (int i = 0; i < N_ANSWERS; i++) {
        assert_true(td_session_len(s[i]) > 10);
        td_session_close(s[i]);
    }
    td_session_close(prompt);
    td_engine_close(e);
}

static void nobody_starves(void **state)
{
    (void)state;
    share_room(1, 1);
    share_room(2, 2);
    share_room(8, 1);
    share_room(8, 2);
}

// KV bytes in use after 1500 tokens; *said_out: what the snapshots say is theirs.
static uint64_t held_bytes(const struct td_model *m, uint64_t max_snapshot_bytes,
                           uint64_t *said_out)
{
    struct td_rng rng = {5};
    int32_t tokens[1500];
    random_tokens(&rng, tokens, 1500, 1024);
    // One position into a page: what is seen from there lies on the most pages.
    static const uint32_t marks[] = {193, 449, 705, 961};
    struct td_engine_config cfg = config(64, 1);
    cfg.max_snapshot_bytes = max_snapshot_bytes;
    struct td_engine *e = open_engine_cfg(m, cfg);
    struct td_session *s = open_session(e, 1500);
    OK(td_session_sync(s, tokens, 1500, marks, 4, NULL, NULL, &err));
    const uint64_t held = kv_bytes(e);
    *said_out = td_session_snapshot_bytes(s);
    td_session_close(s);
    td_engine_close(e);
    return held;
}

// What snapshots hold beyond the session's own pages, measured with and without them.
static void snapshots_cost_no_more_than_they_say(void **state)
{
    (void)state;
    static const char *const models[] = {
        "synth:tiny,window=2,vocab=1024,ctx=8192", "synth:tiny,window=16,vocab=1024,ctx=8192",
        "synth:tiny,window=65,vocab=1024,ctx=8192", "synth:tiny,window=67,vocab=1024,ctx=8192",
        "synth:tiny,window=128,vocab=1024,ctx=8192"};
    for (size_t i = 0; i < sizeof(models) / sizeof(models[0]); i++) {
        struct td_model *m = open_model(models[i]);
        uint64_t said;
        const uint64_t without = held_bytes(m, 1, &said);
        assert_int_equal(said, 0);
        const uint64_t more = held_bytes(m, 0, &said) - without;
        assert_true(more > 0);
        if (more > said)
            fail_msg("%s: snapshots hold %u bytes and say %u", models[i], (unsigned)more,
                     (unsigned)said);
        td_model_close(m);
    }
}

// Answering the same prompt once more, long after the window layers forgot its end.
static void asking_again_computes_one_row(void **state)
{
    (void)state;
    struct td_rng rng = {6};
    int32_t tokens[700];
    random_tokens(&rng, tokens, 700, 1024);
    struct td_engine *e = open_engine_cfg(g_model, config(64, 2));
    struct td_session *s = open_session(e, 1200);
    OK(td_session_sync(s, tokens, 700, NULL, 0, NULL, NULL, &err));
    for (int i = 0; i < 300; i++) {
        OK(td_session_append(s, i, &err));
        OK(td_engine_step(e, NULL, &err));
    }
    OK(td_session_sync(s, tokens, 700, NULL, 0, NULL, NULL, &err));
    assert_int_equal(td_session_reused(s), 699);
    assert_fresh(g_model, s, tokens, 700);
    td_session_close(s);
    td_engine_close(e);
}

// A boundary inside what was generated: known before the prompt that names it is read.
static void marks_in_the_reused_part_count(void **state)
{
    (void)state;
    struct td_rng rng = {7};
    int32_t tokens[900];
    random_tokens(&rng, tokens, 900, 1024);
    struct td_engine *e = open_engine_cfg(g_model, config(64, 2));
    struct td_session *s = open_session(e, 900);
    OK(td_session_sync(s, tokens, 100, NULL, 0, NULL, NULL, &err));
    for (uint32_t i = 100; i < 140; i++) {
        OK(td_session_append(s, tokens[i], &err));
        OK(td_engine_step(e, NULL, &err));
    }
    const uint32_t mark = 140;
    OK(td_session_sync(s, tokens, 450, &mark, 1, NULL, NULL, &err));
    assert_int_equal(td_session_reused(s), 140);
    tokens[140] = (tokens[140] + 1) % 1024;
    OK(td_session_sync(s, tokens, 450, NULL, 0, NULL, NULL, &err));
    assert_int_equal(td_session_reused(s), 140);
    assert_fresh(g_model, s, tokens, 450);
    td_session_close(s);
    td_engine_close(e);
}

// Rows of a prompt in one step are held to a limit, those of answers come on top; the chunks change
// no bit.
static void a_limit_of_rows_lets_answers_flow(void **state)
{
    (void)state;
    struct td_rng rng = {11};
    int32_t tokens[300];
    random_tokens(&rng, tokens, 300, 1024);
    struct td_engine *e = open_engine_cfg(g_model, config(64, 2));
    struct td_session *answer = open_session(e, 300), *prompt = open_session(e, 300);
    OK(td_session_sync(answer, tokens, 5, NULL, 0, NULL, NULL, &err));
    OK(td_session_want(prompt, tokens, 300, NULL, 0, &err));
    static const uint32_t limits[] = {7, 1, 64, 1000, 0};
    static const uint32_t rows[] = {8, 2, 64, 64, 64};
    for (int i = 0; i < 5; i++) {
        uint32_t n_rows;
        td_engine_limit_rows(e, limits[i]);
        OK(td_session_append(answer, tokens[5 + i], &err));
        OK(td_engine_step(e, &n_rows, &err));
        assert_int_equal(n_rows, rows[i]);
        assert_int_equal(td_session_state(answer), TD_SESSION_READY);
    }
    td_engine_limit_rows(e, 5);
    while (td_session_state(prompt) != TD_SESSION_READY) OK(td_engine_step(e, NULL, &err));
    assert_fresh(g_model, prompt, tokens, 300);
    assert_fresh(g_model, answer, tokens, 10);
    td_session_close(prompt);
    td_session_close(answer);
    td_engine_close(e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_failed_evaluation_leaves_an_idle_session),
        cmocka_unit_test(a_stop_after_the_last_chunk_is_a_stop),
        cmocka_unit_test(a_neighbour_without_memory_stops_nobody),
        cmocka_unit_test(nobody_starves),
        cmocka_unit_test(snapshots_cost_no_more_than_they_say),
        cmocka_unit_test(asking_again_computes_one_row),
        cmocka_unit_test(marks_in_the_reused_part_count),
        cmocka_unit_test(a_limit_of_rows_lets_answers_flow),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
