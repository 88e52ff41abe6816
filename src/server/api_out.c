// SPDX-License-Identifier: MIT
// A growing text, and JSON written onto it.
#include "server/api_impl.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

void td_buf_free(struct td_buf *b)
{
    free(b->at);
    *b = (struct td_buf){0};
}

static bool has_room(struct td_buf *b, size_t n)
{
    if (b->no_memory) return false;
    if (b->cap - b->n > n) return true;
    if (n > SIZE_MAX / 4 || b->n > SIZE_MAX / 4) {
        b->no_memory = true;
        return false;
    }
    const size_t cap = (b->n + n + 64) * 2;
    char *grown = realloc(b->at, cap);
    if (!grown) {
        b->no_memory = true;
        return false;
    }
    b->at = grown;
    b->cap = cap;
    return true;
}

void td_buf_put(struct td_buf *b, const char *bytes, size_t n)
{
    if (!has_room(b, n)) return;
    if (n > 0) memcpy(b->at + b->n, bytes, n);
    b->n += n;
    b->at[b->n] = '\0';
}

void td_buf_puts(struct td_buf *b, const char *text)
{
    td_buf_put(b, text, strlen(text));
}

// Bytes of the UTF-8 character at p, of n bytes; 0 when there is none.
static size_t character(const uint8_t *p, size_t n)
{
    if (p[0] < 0x80) return 1;
    const size_t len = p[0] >= 0xf0 ? 4 : p[0] >= 0xe0 ? 3 : 2;
    if (p[0] < 0xc2 || p[0] > 0xf4 || len > n) return 0;
    for (size_t i = 1; i < len; i++)
        if ((p[i] & 0xc0) != 0x80) return 0;
    // Overlong forms, surrogates, and what is beyond U+10FFFF.
    if (p[0] == 0xe0 && p[1] < 0xa0) return 0;
    if (p[0] == 0xed && p[1] > 0x9f) return 0;
    if (p[0] == 0xf0 && p[1] < 0x90) return 0;
    if (p[0] == 0xf4 && p[1] > 0x8f) return 0;
    return len;
}

static void put_escaped(struct td_buf *b, uint8_t c)
{
    static const char hex[] = "0123456789abcdef";
    switch (c) {
    case '"': td_buf_puts(b, "\\\""); return;
    case '\\': td_buf_puts(b, "\\\\"); return;
    case '\n': td_buf_puts(b, "\\n"); return;
    case '\r': td_buf_puts(b, "\\r"); return;
    case '\t': td_buf_puts(b, "\\t"); return;
    default: break;
    }
    const char escape[6] = {'\\', 'u', '0', '0', hex[c >> 4], hex[c & 15]};
    td_buf_put(b, escape, sizeof(escape));
}

static void put_string(struct td_buf *b, const char *text, size_t n)
{
    const uint8_t *p = (const uint8_t *)text;
    size_t from = 0, i = 0;
    td_buf_put(b, "\"", 1);
    while (i < n) {
        const size_t len = character(p + i, n - i);
        const bool is_plain =
            len > 0 && p[i] >= 0x20 && p[i] != '"' && p[i] != '\\' && p[i] != 0x7f;
        if (is_plain) {
            i += len;
            continue;
        }
        td_buf_put(b, text + from, i - from);
        if (len == 0)
            td_buf_puts(b, "\xEF\xBF\xBD");
        else
            put_escaped(b, p[i]);
        from = ++i;
    }
    td_buf_put(b, text + from, i - from);
    td_buf_put(b, "\"", 1);
}

// A value comes: after another one a comma is due. What is not JSON (the "data: " of an event, a
// new line) ends in white space.
static void begin_value(struct td_buf *b, const char *key)
{
    char last = ' ';
    if (b->n > 0) last = b->at[b->n - 1];
    if (last != '{' && last != '[' && last != ':' && last != ' ' && last != '\n')
        td_buf_put(b, ",", 1);
    if (!key) return;
    put_string(b, key, strlen(key));
    td_buf_put(b, ":", 1);
}

void td_put_open(struct td_buf *b, const char *key, char bracket)
{
    begin_value(b, key);
    td_buf_put(b, &bracket, 1);
}

void td_put_close(struct td_buf *b, char bracket)
{
    td_buf_put(b, &bracket, 1);
}

void td_put_text(struct td_buf *b, const char *key, const char *text, size_t n)
{
    begin_value(b, key);
    put_string(b, text ? text : "", text ? n : 0);
}

void td_put_str(struct td_buf *b, const char *key, const char *text)
{
    if (text)
        td_put_text(b, key, text, strlen(text));
    else
        td_put_null(b, key);
}

void td_put_u64(struct td_buf *b, const char *key, uint64_t v)
{
    char text[24];
    const int n = snprintf(text, sizeof(text), "%" PRIu64, v);
    begin_value(b, key);
    td_buf_put(b, text, (size_t)n);
}

void td_put_f64(struct td_buf *b, const char *key, double v)
{
    char text[40];
    if (!isfinite(v)) {
        td_put_null(b, key);
        return;
    }
    const int n = snprintf(text, sizeof(text), "%.9g", v);
    begin_value(b, key);
    td_buf_put(b, text, (size_t)n);
}

void td_put_bool(struct td_buf *b, const char *key, bool v)
{
    begin_value(b, key);
    td_buf_puts(b, v ? "true" : "false");
}

void td_put_null(struct td_buf *b, const char *key)
{
    begin_value(b, key);
    td_buf_puts(b, "null");
}

void td_put_json(struct td_buf *b, const char *key, const json_t *value)
{
    char *text = value ? json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;
    if (value && !text) b->no_memory = true;
    begin_value(b, key);
    td_buf_puts(b, text ? text : "null");
    free(text);
}

void td_sse_fail(struct td_api_reply *r, const struct td_fault *fault)
{
    td_buf_puts(&r->out, "data: ");
    td_put_fault(&r->out, fault, false);
    td_buf_puts(&r->out, "\n\n");
}

void td_sse_keep_alive(struct td_api_reply *r, struct td_buf *b)
{
    (void)r;
    td_buf_puts(b, ": still here\n\n");
}
