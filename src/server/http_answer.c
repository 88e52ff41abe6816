// SPDX-License-Identifier: MIT
// Answers: the headers that every one has, whole bodies, and those that are read piece by piece
// while a model writes.
#include "server/http_impl.h"

#include "base/clock.h"

#include <stdio.h>
#include <string.h>

static void add(struct MHD_Response *response, const char *name, const char *value)
{
    // Without memory a header is missing; the answer still is one.
    (void)MHD_add_response_header(response, name, value);
}

static void add_number(struct MHD_Response *response, const char *name, uint64_t value)
{
    char text[24];
    (void)snprintf(text, sizeof(text), "%llu", (unsigned long long)value);
    add(response, name, text);
}

static void add_cors(struct td_http_request *r, struct MHD_Response *response)
{
    if (r->h->cfg.n_origins) add(response, "Vary", "Origin");
    if (!r->allow_origin[0]) return;
    add(response, "Access-Control-Allow-Origin", r->allow_origin);
    add(response, "Access-Control-Expose-Headers", "X-Request-Id, Retry-After");
    if (!r->is_preflight) return;
    add(response, "Access-Control-Allow-Methods", r->allow);
    add(response, "Access-Control-Allow-Headers",
        r->allow_headers ? r->allow_headers : "Authorization, Content-Type");
    add(response, "Access-Control-Max-Age", "600");
    // A public page asks for a private address.
    if (MHD_lookup_connection_value(r->mhd, MHD_HEADER_KIND,
                                    "Access-Control-Request-Private-Network"))
        add(response, "Access-Control-Allow-Private-Network", "true");
}

enum MHD_Result http_send(struct td_http_request *r, unsigned status, struct MHD_Response *response)
{
    if (!response) return MHD_NO;
    add(response, "X-Request-Id", r->id);
    add(response, "X-Content-Type-Options", "nosniff");
    add(response, "Referrer-Policy", "no-referrer");
    add_cors(r, response);
    if (r->allow) add(response, "Allow", r->allow);
    if (r->retry_after_s) add_number(response, "Retry-After", r->retry_after_s);
    if (status == MHD_HTTP_UNAUTHORIZED) add(response, "WWW-Authenticate", "Bearer");
    pthread_mutex_lock(&r->h->lock);
    const bool is_draining = r->h->is_draining;
    pthread_mutex_unlock(&r->h->lock);
    if (is_draining) add(response, "Connection", "close");
    r->status = status;
    const enum MHD_Result result = MHD_queue_response(r->mhd, status, response);
    MHD_destroy_response(response);
    return result;
}

enum MHD_Result http_answer(struct td_http_request *r, unsigned status, const char *content_type,
                            const char *bytes, size_t n_bytes)
{
    // It is copied, whatever the prototype says.
    char *body = (char *)(uintptr_t)bytes;
    struct MHD_Response *response =
        MHD_create_response_from_buffer(n_bytes, body, MHD_RESPMEM_MUST_COPY);
    if (!response) return MHD_NO;
    if (content_type) add(response, "Content-Type", content_type);
    add(response, "Cache-Control", "no-store");
    if (!r->is_head) r->out_bytes = n_bytes;
    return http_send(r, status, response);
}

// As Ollama's clients read it. The message may hold what a client sent.
static size_t short_error(char *buf, size_t buf_bytes, const char *message)
{
    char text[256];
    size_t n = 0;
    for (; *message && n + 1 < sizeof(text); message++)
        text[n++] = (char)(*message >= ' ' && *message < 0x7f && *message != '"' && *message != '\\'
                               ? *message
                               : '?');
    text[n] = '\0';
    const int size = snprintf(buf, buf_bytes, "{\"error\":\"%s\"}", text);
    return size > 0 && (size_t)size < buf_bytes ? (size_t)size : 0;
}

