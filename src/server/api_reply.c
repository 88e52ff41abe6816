// SPDX-License-Identifier: MIT
// An answer on its way: events of its jobs -> choices -> bytes for the client.
#include "server/api_impl.h"

#include "base/clock.h"
#include "base/num.h"

#include <stdlib.h>
#include <string.h>

// A stream's bytes that wait for their reader before more events are taken.
enum { MAX_WAITING_BYTES = 64 << 10 };

// ---- Errors ----

static const char *type_of(unsigned status)
{
    switch (status) {
    case 401: return "authentication_error";
    case 403: return "permission_error";
    case 404: return "not_found_error";
    case 429: return "rate_limit_error";
    case 503: return "overloaded_error";
    default: return status >= 500 ? "server_error" : "invalid_request_error";
    }
}

void td_put_fault(struct td_buf *b, const struct td_fault *fault, bool is_ollama)
{
    td_put_open(b, NULL, '{');
    if (is_ollama) {
        td_put_str(b, "error", fault->message);
    } else {
        td_put_open(b, "error", '{');
        td_put_str(b, "message", fault->message);
        td_put_str(b, "type", type_of(fault->status));
        td_put_str(b, "param", fault->param[0] ? fault->param : NULL);
        td_put_str(b, "code", fault->code);
        td_put_close(b, '}');
    }
    td_put_close(b, '}');
}

size_t td_api_error_json(char *buf, size_t buf_bytes, unsigned status, const char *message)
{
    struct td_fault fault = {.status = status};
    size_t n = strlen(message);
    for (;;) {
        // Cut where a character ends: what is half a character would become a longer one.
        while (n > 0 && ((uint8_t)message[n] & 0xc0) == 0x80) n--;
        (void)snprintf(fault.message, sizeof(fault.message), "%.*s", (int)(n > 390 ? 390 : n),
                       message);
        struct td_buf b = {0};
        td_put_fault(&b, &fault, false);
        const size_t size = b.n;
        const bool fits = !b.no_memory && size < buf_bytes;
        if (fits) memcpy(buf, b.at, size + 1);
        td_buf_free(&b);
        if (fits) return size;
        if (n == 0) break;
        n = n > 16 ? n - 16 : 0;
    }
    if (buf_bytes > 0) buf[0] = '\0';
    return 0;
}

void td_reply_fault(struct td_api_reply *r, const struct td_fault *fault, bool is_ollama)
{
    if (r->out.no_memory) td_buf_free(&r->out);
    r->out.n = 0;
    r->status = fault->status;
    r->content_type = "application/json";
    r->retry_after_s = fault->retry_after_s;
    r->is_stream = false;
    r->outcome = "error";
    td_put_fault(&r->out, fault, is_ollama);
    r->is_settled = r->is_done = true;
}

// ---- Parts that the dialects share ----

void td_reply_new_id(struct td_api_reply *r, const char *prefix, char out[40])
{
    static const char digits[] = "0123456789abcdefghijklmnopqrstuvwxyz";
    struct td_rng rng = {.state = r->rng};
    char tail[25] = "";
    for (size_t i = 0; i < 24; i++) tail[i] = digits[td_rng_u64(&rng) % 36];
    r->rng = rng.state;
    (void)snprintf(out, 40, "%s%s", prefix, tail);
}

const char *td_reply_finish_text(const struct td_choice *c)
{
    switch (c->end) {
    case TD_JOB_STOPPED: return "stop";
    case TD_JOB_LENGTH: return "length";
    case TD_JOB_TOOLS: return "tool_calls";
    case TD_JOB_CANCELLED: return "cancelled";
    }
    return "stop";
}

static double per_second(double n, double seconds)
{
    return seconds > 0 ? n / seconds : 0;
}

