// SPDX-License-Identifier: MIT
// What follows from a spec's numbers alone: rotary frequencies and the size of the KV cache.
#include "model/spec.h"

#include <assert.h>
#include <math.h>

// The dim that turns `turns` times over the original context. M_PI is not ISO C.
static double correction_dim(const struct td_rope *r, double turns)
{
    const double two_pi = 6.283185307179586476925286766559;
    return r->n_dims * log(r->original_ctx / (turns * two_pi)) / (2.0 * log(r->base));
}

// Source: YaRN, arXiv:2309.00071, as in openai/gpt-oss gpt_oss/torch/model.py; the clamps for
// shapes that were never published are those of Hugging Face's rope utilities.
void td_rope_derive(struct td_rope *r)
{
    assert(r->n_dims % 2 == 0 && r->n_dims <= TD_MAX_HEAD_DIM && r->base > 1.0 && r->factor >= 1.0);
    const uint32_t half = r->n_dims / 2;
    for (uint32_t i = 0; i < half; i++) r->inv_freq[i] = pow(r->base, -2.0 * i / r->n_dims);
    if (r->factor == 1.0) return;

    double low = correction_dim(r, r->beta_fast);
    double high = correction_dim(r, r->beta_slow);
    if (r->truncate) {
        low = floor(low);
        high = ceil(high);
    }
    low = fmax(low, 0.0);
    high = fmin(high, r->n_dims - 1.0);
    if (high - low < 1e-3) high = low + 1e-3; // a step instead of a division by zero
    for (uint32_t i = 0; i < half; i++) {
        // 0: fast dims keep their frequency; 1: slow dims are stretched by the factor.
        const double ramp = fmin(fmax((i - low) / (high - low), 0.0), 1.0);
        r->inv_freq[i] *= (1.0 - ramp) + ramp / r->factor;
    }
    r->attn_factor *= 0.1 * log(r->factor) + 1.0;
}

static uint64_t position_bytes(const struct td_kv_layer *kv, uint32_t elem_bytes)
{
    return 2ull * kv->n_kv_heads * kv->head_dim * elem_bytes;
}

uint64_t td_spec_kv_bytes_per_token(const struct td_spec *spec, uint32_t elem_bytes)
{
    uint64_t sum = 0;
    for (uint32_t il = 0; il < spec->n_layers; il++)
        if (spec->kv[il].window == 0) sum += position_bytes(&spec->kv[il], elem_bytes);
    return sum;
}

uint64_t td_spec_kv_window_bytes(const struct td_spec *spec, uint32_t elem_bytes)
{
    uint64_t sum = 0;
    for (uint32_t il = 0; il < spec->n_layers; il++)
        sum += spec->kv[il].window * position_bytes(&spec->kv[il], elem_bytes);
    return sum;
}
