// SPDX-License-Identifier: MIT
// Private to far.c, conn.c, fetch.c and canary.c: what a peer and its requests share.
//
// Locks: a request's recv locks itself, and tells far->mutex then (td_recv_request.notify); so
// nothing of recv.h is called with far->mutex held.
#ifndef TD_RELAY_FAR_IMPL_H
#define TD_RELAY_FAR_IMPL_H

#include "base/clock.h"
#include "relay/far.h"
#include "relay/recv.h"

#include <pthread.h>
#include <stdatomic.h>

#define MS_NS 1000000u
// After an end that control told of: how long data may be quiet before nothing more is waited for.
#define TD_CONN_QUIET_NS 100000000u

// A control frame that waits to be written.
struct td_said {
    struct td_said *next;
    struct td_wire_msg msg; // its items point behind it
    uint32_t items[];
};

// Both connections of one session and the threads that read them. Made and taken down by the
// engine's thread.
struct td_conn {
    struct td_far *far;
    struct td_link *link[2]; // by enum td_wire_channel; while it opens, set under far->mutex
    struct td_frames control, data;
    struct td_peer theirs;
    struct td_wire_welcome welcome;
    double connect_seconds; // TCP, TLS, greeting, JOIN
    pthread_t threads[2], writer;
    pthread_cond_t to_say; // with far->mutex
    uint32_t n_threads;    // started
    uint32_t ping_ms;
    _Atomic bool is_connect_over; // connecting shall end
    bool weights_differ;

    // Guarded by far->mutex.
    bool is_stopped; // it shall not come up: links are cancelled, those to come too
    bool has_writer;
    bool is_writing;    // the writer has a frame in hand
    bool is_said_out;   // it ends when nothing waits any more
    bool is_taking;     // the data thread is in a frame
    bool is_refused;    // the peer, or this end, wants no other connection
    uint32_t n_running; // threads
    uint32_t n_users;   // other threads that say something
    int code;           // not TD_OK: it is down
    struct td_error err;
    struct td_said *said_first, **said_end;
    uint64_t heard_ns;      // anything, on either connection
    uint64_t data_heard_ns; // on data

    // Control thread, and before it starts the engine's.
    uint64_t ping_sent_ns, ping_open_ns; // the second: not answered yet; 0: none
    uint32_t n_pongs;
};

// One stretch of the data connection in which bytes came without a wait. Data thread.
struct td_stretch {
    uint64_t start_ns, last_ns; // of its first frame; end of the last
    uint64_t bytes;
    bool is_on;
    bool is_sound; // the socket was empty when it began: no byte of it had come before
};

// A thread that connects and greets.
struct td_dial {
    pthread_t thread;
    struct td_conn *conn;
    // Guarded by far->mutex.
    bool is_over;
    int code;
    struct td_error err;
};

struct td_measure {
    uint64_t request; // 0: none
    uint64_t size_bytes, n_bytes;
    uint64_t first_ns, last_ns;
    bool is_probed;
    uint64_t probed_ns; // as the peer says
    int code;
    struct td_error err;
};

// A request that was cancelled while nothing could be said to the peer, which may be computing it:
// it is told over the next connection.
struct td_owed {
    struct td_owed *next;
    uint64_t id;
    uint8_t made_token[32];
    uint64_t n_spans, span_sum;
    uint32_t marks[TD_WIRE_MAX_LAYERS];
};

struct td_far {
    struct td_far_config cfg; // where, key and peer point to the copies below
    char *where;
    struct td_key key;
    struct td_peer peer;
    uint64_t next_request; // engine's thread
    struct td_conn *conn;  // changed by the engine's thread, under the mutex
    struct td_peer met;    // whom it was connected to last
    bool has_met;
    bool is_checked; // whose canary was right
    double canary_seconds, canary_kv_error, canary_logits_kl;
    // Engine's thread.
    enum td_far_state state;
    struct td_dial *dial;     // DIALING; NULL: not yet
    struct td_canary *canary; // CHECKING
    struct td_owed *owed;
    uint32_t n_broken_checks; // canaries in a row that a break ended
    uint64_t measure_ns;      // of the last byte that a measurement saw
    uint64_t measure_seen;
    struct td_error down_err; // why it is DOWN
    bool has_failed;          // the last dial, and no one has looked at that yet: mend()
    // A break is being mended. Engine's thread.
    uint64_t broken_ns, retry_ns; // 0: no
    uint32_t backoff_ms;
    struct td_error break_err; // why

    pthread_mutex_t mutex; // guards all below
    pthread_cond_t changed;
    uint64_t n_events;
    struct td_fetch *fetches; // changed by the engine's thread
    struct td_split_rate prefill, decode;
    double link_bytes_per_s;
    uint64_t round_trip_ns; // least; 0: not known
    struct td_measure measure;
};

struct td_fetch {
    struct td_far *far;
    struct td_fetch *next;
    struct td_session *session;
    struct td_recv *recv;
    int32_t *tokens; // (n)
    uint32_t n;
    uint32_t have;
    uint32_t flags;         // of REQUEST
    uint32_t n_tries;       // REQUESTs sent. Engine's thread
    uint32_t n_resumed;     // Engine's thread
    uint8_t made_token[32]; // of the session in which it was made. Engine's thread

