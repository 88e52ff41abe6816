// SPDX-License-Identifier: MIT
// What the integer matrix products of AVX-512 share: 16 weight rows at a time, one per lane.
#ifndef TD_KERNELS_AVX512_MM_IMPL_H
#define TD_KERNELS_AVX512_MM_IMPL_H

#include "kernels/avx512/vec_impl.h"

#include <stdbool.h>

#define LANES 16

// Many activation rows: a tile is 4 x 16 outputs by 6 rows. Its 24 sums, the weights they share and
// one activation just fit the 32 registers, and each load then feeds 2.4 dot products: Ice Lake
// does two of these a cycle, but loads of 512 bits came at one (measured).
#define GROUPS    4
#define TILE_ROWS 6

// Of a product.
struct shape {
    uint32_t in, out, rows;
};

// Where the 4 groups of outputs from o on begin. Groups beyond the last move back to be whole: some
// outputs are computed twice, to the same bits.
INLINE void place_groups(uint32_t at[GROUPS], uint32_t o, uint32_t n_out)
{
    const uint32_t n = td_min_u32(n_out, LANES);
    for (uint32_t g = 0; g < GROUPS; g++) at[g] = td_min_u32(o + g * LANES, n_out - n);
}

// Rows of the tile that begins at row r, when n_tiles are left. They are nearly of one size: 7 rows
// are 4 and 3, not 6 and 1.
INLINE uint32_t tile_rows(uint32_t n_rows, uint32_t r, uint32_t n_tiles)
{
    return (n_rows - r + n_tiles - 1) / n_tiles;
}

struct acc {
    float v[TILE_ROWS][GROUPS][LANES];
};

// The accumulators of n rows, from where outputs go or from 0 on, and back. at[g]: of group g.
INLINE void load_acc(struct acc *acc, bool from_0, float *const *y, uint32_t n,
                     const uint32_t at[GROUPS], __mmask16 mask)
{
    for (uint32_t r = 0; r < n; r++)
        for (uint32_t g = 0; g < GROUPS; g++)
            _mm512_store_ps(acc->v[r][g], from_0 ? _mm512_setzero_ps()
                                                 : _mm512_maskz_loadu_ps(mask, y[r] + at[g]));
}

INLINE void store_acc(const struct acc *acc, float *const *y, uint32_t n, const uint32_t at[GROUPS],
                      __mmask16 mask)
{
    for (uint32_t r = 0; r < n; r++)
        for (uint32_t g = 0; g < GROUPS; g++)
            _mm512_mask_storeu_ps(y[r] + at[g], mask, _mm512_load_ps(acc->v[r][g]));
}

// acc = fmaf(dw * dx, sum, acc) for n rows, the one float operation of a block. dx: of row r at
// row[r] + i_d.
INLINE void fold_block(int n, struct acc *acc, __m512i sum[TILE_ROWS][GROUPS],
                       const float dw[GROUPS][LANES], const uint8_t *const *row, size_t i_d)
{
    __m512 d[GROUPS];
    TD_UNROLL
    for (int g = 0; g < GROUPS; g++) d[g] = _mm512_load_ps(dw[g]);
    TD_UNROLL
    for (int r = 0; r < n; r++) {
        const __m512 dx = _mm512_set1_ps(td_load_f32(row[r] + i_d));
        TD_UNROLL
        for (int g = 0; g < GROUPS; g++) {
            float *a = acc->v[r][g];
            _mm512_store_ps(a, _mm512_fmadd_ps(_mm512_mul_ps(d[g], dx),
                                               _mm512_cvtepi32_ps(sum[r][g]), _mm512_load_ps(a)));
        }
    }
    // Or gcc would keep the accumulators on the stack, and here as well.
    __asm__ volatile("" ::: "memory");
}

// 16 weight rows, from their block `first` on.
struct rows16 {
    const uint8_t *p;
    size_t stride; // bytes from row to row
    uint32_t first;
    uint32_t n_blocks;
};

// Many rows: a panel's rows are fetched while the panel before is used, tile i of n its share.
INLINE void fetch_share(const uint8_t *p, size_t stride, size_t n_bytes, uint32_t i, uint32_t n)
{
    const uint32_t n_rows = GROUPS * LANES;
    for (uint32_t r = n_rows * i / n; r < n_rows * (i + 1) / n; r++)
        td_fetch(p + r * stride, n_bytes);
}

// 16 bytes of each of four rows.
INLINE __m512i load4(const uint8_t *p, size_t stride)
{
    __m512i v = _mm512_castsi128_si512(load128(p));
    v = _mm512_inserti32x4(v, load128(p + stride), 1);
    v = _mm512_inserti32x4(v, load128(p + 2 * stride), 2);
    return _mm512_inserti32x4(v, load128(p + 3 * stride), 3);
}

// sum += four products of unsigned by signed bytes in each lane; of two pairs of words. gcc 12 does
// not see that its own intrinsics may work in place: of two dozen sums it copies and spills most.
INLINE void dpbusd(__m512i *sum, __m512i u, __m512i s)
{
    __asm__("vpdpbusd %2, %1, %0" : "+v"(*sum) : "v"(u), "v"(s));
}

INLINE void dpwssd(__m512i *sum, __m512i a, __m512i b)
{
    __asm__("vpdpwssd %2, %1, %0" : "+v"(*sum) : "v"(a), "v"(b));
}

// v[i]: rows i, i + 4, i + 8, i + 12, four partial sums each -> the sums, rows in order.
INLINE __m512i sums16(const __m512i v[4])
{
    const __m512i a =
        _mm512_add_epi32(_mm512_unpacklo_epi32(v[0], v[1]), _mm512_unpackhi_epi32(v[0], v[1]));
    const __m512i c =
        _mm512_add_epi32(_mm512_unpacklo_epi32(v[2], v[3]), _mm512_unpackhi_epi32(v[2], v[3]));
    return _mm512_add_epi32(_mm512_unpacklo_epi64(a, c), _mm512_unpackhi_epi64(a, c));
}

// v[i]: 16 bytes of rows i, i + 4, i + 8, i + 12 -> out[k]: dword k of every row, in order.
INLINE void transpose4(__m512i out[4], const __m512i v[4])
{
    const __m512i a = _mm512_unpacklo_epi32(v[0], v[1]);
    const __m512i b = _mm512_unpackhi_epi32(v[0], v[1]);
    const __m512i c = _mm512_unpacklo_epi32(v[2], v[3]);
    const __m512i d = _mm512_unpackhi_epi32(v[2], v[3]);
    out[0] = _mm512_unpacklo_epi64(a, c);
    out[1] = _mm512_unpackhi_epi64(a, c);
    out[2] = _mm512_unpacklo_epi64(b, d);
    out[3] = _mm512_unpackhi_epi64(b, d);
}

// Fewer than 16 outputs: their rows are copied, the last one repeated to make 16.
INLINE void copy_rows(size_t block_bytes, uint8_t *copy, struct rows16 *w, uint32_t n)
{
    const size_t n_bytes = w->n_blocks * block_bytes;
    for (uint32_t o = 0; o < LANES; o++) {
        memcpy(copy + o * n_bytes, w->p + td_min_u32(o, n - 1) * w->stride, n_bytes);
    }
    w->p = copy;
    w->stride = n_bytes;
}

#endif
