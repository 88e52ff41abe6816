// SPDX-License-Identifier: MIT
// Window snapshots: where a timeline can be taken up again although its sliding-window layers have
// forgotten. Kept at message boundaries and ends of prompts, since harmony drops past reasoning and
// the next turn diverges exactly there, and at a bounded set of other positions, thinner with age.
#include "engine/engine_impl.h"

#include <string.h>

// Distance of the positions tried besides marks. Thinning decides which stay.
#define STRIDE 512u

static void remove_at(struct td_session *s, uint32_t i)
{
    s->engine->backend->kv_close(s->snapshots[i].kv);
    memmove(&s->snapshots[i], &s->snapshots[i + 1],
            (s->n_snapshots - i - 1) * sizeof(s->snapshots[0]));
    s->n_snapshots--;
}

void td_snapshots_trim(struct td_session *s, uint32_t n)
{
    while (s->n_snapshots > 0 && s->snapshots[s->n_snapshots - 1].pos > n)
        remove_at(s, s->n_snapshots - 1);
}

const struct td_kv *td_snapshots_find(const struct td_session *s, uint32_t n, uint32_t *pos_out)
{
    const struct td_backend *b = s->engine->backend;
    for (uint32_t i = s->n_snapshots; i > 0; i--) {
        const struct td_snapshot *snapshot = &s->snapshots[i - 1];
        // Pages are whole: a snapshot shortly after n often holds what is seen from n, too.
        if (snapshot->pos > n && !b->kv_holds(snapshot->kv, n)) continue;
        *pos_out = snapshot->pos < n ? snapshot->pos : n;
        return snapshot->kv;
    }
    return NULL;
}

bool td_snapshots_drop_one(struct td_session *s)
{
    if (s->n_snapshots == 0) return false;
    // Without snapshot i, a divergence just before the next one re-reads the gap around i. The gap
    // counts relative to the age of i: what is old may be sparse. A mark is where divergence
    // happens.
    const uint32_t end = s->snapshots[s->n_snapshots - 1].pos;
    uint32_t worst = 0;
    double least = 0;
    for (uint32_t i = 0; i < s->n_snapshots; i++) {
        const uint32_t before = i > 0 ? s->snapshots[i - 1].pos : 0;
        const uint32_t after = i + 1 < s->n_snapshots ? s->snapshots[i + 1].pos : end + STRIDE;
        const double worth = (double)(after - before) /
                             (double)(end - s->snapshots[i].pos + STRIDE) *
                             (s->snapshots[i].is_mark ? 4 : 1);
        if (i == 0 || worth < least) {
            least = worth;
            worst = i;
        }
    }
    remove_at(s, worst);
    return true;
}

static void take(struct td_session *s, uint32_t pos, bool is_mark)
{
    const struct td_engine *e = s->engine;
    // The stride and a mark at one place, or a mark taken up again.
    for (uint32_t i = 0; i < s->n_snapshots; i++)
        if (s->snapshots[i].pos == pos) s->snapshots[i].is_mark |= is_mark;
    if (s->n_snapshots > 0 && s->snapshots[s->n_snapshots - 1].pos >= pos) return;
    const uint64_t budget = e->cfg.max_snapshot_bytes;
    while (s->n_snapshots > 0 && (s->n_snapshots == TD_MAX_SNAPSHOTS ||
                                  (s->n_snapshots + 1) * e->snapshot_bytes > budget))
        td_snapshots_drop_one(s);
    if (e->snapshot_bytes > budget) return;
    // A snapshot only saves work later: without memory for it, life goes on.
    struct td_kv *kv;
    if (e->backend->kv_open(e->dev, &kv, pos, NULL) != TD_OK) return;
    if (e->backend->kv_share(kv, s->kv, pos, NULL) != TD_OK) {
        e->backend->kv_close(kv);
        return;
    }
    s->snapshots[s->n_snapshots++] = (struct td_snapshot){.kv = kv, .pos = pos, .is_mark = is_mark};
}

void td_snapshots_take_marks(struct td_session *s)
{
    const struct td_backend *b = s->engine->backend;
    if (s->engine->snapshot_bytes == 0) return;
    for (uint32_t i = 0; i < s->n_marks; i++)
        if (s->marks[i] > 0 && b->kv_holds(s->kv, s->marks[i])) take(s, s->marks[i], true);
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
