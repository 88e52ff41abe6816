// SPDX-License-Identifier: MIT
// POST /v1/responses: the answer as items (reasoning, messages, calls), whole or as the events that
// build it up. Both go the same way: without a stream the events are not written.
#include "server/api_impl.h"

#include <string.h>

// ---- Events ----

// False: nobody reads it.
static bool begin_event(struct td_api_reply *r, const char *type)
{
    if (!r->is_stream) return false;
    td_buf_puts(&r->out, "event: ");
    td_buf_puts(&r->out, type);
    td_buf_puts(&r->out, "\ndata: ");
    td_put_open(&r->out, NULL, '{');
    td_put_str(&r->out, "type", type);
    td_put_u64(&r->out, "sequence_number", r->sequence++);
    return true;
}

static void end_event(struct td_api_reply *r)
{
    td_put_close(&r->out, '}');
    td_buf_puts(&r->out, "\n\n");
}

// ---- The response ----

static void put_settings(struct td_api_reply *r)
{
    struct td_buf *b = &r->out;
    const struct td_ask *a = r->ask;
    const json_t *o = a->root;
    static const char *const efforts[] = {"low", "medium", "high"};
    td_put_json(b, "instructions", json_object_get(o, "instructions"));
    if (json_is_object(json_object_get(o, "metadata"))) {
        td_put_json(b, "metadata", json_object_get(o, "metadata"));
    } else {
        td_put_open(b, "metadata", '{');
        td_put_close(b, '}');
    }
    td_put_json(b, "max_output_tokens", json_object_get(o, "max_output_tokens"));
    td_put_bool(b, "parallel_tool_calls",
                !json_is_false(json_object_get(o, "parallel_tool_calls")));
    td_put_null(b, "previous_response_id");
    td_put_open(b, "reasoning", '{');
    td_put_str(b, "effort", a->no_reasoning ? "none" : efforts[a->effort]);
    td_put_null(b, "summary");
    td_put_close(b, '}');
    td_put_bool(b, "store", false);
    td_put_bool(b, "background", false);
    td_put_f64(b, "temperature", (double)a->sampling.temp);
    td_put_f64(b, "top_p", (double)a->sampling.top_p);
    td_put_open(b, "text", '{');
    td_put_open(b, "format", '{');
    td_put_str(b, "type", "text");
    td_put_close(b, '}');
    td_put_close(b, '}');
    if (td_read_get(o, "tool_choice"))
        td_put_json(b, "tool_choice", json_object_get(o, "tool_choice"));
    else
        td_put_str(b, "tool_choice", "auto");
    if (td_read_get(o, "tools")) {
        td_put_json(b, "tools", json_object_get(o, "tools"));
    } else {
        td_put_open(b, "tools", '[');
        td_put_close(b, ']');
    }
    td_put_str(b, "truncation", "disabled");
}

static void put_response_usage(struct td_api_reply *r)
{
    struct td_buf *b = &r->out;
    struct td_api_usage u;
    td_reply_usage(r, &u);
    td_put_open(b, "usage", '{');
    td_put_u64(b, "input_tokens", u.n_prompt);
    td_put_open(b, "input_tokens_details", '{');
    td_put_u64(b, "cached_tokens", u.n_reused);
    td_put_close(b, '}');
    td_put_u64(b, "output_tokens", u.n_written);
    td_put_open(b, "output_tokens_details", '{');
    td_put_u64(b, "reasoning_tokens", u.n_reasoning);
    td_put_close(b, '}');
    td_put_u64(b, "total_tokens", (uint64_t)u.n_prompt + u.n_written);
    td_put_close(b, '}');
}

