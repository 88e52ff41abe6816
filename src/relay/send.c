// SPDX-License-Identifier: MIT
// One mutex guards the queue and every request's state; it is never held during a read of KV or a
// write to the link, so that the compute thread waits for neither.
#include "relay/send.h"

#include "base/clock.h"

#include <assert.h>
#include <errno.h>
#include <openssl/crypto.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define N_QUEUE 1024

// What the sender thread is told: a span (pin), a checkpoint or the end.
struct item {
    struct td_sending *s;
    struct td_kv_pin *pin;   // NULL: CHECKPOINT or FINAL
    struct td_wire_header h; // of the frame
    struct td_send_account account;
};

// A span or checkpoint that was written; its pin is kept until the receiver has it.
struct sent {
    struct td_ledger_record record;
    struct td_kv_pin *pin; // NULL: a checkpoint, or committed
};

struct td_sending {
    struct td_sender *sender;
    struct td_sending *next;
    struct td_send_request request;
    struct td_ledger told; // compute leader and engine thread: what was queued

    // Guarded by the sender's mutex.
    struct td_ledger ledger; // what was written
    struct sent *sent;       // in order
    uint32_t n_sent, sent_cap;
    uint32_t n_queued;    // its items in the queue, and the one under way
    uint32_t n_pinned;    // in the queue and in sent
    uint32_t n_committed; // positions
    uint32_t n_released;  // of sent: pins before are gone
    bool is_cancelled;
    bool is_final_sent;
    uint64_t stall_ns;
    int code;
    struct td_error err;
};

struct td_sender {
    const struct td_backend *backend;
    struct td_frames *data;
    uint8_t *bytes; // (TD_WIRE_MAX_DATA) a span in the canonical layout; sender thread
    pthread_t thread;
    pthread_mutex_t mutex;  // guards all below, and what a request says
    pthread_cond_t changed; // any of it
    struct item *queue;     // ring of (n_queue)
    uint32_t n_queue, first, n;
    bool is_closing;
    struct td_sending *requests;
};

// ---- for the sender thread --------------------------------------------------------------------

static void fail(struct td_sending *s, int code, const struct td_error *err)
{
    if (s->code) return; // the first reason counts
    s->code = code;
    s->err = *err;
    pthread_cond_broadcast(&s->sender->changed);
}

static bool is_over(const struct td_sending *s)
{
    return s->is_cancelled || s->code;
}

// Remembers what was written. False: no memory.
static bool remember(struct td_sending *s, const struct td_ledger_record *record,
                     struct td_kv_pin *pin)
{
    if (s->n_sent == s->sent_cap) {
        const uint32_t cap = s->sent_cap ? 2 * s->sent_cap : 256;
        struct sent *grown = realloc(s->sent, cap * sizeof(*grown));
        if (!grown) return false;
        s->sent = grown;
        s->sent_cap = cap;
    }
    s->sent[s->n_sent++] = (struct sent){.record = *record, .pin = pin};
    return true;
}

// Unpins what the receiver has: all before the checkpoint that says so.
static void release_committed(struct td_sending *s)
{
    uint32_t n_done = s->n_released;
    for (uint32_t i = s->n_released; i < s->n_sent; i++) {
        const struct td_ledger_record *r = &s->sent[i].record;
        if (r->layer == TD_LEDGER_CHECKPOINT && r->n <= s->n_committed) n_done = i + 1;
    }
    for (; s->n_released < n_done; s->n_released++) {
        struct sent *at = &s->sent[s->n_released];
        if (!at->pin) continue;
        s->sender->backend->kv_unpin(at->pin);
        at->pin = NULL;
        s->n_pinned--;
    }
}

static int write_span(struct td_sender *sender, struct item *item, struct td_error *err)
{
    const struct td_wire_header *h = &item->h;
    const int code = sender->backend->kv_read(item->pin, sender->bytes, h->size_bytes, err);
    if (code) return code;
    uint8_t header[TD_WIRE_HEADER_BYTES];
    td_wire_seal(header, &item->h, sender->bytes, h->size_bytes);
    return td_frames_write_bulk(sender->data, header, sender->bytes, h->size_bytes, err);
}

