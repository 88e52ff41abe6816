// SPDX-License-Identifier: MIT
// The format of a KV file: its head, as a pure codec. What the bytes behind the head are follows
// from it and from the KV layout; server/kvdisk.c reads and writes them.
//
// All numbers are little endian.
//
//   offset  bytes
//        0      8  "tandemKV"
//        8      4  version, 1
//       12      4  size of the head: 128 + 24 n_stops + 4 n_tokens
//       16     32  digest of the weights
//       48     16  digest of all else that KV depends on: shape, rope, KV type, precision
//       64      4  n_stops, 1 to 512
//       68      4  n_tokens, 1 to 2^24
//       72      4  n_prompt: tokens of the last prompt, the rest is an answer
//       76      4  0
//       80      8  bytes behind the head, to the end of the file
//       88     24  0
//      112     16  XXH3-128 of the head from offset 128 on, its seed the XXH3-64 of the first 112
//      128         stops, 24 bytes each: position (4), 1 for the end of a message or prompt, else 0
//                  (4), XXH3-128 of the stop's bytes (16). Positions ascend, the last is n_tokens
//                  tokens, 4 bytes each
//
// Behind the head, stop after stop, layer after layer: K, then V of the positions from the stop
// before to this one, in the canonical layout of backend/backend.h, in pieces of 256 positions
// that begin with the first. Of a sliding-window layer only what a token at the stop sees.
#ifndef TD_SERVER_KVFILE_H
#define TD_SERVER_KVFILE_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TD_KVFILE_FIXED_BYTES 128u
#define TD_KVFILE_MAX_STOPS   512u
#define TD_KVFILE_MAX_TOKENS  (1u << 24)
#define TD_KVFILE_PIECE       256u // positions

struct td_kvfile_stop {
    uint32_t pos;
    bool is_mark;
    uint8_t sum[16];
};

struct td_kvfile {
    uint8_t weights[32], layout[16];
    uint32_t n_stops, n_tokens, n_prompt;
    uint64_t payload_bytes;
};

static inline size_t td_kvfile_head_bytes(const struct td_kvfile *f)
{
    return TD_KVFILE_FIXED_BYTES + (size_t)24 * f->n_stops + (size_t)4 * f->n_tokens;
}

// The first 128 bytes of a file: what is in them, and so how much more there is to read. Fails:
// TD_EFORMAT, TD_EUNSUP (another version).
int td_kvfile_read_fixed(struct td_kvfile *out, const uint8_t bytes[TD_KVFILE_FIXED_BYTES],
                         struct td_error *err) TD_MUST_CHECK;
// The whole head: stops_out (n_stops), tokens_out (n_tokens), as td_kvfile_read_fixed says.
// Everything is checked but the sum. Fails: TD_EFORMAT.
int td_kvfile_read(const struct td_kvfile *f, const uint8_t *bytes, size_t n_bytes,
                   struct td_kvfile_stop *stops_out, int32_t *tokens_out,
                   struct td_error *err) TD_MUST_CHECK;
bool td_kvfile_is_sound(const uint8_t *head, size_t n_bytes); // its sum is right; n_bytes >= 128

// Writes a head of td_kvfile_head_bytes, sum included.
void td_kvfile_write(uint8_t *out, const struct td_kvfile *f, const struct td_kvfile_stop *stops,
                     const int32_t *tokens);

#endif
