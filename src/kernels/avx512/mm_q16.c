// SPDX-License-Identifier: MIT
// Q8_0 weights by 16-bit activations, for AVX-512 VNNI. Sixteen outputs together, one per lane, as
// in mm_q8.c, and again two ways to their integer sums:
//   one row:   an activation is 256 * high + low, high signed and low unsigned. VPDPBUSD, unsigned
//              by signed bytes, takes low * w as it is, and high * (w + 128) less 128 * high, which
//              is summed beforehand. So weights are used as they lie in the file, in 13 operations
//              per four blocks; widened to words for VPDPWSSD it would be 16. The activations are
//              split once for all outputs.
//   many rows: 64 weight rows, a few blocks of each, are widened once into a panel where lane o
//              holds two consecutive elements of output o; VPDPWSSD by a broadcast of two
//              activations does the rest. As many multiplications as with bytes, and nothing to do
//              to the activations.
#include "kernels/avx512/avx512.h"

#if defined(__x86_64__)
#include "kernels/avx512/mm_impl.h"

#include <assert.h>

#define PANEL_BLOCKS 8u // fits 48 KB of L1 with a tile's activations
#define PLANE_BLOCKS 2048u
#define COPY_BLOCKS  64u

// A block of 64 outputs: words[k][g] holds elements 2 * k and 2 * k + 1 of group g's outputs.
struct panel_block {
    uint8_t words[TD_QK / 2][GROUPS][4 * LANES];
    float scale[GROUPS][LANES];
};

// A block of activations in bytes; 16 bytes a lane of the vectors it meets.
struct planes {
    int8_t high[TD_QK];
    uint8_t low[TD_QK];
    int32_t start[4]; // -128 * sum of high, in parts
};

struct scratch {
    union {
        struct panel_block panel[PANEL_BLOCKS];
        struct planes planes[PLANE_BLOCKS];
    };
    struct acc acc;
    uint8_t copy[LANES * COPY_BLOCKS * TD_Q8_0_BYTES];
};
_Static_assert(sizeof(struct scratch) <= TD_MM_SCRATCH_BYTES, "fits");

// Scales of one block of the 16 rows. They travel through memory: the load and store ports idle
// here while the vector ports are what limits.
INLINE void gather16(uint16_t *out, const uint8_t *p, size_t stride)
{
    TD_UNROLL
    for (int o = 0; o < LANES; o++) out[o] = td_load_u16(p + (size_t)o * stride);
}

INLINE void split(struct planes *to, const int16_t *q, uint32_t n_blocks)
{
    const __m128i by128 = _mm_set1_epi8((char)-128); // 128, unsigned
    for (uint32_t b = 0; b < n_blocks; b++, q += TD_QK, to++) {
        const __m512i v = _mm512_loadu_si512(q);
        const __m256i high = _mm512_cvtepi16_epi8(_mm512_srai_epi16(v, 8));
        _mm256_storeu_si256((void *)to->high, high);
        _mm256_storeu_si256((void *)to->low, _mm512_cvtepi16_epi8(v));
        __m128i sum = _mm_dpbusd_epi32(_mm_setzero_si128(), by128, _mm256_castsi256_si128(high));
        sum = _mm_dpbusd_epi32(sum, by128, _mm256_extracti128_si256(high, 1));
        _mm_storeu_si128((void *)to->start, _mm_sub_epi32(_mm_setzero_si128(), sum));
    }
}

