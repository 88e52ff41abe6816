// SPDX-License-Identifier: MIT
// One prompt at a time: what is here, who could read the rest sooner, fetch, and compute here what
// did not come.
#include "relay/remote.h"

#include "base/clock.h"
#include "base/num.h"
#include "plan/rates.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    MAX_WHERE = 256,
    POLL_MS = 50,
    N_ANSWER = 256,         // tokens expected when nobody says
    CHUNK = 512,            // of a peer that does not say
    CHECKPOINT = 4096,      // tokens, where the configuration does not say
    MIN_PREFILL_TOKENS = 64 // what shorter runs show is not the speed of a prompt
};
// A prompt that is read here in less is not worth a new connection.
#define CONNECT_SECONDS 0.1
// Who could not be reached is left alone for a while.
#define RETRY_NS 5000000000u
// What asking costs beside round trip, computing and transfer, until it has been seen.
#define SETUP_SECONDS 0.005
// The first look at a link: a little, then more when that was quick.
#define LOOK_BYTES   (256u << 10)
#define LOOK_BYTES_2 (4u << 20)
#define LOOK_SECONDS 0.05

struct peer {
    char where[MAX_WHERE];
    struct td_far *far;      // NULL: not connected
    uint64_t retry_at_ns;    // not before, unless nobody else is there
    double link_bytes_per_s; // towards here; 0: not known
    double setup_seconds;
    // The prompt it read last: what of the next it probably holds.
    int32_t *tokens;
    uint32_t n_tokens, tokens_cap;
};

struct td_remote {
    struct td_remote_config cfg;
    struct peer peers[TD_REMOTE_MAX_PEERS];
    uint32_t n_peers;
    struct td_split_rate prefill, decode; // of this machine
    // The session that took in KV of other weights last, and from which position on.
    const struct td_session *mixed;
    uint32_t mixed_from;
};

