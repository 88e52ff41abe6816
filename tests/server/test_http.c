// SPDX-License-Identifier: MIT
// HTTP by a scripted API (fake_api.h): routes, limits, streams, and clients that do what no proper
// client does. Nothing here is timed closely: waits have limits far above what they need.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "fake_api.h"
#include "http_client.h"
#include "server/http.h"

struct rig {
    struct td_http *http;
    uint16_t port;
    atomic_uint n_log, n_log_gone;
    char last_log[256]; // guarded by the server closing before it is read
};
static struct rig g_rig;

static void on_log(void *ctx, const struct td_http_record *r)
{
    struct rig *rig = ctx;
    assert_non_null(r->id);
    assert_non_null(r->path);
    atomic_fetch_add(&rig->n_log, 1);
    if (r->is_gone) atomic_fetch_add(&rig->n_log_gone, 1);
}

static void open_with(struct td_http_config cfg)
{
    struct td_error err;
    cfg.version = "0";
    cfg.log = on_log;
    cfg.log_ctx = &g_rig;
    if (!cfg.host) cfg.host = "127.0.0.1";
    atomic_store(&g_rig.n_log, 0);
    atomic_store(&g_rig.n_log_gone, 0);
    assert_int_equal(td_http_open(&g_rig.http, &cfg, &err), TD_OK);
    g_rig.port = td_http_port(g_rig.http);
}

static void shut(void)
{
    td_http_close(g_rig.http);
    g_rig.http = NULL;
    assert_int_equal(atomic_load(&g_fake.n_begun), atomic_load(&g_fake.n_ended));
}

static int start(void **state)
{
    (void)state;
    fake_start();
    return 0;
}

static int stop(void **state)
{
    (void)state;
    fake_stop();
    return 0;
}

static bool eventually(atomic_uint *value, unsigned wanted)
{
    const uint64_t until_ns = td_clock_ns() + CLIENT_WAIT_MS * (uint64_t)1000000;
    while (atomic_load(value) != wanted && td_clock_ns() < until_ns) fake_sleep_ms(2);
    return atomic_load(value) == wanted;
}

static void come(struct client *c)
{
    assert_true(client_open(c, g_rig.port));
}

static void post(struct client *c, const char *body)
{
    assert_true(client_send(c,
                            "POST /v1/fake HTTP/1.1\r\nHost: localhost\r\n"
                            "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
                            strlen(body), body));
}

// A request of its own connection; the status. headers end in \r\n each.
static unsigned ask(struct client *c, const char *line, const char *headers)
{
    come(c);
    assert_true(client_send(c, "%s HTTP/1.1\r\n%sConnection: close\r\n\r\n", line, headers));
    assert_true(client_ends(c));
    return client_status(c);
}

#define HOST "Host: localhost\r\n"

static void expect(unsigned status, const char *line, const char *headers, const char *text)
{
    struct client c;
    const unsigned got = ask(&c, line, headers);
    if (got != status || (text && !strstr(c.in, text))) print_error("%s: %s\n", line, c.in);
    assert_int_equal(got, status);
    if (text) assert_non_null(strstr(c.in, text));
    client_close(&c);
}

// ---- routes -----------------------------------------------------------------------------------

static void test_routes(void **state)
{
    (void)state;
    open_with((struct td_http_config){0});
    expect(200, "GET /", HOST, "Content-Security-Policy: default-src 'none'");
    expect(200, "GET /?a=b", HOST, "X-Frame-Options: DENY");
    expect(200, "HEAD /", HOST, "X-Content-Type-Options: nosniff");
    expect(200, "GET /health", HOST, "\"status\":\"ok\",\"slots\":3");
    expect(200, "GET /v1/list", HOST, "Cache-Control: no-store");
    expect(200, "HEAD /v1/list", HOST, "X-Request-Id: req-");
    expect(404, "GET /nothing", HOST, "there is nothing at /nothing");
    expect(404, "GET /../../etc/passwd", HOST, NULL);
    expect(405, "GET /v1/fake", HOST, "Allow: POST");
    expect(405, "DELETE /", HOST, "Allow: GET");
    expect(204, "OPTIONS /v1/fake", HOST, "Allow: POST");
    expect(404, "OPTIONS /nothing", HOST, NULL);
    expect(404, "GET /api/%22%0a", HOST, "{\"error\":\"there is nothing at /api/??\"}");

    struct client c;
    assert_int_equal(ask(&c, "GET /", HOST), 200);
    char etag[64];
    const char *at = strstr(c.in, "ETag: ");
    assert_non_null(at);
    assert_int_equal(sscanf(at, "ETag: %60[^\r]", etag), 1);
    client_close(&c);
    char headers[256];
    snprintf(headers, sizeof(headers), HOST "If-None-Match: %s\r\n", etag);
    expect(304, "GET /", headers, NULL);
    shut();
    assert_int_equal(atomic_load(&g_rig.n_log), 15);
}

