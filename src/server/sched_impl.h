// SPDX-License-Identifier: MIT
// What the scheduler's files share. Private to server/.
#ifndef TD_SERVER_SCHED_IMPL_H
#define TD_SERVER_SCHED_IMPL_H

#include "server/answer.h"
#include "server/job_impl.h"
#include "server/kvdisk.h"
#include "server/sched.h"
#include "server/sched_pace.h"

#include <pthread.h>
#include <stdatomic.h>

enum td_work_state {
    TD_WORK_WAITING,  // in the queue
    TD_WORK_LOADING,  // its prompt's beginning is read from disk
    TD_WORK_FETCHING, // a peer reads its prompt
    TD_WORK_READING,  // its prompt is being computed
    TD_WORK_WRITING,
};

// A job between submit and its end. The scheduler's thread's, but for the list it waits in.
struct td_work {
    struct td_work *next; // in the queue
    struct td_job *job;
    enum td_work_state state;
    uint64_t client, turn; // in the fair queue: who comes first
    uint64_t order;        // of admission: the youngest gives way
    uint64_t submit_ns, admit_ns, first_ns, last_ns;
    int32_t *tokens; // (n_prompt + n_limit) prompt, then what was written
    uint32_t n, n_prompt, n_limit, n_written;
    uint64_t need_bytes; // KV that it may take
    struct td_slot *slot;
    struct td_sampler *sampler;
    struct td_answer *answer;
    struct td_job_stats stats;
    struct td_remote_try *fetch; // NULL: computed here
    struct td_remote_ask ask;
    struct td_kvdisk_load *load; // NULL: nothing is read from disk
    uint32_t n_here;             // of the prompt: in memory before that
    uint32_t n_told;             // progress, as told last
    uint32_t n_known;            // of the prompt: in the KV when computing began
    double step_seconds;         // of the steps that read it
    bool was_beside;             // others were in its steps
    uint32_t n_missed;           // steps in a row without a row of it although it writes
    uint32_t n_requeued;         // peers or memory had no place for its prompt
};

// A place at work: a session, empty between two works.
struct td_slot {
    struct td_session *session; // NULL: opened when it is needed
    struct td_work *work;       // NULL: free
};

// Tokens and seconds of the last while at work.
struct td_rate_now {
    double n, seconds;
};

struct td_sched {
    struct td_sched_config cfg;
    pthread_t thread;

    // The scheduler's thread alone.
    struct td_slot *slots; // (cfg.n_slots)
    struct td_work *queue; // by arrival
    uint64_t virtual_turn, n_admitted;
    uint32_t n_at_work;
    bool is_resting;         // nothing to compute since the last look
    bool is_tight;           // memory ran out: nobody starts until somebody has ended
    uint64_t busy_ns;        // when there was something to compute
    uint64_t promised_bytes; // need_bytes of what is at work
    uint64_t page_bytes;     // of one layer
    uint32_t page_tokens;
    struct td_pacer pacer;
    struct td_rate_now reading, writing;
    struct td_timeline timeline; // to be saved: too large for a stack
    struct td_kvdisk_saving *saving;
    struct td_ahead *ahead;     // to be read when nobody waits
    struct td_slot *ahead_slot; // where the first of them is being read; NULL: it is not
    uint32_t n_saved;           // kept conversations looked at since something ended
    uint64_t fetch_after_ns;    // peers had no place: nobody asks them before
    uint64_t save_ns;           // wall clock: when the first of them was looked at
    uint64_t save_after_ns;     // the disk refused: nothing is written before
    uint64_t report_ns;         // when stats were last taken from the engine

    _Atomic bool is_draining;

    pthread_mutex_t mutex; // guards what follows; never held while a job's is taken
    pthread_cond_t wake;   // something for the thread
    pthread_cond_t idle;   // nothing runs, nothing waits
    bool is_closing, has_wake;
    struct td_work *inbox, *inbox_last;
    struct td_ahead *ahead_inbox;
    uint32_t n_queued, n_running;
    uint32_t n_open;        // submitted, and their last event is not given yet
    double service_seconds; // of an answer, smoothed; 0: not known yet
    struct td_sched_stats stats;
};

