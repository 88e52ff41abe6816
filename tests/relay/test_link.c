// SPDX-License-Identifier: MIT
// A link between two ends: who gets in, what arrives, and that every wait ends.
#include "relay/link_impl.h"
#include "relay/wire.h"

#include "link_support.h"

#include <openssl/evp.h>
#include <openssl/rsa.h>
#include <openssl/x509.h>
#include <poll.h>
#include <signal.h>

#define MIB ((size_t)1 << 20)

static void says(const struct td_error *err, const char *text)
{
    if (!strstr(err->msg, text)) fail_msg("'%s' does not say '%s'", err->msg, text);
}

static void test_right_key(void **state)
{
    (void)state;
    for (int with_key = 0; with_key < 2; with_key++) {
        struct td_link *link[2];
        connect_pair(link, with_key ? &key_a : NULL, quick);
        struct td_error err;
        for (int i = 0; i < 2; i++) {
            assert_int_equal(td_link_is_encrypted(link[i]), with_key);
            char text[6] = "";
            assert_int_equal(td_link_write(link[i], "hello", 6, &err), TD_OK);
            assert_int_equal(td_link_read(link[1 - i], text, 6, &err), TD_OK);
            assert_string_equal(text, "hello");
            assert_int_equal(td_link_read(link[1 - i], text, 0, &err), TD_OK);
            assert_int_equal(td_link_write(link[i], text, 0, &err), TD_OK);
        }
        for (int i = 0; with_key && i < 2; i++) {
            SSL *ssl = link[i]->ssl;
            assert_int_equal(SSL_version(ssl), TLS1_3_VERSION);
            assert_true(SSL_session_reused(ssl));
            assert_int_equal(SSL_get_num_tickets(ssl), 0);
            assert_int_equal(SSL_SESSION_get_max_early_data(SSL_get0_session(ssl)), 0);
            assert_null(SSL_get0_peer_certificate(ssl));
            // A fresh key exchange took place: the PSK alone would open nothing.
            EVP_PKEY *exchange = NULL;
            assert_int_equal(SSL_get_peer_tmp_key(ssl, &exchange), 1);
            EVP_PKEY_free(exchange);
        }
        for (int i = 0; i < 2; i++) td_link_close(link[i]);
    }
    td_link_close(NULL);
}

static void test_wrong_key(void **state)
{
    (void)state;
    int fd[2];
    make_pair(fd);
    struct end e[2];
    end_start(&e[0], fd[0], true, &key_a, quick);
    end_start(&e[1], fd[1], false, &key_b, quick);
    for (int i = 0; i < 2; i++) {
        end_join(&e[i]);
        assert_int_equal(e[i].code, TD_EIO);
        assert_null(e[i].link);
        says(&e[i].err, "the same (tandem key show)?");
    }
}

static void test_key_on_one_side(void **state)
{
    (void)state;
    for (int listening = 0; listening < 2; listening++) {
        int fd[2];
        make_pair(fd);
        struct end keyed;
        end_start(&keyed, fd[0], listening, &key_a, quick);
        struct td_link *plain;
        struct td_error err;
        assert_int_equal(td_link_of_fd(&plain, fd[1], !listening, NULL, &quick, &err), TD_OK);
        uint8_t frame[48] = "TDKV";
        assert_int_equal(td_link_write(plain, frame, sizeof(frame), &err), TD_OK);
        end_join(&keyed);
        assert_int_equal(keyed.code, TD_EIO);
        says(&keyed.err, "do both ends have a key");
        td_link_close(plain);
    }
}

// The connecting side's first flight, to be sent in pieces.
static size_t first_flight(uint8_t *out, size_t cap)
{
    int fd[2];
    make_pair(fd);
    struct end client;
    end_start(&client, fd[0], false, &key_a, quick);
    const ssize_t n = recv(fd[1], out, cap, 0);
    assert_true(n > 64);
    close(fd[1]);
    end_join(&client);
    assert_int_equal(client.code, TD_EIO);
    return (size_t)n;
}

