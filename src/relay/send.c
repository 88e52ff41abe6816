// SPDX-License-Identifier: MIT
// A request is a line of frames in the order they were told, with a cursor: what is before it was
// written. A break moves the cursor back, so going on elsewhere is the same as going on. One mutex
// guards the lines of all requests that share connections; it is never held during a read of KV or
// a write to a link, so that the compute thread waits for neither.
#include "relay/send.h"

#include "base/clock.h"
#include "base/num.h"
#include "relay/sys_impl.h"
#include "relay/wirekv.h"

#include <assert.h>
#include <errno.h>
#include <openssl/crypto.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define N_QUEUE 1024

// A frame of a request: SPAN, CHECKPOINT, FINAL or LOGITS.
struct entry {
    struct td_wire_header h; // size and sum of a span: once it was written
    struct td_kv_pin *pin;   // of a span; NULL: the receiver has it
};

struct td_sending {
    pthread_mutex_t *mutex; // its senders'
    const struct td_backend *backend;
    uint32_t n_queue;
    struct td_send_request request;
    struct td_ledger told; // compute leader and engine thread: what was queued

    // Guarded by *mutex.
    pthread_cond_t changed;
    struct td_sender *sender; // NULL: no connection carries it
    struct td_sending *next;  // of the sender
    struct td_ledger ledger;  // what was written
    struct entry *line;       // in order
    uint32_t n_line, line_cap;
    uint32_t n_sent;      // of line: written
    uint32_t n_released;  // of line: pins before are gone
    uint32_t n_pinned;    // spans
    uint32_t n_committed; // positions
    struct td_send_account account;
    float *logits; // of the last token (a canary)
    bool is_busy;  // the sender's thread has line[n_sent] in hand
    bool is_ended; // and forgets all of it then
    bool is_cancelled;
    uint64_t stall_ns;
    int code;
    struct td_error err;
};

struct td_sender {
    struct td_sender_config cfg;
    struct td_frames *data;
    uint8_t *bytes; // (TD_WIRE_MAX_DATA) a span as it travels; sender thread
    uint8_t *raw;   // (raw_bytes) a span in the KV's own type, when that is another; sender thread
    size_t raw_bytes;
    pthread_t thread;
    pthread_mutex_t own_mutex;
    pthread_mutex_t *mutex; // guards all below, and what a request says
    pthread_cond_t wake;    // of the thread
    struct td_sending *requests;
    bool is_closing;
    int code; // why the link carries nothing more
    struct td_error err;
};

static bool is_over(const struct td_sending *s)
{
    return s->is_cancelled || s->is_ended || s->code;
}

static bool is_away(const struct td_sending *s)
{
    return !s->sender || s->sender->code || s->sender->is_closing;
}

static void fail(struct td_sending *s, int code, const struct td_error *err)
{
    if (s->code) return; // the first reason counts
    s->code = code;
    s->err = *err;
    pthread_cond_broadcast(&s->changed);
}

static void unpin(struct td_sending *s, struct entry *at)
{
    if (!at->pin) return;
    s->backend->kv_unpin(at->pin);
    at->pin = NULL;
    s->n_pinned--;
}

static void destroy(struct td_sending *s)
{
    for (uint32_t i = 0; i < s->n_line; i++) unpin(s, &s->line[i]);
    pthread_cond_destroy(&s->changed);
    free(s->logits);
    free(s->line);
    free(s);
}

static void leave(struct td_sending *s)
{
    struct td_sending **at = &s->sender->requests;
    while (*at != s) at = &(*at)->next;
    *at = s->next;
    s->sender = NULL;
    s->next = NULL;
    pthread_cond_broadcast(&s->changed);
}

// Behind those that have waited longer.
static void join(struct td_sending *s, struct td_sender *sender)
{
    struct td_sending **at = &sender->requests;
    while (*at) at = &(*at)->next;
    *at = s;
    s->next = NULL;
    s->sender = sender;
    pthread_cond_signal(&sender->wake);
}

// ---- for the sender thread --------------------------------------------------------------------

// Unpins what the receiver has: all before the checkpoint that says so.
static void release_committed(struct td_sending *s)
{
    uint32_t n_done = s->n_released;
    for (uint32_t i = s->n_released; i < s->n_sent; i++) {
        const struct td_wire_header *h = &s->line[i].h;
        if (h->type == TD_WIRE_CHECKPOINT || h->type == TD_WIRE_FINAL)
            if (h->n <= s->n_committed) n_done = i + 1;
    }
    for (; s->n_released < n_done; s->n_released++) unpin(s, &s->line[s->n_released]);
}

