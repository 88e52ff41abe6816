// SPDX-License-Identifier: MIT
// Tables as text: what is read, and one sentence for what is wrong with them.
#include "plan/tables.h"

#include "plan/cost.h"
#include "plan/csv.h"

#include <math.h>

static struct td_csv csv;
static struct td_error err;

static int open_text(const char *text)
{
    return td_csv_open(&csv, "t.csv", text, strlen(text), &err);
}

static void test_csv_fields(void **state)
{
    (void)state;
    assert_int_equal(open_text("a,b\r\n1,\"x, \"\"y\"\"\nz\"tail\n\n\r\n2,\n"), TD_OK);
    assert_int_equal(csv.n_columns, 2);
    assert_int_equal(td_csv_next(&csv, &err), 1);
    assert_string_equal(td_csv_text(&csv, "b"), "x, \"y\"\nz");
    assert_string_equal(td_csv_text(&csv, "c"), "");
    double v;
    assert_int_equal(td_csv_number(&csv, "a", 7, &v, &err), TD_OK);
    assert_true(v == 1);
    assert_int_equal(td_csv_number(&csv, "b", 7, &v, &err), TD_EFORMAT);
    assert_int_equal(td_csv_next(&csv, &err), 1);
    assert_int_equal(td_csv_number(&csv, "b", 7, &v, &err), TD_OK);
    assert_true(v == 7);
    assert_int_equal(td_csv_next(&csv, &err), 0);
}

static void test_csv_trouble(void **state)
{
    (void)state;
    assert_int_equal(open_text(""), TD_EFORMAT);
    assert_int_equal(open_text("a,b\n1\n"), TD_OK);
    assert_int_equal(td_csv_next(&csv, &err), TD_EFORMAT);
    assert_non_null(strstr(err.msg, "line 2: fewer fields"));
    assert_int_equal(open_text("a,b\n1,2,3\n"), TD_OK);
    assert_int_equal(td_csv_next(&csv, &err), TD_EFORMAT);
    assert_non_null(strstr(err.msg, "more fields"));
    // An open quote runs to the end of the text; a long field is cut.
    assert_int_equal(open_text("a\n\"never closed"), TD_OK);
    assert_int_equal(td_csv_next(&csv, &err), 1);
    char text[2000];
    memset(text, 'x', sizeof(text));
    text[0] = 'a';
    text[1] = '\n';
    assert_int_equal(td_csv_open(&csv, "t.csv", text, sizeof(text), &err), TD_OK);
    assert_int_equal(td_csv_next(&csv, &err), 1);
    assert_int_equal(strlen(td_csv_text(&csv, "a")), TD_CSV_MAX_TEXT - 1);
    memset(text, ',', sizeof(text));
    assert_int_equal(td_csv_open(&csv, "t.csv", text, sizeof(text), &err), TD_EFORMAT);
    assert_int_equal(open_text("a\nnan\n"), TD_OK);
    assert_int_equal(td_csv_next(&csv, &err), 1);
    double v;
    assert_int_equal(td_csv_number(&csv, "a", 0, &v, &err), TD_EFORMAT);
    assert_non_null(strstr(err.msg, "'nan' of column a is not a number"));
    assert_int_equal(open_text("a\n-1e308\n"), TD_OK);
    assert_int_equal(td_csv_next(&csv, &err), 1);
    assert_int_equal(td_csv_number(&csv, "a", 0, &v, &err), TD_EFORMAT);
    assert_non_null(strstr(err.msg, "'-1e308' of column a is beyond 1e18"));
}

static void test_shipped_tables(void **state)
{
    (void)state;
    struct tables *t = read_tables();
    assert_true(t->n_devices > 30 && t->n_models > 20 && t->n_measurements > 600);
    const struct td_plan_device *d =
        td_plan_device_named(t->devices, t->n_devices, "DGX Spark (GB10)");
    assert_non_null(d);
    assert_true(d->flop_per_s == 125e12 && d->bytes_per_s == 273e9);
    // No 16-bit floats: 32 bits count.
    d = td_plan_device_named(t->devices, t->n_devices, "Xeon Gold 6138 x2 (40c, 12ch DDR4-2666)");
    assert_true(fabs(d->flop_per_s / 4.1e12 - 1) < 1e-9);
    assert_null(td_plan_device_named(t->devices, t->n_devices, "abacus"));
    assert_null(td_plan_model_named(t->models, t->n_models, "abacus"));
    free(t);
}

static int models_of(const char *text)
{
    struct td_plan_model m[2];
    uint32_t n;
    return td_plan_read_models(m, 2, &n, text, strlen(text), &err);
}

static int measurements_of(const char *line)
{
    char text[600];
    struct td_plan_measurement m[2];
    uint32_t n;
    snprintf(text, sizeof(text),
             "device,backend,model,quant,test,n_prompt_or_gen,tokens_per_s,use_in_fit\n%s", line);
    return td_plan_read_measurements(m, 2, &n, "m.csv", text, strlen(text), &err);
}

