// SPDX-License-Identifier: MIT
// The size of a prompt's chunks on machines that are made up: the pause of a stream is kept, and
// not bought with tiny chunks.
#include "server/sched_pace.h"

#include "base/num.h"

// cmocka.h needs these first.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <stdlib.h>

struct machine {
    double base, row, slope; // seconds: of any step, of a row, of a row more for each deep token
    double noise;            // relative, up to
    struct td_rng rng;
};

static double step_seconds(struct machine *m, uint32_t rows, double depth)
{
    const double noise = 1.0 + m->noise * (2.0 * (double)td_rng_f32(&m->rng) - 1.0);
    return (m->base + rows * (m->row + depth * m->slope)) * noise;
}

static int ascending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

// Reads a prompt of n tokens beside n_single answers; checks pauses and how many steps it took.
static void read_beside(struct td_pacer *p, struct machine *m, uint32_t n, uint32_t n_single)
{
    static double pauses[20000];
    uint32_t n_steps = 0;
    double ideal_steps = 0;
    for (uint32_t done = 0; done < n;) {
        uint32_t rows = td_pacer_rows(p, n_single);
        assert_true(rows >= 1 && rows + n_single <= p->max_rows);
        rows = td_min_u32(rows, n - done);
        const double seconds = step_seconds(m, rows + n_single, done);
        td_pacer_saw(p, rows + n_single, seconds);
        const double most = (p->max_seconds - m->base) / (m->row + done * m->slope);
        ideal_steps += rows / (most < p->max_rows ? most : p->max_rows);
        done += rows;
        assert_true(n_steps < 20000);
        pauses[n_steps++] = seconds;
    }
    qsort(pauses, n_steps, sizeof(*pauses), ascending);
    assert_true(pauses[n_steps * 95 / 100] <= p->max_seconds * 1.02);
    assert_true(n_steps < 2.2 * ideal_steps + 12);
}

static void keeps_the_pause(void **state)
{
    (void)state;
    static const struct machine machines[] = {
        {.base = 0.25, .row = 0.02, .noise = 0.05},                // a slow one
        {.base = 0.05, .row = 0.003, .slope = 2e-7, .noise = 0.1}, // slower with depth
        {.base = 0.002, .row = 0.00005, .noise = 0.2},             // fast: full chunks
        {.base = 0.4, .row = 0.001, .slope = 5e-8, .noise = 0.02},
    };
    for (size_t i = 0; i < sizeof(machines) / sizeof(machines[0]); i++) {
        struct machine m = machines[i];
        m.rng.state = i;
        struct td_pacer p;
        td_pacer_init(&p, 512, 1.0);
        for (uint32_t k = 0; k < 50; k++) td_pacer_saw(&p, 1, step_seconds(&m, 1, 100));
        read_beside(&p, &m, 20000, 1);
        read_beside(&p, &m, 3000, 6); // another, from the beginning
    }
}

static void full_chunks_without_streams(void **state)
{
    (void)state;
    struct td_pacer p;
    td_pacer_init(&p, 512, 1.0);
    assert_int_equal(td_pacer_rows(&p, 0), 512);
    td_pacer_saw(&p, 512, 20.0);
    assert_int_equal(td_pacer_rows(&p, 0), 512);
    // Nothing else is known: not the full chunk beside a stream.
    assert_true(td_pacer_rows(&p, 1) <= 32);
}

static void goes_on_where_nothing_fits(void **state)
{
    (void)state;
    struct td_pacer p;
    td_pacer_init(&p, 512, 1.0);
    for (uint32_t rows = 1; rows < 512; rows *= 2) td_pacer_saw(&p, rows, 3.0 + rows);
    assert_in_range(td_pacer_rows(&p, 4), 1, 16);
    td_pacer_init(&p, 1, 1.0);
    assert_int_equal(td_pacer_rows(&p, 0), 1);
    assert_int_equal(td_pacer_rows(&p, 1), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keeps_the_pause),
        cmocka_unit_test(full_chunks_without_streams),
        cmocka_unit_test(goes_on_where_nothing_fits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