static void test_metrics(void **state)
{
    (void)state;
    open_with((struct td_http_config){0});
    expect(404, "GET /nothing", HOST, NULL);
    struct client c;
    assert_int_equal(ask(&c, "GET /metrics", HOST), 200);
    assert_non_null(strstr(c.in, "text/plain; version=0.0.4"));
    assert_non_null(strstr(c.in, "\ntandem_prompt_tokens_total 123456789012\n"));
    assert_non_null(strstr(c.in, "\ntandem_http_requests_total{status=\"404\"} 1\n"));
    assert_non_null(strstr(c.in, "\ntandem_ttft_seconds_bucket{le=\"+Inf\"} 2\n"));
    // Every line is a comment or a name with a number, and every name has its type before it.
    for (char *line = strstr(c.in, "\r\n\r\n") + 4; *line; line = strchr(line, '\n') + 1) {
        if (*line == '#') continue;
        char name[128], value[64];
        assert_int_equal(sscanf(line, "%127[^ \n] %63[^\n]", name, value), 2);
        char *end;
        (void)strtod(value, &end);
        assert_string_equal(end, "");
        assert_true(strncmp(name, "tandem_", 7) == 0 || strncmp(name, "process_", 8) == 0);
    }
    client_close(&c);
    shut();
}

static void test_who_may(void **state)
{
    (void)state;
    static const char *const origins[] = {"https://good.example"};
    static const char *const hosts[] = {"box.lan"};
    open_with((struct td_http_config){.api_key = "0123456789abcdef",
                                      .origins = origins,
                                      .n_origins = 1,
                                      .hosts = hosts,
                                      .n_hosts = 1});
    expect(200, "GET /", HOST, NULL);
    expect(200, "GET /health", HOST, NULL);
    expect(401, "GET /metrics", HOST, "WWW-Authenticate: Bearer");
    expect(401, "GET /v1/list", HOST, NULL);
    expect(401, "GET /nothing", HOST, NULL);
    expect(401, "GET /v1/list", HOST "Authorization: Bearer 0123456789abcdeX\r\n", NULL);
    expect(401, "GET /v1/list", HOST "Authorization: Bearer \r\n", NULL);
    expect(200, "GET /v1/list", HOST "Authorization: Bearer 0123456789abcdef\r\n", NULL);
    expect(200, "GET /metrics", HOST "x-api-key: 0123456789abcdef\r\n", NULL);
    // DNS rebinding.
    expect(403, "GET /", "Host: evil.example\r\n", "the Host header");
    expect(200, "GET /", "Host: box.lan:8080\r\n", NULL);
    expect(400, "GET /", "", NULL);
    // Pages of elsewhere.
    expect(403, "GET /health", HOST "Origin: https://evil.example\r\n", "--cors");
    expect(403, "GET /health", HOST "Origin: null\r\n", NULL);
    expect(200, "GET /health", HOST "Origin: http://localhost\r\n", NULL);
    expect(200, "GET /health", HOST "Origin: https://good.example\r\n",
           "Access-Control-Allow-Origin: https://good.example");
    expect(204, "OPTIONS /v1/fake",
           HOST "Origin: https://good.example\r\nAccess-Control-Request-Method: POST\r\n"
                "Access-Control-Request-Headers: authorization, x-stainless-os\r\n",
           "Access-Control-Allow-Headers: authorization, x-stainless-os");
    expect(403, "OPTIONS /v1/fake",
           HOST "Origin: https://evil.example\r\nAccess-Control-Request-Method: POST\r\n", NULL);
    shut();
}

