// SPDX-License-Identifier: MIT
// KV on disk: read when it saves more than what is in memory, written when nobody waits.
#include "server/sched_impl.h"

#include "base/clock.h"
#include "base/log.h"

// A disk that refused is left alone for a minute.
#define REFUSED_NS 60000000000u
// Less is computed again as quickly as a file is read.
#define MIN_SAVED 64u
// Between two steps: with answers beside it a pause of some 10 ms, whatever the disk; alone more at
// a time, so that a cancel is still seen soon.
#define PIECE_BYTES       (16u << 20)
#define PIECE_BYTES_ALONE (128u << 20)

bool td_sched_load(struct td_sched *s, struct td_work *w)
{
    if (!s->cfg.disk) return false;
    w->n_here = td_engine_prefix(s->cfg.engine, w->tokens, w->n);
    const uint32_t n_there = td_kvdisk_find(s->cfg.disk, w->tokens, w->n);
    if (n_there < w->n_here + MIN_SAVED) return false;
    struct td_error ignored; // it is computed instead
    const int code =
        td_kvdisk_begin(&w->load, s->cfg.disk, w->slot->session, w->tokens, w->n, &ignored);
    if (code != TD_OK || !w->load) return false;
    w->state = TD_WORK_LOADING;
    return true;
}

bool td_sched_load_more(struct td_sched *s, struct td_work *w)
{
    struct td_error ignored; // what came whole counts
    bool is_done = false;
    const uint64_t n_bytes = s->n_at_work > 1 ? PIECE_BYTES : PIECE_BYTES_ALONE;
    if (td_kvdisk_more(w->load, n_bytes, &is_done, &ignored) == TD_OK && !is_done) return false;
    td_sched_loaded(s, w);
    return true;
}

void td_sched_loaded(struct td_sched *s, struct td_work *w)
{
    if (!w->load) return;
    uint32_t n = 0;
    td_kvdisk_end(w->load, &n);
    w->load = NULL;
    if (n <= w->n_here) return;
    pthread_mutex_lock(&s->mutex);
    s->stats.n_reused_disk += n - w->n_here;
    pthread_mutex_unlock(&s->mutex);
}

// A full disk costs only speed, after a restart; each try would fill it again.
static void refused(struct td_sched *s, const struct td_error *err)
{
    td_log(TD_LOG_WARN, "%s", err->msg);
    s->save_after_ns = td_clock_ns() + REFUSED_NS;
}

static void end_saving(struct td_sched *s, bool gives_up)
{
    struct td_error err;
    if (!s->saving) return;
    if (td_kvdisk_save_end(s->saving, gives_up, &err) != TD_OK) refused(s, &err);
    s->saving = NULL;
    pthread_mutex_lock(&s->mutex);
    s->stats.disk_bytes = td_kvdisk_bytes(s->cfg.disk);
    pthread_mutex_unlock(&s->mutex);
}

bool td_sched_saved(struct td_sched *s)
{
    if (s->saving && td_kvdisk_save_is_over(s->saving)) end_saving(s, false);
    return s->saving == NULL;
}

bool td_sched_save_one(struct td_sched *s)
{
    if (!td_sched_saved(s)) return true;
    if (!s->cfg.disk || td_clock_ns() < s->save_after_ns ||
        !td_engine_kept(s->cfg.engine, s->n_saved, &s->timeline))
        return false;
    struct td_error err;
    // From the one used last to the one used longest ago.
    if (s->n_saved == 0) s->save_ns = td_kvdisk_now_ns();
    if (td_kvdisk_save_begin(&s->saving, s->cfg.disk, &s->timeline, s->save_ns - s->n_saved,
                             &err) != TD_OK) {
        refused(s, &err);
        return false;
    }
    // One that is written is looked at again: by then others may have come before it.
    if (!s->saving) s->n_saved++;
    return true;
}

void td_sched_save_all(struct td_sched *s)
{
    end_saving(s, false);
    for (s->n_saved = 0; td_sched_save_one(s);) end_saving(s, false);
}

bool td_sched_save_give_up(struct td_sched *s)
{
    const bool has = s->saving != NULL;
    end_saving(s, true);
    return has;
}
