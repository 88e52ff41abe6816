// SPDX-License-Identifier: MIT
#include "app/chat.h"

#include "base/clock.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { MAX_MESSAGES = 4096, MAX_TEXT_BYTES = 64 << 20 };

struct text {
    char *at;
    size_t n, cap;
};

struct td_conversation {
    struct td_app *app;
    struct td_chat_options options;
    struct td_session *session;
    struct td_sampler *sampler;
    struct td_harmony_parser *parser; // NULL: raw
    char date[16];                    // of the start: a new day must not change what was read

    struct td_message *messages;
    char **texts; // (n_messages) their contents, ours
    size_t n_messages, cap_messages;

    // The answer being written.
    struct text final;          // what becomes the assistant's message
    struct td_utf8_stream utf8; // raw
    bool to_terminal;           // stdout is one
    bool is_dimmed;             // the terminal is in dimmed state
    bool is_done;               // the model ended its answer
    bool has_newline;           // what was shown last ended a line
    bool has_shown;             // anything at all
};

static bool text_add(struct text *t, const char *bytes, size_t n)
{
    if (n > MAX_TEXT_BYTES || t->n + n > MAX_TEXT_BYTES) return false;
    if (t->n + n + 1 > t->cap) {
        const size_t cap = (t->n + n + 1) * 2;
        char *grown = realloc(t->at, cap);
        if (!grown) return false;
        t->at = grown;
        t->cap = cap;
    }
    if (n) memcpy(t->at + t->n, bytes, n);
    t->n += n;
    t->at[t->n] = '\0';
    return true;
}

static int add_message(struct td_conversation *c, enum td_role role, const char *text, size_t n,
                       struct td_error *err)
{
    if (c->n_messages == MAX_MESSAGES)
        return td_fail(err, TD_EFULL, "the conversation has %d messages", MAX_MESSAGES);
    if (c->n_messages == c->cap_messages) {
        const size_t cap = c->cap_messages ? c->cap_messages * 2 : 16;
        struct td_message *grown = realloc(c->messages, cap * sizeof(*grown));
        if (!grown) return td_fail(err, TD_ENOMEM, "no memory for the conversation");
        c->messages = grown;
        char **grown_texts = realloc(c->texts, cap * sizeof(char *));
        if (!grown_texts) return td_fail(err, TD_ENOMEM, "no memory for the conversation");
        c->texts = grown_texts;
        c->cap_messages = cap;
    }
    char *copy = malloc(n + 1);
    if (!copy) return td_fail(err, TD_ENOMEM, "no memory for a message of %zu bytes", n);
    if (n) memcpy(copy, text, n);
    copy[n] = '\0';
    c->texts[c->n_messages] = copy;
    c->messages[c->n_messages++] =
        (struct td_message){.role = role, .content = copy, .content_bytes = n};
    return TD_OK;
}

static void drop_messages(struct td_conversation *c, size_t n_kept)
{
    while (c->n_messages > n_kept) free(c->texts[--c->n_messages]);
}

int td_conversation_open(struct td_conversation **out, struct td_app *app,
                         const struct td_chat_options *options, struct td_error *err)
{
    *out = NULL;
    struct td_conversation *c = calloc(1, sizeof(*c));
    if (!c) return td_fail(err, TD_ENOMEM, "no memory for a conversation");
    c->app = app;
    c->options = *options;
    c->to_terminal = isatty(STDOUT_FILENO);
    const time_t now = time(NULL);
    struct tm local;
    if (localtime_r(&now, &local)) strftime(c->date, sizeof(c->date), "%Y-%m-%d", &local);

    int code = TD_OK;
    if (!options->raw && td_token_find(app->tokenizer, "<|start|>") < 0)
        code = td_fail(err, TD_EUNSUP,
                       "the model's vocabulary lacks the chat format's tokens (<|start|>); use "
                       "--raw to continue plain text");
    if (code == TD_OK) code = td_session_open(&c->session, app->engine, app->n_ctx, err);
    if (code == TD_OK)
        code = td_sampler_open(&c->sampler, &options->sampling, app->model->spec.n_vocab, err);
    if (code == TD_OK && !options->raw)
        code = td_harmony_parser_open(&c->parser, app->tokenizer, err);
    if (code == TD_OK && !options->raw && options->system && options->system[0])
        code = add_message(c, TD_ROLE_SYSTEM, options->system, strlen(options->system), err);
    if (code != TD_OK) {
        td_conversation_close(c);
        return code;
    }
    *out = c;
    return TD_OK;
}

