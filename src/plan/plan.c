// SPDX-License-Identifier: MIT
// One machine, two machines, and the machine that one should have.
#include "plan/plan.h"

#include <math.h>
#include <string.h>

double td_plan_usable_bytes(const struct td_plan_device *device)
{
    const double memory = device->memory_bytes;
    // macOS lets the GPU have three quarters; elsewhere a system with a desktop takes some GiB, and
    // less where there is less.
    if (strcmp(device->vendor, "Apple") == 0) return memory * 0.75;
    return memory - fmin(memory / 16, 6 * 0x1p30);
}

double td_plan_needed_bytes(const struct td_plan_cost *cost, const struct td_plan_goal *goal)
{
    const double depth = (double)goal->depth_tokens + goal->prompt_tokens + goal->answer_tokens;
    // Activations of a chunk: a few rows of the widest matrix for each token, and the logits of
    // those whose next token is wanted; with the runtime's own half a gigabyte.
    const double activations = goal->chunk_tokens * 256e3 + goal->batch * cost->logits_bytes;
    return cost->file_bytes + goal->batch * td_plan_kv_bytes(cost, depth) + activations +
           0.5 * 0x1p30;
}

static void add_parts(struct td_plan_parts *sum, const struct td_plan_parts *p)
{
    sum->read_dense += p->read_dense;
    sum->read_experts += p->read_experts;
    sum->multiply_dense += p->multiply_dense;
    sum->multiply_experts += p->multiply_experts;
    sum->attend += p->attend;
    sum->read_kv += p->read_kv;
    sum->overhead += p->overhead;
    sum->whole += p->whole;
}

double td_plan_read_seconds(struct td_plan_parts *parts, const struct td_plan_cost *cost,
                            const struct td_plan_device *device, const struct td_plan_rates *rates,
                            const struct td_plan_goal *goal)
{
    struct td_plan_parts sum = {0}, one;
    struct td_plan_test chunk = {true, 0, goal->depth_tokens, 1, goal->chunk_tokens};
    double left = goal->prompt_tokens;
    while (left > 0) {
        chunk.n_tokens = fmin(left, goal->chunk_tokens);
        td_plan_test_time(&one, cost, device, rates, &chunk);
        add_parts(&sum, &one);
        chunk.depth_tokens += chunk.n_tokens;
        left -= chunk.n_tokens;
    }
    if (parts) *parts = sum;
    return sum.whole;
}

// Speeds at depths up to the request's end, as split.h wants them.
static void speeds(struct td_split_rate *out, const struct td_plan_cost *cost,
                   const struct td_plan_device *device, const struct td_plan_rates *rates,
                   const struct td_plan_goal *goal, bool is_prefill)
{
    const double end = (double)goal->depth_tokens + goal->prompt_tokens + goal->answer_tokens;
    const double chunk = fmin(goal->chunk_tokens, goal->prompt_tokens);
    *out = (struct td_split_rate){.n_points = TD_SPLIT_MAX_POINTS};
    for (uint32_t i = 0; i < TD_SPLIT_MAX_POINTS; i++) {
        const double part = (double)i / (TD_SPLIT_MAX_POINTS - 1);
        struct td_plan_test test = {is_prefill, is_prefill ? chunk : 1, 0, 1, chunk};
        // Half of a test lies behind its depth: the speed is that of its middle.
        const double middle = part * end;
        test.depth_tokens = fmax(middle - test.n_tokens / 2, 0);
        out->points[i].depth_tokens = middle;
        out->points[i].tokens_per_s =
            test.n_tokens / td_plan_test_time(NULL, cost, device, rates, &test);
    }
}

void td_plan_single(struct td_plan_single *out, const struct td_plan_fit *fit,
                    const struct td_plan_cost *cost, const struct td_plan_device *device,
                    const struct td_plan_context *context, const struct td_plan_goal *goal)
{
    *out = (struct td_plan_single){.needed_bytes = td_plan_needed_bytes(cost, goal),
                                   .usable_bytes = td_plan_usable_bytes(device)};
    out->fits = out->needed_bytes <= out->usable_bytes;
    const double depth = goal->depth_tokens;
    const struct td_plan_test read = {true, goal->prompt_tokens, depth, 1,
                                      fmin(goal->chunk_tokens, goal->prompt_tokens)};
    const struct td_plan_test write = {false, goal->answer_tokens, depth + goal->prompt_tokens,
                                       goal->batch, 1};
    td_plan_fit_belief(&out->belief, fit, context);
    td_plan_belief_answer(&out->prefill, &out->belief, cost, device, &read);
    td_plan_belief_answer(&out->decode, &out->belief, cost, device, &write);

    // The prompt again, chunk by chunk: its interval keeps its width in logarithms.
    const double one_prompt =
        td_plan_read_seconds(&out->prefill.parts, cost, device, &out->prefill.rates, goal);
    out->prefill.low *= one_prompt / out->prefill.seconds;
    out->prefill.high *= one_prompt / out->prefill.seconds;
    out->prefill.seconds = one_prompt;
    out->prefill_tokens_per_s = goal->prompt_tokens / one_prompt;
    out->decode_tokens_per_s = td_plan_test_tokens(&write) / out->decode.seconds;

    const double n = goal->batch, rest = (goal->answer_tokens - 1.0) / goal->answer_tokens;
    out->first_seconds = n * one_prompt;
    out->first_low = n * out->prefill.low;
    out->first_high = n * out->prefill.high;
    // The prompt's last row gives the first token of the answer.
    out->total_seconds = out->first_seconds + rest * out->decode.seconds;
    out->total_low = out->first_low + rest * out->decode.low;
    out->total_high = out->first_high + rest * out->decode.high;
    out->joule = device->power_watt * out->total_seconds;
    speeds(&out->prefill_rate, cost, device, &out->prefill.rates, goal, true);
    speeds(&out->decode_rate, cost, device, &out->decode.rates, goal, false);
}

