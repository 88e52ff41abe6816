// SPDX-License-Identifier: MIT
// Arbitrary bytes as each of the planner's files: the first byte says which. What is accepted must
// be a number of rows that fit, finite and in range, and give predictions that are no nonsense.
#include "app/plan_own.h"
#include "plan/csv.h"
#include "plan/plan.h"
#include "plan/validate.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MAX_ROWS 64

static struct td_plan_device devices[MAX_ROWS];
static struct td_plan_model models[MAX_ROWS];
static struct td_plan_measurement rows[MAX_ROWS];
static struct td_own_row own[MAX_ROWS];
static struct td_csv csv;

static void check_device(const struct td_plan_device *d)
{
    if (!(d->flop_per_s >= 0) || !(d->bytes_per_s >= 0) || isinf(d->memory_bytes)) abort();
    if (!memchr(d->name, 0, sizeof(d->name))) abort();
}

// A shape that was read can be priced, and its time is no negative number.
static void check_model(const struct td_plan_model *m)
{
    struct td_plan_cost cost;
    struct td_plan_rates rates;
    memcpy(rates.log, td_plan_prior.mean, sizeof(rates.log));
    if (td_plan_cost_of(&cost, m, "Q4_K_M", 0, NULL) != TD_OK) return;
    const struct td_plan_test test = {true, 512, 100, 1, 512};
    const double seconds = td_plan_test_time(NULL, &cost, &td_plan_unknown_device, &rates, &test);
    if (seconds < 0) abort();
}

static void read_csv(const char *text, size_t n)
{
    if (td_csv_open(&csv, "fuzz.csv", text, n, NULL) != TD_OK) return;
    int code = 1;
    for (int i = 0; i < 1000 && code == 1; i++) {
        code = td_csv_next(&csv, NULL);
        double v;
        if (code == 1 && td_csv_number(&csv, csv.columns[0], 1, &v, NULL) == TD_OK && !isfinite(v))
            abort();
    }
}

static void read_own(const char *text, size_t n)
{
    struct td_plan_device d;
    struct td_plan_context context;
    uint32_t n_rows = 0;
    if (td_own_read(own, MAX_ROWS, &n_rows, &d, "fuzz.json", text, n, NULL) != TD_OK) return;
    if (n_rows > MAX_ROWS) abort();
    check_device(&d);
    if (!(d.flop_per_s > 0) || !(d.bytes_per_s > 0)) abort();
    td_own_context(&context, &d, "MXFP4", "x", TD_PLAN_MOE, 64);
    for (uint32_t i = 0; i < n_rows; i++)
        if (!(own[i].seconds > 0) || !(own[i].test.n_tokens >= 1)) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1) return 0;
    const char *text = (const char *)data + 1;
    const size_t n = size - 1;
    uint32_t n_rows = 0;
    switch (data[0] % 5) {
    case 0: read_csv(text, n); break;
    case 1:
        if (td_plan_read_devices(devices, MAX_ROWS, &n_rows, text, n, NULL) == TD_OK)
            for (uint32_t i = 0; i < n_rows; i++) check_device(&devices[i]);
        break;
    case 2:
        if (td_plan_read_models(models, MAX_ROWS, &n_rows, text, n, NULL) == TD_OK)
            for (uint32_t i = 0; i < n_rows; i++) check_model(&models[i]);
        break;
    case 3:
        if (td_plan_read_measurements(rows, MAX_ROWS, &n_rows, "fuzz.csv", text, n, NULL) == TD_OK)
            for (uint32_t i = 0; i < n_rows; i++)
                if (!(rows[i].tokens_per_s >= 0)) abort();
        break;
    case 4: read_own(text, n); break;
    }
    return n_rows > MAX_ROWS ? -1 : 0;
}
