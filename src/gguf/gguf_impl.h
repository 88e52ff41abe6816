// SPDX-License-Identifier: MIT
// What the files of this folder share: the directory's layout and the parser's steps.
#ifndef TD_GGUF_GGUF_IMPL_H
#define TD_GGUF_GGUF_IMPL_H

#include "base/bytes.h"
#include "base/os.h"
#include "base/status.h"
#include "gguf/gguf.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    TD_GGUF_MAX_DIMS = 4,
    TD_GGUF_MAX_NAME = 64,   // bytes of a tensor's name, by the specification
    TD_GGUF_MAX_KEY = 65535, // bytes of a key, by the specification
    TD_GGUF_MIN_ALIGN = 8,   // by the specification a multiple of 8
    TD_GGUF_MAX_ALIGN = 65536,
    TD_GGUF_DEFAULT_ALIGN = 32,
    // Ours. The largest models have about 40 000 tensors (every expert alone) and 262 144 tokens;
    // beyond these a file of zeros would make the tables grow with the whole disk.
    TD_GGUF_MAX_KV = 1 << 16,
    TD_GGUF_MAX_TENSORS = 1 << 20,
    TD_GGUF_MAX_STRINGS = 1 << 26,
    // A record is at least: string length, one byte of text, type, one byte of value; ...
    TD_GGUF_KV_MIN_BYTES = 8 + 1 + 4 + 1,
    // ... string length, one byte of text, n_dims, one dim, type, offset.
    TD_GGUF_TENSOR_MIN_BYTES = 8 + 1 + 4 + 8 + 4 + 8,
};

struct td_gguf_kv {
    const char *key; // NUL-terminated copy
    enum td_gguf_type type;
    enum td_gguf_type elem; // of an array; the type itself otherwise
    uint64_t n;             // elements of an array; bytes of a string; 1 otherwise
    const uint8_t *data;    // in the file, unaligned
    size_t size_bytes;      // of an array's elements
};

// A name and whose it is, sorted by name.
struct td_gguf_name {
    const char *name;
    uint32_t i;
};

// Copies of names, in a chain of blocks: they do not move when more come.
struct td_gguf_names {
    struct td_gguf_names *next;
    size_t used;
    size_t cap;
    char at[];
};

struct td_gguf {
    char *path;    // as given
    char show[96]; // the path as errors print it: its tail when it is long
    uint32_t version;
    uint32_t align;
    bool header_only;
    uint64_t file_bytes;

    struct td_map *maps; // (n_parts) owned; NULL when the bytes are the caller's
    uint32_t n_parts;

    uint32_t n_kv;
    struct td_gguf_kv *kv;         // in file order
    struct td_gguf_name *kv_index; // (n_kv)

    uint32_t n_tensors;
    struct td_gguf_tensor *tensors;    // in file order, part after part
    struct td_gguf_name *tensor_index; // (n_tensors)

    struct td_gguf_names *names; // newest block first
};

// A NUL-terminated copy that lives as long as g; NULL without memory.
const char *td_gguf_keep_name(struct td_gguf *g, struct td_str s);

// Sorts the index; the second of two equal names is left in *twice_out (which of the two is
// unspecified), and the result is false.
bool td_gguf_sort_names(struct td_gguf_name *index, uint32_t n, const char **twice_out);

// Index of name, or UINT32_MAX.
uint32_t td_gguf_find_name(const struct td_gguf_name *index, uint32_t n, const char *name);

// A string's length and bytes; false, and *out with the length it claims, when they are not there.
static inline bool td_gguf_take_str(struct td_bytes *in, struct td_str *out)
{
    const uint64_t n = td_bytes_u64le(in);
    const uint8_t *p = td_bytes_take(in, n);
    *out = (struct td_str){.at = (const char *)p, .size_bytes = n};
    return p != NULL;
}

// Length in bytes, 1..4, of the valid UTF-8 sequence at s; 0 when there is none. n >= 1.
uint32_t td_gguf_utf8_len(const uint8_t *s, size_t n);

// Text for an error: at most 64 bytes of s, anything but printable ASCII as '?'.
struct td_gguf_shown {
    char text[68];
};
struct td_gguf_shown td_gguf_show(struct td_str s);

const char *td_gguf_type_name(enum td_gguf_type type);
uint32_t td_gguf_type_bytes(enum td_gguf_type type); // 0 for strings and arrays

const struct td_gguf_kv *td_gguf_find_kv(const struct td_gguf *g, const char *key);

// The steps of parsing one file: metadata, then tensor records; g->n_kv and g->n_tensors are 0 and
// count what was read, so that closing a half-read directory is safe.
int td_gguf_read_kv(struct td_gguf *g, struct td_bytes *in, uint64_t n_kv,
                    struct td_error *err) TD_MUST_CHECK;
int td_gguf_read_tensors(struct td_gguf *g, struct td_bytes *in, const uint8_t *file,
                         uint64_t n_tensors, struct td_error *err) TD_MUST_CHECK;

// Rebuilds the index of all tensors; two of one name are an error.
int td_gguf_index_tensors(struct td_gguf *g, struct td_error *err) TD_MUST_CHECK;

#endif