void td_plan_pair(struct td_plan_pair *out, const struct td_plan_cost *cost,
                  const struct td_plan_single *reader, const struct td_plan_single *writer,
                  const struct td_plan_link *link, const struct td_plan_goal *goal)
{
    struct td_split_ask ask = {
        // What lies before the prompt both have read.
        .here = {writer->prefill_rate, writer->decode_rate, goal->depth_tokens, 0},
        .there = {reader->prefill_rate, reader->decode_rate, goal->depth_tokens, 0},
        .n_prompt_tokens = goal->depth_tokens + goal->prompt_tokens,
        .n_answer_tokens = goal->answer_tokens,
        .link_bytes_per_s = link->bytes_per_s,
        .round_trip_seconds = link->round_trip_seconds,
        .chunk_tokens = goal->chunk_tokens,
        .checkpoint_tokens = goal->chunk_tokens,
        .stream = TD_SPLIT_BY_LAYER,
    };
    const uint32_t n_full = cost->n_full_layers;
    if (n_full > 0)
        ask.groups[ask.n_groups++] =
            (struct td_split_group){n_full, 0, cost->kv_bytes_full / n_full};
    if (cost->window_tokens > 0 && cost->n_layers > n_full)
        ask.groups[ask.n_groups++] =
            (struct td_split_group){cost->n_layers - n_full, cost->window_tokens,
                                    cost->kv_bytes_window / (cost->n_layers - n_full)};
    td_split(&out->split, &ask);
    out->best_alone_seconds = fmin(out->split.here_seconds, out->split.there_seconds);
    out->gain = out->best_alone_seconds / out->split.split_seconds;
    out->ask = ask;
}

uint32_t td_plan_pair_pays_from(const struct td_plan_pair *pair)
{
    return td_split_pays_from(&pair->ask, 131072);
}

void td_plan_golden(struct td_plan_golden *out, const struct td_plan_cost *cost,
                    const struct td_plan_goal *goal, const struct td_plan_rates *rates,
                    const struct td_plan_prices *prices, double seconds)
{
    const double p = goal->prompt_tokens, g = goal->answer_tokens, n = goal->batch;
    const double linear = cost->dense_flop + cost->expert_flop;
    const double depth = goal->depth_tokens;
    *out = (struct td_plan_golden){.seconds = seconds};
    out->flop = n * (p * (linear + td_plan_attend_flop(cost, depth + p / 2)) +
                     g * (linear + cost->head_flop + td_plan_attend_flop(cost, depth + p + g / 2)));
    const double chunk = fmin(goal->chunk_tokens, p);
    out->bytes = n * ceil(p / chunk) * td_plan_pass_bytes(cost, chunk) +
                 g * (td_plan_pass_bytes(cost, n) + n * td_plan_kv_bytes(cost, depth + p + g / 2));
    out->reached_flop = exp(rates->log[TD_PLAN_GEMM]);
    if (cost->n_experts > 0) {
        const double experts = cost->expert_flop / linear;
        out->reached_flop /= 1 - experts + experts / exp(rates->log[TD_PLAN_EXPERTS]);
    }
    out->reached_bytes = exp(rates->log[TD_PLAN_BAND]);

    // Nameplate units that the work takes: FLOP and bytes at the parts that are reached.
    const double a = out->flop / out->reached_flop, d = out->bytes / out->reached_bytes;
    out->steady_ratio = a / d;
    out->cheapest_ratio = sqrt(a / d * prices->usd_per_byte_per_s / prices->usd_per_flop_per_s);
    // One after the other: a / flop_per_s + d / bytes_per_s = seconds, at the cheapest ratio.
    out->bytes_per_s = (a / out->cheapest_ratio + d) / seconds;
    out->flop_per_s = out->bytes_per_s * out->cheapest_ratio;
    out->memory_bytes = td_plan_needed_bytes(cost, goal) * 16 / 15;
    out->price_usd = out->flop_per_s * prices->usd_per_flop_per_s +
                     out->bytes_per_s * prices->usd_per_byte_per_s +
                     out->memory_bytes * prices->usd_per_byte;
    // At the same price with the ratio off by x, the seconds grow by
    // (p^2 + q^2 + p q (x + 1/x)) / (p + q)^2, p^2 and q^2 the two bills.
    const double bill_a = sqrt(prices->usd_per_flop_per_s * a);
    const double bill_d = sqrt(prices->usd_per_byte_per_s * d);
    const double sum = (bill_a + bill_d) * (bill_a + bill_d);
    out->off_by_2 = (bill_a * bill_a + bill_d * bill_d + bill_a * bill_d * 2.5) / sum;
    out->off_by_4 = (bill_a * bill_a + bill_d * bill_d + bill_a * bill_d * 4.25) / sum;
}
