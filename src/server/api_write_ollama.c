// SPDX-License-Identifier: MIT
// POST /api/chat and /api/generate: the answers, one JSON object, or one a line. They differ in
// where the text stands: message.content and message.thinking, or response and thinking.
#include "server/api_impl.h"

#include "base/clock.h"

#include <stdlib.h>
#include <string.h>

static bool is_chat(const struct td_api_reply *r)
{
    return r->dialect == &td_dialect_ollama_chat;
}

static void put_now(struct td_buf *b)
{
    struct timespec now = {0};
    struct tm utc;
    char text[32] = "1970-01-01T00:00:00", stamp[48];
    (void)clock_gettime(CLOCK_REALTIME, &now);
    if (gmtime_r(&now.tv_sec, &utc)) strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &utc);
    (void)snprintf(stamp, sizeof(stamp), "%s.%09ldZ", text, (long)now.tv_nsec);
    td_put_str(b, "created_at", stamp);
}

static void begin_object(struct td_api_reply *r, struct td_buf *b)
{
    td_put_open(b, NULL, '{');
    td_put_str(b, "model", r->ask->model ? r->ask->model : r->cfg->model_name);
    put_now(b);
}

static void end_object(struct td_api_reply *r, struct td_buf *b)
{
    td_put_close(b, '}');
    if (r->is_stream) td_buf_put(b, "\n", 1);
}

// The arguments are an object here; what the model wrote need not be one.
static void put_args(struct td_buf *b, const struct td_call *call)
{
    json_t *args = json_loadb(call->args.at ? call->args.at : "", call->args.n, 0, NULL);
    if (json_is_object(args)) {
        td_put_json(b, "arguments", args);
    } else {
        td_put_open(b, "arguments", '{');
        if (call->args.n > 0) td_put_text(b, "_not_json", call->args.at, call->args.n);
        td_put_close(b, '}');
    }
    json_decref(args);
}

static void put_calls(struct td_buf *b, const struct td_call *calls, size_t n)
{
    if (n == 0) return;
    td_put_open(b, "tool_calls", '[');
    for (size_t i = 0; i < n; i++) {
        td_put_open(b, NULL, '{');
        td_put_str(b, "id", calls[i].id);
        td_put_open(b, "function", '{');
        td_put_str(b, "name", calls[i].name);
        put_args(b, &calls[i]);
        td_put_close(b, '}');
        td_put_close(b, '}');
    }
    td_put_close(b, ']');
}

struct said {
    struct td_str text, thinking;
    const struct td_call *calls;
    size_t n_calls;
};

static void put_said(struct td_api_reply *r, struct td_buf *b, const struct said *s)
{
    if (is_chat(r)) {
        td_put_open(b, "message", '{');
        td_put_str(b, "role", "assistant");
        td_put_text(b, "content", s->text.at, s->text.size_bytes);
    } else {
        td_put_text(b, "response", s->text.at, s->text.size_bytes);
    }
    if (s->thinking.size_bytes > 0)
        td_put_text(b, "thinking", s->thinking.at, s->thinking.size_bytes);
    put_calls(b, s->calls, s->n_calls);
    if (is_chat(r)) td_put_close(b, '}');
}

static void put_logprobs(struct td_api_reply *r, const struct td_job_token *tokens, size_t n)
{
    if (n == 0) return;
    td_put_open(&r->out, "logprobs", '[');
    for (size_t i = 0; i < n; i++) td_put_token(r, &tokens[i], true);
    td_put_close(&r->out, ']');
}

static uint64_t ns_of(double seconds)
{
    return seconds > 0 ? (uint64_t)(seconds * 1e9) : 0;
}

static void put_end(struct td_api_reply *r, const struct td_choice *c)
{
    struct td_buf *b = &r->out;
    const struct td_job_stats *s = &c->stats;
    td_put_bool(b, "done", true);
    td_put_str(b, "done_reason", c->end == TD_JOB_LENGTH ? "length" : "stop");
    td_put_u64(b, "total_duration", td_clock_ns() - r->begin_ns);
    td_put_u64(b, "load_duration", ns_of(s->queue_seconds));
    td_put_u64(b, "prompt_eval_count", s->n_prompt);
    td_put_u64(b, "prompt_eval_duration", ns_of(s->prompt_seconds));
    td_put_u64(b, "eval_count", s->n_written);
    td_put_u64(b, "eval_duration", ns_of(s->decode_seconds));
}

