// SPDX-License-Identifier: MIT
// Runs the steps on the thread team. Every member walks the whole list, phase by phase; in each
// they claim items until none are left, then meet at a barrier. A row's bits depend on its own
// sequence alone: no item sums over rows, and every sum over positions or blocks goes in the
// kernels' fixed order.
#include "backend/cpu/cpu_impl.h"
#include "base/clock.h"
#include "base/num.h"

#include <assert.h>
#include <math.h>
#include <string.h>

static const struct td_row *rows_of(const struct td_device *dev, const struct td_step *s)
{
    return s->is_kept ? dev->kept : dev->rows;
}

// ---- rows -------------------------------------------------------------------------------------

static void do_angles(struct td_device *dev, const struct td_row *row, uint32_t r)
{
    const struct td_rope *rope = &dev->model->spec.rope;
    const uint32_t half = rope->n_dims / 2;
    float *cosines = dev->angles + (size_t)r * rope->n_dims;
    for (uint32_t i = 0; i < half; i++) {
        // In double: at position 100,000 a float angle would be off by 0.004 radians.
        const double angle = (double)row->pos * rope->inv_freq[i];
        cosines[i] = (float)(cos(angle) * rope->attn_factor);
        cosines[half + i] = (float)(sin(angle) * rope->attn_factor);
    }
}

static void do_embed(struct td_device *dev, const struct td_op *op, const struct td_row *row,
                     uint32_t r)
{
    const struct td_weight_info *w = td_cpu_weight(dev, op->w);
    const size_t row_bytes = td_type_size_bytes(w->type, w->dim[0]);
    dev->k.row_f32(td_cpu_row(dev, op->out, r), w->type, w->data + (size_t)row->token * row_bytes,
                   w->dim[0]);
}

size_t td_cpu_act_bytes(enum td_act act, uint32_t n)
{
    switch (act) {
    case TD_ACT_Q8: return td_q8_row_bytes(n);
    case TD_ACT_Q16: return td_q16_row_bytes(n);
    case TD_ACT_F32:
    case TD_N_ACTS: break;
    }
    return (size_t)n * sizeof(float);
}

const void *td_cpu_input(const struct td_device *dev, td_slot slot, enum td_act act, size_t i,
                         uint32_t n)
{
    const uint8_t *base = act == TD_ACT_F32 ? dev->slots[slot] : dev->quantized[act][slot];
    return base + i * td_cpu_act_bytes(act, n);
}

static void do_quantize(struct td_device *dev, const struct td_step *s, uint32_t r)
{
    const uint32_t n = td_cpu_vector_width(dev, s);
    const size_t bytes = td_cpu_act_bytes(s->act, n);
    const float *x = td_cpu_row(dev, s->slot, r);
    for (uint32_t v = 0; v < s->n_vectors; v++) {
        uint8_t *to = dev->quantized[s->act][s->slot] + ((size_t)r * s->n_vectors + v) * bytes;
        if (s->act == TD_ACT_Q8)
            dev->k.quantize_q8(to, x + (size_t)v * n, n);
        else
            dev->k.quantize_q16(to, x + (size_t)v * n, n);
    }
}

static void do_rope(struct td_device *dev, const struct td_step *s, uint32_t r)
{
    const struct td_op *op = s->op;
    const struct td_rope *rope = &dev->model->spec.rope;
    // Angles belong to the rows as they came in; kept rows know where that was.
    const uint32_t from = s->is_kept ? dev->kept_from[r] : r;
    const float *cosines = dev->angles + (size_t)from * rope->n_dims;
    dev->k.rope(td_cpu_row(dev, op->out, r), cosines, cosines + rope->n_dims / 2, op->n_heads,
                op->head_dim);
}

// One member moves the rows up; a row never moves down, so none is overwritten before it was read.
static void do_keep(struct td_device *dev, const struct td_op *op)
{
    const td_slot slots[2] = {op->out, op->in};
    for (int i = 0; i < 2; i++) {
        if (slots[i] == TD_NO_SLOT) continue;
        const size_t bytes = (size_t)dev->model->program.slots[slots[i]].width * sizeof(float);
        for (uint32_t r = 0; r < dev->n_kept; r++)
            memmove(td_cpu_row(dev, slots[i], r), td_cpu_row(dev, slots[i], dev->kept_from[r]),
                    bytes);
    }
}

