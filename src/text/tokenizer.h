// SPDX-License-Identifier: MIT
// Bytes <-> token ids: byte-level BPE with the vocabulary and merges of a GGUF file.
#ifndef TD_TEXT_TOKENIZER_H
#define TD_TEXT_TOKENIZER_H

#include "base/status.h"
#include "gguf/gguf.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct td_tokenizer;

// Reads tokenizer.ggml.* of g and copies what it needs. On failure *out is NULL.
int td_tokenizer_open(struct td_tokenizer **out, const struct td_gguf *g,
                      struct td_error *err) TD_MUST_CHECK;
void td_tokenizer_close(struct td_tokenizer *t);
uint32_t td_tokenizer_n_vocab(const struct td_tokenizer *t);

// A growing list of ids; free with td_ids_free. Zero-initialised is empty.
struct td_ids {
    int32_t *at;
    size_t n;
    size_t cap;
};
void td_ids_free(struct td_ids *ids);
int td_ids_push(struct td_ids *ids, int32_t id) TD_MUST_CHECK;

// Appends the ids of text (any bytes). parse_special: names of special tokens in the text become
// these tokens (the longest name wins); otherwise they are plain text. Bytes that are not UTF-8 are
// kept: the ids' bytes, one after the other, are text again. Linear in the length of text.
// Fails: no memory; a byte the vocabulary lacks; more than 2 GiB. out is then as it was.
// A tokenizer may be used by several threads at once.
int td_encode(const struct td_tokenizer *t, const char *text, size_t size_bytes, bool parse_special,
              struct td_ids *out, struct td_error *err) TD_MUST_CHECK;

// The bytes of one token (for special tokens their name); an unknown id gives size 0.
struct td_str td_token_bytes(const struct td_tokenizer *t, int32_t id);
// Control and user-defined tokens.
bool td_token_is_special(const struct td_tokenizer *t, int32_t id);
// Id of a token by its exact bytes or special name; -1 when there is none.
int32_t td_token_find(const struct td_tokenizer *t, const char *name);
int32_t td_token_bos(const struct td_tokenizer *t); // -1: none
int32_t td_token_eos(const struct td_tokenizer *t); // -1: none
// Whether plain text is to start with bos. td_encode adds nothing by itself.
bool td_tokenizer_adds_bos(const struct td_tokenizer *t);
bool td_token_ends_generation(const struct td_tokenizer *t,
                              int32_t id); // eos, eot, harmony's return and call

// Cuts a byte stream into whole UTF-8 characters: for printing tokens as they come.
struct td_utf8_stream {
    char held[4];
    uint32_t n_held;
};
// Writes to out (size >= 3 * n + 12) what is complete now; invalid bytes pass as U+FFFD. Returns
// bytes written.
size_t td_utf8_feed(struct td_utf8_stream *s, const char *in, size_t n, char *out);
size_t td_utf8_finish(struct td_utf8_stream *s, char *out);

#endif
