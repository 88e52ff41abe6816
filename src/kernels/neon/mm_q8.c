// SPDX-License-Identifier: MIT
// MXFP4 weights by 8-bit activations, for Arm with SDOT, and with SMMLA where there is i8mm.
//
// Several outputs are computed together, in the lanes of a vector or two, so that the one float
// operation per block and output, whose order is fixed, costs a quarter. Two ways to their integer
// sums:
//   few rows:  weights stay as they are in the file and each is unpacked once for all activation
//              rows; four weight rows at a time are read nearly as they lie in memory, which is the
//              limit here; the four partial sums of each are folded by pairwise additions;
//   many rows: the eight weight rows are unpacked once into a panel where a lane holds four
//              consecutive elements of its output, so that SDOT by a lane of the activations does
//              the rest. SMMLA multiplies two rows of eight by two rows of eight, twice the work of
//              SDOT in one instruction: its panel has pairs of outputs, its sums are 2 x 2.
// Same integers, same floats, same order: same bits.
#include "kernels/neon/neon.h"

#if defined(__aarch64__)
#include "kernels/neon/mm_impl.h"

#include <assert.h>

// Blocks of eight outputs in the panel: codes, then scales.
#define PANEL_BLOCK_BYTES (TD_QK * LANES + 4 * LANES)
#define PANEL_BLOCKS      512u
#define COPY_BLOCKS       64u   // see copy_rows
#define MAX_FEW           4     // activation rows; from here on a panel pays, by count
#define FEW               4     // weight rows at a time
#define FETCH_BYTES       8192u // so far ahead of them the next are fetched

struct scratch {
    uint8_t panel[PANEL_BLOCKS * PANEL_BLOCK_BYTES];
    uint8_t copy[LANES * COPY_BLOCKS * TD_MXFP4_BYTES];
};
_Static_assert(sizeof(struct scratch) <= TD_MM_SCRATCH_BYTES, "fits");

// One block of a row as integers: elements 0-15 and 16-31.
INLINE void codes(const uint8_t *p, int8x16_t *lo, int8x16_t *hi)
{
    const int8x16_t values = vld1q_s8(td_e2m1_doubled);
    const uint8x16_t v = vld1q_u8(p + 1);
    *lo = vqtbl1q_s8(values, vandq_u8(v, vdupq_n_u8(15)));
    *hi = vqtbl1q_s8(values, vshrq_n_u8(v, 4));
}

INLINE struct f32x8 scales8(const uint8_t *p, size_t stride)
{
    uint32_t bits[LANES];
    for (int o = 0; o < LANES; o++) bits[o] = td_e8m0_half[p[(size_t)o * stride]];
    return (struct f32x8){
        {vreinterpretq_f32_u32(vld1q_u32(bits)), vreinterpretq_f32_u32(vld1q_u32(bits + 4))}};
}

// Four weight rows, from their first block on.
struct rows4 {
    const uint8_t *p[FEW];
};

// Scales of block b; lane r has that of weight row r.
INLINE float32x4_t scales4(const struct rows4 *w, uint32_t b)
{
    uint32x4_t bits = vdupq_n_u32(0);
    const size_t at = (size_t)b * TD_MXFP4_BYTES;
    bits = vld1q_lane_u32(&td_e8m0_half[w->p[0][at]], bits, 0);
    bits = vld1q_lane_u32(&td_e8m0_half[w->p[1][at]], bits, 1);
    bits = vld1q_lane_u32(&td_e8m0_half[w->p[2][at]], bits, 2);
    bits = vld1q_lane_u32(&td_e8m0_half[w->p[3][at]], bits, 3);
    return vreinterpretq_f32_u32(bits);
}

// Products of four weight rows with n activation rows, n a constant: of activation row i in acc[i],
// one lane for each weight row. ahead: what is fetched meanwhile, as many bytes as they have.
INLINE void few_rows(int n, float32x4_t acc[MAX_FEW], const struct rows4 *w, const void *const *x,
                     uint32_t n_in, const uint8_t *ahead)
{
    TD_UNROLL
    for (int i = 0; i < n; i++) acc[i] = vdupq_n_f32(0.0f);
    for (uint32_t b = 0; b < n_in / TD_QK; b++) {
        td_fetch(ahead + (size_t)b * FEW * TD_MXFP4_BYTES, FEW * TD_MXFP4_BYTES);
        int32x4_t v[MAX_FEW][FEW];
        TD_UNROLL
        for (int r = 0; r < FEW; r++) {
            int8x16_t lo, hi;
            codes(w->p[r] + (size_t)b * TD_MXFP4_BYTES, &lo, &hi);
            TD_UNROLL
            for (int i = 0; i < n; i++) {
                const int8_t *q = (const int8_t *)x[i] + (size_t)b * TD_QK;
                v[i][r] = DOT(DOT(vdupq_n_s32(0), lo, vld1q_s8(q)), hi, vld1q_s8(q + 16));
            }
        }
        const float32x4_t dw = scales4(w, b);
        TD_UNROLL
        for (int i = 0; i < n; i++)
            acc[i] = add_block(acc[i], dw, td_q8_d(x[i], n_in)[b], sums4(v[i]));
    }
}

