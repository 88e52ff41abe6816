// SPDX-License-Identifier: MIT
// A conversation -> tokens, in the harmony format. What is between special tokens is encoded as
// plain text, so no content can forge one.
// Source: openai/harmony, docs/format.md; sections are named below. docs/HARMONY.md says where the
// sources leave a choice and which one is taken.
#include "text/harmony_impl.h"

#include <string.h>

struct renderer {
    const struct td_tokenizer *t;
    const struct td_chat *chat;
    struct td_harmony_ids ids;
    struct td_ids *out;
    struct td_text text; // what waits to be encoded
    int code;            // the first failure
    struct td_error *err;
};

static void put_id(struct renderer *r, int32_t id)
{
    if (r->code == TD_OK && td_ids_push(r->out, id))
        r->code = td_fail(r->err, TD_ENOMEM, "no memory for the tokens of the conversation");
}

static void put_bytes(struct renderer *r, const char *text, size_t n)
{
    if (r->code == TD_OK) r->code = td_encode(r->t, text, n, false, r->out, r->err);
}

static void put_string(struct renderer *r, const char *text)
{
    put_bytes(r, text, strlen(text));
}

// Encodes r->text and empties it.
static void put_text(struct renderer *r)
{
    if (r->code == TD_OK && r->text.no_memory)
        r->code = td_fail(r->err, TD_ENOMEM, "no memory for the text of the conversation");
    put_bytes(r, r->text.at ? r->text.at : "", r->text.n);
    r->text.n = 0;
}

// "Message format": <|start|>{header}<|message|>{content}<|end|>
static void begin_plain(struct renderer *r, const char *role)
{
    put_id(r, r->ids.start);
    put_string(r, role);
    put_id(r, r->ids.message);
}

static void begin_channel(struct renderer *r, const char *channel)
{
    put_id(r, r->ids.start);
    put_string(r, "assistant");
    put_id(r, r->ids.channel);
    put_string(r, channel);
    put_id(r, r->ids.message);
}

// "System message format"
static void put_system(struct renderer *r)
{
    static const char *const efforts[] = {"low", "medium", "high"};
    const struct td_chat *c = r->chat;
    struct td_text *b = &r->text;
    begin_plain(r, "system");
    td_text_puts(b, c->model_identity
                        ? c->model_identity
                        : "You are ChatGPT, a large language model trained by OpenAI.");
    td_text_puts(b, "\nKnowledge cutoff: ");
    td_text_puts(b, c->knowledge_cutoff ? c->knowledge_cutoff : "2024-06");
    if (c->current_date) {
        td_text_puts(b, "\nCurrent date: ");
        td_text_puts(b, c->current_date);
    }
    td_text_puts(b, "\n\nReasoning: ");
    td_text_puts(b, efforts[c->effort]);
    td_text_puts(b, "\n\n# Valid channels: analysis, commentary, final. Channel must be included "
                    "for every message.");
    if (c->n_tools > 0)
        td_text_puts(b, "\nCalls to these tools must go to the commentary channel: 'functions'.");
    put_text(r);
    put_id(r, r->ids.end);
}

// "Developer message format": instructions of messages [from, to), then the tools.
static void put_developer(struct renderer *r, size_t from, size_t to, bool has_tools)
{
    struct td_text *b = &r->text;
    bool has_instructions = false;
    for (size_t i = from; i < to; i++) {
        const struct td_message *m = &r->chat->messages[i];
        if (m->content_bytes == 0) continue;
        td_text_puts(b, has_instructions ? "\n\n" : "# Instructions\n\n");
        td_text_put(b, m->content, m->content_bytes);
        has_instructions = true;
    }
    if (has_tools && has_instructions) td_text_puts(b, "\n\n");
    if (has_tools && r->code == TD_OK)
        r->code = td_harmony_tools(b, r->chat->tools, r->chat->n_tools, r->err);
    if (!has_instructions && !has_tools) return;
    begin_plain(r, "developer");
    put_text(r);
    put_id(r, r->ids.end);
}

static const char *bare_name(const char *name)
{
    static const char space[] = "functions.";
    return strncmp(name, space, sizeof(space) - 1) == 0 ? name + sizeof(space) - 1 : name;
}

// "Receiving tool calls": the order is channel, recipient, type, as its examples have it.
static void put_call(struct renderer *r, const struct td_message *m)
{
    put_id(r, r->ids.start);
    put_string(r, "assistant");
    put_id(r, r->ids.channel);
    td_text_puts(&r->text, "commentary to=functions.");
    td_text_puts(&r->text, bare_name(m->tool_name));
    td_text_puts(&r->text, " ");
    put_text(r);
    put_id(r, r->ids.constrain);
    put_string(r, "json");
    put_id(r, r->ids.message);
    put_string(r, m->tool_args ? m->tool_args : "{}");
    put_id(r, r->ids.call);
}

