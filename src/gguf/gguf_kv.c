// SPDX-License-Identifier: MIT
// Typed access to metadata. Bytes were checked when they were read (gguf_meta.c); here only types
// and ranges are.
#include "gguf/gguf_impl.h"

#include <assert.h>
#include <float.h>
#include <math.h>
#include <string.h>

const struct td_gguf_kv *td_gguf_find_kv(const struct td_gguf *g, const char *key)
{
    const uint32_t i = td_gguf_find_name(g->kv_index, g->n_kv, key);
    return i == UINT32_MAX ? NULL : &g->kv[i];
}

uint32_t td_gguf_n_kv(const struct td_gguf *g)
{
    return g->n_kv;
}

const char *td_gguf_key_at(const struct td_gguf *g, uint32_t i)
{
    assert(i < g->n_kv);
    return g->kv[i].key;
}

enum td_gguf_type td_gguf_type_at(const struct td_gguf *g, uint32_t i_kv)
{
    assert(i_kv < g->n_kv);
    return g->kv[i_kv].type;
}

bool td_gguf_has(const struct td_gguf *g, const char *key)
{
    return td_gguf_find_kv(g, key) != NULL;
}

static int wrong_type(const struct td_gguf *g, const struct td_gguf_kv *kv, const char *wanted,
                      struct td_error *err)
{
    return td_fail(err, TD_EFORMAT, "%s: key '%.64s' is of type %s, not %s", g->show, kv->key,
                   td_gguf_type_name(kv->type), wanted);
}

// An integer of any width: its bits as 64, sign extended. False for other types.
static bool read_int(enum td_gguf_type type, const uint8_t *data, bool *is_negative_out,
                     uint64_t *bits_out)
{
    int64_t v = 0;
    uint64_t bits = 0;
    switch (type) {
    case TD_GGUF_U8: bits = *data; break;
    case TD_GGUF_U16:
    case TD_GGUF_U32:
    case TD_GGUF_U64: memcpy(&bits, data, td_gguf_type_bytes(type)); break; // little endian
    case TD_GGUF_I8: v = *data < 128 ? *data : *data - 256; break;
    case TD_GGUF_I16: {
        int16_t x;
        memcpy(&x, data, sizeof(x));
        v = x;
        break;
    }
    case TD_GGUF_I32: {
        int32_t x;
        memcpy(&x, data, sizeof(x));
        v = x;
        break;
    }
    case TD_GGUF_I64: memcpy(&v, data, sizeof(v)); break;
    case TD_GGUF_F32:
    case TD_GGUF_BOOL:
    case TD_GGUF_STR:
    case TD_GGUF_ARR:
    case TD_GGUF_F64: return false;
    }
    *is_negative_out = v < 0;
    *bits_out = v != 0 ? (uint64_t)v : bits;
    return true;
}

// f32 or f64. False for other types.
static bool read_float(enum td_gguf_type type, const uint8_t *data, double *out)
{
    if (type == TD_GGUF_F64) {
        memcpy(out, data, sizeof(*out));
        return true;
    }
    if (type != TD_GGUF_F32) return false;
    float v;
    memcpy(&v, data, sizeof(v));
    *out = (double)v;
    return true;
}

static int get_int(const struct td_gguf *g, const char *key, uint64_t max, uint64_t *out,
                   struct td_error *err)
{
    const struct td_gguf_kv *kv = td_gguf_find_kv(g, key);
    if (!kv) return TD_EARG;
    bool is_negative = false;
    uint64_t bits = 0;
    if (!read_int(kv->type, kv->data, &is_negative, &bits))
        return wrong_type(g, kv, "an integer", err);
    if (is_negative)
        return td_fail(err, TD_EFORMAT, "%s: key '%.64s' is %lld, below 0", g->show, kv->key,
                       (long long)(int64_t)bits);
    if (bits > max)
        return td_fail(err, TD_EFORMAT, "%s: key '%.64s' is %llu, at most %llu is possible",
                       g->show, kv->key, (unsigned long long)bits, (unsigned long long)max);
    *out = bits;
    return TD_OK;
}

int td_gguf_u32(const struct td_gguf *g, const char *key, uint32_t *out, struct td_error *err)
{
    uint64_t v = 0;
    const int code = get_int(g, key, UINT32_MAX, &v, err);
    if (code == TD_OK) *out = (uint32_t)v;
    return code;
}

