// SPDX-License-Identifier: MIT
// A request, from its first header to the line in the log: whether it may be asked, its body, and
// the waiting until there is an answer. What the answer looks like is http_answer.c's.
#include "server/http_impl.h"

#include "base/clock.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

// A refused request's body is read and dropped when it is small: the connection can be used again.
static const uint64_t small_body_bytes = 64 << 10;
static const uint64_t min_bodies_bytes = 512u << 20;

static const char *header(struct td_http_request *r, const char *name)
{
    return MHD_lookup_connection_value(r->mhd, MHD_HEADER_KIND, name);
}

static void refuse(struct td_http_request *r, unsigned status, const char *fmt, ...)
    TD_PRINTF(3, 4);
static void refuse(struct td_http_request *r, unsigned status, const char *fmt, ...)
{
    if (r->refusal) return; // the first reason counts
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(r->refusal_text, sizeof(r->refusal_text), fmt, args);
    va_end(args);
    r->refusal = status;
}

// ---- may it be asked --------------------------------------------------------------------------

static void check_origin(struct td_http_request *r)
{
    const struct td_http_config *cfg = &r->h->cfg;
    const char *origin = header(r, "Origin");
    switch (td_guard_origin(origin, header(r, "Host"), cfg->tls_cert != NULL, cfg->origins,
                            cfg->n_origins)) {
    case TD_ORIGIN_NONE:
    case TD_ORIGIN_SAME: return;
    case TD_ORIGIN_ALLOWED:
        if (strlen(origin) < sizeof(r->allow_origin))
            (void)snprintf(r->allow_origin, sizeof(r->allow_origin), "%s", origin);
        return;
    case TD_ORIGIN_FOREIGN:
        refuse(r, MHD_HTTP_FORBIDDEN,
               "pages of other origins may not use this server; start it with --cors ORIGIN to "
               "allow one");
        return;
    }
}

static void check_path(struct td_http_request *r)
{
    const char *method = r->is_head ? "GET" : r->method;
    const char *methods = NULL;
    bool is_open = false;
    bool has = http_local_has(method, r->path, &methods, &is_open);
    if (!methods) has = td_api_has(method, r->path, &methods);
    if (strcmp(r->method, "OPTIONS") == 0 && methods) {
        r->is_preflight = true;
        r->allow = methods;
        r->allow_headers = header(r, "Access-Control-Request-Headers");
        if (!td_guard_is_token_list(r->allow_headers)) r->allow_headers = NULL;
        return;
    }
    if (!is_open &&
        !td_guard_key(r->h->cfg.api_key, header(r, "Authorization"), header(r, "x-api-key"))) {
        refuse(r, MHD_HTTP_UNAUTHORIZED,
               "this server wants its API key: Authorization: Bearer KEY");
    } else if (!methods) {
        refuse(r, MHD_HTTP_NOT_FOUND, "there is nothing at %.100s", r->path);
    } else if (!has) {
        r->allow = methods;
        refuse(r, MHD_HTTP_METHOD_NOT_ALLOWED, "%s does not answer %s; it does %s", r->path,
               r->method, methods);
    }
}

static void check_body(struct td_http_request *r, bool has_body, uint64_t length)
{
    struct td_http *h = r->h;
    if (length > h->cfg.max_body_bytes) {
        refuse(r, MHD_HTTP_CONTENT_TOO_LARGE,
               "the request's body of %llu bytes is larger than the limit of %llu",
               (unsigned long long)length, (unsigned long long)h->cfg.max_body_bytes);
    }
    if (has_body && !td_guard_is_json(header(r, "Content-Type")))
        refuse(r, MHD_HTTP_UNSUPPORTED_MEDIA_TYPE,
               "the body must be JSON and say so: Content-Type: application/json");
}

static void check(struct td_http_request *r, bool has_body, uint64_t length)
{
    struct td_http *h = r->h;
    pthread_mutex_lock(&h->lock);
    const bool is_in_time = td_guard_rate(&h->rates, r->conn->address, td_clock_ns());
    const bool is_draining = h->is_draining;
    pthread_mutex_unlock(&h->lock);

    if (strlen(r->path) >= HTTP_MAX_PATH) refuse(r, MHD_HTTP_URI_TOO_LONG, "the path is too long");
    if (!td_guard_host(&h->names, header(r, "Host")))
        refuse(r, MHD_HTTP_FORBIDDEN,
               "this server does not go by that name (the Host header); start it with --allow-host "
               "NAME if it should");
    if (!is_in_time) {
        r->retry_after_s = 1;
        refuse(r, MHD_HTTP_TOO_MANY_REQUESTS, "more than %u requests a second from one address",
               h->cfg.max_requests_per_s);
    }
    check_origin(r);
    if (!r->refusal) check_path(r);
    if (is_draining && strcmp(r->path, "/health") != 0)
        refuse(r, MHD_HTTP_SERVICE_UNAVAILABLE, "the server is about to end");
    if (!r->refusal) check_body(r, has_body, length);
}