// One prompt under way.
struct job {
    struct td_remote *r;
    struct td_session *s;
    const struct td_remote_ask *ask;
    struct td_remote_stats *stats;
    uint32_t n_have; // positions that are here now
    bool is_tried[TD_REMOTE_MAX_PEERS];
    bool is_cancelled;   // by the caller
    struct td_error why; // of the last peer that failed
    int code;
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

// ---- peers ------------------------------------------------------------------------------------

static const char *last_colon(const char *at, size_t n)
{
    while (n > 0 && at[n - 1] != ':') n--;
    return n > 0 ? at + n - 1 : NULL;
}

static int add_peer(struct td_remote *r, const char *at, size_t n, struct td_error *err)
{
    while (n && *at == ' ') at++, n--;
    while (n && at[n - 1] == ' ') n--;
    if (n == 0) return td_fail(err, TD_EARG, "--prefill: an empty address in '%s'", r->cfg.peers);
    // What is written wrong is said at once, and not for every prompt that is then read here.
    const char *colon = last_colon(at, n);
    if (!colon || colon == at || colon + 1 == at + n)
        return td_fail(err, TD_EARG, "--prefill: '%.*s' is not HOST:PORT", n < 80 ? (int)n : 80,
                       at);
    if (n >= MAX_WHERE) return td_fail(err, TD_EARG, "--prefill: an address of %zu bytes", n);
    if (r->n_peers == TD_REMOTE_MAX_PEERS)
        return td_fail(err, TD_EARG, "--prefill: more than %d peers", TD_REMOTE_MAX_PEERS);
    struct peer *p = &r->peers[r->n_peers++];
    memcpy(p->where, at, n);
    p->setup_seconds = SETUP_SECONDS;
    return TD_OK;
}

int td_remote_open(struct td_remote **out, const struct td_remote_config *cfg, struct td_error *err)
{
    *out = NULL;
    struct td_remote *r = calloc(1, sizeof(*r));
    if (!r) return td_fail(err, TD_ENOMEM, "no memory for peers");
    r->cfg = *cfg;
    r->prefill = cfg->far.prefill;
    r->decode = cfg->far.decode;
    int code = TD_OK;
    for (const char *at = cfg->peers; !code;) {
        const size_t n = strcspn(at, ",");
        code = add_peer(r, at, n, err);
        if (!at[n]) break;
        at += n + 1;
    }
    if (code) {
        free(r);
        return code;
    }
    r->cfg.peers = NULL; // the caller's
    *out = r;
    return TD_OK;
}

void td_remote_close(struct td_remote *r)
{
    if (!r) return;
    for (uint32_t i = 0; i < r->n_peers; i++) {
        td_far_close(r->peers[i].far);
        free(r->peers[i].tokens);
    }
    free(r);
}

// A first figure for the link. What is not learnt now is learnt by the first prompt.
static void look_at_link(struct peer *p)
{
    struct td_error ignored;
    double bytes_per_s = 0;
    if (td_far_measure(p->far, LOOK_BYTES, true, &bytes_per_s, &ignored) || bytes_per_s <= 0)
        return;
    p->link_bytes_per_s = bytes_per_s;
    if (LOOK_BYTES / bytes_per_s > LOOK_SECONDS) return;
    if (td_far_measure(p->far, LOOK_BYTES_2, true, &bytes_per_s, &ignored) == TD_OK)
        p->link_bytes_per_s = bytes_per_s;
}

static int connect_peer(struct td_remote *r, struct peer *p, struct td_error *err)
{
    if (p->far && td_far_is_up(p->far)) return TD_OK;
    td_far_close(p->far);
    p->far = NULL;
    struct td_far_config cfg = r->cfg.far;
    cfg.where = p->where;
    cfg.prefill = r->prefill;
    cfg.decode = r->decode;
    const int code = td_far_open(&p->far, &cfg, err);
    p->retry_at_ns = code ? td_clock_ns() + RETRY_NS : 0;
    if (!code && p->link_bytes_per_s <= 0) look_at_link(p);
    return code;
}

int td_remote_peer(struct td_remote *r, uint32_t i, struct td_far **out, struct td_error *err)
{
    *out = NULL;
    if (i >= r->n_peers) return td_fail(err, TD_EARG, "there are %u prefill peers", r->n_peers);
    const int code = connect_peer(r, &r->peers[i], err);
    if (!code) *out = r->peers[i].far;
    return code;
}

// ---- the question -----------------------------------------------------------------------------

// What of the prompt the peer read last time; less than n.
static uint32_t n_cached_there(const struct peer *p, const int32_t *tokens, uint32_t n)
{
    uint32_t same = 0;
    while (same < p->n_tokens && same + 1 < n && tokens[same] == p->tokens[same]) same++;
    return same;
}

static void remember_prompt(struct peer *p, const int32_t *tokens, uint32_t n)
{
    p->n_tokens = 0;
    if (n > p->tokens_cap) {
        int32_t *grown = realloc(p->tokens, n * sizeof(*grown));
        if (!grown) return; // a worse guess next time
        p->tokens = grown;
        p->tokens_cap = n;
    }
    memcpy(p->tokens, tokens, n * sizeof(*tokens));
    p->n_tokens = n;
}

static double wire_bytes(const struct td_kv_layer *l, enum td_type kv_type)
{
    const double n = 2.0 * l->n_kv_heads * l->head_dim;
    if (kv_type == TD_F32) return n * 4;
    return kv_type == TD_Q8_0 ? n / 32 * 34 : n * 2;
}

// Layers that keep their KV alike; those of one kind too many are counted with the last.
static void group_layers(struct td_split_ask *ask, const struct td_spec *spec, enum td_type kv_type)
{
    for (uint32_t il = 0; il < spec->n_layers; il++) {
        const double bytes = wire_bytes(&spec->kv[il], kv_type);
        const uint32_t window = spec->kv[il].window;
        uint32_t g = 0;
        while (g < ask->n_groups && (ask->groups[g].window_tokens != window ||
                                     ask->groups[g].bytes_per_token_layer != bytes))
            g++;
        if (g == TD_SPLIT_MAX_GROUPS) g--;
        if (g == ask->n_groups)
            ask->groups[ask->n_groups++] =
                (struct td_split_group){.window_tokens = window, .bytes_per_token_layer = bytes};
        ask->groups[g].n_layers++;
    }
}

// A prompt of n tokens of which nothing is cached, here or at p.
static void put_question(const struct td_remote *r, const struct peer *p, uint32_t n,
                         struct td_split_ask *out)
{
    struct td_far_info info;
    td_far_info(p->far, &info);
    *out = (struct td_split_ask){
        .here = {.prefill = r->prefill, .decode = r->decode},
        .there = {.prefill = info.prefill, .decode = info.decode},
        .n_prompt_tokens = n,
        .n_answer_tokens = N_ANSWER,
        .link_bytes_per_s = p->link_bytes_per_s,
        .round_trip_seconds = info.round_trip_seconds,
        .setup_seconds = p->setup_seconds,
        .chunk_tokens = CHUNK,
        .checkpoint_tokens =
            r->cfg.far.checkpoint_tokens ? r->cfg.far.checkpoint_tokens : CHECKPOINT,
    };
    group_layers(out, &td_engine_model(r->cfg.far.engine)->spec, r->cfg.far.kv_type);
}

int td_remote_question(struct td_remote *r, uint32_t i, uint32_t n, struct td_split_ask *out,
                       struct td_error *err)
{
    struct td_far *far;
    const int code = td_remote_peer(r, i, &far, err);
    if (!code) put_question(r, &r->peers[i], n, out);
    return code;
}

static void ask_split(const struct job *j, const struct peer *p, struct td_split *out)
{
    const uint32_t n = j->ask->n;
    struct td_split_ask ask;
    put_question(j->r, p, n, &ask);
    ask.here.n_cached_tokens = j->n_have;
    ask.there.n_cached_tokens = n_cached_there(p, j->ask->tokens, n);
    if (j->ask->n_answer) ask.n_answer_tokens = j->ask->n_answer;
    td_split(out, &ask);
}

// The best peer that has not failed this prompt, with what it promises; NULL: none, and
// stats->reason says why.
static struct peer *choose(struct job *j, struct td_split *best)
{
    struct td_remote *r = j->r;
    const bool is_required = r->cfg.policy == TD_REMOTE_REQUIRE;
    struct peer *chosen = NULL;
    for (uint32_t i = 0; i < r->n_peers; i++) {
        struct peer *p = &r->peers[i];
        if (j->is_tried[i]) continue;
        if (!is_required && td_clock_ns() < p->retry_at_ns) {
            if (!chosen && !j->stats->reason[0])
                snprintf(j->stats->reason, sizeof(j->stats->reason),
                         "%.120s could not be asked a moment ago", p->where);
            continue;
        }
        const int code = connect_peer(r, p, &j->why);
        if (code) {
            j->code = code;
            j->is_tried[i] = true;
            snprintf(j->stats->reason, sizeof(j->stats->reason), "%s", j->why.msg);
            continue;
        }
        struct td_split split;
        ask_split(j, p, &split);
        if (!split.pays && !is_required) {
            if (!chosen)
                snprintf(j->stats->reason, sizeof(j->stats->reason), "%.120s: %s", p->where,
                         td_split_why_text(split.why));
            j->stats->predicted_seconds = split.here_first_seconds;
            continue;
        }
        if (chosen && split.split_seconds >= best->split_seconds) continue;
        chosen = p;
        *best = split;
    }
    return chosen;
}

// ---- one prompt -------------------------------------------------------------------------------

static double known(double seconds)
{
    return isfinite(seconds) ? seconds : 0;
}

// Exponential average: a new figure counts for half.
static double mix(double old, double seen)
{
    return old > 0 ? (old + seen) / 2 : seen;
}

static enum td_fetch_state wait_for(struct job *j, struct td_fetch *f, struct td_error *err)
{
    for (;;) {
        const enum td_fetch_state state = td_fetch_poll(f, POLL_MS, err);
        if (state != TD_FETCH_RUNNING) return state;
        if (!j->ask->remote_progress) continue;
        struct td_fetch_report report;
        td_fetch_report(f, &report);
        if (j->ask->remote_progress(j->ask->progress_ctx, &report) || j->is_cancelled) continue;
        j->is_cancelled = true;
        td_fetch_cancel(f);
    }
}

static void add_report(struct job *j, struct peer *p, const struct td_fetch_report *report)
{
    struct td_remote_stats *st = j->stats;
    st->n_remote += report->n_committed > report->n_have ? report->n_committed - report->n_have : 0;
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
    if (info.weights_differ && report->n_committed > report->n_have && j->r->mixed != j->s) {
        j->r->mixed = j->s;
        j->r->mixed_from = report->n_have;
    }
    j->n_have = td_max_u32(j->n_have, report->n_committed);
}

// Fetches what is missing from one peer. TD_OK: all but the last token is here.
static int fetch(struct job *j, struct peer *p)
{
    struct td_fetch *f;
    int code = td_fetch_begin(&f, p->far, j->s, j->ask->tokens, j->ask->n, &j->why);
    if (code) return code;
    const enum td_fetch_state state = wait_for(j, f, &j->why);
    struct td_fetch_report report;
    td_fetch_report(f, &report);
    td_fetch_end(f);
    add_report(j, p, &report);
    if (state == TD_FETCH_DONE) {
        remember_prompt(p, j->ask->tokens, j->ask->n - 1);
        if (report.n_resumed == 0) {
            const double rest = report.seconds - report.far_seconds - report.exposed_seconds;
            p->setup_seconds = mix(p->setup_seconds, rest > 0 ? rest : 0);
        }
        return TD_OK;
    }
    return j->why.code ? j->why.code : TD_EIO;
}

static void set_chosen(struct job *j, struct peer *p, const struct td_split *split)
{
    struct td_far_info info;
    td_far_info(p->far, &info);
    struct td_remote_stats *st = j->stats;
    snprintf(st->peer, sizeof(st->peer), "%s", info.peer);
    st->all_there_is_faster = split->all_there_is_faster;
    st->predicted_seconds = known(split->split_first_seconds);
}

// Asks the peers in turn until one delivered or none is left. TD_OK: go on here with what came.
static int ask_peers(struct job *j, struct td_error *err)
{
    struct td_remote *r = j->r;
    struct td_remote_stats *st = j->stats;
    struct td_split split;
    struct peer *p;
    while ((p = choose(j, &split)) != NULL) {
        set_chosen(j, p, &split);
        const int code = fetch(j, p);
        if (code == TD_OK) {
            st->path = st->n_resumed ? TD_REMOTE_RESUMED : TD_REMOTE_REMOTE;
            snprintf(st->reason, sizeof(st->reason), "%s",
                     split.pays ? td_split_why_text(split.why) : "policy require");
            return TD_OK;
        }
        if (j->is_cancelled) return td_fail(err, TD_ECANCEL, "cancelled");
        j->code = code;
        j->is_tried[p - r->peers] = true;
        p->retry_at_ns = td_clock_ns() + RETRY_NS;
        snprintf(st->reason, sizeof(st->reason), "%s", j->why.msg);
        st->path = st->n_remote ? TD_REMOTE_SALVAGED : TD_REMOTE_LOCAL;
    }
    if (r->cfg.policy != TD_REMOTE_REQUIRE) return TD_OK;
    if (!j->code)
        return td_fail(err, TD_EIO, "--prefill-policy require: no prefill peer can be asked");
    if (err) *err = j->why;
    return j->code;
}

static bool no(struct job *j, const char *why)
{
    snprintf(j->stats->reason, sizeof(j->stats->reason), "%s", why);
    return false;
}

// Whether a peer is worth asking at all; stats->reason says why not.
static bool is_question(struct job *j)
{
    const struct td_remote *r = j->r;
    if (r->cfg.policy == TD_REMOTE_NEVER) return no(j, "policy never");
    if (j->n_have + 1 >= j->ask->n) return no(j, td_split_why_text(TD_SPLIT_NOTHING_TO_READ));
    if (r->cfg.policy == TD_REMOTE_REQUIRE) return true;
    for (uint32_t i = 0; i < r->n_peers; i++)
        if (r->peers[i].far) return true;
    const double seconds = td_split_read_seconds(&r->prefill, j->n_have, j->ask->n);
    if (seconds >= CONNECT_SECONDS) return true;
    j->stats->predicted_seconds = seconds;
    return no(j, "it is read here sooner than a peer is reached");
}

static int finish_here(struct job *j, struct td_error *err)
{
    const struct td_remote_ask *a = j->ask;
    const uint64_t t0 = td_clock_ns();
    const int code = td_session_sync(j->s, a->tokens, a->n, a->marks, a->n_marks, a->progress,
                                     a->progress_ctx, err);
    if (code) return code;
    const uint32_t n_reused = td_session_reused(j->s);
    j->stats->n_local = a->n - n_reused;
    td_rates_saw(&j->r->prefill, n_reused, a->n - n_reused, (double)(td_clock_ns() - t0) * 1e-9,
                 MIN_PREFILL_TOKENS);
    return TD_OK;
}

int td_remote_sync(struct td_remote *r, struct td_session *s, const struct td_remote_ask *ask,
                   struct td_remote_stats *stats, struct td_error *err)
{
    *stats = (struct td_remote_stats){.n_tokens = ask->n};
    const uint64_t t0 = td_clock_ns();
    int code = td_session_want(s, ask->tokens, ask->n, ask->marks, ask->n_marks, err);
    if (code) return code;
    struct job j = {.r = r, .s = s, .ask = ask, .stats = stats, .n_have = td_session_reused(s)};
    stats->n_have = j.n_have;
    if (r->mixed == s && j.n_have <= r->mixed_from) r->mixed = NULL; // nothing of it is left
    struct td_error ignored; // an adoption of what is there cannot fail
    // Idle while peers are asked: their canary's steps would compute this prompt, too.
    code = td_session_adopt(s, ask->tokens, ask->n, err);
    if (!code && is_question(&j)) code = ask_peers(&j, err);
    if (code && td_session_adopt(s, ask->tokens, ask->n, &ignored)) return code;
    if (!code) code = finish_here(&j, err);
    stats->seconds = (double)(td_clock_ns() - t0) * 1e-9;
    stats->weights_differ = r->mixed == s;
    if (stats->n_remote > 0) stats->kv_type = r->cfg.far.kv_type;
    if (stats->transfer_seconds > 0)
        stats->overlap = fmin(1, fmax(0, 1 - stats->exposed_seconds / stats->transfer_seconds));
    return code;
}

// ---- speeds -----------------------------------------------------------------------------------

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
