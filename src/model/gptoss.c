// SPDX-License-Identifier: MIT
// gpt-oss-20b and gpt-oss-120b, as a spec, bound weights and a recorded forward pass. The
// equations, keys and tensors are in docs/MODELS.md; this file follows it line by line.
#include "model/arch_impl.h"

#include <string.h>

// What gpt-oss files do not carry.
// Source: openai/gpt-oss gpt_oss/torch/model.py (swiglu, RotaryEmbedding, AttentionBlock) and the
// published config.json ("swiglu_limit", "beta_fast", "beta_slow", "truncate", "layer_types").
static const float SWIGLU_ALPHA = 1.702f;
static const float SWIGLU_LIMIT = 7.0f;
static const double YARN_BETA_FAST = 32.0;
static const double YARN_BETA_SLOW = 1.0;
static const bool YARN_TRUNCATE = false;
static const uint32_t YARN_ORIGINAL_CTX = 4096; // "original_max_position_embeddings"
static const uint32_t SLIDING_PERIOD = 2;       // the last layer of each period sees everything

// --- spec -----------------------------------------------------------------------------------

static void read_rope(struct td_binder *b, struct td_spec *s)
{
    struct td_rope *r = &s->rope;
    *r = (struct td_rope){
        .n_dims = s->head_dim,
        .base = td_need_f32(b, "rope.freq_base", 1.001, 1e12),
        .factor = 1.0,
        .original_ctx = s->n_ctx_train,
        .beta_fast = td_maybe_f32(b, "rope.scaling.yarn_beta_fast", 1e-3, 1e6, YARN_BETA_FAST),
        .beta_slow = td_maybe_f32(b, "rope.scaling.yarn_beta_slow", 1e-3, 1e6, YARN_BETA_SLOW),
        .truncate = YARN_TRUNCATE,
        .attn_factor = td_maybe_f32(b, "rope.scaling.attn_factor", 1e-3, 1e3, 1.0),
    };
    td_maybe_u32(b, "rope.dimension_count", s->head_dim, s->head_dim, s->head_dim);
    char key[96];
    td_key_name(b, "rope.scaling.type", key);
    // Without a type, a factor is YaRN's: gpt-oss has no other scaling.
    struct td_str type = {td_has_key(b, "rope.scaling.factor") ? "yarn" : "none", 4};
    if (td_gguf_str(b->gguf, key, &type, NULL) == TD_EFORMAT) // absence leaves the default
        td_bind_fail(b, TD_EFORMAT, "key '%s' is not a string", key);
    if (type.size_bytes == 4 && memcmp(type.at, "yarn", 4) == 0) {
        r->factor = td_need_f32(b, "rope.scaling.factor", 1.0, 1e6);
        r->original_ctx =
            td_maybe_u32(b, "rope.scaling.original_context_length", 1, 1u << 30, YARN_ORIGINAL_CTX);
    } else if (type.size_bytes != 4 || memcmp(type.at, "none", 4) != 0) {
        td_bind_fail(b, TD_EUNSUP, "key '%s' is '%.*s'; gpt-oss has yarn or none", key,
                     (int)(type.size_bytes < 40 ? type.size_bytes : 40), type.at);
    }
    if (b->code == TD_OK) td_rope_derive(r);
}

// true: layer il keeps only a window. The key is one period or one flag per layer.
static bool slides(struct td_binder *b, uint32_t il, uint32_t n_layers)
{
    char key[96];
    td_key_name(b, "attention.sliding_window_pattern", key);
    struct td_gguf_array flags;
    if (td_gguf_has(b->gguf, key) && td_gguf_array(b->gguf, key, &flags, NULL) == TD_OK) {
        if (flags.n == n_layers && flags.type != TD_GGUF_STR && flags.type != TD_GGUF_F32 &&
            flags.type != TD_GGUF_F64)
            return td_gguf_array_i64(&flags, il) != 0;
        td_bind_fail(b, TD_EFORMAT, "key '%s' must hold one flag for each of %u layers", key,
                     n_layers);
        return false;
    }
    const uint32_t period =
        td_maybe_u32(b, "attention.sliding_window_pattern", 1, TD_MAX_LAYERS, SLIDING_PERIOD);
    return il % period < period - 1;
}

