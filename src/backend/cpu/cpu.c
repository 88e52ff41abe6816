// SPDX-License-Identifier: MIT
// The CPU as a device: memory for activations, the thread team, and runs of the program over a
// batch. Weights stay where the model has them (in the mapped file); nothing is repacked or copied.
#include "backend/cpu/cpu_impl.h"
#include "backend/cpu/kv.h"
#include "base/os.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

static void cpu_close(struct td_device *dev)
{
    if (!dev) return;
    td_team_close(dev->team);
    td_kv_pool_free(&dev->pool);
    td_os_release(dev->arena, dev->arena_bytes);
    free(dev->steps);
    free(dev->phases);
    free((void *)dev->vectors);
    free(dev->vectors_owned);
    free(dev->slots);
    free((void *)dev->quantized[0]);
    free(dev->scratch);
    free(dev->clocks);
    free(dev->done_ns);
    free(dev);
}

// Deals out the arena. With bytes NULL it only counts, so that one list serves both passes.
struct dealer {
    uint8_t *bytes;
    size_t at;
};

static void *deal(struct dealer *d, size_t size_bytes)
{
    void *p = d->bytes ? d->bytes + d->at : NULL;
    d->at += (size_bytes + 63) / 64 * 64;
    return p;
}

// The step that makes a slot's copy in a format, the same shape each time; NULL when nothing does.
static const struct td_step *first_quantize(const struct td_device *dev, td_slot slot,
                                            enum td_act act)
{
    for (uint32_t i = 0; i < dev->n_steps; i++) {
        const struct td_step *s = &dev->steps[i];
        if (s->kind == TD_STEP_QUANTIZE && s->slot == slot && s->act == act) return s;
        if (s->kind == TD_STEP_EXPERTS_GLU && s->slot == slot && s->out_act == act) return s;
    }
    return NULL;
}

// Whether a slot exists in quantised form only.
static bool is_never_f32(const struct td_device *dev, td_slot slot)
{
    for (uint32_t i = 0; i < dev->n_steps; i++) {
        const struct td_step *s = &dev->steps[i];
        if (s->kind == TD_STEP_EXPERTS_GLU && s->slot == slot && s->out_act != TD_ACT_F32)
            return true;
    }
    return false;
}

// What attention needs at most in any layer: query heads of a KV head, and their elements.
static void attn_sizes(const struct td_program *p, size_t *group_out, uint32_t *head_dim_out)
{
    *group_out = *head_dim_out = 0;
    for (uint32_t i = 0; i < p->n_ops; i++) {
        const struct td_op *op = &p->ops[i];
        if (op->kind != TD_OP_ATTEND) continue;
        const size_t group = op->n_heads / op->n_kv_heads;
        if (group > *group_out) *group_out = group;
        if (op->head_dim > *head_dim_out) *head_dim_out = op->head_dim;
    }
}

static void deal_attention(struct td_device *dev, struct dealer *d)
{
    size_t n;
    uint32_t head_dim;
    attn_sizes(&dev->model->program, &n, &head_dim);
    n *= TD_ATTN_ROWS;
    for (uint32_t i = 0; i < dev->cfg.n_threads; i++) {
        struct td_scratch *t = &dev->scratch[i];
        t->attn_panel = deal(d, td_attn_scratch_bytes(head_dim));
        t->attn_q = deal(d, n * head_dim * sizeof(float));
        t->attn_acc = deal(d, n * head_dim * sizeof(float));
        t->attn_m = deal(d, n * sizeof(float));
        t->attn_l = deal(d, n * sizeof(float));
        t->attn_limits = deal(d, n * sizeof(*t->attn_limits));
    }
}

