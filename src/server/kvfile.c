// SPDX-License-Identifier: MIT
// Heads of KV files: bytes from outside to checked numbers, and back. It opens no file.
#include "server/kvfile.h"

#include "base/bytes.h"

#include <string.h>
#include <xxhash.h>

#define VERSION 1u
#define SUM_AT  112u

static const char g_magic[8] = {'t', 'a', 'n', 'd', 'e', 'm', 'K', 'V'};

static uint32_t get_u32(const uint8_t *at)
{
    struct td_bytes in = td_bytes_of(at, 4);
    return td_bytes_u32le(&in);
}

static uint64_t get_u64(const uint8_t *at)
{
    struct td_bytes in = td_bytes_of(at, 8);
    return td_bytes_u64le(&in);
}

static void put_u32(uint8_t *at, uint32_t v)
{
    for (unsigned i = 0; i < 4; i++) at[i] = (uint8_t)(v >> (8 * i));
}

static void put_u64(uint8_t *at, uint64_t v)
{
    for (unsigned i = 0; i < 8; i++) at[i] = (uint8_t)(v >> (8 * i));
}

static bool is_zero(const uint8_t *at, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (at[i] != 0) return false;
    return true;
}

int td_kvfile_read_fixed(struct td_kvfile *out, const uint8_t bytes[TD_KVFILE_FIXED_BYTES],
                         struct td_error *err)
{
    if (memcmp(bytes, g_magic, sizeof(g_magic)) != 0)
        return td_fail(err, TD_EFORMAT, "it is no KV file");
    const uint32_t version = get_u32(bytes + 8);
    if (version != VERSION)
        return td_fail(err, TD_EUNSUP, "its version is %u, known is %u", version, VERSION);
    struct td_kvfile f = {.n_stops = get_u32(bytes + 64),
                          .n_tokens = get_u32(bytes + 68),
                          .n_prompt = get_u32(bytes + 72),
                          .payload_bytes = get_u64(bytes + 80)};
    memcpy(f.weights, bytes + 16, sizeof(f.weights));
    memcpy(f.layout, bytes + 48, sizeof(f.layout));
    if (f.n_stops < 1 || f.n_stops > TD_KVFILE_MAX_STOPS || f.n_tokens < 1 ||
        f.n_tokens > TD_KVFILE_MAX_TOKENS || f.n_prompt > f.n_tokens)
        return td_fail(err, TD_EFORMAT, "it cannot have %u stops, %u tokens, %u of a prompt",
                       f.n_stops, f.n_tokens, f.n_prompt);
    if (get_u32(bytes + 12) != td_kvfile_head_bytes(&f))
        return td_fail(err, TD_EFORMAT, "its head has %u bytes instead of %zu", get_u32(bytes + 12),
                       td_kvfile_head_bytes(&f));
    if (!is_zero(bytes + 76, 4) || !is_zero(bytes + 88, SUM_AT - 88))
        return td_fail(err, TD_EFORMAT, "there is something where nothing may be");
    *out = f;
    return TD_OK;
}

int td_kvfile_read(const struct td_kvfile *f, const uint8_t *bytes, size_t n_bytes,
                   struct td_kvfile_stop *stops_out, int32_t *tokens_out, struct td_error *err)
{
    if (n_bytes != td_kvfile_head_bytes(f))
        return td_fail(err, TD_EFORMAT, "its head has %zu bytes instead of %zu", n_bytes,
                       td_kvfile_head_bytes(f));
    const uint8_t *at = bytes + TD_KVFILE_FIXED_BYTES;
    uint32_t last = 0;
    for (uint32_t i = 0; i < f->n_stops; i++, at += 24) {
        const uint32_t pos = get_u32(at), flags = get_u32(at + 4);
        if (pos <= last || pos > f->n_tokens || flags > 1)
            return td_fail(err, TD_EFORMAT, "stop %u at token %u, flags %u, after token %u", i, pos,
                           flags, last);
        stops_out[i] = (struct td_kvfile_stop){.pos = pos, .is_mark = flags == 1};
        memcpy(stops_out[i].sum, at + 8, sizeof(stops_out[i].sum));
        last = pos;
    }
    if (last != f->n_tokens)
        return td_fail(err, TD_EFORMAT, "the last stop is at token %u of %u", last, f->n_tokens);
    for (uint32_t i = 0; i < f->n_tokens; i++, at += 4) {
        const uint32_t token = get_u32(at);
        if (token > INT32_MAX) return td_fail(err, TD_EFORMAT, "token %u of it is negative", i);
        tokens_out[i] = (int32_t)token;
    }
    return TD_OK;
}

static void sum_of(const uint8_t *head, size_t n_bytes, uint8_t out[16])
{
    const uint64_t seed = XXH3_64bits(head, SUM_AT);
    XXH128_canonical_t sum;
    XXH128_canonicalFromHash(&sum, XXH3_128bits_withSeed(head + TD_KVFILE_FIXED_BYTES,
                                                         n_bytes - TD_KVFILE_FIXED_BYTES, seed));
    memcpy(out, sum.digest, 16);
}

bool td_kvfile_is_sound(const uint8_t *head, size_t n_bytes)
{
    uint8_t sum[16];
    sum_of(head, n_bytes, sum);
    return memcmp(sum, head + SUM_AT, sizeof(sum)) == 0;
}

void td_kvfile_write(uint8_t *out, const struct td_kvfile *f, const struct td_kvfile_stop *stops,
                     const int32_t *tokens)
{
    const size_t n_bytes = td_kvfile_head_bytes(f);
    memset(out, 0, TD_KVFILE_FIXED_BYTES);
    memcpy(out, g_magic, sizeof(g_magic));
    put_u32(out + 8, VERSION);
    put_u32(out + 12, (uint32_t)n_bytes);
    memcpy(out + 16, f->weights, sizeof(f->weights));
    memcpy(out + 48, f->layout, sizeof(f->layout));
    put_u32(out + 64, f->n_stops);
    put_u32(out + 68, f->n_tokens);
    put_u32(out + 72, f->n_prompt);
    put_u64(out + 80, f->payload_bytes);
    uint8_t *at = out + TD_KVFILE_FIXED_BYTES;
    for (uint32_t i = 0; i < f->n_stops; i++, at += 24) {
        put_u32(at, stops[i].pos);
        put_u32(at + 4, stops[i].is_mark);
        memcpy(at + 8, stops[i].sum, sizeof(stops[i].sum));
    }
    for (uint32_t i = 0; i < f->n_tokens; i++, at += 4) put_u32(at, (uint32_t)tokens[i]);
    sum_of(out, n_bytes, out + SUM_AT);
}
