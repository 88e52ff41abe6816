// SPDX-License-Identifier: MIT
// Opening models: what a good file gives, and the one sentence each bad one gets. Bad files are
// made from a good directory by one edit each.
#include "gguf/gguf_write.h"
#include "model/model.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct td_model *open_model(const char *path, bool header_only)
{
    const struct td_model_options opt = {.n_threads = 1, .header_only = header_only};
    struct td_error err = {0};
    struct td_model *m = NULL;
    if (td_model_open(&m, path, &opt, &err) != TD_OK) fail_msg("%s: %s", path, err.msg);
    return m;
}

// --- one edit of a directory ------------------------------------------------------------------

enum edit_kind {
    NOTHING,
    DROP_KEY,
    SET_U32,
    SET_F32,
    SET_STR,
    ADD_U32,
    ADD_F32,
    ADD_U32S,
    DROP_TENSOR,
    RETYPE,
    RESHAPE,
};

struct edit {
    enum edit_kind kind;
    const char *name; // of a key or a tensor
    uint32_t u;       // number, type
    float f;
    const char *s;
    uint64_t dim[3]; // RESHAPE
};

static bool edits(const struct edit *e, enum edit_kind kind, const char *name)
{
    return e->kind == kind && strcmp(e->name, name) == 0;
}

static void copy_key(struct td_gguf_writer *w, const struct td_gguf *g, uint32_t i,
                     const struct edit *e)
{
    const char *key = td_gguf_key_at(g, i);
    uint32_t u = 0;
    float f = 0;
    struct td_str s;
    char text[100];
    if (strncmp(key, "tokenizer.", 10) == 0 || edits(e, DROP_KEY, key)) return;
    if (edits(e, SET_U32, key)) {
        td_gguf_put_u32(w, key, e->u);
    } else if (edits(e, SET_F32, key)) {
        td_gguf_put_f32(w, key, e->f);
    } else if (edits(e, SET_STR, key)) {
        td_gguf_put_str(w, key, e->s);
    } else if (td_gguf_type_at(g, i) == TD_GGUF_STR) {
        assert_int_equal(td_gguf_str(g, key, &s, NULL), TD_OK);
        snprintf(text, sizeof(text), "%.*s", (int)s.size_bytes, s.at);
        td_gguf_put_str(w, key, text);
    } else if (td_gguf_type_at(g, i) == TD_GGUF_F32) {
        assert_int_equal(td_gguf_f32(g, key, &f, NULL), TD_OK);
        td_gguf_put_f32(w, key, f);
    } else {
        assert_int_equal(td_gguf_u32(g, key, &u, NULL), TD_OK);
        td_gguf_put_u32(w, key, u);
    }
}

static void copy_tensor(struct td_gguf_writer *w, const struct td_gguf_tensor *t,
                        const struct edit *e)
{
    if (edits(e, DROP_TENSOR, t->name)) return;
    const bool reshaped = edits(e, RESHAPE, t->name);
    uint32_t n_dims = t->n_dims;
    if (reshaped)
        for (n_dims = 0; n_dims < 3 && e->dim[n_dims]; n_dims++) {
        }
    const uint32_t type = edits(e, RETYPE, t->name) ? e->u : t->type;
    td_gguf_put_tensor(w, t->name, (enum td_type)type, n_dims, reshaped ? e->dim : t->dim);
}

// Opens the tiny directory with one edit.
static int open_edited(const struct edit *e, struct td_model **out, struct td_error *err)
{
    static uint8_t bytes[1 << 20]; // outlives the model
    struct td_model *base = open_model("synth:tiny,layers=2,vocab=512", true);
    struct td_gguf_writer *w = NULL;
    assert_int_equal(td_gguf_writer_open(&w, err), TD_OK);
    for (uint32_t i = 0; i < td_gguf_n_kv(base->gguf); i++) copy_key(w, base->gguf, i, e);
    if (e->kind == ADD_U32) td_gguf_put_u32(w, e->name, e->u);
    if (e->kind == ADD_F32) td_gguf_put_f32(w, e->name, e->f);
    const uint32_t flags[3] = {0, 1, 1};
    if (e->kind == ADD_U32S) td_gguf_put_u32s(w, e->name, flags, e->u);
    for (uint32_t i = 0; i < td_gguf_n_tensors(base->gguf); i++)
        copy_tensor(w, td_gguf_tensor_at(base->gguf, i), e);
    const uint8_t *header;
    size_t size;
    if (td_gguf_writer_header(w, &header, &size, err) != TD_OK) fail_msg("%s", err->msg);
    assert_true(size <= sizeof(bytes));
    memcpy(bytes, header, size);
    td_gguf_writer_close(w);
    td_model_close(base);
    struct td_gguf *g = NULL;
    if (td_gguf_parse(&g, bytes, size, "dir/edited.gguf", true, err) != TD_OK)
        fail_msg("%s", err->msg);
    return td_model_of_gguf(out, g, NULL, err);
}

