// SPDX-License-Identifier: MIT
// Every allocation of the tokenizer fails once: each time an error, no leak, nothing half made.
// malloc, calloc and realloc are wrapped by the linker (rules.cmake).
#include "text/tokenizer.h"

#include "small_vocab.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

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

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_open), cmocka_unit_test(test_encode)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
