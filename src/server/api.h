// SPDX-License-Identifier: MIT
// The APIs that clients speak (OpenAI's chat, completions, responses, models; what Ollama's clients
// need): a request's JSON -> a job -> JSON, whole or as a stream. Pure of sockets: what HTTP is
// for, server/http.h does.
#ifndef TD_SERVER_API_H
#define TD_SERVER_API_H

#include "server/sched.h"
#include "text/tokenizer.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct td_api_config {
    struct td_sched *sched;
    const struct td_tokenizer *tokenizer;
    const struct td_model *model; // what /api/show and /v1/models tell
    const char *model_name;       // "tandem-mini": what /v1/models lists; any name is answered
    uint32_t n_ctx;
    uint32_t max_answer; // tokens, when a request says nothing; 0: as the context holds
    const char *version;
};

struct td_api;
int td_api_open(struct td_api **out, const struct td_api_config *cfg,
                struct td_error *err) TD_MUST_CHECK;
void td_api_close(struct td_api *api);

// Whether it answers this path, and by which methods: sets *methods_out to a text for the Allow
// header ("POST"), NULL when there is no such path.
bool td_api_has(const char *method, const char *path, const char **methods_out);

struct td_api_request {
    const char *method, *path;
    const char *body;
    size_t body_bytes;
    uint64_t client; // for the fair queue
    // Called when td_api_read has something new, from another thread, quickly; see td_job_notify.
    void (*notify)(void *ctx);
    void *ctx;
};

struct td_api_reply;
// Begins an answer: reads the JSON, renders, tokenizes, hands a job to the scheduler. What is wrong
// with the request becomes the reply. May take some 100 ms (long prompts): not on a thread that
// serves others. Any thread. NULL: no memory.
struct td_api_reply *td_api_begin(struct td_api *api, const struct td_api_request *req);
// The client has gone or all is read: unfinished work stops within one step. NULL is fine.
void td_api_end(struct td_api_reply *r);

// Whether status and headers are settled. A stream settles at its first event, so that a request
// which cannot be done still gets its own status.
bool td_api_is_settled(struct td_api_reply *r);
struct td_api_head {
    unsigned status;          // 200, 400, 404, 500, 503 ...
    const char *content_type; // "application/json", "text/event-stream", "application/x-ndjson"
    bool is_stream;           // no length is known; pieces come as they are made
    uint64_t length_bytes;    // of a whole answer
    uint32_t retry_after_s;   // 0: no such header
};
void td_api_head(struct td_api_reply *r, struct td_api_head *out);

enum td_api_state { TD_API_WAIT, TD_API_PIECE, TD_API_DONE };
// The next piece of the body, valid until the next call.
enum td_api_state td_api_read(struct td_api_reply *r, const char **bytes_out, size_t *n_bytes_out);
// What a stream says when nothing else has been said for a while (an SSE comment, a progress event,
// an empty NDJSON progress line); size 0 where the format has nothing for it.
void td_api_keep_alive(struct td_api_reply *r, const char **bytes_out, size_t *n_bytes_out);

// For the log line: known once the reply is done or ended.
struct td_api_account {
    const char *model;
    uint32_t n_prompt, n_reused, n_written;
    double ttft_seconds, prompt_seconds, decode_seconds;
    const char *outcome; // "stop", "length", "tool_calls", "cancelled", "error"
    const char *path;    // "local", "remote" ...
};
void td_api_account(struct td_api_reply *r, struct td_api_account *out);

// An error in OpenAI's shape, as a whole body, into buf:
// {"error":{"message","type","param","code"}} with type by status. Returns its size (cut to fit,
// still valid JSON).
size_t td_api_error_json(char *buf, size_t buf_bytes, unsigned status, const char *message);

#endif
