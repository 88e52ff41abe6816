// SPDX-License-Identifier: MIT
// Remote prefill or not. The prompt's last token is always run where the answer is written, so a
// split reads tokens [cached, N - 1) there and one token here.
//
// Streaming by layer: within a chunk that takes C seconds, the l-th of L layers is final at
// (l + 1) C / L, and its bytes queue behind those before it. The end of a queue whose items arrive
// evenly and are all alike is reached with the first item, the last, or no gap at all waiting:
// end = max(free + L x, t + C / L + L x, t + C + x), x the seconds of one layer's bytes. The
// exposed tail is what is left when the far side is done: one layer of one chunk on a fast link.
#include "plan/split.h"

#include <math.h>

static double min_f64(double a, double b)
{
    return a < b ? a : b;
}

static double max_f64(double a, double b)
{
    return a > b ? a : b;
}

static double token_seconds_of(const struct td_split_point *p)
{
    return p->tokens_per_s > 0 ? 1 / p->tokens_per_s : HUGE_VAL;
}

// Seconds for one token at a depth.
static double token_seconds(const struct td_split_rate *rate, double depth)
{
    const struct td_split_point *p = rate->points;
    const uint32_t n = rate->n_points;
    if (n == 0) return HUGE_VAL;
    const double first = token_seconds_of(&p[0]);
    if (n == 1 || depth <= p[0].depth_tokens) return first;
    uint32_t i = 1;
    while (i + 1 < n && depth > p[i].depth_tokens) i++;
    const double a = token_seconds_of(&p[i - 1]), b = token_seconds_of(&p[i]);
    const double width = p[i].depth_tokens - p[i - 1].depth_tokens;
    if (!(width > 0) || isinf(a) || isinf(b)) return b;
    const double at = a + (b - a) * (depth - p[i - 1].depth_tokens) / width;
    // Behind the last point noise must not make tokens free.
    return depth > p[i].depth_tokens ? max_f64(at, b) : at;
}

double td_split_read_seconds(const struct td_split_rate *rate, double from_tokens, double to_tokens)
{
    if (to_tokens <= from_tokens) return 0;
    // token_seconds is linear between points: the trapezoid is exact from point to point.
    double seconds = 0, at = from_tokens;
    for (uint32_t i = 0; i <= rate->n_points && at < to_tokens; i++) {
        double next = i < rate->n_points ? rate->points[i].depth_tokens : to_tokens;
        next = min_f64(next, to_tokens);
        if (next <= at) continue;
        seconds += (next - at) * (token_seconds(rate, at) + token_seconds(rate, next)) / 2;
        at = next;
    }
    return seconds;
}

// Bytes over the link for a chunk that ends at `end` and began at `begin`.
static double chunk_bytes(const struct td_split_ask *ask, double begin, double end,
                          bool is_checkpoint, double window_sent)
{
    double bytes = 0;
    for (uint32_t i = 0; i < ask->n_groups; i++) {
        const struct td_split_group *g = &ask->groups[i];
        const double per_token = g->n_layers * g->bytes_per_token_layer;
        if (g->window_tokens == 0) {
            bytes += (end - begin) * per_token;
        } else if (is_checkpoint) {
            // What a token at `end` sees, without what was sent at the checkpoint before.
            const double seen_from = max_f64(end - (g->window_tokens - 1), window_sent);
            bytes += max_f64(end - seen_from, 0) * per_token;
        }
    }
    return bytes;
}

// 0 bytes take no time on any link, also on one whose speed is not known (0).
static double link_seconds(const struct td_split_ask *ask, double bytes)
{
    return bytes > 0 ? bytes / ask->link_bytes_per_s : 0;
}

struct transfer {
    double kv_bytes;
    double end_seconds; // after the far prefill began: when the last byte is sent
    double far_seconds;
};

// Walks the far prefill chunk by chunk and the link behind it.
static void stream(struct transfer *out, const struct td_split_ask *ask)
{
    const double end = ask->n_prompt_tokens - 1.0;
    const double have = ask->here.n_cached_tokens;
    // What is cached there and not here can travel at once.
    const double cached = min_f64(max_f64(have, ask->there.n_cached_tokens), end);
    double n_layers = 0;
    for (uint32_t i = 0; i < ask->n_groups; i++) n_layers += ask->groups[i].n_layers;
    n_layers = max_f64(n_layers, 1);

    double window_sent = have; // window layers: sent up to here
    double checkpoint = have;
    double t = 0; // far clock
    out->kv_bytes = chunk_bytes(ask, have, cached, cached == end, window_sent);
    double link_free = link_seconds(ask, out->kv_bytes);
    for (double begin = ask->there.n_cached_tokens; begin < end;) {
        const double stop = ask->chunk_tokens ? min_f64(begin + ask->chunk_tokens, end) : end;
        const double chunk_seconds = td_split_read_seconds(&ask->there.prefill, begin, stop);
        const bool is_checkpoint = stop == end || stop - checkpoint >= ask->checkpoint_tokens;
        // Tokens that this machine has already are computed there but do not travel.
        const double bytes =
            chunk_bytes(ask, min_f64(max_f64(begin, have), stop), stop, is_checkpoint, window_sent);
        if (is_checkpoint) checkpoint = window_sent = stop;
        const double x = link_seconds(ask, bytes / n_layers);
        if (bytes > 0)
            link_free = max_f64(max_f64(link_free, t + chunk_seconds / n_layers) + n_layers * x,
                                t + chunk_seconds + x);
        out->kv_bytes += bytes;
        t += chunk_seconds;
        begin = stop;
    }
    out->far_seconds = t;
    if (ask->stream == TD_SPLIT_AT_END) link_free = t + link_seconds(ask, out->kv_bytes);
    out->end_seconds = max_f64(link_free, t);
}

