// SPDX-License-Identifier: MIT
// The step: one batch over every session that wants rows, one run of the program. Scheduling lives
// here; what a session is and wants lives in session.c.
#include "engine/engine_impl.h"

#include "base/num.h"
#include "base/os.h"

#include <stdlib.h>
#include <string.h>

// Pages that a snapshot alone would hold: window layers, for what one token sees.
static uint64_t one_snapshot_bytes(const struct td_engine *e)
{
    struct td_device_report report;
    e->backend->report(e->dev, &report);
    uint64_t bytes = 0;
    for (uint32_t il = 0; il < e->model->spec.n_layers; il++) {
        const uint32_t window = e->model->spec.kv[il].window;
        if (window == 0) continue;
        // window - 1 positions that begin with the last one of a page lie on the most pages.
        const uint64_t n_beyond = window > 2 ? window - 2 : 0;
        const uint64_t n_pages = 1 + (n_beyond + report.kv_page_tokens - 1) / report.kv_page_tokens;
        bytes += n_pages * report.kv_page_bytes;
    }
    return bytes;
}

int td_engine_open(struct td_engine **out, const struct td_model *model,
                   const struct td_backend *backend, const struct td_engine_config *cfg,
                   struct td_error *err)
{
    *out = NULL;
    struct td_engine *e = calloc(1, sizeof(*e));
    if (!e) return td_fail(err, TD_ENOMEM, "no memory for an engine");
    e->model = model;
    e->backend = backend;
    e->cfg = *cfg;
    if (e->cfg.max_snapshot_bytes == 0) e->cfg.max_snapshot_bytes = (uint64_t)64 << 20;
    if (e->cfg.device.max_logits_rows == 0) e->cfg.device.max_logits_rows = 1;
    int code = backend->load(&e->dev, model, &e->cfg.device, err);
    if (code != TD_OK) {
        free(e);
        return code;
    }
    const size_t max_rows = e->cfg.device.max_rows;
    e->parts = calloc(max_rows, sizeof(*e->parts));
    e->part_of = calloc(max_rows, sizeof(struct td_session *));
    e->logits_bytes = (size_t)e->cfg.device.max_logits_rows * model->spec.n_vocab * sizeof(float);
    e->logits = td_os_reserve(e->logits_bytes);
    if (!e->parts || !e->part_of || !e->logits) {
        const int failure = td_fail(err, TD_ENOMEM, "no memory for the logits of %u rows",
                                    e->cfg.device.max_logits_rows);
        td_engine_close(e);
        return failure;
    }
    e->max_prompt_rows = UINT32_MAX;
    e->snapshot_bytes = one_snapshot_bytes(e);
    e->watch.cancel = &e->is_cancelled;
    *out = e;
    return TD_OK;
}

void td_engine_close(struct td_engine *e)
{
    if (!e) return;
    while (td_cache_evict_one(e)) {
    }
    free((void *)e->cache.kvs);
    e->backend->close(e->dev);
    td_os_release(e->logits, e->logits_bytes);
    free(e->parts);
    free((void *)e->part_of);
    free(e);
}

const struct td_model *td_engine_model(const struct td_engine *e)
{
    return e->model;
}

const struct td_backend *td_engine_backend(const struct td_engine *e)
{
    return e->backend;
}

const struct td_device_config *td_engine_device_config(const struct td_engine *e)
{
    return &e->cfg.device;
}

uint64_t td_engine_kv_need(const struct td_engine *e, uint32_t n)
{
    struct td_device_report report;
    e->backend->report(e->dev, &report);
    const uint32_t page = report.kv_page_tokens;
    const uint64_t n_all = (uint64_t)n / page + 2; // one is copied where another owner goes on
    uint64_t n_pages = 0;
    for (uint32_t il = 0; il < e->model->spec.n_layers; il++) {
        const uint64_t window = e->model->spec.kv[il].window;
        const uint64_t n_seen = (window + e->cfg.device.max_rows) / page + 3;
        n_pages += window > 0 && n_seen < n_all ? n_seen : n_all;
    }
    return n_pages * report.kv_page_bytes;
}

void td_engine_limit_rows(struct td_engine *e, uint32_t n_rows)
{
    e->max_prompt_rows = n_rows ? n_rows : UINT32_MAX;
}

void td_engine_report(const struct td_engine *e, struct td_device_report *out)
{
    e->backend->report(e->dev, out);
}

int td_engine_time_steps(struct td_engine *e, bool on, struct td_error *err)
{
    return e->backend->time_steps(e->dev, on, err);
}

uint32_t td_engine_step_times(const struct td_engine *e, struct td_step_time *out)
{
    return e->backend->step_times(e->dev, out);
}

static uint32_t pending(const struct td_session *s)
{
    return s->state == TD_SESSION_PREFILLING ? s->n - s->engine->backend->kv_len(s->kv) : 0;
}

// A batch under construction.
struct plan {
    uint32_t n_parts, n_rows, n_logits;
};

// Adds as many of the session's pending rows as fit into a batch of max_rows.
static void add(struct td_engine *e, struct plan *p, struct td_session *s, uint32_t max_rows)
{
    const uint32_t rows_left = max_rows - p->n_rows;
    const uint32_t logits_left = e->cfg.device.max_logits_rows - p->n_logits;
    const uint32_t n_pending = pending(s);
    uint32_t n = n_pending < rows_left ? n_pending : rows_left;
    if (s->rows_fn && n > logits_left) n = logits_left;
    // The row that ends the timeline wants logits; without room for them it waits for the next
    // step.
    if (!s->rows_fn && n == n_pending && n > 0 && logits_left == 0) n--;
    if (n == 0) return;
    const uint32_t n_want = s->rows_fn ? n : n == n_pending;
    e->part_of[p->n_parts] = s;
    e->parts[p->n_parts++] = (struct td_batch_part){.kv = s->kv,
                                                    .tokens = s->tokens + e->backend->kv_len(s->kv),
                                                    .n_rows = n,
                                                    .n_want = n_want};
    p->n_rows += n;
    p->n_logits += n_want;
}

