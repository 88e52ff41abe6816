// SPDX-License-Identifier: MIT
// Leave one model out, fit, predict it.
#include "plan/validate.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const struct td_plan_device td_plan_unknown_device = {
    .name = "unknown", .flop_per_s = 60e12, .bytes_per_s = 400e9};

const struct td_plan_device *td_plan_device_named(const struct td_plan_device *devices,
                                                  uint32_t n_devices, const char *name)
{
    for (uint32_t i = 0; i < n_devices; i++)
        if (strcmp(devices[i].name, name) == 0) return &devices[i];
    return NULL;
}

const struct td_plan_model *td_plan_model_named(const struct td_plan_model *models,
                                                uint32_t n_models, const char *name)
{
    for (uint32_t i = 0; i < n_models; i++)
        if (strcmp(models[i].name, name) == 0) return &models[i];
    return NULL;
}

const char *td_plan_sample_of(struct td_plan_sample *out, const struct td_plan_measurement *m,
                              const struct td_plan_tables *tables)
{
    const struct td_plan_model *model =
        td_plan_model_named(tables->models, tables->n_models, m->model);
    const struct td_plan_device *device =
        td_plan_device_named(tables->devices, tables->n_devices, m->device);
    const bool is_known = device && device->flop_per_s > 0 && device->bytes_per_s > 0;
    if (!model) return "the shape of this model is not known";
    if (!(m->tokens_per_s > 0)) return "no speed";
    if (m->n_tokens == 0) return "no number of tokens";
    if (m->device[0] == '\0') return "no machine";
    *out = (struct td_plan_sample){.device = is_known ? *device : td_plan_unknown_device};
    if (td_plan_cost_of(&out->cost, model, m->quant, m->file_gib, NULL) != TD_OK)
        return "neither file size nor number format is known";
    const struct td_plan_names names = {m->device, m->backend,  m->date,   m->quant,
                                        m->model,  model->kind, !is_known, model->head_dim};
    td_plan_context_of(&out->context, &names);
    out->test = (struct td_plan_test){.is_prefill = m->is_prefill,
                                      .n_tokens = m->n_tokens,
                                      .depth_tokens = m->depth_tokens,
                                      .batch = m->batch,
                                      .chunk_tokens = m->chunk_tokens ? m->chunk_tokens : 512};
    out->seconds = td_plan_test_tokens(&out->test) / m->tokens_per_s;
    return NULL;
}

static void check(struct td_plan_checked *out, const struct td_plan_fit *fit,
                  const struct td_plan_sample *s)
{
    struct td_plan_answer answer;
    td_plan_fit_answer(&answer, fit, &s->cost, &s->device, &s->context, &s->test);
    const double n_tokens = td_plan_test_tokens(&s->test);
    out->tokens_per_s = n_tokens / answer.seconds;
    out->low = n_tokens / answer.high;
    out->high = n_tokens / answer.low;
    out->error = fabs(out->tokens_per_s / out->measurement->tokens_per_s - 1);
}

// Fits without the model of checked[first] and predicts all of that model.
static int leave_out(struct td_plan_checked *checked, uint32_t first, uint32_t n,
                     const struct td_plan_sample *samples, struct td_plan_sample *kept,
                     const struct td_plan_prior *prior, struct td_error *err)
{
    const char *model = checked[first].measurement->model;
    uint32_t n_kept = 0;
    for (uint32_t i = 0; i < n; i++)
        if (!checked[i].skipped && strcmp(checked[i].measurement->model, model) != 0)
            kept[n_kept++] = samples[i];
    struct td_plan_fit *fit;
    if (n_kept == 0)
        return td_fail(err, TD_EARG, "only one model is measured: leaving it out leaves nothing");
    const int code = td_plan_fit_open(&fit, prior, kept, n_kept, false, err);
    if (code != TD_OK) return code;
    for (uint32_t i = first; i < n; i++)
        if (!checked[i].skipped && strcmp(checked[i].measurement->model, model) == 0)
            check(&checked[i], fit, &samples[i]);
    td_plan_fit_close(fit);
    return TD_OK;
}