void td_conversation_close(struct td_conversation *c)
{
    if (!c) return;
    td_app_on_interrupt(NULL);
    drop_messages(c, 0);
    free(c->messages);
    free((void *)c->texts);
    free(c->final.at);
    td_harmony_parser_close(c->parser);
    td_sampler_close(c->sampler);
    td_session_close(c->session);
    free(c);
}

void td_conversation_clear(struct td_conversation *c)
{
    drop_messages(c, c->n_messages && c->messages[0].role == TD_ROLE_SYSTEM ? 1 : 0);
}

static void set_dimmed(struct td_conversation *c, bool dimmed)
{
    if (dimmed == c->is_dimmed) return;
    c->is_dimmed = dimmed;
    if (c->to_terminal && !c->options.no_color) fputs(dimmed ? "\033[2m" : "\033[0m", stdout);
}

// Writes text; on a terminal without control characters, which a model could use to play with it.
static void show(struct td_conversation *c, const char *text, size_t n)
{
    if (n == 0) return;
    if (!c->to_terminal) {
        (void)fwrite(text, 1, n, stdout);
    } else {
        for (size_t i = 0; i < n; i++) {
            const unsigned char b = (unsigned char)text[i];
            fputc((b < 0x20 && b != '\n' && b != '\t') || b == 0x7f ? '?' : b, stdout);
        }
    }
    c->has_newline = text[n - 1] == '\n';
    c->has_shown = true;
}

static void end_line(struct td_conversation *c)
{
    if (c->has_shown && !c->has_newline) fputc('\n', stdout);
    c->has_newline = true;
}

// The model's stream as it is understood: reasoning dimmed, the answer kept and shown.
static void on_event(void *ctx, const struct td_chat_event *e)
{
    struct td_conversation *c = ctx;
    const bool is_final = e->channel == TD_CHANNEL_FINAL;
    const bool is_shown = is_final || c->to_terminal || c->options.show_reasoning;
    switch (e->kind) {
    case TD_CHAT_TEXT:
        if (is_final && !text_add(&c->final, e->text, e->text_bytes)) c->is_done = true;
        if (!is_shown) return;
        set_dimmed(c, !is_final);
        show(c, e->text, e->text_bytes);
        return;
    case TD_CHAT_TOOL_BEGIN:
    case TD_CHAT_TOOL_ARGS:
    case TD_CHAT_TOOL_END:
        // No tools were offered; a call is shown as what it is: part of the thinking.
        if (!c->to_terminal && !c->options.show_reasoning) return;
        set_dimmed(c, true);
        show(c, e->text, e->text_bytes);
        return;
    case TD_CHAT_MESSAGE_END:
        if (!is_shown) return;
        set_dimmed(c, false);
        end_line(c);
        if (!is_final && c->has_shown) fputc('\n', stdout);
        return;
    case TD_CHAT_DONE: c->is_done = true; return;
    }
}

static int feed_raw(struct td_conversation *c, int32_t token)
{
    if (td_token_ends_generation(c->app->tokenizer, token)) {
        c->is_done = true;
        return TD_OK;
    }
    const struct td_str bytes = td_token_bytes(c->app->tokenizer, token);
    for (size_t i = 0; i < bytes.size_bytes;) {
        char out[3 * 64 + 12];
        const size_t n = bytes.size_bytes - i < 64 ? bytes.size_bytes - i : 64;
        show(c, out, td_utf8_feed(&c->utf8, bytes.at + i, n, out));
        i += n;
    }
    return TD_OK;
}

static int render(struct td_conversation *c, const char *text, size_t size_bytes,
                  struct td_ids *ids, struct td_ids *marks, struct td_error *err)
{
    if (c->options.raw)
        return td_encode(c->app->tokenizer, text, size_bytes, c->options.parse_special, ids, err);
    const struct td_chat chat = {.current_date = c->date[0] ? c->date : NULL,
                                 .effort = c->options.effort,
                                 .messages = c->messages,
                                 .n_messages = c->n_messages,
                                 .add_generation_prompt = true};
    return td_harmony_render(c->app->tokenizer, &chat, ids, marks, err);
}

// Reads the prompt: only what is new is computed.
static int read_prompt(struct td_conversation *c, const struct td_ids *ids,
                       const struct td_ids *marks, struct td_chat_stats *stats,
                       struct td_error *err)
{
    if (ids->n == 0) return td_fail(err, TD_EARG, "the prompt is empty");
    if (ids->n >= c->app->n_ctx)
        return td_fail(err, TD_EFULL,
                       "the prompt has %zu tokens, the context holds %u and an answer needs room; "
                       "use --ctx %zu or more",
                       ids->n, c->app->n_ctx, ids->n + 1024);
    // Marks are token counts: the same bits, and never negative.
    uint32_t *at = malloc((marks->n ? marks->n : 1) * sizeof(*at));
    if (!at) return td_fail(err, TD_ENOMEM, "no memory for %zu marks", marks->n);
    uint32_t n_marks = 0;
    for (size_t i = 0; i < marks->n; i++)
        if (marks->at[i] > 0) at[n_marks++] = (uint32_t)marks->at[i];

