// SPDX-License-Identifier: MIT
// What the dialects' requests have in common: sampling, where to stop, effort, text in parts.
#include "server/api_impl.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static bool read_f32(struct td_ask *a, const json_t *o, const struct td_where *at, const char *key,
                     struct td_range range, float *out)
{
    double v = 0;
    if (!td_read_f64(&a->rd, o, at, key, range, &v)) return false;
    *out = (float)v;
    return true;
}

void td_read_sampling(struct td_ask *a, const json_t *o, const struct td_where *at)
{
    struct td_reader *rd = &a->rd;
    struct td_sampling *s = &a->sampling;
    int64_t v = 0;
    (void)read_f32(a, o, at, "temperature", (struct td_range){0, 100}, &s->temp);
    (void)read_f32(a, o, at, "top_p", (struct td_range){0, 1}, &s->top_p);
    // The likeliest token always stays; the sampler wants more than 0.
    if (s->top_p <= 0) s->top_p = 1e-6f;
    (void)read_f32(a, o, at, "min_p", (struct td_range){0, 1}, &s->min_p);
    // -1 is what some clients write for "all".
    if (td_read_int(rd, o, at, "top_k", (struct td_range){-1, 1e9}, &v))
        s->top_k = v < 0 ? 0 : (uint32_t)v;
    if (td_read_int(rd, o, at, "seed", (struct td_range){-0x1p63, 0x1p63}, &v)) {
        // A negative seed is, for Ollama's clients and llama-server's, one by chance.
        a->has_seed = v >= 0;
        s->seed = (uint64_t)v;
    }
    const struct td_range penalty = {-2, 2};
    (void)read_f32(a, o, at, "presence_penalty", penalty, &s->presence_penalty);
    (void)read_f32(a, o, at, "frequency_penalty", penalty, &s->frequency_penalty);
    // vLLM and OpenRouter say repetition_penalty.
    const struct td_range repeat = {0.01, 100};
    if (!read_f32(a, o, at, "repeat_penalty", repeat, &s->repeat_penalty))
        (void)read_f32(a, o, at, "repetition_penalty", repeat, &s->repeat_penalty);
    if (td_read_int(rd, o, at, "repeat_last_n", (struct td_range){-1, 1e9}, &v)) {
        if (v == 0) s->repeat_penalty = 0; // over no tokens: none
        s->repeat_last_n = v < 0 ? UINT32_MAX : (uint32_t)v;
    }
}

void td_read_logit_bias(struct td_ask *a, const json_t *o, const struct td_where *at)
{
    json_t *bias = td_read_object(&a->rd, o, at, "logit_bias");
    const size_t n = json_object_size(bias);
    if (n == 0) return;
    if (n > TD_MAX_LOGIT_BIAS) {
        td_fault_set(&a->rd, 400, NULL, at, "logit_bias", "at most %d tokens, not %zu",
                     TD_MAX_LOGIT_BIAS, n);
        return;
    }
    struct td_logit_bias *list = td_reader_keep(&a->rd, calloc(n, sizeof(*list)));
    if (!list) return;
    a->sampling.bias = list;
    const struct td_where here = {.up = at, .key = "logit_bias"};
    for (void *it = json_object_iter(bias); it; it = json_object_iter_next(bias, it)) {
        const char *key = json_object_iter_key(it);
        char *end = NULL;
        const long token = strtol(key, &end, 10);
        if (key[0] < '0' || key[0] > '9' || *end || token > INT32_MAX) {
            td_fault_set(&a->rd, 400, NULL, &here, NULL,
                         "the number of a token is expected as a name, not '%.40s'", key);
            return;
        }
        double v = 0;
        if (!td_read_f64(&a->rd, bias, &here, key, (struct td_range){-100, 100}, &v)) continue;
        list[a->sampling.n_bias++] =
            (struct td_logit_bias){.token = (int32_t)token, .bias = (float)v};
    }
}

static void add_stop(struct td_ask *a, const json_t *value, const struct td_where *at)
{
    if (!json_is_string(value)) {
        td_fault_type(&a->rd, at, NULL, "a string", value);
        return;
    }
    const char *text = json_string_value(value);
    if (!*text || strlen(text) != json_string_length(value)) {
        td_fault_set(&a->rd, 400, NULL, at, NULL, "a text without NUL characters is expected");
        return;
    }
    if (a->n_stops == TD_JOB_MAX_STOPS) {
        td_fault_set(&a->rd, 400, NULL, at, NULL, "at most %d texts to stop at", TD_JOB_MAX_STOPS);
        return;
    }
    a->stops[a->n_stops++] = text;
}

void td_read_stops(struct td_ask *a, const json_t *o, const struct td_where *at)
{
    const json_t *value = td_read_get(o, "stop");
    const struct td_where here = {.up = at, .key = "stop"};
    if (!value) return;
    if (!json_is_array(value)) {
        if (json_is_string(value))
            add_stop(a, value, &here);
        else
            td_fault_type(&a->rd, &here, NULL, "a string or a list of strings", value);
        return;
    }
    size_t i;
    const json_t *entry;
    json_array_foreach(value, i, entry)
    {
        const struct td_where element = {.up = &here, .i = i};
        add_stop(a, entry, &element);
        if (!td_is_fine(&a->rd)) return;
    }
}

