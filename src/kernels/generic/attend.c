// SPDX-License-Identifier: MIT
// Attention of a few query heads over one block of positions of their KV head.
#include "kernels/generic/expf.h"
#include "kernels/generic/generic.h"

#include <assert.h>

// Element i of a row of the KV type.
static float kv_at(enum td_type type, const void *row, uint32_t i)
{
    return type == TD_F16 ? td_f32_of_f16(((const uint16_t *)row)[i]) : ((const float *)row)[i];
}

static float score(enum td_type type, const float *q, const void *k, uint32_t head_dim)
{
    float acc[16] = {0};
    for (uint32_t i = 0; i < head_dim; i++)
        acc[i % 16] = fmaf(q[i], kv_at(type, k, i), acc[i % 16]);
    return td_fold16_generic(acc);
}

static void attend(enum td_type type, struct td_attn *st, const float *q, const void *k,
                   const void *v, uint32_t n_q, uint32_t head_dim, uint32_t first, uint32_t last)
{
    assert(head_dim % 16 == 0 && first < last && last <= TD_ATTN_BLOCK);
    const size_t row_bytes = (size_t)td_type_size_bytes(type, head_dim);
    for (uint32_t h = 0; h < n_q; h++) {
        float *acc = st->acc + (size_t)h * head_dim;
        float s[TD_ATTN_BLOCK];
        float m = st->m[h];
        for (uint32_t t = first; t < last; t++) {
            const void *kt = (const uint8_t *)k + t * row_bytes;
            s[t] = score(type, q + (size_t)h * head_dim, kt, head_dim);
            if (s[t] > m) m = s[t];
        }
        const float c = expf_generic(st->m[h] - m);
        float l = st->l[h] * c;
        for (uint32_t i = 0; i < head_dim; i++) acc[i] *= c;
        for (uint32_t t = first; t < last; t++) {
            const void *vt = (const uint8_t *)v + t * row_bytes;
            const float p = expf_generic(s[t] - m);
            l += p;
            for (uint32_t i = 0; i < head_dim; i++) acc[i] = fmaf(p, kv_at(type, vt, i), acc[i]);
        }
        st->m[h] = m;
        st->l[h] = l;
    }
}

void td_attend_f16_generic(struct td_attn *st, const float *q, const void *k, const void *v,
                           uint32_t n_q, uint32_t head_dim, uint32_t first, uint32_t last)
{
    attend(TD_F16, st, q, k, v, n_q, head_dim, first, last);
}

void td_attend_f32_generic(struct td_attn *st, const float *q, const void *k, const void *v,
                           uint32_t n_q, uint32_t head_dim, uint32_t first, uint32_t last)
{
    attend(TD_F32, st, q, k, v, n_q, head_dim, first, last);
}
