// SPDX-License-Identifier: MIT
// A model file's cost for the planner: the program that would run, priced op by op.
#ifndef TD_APP_COST_H
#define TD_APP_COST_H

#include "base/status.h"
#include "plan/cost.h"

#include <stddef.h>

// Opens the header of a GGUF file or synth:NAME. quant: the name of what most of the weights are
// stored in.
int td_cost_of_file(struct td_plan_cost *out, uint32_t *head_dim, char *quant, size_t quant_bytes,
                    const char *path, struct td_error *err) TD_MUST_CHECK;

#endif
