// SPDX-License-Identifier: MIT
// Attention over a few blocks, carried state included.
#include "kcheck.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct attend_case {
    enum td_type type;
    uint32_t n_q, head_dim, first, last;
    struct guard q, k, v, st;
    float *want;
};

static struct td_attn state_in(float *p, const struct attend_case *c)
{
    return (struct td_attn){.m = p, .l = p + c->n_q, .acc = p + 2 * (size_t)c->n_q};
}

// One block: rows outside [first, last) are not there at all when the block ends at a page.
static void block(struct kc *kc, struct attend_case *c, float *st)
{
    const size_t row_bytes = (size_t)td_type_size_bytes(c->type, c->head_dim);
    const size_t n_bytes = (c->last - c->first) * row_bytes;
    uint8_t *k = guard_get(&c->k, kc, n_bytes);
    uint8_t *v = guard_get(&c->v, kc, n_bytes);
    float *q = guard_get(&c->q, kc, (size_t)c->n_q * c->head_dim * sizeof(float));
    kc_fill_weights(kc, k, c->type, n_bytes / row_bytes * c->head_dim, false);
    kc_fill_weights(kc, v, c->type, n_bytes / row_bytes * c->head_dim, false);
    for (uint32_t i = 0; i < c->n_q * c->head_dim; i++) q[i] = td_rng_f32(&kc->rng) * 2.0f - 1.0f;
    const bool is_f16 = c->type == TD_F16;
    struct td_attn want = state_in(c->want, c);
    struct td_attn got = state_in(st, c);
    const uint8_t *k0 = k - c->first * row_bytes;
    const uint8_t *v0 = v - c->first * row_bytes;
    (is_f16 ? kc->ref.attend_f16 : kc->ref.attend_f32)(&want, q, k0, v0, c->n_q, c->head_dim,
                                                       c->first, c->last);
    (is_f16 ? kc->fast.attend_f16 : kc->fast.attend_f32)(&got, q, k0, v0, c->n_q, c->head_dim,
                                                         c->first, c->last);
}

static void one(struct kc *kc, struct attend_case *c)
{
    const uint32_t n = c->n_q * (2 + c->head_dim);
    c->want = calloc(n, sizeof(float));
    float *st = guard_get(&c->st, kc, n * sizeof(float));
    if (!c->want) exit(2);
    for (uint32_t h = 0; h < c->n_q; h++) c->want[h] = -INFINITY;
    memcpy(st, c->want, n * sizeof(float));
    for (int b = 0; b < 3; b++) {
        c->first = kc_below(kc, 3) ? 0 : kc_below(kc, TD_ATTN_BLOCK);
        c->last =
            kc_below(kc, 3) ? TD_ATTN_BLOCK : c->first + 1 + kc_below(kc, TD_ATTN_BLOCK - c->first);
        block(kc, c, st);
        const uint32_t at = kc_differs(st, c->want, n);
        kc_expect(kc, at == n && guard_intact(&c->st),
                  "attend_%s n_q %u head_dim %u [%u, %u) block %d: [%u] is %.9g, generic %.9g",
                  c->type == TD_F16 ? "f16" : "f32", c->n_q, c->head_dim, c->first, c->last, b, at,
                  at < n ? (double)st[at] : 0.0, at < n ? (double)c->want[at] : 0.0);
    }
    free(c->want);
}

void check_attend(struct kc *kc)
{
    struct attend_case c = {0};
    for (int i = 0; i < (kc->is_short ? 40 : 600); i++) {
        c.type = i % 2 ? TD_F16 : TD_F32;
        if (!kc_wants(kc, i % 2 ? "attend_f16" : "attend_f32")) continue;
        c.n_q = 1 + kc_below(kc, 17);
        c.head_dim = 16 * (1 + kc_below(kc, i % 3 ? 8 : 16));
        if (i % 5 == 0) c.head_dim = 64;
        one(kc, &c);
    }
    guard_free(&c.q);
    guard_free(&c.k);
    guard_free(&c.v);
    guard_free(&c.st);
}
