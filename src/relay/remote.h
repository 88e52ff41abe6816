// SPDX-License-Identifier: MIT
// Where a prompt is read: here or at one of several prefill peers. Asks plan/split.h with measured
// speeds, fetches, falls back, and says what was done and why. What `--prefill` means.
#ifndef TD_RELAY_REMOTE_H
#define TD_RELAY_REMOTE_H

#include "relay/far.h"

#define TD_REMOTE_MAX_PEERS 8

enum td_remote_policy { TD_REMOTE_AUTO, TD_REMOTE_REQUIRE, TD_REMOTE_NEVER };

struct td_remote_config {
    struct td_far_config far; // `where` is not used
    const char *peers;        // "HOST:PORT[,HOST:PORT...]"
    enum td_remote_policy policy;
};

struct td_remote;
// Connects to no one yet. Fails: TD_EARG for a list that is none; TD_ENOMEM.
int td_remote_open(struct td_remote **out, const struct td_remote_config *cfg,
                   struct td_error *err) TD_MUST_CHECK;
void td_remote_close(struct td_remote *r); // NULL is fine

enum td_remote_path {
    TD_REMOTE_LOCAL,    // all was computed here
    TD_REMOTE_REMOTE,   // all but the last token came from the peer
    TD_REMOTE_RESUMED,  // the same, over more than one connection
    TD_REMOTE_SALVAGED, // a part came, the rest was computed here
};
const char *td_remote_path_text(enum td_remote_path path); // "local"

// What became of one prompt. Seconds; 0 where it does not apply.
struct td_remote_stats {
    enum td_remote_path path;
    char reason[240];         // why this path: of the policy, or of what went wrong
    char peer[64];            // "" when none was asked
    bool weights_differ;      // KV that it uses, of this prompt or of one before, is of others
    enum td_type kv_type;     // on the wire; TD_F32 when nothing came
    bool all_there_is_faster; // the whole request would be done sooner on the peer
    uint32_t n_tokens;        // of the prompt
    uint32_t n_have;          // were here before
    uint32_t n_remote;        // came from the peer
    uint32_t n_local;         // computed here
    uint64_t bytes;
    uint32_t n_resumed;
    double seconds; // until the first token's logits
    double far_seconds, transfer_seconds, exposed_seconds, stall_seconds;
    double overlap;           // 1 - exposed / transfer, in [0, 1]
    double predicted_seconds; // of the path that was chosen; 0: not known
};

// While a prompt is fetched: for a progress line. Return false to cancel.
typedef bool td_remote_progress_fn(void *ctx, const struct td_fetch_report *report);

struct td_remote_ask {
    const int32_t *tokens;
    uint32_t n;
    const uint32_t *marks; // as td_session_want takes them
    uint32_t n_marks;
    uint32_t n_answer;        // tokens expected; 0: 256
    double wait_here_seconds; // before it could be begun here: others are served first
    td_progress_fn *progress; // td_remote_sync: of what is computed here; may be NULL
    td_remote_progress_fn *remote_progress; // may be NULL
    void *progress_ctx;                     // of both
};

// td_session_sync, by way of a peer where that pays: afterwards the session is READY. Under
// TD_REMOTE_REQUIRE a prompt that cannot be fetched whole fails and nothing is computed here but
// the last token; under TD_REMOTE_AUTO every trouble ends in a prefill here of what is missing. A
// prompt of which all but the last token is here asks no one. A loop over what follows.
// Fails: as td_session_sync does; TD_ECANCEL; under TD_REMOTE_REQUIRE also as td_fetch_begin does.
int td_remote_sync(struct td_remote *r, struct td_session *s, const struct td_remote_ask *ask,
                   struct td_remote_stats *stats, struct td_error *err) TD_MUST_CHECK;

// ---- the same without waiting, of several prompts at once ---------------------------------------

