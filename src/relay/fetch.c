// SPDX-License-Identifier: MIT
// One request, as the decode side lives through it: asks, takes in what comes (recv.h), commits,
// goes on after a break, keeps the account of where the time went.
#include "relay/far_impl.h"

#include "base/num.h"

#include <assert.h>
#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>

#define BACKOFF_MS     20u // doubled after each try
#define MAX_BACKOFF_MS 500u
#define MAX_TRIES      2u          // REQUESTs for one fetch
#define DRAIN_NS       1000000000u // what comes later than that after an end is not waited for

static uint64_t ms(uint32_t n)
{
    return (uint64_t)n * MS_NS;
}

// ---- the account ------------------------------------------------------------------------------

// A wait for a header that is longer means that the socket was empty.
#define EMPTY_NS 100000u
// What a stretch must hold to say something about the link.
#define RATE_BYTES      (256u << 10)
#define RATE_NS         2000000u
#define RATE_MANY_BYTES (1u << 20)

static void begin_frame(struct td_stretch *t, uint64_t waited_ns)
{
    if (t->is_on && waited_ns < EMPTY_NS) return;
    const uint64_t now_ns = td_clock_ns();
    *t = (struct td_stretch){
        .start_ns = now_ns, .last_ns = now_ns, .is_on = true, .is_sound = waited_ns >= EMPTY_NS};
}

// A span has come: its time goes to the request, its speed to the link. Mutex held.
static void end_frame(struct td_fetch *f, struct td_stretch *t, const struct td_wire_header *h)
{
    const uint64_t now_ns = td_clock_ns();
    f->transfer_ns += now_ns - t->last_ns;
    t->last_ns = now_ns;
    t->bytes += h->size_bytes;
    // All of it came after the stretch began, so that the link is never called faster than it is;
    // and only while more was there to read, so that a slow prefill does not make it slow.
    const uint64_t ns = now_ns - t->start_ns;
    if (!t->is_sound || ns == 0 || t->bytes < RATE_BYTES) return;
    if (ns < RATE_NS && t->bytes < RATE_MANY_BYTES) return;
    const double rate = (double)t->bytes / ((double)ns / 1e9);
    if (rate > f->far->link_bytes_per_s) f->far->link_bytes_per_s = rate;
}

// Our clock when the peer's computing would have begun, had it never paused: the arrival of what it
// said while it computed, less the time it said it had spent, less half a round trip. The least of
// these is the one that was not late. Mutex held.
static void place_far_begin(struct td_fetch *f, uint64_t far_ns)
{
    const int64_t at_ns = (int64_t)(td_clock_ns() - f->far->round_trip_ns / 2);
    const int64_t begin_ns = far_ns < (uint64_t)at_ns ? at_ns - (int64_t)far_ns : 0;
    if (!f->has_anchor || begin_ns < f->anchor_ns) f->anchor_ns = begin_ns;
    f->has_anchor = true;
}

// When the peer had computed all, by our clock; far_ns is FINAL's. Mutex held.
static uint64_t place_far_end(const struct td_fetch *f, uint64_t far_ns)
{
    const uint64_t half_ns = f->far->round_trip_ns / 2;
    // A short request ends before its first PROGRESS: then it began with ACCEPT.
    uint64_t begin_ns = f->accept_ns > half_ns ? f->accept_ns - half_ns : 0;
    if (f->has_anchor) begin_ns = f->anchor_ns > 0 ? (uint64_t)f->anchor_ns : 0;
    if (begin_ns < f->begin_ns) begin_ns = f->begin_ns;
    // FINAL was written after that.
    const uint64_t most_ns = f->final_ns > half_ns ? f->final_ns - half_ns : 0;
    if (begin_ns >= most_ns) return most_ns;
    return far_ns < most_ns - begin_ns ? begin_ns + far_ns : most_ns;
}

