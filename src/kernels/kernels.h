// SPDX-License-Identifier: MIT
// The arithmetic: one table of function pointers, filled by td_kernels_get with the generic version
// first and then, weakest first, by each instruction set that does a slot better.
//
// generic/ is the specification. Every slot gives the same bits on every instruction set (orders
// are fixed below), so kcheck compares with memcmp; a slot that does not is listed in kcheck with
// its tolerance and the measured gain.
//
// Kernels do not allocate, start threads or fail; shapes were checked when the model was bound.
// All may be called from any thread. "restrict" on outputs: they never overlap inputs.
#ifndef TD_KERNELS_KERNELS_H
#define TD_KERNELS_KERNELS_H

#include "base/type.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// A row of n activations quantised to 8 bits (n a multiple of 32), as three arrays in one run of
// bytes, 64-byte aligned:
//   int8_t  q[n]        x * (127 / max |x| of the block), rounded to nearest even: in -127..127
//   float   d[n / 32]   max |x| of the block / 127. Where that is below 2^-126, d and q are 0;
//                       where the block holds an infinity or a NaN, d is NaN and q is 0
//   int32_t s[n / 32]   sum of the block's q (the x86 dot products multiply unsigned by signed and
//                       take the offset back with it)
// n / 32 need not be a multiple of anything: d starts at byte n, s at byte n + 4 * (n / 32).
static inline size_t td_q8_row_bytes(uint32_t n)
{
    // Rounded up so that rows in an array stay 64-byte aligned.
    return ((size_t)n + (size_t)(n / TD_QK) * 8 + 63) & ~(size_t)63;
}
static inline const float *td_q8_d(const void *row, uint32_t n)
{
    return (const float *)(const void *)((const uint8_t *)row + n);
}
static inline const int32_t *td_q8_s(const void *row, uint32_t n)
{
    return (const int32_t *)(const void *)((const uint8_t *)row + n + (size_t)(n / TD_QK) * 4);
}

// A row of n activations in 16 bits (n a multiple of 32): int16_t q[n], in -32767..32767, then
// float d[n / 32] = max |x| of the block / 32767; 64-byte aligned. Rounding, infinities and NaN as
// for 8 bits; d and q are 0 where d would be below 2^-112.
// For Q8_0 weights: 8-bit activations at the attention and output matrices are two thirds of the
// distance to the exact logits, but these matrices are a fifth of the arithmetic. For MXFP4 weights
// where nearly all of that distance is to go: twice the multiplications of 8 bits.
static inline size_t td_q16_row_bytes(uint32_t n)
{
    return ((size_t)n * 2 + (size_t)(n / TD_QK) * 4 + 63) & ~(size_t)63;
}
static inline const float *td_q16_d(const void *row, uint32_t n)
{
    return (const float *)(const void *)((const uint8_t *)row + (size_t)n * 2);
}

// y[r][o] = dot(w row o, x[r]) for r < n_rows, o < n_out.
//
//   y   n_rows pointers to f32; y[r][0 .. n_out) written
//   w   n_out rows of n_in elements of the slot's weight type, as they lie in the file: row o
//       starts at w + o * bytes of a row; no alignment beyond 1 byte is promised
//   x   n_rows pointers to rows of n_in: f32 for *_f32 slots, a q8 or q16 row (above) for *_q8 and
//       *_q16 slots, 64-byte aligned
//   scratch  TD_MM_SCRATCH_BYTES, 64-byte aligned, this thread's own
//
// A NaN is a NaN on every set, but not always the same one.
// Bits of y[r][o] depend on w row o and x[r] only: not on n_rows, n_out or their neighbours.
// Order, *_q8:  acc = 0; for each block b ascending: acc = fmaf(dw[b] * dx[b], (float)isum[b], acc)
//               where isum is the exact integer dot product of the block. For MXFP4 it is of the
//               doubled E2M1 values (integers 0 1 2 3 4 6 8 12) and dw = 2^(e - 128),
//               NaN for e = 255.
// Order, *_q16: the same; isum is at most 32 * 128 * 32767 < 2^31, exact, and (float)isum rounds to
//               nearest even. For MXFP4 it is below 2^24: nothing to round.
// Order, *_f32: 16 accumulators, element i goes to accumulator i % 16 by fmaf(w, x, acc),
//               ascending; folded 16 -> 8 -> 4 -> 2 -> 1 by adding the upper half to the lower.
//               w is converted to f32 exactly first (MXFP4, Q8_0: code times scale, rounded once).
typedef void td_mm_fn(float *const *y, const void *w, const void *const *x, uint32_t n_in,
                      uint32_t n_out, uint32_t n_rows, void *scratch);
#define TD_MM_SCRATCH_BYTES ((size_t)256 * 1024)

// Positions per attention block, anchored at position 0, and so positions per KV page.
#define TD_ATTN_BLOCK 64

struct td_attn_limits {
    uint32_t first, last; // positions of a block that a query sees: [first, last); none if equal
};

// Queries of one KV head and one sequence: the query heads of a row that share the KV head, then
// those of the next row, and so on. The state is the caller's from block to block: running maximum
// m, sum l and weighted values acc; it starts as m = -INFINITY, l = 0, acc = 0.
struct td_attn {
    uint32_t n;
    const struct td_attn_limits *limits; // (n), of the block at hand
    const float *q;                      // (n, head_dim), already scaled by 1 / sqrt(head_dim)
    float *acc;                          // (n, head_dim)
    float *m, *l;                        // (n)
};

