// SPDX-License-Identifier: MIT
// From logits to a token: bias and penalties, temperature, top-k, top-p, min-p, draw. Deterministic
// for a seed; works in memory taken at open.
#include "base/num.h"
#include "engine/engine.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK  64u // tokens that are weighed together
#define LAST_N 64  // tokens that the repeat penalty looks at when nobody says

struct candidate {
    float logit; // below the top one's, over temperature: at most 0
    int32_t id;
};

// Tokens of about one likelihood.
#define TD_SAMPLER_BINS 4096u
struct bin {
    double mass;
    uint32_t n;
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
    struct candidate *heap;     // (n_vocab) tokens at the border of a cut
    float *weights;             // (n_vocab, up to a whole block)
    double *sums;               // of the weights, by block
    struct bin *bins;           // (TD_SAMPLER_BINS)
    float floor;                // lighter tokens lie below any cut
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
    const size_t n_blocks = ((size_t)n_vocab + BLOCK - 1) / BLOCK;
    s->weights = malloc(n_blocks * BLOCK * sizeof(*s->weights));
    s->sums = malloc(n_blocks * sizeof(*s->sums));
    s->bins = malloc(TD_SAMPLER_BINS * sizeof(*s->bins));
    if (!s->heap || !s->weights || !s->sums || !s->bins || !open_tables(s)) {
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
    free(s->weights);
    free(s->sums);
    free(s->bins);
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

// ---- weights ----------------------------------------------------------------------------------
//
// A vocabulary has 200 000 tokens and a batch many rows: what is done for every token goes in
// blocks of a fixed size without branches, which compilers make vector code of, and nothing is
// sorted but what lies at a border.

// exp(x) below this is as good as 0; above it, a normal number.
#define EXP_MIN (-87.0f)

// A block's logits, with -INFINITY for what is no number or beyond the end.
static void take_block(float *restrict out, const float *logits, uint32_t n)
{
    if (n == BLOCK) {
        for (uint32_t i = 0; i < BLOCK; i++)
            out[i] = logits[i] == logits[i] ? logits[i] : -INFINITY;
        return;
    }
    for (uint32_t i = 0; i < BLOCK; i++)
        out[i] = i < n && logits[i] == logits[i] ? logits[i] : -INFINITY;
}

static int32_t most_likely(const float *logits, uint32_t n)
{
    float block[BLOCK], most[BLOCK], best = -INFINITY;
    for (uint32_t i = 0; i < BLOCK; i++) most[i] = -INFINITY;
    for (uint32_t at = 0; at < n; at += BLOCK) {
        take_block(block, logits + at, td_min_u32(n - at, BLOCK));
        for (uint32_t i = 0; i < BLOCK; i++) most[i] = block[i] > most[i] ? block[i] : most[i];
    }
    for (uint32_t i = 0; i < BLOCK; i++) best = most[i] > best ? most[i] : best;
    // The lowest id among equals; anything beats NaN.
    for (uint32_t i = 0; i < n; i++)
        if (logits[i] == best) return (int32_t)i;
    return 0;
}

// w = exp(x) for x <= 0, within a few units of the last place, by operations that give the same
// bits on every machine: x = k ln 2 + r, |r| <= ln 2 / 2, and the Taylor series of exp(r) up to
// r^7 / 7!, which leaves r^8 / 8! < 6e-9.
static void exp_block(float *restrict w, const float *x)
{
    const float magic = 12582912.0f; // 1.5 * 2^23: adding it rounds to an integer
    const float ln2_hi = 0x1.62e4p-1f, ln2_lo = 0x1.7f7d1cp-20f; // k * ln2_hi is exact
    for (uint32_t i = 0; i < BLOCK; i++) {
        const uint32_t keep = x[i] >= EXP_MIN ? ~0u : 0u; // a mask: compilers shy at branches here
        const float y = td_f32_of_bits(td_bits_of_f32(x[i]) & keep);
        const float t = y * 0x1.715476p+0f + magic;
        const float k = t - magic;
        const float r = (y - k * ln2_hi) - k * ln2_lo;
        float p = 1.0f / 5040;
        p = p * r + 1.0f / 720;
        p = p * r + 1.0f / 120;
        p = p * r + 1.0f / 24;
        p = p * r + 1.0f / 6;
        p = p * r + 0.5f;
        p = p * r + 1.0f;
        p = p * r + 1.0f;
        p *= td_f32_of_bits((td_bits_of_f32(t) << 23) + 0x3f800000u);
        w[i] = td_f32_of_bits(td_bits_of_f32(p) & keep);
    }
}

// In an order that does not depend on the compiler.
static double sum_block(const float *w)
{
    double sums[4] = {0};
    for (uint32_t i = 0; i < BLOCK; i += 4)
        for (uint32_t k = 0; k < 4; k++) sums[k] += (double)w[i + k];
    return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

// Of a block: how far logits lie below the best, over the temperature.
static void below_block(float *restrict below, const float *logits, uint32_t n, float best,
                        float temp)
{
    take_block(below, logits, n);
    // The difference first: a tiny temperature must not make infinities of both.
    for (uint32_t i = 0; i < BLOCK; i++) below[i] = (below[i] - best) / temp;
}

// Weights of all tokens, relative to the best one's; returns their sum.
static double weigh(struct td_sampler *s, const float *logits, float best)
{
    float below[BLOCK];
    double total = 0;
    for (uint32_t at = 0; at < s->n_vocab; at += BLOCK) {
        below_block(below, logits + at, td_min_u32(s->n_vocab - at, BLOCK), best, s->cfg.temp);
        exp_block(s->weights + at, below);
        total += s->sums[at / BLOCK] = sum_block(s->weights + at);
    }
    return total;
}

// ---- cuts -------------------------------------------------------------------------------------

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

// Tokens of about the same likelihood, the likeliest first: a logit is at most 0, and the bits of
// its amount grow with it. 16 to a power of two.
static uint32_t bin_of(float below)
{
    return td_bits_of_f32(-below) >> 19 & (TD_SAMPLER_BINS - 1);
}

// A weight so small that the n_most likeliest tokens, or those that have this mass, weigh more:
// most tokens of a real model are far below it.
static float find_floor(const struct td_sampler *s, uint32_t n_most, double mass_wanted)
{
    static const float floors[] = {2e-3f, 1e-5f}; // e^-6.2, e^-11.5
    const uint32_t n_blocks = (s->n_vocab + BLOCK - 1) / BLOCK;
    for (uint32_t k = 0; k < sizeof(floors) / sizeof(floors[0]); k++) {
        double mass = 0;
        uint32_t n = 0;
        for (uint32_t b = 0; b < n_blocks; b++) {
            // A block that weighs less has no such token.
            if (s->sums[b] < (double)floors[k]) continue;
            for (uint32_t i = b * BLOCK; i < (b + 1) * BLOCK; i++) {
                if (!(s->weights[i] >= floors[k])) continue;
                mass += (double)s->weights[i];
                n++;
            }
        }
        if (n >= n_most || mass > mass_wanted) return floors[k];
    }
    return 0x1p-149f;
}

static void fill_bins(struct td_sampler *s, const float *logits, float best)
{
    float below[BLOCK];
    memset(s->bins, 0, TD_SAMPLER_BINS * sizeof(*s->bins));
    for (uint32_t at = 0; at < s->n_vocab; at += BLOCK) {
        const uint32_t n = td_min_u32(s->n_vocab - at, BLOCK);
        if (s->sums[at / BLOCK] < (double)s->floor) continue;
        below_block(below, logits + at, n, best, s->cfg.temp);
        for (uint32_t i = 0; i < n; i++) {
            if (s->weights[at + i] < s->floor) continue;
            struct bin *bin = &s->bins[bin_of(below[i])];
            bin->n++;
            bin->mass += (double)s->weights[at + i];
        }
    }
}

// Takes the bin's tokens into the heap.
static uint32_t collect(struct td_sampler *s, const float *logits, float best, uint32_t bin)
{
    float below[BLOCK];
    uint32_t n_heap = 0;
    for (uint32_t at = 0; at < s->n_vocab; at += BLOCK) {
        const uint32_t n = td_min_u32(s->n_vocab - at, BLOCK);
        if (s->sums[at / BLOCK] < (double)s->floor) continue;
        below_block(below, logits + at, n, best, s->cfg.temp);
        for (uint32_t i = 0; i < n; i++)
            if (s->weights[at + i] >= s->floor && bin_of(below[i]) == bin)
                s->heap[n_heap++] = (struct candidate){.logit = below[i], .id = (int32_t)(at + i)};
    }
    for (uint32_t i = n_heap / 2; i > 0; i--) sift_down(s->heap, n_heap, i - 1);
    return n_heap;
}

// The last of the likeliest tokens that are kept: as few as have this mass, at most so many, at
// least one. Returns the mass of all that are.
static double find_last(struct td_sampler *s, const float *logits, float best, uint32_t n_most,
                        double mass_wanted, struct candidate *last_out)
{
    double mass = 0;
    uint32_t n = 0, bin = 0;
    for (; bin + 1 < TD_SAMPLER_BINS; bin++) {
        const struct bin *b = &s->bins[bin];
        if (b->n > 0 && (n + b->n >= n_most || mass + b->mass >= mass_wanted)) break;
        n += b->n;
        mass += b->mass;
    }
    // Sums by another order may fall short by a last bit: then it is the last bin that has any.
    while (bin > 0 && s->bins[bin].n == 0) {
        bin--;
        n -= s->bins[bin].n;
        mass -= s->bins[bin].mass;
    }
    const uint32_t n_heap = collect(s, logits, best, bin);
    *last_out = (struct candidate){.logit = 0, .id = INT32_MAX};
    for (uint32_t i = 0; i < n_heap && n < n_most && (n == 0 || mass < mass_wanted); i++, n++) {
        pop(s->heap, n_heap - i);
        *last_out = s->heap[n_heap - i - 1];
        mass += (double)s->weights[last_out->id];
    }
    return mass;
}

// Top-k, then top-p of what top-k left, then min-p: what is cut gets the weight 0. Returns the sum
// of the rest.
static double cut(struct td_sampler *s, const float *logits, float best, double total)
{
    struct candidate last = {.logit = -INFINITY, .id = INT32_MAX};
    const uint32_t k = s->cfg.top_k > 0 ? td_min_u32(s->cfg.top_k, s->n_vocab) : s->n_vocab;
    if (k < s->n_vocab || s->cfg.top_p < 1.0f) {
        // What top-p counts is what top-k leaves, all of it.
        const double mass = (double)s->cfg.top_p * total;
        s->floor = find_floor(s, k, k < s->n_vocab ? (double)INFINITY : mass);
        fill_bins(s, logits, best);
    }
    if (k < s->n_vocab) total = find_last(s, logits, best, k, (double)INFINITY, &last);
    if (s->cfg.top_p < 1.0f)
        (void)find_last(s, logits, best, k, (double)s->cfg.top_p * total, &last);
    float below[BLOCK];
    double sum = 0;
    for (uint32_t at = 0; at < s->n_vocab; at += BLOCK) {
        float *w = s->weights + at;
        below_block(below, logits + at, td_min_u32(s->n_vocab - at, BLOCK), best, s->cfg.temp);
        for (uint32_t i = 0; i < BLOCK; i++) {
            const bool is_kept =
                below[i] > last.logit || (below[i] == last.logit && (int32_t)(at + i) <= last.id);
            w[i] = is_kept && w[i] >= s->cfg.min_p ? w[i] : 0.0f;
        }
        sum += s->sums[at / BLOCK] = sum_block(w);
    }
    return sum;
}

int32_t td_sampler_draw(struct td_sampler *s, const float *logits)
{
    logits = adjust(s, logits);
    const int32_t best = most_likely(logits, s->n_vocab);
    if (s->cfg.temp == 0.0f || !isfinite(logits[best])) return best;
    double sum = weigh(s, logits, logits[best]);
    if (s->cfg.top_k > 0 || s->cfg.top_p < 1.0f || s->cfg.min_p > 0.0f)
        sum = cut(s, logits, logits[best], sum);
    double u = (double)(td_rng_u64(&s->rng) >> 11) * 0x1p-53 * sum;
    int32_t chosen = best;
    uint32_t block = 0;
    const uint32_t n_blocks = (s->n_vocab + BLOCK - 1) / BLOCK;
    while (block + 1 < n_blocks && u >= s->sums[block]) u -= s->sums[block++];
    for (uint32_t i = block * BLOCK; i < s->n_vocab; i++) {
        const double w = (double)s->weights[i];
        if (w == 0.0) continue;
        chosen = (int32_t)i;
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
    float below[BLOCK], weights[BLOCK];
    double total = 0.0;
    for (uint32_t at = 0; !isinf(best) && at < n_vocab; at += BLOCK) {
        below_block(below, logits + at, td_min_u32(n_vocab - at, BLOCK), best, 1.0f);
        exp_block(weights, below);
        total += sum_block(weights);
    }
    uint32_t n = 0;
    for (uint32_t i = 0; n_max > 0 && i < n_vocab; i++)
        if (!isnan(logits[i])) n = insert(top_out, n, n_max, (int32_t)i, logits[i]);
    const double log_total = total > 0.0 ? log(total) : 0.0;
    for (uint32_t i = 0; i < n; i++)
        top_out[i].logprob = logprob_of(top_out[i].logprob, best, log_total);
    if (chosen_out)
        *chosen_out = token >= 0 && (uint32_t)token < n_vocab
                          ? logprob_of(logits[token], best, log_total)
                          : -INFINITY;
    return n;
}
