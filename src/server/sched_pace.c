// SPDX-License-Identifier: MIT
#include "server/sched_pace.h"

#include "base/num.h"

#include <math.h>

// A quarter of what is new: a prompt's steps get slower as it gets longer, by little each.
#define SMOOTH 0.25
// A step of fewer prompt rows than this costs about what one row costs: the weights are read
// anyway.
#define MIN_ROWS 8u

void td_pacer_init(struct td_pacer *p, uint32_t max_rows, double max_seconds)
{
    *p = (struct td_pacer){.max_rows = max_rows ? max_rows : 1, .max_seconds = max_seconds};
}

static uint32_t bucket_of(uint32_t rows)
{
    uint32_t b = 0;
    while (rows > 1 && b + 1 < TD_PACER_BUCKETS) rows >>= 1, b++;
    return b;
}

double td_pacer_expect(const struct td_pacer *p, uint32_t rows)
{
    double below_rows = 0, below_seconds = 0;
    for (uint32_t b = 0; b < TD_PACER_BUCKETS; b++) {
        const double at = p->buckets[b].rows, seconds = p->buckets[b].seconds;
        if (at == 0) continue;
        if (at >= (double)rows) {
            // Between two that were seen; fewer rows than any: as slow as those.
            if (below_rows == 0 || at <= below_rows) return seconds;
            const double part = ((double)rows - below_rows) / (at - below_rows);
            return below_seconds + part * (seconds - below_seconds);
        }
        below_rows = at;
        below_seconds = seconds;
    }
    // Beyond what was seen a row costs at most what it did there.
    return below_rows > 0 ? below_seconds * (double)rows / below_rows : 0;
}

// A prompt's rows get slower the deeper they are, for all sizes of steps: what one size shows
// counts for the others too.
static void scale_others(struct td_pacer *p, uint32_t except, double ratio)
{
    for (uint32_t b = bucket_of(MIN_ROWS); b < TD_PACER_BUCKETS; b++)
        if (b != except) p->buckets[b].seconds *= 1.0 + SMOOTH * (ratio - 1.0);
}

void td_pacer_saw(struct td_pacer *p, uint32_t rows, double seconds)
{
    if (rows == 0) return;
    const uint32_t b = bucket_of(rows);
    const double expected = td_pacer_expect(p, rows);
    if (expected > 0 && p->buckets[b].rows > 0) {
        const double ratio = fmin(fmax(seconds / expected, 0.5), 2.0);
        p->excess += SMOOTH * (fmax(ratio - 1.0, 0.0) - p->excess);
        if (rows >= MIN_ROWS) scale_others(p, b, ratio);
    }
    if (p->buckets[b].rows == 0) {
        p->buckets[b].rows = rows;
        p->buckets[b].seconds = seconds;
        return;
    }
    p->buckets[b].rows += SMOOTH * ((double)rows - p->buckets[b].rows);
    p->buckets[b].seconds += SMOOTH * (seconds - p->buckets[b].seconds);
}

uint32_t td_pacer_rows(const struct td_pacer *p, uint32_t n_single)
{
    const uint32_t most = p->max_rows > n_single ? p->max_rows - n_single : 1;
    if (n_single == 0) return most;
    // 95 of 100 steps shall hold it: what steps take over the expected goes off twice.
    const double target = p->max_seconds / (1.05 + 2.0 * p->excess);
    if (td_pacer_expect(p, n_single + MIN_ROWS) == 0) return td_min_u32(most, 4 * MIN_ROWS);
    uint32_t low = td_min_u32(MIN_ROWS, most), high = most;
    while (low < high) {
        const uint32_t rows = low + (high - low + 1) / 2;
        if (td_pacer_expect(p, n_single + rows) <= target)
            low = rows;
        else
            high = rows - 1;
    }
    // Kernels take rows by 16: the last few cost as much as all of them.
    return low > 32 ? low / 16 * 16 : low;
}
