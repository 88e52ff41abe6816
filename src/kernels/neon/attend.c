// SPDX-License-Identifier: MIT
// Attention for NEON: two small matrix products, K^T q and p V, with a softmax between them.
//
// Four queries by 16 positions, or by 16 head elements, are 16 accumulators; each step loads four
// vectors and four numbers for 16 FMAs. When several tiles see an f16 block, it is converted once,
// to a panel that stays in cache.
#include "kernels/neon/neon.h"

#if defined(__aarch64__)
#include "kernels/neon/vec_impl.h"

#include <assert.h>

enum { HEADS = 4 };

// Queries with the same limits, and their scores, later probabilities, by position.
struct tile {
    uint32_t n; // queries that are there; the others compute what the last one does
    uint32_t head_dim;
    uint32_t first, last;
    const float *q[HEADS];
    float *acc[HEADS];
    float *m, *l; // (n)
    // This tile's share of the next block, prefetched in small steps all the while: a core has
    // only so many lines under way to memory, and at one row they must never be idle.
    const char *ahead;
    size_t ahead_bytes;
    float c[HEADS];
    float s[HEADS][TD_ATTN_BLOCK];
};

// Three eighths of the share go to scores, as much to values, which take 4 * head_dim steps each,
// and the rest to the softmax.
INLINE size_t ahead_step(const struct tile *w)
{
    return w->ahead_bytes * 3 / 32 / w->head_dim;
}

INLINE struct f32x16 fma16_n(struct f32x16 acc, struct f32x16 a, float b)
{
    TD_UNROLL
    for (int j = 0; j < 4; j++) acc.v[j] = vfmaq_n_f32(acc.v[j], a.v[j], b);
    return acc;
}

INLINE void store16(float *p, struct f32x16 a)
{
    TD_UNROLL
    for (int j = 0; j < 4; j++) vst1q_f32(p + 4 * j, a.v[j]);
}

// Scores of 16 positions from t on.
INLINE void scores(enum td_type type, struct tile *w, uint32_t t, const uint8_t *k)
{
    struct f32x16 acc[HEADS];
    TD_UNROLL
    for (int i = 0; i < HEADS; i++) acc[i] = zero16();
    const char *ahead = w->ahead;
    const size_t step = ahead_step(w);
    for (uint32_t d = 0; d < w->head_dim; d++, ahead += step) {
        const struct f32x16 kd = weights16(type, k, (size_t)d * TD_ATTN_BLOCK + t);
        __builtin_prefetch(ahead);
        TD_UNROLL
        for (int i = 0; i < HEADS; i++) acc[i] = fma16_n(acc[i], kd, w->q[i][d]);
    }
    w->ahead = ahead;
    TD_UNROLL
    for (int i = 0; i < HEADS; i++) store16(w->s[i] + t, acc[i]);
}

// Scores to probabilities; new m and l, and c.
INLINE void softmax(struct tile *w)
{
    // What is not seen gets the probability 0, which changes no sum.
    for (uint32_t i = 0; i < HEADS; i++) {
        for (uint32_t t = 0; t < w->first; t++) w->s[i][t] = -INFINITY;
        for (uint32_t t = w->last; t < TD_ATTN_BLOCK; t++) w->s[i][t] = -INFINITY;
    }
    float m_old[HEADS], m_new[HEADS], sums[HEADS];
    TD_UNROLL
    for (uint32_t i = 0; i < HEADS; i++) {
        // A query that is not there has the scores of the last.
        m_old[i] = w->m[td_min_u32(i, w->n - 1)];
        float32x4_t top = vdupq_n_f32(m_old[i]);
        // FMAXNM: the number wins against a NaN, so m stays a number, as in generic.
        for (uint32_t t = 0; t < TD_ATTN_BLOCK; t += 4)
            top = vmaxnmq_f32(top, vld1q_f32(w->s[i] + t));
        m_new[i] = vmaxnmvq_f32(top) + 0.0f;
    }
    vst1q_f32(w->c, exp4(vsubq_f32(vld1q_f32(m_old), vld1q_f32(m_new))));
    const size_t share = w->ahead_bytes / 4 / HEADS;
    TD_UNROLL
    for (int i = 0; i < HEADS; i++) {
        for (size_t at = 0; at < share; at += 64) __builtin_prefetch(w->ahead + at);
        w->ahead += share;
        const float32x4_t m = vdupq_n_f32(m_new[i]);
        struct f32x16 sum = zero16();
        for (uint32_t t = 0; t < TD_ATTN_BLOCK; t += 16) {
            struct f32x16 p = load16(w->s[i] + t);
            TD_UNROLL
            for (int j = 0; j < 4; j++) {
                p.v[j] = exp4(vsubq_f32(p.v[j], m));
                sum.v[j] = vaddq_f32(sum.v[j], p.v[j]);
            }
            store16(w->s[i] + t, p);
        }
        sums[i] = fold16(sum);
    }
    for (uint32_t i = 0; i < w->n; i++) {
        w->m[i] = m_new[i];
        w->l[i] = w->l[i] * w->c[i] + sums[i];
    }
}

