// SPDX-License-Identifier: MIT
// Opens and closes the HTTP server: the listening socket, libmicrohttpd, its threads. What happens
// to connections and requests is told in the files beside it (http_impl.h lists them).
#include "server/http_impl.h"

#include "base/clock.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <openssl/bio.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { SPARE_FDS = 256 }; // what else this process has open, newcomers and lingering ones too

static const char *why(int errno_value, char *buf, size_t buf_bytes)
{
    return strerror_r(errno_value, buf, buf_bytes) == 0 ? buf : "unknown error";
}

// ---- the listening socket ---------------------------------------------------------------------

static int listen_at(const struct addrinfo *a, uint16_t *port_out)
{
    const int fd = socket(a->ai_family, SOCK_STREAM, a->ai_protocol);
    if (fd < 0) return -1;
    const int on = 1, off = 0;
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    // "::" takes IPv4 as well.
    if (a->ai_family == AF_INET6)
        (void)setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
    struct sockaddr_storage bound;
    socklen_t n = sizeof(bound);
    if (bind(fd, a->ai_addr, a->ai_addrlen) != 0 || listen(fd, 1024) != 0 ||
        getsockname(fd, (struct sockaddr *)&bound, &n) != 0) {
        const int failure = errno;
        close(fd);
        errno = failure;
        return -1;
    }
    if (bound.ss_family == AF_INET) {
        struct sockaddr_in in;
        memcpy(&in, &bound, sizeof(in));
        *port_out = ntohs(in.sin_port);
    } else {
        struct sockaddr_in6 in;
        memcpy(&in, &bound, sizeof(in));
        *port_out = ntohs(in.sin6_port);
    }
    return fd;
}

static int open_listener(struct td_http *h, struct td_error *err)
{
    char port[8], reason[96];
    (void)snprintf(port, sizeof(port), "%u", h->cfg.port);
    const struct addrinfo hints = {.ai_family = AF_UNSPEC,
                                   .ai_socktype = SOCK_STREAM,
                                   .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    struct addrinfo *all = NULL;
    const int failure = getaddrinfo(h->host, port, &hints, &all);
    if (failure != 0)
        return td_fail(err, TD_EIO, "cannot listen at %.100s: %s", h->host, gai_strerror(failure));
    errno = 0;
    for (const struct addrinfo *a = all; a && h->listen_fd < 0; a = a->ai_next)
        h->listen_fd = listen_at(a, &h->port);
    const int errno_value = errno;
    freeaddrinfo(all);
    if (h->listen_fd >= 0) return TD_OK;
    if (errno_value == EADDRINUSE)
        return td_fail(err, TD_EIO,
                       "port %s of %.100s is in use by another program; choose one with --port",
                       port, h->host);
    return td_fail(err, TD_EIO, "cannot listen at %.100s port %s: %s", h->host, port,
                   why(errno_value, reason, sizeof(reason)));
}

// A connection is a descriptor; what the system gives by default is often fewer than are allowed.
static void limit_connections(struct td_http *h)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
    const rlim_t wanted = (rlim_t)h->cfg.max_connections + SPARE_FDS;
    if (limit.rlim_cur == RLIM_INFINITY || limit.rlim_cur >= wanted) return;
    const bool is_enough = limit.rlim_max == RLIM_INFINITY || limit.rlim_max >= wanted;
    limit.rlim_cur = is_enough ? wanted : limit.rlim_max;
    const bool is_set = setrlimit(RLIMIT_NOFILE, &limit) == 0;
    if (is_set && is_enough) return;
    (void)getrlimit(RLIMIT_NOFILE, &limit);
    h->cfg.max_connections = limit.rlim_cur > 2 * (rlim_t)SPARE_FDS
                                 ? (uint32_t)(limit.rlim_cur - SPARE_FDS)
                                 : (uint32_t)(limit.rlim_cur / 2);
}

// ---- TLS --------------------------------------------------------------------------------------

// libmicrohttpd only says that it did not start.
static int check_tls(const struct td_http_config *cfg, struct td_error *err)
{
    if (!cfg->tls_cert && !cfg->tls_key) return TD_OK;
    if (!cfg->tls_cert || !cfg->tls_key)
        return td_fail(err, TD_EARG, "TLS needs a certificate and its key");
    BIO *cert_text = BIO_new_mem_buf(cfg->tls_cert, -1);
    BIO *key_text = BIO_new_mem_buf(cfg->tls_key, -1);
    X509 *cert = cert_text ? PEM_read_bio_X509(cert_text, NULL, NULL, NULL) : NULL;
    char empty[] = ""; // no password, and nobody is asked for one
    EVP_PKEY *key = key_text ? PEM_read_bio_PrivateKey(key_text, NULL, NULL, empty) : NULL;
    int code = TD_OK;
    if (!cert)
        code = td_fail(err, TD_EARG, "the TLS certificate is no PEM certificate");
    else if (!key)
        code = td_fail(err, TD_EARG, "the TLS key is no PEM private key without a password");
    else if (X509_check_private_key(cert, key) != 1)
        code = td_fail(err, TD_EARG, "the TLS key does not belong to the certificate");
    EVP_PKEY_free(key);
    X509_free(cert);
    BIO_free(key_text);
    BIO_free(cert_text);
    return code;
}

