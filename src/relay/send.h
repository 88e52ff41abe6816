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
    uint32_t n_queue; // spans waiting at most; then the compute thread waits; 0: 1024
};

// data must outlive the sender. Starts a thread.
int td_sender_open(struct td_sender **out, const struct td_sender_config *cfg,
                   struct td_frames *data, struct td_error *err) TD_MUST_CHECK;
// After its requests have ended. NULL is fine.
void td_sender_close(struct td_sender *sender);

struct td_send_request {
    uint64_t id;
    const struct td_spec *spec;
    struct td_kv *kv;     // the session's that computes the prompt
    enum td_type kv_type; // on the wire; so far the KV's own
    uint32_t n_tokens;    // positions [have, n_tokens - 1) travel
    uint32_t have;
    uint32_t checkpoint_tokens;
};

// Fails: as td_ledger_init does; TD_ENOMEM.
int td_sending_begin(struct td_sending **out, struct td_sender *sender,
                     const struct td_send_request *request, struct td_error *err) TD_MUST_CHECK;

// Positions [0, n) are in the KV already (a reused prefix): queues what of them must travel.
// Threads: the engine's, before its first run for this request.
void td_sending_reused(struct td_sending *s, uint32_t n);

// For td_watch.layer_done, when the span is of this request's KV: pins what must travel and
// queues it. Waits only while the queue is full, which is counted. Threads: the compute leader.
void td_sending_layer_done(struct td_sending *s, const struct td_kv_span *span);

// All is computed: queues FINAL. Threads: the engine's.
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
    bool is_final_sent; // FINAL was written
    int code;           // why nothing more is sent: a failed write, read or pin; TD_OK
    struct td_error err;
};
// Any thread.
void td_sending_report(struct td_sending *s, struct td_send_report *out);

// Any thread: waits until FINAL was written or the request failed or was cancelled; at most
// wait_ms.
void td_sending_wait(struct td_sending *s, uint32_t wait_ms);

// Forgets the request: drops what is queued, waits for the frame under way, unpins all. The watch
// must not call it any more. NULL is fine.
void td_sending_end(struct td_sending *s);

#endif
