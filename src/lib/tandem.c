// SPDX-License-Identifier: MIT
// The public functions of include/tandem.h, over the floors below: names, defaults and errors are
// turned, nothing is computed. A caller outside the house sees no struct of it.
#include "tandem.h"

#include "base/num.h"
#include "base/os.h"
#include "engine/engine.h"
#include "kernels/kernels.h"
#include "text/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

_Static_assert((int)TANDEM_EARG == TD_EARG && (int)TANDEM_EFORMAT == TD_EFORMAT &&
                   (int)TANDEM_EUNSUP == TD_EUNSUP && (int)TANDEM_ENOMEM == TD_ENOMEM &&
                   (int)TANDEM_EIO == TD_EIO && (int)TANDEM_EFULL == TD_EFULL &&
                   (int)TANDEM_ECANCEL == TD_ECANCEL,
               "the public codes are the house's");
_Static_assert((int)TANDEM_SESSION_IDLE == TD_SESSION_IDLE &&
                   (int)TANDEM_SESSION_READING == TD_SESSION_PREFILLING &&
                   (int)TANDEM_SESSION_READY == TD_SESSION_READY,
               "the public states are the house's");
_Static_assert(sizeof(((struct tandem_error *)0)->msg) == sizeof(((struct td_error *)0)->msg),
               "sentences fit");

enum { DEFAULT_CHUNK = 512, MAX_CHUNK = 65536, MAX_THREADS = 1024, MAX_CTX = 1 << 30 };

// What the handles stand for. Sessions, samplers and tokenizers are handed out as they are.
struct tandem_model {
    struct td_model *model;
};

struct tandem_engine {
    struct td_engine *engine;
};

static struct td_session *inner(struct tandem_session *s)
{
    return (struct td_session *)s;
}

static const struct td_session *inner_const(const struct tandem_session *s)
{
    return (const struct td_session *)s;
}

static const struct td_tokenizer *tokenizer(const struct tandem_tokenizer *t)
{
    return (const struct td_tokenizer *)t;
}

// Hands the error on; returns code.
static int tell(int code, const struct td_error *why, struct tandem_error *err)
{
    if (code == TD_OK || !err) return code;
    err->code = code;
    memcpy(err->msg, why->msg, sizeof(err->msg));
    return code;
}

const char *tandem_version(void)
{
    return TD_VERSION;
}

int tandem_model_open(struct tandem_model **out, const char *path, tandem_progress_fn *progress,
                      void *progress_ctx, struct tandem_error *err)
{
    *out = NULL;
    struct td_error why = {0};
    struct td_os_info info;
    td_os_info(&info);
    const struct td_model_options options = {
        .n_threads = info.n_cpus, .progress = progress, .progress_ctx = progress_ctx};
    struct tandem_model *m = calloc(1, sizeof(*m));
    int code = m ? td_model_open(&m->model, path, &options, &why)
                 : td_fail(&why, TD_ENOMEM, "no memory for a model");
    if (code == TD_OK)
        *out = m;
    else
        free(m);
    return tell(code, &why, err);
}

void tandem_model_close(struct tandem_model *m)
{
    if (!m) return;
    td_model_close(m->model);
    free(m);
}

void tandem_model_describe(const struct tandem_model *m, struct tandem_model_info *out)
{
    const struct td_model *model = m->model;
    *out = (struct tandem_model_info){
        .architecture = model->spec.arch,
        .digest = model->digest,
        .note = model->note,
        .n_vocab = model->spec.n_vocab,
        .n_layers = model->spec.n_layers,
        .n_ctx_train = model->spec.n_ctx_train,
        .weights_bytes = model->weights_bytes,
    };
}

int tandem_tokenizer_open(struct tandem_tokenizer **out, const struct tandem_model *m,
                          struct tandem_error *err)
{
    struct td_error why = {0};
    struct td_tokenizer *t = NULL;
    const int code = td_tokenizer_open(&t, m->model->gguf, &why);
    *out = (struct tandem_tokenizer *)t;
    return tell(code, &why, err);
}

void tandem_tokenizer_close(struct tandem_tokenizer *t)
{
    td_tokenizer_close((struct td_tokenizer *)t);
}

