// SPDX-License-Identifier: MIT
// Text waits in `held` until it can no longer be the beginning of a stop text; the tokens it came
// from wait beside it, each with the number of bytes it gave.
#include "server/answer.h"

#include <stdlib.h>
#include <string.h>

// A token whose text has not begun to go out.
struct origin {
    struct td_job_token token;
    size_t n_bytes; // of its text, in held
    bool is_given;  // its text has begun to go out
};

// What stands between a call and a further one.
static const char *const call_headers[] = {
    "<|start|>assistant<|channel|>commentary to=functions.",
    "<|start|>assistant to=functions.",
};
#define N_CALL_HEADERS (sizeof(call_headers) / sizeof(call_headers[0]))
#define MAX_AHEAD      64u // tokens of one, which may be single bytes

struct td_answer {
    struct td_job *job;
    const struct td_tokenizer *tokenizer;
    struct td_harmony_parser *parser; // NULL: plain text
    struct td_utf8_stream utf8;       // plain text
    char *room;                       // for what td_utf8_feed gives
    size_t room_bytes;

    enum td_job_event_kind kind; // of what is held
    enum td_channel channel;
    char *held;
    size_t n_held, held_cap;
    struct origin *origins; // in the order of their text
    uint32_t n_origins, origins_cap;
    struct td_job_token *given; // (given_cap) tokens of the event being made
    uint32_t given_cap;

    bool is_analysis; // the content being written is reasoning
    bool was_reasoning, has_called;
    uint32_t n_reasoning;
    int32_t call_token; // <|call|>, or -1
    // With TD_JOB_CALLS_MORE, behind a call: tokens that may be the header of a further one.
    bool is_ahead;
    int32_t ahead[MAX_AHEAD];
    uint32_t n_ahead;
    char ahead_bytes[64]; // what they spell; more than the longest header need not be known
    size_t n_ahead_bytes;
    bool is_stopped, is_done;
    int code; // the first failure inside a callback
    struct td_error *err;
};

int td_answer_open(struct td_answer **out, struct td_job *job, const struct td_tokenizer *tokenizer,
                   struct td_error *err)
{
    *out = NULL;
    struct td_answer *a = calloc(1, sizeof(*a));
    if (!a) return td_fail(err, TD_ENOMEM, "no memory for an answer");
    a->job = job;
    a->tokenizer = tokenizer;
    a->kind = TD_JOB_TEXT;
    a->channel = TD_CHANNEL_FINAL;
    a->call_token = td_token_find(tokenizer, "<|call|>");
    if (job->spec.is_chat) {
        const int code = td_harmony_parser_open(&a->parser, tokenizer, err);
        if (code != TD_OK) {
            td_answer_close(a);
            return code;
        }
    }
    *out = a;
    return TD_OK;
}

void td_answer_close(struct td_answer *a)
{
    if (!a) return;
    td_harmony_parser_close(a->parser);
    free(a->room);
    free(a->held);
    free(a->origins);
    free(a->given);
    free(a);
}

uint32_t td_answer_n_reasoning(const struct td_answer *a)
{
    return a->n_reasoning;
}

static void no_memory(struct td_answer *a)
{
    if (a->code == TD_OK)
        a->code = td_fail(a->err, TD_ENOMEM, "no memory for the text of the answer");
}

// ---- what goes out ----------------------------------------------------------------------------

// Takes the origins of the first n bytes held into a->given; returns how many.
static uint32_t take_origins(struct td_answer *a, size_t n)
{
    if (a->n_origins == 0) return 0;
    if (a->given_cap < a->n_origins) {
        struct td_job_token *grown = realloc(a->given, a->origins_cap * sizeof(*grown));
        if (!grown) {
            no_memory(a);
            return 0;
        }
        a->given = grown;
        a->given_cap = a->origins_cap;
    }
    uint32_t n_given = 0, n_over = 0;
    for (; n_over < a->n_origins && n > 0; n_over++) {
        struct origin *o = &a->origins[n_over];
        if (!o->is_given) a->given[n_given++] = o->token;
        o->is_given = true;
        const size_t n_used = o->n_bytes < n ? o->n_bytes : n;
        n -= n_used;
        o->n_bytes -= n_used;
        if (o->n_bytes > 0) break;
    }
    a->n_origins -= n_over;
    if (a->n_origins > 0)
        memmove(a->origins, a->origins + n_over, a->n_origins * sizeof(*a->origins));
    return n_given;
}

static void add_event(struct td_answer *a, enum td_job_event_kind kind, const char *text, size_t n,
                      uint32_t n_given)
{
    const int code = td_job_add_text(a->job, kind, a->channel, text, n, a->given, n_given, a->err);
    if (a->code == TD_OK) a->code = code;
}