// ---- its life ---------------------------------------------------------------------------------

static struct td_http_request *open_request(struct td_http *h, struct MHD_Connection *mhd,
                                            struct td_http_conn *conn, const char *url,
                                            const char *method, const char *version)
{
    struct td_http_request *r = calloc(1, sizeof(*r));
    if (!r) return NULL;
    r->path = strdup(url);
    if (!r->path) {
        free(r);
        return NULL;
    }
    r->h = h;
    r->mhd = mhd;
    r->conn = conn;
    r->t0_ns = td_clock_ns();
    r->client = conn->address;
    (void)snprintf(r->client_name, sizeof(r->client_name), "%s", conn->client);
    (void)snprintf(r->method, sizeof(r->method), "%s", method);
    r->is_head = strcmp(method, "HEAD") == 0;
    r->is_http_1_0 = strcmp(version, "HTTP/1.0") == 0;
    pthread_mutex_lock(&h->lock);
    r->n_refs = 1;
    const uint64_t n = ++h->n_ids;
    h->n_requests++;
    conn->request = r;
    if (conn->state == CONN_IDLE) { // its first byte was quicker than the watcher
        conn->state = CONN_ARRIVING;
        conn->since_ns = r->t0_ns;
    }
    pthread_mutex_unlock(&h->lock);
    (void)snprintf(r->id, sizeof(r->id), "req-%016llx",
                   (unsigned long long)(h->id_base + n * 0x9e3779b97f4a7c15u));
    return r;
}

// Nobody else knows it any more. The work ends first, then it is written down.
static void close_request(struct td_http_request *r)
{
    struct td_http *h = r->h;
    struct td_api_account account = {0};
    char model[128] = "", outcome[32] = "", path[32] = "";
    if (r->reply) {
        td_api_account(r->reply, &account);
        // Its texts may not outlive the reply.
        (void)snprintf(model, sizeof(model), "%s", account.model ? account.model : "");
        (void)snprintf(outcome, sizeof(outcome), "%s", account.outcome ? account.outcome : "");
        (void)snprintf(path, sizeof(path), "%s", account.path ? account.path : "");
        account.model = model;
        account.outcome = outcome;
        account.path = path;
        td_api_end(r->reply);
    }
    if (h->cfg.log) {
        const struct td_http_record record = {.id = r->id,
                                              .client = r->client_name,
                                              .method = r->method,
                                              .path = r->path,
                                              .status = r->status,
                                              .in_bytes = r->in_bytes,
                                              .out_bytes = r->out_bytes,
                                              .seconds = (double)(td_clock_ns() - r->t0_ns) * 1e-9,
                                              .is_gone = r->is_gone,
                                              .account = outcome[0] ? &account : NULL};
        h->cfg.log(h->cfg.log_ctx, &record);
    }
    pthread_mutex_lock(&h->lock);
    h->body_bytes -= r->body_cap;
    h->in_bytes_total += r->in_bytes;
    h->out_bytes_total += r->out_bytes;
    if (r->status < HTTP_STATUSES) h->n_by_status[r->status]++; // 0: it left before an answer
    if (r->is_gone) h->n_gone++;
    h->n_requests--;
    pthread_cond_broadcast(&h->gone_changed);
    pthread_mutex_unlock(&h->lock);
    free(r->body);
    free(r->path);
    free(r);
}

static void release(struct td_http_request *r)
{
    pthread_mutex_lock(&r->h->lock);
    const bool is_last = --r->n_refs == 0;
    pthread_mutex_unlock(&r->h->lock);
    if (is_last) close_request(r);
}

void http_on_completed(void *cls, struct MHD_Connection *mhd, void **con_cls,
                       enum MHD_RequestTerminationCode why)
{
    struct td_http *h = cls;
    struct td_http_request *r = *con_cls;
    (void)mhd;
    if (!r) return;
    *con_cls = NULL;
    pthread_mutex_lock(&h->lock);
    // What was closed after its whole answer is no client that left.
    if (why != MHD_REQUEST_TERMINATED_COMPLETED_OK && !r->is_read) r->is_gone = true;
    r->conn->request = NULL;
    http_conn_enter(h, r->conn, CONN_IDLE);
    r->conn = NULL;
    pthread_mutex_unlock(&h->lock);
    release(r);
}

