// SPDX-License-Identifier: MIT
// `tandem plan --golden` and `--table`: the balanced machine, and published tables predicted.
#include "app/app.h"
#include "app/json.h"
#include "app/plan_impl.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static json_t *golden_json(const struct td_plan_golden *g)
{
    json_t *out = json_object();
    td_json_f64(out, "flop", g->flop);
    td_json_f64(out, "bytes", g->bytes);
    td_json_f64(out, "reached_flop", g->reached_flop);
    td_json_f64(out, "reached_bytes", g->reached_bytes);
    td_json_f64(out, "steady_flop_per_byte", g->steady_ratio);
    td_json_f64(out, "cheapest_flop_per_byte", g->cheapest_ratio);
    td_json_f64(out, "seconds", g->seconds);
    td_json_f64(out, "flop_per_s", g->flop_per_s);
    td_json_f64(out, "bytes_per_s", g->bytes_per_s);
    td_json_f64(out, "memory_bytes", g->memory_bytes);
    td_json_f64(out, "price_usd", g->price_usd);
    td_json_f64(out, "slower_when_off_by_2", g->off_by_2);
    td_json_f64(out, "slower_when_off_by_4", g->off_by_4);
    return out;
}

static void print_golden(const struct td_plan_question *q, const struct td_plan_golden *g,
                         const struct td_plan_prices *prices)
{
    printf(
        "%s, %s: prompt %u, answer %u, batch %u\n\n"
        "A request multiplies %.1f TFLOP and reads %.1f GB: %.1f FLOP per byte.\n"
        "Programs reach %.0f %% of the FLOP/s and %.0f %% of the bytes/s of a nameplate (of the "
        "first\nmachine below).\n\n"
        "Balanced, no bottleneck in a steady state:    %6.1f FLOP per byte\n"
        "Cheapest for a latency, at %.1f USD a TFLOP/s and %.1f USD a GB/s: %.1f FLOP per byte\n\n"
        "The cheapest balanced machine that takes %.1f s for a request: %.0f TFLOP/s, %.0f GB/s, "
        "%.0f GB;\nabout %.0f USD. With the ratio off by 2 it takes %.2f times as long for the "
        "same "
        "money, off by 4 %.2f.\n\n",
        q->model, q->quant, q->goal.prompt_tokens, q->goal.answer_tokens, q->goal.batch,
        g->flop * 1e-12, g->bytes * 1e-9, g->flop / g->bytes, 100 * g->reached_flop,
        100 * g->reached_bytes, g->steady_ratio, prices->usd_per_flop_per_s * 1e12,
        prices->usd_per_byte_per_s * 1e9, g->cheapest_ratio, g->seconds, g->flop_per_s * 1e-12,
        g->bytes_per_s * 1e-9, g->memory_bytes / 0x1p30, g->price_usd, g->off_by_2, g->off_by_4);
    printf("%-40s %8s %8s %8s %9s\n", "machine", "TFLOP/s", "GB/s", "FLOP/B", "off by");
    for (uint32_t i = 0; i < q->n_machines; i++) {
        const struct td_plan_device *d = q->machines[i].device;
        if (!(d->flop_per_s > 0) || !(d->bytes_per_s > 0)) continue;
        const double ratio = d->flop_per_s / d->bytes_per_s;
        const double off = ratio / g->steady_ratio;
        printf("%-40s %8.1f %8.0f %8.0f %8.1fx %s\n", d->name, d->flop_per_s * 1e-12,
               d->bytes_per_s * 1e-9, ratio, off > 1 ? off : 1 / off,
               off > 1 ? "too little bandwidth" : "too little compute");
    }
}

int td_plan_golden_cmd(const struct td_config *cfg, const struct td_plan_question *q)
{
    const struct td_plan_prices prices = {
        .usd_per_flop_per_s = td_opt_f64(cfg, TD_OPT_PRICE_FLOPS) * 1e-12,
        .usd_per_byte_per_s = td_opt_f64(cfg, TD_OPT_PRICE_BW) * 1e-9,
        .usd_per_byte = 4.0 / 0x1p30};
    if (!(prices.usd_per_flop_per_s > 0) || !(prices.usd_per_byte_per_s > 0))
        return td_app_usage(cfg, "--price-flops and --price-bw must be more than 0");
    struct td_plan_answer answer;
    const struct td_plan_machine *m = &q->machines[0];
    const struct td_plan_test test = {true, 2048, 0, 1, 2048};
    td_plan_fit_answer(&answer, m->fit, &q->cost, m->device, &m->context, &test);
    // A latency: what --tps asks for the answer, and --ttft for the prompt; else 30 s.
    double seconds = 0;
    if (td_opt_is_set(cfg, TD_OPT_TTFT)) seconds += td_opt_f64(cfg, TD_OPT_TTFT);
    if (td_opt_is_set(cfg, TD_OPT_TPS) && td_opt_f64(cfg, TD_OPT_TPS) > 0)
        seconds += q->goal.answer_tokens * q->goal.batch / td_opt_f64(cfg, TD_OPT_TPS);
    struct td_plan_golden g;
    td_plan_golden(&g, &q->cost, &q->goal, &answer.rates, &prices, seconds > 0 ? seconds : 30);
    if (q->form == TD_PLAN_JSON)
        (void)td_json_print(stdout, golden_json(&g), JSON_INDENT(2));
    else
        print_golden(q, &g, &prices);
    return TD_EXIT_OK;
}

