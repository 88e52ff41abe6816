// SPDX-License-Identifier: MIT
// Collects a GGUF v3 header. The tensors' data is the caller's to write: only its size is known
// here. The finished header is read back by the parser, so what is written can be read.
#include "gguf/gguf_write.h"

#include "base/num.h"
#include "gguf/gguf_impl.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

// The largest vocabularies take some 10 MB; a header beyond this is a mistake.
static const size_t MAX_HEADER_BYTES = (size_t)1 << 30;

struct bytes_out {
    uint8_t *at;
    size_t used;
    size_t cap;
};

struct td_gguf_writer {
    struct td_error failed; // the first failure; code 0: none
    uint64_t n_kv;
    uint64_t n_tensors;
    uint64_t data_bytes; // of all tensors so far, each padded
    struct bytes_out kv;
    struct bytes_out tensors;
    struct bytes_out header; // of _header, once asked for
};

int td_gguf_writer_open(struct td_gguf_writer **out, struct td_error *err)
{
    *out = calloc(1, sizeof(**out));
    return *out ? TD_OK : td_fail(err, TD_ENOMEM, "no memory to write a GGUF header");
}

void td_gguf_writer_close(struct td_gguf_writer *w)
{
    if (!w) return;
    free(w->kv.at);
    free(w->tensors.at);
    free(w->header.at);
    free(w);
}

// n more bytes at the end of b, to be written by the caller; NULL after any failure.
static uint8_t *extend(struct td_gguf_writer *w, struct bytes_out *b, size_t n)
{
    if (w->failed.code) return NULL;
    if (n > MAX_HEADER_BYTES - b->used) {
        (void)td_fail(&w->failed, TD_EFULL, "a GGUF header of more than %zu bytes",
                      MAX_HEADER_BYTES);
        return NULL;
    }
    if (n > b->cap - b->used) {
        const size_t need = b->used + n;
        const size_t cap = need < 2 * b->cap ? 2 * b->cap : need + 1024;
        uint8_t *at = realloc(b->at, cap);
        if (!at) {
            (void)td_fail(&w->failed, TD_ENOMEM, "no memory to write a GGUF header");
            return NULL;
        }
        b->at = at;
        b->cap = cap;
    }
    uint8_t *p = b->at + b->used;
    b->used += n;
    return p;
}

static void put_bytes(struct td_gguf_writer *w, struct bytes_out *b, const void *p, size_t n)
{
    uint8_t *to = extend(w, b, n);
    if (to && n) memcpy(to, p, n);
}

static void put_u32(struct td_gguf_writer *w, struct bytes_out *b, uint32_t v)
{
    put_bytes(w, b, &v, sizeof(v));
}

static void put_u64(struct td_gguf_writer *w, struct bytes_out *b, uint64_t v)
{
    put_bytes(w, b, &v, sizeof(v));
}

static void put_text(struct td_gguf_writer *w, struct bytes_out *b, const char *s, size_t n)
{
    put_u64(w, b, n);
    put_bytes(w, b, s, n);
}

static void put_key(struct td_gguf_writer *w, const char *key, enum td_gguf_type type)
{
    assert(!w->header.at); // the header was handed out: too late for more
    put_text(w, &w->kv, key, strlen(key));
    put_u32(w, &w->kv, type);
    w->n_kv++;
}

static void put_array(struct td_gguf_writer *w, const char *key, enum td_gguf_type type,
                      const void *v, uint64_t n)
{
    put_key(w, key, TD_GGUF_ARR);
    put_u32(w, &w->kv, type);
    put_u64(w, &w->kv, n);
    uint64_t size_bytes;
    if (!td_mul_u64(n, td_gguf_type_bytes(type), &size_bytes)) size_bytes = UINT64_MAX;
    put_bytes(w, &w->kv, v, size_bytes);
}

void td_gguf_put_u32(struct td_gguf_writer *w, const char *key, uint32_t v)
{
    put_key(w, key, TD_GGUF_U32);
    put_u32(w, &w->kv, v);
}

void td_gguf_put_u64(struct td_gguf_writer *w, const char *key, uint64_t v)
{
    put_key(w, key, TD_GGUF_U64);
    put_u64(w, &w->kv, v);
}

void td_gguf_put_f32(struct td_gguf_writer *w, const char *key, float v)
{
    put_key(w, key, TD_GGUF_F32);
    put_u32(w, &w->kv, td_bits_of_f32(v));
}

