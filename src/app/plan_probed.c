// SPDX-License-Identifier: MIT
// Machines that tandem has measured itself: the engine's own calibration, joined by what a user's
// bench says, and how well that predicts.
#include "app/app.h"
#include "app/cost.h"
#include "app/data.h"
#include "app/json.h"
#include "app/plan_impl.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MAX_FILE_BYTES (16u << 20)

// A repeated run of one's own machine differs by so much (logarithm).
#define OWN_NOISE 0.02

// The model of a row, priced; rows of one model follow each other.
struct priced {
    char name[256];
    char quant[32];
    uint32_t head_dim;
    struct td_plan_cost cost;
};

static int price(struct priced *p, const char *name, struct td_error *err)
{
    if (strcmp(p->name, name) == 0) return TD_OK;
    const int code = td_cost_of_file(&p->cost, &p->head_dim, p->quant, sizeof(p->quant), name, err);
    if (code == TD_OK) snprintf(p->name, sizeof(p->name), "%s", name);
    return code;
}

static void sample_of(struct td_plan_sample *s, const struct td_own_row *row,
                      const struct priced *p)
{
    *s = (struct td_plan_sample){.cost = p->cost,
                                 .device = row->device,
                                 .test = row->test,
                                 .seconds = row->seconds,
                                 .noise = OWN_NOISE};
    td_own_context(&s->context, &row->device, p->quant, row->model, p->cost.kind, p->head_dim);
}

static int add_rows(struct td_world *w, const struct td_own_row *rows, uint32_t n,
                    struct td_error *err)
{
    struct priced p = {.name = ""};
    for (uint32_t i = 0; i < n; i++) {
        if (w->n_own == TD_OWN_MAX_ROWS)
            return td_fail(err, TD_EARG, "more than %u own measurements", TD_OWN_MAX_ROWS);
        const int code = price(&p, rows[i].model, err);
        if (code != TD_OK) return code;
        sample_of(&w->own[w->n_own++], &rows[i], &p);
    }
    return TD_OK;
}

static int read_file(struct td_own_row *rows, uint32_t *n, struct td_plan_device *device,
                     const char *path, struct td_error *err)
{
    char *text;
    size_t n_bytes;
    int code = td_app_read_file(path, MAX_FILE_BYTES, &text, &n_bytes, err);
    if (code != TD_OK) return code;
    code = td_own_read(rows, TD_OWN_MAX_ROWS, n, device, path, text, n_bytes, err);
    free(text);
    return code;
}

bool td_own_is_file(const char *path)
{
    const size_t len = strlen(path);
    return len > 5 && strcmp(path + len - 5, ".json") == 0;
}

int td_world_own(struct td_world *w, const char *path, const struct td_plan_device **device_out,
                 struct td_error *err)
{
    if (w->n_own_devices == TD_PLAN_MAX_OWN)
        return td_fail(err, TD_EARG, "more than %d files of own measurements", TD_PLAN_MAX_OWN);
    struct td_own_row *rows = malloc(TD_OWN_MAX_ROWS * sizeof(*rows));
    if (!rows) return td_fail(err, TD_ENOMEM, "no memory for %.100s", path);
    uint32_t n = 0;
    struct td_plan_device *d = &w->own_devices[w->n_own_devices++];
    int code = read_file(rows, &n, d, path, err);
    if (code == TD_OK) code = add_rows(w, rows, n, err);
    free(rows);
    // A bench does not always say how much memory there is: then nothing is said to be too large.
    if (code == TD_OK && d->memory_bytes <= 0) d->memory_bytes = 1e15;
    if (device_out) *device_out = d;
    return code;
}

int td_world_own_fit(struct td_world *w, struct td_error *err)
{
    if (w->own_fit) return TD_OK;
    struct td_own_row *rows = malloc(TD_OWN_MAX_ROWS * sizeof(*rows));
    if (!rows) return td_fail(err, TD_ENOMEM, "no memory for the engine's calibration");
    uint32_t n = 0;
    struct td_plan_device d;
    int code = td_own_read(rows, TD_OWN_MAX_ROWS, &n, &d, "engine.json",
                           (const char *)td_data_engine, td_data_engine_bytes, err);
    if (code == TD_OK) code = add_rows(w, rows, n, err);
    free(rows);
    if (code != TD_OK) return code;
    struct td_plan_prior prior;
    td_own_prior(&prior);
    return td_plan_fit_open(&w->own_fit, &prior, w->own, w->n_own, false, err);
}

struct checked {
    const struct td_own_row *row;
    double tokens_per_s, low, high, error; // predicted
};

static int by_error(const void *a, const void *b)
{
    const double x = ((const struct checked *)a)->error, y = ((const struct checked *)b)->error;
    return x < y ? -1 : x > y;
}

