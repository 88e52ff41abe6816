// SPDX-License-Identifier: MIT
// `tandem bench --prefill`: the time until the first token of a prompt that a peer reads, where it
// goes, and the time until the n-th token. Every repetition reads other tokens, so that nothing is
// cached on either side.
#include "app/bench.h"

#include "app/commit.h"
#include "app/pair.h"
#include "base/clock.h"
#include "base/num.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_LIST = 64, WARM_UP_SINGLE = 2 };

struct sample {
    struct td_remote_stats stats;
    double first_seconds;
    double until_seconds[MAX_LIST]; // (n_gen): until the last token of an answer of gen[i]
};

struct bench {
    const struct td_config *cfg;
    struct td_app app;
    struct td_pair pair;
    enum td_remote_policy policy;
    struct td_session *session;
    int32_t *tokens;
    uint32_t prompt[MAX_LIST], gen[MAX_LIST]; // gen ascending
    uint32_t n_prompt, n_gen;
    struct sample *samples; // (n_repeat) of the prompt being measured
    uint32_t n_repeat;
    json_t *list;
    FILE *saved;
};

static int by_count(const void *a, const void *b)
{
    const uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static int by_f64(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

// Reads a prompt of n_prompt tokens of this seed and writes as many as the longest answer has.
static int repeat(struct bench *b, uint32_t n_prompt, uint32_t n_single, uint64_t seed,
                  struct sample *out, struct td_error *err)
{
    struct td_rng rng = {.state = seed};
    const uint32_t n_vocab = b->app.model->spec.n_vocab;
    for (uint32_t i = 0; i < n_prompt + n_single; i++)
        b->tokens[i] = (int32_t)(td_rng_u64(&rng) % n_vocab);
    *out = (struct sample){0};
    b->pair.n_answer = n_single ? n_single : 1;
    const uint64_t t0_ns = td_clock_ns();
    int code = td_pair_sync(&b->pair, b->session, b->tokens, n_prompt, NULL, 0, &out->stats, err);
    out->first_seconds = (double)(td_clock_ns() - t0_ns) * 1e-9;
    uint32_t i_gen = 0;
    // The prompt's last row is the answer's first token.
    for (uint32_t n = 1; n <= n_single && code == TD_OK; n++) {
        const double seconds = (double)(td_clock_ns() - t0_ns) * 1e-9;
        while (i_gen < b->n_gen && b->gen[i_gen] == n) out->until_seconds[i_gen++] = seconds;
        if (n == n_single) break;
        code = td_session_append(b->session, b->tokens[n_prompt + n - 1], err);
        if (code == TD_OK) code = td_engine_step(b->app.engine, NULL, err);
    }
    if (code == TD_OK && td_app_interrupted()) code = td_fail(err, TD_ECANCEL, "interrupted");
    return code;
}

// ---- report -----------------------------------------------------------------------------------

enum column { SECONDS, FAR, TRANSFER, EXPOSED, OVERLAP, STALL, MEGABYTES, N_COLUMNS };

// What sample i says; i_gen < n_gen: of an answer, else of the first token.
static double value(const struct bench *b, uint32_t i, uint32_t i_gen, enum column column)
{
    const struct sample *s = &b->samples[i];
    switch (column) {
    case SECONDS: return i_gen < b->n_gen ? s->until_seconds[i_gen] : s->first_seconds;
    case FAR: return s->stats.far_seconds;
    case TRANSFER: return s->stats.transfer_seconds;
    case EXPOSED: return s->stats.exposed_seconds;
    case OVERLAP: return 100 * s->stats.overlap;
    case STALL: return s->stats.stall_seconds;
    case MEGABYTES: return (double)s->stats.bytes * 1e-6;
    case N_COLUMNS: break;
    }
    return 0;
}

struct range {
    double median, min, max;
};

static struct range range_of(const struct bench *b, uint32_t i_gen, enum column column)
{
    static double sorted[TD_BENCH_MAX_REPEAT];
    const uint32_t n = b->n_repeat;
    for (uint32_t i = 0; i < n; i++) sorted[i] = value(b, i, i_gen, column);
    qsort(sorted, n, sizeof(sorted[0]), by_f64);
    return (struct range){0.5 * (sorted[(n - 1) / 2] + sorted[n / 2]), sorted[0], sorted[n - 1]};
}

static void row_name(const struct bench *b, uint32_t n_prompt, uint32_t i_gen, char *out,
                     size_t out_bytes)
{
    if (i_gen < b->n_gen)
        snprintf(out, out_bytes, "pp%u+tg%u", n_prompt, b->gen[i_gen]);
    else
        snprintf(out, out_bytes, "pp%u", n_prompt);
}

// The path of all repetitions, or "mixed".
static const char *path_of(const struct bench *b)
{
    for (uint32_t i = 1; i < b->n_repeat; i++)
        if (b->samples[i].stats.path != b->samples[0].stats.path) return "mixed";
    return td_remote_path_text(b->samples[0].stats.path);
}

static void table_begin(const struct bench *b)
{
    static const char *const policies[] = {"auto", "require", "never"};
    char size[24], there[400], here[400];
    printf("model    %s %s, %s\n", b->app.model->spec.arch, td_app_main_type(b->app.model),
           td_text_gb(size, sizeof(size), b->app.model->weights_bytes));
    printf("peers    %s, policy %s, KV %s on the wire\n", td_opt_text(b->cfg, TD_OPT_PREFILL),
           policies[b->policy],
           td_opt_choice(b->cfg, TD_OPT_KV_WIRE) ? "q8_0"
           : b->app.kv_f32                       ? "f32"
                                                 : "f16");
    struct td_far *far;
    struct td_far_info info;
    struct td_error ignored;
    if (b->policy != TD_REMOTE_NEVER && td_remote_peer(b->pair.remote, 0, &far, &ignored) == 0) {
        td_far_info(far, &info);
        printf("         reads there %s; here %s\n",
               td_pair_rate_text(&info.prefill, there, sizeof(there)),
               td_pair_rate_text(&b->pair.prefill, here, sizeof(here)));
    }
    printf("build    tandem %s (%s), %u threads, chunk %u\n\n", TD_VERSION, TD_COMMIT,
           b->app.n_threads, b->app.chunk);
    printf("| %-16s | %9s | %19s | %8s | %10s | %9s | %7s | %7s | %8s | %-8s |\n", "test",
           "seconds", "range", "far s", "transfer s", "exposed s", "overlap", "stall s", "MB",
           "path");
    printf("| :--------------- | --------: | ------------------: | -------: | ---------: | "
           "--------: | ------: | ------: | -------: | :------- |\n");
    fflush(stdout);
}

static void table_row(const struct bench *b, uint32_t n_prompt, uint32_t i_gen)
{
    struct range r[N_COLUMNS];
    char name[48], range[48];
    for (int c = 0; c < N_COLUMNS; c++) r[c] = range_of(b, i_gen, (enum column)c);
    row_name(b, n_prompt, i_gen, name, sizeof(name));
    snprintf(range, sizeof(range), "%.3f - %.3f", r[SECONDS].min, r[SECONDS].max);
    printf("| %-16s | %9.3f | %19s | %8.3f | %10.3f | %9.3f | %5.1f %% | %7.3f | %8.1f | %-8s |\n",
           name, r[SECONDS].median, range, r[FAR].median, r[TRANSFER].median, r[EXPOSED].median,
           r[OVERLAP].median, r[STALL].median, r[MEGABYTES].median, path_of(b));
    fflush(stdout);
}

static json_t *row_json(const struct bench *b, uint32_t n_prompt, uint32_t i_gen)
{
    json_t *o = json_object(), *prefill = json_array();
    json_t *ns = json_array(), *first_ns = json_array();
    const struct range r = range_of(b, i_gen, SECONDS);
    td_json_text(o, "build_commit", TD_COMMIT);
    td_json_text(o, "build_version", TD_VERSION);
    td_json_text(o, "model_filename", td_opt_text(b->cfg, TD_OPT_MODEL));
    td_json_text(o, "model_digest", b->app.model->digest);
    td_json_u64(o, "n_batch", b->app.chunk);
    td_json_u64(o, "n_threads", b->app.n_threads);
    td_json_u64(o, "n_prompt", n_prompt);
    td_json_u64(o, "n_gen", i_gen < b->n_gen ? b->gen[i_gen] : 0);
    td_json_f64(o, "median_seconds", r.median);
    td_json_f64(o, "min_seconds", r.min);
    td_json_f64(o, "max_seconds", r.max);
    td_json_f64(o, "ttft_seconds", range_of(b, b->n_gen, SECONDS).median);
    td_json_f64(o, "far_seconds", range_of(b, i_gen, FAR).median);
    td_json_f64(o, "transfer_seconds", range_of(b, i_gen, TRANSFER).median);
    td_json_f64(o, "exposed_seconds", range_of(b, i_gen, EXPOSED).median);
    td_json_f64(o, "overlap", range_of(b, i_gen, OVERLAP).median / 100);
    td_json_f64(o, "stall_seconds", range_of(b, i_gen, STALL).median);
    td_json_f64(o, "bytes", range_of(b, i_gen, MEGABYTES).median * 1e6);
    td_json_text(o, "path", path_of(b));
    for (uint32_t i = 0; i < b->n_repeat; i++) {
        json_array_append_new(ns, json_integer((json_int_t)(value(b, i, i_gen, SECONDS) * 1e9)));
        json_array_append_new(first_ns,
                              json_integer((json_int_t)(value(b, i, b->n_gen, SECONDS) * 1e9)));
        json_array_append_new(prefill, td_pair_stats_json(&b->samples[i].stats));
    }
    json_object_set_new(o, "samples_ns", ns);
    json_object_set_new(o, "samples_first_ns", first_ns);
    json_object_set_new(o, "prefill", prefill);
    return o;
}

static void report(struct bench *b, uint32_t n_prompt)
{
    const bool is_table = td_opt_choice(b->cfg, TD_OPT_FORMAT) == TD_BENCH_MD;
    for (uint32_t k = 0; k <= b->n_gen; k++) {
        const uint32_t i_gen = k == 0 ? b->n_gen : k - 1; // the first token first
        if (is_table) table_row(b, n_prompt, i_gen);
        json_array_append_new(b->list, row_json(b, n_prompt, i_gen));
    }
}

// ---- run --------------------------------------------------------------------------------------

static int measure(struct bench *b, uint32_t n_prompt, struct td_error *err)
{
    const uint32_t n_single = b->n_gen ? b->gen[b->n_gen - 1] : 0;
    struct sample warm;
    struct td_progress progress;
    char name[32];
    int code = repeat(b, td_min_u32(n_prompt, b->app.chunk), td_min_u32(n_single, WARM_UP_SINGLE),
                      99, &warm, err);
    snprintf(name, sizeof(name), "pp%u", n_prompt);
    td_progress_begin(&progress, name, "repetitions");
    for (uint32_t i = 0; i < b->n_repeat && code == TD_OK; i++) {
        (void)td_progress_step(&progress, i, b->n_repeat);
        code = repeat(b, n_prompt, n_single, 1000ull * n_prompt + i, &b->samples[i], err);
    }
    td_progress_end(&progress);
    if (code == TD_OK) report(b, n_prompt);
    return code;
}

static int prepare(struct bench *b, struct td_error *err)
{
    const uint32_t n_single = b->n_gen ? b->gen[b->n_gen - 1] : 0;
    uint32_t most = 0;
    for (uint32_t i = 0; i < b->n_prompt; i++) most = td_max_u32(most, b->prompt[i]);
    const uint64_t n_ctx = (uint64_t)most + n_single + 1;
    const struct td_app_wants wants = {.n_ctx = (uint32_t)n_ctx, .max_logits_rows = 1};
    int code = td_pair_key(&b->pair, b->cfg, err);
    if (code == TD_OK) code = td_app_open(&b->app, b->cfg, &wants, err);
    if (code == TD_OK) code = td_pair_open(&b->pair, &b->app, b->policy, err);
    if (code != TD_OK) return code;
    b->tokens = calloc((size_t)n_ctx, sizeof(*b->tokens));
    b->samples = calloc(b->n_repeat, sizeof(*b->samples));
    b->list = json_array();
    if (!b->tokens || !b->samples)
        return td_fail(err, TD_ENOMEM, "no memory for %llu tokens", (unsigned long long)n_ctx);
    code = td_session_open(&b->session, b->app.engine, (uint32_t)n_ctx, err);
    if (code != TD_OK) return code;
    td_app_on_interrupt(b->session);
    const char *path = td_opt_text(b->cfg, TD_OPT_SAVE);
    if (path) b->saved = fopen(path, "w");
    if (path && !b->saved) return td_fail(err, TD_EIO, "%.160s: %s", path, td_app_why(errno));
    return TD_OK;
}

static int run(struct bench *b, struct td_error *err)
{
    int code = prepare(b, err);
    if (code != TD_OK) return code;
    const bool is_json = td_opt_choice(b->cfg, TD_OPT_FORMAT) == TD_BENCH_JSON;
    if (!is_json) table_begin(b);
    for (uint32_t i = 0; i < b->n_prompt && code == TD_OK; i++)
        code = measure(b, b->prompt[i], err);
    if (code != TD_OK) return code;
    if (is_json && td_json_print(stdout, json_incref(b->list), JSON_INDENT(2)) != 0)
        return td_fail(err, TD_EIO, "the JSON cannot be written");
    if (!b->saved) return TD_OK;
    const int wrote = td_json_print(b->saved, json_incref(b->list), JSON_INDENT(2));
    const int closed = fclose(b->saved);
    b->saved = NULL;
    if (wrote != 0 || closed != 0)
        return td_fail(err, TD_EIO, "%.160s: cannot be written", td_opt_text(b->cfg, TD_OPT_SAVE));
    return TD_OK;
}

int td_bench_prefill(const struct td_config *cfg)
{
    struct bench b = {.cfg = cfg, .n_repeat = (uint32_t)td_opt_u64(cfg, TD_OPT_REPEAT)};
    if (td_opt_is_set(cfg, TD_OPT_DEPTH) || td_opt_is_set(cfg, TD_OPT_FILL))
        return td_app_usage(cfg, "with --prefill every prompt is read from its start: no -d");
    if (td_opt_is_set(cfg, TD_OPT_OPS)) return td_app_usage(cfg, "--ops goes without --prefill");
    if (td_opt_choice(cfg, TD_OPT_FORMAT) == TD_BENCH_CSV)
        return td_app_usage(cfg, "--prefill has no form as CSV: use -o md or -o json");
    td_opt_list(cfg, TD_OPT_N_PROMPT, b.prompt, MAX_LIST, &b.n_prompt);
    // Answers only when asked for: a first token needs none.
    if (td_opt_is_set(cfg, TD_OPT_N_GEN)) td_opt_list(cfg, TD_OPT_N_GEN, b.gen, MAX_LIST, &b.n_gen);
    if (b.n_gen == 1 && b.gen[0] == 0) b.n_gen = 0;
    qsort(b.gen, b.n_gen, sizeof(b.gen[0]), by_count);
    if (b.n_gen && b.gen[0] == 0) return td_app_usage(cfg, "a length of 0 stands beside others");
    for (uint32_t i = 0; i < b.n_prompt; i++)
        if (b.prompt[i] < 2)
            return td_app_usage(cfg, "--prefill needs prompts of 2 tokens or more: -p 512,2048");
    b.policy = td_opt_is_set(cfg, TD_OPT_POLICY)
                   ? (enum td_remote_policy)td_opt_choice(cfg, TD_OPT_POLICY)
                   : TD_REMOTE_REQUIRE;
    struct td_error err = {0};
    if (td_app_check_model_path(td_opt_text(cfg, TD_OPT_MODEL), &err) != TD_OK)
        return td_app_fail(&err);
    const int code = run(&b, &err);
    td_app_on_interrupt(NULL);
    td_session_close(b.session);
    td_pair_close(&b.pair);
    if (b.app.model) td_app_close(&b.app);
    json_decref(b.list);
    free(b.tokens);
    free(b.samples);
    if (b.saved) fclose(b.saved);
    return code == TD_OK ? TD_EXIT_OK : td_app_fail(&err);
}
