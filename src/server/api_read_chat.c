// SPDX-License-Identifier: MIT
// POST /v1/chat/completions: the request. Source: the types of openai's npm package, 6.49.
#include "server/api_impl.h"

#include <string.h>

static void read_call(struct td_ask *a, const json_t *call, const struct td_where *at,
                      struct td_message *m)
{
    struct td_reader *rd = &a->rd;
    const char *type = NULL, *id = NULL;
    if (!json_is_object(call)) {
        td_fault_type(rd, at, NULL, "an object", call);
        return;
    }
    (void)td_read_text(rd, call, at, "type", &type);
    if (type && strcmp(type, "function") != 0)
        td_fault_set(rd, 400, "unsupported_parameter", at, "type",
                     "only calls of functions are supported, not '%.40s'", type);
    (void)td_read_text(rd, call, at, "id", &id);
    const json_t *function = td_read_object(rd, call, at, "function");
    const struct td_where here = {.up = at, .key = "function"};
    if (!td_read_text(rd, function, &here, "name", &m->tool_name))
        td_fault_set(rd, 400, NULL, &here, "name", "the name of a function is expected");
    (void)td_read_text(rd, function, &here, "arguments", &m->tool_args);
    if (td_is_fine(rd)) td_talk_call(a, at, id, m);
}

static void read_assistant(struct td_ask *a, const json_t *message, const struct td_where *at,
                           struct td_str content)
{
    struct td_reader *rd = &a->rd;
    struct td_message m = {
        .role = TD_ROLE_ASSISTANT, .content = content.at, .content_bytes = content.size_bytes};
    if (!td_read_text(rd, message, at, "reasoning_content", &m.reasoning))
        (void)td_read_text(rd, message, at, "reasoning", &m.reasoning);
    if (td_read_get(message, "function_call") || td_read_get(message, "audio"))
        td_fault_set(rd, 400, "unsupported_parameter", at, NULL,
                     "function_call and audio are not supported; calls go into tool_calls");
    json_t *calls = td_read_array(rd, message, at, "tool_calls");
    if (!td_is_fine(rd)) return;
    if (json_array_size(calls) == 0) {
        if (!m.content) m.content = "";
        td_talk_end(a);
        td_talk_add(a, &m);
        return;
    }
    const struct td_where list = {.up = at, .key = "tool_calls"};
    size_t i;
    const json_t *call;
    json_array_foreach(calls, i, call)
    {
        const struct td_where here = {.up = &list, .i = i};
        read_call(a, call, &here, &m);
        if (!td_is_fine(rd)) return;
        m = (struct td_message){.role = TD_ROLE_ASSISTANT};
    }
}

static void read_result(struct td_ask *a, const json_t *message, const struct td_where *at,
                        struct td_str content)
{
    const char *id = NULL, *name = NULL;
    (void)td_read_text(&a->rd, message, at, "tool_call_id", &id);
    (void)td_read_text(&a->rd, message, at, "name", &name);
    if (!id && !name)
        td_fault_set(&a->rd, 400, NULL, at, "tool_call_id", "the id of a call is expected");
    if (td_is_fine(&a->rd)) td_talk_result(a, at, id, name, content);
}

static void read_message(struct td_ask *a, const json_t *message, const struct td_where *at)
{
    struct td_reader *rd = &a->rd;
    static const struct {
        const char *name;
        enum td_role role;
    } roles[] = {{"user", TD_ROLE_USER},
                 {"system", TD_ROLE_SYSTEM},
                 {"developer", TD_ROLE_DEVELOPER},
                 {"assistant", TD_ROLE_ASSISTANT},
                 {"tool", TD_ROLE_TOOL}};
    const char *name = NULL;
    if (!json_is_object(message)) {
        td_fault_type(rd, at, NULL, "an object", message);
        return;
    }
    if (!td_read_text(rd, message, at, "role", &name)) {
        td_fault_set(rd, 400, NULL, at, "role", "a role is expected");
        return;
    }
    size_t i = 0;
    while (i < sizeof(roles) / sizeof(roles[0]) && strcmp(roles[i].name, name) != 0) i++;
    if (i == sizeof(roles) / sizeof(roles[0])) {
        td_fault_set(rd, 400, NULL, at, "role",
                     "system, developer, user, assistant or tool is expected, not '%.40s'", name);
        return;
    }
    const enum td_role role = roles[i].role;
    const json_t *value = td_read_get(message, "content");
    const struct td_where here = {.up = at, .key = "content"};
    struct td_str content = {0};
    if (value) {
        if (!td_read_content(a, value, &here, &content)) return;
    } else if (role != TD_ROLE_ASSISTANT) {
        td_fault_type(rd, &here, NULL, "a string or a list of parts",
                      json_object_get(message, "content"));
        return;
    }
    if (role == TD_ROLE_ASSISTANT) {
        read_assistant(a, message, at, content);
    } else if (role == TD_ROLE_TOOL) {
        read_result(a, message, at, content);
    } else {
        td_talk_end(a);
        td_talk_add(a, &(struct td_message){.role = role,
                                            .content = content.at,
                                            .content_bytes = content.size_bytes});
    }
}

