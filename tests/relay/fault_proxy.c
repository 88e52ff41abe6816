// SPDX-License-Identifier: MIT
// One thread and poll: every connection is two flows, each a buffer between a socket that is read
// and one that is written. Faults strike where bytes are written, so that all before them have
// passed.
#include "fault_proxy.h"

#include "base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { FLOW_BYTES = 1 << 20, FLOW_PIECES = 1024, DRAIN_MS = 300 };

// Bytes on their way, and when they may arrive: for latency.
struct piece {
    size_t n;
    uint64_t due_ns;
};

struct flow {
    uint8_t *bytes; // ring of FLOW_BYTES
    size_t head, n;
    struct piece pieces[FLOW_PIECES]; // ring; together n bytes
    uint32_t i_piece, n_pieces;
    bool is_end_read, is_end_written;
    bool is_blocked;   // the last write found the socket full
    uint64_t stall_ns; // nothing passes before
    uint64_t paid_ns;  // of a throttled flow: the time up to which bytes have passed
    uint64_t passed;   // bytes
};

struct conn {
    int fd[2]; // client, server
    uint32_t number;
    bool is_cut; // both ends have been told; what they still say is dropped
    uint64_t drain_end_ns;
    struct flow flow[2]; // by enum fault_direction
};

struct fault_proxy {
    int listener;
    uint16_t port;
    struct sockaddr_storage to;
    socklen_t to_size;
    int wake[2];
    pthread_t thread;
    void *ctx;
    void (*hit)(void *ctx, uint32_t i_fault, const struct fault *fault);

    pthread_mutex_t lock; // of all below
    bool is_over;
    struct fault_plan plan;
    bool is_done[FAULT_MAX];
    struct fault_count count;
    uint64_t refuse_end_ns;
    struct conn *conns[FAULT_MAX_CONNS]; // NULL: free
};

static uint64_t after_ms(uint64_t now_ns, uint32_t ms)
{
    return now_ns + (uint64_t)ms * 1000000;
}