// Gives out the first n bytes held.
static void give(struct td_answer *a, size_t n)
{
    if (n == 0) return;
    const uint32_t n_given = take_origins(a, n);
    add_event(a, a->kind, a->held, n, n_given);
    a->n_held -= n;
    memmove(a->held, a->held + n, a->n_held);
}

// What was held is no stop text: something else follows, or nothing.
static void give_all(struct td_answer *a)
{
    give(a, a->n_held);
    if (a->job->stops) td_stops_reset(a->job->stops);
}

static bool hold(struct td_answer *a, const char *text, size_t n)
{
    if (a->n_held + n > a->held_cap) {
        const size_t cap = 2 * (a->n_held + n);
        char *grown = realloc(a->held, cap);
        if (!grown) return false;
        a->held = grown;
        a->held_cap = cap;
    }
    memcpy(a->held + a->n_held, text, n);
    a->n_held += n;
    if (a->n_origins > 0) a->origins[a->n_origins - 1].n_bytes += n;
    return true;
}

// Text of a channel: what cannot be part of a stop text goes out.
static void add_text(struct td_answer *a, enum td_job_event_kind kind, enum td_channel channel,
                     const char *text, size_t n)
{
    if (n == 0) return;
    if (kind != a->kind || channel != a->channel) give_all(a);
    a->kind = kind;
    a->channel = channel;
    struct td_stops *stops = a->job->stops;
    if (kind != TD_JOB_TEXT || channel != TD_CHANNEL_FINAL) stops = NULL;
    size_t end = n, size = 0;
    a->is_stopped = stops && td_stops_feed(stops, text, n, &end, &size);
    if (!hold(a, text, end)) {
        no_memory(a);
        return;
    }
    if (a->is_stopped) {
        give(a, a->n_held - size);
        a->n_held = 0;
        a->n_origins = 0;
        return;
    }
    give(a, a->n_held - (stops ? td_stops_held(stops) : 0));
}

static void on_chat_event(void *ctx, const struct td_chat_event *e)
{
    struct td_answer *a = ctx;
    if (a->is_stopped || a->code != TD_OK) return;
    switch (e->kind) {
    case TD_CHAT_TEXT:
        a->is_analysis = e->channel == TD_CHANNEL_ANALYSIS;
        a->was_reasoning |= a->is_analysis;
        add_text(a, TD_JOB_TEXT, e->channel, e->text, e->text_bytes);
        return;
    case TD_CHAT_TOOL_BEGIN:
        give_all(a);
        a->is_analysis = false;
        a->channel = e->channel;
        add_event(a, TD_JOB_TOOL_BEGIN, e->text, e->text_bytes, 0);
        return;
    case TD_CHAT_TOOL_ARGS:
        add_text(a, TD_JOB_TOOL_ARGS, e->channel, e->text, e->text_bytes);
        return;
    case TD_CHAT_TOOL_END:
        give_all(a);
        a->has_called = true;
        a->channel = e->channel;
        add_event(a, TD_JOB_TOOL_END, "", 0, 0);
        if (a->job->spec.calls == TD_JOB_CALLS_ONE) a->is_done = true;
        return;
    case TD_CHAT_MESSAGE_END:
        give_all(a);
        a->is_analysis = false;
        return;
    case TD_CHAT_DONE: a->is_done = true; return;
    }
}

// ---- what comes in ----------------------------------------------------------------------------

static int feed_plain(struct td_answer *a, int32_t token)
{
    if (td_token_ends_generation(a->tokenizer, token)) a->is_done = true;
    if (td_token_is_special(a->tokenizer, token)) return TD_OK;
    const struct td_str bytes = td_token_bytes(a->tokenizer, token);
    const size_t need = 3 * bytes.size_bytes + 12;
    if (need > a->room_bytes) {
        char *grown = realloc(a->room, need);
        if (!grown) return TD_ENOMEM;
        a->room = grown;
        a->room_bytes = need;
    }
    const size_t n = td_utf8_feed(&a->utf8, bytes.at, bytes.size_bytes, a->room);
    add_text(a, TD_JOB_TEXT, TD_CHANNEL_FINAL, a->room, n);
    return TD_OK;
}

static bool remember_origin(struct td_answer *a, const struct td_job_token *token)
{
    if (a->n_origins == a->origins_cap) {
        const uint32_t cap = a->origins_cap ? 2 * a->origins_cap : 8;
        struct origin *grown = realloc(a->origins, cap * sizeof(*grown));
        if (!grown) return false;
        a->origins = grown;
        a->origins_cap = cap;
    }
    a->origins[a->n_origins++] = (struct origin){.token = *token};
    return true;
}

// Tokens at the end that gave no text were part of a header.
static void forget_silent(struct td_answer *a)
{
    while (a->n_origins > 0 && a->origins[a->n_origins - 1].n_bytes == 0) a->n_origins--;
}

