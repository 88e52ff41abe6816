// SPDX-License-Identifier: MIT
// What the files of the API share: a growing text with a JSON writer on it, a reader of JSON fields
// that can say where it is, the request all dialects are read into, the answer all are written
// from.
#ifndef TD_SERVER_API_IMPL_H
#define TD_SERVER_API_IMPL_H

#include "server/api.h"

#include <jansson.h>
#include <time.h>

#define TD_API_MAX_CHOICES 128 // answers of one request
#define TD_API_MAX_CALLS   128 // tool calls that wait for their results at one place

// ---- api_out.c: text and JSON ----

// A failed allocation is remembered; who uses it asks once at the end.
struct td_buf {
    char *at;
    size_t n;
    size_t cap;
    bool no_memory;
};
void td_buf_free(struct td_buf *b);
void td_buf_put(struct td_buf *b, const char *bytes, size_t n); // a NUL follows, not counted
void td_buf_puts(struct td_buf *b, const char *text);

// JSON values, one after the other; commas come by themselves. key is NULL in an array. Text may be
// any bytes: what is not UTF-8 becomes U+FFFD. A number that is not finite becomes null.
void td_put_open(struct td_buf *b, const char *key, char bracket);
void td_put_close(struct td_buf *b, char bracket);
void td_put_text(struct td_buf *b, const char *key, const char *text, size_t n);
void td_put_str(struct td_buf *b, const char *key, const char *text); // NULL: null
void td_put_u64(struct td_buf *b, const char *key, uint64_t v);
void td_put_f64(struct td_buf *b, const char *key, double v);
void td_put_bool(struct td_buf *b, const char *key, bool v);
void td_put_null(struct td_buf *b, const char *key);
void td_put_json(struct td_buf *b, const char *key, const json_t *value); // NULL: null

// ---- api_json.c: fields of a request ----

// What is wrong with a request: the first thing found. status 0: nothing.
struct td_fault {
    unsigned status;
    const char *code; // "context_length_exceeded", or NULL
    char param[128];  // "messages[2].content"; "" when it is no field
    char message[400];
    uint32_t retry_after_s;
};

// Where a value stands: messages -> [2] -> content.
struct td_where {
    const struct td_where *up; // NULL: at the top
    const char *key;           // NULL: element i
    size_t i;
};

struct td_reader {
    struct td_fault fault;
    void **owned; // (n_owned) memory that lives as long as the request
    size_t n_owned, cap_owned;
};
void td_reader_free(struct td_reader *r);
// Takes p over (to be freed with the reader); NULL when p is or there is no memory, which becomes
// the fault.
void *td_reader_keep(struct td_reader *r, void *p);
// NULL-terminated copy of n bytes.
char *td_reader_copy(struct td_reader *r, const char *text, size_t n);

// Sets the fault unless there is one. at may be NULL, key too.
void td_fault_set(struct td_reader *r, unsigned status, const char *code, const struct td_where *at,
                  const char *key, const char *fmt, ...) TD_PRINTF(6, 7);
// 400 "<where>: <what> is expected, not <kind of value>".
void td_fault_type(struct td_reader *r, const struct td_where *at, const char *key,
                   const char *expected, const json_t *value);
static inline bool td_is_fine(const struct td_reader *r)
{
    return r->fault.status == 0;
}

// The document; the caller's to free. NULL: fault.
json_t *td_read_document(struct td_reader *r, const char *body, size_t n);
// A member that is there and not null, else NULL.
json_t *td_read_get(const json_t *object, const char *key);
// The same, of a kind; NULL also when it is of another, which is a fault.
json_t *td_read_array(struct td_reader *r, const json_t *object, const struct td_where *at,
                      const char *key);
json_t *td_read_object(struct td_reader *r, const json_t *object, const struct td_where *at,
                       const char *key);
// True when it is there, of the right type and in range; else *out is untouched. Text without NUL.
bool td_read_bool(struct td_reader *r, const json_t *object, const struct td_where *at,
                  const char *key, bool *out);
bool td_read_text(struct td_reader *r, const json_t *object, const struct td_where *at,
                  const char *key, const char **out);
struct td_range {
    double lo, hi;
};
bool td_read_f64(struct td_reader *r, const json_t *object, const struct td_where *at,
                 const char *key, struct td_range range, double *out);
bool td_read_int(struct td_reader *r, const json_t *object, const struct td_where *at,
                 const char *key, struct td_range range, int64_t *out);

// ---- The request, of whatever dialect ----

struct td_dialect;

struct td_api_prompt {
    struct td_ids ids, marks;
    const char *echo; // what stands before the answer, NULL: nothing
    size_t echo_bytes;
    uint32_t n_begun; // as td_job_spec has it
};

