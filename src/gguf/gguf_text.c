// SPDX-License-Identifier: MIT
// Metadata values as one line of text, for people. It does not parse them back.
#include "gguf/gguf_impl.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

// A line being written; once something did not fit, nothing more is taken.
struct line {
    char *at;
    size_t used; // without the NUL
    size_t cap;  // with it
    bool is_full;
};

static void add(struct line *l, const char *fmt, ...) TD_PRINTF(2, 3);

// All or nothing, so that no escape and no character is cut in two.
static void add(struct line *l, const char *fmt, ...)
{
    if (l->is_full) return;
    const size_t room = l->cap - l->used;
    va_list args;
    va_start(args, fmt);
    const int n = vsnprintf(l->at + l->used, room, fmt, args);
    va_end(args);
    if (n >= 0 && (size_t)n < room) {
        l->used += (size_t)n;
        return;
    }
    l->at[l->used] = '\0';
    l->is_full = true;
}

static void add_str(struct line *l, const uint8_t *s, uint64_t n)
{
    add(l, "\"");
    for (uint64_t i = 0; i < n && !l->is_full;) {
        const uint32_t len = td_gguf_utf8_len(s + i, n - i);
        const uint8_t c = s[i];
        // C1 controls (U+0080..U+009F) move a terminal's cursor as C0 ones do.
        const bool is_c1 = len == 2 && c == 0xc2 && s[i + 1] < 0xa0;
        i += len ? len : 1;
        if (c == '"' || c == '\\')
            add(l, "\\%c", c);
        else if (c == '\n')
            add(l, "\\n");
        else if (c == '\t')
            add(l, "\\t");
        else if (c == '\r')
            add(l, "\\r");
        else if (len == 0 || c < 0x20 || c == 0x7f)
            add(l, "\\x%02x", c);
        else if (is_c1)
            add(l, "\\u%04x", s[i - 1]);
        else
            add(l, "%.*s", (int)len, (const char *)s + i - len);
    }
    add(l, "\"");
}

static void add_number(struct line *l, const struct td_gguf_array *a, uint64_t i)
{
    assert(td_gguf_type_bytes(a->type) > 0); // read_array refuses arrays of arrays
    switch (a->type) {
    case TD_GGUF_F32: add(l, "%.9g", td_gguf_array_f64(a, i)); return;
    case TD_GGUF_F64: add(l, "%.17g", td_gguf_array_f64(a, i)); return;
    case TD_GGUF_BOOL: add(l, "%s", a->data[i] ? "true" : "false"); return;
    case TD_GGUF_U64: {
        uint64_t v;
        memcpy(&v, a->data + i * sizeof(v), sizeof(v));
        add(l, "%llu", (unsigned long long)v);
        return;
    }
    case TD_GGUF_U8:
    case TD_GGUF_I8:
    case TD_GGUF_U16:
    case TD_GGUF_I16:
    case TD_GGUF_U32:
    case TD_GGUF_I32:
    case TD_GGUF_I64: add(l, "%lld", (long long)td_gguf_array_i64(a, i)); return;
    case TD_GGUF_STR:
    case TD_GGUF_ARR: break;
    }
}

void td_gguf_value_text(const struct td_gguf *g, uint32_t i_kv, char *out, size_t size_bytes)
{
    assert(i_kv < g->n_kv);
    if (size_bytes == 0) return;
    static const char cut[] = "...";
    // Room for "..." is set aside, so that a cut line says so.
    const size_t reserve = size_bytes > sizeof(cut) ? sizeof(cut) - 1 : 0;
    struct line l = {.at = out, .cap = size_bytes - reserve};
    out[0] = '\0';
    const struct td_gguf_kv *kv = &g->kv[i_kv];
    const struct td_gguf_array a = {
        .type = kv->elem, .n = kv->n, .data = kv->data, .size_bytes = kv->size_bytes};
    if (kv->type == TD_GGUF_STR) {
        add_str(&l, kv->data, kv->n);
    } else if (kv->type != TD_GGUF_ARR) {
        add_number(&l, &a, 0);
    } else {
        add(&l, "[%llu]", (unsigned long long)a.n);
        struct td_bytes strs = td_gguf_strs(&a);
        for (uint64_t i = 0; i < a.n && !l.is_full; i++) {
            add(&l, i ? ", " : " ");
            if (a.type != TD_GGUF_STR) {
                add_number(&l, &a, i);
                continue;
            }
            const struct td_str s = td_gguf_next_str(&strs);
            add_str(&l, (const uint8_t *)s.at, s.size_bytes);
        }
    }
    if (l.is_full && reserve) memcpy(out + l.used, cut, sizeof(cut));
}