// Adds sessions with one pending row, or those with more, beginning after the one served last.
static void add_round(struct td_engine *e, struct plan *p, bool is_single,
                      struct td_session **after)
{
    const uint32_t rows_left = e->cfg.device.max_rows - p->n_rows;
    const uint32_t max_rows =
        p->n_rows + (is_single ? rows_left : td_min_u32(rows_left, e->max_prompt_rows));
    struct td_session *s = *after ? *after : e->sessions;
    for (uint32_t i = 0; s && i < e->n_sessions && p->n_rows < max_rows; i++) {
        const uint32_t n_pending = pending(s);
        if (is_single ? n_pending == 1 : n_pending > 1) {
            const uint32_t n_before = p->n_parts;
            add(e, p, s, max_rows);
            if (p->n_parts > n_before) *after = s->next;
        }
        s = s->next ? s->next : e->sessions;
    }
}

// Single rows first, so that answers keep flowing while a long prompt is read; then prompts.
static struct plan form_batch(struct td_engine *e)
{
    struct plan p = {0};
    add_round(e, &p, true, &e->after_single);
    add_round(e, &p, false, &e->after);
    return p;
}

static void settle(struct td_engine *e, const struct td_batch_part *part, struct td_session *s,
                   uint32_t old_len, const float *logits)
{
    td_snapshots_take(s, old_len);
    if (e->backend->kv_len(s->kv) < s->n) return;
    if (part->n_want > 0)
        memcpy(s->logits, logits + (size_t)(part->n_want - 1) * e->model->spec.n_vocab,
               e->model->spec.n_vocab * sizeof(float));
    s->state = TD_SESSION_READY;
    s->n_marks = 0;
}

static bool take_cancelled(struct td_engine *e)
{
    bool any = false;
    for (struct td_session *s = e->sessions; s; s = s->next) {
        if (!atomic_exchange(&s->is_cancelled, false)) continue;
        any = true;
        td_session_stop(s);
    }
    return any;
}

// Makes room in the pool: what is kept goes first, then each session gives a snapshot.
static bool make_room(struct td_engine *e)
{
    bool any = td_cache_evict_one(e);
    if (any) return true;
    for (struct td_session *s = e->sessions; s; s = s->next)
        any |= td_snapshots_drop_one(e, &s->snapshots);
    return any;
}

int td_session_reserve(struct td_session *s, uint32_t n, struct td_error *err)
{
    for (;;) {
        const int code = s->engine->backend->kv_reserve(s->kv, n, err);
        s->is_lent = code == TD_OK;
        if (code != TD_ENOMEM || !make_room(s->engine)) return code;
    }
}

// Leaves the last part to a later step; false when it is the only one.
static bool drop_last_part(struct td_engine *e, struct plan *p)
{
    if (p->n_parts < 2) return false;
    const struct td_batch_part *part = &e->parts[--p->n_parts];
    p->n_rows -= part->n_rows;
    p->n_logits -= part->n_want;
    return true;
}

// Runs the batch. What is kept and snapshots give way when their pages are needed, then parts: who
// finds no memory must not stop the others.
static int run(struct td_engine *e, struct plan *p, struct td_error *err)
{
    for (;;) {
        const struct td_batch batch = {.parts = e->parts, .n_parts = p->n_parts};
        // A cancel between this line and the check belongs to a session and is found there; one
        // that stays behind in the engine's flag only costs one repetition.
        atomic_store(&e->is_cancelled, false);
        if (take_cancelled(e)) return td_fail(err, TD_ECANCEL, "cancelled");
        td_pace_begin(e, &batch);
        const int code = e->backend->run(e->dev, &batch, &e->watch, e->logits, err);
        if (code == TD_ENOMEM && (make_room(e) || drop_last_part(e, p))) continue;
        if (code == TD_ECANCEL && !take_cancelled(e)) continue;
        if (code == TD_OK) td_pace_end(e);
        return code;
    }
}

int td_engine_step(struct td_engine *e, uint32_t *n_rows_out, struct td_error *err)
{
    if (n_rows_out) *n_rows_out = 0;
    struct plan p = form_batch(e);
    if (p.n_parts == 0) return take_cancelled(e) ? td_fail(err, TD_ECANCEL, "cancelled") : TD_OK;
    int code = run(e, &p, err);
    if (code != TD_OK) return code;
    if (n_rows_out) *n_rows_out = p.n_rows;
    const float *logits = e->logits;
    for (uint32_t i = 0; i < p.n_parts; i++) {
        const struct td_batch_part *part = &e->parts[i];
        struct td_session *s = e->part_of[i];
        const uint32_t old_len = e->backend->kv_len(s->kv) - part->n_rows;
        settle(e, part, s, old_len, logits);
        if (s->rows_fn && code == TD_OK)
            code = s->rows_fn(s->rows_ctx, old_len, part->n_want, logits, err);
        logits += (size_t)part->n_want * e->model->spec.n_vocab;
    }
    return code;
}
