// SPDX-License-Identifier: MIT
// A fixed team of threads that run one function together, with a barrier between its phases.
// It knows nothing of work items beyond handing out their numbers.
#ifndef TD_BASE_TEAM_H
#define TD_BASE_TEAM_H

#include "base/status.h"

#include <stdbool.h>
#include <stdint.h>

struct td_team;

// What a member sees while a function runs.
struct td_member {
    struct td_team *team;
    uint32_t id; // 0 is the leader: the thread that called td_team_run
    uint32_t n;  // members of the team
};

typedef void td_team_fn(void *ctx, struct td_member *me);

// Starts n_threads - 1 threads (the caller is the last member); n_threads >= 1.
// On failure *out is NULL.
int td_team_open(struct td_team **out, uint32_t n_threads, struct td_error *err) TD_MUST_CHECK;
void td_team_close(struct td_team *team);
uint32_t td_team_size(const struct td_team *team);

// Runs fn on every member; returns when all have returned. One caller at a time.
void td_team_run(struct td_team *team, td_team_fn *fn, void *ctx);

// Waits until every member is here. All writes before it are seen by all after it.
void td_team_barrier(struct td_member *me);
// The same; while it waits it calls idle(ctx) again and again until that returns false. One call
// should take less than a microsecond, since the others may be there meanwhile.
typedef bool td_team_idle_fn(void *ctx);
void td_team_barrier_busy(struct td_member *me, td_team_idle_fn *idle, void *ctx);

// Hands out 0, 1, 2 ... n_items - 1, each once, in ascending order, to whoever asks; returns false
// when none are left. The round starts anew after each td_team_barrier.
bool td_team_claim(struct td_member *me, uint32_t n_items, uint32_t *item_out);

#endif
