// SPDX-License-Identifier: MIT
// Mixture of experts on the CPU: route rows, sort them by expert, and run each chosen expert once
// over all of its rows. Sums go by top-k slot, so a row does not notice which rows share its
// experts.
#include "backend/cpu/cpu_impl.h"
#include "base/num.h"

#include <math.h>
#include <string.h>

static int32_t *ids_of(const struct td_device *dev, td_slot slot, uint32_t row)
{
    return (int32_t *)dev->slots[slot] + (size_t)row * dev->model->program.slots[slot].width;
}

// The k largest logits, largest first, the lower index among equals; softmax over the chosen.
static void route_row(struct td_device *dev, const struct td_op *op, uint32_t r)
{
    const float *logits = td_cpu_row(dev, op->in, r);
    const uint32_t n = dev->model->program.slots[op->in].width;
    int32_t *ids = ids_of(dev, op->out_ids, r);
    float *weights = td_cpu_row(dev, op->out, r);
    for (uint32_t e = 0; e < n; e++) {
        // NaN compares false everywhere and would leave slots empty: it counts as the lowest.
        const float v = isnan(logits[e]) ? -INFINITY : logits[e];
        uint32_t at = e < op->k ? e : op->k;
        while (at > 0 && v > weights[at - 1]) {
            if (at < op->k) {
                weights[at] = weights[at - 1];
                ids[at] = ids[at - 1];
            }
            at--;
        }
        if (at < op->k) {
            weights[at] = v;
            ids[at] = (int32_t)e;
        }
    }
    const float top = weights[0];
    float sum = 0.0f;
    for (uint32_t i = 0; i < op->k; i++) {
        weights[i] = top == -INFINITY ? 1.0f : td_expf(weights[i] - top);
        sum += weights[i];
    }
    for (uint32_t i = 0; i < op->k; i++) weights[i] /= sum;
}

// Counting sort of (row, slot) by expert; within an expert rows stay in order.
static void sort_rows(struct td_device *dev, const struct td_op *op, uint32_t n_rows)
{
    const uint32_t n_experts = dev->model->spec.n_experts;
    uint32_t *begin = dev->expert_begin;
    memset(begin, 0, (n_experts + 1) * sizeof(*begin));
    for (uint32_t r = 0; r < n_rows; r++) {
        const int32_t *ids = ids_of(dev, op->out_ids, r);
        for (uint32_t i = 0; i < op->k; i++) begin[ids[i] + 1]++;
    }
    for (uint32_t e = 0; e < n_experts; e++) begin[e + 1] += begin[e];
    for (uint32_t r = 0; r < n_rows; r++) {
        const int32_t *ids = ids_of(dev, op->out_ids, r);
        for (uint32_t i = 0; i < op->k; i++) dev->picks[begin[ids[i]]++] = r * op->k + i;
    }
    // begin[e] is now the end of e; keep the experts that have rows, with their begins.
    uint32_t n_active = 0, previous_end = 0;
    for (uint32_t e = 0; e < n_experts; e++) {
        const uint32_t end = begin[e];
        if (end == previous_end) continue;
        dev->active[n_active] = e;
        begin[n_active++] = previous_end; // n_active <= e: never a count that is still needed
        previous_end = end;
    }
    begin[n_active] = previous_end;
    dev->n_active = n_active;
}

// Rows of weights of expert e that make output columns o0...
static const uint8_t *expert_rows(const struct td_weight_info *w, uint32_t e, uint32_t o0)
{
    return w->data + ((size_t)e * w->dim[1] + o0) * td_type_size_bytes(w->type, w->dim[0]);
}

// Writes columns [o0, o0 + n) of a pick in the form that the next matrix product takes. Blocks are
// whole, so they come out as if the row had been quantised in one piece.
static void put_hidden(struct td_device *dev, const struct td_step *s, uint32_t pick, uint32_t o0,
                       const float *h, uint32_t n)
{
    const uint32_t n_ff = td_cpu_vector_width(dev, s);
    _Alignas(64) uint8_t part[TD_TILE_OUT * sizeof(float)]; // either form is smaller
    const size_t n_blocks = n / TD_QK, at = o0 / TD_QK;
    uint8_t *row = dev->quantized[s->out_act][s->slot] + pick * td_cpu_act_bytes(s->out_act, n_ff);
    if (s->out_act == TD_ACT_Q8) {
        dev->k.quantize_q8(part, h, n);
        memcpy(row + o0, part, n);
        float *d = (float *)(void *)(row + n_ff);
        int32_t *sums = (int32_t *)(void *)(d + n_ff / TD_QK);
        memcpy(d + at, td_q8_d(part, n), n_blocks * sizeof(*d));
        memcpy(sums + at, td_q8_s(part, n), n_blocks * sizeof(*sums));
    } else {
        dev->k.quantize_q16(part, h, n);
        memcpy(row + (size_t)o0 * 2, part, (size_t)n * 2);
        float *d = (float *)(void *)(row + (size_t)n_ff * 2);
        memcpy(d + at, td_q16_d(part, n), n_blocks * sizeof(*d));
    }
}

