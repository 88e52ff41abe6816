// SPDX-License-Identifier: MIT
// Spans are written where they belong at once, those of window layers too: what lies beyond the
// committed length is nobody's until a checkpoint is committed, and a checkpoint is committed
// before anything behind it is written, so the one before stays whole whatever comes.
#include "relay/recv.h"

#include "base/num.h"
#include "relay/sys_impl.h"
#include "relay/wirekv.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

// Of KV that came as q8_0, converted this much at a time: it stays in the cache.
#define PLAIN_BYTES (256u << 10)

struct td_recv {
    struct td_recv_request request;
    uint8_t *plain; // (plain_bytes) positions in the KV's own type; NULL unless they come as q8_0
    size_t plain_bytes;
    pthread_mutex_t mutex; // guards all below; the ledger changes only in the receiver's thread
    pthread_cond_t changed;
    struct td_ledger ledger;
    uint32_t n_ready;     // whole, to be committed
    uint32_t n_committed; // positions
    bool is_done;
    bool is_writing; // the receiver's thread is in the KV
    struct td_wire_final final;
    uint32_t n_logits;
    int code;
    struct td_error err;
};

// Something changed: for the engine's thread, wherever it waits. Mutex held.
static void tell(struct td_recv *r)
{
    pthread_cond_broadcast(&r->changed);
    if (r->request.notify) r->request.notify(r->request.notify_ctx);
}

// Values of K, or of V, of one position.
static size_t n_values(const struct td_kv_layer *l)
{
    return (size_t)l->n_kv_heads * l->head_dim;
}

static int open_plain(struct td_recv *r, struct td_error *err)
{
    if (r->request.kv_type != TD_Q8_0) return TD_OK;
    const struct td_spec *spec = r->request.spec;
    r->plain_bytes = PLAIN_BYTES;
    for (uint32_t il = 0; il < spec->n_layers; il++) {
        // At least one position of any layer; the ledger has checked that these are small.
        const size_t bytes =
            td_wirekv_plain_bytes(r->request.own_type, 2 * n_values(&spec->kv[il]));
        if (bytes > r->plain_bytes) r->plain_bytes = bytes;
    }
    r->plain = malloc(r->plain_bytes);
    return r->plain ? TD_OK : td_fail(err, TD_ENOMEM, "no memory for a request");
}

int td_recv_open(struct td_recv **out, const struct td_recv_request *request, struct td_error *err)
{
    *out = NULL;
    struct td_recv *r = calloc(1, sizeof(*r));
    if (!r) return td_fail(err, TD_ENOMEM, "no memory for a request");
    r->request = *request;
    const uint32_t have = request->backend->kv_len(request->kv);
    int code =
        td_ledger_init(&r->ledger, request->spec, request->kv_type, have, request->n_tokens, err);
    if (!code) code = open_plain(r, err);
    if (code) {
        free(r);
        return code;
    }
    r->n_ready = r->n_committed = have;
    pthread_mutex_init(&r->mutex, NULL);
    td_cond_init(&r->changed);
    *out = r;
    return TD_OK;
}

void td_recv_close(struct td_recv *r)
{
    if (!r) return;
    pthread_mutex_destroy(&r->mutex);
    pthread_cond_destroy(&r->changed);
    if (r->plain) OPENSSL_cleanse(r->plain, r->plain_bytes); // KV is the prompt in another form
    free(r->plain);
    free(r);
}

void td_recv_stop(struct td_recv *r, int code, const struct td_error *err)
{
    pthread_mutex_lock(&r->mutex);
    if (!r->code && !r->is_done) {
        r->code = code;
        r->err = *err;
    }
    tell(r);
    pthread_mutex_unlock(&r->mutex);
}

// Hands [0, n) to the engine's thread and waits until it is committed. Mutex held.
static int wait_for_commit(struct td_recv *r, uint32_t n, struct td_error *err)
{
    r->n_ready = n;
    tell(r);
    while (r->n_committed < n && !r->code) pthread_cond_wait(&r->changed, &r->mutex);
    if (r->n_committed >= n) return TD_OK;
    if (err) *err = r->err;
    return r->code;
}

// Reads the payload. What is damaged, or a link that somebody cancelled, is not the request's end:
// the same frame may come whole over another.
static int read_payload(struct td_frames *data, const struct td_wire_header *h,
                        struct td_wire_msg *out, struct td_error *err)
{
    const int code = td_frames_payload(data, h, out, err);
    if (code && err) err->code = TD_EIO;
    return code ? TD_EIO : TD_OK;
}

// Writes a span into the KV, converting it if it came as q8_0.
static int scatter(struct td_recv *r, const struct td_wire_msg *msg, struct td_error *err)
{
    const struct td_wire_header *h = &msg->h;
    struct td_kv_span span = {r->request.kv, h->layer, h->pos0, h->n};
    if (!r->plain) return r->request.backend->kv_write(&span, msg->items, msg->items_bytes, err);
    const enum td_type type = r->request.own_type;
    const size_t n_row = n_values(&r->request.spec->kv[h->layer]);
    const size_t packed_bytes = td_wirekv_q8_0_bytes(n_row);
    const size_t row_bytes = td_wirekv_plain_bytes(type, n_row);
    const uint32_t n_most = (uint32_t)(r->plain_bytes / (2 * row_bytes));
    const uint8_t *k = msg->items, *v = k + h->n * packed_bytes;
    int code = TD_OK;
    for (uint32_t i = 0; !code && i < h->n; i += span.n) {
        span.pos0 = h->pos0 + i;
        span.n = td_min_u32(h->n - i, n_most);
        const size_t half_bytes = span.n * row_bytes;
        td_wirekv_unpack(r->plain, type, k + i * packed_bytes, span.n * n_row);
        td_wirekv_unpack(r->plain + half_bytes, type, v + i * packed_bytes, span.n * n_row);
        code = r->request.backend->kv_write(&span, r->plain, 2 * half_bytes, err);
    }
    return code;
}

