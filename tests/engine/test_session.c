// SPDX-License-Identifier: MIT
// Timelines: whatever was edited, rewound, shared or cancelled before, the logits are those of a
// session that reads the same tokens for the first time, to the bit; and no more is computed than
// must be.
#include "support.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
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

static bool never(void *ctx, uint64_t done, uint64_t total)
{
    (void)done;
    (void)total;
    ++*(int *)ctx;
    return false;
}

// Logits of the last of n tokens, from a fresh session of an engine of its own.
static void the_next_turn_reuses_the_whole_prompt(void **state)
{
    (void)state;
    struct td_rng rng = {7};
    int32_t tokens[2000];
    random_tokens(&rng, tokens, 2000, 1024);
    struct td_engine *e = open_engine_cfg(g_model, config(128, 2));
    struct td_session *s = open_session(e, 2000);
    OK(td_session_sync(s, tokens, 700, NULL, 0, NULL, NULL, &err));
    assert_int_equal(td_session_reused(s), 0);
    // 300 tokens of reasoning, far more than the window remembers.
    for (int i = 0; i < 300; i++) {
        OK(td_session_append(s, (int32_t)(td_rng_u64(&rng) % 1024), &err));
        OK(td_engine_step(e, NULL, &err));
    }
    // The next turn has the prompt without the reasoning, then something new.
    OK(td_session_sync(s, tokens, 900, NULL, 0, NULL, NULL, &err));
    assert_int_equal(td_session_reused(s), 700);
    assert_fresh(g_model, s, tokens, 900);
    td_session_close(s);
    td_engine_close(e);
}

static void marks_are_places_to_return_to(void **state)
{
    (void)state;
    struct td_rng rng = {8};
    int32_t tokens[1500];
    random_tokens(&rng, tokens, 1500, 1024);
    static const uint32_t marks[] = {3, 100, 101, 333, 900, 1500};
    struct td_engine *e = open_engine_cfg(g_model, config(256, 2));
    struct td_session *s = open_session(e, 1500);
    // The tail after each mark is replaced, last mark first.
    OK(td_session_sync(s, tokens, 1500, marks, 6, NULL, NULL, &err));
    for (int i = 4; i >= 0; i--) {
        tokens[marks[i]] = (tokens[marks[i]] + 1) % 1024;
        OK(td_session_sync(s, tokens, marks[i] + 20, NULL, 0, NULL, NULL, &err));
        assert_int_equal(td_session_reused(s), marks[i]);
        assert_fresh(g_model, s, tokens, marks[i] + 20);
    }
    td_session_close(s);
    td_engine_close(e);
}

static void an_edit_in_the_middle_costs_only_the_stride(void **state)
{
    (void)state;
    struct td_rng rng = {9};
    int32_t tokens[4000];
    random_tokens(&rng, tokens, 4000, 1024);
    struct td_engine *e = open_engine_cfg(g_model, config(512, 2));
    struct td_session *s = open_session(e, 4000);
    OK(td_session_sync(s, tokens, 4000, NULL, 0, NULL, NULL, &err));
    tokens[2900] = (tokens[2900] + 1) % 1024;
    OK(td_session_sync(s, tokens, 3300, NULL, 0, NULL, NULL, &err));
    assert_in_range(td_session_reused(s), 2900 - 512, 2900);
    assert_fresh(g_model, s, tokens, 3300);
    td_session_close(s);
    td_engine_close(e);
}

static void the_same_prompt_again_computes_one_row(void **state)
{
    (void)state;
    struct td_rng rng = {10};
    int32_t tokens[300];
    random_tokens(&rng, tokens, 300, 1024);
    struct td_engine *e = open_engine_cfg(g_model, config(64, 1));
    struct td_session *s = open_session(e, 300);
    for (int i = 0; i < 3; i++) {
        OK(td_session_sync(s, tokens, 300, NULL, 0, NULL, NULL, &err));
        assert_int_equal(td_session_reused(s), i == 0 ? 0 : 299);
        assert_fresh(g_model, s, tokens, 300);
    }
    td_session_close(s);
    td_engine_close(e);
}

