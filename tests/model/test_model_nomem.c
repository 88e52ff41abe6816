// SPDX-License-Identifier: MIT
// Memory runs out at the Nth allocation, for every N until none fails: opening a model and writing
// one say so, free what they had and leave nothing behind. Linked with -Wl,--wrap.
#include "model/model.h"
#include "model/synth.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

// The linker chose these names. NOLINTBEGIN(bugprone-reserved-identifier,cert-*)
void *__real_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t size);

static long g_n_left = -1; // allocations until one fails; below 0: never

static int must_fail(void)
{
    if (g_n_left < 0) return 0;
    if (g_n_left == 0) return 1; // and every later one too
    g_n_left--;
    return 0;
}

void *__wrap_malloc(size_t size)
{
    return must_fail() ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t n, size_t size)
{
    return must_fail() ? NULL : __real_calloc(n, size);
}

void *__wrap_realloc(void *p, size_t size)
{
    return must_fail() ? NULL : __real_realloc(p, size);
}

// NOLINTEND(bugprone-reserved-identifier,cert-*)

static void check_open(const char *path)
{
    int code = TD_ENOMEM;
    long n = 0;
    for (; code != TD_OK && n < 10000; n++) {
        const struct td_model_options opt = {.n_threads = 1};
        struct td_error err = {0};
        struct td_model *m = NULL;
        g_n_left = n;
        code = td_model_open(&m, path, &opt, &err);
        g_n_left = -1;
        if (code == TD_OK) {
            td_model_close(m);
            continue;
        }
        assert_int_equal(code, TD_ENOMEM);
        assert_int_equal(err.code, TD_ENOMEM);
        assert_true(err.msg[0] != '\0');
        assert_null(m);
    }
    assert_int_equal(code, TD_OK);
    assert_true(n > 8); // it did fail on the way
}

static void test_open(void **state)
{
    (void)state;
    check_open("tests/data/synth-odd.gguf");
    check_open("synth:tiny,layers=5,vocab=300,pool=2");
}

static void test_write(void **state)
{
    (void)state;
    struct td_synth_shape s;
    assert_int_equal(td_synth_parse(&s, "tiny,layers=1,vocab=300", NULL), TD_OK);
    char path[64], part[80];
    snprintf(path, sizeof(path), "/tmp/td_test_model_nomem.%d.gguf", (int)getpid());
    snprintf(part, sizeof(part), "%s.part", path);
    int code = TD_ENOMEM;
    for (long n = 0; code != TD_OK && n < 10000; n++) {
        struct td_error err = {0};
        g_n_left = n;
        code = td_synth_write(&s, path, NULL, &err);
        g_n_left = -1;
        assert_int_equal(access(part, F_OK), -1);
        assert_int_equal(access(path, F_OK), code == TD_OK ? 0 : -1);
    }
    assert_int_equal(code, TD_OK);
    remove(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_open),
        cmocka_unit_test(test_write),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
