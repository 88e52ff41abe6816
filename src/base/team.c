// SPDX-License-Identifier: MIT
// The thread team: one dispatch per run, a sense-counting barrier between phases. Members spin for
// a short while, since a phase lasts microseconds, then sleep. It does not steal, nest or resize.
#include "base/team.h"

#include "base/clock.h"

#include <assert.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>

// A wait is mostly the imbalance of one phase, some microseconds; a sleep and wake cost about 50. A
// pause takes 40 to 140 cycles, so this many spin for 30 to 100 microseconds. Who is still waiting
// then offers its CPU to others a few times (on a busy machine the member it waits for may need
// just that one) before it sleeps.
enum { N_SPINS = 2000, N_YIELDS = 20 };

// Padded on purpose: each counter has a cache line of its own.
struct td_team { // NOLINT(clang-analyzer-optin.performance.Padding)
    uint32_t n;
    pthread_t *threads; // (n - 1)
    struct td_member *members;
    uint32_t n_started;

    // Written by the leader before `generation` is raised (release), read by members after
    // (acquire).
    td_team_fn *fn;
    void *ctx;
    bool is_closing;

    // Raised once per run. Members wait for it to change.
    _Alignas(64) _Atomic uint32_t generation;
    // Barrier: arrivals of the current phase, and the number of phases passed.
    _Alignas(64) _Atomic uint32_t n_arrived;
    _Alignas(64) _Atomic uint32_t phase;
    // Work items handed out in the current phase.
    _Alignas(64) _Atomic uint32_t next_item;

    // Guards nothing but sleep itself: waiters re-check their atomic under it, changers signal
    // under it.
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    _Atomic uint32_t n_sleepers;
};

static void cpu_relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

// Returns when *word is no longer `old`. idle may be NULL.
static void wait_change(struct td_team *t, _Atomic uint32_t *word, uint32_t old,
                        td_team_idle_fn *idle, void *ctx)
{
    while (idle && atomic_load_explicit(word, memory_order_acquire) == old)
        if (!idle(ctx)) break;

    for (uint32_t i = 0; i < N_SPINS + N_YIELDS; i++) {
        if (atomic_load_explicit(word, memory_order_acquire) != old) return;
        if (i < N_SPINS)
            cpu_relax();
        else
            sched_yield();
    }
    pthread_mutex_lock(&t->mutex);
    // Sequentially consistent, as is the store in change(): either the changer sees the sleeper and
    // signals, or the sleeper sees the change.
    atomic_fetch_add(&t->n_sleepers, 1);
    while (atomic_load(word) == old) pthread_cond_wait(&t->changed, &t->mutex);
    atomic_fetch_sub(&t->n_sleepers, 1);
    pthread_mutex_unlock(&t->mutex);
}

static void change(struct td_team *t, _Atomic uint32_t *word)
{
    atomic_fetch_add(word, 1);
    if (atomic_load(&t->n_sleepers) == 0) return;
    pthread_mutex_lock(&t->mutex);
    pthread_cond_broadcast(&t->changed);
    pthread_mutex_unlock(&t->mutex);
}

void td_team_barrier(struct td_member *me)
{
    td_team_barrier_busy(me, NULL, NULL);
}

void td_team_barrier_busy(struct td_member *me, td_team_idle_fn *idle, void *ctx)
{
    struct td_team *t = me->team;
    if (t->n == 1) {
        atomic_store_explicit(&t->next_item, 0, memory_order_relaxed);
        return;
    }
    const uint32_t phase = atomic_load_explicit(&t->phase, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&t->n_arrived, 1, memory_order_acq_rel) == t->n - 1) {
        // Last one here: prepare the next phase before opening it.
        atomic_store_explicit(&t->n_arrived, 0, memory_order_relaxed);
        atomic_store_explicit(&t->next_item, 0, memory_order_relaxed);
        change(t, &t->phase);
        return;
    }
    wait_change(t, &t->phase, phase, idle, ctx);
}

bool td_team_claim(struct td_member *me, uint32_t n_items, uint32_t *item_out)
{
    // Relaxed: the barriers around a phase order the data, the counter only deals out numbers.
    const uint32_t i = atomic_fetch_add_explicit(&me->team->next_item, 1, memory_order_relaxed);
    if (i >= n_items) return false;
    *item_out = i;
    return true;
}

static void *member_main(void *arg)
{
    struct td_member *me = arg;
    struct td_team *t = me->team;
    uint32_t seen = 0;
    for (;;) {
        wait_change(t, &t->generation, seen, NULL, NULL);
        seen++;
        if (t->is_closing) return NULL;
        t->fn(t->ctx, me);
        td_team_barrier(me);
    }
}

// Members take no signals: Ctrl-C must reach a thread that waits for input, or nothing wakes it.
// Faults stay open, since they come to the thread that made them (a mapped file may have been cut
// short).
static void block_signals(sigset_t *before)
{
    sigset_t all;
    sigfillset(&all);
    sigdelset(&all, SIGBUS);
    sigdelset(&all, SIGSEGV);
    sigdelset(&all, SIGFPE);
    sigdelset(&all, SIGILL);
    pthread_sigmask(SIG_BLOCK, &all, before);
}

int td_team_open(struct td_team **out, uint32_t n_threads, struct td_error *err)
{
    *out = NULL;
    if (n_threads < 1 || n_threads > 1024)
        return td_fail(err, TD_EARG, "%u threads: between 1 and 1024 are possible", n_threads);
    struct td_team *t = aligned_alloc(64, (sizeof(*t) + 63) / 64 * 64);
    if (!t) return td_fail(err, TD_ENOMEM, "no memory for a thread team");
    *t = (struct td_team){.n = n_threads};
    t->threads = calloc(n_threads, sizeof(*t->threads));
    t->members = calloc(n_threads, sizeof(*t->members));
    pthread_mutex_init(&t->mutex, NULL);
    pthread_cond_init(&t->changed, NULL);
    if (!t->threads || !t->members) {
        td_team_close(t);
        return td_fail(err, TD_ENOMEM, "no memory for a team of %u threads", n_threads);
    }
    for (uint32_t i = 0; i < n_threads; i++)
        t->members[i] = (struct td_member){.team = t, .id = i, .n = n_threads};
    sigset_t before;
    block_signals(&before); // new threads inherit the mask
    for (uint32_t i = 1; i < n_threads; i++) {
        if (pthread_create(&t->threads[i - 1], NULL, member_main, &t->members[i]) != 0) break;
        t->n_started++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (t->n_started + 1 < n_threads) {
        const uint32_t n_got = t->n_started + 1;
        td_team_close(t);
        return td_fail(err, TD_EIO, "the system gave only %u of %u threads", n_got, n_threads);
    }
    *out = t;
    return TD_OK;
}

void td_team_close(struct td_team *t)
{
    if (!t) return;
    t->is_closing = true;
    change(t, &t->generation);
    for (uint32_t i = 0; i < t->n_started; i++) pthread_join(t->threads[i], NULL);
    pthread_cond_destroy(&t->changed);
    pthread_mutex_destroy(&t->mutex);
    free(t->threads);
    free(t->members);
    free(t);
}

uint32_t td_team_size(const struct td_team *t)
{
    return t->n;
}

void td_team_run(struct td_team *t, td_team_fn *fn, void *ctx)
{
    assert(fn);
    t->fn = fn;
    t->ctx = ctx;
    atomic_store_explicit(&t->next_item, 0, memory_order_relaxed);
    if (t->n > 1) change(t, &t->generation);
    fn(ctx, &t->members[0]);
    td_team_barrier(&t->members[0]);
}
