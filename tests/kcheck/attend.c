// SPDX-License-Identifier: MIT
// Attention over a few blocks, carried state included.
#include "kcheck.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct attend_case {
    enum td_type type;
    uint32_t n, head_dim;
    struct td_attn_limits *limits; // (n)
    float *want;                   // state: m (n), l (n), acc (n, head_dim)
    struct guard q, kv, st, scratch;
};

static struct td_attn queries(float *st, const float *q, const struct attend_case *c)
{
    return (struct td_attn){.n = c->n,
                            .limits = c->limits,
                            .q = q,
                            .m = st,
                            .l = st + c->n,
                            .acc = st + 2 * (size_t)c->n};
}

// Limits by runs of queries, as rows have them: none, all, or some of the block.
static void draw_limits(struct kc *kc, struct attend_case *c)
{
    const uint32_t run = 1 + kc_below(kc, 9);
    for (uint32_t i = 0; i < c->n; i++) {
        struct td_attn_limits *at = &c->limits[i];
        if (i % run != 0) {
            *at = at[-1];
            continue;
        }
        at->first = kc_below(kc, 3) ? 0 : kc_below(kc, TD_ATTN_BLOCK);
        at->last = kc_below(kc, 3) ? TD_ATTN_BLOCK
                                   : at->first + kc_below(kc, TD_ATTN_BLOCK + 1 - at->first);
    }
}

// Position t of K and V becomes NaN.
static void spoil(const struct attend_case *c, uint8_t *kv, uint32_t t)
{
    const size_t n = (size_t)TD_ATTN_BLOCK * c->head_dim;
    for (size_t d = 0; d < c->head_dim; d++) {
        const size_t at[2] = {d * TD_ATTN_BLOCK + t, n + (size_t)t * c->head_dim + d};
        for (int i = 0; i < 2; i++) {
            if (c->type == TD_F16)
                memset(kv + 2 * at[i], 0xff, 2);
            else
                memset(kv + 4 * at[i], 0xff, 4);
        }
    }
}

// A block whose positions that nobody sees are NaN, as memory may be that was never written; one
// that the first query does not see, but others may, is NaN as well.
static void *draw_block(struct kc *kc, struct attend_case *c)
{
    const uint64_t n = (uint64_t)2 * TD_ATTN_BLOCK * c->head_dim;
    uint8_t *kv = guard_get(&c->kv, kc, (size_t)td_type_size_bytes(c->type, n));
    kc_fill_weights(kc, kv, c->type, n, false);
    bool is_seen[TD_ATTN_BLOCK] = {false};
    for (uint32_t i = 0; i < c->n; i++) {
        for (uint32_t t = c->limits[i].first; t < c->limits[i].last; t++) is_seen[t] = true;
    }
    const uint32_t odd = kc_below(kc, 8 * TD_ATTN_BLOCK);
    for (uint32_t t = 0; t < TD_ATTN_BLOCK; t++) {
        const bool by_first = t >= c->limits[0].first && t < c->limits[0].last;
        if (!is_seen[t] || (t == odd && !by_first)) spoil(c, kv, t);
    }
    return kv;
}

static void block(struct kc *kc, struct attend_case *c, float *st)
{
    draw_limits(kc, c);
    const void *kv = draw_block(kc, c);
    float *q = guard_get(&c->q, kc, (size_t)c->n * c->head_dim * sizeof(float));
    for (uint32_t i = 0; i < c->n * c->head_dim; i++) q[i] = td_rng_f32(&kc->rng) * 2.0f - 1.0f;
    void *scratch = guard_end(&c->scratch, td_attn_scratch_bytes(c->head_dim));
    const struct td_attn want = queries(c->want, q, c);
    const struct td_attn got = queries(st, q, c);
    // Prefetching must not fault, wherever it goes.
    const void *next = kc_below(kc, 2) ? (const uint8_t *)kv + ((size_t)1 << 20) : NULL;
    const bool is_f16 = c->type == TD_F16;
    (is_f16 ? kc->ref.attend_f16 : kc->ref.attend_f32)(&want, kv, NULL, c->head_dim, NULL);
    (is_f16 ? kc->fast.attend_f16 : kc->fast.attend_f32)(&got, kv, next, c->head_dim, scratch);
}

static void one(struct kc *kc, struct attend_case *c)
{
    const uint32_t n = c->n * (2 + c->head_dim);
    c->want = calloc(n, sizeof(float));
    c->limits = calloc(c->n, sizeof(*c->limits));
    float *st = guard_get(&c->st, kc, n * sizeof(float));
    if (!c->want || !c->limits) exit(2);
    for (uint32_t h = 0; h < c->n; h++) c->want[h] = -INFINITY;
    memcpy(st, c->want, n * sizeof(float));
    for (int b = 0; b < 3; b++) {
        block(kc, c, st);
        const uint32_t at = kc_differs(st, c->want, n);
        kc_expect(kc, at == n && guard_intact(&c->st),
                  "attend_%s %u queries, head_dim %u, block %d: [%u] is %.9g, generic %.9g",
                  c->type == TD_F16 ? "f16" : "f32", c->n, c->head_dim, b, at,
                  at < n ? (double)st[at] : 0.0, at < n ? (double)c->want[at] : 0.0);
    }
    free(c->want);
    free(c->limits);
}

void check_attend(struct kc *kc)
{
    struct attend_case c = {0};
    for (int i = 0; i < (kc->is_short ? 60 : 900); i++) {
        c.type = i % 2 ? TD_F16 : TD_F32;
        if (!kc_wants(kc, i % 2 ? "attend_f16" : "attend_f32")) continue;
        c.n = 1 + kc_below(kc, i % 3 ? 9 : 40);
        c.head_dim = 16 * (1 + kc_below(kc, i % 7 ? 8 : 16));
        if (i % 5 == 0) c.head_dim = 64;
        one(kc, &c);
    }
    guard_free(&c.q);
    guard_free(&c.kv);
    guard_free(&c.st);
    guard_free(&c.scratch);
}
