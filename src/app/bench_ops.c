// SPDX-License-Identifier: MIT
// Where a test's time goes: the device's times of its steps, put together by op kind and by weight,
// beside what the program's own price says of each. Measures and prints; decides nothing.
#include "app/bench.h"

#include "app/json.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_ROWS = 96, KIND_BYTES = 40 };

// Steps of one kind and, where there are several sorts, of one part.
struct ops_row {
    char kind[KIND_BYTES];
    char part[32];
    double calls; // of one repetition, as are all of these
    double time_ns, wait_ns;
    double bytes, flop;
    double least_ns; // by the machine's limits
};

struct td_bench_ops {
    char test[48];
    double total_ns; // of a repetition
    uint32_t n;
    struct ops_row rows[MAX_ROWS];
};

double td_bench_arith_rate(const struct td_probe_rates *m, enum td_arith arith)
{
    switch (arith) {
    case TD_ARITH_INT8: return m->int8_ops_per_s;
    // A 16-bit product takes the place of two 8-bit ones, in one instruction or as two bytes.
    case TD_ARITH_INT16: return m->int8_ops_per_s / 2;
    case TD_ARITH_F32: break;
    }
    return m->f32_flops_per_s;
}

// "attn_q" of "blk.3.attn_q.weight".
static void stem(const char *name, char *out, size_t out_bytes)
{
    if (strncmp(name, "blk.", 4) == 0) {
        const char *dot = strchr(name + 4, '.');
        if (dot) name = dot + 1;
    }
    const char *end = strrchr(name, '.');
    const size_t n = end ? (size_t)(end - name) : strlen(name);
    snprintf(out, out_bytes, "%.*s", (int)n, name);
}

static void append(char *out, size_t out_bytes, const char *text)
{
    const size_t n = strlen(out);
    snprintf(out + n, out_bytes - n, "%s%s", n ? "+" : "", text);
}

// "add+rmsnorm": the kinds of ops that a step computes, or prepares.
static void kind_of(const struct td_model *m, const struct td_step_time *t, char *out)
{
    out[0] = '\0';
    const char *last = "";
    for (uint32_t i = 0; i < (t->n_ops ? t->n_ops : 1); i++) {
        const char *name = td_op_name(m->program.ops[t->i_op + i].kind);
        if (strcmp(name, last) != 0) append(out, KIND_BYTES, name);
        last = name;
    }
}

// What tells apart the steps of one kind: the matrix, the window, or the step itself.
static void part_of(const struct td_model *m, const struct td_step_time *t, char *out,
                    size_t out_bytes)
{
    out[0] = '\0';
    for (uint32_t i = 0; i < t->n_ops; i++) {
        const struct td_op *op = &m->program.ops[t->i_op + i];
        char text[24];
        if (op->kind == TD_OP_LINEAR)
            stem(m->weights[op->w].name, text, sizeof(text));
        else if (op->kind == TD_OP_ATTEND && op->window)
            snprintf(text, sizeof(text), "window %u", op->window);
        else if (op->kind == TD_OP_ATTEND)
            snprintf(text, sizeof(text), "full");
        else
            continue;
        append(out, out_bytes, text);
    }
    if (!out[0]) snprintf(out, out_bytes, "%s", t->name);
}

// The row of a step, made when it is the first of its sort. The last one takes what finds no room.
static struct ops_row *row_of(struct td_bench_ops *o, const char *kind, const char *part)
{
    for (uint32_t i = 0; i < o->n; i++)
        if (strcmp(o->rows[i].kind, kind) == 0 && strcmp(o->rows[i].part, part) == 0)
            return &o->rows[i];
    if (o->n == MAX_ROWS) return &o->rows[MAX_ROWS - 1];
    // Parts of a kind stand together.
    uint32_t at = o->n;
    while (at > 0 && strcmp(o->rows[at - 1].kind, kind) != 0) at--;
    if (at == 0) at = o->n;
    memmove(&o->rows[at + 1], &o->rows[at], (o->n - at) * sizeof(o->rows[0]));
    o->n++;
    o->rows[at] = (struct ops_row){0};
    snprintf(o->rows[at].kind, sizeof(o->rows[at].kind), "%s", kind);
    snprintf(o->rows[at].part, sizeof(o->rows[at].part), "%s", part);
    return &o->rows[at];
}

static void add_step(struct td_bench_ops *o, const struct td_bench *b, const struct td_step_time *t,
                     const struct td_cost *costs, uint32_t n_repeats)
{
    const struct td_model *m = b->app.model;
    char kind[KIND_BYTES], part[32];
    kind_of(m, t, kind);
    part_of(m, t, part, sizeof(part));
    struct ops_row *row = row_of(o, kind, part);
    row->calls += (double)t->n_runs / n_repeats;
    row->time_ns += (double)t->time_ns / n_repeats;
    row->wait_ns += (double)t->wait_ns / n_repeats;
    double bytes = 0, flop = 0;
    for (uint32_t i = 0; i < t->n_ops; i++) {
        const struct td_cost *c = &costs[t->i_op + i];
        bytes += c->weight_bytes + c->kv_read_bytes + c->kv_write_bytes;
        flop += c->flop;
    }
    row->bytes += bytes;
    row->flop += flop;
    // Moving and computing can overlap within a step, not between steps.
    const double move_ns = bytes * 1e9 / b->machine.all.read_bytes_per_s;
    const double compute_ns = flop * 1e9 / td_bench_arith_rate(&b->machine.all, t->arith);
    row->least_ns += move_ns > compute_ns ? move_ns : compute_ns;
}

