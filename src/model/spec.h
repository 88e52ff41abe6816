// SPDX-License-Identifier: MIT
// The numbers of a model, all from its file or from its architecture's published definition.
#ifndef TD_MODEL_SPEC_H
#define TD_MODEL_SPEC_H

#include <stdbool.h>
#include <stdint.h>

#define TD_MAX_LAYERS   512
#define TD_MAX_HEAD_DIM 512
#define TD_MAX_EXPERTS  1024
#define TD_MAX_TOP_K    64

// How one layer's keys and values are kept.
struct td_kv_layer {
    uint32_t n_kv_heads;
    uint32_t head_dim;
    uint32_t window; // a token sees itself and window - 1 before it; 0: all before it
};

// Rotary embedding with YaRN. Source: Peng et al. 2023, arXiv:2309.00071.
struct td_rope {
    uint32_t n_dims; // rotated dims of a head, even
    double base;
    double factor;       // context extension s; 1: plain RoPE
    double original_ctx; // tokens
    double beta_fast;    // 32 for gpt-oss
    double beta_slow;    // 1
    bool truncate;       // round the correction range to whole dims (ggml does; OpenAI does not)
    double attn_factor;  // "concentration": cos and sin are multiplied by it
    double inv_freq[TD_MAX_HEAD_DIM / 2]; // radians per position, (n_dims / 2)
};

struct td_spec {
    char arch[32];
    char name[96];
    uint32_t n_layers;
    uint32_t n_embd;
    uint32_t n_vocab;
    uint32_t n_ctx_train; // tokens
    uint32_t n_heads;
    uint32_t n_kv_heads;
    uint32_t head_dim;
    uint32_t n_experts;
    uint32_t n_experts_used;
    uint32_t n_ff_expert;
    float rms_eps;
    float swiglu_alpha;
    float swiglu_limit;
    struct td_rope rope;
    struct td_kv_layer kv[TD_MAX_LAYERS]; // (n_layers)
};

// Fills inv_freq and attn_factor from the fields above them; attn_factor on entry is a factor of
// its own (1 unless the file says otherwise). n_dims <= TD_MAX_HEAD_DIM, base > 1, factor >= 1.
void td_rope_derive(struct td_rope *rope);

// Bytes of keys and values: one more token in the layers that keep every token, and what the
// sliding layers hold when they are full. elem_bytes is 2 for f16.
uint64_t td_spec_kv_bytes_per_token(const struct td_spec *spec, uint32_t elem_bytes);
uint64_t td_spec_kv_window_bytes(const struct td_spec *spec, uint32_t elem_bytes);

#endif
