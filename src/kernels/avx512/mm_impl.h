// SPDX-License-Identifier: MIT
// What the integer matrix products of AVX-512 share: 16 weight rows at a time, one per lane.
#ifndef TD_KERNELS_AVX512_MM_IMPL_H
#define TD_KERNELS_AVX512_MM_IMPL_H

#include "kernels/avx512/vec_impl.h"

#define LANES 16

// 16 weight rows, from their block `first` on.
struct rows16 {
    const uint8_t *p;
    size_t stride; // bytes from row to row
    uint32_t first;
    uint32_t n_blocks;
};

// 16 bytes of each of four rows.
INLINE __m512i load4(const uint8_t *p, size_t stride)
{
    __m512i v = _mm512_castsi128_si512(load128(p));
    v = _mm512_inserti32x4(v, load128(p + stride), 1);
    v = _mm512_inserti32x4(v, load128(p + 2 * stride), 2);
    return _mm512_inserti32x4(v, load128(p + 3 * stride), 3);
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