static void reset_fd(int fd)
{
    const struct linger now = {.l_onoff = 1, .l_linger = 0};
    (void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
    close(fd);
}

static void forget(struct fault_proxy *p, struct conn *c, bool is_reset)
{
    for (int i = 0; i < 2; i++) {
        if (is_reset)
            reset_fd(c->fd[i]);
        else
            close(c->fd[i]);
        free(c->flow[i].bytes);
    }
    for (int i = 0; i < FAULT_MAX_CONNS; i++)
        if (p->conns[i] == c) p->conns[i] = NULL;
    p->count.n_open--;
    free(c);
}

// Both ends see an orderly end of the stream; closing with bytes unread would be a reset.
static void cut(struct conn *c, uint64_t now_ns)
{
    c->is_cut = true;
    c->drain_end_ns = after_ms(now_ns, DRAIN_MS);
    for (int i = 0; i < 2; i++) shutdown(c->fd[i], SHUT_WR);
}

static void set_up_socket(int fd)
{
    const int on = 1;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    (void)fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
}

static void take_new(struct fault_proxy *p, uint64_t now_ns)
{
    const int client = accept(p->listener, NULL, NULL);
    if (client < 0) return;
    const uint32_t number = p->count.n_conns++;
    int slot = 0;
    while (slot < FAULT_MAX_CONNS && p->conns[slot]) slot++;
    struct conn *c = NULL;
    int server = -1;
    if (now_ns < p->refuse_end_ns || slot == FAULT_MAX_CONNS || number >= FAULT_MAX_CONNS)
        goto refuse;
    server = socket(p->to.ss_family, SOCK_STREAM, 0);
    if (server < 0 || connect(server, (struct sockaddr *)&p->to, p->to_size) != 0) goto refuse;
    c = calloc(1, sizeof(*c));
    if (!c) goto refuse;
    for (int i = 0; i < 2; i++) {
        c->flow[i].bytes = malloc(FLOW_BYTES);
        c->flow[i].paid_ns = now_ns;
        if (!c->flow[i].bytes) goto refuse;
    }
    set_up_socket(client);
    set_up_socket(server);
    c->fd[0] = client;
    c->fd[1] = server;
    c->number = number;
    p->conns[slot] = c;
    p->count.n_open++;
    return;

refuse:
    if (c)
        for (int i = 0; i < 2; i++) free(c->flow[i].bytes);
    free(c);
    if (server >= 0) close(server);
    reset_fd(client);
}

// The plan's next fault of this flow, or -1.
static int next_fault(const struct fault_proxy *p, const struct conn *c, enum fault_direction d)
{
    int best = -1;
    for (uint32_t i = 0; i < p->plan.n_faults; i++) {
        const struct fault *f = &p->plan.faults[i];
        if (p->is_done[i] || f->i_conn != c->number || f->direction != d) continue;
        if (best < 0 || f->at_byte < p->plan.faults[best].at_byte) best = (int)i;
    }
    return best;
}

// False: c is gone.
static bool strike(struct fault_proxy *p, struct conn *c, enum fault_direction d, uint32_t i_fault,
                   uint64_t now_ns)
{
    const struct fault *f = &p->plan.faults[i_fault];
    struct flow *flow = &c->flow[d];
    p->is_done[i_fault] = true;
    p->count.n_hit++;
    if (f->refuse_ms) p->refuse_end_ns = after_ms(now_ns, f->refuse_ms);
    if (f->kind == FAULT_FLIP) flow->bytes[flow->head] ^= (uint8_t)(1u << (f->at_byte % 8));
    if (f->kind == FAULT_MARK) flow->stall_ns = after_ms(now_ns, f->ms);
    bool is_here = true;
    if (f->kind == FAULT_CUT || f->kind == FAULT_RESET || f->kind == FAULT_STALL) {
        for (int i = 0; i < FAULT_MAX_CONNS; i++) {
            struct conn *other = p->conns[i];
            if (!other || (other != c && !f->is_all)) continue;
            if (f->kind == FAULT_CUT && !other->is_cut) cut(other, now_ns);
            if (f->kind == FAULT_STALL && (f->is_all || other != c))
                other->flow[0].stall_ns = other->flow[1].stall_ns = after_ms(now_ns, f->ms);
            if (f->kind == FAULT_STALL && !f->is_all) flow->stall_ns = after_ms(now_ns, f->ms);
            if (f->kind == FAULT_RESET) {
                is_here = is_here && other != c;
                forget(p, other, true);
            }
        }
    }
    if (p->hit) p->hit(p->ctx, i_fault, f);
    return is_here && !c->is_cut;
}

// Bytes of the front that may pass now; *wait_ns is lowered to when more may.
static size_t may_pass(const struct fault_proxy *p, struct flow *f, uint64_t now_ns,
                       uint64_t *wake_ns)
{
    if (f->n == 0) return 0;
    const struct piece *piece = &f->pieces[f->i_piece];
    const uint64_t from_ns = f->stall_ns > piece->due_ns ? f->stall_ns : piece->due_ns;
    if (now_ns < from_ns) {
        if (from_ns < *wake_ns) *wake_ns = from_ns;
        return 0;
    }
    size_t n = piece->n;
    if (n > FLOW_BYTES - f->head) n = FLOW_BYTES - f->head;
    if (!p->plan.bytes_per_s) return n;
    // What was not used is lost but for 5 ms: a bucket, not a debt.
    if (f->paid_ns + 5000000 < now_ns) f->paid_ns = now_ns - 5000000;
    const double owed = (double)(now_ns - (f->paid_ns < now_ns ? f->paid_ns : now_ns)) / 1e9 *
                        (double)p->plan.bytes_per_s;
    if (owed < 1) {
        const uint64_t more_ns = now_ns + 1000000;
        if (more_ns < *wake_ns) *wake_ns = more_ns;
        return 0;
    }
    return owed < (double)n ? (size_t)owed : n;
}

static void drop_front(const struct fault_proxy *p, struct flow *f, size_t n)
{
    f->head = (f->head + n) % FLOW_BYTES;
    f->n -= n;
    f->passed += n;
    struct piece *piece = &f->pieces[f->i_piece];
    piece->n -= n;
    if (piece->n == 0) {
        f->i_piece = (f->i_piece + 1) % FLOW_PIECES;
        f->n_pieces--;
    }
    if (p->plan.bytes_per_s)
        f->paid_ns += (uint64_t)((double)n / (double)p->plan.bytes_per_s * 1e9);
}

// Writes what may be written. False: the connection is gone or cut.
static bool write_flow(struct fault_proxy *p, struct conn *c, enum fault_direction d,
                       uint64_t now_ns, uint64_t *wake_ns)
{
    struct flow *f = &c->flow[d];
    f->is_blocked = false;
    for (;;) {
        size_t n = may_pass(p, f, now_ns, wake_ns);
        const int i = next_fault(p, c, d);
        if (n && i >= 0) {
            const uint64_t left = p->plan.faults[i].at_byte - f->passed;
            if (left == 0) {
                if (!strike(p, c, d, (uint32_t)i, now_ns)) return false;
                continue;
            }
            if (n > left) n = (size_t)left;
        }
        if (!n) break;
        const ssize_t got = send(c->fd[d == FAULT_TO_SERVER], f->bytes + f->head, n, MSG_NOSIGNAL);
        if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
            f->is_blocked = true;
            break;
        }
        if (got <= 0) {
            forget(p, c, true);
            return false;
        }
        drop_front(p, f, (size_t)got);
        if (c->number < FAULT_MAX_CONNS) p->count.bytes[c->number][d] = f->passed;
    }
    if (f->is_end_read && f->n == 0 && !f->is_end_written) {
        shutdown(c->fd[d == FAULT_TO_SERVER], SHUT_WR);
        f->is_end_written = true;
    }
    return true;
}

