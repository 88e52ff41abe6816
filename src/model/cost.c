// SPDX-License-Identifier: MIT
// Prices a program: bytes that must be moved and multiply-adds, op by op, for one run. It knows no
// machine: seconds are the planner's business.
#include "model/model.h"

#include <assert.h>
#include <math.h>

// Rows of one sequence: n_rows from position pos0, of which the last n_want go on after KEEP.
struct run {
    uint32_t n_rows, pos0, n_want;
    uint32_t kv_elem_bytes;
};

static double weight_bytes(const struct td_model *m, td_weight w)
{
    return w == TD_NO_WEIGHT ? 0.0 : (double)m->weights[w].size_bytes;
}

// How many of n experts a batch touches when each row chooses k of n independently and evenly.
static double distinct_experts(uint32_t n, uint32_t k, uint32_t n_rows)
{
    return n * (1.0 - pow(1.0 - (double)k / n, n_rows));
}

static uint32_t n_experts_of(const struct td_model *m, const struct td_op *op)
{
    return m->weights[op->w].dim[2];
}

// Multiply-adds of one row through one expert's matrix, or a whole plain matrix.
static double macs(const struct td_model *m, td_weight w)
{
    return w == TD_NO_WEIGHT ? 0.0 : (double)m->weights[w].dim[0] * m->weights[w].dim[1];
}

// Sum over rows at positions a, a+1 ... a+n-1 of the positions each sees: min(pos + 1, window).
static double seen_by_rows(uint32_t a, uint32_t n, uint32_t window)
{
    double sum = 0.0;
    if (window == 0) return n * (a + (n + 1.0) / 2.0);
    uint32_t n_ramp = a + 1 < window ? window - a - 1 : 0; // rows that see less than a window
    if (n_ramp > n) n_ramp = n;
    sum += n_ramp * (a + (n_ramp + 1.0) / 2.0);
    return sum + (double)(n - n_ramp) * window;
}

// Positions seen by at least one of those rows.
static double seen_by_any(uint32_t a, uint32_t n, uint32_t window)
{
    const uint32_t before = window == 0 || a < window - 1 ? a : window - 1;
    return (double)before + n;
}

static void price_attend(struct td_cost *c, const struct td_op *op, const struct run *run,
                         uint32_t n)
{
    if (n == 0) return;
    // Rows that want logits are counted as the last of the run.
    const uint32_t a = run->pos0 + run->n_rows - n;
    const double per_position = 2.0 * op->n_kv_heads * op->head_dim * run->kv_elem_bytes;
    c->kv_read_bytes = seen_by_any(a, n, op->window) * per_position;
    // Two products of head_dim multiply-adds per head and position: q.k and a.v.
    c->flop = 4.0 * op->n_heads * op->head_dim * seen_by_rows(a, n, op->window);
}

void td_cost_op(struct td_cost *out, const struct td_model *m, uint32_t i_op, uint32_t n_rows,
                uint32_t pos0, uint32_t n_want, uint32_t kv_elem_bytes)
{
    assert(i_op < m->program.n_ops && n_want <= n_rows);
    const struct run run = {n_rows, pos0, n_want, kv_elem_bytes};
    const struct td_op *op = &m->program.ops[i_op];
    const uint32_t n = i_op > m->program.i_keep ? n_want : n_rows;
    *out = (struct td_cost){0};
    if (n == 0) return;
    switch (op->kind) {
    case TD_OP_EMBED:
        // One row each; the same token twice is read twice at most.
        out->weight_bytes = weight_bytes(m, op->w) / m->weights[op->w].dim[1] * n;
        break;
    case TD_OP_RMSNORM: out->weight_bytes = weight_bytes(m, op->w); break;
    case TD_OP_LINEAR:
        out->weight_bytes = weight_bytes(m, op->w) + weight_bytes(m, op->bias);
        out->flop = 2.0 * macs(m, op->w) * n;
        break;
    case TD_OP_KV_PUT:
        out->kv_write_bytes = 2.0 * op->n_kv_heads * op->head_dim * kv_elem_bytes * n;
        break;
    case TD_OP_ATTEND:
        out->weight_bytes = weight_bytes(m, op->w);
        price_attend(out, op, &run, n);
        break;
    case TD_OP_EXPERTS_GLU:
    case TD_OP_EXPERTS_SUM: {
        const uint32_t n_experts = n_experts_of(m, op);
        const double all = weight_bytes(m, op->w) + weight_bytes(m, op->bias) +
                           weight_bytes(m, op->w2) + weight_bytes(m, op->bias2);
        out->weight_bytes = all / n_experts * distinct_experts(n_experts, op->k, n);
        out->flop = 2.0 * (macs(m, op->w) + macs(m, op->w2)) * op->k * n;
        break;
    }
    case TD_OP_ROPE:
    case TD_OP_KEEP:
    case TD_OP_ROUTE:
    case TD_OP_ADD:
    case TD_N_OPS: break; // a few operations per element of activations: not counted
    }
}

void td_cost_program(struct td_cost *out, const struct td_model *m, uint32_t n_rows, uint32_t pos0,
                     uint32_t n_want, uint32_t kv_elem_bytes)
{
    *out = (struct td_cost){0};
    for (uint32_t i = 0; i < m->program.n_ops; i++) {
        struct td_cost c;
        td_cost_op(&c, m, i, n_rows, pos0, n_want, kv_elem_bytes);
        out->weight_bytes += c.weight_bytes;
        out->kv_read_bytes += c.kv_read_bytes;
        out->kv_write_bytes += c.kv_write_bytes;
        out->flop += c.flop;
    }
}