int td_plan_validate(struct td_plan_checked *out, uint32_t *n_out,
                     const struct td_plan_prior *prior,
                     const struct td_plan_measurement *measurements, uint32_t n,
                     const struct td_plan_tables *tables, struct td_error *err)
{
    int code = TD_OK;
    uint32_t n_rows = 0;
    struct td_plan_sample *samples = malloc((n + 1) * sizeof(*samples));
    struct td_plan_sample *kept = malloc((n + 1) * sizeof(*kept));
    if (!samples || !kept) {
        code = td_fail(err, TD_ENOMEM, "no memory for %u measurements", n);
        goto end;
    }
    for (uint32_t i = 0; i < n; i++) {
        if (measurements[i].use != 1 && measurements[i].use != 2) continue;
        out[n_rows] = (struct td_plan_checked){.measurement = &measurements[i], .error = 1};
        out[n_rows].skipped = td_plan_sample_of(&samples[n_rows], &measurements[i], tables);
        n_rows++;
    }
    for (uint32_t i = 0; i < n_rows && code == TD_OK; i++) {
        if (out[i].skipped || out[i].tokens_per_s > 0) continue;
        code = leave_out(out, i, n_rows, samples, kept, prior, err);
    }
    if (code == TD_OK) *n_out = n_rows;
end:
    free(samples);
    free(kept);
    return code;
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

// x is sorted on the way.
static double median(double *x, uint32_t n)
{
    if (n == 0) return 0;
    qsort(x, n, sizeof(*x), by_value);
    return (x[(n - 1) / 2] + x[n / 2]) / 2;
}

static bool is_in(const struct td_plan_measurement *m, enum td_plan_subset subset)
{
    switch (subset) {
    case TD_PLAN_DECODE: return !m->is_prefill && m->use == 1;
    case TD_PLAN_PREFILL: return m->is_prefill && m->use == 1;
    case TD_PLAN_BATCHED: return !m->is_prefill && m->use == 2;
    case TD_PLAN_SMALL_CHUNKS: return m->is_prefill && m->use == 2;
    case TD_PLAN_ALL_DECODE: return !m->is_prefill;
    case TD_PLAN_ALL_PREFILL: return m->is_prefill;
    case TD_PLAN_EVERYTHING:
    case TD_PLAN_N_SUBSETS: return true;
    }
    return true;
}

int td_plan_summarize(struct td_plan_summary *out, const struct td_plan_checked *checked,
                      uint32_t n, enum td_plan_subset subset, const char *device,
                      const char *backend, struct td_error *err)
{
    *out = (struct td_plan_summary){0};
    double *errors = malloc((n + 1) * sizeof(*errors)), *widths = malloc((n + 1) * sizeof(*widths));
    uint32_t n_widths = 0, n_covered = 0;
    if (!errors || !widths) {
        free(errors);
        free(widths);
        return td_fail(err, TD_ENOMEM, "no memory for %u errors", n);
    }
    for (uint32_t i = 0; i < n; i++) {
        const struct td_plan_checked *c = &checked[i];
        const struct td_plan_measurement *m = c->measurement;
        if (!is_in(m, subset) || (device && strcmp(device, m->device) != 0) ||
            (backend && strcmp(backend, m->backend) != 0))
            continue;
        errors[out->n++] = c->error;
        out->n_skipped += c->skipped != NULL;
        if (c->skipped) continue;
        n_covered += m->tokens_per_s >= c->low && m->tokens_per_s <= c->high;
        widths[n_widths++] = (c->high - c->low) / 2 / c->tokens_per_s;
    }
    out->median_error = median(errors, out->n);
    // The smallest error that nine tenths do not exceed; errors are sorted now.
    if (out->n > 0) {
        out->p90_error = errors[(9 * out->n + 9) / 10 - 1];
        out->covered = (double)n_covered / out->n;
    }
    out->half_width = median(widths, n_widths);
    free(errors);
    free(widths);
    return TD_OK;
}

static bool is_same_test(const struct td_plan_measurement *a, const struct td_plan_measurement *b)
{
    return a->is_prefill == b->is_prefill && a->n_tokens == b->n_tokens && a->batch == b->batch &&
           a->depth_tokens == b->depth_tokens && a->chunk_tokens == b->chunk_tokens &&
           strcmp(a->device, b->device) == 0 && strcmp(a->backend, b->backend) == 0 &&
           strcmp(a->model, b->model) == 0 && strcmp(a->quant, b->quant) == 0;
}

double td_plan_repeat_spread(const struct td_plan_checked *checked, uint32_t n, uint32_t *n_tests)
{
    double spreads[TD_PLAN_MAX_MEASUREMENTS];
    *n_tests = 0;
    for (uint32_t i = 0; i < n; i++) {
        const struct td_plan_measurement *a = checked[i].measurement;
        double low = a->tokens_per_s, high = low;
        bool is_first = true;
        uint32_t n_same = 0;
        for (uint32_t j = 0; j < n; j++) {
            const struct td_plan_measurement *b = checked[j].measurement;
            if (!(b->tokens_per_s > 0) || !is_same_test(a, b)) continue;
            is_first = is_first && j >= i;
            low = fmin(low, b->tokens_per_s);
            high = fmax(high, b->tokens_per_s);
            n_same++;
        }
        if (is_first && n_same > 1 && *n_tests < TD_PLAN_MAX_MEASUREMENTS)
            spreads[(*n_tests)++] = (high / low - 1) / 2;
    }
    return median(spreads, *n_tests);
}
