// SPDX-License-Identifier: MIT
// What is served: /v1/models, and /api/tags, ps, show and version as Ollama's clients ask for it.
#include "server/api_impl.h"

#include "base/num.h"
#include "model/model.h"

#include <string.h>

static void put_timestamp(struct td_buf *b, const char *key, time_t t)
{
    char text[32] = "1970-01-01T00:00:00Z";
    struct tm utc;
    if (gmtime_r(&t, &utc)) strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &utc);
    td_put_str(b, key, text);
}

// Weights in the file, and the type that most of their bytes are of.
static void sum_weights(const struct td_model *m, uint64_t *n_params, const char **type)
{
    uint64_t bytes[64] = {0}; // by number of type: GGUF's are below 64
    *n_params = 0;
    enum td_type most = TD_F32;
    for (uint32_t i = 0; i < m->n_weights; i++) {
        const struct td_weight_info *w = &m->weights[i];
        uint64_t n = 1;
        for (uint32_t k = 0; k < w->n_dims; k++) n *= w->dim[k];
        *n_params += n;
        if ((uint32_t)w->type >= 64) continue;
        bytes[w->type] += w->size_bytes;
        if (bytes[w->type] > bytes[most]) most = w->type;
    }
    *type = td_type_known_name(most);
}

static void put_model(struct td_api_reply *r)
{
    struct td_buf *b = &r->out;
    const struct td_model *m = r->cfg->model;
    td_put_open(b, NULL, '{');
    td_put_str(b, "id", r->cfg->model_name);
    td_put_str(b, "object", "model");
    td_put_u64(b, "created", (uint64_t)td_api_started(r->api));
    td_put_str(b, "owned_by", "tandem");
    td_put_open(b, "meta", '{');
    td_put_u64(b, "n_ctx", r->cfg->n_ctx);
    td_put_u64(b, "n_vocab", td_tokenizer_n_vocab(r->cfg->tokenizer));
    if (m) {
        uint64_t n_params = 0;
        const char *type = NULL;
        sum_weights(m, &n_params, &type);
        td_put_u64(b, "n_ctx_train", m->spec.n_ctx_train);
        td_put_u64(b, "n_embd", m->spec.n_embd);
        td_put_u64(b, "n_params", n_params);
        td_put_u64(b, "size", m->weights_bytes);
    }
    td_put_close(b, '}');
    td_put_close(b, '}');
}

void td_about_models(struct td_api_reply *r)
{
    struct td_buf *b = &r->out;
    td_put_open(b, NULL, '{');
    td_put_str(b, "object", "list");
    td_put_open(b, "data", '[');
    put_model(r);
    td_put_close(b, ']');
    td_put_close(b, '}');
}

void td_about_model(struct td_api_reply *r, const char *id)
{
    const size_t n = strcspn(id, "?#");
    if (n == strlen(r->cfg->model_name) && strncmp(id, r->cfg->model_name, n) == 0) {
        put_model(r);
        return;
    }
    td_fault_set(&r->ask->rd, 404, "model_not_found", NULL, NULL,
                 "There is no model '%.60s' here, only '%.60s'.", id, r->cfg->model_name);
}

static void put_details(struct td_api_reply *r)
{
    struct td_buf *b = &r->out;
    const struct td_model *m = r->cfg->model;
    uint64_t n_params = 0;
    const char *type = "";
    char size[32] = "";
    if (m) sum_weights(m, &n_params, &type);
    if (n_params >= 1000000000)
        (void)snprintf(size, sizeof(size), "%.1fB", (double)n_params * 1e-9);
    else if (n_params > 0)
        (void)snprintf(size, sizeof(size), "%.1fM", (double)n_params * 1e-6);
    td_put_open(b, "details", '{');
    td_put_str(b, "parent_model", "");
    td_put_str(b, "format", "gguf");
    td_put_str(b, "family", m ? m->spec.arch : "");
    td_put_open(b, "families", '[');
    td_put_str(b, NULL, m ? m->spec.arch : "");
    td_put_close(b, ']');
    td_put_str(b, "parameter_size", size);
    td_put_str(b, "quantization_level", type);
    td_put_close(b, '}');
}

