// SPDX-License-Identifier: MIT
// `tandem plan`: models that no machine holds alone, on two to four boxes.
#include "app/app.h"
#include "app/json.h"
#include "app/plan_impl.h"

#include "plan/cluster.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

// Some boxes together, by the machines of the question; the same one may be there several times.
struct boxes {
    const struct td_plan_machine *machines[TD_PLAN_MAX_BOXES];
    uint32_t n;
};

static void plan(struct td_plan_cluster *out, const struct td_plan_question *q,
                 const struct boxes *b, enum td_plan_cut cut)
{
    const struct td_plan_device *devices[TD_PLAN_MAX_BOXES];
    const struct td_plan_single *answers[TD_PLAN_MAX_BOXES];
    for (uint32_t i = 0; i < b->n; i++) {
        devices[i] = b->machines[i]->device;
        answers[i] = &b->machines[i]->answer;
    }
    td_plan_cluster(out, cut, &q->cost, devices, answers, b->n, &q->link, &q->goal);
}

typedef void boxes_fn(void *ctx, const struct td_plan_question *q, const struct boxes *b,
                      enum td_plan_cut cut, const struct td_plan_cluster *c);

static void both_cuts(const struct td_plan_question *q, const struct boxes *b, boxes_fn *fn,
                      void *ctx)
{
    struct td_plan_cluster c;
    plan(&c, q, b, TD_PLAN_BY_LAYERS);
    if (c.fits) fn(ctx, q, b, TD_PLAN_BY_LAYERS, &c);
    // Heads and rows are cut in halves and quarters; of unlike boxes the slowest would rule.
    bool is_alike = b->n == 2 || b->n == 4;
    for (uint32_t i = 1; i < b->n; i++) is_alike = is_alike && b->machines[i] == b->machines[0];
    if (!is_alike) return;
    plan(&c, q, b, TD_PLAN_BY_TENSOR);
    if (c.fits) fn(ctx, q, b, TD_PLAN_BY_TENSOR, &c);
}

// Of each machine that is too small the fewest that hold the model; and the machines that were
// asked for, when they are two to four unlike ones and one of them is too small.
static void each_cluster(const struct td_plan_question *q, boxes_fn *fn, void *ctx)
{
    struct td_plan_cluster c;
    uint32_t n_small = 0;
    for (uint32_t i = 0; i < q->n_machines; i++) {
        if (q->machines[i].answer.fits) continue;
        n_small++;
        struct boxes b = {.n = 0};
        for (uint32_t n = 1; n <= TD_PLAN_MAX_BOXES; n++) {
            b.machines[b.n++] = &q->machines[i];
            if (n < 2) continue;
            plan(&c, q, &b, TD_PLAN_BY_LAYERS);
            if (!c.fits) continue;
            both_cuts(q, &b, fn, ctx);
            break;
        }
    }
    if (n_small == 0 || q->n_machines < 2 || q->n_machines > TD_PLAN_MAX_BOXES) return;
    struct boxes all = {.n = q->n_machines};
    for (uint32_t i = 0; i < all.n; i++) all.machines[i] = &q->machines[i];
    both_cuts(q, &all, fn, ctx);
}

static const char *cut_name(enum td_plan_cut cut)
{
    return cut == TD_PLAN_BY_LAYERS ? "layers" : "tensors";
}

static void name_of(char *out, size_t out_bytes, const struct boxes *b)
{
    if (b->machines[1] == b->machines[0]) {
        snprintf(out, out_bytes, "%u x %.50s", b->n, b->machines[0]->device->name);
        return;
    }
    size_t n = 0;
    for (uint32_t i = 0; i < b->n && n < out_bytes; i++) {
        const int k = snprintf(out + n, out_bytes - n, "%s%.40s", i ? " + " : "",
                               b->machines[i]->device->name);
        n += k > 0 ? (size_t)k : 0;
    }
}

