// SPDX-License-Identifier: MIT
// Test vectors from files: token lists and .npy arrays of float32; and how far two sets of logits
// are apart.
#ifndef TD_TESTS_VECTORS_H
#define TD_TESTS_VECTORS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// A C-ordered little-endian float32 array of one or two dimensions.
struct npy {
    float *at;
    uint64_t n_rows, n_cols; // one dimension: n_rows is 1
};

// false, with a sentence on stderr, when the file is not such an array.
bool npy_read(struct npy *out, const char *path);
void npy_free(struct npy *a);

// Ids separated by white space; NULL on failure. The caller frees.
int32_t *tokens_read(const char *path, uint32_t *n_out);

struct logits_diff {
    double max_abs; // of logits
    double mean_kl; // KL(reference || ours), nats
    double max_kl;
    uint64_t n_top1; // rows whose largest logit is at the same place
};
// Compares (n_rows, n_cols) of ours with a reference.
struct logits_diff logits_compare_f32(const float *reference, const float *ours, uint64_t n_rows,
                                      uint64_t n_cols);
struct logits_diff logits_compare_f64(const double *reference, const float *ours, uint64_t n_rows,
                                      uint64_t n_cols);

#endif