// From now on it is the client who waits, however long the answer takes on its way.
static void has_arrived(struct td_http_request *r)
{
    pthread_mutex_lock(&r->h->lock);
    if (r->conn->state != CONN_WORKING) http_conn_enter(r->h, r->conn, CONN_WORKING);
    pthread_mutex_unlock(&r->h->lock);
}

// ---- its body ---------------------------------------------------------------------------------

static bool grow_body(struct td_http_request *r, size_t n)
{
    struct td_http *h = r->h;
    if (r->body_bytes + n + 1 <= r->body_cap) return true;
    size_t cap = r->body_cap ? r->body_cap * 2 : 4096;
    while (cap < r->body_bytes + n + 1) cap *= 2;
    uint64_t limit = h->cfg.max_body_bytes * 4;
    if (limit < min_bodies_bytes) limit = min_bodies_bytes;
    pthread_mutex_lock(&h->lock);
    const bool fits = h->body_bytes + (cap - r->body_cap) <= limit;
    if (fits) h->body_bytes += cap - r->body_cap;
    pthread_mutex_unlock(&h->lock);
    if (!fits) return false;
    char *grown = realloc(r->body, cap);
    if (!grown) {
        pthread_mutex_lock(&h->lock);
        h->body_bytes -= cap - r->body_cap;
        pthread_mutex_unlock(&h->lock);
        return false;
    }
    r->body = grown;
    r->body_cap = cap;
    return true;
}

static void drop_body(struct td_http_request *r)
{
    pthread_mutex_lock(&r->h->lock);
    r->h->body_bytes -= r->body_cap;
    pthread_mutex_unlock(&r->h->lock);
    free(r->body);
    r->body = NULL;
    r->body_cap = r->body_bytes = 0;
}

// A body without a length that turns out too long. libmicrohttpd takes no answer in the middle of
// one: it is said past it, and the connection closed.
static enum MHD_Result cut_off(struct td_http_request *r)
{
    static const char text[] = "HTTP/1.1 413 Content Too Large\r\nConnection: close\r\n"
                               "Content-Length: 0\r\n\r\n";
    r->status = MHD_HTTP_CONTENT_TOO_LARGE;
    r->is_read = true; // an answer: the client has not left
    r->conn->lingers = true;
    if (!r->h->cfg.tls_cert) {
        const ssize_t n = send(r->conn->fd, text, sizeof(text) - 1, MSG_NOSIGNAL | MSG_DONTWAIT);
        (void)n;
    }
    return MHD_NO;
}

static enum MHD_Result on_body(struct td_http_request *r, const char *bytes, size_t n)
{
    r->in_bytes += n;
    if (r->in_bytes > r->h->cfg.max_body_bytes) return cut_off(r);
    if (r->refusal) return MHD_YES; // dropped
    if (!grow_body(r, n)) {
        drop_body(r);
        r->retry_after_s = 1;
        refuse(r, MHD_HTTP_SERVICE_UNAVAILABLE, "there is no memory left for requests");
        return MHD_YES;
    }
    memcpy(r->body + r->body_bytes, bytes, n);
    r->body_bytes += n;
    r->body[r->body_bytes] = '\0';
    return MHD_YES;
}

static enum MHD_Result on_head(struct td_http_request *r)
{
    const char *length_text = header(r, "Content-Length");
    const bool is_chunked = header(r, "Transfer-Encoding") != NULL;
    // Its form was checked by libmicrohttpd; what is too long for a number is too long.
    errno = 0;
    uint64_t length = length_text ? strtoull(length_text, NULL, 10) : 0;
    if (errno) length = UINT64_MAX;
    check(r, is_chunked || length > 0, length);
    const bool has_large_body = is_chunked || length > small_body_bytes || header(r, "Expect");
    if (!r->refusal || !has_large_body) return MHD_YES;
    has_arrived(r); // nothing more of it is waited for
    r->conn->lingers = true;
    return http_answer_error(r, r->refusal, r->refusal_text);
}

// ---- waiting for an answer --------------------------------------------------------------------

// Another thread; see td_api_request.
static void on_news(void *ctx)
{
    struct td_http_request *r = ctx;
    pthread_mutex_lock(&r->h->lock);
    r->has_news = true;
    if (r->has_begun) http_request_resume(r);
    pthread_mutex_unlock(&r->h->lock);
}

bool http_suspend(struct td_http_request *r)
{
    if (r->is_gone || r->h->is_closing) return false;
    r->is_suspended = true;
    MHD_suspend_connection(r->mhd);
    return true;
}

