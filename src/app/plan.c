// SPDX-License-Identifier: MIT
// `tandem plan`: what machines, alone and in pairs, would do with a model, and which to have.
#include "app/app.h"
#include "app/commands.h"
#include "app/plan_impl.h"

#include "app/cost.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

// "10GbE", "TB5", "USB4", "2.5Gb/s", "40": bits per second; a kind of cable is worth its payload.
static bool link_of(struct td_plan_link *out, const char *text)
{
    static const struct {
        const char *name;
        double gigabits, seconds;
    } cables[] = {
        // Thunderbolt and USB4 carry IP at about half of what is printed on them.
        {"TB5", 40, 50e-6},  {"TB4", 20, 50e-6},  {"TB3", 20, 50e-6},
        {"USB4", 20, 50e-6}, {"wifi", 0.6, 4e-3},
    };
    out->round_trip_seconds = 200e-6;
    for (size_t i = 0; i < sizeof(cables) / sizeof(cables[0]); i++) {
        if (strcmp(text, cables[i].name) != 0) continue;
        *out = (struct td_plan_link){cables[i].gigabits * 1e9 / 8, cables[i].seconds};
        return true;
    }
    char *end;
    const double v = strtod(text, &end);
    static const char *const units[] = {"", "GbE", "Gb/s", "Gbps", "G"};
    bool is_unit = false;
    for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++)
        is_unit = is_unit || strcmp(end, units[i]) == 0;
    // Frames, TCP and TLS leave about 94 % of the bits to the payload.
    out->bytes_per_s = v * 1e9 / 8 * 0.94;
    // Cards that are so fast go round the kernel: RDMA.
    if (v >= 100) out->round_trip_seconds = 60e-6;
    return end != text && is_unit && v > 0 && v <= 10000;
}

static int ask_model(struct td_plan_question *q, const struct td_world *w,
                     const struct td_config *cfg, struct td_error *err)
{
    const char *name = td_opt_text(cfg, TD_OPT_PLAN_MODEL);
    const size_t len = name ? strlen(name) : 0;
    if (!name)
        return td_fail(err, TD_EARG, "-m MODEL is missing: a name such as gpt-oss-120b, or a file");
    if (strncmp(name, "synth:", 6) == 0 || strchr(name, '/') ||
        (len > 5 && strcmp(name + len - 5, ".gguf") == 0)) {
        if (td_opt_is_set(cfg, TD_OPT_QUANT))
            return td_fail(err, TD_EARG, "--quant: %.80s says itself how its weights are stored",
                           name);
        snprintf(q->model, sizeof(q->model), "%s", name);
        return td_cost_of_file(&q->cost, &q->head_dim, q->quant, sizeof(q->quant), name, err);
    }
    const struct td_plan_model *m = td_world_model(w, name);
    if (!m)
        return td_fail(
            err, TD_EARG,
            "there is no model '%.60s' in the table; a GGUF file or synth:NAME also will "
            "do",
            name);
    const char *quant = td_opt_text(cfg, TD_OPT_QUANT);
    if (!quant) quant = strncmp(m->name, "gpt-oss", 7) == 0 ? "MXFP4" : "Q4_K_M";
    if (td_plan_quant_bits(quant) <= 0)
        return td_fail(err, TD_EARG, "--quant: '%.30s' is not a number format that is known",
                       quant);
    snprintf(q->model, sizeof(q->model), "%s", m->name);
    snprintf(q->quant, sizeof(q->quant), "%s", quant);
    q->head_dim = m->head_dim;
    return td_plan_cost_of(&q->cost, m, quant, 0, err);
}

static struct td_plan_machine *next_machine(struct td_plan_question *q, struct td_error *err)
{
    if (q->n_machines == TD_PLAN_MAX_ASKED) {
        (void)td_fail(err, TD_EARG, "--machines: more than %d", TD_PLAN_MAX_ASKED);
        return NULL;
    }
    struct td_plan_machine *m = &q->machines[q->n_machines++];
    *m = (struct td_plan_machine){.backend = "", .date = ""};
    return m;
}

// A file of `tandem probe` or `tandem bench`. Its fit follows when all files are read.
static int add_own(struct td_plan_question *q, struct td_world *w, const char *path,
                   struct td_error *err)
{
    struct td_plan_machine *m = next_machine(q, err);
    if (!m) return TD_EARG;
    const int code = td_world_own(w, path, &m->device, err);
    if (code != TD_OK) return code;
    m->backend = "tandem CPU";
    m->is_measured = true; // its nameplate is
    td_own_context(&m->context, m->device, q->quant, q->model, q->cost.kind, q->head_dim);
    return TD_OK;
}

