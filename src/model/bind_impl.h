// SPDX-License-Identifier: MIT
// What every architecture's file asks of a GGUF directory: numbers within bounds, and weights of an
// expected shape and type. The first failure is kept with its sentence; later calls do nothing, so
// an architecture reads all it needs and asks once.
#ifndef TD_MODEL_BIND_IMPL_H
#define TD_MODEL_BIND_IMPL_H

#include "gguf/gguf.h"
#include "model/model.h"

struct td_binder {
    const struct td_gguf *gguf;
    const char *arch;     // prefix of keys
    struct td_error *err; // may be NULL
    int code;             // first failure, or TD_OK
    const char *file;     // for messages: last part of the path
    struct td_weight_info *weights;
    uint32_t n_weights, cap_weights;
};

void td_binder_init(struct td_binder *b, const struct td_gguf *gguf, const char *arch,
                    struct td_error *err);

// Records a failure unless there is one already; the message names the file by itself.
void td_bind_fail(struct td_binder *b, int code, const char *fmt, ...) TD_PRINTF(3, 4);

// Metadata "<arch>.<key>". need_: absence is a failure, and 0 or lo is returned after any failure.
// maybe_: absence leaves `otherwise`. Values outside [lo, hi] are failures.
uint32_t td_need_u32(struct td_binder *b, const char *key, uint32_t lo, uint32_t hi);
uint32_t td_maybe_u32(struct td_binder *b, const char *key, uint32_t lo, uint32_t hi,
                      uint32_t otherwise);
double td_need_f32(struct td_binder *b, const char *key, double lo, double hi);
double td_maybe_f32(struct td_binder *b, const char *key, double lo, double hi, double otherwise);
bool td_has_key(const struct td_binder *b, const char *key);
// The full name "<arch>.<key>" in out.
void td_key_name(const struct td_binder *b, const char *key, char out[static 96]);

// Weights by name (printf-like), of any type tandem computes with. Converters write vectors as F32,
// F16 or BF16; the backend makes f32 of them when it loads.
td_weight td_bind_matrix(struct td_binder *b, uint32_t n_in, uint32_t n_out, const char *fmt, ...)
    TD_PRINTF(4, 5);
td_weight td_bind_vector(struct td_binder *b, uint32_t n, const char *fmt, ...) TD_PRINTF(3, 4);
// One matrix, one vector per expert.
td_weight td_bind_matrices(struct td_binder *b, uint32_t n_in, uint32_t n_out, uint32_t n_experts,
                           const char *fmt, ...) TD_PRINTF(5, 6);
td_weight td_bind_vectors(struct td_binder *b, uint32_t n, uint32_t n_experts, const char *fmt, ...)
    TD_PRINTF(4, 5);

#endif
