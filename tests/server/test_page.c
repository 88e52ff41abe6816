// SPDX-License-Identifier: MIT
// The page's table, whichever page was built in: "/" is there, plain, and everything it names too.
#include "server/http.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static void root_is_html(void **state)
{
    (void)state;
    const struct td_page_file *page = td_page_find("/");
    assert_non_null(page);
    assert_string_equal(page->content_type, "text/html; charset=utf-8");
    assert_false(page->is_gzip);
    assert_true(page->n_bytes > 100);
    assert_memory_equal(page->bytes, "<!doctype html>", 15);
    assert_ptr_equal(td_page_find("/index.html"), page);
}

static void unknown_is_null(void **state)
{
    (void)state;
    assert_null(td_page_find("/nothing"));
    assert_null(td_page_find(""));
    assert_null(td_page_find("/../etc/passwd"));
}

// Every src="..." and href="..." of the page must be served, from this server alone.
static void names_are_found(void **state)
{
    (void)state;
    const struct td_page_file *page = td_page_find("/");
    unsigned n_names = 0;
    for (size_t i = 0; i + 6 < page->n_bytes; i++) {
        const char *at = (const char *)page->bytes + i;
        const size_t skip = memcmp(at, "src=\"", 5) == 0    ? 5
                            : memcmp(at, "href=\"", 6) == 0 ? 6
                                                            : 0;
        if (skip == 0) continue;
        const char *end = memchr(at + skip, '"', page->n_bytes - i - skip);
        assert_non_null(end);
        char name[200];
        assert_in_range(end - at, skip, sizeof(name) - 1 + skip);
        snprintf(name, sizeof(name), "%.*s", (int)(end - at - (ptrdiff_t)skip), at + skip);
        const struct td_page_file *file = td_page_find(name);
        if (!file) print_error("%s is not there\n", name);
        assert_non_null(file);
        assert_true(file->n_bytes > 0);
        if (file->is_gzip) assert_memory_equal(file->bytes, "\x1f\x8b", 2);
        n_names++;
    }
    assert_true(n_names > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(root_is_html),
        cmocka_unit_test(unknown_is_null),
        cmocka_unit_test(names_are_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