// Products of the rows with one activation row, from acc on. ahead: see td_fetch.
INLINE __m512 one_row(const struct rows16 *w, const struct planes *x, const float *d,
                      const uint8_t *ahead, __m512 acc)
{
    enum { BATCH = 16 }; // blocks whose scales are fetched ahead, so that their stores have landed
    const __m512i top = _mm512_set1_epi8((char)-128);
    uint16_t d16[BATCH][LANES];
    for (uint32_t b0 = 0; b0 < w->n_blocks; b0 += BATCH) {
        const uint32_t b1 = td_min_u32(b0 + BATCH, w->n_blocks);
        const uint8_t *p = w->p + b0 * TD_Q8_0_BYTES;
        for (uint32_t b = b0; b < b1; b++, p += TD_Q8_0_BYTES) {
            gather16(d16[b - b0], p, w->stride);
        }
        p = w->p + b0 * TD_Q8_0_BYTES;
        for (uint32_t b = b0; b < b1; b++, p += TD_Q8_0_BYTES) {
            td_fetch(ahead + b * LANES * TD_Q8_0_BYTES, LANES * TD_Q8_0_BYTES);
            const __m512i high_lo = _mm512_broadcast_i32x4(load128(x[b].high));
            const __m512i high_hi = _mm512_broadcast_i32x4(load128(x[b].high + 16));
            const __m512i low_lo = _mm512_broadcast_i32x4(load128(x[b].low));
            const __m512i low_hi = _mm512_broadcast_i32x4(load128(x[b].low + 16));
            const __m512i start = _mm512_broadcast_i32x4(load128(x[b].start));
            __m512i v[4];
            TD_UNROLL
            for (int i = 0; i < 4; i++) {
                const uint8_t *row = p + (size_t)i * w->stride;
                const __m512i lo = load4(row + 2, 4 * w->stride);
                const __m512i hi = load4(row + 18, 4 * w->stride);
                __m512i sum = _mm512_dpbusd_epi32(start, _mm512_xor_si512(lo, top), high_lo);
                sum = _mm512_dpbusd_epi32(sum, _mm512_xor_si512(hi, top), high_hi);
                sum = _mm512_dpbusd_epi32(_mm512_slli_epi32(sum, 8), low_lo, lo);
                v[i] = _mm512_dpbusd_epi32(sum, low_hi, hi);
            }
            const __m512 dw = _mm512_cvtph_ps(load256(d16[b - b0]));
            acc = _mm512_fmadd_ps(_mm512_mul_ps(dw, _mm512_set1_ps(d[b])),
                                  _mm512_cvtepi32_ps(sums16(v)), acc);
        }
    }
    return acc;
}

// 16 elements of the 16 rows -> eight vectors of pairs of words.
INLINE void unpack_half(uint8_t (*out)[GROUPS][4 * LANES], uint32_t g, const uint8_t *p,
                        size_t stride)
{
    // Bytes 0 2 1 3 of a dword: then even and odd bytes are its two pairs.
    const __m512i order =
        _mm512_broadcast_i32x4(_mm_setr_epi8(0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15));
    __m512i v[4], dwords[4];
    TD_UNROLL
    for (int i = 0; i < 4; i++) {
        v[i] = _mm512_shuffle_epi8(load4(p + (size_t)i * stride, 4 * stride), order);
    }
    transpose4(dwords, v);
    TD_UNROLL
    for (int k = 0; k < 4; k++) {
        const __m512i even = _mm512_srai_epi16(_mm512_slli_epi16(dwords[k], 8), 8);
        _mm512_storeu_si512(out[2 * k][g], even);
        _mm512_storeu_si512(out[2 * k + 1][g], _mm512_srai_epi16(dwords[k], 8));
    }
}