static void read_spec(struct td_binder *b, struct td_spec *s)
{
    s->n_layers = td_need_u32(b, "block_count", 1, TD_MAX_LAYERS);
    s->n_ctx_train = td_need_u32(b, "context_length", 1, 1u << 30);
    s->n_embd = td_need_u32(b, "embedding_length", 1, 1u << 16);
    s->n_heads = td_need_u32(b, "attention.head_count", 1, 1u << 12);
    s->n_kv_heads = td_need_u32(b, "attention.head_count_kv", 1, s->n_heads);
    s->head_dim =
        td_maybe_u32(b, "attention.key_length", 1, TD_MAX_HEAD_DIM, s->n_embd / s->n_heads);
    td_maybe_u32(b, "attention.value_length", s->head_dim, s->head_dim, s->head_dim);
    s->rms_eps = (float)td_need_f32(b, "attention.layer_norm_rms_epsilon", 1e-12, 0.1);
    s->n_experts = td_need_u32(b, "expert_count", 1, TD_MAX_EXPERTS);
    s->n_experts_used = td_need_u32(b, "expert_used_count", 1,
                                    s->n_experts < TD_MAX_TOP_K ? s->n_experts : TD_MAX_TOP_K);
    s->n_ff_expert = td_has_key(b, "expert_feed_forward_length")
                         ? td_need_u32(b, "expert_feed_forward_length", 1, 1u << 18)
                         : td_need_u32(b, "feed_forward_length", 1, 1u << 18);
    s->swiglu_alpha = SWIGLU_ALPHA;
    s->swiglu_limit = SWIGLU_LIMIT;

    if (s->n_heads % s->n_kv_heads != 0)
        td_bind_fail(b, TD_EFORMAT, "%u query heads cannot share %u KV heads evenly", s->n_heads,
                     s->n_kv_heads);
    if (s->head_dim % 16 != 0 || s->head_dim < 16 || s->head_dim > TD_MAX_HEAD_DIM)
        td_bind_fail(b, TD_EUNSUP, "heads of %u dims; tandem does multiples of 16 up to %u",
                     s->head_dim, (unsigned)TD_MAX_HEAD_DIM);

    const uint32_t window = td_need_u32(b, "attention.sliding_window", 1, 1u << 30);
    for (uint32_t il = 0; il < s->n_layers && b->code == TD_OK; il++)
        s->kv[il] = (struct td_kv_layer){
            .n_kv_heads = s->n_kv_heads,
            .head_dim = s->head_dim,
            .window = slides(b, il, s->n_layers) ? window : 0,
        };
    read_rope(b, s);

    // The vocabulary's size is the embedding's; the key, when there, must agree.
    const struct td_gguf_tensor *embd = td_gguf_find_tensor(b->gguf, "token_embd.weight");
    if (!embd)
        td_bind_fail(b, TD_EFORMAT, "tensor 'token_embd.weight' is missing");
    else if (embd->n_dims != 2 || embd->dim[1] < 1 || embd->dim[1] > 1u << 24)
        td_bind_fail(b, TD_EFORMAT, "tensor 'token_embd.weight' is not (%u, vocabulary)",
                     s->n_embd);
    else
        s->n_vocab = (uint32_t)embd->dim[1];
    td_maybe_u32(b, "vocab_size", s->n_vocab, s->n_vocab, s->n_vocab);
}

// --- weights --------------------------------------------------------------------------------

// Matrix and bias, in this order, wherever there are two.
struct layer {
    td_weight attn_norm;
    td_weight q[2], k[2], v[2], o[2];
    td_weight sinks;
    td_weight post_norm;
    td_weight router[2];
    td_weight gate[2], up[2], down[2];
};

static struct layer bind_layer(struct td_binder *b, const struct td_spec *s, uint32_t il)
{
    const uint32_t n_embd = s->n_embd, n_ff = s->n_ff_expert, n_experts = s->n_experts;
    const uint32_t n_q = s->n_heads * s->head_dim, n_kv = s->n_kv_heads * s->head_dim;
    struct layer l;
    l.attn_norm = td_bind_vector(b, n_embd, "blk.%u.attn_norm.weight", il);
    l.q[0] = td_bind_matrix(b, n_embd, n_q, "blk.%u.attn_q.weight", il);
    l.q[1] = td_bind_vector(b, n_q, "blk.%u.attn_q.bias", il);
    l.k[0] = td_bind_matrix(b, n_embd, n_kv, "blk.%u.attn_k.weight", il);
    l.k[1] = td_bind_vector(b, n_kv, "blk.%u.attn_k.bias", il);
    l.v[0] = td_bind_matrix(b, n_embd, n_kv, "blk.%u.attn_v.weight", il);
    l.v[1] = td_bind_vector(b, n_kv, "blk.%u.attn_v.bias", il);
    l.sinks = td_bind_vector(b, s->n_heads, "blk.%u.attn_sinks.weight", il);
    l.o[0] = td_bind_matrix(b, n_q, n_embd, "blk.%u.attn_output.weight", il);
    l.o[1] = td_bind_vector(b, n_embd, "blk.%u.attn_output.bias", il);
    l.post_norm = td_bind_vector(b, n_embd, "blk.%u.post_attention_norm.weight", il);
    l.router[0] = td_bind_matrix(b, n_embd, n_experts, "blk.%u.ffn_gate_inp.weight", il);
    l.router[1] = td_bind_vector(b, n_experts, "blk.%u.ffn_gate_inp.bias", il);
    l.gate[0] = td_bind_matrices(b, n_embd, n_ff, n_experts, "blk.%u.ffn_gate_exps.weight", il);
    l.gate[1] = td_bind_vectors(b, n_ff, n_experts, "blk.%u.ffn_gate_exps.bias", il);
    l.up[0] = td_bind_matrices(b, n_embd, n_ff, n_experts, "blk.%u.ffn_up_exps.weight", il);
    l.up[1] = td_bind_vectors(b, n_ff, n_experts, "blk.%u.ffn_up_exps.bias", il);
    l.down[0] = td_bind_matrices(b, n_ff, n_embd, n_experts, "blk.%u.ffn_down_exps.weight", il);
    l.down[1] = td_bind_vectors(b, n_embd, n_experts, "blk.%u.ffn_down_exps.bias", il);
    return l;
}

