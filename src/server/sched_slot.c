// SPDX-License-Identifier: MIT
// Who gets a slot, and when: slots, memory for the KV, and prompts that somebody else is reading
// just now.
#include "server/sched_impl.h"

#include "base/clock.h"
#include "base/num.h"

// A beginning in common that is shorter is not worth waiting for.
#define MIN_SHARED 64u
// Tokens of an answer without a limit that memory is asked for at the start. When it gets longer
// and memory runs out, the youngest waits.
#define USUAL_ANSWER 512u

static uint32_t n_same(const struct td_work *a, const struct td_work *b)
{
    const uint32_t n = td_min_u32(a->n_prompt, b->n_prompt);
    uint32_t i = 0;
    while (i < n && a->tokens[i] == b->tokens[i]) i++;
    return i;
}

// Somebody is reading the beginning of w's prompt: it will be there soon.
static bool is_being_read(struct td_sched *s, const struct td_work *w)
{
    for (uint32_t i = 0; i < s->cfg.n_slots; i++) {
        const struct td_work *other = s->slots[i].work;
        if (!other || other->state == TD_WORK_WRITING) continue;
        const uint32_t n_shared = n_same(w, other);
        const uint32_t n_done = td_session_computed(s->slots[i].session);
        if (n_shared < MIN_SHARED || n_shared <= n_done) continue;
        // What is computed here can be taken step by step; what comes from elsewhere only at its
        // end, so it must be worth that.
        if (!td_sched_is_away(other)) return true;
        if (n_shared >= n_done + MIN_SHARED &&
            n_shared >= td_engine_prefix(s->cfg.engine, w->tokens, w->n) + MIN_SHARED)
            return true;
    }
    return false;
}

// There is memory for it, and a place at a peer if it needs one.
static bool has_room(struct td_sched *s, const struct td_work *w)
{
    // Alone it may try in any case.
    if (s->n_at_work > 0 &&
        (s->is_tight ||
         (s->cfg.max_kv_bytes > 0 && s->promised_bytes + w->need_bytes > s->cfg.max_kv_bytes)))
        return false;
    return !s->cfg.remote || td_clock_ns() >= s->fetch_after_ns;
}

void td_sched_estimate(struct td_sched *s, struct td_work *w)
{
    uint32_t n_more = w->n_limit - w->n_written;
    if (!w->job->spec.max_tokens) n_more = td_min_u32(n_more, USUAL_ANSWER);
    w->need_bytes = td_engine_kv_need(s->cfg.engine, w->n + n_more);
}

static struct td_slot *free_slot(struct td_sched *s)
{
    for (uint32_t i = 0; i < s->cfg.n_slots; i++)
        if (!s->slots[i].work) return &s->slots[i];
    return NULL;
}

static int open_answer(struct td_sched *s, struct td_work *w, struct td_error *err)
{
    if (w->answer) return TD_OK; // it has begun before, and waited since
    const struct td_job_spec *spec = &w->job->spec;
    const uint32_t n_vocab = td_engine_model(s->cfg.engine)->spec.n_vocab;
    int code = td_sampler_open(&w->sampler, &spec->sampling, n_vocab, err);
    if (code == TD_OK) code = td_answer_open(&w->answer, w->job, s->cfg.tokenizer, err);
    if (code != TD_OK) return code;
    td_sampler_begin(w->sampler, w->tokens, w->n_prompt - spec->n_begun);
    for (uint32_t i = w->n_prompt - spec->n_begun; i < w->n_prompt && code == TD_OK; i++) {
        td_sampler_accept(w->sampler, w->tokens[i]);
        code = td_answer_begin(w->answer, w->tokens[i], err);
    }
    return code;
}

