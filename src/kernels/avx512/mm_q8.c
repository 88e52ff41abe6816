// SPDX-License-Identifier: MIT
// MXFP4 weights by 8-bit activations, for AVX-512 VNNI.
//
// VPDPBUSD adds four products of unsigned by signed bytes to each 32-bit lane. Doubled E2M1 values
// are made unsigned by adding 12, and 12 times the sum of the block's activations, which their row
// carries, is taken back: that is where a sum starts.
//
// Several outputs are computed together, so that the float operations, one per block and output in
// a fixed order, are done for all of them at once. Two ways to their integer sums:
//   few rows:  weights stay as they are in the file; four blocks of a row make a vector, and the
//              vectors of four rows, lanes of four partial sums, go through a transposing add tree;
//   many rows: 64 weight rows, a few blocks of each, are unpacked once into a panel where lane o
//              holds four consecutive elements of output o, so that a broadcast of four activation
//              bytes does the rest.
// Same integers, same floats, same order: same bits.
#include "kernels/avx512/avx512.h"

#if defined(__x86_64__)
#include "kernels/avx512/mxfp4_impl.h"

#include <assert.h>

#define PANEL_BLOCKS 15u   // fits 48 KB of L1 with a tile's activations; at most 16, see start
#define FETCH_BYTES  8192u // see few; 6, 8, 12 and 16 KB were as good

// A block of 64 outputs: codes[k][g] holds elements 4 * k to 4 * k + 3 of group g's outputs.
struct panel_block {
    uint8_t codes[TD_QK / 4][GROUPS][4 * LANES];
    float scale[GROUPS][LANES];
};

struct scratch {
    struct panel_block panel[PANEL_BLOCKS];
    int32_t start[TILE_ROWS][16]; // of the sums of each block
    struct acc acc;
    uint8_t copy[LANES * PANEL_BLOCKS * TD_MXFP4_BYTES];
};
_Static_assert(sizeof(struct scratch) <= TD_MM_SCRATCH_BYTES, "fits");

// Scale bytes of one block of the 16 rows, then as floats. They travel through memory: the load and
// store ports idle here while the vector ports are what limits.
INLINE void gather16(uint8_t *out, const uint8_t *p, size_t stride)
{
    TD_UNROLL
    for (int o = 0; o < LANES; o++) out[o] = p[(size_t)o * stride];
}

// ---- few rows ---------------------------------------------------------------------------------

#define FEW     4 // weight rows at a time, and blocks
#define MAX_FEW 4 // activation rows at most: from here on a panel pays

// Four weight rows, from their first block on.
struct rows4 {
    const uint8_t *p[FEW];
};

// An activation row, block by block.
struct row {
    const int8_t *q;
    const float *d;
    const int32_t *s;
};

// Each lane has one of these words, then each dword of a lane is shifted by so much.
INLINE __m512i by_lane(int a, int b, int c, int d)
{
    return _mm512_setr_epi32(a, a, a, a, b, b, b, b, c, c, c, c, d, d, d, d);
}

