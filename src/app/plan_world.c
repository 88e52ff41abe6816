// SPDX-License-Identifier: MIT
// The planner's tables and its calibration: built in, or with a user's measurements.
#include "app/app.h"
#include "app/data.h"
#include "app/plan_impl.h"

#include "plan/csv.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#define MAX_FILE_BYTES (16u << 20)

static const char *text_of(const unsigned char *data)
{
    return (const char *)data;
}

static int read_tables(struct td_world *w, struct td_error *err)
{
    int code = td_plan_read_devices(w->devices, TD_PLAN_MAX_DEVICES, &w->n_devices,
                                    text_of(td_data_devices), td_data_devices_bytes, err);
    if (code == TD_OK)
        code = td_plan_read_models(w->models, TD_PLAN_MAX_MODELS, &w->n_models,
                                   text_of(td_data_models), td_data_models_bytes, err);
    if (code == TD_OK)
        code = td_plan_read_measurements(
            w->measurements, TD_PLAN_MAX_MEASUREMENTS, &w->n_measurements, "measurements.csv",
            text_of(td_data_measurements), td_data_measurements_bytes, err);
    return code;
}

static void make_samples(struct td_world *w)
{
    for (uint32_t i = 0; i < w->n_measurements; i++) {
        const struct td_plan_measurement *m = &w->measurements[i];
        if (m->use != 1 && m->use != 2) continue;
        if (td_plan_sample_of(
                &w->samples[w->n_samples], m,
                &(const struct td_plan_tables){w->devices, w->n_devices, w->models, w->n_models}))
            continue;
        w->lines[w->n_samples++] = m->line;
    }
}

static struct td_plan_sample *sample_of_line(struct td_world *w, double line)
{
    for (uint32_t i = 0; i < w->n_samples; i++)
        if (w->lines[i] == line) return &w->samples[i];
    return NULL;
}

static bool read_width(struct td_plan_width *out, const struct td_csv *csv,
                       enum td_plan_evidence evidence)
{
    const struct {
        const char *column;
        double *value;
    } numbers[] = {{"floor", &out->floor}, {"faster", &out->faster}, {"slower", &out->slower}};
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
        char column[32];
        snprintf(column, sizeof(column), "%s_%s", td_plan_evidence_name(evidence),
                 numbers[i].column);
        if (td_csv_number(csv, column, 0, numbers[i].value, NULL) != TD_OK) return false;
    }
    return out->slower > 0;
}

// Rates and weights of the shipped samples, from data/calibration.csv; false when they are not of
// these samples (then they are fitted here, which takes a second).
static bool read_calibration(struct td_world *w)
{
    struct td_csv *csv = malloc(sizeof(*csv));
    uint32_t n = 0;
    bool is_good = csv && td_csv_open(csv, "calibration.csv", text_of(td_data_calibration),
                                      td_data_calibration_bytes, NULL) == TD_OK;
    while (is_good && td_csv_next(csv, NULL) == 1) {
        double line = 0;
        is_good = td_csv_number(csv, "line", 0, &line, NULL) == TD_OK;
        snprintf(w->calibrated, sizeof(w->calibrated), "%.10s", td_csv_text(csv, "date"));
        struct td_plan_sample *s = sample_of_line(w, line);
        is_good = is_good && s && td_csv_number(csv, "weight", 0, &s->weight, NULL) == TD_OK &&
                  s->weight > 0;
        for (int e = 0; e < TD_PLAN_N_EVIDENCES && is_good; e++)
            is_good = read_width(&s->width[e], csv, (enum td_plan_evidence)e);
        for (int r = 0; r < TD_PLAN_N_RATES && is_good; r++)
            is_good = td_csv_number(csv, td_plan_rate_name((enum td_plan_rate)r), 0,
                                    &s->rates.log[r], NULL) == TD_OK;
        n++;
    }
    free(csv);
    return is_good && n == w->n_samples;
}

int td_world_open(struct td_world **out, bool with_fit, struct td_error *err)
{
    *out = NULL;
    struct td_world *w = calloc(1, sizeof(*w));
    if (!w) return td_fail(err, TD_ENOMEM, "no memory for the planner's tables");
    int code = read_tables(w, err);
    if (code == TD_OK) make_samples(w);
    if (code == TD_OK && with_fit) {
        const bool is_fitted = read_calibration(w);
        code = td_plan_fit_open(&w->fit, &td_plan_prior, w->samples, w->n_samples, is_fitted, err);
    }
    if (code != TD_OK) {
        td_world_close(w);
        return code;
    }
    *out = w;
    return TD_OK;
}

