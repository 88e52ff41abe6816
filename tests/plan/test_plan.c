// SPDX-License-Identifier: MIT
// The calibration on data whose answer is known, validation, single machines and pairs.
#include "plan/tables.h"

#include "plan/plan.h"

#include <math.h>

static struct td_error err;

static void near(double got, double want, double relative)
{
    if (!(fabs(got - want) <= relative * fabs(want))) fail_msg("%.9g, not %.9g", got, want);
}

// Replaces speeds by those of the formula at these rates, for all machines alike.
static void invent(struct tables *t, const struct td_plan_rates *rates, const char *model,
                   double factor)
{
    for (uint32_t i = 0; i < t->n_measurements; i++) {
        struct td_plan_measurement *m = &t->measurements[i];
        struct td_plan_sample s;
        if (m->use != 1 && m->use != 2) continue;
        if (td_plan_sample_of(
                &s, m,
                &(const struct td_plan_tables){t->devices, t->n_devices, t->models, t->n_models}))
            continue;
        if (model && strcmp(m->model, model) != 0) continue;
        m->tokens_per_s = factor * td_plan_test_tokens(&s.test) /
                          td_plan_test_time(NULL, &s.cost, &s.device, rates, &s.test);
    }
}

static struct td_plan_rates shifted(void)
{
    struct td_plan_rates r;
    memcpy(r.log, td_plan_prior.mean, sizeof(r.log));
    r.log[TD_PLAN_GEMM] -= 0.2;
    r.log[TD_PLAN_BAND] -= 0.1;
    return r;
}

// One measurement in `every`, so that the fits take little time.
static void thin_to(struct tables *t, uint32_t every)
{
    uint32_t n = 0, n_seen = 0;
    for (uint32_t i = 0; i < t->n_measurements; i++) {
        const bool is_used = t->measurements[i].use == 1 || t->measurements[i].use == 2;
        if (is_used && n_seen++ % every == 0) t->measurements[n++] = t->measurements[i];
    }
    t->n_measurements = n;
}

static void thin(struct tables *t)
{
    thin_to(t, 4);
}

static void test_knows_the_truth(void **state)
{
    (void)state;
    struct tables *t = read_tables();
    thin(t);
    const struct td_plan_rates truth = shifted();
    invent(t, &truth, NULL, 1);
    // What cannot be predicted counts as wrong, with its reason.
    snprintf(t->measurements[0].model, sizeof(t->measurements[0].model), "none-1b");
    t->measurements[1].tokens_per_s = 0;
    t->measurements[2].n_tokens = 0;
    t->measurements[3].device[0] = '\0';
    snprintf(t->measurements[4].quant, sizeof(t->measurements[4].quant), "??");
    t->measurements[4].file_gib = 0;
    t->measurements[5].use = 0;
    static struct td_plan_checked checked[TD_PLAN_MAX_MEASUREMENTS];
    uint32_t n;
    assert_int_equal(
        td_plan_validate(
            checked, &n, &td_plan_prior, t->measurements, t->n_measurements,
            &(const struct td_plan_tables){t->devices, t->n_devices, t->models, t->n_models}, &err),
        TD_OK);
    assert_int_equal(n, t->n_measurements - 1);
    struct td_plan_summary s;
    assert_int_equal(td_plan_summarize(&s, checked, n, TD_PLAN_EVERYTHING, NULL, NULL, &err),
                     TD_OK);
    assert_int_equal(s.n_skipped, 5);
    assert_int_equal(s.n, n);
    assert_true(s.median_error < 0.02);
    for (int i = 0; i < 5; i++) {
        assert_non_null(checked[i].skipped);
        assert_true(checked[i].error == 1);
    }
    uint32_t n_sum = 0, n_tests;
    for (int i = TD_PLAN_DECODE; i <= TD_PLAN_SMALL_CHUNKS; i++) {
        assert_int_equal(
            td_plan_summarize(&s, checked, n, (enum td_plan_subset)i, NULL, NULL, &err), TD_OK);
        n_sum += s.n;
    }
    assert_int_equal(n_sum, n);
    for (int i = TD_PLAN_ALL_DECODE; i <= TD_PLAN_ALL_PREFILL; i++)
        assert_int_equal(
            td_plan_summarize(&s, checked, n, (enum td_plan_subset)i, NULL, NULL, &err), TD_OK);
    assert_int_equal(td_plan_summarize(&s, checked, n, TD_PLAN_EVERYTHING, "nobody", "x", &err),
                     TD_OK);
    assert_int_equal(s.n, 0);
    assert_int_equal(
        td_plan_summarize(&s, checked, n, TD_PLAN_EVERYTHING, "DGX Spark (GB10)", "abacus", &err),
        TD_OK);
    assert_int_equal(s.n, 0);
    // One formula made them all: the same test twice is the same speed.
    assert_true(td_plan_repeat_spread(checked, n, &n_tests) < 0.2);
    free(t);
}

