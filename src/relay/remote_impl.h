// SPDX-License-Identifier: MIT
// What remote.c (one prompt) and remote_peer.c (who could read it) share. Engine's thread, all of
// it.
#ifndef TD_RELAY_REMOTE_IMPL_H
#define TD_RELAY_REMOTE_IMPL_H

#include "relay/remote.h"

#define TD_REMOTE_MAX_WHERE 256

#define TD_REMOTE_MAX_READ 8

struct td_remote_prompt {
    int32_t *tokens;
    uint32_t n, cap;
    uint64_t used;
};

struct td_remote_peer {
    char where[TD_REMOTE_MAX_WHERE];
    struct td_far *far;      // NULL: never dialled
    bool is_trying;          // dialled; what becomes of it is not known yet
    bool is_looking;         // its link is being measured
    uint64_t look_bytes;     // by so much
    uint64_t look_at_ns;     // not again before
    uint64_t dialled_ns;     // begin of that try
    uint64_t retry_at_ns;    // not before, unless nobody else is there
    uint32_t backoff_ms;     // the wait before the next; 0: the last one went well
    struct td_error why;     // of the last failure
    double link_bytes_per_s; // towards here; 0: not known
    double setup_seconds;
    // Prompts it read lately: what of the next it probably holds.
    struct td_remote_prompt read[TD_REMOTE_MAX_READ];
    uint64_t n_uses;
};

#define TD_REMOTE_MAX_MIXED 256

struct td_remote {
    struct td_remote_config cfg;
    struct td_remote_peer peers[TD_REMOTE_MAX_PEERS];
    uint32_t n_peers;
    struct td_split_rate prefill, decode; // of this machine
    struct td_remote_try *tries;
    // Sessions that took in KV of other weights, and from which position on; no others share it
    // (td_session_isolate).
    struct td_remote_mixed {
        const struct td_session *s;
        uint32_t from;
    } mixed[TD_REMOTE_MAX_MIXED];
    uint32_t n_mixed;
    bool is_mixed_more; // more did than are noted: it is said of every prompt
};

enum td_remote_ready { TD_PEER_NO, TD_PEER_SOON, TD_PEER_YES };

// Does what can be done about a peer, waiting at most wait_ms while it is SOON. NO: p->why.
enum td_remote_ready td_remote_tend_peer(struct td_remote_peer *p, uint32_t wait_ms);
// Begins to connect, whatever became of it before.
void td_remote_dial_peer(struct td_remote *r, struct td_remote_peer *p);
// What it was asked has failed: it is left alone for a while.
void td_remote_fail_peer(struct td_remote_peer *p, const struct td_error *why);
void td_remote_remember(struct td_remote_peer *p, const int32_t *tokens, uint32_t n);
// plan/split.h's answer, n_have of the prompt being here; wait_seconds: for others that p serves.
void td_remote_ask_split(const struct td_remote *r, const struct td_remote_peer *p,
                         const struct td_remote_ask *ask, uint32_t n_have, double wait_seconds,
                         struct td_split *out);

#endif