// Reads a span in the type in which it travels.
static int read_span(struct td_sender *sender, struct td_sending *s, const struct entry *e,
                     struct td_error *err)
{
    const struct td_wire_header *h = &e->h;
    if (s->request.kv_type != TD_Q8_0)
        return s->backend->kv_read(e->pin, sender->bytes, h->size_bytes, err);
    const struct td_kv_layer *l = &s->request.spec->kv[h->layer];
    const size_t n_values = (size_t)h->n * 2 * l->n_kv_heads * l->head_dim;
    const size_t n_bytes = td_wirekv_plain_bytes(s->request.own_type, n_values);
    if (n_bytes > sender->raw_bytes) {
        free(sender->raw);
        sender->raw = malloc(n_bytes);
        sender->raw_bytes = sender->raw ? n_bytes : 0;
        if (!sender->raw) return td_fail(err, TD_ENOMEM, "no memory to convert KV");
    }
    const int code = s->backend->kv_read(e->pin, sender->raw, n_bytes, err);
    if (!code) td_wirekv_pack(sender->bytes, sender->raw, s->request.own_type, n_values);
    return code;
}

static int write_span(struct td_sender *sender, struct entry *e, struct td_error *err)
{
    uint8_t header[TD_WIRE_HEADER_BYTES];
    td_wire_seal(header, &e->h, sender->bytes, e->h.size_bytes);
    return td_frames_write_bulk(sender->data, header, sender->bytes, e->h.size_bytes, err);
}

static int write_logits(struct td_sender *sender, const struct td_sending *s, struct entry *e,
                        struct td_error *err)
{
    const float *logits = s->logits + e->h.pos0;
    const uint32_t n_bytes = e->h.n * (uint32_t)sizeof(float);
    uint8_t header[TD_WIRE_HEADER_BYTES];
    td_wire_seal(header, &e->h, logits, n_bytes);
    return td_frames_write_bulk(sender->data, header, logits, n_bytes, err);
}

// Makes the frame of a checkpoint, or of FINAL at the end, from what was written; the own ledger
// must find it as whole as the receiver's will.
static int make_mark(struct td_sending *s, const struct entry *e, struct td_wire_msg *out,
                     struct td_error *err)
{
    *out = (struct td_wire_msg){.h = e->h};
    if (e->h.type == TD_WIRE_CHECKPOINT) {
        out->u.checkpoint = (struct td_wire_checkpoint){s->ledger.n_spans, s->ledger.span_sum};
        return td_ledger_checkpoint(&s->ledger, e->h.n, &out->u.checkpoint, err);
    }
    out->u.final = (struct td_wire_final){.n_spans = s->ledger.n_spans,
                                          .span_sum = s->ledger.span_sum,
                                          .span_bytes = s->ledger.span_bytes,
                                          .far_ns = s->account.far_ns,
                                          .stall_ns = s->stall_ns,
                                          .n_computed = s->account.n_computed,
                                          .n_reused = s->account.n_reused};
    return td_ledger_final(&s->ledger, e->h.n, &out->u.final, err);
}

// Reads what the frame carries (*is_read), then writes it. Called without the mutex.
static int carry(struct td_sender *sender, struct td_sending *s, struct entry *e,
                 const struct td_wire_msg *mark, bool *is_read, struct td_error *err)
{
    int code = e->h.type == TD_WIRE_SPAN ? read_span(sender, s, e, err) : TD_OK;
    *is_read = !code;
    if (code) return code;
    if (e->h.type == TD_WIRE_SPAN) return write_span(sender, e, err);
    if (e->h.type == TD_WIRE_LOGITS) return write_logits(sender, s, e, err);
    return td_frames_write(sender->data, mark, err);
}

