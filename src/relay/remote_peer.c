// SPDX-License-Identifier: MIT
// Who could read a prompt: connects, tries again ever more seldom, takes a first look at the link,
// and says what asking would bring.
#include "relay/remote_impl.h"

#include "base/clock.h"
#include "base/num.h"

#include <assert.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    N_ANSWER = 256,    // tokens expected when nobody says
    CHUNK = 512,       // of a peer that does not say
    CHECKPOINT = 4096, // tokens, where the configuration does not say
    WAIT_MS = 50
};
// Who could not be reached is left alone: a second, then twice as long each time, and never less
// than some times what the attempt took, so that a peer that swallows what is sent to it costs
// little.
#define RETRY_MS       1000u
#define RETRY_MAX_MS   120000u
#define RETRY_PER_TIME 4u
// What asking costs beside round trip, computing and transfer, until it has been seen.
#define SETUP_SECONDS 0.005
// The first look at a link: a little, then more when that was quick.
#define LOOK_BYTES    (256u << 10)
#define LOOK_BYTES_2  (4u << 20)
#define LOOK_SECONDS  0.05
#define LOOK_AGAIN_NS 1000000000u

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
    if (n >= TD_REMOTE_MAX_WHERE)
        return td_fail(err, TD_EARG, "--prefill: an address of %zu bytes", n);
    if (r->n_peers == TD_REMOTE_MAX_PEERS)
        return td_fail(err, TD_EARG, "--prefill: more than %d peers", TD_REMOTE_MAX_PEERS);
    struct td_remote_peer *p = &r->peers[r->n_peers++];
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
    assert(!r->tries);
    for (uint32_t i = 0; i < r->n_peers; i++) {
        td_far_close(r->peers[i].far);
        for (uint32_t k = 0; k < TD_REMOTE_MAX_READ; k++) {
            struct td_remote_prompt *read = &r->peers[i].read[k];
            if (read->tokens) OPENSSL_cleanse(read->tokens, read->cap * sizeof(*read->tokens));
            free(read->tokens);
        }
    }
    free(r);
}

// ---- connecting -------------------------------------------------------------------------------

void td_remote_fail_peer(struct td_remote_peer *p, const struct td_error *why)
{
    const uint64_t now_ns = td_clock_ns();
    const uint64_t took_ms = p->is_trying ? (now_ns - p->dialled_ns) / 1000000u : 0;
    uint64_t wait_ms = p->backoff_ms ? 2 * (uint64_t)p->backoff_ms : RETRY_MS;
    if (wait_ms < RETRY_PER_TIME * took_ms) wait_ms = RETRY_PER_TIME * took_ms;
    if (wait_ms > RETRY_MAX_MS) wait_ms = RETRY_MAX_MS;
    p->backoff_ms = (uint32_t)wait_ms;
    p->retry_at_ns = now_ns + wait_ms * 1000000u;
    p->is_trying = false;
    p->why = *why;
}

void td_remote_dial_peer(struct td_remote *r, struct td_remote_peer *p)
{
    struct td_error why;
    p->dialled_ns = td_clock_ns();
    if (!p->far) {
        struct td_far_config cfg = r->cfg.far;
        cfg.where = p->where;
        if (td_far_new(&p->far, &cfg, &why)) {
            td_remote_fail_peer(p, &why);
            return;
        }
    }
    td_far_tell(p->far, &r->prefill, &r->decode);
    p->is_trying = true;
    td_far_dial(p->far);
}

static void begin_look(struct td_remote_peer *p, uint64_t size_bytes)
{
    struct td_error ignored; // what is not learnt now is learnt by the first prompt
    p->look_bytes = size_bytes;
    p->look_at_ns = td_clock_ns() + LOOK_AGAIN_NS;
    p->is_looking = td_far_measure_begin(p->far, size_bytes, &ignored) == TD_OK;
}

static void tend_look(struct td_remote_peer *p, uint32_t wait_ms)
{
    double bytes_per_s;
    if (!td_far_measure_poll(p->far, wait_ms, &bytes_per_s)) return;
    p->is_looking = false;
    if (bytes_per_s <= 0) return;
    p->link_bytes_per_s = bytes_per_s;
    const bool is_quick = (double)p->look_bytes / bytes_per_s <= LOOK_SECONDS;
    if (p->look_bytes == LOOK_BYTES && is_quick) begin_look(p, LOOK_BYTES_2);
}

enum td_remote_ready td_remote_tend_peer(struct td_remote_peer *p, uint32_t wait_ms)
{
    if (!p->far) return TD_PEER_NO;
    struct td_error why;
    switch (td_far_tend(p->far, wait_ms, &why)) {
    case TD_FAR_DIALING:
    case TD_FAR_CHECKING: return TD_PEER_SOON;
    case TD_FAR_DOWN:
        p->is_looking = false;
        if (p->is_trying)
            td_remote_fail_peer(p, &why);
        else
            p->why = why;
        return TD_PEER_NO;
    case TD_FAR_UP: break;
    }
    if (p->is_trying) {
        p->is_trying = false;
        p->backoff_ms = 0;
        p->retry_at_ns = 0;
        p->look_at_ns = 0;
    }
    // Without a figure nothing would ever be asked. Refused while something is fetched.
    if (!p->is_looking && p->link_bytes_per_s <= 0 && td_clock_ns() >= p->look_at_ns)
        begin_look(p, LOOK_BYTES);
    if (p->is_looking) tend_look(p, wait_ms);
    return p->is_looking ? TD_PEER_SOON : TD_PEER_YES;
}

