// SPDX-License-Identifier: MIT
// `tandem eval`: logits to a file, perplexity of a text, distance to reference logits. Memory is
// bounded by a few rows of logits; they are used as they come.
#include "app/app.h"
#include "app/commands.h"
#include "app/json.h"
#include "app/npy.h"
#include "app/pair.h"

#include "base/num.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_FILE_BYTES = 1 << 30 };

// Ids separated by white space.
static int parse_ids(const char *text, size_t size_bytes, const char *name, struct td_ids *out,
                     struct td_error *err)
{
    if (strlen(text) != size_bytes)
        return td_fail(err, TD_EFORMAT, "%.160s: not a list of token ids", name);
    const char *at = text;
    for (;;) {
        at += strspn(at, " \t\r\n\f\v");
        if (!*at) break;
        const size_t len = strcspn(at, " \t\r\n\f\v");
        char *end = NULL;
        errno = 0;
        const unsigned long v = isdigit((unsigned char)*at) ? strtoul(at, &end, 10) : 0;
        if (end != at + len || errno != 0 || v > INT32_MAX)
            return td_fail(err, TD_EFORMAT, "%.120s: '%.*s' is not a token id", name,
                           (int)(len < 40 ? len : 40), at);
        if (td_ids_push(out, (int32_t)v) != TD_OK)
            return td_fail(err, TD_ENOMEM, "%.160s: no memory for its tokens", name);
        at += len;
    }
    if (out->n == 0) return td_fail(err, TD_EFORMAT, "%.160s: no token ids in it", name);
    if (out->n > UINT32_MAX / 2) return td_fail(err, TD_EARG, "%.160s: too many tokens", name);
    return TD_OK;
}

static int read_ids(const struct td_config *cfg, struct td_ids *out, struct td_error *err)
{
    const char *path = td_opt_text(cfg, TD_OPT_TOKENS);
    char *text = NULL;
    size_t size_bytes = 0;
    int code = td_app_read_file(path, MAX_FILE_BYTES, &text, &size_bytes, err);
    if (code == TD_OK) code = parse_ids(text, size_bytes, path, out, err);
    free(text);
    return code;
}

// log(sum(exp(x))), in double; the logits are not touched.
static double log_sum_exp(const float *x, uint32_t n)
{
    float max = -INFINITY;
    for (uint32_t i = 0; i < n; i++)
        if (x[i] > max) max = x[i];
    double sum = 0;
    for (uint32_t i = 0; i < n; i++) sum += exp((double)(x[i] - max));
    return (double)max + log(sum);
}

static uint32_t most_likely(const float *x, uint32_t n)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < n; i++)
        if (x[i] > x[best]) best = i;
    return best;
}

struct eval {
    struct td_app app;
    struct td_pair pair;
    struct td_session *session;
    struct td_progress progress;
    uint32_t n_vocab;
    uint32_t n_total; // rows of the whole job, for the bar
    uint32_t n_done;  // rows of finished windows
};

static int eval_begin(struct eval *e, const struct td_config *cfg, uint32_t n_ctx, bool only_last,
                      bool text, struct td_error *err)
{
    const struct td_app_wants wants = {
        .n_ctx = n_ctx, .max_logits_rows = only_last ? 1 : 0, .text = text};
    int code = td_pair_key(&e->pair, cfg, err);
    if (code == TD_OK) code = td_app_open(&e->app, cfg, &wants, err);
    if (code == TD_OK)
        code = td_pair_open(&e->pair, &e->app,
                            (enum td_remote_policy)td_opt_choice(cfg, TD_OPT_POLICY), err);
    if (code != TD_OK) return code;
    e->n_vocab = e->app.model->spec.n_vocab;
    code = td_session_open(&e->session, e->app.engine, n_ctx, err);
    if (code != TD_OK) return code;
    td_app_on_interrupt(e->session);
    td_progress_begin(&e->progress, "evaluating", "tokens");
    return TD_OK;
}

static void eval_end(struct eval *e)
{
    td_progress_end(&e->progress);
    td_app_on_interrupt(NULL);
    td_session_close(e->session);
    td_pair_close(&e->pair);
    if (e->app.model) td_app_close(&e->app);
}

// --logits: rows go to the file as they come.
struct logits_file {
    struct eval e;
    FILE *out;
    const char *path;
};

static int write_rows(void *ctx, uint32_t i0, uint32_t n, const float *logits, struct td_error *err)
{
    struct logits_file *f = ctx;
    const size_t n_floats = (size_t)n * f->e.n_vocab;
    if (fwrite(logits, sizeof(float), n_floats, f->out) != n_floats)
        return td_fail(err, TD_EIO, "%.160s: %s", f->path, td_app_why(errno));
    (void)td_progress_step(&f->e.progress, i0 + n, f->e.n_total);
    return TD_OK;
}

