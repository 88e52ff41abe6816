// SPDX-License-Identifier: MIT
// The generic kernels: plain C, written for the reader, and the specification of the others. See
// kernels.h for what each computes.
#ifndef TD_KERNELS_GENERIC_GENERIC_H
#define TD_KERNELS_GENERIC_GENERIC_H

#include "kernels/kernels.h"

td_mm_fn td_mm_f32_f32_generic;
td_mm_fn td_mm_f16_f32_generic;
td_mm_fn td_mm_bf16_f32_generic;
td_mm_fn td_mm_q8_0_f32_generic;
td_mm_fn td_mm_mxfp4_f32_generic;
td_mm_fn td_mm_mxfp4_q8_generic;
td_mm_fn td_mm_q8_0_q16_generic;
td_mm_fn td_mm_mxfp4_q16_generic;

void td_quantize_q16_generic(void *restrict y, const float *x, uint32_t n);
void td_quantize_q8_generic(void *restrict y, const float *x, uint32_t n);
void td_row_f32_generic(float *restrict y, enum td_type type, const void *w, uint32_t n);
void td_f16_of_f32_generic(uint16_t *restrict y, const float *x, uint32_t n);
void td_f32_of_f16_generic(float *restrict y, const uint16_t *x, uint32_t n);

void td_rmsnorm_generic(float *restrict y, const float *x, const float *w, uint32_t n, float eps);
void td_rope_generic(float *x, const float *cos, const float *sin, uint32_t n_heads,
                     uint32_t head_dim);
void td_swiglu_clamped_generic(float *restrict y, const float *g, const float *u, uint32_t n,
                               float alpha, float limit);
void td_add_generic(float *y, const float *x, uint32_t n);
void td_madd_generic(float *y, const float *x, float a, uint32_t n);
void td_scale_generic(float *restrict y, const float *x, float a, uint32_t n);

td_attend_fn td_attend_f16_generic;
td_attend_fn td_attend_f32_generic;

// The 16-accumulator dot product of kernels.h, and its fold.
float td_dot_f32_generic(const float *w, const float *x, uint32_t n);
static inline float td_fold16_generic(const float a[16])
{
    float s[8];
    for (int i = 0; i < 8; i++) s[i] = a[i] + a[i + 8];
    for (int i = 0; i < 4; i++) s[i] += s[i + 4];
    return (s[0] + s[2]) + (s[1] + s[3]);
}

#endif
