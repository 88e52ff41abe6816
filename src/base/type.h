// SPDX-License-Identifier: MIT
// Element types of weights, with the block layouts they have in a GGUF file. The one place that
// knows how many bytes a row of a type takes.
// Source: GGUF specification, ggml type numbers; MXFP4: OCP Microscaling Formats (MX) v1.0.
#ifndef TD_BASE_TYPE_H
#define TD_BASE_TYPE_H

#include <stdbool.h>
#include <stdint.h>

// Values are the type numbers in a GGUF file. Only types tandem computes with have a name here.
enum td_type {
    TD_F32 = 0,
    TD_F16 = 1,
    TD_Q8_0 = 8,
    TD_BF16 = 30,
    TD_MXFP4 = 39,
};

#define TD_QK 32 // elements per block of Q8_0, MXFP4 and of quantised activations

// 32 signed bytes and one f16 scale: value = d * qs[i].
struct td_block_q8_0 {
    uint16_t d; // f16
    int8_t qs[TD_QK];
};
_Static_assert(sizeof(struct td_block_q8_0) == 34, "Q8_0 block is 34 bytes");

// 32 E2M1 codes and one E8M0 scale: value = 2^(e - 127) * e2m1(code).
// Element i < 16 is the low nibble of qs[i], element i + 16 the high nibble of qs[i].
struct td_block_mxfp4 {
    uint8_t e; // E8M0
    uint8_t qs[TD_QK / 2];
};
_Static_assert(sizeof(struct td_block_mxfp4) == 17, "MXFP4 block is 17 bytes");

struct td_type_info {
    const char *name;     // as people write it: "F32", "Q8_0"
    uint32_t block;       // elements per block
    uint32_t block_bytes; // bytes per block
};

// NULL for a type number tandem does not compute with.
const struct td_type_info *td_type_info(uint32_t type);

// The name of any type number that GGUF has ever given out, computed with or not; NULL if unknown.
const char *td_type_known_name(uint32_t type);

// Bytes of n elements; n must be a multiple of the block and the type one of enum td_type.
uint64_t td_type_size_bytes(enum td_type type, uint64_t n);

#endif