static void test_table_trouble(void **state)
{
    (void)state;
    assert_int_equal(models_of("name\nx\n"), TD_EFORMAT);
    assert_non_null(strstr(err.msg, "no column arch"));
    assert_int_equal(models_of("name,arch,layers,p_attn\nx,moe,0,1\n"), TD_EFORMAT);
    assert_non_null(strstr(err.msg, "'x'"));
    assert_int_equal(models_of("name,arch,layers,p_attn\nx,hybrid,-3,1\n"), TD_EFORMAT);
    assert_non_null(strstr(err.msg, "negative"));
    assert_int_equal(models_of("name,arch,layers,p_attn\nx,moe-mla,9e9,1\n"), TD_EFORMAT);
    assert_non_null(strstr(err.msg, "too large"));
    assert_int_equal(measurements_of("d,b,m,q,pp,1,2,1\n"), TD_OK);
    assert_int_equal(measurements_of("d,b,m,q,xx,1,2,1\n"), TD_EFORMAT);
    assert_non_null(strstr(err.msg, "neither pp nor tg"));
    assert_int_equal(measurements_of("d,b,m,q,tg,one,-2,x\n"), TD_EFORMAT);
    assert_non_null(strstr(err.msg, "'one'"));
    assert_int_equal(measurements_of("d,b,m,q,tg,1,2,1\nd,b,m,q,tg,1,2,1\nd,b,m,q,tg,1,2,1\n"),
                     TD_EFORMAT);
    assert_non_null(strstr(err.msg, "more than 2 rows"));
    struct td_plan_device d[2];
    uint32_t n;
    assert_int_equal(td_plan_read_devices(d, 2, &n, "name\n", 5, &err), TD_EFORMAT);
}

static void test_cost(void **state)
{
    (void)state;
    struct tables *t = read_tables();
    struct td_plan_cost c;
    const struct td_plan_model *m = td_plan_model_named(t->models, t->n_models, "gpt-oss-120b");
    // Its file has 59.02 GiB; the experts' part is exactly 4.25 bits per weight.
    assert_int_equal(td_plan_cost_of(&c, m, "MXFP4", 59.02, &err), TD_OK);
    assert_true(fabs(c.expert_bytes - 114661785600.0 * 4.25 / 8) < 1);
    assert_true(c.dense_bytes > 1.4e9 && c.dense_bytes < 2.0e9);
    assert_true(c.n_moe_layers == 36);
    struct td_plan_cost guess;
    assert_int_equal(td_plan_cost_of(&guess, m, "MXFP4", 0, &err), TD_OK);
    assert_true(fabs(guess.file_bytes / c.file_bytes - 1) < 0.02);
    // Four of 128 experts by one row, all by very many.
    assert_true(fabs(td_plan_distinct(128, 4, 1) - 4) < 1e-9);
    assert_true(fabs(td_plan_distinct(128, 4, 1e6) - 128) < 1e-9);
    assert_true(td_plan_distinct(0, 0, 5) == 0);
    assert_true(td_plan_pass_bytes(&c, 1) < 4e9 && td_plan_pass_bytes(&c, 1e6) > 6e10);
    // 36 kB a token in the full layers; the others remember 128 tokens.
    assert_true(td_plan_kv_bytes(&c, 1000) == 1000 * 36864.0 + 128 * 36864.0);
    assert_true(td_plan_kv_bytes(&c, 100) == 200 * 36864.0);
    assert_true(td_plan_attend_flop(&c, 1000) == 4.0 * 64 * 64 * 18 * 1128);

    m = td_plan_model_named(t->models, t->n_models, "DeepSeek-V3");
    assert_int_equal(td_plan_cost_of(&c, m, "Q4_K_M", 0, &err), TD_OK);
    assert_true(c.attend_flop_full == 61 * 2.0 * 128 * (2 * 512 + 64));
    m = td_plan_model_named(t->models, t->n_models, "Llama-3.2-3B");
    assert_int_equal(td_plan_cost_of(&c, m, "F16", 0, &err), TD_OK);
    // Tied: the embedding is the output matrix, read whole.
    assert_true(fabs(td_plan_pass_bytes(&c, 7) / (3.213e9 * 2) - 1) < 0.01);
    assert_int_equal(td_plan_cost_of(&c, m, "Q?", 0, &err), TD_EARG);
    assert_int_equal(td_plan_quant_of("Q?"), TD_PLAN_OTHER);
    assert_int_equal(td_plan_quant_of("UD-Q4_K_XL"), TD_PLAN_Q4_K);
    assert_true(td_plan_quant_bits("4bit") == 4.5);
    free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_csv_fields),     cmocka_unit_test(test_csv_trouble),
        cmocka_unit_test(test_shipped_tables), cmocka_unit_test(test_table_trouble),
        cmocka_unit_test(test_cost),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