void td_fetch_report(struct td_fetch *f, struct td_fetch_report *out)
{
    struct td_recv_report in;
    td_recv_report(f->recv, &in);
    pthread_mutex_lock(&f->far->mutex);
    const bool is_final = f->state == TD_FETCH_DONE;
    const uint64_t end_ns = f->state == TD_FETCH_RUNNING ? td_clock_ns() : f->end_ns;
    const uint64_t far_ns = is_final ? in.far_ns : f->progress.far_ns;
    const uint64_t stall_ns = is_final ? in.far_stall_ns : f->progress.stall_ns;
    *out = (struct td_fetch_report){
        .n_tokens = f->n,
        .n_have = f->have,
        .n_committed = f->n_committed,
        .n_far_computed = is_final ? f->n - 1 : f->progress.n_computed,
        .n_far_reused = f->accept.n_reused,
        .bytes = f->bytes,
        .kv_bytes = f->accept.kv_bytes,
        .n_resumed = f->n_resumed,
        .seconds = (double)(end_ns - f->begin_ns) / 1e9,
        .far_seconds = (double)far_ns / 1e9,
        .stall_seconds = (double)stall_ns / 1e9,
        .transfer_seconds = (double)f->transfer_ns / 1e9,
    };
    if (is_final) {
        const uint64_t far_end_ns = place_far_end(f, far_ns);
        if (f->commit_ns > far_end_ns)
            out->exposed_seconds = (double)(f->commit_ns - far_end_ns) / 1e9;
    }
    if (f->transfer_ns > 0)
        out->link_bytes_per_s = (double)f->bytes / ((double)f->transfer_ns / 1e9);
    pthread_mutex_unlock(&f->far->mutex);
}

// ---- frames from the peer ---------------------------------------------------------------------

// The request of this number, if it runs. Mutex held.
static struct td_fetch *find(struct td_far *far, uint64_t id)
{
    for (struct td_fetch *f = far->fetches; f; f = f->next)
        if (f->id == id && f->state == TD_FETCH_RUNNING) return f;
    return NULL;
}

// Lets go; the last one frees it. Mutex held; recv is closed by whoever is last, which locks
// nothing.
static void unref(struct td_fetch *f)
{
    if (--f->n_refs > 0) return;
    td_recv_close(f->recv);
    OPENSSL_cleanse(f->tokens, (size_t)f->n * sizeof(*f->tokens)); // the prompt
    free(f->tokens);
    free(f);
}

static int take_accept(struct td_fetch *f, const struct td_wire_msg *msg, struct td_error *err)
{
    if (f->n_accepts == 0)
        return td_fail(err, TD_EFORMAT, "%s: ACCEPT that nothing asked for", f->far->cfg.where);
    if (msg->u.accept.n_reused >= f->n)
        return td_fail(err, TD_EFORMAT, "%s: ACCEPT: %u of %u tokens reused", f->far->cfg.where,
                       msg->u.accept.n_reused, f->n);
    f->n_accepts--;
    if (!f->is_accepted) f->accept = msg->u.accept;
    f->is_accepted = true;
    f->accept_ns = f->sign_ns = td_clock_ns();
    return TD_OK;
}

static int take_progress(struct td_fetch *f, const struct td_wire_msg *msg, struct td_error *err)
{
    const struct td_wire_progress *p = &msg->u.progress;
    if (p->n_computed >= f->n || p->n_sent >= f->n || p->far_ns > INT64_MAX)
        return td_fail(err, TD_EFORMAT, "%s: PROGRESS: %u computed, %u sent of %u tokens",
                       f->far->cfg.where, p->n_computed, p->n_sent, f->n);
    f->progress = *p;
    f->sign_ns = td_clock_ns();
    // What is said afterwards says nothing about when it ended.
    if (p->far_ns > 0 && p->n_computed < f->n - 1) place_far_begin(f, p->far_ns);
    return TD_OK;
}

// ERROR for a request. KV that was sent before may still be on its way: see end_told.
static void take_error(struct td_fetch *f, const struct td_wire_msg *msg)
{
    if (msg->u.error.reason == TD_WIRE_E_GONE) {
        f->is_gone = true;
        return;
    }
    char text[sizeof(msg->u.error.msg)];
    td_peer_text(msg->u.error.msg, text, sizeof(text));
    (void)td_fail(&f->over_err, td_far_code_of(msg->u.error.reason), "%s says: %s",
                  f->far->cfg.where, text);
    f->over_ns = td_clock_ns();
    f->is_over_there = true;
}

int td_fetch_control(struct td_conn *c, const struct td_wire_msg *msg, struct td_error *err)
{
    struct td_far *far = c->far;
    int code = TD_OK;
    pthread_mutex_lock(&far->mutex);
    struct td_fetch *f = find(far, msg->h.request);
    if (f && msg->h.type == TD_WIRE_ACCEPT)
        code = take_accept(f, msg, err);
    else if (f && msg->h.type == TD_WIRE_PROGRESS)
        code = take_progress(f, msg, err);
    else if (f)
        take_error(f, msg);
    far->n_events++;
    pthread_cond_broadcast(&far->changed);
    pthread_mutex_unlock(&far->mutex);
    return code;
}

