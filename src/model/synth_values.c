// SPDX-License-Identifier: MIT
// Which tensors a synthetic model has, and their values. Values have a chosen mean and standard
// deviation and need no libm: uniform integers, and sqrt, which IEEE 754 rounds correctly.
#include "base/num.h"
#include "model/synth_impl.h"

#include <assert.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// --- plan -----------------------------------------------------------------------------------

struct planner {
    const struct td_synth_shape *shape;
    struct td_synth_plan *plan;
    uint32_t cap;
    uint32_t pool;
    uint32_t n_per_layer; // tensors, once the first layer is planned
    int32_t layer;        // -1: outside layers
};

static void add(struct planner *p, enum td_type type, double mean, double std,
                const uint64_t dim[3], const char *name)
{
    assert(p->plan->n_tensors < p->cap);
    const uint32_t i = p->plan->n_tensors++;
    struct td_synth_tensor *t = &p->plan->tensors[i];
    *t = (struct td_synth_tensor){.type = type, .mean = mean, .std = std, .i_source = i};
    if (p->layer < 0)
        snprintf(t->name, sizeof(t->name), "%s", name);
    else
        snprintf(t->name, sizeof(t->name), "blk.%d.%s", p->layer, name);
    t->n_elems = 1;
    for (uint32_t k = 0; k < 3; k++) {
        t->dim[k] = dim[k] ? dim[k] : 1;
        t->n_dims += dim[k] != 0;
        t->n_elems *= t->dim[k];
    }
    t->size_bytes = td_type_size_bytes(type, t->n_elems);
    if (p->layer >= (int32_t)p->pool) {
        const uint32_t il = (uint32_t)p->layer;
        t->i_source = i - (il - il % p->pool) * p->n_per_layer;
    }
    // Any injective mix of seed and tensor will do; the generator scrambles it.
    t->seed = p->shape->seed * 0x9e3779b97f4a7c15u + ((uint64_t)t->i_source << 32);
    p->plan->size_bytes += t->size_bytes;
}

static void add_matrix(struct planner *p, enum td_type type, uint64_t n_in, uint64_t n_out,
                       double gain, const char *name)
{
    add(p, type, 0.0, gain / sqrt((double)n_in), (uint64_t[3]){n_in, n_out}, name);
}

static void add_experts(struct planner *p, uint64_t n_in, uint64_t n_out, const char *name)
{
    add(p, p->shape->type_experts, 0.0, 1.0 / sqrt((double)n_in),
        (uint64_t[3]){n_in, n_out, p->shape->n_experts}, name);
}

static void add_vector(struct planner *p, double mean, double std, uint64_t n, uint64_t n_experts,
                       const char *name)
{
    add(p, TD_F32, mean, std, (uint64_t[3]){n, n_experts}, name);
}

// Gains: 1 keeps a normalised input's size. The router's 2 makes its choice follow the token and
// not its bias; the output's 2.5 gives logits a spread that a sampler can work with.
static void add_layer(struct planner *p)
{
    const struct td_synth_shape *s = p->shape;
    const uint64_t n_q = (uint64_t)s->n_heads * s->head_dim;
    const uint64_t n_kv = (uint64_t)s->n_kv_heads * s->head_dim;
    const double norm_std = 0.1, bias_std = 0.05, sink_std = 0.5;
    add_vector(p, 1.0, norm_std, s->n_embd, 0, "attn_norm.weight");
    add_matrix(p, s->type_attn, s->n_embd, n_q, 1.0, "attn_q.weight");
    add_vector(p, 0.0, bias_std, n_q, 0, "attn_q.bias");
    add_matrix(p, s->type_attn, s->n_embd, n_kv, 1.0, "attn_k.weight");
    add_vector(p, 0.0, bias_std, n_kv, 0, "attn_k.bias");
    add_matrix(p, s->type_attn, s->n_embd, n_kv, 1.0, "attn_v.weight");
    add_vector(p, 0.0, bias_std, n_kv, 0, "attn_v.bias");
    add_vector(p, 0.0, sink_std, s->n_heads, 0, "attn_sinks.weight");
    add_matrix(p, s->type_attn, n_q, s->n_embd, 1.0, "attn_output.weight");
    add_vector(p, 0.0, bias_std, s->n_embd, 0, "attn_output.bias");
    add_vector(p, 1.0, norm_std, s->n_embd, 0, "post_attention_norm.weight");
    add_matrix(p, TD_F32, s->n_embd, s->n_experts, 2.0, "ffn_gate_inp.weight");
    add_vector(p, 0.0, bias_std, s->n_experts, 0, "ffn_gate_inp.bias");
    add_experts(p, s->n_embd, s->n_ff_expert, "ffn_gate_exps.weight");
    add_vector(p, 0.0, bias_std, s->n_ff_expert, s->n_experts, "ffn_gate_exps.bias");
    add_experts(p, s->n_embd, s->n_ff_expert, "ffn_up_exps.weight");
    add_vector(p, 0.0, bias_std, s->n_ff_expert, s->n_experts, "ffn_up_exps.bias");
    add_experts(p, s->n_ff_expert, s->n_embd, "ffn_down_exps.weight");
    add_vector(p, 0.0, bias_std, s->n_embd, s->n_experts, "ffn_down_exps.bias");
}

