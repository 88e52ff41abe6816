// SPDX-License-Identifier: MIT
// The routes, and how an answer begins: body -> request -> prompt -> jobs.
#include "server/api_impl.h"

#include "base/clock.h"
#include "base/num.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

struct td_api {
    struct td_api_config cfg;
    time_t started;
    uint64_t seed;
    _Atomic uint64_t n_replies; // relaxed: only ever counted up
};

enum route_kind {
    ROUTE_CHAT,
    ROUTE_COMPLETION,
    ROUTE_RESPONSES,
    ROUTE_MODELS,
    ROUTE_MODEL,
    ROUTE_OLLAMA_CHAT,
    ROUTE_OLLAMA_GENERATE,
    ROUTE_TAGS,
    ROUTE_PS,
    ROUTE_SHOW,
    ROUTE_VERSION,
};

static const struct route {
    const char *method, *path;
    bool has_rest; // path and one more name
    enum route_kind kind;
} routes[] = {
    {"POST", "/v1/chat/completions", false, ROUTE_CHAT},
    {"POST", "/v1/completions", false, ROUTE_COMPLETION},
    {"POST", "/v1/responses", false, ROUTE_RESPONSES},
    {"GET", "/v1/models", false, ROUTE_MODELS},
    {"GET", "/v1/models/", true, ROUTE_MODEL},
    {"POST", "/api/chat", false, ROUTE_OLLAMA_CHAT},
    {"POST", "/api/generate", false, ROUTE_OLLAMA_GENERATE},
    {"GET", "/api/tags", false, ROUTE_TAGS},
    {"GET", "/api/ps", false, ROUTE_PS},
    {"POST", "/api/show", false, ROUTE_SHOW},
    {"GET", "/api/version", false, ROUTE_VERSION},
};

static const struct route *find_route(const char *path)
{
    const size_t n = strcspn(path, "?#");
    for (size_t i = 0; i < sizeof(routes) / sizeof(routes[0]); i++) {
        const size_t n_route = strlen(routes[i].path);
        const bool is_it = routes[i].has_rest ? n > n_route : n == n_route;
        if (is_it && strncmp(path, routes[i].path, n_route) == 0) return &routes[i];
    }
    return NULL;
}

bool td_api_has(const char *method, const char *path, const char **methods_out)
{
    const struct route *route = find_route(path);
    *methods_out = route ? route->method : NULL;
    return route && strcmp(route->method, method) == 0;
}

int td_api_open(struct td_api **out, const struct td_api_config *cfg, struct td_error *err)
{
    *out = NULL;
    struct td_api *api = calloc(1, sizeof(*api));
    if (!api) return td_fail(err, TD_ENOMEM, "no memory for the API");
    api->cfg = *cfg;
    api->started = time(NULL);
    api->seed = td_clock_ns() ^ (uint64_t)api->started << 20;
    *out = api;
    return TD_OK;
}

void td_api_close(struct td_api *api)
{
    free(api);
}

time_t td_api_started(const struct td_api *api)
{
    return api->started;
}

static void ask_free(struct td_ask *a)
{
    if (!a) return;
    td_prompt_free(a);
    td_ids_free(&a->next);
    td_ids_free(&a->next_marks);
    free(a->messages);
    free(a->calls);
    td_reader_free(&a->rd);
    json_decref(a->root);
    free(a);
}

void td_api_end(struct td_api_reply *r)
{
    if (!r) return;
    for (uint32_t i = 0; i < r->n_choices; i++) {
        struct td_choice *c = &r->choices[i];
        if (c->job) {
            td_job_notify(c->job, NULL, NULL);
            td_job_close(c->job);
        }
        td_buf_free(&c->content);
        td_buf_free(&c->reasoning);
        for (size_t k = 0; k < c->n_calls; k++) {
            free(c->calls[k].name);
            td_buf_free(&c->calls[k].args);
        }
        free(c->calls);
        free(c->tokens);
    }
    free(r->choices);
    ask_free(r->ask);
    td_buf_free(&r->out);
    td_buf_free(&r->given);
    td_buf_free(&r->alive);
    td_buf_free(&r->items);
    free(r);
}

// ---- Jobs ----

// Of answer i (0 ..), which the scheduler does not take.
static void fault_of_submit(struct td_ask *a, const struct td_error *err, uint32_t retry_s,
                            uint32_t i)
{
    struct td_reader *rd = &a->rd;
    switch (err->code) {
    case TD_EFULL:
        if (i > 0)
            td_fault_set(rd, 503, "queue_full", NULL, NULL,
                         "Only %u of the %u answers find a place now; try again in %u s, or ask "
                         "for fewer.",
                         i, a->n * a->n_prompts, retry_s);
        else
            td_fault_set(rd, 503, "queue_full", NULL, NULL,
                         "Too many answers are being written and waited for; try again in %u s.",
                         retry_s);
        break;
    case TD_ECANCEL:
        td_fault_set(rd, 503, "shutting_down", NULL, NULL, "The server is shutting down.");
        break;
    case TD_EARG:
        td_fault_set(rd, 400, "context_length_exceeded", NULL, NULL, "%s", err->msg);
        break;
    default: td_fault_set(rd, 500, NULL, NULL, NULL, "%s", err->msg); break;
    }
    if (rd->fault.status == 503) rd->fault.retry_after_s = retry_s ? retry_s : 1;
}

