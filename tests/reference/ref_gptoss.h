// SPDX-License-Identifier: MIT
// An independent gpt-oss forward pass: float64, every weight expanded, every position recomputed
// from the whole token list, no cache, no kernels, no program. It shares nothing with the engine
// but the GGUF directory, by which it finds tensors and numbers. Slow and obvious on purpose.
#ifndef TD_TESTS_REF_GPTOSS_H
#define TD_TESTS_REF_GPTOSS_H

#include "gguf/gguf.h"

struct ref_gptoss;

struct ref_options {
    bool rounds_rope; // ggml's rounded YaRN range instead of the reference's
    // If not NULL: chosen experts, (n_tokens, n_layers, k), and the smallest gap between the last
    // chosen and the first unchosen router logit, per token and layer (n_tokens, n_layers).
    int32_t *experts_out;
    double *gaps_out;
};

// NULL, with a sentence on stderr, when something is missing.
struct ref_gptoss *ref_gptoss_open(const struct td_gguf *g);
void ref_gptoss_close(struct ref_gptoss *m);
uint32_t ref_gptoss_n_vocab(const struct ref_gptoss *m);
uint32_t ref_gptoss_n_layers(const struct ref_gptoss *m);
uint32_t ref_gptoss_n_experts(const struct ref_gptoss *m);
uint32_t ref_gptoss_top_k(const struct ref_gptoss *m);

// logits (n_tokens, n_vocab), written. opt may be NULL.
void ref_gptoss_logits(const struct ref_gptoss *m, const int32_t *tokens, uint32_t n_tokens,
                       const struct ref_options *opt, double *logits);

#endif