static void test_truncated_handshake(void **state)
{
    (void)state;
    uint8_t hello[4096];
    const size_t n = first_flight(hello, sizeof(hello));
    for (size_t cut = 0; cut <= n; cut += cut < 12 || cut + 40 > n ? 1 : 29) {
        int fd[2];
        make_pair(fd);
        struct end server;
        end_start(&server, fd[0], true, &key_a, quick);
        assert_int_equal(send(fd[1], hello, cut, 0), cut);
        close(fd[1]);
        end_join(&server);
        assert_int_equal(server.code, TD_EIO);
    }
    // The same, silent instead of closed: time is up, and it was the time that was set.
    for (size_t cut = 0; cut <= n; cut += n / 2) {
        int fd[2];
        make_pair(fd);
        const uint64_t t0_ns = td_clock_ns();
        struct end server;
        end_start(&server, fd[0], true, &key_a, quick);
        assert_int_equal(send(fd[1], hello, cut, 0), cut);
        end_join(&server);
        assert_int_equal(server.code, TD_EIO);
        says(&server.err, "no handshake within 0.3 seconds");
        assert_true(seconds_since(t0_ns) >= 0.3);
        close(fd[1]);
    }
    // Every byte of it counts.
    for (size_t i = 0; i < n; i += 7) {
        int fd[2];
        make_pair(fd);
        struct end server;
        end_start(&server, fd[0], true, &key_a, quick);
        hello[i] ^= 0x10;
        assert_int_equal(send(fd[1], hello, n, 0), n);
        hello[i] ^= 0x10;
        shutdown(fd[1], SHUT_WR);
        end_join(&server);
        assert_int_equal(server.code, TD_EIO);
        close(fd[1]);
    }
}

static void test_garbage(void **state)
{
    (void)state;
    struct td_rng rng = {.state = 5};
    for (int round = 0; round < 40; round++) {
        uint8_t bytes[512];
        for (size_t i = 0; i < sizeof(bytes); i++) bytes[i] = (uint8_t)td_rng_u64(&rng);
        if (round % 3 == 1) memcpy(bytes, "\x16\x03\x01\x01\xf0\x01", 6);
        if (round % 3 == 2) memcpy(bytes, "GET / HTTP/1.1\r\n\r\n", 18);
        int fd[2];
        make_pair(fd);
        struct end e;
        end_start(&e, fd[0], round % 2, &key_a, quick);
        assert_int_equal(send(fd[1], bytes, sizeof(bytes), 0), sizeof(bytes));
        shutdown(fd[1], SHUT_WR);
        end_join(&e);
        assert_int_equal(e.code, TD_EIO);
        close(fd[1]);
    }
}

// A server that has a certificate of its own making and no key: TLS as the web has it.
static void *certificate_server(void *ctx)
{
    const int fd = *(int *)ctx;
    EVP_PKEY *pkey = EVP_EC_gen("P-256");
    X509 *cert = X509_new();
    X509_set_version(cert, 2);
    X509_gmtime_adj(X509_getm_notBefore(cert), 0);
    X509_gmtime_adj(X509_getm_notAfter(cert), 3600);
    X509_set_pubkey(cert, pkey);
    X509_sign(cert, pkey, EVP_sha256());
    SSL_CTX *tls = SSL_CTX_new(TLS_server_method());
    SSL_CTX_use_certificate(tls, cert);
    SSL_CTX_use_PrivateKey(tls, pkey);
    SSL *ssl = SSL_new(tls);
    SSL_set_fd(ssl, fd);
    const int done = SSL_accept(ssl);
    SSL_free(ssl);
    SSL_CTX_free(tls);
    X509_free(cert);
    EVP_PKEY_free(pkey);
    return done == 1 ? ctx : NULL;
}