// Makes the frame of a checkpoint, or of FINAL at the end, from what was written; the own ledger
// must find it as whole as the receiver's will.
static int make_mark(struct td_sending *s, const struct item *item, struct td_wire_msg *out,
                     struct td_error *err)
{
    *out = (struct td_wire_msg){.h = item->h};
    if (item->h.type == TD_WIRE_CHECKPOINT) {
        out->u.checkpoint = (struct td_wire_checkpoint){s->ledger.n_spans, s->ledger.span_sum};
        return td_ledger_checkpoint(&s->ledger, item->h.n, &out->u.checkpoint, err);
    }
    out->u.final = (struct td_wire_final){.n_spans = s->ledger.n_spans,
                                          .span_sum = s->ledger.span_sum,
                                          .span_bytes = s->ledger.span_bytes,
                                          .far_ns = item->account.far_ns,
                                          .stall_ns = s->stall_ns,
                                          .n_computed = item->account.n_computed,
                                          .n_reused = item->account.n_reused};
    return td_ledger_final(&s->ledger, item->h.n, &out->u.final, err);
}

static int note_written(struct td_sending *s, const struct item *item, struct td_error *err)
{
    struct td_ledger_record record = {.layer = TD_LEDGER_CHECKPOINT, .n = item->h.n};
    if (item->pin) {
        record = (struct td_ledger_record){.digest = td_wire_span_digest(&item->h),
                                           .layer = item->h.layer,
                                           .pos0 = item->h.pos0,
                                           .n = item->h.n};
        td_ledger_take_span(&s->ledger, &item->h);
    }
    if (item->h.type == TD_WIRE_FINAL) s->is_final_sent = true;
    if (!remember(s, &record, item->pin)) return td_fail(err, TD_ENOMEM, "no memory to send KV");
    release_committed(s); // COMMITTED may have been quicker
    return TD_OK;
}

// Called and returns with the mutex held; gives it up to read and write.
static void handle(struct td_sender *sender, struct item *item)
{
    struct td_sending *s = item->s;
    struct td_error err;
    int code = TD_OK;
    bool is_kept = false;
    if (!is_over(s)) {
        struct td_wire_msg mark;
        if (!item->pin) code = make_mark(s, item, &mark, &err);
        pthread_mutex_unlock(&sender->mutex);
        if (!code && item->pin)
            code = write_span(sender, item, &err);
        else if (!code)
            code = td_frames_write(sender->data, &mark, &err);
        pthread_mutex_lock(&sender->mutex);
        if (!code) code = note_written(s, item, &err);
        is_kept = !code;
    }
    if (code) fail(s, code, &err);
    if (item->pin && !is_kept) {
        sender->backend->kv_unpin(item->pin);
        s->n_pinned--;
    }
    s->n_queued--;
    pthread_cond_broadcast(&sender->changed);
}

static void *sender_main(void *ctx)
{
    struct td_sender *sender = ctx;
    pthread_mutex_lock(&sender->mutex);
    while (!sender->is_closing || sender->n > 0) {
        if (sender->n == 0) {
            pthread_cond_wait(&sender->changed, &sender->mutex);
            continue;
        }
        struct item item = sender->queue[sender->first];
        sender->first = (sender->first + 1) % sender->n_queue;
        sender->n--;
        pthread_cond_broadcast(&sender->changed); // there is room
        handle(sender, &item);
    }
    pthread_mutex_unlock(&sender->mutex);
    return NULL;
}

// ---- for the compute thread -------------------------------------------------------------------

// Queues an item, or lets go of it when the request is over.
static void push(struct td_sending *s, const struct item *item)
{
    struct td_sender *sender = s->sender;
    pthread_mutex_lock(&sender->mutex);
    if (sender->n == sender->n_queue && !is_over(s)) {
        const uint64_t t0 = td_clock_ns();
        while (sender->n == sender->n_queue && !is_over(s))
            pthread_cond_wait(&sender->changed, &sender->mutex);
        s->stall_ns += td_clock_ns() - t0;
    }
    const bool is_dropped = is_over(s);
    if (!is_dropped) {
        sender->queue[(sender->first + sender->n++) % sender->n_queue] = *item;
        s->n_queued++;
        s->n_pinned += item->pin != NULL;
        pthread_cond_broadcast(&sender->changed);
    }
    pthread_mutex_unlock(&sender->mutex);
    if (is_dropped) sender->backend->kv_unpin(item->pin);
}

