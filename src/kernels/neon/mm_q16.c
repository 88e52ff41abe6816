// SPDX-License-Identifier: MIT
// Q8_0 and MXFP4 weights by 16-bit activations, for Arm with SDOT, and with SMMLA where there is
// i8mm.
//
// An activation is 256 * high + 128 + low, both signed bytes, so a product with SDOT is
//   256 * sum(high * w) + sum(low * w) + 128 * sum(w):
// six SDOT for 32 elements of one row and output, where words would take four widenings and eight
// SMLAL, which moreover many cores start only once a cycle. Eight outputs together, in the lanes of
// two vectors, as in mm_q8.c, and again two ways to their integer sums:
//   one row:   weights stay as they are in the file; SDOT by ones sums them;
//   many rows: the panel carries 128 * sum(w) with every block; four SDOT are left, or two SMMLA,
//              which multiply two rows of eight by two rows of eight at once. Their panel has pairs
//              of outputs, their sums are 2 x 2.
#include "kernels/neon/neon.h"

#if defined(__aarch64__)
#include "kernels/neon/mm_impl.h"

#include <assert.h>

// Blocks of eight outputs in the panel: codes, then scales, then 128 times the sums of the codes.
#define PANEL_BLOCK_BYTES (TD_QK * LANES + 4 * LANES + 4 * LANES)
#define PANEL_BLOCKS      512u
#define COPY_BLOCKS       64u

struct scratch {
    uint8_t panel[PANEL_BLOCKS * PANEL_BLOCK_BYTES];
    uint8_t copy[LANES * COPY_BLOCKS * TD_Q8_0_BYTES]; // MXFP4's are smaller
};
_Static_assert(sizeof(struct scratch) <= TD_MM_SCRATCH_BYTES, "fits");

INLINE int8x16_t load_s8(const uint8_t *p)
{
    return vreinterpretq_s8_u8(vld1q_u8(p));
}

// The high and low bytes of 16 activations.
INLINE int8x16_t high16(const uint8_t *q)
{
    return vuzp2q_s8(load_s8(q), load_s8(q + 16));
}

INLINE int8x16_t low16(const uint8_t *q)
{
    return veorq_s8(vuzp1q_s8(load_s8(q), load_s8(q + 16)), vdupq_n_s8(-128));
}

INLINE size_t block_bytes(enum td_type type)
{
    return type == TD_MXFP4 ? TD_MXFP4_BYTES : TD_Q8_0_BYTES;
}

// One block of a row: elements 0-15 and 16-31.
INLINE void codes(enum td_type type, const uint8_t *p, int8x16_t *lo, int8x16_t *hi)
{
    if (type == TD_MXFP4) {
        const int8x16_t values = vld1q_s8(td_e2m1_doubled);
        const uint8x16_t v = vld1q_u8(p + 1);
        *lo = vqtbl1q_s8(values, vandq_u8(v, vdupq_n_u8(15)));
        *hi = vqtbl1q_s8(values, vshrq_n_u8(v, 4));
    } else {
        *lo = load_s8(p + 2);
        *hi = load_s8(p + 18);
    }
}

INLINE struct f32x8 scales8(enum td_type type, const uint8_t *p, size_t stride)
{
    if (type == TD_MXFP4) {
        uint32_t bits[LANES];
        for (int o = 0; o < LANES; o++) bits[o] = td_e8m0_half[p[(size_t)o * stride]];
        return (struct f32x8){
            {vreinterpretq_f32_u32(vld1q_u32(bits)), vreinterpretq_f32_u32(vld1q_u32(bits + 4))}};
    }
    uint16_t half[LANES];
    for (int o = 0; o < LANES; o++) half[o] = td_load_u16(p + (size_t)o * stride);
    return (struct f32x8){{vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(half))),
                           vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(half + 4)))}};
}

// Products of the rows with one activation row (q, d: from the rows' first block), from acc on.
INLINE struct f32x8 one_row(enum td_type type, const struct rows8 *w, const uint8_t *q,
                            const float *d, struct f32x8 acc)
{
    const int8x16_t ones = vdupq_n_s8(1);
    const uint8_t *p = w->p;
    for (uint32_t b = 0; b < w->n_blocks; b++, p += block_bytes(type), q += 2 * TD_QK) {
        const int8x16_t high_lo = high16(q), high_hi = high16(q + TD_QK);
        const int8x16_t low_lo = low16(q), low_hi = low16(q + TD_QK);
        const struct f32x8 dw = scales8(type, p, w->stride);
        TD_UNROLL
        for (int g = 0; g < 2; g++) {
            int32x4_t v[4];
            TD_UNROLL
            for (int i = 0; i < 4; i++) {
                int8x16_t lo, hi;
                codes(type, p + (size_t)(4 * g + i) * w->stride, &lo, &hi);
                int32x4_t sum = DOT(DOT(vdupq_n_s32(0), lo, high_lo), hi, high_hi);
                sum = DOT(DOT(vaddq_s32(sum, sum), lo, ones), hi, ones);
                v[i] = DOT(DOT(vshlq_n_s32(sum, 7), lo, low_lo), hi, low_hi);
            }
            acc.v[g] = add_block(acc.v[g], dw.v[g], d[b], sums4(v));
        }
    }
    return acc;
}

