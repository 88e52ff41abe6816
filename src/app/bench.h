// SPDX-License-Identifier: MIT
// What bench measured, for its three ways to print it.
#ifndef TD_APP_BENCH_H
#define TD_APP_BENCH_H

#include "app/app.h"
#include "app/json.h"
#include "base/os.h"
#include "probe/probe.h"

enum { TD_BENCH_MAX_REPEAT = 1000 };
enum td_bench_form { TD_BENCH_MD, TD_BENCH_JSON, TD_BENCH_CSV }; // as the choices of -o

struct td_bench_ops; // --ops: where the time of a row goes

// One row of the table.
struct td_bench_row {
    uint32_t n_prompt; // one of these two is 0
    uint32_t n_gen;
    uint32_t depth;
    uint32_t n_samples;
    uint64_t samples_ns[TD_BENCH_MAX_REPEAT];
    // A plain read loop over the model's bytes, before the first repetition of single tokens and
    // after each; 0: not run.
    double loop_bytes_per_s[TD_BENCH_MAX_REPEAT + 1];
    double bytes; // that the program needs to move, one repetition
    double flop;  // that it computes
    uint64_t logits_hash;
    uint64_t snapshot_bytes;
    char test_time[32]; // UTC, ISO 8601
    struct td_os_rss rss;
    // Resident beyond file pages and KV: activations, tables, buffers. 0: not known, or the weights
    // are synthetic and lie in this memory, too.
    uint64_t own_bytes;
    // Of the model's files, as this process sees them through huge pages; 0: none, or not known.
    uint64_t huge_bytes;
    struct td_device_report device;
    struct td_bench_ops *ops; // NULL unless asked for; td_bench_report_row takes it
};

// What all rows share.
struct td_bench {
    const struct td_config *cfg;
    const char *model_path;
    struct td_app app;
    struct td_os_info os;
    struct td_probe machine;
    double first_token_seconds; // from the start of loading
    uint64_t n_params;
    char model_type[64];
};

// Statistics of a row; tokens per second.
struct td_bench_stats {
    double median_ts, min_ts, max_ts, avg_ts, stddev_ts;
    double median_ns, avg_ns, stddev_ns;
    double bytes_per_s, flops_per_s; // of the median
    double read_pct, ops_pct;        // of what the machine measured
    double loop_bytes_per_s;         // the read loop, median; 0: not run
    double loop_pct;                 // bytes_per_s of the loop's beside it, median of repetitions
    double limit_pct;                // least possible time / median time
};
void td_bench_stats(struct td_bench_stats *out, const struct td_bench *b,
                    const struct td_bench_row *row);

// Operations per second that a kind of arithmetic can reach.
double td_bench_arith_rate(const struct td_probe_rates *m, enum td_arith arith);

// Takes the engine's step times of row's repetitions. costs: price of each op of the program for
// one repetition.
int td_bench_ops_take(struct td_bench_ops **out, const struct td_bench *b,
                      const struct td_bench_row *row, const struct td_cost *costs,
                      struct td_error *err) TD_MUST_CHECK;
void td_bench_ops_free(struct td_bench_ops *ops);
void td_bench_ops_print(const struct td_bench_ops *ops);
json_t *td_bench_ops_json(const struct td_bench_ops *ops); // a list

// `bench --prefill`: prompts that a peer reads. Returns an exit code.
int td_bench_prefill(const struct td_config *cfg);

void td_bench_row_name(const struct td_bench_row *row, char *out, size_t out_bytes);

// begin, then each row as it is measured, then end (which for JSON writes all).
struct td_bench_report;
int td_bench_report_open(struct td_bench_report **out, const struct td_bench *b,
                         struct td_error *err) TD_MUST_CHECK;
void td_bench_report_row(struct td_bench_report *r, const struct td_bench_row *row);
int td_bench_report_end(struct td_bench_report *r, struct td_error *err) TD_MUST_CHECK;
void td_bench_report_close(struct td_bench_report *r);

// Fills a session's KV cache up to depth with noise, as if tokens (depth) had been computed. The
// session is IDLE.
int td_bench_fill_noise(const struct td_app *app, struct td_session *s, const int32_t *tokens,
                        uint32_t depth, struct td_error *err) TD_MUST_CHECK;

#endif
