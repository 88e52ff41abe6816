// SPDX-License-Identifier: MIT
// POST /v1/responses: the request. Nothing is kept between requests: the conversation comes whole,
// as items. Source: the types of openai's npm package, 6.49.
#include "server/api_impl.h"

#include <string.h>

// What came before the next call or message of the same turn.
struct before {
    const char *reasoning;
    struct td_str commentary; // at NULL: none
};

static void put_commentary(struct td_ask *a, struct before *b)
{
    if (!b->commentary.at) return;
    td_talk_end(a);
    td_talk_add(a, &(struct td_message){.role = TD_ROLE_ASSISTANT,
                                        .content = b->commentary.at,
                                        .content_bytes = b->commentary.size_bytes});
    b->commentary = (struct td_str){0};
}

static void read_message(struct td_ask *a, const json_t *item, const struct td_where *at,
                         struct before *before)
{
    static const struct {
        const char *name;
        enum td_role role;
    } roles[] = {{"user", TD_ROLE_USER},
                 {"system", TD_ROLE_SYSTEM},
                 {"developer", TD_ROLE_DEVELOPER},
                 {"assistant", TD_ROLE_ASSISTANT}};
    const size_t n_roles = sizeof(roles) / sizeof(roles[0]);
    const struct td_where here = {.up = at, .key = "content"};
    const char *name = "", *phase = NULL;
    struct td_str content = {0};
    size_t i = 0;
    (void)td_read_text(&a->rd, item, at, "role", &name);
    (void)td_read_text(&a->rd, item, at, "phase", &phase);
    while (i < n_roles && strcmp(roles[i].name, name) != 0) i++;
    if (i == n_roles) {
        td_fault_set(&a->rd, 400, NULL, at, "role",
                     "user, system, developer or assistant is expected, not '%.40s'", name);
        return;
    }
    if (!td_read_content(a, json_object_get(item, "content"), &here, &content)) return;
    struct td_message m = {
        .role = roles[i].role, .content = content.at, .content_bytes = content.size_bytes};
    put_commentary(a, before);
    if (m.role == TD_ROLE_ASSISTANT && phase && strcmp(phase, "commentary") == 0) {
        before->commentary = content;
        return;
    }
    if (m.role == TD_ROLE_ASSISTANT) m.reasoning = before->reasoning;
    before->reasoning = NULL;
    td_talk_end(a);
    td_talk_add(a, &m);
}

static void read_call(struct td_ask *a, const json_t *item, const struct td_where *at,
                      struct before *before)
{
    const char *id = NULL;
    struct td_message m = {.role = TD_ROLE_ASSISTANT,
                           .content = before->commentary.at,
                           .content_bytes = before->commentary.size_bytes,
                           .reasoning = before->reasoning};
    *before = (struct before){0};
    if (!td_read_text(&a->rd, item, at, "name", &m.tool_name))
        td_fault_set(&a->rd, 400, NULL, at, "name", "the name of a function is expected");
    if (!td_read_text(&a->rd, item, at, "call_id", &id))
        td_fault_set(&a->rd, 400, NULL, at, "call_id", "the id of the call is expected");
    (void)td_read_text(&a->rd, item, at, "arguments", &m.tool_args);
    if (td_is_fine(&a->rd)) td_talk_call(a, at, id, &m);
}

static void read_result(struct td_ask *a, const json_t *item, const struct td_where *at)
{
    const char *id = NULL;
    struct td_str content = {0};
    const struct td_where here = {.up = at, .key = "output"};
    if (!td_read_text(&a->rd, item, at, "call_id", &id))
        td_fault_set(&a->rd, 400, NULL, at, "call_id", "the id of a call is expected");
    if (td_read_content(a, json_object_get(item, "output"), &here, &content) && td_is_fine(&a->rd))
        td_talk_result(a, at, id, NULL, content);
}

// The text of a reasoning item: of its content, else of its summary.
static void read_reasoning(struct td_ask *a, const json_t *item, const struct td_where *at,
                           struct before *before)
{
    static const char *const keys[] = {"content", "summary"};
    struct td_buf text = {0};
    for (size_t k = 0; k < 2 && text.n == 0 && td_is_fine(&a->rd); k++) {
        const struct td_where list = {.up = at, .key = keys[k]};
        size_t i;
        const json_t *part;
        json_array_foreach(td_read_array(&a->rd, item, at, keys[k]), i, part)
        {
            const struct td_where here = {.up = &list, .i = i};
            const char *piece = NULL;
            if (!json_is_object(part)) td_fault_type(&a->rd, &here, NULL, "an object", part);
            if (td_read_text(&a->rd, part, &here, "text", &piece)) td_buf_puts(&text, piece);
        }
    }
    if (text.n > 0)
        before->reasoning = td_reader_keep(&a->rd, text.at);
    else
        td_buf_free(&text);
}

