// SPDX-License-Identifier: MIT
// A client of raw sockets, for what no proper client would do. Every wait has a limit far above
// what a slow machine needs; none is timed closely.
#ifndef TD_TESTS_HTTP_CLIENT_H
#define TD_TESTS_HTTP_CLIENT_H

#include "base/clock.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { CLIENT_WAIT_MS = 20000 };

struct client {
    int fd;
    char *in; // what has come, with a NUL behind it
    size_t n, cap;
    bool has_ended; // the server closed or reset it
};

static inline bool client_open(struct client *c, uint16_t port)
{
    *c = (struct client){.fd = socket(AF_INET, SOCK_STREAM, 0), .cap = 1 << 16};
    c->in = calloc(1, c->cap);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return c->in && connect(c->fd, (struct sockaddr *)&to, sizeof(to)) == 0;
}

static inline void client_close(struct client *c)
{
    if (c->fd >= 0) close(c->fd);
    free(c->in);
    *c = (struct client){.fd = -1};
}

// Resets the connection instead of closing it.
static inline void client_reset(struct client *c)
{
    const struct linger at_once = {.l_onoff = 1, .l_linger = 0};
    setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
    client_close(c);
}

// False when the server does not take it any more.
static inline bool client_send_bytes(struct client *c, const char *bytes, size_t n)
{
    while (n) {
        struct pollfd p = {.fd = c->fd, .events = POLLOUT};
        if (poll(&p, 1, CLIENT_WAIT_MS) <= 0) return false;
        const ssize_t sent = send(c->fd, bytes, n, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent <= 0) return false;
        bytes += sent;
        n -= (size_t)sent;
    }
    return true;
}

static inline bool client_send(struct client *c, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
static inline bool client_send(struct client *c, const char *fmt, ...)
{
    char text[4096];
    va_list args;
    va_start(args, fmt);
    const int n = vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    return n >= 0 && (size_t)n < sizeof(text) && client_send_bytes(c, text, (size_t)n);
}

// Takes what comes within timeout_ms; false when nothing did, or it has ended.
static inline bool client_take(struct client *c, int timeout_ms)
{
    struct pollfd p = {.fd = c->fd, .events = POLLIN};
    if (c->has_ended || poll(&p, 1, timeout_ms) <= 0) return false;
    if (c->n + 65536 + 1 > c->cap) {
        c->cap = c->cap * 2 + 65536;
        c->in = realloc(c->in, c->cap);
        if (!c->in) abort();
    }
    const ssize_t got = recv(c->fd, c->in + c->n, 65536, 0);
    if (got <= 0) {
        c->has_ended = true;
        return false;
    }
    c->n += (size_t)got;
    c->in[c->n] = '\0';
    return true;
}

// Waits until text has come (from the start of all that did); false when it never does.
static inline bool client_sees(struct client *c, const char *text)
{
    const uint64_t until_ns = td_clock_ns() + CLIENT_WAIT_MS * (uint64_t)1000000;
    while (!strstr(c->in, text) && td_clock_ns() < until_ns)
        if (!client_take(c, 100) && c->has_ended) break;
    return strstr(c->in, text) != NULL;
}

// Waits until the server has closed it.
static inline bool client_ends(struct client *c)
{
    const uint64_t until_ns = td_clock_ns() + CLIENT_WAIT_MS * (uint64_t)1000000;
    while (!c->has_ended && td_clock_ns() < until_ns) client_take(c, 100);
    return c->has_ended;
}

static inline void client_forget(struct client *c)
{
    c->n = 0;
    c->in[0] = '\0';
}

// The status of the first answer that has come; 0: none.
static inline unsigned client_status(const struct client *c)
{
    unsigned status = 0;
    return sscanf(c->in, "HTTP/1.1 %u", &status) == 1 ? status : 0;
}

#endif