// Takes the next frame of s to the link. Called and returns with the mutex held; gives it up to
// read and write.
static void handle(struct td_sender *sender, struct td_sending *s)
{
    struct entry e = s->line[s->n_sent];
    e.h.version = sender->data->version;
    const bool is_mark = e.h.type == TD_WIRE_CHECKPOINT || e.h.type == TD_WIRE_FINAL;
    struct td_wire_msg mark;
    struct td_error err;
    int code = is_mark ? make_mark(s, &e, &mark, &err) : TD_OK;
    if (code) {
        fail(s, code, &err);
        return;
    }
    s->is_busy = true;
    pthread_mutex_unlock(sender->mutex);
    bool is_read;
    code = carry(sender, s, &e, &mark, &is_read, &err);
    pthread_mutex_lock(sender->mutex);
    s->is_busy = false;
    if (code && is_read) {
        sender->code = code;
        sender->err = err;
        td_link_cancel(sender->data->link); // whoever reads there hears of it
        for (struct td_sending *at = sender->requests; at; at = at->next)
            pthread_cond_broadcast(&at->changed);
    } else if (code) {
        fail(s, code, &err);
    } else {
        s->line[s->n_sent++].h = e.h;
        if (e.h.type == TD_WIRE_SPAN) td_ledger_take_span(&s->ledger, &e.h);
        release_committed(s); // COMMITTED may have been quicker
    }
    pthread_cond_broadcast(&s->changed);
    // Requests take turns, a frame each.
    leave(s);
    if (s->is_ended)
        destroy(s);
    else
        join(s, sender);
}

static void *sender_main(void *ctx)
{
    struct td_sender *sender = ctx;
    pthread_mutex_lock(sender->mutex);
    while (!sender->is_closing) {
        struct td_sending *s = sender->code ? NULL : sender->requests;
        while (s && (is_over(s) || s->n_sent == s->n_line)) s = s->next;
        if (s)
            handle(sender, s);
        else
            pthread_cond_wait(&sender->wake, sender->mutex);
    }
    pthread_mutex_unlock(sender->mutex);
    return NULL;
}

// ---- for the compute thread -------------------------------------------------------------------

static bool lags(const struct td_sending *s)
{
    return s->n_line - s->n_sent >= s->n_queue && !is_over(s) && !is_away(s);
}

static bool must_wait(const struct td_sending *s)
{
    return !s->request.never_waits && lags(s);
}

bool td_sending_lags(struct td_sending *s)
{
    pthread_mutex_lock(s->mutex);
    const bool yes = lags(s);
    pthread_mutex_unlock(s->mutex);
    return yes;
}

void td_sending_stalled(struct td_sending *s, uint64_t ns)
{
    pthread_mutex_lock(s->mutex);
    s->stall_ns += ns;
    pthread_mutex_unlock(s->mutex);
}

static bool grow(struct td_sending *s)
{
    if (s->n_line < s->line_cap) return true;
    const uint32_t cap = s->line_cap ? 2 * s->line_cap : 256;
    struct entry *grown = realloc(s->line, cap * sizeof(*grown));
    if (!grown) return false;
    s->line = grown;
    s->line_cap = cap;
    return true;
}

// Queues an entry, or lets go of it when the request is over. A request that no connection carries
// waits for nothing: what it queues is bounded by its own length.
static void push(struct td_sending *s, struct entry *e)
{
    e->h.request = s->request.id;
    pthread_mutex_lock(s->mutex);
    if (must_wait(s)) {
        const uint64_t t0 = td_clock_ns();
        while (must_wait(s)) pthread_cond_wait(&s->changed, s->mutex);
        s->stall_ns += td_clock_ns() - t0;
    }
    struct td_error err;
    if (!is_over(s) && !grow(s)) fail(s, td_fail(&err, TD_ENOMEM, "no memory to send KV"), &err);
    const bool is_dropped = is_over(s);
    if (!is_dropped) {
        s->line[s->n_line++] = *e;
        s->n_pinned += e->pin != NULL;
        if (s->sender) pthread_cond_signal(&s->sender->wake);
    }
    pthread_mutex_unlock(s->mutex);
    if (is_dropped && e->pin) s->backend->kv_unpin(e->pin);
}

static bool is_still_wanted(struct td_sending *s)
{
    pthread_mutex_lock(s->mutex);
    const bool wanted = !is_over(s);
    pthread_mutex_unlock(s->mutex);
    return wanted;
}

// Pins and queues what of a layer must travel now that its positions [0, n) are final; kv has them.
static void tell_layer(struct td_sending *s, struct td_kv *kv, uint32_t layer, uint32_t n,
                       bool is_checkpoint)
{
    struct entry e = {0};
    while (td_ledger_next_span(&s->told, layer, n, is_checkpoint, &e.h)) {
        const struct td_kv_span span = {kv, layer, e.h.pos0, e.h.n};
        struct td_error err;
        const int code = s->backend->kv_pin(&e.pin, &span, &err);
        if (code) {
            pthread_mutex_lock(s->mutex);
            fail(s, code, &err);
            pthread_mutex_unlock(s->mutex);
            return;
        }
        td_ledger_take_span(&s->told, &e.h);
        push(s, &e);
    }
}

