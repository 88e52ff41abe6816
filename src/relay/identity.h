// SPDX-License-Identifier: MIT
// What a model is, as 32 bytes each: SHA-256 of its vocabulary and of its weights.
#ifndef TD_RELAY_IDENTITY_H
#define TD_RELAY_IDENTITY_H

#include "model/model.h"

// Of every `tokenizer.ggml.` key but the chat template, in the order of their names; of a model
// without a vocabulary: of nothing. Fails: TD_EIO when hashing does.
int td_identity_tokenizer(const struct td_model *model, uint8_t out[32],
                          struct td_error *err) TD_MUST_CHECK;

// Of every weight's name, type, shape and bytes, in the order of their names, whatever file or part
// they lie in: each weight is hashed on its own, then the list of hashes. Reads the whole file; by
// n_threads threads. Fails: TD_ECANCEL when progress says so, TD_ENOMEM, TD_EIO.
int td_identity_weights(const struct td_model *model, uint32_t n_threads, td_progress_fn *progress,
                        void *ctx, uint8_t out[32], struct td_error *err) TD_MUST_CHECK;

#endif
