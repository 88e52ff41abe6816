// SPDX-License-Identifier: MIT
// Everything of a layer that is not a matrix product or attention.
#include "kernels/generic/expf.h"
#include "kernels/generic/generic.h"

float td_expf(float x)
{
    return expf_generic(x);
}

void td_rmsnorm_generic(float *restrict y, const float *x, const float *w, uint32_t n, float eps)
{
    const float inv = 1.0f / sqrtf(td_dot_f32_generic(x, x, n) / (float)n + eps);
    for (uint32_t i = 0; i < n; i++) y[i] = x[i] * inv * w[i];
}

void td_rope_generic(float *x, const float *cos, const float *sin, uint32_t n_heads,
                     uint32_t head_dim)
{
    const uint32_t half = head_dim / 2;
    for (uint32_t h = 0; h < n_heads; h++, x += head_dim) {
        for (uint32_t i = 0; i < half; i++) {
            const float x0 = x[i];
            const float x1 = x[i + half];
            x[i] = x0 * cos[i] - x1 * sin[i];
            x[i + half] = x1 * cos[i] + x0 * sin[i];
        }
    }
}

void td_swiglu_clamped_generic(float *restrict y, const float *g, const float *u, uint32_t n,
                               float alpha, float limit)
{
    for (uint32_t i = 0; i < n; i++) {
        // Comparisons this way round let NaN through, as MINPS (limit, x) and FMIN do.
        const float gi = limit < g[i] ? limit : g[i];
        float ui = limit < u[i] ? limit : u[i];
        ui = -limit > ui ? -limit : ui;
        const float sigmoid = 1.0f / (1.0f + expf_generic(-(alpha * gi)));
        y[i] = gi * sigmoid * (ui + 1.0f);
    }
}

void td_add_generic(float *y, const float *x, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) y[i] += x[i];
}

void td_madd_generic(float *y, const float *x, float a, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) y[i] = fmaf(a, x[i], y[i]);
}

void td_scale_generic(float *restrict y, const float *x, float a, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) y[i] = a * x[i];
}
