// SPDX-License-Identifier: MIT
// A prefill peer over time: connects, connects again, keeps what is known about it, measures the
// link. One session is conn.c's, one request fetch.c's.
#include "relay/far_impl.h"

#include "base/num.h"

#include <assert.h>
#include <errno.h>
#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define CHECKPOINT_TOKENS 4096u
#define RESUME_MS         3000u
#define SILENT_MS         10000u

void td_far_event(struct td_far *far)
{
    pthread_mutex_lock(&far->mutex);
    far->n_events++;
    pthread_cond_broadcast(&far->changed);
    pthread_mutex_unlock(&far->mutex);
}

void td_far_wait(struct td_far *far, uint64_t seen, uint32_t wait_ms)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += wait_ms / 1000;
    until.tv_nsec += (long)(wait_ms % 1000) * (long)MS_NS;
    if (until.tv_nsec >= 1000000000) until.tv_sec++, until.tv_nsec -= 1000000000;
    int waited = 0;
    pthread_mutex_lock(&far->mutex);
    while (far->n_events == seen && waited != ETIMEDOUT)
        waited = pthread_cond_timedwait(&far->changed, &far->mutex, &until);
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
    return !td_far_is_down(far);
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
    return far->has_met && memcmp(a->weights, b->weights, sizeof(a->weights)) == 0 &&
           strcmp(far->met.hello.build, c->theirs.hello.build) == 0;
}

static bool is_any_running(const struct td_far *far)
{
    for (const struct td_fetch *f = far->fetches; f; f = f->next)
        if (f->state == TD_FETCH_RUNNING) return true;
    return false;
}

int td_far_reconnect(struct td_far *far, struct td_error *err)
{
    set_conn(far, NULL);
    struct td_conn *c;
    int code = td_conn_open(&c, far, err);
    if (code) return code;
    if (!is_same_peer(far, c)) {
        if (far->has_met && is_any_running(far))
            code = td_fail(err, TD_EARG, "%s came back with other weights or another build",
                           far->cfg.where);
        far->is_checked = far->cfg.no_canary;
    }
    // Before anything is read: the marks say what came over the connection before.
    for (struct td_fetch *f = far->fetches; !code && f; f = f->next)
        if (f->state == TD_FETCH_RUNNING) code = td_fetch_resume(f, c, err);
    if (!code) code = td_conn_start(c, err);
    if (code) {
        td_conn_close(c);
        return code;
    }
    far->met = c->theirs;
    far->has_met = true;
    set_conn(far, c);
    if (far->is_checked) return TD_OK;
    far->is_checking = true;
    code = td_canary_run(far, err);
    far->is_checking = false;
    far->is_checked = !code;
    if (code) set_conn(far, NULL);
    return code;
}

int td_far_open(struct td_far **out, const struct td_far_config *cfg, struct td_error *err)
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
    pthread_mutex_init(&far->mutex, NULL);
    pthread_cond_init(&far->changed, NULL);
    const size_t where_bytes = strlen(cfg->where) + 1;
    far->where = malloc(where_bytes);
    int code = TD_OK;
    if (far->where)
        far->cfg.where = memcpy(far->where, cfg->where, where_bytes);
    else
        code = td_fail(err, TD_ENOMEM, "no memory for a peer");
    if (!code) code = td_far_reconnect(far, err);
    if (code)
        td_far_close(far);
    else
        *out = far;
    return code;
}