// Several sessions of one engine, edited at random, cancelled at random, decoding in between.
static void random_lives(void **state)
{
    (void)state;
    enum { N_SESSIONS = 3, N_CTX = 700 };
    struct td_rng rng = {20261122};
    for (int life = 0; life < 3; life++) {
        struct td_engine_config cfg = config(1 + (uint32_t)(td_rng_u64(&rng) % 200), 2);
        cfg.device.max_logits_rows = 1 + (uint32_t)(td_rng_u64(&rng) % 3);
        if (life == 1) cfg.max_snapshot_bytes = 200000;
        struct td_engine *e = open_engine_cfg(g_model, cfg);
        struct td_session *s[N_SESSIONS];
        int32_t tokens[N_SESSIONS][N_CTX];
        for (int i = 0; i < N_SESSIONS; i++) {
            s[i] = open_session(e, N_CTX);
            random_tokens(&rng, tokens[i], N_CTX, 1024);
        }
        for (int round = 0; round < 8; round++) {
            uint32_t n[N_SESSIONS];
            for (int i = 0; i < N_SESSIONS; i++) {
                const uint32_t at = (uint32_t)(td_rng_u64(&rng) % N_CTX);
                tokens[i][at] = (int32_t)(td_rng_u64(&rng) % 1024);
                n[i] = 1 + (uint32_t)(td_rng_u64(&rng) % N_CTX);
                const uint32_t marks[2] = {n[i] / 2 + 1, n[i]};
                OK(td_session_want(s[i], tokens[i], n[i], marks, 2, &err));
            }
            const int victim = (int)(td_rng_u64(&rng) % 6);
            if (victim < N_SESSIONS) {
                td_session_cancel(s[victim]);
                assert_int_equal(td_engine_step(e, NULL, &err), TD_ECANCEL);
                assert_int_equal(td_session_state(s[victim]), TD_SESSION_IDLE);
            }
            for (uint32_t n_rows = 1; n_rows > 0;) OK(td_engine_step(e, &n_rows, &err));
            for (int i = 0; i < N_SESSIONS; i++) {
                if (i == victim) continue;
                assert_fresh(g_model, s[i], tokens[i], n[i]);
                // Some decoding, of what will not be part of the next round's timeline.
                for (int k = 0; k < 5 && td_session_len(s[i]) < N_CTX; k++) {
                    OK(td_session_append(s[i], 5, &err));
                    OK(td_engine_step(e, NULL, &err));
                }
            }
            assert_true(td_session_snapshot_bytes(s[0]) <= ((uint64_t)64 << 20));
            if (life == 1) assert_true(td_session_snapshot_bytes(s[0]) <= 200000);
        }
        for (int i = 0; i < N_SESSIONS; i++) td_session_close(s[i]);
        struct td_device_report report;
        td_engine_report(e, &report);
        assert_int_equal(report.kv_bytes, 0); // every page came back
        td_engine_close(e);
    }
}

