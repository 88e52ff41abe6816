// SPDX-License-Identifier: MIT
// Opens a model with its tokenizer and an engine, as the options say, and checks beforehand that
// what it will need is there.
#include "app/app.h"

#include "base/clock.h"
#include "base/num.h"
#include "base/os.h"
#include "kernels/kernels.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

enum { DEFAULT_CTX = 8192, MAX_CTX = 1 << 24, LOGITS_BYTES = 64 << 20 };

int td_app_check_model_path(const char *path, struct td_error *err)
{
    if (strncmp(path, "synth:", 6) == 0) return TD_OK;
    struct stat st;
    if (stat(path, &st) != 0) {
        if (errno == ENOENT)
            return td_fail(err, TD_EIO,
                           "%.120s: no such file; give the path of a .gguf file, or "
                           "synth:gpt-oss-20b for random weights",
                           path);
        return td_fail(err, TD_EIO, "%.160s: %s", path, td_app_why(errno));
    }
    if (S_ISDIR(st.st_mode))
        return td_fail(err, TD_EIO, "%.160s: a folder; give the .gguf file in it", path);
    return TD_OK;
}

uint32_t td_app_threads(const struct td_config *cfg)
{
    if (td_opt_is_set(cfg, TD_OPT_THREADS)) return (uint32_t)td_opt_u64(cfg, TD_OPT_THREADS);
    struct td_os_info info;
    td_os_info(&info);
    return info.n_cpus ? info.n_cpus : 1;
}

const char *td_app_kernels(const struct td_config *cfg, char *buf, size_t buf_bytes)
{
    const enum td_isa isa = cfg->isa < 0 ? td_isa_native() : (enum td_isa)cfg->isa;
    const char *by = cfg->isa < 0 ? "" : " (TANDEM_ISA)";
    struct td_kernels mine, generic;
    td_kernels_get(&mine, isa);
    td_kernels_get(&generic, TD_ISA_GENERIC);
    if (strcmp(mine.isa, generic.isa) == 0) {
        snprintf(buf, buf_bytes, "generic%s%s", by,
                 td_isa_native() == TD_ISA_GENERIC
                     ? ": no AVX2 or NEON dot products here, so it is slow"
                     : "");
        return buf;
    }
    // Behind the name the table holds nothing but functions, all of one size.
    const size_t begin = offsetof(struct td_kernels, isa) + sizeof(mine.isa);
    const size_t size = sizeof(mine.add);
    uint32_t n = 0, n_generic = 0;
    for (size_t at = begin; at + size <= sizeof(mine); at += size, n++)
        n_generic += memcmp((const char *)&mine + at, (const char *)&generic + at, size) == 0;
    if (n_generic)
        snprintf(buf, buf_bytes, "%s%s, %u of %u functions generic", mine.isa, by, n_generic, n);
    else
        snprintf(buf, buf_bytes, "%s%s, all %u functions", mine.isa, by, n);
    return buf;
}

uint64_t td_app_kv_bytes(const struct td_spec *spec, uint32_t n_ctx, uint32_t chunk, bool kv_f32)
{
    uint64_t bytes = 0;
    for (uint32_t il = 0; il < spec->n_layers; il++) {
        const struct td_kv_layer *l = &spec->kv[il];
        uint64_t n = n_ctx;
        // A window layer holds what can be seen and the chunk being computed.
        if (l->window && (uint64_t)l->window + chunk < n) n = (uint64_t)l->window + chunk;
        n = (n + TD_ATTN_BLOCK - 1) / TD_ATTN_BLOCK * TD_ATTN_BLOCK;
        bytes += n * l->n_kv_heads * l->head_dim * 2 * (kv_f32 ? 4 : 2);
    }
    return bytes;
}

const char *td_app_main_type(const struct td_model *m)
{
    uint64_t bytes[64] = {0};
    uint32_t best = 0;
    for (uint32_t i = 0; i < m->n_weights; i++) {
        const uint32_t type = (uint32_t)m->weights[i].type;
        if (type >= 64) continue;
        bytes[type] += m->weights[i].size_bytes;
        if (bytes[type] > bytes[best]) best = type;
    }
    const char *name = td_type_known_name(best);
    return name ? name : "?";
}

