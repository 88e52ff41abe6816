// SPDX-License-Identifier: MIT
// Checked access to a GGUF directory for architecture files. Nothing here knows an architecture.
#include "model/bind_impl.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *last_part(const char *path)
{
    const char *slash = path ? strrchr(path, '/') : NULL;
    return slash ? slash + 1 : path ? path : "model";
}

void td_binder_init(struct td_binder *b, const struct td_gguf *gguf, const char *arch,
                    struct td_error *err)
{
    *b = (struct td_binder){.gguf = gguf,
                            .arch = arch,
                            .err = err,
                            .code = TD_OK,
                            .file = last_part(td_gguf_path(gguf))};
}

void td_bind_fail(struct td_binder *b, int code, const char *fmt, ...)
{
    if (b->code != TD_OK) return;
    char what[200];
    va_list args;
    va_start(args, fmt);
    vsnprintf(what, sizeof(what), fmt, args);
    va_end(args);
    b->code = td_fail(b->err, code, "%.60s: %s", b->file, what);
}

void td_key_name(const struct td_binder *b, const char *key, char out[static 96])
{
    snprintf(out, 96, "%s.%s", b->arch, key);
}

bool td_has_key(const struct td_binder *b, const char *key)
{
    char name[96];
    td_key_name(b, key, name);
    return td_gguf_has(b->gguf, name);
}

// A getter failed for another reason than absence: pass on its sentence, which names the file.
static void bad_key(struct td_binder *b, int code, const char *name, const struct td_error *why)
{
    if (why->msg[0]) {
        if (b->code == TD_OK) b->code = td_fail(b->err, code, "%s", why->msg);
    } else {
        td_bind_fail(b, code, "key '%s' cannot be read", name);
    }
}

static bool get_u32(struct td_binder *b, const char *key, uint32_t lo, uint32_t hi, uint32_t *out)
{
    if (b->code != TD_OK || !td_has_key(b, key)) return false;
    char name[96];
    td_key_name(b, key, name);
    struct td_error why = {0};
    uint32_t v = 0;
    const int code = td_gguf_u32(b->gguf, name, &v, &why);
    if (code != TD_OK) {
        bad_key(b, code, name, &why);
        return false;
    }
    if (v < lo || v > hi) {
        td_bind_fail(b, TD_EFORMAT, "key '%s' is %" PRIu32 ", possible are %" PRIu32 " to %" PRIu32,
                     name, v, lo, hi);
        return false;
    }
    *out = v;
    return true;
}

static bool get_f32(struct td_binder *b, const char *key, double lo, double hi, double *out)
{
    if (b->code != TD_OK || !td_has_key(b, key)) return false;
    char name[96];
    td_key_name(b, key, name);
    struct td_error why = {0};
    float v = 0;
    const int code = td_gguf_f32(b->gguf, name, &v, &why);
    if (code != TD_OK) {
        bad_key(b, code, name, &why);
        return false;
    }
    if (!((double)v >= lo && (double)v <= hi)) { // also catches NaN
        td_bind_fail(b, TD_EFORMAT, "key '%s' is %g, possible are %g to %g", name, (double)v, lo,
                     hi);
        return false;
    }
    *out = (double)v;
    return true;
}

uint32_t td_maybe_u32(struct td_binder *b, const char *key, uint32_t lo, uint32_t hi,
                      uint32_t otherwise)
{
    uint32_t v = otherwise;
    (void)get_u32(b, key, lo, hi, &v);
    return v;
}

double td_maybe_f32(struct td_binder *b, const char *key, double lo, double hi, double otherwise)
{
    double v = otherwise;
    (void)get_f32(b, key, lo, hi, &v);
    return v;
}

uint32_t td_need_u32(struct td_binder *b, const char *key, uint32_t lo, uint32_t hi)
{
    uint32_t v = lo;
    if (!get_u32(b, key, lo, hi, &v))
        td_bind_fail(b, TD_EFORMAT, "key '%s.%s' is missing", b->arch, key);
    return v;
}

double td_need_f32(struct td_binder *b, const char *key, double lo, double hi)
{
    double v = lo;
    if (!get_f32(b, key, lo, hi, &v))
        td_bind_fail(b, TD_EFORMAT, "key '%s.%s' is missing", b->arch, key);
    return v;
}

struct shape {
    uint32_t n_dims;
    uint32_t dim[3];
};

static void shape_text(char out[static 80], uint32_t n_dims, const uint64_t *dim)
{
    size_t n = 0;
    for (uint32_t i = 0; i < n_dims && n < 80; i++) {
        const int k = snprintf(out + n, 80 - n, "%s%" PRIu64, i ? ", " : "(", dim[i]);
        n += k > 0 ? (size_t)k : 0;
    }
    if (n < 79) snprintf(out + n, 80 - n, ")");
}