// acc = acc * c, then acc = fmaf(p, v, acc) position by position, for 16 elements from d on.
INLINE void values(enum td_type type, struct tile *w, uint32_t d, const uint8_t *v)
{
    struct f32x16 acc[HEADS];
    TD_UNROLL
    for (int i = 0; i < HEADS; i++) {
        acc[i] = load16(w->acc[i] + d);
        TD_UNROLL
        for (int j = 0; j < 4; j++) acc[i].v[j] = vmulq_n_f32(acc[i].v[j], w->c[i]);
    }
    const char *ahead = w->ahead;
    const size_t step = ahead_step(w);
    for (uint32_t t = w->first; t < w->last; t++, ahead += step) {
        const struct f32x16 vt = weights16(type, v, (size_t)t * w->head_dim + d);
        __builtin_prefetch(ahead);
        TD_UNROLL
        for (int i = 0; i < HEADS; i++) acc[i] = fma16_n(acc[i], vt, w->s[i][t]);
    }
    w->ahead = ahead;
    TD_UNROLL
    for (int i = 0; i < HEADS; i++) store16(w->acc[i] + d, acc[i]);
}

// Makes *w the tile of queries i, i + 1 ...: as many as fit and have the limits of the first.
static void set_tile(struct tile *w, const struct td_attn *a, uint32_t i, uint32_t head_dim)
{
    const struct td_attn_limits *at = a->limits + i;
    assert(at->first <= at->last && at->last <= TD_ATTN_BLOCK);
    w->n = 1;
    while (w->n < HEADS && i + w->n < a->n && at[w->n].first == at->first &&
           at[w->n].last == at->last)
        w->n++;
    w->first = at->first;
    w->last = at->last;
    w->head_dim = head_dim;
    w->m = a->m + i;
    w->l = a->l + i;
    for (uint32_t j = 0; j < HEADS; j++) {
        const size_t from = (i + (size_t)td_min_u32(j, w->n - 1)) * head_dim;
        w->q[j] = a->q + from;
        w->acc[j] = a->acc + from;
    }
}

// next: n_bytes of the block that comes next, or NULL.
INLINE void attend(enum td_type type, const struct td_attn *a, const uint8_t *kv, const char *next,
                   size_t n_bytes, uint32_t head_dim)
{
    const uint8_t *v = kv + (size_t)TD_ATTN_BLOCK * head_dim * (type == TD_F16 ? 2 : 4);
    struct tile w;
    for (uint32_t i = 0; i < a->n; i += w.n) {
        set_tile(&w, a, i, head_dim);
        if (w.first == w.last) continue;
        w.ahead_bytes = next ? n_bytes * w.n / a->n : 0;
        w.ahead = next ? next + n_bytes * i / a->n : (const char *)kv;
        for (uint32_t t = w.first & ~15u; t < w.last; t += 16) scores(type, &w, t, kv);
        softmax(&w);
        for (uint32_t d = 0; d < head_dim; d += 16) values(type, &w, d, v);
    }
}

TARGET void td_attend_f32_neon(const struct td_attn *a, const void *kv, const void *next,
                               uint32_t head_dim, void *scratch)
{
    (void)scratch;
    assert(head_dim % 16 == 0);
    attend(TD_F32, a, kv, next, td_attn_scratch_bytes(head_dim), head_dim);
}

TARGET void td_attend_f16_neon(const struct td_attn *a, const void *kv, const void *next,
                               uint32_t head_dim, void *scratch)
{
    assert(head_dim % 16 == 0);
    const size_t n_elems = (size_t)2 * TD_ATTN_BLOCK * head_dim;
    const size_t n_bytes = n_elems * sizeof(uint16_t);
    if (a->n <= 2 * HEADS) {
        attend(TD_F16, a, kv, next, n_bytes, head_dim);
        return;
    }
    float *panel = scratch;
    for (size_t i = 0; i < n_elems; i += 16) store16(panel + i, weights16(TD_F16, kv, i));
    attend(TD_F32, a, (const uint8_t *)panel, next, n_bytes, head_dim);
}

#endif