int td_gguf_u64(const struct td_gguf *g, const char *key, uint64_t *out, struct td_error *err)
{
    return get_int(g, key, UINT64_MAX, out, err);
}

bool td_gguf_is_minus_one(const struct td_gguf *g, const char *key)
{
    const struct td_gguf_kv *kv = td_gguf_find_kv(g, key);
    bool is_negative = false;
    uint64_t bits = 0;
    if (!kv || !read_int(kv->type, kv->data, &is_negative, &bits)) return false;
    const uint32_t n_bits = 8 * td_gguf_type_bytes(kv->type);
    return bits == (is_negative ? UINT64_MAX : UINT64_MAX >> (64 - n_bits));
}

int td_gguf_f32(const struct td_gguf *g, const char *key, float *out, struct td_error *err)
{
    const struct td_gguf_kv *kv = td_gguf_find_kv(g, key);
    if (!kv) return TD_EARG;
    double v = 0;
    if (!read_float(kv->type, kv->data, &v)) return wrong_type(g, kv, "a float", err);
    // Infinities and NaN pass: what they mean is the caller's to say.
    if (isfinite(v) && fabs(v) > (double)FLT_MAX)
        return td_fail(err, TD_EFORMAT, "%s: key '%.64s' is %g, too large for 32 bits", g->show,
                       kv->key, v);
    *out = (float)v;
    return TD_OK;
}

int td_gguf_bool(const struct td_gguf *g, const char *key, bool *out, struct td_error *err)
{
    const struct td_gguf_kv *kv = td_gguf_find_kv(g, key);
    if (!kv) return TD_EARG;
    if (kv->type != TD_GGUF_BOOL) return wrong_type(g, kv, "a bool", err);
    *out = *kv->data != 0;
    return TD_OK;
}

int td_gguf_str(const struct td_gguf *g, const char *key, struct td_str *out, struct td_error *err)
{
    const struct td_gguf_kv *kv = td_gguf_find_kv(g, key);
    if (!kv) return TD_EARG;
    if (kv->type != TD_GGUF_STR) return wrong_type(g, kv, "a string", err);
    *out = (struct td_str){.at = (const char *)kv->data, .size_bytes = kv->n};
    return TD_OK;
}

int td_gguf_array(const struct td_gguf *g, const char *key, struct td_gguf_array *out,
                  struct td_error *err)
{
    const struct td_gguf_kv *kv = td_gguf_find_kv(g, key);
    if (!kv) return TD_EARG;
    if (kv->type != TD_GGUF_ARR) return wrong_type(g, kv, "an array", err);
    *out = (struct td_gguf_array){
        .type = kv->elem, .n = kv->n, .data = kv->data, .size_bytes = kv->size_bytes};
    return TD_OK;
}

static const uint8_t *elem_at(const struct td_gguf_array *a, uint64_t i)
{
    assert(i < a->n && a->type != TD_GGUF_STR);
    return a->data + i * td_gguf_type_bytes(a->type);
}

// What does not fit 64 signed bits is held at their ends; NaN is 0.
static int64_t i64_of_f64(double v)
{
    if (isnan(v)) return 0;
    if (v >= 0x1p63) return INT64_MAX;
    if (v < -0x1p63) return INT64_MIN;
    return (int64_t)v;
}

int64_t td_gguf_array_i64(const struct td_gguf_array *a, uint64_t i)
{
    const uint8_t *data = elem_at(a, i);
    bool is_negative = false;
    uint64_t bits = 0;
    double v = 0;
    if (read_float(a->type, data, &v)) return i64_of_f64(v);
    if (!read_int(a->type, data, &is_negative, &bits)) return *data; // bool
    if (!is_negative && bits > INT64_MAX) return INT64_MAX;
    return (int64_t)bits;
}

double td_gguf_array_f64(const struct td_gguf_array *a, uint64_t i)
{
    const uint8_t *data = elem_at(a, i);
    bool is_negative = false;
    uint64_t bits = 0;
    double v = 0;
    if (read_float(a->type, data, &v)) return v;
    if (!read_int(a->type, data, &is_negative, &bits)) return *data; // bool
    return is_negative ? (double)(int64_t)bits : (double)bits;
}