static void test_certificate_instead_of_key(void **state)
{
    (void)state;
    int fd[2];
    make_pair(fd);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, certificate_server, &fd[1]), 0);
    struct td_link *link;
    struct td_error err;
    const struct td_link_limits limits = {.handshake_ms = 3000};
    assert_int_equal(td_link_of_fd(&link, fd[0], false, &key_a, &limits, &err), TD_EIO);
    assert_null(link);
    says(&err, "no secure connection");
    void *got_in = NULL;
    pthread_join(thread, &got_in);
    assert_null(got_in);
    close(fd[1]);
}

static void test_ends_of_a_link(void **state)
{
    (void)state;
    struct td_error err;
    struct td_link *link[2];
    char byte;
    for (int with_key = 0; with_key < 2; with_key++) {
        const struct td_key *key = with_key ? &key_a : NULL;
        // Closed in order.
        connect_pair(link, key, quick);
        assert_int_equal(td_link_write(link[0], "x", 1, &err), TD_OK);
        td_link_close(link[0]);
        assert_int_equal(td_link_read(link[1], &byte, 1, &err), TD_OK);
        assert_int_equal(td_link_read(link[1], &byte, 1, &err), TD_EIO);
        says(&err, "closed the connection");
        // Writing to it fails at last, without a signal.
        int code = TD_OK;
        for (int i = 0; i < 1000 && !code; i++)
            code = td_link_write(link[1], &err, sizeof(err), &err);
        assert_int_equal(code, TD_EIO);
        td_link_close(link[1]);

        // Half closed without a goodbye.
        connect_pair(link, key, quick);
        shutdown(link[0]->fd, SHUT_WR);
        assert_int_equal(td_link_read(link[1], &byte, 1, &err), TD_EIO);
        says(&err, with_key ? "was cut" : "closed the connection");
        if (with_key) {
            assert_int_equal(td_link_read(link[1], &byte, 1, &err), TD_EIO);
            says(&err, "failed before");
        }
        td_link_close(link[0]);
        td_link_close(link[1]);
    }
}

static void test_stall(void **state)
{
    (void)state;
    struct td_error err;
    for (int with_key = 0; with_key < 2; with_key++) {
        struct td_link *link[2];
        connect_pair(link, with_key ? &key_a : NULL, quick);
        char byte;
        uint64_t t0_ns = td_clock_ns();
        assert_int_equal(td_link_read(link[0], &byte, 1, &err), TD_EIO);
        says(&err, "no byte moved for 0.2 seconds");
        assert_true(seconds_since(t0_ns) >= 0.2);
        // A wait that may come up empty is no failure.
        size_t n = 99;
        assert_int_equal(td_link_read_some(link[0], &byte, 1, 20, &n, &err), TD_OK);
        assert_int_equal(n, 0);
        assert_int_equal(td_link_read_some(link[0], &byte, 1, 0, &n, &err), TD_OK);
        assert_int_equal(n, 0);
        // Nobody reads: the system's buffers fill up.
        uint8_t *block = calloc(1, 16 * MIB);
        assert_non_null(block);
        t0_ns = td_clock_ns();
        assert_int_equal(td_link_write(link[1], block, 16 * MIB, &err), TD_EIO);
        says(&err, "no byte moved");
        assert_true(seconds_since(t0_ns) >= 0.2);
        // What came now would be taken for the rest of what is stuck.
        assert_int_equal(td_link_write(link[1], block, 1, &err), TD_EIO);
        says(&err, "has failed before");
        free(block);
        for (int i = 0; i < 2; i++) td_link_close(link[i]);
    }
}

static void *drip(void *ctx)
{
    struct td_link *link = ctx;
    for (uint8_t i = 0; i < 10; i++) {
        nap_ms(60);
        if (td_link_write(link, &i, 1, NULL)) return ctx;
    }
    return NULL;
}

