// SPDX-License-Identifier: MIT
// Attention for AVX-512: two small matrix products, K^T q and p V, with a softmax between them.
//
// Eight queries (gpt-oss: the heads of one row) by two vectors, of positions or of head elements,
// are 16 accumulators; each step loads two vectors and broadcasts eight numbers for 16 FMAs, which
// keeps both FMA units busy with loads to spare. When several tiles see an f16 block, it is
// converted once, to a panel that stays in cache.
#include "kernels/avx512/avx512.h"

#if defined(__x86_64__)
#include "kernels/avx512/vec_impl.h"

#include <assert.h>

enum { MAX_HEADS = 8, N_VECS = TD_ATTN_BLOCK / 16 };

// Queries with the same limits, and their scores, later probabilities, by position.
struct tile {
    uint32_t n; // queries that are there; the others compute what the last one does
    uint32_t head_dim;
    uint32_t first, last;
    const float *q[MAX_HEADS];
    float *acc[MAX_HEADS];
    float *m, *l; // (n)
    // This tile's share of the next block, prefetched in small steps all the while: a core has
    // only a dozen lines under way to memory, and at one row they must never be idle.
    const char *ahead;
    size_t ahead_bytes;
    _Alignas(64) float c[16];
    float s[MAX_HEADS][TD_ATTN_BLOCK];
};

// Three eighths of the share go to scores, as much to values, which take 2 * head_dim steps each
// (by two vectors), and the rest to the softmax.
INLINE size_t ahead_step(const struct tile *w)
{
    return w->ahead_bytes * 3 / 16 / w->head_dim;
}

// Scores of 16 * n_v positions from t on.
INLINE void scores(enum td_type type, int n_h, int n_v, struct tile *w, uint32_t t,
                   const uint8_t *k)
{
    __m512 acc[MAX_HEADS][4];
    TD_UNROLL
    for (int i = 0; i < n_h; i++) {
        TD_UNROLL
        for (int j = 0; j < n_v; j++) acc[i][j] = _mm512_setzero_ps();
    }
    const char *ahead = w->ahead;
    const size_t step = ahead_step(w);
    for (uint32_t d = 0; d < w->head_dim; d++) {
        __m512 kd[4];
        TD_UNROLL
        for (int j = 0; j < n_v; j++) {
            kd[j] = weights16(type, k, (size_t)d * TD_ATTN_BLOCK + t + 16 * (size_t)j);
            if (j % 2 == 0) {
                _mm_prefetch(ahead, _MM_HINT_T0);
                ahead += step;
            }
        }
        TD_UNROLL
        for (int i = 0; i < n_h; i++) {
            const __m512 qd = _mm512_set1_ps(w->q[i][d]);
            TD_UNROLL
            for (int j = 0; j < n_v; j++) acc[i][j] = _mm512_fmadd_ps(qd, kd[j], acc[i][j]);
        }
    }
    w->ahead = ahead;
    TD_UNROLL
    for (int i = 0; i < n_h; i++) {
        TD_UNROLL
        for (int j = 0; j < n_v; j++) _mm512_storeu_ps(&w->s[i][t + 16 * (unsigned)j], acc[i][j]);
    }
}

// One step of a fold over the lanes of two vectors: each level puts upper halves against lower.
INLINE __m512 fold_pair(bool is_max, __m512 lower, __m512 upper)
{
    return is_max ? _mm512_max_ps(lower, upper) : _mm512_add_ps(lower, upper);
}

