// SPDX-License-Identifier: MIT
// MXFP4 weights by 8-bit activations, for AVX2.
//
// VPMADDUBSW multiplies unsigned by signed bytes and adds pairs into 16 bits, saturating. Doubled
// E2M1 values plus 12 are 0..24; four pairs are at most 4 * 2 * 24 * 127 = 24384, which fits. 12
// times the sum of the block's activations, which their row carries, is taken back.
//
// Eight outputs are computed together, one per lane, so that the one float operation per block and
// output, whose order is fixed, costs an eighth. Two ways to their integer sums:
//   few rows:  weights stay as they are in the file; two rows of 16 bytes make a vector, whose two
//              lanes of four partial sums go through a transposing add tree;
//   many rows: the eight weight rows are unpacked once into a panel where lane o holds four
//              consecutive elements of output o, so that a broadcast of four activation bytes does
//              the rest.
// Same integers, same floats, same order: same bits.
#include "kernels/avx2/avx2.h"

#if defined(__x86_64__)
#include "kernels/avx2/mm_impl.h"

#include <assert.h>

// Blocks of eight outputs in the panel: codes, then scales.
#define PANEL_BLOCK_BYTES (TD_QK * LANES + 4 * LANES)
#define PANEL_BLOCKS      512u
#define TILE_ROWS         4   // activation rows that share a pass over the panel
#define COPY_BLOCKS       64u // see copy_rows
#define MIN_PANEL_ROWS    3   // from here on unpacking pays

struct scratch {
    uint8_t panel[PANEL_BLOCKS * PANEL_BLOCK_BYTES];
    uint8_t copy[LANES * COPY_BLOCKS * TD_MXFP4_BYTES];
};
_Static_assert(sizeof(struct scratch) <= TD_MM_SCRATCH_BYTES, "fits");

// One block of two rows (p: of the first) as doubled E2M1 values plus 12: elements 0-15 and 16-31.
INLINE void codes2(const uint8_t *p, size_t stride, __m256i *lo, __m256i *hi)
{
    const __m256i plus12 = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0));
    const __m256i nibble = _mm256_set1_epi8(15);
    const __m256i v = load2(p + 1, stride);
    *lo = _mm256_shuffle_epi8(plus12, _mm256_and_si256(v, nibble));
    *hi = _mm256_shuffle_epi8(plus12, _mm256_and_si256(_mm256_srli_epi16(v, 4), nibble));
}

INLINE __m256i widen(__m256i sums)
{
    return _mm256_madd_epi16(sums, _mm256_set1_epi16(1));
}

// What the codes' offset adds to every sum of a block.
INLINE __m256i excess(int32_t s)
{
    return _mm256_set1_epi32(12 * s);
}

// Scales of one block of the eight rows, through memory: the load and store ports idle here.
INLINE void scales8(float *out, const uint8_t *p, size_t stride)
{
    TD_UNROLL
    for (int o = 0; o < LANES; o++) {
        memcpy(out + o, &td_e8m0_half[p[(size_t)o * stride]], sizeof(float));
    }
}

// Products of the rows with one activation row, from acc on. ahead: see td_fetch.
INLINE __m256 few_rows(const struct rows8 *w, const void *x, uint32_t n_in, const uint8_t *ahead,
                       __m256 acc)
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
            scales8(scale + (b - b0) * LANES, p, w->stride);
        }
        p = w->p + b0 * TD_MXFP4_BYTES;
        for (uint32_t b = b0; b < b1; b++, p += TD_MXFP4_BYTES) {
            td_fetch(ahead + b * LANES * TD_MXFP4_BYTES, LANES * TD_MXFP4_BYTES);
            const __m256i x_lo = _mm256_broadcastsi128_si256(load128(q + b * TD_QK));
            const __m256i x_hi = _mm256_broadcastsi128_si256(load128(q + b * TD_QK + 16));
            __m256i v[4]; // v[i]: rows i and i + 4, four partial sums each
            TD_UNROLL
            for (int i = 0; i < 4; i++) {
                __m256i lo, hi;
                codes2(p + (size_t)i * w->stride, 4 * w->stride, &lo, &hi);
                v[i] = widen(_mm256_add_epi16(_mm256_maddubs_epi16(lo, x_lo),
                                              _mm256_maddubs_epi16(hi, x_hi)));
            }
            const __m256i isum = _mm256_sub_epi32(sums8(v), excess(s[b]));
            const __m256 dw = _mm256_loadu_ps(scale + (b - b0) * LANES);
            acc = _mm256_fmadd_ps(_mm256_mul_ps(dw, _mm256_set1_ps(d[b])), _mm256_cvtepi32_ps(isum),
                                  acc);
        }
    }
    return acc;
}

INLINE void unpack(uint8_t *panel, const struct rows8 *w)
{
    const uint8_t *p = w->p;
    for (uint32_t b = 0; b < w->n_blocks; b++, p += TD_MXFP4_BYTES, panel += PANEL_BLOCK_BYTES) {
        __m256i lo[4], hi[4];
        TD_UNROLL
        for (int i = 0; i < 4; i++) {
            codes2(p + (size_t)i * w->stride, 4 * w->stride, &lo[i], &hi[i]);
        }
        __m256i dwords[8];
        transpose4(dwords, lo);
        transpose4(dwords + 4, hi);
        memcpy(panel, dwords, sizeof(dwords));
        float scale[LANES];
        scales8(scale, p, w->stride);
        memcpy(panel + 256, scale, sizeof(scale));
    }
}