// Whether the request still runs; then it counts as writing until is_writing is taken back. After
// FINAL nothing is written, whatever still comes: what it would go to is the caller's again.
static int begin_write(struct td_recv *r, struct td_error *err)
{
    pthread_mutex_lock(&r->mutex);
    const bool is_over = r->code || r->ledger.is_final;
    r->is_writing = !is_over;
    pthread_mutex_unlock(&r->mutex);
    return is_over ? td_fail(err, TD_ECANCEL, "the request has ended") : TD_OK;
}

static int take_span(struct td_recv *r, struct td_frames *data, const struct td_wire_header *h,
                     struct td_error *err)
{
    int code = td_ledger_check_span(&r->ledger, h, err);
    struct td_wire_msg msg;
    if (!code) code = read_payload(data, h, &msg, err);
    if (!code) code = begin_write(r, err);
    if (code) return code;
    code = scatter(r, &msg, err);
    pthread_mutex_lock(&r->mutex);
    if (!code) td_ledger_take_span(&r->ledger, h);
    r->is_writing = false;
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->mutex);
    return code;
}

// Logits come in order, each once.
static int take_logits(struct td_recv *r, struct td_frames *data, const struct td_wire_header *h,
                       struct td_error *err)
{
    const uint32_t n_vocab = r->request.spec->n_vocab;
    if (!r->request.logits) return td_fail(err, TD_EFORMAT, "LOGITS that nobody asked for");
    if (r->ledger.is_final) return td_fail(err, TD_EFORMAT, "LOGITS after FINAL");
    // n_logits changes in this thread alone.
    if (h->pos0 != r->n_logits || h->n > n_vocab - h->pos0)
        return td_fail(err, TD_EFORMAT, "LOGITS: entries %u + %u after %u of %u", h->pos0, h->n,
                       r->n_logits, n_vocab);
    struct td_wire_msg msg;
    int code = read_payload(data, h, &msg, err);
    if (!code) code = begin_write(r, err);
    if (code) return code;
    memcpy(r->request.logits + h->pos0, msg.items, h->n * sizeof(float)); // the codec checked both
    pthread_mutex_lock(&r->mutex);
    r->n_logits += h->n;
    r->is_writing = false;
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->mutex);
    return TD_OK;
}

static int take_mark(struct td_recv *r, struct td_frames *data, const struct td_wire_header *h,
                     struct td_error *err)
{
    struct td_wire_msg msg;
    int code = read_payload(data, h, &msg, err);
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
    struct td_wire_msg dropped;
    if (code) {
        code = read_payload(data, h, &dropped, err);
        return code ? code : td_fail(err, TD_ECANCEL, "%s", why.msg);
    }
    if (h->type == TD_WIRE_SPAN)
        code = take_span(r, data, h, &why);
    else if (h->type == TD_WIRE_CHECKPOINT || h->type == TD_WIRE_FINAL)
        code = take_mark(r, data, h, &why);
    else if (h->type == TD_WIRE_LOGITS)
        code = take_logits(r, data, h, &why);
    else
        code = td_fail(&why, TD_EFORMAT, "%s does not belong to a request's KV",
                       td_wire_type_name(h->type));
    if (code && err) *err = why;
    if (code && code != TD_EIO) td_recv_stop(r, code, &why);
    return code;
}

int td_recv_wait(struct td_recv *r, uint32_t wait_ms, uint32_t *n_out, bool *is_done,
                 struct td_error *err)
{
    const uint64_t until_ns = td_cond_deadline(wait_ms);
    int code = TD_OK, waited = 0;
    pthread_mutex_lock(&r->mutex);
    while (r->n_ready == r->n_committed && !r->is_done && !r->code && waited != ETIMEDOUT)
        waited = td_cond_wait_until(&r->changed, &r->mutex, until_ns);
    // What is whole stays so when the request has ended meanwhile.
    if (r->n_ready > r->n_committed) {
        // The receiver's thread waits for this, or writes no more: nobody else touches the KV.
        struct td_error why;
        code = r->request.backend->kv_commit(r->request.kv, r->n_ready, &why);
        if (code)
            r->n_ready = r->n_committed;
        else
            r->n_committed = r->n_ready;
        if (!code && r->request.committed && r->n_committed < r->ledger.end)
            code = r->request.committed(r->request.committed_ctx, &why);
        if (code && !r->code) {
            r->code = code;
            r->err = why;
        }
        r->is_done = r->n_committed == r->ledger.end;
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
                                   .n_logits = r->n_logits,
                                   .is_done = r->is_done};
    pthread_mutex_unlock(&r->mutex);
}

void td_recv_marks(const struct td_recv *r, uint32_t *marks_out)
{
    for (uint32_t il = 0; il < r->ledger.n_layers; il++) marks_out[il] = r->ledger.layers[il].mark;
}