void td_world_close(struct td_world *w)
{
    if (!w) return;
    td_plan_fit_close(w->fit);
    td_plan_fit_close(w->own_fit);
    free(w);
}

int td_world_measured(struct td_world *w, const char *path, struct td_error *err)
{
    char *text;
    size_t n_bytes;
    int code = td_app_read_file(path, MAX_FILE_BYTES, &text, &n_bytes, err);
    if (code != TD_OK) return code;
    const uint32_t first = w->n_measurements;
    uint32_t n = 0;
    code = td_plan_read_measurements(w->measurements + first, TD_PLAN_MAX_MEASUREMENTS - first, &n,
                                     path, text, n_bytes, err);
    free(text);
    for (uint32_t i = first; i < first + n && code == TD_OK; i++) {
        struct td_plan_sample *s = &w->samples[w->n_samples];
        const char *why = td_plan_sample_of(
            s, &w->measurements[i],
            &(const struct td_plan_tables){w->devices, w->n_devices, w->models, w->n_models});
        if (why)
            code = td_fail(err, TD_EARG, "%.100s, line %u: %s", path, w->measurements[i].line, why);
        // One's own machine as it is today, measured with care: worth more than what is published.
        s->noise = 0.02;
        w->n_samples++;
    }
    if (code != TD_OK) return code;
    w->n_measurements += n;
    w->calibrated[0] = '\0';
    td_plan_fit_close(w->fit);
    return td_plan_fit_open(&w->fit, &td_plan_prior, w->samples, w->n_samples, false, err);
}

// Letters and digits of a name, in small letters.
static void letters(char *out, size_t out_bytes, const char *name)
{
    size_t n = 0;
    for (; *name && n + 1 < out_bytes; name++)
        if (isalnum((unsigned char)*name)) out[n++] = (char)tolower((unsigned char)*name);
    out[n] = '\0';
}

// How well a name fits one of a table: 2 the same, 1 a part of it, 0 neither.
static int likeness(const char *known, const char *asked)
{
    char a[80], b[80];
    letters(a, sizeof(a), known);
    letters(b, sizeof(b), asked);
    if (b[0] == '\0' || !strstr(a, b)) return 0;
    return strcmp(a, b) == 0 ? 2 : 1;
}

const struct td_plan_device *td_world_device(const struct td_world *w, const char *name)
{
    for (int wanted = 2; wanted > 0; wanted--)
        for (uint32_t i = 0; i < w->n_devices; i++)
            if (likeness(w->devices[i].name, name) >= wanted) return &w->devices[i];
    return NULL;
}

const struct td_plan_model *td_world_model(const struct td_world *w, const char *name)
{
    for (int wanted = 2; wanted > 0; wanted--)
        for (uint32_t i = 0; i < w->n_models; i++)
            if (likeness(w->models[i].name, name) >= wanted) return &w->models[i];
    return NULL;
}

static const char *usual_backend(const struct td_plan_device *d)
{
    static const struct {
        const char *part, *backend;
    } usual[] = {
        {"EPYC", "llama.cpp CPU"},
        {"Xeon", "llama.cpp CPU"},
        {"Threadripper", "llama.cpp CPU"},
        {"Ryzen 9", "llama.cpp CPU"},
        {"Raspberry", "llama.cpp CPU"},
        {"Apple", "llama.cpp Metal"},
        {"Intel", "llama.cpp Vulkan"},
        {"Radeon", "llama.cpp Vulkan (RADV)"},
        {"Ryzen AI", "llama.cpp Vulkan (RADV)"},
    };
    for (size_t i = 0; i < sizeof(usual) / sizeof(usual[0]); i++)
        if (strstr(d->name, usual[i].part)) return usual[i].backend;
    return "llama.cpp CUDA";
}

bool td_world_is_measured(const struct td_world *w, const struct td_plan_context *context)
{
    const uint32_t id = context->id[TD_PLAN_DEVICE];
    for (uint32_t i = 0; i < w->n_samples && id; i++)
        if (w->samples[i].context.id[TD_PLAN_DEVICE] == id) return true;
    return false;
}

void td_world_backend(const struct td_world *w, const struct td_plan_device *device,
                      const char **backend, const char **date)
{
    *backend = usual_backend(device);
    *date = "";
    for (uint32_t i = 0; i < w->n_measurements; i++) {
        const struct td_plan_measurement *m = &w->measurements[i];
        if ((m->use != 1 && m->use != 2) || strcmp(m->device, device->name) != 0) continue;
        if (strcmp(m->backend, *backend) == 0 && strcmp(m->date, *date) > 0) *date = m->date;
    }
}
