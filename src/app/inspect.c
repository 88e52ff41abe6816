// SPDX-License-Identifier: MIT
// `tandem inspect`: what a model file holds, for people and as JSON. A file that tandem cannot run
// is shown as far as its directory goes, with the reason.
#include "app/app.h"
#include "app/commands.h"
#include "app/json.h"

#include <stdlib.h>
#include <string.h>

struct type_share {
    const char *name;
    uint64_t size_bytes;
    uint32_t n_tensors;
};
enum { MAX_TYPES = 64 };

struct summary {
    const struct td_gguf *gguf;
    const struct td_model *model; // NULL when tandem cannot run it; reason says why
    const char *reason;
    bool is_synth;
    uint64_t n_params;
    double n_active; // parameters used for one token; 0 when unknown
    struct type_share types[MAX_TYPES];
    uint32_t n_types;
    uint64_t kv_token_bytes; // of a token that every layer still holds, f16
    uint64_t kv_full_bytes;  // of a whole training context
};

static const char *type_name(uint32_t type, char *buf, size_t buf_bytes)
{
    const char *name = td_type_known_name(type);
    if (name) return name;
    snprintf(buf, buf_bytes, "type %u", type);
    return buf;
}

static uint64_t n_elements(const struct td_gguf_tensor *t)
{
    return t->dim[0] * t->dim[1] * t->dim[2] * t->dim[3];
}

static void count_types(struct summary *s)
{
    for (uint32_t i = 0; i < td_gguf_n_tensors(s->gguf); i++) {
        const struct td_gguf_tensor *t = td_gguf_tensor_at(s->gguf, i);
        s->n_params += n_elements(t);
        const char *name = td_type_known_name(t->type);
        if (!name) name = "unknown";
        uint32_t k = 0;
        while (k < s->n_types && strcmp(s->types[k].name, name) != 0) k++;
        if (k == MAX_TYPES) continue;
        if (k == s->n_types) s->types[s->n_types++] = (struct type_share){.name = name};
        s->types[k].size_bytes += t->size_bytes;
        s->types[k].n_tensors++;
    }
}

static int by_size(const void *a, const void *b)
{
    const struct type_share *x = a, *y = b;
    return x->size_bytes < y->size_bytes ? 1 : x->size_bytes > y->size_bytes ? -1 : 0;
}

static double weight_params(const struct td_model *m, td_weight w)
{
    if (w == TD_NO_WEIGHT) return 0;
    double n = 1;
    for (uint32_t i = 0; i < m->weights[w].n_dims; i++) n *= m->weights[w].dim[i];
    return n;
}

// Parameters that one token's pass multiplies with: all but the embedding table (one row of it is
// read), of the experts only the chosen.
static double active_params(const struct td_model *m)
{
    double n = 0;
    for (uint32_t i = 0; i < m->program.n_ops; i++) {
        const struct td_op *op = &m->program.ops[i];
        if (op->kind == TD_OP_EMBED) continue;
        const bool is_expert = op->kind == TD_OP_EXPERTS_GLU || op->kind == TD_OP_EXPERTS_SUM;
        const double part =
            is_expert && m->spec.n_experts ? (double)op->k / m->spec.n_experts : 1.0;
        n += part * (weight_params(m, op->w) + weight_params(m, op->bias) +
                     weight_params(m, op->w2) + weight_params(m, op->bias2));
    }
    return n;
}

static void summarise(struct summary *s)
{
    count_types(s);
    qsort(s->types, s->n_types, sizeof(s->types[0]), by_size);
    if (!s->model) return;
    s->n_active = active_params(s->model);
    const struct td_spec *spec = &s->model->spec;
    for (uint32_t il = 0; il < spec->n_layers; il++)
        s->kv_token_bytes += (uint64_t)spec->kv[il].n_kv_heads * spec->kv[il].head_dim * 2 * 2;
    s->kv_full_bytes = td_app_kv_bytes(spec, spec->n_ctx_train, 512, false);
}

static void text_of(const struct td_gguf *g, const char *key, char *out, size_t out_bytes)
{
    struct td_str v;
    out[0] = '\0';
    if (td_gguf_str(g, key, &v, NULL) != TD_OK) return;
    size_t n = 0;
    for (size_t i = 0; i < v.size_bytes && n + 1 < out_bytes; i++) {
        const bool is_control = (unsigned char)v.at[i] < 0x20 || v.at[i] == 0x7f;
        out[n] = v.at[i];
        if (is_control) out[n] = '?';
        n++;
    }
    out[n] = '\0';
}

