// SPDX-License-Identifier: MIT
// One's own machine for the planner: what `tandem probe -o` and `tandem bench -o json` wrote.
#ifndef TD_APP_PLAN_OWN_H
#define TD_APP_PLAN_OWN_H

#include "plan/fit.h"

#define TD_OWN_MAX_ROWS 512

// A measurement of tandem itself.
struct td_own_row {
    char model[256];              // file or synth:NAME
    struct td_plan_device device; // the machine at that time
    struct td_plan_test test;
    double seconds;
    uint32_t number; // in its file, from 1
};

// Reads a file's text (data, n_bytes): the object of a probe (then *n_out is 0) or the list of a
// bench. device: the machine, of a bench as its first row has it; memory_bytes is 0 when the file
// does not say. name: of the file, for errors. Fails: TD_EFORMAT, with the row and the field;
// TD_ENOMEM.
int td_own_read(struct td_own_row *rows, uint32_t cap, uint32_t *n_out,
                struct td_plan_device *device, const char *name, const char *data, size_t n_bytes,
                struct td_error *err) TD_MUST_CHECK;

// A probed machine's bytes_per_s is this many times what its probe read, and the prior of
// td_own_prior takes that back: a nameplate is a ceiling of the formula, a measurement is not.
#define TD_OWN_HEADROOM 1.5
void td_own_prior(struct td_plan_prior *out);

// What predictions of probed machines share: the engine is the same on all of them, and the machine
// is in its measured rates, so only what is left over is a machine's own.
void td_own_context(struct td_plan_context *out, const struct td_plan_device *device,
                    const char *quant, const char *model, enum td_plan_kind kind,
                    uint32_t head_dim);

#endif
