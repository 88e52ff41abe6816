// SPDX-License-Identifier: MIT
// FNV-1a over a model's metadata and its weights' names, types and shapes. It does not read the
// weights themselves: that would be the whole file.
// Source: Fowler, Noll, Vo; RFC 9923.
#include "model/digest_impl.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static void eat(uint64_t *h, const void *bytes, size_t size_bytes)
{
    const uint8_t *p = bytes;
    uint64_t v = *h;
    for (size_t i = 0; i < size_bytes; i++) v = (v ^ p[i]) * 0x100000001b3u;
    *h = v;
}

static void eat_u64(uint64_t *h, uint64_t v)
{
    eat(h, &v, sizeof(v));
}

// Length first, so that "ab","c" and "a","bc" differ.
static void eat_str(uint64_t *h, const char *at, size_t size_bytes)
{
    eat_u64(h, size_bytes);
    eat(h, at, size_bytes);
}

static bool eat_array(uint64_t *h, const struct td_gguf *g, const char *key)
{
    struct td_gguf_array a;
    if (td_gguf_array(g, key, &a, NULL) != TD_OK) return false;
    eat_u64(h, a.n);
    struct td_bytes strs = td_gguf_strs(&a);
    for (uint64_t i = 0; i < a.n; i++) {
        if (a.type == TD_GGUF_STR) {
            const struct td_str s = td_gguf_next_str(&strs);
            eat_str(h, s.at, s.size_bytes);
        } else if (a.type == TD_GGUF_F32 || a.type == TD_GGUF_F64) {
            const double v = td_gguf_array_f64(&a, i);
            eat(h, &v, sizeof(v));
        } else
            eat_u64(h, (uint64_t)td_gguf_array_i64(&a, i));
    }
    return true;
}

static void eat_value(uint64_t *h, const struct td_gguf *g, uint32_t i_kv)
{
    const char *key = td_gguf_key_at(g, i_kv);
    const enum td_gguf_type type = td_gguf_type_at(g, i_kv);
    struct td_str s;
    float f;
    if (type == TD_GGUF_STR && td_gguf_str(g, key, &s, NULL) == TD_OK) {
        eat_str(h, s.at, s.size_bytes);
    } else if (type == TD_GGUF_F32 && td_gguf_f32(g, key, &f, NULL) == TD_OK) {
        eat(h, &f, sizeof(f));
    } else if (type != TD_GGUF_ARR || !eat_array(h, g, key)) {
        char text[64]; // integers and truth values fit
        td_gguf_value_text(g, i_kv, text, sizeof(text));
        eat_str(h, text, strlen(text));
    }
}

void td_model_digest(struct td_model *m)
{
    uint64_t h = 0xcbf29ce484222325u;
    const uint32_t n_kv = td_gguf_n_kv(m->gguf);
    for (uint32_t i = 0; i < n_kv; i++) {
        const char *key = td_gguf_key_at(m->gguf, i);
        if (strncmp(key, "split.", 6) == 0) continue;
        eat_str(&h, key, strlen(key));
        eat_value(&h, m->gguf, i);
    }
    for (uint32_t i = 0; i < m->n_weights; i++) {
        const struct td_weight_info *w = &m->weights[i];
        eat_str(&h, w->name, strlen(w->name));
        eat_u64(&h, w->type);
        eat(&h, w->dim, sizeof(w->dim));
    }
    snprintf(m->digest, sizeof(m->digest), "%016" PRIx64, h);
}
