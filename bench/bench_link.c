// SPDX-License-Identifier: MIT
// How fast a link is on loopback, beside a bare SSL_write/SSL_read loop of the same blocks in the
// same run: one thread an end, blocks of 1 MiB. Rows: bare OpenSSL; a link; a link with the
// protocol's frames and their checksums; the same in the clear.
//   bench_link [MIB [ROUNDS]]    default 1024 MiB, 5 rounds, the median counts
// Exit code 1 when the link is below 1.5 GB/s and below 80 % of the bare loop; less than 256 MiB
// judges nothing.
#include "base/clock.h"
#include "base/type.h"
#include "relay/link.h"
#include "relay/wire.h"

#include <netinet/in.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define MIB ((size_t)1 << 20)
enum { MAX_ROUNDS = 32 };

enum kind { BARE, LINK, FRAMES, CLEAR, N_KINDS };
static const char *const names[N_KINDS] = {"bare SSL_write/SSL_read", "link, TLS",
                                           "link, TLS, frames", "link, clear, frames"};

struct side {
    enum kind kind;
    bool is_sender;
    size_t n_blocks;
    struct td_link *link;
    SSL *ssl;
    double cpu_seconds;
    bool is_ok;
};

static double thread_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static bool bare_block(struct side *s, uint8_t *block)
{
    size_t done = 0, n;
    while (done < MIB) {
        const int code = s->is_sender ? SSL_write_ex(s->ssl, block + done, MIB - done, &n)
                                      : SSL_read_ex(s->ssl, block + done, MIB - done, &n);
        if (code != 1) return false;
        done += n;
    }
    return true;
}

static bool link_block(struct side *s, uint8_t *block)
{
    return !(s->is_sender ? td_link_write(s->link, block, MIB, NULL)
                          : td_link_read(s->link, block, MIB, NULL));
}

static bool frame_block(struct side *s, uint8_t *block)
{
    uint8_t header[TD_WIRE_HEADER_BYTES];
    struct td_wire_header h = {
        .version = 1, .type = TD_WIRE_SPAN, .kv_type = TD_F16, .request = 1, .n = 512};
    if (s->is_sender) {
        td_wire_seal(header, &h, block, MIB);
        return !td_link_write(s->link, header, sizeof(header), NULL) && link_block(s, block);
    }
    struct td_wire_msg m;
    return !td_link_read(s->link, header, sizeof(header), NULL) &&
           !td_wire_get_header(&h, header, TD_WIRE_DATA, 1, NULL) && h.size_bytes == MIB &&
           link_block(s, block) && !td_wire_decode(&m, &h, block, NULL);
}

static void *run_side(void *ctx)
{
    struct side *s = ctx;
    uint8_t *block = malloc(MIB);
    if (!block) return NULL;
    for (size_t i = 0; i < MIB; i++) block[i] = (uint8_t)(i * 2654435761u >> 24);
    const double t0 = thread_seconds();
    s->is_ok = true;
    for (size_t i = 0; i < s->n_blocks && s->is_ok; i++)
        s->is_ok = s->kind == BARE   ? bare_block(s, block)
                   : s->kind == LINK ? link_block(s, block)
                                     : frame_block(s, block);
    s->cpu_seconds = thread_seconds() - t0;
    free(block);
    return NULL;
}

// Both ends of one TCP connection on loopback.
static bool tcp_pair(int fd[2])
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof(a);
    const int listening = socket(AF_INET, SOCK_STREAM, 0);
    fd[0] = socket(AF_INET, SOCK_STREAM, 0);
    const bool is_up = bind(listening, (struct sockaddr *)&a, size) == 0 &&
                       listen(listening, 1) == 0 &&
                       getsockname(listening, (struct sockaddr *)&a, &size) == 0 &&
                       connect(fd[0], (struct sockaddr *)&a, size) == 0;
    fd[1] = is_up ? accept(listening, NULL, NULL) : -1;
    close(listening);
    return fd[1] >= 0;
}

struct start {
    int fd;
    bool is_listening_side;
    const struct td_key *key;
    struct td_link *link;
    SSL *ssl;
};

static void *start_link(void *ctx)
{
    struct start *s = ctx;
    if (td_link_of_fd(&s->link, s->fd, s->is_listening_side, s->key, NULL, NULL)) s->link = NULL;
    return NULL;
}

static void *start_bare(void *ctx)
{
    struct start *s = ctx;
    if (SSL_do_handshake(s->ssl) != 1) s->ssl = NULL;
    return NULL;
}