enum MHD_Result http_answer_error(struct td_http_request *r, unsigned status, const char *message)
{
    char body[1024];
    const size_t n = strncmp(r->path, "/api/", 5) == 0
                         ? short_error(body, sizeof(body), message)
                         : td_api_error_json(body, sizeof(body), status, message);
    return http_answer(r, status, "application/json", body, n);
}

// ---- what a model writes ----------------------------------------------------------------------

// The next piece that the API has; false when there is none now, or none any more (r->is_read).
static bool next_piece(struct td_http_request *r)
{
    switch (td_api_read(r->reply, &r->piece, &r->piece_bytes)) {
    case TD_API_PIECE: return true;
    case TD_API_DONE: r->is_read = true; break;
    case TD_API_WAIT: break;
    }
    r->piece_bytes = 0;
    return false;
}

static size_t fill(struct td_http_request *r, char *buf, size_t max)
{
    size_t n = 0;
    while (n < max && !r->is_read) {
        if (!r->piece_bytes && !next_piece(r)) break;
        const size_t take = r->piece_bytes < max - n ? r->piece_bytes : max - n;
        if (!take) continue;
        memcpy(buf + n, r->piece, take);
        r->piece += take;
        r->piece_bytes -= take;
        n += take;
    }
    return n;
}

// Nothing can be read: waits, unless something has come meanwhile or is to be said. True: try
// again.
static bool has_more(struct td_http_request *r, bool *ends_out)
{
    struct td_http *h = r->h;
    pthread_mutex_lock(&h->lock);
    const bool wants_word = r->wants_word;
    r->wants_word = false;
    bool again = r->has_news || wants_word;
    *ends_out = false;
    if (!again) *ends_out = !http_suspend(r);
    pthread_mutex_unlock(&h->lock);
    if (wants_word) {
        td_api_keep_alive(r->reply, &r->piece, &r->piece_bytes);
        pthread_mutex_lock(&h->lock);
        r->last_out_ns = td_clock_ns(); // also where the format has nothing to say
        pthread_mutex_unlock(&h->lock);
    }
    return again;
}

static ssize_t answer_piece(void *cls, uint64_t pos, char *buf, size_t max)
{
    struct td_http_request *r = cls;
    struct td_http *h = r->h;
    (void)pos;
    for (;;) {
        pthread_mutex_lock(&h->lock);
        const bool ends = r->is_gone || h->is_closing;
        r->has_news = false;
        pthread_mutex_unlock(&h->lock);
        if (ends) return MHD_CONTENT_READER_END_WITH_ERROR;

        const size_t n = fill(r, buf, max);
        if (n) {
            r->out_bytes += n;
            pthread_mutex_lock(&h->lock);
            r->last_out_ns = td_clock_ns();
            pthread_mutex_unlock(&h->lock);
            return (ssize_t)n;
        }
        if (r->is_read) return MHD_CONTENT_READER_END_OF_STREAM;
        bool ends_now;
        if (has_more(r, &ends_now)) continue;
        return ends_now ? MHD_CONTENT_READER_END_WITH_ERROR : 0;
    }
}

enum MHD_Result http_answer_reply(struct td_http_request *r)
{
    enum { BLOCK_BYTES = 16 << 10 };
    struct td_http *h = r->h;
    struct td_api_head head = {0};
    td_api_head(r->reply, &head);
    r->is_stream = head.is_stream;
    pthread_mutex_lock(&h->lock);
    r->is_answering = true;
    r->last_out_ns = td_clock_ns();
    pthread_mutex_unlock(&h->lock);
    struct MHD_Response *response = MHD_create_response_from_callback(
        head.is_stream ? MHD_SIZE_UNKNOWN : head.length_bytes, BLOCK_BYTES, answer_piece, r, NULL);
    if (!response) return MHD_NO;
    if (head.content_type) add(response, "Content-Type", head.content_type);
    add(response, "Cache-Control", head.is_stream ? "no-cache, no-store" : "no-store");
    if (head.is_stream) add(response, "X-Accel-Buffering", "no"); // proxies pass it on at once
    r->retry_after_s = head.retry_after_s;
    return http_send(r, head.status, response);
}
