// SPDX-License-Identifier: MIT
// The prefill side's way out: KV spans, pinned on the compute thread as layers become final, read,
// sealed and written by a thread of the connection's own. The queue between them carries spans, not
// bytes: the KV itself is the buffer. It knows nothing of the control connection.
#ifndef TD_RELAY_SEND_H
#define TD_RELAY_SEND_H

#include "relay/frames.h"
#include "relay/ledger.h"

struct td_sender;  // a data connection, its queue and its thread
struct td_sending; // one request on it

struct td_sender_config {
    const struct td_backend *backend;
    uint32_t n_queue; // spans of a request that wait at most; then the compute thread does; 0: 1024
    // Of all senders between which requests may move; must outlive them and the requests. NULL: its
    // own, which ends with it.
    pthread_mutex_t *mutex;
};

// data must outlive the sender. Starts a thread.
int td_sender_open(struct td_sender **out, const struct td_sender_config *cfg,
                   struct td_frames *data, struct td_error *err) TD_MUST_CHECK;
// Waits for the frame under way (td_link_cancel makes that short). Requests that have not ended are
// then carried by nobody (td_sending_resume), which needs a mutex of theirs. NULL is fine.
void td_sender_close(struct td_sender *sender);

struct td_send_request {
    uint64_t id;
    const struct td_spec *spec;
    struct td_kv *kv;      // the session's that computes the prompt
    enum td_type kv_type;  // on the wire: the KV's own, or TD_Q8_0
    enum td_type own_type; // of the KV, where TD_Q8_0 travels
    uint32_t n_tokens;     // positions [have, n_tokens - 1) travel
    uint32_t have;
    uint32_t checkpoint_tokens;
    bool send_at_end;                    // nothing is queued before td_sending_finish
    bool never_waits;                    // a full queue is the caller's to look at: td_sending_lags
    const struct td_sender_config *away; // how, when there is no sender yet
};

// sender NULL: no connection carries it yet. Fails: as td_ledger_init does; TD_ENOMEM.
int td_sending_begin(struct td_sending **out, struct td_sender *sender,
                     const struct td_send_request *request, struct td_error *err) TD_MUST_CHECK;

// Positions [0, n) are in the KV already (a reused prefix): queues what of them must travel. held
// (may be NULL): the session's timeline; where it can be taken up, checkpoints can be made, also of
// sliding-window layers, whose KV is there as it was.
// Threads: the engine's, before its first run for this request.
void td_sending_reused(struct td_sending *s, uint32_t n, const struct td_timeline *held);

// More waits than the queue is meant to hold, for a receiver or a link that is too slow. Any
// thread.
bool td_sending_lags(struct td_sending *s);
// The caller computed nothing for so long because it lagged. Threads: the engine's.
void td_sending_stalled(struct td_sending *s, uint64_t ns);

// For td_watch.layer_done, when the span is of this request's KV: pins what must travel and
// queues it. Waits only while the queue is full, which is counted, and never without a connection
// or with never_waits.
// Threads: the compute leader.
void td_sending_layer_done(struct td_sending *s, const struct td_kv_span *span);

// Of a canary: logits (n) of its last token travel before FINAL. Once. Threads: the engine's.
void td_sending_logits(struct td_sending *s, const float *logits, uint32_t n);

// All is computed, or, from the watch, the last layer is done: queues FINAL. Once. Threads: the
// engine's.
struct td_send_account {
    uint64_t far_ns; // spent computing
    uint32_t n_computed, n_reused;
};
void td_sending_finish(struct td_sending *s, const struct td_send_account *account);

// Any thread: what is queued is dropped, nothing more is sent.
void td_sending_cancel(struct td_sending *s);
// Any thread: the receiver has [0, n), pins of it may go.
void td_sending_committed(struct td_sending *s, uint32_t n);

struct td_send_report {
    uint32_t n_sent; // positions written in every layer that keeps all
    uint64_t n_spans, sent_bytes;
    uint64_t stall_ns;  // the compute thread waited for a full queue
    uint32_t n_pinned;  // spans
    uint32_t n_waiting; // frames
    bool is_finished;   // FINAL is queued or was written
    bool is_final_sent; // FINAL was written
    bool is_away;       // no connection carries it now
    int code;           // why nothing more is sent: a failed write, read or pin; TD_OK
    struct td_error err;
};
// Any thread.
void td_sending_report(struct td_sending *s, struct td_send_report *out);

// Any thread: waits until FINAL was written, the request failed or was cancelled or its connection
// ended; at most wait_ms.
void td_sending_wait(struct td_sending *s, uint32_t wait_ms);

// Goes on over another connection, behind what the receiver has, whose marks by layer these are.
// The sender before must be closed. Fails, and nothing changes: TD_EFORMAT when what it counts is
// not what was sent, TD_ECANCEL when the request is over, TD_ENOMEM.
int td_sending_resume(struct td_sending *s, struct td_sender *sender, const uint32_t *marks,
                      const struct td_wire_resume *resume, struct td_error *err) TD_MUST_CHECK;

// Forgets the request: what is queued is dropped, all is unpinned; waits for nothing (a frame under
// way is finished first, behind the caller's back). The watch must not call it any more. NULL is
// fine.
void td_sending_end(struct td_sending *s);

#endif
