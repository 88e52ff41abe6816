// SPDX-License-Identifier: MIT
// POST /v1/chat/completions: the answer, whole or in chunks. reasoning_content, timings, prefill
// and prompt_progress are as llama-server's clients know them.
#include "server/api_impl.h"

#include <string.h>

static void put_head(struct td_api_reply *r, const char *object)
{
    struct td_buf *b = &r->out;
    td_put_open(b, NULL, '{');
    td_put_str(b, "id", r->id);
    td_put_str(b, "object", object);
    td_put_u64(b, "created", (uint64_t)r->created);
    td_put_str(b, "model", r->cfg->model_name);
    td_put_str(b, "system_fingerprint", r->cfg->version);
}

static void begin_chunk(struct td_api_reply *r)
{
    td_buf_puts(&r->out, "data: ");
    put_head(r, "chat.completion.chunk");
}

static void end_chunk(struct td_api_reply *r)
{
    td_put_close(&r->out, '}');
    td_buf_puts(&r->out, "\n\n");
}

static void begin_delta(struct td_api_reply *r, const struct td_choice *c)
{
    begin_chunk(r);
    td_put_open(&r->out, "choices", '[');
    td_put_open(&r->out, NULL, '{');
    td_put_u64(&r->out, "index", c->i);
    td_put_open(&r->out, "delta", '{');
}

static void put_logprobs(struct td_api_reply *r, const struct td_job_token *tokens, size_t n)
{
    td_put_open(&r->out, "logprobs", '{');
    td_put_open(&r->out, "content", '[');
    for (size_t i = 0; i < n; i++) td_put_token(r, &tokens[i], true);
    td_put_close(&r->out, ']');
    td_put_null(&r->out, "refusal");
    td_put_close(&r->out, '}');
}

static void end_choice(struct td_api_reply *r, const struct td_job_event *e, const char *finish)
{
    td_put_close(&r->out, '}'); // delta
    if (e && e->n_tokens > 0) put_logprobs(r, e->tokens, e->n_tokens);
    td_put_str(&r->out, "finish_reason", finish);
    td_put_close(&r->out, '}');
    td_put_close(&r->out, ']'); // choices
}

static void begin(struct td_api_reply *r)
{
    for (uint32_t i = 0; i < r->n_choices; i++) {
        begin_delta(r, &r->choices[i]);
        td_put_str(&r->out, "role", "assistant");
        td_put_str(&r->out, "content", "");
        end_choice(r, NULL, NULL);
        end_chunk(r);
    }
}

static void put_call_begin(struct td_api_reply *r, const struct td_choice *c)
{
    const struct td_call *call = &c->calls[c->n_calls - 1];
    struct td_buf *b = &r->out;
    begin_delta(r, c);
    td_put_open(b, "tool_calls", '[');
    td_put_open(b, NULL, '{');
    td_put_u64(b, "index", c->n_calls - 1);
    td_put_str(b, "id", call->id);
    td_put_str(b, "type", "function");
    td_put_open(b, "function", '{');
    td_put_str(b, "name", call->name);
    td_put_str(b, "arguments", "");
    td_put_close(b, '}');
    td_put_close(b, '}');
    td_put_close(b, ']');
    end_choice(r, NULL, NULL);
    end_chunk(r);
}

static void put_call_args(struct td_api_reply *r, const struct td_choice *c,
                          const struct td_job_event *e)
{
    struct td_buf *b = &r->out;
    begin_delta(r, c);
    td_put_open(b, "tool_calls", '[');
    td_put_open(b, NULL, '{');
    td_put_u64(b, "index", c->n_calls - 1);
    td_put_open(b, "function", '{');
    td_put_text(b, "arguments", e->text, e->text_bytes);
    td_put_close(b, '}');
    td_put_close(b, '}');
    td_put_close(b, ']');
    end_choice(r, NULL, NULL);
    end_chunk(r);
}

