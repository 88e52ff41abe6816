// SPDX-License-Identifier: MIT
// A job's events, and who still holds it: the reader, the scheduler.
#include "server/job_impl.h"

#include <stdlib.h>
#include <string.h>

static void node_free(struct td_job *job, struct td_job_node *node)
{
    if (!node || node == &job->over) return;
    free(node->text);
    free(node->tokens);
    free(node);
}

static void drop_events(struct td_job *job)
{
    node_free(job, job->taken);
    job->taken = NULL;
    while (job->first) {
        struct td_job_node *node = job->first;
        job->first = node->next;
        node_free(job, node);
    }
    job->last = NULL;
}

static void job_free(struct td_job *job)
{
    drop_events(job);
    td_stops_close(job->stops);
    free(job->tokens);
    free(job->marks);
    free(job->bias);
    pthread_cond_destroy(&job->quiet);
    pthread_mutex_destroy(&job->mutex);
    free(job);
}

// Gives up a share; the mutex is held and given back.
static void leave(struct td_job *job)
{
    const bool is_last = --job->n_refs == 0;
    pthread_mutex_unlock(&job->mutex);
    if (is_last) job_free(job);
}

static int check(const struct td_job_spec *spec, struct td_error *err)
{
    if (spec->n_tokens == 0) return td_fail(err, TD_EARG, "an empty prompt has no next token");
    if (spec->n_stops > TD_JOB_MAX_STOPS)
        return td_fail(err, TD_EARG, "%u stop texts, at most %d are possible", spec->n_stops,
                       TD_JOB_MAX_STOPS);
    if (spec->n_top > TD_JOB_MAX_TOP)
        return td_fail(err, TD_EARG, "%u logprobs a token, at most %d are possible", spec->n_top,
                       TD_JOB_MAX_TOP);
    if (spec->n_begun > spec->n_tokens)
        return td_fail(err, TD_EARG, "%u tokens of an answer in a prompt of %u", spec->n_begun,
                       spec->n_tokens);
    if (spec->sampling.n_bias > TD_MAX_LOGIT_BIAS)
        return td_fail(err, TD_EARG, "%u logit biases, at most %d are possible",
                       spec->sampling.n_bias, TD_MAX_LOGIT_BIAS);
    return TD_OK;
}

// A copy of n elements; NULL without memory, never for n == 0.
static void *copy_of(const void *from, uint32_t n, size_t elem_bytes)
{
    void *copy = calloc(n ? n : 1, elem_bytes);
    if (copy && n) memcpy(copy, from, n * elem_bytes);
    return copy;
}

static int copy_spec(struct td_job *job, const struct td_job_spec *spec, struct td_error *err)
{
    job->spec = *spec;
    job->spec.stops = NULL;
    job->tokens = copy_of(spec->tokens, spec->n_tokens, sizeof(*spec->tokens));
    job->marks = copy_of(spec->marks, spec->n_marks, sizeof(*spec->marks));
    job->bias = copy_of(spec->sampling.bias, spec->sampling.n_bias, sizeof(*spec->sampling.bias));
    if (!job->tokens || !job->marks || !job->bias)
        return td_fail(err, TD_ENOMEM, "no memory for a prompt of %u tokens", spec->n_tokens);
    job->spec.tokens = job->tokens;
    job->spec.marks = job->marks;
    job->spec.sampling.bias = job->bias;
    return td_stops_open(&job->stops, spec->stops, spec->n_stops, err);
}

int td_job_open(struct td_job **out, const struct td_job_spec *spec, struct td_error *err)
{
    *out = NULL;
    int code = check(spec, err);
    if (code != TD_OK) return code;
    struct td_job *job = calloc(1, sizeof(*job));
    if (!job) return td_fail(err, TD_ENOMEM, "no memory for a request");
    pthread_mutex_init(&job->mutex, NULL);
    pthread_cond_init(&job->quiet, NULL);
    job->n_refs = 1;
    code = copy_spec(job, spec, err);
    if (code != TD_OK) {
        job_free(job);
        return code;
    }
    *out = job;
    return TD_OK;
}