static void cancel_leaves_a_usable_prefix(void **state)
{
    (void)state;
    struct td_rng rng = {11};
    int32_t tokens[500];
    random_tokens(&rng, tokens, 500, 1024);
    struct td_engine *e = open_engine_cfg(g_model, config(100, 2));
    struct td_session *s = open_session(e, 500);
    int n_calls = 0;
    assert_int_equal(td_session_sync(s, tokens, 500, NULL, 0, never, &n_calls, &err), TD_ECANCEL);
    assert_int_equal(n_calls, 1);
    assert_int_equal(td_session_state(s), TD_SESSION_IDLE);
    OK(td_session_sync(s, tokens, 500, NULL, 0, NULL, NULL, &err));
    assert_int_equal(td_session_reused(s), 100);
    assert_fresh(g_model, s, tokens, 500);
    // Cancelled while nothing computes: the next call that would go on says so, once.
    td_session_cancel(s);
    assert_int_equal(td_engine_step(e, NULL, &err), TD_ECANCEL);
    assert_int_equal(td_session_state(s), TD_SESSION_IDLE);
    OK(td_session_sync(s, tokens, 499, NULL, 0, NULL, NULL, &err));
    td_session_cancel(s);
    struct td_sampler *sampler = NULL;
    const struct td_sampling greedy = {.top_p = 1.0f};
    OK(td_sampler_open(&sampler, &greedy, 1024, &err));
    int32_t token = -1;
    assert_int_equal(td_session_next(s, sampler, &token, &err), TD_ECANCEL);
    assert_int_equal(token, -1);
    OK(td_session_sync(s, tokens, 499, NULL, 0, NULL, NULL, &err));
    OK(td_session_next(s, sampler, &token, &err));
    td_sampler_close(sampler);
    td_session_close(s);
    td_engine_close(e);
}

struct canceller {
    struct td_session *s;
    atomic_bool is_closed;
};

static void *cancel_often(void *arg)
{
    struct canceller *c = arg;
    while (!atomic_load(&c->is_closed)) {
        td_session_cancel(c->s);
        for (int i = 0; i < 200; i++) sched_yield();
    }
    return NULL;
}

// One session is cancelled again and again from another thread; it and its neighbour get there.
static void cancels_from_another_thread(void **state)
{
    (void)state;
    struct td_rng rng = {14};
    int32_t tokens[300], other[200];
    random_tokens(&rng, tokens, 300, 1024);
    random_tokens(&rng, other, 200, 1024);
    struct td_engine *e = open_engine_cfg(g_model, config(16, 2));
    struct td_session *s = open_session(e, 300), *neighbour = open_session(e, 200);
    struct canceller c = {.s = s};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, cancel_often, &c), 0);
    OK(td_session_want(neighbour, other, 200, NULL, 0, &err));
    for (int i = 0; i < 50; i++) {
        const int code = td_session_sync(s, tokens, 300, NULL, 0, NULL, NULL, &err);
        assert_true(code == TD_OK || code == TD_ECANCEL);
        assert_int_equal(td_session_state(s), code == TD_OK ? TD_SESSION_READY : TD_SESSION_IDLE);
    }
    atomic_store(&c.is_closed, true);
    pthread_join(thread, NULL);
    OK(td_session_sync(s, tokens, 300, NULL, 0, NULL, NULL, &err));
    assert_fresh(g_model, s, tokens, 300);
    while (td_session_state(neighbour) != TD_SESSION_READY) OK(td_engine_step(e, NULL, &err));
    assert_fresh(g_model, neighbour, other, 200);
    td_session_close(neighbour);
    td_session_close(s);
    td_engine_close(e);
}

static void what_makes_no_sense_is_refused(void **state)
{
    (void)state;
    struct td_engine *e = open_engine_cfg(g_model, config(16, 1));
    struct td_session *s = open_session(e, 10);
    const int32_t tokens[11] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};
    const int32_t bad[2] = {1, 1024}, negative[1] = {-1};
    assert_int_equal(td_session_want(s, tokens, 0, NULL, 0, &err), TD_EARG);
    assert_int_equal(td_session_want(s, tokens, 11, NULL, 0, &err), TD_EFULL);
    assert_string_equal(err.msg, "the prompt has 11 tokens, the context holds 10");
    assert_int_equal(td_session_want(s, bad, 2, NULL, 0, &err), TD_EARG);
    assert_string_equal(err.msg, "token 1024 at 1 is not in the vocabulary of 1024");
    assert_int_equal(td_session_want(s, negative, 1, NULL, 0, &err), TD_EARG);
    assert_int_equal(td_session_append(s, 1, &err), TD_EARG);
    OK(td_session_sync(s, tokens, 9, NULL, 0, NULL, NULL, &err));
    struct td_sampler *sampler;
    const struct td_sampling greedy = {.top_p = 1};
    OK(td_sampler_open(&sampler, &greedy, 1024, &err));
    int32_t token;
    struct td_sampler *other;
    OK(td_sampler_open(&other, &greedy, 1023, &err));
    assert_int_equal(td_session_next(s, other, &token, &err), TD_EARG);
    assert_string_equal(err.msg, "a sampler of 1023 tokens cannot choose from 1024");
    td_sampler_close(other);
    OK(td_session_next(s, sampler, &token, &err));
    assert_int_equal(td_session_next(s, sampler, &token, &err), TD_EFULL);
    assert_string_equal(err.msg, "the context of 10 tokens is full");
    td_sampler_close(sampler);
    td_session_close(s);
    td_engine_close(e);
}