static void glu_tile(struct td_device *dev, const struct td_step *s, uint32_t i_active, uint32_t o0,
                     uint32_t n_out, struct td_scratch *scratch)
{
    const struct td_op *op = s->op;
    const struct td_weight_info *gate = td_cpu_weight(dev, op->w);
    const struct td_weight_info *up = td_cpu_weight(dev, op->w2);
    const uint32_t e = dev->active[i_active];
    const uint32_t n_in = gate->dim[0], n_ff = gate->dim[1];
    const uint32_t end = dev->expert_begin[i_active + 1];
    float *const g_tile = scratch->tile;
    float *const u_tile = scratch->tile + (size_t)TD_TILE_ROWS * TD_TILE_OUT;
    for (uint32_t p0 = dev->expert_begin[i_active]; p0 < end; p0 += TD_TILE_ROWS) {
        const uint32_t n = td_min_u32(TD_TILE_ROWS, end - p0);
        const uint32_t *picks = dev->picks + p0;
        for (uint32_t i = 0; i < n; i++) {
            scratch->x[i] = td_cpu_input(dev, op->in, s->act, picks[i] / op->k, n_in);
            scratch->y[i] = g_tile + (size_t)i * TD_TILE_OUT;
        }
        s->mm(scratch->y, expert_rows(gate, e, o0), scratch->x, n_in, n_out, n, scratch->mm);
        for (uint32_t i = 0; i < n; i++) {
            scratch->x[i] = td_cpu_input(dev, op->in, s->act2, picks[i] / op->k, n_in);
            scratch->y[i] = u_tile + (size_t)i * TD_TILE_OUT;
        }
        s->mm2(scratch->y, expert_rows(up, e, o0), scratch->x, n_in, n_out, n, scratch->mm);
        const size_t bias_at = (size_t)e * n_ff + o0;
        for (uint32_t i = 0; i < n; i++) {
            float *g = g_tile + (size_t)i * TD_TILE_OUT;
            float *u = u_tile + (size_t)i * TD_TILE_OUT;
            if (op->bias != TD_NO_WEIGHT) dev->k.add(g, dev->vectors[op->bias] + bias_at, n_out);
            if (op->bias2 != TD_NO_WEIGHT) dev->k.add(u, dev->vectors[op->bias2] + bias_at, n_out);
            // The slot is (rows, k, n_ff): a pick is its own index there.
            if (s->out_act == TD_ACT_F32) {
                float *h = (float *)dev->slots[op->out] + (size_t)picks[i] * n_ff + o0;
                dev->k.swiglu_clamped(h, g, u, n_out, op->alpha, op->limit);
                continue;
            }
            float h[TD_TILE_OUT];
            dev->k.swiglu_clamped(h, g, u, n_out, op->alpha, op->limit);
            put_hidden(dev, s, picks[i], o0, h, n_out);
        }
    }
}

static void down_tile(struct td_device *dev, const struct td_step *s, uint32_t i_active,
                      uint32_t o0, uint32_t n_out, struct td_scratch *scratch)
{
    const struct td_op *op = s->op;
    const struct td_weight_info *w = td_cpu_weight(dev, op->w);
    const uint32_t e = dev->active[i_active];
    const uint32_t begin = dev->expert_begin[i_active];
    const uint32_t n = dev->expert_begin[i_active + 1] - begin;
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t pick = dev->picks[begin + i];
        scratch->x[i] = td_cpu_input(dev, op->in, s->act, pick, w->dim[0]);
        scratch->y[i] = dev->down + (size_t)pick * w->dim[1] + o0;
    }
    s->mm(scratch->y, expert_rows(w, e, o0), scratch->x, w->dim[0], n_out, n, scratch->mm);
    if (op->bias == TD_NO_WEIGHT) return;
    const float *bias = dev->vectors[op->bias] + (size_t)e * w->dim[1] + o0;
    for (uint32_t i = 0; i < n; i++) dev->k.add(scratch->y[i], bias, n_out);
}

static void combine_row(struct td_device *dev, const struct td_op *op, uint32_t r)
{
    const uint32_t n = dev->model->program.slots[op->out].width;
    const float *weights = td_cpu_row(dev, op->in2, r);
    const float *down = dev->down + (size_t)r * op->k * n;
    float *y = td_cpu_row(dev, op->out, r);
    dev->k.scale(y, down, weights[0], n);
    for (uint32_t i = 1; i < op->k; i++) dev->k.madd(y, down + (size_t)i * n, weights[i], n);
}

const uint8_t *td_cpu_moe_first(const struct td_device *dev, const struct td_step *down)
{
    return expert_rows(td_cpu_weight(dev, down->op->w), dev->active[0], 0);
}

uint32_t td_cpu_moe_items(const struct td_device *dev, const struct td_step *s, uint32_t n_rows)
{
    switch (s->kind) {
    case TD_STEP_SORT: return 1;
    case TD_STEP_EXPERTS_GLU:
    case TD_STEP_EXPERTS_DOWN: {
        const uint32_t n_out = td_cpu_weight(dev, s->op->w)->dim[1];
        const uint32_t tile = td_cpu_tile(dev, s);
        return dev->n_active * ((n_out + tile - 1) / tile);
    }
    default: return n_rows; // ROUTE, EXPERTS_COMBINE
    }
}

void td_cpu_moe_item(struct td_device *dev, const struct td_step *s, uint32_t i, uint32_t n_rows,
                     struct td_scratch *scratch)
{
    if (s->kind == TD_STEP_ROUTE) {
        route_row(dev, s->op, i);
    } else if (s->kind == TD_STEP_SORT) {
        sort_rows(dev, s->op, n_rows);
    } else if (s->kind == TD_STEP_EXPERTS_COMBINE) {
        combine_row(dev, s->op, i);
    } else {
        // Consecutive items are tiles of one expert: its rows of activations stay in cache.
        const uint32_t n_out = td_cpu_weight(dev, s->op->w)->dim[1];
        const uint32_t tile = td_cpu_tile(dev, s);
        const uint32_t n_tiles = (n_out + tile - 1) / tile;
        const uint32_t o0 = i % n_tiles * tile;
        const uint32_t n = td_min_u32(tile, n_out - o0);
        if (s->kind == TD_STEP_EXPERTS_GLU)
            glu_tile(dev, s, i / n_tiles, o0, n, scratch);
        else
            down_tile(dev, s, i / n_tiles, o0, n, scratch);
    }
}