// The left-out model's own speeds must not reach its prediction.
static void test_leaves_out(void **state)
{
    (void)state;
    struct tables *t = read_tables();
    thin(t);
    static struct td_plan_checked a[TD_PLAN_MAX_MEASUREMENTS], b[TD_PLAN_MAX_MEASUREMENTS];
    uint32_t n, n_same = 0;
    assert_int_equal(td_plan_validate(a, &n, &td_plan_prior, t->measurements, t->n_measurements,
                                      &(const struct td_plan_tables){t->devices, t->n_devices,
                                                                     t->models, t->n_models},
                                      &err),
                     TD_OK);
    for (uint32_t i = 0; i < t->n_measurements; i++)
        if (strcmp(t->measurements[i].model, "gpt-oss-120b") == 0)
            t->measurements[i].tokens_per_s *= 3;
    assert_int_equal(td_plan_validate(b, &n, &td_plan_prior, t->measurements, t->n_measurements,
                                      &(const struct td_plan_tables){t->devices, t->n_devices,
                                                                     t->models, t->n_models},
                                      &err),
                     TD_OK);
    for (uint32_t i = 0; i < n; i++) {
        if (strcmp(a[i].measurement->model, "gpt-oss-120b") != 0) continue;
        assert_true(a[i].tokens_per_s == b[i].tokens_per_s);
        // Nor its interval: how wide it is comes from the others, too.
        assert_true(a[i].low == b[i].low && a[i].high == b[i].high);
        assert_true(a[i].low < a[i].tokens_per_s && a[i].tokens_per_s < a[i].high);
        n_same++;
    }
    assert_true(n_same > 5);
    // A table with one model has nothing to learn from.
    uint32_t n_one = 0;
    for (uint32_t i = 0; i < t->n_measurements; i++)
        if (strcmp(t->measurements[i].model, "gpt-oss-120b") == 0)
            t->measurements[n_one++] = t->measurements[i];
    assert_int_equal(td_plan_validate(a, &n, &td_plan_prior, t->measurements, n_one,
                                      &(const struct td_plan_tables){t->devices, t->n_devices,
                                                                     t->models, t->n_models},
                                      &err),
                     TD_EARG);
    free(t);
}

static struct td_plan_fit *fit_of(const struct tables *t, bool with_own)
{
    static struct td_plan_sample samples[TD_PLAN_MAX_MEASUREMENTS];
    struct td_plan_fit *fit;
    uint32_t n = 0;
    for (uint32_t i = 0; i < t->n_measurements; i++) {
        if (td_plan_sample_of(
                &samples[n], &t->measurements[i],
                &(const struct td_plan_tables){t->devices, t->n_devices, t->models, t->n_models}))
            continue;
        samples[n++].noise = with_own ? 0.01 : 0;
    }
    assert_int_equal(td_plan_fit_open(&fit, &td_plan_prior, samples, n, false, &err), TD_OK);
    // What a fit has found needs only the last step the next time.
    struct td_plan_fit *again;
    assert_int_equal(
        td_plan_fit_open(&again, &td_plan_prior, td_plan_fit_samples(fit), n, true, &err), TD_OK);
    td_plan_fit_close(again);
    return fit;
}

static void context_of(struct td_plan_context *c, const char *device, const char *backend)
{
    const struct td_plan_names names = {device,         backend,     "2026-02", "MXFP4",
                                        "gpt-oss-120b", TD_PLAN_MOE, false,     64};
    td_plan_context_of(c, &names);
}