// ---- open -------------------------------------------------------------------------------------

static void set_defaults(struct td_http_config *cfg)
{
    if (!cfg->max_body_bytes) cfg->max_body_bytes = 32u << 20;
    if (!cfg->max_connections) cfg->max_connections = 4096;
    if (!cfg->header_timeout_s) cfg->header_timeout_s = 30;
    if (!cfg->keep_alive_s) cfg->keep_alive_s = 10;
}

static int start_daemon(struct td_http *h, struct td_error *err)
{
    enum { MAX_OPTIONS = 12, OVER = 64 }; // OVER: so that one more comes in, and another goes
    struct MHD_OptionItem options[MAX_OPTIONS];
    int n = 0;
    const struct td_http_config *cfg = &h->cfg;
    unsigned flags = MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME;
    options[n++] = (struct MHD_OptionItem){MHD_OPTION_LISTEN_SOCKET, h->listen_fd, NULL};
    options[n++] = (struct MHD_OptionItem){MHD_OPTION_CONNECTION_LIMIT,
                                           (intptr_t)cfg->max_connections + OVER, NULL};
    options[n++] = (struct MHD_OptionItem){MHD_OPTION_PER_IP_CONNECTION_LIMIT,
                                           (intptr_t)cfg->max_connections_ip, NULL};
    options[n++] =
        (struct MHD_OptionItem){MHD_OPTION_CONNECTION_TIMEOUT, HTTP_READ_TIMEOUT_S, NULL};
    options[n++] =
        (struct MHD_OptionItem){MHD_OPTION_CONNECTION_MEMORY_LIMIT, HTTP_POOL_BYTES, NULL};
    options[n++] = (struct MHD_OptionItem){MHD_OPTION_STRICT_FOR_CLIENT, 1, NULL};
    options[n++] =
        (struct MHD_OptionItem){MHD_OPTION_NOTIFY_CONNECTION, (intptr_t)http_on_connection, h};
    options[n++] =
        (struct MHD_OptionItem){MHD_OPTION_NOTIFY_COMPLETED, (intptr_t)http_on_completed, h};
    if (cfg->tls_cert) {
        flags |= MHD_USE_TLS;
        // The library copies these, whatever the prototype says.
        options[n++] =
            (struct MHD_OptionItem){MHD_OPTION_HTTPS_MEM_CERT, 0, (void *)(uintptr_t)cfg->tls_cert};
        options[n++] =
            (struct MHD_OptionItem){MHD_OPTION_HTTPS_MEM_KEY, 0, (void *)(uintptr_t)cfg->tls_key};
    }
    options[n] = (struct MHD_OptionItem){MHD_OPTION_END, 0, NULL};
    h->mhd = MHD_start_daemon(flags, 0, NULL, NULL, http_on_request, h, MHD_OPTION_ARRAY, options,
                              MHD_OPTION_END);
    if (h->mhd) {
        h->listen_fd = -1; // its own until td_http_drain
        return TD_OK;
    }
    return td_fail(err, cfg->tls_cert ? TD_EARG : TD_EIO, "the HTTP server did not start%s",
                   cfg->tls_cert ? ": the TLS certificate or key cannot be used" : "");
}

static int start_threads(struct td_http *h, struct td_error *err)
{
    int failure = pthread_create(&h->watcher, NULL, http_watcher, h);
    if (failure == 0) h->n_threads = 1;
    for (int i = 0; i < HTTP_BEGINNERS && failure == 0; i++) {
        failure = pthread_create(&h->beginners[i], NULL, http_beginner, h);
        if (failure == 0) h->n_threads++;
    }
    return failure == 0 ? TD_OK : td_fail(err, TD_EIO, "the HTTP server: no more threads");
}

