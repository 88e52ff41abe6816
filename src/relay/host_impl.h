// SPDX-License-Identifier: MIT
// What the files of the prefill side share: host.c computes, host_job.c begins and ends requests,
// host_conn.c keeps connections, host_talk.c writes control frames, host_ask.c takes them.
//
// One mutex guards all that is shared; it is held for moments, never during a write to a link, a
// step of the engine or a push to a full queue. Under it the senders' mutex may be taken, not the
// other way round.
#ifndef TD_RELAY_HOST_IMPL_H
#define TD_RELAY_HOST_IMPL_H

#include "relay/host.h"
#include "relay/send.h"

#include <pthread.h>
#include <stdatomic.h>

enum {
    TD_HOST_MAX_PEERS = 16,
    TD_HOST_MAX_CONNS = 2 * TD_HOST_MAX_PEERS + 8, // some are being greeted or replaced
    TD_HOST_MAX_JOBS = 16,                         // requests of a peer at a time
    TD_HOST_MAX_SAY = 64,                          // frames that wait for a peer to read
    TD_HOST_MAX_TOLD = 256,                        // events that wait for the callback
    TD_HOST_WAIT_MS = 5000,                        // for another connection of a peer to come or go
};

// A connection and the thread that reads it.
struct td_host_conn {
    struct td_host *host;
    struct td_host_conn *next;
    pthread_t thread;
    struct td_link *link; // the thread's; NULL once closed
    char address[80];
    bool is_done; // the thread ends: to be joined
};

// Filler on its way, for a PROBE.
struct td_host_probe {
    uint64_t request; // 0: none
    bool is_towards_asker;
    uint64_t size_bytes, n_bytes; // wanted, written or read so far
    uint64_t begin_ns;
};

// A session: its control connection's thread owns it. The data connection's thread puts itself in
// and takes itself out.
struct td_host_peer {
    struct td_host *host;
    struct td_host_peer *next;
    struct td_host_conn *control_conn;
    struct td_frames *control;
    char address[80];
    uint8_t token[32];

    struct td_host_conn *data_conn; // NULL: none
    struct td_frames *data;         // NULL: not joined (yet), or going
    struct td_sender *sender;       // as data
    bool is_data_used;              // the talker writes there
    bool is_leaving;                // nothing more is said
    uint64_t last_request;
    struct td_host_probe probe;
    uint64_t refused_probe; // its filler may come all the same
    pthread_t talker;
    struct td_wire_msg say[TD_HOST_MAX_SAY]; // ring: frames without items, for the talker
    uint32_t first_say, n_say;
    bool is_rates_due;
    bool is_welcomed; // WELCOME was written
};

enum td_host_job_state {
    TD_HOST_JOB_TOKENS,   // its tokens are coming
    TD_HOST_JOB_WAITING,  // for a slot
    TD_HOST_JOB_RUNNING,  // in the engine
    TD_HOST_JOB_COMPUTED, // all is queued; not committed yet
    TD_HOST_JOB_OVER,     // the engine's thread forgets it
};

struct td_host_slot {
    struct td_session *session; // NULL: there was no memory
    int32_t *tokens;            // whose KV it holds (n of them matter); of the job before
    uint32_t n;
    uint64_t used; // when, counted
    struct td_host_job *job;
};

// A request. It outlives its peer for lease_ms.
struct td_host_job {
    struct td_host *host;
    struct td_host_job *next;  // in the order they came
    struct td_host_peer *peer; // NULL: gone
    char address[80];
    uint8_t token[32]; // of the session that asked
    uint64_t id;
    enum td_type kv_type;
    struct td_wire_request request;
    int32_t *tokens; // (request.n_tokens)
    uint32_t n_got;
    enum td_host_job_state state;
    uint64_t lease_end_ns; // 0: a connection carries it

    // Written by the engine's thread only.
    struct td_host_slot *slot;     // NULL: none yet, or a canary
    struct td_session *session;    // the slot's, or a canary's own
    struct td_sending *sending;    // NULL: not begun, or over
    uint32_t n_reused, n_computed; // positions: were there, are final
    uint64_t kv_bytes;             // that will travel
    uint64_t begin_ns, far_ns;     // began; computed before the run under way
    uint64_t run_ns;               // when that began; 0: none
    uint64_t paused_ns;            // since when it is not computed, since it lags; 0: it is
    uint64_t owed_ns;   // since when its peer has taken nothing of what is due; 0: nothing
    uint64_t owed_mark; // what it had taken then
    bool is_final_told; // FINAL is queued