int td_synth_plan_init(struct td_synth_plan *out, const struct td_synth_shape *s, uint32_t pool,
                       struct td_error *err)
{
    *out = (struct td_synth_plan){0};
    struct planner p = {.shape = s, .plan = out, .layer = -1};
    p.pool = pool == 0 || pool > s->n_layers ? s->n_layers : pool;
    p.cap = 3 + 19 * s->n_layers;
    out->tensors = calloc(p.cap, sizeof(*out->tensors));
    if (!out->tensors) return td_fail(err, TD_ENOMEM, "synth: no memory for a list of tensors");
    // An embedding has one row per token: its values are the residual stream's first ones.
    add(&p, s->type_embd, 0.0, 1.0, (uint64_t[3]){s->n_embd, s->n_vocab}, "token_embd.weight");
    add_vector(&p, 1.0, 0.1, s->n_embd, 0, "output_norm.weight");
    add_matrix(&p, s->type_embd, s->n_embd, s->n_vocab, 2.5, "output.weight");
    for (uint32_t il = 0; il < s->n_layers; il++) {
        const uint64_t before = out->size_bytes;
        const uint32_t n_before = out->n_tensors;
        p.layer = (int32_t)il;
        add_layer(&p);
        p.n_per_layer = out->n_tensors - n_before;
        out->layer_size_bytes = out->size_bytes - before;
    }
    return TD_OK;
}

void td_synth_plan_free(struct td_synth_plan *plan)
{
    free(plan->tensors);
    *plan = (struct td_synth_plan){0};
}

// --- values ---------------------------------------------------------------------------------

uint64_t td_synth_n_pieces(const struct td_synth_tensor *t)
{
    return (t->n_elems + TD_SYNTH_PIECE - 1) / TD_SYNTH_PIECE;
}

static uint64_t piece_elems(const struct td_synth_tensor *t, uint64_t i_piece)
{
    const uint64_t left = t->n_elems - i_piece * TD_SYNTH_PIECE;
    return left < TD_SYNTH_PIECE ? left : TD_SYNTH_PIECE;
}

uint64_t td_synth_piece_bytes(const struct td_synth_tensor *t, uint64_t i_piece)
{
    return td_type_size_bytes(t->type, piece_elems(t, i_piece));
}

// Uniform in [-1, 1) from 24 of 32 bits: exact in binary32.
static float unit(uint32_t bits)
{
    return (float)((int32_t)(bits >> 8) - (1 << 23)) * 0x1p-23f;
}

static void fill_f32(const struct td_synth_tensor *t, struct td_rng *r, uint64_t n, uint8_t *out)
{
    const float mean = (float)t->mean;
    const float scale = (float)(t->std * sqrt(3.0)); // a uniform's deviation is 1/sqrt(3)
    for (uint64_t i = 0; i < n; i += 2) {
        const uint64_t u = td_rng_u64(r);
        const float pair[2] = {mean + scale * unit((uint32_t)u),
                               mean + scale * unit((uint32_t)(u >> 32))};
        memcpy(out + i * 4, pair, i + 1 < n ? 8 : 4);
    }
}

