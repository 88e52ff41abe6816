// SPDX-License-Identifier: MIT
// POST /v1/completions: the request. Text goes on from text; names of special tokens in it are
// these tokens. Source: the types of openai's npm package, 6.49.
#include "server/api_impl.h"

#include <stdlib.h>
#include <string.h>

static void push(struct td_ask *a, struct td_ids *ids, int32_t id)
{
    if (td_ids_push(ids, id))
        td_fault_set(&a->rd, 500, NULL, NULL, NULL, "There is no memory for the prompt.");
}

void td_prompt_text(struct td_ask *a, const struct td_api_config *cfg, struct td_api_prompt *p,
                    const char *text, size_t n)
{
    struct td_error err = {0};
    const int32_t bos = td_token_bos(cfg->tokenizer);
    if (bos >= 0 && td_tokenizer_adds_bos(cfg->tokenizer)) push(a, &p->ids, bos);
    const int code = td_encode(cfg->tokenizer, text, n, true, &p->ids, &err);
    if (code)
        td_fault_set(&a->rd, code == TD_ENOMEM ? 500 : 400, NULL, NULL, "prompt", "%s", err.msg);
    p->echo = text;
    p->echo_bytes = n;
}

static void read_tokens(struct td_ask *a, const struct td_api_config *cfg, struct td_api_prompt *p,
                        const json_t *list, const struct td_where *at)
{
    struct td_buf text = {0};
    size_t i;
    const json_t *entry;
    json_array_foreach(list, i, entry)
    {
        const struct td_where here = {.up = at, .i = i};
        if (!json_is_integer(entry)) {
            td_fault_type(&a->rd, &here, NULL, "the number of a token", entry);
            break;
        }
        const json_int_t id = json_integer_value(entry);
        if (id < 0 || id >= td_tokenizer_n_vocab(cfg->tokenizer)) {
            td_fault_set(&a->rd, 400, NULL, &here, NULL, "there is no token %lld", (long long)id);
            break;
        }
        push(a, &p->ids, (int32_t)id);
        const struct td_str s = td_token_bytes(cfg->tokenizer, (int32_t)id);
        td_buf_put(&text, s.at, s.size_bytes);
    }
    if (text.n == 0) {
        td_buf_free(&text);
        return;
    }
    p->echo_bytes = text.n;
    p->echo = td_reader_keep(&a->rd, text.at);
}

static void read_prompts(struct td_ask *a, const struct td_api_config *cfg)
{
    const json_t *value = td_read_get(a->root, "prompt");
    const struct td_where at = {.key = "prompt"};
    const json_t *first = json_array_get(value, 0);
    // A string, strings, tokens, or lists of tokens.
    const bool is_list = json_is_array(value) && !json_is_integer(first);
    if (!json_is_string(value) && !json_is_array(value)) {
        td_fault_type(&a->rd, &at, NULL, "a string, or a list of strings or tokens", value);
        return;
    }
    const size_t n = is_list ? json_array_size(value) : 1;
    if (n == 0 || n > TD_API_MAX_CHOICES) {
        td_fault_set(&a->rd, 400, NULL, &at, NULL, "1 to %d prompts are expected, not %zu",
                     TD_API_MAX_CHOICES, n);
        return;
    }
    a->prompts = td_reader_keep(&a->rd, calloc(n, sizeof(*a->prompts)));
    if (!a->prompts) return;
    a->n_prompts = (uint32_t)n;
    for (size_t i = 0; i < n && td_is_fine(&a->rd); i++) {
        const json_t *prompt = is_list ? json_array_get(value, i) : value;
        const struct td_where element = {.up = &at, .i = i};
        const struct td_where *here = is_list ? &element : &at;
        if (json_is_string(prompt))
            td_prompt_text(a, cfg, &a->prompts[i], json_string_value(prompt),
                           json_string_length(prompt));
        else if (json_is_array(prompt))
            read_tokens(a, cfg, &a->prompts[i], prompt, here);
        else
            td_fault_type(&a->rd, here, NULL, "a string or a list of tokens", prompt);
    }
}

void td_read_completion(struct td_ask *a, const struct td_api_config *cfg)
{
    const json_t *o = a->root;
    int64_t n = 0;
    bool is_echo = false;
    (void)td_read_text(&a->rd, o, NULL, "model", &a->model);
    td_read_refuse(a, o, "suffix", "writing what stands before a text is not supported");
    td_read_refuse(a, o, "grammar", "grammars are not supported");
    td_read_refuse(a, o, "json_schema", "answers by a schema are not supported");
    td_read_refuse(a, o, "response_format", "only text is supported");
    td_read_stream(a, o, false);
    td_read_sampling(a, o, NULL);
    td_read_logit_bias(a, o, NULL);
    td_read_stops(a, o, NULL);
    td_read_max_tokens(a, o, NULL, "max_tokens");
    (void)td_read_bool(&a->rd, o, NULL, "ignore_eos", &a->ignore_end);
    (void)td_read_bool(&a->rd, o, NULL, "echo", &is_echo);
    if (td_read_int(&a->rd, o, NULL, "logprobs", (struct td_range){0, TD_JOB_MAX_TOP}, &n)) {
        a->wants_logprobs = true;
        a->n_top = (uint32_t)n;
    }
    if (is_echo && a->wants_logprobs)
        td_fault_set(&a->rd, 400, "unsupported_parameter", NULL, "echo",
                     "probabilities of the prompt's own tokens are not supported");
    if (td_read_int(&a->rd, o, NULL, "n", (struct td_range){1, TD_API_MAX_CHOICES}, &n))
        a->n = (uint32_t)n;
    n = (int64_t)a->n;
    if (td_read_int(&a->rd, o, NULL, "best_of", (struct td_range){1, TD_API_MAX_CHOICES}, &n) &&
        n != a->n)
        td_fault_set(&a->rd, 400, "unsupported_parameter", NULL, "best_of",
                     "choosing the best of several is not supported; n gives them all");
    if (td_is_fine(&a->rd)) read_prompts(a, cfg);
    if (td_is_fine(&a->rd) && (uint64_t)a->n * a->n_prompts > TD_API_MAX_CHOICES)
        td_fault_set(&a->rd, 400, NULL, NULL, "n", "at most %d answers to all prompts together",
                     TD_API_MAX_CHOICES);
    for (uint32_t i = 0; !is_echo && i < a->n_prompts; i++) a->prompts[i].echo = NULL;
}
