// SPDX-License-Identifier: MIT
// KV in q8_0 for the wire: off by half a scale at most, exact where it can be, and never undefined,
// whatever the values or a peer's scales are.
#include "base/num.h"
#include "relay/wirekv.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

enum { N = 64 * TD_QK };

static float g_in[N], g_out[N];
static uint16_t g_half[N], g_half_out[N];
static struct td_block_q8_0 g_blocks[N / TD_QK];

static float uniform(struct td_rng *rng)
{
    return 2 * td_rng_f32(rng) - 1;
}

static void sizes_are_those_of_the_types(void **state)
{
    (void)state;
    assert_int_equal(td_wirekv_q8_0_bytes(64), 68);
    assert_int_equal(td_wirekv_plain_bytes(TD_F16, 64), 128);
    assert_int_equal(td_wirekv_plain_bytes(TD_F32, 64), 256);
    assert_int_equal(td_wirekv_q8_0_bytes(0), 0);
}

// Every block of g_out is within half a scale of g_in, and the scale is as small as it may be.
static void check_bound(void)
{
    for (size_t b = 0; b < N / TD_QK; b++) {
        const float d = td_f32_of_f16(g_blocks[b].d);
        float most = 0;
        for (size_t i = b * TD_QK; i < (b + 1) * TD_QK; i++) most = fmaxf(most, fabsf(g_in[i]));
        assert_true(d <= most / 127 * (1 + 0x1p-10f) + 0x1p-24f);
        for (size_t i = b * TD_QK; i < (b + 1) * TD_QK; i++)
            if (fabsf(g_out[i] - g_in[i]) > d * 0.5001f)
                fail_msg("block %zu: %g became %g, scale %g", b, (double)g_in[i], (double)g_out[i],
                         (double)d);
    }
}

static void values_are_off_by_half_a_scale_at_most(void **state)
{
    (void)state;
    struct td_rng rng = {5};
    // Down to scales that f16 has only as subnormals, and to none.
    for (int e = -40; e <= 22; e++) {
        for (size_t i = 0; i < N; i++) g_in[i] = ldexpf(uniform(&rng), e);
        td_wirekv_pack(g_blocks, g_in, TD_F32, N);
        td_wirekv_unpack(g_out, TD_F32, g_blocks, N);
        check_bound();
    }
}

static void f16_goes_as_f32_does(void **state)
{
    (void)state;
    struct td_rng rng = {6};
    for (int e = -24; e <= 15; e++) {
        for (size_t i = 0; i < N; i++) {
            g_half[i] = td_f16_of_f32(ldexpf(uniform(&rng), e));
            g_in[i] = td_f32_of_f16(g_half[i]);
        }
        struct td_block_q8_0 of_f32[N / TD_QK];
        td_wirekv_pack(of_f32, g_in, TD_F32, N);
        td_wirekv_pack(g_blocks, g_half, TD_F16, N);
        assert_memory_equal(of_f32, g_blocks, sizeof(g_blocks));
        td_wirekv_unpack(g_out, TD_F32, g_blocks, N);
        td_wirekv_unpack(g_half_out, TD_F16, g_blocks, N);
        for (size_t i = 0; i < N; i++) assert_int_equal(g_half_out[i], td_f16_of_f32(g_out[i]));
    }
}

static void what_q8_0_holds_survives(void **state)
{
    (void)state;
    for (uint32_t h = 1; h < 0x7c00; h += 7) { // every seventh scale
        const float d = td_f32_of_f16((uint16_t)h);
        for (int i = 0; i < N; i++) g_in[i] = d * (float)(i % 255 - 127);
        for (int i = 0; i < N; i += TD_QK) g_in[i] = i % 64 ? d * 127 : d * -127;
        td_wirekv_pack(g_blocks, g_in, TD_F32, N);
        td_wirekv_unpack(g_out, TD_F32, g_blocks, N);
        for (int i = 0; i < N; i++)
            if (g_in[i] != g_out[i]) fail_msg("%g became %g", (double)g_in[i], (double)g_out[i]);
    }
    memset(g_in, 0, sizeof(g_in));
    td_wirekv_pack(g_blocks, g_in, TD_F32, N);
    td_wirekv_unpack(g_out, TD_F32, g_blocks, N);
    assert_memory_equal(g_in, g_out, sizeof(g_in));
}

static void any_bits_are_taken(void **state)
{
    (void)state;
    static const float odd[] = {INFINITY, -INFINITY, NAN, -NAN, 3.4e38f, 8.4e6f, -1e30f, 1e-45f};
    for (size_t k = 0; k < sizeof(odd) / sizeof(odd[0]); k++) {
        for (size_t i = 0; i < N; i++) g_in[i] = i % 7 == 3 ? odd[k] : 1;
        td_wirekv_pack(g_blocks, g_in, TD_F32, N);
        td_wirekv_unpack(g_out, TD_F32, g_blocks, N);
        for (size_t i = 0; i < N; i++) assert_true(isfinite(g_out[i]));
        if (fabsf(odd[k]) > 1e6f) assert_true(g_out[3] * copysignf(1, odd[k]) > 8e6f);
    }
    for (uint32_t at = 0; at < 0x10000; at += N) { // every f16 there is
        for (uint32_t i = 0; i < N; i++) g_half[i] = (uint16_t)(at + i);
        td_wirekv_pack(g_blocks, g_half, TD_F16, N);
        td_wirekv_unpack(g_out, TD_F32, g_blocks, N);
        for (size_t i = 0; i < N; i++) assert_true(isfinite(g_out[i]));
    }
    for (uint32_t at = 0; at < 0x10000; at += N / TD_QK) { // every scale a peer can send
        for (uint32_t i = 0; i < N / TD_QK; i++) {
            g_blocks[i].d = (uint16_t)(at + i);
            for (int k = 0; k < TD_QK; k++) g_blocks[i].qs[k] = (int8_t)(k * 8 - 128);
        }
        td_wirekv_unpack(g_out, TD_F32, g_blocks, N);
        td_wirekv_unpack(g_half_out, TD_F16, g_blocks, N);
        for (size_t i = 0; i < N; i++) {
            if (isnan(g_out[i]))
                assert_true((g_half_out[i] & 0x7fff) > 0x7c00);
            else
                assert_int_equal(g_half_out[i], td_f16_of_f32(g_out[i]));
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_are_those_of_the_types),
        cmocka_unit_test(values_are_off_by_half_a_scale_at_most),
        cmocka_unit_test(f16_goes_as_f32_does),
        cmocka_unit_test(what_q8_0_holds_survives),
        cmocka_unit_test(any_bits_are_taken),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
