// SPDX-License-Identifier: MIT
// The model's program -> steps for a thread team. It picks the kernel of each matrix product and
// puts in the conversions of activations to 8 or 16 bits, once per slot value. It does not run
// anything.
#include "backend/cpu/cpu_impl.h"

#include <stdlib.h>

struct lowering {
    struct td_device *dev;
    struct td_step *steps; // (cap)
    uint32_t n, cap;
    uint32_t i_op;             // being lowered
    bool *is_fresh[TD_N_ACTS]; // (n_slots): the quantised copy matches the slot
    bool is_kept;
};

// The experts are most of the arithmetic and get 8 bits. Q8_0 matrices are a fifth of it and most
// of the noise (attention, output): they get 16. For TD_PRECISION_FINE all get 16.
static td_mm_fn *pick_mm(const struct td_device *dev, td_weight w, enum td_act *act)
{
    const struct td_kernels *k = &dev->k;
    const bool may_quantize = dev->cfg.precision != TD_PRECISION_HIGH;
    const bool is_fine = dev->cfg.precision == TD_PRECISION_FINE;
    *act = TD_ACT_F32;
    switch (td_cpu_weight(dev, w)->type) {
    case TD_F32: return k->mm_f32_f32;
    case TD_F16: return k->mm_f16_f32;
    case TD_BF16: return k->mm_bf16_f32;
    case TD_Q8_0:
        if (!may_quantize) return k->mm_q8_0_f32;
        *act = TD_ACT_Q16;
        return k->mm_q8_0_q16;
    case TD_MXFP4:
        if (!may_quantize) return k->mm_mxfp4_f32;
        *act = is_fine ? TD_ACT_Q16 : TD_ACT_Q8;
        return is_fine ? k->mm_mxfp4_q16 : k->mm_mxfp4_q8;
    }
    return NULL;
}

// Steps beyond the caller's bound are a bug: every op makes at most five.
static struct td_step *push(struct lowering *l, enum td_step_kind kind, const struct td_op *op)
{
    struct td_step *s = &l->steps[l->n++];
    *s = (struct td_step){.kind = kind, .op = op, .i_op = l->i_op, .is_kept = l->is_kept};
    return s;
}

static void need(struct lowering *l, td_slot slot, enum td_act act, uint32_t n_vectors)
{
    if (act == TD_ACT_F32 || l->is_fresh[act][slot]) return;
    struct td_step *s = push(l, TD_STEP_QUANTIZE, NULL);
    s->slot = slot;
    s->act = act;
    s->n_vectors = n_vectors;
    l->is_fresh[act][slot] = true;
}

static void lower_linear(struct lowering *l, const struct td_op *op)
{
    enum td_act act;
    td_mm_fn *mm = pick_mm(l->dev, op->w, &act);
    need(l, op->in, act, 1);
    struct td_step *s = push(l, TD_STEP_LINEAR, op);
    s->mm = mm;
    s->act = act;
}

// How the next ops take the slot that op i_op writes, when all take it alike and by blocks; else
// TD_ACT_F32.
static enum td_act sole_reader_act(const struct lowering *l, td_slot slot)
{
    const struct td_program *p = &l->dev->model->program;
    enum td_act found = TD_N_ACTS;
    for (uint32_t i = l->i_op + 1; i < p->n_ops; i++) {
        const struct td_op *op = &p->ops[i];
        if (op->in == slot || op->in2 == slot) {
            enum td_act act = TD_ACT_F32;
            if (op->kind == TD_OP_EXPERTS_SUM && op->in2 != slot)
                (void)pick_mm(l->dev, op->w, &act);
            if (found != TD_N_ACTS && found != act) return TD_ACT_F32;
            found = act;
        }
        if (op->out == slot) break;
    }
    return found == TD_N_ACTS ? TD_ACT_F32 : found;
}

static void lower_glu(struct lowering *l, const struct td_op *op)
{
    enum td_act act, act2;
    td_mm_fn *mm = pick_mm(l->dev, op->w, &act);
    td_mm_fn *mm2 = pick_mm(l->dev, op->w2, &act2);
    need(l, op->in, act, 1);
    need(l, op->in, act2, 1);
    struct td_step *s = push(l, TD_STEP_EXPERTS_GLU, op);
    s->mm = mm;
    s->mm2 = mm2;
    s->act = act;
    s->act2 = act2;
    s->slot = op->out;
    s->n_vectors = op->k;
    s->out_act = sole_reader_act(l, op->out);
}

static void lower_experts_sum(struct lowering *l, const struct td_op *op)
{
    enum td_act act;
    td_mm_fn *mm = pick_mm(l->dev, op->w, &act);
    need(l, op->in, act, op->k);
    struct td_step *s = push(l, TD_STEP_EXPERTS_DOWN, op);
    s->mm = mm;
    s->act = act;
    push(l, TD_STEP_EXPERTS_COMBINE, op);
}

