// SPDX-License-Identifier: MIT
// From logits to a token: bias and penalties, temperature, top-k, top-p, min-p, draw. Deterministic
// for a seed; works in memory taken at open.
#include "base/num.h"
#include "engine/engine.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define LAST_N 64 // tokens that the repeat penalty looks at when nobody says

struct candidate {
    float logit; // below the top one's, over temperature: at most 0
    int32_t id;
};

// What penalties know of one token.
struct seen {
    uint32_t n_written; // in the answer so far
    uint32_t n_recent;  // among the last ones, prompt included
    bool is_listed;
};

struct td_sampler {
    struct td_sampling cfg;
    struct td_rng rng;
    uint32_t n_vocab;
    struct candidate *heap;     // (n_vocab)
    struct td_logit_bias *bias; // (cfg.n_bias), own copy
    float *logits;              // (n_vocab) with bias and penalties; NULL: there are none
    // With penalties, else NULL.
    struct seen *seen; // (n_vocab)
    int32_t *listed;   // (n_vocab) each token seen, once; [0, n_listed)
    uint32_t n_listed;
    int32_t *recent; // (n_last) ring of the last tokens; NULL: no repeat penalty
    uint32_t n_last, n_recent, i_recent;
};

static bool repeats_matter(const struct td_sampling *cfg)
{
    return cfg->repeat_penalty != 0.0f && cfg->repeat_penalty != 1.0f;
}

static bool is_penalty(float x)
{
    return x >= -2.0f && x <= 2.0f; // not NaN
}

static int check(const struct td_sampling *cfg, uint32_t n_vocab, struct td_error *err)
{
    // Written so that NaN fails too.
    if (!(cfg->temp >= 0.0f && cfg->temp <= 100.0f))
        return td_fail(err, TD_EARG, "temperature %g: between 0 and 100 is possible",
                       (double)cfg->temp);
    if (!(cfg->top_p > 0.0f && cfg->top_p <= 1.0f))
        return td_fail(err, TD_EARG, "top-p %g: above 0 and up to 1 is possible",
                       (double)cfg->top_p);
    if (!(cfg->min_p >= 0.0f && cfg->min_p <= 1.0f))
        return td_fail(err, TD_EARG, "min-p %g: between 0 and 1 is possible", (double)cfg->min_p);
    if (!(cfg->repeat_penalty >= 0.0f && cfg->repeat_penalty <= 10.0f))
        return td_fail(err, TD_EARG, "repeat penalty %g: between 0 and 10 is possible",
                       (double)cfg->repeat_penalty);
    if (!is_penalty(cfg->presence_penalty) || !is_penalty(cfg->frequency_penalty))
        return td_fail(err, TD_EARG,
                       "presence penalty %g, frequency penalty %g: between -2 and 2 is possible",
                       (double)cfg->presence_penalty, (double)cfg->frequency_penalty);
    if (cfg->n_bias > TD_MAX_LOGIT_BIAS)
        return td_fail(err, TD_EARG, "logit bias for %u tokens: at most %d are possible",
                       cfg->n_bias, TD_MAX_LOGIT_BIAS);
    for (uint32_t i = 0; i < cfg->n_bias; i++) {
        const struct td_logit_bias *b = &cfg->bias[i];
        if (b->token < 0 || (uint32_t)b->token >= n_vocab)
            return td_fail(err, TD_EARG, "logit bias: token %d is not in the vocabulary of %u",
                           b->token, n_vocab);
        if (!(fabsf(b->bias) <= 1e6f))
            return td_fail(err, TD_EARG, "logit bias %g of token %d is no sensible number",
                           (double)b->bias, b->token);
    }
    return TD_OK;
}

// Tables that only bias and penalties need.
static bool open_tables(struct td_sampler *s)
{
    const struct td_sampling *cfg = &s->cfg;
    const bool is_penal = cfg->presence_penalty != 0.0f || cfg->frequency_penalty != 0.0f;
    if (cfg->n_bias > 0) {
        s->bias = malloc(cfg->n_bias * sizeof(*s->bias));
        if (!s->bias) return false;
        memcpy(s->bias, cfg->bias, cfg->n_bias * sizeof(*s->bias));
    }
    s->cfg.bias = NULL; // the caller's
    if (!is_penal && !repeats_matter(cfg) && cfg->n_bias == 0) return true;
    s->logits = malloc(s->n_vocab * sizeof(*s->logits));
    if (!s->logits) return false;
    if (!is_penal && !repeats_matter(cfg)) return true;
    s->seen = calloc(s->n_vocab, sizeof(*s->seen));
    s->listed = malloc(s->n_vocab * sizeof(*s->listed));
    if (!s->seen || !s->listed) return false;
    if (!repeats_matter(cfg)) return true;
    s->n_last = cfg->repeat_last_n ? td_min_u32(cfg->repeat_last_n, 1u << 20) : LAST_N;
    s->recent = malloc(s->n_last * sizeof(*s->recent));
    return s->recent != NULL;
}

