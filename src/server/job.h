// SPDX-License-Identifier: MIT
// One answer that somebody wants: what goes in (tokens, sampling, where to stop) and what comes
// out, event by event. The scheduler (server/sched.h) works on it, the API (server/api.h) reads it.
// It knows neither JSON nor sockets.
//
// Threads: events are added by the scheduler's thread and taken by one reader at a time, on any
// thread; cancel and stats may come from any thread.
#ifndef TD_SERVER_JOB_H
#define TD_SERVER_JOB_H

#include "base/status.h"
#include "engine/engine.h"
#include "relay/remote.h"
#include "text/harmony.h"

#include <stdbool.h>
#include <stdint.h>

#define TD_JOB_MAX_STOPS 16
#define TD_JOB_MAX_TOP   20 // logprobs of the likeliest tokens, per position

struct td_job;

// How many tool calls an answer may have.
enum td_job_calls {
    // Those that are written before the token that ends both a call and the answer.
    TD_JOB_CALLS_AS_WRITTEN,
    TD_JOB_CALLS_ONE,  // it ends with the first
    TD_JOB_CALLS_MORE, // that token ends it only where no further call follows
};

struct td_job_spec {
    const int32_t *tokens; // (n_tokens) the prompt
    uint32_t n_tokens;
    const uint32_t *marks; // (n_marks) ascending: ends of messages, where another turn may diverge
    uint32_t n_marks;
    struct td_sampling sampling;
    uint32_t max_tokens; // 0: as many as the context holds
    // The text (of the final channel, or the whole when it is no chat) ends before the first of
    // these.
    const char *const *stops; // (n_stops)
    uint32_t n_stops;
    bool is_chat; // what is written is harmony: channels and tool calls; else plain text
    // With is_chat: how many of the prompt's last tokens are the answer's beginning, chosen by the
    // caller (a call of a certain function, the final channel at once). What reads the answer is
    // fed with them before the first token; their events are given out as if they were written.
    uint32_t n_begun;
    enum td_job_calls calls; // with is_chat
    bool ignore_end;         // goes on after the token that ends an answer
    bool wants_logprobs;
    uint32_t n_top;  // 0 .. TD_JOB_MAX_TOP, with wants_logprobs
    uint64_t client; // whose it is: clients take turns in the queue
};

// Copies everything. Fails: TD_EARG (no tokens, too many stops), TD_ENOMEM.
int td_job_open(struct td_job **out, const struct td_job_spec *spec,
                struct td_error *err) TD_MUST_CHECK;
// The reader is through with it, finished or not: unfinished work stops within one step. NULL is
// fine.
void td_job_close(struct td_job *job);
// Work stops within one step; an END (TD_JOB_CANCELLED) follows. Any thread.
void td_job_cancel(struct td_job *job);
// fn(ctx) is called, on the scheduler's thread and with no lock held, when there is something new
// to take; never again once this returned with NULL. Must be quick and call nothing here.
void td_job_notify(struct td_job *job, void (*fn)(void *ctx), void *ctx);

enum td_job_event_kind {
    TD_JOB_PROGRESS,   // n_done of n_prompt tokens are read; only the newest is kept
    TD_JOB_TEXT,       // text of a channel (no chat: always final)
    TD_JOB_TOOL_BEGIN, // text: the function's name
    TD_JOB_TOOL_ARGS,  // text: a piece of the arguments
    TD_JOB_TOOL_END,
    TD_JOB_END,    // the last one: end, stats
    TD_JOB_FAILED, // the last one instead: error, stats
};

enum td_job_end {
    TD_JOB_STOPPED, // the answer's end, or a stop text
    TD_JOB_LENGTH,  // max_tokens, or the context is full
    TD_JOB_TOOLS,   // it ended with tool calls
    TD_JOB_CANCELLED,
};

struct td_job_top {
    int32_t token;
    float logprob; // natural logarithm, of the distribution before temperature
};
struct td_job_token {
    struct td_job_top chosen;
    struct td_job_top top[TD_JOB_MAX_TOP]; // descending
    uint32_t n_top;
};

// Seconds; counts of tokens.
struct td_job_stats {
    uint32_t n_prompt, n_reused;     // of the prompt: taken from KV that was there
    uint32_t n_written, n_reasoning; // of the answer, and of these in the analysis channel
    double queue_seconds, prompt_seconds, decode_seconds, ttft_seconds;
    struct td_remote_stats prefill; // zeroed without peers
};

struct td_job_event {
    enum td_job_event_kind kind;
    enum td_channel channel;
    const char *text; // valid until the next td_job_next; whole UTF-8 characters, NUL follows
    size_t text_bytes;
    const struct td_job_token *tokens; // (n_tokens) whose text this is, if logprobs are wanted
    uint32_t n_tokens;
    uint32_t n_done, n_prompt;
    bool is_remote; // PROGRESS: the prompt is being read by a peer
    enum td_job_end end;
    struct td_job_stats stats;
    struct td_error error;
};
// Takes the next event; false when there is none yet, or after the last.
bool td_job_next(struct td_job *job, struct td_job_event *out);

#endif
