// SPDX-License-Identifier: MIT
// Q8_0 and MXFP4 weights by 16-bit activations, for AVX2. Weights are widened to words; VPMADDWD
// multiplies and adds pairs exactly. Eight outputs together, one per lane, as in mm_q8.c, and again
// two ways to their integer sums:
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
    uint8_t copy[LANES * COPY_BLOCKS * TD_Q8_0_BYTES]; // MXFP4's are smaller
};
_Static_assert(sizeof(struct scratch) <= TD_MM_SCRATCH_BYTES, "fits");

INLINE size_t block_bytes(enum td_type type)
{
    return type == TD_MXFP4 ? TD_MXFP4_BYTES : TD_Q8_0_BYTES;
}

// Codes of 16 bytes of MXFP4: doubled E2M1 values of the low nibbles, of the high ones.
INLINE void nibbles(__m256i v, __m256i *lo, __m256i *hi)
{
    const __m256i values = _mm256_broadcastsi128_si256(load128(td_e2m1_doubled));
    const __m256i nibble = _mm256_set1_epi8(15);
    *lo = _mm256_shuffle_epi8(values, _mm256_and_si256(v, nibble));
    *hi = _mm256_shuffle_epi8(values, _mm256_and_si256(_mm256_srli_epi16(v, 4), nibble));
}

// Scales of one block of the eight rows, through memory: the load and store ports idle here. Those
// of Q8_0 stay as they are until they are used.
struct scales8 {
    union {
        uint16_t half[LANES];
        uint32_t bits[LANES];
    };
};

INLINE void gather8(enum td_type type, struct scales8 *out, const uint8_t *p, size_t stride)
{
    TD_UNROLL
    for (int o = 0; o < LANES; o++) {
        const uint8_t *at = p + (size_t)o * stride;
        if (type == TD_MXFP4)
            out->bits[o] = td_e8m0_half[*at];
        else
            out->half[o] = td_load_u16(at);
    }
}

INLINE __m256 scales(enum td_type type, const struct scales8 *s)
{
    return type == TD_MXFP4 ? _mm256_castsi256_ps(load256(s->bits))
                            : _mm256_cvtph_ps(load128(s->half));
}

// Eight partial sums of one block of one row.
INLINE __m256i products(enum td_type type, const uint8_t *p, __m256i x_lo, __m256i x_hi)
{
    __m128i lo, hi;
    if (type == TD_MXFP4) {
        const __m128i v = load128(p + 1), values = load128(td_e2m1_doubled);
        const __m128i nibble = _mm_set1_epi8(15);
        lo = _mm_shuffle_epi8(values, _mm_and_si128(v, nibble));
        hi = _mm_shuffle_epi8(values, _mm_and_si128(_mm_srli_epi16(v, 4), nibble));
    } else {
        lo = load128(p + 2);
        hi = load128(p + 18);
    }
    return _mm256_add_epi32(_mm256_madd_epi16(_mm256_cvtepi8_epi16(lo), x_lo),
                            _mm256_madd_epi16(_mm256_cvtepi8_epi16(hi), x_hi));
}

// Products of the rows with one activation row (q, d: from the rows' first block), from acc on.
// ahead: see td_fetch.
INLINE __m256 one_row(enum td_type type, const struct rows8 *w, const int16_t *q, const float *d,
                      const uint8_t *ahead, __m256 acc)
{
    enum { BATCH = 16 }; // blocks whose scales are fetched ahead, so that their stores have landed
    const size_t bytes = block_bytes(type);
    struct scales8 dw[BATCH];
    for (uint32_t b0 = 0; b0 < w->n_blocks; b0 += BATCH) {
        const uint32_t b1 = td_min_u32(b0 + BATCH, w->n_blocks);
        const uint8_t *p = w->p + b0 * bytes;
        for (uint32_t b = b0; b < b1; b++, p += bytes) gather8(type, &dw[b - b0], p, w->stride);
        p = w->p + b0 * bytes;
        for (uint32_t b = b0; b < b1; b++, p += bytes) {
            td_fetch(ahead + b * LANES * bytes, LANES * bytes);
            const __m256i x_lo = load256(q + b * TD_QK);
            const __m256i x_hi = load256(q + b * TD_QK + 16);
            __m256i v[4]; // v[i]: rows i and i + 4, four partial sums each
            TD_UNROLL
            for (int i = 0; i < 4; i++) {
                const __m256i even = products(type, p + (size_t)i * w->stride, x_lo, x_hi);
                const __m256i odd = products(type, p + (size_t)(i + 4) * w->stride, x_lo, x_hi);
                v[i] = _mm256_add_epi32(_mm256_blend_epi32(even, odd, 0xf0),
                                        _mm256_permute2x128_si256(even, odd, 0x21));
            }
            const __m256 both = _mm256_mul_ps(scales(type, &dw[b - b0]), _mm256_set1_ps(d[b]));
            acc = _mm256_fmadd_ps(both, _mm256_cvtepi32_ps(sums8(v)), acc);
        }
    }
    return acc;
}

