// SPDX-License-Identifier: MIT
// What the kernel files share: reading weight blocks byte by byte (rows of a file have no
// alignment), the E8M0 and E2M1 tables, and the constants of td_expf. Included from src/kernels
// only.
#ifndef TD_KERNELS_KERNELS_IMPL_H
#define TD_KERNELS_KERNELS_IMPL_H

#include "base/num.h"
#include "kernels/kernels.h"

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define TD_Q8_0_BYTES  sizeof(struct td_block_q8_0)
#define TD_MXFP4_BYTES sizeof(struct td_block_mxfp4)

// Before a loop whose bounds are constants once its function is inlined: at -O2 gcc leaves such
// loops, and with them the arrays that should be registers, in memory.
#if defined(__clang__)
#define TD_UNROLL _Pragma("unroll")
#else
#define TD_UNROLL _Pragma("GCC unroll 16")
#endif

static inline uint16_t td_load_u16(const void *p)
{
    uint16_t v;
    memcpy(&v, p, sizeof(v));
    return v;
}

static inline float td_load_f32(const void *p)
{
    float v;
    memcpy(&v, p, sizeof(v));
    return v;
}

// Asks for n_bytes from p on to come into the cache; p may lie behind the end of what there is.
// With one activation row memory is the limit, and weight rows read side by side are more streams
// than the hardware prefetcher follows. Side by side the rows are also one run of bytes: so a
// kernel asks for the next group's run while it computes this one, a block's share per block, and
// for the first group's all at once.
static inline __attribute__((always_inline)) void td_fetch(const uint8_t *p, size_t n_bytes)
{
    for (size_t i = 0; i < n_bytes; i += 64) __builtin_prefetch(p + i, 0, 3);
}

// 2^(e - 128) for each E8M0 byte, as the bits of a binary32: the scale that goes with doubled E2M1
// values. e = 0 and 1 are subnormal and exact; e = 255 is NaN (OCP MX 1.0, 5.4.1).
extern const uint32_t td_e8m0_half[256];

// Twice the value of each E2M1 code: the integers 0 1 2 3 4 6 8 12 and their negatives. Code 8,
// minus zero, is plain zero here.
extern const int8_t td_e2m1_doubled[16];

// Constants of td_expf, one place for all instruction sets; see generic/expf.h.
#define TD_EXP_MAX 88.0f
#define TD_EXP_MIN (-87.33f)
#define TD_LOG2_E  0x1.715476p+0f
#define TD_LN2_HI  0x1.62e43p-1f     // ln 2 rounded to binary32
#define TD_LN2_LO  (-0x1.05c61p-29f) // what that leaves
// x + this - this rounds x to the nearest integer, ties to even, and leaves it in the low mantissa
// bits of the sum; |x| < 2^22.
#define TD_ROUND_MAGIC 0x1.8p23f
#define TD_EXP_C2      0x1.fffffcp-2f
#define TD_EXP_C3      0x1.555492p-3f
#define TD_EXP_C4      0x1.5558f2p-5f
#define TD_EXP_C5      0x1.1239e2p-7f
#define TD_EXP_C6      0x1.6a2434p-10f

#endif