int td_bench_ops_take(struct td_bench_ops **out, const struct td_bench *b,
                      const struct td_bench_row *row, const struct td_cost *costs,
                      struct td_error *err)
{
    *out = NULL;
    const uint32_t n = td_engine_step_times(b->app.engine, NULL);
    struct td_step_time *times = calloc(n, sizeof(*times));
    struct td_bench_ops *o = calloc(1, sizeof(*o));
    if (!times || !o) {
        free(times);
        free(o);
        return td_fail(err, TD_ENOMEM, "no memory for the times of %u steps", n);
    }
    (void)td_engine_step_times(b->app.engine, times);
    td_bench_row_name(row, o->test, sizeof(o->test));
    for (uint32_t i = 0; i < row->n_samples; i++)
        o->total_ns += (double)row->samples_ns[i] / row->n_samples;
    for (uint32_t i = 0; i < n; i++) add_step(o, b, &times[i], costs, row->n_samples);
    free(times);
    *out = o;
    return TD_OK;
}

void td_bench_ops_free(struct td_bench_ops *o)
{
    free(o);
}

static void print_row(const char *name, const struct ops_row *r, double total_ns)
{
    char of_limit[16] = "-", gb_s[16] = "-", gflops[16] = "-", moved[16] = "-", gflop[16] = "-";
    if (r->bytes > 0) {
        snprintf(moved, sizeof(moved), "%.2f", r->bytes * 1e-6);
        snprintf(gb_s, sizeof(gb_s), "%.2f", r->bytes / r->time_ns);
    }
    if (r->flop > 0) {
        snprintf(gflop, sizeof(gflop), "%.3f", r->flop * 1e-9);
        snprintf(gflops, sizeof(gflops), "%.1f", r->flop / r->time_ns);
    }
    if (r->flop > 0)
        snprintf(of_limit, sizeof(of_limit), "%.0f %%", 100 * r->least_ns / r->time_ns);
    printf("| %-26s | %10.3f | %6.1f %% | %6.1f %% | %7.0f | %10s | %9s | %7s | %8s | %8s |\n",
           name, r->time_ns * 1e-6, 100 * r->time_ns / total_ns,
           r->time_ns > 0 ? 100 * r->wait_ns / r->time_ns : 0.0, r->calls, moved, gflop, gb_s,
           gflops, of_limit);
}

static void add_row(struct ops_row *sum, const struct ops_row *r)
{
    sum->calls += r->calls;
    sum->time_ns += r->time_ns;
    sum->wait_ns += r->wait_ns;
    sum->bytes += r->bytes;
    sum->flop += r->flop;
    sum->least_ns += r->least_ns;
}

void td_bench_ops_print(const struct td_bench_ops *o)
{
    printf("\n| %-26s | %10s | %8s | %8s | %7s | %10s | %9s | %7s | %8s | %8s |\n", o->test, "ms",
           "of time", "waiting", "calls", "MB", "GFLOP", "GB/s", "GFLOP/s", "of limit");
    printf(
        "| :------------------------- | ---------: | -------: | -------: | ------: | ---------: | "
        "--------: | ------: | -------: | -------: |\n");
    struct ops_row all = {0};
    for (uint32_t i = 0; i < o->n;) {
        struct ops_row sum = {0};
        uint32_t end = i;
        while (end < o->n && strcmp(o->rows[end].kind, o->rows[i].kind) == 0)
            add_row(&sum, &o->rows[end++]);
        print_row(o->rows[i].kind, &sum, o->total_ns);
        for (uint32_t k = i; end - i > 1 && k < end; k++) {
            char name[40];
            snprintf(name, sizeof(name), "  %s", o->rows[k].part);
            print_row(name, &o->rows[k], o->total_ns);
        }
        add_row(&all, &sum);
        i = end;
    }
    print_row("all steps", &all, o->total_ns);
    const struct ops_row rest = {.time_ns = o->total_ns - all.time_ns};
    print_row("between runs", &rest, o->total_ns);
    fflush(stdout);
}

json_t *td_bench_ops_json(const struct td_bench_ops *o)
{
    json_t *list = json_array();
    for (uint32_t i = 0; i < o->n; i++) {
        const struct ops_row *r = &o->rows[i];
        json_t *row = json_object();
        td_json_text(row, "op", r->kind);
        td_json_text(row, "part", r->part);
        td_json_f64(row, "calls", r->calls);
        td_json_f64(row, "time_ns", r->time_ns);
        td_json_f64(row, "wait_ns", r->wait_ns);
        td_json_f64(row, "share", r->time_ns / o->total_ns);
        td_json_f64(row, "bytes", r->bytes);
        td_json_f64(row, "flop", r->flop);
        td_json_f64(row, "bytes_per_s", r->bytes * 1e9 / r->time_ns);
        td_json_f64(row, "flops_per_s", r->flop * 1e9 / r->time_ns);
        td_json_f64(row, "pct_of_limit", 100 * r->least_ns / r->time_ns);
        json_array_append_new(list, row);
    }
    return list;
}
