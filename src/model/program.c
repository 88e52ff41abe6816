// SPDX-License-Identifier: MIT
// Records programs. It does not run, price or print them.
#include "model/program.h"
#include "model/program_impl.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *td_op_name(enum td_op_kind kind)
{
    switch (kind) {
    case TD_OP_EMBED: return "embed";
    case TD_OP_RMSNORM: return "rmsnorm";
    case TD_OP_LINEAR: return "linear";
    case TD_OP_ROPE: return "rope";
    case TD_OP_KV_PUT: return "kv_put";
    case TD_OP_KEEP: return "keep";
    case TD_OP_ATTEND: return "attend";
    case TD_OP_ROUTE: return "route";
    case TD_OP_EXPERTS_GLU: return "experts_glu";
    case TD_OP_EXPERTS_SUM: return "experts_sum";
    case TD_OP_ADD: return "add";
    case TD_N_OPS: break;
    }
    return "?";
}

void td_rec_begin(struct td_recorder *r, const struct td_spec *spec)
{
    *r = (struct td_recorder){.spec = spec, .layer = TD_NO_LAYER};
}

void td_program_free(struct td_program *program)
{
    free(program->ops);
    free(program->slots);
    *program = (struct td_program){0};
}

int td_rec_end(struct td_recorder *r, td_slot logits, struct td_program *out, struct td_error *err)
{
    r->program.logits = logits;
    *out = r->program;
    r->program = (struct td_program){0};
    if (!r->no_memory) return TD_OK;
    td_program_free(out);
    return td_fail(err, TD_ENOMEM, "no memory for the program of a model");
}

// Room for one more element of size_bytes in *array; doubles. false: no memory.
static bool grow(void **array, uint32_t n, uint32_t *cap, size_t size_bytes)
{
    if (n < *cap) return true;
    const uint32_t new_cap = *cap ? *cap * 2 : 64;
    void *p = realloc(*array, new_cap * size_bytes);
    if (!p) return false;
    *array = p;
    *cap = new_cap;
    return true;
}

static td_slot add_slot(struct td_recorder *r, const char *name, uint32_t width, bool is_ids)
{
    struct td_program *p = &r->program;
    void *slots = p->slots;
    if (!grow(&slots, p->n_slots, &r->cap_slots, sizeof(*p->slots))) {
        r->no_memory = true;
        return 0;
    }
    p->slots = slots;
    struct td_slot_info *s = &p->slots[p->n_slots];
    *s = (struct td_slot_info){.width = width, .is_ids = is_ids};
    snprintf(s->name, sizeof(s->name), "%s", name);
    return (td_slot)p->n_slots++;
}

td_slot td_rec_slot(struct td_recorder *r, const char *name, uint32_t width)
{
    return add_slot(r, name, width, false);
}

td_slot td_rec_slot_ids(struct td_recorder *r, const char *name, uint32_t width)
{
    return add_slot(r, name, width, true);
}

static struct td_op blank(const struct td_recorder *r, enum td_op_kind kind)
{
    return (struct td_op){
        .kind = kind,
        .layer = r->layer,
        .out = TD_NO_SLOT,
        .out_ids = TD_NO_SLOT,
        .in = TD_NO_SLOT,
        .in2 = TD_NO_SLOT,
        .in_ids = TD_NO_SLOT,
        .w = TD_NO_WEIGHT,
        .bias = TD_NO_WEIGHT,
        .w2 = TD_NO_WEIGHT,
        .bias2 = TD_NO_WEIGHT,
    };
}

static void add_op(struct td_recorder *r, const struct td_op *op)
{
    struct td_program *p = &r->program;
    void *ops = p->ops;
    if (!grow(&ops, p->n_ops, &r->cap_ops, sizeof(*p->ops))) {
        r->no_memory = true;
        return;
    }
    p->ops = ops;
    p->ops[p->n_ops++] = *op;
}

void td_rec_embed(struct td_recorder *r, td_slot out, td_weight w)
{
    struct td_op op = blank(r, TD_OP_EMBED);
    op.out = out;
    op.w = w;
    add_op(r, &op);
}

