// SPDX-License-Identifier: MIT
// Answers as tables to read, as Markdown and as JSON.
#include "app/app.h"
#include "app/json.h"
#include "app/plan_impl.h"

#include <math.h>
#include <string.h>

// "0.043", "4.31", "43.1", "431": three digits that mean something.
static const char *short_number(char *out, size_t out_bytes, double v)
{
    const int digits = v >= 99.95 ? 0 : v >= 9.995 ? 1 : v >= 0.9995 ? 2 : 3;
    snprintf(out, out_bytes, "%.*f", digits, v);
    return out;
}

struct cell {
    char text[72];
};

#define MAX_COLUMNS 12

// One row of a table: Markdown with bars, text with columns as wide as the widest cell.
static void print_row(const struct cell *cells, uint32_t n, const size_t *width, bool is_md)
{
    for (uint32_t i = 0; i < n; i++) {
        const int w = (int)width[i];
        if (is_md)
            printf("| %s ", cells[i].text);
        else if (i == 0)
            printf("%-*s", w, cells[i].text);
        else
            printf("  %*s", w, cells[i].text);
    }
    puts(is_md ? "|" : "");
}

static void print_table(const struct cell *cells, uint32_t n_rows, uint32_t n_columns, bool is_md)
{
    size_t width[MAX_COLUMNS] = {0};
    for (uint32_t i = 0; i < n_rows * n_columns; i++) {
        const size_t len = strlen(cells[i].text);
        if (len > width[i % n_columns]) width[i % n_columns] = len;
    }
    for (uint32_t row = 0; row < n_rows; row++) {
        print_row(cells + (size_t)row * n_columns, n_columns, width, is_md);
        if (row == 0 && is_md)
            for (uint32_t i = 0; i < n_columns; i++)
                printf(i + 1 < n_columns ? (i ? "|--:" : "|---") : "|--:|\n");
    }
}

static void put(struct cell *c, const char *text)
{
    snprintf(c->text, sizeof(c->text), "%s", text);
}

// "53.1 (48.0-58.7)"; of a machine that nobody has measured "(48.0-58.7)".
static void put_range(struct cell *c, bool is_measured, double v, double low, double high)
{
    char a[16] = "", b[16], d[16];
    if (is_measured) short_number(a, sizeof(a), v);
    snprintf(c->text, sizeof(c->text), "%s%s(%s-%s)", a, is_measured ? " " : "",
             short_number(b, sizeof(b), low), short_number(d, sizeof(d), high));
}

static void print_head(const struct td_plan_question *q)
{
    char gb[24];
    const bool is_md = q->form == TD_PLAN_MD;
    printf("%s%s, %s, %s: prompt %u, answer %u", is_md ? "## " : "", q->model, q->quant,
           td_text_gb(gb, sizeof(gb), (uint64_t)q->cost.file_bytes), q->goal.prompt_tokens,
           q->goal.answer_tokens);
    if (q->goal.batch > 1) printf(", batch %u", q->goal.batch);
    if (q->goal.depth_tokens) printf(", behind %u tokens", q->goal.depth_tokens);
    puts("\n");
}

static void put_machine(struct cell *c, const struct td_plan_machine *m, bool with_power)
{
    const struct td_plan_single *a = &m->answer;
    const double n_read = a->prefill_tokens_per_s * a->prefill.seconds;
    const double n_written = a->decode_tokens_per_s * a->decode.seconds;
    put(&c[0], m->device->name);
    put(&c[1], m->backend);
    if (!a->fits) {
        snprintf(c[2].text, sizeof(c[2].text), "needs %.0f GiB, has %.0f", a->needed_bytes / 0x1p30,
                 a->usable_bytes / 0x1p30);
    } else {
        put_range(&c[2], m->is_measured, a->prefill_tokens_per_s, n_read / a->prefill.high,
                  n_read / a->prefill.low);
        put_range(&c[3], m->is_measured, a->decode_tokens_per_s, n_written / a->decode.high,
                  n_written / a->decode.low);
        put_range(&c[4], m->is_measured, a->first_seconds, a->first_low, a->first_high);
        put_range(&c[5], m->is_measured, a->total_seconds, a->total_low, a->total_high);
    }
    if (m->device->price_usd > 0)
        snprintf(c[6].text, sizeof(c[6].text), "%.0f", m->device->price_usd);
    if (with_power && a->fits && a->joule > 0)
        snprintf(c[7].text, sizeof(c[7].text), "%.2f", a->joule / 3600);
}