// What is in memory stays, the rest is read: there or here.
static int begin_prompt(struct td_sched *s, struct td_work *w, struct td_error *err)
{
    if (s->cfg.remote && w->n_written == 0) return td_sched_fetch(s, w, err);
    struct td_slot *slot = w->slot;
    const int code = td_session_want(slot->session, w->tokens, w->n, w->job->spec.marks,
                                     w->job->spec.n_marks, err);
    if (code != TD_OK) return code;
    w->state = TD_WORK_READING;
    w->n_known = td_session_reused(slot->session);
    if (w->n_written == 0) {
        w->stats.n_reused = w->n_known;
        td_job_add_progress(w->job, w->n_known, w->n_prompt, false);
    }
    return TD_OK;
}

static int start(struct td_sched *s, struct td_work *w, struct td_error *err)
{
    struct td_slot *slot = w->slot;
    int code = TD_OK;
    if (!slot->session) code = td_session_open(&slot->session, s->cfg.engine, s->cfg.n_ctx, err);
    if (code == TD_OK) code = open_answer(s, w, err);
    if (code != TD_OK || td_sched_load(s, w)) return code;
    return begin_prompt(s, w, err);
}

bool td_sched_load_all(struct td_sched *s)
{
    bool goes_on = false;
    for (uint32_t i = 0; i < s->cfg.n_slots; i++) {
        struct td_work *w = s->slots[i].work;
        if (!w || w->state != TD_WORK_LOADING) continue;
        struct td_error err;
        if (!td_sched_load_more(s, w))
            goes_on = true;
        else if (begin_prompt(s, w, &err) != TD_OK)
            td_sched_end(s, w, TD_JOB_STOPPED, &err);
        else
            td_job_tell(w->job);
    }
    return goes_on;
}

bool td_sched_is_away(const struct td_work *w)
{
    return w->state == TD_WORK_LOADING || w->state == TD_WORK_FETCHING;
}

void td_sched_admit(struct td_sched *s)
{
    struct td_slot *slot;
    while ((slot = free_slot(s)) != NULL) {
        struct td_work *w = td_sched_pick(s, is_being_read, has_room);
        if (!w) return;
        slot->work = w;
        w->slot = slot;
        w->order = ++s->n_admitted;
        if (!w->admit_ns) w->admit_ns = td_clock_ns();
        s->n_at_work++;
        s->promised_bytes += w->need_bytes;
        pthread_mutex_lock(&s->mutex);
        s->n_queued--;
        s->n_running++;
        pthread_mutex_unlock(&s->mutex);
        struct td_error err;
        if (start(s, w, &err) != TD_OK)
            td_sched_end(s, w, TD_JOB_STOPPED, &err);
        else
            td_job_tell(w->job);
    }
}

void td_sched_release(struct td_sched *s, struct td_work *w)
{
    struct td_slot *slot = w->slot;
    if (!slot) return;
    if (slot->session) td_session_retire(slot->session);
    slot->work = NULL;
    w->slot = NULL;
    s->n_at_work--;
    s->promised_bytes -= w->need_bytes;
}

void td_sched_requeue(struct td_sched *s, struct td_work *w)
{
    td_sched_loaded(s, w);
    td_sched_fetched(s, w);
    td_sched_release(s, w);
    td_sched_enqueue(s, w);
    w->turn = 0; // it has had its turn
    pthread_mutex_lock(&s->mutex);
    s->n_queued++;
    s->n_running--;
    pthread_mutex_unlock(&s->mutex);
}

bool td_sched_make_room(struct td_sched *s)
{
    // What is on its way to the disk holds pages.
    if (td_sched_save_give_up(s)) return true;
    struct td_work *youngest = NULL;
    for (uint32_t i = 0; i < s->cfg.n_slots; i++) {
        struct td_work *w = s->slots[i].work;
        if (w && (!youngest || w->order > youngest->order)) youngest = w;
    }
    if (!youngest || s->n_at_work < 2) return false;
    // Until somebody ends, so that it does not come back into the same trouble.
    s->is_tight = true;
    // What it wrote stays; its KV is computed again later, with the same bits.
    td_sched_requeue(s, youngest);
    return true;
}