void td_put_timings(struct td_buf *b, const struct td_choice *c)
{
    const struct td_job_stats *s = &c->stats;
    const uint32_t n_new = s->n_prompt - td_min_u32(s->n_reused, s->n_prompt);
    td_put_open(b, "timings", '{');
    td_put_u64(b, "cache_n", s->n_reused);
    td_put_u64(b, "prompt_n", n_new);
    td_put_f64(b, "prompt_ms", s->prompt_seconds * 1e3);
    td_put_f64(b, "prompt_per_second", per_second(n_new, s->prompt_seconds));
    td_put_u64(b, "predicted_n", s->n_written);
    td_put_f64(b, "predicted_ms", s->decode_seconds * 1e3);
    td_put_f64(b, "predicted_per_second", per_second(s->n_written, s->decode_seconds));
    td_put_f64(b, "queue_ms", s->queue_seconds * 1e3);
    td_put_f64(b, "ttft_ms", s->ttft_seconds * 1e3);
    td_put_close(b, '}');

    const struct td_remote_stats *p = &s->prefill;
    td_put_open(b, "prefill", '{');
    td_put_str(b, "path", td_remote_path_text(p->path));
    if (p->reason[0]) td_put_str(b, "reason", p->reason);
    if (p->peer[0]) {
        td_put_str(b, "peer", p->peer);
        td_put_u64(b, "n_tokens", p->n_tokens);
        td_put_u64(b, "n_remote", p->n_remote);
        td_put_u64(b, "n_local", p->n_local);
        td_put_u64(b, "bytes", p->bytes);
        td_put_u64(b, "n_resumed", p->n_resumed);
        td_put_f64(b, "seconds", p->seconds);
        td_put_f64(b, "transfer_seconds", p->transfer_seconds);
        td_put_f64(b, "exposed_seconds", p->exposed_seconds);
        td_put_f64(b, "stall_seconds", p->stall_seconds);
        td_put_f64(b, "overlap", p->overlap);
        td_put_f64(b, "predicted_seconds", p->predicted_seconds);
        td_put_bool(b, "weights_differ", p->weights_differ);
    }
    td_put_close(b, '}');
}

void td_reply_usage(const struct td_api_reply *r, struct td_api_usage *out)
{
    *out = (struct td_api_usage){0};
    for (uint32_t i = 0; i < r->n_choices; i++) {
        const struct td_job_stats *s = &r->choices[i].stats;
        if (i % r->ask->n == 0) {
            out->n_prompt += s->n_prompt;
            out->n_reused += s->n_reused;
        }
        out->n_written += s->n_written;
        out->n_reasoning += s->n_reasoning;
    }
}

void td_put_usage(struct td_api_reply *r, struct td_buf *b)
{
    struct td_api_usage u;
    td_reply_usage(r, &u);
    td_put_open(b, "usage", '{');
    td_put_u64(b, "prompt_tokens", u.n_prompt);
    td_put_u64(b, "completion_tokens", u.n_written);
    td_put_u64(b, "total_tokens", (uint64_t)u.n_prompt + u.n_written);
    td_put_open(b, "prompt_tokens_details", '{');
    td_put_u64(b, "cached_tokens", u.n_reused);
    td_put_close(b, '}');
    td_put_open(b, "completion_tokens_details", '{');
    td_put_u64(b, "reasoning_tokens", u.n_reasoning);
    td_put_close(b, '}');
    td_put_close(b, '}');
}

void td_put_progress(struct td_api_reply *r, struct td_choice *c, const struct td_job_event *e)
{
    struct td_buf *b = &r->out;
    td_put_open(b, "prompt_progress", '{');
    td_put_u64(b, "total", e->n_prompt);
    td_put_u64(b, "cache", c->n_cached);
    td_put_u64(b, "processed", e->n_done);
    td_put_f64(b, "time_ms", (double)(td_clock_ns() - r->begin_ns) * 1e-6);
    td_put_str(b, "where", e->is_remote ? "remote" : "local");
    td_put_close(b, '}');
}

