// SPDX-License-Identifier: MIT
// /metrics: what is counted, in Prometheus' text format 0.0.4. Its names are an interface: those
// that are there stay.
#include "server/http_impl.h"

#include "base/os.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct text {
    char *bytes;
    size_t n, cap;
    bool failed;
};

static void say(struct text *t, const char *fmt, ...) TD_PRINTF(2, 3);
static void say(struct text *t, const char *fmt, ...)
{
    char line[512];
    va_list args;
    va_start(args, fmt);
    const int n = vsnprintf(line, sizeof(line), fmt, args);
    va_end(args);
    if (n < 0 || (size_t)n >= sizeof(line)) t->failed = true;
    if (t->failed) return;
    if (t->n + (size_t)n + 1 > t->cap) {
        const size_t cap = t->cap ? t->cap * 2 : 16384;
        char *grown = realloc(t->bytes, cap);
        if (!grown) {
            t->failed = true;
            return;
        }
        t->bytes = grown;
        t->cap = cap;
    }
    memcpy(t->bytes + t->n, line, (size_t)n + 1);
    t->n += (size_t)n;
}

static void head(struct text *t, const char *name, const char *type, const char *help)
{
    say(t, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void gauge(struct text *t, const char *name, double value, const char *help)
{
    head(t, name, "gauge", help);
    say(t, "%s %.15g\n", name, value);
}

static void counter(struct text *t, const char *name, double value, const char *help)
{
    head(t, name, "counter", help);
    say(t, "%s %.15g\n", name, value);
}

static void histogram(struct text *t, const char *name, const struct td_histogram *x,
                      const char *help)
{
    head(t, name, "histogram", help);
    for (int i = 0; i < TD_HISTOGRAM_BOUNDS; i++)
        say(t, "%s_bucket{le=\"%g\"} %llu\n", name, td_histogram_bounds[i],
            (unsigned long long)x->counts[i]);
    say(t, "%s_bucket{le=\"+Inf\"} %llu\n%s_sum %.9g\n%s_count %llu\n", name,
        (unsigned long long)x->n, name, x->sum, name, (unsigned long long)x->n);
}

static void say_sched(struct text *t, const struct td_sched_stats *s)
{
    gauge(t, "tandem_slots", s->n_slots, "Answers that can be at work at once.");
    gauge(t, "tandem_slots_busy", s->n_running, "Answers at work now.");
    gauge(t, "tandem_queue_length", s->n_queued, "Answers that wait for a slot.");
    gauge(t, "tandem_context_tokens", s->n_ctx, "Tokens of one conversation at most.");
    head(t, "tandem_answers_total", "counter", "Answers by how they ended.");
    const struct {
        const char *how;
        uint64_t n;
    } ends[] = {{"done", s->n_done},
                {"failed", s->n_failed},
                {"cancelled", s->n_cancelled},
                {"refused", s->n_refused}};
    for (size_t i = 0; i < sizeof(ends) / sizeof(ends[0]); i++)
        say(t, "tandem_answers_total{result=\"%s\"} %llu\n", ends[i].how,
            (unsigned long long)ends[i].n);
    counter(t, "tandem_prompt_tokens_total", (double)s->n_prompt, "Tokens of prompts.");
    counter(t, "tandem_prompt_tokens_reused_total", (double)s->n_reused,
            "Of these: taken from KV that was there.");
    counter(t, "tandem_prompt_tokens_reused_disk_total", (double)s->n_reused_disk,
            "Of these: read from disk.");
    counter(t, "tandem_ahead_tokens_total", (double)s->n_ahead,
            "Tokens that were read before they were asked.");
    counter(t, "tandem_prefix_hits_total", (double)s->n_hits,
            "Prompts of which at least one token was reused.");
    counter(t, "tandem_written_tokens_total", (double)s->n_written, "Tokens of answers.");
    gauge(t, "tandem_prompt_tokens_per_second", s->prompt_tokens_per_s,
          "Speed of reading prompts, of the last seconds at work.");
    gauge(t, "tandem_written_tokens_per_second", s->written_tokens_per_s,
          "Speed of writing, of all answers together, of the last seconds at work.");
    gauge(t, "tandem_kv_bytes", (double)s->kv_bytes, "KV in use, also what is kept for later.");
    gauge(t, "tandem_kv_limit_bytes", (double)s->max_kv_bytes, "KV at most.");
    gauge(t, "tandem_kv_kept_bytes", (double)s->cache_bytes, "KV kept for later requests.");
    counter(t, "tandem_kv_evictions_total", (double)s->n_evicted,
            "Kept conversations given up for room.");
    gauge(t, "tandem_kv_disk_bytes", (double)s->disk_bytes, "KV on disk.");
}

static void say_relay(struct text *t, const struct td_sched_stats *s)
{
    head(t, "tandem_prompts_total", "counter", "Prompts by where they were read.");
    for (int i = 0; i < 4; i++)
        say(t, "tandem_prompts_total{path=\"%s\"} %llu\n",
            td_remote_path_text((enum td_remote_path)i), (unsigned long long)s->n_path[i]);
    counter(t, "tandem_relay_bytes_total", (double)s->relay_bytes, "Bytes of KV from peers.");
    counter(t, "tandem_relay_transfer_seconds_total", s->relay_transfer_seconds,
            "Time in which KV travelled.");
    counter(t, "tandem_relay_exposed_seconds_total", s->relay_exposed_seconds,
            "Of this, what computing there did not hide.");
    counter(t, "tandem_relay_stall_seconds_total", s->relay_stall_seconds,
            "Time in which peers waited for the link.");
}

static void say_http(struct text *t, struct td_http *h)
{
    pthread_mutex_lock(&h->lock);
    const uint32_t n_conns = h->n_conns, n_requests = h->n_requests;
    const uint64_t n_total = h->n_conns_total, n_cut = h->n_cut, n_gone = h->n_gone;
    const uint64_t in = h->in_bytes_total, out = h->out_bytes_total;
    uint64_t by_status[HTTP_STATUSES];
    memcpy(by_status, h->n_by_status, sizeof(by_status));
    pthread_mutex_unlock(&h->lock);
    gauge(t, "tandem_http_connections", n_conns, "Open connections.");
    gauge(t, "tandem_http_requests_active", n_requests, "Requests without a whole answer yet.");
    counter(t, "tandem_http_connections_total", (double)n_total, "Connections that came.");
    counter(t, "tandem_http_connections_cut_total", (double)n_cut,
            "Connections ended for being too slow or too many.");
    counter(t, "tandem_http_clients_gone_total", (double)n_gone,
            "Requests whose client left before the answer's end.");
    counter(t, "tandem_http_received_bytes_total", (double)in, "Bytes of request bodies.");
    counter(t, "tandem_http_sent_bytes_total", (double)out, "Bytes of answers' bodies.");
    head(t, "tandem_http_requests_total", "counter", "Requests by the status of their answer.");
    for (unsigned i = 1; i < HTTP_STATUSES; i++)
        if (by_status[i])
            say(t, "tandem_http_requests_total{status=\"%u\"} %llu\n", i,
                (unsigned long long)by_status[i]);
}

char *http_metrics(struct td_http *h, size_t *n_bytes_out)
{
    struct text t = {0};
    struct td_sched_stats stats = {0};
    struct td_os_rss rss = {0};
    td_sched_stats(h->cfg.sched, &stats);
    td_os_rss(&rss);
    head(&t, "tandem_build_info", "gauge", "The version.");
    say(&t, "tandem_build_info{version=\"%s\"} 1\n", h->cfg.version ? h->cfg.version : "");
    say_sched(&t, &stats);
    say_relay(&t, &stats);
    histogram(&t, "tandem_ttft_seconds", &stats.ttft, "From a request to its first token.");
    histogram(&t, "tandem_gap_seconds", &stats.gap, "Between two tokens of a stream.");
    histogram(&t, "tandem_queue_seconds", &stats.queue, "Waiting for a slot.");
    histogram(&t, "tandem_answer_seconds", &stats.total, "From a request to its last token.");
    say_http(&t, h);
    gauge(&t, "process_resident_memory_bytes", (double)rss.now_bytes, "Resident memory.");
    if (t.failed) {
        free(t.bytes);
        return NULL;
    }
    *n_bytes_out = t.n;
    return t.bytes;
}