// Eight weight rows as they go into the panel: each block's codes by put, then what all ways share.
INLINE void unpack_by(enum td_type type,
                      void (*put)(uint8_t *panel, const int8x16_t *lo, const int8x16_t *hi),
                      uint8_t *panel, const struct rows8 *w)
{
    const int8x16_t by128 = vdupq_n_s8(-128);
    const uint8_t *p = w->p;
    for (uint32_t b = 0; b < w->n_blocks; b++, p += block_bytes(type), panel += PANEL_BLOCK_BYTES) {
        const struct f32x8 d = scales8(type, p, w->stride);
        int8x16_t lo[8], hi[8];
        int32x4_t v[8];
        TD_UNROLL
        for (int i = 0; i < 8; i++) {
            codes(type, p + (size_t)i * w->stride, &lo[i], &hi[i]);
            v[i] = DOT(DOT(vdupq_n_s32(0), lo[i], by128), hi[i], by128);
        }
        put(panel, lo, hi);
        TD_UNROLL
        for (int g = 0; g < 2; g++) {
            vst1q_u8(panel + 256 + 16 * g, vreinterpretq_u8_f32(d.v[g]));
            vst1q_u8(panel + 288 + 16 * g, vreinterpretq_u8_s32(vnegq_s32(sums4(v + 4 * g))));
        }
    }
}

INLINE void put_dwords(uint8_t *panel, const int8x16_t *lo, const int8x16_t *hi)
{
    TD_UNROLL
    for (int g = 0; g < 2; g++) {
        transpose4(panel + 16 * g, lo + 4 * g);
        transpose4(panel + 128 + 16 * g, hi + 4 * g);
    }
}

TARGET static void unpack_q8_0(uint8_t *panel, const struct rows8 *w)
{
    unpack_by(TD_Q8_0, put_dwords, panel, w);
}

TARGET static void unpack_mxfp4(uint8_t *panel, const struct rows8 *w)
{
    unpack_by(TD_MXFP4, put_dwords, panel, w);
}

// For each eight elements, four pairs of outputs.
INLINE void put_pairs(uint8_t *panel, const int8x16_t *lo, const int8x16_t *hi)
{
    TD_UNROLL
    for (int h = 0; h < 2; h++) {
        const int8x16_t *v = h ? hi : lo;
        TD_UNROLL
        for (int i = 0; i < 4; i++) {
            const int64x2_t even = vreinterpretq_s64_s8(v[2 * i]);
            const int64x2_t odd = vreinterpretq_s64_s8(v[2 * i + 1]);
            uint8_t *out = panel + 128 * h + 16 * i;
            vst1q_u8(out, vreinterpretq_u8_s64(vzip1q_s64(even, odd)));
            vst1q_u8(out + 64, vreinterpretq_u8_s64(vzip2q_s64(even, odd)));
        }
    }
}

TARGET static void unpack_q8_0_pairs(uint8_t *panel, const struct rows8 *w)
{
    unpack_by(TD_Q8_0, put_pairs, panel, w);
}

TARGET static void unpack_mxfp4_pairs(uint8_t *panel, const struct rows8 *w)
{
    unpack_by(TD_MXFP4, put_pairs, panel, w);
}

// What a tile needs besides its rows.
struct tile {
    const uint8_t *panel;
    const struct rows8 *w;
    uint32_t n_in;
    uint32_t n_out; // outputs that exist, of eight
};

