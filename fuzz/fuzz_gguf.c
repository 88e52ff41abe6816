// SPDX-License-Identifier: MIT
// Any bytes as a GGUF file: refused with a sentence, or everything it lists can be read.
#include "gguf/gguf.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile uint64_t g_sink; // keeps the reads

static void walk_array(const struct td_gguf *g, const char *key)
{
    struct td_gguf_array a;
    if (td_gguf_array(g, key, &a, NULL) != TD_OK) return;
    struct td_bytes strs = td_gguf_strs(&a);
    for (uint64_t i = 0; i < a.n; i++) {
        if (a.type != TD_GGUF_STR) {
            g_sink += (uint64_t)td_gguf_array_i64(&a, i);
            g_sink += td_gguf_array_f64(&a, i) > 0;
            continue;
        }
        const struct td_str s = td_gguf_next_str(&strs);
        if (strs.short_read) __builtin_trap(); // they were counted when the file was opened
        if (s.size_bytes) g_sink += (uint8_t)s.at[0] + (uint8_t)s.at[s.size_bytes - 1];
    }
}

static void walk_key(const struct td_gguf *g, uint32_t i)
{
    const char *key = td_gguf_key_at(g, i);
    struct td_error err;
    uint32_t u32;
    uint64_t u64;
    float f32;
    bool flag;
    struct td_str s;
    char text[100];
    if (!td_gguf_has(g, key)) __builtin_trap();
    if (td_gguf_u32(g, key, &u32, &err) == TD_OK) g_sink += u32;
    if (td_gguf_u64(g, key, &u64, &err) == TD_OK) g_sink += u64;
    if (td_gguf_f32(g, key, &f32, &err) == TD_OK) g_sink += f32 > 0;
    if (td_gguf_bool(g, key, &flag, &err) == TD_OK) g_sink += flag;
    if (td_gguf_str(g, key, &s, &err) == TD_OK && s.size_bytes)
        g_sink += (uint8_t)s.at[0] + (uint8_t)s.at[s.size_bytes - 1];
    walk_array(g, key);
    for (size_t n = 1; n <= sizeof(text); n += 33) {
        td_gguf_value_text(g, i, text, n);
        if (strlen(text) >= n) __builtin_trap();
    }
    g_sink += td_gguf_type_at(g, i);
}

static void walk(const struct td_gguf *g)
{
    for (uint32_t i = 0; i < td_gguf_n_kv(g); i++) walk_key(g, i);
    for (uint32_t i = 0; i < td_gguf_n_tensors(g); i++) {
        const struct td_gguf_tensor *t = td_gguf_tensor_at(g, i);
        if (td_gguf_find_tensor(g, t->name) != t) __builtin_trap();
        if (!t->data) continue;
        g_sink += t->data[0];
        if (t->size_bytes) g_sink += t->data[t->size_bytes - 1];
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    for (int header_only = 0; header_only < 2; header_only++) {
        struct td_gguf *g;
        struct td_error err = {0};
        const int code = td_gguf_parse(&g, data, size, "fuzz", header_only, &err);
        if (code == TD_OK)
            walk(g);
        else if (g || err.code != code || strncmp(err.msg, "fuzz: ", 6) != 0)
            __builtin_trap(); // a failure leaves nothing, and says something
        td_gguf_close(g);
    }
    return 0;
}