static void print_params(const char *label, double n)
{
    if (n >= 1e9)
        printf("%-14s %.2f billion\n", label, n * 1e-9);
    else
        printf("%-14s %.2f million\n", label, n * 1e-6);
}

static uint64_t n_tokens_of(const struct td_gguf *g)
{
    struct td_gguf_array tokens;
    return td_gguf_array(g, "tokenizer.ggml.tokens", &tokens, NULL) == TD_OK ? tokens.n : 0;
}

static void print_spec(const struct summary *s)
{
    const struct td_spec *m = &s->model->spec;
    uint32_t n_window = 0, window = 0;
    for (uint32_t il = 0; il < m->n_layers; il++) {
        if (!m->kv[il].window) continue;
        n_window++;
        window = m->kv[il].window;
    }
    printf("%-14s %u", "layers", m->n_layers);
    if (n_window) printf(", %u of them see a window of %u tokens", n_window, window);
    printf("\n%-14s %u wide; %u query heads and %u KV heads of %u\n", "shape", m->n_embd,
           m->n_heads, m->n_kv_heads, m->head_dim);
    if (m->n_experts)
        printf("%-14s %u a layer, %u for each token, %u wide\n", "experts", m->n_experts,
               m->n_experts_used, m->n_ff_expert);
    printf("%-14s %u tokens\n", "context", m->n_ctx_train);
    char a[24], b[24];
    printf("%-14s %s a token; %s for the whole context (f16)\n", "KV cache",
           td_text_gib(a, sizeof(a), s->kv_token_bytes),
           td_text_gib(b, sizeof(b), s->kv_full_bytes));
}

static void print_summary(const struct summary *s)
{
    char arch[64], name[128], pre[64], kind[64], gb[24];
    text_of(s->gguf, "general.architecture", arch, sizeof(arch));
    text_of(s->gguf, "general.name", name, sizeof(name));
    text_of(s->gguf, "tokenizer.ggml.model", kind, sizeof(kind));
    text_of(s->gguf, "tokenizer.ggml.pre", pre, sizeof(pre));
    printf("%-14s %s\n", "name", name[0] ? name : "(none)");
    printf("%-14s %s\n", "architecture", arch[0] ? arch : "(none)");
    if (s->is_synth)
        printf("%-14s none: %s, %u tensors\n", "file", s->model->note, td_gguf_n_tensors(s->gguf));
    else
        printf("%-14s %s, %u part%s, GGUF v%u, %u tensors\n", "file",
               td_text_gb(gb, sizeof(gb), td_gguf_file_bytes(s->gguf)), td_gguf_n_parts(s->gguf),
               td_gguf_n_parts(s->gguf) == 1 ? "" : "s", td_gguf_version(s->gguf),
               td_gguf_n_tensors(s->gguf));
    print_params("parameters", (double)s->n_params);
    if (s->n_active > 0) print_params("  per token", s->n_active);
    if (s->model) print_spec(s);
    uint64_t total_bytes = 0;
    for (uint32_t i = 0; i < s->n_types; i++) total_bytes += s->types[i].size_bytes;
    for (uint32_t i = 0; i < s->n_types; i++)
        printf("%-14s %-8s %5.1f %%  %10s in %u tensor%s\n", i ? "" : "weights", s->types[i].name,
               total_bytes ? 100.0 * (double)s->types[i].size_bytes / (double)total_bytes : 0.0,
               td_text_gb(gb, sizeof(gb), s->types[i].size_bytes), s->types[i].n_tensors,
               s->types[i].n_tensors == 1 ? "" : "s");
    const uint64_t n_tokens = n_tokens_of(s->gguf);
    if (n_tokens)
        printf("%-14s %s%s%s, %llu tokens\n", "tokenizer", kind[0] ? kind : "(unnamed)",
               pre[0] ? ", " : "", pre, (unsigned long long)n_tokens);
    else
        printf("%-14s none\n", "tokenizer");
    if (s->reason) printf("%-14s no: %s\n", "runs here", s->reason);
}

static void shape_text(const struct td_gguf_tensor *t, char *out, size_t out_bytes)
{
    size_t n = 0;
    for (uint32_t i = 0; i < t->n_dims && n < out_bytes; i++)
        n += (size_t)snprintf(out + n, out_bytes - n, "%s%llu", i ? " x " : "",
                              (unsigned long long)t->dim[i]);
}