// The sums of one block of eight outputs and n rows.
INLINE void block_sums(int n, int32x4_t (*sum)[2], const uint8_t *p, const void *const *x,
                       size_t i_q)
{
    TD_UNROLL
    for (int r = 0; r < n; r++) sum[r][0] = sum[r][1] = vdupq_n_s32(0);
    int8x16_t part[TILE_ROWS];
    TD_UNROLL
    for (int h = 0; h < 2; h++) {
        TD_UNROLL
        for (int r = 0; r < n; r++) part[r] = high16((const uint8_t *)x[r] + i_q + TD_QK * h);
        half_block(n, sum, p + 128 * h, part);
    }
    const int32x4_t sum_w0 = vreinterpretq_s32_u8(vld1q_u8(p + 288));
    const int32x4_t sum_w1 = vreinterpretq_s32_u8(vld1q_u8(p + 304));
    TD_UNROLL
    for (int r = 0; r < n; r++) {
        sum[r][0] = vaddq_s32(vshlq_n_s32(sum[r][0], 8), sum_w0);
        sum[r][1] = vaddq_s32(vshlq_n_s32(sum[r][1], 8), sum_w1);
    }
    TD_UNROLL
    for (int h = 0; h < 2; h++) {
        TD_UNROLL
        for (int r = 0; r < n; r++) part[r] = low16((const uint8_t *)x[r] + i_q + TD_QK * h);
        half_block(n, sum, p + 128 * h, part);
    }
}