// ---- matrix products --------------------------------------------------------------------------

// Tiles as wide as TD_TILE_OUT; narrower where a matrix (the router) would not give every member
// two. Experts keep whole blocks: their outputs may be quantised tile by tile.
uint32_t td_cpu_tile(const struct td_device *dev, const struct td_step *s)
{
    const uint32_t n_out = td_cpu_weight(dev, s->op->w)->dim[1];
    const uint32_t least = s->kind == TD_STEP_LINEAR ? TD_QK / 2 : TD_QK;
    uint32_t tile = TD_TILE_OUT;
    while (tile > least && n_out < 2 * tile * dev->cfg.n_threads) tile /= 2;
    return tile;
}

static void do_linear(struct td_device *dev, const struct td_step *s, uint32_t i_tile,
                      uint32_t n_rows, struct td_scratch *scratch)
{
    const struct td_op *op = s->op;
    const struct td_weight_info *w = td_cpu_weight(dev, op->w);
    const uint32_t tile = td_cpu_tile(dev, s);
    const uint32_t o0 = i_tile * tile;
    const uint32_t n_out = td_min_u32(tile, w->dim[1] - o0);
    for (uint32_t r = 0; r < n_rows; r++) {
        scratch->x[r] = td_cpu_input(dev, op->in, s->act, r, w->dim[0]);
        scratch->y[r] = td_cpu_row(dev, op->out, r) + o0;
    }
    s->mm(scratch->y, w->data + (size_t)o0 * td_type_size_bytes(w->type, w->dim[0]), scratch->x,
          w->dim[0], n_out, n_rows, scratch->mm);
    if (op->bias == TD_NO_WEIGHT) return;
    for (uint32_t r = 0; r < n_rows; r++)
        dev->k.add(scratch->y[r], dev->vectors[op->bias] + o0, n_out);
}

// ---- the walk ---------------------------------------------------------------------------------

static uint32_t n_items(const struct td_device *dev, const struct td_step *s, uint32_t n_rows)
{
    switch (s->kind) {
    case TD_STEP_ANGLES:
    case TD_STEP_EMBED:
    case TD_STEP_RMSNORM:
    case TD_STEP_QUANTIZE:
    case TD_STEP_ROPE:
    case TD_STEP_KV_PUT:
    case TD_STEP_ADD: return n_rows;
    case TD_STEP_LINEAR: {
        const uint32_t n_out = td_cpu_weight(dev, s->op->w)->dim[1];
        const uint32_t tile = td_cpu_tile(dev, s);
        return (n_out + tile - 1) / tile;
    }
    case TD_STEP_KEEP: return 1;
    case TD_STEP_ATTEND: return td_cpu_attn_items(dev, s);
    case TD_STEP_ROUTE:
    case TD_STEP_SORT:
    case TD_STEP_EXPERTS_GLU:
    case TD_STEP_EXPERTS_DOWN:
    case TD_STEP_EXPERTS_COMBINE: return td_cpu_moe_items(dev, s, n_rows);
    }
    return 0;
}

