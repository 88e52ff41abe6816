// SPDX-License-Identifier: MIT
// A vocabulary of a few hundred tokens as a GGUF directory in memory: the 256 bytes, some merges,
// some special tokens. For tests and fuzz targets.
#ifndef TD_TESTS_SMALL_VOCAB_H
#define TD_TESTS_SMALL_VOCAB_H

#include "gguf/gguf.h"
#include "gguf/gguf_write.h"

#include <stdlib.h>
#include <string.h>

// Pairs in order of rank: what "left" and "right" make becomes token 256, 257 and so on.
static const char *const small_merges[][2] = {
    {"l", "l"},       {"h", "e"},           {"he", "ll"},     {"hell", "o"},    {" ", "w"},
    {"a", "a"},       {"aa", "aa"},         {"aaaa", "aa"},   {" ", " "},       {"  ", "  "},
    {"1", "2"},       {"12", "3"},          {"\r", "\n"},     {"\n", "\n"},     {"'", "s"},
    {"\xE4", "\xB8"}, {"\xE4\xB8", "\xAD"}, {"\xFF", "\xFF"}, {"\xF0", "\x9F"}, {"i", "n"},
    {"t", "o"},       {"a", "b"},           {"b", "c"},       {"ab", "c"},      {"/", "/"},
    {"\n", "/"},
};
#define SMALL_N_MERGES (sizeof(small_merges) / sizeof(small_merges[0]))

static const char *const small_specials[] = {
    "<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|constrain|>", "<|return|>",
    "<|call|>",  "<|x",     "<|x|>",       "<|x|>y",      "<|endoftext|>",
};
#define SMALL_N_SPECIALS (sizeof(small_specials) / sizeof(small_specials[0]))
#define SMALL_N_VOCAB    (256 + SMALL_N_MERGES + SMALL_N_SPECIALS)
#define SMALL_SPECIAL(i) ((int32_t)(256 + SMALL_N_MERGES + (i)))

// Writes text in GPT-2's alphabet to out (2 bytes for each at most, and a NUL).
static size_t small_spell(const char *text, size_t n, char *out)
{
    size_t at = 0;
    for (size_t i = 0; i < n; i++) {
        const uint32_t b = (uint8_t)text[i];
        uint32_t point = b;
        // Bytes that do not stand for themselves are numbered from U+0100: 0..32, 127..160, 173.
        if (b <= 32)
            point = 0x100 + b;
        else if (b >= 127 && b <= 160)
            point = 0x100 + 33 + b - 127;
        else if (b == 173)
            point = 0x100 + 67;
        if (point < 0x80) {
            out[at++] = (char)point;
        } else {
            out[at++] = (char)(0xc0 | point >> 6);
            out[at++] = (char)(0x80 | (point & 0x3f));
        }
    }
    out[at] = 0;
    return at;
}

struct small_vocab {
    char *text; // all names, each NUL-terminated
    struct td_str tokens[SMALL_N_VOCAB];
    struct td_str merges[SMALL_N_MERGES];
    int32_t types[SMALL_N_VOCAB];
};

// Fills v; the caller may change it before small_vocab_put. text is the caller's to free.
static inline void small_vocab_make(struct small_vocab *v)
{
    char *out = v->text = calloc(SMALL_N_VOCAB + SMALL_N_MERGES, 64);
    if (!out) abort();
    for (size_t i = 0; i < SMALL_N_VOCAB; i++, out += 64) {
        v->types[i] = 1;
        size_t n;
        if (i < 256) {
            const char b = (char)i;
            n = small_spell(&b, 1, out);
        } else if (i < 256 + SMALL_N_MERGES) {
            const char *const *m = small_merges[i - 256];
            n = small_spell(m[0], strlen(m[0]), out);
            n += small_spell(m[1], strlen(m[1]), out + n);
        } else {
            const char *name = small_specials[i - 256 - SMALL_N_MERGES];
            v->types[i] = 3;
            n = strlen(name);
            memcpy(out, name, n);
        }
        v->tokens[i] = (struct td_str){.at = out, .size_bytes = n};
    }
    for (size_t i = 0; i < SMALL_N_MERGES; i++, out += 64) {
        size_t n = small_spell(small_merges[i][0], strlen(small_merges[i][0]), out);
        out[n++] = ' ';
        n += small_spell(small_merges[i][1], strlen(small_merges[i][1]), out + n);
        v->merges[i] = (struct td_str){.at = out, .size_bytes = n};
    }
}

static inline void small_vocab_put(struct td_gguf_writer *w, const struct small_vocab *v,
                                   const char *pre)
{
    td_gguf_put_str(w, "general.architecture", "gpt-oss");
    td_gguf_put_str(w, "tokenizer.ggml.model", "gpt2");
    td_gguf_put_str(w, "tokenizer.ggml.pre", pre);
    td_gguf_put_strs(w, "tokenizer.ggml.tokens", v->tokens, SMALL_N_VOCAB);
    td_gguf_put_i32s(w, "tokenizer.ggml.token_type", v->types, SMALL_N_VOCAB);
    td_gguf_put_strs(w, "tokenizer.ggml.merges", v->merges, SMALL_N_MERGES);
    td_gguf_put_u32(w, "tokenizer.ggml.bos_token_id", (uint32_t)SMALL_SPECIAL(10));
    td_gguf_put_u32(w, "tokenizer.ggml.eos_token_id", (uint32_t)SMALL_SPECIAL(5));
}

// A GGUF directory whose bytes live in *bytes, the caller's to free after closing it.
static inline struct td_gguf *small_gguf_of(struct td_gguf_writer *w, uint8_t **bytes)
{
    const uint8_t *header = NULL;
    size_t n = 0;
    struct td_gguf *g = NULL;
    if (td_gguf_writer_header(w, &header, &n, NULL)) abort();
    *bytes = malloc(n);
    if (!*bytes) abort();
    memcpy(*bytes, header, n);
    td_gguf_writer_close(w);
    if (td_gguf_parse(&g, *bytes, n, "small.gguf", true, NULL)) abort();
    return g;
}

static inline struct td_gguf *small_gguf(const char *pre, uint8_t **bytes)
{
    struct small_vocab v;
    struct td_gguf_writer *w = NULL;
    small_vocab_make(&v);
    if (td_gguf_writer_open(&w, NULL)) abort();
    small_vocab_put(w, &v, pre);
    struct td_gguf *g = small_gguf_of(w, bytes);
    free(v.text);
    return g;
}

#endif