// ---- behind a call ----------------------------------------------------------------------------

// Adds a token to those that may be the header of a further call. False: there is none. A model
// that was told to end here writes anything: the same call once more, an answer to its own call.
static bool look_ahead(struct td_answer *a, int32_t token, bool *is_whole)
{
    const struct td_str bytes = td_token_bytes(a->tokenizer, token);
    // Special tokens are spelled as in call_headers; a text that spells one is none.
    const bool is_special = td_token_is_special(a->tokenizer, token);
    if (!is_special && bytes.size_bytes > 0 && memchr(bytes.at, '<', bytes.size_bytes))
        return false;
    if (a->n_ahead == MAX_AHEAD) return false;
    a->ahead[a->n_ahead++] = token;
    for (size_t i = 0; i < bytes.size_bytes && a->n_ahead_bytes < sizeof(a->ahead_bytes); i++)
        a->ahead_bytes[a->n_ahead_bytes++] = bytes.at[i];
    for (size_t i = 0; i < N_CALL_HEADERS; i++) {
        const size_t n_header = strlen(call_headers[i]);
        const size_t n = a->n_ahead_bytes < n_header ? a->n_ahead_bytes : n_header;
        if (memcmp(call_headers[i], a->ahead_bytes, n) != 0) continue;
        *is_whole = n == n_header;
        return true;
    }
    return false;
}

// Behind a call: goes on when a further one follows.
static int feed_ahead(struct td_answer *a, int32_t token, struct td_error *err)
{
    bool is_whole = false;
    int code = TD_OK;
    if (!look_ahead(a, token, &is_whole)) {
        a->is_done = true;
        return TD_OK;
    }
    if (!is_whole) return TD_OK;
    a->is_ahead = false;
    for (uint32_t i = 0; i < a->n_ahead && code == TD_OK; i++)
        code = td_harmony_feed(a->parser, a->ahead[i], on_chat_event, a, err);
    return code;
}

static int feed_chat(struct td_answer *a, int32_t token, struct td_error *err)
{
    if (a->is_ahead) return feed_ahead(a, token, err);
    const int code = td_harmony_feed(a->parser, token, on_chat_event, a, err);
    const bool goes_on = a->job->spec.calls == TD_JOB_CALLS_MORE && token == a->call_token &&
                         a->has_called && !a->is_stopped;
    if (!goes_on) return code;
    a->is_done = false;
    a->is_ahead = true;
    a->n_ahead = 0;
    a->n_ahead_bytes = 0;
    return code;
}

bool td_answer_is_whole(const struct td_answer *a)
{
    return a->is_ahead;
}

int td_answer_begin(struct td_answer *a, int32_t token, struct td_error *err)
{
    a->err = err;
    a->code = TD_OK;
    const int code = a->parser ? td_harmony_feed(a->parser, token, on_chat_event, a, err) : TD_OK;
    return code != TD_OK ? code : a->code;
}

int td_answer_feed(struct td_answer *a, int32_t token, const struct td_job_token *logprobs,
                   bool *is_over_out, enum td_job_end *end_out, struct td_error *err)
{
    const bool is_special = td_token_is_special(a->tokenizer, token);
    a->err = err;
    a->code = TD_OK;
    a->is_done = false;
    a->was_reasoning = a->is_analysis && !is_special;
    if (logprobs && !is_special && !a->is_ahead && !remember_origin(a, logprobs)) no_memory(a);
    int code = a->parser ? feed_chat(a, token, err) : feed_plain(a, token);
    if (code == TD_OK) code = a->code;
    if (code != TD_OK) return td_fail(err, code, "no memory for the text of the answer");
    if (is_special) forget_silent(a);
    if (is_special) a->is_analysis = false;
    a->n_reasoning += a->was_reasoning;
    *is_over_out = a->is_stopped || (a->is_done && !a->job->spec.ignore_end);
    if (*is_over_out && !a->is_stopped) give_all(a);
    *end_out = a->has_called && !a->is_stopped ? TD_JOB_TOOLS : TD_JOB_STOPPED;
    return a->code;
}

int td_answer_finish(struct td_answer *a, bool *stopped_out, struct td_error *err)
{
    a->err = err;
    a->code = TD_OK;
    *stopped_out = a->is_stopped;
    if (a->is_stopped) return TD_OK;
    int code = TD_OK;
    if (a->parser) {
        code = td_harmony_finish(a->parser, on_chat_event, a, err);
    } else {
        char text[16];
        add_text(a, TD_JOB_TEXT, TD_CHANNEL_FINAL, text, td_utf8_finish(&a->utf8, text));
    }
    if (!a->is_stopped) give_all(a);
    *stopped_out = a->is_stopped;
    return code != TD_OK ? code : a->code;
}
