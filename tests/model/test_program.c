// SPDX-License-Identifier: MIT
// The recorded program against its printed golden, and its price against numbers worked out by
// hand and published ones.
#include "model/model.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct td_model *open_model(const char *path)
{
    const struct td_model_options opt = {.header_only = true};
    struct td_error err = {0};
    struct td_model *m = NULL;
    if (td_model_open(&m, path, &opt, &err) != TD_OK) fail_msg("%s: %s", path, err.msg);
    return m;
}

static char *read_rest(FILE *f)
{
    char *text = calloc(1, 1 << 16);
    assert_non_null(text);
    rewind(f);
    assert_true(fread(text, 1, (1 << 16) - 1, f) > 0);
    return text;
}

// To record anew after an intended change: run with TD_RECORD=1 and read the diff.
static void test_golden(void **state)
{
    (void)state;
    static const char path[] = "tests/golden/gptoss-tiny.program.txt";
    struct td_model *m = open_model("tests/data/gptoss-tiny.gguf");
    if (getenv("TD_RECORD")) { // NOLINT(concurrency-mt-unsafe)
        FILE *f = fopen(path, "w");
        assert_non_null(f);
        assert_int_equal(td_program_print(m, f), TD_OK);
        fclose(f);
    }
    FILE *now = tmpfile(), *golden = fopen(path, "r");
    assert_non_null(now);
    assert_non_null(golden);
    assert_int_equal(td_program_print(m, now), TD_OK);
    char *a = read_rest(now), *b = read_rest(golden);
    assert_string_equal(a, b);
    free(a);
    free(b);
    fclose(now);
    fclose(golden);
    td_model_close(m);
}

static void test_op_text_is_cut(void **state)
{
    (void)state;
    struct td_model *m = open_model("tests/data/gptoss-tiny.gguf");
    char whole[512], cut[512];
    for (uint32_t i = 0; i < m->program.n_ops; i++) {
        const size_t n = td_op_text(m, i, whole, sizeof(whole));
        assert_int_equal(n, strlen(whole));
        for (size_t size = 1; size <= n; size += 7) {
            memset(cut, 'x', sizeof(cut));
            assert_int_equal(td_op_text(m, i, cut, size), size - 1);
            assert_memory_equal(cut, whole, size - 1);
            assert_int_equal(cut[size - 1], '\0');
            assert_int_equal(cut[size], 'x');
        }
    }
    td_model_close(m);
}

static void test_structure(void **state)
{
    (void)state;
    struct td_model *m = open_model("synth:tiny,layers=5");
    const struct td_program *p = &m->program;
    assert_int_equal(p->n_ops, 1 + 5 * 16 + 1 + 2);
    uint32_t n_keep = 0, i_last_put = 0;
    for (uint32_t i = 0; i < p->n_ops; i++) {
        const struct td_op *op = &p->ops[i];
        n_keep += op->kind == TD_OP_KEEP;
        if (op->kind == TD_OP_KV_PUT) i_last_put = i;
        const td_slot used[] = {op->out, op->out_ids, op->in, op->in2, op->in_ids};
        for (int k = 0; k < 5; k++) assert_true(used[k] == TD_NO_SLOT || used[k] < p->n_slots);
        if (op->kind != TD_OP_LINEAR) continue;
        assert_int_equal(p->slots[op->in].width, m->weights[op->w].dim[0]);
        assert_int_equal(p->slots[op->out].width, m->weights[op->w].dim[1]);
    }
    assert_int_equal(n_keep, 1);
    // Both the residual stream and the queries are cut right after the last keys are stored.
    assert_int_equal(p->i_keep, i_last_put + 1);
    assert_string_equal(p->slots[p->ops[p->i_keep].out].name, "x");
    assert_string_equal(p->slots[p->ops[p->i_keep].in].name, "q");
    assert_string_equal(p->slots[p->logits].name, "logits");
    td_model_close(m);
}

static void assert_near(double got, double want, double relative)
{
    if (!(fabs(got - want) <= relative * fabs(want))) fail_msg("%.9g, expected %.9g", got, want);
}