static void test_machines_and_pairs(void **state)
{
    (void)state;
    struct tables *t = read_tables();
    thin(t);
    struct td_plan_fit *fit = fit_of(t, true);
    const struct td_plan_device *spark =
        td_plan_device_named(t->devices, t->n_devices, "DGX Spark (GB10)");
    const struct td_plan_device *ultra =
        td_plan_device_named(t->devices, t->n_devices, "Apple M3 Ultra 80c");
    const struct td_plan_device *small = td_plan_device_named(t->devices, t->n_devices, "RTX 4090");
    struct td_plan_cost cost;
    assert_int_equal(td_plan_cost_of(&cost,
                                     td_plan_model_named(t->models, t->n_models, "gpt-oss-120b"),
                                     "MXFP4", 0, &err),
                     TD_OK);
    struct td_plan_context a, b;
    context_of(&a, spark->name, "llama.cpp CUDA");
    context_of(&b, ultra->name, "llama.cpp Metal");
    struct td_plan_goal goal = {16384, 256, 1, 0, 2048};
    struct td_plan_single x, y, z;
    td_plan_single(&x, fit, &cost, spark, &a, &goal);
    td_plan_single(&y, fit, &cost, ultra, &b, &goal);
    td_plan_single(&z, fit, &cost, small, &a, &goal);
    assert_true(x.fits && y.fits && !z.fits);
    assert_true(x.prefill_tokens_per_s > y.prefill_tokens_per_s);
    assert_true(x.decode_tokens_per_s > 25 && x.decode_tokens_per_s < 65);
    assert_true(x.first_low < x.first_seconds && x.first_seconds < x.first_high);
    near(x.total_seconds, x.first_seconds + 255.0 / 256 * x.decode.seconds, 1e-9);
    near(x.joule, 240 * x.total_seconds, 1e-9);
    // A batch of four: four prompts, one after the other.
    goal.batch = 4;
    td_plan_single(&z, fit, &cost, spark, &a, &goal);
    near(z.first_seconds, 4 * x.first_seconds, 1e-9);
    assert_true(z.decode_tokens_per_s > x.decode_tokens_per_s);
    goal.batch = 1;

    // The Spark reads, the Mac answers: faster than either, and never over a line of 1 MB/s.
    struct td_plan_pair pair;
    const struct td_plan_link fast = {1.2e9, 2e-4}, slow = {1e6, 0.1};
    td_plan_pair(&pair, &cost, &x, &y, &fast, &goal);
    assert_true(pair.split.pays && pair.split.split_first_seconds < y.first_seconds);
    const uint32_t pays_from = td_plan_pair_pays_from(&pair);
    assert_true(pays_from > 0 && pays_from < 16384);
    near(pair.gain, pair.best_alone_seconds / pair.split.split_seconds, 1e-9);
    td_plan_pair(&pair, &cost, &x, &y, &slow, &goal);
    assert_true(!pair.split.pays);
    td_plan_fit_close(fit);
    free(t);
}

// Left-out models lie inside their intervals about as often as they should, though nothing of them
// was known; of half the table, as the whole (`tandem plan --validate`) takes long.
static void test_coverage(void **state)
{
    (void)state;
    struct tables *t = read_tables();
    thin_to(t, 2);
    static struct td_plan_checked checked[TD_PLAN_MAX_MEASUREMENTS];
    const struct td_plan_tables tables = {t->devices, t->n_devices, t->models, t->n_models};
    uint32_t n;
    struct td_plan_summary s;
    assert_int_equal(td_plan_validate(checked, &n, &td_plan_prior, t->measurements,
                                      t->n_measurements, &tables, &err),
                     TD_OK);
    for (int i = TD_PLAN_DECODE; i <= TD_PLAN_EVERYTHING; i++) {
        assert_int_equal(
            td_plan_summarize(&s, checked, n, (enum td_plan_subset)i, NULL, NULL, &err), TD_OK);
        print_message("subset %d: %u rows, %.3f covered\n", i, s.n, s.covered);
        if (i == TD_PLAN_EVERYTHING) assert_true(s.covered > 0.78 && s.covered < 0.97);
    }
    free(t);
}

