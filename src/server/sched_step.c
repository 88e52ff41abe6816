// SPDX-License-Identifier: MIT
// A step and what follows from it: tokens, events, ends.
#include "server/sched_impl.h"

#include "base/clock.h"

// More than the rounds in which a device that takes few logits a step serves all.
#define MAX_MISSED 4u

static void finish_stats(struct td_sched *s, struct td_work *w, bool has_failed, bool is_cancelled)
{
    const uint64_t now_ns = td_clock_ns();
    struct td_job_stats *st = &w->stats;
    st->n_written = w->n_written;
    st->n_reasoning = w->answer ? td_answer_n_reasoning(w->answer) : 0;
    st->queue_seconds = td_sched_seconds(w->submit_ns, w->admit_ns ? w->admit_ns : now_ns);
    st->prompt_seconds = td_sched_seconds(w->admit_ns, w->first_ns ? w->first_ns : now_ns);
    st->decode_seconds = td_sched_seconds(w->first_ns, w->last_ns);
    st->ttft_seconds = td_sched_seconds(w->submit_ns, w->first_ns);

    pthread_mutex_lock(&s->mutex);
    struct td_sched_stats *all = &s->stats;
    if (w->admit_ns) td_histogram_add(&all->queue, st->queue_seconds);
    if (w->first_ns) {
        all->n_prompt += st->n_prompt;
        all->n_reused += st->n_reused;
        all->n_hits += st->n_reused > 0;
        all->n_path[st->prefill.path]++;
    }
    all->n_written += w->n_written;
    if (has_failed) {
        all->n_failed++;
    } else if (is_cancelled) {
        all->n_cancelled++;
    } else {
        all->n_done++;
        td_histogram_add(&all->total, td_sched_seconds(w->submit_ns, now_ns));
        const double seconds = td_sched_seconds(w->admit_ns, now_ns);
        s->service_seconds = s->service_seconds > 0
                                 ? s->service_seconds + 0.2 * (seconds - s->service_seconds)
                                 : seconds;
    }
    pthread_mutex_unlock(&s->mutex);
}

void td_sched_end(struct td_sched *s, struct td_work *w, enum td_job_end end,
                  const struct td_error *failure)
{
    const bool is_at_work = w->slot != NULL;
    struct td_job *job = w->job;
    td_job_interrupt(job, NULL);
    td_sched_loaded(s, w);
    td_sched_fetched(s, w);
    finish_stats(s, w, failure != NULL, end == TD_JOB_CANCELLED && !failure);
    td_sched_saw_speed(s, w, true);
    td_sched_release(s, w);
    s->n_saved = 0;
    s->is_tight = false;
    pthread_mutex_lock(&s->mutex);
    if (is_at_work)
        s->n_running--;
    else
        s->n_queued--;
    pthread_mutex_unlock(&s->mutex);
    // Whoever reads the end finds it counted; whoever waits for the scheduler finds it given.
    td_job_add_end(job, end, &w->stats, failure);
    td_job_tell(job);
    td_sched_free_work(w);
    td_job_detach(job);
    pthread_mutex_lock(&s->mutex);
    if (--s->n_open == 0) pthread_cond_broadcast(&s->idle);
    pthread_mutex_unlock(&s->mutex);
}

// The answer ends as it says, once what was held back is given.
static void end_answer(struct td_sched *s, struct td_work *w, enum td_job_end end)
{
    struct td_error err;
    bool is_stopped = false;
    if (td_answer_finish(w->answer, &is_stopped, &err) != TD_OK) {
        td_sched_end(s, w, end, &err);
        return;
    }
    td_sched_end(s, w, is_stopped ? TD_JOB_STOPPED : end, NULL);
}

static void count_token(struct td_sched *s, struct td_work *w)
{
    const uint64_t now_ns = td_clock_ns();
    pthread_mutex_lock(&s->mutex);
    if (w->n_written == 0)
        td_histogram_add(&s->stats.ttft, td_sched_seconds(w->submit_ns, now_ns));
    else
        td_histogram_add(&s->stats.gap, td_sched_seconds(w->last_ns, now_ns));
    pthread_mutex_unlock(&s->mutex);
    if (w->n_written == 0) w->first_ns = now_ns;
    w->last_ns = now_ns;
}

static void find_logprobs(const struct td_work *w, const float *logits, uint32_t n_vocab,
                          int32_t token, struct td_job_token *out)
{
    struct td_logprob top[TD_JOB_MAX_TOP];
    *out = (struct td_job_token){.chosen.token = token};
    out->n_top = td_logprobs(logits, n_vocab, token, &out->chosen.logprob, top, w->job->spec.n_top);
    for (uint32_t i = 0; i < out->n_top; i++)
        out->top[i] = (struct td_job_top){.token = top[i].token, .logprob = top[i].logprob};
}