static bool start_job(struct td_api_reply *r, const struct td_api_request *req, uint32_t i)
{
    struct td_ask *a = r->ask;
    const struct td_api_prompt *p = &a->prompts[i / a->n];
    struct td_error err = {0};
    uint32_t retry_s = 0;
    struct td_job_spec spec = {
        .tokens = p->ids.at,
        .n_tokens = (uint32_t)p->ids.n,
        .n_marks = (uint32_t)p->marks.n,
        .sampling = a->sampling,
        .max_tokens = a->max_tokens == UINT32_MAX ? 0 : a->max_tokens,
        .stops = a->stops,
        .n_stops = a->n_stops,
        .is_chat = a->is_chat,
        .n_begun = p->n_begun,
        .calls = a->tool_choice == TD_TOOLS_NAMED ? TD_JOB_CALLS_ONE : a->n_calls_wanted,
        .ignore_end = a->ignore_end,
        .wants_logprobs = a->wants_logprobs,
        .n_top = a->n_top,
        .client = req->client,
    };
    // Marks are counts of tokens, never negative.
    uint32_t *marks = p->marks.n > 0 ? calloc(p->marks.n, sizeof(*marks)) : NULL;
    if (p->marks.n > 0 && !marks) {
        td_fault_set(&a->rd, 500, NULL, NULL, NULL, "There is no memory for this request.");
        return false;
    }
    for (size_t k = 0; k < p->marks.n; k++) marks[k] = (uint32_t)p->marks.at[k];
    spec.marks = marks;
    if (i > 0) {
        struct td_rng rng = {.state = a->sampling.seed + i};
        spec.sampling.seed = td_rng_u64(&rng);
    }
    struct td_choice *c = &r->choices[i];
    int code = td_job_open(&c->job, &spec, &err);
    free(marks);
    if (!code) {
        td_job_notify(c->job, req->notify, req->ctx);
        code = td_sched_submit(r->cfg->sched, c->job, &retry_s, &err);
    } else if (code == TD_EARG) {
        td_fault_set(&a->rd, 400, NULL, NULL, NULL, "%s", err.msg);
    }
    if (code) fault_of_submit(a, &err, retry_s, i);
    return code == TD_OK;
}

static void start_jobs(struct td_api_reply *r, const struct td_api_request *req)
{
    struct td_ask *a = r->ask;
    const uint32_t n = a->n * a->n_prompts;
    r->choices = calloc(n, sizeof(*r->choices));
    if (!r->choices) {
        td_fault_set(&a->rd, 500, NULL, NULL, NULL, "There is no memory for this request.");
        return;
    }
    r->n_choices = n;
    for (uint32_t i = 0; i < n; i++) r->choices[i].i = i;
    for (uint32_t i = 0; i < n; i++) {
        if (start_job(r, req, i)) continue;
        for (uint32_t k = 0; k < i; k++) td_job_cancel(r->choices[k].job);
        return;
    }
    // The answer may take long, the request may be large: what is not needed any more goes now.
    td_prompt_keep(a);
    td_prompt_free(a);
    free(a->messages);
    a->messages = NULL;
    if (r->dialect->keeps_request) return;
    json_decref(a->root);
    a->root = NULL;
    a->model = NULL;
}

// What a request asks for that the dialects share.
static void settle_sampling(struct td_ask *a, const struct td_api_config *cfg, uint64_t chance)
{
    if (!a->has_seed) a->sampling.seed = chance;
    if (a->max_tokens == 0) a->max_tokens = cfg->max_answer ? cfg->max_answer : UINT32_MAX;
    const struct td_sampling *s = &a->sampling;
    for (uint32_t i = 0; i < s->n_bias; i++)
        if ((uint32_t)s->bias[i].token >= td_tokenizer_n_vocab(cfg->tokenizer))
            td_fault_set(&a->rd, 400, NULL, NULL, "logit_bias",
                         "there is no token %d: the vocabulary has %u", s->bias[i].token,
                         td_tokenizer_n_vocab(cfg->tokenizer));
}

