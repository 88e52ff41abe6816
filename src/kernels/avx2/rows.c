// SPDX-License-Identifier: MIT
// Rows from one number format to another, for AVX2.
#include "kernels/avx2/avx2.h"

#if defined(__x86_64__)
#include "kernels/avx2/vec_impl.h"

#include <assert.h>

INLINE uint32_t max_u32(__m256i v)
{
    __m128i m = _mm_max_epu32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    m = _mm_max_epu32(m, _mm_shuffle_epi32(m, 0x4e));
    m = _mm_max_epu32(m, _mm_shuffle_epi32(m, 0xb1));
    return (uint32_t)_mm_cvtsi128_si32(m);
}

INLINE int32_t sum_i32(__m256i v)
{
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1));
    return _mm_cvtsi128_si32(s);
}

TARGET void td_quantize_q8_avx2(void *restrict y, const float *x, uint32_t n)
{
    assert(n % TD_QK == 0);
    int8_t *q = y;
    float *d = (float *)(void *)(q + n);
    int32_t *s = (int32_t *)(void *)(d + n / TD_QK);
    const __m256i abs_bits = _mm256_set1_epi32(0x7fffffff);
    const __m256 magic = _mm256_set1_ps(TD_ROUND_MAGIC);
    for (uint32_t b = 0; b < n / TD_QK; b++, x += TD_QK, q += TD_QK) {
        __m256 v[4];
        __m256i a = _mm256_setzero_si256();
        TD_UNROLL
        for (int i = 0; i < 4; i++) {
            v[i] = _mm256_loadu_ps(x + 8 * i);
            a = _mm256_max_epu32(a, _mm256_and_si256(_mm256_castps_si256(v[i]), abs_bits));
        }
        const uint32_t max_bits = max_u32(a);
        const float max = td_f32_of_bits(max_bits);
        const bool is_number = max_bits < 0x7f800000u;
        d[b] = is_number ? max / 127.0f : td_f32_of_bits(0x7fc00000u);
        s[b] = 0;
        if (!is_number || d[b] < 0x1p-126f) {
            if (is_number) d[b] = 0.0f;
            _mm256_storeu_si256((void *)q, _mm256_setzero_si256());
            continue;
        }
        const __m256 inv = _mm256_set1_ps(127.0f / max);
        __m256i r[4];
        TD_UNROLL
        for (int i = 0; i < 4; i++) {
            const __m256 t = _mm256_add_ps(_mm256_mul_ps(v[i], inv), magic);
            r[i] = _mm256_sub_epi32(_mm256_castps_si256(t), _mm256_castps_si256(magic));
        }
        s[b] =
            sum_i32(_mm256_add_epi32(_mm256_add_epi32(r[0], r[1]), _mm256_add_epi32(r[2], r[3])));
        // Packing works within 128-bit lanes; the permutation puts the dwords back in order.
        const __m256i bytes =
            _mm256_packs_epi16(_mm256_packs_epi32(r[0], r[1]), _mm256_packs_epi32(r[2], r[3]));
        const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
        _mm256_storeu_si256((void *)q, _mm256_permutevar8x32_epi32(bytes, order));
    }
}

TARGET void td_quantize_q16_avx2(void *restrict y, const float *x, uint32_t n)
{
    assert(n % TD_QK == 0);
    int16_t *q = y;
    float *d = (float *)(void *)(q + n);
    const __m256i abs_bits = _mm256_set1_epi32(0x7fffffff);
    const __m256 magic = _mm256_set1_ps(TD_ROUND_MAGIC);
    for (uint32_t b = 0; b < n / TD_QK; b++, x += TD_QK, q += TD_QK) {
        __m256 v[4];
        __m256i a = _mm256_setzero_si256();
        TD_UNROLL
        for (int i = 0; i < 4; i++) {
            v[i] = _mm256_loadu_ps(x + 8 * i);
            a = _mm256_max_epu32(a, _mm256_and_si256(_mm256_castps_si256(v[i]), abs_bits));
        }
        const uint32_t max_bits = max_u32(a);
        const float max = td_f32_of_bits(max_bits);
        const bool is_number = max_bits < 0x7f800000u;
        d[b] = is_number ? max / 32767.0f : td_f32_of_bits(0x7fc00000u);
        if (!is_number || d[b] < 0x1p-112f) {
            if (is_number) d[b] = 0.0f;
            memset(q, 0, TD_QK * sizeof(*q));
            continue;
        }
        const __m256 inv = _mm256_set1_ps(32767.0f / max);
        __m256i r[4];
        TD_UNROLL
        for (int i = 0; i < 4; i++) {
            const __m256 t = _mm256_add_ps(_mm256_mul_ps(v[i], inv), magic);
            r[i] = _mm256_sub_epi32(_mm256_castps_si256(t), _mm256_castps_si256(magic));
        }
        // Packing works within 128-bit lanes; the permutation puts the quadwords back in order.
        TD_UNROLL
        for (int i = 0; i < 2; i++) {
            const __m256i words = _mm256_packs_epi32(r[2 * i], r[2 * i + 1]);
            _mm256_storeu_si256((void *)(q + 16 * i), _mm256_permute4x64_epi64(words, 0xd8));
        }
    }
}

INLINE void row_f32(enum td_type type, float *restrict y, const uint8_t *w, uint32_t n)
{
    uint32_t i = 0;
    for (; i + 8 <= n; i += 8) _mm256_storeu_ps(y + i, weights8(type, w, i));
    for (; i < n; i++) y[i] = weight1(type, w, i);
}

TARGET void td_row_f32_avx2(float *restrict y, enum td_type type, const void *w, uint32_t n)
{
    switch (type) {
    case TD_F32: row_f32(TD_F32, y, w, n); return;
    case TD_F16: row_f32(TD_F16, y, w, n); return;
    case TD_BF16: row_f32(TD_BF16, y, w, n); return;
    case TD_Q8_0: row_f32(TD_Q8_0, y, w, n); return;
    case TD_MXFP4: row_f32(TD_MXFP4, y, w, n); return;
    }
}

TARGET void td_f16_of_f32_avx2(uint16_t *restrict y, const float *x, uint32_t n)
{
    uint32_t i = 0;
    for (; i + 8 <= n; i += 8) {
        _mm_storeu_si128((void *)(y + i),
                         _mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT));
    }
    for (; i < n; i++) y[i] = td_f16_of_f32(x[i]);
}

TARGET void td_f32_of_f16_avx2(float *restrict y, const uint16_t *x, uint32_t n)
{
    td_row_f32_avx2(y, TD_F16, x, n);
}

#endif