// ---- bodies -----------------------------------------------------------------------------------

static void test_bodies(void **state)
{
    (void)state;
    open_with((struct td_http_config){.max_body_bytes = 1 << 20});
    struct client c;
    // Several requests on one connection, one of them refused, the last two at once.
    come(&c);
    post(&c, "whole 5");
    assert_true(client_sees(&c, "\r\n\r\nxxxxx"));
    client_forget(&c);
    assert_true(client_send(&c, "POST /v1/fake HTTP/1.1\r\n" HOST
                                "Content-Type: text/plain\r\nContent-Length: 5\r\n\r\nwhole"));
    assert_true(client_sees(&c, "Content-Type: application/json\","));
    assert_int_equal(client_status(&c), 415);
    client_forget(&c);
    post(&c, "whole 6");
    post(&c, "late 7 20");
    assert_true(client_sees(&c, "\r\n\r\nxxxxxxx"));
    client_close(&c);
    // A length that is too large is said at once, before any of it has come.
    come(&c);
    assert_true(client_send(&c, "POST /v1/fake HTTP/1.1\r\n" HOST
                                "Content-Type: application/json\r\nContent-Length: 104857600\r\n"
                                "\r\n"));
    assert_true(client_sees(&c, "larger than the limit"));
    assert_int_equal(client_status(&c), 413);
    // Who sends all the same still gets to read that.
    client_forget(&c);
    client_close(&c);
    come(&c);
    char *big = malloc(100 << 20);
    assert_non_null(big);
    memset(big, ' ', 100 << 20);
    assert_true(client_send(&c, "POST /v1/fake HTTP/1.1\r\n" HOST
                                "Content-Type: application/json\r\nContent-Length: 104857600\r\n"
                                "\r\n"));
    (void)client_send_bytes(&c, big, 100 << 20);
    assert_true(client_sees(&c, "larger than the limit"));
    client_close(&c);
    // Without a length it is cut off once it is too large.
    come(&c);
    assert_true(client_send(&c, "POST /v1/fake HTTP/1.1\r\n" HOST
                                "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n"
                                "\r\n"));
    for (int i = 0; i < 40; i++)
        if (!client_send(&c, "10000\r\n") || !client_send_bytes(&c, big, 0x10000) ||
            !client_send(&c, "\r\n"))
            break;
    assert_true(client_sees(&c, "HTTP/1.1 413"));
    assert_true(client_ends(&c));
    client_close(&c);
    // One that just fits; chunked.
    come(&c);
    assert_true(client_send(&c, "POST /v1/fake HTTP/1.1\r\n" HOST
                                "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n"
                                "\r\n7\r\nwhole 9\r\n"));
    assert_true(client_send(&c, "80000\r\n"));
    assert_true(client_send_bytes(&c, big, 0x80000));
    assert_true(client_send(&c, "\r\n0\r\n\r\n"));
    assert_true(client_sees(&c, "\r\n\r\nxxxxxxxxx"));
    assert_int_equal(atomic_load(&g_fake.last_body_bytes), 0x80000 + 7);
    client_close(&c);
    free(big);
    // What the API says of its own.
    come(&c);
    post(&c, "full");
    assert_true(client_sees(&c, "\r\n\r\nxx")); // to its end, before it is forgotten
    assert_non_null(strstr(c.in, "Retry-After: 7"));
    assert_int_equal(client_status(&c), 503);
    client_forget(&c);
    post(&c, "none");
    assert_true(client_sees(&c, "no memory"));
    assert_int_equal(client_status(&c), 500);
    client_close(&c);
    shut();
}

