// SPDX-License-Identifier: MIT
// Speeds by depth, learnt. A bucket is a factor of two in depth, since attention's share of a
// token's time grows with depth and the rest does not: 24 buckets reach as far as a position does.
// In a bucket there is one point, moved half of the way to what was just seen, so that a machine
// that got busy shows soon and one odd run does not rule.
#include "plan/rates.h"

#include <math.h>

// Below this depth all is one bucket: attention costs next to nothing there.
#define FIRST_BUCKET 256.0

static int bucket_of(double depth)
{
    return depth < FIRST_BUCKET ? 0 : 1 + ilogb(depth / FIRST_BUCKET);
}

static double distance(const struct td_split_rate *rate, uint32_t i, double depth)
{
    return fabs(rate->points[i].depth_tokens - depth);
}

void td_rates_saw(struct td_split_rate *rate, uint32_t depth, uint32_t n_tokens, double seconds,
                  uint32_t min_tokens)
{
    if (n_tokens == 0 || n_tokens < min_tokens || !(seconds > 0) || isinf(seconds)) return;
    // Seconds per token grow evenly with depth: their mean over a run is that of its middle.
    const double at = depth + n_tokens / 2.0;
    const double token_seconds = seconds / n_tokens;
    struct td_split_point *p = rate->points;
    uint32_t nearest = 0;
    for (uint32_t i = 1; i < rate->n_points; i++)
        if (distance(rate, i, at) < distance(rate, nearest, at)) nearest = i;
    const bool is_full = rate->n_points >= TD_SPLIT_MAX_POINTS;
    const bool is_known =
        rate->n_points > 0 && (is_full || bucket_of(p[nearest].depth_tokens) == bucket_of(at));
    if (is_known) {
        // No other point lies between the two, so the order stays.
        struct td_split_point *old = &p[nearest];
        const double before = old->tokens_per_s > 0 ? 1 / old->tokens_per_s : token_seconds;
        old->depth_tokens = (old->depth_tokens + at) / 2;
        old->tokens_per_s = 2 / (before + token_seconds);
        return;
    }
    uint32_t i = rate->n_points++;
    for (; i > 0 && p[i - 1].depth_tokens > at; i--) p[i] = p[i - 1];
    p[i] = (struct td_split_point){.depth_tokens = at, .tokens_per_s = 1 / token_seconds};
}
