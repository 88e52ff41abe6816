// SPDX-License-Identifier: MIT
// Rows from one number format to another, for AVX-512.
#include "kernels/avx512/avx512.h"

#if defined(__x86_64__)
#include "kernels/avx512/vec_impl.h"

#include <assert.h>

TARGET void td_quantize_q8_avx512(void *restrict y, const float *x, uint32_t n)
{
    assert(n % TD_QK == 0);
    int8_t *q = y;
    float *d = (float *)(void *)(q + n);
    int32_t *s = (int32_t *)(void *)(d + n / TD_QK);
    const __m512i abs_bits = _mm512_set1_epi32(0x7fffffff);
    const __m512 magic = _mm512_set1_ps(TD_ROUND_MAGIC);
    for (uint32_t b = 0; b < n / TD_QK; b++, x += TD_QK, q += TD_QK) {
        const __m512 x0 = _mm512_loadu_ps(x);
        const __m512 x1 = _mm512_loadu_ps(x + 16);
        const __m512i a0 = _mm512_and_si512(_mm512_castps_si512(x0), abs_bits);
        const __m512i a1 = _mm512_and_si512(_mm512_castps_si512(x1), abs_bits);
        const uint32_t max_bits = _mm512_reduce_max_epu32(_mm512_max_epu32(a0, a1));
        const float max = td_f32_of_bits(max_bits);
        const bool is_number = max_bits < 0x7f800000u;
        d[b] = is_number ? max / 127.0f : td_f32_of_bits(0x7fc00000u);
        s[b] = 0;
        if (!is_number || d[b] < 0x1p-126f) {
            if (is_number) d[b] = 0.0f;
            _mm256_storeu_si256((void *)q, _mm256_setzero_si256());
            continue;
        }
        const __m512 inv = _mm512_set1_ps(127.0f / max);
        const __m512 t0 = _mm512_add_ps(_mm512_mul_ps(x0, inv), magic);
        const __m512 t1 = _mm512_add_ps(_mm512_mul_ps(x1, inv), magic);
        const __m512i q0 = _mm512_sub_epi32(_mm512_castps_si512(t0), _mm512_castps_si512(magic));
        const __m512i q1 = _mm512_sub_epi32(_mm512_castps_si512(t1), _mm512_castps_si512(magic));
        _mm_storeu_si128((void *)q, _mm512_cvtepi32_epi8(q0));
        _mm_storeu_si128((void *)(q + 16), _mm512_cvtepi32_epi8(q1));
        s[b] = _mm512_reduce_add_epi32(_mm512_add_epi32(q0, q1));
    }
}

TARGET void td_quantize_q16_avx512(void *restrict y, const float *x, uint32_t n)
{
    assert(n % TD_QK == 0);
    int16_t *q = y;
    float *d = (float *)(void *)(q + n);
    const __m512i abs_bits = _mm512_set1_epi32(0x7fffffff);
    const __m512 magic = _mm512_set1_ps(TD_ROUND_MAGIC);
    for (uint32_t b = 0; b < n / TD_QK; b++, x += TD_QK, q += TD_QK) {
        const __m512 x0 = _mm512_loadu_ps(x);
        const __m512 x1 = _mm512_loadu_ps(x + 16);
        const __m512i a0 = _mm512_and_si512(_mm512_castps_si512(x0), abs_bits);
        const __m512i a1 = _mm512_and_si512(_mm512_castps_si512(x1), abs_bits);
        const uint32_t max_bits = _mm512_reduce_max_epu32(_mm512_max_epu32(a0, a1));
        const float max = td_f32_of_bits(max_bits);
        const bool is_number = max_bits < 0x7f800000u;
        d[b] = is_number ? max / 32767.0f : td_f32_of_bits(0x7fc00000u);
        if (!is_number || d[b] < 0x1p-112f) {
            if (is_number) d[b] = 0.0f;
            _mm512_storeu_si512(q, _mm512_setzero_si512());
            continue;
        }
        const __m512 inv = _mm512_set1_ps(32767.0f / max);
        const __m512 t0 = _mm512_add_ps(_mm512_mul_ps(x0, inv), magic);
        const __m512 t1 = _mm512_add_ps(_mm512_mul_ps(x1, inv), magic);
        const __m512i q0 = _mm512_sub_epi32(_mm512_castps_si512(t0), _mm512_castps_si512(magic));
        const __m512i q1 = _mm512_sub_epi32(_mm512_castps_si512(t1), _mm512_castps_si512(magic));
        _mm256_storeu_si256((void *)q, _mm512_cvtepi32_epi16(q0));
        _mm256_storeu_si256((void *)(q + 16), _mm512_cvtepi32_epi16(q1));
    }
}

INLINE void row_f32(enum td_type type, float *restrict y, const uint8_t *w, uint32_t n)
{
    const uint32_t whole = n & ~15u;
    for (uint32_t i = 0; i < whole; i += 16) _mm512_storeu_ps(y + i, weights16(type, w, i));
    if (whole < n) {
        _mm512_mask_storeu_ps(y + whole, first_lanes(n - whole),
                              weights_rest(type, w, whole, n - whole));
    }
}

TARGET void td_row_f32_avx512(float *restrict y, enum td_type type, const void *w, uint32_t n)
{
    switch (type) {
    case TD_F32: row_f32(TD_F32, y, w, n); return;
    case TD_F16: row_f32(TD_F16, y, w, n); return;
    case TD_BF16: row_f32(TD_BF16, y, w, n); return;
    case TD_Q8_0: row_f32(TD_Q8_0, y, w, n); return;
    case TD_MXFP4: row_f32(TD_MXFP4, y, w, n); return;
    }
}

TARGET void td_f16_of_f32_avx512(uint16_t *restrict y, const float *x, uint32_t n)
{
    for (uint32_t i = 0; i < n; i += 16) {
        const __mmask16 m = first_lanes(n - i);
        const __m256i h =
            _mm512_cvtps_ph(_mm512_maskz_loadu_ps(m, x + i), _MM_FROUND_TO_NEAREST_INT);
        _mm256_mask_storeu_epi16(y + i, m, h);
    }
}

TARGET void td_f32_of_f16_avx512(float *restrict y, const uint16_t *x, uint32_t n)
{
    td_row_f32_avx512(y, TD_F16, x, n);
}

#endif