static const struct {
    struct edit edit;
    int code;
    const char *says;
} bad[] = {
    // Keys.
    {{.kind = DROP_KEY, .name = "general.architecture"},
     TD_EFORMAT,
     "'general.architecture' is missing"},
    {{.kind = SET_U32, .name = "general.architecture", .u = 3}, TD_EFORMAT, "not a string"},
    {{.kind = SET_STR, .name = "general.architecture", .s = "llama"},
     TD_EUNSUP,
     "architecture 'llama' is not supported; tandem runs gpt-oss"},
    {{.kind = SET_STR, .name = "general.architecture", .s = "gptoss"}, TD_EUNSUP, "Ollama's own"},
    {{.kind = SET_STR, .name = "general.architecture", .s = "gpt-oss2"}, TD_EUNSUP, "'gpt-oss2'"},
    {{.kind = DROP_KEY, .name = "gpt-oss.block_count"},
     TD_EFORMAT,
     "'gpt-oss.block_count' is missing"},
    {{.kind = DROP_KEY, .name = "gpt-oss.embedding_length"},
     TD_EFORMAT,
     "embedding_length' is missing"},
    {{.kind = DROP_KEY, .name = "gpt-oss.context_length"},
     TD_EFORMAT,
     "context_length' is missing"},
    {{.kind = DROP_KEY, .name = "gpt-oss.attention.head_count"},
     TD_EFORMAT,
     "head_count' is missing"},
    {{.kind = DROP_KEY, .name = "gpt-oss.attention.head_count_kv"},
     TD_EFORMAT,
     "count_kv' is missing"},
    {{.kind = DROP_KEY, .name = "gpt-oss.expert_count"}, TD_EFORMAT, "expert_count' is missing"},
    {{.kind = DROP_KEY, .name = "gpt-oss.expert_used_count"}, TD_EFORMAT, "used_count' is missing"},
    {{.kind = DROP_KEY, .name = "gpt-oss.attention.sliding_window"},
     TD_EFORMAT,
     "window' is missing"},
    {{.kind = DROP_KEY, .name = "gpt-oss.rope.freq_base"}, TD_EFORMAT, "freq_base' is missing"},
    {{.kind = DROP_KEY, .name = "gpt-oss.rope.scaling.factor"},
     TD_EFORMAT,
     "scaling.factor' is missing"},
    {{.kind = DROP_KEY, .name = "gpt-oss.attention.layer_norm_rms_epsilon"},
     TD_EFORMAT,
     "is missing"},
    {{.kind = SET_U32, .name = "gpt-oss.block_count", .u = 0}, TD_EFORMAT, "possible are 1 to 512"},
    {{.kind = SET_U32, .name = "gpt-oss.block_count", .u = 513},
     TD_EFORMAT,
     "is 513, possible are 1 to 512"},
    {{.kind = SET_U32, .name = "gpt-oss.block_count", .u = 3},
     TD_EFORMAT,
     "'blk.2.attn_norm.weight' is missing"},
    {{.kind = SET_STR, .name = "gpt-oss.block_count", .s = "two"},
     TD_EFORMAT,
     "gpt-oss.block_count"},
    {{.kind = SET_F32, .name = "gpt-oss.expert_count", .f = 8}, TD_EFORMAT, "gpt-oss.expert_count"},
    {{.kind = SET_U32, .name = "gpt-oss.embedding_length", .u = 1u << 31},
     TD_EFORMAT,
     "embedding_length' is"},
    {{.kind = SET_U32, .name = "gpt-oss.attention.head_count", .u = 0},
     TD_EFORMAT,
     "head_count' is 0"},
    {{.kind = SET_U32, .name = "gpt-oss.attention.head_count_kv", .u = 0},
     TD_EFORMAT,
     "head_count_kv' is 0"},
    {{.kind = SET_U32, .name = "gpt-oss.attention.head_count_kv", .u = 3},
     TD_EFORMAT,
     "cannot share 3 KV heads"},
    {{.kind = SET_U32, .name = "gpt-oss.attention.head_count_kv", .u = 5},
     TD_EFORMAT,
     "possible are 1 to 4"},
    {{.kind = SET_U32, .name = "gpt-oss.attention.key_length", .u = 40},
     TD_EFORMAT,
     "value_length' is 32"},
    {{.kind = SET_U32, .name = "gpt-oss.attention.key_length", .u = 1024},
     TD_EFORMAT,
     "key_length' is 1024"},
    {{.kind = SET_U32, .name = "gpt-oss.attention.value_length", .u = 64},
     TD_EFORMAT,
     "value_length' is 64"},
    {{.kind = SET_U32, .name = "gpt-oss.expert_count", .u = 1025},
     TD_EFORMAT,
     "expert_count' is 1025"},
    {{.kind = SET_U32, .name = "gpt-oss.expert_used_count", .u = 9},
     TD_EFORMAT,
     "possible are 1 to 8"},
    {{.kind = SET_U32, .name = "gpt-oss.attention.sliding_window", .u = 0},
     TD_EFORMAT,
     "sliding_window' is 0"},
    {{.kind = SET_F32, .name = "gpt-oss.rope.freq_base", .f = 1}, TD_EFORMAT, "freq_base' is 1"},
    {{.kind = SET_F32, .name = "gpt-oss.rope.freq_base", .f = NAN}, TD_EFORMAT, "freq_base' is"},
    {{.kind = SET_F32, .name = "gpt-oss.rope.freq_base", .f = INFINITY},
     TD_EFORMAT,
     "freq_base' is inf"},
    {{.kind = SET_F32, .name = "gpt-oss.rope.scaling.factor", .f = 0}, TD_EFORMAT, "factor' is 0"},
    {{.kind = SET_F32, .name = "gpt-oss.attention.layer_norm_rms_epsilon", .f = -1},
     TD_EFORMAT,
     "is -1"},
    {{.kind = SET_STR, .name = "gpt-oss.rope.scaling.type", .s = "linear"},
     TD_EUNSUP,
     "is 'linear'"},
    {{.kind = SET_U32, .name = "gpt-oss.rope.scaling.type", .u = 1},
     TD_EFORMAT,
     "type' is not a string"},
    {{.kind = SET_U32, .name = "gpt-oss.vocab_size", .u = 511}, TD_EFORMAT, "vocab_size' is 511"},
    {{.kind = ADD_U32, .name = "gpt-oss.rope.dimension_count", .u = 16},
     TD_EFORMAT,
     "dimension_count' is 16"},
    {{.kind = ADD_U32S, .name = "gpt-oss.attention.sliding_window_pattern", .u = 3},
     TD_EFORMAT,
     "one flag for each of 2 layers"},
    // Tensors.
    {{.kind = DROP_TENSOR, .name = "token_embd.weight"},
     TD_EFORMAT,
     "'token_embd.weight' is missing"},
    {{.kind = DROP_TENSOR, .name = "output_norm.weight"},
     TD_EFORMAT,
     "'output_norm.weight' is missing"},
    {{.kind = DROP_TENSOR, .name = "blk.1.attn_sinks.weight"},
     TD_EFORMAT,
     "'blk.1.attn_sinks.weight' is"},
    {{.kind = DROP_TENSOR, .name = "blk.0.attn_q.bias"},
     TD_EFORMAT,
     "'blk.0.attn_q.bias' is missing"},
    {{.kind = DROP_TENSOR, .name = "blk.1.ffn_down_exps.bias"},
     TD_EFORMAT,
     "down_exps.bias' is missing"},
    {{.kind = RESHAPE, .name = "token_embd.weight", .dim = {128}},
     TD_EFORMAT,
     "is not (128, vocabulary)"},
    {{.kind = RESHAPE, .name = "token_embd.weight", .dim = {64, 512}},
     TD_EFORMAT,
     "'token_embd.weight' has shape (64, 512), expected (128, 512)"},
    {{.kind = RESHAPE, .name = "blk.0.attn_norm.weight", .dim = {64}},
     TD_EFORMAT,
     "'blk.0.attn_norm.weight' has shape (64), expected (128)"},
    {{.kind = RESHAPE, .name = "blk.0.attn_k.weight", .dim = {64, 128}},
     TD_EFORMAT,
     "has shape (64, 128), expected (128, 64)"},
    {{.kind = RESHAPE, .name = "blk.1.ffn_gate_exps.weight", .dim = {128, 128, 7}},
     TD_EFORMAT,
     "has shape (128, 128, 7), expected (128, 128, 8)"},
    {{.kind = RESHAPE, .name = "blk.1.ffn_gate_exps.weight", .dim = {128, 128}},
     TD_EFORMAT,
     "has shape (128, 128), expected (128, 128, 8)"},
    {{.kind = RESHAPE, .name = "blk.1.attn_q.bias", .dim = {128, 2}}, TD_EFORMAT, "expected (128)"},
};