// Reads what there is room for. False: the connection is gone.
static bool read_flow(struct fault_proxy *p, struct conn *c, enum fault_direction d,
                      uint64_t now_ns)
{
    struct flow *f = &c->flow[d];
    while (!f->is_end_read && f->n < FLOW_BYTES && f->n_pieces < FLOW_PIECES) {
        const size_t at = (f->head + f->n) % FLOW_BYTES;
        size_t room = FLOW_BYTES - f->n;
        if (room > FLOW_BYTES - at) room = FLOW_BYTES - at;
        const ssize_t got = recv(c->fd[d == FAULT_TO_CLIENT], f->bytes + at, room, 0);
        if (got < 0 && (errno == EAGAIN || errno == EINTR)) break;
        if (got < 0) {
            forget(p, c, true);
            return false;
        }
        if (got == 0) {
            f->is_end_read = true;
            break;
        }
        f->pieces[(f->i_piece + f->n_pieces++) % FLOW_PIECES] =
            (struct piece){(size_t)got, after_ms(now_ns, p->plan.latency_ms)};
        f->n += (size_t)got;
    }
    return true;
}

static void serve_conn(struct fault_proxy *p, struct conn *c, uint64_t *wake_ns)
{
    const uint64_t now_ns = td_clock_ns();
    if (c->is_cut) {
        uint8_t dropped[4096];
        bool is_open = now_ns < c->drain_end_ns;
        for (int i = 0; i < 2; i++)
            while (recv(c->fd[i], dropped, sizeof(dropped), 0) > 0) {
            }
        if (is_open && c->drain_end_ns < *wake_ns) *wake_ns = c->drain_end_ns;
        if (!is_open) forget(p, c, false);
        return;
    }
    for (int d = 0; d < 2; d++) {
        if (!read_flow(p, c, (enum fault_direction)d, now_ns)) return;
        if (!write_flow(p, c, (enum fault_direction)d, now_ns, wake_ns)) {
            *wake_ns = now_ns; // once more, for what became of it
            return;
        }
    }
    if (c->flow[0].is_end_written && c->flow[1].is_end_written) forget(p, c, false);
}

// What to wait for; returns how many.
static nfds_t list_fds(struct fault_proxy *p, struct pollfd *fds)
{
    nfds_t n = 0;
    fds[n++] = (struct pollfd){.fd = p->wake[0], .events = POLLIN};
    fds[n++] = (struct pollfd){.fd = p->listener, .events = POLLIN};
    for (int i = 0; i < FAULT_MAX_CONNS; i++) {
        const struct conn *c = p->conns[i];
        if (!c) continue;
        for (int side = 0; side < 2; side++) {
            const struct flow *in = &c->flow[side == 0 ? FAULT_TO_SERVER : FAULT_TO_CLIENT];
            const struct flow *out = &c->flow[side == 0 ? FAULT_TO_CLIENT : FAULT_TO_SERVER];
            short events = 0;
            if (!c->is_cut && !in->is_end_read && in->n < FLOW_BYTES && in->n_pieces < FLOW_PIECES)
                events |= POLLIN;
            if (!c->is_cut && out->is_blocked) events |= POLLOUT;
            if (events) fds[n++] = (struct pollfd){.fd = c->fd[side], .events = events};
        }
    }
    return n;
}

static void *proxy_main(void *ctx)
{
    struct fault_proxy *p = ctx;
    struct pollfd fds[2 + 2 * FAULT_MAX_CONNS];
    for (;;) {
        pthread_mutex_lock(&p->lock);
        const bool is_over = p->is_over;
        uint64_t wake_ns = UINT64_MAX;
        for (int i = 0; i < FAULT_MAX_CONNS && !is_over; i++)
            if (p->conns[i]) serve_conn(p, p->conns[i], &wake_ns);
        const nfds_t n = list_fds(p, fds);
        pthread_mutex_unlock(&p->lock);
        if (is_over) return NULL;
        int wait_ms = -1;
        if (wake_ns != UINT64_MAX) {
            const uint64_t now_ns = td_clock_ns();
            wait_ms = wake_ns > now_ns ? (int)((wake_ns - now_ns + 999999) / 1000000) : 0;
        }
        if (poll(fds, n, wait_ms) <= 0) continue;
        uint8_t dropped[64];
        if (fds[0].revents && read(p->wake[0], dropped, sizeof(dropped)) < 0) return NULL;
        if (fds[1].revents) {
            pthread_mutex_lock(&p->lock);
            take_new(p, td_clock_ns());
            pthread_mutex_unlock(&p->lock);
        }
    }
}

