// SPDX-License-Identifier: MIT
// Sums up td_cost_op over a program by part. The last layer's experts run only for rows that want
// logits; the planner counts them for all, a layer too many of a prompt.
#include "app/cost.h"

#include "model/model.h"

#include <stdio.h>
#include <string.h>

static void add_op(struct td_plan_cost *c, const struct td_model *m, uint32_t i)
{
    const struct td_op *op = &m->program.ops[i];
    struct td_cost one, all;
    // Experts: enough rows that every one is read.
    td_cost_op(&one, m, i, 1, 0, 1, 2);
    td_cost_op(&all, m, i, 1u << 16, 0, 1u << 16, 2);
    switch (op->kind) {
    case TD_OP_LINEAR:
        c->dense_bytes += one.weight_bytes;
        if (op->layer == TD_NO_LAYER)
            c->head_flop += one.flop;
        else
            c->dense_flop += one.flop;
        break;
    case TD_OP_EXPERTS_GLU:
    case TD_OP_EXPERTS_SUM:
        c->expert_bytes += all.weight_bytes;
        c->expert_flop += one.flop;
        c->n_moe_layers += op->kind == TD_OP_EXPERTS_SUM;
        break;
    case TD_OP_ATTEND:
        // One row at position 0 sees one position: bytes and operations of one.
        if (op->window) {
            c->window_tokens = op->window;
            c->attend_flop_window += one.flop;
            c->kv_bytes_window += one.kv_read_bytes;
        } else {
            c->n_full_layers++;
            c->attend_flop_full += one.flop;
            c->kv_bytes_full += one.kv_read_bytes;
        }
        break;
    case TD_OP_RMSNORM: c->dense_bytes += one.weight_bytes; break;
    case TD_OP_EMBED:
    case TD_OP_ROPE:
    case TD_OP_KV_PUT:
    case TD_OP_KEEP:
    case TD_OP_ROUTE:
    case TD_OP_ADD:
    case TD_N_OPS: break;
    }
}

// The type that most of the weights' bytes have.
static void main_type(char *out, size_t out_bytes, const struct td_model *m)
{
    uint64_t most = 0;
    for (uint32_t i = 0; i < m->n_weights; i++) {
        uint64_t bytes = 0;
        for (uint32_t j = 0; j < m->n_weights; j++)
            if (m->weights[j].type == m->weights[i].type) bytes += m->weights[j].size_bytes;
        if (bytes <= most) continue;
        most = bytes;
        snprintf(out, out_bytes, "%s", td_type_info((uint32_t)m->weights[i].type)->name);
    }
}

int td_cost_of_file(struct td_plan_cost *out, uint32_t *head_dim, char *quant, size_t quant_bytes,
                    const char *path, struct td_error *err)
{
    struct td_model *m;
    const struct td_model_options opt = {.header_only = true};
    const int code = td_model_open(&m, path, &opt, err);
    if (code != TD_OK) return code;
    const struct td_spec *s = &m->spec;
    *out = (struct td_plan_cost){.kind = s->n_experts ? TD_PLAN_MOE : TD_PLAN_DENSE,
                                 .n_layers = s->n_layers,
                                 .n_experts = s->n_experts,
                                 .n_active = s->n_experts_used,
                                 .file_bytes = (double)m->weights_bytes,
                                 .logits_bytes = 4.0 * s->n_vocab,
                                 .hidden = s->n_embd};
    for (uint32_t i = 0; i < m->program.n_ops; i++) add_op(out, m, i);
    *head_dim = s->head_dim;
    main_type(quant, quant_bytes, m);
    td_model_close(m);
    return TD_OK;
}