// What a tile needs besides its rows.
struct tile {
    const uint8_t *panel;
    const struct rows8 *w;
    uint32_t n_in;
    uint32_t n_out; // outputs that exist, of eight
};

// Four elements of all eight outputs at a time: half a block, whose sums fit 16 bits.
INLINE void half_block(int n, __m256i *sum, const uint8_t *p, const void *const *x, size_t i_q)
{
    __m256i part[TILE_ROWS];
    TD_UNROLL
    for (int k = 0; k < 4; k++) {
        const __m256i w = _mm256_loadu_si256((const void *)(p + 32 * k));
        TD_UNROLL
        for (int r = 0; r < n; r++) {
            int32_t four;
            memcpy(&four, (const uint8_t *)x[r] + i_q + 4 * k, sizeof(four));
            const __m256i v = _mm256_maddubs_epi16(w, _mm256_set1_epi32(four));
            part[r] = k == 0 ? v : _mm256_add_epi16(part[r], v);
        }
    }
    TD_UNROLL
    for (int r = 0; r < n; r++) sum[r] = _mm256_add_epi32(sum[r], widen(part[r]));
}

// Panel times n activation rows, n a constant.
INLINE void tile_n(int n, const struct tile *t, float *const *y, const void *const *x)
{
    __m256 acc[TILE_ROWS];
    TD_UNROLL
    for (int r = 0; r < n; r++) {
        acc[r] = t->w->first ? load_n(y[r], t->n_out) : _mm256_setzero_ps();
    }
    const uint8_t *p = t->panel;
    size_t i_q = (size_t)t->w->first * TD_QK;
    size_t i_d = t->n_in + (size_t)t->w->first * 4;
    const size_t to_s = (size_t)t->n_in / TD_QK * 4; // from a block's d to its s
    for (uint32_t b = 0; b < t->w->n_blocks; b++, p += PANEL_BLOCK_BYTES, i_q += TD_QK, i_d += 4) {
        __m256i sum[TILE_ROWS];
        TD_UNROLL
        for (int r = 0; r < n; r++) {
            int32_t s;
            memcpy(&s, (const uint8_t *)x[r] + i_d + to_s, sizeof(s));
            sum[r] = _mm256_sub_epi32(_mm256_setzero_si256(), excess(s));
        }
        half_block(n, sum, p, x, i_q);
        half_block(n, sum, p + 128, x, i_q + 16);
        const __m256 dw = _mm256_loadu_ps((const float *)(const void *)(p + 256));
        TD_UNROLL
        for (int r = 0; r < n; r++) {
            const __m256 dx = _mm256_set1_ps(td_load_f32((const uint8_t *)x[r] + i_d));
            acc[r] = _mm256_fmadd_ps(_mm256_mul_ps(dw, dx), _mm256_cvtepi32_ps(sum[r]), acc[r]);
        }
    }
    TD_UNROLL
    for (int r = 0; r < n; r++) store_n(y[r], acc[r], t->n_out);
}

TARGET static void tile_any(uint32_t n, const struct tile *t, float *const *y, const void *const *x)
{
    switch (n) {
    case 1: tile_n(1, t, y, x); return;
    case 2: tile_n(2, t, y, x); return;
    case 3: tile_n(3, t, y, x); return;
    default: tile_n(4, t, y, x); return;
    }
}

TARGET void td_mm_mxfp4_q8_avx2(float *const *y, const void *w, const void *const *x, uint32_t n_in,
                                uint32_t n_out, uint32_t n_rows, void *scratch)
{
    assert(n_in % TD_QK == 0);
    struct scratch *s = scratch;
    const uint32_t n_blocks = n_in / TD_QK;
    const size_t stride = n_blocks * TD_MXFP4_BYTES;
    const uint32_t n = td_min_u32(n_out, LANES);
    if (n_rows < MIN_PANEL_ROWS) td_fetch(w, n * stride);
    for (uint32_t i = 0; i < n_out; i += LANES) {
        // The last group moves back to be whole; its first outputs are written twice.
        const uint32_t o = td_min_u32(i, n_out - n);
        const uint8_t *ahead = (const uint8_t *)w + td_min_u32(i + LANES, n_out - n) * stride;
        uint32_t step = n_rows < MIN_PANEL_ROWS ? n_blocks : PANEL_BLOCKS;
        if (n < LANES) step = COPY_BLOCKS;
        for (uint32_t b = 0; b < n_blocks; b += step) {
            struct rows8 g = {(const uint8_t *)w + o * stride + b * TD_MXFP4_BYTES, stride, b,
                              td_min_u32(step, n_blocks - b)};
            if (n < LANES) copy_rows(TD_MXFP4_BYTES, s->copy, &g, n);
            if (n_rows >= MIN_PANEL_ROWS) unpack(s->panel, &g);
            const struct tile t = {s->panel, &g, n_in, n};
            for (uint32_t r = 0; r < n_rows; r += TILE_ROWS) {
                float *yo[TILE_ROWS];
                const uint32_t n_r = td_min_u32(n_rows - r, TILE_ROWS);
                for (uint32_t j = 0; j < n_r; j++) yo[j] = y[r + j] + o;
                if (n_rows >= MIN_PANEL_ROWS) {
                    tile_any(n_r, &t, yo, x + r);
                    continue;
                }
                for (uint32_t j = 0; j < n_r; j++) {
                    __m256 acc = b ? load_n(yo[j], n) : _mm256_setzero_ps();
                    store_n(yo[j],
                            few_rows(&g, x[r + j], n_in, ahead + b * LANES * TD_MXFP4_BYTES, acc),
                            n);
                }
            }
        }
    }
}

#endif
