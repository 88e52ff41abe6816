// SPDX-License-Identifier: MIT
// `tandem bench`: runs prompts and answers of random tokens at several depths and takes the time.
// A depth is filled once; each repetition goes on from there with other tokens, so that the engine
// rewinds instead of reading the whole depth again.
#include "app/bench.h"

#include "app/commands.h"
#include "app/pair.h"
#include "base/clock.h"
#include "base/num.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MAX_LIST = 64, WARM_UP_TOKENS = 4 };

// What one turn of the read loop reads: long against a barrier, short against a repetition.
#define MIN_LOOP_BYTES ((uint64_t)64 << 20)
#define MAX_LOOP_BYTES ((uint64_t)4 << 30)

struct bench {
    struct td_bench shared;
    struct td_session *session;
    int32_t *tokens; // (n_ctx): the depth's, then a repetition's
    struct td_bench_report *report;
    struct td_bench_row row;
    struct td_progress progress;
    struct td_probe_reader *reader; // NULL: no single tokens are measured
    struct td_cost *costs;          // (n_ops) of one repetition, with --ops
};

static bool is_wanted(void)
{
    return !td_app_interrupted();
}

static void random_tokens(struct bench *b, uint32_t first, uint32_t n, uint64_t seed)
{
    struct td_rng rng = {.state = seed};
    for (uint32_t i = 0; i < n; i++)
        b->tokens[first + i] = (int32_t)(td_rng_u64(&rng) % b->shared.app.model->spec.n_vocab);
}

// FNV-1a over the logits' bytes: two builds that should compute the same show it here.
static uint64_t hash(const float *x, uint32_t n)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t bits = td_bits_of_f32(x[i]);
        for (int k = 0; k < 4; k++) h = (h ^ ((bits >> (8 * k)) & 0xffu)) * 0x100000001b3u;
    }
    return h;
}

static void add_cost(struct td_cost *sum, const struct td_cost *c)
{
    sum->weight_bytes += c->weight_bytes;
    sum->kv_read_bytes += c->kv_read_bytes;
    sum->kv_write_bytes += c->kv_write_bytes;
    sum->flop += c->flop;
}

// What one repetition costs by the program's own count: chunks of a prompt, or single tokens.
static void price(struct bench *b, struct td_bench_row *row)
{
    const struct td_app *app = &b->shared.app;
    const uint32_t n = row->n_prompt ? row->n_prompt : row->n_gen;
    const uint32_t chunk = row->n_prompt ? app->chunk : 1;
    for (uint32_t i = 0; i < n; i += chunk) {
        const uint32_t n_rows = td_min_u32(chunk, n - i);
        const uint32_t n_want = row->n_gen || i + n_rows == n ? 1 : 0;
        for (uint32_t k = 0; k < app->model->program.n_ops; k++) {
            struct td_cost cost = {0};
            td_cost_op(&cost, app->model, k, n_rows, row->depth + i, n_want, app->kv_f32 ? 4 : 2);
            row->bytes += cost.weight_bytes + cost.kv_read_bytes + cost.kv_write_bytes;
            row->flop += cost.flop;
            if (b->costs) add_cost(&b->costs[k], &cost);
        }
    }
}

// One repetition behind the depth: a prompt of n_prompt tokens, or n_gen single ones.
static int repeat(struct bench *b, uint32_t depth, uint32_t n_prompt, uint32_t n_gen, uint64_t seed,
                  uint64_t *t_ns_out, struct td_error *err)
{
    random_tokens(b, depth, n_prompt ? n_prompt : n_gen, seed);
    const uint64_t t0_ns = td_clock_ns();
    // The depth is marked as a place to come back to.
    int code = td_session_sync(b->session, b->tokens, depth + (n_prompt ? n_prompt : 1), &depth,
                               depth > 0, NULL, NULL, err);
    for (uint32_t i = 1; i < n_gen && code == TD_OK; i++) {
        code = td_session_append(b->session, b->tokens[depth + i], err);
        if (code == TD_OK) code = td_engine_step(b->shared.app.engine, NULL, err);
    }
    *t_ns_out = td_clock_ns() - t0_ns;
    if (code == TD_OK && td_app_interrupted()) code = td_fail(err, TD_ECANCEL, "interrupted");
    return code;
}

// One turn of the plain loop; bytes per second.
static double read_loop(struct bench *b)
{
    if (!b->reader) return 0;
    uint64_t n = td_probe_reader_bytes(b->reader) / 3;
    n = n < MIN_LOOP_BYTES ? MIN_LOOP_BYTES : n > MAX_LOOP_BYTES ? MAX_LOOP_BYTES : n;
    return td_probe_read(b->reader, n);
}

