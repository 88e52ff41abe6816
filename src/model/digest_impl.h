// SPDX-License-Identifier: MIT
// The digest of a model's header, by which two machines know that they hold the same model.
#ifndef TD_MODEL_DIGEST_IMPL_H
#define TD_MODEL_DIGEST_IMPL_H

#include "model/model.h"

// Fills m->digest from m->gguf and m->weights. Split or not makes no difference.
void td_model_digest(struct td_model *m);

#endif
