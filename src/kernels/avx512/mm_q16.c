// SPDX-License-Identifier: MIT
// Q8_0 weights by 16-bit activations, for AVX-512 VNNI. Sixteen outputs together, one per lane, as
// in mm_q8.c, and again two ways to their integer sums:
//   one row:   an activation is 256 * high + low, high signed and low unsigned. VPDPBUSD, unsigned
//              by signed bytes, takes low * w as it is, and high * (w + 128) less 128 * high, which
//              is summed beforehand. So weights are used as they lie in the file, in 13 operations
//              per four blocks; widened to words for VPDPWSSD it would be 16. The activations are
//              split once for all outputs.
//   many rows: 16 weight rows are widened once into a panel where lane o holds two consecutive
//              elements of output o; VPDPWSSD by a broadcast of two activations does the rest. As
//              many multiplications as with bytes, and nothing to do to the activations.
#include "kernels/avx512/avx512.h"

#if defined(__x86_64__)
#include "kernels/avx512/mm_impl.h"

#include <assert.h>

// Blocks of 16 outputs in the panel: pairs of words, then scales.
#define PANEL_BLOCK_BYTES (2 * TD_QK * LANES + 4 * LANES)
#define PANEL_BLOCKS      208u
#define PLANE_BLOCKS      2048u
#define TILE_ROWS         8 // activation rows that share a pass over the panel
#define COPY_BLOCKS       64u

// A block of activations in bytes; 16 bytes a lane of the vectors it meets.
struct planes {
    int8_t high[TD_QK];
    uint8_t low[TD_QK];
    int32_t start[4]; // -128 * sum of high, in parts
};

struct scratch {
    union {
        uint8_t panel[PANEL_BLOCKS * PANEL_BLOCK_BYTES];
        struct planes planes[PLANE_BLOCKS];
    };
    uint8_t copy[LANES * COPY_BLOCKS * TD_Q8_0_BYTES];
};
_Static_assert(sizeof(struct scratch) <= TD_MM_SCRATCH_BYTES, "fits");

// Scales of one block of the 16 rows. Bytes travel through memory: the load and store ports idle
// here while the vector ports are what limits.
INLINE __m512 scales16(const uint8_t *p, size_t stride)
{
    uint16_t d[LANES];
    for (int o = 0; o < LANES; o++) d[o] = td_load_u16(p + (size_t)o * stride);
    return _mm512_cvtph_ps(load256(d));
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

// Products of the rows with one activation row, from acc on.
INLINE __m512 one_row(const struct rows16 *w, const struct planes *x, const float *d, __m512 acc)
{
    enum { BATCH = 16 }; // blocks whose scales are fetched ahead, so that their stores have landed
    const __m512i top = _mm512_set1_epi8((char)-128);
    float scale[BATCH * LANES];
    for (uint32_t b0 = 0; b0 < w->n_blocks; b0 += BATCH) {
        const uint32_t b1 = td_min_u32(b0 + BATCH, w->n_blocks);
        const uint8_t *p = w->p + b0 * TD_Q8_0_BYTES;
        for (uint32_t b = b0; b < b1; b++, p += TD_Q8_0_BYTES) {
            _mm512_storeu_ps(scale + (b - b0) * LANES, scales16(p, w->stride));
        }
        p = w->p + b0 * TD_Q8_0_BYTES;
        for (uint32_t b = b0; b < b1; b++, p += TD_Q8_0_BYTES) {
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
            const __m512 dw = _mm512_loadu_ps(scale + (b - b0) * LANES);
            acc = _mm512_fmadd_ps(_mm512_mul_ps(dw, _mm512_set1_ps(d[b])),
                                  _mm512_cvtepi32_ps(sums16(v)), acc);
        }
    }
    return acc;
}

// 16 elements of the 16 rows -> eight vectors of pairs of words.
INLINE void unpack_half(uint8_t *out, const uint8_t *p, size_t stride)
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
        _mm512_storeu_si512(out + 128 * k, even);
        _mm512_storeu_si512(out + 128 * k + 64, _mm512_srai_epi16(dwords[k], 8));
    }
}

INLINE void unpack(uint8_t *panel, const struct rows16 *w)
{
    const uint8_t *p = w->p;
    for (uint32_t b = 0; b < w->n_blocks; b++, p += TD_Q8_0_BYTES, panel += PANEL_BLOCK_BYTES) {
        unpack_half(panel, p + 2, w->stride);
        unpack_half(panel + 512, p + 18, w->stride);
        _mm512_storeu_ps(panel + 1024, scales16(p, w->stride));
    }
}

// What a tile needs besides its rows.
struct tile {
    const uint8_t *panel;
    const struct rows16 *w;
    uint32_t n_in;
    __mmask16 mask; // outputs that exist
};

