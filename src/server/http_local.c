// SPDX-License-Identifier: MIT
// What needs no model: the page's files, /health, /metrics.
#include "server/http_impl.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

// Nothing but what this server sends runs on the page, and nobody frames it.
static const char page_policy[] =
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

bool http_local_has(const char *method, const char *path, const char **methods_out, bool *open_out)
{
    const bool is_health = strcmp(path, "/health") == 0;
    const bool is_metrics = strcmp(path, "/metrics") == 0;
    *methods_out = NULL;
    if (!is_health && !is_metrics && !td_page_find(path)) return false;
    *methods_out = "GET, HEAD, OPTIONS";
    *open_out = !is_metrics; // what it tells is nobody's business
    return strcmp(method, "GET") == 0 || strcmp(method, "HEAD") == 0;
}

static enum MHD_Result answer_health(struct td_http_request *r)
{
    struct td_sched_stats stats = {0};
    td_sched_stats(r->h->cfg.sched, &stats);
    pthread_mutex_lock(&r->h->lock);
    const bool is_draining = r->h->is_draining;
    pthread_mutex_unlock(&r->h->lock);
    char body[160];
    const int n = snprintf(
        body, sizeof(body), "{\"status\":\"%s\",\"slots\":%u,\"running\":%u,\"queued\":%u}\n",
        is_draining ? "draining" : "ok", stats.n_slots, stats.n_running, stats.n_queued);
    const unsigned status = is_draining ? MHD_HTTP_SERVICE_UNAVAILABLE : MHD_HTTP_OK;
    return http_answer(r, status, "application/json", body, (size_t)n);
}

static enum MHD_Result answer_metrics(struct td_http_request *r)
{
    size_t n = 0;
    char *text = http_metrics(r->h, &n);
    if (!text)
        return http_answer_error(r, MHD_HTTP_INTERNAL_SERVER_ERROR, "there is no memory left");
    const enum MHD_Result result =
        http_answer(r, MHD_HTTP_OK, "text/plain; version=0.0.4; charset=utf-8", text, n);
    free(text);
    return result;
}

static enum MHD_Result answer_file(struct td_http_request *r, const struct td_page_file *file)
{
    const char *encodings =
        MHD_lookup_connection_value(r->mhd, MHD_HEADER_KIND, MHD_HTTP_HEADER_ACCEPT_ENCODING);
    if (file->is_gzip && !td_guard_takes_gzip(encodings))
        return http_answer_error(r, MHD_HTTP_NOT_ACCEPTABLE, "this file is to be had as gzip only");

    char etag[24];
    (void)snprintf(etag, sizeof(etag), "\"%016llx\"",
                   (unsigned long long)XXH3_64bits(file->bytes, file->n_bytes));
    const char *known =
        MHD_lookup_connection_value(r->mhd, MHD_HEADER_KIND, MHD_HTTP_HEADER_IF_NONE_MATCH);
    const bool is_known = known && strstr(known, etag);
    const size_t n = is_known ? 0 : file->n_bytes;
    // It is kept as it is and only read, whatever the prototype says.
    struct MHD_Response *response =
        MHD_create_response_from_buffer(n, (void *)(uintptr_t)file->bytes, MHD_RESPMEM_PERSISTENT);
    if (!response) return MHD_NO;
    static const char assets[] = "/assets/"; // named by their content
    const bool is_asset = strncmp(r->path, assets, sizeof(assets) - 1) == 0;
    const struct {
        const char *name, *value;
    } headers[] = {
        {"Content-Type", file->content_type},
        {"ETag", etag},
        {"Cache-Control", is_asset ? "public, max-age=31536000, immutable" : "no-cache"},
        {"Content-Security-Policy", page_policy},
        {"X-Frame-Options", "DENY"},
        {"Cross-Origin-Opener-Policy", "same-origin"},
        {"Cross-Origin-Resource-Policy", "same-origin"},
        {"Permissions-Policy", "camera=(), geolocation=(), microphone=()"},
    };
    for (size_t i = 0; i < sizeof(headers) / sizeof(headers[0]); i++)
        (void)MHD_add_response_header(response, headers[i].name, headers[i].value);
    if (file->is_gzip) {
        (void)MHD_add_response_header(response, "Vary", "Accept-Encoding");
        if (!is_known) (void)MHD_add_response_header(response, "Content-Encoding", "gzip");
    }
    if (!r->is_head) r->out_bytes = n;
    return http_send(r, is_known ? MHD_HTTP_NOT_MODIFIED : MHD_HTTP_OK, response);
}

enum MHD_Result http_local(struct td_http_request *r)
{
    if (strcmp(r->path, "/health") == 0) return answer_health(r);
    if (strcmp(r->path, "/metrics") == 0) return answer_metrics(r);
    const struct td_page_file *file = td_page_find(r->path);
    return file ? answer_file(r, file)
                : http_answer_error(r, MHD_HTTP_NOT_FOUND, "there is no such file");
}