static void tell_checkpoint(struct td_sending *s, uint32_t n)
{
    const struct td_wire_checkpoint count = {s->told.n_spans, s->told.span_sum};
    if (n >= s->told.end || td_ledger_checkpoint(&s->told, n, &count, NULL) != TD_OK) return;
    struct entry e = {.h = {.type = TD_WIRE_CHECKPOINT, .n = n}};
    push(s, &e);
}

// Positions [0, n) are final in all layers of kv.
static void tell_all(struct td_sending *s, struct td_kv *kv, uint32_t n)
{
    const bool is_due = td_ledger_is_due(&s->told, n, s->request.checkpoint_tokens);
    for (uint32_t il = 0; il < s->told.n_layers; il++) tell_layer(s, kv, il, n, is_due);
    if (is_due) tell_checkpoint(s, n);
}

void td_sending_layer_done(struct td_sending *s, const struct td_kv_span *span)
{
    assert(span->kv == s->request.kv);
    if (s->request.send_at_end || !is_still_wanted(s)) return;
    const uint32_t n = td_min_u32(span->pos0 + span->n, s->told.end);
    const bool is_due = td_ledger_is_due(&s->told, n, s->request.checkpoint_tokens);
    tell_layer(s, span->kv, span->layer, n, is_due);
    if (is_due && span->layer + 1 == s->told.n_layers) tell_checkpoint(s, n);
}

static bool has_windows(const struct td_sending *s)
{
    uint32_t il = 0;
    while (il < s->told.n_layers && s->told.layers[il].window == 0) il++;
    return il < s->told.n_layers;
}

void td_sending_reused(struct td_sending *s, uint32_t n, const struct td_timeline *held)
{
    n = td_min_u32(n, s->told.end);
    if (n <= s->told.have || s->request.send_at_end) return;
    uint64_t at = (uint64_t)s->told.have + s->request.checkpoint_tokens;
    for (; !has_windows(s) && at < n; at += s->request.checkpoint_tokens)
        tell_all(s, s->request.kv, (uint32_t)at);
    // What sliding-window layers have forgotten is still where the timeline can be taken up.
    for (uint32_t i = 0; held && has_windows(s) && i < held->n_places; i++) {
        const struct td_place *p = &held->places[i];
        if (p->pos < n && td_ledger_is_due(&s->told, p->pos, s->request.checkpoint_tokens))
            tell_all(s, p->kv, p->pos);
    }
    tell_all(s, s->request.kv, n);
}

void td_sending_logits(struct td_sending *s, const float *logits, uint32_t n)
{
    float *copy = malloc(n * sizeof(*copy));
    struct td_error err;
    pthread_mutex_lock(s->mutex);
    assert(!s->logits);
    s->logits = copy;
    if (!copy) fail(s, td_fail(&err, TD_ENOMEM, "no memory for logits"), &err);
    pthread_mutex_unlock(s->mutex);
    if (!copy) return;
    memcpy(copy, logits, n * sizeof(*copy));
    const uint32_t n_frame = TD_WIRE_MAX_DATA / (uint32_t)sizeof(float);
    for (uint32_t i = 0; i < n; i += n_frame) {
        struct entry e = {
            .h = {.type = TD_WIRE_LOGITS, .pos0 = i, .n = td_min_u32(n_frame, n - i)}};
        push(s, &e);
    }
}

void td_sending_finish(struct td_sending *s, const struct td_send_account *account)
{
    if (s->request.send_at_end) tell_all(s, s->request.kv, s->told.end);
    pthread_mutex_lock(s->mutex);
    s->account = *account;
    pthread_mutex_unlock(s->mutex);
    struct entry e = {.h = {.type = TD_WIRE_FINAL, .n = s->told.end}};
    push(s, &e);
}

// ---- for any thread ---------------------------------------------------------------------------

void td_sending_cancel(struct td_sending *s)
{
    pthread_mutex_lock(s->mutex);
    s->is_cancelled = true;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(s->mutex);
}

