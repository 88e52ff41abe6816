// SPDX-License-Identifier: MIT
// Attention for AVX2: four query heads at a time, so that a row of K or V is loaded and converted
// once for four, and the steps that go position by position (l, and each accumulator) have four
// independent chains.
//
// Scores and probabilities lie as s[position][4 heads]: one vector is two positions by four heads.
#include "kernels/avx2/avx2.h"

#if defined(__x86_64__)
#include "kernels/avx2/vec_impl.h"

#include <assert.h>

enum { HEADS = 4 };

struct heads {
    const float *q[HEADS];
    float *acc[HEADS];
    uint32_t i[HEADS];
};

// s[t][h] for n positions from row k on, and -infinity up to the next multiple of two.
INLINE void scores(enum td_type type, float *s, const struct heads *h, const uint8_t *k,
                   size_t row_bytes, uint32_t head_dim, uint32_t n)
{
    for (uint32_t t = 0; t < n; t++, k += row_bytes) {
        struct acc16 acc[HEADS];
        TD_UNROLL
        for (int i = 0; i < HEADS; i++) acc[i].lo = acc[i].hi = _mm256_setzero_ps();
        for (uint32_t d = 0; d < head_dim; d += 16) {
            const __m256 k_lo = weights8(type, k, d);
            const __m256 k_hi = weights8(type, k, d + 8);
            TD_UNROLL
            for (int i = 0; i < HEADS; i++) {
                acc[i].lo = _mm256_fmadd_ps(_mm256_loadu_ps(h->q[i] + d), k_lo, acc[i].lo);
                acc[i].hi = _mm256_fmadd_ps(_mm256_loadu_ps(h->q[i] + d + 8), k_hi, acc[i].hi);
            }
        }
        _mm_storeu_ps(s + HEADS * t, fold16x4(acc));
    }
    if (n % 2) _mm_storeu_ps(s + HEADS * n, _mm_set1_ps(-INFINITY));
}

// acc = acc * c, then acc = fmaf(p, v, acc) position by position, for 16 elements from d on.
INLINE void values(enum td_type type, const struct heads *h, uint32_t d, const float *c,
                   const float *p, const uint8_t *v, size_t row_bytes, uint32_t n)
{
    struct acc16 acc[HEADS];
    TD_UNROLL
    for (int i = 0; i < HEADS; i++) {
        const __m256 ci = _mm256_set1_ps(c[i]);
        acc[i].lo = _mm256_mul_ps(_mm256_loadu_ps(h->acc[i] + d), ci);
        acc[i].hi = _mm256_mul_ps(_mm256_loadu_ps(h->acc[i] + d + 8), ci);
    }
    for (uint32_t t = 0; t < n; t++, v += row_bytes, p += HEADS) {
        const __m256 v_lo = weights8(type, v, d);
        const __m256 v_hi = weights8(type, v, d + 8);
        TD_UNROLL
        for (int i = 0; i < HEADS; i++) {
            const __m256 pi = _mm256_set1_ps(p[i]);
            acc[i].lo = _mm256_fmadd_ps(pi, v_lo, acc[i].lo);
            acc[i].hi = _mm256_fmadd_ps(pi, v_hi, acc[i].hi);
        }
    }
    TD_UNROLL
    for (int i = 0; i < HEADS; i++) {
        _mm256_storeu_ps(h->acc[i] + d, acc[i].lo);
        _mm256_storeu_ps(h->acc[i] + d + 8, acc[i].hi);
    }
}

INLINE void four_heads(enum td_type type, struct td_attn *st, const struct heads *h,
                       const uint8_t *k, const uint8_t *v, uint32_t head_dim, uint32_t n)
{
    const size_t row_bytes = (size_t)head_dim * (type == TD_F16 ? 2 : 4);
    float s[TD_ATTN_BLOCK * HEADS];
    scores(type, s, h, k, row_bytes, head_dim, n);

    const __m128 m4 = _mm_setr_ps(st->m[h->i[0]], st->m[h->i[1]], st->m[h->i[2]], st->m[h->i[3]]);
    const __m256 m_old = _mm256_set_m128(m4, m4);
    __m256 m = m_old;
    // The second operand wins against a NaN, so m stays a number, as in generic.
    for (uint32_t t = 0; t < n; t += 2) m = _mm256_max_ps(_mm256_loadu_ps(s + HEADS * t), m);
    m = _mm256_max_ps(m, _mm256_permute2f128_ps(m, m, 1)); // the four maxima, twice
    for (uint32_t t = 0; t < n; t += 2) {
        const __m256 st2 = _mm256_loadu_ps(s + HEADS * t);
        _mm256_storeu_ps(s + HEADS * t, exp8(_mm256_sub_ps(st2, m)));
    }
    const __m128 c4 = _mm256_castps256_ps128(exp8(_mm256_sub_ps(m_old, m)));
    __m128 l = _mm_setr_ps(st->l[h->i[0]], st->l[h->i[1]], st->l[h->i[2]], st->l[h->i[3]]);
    l = _mm_mul_ps(l, c4);
    for (uint32_t t = 0; t < n; t++) l = _mm_add_ps(l, _mm_loadu_ps(s + HEADS * t));

    float c[HEADS], m_out[HEADS], l_out[HEADS];
    _mm_storeu_ps(c, c4);
    _mm_storeu_ps(m_out, _mm256_castps256_ps128(m));
    _mm_storeu_ps(l_out, l);
    for (uint32_t d = 0; d < head_dim; d += 16) values(type, h, d, c, s, v, row_bytes, n);
    for (int i = 0; i < HEADS; i++) {
        st->m[h->i[i]] = m_out[i];
        st->l[h->i[i]] = l_out[i];
    }
}

INLINE void attend(enum td_type type, struct td_attn *st, const float *q, const uint8_t *k,
                   const uint8_t *v, uint32_t n_q, uint32_t head_dim, uint32_t first, uint32_t last)
{
    assert(head_dim % 16 == 0 && first < last && last <= TD_ATTN_BLOCK);
    const size_t skip = (size_t)first * head_dim * (type == TD_F16 ? 2 : 4);
    for (uint32_t i = 0; i < n_q; i += HEADS) {
        struct heads h;
        TD_UNROLL
        for (uint32_t j = 0; j < HEADS; j++) {
            // A head that is not there is the last one again: read and written with the same bits.
            h.i[j] = td_min_u32(i + j, n_q - 1);
            h.q[j] = q + (size_t)h.i[j] * head_dim;
            h.acc[j] = st->acc + (size_t)h.i[j] * head_dim;
        }
        four_heads(type, st, &h, k + skip, v + skip, head_dim, last - first);
    }
}

TARGET void td_attend_f16_avx2(struct td_attn *st, const float *q, const void *k, const void *v,
                               uint32_t n_q, uint32_t head_dim, uint32_t first, uint32_t last)
{
    attend(TD_F16, st, q, k, v, n_q, head_dim, first, last);
}

TARGET void td_attend_f32_avx2(struct td_attn *st, const float *q, const void *k, const void *v,
                               uint32_t n_q, uint32_t head_dim, uint32_t first, uint32_t last)
{
    attend(TD_F32, st, q, k, v, n_q, head_dim, first, last);
}

#endif