static void deal_all(struct td_device *dev, struct dealer *d)
{
    const struct td_spec *spec = &dev->model->spec;
    const struct td_program *p = &dev->model->program;
    const size_t n_rows = dev->cfg.max_rows;
    for (uint32_t i = 0; i < p->n_slots; i++) {
        if (i == p->logits || is_never_f32(dev, (td_slot)i)) continue;
        dev->slots[i] = deal(d, n_rows * p->slots[i].width * sizeof(float));
    }
    for (int act = TD_ACT_Q8; act < TD_N_ACTS; act++) {
        for (uint32_t i = 0; i < p->n_slots; i++) {
            const struct td_step *s = first_quantize(dev, (td_slot)i, (enum td_act)act);
            if (!s) continue;
            const size_t bytes = td_cpu_act_bytes((enum td_act)act, td_cpu_vector_width(dev, s));
            dev->quantized[act][i] = deal(d, n_rows * s->n_vectors * bytes);
        }
    }
    dev->angles = deal(d, n_rows * spec->rope.n_dims * sizeof(float));
    dev->down = deal(d, n_rows * dev->top_k * spec->n_embd * sizeof(float));
    dev->rows = deal(d, n_rows * sizeof(*dev->rows));
    dev->kept = deal(d, n_rows * sizeof(*dev->kept));
    dev->kept_from = deal(d, n_rows * sizeof(*dev->kept_from));
    dev->active = deal(d, spec->n_experts * sizeof(*dev->active));
    dev->expert_begin = deal(d, (spec->n_experts + (size_t)1) * sizeof(*dev->expert_begin));
    dev->picks = deal(d, n_rows * dev->top_k * sizeof(*dev->picks));
    dev->tiles = deal(d, n_rows * sizeof(*dev->tiles));
    dev->kept_tiles = deal(d, n_rows * sizeof(*dev->kept_tiles));
    deal_attention(dev, d);
    const size_t n_pointers = n_rows > TD_TILE_ROWS ? n_rows : TD_TILE_ROWS;
    for (uint32_t i = 0; i < dev->cfg.n_threads; i++) {
        struct td_scratch *t = &dev->scratch[i];
        t->mm = deal(d, TD_MM_SCRATCH_BYTES);
        t->tile = deal(d, (size_t)2 * TD_TILE_ROWS * TD_TILE_OUT * sizeof(float));
        t->x = deal(d, n_pointers * sizeof(*t->x));
        t->y = deal(d, n_pointers * sizeof(*t->y));
    }
}

static int make_arena(struct td_device *dev, struct td_error *err)
{
    const uint32_t n_slots = dev->model->program.n_slots;
    dev->slots = calloc(n_slots, sizeof(*dev->slots));
    uint8_t **quantized = calloc((size_t)n_slots * TD_N_ACTS, sizeof(*quantized));
    for (int act = 0; quantized && act < TD_N_ACTS; act++)
        dev->quantized[act] = quantized + (size_t)act * n_slots;
    dev->scratch = calloc(dev->cfg.n_threads, sizeof(*dev->scratch));
    if (!dev->slots || !quantized || !dev->scratch)
        return td_fail(err, TD_ENOMEM, "no memory for %u activation slots", n_slots);
    struct dealer count = {0};
    deal_all(dev, &count);
    dev->arena = td_os_reserve(count.at);
    if (!dev->arena)
        return td_fail(err, TD_ENOMEM,
                       "no memory for activations of %u rows (%zu MiB): try a smaller chunk",
                       dev->cfg.max_rows, count.at >> 20);
    dev->arena_bytes = count.at;
    struct dealer d = {.bytes = dev->arena};
    deal_all(dev, &d);
    assert(d.at == count.at);
    return TD_OK;
}

static int cpu_load(struct td_device **out, const struct td_model *model,
                    const struct td_device_config *cfg, struct td_error *err)
{
    *out = NULL;
    if (cfg->max_rows == 0 || cfg->max_rows > 65536)
        return td_fail(err, TD_EARG, "a chunk of %u tokens: between 1 and 65536 are possible",
                       cfg->max_rows);
    struct td_device *dev = calloc(1, sizeof(*dev));
    if (!dev) return td_fail(err, TD_ENOMEM, "no memory for a device");
    dev->model = model;
    dev->cfg = *cfg;
    dev->kv_elem_bytes = cfg->kv_f32 ? 4 : 2;
    td_kernels_get(&dev->k, cfg->isa < 0 ? td_isa_native() : (enum td_isa)cfg->isa);
    int code = td_cpu_lower(dev, err);
    if (code == TD_OK) code = make_arena(dev, err);
    if (code == TD_OK)
        code = td_kv_pool_init(&dev->pool, &model->spec, cfg->kv_f32, cfg->max_kv_bytes, err);
    if (code == TD_OK) code = td_team_open(&dev->team, cfg->n_threads, err);
    if (code != TD_OK) {
        cpu_close(dev);
        return code;
    }
    *out = dev;
    return TD_OK;
}