// Panel times n activation rows, n a constant.
INLINE void tile_n(int n, const struct tile *t, float *const *y, const void *const *x)
{
    struct f32x8 acc[TILE_ROWS];
    TD_UNROLL
    for (int r = 0; r < n; r++) {
        if (t->w->first) {
            acc[r] = load_y(y[r], t->n_out);
        } else {
            acc[r].v[0] = acc[r].v[1] = vdupq_n_f32(0.0f);
        }
    }
    const uint8_t *p = t->panel;
    size_t i_q = (size_t)t->w->first * TD_QK * 2;
    size_t i_d = (size_t)t->n_in * 2 + (size_t)t->w->first * 4;
    for (uint32_t b = 0; b < t->w->n_blocks; b++, p += PANEL_BLOCK_BYTES, i_d += 4) {
        int32x4_t sum[TILE_ROWS][2];
        block_sums(n, sum, p, x, i_q);
        i_q += 2 * TD_QK;
        const float32x4_t dw0 = vreinterpretq_f32_u8(vld1q_u8(p + 256));
        const float32x4_t dw1 = vreinterpretq_f32_u8(vld1q_u8(p + 272));
        TD_UNROLL
        for (int r = 0; r < n; r++) {
            const float dx = td_load_f32((const uint8_t *)x[r] + i_d);
            acc[r].v[0] = add_block(acc[r].v[0], dw0, dx, sum[r][0]);
            acc[r].v[1] = add_block(acc[r].v[1], dw1, dx, sum[r][1]);
        }
    }
    TD_UNROLL
    for (int r = 0; r < n; r++) store_y(y[r], acc[r], t->n_out);
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

// Panel of pairs times four activation rows, two by two; of which the caller may want fewer.
TARGET_I8MM static void tile_pairs(uint32_t n, const struct tile *t, float *const *y,
                                   const void *const *x)
{
    const uint8_t *row[TILE_ROWS];
    for (uint32_t r = 0; r < TILE_ROWS; r++) row[r] = x[td_min_u32(r, n - 1)];
    struct pairs acc = load_pairs(y, n, t->n_out, t->w->first == 0);
    const uint8_t *p = t->panel;
    size_t i_q = (size_t)t->w->first * TD_QK * 2;
    size_t i_d = (size_t)t->n_in * 2 + (size_t)t->w->first * 4;
    for (uint32_t b = 0; b < t->w->n_blocks; b++, p += PANEL_BLOCK_BYTES, i_d += 4) {
        int32x4_t high[2][4], low[2][4];
        TD_UNROLL
        for (int i = 0; i < 4; i++) {
            // 128 * sum(w) of output 2 * i for both rows, then of the next output.
            const int32x4_t sum_w = vreinterpretq_s32_u8(vld1q_u8(p + 288 + 16 * (i / 2)));
            high[0][i] = high[1][i] = vdupq_n_s32(0);
            low[0][i] = low[1][i] = i % 2 ? vzip2q_s32(sum_w, sum_w) : vzip1q_s32(sum_w, sum_w);
        }
        // Not unrolled: gcc would load all activations first and spill the sums.
        for (int k = 0; k < 4; k++, i_q += 16) {
            TD_UNROLL
            for (int j = 0; j < 2; j++) {
                // Eight activations of two rows: all high bytes, all low bytes.
                const int8x16_t a = load_s8(row[2 * j] + i_q);
                const int8x16_t c = load_s8(row[2 * j + 1] + i_q);
                const int8x16_t x_high = vuzp2q_s8(a, c);
                const int8x16_t x_low = veorq_s8(vuzp1q_s8(a, c), vdupq_n_s8(-128));
                TD_UNROLL
                for (int i = 0; i < 4; i++) {
                    const int8x16_t w = load_s8(p + 64 * k + 16 * i);
                    high[j][i] = matmul_2x8(high[j][i], w, x_high);
                    low[j][i] = matmul_2x8(low[j][i], w, x_low);
                }
            }
        }
        TD_UNROLL
        for (int i = 0; i < 4; i++) {
            low[0][i] = vaddq_s32(low[0][i], vshlq_n_s32(high[0][i], 8));
            low[1][i] = vaddq_s32(low[1][i], vshlq_n_s32(high[1][i], 8));
        }
        add_pairs(&acc, low, p + 256, row, i_d);
    }
    store_pairs(y, n, t->n_out, &acc);
}

// How a panel is made and used.
struct way {
    enum td_type type;
    void (*unpack)(uint8_t *panel, const struct rows8 *w);
    void (*tile)(uint32_t n, const struct tile *t, float *const *y, const void *const *x);
};

INLINE void mm(const struct way *way, float *const *y, const uint8_t *w, const void *const *x,
               uint32_t n_in, uint32_t n_out, uint32_t n_rows, struct scratch *s)
{
    assert(n_in % TD_QK == 0);
    const uint32_t n_blocks = n_in / TD_QK;
    const size_t bytes = block_bytes(way->type), stride = n_blocks * bytes;
    const uint32_t n = td_min_u32(n_out, LANES);
    const uint32_t step = n < LANES ? COPY_BLOCKS : n_rows == 1 ? n_blocks : PANEL_BLOCKS;
    for (uint32_t i = 0; i < n_out; i += LANES) {
        // The last group moves back to be whole; its first outputs are written twice.
        const uint32_t o = td_min_u32(i, n_out - n);
        for (uint32_t b = 0; b < n_blocks; b += step) {
            struct rows8 g = {w + o * stride + b * bytes, stride, b,
                              td_min_u32(step, n_blocks - b)};
            if (n < LANES) copy_rows(bytes, s->copy, &g, n);
            if (n_rows == 1) {
                struct f32x8 acc = {{vdupq_n_f32(0.0f), vdupq_n_f32(0.0f)}};
                if (b) acc = load_y(y[0] + o, n);
                const uint8_t *q = (const uint8_t *)x[0] + (size_t)b * TD_QK * 2;
                acc = one_row(way->type, &g, q, td_q16_d(x[0], n_in) + b, acc);
                store_y(y[0] + o, acc, n);
                continue;
            }
            const struct tile t = {s->panel, &g, n_in, n};
            way->unpack(s->panel, &g);
            for (uint32_t r = 0; r < n_rows; r += TILE_ROWS) {
                float *yo[TILE_ROWS];
                const uint32_t n_r = td_min_u32(n_rows - r, TILE_ROWS);
                for (uint32_t j = 0; j < n_r; j++) yo[j] = y[r + j] + o;
                way->tile(n_r, &t, yo, x + r);
            }
        }
    }
}

TARGET void td_mm_q8_0_q16_neon(float *const *y, const void *w, const void *const *x, uint32_t n_in,
                                uint32_t n_out, uint32_t n_rows, void *scratch)
{
    static const struct way sdot = {TD_Q8_0, unpack_q8_0, tile_any};
    mm(&sdot, y, w, x, n_in, n_out, n_rows, scratch);
}

TARGET void td_mm_q8_0_q16_i8mm(float *const *y, const void *w, const void *const *x, uint32_t n_in,
                                uint32_t n_out, uint32_t n_rows, void *scratch)
{
    static const struct way smmla = {TD_Q8_0, unpack_q8_0_pairs, tile_pairs};
    mm(&smmla, y, w, x, n_in, n_out, n_rows, scratch);
}

TARGET void td_mm_mxfp4_q16_neon(float *const *y, const void *w, const void *const *x,
                                 uint32_t n_in, uint32_t n_out, uint32_t n_rows, void *scratch)
{
    static const struct way sdot = {TD_MXFP4, unpack_mxfp4, tile_any};
    mm(&sdot, y, w, x, n_in, n_out, n_rows, scratch);
}

TARGET void td_mm_mxfp4_q16_i8mm(float *const *y, const void *w, const void *const *x,
                                 uint32_t n_in, uint32_t n_out, uint32_t n_rows, void *scratch)
{
    static const struct way smmla = {TD_MXFP4, unpack_mxfp4_pairs, tile_pairs};
    mm(&smmla, y, w, x, n_in, n_out, n_rows, scratch);
}

#endif
