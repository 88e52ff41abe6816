// SPDX-License-Identifier: MIT
// Calibration: the rates of the formula from measured speeds. Every rate of every measurement is
// the sum of effects (of all machines, of its software family, its device, this build, this number
// format ...), each drawn around zero with a known spread; what is looked for is the most likely
// sum for a machine, measured or not, and how far off it may be. Known as kriging or Gaussian
// process regression; the formula is linearised around its own answer and solved again.
// Pure; memory is allocated once by td_plan_fit_open.
#ifndef TD_PLAN_FIT_H
#define TD_PLAN_FIT_H

#include "plan/time.h"

// What two measurements may have in common.
enum td_plan_level {
    TD_PLAN_ALL,
    TD_PLAN_FAMILY,        // CUDA, Metal, Vulkan ...
    TD_PLAN_DEVICE,        // the machine
    TD_PLAN_DEVICE_FAMILY, // both
    TD_PLAN_BACKEND,       // the machine and the program, by name
    TD_PLAN_BUILD,         // and the month
    TD_PLAN_ERA,           // family and half-year
    TD_PLAN_QUANT,         // family and number format
    TD_PLAN_BACKEND_QUANT, // machine, program and number format
    TD_PLAN_KIND,          // family and kind of model: dense, experts, compressed cache
    TD_PLAN_HEAD,          // family and shape of attention's heads
    TD_PLAN_BACKEND_MODEL, // machine, program and model
    TD_PLAN_MODEL,         // model
    TD_PLAN_UNKNOWN,       // a machine of no known nameplate
    TD_PLAN_N_LEVELS
};

struct td_plan_context {
    uint32_t id[TD_PLAN_N_LEVELS]; // equal ids at a level share its effect; 0: shares with nobody
};

// The context of names; any of them may be "" (not known). date: "2025-10-23", or its beginning.
struct td_plan_names {
    const char *device, *backend, *date, *quant, *model;
    enum td_plan_kind kind;
    bool is_device_unknown;
    uint32_t head_dim; // 0: not known
};
void td_plan_context_of(struct td_plan_context *out, const struct td_plan_names *names);

// Tests that are about as hard to foresee.
enum td_plan_class {
    TD_PLAN_CLASS_PREFILL, // in chunks of TD_PLAN_LARGE_CHUNK rows or more
    TD_PLAN_CLASS_SMALL,   // in smaller ones
    TD_PLAN_CLASS_DECODE,  // one answer
    TD_PLAN_CLASS_BATCHED, // several
    TD_PLAN_N_CLASSES
};
#define TD_PLAN_LARGE_CHUNK 256
enum td_plan_class td_plan_class_of(const struct td_plan_test *test);

// What a prediction can lean on: each kind is wrong in a way of its own.
enum td_plan_evidence {
    TD_PLAN_KNOWN,         // other models, measured on this machine with this program
    TD_PLAN_OTHER_PROGRAM, // this machine, with other programs
    TD_PLAN_NEW_MACHINE,   // neither
    TD_PLAN_N_EVIDENCES
};

// Where nine tenths of a class's measurements lie: between seconds / exp(faster * scale) and
// seconds * exp(slower * scale), with scale = sqrt(log_sd^2 + floor^2).
struct td_plan_width {
    double floor, faster, slower;
};
double td_plan_width_scale(const struct td_plan_width *width, double log_sd);

struct td_plan_sample {
    struct td_plan_cost cost;
    struct td_plan_device device;
    struct td_plan_test test;
    struct td_plan_context context;
    double seconds; // measured
    double noise;   // of its logarithm; 0: as measurements usually have
    // Of the calibration: filled by a fit, or read from data/calibration.csv.
    struct td_plan_rates rates;
    double weight;                                   // of 1: how far the fit believes it
    struct td_plan_width width[TD_PLAN_N_EVIDENCES]; // of its class
};

struct td_plan_answer {
    double seconds;   // of the test, most likely
    double log_sd;    // standard deviation of its logarithm, of a new measurement
    double low, high; // seconds: 90 % of new measurements lie between
    struct td_plan_rates rates;
    struct td_plan_parts parts;
};

// What is believed before anything is measured, and how much measurements scatter.
struct td_plan_prior {
    double mean[TD_PLAN_N_RATES];                     // logarithms
    double spread[TD_PLAN_N_RATES][TD_PLAN_N_LEVELS]; // standard deviations
    double noise_prefill, noise_decode;               // of the logarithm of a measured speed
};
extern const struct td_plan_prior td_plan_prior;

// "gemm", "attend" ...: what a rate is called in data/calibration.csv.
const char *td_plan_rate_name(enum td_plan_rate rate);

// "known", "program" or "machine": the beginning of the names of a width's three columns there.
const char *td_plan_evidence_name(enum td_plan_evidence evidence);

struct td_plan_fit;

// Fits samples (n), which are copied. is_fitted: the samples hold rates and weights already, so
// that only the last step is made. Fails: TD_ENOMEM, TD_EARG (n is 0).
int td_plan_fit_open(struct td_plan_fit **out, const struct td_plan_prior *prior,
                     const struct td_plan_sample *samples, uint32_t n, bool is_fitted,
                     struct td_error *err) TD_MUST_CHECK;
void td_plan_fit_close(struct td_plan_fit *fit);

// The samples with their rates and weights, n of open.
const struct td_plan_sample *td_plan_fit_samples(const struct td_plan_fit *fit);

// What a fit knows of a machine's rates, whatever is asked of it.
struct td_plan_belief {
    struct td_plan_rates rates;                          // most likely
    double covariance[TD_PLAN_N_RATES][TD_PLAN_N_RATES]; // of their logarithms
    double noise_prefill, noise_decode;                  // as in td_plan_prior
    enum td_plan_evidence evidence;
    // What holds 90 % of the samples of a class when each model, each machine's program, or each
    // machine in turn is left out of this very fit, whichever leaves the same evidence; where few
    // can be left out as of a normal distribution.
    struct td_plan_width width[TD_PLAN_N_CLASSES];
};
void td_plan_fit_belief(struct td_plan_belief *out, const struct td_plan_fit *fit,
                        const struct td_plan_context *context);

// Predicts one test from what is known of the machine.
void td_plan_belief_answer(struct td_plan_answer *out, const struct td_plan_belief *belief,
                           const struct td_plan_cost *cost, const struct td_plan_device *device,
                           const struct td_plan_test *test);

// Both at once.
void td_plan_fit_answer(struct td_plan_answer *out, const struct td_plan_fit *fit,
                        const struct td_plan_cost *cost, const struct td_plan_device *device,
                        const struct td_plan_context *context, const struct td_plan_test *test);

#endif
