// SPDX-License-Identifier: MIT
// `tandem plan --validate` and `--calibrate`: how good predictions are, and the file they come
// from.
#include "app/app.h"
#include "app/json.h"
#include "app/plan_impl.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MAX_FILE_BYTES (16u << 20)

struct check {
    struct td_plan_measurement measurements[TD_PLAN_MAX_MEASUREMENTS];
    struct td_plan_checked checked[TD_PLAN_MAX_MEASUREMENTS];
    uint32_t n_measurements, n;
};

static const struct {
    enum td_plan_subset subset;
    const char *name, *title;
} subsets[] = {
    {TD_PLAN_DECODE, "decode", "decode, one sequence"},
    {TD_PLAN_PREFILL, "prefill", "prefill"},
    {TD_PLAN_BATCHED, "batched_decode", "decode, batched"},
    {TD_PLAN_SMALL_CHUNKS, "small_chunk_prefill", "prefill, small chunks"},
    {TD_PLAN_ALL_DECODE, "all_decode", "all decode"},
    {TD_PLAN_ALL_PREFILL, "all_prefill", "all prefill"},
    {TD_PLAN_EVERYTHING, "all", "all"},
};
#define N_SUBSETS (sizeof(subsets) / sizeof(subsets[0]))

// Cannot fail but for memory, which then was there a moment ago: an empty summary says so.
static struct td_plan_summary summary_of(const struct check *k, enum td_plan_subset subset,
                                         const char *device, const char *backend)
{
    struct td_plan_summary s;
    (void)!td_plan_summarize(&s, k->checked, k->n, subset, device, backend, NULL);
    return s;
}

static json_t *summary_json(const struct td_plan_summary *s)
{
    json_t *out = json_object();
    td_json_u64(out, "n", s->n);
    td_json_u64(out, "n_skipped", s->n_skipped);
    td_json_f64(out, "median_ape", s->median_error);
    td_json_f64(out, "p90_ape", s->p90_error);
    td_json_f64(out, "covered_by_90", s->covered);
    td_json_f64(out, "median_half_width", s->half_width);
    return out;
}

static bool is_first_of_group(const struct check *k, uint32_t i)
{
    const struct td_plan_measurement *m = k->checked[i].measurement;
    for (uint32_t j = 0; j < i; j++)
        if (strcmp(k->checked[j].measurement->device, m->device) == 0 &&
            strcmp(k->checked[j].measurement->backend, m->backend) == 0)
            return false;
    return true;
}

static void print_check_json(const struct check *k)
{
    json_t *out = json_object(), *groups = json_array(), *skipped = json_array();
    json_t *rows = json_array();
    for (size_t i = 0; i < N_SUBSETS; i++) {
        const struct td_plan_summary s = summary_of(k, subsets[i].subset, NULL, NULL);
        json_object_set_new(out, subsets[i].name, summary_json(&s));
    }
    for (uint32_t i = 0; i < k->n; i++) {
        const struct td_plan_checked *c = &k->checked[i];
        const struct td_plan_measurement *m = c->measurement;
        json_t *row = json_object();
        td_json_u64(row, "line", m->line);
        td_json_f64(row, "tokens_per_s", m->tokens_per_s);
        if (c->skipped) {
            json_t *one = json_object();
            td_json_u64(one, "line", m->line);
            td_json_bytes(one, "model", m->model, strlen(m->model));
            td_json_text(one, "reason", c->skipped);
            json_array_append_new(skipped, one);
            td_json_text(row, "skipped", c->skipped);
        } else {
            td_json_f64(row, "predicted", c->tokens_per_s);
            td_json_f64(row, "low", c->low);
            td_json_f64(row, "high", c->high);
        }
        td_json_f64(row, "ape", c->error);
        json_array_append_new(rows, row);
        if (!is_first_of_group(k, i)) continue;
        json_t *group = json_object();
        td_json_bytes(group, "device", m->device, strlen(m->device));
        td_json_bytes(group, "backend", m->backend, strlen(m->backend));
        for (size_t j = 0; j < 4; j++) {
            const struct td_plan_summary s =
                summary_of(k, subsets[j].subset, m->device, m->backend);
            if (s.n > 0) json_object_set_new(group, subsets[j].name, summary_json(&s));
        }
        json_array_append_new(groups, group);
    }
    uint32_t n_tests;
    const double spread = td_plan_repeat_spread(k->checked, k->n, &n_tests);
    json_t *repeated = json_object();
    td_json_u64(repeated, "n_tests", n_tests);
    td_json_f64(repeated, "median_half_spread", spread);
    json_object_set_new(out, "repeated", repeated);
    json_object_set_new(out, "groups", groups);
    json_object_set_new(out, "skipped", skipped);
    json_object_set_new(out, "rows", rows);
    (void)td_json_print(stdout, out, JSON_INDENT(1));
}

