// SPDX-License-Identifier: MIT
// The tables of data/, read for the planner's tests (which run in the source folder).
#ifndef TD_TESTS_PLAN_TABLES_H
#define TD_TESTS_PLAN_TABLES_H

#include "plan/validate.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

struct tables {
    struct td_plan_device devices[TD_PLAN_MAX_DEVICES];
    struct td_plan_model models[TD_PLAN_MAX_MODELS];
    struct td_plan_measurement measurements[TD_PLAN_MAX_MEASUREMENTS];
    uint32_t n_devices, n_models, n_measurements;
};

static inline char *read_text(const char *path, size_t *n_bytes)
{
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    char *text = malloc(1 << 20);
    assert_non_null(text);
    *n_bytes = fread(text, 1, 1 << 20, f);
    fclose(f);
    return text;
}

static inline struct tables *read_tables(void)
{
    struct td_error err;
    size_t n;
    struct tables *t = calloc(1, sizeof(*t));
    assert_non_null(t);
    char *text = read_text("data/devices.csv", &n);
    assert_int_equal(
        td_plan_read_devices(t->devices, TD_PLAN_MAX_DEVICES, &t->n_devices, text, n, &err), TD_OK);
    free(text);
    text = read_text("data/models.csv", &n);
    assert_int_equal(
        td_plan_read_models(t->models, TD_PLAN_MAX_MODELS, &t->n_models, text, n, &err), TD_OK);
    free(text);
    text = read_text("data/measurements.csv", &n);
    assert_int_equal(td_plan_read_measurements(t->measurements, TD_PLAN_MAX_MEASUREMENTS,
                                               &t->n_measurements, "measurements.csv", text, n,
                                               &err),
                     TD_OK);
    free(text);
    return t;
}

#endif
