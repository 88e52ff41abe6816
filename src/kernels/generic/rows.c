// SPDX-License-Identifier: MIT
// Rows from one number format to another.
#include "kernels/generic/generic.h"
#include "kernels/kernels_impl.h"

#include <assert.h>

// The largest |x| of a block is found in its bits: for the absolute values of floats the order of
// the bits as integers is the order of the values, and infinity and NaN come above all numbers.
static uint32_t max_abs_bits(const float *x)
{
    uint32_t max = 0;
    for (int i = 0; i < TD_QK; i++) max = td_max_u32(max, td_bits_of_f32(x[i]) & 0x7fffffffu);
    return max;
}

void td_quantize_q8_generic(void *restrict y, const float *x, uint32_t n)
{
    assert(n % TD_QK == 0);
    int8_t *q = y;
    float *d = (float *)(void *)(q + n);
    int32_t *s = (int32_t *)(void *)(d + n / TD_QK);
    memset(q, 0, n);
    for (uint32_t b = 0; b < n / TD_QK; b++) {
        const uint32_t max_bits = max_abs_bits(x + b * TD_QK);
        const float max = td_f32_of_bits(max_bits);
        d[b] = max / 127.0f;
        s[b] = 0;
        if (max_bits >= 0x7f800000u) { // infinity or NaN: every product with this block is NaN
            d[b] = td_f32_of_bits(0x7fc00000u);
            continue;
        }
        if (d[b] < 0x1p-126f) { // zeros, or so small that 127 / max could overflow
            d[b] = 0.0f;
            continue;
        }
        const float inv = 127.0f / max;
        for (uint32_t i = b * TD_QK; i < (b + 1) * TD_QK; i++) {
            // The sum's last bit is 1: the product rounded to an integer, in its low bits.
            const float t = x[i] * inv + TD_ROUND_MAGIC;
            q[i] = (int8_t)(td_bits_of_f32(t) - td_bits_of_f32(TD_ROUND_MAGIC));
            s[b] += q[i];
        }
    }
}

void td_row_f32_generic(float *restrict y, enum td_type type, const void *w, uint32_t n)
{
    const uint8_t *p = w;
    switch (type) {
    case TD_F32: memcpy(y, w, (size_t)n * sizeof(float)); return;
    case TD_F16:
        for (uint32_t i = 0; i < n; i++) y[i] = td_f32_of_f16(td_load_u16(p + 2 * (size_t)i));
        return;
    case TD_BF16:
        for (uint32_t i = 0; i < n; i++) y[i] = td_f32_of_bf16(td_load_u16(p + 2 * (size_t)i));
        return;
    case TD_Q8_0:
        for (uint32_t b = 0; b < n / TD_QK; b++, p += TD_Q8_0_BYTES, y += TD_QK) {
            const float d = td_f32_of_f16(td_load_u16(p));
            for (int i = 0; i < TD_QK; i++) y[i] = d * (float)(int8_t)p[2 + i];
        }
        return;
    case TD_MXFP4:
        for (uint32_t b = 0; b < n / TD_QK; b++, p += TD_MXFP4_BYTES, y += TD_QK) {
            const float d = td_f32_of_bits(td_e8m0_half[p[0]]);
            for (int i = 0; i < TD_QK / 2; i++) {
                y[i] = d * (float)td_e2m1_doubled[p[1 + i] & 15];
                y[i + TD_QK / 2] = d * (float)td_e2m1_doubled[p[1 + i] >> 4];
            }
        }
        return;
    }
}

void td_f16_of_f32_generic(uint16_t *restrict y, const float *x, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) y[i] = td_f16_of_f32(x[i]);
}

void td_f32_of_f16_generic(float *restrict y, const uint16_t *x, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) y[i] = td_f32_of_f16(x[i]);
}
