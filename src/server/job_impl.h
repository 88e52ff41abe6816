// SPDX-License-Identifier: MIT
// The scheduler's side of a job. Private to server/.
#ifndef TD_SERVER_JOB_IMPL_H
#define TD_SERVER_JOB_IMPL_H

#include "server/job.h"
#include "server/stops.h"

#include <pthread.h>
#include <stdatomic.h>

// An event with the memory its pointers point to.
struct td_job_node {
    struct td_job_node *next;
    struct td_job_event event;
    char *text;
    size_t text_cap;
    struct td_job_token *tokens;
    uint32_t tokens_cap;
};

struct td_job {
    struct td_job_spec spec; // its arrays are ours; spec.stops is not kept, stops is
    int32_t *tokens;
    uint32_t *marks;
    struct td_logit_bias *bias;
    struct td_stops *stops; // NULL: none; the scheduler's thread

    _Atomic bool is_cancelled;

    pthread_mutex_t mutex; // guards what follows
    pthread_cond_t quiet;  // signalled when a call of notify has returned
    uint32_t n_refs;       // the reader, the scheduler
    bool is_closed;        // the reader has gone: events are dropped
    bool is_submitted;
    struct td_job_node *first, *last; // not taken yet
    struct td_job_node *taken;        // the reader's, until its next call
    struct td_job_node over;          // END or FAILED, which need no memory
    bool has_ended;
    bool has_news; // since the last notify
    bool is_notifying;
    void (*notify)(void *ctx);
    void *notify_ctx;
    void (*wake)(void *ctx); // tells the scheduler of a cancel; NULL: it has none
    void *wake_ctx;
    struct td_session *interruptible; // a cancel may end its step; NULL: others are in it
};

// The scheduler takes a share in the job; wake(ctx) is called, under the job's mutex, when it is
// cancelled. Fails: TD_EARG, it was submitted before.
int td_job_attach(struct td_job *job, void (*wake)(void *ctx), void *ctx,
                  struct td_error *err) TD_MUST_CHECK;
// Gives the share back: the job may be gone afterwards.
void td_job_detach(struct td_job *job);
// Takes the attach back: as if it had not been submitted.
void td_job_unattach(struct td_job *job);

bool td_job_is_cancelled(const struct td_job *job);
// From now on a cancel also ends the session's step; NULL: no more.
void td_job_interrupt(struct td_job *job, struct td_session *session);

// Appends text of a channel, or a piece of a tool call; joined to the last event when that is of
// the same kind and nobody has taken it. Fails: TD_ENOMEM.
int td_job_add_text(struct td_job *job, enum td_job_event_kind kind, enum td_channel channel,
                    const char *text, size_t n, const struct td_job_token *tokens,
                    uint32_t n_tokens, struct td_error *err) TD_MUST_CHECK;
// Without memory it is left out: the next one says more.
void td_job_add_progress(struct td_job *job, uint32_t n_done, uint32_t n_prompt, bool is_remote);
// The last event. failure: NULL, or why it is FAILED.
void td_job_add_end(struct td_job *job, enum td_job_end end, const struct td_job_stats *stats,
                    const struct td_error *failure);
// Calls notify if something was added since the last time. No lock is held meanwhile.
void td_job_tell(struct td_job *job);

#endif
