// SPDX-License-Identifier: MIT
// An opened model: spec, weights bound by name and checked, program. Immutable after opening, so
// any thread may read it. It holds its GGUF file (or synthetic weights) until closed.
#ifndef TD_MODEL_MODEL_H
#define TD_MODEL_MODEL_H

#include "base/status.h"
#include "gguf/gguf.h"
#include "model/program.h"
#include "model/spec.h"

#include <stdio.h>

struct td_weight_info {
    const char *name; // as in the file
    enum td_type type;
    uint32_t n_dims;     // 1..3
    uint32_t dim[3];     // n_in, n_out, n_experts, as the file has them (fastest first)
    const uint8_t *data; // row-major: (n_experts, n_out, n_in)
    uint64_t size_bytes;
};

struct td_model {
    struct td_spec spec;
    struct td_program program;
    struct td_weight_info *weights;
    uint32_t n_weights;
    struct td_gguf *gguf;   // owned
    struct td_synth *synth; // owned; NULL unless the weights are synthetic
    uint64_t weights_bytes; // sum over weights, as the file has them
    char digest[17];        // of the header: names, types, shapes, metadata (hex)
    char note[160];         // what a user should know (synthetic, pooled); "" if nothing
};

// Progress of long work: done of total; return false to cancel.
typedef bool td_progress_fn(void *ctx, uint64_t done, uint64_t total);

struct td_model_options {
    uint32_t n_threads;       // for making synthetic weights; 0: one
    td_progress_fn *progress; // may be NULL
    void *progress_ctx;
    bool header_only; // synthetic models: no weights are made, data stays NULL (inspect, cost)
};

// Opens PATH (any part of a split GGUF) or "synth:NAME[,seed=S,layers=L,...]".
// On failure *out is NULL and err names the file and the tensor or key.
int td_model_open(struct td_model **out, const char *path, const struct td_model_options *opt,
                  struct td_error *err) TD_MUST_CHECK;
void td_model_close(struct td_model *model);

// Makes a model of an open directory, which may be header-only. Owns gguf and synth (may be NULL)
// from then on, also when it fails.
int td_model_of_gguf(struct td_model **out, struct td_gguf *gguf, struct td_synth *synth,
                     struct td_error *err) TD_MUST_CHECK;

// What one run of the program costs. Exact for dense parts; experts: `distinct` experts are read
// when a batch of n_rows chooses k of n each about evenly, n * (1 - (1 - k/n)^rows).
struct td_cost {
    double weight_bytes; // read once per run
    double kv_read_bytes, kv_write_bytes;
    double flop; // 2 per multiply-add
};
// Price of op i for a run of n_rows rows of one sequence whose first row is at position pos0, of
// which n_want rows want logits; kv_elem_bytes is 2 for f16.
// KV bytes read are those of the positions seen by any row, once per run.
void td_cost_op(struct td_cost *out, const struct td_model *m, uint32_t i_op, uint32_t n_rows,
                uint32_t pos0, uint32_t n_want, uint32_t kv_elem_bytes);
void td_cost_program(struct td_cost *out, const struct td_model *m, uint32_t n_rows, uint32_t pos0,
                     uint32_t n_want, uint32_t kv_elem_bytes);

// Op i on one line, without newline: "L0  linear  q 256 = blk.0.attn_q.weight Q8_0 (192, 256) ...".
// Returns the length; cut to size_bytes - 1.
size_t td_op_text(const struct td_model *m, uint32_t i_op, char *out, size_t size_bytes);

// The whole program with its slots, one op per line. TD_EIO when the stream fails.
int td_program_print(const struct td_model *m, FILE *out) TD_MUST_CHECK;

#endif