static void put_progress(struct td_api_reply *r, struct td_choice *c, const struct td_job_event *e)
{
    if (!r->ask->return_progress) {
        char comment[64];
        (void)snprintf(comment, sizeof(comment), ": progress %u/%u\n\n", e->n_done, e->n_prompt);
        td_buf_puts(&r->out, comment);
        return;
    }
    begin_delta(r, c);
    end_choice(r, NULL, NULL);
    td_put_progress(r, c, e);
    end_chunk(r);
}

static void event(struct td_api_reply *r, struct td_choice *c, const struct td_job_event *e)
{
    switch (e->kind) {
    case TD_JOB_PROGRESS: put_progress(r, c, e); return;
    case TD_JOB_TEXT:
        if (e->text_bytes == 0 && e->n_tokens == 0) return;
        begin_delta(r, c);
        td_put_text(&r->out, e->channel == TD_CHANNEL_ANALYSIS ? "reasoning_content" : "content",
                    e->text, e->text_bytes);
        end_choice(r, e->channel == TD_CHANNEL_ANALYSIS ? NULL : e, NULL);
        end_chunk(r);
        return;
    case TD_JOB_TOOL_BEGIN: put_call_begin(r, c); return;
    case TD_JOB_TOOL_ARGS:
        if (c->n_calls > 0 && e->text_bytes > 0) put_call_args(r, c, e);
        return;
    case TD_JOB_END:
        begin_delta(r, c);
        end_choice(r, NULL, td_reply_finish_text(c));
        td_put_timings(&r->out, c);
        end_chunk(r);
        return;
    case TD_JOB_TOOL_END:
    case TD_JOB_FAILED: return;
    }
}

static void finish(struct td_api_reply *r)
{
    if (r->ask->include_usage) {
        begin_chunk(r);
        td_put_open(&r->out, "choices", '[');
        td_put_close(&r->out, ']');
        td_put_usage(r, &r->out);
        end_chunk(r);
    }
    td_buf_puts(&r->out, "data: [DONE]\n\n");
}

static void put_calls(struct td_buf *b, const struct td_choice *c)
{
    if (c->n_calls == 0) return;
    td_put_open(b, "tool_calls", '[');
    for (size_t i = 0; i < c->n_calls; i++) {
        const struct td_call *call = &c->calls[i];
        td_put_open(b, NULL, '{');
        td_put_str(b, "id", call->id);
        td_put_str(b, "type", "function");
        td_put_open(b, "function", '{');
        td_put_str(b, "name", call->name);
        td_put_text(b, "arguments", call->args.at, call->args.n);
        td_put_close(b, '}');
        td_put_close(b, '}');
    }
    td_put_close(b, ']');
}

static void whole(struct td_api_reply *r)
{
    struct td_buf *b = &r->out;
    put_head(r, "chat.completion");
    td_put_open(b, "choices", '[');
    for (uint32_t i = 0; i < r->n_choices; i++) {
        const struct td_choice *c = &r->choices[i];
        td_put_open(b, NULL, '{');
        td_put_u64(b, "index", c->i);
        td_put_open(b, "message", '{');
        td_put_str(b, "role", "assistant");
        if (c->content.n == 0 && c->n_calls > 0)
            td_put_null(b, "content");
        else
            td_put_text(b, "content", c->content.at, c->content.n);
        td_put_null(b, "refusal");
        if (c->reasoning.n > 0 && r->ask->shows_reasoning)
            td_put_text(b, "reasoning_content", c->reasoning.at, c->reasoning.n);
        put_calls(b, c);
        td_put_close(b, '}');
        if (r->ask->wants_logprobs)
            put_logprobs(r, c->tokens, c->n_tokens);
        else
            td_put_null(b, "logprobs");
        td_put_str(b, "finish_reason", td_reply_finish_text(c));
        td_put_close(b, '}');
    }
    td_put_close(b, ']');
    td_put_usage(r, b);
    td_put_timings(b, &r->choices[0]);
    td_put_close(b, '}');
}

const struct td_dialect td_dialect_chat = {
    .stream_type = "text/event-stream",
    .joins_commentary = true,
    .id_prefix = "chatcmpl-",
    .begin = begin,
    .event = event,
    .finish = finish,
    .whole = whole,
    .fail = td_sse_fail,
    .keep_alive = td_sse_keep_alive,
};
