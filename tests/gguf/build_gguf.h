// SPDX-License-Identifier: MIT
// Builds GGUF files in memory, byte by byte and unchecked, so that tests can make wrong ones. It
// shares nothing with src/gguf: what it writes is the specification as a second pair of eyes reads
// it.
#ifndef TD_TESTS_BUILD_GGUF_H
#define TD_TESTS_BUILD_GGUF_H

#include <stdint.h>
#include <stdio.h>
#include <string.h>

struct build {
    uint8_t at[16384];
    size_t n;
};

static inline void put(struct build *b, const void *p, size_t n)
{
    if (n > sizeof(b->at) - b->n) {
        fprintf(stderr, "build: the test file is too large\n");
        __builtin_trap();
    }
    memcpy(b->at + b->n, p, n);
    b->n += n;
}

static inline void put8(struct build *b, uint32_t v)
{
    const uint8_t x = (uint8_t)v;
    put(b, &x, 1);
}

static inline void put16(struct build *b, uint32_t v)
{
    const uint16_t x = (uint16_t)v;
    put(b, &x, 2);
}

static inline void put32(struct build *b, uint32_t v)
{
    put(b, &v, 4);
}

static inline void put64(struct build *b, uint64_t v)
{
    put(b, &v, 8);
}

static inline void put_f32(struct build *b, float v)
{
    put(b, &v, 4);
}

static inline void put_f64(struct build *b, double v)
{
    put(b, &v, 8);
}

static inline void put_text(struct build *b, const char *s)
{
    put64(b, strlen(s));
    put(b, s, strlen(s));
}

static inline void put_head(struct build *b, uint32_t version, uint64_t n_tensors, uint64_t n_kv)
{
    put(b, "GGUF", 4);
    put32(b, version);
    put64(b, n_tensors);
    put64(b, n_kv);
}

// Key and type; the value follows.
static inline void put_key(struct build *b, const char *key, uint32_t type)
{
    put_text(b, key);
    put32(b, type);
}

static inline void put_key_u32(struct build *b, const char *key, uint32_t v)
{
    put_key(b, key, 4);
    put32(b, v);
}

static inline void put_key_str(struct build *b, const char *key, const char *v)
{
    put_key(b, key, 8);
    put_text(b, v);
}

static inline void put_key_arr(struct build *b, const char *key, uint32_t elem, uint64_t n)
{
    put_key(b, key, 9);
    put32(b, elem);
    put64(b, n);
}

static inline void put_tensor(struct build *b, const char *name, uint32_t type, uint64_t ne0,
                              uint64_t ne1, uint64_t offset)
{
    put_text(b, name);
    put32(b, 2);
    put64(b, ne0);
    put64(b, ne1);
    put32(b, type);
    put64(b, offset);
}

static inline void pad(struct build *b, size_t align)
{
    while (b->n % align) put8(b, 0);
}

static inline void put_zeros(struct build *b, size_t n)
{
    for (size_t i = 0; i < n; i++) put8(b, 0);
}

#endif
