// SPDX-License-Identifier: MIT
// Addresses, and the listener: one thread, one poll over the sockets that listen and the few
// handshakes under way, so that a stranger costs a slot for a moment and never a thread.
#include "relay/link_impl.h"

#include "base/clock.h"
#include "relay/why_impl.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_SOCKETS = 8, BACKLOG = 64 };
// A handshake takes two round trips: who has not done it after a second may be put out.
#define MAY_EVICT_NS 1000000000u

struct pending {
    struct td_link *link;
    uint64_t since_ns;
    short events;
};

struct td_listener {
    struct td_tls *tls; // NULL: in the clear, loopback only
    struct td_link_limits limits;
    int fds[MAX_SOCKETS];
    uint32_t n_fds;
    uint16_t port;
    int wake[2];                                     // a pipe: cancel writes, accept polls
    struct pending pending[TD_LISTENER_MAX_PENDING]; // in the order they came
    uint32_t n_pending;
    uint64_t rest_until_ns; // no accept before: the process is out of descriptors
    uint64_t n_refused;
    struct td_error last;
};

// ---- addresses

int td_link_set_nonblocking(int fd)
{
    const int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0) return -1;
    return fcntl(fd, F_SETFD, FD_CLOEXEC) < 0 ? -1 : 0;
}

void td_link_name(const struct sockaddr *address, socklen_t size, char *out, size_t out_bytes)
{
    char host[64], port[8];
    out[0] = '\0';
    if (getnameinfo(address, size, host, sizeof(host), port, sizeof(port),
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0)
        return;
    const bool is_v6 = address->sa_family == AF_INET6;
    (void)snprintf(out, out_bytes, "%s%s%s:%s", is_v6 ? "[" : "", host, is_v6 ? "]" : "", port);
}

static bool is_loopback(const struct sockaddr *address)
{
    if (address->sa_family == AF_INET) {
        struct sockaddr_in v4;
        memcpy(&v4, address, sizeof(v4));
        return ntohl(v4.sin_addr.s_addr) >> 24 == 127;
    }
    if (address->sa_family != AF_INET6) return false;
    struct sockaddr_in6 v6;
    memcpy(&v6, address, sizeof(v6));
    const uint8_t *b = v6.sin6_addr.s6_addr;
    return IN6_IS_ADDR_LOOPBACK(&v6.sin6_addr) ||
           (IN6_IS_ADDR_V4MAPPED(&v6.sin6_addr) && b[12] == 127);
}

// Splits "HOST:PORT" or "[ADDRESS]:PORT".
static int split(const char *where, char *host, size_t host_bytes, const char **port_out,
                 struct td_error *err)
{
    const char *colon = strrchr(where, ':');
    const char *begin = where, *end = colon;
    if (colon && where[0] == '[' && colon > where + 1 && colon[-1] == ']') {
        begin++;
        end--;
    } else if (colon && memchr(where, ':', (size_t)(colon - where))) {
        return td_fail(err, TD_EARG, "'%.100s': an IPv6 address goes in brackets, [::1]:4711",
                       where);
    }
    const size_t n_digits = colon ? strspn(colon + 1, "0123456789") : 0;
    if (!colon || end == begin || n_digits == 0 || n_digits > 5 || colon[1 + n_digits] ||
        strtoul(colon + 1, NULL, 10) > 65535 || (size_t)(end - begin) >= host_bytes)
        return td_fail(err, TD_EARG, "'%.100s' is not HOST:PORT", where);
    memcpy(host, begin, (size_t)(end - begin));
    host[end - begin] = '\0';
    *port_out = colon + 1;
    return TD_OK;
}

int td_link_resolve(const char *where, bool is_listening_side, bool has_key, struct addrinfo **out,
                    struct td_error *err)
{
    *out = NULL;
    char host[256];
    const char *port = NULL;
    int code = split(where, host, sizeof(host), &port, err);
    if (code) return code;
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
                                   .ai_flags =
                                       AI_NUMERICSERV | (is_listening_side ? AI_PASSIVE : 0)};
    struct addrinfo *all;
    const int failure = getaddrinfo(host, port, &hints, &all);
    if (failure) return td_fail(err, TD_EIO, "'%.100s': %s", where, gai_strerror(failure));
    for (const struct addrinfo *a = all; a && !has_key; a = a->ai_next) {
        if (is_loopback(a->ai_addr)) continue;
        freeaddrinfo(all);
        return td_fail(err, TD_EARG,
                       "%.100s is not this machine: without a key (tandem key new) the relay %s "
                       "loopback addresses only",
                       where, is_listening_side ? "listens on" : "connects to");
    }
    *out = all;
    return TD_OK;
}

