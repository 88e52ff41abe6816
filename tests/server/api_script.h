// SPDX-License-Identifier: MIT
// One answer with an event of every kind, for those who ask every route for one.
#ifndef TD_TESTS_SERVER_API_SCRIPT_H
#define TD_TESTS_SERVER_API_SCRIPT_H

#include "api_rig.h"

// Quotes and a NUL: what is passed on is written anew.
static const struct td_job_token script_token = {
    .chosen = {'h', -0.5f}, .top = {{0xC3, -1}}, .n_top = 1};
static const struct td_job_event script_events[] = {
    {.kind = TD_JOB_PROGRESS, .n_done = 1, .n_prompt = 2, .text = ""},
    SAYS(TD_CHANNEL_ANALYSIS, "Hm \"so\"."),
    SAYS(TD_CHANNEL_COMMENTARY, "Wait."),
    {.kind = TD_JOB_TEXT,
     .channel = TD_CHANNEL_FINAL,
     .text = "h",
     .text_bytes = 1,
     .tokens = &script_token,
     .n_tokens = 1},
    TOOL(TD_JOB_TOOL_BEGIN, "f"),
    TOOL(TD_JOB_TOOL_ARGS, "{\"a\":\"\\u0000\"}"),
    TOOL(TD_JOB_TOOL_END, ""),
    ENDS(TD_JOB_TOOLS),
};

// An API whose every answer that is, at once.
static inline struct td_api *script_api(const struct td_tokenizer *tokenizer)
{
    struct td_api *api;
    const struct td_api_config cfg = {
        .tokenizer = tokenizer, .model_name = "small", .n_ctx = 4096, .version = "1"};
    script.events = script_events;
    script.n_events = script.n_released = sizeof(script_events) / sizeof(script_events[0]);
    if (td_api_open(&api, &cfg, NULL)) abort();
    return api;
}

#endif