void td_gguf_put_bool(struct td_gguf_writer *w, const char *key, bool v)
{
    const uint8_t byte = v ? 1 : 0;
    put_key(w, key, TD_GGUF_BOOL);
    put_bytes(w, &w->kv, &byte, 1);
}

void td_gguf_put_str(struct td_gguf_writer *w, const char *key, const char *v)
{
    put_key(w, key, TD_GGUF_STR);
    put_text(w, &w->kv, v, strlen(v));
}

void td_gguf_put_strs(struct td_gguf_writer *w, const char *key, const struct td_str *v, uint64_t n)
{
    put_key(w, key, TD_GGUF_ARR);
    put_u32(w, &w->kv, TD_GGUF_STR);
    put_u64(w, &w->kv, n);
    for (uint64_t i = 0; i < n && !w->failed.code; i++)
        put_text(w, &w->kv, v[i].at, v[i].size_bytes);
}

void td_gguf_put_i32s(struct td_gguf_writer *w, const char *key, const int32_t *v, uint64_t n)
{
    put_array(w, key, TD_GGUF_I32, v, n);
}

void td_gguf_put_u32s(struct td_gguf_writer *w, const char *key, const uint32_t *v, uint64_t n)
{
    put_array(w, key, TD_GGUF_U32, v, n);
}

void td_gguf_put_f32s(struct td_gguf_writer *w, const char *key, const float *v, uint64_t n)
{
    put_array(w, key, TD_GGUF_F32, v, n);
}

uint64_t td_gguf_data_padding(uint64_t size_bytes)
{
    return (TD_GGUF_DEFAULT_ALIGN - size_bytes % TD_GGUF_DEFAULT_ALIGN) % TD_GGUF_DEFAULT_ALIGN;
}

void td_gguf_put_tensor(struct td_gguf_writer *w, const char *name, enum td_type type,
                        uint32_t n_dims, const uint64_t *dim)
{
    assert(!w->header.at);
    if (w->failed.code) return;
    const struct td_type_info *info = td_type_info(type);
    assert(info && n_dims >= 1 && n_dims <= TD_GGUF_MAX_DIMS);
    put_text(w, &w->tensors, name, strlen(name));
    put_u32(w, &w->tensors, n_dims);
    uint64_t n = 1;
    bool fits = true;
    for (uint32_t d = 0; d < n_dims; d++) {
        put_u64(w, &w->tensors, dim[d]);
        fits = fits && td_mul_u64(n, dim[d], &n);
    }
    put_u32(w, &w->tensors, type);
    put_u64(w, &w->tensors, w->data_bytes);
    w->n_tensors++;

    uint64_t size_bytes = 0;
    fits = fits && td_mul_u64(n / info->block, info->block_bytes, &size_bytes);
    fits = fits && td_add_u64(size_bytes, td_gguf_data_padding(size_bytes), &size_bytes);
    fits = fits && td_add_u64(w->data_bytes, size_bytes, &w->data_bytes);
    if (!fits && !w->failed.code)
        (void)td_fail(&w->failed, TD_EARG, "tensor '%.64s': its size is beyond 64 bits", name);
}

// The header's parts, one behind the other.
static void join(struct td_gguf_writer *w, struct bytes_out *out)
{
    put_bytes(w, out, "GGUF", 4);
    put_u32(w, out, 3);
    put_u64(w, out, w->n_tensors);
    put_u64(w, out, w->n_kv);
    put_bytes(w, out, w->kv.at, w->kv.used);
    put_bytes(w, out, w->tensors.at, w->tensors.used);
    uint8_t *padding = extend(w, out, td_gguf_data_padding(out->used));
    if (padding) memset(padding, 0, out->used - (size_t)(padding - out->at));
}

int td_gguf_writer_header(struct td_gguf_writer *w, const uint8_t **bytes, size_t *size_bytes,
                          struct td_error *err)
{
    if (!w->header.at && !w->failed.code) {
        struct bytes_out header = {0};
        struct td_gguf *check = NULL;
        join(w, &header);
        // A key given twice, a name too long, rows that are no whole blocks: one place knows.
        if (!w->failed.code &&
            td_gguf_parse(&check, header.at, header.used, "GGUF header", true, &w->failed) == 0)
            w->header = header;
        else
            free(header.at);
        td_gguf_close(check);
    }
    if (w->failed.code) return td_fail(err, w->failed.code, "%s", w->failed.msg);
    *bytes = w->header.at;
    *size_bytes = w->header.used;
    return TD_OK;
}
