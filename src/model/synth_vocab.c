// SPDX-License-Identifier: MIT
// A synthetic model's header: metadata as the published files have it, and a vocabulary that can
// encode any text, so that the tokenizer and the chat format work on a model without training.
#include "model/synth_impl.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    N_BYTES = 256,
    N_SPECIAL_MIN = 15,           // up to <|call|>
    O200K_VOCAB = 201088,         // of both published models
    O200K_FIRST_SPECIAL = 199998, // <|startoftext|>
    N_COMMON = 32,                // bytes that end a three-byte filler token
};

// Harmony's special tokens by distance from <|startoftext|>; the rest are reserved.
// Source: openai/harmony, docs/format.md, and the tokenizer of the published models.
static const struct {
    uint32_t offset;
    const char *name;
} specials[] = {
    {0, "<|startoftext|>"}, {1, "<|endoftext|>"},    {4, "<|return|>"}, {5, "<|constrain|>"},
    {7, "<|channel|>"},     {8, "<|start|>"},        {9, "<|end|>"},    {10, "<|message|>"},
    {14, "<|call|>"},       {20, "<|endofprompt|>"},
};
enum { EOT = 1, RETURN = 4 };

// --- text of tokens -------------------------------------------------------------------------

// GPT-2's alphabet: printable bytes of Latin-1 stand for themselves, the others for U+0100 on.
struct alphabet {
    char utf8[N_BYTES][3];   // of each byte value, NUL-terminated
    uint8_t order[N_BYTES];  // byte value of token id i
    uint8_t common[N_BYTES]; // byte values, those frequent in text first
    uint32_t id_of[N_BYTES]; // inverse of order
};

static bool is_printable(uint32_t b)
{
    return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
}

static void make_alphabet(struct alphabet *a)
{
    uint32_t n_printable = 0, n_other = 0;
    for (uint32_t b = 0; b < N_BYTES; b++) n_printable += is_printable(b);
    uint32_t n = 0;
    for (uint32_t b = 0; b < N_BYTES; b++) {
        const uint32_t code = is_printable(b) ? b : 256 + n_other;
        const uint32_t id = is_printable(b) ? n++ : n_printable + n_other++;
        if (code < 128) {
            a->utf8[b][0] = (char)code;
            a->utf8[b][1] = '\0';
        } else {
            a->utf8[b][0] = (char)(0xc0u | code >> 6);
            a->utf8[b][1] = (char)(0x80u | (code & 63));
            a->utf8[b][2] = '\0';
        }
        a->order[id] = (uint8_t)b;
        a->id_of[b] = id;
    }
    static const char frequent[] = " etaoinsrhldcumfpgwybvkxjqz.,\n0123456789-'\"()_=;:/*";
    bool used[N_BYTES] = {false};
    n = 0;
    for (const char *p = frequent; *p; p++) {
        a->common[n++] = (uint8_t)*p;
        used[(uint8_t)*p] = true;
    }
    for (uint32_t b = 0; b < N_BYTES; b++)
        if (!used[b]) a->common[n++] = (uint8_t)b;
    assert(n == N_BYTES);
}

// Texts end to end in one buffer; strs point into it once it no longer grows.
struct texts {
    char *at;
    size_t used, cap;
    struct td_str *strs; // (n_max)
    uint64_t n;
};

// Appends a, the byte `between` unless it is 0, and b as one text.
static void put_text(struct texts *t, struct td_str a, char between, struct td_str b)
{
    const size_t n = a.size_bytes + (between != 0) + b.size_bytes;
    assert(t->used + n <= t->cap);
    char *to = t->at + t->used;
    t->strs[t->n++] = (struct td_str){to, n};
    t->used += n;
    memcpy(to, a.at, a.size_bytes);
    to += a.size_bytes;
    if (between) *to++ = between;
    if (b.size_bytes) memcpy(to, b.at, b.size_bytes);
}

static struct td_str str_of(const char *s)
{
    return (struct td_str){s, strlen(s)};
}

static const struct td_str nothing = {"", 0};

