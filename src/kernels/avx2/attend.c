// SPDX-License-Identifier: MIT
// Attention for AVX2: two small matrix products, K^T q and p V, with a softmax between them.
//
// Four queries by 16 positions, or by 16 head elements, are eight accumulators; each step loads two
// vectors and broadcasts four numbers for eight FMAs. When several tiles see an f16 block, it is
// converted once, to a panel that stays in cache.
#include "kernels/avx2/avx2.h"

#if defined(__x86_64__)
#include "kernels/avx2/vec_impl.h"

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
    // only a dozen lines under way to memory, and at one row they must never be idle.
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

// Scores of 16 positions from t on.
INLINE void scores(enum td_type type, struct tile *w, uint32_t t, const uint8_t *k)
{
    struct acc16 acc[HEADS];
    TD_UNROLL
    for (int i = 0; i < HEADS; i++) acc[i].lo = acc[i].hi = _mm256_setzero_ps();
    const char *ahead = w->ahead;
    const size_t step = ahead_step(w);
    for (uint32_t d = 0; d < w->head_dim; d++, ahead += step) {
        const size_t at = (size_t)d * TD_ATTN_BLOCK + t;
        const __m256 k_lo = weights8(type, k, at);
        const __m256 k_hi = weights8(type, k, at + 8);
        _mm_prefetch(ahead, _MM_HINT_T0);
        TD_UNROLL
        for (int i = 0; i < HEADS; i++) {
            const __m256 qd = _mm256_broadcast_ss(w->q[i] + d);
            acc[i].lo = _mm256_fmadd_ps(qd, k_lo, acc[i].lo);
            acc[i].hi = _mm256_fmadd_ps(qd, k_hi, acc[i].hi);
        }
    }
    w->ahead = ahead;
    TD_UNROLL
    for (int i = 0; i < HEADS; i++) {
        _mm256_storeu_ps(w->s[i] + t, acc[i].lo);
        _mm256_storeu_ps(w->s[i] + t + 8, acc[i].hi);
    }
}

// The maximum over the lanes of each of four vectors of numbers.
INLINE __m128 max8x4(const __m256 v[HEADS])
{
    __m128 h[HEADS];
    TD_UNROLL
    for (int i = 0; i < HEADS; i++)
        h[i] = _mm_max_ps(_mm256_castps256_ps128(v[i]), _mm256_extractf128_ps(v[i], 1));
    _MM_TRANSPOSE4_PS(h[0], h[1], h[2], h[3]);
    return _mm_max_ps(_mm_max_ps(h[0], h[1]), _mm_max_ps(h[2], h[3]));
}