static void test_malformed(void **state)
{
    (void)state;
    open_with((struct td_http_config){0});
    static const char *const texts[] = {
        "\r\n\r\n\r\n",
        "GET\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01\x00",
        "GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        "POST /v1/fake HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        "Content-Length: 99999999999999999999999999\r\n\r\n",
        "POST /v1/fake HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        "Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        "GET /%00%ff%0a HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: [::1\r\nOrigin: \x01\x02\r\n\r\n"};
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        struct client c;
        come(&c);
        assert_true(client_send_bytes(&c, texts[i], strlen(texts[i])));
        (void)client_take(&c, 50);
        client_close(&c);
    }
    // A flood of headers: refused or cut, and nothing else is.
    struct client c;
    come(&c);
    bool is_taken = client_send(&c, "GET / HTTP/1.1\r\n" HOST);
    for (int i = 0; i < 100000 && is_taken; i++) is_taken = client_send(&c, "X-%d: y\r\n", i);
    assert_true(client_ends(&c));
    assert_true(client_status(&c) == 431 || client_status(&c) == 0);
    client_close(&c);
    // A path that never ends.
    come(&c);
    is_taken = client_send(&c, "GET /");
    for (int i = 0; i < 20000 && is_taken; i++) is_taken = client_send(&c, "aaaaaaaaaaaaaaaa");
    assert_true(client_ends(&c));
    client_close(&c);
    expect(200, "GET /health", HOST, NULL);
    shut();
}

// ---- streams ----------------------------------------------------------------------------------

static unsigned count(const char *in, const char *text)
{
    unsigned n = 0;
    for (const char *at = in; (at = strstr(at, text)); at += strlen(text)) n++;
    return n;
}

static void test_stream(void **state)
{
    (void)state;
    open_with((struct td_http_config){.keep_alive_s = 1});
    struct client c, other;
    come(&c);
    post(&c, "stream 20 10");
    assert_true(client_sees(&c, "data: event")); // while it is being made
    assert_true(client_sees(&c, "\r\n0\r\n\r\n"));
    assert_int_equal(count(c.in, "data: event"), 20);
    assert_non_null(strstr(c.in, "Transfer-Encoding: chunked"));
    // The connection goes on.
    client_forget(&c);
    post(&c, "whole 3");
    assert_true(client_sees(&c, "\r\n\r\nxxx"));
    // A silent one says something now and then, and others do not wait for it.
    client_forget(&c);
    post(&c, "silent");
    assert_true(client_sees(&c, "data: event"));
    come(&other);
    post(&other, "stream 3 1");
    assert_true(client_sees(&other, "\r\n0\r\n\r\n"));
    client_close(&other);
    assert_true(client_sees(&c, ": still here"));
    client_forget(&c);
    assert_true(client_sees(&c, ": still here"));
    client_close(&c);
    // HTTP/1.0: to the end of the connection.
    come(&c);
    assert_true(client_send(&c, "POST /v1/fake HTTP/1.0\r\n" HOST
                                "Content-Type: application/json\r\nContent-Length: 11\r\n\r\n"
                                "stream 4 10"));
    assert_true(client_ends(&c));
    assert_int_equal(count(c.in, "data: event"), 4);
    client_close(&c);
    shut();
}

// A reader that does not read holds nothing up.
static void test_slow_reader(void **state)
{
    (void)state;
    open_with((struct td_http_config){0});
    struct client slow, c;
    assert_int_equal(atomic_load(&g_fake.n_begun), atomic_load(&g_fake.n_ended));
    come(&slow);
    post(&slow, "stream 2000000 0");
    assert_true(eventually(&g_fake.n_begun, atomic_load(&g_fake.n_ended) + 1));
    come(&c);
    post(&c, "stream 10 5");
    assert_true(client_sees(&c, "\r\n0\r\n\r\n"));
    client_close(&c);
    assert_true(client_sees(&slow, "data: event"));
    client_reset(&slow);
    assert_true(eventually(&g_fake.n_ended, atomic_load(&g_fake.n_begun)));
    shut();
}

// ---- leaving ----------------------------------------------------------------------------------

