// SPDX-License-Identifier: MIT
// What the tokenizer's files share: the vocabulary's tables, the pre-tokenizer, UTF-8 checks.
#ifndef TD_TEXT_TOKENIZER_IMPL_H
#define TD_TEXT_TOKENIZER_IMPL_H

#include "text/tokenizer.h"

// token_type values of the GGUF specification.
enum td_token_type {
    TD_TOKEN_UNDEFINED = 0,
    TD_TOKEN_NORMAL = 1,
    TD_TOKEN_UNKNOWN = 2,
    TD_TOKEN_CONTROL = 3,
    TD_TOKEN_USER_DEFINED = 4,
    TD_TOKEN_UNUSED = 5,
    TD_TOKEN_BYTE = 6,
};

// Two tokens and what they merge into.
struct td_merge {
    int32_t left, right, made;
};

// A token that is found by its name as it stands in the file, not by byte-pair merges.
struct td_special {
    const char *name;
    uint32_t size_bytes;
    int32_t id;
};

struct td_pretok;

struct td_tokenizer {
    uint32_t n_vocab;
    char *bytes;    // all tokens' bytes, end to end
    uint32_t *at;   // (n_vocab + 1) where token i starts in bytes
    uint8_t *types; // (n_vocab) enum td_token_type

    // Hash tables (vocab.c says what a slot holds). Small slots: the time to start goes with the
    // memory that is filled.
    uint64_t *tokens; // normal tokens by their bytes
    uint32_t tokens_mask;
    uint32_t *merge_slots; // merges by their parts
    uint32_t merges_mask;
    struct td_merge *merges;      // by rank: lower merges first
    uint32_t byte_id_plus_1[256]; // the token of each single byte; 0: none

    struct td_special *specials; // sorted by name
    uint32_t n_specials;
    uint32_t special_first[257]; // specials whose first byte is c: [first[c], first[c + 1])

    int32_t bos, eos;
    int32_t ends[16]; // ids that end a generation
    uint32_t n_ends;
    bool adds_bos;
    bool takes_whole_pieces; // a piece that is a token needs no merges
    struct td_pretok *pretok;
};

// A whole token by its bytes; -1 when there is none.
int32_t td_vocab_find(const struct td_tokenizer *t, const char *bytes, size_t size_bytes);
// What a pair of ids merges into, and its rank; -1 when they do not merge.
int32_t td_vocab_merge(const struct td_tokenizer *t, int32_t left, int32_t right,
                       uint32_t *rank_out);
// Fills the tables from bytes to byte_id_plus_1, and specials.
int td_vocab_load(struct td_tokenizer *t, const struct td_gguf *g,
                  struct td_error *err) TD_MUST_CHECK;
void td_vocab_free(struct td_tokenizer *t);
// The longest special token at the start of text that encode may use; -1: none.
int32_t td_vocab_special_at(const struct td_tokenizer *t, const char *text, size_t size_bytes);

// Pre-tokenizers: cut text into the pieces that are merged on their own.
struct td_pretok_kind {
    const char *name; // of tokenizer.ggml.pre
    const char *pattern;
    bool takes_whole_pieces;
    bool adds_bos; // unless the file says otherwise
};
const struct td_pretok_kind *td_pretok_find(struct td_str name); // NULL: unknown
int td_pretok_open(struct td_pretok **out, const struct td_pretok_kind *kind,
                   struct td_error *err) TD_MUST_CHECK;
void td_pretok_close(struct td_pretok *p);

// State of one call of encode: several may share a td_pretok.
struct td_pretok_run {
    const struct td_pretok *p;
    void *match_data;
    void *match_context;
};
int td_pretok_begin(struct td_pretok_run *run, const struct td_pretok *p,
                    struct td_error *err) TD_MUST_CHECK;
void td_pretok_end(struct td_pretok_run *run);
// Size of the piece that starts at `at` of text, which is valid UTF-8; at least 1.
int td_pretok_next(struct td_pretok_run *run, const char *text, size_t size_bytes, size_t at,
                   size_t *n_out, struct td_error *err) TD_MUST_CHECK;

// Bytes of the UTF-8 character at the start of text: 1..4; 0 when it is not a valid one.
uint32_t td_utf8_char(const char *text, size_t size_bytes);
// Bytes of the longest valid start of text.
size_t td_utf8_valid(const char *text, size_t size_bytes);

#endif
