// SPDX-License-Identifier: MIT
// A directory's life: the file's first 24 bytes, the order of the steps, closing. The records
// themselves are read by gguf_meta.c and gguf_tensor.c, split files are put together by
// gguf_split.c.
#include "gguf/gguf.h"

#include "gguf/gguf_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const uint32_t MAGIC = 0x46554747u; // "GGUF"

// What people give a GGUF reader by mistake, by its first bytes.
static const char *guess_format(const uint8_t *bytes, size_t size_bytes)
{
    static const struct {
        const char *head;
        const char *what;
    } known[] = {
        {"version https://git-lfs", "it is a Git LFS pointer, the model itself was not downloaded"},
        {"<!", "it is a web page, the download went wrong"},
        {"<html", "it is a web page, the download went wrong"},
        {"tjgg", "it is a GGML file of before GGUF; get the model as GGUF"},
        {"lmgg", "it is a GGML file of before GGUF; get the model as GGUF"},
        {"PK\x03\x04", "it is a zip archive or PyTorch checkpoint; get the model as GGUF"},
    };
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        const size_t n = strlen(known[i].head);
        if (size_bytes >= n && memcmp(bytes, known[i].head, n) == 0) return known[i].what;
    }
    // Safetensors: a length below 2^32 in eight bytes, then JSON.
    if (size_bytes > 8 && bytes[8] == '{' && memcmp(bytes + 4, "\0\0\0\0", 4) == 0)
        return "it looks like safetensors; get the model as GGUF";
    return "its first bytes are not \"GGUF\"";
}

static int check_version(const struct td_gguf *g, struct td_error *err)
{
    const uint32_t v = g->version;
    if (v == 2 || v == 3) return TD_OK;
    if (v == 1)
        return td_fail(err, TD_EUNSUP, "%s: GGUF version 1 is not supported, only 2 and 3",
                       g->show);
    const uint32_t swapped = __builtin_bswap32(v);
    if (swapped >= 1 && swapped <= 0xffff)
        return td_fail(err, TD_EUNSUP,
                       "%s: a big-endian GGUF file; only little-endian ones are supported",
                       g->show);
    if (v == 0) return td_fail(err, TD_EFORMAT, "%s: GGUF version 0 does not exist", g->show);
    return td_fail(err, TD_EUNSUP, "%s: GGUF version %u is not supported, only 2 and 3", g->show,
                   v);
}

// Counts from the file, against the fewest bytes that so many records take.
static int check_counts(const struct td_gguf *g, const struct td_bytes *in, uint64_t n_kv,
                        uint64_t n_tensors, struct td_error *err)
{
    const size_t left = td_bytes_left(in);
    if (n_kv > left / TD_GGUF_KV_MIN_BYTES)
        return td_fail(err, TD_EFORMAT,
                       "%s: %llu metadata keys cannot fit in the %zu bytes left: cut short or "
                       "damaged",
                       g->show, (unsigned long long)n_kv, left);
    if (n_tensors > left / TD_GGUF_TENSOR_MIN_BYTES)
        return td_fail(err, TD_EFORMAT,
                       "%s: %llu tensors cannot fit in the %zu bytes left: cut short or damaged",
                       g->show, (unsigned long long)n_tensors, left);
    if (n_kv > TD_GGUF_MAX_KV)
        return td_fail(err, TD_EUNSUP, "%s: %llu metadata keys, at most %d are supported", g->show,
                       (unsigned long long)n_kv, TD_GGUF_MAX_KV);
    if (n_tensors > TD_GGUF_MAX_TENSORS)
        return td_fail(err, TD_EUNSUP, "%s: %llu tensors, at most %d are supported", g->show,
                       (unsigned long long)n_tensors, TD_GGUF_MAX_TENSORS);
    return TD_OK;
}

static int read_all(struct td_gguf *g, const uint8_t *bytes, size_t size_bytes,
                    struct td_error *err)
{
    if (size_bytes == 0) return td_fail(err, TD_EFORMAT, "%s: the file is empty", g->show);
    struct td_bytes in = td_bytes_of(bytes, size_bytes);
    const uint32_t magic = td_bytes_u32le(&in);
    if (magic != MAGIC)
        return td_fail(err, TD_EFORMAT, "%s: not a GGUF file: %s", g->show,
                       guess_format(bytes, size_bytes));
    g->version = td_bytes_u32le(&in);
    if (!in.short_read) {
        const int code = check_version(g, err);
        if (code) return code;
    }
    const uint64_t n_tensors = td_bytes_u64le(&in);
    const uint64_t n_kv = td_bytes_u64le(&in);
    if (in.short_read)
        return td_fail(err, TD_EFORMAT, "%s: the file ends inside its header, after %zu bytes",
                       g->show, size_bytes);
    int code = check_counts(g, &in, n_kv, n_tensors, err);
    if (!code) code = td_gguf_read_kv(g, &in, n_kv, err);
    if (!code) code = td_gguf_read_tensors(g, &in, bytes, n_tensors, err);
    return code;
}

// Keeps the path, and what of it fits beside a sentence: the tail says most.
static bool set_path(struct td_gguf *g, const char *path)
{
    const size_t n = strlen(path);
    g->path = malloc(n + 1);
    if (!g->path) return false;
    memcpy(g->path, path, n + 1);
    const size_t room = sizeof(g->show) - 1;
    if (n <= room)
        snprintf(g->show, sizeof(g->show), "%s", path);
    else
        snprintf(g->show, sizeof(g->show), "...%s", path + n - (room - 3));
    return true;
}

int td_gguf_parse(struct td_gguf **out, const void *bytes, size_t size_bytes, const char *name,
                  bool header_only, struct td_error *err)
{
    *out = NULL;
    struct td_gguf *g = calloc(1, sizeof(*g));
    if (!g || !set_path(g, name)) {
        td_gguf_close(g);
        return td_fail(err, TD_ENOMEM, "%.96s: no memory for its directory", name);
    }
    g->header_only = header_only;
    g->n_parts = 1;
    g->file_bytes = size_bytes;
    g->align = TD_GGUF_DEFAULT_ALIGN;
    const int code = read_all(g, bytes, size_bytes, err);
    if (code) {
        td_gguf_close(g);
        return code;
    }
    *out = g;
    return TD_OK;
}

void td_gguf_close(struct td_gguf *g)
{
    if (!g) return;
    free(g->kv);
    free(g->kv_index);
    free(g->tensors);
    free(g->tensor_index);
    for (struct td_gguf_names *b = g->names; b;) {
        struct td_gguf_names *next = b->next;
        free(b);
        b = next;
    }
    if (g->maps) {
        for (uint32_t i = 0; i < g->n_parts; i++) td_os_unmap(&g->maps[i]);
        free(g->maps);
    }
    free(g->path);
    free(g);
}

uint32_t td_gguf_version(const struct td_gguf *g)
{
    return g->version;
}

uint32_t td_gguf_n_parts(const struct td_gguf *g)
{
    return g->n_parts;
}

uint64_t td_gguf_file_bytes(const struct td_gguf *g)
{
    return g->file_bytes;
}

const char *td_gguf_path(const struct td_gguf *g)
{
    return g->path;
}

const char *td_gguf_shown_path(const struct td_gguf *g)
{
    return g->show;
}