// Tokens of each of n_slots, as many as the budget holds; at least 2, which is a prompt.
static int choose_slot_ctx(struct td_app *app, const struct td_app_wants *wants,
                           uint64_t free_bytes, struct td_error *err)
{
    const struct td_spec *spec = &app->model->spec;
    const uint32_t n_slots = wants->n_slots ? wants->n_slots : 1;
    const uint64_t budget = app->max_kv_bytes ? app->max_kv_bytes : free_bytes / 2;
    const uint32_t most = wants->n_ctx        ? wants->n_ctx
                          : spec->n_ctx_train ? td_min_u32(spec->n_ctx_train, MAX_CTX)
                                              : DEFAULT_CTX;
    uint32_t low = 0, high = most; // by halves: what fits grows with n
    while (low < high) {
        const uint32_t n = low + (high - low + 1) / 2;
        if (td_app_kv_bytes(spec, n, td_min_u32(app->chunk, n), app->kv_f32) <= budget / n_slots)
            low = n;
        else
            high = n - 1;
    }
    if (low < 2 || (wants->n_ctx && low < wants->n_ctx)) {
        char need[24], have[24];
        const uint32_t n = wants->n_ctx ? wants->n_ctx : 2;
        const uint64_t bytes =
            n_slots * td_app_kv_bytes(spec, n, td_min_u32(app->chunk, n), app->kv_f32);
        if (wants->one_pool)
            return td_fail(err, TD_ENOMEM,
                           "a conversation of %u tokens needs %s of KV cache, and %s is %s; use a "
                           "smaller --ctx or a larger --kv-mem",
                           n, td_text_gib(need, sizeof(need), bytes),
                           wants->max_kv_bytes ? "--kv-mem" : "half of the free memory",
                           td_text_gib(have, sizeof(have), budget));
        return td_fail(err, TD_ENOMEM,
                       "the KV cache of %u slot%s of %u tokens needs %s, and %s is %s; use fewer "
                       "--slots, a smaller --ctx or a larger --max-kv",
                       n_slots, n_slots == 1 ? "" : "s", n, td_text_gib(need, sizeof(need), bytes),
                       wants->max_kv_bytes ? "--max-kv" : "half of the free memory",
                       td_text_gib(have, sizeof(have), budget));
    }
    app->n_ctx = low;
    return TD_OK;
}

// The context to use: as wanted, or a default that memory allows.
static int choose_ctx(struct td_app *app, const struct td_app_wants *wants, struct td_error *err)
{
    const struct td_spec *spec = &app->model->spec;
    struct td_os_info info;
    td_os_info(&info);
    const uint64_t free_bytes = info.available_bytes ? info.available_bytes : UINT64_MAX;
    uint32_t n = wants->n_ctx;
    app->max_kv_bytes = wants->max_kv_bytes;
    if (wants->one_pool && !app->max_kv_bytes) {
        // A file's weights will lie in memory that counts as free; made ones lie there already.
        const uint64_t weights = app->model->synth ? 0 : app->model->weights_bytes;
        app->max_kv_bytes = free_bytes > 2 * weights ? (free_bytes - weights) / 2 : free_bytes / 4;
    }
    if (wants->long_ctx) {
        const int code = choose_slot_ctx(app, wants, free_bytes, err);
        if (code != TD_OK) return code;
        n = app->n_ctx;
    }
    if (!n) {
        n = td_min_u32(DEFAULT_CTX, spec->n_ctx_train ? spec->n_ctx_train : DEFAULT_CTX);
        while (n > 256 && td_app_kv_bytes(spec, n, app->chunk, app->kv_f32) > free_bytes / 2)
            n /= 2;
    }
    app->n_ctx = n;
    app->kv_bytes = td_app_kv_bytes(spec, n, app->chunk, app->kv_f32);
    // Mapped weights are page cache, which the system counts as available; they are not added.
    if (app->kv_bytes > free_bytes) {
        char need[24], have[24];
        return td_fail(err, TD_ENOMEM,
                       "not enough memory: the KV cache of %u tokens needs %s and %s are "
                       "available; use a smaller --ctx%s",
                       n, td_text_gib(need, sizeof(need), app->kv_bytes),
                       td_text_gib(have, sizeof(have), free_bytes),
                       app->kv_f32 ? " or --kv f16" : "");
    }
    if (spec->n_ctx_train && n > spec->n_ctx_train)
        td_app_note("a context of %u tokens is more than the %u the model was trained for", n,
                    spec->n_ctx_train);
    if (!app->model->synth && info.memory_bytes && app->model->weights_bytes > info.memory_bytes) {
        char need[24], have[24];
        td_app_note("the model (%s) is larger than memory (%s): parts will be read from the disk "
                    "again and again",
                    td_text_gib(need, sizeof(need), app->model->weights_bytes),
                    td_text_gib(have, sizeof(have), info.memory_bytes));
    }
    return TD_OK;
}

