// SPDX-License-Identifier: MIT
// A synthetic model's list of tensors, the values of any piece of one, and its header.
#ifndef TD_MODEL_SYNTH_IMPL_H
#define TD_MODEL_SYNTH_IMPL_H

#include "gguf/gguf_write.h"
#include "model/synth.h"

struct td_synth_tensor {
    char name[48];
    enum td_type type;
    uint32_t n_dims;
    uint64_t dim[3]; // fastest first
    uint64_t n_elems;
    uint64_t size_bytes;
    double mean, std;  // of its values; a mean only for F32
    uint64_t seed;     // of its values: the same for layers that share weights
    uint32_t i_source; // the tensor whose data this one has: itself unless pooled
};

struct td_synth_plan {
    struct td_synth_tensor *tensors;
    uint32_t n_tensors;
    uint64_t size_bytes;       // of all tensors
    uint64_t layer_size_bytes; // of one layer's
};

// pool: how many layers have weights of their own; 0: all. On failure *out is zeroed.
int td_synth_plan_init(struct td_synth_plan *out, const struct td_synth_shape *shape, uint32_t pool,
                       struct td_error *err) TD_MUST_CHECK;
void td_synth_plan_free(struct td_synth_plan *plan);

// Elements per piece: pieces are made alone, in any order, by any thread.
#define TD_SYNTH_PIECE ((uint64_t)1 << 16)

uint64_t td_synth_n_pieces(const struct td_synth_tensor *t);
// Bytes of piece i.
uint64_t td_synth_piece_bytes(const struct td_synth_tensor *t, uint64_t i_piece);
// Writes piece i at out. Integer random numbers and correctly rounded operations only, so every
// machine makes the same bytes.
void td_synth_fill(const struct td_synth_tensor *t, uint64_t i_piece, uint8_t *out);

// Metadata, a complete vocabulary and tensor records.
int td_synth_put_header(struct td_gguf_writer *w, const struct td_synth_shape *shape,
                        const struct td_synth_plan *plan, struct td_error *err) TD_MUST_CHECK;
// The vocabulary alone: tokenizer.ggml.*.
int td_synth_put_vocab(struct td_gguf_writer *w, uint32_t n_vocab,
                       struct td_error *err) TD_MUST_CHECK;

#endif
