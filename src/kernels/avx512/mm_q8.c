// SPDX-License-Identifier: MIT
// MXFP4 weights by 8-bit activations, for AVX-512 VNNI.
//
// VPDPBUSD adds four products of unsigned by signed bytes to each 32-bit lane. Doubled E2M1 values
// are made unsigned by adding 12, and 12 times the sum of the block's activations, which their row
// carries, is taken back: that is where a sum starts.
//
// Sixteen outputs are computed together, one per lane, so that the one float operation per block
// and output, whose order is fixed, costs a sixteenth. Two ways to their integer sums:
//   few rows:  weights stay as they are in the file; four rows of 16 bytes make a vector, whose
//              four lanes of four partial sums go through a transposing add tree;
//   many rows: the 16 weight rows are unpacked once into a panel where lane o holds four
//              consecutive elements of output o, so that a broadcast of four activation bytes does
//              the rest.
// Same integers, same floats, same order: same bits.
#include "kernels/avx512/avx512.h"

#if defined(__x86_64__)
#include "kernels/avx512/mm_impl.h"

#include <assert.h>

// Blocks of 16 outputs in the panel: codes, then scales.
#define PANEL_BLOCK_BYTES (TD_QK * LANES + 4 * LANES)
#define PANEL_BLOCKS      352u
#define TILE_ROWS         16  // activation rows that share a pass over the panel
#define COPY_BLOCKS       64u // see copy_rows
#define MIN_PANEL_ROWS    3   // from here on unpacking pays
#define OFFSET            12  // of the codes, see above

struct scratch {
    uint8_t panel[PANEL_BLOCKS * PANEL_BLOCK_BYTES];
    int32_t offset[TILE_ROWS][PANEL_BLOCKS]; // where the sums start
    uint8_t copy[LANES * COPY_BLOCKS * TD_MXFP4_BYTES];
};
_Static_assert(sizeof(struct scratch) <= TD_MM_SCRATCH_BYTES, "fits");

// One block of four rows (p: of the first of them) as unsigned codes: elements 0-15 and 16-31.
INLINE void codes4(const uint8_t *p, size_t stride, __m512i *lo, __m512i *hi)
{
    const __m512i plus12 = _mm512_broadcast_i32x4(
        _mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0));
    const __m512i nibble = _mm512_set1_epi8(15);
    const __m512i v = load4(p + 1, stride);
    *lo = _mm512_shuffle_epi8(plus12, _mm512_and_si512(v, nibble));
    *hi = _mm512_shuffle_epi8(plus12, _mm512_and_si512(_mm512_srli_epi16(v, 4), nibble));
}

// Scales of one block of the 16 rows. Bytes travel through memory: the load and store ports idle
// here while the vector ports are what limits.
INLINE void scales16(float *out, const uint8_t *p, size_t stride)
{
    for (int o = 0; o < LANES; o++) {
        memcpy(out + o, &td_e8m0_half[p[(size_t)o * stride]], sizeof(float));
    }
}