static void a_full_pool_is_an_error_and_not_the_end(void **state)
{
    (void)state;
    struct td_engine_config cfg = config(64, 1);
    // Pages of the tiny model: 4 layers x 2 blocks of 64 positions.
    struct td_engine *probe = open_engine_cfg(g_model, cfg);
    struct td_device_report report;
    td_engine_report(probe, &report);
    td_engine_close(probe);
    cfg.device.max_kv_bytes = report.kv_page_bytes * 4 * 2;
    struct td_engine *e = open_engine_cfg(g_model, cfg);
    struct td_session *s = open_session(e, 1000);
    struct td_rng rng = {12};
    int32_t tokens[1000];
    random_tokens(&rng, tokens, 1000, 1024);
    assert_int_equal(td_session_sync(s, tokens, 1000, NULL, 0, NULL, NULL, &err), TD_ENOMEM);
    assert_non_null(strstr(err.msg, "the KV cache is full"));
    OK(td_session_sync(s, tokens, 60, NULL, 0, NULL, NULL, &err));
    assert_fresh(g_model, s, tokens, 60);
    td_session_close(s);
    td_engine_close(e);
}

struct events {
    uint32_t next_pos[8]; // by layer
    uint32_t n_calls;
};

static void on_layer_done(void *ctx, const struct td_kv_span *span)
{
    struct events *ev = ctx;
    ev->n_calls++;
    assert_true(span->layer < 4);
    assert_int_equal(span->pos0, ev->next_pos[span->layer]);
    ev->next_pos[span->layer] += span->n;
}

static void layers_report_each_position_once_and_in_order(void **state)
{
    (void)state;
    struct td_rng rng = {13};
    int32_t tokens[150];
    random_tokens(&rng, tokens, 150, 1024);
    struct td_engine *e = open_engine_cfg(g_model, config(64, 2));
    struct td_session *s = open_session(e, 150);
    struct events ev = {0};
    td_engine_watch(e, &ev, on_layer_done);
    OK(td_session_sync(s, tokens, 150, NULL, 0, NULL, NULL, &err));
    assert_int_equal(ev.n_calls, 3 * 4);
    for (int il = 0; il < 4; il++) assert_int_equal(ev.next_pos[il], 150);
    td_session_close(s);
    td_engine_close(e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_next_turn_reuses_the_whole_prompt),
        cmocka_unit_test(marks_are_places_to_return_to),
        cmocka_unit_test(an_edit_in_the_middle_costs_only_the_stride),
        cmocka_unit_test(the_same_prompt_again_computes_one_row),
        cmocka_unit_test(random_lives),
        cmocka_unit_test(cancel_leaves_a_usable_prefix),
        cmocka_unit_test(cancels_from_another_thread),
        cmocka_unit_test(what_makes_no_sense_is_refused),
        cmocka_unit_test(a_full_pool_is_an_error_and_not_the_end),
        cmocka_unit_test(layers_report_each_position_once_and_in_order),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
