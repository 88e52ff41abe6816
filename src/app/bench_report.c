// SPDX-License-Identifier: MIT
// Bench results as a table to read, as JSON with llama-bench's field names, and as CSV.
#include "app/bench.h"

#include "app/commit.h"
#include "app/json.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct td_bench_report {
    const struct td_bench *b;
    enum td_bench_form form;
    json_t *list; // NULL: no JSON is wanted
    FILE *saved;  // --save; NULL: none
    // The last row, for what stands below the table.
    struct td_os_rss rss;
    struct td_device_report device;
    uint64_t snapshot_bytes, own_bytes, huge_bytes;
    bool has_row;
    // The table is printed row by row, these after it.
    struct td_bench_ops **ops;
    uint32_t n_ops, ops_cap;
};

void td_bench_row_name(const struct td_bench_row *row, char *out, size_t out_bytes)
{
    const int n = snprintf(out, out_bytes, "%s%u", row->n_prompt ? "pp" : "tg",
                           row->n_prompt ? row->n_prompt : row->n_gen);
    if (row->depth) snprintf(out + n, out_bytes - (size_t)n, " @ d%u", row->depth);
}

static int by_value(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static int by_f64(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double median(const double *x, uint32_t n)
{
    static double sorted[TD_BENCH_MAX_REPEAT + 1];
    memcpy(sorted, x, n * sizeof(sorted[0]));
    qsort(sorted, n, sizeof(sorted[0]), by_f64);
    return 0.5 * (sorted[(n - 1) / 2] + sorted[n / 2]);
}

// Each repetition against the two turns of the loop around it: the machine's mood is theirs, too.
static void loop_stats(struct td_bench_stats *out, const struct td_bench_row *row)
{
    static double pct[TD_BENCH_MAX_REPEAT];
    const uint32_t n = row->n_samples;
    const double *loop = row->loop_bytes_per_s;
    if (n == 0 || loop[0] <= 0) return;
    for (uint32_t i = 0; i < n; i++) {
        const double bytes_per_s = row->bytes * 1e9 / (double)row->samples_ns[i];
        pct[i] = 100 * bytes_per_s / (0.5 * (loop[i] + loop[i + 1]));
    }
    out->loop_bytes_per_s = median(loop, n + 1);
    out->loop_pct = median(pct, n);
}

// Of the experts, which are most of it.
static enum td_arith arith_of(const struct td_bench *b)
{
    switch (b->app.precision) {
    case TD_PRECISION_DEFAULT: return TD_ARITH_INT8;
    case TD_PRECISION_FINE: return TD_ARITH_INT16;
    case TD_PRECISION_HIGH:
    case TD_N_PRECISIONS: break;
    }
    return TD_ARITH_F32;
}

void td_bench_stats(struct td_bench_stats *out, const struct td_bench *b,
                    const struct td_bench_row *row)
{
    static uint64_t sorted[TD_BENCH_MAX_REPEAT];
    const uint32_t n = row->n_samples;
    const double tokens = row->n_prompt ? row->n_prompt : row->n_gen;
    memcpy(sorted, row->samples_ns, n * sizeof(sorted[0]));
    qsort(sorted, n, sizeof(sorted[0]), by_value);
    *out = (struct td_bench_stats){0};
    double sum_ns2 = 0, sum_ts2 = 0;
    for (uint32_t i = 0; i < n; i++) {
        out->avg_ns += (double)sorted[i] / n;
        out->avg_ts += tokens * 1e9 / (double)sorted[i] / n;
    }
    for (uint32_t i = 0; i < n; i++) {
        const double ts = tokens * 1e9 / (double)sorted[i];
        sum_ns2 += ((double)sorted[i] - out->avg_ns) * ((double)sorted[i] - out->avg_ns);
        sum_ts2 += (ts - out->avg_ts) * (ts - out->avg_ts);
    }
    if (n > 1) {
        out->stddev_ns = sqrt(sum_ns2 / (n - 1));
        out->stddev_ts = sqrt(sum_ts2 / (n - 1));
    }
    const uint32_t below = (n - 1) / 2, above = n / 2;
    out->median_ns = 0.5 * ((double)sorted[below] + (double)sorted[above]);
    out->median_ts = tokens * 1e9 / out->median_ns;
    out->min_ts = tokens * 1e9 / (double)sorted[n - 1];
    out->max_ts = tokens * 1e9 / (double)sorted[0];
    out->bytes_per_s = row->bytes * 1e9 / out->median_ns;
    out->flops_per_s = row->flop * 1e9 / out->median_ns;

    const struct td_probe_rates *m = &b->machine.all;
    const double ops = td_bench_arith_rate(m, arith_of(b));
    out->read_pct = 100.0 * out->bytes_per_s / m->read_bytes_per_s;
    out->ops_pct = 100.0 * out->flops_per_s / ops;
    // Moving the bytes and doing the sums can overlap: the slower of the two is the least time.
    // Rooflines: Williams, Waterman, Patterson, CACM 52(4), 2009.
    out->limit_pct = fmax(out->read_pct, out->ops_pct);
    loop_stats(out, row);
}

static const char *ops_name(const struct td_bench *b)
{
    switch (arith_of(b)) {
    case TD_ARITH_INT8: return "int8";
    case TD_ARITH_INT16: return "int16";
    case TD_ARITH_F32: break;
    }
    return "f32";
}

static void md_begin(const struct td_bench *b)
{
    char size[24], memory[24];
    const struct td_probe_rates *m = &b->machine.all;
    printf("model    %s, %s%s%s\n", b->model_type,
           td_text_gb(size, sizeof(size), b->app.model->weights_bytes),
           b->app.model->note[0] ? "; " : "", b->app.model->note);
    printf("machine  %s, %s memory\n", b->os.cpu_name,
           td_text_gib(memory, sizeof(memory), b->os.memory_bytes));
    printf("         %u thread%s, %s: reads %.1f GB/s, %.0f int8 Gop/s, %.0f f32 GFLOP/s\n",
           b->app.n_threads, b->app.n_threads == 1 ? "" : "s", b->machine.isa,
           m->read_bytes_per_s * 1e-9, m->int8_ops_per_s * 1e-9, m->f32_flops_per_s * 1e-9);
    printf("build    tandem %s (%s), chunk %u, precision %s, KV %s\n\n", TD_VERSION, TD_COMMIT,
           b->app.chunk, td_precision_name(b->app.precision), b->app.kv_f32 ? "f32" : "f16");
    printf("| %-16s | %9s | %17s | %7s | %6s | %7s | %8s | %6s | %-16s |\n", "test", "tok/s",
           "range", "GB/s", "of max", "of loop", "GFLOP/s", "of max", "logits");
    printf("| :--------------- | --------: | ----------------: | ------: | -----: | ------: | "
           "-------: | -----: | ---------------- |\n");
    fflush(stdout);
}

static void md_row(const struct td_bench *b, const struct td_bench_row *row)
{
    struct td_bench_stats s;
    char name[48], range[48];
    td_bench_stats(&s, b, row);
    td_bench_row_name(row, name, sizeof(name));
    snprintf(range, sizeof(range), "%.2f - %.2f", s.min_ts, s.max_ts);
    char loop[16] = "-";
    if (s.loop_bytes_per_s > 0) snprintf(loop, sizeof(loop), "%.1f %%", s.loop_pct);
    printf("| %-16s | %9.2f | %17s | %7.2f | %4.0f %% | %7s | %8.1f | %4.0f %% | %016llx |\n", name,
           s.median_ts, range, s.bytes_per_s * 1e-9, s.read_pct, loop, s.flops_per_s * 1e-9,
           s.ops_pct, (unsigned long long)row->logits_hash);
    fflush(stdout);
}

static void md_end(const struct td_bench_report *r)
{
    char peak[24], file[24], own[24], scratch[24], kv[24], snapshots[24];
    printf("\nload %.2f s, first token after %.2f s; GFLOP/s are of %s operations\n"
           "memory   peak %s; at the end %s of file pages (shared between processes), KV %s, "
           "%s beside these%s\n"
           "         of which: activations and scratch %s; of the KV: snapshots %s\n",
           r->b->app.load_seconds, r->b->first_token_seconds, ops_name(r->b),
           td_text_gib(peak, sizeof(peak), r->rss.peak_bytes),
           td_text_gib(file, sizeof(file), r->rss.file_bytes),
           td_text_gib(kv, sizeof(kv), r->device.kv_bytes),
           r->own_bytes ? td_text_gib(own, sizeof(own), r->own_bytes) : "not known",
           r->b->app.model->synth ? " (the weights are in memory)" : "",
           td_text_gib(scratch, sizeof(scratch), r->device.scratch_bytes),
           td_text_gib(snapshots, sizeof(snapshots), r->snapshot_bytes));
    if (r->b->app.model->synth) return;
    const double huge = 100.0 * (double)r->huge_bytes / (double)r->b->app.model->weights_bytes;
    printf("         weights on huge pages: %.0f %%\n", fmin(huge, 100.0));
}

static json_t *row_json(const struct td_bench *b, const struct td_bench_row *row)
{
    struct td_bench_stats s;
    td_bench_stats(&s, b, row);
    json_t *o = json_object();
    td_json_text(o, "build_commit", TD_COMMIT);
    td_json_text(o, "build_version", TD_VERSION);
    td_json_bytes(o, "cpu_info", b->os.cpu_name, strlen(b->os.cpu_name));
    td_json_text(o, "gpu_info", "");
    td_json_text(o, "backends", "CPU");
    td_json_bytes(o, "model_filename", b->model_path, strlen(b->model_path));
    td_json_bytes(o, "model_type", b->model_type, strlen(b->model_type));
    td_json_u64(o, "model_size", b->app.model->weights_bytes);
    td_json_u64(o, "model_n_params", b->n_params);
    td_json_u64(o, "n_batch", b->app.chunk);
    td_json_u64(o, "n_ubatch", b->app.chunk);
    td_json_u64(o, "n_threads", b->app.n_threads);
    td_json_text(o, "type_k", b->app.kv_f32 ? "f32" : "f16");
    td_json_text(o, "type_v", b->app.kv_f32 ? "f32" : "f16");
    td_json_u64(o, "n_prompt", row->n_prompt);
    td_json_u64(o, "n_gen", row->n_gen);
    td_json_u64(o, "n_depth", row->depth);
    td_json_text(o, "test_time", row->test_time);
    td_json_u64(o, "avg_ns", (uint64_t)s.avg_ns);
    td_json_u64(o, "stddev_ns", (uint64_t)s.stddev_ns);
    td_json_f64(o, "avg_ts", s.avg_ts);
    td_json_f64(o, "stddev_ts", s.stddev_ts);
    json_t *ns = json_array(), *ts = json_array();
    const double tokens = row->n_prompt ? row->n_prompt : row->n_gen;
    for (uint32_t i = 0; i < row->n_samples; i++) {
        json_array_append_new(ns, json_integer((json_int_t)row->samples_ns[i]));
        json_array_append_new(ts, json_real(tokens * 1e9 / (double)row->samples_ns[i]));
    }
    json_object_set_new(o, "samples_ns", ns);
    json_object_set_new(o, "samples_ts", ts);

    // From here on names of our own.
    td_json_f64(o, "median_ts", s.median_ts);
    td_json_f64(o, "min_ts", s.min_ts);
    td_json_f64(o, "max_ts", s.max_ts);
    td_json_f64(o, "bytes_per_s", s.bytes_per_s);
    td_json_f64(o, "flops_per_s", s.flops_per_s);
    td_json_f64(o, "pct_of_read", s.read_pct);
    td_json_f64(o, "pct_of_ops", s.ops_pct);
    td_json_f64(o, "pct_of_limit", s.limit_pct);
    if (row->n_gen && s.loop_bytes_per_s > 0) {
        json_t *loop = json_array();
        for (uint32_t i = 0; i <= row->n_samples; i++)
            json_array_append_new(loop, json_real(row->loop_bytes_per_s[i]));
        json_object_set_new(o, "samples_loop_bytes_per_s", loop);
    }
    td_json_f64(o, "loop_bytes_per_s", s.loop_bytes_per_s);
    td_json_f64(o, "pct_of_loop", s.loop_pct);
    td_json_text(o, "ops_type", ops_name(b));
    td_json_f64(o, "machine_read_bytes_per_s", b->machine.all.read_bytes_per_s);
    td_json_u64(o, "machine_memory_bytes", b->os.memory_bytes);
    td_json_f64(o, "machine_int8_ops_per_s", b->machine.all.int8_ops_per_s);
    td_json_f64(o, "machine_f32_flops_per_s", b->machine.all.f32_flops_per_s);
    td_json_text(o, "isa", row->device.isa);
    td_json_text(o, "precision", td_precision_name(b->app.precision));
    td_json_f64(o, "load_seconds", b->app.load_seconds);
    td_json_f64(o, "first_token_seconds", b->first_token_seconds);
    if (row->n_prompt) td_json_f64(o, "ttft_seconds", s.median_ns * 1e-9);
    td_json_u64(o, "rss_bytes", row->rss.now_bytes);
    td_json_u64(o, "rss_peak_bytes", row->rss.peak_bytes);
    td_json_u64(o, "rss_file_bytes", row->rss.file_bytes);
    td_json_u64(o, "rss_own_bytes", row->own_bytes);
    td_json_u64(o, "huge_bytes", row->huge_bytes);
    td_json_u64(o, "scratch_bytes", row->device.scratch_bytes);
    td_json_u64(o, "kv_bytes", row->device.kv_bytes);
    td_json_u64(o, "snapshot_bytes", row->snapshot_bytes);
    char text[24];
    snprintf(text, sizeof(text), "%016llx", (unsigned long long)row->logits_hash);
    td_json_text(o, "logits_hash", text);
    td_json_text(o, "model_digest", b->app.model->digest);
    td_json_text(o, "model_note", b->app.model->note);
    if (row->ops) json_object_set_new(o, "ops", td_bench_ops_json(row->ops));
    return o;
}

static void csv_value(const json_t *value)
{
    if (!json_is_string(value)) {
        (void)json_dumpf(value, stdout, JSON_ENCODE_ANY | JSON_REAL_PRECISION(9));
        return;
    }
    fputc('"', stdout);
    for (const char *c = json_string_value(value); *c; c++) {
        if (*c == '"') fputc('"', stdout); // doubled, as RFC 4180 has it
        fputc(*c, stdout);
    }
    fputc('"', stdout);
}

// The JSON object's fields that are no lists, in its order: one source of names for both forms.
static void csv_line(json_t *row, bool is_heading)
{
    const char *separator = "";
    for (void *at = json_object_iter(row); at; at = json_object_iter_next(row, at)) {
        const char *key = json_object_iter_key(at);
        const json_t *value = json_object_iter_value(at);
        // Prompt rows alone have a time to first token; it is in their time already.
        if (json_is_array(value) || strcmp(key, "ttft_seconds") == 0) continue;
        fputs(separator, stdout);
        separator = ",";
        if (is_heading)
            fputs(key, stdout);
        else
            csv_value(value);
    }
    fputc('\n', stdout);
}

static void csv_row(const struct td_bench_report *r, const struct td_bench_row *row)
{
    json_t *o = row_json(r->b, row);
    if (!r->has_row) csv_line(o, true);
    csv_line(o, false);
    json_decref(o);
    fflush(stdout);
}

int td_bench_report_open(struct td_bench_report **out, const struct td_bench *b,
                         struct td_error *err)
{
    *out = NULL;
    struct td_bench_report *r = calloc(1, sizeof(*r));
    if (!r) return td_fail(err, TD_ENOMEM, "no memory for the report");
    r->b = b;
    r->form = (enum td_bench_form)td_opt_choice(b->cfg, TD_OPT_FORMAT);
    const char *path = td_opt_text(b->cfg, TD_OPT_SAVE);
    // Opened first: a path that cannot be written must not show after half an hour.
    if (path) r->saved = fopen(path, "w");
    if (path && !r->saved) {
        free(r);
        return td_fail(err, TD_EIO, "%.160s: %s", path, td_app_why(errno));
    }
    if (r->saved || r->form == TD_BENCH_JSON) r->list = json_array();
    if (r->form == TD_BENCH_MD) md_begin(b);
    *out = r;
    return TD_OK;
}

static void keep_ops(struct td_bench_report *r, struct td_bench_ops *ops)
{
    if (!ops) return;
    if (r->n_ops == r->ops_cap) {
        const uint32_t cap = r->ops_cap ? 2 * r->ops_cap : 8;
        struct td_bench_ops **grown = realloc((void *)r->ops, cap * sizeof(struct td_bench_ops *));
        if (!grown) {
            td_bench_ops_free(ops);
            return;
        }
        r->ops = grown;
        r->ops_cap = cap;
    }
    r->ops[r->n_ops++] = ops;
}

void td_bench_report_row(struct td_bench_report *r, const struct td_bench_row *row)
{
    switch (r->form) {
    case TD_BENCH_MD: md_row(r->b, row); break;
    case TD_BENCH_JSON: break;
    case TD_BENCH_CSV: csv_row(r, row); break;
    }
    if (r->list) json_array_append_new(r->list, row_json(r->b, row));
    keep_ops(r, row->ops);
    r->rss = row->rss;
    r->device = row->device;
    r->snapshot_bytes = row->snapshot_bytes;
    r->huge_bytes = row->huge_bytes;
    if (row->own_bytes > r->own_bytes) r->own_bytes = row->own_bytes;
    r->has_row = true;
}

int td_bench_report_end(struct td_bench_report *r, struct td_error *err)
{
    if (r->form == TD_BENCH_MD) md_end(r);
    for (uint32_t i = 0; r->form == TD_BENCH_MD && i < r->n_ops; i++) td_bench_ops_print(r->ops[i]);
    if (r->form == TD_BENCH_JSON &&
        td_json_print(stdout, json_incref(r->list), JSON_INDENT(2)) != 0)
        return td_fail(err, TD_EIO, "the JSON cannot be written");
    if (!r->saved) return TD_OK;
    const int wrote = td_json_print(r->saved, json_incref(r->list), JSON_INDENT(2));
    const int closed = fclose(r->saved);
    r->saved = NULL;
    if (wrote != 0 || closed != 0)
        return td_fail(err, TD_EIO, "%.160s: cannot be written",
                       td_opt_text(r->b->cfg, TD_OPT_SAVE));
    return TD_OK;
}

void td_bench_report_close(struct td_bench_report *r)
{
    if (!r) return;
    for (uint32_t i = 0; i < r->n_ops; i++) td_bench_ops_free(r->ops[i]);
    free((void *)r->ops);
    json_decref(r->list);
    if (r->saved) fclose(r->saved);
    free(r);
}
