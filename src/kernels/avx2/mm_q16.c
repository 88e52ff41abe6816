// SPDX-License-Identifier: MIT
// Q8_0 weights by 16-bit activations, for AVX2. Weights are widened to words; VPMADDWD multiplies
// and adds pairs exactly. Eight outputs together, one per lane, as in mm_q8.c, and again two ways
// to their integer sums:
//   one row:   weights stay as they are in the file; a row of them is widened as it is loaded, and
//              eight vectors of partial sums go through a transposing add tree;
//   many rows: eight weight rows are widened once into a panel where lane o holds two consecutive
//              elements of output o, so that a broadcast of two activations does the rest.
#include "kernels/avx2/avx2.h"

#if defined(__x86_64__)
#include "kernels/avx2/mm_impl.h"

#include <assert.h>

// Blocks of eight outputs in the panel: pairs of words, then scales.
#define PANEL_BLOCK_BYTES (2 * TD_QK * LANES + 4 * LANES)
#define PANEL_BLOCKS      440u
#define TILE_ROWS         4 // activation rows that share a pass over the panel
#define COPY_BLOCKS       64u

struct scratch {
    uint8_t panel[PANEL_BLOCKS * PANEL_BLOCK_BYTES];
    uint8_t copy[LANES * COPY_BLOCKS * TD_Q8_0_BYTES];
};
_Static_assert(sizeof(struct scratch) <= TD_MM_SCRATCH_BYTES, "fits");

// Scales of one block of the eight rows, through memory: the load and store ports idle here.
INLINE void gather8(uint16_t *out, const uint8_t *p, size_t stride)
{
    TD_UNROLL
    for (int o = 0; o < LANES; o++) out[o] = td_load_u16(p + (size_t)o * stride);
}

// Eight partial sums of one block of one row.
INLINE __m256i products(const uint8_t *p, __m256i x_lo, __m256i x_hi)
{
    return _mm256_add_epi32(_mm256_madd_epi16(_mm256_cvtepi8_epi16(load128(p + 2)), x_lo),
                            _mm256_madd_epi16(_mm256_cvtepi8_epi16(load128(p + 18)), x_hi));
}

// Products of the rows with one activation row (q, d: from the rows' first block), from acc on.
// ahead: see td_fetch.
INLINE __m256 one_row(const struct rows8 *w, const int16_t *q, const float *d, const uint8_t *ahead,
                      __m256 acc)
{
    enum { BATCH = 16 }; // blocks whose scales are fetched ahead, so that their stores have landed
    uint16_t d16[BATCH][LANES];
    for (uint32_t b0 = 0; b0 < w->n_blocks; b0 += BATCH) {
        const uint32_t b1 = td_min_u32(b0 + BATCH, w->n_blocks);
        const uint8_t *p = w->p + b0 * TD_Q8_0_BYTES;
        for (uint32_t b = b0; b < b1; b++, p += TD_Q8_0_BYTES) {
            gather8(d16[b - b0], p, w->stride);
        }
        p = w->p + b0 * TD_Q8_0_BYTES;
        for (uint32_t b = b0; b < b1; b++, p += TD_Q8_0_BYTES) {
            td_fetch(ahead + b * LANES * TD_Q8_0_BYTES, LANES * TD_Q8_0_BYTES);
            const __m256i x_lo = load256(q + b * TD_QK);
            const __m256i x_hi = load256(q + b * TD_QK + 16);
            __m256i v[4]; // v[i]: rows i and i + 4, four partial sums each
            TD_UNROLL
            for (int i = 0; i < 4; i++) {
                const __m256i even = products(p + (size_t)i * w->stride, x_lo, x_hi);
                const __m256i odd = products(p + (size_t)(i + 4) * w->stride, x_lo, x_hi);
                v[i] = _mm256_add_epi32(_mm256_blend_epi32(even, odd, 0xf0),
                                        _mm256_permute2x128_si256(even, odd, 0x21));
            }
            const __m256 dw = _mm256_cvtph_ps(load128(d16[b - b0]));
            acc = _mm256_fmadd_ps(_mm256_mul_ps(dw, _mm256_set1_ps(d[b])),
                                  _mm256_cvtepi32_ps(sums8(v)), acc);
        }
    }
    return acc;
}

// 16 elements of the eight rows -> eight vectors of pairs of words.
INLINE void unpack_half(uint8_t *out, const uint8_t *p, size_t stride)
{
    // Bytes 0 2 1 3 of a dword: then even and odd bytes are its two pairs.
    const __m256i order = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15));
    __m256i v[4], dwords[4];
    TD_UNROLL
    for (int i = 0; i < 4; i++) {
        v[i] = _mm256_shuffle_epi8(load2(p + (size_t)i * stride, 4 * stride), order);
    }
    transpose4(dwords, v);
    TD_UNROLL
    for (int k = 0; k < 4; k++) {
        const __m256i even = _mm256_srai_epi16(_mm256_slli_epi16(dwords[k], 8), 8);
        _mm256_storeu_si256((void *)(out + 64 * k), even);
        _mm256_storeu_si256((void *)(out + 64 * k + 32), _mm256_srai_epi16(dwords[k], 8));
    }
}