static void fill_16(const struct td_synth_tensor *t, struct td_rng *r, uint64_t n, uint8_t *out)
{
    const float scale = (float)(t->std * sqrt(3.0));
    for (uint64_t i = 0; i < n; i++) {
        const float v = scale * unit((uint32_t)td_rng_u64(r));
        // BF16 by truncation: any rounding is as random as another.
        const uint16_t h =
            t->type == TD_F16 ? td_f16_of_f32(v) : (uint16_t)(td_bits_of_f32(v) >> 16);
        memcpy(out + i * 2, &h, 2);
    }
}

// -128 becomes -127: quantisers never write it. Exact per byte, no carry between bytes.
static uint64_t without_minus_128(uint64_t v)
{
    const uint64_t low7 = 0x7f7f7f7f7f7f7f7fu, tops = 0x8080808080808080u;
    const uint64_t t = v ^ tops; // zero bytes where v is 0x80
    const uint64_t zero = ~(((t & low7) + low7) | t) & tops;
    return v | zero >> 7;
}

static void fill_q8_0(const struct td_synth_tensor *t, struct td_rng *r, uint64_t n, uint8_t *out)
{
    // Bytes uniform in [-127, 127] have a deviation of sqrt((255^2 - 1) / 12). The last bits of the
    // scale's significand vary by block, +-3 % around it.
    const uint16_t d = td_f16_of_f32((float)(t->std / sqrt((255.0 * 255.0 - 1.0) / 12.0)));
    for (uint64_t i = 0; i < n; i += TD_QK) {
        const uint16_t scale = (uint16_t)((d & ~31u) | (td_rng_u64(r) >> 59));
        memcpy(out, &scale, 2);
        for (size_t k = 0; k < 4; k++) {
            const uint64_t v = without_minus_128(td_rng_u64(r));
            memcpy(out + 2 + 8 * k, &v, 8);
        }
        out += sizeof(struct td_block_q8_0);
    }
}

static void fill_mxfp4(const struct td_synth_tensor *t, struct td_rng *r, uint64_t n, uint8_t *out)
{
    // The 16 codes are 0, .5, 1, 1.5, 2, 3, 4, 6 and their negatives: mean square 68.5 / 8. Scales
    // are powers of two, so a block takes 2^e or 2^(e+1), with the chance that meets the variance.
    double square = t->std * t->std / (68.5 / 8.0);
    int e = 0;
    for (; square < 1.0 && e > -120; e--) square *= 4.0;
    for (; square >= 4.0 && e < 120; e++) square /= 4.0;
    const uint32_t n_larger_of_256 = (uint32_t)(256.0 * (square - 1.0) / 3.0);
    uint64_t dice = 0;
    for (uint64_t i = 0, block = 0; i < n; i += TD_QK, block++) {
        if (block % 8 == 0) dice = td_rng_u64(r);
        const bool is_larger = (dice & 255) < n_larger_of_256;
        dice >>= 8;
        out[0] = (uint8_t)(127 + e + is_larger);
        const uint64_t codes[2] = {td_rng_u64(r), td_rng_u64(r)};
        memcpy(out + 1, codes, sizeof(codes));
        out += sizeof(struct td_block_mxfp4);
    }
}

void td_synth_fill(const struct td_synth_tensor *t, uint64_t i_piece, uint8_t *out)
{
    struct td_rng r = {t->seed + i_piece};
    r.state = td_rng_u64(&r); // neighbouring seeds would give overlapping streams
    const uint64_t n = piece_elems(t, i_piece);
    switch (t->type) {
    case TD_F32: fill_f32(t, &r, n, out); return;
    case TD_F16:
    case TD_BF16: fill_16(t, &r, n, out); return;
    case TD_Q8_0: fill_q8_0(t, &r, n, out); return;
    case TD_MXFP4: fill_mxfp4(t, &r, n, out); return;
    }
}
