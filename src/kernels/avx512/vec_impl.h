// SPDX-License-Identifier: MIT
// What the AVX-512 files share: weights to f32, folds in the order of kernels.h, exp.
#ifndef TD_KERNELS_AVX512_VEC_IMPL_H
#define TD_KERNELS_AVX512_VEC_IMPL_H

#include "kernels/kernels_impl.h"

#include <immintrin.h>
#include <math.h>

#define TARGET                                                                                     \
    __attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")))
#define INLINE static inline __attribute__((always_inline)) TARGET

INLINE __m128i load128(const void *p)
{
    return _mm_loadu_si128(p);
}

INLINE __m256i load256(const void *p)
{
    return _mm256_loadu_si256(p);
}

// The first n lanes of 16.
INLINE __mmask16 first_lanes(uint32_t n)
{
    const uint32_t bits = n >= 16 ? 0xffffu : (1u << n) - 1u;
    return (__mmask16)bits;
}

// 16 weights as f32: elements i .. i + 15 of the row, i a multiple of 16.
INLINE __m512 weights16(enum td_type type, const uint8_t *row, size_t i)
{
    switch (type) {
    case TD_F32: return _mm512_loadu_ps(row + 4 * i);
    case TD_F16: return _mm512_cvtph_ps(load256(row + 2 * i));
    case TD_BF16:
        return _mm512_castsi512_ps(
            _mm512_slli_epi32(_mm512_cvtepu16_epi32(load256(row + 2 * i)), 16));
    case TD_Q8_0: {
        const uint8_t *p = row + i / TD_QK * TD_Q8_0_BYTES;
        const __m128 d = _mm_cvtph_ps(_mm_cvtsi32_si128(td_load_u16(p)));
        const __m512i q = _mm512_cvtepi8_epi32(load128(p + 2 + i % TD_QK));
        return _mm512_mul_ps(_mm512_broadcastss_ps(d), _mm512_cvtepi32_ps(q));
    }
    case TD_MXFP4: {
        const __m512 values =
            _mm512_setr_ps(0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12);
        const uint8_t *p = row + i / TD_QK * TD_MXFP4_BYTES;
        __m512i codes = _mm512_cvtepu8_epi32(load128(p + 1));
        // VPERMPS looks at the low four bits only. The second half of a block is the high nibbles.
        if (i % TD_QK) codes = _mm512_srli_epi32(codes, 4);
        const __m512 d = _mm512_set1_ps(td_f32_of_bits(td_e8m0_half[p[0]]));
        return _mm512_mul_ps(d, _mm512_permutexvar_ps(codes, values));
    }
    }
    return _mm512_setzero_ps();
}

// The last n < 16 weights of a row; only the types without blocks have such a rest.
INLINE __m512 weights_rest(enum td_type type, const uint8_t *row, size_t i, uint32_t n)
{
    const __mmask16 m = first_lanes(n);
    if (type == TD_F32) return _mm512_maskz_loadu_ps(m, row + 4 * i);
    const __m256i h = _mm256_maskz_loadu_epi16(m, row + 2 * i);
    if (type == TD_F16) return _mm512_cvtph_ps(h);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}

// 16 -> 8 -> 4 -> 2 -> 1 by adding the upper half to the lower.
INLINE float fold16(__m512 a)
{
    const __m256 b = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    const __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    const __m128 d = _mm_add_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_add_ss(d, _mm_movehdup_ps(d)));
}

// fold16 of 16 vectors at once: lane 4 * j + i of the result is the fold of a[i][j]. Each level
// puts the upper halves of two vectors against their lower halves, so the sums are fold16's own.
INLINE __m512 fold16x16(const __m512 a[4][4])
{
    __m512 quad[4];
    TD_UNROLL
    for (int i = 0; i < 4; i++) {
        const __m512 *v = a[i];
        const __m512 ab = _mm512_add_ps(_mm512_shuffle_f32x4(v[0], v[1], 0x44),
                                        _mm512_shuffle_f32x4(v[0], v[1], 0xee));
        const __m512 cd = _mm512_add_ps(_mm512_shuffle_f32x4(v[2], v[3], 0x44),
                                        _mm512_shuffle_f32x4(v[2], v[3], 0xee));
        quad[i] =
            _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));
    }
    __m512 pair[2];
    TD_UNROLL
    for (int i = 0; i < 2; i++) {
        const __m512d p = _mm512_castps_pd(quad[2 * i]);
        const __m512d q = _mm512_castps_pd(quad[2 * i + 1]);
        pair[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(p, q)),
                                _mm512_castpd_ps(_mm512_unpackhi_pd(p, q)));
    }
    return _mm512_add_ps(_mm512_shuffle_ps(pair[0], pair[1], 0x88),
                         _mm512_shuffle_ps(pair[0], pair[1], 0xdd));
}

// exp of what is not above 0: the very operations of generic/expf.h.
INLINE __m512 exp16_nonpos(__m512 x)
{
    const __m512 magic = _mm512_set1_ps(TD_ROUND_MAGIC);
    const __m512 t = _mm512_fmadd_ps(x, _mm512_set1_ps(TD_LOG2_E), magic);
    const __m512 n = _mm512_sub_ps(t, magic);
    __m512 r = _mm512_fmadd_ps(n, _mm512_set1_ps(-TD_LN2_HI), x);
    r = _mm512_fmadd_ps(n, _mm512_set1_ps(-TD_LN2_LO), r);
    __m512 p = _mm512_set1_ps(TD_EXP_C6);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(TD_EXP_C5));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(TD_EXP_C4));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(TD_EXP_C3));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(TD_EXP_C2));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    const __m512i exponent = _mm512_add_epi32(_mm512_slli_epi32(_mm512_castps_si512(t), 23),
                                              _mm512_set1_epi32(0x3f800000));
    const __mmask16 in_range = _mm512_cmp_ps_mask(x, _mm512_set1_ps(TD_EXP_MIN), _CMP_NLT_UQ);
    return _mm512_maskz_mul_ps(in_range, p, _mm512_castsi512_ps(exponent));
}

INLINE __m512 exp16(__m512 x)
{
    const __mmask16 above = _mm512_cmp_ps_mask(x, _mm512_set1_ps(TD_EXP_MAX), _CMP_GT_OQ);
    return _mm512_mask_mov_ps(exp16_nonpos(x), above, _mm512_set1_ps(INFINITY));
}

#endif