static void print_machines(const struct td_plan_question *q, bool with_power)
{
    static struct cell cells[(TD_PLAN_MAX_ASKED + 1) * MAX_COLUMNS];
    static const char *const heads[] = {"machine",       "program", "prefill t/s", "decode t/s",
                                        "first token s", "all s",   "USD",         "Wh"};
    const uint32_t n_columns = with_power ? 8 : 7;
    memset(cells, 0, sizeof(cells));
    for (uint32_t i = 0; i < n_columns; i++) put(&cells[i], heads[i]);
    for (uint32_t i = 0; i < q->n_machines; i++)
        put_machine(&cells[(size_t)(i + 1) * n_columns], &q->machines[i], with_power);
    print_table(cells, q->n_machines + 1, n_columns, q->form == TD_PLAN_MD);
    bool is_all_measured = true;
    for (uint32_t i = 0; i < q->n_machines; i++)
        is_all_measured = is_all_measured && q->machines[i].is_measured;
    printf("\nIn brackets: 90 %% of new measurements lie between.%s\n",
           is_all_measured ? "" : " Alone: nobody has measured this machine.");
}

typedef void pair_fn(void *ctx, const struct td_plan_machine *reader,
                     const struct td_plan_machine *writer, const struct td_plan_pair *pair);

#define MAX_PAIRS 30

// Calls fn for each ordered pair of machines that both hold the model; of many machines only for
// pairs that gain something, in the order of the machines.
static void each_pair(const struct td_plan_question *q, pair_fn *fn, void *ctx)
{
    struct td_plan_pair pair;
    const bool is_many = q->n_machines * (q->n_machines - 1) > MAX_PAIRS;
    for (uint32_t i = 0; i < q->n_machines; i++) {
        for (uint32_t j = 0; j < q->n_machines; j++) {
            const struct td_plan_machine *a = &q->machines[i], *b = &q->machines[j];
            if (i == j || !a->answer.fits || !b->answer.fits) continue;
            td_plan_pair(&pair, &q->cost, &a->answer, &b->answer, &q->link, &q->goal);
            if (!is_many || pair.gain > 1.02) fn(ctx, a, b, &pair);
        }
    }
}

struct pair_rows {
    struct cell cells[(MAX_PAIRS + 1) * 7];
    uint32_t n_rows;
    bool is_guess; // a row is of a machine that nobody has measured
};

static void pair_row(void *ctx, const struct td_plan_machine *reader,
                     const struct td_plan_machine *writer, const struct td_plan_pair *pair)
{
    struct pair_rows *rows = ctx;
    const struct td_split *s = &pair->split;
    if (rows->n_rows == MAX_PAIRS + 1) return;
    struct cell *c = &rows->cells[(size_t)rows->n_rows++ * 7];
    snprintf(c[0].text, sizeof(c[0].text), "%.34s -> %.32s", reader->device->name,
             writer->device->name);
    const char *about = reader->is_measured && writer->is_measured ? "" : "~";
    char number[16];
    snprintf(c[1].text, sizeof(c[1].text), "%s%s", about,
             short_number(number, sizeof(number), s->split_first_seconds));
    snprintf(c[2].text, sizeof(c[2].text), "%s%s", about,
             short_number(number, sizeof(number), s->split_seconds));
    short_number(c[3].text, sizeof(c[3].text), s->exposed_seconds);
    snprintf(c[4].text, sizeof(c[4].text), "%s%.2f", about, pair->gain);
    rows->is_guess = rows->is_guess || about[0];
    const uint32_t pays_from = td_plan_pair_pays_from(pair);
    if (pays_from > 0)
        snprintf(c[5].text, sizeof(c[5].text), "%u", pays_from);
    else
        put(&c[5], "never");
    put(&c[6], pair->gain > 1           ? "split"
               : s->all_there_is_faster ? "all on the first: it is faster alone"
               : s->pays                ? "all on the faster one alone"
                                        : td_split_why_text(s->why));
}

static void print_pairs(const struct td_plan_question *q)
{
    static struct pair_rows rows;
    static const char *const heads[] = {
        "reads -> answers", "first token s", "all s", "exposed s", "gain", "pays from", "advice"};
    uint32_t n_fit = 0;
    for (uint32_t i = 0; i < q->n_machines; i++) n_fit += q->machines[i].answer.fits;
    if (n_fit < 2 || !q->has_link) return;
    memset(&rows, 0, sizeof(rows));
    for (uint32_t i = 0; i < 7; i++) put(&rows.cells[i], heads[i]);
    rows.n_rows = 1;
    if (q->goal.batch > 1) {
        puts("\nPairs are planned for one request: --batch 1.");
        return;
    }
    each_pair(q, pair_row, &rows);
    if (rows.n_rows == 1) {
        puts("\nNo two of these are faster together than the faster one alone.");
        return;
    }
    printf("\nIn tandem over %s:\n\n", q->link_name);
    print_table(rows.cells, rows.n_rows, 7, q->form == TD_PLAN_MD);
    puts("\nGain: against the faster of the two alone. Pays from: prompt tokens from which the "
         "first token\ncomes sooner than on the answering machine alone.");
    if (rows.is_guess)
        puts("~: nobody has measured one of the two; how far off it may be is in the table above.");
}