static void test_one_sentence_each(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct td_model *m = (struct td_model *)&state; // must become NULL
        struct td_error err = {0};
        const int code = open_edited(&bad[i].edit, &m, &err);
        if (code != bad[i].code || err.code != code || !strstr(err.msg, bad[i].says))
            fail_msg("case %zu (%s): %d, '%s'", i, bad[i].edit.name, code, err.msg);
        assert_null(m);
        assert_non_null(strstr(err.msg, "edited.gguf")); // the file is named
        assert_null(strchr(err.msg, '\n'));
    }
}

static void test_what_is_allowed(void **state)
{
    (void)state;
    static const struct edit cases[] = {
        {.kind = NOTHING, .name = ""},
        {.kind = DROP_KEY, .name = "gpt-oss.vocab_size"},
        {.kind = DROP_KEY, .name = "gpt-oss.attention.value_length"},
        {.kind = DROP_KEY, .name = "gpt-oss.attention.key_length"}, // 128 / 4 = 32 all the same
        {.kind = DROP_KEY, .name = "gpt-oss.expert_feed_forward_length"},
        {.kind = SET_STR, .name = "gpt-oss.rope.scaling.type", .s = "none"},
        {.kind = DROP_KEY, .name = "gpt-oss.rope.scaling.type"},
        {.kind = RETYPE, .name = "blk.0.attn_q.weight", .u = TD_F32},
        {.kind = RETYPE, .name = "blk.0.ffn_gate_inp.weight", .u = TD_BF16},
        // Other converters write vectors as they write matrices.
        {.kind = RETYPE, .name = "blk.0.attn_norm.weight", .u = TD_F16},
        {.kind = RETYPE, .name = "blk.0.attn_sinks.weight", .u = TD_BF16},
        {.kind = RETYPE, .name = "blk.1.ffn_gate_inp.bias", .u = TD_F16},
        {.kind = RETYPE, .name = "blk.1.ffn_down_exps.bias", .u = TD_Q8_0},
        {.kind = RETYPE, .name = "output_norm.weight", .u = TD_BF16},
        {.kind = DROP_TENSOR, .name = "output.weight"},
        {.kind = RESHAPE,
         .name = "blk.0.attn_norm.weight",
         .dim = {128, 1}}, // trailing ones say nothing
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct td_model *m = NULL;
        struct td_error err = {0};
        if (open_edited(&cases[i], &m, &err) != TD_OK) fail_msg("case %zu: %s", i, err.msg);
        assert_int_equal(m->spec.head_dim, 32);
        assert_int_equal(m->spec.n_ff_expert, 128);
        td_model_close(m);
    }
}

