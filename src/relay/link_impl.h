// SPDX-License-Identifier: MIT
// What the files of a link share: the connection itself, TLS below it, addresses.
#ifndef TD_RELAY_LINK_IMPL_H
#define TD_RELAY_LINK_IMPL_H

#include "relay/link.h"

#include <netdb.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>

// A side's TLS settings. Immutable once open; lives as long as the last link that uses it.
struct td_tls {
    _Atomic uint32_t n_users;
    SSL_CTX *ctx;
    BIO_METHOD *bio; // a socket that raises no SIGPIPE
    uint8_t psk[TD_KEY_BYTES];
};
int td_tls_open(struct td_tls **out, const struct td_key *key, bool is_listening_side,
                struct td_error *err) TD_MUST_CHECK;
struct td_tls *td_tls_share(struct td_tls *tls); // one more user; any thread
void td_tls_close(struct td_tls *tls);           // one user less; NULL is fine

struct td_link {
    int fd;
    bool is_listening_side;
    struct td_link_limits limits;
    char peer[80];
    struct td_tls *tls; // shared; NULL: in the clear
    // Reading and writing threads take turns at the SSL object, never while they wait.
    pthread_mutex_t mutex; // guards ssl, is_broken, io_errno, n_since_key
    SSL *ssl;              // NULL: in the clear
    bool is_broken;        // no more SSL calls
    int io_errno;          // of the last failed send or receive
    uint64_t n_since_key;  // bytes sent under the current key
    // Set by any thread, read by those that wait.
    _Atomic bool is_cancelled;
};

// A link over fd, which it owns, also on failure. With tls, which it shares, the handshake is still
// to do.
int td_link_new(struct td_link **out, int fd, struct td_tls *tls, bool is_listening_side,
                const struct td_link_limits *limits, struct td_error *err) TD_MUST_CHECK;

// One step of the handshake: TD_OK and *events 0 when done, else what to poll for.
int td_link_handshake_step(struct td_link *link, short *events, struct td_error *err) TD_MUST_CHECK;

// Attaches an SSL object to the link's socket.
int td_tls_attach(struct td_tls *tls, struct td_link *link, struct td_error *err) TD_MUST_CHECK;

// After a failed SSL call with this SSL_get_error value: the sentence.
int td_tls_fail(struct td_link *link, int ssl_error, struct td_error *err) TD_MUST_CHECK;

// "HOST:PORT" -> addresses (freeaddrinfo); without a key only loopback ones are let through.
int td_link_resolve(const char *where, bool is_listening_side, bool has_key, struct addrinfo **out,
                    struct td_error *err) TD_MUST_CHECK;
void td_link_name(const struct sockaddr *address, socklen_t size, char *out, size_t out_bytes);
int td_link_set_nonblocking(int fd) TD_MUST_CHECK; // 0, or -1 with errno; also close-on-exec

#endif
