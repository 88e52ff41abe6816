// SPDX-License-Identifier: MIT
// Pre-tokenizers: regular expressions that cut text into pieces before the merges, run by PCRE2.
// Text must be valid UTF-8; invalid bytes are the caller's (bpe.c).
//
// The published patterns say \s, which their engines read as Unicode White_Space. PCRE2's \s under
// UCP also takes U+180E, so the class is spelled out: White_Space is HT..CR, U+0085 and \p{Z}.
// Letters and numbers are those of the Unicode version PCRE2 was built with (10.42: Unicode 14).
#define PCRE2_CODE_UNIT_WIDTH 8

#include "text/tokenizer_impl.h"

#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

#define WS      "[\\t-\\r\\x{85}\\p{Z}]"
#define NOT_WS  "[^\\t-\\r\\x{85}\\p{Z}]"
#define OTHER   "[^\\t-\\r\\x{85}\\p{Z}\\p{L}\\p{N}]"
#define UPPER   "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER   "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define BEFORE  "[^\\r\\n\\p{L}\\p{N}]?"
#define CONTRAC "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define SPACES  WS "*[\\r\\n]+|" WS "+(?!" NOT_WS ")|" WS "+"

// Source: openai/tiktoken, tiktoken_ext/openai_public.py, o200k_base.
static const char O200K[] = BEFORE UPPER "*" LOWER "+" CONTRAC "?"
                                         "|" BEFORE UPPER "+" LOWER "*" CONTRAC "?"
                                         "|\\p{N}{1,3}| ?" OTHER "+[\\r\\n/]*|" SPACES;
// Source: the tokenizer.json of Llama 3 and of Qwen2; they differ in the numbers.
static const char LLAMA3[] = CONTRAC "|" BEFORE "\\p{L}+|\\p{N}{1,3}| ?" OTHER "+[\\r\\n]*|" SPACES;
static const char QWEN2[] = CONTRAC "|" BEFORE "\\p{L}+|\\p{N}| ?" OTHER "+[\\r\\n]*|" SPACES;

static const struct td_pretok_kind kinds[] = {
    {"gpt-4o", O200K, true, false},
    {"llama4", O200K, true, false},
    {"llama-bpe", LLAMA3, true, true},
    {"llama3", LLAMA3, true, true},
    {"llama-v3", LLAMA3, true, true},
    {"qwen2", QWEN2, false, false},
    {"deepseek-r1-qwen", QWEN2, false, false},
};

const struct td_pretok_kind *td_pretok_find(struct td_str name)
{
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        if (strlen(kinds[i].name) == name.size_bytes &&
            memcmp(kinds[i].name, name.at, name.size_bytes) == 0)
            return &kinds[i];
    }
    return NULL;
}

struct td_pretok {
    pcre2_general_context *memory;
    pcre2_code *code;
};

// PCRE2 takes its memory through these, so that the tests can make every allocation fail.
static void *take_memory(PCRE2_SIZE n, void *ctx)
{
    (void)ctx;
    return malloc(n);
}

static void give_memory(void *p, void *ctx)
{
    (void)ctx;
    free(p);
}

int td_pretok_open(struct td_pretok **out, const struct td_pretok_kind *kind, struct td_error *err)
{
    *out = NULL;
    struct td_pretok *p = calloc(1, sizeof(*p));
    if (!p) return td_fail(err, TD_ENOMEM, "tokenizer: no memory for the pre-tokenizer");
    p->memory = pcre2_general_context_create(take_memory, give_memory, NULL);
    pcre2_compile_context *how = p->memory ? pcre2_compile_context_create(p->memory) : NULL;
    int code = 0;
    if (how) {
        PCRE2_SIZE where = 0;
        // Anchored: every character starts some alternative, so a search forward is never needed.
        p->code = pcre2_compile((PCRE2_SPTR)kind->pattern, PCRE2_ZERO_TERMINATED,
                                PCRE2_UTF | PCRE2_ANCHORED, &code, &where, how);
        pcre2_compile_context_free(how);
    }
    if (!p->code) {
        td_pretok_close(p);
        if (code == 0 || code == PCRE2_ERROR_HEAP_FAILED)
            return td_fail(err, TD_ENOMEM, "tokenizer: no memory for the pre-tokenizer");
        return td_fail(err, TD_EUNSUP,
                       "tokenizer: this PCRE2 library refuses the '%s' pattern (error %d)",
                       kind->name, code);
    }
    // Without a just-in-time compiler (or leave to use it) the pattern is interpreted.
    (void)pcre2_jit_compile(p->code, PCRE2_JIT_COMPLETE);
    *out = p;
    return TD_OK;
}

void td_pretok_close(struct td_pretok *p)
{
    if (!p) return;
    pcre2_code_free(p->code);
    pcre2_general_context_free(p->memory);
    free(p);
}

int td_pretok_begin(struct td_pretok_run *run, const struct td_pretok *p, struct td_error *err)
{
    run->p = p;
    pcre2_match_data *data = pcre2_match_data_create(1, p->memory);
    pcre2_match_context *how = pcre2_match_context_create(p->memory);
    run->match_data = data;
    run->match_context = how;
    if (!data || !how) {
        td_pretok_end(run);
        return td_fail(err, TD_ENOMEM, "tokenizer: no memory to match the text");
    }
    // No pattern backtracks more than a few times over the piece it ends up with, so the limit
    // only would cut off very long pieces (a million spaces), which are legal.
    (void)pcre2_set_match_limit(how, UINT32_MAX);
    return TD_OK;
}

void td_pretok_end(struct td_pretok_run *run)
{
    pcre2_match_data_free(run->match_data);
    pcre2_match_context_free(run->match_context);
    run->match_data = NULL;
    run->match_context = NULL;
}

int td_pretok_next(struct td_pretok_run *run, const char *text, size_t size_bytes, size_t at,
                   size_t *n_out, struct td_error *err)
{
    // The check of the whole rest of the text at every piece would be quadratic.
    const uint32_t how = PCRE2_NO_UTF_CHECK;
    int n = pcre2_match(run->p->code, (PCRE2_SPTR)text, size_bytes, at, how, run->match_data,
                        run->match_context);
    if (n == PCRE2_ERROR_JIT_STACKLIMIT) // the interpreter keeps its frames on the heap
        n = pcre2_match(run->p->code, (PCRE2_SPTR)text, size_bytes, at, how | PCRE2_NO_JIT,
                        run->match_data, run->match_context);
    if (n == PCRE2_ERROR_HEAPLIMIT || n == PCRE2_ERROR_NOMEMORY)
        return td_fail(err, TD_ENOMEM, "tokenizer: no memory to match the text at byte %zu", at);
    if (n < 0 && n != PCRE2_ERROR_NOMATCH)
        return td_fail(err, TD_EUNSUP, "tokenizer: PCRE2 gave up at byte %zu of the text (%d)", at,
                       n);
    const PCRE2_SIZE *span = pcre2_get_ovector_pointer(run->match_data);
    // No character is left out by the patterns; should a library disagree, it stands alone.
    if (n == PCRE2_ERROR_NOMATCH || span[1] <= at)
        *n_out = td_utf8_char(text + at, size_bytes - at);
    else
        *n_out = span[1] - at;
    return TD_OK;
}