int td_sampler_open(struct td_sampler **out, const struct td_sampling *cfg, uint32_t n_vocab,
                    struct td_error *err)
{
    *out = NULL;
    const int code = check(cfg, n_vocab, err);
    if (code != TD_OK) return code;
    struct td_sampler *s = calloc(1, sizeof(*s));
    if (!s) return td_fail(err, TD_ENOMEM, "no memory to sample from %u tokens", n_vocab);
    *s = (struct td_sampler){.cfg = *cfg, .rng = {cfg->seed}, .n_vocab = n_vocab};
    s->heap = malloc((size_t)n_vocab * sizeof(*s->heap));
    if (!s->heap || !open_tables(s)) {
        td_sampler_close(s);
        return td_fail(err, TD_ENOMEM, "no memory to sample from %u tokens", n_vocab);
    }
    *out = s;
    return TD_OK;
}

uint32_t td_sampler_n_vocab(const struct td_sampler *s)
{
    return s->n_vocab;
}

void td_sampler_close(struct td_sampler *s)
{
    if (!s) return;
    free(s->heap);
    free(s->bias);
    free(s->logits);
    free(s->seen);
    free(s->listed);
    free(s->recent);
    free(s);
}

// ---- bias and penalties -----------------------------------------------------------------------

static struct seen *note(struct td_sampler *s, int32_t token)
{
    struct seen *seen = &s->seen[token];
    if (!seen->is_listed) s->listed[s->n_listed++] = token;
    seen->is_listed = true;
    return seen;
}

// Into the ring of the last tokens; the oldest goes out.
static void push_recent(struct td_sampler *s, int32_t token)
{
    if (s->n_recent == s->n_last)
        s->seen[s->recent[s->i_recent]].n_recent--;
    else
        s->n_recent++;
    s->recent[s->i_recent] = token;
    s->i_recent = (s->i_recent + 1) % s->n_last;
    note(s, token)->n_recent++;
}

static bool is_known(const struct td_sampler *s, int32_t token)
{
    return token >= 0 && (uint32_t)token < s->n_vocab;
}

void td_sampler_begin(struct td_sampler *s, const int32_t *prompt, uint32_t n_prompt)
{
    if (!s->seen) return;
    for (uint32_t i = 0; i < s->n_listed; i++) s->seen[s->listed[i]] = (struct seen){0};
    s->n_listed = s->n_recent = s->i_recent = 0;
    if (!s->recent) return;
    for (uint32_t i = n_prompt - td_min_u32(n_prompt, s->n_last); i < n_prompt; i++)
        if (is_known(s, prompt[i])) push_recent(s, prompt[i]);
}

void td_sampler_accept(struct td_sampler *s, int32_t token)
{
    if (!s->seen || !is_known(s, token)) return;
    note(s, token)->n_written++;
    if (s->recent) push_recent(s, token);
}

// The logits with bias and penalties; the caller's own where there are none.
static const float *adjust(struct td_sampler *s, const float *logits)
{
    if (!s->logits) return logits;
    memcpy(s->logits, logits, s->n_vocab * sizeof(*logits));
    for (uint32_t i = 0; i < s->cfg.n_bias; i++) s->logits[s->bias[i].token] += s->bias[i].bias;
    for (uint32_t i = 0; i < s->n_listed; i++) {
        const struct seen *seen = &s->seen[s->listed[i]];
        float *logit = &s->logits[s->listed[i]];
        if (seen->n_recent > 0)
            *logit =
                *logit > 0.0f ? *logit / s->cfg.repeat_penalty : *logit * s->cfg.repeat_penalty;
        if (seen->n_written > 0)
            *logit -= s->cfg.presence_penalty + s->cfg.frequency_penalty * (float)seen->n_written;
    }
    return s->logits;
}

static int32_t most_likely(const float *logits, uint32_t n)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < n; i++)
        // The lowest id among equals; anything beats NaN.
        if (logits[i] > logits[best] || (isnan(logits[best]) && !isnan(logits[i]))) best = i;
    return (int32_t)best;
}

// Higher logit first, lower id among equals: a total order, so that results do not depend on the
// heap.
static bool comes_before(const struct candidate *a, const struct candidate *b)
{
    return a->logit > b->logit || (a->logit == b->logit && a->id < b->id);
}

static void sift_down(struct candidate *heap, uint32_t n, uint32_t at)
{
    const struct candidate moved = heap[at];
    for (uint32_t child; (child = 2 * at + 1) < n; at = child) {
        if (child + 1 < n && comes_before(&heap[child + 1], &heap[child])) child++;
        if (!comes_before(&heap[child], &moved)) break;
        heap[at] = heap[child];
    }
    heap[at] = moved;
}