// A frame of a request that is over: read, so that the next one is found.
static int drop(struct td_conn *c, const struct td_wire_header *h, struct td_error *err)
{
    struct td_wire_msg msg;
    return td_conn_payload_in(&c->data, h, &msg, err);
}

int td_fetch_data(struct td_conn *c, struct td_stretch *t, const struct td_wire_header *h,
                  uint64_t waited_ns, struct td_error *err)
{
    struct td_far *far = c->far;
    begin_frame(t, waited_ns);
    pthread_mutex_lock(&far->mutex);
    struct td_fetch *f = find(far, h->request);
    if (f) {
        f->n_refs++;
        f->sign_ns = td_clock_ns();
        if (h->type == TD_WIRE_FINAL) {
            f->is_final_here = true;
            f->final_ns = f->sign_ns;
        }
    }
    pthread_mutex_unlock(&far->mutex);
    if (!f) return drop(c, h, err);
    const int code = td_recv_frame(f->recv, &c->data, h, err);
    pthread_mutex_lock(&far->mutex);
    f->sign_ns = td_clock_ns();
    if (!code && h->type == TD_WIRE_SPAN) {
        f->bytes += h->size_bytes;
        f->is_mended = true;
        end_frame(f, t, h);
    } else {
        t->is_on = false; // the engine's thread was waited for
    }
    if (code && h->type == TD_WIRE_FINAL) f->is_final_here = false;
    unref(f);
    pthread_mutex_unlock(&far->mutex);
    // A request that ended here does not end the connection.
    return code == TD_EIO || code == TD_EFORMAT ? code : TD_OK;
}

bool td_fetch_is_stuck(const struct td_conn *c, uint64_t now_ns, struct td_error *err)
{
    const struct td_far *far = c->far;
    const uint64_t silent_ns = ms(far->cfg.silent_ms);
    const bool is_data_silent =
        !c->is_taking && now_ns > c->data_heard_ns && now_ns - c->data_heard_ns > silent_ns;
    for (const struct td_fetch *f = far->fetches; f; f = f->next) {
        // At FINAL it is the engine's thread here that is waited for.
        if (f->state != TD_FETCH_RUNNING || f->is_final_here) continue;
        if (now_ns > f->sign_ns && now_ns - f->sign_ns > silent_ns) {
            (void)td_fail(err, TD_EIO, "%s: no progress for %.1f seconds", far->cfg.where,
                          far->cfg.silent_ms / 1000.0);
            return true;
        }
        // Of a window layer, or of a chunk still being computed, nothing more may be due for long.
        const bool is_all_sent =
            f->progress.n_sent == f->n - 1 && f->progress.n_computed == f->n - 1;
        const bool is_owed = f->progress.sent_bytes > f->bytes || is_all_sent;
        if (is_data_silent && is_owed) {
            (void)td_fail(err, TD_EIO, "%s: what it sent did not come for %.1f seconds",
                          far->cfg.where, far->cfg.silent_ms / 1000.0);
            return true;
        }
    }
    return false;
}

// ---- asking -----------------------------------------------------------------------------------

static int send_request(struct td_fetch *f, struct td_conn *c, struct td_error *err)
{
    struct td_far *far = f->far;
    const uint64_t id = far->next_request++;
    pthread_mutex_lock(&far->mutex);
    f->id = id;
    f->n_accepts = 1;
    f->is_accepted = f->is_gone = f->is_cancel_said = false;
    f->over_ns = 0;
    f->sign_ns = td_clock_ns();
    f->progress = (struct td_wire_progress){0};
    pthread_mutex_unlock(&far->mutex);
    memcpy(f->made_token, c->welcome.token, sizeof(f->made_token));
    f->n_tries++;
    struct td_wire_msg msg = {
        .h = td_conn_header(c, TD_WIRE_REQUEST, id),
        .u.request = {.n_tokens = f->n,
                      .have = f->have,
                      .checkpoint_tokens = far->cfg.checkpoint_tokens,
                      .flags = f->flags,
                      .have_sum = td_wire_sum(f->tokens, f->have * sizeof(*f->tokens)),
                      .tokens_sum = td_wire_sum(f->tokens, f->n * sizeof(*f->tokens))}};
    msg.h.kv_type = (uint8_t)far->cfg.kv_type;
    int code = td_conn_say(c, &msg, err);
    for (uint32_t i = 0; !code && i < f->n; i += msg.h.n) {
        msg = (struct td_wire_msg){.h = td_conn_header(c, TD_WIRE_TOKENS, id)};
        msg.h.pos0 = i;
        msg.h.n = td_min_u32(f->n - i, TD_WIRE_MAX_TOKENS_FRAME);
        msg.items = f->tokens + i;
        msg.items_bytes = msg.h.n * (uint32_t)sizeof(*f->tokens);
        code = td_conn_say(c, &msg, err);
    }
    return code;
}