// status: "in_progress", "completed", "incomplete", "failed".
static void put_response(struct td_api_reply *r, const char *key, const char *status,
                         const struct td_fault *fault)
{
    struct td_buf *b = &r->out;
    const bool is_over = strcmp(status, "in_progress") != 0;
    td_put_open(b, key, '{');
    td_put_str(b, "id", r->id);
    td_put_str(b, "object", "response");
    td_put_u64(b, "created_at", (uint64_t)r->created);
    td_put_str(b, "status", status);
    if (strcmp(status, "completed") == 0) td_put_u64(b, "completed_at", (uint64_t)time(NULL));
    if (fault) {
        td_put_open(b, "error", '{');
        td_put_str(b, "code", "server_error");
        td_put_str(b, "message", fault->message);
        td_put_close(b, '}');
    } else {
        td_put_null(b, "error");
    }
    if (strcmp(status, "incomplete") == 0) {
        td_put_open(b, "incomplete_details", '{');
        td_put_str(b, "reason", "max_output_tokens");
        td_put_close(b, '}');
    } else {
        td_put_null(b, "incomplete_details");
    }
    td_put_str(b, "model", r->cfg->model_name);
    td_put_open(b, "output", '[');
    if (is_over) td_buf_put(b, r->items.at ? r->items.at : "", r->items.n);
    td_put_close(b, ']');
    put_settings(r);
    if (is_over && !fault) {
        put_response_usage(r);
        td_put_timings(b, &r->choices[0]);
    } else {
        td_put_null(b, "usage");
    }
    td_put_close(b, '}');
}

// ---- Items ----

static bool is_message(const struct td_item *item)
{
    return item->kind == TD_ITEM_COMMENTARY || item->kind == TD_ITEM_FINAL;
}

static struct td_str item_text(const struct td_choice *c)
{
    const struct td_buf *b = c->item.kind == TD_ITEM_REASONING ? &c->reasoning : &c->content;
    return b->at ? (struct td_str){b->at + c->item.from, c->item.n} : (struct td_str){"", 0};
}

// The tokens of [from, n) of the choice, as list `logprobs`.
static void put_logprobs(struct td_api_reply *r, const struct td_job_token *tokens, size_t n,
                         bool has_bytes)
{
    td_put_open(&r->out, "logprobs", '[');
    for (size_t i = 0; i < n; i++) td_put_token(r, &tokens[i], has_bytes);
    td_put_close(&r->out, ']');
}

static size_t item_tokens(const struct td_choice *c, const struct td_job_token **out)
{
    *out = c->tokens ? c->tokens + c->item.from_token : NULL;
    return c->item.n_tokens;
}

static void put_part(struct td_api_reply *r, struct td_choice *c, const char *key, bool is_done)
{
    struct td_buf *b = &r->out;
    const struct td_str text = is_done ? item_text(c) : (struct td_str){"", 0};
    td_put_open(b, key, '{');
    if (is_message(&c->item)) {
        const struct td_job_token *tokens = NULL;
        const size_t n = item_tokens(c, &tokens);
        td_put_str(b, "type", "output_text");
        td_put_text(b, "text", text.at, text.size_bytes);
        td_put_open(b, "annotations", '[');
        td_put_close(b, ']');
        put_logprobs(r, tokens, is_done ? n : 0, true);
    } else {
        td_put_str(b, "type", "reasoning_text");
        td_put_text(b, "text", text.at, text.size_bytes);
    }
    td_put_close(b, '}');
}

// Into r->out. status: as of the response.
static void put_item(struct td_api_reply *r, struct td_choice *c, const char *key,
                     const char *status)
{
    struct td_buf *b = &r->out;
    const bool is_done = strcmp(status, "in_progress") != 0;
    td_put_open(b, key, '{');
    td_put_str(b, "id", c->item.id);
    if (c->item.kind == TD_ITEM_CALL) {
        const struct td_call *call = &c->calls[c->n_calls - 1];
        td_put_str(b, "type", "function_call");
        td_put_str(b, "status", status);
        td_put_str(b, "call_id", call->id);
        td_put_str(b, "name", call->name);
        td_put_text(b, "arguments", call->args.at, is_done ? call->args.n : 0);
    } else {
        td_put_str(b, "type", is_message(&c->item) ? "message" : "reasoning");
        td_put_str(b, "status", status);
        if (is_message(&c->item)) {
            td_put_str(b, "role", "assistant");
            td_put_str(b, "phase", c->item.kind == TD_ITEM_FINAL ? "final_answer" : "commentary");
        } else {
            td_put_open(b, "summary", '[');
            td_put_close(b, ']');
        }
        td_put_open(b, "content", '[');
        if (is_done) put_part(r, c, NULL, true);
        td_put_close(b, ']');
    }
    td_put_close(b, '}');
}