int tandem_encode(const struct tandem_tokenizer *t, const char *text, size_t size_bytes,
                  bool parse_special, int32_t *ids, size_t cap, size_t *n_out,
                  struct tandem_error *err)
{
    *n_out = 0;
    struct td_error why = {0};
    struct td_ids all = {0};
    int code = td_encode(tokenizer(t), text, size_bytes, parse_special, &all, &why);
    if (code == TD_OK) {
        *n_out = all.n;
        const size_t n = all.n < cap ? all.n : cap;
        if (n) memcpy(ids, all.at, n * sizeof(*ids));
        if (n < all.n)
            code = td_fail(&why, TD_EFULL, "the text has %zu tokens, there is room for %zu", all.n,
                           cap);
    }
    td_ids_free(&all);
    return tell(code, &why, err);
}

const char *tandem_token_bytes(const struct tandem_tokenizer *t, int32_t id, size_t *size_bytes_out)
{
    const struct td_str s = td_token_bytes(tokenizer(t), id);
    *size_bytes_out = s.size_bytes;
    return s.at;
}

size_t tandem_decode(const struct tandem_tokenizer *t, const int32_t *ids, size_t n, char *out,
                     size_t cap)
{
    size_t total = 0;
    for (size_t i = 0; i < n; i++) {
        const struct td_str s = td_token_bytes(tokenizer(t), ids[i]);
        if (total < cap && s.size_bytes)
            memcpy(out + total, s.at, s.size_bytes < cap - total ? s.size_bytes : cap - total);
        total += s.size_bytes;
    }
    return total;
}

int32_t tandem_token_find(const struct tandem_tokenizer *t, const char *name)
{
    return td_token_find(tokenizer(t), name);
}

bool tandem_token_is_special(const struct tandem_tokenizer *t, int32_t id)
{
    return td_token_is_special(tokenizer(t), id);
}

bool tandem_token_ends_generation(const struct tandem_tokenizer *t, int32_t id)
{
    return td_token_ends_generation(tokenizer(t), id);
}

int32_t tandem_token_bos(const struct tandem_tokenizer *t)
{
    return td_tokenizer_adds_bos(tokenizer(t)) ? td_token_bos(tokenizer(t)) : -1;
}

// The device the options ask for, with defaults filled in.
static int read_options(struct td_device_config *out, const struct tandem_engine_options *opt,
                        struct td_error *why)
{
    struct td_os_info info;
    td_os_info(&info);
    enum td_isa isa = TD_ISA_GENERIC;
    if (opt->isa && !td_isa_parse(opt->isa, &isa))
        return td_fail(why, TD_EARG, "isa '%.40s': not one of generic, avx2, avx512 and neon",
                       opt->isa);
    if (opt->n_threads > MAX_THREADS)
        return td_fail(why, TD_EARG, "%u threads: at most %d are possible", opt->n_threads,
                       MAX_THREADS);
    if (opt->chunk_tokens > MAX_CHUNK)
        return td_fail(why, TD_EARG, "a chunk of %u tokens: at most %d are possible",
                       opt->chunk_tokens, MAX_CHUNK);
    *out = (struct td_device_config){
        .n_threads = opt->n_threads ? opt->n_threads
                     : info.n_cpus  ? info.n_cpus
                                    : 1,
        .precision = opt->precision_high ? TD_PRECISION_HIGH : TD_PRECISION_DEFAULT,
        .kv_f32 = opt->kv_f32,
        .max_rows = opt->chunk_tokens ? opt->chunk_tokens : DEFAULT_CHUNK,
        .max_kv_bytes = opt->max_kv_bytes,
        .isa = opt->isa ? (int)isa : -1,
    };
    // Logits of one token for each session of a step.
    out->max_logits_rows = td_min_u32(out->max_rows, 16);
    return TD_OK;
}

int tandem_engine_open(struct tandem_engine **out, const struct tandem_model *m,
                       const struct tandem_engine_options *options, struct tandem_error *err)
{
    *out = NULL;
    const struct tandem_engine_options defaults = {0};
    struct td_error why = {0};
    struct td_engine_config cfg = {0};
    int code = read_options(&cfg.device, options ? options : &defaults, &why);
    struct tandem_engine *e = NULL;
    if (code == TD_OK) {
        e = calloc(1, sizeof(*e));
        code = e ? td_engine_open(&e->engine, m->model, td_backend_cpu(), &cfg, &why)
                 : td_fail(&why, TD_ENOMEM, "no memory for an engine");
    }
    if (code == TD_OK)
        *out = e;
    else
        free(e);
    return tell(code, &why, err);
}