// What a fit believes of a machine gives the same answer as the fit; measuring a machine makes it
// surer, and classes of tests are told apart.
static void test_belief(void **state)
{
    (void)state;
    struct tables *t = read_tables();
    thin(t);
    struct td_plan_fit *fit = fit_of(t, true);
    const struct td_plan_device *spark =
        td_plan_device_named(t->devices, t->n_devices, "DGX Spark (GB10)");
    struct td_plan_cost cost;
    assert_int_equal(td_plan_cost_of(&cost,
                                     td_plan_model_named(t->models, t->n_models, "gpt-oss-120b"),
                                     "MXFP4", 0, &err),
                     TD_OK);
    struct td_plan_context known, unknown;
    context_of(&known, spark->name, "llama.cpp CUDA");
    context_of(&unknown, "no such machine", "");
    const struct td_plan_test tests[] = {{true, 2048, 0, 1, 2048},
                                         {true, 2048, 0, 1, 64},
                                         {false, 64, 0, 1, 1},
                                         {false, 64, 0, 8, 1}};
    struct td_plan_belief belief;
    struct td_plan_answer a, b, c;
    td_plan_fit_belief(&belief, fit, &known);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(td_plan_class_of(&tests[i]), i);
        td_plan_belief_answer(&a, &belief, &cost, spark, &tests[i]);
        td_plan_fit_answer(&b, fit, &cost, spark, &known, &tests[i]);
        assert_true(a.seconds == b.seconds && a.low == b.low && a.high == b.high);
        td_plan_fit_answer(&c, fit, &cost, spark, &unknown, &tests[i]);
        if (i == TD_PLAN_CLASS_PREFILL) assert_true(c.log_sd > a.log_sd);
        const double scale = td_plan_width_scale(&belief.width[i], a.log_sd);
        assert_true(scale >= a.log_sd && scale < a.log_sd + 0.21);
        near(log(a.high / a.seconds), belief.width[i].slower * scale, 1e-9);
        near(log(a.seconds / a.low), belief.width[i].faster * scale, 1e-9);
        assert_true(belief.width[i].slower > 0.3 && belief.width[i].slower < 5);
    }
    for (int e = 0; e < TD_PLAN_N_EVIDENCES; e++)
        assert_true(strlen(td_plan_evidence_name((enum td_plan_evidence)e)) > 3);
    // What there is to lean on.
    assert_int_equal(belief.evidence, TD_PLAN_KNOWN);
    context_of(&known, spark->name, "a program that nobody runs there");
    td_plan_fit_belief(&belief, fit, &known);
    assert_int_equal(belief.evidence, TD_PLAN_OTHER_PROGRAM);
    td_plan_fit_belief(&belief, fit, &unknown);
    assert_int_equal(belief.evidence, TD_PLAN_NEW_MACHINE);
    td_plan_fit_close(fit);
    free(t);
}

static void test_wrong_fits(void **state)
{
    (void)state;
    struct td_plan_fit *fit;
    struct td_plan_sample s = {0};
    assert_int_equal(td_plan_fit_open(&fit, &td_plan_prior, &s, 0, false, &err), TD_EARG);
    assert_null(fit);
    td_plan_fit_close(NULL);
    // Machines and programs of no name share with nobody; a known family with its own.
    struct td_plan_names names = {"", "", "", "", "", TD_PLAN_DENSE, true, 0};
    struct td_plan_context c, d;
    td_plan_context_of(&c, &names);
    assert_int_equal(c.id[TD_PLAN_ALL], 1);
    assert_int_equal(c.id[TD_PLAN_DEVICE], 0);
    assert_int_equal(c.id[TD_PLAN_HEAD], 0);
    names.backend = "llama.cpp CUDA";
    td_plan_context_of(&c, &names);
    names.backend = "vLLM";
    td_plan_context_of(&d, &names);
    assert_true(c.id[TD_PLAN_FAMILY] != 0 && c.id[TD_PLAN_FAMILY] == d.id[TD_PLAN_FAMILY]);
    for (int r = 0; r < TD_PLAN_N_RATES; r++)
        assert_non_null(td_plan_rate_name((enum td_plan_rate)r));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_knows_the_truth),
        cmocka_unit_test(test_leaves_out),
        cmocka_unit_test(test_machines_and_pairs),
        cmocka_unit_test(test_coverage),
        cmocka_unit_test(test_belief),
        cmocka_unit_test(test_wrong_fits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
