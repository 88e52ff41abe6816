// SPDX-License-Identifier: MIT
// Arbitrary bytes as the head of a KV file. The first byte chooses whether magic, version, counts
// and sum are made right, so that what lies behind them is reached. What is accepted is within its
// bounds, and would be written byte for byte the same.
#include "server/kvfile.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void put_u32(uint8_t *at, uint32_t v)
{
    for (unsigned i = 0; i < 4; i++) at[i] = (uint8_t)(v >> (8 * i));
}

// Counts that fit the bytes that there are.
static void make_right(uint8_t *head, size_t size)
{
    const uint32_t room = (uint32_t)(size - TD_KVFILE_FIXED_BYTES) / 4 * 4;
    const uint32_t n_stops = 1 + head[64] % 4;
    if (room < 24 * n_stops + 4) return;
    const uint32_t n_tokens = (room - 24 * n_stops) / 4;
    memcpy(head, "tandemKV", 8);
    put_u32(head + 8, 1);
    put_u32(head + 12, TD_KVFILE_FIXED_BYTES + room);
    put_u32(head + 64, n_stops);
    put_u32(head + 68, n_tokens);
    put_u32(head + 72, n_tokens / 2);
    memset(head + 76, 0, 4);
    memset(head + 88, 0, 24);
    // The last stop ends it.
    put_u32(head + TD_KVFILE_FIXED_BYTES + (size_t)24 * (n_stops - 1), n_tokens);
}

static void check(const struct td_kvfile *f, const uint8_t *head, size_t n_bytes)
{
    struct td_kvfile_stop *stops = malloc(f->n_stops * sizeof(*stops));
    int32_t *tokens = malloc(f->n_tokens * sizeof(*tokens));
    uint8_t *again = malloc(n_bytes);
    if (!stops || !tokens || !again) abort();
    struct td_error err;
    if (td_kvfile_read(f, head, n_bytes, stops, tokens, &err) == TD_OK) {
        for (uint32_t i = 0; i < f->n_stops; i++)
            if (stops[i].pos < 1 || stops[i].pos > f->n_tokens) abort();
        for (uint32_t i = 0; i < f->n_tokens; i++)
            if (tokens[i] < 0) abort();
        td_kvfile_write(again, f, stops, tokens);
        const bool is_same =
            memcmp(again, head, 112) == 0 && memcmp(again + 128, head + 128, n_bytes - 128) == 0;
        if (!is_same || !td_kvfile_is_sound(again, n_bytes)) abort();
        if (td_kvfile_is_sound(head, n_bytes) != (memcmp(again, head, n_bytes) == 0)) abort();
    }
    free(stops);
    free(tokens);
    free(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1 + TD_KVFILE_FIXED_BYTES) return 0;
    // Of its own size, so that a sanitizer sees an over-read.
    uint8_t *bytes = malloc(size - 1);
    if (!bytes) abort();
    memcpy(bytes, data + 1, size - 1);
    if (data[0] & 1) make_right(bytes, size - 1);
    struct td_kvfile f;
    struct td_error err;
    if (td_kvfile_read_fixed(&f, bytes, &err) == TD_OK) {
        const size_t n_bytes = td_kvfile_head_bytes(&f);
        if (n_bytes <= size - 1) {
            uint8_t *head = malloc(n_bytes);
            if (!head) abort();
            memcpy(head, bytes, n_bytes);
            check(&f, head, n_bytes);
            free(head);
        } else if (td_kvfile_read(&f, bytes, size - 1, NULL, NULL, &err) == TD_OK) {
            abort();
        }
    }
    free(bytes);
    return 0;
}