// Block b of the four rows and the n - 1 after it (n <= 4), times each of n_x activation rows:
// sums[i] begins as where the partial sums of activation row i start. sums and e, the scale bytes,
// have lane j for block b + j and dword r for weight row r. x: elements 0-15 of the blocks, then
// 16-31.
INLINE void four_by_four(bool has_vbmi, int n, const struct rows4 *w, uint32_t b, int n_x,
                         __m512i x[][2], __m512i *sums, __m512i *e)
{
    // A block has 17 bytes: the scales are in words 0, 8, 17 and 25, by turns low and high.
    const __m512i words = by_lane(0, 8 | 8 << 16, 17 | 17 << 16, 25 | 25 << 16);
    const __m512i shift = by_lane(0, 8, 0, 8);
    // All that four blocks have of the first 64 bytes; of fewer no more than theirs.
    const __mmask64 there = n == 4 ? ~(__mmask64)0 : ((__mmask64)1 << (n * 17)) - 1;
    __m512i v[MAX_FEW][FEW], at = _mm512_setzero_si512();
    TD_UNROLL
    for (int r = 0; r < FEW; r++) {
        const uint8_t *p = w->p[r] + b * TD_MXFP4_BYTES;
        const __m512i bytes = _mm512_maskz_loadu_epi8(there, p);
        at = _mm512_mask_permutexvar_epi16(at, 0x03030303u << (2 * r), words, bytes);
        __m512i q = _mm512_castsi128_si512(load128(p + 1));
        if (n > 1) q = _mm512_inserti32x4(q, load128(p + 1 + TD_MXFP4_BYTES), 1);
        if (n > 2) q = _mm512_inserti32x4(q, load128(p + 1 + 2 * TD_MXFP4_BYTES), 2);
        if (n > 3) q = _mm512_inserti32x4(q, load128(p + 1 + 3 * TD_MXFP4_BYTES), 3);
        __m512i lo, hi;
        codes(has_vbmi, q, &lo, &hi);
        TD_UNROLL
        for (int i = 0; i < n_x; i++) {
            v[i][r] = sums[i];
            dpbusd(&v[i][r], lo, x[i][0]);
            dpbusd(&v[i][r], hi, x[i][1]);
        }
    }
    TD_UNROLL
    for (int i = 0; i < n_x; i++) sums[i] = sums16(v[i]);
    *e = _mm512_and_si512(_mm512_srlv_epi32(at, shift), _mm512_set1_epi32(255));
}

// acc[i], one float a weight row, plus the products of n blocks (at most 4) from b on with
// activation row i.
INLINE void add_blocks(bool has_vbmi, int n, const struct rows4 *w, uint32_t b, int n_x,
                       const struct row *x, __m128 *acc)
{
    const __m512i lanes = by_lane(0, 1, 2, 3);
    const __mmask16 m = first_lanes((uint32_t)n);
    const __mmask16 m0 = n > 1 ? 0xffff : 0x00ff;
    const __mmask16 m1 = n > 3 ? 0xffff : n == 3 ? 0x00ff : 0;
    __m512i halves[MAX_FEW][2], sums[MAX_FEW], e;
    TD_UNROLL
    for (int i = 0; i < n_x; i++) {
        const __m512i q0 = _mm512_maskz_loadu_epi32(m0, x[i].q + b * TD_QK);
        const __m512i q1 = _mm512_maskz_loadu_epi32(m1, x[i].q + b * TD_QK + 64);
        halves[i][0] = _mm512_shuffle_i32x4(q0, q1, 0x88);
        halves[i][1] = _mm512_shuffle_i32x4(q0, q1, 0xdd);
        const __m512i s = _mm512_permutexvar_epi32(lanes, _mm512_maskz_loadu_epi32(m, x[i].s + b));
        // -(OFFSET / 4) times s: a quarter in each of the four partial sums.
        sums[i] = _mm512_sub_epi32(s, _mm512_slli_epi32(s, 2));
    }
    four_by_four(has_vbmi, n, w, b, n_x, halves, sums, &e);
    const __m512 dw = e8m0_half16(e);
    TD_UNROLL
    for (int i = 0; i < n_x; i++) {
        const __m512 dx = _mm512_permutexvar_ps(lanes, _mm512_maskz_loadu_ps(m, x[i].d + b));
        const __m512 d = _mm512_mul_ps(dw, dx);
        const __m512 f = _mm512_cvtepi32_ps(sums[i]);
        __m128 a = _mm_fmadd_ps(_mm512_castps512_ps128(d), _mm512_castps512_ps128(f), acc[i]);
        if (n > 1) a = _mm_fmadd_ps(_mm512_extractf32x4_ps(d, 1), _mm512_extractf32x4_ps(f, 1), a);
        if (n > 2) a = _mm_fmadd_ps(_mm512_extractf32x4_ps(d, 2), _mm512_extractf32x4_ps(f, 2), a);
        if (n > 3) a = _mm_fmadd_ps(_mm512_extractf32x4_ps(d, 3), _mm512_extractf32x4_ps(f, 3), a);
        acc[i] = a;
    }
}