// The work's logits are there: its next token.
static void write_token(struct td_sched *s, struct td_work *w)
{
    struct td_session *session = w->slot->session;
    const float *logits = td_session_logits(session);
    const int32_t token = td_sampler_draw(w->sampler, logits);
    struct td_job_token logprobs;
    const bool wants_logprobs = w->job->spec.wants_logprobs;
    if (wants_logprobs)
        find_logprobs(w, logits, td_engine_model(s->cfg.engine)->spec.n_vocab, token, &logprobs);
    td_sampler_accept(w->sampler, token);
    count_token(s, w);
    w->state = TD_WORK_WRITING;
    w->tokens[w->n++] = token;
    w->n_written++;
    if (w->n_written == 1) {
        td_sched_fetched(s, w);
        td_sched_saw_speed(s, w, false);
    }

    struct td_error err;
    bool is_over = false;
    enum td_job_end end = TD_JOB_STOPPED;
    int code =
        td_answer_feed(w->answer, token, wants_logprobs ? &logprobs : NULL, &is_over, &end, &err);
    if (code == TD_OK && !is_over && w->n_written < w->n_limit) {
        code = td_session_append(session, token, &err);
        if (code == TD_OK) return;
    }
    if (code != TD_OK)
        td_sched_end(s, w, end, &err);
    else
        end_answer(s, w, is_over || td_answer_is_whole(w->answer) ? end : TD_JOB_LENGTH);
}

// What a step that failed means for those in it. TD_ECANCEL: the cancelled ones are found by their
// jobs' flags.
static void on_failure(struct td_sched *s, int code, const struct td_error *err)
{
    if (code == TD_ECANCEL) return;
    // Only rows of a peer's check were in it: nobody here is to blame.
    if (!td_sched_can_step(s)) return;
    if (code == TD_ENOMEM && td_sched_make_room(s)) return;
    for (uint32_t i = 0; i < s->cfg.n_slots; i++) {
        struct td_work *w = s->slots[i].work;
        if (w && !td_sched_is_away(w)) td_sched_end(s, w, TD_JOB_STOPPED, err);
    }
}

static void after_step(struct td_sched *s)
{
    bool is_starved = false;
    for (uint32_t i = 0; i < s->cfg.n_slots; i++) {
        struct td_work *w = s->slots[i].work;
        if (!w) continue;
        if (td_job_is_cancelled(w->job)) {
            td_sched_end(s, w, TD_JOB_CANCELLED, NULL);
            continue;
        }
        if (td_sched_is_away(w)) continue;
        struct td_session *session = s->slots[i].session;
        const bool is_ready = td_session_state(session) == TD_SESSION_READY;
        w->n_missed = is_ready || w->state == TD_WORK_READING ? 0 : w->n_missed + 1;
        is_starved |= w->n_missed >= MAX_MISSED;
        if (is_ready)
            write_token(s, w);
        else if (w->state == TD_WORK_READING && w->n_written == 0)
            td_job_add_progress(w->job, td_session_computed(session), w->n_prompt, false);
    }
    // The engine leaves out who has no room for a row, and goes on with the others.
    if (is_starved) (void)td_sched_make_room(s);
    // After all have their token: whoever is told wants a core.
    for (uint32_t i = 0; i < s->cfg.n_slots; i++)
        if (s->slots[i].work) td_job_tell(s->slots[i].work->job);
}

// Who is in the next step, and how many of them write; only_out: the only one, or NULL.
static uint32_t count_stepping(struct td_sched *s, uint32_t *n_single_out,
                               struct td_slot **only_out)
{
    uint32_t n = 0;
    *n_single_out = 0;
    for (uint32_t i = 0; i < s->cfg.n_slots; i++) {
        struct td_slot *slot = &s->slots[i];
        if (!slot->work || td_sched_is_away(slot->work)) continue;
        *n_single_out += slot->work->state == TD_WORK_WRITING;
        *only_out = n++ == 0 ? slot : NULL;
    }
    return n;
}

static void count_for_each(struct td_sched *s, bool is_alone, double seconds)
{
    for (uint32_t i = 0; i < s->cfg.n_slots; i++) {
        struct td_work *w = s->slots[i].work;
        if (!w || td_sched_is_away(w)) continue;
        w->was_beside |= !is_alone;
        if (w->state == TD_WORK_READING) w->step_seconds += seconds;
    }
}

bool td_sched_step(struct td_sched *s)
{
    uint32_t n_single = 0, n_rows = 0;
    struct td_slot *only = NULL;
    (void)count_stepping(s, &n_single, &only);
    // With others in the step, a cancel waits for its end; alone it need not.
    if (only) td_job_interrupt(only->work->job, only->session);
    td_engine_limit_rows(s->cfg.engine, td_pacer_rows(&s->pacer, n_single));
    const uint64_t begin_ns = td_clock_ns();
    struct td_error err;
    const int code = td_engine_step(s->cfg.engine, &n_rows, &err);
    const double seconds = td_sched_seconds(begin_ns, td_clock_ns());
    if (only) td_job_interrupt(only->work->job, NULL);
    if (code == TD_OK) {
        td_pacer_saw(&s->pacer, n_rows, seconds);
        td_sched_count_step(s, n_rows > n_single ? n_rows - n_single : 0, n_single, seconds);
        count_for_each(s, only != NULL, seconds);
    } else {
        on_failure(s, code, &err);
    }
    after_step(s);
    td_sched_count_engine(s, false);
    return code == TD_OK;
}

bool td_sched_can_step(struct td_sched *s)
{
    uint32_t n_single = 0;
    struct td_slot *only = NULL;
    return count_stepping(s, &n_single, &only) > 0;
}
