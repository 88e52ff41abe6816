// SPDX-License-Identifier: MIT
// Arbitrary bodies to every route, answered by a script at once. Always: an answer that ends, with
// a status that means something, and whose body is JSON, or JSON line by line, whatever stood in
// the request. The first byte chooses the route, and what is answered.
#include "../tests/server/api_script.h"

#include <jansson.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const paths[] = {
    "/v1/chat/completions", "/v1/completions", "/v1/responses", "/api/chat",
    "/api/generate",        "/api/show",       "/v1/models/x",
};

// An answer whose next turn is known.
static const struct td_job_event talk[] = {
    SAYS(TD_CHANNEL_ANALYSIS, "Hm."),
    SAYS(TD_CHANNEL_FINAL, "So <|end|>\n"),
    ENDS(TD_JOB_STOPPED),
};

static void check_json(const char *text, size_t n)
{
    json_t *value = json_loadb(text, n, JSON_ALLOW_NUL | JSON_REJECT_DUPLICATES, NULL);
    if (!json_is_object(value)) abort();
    json_decref(value);
}

// Lines: of an event stream, or objects.
static void check_stream(const char *text, size_t n, bool is_events)
{
    while (n > 0) {
        const char *end = memchr(text, '\n', n);
        if (!end) abort();
        const size_t n_line = (size_t)(end - text);
        if (!is_events)
            check_json(text, n_line);
        else if (n_line > 6 && memcmp(text, "data: {", 7) == 0)
            check_json(text + 6, n_line - 6);
        else if (n_line > 0 && text[0] != ':' && memcmp(text, "event", 5) != 0 &&
                 memcmp(text, "data: [DONE]", 12) != 0)
            abort();
        n -= n_line + 1;
        text = end + 1;
    }
}

static void check_answer(struct td_api_reply *r)
{
    struct td_api_head head;
    if (!td_api_is_settled(r)) abort();
    td_api_head(r, &head);
    if (head.status != 200 && head.status != 400 && head.status != 404 && head.status != 405)
        abort();
    const bool is_events = strcmp(head.content_type, "text/event-stream") == 0;
    for (;;) {
        const char *bytes = NULL;
        size_t n = 0;
        const enum td_api_state state = td_api_read(r, &bytes, &n);
        if (state == TD_API_WAIT) abort();
        if (state == TD_API_DONE) break;
        if (head.is_stream)
            check_stream(bytes, n, is_events);
        else
            check_json(bytes, n);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct td_api *api;
    if (size == 0) return 0;
    if (!api) api = script_api(rig_tokenizer());
    const size_t n_routes = sizeof(paths) / sizeof(paths[0]);
    const size_t i_route = data[0] % n_routes;
    const bool has_calls = data[0] / n_routes % 2 == 0;
    char *body = malloc(size > 1 ? size - 1 : 1); // an over-read is seen
    if (!body) return 0;
    memcpy(body, data + 1, size - 1);
    script.events = has_calls ? script_events : talk;
    script.n_events =
        has_calls ? sizeof(script_events) / sizeof(*script_events) : sizeof(talk) / sizeof(*talk);
    script.n_released = script.n_events;
    const struct td_api_request req = {
        .method = "POST", .path = paths[i_route], .body = body, .body_bytes = size - 1};
    asked.n_jobs = asked.n_submitted = asked.n_cancelled = 0;
    struct td_api_reply *r = td_api_begin(api, &req);
    if (!r) abort();
    free(body); // nothing may point into it
    check_answer(r);
    td_api_end(r);
    if (asked.n_open != 0) abort();
    return 0;
}
