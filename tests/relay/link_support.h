// SPDX-License-Identifier: MIT
// Two ends of a link in one process: a socket pair, a thread for the other end.
#ifndef TD_TESTS_RELAY_LINK_SUPPORT_H
#define TD_TESTS_RELAY_LINK_SUPPORT_H

#include "base/clock.h"
#include "base/num.h"
#include "relay/link.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static const struct td_key key_a = {{1, 2, 3}}, key_b = {{1, 2, 4}};
static const struct td_link_limits quick = {.handshake_ms = 300, .stall_ms = 200};

// One end that comes up in a thread of its own.
struct end {
    int fd;
    bool is_listening_side;
    const struct td_key *key;
    struct td_link_limits limits;
    pthread_t thread;
    struct td_link *link;
    struct td_error err;
    int code;
};

static inline void *end_main(void *ctx)
{
    struct end *e = ctx;
    e->code = td_link_of_fd(&e->link, e->fd, e->is_listening_side, e->key, &e->limits, &e->err);
    return NULL;
}

static inline void end_start(struct end *e, int fd, bool is_listening_side,
                             const struct td_key *key, struct td_link_limits limits)
{
    *e = (struct end){
        .fd = fd, .is_listening_side = is_listening_side, .key = key, .limits = limits};
    assert_int_equal(pthread_create(&e->thread, NULL, end_main, e), 0);
}

static inline void end_join(struct end *e)
{
    assert_int_equal(pthread_join(e->thread, NULL), 0);
}

static inline void make_pair(int fd[2])
{
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fd), 0);
}

// Both ends up, or the test fails. key NULL: in the clear.
static inline void connect_pair(struct td_link *link[2], const struct td_key *key,
                                struct td_link_limits limits)
{
    int fd[2];
    make_pair(fd);
    struct end e[2];
    for (int i = 0; i < 2; i++) end_start(&e[i], fd[i], i == 0, key, limits);
    for (int i = 0; i < 2; i++) {
        end_join(&e[i]);
        if (e[i].code) fail_msg("%s", e[i].err.msg);
        link[i] = e[i].link;
    }
}

static inline void nap_ms(uint32_t ms)
{
    const struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};
    nanosleep(&t, NULL);
}

static inline double seconds_since(uint64_t t0_ns)
{
    return (double)(td_clock_ns() - t0_ns) / 1e9;
}

#endif