static void print_tensors(const struct td_gguf *g)
{
    for (uint32_t i = 0; i < td_gguf_n_tensors(g); i++) {
        const struct td_gguf_tensor *t = td_gguf_tensor_at(g, i);
        char shape[96], unknown[24], gb[24];
        shape_text(t, shape, sizeof(shape));
        printf("%-34s %-7s %10s  %s\n", t->name, type_name(t->type, unknown, sizeof(unknown)),
               td_text_gb(gb, sizeof(gb), t->size_bytes), shape);
    }
}

static json_t *json_metadata(const struct td_gguf *g)
{
    json_t *out = json_object();
    for (uint32_t i = 0; i < td_gguf_n_kv(g); i++) {
        const char *key = td_gguf_key_at(g, i);
        uint64_t u;
        float f;
        bool b;
        struct td_str str;
        char text[200];
        if (td_gguf_u64(g, key, &u, NULL) == TD_OK) {
            td_json_u64(out, key, u);
        } else if (td_gguf_bool(g, key, &b, NULL) == TD_OK) {
            json_object_set_new(out, key, json_boolean(b));
        } else if (td_gguf_f32(g, key, &f, NULL) == TD_OK) {
            td_json_f64(out, key, (double)f);
        } else if (td_gguf_str(g, key, &str, NULL) == TD_OK) {
            td_json_bytes(out, key, str.at, str.size_bytes);
        } else {
            td_gguf_value_text(g, i, text, sizeof(text)); // arrays: their beginning
            td_json_bytes(out, key, text, strlen(text));
        }
    }
    return out;
}

static json_t *json_tensors(const struct td_gguf *g)
{
    json_t *list = json_array();
    for (uint32_t i = 0; i < td_gguf_n_tensors(g); i++) {
        const struct td_gguf_tensor *t = td_gguf_tensor_at(g, i);
        char unknown[24];
        json_t *row = json_object();
        json_t *shape = json_array();
        for (uint32_t d = 0; d < t->n_dims; d++)
            json_array_append_new(shape, json_integer((json_int_t)t->dim[d]));
        td_json_bytes(row, "name", t->name, strlen(t->name));
        td_json_text(row, "type", type_name(t->type, unknown, sizeof(unknown)));
        json_object_set_new(row, "shape", shape);
        td_json_u64(row, "size_bytes", t->size_bytes);
        td_json_u64(row, "part", t->i_part);
        json_array_append_new(list, row);
    }
    return list;
}

static json_t *json_program(const struct td_model *m)
{
    json_t *list = json_array();
    char line[512];
    for (uint32_t i = 0; i < m->program.n_ops; i++) {
        (void)td_op_text(m, i, line, sizeof(line));
        json_array_append_new(list, json_string(line));
    }
    return list;
}

static void json_spec(json_t *out, const struct summary *s)
{
    const struct td_spec *m = &s->model->spec;
    td_json_u64(out, "n_layers", m->n_layers);
    td_json_u64(out, "n_embd", m->n_embd);
    td_json_u64(out, "n_heads", m->n_heads);
    td_json_u64(out, "n_kv_heads", m->n_kv_heads);
    td_json_u64(out, "head_dim", m->head_dim);
    td_json_u64(out, "n_experts", m->n_experts);
    td_json_u64(out, "n_experts_used", m->n_experts_used);
    td_json_u64(out, "n_ff_expert", m->n_ff_expert);
    td_json_u64(out, "n_vocab", m->n_vocab);
    td_json_u64(out, "n_ctx_train", m->n_ctx_train);
    json_t *windows = json_array();
    for (uint32_t il = 0; il < m->n_layers; il++)
        json_array_append_new(windows, json_integer(m->kv[il].window));
    json_object_set_new(out, "windows", windows);
    td_json_u64(out, "kv_bytes_per_token", s->kv_token_bytes);
    td_json_u64(out, "kv_bytes_full_context", s->kv_full_bytes);
    td_json_f64(out, "n_params_active", s->n_active);
    td_json_text(out, "digest", s->model->digest);
    td_json_text(out, "note", s->model->note);
}

