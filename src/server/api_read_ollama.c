// SPDX-License-Identifier: MIT
// POST /api/chat and /api/generate: the requests. Source: the types of ollama's npm package, 0.6.
#include "server/api_impl.h"

#include <stdlib.h>
#include <string.h>

static void read_think(struct td_ask *a)
{
    const json_t *think = td_read_get(a->root, "think");
    if (!think) return;
    if (json_is_boolean(think)) {
        a->no_reasoning = json_is_false(think);
        if (a->no_reasoning) a->effort = TD_EFFORT_LOW;
    } else if (json_is_string(think)) {
        td_read_effort(a, a->root, NULL, "think");
    } else {
        td_fault_type(&a->rd, NULL, "think", "true, false, low, medium or high", think);
    }
}

static void read_options(struct td_ask *a)
{
    const json_t *o = td_read_object(&a->rd, a->root, NULL, "options");
    const struct td_where at = {.key = "options"};
    double v = 0;
    if (!o) return;
    td_read_sampling(a, o, &at);
    td_read_stops(a, o, &at);
    td_read_max_tokens(a, o, &at, "num_predict");
    const struct td_range any = {-1e9, 1e9};
    if (td_read_f64(&a->rd, o, &at, "mirostat", any, &v) && v != 0)
        td_fault_set(&a->rd, 400, NULL, &at, "mirostat", "it is not supported");
    if (td_read_f64(&a->rd, o, &at, "typical_p", any, &v) && v != 1)
        td_fault_set(&a->rd, 400, NULL, &at, "typical_p", "it is not supported");
    if (td_read_f64(&a->rd, o, &at, "tfs_z", any, &v) && v != 1)
        td_fault_set(&a->rd, 400, NULL, &at, "tfs_z", "it is not supported");
}

static void read_common(struct td_ask *a)
{
    const json_t *o = a->root;
    int64_t n = 0;
    if (!td_read_text(&a->rd, o, NULL, "model", &a->model))
        (void)td_read_text(&a->rd, o, NULL, "name", &a->model);
    td_read_refuse(a, o, "format", "answers by a schema are not supported, only text");
    td_read_refuse(a, o, "images", "images are not supported: this model reads text only");
    td_read_stream(a, o, true);
    read_think(a);
    read_options(a);
    (void)td_read_bool(&a->rd, o, NULL, "logprobs", &a->wants_logprobs);
    if (td_read_int(&a->rd, o, NULL, "top_logprobs", (struct td_range){0, TD_JOB_MAX_TOP}, &n))
        a->n_top = (uint32_t)n;
}

static void read_calls(struct td_ask *a, const json_t *calls, const struct td_where *at,
                       struct td_message m)
{
    const struct td_where list = {.up = at, .key = "tool_calls"};
    size_t i;
    const json_t *call;
    json_array_foreach(calls, i, call)
    {
        const struct td_where here = {.up = &list, .i = i};
        const struct td_where inner = {.up = &here, .key = "function"};
        const char *id = NULL;
        if (!json_is_object(call)) td_fault_type(&a->rd, &here, NULL, "an object", call);
        (void)td_read_text(&a->rd, call, &here, "id", &id);
        const json_t *function = td_read_object(&a->rd, call, &here, "function");
        if (!td_read_text(&a->rd, function, &inner, "name", &m.tool_name))
            td_fault_set(&a->rd, 400, NULL, &inner, "name", "the name of a function is expected");
        const json_t *args = td_read_object(&a->rd, function, &inner, "arguments");
        if (args) m.tool_args = td_reader_keep(&a->rd, json_dumps(args, JSON_COMPACT));
        if (!td_is_fine(&a->rd)) return;
        td_talk_call(a, &here, id, &m);
        m = (struct td_message){.role = TD_ROLE_ASSISTANT};
    }
}