// The mutex is held.
static void cancel(struct td_job *job)
{
    atomic_store(&job->is_cancelled, true);
    if (job->interruptible) td_session_cancel(job->interruptible);
    if (job->wake) job->wake(job->wake_ctx);
}

// The mutex is held. Afterwards notify is not being called.
static void set_notify(struct td_job *job, void (*fn)(void *ctx), void *ctx)
{
    job->notify = fn;
    job->notify_ctx = ctx;
    while (job->is_notifying) pthread_cond_wait(&job->quiet, &job->mutex);
}

void td_job_close(struct td_job *job)
{
    if (!job) return;
    pthread_mutex_lock(&job->mutex);
    set_notify(job, NULL, NULL);
    job->is_closed = true;
    drop_events(job);
    cancel(job);
    leave(job);
}

void td_job_cancel(struct td_job *job)
{
    pthread_mutex_lock(&job->mutex);
    cancel(job);
    pthread_mutex_unlock(&job->mutex);
}

void td_job_notify(struct td_job *job, void (*fn)(void *ctx), void *ctx)
{
    pthread_mutex_lock(&job->mutex);
    set_notify(job, fn, ctx);
    pthread_mutex_unlock(&job->mutex);
}

bool td_job_next(struct td_job *job, struct td_job_event *out)
{
    pthread_mutex_lock(&job->mutex);
    struct td_job_node *node = job->first;
    if (node) {
        job->first = node->next;
        if (!job->first) job->last = NULL;
    }
    struct td_job_node *old = job->taken;
    job->taken = node;
    if (node) *out = node->event;
    pthread_mutex_unlock(&job->mutex);
    node_free(job, old);
    return node != NULL;
}

// ---- the scheduler's side ---------------------------------------------------------------------

int td_job_attach(struct td_job *job, void (*wake)(void *ctx), void *ctx, struct td_error *err)
{
    pthread_mutex_lock(&job->mutex);
    const bool is_new = !job->is_submitted;
    if (is_new) {
        job->is_submitted = true;
        job->wake = wake;
        job->wake_ctx = ctx;
        job->n_refs++;
    }
    pthread_mutex_unlock(&job->mutex);
    return is_new ? TD_OK : td_fail(err, TD_EARG, "this request was submitted before");
}

void td_job_detach(struct td_job *job)
{
    pthread_mutex_lock(&job->mutex);
    job->wake = NULL;
    job->interruptible = NULL;
    leave(job);
}

void td_job_unattach(struct td_job *job)
{
    pthread_mutex_lock(&job->mutex);
    job->wake = NULL;
    job->is_submitted = false;
    leave(job);
}

bool td_job_is_cancelled(const struct td_job *job)
{
    return atomic_load(&job->is_cancelled);
}

void td_job_interrupt(struct td_job *job, struct td_session *session)
{
    pthread_mutex_lock(&job->mutex);
    job->interruptible = session;
    // A cancel that came before it knew the session.
    if (session && atomic_load(&job->is_cancelled)) td_session_cancel(session);
    pthread_mutex_unlock(&job->mutex);
}

static void append(struct td_job *job, struct td_job_node *node)
{
    node->next = NULL;
    if (job->last)
        job->last->next = node;
    else
        job->first = node;
    job->last = node;
    job->has_news = true;
}

static bool put_text(struct td_job_node *node, const char *text, size_t n)
{
    const size_t used = node->event.text_bytes;
    if (!node->text || used + n + 1 > node->text_cap) {
        // The first piece is mostly the only one.
        const size_t cap = used ? 2 * (used + n + 1) : n + 1;
        char *grown = realloc(node->text, cap);
        if (!grown) return false;
        node->text = grown;
        node->text_cap = cap;
    }
    if (n) memcpy(node->text + used, text, n);
    node->text[used + n] = '\0';
    node->event.text = node->text;
    node->event.text_bytes = used + n;
    return true;
}