void td_read_max_tokens(struct td_ask *a, const json_t *o, const struct td_where *at,
                        const char *key)
{
    int64_t v = 0;
    if (!td_read_int(&a->rd, o, at, key, (struct td_range){-2, 0x1p62}, &v)) return;
    if (v == 0) {
        td_fault_set(&a->rd, 400, NULL, at, key, "at least 1 is expected, not 0");
        return;
    }
    if (v < 0) { // "as many as fit", with llama-server and Ollama
        a->max_tokens = UINT32_MAX;
        return;
    }
    const uint32_t n = v > UINT32_MAX ? UINT32_MAX : (uint32_t)v;
    if (a->max_tokens == 0 || n < a->max_tokens) a->max_tokens = n;
}

void td_read_stream(struct td_ask *a, const json_t *o, bool is_default)
{
    a->is_stream = is_default;
    (void)td_read_bool(&a->rd, o, NULL, "stream", &a->is_stream);
    (void)td_read_bool(&a->rd, o, NULL, "return_progress", &a->return_progress);
    json_t *options = td_read_object(&a->rd, o, NULL, "stream_options");
    const struct td_where at = {.key = "stream_options"};
    (void)td_read_bool(&a->rd, options, &at, "include_usage", &a->include_usage);
}

void td_read_effort(struct td_ask *a, const json_t *o, const struct td_where *at, const char *key)
{
    static const struct {
        const char *name;
        enum td_effort effort;
    } efforts[] = {{"minimal", TD_EFFORT_LOW}, {"low", TD_EFFORT_LOW},
                   {"none", TD_EFFORT_LOW},    {"medium", TD_EFFORT_MEDIUM},
                   {"high", TD_EFFORT_HIGH},   {"xhigh", TD_EFFORT_HIGH},
                   {"max", TD_EFFORT_HIGH}};
    const char *text = NULL;
    if (!td_read_text(&a->rd, o, at, key, &text)) return;
    for (size_t i = 0; i < sizeof(efforts) / sizeof(efforts[0]); i++) {
        if (strcmp(efforts[i].name, text) != 0) continue;
        a->effort = efforts[i].effort;
        a->no_reasoning = strcmp(text, "none") == 0;
        return;
    }
    td_fault_set(&a->rd, 400, NULL, at, key,
                 "none, minimal, low, medium, high, xhigh or max is expected, not '%.40s'", text);
}

static bool is_text_part(const char *type)
{
    return !type || strcmp(type, "text") == 0 || strcmp(type, "input_text") == 0 ||
           strcmp(type, "output_text") == 0;
}

// The text of a part; NULL: fault.
static const json_t *part_text(struct td_ask *a, const json_t *part, const struct td_where *at)
{
    if (json_is_string(part)) return part;
    if (!json_is_object(part)) {
        td_fault_type(&a->rd, at, NULL, "a part of a message", part);
        return NULL;
    }
    const char *type = NULL;
    (void)td_read_text(&a->rd, part, at, "type", &type);
    if (!td_is_fine(&a->rd)) return NULL;
    const char *key = "text";
    if (type && strcmp(type, "refusal") == 0) {
        key = "refusal";
    } else if (!is_text_part(type)) {
        td_fault_set(&a->rd, 400, "unsupported_content", at, "type",
                     "parts of type '%.40s' are not supported: this model reads text only", type);
        return NULL;
    }
    const json_t *text = json_object_get(part, key);
    if (!json_is_string(text)) {
        td_fault_type(&a->rd, at, key, "a string", text);
        return NULL;
    }
    return text;
}

bool td_read_content(struct td_ask *a, const json_t *value, const struct td_where *at,
                     struct td_str *out)
{
    if (json_is_string(value)) {
        *out = (struct td_str){json_string_value(value), json_string_length(value)};
        return true;
    }
    if (!json_is_array(value)) {
        td_fault_type(&a->rd, at, NULL, "a string or a list of parts", value);
        return false;
    }
    struct td_buf text = {0};
    size_t i;
    const json_t *part;
    json_array_foreach(value, i, part)
    {
        const struct td_where here = {.up = at, .i = i};
        const json_t *piece = part_text(a, part, &here);
        if (!piece) {
            td_buf_free(&text);
            return false;
        }
        td_buf_put(&text, json_string_value(piece), json_string_length(piece));
    }
    if (json_array_size(value) == 0) td_buf_puts(&text, "");
    if (text.no_memory) td_buf_free(&text); // keep says that there is none
    const size_t n = text.n;
    const char *kept = td_reader_keep(&a->rd, text.at);
    if (!kept) return false;
    *out = (struct td_str){kept, n};
    return true;
}

void td_read_refuse(struct td_ask *a, const json_t *o, const char *key, const char *why)
{
    const json_t *v = td_read_get(o, key);
    const bool is_nothing = !v || json_is_false(v) ||
                            (json_is_string(v) && json_string_length(v) == 0) ||
                            (json_is_array(v) && json_array_size(v) == 0) ||
                            (json_is_object(v) && json_object_size(v) == 0);
    if (!is_nothing) td_fault_set(&a->rd, 400, "unsupported_parameter", NULL, key, "%s", why);
}
