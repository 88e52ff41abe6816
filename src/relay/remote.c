// SPDX-License-Identifier: MIT
// Prompts under way: what is here, who could read the rest sooner, fetch, and leave what did not
// come to the engine.
#include "relay/remote_impl.h"

#include "base/clock.h"
#include "base/num.h"
#include "plan/rates.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    POLL_MS = 50,
    PEERS_MS = 10, // between two looks at several peers that come up
    MAX_DIALS = 3,
    MIN_PREFILL_TOKENS = 64 // what shorter runs show is not the speed of a prompt
};
// A prompt that is read here in less is not worth a new connection.
#define CONNECT_SECONDS 0.1
// While a peer is there that pays, others are waited for no longer than that.
#define PATIENCE_NS 1000000000u

// How long a cancelled prompt waits to be told in a break.
#define TELL_NS 1000000000u

struct td_remote_try {
    struct td_remote_try *next;
    struct td_remote *r;
    struct td_session *s;
    struct td_remote_ask ask;
    struct td_remote_stats stats;
    enum td_remote_state state;
    uint64_t begin_ns;
    uint32_t n_have;   // positions that are here now
    bool is_begun;     // it is known whether peers are asked
    bool waits;        // for peers that are not up
    bool is_settled;   // the session wants what is missing: PREFILLING
    bool is_cancelled; // by the caller
    bool is_tried[TD_REMOTE_MAX_PEERS];
    uint32_t n_dials[TD_REMOTE_MAX_PEERS]; // for this prompt
    struct td_error why;                   // of the last peer that failed
    int code;
    // Being fetched.
    struct td_fetch *fetch;
    struct td_remote_peer *peer; // also while it waits for a slot there
    struct td_split split;
    uint64_t fetch_ns; // begin
};

const char *td_remote_path_text(enum td_remote_path path)
{
    switch (path) {
    case TD_REMOTE_LOCAL: return "local";
    case TD_REMOTE_REMOTE: return "remote";
    case TD_REMOTE_RESUMED: return "resumed";
    case TD_REMOTE_SALVAGED: return "salvaged";
    }
    return "local";
}

static double known(double seconds)
{
    return isfinite(seconds) ? seconds : 0;
}

static void set_reason(struct td_remote_try *t, const char *why)
{
    snprintf(t->stats.reason, sizeof(t->stats.reason), "%s", why);
}

// ---- who reads it -----------------------------------------------------------------------------

static bool no(struct td_remote_try *t, const char *why)
{
    set_reason(t, why);
    return false;
}

// Until the first token, if what is missing is read here.
static double here_seconds(const struct td_remote_try *t)
{
    return t->ask.wait_here_seconds + td_split_read_seconds(&t->r->prefill, t->n_have, t->ask.n);
}

// Whether a peer is worth asking at all; stats.reason says why not.
static bool is_question(struct td_remote_try *t)
{
    const struct td_remote *r = t->r;
    if (r->cfg.policy == TD_REMOTE_NEVER) return no(t, "policy never");
    if (t->n_have + 1 >= t->ask.n) return no(t, td_split_why_text(TD_SPLIT_NOTHING_TO_READ));
    if (r->cfg.policy == TD_REMOTE_REQUIRE) return true;
    for (uint32_t i = 0; i < r->n_peers; i++)
        if (r->peers[i].far && td_far_is_up(r->peers[i].far)) return true;
    const double seconds = here_seconds(t);
    if (seconds >= CONNECT_SECONDS) return true;
    return no(t, "it is read here sooner than a peer is reached");
}

// Until what p reads for others, and for those who have waited longer for it, is probably done: it
// computes its requests side by side. *is_full: it has no slot for one more.
static double busy_seconds(const struct td_remote_try *t, const struct td_remote_peer *p,
                           bool *is_full)
{
    double sum = 0;
    uint32_t n = 0;
    for (const struct td_remote_try *at = t->r->tries; at; at = at->next) {
        if (at == t || at->peer != p || at->state != TD_REMOTE_RUNNING) continue;
        if (!at->fetch && at->begin_ns > t->begin_ns) continue;
        n++;
        double left = at->split.far_seconds;
        if (at->fetch)
            left = at->split.split_first_seconds - (double)(td_clock_ns() - at->fetch_ns) * 1e-9;
        if (isfinite(left) && left > 0) sum += left;
    }
    struct td_far_info info;
    td_far_info(p->far, &info);
    *is_full = n > 0 && n >= info.n_slots;
    return sum;
}