static void test_keys_are_honoured(void **state)
{
    (void)state;
    struct td_model *m = NULL;
    struct td_error err = {0};
    const struct edit period = {
        .kind = ADD_U32, .name = "gpt-oss.attention.sliding_window_pattern", .u = 1};
    assert_int_equal(open_edited(&period, &m, &err), TD_OK);
    assert_int_equal(m->spec.kv[0].window, 0);
    assert_int_equal(m->spec.kv[1].window, 0);
    td_model_close(m);

    const struct edit flags = {
        .kind = ADD_U32S, .name = "gpt-oss.attention.sliding_window_pattern", .u = 2};
    assert_int_equal(open_edited(&flags, &m, &err), TD_OK);
    assert_int_equal(m->spec.kv[0].window, 0); // {0, 1}
    assert_int_equal(m->spec.kv[1].window, 128);
    td_model_close(m);

    const struct edit beta = {
        .kind = ADD_F32, .name = "gpt-oss.rope.scaling.yarn_beta_fast", .f = 16};
    assert_int_equal(open_edited(&beta, &m, &err), TD_OK);
    assert_true(m->spec.rope.beta_fast == 16.0);
    td_model_close(m);

    // What some converters leave out is the architecture's.
    const struct edit length = {.kind = DROP_KEY,
                                .name = "gpt-oss.rope.scaling.original_context_length"};
    assert_int_equal(open_edited(&length, &m, &err), TD_OK);
    assert_true(m->spec.rope.original_ctx == 4096.0 && m->spec.rope.factor == 32.0);
    td_model_close(m);
    const struct edit scaling = {.kind = DROP_KEY, .name = "gpt-oss.rope.scaling.type"};
    assert_int_equal(open_edited(&scaling, &m, &err), TD_OK);
    assert_true(m->spec.rope.factor == 32.0);
    td_model_close(m);

    const struct edit tied = {.kind = DROP_TENSOR, .name = "output.weight"};
    assert_int_equal(open_edited(&tied, &m, &err), TD_OK);
    const struct td_op *last = &m->program.ops[m->program.n_ops - 1];
    assert_int_equal(last->kind, TD_OP_LINEAR);
    assert_string_equal(m->weights[last->w].name, "token_embd.weight");
    td_model_close(m);
}

