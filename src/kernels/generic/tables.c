// SPDX-License-Identifier: MIT
// The two tables of MXFP4.
#include "kernels/kernels_impl.h"

// (e - 1) << 23 is the exponent field of 2^(e - 128); below 2, the subnormals 2^-128 and 2^-127.
#define E(e)   ((e) == 255 ? 0x7fc00000u : (e) < 2 ? 0x00200000u << ((e)&1) : ((e)-1u) << 23)
#define E4(e)  E(e), E((e) + 1), E((e) + 2), E((e) + 3)
#define E16(e) E4(e), E4((e) + 4), E4((e) + 8), E4((e) + 12)
#define E64(e) E16(e), E16((e) + 16), E16((e) + 32), E16((e) + 48)

const uint32_t td_e8m0_half[256] = {E64(0), E64(64), E64(128), E64(192)};

const int8_t td_e2m1_doubled[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
