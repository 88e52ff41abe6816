// SPDX-License-Identifier: MIT
// Errors are one bounded, printable sentence, whatever a file puts into them.
#include "base/status.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static void test_sentence(void **state)
{
    (void)state;
    struct td_error err = {0};
    assert_int_equal(td_fail(&err, TD_EIO, "%s: part %d", "m.gguf", 2), TD_EIO);
    assert_int_equal(err.code, TD_EIO);
    assert_string_equal(err.msg, "m.gguf: part 2");
    assert_int_equal(td_fail(NULL, TD_EARG, "nobody listens"), TD_EARG);
}

static void test_is_cut(void **state)
{
    (void)state;
    struct td_error err = {0};
    char text[1000];
    memset(text, 'x', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    (void)td_fail(&err, TD_EIO, "%s", text);
    assert_int_equal(strlen(err.msg), sizeof(err.msg) - 1);
}

static void test_is_printable(void **state)
{
    (void)state;
    struct td_error err = {0};
    (void)td_fail(&err, TD_EFORMAT, "key '%s'", "a\nb\x1b[2Jc\x7f\r");
    assert_string_equal(err.msg, "key 'a?b?[2Jc\?\?'");
    (void)td_fail(&err, TD_EFORMAT, "%s",
                  "\xC2\x9B"
                  "A\xC2\xA9\xC3\x80\xC2"); // CSI; (c), A grave
    assert_string_equal(err.msg, "?\?A\xC2\xA9\xC3\x80\xC2");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sentence),
        cmocka_unit_test(test_is_cut),
        cmocka_unit_test(test_is_printable),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