static void test_leave(void **state)
{
    (void)state;
    open_with((struct td_http_config){.keep_alive_s = 3600});
    // At each stage, by closing and by a reset; the work ends, whatever it waits for.
    static const char *const bodies[] = {"hang", "silent", "stream 1000000 20", "begin 100",
                                         "late 5 100000"};
    const size_t n_bodies = sizeof(bodies) / sizeof(bodies[0]);
    for (size_t i = 0; i < 2 * n_bodies; i++) {
        const char *body = bodies[i / 2];
        struct client c;
        come(&c);
        assert_true(eventually(&g_fake.n_ended, atomic_load(&g_fake.n_begun)));
        const unsigned n_begun = atomic_load(&g_fake.n_begun);
        const unsigned n_asked = atomic_load(&g_fake.n_asked);
        post(&c, body);
        assert_true(eventually(&g_fake.n_asked, n_asked + 1));
        if (strncmp(body, "begin", 5) != 0) assert_true(eventually(&g_fake.n_begun, n_begun + 1));
        if (strncmp(body, "s", 1) == 0) assert_true(client_sees(&c, "data: event"));
        if (i % 2)
            client_close(&c);
        else
            client_reset(&c);
        assert_true(eventually(&g_fake.n_begun, n_begun + 1));
        assert_true(eventually(&g_fake.n_ended, n_begun + 1));
    }
    // In the middle of the headers and of the body.
    struct client c;
    for (int i = 0; i < 4; i++) {
        come(&c);
        assert_true(client_send(&c, "POST /v1/fake HTTP/1.1\r\nHost: lo"));
        if (i % 2)
            assert_true(client_send(&c, "calhost\r\nContent-Type: application/json\r\n"
                                        "Content-Length: 100\r\n\r\nwhole"));
        if (i / 2)
            client_close(&c);
        else
            client_reset(&c);
    }
    expect(200, "GET /health", HOST, NULL);
    shut();
    assert_true(atomic_load(&g_rig.n_log_gone) >= 2 * n_bodies - 2);
}

// A client that says that it sends no more still reads.
static void test_half_closed(void **state)
{
    (void)state;
    open_with((struct td_http_config){.keep_alive_s = 3600});
    static const char *const bodies[] = {"whole 5", "late 5 300", "stream 10 30", "begin 100"};
    for (size_t i = 0; i < sizeof(bodies) / sizeof(bodies[0]); i++) {
        struct client c;
        come(&c);
        post(&c, bodies[i]);
        assert_int_equal(shutdown(c.fd, SHUT_WR), 0);
        assert_true(client_sees(&c, i == 2 ? "\r\n0\r\n\r\n" : "\r\n\r\nxx"));
        assert_non_null(strstr(c.in, "HTTP/1.1 200 OK"));
        client_close(&c);
    }
    // When it then leaves, it has left, although nothing else is said for an hour.
    static const char *const silent[] = {"silent", "hang"};
    for (int i = 0; i < 4; i++) {
        struct client c;
        come(&c);
        assert_true(eventually(&g_fake.n_ended, atomic_load(&g_fake.n_begun)));
        const unsigned n_ended = atomic_load(&g_fake.n_ended);
        post(&c, silent[i % 2]);
        assert_int_equal(shutdown(c.fd, SHUT_WR), 0);
        assert_true(client_sees(&c, i % 2 ? "HTTP/1.1 100" : ": still here"));
        assert_true(eventually(&g_fake.n_begun, n_ended + 1)); // it may have asked before
        assert_int_equal(atomic_load(&g_fake.n_ended), n_ended);
        if (i / 2)
            client_close(&c);
        else
            client_reset(&c);
        if (!eventually(&g_fake.n_ended, n_ended + 1)) fail_msg("client %d has left unnoticed", i);
    }
    shut();
}

// ---- floods -----------------------------------------------------------------------------------

