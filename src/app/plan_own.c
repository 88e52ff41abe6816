// SPDX-License-Identifier: MIT
// Files of one's own measurements. They may come from anybody: every field is checked.
#include "app/plan_own.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

// A file being read. The first failure stays.
struct reader {
    const char *name;
    uint32_t row; // 0: not in a list
    struct td_error *err;
    int code;
};

static void fail(struct reader *r, const char *field, const char *what)
{
    if (r->code != TD_OK) return;
    char where[32] = "";
    if (r->row) snprintf(where, sizeof(where), ", row %u", r->row);
    r->code = td_fail(r->err, TD_EFORMAT, "%.100s%s: field '%s' %s", r->name, where, field, what);
}

// A number in [low, high]; with_default: low when it is not there.
static double number(struct reader *r, const json_t *object, const char *field, double low,
                     double high, bool with_default)
{
    const json_t *v = json_object_get(object, field);
    if (!v && with_default) return low;
    if (!json_is_number(v)) {
        fail(r, field, v ? "is not a number" : "is missing");
        return low;
    }
    const double x = json_number_value(v);
    if (!(x >= low && x <= high)) {
        fail(r, field, "is out of range");
        return low;
    }
    return x;
}

// Text; what a terminal would obey becomes '?'.
static void text(struct reader *r, const json_t *object, const char *field, char *out,
                 size_t out_bytes)
{
    const char *v = json_string_value(json_object_get(object, field));
    if (!v || v[0] == '\0') {
        fail(r, field, "is missing");
        v = "";
    }
    snprintf(out, out_bytes, "%s", v);
    for (char *p = out; *p; p++)
        if ((unsigned char)*p < 0x20 || (unsigned char)*p >= 0x7f) *p = '?';
}

// rates: where the machine's speeds are, each with a prefix before its name.
static void read_machine(struct td_plan_device *d, struct reader *r, const json_t *object,
                         const json_t *rates, const char *prefix)
{
    char field[64];
    *d = (struct td_plan_device){.vendor = "tandem"};
    text(r, object, "cpu_info", d->name, sizeof(d->name));
    snprintf(field, sizeof(field), "%sint8_ops_per_s", prefix);
    d->flop_per_s = number(r, rates, field, 1e6, 1e18, false);
    snprintf(field, sizeof(field), "%sread_bytes_per_s", prefix);
    d->bytes_per_s = TD_OWN_HEADROOM * number(r, rates, field, 1e6, 1e15, false);
    snprintf(field, sizeof(field), "%smemory_bytes", prefix);
    d->memory_bytes = number(r, object, field, 0, 1e15, true);
}

static void read_row(struct td_own_row *out, struct reader *r, const json_t *row)
{
    *out = (struct td_own_row){.number = r->row};
    read_machine(&out->device, r, row, row, "machine_");
    text(r, row, "model_filename", out->model, sizeof(out->model));
    const double n_prompt = floor(number(r, row, "n_prompt", 0, 1e7, false));
    const double n_gen = floor(number(r, row, "n_gen", 0, 1e7, false));
    if ((n_prompt > 0) == (n_gen > 0)) fail(r, "n_prompt", "and n_gen: one must be 0");
    out->test = (struct td_plan_test){
        .is_prefill = n_prompt > 0,
        .n_tokens = fmax(n_prompt + n_gen, 1),
        .depth_tokens = floor(number(r, row, "n_depth", 0, 1e7, false)),
        .batch = 1,
        .chunk_tokens = floor(number(r, row, "n_ubatch", 1, 1e7, false)),
    };
    out->seconds = out->test.n_tokens / number(r, row, "median_ts", 1e-6, 1e9, false);
}

int td_own_read(struct td_own_row *rows, uint32_t cap, uint32_t *n_out,
                struct td_plan_device *device, const char *name, const char *data, size_t n_bytes,
                struct td_error *err)
{
    struct reader r = {.name = name, .err = err};
    json_error_t where;
    json_t *root = json_loadb(data, n_bytes, 0, &where);
    *n_out = 0;
    if (!root)
        return td_fail(err, TD_EFORMAT, "%.100s, line %d: no JSON: %.80s", name, where.line,
                       where.text);
    if (json_is_object(root)) {
        read_machine(device, &r, root, json_object_get(root, "all_threads"), "");
    } else if (json_is_array(root) && json_array_size(root) > 0) {
        const size_t n = json_array_size(root);
        if (n > cap)
            r.code = td_fail(err, TD_EFORMAT, "%.100s: %zu rows, at most %u", name, n, cap);
        for (size_t i = 0; i < n && r.code == TD_OK; i++) {
            r.row = (uint32_t)i + 1;
            read_row(&rows[i], &r, json_array_get(root, i));
        }
        if (r.code == TD_OK) {
            *device = rows[0].device;
            *n_out = (uint32_t)n;
        }
    } else {
        r.code =
            td_fail(err, TD_EFORMAT,
                    "%.100s is neither of `tandem probe -o` nor of `tandem bench -o json`", name);
    }
    json_decref(root);
    return r.code;
}

void td_own_prior(struct td_plan_prior *out)
{
    *out = td_plan_prior;
    out->mean[TD_PLAN_BAND] -= log(TD_OWN_HEADROOM);
}

void td_own_context(struct td_plan_context *out, const struct td_plan_device *device,
                    const char *quant, const char *model, enum td_plan_kind kind, uint32_t head_dim)
{
    const struct td_plan_names names = {"probed", "tandem CPU", "",    quant,
                                        model,    kind,         false, head_dim};
    td_plan_context_of(out, &names);
    // The effects of a build are those of this very machine. FNV-1a.
    uint32_t h = 2166136261u;
    for (const char *p = device->name; *p; p++) h = (h ^ (uint8_t)*p) * 16777619u;
    out->id[TD_PLAN_BUILD] = h | 1;
}
