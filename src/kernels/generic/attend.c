// SPDX-License-Identifier: MIT
// Attention of queries over one block of positions of their KV head.
#include "kernels/generic/expf.h"
#include "kernels/generic/generic.h"

#include <assert.h>

static float kv_at(enum td_type type, const void *p, size_t i)
{
    return type == TD_F16 ? td_f32_of_f16(((const uint16_t *)p)[i]) : ((const float *)p)[i];
}

static void attend_one(enum td_type type, const struct td_attn *a, uint32_t i, const void *kv,
                       uint32_t head_dim)
{
    const uint32_t first = a->limits[i].first, last = a->limits[i].last;
    assert(first <= last && last <= TD_ATTN_BLOCK);
    if (first == last) return;
    const float *q = a->q + (size_t)i * head_dim;
    float *acc = a->acc + (size_t)i * head_dim;
    float s[TD_ATTN_BLOCK];
    float m = a->m[i];
    for (uint32_t t = first; t < last; t++) {
        s[t] = 0.0f;
        for (uint32_t d = 0; d < head_dim; d++)
            s[t] = fmaf(q[d], kv_at(type, kv, (size_t)d * TD_ATTN_BLOCK + t), s[t]);
        if (s[t] > m) m = s[t];
    }
    m += 0.0f;
    const float c = expf_generic(a->m[i] - m);
    float sums[16] = {0};
    const size_t v = (size_t)TD_ATTN_BLOCK * head_dim;
    for (uint32_t d = 0; d < head_dim; d++) acc[d] *= c;
    for (uint32_t t = first; t < last; t++) {
        const float p = expf_generic(s[t] - m);
        sums[t % 16] += p;
        for (uint32_t d = 0; d < head_dim; d++)
            acc[d] = fmaf(p, kv_at(type, kv, v + (size_t)t * head_dim + d), acc[d]);
    }
    a->l[i] = a->l[i] * c + td_fold16_generic(sums);
    a->m[i] = m;
}

void td_attend_f16_generic(const struct td_attn *a, const void *kv, const void *next,
                           uint32_t head_dim, void *scratch)
{
    (void)next;
    (void)scratch;
    assert(head_dim % 16 == 0);
    for (uint32_t i = 0; i < a->n; i++) attend_one(TD_F16, a, i, kv, head_dim);
}

void td_attend_f32_generic(const struct td_attn *a, const void *kv, const void *next,
                           uint32_t head_dim, void *scratch)
{
    (void)next;
    (void)scratch;
    assert(head_dim % 16 == 0);
    for (uint32_t i = 0; i < a->n; i++) attend_one(TD_F32, a, i, kv, head_dim);
}