// Products of four weight rows with n_x activation rows. ahead: what is fetched meanwhile, as many
// bytes as the weight rows have.
INLINE void four_rows(bool has_vbmi, const struct rows4 *w, uint32_t n_blocks, int n_x,
                      const struct row *x, const uint8_t *ahead, __m128 *acc)
{
    uint32_t b = 0;
    for (; b + 4 <= n_blocks; b += 4) {
        td_fetch(ahead + b * FEW * TD_MXFP4_BYTES, 4 * FEW * TD_MXFP4_BYTES);
        add_blocks(has_vbmi, 4, w, b, n_x, x, acc);
    }
    switch (n_blocks - b) {
    case 3: add_blocks(has_vbmi, 3, w, b, n_x, x, acc); break;
    case 2: add_blocks(has_vbmi, 2, w, b, n_x, x, acc); break;
    case 1: add_blocks(has_vbmi, 1, w, b, n_x, x, acc); break;
    default: break;
    }
}

// n_x activation rows, a constant. Four weight rows at a time are read nearly as they lie in
// memory, and what lies FETCH_BYTES further is fetched: far enough for the time memory takes, near
// enough that it is still in the first cache when it is used.
INLINE void few_n(bool has_vbmi, int n_x, float *const *y, const uint8_t *w, const void *const *x,
                  uint32_t n_in, uint32_t n_out)
{
    const uint32_t n_blocks = n_in / TD_QK;
    const size_t stride = n_blocks * TD_MXFP4_BYTES;
    const uint32_t n = td_min_u32(n_out, FEW);
    const __mmask8 mask = (__mmask8)first_lanes(n);
    struct row row[MAX_FEW];
    TD_UNROLL
    for (int i = 0; i < n_x; i++)
        row[i] = (struct row){x[i], td_q8_d(x[i], n_in), td_q8_s(x[i], n_in)};
    td_fetch(w, FETCH_BYTES);
    for (uint32_t i_out = 0; i_out < n_out; i_out += FEW) {
        // The last group moves back to be whole, its first outputs are written twice; fewer than
        // four have the last one repeated.
        const uint32_t o = td_min_u32(i_out, n_out - n);
        struct rows4 rows;
        TD_UNROLL
        for (uint32_t r = 0; r < FEW; r++) rows.p[r] = w + (o + td_min_u32(r, n - 1)) * stride;
        __m128 acc[MAX_FEW];
        TD_UNROLL
        for (int i = 0; i < n_x; i++) acc[i] = _mm_setzero_ps();
        four_rows(has_vbmi, &rows, n_blocks, n_x, row, rows.p[0] + FETCH_BYTES, acc);
        TD_UNROLL
        for (int i = 0; i < n_x; i++) _mm_mask_storeu_ps(y[i] + o, mask, acc[i]);
    }
}

INLINE void few(bool has_vbmi, float *const *y, const uint8_t *w, const void *const *x,
                uint32_t n_in, uint32_t n_out, uint32_t n_rows)
{
    switch (n_rows) {
    case 1: few_n(has_vbmi, 1, y, w, x, n_in, n_out); return;
    case 2: few_n(has_vbmi, 2, y, w, x, n_in, n_out); return;
    case 3: few_n(has_vbmi, 3, y, w, x, n_in, n_out); return;
    default: few_n(has_vbmi, MAX_FEW, y, w, x, n_in, n_out); return;
    }
}

// ---- many rows --------------------------------------------------------------------------------

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
        _mm512_storeu_ps(panel->scale[g], e8m0_half16(_mm512_cvtepu8_epi32(load128(e[b]))));
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

TARGET void td_mm_mxfp4_q8_avx512(float *const *y, const void *w, const void *const *x,
                                  uint32_t n_in, uint32_t n_out, uint32_t n_rows, void *scratch)
{
    assert(n_in % TD_QK == 0);
    if (n_rows > MAX_FEW)
        panels(scratch, y, w, x, n_in, n_out, n_rows);
    else
        few(false, y, w, x, n_in, n_out, n_rows);
}

TARGET void td_mm_mxfp4_q8_vbmi(float *const *y, const void *w, const void *const *x, uint32_t n_in,
                                uint32_t n_out, uint32_t n_rows, void *scratch)
{
    assert(n_in % TD_QK == 0);
    if (n_rows > MAX_FEW)
        td_mm_mxfp4_q8_avx512(y, w, x, n_in, n_out, n_rows, scratch);
    else
        few(true, y, w, x, n_in, n_out, n_rows);
}

#endif