// ---- the listener

// Listens on one address: the socket, or -1 with errno.
static int listen_on(const struct addrinfo *a)
{
    const int fd = socket(a->ai_family, a->ai_socktype, a->ai_protocol);
    if (fd < 0) return -1;
    const int on = 1;
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (a->ai_family == AF_INET6) (void)setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on));
    if (td_link_set_nonblocking(fd) == 0 && bind(fd, a->ai_addr, a->ai_addrlen) == 0 &&
        listen(fd, BACKLOG) == 0)
        return fd;
    const int reason = errno;
    close(fd);
    errno = reason;
    return -1;
}

static uint16_t port_of(int fd)
{
    struct sockaddr_storage address;
    socklen_t size = sizeof(address);
    char name[80];
    if (getsockname(fd, (struct sockaddr *)&address, &size) != 0) return 0;
    td_link_name((struct sockaddr *)&address, size, name, sizeof(name));
    const char *colon = strrchr(name, ':');
    return colon ? (uint16_t)strtoul(colon + 1, NULL, 10) : 0;
}

int td_listener_open(struct td_listener **out, const char *where, const struct td_key *key,
                     const struct td_link_limits *limits, struct td_error *err)
{
    *out = NULL;
    struct addrinfo *addresses;
    int code = td_link_resolve(where, true, key != NULL, &addresses, err);
    if (code) return code;
    struct td_listener *l = calloc(1, sizeof(*l));
    if (!l) {
        freeaddrinfo(addresses);
        return td_fail(err, TD_ENOMEM, "no memory for a listener");
    }
    if (limits) l->limits = *limits;
    l->wake[0] = l->wake[1] = -1;
    int reason = 0;
    for (const struct addrinfo *a = addresses; a && l->n_fds < MAX_SOCKETS; a = a->ai_next) {
        const int fd = listen_on(a);
        if (fd < 0) {
            reason = errno;
            continue;
        }
        l->fds[l->n_fds++] = fd;
        if (l->n_fds == 1) l->port = port_of(fd);
        // "Any port" of a second address would be another one.
        if (strcmp(strrchr(where, ':'), ":0") == 0) break;
    }
    freeaddrinfo(addresses);
    char why[80];
    if (l->n_fds == 0)
        code = td_fail(err, TD_EIO, "cannot listen on %.100s: %s", where,
                       td_relay_why(reason, why, sizeof(why)));
    if (!code && (pipe(l->wake) != 0 || td_link_set_nonblocking(l->wake[0]) != 0 ||
                  td_link_set_nonblocking(l->wake[1]) != 0))
        code = td_fail(err, TD_EIO, "pipe: %s", td_relay_why(errno, why, sizeof(why)));
    if (!code && key) code = td_tls_open(&l->tls, key, true, err);
    if (code)
        td_listener_close(l);
    else
        *out = l;
    return code;
}

void td_listener_close(struct td_listener *l)
{
    if (!l) return;
    for (uint32_t i = 0; i < l->n_pending; i++) td_link_close(l->pending[i].link);
    for (uint32_t i = 0; i < l->n_fds; i++) close(l->fds[i]);
    for (int i = 0; i < 2; i++)
        if (l->wake[i] >= 0) close(l->wake[i]);
    td_tls_close(l->tls);
    free(l);
}

uint16_t td_listener_port(const struct td_listener *l)
{
    return l->port;
}

uint64_t td_listener_n_refused(const struct td_listener *l, struct td_error *last_out)
{
    if (last_out) *last_out = l->last;
    return l->n_refused;
}

void td_listener_cancel(struct td_listener *l)
{
    // A full pipe wakes as well.
    const ssize_t n = write(l->wake[1], "", 1);
    (void)n;
}

static void drop_pending(struct td_listener *l, uint32_t i)
{
    l->n_pending--;
    memmove(&l->pending[i], &l->pending[i + 1], (l->n_pending - i) * sizeof(l->pending[0]));
}

static void refuse(struct td_listener *l, uint32_t i)
{
    l->n_refused++;
    td_link_close(l->pending[i].link);
    drop_pending(l, i);
}

// One step of handshake i: a link when it is done, NULL when it goes on or failed (then it is
// gone).
static struct td_link *step(struct td_listener *l, uint32_t i)
{
    struct pending *p = &l->pending[i];
    if (td_link_handshake_step(p->link, &p->events, &l->last)) {
        refuse(l, i);
        return NULL;
    }
    if (p->events) return NULL;
    struct td_link *link = p->link;
    drop_pending(l, i);
    return link;
}