// RESUME of what was asked for as id in the session of made_token.
static int say_resume(struct td_conn *c, uint64_t id, const uint8_t made_token[32],
                      uint64_t n_spans, uint64_t span_sum, const uint32_t *marks,
                      struct td_error *err)
{
    const uint32_t n_layers = td_engine_model(c->far->cfg.engine)->spec.n_layers;
    struct td_wire_msg msg = {
        .h = td_conn_header(c, TD_WIRE_RESUME, id),
        .u.resume = {.n_spans = n_spans, .span_sum = span_sum, .n_layers = n_layers},
        .items = marks,
        .items_bytes = n_layers * (uint32_t)sizeof(marks[0])};
    memcpy(msg.u.resume.token, made_token, sizeof(msg.u.resume.token));
    return td_conn_say(c, &msg, err);
}

int td_fetch_resume(struct td_fetch *f, struct td_conn *c, struct td_error *err)
{
    struct td_far *far = f->far;
    struct td_recv_report in;
    uint32_t marks[TD_WIRE_MAX_LAYERS];
    td_recv_report(f->recv, &in);
    td_recv_marks(f->recv, marks);
    pthread_mutex_lock(&far->mutex);
    const bool was_accepted = f->is_accepted;
    f->n_accepts = 1;
    f->is_final_here = f->is_mended = f->is_cancel_said = false;
    f->sign_ns = td_clock_ns();
    pthread_mutex_unlock(&far->mutex);
    if (was_accepted) f->n_resumed++;
    return say_resume(c, f->id, f->made_token, in.n_spans, in.span_sum, marks, err);
}

// The peer, which cannot be reached now, is told later that f was cancelled.
static void owe_cancel(struct td_fetch *f)
{
    struct td_owed *o = calloc(1, sizeof(*o));
    if (!o) return; // the end of its lease tells the peer
    struct td_recv_report in;
    td_recv_report(f->recv, &in);
    td_recv_marks(f->recv, o->marks);
    o->id = f->id;
    o->n_spans = in.n_spans;
    o->span_sum = in.span_sum;
    memcpy(o->made_token, f->made_token, sizeof(o->made_token));
    o->next = f->far->owed;
    f->far->owed = o;
}

int td_fetch_tell_owed(struct td_far *far, struct td_conn *c, struct td_error *err)
{
    int code = TD_OK;
    for (const struct td_owed *o = far->owed; o && !code; o = o->next) {
        code = say_resume(c, o->id, o->made_token, o->n_spans, o->span_sum, o->marks, err);
        const struct td_wire_msg msg = {.h = td_conn_header(c, TD_WIRE_CANCEL, o->id)};
        if (!code) code = td_conn_say(c, &msg, err);
    }
    if (!code) td_fetch_forget(far);
    return code;
}

void td_fetch_forget(struct td_far *far)
{
    while (far->owed) {
        struct td_owed *o = far->owed;
        far->owed = o->next;
        free(o);
    }
}

static void notify(void *ctx)
{
    td_far_event(ctx);
}

// A checkpoint is a place to which the session can return, sliding-window layers and all: the next
// prompt may part from this one before its end. The place takes pages, so room for the rest is made
// again; where there is none, places give way.
static int keep_place(void *ctx, struct td_error *err)
{
    struct td_fetch *f = ctx;
    td_session_mark(f->session);
    return td_session_reserve(f->session, f->n, err);
}

