// SPDX-License-Identifier: MIT
// How good are the planner's predictions? Every model in turn is left out, everything is fitted
// again from the measurements of the others, and the left-out speeds are predicted. Pure.
#ifndef TD_PLAN_VALIDATE_H
#define TD_PLAN_VALIDATE_H

#include "plan/fit.h"

// One measurement, predicted by the fit without its model.
struct td_plan_checked {
    const struct td_plan_measurement *measurement;
    const char *skipped; // why there is no prediction; NULL: there is one
    double tokens_per_s; // predicted
    double low, high;    // tokens/s: 90 % interval
    double error;        // |predicted / measured - 1|; 1 when skipped
};

// A machine's nameplate by name; NULL when it is not in the table.
const struct td_plan_device *td_plan_device_named(const struct td_plan_device *devices,
                                                  uint32_t n_devices, const char *name);
const struct td_plan_model *td_plan_model_named(const struct td_plan_model *models,
                                                uint32_t n_models, const char *name);

// The nameplate that stands for a machine that is in no table.
extern const struct td_plan_device td_plan_unknown_device;

// Machines and models to look names up in.
struct td_plan_tables {
    const struct td_plan_device *devices;
    uint32_t n_devices;
    const struct td_plan_model *models;
    uint32_t n_models;
};

// A sample of a measurement; NULL when it can be one, else why not.
const char *td_plan_sample_of(struct td_plan_sample *out, const struct td_plan_measurement *m,
                              const struct td_plan_tables *tables);

// Checks the measurements (n) whose use is 1 or 2; out has room for n. Fails: TD_ENOMEM, TD_EARG
// (fewer than two models).
int td_plan_validate(struct td_plan_checked *out, uint32_t *n_out,
                     const struct td_plan_prior *prior,
                     const struct td_plan_measurement *measurements, uint32_t n,
                     const struct td_plan_tables *tables, struct td_error *err) TD_MUST_CHECK;

// Errors of some of the checked, in fractions.
struct td_plan_summary {
    uint32_t n, n_skipped;
    double median_error, p90_error;
    double covered;    // part of the measurements inside their 90 % interval (skipped: outside)
    double half_width; // median of half the interval's width, as a fraction of the prediction
};
enum td_plan_subset {
    TD_PLAN_DECODE,       // answers, use 1
    TD_PLAN_PREFILL,      // prompts, use 1
    TD_PLAN_BATCHED,      // answers, use 2
    TD_PLAN_SMALL_CHUNKS, // prompts, use 2
    TD_PLAN_ALL_DECODE,   // answers
    TD_PLAN_ALL_PREFILL,  // prompts
    TD_PLAN_EVERYTHING,
    TD_PLAN_N_SUBSETS
};
// device, backend: only of these, NULL: of all. Fails: TD_ENOMEM.
int td_plan_summarize(struct td_plan_summary *out, const struct td_plan_checked *checked,
                      uint32_t n, enum td_plan_subset subset, const char *device,
                      const char *backend, struct td_error *err) TD_MUST_CHECK;

// How far measurements of the same test by different people or builds lie apart: the median over
// such tests of half of (largest / smallest - 1); n_tests is how many there are. 0 without any.
double td_plan_repeat_spread(const struct td_plan_checked *checked, uint32_t n, uint32_t *n_tests);

#endif