static void do_item(struct td_device *dev, const struct td_step *s, uint32_t i, uint32_t n_rows,
                    struct td_scratch *scratch)
{
    const struct td_op *op = s->op;
    const struct td_row *rows = rows_of(dev, s);
    switch (s->kind) {
    case TD_STEP_ANGLES: do_angles(dev, &rows[i], i); break;
    case TD_STEP_EMBED: do_embed(dev, op, &rows[i], i); break;
    case TD_STEP_RMSNORM:
        dev->k.rmsnorm(td_cpu_row(dev, op->out, i), td_cpu_row(dev, op->in, i), dev->vectors[op->w],
                       dev->model->program.slots[op->in].width, op->eps);
        break;
    case TD_STEP_QUANTIZE: do_quantize(dev, s, i); break;
    case TD_STEP_LINEAR: do_linear(dev, s, i, n_rows, scratch); break;
    case TD_STEP_ROPE: do_rope(dev, s, i); break;
    case TD_STEP_KEEP: do_keep(dev, op); break;
    case TD_STEP_KV_PUT: td_cpu_kv_put(dev, op, &rows[i], i, scratch); break;
    case TD_STEP_ATTEND: td_cpu_attn_item(dev, s, i, scratch); break;
    case TD_STEP_ROUTE:
    case TD_STEP_SORT:
    case TD_STEP_EXPERTS_GLU:
    case TD_STEP_EXPERTS_DOWN:
    case TD_STEP_EXPERTS_COMBINE: td_cpu_moe_item(dev, s, i, n_rows, scratch); break;
    case TD_STEP_ADD:
        dev->k.add(td_cpu_row(dev, op->out, i), td_cpu_row(dev, op->in, i),
                   dev->model->program.slots[op->out].width);
        break;
    }
}

static void tell_layer_done(struct td_device *dev, const struct td_op *op)
{
    const struct td_watch *watch = dev->watch;
    if (!watch || !watch->layer_done) return;
    for (uint32_t i = 0; i < dev->batch->n_parts; i++) {
        const struct td_batch_part *part = &dev->batch->parts[i];
        const struct td_kv_span span = {
            .kv = part->kv, .layer = op->layer, .pos0 = part->kv->len, .n = part->n_rows};
        watch->layer_done(watch->ctx, &span);
    }
}

// Rows of an item: with many rows, runs of them, because rows that follow each other write the same
// cache lines of a KV page.
static uint32_t rows_per_item(const struct td_device *dev, uint32_t n_rows)
{
    const uint32_t n = n_rows / (4 * dev->cfg.n_threads);
    return td_min_u32(TD_ATTN_ROWS, n > 0 ? n : 1);
}

// Items of a phase: runs of rows, or those of all its steps.
static uint32_t n_phase_items(const struct td_device *dev, const struct td_phase *p,
                              uint32_t n_rows)
{
    if (p->kind == TD_PHASE_ROWS) {
        const uint32_t per_item = rows_per_item(dev, n_rows);
        return (n_rows + per_item - 1) / per_item;
    }
    uint32_t n = 0;
    for (uint32_t k = 0; k < p->n_steps; k++) n += n_items(dev, &dev->steps[p->first + k], n_rows);
    return n;
}

static void do_phase_item(struct td_device *dev, const struct td_phase *p, uint32_t i,
                          uint32_t n_rows, struct td_scratch *scratch)
{
    const struct td_step *s = &dev->steps[p->first];
    if (p->kind == TD_PHASE_ROWS) {
        const uint32_t per_item = rows_per_item(dev, n_rows);
        const uint32_t end = td_min_u32(n_rows, (i + 1) * per_item);
        for (uint32_t r = i * per_item; r < end; r++) {
            for (uint32_t k = 0; k < p->n_steps; k++) do_item(dev, &s[k], r, n_rows, scratch);
        }
        return;
    }
    for (;; s++) {
        const uint32_t n = n_items(dev, s, n_rows);
        if (i < n) break;
        i -= n;
    }
    do_item(dev, s, i, n_rows, scratch);
}

static bool has_kv_put(const struct td_device *dev, const struct td_phase *p)
{
    return dev->steps[p->first + p->n_steps - 1].kind == TD_STEP_KV_PUT;
}

// Leader, after the phase's barrier: it lasted from the end of the one before until its last member
// was done. Returns that moment.
static uint64_t note_times(struct td_device *dev, uint32_t i_phase, uint64_t begin_ns)
{
    const uint32_t n = dev->cfg.n_threads;
    const uint64_t *done_ns = dev->done_ns + (size_t)i_phase * n;
    assert(n > 0);
    uint64_t end_ns = begin_ns, sum_ns = 0;
    for (uint32_t m = 0; m < n; m++) {
        if (done_ns[m] > end_ns) end_ns = done_ns[m];
        sum_ns += done_ns[m];
    }
    struct td_step_clock *c = &dev->clocks[i_phase];
    c->n_runs++;
    c->time_ns += end_ns - begin_ns;
    c->wait_ns += (end_ns * n - sum_ns) / n;
    return end_ns;
}

