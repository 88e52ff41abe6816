// SPDX-License-Identifier: MIT
// The conversation of a request: messages in harmony's order, in which a tool's result stands
// behind its call; and the tools.
#include "server/api_impl.h"

#include <stdlib.h>
#include <string.h>

void td_talk_add(struct td_ask *a, const struct td_message *m)
{
    if (a->n_messages == a->cap_messages) {
        const size_t cap = a->cap_messages ? a->cap_messages * 2 : 16;
        struct td_message *grown = realloc(a->messages, cap * sizeof(*grown));
        if (!grown) {
            td_fault_set(&a->rd, 500, NULL, NULL, NULL, "There is no memory for the messages.");
            return;
        }
        a->messages = grown;
        a->cap_messages = cap;
    }
    a->messages[a->n_messages++] = *m;
}

static void flush_calls(struct td_ask *a)
{
    for (size_t i = 0; i < a->n_calls; i++) {
        td_talk_add(a, &a->calls[i].call);
        if (a->calls[i].has_result) td_talk_add(a, &a->calls[i].result);
    }
    a->n_calls = 0;
}

static bool all_answered(const struct td_ask *a)
{
    for (size_t i = 0; i < a->n_calls; i++)
        if (!a->calls[i].has_result) return false;
    return true;
}

void td_talk_call(struct td_ask *a, const struct td_where *at, const char *id,
                  const struct td_message *m)
{
    if (a->n_calls > 0 && all_answered(a)) flush_calls(a);
    if (a->n_calls == TD_API_MAX_CALLS) {
        td_fault_set(&a->rd, 400, NULL, at, NULL, "more than %d calls wait for their results",
                     TD_API_MAX_CALLS);
        return;
    }
    if (a->n_calls == a->cap_calls) {
        const size_t cap = a->cap_calls ? a->cap_calls * 2 : 4;
        struct td_ask_call *grown = realloc(a->calls, cap * sizeof(*grown));
        if (!grown) {
            td_fault_set(&a->rd, 500, NULL, NULL, NULL, "There is no memory for the calls.");
            return;
        }
        a->calls = grown;
        a->cap_calls = cap;
    }
    a->calls[a->n_calls++] = (struct td_ask_call){.id = id, .call = *m};
}

static struct td_ask_call *call_of(struct td_ask *a, const char *id, const char *name)
{
    for (size_t i = 0; i < a->n_calls; i++) {
        struct td_ask_call *c = &a->calls[i];
        const bool is_it =
            id ? c->id && strcmp(c->id, id) == 0 : !name || strcmp(c->call.tool_name, name) == 0;
        if (is_it && !c->has_result) return c;
    }
    return NULL;
}

void td_talk_result(struct td_ask *a, const struct td_where *at, const char *id, const char *name,
                    struct td_str content)
{
    struct td_ask_call *call = call_of(a, id, name);
    struct td_message m = {.role = TD_ROLE_TOOL,
                           .content = content.at,
                           .content_bytes = content.size_bytes,
                           .tool_name = call ? call->call.tool_name : name};
    if (call) {
        call->result = m;
        call->has_result = true;
        return;
    }
    // A result whose call is not in the request has a place only if it says whose it is.
    if (!name) {
        td_fault_set(&a->rd, 400, NULL, at, NULL,
                     "no call before it waits for the result with the id '%.60s'", id ? id : "");
        return;
    }
    flush_calls(a);
    td_talk_add(a, &m);
}

void td_talk_end(struct td_ask *a)
{
    flush_calls(a);
}

static void add_tool(struct td_ask *a, const json_t *function, const struct td_where *at)
{
    struct td_tool tool = {0};
    if (!td_read_text(&a->rd, function, at, "name", &tool.name)) {
        td_fault_set(&a->rd, 400, NULL, at, "name", "the function has no name");
        return;
    }
    for (size_t i = 0; i < a->n_tools; i++) {
        if (strcmp(a->tools[i].name, tool.name) != 0) continue;
        td_fault_set(&a->rd, 400, NULL, at, "name", "two functions are called '%.60s'", tool.name);
        return;
    }
    (void)td_read_text(&a->rd, function, at, "description", &tool.description);
    const json_t *parameters = td_read_object(&a->rd, function, at, "parameters");
    if (parameters) tool.parameters = td_reader_keep(&a->rd, json_dumps(parameters, JSON_COMPACT));
    a->tools[a->n_tools++] = tool;
}

