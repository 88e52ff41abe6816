// SPDX-License-Identifier: MIT
// The inner loops of the measurements, one set per instruction set.
#ifndef TD_PROBE_LOOPS_IMPL_H
#define TD_PROBE_LOOPS_IMPL_H

#include "kernels/kernels.h"

#include <stddef.h>
#include <stdint.h>

struct td_loops {
    const char *int8_with;
    double int8_ops; // of one iteration of int8_loop
    double f32_ops;  // of one iteration of f32_loop
    // Runs n iterations; the result depends on all of them, so none can be left out.
    uint32_t (*int8_loop)(uint64_t n);
    float (*f32_loop)(uint64_t n);
    // Reads size_bytes (a multiple of 1024) from 64-byte aligned p.
    uint64_t (*read_loop)(const void *p, size_t size_bytes);
};

// The strongest at or below isa that this machine supports; never NULL members.
void td_loops_get(struct td_loops *out, enum td_isa isa);

#endif