bool td_remote_tend(struct td_remote *r)
{
    if (r->cfg.policy == TD_REMOTE_NEVER) return false;
    bool wants_step = false;
    for (uint32_t i = 0; i < r->n_peers; i++) {
        struct td_remote_peer *p = &r->peers[i];
        if (td_remote_tend_peer(p, 0) == TD_PEER_NO && td_clock_ns() >= p->retry_at_ns)
            td_remote_dial_peer(r, p);
        wants_step = wants_step || (p->far && td_far_wants_step(p->far));
    }
    return wants_step;
}

bool td_remote_is_up(struct td_remote *r, uint32_t i)
{
    return i < r->n_peers && td_remote_tend_peer(&r->peers[i], 0) == TD_PEER_YES;
}

int td_remote_peer(struct td_remote *r, uint32_t i, struct td_far **out, struct td_error *err)
{
    *out = NULL;
    if (i >= r->n_peers) return td_fail(err, TD_EARG, "there are %u prefill peers", r->n_peers);
    struct td_remote_peer *p = &r->peers[i];
    enum td_remote_ready ready = td_remote_tend_peer(p, 0);
    if (ready == TD_PEER_NO) td_remote_dial_peer(r, p);
    while (ready != TD_PEER_YES) {
        const bool wants_step = p->far && td_far_wants_step(p->far);
        const int code = wants_step ? td_engine_step(r->cfg.far.engine, NULL, err) : TD_OK;
        if (code && code != TD_ECANCEL) return code; // another session's cancel is its own affair
        ready = td_remote_tend_peer(p, wants_step ? 0 : WAIT_MS);
        if (ready != TD_PEER_NO) continue;
        if (err) *err = p->why;
        return p->why.code;
    }
    *out = p->far;
    return TD_OK;
}

// ---- the question -----------------------------------------------------------------------------

static uint32_t n_alike(const struct td_remote_prompt *read, const int32_t *tokens, uint32_t n)
{
    uint32_t same = 0;
    while (same < read->n && same + 1 < n && tokens[same] == read->tokens[same]) same++;
    return same;
}

// As many prompts as it has slots are probably still there.
static uint32_t n_read(const struct td_remote_peer *p)
{
    struct td_far_info info;
    td_far_info(p->far, &info);
    return td_min_u32(info.n_slots, TD_REMOTE_MAX_READ);
}

// What of the prompt the peer has read before; less than n.
static uint32_t n_cached_there(const struct td_remote_peer *p, const int32_t *tokens, uint32_t n)
{
    uint32_t most = 0;
    for (uint32_t i = 0; i < TD_REMOTE_MAX_READ; i++)
        most = td_max_u32(most, n_alike(&p->read[i], tokens, n));
    return most;
}

void td_remote_remember(struct td_remote_peer *p, const int32_t *tokens, uint32_t n)
{
    // In the place of what it goes on from, or of the oldest.
    const uint32_t n_places = td_max_u32(n_read(p), 1);
    struct td_remote_prompt *at = NULL;
    for (uint32_t i = 0; i < n_places && !at; i++)
        if (p->read[i].n > 0 && n_alike(&p->read[i], tokens, n) >= p->read[i].n / 2)
            at = &p->read[i];
    for (uint32_t i = 0; i < n_places && !at; i++)
        if (p->read[i].n == 0) at = &p->read[i];
    if (!at) {
        at = &p->read[0];
        for (uint32_t i = 1; i < n_places; i++)
            if (p->read[i].used < at->used) at = &p->read[i];
    }
    at->n = 0;
    at->used = ++p->n_uses;
    if (n > at->cap) {
        int32_t *grown = realloc(at->tokens, n * sizeof(*grown));
        if (!grown) return; // a worse guess next time
        at->tokens = grown;
        at->cap = n;
    }
    memcpy(at->tokens, tokens, n * sizeof(*tokens));
    at->n = n;
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
static void put_question(const struct td_remote *r, const struct td_remote_peer *p, uint32_t n,
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

void td_remote_ask_split(const struct td_remote *r, const struct td_remote_peer *p,
                         const struct td_remote_ask *ask, uint32_t n_have, double wait_seconds,
                         struct td_split *out)
{
    struct td_split_ask question;
    put_question(r, p, ask->n, &question);
    question.here.n_cached_tokens = n_have;
    question.here.wait_seconds = ask->wait_here_seconds;
    question.there.n_cached_tokens = n_cached_there(p, ask->tokens, ask->n);
    question.there.wait_seconds = wait_seconds;
    if (ask->n_answer) question.n_answer_tokens = ask->n_answer;
    td_split(out, &question);
}
