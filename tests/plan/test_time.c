// SPDX-License-Identifier: MIT
// The formula on a machine and a model with round numbers, where each part can be said in advance.
#include "plan/tables.h"

#include "plan/plan.h"

#include <math.h>

static void near(double got, double want, double relative)
{
    if (!(fabs(got - want) <= relative * fabs(want))) fail_msg("%.9g, not %.9g", got, want);
}

// 1 TFLOP/s and 100 GB/s, all reached; no overhead to speak of, no more rows.
static const struct td_plan_device machine = {
    .name = "m", .vendor = "v", .flop_per_s = 1e12, .bytes_per_s = 1e11, .memory_bytes = 0x1p36};

static struct td_plan_rates perfect(void)
{
    struct td_plan_rates r = {{0}};
    r.log[TD_PLAN_LAYER] = -40;
    r.log[TD_PLAN_ROWS] = r.log[TD_PLAN_EXPERT_ROWS] = -20;
    r.log[TD_PLAN_VECTOR] = r.log[TD_PLAN_EXPERT_VECTOR] = -3;
    r.log[TD_PLAN_OVERLAP] = 4; // the longer of two counts alone
    return r;
}

static const struct td_plan_cost dense = {.n_layers = 10,
                                          .n_full_layers = 10,
                                          .file_bytes = 1.1e9,
                                          .dense_bytes = 1e9,
                                          .dense_flop = 2e9,
                                          .head_flop = 1e8,
                                          .attend_flop_full = 1e4,
                                          .kv_bytes_full = 1e4,
                                          .logits_bytes = 4e5};

static void test_bound_by(void **state)
{
    (void)state;
    const struct td_plan_rates r = perfect();
    struct td_plan_parts p;
    // One row: its weights' bytes. 10 ms, with 1000 positions of KV 0.1 ms more.
    struct td_plan_test t = {false, 100, 950, 1, 1};
    near(td_plan_test_time(&p, &dense, &machine, &r, &t), 100 * (0.01 + 1000.5 * 1e4 / 1e11), 0.01);
    near(p.read_dense, 1.0, 1e-9);
    // A thousand rows: their multiply-adds, 2 s, and half the prompt seen by each.
    t = (struct td_plan_test){true, 1000, 0, 1, 1000};
    near(td_plan_test_time(&p, &dense, &machine, &r, &t), 2 + 1e-4 + 1000 * 500 * 1e4 / 1e12, 0.01);
    near(td_plan_test_tokens(&t), 1000, 0);
    // In chunks with a rest: the sum of the chunks, never less.
    t.chunk_tokens = 300;
    near(td_plan_test_time(NULL, &dense, &machine, &r, &t), 2.005, 0.02);
    // A batch reads weights once, and each of its sequences its own KV.
    t = (struct td_plan_test){false, 1, 1000, 4, 1};
    td_plan_test_time(&p, &dense, &machine, &r, &t);
    near(p.read_dense, 0.01, 1e-9);
    near(p.read_kv, 4 * 1001 * 1e4 / 1e11, 1e-9);
    near(td_plan_test_tokens(&t), 4, 0);
}

static void test_experts(void **state)
{
    (void)state;
    struct td_plan_cost c = dense;
    struct td_plan_rates r = perfect();
    struct td_plan_parts p;
    c.n_experts = 64;
    c.n_active = 4;
    c.expert_bytes = 6.4e9;
    c.expert_flop = 4e9;
    const struct td_plan_pass one = {1, 1, 1, 1}, many = {1e5, 1, 1, 1};
    td_plan_pass_time(&p, &c, &machine, &r, &one);
    near(p.read_experts, 0.004, 1e-6); // four of them
    near(p.multiply_experts, 0.004, 0.2);
    td_plan_pass_time(&p, &c, &machine, &r, &many);
    near(p.read_experts, 0.064, 1e-6); // all of them
    // Rows that choose alike visit fewer.
    r.log[TD_PLAN_CROWD] = -0.5;
    const struct td_plan_pass some = {16, 1, 1, 1};
    const double visited = td_plan_distinct(64, 4, pow(16, exp(-0.5)));
    td_plan_pass_time(&p, &c, &machine, &r, &some);
    near(p.read_experts, visited * 1e8 / 1e11, 1e-6);
    assert_true(visited < td_plan_distinct(64, 4, 16));
}

static void test_monotone(void **state)
{
    (void)state;
    const struct td_plan_rates r = perfect();
    double last = 0;
    for (double depth = 0; depth < 1e5; depth = depth * 2 + 1) {
        const struct td_plan_test t = {true, 512, depth, 1, 512};
        const double s = td_plan_test_time(NULL, &dense, &machine, &r, &t);
        assert_true(s > last);
        last = s;
    }
}

static const struct td_plan_goal goal = {8192, 512, 1, 0, 2048};

static void test_golden(void **state)
{
    (void)state;
    const struct td_plan_rates r = perfect();
    const struct td_plan_prices prices = {1e-12, 1e-9, 1e-9};
    struct td_plan_golden g;
    td_plan_golden(&g, &dense, &goal, &r, &prices, 10);
    near(g.flop, 8192 * (2e9 + 1e4 * 4096) + 512 * (2.1e9 + 1e4 * 8448), 1e-9);
    near(g.bytes, 4 * 1e9 + 512 * (1e9 + 1e4 * 8448), 1e-9);
    near(g.steady_ratio, g.flop / g.bytes, 1e-9);
    // The machine it names takes the seconds that were asked for.
    near(g.flop / g.flop_per_s + g.bytes / g.bytes_per_s, 10, 1e-9);
    near(g.flop_per_s / g.bytes_per_s, g.cheapest_ratio, 1e-9);
    // At the optimum the times divide as the bills do, and being off costs as the formula says.
    near(g.flop / g.flop_per_s / (g.bytes / g.bytes_per_s),
         g.flop_per_s * 1e-12 / (g.bytes_per_s * 1e-9), 1e-9);
    const double spent = g.flop_per_s * 1e-12 + g.bytes_per_s * 1e-9;
    const double off = 2 * g.cheapest_ratio, bw = spent / (off * 1e-12 + 1e-9);
    near((g.flop / (off * bw) + g.bytes / bw) / 10, g.off_by_2, 1e-6);
    assert_true(g.off_by_4 > g.off_by_2 && g.off_by_2 > 1);
    struct td_plan_cost c = dense;
    c.n_experts = 8;
    c.n_active = 2;
    c.expert_flop = 2e9;
    c.expert_bytes = 8e9;
    struct td_plan_rates slow = r;
    slow.log[TD_PLAN_EXPERTS] = log(0.5);
    td_plan_golden(&g, &c, &goal, &slow, &prices, 10);
    near(g.reached_flop, 1 / 1.5, 1e-9); // half the work at half the speed
}

static void test_memory(void **state)
{
    (void)state;
    struct td_plan_device d = machine;
    near(td_plan_usable_bytes(&d), 0x1p36 * 15 / 16, 1e-9);
    d.memory_bytes = 0x1p40;
    near(td_plan_usable_bytes(&d), 0x1p40 - 6 * 0x1p30, 1e-9);
    snprintf(d.vendor, sizeof(d.vendor), "Apple");
    near(td_plan_usable_bytes(&d), 0x1p40 * 0.75, 1e-9);
    assert_true(td_plan_needed_bytes(&dense, &goal) > dense.file_bytes + 8704 * 1e4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bound_by), cmocka_unit_test(test_experts),
        cmocka_unit_test(test_monotone), cmocka_unit_test(test_golden),
        cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
