// SPDX-License-Identifier: MIT
// Everything of a layer that is not a matrix product or attention, for AVX-512. Every loop ends
// with a masked step: the mask is all ones until then.
#include "kernels/avx512/avx512.h"

#if defined(__x86_64__)
#include "kernels/avx512/vec_impl.h"

TARGET void td_rmsnorm_avx512(float *restrict y, const float *x, const float *w, uint32_t n,
                              float eps)
{
    __m512 acc = _mm512_setzero_ps();
    for (uint32_t i = 0; i < n; i += 16) {
        const __mmask16 m = first_lanes(n - i);
        const __m512 xi = _mm512_maskz_loadu_ps(m, x + i);
        acc = _mm512_mask3_fmadd_ps(xi, xi, acc, m);
    }
    const __m512 inv = _mm512_set1_ps(1.0f / sqrtf(fold16(acc) / (float)n + eps));
    for (uint32_t i = 0; i < n; i += 16) {
        const __mmask16 m = first_lanes(n - i);
        const __m512 xi = _mm512_mul_ps(_mm512_maskz_loadu_ps(m, x + i), inv);
        _mm512_mask_storeu_ps(y + i, m, _mm512_mul_ps(xi, _mm512_maskz_loadu_ps(m, w + i)));
    }
}

TARGET void td_rope_avx512(float *x, const float *cos, const float *sin, uint32_t n_heads,
                           uint32_t head_dim)
{
    const uint32_t half = head_dim / 2;
    for (uint32_t h = 0; h < n_heads; h++, x += head_dim) {
        for (uint32_t i = 0; i < half; i += 16) {
            const __mmask16 m = first_lanes(half - i);
            const __m512 c = _mm512_maskz_loadu_ps(m, cos + i);
            const __m512 s = _mm512_maskz_loadu_ps(m, sin + i);
            const __m512 x0 = _mm512_maskz_loadu_ps(m, x + i);
            const __m512 x1 = _mm512_maskz_loadu_ps(m, x + i + half);
            _mm512_mask_storeu_ps(x + i, m,
                                  _mm512_sub_ps(_mm512_mul_ps(x0, c), _mm512_mul_ps(x1, s)));
            _mm512_mask_storeu_ps(x + i + half, m,
                                  _mm512_add_ps(_mm512_mul_ps(x1, c), _mm512_mul_ps(x0, s)));
        }
    }
}

TARGET void td_swiglu_clamped_avx512(float *restrict y, const float *g, const float *u, uint32_t n,
                                     float alpha, float limit)
{
    const __m512 one = _mm512_set1_ps(1.0f);
    const __m512 top = _mm512_set1_ps(limit);
    for (uint32_t i = 0; i < n; i += 16) {
        const __mmask16 m = first_lanes(n - i);
        // MINPS and MAXPS give their second operand when one is NaN: a NaN goes through.
        const __m512 gi = _mm512_min_ps(top, _mm512_maskz_loadu_ps(m, g + i));
        const __m512 ui = _mm512_max_ps(_mm512_set1_ps(-limit),
                                        _mm512_min_ps(top, _mm512_maskz_loadu_ps(m, u + i)));
        const __m512 z =
            _mm512_xor_ps(_mm512_mul_ps(_mm512_set1_ps(alpha), gi), _mm512_set1_ps(-0.0f));
        const __m512 sigmoid = _mm512_div_ps(one, _mm512_add_ps(one, exp16(z)));
        const __m512 yi = _mm512_mul_ps(_mm512_mul_ps(gi, sigmoid), _mm512_add_ps(ui, one));
        _mm512_mask_storeu_ps(y + i, m, yi);
    }
}

TARGET void td_add_avx512(float *y, const float *x, uint32_t n)
{
    for (uint32_t i = 0; i < n; i += 16) {
        const __mmask16 m = first_lanes(n - i);
        const __m512 xi = _mm512_maskz_loadu_ps(m, x + i);
        _mm512_mask_storeu_ps(y + i, m, _mm512_add_ps(_mm512_maskz_loadu_ps(m, y + i), xi));
    }
}

TARGET void td_madd_avx512(float *y, const float *x, float a, uint32_t n)
{
    for (uint32_t i = 0; i < n; i += 16) {
        const __mmask16 m = first_lanes(n - i);
        const __m512 xi = _mm512_maskz_loadu_ps(m, x + i);
        const __m512 yi = _mm512_maskz_loadu_ps(m, y + i);
        _mm512_mask_storeu_ps(y + i, m, _mm512_fmadd_ps(_mm512_set1_ps(a), xi, yi));
    }
}

TARGET void td_scale_avx512(float *restrict y, const float *x, float a, uint32_t n)
{
    for (uint32_t i = 0; i < n; i += 16) {
        const __mmask16 m = first_lanes(n - i);
        const __m512 xi = _mm512_maskz_loadu_ps(m, x + i);
        _mm512_mask_storeu_ps(y + i, m, _mm512_mul_ps(_mm512_set1_ps(a), xi));
    }
}

#endif