// "Reasoning", "Preambles", "Function calling". keeps_reasoning: no final answer follows yet.
static void put_assistant(struct renderer *r, const struct td_message *m, bool keeps_reasoning)
{
    if (keeps_reasoning && m->reasoning && m->reasoning[0]) {
        begin_channel(r, "analysis");
        put_string(r, m->reasoning);
        put_id(r, r->ids.end);
    }
    if (m->content && (m->content_bytes > 0 || !m->tool_name)) {
        begin_channel(r, m->tool_name ? "commentary" : "final");
        put_bytes(r, m->content, m->content_bytes);
        put_id(r, r->ids.end);
    }
    if (m->tool_name) put_call(r, m);
}

// "Handling tool calls": {toolname} to=assistant
static void put_tool_result(struct renderer *r, const struct td_message *m)
{
    put_id(r, r->ids.start);
    td_text_puts(&r->text, "functions.");
    td_text_puts(&r->text, bare_name(m->tool_name));
    td_text_puts(&r->text, " to=assistant");
    put_text(r);
    put_id(r, r->ids.channel);
    put_string(r, "commentary");
    put_id(r, r->ids.message);
    put_bytes(r, m->content, m->content_bytes);
    put_id(r, r->ids.end);
}

// Names become part of headers and of code: what could be read as more than a name is refused.
static int check_name(const char *name, const char *what, struct td_error *err)
{
    if (!name || !*name || strlen(name) > 256)
        return td_fail(err, TD_EARG, "%s has no name, or one of more than 256 bytes", what);
    for (const char *p = name; *p; p++) {
        const bool is_ok = (*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') ||
                           (*p >= '0' && *p <= '9') || *p == '_' || *p == '-' || *p == '.';
        if (!is_ok)
            return td_fail(err, TD_EARG,
                           "%s '%.60s': a name has only letters, digits, '_', '-' and '.'", what,
                           name);
    }
    return TD_OK;
}

static int check_chat(const struct td_chat *chat, struct td_error *err)
{
    int code = TD_OK;
    for (size_t i = 0; !code && i < chat->n_tools; i++)
        code = check_name(chat->tools[i].name, "a tool", err);
    for (size_t i = 0; !code && i < chat->n_messages; i++) {
        const struct td_message *m = &chat->messages[i];
        if (m->role == TD_ROLE_TOOL)
            code = check_name(m->tool_name, "the tool of a tool message", err);
        if (m->role == TD_ROLE_ASSISTANT && m->tool_name)
            code = check_name(m->tool_name, "a called tool", err);
    }
    return code;
}

static bool is_instruction(const struct td_message *m)
{
    return m->role == TD_ROLE_SYSTEM || m->role == TD_ROLE_DEVELOPER;
}

// One past the last final answer: reasoning before it is dropped.
static size_t after_last_final(const struct td_chat *chat)
{
    for (size_t i = chat->n_messages; i > 0; i--) {
        const struct td_message *m = &chat->messages[i - 1];
        if (m->role == TD_ROLE_ASSISTANT && !m->tool_name && m->content) return i;
    }
    return 0;
}

static void put_mark(struct renderer *r, struct td_ids *marks)
{
    if (marks && r->code == TD_OK && td_ids_push(marks, (int32_t)r->out->n))
        r->code = td_fail(r->err, TD_ENOMEM, "no memory for the marks of the conversation");
}

static void put_message(struct renderer *r, size_t i, size_t i_open)
{
    const struct td_message *m = &r->chat->messages[i];
    switch (m->role) {
    case TD_ROLE_SYSTEM:
    case TD_ROLE_DEVELOPER: put_developer(r, i, i + 1, false); return;
    case TD_ROLE_USER:
        begin_plain(r, "user");
        put_bytes(r, m->content, m->content_bytes);
        put_id(r, r->ids.end);
        return;
    case TD_ROLE_ASSISTANT: put_assistant(r, m, i >= i_open); return;
    case TD_ROLE_TOOL: put_tool_result(r, m); return;
    }
}

int td_harmony_render(const struct td_tokenizer *t, const struct td_chat *chat, struct td_ids *out,
                      struct td_ids *marks, struct td_error *err)
{
    struct renderer r = {.t = t, .chat = chat, .out = out, .err = err};
    r.code = check_chat(chat, err);
    if (!r.code) r.code = td_harmony_ids_find(&r.ids, t, err);
    if (r.code) return r.code;
    const size_t n_before = out->n, n_marks = marks ? marks->n : 0;

    put_system(&r);
    // Instructions at the start are one message with the tools; later ones stand where they are.
    size_t n_first = 0;
    while (n_first < chat->n_messages && is_instruction(&chat->messages[n_first])) n_first++;
    put_developer(&r, 0, n_first, chat->n_tools > 0);
    for (size_t i = 0; i < n_first; i++) put_mark(&r, marks);

    const size_t i_open = after_last_final(chat);
    for (size_t i = n_first; i < chat->n_messages; i++) {
        put_message(&r, i, i_open);
        put_mark(&r, marks);
    }
    if (chat->add_generation_prompt) {
        put_id(&r, r.ids.start);
        put_string(&r, "assistant");
    }
    td_text_free(&r.text);
    if (r.code) {
        out->n = n_before;
        if (marks) marks->n = n_marks;
    }
    return r.code;
}
