// SPDX-License-Identifier: MIT
#include "server/sched_impl.h"

#include "base/clock.h"

#include <math.h>

// Speeds are those of the last seconds at work: older steps count less and less.
#define MEMORY_SECONDS 5.0
// The engine's figures are taken this often: they are for people.
#define REPORT_NS 200000000u

const double td_histogram_bounds[TD_HISTOGRAM_BOUNDS] = {0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1,
                                                         2,     5,    10,   30,  60,  120, 300};

double td_sched_seconds(uint64_t from_ns, uint64_t to_ns)
{
    return from_ns && to_ns > from_ns ? (double)(to_ns - from_ns) * 1e-9 : 0;
}

void td_histogram_add(struct td_histogram *h, double seconds)
{
    for (int i = 0; i < TD_HISTOGRAM_BOUNDS; i++)
        if (seconds <= td_histogram_bounds[i]) h->counts[i]++;
    h->n++;
    h->sum += seconds;
}

static void count_rate(struct td_rate_now *r, uint32_t n, double seconds)
{
    if (n == 0) return;
    const double keep = exp(-seconds / MEMORY_SECONDS);
    r->n = r->n * keep + n;
    r->seconds = r->seconds * keep + seconds;
}

void td_sched_count_step(struct td_sched *s, uint32_t n_prompt, uint32_t n_written, double seconds)
{
    count_rate(&s->reading, n_prompt, seconds);
    count_rate(&s->writing, n_written, seconds);
}

void td_sched_count_engine(struct td_sched *s, bool now)
{
    const uint64_t t_ns = td_clock_ns();
    if (!now && t_ns - s->report_ns < REPORT_NS) return;
    s->report_ns = t_ns;
    struct td_device_report report;
    struct td_cache_stats cache;
    td_engine_report(s->cfg.engine, &report);
    td_engine_cache_stats(s->cfg.engine, &cache);
    pthread_mutex_lock(&s->mutex);
    s->stats.kv_bytes = report.kv_bytes;
    s->stats.cache_bytes = cache.bytes;
    s->stats.n_evicted = cache.n_evicted;
    if (s->reading.seconds > 0) s->stats.prompt_tokens_per_s = s->reading.n / s->reading.seconds;
    if (s->writing.seconds > 0) s->stats.written_tokens_per_s = s->writing.n / s->writing.seconds;
    pthread_mutex_unlock(&s->mutex);
}

void td_sched_stats(struct td_sched *s, struct td_sched_stats *out)
{
    pthread_mutex_lock(&s->mutex);
    *out = s->stats;
    out->n_slots = s->cfg.n_slots;
    out->n_ctx = s->cfg.n_ctx;
    out->n_running = s->n_running;
    out->n_queued = s->n_queued;
    out->max_kv_bytes = s->cfg.max_kv_bytes;
    pthread_mutex_unlock(&s->mutex);
}
