// SPDX-License-Identifier: MIT
// Runs the loops on one thread and on all, several times, and keeps the best.
#include "probe/probe.h"

#include "base/clock.h"
#include "base/os.h"
#include "base/team.h"
#include "probe/loops_impl.h"

#include <stdatomic.h>
#include <string.h>

enum {
    MIN_BUFFER_BYTES = 256 << 20,
    SLICE_BYTES = 1 << 20, // a thread's share is a multiple of this
};

enum what { FILL, READ, INT8, F32 };

struct job {
    enum what what;
    const struct td_loops *loops;
    uint8_t *buffer;
    size_t buffer_bytes;
    uint64_t n; // iterations of an arithmetic loop
    uint64_t t0_ns, t1_ns;
    _Atomic uint64_t sink; // takes the results, so that they are wanted
};

static void work(void *ctx, struct td_member *me)
{
    struct job *j = ctx;
    const size_t slice_bytes = j->buffer_bytes / me->n / SLICE_BYTES * SLICE_BYTES;
    uint8_t *slice = j->buffer + me->id * slice_bytes;
    uint64_t result = 0;
    td_team_barrier(me);
    if (me->id == 0) j->t0_ns = td_clock_ns();
    switch (j->what) {
    case FILL: memset(slice, (int)me->id + 1, slice_bytes); break;
    case READ: result = j->loops->read_loop(slice, slice_bytes); break;
    case INT8: result = j->loops->int8_loop(j->n); break;
    case F32: result = (uint64_t)(int64_t)j->loops->f32_loop(j->n); break;
    }
    atomic_fetch_add_explicit(&j->sink, result, memory_order_relaxed);
    td_team_barrier(me);
    if (me->id == 0) j->t1_ns = td_clock_ns();
}

static double seconds_of(struct td_team *team, struct job *j, enum what what)
{
    j->what = what;
    td_team_run(team, work, j);
    const double s = (double)(j->t1_ns - j->t0_ns) * 1e-9;
    return s > 1e-9 ? s : 1e-9;
}

// The best rate in a budget of time; at least three passes. Negative when it was not wanted.
static double best_rate(struct td_team *team, struct job *j, enum what what, double per_pass,
                        double budget_s, bool (*is_wanted)(void))
{
    double best = 0, spent_s = 0;
    for (int i = 0; i < 3 || spent_s < budget_s; i++) {
        if (is_wanted && !is_wanted()) return -1;
        const double s = seconds_of(team, j, what);
        spent_s += s;
        if (per_pass / s > best) best = per_pass / s;
    }
    return best;
}

// Iterations that take about 20 ms on one thread: long against a barrier, short against a budget.
static uint64_t iterations(struct td_team *team, struct job *j, enum what what)
{
    for (j->n = 1 << 12; j->n < (1ull << 40); j->n *= 2)
        if (seconds_of(team, j, what) > 0.02) break;
    return j->n;
}

static int measure(struct td_probe_rates *out, struct job *j, uint32_t n_threads, double budget_s,
                   bool (*is_wanted)(void), struct td_error *err)
{
    struct td_team *team = NULL;
    const int code = td_team_open(&team, n_threads, err);
    if (code != TD_OK) return code;
    (void)seconds_of(team, j, FILL);
    const size_t read_bytes = j->buffer_bytes / n_threads / SLICE_BYTES * SLICE_BYTES * n_threads;
    out->n_threads = n_threads;
    out->read_bytes_per_s = best_rate(team, j, READ, (double)read_bytes, budget_s, is_wanted);
    j->n = iterations(team, j, INT8);
    out->int8_ops_per_s = best_rate(team, j, INT8, j->loops->int8_ops * (double)j->n * n_threads,
                                    budget_s / 2, is_wanted);
    j->n = iterations(team, j, F32);
    out->f32_flops_per_s = best_rate(team, j, F32, j->loops->f32_ops * (double)j->n * n_threads,
                                     budget_s / 2, is_wanted);
    td_team_close(team);
    if (out->read_bytes_per_s < 0 || out->int8_ops_per_s < 0 || out->f32_flops_per_s < 0)
        return td_fail(err, TD_ECANCEL, "the measurement was stopped");
    return TD_OK;
}

int td_probe_measure(struct td_probe *out, uint32_t n_threads, bool quick, enum td_isa isa,
                     bool (*is_wanted)(void), struct td_error *err)
{
    *out = (struct td_probe){0};
    while (!td_isa_supported(isa)) {
        // The table is ordered within an architecture; NEON is next to generic on Arm only.
        isa = isa == TD_ISA_NEON || isa == TD_ISA_GENERIC ? TD_ISA_GENERIC : (enum td_isa)(isa - 1);
        if (isa == TD_ISA_GENERIC) break;
    }
    struct td_loops loops;
    td_loops_get(&loops, isa);
    const uint64_t t0_ns = td_clock_ns();

    struct td_os_info info;
    td_os_info(&info);
    uint64_t buffer_bytes = 4 * info.last_cache_bytes;
    if (buffer_bytes < MIN_BUFFER_BYTES) buffer_bytes = MIN_BUFFER_BYTES;
    if (buffer_bytes < (uint64_t)n_threads * SLICE_BYTES)
        buffer_bytes = (uint64_t)n_threads * SLICE_BYTES;
    if (info.available_bytes && buffer_bytes > info.available_bytes / 2)
        return td_fail(err, TD_ENOMEM, "not enough memory to measure: %llu MiB are needed",
                       (unsigned long long)(buffer_bytes >> 20));
    struct job job = {.loops = &loops, .buffer_bytes = (size_t)buffer_bytes};
    job.buffer = td_os_reserve(job.buffer_bytes);
    if (!job.buffer) return td_fail(err, TD_ENOMEM, "no memory for the buffer to read");
    // As the weights of a model lie: see td_os_map_file.
    td_os_want_huge(job.buffer, job.buffer_bytes);

    struct td_probe p = {
        .buffer_bytes = buffer_bytes, .isa = td_isa_name(isa), .int8_with = loops.int8_with};
    const double budget_s = quick ? 0.25 : 1.6;
    int code = measure(&p.one, &job, 1, budget_s, is_wanted, err);
    if (code == TD_OK && n_threads == 1)
        p.all = p.one;
    else if (code == TD_OK)
        code = measure(&p.all, &job, n_threads, budget_s, is_wanted, err);
    td_os_release(job.buffer, job.buffer_bytes);
    if (code != TD_OK) return code;
    p.seconds = (double)(td_clock_ns() - t0_ns) * 1e-9;
    *out = p;
    return TD_OK;
}
