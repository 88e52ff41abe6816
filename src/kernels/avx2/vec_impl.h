// SPDX-License-Identifier: MIT
// What the AVX2 files share: loads and stores of a few floats, weights to f32, folds in the order
// of kernels.h, exp.
#ifndef TD_KERNELS_AVX2_VEC_IMPL_H
#define TD_KERNELS_AVX2_VEC_IMPL_H

#include "kernels/kernels_impl.h"

#include <immintrin.h>
#include <math.h>

#define TARGET __attribute__((target("avx2,fma,f16c")))
#define INLINE static inline __attribute__((always_inline)) TARGET

INLINE __m128i load128(const void *p)
{
    return _mm_loadu_si128(p);
}

INLINE __m256i load256(const void *p)
{
    return _mm256_loadu_si256(p);
}

INLINE __m128i load64(const void *p)
{
    return _mm_loadl_epi64(p);
}

INLINE __m256i first_lanes(uint32_t n)
{
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int32_t)td_min_u32(n, 8)), lane);
}

// The first n floats, zeros behind; n >= 8 is the usual case and an ordinary load: masked stores
// are slow on Zen 1 to 3.
INLINE __m256 load_n(const float *p, uint32_t n)
{
    return n >= 8 ? _mm256_loadu_ps(p) : _mm256_maskload_ps(p, first_lanes(n));
}

INLINE void store_n(float *p, __m256 v, uint32_t n)
{
    if (n >= 8) {
        _mm256_storeu_ps(p, v);
    } else {
        _mm256_maskstore_ps(p, first_lanes(n), v);
    }
}

// Eight weights as f32: elements i .. i + 7 of the row, i a multiple of 8.
INLINE __m256 weights8(enum td_type type, const uint8_t *row, size_t i)
{
    switch (type) {
    case TD_F32: return _mm256_loadu_ps((const float *)(const void *)(row + 4 * i));
    case TD_F16: return _mm256_cvtph_ps(load128(row + 2 * i));
    case TD_BF16:
        return _mm256_castsi256_ps(
            _mm256_slli_epi32(_mm256_cvtepu16_epi32(load128(row + 2 * i)), 16));
    case TD_Q8_0: {
        const uint8_t *p = row + i / TD_QK * TD_Q8_0_BYTES;
        const __m128 d = _mm_cvtph_ps(_mm_cvtsi32_si128(td_load_u16(p)));
        const __m256i q = _mm256_cvtepi8_epi32(load64(p + 2 + i % TD_QK));
        return _mm256_mul_ps(_mm256_broadcastss_ps(d), _mm256_cvtepi32_ps(q));
    }
    case TD_MXFP4: {
        const uint8_t *p = row + i / TD_QK * TD_MXFP4_BYTES;
        __m128i codes = load64(p + 1 + i % 16);
        // The second half of a block is the high nibbles.
        if (i % TD_QK >= 16) codes = _mm_srli_epi16(codes, 4);
        codes = _mm_and_si128(codes, _mm_set1_epi8(15));
        const __m128i q = _mm_shuffle_epi8(load128(td_e2m1_doubled), codes);
        const __m256 d = _mm256_set1_ps(td_f32_of_bits(td_e8m0_half[p[0]]));
        return _mm256_mul_ps(d, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(q)));
    }
    }
    return _mm256_setzero_ps();
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

// The 16 accumulators: element i % 16 in lo (0-7) and hi.
struct acc16 {
    __m256 lo, hi;
};

// Elements whole .. n - 1 of a row join the accumulators; n - whole < 16.
INLINE struct acc16 add_rest(struct acc16 a, enum td_type type, const uint8_t *w, const float *x,
                             uint32_t whole, uint32_t n)
{
    if (whole == n) return a;
    float f[16];
    _mm256_storeu_ps(f, a.lo);
    _mm256_storeu_ps(f + 8, a.hi);
    for (uint32_t i = whole; i < n; i++)
        f[i - whole] = fmaf(weight1(type, w, i), x[i], f[i - whole]);
    return (struct acc16){_mm256_loadu_ps(f), _mm256_loadu_ps(f + 8)};
}

// 16 -> 8 -> 4 -> 2 -> 1 by adding the upper half to the lower.
INLINE float fold16(struct acc16 a)
{
    const __m256 b = _mm256_add_ps(a.lo, a.hi);
    const __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    const __m128 d = _mm_add_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_add_ss(d, _mm_movehdup_ps(d)));
}

// fold16 of four at once, in order. Each level puts the upper halves of two vectors against their
// lower halves, so the sums are fold16's own.
INLINE __m128 fold16x4(const struct acc16 a[4])
{
    const __m256 v0 = _mm256_add_ps(a[0].lo, a[0].hi);
    const __m256 v1 = _mm256_add_ps(a[1].lo, a[1].hi);
    const __m256 v2 = _mm256_add_ps(a[2].lo, a[2].hi);
    const __m256 v3 = _mm256_add_ps(a[3].lo, a[3].hi);
    const __m256 v01 =
        _mm256_add_ps(_mm256_permute2f128_ps(v0, v1, 0x20), _mm256_permute2f128_ps(v0, v1, 0x31));
    const __m256 v23 =
        _mm256_add_ps(_mm256_permute2f128_ps(v2, v3, 0x20), _mm256_permute2f128_ps(v2, v3, 0x31));
    const __m256d p = _mm256_castps_pd(v01);
    const __m256d q = _mm256_castps_pd(v23);
    const __m256 two = _mm256_add_ps(_mm256_castpd_ps(_mm256_unpacklo_pd(p, q)),
                                     _mm256_castpd_ps(_mm256_unpackhi_pd(p, q)));
    // Pairs of 0 and 2 in the lower lane, of 1 and 3 in the upper.
    const __m256 one =
        _mm256_add_ps(_mm256_shuffle_ps(two, two, 0x88), _mm256_shuffle_ps(two, two, 0xdd));
    return _mm_unpacklo_ps(_mm256_castps256_ps128(one), _mm256_extractf128_ps(one, 1));
}

// The very operations of generic/expf.h.
INLINE __m256 exp8(__m256 x)
{
    const __m256 magic = _mm256_set1_ps(TD_ROUND_MAGIC);
    const __m256 t = _mm256_fmadd_ps(x, _mm256_set1_ps(TD_LOG2_E), magic);
    const __m256 n = _mm256_sub_ps(t, magic);
    __m256 r = _mm256_fmadd_ps(n, _mm256_set1_ps(-TD_LN2_HI), x);
    r = _mm256_fmadd_ps(n, _mm256_set1_ps(-TD_LN2_LO), r);
    __m256 p = _mm256_set1_ps(TD_EXP_C6);
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(TD_EXP_C5));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(TD_EXP_C4));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(TD_EXP_C3));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(TD_EXP_C2));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f));
    const __m256i exponent = _mm256_add_epi32(_mm256_slli_epi32(_mm256_castps_si256(t), 23),
                                              _mm256_set1_epi32(0x3f800000));
    const __m256 y = _mm256_mul_ps(p, _mm256_castsi256_ps(exponent));
    const __m256 above = _mm256_cmp_ps(x, _mm256_set1_ps(TD_EXP_MAX), _CMP_GT_OQ);
    const __m256 below = _mm256_cmp_ps(x, _mm256_set1_ps(TD_EXP_MIN), _CMP_LT_OQ);
    return _mm256_andnot_ps(below, _mm256_blendv_ps(y, _mm256_set1_ps(INFINITY), above));
}

#endif
