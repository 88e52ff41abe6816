// SPDX-License-Identifier: MIT
// The tiny gpt-oss against logits from an independent float64 computation: how far from the truth,
// and that chunks, threads, neighbours and instruction sets do not change one bit.
#include "engine/engine.h"
#include "kernels/kernels.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { N_TOKENS = 40, N_VOCAB = 2000 };

static struct td_model *g_model;
static int32_t g_tokens[N_TOKENS];
static float g_reference[N_TOKENS][N_VOCAB];

static int setup(void **state)
{
    (void)state;
    struct td_error err = {0};
    if (td_model_open(&g_model, "tests/data/gptoss-tiny.gguf", NULL, &err) != TD_OK) {
        fprintf(stderr, "%s\n", err.msg);
        return -1;
    }
    FILE *f = fopen("tests/data/gptoss-tiny.tokens.txt", "r");
    if (!f) return -1;
    for (int i = 0; i < N_TOKENS; i++)
        if (fscanf(f, "%d", &g_tokens[i]) != 1) return -1;
    fclose(f);
    // An .npy of version 1.0: the data are the last bytes of the file.
    f = fopen("tests/data/gptoss-tiny.logits.npy", "rb");
    if (!f || fseek(f, -(long)sizeof(g_reference), SEEK_END) != 0) return -1;
    const size_t n = fread(g_reference, sizeof(float), (size_t)N_TOKENS * N_VOCAB, f);
    fclose(f);
    return n == (size_t)N_TOKENS * N_VOCAB ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    td_model_close(g_model);
    return 0;
}

static struct td_engine *open_engine(enum td_precision precision, bool kv_f32, uint32_t chunk,
                                     uint32_t n_threads, int isa)
{
    const struct td_engine_config cfg = {.device = {.n_threads = n_threads,
                                                    .precision = precision,
                                                    .kv_f32 = kv_f32,
                                                    .max_rows = chunk,
                                                    .max_logits_rows = chunk,
                                                    .isa = isa}};
    struct td_engine *e;
    struct td_error err = {0};
    if (td_engine_open(&e, g_model, td_backend_cpu(), &cfg, &err) != TD_OK) fail_msg("%s", err.msg);
    return e;
}

static int collect(void *ctx, uint32_t i0, uint32_t n, const float *logits, struct td_error *err)
{
    (void)err;
    memcpy((float *)ctx + (size_t)i0 * N_VOCAB, logits, (size_t)n * N_VOCAB * sizeof(float));
    return TD_OK;
}

static void eval(struct td_engine *e, float *out)
{
    struct td_session *s;
    struct td_error err = {0};
    assert_int_equal(td_session_open(&s, e, 64, &err), TD_OK);
    if (td_session_eval(s, g_tokens, N_TOKENS, collect, out, &err) != TD_OK)
        fail_msg("%s", err.msg);
    td_session_close(s);
}

static void eval_with(enum td_precision precision, bool kv_f32, uint32_t chunk, uint32_t n_threads,
                      int isa, float *out)
{
    struct td_engine *e = open_engine(precision, kv_f32, chunk, n_threads, isa);
    eval(e, out);
    td_engine_close(e);
}

// KL(reference || ours) in nats, mean over positions; counts equal arg-max.
static double mean_kl(const float *ours, int *n_top1)
{
    double sum = 0;
    *n_top1 = 0;
    for (int t = 0; t < N_TOKENS; t++) {
        const float *r = g_reference[t], *o = ours + (size_t)t * N_VOCAB;
        double max_r = -INFINITY, max_o = -INFINITY;
        int arg_r = 0, arg_o = 0;
        for (int i = 0; i < N_VOCAB; i++) {
            if ((double)r[i] > max_r) max_r = (double)r[i], arg_r = i;
            if ((double)o[i] > max_o) max_o = (double)o[i], arg_o = i;
        }
        double z_r = 0, z_o = 0;
        for (int i = 0; i < N_VOCAB; i++) {
            z_r += exp((double)r[i] - max_r);
            z_o += exp((double)o[i] - max_o);
        }
        for (int i = 0; i < N_VOCAB; i++) {
            const double log_r = (double)r[i] - max_r - log(z_r);
            const double log_o = (double)o[i] - max_o - log(z_o);
            sum += exp(log_r) * (log_r - log_o);
        }
        *n_top1 += arg_r == arg_o;
    }
    return sum / N_TOKENS;
}

static float g_a[N_TOKENS * N_VOCAB], g_b[N_TOKENS * N_VOCAB];

