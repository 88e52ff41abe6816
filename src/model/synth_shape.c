// SPDX-License-Identifier: MIT
// Shapes by name and the key=value pairs that change them.
#include "model/synth.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

// Source: the published config.json of openai/gpt-oss-20b and openai/gpt-oss-120b.
static const struct td_synth_shape shapes[] = {
    {
        .name = "gpt-oss-20b",
        .n_layers = 24,
        .n_embd = 2880,
        .n_heads = 64,
        .n_kv_heads = 8,
        .head_dim = 64,
        .n_experts = 32,
        .n_experts_used = 4,
        .n_ff_expert = 2880,
        .n_vocab = 201088,
        .n_ctx_train = 131072,
        .window = 128,
        .type_experts = TD_MXFP4,
        .type_attn = TD_Q8_0,
        .type_embd = TD_Q8_0,
        .seed = 1,
    },
    {
        .name = "gpt-oss-120b",
        .n_layers = 36,
        .n_embd = 2880,
        .n_heads = 64,
        .n_kv_heads = 8,
        .head_dim = 64,
        .n_experts = 128,
        .n_experts_used = 4,
        .n_ff_expert = 2880,
        .n_vocab = 201088,
        .n_ctx_train = 131072,
        .window = 128,
        .type_experts = TD_MXFP4,
        .type_attn = TD_Q8_0,
        .type_embd = TD_Q8_0,
        .seed = 1,
    },
    {
        .name = "tiny", // the same architecture, small enough for tests
        .n_layers = 4,
        .n_embd = 128,
        .n_heads = 4,
        .n_kv_heads = 2,
        .head_dim = 32,
        .n_experts = 8,
        .n_experts_used = 4,
        .n_ff_expert = 128,
        .n_vocab = 2048,
        .n_ctx_train = 131072,
        .window = 128,
        .type_experts = TD_MXFP4,
        .type_attn = TD_Q8_0,
        .type_embd = TD_Q8_0,
        .seed = 1,
    },
};

struct number_key {
    const char *key;
    size_t offset;
    uint32_t lo, hi;
};

#define KEY(text, field, lo_, hi_)                                                                 \
    {                                                                                              \
        text, offsetof(struct td_synth_shape, field), lo_, hi_                                     \
    }
// Below 271 the vocabulary would not hold 256 bytes and the 15 special tokens; above 2^20 there are
// no filler tokens left to make.
static const struct number_key number_keys[] = {
    KEY("layers", n_layers, 1, TD_MAX_LAYERS),
    KEY("hidden", n_embd, 16, 1u << 16),
    KEY("heads", n_heads, 1, 1u << 12),
    KEY("kv-heads", n_kv_heads, 1, 1u << 12),
    KEY("head-dim", head_dim, 16, TD_MAX_HEAD_DIM),
    KEY("experts", n_experts, 1, TD_MAX_EXPERTS),
    KEY("top-k", n_experts_used, 1, TD_MAX_TOP_K),
    KEY("ff", n_ff_expert, 1, 1u << 18),
    KEY("vocab", n_vocab, 271, 1u << 20),
    KEY("ctx", n_ctx_train, 1, 1u << 30),
    KEY("window", window, 1, 1u << 30),
    KEY("pool", pool_layers, 0, TD_MAX_LAYERS),
};
enum { N_NUMBER_KEYS = sizeof(number_keys) / sizeof(number_keys[0]) };

static const struct number_key type_keys[] = {
    KEY("experts-type", type_experts, 0, 0),
    KEY("attn-type", type_attn, 0, 0),
    KEY("embd-type", type_embd, 0, 0),
};
enum { N_TYPE_KEYS = sizeof(type_keys) / sizeof(type_keys[0]) };
#undef KEY

static bool parse_u64(const char *text, uint64_t *out)
{
    if (text[0] < '0' || text[0] > '9') return false; // strtoull would take a sign
    char *end;
    errno = 0;
    const unsigned long long v = strtoull(text, &end, 10);
    if (errno != 0 || *end != '\0') return false;
    *out = v;
    return true;
}

static int set_number(struct td_synth_shape *s, const struct number_key *k, const char *value,
                      struct td_error *err)
{
    uint64_t v = 0;
    if (!parse_u64(value, &v) || v < k->lo || v > k->hi)
        return td_fail(err, TD_EARG, "synth: %s is '%.32s', possible are %" PRIu32 " to %" PRIu32,
                       k->key, value, k->lo, k->hi);
    const uint32_t narrow = (uint32_t)v;
    memcpy((char *)s + k->offset, &narrow, sizeof(narrow));
    return TD_OK;
}