// Scores to probabilities; new m and l, and c.
INLINE void softmax(struct tile *w)
{
    // What is not seen gets the probability 0, which changes no sum.
    for (uint32_t i = 0; i < HEADS; i++) {
        for (uint32_t t = 0; t < w->first; t++) w->s[i][t] = -INFINITY;
        for (uint32_t t = w->last; t < TD_ATTN_BLOCK; t++) w->s[i][t] = -INFINITY;
    }
    const __m128i heads = _mm256_castsi256_si128(first_lanes(w->n));
    __m256 top[HEADS];
    TD_UNROLL
    for (int i = 0; i < HEADS; i++) {
        top[i] = _mm256_set1_ps(-INFINITY);
        // The second operand wins against a NaN, so m stays a number, as in generic.
        for (uint32_t t = 0; t < TD_ATTN_BLOCK; t += 8)
            top[i] = _mm256_max_ps(_mm256_loadu_ps(w->s[i] + t), top[i]);
    }
    const __m128 m_old = _mm_maskload_ps(w->m, heads);
    const __m128 m = _mm_add_ps(_mm_max_ps(max8x4(top), m_old), _mm_setzero_ps());
    const __m128 c = _mm256_castps256_ps128(exp8(_mm256_castps128_ps256(_mm_sub_ps(m_old, m))));
    float ms[HEADS];
    _mm_storeu_ps(ms, m);
    _mm_storeu_ps(w->c, c);
    struct acc16 sums[HEADS];
    const size_t share = w->ahead_bytes / 4 / HEADS;
    TD_UNROLL
    for (uint32_t i = 0; i < HEADS; i++) {
        for (size_t at = 0; at < share; at += 64) _mm_prefetch(w->ahead + at, _MM_HINT_T0);
        w->ahead += share;
        sums[i].lo = sums[i].hi = _mm256_setzero_ps();
        // A query that is not there has the scores of the last.
        const __m256 mi = _mm256_set1_ps(ms[td_min_u32(i, w->n - 1)]);
        for (uint32_t t = 0; t < TD_ATTN_BLOCK; t += 16) {
            const __m256 p_lo = exp8(_mm256_sub_ps(_mm256_loadu_ps(w->s[i] + t), mi));
            const __m256 p_hi = exp8(_mm256_sub_ps(_mm256_loadu_ps(w->s[i] + t + 8), mi));
            _mm256_storeu_ps(w->s[i] + t, p_lo);
            _mm256_storeu_ps(w->s[i] + t + 8, p_hi);
            sums[i].lo = _mm256_add_ps(sums[i].lo, p_lo);
            sums[i].hi = _mm256_add_ps(sums[i].hi, p_hi);
        }
    }
    const __m128 l = _mm_mul_ps(_mm_maskload_ps(w->l, heads), c);
    _mm_maskstore_ps(w->m, heads, m);
    _mm_maskstore_ps(w->l, heads, _mm_add_ps(l, fold16x4(sums)));
}

// acc = acc * c, then acc = fmaf(p, v, acc) position by position, for 16 elements from d on.
INLINE void values(enum td_type type, struct tile *w, uint32_t d, const uint8_t *v)
{
    struct acc16 acc[HEADS];
    TD_UNROLL
    for (uint32_t i = 0; i < HEADS; i++) {
        const __m256 c = _mm256_set1_ps(w->c[td_min_u32(i, w->n - 1)]);
        acc[i].lo = _mm256_mul_ps(_mm256_loadu_ps(w->acc[i] + d), c);
        acc[i].hi = _mm256_mul_ps(_mm256_loadu_ps(w->acc[i] + d + 8), c);
    }
    const char *ahead = w->ahead;
    const size_t step = ahead_step(w);
    for (uint32_t t = w->first; t < w->last; t++, ahead += step) {
        const size_t at = (size_t)t * w->head_dim + d;
        const __m256 v_lo = weights8(type, v, at);
        const __m256 v_hi = weights8(type, v, at + 8);
        _mm_prefetch(ahead, _MM_HINT_T0);
        TD_UNROLL
        for (int i = 0; i < HEADS; i++) {
            const __m256 p = _mm256_broadcast_ss(w->s[i] + t);
            acc[i].lo = _mm256_fmadd_ps(p, v_lo, acc[i].lo);
            acc[i].hi = _mm256_fmadd_ps(p, v_hi, acc[i].hi);
        }
    }
    w->ahead = ahead;
    TD_UNROLL
    for (int i = 0; i < HEADS; i++) {
        _mm256_storeu_ps(w->acc[i] + d, acc[i].lo);
        _mm256_storeu_ps(w->acc[i] + d + 8, acc[i].hi);
    }
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

TARGET void td_attend_f32_avx2(const struct td_attn *a, const void *kv, const void *next,
                               uint32_t head_dim, void *scratch)
{
    (void)scratch;
    assert(head_dim % 16 == 0);
    attend(TD_F32, a, kv, next, td_attn_scratch_bytes(head_dim), head_dim);
}

TARGET void td_attend_f16_avx2(const struct td_attn *a, const void *kv, const void *next,
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
    for (size_t i = 0; i < n_elems; i += 8) _mm256_storeu_ps(panel + i, weights8(TD_F16, kv, i));
    attend(TD_F32, a, (const uint8_t *)panel, next, n_bytes, head_dim);
}

#endif