// Types tandem lacks cannot be written by tandem: set the number in the bytes.
static void check_type_number(uint32_t number, const char *says)
{
    struct td_gguf_writer *w = NULL;
    struct td_error err = {0};
    assert_int_equal(td_gguf_writer_open(&w, &err), TD_OK);
    struct td_model *base = open_model("synth:tiny,layers=2,vocab=512", true);
    const struct edit none = {.kind = NOTHING, .name = ""};
    for (uint32_t i = 0; i < td_gguf_n_kv(base->gguf); i++) copy_key(w, base->gguf, i, &none);
    // 256 columns: whole blocks of every type GGUF knows.
    const uint64_t dim[2] = {256, 512};
    td_gguf_put_tensor(w, "token_embd.weight", TD_F32, 2, dim);
    const uint8_t *header;
    size_t size;
    assert_int_equal(td_gguf_writer_header(w, &header, &size, &err), TD_OK);
    uint8_t *bytes = malloc(size);
    assert_non_null(bytes);
    memcpy(bytes, header, size);
    // name, n_dims (4), dims (2 x 8), then the type.
    const char name[] = "token_embd.weight";
    uint8_t *at = NULL;
    for (size_t i = 0; i + sizeof(name) + 24 < size; i++)
        if (memcmp(bytes + i, name, sizeof(name) - 1) == 0) at = bytes + i;
    assert_non_null(at);
    if (at) memcpy(at + sizeof(name) - 1 + 4 + 16, &number, 4);
    // The embedding length must follow.
    const uint32_t n_embd = 256;
    const char key[] = "gpt-oss.embedding_length";
    for (size_t i = 0; i + sizeof(key) + 8 < size; i++)
        if (memcmp(bytes + i, key, sizeof(key) - 1) == 0)
            memcpy(bytes + i + sizeof(key) - 1 + 4, &n_embd, 4);
    struct td_gguf *g = NULL;
    struct td_model *m = NULL;
    int code = td_gguf_parse(&g, bytes, size, "edited.gguf", true, &err);
    if (code == TD_OK) code = td_model_of_gguf(&m, g, NULL, &err);
    if (code == TD_OK || !strstr(err.msg, says))
        fail_msg("type %u: %d '%s'", number, code, err.msg);
    assert_null(m);
    free(bytes);
    td_gguf_writer_close(w);
    td_model_close(base);
}

static void test_types_we_lack(void **state)
{
    (void)state;
    check_type_number(12, "tensor 'token_embd.weight' has type Q4_K; tandem computes with");
    check_type_number(14, "'token_embd.weight' has type Q6_K");
    check_type_number(2, "'token_embd.weight' has type Q4_0");
    check_type_number(24, "'token_embd.weight' has type I8");
    check_type_number(1000, "token_embd.weight");
}