static void begin_entry(struct td_api_reply *r)
{
    struct td_buf *b = &r->out;
    const struct td_model *m = r->cfg->model;
    td_put_open(b, NULL, '{');
    td_put_open(b, "models", '[');
    td_put_open(b, NULL, '{');
    td_put_str(b, "name", r->cfg->model_name);
    td_put_str(b, "model", r->cfg->model_name);
    td_put_u64(b, "size", m ? m->weights_bytes : 0);
    td_put_str(b, "digest", m ? m->digest : "");
    put_details(r);
}

static void end_entry(struct td_api_reply *r)
{
    td_put_close(&r->out, '}');
    td_put_close(&r->out, ']');
    td_put_close(&r->out, '}');
}

void td_about_tags(struct td_api_reply *r)
{
    begin_entry(r);
    put_timestamp(&r->out, "modified_at", td_api_started(r->api));
    end_entry(r);
}

void td_about_ps(struct td_api_reply *r)
{
    begin_entry(r);
    // It stays as long as the server does; clients want a date.
    put_timestamp(&r->out, "expires_at", r->created + (time_t)365 * 86400);
    td_put_u64(&r->out, "size_vram", 0);
    td_put_u64(&r->out, "context_length", r->cfg->n_ctx);
    end_entry(r);
}

void td_about_show(struct td_api_reply *r, const json_t *root)
{
    struct td_buf *b = &r->out;
    const struct td_model *m = r->cfg->model;
    const char *name = NULL;
    if (!td_read_text(&r->ask->rd, root, NULL, "model", &name))
        (void)td_read_text(&r->ask->rd, root, NULL, "name", &name);
    if (!td_is_fine(&r->ask->rd)) return;
    td_put_open(b, NULL, '{');
    td_put_str(b, "license", "");
    td_put_str(b, "modelfile", "");
    td_put_str(b, "parameters", "");
    td_put_str(b, "template", "{{ .Prompt }}");
    put_details(r);
    td_put_open(b, "model_info", '{');
    if (m) {
        const struct {
            const char *name;
            uint32_t v;
        } facts[] = {{"context_length", r->cfg->n_ctx},
                     {"embedding_length", m->spec.n_embd},
                     {"block_count", m->spec.n_layers},
                     {"attention.head_count", m->spec.n_heads},
                     {"attention.head_count_kv", m->spec.n_kv_heads},
                     {"expert_count", m->spec.n_experts},
                     {"expert_used_count", m->spec.n_experts_used},
                     {"vocab_size", m->spec.n_vocab}};
        uint64_t n_params = 0;
        const char *type = NULL;
        sum_weights(m, &n_params, &type);
        td_put_str(b, "general.architecture", m->spec.arch);
        td_put_str(b, "general.basename", m->spec.name);
        td_put_u64(b, "general.parameter_count", n_params);
        for (size_t i = 0; i < sizeof(facts) / sizeof(facts[0]); i++) {
            char key[80];
            (void)snprintf(key, sizeof(key), "%s.%s", m->spec.arch, facts[i].name);
            td_put_u64(b, key, facts[i].v);
        }
    }
    td_put_close(b, '}');
    td_put_open(b, "capabilities", '[');
    td_put_str(b, NULL, "completion");
    td_put_str(b, NULL, "tools");
    td_put_str(b, NULL, "thinking");
    td_put_close(b, ']');
    put_timestamp(b, "modified_at", td_api_started(r->api));
    td_put_close(b, '}');
}

void td_about_version(struct td_api_reply *r)
{
    td_put_open(&r->out, NULL, '{');
    td_put_str(&r->out, "version", r->cfg->version);
    td_put_close(&r->out, '}');
}