// The session keeps the prefix that it has, and makes room for the rest.
static int prepare_session(struct td_fetch *f, struct td_error *err)
{
    int code = td_session_want(f->session, f->tokens, f->n, NULL, 0, err);
    if (code) return code;
    f->have = td_session_reused(f->session);
    code = td_session_adopt(f->session, f->tokens, f->n, err); // IDLE, with its prefix
    if (code) return code;
    if (f->have + 1 >= f->n)
        return td_fail(err, TD_EARG, "nothing to ask for: %u of %u tokens are here", f->have, f->n);
    return td_session_reserve(f->session, f->n, err);
}

int td_fetch_ask(struct td_fetch **out, struct td_far *far, struct td_session *s,
                 const int32_t *tokens, uint32_t n, float *canary_logits, struct td_error *err)
{
    *out = NULL;
    if (n < 2 || n > TD_WIRE_MAX_TOKENS)
        return td_fail(err, TD_EARG, "a prompt of %u tokens cannot be asked for", n);
    if (n > far->conn->welcome.max_tokens)
        return td_fail(err, TD_ENOMEM, "%s takes prompts of %u tokens at most, this one has %u",
                       far->cfg.where, far->conn->welcome.max_tokens, n);
    struct td_fetch *f = calloc(1, sizeof(*f));
    if (f) f->tokens = malloc(n * sizeof(*f->tokens));
    if (!f || !f->tokens) {
        free(f);
        return td_fail(err, TD_ENOMEM, "no memory for a request");
    }
    memcpy(f->tokens, tokens, n * sizeof(*f->tokens));
    f->far = far;
    f->session = s;
    f->n = n;
    f->flags = canary_logits ? TD_WIRE_CANARY : 0;
    f->begin_ns = td_clock_ns();
    f->n_refs = 1;
    int code = prepare_session(f, err);
    const struct td_recv_request request = {.backend = far->cfg.backend,
                                            .spec = &td_engine_model(far->cfg.engine)->spec,
                                            .kv = td_session_kv(s),
                                            .kv_type = far->cfg.kv_type,
                                            .own_type = far->cfg.engine_kv_type,
                                            .n_tokens = n,
                                            .logits = canary_logits,
                                            .notify = notify,
                                            .notify_ctx = far,
                                            .committed = canary_logits ? NULL : keep_place,
                                            .committed_ctx = f};
    if (!code) code = td_recv_open(&f->recv, &request, err);
    if (code) {
        unref(f);
        return code;
    }
    f->n_committed = f->have;
    if (!far->fetches) far->broken_ns = 0;
    pthread_mutex_lock(&far->mutex);
    f->next = far->fetches;
    far->fetches = f;
    pthread_mutex_unlock(&far->mutex);
    // A connection that breaks now is mended as one that breaks later.
    struct td_error ignored;
    (void)send_request(f, far->conn, &ignored);
    *out = f;
    return TD_OK;
}

int td_fetch_begin(struct td_fetch **out, struct td_far *far, struct td_session *s,
                   const int32_t *tokens, uint32_t n, struct td_error *err)
{
    *out = NULL;
    const int code = td_far_is_up(far) ? TD_OK : td_far_connect(far, err);
    return code ? code : td_fetch_ask(out, far, s, tokens, n, NULL, err);
}

// ---- living through it ------------------------------------------------------------------------

// The request is over. The peer is told, unless it said so itself.
static void finish(struct td_fetch *f, enum td_fetch_state state, int code,
                   const struct td_error *why)
{
    struct td_far *far = f->far;
    pthread_mutex_lock(&far->mutex);
    f->state = state;
    f->end_ns = td_clock_ns();
    f->code = code;
    if (code) f->err = *why;
    const bool is_to_tell =
        code && !f->is_over_there && !f->is_cancel_said && far->conn && !far->conn->code;
    far->n_events++;
    pthread_cond_broadcast(&far->changed);
    const bool is_untold =
        f->is_cancelled && !f->is_over_there && !f->is_cancel_said && !is_to_tell;
    pthread_mutex_unlock(&far->mutex);
    if (is_untold && far->broken_ns) owe_cancel(f);
    if (!is_to_tell) return;
    const struct td_wire_msg msg = {.h = td_conn_header(far->conn, TD_WIRE_CANCEL, f->id)};
    if (td_conn_say(far->conn, &msg, NULL)) return; // down: it will notice
}

