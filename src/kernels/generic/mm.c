// SPDX-License-Identifier: MIT
// Matrix products: one output at a time.
#include "kernels/generic/generic.h"
#include "kernels/kernels_impl.h"

#include <assert.h>
#include <math.h>

float td_dot_f32_generic(const float *w, const float *x, uint32_t n)
{
    float acc[16] = {0};
    for (uint32_t i = 0; i < n; i++) acc[i % 16] = fmaf(w[i], x[i], acc[i % 16]);
    return td_fold16_generic(acc);
}

// As td_dot_f32_generic, for weights of any type at any address: 32 of them at a time become f32.
static float dot_f32(enum td_type type, const uint8_t *w, const float *x, uint32_t n)
{
    const size_t bytes = (size_t)td_type_size_bytes(type, TD_QK);
    float acc[16] = {0};
    for (uint32_t i0 = 0; i0 < n; i0 += TD_QK, w += bytes) {
        const uint32_t left = td_min_u32(n - i0, TD_QK);
        float f[TD_QK];
        td_row_f32_generic(f, type, w, left);
        for (uint32_t i = 0; i < left; i++) acc[i % 16] = fmaf(f[i], x[i0 + i], acc[i % 16]);
    }
    return td_fold16_generic(acc);
}

static void mm_f32(enum td_type type, float *const *y, const void *w, const void *const *x,
                   uint32_t n_in, uint32_t n_out, uint32_t n_rows)
{
    const uint8_t *wo = w;
    for (uint32_t o = 0; o < n_out; o++, wo += td_type_size_bytes(type, n_in)) {
        for (uint32_t r = 0; r < n_rows; r++) y[r][o] = dot_f32(type, wo, x[r], n_in);
    }
}

void td_mm_f32_f32_generic(float *const *y, const void *w, const void *const *x, uint32_t n_in,
                           uint32_t n_out, uint32_t n_rows, void *scratch)
{
    (void)scratch;
    mm_f32(TD_F32, y, w, x, n_in, n_out, n_rows);
}

void td_mm_f16_f32_generic(float *const *y, const void *w, const void *const *x, uint32_t n_in,
                           uint32_t n_out, uint32_t n_rows, void *scratch)
{
    (void)scratch;
    mm_f32(TD_F16, y, w, x, n_in, n_out, n_rows);
}

void td_mm_bf16_f32_generic(float *const *y, const void *w, const void *const *x, uint32_t n_in,
                            uint32_t n_out, uint32_t n_rows, void *scratch)
{
    (void)scratch;
    mm_f32(TD_BF16, y, w, x, n_in, n_out, n_rows);
}

void td_mm_q8_0_f32_generic(float *const *y, const void *w, const void *const *x, uint32_t n_in,
                            uint32_t n_out, uint32_t n_rows, void *scratch)
{
    (void)scratch;
    mm_f32(TD_Q8_0, y, w, x, n_in, n_out, n_rows);
}

void td_mm_mxfp4_f32_generic(float *const *y, const void *w, const void *const *x, uint32_t n_in,
                             uint32_t n_out, uint32_t n_rows, void *scratch)
{
    (void)scratch;
    mm_f32(TD_MXFP4, y, w, x, n_in, n_out, n_rows);
}

static float dot_mxfp4_q8(const uint8_t *w, const void *x, uint32_t n)
{
    const int8_t *q = x;
    const float *d = td_q8_d(x, n);
    float acc = 0.0f;
    for (uint32_t b = 0; b < n / TD_QK; b++, w += TD_MXFP4_BYTES, q += TD_QK) {
        int32_t isum = 0;
        for (int i = 0; i < TD_QK / 2; i++) {
            isum += td_e2m1_doubled[w[1 + i] & 15] * q[i];
            isum += td_e2m1_doubled[w[1 + i] >> 4] * q[i + TD_QK / 2];
        }
        acc = fmaf(td_f32_of_bits(td_e8m0_half[w[0]]) * d[b], (float)isum, acc);
    }
    return acc;
}

void td_mm_mxfp4_q8_generic(float *const *y, const void *w, const void *const *x, uint32_t n_in,
                            uint32_t n_out, uint32_t n_rows, void *scratch)
{
    (void)scratch;
    assert(n_in % TD_QK == 0);
    const uint8_t *wo = w;
    for (uint32_t o = 0; o < n_out; o++, wo += n_in / TD_QK * TD_MXFP4_BYTES) {
        for (uint32_t r = 0; r < n_rows; r++) y[r][o] = dot_mxfp4_q8(wo, x[r], n_in);
    }
}
