// SPDX-License-Identifier: MIT
// A connection: reads and writes whole buffers over a non-blocking socket, waits in poll with a
// deadline, never holding the lock. The handshake is a step function, so that a listener can run
// many.
#include "relay/link_impl.h"

#include "base/clock.h"
#include "relay/sys_impl.h"
#include "relay/why_impl.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define HANDSHAKE_MS 5000u
#define STALL_MS     10000u
// RFC 8446, 5.5: 2^24.5 full records of 16 KiB are the limit of AES-GCM under one key.
#define REKEY_BYTES ((uint64_t)1 << 37)

int td_link_new(struct td_link **out, int fd, struct td_tls *tls, bool is_listening_side,
                const struct td_link_limits *limits, struct td_error *err)
{
    *out = NULL;
    struct td_link *link = calloc(1, sizeof(*link));
    if (!link || pthread_mutex_init(&link->mutex, NULL) != 0) {
        free(link);
        close(fd);
        return td_fail(err, TD_ENOMEM, "no memory for a connection");
    }
    link->fd = fd;
    link->is_listening_side = is_listening_side;
    if (limits) link->limits = *limits;
    if (!link->limits.handshake_ms) link->limits.handshake_ms = HANDSHAKE_MS;
    if (!link->limits.stall_ms) link->limits.stall_ms = STALL_MS;
    if (!link->limits.rekey_bytes) link->limits.rekey_bytes = REKEY_BYTES;

    struct sockaddr_storage address;
    socklen_t size = sizeof(address);
    memset(&address, 0, sizeof(address));
    if (getpeername(fd, (struct sockaddr *)&address, &size) == 0)
        td_link_name((struct sockaddr *)&address, size, link->peer, sizeof(link->peer));
    if (!link->peer[0]) memcpy(link->peer, "the peer", sizeof("the peer"));

    const int on = 1; // fails on sockets that are not TCP, which need it less
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    td_sys_no_sigpipe(fd);
    int code = TD_OK;
    char why[80];
    if (td_link_set_nonblocking(fd) != 0)
        code = td_fail(err, TD_EIO, "%s: %s", link->peer, td_relay_why(errno, why, sizeof(why)));
    if (!code && tls) code = td_tls_attach(tls, link, err);
    if (code)
        td_link_close(link);
    else
        *out = link;
    return code;
}

void td_link_close(struct td_link *link)
{
    if (!link) return;
    if (link->ssl) {
        ERR_clear_error();
        // One alert, if the socket takes it at once; OpenSSL forbids it after a failure.
        if (!link->is_broken && SSL_is_init_finished(link->ssl)) (void)SSL_shutdown(link->ssl);
        SSL_free(link->ssl);
        ERR_clear_error();
    }
    close(link->fd);
    td_tls_close(link->tls);
    pthread_mutex_destroy(&link->mutex);
    free(link);
}

void td_link_cancel(struct td_link *link)
{
    atomic_store_explicit(&link->is_cancelled, true, memory_order_release);
    (void)shutdown(link->fd, SHUT_RDWR); // ends every poll on it
}

const char *td_link_peer(const struct td_link *link)
{
    return link->peer;
}

bool td_link_is_encrypted(const struct td_link *link)
{
    return link->ssl != NULL;
}

static bool is_cancelled(const struct td_link *link)
{
    return atomic_load_explicit(&link->is_cancelled, memory_order_acquire);
}

static int cancelled(struct td_error *err)
{
    return td_fail(err, TD_ECANCEL, "cancelled");
}

// Waits for events until the deadline: 1 they came, 0 time is up, or TD_E... A socket in trouble
// counts as ready: the next call on it says what it is.
static int wait_for(const struct td_link *link, short events, uint64_t deadline_ns,
                    struct td_error *err)
{
    for (;;) {
        if (is_cancelled(link)) return cancelled(err);
        const uint64_t now_ns = td_clock_ns();
        const uint64_t left_ms =
            now_ns < deadline_ns ? (deadline_ns - now_ns + 999999) / 1000000 : 0;
        struct pollfd p = {.fd = link->fd, .events = events};
        const int n = poll(&p, 1, left_ms > 60000 ? 60000 : (int)left_ms);
        if (n > 0) return is_cancelled(link) ? cancelled(err) : 1;
        if (n == 0 && left_ms == 0) return 0;
        char why[80];
        if (n < 0 && errno != EINTR && errno != EAGAIN)
            return td_fail(err, TD_EIO, "poll: %s", td_relay_why(errno, why, sizeof(why)));
    }
}

