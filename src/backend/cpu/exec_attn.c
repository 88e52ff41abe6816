// SPDX-License-Identifier: MIT
// The steps that touch the KV cache: writing K and V of a row, and attention. An item of attention
// is one KV head and one tile of rows of one sequence, so that a block of K and V is converted once
// for the tile.
//
// Decode has one row, so as many items as KV heads; with more threads than that the others idle.
// Eight heads at 10 GB/s each outrun the memory of the machines this is for, so it stays simple.
#include "backend/cpu/cpu_impl.h"
#include "base/num.h"

#include <assert.h>
#include <math.h>
#include <string.h>

uint32_t td_cpu_tiles(struct td_row_tile *out, const struct td_row *rows, uint32_t n_rows)
{
    uint32_t n = 0;
    for (uint32_t r = 0; r < n_rows; r++) {
        struct td_row_tile *last = &out[n ? n - 1 : 0];
        if (n > 0 && last->n < TD_ATTN_ROWS && rows[r].i_part == rows[last->begin].i_part)
            last->n++;
        else
            out[n++] = (struct td_row_tile){.begin = r, .n = 1};
    }
    return n;
}

void td_cpu_kv_put(struct td_device *dev, const struct td_op *op, const struct td_row *row,
                   uint32_t r, struct td_scratch *scratch)
{
    const struct td_kv *kv = dev->batch->parts[row->i_part].kv;
    const uint32_t t = row->pos % TD_ATTN_BLOCK;
    const uint32_t d = op->head_dim;
    uint16_t *halves = scratch->attn_panel;
    for (uint32_t h = 0; h < op->n_kv_heads; h++) {
        const float *k = td_cpu_row(dev, op->in, r) + (size_t)h * d;
        const float *v = td_cpu_row(dev, op->in2, r) + (size_t)h * d;
        uint8_t *block = td_kv_block(dev, kv, op->layer, row->pos / TD_ATTN_BLOCK, h);
        if (dev->cfg.kv_f32) {
            td_kv_store(block, t, k, v, d, dev->kv_elem_bytes);
        } else {
            dev->k.f16_of_f32(halves, k, d);
            dev->k.f16_of_f32(halves + d, v, d);
            td_kv_store(block, t, halves, halves + d, d, dev->kv_elem_bytes);
        }
    }
}

// One tile of one KV head.
struct job {
    struct td_device *dev;
    const struct td_op *op;
    const struct td_row *rows; // (n)
    uint32_t row0, n;          // the tile, as slots know it
    uint32_t head;
    const struct td_kv *kv;
    struct td_scratch *scratch;
};

static uint8_t *block_of(const struct job *j, uint32_t i_block)
{
    return td_kv_block(j->dev, j->kv, j->op->layer, i_block, j->head);
}

// ---- attention --------------------------------------------------------------------------------

static uint32_t first_seen(const struct td_op *op, uint32_t pos)
{
    return op->window == 0 || pos < op->window ? 0 : pos - op->window + 1;
}

// What of a block the queries of each row see.
static void set_limits(const struct job *j, uint32_t group, uint32_t i_block)
{
    const uint32_t pos0 = i_block * TD_ATTN_BLOCK;
    struct td_attn_limits *out = j->scratch->attn_limits;
    for (uint32_t r = 0; r < j->n; r++) {
        const uint32_t begin = first_seen(j->op, j->rows[r].pos);
        const uint32_t end = j->rows[r].pos + 1;
        const uint32_t last = end <= pos0 ? 0 : td_min_u32(TD_ATTN_BLOCK, end - pos0);
        const uint32_t first = td_min_u32(last, begin <= pos0 ? 0 : begin - pos0);
        for (uint32_t g = 0; g < group; g++) *out++ = (struct td_attn_limits){first, last};
    }
}

