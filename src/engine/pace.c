// SPDX-License-Identifier: MIT
// Who hears that a layer is done, and how soon: an engine that is held to a pace sleeps on the
// compute leader before it passes the news on, so that KV appears layer by layer as it would on a
// slower machine.
#include "engine/engine_impl.h"

#include "base/clock.h"

#include <math.h>
#include <time.h>

#define SLICE_NS 10000000u // how late a cancel may be noticed

static void wait_until(const struct td_engine *e, uint64_t until_ns)
{
    for (;;) {
        const uint64_t now_ns = td_clock_ns();
        if (now_ns >= until_ns || atomic_load(&e->is_cancelled)) return;
        const uint64_t left_ns = until_ns - now_ns;
        const struct timespec slice = {.tv_nsec = (long)(left_ns < SLICE_NS ? left_ns : SLICE_NS)};
        (void)nanosleep(&slice, NULL);
    }
}

static void paced_layer_done(void *ctx, const struct td_kv_span *span)
{
    struct td_engine *e = ctx;
    // A prompt's layer is final when its share of the time has passed. What follows the last layer
    // belongs to single rows above all, so theirs is told when the layer would begin.
    const double n_layers = e->model->spec.n_layers;
    const double n_done = span->layer + (e->paced.has_prompt ? 1.0 : 0.0);
    wait_until(e, e->paced.begin_ns + (uint64_t)((double)e->paced.run_ns * n_done / n_layers));
    if (e->layer_done) e->layer_done(e->layer_done_ctx, span);
}

// The wrapper stands in between only while there is something to hold.
static void choose_watch(struct td_engine *e)
{
    e->watch.ctx = e->is_paced ? e : e->layer_done_ctx;
    e->watch.layer_done = e->is_paced ? paced_layer_done : e->layer_done;
}

void td_engine_watch(struct td_engine *e, void *ctx,
                     void (*layer_done)(void *ctx, const struct td_kv_span *span))
{
    e->layer_done_ctx = ctx;
    e->layer_done = layer_done;
    choose_watch(e);
}

void td_engine_pace(struct td_engine *e, const struct td_pace *pace)
{
    e->is_paced = pace != NULL;
    if (pace) e->pace = *pace;
    choose_watch(e);
}

void td_pace_begin(struct td_engine *e, const struct td_batch *batch)
{
    if (!e->is_paced) return;
    double seconds = 0;
    e->paced.has_prompt = false;
    for (uint32_t i = 0; i < batch->n_parts; i++) {
        const struct td_batch_part *part = &batch->parts[i];
        const double from = e->backend->kv_len(part->kv);
        const struct td_split_rate *rate = part->n_rows > 1 ? &e->pace.prefill : &e->pace.decode;
        const double needed = td_split_read_seconds(rate, from, from + part->n_rows);
        if (isfinite(needed)) seconds += needed; // else the speed is not held
        if (part->n_rows > 1) e->paced.has_prompt = true;
    }
    e->paced.begin_ns = td_clock_ns();
    // A year is as good as forever, and fits.
    e->paced.run_ns = (uint64_t)(fmin(seconds, 3e7) * 1e9);
}

void td_pace_end(const struct td_engine *e)
{
    if (e->is_paced) wait_until(e, e->paced.begin_ns + e->paced.run_ns);
}