// Brings the session to the depth; says when the engine could not keep it.
static int fill(struct bench *b, uint32_t depth, struct td_error *err)
{
    if (depth == 0) return TD_OK;
    random_tokens(b, 0, depth, 1);
    if (td_opt_choice(b->shared.cfg, TD_OPT_FILL) == 1)
        return td_bench_fill_noise(&b->shared.app, b->session, b->tokens, depth, err);
    char label[48];
    snprintf(label, sizeof(label), "filling %u", depth);
    td_progress_begin(&b->progress, label, "tokens");
    const int code =
        td_session_sync(b->session, b->tokens, depth, NULL, 0, td_progress_step, &b->progress, err);
    td_progress_end(&b->progress);
    return code;
}

// Of the maps of a model's files, one for each part; synthetic weights have none.
static uint64_t huge_bytes(const struct td_model *m)
{
    uint64_t sum = 0;
    uint32_t n_seen = 0;
    // Parts are in order: the first tensor of each gives an address in its map.
    for (uint32_t i = 0; !m->synth && i < td_gguf_n_tensors(m->gguf); i++) {
        const struct td_gguf_tensor *t = td_gguf_tensor_at(m->gguf, i);
        if (t->i_part < n_seen) continue;
        n_seen = t->i_part + 1;
        sum += td_os_huge_bytes(t->data);
    }
    return sum;
}

static int measure(struct bench *b, uint32_t depth, uint32_t n_prompt, uint32_t n_gen,
                   struct td_error *err)
{
    struct td_bench_row *row = &b->row;
    *row = (struct td_bench_row){.n_prompt = n_prompt, .n_gen = n_gen, .depth = depth};
    const time_t now = time(NULL);
    struct tm utc;
    if (gmtime_r(&now, &utc))
        strftime(row->test_time, sizeof(row->test_time), "%Y-%m-%dT%H:%M:%SZ", &utc);
    if (b->costs) memset(b->costs, 0, b->shared.app.model->program.n_ops * sizeof(*b->costs));
    price(b, row);

    char name[48];
    td_bench_row_name(row, name, sizeof(name));
    uint64_t t_ns;
    // The first run of a shape pays for pages that nobody had touched.
    const uint32_t warm =
        n_prompt ? td_min_u32(n_prompt, b->shared.app.chunk) : td_min_u32(n_gen, WARM_UP_TOKENS);
    int code = repeat(b, depth, n_prompt ? warm : 0, n_prompt ? 0 : warm, 99, &t_ns, err);
    const uint32_t n = (uint32_t)td_opt_u64(b->shared.cfg, TD_OPT_REPEAT);
    if (code == TD_OK && b->costs) code = td_engine_time_steps(b->shared.app.engine, true, err);
    td_progress_begin(&b->progress, name, "repetitions");
    if (n_gen && code == TD_OK) row->loop_bytes_per_s[0] = read_loop(b);
    for (uint32_t i = 0; i < n && code == TD_OK; i++) {
        (void)td_progress_step(&b->progress, i, n);
        code = repeat(b, depth, n_prompt, n_gen, 100 + i, &t_ns, err);
        if (code != TD_OK) break;
        if (td_session_reused(b->session) != depth) {
            // The time would be that of more tokens than the row says.
            code = td_fail(err, TD_EUNSUP, "%s: the engine kept %u of %u tokens", name,
                           td_session_reused(b->session), depth);
            break;
        }
        row->samples_ns[row->n_samples++] = t_ns;
        if (n_gen) row->loop_bytes_per_s[i + 1] = read_loop(b);
        if (i == 0)
            row->logits_hash =
                hash(td_session_logits(b->session), b->shared.app.model->spec.n_vocab);
    }
    td_progress_end(&b->progress);
    if (code == TD_OK && b->costs) code = td_engine_time_steps(b->shared.app.engine, false, err);
    if (code == TD_OK && b->costs)
        code = td_bench_ops_take(&row->ops, &b->shared, row, b->costs, err);
    if (code != TD_OK) return code;
    row->snapshot_bytes = td_session_snapshot_bytes(b->session);
    td_os_rss(&row->rss);
    row->huge_bytes = huge_bytes(b->shared.app.model);
    td_engine_report(b->shared.app.engine, &row->device);
    const uint64_t shared_bytes = row->rss.file_bytes + row->device.kv_bytes;
    if (!b->shared.app.model->synth && row->rss.now_bytes > shared_bytes)
        row->own_bytes = row->rss.now_bytes - shared_bytes;
    td_bench_report_row(b->report, row);
    return TD_OK;
}