static void put_item_place(struct td_api_reply *r, const struct td_choice *c)
{
    td_put_str(&r->out, "item_id", c->item.id);
    td_put_u64(&r->out, "output_index", r->n_items);
    if (c->item.kind != TD_ITEM_CALL) td_put_u64(&r->out, "content_index", 0);
}

static void open_item(struct td_api_reply *r, struct td_choice *c, enum td_item_kind kind,
                      const struct td_job_event *e)
{
    const char *const prefix = kind == TD_ITEM_CALL        ? "fc_"
                               : kind == TD_ITEM_REASONING ? "rs_"
                                                           : "msg_";
    const struct td_buf *text = kind == TD_ITEM_REASONING ? &c->reasoning : &c->content;
    c->item = (struct td_item){.kind = kind};
    if (kind != TD_ITEM_CALL) {
        // The event is in the choice already.
        c->item.from = text->n - e->text_bytes;
        c->item.from_token = c->n_tokens - (is_message(&c->item) ? e->n_tokens : 0);
    }
    td_reply_new_id(r, prefix, c->item.id);
    if (begin_event(r, "response.output_item.added")) {
        td_put_u64(&r->out, "output_index", r->n_items);
        put_item(r, c, "item", "in_progress");
        end_event(r);
    }
    if (kind != TD_ITEM_CALL && begin_event(r, "response.content_part.added")) {
        put_item_place(r, c);
        put_part(r, c, "part", false);
        end_event(r);
    }
}

static void close_text(struct td_api_reply *r, struct td_choice *c)
{
    const struct td_str text = item_text(c);
    if (begin_event(r, is_message(&c->item) ? "response.output_text.done"
                                            : "response.reasoning_text.done")) {
        put_item_place(r, c);
        td_put_text(&r->out, "text", text.at, text.size_bytes);
        if (is_message(&c->item)) {
            const struct td_job_token *tokens = NULL;
            const size_t n = item_tokens(c, &tokens);
            put_logprobs(r, tokens, n, false);
        }
        end_event(r);
    }
    if (begin_event(r, "response.content_part.done")) {
        put_item_place(r, c);
        put_part(r, c, "part", true);
        end_event(r);
    }
}

static void close_item(struct td_api_reply *r, struct td_choice *c, bool is_cut)
{
    const char *status = is_cut ? "incomplete" : "completed";
    if (c->item.kind == TD_ITEM_NONE) return;
    if (c->item.kind != TD_ITEM_CALL) {
        close_text(r, c);
    } else if (begin_event(r, "response.function_call_arguments.done")) {
        const struct td_call *call = &c->calls[c->n_calls - 1];
        put_item_place(r, c);
        td_put_str(&r->out, "name", call->name);
        td_put_text(&r->out, "arguments", call->args.at, call->args.n);
        end_event(r);
    }
    if (begin_event(r, "response.output_item.done")) {
        td_put_u64(&r->out, "output_index", r->n_items);
        put_item(r, c, "item", status);
        end_event(r);
    }
    // Written once more at the end of what is there, and moved to the items.
    const size_t n = r->out.n;
    td_buf_put(&r->out, "\n", 1);
    put_item(r, c, NULL, status);
    if (r->items.n > 0) td_buf_put(&r->items, ",", 1);
    if (!r->out.no_memory) td_buf_put(&r->items, r->out.at + n + 1, r->out.n - n - 1);
    r->out.n = n;
    r->n_items++;
    c->item.kind = TD_ITEM_NONE;
}