// All outputs of n activation rows, n a constant.
INLINE void few_n(int n, float *const *y, const uint8_t *w, const void *const *x, uint32_t n_in,
                  uint32_t n_out)
{
    const size_t stride = n_in / TD_QK * TD_MXFP4_BYTES;
    const uint32_t n_w = td_min_u32(n_out, FEW);
    td_fetch(w, FETCH_BYTES);
    for (uint32_t i_out = 0; i_out < n_out; i_out += FEW) {
        // The last group moves back to be whole: its first outputs are written twice; fewer than
        // four have the last one repeated.
        const uint32_t o = td_min_u32(i_out, n_out - n_w);
        struct rows4 rows;
        for (uint32_t r = 0; r < FEW; r++) rows.p[r] = w + (o + td_min_u32(r, n_w - 1)) * stride;
        float32x4_t acc[MAX_FEW];
        few_rows(n, acc, &rows, x, n_in, rows.p[0] + FETCH_BYTES);
        TD_UNROLL
        for (int i = 0; i < n; i++) store_n(y[i] + o, acc[i], n_w);
    }
}

TARGET static void few(float *const *y, const uint8_t *w, const void *const *x, uint32_t n_in,
                       uint32_t n_out, uint32_t n_rows)
{
    switch (n_rows) {
    case 1: few_n(1, y, w, x, n_in, n_out); return;
    case 2: few_n(2, y, w, x, n_in, n_out); return;
    case 3: few_n(3, y, w, x, n_in, n_out); return;
    default: few_n(MAX_FEW, y, w, x, n_in, n_out); return;
    }
}

