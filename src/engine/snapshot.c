// SPDX-License-Identifier: MIT
// Window snapshots: where a timeline can be taken up again although its sliding-window layers have
// forgotten. Kept at message boundaries and ends of prompts, since harmony drops past reasoning and
// the next turn diverges exactly there, and at a bounded set of other positions, thinner with age.
#include "engine/engine_impl.h"

#include <stdlib.h>
#include <string.h>

// Distance of the positions tried besides marks. Thinning decides which stay.
#define STRIDE 512u

static void give(struct td_engine *e, struct td_snapshot *snapshot)
{
    if (--snapshot->n_refs > 0) return;
    e->backend->kv_close(snapshot->kv);
    free(snapshot);
}

static void remove_at(struct td_engine *e, struct td_snapshots *l, uint32_t i)
{
    give(e, l->at[i]);
    memmove((void *)&l->at[i], (void *)&l->at[i + 1],
            (l->n - i - 1) * sizeof(struct td_snapshot *));
    l->n--;
}

void td_snapshots_trim(struct td_engine *e, struct td_snapshots *l, uint32_t n)
{
    while (l->n > 0 && l->at[l->n - 1]->pos > n) remove_at(e, l, l->n - 1);
}

void td_snapshots_clear(struct td_engine *e, struct td_snapshots *l)
{
    while (l->n > 0) remove_at(e, l, l->n - 1);
}

const struct td_kv *td_snapshots_find(const struct td_engine *e, const struct td_snapshots *l,
                                      uint32_t n, uint32_t *pos_out)
{
    for (uint32_t i = l->n; i > 0; i--) {
        const struct td_snapshot *snapshot = l->at[i - 1];
        // Pages are whole: a snapshot shortly after n often holds what is seen from n, too.
        if (snapshot->pos > n && !e->backend->kv_holds(snapshot->kv, n)) continue;
        *pos_out = snapshot->pos < n ? snapshot->pos : n;
        return snapshot->kv;
    }
    return NULL;
}

bool td_snapshots_drop_one(struct td_engine *e, struct td_snapshots *l)
{
    if (l->n == 0) return false;
    // Without snapshot i, a divergence just before the next one re-reads the gap around i. The gap
    // counts relative to the age of i: what is old may be sparse. A mark is where divergence
    // happens.
    const uint32_t end = l->at[l->n - 1]->pos;
    uint32_t worst = 0;
    double least = 0;
    for (uint32_t i = 0; i < l->n; i++) {
        const uint32_t before = i > 0 ? l->at[i - 1]->pos : 0;
        const uint32_t after = i + 1 < l->n ? l->at[i + 1]->pos : end + STRIDE;
        const double worth = (double)(after - before) / (double)(end - l->at[i]->pos + STRIDE) *
                             (l->at[i]->is_mark ? 4 : 1);
        if (i == 0 || worth < least) {
            least = worth;
            worst = i;
        }
    }
    remove_at(e, l, worst);
    return true;
}

// Makes room for one more; false when the budget has none for any.
static bool make_room(struct td_engine *e, struct td_snapshots *l)
{
    const uint64_t budget = e->cfg.max_snapshot_bytes;
    while (l->n > 0 && (l->n == TD_MAX_SNAPSHOTS || (l->n + 1) * e->snapshot_bytes > budget))
        td_snapshots_drop_one(e, l);
    return e->snapshot_bytes <= budget;
}

void td_snapshots_merge(struct td_engine *e, struct td_snapshots *l,
                        const struct td_snapshots *from, uint32_t n)
{
    for (uint32_t i = 0; i < from->n && from->at[i]->pos <= n; i++) {
        struct td_snapshot *snapshot = from->at[i];
        uint32_t at = 0;
        while (at < l->n && l->at[at]->pos < snapshot->pos) at++;
        if (at < l->n && l->at[at]->pos == snapshot->pos) {
            l->at[at]->is_mark |= snapshot->is_mark;
            continue;
        }
        if (!make_room(e, l)) return;
        // Thinning may have moved the place.
        while (at > 0 && (at > l->n || l->at[at - 1]->pos > snapshot->pos)) at--;
        memmove((void *)&l->at[at + 1], (void *)&l->at[at],
                (l->n - at) * sizeof(struct td_snapshot *));
        l->at[at] = snapshot;
        l->n++;
        snapshot->n_refs++;
    }
}

static void take(struct td_session *s, uint32_t pos, bool is_mark)
{
    struct td_engine *e = s->engine;
    struct td_snapshots *l = &s->snapshots;
    // The stride and a mark at one place, or a mark taken up again.
    for (uint32_t i = 0; i < l->n; i++)
        if (l->at[i]->pos == pos) l->at[i]->is_mark |= is_mark;
    if (l->n > 0 && l->at[l->n - 1]->pos >= pos) return;
    if (!make_room(e, l)) return;
    // A snapshot only saves work later: without memory for it, life goes on.
    struct td_snapshot *snapshot = malloc(sizeof(*snapshot));
    if (!snapshot) return;
    *snapshot = (struct td_snapshot){.pos = pos, .is_mark = is_mark, .n_refs = 1};
    int code = e->backend->kv_open(e->dev, &snapshot->kv, pos, NULL);
    if (code == TD_OK) code = e->backend->kv_share(snapshot->kv, s->kv, pos, NULL);
    if (code != TD_OK)
        give(e, snapshot);
    else
        l->at[l->n++] = snapshot;
}

void td_snapshots_take_marks(struct td_session *s)
{
    const struct td_backend *b = s->engine->backend;
    if (s->engine->snapshot_bytes == 0) return;
    for (uint32_t i = 0; i < s->n_marks; i++)
        if (s->marks[i] > 0 && b->kv_holds(s->kv, s->marks[i])) take(s, s->marks[i], true);
}

void td_session_mark(struct td_session *s)
{
    const uint32_t len = s->engine->backend->kv_len(s->kv);
    if (s->engine->snapshot_bytes > 0 && len > 0) take(s, len, true);
}

void td_snapshots_take(struct td_session *s, uint32_t old_len)
{
    const uint32_t len = s->engine->backend->kv_len(s->kv);
    // A model without window layers forgets nothing: trimming is enough.
    if (s->engine->snapshot_bytes == 0 || old_len >= s->n_prompt) return;
    uint32_t stride_pos = old_len / STRIDE * STRIDE + STRIDE;
    uint32_t i = 0;
    for (;;) {
        while (i < s->n_marks && s->marks[i] <= old_len) i++;
        const uint32_t mark = i < s->n_marks ? s->marks[i] : UINT32_MAX;
        const uint32_t pos = mark < stride_pos ? mark : stride_pos;
        if (pos > len) break;
        take(s, pos, pos == mark || pos == s->n_prompt);
        if (pos == mark) i++;
        if (pos == stride_pos) stride_pos += STRIDE;
    }
    if (len == s->n_prompt) take(s, len, true);
}