// Slow is not dead: the whole takes three times what a stall may.
static void test_slow_is_fine(void **state)
{
    (void)state;
    struct td_link *link[2];
    connect_pair(link, &key_a, quick);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, drip, link[0]), 0);
    uint8_t got[10];
    struct td_error err;
    assert_int_equal(td_link_read(link[1], got, sizeof(got), &err), TD_OK);
    for (uint8_t i = 0; i < 10; i++) assert_int_equal(got[i], i);
    void *failed;
    pthread_join(thread, &failed);
    assert_null(failed);
    for (int i = 0; i < 2; i++) td_link_close(link[i]);
}

struct stream {
    struct td_link *link;
    size_t n;
    uint64_t seed, sum;
    int code;
    struct td_error err;
};

// Blocks of odd sizes, up to 1 MiB, whose bytes follow from the seed.
static void *stream_out(void *ctx)
{
    struct stream *s = ctx;
    uint8_t *all = malloc(s->n);
    struct td_rng rng = {.state = s->seed};
    for (size_t i = 0; i + 8 <= s->n; i += 8) {
        const uint64_t v = td_rng_u64(&rng);
        memcpy(all + i, &v, 8);
    }
    s->sum = td_wire_sum(all, s->n);
    for (size_t at = 0; at < s->n && !s->code;) {
        size_t n = 1 + td_rng_u64(&rng) % MIB;
        if (n > s->n - at) n = s->n - at;
        s->code = td_link_write(s->link, all + at, n, &s->err);
        at += n;
    }
    free(all);
    return NULL;
}

static void *stream_in(void *ctx)
{
    struct stream *s = ctx;
    uint8_t *all = malloc(s->n);
    struct td_rng rng = {.state = s->seed + 1};
    for (size_t at = 0; at < s->n && !s->code;) {
        size_t n = 1 + td_rng_u64(&rng) % MIB;
        if (n > s->n - at) n = s->n - at;
        s->code = td_link_read(s->link, all + at, n, &s->err);
        at += n;
    }
    s->sum = td_wire_sum(all, s->n);
    free(all);
    return NULL;
}

// Both directions at once, by two threads an end, with many key changes.
static void test_big_transfer(void **state)
{
    (void)state;
    for (int with_key = 0; with_key < 2; with_key++) {
        const struct td_link_limits limits = {.rekey_bytes = MIB};
        struct td_link *link[2];
        connect_pair(link, with_key ? &key_a : NULL, limits);
        struct stream s[4];
        pthread_t thread[4];
        for (int i = 0; i < 4; i++) {
            // 0 -> 1's reader, 2 -> 3's: writers are even.
            const int end = i == 0 || i == 3 ? 0 : 1;
            s[i] = (struct stream){.link = link[end], .n = 24 * MIB, .seed = (uint64_t)(i / 2)};
            assert_int_equal(
                pthread_create(&thread[i], NULL, i % 2 ? stream_in : stream_out, &s[i]), 0);
        }
        for (int i = 0; i < 4; i++) pthread_join(thread[i], NULL);
        for (int i = 0; i < 4; i++)
            if (s[i].code) fail_msg("%d: %s", i, s[i].err.msg);
        assert_true(s[0].sum == s[1].sum && s[2].sum == s[3].sum && s[0].sum != s[2].sum);
        for (int i = 0; i < 2; i++) td_link_close(link[i]);
    }
}

// A wire between two socket pairs that flips one bit of the byte at `at`.
struct wire {
    int a, b;
    size_t at;
};

static void *damaging_wire(void *ctx)
{
    const struct wire *w = ctx;
    size_t seen = 0;
    struct pollfd p[2] = {{.fd = w->a, .events = POLLIN}, {.fd = w->b, .events = POLLIN}};
    while (poll(p, 2, -1) > 0) {
        for (int i = 0; i < 2; i++) {
            if (!p[i].revents) continue;
            uint8_t bytes[4096];
            const ssize_t n = recv(p[i].fd, bytes, sizeof(bytes), 0);
            if (n <= 0) {
                shutdown(w->a, SHUT_RDWR);
                shutdown(w->b, SHUT_RDWR);
                return NULL;
            }
            // What the listening side (a) says is counted.
            if (i == 0 && seen <= w->at && w->at < seen + (size_t)n) bytes[w->at - seen] ^= 4;
            if (i == 0) seen += (size_t)n;
            (void)send(p[1 - i].fd, bytes, (size_t)n, MSG_NOSIGNAL);
        }
    }
    return NULL;
}