    const uint64_t t0_ns = td_clock_ns();
    const int code = td_pair_sync(c->options.pair, c->session, ids->at, (uint32_t)ids->n, at,
                                  n_marks, &stats->prefill, err);
    free(at);
    stats->prompt_seconds = (double)(td_clock_ns() - t0_ns) * 1e-9;
    stats->n_prompt = (uint32_t)ids->n;
    stats->n_reused =
        stats->prefill.n_tokens ? stats->prefill.n_have : td_session_reused(c->session);
    return code;
}

static int write_answer(struct td_conversation *c, struct td_chat_stats *stats,
                        struct td_error *err)
{
    int code = TD_OK;
    uint64_t first_ns = 0, last_ns = 0;
    stats->stop_reason = "end";
    while (!c->is_done || c->options.ignore_end) {
        if (c->options.max_tokens && stats->n_generated == c->options.max_tokens) {
            stats->stop_reason = "length";
            break;
        }
        int32_t token;
        code = td_app_interrupted() ? TD_ECANCEL
                                    : td_session_next(c->session, c->sampler, &token, err);
        if (code != TD_OK) break;
        last_ns = td_clock_ns();
        if (stats->n_generated++ == 0) first_ns = last_ns;
        code = c->parser ? td_harmony_feed(c->parser, token, on_event, c, err) : feed_raw(c, token);
        if (code != TD_OK) break;
        if (td_app_flush() != TD_EXIT_OK) {
            stats->stop_reason = "output closed";
            break;
        }
    }
    stats->decode_seconds = (double)(last_ns - first_ns) * 1e-9;
    struct td_pair *pair = c->options.pair;
    if (pair && pair->remote && stats->n_generated > 1)
        td_remote_saw_decode(pair->remote, stats->n_prompt, stats->n_generated - 1,
                             stats->decode_seconds);
    if (code == TD_EFULL || code == TD_ECANCEL) {
        stats->stop_reason = code == TD_EFULL ? "context" : "interrupted";
        code = TD_OK;
    }
    if (code == TD_OK && c->parser) code = td_harmony_finish(c->parser, on_event, c, err);
    if (code == TD_OK && !c->parser) {
        char out[16];
        show(c, out, td_utf8_finish(&c->utf8, out));
    }
    return code;
}

static int answer(struct td_conversation *c, const char *text, size_t size_bytes,
                  struct td_chat_stats *stats, struct td_error *err)
{
    struct td_ids ids = {0}, marks = {0};
    const uint64_t t0_ns = td_clock_ns();
    int code = render(c, text, size_bytes, &ids, &marks, err);
    if (code == TD_OK) code = read_prompt(c, &ids, &marks, stats, err);
    td_ids_free(&ids);
    td_ids_free(&marks);
    if (code == TD_ECANCEL) {
        stats->stop_reason = "interrupted";
        return TD_OK;
    }
    if (code != TD_OK) return code;
    stats->ttft_seconds = (double)(td_clock_ns() - t0_ns) * 1e-9;
    code = write_answer(c, stats, err);
    set_dimmed(c, false);
    end_line(c);
    (void)td_app_flush();
    return code;
}

int td_conversation_say(struct td_conversation *c, const char *text, size_t size_bytes,
                        struct td_chat_stats *stats, struct td_error *err)
{
    *stats = (struct td_chat_stats){0};
    const size_t n_before = c->n_messages;
    int code = c->options.raw ? TD_OK : add_message(c, TD_ROLE_USER, text, size_bytes, err);
    if (code != TD_OK) return code;
    c->final.n = 0;
    c->utf8 = (struct td_utf8_stream){0};
    c->is_dimmed = c->is_done = c->has_newline = c->has_shown = false;
    td_app_on_interrupt(c->session);
    code = answer(c, text, size_bytes, stats, err);
    td_app_on_interrupt(NULL);
    // Stopped before anything was answered: as if it had not been asked.
    if (code == TD_OK && c->final.n == 0 && strcmp(stats->stop_reason, "interrupted") == 0)
        drop_messages(c, n_before);
    else if (code == TD_OK && !c->options.raw)
        code = add_message(c, TD_ROLE_ASSISTANT, c->final.at ? c->final.at : "", c->final.n, err);
    if (code != TD_OK) drop_messages(c, n_before);
    return code;
}
