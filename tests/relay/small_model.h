// SPDX-License-Identifier: MIT
// The small model of the relay's tests, a prompt for it, and the logits they must end in.
#ifndef TD_TESTS_RELAY_SMALL_MODEL_H
#define TD_TESTS_RELAY_SMALL_MODEL_H

#include "engine/support.h"
#include "link_support.h"

enum { N_CTX = 600, N_VOCAB = 1024, CHUNK = 64, WINDOW = 16, N_WRITTEN = 20 };
#define MODEL "synth:tiny,window=16,vocab=1024,ctx=8192"

static struct td_model *g_model;
static int32_t g_tokens[N_CTX + 1];

// Another prompt.
static inline void new_tokens(uint64_t seed)
{
    struct td_rng rng = {seed};
    random_tokens(&rng, g_tokens, N_CTX + 1, N_VOCAB);
}

static inline int setup(void **state)
{
    (void)state;
    g_model = open_model(MODEL);
    new_tokens(11);
    return 0;
}

static inline int teardown(void **state)
{
    (void)state;
    td_model_close(g_model);
    return 0;
}

// Writes 20 tokens behind the first n of the prompt, as an answer. is_kept: they become the
// prompt's own; else the next turn goes another way.
static inline void write_answer(struct td_session *s, uint32_t n, bool is_kept)
{
    struct td_sampler *sampler;
    const struct td_sampling greedy = {.top_p = 1};
    OK(td_sampler_open(&sampler, &greedy, N_VOCAB, &err));
    for (uint32_t at = n; at < n + N_WRITTEN; at++) {
        const int32_t before = g_tokens[at];
        OK(td_session_next(s, sampler, &g_tokens[at], &err));
        if (!is_kept) g_tokens[at] = before;
    }
    td_sampler_close(sampler);
}

// Prefixes there and here, of a prompt of 3 * CHUNK + 7 tokens.
static const uint32_t g_prefixes[][2] = {{0, 40},   {40, 0},    {40, 40},   {100, 70}, {70, 100},
                                         {190, 10}, {197, 150}, {198, 150}, {16, 197}, {64, 128}};
enum { N_PREFIXES = sizeof(g_prefixes) / sizeof(g_prefixes[0]) };

// Nothing holds KV any more: no session, no pin.
static inline void close_engine(struct td_engine *e)
{
    struct td_device_report report;
    td_engine_report(e, &report);
    assert_int_equal(report.kv_bytes, 0);
    td_engine_close(e);
}

#endif
