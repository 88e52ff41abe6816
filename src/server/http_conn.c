// SPDX-License-Identifier: MIT
// Connections: how many, how long a request may take to arrive, who has left. libmicrohttpd's own
// timeout is one of silence, which a client that sends a byte now and then never meets, and it does
// not look at the sockets of suspended connections; so a thread watches all sockets beside it. It
// never reads or closes them: it shuts a socket down, which libmicrohttpd then notices.
//
// A client that has left and one that only says that it will send no more (a half-closed
// connection, whose answer is still read) look the same at first: the end of its bytes. What tells
// them apart is writing: one that has left answers with a reset. So a stream is given a keep-alive,
// and where no byte of the answer has been sent, an interim status (100), which HTTP/1.1
// clients skip (RFC 9110, 15.2.1). With TLS or HTTP/1.0 there is no such thing to send, and the end
// of the bytes counts as having left.
#include "server/http_impl.h"

#include "base/clock.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

static const uint64_t linger_ns = 5000000000u;
static const uint64_t ask_ns = 1000000000u;
static const uint64_t linger_bytes = 256u << 20;

static void arm(struct td_http *h, struct td_http_conn *conn, int op, uint32_t events)
{
    struct epoll_event e = {.events = events | EPOLLONESHOT, .data.ptr = conn};
    // A failure leaves a connection that is noticed later, by its timeouts.
    (void)epoll_ctl(h->epoll_fd, op, conn->fd, &e);
}

void http_conn_enter(struct td_http *h, struct td_http_conn *conn, enum conn_state state)
{
    conn->state = state;
    conn->since_ns = td_clock_ns();
    switch (state) {
    case CONN_IDLE: arm(h, conn, EPOLL_CTL_MOD, EPOLLIN); break;
    case CONN_ARRIVING: break;
    case CONN_WORKING: arm(h, conn, EPOLL_CTL_MOD, EPOLLRDHUP); break;
    }
}

void http_watcher_wake(struct td_http *h)
{
    const uint64_t one = 1;
    const ssize_t n = write(h->wake_fd, &one, sizeof(one));
    (void)n; // a full counter wakes as well
}

void http_request_resume(struct td_http_request *r)
{
    if (!r->is_suspended) return;
    r->is_suspended = false;
    MHD_resume_connection(r->mhd);
}

void http_request_end(struct td_http_request *r)
{
    if (r->is_gone) return;
    r->is_gone = true;
    (void)shutdown(r->conn->fd, SHUT_RDWR);
    http_request_resume(r);
}

static void end_conn(struct td_http_conn *conn)
{
    if (conn->request)
        http_request_end(conn->request);
    else
        (void)shutdown(conn->fd, SHUT_RDWR);
}

// ---- coming and going -------------------------------------------------------------------------

static uint64_t mix(uint64_t h, const unsigned char *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++) h = (h ^ bytes[i]) * 0x100000001b3u; // FNV-1a
    return h;
}

// An address as text, and as a number that stands for whoever is behind it: of IPv6 the network,
// since one host may have all of it.
static void name_client(struct td_http_conn *conn, const struct sockaddr *sa)
{
    uint64_t h = 0xcbf29ce484222325u;
    (void)snprintf(conn->client, sizeof(conn->client), "?");
    if (sa && sa->sa_family == AF_INET) {
        struct sockaddr_in in;
        memcpy(&in, sa, sizeof(in));
        (void)inet_ntop(AF_INET, &in.sin_addr, conn->client, sizeof(conn->client));
        h = mix(h, (const unsigned char *)&in.sin_addr, 4);
    } else if (sa && sa->sa_family == AF_INET6) {
        struct sockaddr_in6 in;
        memcpy(&in, sa, sizeof(in));
        const unsigned char *bytes = in.sin6_addr.s6_addr;
        if (IN6_IS_ADDR_V4MAPPED(&in.sin6_addr)) {
            (void)inet_ntop(AF_INET, bytes + 12, conn->client, sizeof(conn->client));
            h = mix(h, bytes + 12, 4);
        } else {
            (void)inet_ntop(AF_INET6, bytes, conn->client, sizeof(conn->client));
            h = mix(h, bytes, 8);
        }
    }
    conn->address = h;
}

// A peer whose machine went down says nothing: the system asks it after a minute of silence.
static void set_options(int fd)
{
    const int on = 1, idle_s = 60, every_s = 10, times = 6;
    (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof(idle_s));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &every_s, sizeof(every_s));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &times, sizeof(times));
}