static void parts_lines(const char *what, const struct td_plan_parts *p, double n_passes)
{
    const struct {
        const char *name;
        double seconds;
    } parts[] = {
        {"weights of attention, shared layers, output: bytes / bandwidth", p->read_dense},
        {"the same: multiply-adds / (FLOP/s)", p->multiply_dense},
        {"experts: distinct experts' bytes / bandwidth", p->read_experts},
        {"the same: multiply-adds / (FLOP/s)", p->multiply_experts},
        {"attention: multiply-adds / (FLOP/s)", p->attend},
        {"KV: bytes / bandwidth", p->read_kv},
        {"overhead: layers x passes x launch", p->overhead},
    };
    printf("  %s: %.3f s in %.0f passes\n", what, p->whole, n_passes);
    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++)
        if (parts[i].seconds > 0) printf("    %9.3f s  %s\n", parts[i].seconds, parts[i].name);
}

void td_plan_print_parts(const struct td_plan_question *q)
{
    const struct td_plan_cost *c = &q->cost;
    const double depth = (double)q->goal.depth_tokens + q->goal.prompt_tokens;
    printf("\nWhere the seconds go. Reading and multiplying the same weights overlap in part, so "
           "the whole is\nless than the sum (docs/GOLDEN-FORMULA.md).\n\n"
           "  weights read by a pass of 1 row: %.2f GB, of %u rows: %.2f GB\n"
           "  KV read by a row at depth %.0f: %.3f GB\n"
           "  multiply-adds of a token: %.2f GFLOP in matrices, %.2f in attention at that depth\n",
           td_plan_pass_bytes(c, 1) * 1e-9, q->goal.chunk_tokens,
           td_plan_pass_bytes(c, q->goal.chunk_tokens) * 1e-9, depth,
           td_plan_kv_bytes(c, depth) * 1e-9, (c->dense_flop + c->expert_flop) * 1e-9,
           td_plan_attend_flop(c, depth) * 1e-9);
    for (uint32_t i = 0; i < q->n_machines; i++) {
        const struct td_plan_machine *m = &q->machines[i];
        const double *k = m->answer.prefill.rates.log;
        if (!m->answer.fits) continue;
        printf(
            "\n%s, %s: %.1f TFLOP/s x %.3f reached (experts x %.2f, attention %.3f); %.0f GB/s x "
            "%.3f\n(experts x %.2f, KV x %.2f); %.1f us a layer and pass\n",
            m->device->name, m->backend, m->device->flop_per_s * 1e-12, exp(k[TD_PLAN_GEMM]),
            exp(k[TD_PLAN_EXPERTS]), exp(k[TD_PLAN_ATTEND]), m->device->bytes_per_s * 1e-9,
            exp(k[TD_PLAN_BAND]), exp(k[TD_PLAN_EXPERT_BAND]), exp(k[TD_PLAN_CACHE]),
            exp(k[TD_PLAN_LAYER]) * 1e6);
        parts_lines("reading a prompt", &m->answer.prefill.parts,
                    ceil((double)q->goal.prompt_tokens / q->goal.chunk_tokens));
        parts_lines("writing the answers", &m->answer.decode.parts, q->goal.answer_tokens);
    }
}

static json_t *range_json(double v, double low, double high)
{
    json_t *out = json_object();
    td_json_f64(out, "value", v);
    td_json_f64(out, "low", low);
    td_json_f64(out, "high", high);
    return out;
}

static json_t *parts_json(const struct td_plan_parts *p)
{
    json_t *out = json_object();
    td_json_f64(out, "seconds", p->whole);
    td_json_f64(out, "read_dense", p->read_dense);
    td_json_f64(out, "multiply_dense", p->multiply_dense);
    td_json_f64(out, "read_experts", p->read_experts);
    td_json_f64(out, "multiply_experts", p->multiply_experts);
    td_json_f64(out, "attend", p->attend);
    td_json_f64(out, "read_kv", p->read_kv);
    td_json_f64(out, "overhead", p->overhead);
    return out;
}