// sched_queue.c
void td_sched_free_work(struct td_work *w);
// Puts it in the queue where its client's turn is.
void td_sched_enqueue(struct td_sched *s, struct td_work *w);
// The next in turn of those that need not wait for somebody (waits), if there is room for it;
// taken out. NULL: none. Who has no room is passed by nobody, or it would never have any.
typedef bool td_work_fn(struct td_sched *s, const struct td_work *w);
struct td_work *td_sched_pick(struct td_sched *s, td_work_fn *waits, td_work_fn *has_room);
// Seconds until a place is likely to be free.
uint32_t td_sched_retry_s(uint32_t n_ahead, uint32_t n_slots, double service_seconds);

// sched_slot.c
// Gives slots to those in the queue, as far as there are slots and memory.
void td_sched_admit(struct td_sched *s);
// Sets the memory that it may take from now on.
void td_sched_estimate(struct td_sched *s, struct td_work *w);
// Reads a piece for each work that reads from disk; who has all goes on. Whether any goes on
// reading from disk.
bool td_sched_load_all(struct td_sched *s);
// Somebody else writes its KV: the engine's steps leave it alone.
bool td_sched_is_away(const struct td_work *w);
// The slot is free; what was computed is kept for a later request that begins alike.
void td_sched_release(struct td_sched *s, struct td_work *w);
// Memory has run out in a step: the youngest work waits again, what it has computed may go. False
// when only one is at work.
bool td_sched_make_room(struct td_sched *s);
// It waits again, before all others.
void td_sched_requeue(struct td_sched *s, struct td_work *w);

// sched_remote.c
// Asks the peers to read the prompt; the work is FETCHING, or READING when none will.
int td_sched_fetch(struct td_sched *s, struct td_work *w, struct td_error *err) TD_MUST_CHECK;
// Between two steps: looks after peers and what they read. True when a step is wanted although
// nobody here wants one.
bool td_sched_poll(struct td_sched *s);
// The prompt is read, or given up: what came from peers is counted.
void td_sched_fetched(struct td_sched *s, struct td_work *w);
// What the prompt's end, or the answer's (is_over), shows of this machine's speed.
void td_sched_saw_speed(struct td_sched *s, const struct td_work *w, bool is_over);

// sched_disk.c
// Begins to read the prompt's beginning into the slot's session, if that saves something; false
// when it does not.
bool td_sched_load(struct td_sched *s, struct td_work *w);
// Reads a piece; true when it was the last.
bool td_sched_load_more(struct td_sched *s, struct td_work *w);
// It is read, or given up.
void td_sched_loaded(struct td_sched *s, struct td_work *w);
// Has the next kept conversation written, beside everything else; false when there is none left.
bool td_sched_save_one(struct td_sched *s);
// Whether nothing is being written any more.
bool td_sched_saved(struct td_sched *s);
// Writes all that are kept, and waits for it.
void td_sched_save_all(struct td_sched *s);
// Gives up what is being written, and its pages; false when there is nothing.
bool td_sched_save_give_up(struct td_sched *s);

// sched_ahead.c
// Whether there is something to read ahead.
bool td_sched_has_ahead(struct td_sched *s);
// A step of it; nobody is at work.
void td_sched_step_ahead(struct td_sched *s);
// Somebody has come: what is read so far is kept, its slot is free.
void td_sched_leave_ahead(struct td_sched *s);
void td_sched_forget_ahead(struct td_sched *s);

// sched_step.c
// One step of all that is at work, and what follows from it; false when it failed.
bool td_sched_step(struct td_sched *s);
// Whether anybody at work wants one.
bool td_sched_can_step(struct td_sched *s);
// The job's last event; the work is gone. failure: NULL, or why.
void td_sched_end(struct td_sched *s, struct td_work *w, enum td_job_end end,
                  const struct td_error *failure);

// sched_stats.c
double td_sched_seconds(uint64_t from_ns, uint64_t to_ns); // 0 when one of them never came
void td_histogram_add(struct td_histogram *h, double seconds);
// After a step of so many rows of prompts and of answers.
void td_sched_count_step(struct td_sched *s, uint32_t n_prompt, uint32_t n_written, double seconds);
// Takes the engine's figures, not more often than people look; or now.
void td_sched_count_engine(struct td_sched *s, bool now);

#endif
