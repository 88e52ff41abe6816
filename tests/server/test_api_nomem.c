// SPDX-License-Identifier: MIT
// Memory that runs out while requests are answered, at every allocation in turn: an error, an
// answer that ends early, or none; nothing leaks, and what is said is JSON. Linked with -Wl,--wrap.
// cmocka.h needs these first.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "server/api_script.h"

#include <jansson.h>

static uint32_t n_until_failure; // 0: never fails

void *__real_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t size);

static bool fails(void)
{
    return n_until_failure > 0 && --n_until_failure == 0;
}

void *__wrap_malloc(size_t size)
{
    return fails() ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t n, size_t size)
{
    return fails() ? NULL : __real_calloc(n, size);
}

void *__wrap_realloc(void *p, size_t size)
{
    return fails() ? NULL : __real_realloc(p, size);
}

static struct td_api *api;

// One request whose k-th allocation fails; whether none did.
static bool answer_fails(const char *path, const char *body, uint32_t k)
{
    const struct td_api_request req = {
        .method = "POST", .path = path, .body = body, .body_bytes = strlen(body)};
    n_until_failure = k;
    struct td_api_reply *r = td_api_begin(api, &req);
    if (r) assert_true(td_api_is_settled(r));
    struct td_api_head head = {.status = 500};
    if (r) td_api_head(r, &head);
    size_t n_total = 0;
    char said[300] = "";
    for (bool is_done = !r; !is_done;) {
        const char *bytes = NULL;
        size_t n = 0;
        const enum td_api_state state = td_api_read(r, &bytes, &n);
        assert_int_not_equal(state, TD_API_WAIT);
        is_done = state == TD_API_DONE;
        if (is_done || head.is_stream) continue;
        n_total += n;
        const uint32_t held = n_until_failure;
        n_until_failure = 0;
        json_t *value = json_loadb(bytes, n, JSON_ALLOW_NUL, NULL);
        if (!value) fail_msg("not JSON: %.*s", (int)n, bytes);
        json_decref(value);
        (void)snprintf(said, sizeof(said), "%.*s", (int)n, bytes);
        n_until_failure = held;
    }
    if (!head.is_stream && r) assert_int_equal(head.length_bytes, n_total);
    td_api_end(r);
    const bool had_enough = n_until_failure > 0;
    n_until_failure = 0;
    assert_int_equal(asked.n_open, 0);
    // To jansson a string without room is one that is not valid.
    const bool is_parser = head.status == 400 && strstr(said, "JSON");
    if (head.status != 200 && head.status != 500 && !is_parser)
        fail_msg("%s %s, allocation %u: %u %s", path, body, k, head.status, said);
    if (had_enough) assert_int_equal(head.status, 200);
    return !had_enough;
}

#define HI "\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]"
#define TOOLS                                                                                      \
    "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{\"type\":"     \
    "\"object\",\"properties\":{\"a\":{\"type\":\"number\"}}}}}]"

static void requests(void **state)
{
    (void)state;
    static const struct {
        const char *path, *body;
    } cases[] = {
        {"/v1/chat/completions", "{" HI "," TOOLS ",\"n\":2,\"stop\":\"a\",\"logprobs\":true,"
                                 "\"logit_bias\":{\"5\":1}}"},
        {"/v1/chat/completions", "{" HI "," TOOLS ",\"stream\":true,\"tool_choice\":\"required\"}"},
        {"/v1/chat/completions",
         "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"hi\"}]},"
         "{\"role\":\"assistant\",\"tool_calls\":[{\"id\":\"a\",\"function\":{\"name\":\"f\"}}]},"
         "{\"role\":\"tool\",\"tool_call_id\":\"a\",\"content\":\"x\"}]}"},
        {"/v1/completions", "{\"prompt\":[[104,105]],\"echo\":true}"},
        {"/v1/responses", "{\"input\":\"hi\",\"metadata\":{\"a\":\"b\"},\"stream\":true}"},
        {"/v1/responses", "{\"input\":[{\"type\":\"reasoning\",\"content\":[{\"text\":\"a\"}]},"
                          "{\"role\":\"user\",\"content\":\"hi\"}]}"},
        {"/api/chat", "{\"model\":\"m\"," HI "," TOOLS "}"},
        {"/api/generate", "{\"prompt\":\"hi\",\"stream\":false}"},
        {"/api/show", "{\"model\":\"m\"}"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint32_t k = 1;
        while (answer_fails(cases[i].path, cases[i].body, k)) assert_true(k++ < 5000);
        assert_true(k > 5);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(requests)};
    struct td_tokenizer *tokenizer = rig_tokenizer();
    json_set_alloc_funcs(__wrap_malloc, free);
    api = script_api(tokenizer);
    const int n_failed = cmocka_run_group_tests(tests, NULL, NULL);
    td_api_close(api);
    td_tokenizer_close(tokenizer);
    free(asked.tokens);
    return n_failed;
}
