// SPDX-License-Identifier: MIT
// exp(x) in binary32 by operations that every instruction set has, so that vector versions give the
// same bits: x = n ln 2 + r with |r| <= ln 2 / 2, exp(x) = 2^n exp(r).
//
// exp(r) = 1 + r + r^2 (c2 + ... + c6 r^4), minimax (Remez) of the relative error on
// |r| <= 0.3466; the polynomial is off by 3.1e-9 = 0.05 ulp, rounding adds less than 1 ulp.
#ifndef TD_KERNELS_GENERIC_EXPF_H
#define TD_KERNELS_GENERIC_EXPF_H

#include "kernels/kernels_impl.h"

#include <math.h>

static inline float expf_generic(float x)
{
    // Out of range first: what follows would be a wrong number, not a trap. NaN goes through.
    if (x > TD_EXP_MAX) return INFINITY;
    if (x < TD_EXP_MIN) return 0.0f;
    // The sum's last bit is 1, so it is x / ln 2 rounded to an integer n, and n stands in its low
    // mantissa bits.
    const float t = fmaf(x, TD_LOG2_E, TD_ROUND_MAGIC);
    const float n = t - TD_ROUND_MAGIC;
    float r = fmaf(n, -TD_LN2_HI, x);
    r = fmaf(n, -TD_LN2_LO, r);
    float p = TD_EXP_C6;
    p = fmaf(p, r, TD_EXP_C5);
    p = fmaf(p, r, TD_EXP_C4);
    p = fmaf(p, r, TD_EXP_C3);
    p = fmaf(p, r, TD_EXP_C2);
    p = fmaf(p, r, 1.0f);
    p = fmaf(p, r, 1.0f);
    // The magic number's own bits leave on the left; n in -126..127 is now the exponent.
    return p * td_f32_of_bits((td_bits_of_f32(t) << 23) + 0x3f800000u);
}

#endif
