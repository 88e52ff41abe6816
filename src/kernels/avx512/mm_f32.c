// SPDX-License-Identifier: MIT
// Matrix products with f32 activations, for AVX-512: one vector is the 16 accumulators of one
// output. One row: eight outputs side by side, weights converted on the way. More: four weight rows
// become f32 in scratch once, and tiles of four outputs by four rows share the loads.
#include "kernels/avx512/avx512.h"

#if defined(__x86_64__)
#include "kernels/avx512/vec_impl.h"

// Outputs o .. o + n_o - 1 of one activation row; n_o is a constant.
INLINE void one_row(enum td_type type, int n_o, float *y, const uint8_t *w, size_t stride,
                    const float *x, uint32_t n_in)
{
    __m512 acc[8];
    TD_UNROLL
    for (int o = 0; o < n_o; o++) acc[o] = _mm512_setzero_ps();
    const uint32_t whole = n_in & ~15u;
    for (uint32_t i = 0; i < whole; i += 16) {
        const __m512 xi = _mm512_loadu_ps(x + i);
        TD_UNROLL
        for (int o = 0; o < n_o; o++) {
            acc[o] = _mm512_fmadd_ps(weights16(type, w + (size_t)o * stride, i), xi, acc[o]);
        }
    }
    if (whole < n_in) {
        // Masked, not padded with zeros: the other lanes keep their bits, a minus zero included.
        const __mmask16 m = first_lanes(n_in - whole);
        const __m512 xi = _mm512_maskz_loadu_ps(m, x + whole);
        TD_UNROLL
        for (int o = 0; o < n_o; o++) {
            const __m512 wi = weights_rest(type, w + (size_t)o * stride, whole, n_in - whole);
            acc[o] = _mm512_mask3_fmadd_ps(wi, xi, acc[o], m);
        }
    }
    TD_UNROLL
    for (int o = 0; o < n_o; o++) y[o] = fold16(acc[o]);
}

INLINE void matvec(enum td_type type, float *y, const uint8_t *w, size_t stride, const float *x,
                   uint32_t n_in, uint32_t n_out)
{
    uint32_t o = 0;
    for (; o + 8 <= n_out; o += 8) one_row(type, 8, y + o, w + o * stride, stride, x, n_in);
    for (; o < n_out; o++) one_row(type, 1, y + o, w + o * stride, stride, x, n_in);
}

// Four f32 weight rows by n_r activation rows, n_r a constant; y[r]: where output 0 goes.
INLINE void tile_n(int n_r, float *const y[4], const float *const w[4], const float *const x[4],
                   uint32_t n_in)
{
    __m512 acc[4][4]; // output, row
    TD_UNROLL
    for (int o = 0; o < 4; o++) {
        TD_UNROLL
        for (int r = 0; r < 4; r++) acc[o][r] = _mm512_setzero_ps();
    }
    const uint32_t whole = n_in & ~15u;
    for (uint32_t i = 0; i < whole; i += 16) {
        __m512 xi[4];
        TD_UNROLL
        for (int r = 0; r < n_r; r++) xi[r] = _mm512_loadu_ps(x[r] + i);
        TD_UNROLL
        for (int o = 0; o < 4; o++) {
            const __m512 wi = _mm512_loadu_ps(w[o] + i);
            TD_UNROLL
            for (int r = 0; r < n_r; r++) acc[o][r] = _mm512_fmadd_ps(wi, xi[r], acc[o][r]);
        }
    }
    if (whole < n_in) {
        const __mmask16 m = first_lanes(n_in - whole);
        TD_UNROLL
        for (int o = 0; o < 4; o++) {
            const __m512 wi = _mm512_maskz_loadu_ps(m, w[o] + whole);
            TD_UNROLL
            for (int r = 0; r < n_r; r++) {
                const __m512 xi = _mm512_maskz_loadu_ps(m, x[r] + whole);
                acc[o][r] = _mm512_mask3_fmadd_ps(wi, xi, acc[o][r], m);
            }
        }
    }
    float out[16];
    _mm512_storeu_ps(out, fold16x16((const __m512(*)[4])acc));
    TD_UNROLL
    for (int r = 0; r < n_r; r++) memcpy(y[r], out + 4 * r, 4 * sizeof(float));
}

TARGET static void tile_any(uint32_t n_r, float *const y[4], const float *const w[4],
                            const float *const x[4], uint32_t n_in)
{
    switch (n_r) {
    case 1: tile_n(1, y, w, x, n_in); return;
    case 2: tile_n(2, y, w, x, n_in); return;
    case 3: tile_n(3, y, w, x, n_in); return;
    default: tile_n(4, y, w, x, n_in); return;
    }
}

INLINE void mm(enum td_type type, float *const *y, const uint8_t *w, const void *const *x,
               uint32_t n_in, uint32_t n_out, uint32_t n_rows, float *panel)
{
    const size_t stride = (size_t)td_type_size_bytes(type, n_in);
    const uint32_t pad = (n_in + 15) & ~15u; // floats of a panel row
    const bool fits = (size_t)pad * 4 * sizeof(float) <= TD_MM_SCRATCH_BYTES;
    uint32_t o = 0;
    for (; n_rows > 1 && fits && o + 4 <= n_out; o += 4) {
        const float *wf[4];
        TD_UNROLL
        for (uint32_t j = 0; j < 4; j++) {
            td_row_f32_avx512(panel + j * pad, type, w + (o + j) * stride, n_in);
            wf[j] = panel + j * pad;
        }
        for (uint32_t r = 0; r < n_rows; r += 4) {
            const uint32_t n_r = td_min_u32(4, n_rows - r);
            float *yo[4];
            const float *xr[4];
            TD_UNROLL
            for (uint32_t j = 0; j < 4; j++) {
                yo[j] = y[r + td_min_u32(j, n_r - 1)] + o;
                xr[j] = x[r + td_min_u32(j, n_r - 1)];
            }
            tile_any(n_r, yo, wf, xr, n_in);
        }
    }
    for (uint32_t r = 0; r < n_rows && o < n_out; r++) {
        matvec(type, y[r] + o, w + o * stride, stride, x[r], n_in, n_out - o);
    }
}

TARGET void td_mm_f32_f32_avx512(float *const *y, const void *w, const void *const *x,
                                 uint32_t n_in, uint32_t n_out, uint32_t n_rows, void *scratch)
{
    mm(TD_F32, y, w, x, n_in, n_out, n_rows, scratch);
}

TARGET void td_mm_f16_f32_avx512(float *const *y, const void *w, const void *const *x,
                                 uint32_t n_in, uint32_t n_out, uint32_t n_rows, void *scratch)
{
    mm(TD_F16, y, w, x, n_in, n_out, n_rows, scratch);
}

TARGET void td_mm_bf16_f32_avx512(float *const *y, const void *w, const void *const *x,
                                  uint32_t n_in, uint32_t n_out, uint32_t n_rows, void *scratch)
{
    mm(TD_BF16, y, w, x, n_in, n_out, n_rows, scratch);
}

TARGET void td_mm_q8_0_f32_avx512(float *const *y, const void *w, const void *const *x,
                                  uint32_t n_in, uint32_t n_out, uint32_t n_rows, void *scratch)
{
    mm(TD_Q8_0, y, w, x, n_in, n_out, n_rows, scratch);
}

TARGET void td_mm_mxfp4_f32_avx512(float *const *y, const void *w, const void *const *x,
                                   uint32_t n_in, uint32_t n_out, uint32_t n_rows, void *scratch)
{
    mm(TD_MXFP4, y, w, x, n_in, n_out, n_rows, scratch);
}

#endif
