// SPDX-License-Identifier: MIT
// What the walk measured of each step, when it was asked to. It measures nothing itself.
#include "backend/cpu/cpu_impl.h"

#include <stdlib.h>
#include <string.h>

int td_cpu_time_steps(struct td_device *dev, bool on, struct td_error *err)
{
    if (on && !dev->clocks) dev->clocks = calloc(dev->n_phases, sizeof(*dev->clocks));
    if (on && !dev->done_ns)
        dev->done_ns = calloc((size_t)dev->n_phases * dev->cfg.n_threads, sizeof(*dev->done_ns));
    if (on && (!dev->clocks || !dev->done_ns))
        return td_fail(err, TD_ENOMEM, "no memory for the times of %u phases", dev->n_phases);
    if (on) memset(dev->clocks, 0, dev->n_phases * sizeof(*dev->clocks));
    dev->is_timed = on;
    return TD_OK;
}

static const char *name_of(enum td_step_kind kind)
{
    switch (kind) {
    case TD_STEP_ANGLES: return "angles";
    case TD_STEP_EMBED: return "embed";
    case TD_STEP_RMSNORM: return "rmsnorm";
    case TD_STEP_QUANTIZE: return "quantize";
    case TD_STEP_LINEAR: return "linear";
    case TD_STEP_ROPE: return "rope";
    case TD_STEP_KV_PUT: return "kv_put";
    case TD_STEP_KEEP: return "keep";
    case TD_STEP_ATTEND: return "attend";
    case TD_STEP_ROUTE: return "route";
    case TD_STEP_SORT: return "sort";
    case TD_STEP_EXPERTS_GLU: return "glu";
    case TD_STEP_EXPERTS_DOWN: return "down";
    case TD_STEP_EXPERTS_COMBINE: return "combine";
    case TD_STEP_ADD: return "add";
    }
    return "?";
}

// Steps beside the one that computes the op.
static bool is_helper(enum td_step_kind kind)
{
    return kind == TD_STEP_ANGLES || kind == TD_STEP_QUANTIZE || kind == TD_STEP_SORT ||
           kind == TD_STEP_EXPERTS_COMBINE;
}

static enum td_arith arith_of(const struct td_step *s)
{
    if (!s->mm) return TD_ARITH_F32;
    return s->act == TD_ACT_Q8    ? TD_ARITH_INT8
           : s->act == TD_ACT_Q16 ? TD_ARITH_INT16
                                  : TD_ARITH_F32;
}

// The ops that a phase computes follow one another; helpers before and after them do not count.
static void describe(const struct td_device *dev, const struct td_phase *p,
                     struct td_step_time *out)
{
    const struct td_step *steps = &dev->steps[p->first];
    *out = (struct td_step_time){
        .name = name_of(steps->kind), .i_op = steps->i_op, .arith = arith_of(steps)};
    for (uint32_t k = 0; k < p->n_steps; k++) {
        if (is_helper(steps[k].kind)) continue;
        if (out->n_ops == 0) out->i_op = steps[k].i_op;
        out->n_ops = steps[k].i_op - out->i_op + 1;
    }
}

uint32_t td_cpu_step_times(const struct td_device *dev, struct td_step_time *out)
{
    for (uint32_t i = 0; out && i < dev->n_phases; i++) {
        describe(dev, &dev->phases[i], &out[i]);
        if (!dev->clocks) continue;
        out[i].n_runs = dev->clocks[i].n_runs;
        out[i].time_ns = dev->clocks[i].time_ns;
        out[i].wait_ns = dev->clocks[i].wait_ns;
    }
    return dev->n_phases;
}