static void read_tool(struct td_ask *a, const json_t *tool, const struct td_where *at,
                      const char *inner)
{
    const struct td_where at_inner = {.up = at, .key = inner};
    const char *type = inner ? NULL : ""; // a tool that is flat says what it is
    if (!json_is_object(tool)) td_fault_type(&a->rd, at, NULL, "an object", tool);
    (void)td_read_text(&a->rd, tool, at, "type", &type);
    if (type && strcmp(type, "function") != 0)
        td_fault_set(&a->rd, 400, "unsupported_parameter", at, "type",
                     "only functions are supported, not '%.40s'", type);
    const json_t *function = inner ? td_read_object(&a->rd, tool, at, inner) : tool;
    if (td_is_fine(&a->rd)) add_tool(a, function, inner ? &at_inner : at);
}

void td_talk_tools(struct td_ask *a, const json_t *o, const char *inner)
{
    const json_t *tools = td_read_array(&a->rd, o, NULL, "tools");
    const struct td_where list = {.key = "tools"};
    const size_t n = json_array_size(tools);
    bool is_parallel = false;
    size_t i;
    const json_t *tool;
    if (td_read_bool(&a->rd, o, NULL, "parallel_tool_calls", &is_parallel))
        a->n_calls_wanted = is_parallel ? TD_JOB_CALLS_MORE : TD_JOB_CALLS_ONE;
    if (n > 1024) td_fault_set(&a->rd, 400, NULL, NULL, "tools", "at most 1024 tools, not %zu", n);
    if (n == 0 || !td_is_fine(&a->rd)) return;
    a->tools = td_reader_keep(&a->rd, calloc(n, sizeof(*a->tools)));
    json_array_foreach(tools, i, tool)
    {
        const struct td_where at = {.up = &list, .i = i};
        if (!td_is_fine(&a->rd)) return;
        read_tool(a, tool, &at, inner);
    }
}

static bool has_tool(const struct td_ask *a, const char *name)
{
    for (size_t i = 0; i < a->n_tools; i++)
        if (strcmp(a->tools[i].name, name) == 0) return true;
    return false;
}

static void choose_by_word(struct td_ask *a, const char *word)
{
    if (strcmp(word, "none") == 0)
        a->tool_choice = TD_TOOLS_NONE;
    else if (strcmp(word, "required") == 0)
        a->tool_choice = TD_TOOLS_REQUIRED;
    else if (strcmp(word, "auto") != 0)
        td_fault_set(&a->rd, 400, NULL, NULL, "tool_choice",
                     "none, auto, required or a function is expected, not '%.40s'", word);
}

void td_talk_choice(struct td_ask *a, const json_t *o, const char *inner)
{
    const json_t *value = td_read_get(o, "tool_choice");
    const char *word = NULL;
    if (!value) return;
    if (json_is_string(value)) {
        if (td_read_text(&a->rd, o, NULL, "tool_choice", &word)) choose_by_word(a, word);
    } else if (json_is_object(value)) {
        const struct td_where at = {.key = "tool_choice"};
        const struct td_where at_inner = {.up = &at, .key = inner};
        (void)td_read_text(&a->rd, value, &at, "type", &word);
        if (word && strcmp(word, "function") != 0)
            td_fault_set(&a->rd, 400, "unsupported_parameter", &at, "type",
                         "only functions can be chosen, not '%.40s'", word);
        const json_t *function = inner ? td_read_object(&a->rd, value, &at, inner) : value;
        if (!td_read_text(&a->rd, function, inner ? &at_inner : &at, "name", &a->tool_name))
            td_fault_set(&a->rd, 400, NULL, inner ? &at_inner : &at, "name",
                         "the name of a function is expected");
        a->tool_choice = TD_TOOLS_NAMED;
    } else {
        td_fault_type(&a->rd, NULL, "tool_choice", "a string or an object", value);
    }
    if (!td_is_fine(&a->rd)) return;
    if (a->tool_choice == TD_TOOLS_REQUIRED && a->n_tools == 0)
        td_fault_set(&a->rd, 400, NULL, NULL, "tool_choice",
                     "a call is required, but there are no tools");
    if (a->tool_choice == TD_TOOLS_NAMED && !has_tool(a, a->tool_name))
        td_fault_set(&a->rd, 400, NULL, NULL, "tool_choice", "there is no tool '%.60s'",
                     a->tool_name);
}
