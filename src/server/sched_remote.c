// SPDX-License-Identifier: MIT
// Prompts that a peer reads: begun, looked after between two steps, taken over when they are here.
// Without peers nothing here does anything. (The relay's form that waits for nothing is to come:
// until then every prompt is read here.)
#include "server/sched_impl.h"

int td_sched_fetch(struct td_sched *s, struct td_work *w, struct td_error *err)
{
    const int code = td_session_want(w->slot->session, w->tokens, w->n, w->job->spec.marks,
                                     w->job->spec.n_marks, err);
    if (code != TD_OK) return code;
    w->state = TD_WORK_READING;
    w->n_known = td_session_reused(w->slot->session);
    w->stats.n_reused = w->n_known;
    (void)s;
    return TD_OK;
}

bool td_sched_poll(struct td_sched *s)
{
    (void)s;
    return false;
}

void td_sched_fetched(struct td_sched *s, struct td_work *w)
{
    (void)s;
    (void)w;
}

void td_sched_saw_speed(struct td_sched *s, const struct td_work *w, bool is_over)
{
    (void)s;
    (void)w;
    (void)is_over;
}