static uint64_t deadline_in(uint32_t ms)
{
    return td_clock_ns() + (uint64_t)ms * 1000000;
}

static short events_of(int ssl_error)
{
    switch (ssl_error) {
    case SSL_ERROR_WANT_READ: return POLLIN;
    case SSL_ERROR_WANT_WRITE: return POLLOUT;
    default: return 0;
    }
}

// After recv or send returned n <= 0 without TLS.
static int plain_result(struct td_link *link, ssize_t n, short wanted, short *events,
                        struct td_error *err)
{
    if (n == 0) return td_fail(err, TD_EIO, "%s closed the connection", link->peer);
    if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR) {
        *events = wanted;
        return TD_OK;
    }
    char why[80];
    return td_fail(err, TD_EIO, "%s: %s", link->peer, td_relay_why(errno, why, sizeof(why)));
}

// After a failed SSL call, with the lock held.
static int tls_result(struct td_link *link, int ssl_error, short *events, struct td_error *err)
{
    *events = events_of(ssl_error);
    return *events ? TD_OK : td_tls_fail(link, ssl_error, err);
}

static int broken(const struct td_link *link, struct td_error *err)
{
    return td_fail(err, TD_EIO, "the connection to %s has failed before", link->peer);
}

static bool is_broken(struct td_link *link)
{
    pthread_mutex_lock(&link->mutex);
    const bool yes = link->is_broken;
    pthread_mutex_unlock(&link->mutex);
    return yes;
}

// One try, without waiting: *n_out bytes, or 0 and the events to poll for.
static int try_read(struct td_link *link, void *out, size_t n, size_t *n_out, short *events,
                    struct td_error *err)
{
    *n_out = 0;
    *events = 0;
    if (!link->ssl) {
        if (is_broken(link)) return broken(link, err);
        const ssize_t got = recv(link->fd, out, n, 0);
        if (got <= 0) return plain_result(link, got, POLLIN, events, err);
        *n_out = (size_t)got;
        return TD_OK;
    }
    int code = TD_OK;
    pthread_mutex_lock(&link->mutex);
    ERR_clear_error();
    if (link->is_broken)
        code = broken(link, err);
    else if (!SSL_read_ex(link->ssl, out, n, n_out))
        code = tls_result(link, SSL_get_error(link->ssl, 0), events, err);
    pthread_mutex_unlock(&link->mutex);
    return code;
}

static int try_write(struct td_link *link, const void *bytes, size_t n, size_t *n_out,
                     short *events, struct td_error *err)
{
    *n_out = 0;
    *events = 0;
    if (!link->ssl) {
        if (is_broken(link)) return broken(link, err);
        const ssize_t sent = td_sys_send(link->fd, bytes, n);
        if (sent <= 0) return plain_result(link, sent, POLLOUT, events, err);
        *n_out = (size_t)sent;
        return TD_OK;
    }
    int code = TD_OK;
    pthread_mutex_lock(&link->mutex);
    ERR_clear_error();
    if (link->is_broken) {
        code = broken(link, err);
    } else if (SSL_write_ex(link->ssl, bytes, n, n_out)) {
        link->n_since_key += *n_out;
        if (link->n_since_key >= link->limits.rekey_bytes) {
            // Sent with the next write; only our direction.
            (void)SSL_key_update(link->ssl, SSL_KEY_UPDATE_NOT_REQUESTED);
            link->n_since_key = 0;
        }
    } else {
        code = tls_result(link, SSL_get_error(link->ssl, 0), events, err);
    }
    pthread_mutex_unlock(&link->mutex);
    return code;
}

int td_link_read_some(struct td_link *link, void *out, size_t n, uint32_t wait_ms, size_t *n_out,
                      struct td_error *err)
{
    *n_out = 0;
    if (n == 0) return TD_OK;
    const uint64_t deadline_ns = deadline_in(wait_ms);
    for (;;) {
        if (is_cancelled(link)) return cancelled(err);
        short events;
        const int code = try_read(link, out, n, n_out, &events, err);
        // A cancelled socket looks cut.
        if (code) return is_cancelled(link) ? cancelled(err) : code;
        if (*n_out > 0) return TD_OK;
        const int ready = wait_for(link, events, deadline_ns, err);
        if (ready <= 0) return ready;
    }
}