// ---- The dialect ----

static void put_status(struct td_api_reply *r, const char *type, const char *status,
                       const struct td_fault *fault)
{
    if (!begin_event(r, type)) return;
    put_response(r, "response", status, fault);
    end_event(r);
}

static void begin(struct td_api_reply *r)
{
    put_status(r, "response.created", "in_progress", NULL);
    put_status(r, "response.in_progress", "in_progress", NULL);
}

static void put_text(struct td_api_reply *r, struct td_choice *c, const struct td_job_event *e)
{
    static const enum td_item_kind kinds[] = {
        [TD_CHANNEL_ANALYSIS] = TD_ITEM_REASONING,
        [TD_CHANNEL_COMMENTARY] = TD_ITEM_COMMENTARY,
        [TD_CHANNEL_FINAL] = TD_ITEM_FINAL,
    };
    const enum td_item_kind kind = kinds[e->channel];
    if (e->text_bytes == 0 && e->n_tokens == 0) return;
    if (c->item.kind != kind) {
        close_item(r, c, false);
        open_item(r, c, kind, e);
    }
    c->item.n += e->text_bytes;
    if (is_message(&c->item)) c->item.n_tokens += e->n_tokens;
    if (!begin_event(r, is_message(&c->item) ? "response.output_text.delta"
                                             : "response.reasoning_text.delta"))
        return;
    put_item_place(r, c);
    td_put_text(&r->out, "delta", e->text, e->text_bytes);
    if (is_message(&c->item)) put_logprobs(r, e->tokens, e->n_tokens, false);
    end_event(r);
}

static void event(struct td_api_reply *r, struct td_choice *c, const struct td_job_event *e)
{
    switch (e->kind) {
    case TD_JOB_PROGRESS:
        if (r->is_stream) {
            char comment[64];
            (void)snprintf(comment, sizeof(comment), ": progress %u/%u\n\n", e->n_done,
                           e->n_prompt);
            td_buf_puts(&r->out, comment);
        }
        return;
    case TD_JOB_TEXT: put_text(r, c, e); return;
    case TD_JOB_TOOL_BEGIN:
        close_item(r, c, false);
        open_item(r, c, TD_ITEM_CALL, e);
        return;
    case TD_JOB_TOOL_ARGS:
        if (c->item.kind != TD_ITEM_CALL || e->text_bytes == 0) return;
        if (!begin_event(r, "response.function_call_arguments.delta")) return;
        put_item_place(r, c);
        td_put_text(&r->out, "delta", e->text, e->text_bytes);
        end_event(r);
        return;
    case TD_JOB_TOOL_END:
        if (c->item.kind == TD_ITEM_CALL) close_item(r, c, false);
        return;
    case TD_JOB_END: close_item(r, c, e->end == TD_JOB_LENGTH); return;
    case TD_JOB_FAILED: return;
    }
}

static void finish(struct td_api_reply *r)
{
    const bool is_cut = r->choices[0].end == TD_JOB_LENGTH;
    put_status(r, is_cut ? "response.incomplete" : "response.completed",
               is_cut ? "incomplete" : "completed", NULL);
}

static void whole(struct td_api_reply *r)
{
    put_response(r, NULL, r->choices[0].end == TD_JOB_LENGTH ? "incomplete" : "completed", NULL);
}

static void fail(struct td_api_reply *r, const struct td_fault *fault)
{
    close_item(r, &r->choices[0], true);
    put_status(r, "response.failed", "failed", fault);
}

static void keep_alive(struct td_api_reply *r, struct td_buf *b)
{
    (void)r;
    td_buf_puts(b, ": still here\n\n");
}

const struct td_dialect td_dialect_responses = {
    .stream_type = "text/event-stream",
    .wants_events = true,
    .keeps_request = true,
    .id_prefix = "resp_",
    .begin = begin,
    .event = event,
    .finish = finish,
    .whole = whole,
    .fail = fail,
    .keep_alive = keep_alive,
};
