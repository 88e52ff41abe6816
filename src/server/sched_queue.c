// SPDX-License-Identifier: MIT
// Who comes next: clients take turns, each client's own requests in the order they came.
#include "server/sched_impl.h"

#include <math.h>
#include <stdlib.h>

void td_sched_free_work(struct td_work *w)
{
    if (!w) return;
    td_answer_close(w->answer);
    td_sampler_close(w->sampler);
    free(w->tokens);
    free(w);
}

void td_sched_enqueue(struct td_sched *s, struct td_work *w)
{
    // A client's second request comes after every other client's first, and so on.
    uint64_t last = s->virtual_turn;
    struct td_work **at = &s->queue;
    for (; *at; at = &(*at)->next)
        if ((*at)->client == w->client && (*at)->turn > last) last = (*at)->turn;
    w->turn = last + 1;
    w->state = TD_WORK_WAITING;
    td_sched_estimate(s, w);
    w->next = NULL;
    *at = w;
}

static bool comes_before(const struct td_work *a, const struct td_work *b)
{
    // Who was at work before and waits again: by age. Others of one turn: by arrival.
    return a->turn < b->turn || (a->turn == b->turn && a->order < b->order);
}

struct td_work *td_sched_pick(struct td_sched *s, td_work_fn *waits, td_work_fn *has_room)
{
    struct td_work **best = NULL;
    for (struct td_work **at = &s->queue; *at; at = &(*at)->next)
        if ((!best || comes_before(*at, *best)) && !waits(s, *at)) best = at;
    if (!best || !has_room(s, *best)) return NULL;
    struct td_work *w = *best;
    *best = w->next;
    w->next = NULL;
    if (w->turn > s->virtual_turn) s->virtual_turn = w->turn;
    return w;
}

uint32_t td_sched_retry_s(uint32_t n_ahead, uint32_t n_slots, double service_seconds)
{
    const double seconds = service_seconds * (double)(n_ahead + 1) / (double)n_slots;
    if (!(seconds > 1)) return 1;
    return seconds < 600 ? (uint32_t)ceil(seconds) : 600;
}
