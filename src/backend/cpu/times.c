// SPDX-License-Identifier: MIT
// What the walk measured of each step, when it was asked to. It measures nothing itself.
#include "backend/cpu/cpu_impl.h"

#include <stdlib.h>
#include <string.h>

int td_cpu_time_steps(struct td_device *dev, bool on, struct td_error *err)
{
    if (on && !dev->clocks) dev->clocks = calloc(dev->n_steps, sizeof(*dev->clocks));
    if (on && !dev->done_ns)
        dev->done_ns = calloc((size_t)dev->n_steps * dev->cfg.n_threads, sizeof(*dev->done_ns));
    if (on && (!dev->clocks || !dev->done_ns))
        return td_fail(err, TD_ENOMEM, "no memory for the times of %u steps", dev->n_steps);
    if (on) memset(dev->clocks, 0, dev->n_steps * sizeof(*dev->clocks));
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

uint32_t td_cpu_step_times(const struct td_device *dev, struct td_step_time *out)
{
    for (uint32_t i = 0; out && i < dev->n_steps; i++) {
        const struct td_step *s = &dev->steps[i];
        out[i] = (struct td_step_time){.name = name_of(s->kind),
                                       .i_op = s->i_op,
                                       .n_ops = is_helper(s->kind) ? 0 : 1,
                                       .arith = arith_of(s)};
        if (!dev->clocks) continue;
        out[i].n_runs = dev->clocks[i].n_runs;
        out[i].time_ns = dev->clocks[i].time_ns;
        out[i].wait_ns = dev->clocks[i].wait_ns;
    }
    return dev->n_steps;
}
