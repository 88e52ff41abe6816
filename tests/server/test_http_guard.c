// SPDX-License-Identifier: MIT
// Who may ask, rule by rule.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "server/http_guard.h"

#include <stdlib.h>
#include <string.h>

static void test_key(void **state)
{
    (void)state;
    assert_true(td_guard_key(NULL, NULL, NULL));
    assert_true(td_guard_key("secret", "Bearer secret", NULL));
    assert_true(td_guard_key("secret", "bearer   secret", NULL));
    assert_true(td_guard_key("secret", NULL, "secret"));
    assert_true(td_guard_key("secret", "Bearer no", "secret"));
    assert_false(td_guard_key("secret", NULL, NULL));
    assert_false(td_guard_key("secret", "secret", NULL));
    assert_false(td_guard_key("secret", "Basic secret", NULL));
    assert_false(td_guard_key("secret", "Bearer secre", NULL));
    assert_false(td_guard_key("secret", "Bearer secrets", NULL));
    assert_false(td_guard_key("secret", "Bearer ", ""));
    assert_false(td_guard_key("", NULL, NULL)); // an empty key opens nothing
    assert_false(td_guard_key("", "Bearer ", ""));
}

static void test_host(void **state)
{
    (void)state;
    static const char *const others[] = {"box.lan", "Other:9000"};
    const struct td_guard_names names = {"192.168.1.5", others, 2};
    static const char *const fine[] = {
        "localhost",      "LOCALHOST:80", "localhost.:1", "127.0.0.1",
        "127.1.2.3:8080", "[::1]:8080",   "a.localhost",  "192.168.1.5:8080",
        "box.lan:1",      "BOX.LAN",      "other"};
    for (size_t i = 0; i < sizeof(fine) / sizeof(fine[0]); i++)
        if (!td_guard_host(&names, fine[i])) fail_msg("%s", fine[i]);
    static const char *const foreign[] = {"",
                                          "evil.example",
                                          "localhost.evil.example",
                                          "127.0.0.1.evil.example",
                                          "evil.example:80",
                                          "192.168.1.6",
                                          "localhost:80:80",
                                          "localhost@evil.example",
                                          "[::1",
                                          "[::1]x",
                                          "[::2]",
                                          "box.lan.evil",
                                          ".localhost"};
    for (size_t i = 0; i + 1 < sizeof(foreign) / sizeof(foreign[0]); i++)
        if (td_guard_host(&names, foreign[i])) fail_msg("%s", foreign[i]);
    assert_false(td_guard_host(&names, NULL));
    // Bound to all addresses: digits are ours, names are not.
    const struct td_guard_names all = {"0.0.0.0", NULL, 0};
    assert_true(td_guard_host(&all, "10.0.0.7:8080"));
    assert_true(td_guard_host(&all, "[fe80::1]:8080"));
    assert_false(td_guard_host(&all, "evil.example"));
    char *far = malloc(100001);
    assert_non_null(far);
    memset(far, 'a', 100000);
    far[100000] = '\0';
    assert_false(td_guard_host(&all, far));
    free(far);
}

static void test_origin(void **state)
{
    (void)state;
    static const char *const list[] = {"https://a.example"}, *const any[] = {"*"};
    const char *host = "localhost:8080";
    assert_int_equal(td_guard_origin(NULL, host, false, NULL, 0), TD_ORIGIN_NONE);
    assert_int_equal(td_guard_origin("http://localhost:8080", host, false, NULL, 0),
                     TD_ORIGIN_SAME);
    assert_int_equal(td_guard_origin("https://localhost:8080", host, false, NULL, 0),
                     TD_ORIGIN_FOREIGN);
    assert_int_equal(td_guard_origin("https://localhost:8080", host, true, NULL, 0),
                     TD_ORIGIN_SAME);
    assert_int_equal(td_guard_origin("http://localhost:8081", host, false, NULL, 0),
                     TD_ORIGIN_FOREIGN);
    assert_int_equal(td_guard_origin("http://localhost", host, false, NULL, 0), TD_ORIGIN_FOREIGN);
    assert_int_equal(td_guard_origin("http://localhost", "localhost:80", false, NULL, 0),
                     TD_ORIGIN_SAME);
    assert_int_equal(td_guard_origin("http://localhost:80", "localhost", false, NULL, 0),
                     TD_ORIGIN_SAME);
    assert_int_equal(td_guard_origin("null", host, false, NULL, 0), TD_ORIGIN_FOREIGN);
    assert_int_equal(td_guard_origin("", host, false, list, 1), TD_ORIGIN_FOREIGN);
    assert_int_equal(td_guard_origin("https://a.example", host, false, list, 1), TD_ORIGIN_ALLOWED);
    assert_int_equal(td_guard_origin("https://a.example.b", host, false, list, 1),
                     TD_ORIGIN_FOREIGN);
    assert_int_equal(td_guard_origin("http://x", host, false, any, 1), TD_ORIGIN_ALLOWED);
    assert_int_equal(td_guard_origin("http://x", NULL, false, NULL, 0), TD_ORIGIN_FOREIGN);
}

static void test_words(void **state)
{
    (void)state;
    assert_true(td_guard_is_json("application/json"));
    assert_true(td_guard_is_json("Application/JSON; charset=utf-8"));
    assert_false(td_guard_is_json(NULL));
    assert_false(td_guard_is_json(""));
    assert_false(td_guard_is_json("text/plain"));
    assert_false(td_guard_is_json("application/jsonp"));
    assert_false(td_guard_is_json("text/plain; application/json"));
    assert_true(td_guard_is_token_list("authorization, x-stainless-os"));
    assert_false(td_guard_is_token_list("a\r\nSet-Cookie: b"));
    assert_false(td_guard_is_token_list(""));
    assert_false(td_guard_is_token_list(NULL));
    assert_true(td_guard_takes_gzip(NULL));
    assert_true(td_guard_takes_gzip("gzip, deflate, br"));
    assert_true(td_guard_takes_gzip("br;q=1, gzip;q=0.5"));
    assert_true(td_guard_takes_gzip("*"));
    assert_false(td_guard_takes_gzip("identity"));
    assert_false(td_guard_takes_gzip("gzip;q=0"));
    assert_false(td_guard_takes_gzip("gzip; q=0.0, br"));
    assert_false(td_guard_takes_gzip("gzipped"));
    assert_false(td_guard_takes_gzip(",,,;;"));
}

static void test_rate(void **state)
{
    (void)state;
    struct td_guard_rates *r = calloc(1, sizeof(*r));
    assert_non_null(r);
    for (int i = 0; i < 100; i++) assert_true(td_guard_rate(r, 1, 1000)); // no limit
    r->per_s = 10;
    uint64_t now_ns = 1;
    for (int i = 0; i < 10; i++) assert_true(td_guard_rate(r, 1, now_ns));
    assert_false(td_guard_rate(r, 1, now_ns));
    assert_true(td_guard_rate(r, 2, now_ns)); // others have their own
    now_ns += 100000001;                      // a tenth of a second: one more
    assert_true(td_guard_rate(r, 1, now_ns));
    assert_false(td_guard_rate(r, 1, now_ns));
    now_ns += 3600000000000u; // rest does not add up
    for (int i = 0; i < 10; i++) assert_true(td_guard_rate(r, 1, now_ns));
    assert_false(td_guard_rate(r, 1, now_ns));
    free(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_key),   cmocka_unit_test(test_host), cmocka_unit_test(test_origin),
        cmocka_unit_test(test_words), cmocka_unit_test(test_rate),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
