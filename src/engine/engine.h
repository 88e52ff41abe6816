// SPDX-License-Identifier: MIT
// Timelines of tokens over a device. A session is one timeline: `sync` gives it the full token
// list and computes only what is new; `next` writes one token. The primitive below both is
// td_engine_step: one batch over every session that wants rows. It does not know text.
//
// Threads: an engine and its sessions belong to one thread; only td_session_cancel may be called
// from others.
#ifndef TD_ENGINE_ENGINE_H
#define TD_ENGINE_ENGINE_H

#include "backend/backend.h"
#include "base/status.h"
#include "model/model.h"
#include "plan/split.h"

#include <stdbool.h>
#include <stdint.h>

struct td_engine;
struct td_session;

struct td_engine_config {
    struct td_device_config device; // max_rows is the chunk of a prefill
    // Window layers' pages in snapshots of one session at most; 0: 64 MiB. A snapshot at which a
    // timeline has diverged also holds one page of each full layer.
    uint64_t max_snapshot_bytes;
};

int td_engine_open(struct td_engine **out, const struct td_model *model,
                   const struct td_backend *backend, const struct td_engine_config *cfg,
                   struct td_error *err) TD_MUST_CHECK;
void td_engine_close(struct td_engine *engine); // after its sessions

const struct td_model *td_engine_model(const struct td_engine *engine);
const struct td_backend *td_engine_backend(const struct td_engine *engine);
const struct td_device_config *td_engine_device_config(const struct td_engine *engine);
void td_engine_report(const struct td_engine *engine, struct td_device_report *out);
// Times of the device's steps: time_steps and step_times of struct td_backend.
int td_engine_time_steps(struct td_engine *engine, bool on, struct td_error *err) TD_MUST_CHECK;
uint32_t td_engine_step_times(const struct td_engine *engine, struct td_step_time *out);

// A timeline of at most n_ctx tokens.
int td_session_open(struct td_session **out, struct td_engine *engine, uint32_t n_ctx,
                    struct td_error *err) TD_MUST_CHECK;
void td_session_close(struct td_session *s);

enum td_session_state {
    TD_SESSION_IDLE,       // nothing wanted
    TD_SESSION_PREFILLING, // has tokens that are not in the KV yet
    TD_SESSION_READY,      // logits of the last token are there
};
enum td_session_state td_session_state(const struct td_session *s);
uint32_t td_session_len(const struct td_session *s);      // tokens of the timeline
uint32_t td_session_computed(const struct td_session *s); // of these, in the KV
// Of the last want: tokens that are not computed again.
uint32_t td_session_reused(const struct td_session *s);
uint64_t td_session_snapshot_bytes(const struct td_session *s);

// The timeline shall be tokens[0, n): keeps the longest usable prefix (current KV or a snapshot;
// with td_engine_cache also those of other conversations) and leaves the rest to td_engine_step.
// The last token is always computed, so that its logits appear. marks: ascending token counts in
// [1, n] after which a snapshot should be kept (message boundaries); n itself always gets one.
// Fails: TD_EARG (n == 0, token out of range), TD_EFULL (n > n_ctx).
int td_session_want(struct td_session *s, const int32_t *tokens, uint32_t n, const uint32_t *marks,
                    uint32_t n_marks, struct td_error *err) TD_MUST_CHECK;

// Says which tokens the KV holds after somebody else wrote and committed it (td_session_kv): its
// length is the number of tokens taken; the session becomes IDLE and a want goes on from there.
// Snapshots of the prefix that was there before stay.
// Fails: TD_EARG when the KV holds more than n tokens.
int td_session_adopt(struct td_session *s, const int32_t *tokens, uint32_t n,
                     struct td_error *err) TD_MUST_CHECK;

// Sets memory aside so that somebody else can write the KV up to n tokens from another thread while
// this session waits and others run; snapshots give way. Until the session's next want or step.
// Fails: TD_ENOMEM, TD_EFULL.
int td_session_reserve(struct td_session *s, uint32_t n, struct td_error *err) TD_MUST_CHECK;

// Appends one token (a sampled one) to a READY session.
int td_session_append(struct td_session *s, int32_t token, struct td_error *err) TD_MUST_CHECK;