// Published cells of one model on one machine, by line of measurements.csv.
static bool is_cell(const struct td_plan_measurement *m, const char *device)
{
    return m->use == 1 && strcmp(m->model, "gpt-oss-120b") == 0 &&
           strcmp(m->source, "forum post, 2025-10-23") == 0 && strcmp(m->device, device) == 0;
}

// Fits all samples but the table's cells, and of those only the ones at the given depths.
static int fit_with(struct td_plan_fit **out, const struct td_world *w, uint32_t max_depth,
                    struct td_error *err)
{
    struct td_plan_sample *kept = malloc(w->n_samples * sizeof(*kept));
    uint32_t n = 0;
    if (!kept) return td_fail(err, TD_ENOMEM, "no memory for a table");
    for (uint32_t i = 0; i < w->n_samples; i++) {
        bool is_table = false;
        for (uint32_t j = 0; j < w->n_measurements; j++)
            is_table = is_table || (w->measurements[j].line == w->lines[i] &&
                                    (is_cell(&w->measurements[j], "DGX Spark (GB10)") ||
                                     is_cell(&w->measurements[j], "Apple M4 Max 40c")));
        const double depth = w->samples[i].test.depth_tokens;
        if (is_table && depth > 0 && !(max_depth > 0 && depth == max_depth)) continue;
        kept[n] = w->samples[i];
        if (is_table) kept[n].noise = 0.01;
        n++;
    }
    const int code = td_plan_fit_open(out, &td_plan_prior, kept, n, false, err);
    free(kept);
    return code;
}

struct table_row {
    const struct td_plan_measurement *m;
    struct td_plan_answer both, first; // calibrated on depths 0 and 32768, and on 0 alone
};

static void print_cell(const struct table_row *row, json_t *list)
{
    const struct td_plan_measurement *m = row->m;
    const double both = m->n_tokens / row->both.seconds;
    // 99 % of a normal distribution: twenty cells are to lie inside, not nine in ten.
    const double wide = exp(2.576 * row->first.log_sd), middle = m->n_tokens / row->first.seconds;
    const double low = middle / wide, high = middle * wide;
    const bool is_given = m->depth_tokens == 0 || m->depth_tokens == 32768;
    const bool is_inside = m->tokens_per_s >= low && m->tokens_per_s <= high;
    if (!list) {
        printf("%-18.18s %-2s %6u %9.2f %9.2f %+6.1f %%%s  %9.2f-%-9.2f %s\n", m->device,
               m->is_prefill ? "pp" : "tg", m->depth_tokens, m->tokens_per_s, both,
               100 * (both / m->tokens_per_s - 1), is_given ? " (given)" : "        ", low, high,
               is_inside ? "inside" : "OUTSIDE");
        return;
    }
    json_t *out = json_object();
    td_json_text(out, "machine", m->device);
    td_json_text(out, "test", m->is_prefill ? "pp" : "tg");
    td_json_u64(out, "depth", m->depth_tokens);
    td_json_f64(out, "measured", m->tokens_per_s);
    td_json_f64(out, "predicted", both);
    td_json_f64(out, "error", both / m->tokens_per_s - 1);
    json_object_set_new(out, "is_given", json_boolean(is_given));
    td_json_f64(out, "low_from_depth_0", low);
    td_json_f64(out, "high_from_depth_0", high);
    json_object_set_new(out, "is_inside", json_boolean(is_inside));
    json_array_append_new(list, out);
}