static void put_one_token(struct td_api_reply *r, struct td_job_top t, bool has_bytes)
{
    struct td_buf *b = &r->out;
    const struct td_str s = td_token_bytes(r->cfg->tokenizer, t.token);
    td_put_text(b, "token", s.at, s.size_bytes);
    // JSON has no infinity; OpenAI's stand-in for a probability of nought is this.
    td_put_f64(b, "logprob", (double)t.logprob < -9999 ? -9999.0 : (double)t.logprob);
    if (!has_bytes) return;
    td_put_open(b, "bytes", '[');
    for (size_t i = 0; i < s.size_bytes; i++) td_put_u64(b, NULL, (uint8_t)s.at[i]);
    td_put_close(b, ']');
}

void td_put_token(struct td_api_reply *r, const struct td_job_token *t, bool has_bytes)
{
    struct td_buf *b = &r->out;
    td_put_open(b, NULL, '{');
    put_one_token(r, t->chosen, has_bytes);
    td_put_open(b, "top_logprobs", '[');
    const uint32_t n = td_min_u32(t->n_top, TD_JOB_MAX_TOP);
    for (uint32_t i = 0; i < n; i++) {
        td_put_open(b, NULL, '{');
        put_one_token(r, t->top[i], has_bytes);
        td_put_close(b, '}');
    }
    td_put_close(b, ']');
    td_put_close(b, '}');
}

// ---- Events ----

static bool collect_call(struct td_api_reply *r, struct td_choice *c, const struct td_job_event *e)
{
    if (c->n_calls == c->cap_calls) {
        const size_t cap = c->cap_calls ? c->cap_calls * 2 : 4;
        struct td_call *grown = realloc(c->calls, cap * sizeof(*grown));
        if (!grown) return false;
        c->calls = grown;
        c->cap_calls = cap;
    }
    struct td_call *call = &c->calls[c->n_calls];
    *call = (struct td_call){0};
    call->name = malloc(e->text_bytes + 1);
    if (!call->name) return false;
    if (e->text_bytes > 0) memcpy(call->name, e->text, e->text_bytes);
    call->name[e->text_bytes] = '\0';
    td_reply_new_id(r, "call_", call->id);
    td_buf_puts(&call->args, "");
    c->n_calls++;
    return true;
}

static bool collect_tokens(struct td_choice *c, const struct td_job_event *e)
{
    if (e->n_tokens == 0) return true;
    if (c->cap_tokens - c->n_tokens < e->n_tokens) {
        const size_t cap = (c->n_tokens + e->n_tokens) * 2;
        struct td_job_token *grown = realloc(c->tokens, cap * sizeof(*grown));
        if (!grown) return false;
        c->tokens = grown;
        c->cap_tokens = cap;
    }
    memcpy(c->tokens + c->n_tokens, e->tokens, e->n_tokens * sizeof(*c->tokens));
    c->n_tokens += e->n_tokens;
    return true;
}

// Adds the event to its choice. False: no memory.
static bool collect(struct td_api_reply *r, struct td_choice *c, const struct td_job_event *e)
{
    switch (e->kind) {
    case TD_JOB_PROGRESS:
        if (!c->has_progress) c->n_cached = e->n_done;
        c->has_progress = true;
        return true;
    case TD_JOB_TEXT:
        if (e->channel == TD_CHANNEL_ANALYSIS) {
            td_buf_put(&c->reasoning, e->text, e->text_bytes);
            return !c->reasoning.no_memory;
        }
        td_buf_put(&c->content, e->text, e->text_bytes);
        return !c->content.no_memory && collect_tokens(c, e);
    case TD_JOB_TOOL_BEGIN: return collect_call(r, c, e);
    case TD_JOB_TOOL_ARGS:
        if (c->n_calls == 0) return true;
        td_buf_put(&c->calls[c->n_calls - 1].args, e->text, e->text_bytes);
        return !c->calls[c->n_calls - 1].args.no_memory;
    case TD_JOB_TOOL_END:
        if (c->n_calls > 0) c->calls[c->n_calls - 1].is_done = true;
        return true;
    case TD_JOB_END:
    case TD_JOB_FAILED: return true;
    }
    return true;
}