// Whether p can be asked now. SOON is what a try waits for that waits at all; otherwise the reason
// says why not.
static enum td_remote_ready is_ready(struct td_remote_try *t, uint32_t i, bool has_reason)
{
    struct td_remote_peer *p = &t->r->peers[i];
    const bool is_required = t->r->cfg.policy == TD_REMOTE_REQUIRE;
    enum td_remote_ready ready = td_remote_tend_peer(p, 0);
    // A connection that stood and broke before it was used says little.
    const bool may_dial = t->n_dials[i] == 0 || (t->n_dials[i] < MAX_DIALS && !p->backoff_ms);
    if (ready == TD_PEER_NO && t->waits && may_dial &&
        (is_required || td_clock_ns() >= p->retry_at_ns)) {
        td_remote_dial_peer(t->r, p);
        ready = td_remote_tend_peer(p, 0);
        t->n_dials[i]++;
    }
    if (ready == TD_PEER_SOON && t->waits && t->n_dials[i] == 0) t->n_dials[i]++;
    if (ready == TD_PEER_YES || (ready == TD_PEER_SOON && t->waits)) return ready;
    if (t->n_dials[i] > 0) {
        t->is_tried[i] = true;
        t->why = p->why;
        t->code = p->why.code;
        set_reason(t, p->why.msg);
    } else if (!has_reason) {
        char text[sizeof(t->stats.reason)];
        const char *what = ready == TD_PEER_SOON ? "is being connected"
                           : p->backoff_ms       ? "could not be asked a moment ago"
                                                 : "is not connected yet";
        snprintf(text, sizeof(text), "%.120s %s", p->where, what);
        set_reason(t, text);
    }
    return TD_PEER_NO;
}

// The best peer that has not failed this prompt, with what it promises; NULL: none, and
// stats.reason says why, or *is_soon: wait.
static struct td_remote_peer *choose(struct td_remote_try *t, struct td_split *best, bool *is_soon)
{
    struct td_remote *r = t->r;
    struct td_remote_peer *chosen = NULL;
    bool is_any_soon = false, is_chosen_full = false, is_all_there = false;
    for (uint32_t i = 0; i < r->n_peers; i++) {
        struct td_remote_peer *p = &r->peers[i];
        if (t->is_tried[i]) continue;
        const enum td_remote_ready ready = is_ready(t, i, chosen || t->stats.reason[0]);
        if (ready == TD_PEER_SOON) is_any_soon = true;
        if (ready != TD_PEER_YES) continue;
        struct td_split split;
        bool is_full;
        const double wait_seconds = busy_seconds(t, p, &is_full);
        td_remote_ask_split(r, p, &t->ask, t->n_have, wait_seconds, &split);
        if (!split.pays && r->cfg.policy != TD_REMOTE_REQUIRE) {
            if (!chosen)
                snprintf(t->stats.reason, sizeof(t->stats.reason), "%.120s: %s", p->where,
                         td_split_why_text(split.why));
            is_all_there |= split.all_there_is_faster;
            continue;
        }
        if (chosen && split.split_seconds >= best->split_seconds) continue;
        chosen = p;
        is_chosen_full = is_full;
        *best = split;
    }
    // Of what was asked, begin_fetch says it.
    if (!t->stats.peer[0]) t->stats.all_there_is_faster = is_all_there;
    t->peer = is_chosen_full ? chosen : NULL; // it pays to wait for a slot there
    if (is_chosen_full) chosen = NULL;
    is_any_soon = is_any_soon || is_chosen_full;
    *is_soon = is_any_soon && (!chosen || td_clock_ns() - t->begin_ns < PATIENCE_NS);
    return *is_soon ? NULL : chosen;
}

// ---- one prompt -------------------------------------------------------------------------------

// Exponential average: a new figure counts for half.
static double mix(double old, double seen)
{
    return old > 0 ? (old + seen) / 2 : seen;
}

static void fail_try(struct td_remote_try *t, int code, const struct td_error *why)
{
    t->state = TD_REMOTE_FAILED;
    t->code = code;
    t->why = *why;
}

// No peer is asked any more: what is missing is for the engine's steps.
static void settle(struct td_remote_try *t)
{
    struct td_error why;
    const struct td_remote_ask *a = &t->ask;
    if (!t->stats.peer[0] && t->n_have + 1 < a->n)
        t->stats.predicted_seconds = known(here_seconds(t));
    const int code = td_session_want(t->s, a->tokens, a->n, a->marks, a->n_marks, &why);
    if (code) {
        fail_try(t, code, &why);
        return;
    }
    t->is_settled = true;
    const uint32_t n_reused = td_session_reused(t->s);
    t->stats.n_local = a->n - n_reused;
    // Other sessions' prefixes may be of use by now.
    t->stats.n_have = n_reused - td_min_u32(t->stats.n_remote, n_reused);
    t->state = n_reused + 1 >= a->n ? TD_REMOTE_READY : TD_REMOTE_HERE;
}

