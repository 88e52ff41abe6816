// SPDX-License-Identifier: MIT
// The listener on loopback: who may listen where, strangers, wrong keys, floods, cancelling.
#include "link_support.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>

static void says(const struct td_error *err, const char *text)
{
    if (!strstr(err->msg, text)) fail_msg("'%s' does not say '%s'", err->msg, text);
}

static void address_of(const struct td_listener *l, char out[32])
{
    snprintf(out, 32, "127.0.0.1:%u", td_listener_port(l));
}

struct caller {
    char where[32];
    const struct td_key *key;
    struct td_link *link;
    struct td_error err;
    int code;
    pthread_t thread;
};

static void *caller_main(void *ctx)
{
    struct caller *c = ctx;
    const struct td_link_limits limits = {.handshake_ms = 5000};
    c->code = td_link_connect(&c->link, c->where, c->key, &limits, NULL, &c->err);
    return NULL;
}

static void call(struct caller *c, const struct td_listener *l, const struct td_key *key)
{
    *c = (struct caller){.key = key};
    address_of(l, c->where);
    assert_int_equal(pthread_create(&c->thread, NULL, caller_main, c), 0);
}

static void test_where(void **state)
{
    (void)state;
    struct td_listener *l;
    struct td_link *link;
    struct td_error err;
    static const char *const bad[] = {"",
                                      "localhost",
                                      ":80",
                                      "127.0.0.1:",
                                      "a:x",
                                      "127.0.0.1:1x",
                                      "127.0.0.1:65536",
                                      "::1:80",
                                      "[::1:80",
                                      "127.0.0.1:-1",
                                      "127.0.0.1:+1",
                                      "[]:1",
                                      "a:123456"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        assert_int_equal(td_listener_open(&l, bad[i], &key_a, NULL, &err), TD_EARG);
        assert_null(l);
        assert_int_equal(td_link_connect(&link, bad[i], &key_a, NULL, NULL, &err), TD_EARG);
        assert_null(link);
    }
    // Without a key: this machine only, in both directions.
    static const char *const far[] = {"0.0.0.0:0", "10.1.2.3:99", "[::]:0", "[2001:db8::1]:9"};
    for (size_t i = 0; i < sizeof(far) / sizeof(far[0]); i++) {
        assert_int_equal(td_listener_open(&l, far[i], NULL, NULL, &err), TD_EARG);
        says(&err, "without a key");
        assert_int_equal(td_link_connect(&link, far[i], NULL, NULL, NULL, &err), TD_EARG);
        says(&err, "without a key");
    }
    assert_int_equal(td_listener_open(&l, "0.0.0.0:0", &key_a, NULL, &err), TD_OK);
    assert_true(td_listener_port(l) > 0);
    td_listener_close(l);
    assert_int_equal(td_listener_open(&l, "127.9.9.9:0", NULL, NULL, &err), TD_OK);
    td_listener_close(l);
    assert_int_equal(td_listener_open(&l, "localhost:0", NULL, NULL, &err), TD_OK);
    // Nobody there.
    char where[32];
    snprintf(where, sizeof(where), "localhost:%u", td_listener_port(l));
    td_listener_close(l);
    assert_int_equal(td_link_connect(&link, where, &key_a, NULL, NULL, &err), TD_EIO);
    says(&err, "refused");
    td_listener_close(NULL);
}

static void test_port_taken(void **state)
{
    (void)state;
    struct td_listener *a, *b;
    struct td_error err;
    assert_int_equal(td_listener_open(&a, "127.0.0.1:0", &key_a, NULL, &err), TD_OK);
    char where[32];
    address_of(a, where);
    assert_int_equal(td_listener_open(&b, where, &key_a, NULL, &err), TD_EIO);
    assert_null(b);
    says(&err, "cannot listen on");
    td_listener_close(a);
}

static void test_accept(void **state)
{
    (void)state;
    for (int with_key = 0; with_key < 2; with_key++) {
        const struct td_key *key = with_key ? &key_a : NULL;
        struct td_listener *l;
        struct td_error err;
        struct td_link *link;
        assert_int_equal(td_listener_open(&l, "127.0.0.1:0", key, NULL, &err), TD_OK);
        const uint64_t t0_ns = td_clock_ns();
        assert_int_equal(td_listener_accept(l, 50, &link, &err), TD_OK);
        assert_null(link);
        assert_true(seconds_since(t0_ns) >= 0.05);
        struct caller c[3];
        struct td_link *links[3];
        for (int i = 0; i < 3; i++) call(&c[i], l, key);
        if (!with_key) nap_ms(100); // all wait at once: one accept each, none is lost
        for (int i = 0; i < 3; i++) {
            assert_int_equal(td_listener_accept(l, 5000, &links[i], &err), TD_OK);
            assert_non_null(links[i]);
            assert_int_equal(td_link_is_encrypted(links[i]), with_key);
            assert_non_null(strstr(td_link_peer(links[i]), "127.0.0.1:"));
        }
        for (int i = 0; i < 3; i++) {
            pthread_join(c[i].thread, NULL);
            if (c[i].code) fail_msg("%s", c[i].err.msg);
            assert_int_equal(td_link_write(c[i].link, "123456", 6, &err), TD_OK);
        }
        assert_int_equal(td_listener_n_refused(l, NULL), 0);
        td_listener_close(l); // links go on without it
        for (int i = 0; i < 3; i++) {
            char text[6];
            assert_int_equal(td_link_read(links[i], text, 6, &err), TD_OK);
            assert_memory_equal(text, "123456", 6);
            td_link_close(c[i].link);
            td_link_close(links[i]);
        }
    }
}