// Group g of the panel.
INLINE void unpack(struct panel_block *panel, uint32_t g, const struct rows16 *w)
{
    const uint8_t *p = w->p;
    uint16_t d16[PANEL_BLOCKS][LANES];
    for (uint32_t b = 0; b < w->n_blocks; b++) gather16(d16[b], p + b * TD_Q8_0_BYTES, w->stride);
    for (uint32_t b = 0; b < w->n_blocks; b++, p += TD_Q8_0_BYTES, panel++) {
        unpack_half(panel->words, g, p + 2, w->stride);
        unpack_half(panel->words + 8, g, p + 18, w->stride);
        _mm512_storeu_ps(panel->scale[g], _mm512_cvtph_ps(load256(d16[b])));
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
    size_t i_q = (size_t)t->first * TD_QK * 2;
    size_t i_d = (size_t)t->n_in * 2 + (size_t)t->first * 4;
    for (uint32_t b = 0; b < t->n_blocks; b++, p++, i_d += 4) {
        __m512i sum[TILE_ROWS][GROUPS];
        TD_UNROLL
        for (int r = 0; r < n; r++) {
            TD_UNROLL
            for (int g = 0; g < GROUPS; g++) sum[r][g] = _mm512_setzero_si512();
        }
        for (int k = 0; k < TD_QK / 2; k++, i_q += 4) {
            __m512i w[GROUPS];
            TD_UNROLL
            for (int g = 0; g < GROUPS; g++) w[g] = _mm512_loadu_si512(p->words[k][g]);
            TD_UNROLL
            for (int r = 0; r < n; r++) {
                int32_t two;
                memcpy(&two, row[r] + i_q, sizeof(two));
                const __m512i v = _mm512_set1_epi32(two);
                TD_UNROLL
                for (int g = 0; g < GROUPS; g++) dpwssd(&sum[r][g], w[g], v);
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

// Many rows.
INLINE void panels(struct scratch *s, float *const *y, const uint8_t *w, const void *const *x,
                   uint32_t n_in, uint32_t n_out, uint32_t n_rows)
{
    const uint32_t n_blocks = n_in / TD_QK;
    const size_t stride = n_blocks * TD_Q8_0_BYTES;
    const uint32_t n = td_min_u32(n_out, LANES);
    const uint32_t n_tiles = (n_rows + TILE_ROWS - 1) / TILE_ROWS;
    for (uint32_t o = 0; o < n_out; o += GROUPS * LANES) {
        uint32_t at[GROUPS];
        place_groups(at, o, n_out);
        const uint8_t *ahead = w + o * stride;
        fetch_share(ahead, stride, PANEL_BLOCKS * TD_Q8_0_BYTES, 0, 1);
        for (uint32_t b = 0; b < n_blocks; b += PANEL_BLOCKS) {
            ahead += PANEL_BLOCKS * TD_Q8_0_BYTES;
            const bool is_last = b + PANEL_BLOCKS >= n_blocks;
            const struct tile t = {s, b, td_min_u32(PANEL_BLOCKS, n_blocks - b), n_in};
            for (uint32_t g = 0; g < GROUPS; g++) {
                struct rows16 rows = {w + at[g] * stride + b * TD_Q8_0_BYTES, stride, b,
                                      t.n_blocks};
                if (n < LANES) copy_rows(TD_Q8_0_BYTES, s->copy, &rows, n);
                unpack(s->panel, g, &rows);
            }
            for (uint32_t i = 0, r = 0, m; i < n_tiles; i++, r += m) {
                m = tile_rows(n_rows, r, n_tiles - i);
                load_acc(&s->acc, b == 0, y + r, m, at, first_lanes(n));
                if (!is_last) fetch_share(ahead, stride, PANEL_BLOCKS * TD_Q8_0_BYTES, i, n_tiles);
                tile_any(m, &t, x + r);
                store_acc(&s->acc, y + r, m, at, first_lanes(n));
            }
        }
    }
}

// One row, 16 outputs at a time.
INLINE void single(struct scratch *s, float *y, const uint8_t *w, const void *x, uint32_t n_in,
                   uint32_t n_out)
{
    const uint32_t n_blocks = n_in / TD_QK;
    const size_t stride = n_blocks * TD_Q8_0_BYTES;
    const uint32_t n = td_min_u32(n_out, LANES);
    const __mmask16 mask = first_lanes(n);
    const uint32_t step = n < LANES ? COPY_BLOCKS : PLANE_BLOCKS;
    td_fetch(w, n * stride);
    for (uint32_t i = 0; i < n_out; i += LANES) {
        // The last group moves back to be whole; its first outputs are written twice.
        const uint32_t o = td_min_u32(i, n_out - n);
        const uint8_t *ahead = w + td_min_u32(i + LANES, n_out - n) * stride;
        for (uint32_t b = 0; b < n_blocks; b += step) {
            struct rows16 g = {w + o * stride + b * TD_Q8_0_BYTES, stride, b,
                               td_min_u32(step, n_blocks - b)};
            if (n < LANES) copy_rows(TD_Q8_0_BYTES, s->copy, &g, n);
            // One split serves all outputs, unless the row is longer than there is room for.
            if (i == 0 || n_blocks > step) {
                split(s->planes, (const int16_t *)x + (size_t)b * TD_QK, g.n_blocks);
            }
            __m512 acc = b ? _mm512_maskz_loadu_ps(mask, y + o) : _mm512_setzero_ps();
            acc = one_row(&g, s->planes, td_q16_d(x, n_in) + b, ahead + b * LANES * TD_Q8_0_BYTES,
                          acc);
            _mm512_mask_storeu_ps(y + o, mask, acc);
        }
    }
}

TARGET void td_mm_q8_0_q16_avx512(float *const *y, const void *w, const void *const *x,
                                  uint32_t n_in, uint32_t n_out, uint32_t n_rows, void *scratch)
{
    assert(n_in % TD_QK == 0);
    if (n_rows > 1)
        panels(scratch, y, w, x, n_in, n_out, n_rows);
    else if (n_rows == 1)
        single(scratch, y[0], w, x[0], n_in, n_out);
}

#endif
