// SPDX-License-Identifier: MIT
// The fault proxy itself: what it lets pass is unchanged, and a fault meets the byte it was meant
// for, on bare sockets and under links.
#include "fault_proxy.h"
#include "link_support.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>

enum { N_BYTES = 300000 };

static uint8_t g_sent[N_BYTES];

// A listening socket, a proxy to it, and bare connections through it.
struct rig {
    int listener;
    struct fault_proxy *proxy;
};

static int setup(void **state)
{
    (void)state;
    struct td_rng rng = {5};
    for (size_t i = 0; i < N_BYTES; i++) g_sent[i] = (uint8_t)td_rng_u64(&rng);
    return 0;
}

static struct sockaddr_in loopback(uint16_t port)
{
    return (struct sockaddr_in){
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

static void open_rig(struct rig *r)
{
    struct sockaddr_in a = loopback(0);
    socklen_t size = sizeof(a);
    r->listener = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(r->listener, (struct sockaddr *)&a, size), 0);
    assert_int_equal(listen(r->listener, 8), 0);
    assert_int_equal(getsockname(r->listener, (struct sockaddr *)&a, &size), 0);
    r->proxy = fault_proxy_open("127.0.0.1", 0, "127.0.0.1", ntohs(a.sin_port));
    assert_non_null(r->proxy);
}

static void close_rig(struct rig *r)
{
    fault_proxy_close(r->proxy);
    close(r->listener);
}

static void begin(struct rig *r, const char *text)
{
    struct fault_plan plan;
    char why[160];
    if (!fault_plan_parse(&plan, text, why, sizeof(why))) fail_msg("%s", why);
    fault_proxy_begin(r->proxy, &plan);
}

static int connect_bare(struct rig *r)
{
    const struct sockaddr_in a = loopback(fault_proxy_port(r->proxy));
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(connect(fd, (const struct sockaddr *)&a, sizeof(a)), 0);
    return fd;
}

// fd: client, server.
static void connect_both(struct rig *r, int fd[2])
{
    fd[0] = connect_bare(r);
    fd[1] = accept(r->listener, NULL, NULL);
    assert_true(fd[1] >= 0);
}

static void *send_main(void *ctx)
{
    const int fd = *(const int *)ctx;
    for (size_t at = 0; at < N_BYTES;) {
        const size_t n = N_BYTES - at < 7001 ? N_BYTES - at : 7001;
        const ssize_t got = send(fd, g_sent + at, n, MSG_NOSIGNAL);
        if (got <= 0) return NULL;
        at += (size_t)got;
    }
    shutdown(fd, SHUT_WR);
    return NULL;
}

// All that arrives at `to` of what is sent into `from`; how it ended.
static size_t carry(int from, int to, uint8_t *out, int *errno_out)
{
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, send_main, &from), 0);
    size_t n = 0;
    ssize_t got;
    while ((got = recv(to, out + n, N_BYTES - n, 0)) > 0)
        if ((n += (size_t)got) == N_BYTES) break;
    *errno_out = got < 0 ? errno : 0;
    shutdown(from, SHUT_RDWR); // the sender may still be waiting
    pthread_join(thread, NULL);
    return n;
}

static uint8_t g_got[N_BYTES];

// One connection under a plan: bytes that came, and how it ended.
static size_t pass(struct rig *r, const char *plan, bool is_to_server, int *errno_out)
{
    int fd[2];
    begin(r, plan);
    connect_both(r, fd);
    memset(g_got, 0, sizeof(g_got));
    const size_t n = carry(fd[!is_to_server], fd[is_to_server], g_got, errno_out);
    for (int i = 0; i < 2; i++) close(fd[i]);
    return n;
}

static void what_passes_is_unchanged(void **state)
{
    (void)state;
    struct rig r;
    open_rig(&r);
    int code;
    static const char *const plans[] = {"", "latency=3", "rate=20000000",
                                        "rate=30000000 latency=2"};
    for (int i = 0; i < 8; i++) {
        assert_int_equal(pass(&r, plans[i / 2], i % 2, &code), N_BYTES);
        assert_memory_equal(g_got, g_sent, N_BYTES);
        assert_int_equal(code, 0);
        struct fault_count count;
        fault_proxy_count(r.proxy, &count);
        assert_int_equal(count.n_conns, 1);
        assert_int_equal(count.bytes[0][i % 2 ? FAULT_TO_SERVER : FAULT_TO_CLIENT], N_BYTES);
        assert_int_equal(count.n_hit, 0);
    }
    close_rig(&r);
}

static void a_fault_meets_its_byte(void **state)
{
    (void)state;
    struct rig r;
    open_rig(&r);
    static const uint32_t at[] = {0, 1, 7001, 123457, N_BYTES - 1};
    for (size_t i = 0; i < sizeof(at) / sizeof(at[0]); i++) {
        const bool is_to_server = i % 2;
        const char *where = is_to_server ? "to" : "from";
        char plan[80];
        int code;
        (void)snprintf(plan, sizeof(plan), "cut,0,%s,%u", where, at[i]);
        assert_int_equal(pass(&r, plan, is_to_server, &code), at[i]);
        assert_memory_equal(g_got, g_sent, at[i]);
        assert_int_equal(code, 0); // the end of a stream
        (void)snprintf(plan, sizeof(plan), "reset,0,%s,%u", where, at[i]);
        // A reset may overtake what was on its way.
        assert_true(pass(&r, plan, is_to_server, &code) <= at[i]);
        assert_int_equal(code, ECONNRESET);
        (void)snprintf(plan, sizeof(plan), "flip,0,%s,%u", where, at[i]);
        assert_int_equal(pass(&r, plan, is_to_server, &code), N_BYTES);
        assert_int_equal(g_got[at[i]] ^ g_sent[at[i]], 1 << (at[i] % 8));
        g_got[at[i]] = g_sent[at[i]];
        assert_memory_equal(g_got, g_sent, N_BYTES);
    }
    close_rig(&r);
}