static void print_rows(const struct checked *c, uint32_t n)
{
    printf("%-40s %-2s %6s %6s %10s %10s %8s  %s\n", "model", "", "tokens", "depth", "measured",
           "predicted", "error", "90 % interval");
    for (uint32_t i = 0; i < n; i++) {
        const struct td_own_row *r = c[i].row;
        const char *slash = strrchr(r->model, '/');
        printf("%-40.40s %-2s %6.0f %6.0f %10.2f %10.2f %+6.1f %%  %.2f-%.2f\n",
               slash ? slash + 1 : r->model, r->test.is_prefill ? "pp" : "tg", r->test.n_tokens,
               r->test.depth_tokens, r->test.n_tokens / r->seconds, c[i].tokens_per_s,
               100 * (c[i].tokens_per_s * r->seconds / r->test.n_tokens - 1), c[i].low, c[i].high);
    }
}

// c is sorted on the way.
static void print_summary(struct checked *c, uint32_t n, bool is_json)
{
    json_t *rows = json_array(), *out = json_object();
    uint32_t n_inside = 0;
    for (uint32_t i = 0; i < n; i++) {
        const struct td_own_row *r = c[i].row;
        const double measured = r->test.n_tokens / r->seconds;
        json_t *one = json_object();
        td_json_bytes(one, "model", r->model, strlen(r->model));
        td_json_text(one, "test", r->test.is_prefill ? "pp" : "tg");
        td_json_f64(one, "tokens", r->test.n_tokens);
        td_json_f64(one, "depth", r->test.depth_tokens);
        td_json_f64(one, "measured", measured);
        td_json_f64(one, "predicted", c[i].tokens_per_s);
        td_json_f64(one, "low", c[i].low);
        td_json_f64(one, "high", c[i].high);
        td_json_f64(one, "error", c[i].tokens_per_s / measured - 1);
        json_array_append_new(rows, one);
        n_inside += measured >= c[i].low && measured <= c[i].high;
    }
    qsort(c, n, sizeof(*c), by_error);
    const double median = (c[(n - 1) / 2].error + c[n / 2].error) / 2;
    td_json_u64(out, "n", n);
    td_json_f64(out, "median_ape", median);
    td_json_f64(out, "largest_ape", c[n - 1].error);
    td_json_f64(out, "covered_by_90", (double)n_inside / n);
    json_object_set_new(out, "rows", rows);
    if (is_json) {
        (void)td_json_print(stdout, out, JSON_INDENT(1));
        return;
    }
    json_decref(out);
    printf(
        "\n%u rows: error %.1f %% in the median, %.1f %% at most; %u inside of their intervals\n",
        n, 100 * median, 100 * c[n - 1].error, n_inside);
}

static int check(struct checked *c, const struct td_world *w, const struct td_own_row *rows,
                 uint32_t n, const struct td_plan_device *machine, struct td_error *err)
{
    struct priced p = {.name = ""};
    struct td_plan_answer a;
    struct td_plan_sample s;
    for (uint32_t i = 0; i < n; i++) {
        const int code = price(&p, rows[i].model, err);
        if (code != TD_OK) return code;
        sample_of(&s, &rows[i], &p);
        const struct td_plan_device *d = machine ? machine : &rows[i].device;
        td_plan_fit_answer(&a, w->own_fit, &s.cost, d, &s.context, &s.test);
        const double measured = s.test.n_tokens / s.seconds;
        c[i] = (struct checked){.row = &rows[i],
                                .tokens_per_s = s.test.n_tokens / a.seconds,
                                .low = s.test.n_tokens / a.high,
                                .high = s.test.n_tokens / a.low};
        c[i].error = fabs(c[i].tokens_per_s / measured - 1);
    }
    return TD_OK;
}

int td_plan_validate_own_cmd(const struct td_config *cfg, struct td_world *w)
{
    struct td_error err = {0};
    const char *path = td_opt_text(cfg, TD_OPT_VALIDATE);
    const char *machines = td_opt_text(cfg, TD_OPT_MACHINES);
    const struct td_plan_device *machine = NULL;
    struct td_plan_device d;
    uint32_t n = 0;
    struct td_own_row *rows = malloc(TD_OWN_MAX_ROWS * sizeof(*rows));
    struct checked *c = malloc(TD_OWN_MAX_ROWS * sizeof(*c));
    if (!rows || !c) {
        free(rows);
        free(c);
        (void)td_fail(&err, TD_ENOMEM, "no memory to validate %.100s", path);
        return td_app_fail(&err);
    }
    int code = read_file(rows, &n, &d, path, &err);
    if (code == TD_OK && n == 0)
        code = td_fail(&err, TD_EARG, "%.100s holds no measurements: it is of a probe", path);
    if (code == TD_OK && td_opt_is_set(cfg, TD_OPT_MACHINES))
        code = td_own_is_file(machines)
                   ? td_world_own(w, machines, &machine, &err)
                   : td_fail(&err, TD_EARG, "--machines: here a file of `tandem probe -o`");
    if (code == TD_OK) code = td_world_own_fit(w, &err);
    if (code == TD_OK) code = check(c, w, rows, n, machine, &err);
    if (code == TD_OK) {
        const bool is_json = td_opt_choice(cfg, TD_OPT_PLAN_FORM) == TD_PLAN_JSON;
        if (!is_json) print_rows(c, n);
        print_summary(c, n, is_json);
    }
    free(rows);
    free(c);
    return code == TD_OK ? TD_EXIT_OK : td_app_fail(&err);
}
