// SPDX-License-Identifier: MIT
// Sampling: each cut keeps exactly what its definition says, draws follow the probabilities, and
// strange logits are survived.
#include "support.h"

#include <math.h>

static struct td_sampler *open_sampler(struct td_sampling cfg, uint32_t n_vocab)
{
    struct td_sampler *s;
    OK(td_sampler_open(&s, &cfg, n_vocab, &err));
    return s;
}

// How often each of n tokens is drawn.
static void histogram(struct td_sampling cfg, const float *logits, uint32_t n, uint32_t n_draws,
                      double *out)
{
    struct td_sampler *s = open_sampler(cfg, n);
    for (uint32_t i = 0; i < n; i++) out[i] = 0;
    for (uint32_t i = 0; i < n_draws; i++) out[td_sampler_draw(s, logits)] += 1.0 / n_draws;
    td_sampler_close(s);
}

static void assert_near(double a, double b, double tolerance)
{
    if (fabs(a - b) > tolerance) fail_msg("%g is not %g +- %g", a, b, tolerance);
}

// Probabilities 0.4 0.3 0.2 0.1, out of order.
static const float g_logits[4] = {-1.6094379f, -0.9162907f, -2.3025851f, -1.2039728f};

static void draws_follow_the_probabilities(void **state)
{
    (void)state;
    double h[4];
    histogram((struct td_sampling){.temp = 1, .top_p = 1, .seed = 1}, g_logits, 4, 40000, h);
    assert_near(h[1], 0.4, 0.01);
    assert_near(h[3], 0.3, 0.01);
    assert_near(h[0], 0.2, 0.01);
    assert_near(h[2], 0.1, 0.01);
    // Temperature 0.5 squares them: 16 9 4 1 of 30.
    histogram((struct td_sampling){.temp = 0.5f, .top_p = 1, .seed = 2}, g_logits, 4, 40000, h);
    assert_near(h[1], 16 / 30.0, 0.01);
    assert_near(h[2], 1 / 30.0, 0.01);
}

static void cuts_keep_what_they_say(void **state)
{
    (void)state;
    double h[4];
    histogram((struct td_sampling){.temp = 1, .top_k = 2, .top_p = 1, .seed = 3}, g_logits, 4,
              20000, h);
    assert_near(h[1], 4 / 7.0, 0.015);
    assert_near(h[3], 3 / 7.0, 0.015);
    // 0.4 + 0.3 reach 0.7: the smallest set whose mass is at least top-p.
    histogram((struct td_sampling){.temp = 1, .top_p = 0.69f, .seed = 4}, g_logits, 4, 20000, h);
    assert_near(h[1] + h[3], 1, 1e-9);
    assert_true(h[3] > 0.3);
    histogram((struct td_sampling){.temp = 1, .top_p = 0.72f, .seed = 5}, g_logits, 4, 20000, h);
    assert_near(h[0], 2 / 9.0, 0.015);
    assert_near(h[2], 0, 1e-12);
    // Top-p counts within what top-k left: 4/7 alone reach 0.5.
    histogram((struct td_sampling){.temp = 1, .top_k = 2, .top_p = 0.5f, .seed = 6}, g_logits, 4,
              2000, h);
    assert_near(h[1], 1, 1e-9);
    // min-p is relative to the most likely: 0.6 * 0.4 = 0.24 keeps 0.4 and 0.3.
    histogram((struct td_sampling){.temp = 1, .top_p = 1, .min_p = 0.6f, .seed = 7}, g_logits, 4,
              20000, h);
    assert_near(h[1] + h[3], 1, 1e-9);
    assert_true(h[3] > 0.3);
}

static void cuts_over_a_large_vocabulary_agree_with_sorting(void **state)
{
    (void)state;
    enum { N = 5000 };
    static float logits[N];
    static double h[N];
    struct td_rng rng = {3};
    for (int i = 0; i < N; i++) logits[i] = td_rng_f32(&rng) * 4;
    logits[1234] = 9;
    logits[77] = 8.5f;
    logits[4999] = 8;
    histogram((struct td_sampling){.temp = 1, .top_k = 3, .top_p = 1, .seed = 8}, logits, N, 3000,
              h);
    assert_near(h[1234] + h[77] + h[4999], 1, 1e-9);
    assert_true(h[1234] > h[77] && h[77] > h[4999] && h[4999] > 0);
}

static void greedy_takes_the_lowest_id_among_equals(void **state)
{
    (void)state;
    const float logits[5] = {1, 3, 3, -INFINITY, 3};
    struct td_sampler *s = open_sampler((struct td_sampling){.temp = 0, .top_p = 1}, 5);
    for (int i = 0; i < 3; i++) assert_int_equal(td_sampler_draw(s, logits), 1);
    td_sampler_close(s);
}

