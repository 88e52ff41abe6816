// SPDX-License-Identifier: MIT
// A fast 64-bit checksum: XXH64 with seed 0. Against bugs, bad memory and bad cables; against
// people there is TLS.
#ifndef TD_RELAY_CHECKSUM_H
#define TD_RELAY_CHECKSUM_H

#include <stddef.h>
#include <stdint.h>

// Any thread. Source: xxHash fast digest algorithm, specification 0.1.1 (XXH64).
uint64_t td_checksum(const void *bytes, size_t size_bytes);

#endif