static bool is_still_wanted(struct td_sending *s)
{
    pthread_mutex_lock(&s->sender->mutex);
    const bool wanted = !is_over(s);
    pthread_mutex_unlock(&s->sender->mutex);
    return wanted;
}

// Pins and queues what of a layer must travel now that its positions [0, n) are final.
static void tell_layer(struct td_sending *s, uint32_t layer, uint32_t n, bool is_checkpoint)
{
    struct item item = {.s = s};
    while (td_ledger_next_span(&s->told, layer, n, is_checkpoint, &item.h)) {
        item.h.version = s->sender->data->version;
        item.h.request = s->request.id;
        const struct td_kv_span span = {s->request.kv, layer, item.h.pos0, item.h.n};
        struct td_error err;
        const int code = s->sender->backend->kv_pin(&item.pin, &span, &err);
        if (code) {
            pthread_mutex_lock(&s->sender->mutex);
            fail(s, code, &err);
            pthread_mutex_unlock(&s->sender->mutex);
            return;
        }
        td_ledger_take_span(&s->told, &item.h);
        push(s, &item);
    }
}

static void tell_checkpoint(struct td_sending *s, uint32_t n)
{
    const struct td_wire_checkpoint count = {s->told.n_spans, s->told.span_sum};
    if (n >= s->told.end || td_ledger_checkpoint(&s->told, n, &count, NULL) != TD_OK) return;
    const struct item item = {.s = s,
                              .h = {.version = s->sender->data->version,
                                    .type = TD_WIRE_CHECKPOINT,
                                    .request = s->request.id,
                                    .n = n}};
    push(s, &item);
}

void td_sending_layer_done(struct td_sending *s, const struct td_kv_span *span)
{
    assert(span->kv == s->request.kv);
    if (!is_still_wanted(s)) return;
    const uint32_t n = span->pos0 + span->n;
    const bool is_due = td_ledger_is_due(&s->told, n, s->request.checkpoint_tokens);
    tell_layer(s, span->layer, n, is_due);
    if (is_due && span->layer + 1 == s->told.n_layers) tell_checkpoint(s, n);
}

void td_sending_reused(struct td_sending *s, uint32_t n)
{
    if (n > s->told.end) n = s->told.end;
    if (n <= s->told.have) return;
    const bool is_due = td_ledger_is_due(&s->told, n, s->request.checkpoint_tokens);
    for (uint32_t il = 0; il < s->told.n_layers; il++) tell_layer(s, il, n, is_due);
    if (is_due) tell_checkpoint(s, n);
}

void td_sending_finish(struct td_sending *s, const struct td_send_account *account)
{
    const struct item item = {.s = s,
                              .h = {.version = s->sender->data->version,
                                    .type = TD_WIRE_FINAL,
                                    .request = s->request.id,
                                    .n = s->told.end},
                              .account = *account};
    push(s, &item);
}

// ---- for any thread ---------------------------------------------------------------------------

void td_sending_cancel(struct td_sending *s)
{
    pthread_mutex_lock(&s->sender->mutex);
    s->is_cancelled = true;
    pthread_cond_broadcast(&s->sender->changed);
    pthread_mutex_unlock(&s->sender->mutex);
}

void td_sending_committed(struct td_sending *s, uint32_t n)
{
    pthread_mutex_lock(&s->sender->mutex);
    if (n > s->n_committed) s->n_committed = n;
    release_committed(s);
    pthread_mutex_unlock(&s->sender->mutex);
}

void td_sending_report(struct td_sending *s, struct td_send_report *out)
{
    pthread_mutex_lock(&s->sender->mutex);
    const struct td_ledger *b = &s->ledger;
    uint32_t n_sent = b->end;
    for (uint32_t il = 0; il < b->n_layers; il++)
        if (b->layers[il].window == 0 && b->layers[il].mark < n_sent) n_sent = b->layers[il].mark;
    *out = (struct td_send_report){.n_sent = n_sent,
                                   .n_spans = b->n_spans,
                                   .sent_bytes = b->span_bytes,
                                   .stall_ns = s->stall_ns,
                                   .n_pinned = s->n_pinned,
                                   .is_final_sent = s->is_final_sent,
                                   .code = s->code           ? s->code
                                           : s->is_cancelled ? TD_ECANCEL
                                                             : TD_OK,
                                   .err = s->err};
    pthread_mutex_unlock(&s->sender->mutex);
}