// Where the prompt was read, as --stats wants it.
static void print_stats(const struct td_config *cfg, const struct td_remote_stats *stats)
{
    char text[400];
    switch (td_opt_choice(cfg, TD_OPT_STATS)) {
    case 0: td_app_note("%s", td_pair_stats_text(stats, text, sizeof(text))); break;
    case 1: {
        json_t *out = json_object();
        json_object_set_new(out, "prefill", td_pair_stats_json(stats));
        (void)td_json_print(stderr, out, JSON_COMPACT);
        break;
    }
    }
}

static int write_logits(struct logits_file *f, const struct td_config *cfg,
                        const struct td_ids *ids, struct td_error *err)
{
    const bool only_last = td_opt_is_set(cfg, TD_OPT_LAST);
    const uint32_t n = (uint32_t)ids->n;
    int code = eval_begin(&f->e, cfg, n, only_last, false, err);
    if (code != TD_OK) return code;
    f->e.n_total = n;
    f->out = fopen(f->path, "wb");
    if (!f->out) return td_fail(err, TD_EIO, "%.160s: %s", f->path, td_app_why(errno));
    code = td_npy_begin(f->out, only_last ? 1 : n, f->e.n_vocab, err);
    if (code != TD_OK) return code;
    if (!only_last) return td_session_eval(f->e.session, ids->at, n, write_rows, f, err);
    struct td_remote_stats stats;
    code = td_pair_sync(&f->e.pair, f->e.session, ids->at, n, NULL, 0, &stats, err);
    if (code != TD_OK) return code;
    if (f->e.pair.remote) print_stats(cfg, &stats);
    return write_rows(f, n - 1, 1, td_session_logits(f->e.session), err);
}

static int eval_logits(const struct td_config *cfg, const struct td_ids *ids, struct td_error *err)
{
    struct logits_file f = {.path = td_opt_text(cfg, TD_OPT_LOGITS)};
    int code = write_logits(&f, cfg, ids, err);
    // A full disk may show only when the last bytes leave the buffer.
    if (f.out && fclose(f.out) != 0 && code == TD_OK)
        code = td_fail(err, TD_EIO, "%.160s: %s", f.path, td_app_why(errno));
    struct stat st;
    if (f.out && code != TD_OK && stat(f.path, &st) == 0 && S_ISREG(st.st_mode))
        (void)unlink(f.path); // no half array under the name of a whole one
    eval_end(&f.e);
    return code;
}

// --kl: one row of the reference against one of ours.
struct kl {
    struct eval e;
    struct td_npy base;
    double *values; // (n_rows) KL of each position, nats
    float *row;     // (n_vocab) reference, aligned
    double sum_diff2, sum_base2;
    uint32_t n_same;
};

