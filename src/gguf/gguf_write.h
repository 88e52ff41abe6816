// SPDX-License-Identifier: MIT
// Writes GGUF v3 as a stream: metadata first, then tensor records, then tensor data in order.
// Memory is bounded by the header; data goes straight through.
#ifndef TD_GGUF_GGUF_WRITE_H
#define TD_GGUF_GGUF_WRITE_H

#include "base/status.h"
#include "gguf/gguf.h"

#include <stddef.h>
#include <stdint.h>

struct td_gguf_writer;

// Opens a writer that collects the header in memory. On failure *out is NULL.
int td_gguf_writer_open(struct td_gguf_writer **out, struct td_error *err) TD_MUST_CHECK;
void td_gguf_writer_close(struct td_gguf_writer *w);

// Metadata; keys in the order given. Errors (no memory) are sticky and come out of _header.
void td_gguf_put_u32(struct td_gguf_writer *w, const char *key, uint32_t v);
void td_gguf_put_u64(struct td_gguf_writer *w, const char *key, uint64_t v);
void td_gguf_put_f32(struct td_gguf_writer *w, const char *key, float v);
void td_gguf_put_bool(struct td_gguf_writer *w, const char *key, bool v);
void td_gguf_put_str(struct td_gguf_writer *w, const char *key, const char *v);
void td_gguf_put_strs(struct td_gguf_writer *w, const char *key, const struct td_str *v,
                      uint64_t n);
void td_gguf_put_i32s(struct td_gguf_writer *w, const char *key, const int32_t *v, uint64_t n);
void td_gguf_put_u32s(struct td_gguf_writer *w, const char *key, const uint32_t *v, uint64_t n);
void td_gguf_put_f32s(struct td_gguf_writer *w, const char *key, const float *v, uint64_t n);

// A tensor record; its data must later be written in the same order, padded by _data_padding.
void td_gguf_put_tensor(struct td_gguf_writer *w, const char *name, enum td_type type,
                        uint32_t n_dims, const uint64_t *dim);

// The finished header, padded to where the first tensor's data starts. Owned by the writer.
int td_gguf_writer_header(struct td_gguf_writer *w, const uint8_t **bytes, size_t *size_bytes,
                          struct td_error *err) TD_MUST_CHECK;

// Bytes of zeros to write after a tensor of size_bytes so that the next starts aligned (32).
uint64_t td_gguf_data_padding(uint64_t size_bytes);

#endif
