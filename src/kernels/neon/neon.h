// SPDX-License-Identifier: MIT
// Kernels for 64-bit Arm with the dot product extension (Armv8.2: Cortex-A76, Neoverse N1, Apple
// M1) and, where it helps, 8-bit matrix multiplication (i8mm: Neoverse V1, Apple M2). Compiled by
// target attributes, so the build needs no flags.
#ifndef TD_KERNELS_NEON_NEON_H
#define TD_KERNELS_NEON_NEON_H

#include "kernels/kernels.h"

td_mm_fn td_mm_f32_f32_neon;
td_mm_fn td_mm_f16_f32_neon;
td_mm_fn td_mm_bf16_f32_neon;
td_mm_fn td_mm_q8_0_f32_neon;
td_mm_fn td_mm_mxfp4_f32_neon;
td_mm_fn td_mm_mxfp4_q8_neon;
td_mm_fn td_mm_q8_0_q16_neon;
td_mm_fn td_mm_mxfp4_q16_neon;
td_mm_fn td_mm_mxfp4_q8_i8mm;
td_mm_fn td_mm_q8_0_q16_i8mm;
td_mm_fn td_mm_mxfp4_q16_i8mm;

void td_quantize_q8_neon(void *restrict y, const float *x, uint32_t n);
void td_quantize_q16_neon(void *restrict y, const float *x, uint32_t n);
void td_row_f32_neon(float *restrict y, enum td_type type, const void *w, uint32_t n);
void td_f16_of_f32_neon(uint16_t *restrict y, const float *x, uint32_t n);
void td_f32_of_f16_neon(float *restrict y, const uint16_t *x, uint32_t n);

void td_rmsnorm_neon(float *restrict y, const float *x, const float *w, uint32_t n, float eps);
void td_rope_neon(float *x, const float *cos, const float *sin, uint32_t n_heads,
                  uint32_t head_dim);
void td_swiglu_clamped_neon(float *restrict y, const float *g, const float *u, uint32_t n,
                            float alpha, float limit);
void td_add_neon(float *y, const float *x, uint32_t n);
void td_madd_neon(float *y, const float *x, float a, uint32_t n);
void td_scale_neon(float *restrict y, const float *x, float a, uint32_t n);

td_attend_fn td_attend_f16_neon;
td_attend_fn td_attend_f32_neon;

#endif
