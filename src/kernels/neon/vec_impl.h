// SPDX-License-Identifier: MIT
// What the NEON files share: loads and stores of a few floats, weights to f32, folds in the order
// of kernels.h, exp, dot products.
#ifndef TD_KERNELS_NEON_VEC_IMPL_H
#define TD_KERNELS_NEON_VEC_IMPL_H

#include "kernels/kernels_impl.h"

#include <arm_neon.h>
#include <math.h>

#if defined(__clang__)
#define TARGET      __attribute__((target("dotprod")))
#define TARGET_I8MM __attribute__((target("dotprod,i8mm")))
#else
#define TARGET      __attribute__((target("arch=armv8.2-a+dotprod")))
#define TARGET_I8MM __attribute__((target("arch=armv8.2-a+dotprod+i8mm")))
#endif
#define INLINE static inline __attribute__((always_inline)) TARGET

// acc[i] += the four products of the bytes of dword i of a with dword LANE of b. clang before 16
// hides the intrinsic unless the whole file is compiled for it.
#if !defined(__clang__) || defined(__ARM_FEATURE_DOTPROD)
#define DOT(acc, a, b)            vdotq_s32(acc, a, b)
#define DOT_LANE(acc, a, b, LANE) vdotq_laneq_s32(acc, a, b, LANE)
#else
INLINE int32x4_t dot_asm(int32x4_t acc, int8x16_t a, int8x16_t b)
{
    __asm__("sdot %0.4s, %1.16b, %2.16b" : "+w"(acc) : "w"(a), "w"(b));
    return acc;
}
#define DOT(acc, a, b) dot_asm(acc, a, b)
#define DOT_LANE(acc, a, b, LANE)                                                                  \
    dot_asm(acc, a, vreinterpretq_s8_s32(vdupq_laneq_s32(vreinterpretq_s32_s8(b), LANE)))
#endif

// acc, 2 x 2, += rows (8 bytes each) of a times rows of b: a0 b0, a0 b1, a1 b0, a1 b1.
static inline __attribute__((always_inline)) TARGET_I8MM int32x4_t matmul_2x8(int32x4_t acc,
                                                                              int8x16_t a,
                                                                              int8x16_t b)
{
#if !defined(__clang__) || defined(__ARM_FEATURE_MATMUL_INT8)
    return vmmlaq_s32(acc, a, b);
#else
    __asm__("smmla %0.4s, %1.16b, %2.16b" : "+w"(acc) : "w"(a), "w"(b));
    return acc;
#endif
}

// The first n floats, zeros behind; n >= 4 is the usual case.
INLINE float32x4_t load_n(const float *p, uint32_t n)
{
    if (n >= 4) return vld1q_f32(p);
    float v[4] = {0};
    memcpy(v, p, n * sizeof(float));
    return vld1q_f32(v);
}

INLINE void store_n(float *p, float32x4_t v, uint32_t n)
{
    if (n >= 4) {
        vst1q_f32(p, v);
        return;
    }
    float f[4];
    vst1q_f32(f, v);
    memcpy(p, f, n * sizeof(float));
}

// Four halves from any address.
INLINE uint16x4_t load_u16x4(const uint8_t *p)
{
    return vreinterpret_u16_u8(vld1_u8(p));
}

INLINE float32x4_t f32_of_half(const uint8_t *p)
{
    return vcvt_f32_f16(vreinterpret_f16_u16(load_u16x4(p)));
}

// 16 floats: the 16 accumulators, or 16 elements of a row.
struct f32x16 {
    float32x4_t v[4];
};

INLINE struct f32x16 scaled(int8x16_t q, float d)
{
    const int16x8_t lo = vmovl_s8(vget_low_s8(q));
    const int16x8_t hi = vmovl_s8(vget_high_s8(q));
    return (struct f32x16){{
        vmulq_n_f32(vcvtq_f32_s32(vmovl_s16(vget_low_s16(lo))), d),
        vmulq_n_f32(vcvtq_f32_s32(vmovl_s16(vget_high_s16(lo))), d),
        vmulq_n_f32(vcvtq_f32_s32(vmovl_s16(vget_low_s16(hi))), d),
        vmulq_n_f32(vcvtq_f32_s32(vmovl_s16(vget_high_s16(hi))), d),
    }};
}

// 16 weights as f32: elements i .. i + 15 of the row, i a multiple of 16.
INLINE struct f32x16 weights16(enum td_type type, const uint8_t *row, size_t i)
{
    struct f32x16 f = {
        {vdupq_n_f32(0.0f), vdupq_n_f32(0.0f), vdupq_n_f32(0.0f), vdupq_n_f32(0.0f)}};
    switch (type) {
    case TD_F32:
        TD_UNROLL
        for (int j = 0; j < 4; j++) {
            f.v[j] = vreinterpretq_f32_u8(vld1q_u8(row + 4 * i + 16 * (size_t)j));
        }
        break;
    case TD_F16:
        TD_UNROLL
        for (int j = 0; j < 4; j++) f.v[j] = f32_of_half(row + 2 * i + 8 * (size_t)j);
        break;
    case TD_BF16:
        TD_UNROLL
        for (int j = 0; j < 4; j++) {
            const uint16x4_t h = load_u16x4(row + 2 * i + 8 * (size_t)j);
            f.v[j] = vreinterpretq_f32_u32(vshll_n_u16(h, 16));
        }
        break;
    case TD_Q8_0: {
        const uint8_t *p = row + i / TD_QK * TD_Q8_0_BYTES;
        const int8x16_t q = vreinterpretq_s8_u8(vld1q_u8(p + 2 + i % TD_QK));
        return scaled(q, td_f32_of_f16(td_load_u16(p)));
    }
    case TD_MXFP4: {
        const uint8_t *p = row + i / TD_QK * TD_MXFP4_BYTES;
        const uint8x16_t v = vld1q_u8(p + 1);
        // The second half of a block is the high nibbles.
        const uint8x16_t codes = i % TD_QK ? vshrq_n_u8(v, 4) : vandq_u8(v, vdupq_n_u8(15));
        const int8x16_t q = vqtbl1q_s8(vld1q_s8(td_e2m1_doubled), codes);
        return scaled(q, td_f32_of_bits(td_e8m0_half[p[0]]));
    }
    }
    return f;
}

