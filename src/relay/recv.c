// SPDX-License-Identifier: MIT
// Spans are written where they belong at once, those of window layers too: what lies beyond the
// committed length is nobody's until a checkpoint is committed, and a checkpoint is committed
// before anything behind it is written, so the one before stays whole whatever comes.
#include "relay/recv.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

struct td_recv {
    struct td_recv_request request;
    pthread_mutex_t mutex; // guards all below; the ledger changes only in the receiver's thread
    pthread_cond_t changed;
    struct td_ledger ledger;
    uint32_t n_ready;     // whole, to be committed
    uint32_t n_committed; // positions
    bool is_done;
    bool is_writing; // the receiver's thread is in the KV
    struct td_wire_final final;
    int code;
    struct td_error err;
};

int td_recv_open(struct td_recv **out, const struct td_recv_request *request, struct td_error *err)
{
    *out = NULL;
    struct td_recv *r = calloc(1, sizeof(*r));
    if (!r) return td_fail(err, TD_ENOMEM, "no memory for a request");
    r->request = *request;
    const uint32_t have = request->backend->kv_len(request->kv);
    const int code =
        td_ledger_init(&r->ledger, request->spec, request->kv_type, have, request->n_tokens, err);
    if (code) {
        free(r);
        return code;
    }
    r->n_ready = r->n_committed = have;
    pthread_mutex_init(&r->mutex, NULL);
    pthread_cond_init(&r->changed, NULL);
    *out = r;
    return TD_OK;
}

void td_recv_close(struct td_recv *r)
{
    if (!r) return;
    pthread_mutex_destroy(&r->mutex);
    pthread_cond_destroy(&r->changed);
    free(r);
}

void td_recv_stop(struct td_recv *r, int code, const struct td_error *err)
{
    pthread_mutex_lock(&r->mutex);
    if (!r->code && !r->is_done) {
        r->code = code;
        r->err = *err;
    }
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->mutex);
}

// Hands [0, n) to the engine's thread and waits until it is committed. Mutex held.
static int wait_for_commit(struct td_recv *r, uint32_t n, struct td_error *err)
{
    r->n_ready = n;
    pthread_cond_broadcast(&r->changed);
    while (r->n_committed < n && !r->code) pthread_cond_wait(&r->changed, &r->mutex);
    if (r->n_committed >= n) return TD_OK;
    if (err) *err = r->err;
    return r->code;
}

static int take_span(struct td_recv *r, struct td_frames *data, const struct td_wire_header *h,
                     struct td_error *err)
{
    int code = td_ledger_check_span(&r->ledger, h, err);
    struct td_wire_msg msg;
    if (!code) code = td_frames_payload(data, h, &msg, err);
    if (code) return code;
    pthread_mutex_lock(&r->mutex);
    code = r->code;
    if (code && err) *err = r->err;
    r->is_writing = !code;
    pthread_mutex_unlock(&r->mutex);
    if (code) return code;
    const struct td_kv_span span = {r->request.kv, h->layer, h->pos0, h->n};
    code = r->request.backend->kv_write(&span, msg.items, msg.items_bytes, err);
    pthread_mutex_lock(&r->mutex);
    if (!code) td_ledger_take_span(&r->ledger, h);
    r->is_writing = false;
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->mutex);
    return code;
}

static int take_mark(struct td_recv *r, struct td_frames *data, const struct td_wire_header *h,
                     struct td_error *err)
{
    struct td_wire_msg msg;
    int code = td_frames_payload(data, h, &msg, err);
    if (code) return code;
    pthread_mutex_lock(&r->mutex);
    if (h->type == TD_WIRE_FINAL) {
        code = td_ledger_final(&r->ledger, h->n, &msg.u.final, err);
        if (!code) r->final = msg.u.final;
    } else {
        code = td_ledger_checkpoint(&r->ledger, h->n, &msg.u.checkpoint, err);
    }
    if (!code) code = wait_for_commit(r, h->n, err);
    pthread_mutex_unlock(&r->mutex);
    return code;
}

static int stopped(struct td_recv *r, struct td_error *err)
{
    pthread_mutex_lock(&r->mutex);
    const int code = r->code;
    if (code && err) *err = r->err;
    pthread_mutex_unlock(&r->mutex);
    return code;
}

int td_recv_frame(struct td_recv *r, struct td_frames *data, const struct td_wire_header *h,
                  struct td_error *err)
{
    struct td_error why;
    int code = stopped(r, &why);
    if (code) return td_fail(err, TD_ECANCEL, "%s", why.msg);
    if (h->type == TD_WIRE_SPAN)
        code = take_span(r, data, h, &why);
    else if (h->type == TD_WIRE_CHECKPOINT || h->type == TD_WIRE_FINAL)
        code = take_mark(r, data, h, &why);
    else
        code = td_fail(&why, TD_EFORMAT, "%s does not belong to a request's KV",
                       td_wire_type_name(h->type));
    if (code && err) *err = why;
    if (code && code != TD_EIO) td_recv_stop(r, code, &why);
    return code;
}

static void deadline_in(uint32_t wait_ms, struct timespec *out)
{
    clock_gettime(CLOCK_REALTIME, out);
    out->tv_sec += wait_ms / 1000;
    out->tv_nsec += (long)(wait_ms % 1000) * 1000000;
    if (out->tv_nsec < 1000000000) return;
    out->tv_sec++;
    out->tv_nsec -= 1000000000;
}

int td_recv_wait(struct td_recv *r, uint32_t wait_ms, uint32_t *n_out, bool *is_done,
                 struct td_error *err)
{
    struct timespec until;
    deadline_in(wait_ms, &until);
    int code = TD_OK, waited = 0;
    pthread_mutex_lock(&r->mutex);
    while (r->n_ready == r->n_committed && !r->is_done && !r->code && waited != ETIMEDOUT)
        waited = pthread_cond_timedwait(&r->changed, &r->mutex, &until);
    if (r->n_ready > r->n_committed && !r->code) {
        // The receiver's thread waits for this: nobody else touches the KV.
        code = r->request.backend->kv_commit(r->request.kv, r->n_ready, &r->err);
        if (code)
            r->code = code;
        else
            r->n_committed = r->n_ready;
        r->is_done = !code && r->ledger.is_final;
        pthread_cond_broadcast(&r->changed);
    }
    // Whoever is told of the end may use the KV at once.
    while (r->code && r->is_writing) pthread_cond_wait(&r->changed, &r->mutex);
    if (r->code && err) *err = r->err;
    code = r->code;
    if (n_out) *n_out = r->n_committed;
    *is_done = r->is_done;
    pthread_mutex_unlock(&r->mutex);
    return code;
}

void td_recv_report(struct td_recv *r, struct td_recv_report *out)
{
    pthread_mutex_lock(&r->mutex);
    *out = (struct td_recv_report){.n_committed = r->n_committed,
                                   .n_spans = r->ledger.n_spans,
                                   .span_sum = r->ledger.span_sum,
                                   .bytes = r->ledger.span_bytes,
                                   .far_ns = r->final.far_ns,
                                   .far_stall_ns = r->final.stall_ns,
                                   .far_computed = r->final.n_computed,
                                   .far_reused = r->final.n_reused,
                                   .is_done = r->is_done};
    pthread_mutex_unlock(&r->mutex);
}

void td_recv_marks(const struct td_recv *r, uint32_t *marks_out)
{
    for (uint32_t il = 0; il < r->ledger.n_layers; il++) marks_out[il] = r->ledger.layers[il].mark;
}
