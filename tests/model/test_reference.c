// SPDX-License-Identifier: MIT
// The reference forward pass against logits from outside: if this fails, nothing else here counts.
#include "gguf/gguf.h"
#include "model/model.h"
#include "reference/ref_gptoss.h"
#include "reference/vectors.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

// NMSE of a against b, both (n).
static double nmse(const double *a, const float *b, uint64_t n)
{
    double err = 0, sum = 0;
    for (uint64_t i = 0; i < n; i++) {
        err += (a[i] - (double)b[i]) * (a[i] - (double)b[i]);
        sum += (double)b[i] * (double)b[i];
    }
    return err / sum;
}

struct fixture {
    struct td_gguf *g;
    struct ref_gptoss *ref;
    int32_t *tokens;
    uint32_t n;
    struct npy want;
    double *logits;
};

static void open_fixture(struct fixture *f)
{
    struct td_error err = {0};
    if (td_gguf_open(&f->g, "tests/data/gptoss-tiny.gguf", &err) != TD_OK) fail_msg("%s", err.msg);
    f->ref = ref_gptoss_open(f->g);
    f->tokens = tokens_read("tests/data/gptoss-tiny.tokens.txt", &f->n);
    assert_true(npy_read(&f->want, "tests/data/gptoss-tiny.logits.npy"));
    assert_non_null(f->ref);
    assert_int_equal(f->n, 40);
    assert_int_equal(f->want.n_rows, f->n);
    assert_int_equal(f->want.n_cols, ref_gptoss_n_vocab(f->ref));
    f->logits = calloc(f->want.n_rows * f->want.n_cols, sizeof(*f->logits));
    assert_non_null(f->logits);
}

static void close_fixture(struct fixture *f)
{
    free(f->logits);
    npy_free(&f->want);
    free(f->tokens);
    ref_gptoss_close(f->ref);
    td_gguf_close(f->g);
}

static void test_agrees_with_outside_logits(void **state)
{
    (void)state;
    struct fixture f;
    open_fixture(&f);
    double gaps[40 * 4];
    const struct ref_options opt = {.gaps_out = gaps};
    ref_gptoss_logits(f.ref, f.tokens, f.n, &opt, f.logits);
    double max_abs = 0, min_gap = HUGE_VAL;
    for (uint64_t i = 0; i < f.want.n_rows * f.want.n_cols; i++)
        max_abs = fmax(max_abs, fabs(f.logits[i] - (double)f.want.at[i]));
    // The file is float32; logits are below 8, so their rounding is below 5e-7.
    if (!(max_abs < 2e-6)) fail_msg("largest difference %g", max_abs);
    assert_true(nmse(f.logits, f.want.at, f.want.n_rows * f.want.n_cols) < 1e-12);
    // The tokens were chosen so that rounding cannot flip a route.
    for (uint32_t i = 0; i < 40 * 4; i++) min_gap = fmin(min_gap, gaps[i]);
    if (!(min_gap >= 0.119)) fail_msg("smallest gap %g, max %g", min_gap, max_abs);
    close_fixture(&f);
}

static void test_rounded_rope_is_seen(void **state)
{
    (void)state;
    struct fixture f;
    open_fixture(&f);
    const struct ref_options opt = {.rounds_rope = true};
    ref_gptoss_logits(f.ref, f.tokens, f.n, &opt, f.logits);
    // ggml's rounding is small but far above rounding noise: these vectors can tell.
    assert_true(nmse(f.logits, f.want.at, f.want.n_rows * f.want.n_cols) > 1e-7);
    close_fixture(&f);
}

// The second fixture: made by our own generator and the reference, so it guards both from drift and
// gives the other floors a shape with odd groups, odd expert counts and 16-bit weights.
static void test_second_fixture(void **state)
{
    (void)state;
    struct td_error err = {0};
    struct td_model *file = NULL, *made = NULL;
    if (td_model_open(&file, "tests/data/synth-odd.gguf", NULL, &err) != TD_OK ||
        td_model_open(&made,
                      "synth:tiny,layers=3,hidden=64,heads=6,kv-heads=2,head-dim=16,experts=5,"
                      "top-k=2,ff=32,vocab=288,window=8,attn-type=bf16,embd-type=f16,seed=11",
                      NULL, &err) != TD_OK)
        fail_msg("%s", err.msg);
    assert_true(file && made);
    if (!file || !made) return; // for the analyser
    assert_string_equal(file->digest, made->digest);
    for (uint32_t i = 0; i < file->n_weights; i++)
        assert_memory_equal(file->weights[i].data, made->weights[i].data,
                            file->weights[i].size_bytes);

    uint32_t n = 0;
    int32_t *tokens = tokens_read("tests/data/synth-odd.tokens.txt", &n);
    struct npy want;
    assert_true(npy_read(&want, "tests/data/synth-odd.logits.npy"));
    assert_int_equal(want.n_rows, n);
    assert_int_equal(want.n_cols, file->spec.n_vocab);
    struct ref_gptoss *ref = ref_gptoss_open(file->gguf);
    double *logits = calloc(want.n_rows * want.n_cols, sizeof(*logits));
    assert_true(ref && logits && tokens);
    if (!logits) return;
    ref_gptoss_logits(ref, tokens, n, NULL, logits);
    for (uint64_t i = 0; i < want.n_rows * want.n_cols; i++)
        assert_true(fabs(logits[i] - (double)want.at[i]) < 2e-6);
    free(logits);
    free(tokens);
    npy_free(&want);
    ref_gptoss_close(ref);
    td_model_close(file);
    td_model_close(made);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_agrees_with_outside_logits),
        cmocka_unit_test(test_rounded_rope_is_seen),
        cmocka_unit_test(test_second_fixture),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