static void same_seed_same_draws(void **state)
{
    (void)state;
    static float logits[1000];
    struct td_rng rng = {4};
    for (int i = 0; i < 1000; i++) logits[i] = td_rng_f32(&rng);
    int32_t first[50];
    int n_other = 0;
    for (uint64_t round = 0; round < 3; round++) {
        // Rounds 0 and 1 share a seed.
        struct td_sampler *s =
            open_sampler((struct td_sampling){.temp = 1, .top_p = 1, .seed = round / 2}, 1000);
        for (int i = 0; i < 50; i++) {
            const int32_t t = td_sampler_draw(s, logits);
            if (round == 0) first[i] = t;
            if (round == 1) assert_int_equal(t, first[i]);
            if (round == 2) n_other += t != first[i];
        }
        td_sampler_close(s);
    }
    assert_true(n_other > 30);
}

static void strange_logits_are_survived(void **state)
{
    (void)state;
    const float rows[][4] = {
        {NAN, NAN, NAN, NAN},      {NAN, 1, NAN, -INFINITY},
        {INFINITY, 1, 2, 3},       {-INFINITY, -INFINITY, -INFINITY, -INFINITY},
        {3e38f, -3e38f, 3e38f, 0},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        for (int cut = 0; cut < 2; cut++) {
            struct td_sampler *s = open_sampler(
                (struct td_sampling){
                    .temp = 0.01f, .top_k = cut ? 2 : 0, .top_p = cut ? 0.5f : 1, .seed = i},
                4);
            for (int k = 0; k < 10; k++) assert_in_range(td_sampler_draw(s, rows[i]), 0, 3);
            td_sampler_close(s);
        }
    }
    struct td_sampler *s = open_sampler((struct td_sampling){.temp = 1, .top_p = 1}, 4);
    assert_int_equal(td_sampler_draw(s, rows[1]), 1);
    assert_int_equal(td_sampler_draw(s, rows[2]), 0);
    td_sampler_close(s);
    // A temperature that takes every logit beyond float: still the most likely one.
    const float steep[4] = {2, 5, 4, -1};
    s = open_sampler((struct td_sampling){.temp = 1e-39f, .top_p = 1}, 4);
    for (int k = 0; k < 10; k++) assert_int_equal(td_sampler_draw(s, steep), 1);
    td_sampler_close(s);
}

static void impossible_settings_are_refused(void **state)
{
    (void)state;
    const struct td_sampling bad[] = {
        {.temp = -1, .top_p = 1},
        {.temp = NAN, .top_p = 1},
        {.temp = 1, .top_p = 0},
        {.temp = 1, .top_p = 1.5f},
        {.temp = 1, .top_p = NAN},
        {.temp = 1, .top_p = 1, .min_p = 2},
        {.top_p = 1, .repeat_penalty = -1},
        {.top_p = 1, .repeat_penalty = NAN},
        {.top_p = 1, .presence_penalty = 2.5f},
        {.top_p = 1, .presence_penalty = NAN},
        {.top_p = 1, .frequency_penalty = -3},
        {.top_p = 1, .bias = &(struct td_logit_bias){4, 1}, .n_bias = 1},
        {.top_p = 1, .bias = &(struct td_logit_bias){-1, 1}, .n_bias = 1},
        {.top_p = 1, .bias = &(struct td_logit_bias){1, NAN}, .n_bias = 1},
        {.top_p = 1, .bias = &(struct td_logit_bias){1, INFINITY}, .n_bias = 1},
        {.top_p = 1, .bias = &(struct td_logit_bias){1, 1}, .n_bias = TD_MAX_LOGIT_BIAS + 1},
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct td_sampler *s;
        assert_int_equal(td_sampler_open(&s, &bad[i], 4, &err), TD_EARG);
        assert_null(s);
    }
}

// Greedy draws show the order of logits: what penalties make of {2, 1.5, 1, -1}.
static const float g_steps[4] = {2, 1.5f, 1, -1};

static void penalties_do_what_their_definitions_say(void **state)
{
    (void)state;
    struct td_sampler *s =
        open_sampler((struct td_sampling){.top_p = 1, .frequency_penalty = 0.3f}, 4);
    // 2, 1.7, then 1.5 is above 1.4, and so on.
    const int32_t by_count[] = {0, 0, 1, 0, 1, 0, 2};
    for (int i = 0; i < 7; i++) {
        const int32_t t = td_sampler_draw(s, g_steps);
        assert_int_equal(t, by_count[i]);
        td_sampler_accept(s, t);
    }
    td_sampler_begin(s, NULL, 0); // all is forgotten
    assert_int_equal(td_sampler_draw(s, g_steps), 0);
    td_sampler_close(s);

    // Once, however often.
    s = open_sampler((struct td_sampling){.top_p = 1, .presence_penalty = 0.7f}, 4);
    const int32_t once[] = {0, 1, 0, 0};
    for (int i = 0; i < 4; i++) {
        const int32_t t = td_sampler_draw(s, g_steps);
        assert_int_equal(t, once[i]);
        td_sampler_accept(s, t);
    }
    // The prompt is not what was written.
    td_sampler_begin(s, (const int32_t[]){0, 0}, 2);
    assert_int_equal(td_sampler_draw(s, g_steps), 0);
    td_sampler_close(s);
}