// Products of the rows with one activation row, from acc on.
INLINE __m512 few_rows(const struct rows16 *w, const void *x, uint32_t n_in, __m512 acc)
{
    enum { BATCH = 16 }; // blocks whose scales are fetched ahead, so that their stores have landed
    const int8_t *q = (const int8_t *)x + (size_t)w->first * TD_QK;
    const float *d = td_q8_d(x, n_in) + w->first;
    const int32_t *s = td_q8_s(x, n_in) + w->first;
    float scale[BATCH * LANES];
    for (uint32_t b0 = 0; b0 < w->n_blocks; b0 += BATCH) {
        const uint32_t b1 = td_min_u32(b0 + BATCH, w->n_blocks);
        const uint8_t *p = w->p + b0 * TD_MXFP4_BYTES;
        for (uint32_t b = b0; b < b1; b++, p += TD_MXFP4_BYTES) {
            scales16(scale + (b - b0) * LANES, p, w->stride);
        }
        p = w->p + b0 * TD_MXFP4_BYTES;
        for (uint32_t b = b0; b < b1; b++, p += TD_MXFP4_BYTES) {
            const __m512i x_lo = _mm512_broadcast_i32x4(load128(q + b * TD_QK));
            const __m512i x_hi = _mm512_broadcast_i32x4(load128(q + b * TD_QK + 16));
            // A quarter in each of the four lanes that become one.
            const __m512i start = _mm512_set1_epi32(-(OFFSET / 4) * s[b]);
            __m512i v[4];
            TD_UNROLL
            for (int i = 0; i < 4; i++) {
                __m512i lo, hi;
                codes4(p + (size_t)i * w->stride, 4 * w->stride, &lo, &hi);
                v[i] = _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(start, lo, x_lo), hi, x_hi);
            }
            const __m512 dw = _mm512_loadu_ps(scale + (b - b0) * LANES);
            acc = _mm512_fmadd_ps(_mm512_mul_ps(dw, _mm512_set1_ps(d[b])),
                                  _mm512_cvtepi32_ps(sums16(v)), acc);
        }
    }
    return acc;
}

INLINE void unpack(uint8_t *panel, const struct rows16 *w)
{
    const uint8_t *p = w->p;
    for (uint32_t b = 0; b < w->n_blocks; b++, p += TD_MXFP4_BYTES, panel += PANEL_BLOCK_BYTES) {
        __m512i lo[4], hi[4];
        TD_UNROLL
        for (int i = 0; i < 4; i++) {
            codes4(p + (size_t)i * w->stride, 4 * w->stride, &lo[i], &hi[i]);
        }
        __m512i dwords[8];
        transpose4(dwords, lo);
        transpose4(dwords + 4, hi);
        TD_UNROLL
        for (int k = 0; k < 8; k++) _mm512_storeu_si512(panel + 64 * k, dwords[k]);
        float scale[LANES];
        scales16(scale, p, w->stride);
        memcpy(panel + 512, scale, sizeof(scale));
    }
}

// What a tile needs besides its rows.
struct tile {
    const struct scratch *s;
    const struct rows16 *w;
    uint32_t n_in;
    __mmask16 mask; // outputs that exist
};

// Panel times n activation rows, n a constant.
INLINE void tile_n(int n, const struct tile *t, float *const *y, const void *const *x)
{
    __m512 acc[TILE_ROWS];
    TD_UNROLL
    for (int r = 0; r < n; r++) {
        acc[r] = t->w->first ? _mm512_maskz_loadu_ps(t->mask, y[r]) : _mm512_setzero_ps();
    }
    const uint8_t *p = t->s->panel;
    size_t i_q = (size_t)t->w->first * TD_QK;
    size_t i_d = t->n_in + (size_t)t->w->first * 4;
    for (uint32_t b = 0; b < t->w->n_blocks; b++, p += PANEL_BLOCK_BYTES, i_q += TD_QK, i_d += 4) {
        __m512i w[8];
        TD_UNROLL
        for (int k = 0; k < 8; k++) w[k] = _mm512_loadu_si512(p + 64 * k);
        const __m512 dw = _mm512_loadu_ps((const void *)(p + 512));
        TD_UNROLL
        for (int r = 0; r < n; r++) {
            const uint8_t *row = x[r];
            __m512i sum = _mm512_set1_epi32(t->s->offset[r][b]);
            TD_UNROLL
            for (int k = 0; k < 8; k++) {
                int32_t four;
                memcpy(&four, row + i_q + 4 * k, sizeof(four));
                sum = _mm512_dpbusd_epi32(sum, w[k], _mm512_set1_epi32(four));
            }
            const __m512 d = _mm512_mul_ps(dw, _mm512_set1_ps(td_load_f32(row + i_d)));
            acc[r] = _mm512_fmadd_ps(d, _mm512_cvtepi32_ps(sum), acc[r]);
        }
    }
    TD_UNROLL
    for (int r = 0; r < n; r++) _mm512_mask_storeu_ps(y[r], t->mask, acc[r]);
}

