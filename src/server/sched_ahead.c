// SPDX-License-Identifier: MIT
// Reading ahead: a next turn drops the reasoning of the answer before it, so that answer has to be
// read again. While nobody waits, that is done before the next turn comes. What is read is kept as
// any conversation is; whoever comes meanwhile waits for one small step at most.
#include "server/sched_impl.h"

#include "base/clock.h"

#include <stdlib.h>
#include <string.h>

// Beginnings that wait; the oldest goes.
#define MAX_AHEAD 8u
// Of a step: few, since somebody may come while it runs.
#define AHEAD_ROWS 32u
// Less is read as quickly when it is asked for.
#define MIN_AHEAD 16u
// More to read than when it was told: its conversation has been given up.
#define MAX_MORE 64u

struct td_ahead {
    struct td_ahead *next; // told before it
    int32_t *tokens;
    uint32_t n;
    uint32_t *marks;
    uint32_t n_marks;
    uint32_t n_new; // to be read when it was first looked at; UINT32_MAX: it was not yet
};

static void free_ahead(struct td_ahead *a)
{
    free(a->tokens);
    free(a->marks);
    free(a);
}

static void free_all(struct td_ahead *a)
{
    while (a) {
        struct td_ahead *next = a->next;
        free_ahead(a);
        a = next;
    }
}

// Takes off what is more than may wait.
static struct td_ahead *cut(struct td_ahead **first)
{
    struct td_ahead **at = first;
    for (uint32_t n = 0; *at && n < MAX_AHEAD; n++) at = &(*at)->next;
    struct td_ahead *rest = *at;
    *at = NULL;
    return rest;
}

void td_sched_read_ahead(struct td_sched *s, const int32_t *tokens, uint32_t n,
                         const uint32_t *marks, uint32_t n_marks)
{
    if (n == 0 || n >= s->cfg.n_ctx || atomic_load(&s->is_draining)) return;
    struct td_ahead *a = calloc(1, sizeof(*a));
    if (!a) return;
    *a = (struct td_ahead){.n = n, .n_marks = n_marks, .n_new = UINT32_MAX};
    a->tokens = malloc(n * sizeof(*tokens));
    a->marks = malloc((n_marks ? n_marks : 1) * sizeof(*marks));
    if (!a->tokens || !a->marks) {
        free_ahead(a);
        return;
    }
    memcpy(a->tokens, tokens, n * sizeof(*tokens));
    if (n_marks) memcpy(a->marks, marks, n_marks * sizeof(*marks));
    pthread_mutex_lock(&s->mutex);
    a->next = s->ahead_inbox;
    s->ahead_inbox = a;
    // A server that is never idle takes none of them.
    struct td_ahead *rest = cut(&s->ahead_inbox);
    s->has_wake = true;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->mutex);
    free_all(rest);
}

// The newest first.
static void take_inbox(struct td_sched *s)
{
    pthread_mutex_lock(&s->mutex);
    struct td_ahead *first = s->ahead_inbox;
    s->ahead_inbox = NULL;
    pthread_mutex_unlock(&s->mutex);
    if (!first) return;
    struct td_ahead **at = &first;
    while (*at) at = &(*at)->next;
    *at = s->ahead;
    s->ahead = first;
    free_all(cut(&s->ahead));
}

static uint32_t n_missing(struct td_sched *s, const struct td_ahead *a)
{
    const uint32_t n_known = td_engine_prefix(s->cfg.engine, a->tokens, a->n);
    // The last one is computed whatever is known.
    return n_known + 1 < a->n ? a->n - n_known : 0;
}

bool td_sched_has_ahead(struct td_sched *s)
{
    if (s->ahead_slot) return true;
    take_inbox(s);
    // How much there is to read is known as long as the conversation is.
    for (struct td_ahead *a = s->ahead; a; a = a->next)
        if (a->n_new == UINT32_MAX) a->n_new = n_missing(s, a);
    return s->ahead != NULL;
}

void td_sched_leave_ahead(struct td_sched *s)
{
    if (!s->ahead_slot) return;
    td_session_retire(s->ahead_slot->session);
    s->ahead_slot = NULL;
}

void td_sched_forget_ahead(struct td_sched *s)
{
    td_sched_leave_ahead(s);
    take_inbox(s);
    free_all(s->ahead);
    s->ahead = NULL;
}

static void drop_first(struct td_sched *s)
{
    struct td_ahead *a = s->ahead;
    td_sched_leave_ahead(s);
    s->ahead = a->next;
    free_ahead(a);
}

// False when there is nothing to read, or no way to.
static bool begin(struct td_sched *s, const struct td_ahead *a)
{
    const uint32_t n = n_missing(s, a);
    struct td_slot *slot = &s->slots[0]; // nobody is at work
    struct td_error ignored;
    if (n < MIN_AHEAD || n > a->n_new + MAX_MORE || !slot->session) return false;
    if (td_session_want(slot->session, a->tokens, a->n, a->marks, a->n_marks, &ignored) != TD_OK)
        return false;
    s->ahead_slot = slot;
    return true;
}

void td_sched_step_ahead(struct td_sched *s)
{
    if (!s->ahead_slot && !begin(s, s->ahead)) {
        drop_first(s);
        return;
    }
    uint32_t n_rows = 0;
    struct td_error ignored; // it is read when it is asked for
    td_engine_limit_rows(s->cfg.engine, AHEAD_ROWS);
    const uint64_t begin_ns = td_clock_ns();
    const int code = td_engine_step(s->cfg.engine, &n_rows, &ignored);
    if (code == TD_OK) {
        td_pacer_saw(&s->pacer, n_rows, td_sched_seconds(begin_ns, td_clock_ns()));
        pthread_mutex_lock(&s->mutex);
        s->stats.n_ahead += n_rows;
        pthread_mutex_unlock(&s->mutex);
    }
    if (code != TD_OK || td_session_state(s->ahead_slot->session) == TD_SESSION_READY) {
        drop_first(s);
        s->n_saved = 0;
    }
}
