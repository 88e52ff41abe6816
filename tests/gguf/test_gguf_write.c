// SPDX-License-Identifier: MIT
// What the writer writes, the reader reads: every kind of value, tensors with data, and refusals.
#include "gguf/gguf_write.h"

#include "gguf/gguf.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct td_gguf_writer *open_writer(void)
{
    struct td_gguf_writer *w;
    assert_int_equal(td_gguf_writer_open(&w, NULL), TD_OK);
    return w;
}

static void test_round_trip(void **state)
{
    (void)state;
    struct td_gguf_writer *w = open_writer();
    const struct td_str strs[] = {{"a", 1}, {"", 0}, {"b\0c", 3}};
    const int32_t i32s[] = {-1, 0, INT32_MAX};
    const uint32_t u32s[] = {0, UINT32_MAX};
    const float f32s[] = {-0.5f, 3.25f};
    td_gguf_put_u32(w, "u32", 4000000000u);
    td_gguf_put_u64(w, "u64", UINT64_MAX);
    td_gguf_put_f32(w, "f32", -2.5f);
    td_gguf_put_bool(w, "yes", true);
    td_gguf_put_bool(w, "no", false);
    td_gguf_put_str(w, "str", "gpt-oss");
    td_gguf_put_str(w, "empty", "");
    td_gguf_put_strs(w, "strs", strs, 3);
    td_gguf_put_i32s(w, "i32s", i32s, 3);
    td_gguf_put_u32s(w, "u32s", u32s, 2);
    td_gguf_put_f32s(w, "f32s", f32s, 2);
    td_gguf_put_strs(w, "no strs", NULL, 0);
    td_gguf_put_i32s(w, "no i32s", NULL, 0);
    const uint64_t dim_a[] = {32, 3};
    const uint64_t dim_b[] = {5};
    const uint64_t dim_c[] = {32, 2, 2, 2};
    td_gguf_put_tensor(w, "a", TD_Q8_0, 2, dim_a); // 102 bytes
    td_gguf_put_tensor(w, "b", TD_F32, 1, dim_b);  // 20 bytes
    td_gguf_put_tensor(w, "c", TD_MXFP4, 4, dim_c);
    const uint8_t *header;
    size_t header_bytes;
    struct td_error err = {0};
    if (td_gguf_writer_header(w, &header, &header_bytes, &err)) fail_msg("%s", err.msg);
    assert_int_equal(header_bytes % 32, 0);

    const uint64_t sizes[] = {102, 20, 136};
    uint8_t *file = calloc(1, header_bytes + 4096);
    assert_non_null(file);
    memcpy(file, header, header_bytes);
    size_t n = header_bytes;
    for (int i = 0; i < 3; i++) {
        memset(file + n, 'a' + i, sizes[i]);
        n += sizes[i];
        if (i < 2) n += td_gguf_data_padding(sizes[i]);
    }
    td_gguf_writer_close(w);

    struct td_gguf *g;
    if (td_gguf_parse(&g, file, n, "written", false, &err)) fail_msg("%s", err.msg);
    assert_int_equal(td_gguf_version(g), 3);
    assert_int_equal(td_gguf_n_kv(g), 13);
    uint32_t u32 = 0;
    uint64_t u64 = 0;
    float f32 = 0;
    bool flag = false;
    struct td_str s;
    struct td_gguf_array a;
    assert_int_equal(td_gguf_u32(g, "u32", &u32, &err), TD_OK);
    assert_int_equal(u32, 4000000000u);
    assert_int_equal(td_gguf_u64(g, "u64", &u64, &err), TD_OK);
    assert_true(u64 == UINT64_MAX);
    assert_int_equal(td_gguf_f32(g, "f32", &f32, &err), TD_OK);
    assert_true(f32 == -2.5f);
    assert_int_equal(td_gguf_bool(g, "yes", &flag, &err), TD_OK);
    assert_true(flag);
    assert_int_equal(td_gguf_bool(g, "no", &flag, &err), TD_OK);
    assert_false(flag);
    assert_int_equal(td_gguf_str(g, "str", &s, &err), TD_OK);
    assert_int_equal(s.size_bytes, 7);
    assert_memory_equal(s.at, "gpt-oss", 7);
    assert_int_equal(td_gguf_str(g, "empty", &s, &err), TD_OK);
    assert_int_equal(s.size_bytes, 0);
    assert_int_equal(td_gguf_array(g, "strs", &a, &err), TD_OK);
    assert_int_equal(a.n, 3);
    struct td_bytes at = td_gguf_strs(&a);
    assert_memory_equal(td_gguf_next_str(&at).at, "a", 1);
    assert_int_equal(td_gguf_next_str(&at).size_bytes, 0);
    assert_memory_equal(td_gguf_next_str(&at).at, "b\0c", 3);
    assert_int_equal(td_gguf_array(g, "i32s", &a, &err), TD_OK);
    assert_int_equal(a.type, TD_GGUF_I32);
    for (uint64_t i = 0; i < 3; i++) assert_true(td_gguf_array_i64(&a, i) == i32s[i]);
    assert_int_equal(td_gguf_array(g, "u32s", &a, &err), TD_OK);
    assert_int_equal(a.type, TD_GGUF_U32);
    for (uint64_t i = 0; i < 2; i++) assert_true(td_gguf_array_i64(&a, i) == u32s[i]);
    assert_int_equal(td_gguf_array(g, "f32s", &a, &err), TD_OK);
    assert_int_equal(a.type, TD_GGUF_F32);
    for (uint64_t i = 0; i < 2; i++) assert_true(td_gguf_array_f64(&a, i) == (double)f32s[i]);
    assert_int_equal(td_gguf_array(g, "no strs", &a, &err), TD_OK);
    assert_int_equal(a.n, 0);

    for (uint32_t i = 0; i < 3; i++) {
        const struct td_gguf_tensor *t = td_gguf_tensor_at(g, i);
        assert_int_equal(t->size_bytes, sizes[i]);
        for (uint64_t k = 0; k < sizes[i]; k++) assert_int_equal(t->data[k], 'a' + (int)i);
    }
    assert_int_equal(td_gguf_find_tensor(g, "c")->n_dims, 4);
    td_gguf_close(g);
    free(file);
}