static struct td_remote_mixed *find_mixed(struct td_remote *r, const struct td_session *s)
{
    for (uint32_t i = 0; i < r->n_mixed; i++)
        if (r->mixed[i].s == s) return &r->mixed[i];
    return NULL;
}

static void set_mixed(struct td_remote_try *t, uint32_t from)
{
    struct td_remote *r = t->r;
    if (find_mixed(r, t->s)) return;
    if (r->n_mixed == TD_REMOTE_MAX_MIXED)
        r->is_mixed_more = true;
    else
        r->mixed[r->n_mixed++] = (struct td_remote_mixed){t->s, from};
}

static void add_report(struct td_remote_try *t, const struct td_fetch_report *report)
{
    struct td_remote_stats *st = &t->stats;
    struct td_remote_peer *p = t->peer;
    const bool is_any = report->n_committed > report->n_have;
    st->n_remote += is_any ? report->n_committed - report->n_have : 0;
    st->bytes += report->bytes;
    st->n_resumed += report->n_resumed;
    st->far_seconds += report->far_seconds;
    st->transfer_seconds += report->transfer_seconds;
    st->exposed_seconds += report->exposed_seconds;
    st->stall_seconds += report->stall_seconds;
    if (report->link_bytes_per_s > 0)
        p->link_bytes_per_s = mix(p->link_bytes_per_s, report->link_bytes_per_s);
    struct td_far_info info;
    td_far_info(p->far, &info);
    if (info.weights_differ && is_any) set_mixed(t, report->n_have);
    t->n_have = td_max_u32(t->n_have, report->n_committed);
}

static void peer_failed(struct td_remote_try *t, int code)
{
    struct td_remote_stats *st = &t->stats;
    t->code = code;
    t->is_tried[t->peer - t->r->peers] = true;
    // What does not fit there, or is too much now, says nothing about the next prompt.
    if (code != TD_ENOMEM && code != TD_EFULL) td_remote_fail_peer(t->peer, &t->why);
    set_reason(t, t->why.msg);
    st->path = st->n_remote ? TD_REMOTE_SALVAGED : TD_REMOTE_LOCAL;
}

static void end_fetch(struct td_remote_try *t, enum td_fetch_state state)
{
    struct td_remote_stats *st = &t->stats;
    struct td_remote_peer *p = t->peer;
    struct td_fetch_report report;
    td_fetch_report(t->fetch, &report);
    td_fetch_end(t->fetch);
    t->fetch = NULL;
    add_report(t, &report);
    if (state != TD_FETCH_DONE) {
        peer_failed(t, t->why.code ? t->why.code : TD_EIO);
        return;
    }
    td_remote_remember(p, t->ask.tokens, t->ask.n - 1);
    if (report.n_resumed == 0) {
        const double rest = report.seconds - report.far_seconds - report.exposed_seconds;
        p->setup_seconds = mix(p->setup_seconds, rest > 0 ? rest : 0);
    }
    st->path = st->n_resumed ? TD_REMOTE_RESUMED : TD_REMOTE_REMOTE;
    set_reason(t, t->split.pays ? td_split_why_text(t->split.why) : "policy require");
    settle(t);
}

static void begin_fetch(struct td_remote_try *t, struct td_remote_peer *p)
{
    struct td_remote_stats *st = &t->stats;
    struct td_far_info info;
    td_far_info(p->far, &info);
    snprintf(st->peer, sizeof(st->peer), "%s", info.peer);
    st->all_there_is_faster = t->split.all_there_is_faster;
    st->predicted_seconds = known(t->split.split_first_seconds);
    t->peer = p;
    t->fetch_ns = td_clock_ns();
    t->why = (struct td_error){0};
    // From the first of it on, not only once it is read: others must not begin with it.
    if (info.weights_differ) td_session_isolate(t->s);
    const int code = td_fetch_begin(&t->fetch, p->far, t->s, t->ask.tokens, t->ask.n, &t->why);
    if (code) peer_failed(t, code);
}

// Nobody is left to ask.
static void go_on_here(struct td_remote_try *t)
{
    if (t->r->cfg.policy != TD_REMOTE_REQUIRE || t->n_have + 1 >= t->ask.n) {
        settle(t);
        return;
    }
    struct td_error why = t->why;
    if (!t->code)
        t->code = td_fail(&why, TD_EIO, "--prefill-policy require: no prefill peer can be asked");
    fail_try(t, t->code, &why);
}

