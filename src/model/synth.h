// SPDX-License-Identifier: MIT
// Models of a real shape with random weights: written as a stream to a GGUF file, or made in memory
// so that a machine can be benchmarked before a download. Values are scaled so that activations
// stay finite and experts are used about evenly. Same seed and shape: same bytes, on any machine.
#ifndef TD_MODEL_SYNTH_H
#define TD_MODEL_SYNTH_H

#include "gguf/gguf.h"
#include "model/model.h"

struct td_synth_shape {
    char name[64];
    uint32_t n_layers, n_embd, n_heads, n_kv_heads, head_dim;
    uint32_t n_experts, n_experts_used, n_ff_expert, n_vocab, n_ctx_train, window;
    enum td_type type_experts, type_attn, type_embd; // MXFP4, Q8_0, Q8_0 as the ggml-org files
    uint64_t seed;
    uint32_t pool_layers; // layers with weights of their own; 0: all, or what memory holds
};

// "gpt-oss-20b", "gpt-oss-120b", "tiny", then ",key=value" pairs: seed, layers, hidden, heads,
// kv-heads, head-dim, experts, top-k, ff, vocab, ctx, window, pool, experts-type, attn-type,
// embd-type. "tiny,layers=2,vocab=512". On failure *out is untouched.
int td_synth_parse(struct td_synth_shape *out, const char *text,
                   struct td_error *err) TD_MUST_CHECK;

// Writes the file as a stream; at most a few MB of memory besides the header.
int td_synth_write(const struct td_synth_shape *shape, const char *path,
                   const struct td_model_options *opt, struct td_error *err) TD_MUST_CHECK;

struct td_synth; // owns synthetic weights in memory

// The directory and its weights in memory. When they would not fit in 75 % of what is available,
// the first layers' weights serve all layers (>= 32 x the last-level cache); note says so.
int td_synth_make(struct td_synth **out, struct td_gguf **gguf_out,
                  const struct td_synth_shape *shape, const struct td_model_options *opt,
                  char *note, size_t note_bytes, struct td_error *err) TD_MUST_CHECK;
void td_synth_close(struct td_synth *s);

#endif