void tandem_engine_close(struct tandem_engine *e)
{
    if (!e) return;
    td_engine_close(e->engine);
    free(e);
}

int tandem_session_open(struct tandem_session **out, struct tandem_engine *e, uint32_t n_ctx,
                        struct tandem_error *err)
{
    *out = NULL;
    struct td_error why = {0};
    struct td_session *s = NULL;
    const int code = n_ctx >= 1 && n_ctx <= MAX_CTX
                         ? td_session_open(&s, e->engine, n_ctx, &why)
                         : td_fail(&why, TD_EARG, "a context of %u tokens: 1 to %d are possible",
                                   n_ctx, MAX_CTX);
    if (code == TD_OK) *out = (struct tandem_session *)s;
    return tell(code, &why, err);
}

void tandem_session_close(struct tandem_session *s)
{
    td_session_close(inner(s));
}

int tandem_session_sync(struct tandem_session *s, const int32_t *tokens, uint32_t n,
                        const uint32_t *marks, uint32_t n_marks, tandem_progress_fn *progress,
                        void *progress_ctx, struct tandem_error *err)
{
    struct td_error why = {0};
    return tell(td_session_sync(inner(s), tokens, n, marks, n_marks, progress, progress_ctx, &why),
                &why, err);
}

uint32_t tandem_session_len(const struct tandem_session *s)
{
    return td_session_len(inner_const(s));
}

uint32_t tandem_session_reused(const struct tandem_session *s)
{
    return td_session_reused(inner_const(s));
}

const float *tandem_session_logits(const struct tandem_session *s)
{
    return td_session_state(inner_const(s)) == TD_SESSION_READY ? td_session_logits(inner_const(s))
                                                                : NULL;
}

void tandem_session_cancel(struct tandem_session *s)
{
    td_session_cancel(inner(s));
}

int tandem_sampler_open(struct tandem_sampler **out, const struct tandem_model *m,
                        const struct tandem_sampling *how, struct tandem_error *err)
{
    struct td_error why = {0};
    struct td_sampler *sampler = NULL;
    const struct td_sampling cfg = {
        .temp = how->temp,
        .top_k = how->top_k,
        .top_p = how->top_p == 0.0f ? 1.0f : how->top_p,
        .min_p = how->min_p,
        .seed = how->seed,
    };
    const int code = td_sampler_open(&sampler, &cfg, m->model->spec.n_vocab, &why);
    *out = (struct tandem_sampler *)sampler;
    return tell(code, &why, err);
}

void tandem_sampler_close(struct tandem_sampler *sampler)
{
    td_sampler_close((struct td_sampler *)sampler);
}

int32_t tandem_sampler_draw(struct tandem_sampler *sampler, const float *logits)
{
    return td_sampler_draw((struct td_sampler *)sampler, logits);
}

int tandem_session_next(struct tandem_session *s, struct tandem_sampler *sampler,
                        int32_t *token_out, struct tandem_error *err)
{
    struct td_error why = {0};
    const int code = td_session_len(inner(s)) == 0
                         ? td_fail(&why, TD_EARG, "the timeline is empty: no token can follow")
                         : td_session_next(inner(s), (struct td_sampler *)sampler, token_out, &why);
    return tell(code, &why, err);
}

enum tandem_session_state tandem_session_state(const struct tandem_session *s)
{
    return (enum tandem_session_state)td_session_state(inner_const(s));
}

int tandem_session_want(struct tandem_session *s, const int32_t *tokens, uint32_t n,
                        const uint32_t *marks, uint32_t n_marks, struct tandem_error *err)
{
    struct td_error why = {0};
    return tell(td_session_want(inner(s), tokens, n, marks, n_marks, &why), &why, err);
}

int tandem_session_append(struct tandem_session *s, int32_t token, struct tandem_error *err)
{
    struct td_error why = {0};
    return tell(td_session_append(inner(s), token, &why), &why, err);
}

int tandem_engine_step(struct tandem_engine *e, uint32_t *n_rows_out, struct tandem_error *err)
{
    struct td_error why = {0};
    return tell(td_engine_step(e->engine, n_rows_out, &why), &why, err);
}