// Prefill there, first token here.
static double split_first_seconds(const struct td_split_ask *ask, struct transfer *t)
{
    stream(t, ask);
    const double last = ask->n_prompt_tokens - 1.0;
    return ask->setup_seconds + ask->round_trip_seconds + ask->there.wait_seconds + t->end_seconds +
           token_seconds(&ask->here.decode, last);
}

// Reads the prompt and begins the answer on one machine: the prompt's last row gives the first
// token.
static double alone_first_seconds(const struct td_split_machine *m, uint32_t n_prompt_tokens)
{
    return m->wait_seconds +
           td_split_read_seconds(&m->prefill, m->n_cached_tokens, n_prompt_tokens);
}

static double rest_seconds(const struct td_split_machine *m, const struct td_split_ask *ask)
{
    const double n = ask->n_prompt_tokens;
    return td_split_read_seconds(&m->decode, n, n + ask->n_answer_tokens - 1.0);
}

// Why the split does not pay.
static enum td_split_why why_not(const struct td_split_ask *ask, double here_first_seconds)
{
    struct td_split_ask perfect = *ask;
    struct transfer t;
    perfect.link_bytes_per_s = HUGE_VAL;
    if (split_first_seconds(&perfect, &t) < here_first_seconds) return TD_SPLIT_LINK_SLOW;
    perfect.round_trip_seconds = perfect.setup_seconds = 0;
    if (split_first_seconds(&perfect, &t) < here_first_seconds) return TD_SPLIT_LATENCY;
    // With the same tokens cached there, would it?
    perfect.there.n_cached_tokens = ask->here.n_cached_tokens;
    if (perfect.there.n_cached_tokens > ask->there.n_cached_tokens &&
        split_first_seconds(&perfect, &t) < here_first_seconds)
        return TD_SPLIT_CACHED_HERE;
    return TD_SPLIT_PEER_SLOWER;
}

void td_split(struct td_split *out, const struct td_split_ask *ask)
{
    const uint32_t n = ask->n_prompt_tokens;
    struct transfer t;
    *out = (struct td_split){0};
    out->here_first_seconds = alone_first_seconds(&ask->here, n);
    out->here_seconds = out->here_first_seconds + rest_seconds(&ask->here, ask);
    out->there_first_seconds =
        ask->setup_seconds + ask->round_trip_seconds + alone_first_seconds(&ask->there, n);
    out->there_seconds = out->there_first_seconds + rest_seconds(&ask->there, ask);
    out->split_first_seconds = split_first_seconds(ask, &t);
    out->split_seconds = out->split_first_seconds + rest_seconds(&ask->here, ask);

    out->n_here_tokens = n - ask->here.n_cached_tokens;
    out->n_there_tokens =
        n - 1 > ask->there.n_cached_tokens ? n - 1 - ask->there.n_cached_tokens : 0;
    out->far_seconds = t.far_seconds;
    out->kv_bytes = t.kv_bytes;
    out->transfer_seconds = link_seconds(ask, t.kv_bytes);
    out->exposed_seconds = t.end_seconds - t.far_seconds;
    if (isinf(t.far_seconds)) out->exposed_seconds = HUGE_VAL;

    if (out->n_here_tokens <= 1) {
        out->why = TD_SPLIT_NOTHING_TO_READ;
    } else if (isinf(out->here_first_seconds) || isinf(out->split_first_seconds)) {
        // Nothing is compared with what is not known.
        out->why = TD_SPLIT_UNKNOWN;
    } else if (out->split_first_seconds < out->here_first_seconds) {
        out->why = TD_SPLIT_PAYS;
        out->pays = true;
    } else {
        out->why = why_not(ask, out->here_first_seconds);
    }
    out->all_there_is_faster =
        out->there_seconds < min_f64(out->here_seconds, out->split_seconds) &&
        !isinf(out->here_seconds);
}

static bool pays_at(struct td_split_ask *ask, uint32_t n_prompt_tokens)
{
    struct td_split s;
    ask->n_prompt_tokens = n_prompt_tokens;
    td_split(&s, ask);
    return s.pays;
}

uint32_t td_split_pays_from(const struct td_split_ask *ask, uint32_t max_tokens)
{
    struct td_split_ask a = *ask;
    a.here.n_cached_tokens = a.there.n_cached_tokens = 0;
    // Doubling finds a size that pays, halving the first: fixed costs shrink beside what each token
    // gains, so there is one crossing.
    uint32_t low = 1, high = 2;
    while (high < max_tokens && !pays_at(&a, high)) {
        low = high;
        high = high > max_tokens / 2 ? max_tokens : high * 2;
    }
    if (high > max_tokens || !pays_at(&a, high)) return 0;
    while (high - low > 1) {
        const uint32_t middle = low + (high - low) / 2;
        if (pays_at(&a, middle))
            high = middle;
        else
            low = middle;
    }
    return high;
}

const char *td_split_why_text(enum td_split_why why)
{
    switch (why) {
    case TD_SPLIT_PAYS: return "the peer reads the prompt faster";
    case TD_SPLIT_NOTHING_TO_READ: return "the prompt is cached here";
    case TD_SPLIT_UNKNOWN: return "a speed has not been measured yet";
    case TD_SPLIT_CACHED_HERE: return "most of the prompt is cached here and not there";
    case TD_SPLIT_PEER_SLOWER: return "the peer does not read faster than this machine";
    case TD_SPLIT_LATENCY: return "the round trip costs more than is gained";
    case TD_SPLIT_LINK_SLOW: return "the link is too slow for the KV";
    }
    return "?";
}