// One batch over all sessions that want rows: single rows of decoding sessions first, then chunks
// of prefilling ones. *n_rows_out (may be NULL) is 0 when nobody wants anything. On TD_ECANCEL the
// cancelled sessions are IDLE at the last chunk they finished; others go on at the next step.
// TD_ENOMEM: not even one session has room in the KV cache, all snapshots gone; nothing has
// changed.
int td_engine_step(struct td_engine *engine, uint32_t *n_rows_out,
                   struct td_error *err) TD_MUST_CHECK;

// Rows of prompts in one step at most, so that answers which run beside them do not wait for long;
// single rows come on top. 0, as opened: what the device takes. Changes no result.
void td_engine_limit_rows(struct td_engine *engine, uint32_t n_rows);

// Logits (n_vocab) of the last token of a READY session; valid until its next step.
const float *td_session_logits(const struct td_session *s);

// want + steps until READY. progress (may be NULL) is called after each step with the prompt tokens
// done so far; when it returns false, also after the last step, the result is TD_ECANCEL. After any
// failure of a step the session is IDLE at the last chunk it finished; other sessions are not
// touched.
int td_session_sync(struct td_session *s, const int32_t *tokens, uint32_t n, const uint32_t *marks,
                    uint32_t n_marks, td_progress_fn *progress, void *ctx,
                    struct td_error *err) TD_MUST_CHECK;

// All rows' logits, for evaluation: like sync, and calls `rows` with each run's rows in order:
// logits (n, n_vocab) of tokens [i0, i0 + n). Returns when all are done or one call failed, with
// its code; the session is then IDLE.
typedef int td_rows_fn(void *ctx, uint32_t i0, uint32_t n, const float *logits,
                       struct td_error *err);
int td_session_eval(struct td_session *s, const int32_t *tokens, uint32_t n, td_rows_fn *rows,
                    void *ctx, struct td_error *err) TD_MUST_CHECK;

// Any thread: the session's work ends within one layer, the step returns TD_ECANCEL.
void td_session_cancel(struct td_session *s);

struct td_logit_bias {
    int32_t token;
    float bias; // added to its logit
};
#define TD_MAX_LOGIT_BIAS 1024

// How the next token is chosen. Order: bias; repeat penalty; frequency and presence penalties;
// temperature; top-k; top-p; min-p; draw. Zero is "none" for all that follows seed.
struct td_sampling {
    float temp;     // 0: the most likely token (the lowest id among equals)
    uint32_t top_k; // 0: all
    float top_p;    // 1: all
    float min_p;    // 0: all; relative to the most likely
    uint64_t seed;
    // Tokens among the last repeat_last_n of prompt and answer: a positive logit is divided by
    // repeat_penalty, another multiplied. 0 or 1: none.
    float repeat_penalty;
    uint32_t repeat_last_n; // 0: 64
    // Tokens of the answer so far: their logits lose presence_penalty once, and frequency_penalty
    // for each time. -2 to 2.
    float presence_penalty, frequency_penalty;
    const struct td_logit_bias *bias; // (n_bias), copied; of several for one token the sum counts
    uint32_t n_bias;
};
struct td_sampler;
// Fails: TD_EARG for what lies out of range (also a bias beyond the vocabulary), TD_ENOMEM.
int td_sampler_open(struct td_sampler **out, const struct td_sampling *cfg, uint32_t n_vocab,
                    struct td_error *err) TD_MUST_CHECK;
void td_sampler_close(struct td_sampler *sampler);
uint32_t td_sampler_n_vocab(const struct td_sampler *sampler); // as opened
// Another answer begins: forgets what was written; the end of the prompt counts for the repeat
// penalty. Without it, an answer after nothing.
void td_sampler_begin(struct td_sampler *sampler, const int32_t *prompt, uint32_t n_prompt);
// Chooses from logits (n_vocab). No allocation.
int32_t td_sampler_draw(struct td_sampler *sampler, const float *logits);
// A token was written: penalties count it. td_session_next does this for what it draws. No
// allocation. Tokens out of the vocabulary are ignored.
void td_sampler_accept(struct td_sampler *sampler, int32_t token);

// How likely tokens are: natural logarithms of the model's own distribution, before bias,
// penalties and temperature.
struct td_logprob {
    int32_t token;
    float logprob; // -INFINITY for what cannot be
};
#define TD_MAX_LOGPROBS 20
// Of `token` (*chosen_out, may be NULL) and of the n_top <= TD_MAX_LOGPROBS likeliest, descending,
// the lowest id first among equals; returns how many there are (NaN logits count as impossible). No
// allocation. Pure.
uint32_t td_logprobs(const float *logits, uint32_t n_vocab, int32_t token, float *chosen_out,
                     struct td_logprob *top_out, uint32_t n_top);