static void test_slow_senders(void **state)
{
    (void)state;
    open_with((struct td_http_config){.header_timeout_s = 1});
    struct client idle, head, body;
    come(&idle);
    come(&head);
    come(&body);
    assert_true(client_send(&head, "GET / HTTP/1.1\r\nHost: localhost\r\n"));
    assert_true(client_send(&body, "POST /v1/fake HTTP/1.1\r\n" HOST
                                   "Content-Type: application/json\r\nContent-Length: 9999\r\n"
                                   "\r\n"));
    // A byte now and then, so that no timeout of silence is ever met.
    const uint64_t until_ns = td_clock_ns() + CLIENT_WAIT_MS * (uint64_t)1000000;
    while ((!head.has_ended || !body.has_ended) && td_clock_ns() < until_ns) {
        if (!head.has_ended) (void)client_send(&head, "a");
        if (!body.has_ended) (void)client_send(&body, "a");
        (void)client_take(&head, 50);
        (void)client_take(&body, 50);
    }
    assert_true(head.has_ended);
    assert_true(body.has_ended);
    // One that has not begun a request is only idle.
    assert_true(client_send(&idle, "GET /health HTTP/1.1\r\n" HOST "\r\n"));
    assert_true(client_sees(&idle, "\"status\":\"ok\""));
    client_close(&idle);
    client_close(&head);
    client_close(&body);
    shut();
}

static void test_crowd(void **state)
{
    (void)state;
    enum { MOST = 8, CROWD = 40 };
    open_with((struct td_http_config){.max_connections = MOST});
    struct client crowd[CROWD], busy;
    come(&busy);
    post(&busy, "stream 100000 10");
    assert_true(client_sees(&busy, "data: event"));
    // Whoever is idle makes room for those who ask; who is at work stays.
    for (int i = 0; i < CROWD; i++) come(&crowd[i]);
    expect(200, "GET /health", HOST, NULL);
    client_forget(&busy);
    assert_true(client_sees(&busy, "data: event"));
    client_close(&busy);
    for (int i = 0; i < CROWD; i++) client_close(&crowd[i]);
    shut();

    open_with((struct td_http_config){.max_connections_ip = 2});
    come(&crowd[0]);
    post(&crowd[0], "whole 1");
    assert_true(client_sees(&crowd[0], "200 OK"));
    come(&crowd[1]);
    post(&crowd[1], "whole 1");
    assert_true(client_sees(&crowd[1], "200 OK"));
    come(&crowd[2]);
    (void)client_send(&crowd[2], "GET /health HTTP/1.1\r\n" HOST "\r\n");
    assert_true(client_ends(&crowd[2]));
    for (int i = 0; i < 3; i++) client_close(&crowd[i]);
    shut();

    open_with((struct td_http_config){.max_requests_per_s = 1});
    unsigned n_refused = 0;
    come(&busy);
    for (int i = 0; i < 30; i++) {
        client_forget(&busy);
        assert_true(client_send(&busy, "GET /health HTTP/1.1\r\n" HOST "\r\n"));
        assert_true(client_sees(&busy, "}"));
        n_refused += client_status(&busy) == 429;
    }
    assert_in_range(n_refused, 1, 25);
    client_close(&busy);
    shut();
}

static void test_many(void **state)
{
    (void)state;
    enum { MANY = 200 };
    open_with((struct td_http_config){0});
    struct client *all = calloc(MANY, sizeof(*all));
    assert_non_null(all);
    for (int i = 0; i < MANY; i++) come(&all[i]);
    for (int i = 0; i < MANY; i++) post(&all[i], i % 3 ? "stream 20 5" : "late 10 50");
    for (int i = 0; i < MANY; i++) {
        assert_true(client_sees(&all[i], i % 3 ? "\r\n0\r\n\r\n" : "\r\n\r\nxxxxxxxxxx"));
        if (i % 3) assert_int_equal(count(all[i].in, "data: event"), 20);
        client_close(&all[i]);
    }
    free(all);
    shut();
    // Who closes the moment all is there may count as gone: that is told from outside only.
    assert_int_equal(atomic_load(&g_rig.n_log), MANY);
}

// ---- ending -----------------------------------------------------------------------------------

