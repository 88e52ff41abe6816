// SPDX-License-Identifier: MIT
// Prompts that a peer reads: begun, looked after between two steps, taken over when they are here.
// Without peers nothing here does anything.
#include "server/sched_impl.h"

#include "base/clock.h"
#include "base/num.h"

// Peers whose places are all taken are asked again after this.
#define BUSY_NS      300000000u
#define MAX_REQUEUED 20u

// Seconds until a prompt that is begun here now would have the device to itself.
static double wait_here(const struct td_sched *s)
{
    double n_left = 0;
    for (uint32_t i = 0; i < s->cfg.n_slots; i++) {
        const struct td_work *w = s->slots[i].work;
        if (w && w->state == TD_WORK_READING)
            n_left += w->n - td_session_computed(s->slots[i].session);
    }
    return s->reading.n > 0 ? n_left * s->reading.seconds / s->reading.n : 0;
}

int td_sched_fetch(struct td_sched *s, struct td_work *w, struct td_error *err)
{
    w->ask = (struct td_remote_ask){.tokens = w->tokens,
                                    .n = w->n,
                                    .marks = w->job->spec.marks,
                                    .n_marks = w->job->spec.n_marks,
                                    .n_answer = w->job->spec.max_tokens,
                                    .wait_here_seconds = wait_here(s)};
    const int code = td_remote_begin(&w->fetch, s->cfg.remote, w->slot->session, &w->ask, err);
    if (code == TD_OK) w->state = TD_WORK_FETCHING;
    return code;
}

static void poll_one(struct td_sched *s, struct td_work *w)
{
    struct td_error err;
    struct td_fetch_report report;
    switch (td_remote_poll(w->fetch, 0, &err)) {
    case TD_REMOTE_RUNNING:
        td_remote_report(w->fetch, &report);
        const uint32_t n_done = td_max_u32(report.n_committed, report.n_far_computed);
        if (n_done == w->n_told) return;
        w->n_told = n_done;
        td_job_add_progress(w->job, n_done, w->n_prompt, true);
        td_job_tell(w->job);
        return;
    case TD_REMOTE_READY:
    case TD_REMOTE_HERE:
        w->state = TD_WORK_READING;
        w->n_known = td_session_computed(w->slot->session);
        return;
    case TD_REMOTE_FAILED:
        // The peers must read it, and there is no place now, there or here: it waits for one.
        // Memory that is still too little after a while will always be.
        if ((err.code == TD_EFULL ||
             (err.code == TD_ENOMEM && s->n_at_work > 1 && w->n_requeued++ < MAX_REQUEUED)) &&
            !td_job_is_cancelled(w->job)) {
            td_sched_requeue(s, w);
            s->fetch_after_ns = td_clock_ns() + BUSY_NS;
            return;
        }
        td_sched_end(s, w, TD_JOB_CANCELLED, td_job_is_cancelled(w->job) ? NULL : &err);
        return;
    }
}

bool td_sched_poll(struct td_sched *s)
{
    if (!s->cfg.remote) return false;
    const bool has_rows = td_remote_tend(s->cfg.remote);
    for (uint32_t i = 0; i < s->cfg.n_slots; i++) {
        struct td_work *w = s->slots[i].work;
        if (w && w->state == TD_WORK_FETCHING) poll_one(s, w);
    }
    return has_rows;
}

void td_sched_fetched(struct td_sched *s, struct td_work *w)
{
    if (!w->fetch) return;
    struct td_remote_stats *p = &w->stats.prefill;
    td_remote_end(w->fetch, p);
    w->fetch = NULL;
    w->stats.n_reused = p->n_have;
    pthread_mutex_lock(&s->mutex);
    s->stats.relay_bytes += p->bytes;
    s->stats.relay_transfer_seconds += p->transfer_seconds;
    s->stats.relay_exposed_seconds += p->exposed_seconds;
    s->stats.relay_stall_seconds += p->stall_seconds;
    pthread_mutex_unlock(&s->mutex);
}

void td_sched_saw_speed(struct td_sched *s, const struct td_work *w, bool is_over)
{
    // Others in the same steps would count as slowness.
    if (!s->cfg.remote || w->was_beside) return;
    if (!is_over && w->n_prompt > w->n_known)
        td_remote_saw_prefill(s->cfg.remote, w->n_known, w->n_prompt - w->n_known, w->step_seconds);
    else if (is_over && w->n_written > 1)
        td_remote_saw_decode(s->cfg.remote, w->n_prompt, w->n_written - 1, w->stats.decode_seconds);
}