static json_t *machine_json(const struct td_plan_machine *m)
{
    const struct td_plan_single *a = &m->answer;
    const double n_read = a->prefill_tokens_per_s * a->prefill.seconds;
    const double n_written = a->decode_tokens_per_s * a->decode.seconds;
    json_t *out = json_object(), *rates = json_object();
    td_json_text(out, "machine", m->device->name);
    td_json_text(out, "program", m->backend);
    json_object_set_new(out, "is_measured", json_boolean(m->is_measured));
    json_object_set_new(out, "fits", json_boolean(a->fits));
    td_json_f64(out, "needed_bytes", a->needed_bytes);
    td_json_f64(out, "usable_bytes", a->usable_bytes);
    td_json_f64(out, "price_usd", m->device->price_usd > 0 ? m->device->price_usd : HUGE_VAL);
    if (!a->fits) {
        json_decref(rates);
        return out;
    }
    json_object_set_new(
        out, "prefill_tokens_per_s",
        range_json(a->prefill_tokens_per_s, n_read / a->prefill.high, n_read / a->prefill.low));
    json_object_set_new(
        out, "decode_tokens_per_s",
        range_json(a->decode_tokens_per_s, n_written / a->decode.high, n_written / a->decode.low));
    json_object_set_new(out, "first_token_seconds",
                        range_json(a->first_seconds, a->first_low, a->first_high));
    json_object_set_new(out, "seconds", range_json(a->total_seconds, a->total_low, a->total_high));
    td_json_f64(out, "joule", a->joule > 0 ? a->joule : HUGE_VAL);
    json_object_set_new(out, "prefill_parts", parts_json(&a->prefill.parts));
    json_object_set_new(out, "decode_parts", parts_json(&a->decode.parts));
    for (int r = 0; r < TD_PLAN_N_RATES; r++)
        td_json_f64(rates, td_plan_rate_name((enum td_plan_rate)r), exp(a->prefill.rates.log[r]));
    json_object_set_new(out, "rates", rates);
    return out;
}

static void pair_json(void *ctx, const struct td_plan_machine *reader,
                      const struct td_plan_machine *writer, const struct td_plan_pair *pair)
{
    const struct td_split *s = &pair->split;
    json_t *out = json_object();
    td_json_text(out, "reads", reader->device->name);
    td_json_text(out, "answers", writer->device->name);
    td_json_f64(out, "first_token_seconds", s->split_first_seconds);
    td_json_f64(out, "seconds", s->split_seconds);
    td_json_f64(out, "best_alone_seconds", pair->best_alone_seconds);
    td_json_f64(out, "gain", pair->gain);
    td_json_f64(out, "kv_bytes", s->kv_bytes);
    td_json_f64(out, "exposed_seconds", s->exposed_seconds);
    td_json_u64(out, "pays_from_tokens", td_plan_pair_pays_from(pair));
    json_object_set_new(out, "pays", json_boolean(pair->gain > 1));
    td_json_text(out, "why", td_split_why_text(s->why));
    json_array_append_new(ctx, out);
}

static void print_json(const struct td_plan_question *q)
{
    json_t *out = json_object(), *machines = json_array(), *pairs = json_array();
    td_json_text(out, "model", q->model);
    td_json_text(out, "quant", q->quant);
    td_json_f64(out, "file_bytes", q->cost.file_bytes);
    td_json_u64(out, "prompt", q->goal.prompt_tokens);
    td_json_u64(out, "gen", q->goal.answer_tokens);
    td_json_u64(out, "batch", q->goal.batch);
    td_json_u64(out, "depth", q->goal.depth_tokens);
    for (uint32_t i = 0; i < q->n_machines; i++)
        json_array_append_new(machines, machine_json(&q->machines[i]));
    json_object_set_new(out, "machines", machines);
    if (q->has_link && q->goal.batch == 1) each_pair(q, pair_json, pairs);
    json_object_set_new(out, "pairs", pairs);
    json_object_set_new(out, "clusters", q->has_link ? td_plan_boxes_json(q) : json_array());
    (void)td_json_print(stdout, out, JSON_INDENT(2));
}

void td_plan_print(const struct td_plan_question *q, const struct td_config *cfg)
{
    if (q->form == TD_PLAN_JSON) {
        print_json(q);
        return;
    }
    print_head(q);
    print_machines(q, td_opt_is_set(cfg, TD_OPT_POWER));
    print_pairs(q);
    if (q->has_link) (void)td_plan_print_boxes(q);
    if (td_opt_is_set(cfg, TD_OPT_EXPLAIN)) td_plan_print_parts(q);
}
