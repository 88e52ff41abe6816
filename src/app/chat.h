// SPDX-License-Identifier: MIT
// A conversation with a model: holds the messages, has answers written and shows them. It reads no
// keyboard (repl.c) and no options.
#ifndef TD_APP_CHAT_H
#define TD_APP_CHAT_H

#include "app/pair.h"
#include "text/harmony.h"

#include <stdbool.h>
#include <stdint.h>

struct td_chat_options {
    bool raw;            // no chat format
    bool parse_special;  // raw: names of special tokens are these tokens
    bool show_reasoning; // also when the output is no terminal
    bool no_color;
    bool ignore_end;     // write on when the answer has ended
    uint32_t max_tokens; // of one answer; 0: no limit
    const char *system;  // NULL: none
    enum td_effort effort;
    struct td_sampling sampling;
    struct td_pair *pair; // whose peers may read prompts; NULL: nobody else
};

// Of one answer. A rate is 0 when there is nothing to divide.
struct td_chat_stats {
    uint32_t n_prompt;              // tokens of the whole prompt
    uint32_t n_reused;              // of these: taken from the KV cache, not computed
    uint32_t n_generated;           // tokens written
    double prompt_seconds;          // computing n_prompt - n_reused tokens
    double decode_seconds;          // from the first token to the last: n_generated - 1 of them
    double ttft_seconds;            // from the prompt's text to the first token
    const char *stop_reason;        // "end", "length", "context", "interrupted",
                                    // "output closed"
    struct td_remote_stats prefill; // where the prompt was read; zeroed without peers
};

struct td_conversation;

// app stays the caller's and must outlive the conversation. On failure *out is NULL.
int td_conversation_open(struct td_conversation **out, struct td_app *app,
                         const struct td_chat_options *options, struct td_error *err) TD_MUST_CHECK;
void td_conversation_close(struct td_conversation *c);

// Adds what the user says, has the answer written to stdout as it comes and adds that. Ctrl-C ends
// the answer: TD_OK with stop_reason "interrupted"; what was said is forgotten if nothing of the
// answer was there yet. On failure the conversation is as before.
// Fails: TD_EFULL when the prompt does not fit.
int td_conversation_say(struct td_conversation *c, const char *text, size_t size_bytes,
                        struct td_chat_stats *stats, struct td_error *err) TD_MUST_CHECK;

// Forgets all messages but the system's.
void td_conversation_clear(struct td_conversation *c);

// Asks for lines until the user leaves. Returns an exit code.
int td_repl(struct td_conversation *c, const struct td_app *app,
            void (*after)(const struct td_chat_stats *stats, void *ctx), void *ctx);

#endif
