// SPDX-License-Identifier: MIT
// The thread team: all members run, items go out once each, nothing passes a barrier early.
#include "base/team.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

enum { MAX_THREADS = 4, N_ITEMS = 97, N_PHASES = 5 };

// Members record, the test's thread asserts: cmocka's assertions belong to one thread.
struct work {
    _Atomic uint32_t n_ran[MAX_THREADS];
    _Atomic uint32_t n_taken[N_PHASES][N_ITEMS];
    _Atomic uint32_t n_bad;
    // Plain memory on purpose: written by whoever took the item in one phase, read by others in the
    // next. Only the barrier orders it, and a thread sanitizer would tell.
    uint32_t cell[N_PHASES][N_ITEMS];
};

static void claim_phases(void *ctx, struct td_member *me)
{
    struct work *w = ctx;
    atomic_fetch_add(&w->n_ran[me->id], 1);
    if (me->n != td_team_size(me->team) || me->id >= me->n) atomic_fetch_add(&w->n_bad, 1);
    for (uint32_t phase = 0; phase < N_PHASES; phase++) {
        uint32_t item;
        uint32_t last = 0;
        while (td_team_claim(me, N_ITEMS, &item)) {
            if (item >= N_ITEMS || (last && item <= last)) atomic_fetch_add(&w->n_bad, 1);
            last = item;
            atomic_fetch_add(&w->n_taken[phase][item], 1);
            w->cell[phase][item] = item + 1;
            // Somebody else's of the phase before.
            if (phase > 0 && w->cell[phase - 1][N_ITEMS - 1 - item] != N_ITEMS - item)
                atomic_fetch_add(&w->n_bad, 1);
        }
        td_team_barrier(me);
    }
}

static void test_claims(void **state)
{
    (void)state;
    for (uint32_t n = 1; n <= MAX_THREADS; n++) {
        struct td_team *team;
        struct td_error err = {0};
        if (td_team_open(&team, n, &err)) fail_msg("%s", err.msg);
        assert_int_equal(td_team_size(team), n);
        for (int run = 0; run < 300; run++) {
            static struct work w;
            memset(&w, 0, sizeof(w));
            td_team_run(team, claim_phases, &w);
            assert_int_equal(w.n_bad, 0);
            for (uint32_t i = 0; i < MAX_THREADS; i++) assert_int_equal(w.n_ran[i], i < n);
            for (uint32_t p = 0; p < N_PHASES; p++)
                for (uint32_t i = 0; i < N_ITEMS; i++) assert_int_equal(w.n_taken[p][i], 1);
        }
        td_team_close(team);
    }
}

struct meeting {
    _Atomic uint32_t n_arrived;
    _Atomic uint32_t n_early;
};

static void meet(void *ctx, struct td_member *me)
{
    struct meeting *m = ctx;
    for (uint32_t round = 1; round <= 50; round++) {
        atomic_fetch_add(&m->n_arrived, 1);
        td_team_barrier(me);
        if (atomic_load(&m->n_arrived) < round * me->n) atomic_fetch_add(&m->n_early, 1);
        td_team_barrier(me);
    }
}

static void test_barrier(void **state)
{
    (void)state;
    for (uint32_t n = 1; n <= MAX_THREADS; n++) {
        struct td_team *team;
        assert_int_equal(td_team_open(&team, n, NULL), TD_OK);
        struct meeting m = {0};
        td_team_run(team, meet, &m);
        assert_int_equal(m.n_arrived, 50 * n);
        assert_int_equal(m.n_early, 0);
        td_team_close(team);
    }
}

// Longer than members spin, so that they sleep and must be woken, in a barrier and between runs.
static void nap(void)
{
    const struct timespec t = {.tv_nsec = 3000000};
    nanosleep(&t, NULL);
}

static void late_one(void *ctx, struct td_member *me)
{
    _Atomic uint32_t *n_after = ctx;
    for (uint32_t late = 0; late < me->n; late++) {
        if (me->id == late) nap();
        td_team_barrier(me);
        atomic_fetch_add(n_after, 1);
    }
}

static void test_sleepers_wake(void **state)
{
    (void)state;
    for (uint32_t n = 2; n <= MAX_THREADS; n++) {
        struct td_team *team;
        assert_int_equal(td_team_open(&team, n, NULL), TD_OK);
        for (int run = 0; run < 3; run++) {
            _Atomic uint32_t n_after = 0;
            nap();
            td_team_run(team, late_one, &n_after);
            assert_int_equal(n_after, n * n);
        }
        nap();
        td_team_close(team);
    }
}

// While a member waits its idle function is called until it has enough.
struct idler {
    uint32_t n_calls, enough;
    _Atomic uint32_t *n_all; // may be NULL
};

static bool idle(void *ctx)
{
    struct idler *me = ctx;
    if (me->n_all) atomic_fetch_add(me->n_all, 1);
    return ++me->n_calls < me->enough;
}

struct busy {
    _Atomic uint32_t n_bad;
    _Atomic uint32_t n_idle_calls;
};

static void wait_busily(void *ctx, struct td_member *me)
{
    struct busy *b = ctx;
    struct idler few = {.enough = 3};
    struct idler many = {.enough = UINT32_MAX, .n_all = &b->n_idle_calls};
    td_team_barrier_busy(me, idle, &few);
    if (few.n_calls > 3) atomic_fetch_add(&b->n_bad, 1);
    // The leader comes only when others have idled for a while: the last of two, it need not wait.
    while (me->id == 0 && me->n > 1 && atomic_load(&b->n_idle_calls) < 1000) nap();
    td_team_barrier_busy(me, idle, &many);
    if (me->id == 0 && me->n == 2 && many.n_calls != 0) atomic_fetch_add(&b->n_bad, 1);
    td_team_barrier_busy(me, NULL, NULL);
}

static void test_busy_waiting(void **state)
{
    (void)state;
    for (uint32_t n = 1; n <= MAX_THREADS; n++) {
        struct td_team *team;
        struct busy b = {0};
        assert_int_equal(td_team_open(&team, n, NULL), TD_OK);
        td_team_run(team, wait_busily, &b);
        assert_int_equal(b.n_bad, 0);
        td_team_close(team);
    }
}

static void claim_none(void *ctx, struct td_member *me)
{
    uint32_t item;
    if (td_team_claim(me, 0, &item)) atomic_fetch_add((_Atomic uint32_t *)ctx, 1);
}

static void test_edges(void **state)
{
    (void)state;
    struct td_team *team;
    struct td_error err = {0};
    assert_int_equal(td_team_open(&team, 0, &err), TD_EARG);
    assert_null(team);
    assert_int_equal(td_team_open(&team, 1025, &err), TD_EARG);
    assert_non_null(strstr(err.msg, "1025 threads"));
    assert_null(team);
    td_team_close(NULL);
    // Opened and closed unused.
    assert_int_equal(td_team_open(&team, 3, &err), TD_OK);
    td_team_close(team);
    assert_int_equal(td_team_open(&team, 3, &err), TD_OK);
    _Atomic uint32_t n = 0;
    td_team_run(team, claim_none, &n);
    assert_int_equal(n, 0);
    td_team_close(team);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_claims),        cmocka_unit_test(test_barrier),
        cmocka_unit_test(test_sleepers_wake), cmocka_unit_test(test_busy_waiting),
        cmocka_unit_test(test_edges),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
