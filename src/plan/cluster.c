// SPDX-License-Identifier: MIT
// A model on several boxes. By layers: a box's time is its share of the time it would take alone,
// since nearly all of a pass is a sum over layers. A prompt's chunks follow each other through the
// boxes, so that the slowest stage counts for all but one of them; an answer's token passes through
// all boxes in turn, so that more boxes make no answer faster. By tensor: bytes and multiply-adds
// of a box are 1/n, what a layer costs beside them stays, and twice a layer every box needs the sum
// of what all have.
#include "plan/cluster.h"

#include <math.h>

// Bytes of an element of the hidden state on the wire.
#define ELEMENT_BYTES 2.0

struct times {
    double chunk[TD_PLAN_MAX_BOXES]; // seconds of a chunk of the prompt, all layers
    double token[TD_PLAN_MAX_BOXES]; // of a pass over one token of every answer
};

static double chunk_of(const struct td_plan_goal *goal)
{
    return fmin(goal->chunk_tokens, goal->prompt_tokens);
}

static double n_chunks(const struct td_plan_goal *goal)
{
    return ceil(goal->prompt_tokens / chunk_of(goal));
}

// What a box needs that holds this share.
static double needed(const struct td_plan_cost *cost, const struct td_plan_goal *goal, double share)
{
    const struct td_plan_cost none = {.logits_bytes = cost->logits_bytes};
    const double fixed = td_plan_needed_bytes(&none, goal);
    return fixed + share * (td_plan_needed_bytes(cost, goal) - fixed);
}

// The largest share that fits into a box.
static double most(const struct td_plan_cost *cost, const struct td_plan_goal *goal,
                   double usable_bytes)
{
    const double fixed = needed(cost, goal, 0), whole = needed(cost, goal, 1);
    return fmin(fmax((usable_bytes - fixed) / (whole - fixed), 0), 1);
}

// Shares in proportion to `weight`, none above its cap; what is cut off goes to the others.
static void fill(double *share, const double *weight, const double *cap, uint32_t n)
{
    bool is_full[TD_PLAN_MAX_BOXES] = {false};
    for (uint32_t round = 0; round < n; round++) {
        double left = 1, sum = 0;
        for (uint32_t i = 0; i < n; i++) {
            if (is_full[i]) left -= share[i];
            if (!is_full[i]) sum += weight[i];
        }
        bool is_over = false;
        for (uint32_t i = 0; i < n && sum > 0; i++) {
            if (is_full[i]) continue;
            share[i] = left * weight[i] / sum;
            if (share[i] < cap[i]) continue;
            share[i] = cap[i];
            is_full[i] = is_over = true;
        }
        if (!is_over) return;
    }
}

// Seconds for activations of some rows from one box to the next.
static double hop(const struct td_plan_cost *cost, const struct td_plan_link *link, double rows)
{
    return link->round_trip_seconds / 2 + rows * cost->hidden * ELEMENT_BYTES / link->bytes_per_s;
}

static void finish(struct td_plan_cluster *out, const struct td_plan_goal *goal, double read,
                   double token)
{
    out->first_seconds = goal->batch * read;
    out->total_seconds = out->first_seconds + (goal->answer_tokens - 1.0) * token;
    out->prefill_tokens_per_s = goal->prompt_tokens / read;
    out->decode_tokens_per_s = goal->batch / token;
}

static void by_layers(struct td_plan_cluster *out, const struct td_plan_cost *cost,
                      const struct times *t, uint32_t n, const struct td_plan_link *link,
                      const struct td_plan_goal *goal)
{
    double sum = 0, slowest = 0, token = 0;
    const double there = hop(cost, link, chunk_of(goal));
    for (uint32_t i = 0; i < n; i++) {
        sum += out->share[i] * t->chunk[i];
        slowest = fmax(slowest, out->share[i] * t->chunk[i]);
        token += out->share[i] * t->token[i];
    }
    const double rest = n_chunks(goal) - 1;
    const double hops = (n - 1) * there, back = n * hop(cost, link, goal->batch);
    // Sending a chunk on overlaps with computing the next unless it takes longer.
    const double read = sum + rest * fmax(slowest, there) + hops;
    out->link_seconds =
        goal->batch * (hops + rest * fmax(there - slowest, 0)) + (goal->answer_tokens - 1.0) * back;
    finish(out, goal, read, token + back);
}

