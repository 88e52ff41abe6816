// SPDX-License-Identifier: MIT
// From logits to a token: temperature, top-k, top-p, min-p, draw. Deterministic for a seed; works
// in memory taken at open.
#include "base/num.h"
#include "engine/engine.h"

#include <math.h>
#include <stdlib.h>

struct candidate {
    float logit; // below the top one's, over temperature: at most 0
    int32_t id;
};

struct td_sampler {
    struct td_sampling cfg;
    struct td_rng rng;
    uint32_t n_vocab;
    struct candidate *heap; // (n_vocab)
};

int td_sampler_open(struct td_sampler **out, const struct td_sampling *cfg, uint32_t n_vocab,
                    struct td_error *err)
{
    *out = NULL;
    // Written so that NaN fails too.
    if (!(cfg->temp >= 0.0f && cfg->temp <= 100.0f))
        return td_fail(err, TD_EARG, "temperature %g: between 0 and 100 is possible",
                       (double)cfg->temp);
    if (!(cfg->top_p > 0.0f && cfg->top_p <= 1.0f))
        return td_fail(err, TD_EARG, "top-p %g: above 0 and up to 1 is possible",
                       (double)cfg->top_p);
    if (!(cfg->min_p >= 0.0f && cfg->min_p <= 1.0f))
        return td_fail(err, TD_EARG, "min-p %g: between 0 and 1 is possible", (double)cfg->min_p);
    struct td_sampler *s = calloc(1, sizeof(*s));
    struct candidate *heap = malloc((size_t)n_vocab * sizeof(*heap));
    if (!s || !heap) {
        free(s);
        free(heap);
        return td_fail(err, TD_ENOMEM, "no memory to sample from %u tokens", n_vocab);
    }
    *s = (struct td_sampler){.cfg = *cfg, .rng = {cfg->seed}, .n_vocab = n_vocab, .heap = heap};
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
    free(s);
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
