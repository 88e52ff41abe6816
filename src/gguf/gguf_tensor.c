// SPDX-License-Identifier: MIT
// Reads the tensor records of one file and holds each against the bytes of its data. It knows sizes
// of types, not what tensors are for.
#include "gguf/gguf_impl.h"

#include "base/num.h"
#include "base/type.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Where a tensor's data lies, relative to the start of the data.
struct span {
    uint64_t begin;
    uint64_t end;
    uint32_t i;
};

static int no_memory(const struct td_gguf *g, struct td_error *err)
{
    return td_fail(err, TD_ENOMEM, "%s: no memory for its table of tensors", g->show);
}

// "3.1 GB", or the plain number below 10 MB.
struct size_text {
    char text[32];
};

static struct size_text show_size(uint64_t n)
{
    struct size_text s;
    if (n >= 1000000000u)
        snprintf(s.text, sizeof(s.text), "%.1f GB", (double)n * 1e-9);
    else if (n >= 10000000u)
        snprintf(s.text, sizeof(s.text), "%.1f MB", (double)n * 1e-6);
    else
        snprintf(s.text, sizeof(s.text), "%llu bytes", (unsigned long long)n);
    return s;
}

static int read_name(struct td_gguf *g, struct td_bytes *in, uint64_t i, uint64_t n_tensors,
                     const char **out, struct td_error *err)
{
    struct td_str s;
    const bool is_read = td_gguf_take_str(in, &s);
    const unsigned long long no = i + 1;
    const unsigned long long of = n_tensors;
    if (s.size_bytes > TD_GGUF_MAX_NAME)
        return td_fail(err, TD_EFORMAT,
                       "%s: tensor %llu of %llu: a name of %zu bytes, at most %d are allowed",
                       g->show, no, of, s.size_bytes, TD_GGUF_MAX_NAME);
    if (!is_read)
        return td_fail(err, TD_EFORMAT,
                       "%s: the file ends inside the name of tensor %llu of %llu: cut short or "
                       "damaged",
                       g->show, no, of);
    if (s.size_bytes == 0)
        return td_fail(err, TD_EFORMAT, "%s: tensor %llu of %llu: the name is empty", g->show, no,
                       of);
    const uint8_t *p = (const uint8_t *)s.at;
    for (size_t k = 0; k < s.size_bytes;) {
        const uint32_t len = td_gguf_utf8_len(p + k, s.size_bytes - k);
        // C0, DEL, and C1 (U+0080..U+009F, which starts with C2).
        const bool is_control =
            p[k] < 0x20 || p[k] == 0x7f || (len == 2 && p[k] == 0xc2 && p[k + 1] < 0xa0);
        if (len == 0 || is_control)
            return td_fail(err, TD_EFORMAT,
                           "%s: tensor %llu of %llu: the name '%s' has control characters or "
                           "invalid UTF-8",
                           g->show, no, of, td_gguf_show(s).text);
        k += len;
    }
    *out = td_gguf_keep_name(g, s);
    return *out ? TD_OK : no_memory(g, err);
}

static int read_shape(struct td_gguf *g, struct td_bytes *in, struct td_gguf_tensor *t,
                      uint64_t *n_elements_out, struct td_error *err)
{
    t->n_dims = td_bytes_u32le(in);
    if (!in->short_read && (t->n_dims < 1 || t->n_dims > TD_GGUF_MAX_DIMS))
        return td_fail(err, TD_EFORMAT, "%s: tensor '%s': %u dimensions, between 1 and %d exist",
                       g->show, t->name, t->n_dims, TD_GGUF_MAX_DIMS);
    uint64_t n = 1;
    for (uint32_t d = 0; d < TD_GGUF_MAX_DIMS; d++) {
        t->dim[d] = d < t->n_dims ? td_bytes_u64le(in) : 1;
        if (in->short_read) break;
        if (t->dim[d] == 0)
            return td_fail(err, TD_EFORMAT, "%s: tensor '%s': dimension %u is 0", g->show, t->name,
                           d);
        if (!td_mul_u64(n, t->dim[d], &n) || n > INT64_MAX)
            return td_fail(err, TD_EFORMAT,
                           "%s: tensor '%s': the product of its dimensions is "
                           "beyond 63 bits",
                           g->show, t->name);
    }
    if (in->short_read)
        return td_fail(err, TD_EFORMAT,
                       "%s: the file ends inside the shape of tensor '%s': cut short or damaged",
                       g->show, t->name);
    *n_elements_out = n;
    return TD_OK;
}

// Type and offset, and from them the size.
static int read_place(struct td_gguf *g, struct td_bytes *in, struct td_gguf_tensor *t,
                      uint64_t n_elements, struct span *out, struct td_error *err)
{
    t->type = td_bytes_u32le(in);
    const uint64_t offset = td_bytes_u64le(in);
    if (in->short_read)
        return td_fail(err, TD_EFORMAT,
                       "%s: the file ends inside the record of tensor '%s': cut short or damaged",
                       g->show, t->name);
    if (!td_type_known_name(t->type))
        return td_fail(err, TD_EUNSUP, "%s: tensor '%s': unknown type %u", g->show, t->name,
                       t->type);
    const struct td_type_info *type = td_type_info(t->type);
    if (type && t->dim[0] % type->block != 0)
        return td_fail(err, TD_EFORMAT,
                       "%s: tensor '%s': rows of %llu elements, but %s comes in blocks of %u",
                       g->show, t->name, (unsigned long long)t->dim[0], type->name, type->block);
    if (type && !td_mul_u64(n_elements / type->block, type->block_bytes, &t->size_bytes))
        return td_fail(err, TD_EFORMAT, "%s: tensor '%s': its size is beyond 64 bits", g->show,
                       t->name);
    if (offset % g->align != 0)
        return td_fail(err, TD_EFORMAT,
                       "%s: tensor '%s': offset %llu is not a multiple of the alignment %u",
                       g->show, t->name, (unsigned long long)offset, g->align);
    // A tensor of a type whose size is not known has a byte at least.
    out->begin = offset;
    if (!td_add_u64(offset, t->size_bytes ? t->size_bytes : 1, &out->end))
        return td_fail(err, TD_EFORMAT,
                       "%s: tensor '%s': offset %llu plus %llu bytes is beyond "
                       "64 bits",
                       g->show, t->name, (unsigned long long)offset,
                       (unsigned long long)t->size_bytes);
    return TD_OK;
}

