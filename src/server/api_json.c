// SPDX-License-Identifier: MIT
// Fields of a request: what is there, of the right type, in range. Everything is hostile; what is
// wrong is said by the name of the field.
#include "server/api_impl.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

// Brackets within brackets. Nothing a client means nests deeper, and the parser calls itself.
enum { MAX_DEPTH = 256, MAX_LISTS = 400000, MAX_VALUES = 4000000 };

void td_reader_free(struct td_reader *r)
{
    for (size_t i = 0; i < r->n_owned; i++) free(r->owned[i]);
    free(r->owned);
    *r = (struct td_reader){0};
}

void *td_reader_keep(struct td_reader *r, void *p)
{
    if (p && r->n_owned == r->cap_owned) {
        const size_t cap = r->cap_owned ? r->cap_owned * 2 : 16;
        void **grown = realloc(r->owned, cap * sizeof(void *));
        if (grown) {
            r->owned = grown;
            r->cap_owned = cap;
        } else {
            free(p);
            p = NULL;
        }
    }
    if (!p) {
        td_fault_set(r, 500, NULL, NULL, NULL, "There is no memory for this request.");
        return NULL;
    }
    r->owned[r->n_owned++] = p;
    return p;
}

char *td_reader_copy(struct td_reader *r, const char *text, size_t n)
{
    char *copy = malloc(n + 1);
    if (copy) {
        if (n > 0) memcpy(copy, text, n);
        copy[n] = '\0';
    }
    return td_reader_keep(r, copy);
}

// Appends to a text that is cut at its size.
static void add(char *out, size_t size, const char *text)
{
    const size_t n = strlen(out);
    if (n + 1 < size) (void)snprintf(out + n, size - n, "%s", text);
}

static void put_where(char *out, size_t size, const struct td_where *at)
{
    // From the top down; deep ones are cut.
    const struct td_where *path[8];
    size_t n = 0;
    for (; at && n < 8; at = at->up) path[n++] = at;
    while (n > 0) {
        const struct td_where *w = path[--n];
        if (w->key) {
            if (out[0]) add(out, size, ".");
            add(out, size, w->key);
        } else {
            char index[32];
            (void)snprintf(index, sizeof(index), "[%zu]", w->i);
            add(out, size, index);
        }
    }
}

void td_fault_set(struct td_reader *r, unsigned status, const char *code, const struct td_where *at,
                  const char *key, const char *fmt, ...)
{
    struct td_fault *f = &r->fault;
    if (f->status) return;
    f->status = status;
    f->code = code;
    const struct td_where here = {.up = at, .key = key};
    put_where(f->param, sizeof(f->param), key ? &here : at);
    const size_t n = f->param[0] ? strlen(f->param) + 2 : 0;
    if (n > 0) (void)snprintf(f->message, sizeof(f->message), "%s: ", f->param);
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(f->message + n, sizeof(f->message) - n, fmt, args);
    va_end(args);
}

static const char *kind_of(const json_t *value)
{
    if (!value) return "nothing";
    switch (json_typeof(value)) {
    case JSON_OBJECT: return "an object";
    case JSON_ARRAY: return "a list";
    case JSON_STRING: return "a string";
    case JSON_INTEGER:
    case JSON_REAL: return "a number";
    case JSON_TRUE:
    case JSON_FALSE: return "a truth value";
    case JSON_NULL: return "null";
    }
    return "nothing";
}

void td_fault_type(struct td_reader *r, const struct td_where *at, const char *key,
                   const char *expected, const json_t *value)
{
    td_fault_set(r, 400, NULL, at, key, "%s is expected, not %s", expected, kind_of(value));
}

// Why a body is not even parsed, NULL when it may be: nesting, and more values than a request can
// need. A parsed one takes up to 80 bytes for each of its own where it is all brackets, so that
// 32 MiB would be gigabytes. What else is wrong with it is the parser's to find.
static const char *refusal(const char *body, size_t n)
{
    size_t depth = 0, n_lists = 0, n_commas = 0;
    bool in_string = false;
    for (size_t i = 0; i < n; i++) {
        const char c = body[i];
        if (in_string) {
            if (c == '\\')
                i++;
            else if (c == '"')
                in_string = false;
        } else if (c == '"') {
            in_string = true;
        } else if (c == '{' || c == '[') {
            if (++depth > MAX_DEPTH) return "The body is nested more than 256 levels deep.";
            if (++n_lists > MAX_LISTS) return "The body has too many lists and objects.";
        } else if ((c == '}' || c == ']') && depth > 0) {
            depth--;
        } else if (c == ',' && ++n_commas > MAX_VALUES) {
            return "The body has too many values.";
        }
    }
    return NULL;
}

