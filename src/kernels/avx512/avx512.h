// SPDX-License-Identifier: MIT
// Kernels for x86 with AVX-512 F, BW, DQ, VL and VNNI: Ice Lake, Sapphire Rapids, Zen 4 and later.
// Compiled by target attributes, so the build needs no flags and the rest of tandem stays baseline.
#ifndef TD_KERNELS_AVX512_AVX512_H
#define TD_KERNELS_AVX512_AVX512_H

#include "kernels/kernels.h"

td_mm_fn td_mm_f32_f32_avx512;
td_mm_fn td_mm_f16_f32_avx512;
td_mm_fn td_mm_bf16_f32_avx512;
td_mm_fn td_mm_q8_0_f32_avx512;
td_mm_fn td_mm_mxfp4_f32_avx512;
td_mm_fn td_mm_mxfp4_q8_avx512;
td_mm_fn td_mm_mxfp4_q8_vbmi; // for CPUs that also have AVX512-VBMI
td_mm_fn td_mm_q8_0_q16_avx512;
td_mm_fn td_mm_mxfp4_q16_avx512;

void td_quantize_q8_avx512(void *restrict y, const float *x, uint32_t n);
void td_quantize_q16_avx512(void *restrict y, const float *x, uint32_t n);
void td_row_f32_avx512(float *restrict y, enum td_type type, const void *w, uint32_t n);
void td_f16_of_f32_avx512(uint16_t *restrict y, const float *x, uint32_t n);
void td_f32_of_f16_avx512(float *restrict y, const uint16_t *x, uint32_t n);

void td_rmsnorm_avx512(float *restrict y, const float *x, const float *w, uint32_t n, float eps);
void td_rope_avx512(float *x, const float *cos, const float *sin, uint32_t n_heads,
                    uint32_t head_dim);
void td_swiglu_clamped_avx512(float *restrict y, const float *g, const float *u, uint32_t n,
                              float alpha, float limit);
void td_add_avx512(float *y, const float *x, uint32_t n);
void td_madd_avx512(float *y, const float *x, float a, uint32_t n);
void td_scale_avx512(float *restrict y, const float *x, float a, uint32_t n);

td_attend_fn td_attend_f16_avx512;
td_attend_fn td_attend_f32_avx512;

#endif
