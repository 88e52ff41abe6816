// SPDX-License-Identifier: MIT
#include "app/json.h"

#include "text/tokenizer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void td_json_u64(json_t *object, const char *key, uint64_t v)
{
    if (v <= INT64_MAX) {
        json_object_set_new(object, key, json_integer((json_int_t)v));
        return;
    }
    char text[24];
    snprintf(text, sizeof(text), "%llu", (unsigned long long)v);
    td_json_text(object, key, text);
}

void td_json_f64(json_t *object, const char *key, double v)
{
    json_object_set_new(object, key, isfinite(v) ? json_real(v) : json_null());
}

void td_json_text(json_t *object, const char *key, const char *text)
{
    json_object_set_new(object, key, json_string(text));
}

void td_json_bytes(json_t *object, const char *key, const char *text, size_t size_bytes)
{
    json_t *value = json_stringn(text, size_bytes); // NULL when it is not UTF-8
    if (!value) {
        char *clean = malloc(3 * size_bytes + 16);
        if (!clean) return;
        struct td_utf8_stream stream = {0};
        size_t n = td_utf8_feed(&stream, text, size_bytes, clean);
        n += td_utf8_finish(&stream, clean + n);
        value = json_stringn(clean, n);
        free(clean);
    }
    json_object_set_new(object, key, value);
}

int td_json_print(FILE *out, json_t *value, size_t flags)
{
    const int code = value && json_dumpf(value, out, flags | JSON_REAL_PRECISION(9)) == 0 ? 0 : -1;
    fputc('\n', out);
    json_decref(value);
    return code;
}