static int init(struct td_http *h, struct td_error *err)
{
    pthread_condattr_t monotonic;
    h->listen_fd = h->epoll_fd = h->wake_fd = -1;
    pthread_mutex_init(&h->lock, NULL);
    pthread_cond_init(&h->queue_changed, NULL);
    pthread_condattr_init(&monotonic);
    (void)pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&h->gone_changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    h->host = strdup(h->cfg.host ? h->cfg.host : "127.0.0.1");
    if (!h->host) return td_fail(err, TD_ENOMEM, "the HTTP server: no memory");
    set_defaults(&h->cfg);
    limit_connections(h);
    h->rates.per_s = h->cfg.max_requests_per_s;
    h->names = (struct td_guard_names){h->host, h->cfg.hosts, h->cfg.n_hosts};
    if (RAND_bytes((unsigned char *)&h->id_base, sizeof(h->id_base)) != 1)
        h->id_base = td_clock_ns();
    h->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    h->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct epoll_event wake = {.events = EPOLLIN, .data.ptr = NULL};
    if (h->epoll_fd < 0 || h->wake_fd < 0 ||
        epoll_ctl(h->epoll_fd, EPOLL_CTL_ADD, h->wake_fd, &wake) != 0)
        return td_fail(err, TD_EIO, "the HTTP server: no more descriptors");
    return TD_OK;
}

int td_http_open(struct td_http **out, const struct td_http_config *cfg, struct td_error *err)
{
    *out = NULL;
    struct td_http *h = calloc(1, sizeof(*h));
    if (!h) return td_fail(err, TD_ENOMEM, "the HTTP server: no memory");
    h->cfg = *cfg;
    int code = init(h, err);
    if (code == TD_OK) code = check_tls(&h->cfg, err);
    if (code == TD_OK) code = open_listener(h, err);
    if (code == TD_OK) code = start_threads(h, err);
    if (code == TD_OK) code = start_daemon(h, err);
    if (code != TD_OK) {
        td_http_close(h);
        return code;
    }
    *out = h;
    return TD_OK;
}

uint16_t td_http_port(const struct td_http *h)
{
    return h->port;
}

// ---- close ------------------------------------------------------------------------------------

void td_http_drain(struct td_http *h)
{
    pthread_mutex_lock(&h->lock);
    const bool was_draining = h->is_draining;
    h->is_draining = true;
    for (struct td_http_conn *c = h->conns; c; c = c->next)
        if (c->state == CONN_IDLE) (void)shutdown(c->fd, SHUT_RDWR);
    pthread_mutex_unlock(&h->lock);
    if (was_draining || !h->mhd) return;
    h->listen_fd = MHD_quiesce_daemon(h->mhd);
    // Whoever comes is refused from now on. It is closed after libmicrohttpd's thread has ended,
    // which may be about to accept from it: the number of a closed one may be another socket's by
    // then.
    if (h->listen_fd >= 0) (void)shutdown(h->listen_fd, SHUT_RDWR);
}

static struct timespec when(uint32_t timeout_ms)
{
    const uint64_t ns = td_clock_ns() + timeout_ms * (uint64_t)1000000;
    return (struct timespec){.tv_sec = (time_t)(ns / 1000000000u),
                             .tv_nsec = (long)(ns % 1000000000u)};
}

bool td_http_wait_idle(struct td_http *h, uint32_t timeout_ms)
{
    const struct timespec until = when(timeout_ms);
    int failure = 0;
    pthread_mutex_lock(&h->lock);
    while (h->n_requests && failure == 0)
        failure = pthread_cond_timedwait(&h->gone_changed, &h->lock, &until);
    const bool is_idle = h->n_requests == 0;
    pthread_mutex_unlock(&h->lock);
    return is_idle;
}

static void end_all(struct td_http *h)
{
    pthread_mutex_lock(&h->lock);
    h->is_closing = true;
    for (struct td_http_conn *c = h->conns; c; c = c->next) {
        if (c->request)
            http_request_end(c->request);
        else
            (void)shutdown(c->fd, SHUT_RDWR);
    }
    pthread_cond_broadcast(&h->queue_changed);
    // Stopping with a suspended connection would end the program: all must have been through.
    while (h->n_requests) pthread_cond_wait(&h->gone_changed, &h->lock);
    pthread_mutex_unlock(&h->lock);
}

void td_http_close(struct td_http *h)
{
    if (!h) return;
    if (h->mhd) {
        td_http_drain(h);
        end_all(h);
        MHD_stop_daemon(h->mhd);
    }
    pthread_mutex_lock(&h->lock);
    h->is_closing = true;
    h->watcher_ends = true;
    pthread_cond_broadcast(&h->queue_changed);
    pthread_mutex_unlock(&h->lock);
    http_watcher_wake(h);
    if (h->n_threads) pthread_join(h->watcher, NULL);
    for (uint32_t i = 0; i + 1 < h->n_threads; i++) pthread_join(h->beginners[i], NULL);
    if (h->listen_fd >= 0) close(h->listen_fd);
    if (h->epoll_fd >= 0) close(h->epoll_fd);
    if (h->wake_fd >= 0) close(h->wake_fd);
    pthread_cond_destroy(&h->gone_changed);
    pthread_cond_destroy(&h->queue_changed);
    pthread_mutex_destroy(&h->lock);
    free(h->host);
    free(h);
}