static void commit(struct td_fetch *f)
{
    struct td_far *far = f->far;
    if (f->state != TD_FETCH_RUNNING) return;
    uint32_t n;
    bool is_done;
    struct td_error why;
    const int code = td_recv_wait(f->recv, 0, &n, &is_done, &why);
    pthread_mutex_lock(&far->mutex);
    const bool is_new = n > f->n_committed;
    if (is_new) f->commit_ns = td_clock_ns();
    f->n_committed = n;
    const bool is_up = far->conn && !far->conn->code;
    pthread_mutex_unlock(&far->mutex);
    if (is_new && is_up && !code) {
        const struct td_wire_msg msg = {.h = td_conn_header(far->conn, TD_WIRE_COMMITTED, f->id),
                                        .u.n_committed = n};
        (void)td_conn_say(far->conn, &msg, NULL); // down: RESUME says it
    }
    if (code)
        finish(f, TD_FETCH_ENDED, code, &why);
    else if (is_done)
        finish(f, TD_FETCH_DONE, TD_OK, NULL);
}

void td_fetch_commit_all(struct td_far *far)
{
    for (struct td_fetch *f = far->fetches; f; f = f->next) commit(f);
}

void td_fetch_end_all(struct td_far *far, const struct td_error *err)
{
    for (struct td_fetch *f = far->fetches; f; f = f->next)
        if (f->state == TD_FETCH_RUNNING) td_recv_stop(f->recv, err->code, err);
    td_fetch_commit_all(far);
}

// The peer has nothing to resume from: asked again when nothing had come, else over.
static void ask_again(struct td_fetch *f)
{
    struct td_far *far = f->far;
    pthread_mutex_lock(&far->mutex);
    const bool is_gone = f->is_gone && f->state == TD_FETCH_RUNNING;
    f->is_gone = false;
    const bool is_up = far->conn && !far->conn->code;
    pthread_mutex_unlock(&far->mutex);
    if (!is_gone || !is_up) return;
    struct td_recv_report in;
    td_recv_report(f->recv, &in);
    struct td_error why;
    if (in.n_spans == 0 && f->n_tries < MAX_TRIES) {
        if (send_request(f, far->conn, &why)) return; // down: mended as ever
        return;
    }
    pthread_mutex_lock(&far->mutex);
    f->is_over_there = true;
    pthread_mutex_unlock(&far->mutex);
    const int code = td_fail(&why, TD_EIO, "%s has nothing left to go on from", far->cfg.where);
    td_recv_stop(f->recv, code, &why);
}

// Whether all that was under way when something ended has been taken in: the data connection is
// quiet, or gone. Mutex held.
static bool is_drained(const struct td_far *far, uint64_t since_ns, uint64_t now_ns)
{
    const struct td_conn *c = far->conn;
    if (!c || c->n_running == 0 || now_ns - since_ns > DRAIN_NS) return true;
    const uint64_t last_ns = c->data_heard_ns > since_ns ? c->data_heard_ns : since_ns;
    return !c->is_taking && now_ns > last_ns && now_ns - last_ns > TD_CONN_QUIET_NS;
}

// Ends a request of which the peer said that it is over, once what it sent before is here.
static void end_told(struct td_fetch *f)
{
    struct td_far *far = f->far;
    const uint64_t now_ns = td_clock_ns();
    pthread_mutex_lock(&far->mutex);
    const bool is_now = f->over_ns && f->state == TD_FETCH_RUNNING &&
                        (!f->is_accepted || is_drained(far, f->over_ns, now_ns));
    const struct td_error why = f->over_err;
    pthread_mutex_unlock(&far->mutex);
    if (is_now) td_recv_stop(f->recv, why.code, &why);
}

// Why nothing can be mended: the peer wants no more, or the time for it is over.
static bool is_hopeless(struct td_far *far, uint64_t now_ns, struct td_error *why)
{
    bool is_over =
        far->state == TD_FAR_CHECKING || now_ns - far->broken_ns > ms(far->cfg.resume_ms);
    pthread_mutex_lock(&far->mutex);
    const struct td_conn *c = far->conn;
    if (c && c->code) far->break_err = c->err;
    if (c && c->code && c->is_refused) is_over = true;
    pthread_mutex_unlock(&far->mutex);
    *why = far->break_err;
    return is_over;
}

