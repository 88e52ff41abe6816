// SPDX-License-Identifier: MIT
// HTTP: connections, limits, who may ask, TLS, streams, the log, and the routes that need no model
// (/, /health, /metrics). By libmicrohttpd. What a request means is server/api.h's.
#ifndef TD_SERVER_HTTP_H
#define TD_SERVER_HTTP_H

#include "server/api.h"

struct td_http_record; // below

struct td_http_config {
    struct td_api *api;
    struct td_sched *sched;         // for /health and /metrics
    const char *host;               // address to listen at
    uint16_t port;                  // 0: any free one
    const char *api_key;            // NULL: none asked for. Compared in constant time
    const char *tls_cert, *tls_key; // PEM text, both or neither
    const char *const *hosts;       // (n_hosts) further names that Host may have
    uint32_t n_hosts;
    const char *const *origins; // (n_origins) foreign origins that may read ("*": all): --cors
    uint32_t n_origins;
    uint64_t max_body_bytes;     // 0: 32 MiB
    uint32_t max_connections;    // 0: 4096
    uint32_t max_connections_ip; // 0: no limit of its own
    uint32_t max_requests_per_s; // of one address; 0: no limit
    uint32_t header_timeout_s;   // a request must have arrived whole; 0: 30
    uint32_t keep_alive_s;       // silence in a stream before something is said; 0: 10
    const char *version;
    // One line a finished request; NULL: none. Called on one of the server's threads.
    void (*log)(void *ctx, const struct td_http_record *record);
    void *log_ctx;
};

struct td_http_record {
    const char *id;     // of the request, as in X-Request-Id
    const char *client; // address
    const char *method, *path;
    unsigned status;
    uint64_t in_bytes, out_bytes;
    double seconds;
    bool is_gone;                         // the client left before the end
    const struct td_api_account *account; // NULL: no job
};

struct td_http;
// Listens from then on. Fails: TD_EIO (address in use, ...), TD_EARG (TLS files), TD_ENOMEM.
int td_http_open(struct td_http **out, const struct td_http_config *cfg,
                 struct td_error *err) TD_MUST_CHECK;
uint16_t td_http_port(const struct td_http *h);
// No new connections; running answers go on. Any thread.
void td_http_drain(struct td_http *h);
// True once no request is without its whole answer, or after timeout_ms (false). Any thread.
bool td_http_wait_idle(struct td_http *h, uint32_t timeout_ms);
void td_http_close(struct td_http *h); // ends what is left. NULL is fine

// The page: files embedded by the build. NULL: not there.
struct td_page_file {
    const char *path; // "/", "/assets/index-abc.js"
    const char *content_type;
    const uint8_t *bytes;
    size_t n_bytes;
    bool is_gzip;
};
const struct td_page_file *td_page_find(const char *path);
bool td_page_is_built(void); // false: a build without Node; "/" says what is missing

#endif
