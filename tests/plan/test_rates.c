// SPDX-License-Identifier: MIT
// What td_rates_saw learns: places, order, bounds.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/num.h"
#include "plan/rates.h"

#include <math.h>

static void assert_near(double a, double b)
{
    if (fabs(a - b) > 1e-9 * fabs(b)) fail_msg("%.12g, not %.12g", a, b);
}

static void assert_ascending(const struct td_split_rate *r)
{
    assert_true(r->n_points <= TD_SPLIT_MAX_POINTS);
    for (uint32_t i = 1; i < r->n_points; i++)
        assert_true(r->points[i - 1].depth_tokens < r->points[i].depth_tokens);
    for (uint32_t i = 0; i < r->n_points; i++)
        assert_true(r->points[i].tokens_per_s > 0 && isfinite(r->points[i].tokens_per_s));
}

// One run says how long the same run takes.
static void test_first(void **state)
{
    (void)state;
    struct td_split_rate r = {0};
    td_rates_saw(&r, 1000, 500, 2.5, 64);
    assert_int_equal(r.n_points, 1);
    assert_near(r.points[0].depth_tokens, 1250);
    assert_near(r.points[0].tokens_per_s, 200);
    assert_near(td_split_read_seconds(&r, 1000, 1500), 2.5);
}

static void test_not_taken(void **state)
{
    (void)state;
    struct td_split_rate r = {0};
    td_rates_saw(&r, 0, 63, 1, 64);
    td_rates_saw(&r, 0, 0, 1, 0);
    td_rates_saw(&r, 0, 100, 0, 64);
    td_rates_saw(&r, 0, 100, -1, 64);
    td_rates_saw(&r, 0, 100, (double)NAN, 64);
    td_rates_saw(&r, 0, 100, (double)INFINITY, 64);
    assert_int_equal(r.n_points, 0);
    td_rates_saw(&r, 0, 64, 1, 64);
    assert_int_equal(r.n_points, 1);
}

// The same depth again moves the point, half of the way in seconds per token.
static void test_again(void **state)
{
    (void)state;
    struct td_split_rate r = {0};
    td_rates_saw(&r, 512, 128, 1, 1);
    td_rates_saw(&r, 512, 128, 3, 1);
    assert_int_equal(r.n_points, 1);
    assert_near(td_split_read_seconds(&r, 512, 640), 2);
    for (int i = 0; i < 40; i++) td_rates_saw(&r, 512, 128, 4, 1);
    assert_near(td_split_read_seconds(&r, 512, 640), 4);
}

// Runs at other depths are other points, in order, and interpolate.
static void test_depths(void **state)
{
    (void)state;
    struct td_split_rate r = {0};
    td_rates_saw(&r, 8192, 2, 0.2, 1);
    td_rates_saw(&r, 0, 2, 0.02, 1);
    td_rates_saw(&r, 2048, 2, 0.04, 1);
    assert_int_equal(r.n_points, 3);
    assert_ascending(&r);
    assert_near(r.points[0].tokens_per_s, 100);
    assert_near(r.points[1].tokens_per_s, 50);
    assert_near(r.points[2].tokens_per_s, 10);
}

// Whatever comes, also into a table that somebody else filled: ascending and bounded.
static void test_any(void **state)
{
    (void)state;
    struct td_rng rng = {.state = 5};
    for (int round = 0; round < 200; round++) {
        struct td_split_rate r = {0};
        r.n_points = (uint32_t)(td_rng_u64(&rng) % (TD_SPLIT_MAX_POINTS + 1));
        double depth = 0;
        for (uint32_t i = 0; i < r.n_points; i++) {
            depth += 1 + (double)(td_rng_u64(&rng) % 100);
            r.points[i] = (struct td_split_point){.depth_tokens = depth, .tokens_per_s = 10};
        }
        for (int i = 0; i < 100; i++) {
            const uint32_t shift = (uint32_t)(td_rng_u64(&rng) % 20);
            const uint32_t at = (uint32_t)(td_rng_u64(&rng) % (16u << shift));
            td_rates_saw(&r, at, 1 + (uint32_t)(td_rng_u64(&rng) % 5000),
                         0.001 + (double)td_rng_f32(&rng), 1);
            assert_ascending(&r);
        }
        assert_true(r.n_points >= 1);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_first), cmocka_unit_test(test_not_taken),
        cmocka_unit_test(test_again), cmocka_unit_test(test_depths),
        cmocka_unit_test(test_any),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