// Part of something went over, the rest did not: what came next would be taken for that rest.
static void set_broken(struct td_link *link)
{
    pthread_mutex_lock(&link->mutex);
    link->is_broken = true;
    pthread_mutex_unlock(&link->mutex);
}

static int stalled(const struct td_link *link, struct td_error *err)
{
    return td_fail(err, TD_EIO, "%s: no byte moved for %.1f seconds", link->peer,
                   link->limits.stall_ms / 1000.0);
}

int td_link_read(struct td_link *link, void *out, size_t n, struct td_error *err)
{
    uint8_t *at = out;
    while (n > 0) {
        size_t got;
        const int code = td_link_read_some(link, at, n, link->limits.stall_ms, &got, err);
        if (code) return code;
        if (got == 0) {
            if (at != out) set_broken(link);
            return stalled(link, err);
        }
        at += got;
        n -= got;
    }
    return TD_OK;
}

int td_link_write(struct td_link *link, const void *bytes, size_t n, struct td_error *err)
{
    const uint8_t *at = bytes;
    while (n > 0) {
        if (is_cancelled(link)) return cancelled(err);
        size_t sent;
        short events;
        const int code = try_write(link, at, n, &sent, &events, err);
        if (code) return is_cancelled(link) ? cancelled(err) : code;
        at += sent;
        n -= sent;
        if (sent > 0) continue;
        const int ready = wait_for(link, events, deadline_in(link->limits.stall_ms), err);
        if (ready < 0) return ready;
        if (ready == 0) {
            set_broken(link);
            return stalled(link, err);
        }
    }
    return TD_OK;
}

int td_link_handshake_step(struct td_link *link, short *events, struct td_error *err)
{
    *events = 0;
    if (!link->ssl) return TD_OK;
    ERR_clear_error();
    const int done = SSL_do_handshake(link->ssl);
    if (done != 1) return tls_result(link, SSL_get_error(link->ssl, done), events, err);
    // "Reused" is OpenSSL's word for: by PSK. A peer with a certificate instead, whoever signed
    // it, is not our peer.
    if (SSL_session_reused(link->ssl) && SSL_version(link->ssl) == TLS1_3_VERSION) return TD_OK;
    link->is_broken = true;
    return td_fail(err, TD_EIO, "%s did not prove that it holds the key", link->peer);
}

// Who waits here looks up that often.
#define STOP_NS 50000000u

static bool is_stopped(const _Atomic bool *stop)
{
    return stop && atomic_load_explicit(stop, memory_order_relaxed);
}

// The next time to look up.
static uint64_t look_up(const _Atomic bool *stop, uint64_t deadline_ns)
{
    const uint64_t soon_ns = td_clock_ns() + STOP_NS;
    return stop && soon_ns < deadline_ns ? soon_ns : deadline_ns;
}

static int handshake(struct td_link *link, uint64_t deadline_ns, const _Atomic bool *stop,
                     struct td_error *err)
{
    for (;;) {
        short events;
        const int code = td_link_handshake_step(link, &events, err);
        if (code || !events) return code;
        const uint64_t until_ns = look_up(stop, deadline_ns);
        const int ready = wait_for(link, events, until_ns, err);
        if (ready < 0) return ready;
        if (is_stopped(stop)) return cancelled(err);
        if (ready == 0 && until_ns == deadline_ns)
            return td_fail(err, TD_EIO, "%s: no handshake within %.1f seconds", link->peer,
                           link->limits.handshake_ms / 1000.0);
    }
}