// The cost of a box that has 1/n of every matrix and head.
static struct td_plan_cost part_of(const struct td_plan_cost *cost, double n)
{
    struct td_plan_cost c = *cost;
    double *parts[] = {&c.dense_bytes,        &c.expert_bytes,  &c.dense_flop,
                       &c.head_flop,          &c.expert_flop,   &c.attend_flop_full,
                       &c.attend_flop_window, &c.kv_bytes_full, &c.kv_bytes_window};
    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) *parts[i] /= n;
    return c;
}

static void times_of(struct times *out, const struct td_plan_cost *cost,
                     const struct td_plan_device *const *devices,
                     const struct td_plan_single *const *boxes, uint32_t n,
                     const struct td_plan_goal *goal)
{
    const double depth = (double)goal->depth_tokens + goal->prompt_tokens;
    const struct td_plan_test token = {false, goal->answer_tokens, depth, goal->batch, 1};
    for (uint32_t i = 0; i < n; i++) {
        const struct td_plan_rates *rates = &boxes[i]->belief.rates;
        out->chunk[i] = td_plan_read_seconds(NULL, cost, devices[i], rates, goal) / n_chunks(goal);
        out->token[i] =
            td_plan_test_time(NULL, cost, devices[i], rates, &token) / goal->answer_tokens;
    }
}

static void cut_layers(struct td_plan_cluster *out, const struct td_plan_cost *cost,
                       const struct times *t, const double *cap, uint32_t n,
                       const struct td_plan_link *link, const struct td_plan_goal *goal)
{
    double even[TD_PLAN_MAX_BOXES], greedy[TD_PLAN_MAX_BOXES];
    for (uint32_t i = 0; i < n; i++) {
        even[i] = 1 / t->chunk[i];
        // So steep that the fastest is filled before the next has anything to speak of.
        greedy[i] = pow(t->token[0] / t->token[i], 64);
    }
    struct td_plan_cluster other = *out;
    fill(out->share, even, cap, n);
    by_layers(out, cost, t, n, link, goal);
    fill(other.share, greedy, cap, n);
    by_layers(&other, cost, t, n, link, goal);
    if (other.total_seconds < out->total_seconds) *out = other;
}

static void cut_tensors(struct td_plan_cluster *out, const struct td_plan_cost *cost,
                        const struct times *t, uint32_t n, const struct td_plan_link *link,
                        const struct td_plan_goal *goal)
{
    double chunk = 0, token = 0;
    for (uint32_t i = 0; i < n; i++) {
        chunk = fmax(chunk, t->chunk[i]);
        token = fmax(token, t->token[i]);
    }
    // A sum over all boxes moves each element twice but for a box's own part, in steps that double
    // the number of boxes which know each other's.
    const double sums = 2.0 * cost->n_layers, steps = ceil(log2(n));
    const double per_row = 2 * (n - 1.0) / n * cost->hidden * ELEMENT_BYTES / link->bytes_per_s;
    const double chunk_link = sums * (steps * link->round_trip_seconds + chunk_of(goal) * per_row);
    const double token_link = sums * (steps * link->round_trip_seconds + goal->batch * per_row);
    out->link_seconds =
        goal->batch * n_chunks(goal) * chunk_link + (goal->answer_tokens - 1.0) * token_link;
    finish(out, goal, n_chunks(goal) * (chunk + chunk_link), token + token_link);
}

void td_plan_cluster(struct td_plan_cluster *out, enum td_plan_cut cut,
                     const struct td_plan_cost *cost, const struct td_plan_device *const *devices,
                     const struct td_plan_single *const *boxes, uint32_t n,
                     const struct td_plan_link *link, const struct td_plan_goal *goal)
{
    struct times t;
    double cap[TD_PLAN_MAX_BOXES], sum = 0;
    *out = (struct td_plan_cluster){.fits = true};
    for (uint32_t i = 0; i < n; i++) {
        cap[i] = most(cost, goal, boxes[i]->usable_bytes);
        out->share[i] = 1.0 / n;
        sum += cap[i];
    }
    if (cut == TD_PLAN_BY_LAYERS) {
        times_of(&t, cost, devices, boxes, n, goal);
        out->fits = sum >= 1;
        if (out->fits) cut_layers(out, cost, &t, cap, n, link, goal);
    } else {
        const struct td_plan_cost part = part_of(cost, n);
        times_of(&t, &part, devices, boxes, n, goal);
        cut_tensors(out, cost, &t, n, link, goal);
    }
    for (uint32_t i = 0; i < n; i++) {
        out->needed_bytes[i] = needed(cost, goal, out->share[i]);
        out->fits = out->fits && out->needed_bytes[i] <= boxes[i]->usable_bytes * (1 + 1e-9);
    }
}
