// SPDX-License-Identifier: MIT
// A prefill peer over time: connects, connects again, keeps what is known about it, measures the
// link. One session is conn.c's, one request fetch.c's.
#include "relay/far_impl.h"

#include "base/num.h"
#include "relay/sys_impl.h"

#include <assert.h>
#include <errno.h>
#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>

#define CHECKPOINT_TOKENS 4096u
#define RESUME_MS         3000u
#define SILENT_MS         10000u
#define CONNECT_WAIT_MS   100u
// Canaries in a row that may end in a break before the peer counts as unreachable.
#define MAX_BROKEN_CHECKS 3u

void td_far_event(struct td_far *far)
{
    pthread_mutex_lock(&far->mutex);
    far->n_events++;
    pthread_cond_broadcast(&far->changed);
    pthread_mutex_unlock(&far->mutex);
}

void td_far_wait(struct td_far *far, uint64_t seen, uint32_t wait_ms)
{
    const uint64_t until_ns = td_cond_deadline(wait_ms);
    int waited = 0;
    pthread_mutex_lock(&far->mutex);
    while (far->n_events == seen && waited != ETIMEDOUT)
        waited = td_cond_wait_until(&far->changed, &far->mutex, until_ns);
    pthread_mutex_unlock(&far->mutex);
}

bool td_far_is_down(struct td_far *far)
{
    pthread_mutex_lock(&far->mutex);
    const bool is_down = !far->conn || far->conn->code;
    pthread_mutex_unlock(&far->mutex);
    return is_down;
}

bool td_far_is_up(struct td_far *far)
{
    return far->state == TD_FAR_UP && !td_far_is_down(far);
}

int td_far_code_of(uint16_t reason)
{
    switch ((enum td_wire_reason)reason) {
    case TD_WIRE_E_VERSION: return TD_EUNSUP;
    case TD_WIRE_E_LAYOUT:
    case TD_WIRE_E_TOKENIZER:
    case TD_WIRE_E_WEIGHTS:
    case TD_WIRE_E_KV_TYPE: return TD_EARG;
    case TD_WIRE_E_BUDGET: return TD_ENOMEM;
    case TD_WIRE_E_BUSY: return TD_EFULL;
    case TD_WIRE_E_FORMAT:
    case TD_WIRE_E_ORDER: return TD_EFORMAT;
    case TD_WIRE_E_CANCELED: // not by us: who cancels here waits for no answer
    case TD_WIRE_E_TIMEOUT:
    case TD_WIRE_E_TOKEN:
    case TD_WIRE_E_GONE:
    case TD_WIRE_E_TROUBLE:
    case TD_WIRE_E_SHUTDOWN: return TD_EIO;
    }
    return TD_EIO;
}

// ---- connecting -------------------------------------------------------------------------------

static void set_conn(struct td_far *far, struct td_conn *c)
{
    pthread_mutex_lock(&far->mutex);
    struct td_conn *old = far->conn;
    far->conn = c;
    pthread_mutex_unlock(&far->mutex);
    td_conn_close(old);
}

// Whether it is the peer of before: a process started anew with the same weights and build is.
static bool is_same_peer(const struct td_far *far, const struct td_conn *c)
{
    const struct td_wire_identity *a = &far->met.identity, *b = &c->theirs.identity;
    return far->has_met && !td_peer_differs(a, b) &&
           strcmp(far->met.hello.build, c->theirs.hello.build) == 0;
}

static bool is_any_running(const struct td_far *far)
{
    for (const struct td_fetch *f = far->fetches; f; f = f->next)
        if (f->state == TD_FETCH_RUNNING) return true;
    return false;
}

static void *dial_main(void *ctx)
{
    struct td_far *far = ctx;
    struct td_dial *d = far->dial;
    struct td_error why = {0};
    const int code = td_conn_open(d->conn, &why);
    pthread_mutex_lock(&far->mutex);
    d->is_over = true;
    d->code = code;
    d->err = why;
    far->n_events++;
    pthread_cond_broadcast(&far->changed);
    pthread_mutex_unlock(&far->mutex);
    return NULL;
}

static void set_down(struct td_far *far, bool has_failed, const struct td_error *why)
{
    far->state = TD_FAR_DOWN;
    far->has_failed = has_failed;
    td_fetch_forget(far); // by the time somebody gets there its lease is over
    far->down_err = *why;
    if (!far->down_err.code) far->down_err.code = TD_EIO;
}

static int begin_dial(struct td_far *far, struct td_error *err)
{
    set_conn(far, NULL);
    struct td_dial *d = calloc(1, sizeof(*d));
    if (d) d->conn = td_conn_new(far);
    far->dial = d;
    if (d && d->conn && pthread_create(&d->thread, NULL, dial_main, far) == 0) return TD_OK;
    if (d) td_conn_close(d->conn);
    free(d);
    far->dial = NULL;
    return td_fail(err, TD_ENOMEM, "no memory to connect to a peer");
}