static void print_check(const struct check *k)
{
    uint32_t n_tests;
    const double spread = td_plan_repeat_spread(k->checked, k->n, &n_tests);
    puts("Every model left out in turn, everything fitted again, the left-out speeds predicted.\n");
    printf("%-24s %5s %8s %8s %8s %11s %8s\n", "", "rows", "median", "90 %", "inside", "half width",
           "skipped");
    for (size_t i = 0; i < N_SUBSETS; i++) {
        const struct td_plan_summary s = summary_of(k, subsets[i].subset, NULL, NULL);
        printf("%-24s %5u %7.1f%% %7.1f%% %7.1f%% %10.1f%% %8u\n", subsets[i].title, s.n,
               100 * s.median_error, 100 * s.p90_error, 100 * s.covered, 100 * s.half_width,
               s.n_skipped);
    }
    printf(
        "\nThe same test measured more than once (%u tests) differs by +-%.1f %% in the median.\n"
        "Inside: of the interval that should hold 90 %%; half width: its median.\n",
        n_tests, 100 * spread);
    for (uint32_t i = 0; i < k->n; i++)
        if (k->checked[i].skipped)
            printf("skipped: line %u, %s: %s\n", k->checked[i].measurement->line,
                   k->checked[i].measurement->model, k->checked[i].skipped);
}

int td_plan_validate_cmd(const struct td_config *cfg, struct td_world *w)
{
    struct td_error err = {0};
    const char *path = td_opt_text(cfg, TD_OPT_VALIDATE);
    char *text = NULL;
    size_t n_bytes = 0;
    struct check *k = calloc(1, sizeof(*k));
    if (!k) {
        (void)td_fail(&err, TD_ENOMEM, "no memory to validate");
        return td_app_fail(&err);
    }
    int code = td_app_read_file(path, MAX_FILE_BYTES, &text, &n_bytes, &err);
    if (code == TD_OK)
        code = td_plan_read_measurements(k->measurements, TD_PLAN_MAX_MEASUREMENTS,
                                         &k->n_measurements, path, text, n_bytes, &err);
    if (code == TD_OK)
        code = td_plan_validate(
            k->checked, &k->n, &td_plan_prior, k->measurements, k->n_measurements,
            &(const struct td_plan_tables){w->devices, w->n_devices, w->models, w->n_models}, &err);
    if (code == TD_OK && k->n == 0)
        code = td_fail(&err, TD_EARG, "%.160s: no row has use_in_fit 1 or 2", path);
    if (code == TD_OK) {
        if ((enum td_plan_form)td_opt_choice(cfg, TD_OPT_PLAN_FORM) == TD_PLAN_JSON)
            print_check_json(k);
        else
            print_check(k);
    }
    free(text);
    free(k);
    return code == TD_OK ? TD_EXIT_OK : td_app_fail(&err);
}

int td_plan_calibrate_cmd(const struct td_config *cfg, struct td_world *w)
{
    struct td_error err = {0};
    const char *path = td_opt_text(cfg, TD_OPT_CALIBRATE);
    struct td_plan_fit *fit;
    const int code = td_plan_fit_open(&fit, &td_plan_prior, w->samples, w->n_samples, false, &err);
    if (code != TD_OK) return td_app_fail(&err);
    FILE *f = fopen(path, "w");
    if (!f) {
        td_plan_fit_close(fit);
        (void)td_fail(&err, TD_EIO, "%.160s: %s", path, td_app_why(errno));
        return td_app_fail(&err);
    }
    char date[16] = "";
    const time_t now = time(NULL);
    struct tm day;
    if (gmtime_r(&now, &day)) (void)strftime(date, sizeof(date), "%Y-%m-%d", &day);
    // residual: log(measured / fitted seconds). The rates are natural logarithms, see
    // docs/GOLDEN-FORMULA.md.
    fprintf(f, "line,date,weight,residual");
    for (int e = 0; e < TD_PLAN_N_EVIDENCES; e++) {
        const char *name = td_plan_evidence_name((enum td_plan_evidence)e);
        fprintf(f, ",%s_floor,%s_faster,%s_slower", name, name, name);
    }
    for (int r = 0; r < TD_PLAN_N_RATES; r++)
        fprintf(f, ",%s", td_plan_rate_name((enum td_plan_rate)r));
    const struct td_plan_sample *s = td_plan_fit_samples(fit);
    for (uint32_t i = 0; i < w->n_samples; i++) {
        const double fitted =
            td_plan_test_time(NULL, &s[i].cost, &s[i].device, &s[i].rates, &s[i].test);
        fprintf(f, "\n%u,%s,%.4f,%.4f", w->lines[i], date, s[i].weight, log(s[i].seconds / fitted));
        for (int e = 0; e < TD_PLAN_N_EVIDENCES; e++)
            fprintf(f, ",%g,%.4f,%.4f", s[i].width[e].floor, s[i].width[e].faster,
                    s[i].width[e].slower);
        for (int r = 0; r < TD_PLAN_N_RATES; r++) fprintf(f, ",%.5f", s[i].rates.log[r]);
    }
    fputc('\n', f);
    td_plan_fit_close(fit);
    if (fclose(f) != 0) {
        (void)td_fail(&err, TD_EIO, "%.160s: cannot be written", path);
        return td_app_fail(&err);
    }
    return TD_EXIT_OK;
}