static void default_is_as_close_as_8_bits_allow(void **state)
{
    (void)state;
    int n_top1;
    eval_with(TD_PRECISION_DEFAULT, false, 40, 1, -1, g_a);
    const double kl = mean_kl(g_a, &n_top1);
    print_message("default: KL %.3g, top-1 %d/40\n", kl, n_top1);
    assert_true(kl <= 2e-3);
    assert_true(n_top1 >= 38);
    // A bug that hides under the noise of 8 bits would show as less noise than there must be.
    assert_true(kl >= 1e-5);
}

static void high_is_exact_but_for_rounding(void **state)
{
    (void)state;
    int n_top1;
    eval_with(TD_PRECISION_HIGH, false, 40, 1, -1, g_a);
    const double kl = mean_kl(g_a, &n_top1);
    eval_with(TD_PRECISION_HIGH, true, 40, 1, -1, g_a);
    const double kl_f32 = mean_kl(g_a, &n_top1);
    print_message("high: KL %.3g with f16 KV, %.3g with f32 KV\n", kl, kl_f32);
    assert_true(kl <= 1e-5);
    assert_true(kl_f32 <= 1e-9);
    assert_int_equal(n_top1, 40);
}

static void chunks_and_threads_change_no_bit(void **state)
{
    (void)state;
    static const uint32_t chunks[] = {1, 7, 40, 512};
    for (int p = 0; p < 2; p++) {
        eval_with((enum td_precision)p, false, 40, 1, -1, g_a);
        for (uint32_t t = 1; t <= 3; t++) {
            for (size_t c = 0; c < sizeof(chunks) / sizeof(chunks[0]); c++) {
                memset(g_b, 0, sizeof(g_b));
                eval_with((enum td_precision)p, false, chunks[c], t, -1, g_b);
                if (memcmp(g_a, g_b, sizeof(g_a)) != 0)
                    fail_msg("precision %d: chunk %u, %u threads give other bits", p, chunks[c], t);
            }
        }
    }
}

static void instruction_sets_change_no_bit(void **state)
{
    (void)state;
    for (int p = 0; p < 2; p++) {
        eval_with((enum td_precision)p, false, 40, 2, TD_ISA_GENERIC, g_a);
        for (int isa = TD_ISA_AVX2; isa <= TD_ISA_NEON; isa++) {
            if (!td_isa_supported((enum td_isa)isa)) continue;
            eval_with((enum td_precision)p, false, 40, 2, isa, g_b);
            if (memcmp(g_a, g_b, sizeof(g_a)) != 0)
                fail_msg("precision %d: %s gives other bits than generic", p,
                         td_isa_name((enum td_isa)isa));
        }
    }
}

// The session under test beside two others: one that decodes, one that reads a prompt.
static void neighbours_change_no_bit(void **state)
{
    (void)state;
    struct td_error err = {0};
    eval_with(TD_PRECISION_DEFAULT, false, 40, 1, -1, g_a);
    struct td_engine *e = open_engine(TD_PRECISION_DEFAULT, false, 16, 2, -1);
    struct td_session *s[3];
    for (int i = 0; i < 3; i++) assert_int_equal(td_session_open(&s[i], e, 64, &err), TD_OK);
    int32_t other[50];
    for (int i = 0; i < 50; i++) other[i] = (i * 37 + 11) % N_VOCAB;
    assert_int_equal(td_session_sync(s[0], other, 5, NULL, 0, NULL, NULL, &err), TD_OK);
    assert_int_equal(td_session_want(s[1], g_tokens, 17, NULL, 0, &err), TD_OK);
    assert_int_equal(td_session_want(s[2], other, 50, NULL, 0, &err), TD_OK);
    uint32_t n_done = 17;
    for (int step = 0; step < 100 && n_done <= N_TOKENS; step++) {
        if (td_session_state(s[0]) == TD_SESSION_READY && td_session_len(s[0]) < 60)
            assert_int_equal(td_session_append(s[0], step, &err), TD_OK);
        if (td_session_state(s[1]) == TD_SESSION_READY) {
            assert_memory_equal(td_session_logits(s[1]), g_a + (size_t)(n_done - 1) * N_VOCAB,
                                N_VOCAB * sizeof(float));
            if (n_done < N_TOKENS)
                assert_int_equal(td_session_append(s[1], g_tokens[n_done], &err), TD_OK);
            n_done++;
        }
        uint32_t n_rows;
        assert_int_equal(td_engine_step(e, &n_rows, &err), TD_OK);
    }
    assert_int_equal(n_done, N_TOKENS + 1);
    for (int i = 0; i < 3; i++) td_session_close(s[i]);
    td_engine_close(e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(default_is_as_close_as_8_bits_allow),
        cmocka_unit_test(high_is_exact_but_for_rounding),
        cmocka_unit_test(chunks_and_threads_change_no_bit),
        cmocka_unit_test(instruction_sets_change_no_bit),
        cmocka_unit_test(neighbours_change_no_bit),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
