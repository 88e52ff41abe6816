// SPDX-License-Identifier: MIT
// Matrix products with f32 activations, for NEON: four vectors are the 16 accumulators of one
// output. One row: four outputs side by side, weights converted on the way. More: two weight rows
// become f32 in scratch once, and tiles of two outputs by two rows share the loads.
#include "kernels/neon/neon.h"

#if defined(__aarch64__)
#include "kernels/neon/vec_impl.h"

enum { OUTS = 2, ROWS = 2 }; // 16 accumulators, eight of x and four of w: 28 of 32 registers

// Outputs o .. o + n_o - 1 of one activation row; n_o is a constant.
INLINE void one_row(enum td_type type, int n_o, float *y, const uint8_t *w, size_t stride,
                    const float *x, uint32_t n_in)
{
    struct f32x16 acc[4];
    TD_UNROLL
    for (int o = 0; o < n_o; o++) acc[o] = zero16();
    const uint32_t whole = n_in & ~15u;
    for (uint32_t i = 0; i < whole; i += 16) {
        const struct f32x16 xi = load16(x + i);
        TD_UNROLL
        for (int o = 0; o < n_o; o++) {
            acc[o] = fma16(acc[o], weights16(type, w + (size_t)o * stride, i), xi);
        }
    }
    TD_UNROLL
    for (int o = 0; o < n_o; o++) {
        y[o] = fold16(add_rest(acc[o], type, w + (size_t)o * stride, x, whole, n_in));
    }
}

INLINE void matvec(enum td_type type, float *y, const uint8_t *w, size_t stride, const float *x,
                   uint32_t n_in, uint32_t n_out)
{
    uint32_t o = 0;
    for (; o + 4 <= n_out; o += 4) one_row(type, 4, y + o, w + o * stride, stride, x, n_in);
    for (; o < n_out; o++) one_row(type, 1, y + o, w + o * stride, stride, x, n_in);
}

// Two f32 weight rows by n_r activation rows, n_r a constant; y[r]: where output 0 goes.
INLINE void tile_n(int n_r, float *const y[ROWS], const float *const w[OUTS],
                   const float *const x[ROWS], uint32_t n_in)
{
    struct f32x16 acc[OUTS][ROWS];
    TD_UNROLL
    for (int o = 0; o < OUTS; o++) {
        TD_UNROLL
        for (int r = 0; r < n_r; r++) acc[o][r] = zero16();
    }
    const uint32_t whole = n_in & ~15u;
    for (uint32_t i = 0; i < whole; i += 16) {
        struct f32x16 xi[ROWS];
        TD_UNROLL
        for (int r = 0; r < n_r; r++) xi[r] = load16(x[r] + i);
        TD_UNROLL
        for (int o = 0; o < OUTS; o++) {
            const struct f32x16 wi = load16(w[o] + i);
            TD_UNROLL
            for (int r = 0; r < n_r; r++) acc[o][r] = fma16(acc[o][r], wi, xi[r]);
        }
    }
    TD_UNROLL
    for (int o = 0; o < OUTS; o++) {
        const uint8_t *wo = (const void *)w[o];
        TD_UNROLL
        for (int r = 0; r < n_r; r++) {
            y[r][o] = fold16(add_rest(acc[o][r], TD_F32, wo, x[r], whole, n_in));
        }
    }
}

TARGET static void tile_any(uint32_t n_r, float *const y[ROWS], const float *const w[OUTS],
                            const float *const x[ROWS], uint32_t n_in)
{
    switch (n_r) {
    case 1: tile_n(1, y, w, x, n_in); return;
    default: tile_n(2, y, w, x, n_in); return;
    }
}

INLINE void mm(enum td_type type, float *const *y, const uint8_t *w, const void *const *x,
               uint32_t n_in, uint32_t n_out, uint32_t n_rows, float *panel)
{
    const size_t stride = (size_t)td_type_size_bytes(type, n_in);
    const bool fits = (size_t)n_in * OUTS * sizeof(float) <= TD_MM_SCRATCH_BYTES;
    uint32_t o = 0;
    for (; n_rows > 1 && fits && o + OUTS <= n_out; o += OUTS) {
        const float *wf[OUTS];
        for (uint32_t j = 0; j < OUTS; j++) {
            wf[j] = panel + (size_t)j * n_in;
            td_row_f32_neon(panel + (size_t)j * n_in, type, w + (o + j) * stride, n_in);
        }
        for (uint32_t r = 0; r < n_rows; r += ROWS) {
            const uint32_t n_r = td_min_u32(ROWS, n_rows - r);
            float *yo[ROWS] = {NULL};
            const float *xr[ROWS] = {NULL};
            for (uint32_t j = 0; j < n_r; j++) {
                yo[j] = y[r + j] + o;
                xr[j] = x[r + j];
            }
            tile_any(n_r, yo, wf, xr, n_in);
        }
    }
    for (uint32_t r = 0; r < n_rows && o < n_out; r++) {
        matvec(type, y[r] + o, w + o * stride, stride, x[r], n_in, n_out - o);
    }
}

TARGET void td_mm_f32_f32_neon(float *const *y, const void *w, const void *const *x, uint32_t n_in,
                               uint32_t n_out, uint32_t n_rows, void *scratch)
{
    mm(TD_F32, y, w, x, n_in, n_out, n_rows, scratch);
}

TARGET void td_mm_f16_f32_neon(float *const *y, const void *w, const void *const *x, uint32_t n_in,
                               uint32_t n_out, uint32_t n_rows, void *scratch)
{
    mm(TD_F16, y, w, x, n_in, n_out, n_rows, scratch);
}

TARGET void td_mm_bf16_f32_neon(float *const *y, const void *w, const void *const *x, uint32_t n_in,
                                uint32_t n_out, uint32_t n_rows, void *scratch)
{
    mm(TD_BF16, y, w, x, n_in, n_out, n_rows, scratch);
}

TARGET void td_mm_q8_0_f32_neon(float *const *y, const void *w, const void *const *x, uint32_t n_in,
                                uint32_t n_out, uint32_t n_rows, void *scratch)
{
    mm(TD_Q8_0, y, w, x, n_in, n_out, n_rows, scratch);
}

TARGET void td_mm_mxfp4_f32_neon(float *const *y, const void *w, const void *const *x,
                                 uint32_t n_in, uint32_t n_out, uint32_t n_rows, void *scratch)
{
    mm(TD_MXFP4, y, w, x, n_in, n_out, n_rows, scratch);
}

#endif