static enum MHD_Result hand_over(struct td_http_request *r)
{
    struct td_http *h = r->h;
    pthread_mutex_lock(&h->lock);
    const bool ok = http_suspend(r);
    if (ok) {
        r->n_refs++;
        r->next = NULL;
        if (h->queue)
            h->queue_tail->next = r;
        else
            h->queue = r;
        h->queue_tail = r;
        pthread_cond_signal(&h->queue_changed);
    }
    pthread_mutex_unlock(&h->lock);
    return ok ? MHD_YES : MHD_NO;
}

void *http_beginner(void *arg)
{
    struct td_http *h = arg;
    pthread_mutex_lock(&h->lock);
    for (;;) {
        while (!h->queue && !h->is_closing) pthread_cond_wait(&h->queue_changed, &h->lock);
        struct td_http_request *r = h->queue;
        if (!r) break;
        h->queue = r->next;
        const bool is_gone = r->is_gone;
        pthread_mutex_unlock(&h->lock);

        struct td_api_reply *reply = NULL;
        if (!is_gone) {
            const struct td_api_request req = {.method = r->is_head ? "GET" : r->method,
                                               .path = r->path,
                                               .body = r->body ? r->body : "",
                                               .body_bytes = r->body_bytes,
                                               .client = r->client,
                                               .notify = on_news,
                                               .ctx = r};
            reply = td_api_begin(h->cfg.api, &req);
        }
        drop_body(r);

        pthread_mutex_lock(&h->lock);
        r->reply = reply;
        r->has_begun = true;
        http_request_resume(r);
        pthread_mutex_unlock(&h->lock);
        release(r);
        pthread_mutex_lock(&h->lock);
    }
    pthread_mutex_unlock(&h->lock);
    return NULL;
}

// False when it is suspended, or *result says otherwise, and nothing is to be done now.
static bool has_settled(struct td_http_request *r, enum MHD_Result *result)
{
    struct td_http *h = r->h;
    *result = MHD_YES;
    for (;;) {
        pthread_mutex_lock(&h->lock);
        const bool has_begun = r->has_begun, is_gone = r->is_gone || h->is_closing;
        r->has_news = false;
        pthread_mutex_unlock(&h->lock);
        if (is_gone) {
            *result = MHD_NO;
            return false;
        }
        if (has_begun && (!r->reply || td_api_is_settled(r->reply))) return true;

        pthread_mutex_lock(&h->lock);
        const bool is_news = r->has_news || r->has_begun != has_begun;
        if (!is_news && !http_suspend(r)) *result = MHD_NO;
        pthread_mutex_unlock(&h->lock);
        if (!is_news) return false;
    }
}

// The request is whole. Called again whenever libmicrohttpd has nothing better to do, or after
// resuming, until there is an answer.
static enum MHD_Result on_whole(struct td_http_request *r)
{
    enum MHD_Result result;
    const char *methods;
    bool is_open;
    switch (r->stage) {
    case STAGE_BODY:
        has_arrived(r);
        if (r->refusal) return http_answer_error(r, r->refusal, r->refusal_text);
        if (r->is_preflight) return http_answer(r, MHD_HTTP_NO_CONTENT, NULL, "", 0);
        (void)http_local_has(r->method, r->path, &methods, &is_open);
        if (methods) return http_local(r);
        // Without an answer and without being suspended, libmicrohttpd notes that it waits for us,
        // not for the client, and asks again at once. Suspended while it still wants to read, it
        // would read when resumed, and take a half-closed connection for a closed one.
        if (!r->is_blocked_once) {
            r->is_blocked_once = true;
            return MHD_YES;
        }
        r->stage = STAGE_BEGIN;
        return hand_over(r);
    case STAGE_BEGIN:
        if (!has_settled(r, &result)) return result;
        r->stage = STAGE_SEND;
        if (!r->reply)
            return http_answer_error(r, MHD_HTTP_INTERNAL_SERVER_ERROR, "there is no memory left");
        return http_answer_reply(r);
    case STAGE_SEND: return MHD_YES;
    }
    return MHD_NO;
}

enum MHD_Result http_on_request(void *cls, struct MHD_Connection *mhd, const char *url,
                                const char *method, const char *version, const char *upload,
                                size_t *upload_bytes, void **con_cls)
{
    struct td_http *h = cls;
    struct td_http_request *r = *con_cls;
    if (!r) {
        const union MHD_ConnectionInfo *info =
            MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
        struct td_http_conn *conn = info ? info->socket_context : NULL;
        if (!conn) return MHD_NO;
        r = open_request(h, mhd, conn, url, method, version);
        if (!r) return MHD_NO;
        *con_cls = r;
        return on_head(r);
    }
    if (*upload_bytes) {
        const size_t n = *upload_bytes;
        *upload_bytes = 0;
        return on_body(r, upload, n);
    }
    return on_whole(r);
}