static void read_item(struct td_ask *a, const json_t *item, const struct td_where *at,
                      struct before *before)
{
    const char *type = "message";
    if (!json_is_object(item)) {
        td_fault_type(&a->rd, at, NULL, "an object", item);
        return;
    }
    (void)td_read_text(&a->rd, item, at, "type", &type);
    if (!td_is_fine(&a->rd)) return;
    if (strcmp(type, "message") == 0)
        read_message(a, item, at, before);
    else if (strcmp(type, "function_call") == 0)
        read_call(a, item, at, before);
    else if (strcmp(type, "function_call_output") == 0)
        read_result(a, item, at);
    else if (strcmp(type, "reasoning") == 0)
        read_reasoning(a, item, at, before);
    else
        td_fault_set(&a->rd, 400, "unsupported_parameter", at, "type",
                     "items of type '%.40s' are not supported", type);
}

static void read_input(struct td_ask *a)
{
    const json_t *input = td_read_get(a->root, "input");
    const struct td_where list = {.key = "input"};
    if (json_is_string(input)) {
        td_talk_add(a, &(struct td_message){.role = TD_ROLE_USER,
                                            .content = json_string_value(input),
                                            .content_bytes = json_string_length(input)});
        return;
    }
    if (!json_is_array(input)) {
        td_fault_type(&a->rd, &list, NULL, "a string or a list of items", input);
        return;
    }
    if (json_array_size(input) == 0)
        td_fault_set(&a->rd, 400, NULL, &list, NULL, "at least one item is expected");
    struct before before = {0};
    size_t i;
    const json_t *item;
    json_array_foreach(input, i, item)
    {
        const struct td_where at = {.up = &list, .i = i};
        read_item(a, item, &at, &before);
        if (!td_is_fine(&a->rd)) return;
    }
    put_commentary(a, &before);
    td_talk_end(a);
}

static void read_include(struct td_ask *a)
{
    const struct td_where list = {.key = "include"};
    int64_t n = 0;
    size_t i;
    const json_t *entry;
    json_array_foreach(td_read_array(&a->rd, a->root, NULL, "include"), i, entry)
    {
        const struct td_where at = {.up = &list, .i = i};
        const char *text = json_string_value(entry);
        if (!text) td_fault_type(&a->rd, &at, NULL, "a string", entry);
        // Of the others there is nothing to include: no searches, no images, no hidden reasoning.
        if (text && strcmp(text, "message.output_text.logprobs") == 0) a->wants_logprobs = true;
    }
    if (td_read_int(&a->rd, a->root, NULL, "top_logprobs", (struct td_range){0, TD_JOB_MAX_TOP},
                    &n) &&
        n > 0) {
        a->wants_logprobs = true;
        a->n_top = (uint32_t)n;
    }
}

static void read_refused(struct td_ask *a)
{
    const json_t *o = a->root;
    const struct td_where at_text = {.key = "text"};
    const struct td_where at_format = {.up = &at_text, .key = "format"};
    td_read_refuse(a, o, "previous_response_id",
                   "answers are not kept here: send the whole conversation in input");
    td_read_refuse(a, o, "conversation",
                   "conversations are not kept here: send the whole conversation in input");
    td_read_refuse(a, o, "background", "answers in the background are not supported");
    td_read_refuse(a, o, "prompt", "prompts are not kept here: send instructions and input");
    td_read_refuse(a, o, "context_management", "it is not supported");
    const json_t *text = td_read_object(&a->rd, o, NULL, "text");
    const json_t *format = td_read_object(&a->rd, text, &at_text, "format");
    const char *type = NULL, *truncation = NULL;
    (void)td_read_text(&a->rd, format, &at_format, "type", &type);
    if (type && strcmp(type, "text") != 0)
        td_fault_set(&a->rd, 400, "unsupported_parameter", &at_format, "type",
                     "'%.40s' is not supported, only text", type);
    (void)td_read_text(&a->rd, o, NULL, "truncation", &truncation);
    if (truncation && strcmp(truncation, "disabled") != 0)
        td_fault_set(&a->rd, 400, "unsupported_parameter", NULL, "truncation",
                     "'%.40s' is not supported: nothing of a conversation is left out", truncation);
}

void td_read_responses(struct td_ask *a)
{
    const json_t *o = a->root;
    const char *instructions = NULL;
    a->is_chat = true;
    (void)td_read_text(&a->rd, o, NULL, "model", &a->model);
    read_refused(a);
    td_read_stream(a, o, false);
    td_read_sampling(a, o, NULL);
    td_read_logit_bias(a, o, NULL);
    td_read_stops(a, o, NULL);
    td_read_max_tokens(a, o, NULL, "max_output_tokens");
    const json_t *reasoning = td_read_object(&a->rd, o, NULL, "reasoning");
    const struct td_where at = {.key = "reasoning"};
    td_read_effort(a, reasoning, &at, "effort");
    read_include(a);
    if (td_read_text(&a->rd, o, NULL, "instructions", &instructions))
        td_talk_add(a, &(struct td_message){.role = TD_ROLE_DEVELOPER,
                                            .content = instructions,
                                            .content_bytes = strlen(instructions)});
    if (td_is_fine(&a->rd)) td_talk_tools(a, o, NULL);
    if (td_is_fine(&a->rd)) td_talk_choice(a, o, NULL);
    if (td_is_fine(&a->rd)) read_input(a);
}
