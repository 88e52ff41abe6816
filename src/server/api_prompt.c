// SPDX-License-Identifier: MIT
// A request's conversation or texts -> tokens.
#include "server/api_impl.h"

#include <stdlib.h>
#include <string.h>

void td_prompt_free(struct td_ask *a)
{
    for (uint32_t i = 0; i < a->n_prompts; i++) {
        td_ids_free(&a->prompts[i].ids);
        td_ids_free(&a->prompts[i].marks);
    }
}

// Whether reasoning of this turn was rendered: it is dropped once the turn is answered.
static bool has_reasoning(const struct td_ask *a)
{
    for (size_t i = a->n_messages; i > 0; i--) {
        const struct td_message *m = &a->messages[i - 1];
        if (m->role != TD_ROLE_ASSISTANT) continue;
        if (!m->tool_name && m->content) return false;
        if (m->reasoning && m->reasoning[0]) return true;
    }
    return false;
}

void td_prompt_keep(struct td_ask *a)
{
    if (!a->is_chat || a->n_prompts != 1 || a->n != 1 || has_reasoning(a)) return;
    struct td_api_prompt *p = &a->prompts[0];
    if (p->marks.n == 0) return;
    a->next = p->ids;
    a->next_marks = p->marks;
    a->next.n = (size_t)p->marks.at[p->marks.n - 1];
    p->ids = p->marks = (struct td_ids){0};
}

static void fault_of(struct td_ask *a, const struct td_error *err)
{
    if (err->code == TD_ENOMEM)
        td_fault_set(&a->rd, 500, NULL, NULL, NULL, "There is not enough memory: %s.", err->msg);
    else
        td_fault_set(&a->rd, 400, NULL, NULL, NULL, "%s", err->msg);
}

static int put_special(const struct td_tokenizer *t, const char *name, struct td_ids *ids,
                       struct td_error *err)
{
    const int32_t id = td_token_find(t, name);
    if (id < 0) return td_fail(err, TD_EARG, "the model has no token %s", name);
    return td_ids_push(ids, id) ? td_fail(err, TD_ENOMEM, "no memory for the prompt") : TD_OK;
}

static int put_plain(const struct td_tokenizer *t, const char *text, struct td_ids *ids,
                     struct td_error *err)
{
    return td_encode(t, text, strlen(text), false, ids, err);
}

// The answer's beginning, where the request leaves no choice: a call of this function (NULL: of
// some function), as harmony's "Receiving tool calls" has it.
static int begin_call(const struct td_tokenizer *t, const char *name, struct td_ids *ids,
                      struct td_error *err)
{
    char header[320];
    (void)snprintf(header, sizeof(header), "commentary to=functions.%s%s", name ? name : "",
                   name ? " " : "");
    int code = put_special(t, "<|channel|>", ids, err);
    if (!code) code = put_plain(t, header, ids, err);
    if (code || !name) return code;
    code = put_special(t, "<|constrain|>", ids, err);
    if (!code) code = put_plain(t, "json", ids, err);
    if (!code) code = put_special(t, "<|message|>", ids, err);
    return code;
}

static int begin_final(const struct td_tokenizer *t, struct td_ids *ids, struct td_error *err)
{
    int code = put_special(t, "<|channel|>", ids, err);
    if (!code) code = put_plain(t, "final", ids, err);
    if (!code) code = put_special(t, "<|message|>", ids, err);
    return code;
}

static int begin_answer(const struct td_ask *a, const struct td_tokenizer *t, struct td_ids *ids,
                        struct td_error *err)
{
    switch (a->tool_choice) {
    case TD_TOOLS_NAMED: return begin_call(t, a->tool_name, ids, err);
    case TD_TOOLS_REQUIRED:
        return begin_call(t, a->n_tools == 1 ? a->tools[0].name : NULL, ids, err);
    case TD_TOOLS_AUTO:
        // With tools the model must be free to choose the channel.
        if (a->n_tools > 0) return TD_OK;
        break;
    case TD_TOOLS_NONE: break;
    }
    return a->no_reasoning ? begin_final(t, ids, err) : TD_OK;
}

static void render(struct td_ask *a, const struct td_api_config *cfg)
{
    char date[16] = "";
    const time_t now = time(NULL);
    struct tm local;
    if (localtime_r(&now, &local)) strftime(date, sizeof(date), "%Y-%m-%d", &local);
    const struct td_chat chat = {
        .current_date = date[0] ? date : NULL,
        .effort = a->effort,
        .tools = a->tools,
        .n_tools = a->tool_choice == TD_TOOLS_NONE ? 0 : a->n_tools,
        .messages = a->messages,
        .n_messages = a->n_messages,
        .add_generation_prompt = true,
    };
    struct td_error err = {0};
    a->prompts = td_reader_keep(&a->rd, calloc(1, sizeof(*a->prompts)));
    if (!a->prompts) return;
    a->n_prompts = 1;
    struct td_api_prompt *p = &a->prompts[0];
    int code = td_harmony_render(cfg->tokenizer, &chat, &p->ids, &p->marks, &err);
    const size_t n = p->ids.n;
    if (!code) code = begin_answer(a, cfg->tokenizer, &p->ids, &err);
    p->n_begun = (uint32_t)(p->ids.n - n);
    if (code) fault_of(a, &err);
}

void td_prompt_make(struct td_ask *a, const struct td_api_config *cfg)
{
    if (a->is_chat) render(a, cfg);
    for (uint32_t i = 0; td_is_fine(&a->rd) && i < a->n_prompts; i++) {
        const size_t n = a->prompts[i].ids.n;
        if (n == 0)
            td_fault_set(&a->rd, 400, NULL, NULL, "prompt", "there is no text to go on from");
        else if (n >= cfg->n_ctx)
            td_fault_set(&a->rd, 400, "context_length_exceeded", NULL,
                         a->is_chat ? "messages" : "prompt",
                         "the prompt has %zu tokens, and the context holds %u with the answer", n,
                         cfg->n_ctx);
    }
}

bool td_prompt_next(struct td_ask *a, const struct td_api_config *cfg, const char *text, size_t n)
{
    const struct td_tokenizer *t = cfg->tokenizer;
    struct td_ids *ids = &a->next;
    struct td_error err;
    if (ids->n == 0) return false;
    int code = put_special(t, "<|start|>", ids, &err);
    if (!code) code = put_plain(t, "assistant", ids, &err);
    if (!code) code = begin_final(t, ids, &err);
    if (!code) code = td_encode(t, text, n, false, ids, &err);
    if (!code) code = put_special(t, "<|end|>", ids, &err);
    if (!code && td_ids_push(&a->next_marks, (int32_t)ids->n)) code = TD_ENOMEM;
    // Mostly somebody says something then.
    if (!code) code = put_special(t, "<|start|>", ids, &err);
    if (!code) code = put_plain(t, "user", ids, &err);
    if (!code) code = put_special(t, "<|message|>", ids, &err);
    return code == TD_OK;
}