enum td_tool_choice { TD_TOOLS_AUTO, TD_TOOLS_NONE, TD_TOOLS_REQUIRED, TD_TOOLS_NAMED };

struct td_ask {
    struct td_reader rd;
    json_t *root; // texts below point into it
    const struct td_dialect *dialect;
    const char *model; // as asked for; NULL: not said

    bool is_stream;
    bool include_usage;   // chat, completions: a chunk of its own
    bool return_progress; // events of the prompt's reading
    bool shows_reasoning;
    uint32_t n; // answers to each prompt

    struct td_sampling sampling;
    bool has_seed;
    uint32_t max_tokens; // 0: not said
    const char *stops[TD_JOB_MAX_STOPS];
    uint32_t n_stops;
    bool wants_logprobs;
    uint32_t n_top;
    bool ignore_end;
    bool is_load; // Ollama: no question, only that the model be there

    // A conversation.
    bool is_chat;
    struct td_message *messages;
    size_t n_messages, cap_messages;
    struct td_tool *tools;
    size_t n_tools;
    enum td_tool_choice tool_choice;
    const char *tool_name; // of TD_TOOLS_NAMED
    enum td_job_calls n_calls_wanted;
    enum td_effort effort;
    bool no_reasoning; // the final channel at once

    // Calls of the last turn that wait for their results, so that each result stands behind its
    // call.
    struct td_ask_call {
        const char *id; // NULL: none
        struct td_message call, result;
        bool has_result;
    } * calls;
    size_t n_calls, cap_calls;
    const char *reasoning; // responses: of the item before, for the next call or message

    // What a next turn begins with; empty: not known.
    struct td_ids next, next_marks;

    // Or prompts. A conversation is rendered into one.
    struct td_api_prompt *prompts;
    uint32_t n_prompts;
};

// ---- api_read.c: what the dialects have in common ----

void td_read_sampling(struct td_ask *a, const json_t *o, const struct td_where *at);
void td_read_stops(struct td_ask *a, const json_t *o, const struct td_where *at);
void td_read_max_tokens(struct td_ask *a, const json_t *o, const struct td_where *at,
                        const char *key);
void td_read_logit_bias(struct td_ask *a, const json_t *o, const struct td_where *at);
void td_read_stream(struct td_ask *a, const json_t *o, bool is_default);
// "none", "minimal", "low" ... of o[key].
void td_read_effort(struct td_ask *a, const json_t *o, const struct td_where *at, const char *key);
// The text of a message: a string, or an array of parts of type text, input_text, output_text.
bool td_read_content(struct td_ask *a, const json_t *value, const struct td_where *at,
                     struct td_str *out);
// Fault when the field is there and not null, empty or false.
void td_read_refuse(struct td_ask *a, const json_t *o, const char *key, const char *why);

// ---- api_talk.c: the conversation ----

void td_talk_add(struct td_ask *a, const struct td_message *m);
void td_talk_call(struct td_ask *a, const struct td_where *at, const char *id,
                  const struct td_message *m);
// Of the call with this id; else, by_name, of the first call of that name (NULL: any) without one.
void td_talk_result(struct td_ask *a, const struct td_where *at, const char *id, const char *name,
                    struct td_str content);
void td_talk_end(struct td_ask *a); // all messages are there
// The list "tools" of functions, each at [inner] of its element (NULL: the element itself), and
// "parallel_tool_calls".
void td_talk_tools(struct td_ask *a, const json_t *o, const char *inner);
// "none", "auto", "required", or an object with the function's name at [inner].name or .name.
void td_talk_choice(struct td_ask *a, const json_t *o, const char *inner);

// ---- api_prompt.c ----

// Texts -> tokens; says when they are too many.
void td_prompt_make(struct td_ask *a, const struct td_api_config *cfg);
void td_prompt_free(struct td_ask *a);
// Keeps the tokens that a next turn begins with in any case, out of prompt 0 (which loses them),
// unless it will have less of this turn than this one.
void td_prompt_keep(struct td_ask *a);
// The answer was this text: a next turn's beginning, for td_sched_read_ahead. False: there is none.
bool td_prompt_next(struct td_ask *a, const struct td_api_config *cfg, const char *text, size_t n);
// Plain text, in which names of special tokens are these tokens.
void td_prompt_text(struct td_ask *a, const struct td_api_config *cfg, struct td_api_prompt *p,
                    const char *text, size_t n);

// ---- The answer ----

struct td_call {
    char id[40];
    char *name;
    struct td_buf args;
    bool is_done;
};

// Responses: a part of the output.
enum td_item_kind {
    TD_ITEM_NONE,
    TD_ITEM_REASONING,
    TD_ITEM_COMMENTARY,
    TD_ITEM_FINAL,
    TD_ITEM_CALL
};
struct td_item {
    enum td_item_kind kind;
    char id[40];
    size_t from, n;              // its text in that of the choice
    size_t from_token, n_tokens; // and its tokens
};