static int add_machine(struct td_plan_question *q, const struct td_world *w,
                       const struct td_plan_device *d, struct td_error *err)
{
    struct td_plan_machine *m = next_machine(q, err);
    if (!m) return TD_EARG;
    m->device = d;
    m->fit = w->fit;
    td_world_backend(w, d, &m->backend, &m->date);
    const bool is_known = d->flop_per_s > 0 && d->bytes_per_s > 0;
    const struct td_plan_names names = {d->name,  m->backend,   m->date,   q->quant,
                                        q->model, q->cost.kind, !is_known, q->head_dim};
    td_plan_context_of(&m->context, &names);
    m->is_measured = td_world_is_measured(w, &m->context);
    return TD_OK;
}

static int ask_machines(struct td_plan_question *q, struct td_world *w, const struct td_config *cfg,
                        struct td_error *err)
{
    const char *list = td_opt_text(cfg, TD_OPT_MACHINES);
    int code = TD_OK;
    if (strcmp(list, "all") == 0) {
        for (uint32_t i = 0; i < w->n_devices && code == TD_OK; i++)
            code = add_machine(q, w, &w->devices[i], err);
        return code;
    }
    for (const char *at = list; code == TD_OK;) {
        char name[1024];
        const size_t len = strcspn(at, ",");
        snprintf(name, sizeof(name), "%.*s", (int)(len < 1023 ? len : 1023), at);
        if (td_own_is_file(name)) {
            code = add_own(q, w, name, err);
            if (code != TD_OK || !at[len]) break;
            at += len + 1;
            continue;
        }
        const struct td_plan_device *d = td_world_device(w, name);
        if (!d)
            return td_fail(err, TD_EARG,
                           "--machines: there is no machine '%.60s' in the table; `tandem plan -m "
                           "gpt-oss-20b --machines all` shows all",
                           name);
        code = add_machine(q, w, d, err);
        if (!at[len]) break;
        at += len + 1;
    }
    return code;
}

// The fit of machines that tandem has measured, when all their files are read.
static int fit_own(struct td_plan_question *q, struct td_world *w, struct td_error *err)
{
    for (uint32_t i = 0; i < q->n_machines; i++) {
        if (q->machines[i].fit) continue;
        const int code = td_world_own_fit(w, err);
        if (code != TD_OK) return code;
        q->machines[i].fit = w->own_fit;
    }
    return TD_OK;
}

int td_plan_ask(struct td_plan_question *q, struct td_world *w, const struct td_config *cfg,
                struct td_error *err)
{
    *q = (struct td_plan_question){.form = (enum td_plan_form)td_opt_choice(cfg, TD_OPT_PLAN_FORM)};
    q->goal = (struct td_plan_goal){
        .prompt_tokens = (uint32_t)td_opt_u64(cfg, TD_OPT_PLAN_PROMPT),
        .answer_tokens = (uint32_t)td_opt_u64(cfg, TD_OPT_PLAN_GEN),
        .batch = (uint32_t)td_opt_u64(cfg, TD_OPT_PLAN_BATCH),
        .depth_tokens = (uint32_t)td_opt_u64(cfg, TD_OPT_PLAN_DEPTH),
        .chunk_tokens = 2048,
    };
    int code = ask_model(q, w, cfg, err);
    if (code == TD_OK) code = ask_machines(q, w, cfg, err);
    if (code == TD_OK) code = fit_own(q, w, err);
    q->n_measurements = w->n_samples;
    snprintf(q->calibrated, sizeof(q->calibrated), "%s", w->calibrated);
    // A page has a link to slide along even if none was asked for.
    q->has_link = td_opt_is_set(cfg, TD_OPT_LINK);
    const char *link = q->has_link ? td_opt_text(cfg, TD_OPT_LINK) : "10GbE";
    if (code == TD_OK) {
        snprintf(q->link_name, sizeof(q->link_name), "%.20s", link);
        if (!link_of(&q->link, link))
            return td_fail(
                err, TD_EARG,
                "--link: '%.40s' is no link with a speed (like 10GbE, 2.5GbE, TB5, USB4, "
                "or Gb/s as a number above 0)",
                link);
    }
    return code;
}

// Answers, and leaves out who does not do what is asked for; the fastest first.
static uint32_t answer(struct td_plan_question *q, const struct td_config *cfg)
{
    uint32_t n = 0, n_fits = 0;
    for (uint32_t i = 0; i < q->n_machines; i++) {
        struct td_plan_machine m = q->machines[i];
        td_plan_single(&m.answer, m.fit, &q->cost, m.device, &m.context, &q->goal);
        n_fits += m.answer.fits;
        const double price = m.device->price_usd;
        const bool is_wanted =
            (!td_opt_is_set(cfg, TD_OPT_BUDGET) ||
             (price > 0 && price <= td_opt_f64(cfg, TD_OPT_BUDGET))) &&
            (!td_opt_is_set(cfg, TD_OPT_TTFT) ||
             (m.answer.fits && m.answer.first_seconds <= td_opt_f64(cfg, TD_OPT_TTFT))) &&
            (!td_opt_is_set(cfg, TD_OPT_TPS) ||
             (m.answer.fits && m.answer.decode_tokens_per_s >= td_opt_f64(cfg, TD_OPT_TPS)));
        if (!is_wanted) continue;
        // Insertion keeps the table's order among equals; those that do not fit go last.
        uint32_t at = n++;
        for (; at > 0; at--) {
            const struct td_plan_single *a = &q->machines[at - 1].answer;
            if (a->fits > m.answer.fits ||
                (a->fits == m.answer.fits && a->total_seconds <= m.answer.total_seconds))
                break;
            q->machines[at] = q->machines[at - 1];
        }
        q->machines[at] = m;
    }
    q->n_machines = n;
    return n_fits;
}