static void test_drain(void **state)
{
    (void)state;
    open_with((struct td_http_config){0});
    struct client c, idle, late;
    come(&idle);
    come(&c);
    post(&c, "stream 50 10");
    assert_true(client_sees(&c, "data: event"));
    td_http_drain(g_rig.http);
    assert_true(client_ends(&idle));
    if (client_open(&late, g_rig.port)) assert_true(client_ends(&late));
    client_close(&late);
    assert_true(client_sees(&c, "\r\n0\r\n\r\n"));
    assert_int_equal(count(c.in, "data: event"), 50);
    assert_true(td_http_wait_idle(g_rig.http, CLIENT_WAIT_MS));
    client_close(&c);
    client_close(&idle);
    shut();
}

// Comes and goes until it is told to end.
static void *knock(void *arg)
{
    atomic_bool *ends = arg;
    while (!atomic_load(ends)) {
        struct client c;
        (void)client_open(&c, g_rig.port);
        client_close(&c);
    }
    return NULL;
}

// Those who come in the moment it closes are taken or refused; ThreadSanitizer watches the sockets.
static void test_rush(void **state)
{
    (void)state;
    enum { ROUNDS = 30, N = 2 };
    for (int i = 0; i < ROUNDS; i++) {
        pthread_t crowd[N];
        atomic_bool ends = false;
        open_with((struct td_http_config){0});
        for (int k = 0; k < N; k++)
            assert_int_equal(pthread_create(&crowd[k], NULL, knock, &ends), 0);
        expect(200, "GET /health", HOST, NULL);
        if (i % 2) {
            td_http_drain(g_rig.http);
            assert_true(td_http_wait_idle(g_rig.http, CLIENT_WAIT_MS));
        }
        shut();
        atomic_store(&ends, true);
        for (int k = 0; k < N; k++) pthread_join(crowd[k], NULL);
    }
}

static void test_close(void **state)
{
    (void)state;
    static const char *const bodies[] = {"hang",      "silent",        "stream 1000000 20",
                                         "begin 100", "late 5 100000", "stream 2000000 0"};
    enum { N = sizeof(bodies) / sizeof(bodies[0]) };
    struct client c[N + 2];
    open_with((struct td_http_config){0});
    for (int i = 0; i < N + 2; i++) come(&c[i]);
    for (int i = 0; i < N; i++) post(&c[i], bodies[i]);
    assert_true(client_send(&c[N], "GET / HTT"));
    fake_sleep_ms(20);
    shut(); // with all of them at work
    for (int i = 0; i < N + 2; i++) {
        assert_true(client_ends(&c[i]));
        client_close(&c[i]);
    }
}

static void test_open_fails(void **state)
{
    (void)state;
    struct td_error err;
    struct td_http *http;
    open_with((struct td_http_config){0});
    struct td_http_config cfg = {.host = "127.0.0.1", .port = g_rig.port};
    assert_int_equal(td_http_open(&http, &cfg, &err), TD_EIO);
    assert_non_null(strstr(err.msg, "in use"));
    assert_null(http);
    cfg = (struct td_http_config){.host = "no such host"};
    assert_int_equal(td_http_open(&http, &cfg, &err), TD_EIO);
    cfg = (struct td_http_config){.host = "127.0.0.1", .tls_cert = "x"};
    assert_int_equal(td_http_open(&http, &cfg, &err), TD_EARG);
    cfg = (struct td_http_config){.host = "127.0.0.1", .tls_cert = "x", .tls_key = "y"};
    assert_int_equal(td_http_open(&http, &cfg, &err), TD_EARG);
    assert_non_null(strstr(err.msg, "certificate"));
    shut();
}

int main(int argc, char **argv)
{
    if (argc > 1) cmocka_set_test_filter(argv[1]); // one test by its name
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_routes),      cmocka_unit_test(test_metrics),
        cmocka_unit_test(test_who_may),     cmocka_unit_test(test_bodies),
        cmocka_unit_test(test_malformed),   cmocka_unit_test(test_stream),
        cmocka_unit_test(test_slow_reader), cmocka_unit_test(test_leave),
        cmocka_unit_test(test_half_closed), cmocka_unit_test(test_slow_senders),
        cmocka_unit_test(test_crowd),       cmocka_unit_test(test_many),
        cmocka_unit_test(test_drain),       cmocka_unit_test(test_rush),
        cmocka_unit_test(test_close),       cmocka_unit_test(test_open_fails),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
