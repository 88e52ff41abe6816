// SPDX-License-Identifier: MIT
// Written as loops of 32 over local arrays, without branches: the compiler makes vectors of them.
#include "relay/wirekv.h"

#include "base/num.h"

#include <assert.h>
#include <string.h>

#define BLOCK_BYTES sizeof(struct td_block_q8_0)
// Beyond it the scale would be infinite in f16.
#define MOST (65504.0f * 127.0f)

size_t td_wirekv_q8_0_bytes(size_t n_values)
{
    return n_values / TD_QK * BLOCK_BYTES;
}

size_t td_wirekv_plain_bytes(enum td_type type, size_t n_values)
{
    return n_values * (type == TD_F32 ? 4 : 2);
}

// td_f32_of_f16 without branches for finite values; what is not finite comes out as 65536 or more.
static void widen(float out[TD_QK], const uint16_t in[TD_QK])
{
    for (int i = 0; i < TD_QK; i++) {
        const uint32_t sign = (uint32_t)(in[i] & 0x8000u) << 16;
        // An exponent that is 112 too small, which the product mends, in subnormals too.
        const float scaled = td_f32_of_bits((uint32_t)(in[i] & 0x7fffu) << 13) * 0x1p112f;
        out[i] = td_f32_of_bits(sign | td_bits_of_f32(scaled));
    }
}

// a where is_a, else b; as arithmetic, since a choice would become a branch.
static uint32_t choose(bool is_a, uint32_t a, uint32_t b)
{
    const uint32_t mask = 0u - (uint32_t)is_a;
    return (a & mask) | (b & ~mask);
}

// td_f16_of_f32 without branches.
static void narrow(uint16_t out[TD_QK], const float in[TD_QK])
{
    for (int i = 0; i < TD_QK; i++) {
        const uint32_t u = td_bits_of_f32(in[i]);
        const uint32_t abs = u & 0x7fffffffu;
        const uint32_t small = td_bits_of_f32(td_f32_of_bits(abs) + 0.5f) - 0x3f000000u;
        const uint32_t normal = (abs - 0x38000000u + 0xfffu + (abs >> 13 & 1u)) >> 13;
        uint32_t h = choose(abs < 0x38800000u, small, normal);
        h = choose(abs >= 0x477ff000u, 0x7c00u, h);
        h = choose(abs > 0x7f800000u, 0x7e00u, h);
        out[i] = (uint16_t)(h | (u >> 16 & 0x8000u));
    }
}

static void pack_block(struct td_block_q8_0 *out, const float in[TD_QK])
{
    uint32_t bits[TD_QK];
    uint32_t most = 0;
    for (int i = 0; i < TD_QK; i++) {
        // Magnitudes of floats are in the order of their bits, and what is not a number is above
        // all: one comparison bounds them.
        const uint32_t u = td_bits_of_f32(in[i]), limit = td_bits_of_f32(MOST);
        const uint32_t abs = u & 0x7fffffffu;
        const uint32_t kept = abs < limit ? abs : limit;
        bits[i] = (u & 0x80000000u) | kept;
        most = kept > most ? kept : most;
    }
    out->d = td_f16_of_f32(td_f32_of_bits(most) / 127.0f);
    // Among the subnormal scales rounding down may leave the largest value out of reach.
    if (td_f32_of_f16(out->d) * 127.5f < td_f32_of_bits(most)) out->d++;
    const float d = td_f32_of_f16(out->d);
    const float inverse = d > 0 ? 1.0f / d : 0.0f;
    for (int i = 0; i < TD_QK; i++) {
        // 1.5 * 2^23: its last bit is 1, so that adding it rounds to the nearest integer.
        const float at = td_f32_of_bits(bits[i]) * inverse + 0x1.8p23f;
        const int32_t q = (int32_t)(td_bits_of_f32(at) - td_bits_of_f32(0x1.8p23f));
        out->qs[i] = (int8_t)(q > 127 ? 127 : q < -127 ? -127 : q);
    }
}

void td_wirekv_pack(void *out, const void *in, enum td_type type, size_t n_values)
{
    assert(n_values % TD_QK == 0 && (type == TD_F16 || type == TD_F32));
    uint8_t *to = out;
    const uint8_t *from = in;
    const size_t step = td_wirekv_plain_bytes(type, TD_QK);
    for (size_t i = 0; i < n_values; i += TD_QK, from += step, to += BLOCK_BYTES) {
        float values[TD_QK];
        if (type == TD_F32) {
            memcpy(values, from, sizeof(values));
        } else {
            uint16_t halves[TD_QK];
            memcpy(halves, from, sizeof(halves));
            widen(values, halves);
        }
        struct td_block_q8_0 block;
        pack_block(&block, values);
        memcpy(to, &block, BLOCK_BYTES);
    }
}

void td_wirekv_unpack(void *out, enum td_type type, const void *in, size_t n_values)
{
    assert(n_values % TD_QK == 0 && (type == TD_F16 || type == TD_F32));
    uint8_t *to = out;
    const uint8_t *from = in;
    const size_t step = td_wirekv_plain_bytes(type, TD_QK);
    for (size_t i = 0; i < n_values; i += TD_QK, from += BLOCK_BYTES, to += step) {
        struct td_block_q8_0 block;
        memcpy(&block, from, BLOCK_BYTES);
        const float d = td_f32_of_f16(block.d);
        float values[TD_QK];
        for (int k = 0; k < TD_QK; k++) values[k] = d * (float)block.qs[k];
        if (type == TD_F32) {
            memcpy(to, values, sizeof(values));
            continue;
        }
        uint16_t halves[TD_QK];
        narrow(halves, values);
        memcpy(to, halves, sizeof(halves));
    }
}