// By hand. One layer: hidden 32, 2 heads of 16 over 1 KV head, 4 experts top 1 of width 64, F32.
static void test_cost_by_hand(void **state)
{
    (void)state;
    struct td_model *m = open_model("synth:tiny,layers=1,hidden=32,heads=2,kv-heads=1,head-dim=16,"
                                    "experts=4,top-k=1,ff=64,vocab=300,window=3,"
                                    "experts-type=f32,attn-type=f32,embd-type=f32");
    struct td_cost c;
    // One row at position 0.
    const double embd = 32, norms = 32 + 32 + 32;
    const double attn_in = 32 * 32 + 32 + 2 * (32 * 16 + 16), sinks = 2, attn_out = 32 * 32 + 32;
    const double router = 32 * 4 + 4, expert = 3 * 32 * 64 + 64 + 64 + 32, output = 32 * 300;
    td_cost_program(&c, m, 1, 0, 1, 2);
    assert_near(c.weight_bytes,
                4 * (embd + norms + attn_in + sinks + attn_out + router + expert + output), 1e-12);
    assert_near(c.kv_write_bytes, 2 * 16 * 2, 1e-12);
    assert_near(c.kv_read_bytes, 2 * 16 * 2, 1e-12);
    const double in_flop = 2 * (32 * 32 + 2 * 32 * 16), o_flop = 2 * 32 * 32;
    const double rest_flop = o_flop + 2 * 32 * 4 + 2 * 3 * 32 * 64 + 2 * 32 * 300;
    assert_near(c.flop, in_flop + rest_flop + 4 * 2 * 16, 1e-12);

    // Five rows from position 1 of which the last two want logits; window 3. Rows at 4 and 5 see
    // three positions each, together 2 to 5. Two rows of 1 of 4 touch 4 (1 - (3/4)^2) experts.
    td_cost_program(&c, m, 5, 1, 2, 4);
    assert_near(c.kv_write_bytes, 5 * 2 * 16 * 4, 1e-12);
    assert_near(c.kv_read_bytes, 4 * 2 * 16 * 4, 1e-12);
    assert_near(c.flop, 5 * in_flop + 2 * rest_flop + 4 * 2 * 16 * 6, 1e-12);
    assert_near(c.weight_bytes,
                4 * (5 * embd + norms + attn_in + sinks + attn_out + router +
                     expert * 4 * (1 - 9.0 / 16) + output),
                1e-12);

    // Nobody wants logits: the work ends with the keys.
    td_cost_program(&c, m, 5, 0, 0, 2);
    assert_near(c.flop, 5 * in_flop, 1e-12);
    assert_near(c.weight_bytes, 4 * (5 * embd + 32 + attn_in), 1e-12);
    assert_true(c.kv_read_bytes == 0.0);
    td_model_close(m);
}

// Attention's sums against counting them out.
static void test_cost_of_attention(void **state)
{
    (void)state;
    struct td_model *m = open_model("synth:tiny,layers=3,window=5");
    static const uint32_t n_rows[] = {1, 3, 5, 12}, pos0[] = {0, 1, 4, 5, 30};
    for (uint32_t i_op = 0; i_op < m->program.n_ops; i_op++) {
        const struct td_op *op = &m->program.ops[i_op];
        if (op->kind != TD_OP_ATTEND) continue;
        for (int i = 0; i < 20; i++) {
            const uint32_t n = n_rows[i % 4], a = pos0[i / 4];
            double seen = 0;
            uint32_t first = UINT32_MAX;
            for (uint32_t t = a; t < a + n; t++)
                for (uint32_t j = 0; j <= t; j++) {
                    if (op->window && j + op->window <= t) continue;
                    seen++;
                    if (j < first) first = j;
                }
            struct td_cost c;
            td_cost_op(&c, m, i_op, n, a, n, 2);
            assert_near(c.flop, seen * 4 * op->n_heads * op->head_dim, 1e-12);
            assert_near(c.kv_read_bytes, (a + n - first) * 2.0 * op->n_kv_heads * op->head_dim * 2,
                        1e-12);
        }
    }
    td_model_close(m);
}

static void test_cost_of_gpt_oss_20b(void **state)
{
    (void)state;
    struct td_model *m = open_model("synth:gpt-oss-20b");
    struct td_cost c, last;
    td_cost_program(&c, m, 1, 0, 1, 2);
    assert_near(c.weight_bytes, 2.575e9, 1e-3);
    td_cost_program(&c, m, 1, 8191, 1, 2); // weights and KV at 8k
    assert_near(c.weight_bytes + c.kv_read_bytes, 2.779e9, 1e-3);
    // A prompt's token: what every layer but the last does, without output and attention.
    td_cost_program(&c, m, 512, 0, 512, 2);
    double attention = 0;
    for (uint32_t i = 0; i < m->program.n_ops; i++) {
        if (m->program.ops[i].kind != TD_OP_ATTEND) continue;
        td_cost_op(&last, m, i, 512, 0, 512, 2);
        attention += last.flop;
    }
    td_cost_op(&last, m, m->program.n_ops - 1, 512, 0, 512, 2);
    assert_near((c.flop - attention - last.flop) / 512, 6.05e9, 2e-3);
    // 512 rows of 4 of 32 touch every expert: the layers are read whole.
    assert_near(c.weight_bytes, (double)m->weights_bytes, 0.06);
    td_model_close(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),
        cmocka_unit_test(test_op_text_is_cut),
        cmocka_unit_test(test_structure),
        cmocka_unit_test(test_cost_by_hand),
        cmocka_unit_test(test_cost_of_attention),
        cmocka_unit_test(test_cost_of_gpt_oss_20b),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
