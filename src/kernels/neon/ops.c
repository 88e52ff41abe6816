// SPDX-License-Identifier: MIT
// Everything of a layer that is not a matrix product or attention, for NEON.
#include "kernels/neon/neon.h"

#if defined(__aarch64__)
#include "kernels/neon/vec_impl.h"

TARGET void td_rmsnorm_neon(float *restrict y, const float *x, const float *w, uint32_t n,
                            float eps)
{
    struct f32x16 acc = zero16();
    const uint32_t whole = n & ~15u;
    for (uint32_t i = 0; i < whole; i += 16) acc = fma16(acc, load16(x + i), load16(x + i));
    const float sum = fold16(add_rest(acc, TD_F32, (const void *)x, x, whole, n));
    const float32x4_t inv = vdupq_n_f32(1.0f / sqrtf(sum / (float)n + eps));
    for (uint32_t i = 0; i < n; i += 4) {
        const float32x4_t xi = vmulq_f32(load_n(x + i, n - i), inv);
        store_n(y + i, vmulq_f32(xi, load_n(w + i, n - i)), n - i);
    }
}

TARGET void td_rope_neon(float *x, const float *cos, const float *sin, uint32_t n_heads,
                         uint32_t head_dim)
{
    const uint32_t half = head_dim / 2;
    for (uint32_t h = 0; h < n_heads; h++, x += head_dim) {
        for (uint32_t i = 0; i < half; i += 4) {
            const uint32_t n = half - i;
            const float32x4_t c = load_n(cos + i, n);
            const float32x4_t s = load_n(sin + i, n);
            const float32x4_t x0 = load_n(x + i, n);
            const float32x4_t x1 = load_n(x + i + half, n);
            store_n(x + i, vsubq_f32(vmulq_f32(x0, c), vmulq_f32(x1, s)), n);
            store_n(x + i + half, vaddq_f32(vmulq_f32(x1, c), vmulq_f32(x0, s)), n);
        }
    }
}

TARGET void td_swiglu_clamped_neon(float *restrict y, const float *g, const float *u, uint32_t n,
                                   float alpha, float limit)
{
    const float32x4_t one = vdupq_n_f32(1.0f);
    const float32x4_t top = vdupq_n_f32(limit);
    for (uint32_t i = 0; i < n; i += 4) {
        // FMIN and FMAX let a NaN through.
        const float32x4_t gi = vminq_f32(top, load_n(g + i, n - i));
        const float32x4_t ui = vmaxq_f32(vdupq_n_f32(-limit), vminq_f32(top, load_n(u + i, n - i)));
        const float32x4_t z = vnegq_f32(vmulq_f32(vdupq_n_f32(alpha), gi));
        const float32x4_t sigmoid = vdivq_f32(one, vaddq_f32(one, exp4(z)));
        store_n(y + i, vmulq_f32(vmulq_f32(gi, sigmoid), vaddq_f32(ui, one)), n - i);
    }
}

TARGET void td_add_neon(float *y, const float *x, uint32_t n)
{
    for (uint32_t i = 0; i < n; i += 4) {
        store_n(y + i, vaddq_f32(load_n(y + i, n - i), load_n(x + i, n - i)), n - i);
    }
}

TARGET void td_madd_neon(float *y, const float *x, float a, uint32_t n)
{
    for (uint32_t i = 0; i < n; i += 4) {
        const float32x4_t yi = load_n(y + i, n - i);
        store_n(y + i, vfmaq_n_f32(yi, load_n(x + i, n - i), a), n - i);
    }
}

TARGET void td_scale_neon(float *restrict y, const float *x, float a, uint32_t n)
{
    for (uint32_t i = 0; i < n; i += 4) {
        store_n(y + i, vmulq_f32(vdupq_n_f32(a), load_n(x + i, n - i)), n - i);
    }
}

#endif