static bool has_shape(const struct td_gguf_tensor *t, const struct shape *want)
{
    for (uint32_t i = 0; i < 4; i++) {
        const uint64_t expected = i < want->n_dims ? want->dim[i] : 1;
        const uint64_t found = i < t->n_dims ? t->dim[i] : 1;
        if (found != expected) return false;
    }
    return true;
}

static bool check_type(struct td_binder *b, const struct td_gguf_tensor *t)
{
    const struct td_type_info *type = td_type_info(t->type);
    const char *known = td_type_known_name(t->type);
    if (!type && !known) {
        td_bind_fail(b, TD_EUNSUP, "tensor '%s' has the unknown type number %" PRIu32, t->name,
                     t->type);
        return false;
    }
    if (!type) {
        td_bind_fail(b, TD_EUNSUP,
                     "tensor '%s' has type %s; tandem computes with F32, F16, BF16, Q8_0 and MXFP4",
                     t->name, known);
        return false;
    }
    if (t->dim[0] % type->block != 0) {
        td_bind_fail(b, TD_EFORMAT,
                     "tensor '%s' has rows of %" PRIu64
                     " elements, not a multiple of %s's %" PRIu32,
                     t->name, t->dim[0], type->name, type->block);
        return false;
    }
    // The writer aligns to 32; kernels read vectors unaligned but scalars as they are.
    if ((uintptr_t)t->data % 4 != 0) {
        td_bind_fail(b, TD_EFORMAT, "tensor '%s' is not aligned to 4 bytes", t->name);
        return false;
    }
    return true;
}

static td_weight bind(struct td_binder *b, const struct shape *want, const char *name)
{
    if (b->code != TD_OK) return TD_NO_WEIGHT;
    const struct td_gguf_tensor *t = td_gguf_find_tensor(b->gguf, name);
    if (!t) {
        td_bind_fail(b, TD_EFORMAT, "tensor '%s' is missing", name);
        return TD_NO_WEIGHT;
    }
    if (!has_shape(t, want)) {
        char expected[80], found[80];
        const uint64_t dim[3] = {want->dim[0], want->dim[1], want->dim[2]};
        shape_text(expected, want->n_dims, dim);
        shape_text(found, t->n_dims < 4 ? t->n_dims : 4, t->dim);
        td_bind_fail(b, TD_EFORMAT, "tensor '%s' has shape %s, expected %s", name, found, expected);
        return TD_NO_WEIGHT;
    }
    if (!check_type(b, t)) return TD_NO_WEIGHT;

    if (b->n_weights == b->cap_weights) {
        const uint32_t cap = b->cap_weights ? b->cap_weights * 2 : 64;
        struct td_weight_info *p = realloc(b->weights, cap * sizeof(*p));
        if (!p) {
            td_bind_fail(b, TD_ENOMEM, "no memory for the list of weights");
            return TD_NO_WEIGHT;
        }
        b->weights = p;
        b->cap_weights = cap;
    }
    struct td_weight_info *w = &b->weights[b->n_weights];
    *w = (struct td_weight_info){
        .name = t->name,
        .type = (enum td_type)t->type,
        .n_dims = want->n_dims,
        .data = t->data,
        .size_bytes = t->size_bytes,
    };
    for (uint32_t i = 0; i < 3; i++) w->dim[i] = i < want->n_dims ? want->dim[i] : 1;
    return (td_weight)b->n_weights++;
}

#define TD_NAME_BYTES 128

td_weight td_bind_matrix(struct td_binder *b, uint32_t n_in, uint32_t n_out, const char *fmt, ...)
{
    char name[TD_NAME_BYTES];
    va_list args;
    va_start(args, fmt);
    vsnprintf(name, sizeof(name), fmt, args);
    va_end(args);
    return bind(b, &(struct shape){.n_dims = 2, .dim = {n_in, n_out, 1}}, name);
}

td_weight td_bind_vector(struct td_binder *b, uint32_t n, const char *fmt, ...)
{
    char name[TD_NAME_BYTES];
    va_list args;
    va_start(args, fmt);
    vsnprintf(name, sizeof(name), fmt, args);
    va_end(args);
    return bind(b, &(struct shape){.n_dims = 1, .dim = {n, 1, 1}}, name);
}

td_weight td_bind_matrices(struct td_binder *b, uint32_t n_in, uint32_t n_out, uint32_t n_experts,
                           const char *fmt, ...)
{
    char name[TD_NAME_BYTES];
    va_list args;
    va_start(args, fmt);
    vsnprintf(name, sizeof(name), fmt, args);
    va_end(args);
    const struct shape s = {.n_dims = 3, .dim = {n_in, n_out, n_experts}};
    return bind(b, &s, name);
}

td_weight td_bind_vectors(struct td_binder *b, uint32_t n, uint32_t n_experts, const char *fmt, ...)
{
    char name[TD_NAME_BYTES];
    va_list args;
    va_start(args, fmt);
    vsnprintf(name, sizeof(name), fmt, args);
    va_end(args);
    return bind(b, &(struct shape){.n_dims = 2, .dim = {n, n_experts, 1}}, name);
}