static void fail(struct td_api_reply *r, unsigned status, const char *code, const char *message)
{
    struct td_fault fault = {.status = status, .code = code};
    if (status == 503) fault.retry_after_s = 1;
    (void)snprintf(fault.message, sizeof(fault.message), "%s", message);
    for (uint32_t i = 0; i < r->n_choices; i++)
        if (!r->choices[i].has_ended) td_job_cancel(r->choices[i].job);
    if (r->is_settled) {
        r->dialect->fail(r, &fault);
        r->outcome = "error";
        r->is_done = true;
    } else {
        td_reply_fault(r, &fault, r->dialect->is_ollama);
    }
}

static void settle_stream(struct td_api_reply *r)
{
    r->content_type = r->dialect->stream_type;
    r->is_settled = true;
    r->dialect->begin(r);
}

// The next turn has the answer without what was thought before it: that can be read ahead.
static void tell_next(struct td_api_reply *r, const struct td_choice *c)
{
    struct td_ask *a = r->ask;
    const bool is_answer = c->end == TD_JOB_STOPPED || c->end == TD_JOB_LENGTH;
    if (!is_answer || c->n_calls > 0 || c->content.n == 0) return;
    if (c->was_commentary) return; // it will come back as a message of its own
    if (!td_prompt_next(a, r->cfg, c->content.at, c->content.n)) return;
    uint32_t *marks = calloc(a->next_marks.n, sizeof(*marks));
    if (!marks) return;
    for (size_t i = 0; i < a->next_marks.n; i++) marks[i] = (uint32_t)a->next_marks.at[i];
    td_sched_read_ahead(r->cfg->sched, a->next.at, (uint32_t)a->next.n, marks,
                        (uint32_t)a->next_marks.n);
    free(marks);
}

static void end_choice(struct td_api_reply *r, struct td_choice *c, const struct td_job_event *e)
{
    c->has_ended = true;
    c->end = e->end;
    c->stats = e->stats;
    tell_next(r, c);
    if (r->is_stream || r->dialect->wants_events) r->dialect->event(r, c, e);
    r->n_ended++;
    if (!r->outcome) r->outcome = td_reply_finish_text(c);
    if (r->n_ended < r->n_choices) return;
    if (r->is_stream) {
        r->dialect->finish(r);
    } else {
        r->dialect->whole(r);
        r->is_settled = true;
    }
    r->is_done = true;
}

static void fail_of(struct td_api_reply *r, const struct td_error *err)
{
    switch (err->code) {
    case TD_EARG: fail(r, 400, NULL, err->msg); return;
    case TD_ENOMEM: fail(r, 503, "out_of_memory", err->msg); return;
    case TD_ECANCEL: fail(r, 503, "shutting_down", err->msg); return;
    default: fail(r, 500, NULL, err->msg[0] ? err->msg : "The answer failed."); return;
    }
}

static bool is_shown(const struct td_api_reply *r, const struct td_job_event *e)
{
    return e->kind != TD_JOB_TEXT || e->channel != TD_CHANNEL_ANALYSIS || r->ask->shows_reasoning;
}

static void on_event(struct td_api_reply *r, struct td_choice *c, const struct td_job_event *e)
{
    if (e->kind == TD_JOB_FAILED) {
        c->has_ended = true;
        c->stats = e->stats;
        fail_of(r, &e->error);
        return;
    }
    if (e->kind == TD_JOB_END && e->end == TD_JOB_CANCELLED) {
        c->has_ended = true;
        c->stats = e->stats;
        fail(r, 503, "shutting_down", "The server is shutting down.");
        return;
    }
    if (r->is_stream && !r->is_settled) settle_stream(r);
    // What is said beside a call and what is said at the end are paragraphs of one content.
    const bool is_final = e->kind == TD_JOB_TEXT && e->channel == TD_CHANNEL_FINAL;
    if (is_final && c->was_commentary && r->dialect->joins_commentary) {
        struct td_job_event gap = {.kind = TD_JOB_TEXT, .channel = TD_CHANNEL_FINAL};
        gap.text = "\n\n";
        gap.text_bytes = 2;
        c->was_commentary = false;
        (void)collect(r, c, &gap);
        if (r->is_stream) r->dialect->event(r, c, &gap);
    }
    if (e->kind == TD_JOB_TEXT && e->channel == TD_CHANNEL_COMMENTARY) c->was_commentary = true;
    if (!collect(r, c, e)) {
        fail(r, 500, NULL, "There is no memory for the answer.");
        return;
    }
    if (e->kind == TD_JOB_END)
        end_choice(r, c, e);
    else if ((r->is_stream || r->dialect->wants_events) && is_shown(r, e))
        r->dialect->event(r, c, e);
}

