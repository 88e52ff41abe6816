// SPDX-License-Identifier: MIT
// The tables' columns to structs.
#include "plan/facts.h"

#include "plan/csv.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// The table being read. The first failure stays; later fields read as 0, so that a record is read
// field by field and asked once.
struct reader {
    struct td_csv csv;
    struct td_error *err;
    int code;
};

static struct reader *reader_open(const char *name, const char *text, size_t n_bytes,
                                  const char *const *needed, struct td_error *err, int *code)
{
    struct reader *r = malloc(sizeof(*r));
    if (!r) {
        *code = td_fail(err, TD_ENOMEM, "no memory to read %.100s", name);
        return NULL;
    }
    r->err = err;
    r->code = TD_OK;
    *code = td_csv_open(&r->csv, name, text, n_bytes, err);
    for (; *code == TD_OK && *needed; needed++)
        if (td_csv_column(&r->csv, *needed) < 0)
            *code = td_fail(err, TD_EFORMAT, "%.100s has no column %s", name, *needed);
    if (*code == TD_OK) return r;
    free(r);
    return NULL;
}

static double real(struct reader *r, const char *column)
{
    double v = 0;
    const int code = td_csv_number(&r->csv, column, 0, &v, r->code == TD_OK ? r->err : NULL);
    if (code == TD_OK && v < 0)
        r->code = r->code != TD_OK
                      ? r->code
                      : td_fail(r->err, TD_EFORMAT, "%.100s, line %u: column %s is negative",
                                r->csv.name, r->csv.line, column);
    if (r->code == TD_OK) r->code = code;
    return r->code == TD_OK ? v : 0;
}

static uint32_t count(struct reader *r, const char *column)
{
    const double v = real(r, column);
    if (v <= 1e9) return (uint32_t)v;
    r->code = td_fail(r->err, TD_EFORMAT, "%.100s, line %u: column %s is too large", r->csv.name,
                      r->csv.line, column);
    return 0;
}

static void text_of(char *out, size_t out_bytes, const struct reader *r, const char *column)
{
    snprintf(out, out_bytes, "%s", td_csv_text(&r->csv, column));
}

// Steps to the next record while there is room: 1, 0 at the end, or an error.
static int next_row(struct reader *r, uint32_t n, uint32_t cap)
{
    if (r->code != TD_OK) return r->code;
    const int code = td_csv_next(&r->csv, r->err);
    if (code == 1 && n == cap)
        return td_fail(r->err, TD_EFORMAT, "%.100s has more than %u rows", r->csv.name, cap);
    return code;
}

static void read_device(struct td_plan_device *d, struct reader *r)
{
    *d = (struct td_plan_device){0};
    text_of(d->name, sizeof(d->name), r, "name");
    text_of(d->vendor, sizeof(d->vendor), r, "vendor");
    text_of(d->links, sizeof(d->links), r, "link_options_gbps");
    text_of(d->doubtful, sizeof(d->doubtful), r, "doubtful");
    text_of(d->source, sizeof(d->source), r, "source_url");
    // CPUs have no 16-bit floats worth the name: then bf16, then 32 bits.
    d->flop_per_s = real(r, "fp16_tflops_dense") * 1e12;
    if (d->flop_per_s <= 0) d->flop_per_s = real(r, "bf16_tflops_dense") * 1e12;
    if (d->flop_per_s <= 0) d->flop_per_s = real(r, "fp32_tflops") * 1e12;
    d->bytes_per_s = real(r, "mem_bw_gbs") * 1e9;
    // Makers count memory in powers of two.
    d->memory_bytes = real(r, "mem_gb") * 0x1p30;
    d->power_watt = real(r, "tdp_w");
    d->price_usd = real(r, "launch_price_usd");
}

int td_plan_read_devices(struct td_plan_device *out, uint32_t cap, uint32_t *n_out,
                         const char *text, size_t n_bytes, struct td_error *err)
{
    static const char *const needed[] = {"name", "fp16_tflops_dense", "mem_gb", "mem_bw_gbs", NULL};
    int code;
    *n_out = 0;
    struct reader *r = reader_open("devices.csv", text, n_bytes, needed, err, &code);
    if (!r) return code;
    while ((code = next_row(r, *n_out, cap)) == 1) read_device(&out[(*n_out)++], r);
    free(r);
    return code;
}

static enum td_plan_kind kind_of(const char *arch)
{
    if (strcmp(arch, "dense") == 0) return TD_PLAN_DENSE;
    if (strcmp(arch, "moe-mla") == 0) return TD_PLAN_MLA;
    return strcmp(arch, "moe") == 0 ? TD_PLAN_MOE : TD_PLAN_HYBRID;
}

