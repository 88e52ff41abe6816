// SPDX-License-Identifier: MIT
// Attention for AVX-512: four query heads at a time, so that a row of K or V is loaded and
// converted once for four, and the steps that go position by position (l, and each accumulator)
// have four independent chains.
//
// Scores and probabilities lie as s[position][4 heads]: one vector is four positions by four heads,
// which is what fold16x16 gives.
#include "kernels/avx512/avx512.h"

#if defined(__x86_64__)
#include "kernels/avx512/vec_impl.h"

#include <assert.h>

enum { HEADS = 4 };

struct heads {
    const float *q[HEADS];
    float *acc[HEADS];
    uint32_t i[HEADS];
};

// s[t][h] for n positions from row k on, and -infinity up to the next multiple of four.
INLINE void scores(enum td_type type, float *s, const struct heads *h, const uint8_t *k,
                   size_t row_bytes, uint32_t head_dim, uint32_t n)
{
    for (uint32_t t = 0; t < n; t += 4) {
        __m512 acc[HEADS][4]; // head, position
        TD_UNROLL
        for (int i = 0; i < HEADS; i++) {
            TD_UNROLL
            for (int j = 0; j < 4; j++) acc[i][j] = _mm512_setzero_ps();
        }
        const uint8_t *row[4];
        TD_UNROLL
        for (uint32_t j = 0; j < 4; j++) row[j] = k + td_min_u32(t + j, n - 1) * row_bytes;
        for (uint32_t d = 0; d < head_dim; d += 16) {
            __m512 kd[4];
            TD_UNROLL
            for (int j = 0; j < 4; j++) kd[j] = weights16(type, row[j], d);
            TD_UNROLL
            for (int i = 0; i < HEADS; i++) {
                const __m512 q = _mm512_loadu_ps(h->q[i] + d);
                TD_UNROLL
                for (int j = 0; j < 4; j++) acc[i][j] = _mm512_fmadd_ps(q, kd[j], acc[i][j]);
            }
        }
        const __mmask16 there = first_lanes(4 * (n - t));
        const __m512 sum = fold16x16((const __m512(*)[4])acc);
        _mm512_storeu_ps(s + 4 * t, _mm512_mask_mov_ps(_mm512_set1_ps(-INFINITY), there, sum));
    }
}

// acc = acc * c, then acc = fmaf(p, v, acc) position by position, for 16 * n_d elements from d on.
INLINE void values(enum td_type type, int n_d, const struct heads *h, uint32_t d, const float *c,
                   const float *p, const uint8_t *v, size_t row_bytes, uint32_t n)
{
    __m512 acc[HEADS][4];
    TD_UNROLL
    for (int i = 0; i < HEADS; i++) {
        TD_UNROLL
        for (int j = 0; j < n_d; j++) {
            acc[i][j] =
                _mm512_mul_ps(_mm512_loadu_ps(h->acc[i] + d + 16 * j), _mm512_set1_ps(c[i]));
        }
    }
    for (uint32_t t = 0; t < n; t++, v += row_bytes, p += HEADS) {
        __m512 vd[4];
        TD_UNROLL
        for (int j = 0; j < n_d; j++) vd[j] = weights16(type, v, d + 16u * (unsigned)j);
        TD_UNROLL
        for (int i = 0; i < HEADS; i++) {
            const __m512 pi = _mm512_set1_ps(p[i]);
            TD_UNROLL
            for (int j = 0; j < n_d; j++) acc[i][j] = _mm512_fmadd_ps(pi, vd[j], acc[i][j]);
        }
    }
    TD_UNROLL
    for (int i = 0; i < HEADS; i++) {
        TD_UNROLL
        for (int j = 0; j < n_d; j++) _mm512_storeu_ps(h->acc[i] + d + 16 * j, acc[i][j]);
    }
}

INLINE void four_heads(enum td_type type, struct td_attn *st, const struct heads *h,
                       const uint8_t *k, const uint8_t *v, uint32_t head_dim, uint32_t n)
{
    const size_t row_bytes = (size_t)head_dim * (type == TD_F16 ? 2 : 4);
    float s[TD_ATTN_BLOCK * HEADS];
    scores(type, s, h, k, row_bytes, head_dim, n);

    const __m128 m_old =
        _mm_setr_ps(st->m[h->i[0]], st->m[h->i[1]], st->m[h->i[2]], st->m[h->i[3]]);
    __m512 m = _mm512_broadcast_f32x4(m_old);
    // The second operand wins against a NaN, so m stays a number, as in generic.
    for (uint32_t t = 0; t < n; t += 4) m = _mm512_max_ps(_mm512_loadu_ps(s + 4 * t), m);
    m = _mm512_max_ps(m, _mm512_shuffle_f32x4(m, m, 0x4e));
    m = _mm512_max_ps(m, _mm512_shuffle_f32x4(m, m, 0xb1)); // the four maxima, four times
    for (uint32_t t = 0; t < n; t += 4) {
        _mm512_storeu_ps(s + 4 * t, exp16(_mm512_sub_ps(_mm512_loadu_ps(s + 4 * t), m)));
    }
    const __m128 m_new = _mm512_castps512_ps128(m);
    const __m128 c4 =
        _mm512_castps512_ps128(exp16(_mm512_sub_ps(_mm512_broadcast_f32x4(m_old), m)));
    __m128 l = _mm_setr_ps(st->l[h->i[0]], st->l[h->i[1]], st->l[h->i[2]], st->l[h->i[3]]);
    l = _mm_mul_ps(l, c4);
    for (uint32_t t = 0; t < n; t++) l = _mm_add_ps(l, _mm_loadu_ps(s + HEADS * t));

    float c[HEADS], m_out[HEADS], l_out[HEADS];
    _mm_storeu_ps(c, c4);
    _mm_storeu_ps(m_out, m_new);
    _mm_storeu_ps(l_out, l);
    uint32_t d = 0;
    for (; d + 64 <= head_dim; d += 64) values(type, 4, h, d, c, s, v, row_bytes, n);
    for (; d < head_dim; d += 16) values(type, 1, h, d, c, s, v, row_bytes, n);
    TD_UNROLL
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

TARGET void td_attend_f16_avx512(struct td_attn *st, const float *q, const void *k, const void *v,
                                 uint32_t n_q, uint32_t head_dim, uint32_t first, uint32_t last)
{
    attend(TD_F16, st, q, k, v, n_q, head_dim, first, last);
}

TARGET void td_attend_f32_avx512(struct td_attn *st, const float *q, const void *k, const void *v,
                                 uint32_t n_q, uint32_t head_dim, uint32_t first, uint32_t last)
{
    attend(TD_F32, st, q, k, v, n_q, head_dim, first, last);
}

#endif
