// SPDX-License-Identifier: MIT
// Every allocation of the tokenizer and the chat format fails once: each time an error, no leak,
// nothing half made. malloc, calloc and realloc are wrapped by the linker (rules.cmake).
#include "text/harmony.h"

#include "small_vocab.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

// The names are the linker's.
// NOLINTBEGIN(bugprone-reserved-identifier)
void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);

static long n_until_failure = -1; // -1: never

static bool is_denied(void)
{
    if (n_until_failure < 0) return false;
    return n_until_failure-- == 0;
}

void *__wrap_malloc(size_t n)
{
    return is_denied() ? NULL : __real_malloc(n);
}

void *__wrap_calloc(size_t n, size_t size)
{
    return is_denied() ? NULL : __real_calloc(n, size);
}

void *__wrap_realloc(void *p, size_t n)
{
    return is_denied() ? NULL : __real_realloc(p, n);
}

// NOLINTEND(bugprone-reserved-identifier)

static void test_open(void **state)
{
    (void)state;
    uint8_t *bytes = NULL;
    struct td_gguf *g = small_gguf("gpt-4o", &bytes);
    long n = 0, n_without = 0;
    for (;; n++) {
        struct td_tokenizer *t = NULL;
        struct td_error err = {0};
        n_until_failure = n;
        const int code = td_tokenizer_open(&t, g, &err);
        const bool has_failed = n_until_failure < 0;
        n_until_failure = -1;
        if (!has_failed) {
            assert_int_equal(code, TD_OK);
            td_tokenizer_close(t);
            break;
        }
        if (code == TD_OK) { // PCRE2's just-in-time compiler gave up: patterns are interpreted
            n_without++;
            td_tokenizer_close(t);
            continue;
        }
        assert_int_equal(code, TD_ENOMEM);
        assert_null(t);
        assert_non_null(strstr(err.msg, "no memory"));
    }
    assert_true(n - n_without > 8); // the tables, the pattern, the list of names
    td_gguf_close(g);
    free(bytes);
}

static void test_encode(void **state)
{
    (void)state;
    static const char text[] =
        "hello wall \xFF\xFF <|start|> 123 aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    uint8_t *bytes = NULL;
    struct td_gguf *g = small_gguf("gpt-4o", &bytes);
    struct td_tokenizer *t = NULL;
    assert_int_equal(td_tokenizer_open(&t, g, NULL), TD_OK);
    long n = 0;
    for (;; n++) {
        struct td_ids ids = {0};
        struct td_error err = {0};
        assert_int_equal(td_ids_push(&ids, 7), TD_OK);
        n_until_failure = n;
        const int code = td_encode(t, text, sizeof(text) - 1, true, &ids, &err);
        const bool has_failed = n_until_failure < 0;
        n_until_failure = -1;
        if (has_failed) {
            assert_int_equal(code, TD_ENOMEM);
            assert_int_equal(ids.n, 1);
        }
        assert_int_equal(ids.at[0], 7);
        td_ids_free(&ids);
        if (!has_failed) {
            assert_int_equal(code, TD_OK);
            break;
        }
    }
    assert_true(n > 4);
    td_tokenizer_close(t);
    td_gguf_close(g);
    free(bytes);
}

static void ignore(void *ctx, const struct td_chat_event *event)
{
    (void)ctx;
    (void)event;
}

// Renders a chat and parses it as if it were generated; the first failure.
static int chat_once(const struct td_tokenizer *t, struct td_ids *ids, struct td_error *err)
{
    const struct td_tool tool = {.name = "f", .description = "d"};
    const struct td_message list[] = {
        {.role = TD_ROLE_SYSTEM, .content = "s", .content_bytes = 1},
        {.role = TD_ROLE_USER, .content = "hello \xE4\xB8\xAD", .content_bytes = 9},
        {.role = TD_ROLE_ASSISTANT, .reasoning = "r", .tool_name = "f", .tool_args = "{}"}};
    const struct td_chat chat = {.tools = &tool, .n_tools = 1, .messages = list, .n_messages = 3};
    struct td_harmony_parser *p = NULL;
    int code = td_harmony_render(t, &chat, ids, NULL, err);
    if (!code) code = td_harmony_parser_open(&p, t, err);
    for (size_t i = 0; !code && i < ids->n; i++)
        code = td_harmony_feed(p, ids->at[i], ignore, NULL, err);
    if (!code) code = td_harmony_finish(p, ignore, NULL, err);
    td_harmony_parser_close(p);
    return code;
}

static void test_chat(void **state)
{
    (void)state;
    uint8_t *bytes = NULL;
    struct td_gguf *g = small_gguf("gpt-4o", &bytes);
    struct td_tokenizer *t = NULL;
    assert_int_equal(td_tokenizer_open(&t, g, NULL), TD_OK);
    long n = 0;
    for (bool has_failed = true; has_failed; n++) {
        struct td_ids ids = {0};
        struct td_error err = {0};
        n_until_failure = n;
        const int code = chat_once(t, &ids, &err);
        has_failed = n_until_failure < 0;
        n_until_failure = -1;
        assert_int_equal(code, has_failed ? TD_ENOMEM : TD_OK);
        if (has_failed) assert_non_null(strstr(err.msg, "no memory"));
        td_ids_free(&ids);
    }
    assert_true(n > 20);
    td_tokenizer_close(t);
    td_gguf_close(g);
    free(bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_open), cmocka_unit_test(test_encode),
                                       cmocka_unit_test(test_chat)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
