// SPDX-License-Identifier: MIT
// What the integer matrix products of AVX2 share: eight weight rows at a time, one per lane.
#ifndef TD_KERNELS_AVX2_MM_IMPL_H
#define TD_KERNELS_AVX2_MM_IMPL_H

#include "kernels/avx2/vec_impl.h"

#define LANES 8

// Eight weight rows, from their block `first` on.
struct rows8 {
    const uint8_t *p;
    size_t stride; // bytes from row to row
    uint32_t first;
    uint32_t n_blocks;
};

// 16 bytes of each of two rows.
INLINE __m256i load2(const uint8_t *p, size_t stride)
{
    return _mm256_inserti128_si256(_mm256_castsi128_si256(load128(p)), load128(p + stride), 1);
}

// v[i]: rows i and i + 4, four partial sums each -> the sums, rows in order.
INLINE __m256i sums8(const __m256i v[4])
{
    const __m256i a =
        _mm256_add_epi32(_mm256_unpacklo_epi32(v[0], v[1]), _mm256_unpackhi_epi32(v[0], v[1]));
    const __m256i c =
        _mm256_add_epi32(_mm256_unpacklo_epi32(v[2], v[3]), _mm256_unpackhi_epi32(v[2], v[3]));
    return _mm256_add_epi32(_mm256_unpacklo_epi64(a, c), _mm256_unpackhi_epi64(a, c));
}

// v[i]: 16 bytes of rows i and i + 4 -> out[k]: dword k of every row, in order.
INLINE void transpose4(__m256i out[4], const __m256i v[4])
{
    const __m256i a = _mm256_unpacklo_epi32(v[0], v[1]);
    const __m256i b = _mm256_unpackhi_epi32(v[0], v[1]);
    const __m256i c = _mm256_unpacklo_epi32(v[2], v[3]);
    const __m256i d = _mm256_unpackhi_epi32(v[2], v[3]);
    out[0] = _mm256_unpacklo_epi64(a, c);
    out[1] = _mm256_unpackhi_epi64(a, c);
    out[2] = _mm256_unpacklo_epi64(b, d);
    out[3] = _mm256_unpackhi_epi64(b, d);
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