static void start(const struct job *j, uint32_t group)
{
    struct td_scratch *t = j->scratch;
    const size_t width = (size_t)group * j->op->head_dim;
    const uint32_t n = j->n * group;
    for (uint32_t r = 0; r < j->n; r++)
        j->dev->k.scale(t->attn_q + r * width,
                        td_cpu_row(j->dev, j->op->in, j->row0 + r) + j->head * width, j->op->scale,
                        (uint32_t)width);
    memset(t->attn_acc, 0, j->n * width * sizeof(float));
    for (uint32_t i = 0; i < n; i++) {
        t->attn_m[i] = -INFINITY;
        t->attn_l[i] = 0.0f;
    }
}

static void finish(const struct job *j, uint32_t group)
{
    const struct td_scratch *t = j->scratch;
    const struct td_op *op = j->op;
    const float *sinks =
        op->w == TD_NO_WEIGHT ? NULL : j->dev->vectors[op->w] + (size_t)j->head * group;
    for (uint32_t i = 0; i < j->n * group; i++) {
        const uint32_t r = j->row0 + i / group;
        const uint32_t g = i % group;
        // The sink is one more score whose value is nothing: it only takes its share of the sum.
        const float top = sinks && sinks[g] > t->attn_m[i] ? sinks[g] : t->attn_m[i];
        const float c = td_expf(t->attn_m[i] - top);
        const float sum = t->attn_l[i] * c + (sinks ? td_expf(sinks[g] - top) : 0.0f);
        float *out = td_cpu_row(j->dev, op->out, r) + ((size_t)j->head * group + g) * op->head_dim;
        j->dev->k.scale(out, t->attn_acc + (size_t)i * op->head_dim, c / sum, op->head_dim);
    }
}

static void do_attend(const struct job *j)
{
    const struct td_op *op = j->op;
    struct td_scratch *t = j->scratch;
    const uint32_t group = op->n_heads / op->n_kv_heads;
    start(j, group);
    const struct td_attn a = {.n = j->n * group,
                              .limits = t->attn_limits,
                              .q = t->attn_q,
                              .acc = t->attn_acc,
                              .m = t->attn_m,
                              .l = t->attn_l};
    td_attend_fn *attend = j->dev->cfg.kv_f32 ? j->dev->k.attend_f32 : j->dev->k.attend_f16;
    // Positions ascend along the tile: its first row sees farthest back, its last farthest on.
    const uint32_t end = j->rows[j->n - 1].pos / TD_ATTN_BLOCK + 1;
    for (uint32_t b = first_seen(op, j->rows[0].pos) / TD_ATTN_BLOCK; b < end; b++) {
        set_limits(j, group, b);
        attend(&a, block_of(j, b), b + 1 < end ? block_of(j, b + 1) : NULL, op->head_dim,
               t->attn_panel);
    }
    finish(j, group);
}

uint32_t td_cpu_attn_items(const struct td_device *dev, const struct td_step *s)
{
    return (s->is_kept ? dev->n_kept_tiles : dev->n_tiles) * s->op->n_kv_heads;
}

void td_cpu_attn_item(struct td_device *dev, const struct td_step *s, uint32_t i,
                      struct td_scratch *scratch)
{
    const struct td_row *rows = s->is_kept ? dev->kept : dev->rows;
    const uint32_t n_tiles = s->is_kept ? dev->n_kept_tiles : dev->n_tiles;
    // Head by head, so that its pages stay in cache, and from the last tile, which sees most, so
    // that what is left at the end is short.
    const struct td_row_tile *tile =
        (s->is_kept ? dev->kept_tiles : dev->tiles) + (n_tiles - 1 - i % n_tiles);
    const struct job j = {
        .dev = dev,
        .op = s->op,
        .rows = rows + tile->begin,
        .row0 = tile->begin,
        .n = tile->n,
        .head = i / n_tiles,
        .kv = dev->batch->parts[rows[tile->begin].i_part].kv,
        .scratch = scratch,
    };
    do_attend(&j);
}