// Asks the next peer, if it is known which one that is: whether anything changed.
static bool ask_next(struct td_remote_try *t)
{
    if (!t->is_begun) {
        t->is_begun = true;
        if (!is_question(t)) {
            settle(t);
            return true;
        }
    }
    bool is_soon;
    struct td_remote_peer *p = choose(t, &t->split, &is_soon);
    if (is_soon) return false;
    if (p)
        begin_fetch(t, p);
    else
        go_on_here(t);
    return true;
}

static void move_fetch(struct td_remote_try *t, uint32_t wait_ms)
{
    const enum td_fetch_state state = td_fetch_poll(t->fetch, wait_ms, &t->why);
    if (state != TD_FETCH_RUNNING) end_fetch(t, state);
}

// Whatever can be done without waiting.
static void move(struct td_remote_try *t)
{
    bool is_moving = true;
    while (t->state == TD_REMOTE_RUNNING && is_moving) {
        if (t->fetch) move_fetch(t, 0);
        if (t->state != TD_REMOTE_RUNNING) break;
        if (t->is_cancelled && !t->fetch) {
            struct td_error why;
            fail_try(t, td_fail(&why, TD_ECANCEL, "cancelled"), &why);
        } else {
            is_moving = !t->fetch && ask_next(t);
        }
    }
}

static void wait_for_peers(struct td_remote_try *t, uint32_t wait_ms)
{
    struct td_remote *r = t->r;
    struct td_remote_peer *first = NULL;
    uint32_t n = 0;
    for (uint32_t i = 0; i < r->n_peers; i++) {
        if (t->is_tried[i] || td_remote_tend_peer(&r->peers[i], 0) != TD_PEER_SOON) continue;
        if (!first) first = &r->peers[i];
        n++;
    }
    if (first) {
        (void)td_remote_tend_peer(first, n > 1 ? td_min_u32(wait_ms, PEERS_MS) : wait_ms);
        return;
    }
    // A slot is waited for, which the poll of another try brings.
    const struct timespec nap = {.tv_nsec = (long)td_min_u32(wait_ms, PEERS_MS) * 1000000};
    nanosleep(&nap, NULL);
}

static void show(struct td_remote_try *t)
{
    struct td_fetch_report report;
    if (!t->ask.remote_progress || t->is_cancelled) return;
    td_remote_report(t, &report);
    if (!t->ask.remote_progress(t->ask.progress_ctx, &report)) td_remote_cancel(t);
}

enum td_remote_state td_remote_poll(struct td_remote_try *t, uint32_t wait_ms, struct td_error *err)
{
    move(t);
    if (t->state == TD_REMOTE_RUNNING && wait_ms > 0) {
        if (t->fetch)
            move_fetch(t, wait_ms);
        else
            wait_for_peers(t, wait_ms);
        move(t);
    }
    if (t->state == TD_REMOTE_RUNNING) show(t);
    if (t->state == TD_REMOTE_FAILED && err) *err = t->why;
    return t->state;
}

int td_remote_begin(struct td_remote_try **out, struct td_remote *r, struct td_session *s,
                    const struct td_remote_ask *ask, struct td_error *err)
{
    *out = NULL;
    struct td_remote_try *t = calloc(1, sizeof(*t));
    if (!t) return td_fail(err, TD_ENOMEM, "no memory for a prompt");
    const bool was_empty = td_session_computed(s) == 0;
    int code = td_session_want(s, ask->tokens, ask->n, ask->marks, ask->n_marks, err);
    const uint32_t n_have = code ? 0 : td_session_reused(s);
    // Idle while peers are asked: nobody's steps shall compute it.
    if (!code) code = td_session_adopt(s, ask->tokens, ask->n, err);
    if (code) {
        free(t);
        return code;
    }
    *t = (struct td_remote_try){.next = r->tries,
                                .r = r,
                                .s = s,
                                .ask = *ask,
                                .stats = {.n_tokens = ask->n, .n_have = n_have},
                                .begin_ns = td_clock_ns(),
                                .n_have = n_have,
                                .waits = r->cfg.policy == TD_REMOTE_REQUIRE};
    r->tries = t;
    struct td_remote_mixed *mixed = find_mixed(r, s);
    if (mixed && (was_empty || n_have <= mixed->from)) *mixed = r->mixed[--r->n_mixed]; // all gone
    *out = t;
    return TD_OK;
}