// Folds one block of one KV head into the queries. Neighbours with the same limits share the loads
// of K and V; each query's bits are its own.
//   kv    K (head_dim, TD_ATTN_BLOCK), then V (TD_ATTN_BLOCK, head_dim), in the slot's KV type. K
//         is transposed so that a vector is positions and a score needs no sum across its lanes
//   next  the kv of the block that comes next, to be prefetched; NULL if none
//   scratch  td_attn_scratch_bytes(head_dim), 64-byte aligned, this thread's own
// All of kv may be read, but what lies outside [first, last) touches no bit and may be anything,
// NaN included: it may never have been written. head_dim is a multiple of 16.
// Order: score = 0, then fmaf(q[d], k[d], score) for d ascending;
//   m' = max(m, the scores that are numbers) + 0 (so that zero has one sign);
//   c = exp(m - m'); p = exp(score - m'); exp is td_expf;
//   l = l * c + sum, where the p go to 16 accumulators, by position % 16, ascending, folded as in
//   *_f32 above; acc = acc * c, then acc[d] = fmaf(p, v[d], acc[d]) for each position ascending.
typedef void td_attend_fn(const struct td_attn *a, const void *kv, const void *next,
                          uint32_t head_dim, void *scratch);
// A block of K and V in f32.
static inline size_t td_attn_scratch_bytes(uint32_t head_dim)
{
    return (size_t)2 * TD_ATTN_BLOCK * head_dim * sizeof(float);
}

struct td_kernels {
    const char *isa; // the strongest set in use: "generic", "avx2", "avx512", "neon"

    // Rows of quantised activations, see above. y: td_q8_row_bytes(n).
    void (*quantize_q8)(void *restrict y, const float *x, uint32_t n);
    void (*quantize_q16)(void *restrict y, const float *x, uint32_t n); // y: td_q16_row_bytes(n)

    // Matrix products, by weight type and activation type.
    td_mm_fn *mm_f32_f32;
    td_mm_fn *mm_f16_f32;
    td_mm_fn *mm_bf16_f32;
    td_mm_fn *mm_q8_0_f32;
    td_mm_fn *mm_mxfp4_f32;
    td_mm_fn *mm_mxfp4_q8;
    td_mm_fn *mm_q8_0_q16;
    td_mm_fn *mm_mxfp4_q16;

    // One row of n weights to f32: exact value of each element.
    void (*row_f32)(float *restrict y, enum td_type type, const void *w, uint32_t n);

    // y = x / sqrt(mean(x^2) + eps) * w. Sum of squares in the 16-accumulator order.
    void (*rmsnorm)(float *restrict y, const float *x, const float *w, uint32_t n, float eps);

    // Rotates pairs (i, i + head_dim / 2) of each head in place:
    //   x0' = x0 * cos[i] - x1 * sin[i], x1' = x1 * cos[i] + x0 * sin[i]; two products and one
    //   sum each rounded on its own. cos, sin: (head_dim / 2) f32, attention factor included.
    void (*rope)(float *x, const float *cos, const float *sin, uint32_t n_heads, uint32_t head_dim);

    // gpt-oss's clamped SwiGLU: g = min(g, limit), u = clamp(u, -limit, limit),
    // y = g * sigmoid(alpha * g) * (u + 1); sigmoid(z) = 1 / (1 + exp(-z)) with td_expf.
    void (*swiglu_clamped)(float *restrict y, const float *g, const float *u, uint32_t n,
                           float alpha, float limit);

    void (*add)(float *y, const float *x, uint32_t n);                     // y += x
    void (*madd)(float *y, const float *x, float a, uint32_t n);           // y = fmaf(a, x, y)
    void (*scale)(float *restrict y, const float *x, float a, uint32_t n); // y = a * x
    void (*f16_of_f32)(uint16_t *restrict y, const float *x, uint32_t n);
    void (*f32_of_f16)(float *restrict y, const uint16_t *x, uint32_t n);

    td_attend_fn *attend_f16;
    td_attend_fn *attend_f32;
};

// exp(x) for x <= 88, infinity above; 0 below -87.33 and for -INFINITY; within 2 ulp of the true
// value. The same bits on every instruction set: the vector versions do these very operations
// (generic/expf.h).
float td_expf(float x);

// Instruction sets, ordered from weakest; a mask can only lower what the machine has.
enum td_isa {
    TD_ISA_GENERIC = 0,
    TD_ISA_AVX2 = 1,   // AVX2, FMA, F16C
    TD_ISA_AVX512 = 2, // AVX-512 F BW DQ VL VNNI
    TD_ISA_NEON = 3,   // Armv8.2 dotprod (i8mm where it helps)
};

// The strongest set this machine and its operating system support.
enum td_isa td_isa_native(void);
bool td_isa_supported(enum td_isa isa);
const char *td_isa_name(enum td_isa isa);
// "generic", "avx2", ...; false if the name is unknown.
bool td_isa_parse(const char *name, enum td_isa *out);

// Fills *out for at most `isa`; an unsupported isa gives the strongest supported one below it.
void td_kernels_get(struct td_kernels *out, enum td_isa isa);

#endif
