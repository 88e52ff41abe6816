// SPDX-License-Identifier: MIT
// Private to engine/.
#ifndef TD_ENGINE_ENGINE_IMPL_H
#define TD_ENGINE_ENGINE_IMPL_H

#include "engine/engine.h"

#include <stdatomic.h>

// A fork of a KV at a position: full layers share every page, window layers keep the few pages that
// a token there would see, which the session itself soon gives back. Never written to; timelines
// with the same tokens before it share it.
struct td_snapshot {
    struct td_kv *kv; // NULL only while it is made
    uint32_t pos;
    bool is_mark; // a message boundary or the end of a prompt: where the next turn diverges
    uint32_t n_refs;
    // For counting: how many kept conversations have it, as of this count.
    uint64_t count;
    uint32_t n_kept;
};

#define TD_MAX_SNAPSHOTS 256

struct td_snapshots {
    struct td_snapshot *at[TD_MAX_SNAPSHOTS]; // (n) ascending by pos, no two at one
    uint32_t n;
};

struct td_session {
    struct td_engine *engine;
    struct td_session *next; // in the engine's list
    uint32_t n_ctx;
    int32_t *tokens; // (n_ctx), the timeline: [0, n)
    uint32_t n;
    uint32_t n_prompt; // of the last want: rows before it are prompt
    uint32_t n_reused;
    struct td_kv *kv; // positions [0, kv_len) are computed
    enum td_session_state state;
    float *logits; // (n_vocab) of token n - 1 when READY

    uint32_t *marks; // ascending
    uint32_t n_marks, marks_cap;
    struct td_snapshots snapshots;
    // Another thread may be writing its KV (td_session_reserve): others leave it alone.
    bool is_lent;
    bool is_alone; // has nothing to do with other conversations

    td_rows_fn *rows_fn; // evaluation: wants all rows' logits
    void *rows_ctx;

    _Atomic bool is_cancelled; // set by any thread, consumed by the engine's
};

// A conversation that no session has any more.
struct td_kept {
    struct td_kept *next; // the one used before this one
    int32_t *tokens;      // (n)
    uint32_t n, n_prompt;
    struct td_kv *kv; // [0, n); NULL: only the snapshots can be taken up
    struct td_snapshots snapshots;
};

struct td_engine {
    const struct td_model *model;
    const struct td_backend *backend;
    struct td_engine_config cfg;
    struct td_device *dev;
    struct td_session *sessions;
    // Round robin: who comes first in the next step, among prompts and among single rows.
    struct td_session *after;
    struct td_session *after_single;
    uint32_t n_sessions;
    uint32_t max_prompt_rows; // of one step
    struct {
        uint64_t max_bytes; // 0: there is none
        struct td_kept *kept;
        struct td_cache_stats stats;
        bool is_changed; // stats.bytes is of before
        struct td_kv **kvs;
        uint32_t kvs_cap;
        uint64_t count;
    } cache;
    struct td_batch_part *parts; // (max_rows)
    struct td_session **part_of; // (max_rows): session of each part
    float *logits;               // (max_logits_rows, n_vocab)
    size_t logits_bytes;
    uint64_t snapshot_bytes;   // of one snapshot: the window layers' pages; 0: no window layers
    _Atomic bool is_cancelled; // some session is: the run shall end
    struct td_watch watch;     // the backend's
    // The user's, behind the pace.
    void *layer_done_ctx;
    void (*layer_done)(void *ctx, const struct td_kv_span *span);
    bool is_paced;
    struct td_pace pace;
    struct {
        uint64_t begin_ns, run_ns; // of this run: when it began, how long it shall take
        bool has_prompt;           // more than single rows
    } paced;
};

// The session is IDLE at what is computed.
void td_session_stop(struct td_session *s);

// Around a run that succeeds: it takes as long as the pace says.
void td_pace_begin(struct td_engine *e, const struct td_batch *batch);
void td_pace_end(const struct td_engine *e);

// After a run that took s from old_len to its present KV length: keeps what is worth keeping.
void td_snapshots_take(struct td_session *s, uint32_t old_len);
// Forgets snapshots beyond position n.
void td_snapshots_trim(struct td_engine *e, struct td_snapshots *l, uint32_t n);
void td_snapshots_clear(struct td_engine *e, struct td_snapshots *l);
// Drops the least useful one; false when there is none.
bool td_snapshots_drop_one(struct td_engine *e, struct td_snapshots *l);
// Where the timeline can be taken up again, at n or as near before it as possible: returns a KV
// and sets *pos_out, or NULL when there is nowhere.
const struct td_kv *td_snapshots_find(const struct td_engine *e, const struct td_snapshots *l,
                                      uint32_t n, uint32_t *pos_out);
// Adds those of a timeline with the same n first tokens.
void td_snapshots_merge(struct td_engine *e, struct td_snapshots *l,
                        const struct td_snapshots *from, uint32_t n);
// Keeps those of the marks that the KV, just brought to a known prefix, holds.
void td_snapshots_take_marks(struct td_session *s);

// Keeps what is computed of the session, which is about to leave it, and then calls keep_limit.
void td_cache_keep(const struct td_session *s);
// A session has let go of pages: gives up what is beyond the limit now.
void td_cache_keep_limit(struct td_engine *e);
// Gives up what was used longest ago; false when there is nothing.
bool td_cache_evict_one(struct td_engine *e);
// Where else than in s tokens[0, n) can be taken up, further on than at *pos_out: sets *pos_out and
// *snapshots_out (those of that timeline) and returns a KV, or NULL.
const struct td_kv *td_cache_find(const struct td_session *s, const int32_t *tokens, uint32_t n,
                                  uint32_t *pos_out, const struct td_snapshots **snapshots_out);

#endif
