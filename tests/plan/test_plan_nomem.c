// SPDX-License-Identifier: MIT
// Memory that runs out in the planner, at every allocation in turn: an error, nothing leaks, the
// output stays NULL. Linked with -Wl,--wrap.
#include "plan/tables.h"

#include "plan/fit.h"

static uint32_t n_until_failure; // 0: never fails

void *__real_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t n, size_t size);

static bool fails(void)
{
    return n_until_failure > 0 && --n_until_failure == 0;
}

void *__wrap_malloc(size_t size)
{
    return fails() ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t n, size_t size)
{
    return fails() ? NULL : __real_calloc(n, size);
}

static struct td_error err;

static void test_reading(void **state)
{
    (void)state;
    static const char text[] = "name,arch,layers,p_attn,total_params_b\nx,moe,1,1,1\n";
    struct td_plan_model m[2];
    uint32_t n;
    n_until_failure = 1;
    assert_int_equal(td_plan_read_models(m, 2, &n, text, sizeof(text) - 1, &err), TD_ENOMEM);
    n_until_failure = 0;
    assert_int_equal(td_plan_read_models(m, 2, &n, text, sizeof(text) - 1, &err), TD_OK);
}

static void test_fitting(void **state)
{
    (void)state;
    struct tables *t = read_tables();
    struct td_plan_sample samples[3];
    for (int i = 0; i < 3; i++)
        assert_null(td_plan_sample_of(
            &samples[i], &t->measurements[i],
            &(const struct td_plan_tables){t->devices, t->n_devices, t->models, t->n_models}));
    int code = TD_ENOMEM;
    for (uint32_t k = 1; code != TD_OK; k++) {
        struct td_plan_fit *fit;
        n_until_failure = k;
        code = td_plan_fit_open(&fit, &td_plan_prior, samples, 3, false, &err);
        n_until_failure = 0;
        assert_true(code == TD_OK || (code == TD_ENOMEM && !fit));
        td_plan_fit_close(fit);
        assert_true(k < 20);
    }
    free(t);
}

static void test_validating(void **state)
{
    (void)state;
    struct tables *t = read_tables();
    struct td_plan_checked checked[60];
    struct td_plan_summary s;
    uint32_t n = 0;
    int code = TD_ENOMEM;
    for (uint32_t k = 1; code != TD_OK; k++) {
        n_until_failure = k;
        code = td_plan_validate(
            checked, &n, &td_plan_prior, t->measurements, 60,
            &(const struct td_plan_tables){t->devices, t->n_devices, t->models, t->n_models}, &err);
        n_until_failure = 0;
        assert_true(code == TD_OK || code == TD_ENOMEM);
        assert_true(k < 100);
    }
    for (uint32_t k = 1; k <= 3; k++) {
        n_until_failure = k;
        code = td_plan_summarize(&s, checked, n, TD_PLAN_EVERYTHING, NULL, NULL, &err);
        n_until_failure = 0;
        assert_int_equal(code, k < 3 ? TD_ENOMEM : TD_OK);
    }
    free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reading),
        cmocka_unit_test(test_fitting),
        cmocka_unit_test(test_validating),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
