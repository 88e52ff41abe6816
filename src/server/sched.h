// SPDX-License-Identifier: MIT
// Works on many answers at once, over one engine: a queue, slots, one batch a step. Decodes of all
// answers are rows of one batch, a newcomer's prompt rides along in chunks small enough that
// running streams do not stall. It decides what KV is kept for later requests. It knows neither
// JSON nor sockets.
#ifndef TD_SERVER_SCHED_H
#define TD_SERVER_SCHED_H

#include "server/job.h"

struct td_kvdisk; // server/kvdisk.h

struct td_sched_config {
    struct td_engine *engine;             // the scheduler's thread alone uses it until close
    const struct td_tokenizer *tokenizer; // of the same model
    uint32_t n_ctx;                       // tokens of one conversation
    uint32_t n_slots;                     // answers at work at once
    uint32_t n_queue;                     // answers that may wait; 0: as many as slots
    uint32_t chunk;                       // rows of a step at most
    uint32_t max_gap_ms;      // aimed at: pause of a running stream, 95th percentile; 0: 1000
    uint64_t max_kv_bytes;    // as the engine was opened with; 0: no limit but memory
    uint64_t max_cache_bytes; // KV kept of finished conversations; 0: as the engine's limit allows
    struct td_remote *remote; // peers that may read prompts; NULL: none
    struct td_kvdisk *disk;   // KV kept on disk; NULL: none
};

struct td_sched;
// Starts the thread. Fails: TD_ENOMEM, TD_EARG.
int td_sched_open(struct td_sched **out, const struct td_sched_config *cfg,
                  struct td_error *err) TD_MUST_CHECK;
// Puts the job in the queue; its events come from then on. Any thread.
// Fails: TD_EFULL, the queue is full: *retry_s_out (may be NULL) says when to try again;
// TD_EARG, the prompt and one token do not fit the context (sentence with both numbers);
// TD_ECANCEL, it is being drained.
int td_sched_submit(struct td_sched *s, struct td_job *job, uint32_t *retry_s_out,
                    struct td_error *err) TD_MUST_CHECK;
// What is likely to be asked next begins with these tokens: read when nobody waits, so that it is
// known by then. Copies all; marks as td_job_spec has them. May do nothing. Any thread.
void td_sched_read_ahead(struct td_sched *s, const int32_t *tokens, uint32_t n,
                         const uint32_t *marks, uint32_t n_marks);
// Takes no more jobs from now on; what runs goes on. Any thread, also a signal handler's.
void td_sched_drain(struct td_sched *s);
// True once nothing runs and nothing waits, or after timeout_ms (false).
bool td_sched_wait_idle(struct td_sched *s, uint32_t timeout_ms);
// Cancels what is left, writes what is to be kept on disk, ends the thread. The engine is the
// caller's again. NULL is fine.
void td_sched_close(struct td_sched *s);

// A histogram as Prometheus has it: counts of values <= bound, cumulative; bounds in seconds.
#define TD_HISTOGRAM_BOUNDS 14
extern const double td_histogram_bounds[TD_HISTOGRAM_BOUNDS]; // 0.005 .. 300
struct td_histogram {
    uint64_t counts[TD_HISTOGRAM_BOUNDS];
    uint64_t n;
    double sum;
};

// Since the start, unless it says "now".
struct td_sched_stats {
    uint32_t n_slots, n_running, n_queued; // now
    uint32_t n_ctx;
    uint64_t n_done, n_failed, n_cancelled, n_refused; // answers
    uint64_t n_prompt, n_reused, n_written;            // tokens
    uint64_t n_reused_disk;                            // of the reused: read from disk
    uint64_t n_ahead;                                  // of prompts, before they were asked
    uint64_t n_hits;                 // prompts of which at least one token was reused
    uint64_t kv_bytes, max_kv_bytes; // now, in use by all sequences; the limit
    uint64_t cache_bytes;            // now, of these: kept for later
    uint64_t n_evicted;              // kept sequences given up for room
    uint64_t disk_bytes;
    uint64_t n_path[4]; // prompts by enum td_remote_path; all local without peers
    uint64_t relay_bytes;
    double relay_transfer_seconds, relay_exposed_seconds, relay_stall_seconds;
    double prompt_tokens_per_s, written_tokens_per_s; // now: of the last seconds at work
    struct td_histogram ttft, gap, queue, total;      // seconds
};
void td_sched_stats(struct td_sched *s, struct td_sched_stats *out); // any thread

#endif