void td_rec_rmsnorm(struct td_recorder *r, td_slot out, td_slot in, td_weight w)
{
    struct td_op op = blank(r, TD_OP_RMSNORM);
    op.out = out;
    op.in = in;
    op.w = w;
    op.eps = r->spec->rms_eps;
    add_op(r, &op);
}

void td_rec_linear(struct td_recorder *r, td_slot out, td_slot in, td_weight w, td_weight bias)
{
    struct td_op op = blank(r, TD_OP_LINEAR);
    op.out = out;
    op.in = in;
    op.w = w;
    op.bias = bias;
    add_op(r, &op);
}

void td_rec_rope(struct td_recorder *r, td_slot heads, uint32_t n_heads)
{
    struct td_op op = blank(r, TD_OP_ROPE);
    op.out = heads;
    op.n_heads = n_heads;
    op.head_dim = r->spec->head_dim;
    add_op(r, &op);
}

void td_rec_kv_put(struct td_recorder *r, td_slot k, td_slot v)
{
    assert(r->layer < r->spec->n_layers);
    struct td_op op = blank(r, TD_OP_KV_PUT);
    op.in = k;
    op.in2 = v;
    op.n_kv_heads = r->spec->kv[r->layer].n_kv_heads;
    op.head_dim = r->spec->kv[r->layer].head_dim;
    add_op(r, &op);
}

void td_rec_keep(struct td_recorder *r, td_slot a, td_slot b)
{
    struct td_op op = blank(r, TD_OP_KEEP);
    op.out = a;
    op.in = b;
    r->program.i_keep = r->program.n_ops;
    add_op(r, &op);
}

void td_rec_attend(struct td_recorder *r, td_slot out, td_slot q, td_weight sinks)
{
    assert(r->layer < r->spec->n_layers);
    const struct td_kv_layer *kv = &r->spec->kv[r->layer];
    struct td_op op = blank(r, TD_OP_ATTEND);
    op.out = out;
    op.in = q;
    op.w = sinks;
    op.n_heads = r->spec->n_heads;
    op.n_kv_heads = kv->n_kv_heads;
    op.head_dim = kv->head_dim;
    op.window = kv->window;
    op.scale = (float)(1.0 / sqrt((double)kv->head_dim));
    add_op(r, &op);
}

void td_rec_route(struct td_recorder *r, td_slot ids, td_slot gates, td_slot logits)
{
    struct td_op op = blank(r, TD_OP_ROUTE);
    op.out = gates;
    op.out_ids = ids;
    op.in = logits;
    op.k = r->spec->n_experts_used;
    add_op(r, &op);
}

void td_rec_experts_glu(struct td_recorder *r, td_slot out, td_slot ids, td_slot in,
                        const td_weight gate[2], const td_weight up[2])
{
    struct td_op op = blank(r, TD_OP_EXPERTS_GLU);
    op.out = out;
    op.in = in;
    op.in_ids = ids;
    op.w = gate[0];
    op.bias = gate[1];
    op.w2 = up[0];
    op.bias2 = up[1];
    op.k = r->spec->n_experts_used;
    op.alpha = r->spec->swiglu_alpha;
    op.limit = r->spec->swiglu_limit;
    add_op(r, &op);
}

void td_rec_experts_sum(struct td_recorder *r, td_slot out, td_slot ids, td_slot gates, td_slot in,
                        const td_weight down[2])
{
    struct td_op op = blank(r, TD_OP_EXPERTS_SUM);
    op.out = out;
    op.in = in;
    op.in2 = gates;
    op.in_ids = ids;
    op.w = down[0];
    op.bias = down[1];
    op.k = r->spec->n_experts_used;
    add_op(r, &op);
}

void td_rec_add(struct td_recorder *r, td_slot out, td_slot in)
{
    struct td_op op = blank(r, TD_OP_ADD);
    op.out = out;
    op.in = in;
    add_op(r, &op);
}