json_t *td_read_document(struct td_reader *r, const char *body, size_t n)
{
    if (n == 0) {
        td_fault_set(r, 400, NULL, NULL, NULL,
                     "The request has no body; a JSON object is expected.");
        return NULL;
    }
    const char *no = refusal(body, n);
    if (no) {
        td_fault_set(r, 400, NULL, NULL, NULL, "%s", no);
        return NULL;
    }
    json_error_t why;
    json_t *root = json_loadb(body, n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &why);
    // The parser says nothing about most allocations that fail.
    if (!root && (!why.text[0] || json_error_code(&why) == json_error_out_of_memory))
        td_fault_set(r, 500, NULL, NULL, NULL, "There is no memory for this request.");
    if (!root) {
        td_fault_set(r, 400, NULL, NULL, NULL,
                     "The body is not valid JSON: line %d, column %d: %s.", why.line, why.column,
                     why.text);
        return NULL;
    }
    if (!json_is_object(root)) {
        td_fault_set(r, 400, NULL, NULL, NULL, "The body must be a JSON object, not %s.",
                     kind_of(root));
        json_decref(root);
        return NULL;
    }
    return root;
}

json_t *td_read_get(const json_t *object, const char *key)
{
    json_t *value = json_object_get(object, key);
    return json_is_null(value) ? NULL : value;
}

json_t *td_read_array(struct td_reader *r, const json_t *object, const struct td_where *at,
                      const char *key)
{
    json_t *value = td_read_get(object, key);
    if (!value || json_is_array(value)) return value;
    td_fault_type(r, at, key, "a list", value);
    return NULL;
}

json_t *td_read_object(struct td_reader *r, const json_t *object, const struct td_where *at,
                       const char *key)
{
    json_t *value = td_read_get(object, key);
    if (!value || json_is_object(value)) return value;
    td_fault_type(r, at, key, "an object", value);
    return NULL;
}

bool td_read_bool(struct td_reader *r, const json_t *object, const struct td_where *at,
                  const char *key, bool *out)
{
    const json_t *value = td_read_get(object, key);
    if (!value) return false;
    if (!json_is_boolean(value)) {
        td_fault_type(r, at, key, "true or false", value);
        return false;
    }
    *out = json_is_true(value);
    return true;
}

bool td_read_text(struct td_reader *r, const json_t *object, const struct td_where *at,
                  const char *key, const char **out)
{
    const json_t *value = td_read_get(object, key);
    if (!value) return false;
    if (!json_is_string(value)) {
        td_fault_type(r, at, key, "a string", value);
        return false;
    }
    const char *text = json_string_value(value);
    if (strlen(text) != json_string_length(value)) {
        td_fault_set(r, 400, NULL, at, key, "a NUL character cannot stand here");
        return false;
    }
    *out = text;
    return true;
}

static bool in_range(struct td_reader *r, const struct td_where *at, const char *key,
                     struct td_range range, double v)
{
    if (v >= range.lo && v <= range.hi) return true;
    if (range.hi >= 1e15)
        td_fault_set(r, 400, NULL, at, key, "at least %.15g is expected, not %.15g", range.lo, v);
    else
        td_fault_set(r, 400, NULL, at, key, "%.15g to %.15g is expected, not %.15g", range.lo,
                     range.hi, v);
    return false;
}

bool td_read_f64(struct td_reader *r, const json_t *object, const struct td_where *at,
                 const char *key, struct td_range range, double *out)
{
    const json_t *value = td_read_get(object, key);
    if (!value) return false;
    if (!json_is_number(value)) {
        td_fault_type(r, at, key, "a number", value);
        return false;
    }
    const double v = json_number_value(value);
    if (!in_range(r, at, key, range, v)) return false;
    *out = v;
    return true;
}

bool td_read_int(struct td_reader *r, const json_t *object, const struct td_where *at,
                 const char *key, struct td_range range, int64_t *out)
{
    const json_t *value = td_read_get(object, key);
    if (!value) return false;
    if (!json_is_number(value)) {
        td_fault_type(r, at, key, "a whole number", value);
        return false;
    }
    const double v = json_number_value(value);
    if (!in_range(r, at, key, range, v)) return false;
    // Below 2^53 a number with a point may be a whole one too: some clients write 100.0.
    if (!json_is_integer(value) && (v != floor(v) || fabs(v) > 0x1p53)) {
        td_fault_set(r, 400, NULL, at, key, "a whole number is expected, not %.15g", v);
        return false;
    }
    *out = json_is_integer(value) ? (int64_t)json_integer_value(value) : (int64_t)v;
    return true;
}
