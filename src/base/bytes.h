// SPDX-License-Identifier: MIT
// A bounded reader over bytes from outside. It remembers its first failure and
// from then on returns zeros, so that a parser reads a whole record and asks once.
#ifndef TD_BASE_BYTES_H
#define TD_BASE_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct td_bytes {
    const uint8_t *at;  // next unread byte
    const uint8_t *end; // one past the last
    bool short_read;    // something asked for more than was left; sticky
};

static inline struct td_bytes td_bytes_of(const void *bytes, size_t size_bytes)
{
    const uint8_t *p = bytes;
    return (struct td_bytes){.at = p, .end = p + size_bytes, .short_read = false};
}

static inline size_t td_bytes_left(const struct td_bytes *b)
{
    return (size_t)(b->end - b->at);
}

// Takes n bytes; NULL and short_read when fewer are left. The bytes stay where they lie.
static inline const uint8_t *td_bytes_take(struct td_bytes *b, uint64_t n)
{
    // n comes from outside: compare before adding, never after.
    if (b->short_read || n > td_bytes_left(b)) {
        b->short_read = true;
        return NULL;
    }
    const uint8_t *p = b->at;
    b->at += n;
    return p;
}

static inline uint8_t td_bytes_u8(struct td_bytes *b)
{
    const uint8_t *p = td_bytes_take(b, 1);
    return p ? *p : 0;
}

static inline uint16_t td_bytes_u16le(struct td_bytes *b)
{
    uint16_t v = 0;
    const uint8_t *p = td_bytes_take(b, sizeof(v));
    if (p) memcpy(&v, p, sizeof(v));
    return v;
}

static inline uint32_t td_bytes_u32le(struct td_bytes *b)
{
    uint32_t v = 0;
    const uint8_t *p = td_bytes_take(b, sizeof(v));
    if (p) memcpy(&v, p, sizeof(v));
    return v;
}

static inline uint64_t td_bytes_u64le(struct td_bytes *b)
{
    uint64_t v = 0;
    const uint8_t *p = td_bytes_take(b, sizeof(v));
    if (p) memcpy(&v, p, sizeof(v));
    return v;
}

#endif