void td_far_close(struct td_far *far)
{
    if (!far) return;
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
    *out = (struct td_far_info){.connect_seconds = far->connect_seconds,
                                .canary_seconds = far->canary_seconds,
                                .canary_kv_error = far->canary_kv_error,
                                .canary_logits_kl = far->canary_logits_kl};
    // Of whom it was connected to last: what came from there stays what it is.
    out->weights_differ =
        far->has_met && memcmp(far->met.identity.weights, far->peer.identity.weights,
                               sizeof(far->peer.identity.weights)) != 0;
    const struct td_conn *c = far->conn;
    if (c) {
        const char *peer = td_link_peer(c->link[TD_WIRE_CONTROL]);
        td_peer_text(peer, out->peer, sizeof(out->peer));
        td_peer_text(c->theirs.hello.build, out->build, sizeof(out->build));
        td_peer_text(c->theirs.identity.name, out->model, sizeof(out->model));
        td_peer_text(c->theirs.identity.quant, out->quant, sizeof(out->quant));
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

// ---- measuring the link -----------------------------------------------------------------------

static int send_blast(struct td_conn *c, uint64_t request, uint64_t size_bytes,
                      struct td_error *err)
{
    uint8_t *filler = malloc(TD_WIRE_MAX_DATA);
    if (!filler) return td_fail(err, TD_ENOMEM, "no memory to measure with");
    // Nothing on the way shall make it shorter.
    struct td_rng rng = {request};
    for (size_t i = 0; i < TD_WIRE_MAX_DATA; i += sizeof(uint64_t)) {
        const uint64_t v = td_rng_u64(&rng);
        memcpy(filler + i, &v, sizeof(v));
    }
    int code = TD_OK;
    while (!code && size_bytes > 0) {
        const uint32_t n = size_bytes < TD_WIRE_MAX_DATA ? (uint32_t)size_bytes : TD_WIRE_MAX_DATA;
        struct td_wire_header h = td_conn_header(c, TD_WIRE_BLAST, request);
        uint8_t header[TD_WIRE_HEADER_BYTES];
        td_wire_seal(header, &h, filler, n);
        code = td_frames_write_bulk(&c->data, header, filler, n, err);
        size_bytes -= n;
    }
    free(filler);
    if (code == TD_EIO && err) td_conn_fail(c, false, err);
    return code;
}

// Waits for the last byte, here or as told from there.
static int wait_measure(struct td_far *far, bool is_towards_here, struct td_error *err)
{
    uint64_t n_last = 0, last_ns = td_clock_ns();
    for (;;) {
        pthread_mutex_lock(&far->mutex);
        const struct td_measure m = far->measure;
        const struct td_conn *c = far->conn;
        const int code = m.code ? m.code : c->code;
        if (code && err) *err = m.code ? m.err : c->err;
        const uint64_t seen = far->n_events;
        pthread_mutex_unlock(&far->mutex);
        if (code) return code;
        if (is_towards_here ? m.n_bytes == m.size_bytes : m.is_probed) return TD_OK;
        const uint64_t now_ns = td_clock_ns();
        if (m.n_bytes != n_last) n_last = m.n_bytes, last_ns = now_ns;
        if (now_ns - last_ns > (uint64_t)far->cfg.silent_ms * MS_NS)
            return td_fail(err, TD_EIO, "%s does not answer PROBE", far->cfg.where);
        td_far_wait(far, seen, 500);
    }
}

int td_far_measure(struct td_far *far, uint64_t size_bytes, bool is_towards_here,
                   double *bytes_per_s_out, struct td_error *err)
{
    if (size_bytes == 0 || size_bytes > TD_WIRE_MAX_PROBE_BYTES)
        return td_fail(err, TD_EARG, "a link is measured with 1 byte to 1 GiB");
    if (far->fetches) return td_fail(err, TD_EARG, "the link is in use");
    int code = td_far_is_down(far) ? td_far_reconnect(far, err) : TD_OK;
    if (code) return code;
    struct td_conn *c = far->conn;
    const uint64_t id = far->next_request++;
    pthread_mutex_lock(&far->mutex);
    far->measure = (struct td_measure){.request = id, .size_bytes = size_bytes};
    pthread_mutex_unlock(&far->mutex);
    const struct td_wire_msg probe = {.h = td_conn_header(c, TD_WIRE_PROBE, id),
                                      .u.probe = {is_towards_here, size_bytes}};
    code = td_conn_say(c, &probe, err);
    if (!code && !is_towards_here) code = send_blast(c, id, size_bytes, err);
    if (!code) code = wait_measure(far, is_towards_here, err);
    pthread_mutex_lock(&far->mutex);
    const struct td_measure m = far->measure;
    far->measure.request = 0;
    pthread_mutex_unlock(&far->mutex);
    if (code) return code;
    uint64_t ns = is_towards_here ? m.last_ns - m.first_ns : m.probed_ns;
    if (ns == 0) ns = 1;
    *bytes_per_s_out = (double)size_bytes / ((double)ns / 1e9);
    if (!is_towards_here) return TD_OK;
    const struct td_wire_msg probed = {.h = td_conn_header(c, TD_WIRE_PROBED, id),
                                       .u.probed = {size_bytes, ns}};
    pthread_mutex_lock(&far->mutex);
    if (*bytes_per_s_out > far->link_bytes_per_s) far->link_bytes_per_s = *bytes_per_s_out;
    pthread_mutex_unlock(&far->mutex);
    return td_conn_say(c, &probed, err);
}