// As td_link_of_fd, with the handshake done by the deadline.
static int make_link(struct td_link **out, int fd, bool is_listening_side, const struct td_key *key,
                     const struct td_link_limits *limits, uint64_t deadline_ns,
                     const _Atomic bool *stop, struct td_error *err)
{
    *out = NULL;
    struct td_tls *tls = NULL;
    int code = key ? td_tls_open(&tls, key, is_listening_side, err) : TD_OK;
    if (code) {
        close(fd);
        return code;
    }
    struct td_link *link = NULL;
    code = td_link_new(&link, fd, tls, is_listening_side, limits, err);
    td_tls_close(tls); // the link has its own share
    if (!link) return code;
    code = handshake(link, deadline_ns, stop, err);
    if (code)
        td_link_close(link);
    else
        *out = link;
    return code;
}

static uint64_t handshake_deadline(const struct td_link_limits *limits)
{
    return deadline_in(limits && limits->handshake_ms ? limits->handshake_ms : HANDSHAKE_MS);
}

int td_link_of_fd(struct td_link **out, int fd, bool is_listening_side, const struct td_key *key,
                  const struct td_link_limits *limits, struct td_error *err)
{
    return make_link(out, fd, is_listening_side, key, limits, handshake_deadline(limits), NULL,
                     err);
}

// Waits until the socket says something or the deadline: more than 0, 0, or -1 with errno.
static int poll_until(struct pollfd *p, uint64_t deadline_ns, const _Atomic bool *stop)
{
    for (;;) {
        if (is_stopped(stop)) {
            errno = ECANCELED;
            return -1;
        }
        const uint64_t now_ns = td_clock_ns(), until_ns = look_up(stop, deadline_ns);
        const uint64_t left_ms = now_ns < until_ns ? (until_ns - now_ns + 999999) / 1000000 : 0;
        const int n = poll(p, 1, left_ms > 60000 ? 60000 : (int)left_ms);
        if (n > 0 || (n < 0 && errno != EINTR) || (n == 0 && td_clock_ns() >= deadline_ns))
            return n;
    }
}

// Connects one address: the socket, or -1 with errno.
static int connect_one(const struct addrinfo *a, uint64_t deadline_ns, const _Atomic bool *stop)
{
    const int fd = socket(a->ai_family, a->ai_socktype, a->ai_protocol);
    if (fd < 0) return -1;
    int reason = td_link_set_nonblocking(fd) ? errno : 0;
    if (!reason && connect(fd, a->ai_addr, a->ai_addrlen) != 0) reason = errno;
    if (reason == EINPROGRESS || reason == EINTR) {
        struct pollfd p = {.fd = fd, .events = POLLOUT};
        const int n = poll_until(&p, deadline_ns, stop);
        socklen_t size = sizeof(reason);
        if (n <= 0)
            reason = n == 0 ? ETIMEDOUT : errno;
        else if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &reason, &size) != 0)
            reason = errno;
    }
    if (!reason) return fd;
    close(fd);
    errno = reason;
    return -1;
}

// Connects the first address that answers; each gets its share of the time that is left. -1 with
// errno when none does.
static int connect_any(const struct addrinfo *addresses, uint64_t deadline_ns,
                       const _Atomic bool *stop)
{
    uint64_t n_left = 0;
    for (const struct addrinfo *a = addresses; a; a = a->ai_next) n_left++;
    int fd = -1;
    for (const struct addrinfo *a = addresses; a && fd < 0; a = a->ai_next) {
        const uint64_t now_ns = td_clock_ns();
        const uint64_t left_ns = now_ns < deadline_ns ? deadline_ns - now_ns : 0;
        fd = connect_one(a, now_ns + left_ns / n_left--, stop);
        if (is_stopped(stop)) break;
    }
    return fd;
}

int td_link_connect(struct td_link **out, const char *where, const struct td_key *key,
                    const struct td_link_limits *limits, const _Atomic bool *stop,
                    struct td_error *err)
{
    *out = NULL;
    struct addrinfo *addresses;
    int code = td_link_resolve(where, false, key != NULL, &addresses, err);
    if (code) return code;
    const uint64_t deadline_ns = handshake_deadline(limits);
    const int fd = connect_any(addresses, deadline_ns, stop);
    const int reason = errno;
    freeaddrinfo(addresses);
    char why[80];
    if (fd < 0 && is_stopped(stop)) return cancelled(err);
    if (fd < 0)
        return td_fail(err, TD_EIO, "%.100s: %s", where, td_relay_why(reason, why, sizeof(why)));
    return make_link(out, fd, false, key, limits, deadline_ns, stop, err);
}
