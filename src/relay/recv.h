// SPDX-License-Identifier: MIT
// The decode side's way in: the frames of one request, checked against its ledger before they are
// read, scattered straight into the session's KV. Only what a checkpoint has made whole is ever
// committed; whatever happens, the session goes on from there. It outlives its connection.
#ifndef TD_RELAY_RECV_H
#define TD_RELAY_RECV_H

#include "relay/frames.h"
#include "relay/ledger.h"

struct td_recv;

struct td_recv_request {
    uint64_t id;
    const struct td_backend *backend;
    const struct td_spec *spec;
    struct td_kv *kv;      // holds [0, have); nobody else touches it until the request is closed
    enum td_type kv_type;  // on the wire: the KV's own, or TD_Q8_0
    enum td_type own_type; // of the KV (f16 or f32) when kv_type is TD_Q8_0
    uint32_t n_tokens;     // positions [have, n_tokens - 1) will come
    float *logits;         // (n_vocab of the spec) of a canary's last token; NULL: none may come
    // Called when there is something for td_recv_wait, with the request locked: it returns at once
    // and calls nothing of the request. May be NULL.
    void (*notify)(void *ctx);
    void *notify_ctx;
    // Called by td_recv_wait when a checkpoint on the way has been committed and before anything
    // behind it is written, with the request locked: calls nothing of the request. What fails here
    // ends the request. May be NULL.
    int (*committed)(void *ctx, struct td_error *err);
    void *committed_ctx;
};

// Fails: as td_ledger_init does; TD_ENOMEM.
int td_recv_open(struct td_recv **out, const struct td_recv_request *request,
                 struct td_error *err) TD_MUST_CHECK;
// When no other thread uses it any more. NULL is fine.
void td_recv_close(struct td_recv *r);

// Takes one frame of this request whose header was read from the data connection, which may be
// another one each time: SPAN, CHECKPOINT, FINAL or LOGITS. At a checkpoint waits until
// td_recv_wait has committed it. Fails: TD_EFORMAT for what may not come (before its payload is
// read); TD_EIO, as td_link_read does and when the payload is damaged; as kv_write does; TD_ECANCEL
// after td_recv_stop. A failure that is not the link's (TD_EIO) also ends the request. After one
// that is neither TD_EIO nor TD_EFORMAT the connection stands where the next frame begins.
// Threads: the receiver's, one at a time.
int td_recv_frame(struct td_recv *r, struct td_frames *data, const struct td_wire_header *h,
                  struct td_error *err) TD_MUST_CHECK;

// Any thread: the request ends with this code and reason, unless it already has.
void td_recv_stop(struct td_recv *r, int code, const struct td_error *err);

// Waits at most wait_ms for a checkpoint, and commits it; *n_out (may be NULL) is how many
// positions are whole now, *is_done whether that was the last. Fails: why the request ended; then
// nobody else touches the KV any more.
// Threads: the engine's.
int td_recv_wait(struct td_recv *r, uint32_t wait_ms, uint32_t *n_out, bool *is_done,
                 struct td_error *err) TD_MUST_CHECK;

struct td_recv_report {
    uint32_t n_committed; // positions
    uint64_t n_spans, span_sum, bytes;
    uint64_t far_ns, far_stall_ns; // FINAL's account
    uint32_t far_computed, far_reused;
    uint32_t n_logits; // of a canary: entries that came
    bool is_done;
};
void td_recv_report(struct td_recv *r, struct td_recv_report *out); // any thread
// For RESUME: where each layer (n_layers of the spec) stands. Threads: while no frame is taken.
void td_recv_marks(const struct td_recv *r, uint32_t *marks_out);

#endif
