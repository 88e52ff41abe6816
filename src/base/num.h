// SPDX-License-Identifier: MIT
// Checked arithmetic for sizes that come from files, half-float conversion, and a small
// deterministic random generator. Leaf inlines only.
#ifndef TD_BASE_NUM_H
#define TD_BASE_NUM_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

// *out = a * b; false, and *out untouched, when the product does not fit.
static inline bool td_mul_u64(uint64_t a, uint64_t b, uint64_t *out)
{
    uint64_t r;
    if (__builtin_mul_overflow(a, b, &r)) return false;
    *out = r;
    return true;
}

static inline bool td_add_u64(uint64_t a, uint64_t b, uint64_t *out)
{
    uint64_t r;
    if (__builtin_add_overflow(a, b, &r)) return false;
    *out = r;
    return true;
}

static inline uint32_t td_min_u32(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static inline uint32_t td_max_u32(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

static inline float td_f32_of_bits(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof(f));
    return f;
}

static inline uint32_t td_bits_of_f32(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof(u));
    return u;
}

// IEEE 754 binary16 to binary32, exact; NaN payloads are kept and made quiet, as VCVTPH2PS does.
static inline float td_f32_of_f16(uint16_t h)
{
    const uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
    const uint32_t exp = (h >> 10) & 0x1fu;
    uint32_t man = h & 0x3ffu;
    if (exp == 0x1f)
        return td_f32_of_bits(sign | 0x7f800000u | (man << 13) | (man ? 0x400000u : 0));
    if (exp != 0) return td_f32_of_bits(sign | ((exp + 112u) << 23) | (man << 13));
    // Subnormal: man * 2^-24 is exact in binary32.
    const float v = (float)man * 0x1p-24f;
    return sign ? -v : v;
}

// Binary32 to binary16, round to nearest even, overflow to infinity, as VCVTPS2PH does.
static inline uint16_t td_f16_of_f32(float f)
{
    const uint32_t u = td_bits_of_f32(f);
    const uint32_t sign = (u >> 16) & 0x8000u;
    const uint32_t abs = u & 0x7fffffffu;
    if (abs > 0x7f800000u) return (uint16_t)(sign | 0x7e00u | ((abs >> 13) & 0x3ffu));
    if (abs >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u); // >= 65520 rounds to infinity
    if (abs < 0x38800000u) {
        // Below 2^-14: adding 0.5 aligns the result's last bit with 2^-24, so the
        // FPU rounds to nearest even for us.
        const uint32_t r = td_bits_of_f32(td_f32_of_bits(abs) + 0.5f);
        return (uint16_t)(sign | (r - 0x3f000000u));
    }
    const uint32_t odd = (abs >> 13) & 1u;
    return (uint16_t)(sign | ((abs - 0x38000000u + 0xfffu + odd) >> 13));
}

static inline float td_f32_of_bf16(uint16_t b)
{
    return td_f32_of_bits((uint32_t)b << 16);
}

// SplitMix64 (Steele, Lea, Flood 2014): one 64-bit state, every seed is good.
struct td_rng {
    uint64_t state;
};

static inline uint64_t td_rng_u64(struct td_rng *r)
{
    uint64_t z = (r->state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

// Uniform in [0, 1), 24 bits: every value is exact in binary32.
static inline float td_rng_f32(struct td_rng *r)
{
    return (float)(td_rng_u64(r) >> 40) * 0x1p-24f;
}

#endif
