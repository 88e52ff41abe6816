// SPDX-License-Identifier: MIT
// Checked products and sums, half floats against a slow reference, the random generator.
#include "base/num.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static void test_checked_sums(void **state)
{
    (void)state;
    uint64_t v = 7;
    assert_true(td_mul_u64(UINT32_MAX, UINT32_MAX, &v));
    assert_true(v == 0xfffffffe00000001u);
    assert_true(td_mul_u64(0, UINT64_MAX, &v));
    assert_true(v == 0);
    assert_true(td_mul_u64(UINT64_MAX, 1, &v));
    assert_true(v == UINT64_MAX);
    assert_false(td_mul_u64((uint64_t)1 << 32, (uint64_t)1 << 32, &v));
    assert_false(td_mul_u64(UINT64_MAX, 2, &v));
    assert_true(v == UINT64_MAX);
    assert_true(td_add_u64(UINT64_MAX - 1, 1, &v));
    assert_false(td_add_u64(UINT64_MAX, 1, &v));
    assert_true(v == UINT64_MAX);
    assert_int_equal(td_min_u32(3, 4), 3);
    assert_int_equal(td_max_u32(3, 4), 4);
}

// By the definition of binary16, in double; not for infinities and NaN.
static double value_of_f16(uint16_t h)
{
    const int exp = (h >> 10) & 0x1f;
    const int man = h & 0x3ff;
    const double v = exp ? ldexp(1024 + man, exp - 25) : ldexp(man, -24);
    return h & 0x8000 ? -v : v;
}

static void test_every_f16(void **state)
{
    (void)state;
    for (uint32_t h = 0; h <= 0xffff; h++) {
        const float f = td_f32_of_f16((uint16_t)h);
        if ((h & 0x7c00) == 0x7c00) {
            if ((h & 0x3ff) == 0) {
                assert_true(isinf(f) && (f < 0) == (h >> 15 != 0));
                assert_int_equal(td_f16_of_f32(f), h);
            } else {
                assert_true(isnan(f));
                assert_int_equal(td_bits_of_f32(f) >> 31, h >> 15);
                // Quiet afterwards, otherwise the same payload.
                assert_int_equal(td_f16_of_f32(f), h | 0x200);
            }
            continue;
        }
        if ((double)f != value_of_f16((uint16_t)h))
            fail_msg("f16 %04x is read as %a", h, (double)f);
        assert_int_equal(td_bits_of_f32(f) >> 31, h >> 15); // -0 too
        assert_int_equal(td_f16_of_f32(f), h);
    }
}

// Nearest by looking at the neighbours: the largest half not above |f| and the one after it.
static uint16_t slow_f16_of_f32(float f)
{
    const uint16_t sign = signbit(f) ? 0x8000 : 0;
    const double x = fabs((double)f);
    uint32_t low = 0;
    uint32_t high = 0x7c00; // stands for 65536, where the next half would be
    while (high - low > 1) {
        const uint32_t mid = (low + high) / 2;
        if (value_of_f16((uint16_t)mid) <= x)
            low = mid;
        else
            high = mid;
    }
    const double below = x - value_of_f16((uint16_t)low);
    const double above = (high == 0x7c00 ? 65536.0 : value_of_f16((uint16_t)high)) - x;
    if (below < above) return (uint16_t)(sign | low);
    if (below > above) return (uint16_t)(sign | high);
    return (uint16_t)(sign | (low % 2 ? high : low)); // a tie goes to the even one
}

static void expect_rounds(uint32_t bits)
{
    const float f = td_f32_of_bits(bits);
    if (isnan(f)) {
        assert_int_equal(td_f16_of_f32(f) & 0x7e00, 0x7e00);
        assert_int_equal(td_f16_of_f32(f) >> 15, bits >> 31);
        return;
    }
    const uint16_t got = td_f16_of_f32(f);
    const uint16_t want = slow_f16_of_f32(f);
    if (got != want) fail_msg("%a becomes %04x, not %04x", (double)f, got, want);
}

static void test_f16_rounding(void **state)
{
    (void)state;
    // At and beside every half, and at and beside the middle to the next.
    for (uint32_t h = 0; h < 0x7c00; h++) {
        const uint32_t at = td_bits_of_f32(td_f32_of_f16((uint16_t)h));
        const double next = h == 0x7bff ? 65536.0 : value_of_f16((uint16_t)(h + 1));
        const float middle = (float)((value_of_f16((uint16_t)h) + next) / 2); // exact
        const uint32_t mid = td_bits_of_f32(middle);
        for (uint32_t sign = 0; sign <= 1; sign++) {
            const uint32_t s = sign << 31;
            expect_rounds(s | at);
            expect_rounds(s | (at + 1));
            if (at) expect_rounds(s | (at - 1));
            expect_rounds(s | mid);
            expect_rounds(s | (mid + 1));
            expect_rounds(s | (mid - 1));
        }
    }
    struct td_rng rng = {.state = 1};
    for (int i = 0; i < 300000; i++) expect_rounds((uint32_t)td_rng_u64(&rng));
    expect_rounds(0x7f800000u);
    expect_rounds(0xff800000u);
    expect_rounds(0x7f7fffffu);
    expect_rounds(0x00000001u);
    expect_rounds(0x7fc00000u);
    expect_rounds(0x7f800001u); // a NaN whose payload is below what a half holds stays a NaN
}

static void test_bf16(void **state)
{
    (void)state;
    assert_true(td_f32_of_bf16(0x3f80) == 1.0f);
    assert_true(td_f32_of_bf16(0xc040) == -3.0f);
    assert_true(td_f32_of_bf16(0x0001) == 0x1p-133f);
    assert_true(isinf(td_f32_of_bf16(0x7f80)));
    assert_true(isnan(td_f32_of_bf16(0x7fc0)));
}

static void test_rng(void **state)
{
    (void)state;
    // The first outputs for seed 1234567, as published with the algorithm.
    struct td_rng r = {.state = 1234567};
    assert_true(td_rng_u64(&r) == 6457827717110365317u);
    assert_true(td_rng_u64(&r) == 3203168211198807973u);
    assert_true(td_rng_u64(&r) == 9817491932198370423u);
    double sum = 0;
    for (int i = 0; i < 100000; i++) {
        const float v = td_rng_f32(&r);
        assert_true(v >= 0 && v < 1);
        sum += (double)v;
    }
    assert_true(fabs(sum / 100000 - 0.5) < 0.005); // 5 standard errors of a uniform's mean
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_checked_sums), cmocka_unit_test(test_every_f16),
        cmocka_unit_test(test_f16_rounding), cmocka_unit_test(test_bf16),
        cmocka_unit_test(test_rng),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
