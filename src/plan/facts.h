// SPDX-License-Identifier: MIT
// Facts that the planner starts from, read from the tables in data/: machines as their makers
// describe them, shapes of models, and speeds that somebody has measured. Pure: text in, structs
// out; the caller's memory.
#ifndef TD_PLAN_FACTS_H
#define TD_PLAN_FACTS_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TD_PLAN_MAX_DEVICES      128
#define TD_PLAN_MAX_MODELS       128
#define TD_PLAN_MAX_MEASUREMENTS 1500

// A machine's nameplate. 0: not stated.
struct td_plan_device {
    char name[64];
    char vendor[24];
    double flop_per_s; // 16-bit floats, dense, of the unit that multiplies
    double bytes_per_s;
    double memory_bytes;
    double power_watt;
    double price_usd;
    char links[128];    // as its maker names them
    char doubtful[320]; // what is uncertain about the figures
    char source[256];
};

enum td_plan_kind { TD_PLAN_DENSE, TD_PLAN_MOE, TD_PLAN_MLA, TD_PLAN_HYBRID };

// A model's shape: numbers of parameters and layers.
struct td_plan_model {
    char name[48];
    enum td_plan_kind kind; // TD_PLAN_MLA: experts and a compressed cache
    uint32_t n_layers, n_dense_layers, n_full_layers, n_heads, head_dim, n_experts, n_active;
    uint32_t window_tokens; // of the layers that are not full; 0: none
    uint32_t n_vocab, hidden;
    double kv_bytes_full, kv_bytes_window; // per token, 16-bit elements, all layers of that kind
    uint32_t mla_rank, mla_rope;           // 0: none
    double params, attn_params, dense_params, shared_params, expert_params, embed_params,
        head_params;
    bool is_tied; // the output matrix is the embedding
};

// One published speed.
struct td_plan_measurement {
    char source[128], date[16], device[64], backend[48], version[40], model[48], quant[32];
    char notes[160];
    bool is_prefill;
    uint32_t n_tokens, depth_tokens, batch, chunk_tokens; // chunk 0: not stated
    double tokens_per_s;
    double file_gib; // of the model's weights; 0: not stated
    uint32_t use;    // 1 fit, 2 fit (batched, small chunks), 3 other programs, 0 excluded
    uint32_t line;   // in its table
};

// Each reads a whole table; name is for errors. On failure err names the line and the column.
int td_plan_read_devices(struct td_plan_device *out, uint32_t cap, uint32_t *n_out,
                         const char *text, size_t n_bytes, struct td_error *err) TD_MUST_CHECK;
int td_plan_read_models(struct td_plan_model *out, uint32_t cap, uint32_t *n_out, const char *text,
                        size_t n_bytes, struct td_error *err) TD_MUST_CHECK;
int td_plan_read_measurements(struct td_plan_measurement *out, uint32_t cap, uint32_t *n_out,
                              const char *name, const char *text, size_t n_bytes,
                              struct td_error *err) TD_MUST_CHECK;

#endif