static void hold_pace(struct td_app *app, const struct td_config *cfg)
{
    struct td_pace pace;
    td_opt_rate(cfg, TD_OPT_PACE_PREFILL, &pace.prefill);
    td_opt_rate(cfg, TD_OPT_PACE_DECODE, &pace.decode);
    if (pace.prefill.n_points || pace.decode.n_points) td_engine_pace(app->engine, &pace);
}

int td_app_open(struct td_app *app, const struct td_config *cfg, const struct td_app_wants *wants,
                struct td_error *err)
{
    *app = (struct td_app){.backend = td_backend_cpu()};
    const char *path = td_opt_text(cfg, TD_OPT_MODEL);
    int code = td_app_check_model_path(path, err);
    if (code != TD_OK) return code;
    app->n_threads = td_app_threads(cfg);
    app->chunk = (uint32_t)td_opt_u64(cfg, TD_OPT_CHUNK);
    app->kv_f32 = td_opt_choice(cfg, TD_OPT_KV) == 1;
    app->precision = (enum td_precision)td_opt_choice(cfg, TD_OPT_PRECISION); // in its order

    const uint64_t t0_ns = td_clock_ns();
    struct td_progress progress;
    td_progress_begin(&progress, "making weights", "bytes");
    const struct td_model_options options = {
        .n_threads = app->n_threads, .progress = td_progress_step, .progress_ctx = &progress};
    code = td_model_open(&app->model, path, &options, err);
    td_progress_end(&progress);
    if (code != TD_OK) goto fail;
    if (app->model->note[0] && !wants->quiet) td_app_note("%s", app->model->note);

    if (wants->text) {
        code = td_tokenizer_open(&app->tokenizer, app->model->gguf, err);
        if (code != TD_OK) goto fail;
    }
    code = choose_ctx(app, wants, err);
    if (code != TD_OK) goto fail;
    if (app->chunk > app->n_ctx) app->chunk = app->n_ctx;

    uint32_t logits_rows = wants->max_logits_rows;
    if (!logits_rows) {
        const uint64_t row_bytes = (uint64_t)app->model->spec.n_vocab * sizeof(float);
        const uint64_t fit = row_bytes ? LOGITS_BYTES / row_bytes : 1;
        logits_rows = fit < 1 ? 1 : fit < app->chunk ? (uint32_t)fit : app->chunk;
    }
    const struct td_engine_config config = {.device = {.n_threads = app->n_threads,
                                                       .precision = app->precision,
                                                       .kv_f32 = app->kv_f32,
                                                       .max_rows = app->chunk,
                                                       .max_logits_rows = logits_rows,
                                                       .max_kv_bytes = app->max_kv_bytes,
                                                       .isa = cfg->isa}};
    code = td_engine_open(&app->engine, app->model, app->backend, &config, err);
    if (code != TD_OK) goto fail;
    hold_pace(app, cfg);
    app->load_seconds = (double)(td_clock_ns() - t0_ns) * 1e-9;
    return TD_OK;

fail:
    td_app_close(app);
    return code;
}

void td_app_close(struct td_app *app)
{
    td_app_on_interrupt(NULL);
    td_engine_close(app->engine);
    td_tokenizer_close(app->tokenizer);
    td_model_close(app->model);
    *app = (struct td_app){0};
}
