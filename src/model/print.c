// SPDX-License-Identifier: MIT
// A program as text for people and for golden tests: one op per line.
#include "model/model.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>

// Text that grows in a fixed buffer and is cut at its end.
struct line {
    char *at;
    size_t n, size_bytes;
};

static void put(struct line *l, const char *fmt, ...) TD_PRINTF(2, 3);
static void put(struct line *l, const char *fmt, ...)
{
    if (l->n + 1 >= l->size_bytes) return;
    va_list args;
    va_start(args, fmt);
    const int k = vsnprintf(l->at + l->n, l->size_bytes - l->n, fmt, args);
    va_end(args);
    if (k <= 0) return;
    l->n += (size_t)k;
    if (l->n > l->size_bytes - 1) l->n = l->size_bytes - 1;
}

static void put_slot(struct line *l, const struct td_model *m, td_slot s)
{
    if (s == TD_NO_SLOT) return;
    put(l, " %s[%u]", m->program.slots[s].name, m->program.slots[s].width);
}

static void put_weight(struct line *l, const struct td_model *m, td_weight i)
{
    if (i == TD_NO_WEIGHT) return;
    const struct td_weight_info *w = &m->weights[i];
    put(l, " %s %s (", w->name, td_type_info(w->type)->name);
    for (uint32_t k = 0; k < w->n_dims; k++) put(l, "%s%u", k ? ", " : "", w->dim[k]);
    put(l, ")");
}

static void put_numbers(struct line *l, const struct td_op *op)
{
    switch (op->kind) {
    case TD_OP_RMSNORM: put(l, ", eps %g", (double)op->eps); break;
    case TD_OP_ROPE: put(l, ", heads %u x %u", op->n_heads, op->head_dim); break;
    case TD_OP_KV_PUT: put(l, ", kv heads %u x %u", op->n_kv_heads, op->head_dim); break;
    case TD_OP_ATTEND:
        put(l, ", heads %u/%u x %u, window %u, scale %g", op->n_heads, op->n_kv_heads, op->head_dim,
            op->window, (double)op->scale);
        break;
    case TD_OP_ROUTE:
    case TD_OP_EXPERTS_SUM: put(l, ", top %u", op->k); break;
    case TD_OP_EXPERTS_GLU:
        put(l, ", top %u, alpha %g, limit %g", op->k, (double)op->alpha, (double)op->limit);
        break;
    case TD_OP_EMBED:
    case TD_OP_LINEAR:
    case TD_OP_KEEP:
    case TD_OP_ADD:
    case TD_N_OPS: break;
    }
}

size_t td_op_text(const struct td_model *m, uint32_t i_op, char *out, size_t size_bytes)
{
    assert(i_op < m->program.n_ops && size_bytes > 0);
    const struct td_op *op = &m->program.ops[i_op];
    struct line l = {.at = out, .size_bytes = size_bytes};
    out[0] = '\0';
    if (op->layer == TD_NO_LAYER)
        put(&l, "-    ");
    else
        put(&l, "L%-4u", op->layer);
    put(&l, "%-11s", td_op_name(op->kind));
    put_slot(&l, m, op->out_ids);
    put_slot(&l, m, op->out);
    if (op->kind != TD_OP_KV_PUT && op->kind != TD_OP_ROPE) put(&l, " <-");
    put_slot(&l, m, op->in);
    put_slot(&l, m, op->in2);
    put_slot(&l, m, op->in_ids);
    put_weight(&l, m, op->w);
    put_weight(&l, m, op->bias);
    put_weight(&l, m, op->w2);
    put_weight(&l, m, op->bias2);
    put_numbers(&l, op);
    return l.n;
}

int td_program_print(const struct td_model *m, FILE *out)
{
    const struct td_program *p = &m->program;
    fprintf(out, "program of %s: %u layers, %u ops, %u weights\nslots, elements per row:\n",
            m->spec.name, m->spec.n_layers, p->n_ops, m->n_weights);
    for (uint32_t i = 0; i < p->n_slots; i++)
        fprintf(out, "  %-8s %s %u\n", p->slots[i].name, p->slots[i].is_ids ? "i32" : "f32",
                p->slots[i].width);
    for (uint32_t i = 0; i < p->n_ops; i++) {
        char text[512];
        td_op_text(m, i, text, sizeof(text));
        fprintf(out, "%4u  %s\n", i, text);
    }
    return ferror(out) ? TD_EIO : TD_OK;
}