INLINE void unpack(uint8_t *panel, const struct rows8 *w)
{
    const uint8_t *p = w->p;
    for (uint32_t b = 0; b < w->n_blocks; b++, p += TD_Q8_0_BYTES, panel += PANEL_BLOCK_BYTES) {
        unpack_half(panel, p + 2, w->stride);
        unpack_half(panel + 256, p + 18, w->stride);
        uint16_t d16[LANES];
        gather8(d16, p, w->stride);
        const __m256 scale = _mm256_cvtph_ps(load128(d16));
        memcpy(panel + 512, &scale, sizeof(scale));
    }
}

// What a tile needs besides its rows.
struct tile {
    const uint8_t *panel;
    const struct rows8 *w;
    uint32_t n_in;
    uint32_t n_out; // outputs that exist, of eight
};

// Panel times n activation rows, n a constant.
INLINE void tile_n(int n, const struct tile *t, float *const *y, const void *const *x)
{
    __m256 acc[TILE_ROWS];
    TD_UNROLL
    for (int r = 0; r < n; r++) {
        acc[r] = t->w->first ? load_n(y[r], t->n_out) : _mm256_setzero_ps();
    }
    const uint8_t *p = t->panel;
    size_t i_q = (size_t)t->w->first * TD_QK * 2;
    size_t i_d = (size_t)t->n_in * 2 + (size_t)t->w->first * 4;
    for (uint32_t b = 0; b < t->w->n_blocks; b++, p += PANEL_BLOCK_BYTES, i_d += 4) {
        __m256i sum[TILE_ROWS];
        TD_UNROLL
        for (int r = 0; r < n; r++) sum[r] = _mm256_setzero_si256();
        TD_UNROLL
        for (int k = 0; k < TD_QK / 2; k++) {
            const __m256i w = load256(p + 32 * k);
            TD_UNROLL
            for (int r = 0; r < n; r++) {
                int32_t two;
                memcpy(&two, (const uint8_t *)x[r] + i_q + 4 * k, sizeof(two));
                sum[r] = _mm256_add_epi32(sum[r], _mm256_madd_epi16(w, _mm256_set1_epi32(two)));
            }
        }
        i_q += 2 * TD_QK;
        const __m256 dw = _mm256_loadu_ps((const float *)(const void *)(p + 512));
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

TARGET void td_mm_q8_0_q16_avx2(float *const *y, const void *w, const void *const *x, uint32_t n_in,
                                uint32_t n_out, uint32_t n_rows, void *scratch)
{
    assert(n_in % TD_QK == 0);
    struct scratch *s = scratch;
    const uint32_t n_blocks = n_in / TD_QK;
    const size_t stride = n_blocks * TD_Q8_0_BYTES;
    const uint32_t n = td_min_u32(n_out, LANES);
    const uint32_t step = n < LANES ? COPY_BLOCKS : n_rows == 1 ? n_blocks : PANEL_BLOCKS;
    if (n_rows == 1) td_fetch(w, n * stride);
    for (uint32_t i = 0; i < n_out; i += LANES) {
        // The last group moves back to be whole; its first outputs are written twice.
        const uint32_t o = td_min_u32(i, n_out - n);
        const uint8_t *ahead = (const uint8_t *)w + td_min_u32(i + LANES, n_out - n) * stride;
        for (uint32_t b = 0; b < n_blocks; b += step) {
            struct rows8 g = {(const uint8_t *)w + o * stride + b * TD_Q8_0_BYTES, stride, b,
                              td_min_u32(step, n_blocks - b)};
            if (n < LANES) copy_rows(TD_Q8_0_BYTES, s->copy, &g, n);
            if (n_rows == 1) {
                const int16_t *q = x[0];
                const __m256 acc = b ? load_n(y[0] + o, n) : _mm256_setzero_ps();
                store_n(y[0] + o,
                        one_row(&g, q + (size_t)b * TD_QK, td_q16_d(q, n_in) + b,
                                ahead + b * LANES * TD_Q8_0_BYTES, acc),
                        n);
                continue;
            }
            const struct tile t = {s->panel, &g, n_in, n};
            unpack(s->panel, &g);
            for (uint32_t r = 0; r < n_rows; r += TILE_ROWS) {
                float *yo[TILE_ROWS];
                const uint32_t n_r = td_min_u32(n_rows - r, TILE_ROWS);
                for (uint32_t j = 0; j < n_r; j++) yo[j] = y[r + j] + o;
                tile_any(n_r, &t, yo, x + r);
            }
        }
    }
}

#endif