static int set_type(struct td_synth_shape *s, const struct number_key *k, const char *value,
                    struct td_error *err)
{
    static const enum td_type types[] = {TD_F32, TD_F16, TD_BF16, TD_Q8_0, TD_MXFP4};
    for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
        if (strcasecmp(value, td_type_info(types[i])->name) != 0) continue;
        memcpy((char *)s + k->offset, &types[i], sizeof(types[i]));
        return TD_OK;
    }
    return td_fail(err, TD_EARG, "synth: %s is '%.32s', possible are F32, F16, BF16, Q8_0, MXFP4",
                   k->key, value);
}

static int set_pair(struct td_synth_shape *s, char *pair, struct td_error *err)
{
    char *equals = strchr(pair, '=');
    if (!equals) return td_fail(err, TD_EARG, "synth: '%.64s' is not key=value", pair);
    *equals = '\0';
    const char *value = equals + 1;
    if (strcmp(pair, "seed") == 0) {
        if (parse_u64(value, &s->seed)) return TD_OK;
        return td_fail(err, TD_EARG, "synth: seed is '%.32s', not a number below 2^64", value);
    }
    for (int i = 0; i < N_NUMBER_KEYS; i++)
        if (strcmp(pair, number_keys[i].key) == 0)
            return set_number(s, &number_keys[i], value, err);
    for (int i = 0; i < N_TYPE_KEYS; i++)
        if (strcmp(pair, type_keys[i].key) == 0) return set_type(s, &type_keys[i], value, err);
    return td_fail(err, TD_EARG,
                   "synth: no key '%.32s'; there are seed layers hidden heads kv-heads head-dim "
                   "experts top-k ff vocab ctx window pool experts-type attn-type embd-type",
                   pair);
}

// Rows of `width` elements must be whole blocks of the type.
static int check_rows(const char *what, uint32_t width, enum td_type type, const char *type_key,
                      struct td_error *err)
{
    const struct td_type_info *t = td_type_info(type);
    if (width % t->block == 0) return TD_OK;
    return td_fail(err, TD_EARG,
                   "synth: %s is %" PRIu32 ", which %s %s needs as a multiple of %" PRIu32, what,
                   width, type_key, t->name, t->block);
}

static int check_shape(const struct td_synth_shape *s, struct td_error *err)
{
    if (s->n_heads % s->n_kv_heads != 0)
        return td_fail(err, TD_EARG,
                       "synth: %" PRIu32 " heads are not a multiple of %" PRIu32 " kv-heads",
                       s->n_heads, s->n_kv_heads);
    if (s->head_dim % 16 != 0)
        return td_fail(err, TD_EARG, "synth: head-dim is %" PRIu32 ", not a multiple of 16",
                       s->head_dim);
    if (s->n_experts_used > s->n_experts)
        return td_fail(err, TD_EARG, "synth: top-k is %" PRIu32 " of only %" PRIu32 " experts",
                       s->n_experts_used, s->n_experts);
    int code = check_rows("hidden", s->n_embd, s->type_attn, "attn-type", err);
    if (!code) code = check_rows("hidden", s->n_embd, s->type_embd, "embd-type", err);
    if (!code) code = check_rows("hidden", s->n_embd, s->type_experts, "experts-type", err);
    if (!code) code = check_rows("ff", s->n_ff_expert, s->type_experts, "experts-type", err);
    if (!code)
        code = check_rows("heads x head-dim", s->n_heads * s->head_dim, s->type_attn, "attn-type",
                          err);
    return code;
}

int td_synth_parse(struct td_synth_shape *out, const char *text, struct td_error *err)
{
    char copy[512];
    const size_t n = strlen(text);
    if (n >= sizeof(copy))
        return td_fail(err, TD_EARG, "synth: a description of %zu characters is too long", n);
    memcpy(copy, text, n + 1);
    char *rest = strchr(copy, ',');
    if (rest) *rest++ = '\0';

    const struct td_synth_shape *base = NULL;
    for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++)
        if (strcmp(copy, shapes[i].name) == 0) base = &shapes[i];
    if (!base)
        return td_fail(err, TD_EARG,
                       "synth: no shape '%.64s'; there are gpt-oss-20b, gpt-oss-120b and tiny",
                       copy);
    struct td_synth_shape s = *base;
    while (rest) {
        char *pair = rest;
        rest = strchr(pair, ',');
        if (rest) *rest++ = '\0';
        const int code = set_pair(&s, pair, err);
        if (code != TD_OK) return code;
    }
    const int code = check_shape(&s, err);
    if (code != TD_OK) return code;
    *out = s;
    return TD_OK;
}
