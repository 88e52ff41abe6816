// SPDX-License-Identifier: MIT
// KV of conversations that are over: what is kept, where a prompt finds its longest usable prefix,
// what goes when room is needed. Pages are shared with whoever else has them, so keeping costs
// nothing but the pages that nobody else holds.
#include "engine/engine_impl.h"

#include <stdlib.h>
#include <string.h>

static void free_kept(struct td_engine *e, struct td_kept *k)
{
    td_snapshots_clear(e, &k->snapshots);
    e->backend->kv_close(k->kv);
    free(k->tokens);
    free(k);
}

static uint32_t n_same(const int32_t *a, const int32_t *b, uint32_t n)
{
    uint32_t same = 0;
    while (same < n && a[same] == b[same]) same++;
    return same;
}

static uint32_t min(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

// ---- room -------------------------------------------------------------------------------------

bool td_cache_evict_one(struct td_engine *e)
{
    struct td_kept **at = &e->cache.kept;
    if (!*at) return false;
    while ((*at)->next) at = &(*at)->next;
    free_kept(e, *at);
    *at = NULL;
    e->cache.stats.n_kept--;
    e->cache.stats.n_evicted++;
    e->cache.is_changed = true;
    return true;
}

static bool add_kv(struct td_engine *e, uint32_t *n, struct td_kv *kv)
{
    if (*n == e->cache.kvs_cap) {
        const uint32_t cap = e->cache.kvs_cap ? 2 * e->cache.kvs_cap : 64;
        struct td_kv **grown = realloc((void *)e->cache.kvs, cap * sizeof(struct td_kv *));
        if (!grown) return false;
        e->cache.kvs = grown;
        e->cache.kvs_cap = cap;
    }
    e->cache.kvs[(*n)++] = kv;
    return true;
}

// Every KV that only kept conversations have, each once; false without memory.
static bool list_kvs(struct td_engine *e, uint32_t *n)
{
    const uint64_t count = ++e->cache.count;
    *n = 0;
    for (const struct td_kept *k = e->cache.kept; k; k = k->next) {
        if (k->kv && !add_kv(e, n, k->kv)) return false;
        for (uint32_t i = 0; i < k->snapshots.n; i++) {
            struct td_snapshot *snapshot = k->snapshots.at[i];
            if (snapshot->count != count) snapshot->n_kept = 0;
            snapshot->count = count;
            if (++snapshot->n_kept == snapshot->n_refs && !add_kv(e, n, snapshot->kv)) return false;
        }
    }
    return true;
}

static void count_bytes(struct td_engine *e)
{
    uint32_t n;
    if (!e->cache.is_changed || !list_kvs(e, &n)) return;
    e->cache.stats.bytes = e->backend->kv_alone(e->cache.kvs, n);
    e->cache.is_changed = false;
}

void td_cache_keep_limit(struct td_engine *e)
{
    e->cache.is_changed = true;
    if (e->cache.max_bytes == UINT64_MAX) return;
    for (count_bytes(e); e->cache.stats.bytes > e->cache.max_bytes; count_bytes(e))
        if (!td_cache_evict_one(e)) return;
}

void td_engine_cache(struct td_engine *e, uint64_t max_bytes)
{
    e->cache.max_bytes = max_bytes;
    while (max_bytes == 0 && td_cache_evict_one(e)) {
    }
    td_cache_keep_limit(e);
}

void td_engine_cache_stats(struct td_engine *e, struct td_cache_stats *out)
{
    count_bytes(e);
    *out = e->cache.stats;
}

// ---- looking ----------------------------------------------------------------------------------

// Where a timeline of which n tokens agree can be taken up, further on than at *pos_out.
static const struct td_kv *look(const struct td_engine *e, const struct td_kv *kv,
                                const struct td_snapshots *snapshots, uint32_t n, uint32_t *pos_out)
{
    if (n <= *pos_out) return NULL;
    uint32_t pos = n;
    const struct td_kv *found = kv;
    if (!kv || !e->backend->kv_holds(kv, n)) found = td_snapshots_find(e, snapshots, n, &pos);
    if (!found || pos <= *pos_out) return NULL;
    *pos_out = pos;
    return found;
}

static void use(struct td_engine *e, struct td_kept **at)
{
    struct td_kept *k = *at;
    *at = k->next;
    k->next = e->cache.kept;
    e->cache.kept = k;
}

// Anywhere but in s (which may be NULL). *used_out: whose it is, if nobody's any more, else NULL.
static const struct td_kv *find(struct td_engine *e, const struct td_session *s,
                                const int32_t *tokens, uint32_t n, uint32_t *pos_out,
                                const struct td_snapshots **snapshots_out,
                                struct td_kept ***used_out)
{
    const struct td_kv *found = NULL;
    *used_out = NULL;
    for (struct td_kept **at = &e->cache.kept; *at; at = &(*at)->next) {
        const struct td_kept *k = *at;
        const uint32_t same = n_same(k->tokens, tokens, min(k->n, n));
        const struct td_kv *kv = look(e, k->kv, &k->snapshots, same, pos_out);
        if (!kv) continue;
        found = kv;
        *used_out = at;
        *snapshots_out = &k->snapshots;
    }
    for (const struct td_session *t = e->sessions; t; t = t->next) {
        if (t == s || t->is_lent || t->is_alone) continue;
        const uint32_t same = n_same(t->tokens, tokens, min(e->backend->kv_len(t->kv), n));
        const struct td_kv *kv = look(e, t->kv, &t->snapshots, same, pos_out);
        if (!kv) continue;
        found = kv;
        *used_out = NULL;
        *snapshots_out = &t->snapshots;
    }
    return found;
}

const struct td_kv *td_cache_find(const struct td_session *s, const int32_t *tokens, uint32_t n,
                                  uint32_t *pos_out, const struct td_snapshots **snapshots_out)
{
    struct td_engine *e = s->engine;
    if (e->cache.max_bytes == 0) return NULL;
    struct td_kept **used;
    const struct td_kv *found = find(e, s, tokens, n, pos_out, snapshots_out, &used);
    if (used) use(e, used);
    return found;
}

uint32_t td_engine_prefix(struct td_engine *e, const int32_t *tokens, uint32_t n)
{
    const struct td_snapshots *snapshots;
    struct td_kept **used;
    uint32_t pos = 0;
    if (e->cache.max_bytes > 0 && n > 0)
        (void)find(e, NULL, tokens, n - 1, &pos, &snapshots, &used);
    return pos;
}

// ---- keeping ----------------------------------------------------------------------------------

static struct td_kept *make_kept(const struct td_session *s, uint32_t n)
{
    struct td_engine *e = s->engine;
    struct td_kept *k = calloc(1, sizeof(*k));
    if (!k) return NULL;
    k->tokens = malloc(n * sizeof(*k->tokens));
    if (!k->tokens || e->backend->kv_open(e->dev, &k->kv, n, NULL) != TD_OK) {
        free_kept(e, k);
        return NULL;
    }
    // A run that failed may have taken the end from window layers: the snapshots remain.
    if (e->backend->kv_share(k->kv, s->kv, n, NULL) != TD_OK) {
        e->backend->kv_close(k->kv);
        k->kv = NULL;
    }
    td_snapshots_merge(e, &k->snapshots, &s->snapshots, n);
    if (!k->kv) n = k->snapshots.n ? k->snapshots.at[k->snapshots.n - 1]->pos : 0;
    if (n == 0) {
        free_kept(e, k);
        return NULL;
    }
    memcpy(k->tokens, s->tokens, n * sizeof(*k->tokens));
    k->n = n;
    k->n_prompt = s->n_prompt ? min(s->n_prompt, n) : n; // 0: adopted, never wanted
    return k;
}

// Whether `old` has all that k has: then it takes k's place.
static bool is_in(const struct td_engine *e, const struct td_kept *k, const struct td_kept *old)
{
    if (old->n < k->n || n_same(old->tokens, k->tokens, k->n) < k->n) return false;
    if (old->kv && e->backend->kv_holds(old->kv, k->n)) return true;
    uint32_t pos = 0;
    return td_snapshots_find(e, &old->snapshots, k->n, &pos) && pos == k->n;
}

// Gives up what k makes superfluous: what it begins with, and other answers to a prompt that it
// begins with. Places to return to move over.
static void absorb(struct td_engine *e, struct td_kept *k)
{
    for (struct td_kept **at = &e->cache.kept; *at;) {
        struct td_kept *old = *at;
        const uint32_t same = n_same(old->tokens, k->tokens, min(old->n, k->n));
        if (same < old->n_prompt) {
            at = &old->next;
            continue;
        }
        td_snapshots_merge(e, &k->snapshots, &old->snapshots, same);
        *at = old->next;
        free_kept(e, old);
        e->cache.stats.n_kept--;
    }
}

void td_cache_keep(const struct td_session *s)
{
    struct td_engine *e = s->engine;
    const uint32_t n = e->backend->kv_len(s->kv);
    if (e->cache.max_bytes == 0 || n == 0) return;
    struct td_kept *k = make_kept(s, n);
    if (!k) return; // it only saves work later
    for (struct td_kept **at = &e->cache.kept; *at; at = &(*at)->next) {
        struct td_kept *old = *at;
        if (!is_in(e, k, old)) continue;
        td_snapshots_merge(e, &old->snapshots, &k->snapshots, k->n);
        if (old->n_prompt < k->n_prompt) old->n_prompt = k->n_prompt;
        free_kept(e, k);
        use(e, at);
        return;
    }
    absorb(e, k);
    k->next = e->cache.kept;
    e->cache.kept = k;
    e->cache.stats.n_kept++;
}

// ---- for whoever stores it --------------------------------------------------------------------

static void list_places(const struct td_snapshots *snapshots, struct td_kv *kv,
                        struct td_timeline *t)
{
    for (uint32_t i = 0; i < snapshots->n; i++)
        t->places[t->n_places++] = (struct td_place){.kv = snapshots->at[i]->kv,
                                                     .pos = snapshots->at[i]->pos,
                                                     .is_mark = snapshots->at[i]->is_mark};
    // The end, unless a snapshot is there.
    if (kv && t->n > 0 && (t->n_places == 0 || t->places[t->n_places - 1].pos < t->n))
        t->places[t->n_places++] = (struct td_place){.kv = kv, .pos = t->n};
}

void td_session_timeline(const struct td_session *s, struct td_timeline *out)
{
    const struct td_backend *b = s->engine->backend;
    const uint32_t n = b->kv_len(s->kv);
    *out = (struct td_timeline){.tokens = s->tokens, .n = n, .n_prompt = min(s->n_prompt, n)};
    list_places(&s->snapshots, b->kv_holds(s->kv, n) ? s->kv : NULL, out);
}

bool td_engine_kept(const struct td_engine *e, uint32_t i, struct td_timeline *out)
{
    const struct td_kept *k = e->cache.kept;
    while (k && i-- > 0) k = k->next;
    if (!k) return false;
    *out = (struct td_timeline){.tokens = k->tokens, .n = k->n, .n_prompt = k->n_prompt};
    list_places(&k->snapshots, k->kv, out);
    return true;
}