// One token of the answer: computes the pending token if there is one, samples, appends it as
// pending. The token is part of the timeline at once; its KV is computed by the following call.
// Fails: TD_EFULL when the context is used up, TD_ECANCEL, TD_EARG for a sampler of another
// vocabulary.
int td_session_next(struct td_session *s, struct td_sampler *sampler, int32_t *token_out,
                    struct td_error *err) TD_MUST_CHECK;

// ---- KV of conversations that are over --------------------------------------------------------
//
// With a cache, a timeline that a session leaves (for another, or by retiring) is kept,
// with its snapshots, and every want looks for the longest usable prefix among the session's own
// KV, what is kept, and the other sessions. Pages are shared, not copied. What was used longest ago
// goes first: beyond max_bytes, and whenever a step or a reserve finds the pool full, before
// snapshots of sessions. Not kept is the end of a timeline that is only the answer to a prompt
// when the session goes on from that prompt: a next turn drops or repeats it.

// Bytes that only kept conversations hold. 0, as opened: nothing is kept, sessions take nothing
// from one another. UINT64_MAX: as long as the pool has room.
void td_engine_cache(struct td_engine *engine, uint64_t max_bytes);
struct td_cache_stats {
    uint64_t bytes;        // now, of pages that only kept conversations hold
    uint32_t n_kept;       // now
    uint64_t n_hits;       // wants that took something from the cache or from another session
    uint64_t n_hit_tokens; // of these: tokens taken
    uint64_t n_evicted;    // kept conversations given up for room
};
void td_engine_cache_stats(struct td_engine *engine, struct td_cache_stats *out);
// Of tokens[0, n), how many a want of any session would not compute again, the last one apart.
uint32_t td_engine_prefix(struct td_engine *engine, const int32_t *tokens, uint32_t n);
// Bytes of KV that a session of n tokens takes at most while it runs, snapshots apart.
uint64_t td_engine_kv_need(const struct td_engine *engine, uint32_t n);
// Until it is retired the session neither takes from other conversations nor gives to them, and
// then it is not kept: a canary, KV that is not quite this model's.
void td_session_isolate(struct td_session *s);
// The conversation rests: what is computed goes to the cache and the session is empty and IDLE.
// With this after each answer it does not matter which session takes the next turn. Without a
// cache the session keeps what it has.
void td_session_retire(struct td_session *s);

// A timeline and where it can be taken up, for whoever stores it. Valid until the next call that
// changes a session or steps. Places are ascending; `kv` of each holds its position.
#define TD_MAX_PLACES 257
struct td_place {
    struct td_kv *kv;
    uint32_t pos;
    bool is_mark; // a message boundary or the end of a prompt
};
struct td_timeline {
    const int32_t *tokens; // (n) computed
    uint32_t n;
    uint32_t n_prompt; // of these, what the last want asked for; the rest is an answer
    struct td_place places[TD_MAX_PLACES];
    uint32_t n_places;
};
void td_session_timeline(const struct td_session *s, struct td_timeline *out);
// The i-th kept conversation, the one used last first; false beyond the last.
bool td_engine_kept(const struct td_engine *engine, uint32_t i, struct td_timeline *out);
// Keeps the present length of an IDLE session as a place to return to (for who adopts a timeline
// piece by piece).
void td_session_mark(struct td_session *s);

// The KV of the session, for whoever moves it (relay, disk). NULL never.
struct td_kv *td_session_kv(struct td_session *s);
// layer_done goes to this watcher (one per engine; NULL ctx and function to clear).
void td_engine_watch(struct td_engine *engine, void *ctx,
                     void (*layer_done)(void *ctx, const struct td_kv_span *span));

// Slows the engine down to a pace, layer by layer, for experiments without two kinds of machine: a
// run takes no less time than its rows need at this speed. Rows of a prompt go by `prefill`, single
// rows by `decode`; a rate without points is not held. NULL: as fast as it can. A cancel is still
// noticed within 10 ms.
struct td_pace {
    struct td_split_rate prefill, decode;
};
void td_engine_pace(struct td_engine *engine, const struct td_pace *pace);

#endif