// OpenSSL as everybody uses it: blocking sockets, a certificate, default settings.
static bool bare_pair(SSL *ssl[2], SSL_CTX *ctx[2], int fd[2])
{
    EVP_PKEY *pkey = EVP_EC_gen("P-256");
    X509 *cert = X509_new();
    X509_gmtime_adj(X509_getm_notBefore(cert), 0);
    X509_gmtime_adj(X509_getm_notAfter(cert), 3600);
    X509_set_pubkey(cert, pkey);
    X509_sign(cert, pkey, EVP_sha256());
    struct start s[2];
    for (int i = 0; i < 2; i++) {
        ctx[i] = SSL_CTX_new(i ? TLS_server_method() : TLS_client_method());
        SSL_CTX_set_ciphersuites(ctx[i], "TLS_AES_128_GCM_SHA256");
        if (i) SSL_CTX_use_certificate(ctx[i], cert), SSL_CTX_use_PrivateKey(ctx[i], pkey);
        ssl[i] = SSL_new(ctx[i]);
        SSL_set_fd(ssl[i], fd[i]);
        if (i)
            SSL_set_accept_state(ssl[i]);
        else
            SSL_set_connect_state(ssl[i]);
        s[i] = (struct start){.ssl = ssl[i]};
    }
    X509_free(cert);
    EVP_PKEY_free(pkey);
    pthread_t thread;
    pthread_create(&thread, NULL, start_bare, &s[0]);
    start_bare(&s[1]);
    pthread_join(thread, NULL);
    return s[0].ssl && s[1].ssl;
}

// GB/s of one round; 0 when it failed. cpu_out: seconds of both ends.
static double round_of(enum kind kind, size_t n_blocks, double cpu_out[2])
{
    static const struct td_key key = {{9, 8, 7}};
    int fd[2];
    if (!tcp_pair(fd)) return 0;
    SSL *ssl[2] = {NULL, NULL};
    SSL_CTX *ctx[2] = {NULL, NULL};
    struct start s[2] = {{.fd = fd[0]}, {.fd = fd[1], .is_listening_side = true}};
    bool is_up;
    if (kind == BARE) {
        is_up = bare_pair(ssl, ctx, fd);
    } else {
        s[0].key = s[1].key = kind == CLEAR ? NULL : &key;
        pthread_t thread;
        pthread_create(&thread, NULL, start_link, &s[0]);
        start_link(&s[1]);
        pthread_join(thread, NULL);
        is_up = s[0].link && s[1].link;
    }
    // The listening side sends, as the prefill side does.
    struct side side[2];
    for (int i = 0; i < 2; i++)
        side[i] = (struct side){
            .kind = kind, .is_sender = i, .n_blocks = n_blocks, .link = s[i].link, .ssl = ssl[i]};
    double seconds = 0;
    if (is_up) {
        pthread_t thread;
        const uint64_t t0_ns = td_clock_ns();
        pthread_create(&thread, NULL, run_side, &side[0]);
        run_side(&side[1]);
        pthread_join(thread, NULL);
        seconds = (double)(td_clock_ns() - t0_ns) / 1e9;
    }
    for (int i = 0; i < 2; i++) {
        cpu_out[i] = side[i].cpu_seconds;
        SSL_free(ssl[i]);
        SSL_CTX_free(ctx[i]);
        td_link_close(s[i].link);
        if (kind == BARE) close(fd[i]);
    }
    return is_up && side[0].is_ok && side[1].is_ok ? (double)n_blocks * MIB / seconds / 1e9 : 0;
}

static int ascending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
    const size_t n_blocks = argc > 1 ? strtoul(argv[1], NULL, 10) : 1024;
    const int n_rounds = argc > 2 ? (int)strtol(argv[2], NULL, 10) : 5;
    if (n_blocks < 1 || n_rounds < 1 || n_rounds > MAX_ROUNDS) return 2;
    double rate[N_KINDS][MAX_ROUNDS], cpu[N_KINDS][2] = {{0}};
    // In turn, so that a change of the machine's mood meets all of them.
    for (int r = 0; r < n_rounds; r++) {
        for (int k = 0; k < N_KINDS; k++) {
            double c[2];
            rate[k][r] = round_of((enum kind)k, n_blocks, c);
            if (rate[k][r] <= 0) {
                fprintf(stderr, "bench_link: %s failed\n", names[k]);
                return 1;
            }
            for (int i = 0; i < 2; i++) cpu[k][i] += c[i];
        }
    }
    double median[N_KINDS];
    printf("%zu MiB in blocks of 1 MiB, median of %d rounds\n", n_blocks, n_rounds);
    printf("%-26s %8s %9s %16s %16s\n", "", "GB/s", "of bare", "send CPU s/GB", "receive CPU s/GB");
    for (int k = 0; k < N_KINDS; k++) {
        qsort(rate[k], (size_t)n_rounds, sizeof(double), ascending);
        median[k] = rate[k][n_rounds / 2];
        const double gb = (double)n_blocks * MIB / 1e9 * n_rounds;
        printf("%-26s %8.2f %8.0f%% %16.2f %16.2f\n", names[k], median[k],
               100 * median[k] / median[BARE], cpu[k][1] / gb, cpu[k][0] / gb);
    }
    if (n_blocks < 256) return 0;
    return median[LINK] >= 1.5 || median[LINK] >= 0.8 * median[BARE] ? 0 : 1;
}
