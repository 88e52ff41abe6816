// SPDX-License-Identifier: MIT
// Arbitrary bytes as a connection of the relay: frame after frame, until one is refused. The first
// byte chooses: bit 0 the connection, bit 1 the version agreed on, bit 2 whether each frame gets
// its checksums and length made right, so that what lies behind them is reached. Always: what
// decodes would be written byte for byte the same, and its items lie inside its payload.
#include "relay/wire.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const struct td_wire_msg *m, const uint8_t *header, const uint8_t *payload)
{
    static uint8_t again[TD_WIRE_HEADER_BYTES + TD_WIRE_MAX_DATA];
    const uint8_t *items = m->items;
    if (m->items_bytes > m->h.size_bytes) abort();
    if (m->items_bytes &&
        (items < payload || (size_t)(items - payload) > m->h.size_bytes - (size_t)m->items_bytes))
        abort();
    const size_t n = td_wire_encode(again, sizeof(again), m);
    if (n != TD_WIRE_HEADER_BYTES + (size_t)m->h.size_bytes) abort();
    if (memcmp(again, header, TD_WIRE_HEADER_BYTES) != 0) abort();
    if (m->h.size_bytes && memcmp(again + TD_WIRE_HEADER_BYTES, payload, m->h.size_bytes) != 0)
        abort();
    if (m->h.type == TD_WIRE_HELLO) {
        const struct td_wire_hello ours = {TD_WIRE_VERSION_MIN, TD_WIRE_VERSION_MAX, 0, "fuzz"};
        uint8_t version = 0;
        struct td_error err;
        if (!td_wire_agree(&version, &ours, &m->u.hello, &err) && version == 0) abort();
    }
    if (m->h.type == TD_WIRE_SPAN) (void)td_wire_span_digest(&m->h);
}

// Length and sums that fit what follows; at most half of the rest, so that more frames follow.
static void make_right(uint8_t *header, const uint8_t *payload, size_t left)
{
    uint32_t size_bytes;
    memcpy(&size_bytes, header + 28, 4);
    if (size_bytes > left) size_bytes = (uint32_t)(left / 2 + left % 2);
    memcpy(header + 28, &size_bytes, 4);
    memcpy(header, "TDKV", 4);
    const uint64_t sum = td_wire_sum(payload, size_bytes);
    memcpy(header + 32, &sum, 8);
    const uint64_t header_sum = td_wire_sum(header, 40);
    memcpy(header + 40, &header_sum, 8);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1) return 0;
    const enum td_wire_channel channel = data[0] & 1 ? TD_WIRE_DATA : TD_WIRE_CONTROL;
    const uint8_t version = data[0] & 2 ? 1 : 0;
    const uint8_t *at = data + 1, *end = data + size;
    while (end - at >= TD_WIRE_HEADER_BYTES) {
        uint8_t header[TD_WIRE_HEADER_BYTES];
        memcpy(header, at, sizeof(header));
        at += TD_WIRE_HEADER_BYTES;
        const size_t left = (size_t)(end - at);
        if (data[0] & 4) make_right(header, at, left);
        struct td_wire_header h;
        struct td_error err;
        if (td_wire_get_header(&h, header, channel, version, &err)) break;
        if (h.size_bytes > left) break;
        // A payload of its own size, so that a sanitizer sees an over-read.
        uint8_t *payload = malloc(h.size_bytes ? h.size_bytes : 1);
        if (!payload) abort();
        memcpy(payload, at, h.size_bytes);
        struct td_wire_msg m;
        const int code = td_wire_decode(&m, &h, payload, &err);
        if (!code) check(&m, header, payload);
        free(payload);
        if (code) break;
        at += h.size_bytes;
    }
    return 0;
}