// Maximum, or the sum of fold16, over the lanes of each of eight vectors; in lanes 0 to 7.
INLINE __m512 fold16x8(bool is_max, const __m512 v[8])
{
    __m512 quad[2];
    TD_UNROLL
    for (int i = 0; i < 2; i++) {
        const __m512 *u = v + 4 * i;
        const __m512 ab = fold_pair(is_max, _mm512_shuffle_f32x4(u[0], u[1], 0x44),
                                    _mm512_shuffle_f32x4(u[0], u[1], 0xee));
        const __m512 cd = fold_pair(is_max, _mm512_shuffle_f32x4(u[2], u[3], 0x44),
                                    _mm512_shuffle_f32x4(u[2], u[3], 0xee));
        quad[i] = fold_pair(is_max, _mm512_shuffle_f32x4(ab, cd, 0x88),
                            _mm512_shuffle_f32x4(ab, cd, 0xdd));
    }
    const __m512d a = _mm512_castps_pd(quad[0]), b = _mm512_castps_pd(quad[1]);
    const __m512 pair = fold_pair(is_max, _mm512_castpd_ps(_mm512_unpacklo_pd(a, b)),
                                  _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
    const __m512 one = fold_pair(is_max, pair, _mm512_movehdup_ps(pair));
    // Vector i stands in lane 4 * (i % 4) + 2 * (i / 4).
    return _mm512_permutexvar_ps(
        _mm512_setr_epi32(0, 4, 8, 12, 2, 6, 10, 14, 0, 0, 0, 0, 0, 0, 0, 0), one);
}

// Scores to probabilities; new m and l, and c.
INLINE void softmax(int n_h, struct tile *w)
{
    const __m512 none = _mm512_set1_ps(-INFINITY);
    const __mmask16 heads = first_lanes(w->n);
    __mmask16 seen[N_VECS];
    __m512 folded[MAX_HEADS];
    TD_UNROLL
    for (uint32_t j = 0; j < N_VECS; j++) {
        const uint32_t t = 16 * j;
        seen[j] = (__mmask16)(first_lanes(w->last > t ? w->last - t : 0) &
                              ~first_lanes(w->first > t ? w->first - t : 0));
    }
    TD_UNROLL
    for (int i = 0; i < MAX_HEADS; i++) {
        folded[i] = none;
        TD_UNROLL
        for (int j = 0; i < n_h && j < N_VECS; j++) {
            // The second operand wins against a NaN, so m stays a number, as in generic.
            const __m512 s = _mm512_mask_loadu_ps(none, seen[j], &w->s[i][16 * j]);
            folded[i] = _mm512_max_ps(s, folded[i]);
        }
    }
    const __m512 m_old = _mm512_maskz_loadu_ps(heads, w->m);
    __m512 m = _mm512_max_ps(fold16x8(true, folded), m_old);
    m = _mm512_add_ps(m, _mm512_setzero_ps());
    const __m512 c = exp16_nonpos(_mm512_sub_ps(m_old, m));
    float ms[16];
    _mm512_storeu_ps(ms, m);
    _mm512_storeu_ps(w->c, c);
    TD_UNROLL
    for (int i = 0; i < MAX_HEADS; i++) {
        folded[i] = _mm512_setzero_ps();
        for (size_t from = 0; i < n_h && from < w->ahead_bytes / 4 / (size_t)n_h; from += 64)
            _mm_prefetch(w->ahead + from, _MM_HINT_T0);
        w->ahead += w->ahead_bytes / 4 / (size_t)n_h;
        // A query that is not there has the scores of the last.
        const __m512 mi = _mm512_set1_ps(ms[td_min_u32((uint32_t)i, w->n - 1)]);
        TD_UNROLL
        for (int j = 0; i < n_h && j < N_VECS; j++) {
            const __m512 s = _mm512_mask_loadu_ps(none, seen[j], &w->s[i][16 * j]);
            const __m512 p = exp16_nonpos(_mm512_sub_ps(s, mi));
            _mm512_storeu_ps(&w->s[i][16 * j], p);
            folded[i] = _mm512_add_ps(folded[i], p);
        }
    }
    const __m512 l = _mm512_mul_ps(_mm512_maskz_loadu_ps(heads, w->l), c);
    _mm512_mask_storeu_ps(w->m, heads, m);
    _mm512_mask_storeu_ps(w->l, heads, _mm512_add_ps(l, fold16x8(false, folded)));
}

// acc = acc * c, then acc = fmaf(p, v, acc) position by position, for 16 * n_v elements from d on.
INLINE void values(enum td_type type, int n_h, int n_v, struct tile *w, uint32_t d,
                   const uint8_t *v)
{
    __m512 acc[MAX_HEADS][4];
    TD_UNROLL
    for (int i = 0; i < n_h; i++) {
        const __m512 c = _mm512_set1_ps(w->c[td_min_u32((uint32_t)i, w->n - 1)]);
        TD_UNROLL
        for (int j = 0; j < n_v; j++)
            acc[i][j] = _mm512_mul_ps(_mm512_loadu_ps(w->acc[i] + d + 16 * j), c);
    }
    const char *ahead = w->ahead;
    const size_t step = ahead_step(w);
    for (uint32_t t = w->first; t < w->last; t++) {
        __m512 vd[4];
        TD_UNROLL
        for (int j = 0; j < n_v; j++) {
            vd[j] = weights16(type, v, (size_t)t * w->head_dim + d + 16 * (size_t)j);
            if (j % 2 == 0) {
                _mm_prefetch(ahead, _MM_HINT_T0);
                ahead += step;
            }
        }
        TD_UNROLL
        for (int i = 0; i < n_h; i++) {
            const __m512 p = _mm512_set1_ps(w->s[i][t]);
            TD_UNROLL
            for (int j = 0; j < n_v; j++) acc[i][j] = _mm512_fmadd_ps(p, vd[j], acc[i][j]);
        }
    }
    w->ahead = ahead;
    TD_UNROLL
    for (int i = 0; i < n_h; i++) {
        TD_UNROLL
        for (int j = 0; j < n_v; j++) _mm512_storeu_ps(w->acc[i] + d + 16 * j, acc[i][j]);
    }
}

// n_h queries by n_v vectors at a time, by one where fewer are left.
INLINE void tile_of(enum td_type type, int n_h, int n_v, struct tile *w, const uint8_t *kv)
{
    const size_t elem_bytes = type == TD_F16 ? 2 : 4;
    const uint8_t *v = kv + (size_t)TD_ATTN_BLOCK * w->head_dim * elem_bytes;
    const uint32_t step = 16 * (uint32_t)n_v;
    uint32_t t = w->first & ~15u;
    for (; t + step <= TD_ATTN_BLOCK && t + step - 16 < w->last; t += step)
        scores(type, n_h, n_v, w, t, kv);
    for (; t < w->last; t += 16) scores(type, n_h, 1, w, t, kv);
    softmax(n_h, w);
    uint32_t d = 0;
    for (; d + step <= w->head_dim; d += step) values(type, n_h, n_v, w, d, v);
    for (; d < w->head_dim; d += 16) values(type, n_h, 1, w, d, v);
}

// Makes *w the tile of queries i, i + 1 ...: as many as fit and have the limits of the first.
static void set_tile(struct tile *w, const struct td_attn *a, uint32_t i, uint32_t head_dim)
{
    const struct td_attn_limits *at = a->limits + i;
    assert(at->first <= at->last && at->last <= TD_ATTN_BLOCK);
    w->n = 1;
    while (w->n < MAX_HEADS && i + w->n < a->n && at[w->n].first == at->first &&
           at[w->n].last == at->last)
        w->n++;
    w->first = at->first;
    w->last = at->last;
    w->head_dim = head_dim;
    w->m = a->m + i;
    w->l = a->l + i;
    for (uint32_t j = 0; j < MAX_HEADS; j++) {
        const size_t from = (i + (size_t)td_min_u32(j, w->n - 1)) * head_dim;
        w->q[j] = a->q + from;
        w->acc[j] = a->acc + from;
    }
}

// next: n_bytes of the block that comes next, or NULL.
INLINE void attend(enum td_type type, const struct td_attn *a, const uint8_t *kv, const char *next,
                   size_t n_bytes, uint32_t head_dim)
{
    struct tile w;
    for (uint32_t i = 0; i < a->n; i += w.n) {
        set_tile(&w, a, i, head_dim);
        if (w.first == w.last) continue;
        w.ahead_bytes = next ? n_bytes * w.n / a->n : 0;
        w.ahead = next ? next + n_bytes * i / a->n : (const char *)kv;
        if (w.n > MAX_HEADS / 2)
            tile_of(type, MAX_HEADS, 2, &w, kv);
        else
            tile_of(type, MAX_HEADS / 2, 4, &w, kv);
    }
}

TARGET void td_attend_f32_avx512(const struct td_attn *a, const void *kv, const void *next,
                                 uint32_t head_dim, void *scratch)
{
    (void)scratch;
    assert(head_dim % 16 == 0);
    attend(TD_F32, a, kv, next, td_attn_scratch_bytes(head_dim), head_dim);
}

TARGET void td_attend_f16_avx512(const struct td_attn *a, const void *kv, const void *next,
                                 uint32_t head_dim, void *scratch)
{
    assert(head_dim % 16 == 0);
    const size_t n_elems = (size_t)2 * TD_ATTN_BLOCK * head_dim;
    const uint16_t *half = kv;
    if (a->n <= MAX_HEADS) {
        attend(TD_F16, a, kv, next, n_elems * sizeof(*half), head_dim);
        return;
    }
    float *panel = scratch;
    for (size_t i = 0; i < n_elems; i += 16)
        _mm512_storeu_ps(panel + i, _mm512_cvtph_ps(load256(half + i)));
    attend(TD_F32, a, (const uint8_t *)panel, next, n_elems * sizeof(*half), head_dim);
}

#endif