static void read_message(struct td_ask *a, const json_t *message, const struct td_where *at)
{
    struct td_reader *rd = &a->rd;
    const char *role = "", *name = NULL, *id = NULL;
    struct td_str content = {"", 0};
    if (!json_is_object(message)) {
        td_fault_type(rd, at, NULL, "an object", message);
        return;
    }
    (void)td_read_text(rd, message, at, "role", &role);
    const json_t *value = td_read_get(message, "content");
    const struct td_where here = {.up = at, .key = "content"};
    if (value && !json_is_string(value))
        td_fault_type(rd, &here, NULL, "a string", value);
    else if (value)
        content = (struct td_str){json_string_value(value), json_string_length(value)};
    if (json_array_size(td_read_array(rd, message, at, "images")) > 0)
        td_fault_set(rd, 400, NULL, at, "images",
                     "images are not supported: this model reads text only");
    if (!td_is_fine(rd)) return;
    struct td_message m = {.content = content.at, .content_bytes = content.size_bytes};
    if (strcmp(role, "tool") == 0) {
        if (!td_read_text(rd, message, at, "tool_name", &name))
            (void)td_read_text(rd, message, at, "name", &name);
        (void)td_read_text(rd, message, at, "tool_call_id", &id);
        if (td_is_fine(rd)) td_talk_result(a, at, id, name, content);
        return;
    }
    td_talk_end(a);
    if (strcmp(role, "assistant") == 0) {
        m.role = TD_ROLE_ASSISTANT;
        (void)td_read_text(rd, message, at, "thinking", &m.reasoning);
        const json_t *calls = td_read_array(rd, message, at, "tool_calls");
        if (!td_is_fine(rd)) return;
        if (json_array_size(calls) > 0) {
            read_calls(a, calls, at, m);
            return;
        }
    } else if (strcmp(role, "system") == 0) {
        m.role = TD_ROLE_SYSTEM;
    } else if (strcmp(role, "developer") == 0) {
        m.role = TD_ROLE_DEVELOPER;
    } else if (strcmp(role, "user") == 0) {
        m.role = TD_ROLE_USER;
    } else {
        td_fault_set(rd, 400, NULL, at, "role",
                     "system, user, assistant or tool is expected, not '%.40s'", role);
        return;
    }
    td_talk_add(a, &m);
}

void td_read_ollama_chat(struct td_ask *a)
{
    a->is_chat = true;
    read_common(a);
    if (td_is_fine(&a->rd)) td_talk_tools(a, a->root, "function");
    const json_t *messages = td_read_array(&a->rd, a->root, NULL, "messages");
    // Without messages it is a request to load the model, which is there.
    a->is_load = json_array_size(messages) == 0;
    const struct td_where list = {.key = "messages"};
    size_t i;
    const json_t *message;
    json_array_foreach(messages, i, message)
    {
        const struct td_where at = {.up = &list, .i = i};
        if (!td_is_fine(&a->rd)) return;
        read_message(a, message, &at);
    }
    td_talk_end(a);
}

void td_read_ollama_generate(struct td_ask *a, const struct td_api_config *cfg)
{
    const json_t *o = a->root;
    const char *system = NULL;
    bool is_raw = false;
    read_common(a);
    td_read_refuse(a, o, "suffix", "writing what stands before a text is not supported");
    td_read_refuse(a, o, "template", "the model's own format is used; raw takes text as it is");
    td_read_refuse(a, o, "context", "nothing is kept by it: send the conversation to /api/chat");
    (void)td_read_bool(&a->rd, o, NULL, "raw", &is_raw);
    (void)td_read_text(&a->rd, o, NULL, "system", &system);
    const json_t *prompt = td_read_get(o, "prompt");
    if (prompt && !json_is_string(prompt))
        td_fault_type(&a->rd, NULL, "prompt", "a string", prompt);
    if (!td_is_fine(&a->rd)) return;
    const char *text = json_string_value(prompt);
    const size_t n = json_string_length(prompt);
    a->is_load = n == 0;
    a->is_chat = !is_raw;
    if (a->is_load) return;
    if (is_raw) {
        a->prompts = td_reader_keep(&a->rd, calloc(1, sizeof(*a->prompts)));
        if (!a->prompts) return;
        a->n_prompts = 1;
        td_prompt_text(a, cfg, &a->prompts[0], text, n);
        return;
    }
    if (system && *system)
        td_talk_add(a, &(struct td_message){.role = TD_ROLE_SYSTEM,
                                            .content = system,
                                            .content_bytes = strlen(system)});
    td_talk_add(a, &(struct td_message){.role = TD_ROLE_USER, .content = text, .content_bytes = n});
}