// For whoever goes on with other sessions of the engine meanwhile:
//
//     td_remote_begin(&try, r, session, &ask, &err);
//     between two engine steps, and when there is nothing to step about every 20 ms:
//         td_remote_tend(r);
//         td_remote_poll(try, 0, &err);      // RUNNING: leave the session alone, step others
//     READY, HERE: the session is PREFILLING; engine steps until its state is READY
//     td_remote_end(try, &stats);
//
// Threads: the engine's, for all of it. Nothing waits longer than a wait_ms that is asked for:
// names are resolved, connections made and greeted by other threads.

// Connects to peers that are not up, now and again; checks them: the canary's rows are computed by
// the steps of the engine. Returns whether such rows wait for a step. Not needed while a try is
// polled that waits for peers (TD_REMOTE_REQUIRE).
bool td_remote_tend(struct td_remote *r);

struct td_remote_try;

enum td_remote_state {
    TD_REMOTE_RUNNING, // being fetched, or peers are waited for: the session is not to be used
    TD_REMOTE_READY,   // all but the last token is in the session, which is PREFILLING
    TD_REMOTE_HERE,    // no peer reads it, or only a part: PREFILLING, the rest is to be computed
    TD_REMOTE_FAILED,  // the session is IDLE with what is whole
};

// The session must not be used until the poll says other than RUNNING, and stays open until the
// end. What ask points to is kept by the caller until the end. A peer that is not up yet is not
// waited for under TD_REMOTE_AUTO. Fails: as td_session_want does; TD_ENOMEM.
int td_remote_begin(struct td_remote_try **out, struct td_remote *r, struct td_session *s,
                    const struct td_remote_ask *ask, struct td_error *err) TD_MUST_CHECK;

// Goes on; waits at most wait_ms while it is RUNNING. With FAILED, err says why: TD_ECANCEL, as
// td_session_want and, under TD_REMOTE_REQUIRE, as td_fetch_begin do.
enum td_remote_state td_remote_poll(struct td_remote_try *t, uint32_t wait_ms,
                                    struct td_error *err);

// How far it is, for a progress line; zeroes but for n_tokens and n_have while no peer reads.
void td_remote_report(struct td_remote_try *t, struct td_fetch_report *out);

// A RUNNING try is FAILED (TD_ECANCEL) at the next poll, and the peer told to stop.
void td_remote_cancel(struct td_remote_try *t);

// At any time: a RUNNING one is cancelled, the session is then IDLE. stats (may be NULL): what
// became of it; complete when the session is READY.
void td_remote_end(struct td_remote_try *t, struct td_remote_stats *stats);

// What this machine's reading of a prompt showed of its speed: n_tokens, beginning at depth, took
// seconds of engine steps. td_remote_sync does it itself.
void td_remote_saw_prefill(struct td_remote *r, uint32_t depth, uint32_t n_tokens, double seconds);

// -------------------------------------------------------------------------------------------------

// Peer i (0 ..), connecting if need be, for a look at it. Fails as td_far_open does; TD_EARG beyond
// the last.
int td_remote_peer(struct td_remote *r, uint32_t i, struct td_far **out,
                   struct td_error *err) TD_MUST_CHECK;

// Whether peer i can be asked at once.
bool td_remote_is_up(struct td_remote *r, uint32_t i);

// What plan/split.h is asked about a prompt of n tokens, nothing of it cached, and peer i. Fails as
// td_remote_peer does.
int td_remote_question(struct td_remote *r, uint32_t i, uint32_t n, struct td_split_ask *out,
                       struct td_error *err) TD_MUST_CHECK;

// Speeds of this machine: what is known, and what each prompt and answer adds to it.
void td_remote_saw_decode(struct td_remote *r, uint32_t depth, uint32_t n_tokens, double seconds);
void td_remote_rates(const struct td_remote *r, struct td_split_rate *prefill_out,
                     struct td_split_rate *decode_out);

#endif