// "gpt-oss 20.9B MXFP4": the architecture, all parameters, the type most bytes have.
static void describe(struct td_bench *b)
{
    const struct td_model *m = b->app.model;
    for (uint32_t i = 0; i < m->n_weights; i++) {
        const struct td_weight_info *w = &m->weights[i];
        uint64_t n = 1;
        for (uint32_t d = 0; d < w->n_dims; d++) n *= w->dim[d];
        b->n_params += n;
    }
    const double n = (double)b->n_params;
    snprintf(b->model_type, sizeof(b->model_type), "%.30s %.1f%c %s", m->spec.arch,
             n >= 1e9 ? n * 1e-9 : n * 1e-6, n >= 1e9 ? 'B' : 'M', td_app_main_type(m));
}

// Measures the machine in a process of its own, so that its buffer does not count as this one's
// peak memory. Before any thread is started.
static int probe_apart(struct td_bench *b, struct td_error *err)
{
    struct answer {
        int code;
        struct td_probe probe;
        struct td_error err;
    } answer = {0};
    int ends[2];
    if (pipe(ends) != 0) return td_fail(err, TD_EIO, "no pipe: %s", td_app_why(errno));
    fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
        const enum td_isa isa = b->cfg->isa < 0 ? td_isa_native() : (enum td_isa)b->cfg->isa;
        answer.code = td_probe_measure(&answer.probe, td_app_threads(b->cfg), true, isa, is_wanted,
                                       &answer.err);
        const ssize_t n = write(ends[1], &answer, sizeof(answer));
        _exit(n == (ssize_t)sizeof(answer) ? 0 : 1);
    }
    close(ends[1]);
    // Smaller than PIPE_BUF, so it comes whole. Pointers in it are to constants: the same here.
    ssize_t n = -1;
    if (child > 0) do {
            n = read(ends[0], &answer, sizeof(answer));
        } while (n < 0 && errno == EINTR);
    close(ends[0]);
    while (child > 0 && waitpid(child, NULL, 0) < 0 && errno == EINTR) {
    }
    if (n != (ssize_t)sizeof(answer))
        return td_fail(err, TD_EIO, "the machine could not be measured");
    if (answer.code != TD_OK) return td_fail(err, answer.code, "%s", answer.err.msg);
    b->machine = answer.probe;
    return TD_OK;
}

struct lists {
    uint32_t prompt[MAX_LIST], gen[MAX_LIST], depth[MAX_LIST];
    uint32_t n_prompt, n_gen, n_depth;
};

static uint32_t largest(const uint32_t *list, uint32_t n)
{
    uint32_t most = 0;
    for (uint32_t i = 0; i < n; i++) most = td_max_u32(most, list[i]);
    return most;
}

// The bar for single tokens. Its first turn goes once over everything, so that no measurement pays
// for pages that were not mapped yet; a model that does not fit in memory would only be dragged
// through it.
static int open_reader(struct bench *b, struct td_error *err)
{
    const struct td_app *app = &b->shared.app;
    const struct td_model *m = app->model;
    const enum td_isa isa =
        b->shared.cfg->isa < 0 ? td_isa_native() : (enum td_isa)b->shared.cfg->isa;
    struct td_probe_span *spans = calloc(m->n_weights, sizeof(*spans));
    if (!spans) return td_fail(err, TD_ENOMEM, "no memory for %u spans", m->n_weights);
    for (uint32_t i = 0; i < m->n_weights; i++)
        spans[i] = (struct td_probe_span){m->weights[i].data, (size_t)m->weights[i].size_bytes};
    const int code =
        td_probe_reader_open(&b->reader, spans, m->n_weights, app->n_threads, isa, err);
    free(spans);
    if (code == TD_EARG) return TD_OK; // a toy of less than a megabyte: no bar
    if (code == TD_OK && m->weights_bytes < b->shared.os.memory_bytes / 10 * 9)
        (void)td_probe_read(b->reader, td_probe_reader_bytes(b->reader));
    return code;
}