static void test_damaged_on_the_way(void **state)
{
    (void)state;
    // In the handshake, in the first record, later.
    static const size_t places[] = {3, 100, 700, 5000, 30000};
    for (size_t k = 0; k < sizeof(places) / sizeof(places[0]); k++) {
        int left[2], right[2];
        make_pair(left);
        make_pair(right);
        struct wire w = {.a = left[1], .b = right[1], .at = places[k]};
        pthread_t thread;
        assert_int_equal(pthread_create(&thread, NULL, damaging_wire, &w), 0);
        struct end server;
        end_start(&server, left[0], true, &key_a, quick);
        struct td_link *client;
        struct td_error err;
        int code = td_link_of_fd(&client, right[0], false, &key_a, &quick, &err);
        end_join(&server);
        static uint8_t sent[65536], got[65536];
        memset(sent, 7, sizeof(sent));
        memset(got, 0, sizeof(got));
        if (!server.code) server.code = td_link_write(server.link, sent, sizeof(sent), &err);
        for (size_t at = 0; !code && at < sizeof(got); at += 64) {
            code = td_link_read(client, got + at, 64, &err);
            if (!code) assert_memory_equal(got + at, sent, 64); // what came before is right
        }
        assert_int_equal(code, TD_EIO);
        td_link_close(client);
        td_link_close(server.link);
        pthread_join(thread, NULL);
        close(left[1]);
        close(right[1]);
    }
}

static void *cancel_soon(void *ctx)
{
    nap_ms(50);
    td_link_cancel(ctx);
    return NULL;
}

static void test_cancel(void **state)
{
    (void)state;
    for (int with_key = 0; with_key < 2; with_key++) {
        struct td_link *link[2];
        const struct td_link_limits slow = {.stall_ms = 20000};
        connect_pair(link, with_key ? &key_a : NULL, slow);
        pthread_t thread;
        struct td_error err;
        char byte;
        const uint64_t t0_ns = td_clock_ns();
        assert_int_equal(pthread_create(&thread, NULL, cancel_soon, link[0]), 0);
        assert_int_equal(td_link_read(link[0], &byte, 1, &err), TD_ECANCEL);
        pthread_join(thread, NULL);
        assert_int_equal(td_link_write(link[0], &byte, 1, &err), TD_ECANCEL);
        // A writer that is stuck comes back too.
        uint8_t *block = calloc(1, 16 * MIB);
        assert_non_null(block);
        td_link_close(link[0]);
        td_link_close(link[1]);
        connect_pair(link, with_key ? &key_a : NULL, slow);
        assert_int_equal(pthread_create(&thread, NULL, cancel_soon, link[0]), 0);
        assert_int_equal(td_link_write(link[0], block, 16 * MIB, &err), TD_ECANCEL);
        pthread_join(thread, NULL);
        free(block);
        for (int i = 0; i < 2; i++) td_link_close(link[i]);
        assert_true(seconds_since(t0_ns) < 10);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_right_key),
        cmocka_unit_test(test_wrong_key),
        cmocka_unit_test(test_key_on_one_side),
        cmocka_unit_test(test_truncated_handshake),
        cmocka_unit_test(test_garbage),
        cmocka_unit_test(test_certificate_instead_of_key),
        cmocka_unit_test(test_ends_of_a_link),
        cmocka_unit_test(test_stall),
        cmocka_unit_test(test_slow_is_fine),
        cmocka_unit_test(test_big_transfer),
        cmocka_unit_test(test_damaged_on_the_way),
        cmocka_unit_test(test_cancel),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