static void test_empty(void **state)
{
    (void)state;
    struct td_gguf_writer *w = open_writer();
    const uint8_t *header;
    size_t n;
    assert_int_equal(td_gguf_writer_header(w, &header, &n, NULL), TD_OK);
    struct td_gguf *g;
    assert_int_equal(td_gguf_parse(&g, header, n, "x", false, NULL), TD_OK);
    assert_int_equal(td_gguf_n_kv(g) + td_gguf_n_tensors(g), 0);
    td_gguf_close(g);
    // Asked again it is the same.
    const uint8_t *again;
    assert_int_equal(td_gguf_writer_header(w, &again, &n, NULL), TD_OK);
    assert_ptr_equal(again, header);
    td_gguf_writer_close(w);
    td_gguf_writer_close(NULL);
}

static void expect_refused(struct td_gguf_writer *w, int code, const char *says)
{
    const uint8_t *header = NULL;
    size_t n = 0;
    struct td_error err = {0};
    for (int i = 0; i < 2; i++) { // sticky
        assert_int_equal(td_gguf_writer_header(w, &header, &n, &err), code);
        if (!strstr(err.msg, says)) fail_msg("'%s' does not say '%s'", err.msg, says);
    }
    assert_null(header);
    td_gguf_writer_close(w);
}

static void test_refused(void **state)
{
    (void)state;
    const uint64_t huge[] = {UINT64_MAX / 2, 8};
    const uint64_t ragged[] = {33};
    const uint64_t most[] = {(uint64_t)1 << 61};
    const uint64_t one[] = {1};
    struct td_gguf_writer *w = open_writer();
    td_gguf_put_u32(w, "twice", 1);
    td_gguf_put_f32(w, "twice", 1);
    expect_refused(w, TD_EFORMAT, "key 'twice' is there twice");
    w = open_writer();
    td_gguf_put_tensor(w, "huge", TD_F32, 2, huge);
    expect_refused(w, TD_EARG, "tensor 'huge': its size is beyond 64 bits");
    w = open_writer();
    td_gguf_put_tensor(w, "most", TD_F32, 1, most);
    td_gguf_put_tensor(w, "more", TD_F32, 1, most);
    td_gguf_put_tensor(w, "over", TD_F32, 1, most);
    expect_refused(w, TD_EARG, "tensor 'more'");
    w = open_writer();
    td_gguf_put_tensor(w, "ragged", TD_Q8_0, 1, ragged);
    expect_refused(w, TD_EFORMAT, "tensor 'ragged': rows of 33 elements");
    w = open_writer();
    td_gguf_put_tensor(w, "same", TD_F32, 1, one);
    td_gguf_put_tensor(w, "same", TD_F32, 1, one);
    expect_refused(w, TD_EFORMAT, "tensor 'same' is there twice");
    w = open_writer();
    td_gguf_put_u32s(w, "many", &(const uint32_t){0}, UINT64_MAX / 2); // counted, not read
    expect_refused(w, TD_EFULL, "more than");
}

static void test_padding(void **state)
{
    (void)state;
    assert_int_equal(td_gguf_data_padding(0), 0);
    assert_int_equal(td_gguf_data_padding(1), 31);
    assert_int_equal(td_gguf_data_padding(31), 1);
    assert_int_equal(td_gguf_data_padding(32), 0);
    assert_int_equal(td_gguf_data_padding(33), 31);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_empty),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_padding),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