static int compare_rows(void *ctx, uint32_t i0, uint32_t n, const float *logits,
                        struct td_error *err)
{
    struct kl *k = ctx;
    const uint32_t n_vocab = k->e.n_vocab;
    for (uint32_t r = 0; r < n; r++) {
        const float *ours = logits + (size_t)r * n_vocab;
        memcpy(k->row, k->base.data + (size_t)(i0 + r) * n_vocab * sizeof(float),
               n_vocab * sizeof(float));
        const double z_base = log_sum_exp(k->row, n_vocab);
        const double z_ours = log_sum_exp(ours, n_vocab);
        double sum = 0, diff2 = 0, base2 = 0;
        for (uint32_t i = 0; i < n_vocab; i++) {
            const double log_p = (double)k->row[i] - z_base;
            const double log_q = (double)ours[i] - z_ours;
            const double diff = (double)ours[i] - (double)k->row[i];
            // A probability that rounds to 0 adds nothing, also when the reference has -inf there.
            const double p = exp(log_p);
            if (p > 0) sum += p * (log_p - log_q);
            diff2 += diff * diff;
            base2 += (double)k->row[i] * (double)k->row[i];
        }
        if (!isfinite(sum))
            return td_fail(err, TD_EFORMAT, "position %u: the logits are not finite numbers",
                           i0 + r);
        k->values[i0 + r] = sum;
        k->sum_diff2 += diff2;
        k->sum_base2 += base2;
        k->n_same += most_likely(k->row, n_vocab) == most_likely(ours, n_vocab);
    }
    (void)td_progress_step(&k->e.progress, i0 + n, k->e.n_total);
    return TD_OK;
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static void print_kl(struct kl *k, bool json)
{
    const uint32_t n = k->e.n_total;
    double sum = 0;
    for (uint32_t i = 0; i < n; i++) sum += k->values[i];
    qsort(k->values, n, sizeof(k->values[0]), by_value);
    // Nearest rank: the smallest value with at least 99 % of the positions at or below it.
    const uint32_t i99 = (uint32_t)ceil(0.99 * n) - 1;
    const double nmse = k->sum_base2 > 0 ? k->sum_diff2 / k->sum_base2 : 0;
    if (json) {
        json_t *out = json_object();
        td_json_u64(out, "n_tokens", n);
        td_json_f64(out, "kl_mean", sum / n);
        td_json_f64(out, "kl_p99", k->values[i99]);
        td_json_f64(out, "kl_max", k->values[n - 1]);
        td_json_u64(out, "top1_same", k->n_same);
        td_json_f64(out, "top1_agreement", (double)k->n_same / n);
        td_json_f64(out, "nmse", nmse);
        (void)td_json_print(stdout, out, JSON_COMPACT);
        return;
    }
    printf("KL(reference || ours), nats, %u positions\n"
           "  mean    %.4e\n"
           "  99th %%  %.4e\n"
           "  max     %.4e\n"
           "top-1 agreement  %u/%u (%.2f %%)\n"
           "NMSE of logits   %.4e\n",
           n, sum / n, k->values[i99], k->values[n - 1], k->n_same, n, 100.0 * k->n_same / n, nmse);
}

static int compare(struct kl *k, const struct td_config *cfg, const struct td_ids *ids,
                   struct td_error *err)
{
    const char *path = td_opt_text(cfg, TD_OPT_KL);
    const uint32_t n = (uint32_t)ids->n;
    int code = td_npy_open(&k->base, path, err);
    if (code != TD_OK) return code;
    if (n == 0 || k->base.n_rows != n)
        return td_fail(err, TD_EARG, "%.120s has %llu rows for %u tokens: not the logits of these",
                       path, (unsigned long long)k->base.n_rows, n);
    code = eval_begin(&k->e, cfg, n, false, false, err);
    if (code != TD_OK) return code;
    k->e.n_total = n;
    if (k->base.n_cols != k->e.n_vocab)
        return td_fail(err, TD_EARG, "%.120s has %llu columns, the model's vocabulary has %u", path,
                       (unsigned long long)k->base.n_cols, k->e.n_vocab);
    k->values = calloc(n, sizeof(k->values[0]));
    k->row = calloc(k->e.n_vocab, sizeof(float));
    if (!k->values || !k->row) return td_fail(err, TD_ENOMEM, "no memory to compare %u rows", n);
    code = td_session_eval(k->e.session, ids->at, n, compare_rows, k, err);
    if (code == TD_OK) {
        td_progress_end(&k->e.progress);
        print_kl(k, td_opt_is_set(cfg, TD_OPT_JSON));
    }
    return code;
}

static int eval_kl(const struct td_config *cfg, const struct td_ids *ids, struct td_error *err)
{
    struct kl k = {0};
    const int code = compare(&k, cfg, ids, err);
    eval_end(&k.e);
    free(k.values);
    free(k.row);
    td_npy_close(&k.base);
    return code;
}

// --ppl: sums over the scored tokens.
struct ppl {
    struct eval e;
    const int32_t *tokens; // of this window
    uint32_t n_window;
    uint32_t first; // the first position whose prediction is scored
    double sum, sum2;
    uint64_t n_scored;
};

static int score_rows(void *ctx, uint32_t i0, uint32_t n, const float *logits, struct td_error *err)
{
    struct ppl *p = ctx;
    for (uint32_t r = 0; r < n; r++) {
        const uint32_t i = i0 + r;
        if (i < p->first || i + 1 >= p->n_window) continue;
        const float *row = logits + (size_t)r * p->e.n_vocab;
        const double nll = log_sum_exp(row, p->e.n_vocab) - (double)row[p->tokens[i + 1]];
        if (!isfinite(nll))
            return td_fail(err, TD_EFORMAT, "position %u: the logits are not finite numbers", i);
        p->sum += nll;
        p->sum2 += nll * nll;
        p->n_scored++;
    }
    (void)td_progress_step(&p->e.progress, p->e.n_done + i0 + n, p->e.n_total);
    return TD_OK;
}

static void print_ppl(const struct ppl *p, uint32_t n_windows, uint32_t n_left, bool json)
{
    const double n = (double)p->n_scored;
    const double mean = p->sum / n;
    const double variance = p->sum2 / n - mean * mean;
    const double ppl = exp(mean);
    // Of the mean, and by the derivative of exp of the perplexity.
    const double error = n > 1 && variance > 0 ? ppl * sqrt(variance / (n - 1)) : 0;
    if (json) {
        json_t *out = json_object();
        td_json_f64(out, "perplexity", ppl);
        td_json_f64(out, "standard_error", error);
        td_json_f64(out, "nll_mean", mean);
        td_json_u64(out, "n_ctx", p->n_window);
        td_json_u64(out, "n_windows", n_windows);
        td_json_u64(out, "n_scored", p->n_scored);
        td_json_u64(out, "n_left_out", n_left);
        (void)td_json_print(stdout, out, JSON_COMPACT);
        return;
    }
    printf("perplexity %.4f +- %.4f\n"
           "%u window%s of %u tokens, the second half of each scored: %llu tokens; %u at the end "
           "left out\n",
           ppl, error, n_windows, n_windows == 1 ? "" : "s", p->n_window,
           (unsigned long long)p->n_scored, n_left);
}

static int score(struct ppl *p, const struct td_config *cfg, struct td_ids *ids,
                 struct td_error *err)
{
    const char *path = td_opt_text(cfg, TD_OPT_TEXT_FILE);
    char *text = NULL;
    size_t size_bytes = 0;
    const uint32_t n_ctx = (uint32_t)td_opt_u64(cfg, TD_OPT_CTX_EVAL);
    int code = eval_begin(&p->e, cfg, n_ctx, false, true, err);
    if (code != TD_OK) return code;
    code = td_app_read_file(path, MAX_FILE_BYTES, &text, &size_bytes, err);
    if (code == TD_OK) code = td_encode(p->e.app.tokenizer, text, size_bytes, false, ids, err);
    free(text);
    if (code != TD_OK) return code;
    if (ids->n < 4)
        return td_fail(err, TD_EARG, "%.160s: %zu tokens are too few to score", path, ids->n);

