// SPDX-License-Identifier: MIT
// Bytes and operations from a shape. Formulas: docs/GOLDEN-FORMULA.md.
#include "plan/cost.h"

#include <math.h>
#include <string.h>

struct quant_name {
    const char *part; // of a quantization's name; the first that is found counts
    enum td_plan_quant family;
    double bits; // per weight of a whole file
};

// Whole files: block scales and the matrices that stay larger are in the figures (measured sizes
// divided by numbers of parameters; the file's own size is better where it is known).
static const struct quant_name quants[] = {
    {"MXFP4", TD_PLAN_MXFP4, 4.35}, {"NVFP4", TD_PLAN_OTHER, 4.6}, {"IQ1", TD_PLAN_IQ, 1.9},
    {"IQ2", TD_PLAN_IQ, 2.5},       {"IQ3", TD_PLAN_IQ, 3.5},      {"IQ4", TD_PLAN_IQ, 4.4},
    {"Q2_K", TD_PLAN_Q4_K, 3.0},    {"Q3_K", TD_PLAN_Q4_K, 3.6},   {"Q4_0", TD_PLAN_Q4_0, 4.65},
    {"Q4_1", TD_PLAN_Q4_0, 5.1},    {"Q4_K", TD_PLAN_Q4_K, 4.9},   {"Q5_K", TD_PLAN_Q4_K, 5.7},
    {"Q5_", TD_PLAN_Q4_0, 5.6},     {"Q6_K", TD_PLAN_Q6, 6.6},     {"Q8_K_XL", TD_PLAN_F16, 9.5},
    {"Q8_", TD_PLAN_Q8, 8.5},       {"Q8", TD_PLAN_Q8, 8.5},       {"BF16", TD_PLAN_F16, 16},
    {"F16", TD_PLAN_F16, 16},       {"FP8", TD_PLAN_OTHER, 8.1},   {"F32", TD_PLAN_F16, 32},
    {"2bit", TD_PLAN_MLX, 2.5},     {"3bit", TD_PLAN_MLX, 3.5},    {"4bit", TD_PLAN_MLX, 4.5},
    {"5bit", TD_PLAN_MLX, 5.5},     {"6bit", TD_PLAN_MLX, 6.5},    {"8bit", TD_PLAN_MLX, 8.5},
};

static const struct quant_name *quant_named(const char *name)
{
    for (size_t i = 0; i < sizeof(quants) / sizeof(quants[0]); i++)
        if (strstr(name, quants[i].part)) return &quants[i];
    return NULL;
}

enum td_plan_quant td_plan_quant_of(const char *name)
{
    const struct quant_name *q = quant_named(name);
    return q ? q->family : TD_PLAN_OTHER;
}

double td_plan_quant_bits(const char *name)
{
    const struct quant_name *q = quant_named(name);
    return q ? q->bits : 0;
}

int td_plan_cost_of(struct td_plan_cost *out, const struct td_plan_model *m, const char *quant,
                    double file_gib, struct td_error *err)
{
    const double rest_params = m->params - m->expert_params;
    const bool mx_experts = strstr(quant, "MXFP4") && m->n_experts > 0;
    double file_bytes = file_gib * 0x1p30;
    if (file_bytes <= 0) file_bytes = m->params * td_plan_quant_bits(quant) / 8;
    // Where only the experts are in 4 bits (4.25 with their scales) the rest is in 8.
    if (mx_experts && file_gib <= 0) file_bytes = (m->expert_params * 4.25 + rest_params * 8.5) / 8;
    if (file_bytes <= 0)
        return td_fail(err, TD_EARG,
                       "%.40s: neither the size of its file is known nor what '%.20s' means",
                       m->name, quant);

    const double uniform = file_bytes / m->params;
    double per_expert_param = uniform, per_param = uniform;
    if (mx_experts && file_bytes > m->expert_params * 4.25 / 8) {
        per_expert_param = 4.25 / 8;
        per_param = (file_bytes - m->expert_params * per_expert_param) / rest_params;
    }
    // A tied output matrix is the embedding, read whole by every pass; otherwise a pass reads a
    // few rows of the embedding, which is nothing.
    const double head_params = m->is_tied ? m->embed_params : m->head_params;
    const double dense_params = m->attn_params + m->dense_params + m->shared_params;
    *out = (struct td_plan_cost){
        .kind = m->kind,
        .n_layers = m->n_layers,
        .n_moe_layers = m->n_experts > 0 ? m->n_layers - m->n_dense_layers : 0,
        .n_full_layers = m->n_full_layers,
        .n_experts = m->n_experts,
        .n_active = m->n_active,
        .window_tokens = m->window_tokens,
        .file_bytes = file_bytes,
        .dense_bytes = (dense_params + head_params) * per_param,
        .expert_bytes = m->expert_params * per_expert_param,
        .dense_flop = 2 * dense_params,
        .head_flop = 2 * head_params,
        .expert_flop = m->n_experts > 0 ? 2 * m->expert_params * m->n_active / m->n_experts : 0,
        .kv_bytes_full = m->kv_bytes_full,
        .kv_bytes_window = m->kv_bytes_window,
        .logits_bytes = 4.0 * m->n_vocab,
        .hidden = m->hidden,
    };
    // q.k and a.v: two multiply-adds per element of a head and position. With a compressed cache
    // both products run over its rank (and the rotated part, once).
    const double per_layer = m->mla_rank ? 2.0 * m->n_heads * (2.0 * m->mla_rank + m->mla_rope)
                                         : 4.0 * m->n_heads * m->head_dim;
    out->attend_flop_full = per_layer * m->n_full_layers;
    out->attend_flop_window = m->window_tokens ? per_layer * (m->n_layers - m->n_full_layers) : 0;
    return TD_OK;
}

double td_plan_distinct(uint32_t n_experts, uint32_t n_active, double n_rows)
{
    if (n_experts == 0) return 0;
    return n_experts * (1 - pow(1 - (double)n_active / n_experts, n_rows));
}

double td_plan_pass_bytes(const struct td_plan_cost *c, double n_rows)
{
    if (c->n_experts == 0) return c->dense_bytes;
    return c->dense_bytes +
           c->expert_bytes * td_plan_distinct(c->n_experts, c->n_active, n_rows) / c->n_experts;
}

static double in_window(const struct td_plan_cost *c, double tokens)
{
    return tokens < c->window_tokens ? tokens : c->window_tokens;
}

double td_plan_kv_bytes(const struct td_plan_cost *c, double depth_tokens)
{
    return c->kv_bytes_full * depth_tokens + c->kv_bytes_window * in_window(c, depth_tokens);
}

double td_plan_attend_flop(const struct td_plan_cost *c, double seen_tokens)
{
    return c->attend_flop_full * seen_tokens + c->attend_flop_window * in_window(c, seen_tokens);
}