static int stranger(const struct td_listener *l)
{
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    const struct sockaddr_in address = {.sin_family = AF_INET,
                                        .sin_port = htons(td_listener_port(l)),
                                        .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (const struct sockaddr *)&address, sizeof(address)), 0);
    return fd;
}

static void test_wrong_key_then_right(void **state)
{
    (void)state;
    struct td_listener *l;
    struct td_error err;
    struct td_link *link;
    assert_int_equal(td_listener_open(&l, "127.0.0.1:0", &key_a, NULL, &err), TD_OK);
    struct caller wrong, right;
    call(&wrong, l, &key_b);
    assert_int_equal(td_listener_accept(l, 1500, &link, &err), TD_OK);
    assert_null(link);
    pthread_join(wrong.thread, NULL);
    assert_int_equal(wrong.code, TD_EIO);
    says(&wrong.err, "the same (tandem key show)?");
    assert_int_equal(td_listener_n_refused(l, &err), 1);
    says(&err, "the same (tandem key show)?");
    call(&right, l, &key_a);
    assert_int_equal(td_listener_accept(l, 5000, &link, &err), TD_OK);
    assert_non_null(link);
    pthread_join(right.thread, NULL);
    assert_int_equal(right.code, TD_OK);
    td_link_close(link);
    td_link_close(right.link);
    td_listener_close(l);
}

// More strangers than there are slots, and they say nothing: the peer gets in all the same, and
// what a stranger is told is nothing.
static void test_flood(void **state)
{
    (void)state;
    enum { N = 3 * TD_LISTENER_MAX_PENDING };
    struct td_listener *l;
    struct td_error err;
    struct td_link *link;
    const struct td_link_limits limits = {.handshake_ms = 400};
    assert_int_equal(td_listener_open(&l, "127.0.0.1:0", &key_a, &limits, &err), TD_OK);
    int fd[N];
    for (int i = 0; i < N; i++) fd[i] = stranger(l);
    struct caller c;
    call(&c, l, &key_a);
    const uint64_t t0_ns = td_clock_ns();
    assert_int_equal(td_listener_accept(l, 10000, &link, &err), TD_OK);
    assert_non_null(link);
    assert_true(seconds_since(t0_ns) < 5);
    assert_true(td_listener_n_refused(l, &err) >= 2 * TD_LISTENER_MAX_PENDING);
    says(&err, "no handshake within");
    pthread_join(c.thread, NULL);
    assert_int_equal(c.code, TD_OK);
    for (int i = 0; i < N; i++) {
        char byte;
        const ssize_t n = recv(fd[i], &byte, 1, MSG_DONTWAIT);
        assert_true(n <= 0);
        close(fd[i]);
    }
    td_link_close(link);
    td_link_close(c.link);
    td_listener_close(l);
}

// With a long handshake time the oldest gives way after a second.
static void test_oldest_gives_way(void **state)
{
    (void)state;
    enum { N = TD_LISTENER_MAX_PENDING };
    struct td_listener *l;
    struct td_error err;
    struct td_link *link;
    const struct td_link_limits limits = {.handshake_ms = 60000};
    assert_int_equal(td_listener_open(&l, "127.0.0.1:0", &key_a, &limits, &err), TD_OK);
    int fd[N];
    for (int i = 0; i < N; i++) fd[i] = stranger(l);
    struct caller c;
    call(&c, l, &key_a);
    const uint64_t t0_ns = td_clock_ns();
    assert_int_equal(td_listener_accept(l, 10000, &link, &err), TD_OK);
    assert_non_null(link);
    assert_true(seconds_since(t0_ns) < 5);
    assert_true(td_listener_n_refused(l, NULL) >= 1);
    pthread_join(c.thread, NULL);
    assert_int_equal(c.code, TD_OK);
    for (int i = 0; i < N; i++) close(fd[i]);
    td_link_close(link);
    td_link_close(c.link);
    td_listener_close(l);
}

static void *cancel_soon(void *ctx)
{
    nap_ms(50);
    td_listener_cancel(ctx);
    return NULL;
}

static void test_cancel(void **state)
{
    (void)state;
    struct td_listener *l;
    struct td_error err;
    struct td_link *link;
    assert_int_equal(td_listener_open(&l, "127.0.0.1:0", NULL, NULL, &err), TD_OK);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, cancel_soon, l), 0);
    assert_int_equal(td_listener_accept(l, 20000, &link, &err), TD_ECANCEL);
    assert_null(link);
    pthread_join(thread, NULL);
    assert_int_equal(td_listener_accept(l, 20000, &link, &err), TD_ECANCEL); // and stays so
    td_listener_close(l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_where),  cmocka_unit_test(test_port_taken),
        cmocka_unit_test(test_accept), cmocka_unit_test(test_wrong_key_then_right),
        cmocka_unit_test(test_flood),  cmocka_unit_test(test_oldest_gives_way),
        cmocka_unit_test(test_cancel),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
