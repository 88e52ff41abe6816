// SPDX-License-Identifier: MIT
// The harmony chat format of gpt-oss, both directions: conversation -> tokens, and the stream of
// generated tokens -> channels, tool calls and text. The template a GGUF carries is not executed.
// Source: openai/harmony, docs/format.md.
#ifndef TD_TEXT_HARMONY_H
#define TD_TEXT_HARMONY_H

#include "text/tokenizer.h"

enum td_role { TD_ROLE_SYSTEM, TD_ROLE_DEVELOPER, TD_ROLE_USER, TD_ROLE_ASSISTANT, TD_ROLE_TOOL };
enum td_effort { TD_EFFORT_LOW, TD_EFFORT_MEDIUM, TD_EFFORT_HIGH };

struct td_tool {
    const char *name;
    const char *description; // may be NULL
    const char *parameters;  // JSON schema text, may be NULL
};

struct td_message {
    enum td_role role;
    const char *content; // UTF-8; final text of assistant messages
    size_t content_bytes;
    const char
        *reasoning; // assistant: analysis, NULL if none. Rendered only when a tool call of the
                    // same turn follows (harmony drops past reasoning after a final answer)
    const char
        *tool_name; // tool: which function answered; assistant: which is called. NULL if none
    const char *tool_args; // assistant: JSON text of the call's arguments
};

struct td_chat {
    const char
        *model_identity; // NULL: "You are ChatGPT, a large language model trained by OpenAI."
    const char *knowledge_cutoff; // NULL: "2024-06"
    const char *current_date;     // "2026-11-22"; NULL: no line
    enum td_effort effort;
    const struct td_tool *tools;
    size_t n_tools;
    const struct td_message
        *messages; // system and developer content both become developer instructions
    size_t n_messages;
    bool add_generation_prompt; // end with <|start|>assistant
};

// Appends the tokens of the conversation; marks (may be NULL) gets the token count after each
// message. Contents are encoded as plain text: they can not forge special tokens.
int td_harmony_render(const struct td_tokenizer *t, const struct td_chat *chat, struct td_ids *out,
                      struct td_ids *marks, struct td_error *err) TD_MUST_CHECK;

enum td_channel { TD_CHANNEL_ANALYSIS, TD_CHANNEL_COMMENTARY, TD_CHANNEL_FINAL };
enum td_chat_event_kind {
    TD_CHAT_TEXT,       // text of channel
    TD_CHAT_TOOL_BEGIN, // text: function name ("functions." removed)
    TD_CHAT_TOOL_ARGS,  // text: a piece of the arguments
    TD_CHAT_TOOL_END,
    TD_CHAT_MESSAGE_END, // a message of channel is complete
    TD_CHAT_DONE,        // <|return|> or <|call|> was seen: generation should stop
};
struct td_chat_event {
    enum td_chat_event_kind kind;
    enum td_channel channel;
    const char *text; // whole UTF-8 characters; valid during the call
    size_t text_bytes;
};
typedef void td_chat_event_fn(void *ctx, const struct td_chat_event *event);

struct td_harmony_parser;
int td_harmony_parser_open(struct td_harmony_parser **out, const struct td_tokenizer *t,
                           struct td_error *err) TD_MUST_CHECK;
void td_harmony_parser_close(struct td_harmony_parser *p);
// Feeds one generated token; calls fn for what it completes. Malformed streams lose no text: what
// can not be understood comes as TD_CHAT_TEXT of the final channel.
int td_harmony_feed(struct td_harmony_parser *p, int32_t token, td_chat_event_fn *fn, void *ctx,
                    struct td_error *err) TD_MUST_CHECK;
// The stream ended (limit reached): gives out what is held.
int td_harmony_finish(struct td_harmony_parser *p, td_chat_event_fn *fn, void *ctx,
                      struct td_error *err) TD_MUST_CHECK;

#endif