static int by_begin(const void *a, const void *b)
{
    const struct span *x = a;
    const struct span *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    return x->i < y->i ? -1 : 1;
}

static int check_overlap(const struct td_gguf *g, struct span *spans, struct td_error *err)
{
    if (g->n_tensors > 1) qsort(spans, g->n_tensors, sizeof(*spans), by_begin);
    for (uint32_t k = 1; k < g->n_tensors; k++) {
        if (spans[k].begin >= spans[k - 1].end) continue;
        return td_fail(err, TD_EFORMAT, "%s: the data of tensors '%s' and '%s' overlap", g->show,
                       g->tensors[spans[k - 1].i].name, g->tensors[spans[k].i].name);
    }
    return TD_OK;
}

// Sets the tensors' data. spans are sorted and do not overlap, so the last ends last.
static int place_data(struct td_gguf *g, const uint8_t *file, uint64_t header_bytes,
                      const struct span *spans, struct td_error *err)
{
    if (g->header_only || g->n_tensors == 0) return TD_OK;
    // Both terms are far below 2^63: no overflow.
    const uint64_t data_begin = (header_bytes + g->align - 1) / g->align * g->align;
    const struct span *last = &spans[g->n_tensors - 1];
    uint64_t end;
    if (!td_add_u64(data_begin, last->end, &end)) end = UINT64_MAX;
    if (end > g->file_bytes)
        return td_fail(err, TD_EFORMAT,
                       "%s: the file has %s but tensor '%s' ends at %s: the download is "
                       "incomplete or the file damaged",
                       g->show, show_size(g->file_bytes).text, g->tensors[last->i].name,
                       show_size(end).text);
    for (uint32_t k = 0; k < g->n_tensors; k++)
        g->tensors[spans[k].i].data = file + data_begin + spans[k].begin;
    return TD_OK;
}

int td_gguf_index_tensors(struct td_gguf *g, struct td_error *err)
{
    free(g->tensor_index);
    g->tensor_index = malloc((g->n_tensors ? g->n_tensors : 1) * sizeof(*g->tensor_index));
    if (!g->tensor_index) return no_memory(g, err);
    for (uint32_t i = 0; i < g->n_tensors; i++)
        g->tensor_index[i] = (struct td_gguf_name){.name = g->tensors[i].name, .i = i};
    const char *twice;
    if (td_gguf_sort_names(g->tensor_index, g->n_tensors, &twice)) return TD_OK;
    uint32_t k = 1; // twice is the second's name, and the first stands before it
    while (g->tensor_index[k].name != twice) k++;
    const uint32_t a = g->tensors[g->tensor_index[k - 1].i].i_part;
    const uint32_t b = g->tensors[g->tensor_index[k].i].i_part;
    if (a == b) return td_fail(err, TD_EFORMAT, "%s: tensor '%s' is there twice", g->show, twice);
    return td_fail(err, TD_EFORMAT, "%s: tensor '%s' is in part %u and in part %u", g->show, twice,
                   (a < b ? a : b) + 1, (a < b ? b : a) + 1);
}

int td_gguf_read_tensors(struct td_gguf *g, struct td_bytes *in, const uint8_t *file,
                         uint64_t n_tensors, struct td_error *err)
{
    // n_tensors was held against the bytes left and TD_GGUF_MAX_TENSORS.
    const size_t n = n_tensors ? n_tensors : 1;
    g->tensors = calloc(n, sizeof(*g->tensors));
    struct span *spans = calloc(n, sizeof(*spans));
    if (!g->tensors || !spans) {
        free(spans);
        return no_memory(g, err);
    }
    int code = TD_OK;
    for (uint32_t i = 0; !code && i < n_tensors; i++) {
        struct td_gguf_tensor *t = &g->tensors[i];
        uint64_t n_elements = 0;
        spans[i] = (struct span){.i = i};
        code = read_name(g, in, i, n_tensors, &t->name, err);
        if (!code) code = read_shape(g, in, t, &n_elements, err);
        if (!code) code = read_place(g, in, t, n_elements, &spans[i], err);
        if (!code) g->n_tensors++;
    }
    if (!code) code = td_gguf_index_tensors(g, err);
    if (!code) code = check_overlap(g, spans, err);
    if (!code) code = place_data(g, file, (uint64_t)(in->at - file), spans, err);
    free(spans);
    return code;
}

uint32_t td_gguf_n_tensors(const struct td_gguf *g)
{
    return g->n_tensors;
}

const struct td_gguf_tensor *td_gguf_tensor_at(const struct td_gguf *g, uint32_t i)
{
    assert(i < g->n_tensors);
    return &g->tensors[i];
}

const struct td_gguf_tensor *td_gguf_find_tensor(const struct td_gguf *g, const char *name)
{
    const uint32_t i = td_gguf_find_name(g->tensor_index, g->n_tensors, name);
    return i == UINT32_MAX ? NULL : &g->tensors[i];
}

void td_gguf_bind(struct td_gguf *g, uint32_t i, const uint8_t *data)
{
    assert(i < g->n_tensors);
    g->tensors[i].data = data;
}