static void read_messages(struct td_ask *a)
{
    json_t *messages = td_read_array(&a->rd, a->root, NULL, "messages");
    if (json_array_size(messages) == 0) {
        td_fault_set(&a->rd, 400, NULL, NULL, "messages", "at least one message is expected");
        return;
    }
    const struct td_where list = {.key = "messages"};
    size_t i;
    const json_t *message;
    json_array_foreach(messages, i, message)
    {
        const struct td_where at = {.up = &list, .i = i};
        read_message(a, message, &at);
        if (!td_is_fine(&a->rd)) return;
    }
    td_talk_end(a);
}

static void read_logprobs(struct td_ask *a)
{
    int64_t n = 0;
    (void)td_read_bool(&a->rd, a->root, NULL, "logprobs", &a->wants_logprobs);
    if (!td_read_int(&a->rd, a->root, NULL, "top_logprobs", (struct td_range){0, TD_JOB_MAX_TOP},
                     &n))
        return;
    if (n > 0 && !a->wants_logprobs)
        td_fault_set(&a->rd, 400, NULL, NULL, "top_logprobs", "logprobs has to be true with it");
    a->n_top = (uint32_t)n;
}

static void read_refused(struct td_ask *a)
{
    const json_t *o = a->root;
    const json_t *format = td_read_object(&a->rd, o, NULL, "response_format");
    const struct td_where at = {.key = "response_format"};
    const char *type = NULL;
    (void)td_read_text(&a->rd, format, &at, "type", &type);
    if (type && strcmp(type, "text") != 0)
        td_fault_set(&a->rd, 400, "unsupported_parameter", &at, "type",
                     "'%.40s' is not supported, only text", type);
    td_read_refuse(a, o, "functions", "functions are not supported; they go into tools");
    td_read_refuse(a, o, "audio", "audio is not supported");
    td_read_refuse(a, o, "web_search_options", "searching the web is not supported");
    td_read_refuse(a, o, "grammar", "grammars are not supported");
    td_read_refuse(a, o, "json_schema", "answers by a schema are not supported");
    const json_t *modalities = td_read_array(&a->rd, o, NULL, "modalities");
    size_t i;
    const json_t *modality;
    json_array_foreach(modalities, i, modality)
    {
        const char *text = json_string_value(modality);
        if (!text || strcmp(text, "text") != 0)
            td_fault_set(&a->rd, 400, "unsupported_parameter", NULL, "modalities",
                         "only text is supported");
    }
}

void td_read_chat(struct td_ask *a)
{
    const json_t *o = a->root;
    int64_t n = 1;
    a->is_chat = true;
    (void)td_read_text(&a->rd, o, NULL, "model", &a->model);
    read_refused(a);
    td_read_stream(a, o, false);
    td_read_sampling(a, o, NULL);
    td_read_logit_bias(a, o, NULL);
    td_read_stops(a, o, NULL);
    td_read_max_tokens(a, o, NULL, "max_tokens");
    td_read_max_tokens(a, o, NULL, "max_completion_tokens");
    read_logprobs(a);
    td_read_effort(a, o, NULL, "reasoning_effort");
    // Where clients of llama-server and vLLM put it.
    const json_t *kwargs = td_read_object(&a->rd, o, NULL, "chat_template_kwargs");
    const struct td_where at = {.key = "chat_template_kwargs"};
    td_read_effort(a, kwargs, &at, "reasoning_effort");
    (void)td_read_bool(&a->rd, o, NULL, "ignore_eos", &a->ignore_end);
    if (td_read_int(&a->rd, o, NULL, "n", (struct td_range){1, TD_API_MAX_CHOICES}, &n))
        a->n = (uint32_t)n;
    if (td_is_fine(&a->rd)) td_talk_tools(a, o, "function");
    if (td_is_fine(&a->rd)) td_talk_choice(a, o, "function");
    if (td_is_fine(&a->rd)) read_messages(a);
}
