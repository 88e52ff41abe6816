// SPDX-License-Identifier: MIT
// Everything of a layer that is not a matrix product or attention, for AVX2.
#include "kernels/avx2/avx2.h"

#if defined(__x86_64__)
#include "kernels/avx2/vec_impl.h"

TARGET void td_rmsnorm_avx2(float *restrict y, const float *x, const float *w, uint32_t n,
                            float eps)
{
    struct acc16 acc = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    const uint32_t whole = n & ~15u;
    for (uint32_t i = 0; i < whole; i += 16) {
        const __m256 lo = _mm256_loadu_ps(x + i);
        const __m256 hi = _mm256_loadu_ps(x + i + 8);
        acc.lo = _mm256_fmadd_ps(lo, lo, acc.lo);
        acc.hi = _mm256_fmadd_ps(hi, hi, acc.hi);
    }
    const float sum = fold16(add_rest(acc, TD_F32, (const void *)x, x, whole, n));
    const __m256 inv = _mm256_set1_ps(1.0f / sqrtf(sum / (float)n + eps));
    for (uint32_t i = 0; i < n; i += 8) {
        const __m256 xi = _mm256_mul_ps(load_n(x + i, n - i), inv);
        store_n(y + i, _mm256_mul_ps(xi, load_n(w + i, n - i)), n - i);
    }
}

TARGET void td_rope_avx2(float *x, const float *cos, const float *sin, uint32_t n_heads,
                         uint32_t head_dim)
{
    const uint32_t half = head_dim / 2;
    for (uint32_t h = 0; h < n_heads; h++, x += head_dim) {
        for (uint32_t i = 0; i < half; i += 8) {
            const uint32_t n = half - i;
            const __m256 c = load_n(cos + i, n);
            const __m256 s = load_n(sin + i, n);
            const __m256 x0 = load_n(x + i, n);
            const __m256 x1 = load_n(x + i + half, n);
            store_n(x + i, _mm256_sub_ps(_mm256_mul_ps(x0, c), _mm256_mul_ps(x1, s)), n);
            store_n(x + i + half, _mm256_add_ps(_mm256_mul_ps(x1, c), _mm256_mul_ps(x0, s)), n);
        }
    }
}

TARGET void td_swiglu_clamped_avx2(float *restrict y, const float *g, const float *u, uint32_t n,
                                   float alpha, float limit)
{
    const __m256 one = _mm256_set1_ps(1.0f);
    const __m256 top = _mm256_set1_ps(limit);
    for (uint32_t i = 0; i < n; i += 8) {
        // MINPS and MAXPS give their second operand when one is NaN: a NaN goes through.
        const __m256 gi = _mm256_min_ps(top, load_n(g + i, n - i));
        const __m256 ui =
            _mm256_max_ps(_mm256_set1_ps(-limit), _mm256_min_ps(top, load_n(u + i, n - i)));
        const __m256 z =
            _mm256_xor_ps(_mm256_mul_ps(_mm256_set1_ps(alpha), gi), _mm256_set1_ps(-0.0f));
        const __m256 sigmoid = _mm256_div_ps(one, _mm256_add_ps(one, exp8(z)));
        store_n(y + i, _mm256_mul_ps(_mm256_mul_ps(gi, sigmoid), _mm256_add_ps(ui, one)), n - i);
    }
}

TARGET void td_add_avx2(float *y, const float *x, uint32_t n)
{
    for (uint32_t i = 0; i < n; i += 8) {
        store_n(y + i, _mm256_add_ps(load_n(y + i, n - i), load_n(x + i, n - i)), n - i);
    }
}

TARGET void td_madd_avx2(float *y, const float *x, float a, uint32_t n)
{
    for (uint32_t i = 0; i < n; i += 8) {
        const __m256 yi = load_n(y + i, n - i);
        store_n(y + i, _mm256_fmadd_ps(_mm256_set1_ps(a), load_n(x + i, n - i), yi), n - i);
    }
}

TARGET void td_scale_avx2(float *restrict y, const float *x, float a, uint32_t n)
{
    for (uint32_t i = 0; i < n; i += 8) {
        store_n(y + i, _mm256_mul_ps(_mm256_set1_ps(a), load_n(x + i, n - i)), n - i);
    }
}

#endif