static int print_json(const struct summary *s, const struct td_config *cfg)
{
    char text[128];
    json_t *out = json_object();
    text_of(s->gguf, "general.name", text, sizeof(text));
    td_json_bytes(out, "name", text, strlen(text));
    text_of(s->gguf, "general.architecture", text, sizeof(text));
    td_json_bytes(out, "architecture", text, strlen(text));
    td_json_bytes(out, "path", td_gguf_path(s->gguf), strlen(td_gguf_path(s->gguf)));
    td_json_u64(out, "file_bytes", s->is_synth ? 0 : td_gguf_file_bytes(s->gguf));
    td_json_u64(out, "n_parts", td_gguf_n_parts(s->gguf));
    td_json_u64(out, "gguf_version", td_gguf_version(s->gguf));
    td_json_u64(out, "n_tensors", td_gguf_n_tensors(s->gguf));
    td_json_u64(out, "n_params", s->n_params);
    json_object_set_new(out, "is_supported", json_boolean(s->model != NULL));
    if (s->reason) td_json_bytes(out, "reason", s->reason, strlen(s->reason));
    if (s->model) json_spec(out, s);
    json_t *types = json_object();
    for (uint32_t i = 0; i < s->n_types; i++)
        td_json_u64(types, s->types[i].name, s->types[i].size_bytes);
    json_object_set_new(out, "bytes_by_type", types);
    td_json_u64(out, "n_tokens", n_tokens_of(s->gguf));
    json_object_set_new(out, "metadata", json_metadata(s->gguf));
    if (td_opt_is_set(cfg, TD_OPT_TENSORS))
        json_object_set_new(out, "tensors", json_tensors(s->gguf));
    if (td_opt_is_set(cfg, TD_OPT_PROGRAM) && s->model)
        json_object_set_new(out, "program", json_program(s->model));
    return td_json_print(stdout, out, JSON_INDENT(2));
}

static int inspect(const struct td_config *cfg, const char *path, struct td_error *err)
{
    struct summary s = {0};
    struct td_gguf *gguf = NULL;
    struct td_model *model = NULL;
    struct td_error reason = {0};
    const struct td_model_options options = {.header_only = true};

    s.is_synth = strncmp(path, "synth:", 6) == 0;
    int code = td_model_open(&model, path, &options, &reason);
    if (code == TD_OK) {
        s.model = model;
        s.gguf = model->gguf;
    } else {
        // Not a model we run; the directory may still be worth showing.
        if (s.is_synth) return td_fail(err, code, "%s", reason.msg);
        code = td_gguf_open(&gguf, path, err);
        if (code != TD_OK) return code;
        s.gguf = gguf;
        s.reason = reason.msg;
    }
    summarise(&s);
    const bool wants_lists =
        td_opt_is_set(cfg, TD_OPT_TENSORS) || td_opt_is_set(cfg, TD_OPT_PROGRAM);
    if (td_opt_is_set(cfg, TD_OPT_PROGRAM) && !s.model) {
        code = td_fail(err, TD_EUNSUP, "no program: %.200s", reason.msg);
    } else if (td_opt_is_set(cfg, TD_OPT_JSON)) {
        code = print_json(&s, cfg) == 0 ? TD_OK : td_fail(err, TD_EIO, "the JSON was not written");
    } else {
        if (!wants_lists) print_summary(&s);
        if (td_opt_is_set(cfg, TD_OPT_TENSORS)) print_tensors(s.gguf);
        if (td_opt_is_set(cfg, TD_OPT_PROGRAM)) code = td_program_print(s.model, stdout);
        if (code != TD_OK) (void)td_fail(err, code, "the program cannot be printed");
    }
    td_model_close(model);
    td_gguf_close(gguf);
    return code;
}

int td_cmd_inspect(const struct td_config *cfg)
{
    const char *path = cfg->n_args ? cfg->args[0] : td_opt_text(cfg, TD_OPT_MODEL);
    if (!path) return td_app_usage(cfg, "'inspect' needs a model: tandem inspect FILE.gguf");
    if (cfg->n_args && td_opt_is_set(cfg, TD_OPT_MODEL))
        return td_app_usage(cfg, "two models are given: %.80s and %.80s", cfg->args[0],
                            td_opt_text(cfg, TD_OPT_MODEL));
    struct td_error err = {0};
    if (td_app_check_model_path(path, &err) != TD_OK || inspect(cfg, path, &err) != TD_OK)
        return td_app_fail(&err);
    return TD_EXIT_OK;
}
