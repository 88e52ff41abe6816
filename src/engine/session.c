// SPDX-License-Identifier: MIT
// One timeline of tokens: what of it is computed, what is wanted, where it can be taken up again.
// Its rows are computed by td_engine_step.
#include "engine/engine_impl.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

int td_session_open(struct td_session **out, struct td_engine *e, uint32_t n_ctx,
                    struct td_error *err)
{
    *out = NULL;
    struct td_session *s = calloc(1, sizeof(*s));
    if (!s) return td_fail(err, TD_ENOMEM, "no memory for a session");
    s->engine = e;
    s->n_ctx = n_ctx;
    s->tokens = calloc(n_ctx ? n_ctx : 1, sizeof(*s->tokens));
    s->logits = calloc(e->model->spec.n_vocab, sizeof(*s->logits));
    int code = TD_OK;
    if (!s->tokens || !s->logits)
        code = td_fail(err, TD_ENOMEM, "no memory for a session of %u tokens", n_ctx);
    if (code == TD_OK) code = e->backend->kv_open(e->dev, &s->kv, n_ctx, err);
    if (code != TD_OK) {
        free(s->tokens);
        free(s->logits);
        free(s);
        return code;
    }
    s->next = e->sessions;
    e->sessions = s;
    e->n_sessions++;
    *out = s;
    return TD_OK;
}

void td_session_close(struct td_session *s)
{
    if (!s) return;
    struct td_engine *e = s->engine;
    struct td_session **at = &e->sessions;
    while (*at != s) at = &(*at)->next;
    *at = s->next;
    e->n_sessions--;
    if (e->after == s) e->after = s->next;
    if (e->after_single == s) e->after_single = s->next;
    td_snapshots_clear(e, &s->snapshots);
    e->backend->kv_close(s->kv);
    td_cache_keep_limit(e);
    free(s->marks);
    free(s->tokens);
    free(s->logits);
    free(s);
}

enum td_session_state td_session_state(const struct td_session *s)
{
    return s->state;
}

uint32_t td_session_len(const struct td_session *s)
{
    return s->n;
}

uint32_t td_session_computed(const struct td_session *s)
{
    return s->engine->backend->kv_len(s->kv);
}

void td_session_isolate(struct td_session *s)
{
    s->is_alone = true;
}

uint32_t td_session_reused(const struct td_session *s)
{
    return s->n_reused;
}

uint64_t td_session_snapshot_bytes(const struct td_session *s)
{
    return s->snapshots.n * s->engine->snapshot_bytes;
}

struct td_kv *td_session_kv(struct td_session *s)
{
    return s->kv;
}

const float *td_session_logits(const struct td_session *s)
{
    assert(s->state == TD_SESSION_READY);
    return s->logits;
}

void td_session_cancel(struct td_session *s)
{
    // The session first: whoever sees the engine's flag finds its owner.
    atomic_store(&s->is_cancelled, true);
    atomic_store(&s->engine->is_cancelled, true);
}

void td_session_stop(struct td_session *s)
{
    s->state = TD_SESSION_IDLE;
    s->n = s->engine->backend->kv_len(s->kv);
}

// Where in its own KV or snapshots the session can be taken up, at n or before it. *from_out: NULL
// for the KV as it is.
static uint32_t find_own(const struct td_session *s, uint32_t n, const struct td_kv **from_out)
{
    const struct td_backend *b = s->engine->backend;
    *from_out = NULL;
    const uint32_t len = b->kv_len(s->kv);
    if (n >= len) return len;
    if (b->kv_holds(s->kv, n)) return n;
    uint32_t pos = 0;
    *from_out = td_snapshots_find(s->engine, &s->snapshots, n, &pos);
    return pos;
}

// Makes the KV equal to positions [0, pos) of `from`; NULL: of its own.
static int take_up(struct td_session *s, uint32_t pos, const struct td_kv *from,
                   struct td_error *err)
{
    const struct td_backend *b = s->engine->backend;
    if (!from) return pos < b->kv_len(s->kv) ? b->kv_trim(s->kv, pos, err) : TD_OK;
    const int code = b->kv_trim(s->kv, 0, err);
    return code == TD_OK ? b->kv_share(s->kv, from, pos, err) : code;
}

// How many of n tokens begin the timeline's computed part.
static uint32_t n_same(const struct td_session *s, const int32_t *tokens, uint32_t n,
                       uint32_t n_computed)
{
    uint32_t same = 0;
    while (same < n && same < n_computed && tokens[same] == s->tokens[same]) same++;
    return same;
}