// Too many: the one that has been idle for longest goes, or else the newcomer.
static void make_room(struct td_http *h, struct td_http_conn *newcomer)
{
    struct td_http_conn *oldest = newcomer;
    for (struct td_http_conn *c = h->conns; c; c = c->next)
        if (c->state == CONN_IDLE && c->since_ns < oldest->since_ns) oldest = c;
    end_conn(oldest);
    // Until libmicrohttpd has closed it, it is not to be chosen again.
    oldest->state = CONN_WORKING;
    h->n_cut++;
}

static void came(struct td_http *h, struct MHD_Connection *mhd, void **socket_context)
{
    const union MHD_ConnectionInfo *fd =
        MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CONNECTION_FD);
    const union MHD_ConnectionInfo *addr =
        MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    struct td_http_conn *conn = fd ? calloc(1, sizeof(*conn)) : NULL;
    *socket_context = conn; // NULL: its requests are refused
    if (!conn) return;
    conn->kind = WATCH_CONN;
    conn->fd = fd->connect_fd;
    conn->mhd = mhd;
    conn->since_ns = td_clock_ns();
    name_client(conn, addr ? addr->client_addr : NULL);
    set_options(conn->fd);

    pthread_mutex_lock(&h->lock);
    conn->next = h->conns;
    if (h->conns) h->conns->prev = conn;
    h->conns = conn;
    h->n_conns++;
    h->n_conns_total++;
    arm(h, conn, EPOLL_CTL_ADD, EPOLLIN);
    if (h->n_conns > h->cfg.max_connections) make_room(h, conn);
    if (h->is_closing) (void)shutdown(conn->fd, SHUT_RDWR);
    pthread_mutex_unlock(&h->lock);
}

static void begin_linger(struct td_http *h, int fd)
{
    if (h->n_lingers >= HTTP_LINGER_MAX || h->is_closing) return;
    struct http_linger *l = calloc(1, sizeof(*l));
    if (!l) return;
    l->kind = WATCH_LINGER;
    l->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    l->until_ns = td_clock_ns() + linger_ns;
    l->left_bytes = linger_bytes;
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = l};
    if (l->fd < 0 || epoll_ctl(h->epoll_fd, EPOLL_CTL_ADD, l->fd, &e) != 0) {
        if (l->fd >= 0) close(l->fd);
        free(l);
        return;
    }
    l->next = h->lingers;
    h->lingers = l;
    h->n_lingers++;
}

static void went(struct td_http *h, struct td_http_conn *conn)
{
    pthread_mutex_lock(&h->lock);
    (void)epoll_ctl(h->epoll_fd, EPOLL_CTL_DEL, conn->fd, NULL);
    if (conn->lingers) begin_linger(h, conn->fd);
    if (conn->prev)
        conn->prev->next = conn->next;
    else
        h->conns = conn->next;
    if (conn->next) conn->next->prev = conn->prev;
    h->n_conns--;
    // The watcher may hold an event of it that it has not looked at: it frees it.
    conn->fd = -1;
    conn->next = h->dead_conns;
    h->dead_conns = conn;
    pthread_mutex_unlock(&h->lock);
}

void http_on_connection(void *cls, struct MHD_Connection *mhd, void **socket_context,
                        enum MHD_ConnectionNotificationCode what)
{
    if (what == MHD_CONNECTION_NOTIFY_STARTED)
        came(cls, mhd, socket_context);
    else if (*socket_context)
        went(cls, *socket_context);
}

// ---- the watcher ------------------------------------------------------------------------------

// Moments that other threads noted may lie after now_ns.
static bool is_over(uint64_t since_ns, uint64_t now_ns, uint64_t limit_ns)
{
    return now_ns > since_ns && now_ns - since_ns > limit_ns;
}

