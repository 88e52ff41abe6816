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
//   many rows: 64 weight rows, a few blocks of each, are unpacked once into a panel where lane o
//              holds four consecutive elements of output o, so that a broadcast of four activation
//              bytes does the rest.
// Same integers, same floats, same order: same bits.
#include "kernels/avx512/avx512.h"

#if defined(__x86_64__)
#include "kernels/avx512/mm_impl.h"

#include <assert.h>

#define PANEL_BLOCKS   15u // fits 48 KB of L1 with a tile's activations; at most 16, see start
#define COPY_BLOCKS    64u // see copy_rows
#define MIN_PANEL_ROWS 3   // from here on unpacking pays
#define OFFSET         12  // of the codes, see above

// A block of 64 outputs: codes[k][g] holds elements 4 * k to 4 * k + 3 of group g's outputs.
struct panel_block {
    uint8_t codes[TD_QK / 4][GROUPS][4 * LANES];
    float scale[GROUPS][LANES];
};

struct scratch {
    struct panel_block panel[PANEL_BLOCKS];
    int32_t start[TILE_ROWS][16]; // of the sums of each block
    struct acc acc;
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

// Scale bytes of one block of the 16 rows, then as floats. They travel through memory: the load and
// store ports idle here while the vector ports are what limits.
INLINE void gather16(uint8_t *out, const uint8_t *p, size_t stride)
{
    TD_UNROLL
    for (int o = 0; o < LANES; o++) out[o] = p[(size_t)o * stride];
}

// td_e8m0_half of 16 bytes.
INLINE __m512 e8m0_half16(const uint8_t *bytes)
{
    const __m512i e = _mm512_cvtepu8_epi32(load128(bytes));
    // 2^(e - 128) has the exponent e - 1; below 2^-126 it is the top bits of the mantissa instead.
    __m512i bits = _mm512_slli_epi32(_mm512_sub_epi32(e, _mm512_set1_epi32(1)), 23);
    const __mmask16 small = _mm512_cmplt_epu32_mask(e, _mm512_set1_epi32(2));
    bits = _mm512_mask_sllv_epi32(bits, small, _mm512_set1_epi32(0x00200000), e);
    const __mmask16 nan = _mm512_cmpeq_epi32_mask(e, _mm512_set1_epi32(255));
    return _mm512_castsi512_ps(_mm512_mask_mov_epi32(bits, nan, _mm512_set1_epi32(0x7fc00000)));
}

// Products of the rows with one activation row, from acc on. ahead: see td_fetch.
INLINE __m512 few_rows(const struct rows16 *w, const void *x, uint32_t n_in, const uint8_t *ahead,
                       __m512 acc)
{
    enum { BATCH = 16 }; // blocks whose scales are fetched ahead, so that their stores have landed
    const int8_t *q = (const int8_t *)x + (size_t)w->first * TD_QK;
    const float *d = td_q8_d(x, n_in) + w->first;
    const int32_t *s = td_q8_s(x, n_in) + w->first;
    uint8_t e[BATCH][LANES];
    for (uint32_t b0 = 0; b0 < w->n_blocks; b0 += BATCH) {
        const uint32_t b1 = td_min_u32(b0 + BATCH, w->n_blocks);
        const uint8_t *p = w->p + b0 * TD_MXFP4_BYTES;
        for (uint32_t b = b0; b < b1; b++, p += TD_MXFP4_BYTES) {
            gather16(e[b - b0], p, w->stride);
        }
        p = w->p + b0 * TD_MXFP4_BYTES;
        for (uint32_t b = b0; b < b1; b++, p += TD_MXFP4_BYTES) {
            td_fetch(ahead + b * LANES * TD_MXFP4_BYTES, LANES * TD_MXFP4_BYTES);
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
            const __m512 dw = e8m0_half16(e[b - b0]);
            acc = _mm512_fmadd_ps(_mm512_mul_ps(dw, _mm512_set1_ps(d[b])),
                                  _mm512_cvtepi32_ps(sums16(v)), acc);
        }
    }
    return acc;
}

// Group g of the panel.
INLINE void unpack(struct panel_block *panel, uint32_t g, const struct rows16 *w)
{
    const __m512i plus12 = _mm512_broadcast_i32x4(
        _mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0));
    const __m512i nibble = _mm512_set1_epi8(15);
    const uint8_t *p = w->p;
    uint8_t e[PANEL_BLOCKS][LANES];
    for (uint32_t b = 0; b < w->n_blocks; b++, p += TD_MXFP4_BYTES) gather16(e[b], p, w->stride);
    p = w->p + 1;
    for (uint32_t b = 0; b < w->n_blocks; b++, p += TD_MXFP4_BYTES, panel++) {
        __m512i v[4], dwords[4];
        TD_UNROLL
        for (int i = 0; i < 4; i++) v[i] = load4(p + (size_t)i * w->stride, 4 * w->stride);
        transpose4(dwords, v);
        TD_UNROLL
        for (int k = 0; k < 4; k++) {
            const __m512i lo = _mm512_and_si512(dwords[k], nibble);
            const __m512i hi = _mm512_and_si512(_mm512_srli_epi16(dwords[k], 4), nibble);
            _mm512_storeu_si512(panel->codes[k][g], _mm512_shuffle_epi8(plus12, lo));
            _mm512_storeu_si512(panel->codes[k + 4][g], _mm512_shuffle_epi8(plus12, hi));
        }
        _mm512_storeu_ps(panel->scale[g], e8m0_half16(e[b]));
    }
}

