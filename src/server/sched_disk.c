// SPDX-License-Identifier: MIT
// KV on disk: read when it saves more than what is in memory, written when nobody waits.
#include "server/sched_impl.h"

// Less is computed again as quickly as a file is read.
#define MIN_SAVED 64u

// Running streams wait meanwhile. A file is read at hundreds of times the speed at which a prompt
// is, so that this is one pause instead of many.
void td_sched_load(struct td_sched *s, struct td_work *w)
{
    if (!s->cfg.disk) return;
    const uint32_t n_here = td_engine_prefix(s->cfg.engine, w->tokens, w->n);
    const uint32_t n_there = td_kvdisk_find(s->cfg.disk, w->tokens, w->n);
    if (n_there < n_here + MIN_SAVED) return;
    uint32_t n = 0;
    struct td_error ignored; // it is computed instead
    (void)!td_kvdisk_load(s->cfg.disk, w->slot->session, w->tokens, w->n, &n, &ignored);
    if (n <= n_here) return;
    pthread_mutex_lock(&s->mutex);
    s->stats.n_reused_disk += n - n_here;
    pthread_mutex_unlock(&s->mutex);
}

bool td_sched_save_one(struct td_sched *s)
{
    if (!s->cfg.disk || !td_engine_kept(s->cfg.engine, s->n_saved, &s->timeline)) return false;
    struct td_error ignored; // a full disk costs only speed, after a restart
    (void)!td_kvdisk_save(s->cfg.disk, &s->timeline, &ignored);
    s->n_saved++;
    pthread_mutex_lock(&s->mutex);
    s->stats.disk_bytes = td_kvdisk_bytes(s->cfg.disk);
    pthread_mutex_unlock(&s->mutex);
    return true;
}
