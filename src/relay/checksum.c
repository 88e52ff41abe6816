// SPDX-License-Identifier: MIT
// XXH64, written from its specification. One multiplication per 8 bytes in four independent lanes:
// memory speed on every machine, without special instructions.
#include "relay/checksum.h"

#include "base/status.h" // little-endian hosts only

#include <string.h>

#define P1 0x9E3779B185EBCA87u
#define P2 0xC2B2AE3D27D4EB4Fu
#define P3 0x165667B19E3779F9u
#define P4 0x85EBCA77C2B2AE63u
#define P5 0x27D4EB2F165667C5u

static uint64_t rotated(uint64_t v, unsigned n)
{
    return v << n | v >> (64 - n);
}

static uint64_t load_u64(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof(v));
    return v;
}

// P1 and P2 are odd, so each step is a bijection of v: a changed word never cancels in its lane.
static uint64_t lane_step(uint64_t lane, uint64_t v)
{
    return rotated(lane + v * P2, 31) * P1;
}

static uint64_t lane_merged(uint64_t h, uint64_t lane)
{
    return (h ^ lane_step(0, lane)) * P1 + P4;
}

uint64_t td_checksum(const void *bytes, size_t size_bytes)
{
    const uint8_t *p = bytes;
    size_t left = size_bytes;
    uint64_t h = P5;
    if (left >= 32) {
        uint64_t a = P1 + P2, b = P2, c = 0, d = 0 - P1;
        for (; left >= 32; p += 32, left -= 32) {
            a = lane_step(a, load_u64(p));
            b = lane_step(b, load_u64(p + 8));
            c = lane_step(c, load_u64(p + 16));
            d = lane_step(d, load_u64(p + 24));
        }
        h = rotated(a, 1) + rotated(b, 7) + rotated(c, 12) + rotated(d, 18);
        h = lane_merged(lane_merged(lane_merged(lane_merged(h, a), b), c), d);
    }
    h += size_bytes;
    for (; left >= 8; p += 8, left -= 8) h = rotated(h ^ lane_step(0, load_u64(p)), 27) * P1 + P4;
    if (left >= 4) {
        uint32_t v;
        memcpy(&v, p, sizeof(v));
        h = rotated(h ^ v * P1, 23) * P2 + P3;
        p += 4;
        left -= 4;
    }
    for (; left > 0; p++, left--) h = rotated(h ^ *p * P5, 11) * P1;
    h = (h ^ h >> 33) * P2;
    h = (h ^ h >> 29) * P3;
    return h ^ h >> 32;
}