// A kilobyte more of what comes next; false when that is enough. With few rows every phase waits
// for weights, so a member that waits for others does best by fetching them.
static bool fetch_ahead(void *ctx)
{
    struct td_scratch *scratch = ctx;
    const size_t end = scratch->n_ahead + 1024;
    if (end > scratch->max_ahead) return false;
    for (; scratch->n_ahead < end; scratch->n_ahead += 64)
        __builtin_prefetch(scratch->ahead + scratch->n_ahead, 0, 2);
    return true;
}

// Sets what is to be fetched after phase p; goes on where it stopped if that is the same as before.
static bool aim_ahead(const struct td_device *dev, const struct td_phase *p,
                      struct td_scratch *scratch)
{
    const struct td_step *s = &dev->steps[p->first];
    const uint8_t *next;
    td_weight w = p->next;
    if (w != TD_NO_WEIGHT) {
        next = td_cpu_weight(dev, w)->data;
    } else if (s->kind == TD_STEP_EXPERTS_GLU && s[1].kind == TD_STEP_EXPERTS_DOWN) {
        w = s[1].op->w;
        next = td_cpu_moe_first(dev, &s[1]);
    } else {
        return false;
    }
    if (next != scratch->ahead) scratch->n_ahead = 0;
    scratch->ahead = next;
    const struct td_weight_info *info = td_cpu_weight(dev, w);
    const size_t left = info->size_bytes - (size_t)(next - info->data);
    scratch->max_ahead = left < TD_AHEAD_BYTES ? left : TD_AHEAD_BYTES;
    return true;
}

static void walk(void *ctx, struct td_member *me)
{
    struct td_device *dev = ctx;
    uint64_t begin_ns = dev->is_timed ? td_clock_ns() : 0;
    for (uint32_t i_phase = 0; i_phase < dev->n_phases; i_phase++) {
        const struct td_phase *p = &dev->phases[i_phase];
        const uint32_t n_rows = dev->steps[p->first].is_kept ? dev->n_kept : dev->n_rows;
        if (n_rows == 0) return; // nobody wants logits
        const uint32_t n = n_phase_items(dev, p, n_rows);
        for (uint32_t i; td_team_claim(me, n, &i);)
            do_phase_item(dev, p, i, n_rows, &dev->scratch[me->id]);
        // Once a layer.
        const bool is_put = has_kv_put(dev, p);
        if (me->id == 0 && is_put && dev->watch && dev->watch->cancel &&
            atomic_load_explicit(dev->watch->cancel, memory_order_relaxed))
            atomic_store_explicit(&dev->stop_after, i_phase, memory_order_relaxed);
        if (dev->is_timed) dev->done_ns[(size_t)i_phase * me->n + me->id] = td_clock_ns();
        if (n_rows <= TD_FEW_ROWS && aim_ahead(dev, p, &dev->scratch[me->id]))
            td_team_barrier_busy(me, fetch_ahead, &dev->scratch[me->id]);
        else
            td_team_barrier(me);
        if (dev->is_timed && me->id == 0) begin_ns = note_times(dev, i_phase, begin_ns);
        // A member that is late here may already see the stop of a later phase; only its own
        // counts, so that all leave after the same barrier.
        if (atomic_load_explicit(&dev->stop_after, memory_order_relaxed) <= i_phase) return;
        if (me->id == 0 && is_put) tell_layer_done(dev, dev->steps[p->first + p->n_steps - 1].op);
    }
}

bool td_cpu_execute(struct td_device *dev)
{
    atomic_store_explicit(&dev->stop_after, UINT32_MAX, memory_order_relaxed);
    td_team_run(dev->team, walk, dev);
    return atomic_load_explicit(&dev->stop_after, memory_order_relaxed) == UINT32_MAX;
}