static void pump(struct td_api_reply *r)
{
    for (uint32_t i = 0; i < r->n_choices && !r->is_done; i++) {
        struct td_choice *c = &r->choices[i];
        struct td_job_event e;
        while (!r->is_done && !c->has_ended && r->out.n < MAX_WAITING_BYTES &&
               td_job_next(c->job, &e))
            on_event(r, c, &e);
    }
    const bool no_memory = r->out.no_memory || r->items.no_memory;
    if (!no_memory) return;
    // The body has a hole: a stream ends here, a whole answer becomes an error (whose few bytes
    // may fail as well; then it is empty).
    const struct td_fault fault = {.status = 500, .message = "There is no memory for the answer."};
    for (uint32_t i = 0; i < r->n_choices; i++)
        if (r->choices[i].job) td_job_cancel(r->choices[i].job);
    td_buf_free(&r->out);
    r->items.no_memory = false;
    r->outcome = "error";
    if (r->is_stream && r->is_settled)
        r->is_done = true;
    else
        td_reply_fault(r, &fault, r->dialect && r->dialect->is_ollama);
}

// ---- For server/http.h ----

bool td_api_is_settled(struct td_api_reply *r)
{
    if (!r->is_settled) pump(r);
    return r->is_settled;
}

void td_api_head(struct td_api_reply *r, struct td_api_head *out)
{
    *out = (struct td_api_head){
        .status = r->status,
        .content_type = r->content_type,
        .is_stream = r->is_stream,
        .length_bytes = r->is_stream ? 0 : r->out.n,
        .retry_after_s = r->retry_after_s,
    };
}

enum td_api_state td_api_read(struct td_api_reply *r, const char **bytes_out, size_t *n_bytes_out)
{
    *bytes_out = NULL;
    *n_bytes_out = 0;
    if (!r->is_done) pump(r);
    // A body that is to be whole is given when its length is known.
    if (!r->is_settled) return TD_API_WAIT;
    if (r->out.n == 0) return r->is_done ? TD_API_DONE : TD_API_WAIT;
    const struct td_buf read = r->given;
    r->given = r->out;
    r->out = read;
    r->out.n = 0;
    *bytes_out = r->given.at;
    *n_bytes_out = r->given.n;
    return TD_API_PIECE;
}

void td_api_keep_alive(struct td_api_reply *r, const char **bytes_out, size_t *n_bytes_out)
{
    r->alive.n = 0;
    if (r->is_stream && r->is_settled && !r->is_done && r->dialect->keep_alive)
        r->dialect->keep_alive(r, &r->alive);
    *bytes_out = r->alive.at;
    *n_bytes_out = r->alive.no_memory ? 0 : r->alive.n;
}

void td_api_account(struct td_api_reply *r, struct td_api_account *out)
{
    *out = (struct td_api_account){.model = r->cfg->model_name};
    out->outcome = r->outcome ? r->outcome : r->n_choices > 0 ? "cancelled" : NULL;
    if (r->n_choices == 0) return;
    struct td_api_usage u;
    td_reply_usage(r, &u);
    const struct td_job_stats *s = &r->choices[0].stats;
    out->n_prompt = u.n_prompt;
    out->n_reused = u.n_reused;
    out->n_written = u.n_written;
    out->ttft_seconds = s->ttft_seconds;
    out->prompt_seconds = s->prompt_seconds;
    out->decode_seconds = s->decode_seconds;
    out->path = td_remote_path_text(s->prefill.path);
}