void td_sending_committed(struct td_sending *s, uint32_t n)
{
    pthread_mutex_lock(s->mutex);
    if (n > s->n_committed) s->n_committed = n;
    release_committed(s);
    pthread_mutex_unlock(s->mutex);
}

// Whether FINAL is among the first n of the line.
static bool is_final_in(const struct td_sending *s, uint32_t n)
{
    return n > 0 && s->line[n - 1].h.type == TD_WIRE_FINAL;
}

void td_sending_report(struct td_sending *s, struct td_send_report *out)
{
    pthread_mutex_lock(s->mutex);
    const struct td_ledger *b = &s->ledger;
    uint32_t n_sent = b->end;
    for (uint32_t il = 0; il < b->n_layers; il++)
        if (b->layers[il].window == 0 && b->layers[il].mark < n_sent) n_sent = b->layers[il].mark;
    *out = (struct td_send_report){.n_sent = n_sent,
                                   .n_spans = b->n_spans,
                                   .sent_bytes = b->span_bytes,
                                   .stall_ns = s->stall_ns,
                                   .n_waiting = s->n_line - s->n_sent,
                                   .n_pinned = s->n_pinned,
                                   .is_finished = is_final_in(s, s->n_line),
                                   .is_final_sent = is_final_in(s, s->n_sent),
                                   .is_away = is_away(s),
                                   .code = s->code           ? s->code
                                           : s->is_cancelled ? TD_ECANCEL
                                                             : TD_OK,
                                   .err = s->err};
    if (!out->code && s->sender && s->sender->code) {
        out->code = s->sender->code;
        out->err = s->sender->err;
    }
    pthread_mutex_unlock(s->mutex);
}

void td_sending_wait(struct td_sending *s, uint32_t wait_ms)
{
    const uint64_t until_ns = td_cond_deadline(wait_ms);
    pthread_mutex_lock(s->mutex);
    int result = 0;
    while (!is_final_in(s, s->n_sent) && !is_over(s) && !is_away(s) && result != ETIMEDOUT)
        result = td_cond_wait_until(&s->changed, s->mutex, until_ns);
    pthread_mutex_unlock(s->mutex);
}

// ---- after a break ----------------------------------------------------------------------------

// How many entries at the line's start the receiver has. Mutex held.
static int count_there(const struct td_sending *s, const uint32_t *marks,
                       const struct td_wire_resume *resume, uint32_t *n_out, struct td_error *err)
{
    const uint32_t n = s->n_sent;
    struct td_ledger_record *records = calloc(n ? n : 1, sizeof(*records));
    bool *is_there = calloc(n ? n : 1, sizeof(*is_there));
    *n_out = 0;
    if (!records || !is_there) {
        free(records);
        free(is_there);
        return td_fail(err, TD_ENOMEM, "no memory to resume");
    }
    for (uint32_t i = 0; i < n; i++) {
        const struct td_wire_header *h = &s->line[i].h;
        records[i] = (struct td_ledger_record){.layer = TD_LEDGER_CHECKPOINT, .n = h->n};
        if (h->type == TD_WIRE_SPAN)
            records[i] = (struct td_ledger_record){td_wire_span_digest(h), h->layer, h->pos0, h->n};
    }
    const int code = td_ledger_resume(records, n, marks, s->told.n_layers, resume, is_there, err);
    // One connection keeps the order: what arrived is the line's start.
    while (!code && *n_out < n && is_there[*n_out]) ++*n_out;
    free(records);
    free(is_there);
    return code;
}

// The ledger as it was when the first n entries were written.
static int replay(struct td_sending *s, uint32_t n, struct td_error *err)
{
    const struct td_send_request *r = &s->request;
    int code = td_ledger_init(&s->ledger, r->spec, r->kv_type, r->have, r->n_tokens, err);
    for (uint32_t i = 0; i < n && !code; i++) {
        const struct td_wire_header *h = &s->line[i].h;
        const struct td_wire_checkpoint count = {s->ledger.n_spans, s->ledger.span_sum};
        if (h->type == TD_WIRE_SPAN)
            td_ledger_take_span(&s->ledger, h);
        else if (h->type == TD_WIRE_CHECKPOINT)
            code = td_ledger_checkpoint(&s->ledger, h->n, &count, err);
    }
    return code;
}

