// SPDX-License-Identifier: MIT
// Two to four boxes that hold a model together: cut by layers, one box after the other, or every
// matrix cut, all boxes at once. For models that do not fit into one. Pure.
#ifndef TD_PLAN_CLUSTER_H
#define TD_PLAN_CLUSTER_H

#include "plan/plan.h"

#define TD_PLAN_MAX_BOXES 4

enum td_plan_cut {
    TD_PLAN_BY_LAYERS, // box i computes a share of the layers and hands the hidden state on
    TD_PLAN_BY_TENSOR, // each box computes 1/n of every matrix; the parts are summed up twice a
                       // layer
};

struct td_plan_cluster {
    bool fits;
    double share[TD_PLAN_MAX_BOXES];        // of the model's layers, or 1/n
    double needed_bytes[TD_PLAN_MAX_BOXES]; // of each box
    double first_seconds, total_seconds;    // until the last request's first and last token
    double prefill_tokens_per_s;            // over the whole prompt
    double decode_tokens_per_s;             // of all answers together
    double link_seconds; // of total: activations that travel and wait, as far as nothing hides them
};

// boxes (n, 2 to TD_PLAN_MAX_BOXES) answer the goal as each would alone; only their machines, rates
// and memory count. By layers the shares are those of two ways to cut that end sooner: stages of
// equal time, or as much as it holds on whoever writes fastest.
void td_plan_cluster(struct td_plan_cluster *out, enum td_plan_cut cut,
                     const struct td_plan_cost *cost, const struct td_plan_device *const *devices,
                     const struct td_plan_single *const *boxes, uint32_t n,
                     const struct td_plan_link *link, const struct td_plan_goal *goal);

#endif
