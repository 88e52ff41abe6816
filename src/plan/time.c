// SPDX-License-Identifier: MIT
// Seconds of a pass. Two resources, bytes and multiply-adds, of which the longer counts whole and
// the shorter in part; attention the same way; and a fixed cost per layer.
#include "plan/time.h"

#include <math.h>

// Two activities that overlap in part: (a^p + b^p)^(1/p), between the sum (p = 1) and the longer of
// the two (p large).
static double both(double a, double b, double p)
{
    // By the longer one, so that no power leaves the range of numbers.
    const double longer = fmax(a, b), shorter = fmin(a, b);
    return longer > 0 ? longer * pow(1 + pow(shorter / longer, p), 1 / p) : 0;
}

// The faster of two kernels, rounded where they are about as fast.
static double faster(double a, double b)
{
    const double longer = fmax(a, b), shorter = fmin(a, b);
    return longer > 0 ? shorter * pow(1 + pow(shorter / longer, 4), -0.25) : 0;
}

// Seconds for products of `flop` per row: by a kernel for many rows, that costs some rows more than
// there are, or by one for few rows, that is slower for each.
static double products(double flop, double rows, double more_rows, double flop_per_s, double vector)
{
    return faster(flop * (rows + more_rows) / flop_per_s, flop * rows / (flop_per_s * vector));
}

void td_plan_pass_time(struct td_plan_parts *out, const struct td_plan_cost *c,
                       const struct td_plan_device *d, const struct td_plan_rates *rates,
                       const struct td_plan_pass *pass)
{
    double k[TD_PLAN_N_RATES];
    for (int r = 0; r < TD_PLAN_N_RATES; r++) k[r] = exp(rates->log[r]);
    const double flop_per_s = d->flop_per_s * k[TD_PLAN_GEMM];
    // Nobody reads faster than the nameplate says.
    const double bytes_per_s = d->bytes_per_s * fmin(k[TD_PLAN_BAND], 1);
    const double expert_bytes_per_s = fmin(bytes_per_s * k[TD_PLAN_EXPERT_BAND], d->bytes_per_s);
    const double p = 1 + k[TD_PLAN_OVERLAP];
    const double rows = pass->n_rows;

    *out = (struct td_plan_parts){0};
    out->read_dense = c->dense_bytes / bytes_per_s;
    out->multiply_dense =
        products(c->dense_flop, rows, k[TD_PLAN_ROWS], flop_per_s, k[TD_PLAN_VECTOR]) +
        products(c->head_flop, pass->n_logits, k[TD_PLAN_ROWS], flop_per_s, k[TD_PLAN_VECTOR]);
    if (c->n_experts > 0) {
        const double visited =
            td_plan_distinct(c->n_experts, c->n_active, pow(rows, fmin(k[TD_PLAN_CROWD], 1)));
        const double vector = rows < 1.5 ? k[TD_PLAN_VECTOR] : k[TD_PLAN_EXPERT_VECTOR];
        out->read_experts = c->expert_bytes * visited / c->n_experts / expert_bytes_per_s;
        // Each visited expert multiplies the rows that chose it, and a few more.
        out->multiply_experts =
            products(c->expert_flop / c->n_active, rows * c->n_active,
                     visited * k[TD_PLAN_EXPERT_ROWS], flop_per_s * k[TD_PLAN_EXPERTS], vector);
    }
    out->attend =
        td_plan_attend_flop(c, pass->seen_tokens) * rows / (d->flop_per_s * k[TD_PLAN_ATTEND]);
    out->read_kv = td_plan_kv_bytes(c, pass->seen_tokens) * pass->n_sequences /
                   (bytes_per_s * k[TD_PLAN_CACHE]);
    out->overhead = c->n_layers * k[TD_PLAN_LAYER];
    out->whole = both(out->read_dense, out->multiply_dense, p) +
                 both(out->read_experts, out->multiply_experts, p) +
                 both(out->attend, out->read_kv, p) + out->overhead;
}

static void add_times(struct td_plan_parts *sum, const struct td_plan_parts *p, double n)
{
    sum->read_dense += n * p->read_dense;
    sum->read_experts += n * p->read_experts;
    sum->multiply_dense += n * p->multiply_dense;
    sum->multiply_experts += n * p->multiply_experts;
    sum->attend += n * p->attend;
    sum->read_kv += n * p->read_kv;
    sum->overhead += n * p->overhead;
    sum->whole += n * p->whole;
}

double td_plan_test_time(struct td_plan_parts *parts, const struct td_plan_cost *c,
                         const struct td_plan_device *d, const struct td_plan_rates *rates,
                         const struct td_plan_test *test)
{
    struct td_plan_parts sum = {0}, one;
    // Seconds grow linearly with depth but for the window: the middle stands for the run.
    const double seen = test->depth_tokens + (test->n_tokens + 1) / 2;
    if (test->is_prefill) {
        const double chunk = fmin(test->chunk_tokens, test->n_tokens);
        const double n_whole = floor(test->n_tokens / chunk);
        const double rest = test->n_tokens - n_whole * chunk;
        struct td_plan_pass pass = {chunk, 1, seen, 1};
        td_plan_pass_time(&one, c, d, rates, &pass);
        add_times(&sum, &one, n_whole);
        if (rest >= 1) {
            pass.n_rows = rest;
            td_plan_pass_time(&one, c, d, rates, &pass);
            add_times(&sum, &one, 1);
        }
    } else {
        const struct td_plan_pass pass = {test->batch, test->batch, seen, test->batch};
        td_plan_pass_time(&one, c, d, rates, &pass);
        add_times(&sum, &one, test->n_tokens);
    }
    if (parts) *parts = sum;
    return sum.whole;
}

double td_plan_test_tokens(const struct td_plan_test *test)
{
    return test->n_tokens * (test->is_prefill ? 1 : test->batch);
}