void td_far_dial(struct td_far *far)
{
    if (far->state == TD_FAR_DIALING || far->state == TD_FAR_CHECKING || td_far_is_up(far)) return;
    struct td_error err;
    far->state = TD_FAR_DIALING;
    far->has_failed = false;
    if (begin_dial(far, &err)) set_down(far, true, &err);
}

void td_far_hang_up(struct td_far *far)
{
    struct td_dial *d = far->dial;
    if (!d) return;
    td_conn_stop(d->conn);
    pthread_join(d->thread, NULL);
    td_conn_close(d->conn);
    free(d);
    far->dial = NULL;
    struct td_error why;
    (void)td_fail(&why, TD_ECANCEL, "cancelled");
    set_down(far, false, &why);
}

// The connection that was dialled goes on with what runs.
static int adopt(struct td_far *far, struct td_conn *c, struct td_error *err)
{
    int code = TD_OK;
    if (!is_same_peer(far, c)) {
        if (far->has_met && is_any_running(far))
            code = td_fail(err, TD_EARG, "%s came back with other weights or another build",
                           far->cfg.where);
        far->is_checked = far->cfg.no_canary;
    }
    // Before anything is read: the marks say what came over the connection before.
    for (struct td_fetch *f = far->fetches; !code && f; f = f->next)
        if (f->state == TD_FETCH_RUNNING) code = td_fetch_resume(f, c, err);
    if (!code) code = td_fetch_tell_owed(far, c, err);
    if (!code) code = td_conn_start(c, err);
    if (code) {
        td_conn_close(c);
        return code;
    }
    far->met = c->theirs;
    far->has_met = true;
    set_conn(far, c);
    return TD_OK;
}

static void begin_check(struct td_far *far)
{
    struct td_error why;
    far->state = TD_FAR_CHECKING;
    if (td_canary_begin(&far->canary, far, &why) == TD_OK) return;
    set_conn(far, NULL);
    set_down(far, true, &why);
}

static void tend_dial(struct td_far *far)
{
    struct td_dial *d = far->dial;
    pthread_mutex_lock(&far->mutex);
    const bool is_over = d->is_over;
    pthread_mutex_unlock(&far->mutex);
    if (!is_over) return;
    pthread_join(d->thread, NULL);
    far->dial = NULL;
    struct td_error why = d->err;
    int code = d->code;
    if (code)
        td_conn_close(d->conn);
    else
        code = adopt(far, d->conn, &why);
    free(d);
    if (code)
        set_down(far, true, &why);
    else if (far->is_checked)
        far->state = TD_FAR_UP;
    else
        begin_check(far);
}

static void tend_check(struct td_far *far)
{
    int code;
    struct td_error why;
    if (!td_canary_poll(far->canary, &code, &why)) return;
    td_canary_end(far->canary);
    far->canary = NULL;
    far->is_checked = !code;
    if (!code) {
        far->n_broken_checks = 0;
        far->state = TD_FAR_UP;
        return;
    }
    // A break says nothing about the peer.
    const bool is_broken = td_far_is_down(far) && code == TD_EIO;
    set_conn(far, NULL);
    set_down(far, true, &why);
    if (is_broken && ++far->n_broken_checks < MAX_BROKEN_CHECKS)
        td_far_dial(far);
    else
        far->n_broken_checks = 0;
}

static void tend(struct td_far *far)
{
    switch (far->state) {
    case TD_FAR_DOWN: break;
    case TD_FAR_DIALING: tend_dial(far); break;
    case TD_FAR_CHECKING: tend_check(far); break;
    case TD_FAR_UP:
        // Mended by the polls of what is fetched over it.
        if (!td_far_is_down(far) || is_any_running(far)) break;
        if (far->owed) { // cancelled before the break could be mended
            td_far_dial(far);
            break;
        }
        pthread_mutex_lock(&far->mutex);
        const struct td_error why = far->conn->err;
        pthread_mutex_unlock(&far->mutex);
        set_down(far, false, &why);
        break;
    }
}

static enum td_far_state state_of(struct td_far *far)
{
    return far->state == TD_FAR_UP && td_far_is_down(far) ? TD_FAR_DIALING : far->state;
}

enum td_far_state td_far_tend(struct td_far *far, uint32_t wait_ms, struct td_error *err)
{
    pthread_mutex_lock(&far->mutex);
    const uint64_t seen = far->n_events;
    pthread_mutex_unlock(&far->mutex);
    tend(far);
    enum td_far_state state = state_of(far);
    if (wait_ms > 0 && (state == TD_FAR_DIALING || state == TD_FAR_CHECKING)) {
        td_far_wait(far, seen, wait_ms);
        tend(far);
        state = state_of(far);
    }
    if (state == TD_FAR_DOWN && err) *err = far->down_err;
    return state;
}

bool td_far_is_telling(const struct td_far *far)
{
    return far->owed && far->state != TD_FAR_DOWN;
}

bool td_far_wants_step(const struct td_far *far)
{
    return far->state == TD_FAR_CHECKING && td_canary_wants_step(far->canary);
}