TARGET static void unpack(uint8_t *panel, const struct rows8 *w)
{
    const uint8_t *p = w->p;
    for (uint32_t b = 0; b < w->n_blocks; b++, p += TD_MXFP4_BYTES, panel += PANEL_BLOCK_BYTES) {
        TD_UNROLL
        for (int g = 0; g < 2; g++) {
            int8x16_t lo[4], hi[4];
            TD_UNROLL
            for (int i = 0; i < 4; i++) {
                codes(p + (size_t)(4 * g + i) * w->stride, &lo[i], &hi[i]);
            }
            transpose4(panel + 16 * g, lo);
            transpose4(panel + 128 + 16 * g, hi);
        }
        const struct f32x8 d = scales8(p, w->stride);
        vst1q_u8(panel + 256, vreinterpretq_u8_f32(d.v[0]));
        vst1q_u8(panel + 272, vreinterpretq_u8_f32(d.v[1]));
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
    size_t i_q = (size_t)t->w->first * TD_QK;
    size_t i_d = t->n_in + (size_t)t->w->first * 4;
    for (uint32_t b = 0; b < t->w->n_blocks; b++, p += PANEL_BLOCK_BYTES, i_q += TD_QK, i_d += 4) {
        int32x4_t sum[TILE_ROWS][2];
        TD_UNROLL
        for (int r = 0; r < n; r++) sum[r][0] = sum[r][1] = vdupq_n_s32(0);
        TD_UNROLL
        for (int h = 0; h < 2; h++) {
            int8x16_t part[TILE_ROWS];
            TD_UNROLL
            for (int r = 0; r < n; r++) part[r] = vld1q_s8((const int8_t *)x[r] + i_q + 16 * h);
            half_block(n, sum, p + 128 * h, part);
        }
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

// How a panel is made and used.
struct way {
    void (*unpack)(uint8_t *panel, const struct rows8 *w);
    void (*tile)(uint32_t n, const struct tile *t, float *const *y, const void *const *x);
};

// As unpack, for SMMLA: for each eight elements, four pairs of outputs.
TARGET static void unpack_pairs(uint8_t *panel, const struct rows8 *w)
{
    const uint8_t *p = w->p;
    for (uint32_t b = 0; b < w->n_blocks; b++, p += TD_MXFP4_BYTES, panel += PANEL_BLOCK_BYTES) {
        TD_UNROLL
        for (int i = 0; i < 4; i++) {
            int8x16_t v[4];
            codes(p + (size_t)(2 * i) * w->stride, &v[0], &v[1]);
            codes(p + (size_t)(2 * i + 1) * w->stride, &v[2], &v[3]);
            TD_UNROLL
            for (int h = 0; h < 2; h++) {
                const int64x2_t even = vreinterpretq_s64_s8(v[h]);
                const int64x2_t odd = vreinterpretq_s64_s8(v[2 + h]);
                uint8_t *out = panel + 128 * h + 16 * i;
                vst1q_u8(out, vreinterpretq_u8_s64(vzip1q_s64(even, odd)));
                vst1q_u8(out + 64, vreinterpretq_u8_s64(vzip2q_s64(even, odd)));
            }
        }
        const struct f32x8 d = scales8(p, w->stride);
        vst1q_u8(panel + 256, vreinterpretq_u8_f32(d.v[0]));
        vst1q_u8(panel + 272, vreinterpretq_u8_f32(d.v[1]));
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
    size_t i_q = (size_t)t->w->first * TD_QK;
    size_t i_d = t->n_in + (size_t)t->w->first * 4;
    for (uint32_t b = 0; b < t->w->n_blocks; b++, p += PANEL_BLOCK_BYTES, i_q += TD_QK, i_d += 4) {
        int32x4_t sum[2][4];
        TD_UNROLL
        for (int i = 0; i < 4; i++) sum[0][i] = sum[1][i] = vdupq_n_s32(0);
        TD_UNROLL
        for (int k = 0; k < 4; k++) {
            int8x16_t xk[2];
            TD_UNROLL
            for (int j = 0; j < 2; j++) {
                xk[j] = vreinterpretq_s8_u8(vcombine_u8(vld1_u8(row[2 * j] + i_q + 8 * k),
                                                        vld1_u8(row[2 * j + 1] + i_q + 8 * k)));
            }
            TD_UNROLL
            for (int i = 0; i < 4; i++) {
                const int8x16_t wi = vreinterpretq_s8_u8(vld1q_u8(p + 64 * k + 16 * i));
                sum[0][i] = matmul_2x8(sum[0][i], wi, xk[0]);
                sum[1][i] = matmul_2x8(sum[1][i], wi, xk[1]);
            }
        }
        add_pairs(&acc, sum, p + 256, row, i_d);
    }
    store_pairs(y, n, t->n_out, &acc);
}

INLINE void mm(const struct way *way, float *const *y, const uint8_t *w, const void *const *x,
               uint32_t n_in, uint32_t n_out, uint32_t n_rows, struct scratch *s)
{
    assert(n_in % TD_QK == 0);
    if (n_rows <= MAX_FEW) {
        few(y, w, x, n_in, n_out, n_rows);
        return;
    }
    const uint32_t n_blocks = n_in / TD_QK;
    const size_t stride = n_blocks * TD_MXFP4_BYTES;
    const uint32_t n = td_min_u32(n_out, LANES);
    const uint32_t step = n < LANES ? COPY_BLOCKS : PANEL_BLOCKS;
    for (uint32_t i = 0; i < n_out; i += LANES) {
        // The last group moves back to be whole; its first outputs are written twice.
        const uint32_t o = td_min_u32(i, n_out - n);
        for (uint32_t b = 0; b < n_blocks; b += step) {
            struct rows8 g = {w + o * stride + b * TD_MXFP4_BYTES, stride, b,
                              td_min_u32(step, n_blocks - b)};
            if (n < LANES) copy_rows(TD_MXFP4_BYTES, s->copy, &g, n);
            way->unpack(s->panel, &g);
            const struct tile t = {s->panel, &g, n_in, n};
            for (uint32_t r = 0; r < n_rows; r += TILE_ROWS) {
                float *yo[TILE_ROWS];
                const uint32_t n_r = td_min_u32(n_rows - r, TILE_ROWS);
                for (uint32_t j = 0; j < n_r; j++) yo[j] = y[r + j] + o;
                way->tile(n_r, &t, yo, x + r);
            }
        }
    }
}

TARGET void td_mm_mxfp4_q8_neon(float *const *y, const void *w, const void *const *x, uint32_t n_in,
                                uint32_t n_out, uint32_t n_rows, void *scratch)
{
    static const struct way sdot = {unpack, tile_any};
    mm(&sdot, y, w, x, n_in, n_out, n_rows, scratch);
}

TARGET void td_mm_mxfp4_q8_i8mm(float *const *y, const void *w, const void *const *x, uint32_t n_in,
                                uint32_t n_out, uint32_t n_rows, void *scratch)
{
    static const struct way smmla = {unpack_pairs, tile_pairs};
    mm(&smmla, y, w, x, n_in, n_out, n_rows, scratch);
}

#endif