TARGET static void tile_any(uint32_t n, const struct tile *t, float *const *y, const void *const *x)
{
    switch (n) {
    case 1: tile_n(1, t, y, x); return;
    case 2: tile_n(2, t, y, x); return;
    case 3: tile_n(3, t, y, x); return;
    case 4: tile_n(4, t, y, x); return;
    case 5: tile_n(5, t, y, x); return;
    case 6: tile_n(6, t, y, x); return;
    case 7: tile_n(7, t, y, x); return;
    case 8: tile_n(8, t, y, x); return;
    case 9: tile_n(9, t, y, x); return;
    case 10: tile_n(10, t, y, x); return;
    case 11: tile_n(11, t, y, x); return;
    case 12: tile_n(12, t, y, x); return;
    case 13: tile_n(13, t, y, x); return;
    case 14: tile_n(14, t, y, x); return;
    case 15: tile_n(15, t, y, x); return;
    default: tile_n(16, t, y, x); return;
    }
}

// Panel times all rows; y[r] + o is where outputs go.
INLINE void many_rows(struct scratch *s, const struct tile *t, float *const *y,
                      const void *const *x, uint32_t n_rows, uint32_t o)
{
    unpack(s->panel, t->w);
    // Tiles of nearly one size: 17 rows are 9 and 8, not 16 and 1.
    const uint32_t n_tiles = (n_rows + TILE_ROWS - 1) / TILE_ROWS;
    uint32_t r = 0;
    for (uint32_t i = 0; i < n_tiles; i++) {
        const uint32_t n = (n_rows - r + n_tiles - i - 1) / (n_tiles - i);
        float *yo[TILE_ROWS];
        for (uint32_t j = 0; j < n; j++) {
            yo[j] = y[r + j] + o;
            const int32_t *sum = td_q8_s(x[r + j], t->n_in) + t->w->first;
            int32_t *offset = s->offset[j];
            for (uint32_t b = 0; b < t->w->n_blocks; b++) offset[b] = -OFFSET * sum[b];
        }
        tile_any(n, t, yo, x + r);
        r += n;
    }
}

TARGET void td_mm_mxfp4_q8_avx512(float *const *y, const void *w, const void *const *x,
                                  uint32_t n_in, uint32_t n_out, uint32_t n_rows, void *scratch)
{
    assert(n_in % TD_QK == 0);
    struct scratch *s = scratch;
    const uint32_t n_blocks = n_in / TD_QK;
    const size_t stride = n_blocks * TD_MXFP4_BYTES;
    const uint32_t n = td_min_u32(n_out, LANES);
    const __mmask16 mask = first_lanes(n);
    for (uint32_t i = 0; i < n_out; i += LANES) {
        // The last group moves back to be whole; its first outputs are written twice.
        const uint32_t o = td_min_u32(i, n_out - n);
        uint32_t step = n < LANES ? COPY_BLOCKS : n_rows < MIN_PANEL_ROWS ? n_blocks : PANEL_BLOCKS;
        for (uint32_t b = 0; b < n_blocks; b += step) {
            struct rows16 g = {(const uint8_t *)w + o * stride + b * TD_MXFP4_BYTES, stride, b,
                               td_min_u32(step, n_blocks - b)};
            if (n < LANES) copy_rows(TD_MXFP4_BYTES, s->copy, &g, n);
            if (n_rows >= MIN_PANEL_ROWS) {
                const struct tile t = {s, &g, n_in, mask};
                many_rows(s, &t, y, x, n_rows, o);
                continue;
            }
            for (uint32_t r = 0; r < n_rows; r++) {
                __m512 acc = b ? _mm512_maskz_loadu_ps(mask, y[r] + o) : _mm512_setzero_ps();
                acc = few_rows(&g, x[r], n_in, acc);
                _mm512_mask_storeu_ps(y[r] + o, mask, acc);
            }
        }
    }
}

#endif
