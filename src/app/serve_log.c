// SPDX-License-Identifier: MIT
// The log of `tandem serve`: a line for each request.
#include "app/serve.h"

#include "app/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

// "2026-01-31T12:34:56.789Z"
static void time_text(char *out, size_t out_bytes, uint64_t unix_ms)
{
    const time_t seconds = (time_t)(unix_ms / 1000);
    struct tm utc = {0};
    char day[32];
    (void)gmtime_r(&seconds, &utc);
    strftime(day, sizeof(day), "%Y-%m-%dT%H:%M:%S", &utc);
    snprintf(out, out_bytes, "%s.%03uZ", day, (unsigned)(unix_ms % 1000));
}

// What a client chose, as printable ASCII without spaces and quotes, cut to fit.
static const char *plain(char *out, size_t out_bytes, const char *text)
{
    size_t n = 0;
    for (; *text && n + 1 < out_bytes; text++)
        out[n++] = (char)(*text > ' ' && *text < 0x7f && *text != '"' ? *text : '?');
    out[n] = '\0';
    return out;
}

static double rate(double n, double seconds)
{
    return n > 0 && seconds > 0 ? n / seconds : 0;
}

static size_t text_line(char *buf, size_t buf_bytes, const char *when,
                        const struct td_http_record *r)
{
    char path[256], method[24], answer[256] = "";
    const struct td_api_account *a = r->account;
    if (a)
        snprintf(
            answer, sizeof(answer),
            ", prompt %u tokens (%u reused), answer %u tokens, first after %.3f s, %.1f tok/s, "
            "%s, %s",
            a->n_prompt, a->n_reused, a->n_written, a->ttft_seconds,
            rate(a->n_written - 1.0, a->decode_seconds), a->path, a->outcome);
    const int n = snprintf(
        buf, buf_bytes, "%s %s %s %s %s %u, %.3f s, %llu bytes in, %llu out%s%s\n", when, r->client,
        r->id, plain(method, sizeof(method), r->method), plain(path, sizeof(path), r->path),
        r->status, r->seconds, (unsigned long long)r->in_bytes, (unsigned long long)r->out_bytes,
        answer, r->is_gone ? ", client left" : "");
    return n > 0 && (size_t)n < buf_bytes ? (size_t)n : 0;
}

static size_t json_line(char *buf, size_t buf_bytes, const char *when,
                        const struct td_http_record *r)
{
    char path[512];
    snprintf(path, sizeof(path), "%s", r->path);
    json_t *out = json_object();
    td_json_text(out, "time", when);
    td_json_text(out, "id", r->id);
    td_json_text(out, "client", r->client);
    td_json_bytes(out, "method", r->method, strlen(r->method));
    td_json_bytes(out, "path", path, strlen(path));
    td_json_u64(out, "status", r->status);
    td_json_f64(out, "seconds", r->seconds);
    td_json_u64(out, "in_bytes", r->in_bytes);
    td_json_u64(out, "out_bytes", r->out_bytes);
    if (r->is_gone) (void)json_object_set_new(out, "client_left", json_true());
    const struct td_api_account *a = r->account;
    if (a) {
        td_json_text(out, "model", a->model);
        td_json_u64(out, "prompt_tokens", a->n_prompt);
        td_json_u64(out, "reused_tokens", a->n_reused);
        td_json_u64(out, "written_tokens", a->n_written);
        td_json_f64(out, "ttft_seconds", a->ttft_seconds);
        td_json_f64(out, "prompt_seconds", a->prompt_seconds);
        td_json_f64(out, "decode_seconds", a->decode_seconds);
        td_json_text(out, "prefill", a->path);
        td_json_text(out, "outcome", a->outcome);
    }
    // ASCII: no newline of another script, no command of a terminal.
    char *text = json_dumps(out, JSON_COMPACT | JSON_ENSURE_ASCII);
    json_decref(out);
    const int n = text ? snprintf(buf, buf_bytes, "%s\n", text) : 0;
    free(text);
    return n > 0 && (size_t)n < buf_bytes ? (size_t)n : 0;
}

size_t td_log_line(char *buf, size_t buf_bytes, enum td_log_form form, uint64_t unix_ms,
                   const struct td_http_record *record)
{
    char when[48];
    time_text(when, sizeof(when), unix_ms);
    switch (form) {
    case TD_LOG_TEXT: return text_line(buf, buf_bytes, when, record);
    case TD_LOG_JSON: return json_line(buf, buf_bytes, when, record);
    case TD_LOG_NONE: break;
    }
    return 0;
}
