// SPDX-License-Identifier: MIT
// `tandem plan -o html`: one file with everything in it. The page computes by itself
// (plan_core.js), from the coefficients that are written here.
#include "app/app.h"
#include "app/data.h"
#include "app/json.h"
#include "app/plan_impl.h"

#include <stdlib.h>
#include <string.h>

static json_t *cost_json(const struct td_plan_cost *c)
{
    json_t *out = json_object();
    td_json_u64(out, "n_layers", c->n_layers);
    td_json_u64(out, "n_full_layers", c->n_full_layers);
    td_json_u64(out, "n_experts", c->n_experts);
    td_json_u64(out, "n_active", c->n_active);
    td_json_u64(out, "window_tokens", c->window_tokens);
    const struct {
        const char *name;
        double value;
    } numbers[] = {
        {"file_bytes", c->file_bytes},
        {"dense_bytes", c->dense_bytes},
        {"expert_bytes", c->expert_bytes},
        {"dense_flop", c->dense_flop},
        {"head_flop", c->head_flop},
        {"expert_flop", c->expert_flop},
        {"attend_flop_full", c->attend_flop_full},
        {"attend_flop_window", c->attend_flop_window},
        {"kv_bytes_full", c->kv_bytes_full},
        {"kv_bytes_window", c->kv_bytes_window},
        {"logits_bytes", c->logits_bytes},
    };
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
        td_json_f64(out, numbers[i].name, numbers[i].value);
    return out;
}

// By machine: a calibration of one's own has other intervals.
static json_t *noise_json(const struct td_plan_belief *b)
{
    json_t *out = json_object();
    td_json_f64(out, "prefill", b->noise_prefill);
    td_json_f64(out, "decode", b->noise_decode);
    json_t *widths = json_array();
    for (int c = 0; c < TD_PLAN_N_CLASSES; c++) {
        json_t *width = json_object();
        td_json_f64(width, "floor", b->width[c].floor);
        td_json_f64(width, "faster", b->width[c].faster);
        td_json_f64(width, "slower", b->width[c].slower);
        json_array_append_new(widths, width);
    }
    json_object_set_new(out, "width", widths);
    td_json_u64(out, "large_chunk", TD_PLAN_LARGE_CHUNK);
    return out;
}

static json_t *machine_json(const struct td_plan_machine *m)
{
    const struct td_plan_device *d = m->device;
    const struct td_plan_belief *b = &m->answer.belief;
    json_t *out = json_object(), *rates = json_array(), *covariance = json_array();
    td_json_text(out, "name", d->name);
    td_json_text(out, "program", m->backend);
    td_json_text(out, "date", m->date);
    td_json_text(out, "doubtful", d->doubtful);
    json_object_set_new(out, "is_measured", json_boolean(m->is_measured));
    // The unknown machine's nameplate stands for one that states none.
    const double flop = d->flop_per_s, bytes = d->bytes_per_s;
    td_json_f64(out, "flop_per_s", flop);
    td_json_f64(out, "bytes_per_s", bytes);
    td_json_f64(out, "usable_bytes", td_plan_usable_bytes(d));
    td_json_f64(out, "power_watt", d->power_watt);
    td_json_f64(out, "price_usd", d->price_usd);
    for (int r = 0; r < TD_PLAN_N_RATES; r++) {
        json_array_append_new(rates, json_real(b->rates.log[r]));
        json_t *row = json_array();
        for (int q = 0; q < TD_PLAN_N_RATES; q++)
            json_array_append_new(row, json_real(b->covariance[r][q]));
        json_array_append_new(covariance, row);
    }
    json_object_set_new(out, "noise", noise_json(b));
    json_object_set_new(out, "rates", rates);
    json_object_set_new(out, "covariance", covariance);
    return out;
}

static json_t *page_json(const struct td_plan_question *q)
{
    json_t *out = json_object(), *goal = json_object(), *link = json_object();
    json_t *machines = json_array(), *names = json_array();
    td_json_text(out, "version", TD_VERSION);
    td_json_bytes(out, "model", q->model, strlen(q->model));
    td_json_text(out, "quant", q->quant);
    td_json_text(out, "calibrated", q->calibrated);
    td_json_u64(out, "n_measurements", q->n_measurements);
    json_object_set_new(out, "cost", cost_json(&q->cost));
    td_json_u64(goal, "prompt", q->goal.prompt_tokens);
    td_json_u64(goal, "answer", q->goal.answer_tokens);
    td_json_u64(goal, "batch", q->goal.batch);
    td_json_u64(goal, "depth", q->goal.depth_tokens);
    td_json_u64(goal, "chunk", q->goal.chunk_tokens);
    json_object_set_new(out, "goal", goal);
    td_json_text(link, "name", q->link_name);
    td_json_f64(link, "bytes_per_s", q->link.bytes_per_s);
    td_json_f64(link, "round_trip_seconds", q->link.round_trip_seconds);
    json_object_set_new(out, "link", link);
    for (uint32_t i = 0; i < q->n_machines; i++)
        json_array_append_new(machines, machine_json(&q->machines[i]));
    json_object_set_new(out, "machines", machines);
    for (int r = 0; r < TD_PLAN_N_RATES; r++)
        json_array_append_new(names, json_string(td_plan_rate_name((enum td_plan_rate)r)));
    json_object_set_new(out, "rate_names", names);
    return out;
}

// JSON inside a script element: no '<', so that nothing in a name can end it.
static void print_data(const char *json)
{
    for (; *json; json++) {
        if (*json == '<')
            fputs("\\u003c", stdout);
        else
            putchar(*json);
    }
}

// Text up to the next "@NAME@" of names (n); returns what is behind it, and which one it was.
static const char *print_until(const char *at, const char *const *names, size_t n, size_t *which)
{
    *which = n;
    for (const char *mark = strchr(at, '@'); mark; mark = strchr(mark + 1, '@')) {
        for (size_t i = 0; i < n; i++) {
            if (strncmp(mark, names[i], strlen(names[i])) != 0) continue;
            fwrite(at, 1, (size_t)(mark - at), stdout);
            *which = i;
            return mark + strlen(names[i]);
        }
    }
    fputs(at, stdout);
    return at + strlen(at);
}

int td_plan_print_page(const struct td_plan_question *q)
{
    static const char *const names[] = {"@STYLE@", "@CORE@", "@VIEW@", "@DATA@"};
    const char *const parts[] = {(const char *)td_data_plan_style, (const char *)td_data_plan_core,
                                 (const char *)td_data_plan_view};
    json_t *data = page_json(q);
    char *json = json_dumps(data, JSON_COMPACT | JSON_REAL_PRECISION(17));
    json_decref(data);
    if (!json) {
        struct td_error err = {0};
        (void)td_fail(&err, TD_ENOMEM, "no memory for the page");
        return td_app_fail(&err);
    }
    size_t which;
    for (const char *at = (const char *)td_data_plan_page; *at;) {
        at = print_until(at, names, 4, &which);
        if (which < 3)
            fputs(parts[which], stdout);
        else if (which == 3)
            print_data(json);
    }
    free(json);
    return fflush(stdout) == 0 && !ferror(stdout) ? TD_EXIT_OK : TD_EXIT_FAIL;
}
