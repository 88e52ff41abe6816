// SPDX-License-Identifier: MIT
// What the engine's tests share: models, engines and logits by one call each; failure is the
// test's.
#ifndef TD_TESTS_ENGINE_SUPPORT_H
#define TD_TESTS_ENGINE_SUPPORT_H

// cmocka.h needs these first.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/num.h"
#include "engine/engine.h"

#include <string.h>

// The last error, for OK and for tests that look at the sentence.
static struct td_error err;

#define OK(call)                                                                                   \
    do {                                                                                           \
        if ((call) != TD_OK) fail_msg("%s: %s", #call, err.msg);                                   \
    } while (0)

static inline struct td_model *open_model(const char *path)
{
    struct td_model *m;
    OK(td_model_open(&m, path, NULL, &err));
    return m;
}

static inline struct td_engine *open_engine_cfg(const struct td_model *m,
                                                struct td_engine_config cfg)
{
    struct td_engine *e;
    OK(td_engine_open(&e, m, td_backend_cpu(), &cfg, &err));
    return e;
}

static inline struct td_engine_config config(uint32_t chunk, uint32_t n_threads)
{
    return (struct td_engine_config){
        .device = {.n_threads = n_threads, .max_rows = chunk, .max_logits_rows = chunk, .isa = -1}};
}

static inline struct td_session *open_session(struct td_engine *e, uint32_t n_ctx)
{
    struct td_session *s;
    OK(td_session_open(&s, e, n_ctx, &err));
    return s;
}

static inline int collect_rows(void *ctx, uint32_t i0, uint32_t n, const float *logits,
                               struct td_error *unused)
{
    (void)unused;
    struct {
        float *to;
        uint32_t n_vocab;
    } const *c = ctx;
    memcpy(c->to + (size_t)i0 * c->n_vocab, logits, (size_t)n * c->n_vocab * sizeof(float));
    return TD_OK;
}

// Logits of all rows: out (n, n_vocab).
static inline void eval_rows(struct td_engine *e, const int32_t *tokens, uint32_t n, float *out)
{
    struct {
        float *to;
        uint32_t n_vocab;
    } c = {out, td_engine_model(e)->spec.n_vocab};
    struct td_session *s = open_session(e, n);
    OK(td_session_eval(s, tokens, n, collect_rows, &c, &err));
    td_session_close(s);
}

// The session's logits are those of an engine that reads the same n tokens for the first time.
static inline void assert_fresh(const struct td_model *m, struct td_session *s,
                                const int32_t *tokens, uint32_t n)
{
    struct td_engine *e = open_engine_cfg(m, config(512, 1));
    struct td_session *fresh = open_session(e, n);
    OK(td_session_sync(fresh, tokens, n, NULL, 0, NULL, NULL, &err));
    assert_int_equal(td_session_state(s), TD_SESSION_READY);
    assert_int_equal(td_session_len(s), n);
    assert_memory_equal(td_session_logits(s), td_session_logits(fresh),
                        m->spec.n_vocab * sizeof(float));
    td_session_close(fresh);
    td_engine_close(e);
}

static inline void random_tokens(struct td_rng *rng, int32_t *out, uint32_t n, uint32_t n_vocab)
{
    for (uint32_t i = 0; i < n; i++) out[i] = (int32_t)(td_rng_u64(rng) % n_vocab);
}

#endif
