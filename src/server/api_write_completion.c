// SPDX-License-Identifier: MIT
// POST /v1/completions: the answer, whole or in chunks.
#include "server/api_impl.h"

#include <string.h>

static void put_head(struct td_api_reply *r)
{
    struct td_buf *b = &r->out;
    td_put_open(b, NULL, '{');
    td_put_str(b, "id", r->id);
    td_put_str(b, "object", "text_completion");
    td_put_u64(b, "created", (uint64_t)r->created);
    td_put_str(b, "model", r->cfg->model_name);
    td_put_str(b, "system_fingerprint", r->cfg->version);
}

static uint32_t n_characters(const struct td_str s)
{
    uint32_t n = 0;
    for (size_t i = 0; i < s.size_bytes; i++) n += ((uint8_t)s.at[i] & 0xc0) != 0x80;
    return n;
}

// Four lists of the same length; the offsets count characters of the answer.
static void put_logprobs(struct td_api_reply *r, struct td_choice *c,
                         const struct td_job_token *tokens, size_t n)
{
    struct td_buf *b = &r->out;
    const struct td_tokenizer *t = r->cfg->tokenizer;
    td_put_open(b, "logprobs", '{');
    td_put_open(b, "tokens", '[');
    for (size_t i = 0; i < n; i++) {
        const struct td_str s = td_token_bytes(t, tokens[i].chosen.token);
        td_put_text(b, NULL, s.at, s.size_bytes);
    }
    td_put_close(b, ']');
    td_put_open(b, "token_logprobs", '[');
    for (size_t i = 0; i < n; i++) td_put_f64(b, NULL, (double)tokens[i].chosen.logprob);
    td_put_close(b, ']');
    td_put_open(b, "top_logprobs", '[');
    for (size_t i = 0; i < n; i++) {
        td_put_open(b, NULL, '{');
        for (uint32_t k = 0; k < tokens[i].n_top && k < TD_JOB_MAX_TOP; k++) {
            const struct td_str s = td_token_bytes(t, tokens[i].top[k].token);
            char name[256];
            const size_t n_name = s.size_bytes < sizeof(name) - 1 ? s.size_bytes : sizeof(name) - 1;
            if (n_name > 0) memcpy(name, s.at, n_name);
            name[n_name] = '\0';
            td_put_f64(b, name, (double)tokens[i].top[k].logprob);
        }
        td_put_close(b, '}');
    }
    td_put_close(b, ']');
    td_put_open(b, "text_offset", '[');
    for (size_t i = 0; i < n; i++) {
        td_put_u64(b, NULL, c->text_offset);
        c->text_offset += n_characters(td_token_bytes(t, tokens[i].chosen.token));
    }
    td_put_close(b, ']');
    td_put_close(b, '}');
}

static void put_chunk(struct td_api_reply *r, struct td_choice *c, const struct td_job_event *e,
                      const char *text, size_t n, const char *finish)
{
    struct td_buf *b = &r->out;
    td_buf_puts(b, "data: ");
    put_head(r);
    td_put_open(b, "choices", '[');
    td_put_open(b, NULL, '{');
    td_put_u64(b, "index", c->i);
    td_put_text(b, "text", text, n);
    if (e && e->n_tokens > 0)
        put_logprobs(r, c, e->tokens, e->n_tokens);
    else
        td_put_null(b, "logprobs");
    td_put_str(b, "finish_reason", finish);
    td_put_close(b, '}');
    td_put_close(b, ']');
}

static void end_chunk(struct td_api_reply *r)
{
    td_put_close(&r->out, '}');
    td_buf_puts(&r->out, "\n\n");
}

static const struct td_api_prompt *prompt_of(const struct td_api_reply *r,
                                             const struct td_choice *c)
{
    return &r->ask->prompts[c->i / r->ask->n];
}

static void begin(struct td_api_reply *r)
{
    for (uint32_t i = 0; i < r->n_choices; i++) {
        const struct td_api_prompt *p = prompt_of(r, &r->choices[i]);
        if (!p->echo) continue;
        put_chunk(r, &r->choices[i], NULL, p->echo, p->echo_bytes, NULL);
        end_chunk(r);
    }
}

static void event(struct td_api_reply *r, struct td_choice *c, const struct td_job_event *e)
{
    if (e->kind == TD_JOB_PROGRESS && !r->ask->return_progress) {
        char comment[64];
        (void)snprintf(comment, sizeof(comment), ": progress %u/%u\n\n", e->n_done, e->n_prompt);
        td_buf_puts(&r->out, comment);
    } else if (e->kind == TD_JOB_PROGRESS) {
        put_chunk(r, c, NULL, "", 0, NULL);
        td_put_progress(r, c, e);
        end_chunk(r);
    } else if (e->kind == TD_JOB_TEXT && (e->text_bytes > 0 || e->n_tokens > 0)) {
        put_chunk(r, c, e, e->text, e->text_bytes, NULL);
        end_chunk(r);
    } else if (e->kind == TD_JOB_END) {
        put_chunk(r, c, NULL, "", 0, td_reply_finish_text(c));
        td_put_timings(&r->out, c);
        end_chunk(r);
    }
}

static void finish(struct td_api_reply *r)
{
    if (r->ask->include_usage) {
        td_buf_puts(&r->out, "data: ");
        put_head(r);
        td_put_open(&r->out, "choices", '[');
        td_put_close(&r->out, ']');
        td_put_usage(r, &r->out);
        end_chunk(r);
    }
    td_buf_puts(&r->out, "data: [DONE]\n\n");
}

static void whole(struct td_api_reply *r)
{
    struct td_buf *b = &r->out;
    put_head(r);
    td_put_open(b, "choices", '[');
    for (uint32_t i = 0; i < r->n_choices; i++) {
        struct td_choice *c = &r->choices[i];
        const struct td_api_prompt *p = prompt_of(r, c);
        struct td_buf text = {0};
        if (p->echo) td_buf_put(&text, p->echo, p->echo_bytes);
        td_buf_put(&text, c->content.at, c->content.n);
        td_put_open(b, NULL, '{');
        td_put_u64(b, "index", c->i);
        td_put_text(b, "text", text.at, text.n);
        if (r->ask->wants_logprobs)
            put_logprobs(r, c, c->tokens, c->n_tokens);
        else
            td_put_null(b, "logprobs");
        td_put_str(b, "finish_reason", td_reply_finish_text(c));
        td_put_close(b, '}');
        b->no_memory = b->no_memory || text.no_memory;
        td_buf_free(&text);
    }
    td_put_close(b, ']');
    td_put_usage(r, b);
    td_put_timings(b, &r->choices[0]);
    td_put_close(b, '}');
}

const struct td_dialect td_dialect_completion = {
    .stream_type = "text/event-stream",
    .keeps_request = true,
    .id_prefix = "cmpl-",
    .begin = begin,
    .event = event,
    .finish = finish,
    .whole = whole,
    .fail = td_sse_fail,
    .keep_alive = td_sse_keep_alive,
};