// How far off a cluster may be: as its least certain box.
static double width(const struct boxes *b, bool is_prefill)
{
    double most = 1;
    for (uint32_t i = 0; i < b->n; i++) {
        const struct td_plan_single *a = &b->machines[i]->answer;
        const struct td_plan_answer *w = is_prefill ? &a->prefill : &a->decode;
        most = fmax(most, w->high / w->seconds);
    }
    return most;
}

static double price(const struct boxes *b)
{
    double sum = 0;
    for (uint32_t i = 0; i < b->n; i++) {
        if (b->machines[i]->device->price_usd <= 0) return 0;
        sum += b->machines[i]->device->price_usd;
    }
    return sum;
}

static void print_one(void *ctx, const struct td_plan_question *q, const struct boxes *b,
                      enum td_plan_cut cut, const struct td_plan_cluster *c)
{
    bool *is_first = ctx;
    const bool is_md = q->form == TD_PLAN_MD;
    if (*is_first) {
        printf("\nTogether over %s, for machines that do not hold the model:\n\n", q->link_name);
        if (is_md)
            puts("| boxes | cut by | prefill t/s | decode t/s | first token s | all s | on the "
                 "link s | USD |\n|---|---|--:|--:|--:|--:|--:|--:|");
        else
            printf("%-44s %-7s %19s %19s %9s %9s %7s %7s\n", "boxes", "cut by", "prefill t/s",
                   "decode t/s", "first s", "all s", "link s", "USD");
        *is_first = false;
    }
    char name[200], prefill[48], decode[48];
    const double wp = width(b, true), wd = width(b, false);
    name_of(name, sizeof(name), b);
    snprintf(prefill, sizeof(prefill), "%.0f (%.0f-%.0f)", c->prefill_tokens_per_s,
             c->prefill_tokens_per_s / wp, c->prefill_tokens_per_s * wp);
    snprintf(decode, sizeof(decode), "%.1f (%.1f-%.1f)", c->decode_tokens_per_s,
             c->decode_tokens_per_s / wd, c->decode_tokens_per_s * wd);
    printf(is_md ? "| %s | %s | %s | %s | %.2f | %.2f | %.2f | %.0f |\n"
                 : "%-44s %-7s %19s %19s %9.2f %9.2f %7.2f %7.0f\n",
           name, cut_name(cut), prefill, decode, c->first_seconds, c->total_seconds,
           c->link_seconds, price(b));
}

bool td_plan_print_boxes(const struct td_plan_question *q)
{
    bool is_first = true;
    each_cluster(q, print_one, &is_first);
    if (is_first) return false;
    puts("\nBy layers: one box after the other, an answer's token passes through all. By tensors: "
         "all at once,\ntwo sums over the link in every layer.");
    return true;
}

static void json_one(void *ctx, const struct td_plan_question *q, const struct boxes *b,
                     enum td_plan_cut cut, const struct td_plan_cluster *c)
{
    (void)q;
    json_t *out = json_object(), *boxes = json_array();
    for (uint32_t i = 0; i < b->n; i++) {
        json_t *box = json_object();
        td_json_text(box, "machine", b->machines[i]->device->name);
        td_json_f64(box, "share", c->share[i]);
        td_json_f64(box, "needed_bytes", c->needed_bytes[i]);
        json_array_append_new(boxes, box);
    }
    json_object_set_new(out, "boxes", boxes);
    td_json_text(out, "cut_by", cut_name(cut));
    td_json_f64(out, "first_token_seconds", c->first_seconds);
    td_json_f64(out, "seconds", c->total_seconds);
    td_json_f64(out, "prefill_tokens_per_s", c->prefill_tokens_per_s);
    td_json_f64(out, "decode_tokens_per_s", c->decode_tokens_per_s);
    td_json_f64(out, "link_seconds", c->link_seconds);
    json_array_append_new(ctx, out);
}

json_t *td_plan_boxes_json(const struct td_plan_question *q)
{
    json_t *list = json_array();
    each_cluster(q, json_one, list);
    return list;
}