// 16 elements of the eight rows (v[i]: of rows i and i + 4) -> eight vectors of pairs of words.
INLINE void unpack_half(uint8_t *out, const __m256i v[4])
{
    // Bytes 0 2 1 3 of a dword: then even and odd bytes are its two pairs.
    const __m256i order = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15));
    __m256i ordered[4], dwords[4];
    TD_UNROLL
    for (int i = 0; i < 4; i++) ordered[i] = _mm256_shuffle_epi8(v[i], order);
    transpose4(dwords, ordered);
    TD_UNROLL
    for (int k = 0; k < 4; k++) {
        const __m256i even = _mm256_srai_epi16(_mm256_slli_epi16(dwords[k], 8), 8);
        _mm256_storeu_si256((void *)(out + 64 * k), even);
        _mm256_storeu_si256((void *)(out + 64 * k + 32), _mm256_srai_epi16(dwords[k], 8));
    }
}

INLINE void unpack(enum td_type type, uint8_t *panel, const struct rows8 *w)
{
    const uint8_t *p = w->p;
    const size_t bytes = block_bytes(type);
    for (uint32_t b = 0; b < w->n_blocks; b++, p += bytes, panel += PANEL_BLOCK_BYTES) {
        __m256i lo[4], hi[4];
        TD_UNROLL
        for (int i = 0; i < 4; i++) {
            const uint8_t *row = p + (size_t)i * w->stride;
            if (type == TD_MXFP4) {
                nibbles(load2(row + 1, 4 * w->stride), &lo[i], &hi[i]);
            } else {
                lo[i] = load2(row + 2, 4 * w->stride);
                hi[i] = load2(row + 18, 4 * w->stride);
            }
        }
        unpack_half(panel, lo);
        unpack_half(panel + 256, hi);
        struct scales8 dw;
        gather8(type, &dw, p, w->stride);
        const __m256 scale = scales(type, &dw);
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

INLINE void mm(enum td_type type, float *const *y, const uint8_t *w, const void *const *x,
               uint32_t n_in, uint32_t n_out, uint32_t n_rows, struct scratch *s)
{
    assert(n_in % TD_QK == 0);
    const size_t bytes = block_bytes(type);
    const uint32_t n_blocks = n_in / TD_QK;
    const size_t stride = n_blocks * bytes;
    const uint32_t n = td_min_u32(n_out, LANES);
    const uint32_t step = n < LANES ? COPY_BLOCKS : n_rows == 1 ? n_blocks : PANEL_BLOCKS;
    if (n_rows == 1) td_fetch(w, n * stride);
    for (uint32_t i = 0; i < n_out; i += LANES) {
        // The last group moves back to be whole; its first outputs are written twice.
        const uint32_t o = td_min_u32(i, n_out - n);
        const uint8_t *ahead = w + td_min_u32(i + LANES, n_out - n) * stride;
        for (uint32_t b = 0; b < n_blocks; b += step) {
            struct rows8 g = {w + o * stride + b * bytes, stride, b,
                              td_min_u32(step, n_blocks - b)};
            if (n < LANES) copy_rows(bytes, s->copy, &g, n);
            if (n_rows == 1) {
                const int16_t *q = x[0];
                const __m256 acc = b ? load_n(y[0] + o, n) : _mm256_setzero_ps();
                store_n(y[0] + o,
                        one_row(type, &g, q + (size_t)b * TD_QK, td_q16_d(q, n_in) + b,
                                ahead + b * LANES * bytes, acc),
                        n);
                continue;
            }
            const struct tile t = {s->panel, &g, n_in, n};
            unpack(type, s->panel, &g);
            for (uint32_t r = 0; r < n_rows; r += TILE_ROWS) {
                float *yo[TILE_ROWS];
                const uint32_t n_r = td_min_u32(n_rows - r, TILE_ROWS);
                for (uint32_t j = 0; j < n_r; j++) yo[j] = y[r + j] + o;
                tile_any(n_r, &t, yo, x + r);
            }
        }
    }
}

TARGET void td_mm_q8_0_q16_avx2(float *const *y, const void *w, const void *const *x, uint32_t n_in,
                                uint32_t n_out, uint32_t n_rows, void *scratch)
{
    mm(TD_Q8_0, y, w, x, n_in, n_out, n_rows, scratch);
}

TARGET void td_mm_mxfp4_q16_avx2(float *const *y, const void *w, const void *const *x,
                                 uint32_t n_in, uint32_t n_out, uint32_t n_rows, void *scratch)
{
    mm(TD_MXFP4, y, w, x, n_in, n_out, n_rows, scratch);
}

#endif
