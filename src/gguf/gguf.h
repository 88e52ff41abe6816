// SPDX-License-Identifier: MIT
// Bytes of a GGUF file (v2, v3, little endian) -> a checked directory of metadata and tensors.
// Split files are opened by any part and look like one. It does not know what the tensors mean.
// Source: the GGUF specification, https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
#ifndef TD_GGUF_GGUF_H
#define TD_GGUF_GGUF_H

#include "base/bytes.h"
#include "base/status.h"
#include "base/type.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct td_gguf;

enum td_gguf_type {
    TD_GGUF_U8 = 0,
    TD_GGUF_I8 = 1,
    TD_GGUF_U16 = 2,
    TD_GGUF_I16 = 3,
    TD_GGUF_U32 = 4,
    TD_GGUF_I32 = 5,
    TD_GGUF_F32 = 6,
    TD_GGUF_BOOL = 7,
    TD_GGUF_STR = 8,
    TD_GGUF_ARR = 9,
    TD_GGUF_U64 = 10,
    TD_GGUF_I64 = 11,
    TD_GGUF_F64 = 12,
};

// Text in the file: not NUL-terminated, may hold any bytes.
struct td_str {
    const char *at;
    size_t size_bytes;
};

struct td_gguf_tensor {
    const char *name;    // NUL-terminated copy; no control characters
    uint32_t type;       // any type number of the GGUF specification
    uint32_t n_dims;     // 1..4
    uint64_t dim[4];     // fastest first; unused are 1
    const uint8_t *data; // NULL when opened header-only
    uint64_t size_bytes; // 0 when the type is one whose size tandem does not know
    uint32_t i_part;     // which file of a split model
};

// Maps path and, if it is split (-0000K-of-0000N.gguf), its other parts. On failure *out is NULL.
int td_gguf_open(struct td_gguf **out, const char *path, struct td_error *err) TD_MUST_CHECK;

// Parses bytes that stay the caller's; `name` appears in errors. header_only: the tensor data need
// not be there (data stays NULL), for synthetic models and for fuzzing the parser.
int td_gguf_parse(struct td_gguf **out, const void *bytes, size_t size_bytes, const char *name,
                  bool header_only, struct td_error *err) TD_MUST_CHECK;
void td_gguf_close(struct td_gguf *g);

uint32_t td_gguf_version(const struct td_gguf *g);
uint32_t td_gguf_n_parts(const struct td_gguf *g);
uint64_t td_gguf_file_bytes(const struct td_gguf *g); // all parts
const char *td_gguf_path(const struct td_gguf *g);    // as given to open or parse
// The path as errors name it: its end when it is long, so that a sentence has room beside it.
const char *td_gguf_shown_path(const struct td_gguf *g);

uint32_t td_gguf_n_tensors(const struct td_gguf *g);
const struct td_gguf_tensor *td_gguf_tensor_at(const struct td_gguf *g, uint32_t i);
const struct td_gguf_tensor *td_gguf_find_tensor(const struct td_gguf *g, const char *name);
// Points tensor i (of a header-only directory) at data the caller owns.
void td_gguf_bind(struct td_gguf *g, uint32_t i, const uint8_t *data);

// Metadata. Typed getters return TD_OK; TD_EARG when the key is absent (outputs untouched, err
// untouched: absence is often fine); TD_EFORMAT with a sentence when it has another type.
// Integers: any integer type whose value fits. Floats: f32 or f64.
uint32_t td_gguf_n_kv(const struct td_gguf *g);
const char *td_gguf_key_at(const struct td_gguf *g, uint32_t i);
bool td_gguf_has(const struct td_gguf *g, const char *key);
int td_gguf_u32(const struct td_gguf *g, const char *key, uint32_t *out, struct td_error *err);
int td_gguf_u64(const struct td_gguf *g, const char *key, uint64_t *out, struct td_error *err);
// Whether the key is an integer with all bits set: -1, or the largest of an unsigned type. Some
// writers mean "none" by it.
bool td_gguf_is_minus_one(const struct td_gguf *g, const char *key);
int td_gguf_f32(const struct td_gguf *g, const char *key, float *out, struct td_error *err);
int td_gguf_bool(const struct td_gguf *g, const char *key, bool *out, struct td_error *err);
int td_gguf_str(const struct td_gguf *g, const char *key, struct td_str *out, struct td_error *err);

// Arrays: element type, count, and access. Strings lie one after the other, each a length and its
// bytes, and are walked with td_gguf_next_str: no index is kept, which for the 650 000 strings of a
// vocabulary would take 10 MB and longer to make than to do without.
struct td_gguf_array {
    enum td_gguf_type type;
    uint64_t n;
    const uint8_t *data; // elements as they lie in the file, unaligned
    size_t size_bytes;
};
int td_gguf_array(const struct td_gguf *g, const char *key, struct td_gguf_array *out,
                  struct td_error *err);
// Element i of an integer or float array, converted; i < n.
int64_t td_gguf_array_i64(const struct td_gguf_array *a, uint64_t i);
double td_gguf_array_f64(const struct td_gguf_array *a, uint64_t i);
// Walks an array of strings: begin, then the next one, n times. That all are there was checked when
// the file was opened; should it be rewritten since, the strings are others, or empty.
static inline struct td_bytes td_gguf_strs(const struct td_gguf_array *a)
{
    return a->type == TD_GGUF_STR ? td_bytes_of(a->data, a->size_bytes) : (struct td_bytes){0};
}
static inline struct td_str td_gguf_next_str(struct td_bytes *strs)
{
    const uint64_t size_bytes = td_bytes_u64le(strs);
    const uint8_t *p = td_bytes_take(strs, size_bytes);
    return (struct td_str){.at = p ? (const char *)p : "", .size_bytes = p ? size_bytes : 0};
}

// One line of text for a value ("32", "[201088] \"!\", \"\\\"\", ..."), for inspect. Cut to size.
void td_gguf_value_text(const struct td_gguf *g, uint32_t i_kv, char *out, size_t size_bytes);
enum td_gguf_type td_gguf_type_at(const struct td_gguf *g, uint32_t i_kv);

#endif
