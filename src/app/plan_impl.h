// SPDX-License-Identifier: MIT
// What the parts of `tandem plan` share: the tables, the calibration, and the question.
#ifndef TD_APP_PLAN_IMPL_H
#define TD_APP_PLAN_IMPL_H

#include "app/config.h"
#include "app/plan_own.h"
#include "base/status.h"
#include "plan/plan.h"
#include "plan/validate.h"

#include <jansson.h>
#include <stdio.h>

#define TD_PLAN_MAX_ASKED 64
#define TD_PLAN_MAX_OWN   16

struct td_world {
    struct td_plan_device devices[TD_PLAN_MAX_DEVICES];
    uint32_t n_devices;
    struct td_plan_model models[TD_PLAN_MAX_MODELS];
    uint32_t n_models;
    struct td_plan_measurement measurements[TD_PLAN_MAX_MEASUREMENTS];
    uint32_t n_measurements;
    struct td_plan_sample samples[TD_PLAN_MAX_MEASUREMENTS];
    uint32_t lines[TD_PLAN_MAX_MEASUREMENTS]; // of the samples, in measurements.csv
    uint32_t n_samples;
    char calibrated[16]; // the day; "" when it was done just now
    struct td_plan_fit *fit;
    // Machines that tandem has measured itself: apart, as the engine is another program and their
    // figures are measured ones.
    struct td_plan_device own_devices[TD_PLAN_MAX_OWN];
    uint32_t n_own_devices;
    struct td_plan_sample own[TD_OWN_MAX_ROWS];
    uint32_t n_own;
    struct td_plan_fit *own_fit;
};

enum td_plan_form { TD_PLAN_TEXT, TD_PLAN_MD, TD_PLAN_JSON, TD_PLAN_HTML };

struct td_plan_machine {
    const struct td_plan_device *device;
    const char *backend, *date;    // that its predictions are for
    bool is_measured;              // somebody has measured this machine
    const struct td_plan_fit *fit; // that they come from
    struct td_plan_context context;
    struct td_plan_single answer;
};

struct td_plan_question {
    enum td_plan_form form;
    char model[64], quant[32];
    enum td_plan_kind kind;
    uint32_t head_dim;
    struct td_plan_cost cost;
    struct td_plan_goal goal;
    struct td_plan_machine machines[TD_PLAN_MAX_ASKED];
    uint32_t n_machines;
    bool has_link;
    struct td_plan_link link;
    char link_name[24];
    char calibrated[16]; // the day
    uint32_t n_measurements;
};

// The tables that are built in. with_fit: also the calibration. *out is the caller's to close.
int td_world_open(struct td_world **out, bool with_fit, struct td_error *err) TD_MUST_CHECK;
void td_world_close(struct td_world *world);
// Fits the samples again, and then the measurements of a user's file with them.
int td_world_measured(struct td_world *world, const char *path, struct td_error *err) TD_MUST_CHECK;

// Whether a name is that of a file of one's own measurements, by its end.
bool td_own_is_file(const char *path);
// Reads a file of `tandem probe -o` or `tandem bench -o json`: its machine (may be NULL), and its
// rows as samples of td_world_own_fit.
int td_world_own(struct td_world *world, const char *path, const struct td_plan_device **device_out,
                 struct td_error *err) TD_MUST_CHECK;
// Fits what ships of the engine and all that td_world_own has read, once.
int td_world_own_fit(struct td_world *world, struct td_error *err) TD_MUST_CHECK;

// The table's row whose name holds these words, letters and digits only; the first of several.
const struct td_plan_device *td_world_device(const struct td_world *world, const char *name);
const struct td_plan_model *td_world_model(const struct td_world *world, const char *name);

// The program whose speeds are known or likely on a device, and when it was measured last.
void td_world_backend(const struct td_world *world, const struct td_plan_device *device,
                      const char **backend, const char **date);

// Whether a sample is of this machine, with any program.
bool td_world_is_measured(const struct td_world *world, const struct td_plan_context *context);

int td_plan_ask(struct td_plan_question *q, struct td_world *world, const struct td_config *cfg,
                struct td_error *err) TD_MUST_CHECK;

void td_plan_print(const struct td_plan_question *q, const struct td_config *cfg);
// The page; returns an exit code.
int td_plan_print_page(const struct td_plan_question *q);
// Boxes that hold the model together; false when there are none.
bool td_plan_print_boxes(const struct td_plan_question *q);
json_t *td_plan_boxes_json(const struct td_plan_question *q);
void td_plan_print_parts(const struct td_plan_question *q);

int td_plan_golden_cmd(const struct td_config *cfg, const struct td_plan_question *q);
int td_plan_validate_own_cmd(const struct td_config *cfg, struct td_world *world);
int td_plan_validate_cmd(const struct td_config *cfg, struct td_world *world);
int td_plan_calibrate_cmd(const struct td_config *cfg, struct td_world *world);
int td_plan_table_cmd(const struct td_config *cfg, struct td_world *world);

#endif
