// SPDX-License-Identifier: MIT
// KV as it travels at half the bytes: the canonical layout of a span in f16 or f32 <-> q8_0, blocks
// of 32 values along the head dimension (struct td_block_q8_0). Pure. A span's K, then V, each
// (n, KV heads, head dim), is one row of values to it: the head dimension is a multiple of 32, so
// no block crosses a head.
#ifndef TD_RELAY_WIREKV_H
#define TD_RELAY_WIREKV_H

#include "base/type.h"

#include <stddef.h>

// Bytes of n_values in q8_0 and (type f16 or f32) in the canonical layout; n_values is a multiple
// of 32.
size_t td_wirekv_q8_0_bytes(size_t n_values);
size_t td_wirekv_plain_bytes(enum td_type type, size_t n_values);

// To q8_0. A value is off by half a scale at most, which is 1/254 of the largest in its block (for
// the smallest scales f16 has, one of these more). Infinite values become the largest there are;
// what is not a number becomes some finite value.
//
//   out   td_wirekv_q8_0_bytes(n_values), written; not aligned
//   in    (n_values) of type, f16 or f32; aligned to the type
void td_wirekv_pack(void *out, const void *in, enum td_type type, size_t n_values);

// And back, rounded to type. The scales are the sender's: a value may come out infinite or not a
// number.
void td_wirekv_unpack(void *out, enum td_type type, const void *in, size_t n_values);

#endif
