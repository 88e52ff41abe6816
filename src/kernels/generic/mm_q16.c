// SPDX-License-Identifier: MIT
// 16-bit activations and their products with Q8_0 and MXFP4 weights.
#include "kernels/generic/generic.h"
#include "kernels/kernels_impl.h"

#include <assert.h>
#include <math.h>

void td_quantize_q16_generic(void *restrict y, const float *x, uint32_t n)
{
    assert(n % TD_QK == 0);
    int16_t *q = y;
    float *d = (float *)(void *)(q + n);
    memset(q, 0, (size_t)n * sizeof(*q));
    for (uint32_t b = 0; b < n / TD_QK; b++) {
        // As bits, NaN and infinity are the largest: no comparison of floats is needed to find
        // them.
        uint32_t max_bits = 0;
        for (uint32_t i = b * TD_QK; i < (b + 1) * TD_QK; i++)
            max_bits = td_max_u32(max_bits, td_bits_of_f32(x[i]) & 0x7fffffffu);
        const float max = td_f32_of_bits(max_bits);
        d[b] = max / 32767.0f;
        if (max_bits >= 0x7f800000u) { // infinity or NaN: every product with this block is NaN
            d[b] = td_f32_of_bits(0x7fc00000u);
            continue;
        }
        if (d[b] < 0x1p-112f) { // zeros, or so small that 32767 / max could overflow
            d[b] = 0.0f;
            continue;
        }
        const float inv = 32767.0f / max;
        for (uint32_t i = b * TD_QK; i < (b + 1) * TD_QK; i++) {
            // The sum's last bit is 1: the product rounded to an integer, in its low bits.
            const float t = x[i] * inv + TD_ROUND_MAGIC;
            q[i] = (int16_t)(td_bits_of_f32(t) - td_bits_of_f32(TD_ROUND_MAGIC));
        }
    }
}

static float dot_q8_0_q16(const uint8_t *w, const void *x, uint32_t n)
{
    const int16_t *q = x;
    const float *d = td_q16_d(x, n);
    float acc = 0.0f;
    for (uint32_t b = 0; b < n / TD_QK; b++, w += TD_Q8_0_BYTES, q += TD_QK) {
        int32_t isum = 0;
        for (int i = 0; i < TD_QK; i++) isum += (int8_t)w[2 + i] * q[i];
        acc = fmaf(td_f32_of_f16(td_load_u16(w)) * d[b], (float)isum, acc);
    }
    return acc;
}

void td_mm_q8_0_q16_generic(float *const *y, const void *w, const void *const *x, uint32_t n_in,
                            uint32_t n_out, uint32_t n_rows, void *scratch)
{
    (void)scratch;
    assert(n_in % TD_QK == 0);
    const uint8_t *wo = w;
    for (uint32_t o = 0; o < n_out; o++, wo += n_in / TD_QK * TD_Q8_0_BYTES) {
        for (uint32_t r = 0; r < n_rows; r++) y[r][o] = dot_q8_0_q16(wo, x[r], n_in);
    }
}

static float dot_mxfp4_q16(const uint8_t *w, const void *x, uint32_t n)
{
    const int16_t *q = x;
    const float *d = td_q16_d(x, n);
    float acc = 0.0f;
    for (uint32_t b = 0; b < n / TD_QK; b++, w += TD_MXFP4_BYTES, q += TD_QK) {
        int32_t isum = 0;
        for (int i = 0; i < TD_QK / 2; i++) {
            isum += td_e2m1_doubled[w[1 + i] & 15] * q[i];
            isum += td_e2m1_doubled[w[1 + i] >> 4] * q[i + TD_QK / 2];
        }
        acc = fmaf(td_f32_of_bits(td_e8m0_half[w[0]]) * d[b], (float)isum, acc);
    }
    return acc;
}

void td_mm_mxfp4_q16_generic(float *const *y, const void *w, const void *const *x, uint32_t n_in,
                             uint32_t n_out, uint32_t n_rows, void *scratch)
{
    (void)scratch;
    assert(n_in % TD_QK == 0);
    const uint8_t *wo = w;
    for (uint32_t o = 0; o < n_out; o++, wo += n_in / TD_QK * TD_MXFP4_BYTES) {
        for (uint32_t r = 0; r < n_rows; r++) y[r][o] = dot_mxfp4_q16(wo, x[r], n_in);
    }
}
