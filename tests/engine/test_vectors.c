// SPDX-License-Identifier: MIT
// The tiny gpt-oss against logits from an independent float64 computation: how far from the truth,
// and that chunks, threads, neighbours and instruction sets do not change one bit.
#include "kernels/kernels.h"
#include "reference/vectors.h"
#include "support.h"

#include <stdlib.h>

enum { N_TOKENS = 40, N_VOCAB = 2000, N_LOGITS = N_TOKENS * N_VOCAB };

static struct td_model *g_model;
static int32_t *g_tokens;
static struct npy g_reference;
static float g_a[N_LOGITS], g_b[N_LOGITS];

static int setup(void **state)
{
    (void)state;
    g_model = open_model("tests/data/gptoss-tiny.gguf");
    uint32_t n = 0;
    g_tokens = tokens_read("tests/data/gptoss-tiny.tokens.txt", &n);
    if (!g_tokens || !npy_read(&g_reference, "tests/data/gptoss-tiny.logits.npy")) return -1;
    return n == N_TOKENS && g_reference.n_rows == N_TOKENS && g_reference.n_cols == N_VOCAB ? 0
                                                                                            : -1;
}

static int teardown(void **state)
{
    (void)state;
    npy_free(&g_reference);
    free(g_tokens);
    td_model_close(g_model);
    return 0;
}

static void eval_with(struct td_device_config device, float *out)
{
    struct td_engine *e = open_engine_cfg(g_model, (struct td_engine_config){.device = device});
    eval_rows(e, g_tokens, N_TOKENS, out);
    td_engine_close(e);
}

static struct td_device_config device(enum td_precision precision, uint32_t chunk,
                                      uint32_t n_threads)
{
    struct td_device_config d = config(chunk, n_threads).device;
    d.precision = precision;
    return d;
}

static struct logits_diff compare(const float *ours)
{
    return logits_compare_f32(g_reference.at, ours, N_TOKENS, N_VOCAB);
}

static void default_is_as_close_as_its_rounding_allows(void **state)
{
    (void)state;
    eval_with(device(TD_PRECISION_DEFAULT, 40, 1), g_a);
    const struct logits_diff diff = compare(g_a);
    print_message("default: KL %.3g, top-1 %d/40\n", diff.mean_kl, (int)diff.n_top1);
    assert_true(diff.mean_kl <= 9e-4);
    assert_true(diff.n_top1 >= 38);
    // Less noise than 8-bit experts must make would mean that something else ran.
    assert_true(diff.mean_kl >= 1e-4);
}

static void fine_is_near(void **state)
{
    (void)state;
    eval_with(device(TD_PRECISION_FINE, 40, 1), g_a);
    const struct logits_diff diff = compare(g_a);
    print_message("fine: KL %.3g, top-1 %d/40\n", diff.mean_kl, (int)diff.n_top1);
    assert_true(diff.mean_kl <= 2e-4);
    assert_int_equal(diff.n_top1, 40);
}

static void high_is_exact_but_for_the_cache(void **state)
{
    (void)state;
    struct td_device_config d = device(TD_PRECISION_HIGH, 40, 1);
    eval_with(d, g_a);
    const struct logits_diff f16 = compare(g_a);
    d.kv_f32 = true;
    eval_with(d, g_a);
    const struct logits_diff f32 = compare(g_a);
    print_message("high: KL %.3g with f16 KV, %.3g with f32 KV\n", f16.mean_kl, f32.mean_kl);
    assert_true(f16.mean_kl <= 1e-5);
    assert_true(f32.mean_kl <= 1e-9);
    assert_int_equal(f16.n_top1, 40);
    assert_int_equal(f32.n_top1, 40);
}

static void chunks_and_threads_change_no_bit(void **state)
{
    (void)state;
    static const uint32_t chunks[] = {1, 7, 40, 512};
    for (int p = 0; p < TD_N_PRECISIONS; p++) {
        eval_with(device((enum td_precision)p, 40, 1), g_a);
        for (uint32_t t = 1; t <= 3; t++) {
            for (size_t c = 0; c < sizeof(chunks) / sizeof(chunks[0]); c++) {
                memset(g_b, 0, sizeof(g_b));
                eval_with(device((enum td_precision)p, chunks[c], t), g_b);
                if (memcmp(g_a, g_b, sizeof(g_a)) != 0)
                    fail_msg("precision %d: chunk %u, %u threads give other bits", p, chunks[c], t);
            }
        }
    }
}

static void instruction_sets_change_no_bit(void **state)
{
    (void)state;
    for (int p = 0; p < TD_N_PRECISIONS; p++) {
        struct td_device_config d = device((enum td_precision)p, 40, 2);
        d.isa = TD_ISA_GENERIC;
        eval_with(d, g_a);
        for (d.isa = TD_ISA_AVX2; d.isa <= TD_ISA_NEON; d.isa++) {
            if (!td_isa_supported((enum td_isa)d.isa)) continue;
            eval_with(d, g_b);
            if (memcmp(g_a, g_b, sizeof(g_a)) != 0)
                fail_msg("precision %d: %s gives other bits than generic", p,
                         td_isa_name((enum td_isa)d.isa));
        }
    }
}

// The session under test beside two others: one that decodes, one that reads a prompt.
static void neighbours_change_no_bit(void **state)
{
    (void)state;
    eval_with(device(TD_PRECISION_DEFAULT, 40, 1), g_a);
    struct td_engine *e = open_engine_cfg(g_model, config(16, 2));
    struct td_session *s[3];
    for (int i = 0; i < 3; i++) s[i] = open_session(e, 64);
    int32_t other[50];
    for (int i = 0; i < 50; i++) other[i] = (i * 37 + 11) % N_VOCAB;
    OK(td_session_sync(s[0], other, 5, NULL, 0, NULL, NULL, &err));
    OK(td_session_want(s[1], g_tokens, 17, NULL, 0, &err));
    OK(td_session_want(s[2], other, 50, NULL, 0, &err));
    uint32_t n_done = 17;
    for (int step = 0; step < 100 && n_done <= N_TOKENS; step++) {
        if (td_session_state(s[0]) == TD_SESSION_READY && td_session_len(s[0]) < 60)
            OK(td_session_append(s[0], step, &err));
        if (td_session_state(s[1]) == TD_SESSION_READY) {
            assert_memory_equal(td_session_logits(s[1]), g_a + (size_t)(n_done - 1) * N_VOCAB,
                                N_VOCAB * sizeof(float));
            if (n_done < N_TOKENS) OK(td_session_append(s[1], g_tokens[n_done], &err));
            n_done++;
        }
        OK(td_engine_step(e, NULL, &err));
    }
    assert_int_equal(n_done, N_TOKENS + 1);
    for (int i = 0; i < 3; i++) td_session_close(s[i]);
    td_engine_close(e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(default_is_as_close_as_its_rounding_allows),
        cmocka_unit_test(fine_is_near),
        cmocka_unit_test(high_is_exact_but_for_the_cache),
        cmocka_unit_test(chunks_and_threads_change_no_bit),
        cmocka_unit_test(instruction_sets_change_no_bit),
        cmocka_unit_test(neighbours_change_no_bit),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
