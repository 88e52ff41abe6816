// SPDX-License-Identifier: MIT
// What the integer matrix products of NEON share: eight weight rows at a time, one for each lane of
// two vectors.
#ifndef TD_KERNELS_NEON_MM_IMPL_H
#define TD_KERNELS_NEON_MM_IMPL_H

#include "kernels/neon/vec_impl.h"

#include <stdbool.h>

#define LANES     8
#define TILE_ROWS 4 // activation rows that share a pass over a panel

// Eight weight rows, from their block `first` on.
struct rows8 {
    const uint8_t *p;
    size_t stride; // bytes from row to row
    uint32_t first;
    uint32_t n_blocks;
};

// One value for each of eight outputs.
struct f32x8 {
    float32x4_t v[2];
};

INLINE struct f32x8 load_y(const float *y, uint32_t n)
{
    return (struct f32x8){{load_n(y, n), n > 4 ? load_n(y + 4, n - 4) : vdupq_n_f32(0.0f)}};
}

INLINE void store_y(float *y, struct f32x8 acc, uint32_t n)
{
    store_n(y, acc.v[0], n);
    if (n > 4) store_n(y + 4, acc.v[1], n - 4);
}

// acc = fmaf(dw * dx, isum, acc)
INLINE float32x4_t add_block(float32x4_t acc, float32x4_t dw, float dx, int32x4_t isum)
{
    return vfmaq_f32(acc, vmulq_n_f32(dw, dx), vcvtq_f32_s32(isum));
}

// Four vectors of four partial sums -> the sums.
INLINE int32x4_t sums4(const int32x4_t v[4])
{
    return vpaddq_s32(vpaddq_s32(v[0], v[1]), vpaddq_s32(v[2], v[3]));
}

// 16 elements of four rows -> dwords k of all four, for k = 0..3, 32 bytes apart.
INLINE void transpose4(uint8_t *out, const int8x16_t v[4])
{
    const int32x4_t a = vreinterpretq_s32_s8(v[0]), b = vreinterpretq_s32_s8(v[1]);
    const int32x4_t c = vreinterpretq_s32_s8(v[2]), d = vreinterpretq_s32_s8(v[3]);
    const int64x2_t ab_even = vreinterpretq_s64_s32(vtrn1q_s32(a, b));
    const int64x2_t ab_odd = vreinterpretq_s64_s32(vtrn2q_s32(a, b));
    const int64x2_t cd_even = vreinterpretq_s64_s32(vtrn1q_s32(c, d));
    const int64x2_t cd_odd = vreinterpretq_s64_s32(vtrn2q_s32(c, d));
    vst1q_u8(out, vreinterpretq_u8_s64(vzip1q_s64(ab_even, cd_even)));
    vst1q_u8(out + 32, vreinterpretq_u8_s64(vzip1q_s64(ab_odd, cd_odd)));
    vst1q_u8(out + 64, vreinterpretq_u8_s64(vzip2q_s64(ab_even, cd_even)));
    vst1q_u8(out + 96, vreinterpretq_u8_s64(vzip2q_s64(ab_odd, cd_odd)));
}

// One step of four elements: dword LANE of the 16 activations of each row.
#define STEP(LANE)                                                                                 \
    do {                                                                                           \
        const int8x16_t w0 = vreinterpretq_s8_u8(vld1q_u8(p + 32 * (LANE)));                       \
        const int8x16_t w1 = vreinterpretq_s8_u8(vld1q_u8(p + 32 * (LANE) + 16));                  \
        TD_UNROLL for (int r = 0; r < n; r++)                                                      \
        {                                                                                          \
            sum[r][0] = DOT_LANE(sum[r][0], w0, x[r], LANE);                                       \
            sum[r][1] = DOT_LANE(sum[r][1], w1, x[r], LANE);                                       \
        }                                                                                          \
    } while (0)

// 16 elements of eight outputs, as transpose4 leaves them, by 16 of each of n rows.
INLINE void half_block(int n, int32x4_t (*sum)[2], const uint8_t *p, const int8x16_t *x)
{
    STEP(0);
    STEP(1);
    STEP(2);
    STEP(3);
}

// Four rows by eight outputs as SMMLA leaves them: [pair of rows][pair of outputs], and within, of
// the first output the two rows, then of the second.
struct pairs {
    float32x4_t v[2][4];
};

// From n <= 4 rows of y, or from 0 on; the last row stands in for those that are not there.
INLINE struct pairs load_pairs(float *const *y, uint32_t n, uint32_t n_out, bool from_0)
{
    struct pairs acc;
    TD_UNROLL
    for (uint32_t j = 0; j < 2; j++) {
        TD_UNROLL
        for (int i = 0; i < 4; i++) acc.v[j][i] = vdupq_n_f32(0.0f);
        if (from_0) continue;
        const struct f32x8 y0 = load_y(y[td_min_u32(2 * j, n - 1)], n_out);
        const struct f32x8 y1 = load_y(y[td_min_u32(2 * j + 1, n - 1)], n_out);
        TD_UNROLL
        for (int g = 0; g < 2; g++) {
            acc.v[j][2 * g] = vzip1q_f32(y0.v[g], y1.v[g]);
            acc.v[j][2 * g + 1] = vzip2q_f32(y0.v[g], y1.v[g]);
        }
    }
    return acc;
}

INLINE void store_pairs(float *const *y, uint32_t n, uint32_t n_out, const struct pairs *acc)
{
    for (uint32_t r = 0; r < n; r++) {
        const float32x4_t *a = acc->v[r / 2];
        const struct f32x8 even = {{vuzp1q_f32(a[0], a[1]), vuzp1q_f32(a[2], a[3])}};
        const struct f32x8 odd = {{vuzp2q_f32(a[0], a[1]), vuzp2q_f32(a[2], a[3])}};
        store_y(y[r], r % 2 ? odd : even, n_out);
    }
}

// acc = fmaf(dw * dx, sum, acc); dw: eight scales, dx: of row r at row[r] + i_d.
INLINE void add_pairs(struct pairs *acc, const int32x4_t sum[2][4], const uint8_t *dw,
                      const uint8_t *const *row, size_t i_d)
{
    TD_UNROLL
    for (int j = 0; j < 2; j++) {
        const float dx[4] = {td_load_f32(row[2 * j] + i_d), td_load_f32(row[2 * j + 1] + i_d),
                             td_load_f32(row[2 * j] + i_d), td_load_f32(row[2 * j + 1] + i_d)};
        const float32x4_t dxj = vld1q_f32(dx);
        TD_UNROLL
        for (int g = 0; g < 2; g++) {
            const float32x4_t d = vreinterpretq_f32_u8(vld1q_u8(dw + 16 * g));
            float32x4_t *a = &acc->v[j][2 * g];
            a[0] = vfmaq_f32(a[0], vmulq_f32(vzip1q_f32(d, d), dxj), vcvtq_f32_s32(sum[j][2 * g]));
            a[1] =
                vfmaq_f32(a[1], vmulq_f32(vzip2q_f32(d, d), dxj), vcvtq_f32_s32(sum[j][2 * g + 1]));
        }
    }
}

// Fewer than eight outputs: their rows are copied, the last one repeated to make eight.
INLINE void copy_rows(size_t block_bytes, uint8_t *copy, struct rows8 *w, uint32_t n)
{
    const size_t n_bytes = w->n_blocks * block_bytes;
    for (uint32_t o = 0; o < LANES; o++) {
        memcpy(copy + o * n_bytes, w->p + td_min_u32(o, n - 1) * w->stride, n_bytes);
    }
    w->p = copy;
    w->stride = n_bytes;
}

#endif