static void begin(struct td_api_reply *r)
{
    (void)r;
}

static void put_line(struct td_api_reply *r, const struct said *s, const struct td_job_event *e)
{
    begin_object(r, &r->out);
    put_said(r, &r->out, s);
    if (e) put_logprobs(r, e->tokens, e->n_tokens);
    td_put_bool(&r->out, "done", false);
    end_object(r, &r->out);
}

static void event(struct td_api_reply *r, struct td_choice *c, const struct td_job_event *e)
{
    struct said s = {.text = {"", 0}};
    switch (e->kind) {
    case TD_JOB_TEXT: {
        const bool is_thought = e->channel == TD_CHANNEL_ANALYSIS;
        *(is_thought ? &s.thinking : &s.text) = (struct td_str){e->text, e->text_bytes};
        put_line(r, &s, is_thought ? NULL : e);
        return;
    }
    case TD_JOB_TOOL_END:
        if (c->n_calls == 0) return;
        s.calls = &c->calls[c->n_calls - 1];
        s.n_calls = 1;
        put_line(r, &s, NULL);
        return;
    case TD_JOB_PROGRESS: // said when the stream is silent
    case TD_JOB_TOOL_BEGIN:
    case TD_JOB_TOOL_ARGS:
    case TD_JOB_END:
    case TD_JOB_FAILED: return;
    }
}

static void finish(struct td_api_reply *r)
{
    begin_object(r, &r->out);
    put_said(r, &r->out, &(struct said){.text = {"", 0}});
    put_end(r, &r->choices[0]);
    end_object(r, &r->out);
}

static void whole(struct td_api_reply *r)
{
    struct td_choice *c = &r->choices[0];
    struct said s = {.text = {c->content.at, c->content.n}, .calls = c->calls};
    if (r->ask->shows_reasoning) s.thinking = (struct td_str){c->reasoning.at, c->reasoning.n};
    while (s.n_calls < c->n_calls && c->calls[s.n_calls].is_done) s.n_calls++;
    begin_object(r, &r->out);
    put_said(r, &r->out, &s);
    put_logprobs(r, c->tokens, c->n_tokens);
    put_end(r, c);
    end_object(r, &r->out);
}

void td_ollama_load(struct td_api_reply *r)
{
    if (r->is_stream) r->content_type = r->dialect->stream_type;
    begin_object(r, &r->out);
    put_said(r, &r->out, &(struct said){.text = {"", 0}});
    td_put_bool(&r->out, "done", true);
    td_put_str(&r->out, "done_reason", "load");
    end_object(r, &r->out);
    r->is_settled = r->is_done = true;
}

static void fail(struct td_api_reply *r, const struct td_fault *fault)
{
    td_put_fault(&r->out, fault, true);
    td_buf_put(&r->out, "\n", 1);
}

// A line that says nothing: the format has no comments, and clients read every line.
static void keep_alive(struct td_api_reply *r, struct td_buf *b)
{
    begin_object(r, b);
    put_said(r, b, &(struct said){.text = {"", 0}});
    td_put_bool(b, "done", false);
    end_object(r, b);
}

const struct td_dialect td_dialect_ollama_chat = {
    .stream_type = "application/x-ndjson",
    .is_ollama = true,
    .joins_commentary = true,
    .keeps_request = true,
    .id_prefix = "",
    .begin = begin,
    .event = event,
    .finish = finish,
    .whole = whole,
    .fail = fail,
    .keep_alive = keep_alive,
};

const struct td_dialect td_dialect_ollama_generate = {
    .stream_type = "application/x-ndjson",
    .is_ollama = true,
    .joins_commentary = true,
    .keeps_request = true,
    .id_prefix = "",
    .begin = begin,
    .event = event,
    .finish = finish,
    .whole = whole,
    .fail = fail,
    .keep_alive = keep_alive,
};