int td_sending_resume(struct td_sending *s, struct td_sender *sender, const uint32_t *marks,
                      const struct td_wire_resume *resume, struct td_error *err)
{
    pthread_mutex_lock(s->mutex);
    assert(!s->sender && !s->is_busy && s->mutex == sender->mutex);
    int code = is_over(s) ? td_fail(err, TD_ECANCEL, "the request is over") : TD_OK;
    uint32_t n_there = 0;
    if (!code) code = count_there(s, marks, resume, &n_there, err);
    for (uint32_t i = n_there; i < s->n_line && !code; i++)
        if (s->line[i].h.type == TD_WIRE_SPAN && !s->line[i].pin)
            code = td_fail(err, TD_EFORMAT, "RESUME: the receiver lacks what it had committed");
    if (!code) code = replay(s, n_there, err);
    if (!code) {
        s->n_sent = n_there;
        join(s, sender);
    }
    pthread_mutex_unlock(s->mutex);
    return code;
}

// ---- begin and end ----------------------------------------------------------------------------

int td_sending_begin(struct td_sending **out, struct td_sender *sender,
                     const struct td_send_request *request, struct td_error *err)
{
    *out = NULL;
    const struct td_sender_config *cfg = sender ? &sender->cfg : request->away;
    struct td_sending *s = calloc(1, sizeof(*s));
    if (!s) return td_fail(err, TD_ENOMEM, "no memory for a request");
    s->mutex = sender ? sender->mutex : cfg->mutex;
    s->backend = cfg->backend;
    s->n_queue = cfg->n_queue ? cfg->n_queue : N_QUEUE;
    s->request = *request;
    const int code = td_ledger_init(&s->told, request->spec, request->kv_type, request->have,
                                    request->n_tokens, err);
    if (code) {
        free(s);
        return code;
    }
    s->ledger = s->told;
    td_cond_init(&s->changed);
    pthread_mutex_lock(s->mutex);
    if (sender) join(s, sender);
    pthread_mutex_unlock(s->mutex);
    *out = s;
    return TD_OK;
}

void td_sending_end(struct td_sending *s)
{
    if (!s) return;
    pthread_mutex_t *mutex = s->mutex;
    pthread_mutex_lock(mutex);
    s->is_ended = true;
    if (!s->is_busy) {
        if (s->sender) leave(s);
        destroy(s);
    }
    pthread_mutex_unlock(mutex);
}

int td_sender_open(struct td_sender **out, const struct td_sender_config *cfg,
                   struct td_frames *data, struct td_error *err)
{
    *out = NULL;
    struct td_sender *sender = calloc(1, sizeof(*sender));
    if (!sender) return td_fail(err, TD_ENOMEM, "no memory for a connection");
    sender->cfg = *cfg;
    sender->data = data;
    sender->bytes = malloc(TD_WIRE_MAX_DATA);
    sender->mutex = cfg->mutex ? cfg->mutex : &sender->own_mutex;
    pthread_mutex_init(&sender->own_mutex, NULL);
    pthread_cond_init(&sender->wake, NULL);
    if (sender->bytes && pthread_create(&sender->thread, NULL, sender_main, sender) == 0) {
        *out = sender;
        return TD_OK;
    }
    pthread_mutex_destroy(&sender->own_mutex);
    pthread_cond_destroy(&sender->wake);
    free(sender->bytes);
    free(sender);
    return td_fail(err, TD_ENOMEM, "no memory or thread for a connection");
}

void td_sender_close(struct td_sender *sender)
{
    if (!sender) return;
    pthread_mutex_lock(sender->mutex);
    sender->is_closing = true;
    for (struct td_sending *s = sender->requests; s; s = s->next)
        pthread_cond_broadcast(&s->changed);
    pthread_cond_signal(&sender->wake);
    pthread_mutex_unlock(sender->mutex);
    pthread_join(sender->thread, NULL);
    pthread_mutex_lock(sender->mutex);
    assert(!sender->requests || sender->cfg.mutex); // else their mutex ends here
    while (sender->requests) leave(sender->requests);
    pthread_mutex_unlock(sender->mutex);
    pthread_mutex_destroy(&sender->own_mutex);
    pthread_cond_destroy(&sender->wake);
    OPENSSL_cleanse(sender->bytes, TD_WIRE_MAX_DATA); // KV is the prompt in another form
    if (sender->raw) OPENSSL_cleanse(sender->raw, sender->raw_bytes);
    free(sender->raw);
    free(sender->bytes);
    free(sender);
}