// The link is down while requests run: tries once, if it is time to.
static void mend(struct td_far *far)
{
    const uint64_t now_ns = td_clock_ns();
    if (!far->broken_ns) {
        far->broken_ns = far->retry_ns = now_ns;
        far->backoff_ms = BACKOFF_MS;
    }
    pthread_mutex_lock(&far->mutex);
    const bool is_early = !is_drained(far, far->broken_ns, now_ns);
    pthread_mutex_unlock(&far->mutex);
    if (is_early) return;
    struct td_error why;
    if (is_hopeless(far, now_ns, &why)) {
        why.code = why.code ? why.code : TD_EIO;
        td_far_hang_up(far);
        td_fetch_end_all(far, &why);
        far->broken_ns = 0;
        return;
    }
    if (far->state == TD_FAR_DIALING)
        (void)td_far_tend(far, 0, NULL); // mended once something comes
    else if (!far->has_failed && now_ns >= far->retry_ns)
        td_far_dial(far);
    if (!far->has_failed) return;
    far->has_failed = false;
    far->break_err = far->down_err;
    far->retry_ns = td_clock_ns() + ms(far->backoff_ms);
    far->backoff_ms = td_min_u32(2 * far->backoff_ms, MAX_BACKOFF_MS);
    if (far->down_err.code == TD_EIO || far->down_err.code == TD_EFORMAT) return;
    td_fetch_end_all(far, &far->down_err); // another model, another version, no memory
    far->broken_ns = 0;
}

// Whatever can be done without waiting.
static void move(struct td_fetch *f)
{
    struct td_far *far = f->far;
    td_fetch_commit_all(far);
    for (struct td_fetch *at = far->fetches; at; at = at->next) {
        ask_again(at);
        end_told(at);
    }
    td_fetch_commit_all(far);
    pthread_mutex_lock(&far->mutex);
    if (f->is_mended) far->broken_ns = 0;
    f->is_mended = false;
    pthread_mutex_unlock(&far->mutex);
    if (f->state == TD_FETCH_RUNNING && td_far_is_down(far)) mend(far);
}

// Something is to be done soon without an event.
static bool is_in_between(struct td_fetch *f)
{
    if (td_far_is_down(f->far)) return true;
    pthread_mutex_lock(&f->far->mutex);
    const bool is_over = f->over_ns != 0;
    pthread_mutex_unlock(&f->far->mutex);
    return is_over;
}

enum td_fetch_state td_fetch_poll(struct td_fetch *f, uint32_t wait_ms, struct td_error *err)
{
    struct td_far *far = f->far;
    pthread_mutex_lock(&far->mutex);
    const uint64_t seen = far->n_events;
    pthread_mutex_unlock(&far->mutex);
    move(f);
    if (f->state == TD_FETCH_RUNNING && wait_ms > 0) {
        if (is_in_between(f)) wait_ms = td_min_u32(wait_ms, BACKOFF_MS);
        td_far_wait(far, seen, wait_ms);
        move(f);
    }
    if (f->state == TD_FETCH_ENDED && err) *err = f->err;
    return f->state;
}

void td_fetch_cancel(struct td_fetch *f)
{
    struct td_far *far = f->far;
    struct td_error why;
    pthread_mutex_lock(&far->mutex);
    const bool is_first = !f->is_cancelled && f->state == TD_FETCH_RUNNING;
    f->is_cancelled = true;
    struct td_conn *c = is_first && far->conn && !far->conn->code ? far->conn : NULL;
    if (c) c->n_users++;
    if (c) f->is_cancel_said = true;
    const uint64_t id = f->id;
    pthread_mutex_unlock(&far->mutex);
    if (is_first) td_recv_stop(f->recv, td_fail(&why, TD_ECANCEL, "cancelled"), &why);
    if (!c) return;
    const struct td_wire_msg msg = {.h = td_conn_header(c, TD_WIRE_CANCEL, id)};
    (void)td_conn_say(c, &msg, NULL); // down: it will notice
    pthread_mutex_lock(&far->mutex);
    c->n_users--;
    far->n_events++;
    pthread_cond_broadcast(&far->changed);
    pthread_mutex_unlock(&far->mutex);
}

void td_fetch_end(struct td_fetch *f)
{
    if (!f) return;
    struct td_far *far = f->far;
    td_fetch_cancel(f);
    commit(f); // nobody touches the KV any more
    const int code = td_session_adopt(f->session, f->tokens, f->n, NULL);
    assert(code == TD_OK); // the KV is within the prompt
    (void)code;
    pthread_mutex_lock(&far->mutex);
    struct td_fetch **at = &far->fetches;
    while (*at != f) at = &(*at)->next;
    *at = f->next;
    unref(f);
    pthread_mutex_unlock(&far->mutex);
}