void td_sending_wait(struct td_sending *s, uint32_t wait_ms)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += wait_ms / 1000;
    until.tv_nsec += (long)(wait_ms % 1000) * 1000000;
    if (until.tv_nsec >= 1000000000) until.tv_sec++, until.tv_nsec -= 1000000000;
    pthread_mutex_lock(&s->sender->mutex);
    int result = 0;
    while (!s->is_final_sent && !is_over(s) && result != ETIMEDOUT)
        result = pthread_cond_timedwait(&s->sender->changed, &s->sender->mutex, &until);
    pthread_mutex_unlock(&s->sender->mutex);
}

// ---- begin and end ----------------------------------------------------------------------------

int td_sending_begin(struct td_sending **out, struct td_sender *sender,
                     const struct td_send_request *request, struct td_error *err)
{
    *out = NULL;
    struct td_sending *s = calloc(1, sizeof(*s));
    if (!s) return td_fail(err, TD_ENOMEM, "no memory for a request");
    s->sender = sender;
    s->request = *request;
    const int code = td_ledger_init(&s->told, request->spec, request->kv_type, request->have,
                                    request->n_tokens, err);
    if (code) {
        free(s);
        return code;
    }
    s->ledger = s->told;
    pthread_mutex_lock(&sender->mutex);
    s->next = sender->requests;
    sender->requests = s;
    pthread_mutex_unlock(&sender->mutex);
    *out = s;
    return TD_OK;
}

void td_sending_end(struct td_sending *s)
{
    if (!s) return;
    struct td_sender *sender = s->sender;
    pthread_mutex_lock(&sender->mutex);
    s->is_cancelled = true;
    pthread_cond_broadcast(&sender->changed);
    while (s->n_queued > 0) pthread_cond_wait(&sender->changed, &sender->mutex);
    struct td_sending **at = &sender->requests;
    while (*at != s) at = &(*at)->next;
    *at = s->next;
    pthread_mutex_unlock(&sender->mutex);
    for (uint32_t i = 0; i < s->n_sent; i++)
        if (s->sent[i].pin) sender->backend->kv_unpin(s->sent[i].pin);
    free(s->sent);
    free(s);
}

int td_sender_open(struct td_sender **out, const struct td_sender_config *cfg,
                   struct td_frames *data, struct td_error *err)
{
    *out = NULL;
    struct td_sender *sender = calloc(1, sizeof(*sender));
    if (!sender) return td_fail(err, TD_ENOMEM, "no memory for a connection");
    sender->backend = cfg->backend;
    sender->data = data;
    sender->n_queue = cfg->n_queue ? cfg->n_queue : N_QUEUE;
    sender->queue = calloc(sender->n_queue, sizeof(*sender->queue));
    sender->bytes = malloc(TD_WIRE_MAX_DATA);
    pthread_mutex_init(&sender->mutex, NULL);
    pthread_cond_init(&sender->changed, NULL);
    if (sender->queue && sender->bytes &&
        pthread_create(&sender->thread, NULL, sender_main, sender) == 0) {
        *out = sender;
        return TD_OK;
    }
    pthread_mutex_destroy(&sender->mutex);
    pthread_cond_destroy(&sender->changed);
    free(sender->queue);
    free(sender->bytes);
    free(sender);
    return td_fail(err, TD_ENOMEM, "no memory or thread for a connection");
}

void td_sender_close(struct td_sender *sender)
{
    if (!sender) return;
    assert(!sender->requests);
    pthread_mutex_lock(&sender->mutex);
    sender->is_closing = true;
    pthread_cond_broadcast(&sender->changed);
    pthread_mutex_unlock(&sender->mutex);
    pthread_join(sender->thread, NULL);
    pthread_mutex_destroy(&sender->mutex);
    pthread_cond_destroy(&sender->changed);
    OPENSSL_cleanse(sender->bytes, TD_WIRE_MAX_DATA); // KV is the prompt in another form
    free(sender->queue);
    free(sender->bytes);
    free(sender);
}