void td_remote_report(struct td_remote_try *t, struct td_fetch_report *out)
{
    *out = (struct td_fetch_report){
        .n_tokens = t->ask.n, .n_have = t->n_have, .n_committed = t->n_have};
    if (t->fetch) td_fetch_report(t->fetch, out);
}

void td_remote_cancel(struct td_remote_try *t)
{
    t->is_cancelled = true;
    if (t->fetch) td_fetch_cancel(t->fetch);
}

void td_remote_end(struct td_remote_try *t, struct td_remote_stats *stats)
{
    struct td_remote *r = t->r;
    struct td_remote_stats *st = &t->stats;
    if (t->fetch && t->peer) { // whose it is
        struct td_fetch_report report;
        td_fetch_report(t->fetch, &report);
        td_fetch_end(t->fetch); // cancels it
        add_report(t, &report);
    }
    st->seconds = (double)(td_clock_ns() - t->begin_ns) * 1e-9;
    st->weights_differ = find_mixed(r, t->s) || (r->is_mixed_more && st->n_have > 0);
    if (st->n_remote > 0) st->kv_type = r->cfg.far.kv_type;
    if (st->transfer_seconds > 0)
        st->overlap = fmin(1, fmax(0, 1 - st->exposed_seconds / st->transfer_seconds));
    if (stats) *stats = *st;
    struct td_remote_try **at = &r->tries;
    while (*at != t) at = &(*at)->next;
    *at = t->next;
    free(t);
}

// ---- waiting for one --------------------------------------------------------------------------

static bool wants_step(const struct td_remote *r)
{
    for (uint32_t i = 0; i < r->n_peers; i++)
        if (r->peers[i].far && td_far_wants_step(r->peers[i].far)) return true;
    return false;
}

static int finish_here(struct td_remote_try *t, struct td_error *err)
{
    const struct td_remote_ask *a = &t->ask;
    const uint64_t t0 = td_clock_ns();
    const int code = td_session_sync(t->s, a->tokens, a->n, a->marks, a->n_marks, a->progress,
                                     a->progress_ctx, err);
    if (code) return code;
    td_remote_saw_prefill(t->r, td_session_reused(t->s), t->stats.n_local,
                          (double)(td_clock_ns() - t0) * 1e-9);
    return TD_OK;
}

// What was cancelled during a break is told if the peer comes back soon: nobody may be there later
// to do it.
static void tell(struct td_remote *r)
{
    const uint64_t t0 = td_clock_ns();
    for (uint32_t i = 0; i < r->n_peers; i++) {
        struct td_remote_peer *p = &r->peers[i];
        while (p->far && td_far_is_telling(p->far) && td_clock_ns() - t0 < TELL_NS)
            (void)td_remote_tend_peer(p, POLL_MS);
    }
}

int td_remote_sync(struct td_remote *r, struct td_session *s, const struct td_remote_ask *ask,
                   struct td_remote_stats *stats, struct td_error *err)
{
    *stats = (struct td_remote_stats){.n_tokens = ask->n};
    struct td_remote_try *t;
    int code = td_remote_begin(&t, r, s, ask, err);
    if (code || !t) return code;
    t->waits = true;
    enum td_remote_state state;
    do {
        const bool is_step = wants_step(r);
        code = is_step ? td_engine_step(r->cfg.far.engine, NULL, err) : TD_OK;
        if (code && code != TD_ECANCEL) break; // another session's cancel is its own affair
        code = TD_OK;
        state = td_remote_poll(t, is_step ? 0 : POLL_MS, err);
    } while (state == TD_REMOTE_RUNNING);
    if (!code) code = state == TD_REMOTE_FAILED ? t->code : finish_here(t, err);
    td_remote_end(t, stats);
    if (code == TD_ECANCEL) tell(r);
    return code;
}

// ---- speeds -----------------------------------------------------------------------------------

void td_remote_saw_prefill(struct td_remote *r, uint32_t depth, uint32_t n_tokens, double seconds)
{
    td_rates_saw(&r->prefill, depth, n_tokens, seconds, MIN_PREFILL_TOKENS);
}

void td_remote_saw_decode(struct td_remote *r, uint32_t depth, uint32_t n_tokens, double seconds)
{
    td_rates_saw(&r->decode, depth, n_tokens, seconds, 4);
}

void td_remote_rates(const struct td_remote *r, struct td_split_rate *prefill_out,
                     struct td_split_rate *decode_out)
{
    *prefill_out = r->prefill;
    *decode_out = r->decode;
}
