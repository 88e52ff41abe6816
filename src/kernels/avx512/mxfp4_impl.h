// SPDX-License-Identifier: MIT
// MXFP4 blocks for the integer products of AVX-512: their codes as bytes, their scales as floats.
#ifndef TD_KERNELS_AVX512_MXFP4_IMPL_H
#define TD_KERNELS_AVX512_MXFP4_IMPL_H

#include "kernels/avx512/mm_impl.h"

// Doubled E2M1 values, -12 to 12, are made unsigned with it: VPDPBUSD multiplies unsigned by signed
// bytes.
#define OFFSET 12

// Codes from both nibbles of 64 bytes.
INLINE void codes(bool has_vbmi, __m512i v, __m512i *lo, __m512i *hi)
{
    const __m512i plus12 = _mm512_broadcast_i32x4(
        _mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0));
    const __m512i high = _mm512_srli_epi16(v, 4);
    if (has_vbmi) {
        // Looks at six bits of each byte, in a table that is four times the same: no mask is
        // needed.
        __asm__("vpermb %2, %1, %0" : "=v"(*lo) : "v"(v), "v"(plus12));
        __asm__("vpermb %2, %1, %0" : "=v"(*hi) : "v"(high), "v"(plus12));
    } else {
        const __m512i nibble = _mm512_set1_epi8(15);
        *lo = _mm512_shuffle_epi8(plus12, _mm512_and_si512(v, nibble));
        *hi = _mm512_shuffle_epi8(plus12, _mm512_and_si512(high, nibble));
    }
}

// td_e8m0_half of 16 numbers from 0 to 255.
INLINE __m512 e8m0_half16(__m512i e)
{
    // 2^(e - 128) has the exponent e - 1; below 2^-126 it is the top bits of the mantissa instead.
    __m512i bits = _mm512_slli_epi32(_mm512_sub_epi32(e, _mm512_set1_epi32(1)), 23);
    const __mmask16 small = _mm512_cmplt_epu32_mask(e, _mm512_set1_epi32(2));
    bits = _mm512_mask_sllv_epi32(bits, small, _mm512_set1_epi32(0x00200000), e);
    const __mmask16 nan = _mm512_cmpeq_epi32_mask(e, _mm512_set1_epi32(255));
    return _mm512_castsi512_ps(_mm512_mask_mov_epi32(bits, nan, _mm512_set1_epi32(0x7fc00000)));
}

#endif