// What a tile needs besides its rows.
struct tile {
    struct scratch *s;
    uint32_t first, n_blocks; // of the panel
    uint32_t n_in;
};

// Panel times n activation rows, n a constant; adds to s->acc.
INLINE void tile_n(int n, const struct tile *t, const void *const *x)
{
    struct scratch *s = t->s;
    const struct panel_block *p = s->panel;
    const uint8_t *row[TILE_ROWS];
    TD_UNROLL
    for (int r = 0; r < n; r++) row[r] = x[r];
    size_t i_q = (size_t)t->first * TD_QK;
    size_t i_d = (size_t)t->n_in + (size_t)t->first * 4;
    for (uint32_t b = 0; b < t->n_blocks; b++, p++, i_d += 4) {
        __m512i sum[TILE_ROWS][GROUPS];
        TD_UNROLL
        for (int r = 0; r < n; r++) {
            const __m512i start = _mm512_set1_epi32(s->start[r][b]);
            TD_UNROLL
            for (int g = 0; g < GROUPS; g++) sum[r][g] = start;
        }
        for (int k = 0; k < TD_QK / 4; k++, i_q += 4) {
            __m512i w[GROUPS];
            TD_UNROLL
            for (int g = 0; g < GROUPS; g++) w[g] = _mm512_loadu_si512(p->codes[k][g]);
            TD_UNROLL
            for (int r = 0; r < n; r++) {
                int32_t four;
                memcpy(&four, row[r] + i_q, sizeof(four));
                const __m512i v = _mm512_set1_epi32(four);
                TD_UNROLL
                for (int g = 0; g < GROUPS; g++) dpbusd(&sum[r][g], w[g], v);
            }
        }
        fold_block(n, &s->acc, sum, p->scale, row, i_d);
    }
}

// Not inlined, so that its loops have all registers.
__attribute__((noinline)) TARGET static void tile_any(uint32_t n, const struct tile *t,
                                                      const void *const *x)
{
    switch (n) {
    case 1: tile_n(1, t, x); return;
    case 2: tile_n(2, t, x); return;
    case 3: tile_n(3, t, x); return;
    case 4: tile_n(4, t, x); return;
    case 5: tile_n(5, t, x); return;
    default: tile_n(6, t, x); return;
    }
}

// Where the sums of n rows start: with the offsets of the codes taken back.
INLINE void set_starts(const struct tile *t, const void *const *x, uint32_t n)
{
    const __mmask16 mask = first_lanes(t->n_blocks);
    for (uint32_t r = 0; r < n; r++) {
        const __m512i s = _mm512_maskz_loadu_epi32(mask, td_q8_s(x[r], t->n_in) + t->first);
        _mm512_storeu_si512(t->s->start[r], _mm512_mullo_epi32(s, _mm512_set1_epi32(-OFFSET)));
    }
}