int td_far_connect(struct td_far *far, struct td_error *err)
{
    struct td_error why = {0};
    td_far_dial(far);
    for (;;) {
        const bool wants_step = td_far_wants_step(far);
        const int code = wants_step ? td_engine_step(far->cfg.engine, NULL, err) : TD_OK;
        if (code && code != TD_ECANCEL) return code; // another session's cancel is its own affair
        const enum td_far_state state = td_far_tend(far, wants_step ? 0 : CONNECT_WAIT_MS, &why);
        if (state == TD_FAR_UP) return TD_OK;
        if (state != TD_FAR_DOWN) continue;
        if (err) *err = why;
        return why.code;
    }
}

int td_far_new(struct td_far **out, const struct td_far_config *cfg, struct td_error *err)
{
    *out = NULL;
    struct td_far *far = calloc(1, sizeof(*far));
    if (!far) return td_fail(err, TD_ENOMEM, "no memory for a peer");
    far->cfg = *cfg;
    far->peer = *cfg->peer;
    far->cfg.peer = &far->peer;
    if (cfg->key) {
        far->key = *cfg->key;
        far->cfg.key = &far->key;
    }
    if (!far->cfg.checkpoint_tokens) far->cfg.checkpoint_tokens = CHECKPOINT_TOKENS;
    if (far->cfg.checkpoint_tokens > TD_WIRE_MAX_TOKENS)
        far->cfg.checkpoint_tokens = TD_WIRE_MAX_TOKENS;
    if (!far->cfg.resume_ms) far->cfg.resume_ms = RESUME_MS;
    if (!far->cfg.silent_ms) far->cfg.silent_ms = SILENT_MS;
    far->next_request = 1;
    far->is_checked = cfg->no_canary;
    (void)td_fail(&far->down_err, TD_EIO, "%s: not connected yet", cfg->where);
    pthread_mutex_init(&far->mutex, NULL);
    td_cond_init(&far->changed);
    const size_t where_bytes = strlen(cfg->where) + 1;
    far->where = malloc(where_bytes);
    if (!far->where) {
        td_far_close(far);
        return td_fail(err, TD_ENOMEM, "no memory for a peer");
    }
    far->cfg.where = memcpy(far->where, cfg->where, where_bytes);
    *out = far;
    return TD_OK;
}

void td_far_tell(struct td_far *far, const struct td_split_rate *prefill,
                 const struct td_split_rate *decode)
{
    if (far->dial) return; // its thread is telling
    far->cfg.prefill = *prefill;
    far->cfg.decode = *decode;
}

int td_far_open(struct td_far **out, const struct td_far_config *cfg, struct td_error *err)
{
    *out = NULL;
    struct td_far *far;
    int code = td_far_new(&far, cfg, err);
    if (code || !far) return code;
    code = td_far_connect(far, err);
    if (code)
        td_far_close(far);
    else
        *out = far;
    return code;
}

void td_far_close(struct td_far *far)
{
    if (!far) return;
    td_far_hang_up(far);
    td_canary_end(far->canary);
    assert(!far->fetches);
    set_conn(far, NULL);
    pthread_mutex_destroy(&far->mutex);
    pthread_cond_destroy(&far->changed);
    OPENSSL_cleanse(&far->key, sizeof(far->key));
    free(far->where);
    free(far);
}

// ---- what is known ----------------------------------------------------------------------------

void td_far_info(struct td_far *far, struct td_far_info *out)
{
    *out = (struct td_far_info){.canary_seconds = far->canary_seconds,
                                .canary_kv_error = far->canary_kv_error,
                                .canary_logits_kl = far->canary_logits_kl};
    // Of whom it was connected to last: what came from there stays what it is.
    out->weights_differ = far->has_met && td_peer_differs(&far->met.identity, &far->peer.identity);
    const struct td_conn *c = far->conn;
    if (c) {
        const char *peer = td_link_peer(c->link[TD_WIRE_CONTROL]);
        td_peer_text(peer, out->peer, sizeof(out->peer));
        td_peer_text(c->theirs.hello.build, out->build, sizeof(out->build));
        td_peer_text(c->theirs.identity.name, out->model, sizeof(out->model));
        td_peer_text(c->theirs.identity.quant, out->quant, sizeof(out->quant));
        out->connect_seconds = c->connect_seconds;
        out->is_encrypted = td_link_is_encrypted(c->link[TD_WIRE_CONTROL]);
        out->n_slots = c->welcome.n_slots;
        out->max_tokens = c->welcome.max_tokens;
        out->max_kv_bytes = c->welcome.max_kv_bytes;
    } else {
        td_peer_text(far->cfg.where, out->peer, sizeof(out->peer));
    }
    pthread_mutex_lock(&far->mutex);
    out->prefill = far->prefill;
    out->decode = far->decode;
    out->link_bytes_per_s = far->link_bytes_per_s;
    out->round_trip_seconds = (double)far->round_trip_ns / 1e9;
    pthread_mutex_unlock(&far->mutex);
}