static bool has_boxes(const struct td_plan_question *q)
{
    json_t *list = td_plan_boxes_json(q);
    const bool is_some = json_array_size(list) > 0;
    json_decref(list);
    return is_some;
}

static int answer_cmd(const struct td_config *cfg, struct td_plan_question *q)
{
    const struct td_plan_machine first = q->machines[0];
    const bool is_none = answer(q, cfg) == 0;
    // What no machine holds alone some may hold together.
    if (is_none && q->has_link && q->form != TD_PLAN_HTML && has_boxes(q)) {
        td_plan_print(q, cfg);
        return TD_EXIT_OK;
    }
    if (is_none) {
        struct td_error err = {0};
        char need[24], have[24];
        td_fail(&err, TD_EARG, "%.60s needs %s of memory, more than %s (%s of %s%s)%s", q->model,
                td_text_gib(need, sizeof(need), (uint64_t)td_plan_needed_bytes(&q->cost, &q->goal)),
                q->n_machines > 1 ? "any of these machines has" : "there is",
                td_text_gib(have, sizeof(have), (uint64_t)td_plan_usable_bytes(first.device)),
                first.device->name, q->n_machines > 1 ? " and so on" : "",
                q->has_link ? "" : "; with --link up to four hold it together");
        return td_app_fail(&err);
    }
    if (q->n_machines == 0) {
        const struct td_error err = {.code = TD_EARG,
                                     .msg = "no machine of these does what is asked for: a larger "
                                            "--budget, a longer --ttft or fewer --tps would help"};
        return td_app_fail(&err);
    }
    if (q->form == TD_PLAN_HTML) return td_plan_print_page(q);
    td_plan_print(q, cfg);
    return TD_EXIT_OK;
}

int td_cmd_plan(const struct td_config *cfg)
{
    struct td_error err = {0};
    struct td_world *w;
    const bool is_check = td_opt_is_set(cfg, TD_OPT_VALIDATE);
    const bool is_fit = td_opt_is_set(cfg, TD_OPT_CALIBRATE);
    int code = td_world_open(&w, !is_check && !is_fit, &err);
    const char *measured = td_opt_text(cfg, TD_OPT_MEASURED);
    if (code == TD_OK && measured)
        code = td_own_is_file(measured) ? td_world_own(w, measured, NULL, &err)
                                        : td_world_measured(w, measured, &err);
    struct td_plan_question *q = calloc(1, sizeof(*q));
    if (code == TD_OK && !q) code = td_fail(&err, TD_ENOMEM, "no memory for the question");
    int exit_code = TD_EXIT_FAIL;
    const bool is_page = td_opt_choice(cfg, TD_OPT_PLAN_FORM) == TD_PLAN_HTML;
    if (is_page && (is_check || is_fit || td_opt_is_set(cfg, TD_OPT_TABLE) ||
                    td_opt_is_set(cfg, TD_OPT_GOLDEN))) {
        exit_code = td_app_usage(cfg, "-o html is a page about machines: without --golden, "
                                      "--table, --validate and --calibrate");
    } else if (code != TD_OK || !q) {
        exit_code = td_app_fail(&err);
    } else if (is_check) {
        exit_code = td_own_is_file(td_opt_text(cfg, TD_OPT_VALIDATE))
                        ? td_plan_validate_own_cmd(cfg, w)
                        : td_plan_validate_cmd(cfg, w);
    } else if (is_fit) {
        exit_code = td_plan_calibrate_cmd(cfg, w);
    } else if (td_opt_is_set(cfg, TD_OPT_TABLE)) {
        exit_code = td_plan_table_cmd(cfg, w);
    } else if (td_plan_ask(q, w, cfg, &err) != TD_OK) {
        exit_code = err.code == TD_EARG ? td_app_usage(cfg, "%s", err.msg) : td_app_fail(&err);
    } else if (td_opt_is_set(cfg, TD_OPT_GOLDEN)) {
        exit_code = td_plan_golden_cmd(cfg, q);
    } else {
        exit_code = answer_cmd(cfg, q);
    }
    free(q);
    td_world_close(w);
    return exit_code;
}