static bool texts_init(struct texts *t, uint64_t n, size_t cap)
{
    *t = (struct texts){.cap = cap};
    t->at = malloc(cap);
    t->strs = calloc(n ? n : 1, sizeof(*t->strs));
    return t->at && t->strs;
}

static void texts_free(struct texts *t)
{
    free(t->at);
    free(t->strs);
}

struct vocab {
    struct alphabet alphabet;
    struct texts tokens, merges;
    int32_t *types; // (n_vocab)
    uint32_t n_vocab, first_special;
};

static void add_byte_tokens(struct vocab *v)
{
    for (uint32_t i = 0; i < N_BYTES; i++) {
        const char *s = v->alphabet.utf8[v->alphabet.order[i]];
        put_text(&v->tokens, str_of(s), 0, nothing);
    }
}

// A filler is the text of two earlier tokens, and their merge. Every pair makes another text: the
// left part's length is fixed (one byte, then two), so text splits in one way only.
static void add_filler(struct vocab *v, uint64_t left_id, uint8_t right)
{
    const struct td_str left = v->tokens.strs[left_id];
    const struct td_str r = str_of(v->alphabet.utf8[right]);
    put_text(&v->tokens, left, 0, r);
    put_text(&v->merges, left, ' ', r);
}

static void add_fillers(struct vocab *v)
{
    const struct alphabet *a = &v->alphabet;
    // Pairs of bytes in square shells of the order of frequency: common with common first.
    for (uint32_t shell = 0; shell < N_BYTES; shell++) {
        for (uint32_t i = 0; i <= 2 * shell; i++) {
            if (v->tokens.n == v->first_special) return;
            const uint32_t left = i < shell ? i : shell;
            const uint32_t right = i < shell ? shell : i - shell;
            add_filler(v, a->id_of[a->common[left]], a->common[right]);
        }
    }
    // Then those pairs with a common byte more.
    for (uint64_t pair = N_BYTES; v->tokens.n < v->first_special; pair++)
        for (uint32_t i = 0; i < N_COMMON && v->tokens.n < v->first_special; i++)
            add_filler(v, pair, a->common[i]);
}

static void add_specials(struct vocab *v)
{
    while (v->tokens.n < v->n_vocab) {
        const uint32_t id = (uint32_t)v->tokens.n;
        char reserved[40];
        snprintf(reserved, sizeof(reserved), "<|reserved_%" PRIu32 "|>", id);
        const char *name = reserved;
        for (size_t i = 0; i < sizeof(specials) / sizeof(specials[0]); i++)
            if (specials[i].offset == id - v->first_special) name = specials[i].name;
        put_text(&v->tokens, str_of(name), 0, nothing);
    }
    for (uint32_t id = 0; id < v->n_vocab; id++)
        v->types[id] = id < v->first_special ? 1 : 3; // normal, control
}

static void put_vocab(struct td_gguf_writer *w, const struct vocab *v)
{
    td_gguf_put_str(w, "tokenizer.ggml.model", "gpt2");
    td_gguf_put_str(w, "tokenizer.ggml.pre", "gpt-4o");
    td_gguf_put_strs(w, "tokenizer.ggml.tokens", v->tokens.strs, v->tokens.n);
    td_gguf_put_i32s(w, "tokenizer.ggml.token_type", v->types, v->n_vocab);
    td_gguf_put_strs(w, "tokenizer.ggml.merges", v->merges.strs, v->merges.n);
    td_gguf_put_u32(w, "tokenizer.ggml.bos_token_id", v->first_special);
    td_gguf_put_u32(w, "tokenizer.ggml.eos_token_id", v->first_special + RETURN);
    td_gguf_put_u32(w, "tokenizer.ggml.padding_token_id", v->first_special + EOT);
    td_gguf_put_bool(w, "tokenizer.ggml.add_bos_token", false);
}

