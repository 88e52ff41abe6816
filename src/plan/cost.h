// SPDX-License-Identifier: MIT
// What a model costs, without a machine: bytes and multiply-adds by part. Either of a shape and a
// quantization, or filled by who has the very program that runs (the app prices it op by op).
#ifndef TD_PLAN_COST_H
#define TD_PLAN_COST_H

#include "plan/facts.h"

struct td_plan_cost {
    enum td_plan_kind kind;
    uint32_t n_layers, n_moe_layers, n_full_layers;
    uint32_t n_experts, n_active;                // 0: no experts
    uint32_t window_tokens;                      // of the layers that are not full; 0: none
    double file_bytes;                           // all weights
    double dense_bytes;                          // weights that every pass reads
    double expert_bytes;                         // weights of all experts
    double dense_flop;                           // per token, without the output matrix
    double head_flop;                            // per token whose logits are wanted
    double expert_flop;                          // per token, of the experts it visits
    double attend_flop_full, attend_flop_window; // per token and position that it sees
    double kv_bytes_full, kv_bytes_window;       // per position, in the cache's type
    double logits_bytes;                         // per token whose logits are wanted
    double hidden;                               // elements of the state between layers
};

// Families of number formats: kernels differ between them more than within.
enum td_plan_quant {
    TD_PLAN_MXFP4,
    TD_PLAN_Q4_0,
    TD_PLAN_Q4_K,
    TD_PLAN_Q8,
    TD_PLAN_Q6,
    TD_PLAN_IQ,
    TD_PLAN_F16,
    TD_PLAN_MLX,
    TD_PLAN_OTHER,
    TD_PLAN_N_QUANTS
};
// Of a name such as "Q4_K_M", "UD-Q8_K_XL", "4bit".
enum td_plan_quant td_plan_quant_of(const char *name);
// Bits per weight of a file of that name, roughly; 0 when the name says nothing.
double td_plan_quant_bits(const char *name);

// Of a shape. file_gib: size of the file, 0 when not known (then by the name of the quantization).
// Fails: TD_EARG when neither gives a size.
int td_plan_cost_of(struct td_plan_cost *out, const struct td_plan_model *m, const char *quant,
                    double file_gib, struct td_error *err) TD_MUST_CHECK;

// Experts that are visited when n_rows rows choose k of n each, independently and evenly:
// n * (1 - (1 - k/n)^rows), the occupancy result.
double td_plan_distinct(uint32_t n_experts, uint32_t n_active, double n_rows);

// Bytes of weights a pass over n_rows rows reads.
double td_plan_pass_bytes(const struct td_plan_cost *c, double n_rows);

// Bytes of KV that one row reads at a depth.
double td_plan_kv_bytes(const struct td_plan_cost *c, double depth_tokens);

// Multiply-adds times 2 of attention for one row that sees so many positions.
double td_plan_attend_flop(const struct td_plan_cost *c, double seen_tokens);

#endif