static int check_prompt(const struct td_session *s, const int32_t *tokens, uint32_t n,
                        struct td_error *err)
{
    const uint32_t n_vocab = s->engine->model->spec.n_vocab;
    if (n == 0) return td_fail(err, TD_EARG, "an empty prompt has no next token");
    if (n > s->n_ctx)
        return td_fail(err, TD_EFULL, "the prompt has %u tokens, the context holds %u", n,
                       s->n_ctx);
    for (uint32_t i = 0; i < n; i++)
        if (tokens[i] < 0 || (uint32_t)tokens[i] >= n_vocab)
            return td_fail(err, TD_EARG, "token %d at %u is not in the vocabulary of %u", tokens[i],
                           i, n_vocab);
    return TD_OK;
}

static int set_marks(struct td_session *s, const uint32_t *marks, uint32_t n_marks,
                     struct td_error *err)
{
    if (n_marks > s->marks_cap) {
        uint32_t *grown = realloc(s->marks, n_marks * sizeof(*grown));
        if (!grown) return td_fail(err, TD_ENOMEM, "no memory for %u marks", n_marks);
        s->marks = grown;
        s->marks_cap = n_marks;
    }
    if (n_marks) memcpy(s->marks, marks, n_marks * sizeof(*marks));
    s->n_marks = n_marks;
    return TD_OK;
}

// Brings the KV to the longest usable prefix of the tokens: its own, or (unless is_alone) that of
// another conversation.
static int take_up_best(struct td_session *s, const int32_t *tokens, uint32_t n, bool is_alone,
                        struct td_error *err)
{
    struct td_engine *e = s->engine;
    const uint32_t len = e->backend->kv_len(s->kv);
    const uint32_t same = n_same(s, tokens, n, len);
    // The last token is computed even if it is known: its logits are what the caller wants.
    const struct td_kv *from;
    const uint32_t own = find_own(s, same < n ? same : n - 1, &from);
    const struct td_kv *other = NULL;
    const struct td_snapshots *others = NULL;
    uint32_t pos = own;
    // What is left behind beyond the prompt is an answer, which the next turn drops or repeats.
    if (!is_alone && same < len && same < s->n_prompt) {
        // A first look, so that room for this one is not made of the one that is needed.
        (void)td_cache_find(s, tokens, n - 1, &pos, &others);
        td_cache_keep(s);
        pos = own;
    }
    if (!is_alone) other = td_cache_find(s, tokens, n - 1, &pos, &others);
    const int code = take_up(s, pos, other ? other : from, err);
    // Only now: a snapshot just beyond the prefix may hold its end.
    td_snapshots_trim(e, &s->snapshots, same);
    if (code == TD_OK && other) td_snapshots_merge(e, &s->snapshots, others, pos);
    td_cache_keep_limit(e);
    if (code != TD_OK || !other) return code;
    e->cache.stats.n_hits++;
    e->cache.stats.n_hit_tokens += pos - own;
    return TD_OK;
}

static int want(struct td_session *s, const int32_t *tokens, uint32_t n, bool is_alone,
                struct td_error *err)
{
    s->is_lent = false;
    const int code = take_up_best(s, tokens, n, is_alone, err);
    if (code != TD_OK) return code;
    // No memmove of a prefix onto itself: callers may pass what they got from us.
    memmove(s->tokens, tokens, n * sizeof(*tokens));
    s->n = n;
    s->n_prompt = n;
    s->n_reused = s->engine->backend->kv_len(s->kv);
    s->rows_fn = NULL;
    s->state = TD_SESSION_PREFILLING;
    atomic_store(&s->is_cancelled, false);
    td_snapshots_take_marks(s);
    return TD_OK;
}

int td_session_want(struct td_session *s, const int32_t *tokens, uint32_t n, const uint32_t *marks,
                    uint32_t n_marks, struct td_error *err)
{
    int code = check_prompt(s, tokens, n, err);
    if (code == TD_OK) code = set_marks(s, marks, n_marks, err);
    return code == TD_OK ? want(s, tokens, n, s->is_alone, err) : code;
}

void td_session_retire(struct td_session *s)
{
    struct td_engine *e = s->engine;
    const bool is_alone = s->is_alone;
    td_session_stop(s);
    s->is_lent = s->is_alone = false;
    if (e->cache.max_bytes == 0) return;
    if (!is_alone) td_cache_keep(s);
    td_snapshots_clear(e, &s->snapshots);
    if (e->backend->kv_trim(s->kv, 0, NULL) == TD_OK) s->n = 0; // cannot fail
    s->n_prompt = s->n_reused = s->n_marks = 0;
    td_cache_keep_limit(e);
}