// Many rows.
INLINE void panels(struct scratch *s, float *const *y, const uint8_t *w, const void *const *x,
                   uint32_t n_in, uint32_t n_out, uint32_t n_rows)
{
    const uint32_t n_blocks = n_in / TD_QK;
    const size_t stride = n_blocks * TD_MXFP4_BYTES;
    const uint32_t n = td_min_u32(n_out, LANES);
    const uint32_t n_tiles = (n_rows + TILE_ROWS - 1) / TILE_ROWS;
    for (uint32_t o = 0; o < n_out; o += GROUPS * LANES) {
        uint32_t at[GROUPS];
        place_groups(at, o, n_out);
        const uint8_t *ahead = w + o * stride;
        fetch_share(ahead, stride, PANEL_BLOCKS * TD_MXFP4_BYTES, 0, 1);
        for (uint32_t b = 0; b < n_blocks; b += PANEL_BLOCKS) {
            ahead += PANEL_BLOCKS * TD_MXFP4_BYTES;
            const bool is_last = b + PANEL_BLOCKS >= n_blocks;
            const struct tile t = {s, b, td_min_u32(PANEL_BLOCKS, n_blocks - b), n_in};
            for (uint32_t g = 0; g < GROUPS; g++) {
                struct rows16 rows = {w + at[g] * stride + b * TD_MXFP4_BYTES, stride, b,
                                      t.n_blocks};
                if (n < LANES) copy_rows(TD_MXFP4_BYTES, s->copy, &rows, n);
                unpack(s->panel, g, &rows);
            }
            for (uint32_t i = 0, r = 0, m; i < n_tiles; i++, r += m) {
                m = tile_rows(n_rows, r, n_tiles - i);
                set_starts(&t, x + r, m);
                load_acc(&s->acc, b == 0, y + r, m, at, first_lanes(n));
                if (!is_last) fetch_share(ahead, stride, PANEL_BLOCKS * TD_MXFP4_BYTES, i, n_tiles);
                tile_any(m, &t, x + r);
                store_acc(&s->acc, y + r, m, at, first_lanes(n));
            }
        }
    }
}

// One or two rows, 16 outputs at a time.
INLINE void few(struct scratch *s, float *const *y, const uint8_t *w, const void *const *x,
                uint32_t n_in, uint32_t n_out, uint32_t n_rows)
{
    const uint32_t n_blocks = n_in / TD_QK;
    const size_t stride = n_blocks * TD_MXFP4_BYTES;
    const uint32_t n = td_min_u32(n_out, LANES);
    const __mmask16 mask = first_lanes(n);
    const uint32_t step = n < LANES ? COPY_BLOCKS : n_blocks;
    td_fetch(w, n * stride);
    for (uint32_t i = 0; i < n_out; i += LANES) {
        // The last group moves back to be whole; its first outputs are written twice.
        const uint32_t o = td_min_u32(i, n_out - n);
        const uint8_t *ahead = w + td_min_u32(i + LANES, n_out - n) * stride;
        for (uint32_t b = 0; b < n_blocks; b += step) {
            struct rows16 g = {w + o * stride + b * TD_MXFP4_BYTES, stride, b,
                               td_min_u32(step, n_blocks - b)};
            if (n < LANES) copy_rows(TD_MXFP4_BYTES, s->copy, &g, n);
            for (uint32_t r = 0; r < n_rows; r++) {
                __m512 acc = b ? _mm512_maskz_loadu_ps(mask, y[r] + o) : _mm512_setzero_ps();
                acc = few_rows(&g, x[r], n_in, ahead + b * LANES * TD_MXFP4_BYTES, acc);
                _mm512_mask_storeu_ps(y[r] + o, mask, acc);
            }
        }
    }
}

TARGET void td_mm_mxfp4_q8_avx512(float *const *y, const void *w, const void *const *x,
                                  uint32_t n_in, uint32_t n_out, uint32_t n_rows, void *scratch)
{
    assert(n_in % TD_QK == 0);
    if (n_rows >= MIN_PANEL_ROWS)
        panels(scratch, y, w, x, n_in, n_out, n_rows);
    else
        few(scratch, y, w, x, n_in, n_out, n_rows);
}

#endif