// --- forward pass ---------------------------------------------------------------------------

struct slots {
    td_slot x, n, y;               // residual stream, its norm, what a block adds to it
    td_slot q, k, v, att;          // attention
    td_slot router, ids, gates, h; // experts
    td_slot logits;
};

static struct slots make_slots(struct td_recorder *r)
{
    const struct td_spec *s = r->spec;
    return (struct slots){
        .x = td_rec_slot(r, "x", s->n_embd),
        .n = td_rec_slot(r, "n", s->n_embd),
        .y = td_rec_slot(r, "y", s->n_embd),
        .q = td_rec_slot(r, "q", s->n_heads * s->head_dim),
        .k = td_rec_slot(r, "k", s->n_kv_heads * s->head_dim),
        .v = td_rec_slot(r, "v", s->n_kv_heads * s->head_dim),
        .att = td_rec_slot(r, "att", s->n_heads * s->head_dim),
        .router = td_rec_slot(r, "router", s->n_experts),
        .ids = td_rec_slot_ids(r, "ids", s->n_experts_used),
        .gates = td_rec_slot(r, "gates", s->n_experts_used),
        .h = td_rec_slot(r, "h", s->n_experts_used * s->n_ff_expert),
        .logits = td_rec_slot(r, "logits", s->n_vocab),
    };
}

static void emit_layer(struct td_recorder *r, const struct slots *s, const struct layer *l)
{
    const bool is_last = r->layer == r->spec->n_layers - 1;

    td_rec_rmsnorm(r, s->n, s->x, l->attn_norm);
    td_rec_linear(r, s->q, s->n, l->q[0], l->q[1]);
    td_rec_linear(r, s->k, s->n, l->k[0], l->k[1]);
    td_rec_linear(r, s->v, s->n, l->v[0], l->v[1]);
    td_rec_rope(r, s->q, r->spec->n_heads);
    td_rec_rope(r, s->k, r->spec->n_kv_heads);
    td_rec_kv_put(r, s->k, s->v);
    if (is_last) td_rec_keep(r, s->x, s->q);
    td_rec_attend(r, s->att, s->q, l->sinks);
    td_rec_linear(r, s->y, s->att, l->o[0], l->o[1]);
    td_rec_add(r, s->x, s->y);

    td_rec_rmsnorm(r, s->n, s->x, l->post_norm);
    td_rec_linear(r, s->router, s->n, l->router[0], l->router[1]);
    td_rec_route(r, s->ids, s->gates, s->router);
    td_rec_experts_glu(r, s->h, s->ids, s->n, l->gate, l->up);
    td_rec_experts_sum(r, s->y, s->ids, s->gates, s->h, l->down);
    td_rec_add(r, s->x, s->y);
}

static td_slot record(struct td_binder *b, struct td_recorder *r)
{
    const struct td_spec *spec = r->spec;
    const struct slots s = make_slots(r);

    const td_weight embd = td_bind_matrix(b, spec->n_embd, spec->n_vocab, "token_embd.weight");
    td_rec_embed(r, s.x, embd);
    for (uint32_t il = 0; il < spec->n_layers && b->code == TD_OK; il++) {
        const struct layer l = bind_layer(b, spec, il);
        r->layer = (uint16_t)il;
        emit_layer(r, &s, &l);
    }
    r->layer = TD_NO_LAYER;
    const td_weight norm = td_bind_vector(b, spec->n_embd, "output_norm.weight");
    td_weight output = embd; // tied unless the file has one of its own
    if (td_gguf_find_tensor(b->gguf, "output.weight"))
        output = td_bind_matrix(b, spec->n_embd, spec->n_vocab, "output.weight");
    td_rec_rmsnorm(r, s.n, s.x, norm);
    td_rec_linear(r, s.logits, s.n, output, TD_NO_WEIGHT);
    return s.logits;
}

const struct td_arch td_arch_gptoss = {
    .name = "gpt-oss",
    .read_spec = read_spec,
    .record = record,
};