static void time_is_taken(void **state)
{
    (void)state;
    struct rig r;
    open_rig(&r);
    static const struct {
        const char *plan;
        double least_seconds;
    } slow[] = {{"stall,0,to,1000,ms=80", 0.08},
                {"mark,0,to,1000,ms=80", 0.08},
                {"latency=60", 0.06},
                {"rate=2000000", 0.14},
                {"stall,0,to,0,ms=40,all stall,0,to,200000,ms=40", 0.08}};
    for (size_t i = 0; i < sizeof(slow) / sizeof(slow[0]); i++) {
        int code;
        const uint64_t t0_ns = td_clock_ns();
        assert_int_equal(pass(&r, slow[i].plan, true, &code), N_BYTES);
        assert_memory_equal(g_got, g_sent, N_BYTES);
        assert_true(seconds_since(t0_ns) >= slow[i].least_seconds);
    }
    close_rig(&r);
}

static void refused_for_a_while(void **state)
{
    (void)state;
    struct rig r;
    open_rig(&r);
    int fd[2][2], code;
    begin(&r, "cut,1,to,1000,refuse=1000,all");
    for (int i = 0; i < 2; i++) connect_both(&r, fd[i]);
    assert_int_equal(carry(fd[1][0], fd[1][1], g_got, &code), 1000);
    uint8_t byte;
    assert_int_equal(recv(fd[0][0], &byte, 1, 0), 0); // all: this one too
    const int refused = connect_bare(&r);
    assert_true(recv(refused, &byte, 1, 0) <= 0);
    close(refused);
    nap_ms(1100);
    int again[2];
    connect_both(&r, again);
    assert_int_equal(carry(again[0], again[1], g_got, &code), N_BYTES);
    struct fault_count count;
    fault_proxy_count(r.proxy, &count);
    assert_int_equal(count.n_conns, 4);
    assert_int_equal(count.n_hit, 1);
    for (int i = 0; i < 2; i++) {
        close(fd[0][i]);
        close(fd[1][i]);
        close(again[i]);
    }
    close_rig(&r);
}

static void *accept_main(void *ctx)
{
    struct end *e = ctx;
    e->fd = accept(e->fd, NULL, NULL);
    return end_main(e);
}

// Under a link: what was sent arrives, a flipped bit is the end of it when it is encrypted.
static void links_pass_and_notice(void **state)
{
    (void)state;
    static const char *const plans[] = {"", "flip,0,to,2000", "cut,0,to,2000", "reset,0,to,2000"};
    struct rig r;
    open_rig(&r);
    for (int i = 0; i < 8; i++) {
        const struct td_key *key = i % 2 ? &key_a : NULL;
        const struct td_link_limits limits = {.handshake_ms = 10000, .stall_ms = 10000};
        begin(&r, plans[i / 2]);
        struct end e = {.fd = r.listener, .is_listening_side = true, .key = key, .limits = limits};
        assert_int_equal(pthread_create(&e.thread, NULL, accept_main, &e), 0);
        char where[32];
        (void)snprintf(where, sizeof(where), "127.0.0.1:%u", fault_proxy_port(r.proxy));
        struct td_link *link;
        struct td_error err;
        assert_int_equal(td_link_connect(&link, where, key, &limits, NULL, &err), TD_OK);
        end_join(&e);
        assert_int_equal(e.code, TD_OK);
        int code = td_link_write(link, g_sent, 5000, &err);
        if (!code) code = td_link_read(e.link, g_got, 5000, &err);
        const bool is_clear_flip = i == 2;
        assert_int_equal(code, i < 2 || is_clear_flip ? TD_OK : TD_EIO);
        if (!code) {
            g_got[2000] ^= is_clear_flip;
            assert_memory_equal(g_got, g_sent, 5000);
        }
        td_link_close(link);
        td_link_close(e.link);
    }
    close_rig(&r);
}

static void a_plan_is_understood_or_refused(void **state)
{
    (void)state;
    struct fault_plan p;
    char why[160];
    assert_true(fault_plan_parse(
        &p, " rate=7 cut,3,from,99,refuse=5,all latency=2 stall,0,to,1,ms=8", why, sizeof(why)));
    assert_int_equal(p.bytes_per_s, 7);
    assert_int_equal(p.latency_ms, 2);
    assert_int_equal(p.n_faults, 2);
    assert_int_equal(p.faults[0].kind, FAULT_CUT);
    assert_int_equal(p.faults[0].i_conn, 3);
    assert_int_equal(p.faults[0].direction, FAULT_TO_CLIENT);
    assert_int_equal(p.faults[0].at_byte, 99);
    assert_int_equal(p.faults[0].refuse_ms, 5);
    assert_true(p.faults[0].is_all);
    assert_int_equal(p.faults[1].ms, 8);
    static const char *const bad[] = {
        "rate",        "cut",        "cut,1,to",    "cut,1,up,5",
        "burn,1,to,5", "cut,x,to,5", "cut,1,to,-5", "cut,1,to,5,soon"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        assert_false(fault_plan_parse(&p, bad[i], why, sizeof(why)));
        assert_non_null(strstr(why, bad[i]));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_passes_is_unchanged),
        cmocka_unit_test(a_fault_meets_its_byte),
        cmocka_unit_test(time_is_taken),
        cmocka_unit_test(refused_for_a_while),
        cmocka_unit_test(links_pass_and_notice),
        cmocka_unit_test(a_plan_is_understood_or_refused),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}
