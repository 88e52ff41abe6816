// SPDX-License-Identifier: MIT
// Remote prefill or not: published cases, the closed form against a walk layer by layer, and every
// reason not to.
#include "plan/split.h"

#include "base/num.h"

#include <math.h>
#include <string.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static void near(double got, double want, double relative)
{
    if (!(fabs(got - want) <= relative * fabs(want))) fail_msg("%.9g, not %.9g", got, want);
}

static struct td_split_rate flat(double tokens_per_s)
{
    return (struct td_split_rate){.points = {{0, tokens_per_s}}, .n_points = 1};
}

// Llama-3.1-8B in f16, 8192 tokens, DGX Spark -> M3 Ultra over 10GbE, as published by exo.
static struct td_split_ask exo(uint32_t n_answer_tokens)
{
    return (struct td_split_ask){
        .there = {.prefill = flat(8192 / 1.47), .decode = flat(32 / 2.87)},
        .here = {.prefill = flat(8192 / 5.57), .decode = flat(32 / 0.85)},
        .n_prompt_tokens = 8192,
        .n_answer_tokens = n_answer_tokens,
        .link_bytes_per_s = 1.25e9,
        .round_trip_seconds = 0.0005,
        .chunk_tokens = 512,
        .checkpoint_tokens = 4096,
        .groups = {{.n_layers = 32, .bytes_per_token_layer = 4096}},
        .n_groups = 1,
    };
}

// The same with gpt-oss-120b's KV: 18 full layers, 18 with a window of 128, 2 KiB each.
static struct td_split_ask gptoss(uint32_t n_prompt_tokens)
{
    struct td_split_ask a = exo(128);
    a.there.prefill = flat(2000);
    a.here.prefill = flat(500);
    a.there.decode = flat(50);
    a.here.decode = flat(60);
    a.n_prompt_tokens = n_prompt_tokens;
    a.groups[0] = (struct td_split_group){.n_layers = 18, .bytes_per_token_layer = 2048};
    a.groups[1] = (struct td_split_group){
        .n_layers = 18, .window_tokens = 128, .bytes_per_token_layer = 2048};
    a.n_groups = 2;
    return a;
}

static void test_read_seconds(void **state)
{
    (void)state;
    struct td_split_rate r = flat(100);
    near(td_split_read_seconds(&r, 0, 50), 0.5, 1e-12);
    near(td_split_read_seconds(&r, 1000, 1050), 0.5, 1e-12);
    assert_true(td_split_read_seconds(&r, 5, 5) == 0);
    assert_true(td_split_read_seconds(&r, 6, 5) == 0);
    // 10 ms a token at depth 100, 20 ms at 200, 40 ms at 300.
    r = (struct td_split_rate){.points = {{100, 100}, {200, 50}, {300, 25}}, .n_points = 3};
    near(td_split_read_seconds(&r, 0, 100), 1, 1e-12);           // before the first point
    near(td_split_read_seconds(&r, 100, 200), 1.5, 1e-12);       // trapezoid
    near(td_split_read_seconds(&r, 0, 300), 1 + 1.5 + 3, 1e-12); // over points
    near(td_split_read_seconds(&r, 250, 300), 1.75, 1e-12);      // 30 to 40 ms
    near(td_split_read_seconds(&r, 300, 400), 5, 1e-12);         // the last slope goes on
    near(td_split_read_seconds(&r, 0, 1), 0.01, 1e-12);
    // A last slope that falls is noise: speed stays.
    r = (struct td_split_rate){.points = {{0, 100}, {100, 200}}, .n_points = 2};
    near(td_split_read_seconds(&r, 100, 1100), 5, 1e-12);
    // Two points at one depth, and a speed of 0, do no harm.
    r = (struct td_split_rate){.points = {{0, 100}, {0, 50}}, .n_points = 2};
    near(td_split_read_seconds(&r, 0, 10), 0.15, 0.5);
    r = flat(0);
    assert_true(isinf(td_split_read_seconds(&r, 0, 1)));
    r.n_points = 0;
    assert_true(isinf(td_split_read_seconds(&r, 0, 1)));
}

