// SPDX-License-Identifier: MIT
// Q8_0 and MXFP4 weights by 16-bit activations, for AVX-512 VNNI.
//
// Many rows: 64 weight rows, a few blocks of each, are widened once into a panel where lane o of a
// group of 16 holds two consecutive elements of output o; VPDPWSSD by a broadcast of two
// activations does the rest. As many multiplications as with two planes of bytes, and nothing to do
// to the activations.
//
// One row is left to AVX2, which is no slower there: memory is the limit, and its groups of eight
// rows, fetched one ahead, fit the first cache, where sixteen rows of 2880 or 4096 do not
// (measured: 18.4 against 15.5 GB/s from memory).
#include "kernels/avx512/avx512.h"

#if defined(__x86_64__)
#include "kernels/avx2/avx2.h"
#include "kernels/avx512/mxfp4_impl.h"

#include <assert.h>

#define PANEL_BLOCKS 8u // fits 48 KB of L1 with a tile's activations

// A block of 64 outputs: words[k][g] holds elements 2 * k and 2 * k + 1 of group g's outputs.
struct panel_block {
    uint8_t words[TD_QK / 2][GROUPS][4 * LANES];
    float scale[GROUPS][LANES];
};

struct scratch {
    struct panel_block panel[PANEL_BLOCKS];
    struct acc acc;
    uint8_t copy[LANES * PANEL_BLOCKS * TD_Q8_0_BYTES]; // MXFP4's are smaller
};
_Static_assert(sizeof(struct scratch) <= TD_MM_SCRATCH_BYTES, "fits");

INLINE size_t block_bytes(enum td_type type)
{
    return type == TD_MXFP4 ? TD_MXFP4_BYTES : TD_Q8_0_BYTES;
}

// Scales of one block of the 16 rows: E8M0, or binary16. They travel through memory: the load and
// store ports idle here.
INLINE void gather16(enum td_type type, uint16_t *out, const uint8_t *p, size_t stride)
{
    TD_UNROLL
    for (int o = 0; o < LANES; o++) {
        const uint8_t *at = p + (size_t)o * stride;
        out[o] = type == TD_MXFP4 ? *at : td_load_u16(at);
    }
}

INLINE __m512 scales16(enum td_type type, const uint16_t *d)
{
    return type == TD_MXFP4 ? e8m0_half16(_mm512_cvtepu16_epi32(load256(d)))
                            : _mm512_cvtph_ps(load256(d));
}

// Two pairs of words of each dword of bytes, which are elements 0 2 1 3: even and odd bytes.
INLINE void put_pairs(uint8_t (*out)[GROUPS][4 * LANES], uint32_t g, __m512i bytes)
{
    const __m512i even = _mm512_srai_epi16(_mm512_slli_epi16(bytes, 8), 8);
    _mm512_storeu_si512(out[0][g], even);
    _mm512_storeu_si512(out[1][g], _mm512_srai_epi16(bytes, 8));
}

// 16 bytes of each of the 16 rows, bytes 1 and 2 of each dword changed over -> their dwords.
INLINE void dwords16(__m512i dwords[4], const uint8_t *p, size_t stride)
{
    const __m512i order =
        _mm512_broadcast_i32x4(_mm_setr_epi8(0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15));
    __m512i v[4];
    TD_UNROLL
    for (int i = 0; i < 4; i++) {
        v[i] = _mm512_shuffle_epi8(load4(p + (size_t)i * stride, 4 * stride), order);
    }
    transpose4(dwords, v);
}

// One block of group g.
INLINE void unpack_block(enum td_type type, struct panel_block *panel, uint32_t g, const uint8_t *p,
                         size_t stride)
{
    __m512i dwords[4];
    if (type == TD_MXFP4) {
        const __m512i values = _mm512_broadcast_i32x4(load128(td_e2m1_doubled));
        const __m512i nibble = _mm512_set1_epi8(15);
        dwords16(dwords, p + 1, stride);
        TD_UNROLL
        for (int k = 0; k < 4; k++) {
            const __m512i lo = _mm512_and_si512(dwords[k], nibble);
            const __m512i hi = _mm512_and_si512(_mm512_srli_epi16(dwords[k], 4), nibble);
            put_pairs(panel->words + 2 * k, g, _mm512_shuffle_epi8(values, lo));
            put_pairs(panel->words + 8 + 2 * k, g, _mm512_shuffle_epi8(values, hi));
        }
        return;
    }
    TD_UNROLL
    for (int half = 0; half < 2; half++) {
        dwords16(dwords, p + 2 + 16 * half, stride);
        TD_UNROLL
        for (int k = 0; k < 4; k++) put_pairs(panel->words + 8 * half + 2 * k, g, dwords[k]);
    }
}