static int prepare(struct bench *b, const struct lists *l, struct td_error *err)
{
    struct td_bench *s = &b->shared;
    const uint64_t n_ctx = (uint64_t)largest(l->depth, l->n_depth) +
                           td_max_u32(largest(l->prompt, l->n_prompt), largest(l->gen, l->n_gen)) +
                           1;
    const struct td_app_wants wants = {
        .n_ctx = (uint32_t)n_ctx, .max_logits_rows = 1, .quiet = true};
    td_os_info(&s->os);
    int code = probe_apart(s, err);
    if (code != TD_OK) return code;
    const uint64_t t0_ns = td_clock_ns();
    code = td_app_open(&s->app, s->cfg, &wants, err);
    if (code != TD_OK) return code;
    b->tokens = calloc((size_t)n_ctx, sizeof(*b->tokens));
    if (td_opt_is_set(s->cfg, TD_OPT_OPS)) {
        b->costs = calloc(s->app.model->program.n_ops, sizeof(*b->costs));
        if (!b->costs) return td_fail(err, TD_ENOMEM, "no memory for the prices of the ops");
    }
    if (!b->tokens)
        return td_fail(err, TD_ENOMEM, "no memory for %llu tokens", (unsigned long long)n_ctx);
    code = td_session_open(&b->session, s->app.engine, (uint32_t)n_ctx, err);
    if (code != TD_OK) return code;
    td_app_on_interrupt(b->session);
    code = td_session_sync(b->session, b->tokens, 1, NULL, 0, NULL, NULL, err);
    if (code != TD_OK) return code;
    s->first_token_seconds = (double)(td_clock_ns() - t0_ns) * 1e-9;
    describe(s);
    if (l->n_gen) code = open_reader(b, err);
    if (code != TD_OK) return code;
    return td_bench_report_open(&b->report, s, err);
}

static int bench(struct bench *b, const struct lists *l, struct td_error *err)
{
    int code = prepare(b, l, err);
    for (uint32_t d = 0; d < l->n_depth && code == TD_OK; d++) {
        code = fill(b, l->depth[d], err);
        for (uint32_t i = 0; i < l->n_prompt && code == TD_OK; i++)
            code = measure(b, l->depth[d], l->prompt[i], 0, err);
        for (uint32_t i = 0; i < l->n_gen && code == TD_OK; i++)
            code = measure(b, l->depth[d], 0, l->gen[i], err);
    }
    return code == TD_OK ? td_bench_report_end(b->report, err) : code;
}

// A list given as "0" alone leaves its rows out.
static void get_list(const struct td_config *cfg, enum td_opt opt, uint32_t *out, uint32_t *n_out)
{
    td_opt_list(cfg, opt, out, MAX_LIST, n_out);
    if (opt != TD_OPT_DEPTH && *n_out == 1 && out[0] == 0) *n_out = 0;
}

int td_cmd_bench(const struct td_config *cfg)
{
    const char *usage;
    if (!td_pair_is_usable(cfg, &usage)) return td_app_usage(cfg, "%s", usage);
    if (td_opt_is_set(cfg, TD_OPT_PREFILL)) return td_bench_prefill(cfg);
    struct td_error err = {0};
    struct bench b = {.shared = {.cfg = cfg}};
    struct lists l;
    get_list(cfg, TD_OPT_N_PROMPT, l.prompt, &l.n_prompt);
    get_list(cfg, TD_OPT_N_GEN, l.gen, &l.n_gen);
    get_list(cfg, TD_OPT_DEPTH, l.depth, &l.n_depth);
    if (l.n_prompt + l.n_gen == 0) return td_app_usage(cfg, "-p 0 and -n 0 leave nothing to do");
    for (uint32_t i = 0; i < l.n_prompt + l.n_gen; i++)
        if ((i < l.n_prompt ? l.prompt[i] : l.gen[i - l.n_prompt]) == 0)
            return td_app_usage(cfg, "a length of 0 stands beside others");
    if (td_opt_is_set(cfg, TD_OPT_OPS) && td_opt_choice(cfg, TD_OPT_FORMAT) == TD_BENCH_CSV)
        return td_app_usage(cfg, "--ops has no form as CSV: use -o md or -o json");
    b.shared.model_path = td_opt_text(cfg, TD_OPT_MODEL);
    if (td_app_check_model_path(b.shared.model_path, &err) != TD_OK) return td_app_fail(&err);

    const int code = bench(&b, &l, &err);
    td_app_on_interrupt(NULL);
    td_bench_report_close(b.report);
    td_session_close(b.session);
    td_probe_reader_close(b.reader);
    free(b.tokens);
    free(b.costs);
    if (b.shared.app.model) td_app_close(&b.shared.app);
    return code == TD_OK ? TD_EXIT_OK : td_app_fail(&err);
}