// One weight; only the types without blocks have rows that end between vectors.
INLINE float weight1(enum td_type type, const uint8_t *row, size_t i)
{
    switch (type) {
    case TD_F16: return td_f32_of_f16(td_load_u16(row + 2 * i));
    case TD_BF16: return td_f32_of_bf16(td_load_u16(row + 2 * i));
    case TD_F32:
    case TD_Q8_0:
    case TD_MXFP4: break;
    }
    return td_load_f32(row + 4 * i);
}

INLINE struct f32x16 load16(const float *p)
{
    return (struct f32x16){{vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)}};
}

INLINE struct f32x16 zero16(void)
{
    const float32x4_t z = vdupq_n_f32(0.0f);
    return (struct f32x16){{z, z, z, z}};
}

INLINE struct f32x16 fma16(struct f32x16 acc, struct f32x16 a, struct f32x16 b)
{
    TD_UNROLL
    for (int j = 0; j < 4; j++) acc.v[j] = vfmaq_f32(acc.v[j], a.v[j], b.v[j]);
    return acc;
}

// Elements whole .. n - 1 of a row join the accumulators; n - whole < 16.
INLINE struct f32x16 add_rest(struct f32x16 a, enum td_type type, const uint8_t *w, const float *x,
                              uint32_t whole, uint32_t n)
{
    if (whole == n) return a;
    float f[16];
    for (int j = 0; j < 4; j++) vst1q_f32(f + 4 * j, a.v[j]);
    for (uint32_t i = whole; i < n; i++)
        f[i - whole] = fmaf(weight1(type, w, i), x[i], f[i - whole]);
    return load16(f);
}

// 16 -> 8 -> 4 by adding the upper half to the lower.
INLINE float32x4_t fold16to4(struct f32x16 a)
{
    return vaddq_f32(vaddq_f32(a.v[0], a.v[2]), vaddq_f32(a.v[1], a.v[3]));
}

// ... 4 -> 2 -> 1 of four at once, in order.
INLINE float32x4_t fold16x4(const struct f32x16 a[4])
{
    float64x2_t v[4];
    TD_UNROLL
    for (int i = 0; i < 4; i++) v[i] = vreinterpretq_f64_f32(fold16to4(a[i]));
    const float32x4_t v01 = vaddq_f32(vreinterpretq_f32_f64(vzip1q_f64(v[0], v[1])),
                                      vreinterpretq_f32_f64(vzip2q_f64(v[0], v[1])));
    const float32x4_t v23 = vaddq_f32(vreinterpretq_f32_f64(vzip1q_f64(v[2], v[3])),
                                      vreinterpretq_f32_f64(vzip2q_f64(v[2], v[3])));
    return vpaddq_f32(v01, v23);
}

INLINE float fold16(struct f32x16 a)
{
    const float32x4_t b = fold16to4(a);
    return vpadds_f32(vadd_f32(vget_low_f32(b), vget_high_f32(b)));
}

// The very operations of generic/expf.h.
INLINE float32x4_t exp4(float32x4_t x)
{
    const float32x4_t magic = vdupq_n_f32(TD_ROUND_MAGIC);
    const float32x4_t t = vfmaq_f32(magic, x, vdupq_n_f32(TD_LOG2_E));
    const float32x4_t n = vsubq_f32(t, magic);
    float32x4_t r = vfmaq_f32(x, n, vdupq_n_f32(-TD_LN2_HI));
    r = vfmaq_f32(r, n, vdupq_n_f32(-TD_LN2_LO));
    float32x4_t p = vdupq_n_f32(TD_EXP_C6);
    p = vfmaq_f32(vdupq_n_f32(TD_EXP_C5), p, r);
    p = vfmaq_f32(vdupq_n_f32(TD_EXP_C4), p, r);
    p = vfmaq_f32(vdupq_n_f32(TD_EXP_C3), p, r);
    p = vfmaq_f32(vdupq_n_f32(TD_EXP_C2), p, r);
    p = vfmaq_f32(vdupq_n_f32(1.0f), p, r);
    p = vfmaq_f32(vdupq_n_f32(1.0f), p, r);
    const uint32x4_t exponent =
        vaddq_u32(vshlq_n_u32(vreinterpretq_u32_f32(t), 23), vdupq_n_u32(0x3f800000u));
    float32x4_t y = vmulq_f32(p, vreinterpretq_f32_u32(exponent));
    y = vbslq_f32(vcgtq_f32(x, vdupq_n_f32(TD_EXP_MAX)), vdupq_n_f32(INFINITY), y);
    return vbslq_f32(vcltq_f32(x, vdupq_n_f32(TD_EXP_MIN)), vdupq_n_f32(0.0f), y);
}

#endif