static void test_vocabulary_only(void **state)
{
    (void)state;
    struct td_gguf_writer *w = NULL;
    struct td_error err = {0};
    assert_int_equal(td_gguf_writer_open(&w, &err), TD_OK);
    td_gguf_put_str(w, "general.architecture", "llama");
    const uint8_t *bytes;
    size_t size;
    assert_int_equal(td_gguf_writer_header(w, &bytes, &size, &err), TD_OK);
    struct td_gguf *g = NULL;
    assert_int_equal(td_gguf_parse(&g, bytes, size, "vocab.gguf", false, &err), TD_OK);
    struct td_model *m = NULL;
    assert_int_equal(td_model_of_gguf(&m, g, NULL, &err), TD_EFORMAT);
    assert_string_equal(err.msg, "vocab.gguf: the file has no weights (a vocabulary only)");
    td_gguf_writer_close(w);
    assert_int_equal(td_model_open(&m, "/nonexistent.gguf", NULL, &err), TD_EIO);
    assert_non_null(strstr(err.msg, "/nonexistent.gguf"));
    assert_null(m);
}

static void test_spec_of_file(void **state)
{
    (void)state;
    struct td_model *m = open_model("tests/data/gptoss-tiny.gguf", false);
    const struct td_spec *s = &m->spec;
    assert_string_equal(s->arch, "gpt-oss");
    assert_string_equal(s->name, "synthetic gpt-oss tiny");
    assert_int_equal(s->n_layers, 4);
    assert_int_equal(s->n_embd, 192);
    assert_int_equal(s->n_vocab, 2000);
    assert_int_equal(s->n_heads, 4);
    assert_int_equal(s->n_kv_heads, 2);
    assert_int_equal(s->head_dim, 64);
    assert_int_equal(s->n_experts, 8);
    assert_int_equal(s->n_experts_used, 4);
    assert_int_equal(s->n_ff_expert, 160);
    const uint32_t windows[4] = {16, 0, 16, 0};
    for (int il = 0; il < 4; il++) assert_int_equal(s->kv[il].window, windows[il]);
    assert_int_equal(m->n_weights, td_gguf_n_tensors(m->gguf));
    assert_int_equal(strlen(m->digest), 16);
    assert_string_equal(m->note, "");
    td_model_close(m);
}

// By hand for the published shape: d/2 = 32, ln b = 11.918391, ln(4096 / (2 pi)) = 6.479890, so the
// dim that turns once is 32 * 6.479890 / 11.918391 = 17.398 and the one that turns 32 times is
// 32 * (6.479890 - 3.465736) / 11.918391 = 8.0928.
static void test_yarn(void **state)
{
    (void)state;
    struct td_rope r = {.n_dims = 64,
                        .base = 150000,
                        .factor = 32,
                        .original_ctx = 4096,
                        .beta_fast = 32,
                        .beta_slow = 1,
                        .attn_factor = 1};
    td_rope_derive(&r);
    assert_true(fabs(r.attn_factor - 1.3465735902799727) < 1e-15); // 0.1 ln 32 + 1
    for (int i = 0; i < 32; i++) {
        const double plain = pow(150000, -i / 32.0);
        double stretch = 1;
        if (i > 8) stretch = 1.0 / 32;
        if (i > 8 && i < 18) stretch = 1 - (i - 8.0928) / (17.398 - 8.0928) * (31.0 / 32);
        assert_true(fabs(r.inv_freq[i] / plain / stretch - 1) < 2e-3);
    }
    assert_true(r.inv_freq[0] == 1.0);
    const double unrounded = r.inv_freq[12];
    r.truncate = true;
    r.attn_factor = 1;
    td_rope_derive(&r);
    // Rounded: 8 and 18 instead of 8.09 and 17.40.
    assert_true(fabs(r.inv_freq[12] / unrounded - 1) > 0.02);
    // Plain RoPE.
    r.factor = 1;
    r.attn_factor = 1;
    td_rope_derive(&r);
    assert_true(r.attn_factor == 1.0);
    for (int i = 0; i < 32; i++)
        assert_true(fabs(r.inv_freq[i] * pow(150000, i / 32.0) - 1) < 1e-12);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_sentence_each),
        cmocka_unit_test(test_what_is_allowed),
        cmocka_unit_test(test_keys_are_honoured),
        cmocka_unit_test(test_types_we_lack),
        cmocka_unit_test(test_vocabulary_only),
        cmocka_unit_test(test_spec_of_file),
        cmocka_unit_test(test_yarn),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