static void read_model(struct td_plan_model *m, struct reader *r)
{
    *m = (struct td_plan_model){0};
    text_of(m->name, sizeof(m->name), r, "name");
    m->kind = kind_of(td_csv_text(&r->csv, "arch"));
    m->n_layers = count(r, "layers");
    m->n_dense_layers = count(r, "n_dense_layers");
    m->n_full_layers = count(r, "n_full_attn_layers");
    m->n_heads = count(r, "heads");
    m->head_dim = count(r, "head_dim");
    m->n_experts = count(r, "experts");
    m->n_active = count(r, "top_k");
    m->window_tokens = count(r, "swa_window");
    m->n_vocab = count(r, "vocab");
    m->hidden = count(r, "hidden");
    m->kv_bytes_full = real(r, "kv_bytes_per_token_full_fp16");
    m->kv_bytes_window = real(r, "kv_bytes_per_token_swa_fp16");
    m->mla_rank = count(r, "mla_kv_rank");
    m->mla_rope = count(r, "mla_rope");
    m->params = real(r, "total_params_b") * 1e9;
    m->attn_params = real(r, "p_attn");
    m->dense_params = real(r, "p_dense_ffn");
    m->shared_params = real(r, "p_shared_router");
    m->expert_params = real(r, "p_experts");
    m->embed_params = real(r, "p_embed");
    m->head_params = real(r, "p_out");
    m->is_tied = count(r, "tied") != 0;
    if (r->code == TD_OK && (m->n_layers == 0 || m->n_full_layers > m->n_layers ||
                             m->n_active > m->n_experts || m->params <= 0))
        r->code =
            td_fail(r->err, TD_EFORMAT, "models.csv, line %u: the shape of '%.40s' is not one",
                    r->csv.line, m->name);
}

int td_plan_read_models(struct td_plan_model *out, uint32_t cap, uint32_t *n_out, const char *text,
                        size_t n_bytes, struct td_error *err)
{
    static const char *const needed[] = {"name", "arch", "layers", "p_attn", NULL};
    int code;
    *n_out = 0;
    struct reader *r = reader_open("models.csv", text, n_bytes, needed, err, &code);
    if (!r) return code;
    while ((code = next_row(r, *n_out, cap)) == 1) read_model(&out[(*n_out)++], r);
    free(r);
    return code;
}

static void read_measurement(struct td_plan_measurement *m, struct reader *r)
{
    *m = (struct td_plan_measurement){.line = r->csv.line};
    text_of(m->source, sizeof(m->source), r, "source_url");
    text_of(m->date, sizeof(m->date), r, "date");
    text_of(m->device, sizeof(m->device), r, "device");
    text_of(m->backend, sizeof(m->backend), r, "backend");
    text_of(m->version, sizeof(m->version), r, "software_version");
    text_of(m->model, sizeof(m->model), r, "model");
    text_of(m->quant, sizeof(m->quant), r, "quant");
    text_of(m->notes, sizeof(m->notes), r, "notes");
    const char *test = td_csv_text(&r->csv, "test");
    m->is_prefill = strcmp(test, "pp") == 0;
    if (!m->is_prefill && strcmp(test, "tg") != 0 && r->code == TD_OK)
        r->code = td_fail(r->err, TD_EFORMAT, "%.100s, line %u: test '%.20s' is neither pp nor tg",
                          r->csv.name, r->csv.line, test);
    m->n_tokens = count(r, "n_prompt_or_gen");
    m->depth_tokens = count(r, "depth");
    m->batch = count(r, "batch");
    if (m->batch == 0) m->batch = 1;
    m->chunk_tokens = count(r, "ubatch");
    m->tokens_per_s = real(r, "tokens_per_s");
    m->file_gib = real(r, "model_gib");
    m->use = count(r, "use_in_fit");
}

int td_plan_read_measurements(struct td_plan_measurement *out, uint32_t cap, uint32_t *n_out,
                              const char *name, const char *text, size_t n_bytes,
                              struct td_error *err)
{
    static const char *const needed[] = {"device",       "backend",    "model",
                                         "quant",        "test",       "n_prompt_or_gen",
                                         "tokens_per_s", "use_in_fit", NULL};
    int code;
    *n_out = 0;
    struct reader *r = reader_open(name, text, n_bytes, needed, err, &code);
    if (!r) return code;
    while ((code = next_row(r, *n_out, cap)) == 1) read_measurement(&out[(*n_out)++], r);
    free(r);
    return code;
}