static void test_published(void **state)
{
    (void)state;
    static const struct {
        uint32_t n_answer_tokens;
        double gain; // over the best single machine
    } rows[] = {{32, 1.87}, {128, 1.84}, {512, 1.27}, {2048, 1.07}};
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        const struct td_split_ask a = exo(rows[i].n_answer_tokens);
        struct td_split s;
        td_split(&s, &a);
        assert_true(s.pays && s.why == TD_SPLIT_PAYS);
        // They count a decode step for every token of the answer; a machine alone gets the first
        // one from the prompt's last row, which is 1 of 32 here.
        near(fmin(s.here_seconds, s.there_seconds) / s.split_seconds, rows[i].gain, 0.025);
        assert_false(s.all_there_is_faster);
    }
    const struct td_split_ask a = exo(32);
    struct td_split s;
    td_split(&s, &a);
    near(s.split_seconds, 2.32, 0.01);
    near(s.here_seconds, 6.42, 0.01);
    near(s.there_seconds, 1.47 + 2.87 * 31 / 32, 0.001); // its first token: the prompt's last row
    near(s.far_seconds, 1.47, 0.001);
    near(s.kv_bytes, 8191.0 * 131072, 1e-12);
    near(s.transfer_seconds, 0.859, 0.001);
    assert_true(s.exposed_seconds < 0.01 * s.far_seconds);
    assert_int_equal(s.n_here_tokens, 8192);
    assert_int_equal(s.n_there_tokens, 8191);
}

static void test_kv_bytes(void **state)
{
    (void)state;
    struct td_split s;
    const double token = 18 * 2048, window = 127 * token;
    struct td_split_ask a = gptoss(4097);
    td_split(&s, &a);
    near(s.kv_bytes, 4096 * token + window, 1e-12); // 151 MB and 4.7 MB
    a = gptoss(64);                                 // shorter than the window
    td_split(&s, &a);
    near(s.kv_bytes, 63 * token * 2, 1e-12);
    a = gptoss(8193); // two checkpoints
    td_split(&s, &a);
    near(s.kv_bytes, 8192 * token + 2 * window, 1e-12);
    a = gptoss(4097 + 10); // the second sees 10 new ones; the rest was sent
    td_split(&s, &a);
    near(s.kv_bytes, 4106 * token + window + 10 * token, 1e-12);
    // What is here does not travel, whoever computes it.
    a = gptoss(4097);
    a.here.n_cached_tokens = 4000;
    td_split(&s, &a);
    near(s.kv_bytes, 96 * token * 2, 1e-12);
    assert_int_equal(s.n_here_tokens, 97);
    assert_int_equal(s.n_there_tokens, 4096);
    near(s.far_seconds, 4096 / 2000.0, 1e-12);
    // What is there and not here travels without being computed.
    a = gptoss(4097);
    a.there.n_cached_tokens = 4096;
    td_split(&s, &a);
    near(s.kv_bytes, 4096 * token + window, 1e-12);
    assert_true(s.far_seconds == 0 && s.n_there_tokens == 0);
    near(s.exposed_seconds, s.transfer_seconds, 1e-12);
    assert_true(s.pays);
    a.there.n_cached_tokens = 2048;
    td_split(&s, &a);
    near(s.kv_bytes, 4096 * token + window, 1e-12);
    near(s.far_seconds, 2048 / 2000.0, 1e-12);
}