    enum td_wire_reason reason; // OVER: why; 0: nothing to say
    char text[200];
    bool is_error_due; // said once the engine has let go of it
};

// An event that is not told yet: the callback may take its time, and nobody waits for it.
struct td_host_told {
    struct td_host_event e; // peer and text point to the copies
    char peer[80], text[240];
};

struct td_host {
    struct td_host_config cfg;
    const struct td_spec *spec;
    struct td_listener *listener;
    struct td_sender_config sender_cfg;
    uint8_t *filler;            // (TD_WIRE_MAX_DATA) of PROBE; constant
    pthread_mutex_t send_mutex; // of all senders
    pthread_t accept_thread, tell_thread;
    bool has_tell_thread;
    _Atomic bool is_stop_asked; // set by any thread or a signal handler, seen by the accept thread

    pthread_mutex_t mutex;  // guards all below and what hangs from it
    pthread_cond_t changed; // any of it
    bool is_stopping;
    bool is_told_over; // no more events come
    int accept_code;   // why no more connections are taken, when nobody asked for that
    struct td_error accept_err;
    struct td_host_told *told_events; // ring (TD_HOST_MAX_TOLD)
    uint32_t first_told, n_told;
    struct td_host_conn *conns;
    uint32_t n_conns;
    struct td_host_peer *peers;
    uint32_t n_peers;
    struct td_host_job *jobs;
    struct td_host_slot *slots; // (cfg.n_slots)
    uint64_t n_uses;
    struct td_host_job **running; // (n_slots + TD_HOST_MAX_PEERS) engine thread: in this step
    uint32_t n_running;
    struct td_split_rate prefill, told; // as measured, as told last
    uint32_t max_run;                   // rows of the longest run of one request
    struct td_host_report count;
};

// ---- host.c: mutex held unless it says otherwise

// Waits for a change at most until then (td_clock_ns); 0: for ever. False: time is up.
bool td_host_wait(struct td_host *host, uint64_t until_ns);
void td_host_tell(struct td_host *host, const struct td_host_event *e); // queues it
void *td_host_teller(void *ctx); // the thread that calls back; ctx: the host

// ---- host_job.c: mutex held

bool td_host_is_canary(const struct td_host_job *job);
// Computing so far, with the run under way.
uint64_t td_host_far_ns(const struct td_host_job *job);
// The peer has all of it.
void td_host_done_job(struct td_host_job *job);
// The request is over; the engine's thread frees it. reason 0: the peer knows.
void td_host_end_job(struct td_host_job *job, enum td_wire_reason reason, const char *text);
// No connection carries it any more: kept for lease_ms if it is worth it. is_gone: its peer ends.
void td_host_leave_job(struct td_host_job *job, bool is_gone);
// Whether the peer has taken nothing of what is due for longer than a lease: a request cannot be
// held by doing nothing.
bool td_host_is_held(struct td_host_job *job);
// Ends leases that are over; returns when the next one is, 0: none.
uint64_t td_host_expire(struct td_host *host);
// Forgets requests that are over. Threads: the engine's.
void td_host_release_over(struct td_host *host);
// Begins what can begin; the mutex is given up while a kept prefix is queued. Threads: the
// engine's.
void td_host_begin_all(struct td_host *host);
// The KV cache is full: what is kept for later goes first, then who has gone, then who came last.
// Threads: the engine's.
void td_host_make_room(struct td_host *host);

// ---- host_talk.c

// Queues a control frame for the talker; a peer that reads none of them is put out. Mutex held.
void td_host_say(struct td_host_peer *peer, const struct td_wire_msg *msg);
void td_host_say_error(struct td_host_peer *peer, uint64_t request, enum td_wire_reason reason,
                       const char *text);
void td_host_say_accept(struct td_host_job *job); // to its peer, if there is one
void *td_host_talker(void *ctx);                  // the thread; ctx: the peer

// ---- host_ask.c

// Takes a control frame. Fails: the session ends. Threads: the control connection's, without the
// mutex.
int td_host_take(struct td_host_peer *peer, const struct td_wire_msg *msg, bool *is_bye,
                 struct td_error *err) TD_MUST_CHECK;

// ---- host_conn.c

void *td_host_acceptor(void *ctx); // the thread; ctx: the host

#endif
