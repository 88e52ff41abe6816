// SPDX-License-Identifier: MIT
// A decoded token allocates nothing; a prompt chunk neither, snapshots apart.
#include "support.h"

#include <stdatomic.h>
#include <stdlib.h>

static atomic_uint g_n_allocs;

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t m);
void *__real_realloc(void *p, size_t n);
void *__real_aligned_alloc(size_t a, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t m);
void *__wrap_realloc(void *p, size_t n);
void *__wrap_aligned_alloc(size_t a, size_t n);

void *__wrap_malloc(size_t n)
{
    atomic_fetch_add(&g_n_allocs, 1);
    return __real_malloc(n);
}

void *__wrap_calloc(size_t n, size_t m)
{
    atomic_fetch_add(&g_n_allocs, 1);
    return __real_calloc(n, m);
}

void *__wrap_realloc(void *p, size_t n)
{
    atomic_fetch_add(&g_n_allocs, 1);
    return __real_realloc(p, n);
}

void *__wrap_aligned_alloc(size_t a, size_t n)
{
    atomic_fetch_add(&g_n_allocs, 1);
    return __real_aligned_alloc(a, n);
}

static void decoding_allocates_nothing(void **state)
{
    (void)state;
    struct td_model *m = open_model("synth:tiny,window=16,vocab=1024");
    struct td_engine *e = open_engine_cfg(m, config(64, 2));
    struct td_session *s = open_session(e, 700);
    struct td_sampler *sampler;
    const struct td_sampling sampling = {.temp = 1,
                                         .top_k = 50,
                                         .top_p = 0.9f,
                                         .min_p = 0.01f,
                                         .seed = 1,
                                         .repeat_penalty = 1.1f,
                                         .presence_penalty = 0.5f,
                                         .frequency_penalty = 0.5f,
                                         .bias = &(struct td_logit_bias){7, 1},
                                         .n_bias = 1};
    OK(td_sampler_open(&sampler, &sampling, 1024, &err));
    int32_t tokens[100];
    struct td_rng rng = {1};
    random_tokens(&rng, tokens, 100, 1024);
    assert_true(atomic_load(&g_n_allocs) > 0); // the wrapping works
    OK(td_session_sync(s, tokens, 100, NULL, 0, NULL, NULL, &err));
    atomic_store(&g_n_allocs, 0);
    // Across many page boundaries, and window pages that come and go.
    int32_t token;
    struct td_logprob top[TD_MAX_LOGPROBS];
    td_sampler_begin(sampler, tokens, 100);
    for (int i = 0; i < 500; i++) {
        OK(td_session_next(s, sampler, &token, &err));
        OK(td_engine_step(e, NULL, &err));
        (void)td_logprobs(td_session_logits(s), 1024, token, NULL, top, TD_MAX_LOGPROBS);
    }
    assert_int_equal(atomic_load(&g_n_allocs), 0);
    td_sampler_close(sampler);
    td_session_close(s);
    td_engine_close(e);
    td_model_close(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(decoding_allocates_nothing)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