// The same, one layer at a time: what td_split has in closed form.
static double walked_end(const struct td_split_ask *a)
{
    const double end = a->n_prompt_tokens - 1.0;
    const uint32_t n_layers = a->groups[0].n_layers;
    double t = 0, free_at = 0;
    for (double begin = 0; begin < end; begin += a->chunk_tokens) {
        const double stop = fmin(begin + a->chunk_tokens, end);
        const double chunk = td_split_read_seconds(&a->there.prefill, begin, stop);
        const double x = (stop - begin) * a->groups[0].bytes_per_token_layer / a->link_bytes_per_s;
        for (uint32_t l = 0; l < n_layers; l++)
            free_at = fmax(free_at, t + (l + 1) * chunk / n_layers) + x;
        t += chunk;
    }
    return free_at;
}

static void test_closed_form(void **state)
{
    (void)state;
    struct td_rng rng = {.state = 7};
    for (int round = 0; round < 2000; round++) {
        struct td_split_ask a = exo(1);
        a.there.prefill =
            (struct td_split_rate){.points = {{0, 100 + 5000 * (double)td_rng_f32(&rng)},
                                              {8192, 50 + 3000 * (double)td_rng_f32(&rng)}},
                                   .n_points = 2};
        a.n_prompt_tokens = 2 + (uint32_t)(td_rng_u64(&rng) % 20000);
        a.chunk_tokens = 1 + (uint32_t)(td_rng_u64(&rng) % 2048);
        a.groups[0].n_layers = 1 + (uint32_t)(td_rng_u64(&rng) % 64);
        a.link_bytes_per_s = 1e6 * pow(10, 4 * (double)td_rng_f32(&rng));
        struct td_split s;
        td_split(&s, &a);
        near(s.far_seconds + s.exposed_seconds, walked_end(&a), 1e-9);
        // Sent after the last chunk it is never earlier, and later by what could have been hidden.
        a.stream = TD_SPLIT_AT_END;
        struct td_split late;
        td_split(&late, &a);
        near(late.exposed_seconds, late.transfer_seconds, 1e-6);
        assert_true(late.exposed_seconds >= s.exposed_seconds * (1 - 1e-9));
    }
}

// The bar of the issue: 12 full layers, 16 chunks, transfer 25, 50 and 90 % of the far prefill.
static void test_overlap(void **state)
{
    (void)state;
    static const double shares[] = {0.25, 0.5, 0.9};
    for (size_t i = 0; i < 3; i++) {
        struct td_split_ask a = exo(1);
        a.groups[0].n_layers = 12;
        a.link_bytes_per_s = 8191.0 * 12 * 4096 / (1.47 * shares[i]);
        struct td_split s;
        td_split(&s, &a);
        near(s.transfer_seconds, 1.47 * shares[i], 0.01);
        assert_true(s.exposed_seconds <= 0.05 * s.far_seconds);
    }
}

static enum td_split_why why_of(const struct td_split_ask *a)
{
    struct td_split s;
    td_split(&s, a);
    assert_true(s.pays == (s.why == TD_SPLIT_PAYS));
    assert_true(s.why == TD_SPLIT_UNKNOWN || s.why == TD_SPLIT_NOTHING_TO_READ ||
                s.pays == (s.split_first_seconds < s.here_first_seconds));
    return s.why;
}