struct td_choice {
    struct td_job *job;
    uint32_t i;
    struct td_buf content, reasoning;
    struct td_call *calls;
    size_t n_calls, cap_calls;
    struct td_job_token *tokens; // (n_tokens) of the content, when logprobs are wanted
    size_t n_tokens, cap_tokens;
    uint32_t text_offset; // completions: characters before the next token
    uint32_t n_cached;    // of the first progress event
    bool has_progress, has_text, was_commentary, has_ended;
    enum td_job_end end;
    struct td_job_stats stats;
    struct td_item item; // responses: what is being written
};

struct td_api_reply {
    struct td_api *api;
    const struct td_api_config *cfg;
    struct td_ask *ask; // NULL: no job
    const struct td_dialect *dialect;
    struct td_choice *choices;
    uint32_t n_choices, n_ended;
    void (*notify)(void *ctx);
    void *notify_ctx;

    unsigned status;
    const char *content_type;
    uint32_t retry_after_s;
    bool is_stream, is_settled, is_done;
    struct td_buf out;   // not read yet
    struct td_buf given; // what td_api_read gave last
    struct td_buf alive; // what td_api_keep_alive gave last
    const char *outcome;

    char id[40];
    uint64_t rng;
    time_t created;
    uint64_t begin_ns;
    // Responses.
    uint32_t sequence;
    struct td_buf items; // those that are complete, JSON
    uint32_t n_items;
};

// How one API writes. Events come after they were added to the choice.
struct td_dialect {
    const char *stream_type;
    bool is_ollama;
    bool joins_commentary; // an empty line between commentary and the final text
    bool wants_events;     // also when the answer is no stream
    bool keeps_request;    // its texts are needed to the end
    const char *id_prefix;
    void (*begin)(struct td_api_reply *r); // of a stream: it is settled
    void (*event)(struct td_api_reply *r, struct td_choice *c, const struct td_job_event *e);
    void (*finish)(struct td_api_reply *r); // of a stream: all choices have ended
    void (*whole)(struct td_api_reply *r);  // the whole answer, into r->out
    void (*fail)(struct td_api_reply *r, const struct td_fault *fault); // in a stream
    void (*keep_alive)(struct td_api_reply *r, struct td_buf *b);
};
extern const struct td_dialect td_dialect_chat, td_dialect_completion, td_dialect_responses,
    td_dialect_ollama_chat, td_dialect_ollama_generate;

// Ollama's answer to a request without a question.
void td_ollama_load(struct td_api_reply *r);

void td_read_chat(struct td_ask *a);
void td_read_completion(struct td_ask *a, const struct td_api_config *cfg);
void td_read_responses(struct td_ask *a);
void td_read_ollama_chat(struct td_ask *a);
void td_read_ollama_generate(struct td_ask *a, const struct td_api_config *cfg);

// api_about.c: routes that answer at once.
void td_about_models(struct td_api_reply *r);
void td_about_model(struct td_api_reply *r, const char *id);
void td_about_tags(struct td_api_reply *r);
void td_about_ps(struct td_api_reply *r);
void td_about_show(struct td_api_reply *r, const json_t *root);
void td_about_version(struct td_api_reply *r);
time_t td_api_started(const struct td_api *api);

// ---- api_reply.c, for the dialects ----

// Puts an error body into r->out and settles it.
void td_reply_fault(struct td_api_reply *r, const struct td_fault *fault, bool is_ollama);
void td_reply_new_id(struct td_api_reply *r, const char *prefix, char out[40]);
const char *td_reply_finish_text(const struct td_choice *c); // "stop", "length", "tool_calls"
void td_put_fault(struct td_buf *b, const struct td_fault *fault, bool is_ollama);
// Members "timings" and "prefill".
void td_put_timings(struct td_buf *b, const struct td_choice *c);
// Counts over all choices; the prompt counts once for each prompt.
struct td_api_usage {
    uint32_t n_prompt, n_reused, n_written, n_reasoning;
};
void td_reply_usage(const struct td_api_reply *r, struct td_api_usage *out);
void td_put_usage(struct td_api_reply *r, struct td_buf *b); // member "usage", null-safe
// Members of a chunk with the progress of the prompt.
void td_put_progress(struct td_api_reply *r, struct td_choice *c, const struct td_job_event *e);
// Chat's and Responses' element for a token.
void td_put_token(struct td_api_reply *r, const struct td_job_token *t, bool has_bytes);

// Of the dialects that stream as server-sent events without names.
void td_sse_fail(struct td_api_reply *r, const struct td_fault *fault);
void td_sse_keep_alive(struct td_api_reply *r, struct td_buf *b);

#endif