static void the_repeat_penalty_looks_at_the_last_tokens(void **state)
{
    (void)state;
    struct td_sampler *s = open_sampler(
        (struct td_sampling){.top_p = 1, .repeat_penalty = 1.5f, .repeat_last_n = 2}, 4);
    td_sampler_begin(s, (const int32_t[]){1, 0, -7, 99, 3}, 5);
    assert_int_equal(td_sampler_draw(s, g_steps), 0); // what it saw last is 3
    td_sampler_accept(s, 0);
    assert_int_equal(td_sampler_draw(s, g_steps), 1); // 2 / 1.5 < 1.5
    td_sampler_accept(s, 1);
    assert_int_equal(td_sampler_draw(s, g_steps), 0); // 2 / 1.5, 1.5 / 1.5
    td_sampler_accept(s, 2);
    assert_int_equal(td_sampler_draw(s, g_steps), 0); // 0 is out of the last two
    td_sampler_accept(s, 2);
    assert_int_equal(td_sampler_draw(s, g_steps), 0); // 2 twice counts once
    // A negative logit falls, too.
    const float low[4] = {-1, -1.2f, -9, -9};
    td_sampler_begin(s, (const int32_t[]){0}, 1);
    assert_int_equal(td_sampler_draw(s, low), 1);
    td_sampler_close(s);
}

static void a_bias_moves_a_token(void **state)
{
    (void)state;
    const struct td_logit_bias bias[] = {{0, -100}, {3, 1}, {3, 2.75f}};
    struct td_sampler *s =
        open_sampler((struct td_sampling){.top_p = 1, .bias = bias, .n_bias = 3}, 4);
    assert_int_equal(td_sampler_draw(s, g_steps), 3);
    td_sampler_close(s);
    double h[4];
    histogram((struct td_sampling){.temp = 1, .top_p = 1, .seed = 1, .bias = bias, .n_bias = 1},
              g_steps, 4, 2000, h);
    assert_near(h[0], 0, 1e-12);
}

static void logprobs_are_those_of_the_distribution(void **state)
{
    (void)state;
    struct td_logprob top[TD_MAX_LOGPROBS];
    float chosen = 1;
    assert_int_equal(td_logprobs(g_logits, 4, 2, &chosen, top, 3), 3);
    assert_near((double)chosen, log(0.1), 1e-6);
    const int32_t order[] = {1, 3, 0};
    const double p[] = {0.4, 0.3, 0.2};
    for (int i = 0; i < 3; i++) {
        assert_int_equal(top[i].token, order[i]);
        assert_near((double)top[i].logprob, log(p[i]), 1e-6);
    }
    // More than there are; a token that is none; the lowest id among equals; far beyond exp.
    const float equal[4] = {3e4f, 3e4f, -3e38f, -INFINITY};
    assert_int_equal(td_logprobs(equal, 4, 7, &chosen, top, 20), 4);
    assert_true(isinf(chosen) && chosen < 0);
    assert_int_equal(top[0].token, 0);
    assert_int_equal(top[1].token, 1);
    assert_near((double)top[0].logprob, log(0.5), 1e-6);
    assert_true(isinf(top[3].logprob));
    assert_int_equal(td_logprobs(equal, 4, 0, &chosen, NULL, 0), 0);
    assert_near((double)chosen, log(0.5), 1e-6);
    // What a broken model gives is survived.
    const float strange[4] = {NAN, INFINITY, NAN, 1};
    assert_int_equal(td_logprobs(strange, 4, 1, &chosen, top, 4), 2);
    assert_near((double)chosen, 0, 1e-6);
    const float none[2] = {NAN, NAN};
    assert_int_equal(td_logprobs(none, 2, 1, &chosen, top, 4), 0);
    assert_true(isinf(chosen) && chosen < 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(draws_follow_the_probabilities),
        cmocka_unit_test(cuts_keep_what_they_say),
        cmocka_unit_test(cuts_over_a_large_vocabulary_agree_with_sorting),
        cmocka_unit_test(greedy_takes_the_lowest_id_among_equals),
        cmocka_unit_test(same_seed_same_draws),
        cmocka_unit_test(strange_logits_are_survived),
        cmocka_unit_test(penalties_do_what_their_definitions_say),
        cmocka_unit_test(the_repeat_penalty_looks_at_the_last_tokens),
        cmocka_unit_test(a_bias_moves_a_token),
        cmocka_unit_test(logprobs_are_those_of_the_distribution),
        cmocka_unit_test(impossible_settings_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