// 16 elements of all outputs and n rows: half a block, so that its weights stay in registers.
INLINE void half_block(int n, __m512i *sum, const uint8_t *p, const void *const *x, size_t i_q)
{
    __m512i w[8];
    TD_UNROLL
    for (int k = 0; k < 8; k++) w[k] = _mm512_loadu_si512(p + 64 * k);
    TD_UNROLL
    for (int r = 0; r < n; r++) {
        const uint8_t *row = (const uint8_t *)x[r] + i_q;
        TD_UNROLL
        for (int k = 0; k < 8; k++) {
            int32_t two;
            memcpy(&two, row + 4 * k, sizeof(two));
            sum[r] = _mm512_dpwssd_epi32(sum[r], w[k], _mm512_set1_epi32(two));
        }
    }
}

// Panel times n activation rows, n a constant.
INLINE void tile_n(int n, const struct tile *t, float *const *y, const void *const *x)
{
    __m512 acc[TILE_ROWS];
    TD_UNROLL
    for (int r = 0; r < n; r++) {
        acc[r] = t->w->first ? _mm512_maskz_loadu_ps(t->mask, y[r]) : _mm512_setzero_ps();
    }
    const uint8_t *p = t->panel;
    size_t i_q = (size_t)t->w->first * TD_QK * 2;
    size_t i_d = (size_t)t->n_in * 2 + (size_t)t->w->first * 4;
    for (uint32_t b = 0; b < t->w->n_blocks; b++, p += PANEL_BLOCK_BYTES, i_d += 4) {
        __m512i sum[TILE_ROWS];
        TD_UNROLL
        for (int r = 0; r < n; r++) sum[r] = _mm512_setzero_si512();
        half_block(n, sum, p, x, i_q);
        half_block(n, sum, p + 512, x, i_q + TD_QK);
        i_q += 2 * TD_QK;
        const __m512 dw = _mm512_loadu_ps((const void *)(p + 1024));
        TD_UNROLL
        for (int r = 0; r < n; r++) {
            const float dx = td_load_f32((const uint8_t *)x[r] + i_d);
            acc[r] = _mm512_fmadd_ps(_mm512_mul_ps(dw, _mm512_set1_ps(dx)),
                                     _mm512_cvtepi32_ps(sum[r]), acc[r]);
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
    default: tile_n(8, t, y, x); return;
    }
}

INLINE void many_rows(const struct tile *t, float *const *y, const void *const *x, uint32_t n_rows,
                      uint32_t o)
{
    // Tiles of nearly one size: 9 rows are 5 and 4, not 8 and 1.
    const uint32_t n_tiles = (n_rows + TILE_ROWS - 1) / TILE_ROWS;
    uint32_t r = 0;
    for (uint32_t i = 0; i < n_tiles; i++) {
        const uint32_t n = (n_rows - r + n_tiles - i - 1) / (n_tiles - i);
        float *yo[TILE_ROWS];
        for (uint32_t j = 0; j < n; j++) yo[j] = y[r + j] + o;
        tile_any(n, t, yo, x + r);
        r += n;
    }
}

TARGET void td_mm_q8_0_q16_avx512(float *const *y, const void *w, const void *const *x,
                                  uint32_t n_in, uint32_t n_out, uint32_t n_rows, void *scratch)
{
    assert(n_in % TD_QK == 0);
    struct scratch *s = scratch;
    const uint32_t n_blocks = n_in / TD_QK;
    const size_t stride = n_blocks * TD_Q8_0_BYTES;
    const uint32_t n = td_min_u32(n_out, LANES);
    const __mmask16 mask = first_lanes(n);
    const uint32_t step = n < LANES ? COPY_BLOCKS : n_rows == 1 ? PLANE_BLOCKS : PANEL_BLOCKS;
    for (uint32_t i = 0; i < n_out; i += LANES) {
        // The last group moves back to be whole; its first outputs are written twice.
        const uint32_t o = td_min_u32(i, n_out - n);
        for (uint32_t b = 0; b < n_blocks; b += step) {
            struct rows16 g = {(const uint8_t *)w + o * stride + b * TD_Q8_0_BYTES, stride, b,
                               td_min_u32(step, n_blocks - b)};
            if (n < LANES) copy_rows(TD_Q8_0_BYTES, s->copy, &g, n);
            if (n_rows > 1) {
                const struct tile t = {s->panel, &g, n_in, mask};
                unpack(s->panel, &g);
                many_rows(&t, y, x, n_rows, o);
                continue;
            }
            // One split serves all outputs, unless the row is longer than there is room for.
            if (i == 0 || n_blocks > step) {
                split(s->planes, (const int16_t *)x[0] + (size_t)b * TD_QK, g.n_blocks);
            }
            __m512 acc = b ? _mm512_maskz_loadu_ps(mask, y[0] + o) : _mm512_setzero_ps();
            acc = one_row(&g, s->planes, td_q16_d(x[0], n_in) + b, acc);
            _mm512_mask_storeu_ps(y[0] + o, mask, acc);
        }
    }
}

#endif