// Group g of the panel.
INLINE void unpack(enum td_type type, struct scratch *s, uint32_t g, const struct rows16 *w)
{
    struct panel_block *panel = s->panel;
    const size_t bytes = block_bytes(type);
    const uint8_t *p = w->p;
    uint16_t d[PANEL_BLOCKS][LANES];
    for (uint32_t b = 0; b < w->n_blocks; b++) gather16(type, d[b], p + b * bytes, w->stride);
    for (uint32_t b = 0; b < w->n_blocks; b++, p += bytes, panel++) {
        unpack_block(type, panel, g, p, w->stride);
        _mm512_storeu_ps(panel->scale[g], scales16(type, d[b]));
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
INLINE void panels(enum td_type type, struct scratch *s, float *const *y, const uint8_t *w,
                   const void *const *x, struct shape n)
{
    const uint32_t n_blocks = n.in / TD_QK;
    const size_t bytes = block_bytes(type), stride = n_blocks * bytes;
    const size_t panel_bytes = PANEL_BLOCKS * bytes;
    const uint32_t n_group = td_min_u32(n.out, LANES);
    const uint32_t n_tiles = (n.rows + TILE_ROWS - 1) / TILE_ROWS;
    for (uint32_t o = 0; o < n.out; o += GROUPS * LANES) {
        uint32_t at[GROUPS];
        place_groups(at, o, n.out);
        const uint8_t *ahead = w + o * stride;
        fetch_share(ahead, stride, panel_bytes, 0, 1);
        for (uint32_t b = 0; b < n_blocks; b += PANEL_BLOCKS) {
            ahead += panel_bytes;
            const bool is_last = b + PANEL_BLOCKS >= n_blocks;
            const struct tile t = {s, b, td_min_u32(PANEL_BLOCKS, n_blocks - b), n.in};
            for (uint32_t g = 0; g < GROUPS; g++) {
                struct rows16 rows = {w + at[g] * stride + b * bytes, stride, b, t.n_blocks};
                if (n_group < LANES) copy_rows(bytes, s->copy, &rows, n_group);
                unpack(type, s, g, &rows);
            }
            for (uint32_t i = 0, r = 0, m; i < n_tiles; i++, r += m) {
                m = tile_rows(n.rows, r, n_tiles - i);
                load_acc(&s->acc, b == 0, y + r, m, at, first_lanes(n_group));
                if (!is_last) fetch_share(ahead, stride, panel_bytes, i, n_tiles);
                tile_any(m, &t, x + r);
                store_acc(&s->acc, y + r, m, at, first_lanes(n_group));
            }
        }
    }
}

TARGET void td_mm_q8_0_q16_avx512(float *const *y, const void *w, const void *const *x,
                                  uint32_t n_in, uint32_t n_out, uint32_t n_rows, void *scratch)
{
    assert(n_in % TD_QK == 0);
    if (n_rows == 1)
        td_mm_q8_0_q16_avx2(y, w, x, n_in, n_out, n_rows, scratch);
    else
        panels(TD_Q8_0, scratch, y, w, x, (struct shape){n_in, n_out, n_rows});
}

TARGET void td_mm_mxfp4_q16_avx512(float *const *y, const void *w, const void *const *x,
                                   uint32_t n_in, uint32_t n_out, uint32_t n_rows, void *scratch)
{
    assert(n_in % TD_QK == 0);
    if (n_rows == 1)
        td_mm_mxfp4_q16_avx2(y, w, x, n_in, n_out, n_rows, scratch);
    else
        panels(TD_MXFP4, scratch, y, w, x, (struct shape){n_in, n_out, n_rows});
}

#endif