static void test_why(void **state)
{
    (void)state;
    struct td_split_ask a = gptoss(4096);
    assert_int_equal(why_of(&a), TD_SPLIT_PAYS);
    a.here.n_cached_tokens = 4095;
    assert_int_equal(why_of(&a), TD_SPLIT_NOTHING_TO_READ);
    a = gptoss(1);
    assert_int_equal(why_of(&a), TD_SPLIT_NOTHING_TO_READ);
    a = gptoss(4096);
    a.there.prefill.n_points = 0;
    assert_int_equal(why_of(&a), TD_SPLIT_UNKNOWN);
    a = gptoss(4096);
    a.here.prefill.n_points = 0;
    assert_int_equal(why_of(&a), TD_SPLIT_UNKNOWN);
    a = gptoss(4096);
    a.link_bytes_per_s = 0; // not measured
    assert_int_equal(why_of(&a), TD_SPLIT_UNKNOWN);
    a = gptoss(4096);
    a.here.n_cached_tokens = 3900; // a follow-up turn whose answer is cached here only
    assert_int_equal(why_of(&a), TD_SPLIT_CACHED_HERE);
    a.there.n_cached_tokens = 3900;
    assert_int_equal(why_of(&a), TD_SPLIT_PAYS);
    a = gptoss(4096);
    a.there.prefill = flat(400);
    assert_int_equal(why_of(&a), TD_SPLIT_PEER_SLOWER);
    a = gptoss(64);
    a.round_trip_seconds = 0.5;
    assert_int_equal(why_of(&a), TD_SPLIT_LATENCY);
    a = gptoss(64);
    a.setup_seconds = 0.5;
    assert_int_equal(why_of(&a), TD_SPLIT_LATENCY);
    a = gptoss(4096);
    a.link_bytes_per_s = 1e6;
    assert_int_equal(why_of(&a), TD_SPLIT_LINK_SLOW);
    a = gptoss(4096);
    a.there.wait_seconds = 60; // it is busy
    assert_int_equal(why_of(&a), TD_SPLIT_PEER_SLOWER);
    a.n_groups = 0; // a model without KV: nothing to send
    a.there.wait_seconds = 0;
    assert_int_equal(why_of(&a), TD_SPLIT_PAYS);
    for (int w = TD_SPLIT_PAYS; w <= TD_SPLIT_LINK_SLOW; w++)
        assert_true(strlen(td_split_why_text((enum td_split_why)w)) > 10);
    assert_string_equal(td_split_why_text((enum td_split_why)99), "?");
}

static void test_all_there(void **state)
{
    (void)state;
    // A peer that reads much faster and writes as fast: why come back at all?
    struct td_split_ask a = gptoss(4096);
    a.there.decode = flat(120);
    struct td_split s;
    td_split(&s, &a);
    assert_true(s.pays && s.all_there_is_faster);
    near(s.there_seconds, 0.0005 + 4096 / 2000.0 + 127 / 120.0, 1e-9);
    near(s.split_first_seconds, 0.0005 + s.far_seconds + s.exposed_seconds + 1 / 60.0, 1e-9);
    a.there.decode = flat(1);
    td_split(&s, &a);
    assert_true(s.pays && !s.all_there_is_faster);
    // Nothing is said when this machine's own speed is not known.
    a.there.decode = flat(120);
    a.here.decode.n_points = 0;
    td_split(&s, &a);
    assert_false(s.all_there_is_faster);
    assert_int_equal(s.why, TD_SPLIT_UNKNOWN);
    a.there.prefill.n_points = 0;
    td_split(&s, &a);
    assert_true(isinf(s.exposed_seconds) && isinf(s.there_seconds));
}

static void test_pays_from(void **state)
{
    (void)state;
    struct td_split_ask a = gptoss(1);
    a.setup_seconds = 0.1;
    const uint32_t from = td_split_pays_from(&a, 1u << 20);
    // 0.1 s and a token of 1/60 s here, against 1.5 ms gained by each token.
    assert_true(from > 60 && from < 100);
    for (uint32_t n = from - 20; n < from + 20; n++) {
        a.n_prompt_tokens = n;
        struct td_split s;
        td_split(&s, &a);
        assert_int_equal(s.pays, n >= from);
    }
    assert_int_equal(td_split_pays_from(&a, from), from);
    assert_int_equal(td_split_pays_from(&a, from - 1), 0);
    assert_int_equal(td_split_pays_from(&a, 1), 0);
    a.link_bytes_per_s = 1e5;
    assert_int_equal(td_split_pays_from(&a, 1u << 20), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_read_seconds), cmocka_unit_test(test_published),
        cmocka_unit_test(test_kv_bytes),     cmocka_unit_test(test_closed_form),
        cmocka_unit_test(test_overlap),      cmocka_unit_test(test_why),
        cmocka_unit_test(test_all_there),    cmocka_unit_test(test_pays_from),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