static bool put_tokens(struct td_job_node *node, const struct td_job_token *tokens, uint32_t n)
{
    if (n == 0) return true;
    const uint32_t used = node->event.n_tokens;
    if (used + n > node->tokens_cap) {
        const uint32_t cap = used ? 2 * (used + n) : n;
        struct td_job_token *grown = realloc(node->tokens, cap * sizeof(*grown));
        if (!grown) return false;
        node->tokens = grown;
        node->tokens_cap = cap;
    }
    memcpy(node->tokens + used, tokens, n * sizeof(*tokens));
    node->event.tokens = node->tokens;
    node->event.n_tokens = used + n;
    return true;
}

int td_job_add_text(struct td_job *job, enum td_job_event_kind kind, enum td_channel channel,
                    const char *text, size_t n, const struct td_job_token *tokens,
                    uint32_t n_tokens, struct td_error *err)
{
    const bool joins = kind == TD_JOB_TEXT || kind == TD_JOB_TOOL_ARGS;
    bool ok = true;
    pthread_mutex_lock(&job->mutex);
    if (!job->is_closed && !job->has_ended) {
        struct td_job_node *node = job->last;
        const bool is_same =
            joins && node && node->event.kind == kind && node->event.channel == channel;
        if (!is_same) {
            node = calloc(1, sizeof(*node));
            if (node) node->event = (struct td_job_event){.kind = kind, .channel = channel};
        }
        ok = node && put_tokens(node, tokens, n_tokens) && put_text(node, text, n);
        if (ok && !is_same) append(job, node);
        if (!ok && !is_same) node_free(job, node);
        job->has_news |= ok;
    }
    pthread_mutex_unlock(&job->mutex);
    return ok ? TD_OK : td_fail(err, TD_ENOMEM, "no memory for the text of the answer");
}

void td_job_add_progress(struct td_job *job, uint32_t n_done, uint32_t n_prompt, bool is_remote)
{
    pthread_mutex_lock(&job->mutex);
    if (!job->is_closed && !job->has_ended) {
        struct td_job_node *node = job->last;
        const bool is_same = node && node->event.kind == TD_JOB_PROGRESS;
        if (!is_same) node = calloc(1, sizeof(*node));
        if (node) {
            node->event = (struct td_job_event){.kind = TD_JOB_PROGRESS,
                                                .n_done = n_done,
                                                .n_prompt = n_prompt,
                                                .is_remote = is_remote};
            if (!is_same) append(job, node);
            job->has_news = true;
        }
    }
    pthread_mutex_unlock(&job->mutex);
}

void td_job_add_end(struct td_job *job, enum td_job_end end, const struct td_job_stats *stats,
                    const struct td_error *failure)
{
    pthread_mutex_lock(&job->mutex);
    if (!job->is_closed && !job->has_ended) {
        job->over.event =
            (struct td_job_event){.kind = failure ? TD_JOB_FAILED : TD_JOB_END, .end = end};
        job->over.event.stats = *stats;
        if (failure) job->over.event.error = *failure;
        append(job, &job->over);
    }
    job->has_ended = true;
    pthread_mutex_unlock(&job->mutex);
}

void td_job_tell(struct td_job *job)
{
    pthread_mutex_lock(&job->mutex);
    void (*fn)(void *ctx) = job->notify;
    void *ctx = job->notify_ctx;
    if (fn && job->has_news) {
        job->has_news = false;
        job->is_notifying = true;
        pthread_mutex_unlock(&job->mutex);
        fn(ctx);
        pthread_mutex_lock(&job->mutex);
        job->is_notifying = false;
        pthread_cond_broadcast(&job->quiet);
    }
    pthread_mutex_unlock(&job->mutex);
}
