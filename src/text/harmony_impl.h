// SPDX-License-Identifier: MIT
// What the two directions of the harmony format share, and the tool declarations.
#ifndef TD_TEXT_HARMONY_IMPL_H
#define TD_TEXT_HARMONY_IMPL_H

#include "text/harmony.h"

// A growing text. A failed allocation is remembered; the caller asks once at the end.
struct td_text {
    char *at;
    size_t n;
    size_t cap;
    bool no_memory;
};
void td_text_free(struct td_text *b);
void td_text_put(struct td_text *b, const char *p, size_t n);
void td_text_puts(struct td_text *b, const char *s);
void td_text_pad(struct td_text *b, size_t n); // n spaces

// The special tokens of the format.
struct td_harmony_ids {
    int32_t start, end, message, channel, constrain, ret, call;
};
int td_harmony_ids_find(struct td_harmony_ids *out, const struct td_tokenizer *t,
                        struct td_error *err) TD_MUST_CHECK;

// The "# Tools" section of the developer message: JSON schemas as TypeScript-like types.
int td_harmony_tools(struct td_text *b, const struct td_tool *tools, size_t n_tools,
                     struct td_error *err) TD_MUST_CHECK;

#endif