static void forget(struct lowering *l, td_slot slot)
{
    for (int act = 0; act < TD_N_ACTS; act++) l->is_fresh[act][slot] = false;
}

// Quantises what op i_op has just written for all that will read it, while its rows are in cache.
static void quantize_early(struct lowering *l, td_slot slot)
{
    const struct td_program *p = &l->dev->model->program;
    for (uint32_t i = l->i_op + 1; i < p->n_ops && p->ops[i].kind != TD_OP_KEEP; i++) {
        const struct td_op *op = &p->ops[i];
        enum td_act act;
        if (op->in == slot && (op->kind == TD_OP_LINEAR || op->kind == TD_OP_EXPERTS_GLU)) {
            (void)pick_mm(l->dev, op->w, &act);
            need(l, slot, act, 1);
        }
        if (op->in == slot && op->kind == TD_OP_EXPERTS_GLU) {
            (void)pick_mm(l->dev, op->w2, &act);
            need(l, slot, act, 1);
        }
        if (op->out == slot) break;
    }
}

static void lower_op(struct lowering *l, const struct td_op *op)
{
    switch (op->kind) {
    case TD_OP_EMBED: push(l, TD_STEP_EMBED, op); break;
    case TD_OP_RMSNORM: push(l, TD_STEP_RMSNORM, op); break;
    case TD_OP_LINEAR: lower_linear(l, op); break;
    case TD_OP_ROPE: push(l, TD_STEP_ROPE, op); break;
    case TD_OP_KV_PUT: push(l, TD_STEP_KV_PUT, op); return; // writes no slot
    case TD_OP_KEEP:
        push(l, TD_STEP_KEEP, op);
        l->is_kept = true;
        // Every slot that lives on has moved; whatever was quantised before is stale.
        for (uint32_t i = 0; i < l->dev->model->program.n_slots; i++) forget(l, (td_slot)i);
        return;
    case TD_OP_ATTEND: push(l, TD_STEP_ATTEND, op); break;
    case TD_OP_ROUTE:
        push(l, TD_STEP_ROUTE, op);
        push(l, TD_STEP_SORT, op);
        break;
    case TD_OP_EXPERTS_GLU: lower_glu(l, op); break;
    case TD_OP_EXPERTS_SUM: lower_experts_sum(l, op); break;
    case TD_OP_ADD: push(l, TD_STEP_ADD, op); break;
    case TD_N_OPS: break;
    }
    forget(l, op->out);
    if (op->kind == TD_OP_EXPERTS_GLU)
        l->is_fresh[l->steps[l->n - 1].out_act][op->out] = true;
    else
        quantize_early(l, op->out);
}

uint32_t td_cpu_vector_width(const struct td_device *dev, const struct td_step *quantize)
{
    return dev->model->program.slots[quantize->slot].width / quantize->n_vectors;
}

// Whether a vector can be used where it lies.
static bool is_ready(const struct td_weight_info *w)
{
    return w->type == TD_F32 && (uintptr_t)w->data % _Alignof(float) == 0;
}

// Norms, biases and sinks as f32, so that no kernel has to know their type. Where the file has them
// in f32, as it should, they stay there (the biases of gpt-oss-20b's experts are 27 MB); others are
// converted once. Matrices always stay in the file.
static int load_vectors(struct td_device *dev, struct td_error *err)
{
    const struct td_model *m = dev->model;
    dev->vectors = calloc(m->n_weights, sizeof(*dev->vectors));
    bool *is_vector = calloc(m->n_weights, sizeof(*is_vector));
    if (!dev->vectors || !is_vector) {
        free(is_vector);
        return td_fail(err, TD_ENOMEM, "no memory for the model's norms and biases");
    }
    for (uint32_t i = 0; i < m->program.n_ops; i++) {
        const struct td_op *op = &m->program.ops[i];
        if (op->bias != TD_NO_WEIGHT) is_vector[op->bias] = true;
        if (op->bias2 != TD_NO_WEIGHT) is_vector[op->bias2] = true;
        if ((op->kind == TD_OP_RMSNORM || op->kind == TD_OP_ATTEND) && op->w != TD_NO_WEIGHT)
            is_vector[op->w] = true;
    }
    size_t n = 0;
    for (uint32_t i = 0; i < m->n_weights; i++) {
        const struct td_weight_info *w = &m->weights[i];
        if (is_vector[i] && !is_ready(w)) n += (size_t)w->dim[0] * w->dim[1] * w->dim[2];
    }
    dev->vectors_owned = malloc((n ? n : 1) * sizeof(float));
    float *to = dev->vectors_owned;
    for (uint32_t i = 0; to && i < m->n_weights; i++) {
        const struct td_weight_info *w = &m->weights[i];
        if (!is_vector[i]) continue;
        if (is_ready(w)) {
            dev->vectors[i] = (const float *)(const void *)w->data;
            continue;
        }
        const uint32_t n_w = w->dim[0] * w->dim[1] * w->dim[2];
        dev->k.row_f32(to, w->type, w->data, n_w);
        dev->vectors[i] = to;
        to += n_w;
    }
    free(is_vector);
    if (!to) return td_fail(err, TD_ENOMEM, "no memory for %zu norms and biases", n);
    return TD_OK;
}

