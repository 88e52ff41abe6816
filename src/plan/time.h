// SPDX-License-Identifier: MIT
// The formula: seconds of one pass over rows of a prompt or of answers, from a model's cost, a
// machine's nameplate and a few rates that say how much of the nameplate is reached. Derivation:
// docs/GOLDEN-FORMULA.md. Pure.
#ifndef TD_PLAN_TIME_H
#define TD_PLAN_TIME_H

#include "plan/cost.h"

// What is fitted, as natural logarithms: rates multiply, and none may become negative.
enum td_plan_rate {
    TD_PLAN_GEMM,          // part of the FLOP/s that matrix products reach
    TD_PLAN_EXPERTS,       // the same of the experts' products, as a part of GEMM
    TD_PLAN_ATTEND,        // part of the FLOP/s that attention over a prompt reaches
    TD_PLAN_BAND,          // part of the bytes/s that reading weights reaches
    TD_PLAN_CACHE,         // the same of reading KV, as a part of BAND
    TD_PLAN_LAYER,         // seconds per layer and pass that do no arithmetic
    TD_PLAN_ROWS,          // rows that a matrix product costs in addition to those it has
    TD_PLAN_EXPERT_ROWS,   // the same of an expert's product
    TD_PLAN_EXPERT_BAND,   // reading experts, as a part of BAND
    TD_PLAN_VECTOR,        // part of GEMM that products with a few rows reach, without those rows
    TD_PLAN_EXPERT_VECTOR, // the same of experts, from two rows on
    TD_PLAN_OVERLAP,       // how far reading and multiplying overlap: 1 + exp is the exponent
    TD_PLAN_CROWD,         // rows to this power choose experts as independently as rows would
    TD_PLAN_N_RATES
};

struct td_plan_rates {
    double log[TD_PLAN_N_RATES];
};

// Where the seconds of a pass go. The whole is less than the sum: reading weights and multiplying
// overlap in part.
struct td_plan_parts {
    double read_dense, read_experts;         // weights
    double multiply_dense, multiply_experts; // matrix products
    double attend;                           // products of attention
    double read_kv;
    double overhead; // launches, synchronisation, sampling
    double whole;
};

struct td_plan_pass {
    double n_rows;      // of all sequences
    double n_sequences; // each reads its own KV
    double seen_tokens; // positions that a row sees, on average
    double n_logits;    // rows whose logits are wanted
};

void td_plan_pass_time(struct td_plan_parts *out, const struct td_plan_cost *c,
                       const struct td_plan_device *d, const struct td_plan_rates *rates,
                       const struct td_plan_pass *pass);

// What llama-bench calls pp and tg: n_tokens behind depth_tokens. A prompt goes in chunks; an
// answer grows by a token per sequence and pass.
struct td_plan_test {
    bool is_prefill;
    double n_tokens, depth_tokens, batch;
    double chunk_tokens; // of a prompt, >= 1
};

// Seconds of the whole test; parts sums them up over its passes (may be NULL).
double td_plan_test_time(struct td_plan_parts *parts, const struct td_plan_cost *c,
                         const struct td_plan_device *d, const struct td_plan_rates *rates,
                         const struct td_plan_test *test);

// Tokens a test makes: n_tokens of each sequence.
double td_plan_test_tokens(const struct td_plan_test *test);

#endif