static void read_ask(struct td_ask *a, const struct route *route, const struct td_api_config *cfg)
{
    switch (route->kind) {
    case ROUTE_CHAT: td_read_chat(a); break;
    case ROUTE_COMPLETION: td_read_completion(a, cfg); break;
    case ROUTE_RESPONSES: td_read_responses(a); break;
    case ROUTE_OLLAMA_CHAT: td_read_ollama_chat(a); break;
    case ROUTE_OLLAMA_GENERATE: td_read_ollama_generate(a, cfg); break;
    case ROUTE_MODELS:
    case ROUTE_MODEL:
    case ROUTE_TAGS:
    case ROUTE_PS:
    case ROUTE_SHOW:
    case ROUTE_VERSION: break;
    }
}

static void begin_about(struct td_api_reply *r, const struct route *route, const char *path)
{
    switch (route->kind) {
    case ROUTE_MODELS: td_about_models(r); break;
    case ROUTE_MODEL: td_about_model(r, path + strlen(route->path)); break;
    case ROUTE_TAGS: td_about_tags(r); break;
    case ROUTE_PS: td_about_ps(r); break;
    case ROUTE_SHOW: td_about_show(r, r->ask->root); break;
    case ROUTE_VERSION: td_about_version(r); break;
    case ROUTE_CHAT:
    case ROUTE_COMPLETION:
    case ROUTE_RESPONSES:
    case ROUTE_OLLAMA_CHAT:
    case ROUTE_OLLAMA_GENERATE: break;
    }
    r->is_settled = r->is_done = true;
}

static const struct td_dialect *dialect_of(enum route_kind kind)
{
    switch (kind) {
    case ROUTE_CHAT: return &td_dialect_chat;
    case ROUTE_COMPLETION: return &td_dialect_completion;
    case ROUTE_RESPONSES: return &td_dialect_responses;
    case ROUTE_OLLAMA_CHAT: return &td_dialect_ollama_chat;
    case ROUTE_OLLAMA_GENERATE: return &td_dialect_ollama_generate;
    case ROUTE_MODELS:
    case ROUTE_MODEL:
    case ROUTE_TAGS:
    case ROUTE_PS:
    case ROUTE_SHOW:
    case ROUTE_VERSION: break;
    }
    return NULL;
}

static void begin_ask(struct td_api_reply *r, const struct td_api_request *req,
                      const struct route *route)
{
    struct td_ask *a = r->ask;
    a->sampling = (struct td_sampling){.temp = 1, .top_p = 1};
    a->n = 1;
    a->effort = TD_EFFORT_MEDIUM;
    a->shows_reasoning = true;
    read_ask(a, route, r->cfg);
    // With tools the model must be free to choose its channel: it thinks, little, and unseen.
    if (a->no_reasoning && a->n_tools > 0) a->shows_reasoning = false;
    r->is_stream = a->is_stream;
    if (td_is_fine(&a->rd) && a->is_load) {
        td_ollama_load(r);
        return;
    }
    if (td_is_fine(&a->rd)) settle_sampling(a, r->cfg, r->rng);
    if (td_is_fine(&a->rd)) td_prompt_make(a, r->cfg);
    if (td_is_fine(&a->rd)) td_reply_new_id(r, r->dialect->id_prefix, r->id);
    if (td_is_fine(&a->rd)) start_jobs(r, req);
}

struct td_api_reply *td_api_begin(struct td_api *api, const struct td_api_request *req)
{
    const struct route *route = find_route(req->path);
    struct td_api_reply *r = calloc(1, sizeof(*r));
    struct td_ask *a = calloc(1, sizeof(*a));
    if (!r || !a) {
        free(r);
        free(a);
        return NULL;
    }
    struct td_rng rng = {
        .state = api->seed + atomic_fetch_add_explicit(&api->n_replies, 1, memory_order_relaxed)};
    r->api = api;
    r->cfg = &api->cfg;
    r->ask = a;
    r->rng = td_rng_u64(&rng);
    r->created = time(NULL);
    r->begin_ns = td_clock_ns();
    r->status = 200;
    r->content_type = "application/json";
    const bool is_ollama = strncmp(req->path, "/api/", 5) == 0;
    if (!route)
        td_fault_set(&a->rd, 404, "unknown_url", NULL, NULL, "There is nothing at %.100s.",
                     req->path);
    else if (strcmp(route->method, req->method) != 0)
        td_fault_set(&a->rd, 405, NULL, NULL, NULL, "%.100s takes %s, not %.10s.", route->path,
                     route->method, req->method);
    else if (strcmp(route->method, "POST") == 0)
        a->root = td_read_document(&a->rd, req->body ? req->body : "", req->body_bytes);
    if (route && td_is_fine(&a->rd)) {
        r->dialect = dialect_of(route->kind);
        a->dialect = r->dialect;
        if (r->dialect)
            begin_ask(r, req, route);
        else
            begin_about(r, route, req->path);
    }
    if (td_is_fine(&a->rd) && r->out.no_memory)
        td_fault_set(&a->rd, 500, NULL, NULL, NULL, "There is no memory for the answer.");
    if (!td_is_fine(&a->rd)) td_reply_fault(r, &a->rd.fault, is_ollama);
    return r;
}