    p->n_window = (uint32_t)(ids->n < n_ctx ? ids->n : n_ctx);
    p->first = p->n_window / 2;
    const uint32_t n_windows = (uint32_t)(ids->n / p->n_window);
    p->e.n_total = n_windows * p->n_window;
    for (uint32_t w = 0; w < n_windows; w++) {
        p->tokens = ids->at + (size_t)w * p->n_window;
        p->e.n_done = w * p->n_window;
        code = td_session_eval(p->e.session, p->tokens, p->n_window, score_rows, p, err);
        if (code != TD_OK) return code;
    }
    td_progress_end(&p->e.progress);
    print_ppl(p, n_windows, (uint32_t)(ids->n - p->e.n_total), td_opt_is_set(cfg, TD_OPT_JSON));
    return TD_OK;
}

static int eval_ppl(const struct td_config *cfg, struct td_error *err)
{
    struct ppl p = {0};
    struct td_ids ids = {0};
    const int code = score(&p, cfg, &ids, err);
    eval_end(&p.e);
    td_ids_free(&ids);
    return code;
}

int td_cmd_eval(const struct td_config *cfg)
{
    const bool has_tokens = td_opt_is_set(cfg, TD_OPT_TOKENS);
    const bool has_text = td_opt_is_set(cfg, TD_OPT_TEXT_FILE);
    const bool logits = td_opt_is_set(cfg, TD_OPT_LOGITS), kl = td_opt_is_set(cfg, TD_OPT_KL);
    const bool ppl = td_opt_is_set(cfg, TD_OPT_PPL);
    if (logits + kl + ppl != 1)
        return td_app_usage(cfg, "'eval' does one of --logits OUT.npy, --kl BASE.npy and --ppl");
    if (ppl && (!has_text || has_tokens))
        return td_app_usage(cfg, "--ppl needs a text: -f FILE --ppl");
    if (!ppl && (!has_tokens || has_text))
        return td_app_usage(cfg, "%s needs token ids: --tokens FILE", logits ? "--logits" : "--kl");
    if (td_opt_is_set(cfg, TD_OPT_LAST) && !logits)
        return td_app_usage(cfg, "--last goes with --logits");
    const char *usage;
    if (!td_pair_is_usable(cfg, &usage)) return td_app_usage(cfg, "%s", usage);
    if (td_opt_is_set(cfg, TD_OPT_PREFILL) && !td_opt_is_set(cfg, TD_OPT_LAST))
        return td_app_usage(cfg, "--prefill goes with --logits --last: a peer sends no logits");
    if (td_opt_is_set(cfg, TD_OPT_CTX_EVAL) && !ppl)
        return td_app_usage(cfg, "--ctx goes with --ppl");

    struct td_error err = {0};
    struct td_ids ids = {0};
    // Wrong files should be known before a large model is opened.
    int code = td_app_check_model_path(td_opt_text(cfg, TD_OPT_MODEL), &err);
    if (code == TD_OK && !ppl) code = read_ids(cfg, &ids, &err);
    if (code == TD_OK)
        code = ppl      ? eval_ppl(cfg, &err)
               : logits ? eval_logits(cfg, &ids, &err)
                        : eval_kl(cfg, &ids, &err);
    td_ids_free(&ids);
    return code == TD_OK ? TD_EXIT_OK : td_app_fail(&err);
}