    // Guarded by far->mutex.
    uint32_t n_refs;
    enum td_fetch_state state; // written by the engine's thread
    int code;
    uint32_t n_accepts; // that may come: one for each REQUEST and RESUME
    uint32_t n_committed;
    bool is_cancelled;
    bool is_cancel_said; // over the connection that carries it now
    bool is_accepted;
    bool is_over_there; // the peer knows that it has ended
    bool is_gone;       // the peer has nothing to resume from
    bool is_mended;     // something came since the last break
    bool is_final_here;
    bool has_anchor;
    uint64_t id;
    uint64_t bytes;
    uint64_t begin_ns, end_ns;
    uint64_t sign_ns;             // of life: ACCEPT, PROGRESS or a frame
    uint64_t over_ns;             // ERROR came; 0: none
    uint64_t accept_ns;           // ACCEPT's arrival; 0: none
    int64_t anchor_ns;            // when the peer's computing would have begun: place_far_begin
    uint64_t final_ns, commit_ns; // FINAL's arrival; the last commit
    uint64_t transfer_ns;
    struct td_wire_accept accept;
    struct td_wire_progress progress;
    struct td_error over_err; // of ERROR, until what came before it is taken in
    struct td_error err;
};

// ---- conn.c: one session -----------------------------------------------------------------------

// Not connected yet. NULL: no memory.
struct td_conn *td_conn_new(struct td_far *far);
// Connects, greets, joins; no thread runs yet. Fails as td_far_open does. Any thread.
int td_conn_open(struct td_conn *c, struct td_error *err) TD_MUST_CHECK;
// Any thread: td_conn_open fails soon.
void td_conn_stop(struct td_conn *c);
// Starts reading.
int td_conn_start(struct td_conn *c, struct td_error *err) TD_MUST_CHECK;
// Ends the threads: the engine's commits what they wait for. NULL is fine.
void td_conn_close(struct td_conn *c);
// It is down for this reason, unless it already is: nothing more is read or written. Any thread.
void td_conn_fail(struct td_conn *c, bool is_refused, const struct td_error *err);
// Queues a frame for control: nobody waits for a peer that does not read. A failure is the
// connection's. Any thread that keeps c alive.
int td_conn_say(struct td_conn *c, const struct td_wire_msg *msg, struct td_error *err);
// Reads a payload; what is damaged fails with TD_EIO.
int td_conn_payload_in(struct td_frames *f, const struct td_wire_header *h, struct td_wire_msg *out,
                       struct td_error *err) TD_MUST_CHECK;
struct td_wire_header td_conn_header(const struct td_conn *c, enum td_wire_type type,
                                     uint64_t request);

// ---- far.c -------------------------------------------------------------------------------------

void td_far_event(struct td_far *far); // something changed; mutex not held
bool td_far_is_down(struct td_far *far);
// Connects anew if need be, and goes on with every request that runs; takes steps of the engine for
// the canary. Fails as td_far_open does.
int td_far_connect(struct td_far *far, struct td_error *err) TD_MUST_CHECK;
// Ends a dial under way: DOWN.
void td_far_hang_up(struct td_far *far);
// Waits until n_events is no longer `seen`, or for wait_ms.
void td_far_wait(struct td_far *far, uint64_t seen, uint32_t wait_ms);
int td_far_code_of(uint16_t reason);

// ---- fetch.c -----------------------------------------------------------------------------------

int td_fetch_ask(struct td_fetch **out, struct td_far *far, struct td_session *s,
                 const int32_t *tokens, uint32_t n, float *canary_logits,
                 struct td_error *err) TD_MUST_CHECK;
// Commits what has become whole, of every request. Engine's thread.
void td_fetch_commit_all(struct td_far *far);
// On a new connection: RESUME, or REQUEST when nothing was taken up.
int td_fetch_resume(struct td_fetch *f, struct td_conn *c, struct td_error *err) TD_MUST_CHECK;
// On a new connection: CANCEL of what was cancelled meanwhile. td_fetch_forget: of it no more.
int td_fetch_tell_owed(struct td_far *far, struct td_conn *c, struct td_error *err) TD_MUST_CHECK;
void td_fetch_forget(struct td_far *far);
// Ends all that run. Engine's thread.
void td_fetch_end_all(struct td_far *far, const struct td_error *err);
// Frames of a request. The control thread, the data thread; TD_EFORMAT refuses the frame.
int td_fetch_control(struct td_conn *c, const struct td_wire_msg *msg,
                     struct td_error *err) TD_MUST_CHECK;
int td_fetch_data(struct td_conn *c, struct td_stretch *t, const struct td_wire_header *h,
                  uint64_t waited_ns, struct td_error *err) TD_MUST_CHECK;
// Whether a request that runs has stopped making progress. Mutex held.
bool td_fetch_is_stuck(const struct td_conn *c, uint64_t now_ns, struct td_error *err);

// ---- canary.c ----------------------------------------------------------------------------------

struct td_canary;
// The same prompt there and here, over a connection that stands. Engine's thread, all of it.
int td_canary_begin(struct td_canary **out, struct td_far *far, struct td_error *err) TD_MUST_CHECK;
// Goes on without waiting; true when it is over: *code is then TD_OK, TD_EARG when the two are not
// the same model, or why it could not be found out.
bool td_canary_poll(struct td_canary *y, int *code, struct td_error *err);
bool td_canary_wants_step(const struct td_canary *y);
void td_canary_end(struct td_canary *y); // NULL is fine

#endif
