// SPDX-License-Identifier: MIT
// Attention for NEON: four query heads at a time, so that a row of K or V is loaded and converted
// once for four, and the steps that go position by position (l, and each accumulator) have four
// independent chains.
//
// Scores and probabilities lie as s[position][4 heads]: one vector is one position.
#include "kernels/neon/neon.h"

#if defined(__aarch64__)
#include "kernels/neon/vec_impl.h"

#include <assert.h>

enum { HEADS = 4 };

struct heads {
    const float *q[HEADS];
    float *acc[HEADS];
    uint32_t i[HEADS];
};

// s[t][h] for n positions from row k on.
INLINE void scores(enum td_type type, float *s, const struct heads *h, const uint8_t *k,
                   size_t row_bytes, uint32_t head_dim, uint32_t n)
{
    for (uint32_t t = 0; t < n; t++, k += row_bytes) {
        struct f32x16 acc[HEADS];
        TD_UNROLL
        for (int i = 0; i < HEADS; i++) acc[i] = zero16();
        for (uint32_t d = 0; d < head_dim; d += 16) {
            const struct f32x16 kd = weights16(type, k, d);
            TD_UNROLL
            for (int i = 0; i < HEADS; i++) acc[i] = fma16(acc[i], load16(h->q[i] + d), kd);
        }
        vst1q_f32(s + HEADS * t, fold16x4(acc));
    }
}

// acc = fmaf(p[LANE], v, acc) for the head LANE.
#define ADD_HEAD(LANE)                                                                             \
    TD_UNROLL for (int j = 0; j < 4; j++)                                                          \
    {                                                                                              \
        acc[LANE].v[j] = vfmaq_laneq_f32(acc[LANE].v[j], vd.v[j], pt, LANE);                       \
    }

// acc = acc * c, then acc = fmaf(p, v, acc) position by position, for 16 elements from d on.
INLINE void values(enum td_type type, const struct heads *h, uint32_t d, const float *c,
                   const float *p, const uint8_t *v, size_t row_bytes, uint32_t n)
{
    struct f32x16 acc[HEADS];
    TD_UNROLL
    for (int i = 0; i < HEADS; i++) {
        acc[i] = load16(h->acc[i] + d);
        TD_UNROLL
        for (int j = 0; j < 4; j++) acc[i].v[j] = vmulq_n_f32(acc[i].v[j], c[i]);
    }
    for (uint32_t t = 0; t < n; t++, v += row_bytes, p += HEADS) {
        const struct f32x16 vd = weights16(type, v, d);
        const float32x4_t pt = vld1q_f32(p);
        ADD_HEAD(0)
        ADD_HEAD(1)
        ADD_HEAD(2)
        ADD_HEAD(3)
    }
    TD_UNROLL
    for (int i = 0; i < HEADS; i++) {
        TD_UNROLL
        for (int j = 0; j < 4; j++) vst1q_f32(h->acc[i] + d + 4 * j, acc[i].v[j]);
    }
}

INLINE void four_heads(enum td_type type, struct td_attn *st, const struct heads *h,
                       const uint8_t *k, const uint8_t *v, uint32_t head_dim, uint32_t n)
{
    const size_t row_bytes = (size_t)head_dim * (type == TD_F16 ? 2 : 4);
    float s[TD_ATTN_BLOCK * HEADS];
    float c[HEADS], m_io[HEADS], l_io[HEADS];
    for (int i = 0; i < HEADS; i++) {
        m_io[i] = st->m[h->i[i]];
        l_io[i] = st->l[h->i[i]];
    }
    scores(type, s, h, k, row_bytes, head_dim, n);
    const float32x4_t m_old = vld1q_f32(m_io);
    float32x4_t m = m_old;
    // FMAXNM: the number wins against a NaN, so m stays a number, as in generic.
    for (uint32_t t = 0; t < n; t++) m = vmaxnmq_f32(m, vld1q_f32(s + HEADS * t));
    const float32x4_t c4 = exp4(vsubq_f32(m_old, m));
    float32x4_t l = vmulq_f32(vld1q_f32(l_io), c4);
    for (uint32_t t = 0; t < n; t++) {
        const float32x4_t p = exp4(vsubq_f32(vld1q_f32(s + HEADS * t), m));
        vst1q_f32(s + HEADS * t, p);
        l = vaddq_f32(l, p);
    }
    vst1q_f32(c, c4);
    vst1q_f32(m_io, m);
    vst1q_f32(l_io, l);
    for (uint32_t d = 0; d < head_dim; d += 16) values(type, h, d, c, s, v, row_bytes, n);
    for (int i = 0; i < HEADS; i++) {
        st->m[h->i[i]] = m_io[i];
        st->l[h->i[i]] = l_io[i];
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

TARGET void td_attend_f16_neon(struct td_attn *st, const float *q, const void *k, const void *v,
                               uint32_t n_q, uint32_t head_dim, uint32_t first, uint32_t last)
{
    attend(TD_F16, st, q, k, v, n_q, head_dim, first, last);
}

TARGET void td_attend_f32_neon(struct td_attn *st, const float *q, const void *k, const void *v,
                               uint32_t n_q, uint32_t head_dim, uint32_t first, uint32_t last)
{
    attend(TD_F32, st, q, k, v, n_q, head_dim, first, last);
}

#endif
