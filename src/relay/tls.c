// SPDX-License-Identifier: MIT
// TLS 1.3 from the pairing secret, by OpenSSL: one context per side with everything that is not
// needed switched off. Nothing here waits.
#include "relay/link_impl.h"

#include "relay/sys_impl.h"
#include "relay/why_impl.h"

#include <errno.h>
#include <openssl/err.h>
#include <stdlib.h>
#include <string.h>

// A constant: an identity that depended on the key would let an eavesdropper recognise it.
static const unsigned char psk_identity[] = "tandem relay 1";
enum { N_PSK_IDENTITY = sizeof(psk_identity) - 1 };

// ---- a socket as OpenSSL's BIO: its own socket BIO raises SIGPIPE

static int bio_done(BIO *b, ssize_t n, int retry_flag)
{
    struct td_link *link = BIO_get_data(b);
    BIO_clear_retry_flags(b);
    if (n >= 0) return (int)n;
    if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)
        BIO_set_flags(b, retry_flag | BIO_FLAGS_SHOULD_RETRY);
    else
        link->io_errno = errno;
    return -1;
}

static int bio_write(BIO *b, const char *bytes, int n)
{
    const struct td_link *link = BIO_get_data(b);
    return bio_done(b, td_sys_send(link->fd, bytes, (size_t)n), BIO_FLAGS_WRITE);
}

static int bio_read(BIO *b, char *out, int n)
{
    const struct td_link *link = BIO_get_data(b);
    return bio_done(b, recv(link->fd, out, (size_t)n, 0), BIO_FLAGS_READ);
}

static long bio_ctrl(BIO *b, int command, long number, void *pointer)
{
    (void)b;
    (void)number;
    (void)pointer;
    return command == BIO_CTRL_FLUSH; // nothing is held back
}

// ---- the key

static SSL_SESSION *psk_session(SSL *ssl)
{
    const struct td_tls *tls = SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl));
    // The suite only names the hash (SHA-256) that the key goes with.
    static const unsigned char suite[2] = {0x13, 0x01}; // TLS_AES_128_GCM_SHA256
    const SSL_CIPHER *cipher = SSL_CIPHER_find(ssl, suite);
    SSL_SESSION *s = SSL_SESSION_new();
    if (s && cipher && SSL_SESSION_set1_master_key(s, tls->psk, sizeof(tls->psk)) &&
        SSL_SESSION_set_cipher(s, cipher) && SSL_SESSION_set_protocol_version(s, TLS1_3_VERSION))
        return s;
    SSL_SESSION_free(s);
    return NULL;
}

// Connecting side: offers the key.
static int use_psk(SSL *ssl, const EVP_MD *md, const unsigned char **id, size_t *n_id,
                   SSL_SESSION **out)
{
    (void)md; // SHA-256 or none yet: both suites have it
    *id = psk_identity;
    *n_id = N_PSK_IDENTITY;
    *out = psk_session(ssl);
    return *out != NULL;
}

// Listening side: finds the key. None for another identity: there is no certificate to go on with,
// so the handshake ends.
static int find_psk(SSL *ssl, const unsigned char *id, size_t n_id, SSL_SESSION **out)
{
    *out = NULL;
    if (n_id != N_PSK_IDENTITY || memcmp(id, psk_identity, n_id) != 0) return 1;
    *out = psk_session(ssl);
    return *out != NULL;
}

// ---- contexts

static bool set_up(struct td_tls *tls, bool is_listening_side)
{
    SSL_CTX *ctx = tls->ctx;
    SSL_CTX_set_app_data(ctx, tls);
    SSL_CTX_set_options(ctx, SSL_OP_NO_TICKET | SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION |
                                 SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_CLEANSE_PLAINTEXT);
    // Without a diffie-hellman exchange a key that leaks later would open recorded traffic.
    SSL_CTX_clear_options(ctx, SSL_OP_ALLOW_NO_DHE_KEX | SSL_OP_IGNORE_UNEXPECTED_EOF);
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    // Several records per receive: half the system calls.
    SSL_CTX_set_read_ahead(ctx, 1);
    SSL_CTX_set_default_read_buffer_len(ctx, 128u << 10);
    // The connecting side must never take a certificate for the key: it trusts none.
    SSL_CTX_set_verify(ctx, is_listening_side ? SSL_VERIFY_NONE : SSL_VERIFY_PEER, NULL);
    if (is_listening_side)
        SSL_CTX_set_psk_find_session_callback(ctx, find_psk);
    else
        SSL_CTX_set_psk_use_session_callback(ctx, use_psk);
    char groups[] = "X25519:P-256"; // OpenSSL's macro takes const away
    return SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION) &&
           SSL_CTX_set_max_proto_version(ctx, TLS1_3_VERSION) &&
           SSL_CTX_set_ciphersuites(ctx, "TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256") &&
           SSL_CTX_set1_groups_list(ctx, groups) && SSL_CTX_set_num_tickets(ctx, 0) &&
           SSL_CTX_set_max_early_data(ctx, 0) && SSL_CTX_set_recv_max_early_data(ctx, 0);
}