// The client sends no more while its answer is being made: does it still read? One that leaves
// later shows in no other way, so it is asked again and again.
static void ask_half_closed(struct td_http *h, struct td_http_request *r, uint64_t now_ns)
{
    static const char word[] = "HTTP/1.1 100 Continue\r\n\r\n";
    if (!is_over(r->asked_ns, now_ns, ask_ns)) return;
    if (r->is_answering) {
        r->asked_ns = now_ns;
        r->wants_word = r->is_stream;
        http_request_resume(r);
        return;
    }
    // On its way to an answer: the next look finds it there, or suspended again.
    if (!r->is_suspended) return;
    // Suspended before its first byte, and with the lock held it stays so: nobody else writes.
    r->asked_ns = now_ns;
    const ssize_t n_word = (ssize_t)sizeof(word) - 1;
    ssize_t n = -1;
    if (!h->cfg.tls_cert && !r->is_http_1_0) {
        n = send(r->conn->fd, word, (size_t)n_word, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EAGAIN) n = n_word; // it reads slowly, or not at all
    }
    if (n != n_word) http_request_end(r);
}

static void on_conn_event(struct td_http *h, struct td_http_conn *conn, uint32_t events)
{
    if (conn->fd < 0) return; // closed meanwhile
    if (conn->state == CONN_IDLE) {
        conn->state = CONN_ARRIVING;
        conn->since_ns = td_clock_ns();
        return;
    }
    if (conn->state != CONN_WORKING) return;
    if (events & (EPOLLHUP | EPOLLERR))
        end_conn(conn);
    else if (events & EPOLLRDHUP) {
        arm(h, conn, EPOLL_CTL_MOD, 0); // errors and resets from now on
        if (conn->request) conn->request->is_half_closed = true;
    }
}

static void on_linger_event(struct http_linger *l)
{
    char drop[65536];
    for (int i = 0; i < 16; i++) {
        const ssize_t n = recv(l->fd, drop, sizeof(drop), MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
        if (n <= 0 || (uint64_t)n >= l->left_bytes) {
            l->left_bytes = 0;
            return;
        }
        l->left_bytes -= (uint64_t)n;
    }
}

static void end_lingers(struct td_http *h, uint64_t now_ns)
{
    for (struct http_linger **at = &h->lingers; *at;) {
        struct http_linger *l = *at;
        if (l->left_bytes && now_ns < l->until_ns && !h->watcher_ends) {
            at = &l->next;
            continue;
        }
        *at = l->next;
        // Closing does not: libmicrohttpd's descriptor of the same socket may still be open.
        (void)epoll_ctl(h->epoll_fd, EPOLL_CTL_DEL, l->fd, NULL);
        close(l->fd);
        free(l);
        h->n_lingers--;
    }
}

static void look_at_conns(struct td_http *h, uint64_t now_ns)
{
    const uint64_t arrive_ns = h->cfg.header_timeout_s * (uint64_t)1000000000;
    const uint64_t silent_ns = h->cfg.keep_alive_s * (uint64_t)1000000000;
    for (struct td_http_conn *c = h->conns; c; c = c->next) {
        if (c->state == CONN_ARRIVING && is_over(c->since_ns, now_ns, arrive_ns)) {
            h->n_cut++;
            end_conn(c);
            c->since_ns = now_ns;
        }
        struct td_http_request *r = c->request;
        if (r && r->is_half_closed) ask_half_closed(h, r, now_ns);
        if (r && r->is_answering && r->is_stream && r->is_suspended &&
            is_over(r->last_out_ns, now_ns, silent_ns)) {
            r->wants_word = true;
            http_request_resume(r);
        }
    }
}

static void free_dead(struct td_http *h)
{
    while (h->dead_conns) {
        struct td_http_conn *c = h->dead_conns;
        h->dead_conns = c->next;
        free(c);
    }
}

void *http_watcher(void *arg)
{
    enum { MAX_EVENTS = 128 };
    struct td_http *h = arg;
    struct epoll_event events[MAX_EVENTS];
    bool ends = false;
    while (!ends) {
        const int n = epoll_wait(h->epoll_fd, events, MAX_EVENTS, 250);
        const uint64_t now_ns = td_clock_ns();
        pthread_mutex_lock(&h->lock);
        for (int i = 0; i < n; i++) {
            void *what = events[i].data.ptr;
            uint64_t count;
            if (!what) {
                const ssize_t got = read(h->wake_fd, &count, sizeof(count));
                (void)got;
            } else if (*(enum watch_kind *)what == WATCH_CONN) {
                on_conn_event(h, what, events[i].events);
            } else {
                on_linger_event(what);
            }
        }
        look_at_conns(h, now_ns);
        end_lingers(h, now_ns);
        free_dead(h);
        ends = h->watcher_ends;
        pthread_mutex_unlock(&h->lock);
    }
    return NULL;
}