int td_session_adopt(struct td_session *s, const int32_t *tokens, uint32_t n, struct td_error *err)
{
    const uint32_t len = s->engine->backend->kv_len(s->kv);
    if (len > n)
        return td_fail(err, TD_EARG, "the KV cache holds %u tokens, only %u are named", len, n);
    // s->tokens is right as far as any snapshot goes, whatever became of the KV since.
    td_snapshots_trim(s->engine, &s->snapshots, n_same(s, tokens, len, len));
    s->is_lent = false;
    memmove(s->tokens, tokens, len * sizeof(*tokens));
    td_session_stop(s);
    return TD_OK;
}

int td_session_append(struct td_session *s, int32_t token, struct td_error *err)
{
    if (s->state != TD_SESSION_READY)
        return td_fail(err, TD_EARG,
                       "a token can only follow when the ones before it are computed");
    if (s->n == s->n_ctx)
        return td_fail(err, TD_EFULL, "the context of %u tokens is full", s->n_ctx);
    if (token < 0 || (uint32_t)token >= s->engine->model->spec.n_vocab)
        return td_fail(err, TD_EARG, "token %d is not in the vocabulary", token);
    s->tokens[s->n++] = token;
    s->state = TD_SESSION_PREFILLING;
    return TD_OK;
}

// Steps until s has its logits. Other sessions move along.
static int step_until_ready(struct td_session *s, td_progress_fn *progress, void *ctx,
                            struct td_error *err)
{
    while (s->state == TD_SESSION_PREFILLING) {
        const int code = td_engine_step(s->engine, NULL, err);
        // Another session's cancel is not ours.
        if (code == TD_ECANCEL && s->state == TD_SESSION_PREFILLING) continue;
        if (code != TD_OK) return code;
        if (progress && !progress(ctx, s->engine->backend->kv_len(s->kv), s->n)) td_session_stop(s);
    }
    if (s->state == TD_SESSION_IDLE) return td_fail(err, TD_ECANCEL, "cancelled");
    return TD_OK;
}

int td_session_sync(struct td_session *s, const int32_t *tokens, uint32_t n, const uint32_t *marks,
                    uint32_t n_marks, td_progress_fn *progress, void *ctx, struct td_error *err)
{
    int code = td_session_want(s, tokens, n, marks, n_marks, err);
    if (code != TD_OK) return code;
    code = step_until_ready(s, progress, ctx, err);
    if (code != TD_OK) td_session_stop(s);
    return code;
}

int td_session_eval(struct td_session *s, const int32_t *tokens, uint32_t n, td_rows_fn *rows,
                    void *ctx, struct td_error *err)
{
    int code = check_prompt(s, tokens, n, err);
    if (code != TD_OK) return code;
    // Every row is wanted, so none may be reused.
    td_snapshots_clear(s->engine, &s->snapshots);
    code = s->engine->backend->kv_trim(s->kv, 0, err);
    if (code == TD_OK) code = set_marks(s, NULL, 0, err);
    if (code == TD_OK) code = want(s, tokens, n, true, err);
    if (code != TD_OK) return code;
    s->rows_fn = rows;
    s->rows_ctx = ctx;
    code = step_until_ready(s, NULL, NULL, err);
    s->rows_fn = NULL;
    if (code != TD_OK) td_session_stop(s);
    return code;
}

int td_session_next(struct td_session *s, struct td_sampler *sampler, int32_t *token_out,
                    struct td_error *err)
{
    const uint32_t n_vocab = s->engine->model->spec.n_vocab;
    if (td_sampler_n_vocab(sampler) != n_vocab)
        return td_fail(err, TD_EARG, "a sampler of %u tokens cannot choose from %u",
                       td_sampler_n_vocab(sampler), n_vocab);
    int code = step_until_ready(s, NULL, NULL, err);
    if (code != TD_OK) return code;
    // A cancel since the last token: nothing is computing that would meet it.
    if (atomic_exchange(&s->is_cancelled, false)) {
        td_session_stop(s);
        return td_fail(err, TD_ECANCEL, "cancelled");
    }
    if (s->n == s->n_ctx)
        return td_fail(err, TD_EFULL, "the context of %u tokens is full", s->n_ctx);
    const int32_t token = td_sampler_draw(sampler, s->logits);
    code = td_session_append(s, token, err);
    if (code != TD_OK) return code;
    td_sampler_accept(sampler, token);
    *token_out = token;
    return TD_OK;
}