int td_tls_open(struct td_tls **out, const struct td_key *key, bool is_listening_side,
                struct td_error *err)
{
    *out = NULL;
    struct td_tls *tls = calloc(1, sizeof(*tls));
    if (!tls) return td_fail(err, TD_ENOMEM, "no memory for TLS");
    atomic_init(&tls->n_users, 1);
    const int code = td_key_psk(key, tls->psk, err);
    if (code) {
        td_tls_close(tls);
        return code;
    }
    tls->ctx = SSL_CTX_new(is_listening_side ? TLS_server_method() : TLS_client_method());
    tls->bio = BIO_meth_new(BIO_TYPE_SOURCE_SINK, "tandem socket");
    if (tls->ctx && tls->bio && BIO_meth_set_write(tls->bio, bio_write) &&
        BIO_meth_set_read(tls->bio, bio_read) && BIO_meth_set_ctrl(tls->bio, bio_ctrl) &&
        set_up(tls, is_listening_side)) {
        *out = tls;
        return TD_OK;
    }
    const char *why = ERR_reason_error_string(ERR_peek_last_error());
    td_tls_close(tls);
    return td_fail(err, TD_EIO, "TLS cannot be set up: %s", why ? why : "no memory");
}

struct td_tls *td_tls_share(struct td_tls *tls)
{
    atomic_fetch_add_explicit(&tls->n_users, 1, memory_order_relaxed);
    return tls;
}

void td_tls_close(struct td_tls *tls)
{
    if (!tls || atomic_fetch_sub_explicit(&tls->n_users, 1, memory_order_acq_rel) != 1) return;
    SSL_CTX_free(tls->ctx);
    BIO_meth_free(tls->bio);
    OPENSSL_cleanse(tls->psk, sizeof(tls->psk));
    free(tls);
}

int td_tls_attach(struct td_tls *tls, struct td_link *link, struct td_error *err)
{
    BIO *bio = BIO_new(tls->bio);
    link->ssl = SSL_new(tls->ctx);
    if (!bio || !link->ssl) {
        BIO_free(bio);
        SSL_free(link->ssl);
        link->ssl = NULL;
        return td_fail(err, TD_ENOMEM, "no memory for a TLS connection");
    }
    link->tls = td_tls_share(tls); // the BIO's methods must outlive it
    BIO_set_data(bio, link);
    BIO_set_init(bio, 1);
    SSL_set_bio(link->ssl, bio, bio); // both directions take the one reference
    if (link->is_listening_side)
        SSL_set_accept_state(link->ssl);
    else
        SSL_set_connect_state(link->ssl);
    return TD_OK;
}

int td_tls_fail(struct td_link *link, int ssl_error, struct td_error *err)
{
    const unsigned long code = ERR_peek_error();
    const char *reason = ERR_reason_error_string(code);
    const bool is_handshake = !SSL_is_init_finished(link->ssl);
    link->is_broken = true;
    char why[80];
    if (ssl_error == SSL_ERROR_ZERO_RETURN)
        return td_fail(err, TD_EIO, "%s closed the connection", link->peer);
    if (link->io_errno)
        return td_fail(err, TD_EIO, "%s: %s", link->peer,
                       td_relay_why(link->io_errno, why, sizeof(why)));
    if (ssl_error == SSL_ERROR_SYSCALL || !reason ||
        ERR_GET_REASON(code) == SSL_R_UNEXPECTED_EOF_WHILE_READING) {
        if (is_handshake)
            return td_fail(err, TD_EIO,
                           "%s ended the connection during the handshake: do both ends have a key, "
                           "and the same (tandem key show)?",
                           link->peer);
        return td_fail(err, TD_EIO, "the connection to %s was cut", link->peer);
    }
    if (is_handshake)
        return td_fail(err, TD_EIO,
                       "%s: no secure connection (%s): do both ends have a key, and the same "
                       "(tandem key show)?",
                       link->peer, reason);
    return td_fail(err, TD_EIO, "%s: the encrypted stream is damaged (%s)", link->peer, reason);
}