int td_synth_put_vocab(struct td_gguf_writer *w, uint32_t n_vocab, struct td_error *err)
{
    assert(n_vocab >= N_BYTES + N_SPECIAL_MIN);
    struct vocab v = {.n_vocab = n_vocab};
    v.first_special = n_vocab == O200K_VOCAB ? O200K_FIRST_SPECIAL : n_vocab - N_SPECIAL_MIN;
    make_alphabet(&v.alphabet);
    const uint64_t n_fillers = v.first_special - N_BYTES;
    // Fillers have at most three bytes of two UTF-8 bytes each; specials are shorter than 32.
    const size_t cap = 512 + 6 * n_fillers + 32 * (size_t)(n_vocab - v.first_special);
    v.types = calloc(n_vocab, sizeof(*v.types));
    bool has_memory = v.types != NULL;
    has_memory = texts_init(&v.tokens, n_vocab, cap) && has_memory;
    has_memory = texts_init(&v.merges, n_fillers, 7 * n_fillers + 1) && has_memory;
    if (has_memory) {
        add_byte_tokens(&v);
        add_fillers(&v);
        add_specials(&v);
        put_vocab(w, &v);
    }
    texts_free(&v.tokens);
    texts_free(&v.merges);
    free(v.types);
    return has_memory ? TD_OK : td_fail(err, TD_ENOMEM, "synth: no memory for a vocabulary");
}

// --- metadata -------------------------------------------------------------------------------

int td_synth_put_header(struct td_gguf_writer *w, const struct td_synth_shape *s,
                        const struct td_synth_plan *plan, struct td_error *err)
{
    char name[96];
    snprintf(name, sizeof(name), "synthetic %s", s->name);
    td_gguf_put_str(w, "general.architecture", "gpt-oss");
    td_gguf_put_str(w, "general.name", name);
    td_gguf_put_u32(w, "general.quantization_version", 2);
    td_gguf_put_u32(w, "gpt-oss.block_count", s->n_layers);
    td_gguf_put_u32(w, "gpt-oss.context_length", s->n_ctx_train);
    td_gguf_put_u32(w, "gpt-oss.embedding_length", s->n_embd);
    td_gguf_put_u32(w, "gpt-oss.feed_forward_length", s->n_ff_expert);
    td_gguf_put_u32(w, "gpt-oss.attention.head_count", s->n_heads);
    td_gguf_put_u32(w, "gpt-oss.attention.head_count_kv", s->n_kv_heads);
    td_gguf_put_f32(w, "gpt-oss.rope.freq_base", 150000.0f);
    td_gguf_put_f32(w, "gpt-oss.attention.layer_norm_rms_epsilon", 1e-5f);
    td_gguf_put_u32(w, "gpt-oss.expert_count", s->n_experts);
    td_gguf_put_u32(w, "gpt-oss.expert_used_count", s->n_experts_used);
    td_gguf_put_u32(w, "gpt-oss.attention.key_length", s->head_dim);
    td_gguf_put_u32(w, "gpt-oss.attention.value_length", s->head_dim);
    td_gguf_put_u32(w, "gpt-oss.attention.sliding_window", s->window);
    td_gguf_put_u32(w, "gpt-oss.expert_feed_forward_length", s->n_ff_expert);
    td_gguf_put_u32(w, "gpt-oss.vocab_size", s->n_vocab);
    td_gguf_put_str(w, "gpt-oss.rope.scaling.type", "yarn");
    td_gguf_put_f32(w, "gpt-oss.rope.scaling.factor", 32.0f);
    td_gguf_put_u32(w, "gpt-oss.rope.scaling.original_context_length", 4096);
    // So that two synthetic models of one shape have different digests.
    td_gguf_put_u64(w, "tandem.synth.seed", s->seed);
    td_gguf_put_u32(w, "tandem.synth.pool_layers", s->pool_layers);
    const int code = td_synth_put_vocab(w, s->n_vocab, err);
    if (code != TD_OK) return code;
    for (uint32_t i = 0; i < plan->n_tensors; i++) {
        const struct td_synth_tensor *t = &plan->tensors[i];
        td_gguf_put_tensor(w, t->name, t->type, t->n_dims, t->dim);
    }
    return TD_OK;
}