// Moves the best of heap[0, n) to heap[n - 1].
static void pop(struct candidate *heap, uint32_t n)
{
    const struct candidate best = heap[0];
    heap[0] = heap[n - 1];
    if (n > 1) sift_down(heap, n - 1, 0);
    heap[n - 1] = best;
}

static double weight(const struct candidate *c)
{
    return exp((double)c->logit);
}

// Top-k, then top-p of what top-k left: the survivors lie at the end of heap[0, n). Returns how
// many.
static uint32_t cut(struct td_sampler *s, uint32_t n, double total)
{
    struct candidate *heap = s->heap;
    const uint32_t k = s->cfg.top_k > 0 && s->cfg.top_k < n ? s->cfg.top_k : n;
    for (uint32_t i = n / 2; i > 0; i--) sift_down(heap, n, i - 1);
    if (k < n) {
        total = 0.0;
        for (uint32_t i = 0; i < k; i++) {
            pop(heap, n - i);
            total += weight(&heap[n - i - 1]);
        }
    }
    // Without top-k, candidates are popped only as far as top-p needs them: few, for a real model.
    double mass = 0.0;
    uint32_t n_kept = 0;
    while (n_kept < k && (n_kept == 0 || mass < (double)s->cfg.top_p * total)) {
        if (k == n) pop(heap, n - n_kept);
        n_kept++;
        mass += weight(&heap[n - n_kept]);
    }
    return n_kept;
}

int32_t td_sampler_draw(struct td_sampler *s, const float *logits)
{
    logits = adjust(s, logits);
    const int32_t best = most_likely(logits, s->n_vocab);
    if (s->cfg.temp == 0.0f || !isfinite(logits[best])) return best;
    double total = 0.0;
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->n_vocab; i++) {
        // The difference first: a tiny temperature must not make infinities of both.
        const float below = (logits[i] - logits[best]) / s->cfg.temp;
        const struct candidate c = {.logit = below, .id = (int32_t)i};
        if (isnan(c.logit)) continue;
        total += weight(&c);
        s->heap[n++] = c;
    }
    const bool is_cut = s->cfg.top_k > 0 || s->cfg.top_p < 1.0f;
    const uint32_t n_kept = is_cut ? cut(s, n, total) : n;
    const struct candidate *from = s->heap + (n - n_kept);
    double sum = 0.0;
    for (uint32_t i = 0; i < n_kept; i++) {
        const double w = weight(&from[i]);
        if (w >= (double)s->cfg.min_p) sum += w;
    }
    double u = (double)(td_rng_u64(&s->rng) >> 11) * 0x1p-53 * sum;
    int32_t chosen = best;
    for (uint32_t i = 0; i < n_kept; i++) {
        const double w = weight(&from[i]);
        if (w < (double)s->cfg.min_p) continue;
        chosen = from[i].id;
        if (u < w) break;
        u -= w;
    }
    return chosen;
}

// ---- how likely tokens are --------------------------------------------------------------------

// Puts a token into a list that descends, of which n of n_max are there.
static uint32_t insert(struct td_logprob *top, uint32_t n, uint32_t n_max, int32_t token,
                       float logit)
{
    if (n == n_max && !(logit > top[n - 1].logprob)) return n;
    if (n < n_max) n++;
    uint32_t i = n - 1;
    // Ids ascend, so an equal one that is there comes first.
    for (; i > 0 && logit > top[i - 1].logprob; i--) top[i] = top[i - 1];
    top[i] = (struct td_logprob){.token = token, .logprob = logit};
    return n;
}

static float logprob_of(float logit, float best, double log_total)
{
    if (isnan(logit)) return -INFINITY;
    if (isinf(best)) return logit == best && best > 0.0f ? 0.0f : -INFINITY;
    return (float)((double)logit - (double)best - log_total);
}

uint32_t td_logprobs(const float *logits, uint32_t n_vocab, int32_t token, float *chosen_out,
                     struct td_logprob *top_out, uint32_t n_top)
{
    const float best = logits[most_likely(logits, n_vocab)];
    const uint32_t n_max = td_min_u32(n_top, TD_MAX_LOGPROBS);
    double total = 0.0;
    uint32_t n = 0;
    for (uint32_t i = 0; i < n_vocab; i++) {
        if (isnan(logits[i])) continue;
        if (!isinf(best)) total += exp((double)logits[i] - (double)best);
        if (n_max > 0) n = insert(top_out, n, n_max, (int32_t)i, logits[i]);
    }
    const double log_total = total > 0.0 ? log(total) : 0.0;
    for (uint32_t i = 0; i < n; i++)
        top_out[i].logprob = logprob_of(top_out[i].logprob, best, log_total);
    if (chosen_out)
        *chosen_out = token >= 0 && (uint32_t)token < n_vocab
                          ? logprob_of(logits[token], best, log_total)
                          : -INFINITY;
    return n;
}
