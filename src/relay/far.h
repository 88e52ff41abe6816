// SPDX-License-Identifier: MIT
// A prefill peer as the decode side sees it: connects, compares, measures, and fetches the KV of a
// prompt into a session while the peer computes it. docs/WIRE.md says what travels; recv.h what
// becomes of it. It decides nothing: that is relay/remote.h.
//
// Threads: calls come from the engine's thread unless said otherwise; behind them one thread reads
// the control connection and one the data connection.
#ifndef TD_RELAY_FAR_H
#define TD_RELAY_FAR_H

#include "plan/split.h"
#include "relay/peer.h"

struct td_far;

struct td_far_config {
    const char *where;        // HOST:PORT
    const struct td_key *key; // NULL: loopback only
    struct td_link_limits limits;
    struct td_engine *engine;
    const struct td_backend *backend;
    const struct td_peer *peer;           // of this end: role decode, flags as the user wants them
    enum td_type engine_kv_type;          // of the engine's KV
    enum td_type kv_type;                 // on the wire: the engine's own, or TD_Q8_0
    uint32_t checkpoint_tokens;           // 0: 4096
    uint32_t resume_ms;                   // after a break: how long to try to go on there; 0: 3 000
    uint32_t silent_ms;                   // nothing heard for so long: the peer is dead; 0: 10 000
    bool no_canary;                       // (tests)
    struct td_split_rate prefill, decode; // of this end, as far as known: told to the peer
};

// Connects, greets, joins, runs the canary, with steps of the engine. Fails with one sentence:
// nobody there, another key, model, version; the canary's KV or logits are not those of this
// machine (TD_EARG).
int td_far_open(struct td_far **out, const struct td_far_config *cfg,
                struct td_error *err) TD_MUST_CHECK;
void td_far_close(struct td_far *far); // after its fetches. NULL is fine
// Whether both connections stand; after a break the next fetch connects anew.
bool td_far_is_up(struct td_far *far);

// The same without waiting. Fails: TD_ENOMEM.
int td_far_new(struct td_far **out, const struct td_far_config *cfg,
               struct td_error *err) TD_MUST_CHECK;
// Begins to connect, in a thread of its own, unless it is up or does so already.
void td_far_dial(struct td_far *far);

enum td_far_state {
    TD_FAR_DOWN,     // not connected, and nobody tries
    TD_FAR_DIALING,  // connecting; or a break is being mended, by the polls of what is fetched
    TD_FAR_CHECKING, // the canary runs
    TD_FAR_UP,
};
// Does what can be done, waiting at most wait_ms while it is DIALING or CHECKING. With DOWN, err
// says why: as td_far_open fails, or how the connection ended.
enum td_far_state td_far_tend(struct td_far *far, uint32_t wait_ms, struct td_error *err);
// Connecting once more, to tell the peer what was cancelled while nothing could be said to it.
bool td_far_is_telling(const struct td_far *far);
// Speeds of this end, told to the peer when it is connected next.
void td_far_tell(struct td_far *far, const struct td_split_rate *prefill,
                 const struct td_split_rate *decode);
// CHECKING: rows of the canary want a step of the engine, whoever takes it.
bool td_far_wants_step(const struct td_far *far);

struct td_far_info {
    char peer[64];  // address
    char build[64]; // printable
    char model[96];
    char quant[32];
    bool is_encrypted, weights_differ;
    double round_trip_seconds; // least of a few
    double connect_seconds;    // TCP, TLS, greeting, JOIN
    double canary_seconds;
    double canary_kv_error;  // relative RMS difference of the KV
    double canary_logits_kl; // nats, of the last token's distribution
    uint32_t n_slots, max_tokens;
    uint64_t max_kv_bytes;
    struct td_split_rate prefill, decode; // theirs, as told last
    double link_bytes_per_s;              // towards here: the best seen so far; 0: not known
};
void td_far_info(struct td_far *far, struct td_far_info *out);

// Sends size_bytes of filler in one direction and takes the time. Only while nothing is fetched.
int td_far_measure(struct td_far *far, uint64_t size_bytes, bool is_towards_here,
                   double *bytes_per_s_out, struct td_error *err) TD_MUST_CHECK;
// Towards here, without waiting but wait_ms: nothing is fetched until a poll returns true, which
// says that it is over; *bytes_per_s_out is then the speed, 0 when it failed.
int td_far_measure_begin(struct td_far *far, uint64_t size_bytes,
                         struct td_error *err) TD_MUST_CHECK;
bool td_far_measure_poll(struct td_far *far, uint32_t wait_ms, double *bytes_per_s_out);

// ---- one request ------------------------------------------------------------------------------

struct td_fetch;

enum td_fetch_state {
    TD_FETCH_RUNNING,
    TD_FETCH_DONE,  // [0, n - 1) is in the session
    TD_FETCH_ENDED, // not all of it came: what is whole is in the session
};

struct td_fetch_report {
    uint32_t n_tokens;       // n
    uint32_t n_have;         // positions that were here before
    uint32_t n_committed;    // positions whole now
    uint32_t n_far_computed; // positions final there, as told last
    uint32_t n_far_reused;   // positions that were there before
    uint64_t bytes;          // of KV, here
    uint64_t kv_bytes;       // of KV, in all (ACCEPT)
    uint32_t n_resumed;      // breaks that were mended
    double seconds;          // since begin
    double far_seconds;      // computing there
    double stall_seconds;    // of it: waiting for a full queue
    // In which bytes were on their way: from the first header of a stretch of spans that came
    // without a wait to the end of its last; waits between two stretches are not counted.
    double transfer_seconds;
    // From the end of computing there until the last commit here. That end, by this machine's
    // clock: what PROGRESS said while it computed dates its beginning (arrival, less half the least
    // round trip, less the time it had computed; the earliest of these), FINAL says how long it
    // computed; never later than FINAL can have been written. A request too short for a PROGRESS
    // began with ACCEPT. A pause there after the first PROGRESS makes it too long, never too short.
    double exposed_seconds;
    double link_bytes_per_s; // bytes / transfer_seconds; 0: not known
};

// Asks for tokens [0, n): the session keeps the prefix it has, positions up to n - 1 come from the
// peer. Returns once REQUEST is written. The session must not be used until td_fetch_end, others of
// the engine may. n >= 2, and something must be missing (TD_EARG). Connects anew when the link is
// down. Fails: as td_far_open does; TD_EFULL, TD_ENOMEM when it does not fit here.
int td_fetch_begin(struct td_fetch **out, struct td_far *far, struct td_session *s,
                   const int32_t *tokens, uint32_t n, struct td_error *err) TD_MUST_CHECK;

// Waits at most wait_ms for something to happen, commits what has become whole, mends a broken link
// within resume_ms. With ENDED, err says why: TD_ECANCEL, TD_EIO (link or peer), TD_ENOMEM (no room
// there, or no slot: TD_EFULL), TD_EARG, TD_EFORMAT.
enum td_fetch_state td_fetch_poll(struct td_fetch *f, uint32_t wait_ms, struct td_error *err);

// Any thread: the peer is told to stop; poll soon says ENDED (TD_ECANCEL).
void td_fetch_cancel(struct td_fetch *f);

void td_fetch_report(struct td_fetch *f, struct td_fetch_report *out);

// Forgets the request (cancels it if it still runs) and gives the session back: IDLE, with the
// tokens whose KV is whole. NULL is fine.
void td_fetch_end(struct td_fetch *f);

#endif