// Takes what waits in the backlog of one socket, as long as there are slots.
static void take_new(struct td_listener *l, int listening)
{
    const uint64_t now_ns = td_clock_ns();
    while (l->n_pending < TD_LISTENER_MAX_PENDING) {
        const int fd = accept(listening, NULL, NULL);
        if (fd < 0) {
            // Out of descriptors or memory: poll would spin.
            if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
                l->rest_until_ns = now_ns + 100000000u;
            return;
        }
        struct td_link *link;
        if (td_link_new(&link, fd, l->tls, true, &l->limits, &l->last)) {
            l->n_refused++;
            continue;
        }
        // A client speaks first; in the clear there is nothing to wait for.
        l->pending[l->n_pending++] = (struct pending){link, now_ns, l->tls ? POLLIN : 0};
    }
}

static void time_out(struct td_listener *l, uint64_t now_ns)
{
    for (uint32_t i = 0; i < l->n_pending;) {
        const struct pending *p = &l->pending[i];
        const uint64_t age_ns = now_ns - p->since_ns;
        const bool is_full = l->n_pending == TD_LISTENER_MAX_PENDING;
        if (age_ns < (uint64_t)p->link->limits.handshake_ms * 1000000 &&
            !(is_full && i == 0 && age_ns >= MAY_EVICT_NS)) {
            i++;
            continue;
        }
        (void)td_fail(&l->last, TD_EIO, "%s: no handshake within %.1f seconds", p->link->peer,
                      (double)age_ns / 1e9);
        refuse(l, i);
    }
}

// Nanoseconds until something must be looked at again without an event.
static uint64_t next_look_ns(const struct td_listener *l, uint64_t now_ns, uint64_t deadline_ns)
{
    uint64_t at = deadline_ns;
    for (uint32_t i = 0; i < l->n_pending; i++) {
        const struct pending *p = &l->pending[i];
        const uint64_t end = p->since_ns + (uint64_t)p->link->limits.handshake_ms * 1000000;
        if (end < at) at = end;
        if (l->n_pending == TD_LISTENER_MAX_PENDING && i == 0 && p->since_ns + MAY_EVICT_NS < at)
            at = p->since_ns + MAY_EVICT_NS;
    }
    if (l->rest_until_ns > now_ns && l->rest_until_ns < at) at = l->rest_until_ns;
    return at > now_ns ? at - now_ns : 0;
}

int td_listener_accept(struct td_listener *l, uint32_t wait_ms, struct td_link **out,
                       struct td_error *err)
{
    *out = NULL;
    const uint64_t deadline_ns = td_clock_ns() + (uint64_t)wait_ms * 1000000;
    struct pollfd p[1 + MAX_SOCKETS + TD_LISTENER_MAX_PENDING];
    for (;;) {
        // In the clear there is no handshake to wait for.
        if (!l->tls && l->n_pending > 0) {
            *out = step(l, 0);
            return TD_OK;
        }
        const uint64_t now_ns = td_clock_ns();
        time_out(l, now_ns);
        p[0] = (struct pollfd){.fd = l->wake[0], .events = POLLIN};
        const bool may_take = l->n_pending < TD_LISTENER_MAX_PENDING && now_ns >= l->rest_until_ns;
        for (uint32_t i = 0; i < l->n_fds; i++)
            p[1 + i] = (struct pollfd){.fd = may_take ? l->fds[i] : -1, .events = POLLIN};
        const uint32_t at_pending = 1 + l->n_fds, n_polled = l->n_pending;
        for (uint32_t i = 0; i < n_polled; i++)
            p[at_pending + i] =
                (struct pollfd){.fd = l->pending[i].link->fd, .events = l->pending[i].events};
        const uint64_t wait_ns = next_look_ns(l, now_ns, deadline_ns);
        const uint64_t ms = (wait_ns + 999999) / 1000000;
        const int n = poll(p, at_pending + n_polled, ms > 60000 ? 60000 : (int)ms);
        char why[80];
        if (n < 0 && errno != EINTR && errno != EAGAIN)
            return td_fail(err, TD_EIO, "poll: %s", td_relay_why(errno, why, sizeof(why)));
        if (n > 0 && p[0].revents) return td_fail(err, TD_ECANCEL, "cancelled");
        // From the last to the first: a step may take its own entry out, not those before it.
        for (uint32_t i = n_polled; n > 0 && i-- > 0;) {
            if (!p[at_pending + i].revents) continue;
            *out = step(l, i);
            if (*out) return TD_OK;
        }
        for (uint32_t i = 0; n > 0 && i < l->n_fds; i++)
            if (p[1 + i].revents) take_new(l, l->fds[i]);
        if (td_clock_ns() >= deadline_ns && (l->tls || l->n_pending == 0)) return TD_OK;
    }
}