// Checks a batch and lays out its rows; *n_kept_out rows of them want logits.
static int set_rows(struct td_device *dev, const struct td_batch *batch, struct td_error *err)
{
    const uint32_t n_vocab = dev->model->spec.n_vocab;
    uint32_t n = 0, n_kept = 0;
    for (uint32_t i = 0; i < batch->n_parts; i++) {
        const struct td_batch_part *part = &batch->parts[i];
        if (part->n_rows == 0 || part->n_rows > dev->cfg.max_rows - n ||
            part->n_want > part->n_rows)
            return td_fail(err, TD_EARG, "a batch of more than %u rows", dev->cfg.max_rows);
        for (uint32_t r = 0; r < part->n_rows; r++) {
            const int32_t token = part->tokens[r];
            if (token < 0 || (uint32_t)token >= n_vocab)
                return td_fail(err, TD_EARG, "token %d is not in the vocabulary of %u", token,
                               n_vocab);
            dev->rows[n] = (struct td_row){.pos = part->kv->len + r, .i_part = i, .token = token};
            if (r >= part->n_rows - part->n_want) {
                dev->kept[n_kept] = dev->rows[n];
                dev->kept_from[n_kept++] = n;
            }
            n++;
        }
    }
    if (n_kept > dev->cfg.max_logits_rows)
        return td_fail(err, TD_EARG, "%u rows want logits, at most %u may", n_kept,
                       dev->cfg.max_logits_rows);
    dev->n_rows = n;
    dev->n_kept = n_kept;
    dev->n_tiles = td_cpu_tiles(dev->tiles, dev->rows, n);
    dev->n_kept_tiles = td_cpu_tiles(dev->kept_tiles, dev->kept, n_kept);
    return TD_OK;
}

static int cpu_run(struct td_device *dev, const struct td_batch *batch,
                   const struct td_watch *watch, float *logits, struct td_error *err)
{
    int code = set_rows(dev, batch, err);
    if (code != TD_OK) return code;
    if (dev->n_rows == 0) return TD_OK;
    assert(logits || dev->n_kept == 0);
    uint32_t n_prepared = 0;
    while (n_prepared < batch->n_parts && code == TD_OK) {
        code = td_kv_prepare(batch->parts[n_prepared].kv, batch->parts[n_prepared].n_rows, err);
        if (code == TD_OK) n_prepared++;
    }
    if (code == TD_OK) {
        dev->batch = batch;
        dev->watch = watch;
        dev->logits = logits;
        if (!td_cpu_execute(dev)) code = td_fail(err, TD_ECANCEL, "cancelled");
    }
    for (uint32_t i = 0; i < n_prepared; i++) {
        if (code == TD_OK)
            td_kv_advance(batch->parts[i].kv, batch->parts[i].n_rows);
        else
            td_kv_abandon(batch->parts[i].kv);
    }
    return code;
}

static void cpu_report(struct td_device *dev, struct td_device_report *out)
{
    *out = (struct td_device_report){
        .isa = dev->k.isa,
        .scratch_bytes = dev->arena_bytes,
        .kv_bytes = (uint64_t)td_kv_pool_used(&dev->pool) * dev->pool.page_bytes,
        .kv_page_bytes = dev->pool.page_bytes,
        .kv_page_tokens = TD_ATTN_BLOCK,
    };
    snprintf(out->text, sizeof(out->text), "cpu, %s kernels, %u threads, KV in %s, %s precision",
             dev->k.isa, dev->cfg.n_threads, dev->cfg.kv_f32 ? "f32" : "f16",
             td_precision_name(dev->cfg.precision));
}

const struct td_backend *td_backend_cpu(void)
{
    static const struct td_backend cpu = {
        .name = "cpu",
        .load = cpu_load,
        .close = cpu_close,
        .kv_open = td_cpu_kv_open,
        .kv_close = td_cpu_kv_close,
        .kv_len = td_cpu_kv_len,
        .kv_holds = td_cpu_kv_holds,
        .kv_share = td_cpu_kv_share,
        .kv_trim = td_cpu_kv_trim,
        .kv_alone = td_cpu_kv_alone,
        .kv_pin = td_cpu_kv_pin,
        .kv_unpin = td_cpu_kv_unpin,
        .kv_read = td_cpu_kv_read,
        .kv_reserve = td_cpu_kv_reserve,
        .kv_write = td_cpu_kv_write,
        .kv_commit = td_cpu_kv_commit,
        .run = cpu_run,
        .report = cpu_report,
        .time_steps = td_cpu_time_steps,
        .step_times = td_cpu_step_times,
    };
    return &cpu;
}
