// SPDX-License-Identifier: MIT
// Opening a tokenizer: which kind the file asks for, the ids with a meaning, and what the tables
// answer. The tables are made in vocab.c, the merges run in bpe.c.
#include "text/tokenizer_impl.h"

#include <stdlib.h>
#include <string.h>

static int read_kind(struct td_tokenizer *t, const struct td_gguf *g, struct td_error *err)
{
    const char *path = td_gguf_shown_path(g);
    struct td_str model = {0}, pre = {0};
    int code = td_gguf_str(g, "tokenizer.ggml.model", &model, err);
    if (code == TD_EARG)
        return td_fail(err, TD_EFORMAT, "%s: no tokenizer (tokenizer.ggml.model is missing)", path);
    if (code) return code;
    if (model.size_bytes != 4 || memcmp(model.at, "gpt2", 4) != 0)
        return td_fail(err, TD_EUNSUP,
                       "%s: tokenizer.ggml.model is '%.*s', only 'gpt2' (byte-level BPE) is known",
                       path, (int)(model.size_bytes < 40 ? model.size_bytes : 40), model.at);
    code = td_gguf_str(g, "tokenizer.ggml.pre", &pre, err);
    if (code == TD_EARG)
        return td_fail(err, TD_EUNSUP,
                       "%s: tokenizer.ggml.pre is missing: how text is cut into "
                       "pieces is not known",
                       path);
    if (code) return code;
    const struct td_pretok_kind *kind = td_pretok_find(pre);
    if (!kind)
        return td_fail(err, TD_EUNSUP,
                       "%s: tokenizer.ggml.pre is '%.*s', known are gpt-4o, llama-bpe and qwen2",
                       path, (int)(pre.size_bytes < 40 ? pre.size_bytes : 40), pre.at);
    t->takes_whole_pieces = kind->takes_whole_pieces;
    t->adds_bos = kind->adds_bos;
    code = td_gguf_bool(g, "tokenizer.ggml.add_bos_token", &t->adds_bos, err);
    if (code && code != TD_EARG) return code;
    return td_pretok_open(&t->pretok, kind, err);
}

// An id of the file; -1 when the key is absent, or is the -1 some converters write for "none".
static int read_id(const struct td_tokenizer *t, const struct td_gguf *g, const char *key,
                   int32_t *out, struct td_error *err)
{
    *out = -1;
    uint32_t id = 0;
    struct td_error why = {0};
    const int code = td_gguf_u32(g, key, &id, &why);
    if (code == TD_EARG || td_gguf_is_minus_one(g, key)) return TD_OK;
    if (code) return td_fail(err, code, "%s", why.msg);
    if (id >= t->n_vocab)
        return td_fail(err, TD_EFORMAT, "%s: %s is %u, but there are %u tokens",
                       td_gguf_shown_path(g), key, id, t->n_vocab);
    *out = (int32_t)id;
    return TD_OK;
}

static void add_end(struct td_tokenizer *t, int32_t id)
{
    if (id >= 0 && !td_token_ends_generation(t, id)) t->ends[t->n_ends++] = id;
}

static int read_ends(struct td_tokenizer *t, const struct td_gguf *g, struct td_error *err)
{
    int32_t eot = -1, eom = -1;
    int code = read_id(t, g, "tokenizer.ggml.bos_token_id", &t->bos, err);
    if (!code) code = read_id(t, g, "tokenizer.ggml.eos_token_id", &t->eos, err);
    if (!code) code = read_id(t, g, "tokenizer.ggml.eot_token_id", &eot, err);
    if (!code) code = read_id(t, g, "tokenizer.ggml.eom_token_id", &eom, err);
    if (code) return code;
    // Files differ in which of these they name, chat formats in which they use.
    static const char *const names[] = {"<|return|>", "<|call|>",   "<|endoftext|>",  "<|im_end|>",
                                        "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>"};
    add_end(t, t->eos);
    add_end(t, eot);
    add_end(t, eom);
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        const int32_t id = td_token_find(t, names[i]);
        if (td_token_is_special(t, id)) add_end(t, id);
    }
    // Harmony's <|end|> closes a message, after which the model goes on; some files call it eot.
    const int32_t end = td_token_find(t, "<|end|>");
    if (end >= 0 && td_token_find(t, "<|return|>") >= 0) {
        for (uint32_t i = 0; i < t->n_ends; i++)
            if (t->ends[i] == end) t->ends[i] = t->ends[--t->n_ends];
    }
    return TD_OK;
}

int td_tokenizer_open(struct td_tokenizer **out, const struct td_gguf *g, struct td_error *err)
{
    *out = NULL;
    struct td_tokenizer *t = calloc(1, sizeof(*t));
    if (!t)
        return td_fail(err, TD_ENOMEM, "%s: no memory for the tokenizer", td_gguf_shown_path(g));
    int code = read_kind(t, g, err);
    if (!code) code = td_vocab_load(t, g, err);
    if (!code) code = read_ends(t, g, err);
    if (code) {
        td_tokenizer_close(t);
        return code;
    }
    *out = t;
    return TD_OK;
}

void td_tokenizer_close(struct td_tokenizer *t)
{
    if (!t) return;
    td_pretok_close(t->pretok);
    td_vocab_free(t);
    free(t);
}

uint32_t td_tokenizer_n_vocab(const struct td_tokenizer *t)
{
    return t->n_vocab;
}

struct td_str td_token_bytes(const struct td_tokenizer *t, int32_t id)
{
    if (id < 0 || (uint32_t)id >= t->n_vocab) return (struct td_str){.at = "", .size_bytes = 0};
    return (struct td_str){.at = t->bytes + t->at[id], .size_bytes = t->at[id + 1] - t->at[id]};
}

bool td_token_is_special(const struct td_tokenizer *t, int32_t id)
{
    if (id < 0 || (uint32_t)id >= t->n_vocab) return false;
    return t->types[id] == TD_TOKEN_CONTROL || t->types[id] == TD_TOKEN_USER_DEFINED;
}

int32_t td_token_find(const struct td_tokenizer *t, const char *name)
{
    const size_t n = strlen(name);
    uint32_t a = 0, b = t->n_specials;
    while (a < b) {
        const uint32_t mid = a + (b - a) / 2;
        const struct td_special *s = &t->specials[mid];
        int order = memcmp(s->name, name, s->size_bytes < n ? s->size_bytes : n);
        if (order == 0) order = (s->size_bytes > n) - (s->size_bytes < n);
        if (order == 0) return s->id;
        if (order < 0)
            a = mid + 1;
        else
            b = mid;
    }
    return td_vocab_find(t, name, n);
}

int32_t td_token_bos(const struct td_tokenizer *t)
{
    return t->bos;
}

int32_t td_token_eos(const struct td_tokenizer *t)
{
    return t->eos;
}

bool td_tokenizer_adds_bos(const struct td_tokenizer *t)
{
    return t->adds_bos && t->bos >= 0;
}

bool td_token_ends_generation(const struct td_tokenizer *t, int32_t id)
{
    for (uint32_t i = 0; i < t->n_ends; i++)
        if (t->ends[i] == id) return true;
    return false;
}
