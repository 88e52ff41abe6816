// SPDX-License-Identifier: MIT
// Reads the metadata records of one file. Every value is checked here, once, so that the getters
// need not look at the file's end again.
#include "gguf/gguf_impl.h"

#include <stdlib.h>
#include <string.h>

const char *td_gguf_type_name(enum td_gguf_type type)
{
    switch (type) {
    case TD_GGUF_U8: return "u8";
    case TD_GGUF_I8: return "i8";
    case TD_GGUF_U16: return "u16";
    case TD_GGUF_I16: return "i16";
    case TD_GGUF_U32: return "u32";
    case TD_GGUF_I32: return "i32";
    case TD_GGUF_F32: return "f32";
    case TD_GGUF_BOOL: return "bool";
    case TD_GGUF_STR: return "string";
    case TD_GGUF_ARR: return "array";
    case TD_GGUF_U64: return "u64";
    case TD_GGUF_I64: return "i64";
    case TD_GGUF_F64: return "f64";
    }
    return "unknown";
}

uint32_t td_gguf_type_bytes(enum td_gguf_type type)
{
    switch (type) {
    case TD_GGUF_U8:
    case TD_GGUF_I8:
    case TD_GGUF_BOOL: return 1;
    case TD_GGUF_U16:
    case TD_GGUF_I16: return 2;
    case TD_GGUF_U32:
    case TD_GGUF_I32:
    case TD_GGUF_F32: return 4;
    case TD_GGUF_U64:
    case TD_GGUF_I64:
    case TD_GGUF_F64: return 8;
    case TD_GGUF_STR:
    case TD_GGUF_ARR: break;
    }
    return 0;
}

static int no_memory(const struct td_gguf *g, struct td_error *err)
{
    return td_fail(err, TD_ENOMEM, "%s: no memory for its metadata", g->show);
}

// The file ends where a value of key should be.
static int short_value(const struct td_gguf *g, const char *key, struct td_error *err)
{
    return td_fail(err, TD_EFORMAT,
                   "%s: the file ends inside the value of '%.64s': cut short or damaged", g->show,
                   key);
}

static int short_string(const struct td_gguf *g, const struct td_bytes *in, const char *key,
                        struct td_str s, struct td_error *err)
{
    if (s.size_bytes == 0) return short_value(g, key, err); // even its length is cut off
    return td_fail(err, TD_EFORMAT,
                   "%s: key '%.64s': a string of %zu bytes, but the file has only %zu left",
                   g->show, key, s.size_bytes, td_bytes_left(in));
}

static int check_bools(const struct td_gguf *g, const struct td_gguf_kv *kv, struct td_error *err)
{
    for (uint64_t i = 0; i < kv->n; i++) {
        if (kv->data[i] <= 1) continue;
        return td_fail(err, TD_EFORMAT, "%s: key '%.64s': a bool is 0 or 1, not %u", g->show,
                       kv->key, kv->data[i]);
    }
    return TD_OK;
}

static int read_strings(struct td_gguf *g, struct td_bytes *in, struct td_gguf_kv *kv,
                        struct td_error *err)
{
    // Each string takes at least the 8 bytes of its length.
    if (kv->n > td_bytes_left(in) / 8)
        return td_fail(err, TD_EFORMAT,
                       "%s: key '%.64s': %llu strings cannot fit in the %zu bytes left", g->show,
                       kv->key, (unsigned long long)kv->n, td_bytes_left(in));
    if (kv->n > TD_GGUF_MAX_STRINGS)
        return td_fail(err, TD_EUNSUP, "%s: key '%.64s': %llu strings, at most %d are supported",
                       g->show, kv->key, (unsigned long long)kv->n, TD_GGUF_MAX_STRINGS);
    kv->data = in->at;
    struct td_bytes at = *in; // a copy that stays in registers: vocabularies have 650 000 strings
    for (uint64_t i = 0; i < kv->n; i++) {
        struct td_str s;
        if (!td_gguf_take_str(&at, &s)) return short_string(g, &at, kv->key, s, err);
    }
    *in = at;
    kv->size_bytes = (size_t)(in->at - kv->data);
    return TD_OK;
}

static int read_array(struct td_gguf *g, struct td_bytes *in, struct td_gguf_kv *kv,
                      struct td_error *err)
{
    const uint32_t elem = td_bytes_u32le(in);
    kv->n = td_bytes_u64le(in);
    if (in->short_read) return short_value(g, kv->key, err);
    if (elem > TD_GGUF_F64)
        return td_fail(err, TD_EFORMAT, "%s: key '%.64s': an array of unknown type %u", g->show,
                       kv->key, elem);
    kv->elem = (enum td_gguf_type)elem;
    if (kv->elem == TD_GGUF_ARR)
        return td_fail(err, TD_EUNSUP, "%s: key '%.64s': arrays of arrays are not supported",
                       g->show, kv->key);
    if (kv->elem == TD_GGUF_STR) return read_strings(g, in, kv, err);

    const uint32_t elem_bytes = td_gguf_type_bytes(kv->elem);
    if (kv->n > td_bytes_left(in) / elem_bytes)
        return td_fail(err, TD_EFORMAT,
                       "%s: key '%.64s': %llu values of %s cannot fit in the %zu bytes left",
                       g->show, kv->key, (unsigned long long)kv->n, td_gguf_type_name(kv->elem),
                       td_bytes_left(in));
    kv->size_bytes = kv->n * elem_bytes;
    kv->data = td_bytes_take(in, kv->size_bytes);
    return kv->elem == TD_GGUF_BOOL ? check_bools(g, kv, err) : TD_OK;
}