// exo's experiment, blog.exolabs.net/nvidia-dgx-spark: Llama-3.1-8B in 16 bits, 8192 + 32 tokens;
// seconds of prompt and answer on each machine alone. Both together were measured at 2.32 s.
static void exo(struct td_plan_pair *pair, const struct td_world *w)
{
    static const double spark[] = {1.47, 2.87}, ultra[] = {5.57, 0.85};
    struct td_plan_cost cost = {0};
    (void)!td_plan_cost_of(&cost, td_world_model(w, "Llama-3.1-8B"), "F16", 0, NULL);
    const struct td_plan_goal goal = {8192, 32, 1, 0, 2048};
    const struct td_plan_link link = {10e9 / 8 * 0.94, 200e-6};
    struct td_plan_single reader = {
        .prefill_rate = {.points = {{0, 8192 / spark[0]}}, .n_points = 1},
        .decode_rate = {.points = {{0, 32 / spark[1]}}, .n_points = 1}};
    struct td_plan_single writer = {
        .prefill_rate = {.points = {{0, 8192 / ultra[0]}}, .n_points = 1},
        .decode_rate = {.points = {{0, 32 / ultra[1]}}, .n_points = 1}};
    td_plan_pair(pair, &cost, &reader, &writer, &link, &goal);
}

static void print_doubts(const struct td_world *w)
{
    puts("\nNameplate figures that are derived, or contradict other sources:");
    for (uint32_t i = 0; i < w->n_devices; i++)
        if (strcmp(w->devices[i].name, "DGX Spark (GB10)") == 0 ||
            strcmp(w->devices[i].name, "Apple M4 Max 40c") == 0)
            printf("  %s: %.0f TFLOP/s, %.0f GB/s: %s\n", w->devices[i].name,
                   w->devices[i].flop_per_s * 1e-12, w->devices[i].bytes_per_s * 1e-9,
                   w->devices[i].doubtful);
}

static void print_rows(const struct table_row *rows, uint32_t n, const struct td_plan_pair *pair,
                       const struct td_world *w)
{
    printf(
        "gpt-oss-120b MXFP4, llama.cpp, as published 2025-10-23; calibrated on the cells at depth "
        "0 and 32768.\nLast column: the 99 %% interval from depth 0 alone.\n\n"
        "%-18s %-2s %6s %9s %9s %8s %19s\n",
        "machine", "", "depth", "measured", "predicted", "error", "from depth 0");
    for (uint32_t i = 0; i < n; i++) print_cell(&rows[i], NULL);
    printf(
        "\nexo, 2025-10: Llama-3.1-8B F16, 8192 + 32 tokens, Spark reads, M3 Ultra answers, 10GbE, "
        "from each\nmachine's own measured times: %.2f s (published 2.32), %.2f times as fast as "
        "the Mac alone (2.8)\n",
        pair->split.split_seconds, pair->split.here_seconds / pair->split.split_seconds);
    print_doubts(w);
}

int td_plan_table_cmd(const struct td_config *cfg, struct td_world *w)
{
    struct td_error err = {0};
    struct table_row rows[32];
    uint32_t n = 0;
    struct td_plan_fit *both = NULL, *first = NULL;
    int code = fit_with(&both, w, 32768, &err);
    if (code == TD_OK) code = fit_with(&first, w, 0, &err);
    for (uint32_t i = 0; i < w->n_samples && code == TD_OK; i++) {
        const struct td_plan_sample *s = &w->samples[i];
        for (uint32_t j = 0; j < w->n_measurements && n < 32; j++) {
            const struct td_plan_measurement *m = &w->measurements[j];
            if (m->line != w->lines[i] ||
                !(is_cell(m, "DGX Spark (GB10)") || is_cell(m, "Apple M4 Max 40c")))
                continue;
            rows[n].m = m;
            td_plan_fit_answer(&rows[n].both, both, &s->cost, &s->device, &s->context, &s->test);
            td_plan_fit_answer(&rows[n].first, first, &s->cost, &s->device, &s->context, &s->test);
            n++;
        }
    }
    td_plan_fit_close(both);
    td_plan_fit_close(first);
    if (code != TD_OK) return td_app_fail(&err);
    struct td_plan_pair pair;
    exo(&pair, w);
    if ((enum td_plan_form)td_opt_choice(cfg, TD_OPT_PLAN_FORM) != TD_PLAN_JSON) {
        print_rows(rows, n, &pair, w);
        return TD_EXIT_OK;
    }
    json_t *out = json_object(), *list = json_array(), *exo_json = json_object();
    for (uint32_t i = 0; i < n; i++) print_cell(&rows[i], list);
    json_object_set_new(out, "cells", list);
    td_json_f64(exo_json, "seconds", pair.split.split_seconds);
    td_json_f64(exo_json, "gain", pair.split.here_seconds / pair.split.split_seconds);
    json_object_set_new(out, "exo", exo_json);
    (void)td_json_print(stdout, out, JSON_INDENT(2));
    return TD_EXIT_OK;
}