static void wake(struct fault_proxy *p)
{
    if (write(p->wake[1], "", 1) != 1) perror("fault_proxy");
}

static bool resolve(struct sockaddr_storage *out, socklen_t *size_out, const char *host,
                    uint16_t port)
{
    char text[16];
    (void)snprintf(text, sizeof(text), "%u", port);
    const struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV,
                                   .ai_socktype = SOCK_STREAM};
    struct addrinfo *list;
    if (getaddrinfo(host, text, &hints, &list) != 0) return false;
    memcpy(out, list->ai_addr, list->ai_addrlen);
    *size_out = list->ai_addrlen;
    freeaddrinfo(list);
    return true;
}

static uint16_t port_of(int fd)
{
    struct sockaddr_storage a;
    socklen_t size = sizeof(a);
    char text[16];
    if (getsockname(fd, (struct sockaddr *)&a, &size) != 0 ||
        getnameinfo((struct sockaddr *)&a, size, NULL, 0, text, sizeof(text), NI_NUMERICSERV) != 0)
        return 0;
    return (uint16_t)strtoul(text, NULL, 10);
}

struct fault_proxy *fault_proxy_open(const char *host, uint16_t port, const char *to_host,
                                     uint16_t to_port)
{
    struct sockaddr_storage at;
    socklen_t size;
    struct fault_proxy *p = calloc(1, sizeof(*p));
    if (!p) return NULL;
    p->listener = p->wake[0] = p->wake[1] = -1;
    pthread_mutex_init(&p->lock, NULL);
    const int on = 1;
    if (!resolve(&at, &size, host, port) || !resolve(&p->to, &p->to_size, to_host, to_port))
        goto fail;
    p->listener = socket(at.ss_family, SOCK_STREAM, 0);
    if (p->listener < 0) goto fail;
    (void)setsockopt(p->listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (bind(p->listener, (struct sockaddr *)&at, size) != 0 || listen(p->listener, 16) != 0 ||
        pipe(p->wake) != 0)
        goto fail;
    set_up_socket(p->listener);
    p->port = port_of(p->listener);
    if (pthread_create(&p->thread, NULL, proxy_main, p) != 0) goto fail;
    return p;

fail:
    if (p->listener >= 0) close(p->listener);
    for (int i = 0; i < 2; i++)
        if (p->wake[i] >= 0) close(p->wake[i]);
    pthread_mutex_destroy(&p->lock);
    free(p);
    return NULL;
}

void fault_proxy_close(struct fault_proxy *p)
{
    if (!p) return;
    pthread_mutex_lock(&p->lock);
    p->is_over = true;
    pthread_mutex_unlock(&p->lock);
    wake(p);
    pthread_join(p->thread, NULL);
    for (int i = 0; i < FAULT_MAX_CONNS; i++)
        if (p->conns[i]) forget(p, p->conns[i], true);
    close(p->listener);
    for (int i = 0; i < 2; i++) close(p->wake[i]);
    pthread_mutex_destroy(&p->lock);
    free(p);
}

uint16_t fault_proxy_port(const struct fault_proxy *p)
{
    return p->port;
}

void fault_proxy_begin(struct fault_proxy *p, const struct fault_plan *plan)
{
    pthread_mutex_lock(&p->lock);
    for (int i = 0; i < FAULT_MAX_CONNS; i++)
        if (p->conns[i]) forget(p, p->conns[i], true);
    p->plan = *plan;
    memset(p->is_done, 0, sizeof(p->is_done));
    p->count = (struct fault_count){0};
    p->refuse_end_ns = 0;
    pthread_mutex_unlock(&p->lock);
    wake(p);
}

bool fault_proxy_add(struct fault_proxy *p, const struct fault *fault)
{
    pthread_mutex_lock(&p->lock);
    const bool has_room = p->plan.n_faults < FAULT_MAX && fault->i_conn < FAULT_MAX_CONNS;
    if (has_room) {
        const uint32_t i = p->plan.n_faults++;
        p->plan.faults[i] = *fault;
        p->plan.faults[i].at_byte += p->count.bytes[fault->i_conn][fault->direction];
        p->is_done[i] = false;
    }
    pthread_mutex_unlock(&p->lock);
    return has_room;
}

void fault_proxy_count(struct fault_proxy *p, struct fault_count *out)
{
    pthread_mutex_lock(&p->lock);
    *out = p->count;
    pthread_mutex_unlock(&p->lock);
}

void fault_proxy_watch(struct fault_proxy *p, void *ctx,
                       void (*hit)(void *ctx, uint32_t i_fault, const struct fault *fault))
{
    pthread_mutex_lock(&p->lock);
    p->ctx = ctx;
    p->hit = hit;
    pthread_mutex_unlock(&p->lock);
}
