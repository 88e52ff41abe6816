// SPDX-License-Identifier: MIT
// Rows from one number format to another, for NEON.
#include "kernels/neon/neon.h"

#if defined(__aarch64__)
#include "kernels/neon/vec_impl.h"

#include <assert.h>

TARGET void td_quantize_q8_neon(void *restrict y, const float *x, uint32_t n)
{
    assert(n % TD_QK == 0);
    int8_t *q = y;
    float *d = (float *)(void *)(q + n);
    int32_t *s = (int32_t *)(void *)(d + n / TD_QK);
    const float32x4_t magic = vdupq_n_f32(TD_ROUND_MAGIC);
    for (uint32_t b = 0; b < n / TD_QK; b++, x += TD_QK, q += TD_QK) {
        float32x4_t v[8];
        uint32x4_t a = vdupq_n_u32(0);
        TD_UNROLL
        for (int i = 0; i < 8; i++) {
            v[i] = vld1q_f32(x + 4 * i);
            a = vmaxq_u32(a, vreinterpretq_u32_f32(vabsq_f32(v[i])));
        }
        const uint32_t max_bits = vmaxvq_u32(a);
        const float max = td_f32_of_bits(max_bits);
        const bool is_number = max_bits < 0x7f800000u;
        d[b] = is_number ? max / 127.0f : td_f32_of_bits(0x7fc00000u);
        s[b] = 0;
        if (!is_number || d[b] < 0x1p-126f) {
            if (is_number) d[b] = 0.0f;
            memset(q, 0, TD_QK);
            continue;
        }
        const float32x4_t inv = vdupq_n_f32(127.0f / max);
        int32x4_t sum = vdupq_n_s32(0);
        TD_UNROLL
        for (int i = 0; i < 8; i += 2) {
            int32x4_t r[2];
            TD_UNROLL
            for (int j = 0; j < 2; j++) {
                const float32x4_t t = vaddq_f32(vmulq_f32(v[i + j], inv), magic);
                r[j] = vsubq_s32(vreinterpretq_s32_f32(t), vreinterpretq_s32_f32(magic));
                sum = vaddq_s32(sum, r[j]);
            }
            vst1_s8(q + 4 * i, vmovn_s16(vcombine_s16(vmovn_s32(r[0]), vmovn_s32(r[1]))));
        }
        s[b] = vaddvq_s32(sum);
    }
}

TARGET void td_quantize_q16_neon(void *restrict y, const float *x, uint32_t n)
{
    assert(n % TD_QK == 0);
    int16_t *q = y;
    float *d = (float *)(void *)(q + n);
    const float32x4_t magic = vdupq_n_f32(TD_ROUND_MAGIC);
    for (uint32_t b = 0; b < n / TD_QK; b++, x += TD_QK, q += TD_QK) {
        float32x4_t v[8];
        uint32x4_t a = vdupq_n_u32(0);
        TD_UNROLL
        for (int i = 0; i < 8; i++) {
            v[i] = vld1q_f32(x + 4 * i);
            a = vmaxq_u32(a, vreinterpretq_u32_f32(vabsq_f32(v[i])));
        }
        const uint32_t max_bits = vmaxvq_u32(a);
        const float max = td_f32_of_bits(max_bits);
        const bool is_number = max_bits < 0x7f800000u;
        d[b] = is_number ? max / 32767.0f : td_f32_of_bits(0x7fc00000u);
        if (!is_number || d[b] < 0x1p-112f) {
            if (is_number) d[b] = 0.0f;
            memset(q, 0, TD_QK * sizeof(*q));
            continue;
        }
        const float32x4_t inv = vdupq_n_f32(32767.0f / max);
        TD_UNROLL
        for (int i = 0; i < 8; i++) {
            const float32x4_t t = vaddq_f32(vmulq_f32(v[i], inv), magic);
            const int32x4_t r = vsubq_s32(vreinterpretq_s32_f32(t), vreinterpretq_s32_f32(magic));
            vst1_s16(q + 4 * i, vmovn_s32(r));
        }
    }
}

INLINE void row_f32(enum td_type type, float *restrict y, const uint8_t *w, uint32_t n)
{
    uint32_t i = 0;
    for (; i + 16 <= n; i += 16) {
        const struct f32x16 f = weights16(type, w, i);
        TD_UNROLL
        for (int j = 0; j < 4; j++) vst1q_f32(y + i + 4 * j, f.v[j]);
    }
    for (; i < n; i++) y[i] = weight1(type, w, i);
}

TARGET void td_row_f32_neon(float *restrict y, enum td_type type, const void *w, uint32_t n)
{
    switch (type) {
    case TD_F32: row_f32(TD_F32, y, w, n); return;
    case TD_F16: row_f32(TD_F16, y, w, n); return;
    case TD_BF16: row_f32(TD_BF16, y, w, n); return;
    case TD_Q8_0: row_f32(TD_Q8_0, y, w, n); return;
    case TD_MXFP4: row_f32(TD_MXFP4, y, w, n); return;
    }
}

TARGET void td_f16_of_f32_neon(uint16_t *restrict y, const float *x, uint32_t n)
{
    uint32_t i = 0;
    for (; i + 4 <= n; i += 4) {
        vst1_u16(y + i, vreinterpret_u16_f16(vcvt_f16_f32(vld1q_f32(x + i))));
    }
    for (; i < n; i++) y[i] = td_f16_of_f32(x[i]);
}

TARGET void td_f32_of_f16_neon(float *restrict y, const uint16_t *x, uint32_t n)
{
    td_row_f32_neon(y, TD_F16, x, n);
}

#endif