// Steps that take each row from its own values.
static bool is_by_row(enum td_step_kind kind)
{
    switch (kind) {
    case TD_STEP_ANGLES:
    case TD_STEP_EMBED:
    case TD_STEP_RMSNORM:
    case TD_STEP_QUANTIZE:
    case TD_STEP_ROPE:
    case TD_STEP_KV_PUT:
    case TD_STEP_EXPERTS_COMBINE:
    case TD_STEP_ADD: return true;
    case TD_STEP_LINEAR:
    case TD_STEP_KEEP:
    case TD_STEP_ATTEND:
    case TD_STEP_ROUTE:
    case TD_STEP_SORT:
    case TD_STEP_EXPERTS_GLU:
    case TD_STEP_EXPERTS_DOWN: break;
    }
    return false;
}

static bool joins(const struct td_phase *phase, const struct td_step *first,
                  const struct td_step *s)
{
    // A phase ends with its keys and values: layer_done and cancel stand behind it.
    if (s[-1].kind == TD_STEP_KV_PUT) return false;
    if (s->is_kept != first->is_kept) return false;
    if (phase->kind == TD_PHASE_ROWS) return is_by_row(s->kind);
    return first->kind == TD_STEP_LINEAR && s->kind == TD_STEP_LINEAR &&
           s->op->in == first->op->in && first->op->out != first->op->in;
}

static int make_phases(struct td_device *dev, struct td_error *err)
{
    dev->phases = calloc(dev->n_steps, sizeof(*dev->phases));
    if (!dev->phases) return td_fail(err, TD_ENOMEM, "no memory for %u steps", dev->n_steps);
    for (uint32_t i = 0; i < dev->n_steps;) {
        struct td_phase *phase = &dev->phases[dev->n_phases++];
        const struct td_step *first = &dev->steps[i];
        phase->kind = is_by_row(first->kind) ? TD_PHASE_ROWS : TD_PHASE_BESIDE;
        phase->first = i++;
        while (i < dev->n_steps && joins(phase, first, &dev->steps[i])) i++;
        phase->n_steps = i - phase->first;
    }
    // Backwards: which matrix comes next. The experts' are known only once rows are routed.
    td_weight next = TD_NO_WEIGHT;
    for (uint32_t i = dev->n_phases; i-- > 0;) {
        const struct td_step *s = &dev->steps[dev->phases[i].first];
        dev->phases[i].next = s->kind == TD_STEP_EXPERTS_GLU ? TD_NO_WEIGHT : next;
        if (s->kind == TD_STEP_LINEAR)
            next = s->op->w;
        else if (s->kind == TD_STEP_EXPERTS_GLU)
            next = TD_NO_WEIGHT;
    }
    return TD_OK;
}

int td_cpu_lower(struct td_device *dev, struct td_error *err)
{
    const struct td_program *p = &dev->model->program;
    struct lowering l = {.dev = dev, .cap = 1 + 5 * p->n_ops};
    l.steps = calloc(l.cap, sizeof(*l.steps));
    bool *fresh = calloc((size_t)p->n_slots * TD_N_ACTS, sizeof(*fresh));
    if (!l.steps || !fresh) {
        free(l.steps);
        free(fresh);
        return td_fail(err, TD_ENOMEM, "no memory for a program of %u ops", p->n_ops);
    }
    for (int act = 0; act < TD_N_ACTS; act++) l.is_fresh[act] = fresh + (size_t)act * p->n_slots;
    while (l.i_op + 1 < p->n_ops && p->ops[l.i_op].kind != TD_OP_ROPE) l.i_op++;
    push(&l, TD_STEP_ANGLES, NULL);
    for (uint32_t i = 0; i < p->n_ops; i++) {
        l.i_op = i;
        lower_op(&l, &p->ops[i]);
        if (p->ops[i].kind == TD_OP_ROUTE) dev->top_k = p->ops[i].k;
    }
    free(fresh);
    dev->steps = l.steps;
    dev->n_steps = l.n;
    const int code = make_phases(dev, err);
    return code == TD_OK ? load_vectors(dev, err) : code;
}