static int read_value(struct td_gguf *g, struct td_bytes *in, struct td_gguf_kv *kv,
                      struct td_error *err)
{
    const uint32_t type = td_bytes_u32le(in);
    if (in->short_read) return short_value(g, kv->key, err);
    if (type > TD_GGUF_F64)
        return td_fail(err, TD_EFORMAT, "%s: key '%.64s': unknown value type %u", g->show, kv->key,
                       type);
    kv->type = (enum td_gguf_type)type;
    kv->elem = kv->type;
    kv->n = 1;
    if (kv->type == TD_GGUF_ARR) return read_array(g, in, kv, err);
    if (kv->type == TD_GGUF_STR) {
        struct td_str s;
        if (!td_gguf_take_str(in, &s)) return short_string(g, in, kv->key, s, err);
        kv->n = s.size_bytes;
        kv->data = (const uint8_t *)s.at;
        return TD_OK;
    }
    kv->data = td_bytes_take(in, td_gguf_type_bytes(kv->type));
    if (!kv->data) return short_value(g, kv->key, err);
    return kv->type == TD_GGUF_BOOL ? check_bools(g, kv, err) : TD_OK;
}

// Keys are ASCII by the specification; what is not printable would reach terminals.
static int read_key(struct td_gguf *g, struct td_bytes *in, uint64_t i, uint64_t n_kv,
                    const char **out, struct td_error *err)
{
    struct td_str s;
    const bool is_read = td_gguf_take_str(in, &s);
    const unsigned long long no = i + 1;
    const unsigned long long of = n_kv;
    if (s.size_bytes > TD_GGUF_MAX_KEY)
        return td_fail(err, TD_EFORMAT,
                       "%s: metadata key %llu of %llu: a name of %zu bytes, at most %d are allowed",
                       g->show, no, of, s.size_bytes, TD_GGUF_MAX_KEY);
    if (!is_read)
        return td_fail(err, TD_EFORMAT,
                       "%s: the file ends inside metadata key %llu of %llu: cut short or damaged",
                       g->show, no, of);
    if (s.size_bytes == 0)
        return td_fail(err, TD_EFORMAT, "%s: metadata key %llu of %llu: the name is empty", g->show,
                       no, of);
    for (size_t k = 0; k < s.size_bytes; k++)
        if (s.at[k] < ' ' || s.at[k] > '~')
            return td_fail(err, TD_EFORMAT,
                           "%s: metadata key %llu of %llu: the name '%s' is not printable ASCII",
                           g->show, no, of, td_gguf_show(s).text);
    *out = td_gguf_keep_name(g, s);
    return *out ? TD_OK : no_memory(g, err);
}

static int index_keys(struct td_gguf *g, struct td_error *err)
{
    g->kv_index = malloc((g->n_kv ? g->n_kv : 1) * sizeof(*g->kv_index));
    if (!g->kv_index) return no_memory(g, err);
    for (uint32_t i = 0; i < g->n_kv; i++)
        g->kv_index[i] = (struct td_gguf_name){.name = g->kv[i].key, .i = i};
    const char *twice;
    if (!td_gguf_sort_names(g->kv_index, g->n_kv, &twice))
        return td_fail(err, TD_EFORMAT, "%s: key '%.64s' is there twice", g->show, twice);
    return TD_OK;
}

static int read_align(struct td_gguf *g, struct td_error *err)
{
    const struct td_gguf_kv *kv = td_gguf_find_kv(g, "general.alignment");
    if (!kv) return TD_OK;
    if (kv->type != TD_GGUF_U32)
        return td_fail(err, TD_EFORMAT, "%s: key 'general.alignment' has type %s, not u32", g->show,
                       td_gguf_type_name(kv->type));
    uint32_t align;
    memcpy(&align, kv->data, sizeof(align));
    const bool is_power = align && (align & (align - 1)) == 0;
    if (!is_power || align < TD_GGUF_MIN_ALIGN || align > TD_GGUF_MAX_ALIGN)
        return td_fail(err, TD_EFORMAT,
                       "%s: key 'general.alignment' is %u, not a power of two between %d and %d",
                       g->show, align, TD_GGUF_MIN_ALIGN, TD_GGUF_MAX_ALIGN);
    g->align = align;
    return TD_OK;
}

int td_gguf_read_kv(struct td_gguf *g, struct td_bytes *in, uint64_t n_kv, struct td_error *err)
{
    // n_kv was held against the bytes left and TD_GGUF_MAX_KV.
    g->kv = calloc(n_kv ? n_kv : 1, sizeof(*g->kv));
    if (!g->kv) return no_memory(g, err);
    for (uint64_t i = 0; i < n_kv; i++) {
        struct td_gguf_kv *kv = &g->kv[i];
        g->n_kv++; // closing frees its strings, whole or not
        int code = read_key(g, in, i, n_kv, &kv->key, err);
        if (!code) code = read_value(g, in, kv, err);
        if (code) return code;
    }
    const int code = index_keys(g, err);
    return code ? code : read_align(g, err);
}
