// SPDX-License-Identifier: MIT
// The prefill side of the relay: accepts peers, reads prompts for them and sends the KV while it is
// made. docs/WIRE.md says what travels; send.h how. It prints nothing: what happens is told to
// `event`.
//
// Threads: one accepts; one reads each connection; one writes each control connection (and is its
// heartbeat: PROGRESS or PING every progress_ms); one sends on each data connection (send.h); the
// engine's runs td_host_serve.
#ifndef TD_RELAY_HOST_H
#define TD_RELAY_HOST_H

#include "plan/split.h"
#include "relay/peer.h"

struct td_host;

// What happened, for a log. Texts are valid during the call; peer texts are printable.
enum td_host_event_kind {
    TD_HOST_CAME,    // a peer was greeted; text: its build
    TD_HOST_LEFT,    // text: why
    TD_HOST_REFUSED, // a connection that held the key, or a request; text: why
    TD_HOST_BEGAN,   // a request: n_tokens, n_reused
    TD_HOST_DONE,    // committed by the peer; seconds of computing, bytes
    TD_HOST_RESUMED, // goes on over a new connection
    TD_HOST_ENDED,   // not done; text: cancelled, lease over, trouble
};
struct td_host_event {
    enum td_host_event_kind kind;
    const char *peer; // address
    const char *text; // "" where it does not apply
    uint64_t request;
    uint32_t n_tokens, n_reused;
    uint64_t bytes;
    double seconds, stall_seconds;
};

struct td_host_config {
    struct td_engine *engine; // no other session of it is used meanwhile
    const struct td_backend *backend;
    const struct td_peer *peer; // of this end: role prefill
    enum td_type kv_type;       // of the engine's KV
    uint32_t n_slots;           // requests at a time; each slot keeps its KV for the next prefix
    uint32_t n_ctx;             // tokens of a request at most (one slot's context)
    uint64_t max_kv_bytes;      // of all slots together, as WELCOME says it
    uint32_t lease_ms;          // KV is kept for a peer that has gone; 0: 60 000
    uint32_t progress_ms;       // 0: 500
    uint32_t n_queue;           // of a sender, in spans; 0: its default
    bool send_at_end;           // nothing is sent before all is computed (to compare; never useful)
    struct td_split_rate prefill, decode; // as measured so far; told to peers, kept up to date
    // From a thread of its own, one after the other: nobody waits for it. May be NULL; calls
    // nothing of the host. When too many wait, later ones are not told.
    void (*event)(void *ctx, const struct td_host_event *e);
    void *event_ctx;
};

// Starts accepting. The listener must outlive the host.
int td_host_open(struct td_host **out, const struct td_host_config *cfg,
                 struct td_listener *listener, struct td_error *err) TD_MUST_CHECK;

// Serves until td_host_stop. A request that fails ends alone; fails itself only when the engine
// cannot go on, or no connection can be taken any more. Threads: the engine's.
int td_host_serve(struct td_host *host, struct td_error *err) TD_MUST_CHECK;

// Any thread, also a signal handler: serve ends soon, peers are told (ERROR, shutting down).
void td_host_stop(struct td_host *host);

void td_host_close(struct td_host *host); // NULL is fine

struct td_host_report {
    uint32_t n_peers, n_requests; // now
    uint64_t n_done, n_ended, n_resumed, n_refused;
    uint64_t n_tokens, bytes, stall_ns;
    struct td_split_rate prefill;
};
void td_host_report(struct td_host *host, struct td_host_report *out); // any thread

#endif
