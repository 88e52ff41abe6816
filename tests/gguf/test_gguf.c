// SPDX-License-Identifier: MIT
// Reads well-formed files: every value type and getter, tensors, text of values.
#include "base/num.h"
#include "gguf/gguf.h"

#include "build_gguf.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

static struct td_gguf *parse(const struct build *b)
{
    struct td_gguf *g;
    struct td_error err = {0};
    if (td_gguf_parse(&g, b->at, b->n, "test.gguf", false, &err)) fail_msg("%s", err.msg);
    return g;
}

static void one_value_of_each_type(struct build *b)
{
    put_head(b, 3, 0, 12);
    put_key(b, "u8", 0);
    put8(b, 250);
    put_key(b, "i8", 1);
    put8(b, 0xfb); // -5
    put_key(b, "u16", 2);
    put16(b, 65000);
    put_key(b, "i16", 3);
    put16(b, (uint16_t)-300);
    put_key(b, "u32", 4);
    put32(b, 4000000000u);
    put_key(b, "i32", 5);
    put32(b, (uint32_t)-70000);
    put_key(b, "f32", 6);
    put_f32(b, 1.5f);
    put_key(b, "bool", 7);
    put8(b, 1);
    put_key(b, "str", 8);
    put_text(b, "caf\xc3\xa9");
    put_key(b, "u64", 10);
    put64(b, 18000000000000000000u);
    put_key(b, "i64", 11);
    put64(b, (uint64_t)-5000000000);
    put_key(b, "f64", 12);
    put_f64(b, 0.1);
}

static void test_scalars(void **state)
{
    (void)state;
    struct build b = {.n = 0};
    one_value_of_each_type(&b);
    struct td_gguf *g = parse(&b);
    struct td_error err = {0};
    uint32_t u32 = 7;
    uint64_t u64 = 7;
    float f32 = 7;
    bool flag = false;
    struct td_str s;

    assert_int_equal(td_gguf_n_kv(g), 12);
    assert_int_equal(td_gguf_version(g), 3);
    assert_string_equal(td_gguf_path(g), "test.gguf");
    assert_int_equal(td_gguf_file_bytes(g), b.n);
    assert_int_equal(td_gguf_n_parts(g), 1);
    assert_string_equal(td_gguf_key_at(g, 0), "u8");
    assert_string_equal(td_gguf_key_at(g, 11), "f64");
    assert_int_equal(td_gguf_type_at(g, 1), TD_GGUF_I8);

    assert_int_equal(td_gguf_u32(g, "u8", &u32, &err), TD_OK);
    assert_int_equal(u32, 250);
    assert_int_equal(td_gguf_u32(g, "u16", &u32, &err), TD_OK);
    assert_int_equal(u32, 65000);
    assert_int_equal(td_gguf_u32(g, "u32", &u32, &err), TD_OK);
    assert_int_equal(u32, 4000000000u);
    assert_int_equal(td_gguf_u64(g, "u64", &u64, &err), TD_OK);
    assert_true(u64 == 18000000000000000000u);
    assert_int_equal(td_gguf_f32(g, "f32", &f32, &err), TD_OK);
    assert_true(f32 == 1.5f);
    assert_int_equal(td_gguf_f32(g, "f64", &f32, &err), TD_OK);
    assert_true(f32 == 0.1f);
    assert_int_equal(td_gguf_bool(g, "bool", &flag, &err), TD_OK);
    assert_true(flag);
    assert_int_equal(td_gguf_str(g, "str", &s, &err), TD_OK);
    assert_int_equal(s.size_bytes, 5);
    assert_memory_equal(s.at, "caf\xc3\xa9", 5);
    td_gguf_close(g);
}

static void test_getters_refuse(void **state)
{
    (void)state;
    struct build b = {.n = 0};
    one_value_of_each_type(&b);
    struct td_gguf *g = parse(&b);
    struct td_error err = {.msg = "untouched"};
    uint32_t u32 = 7;
    uint64_t u64 = 7;
    float f32 = 7;
    bool flag = true;
    struct td_str s = {.size_bytes = 7};
    struct td_gguf_array a = {.n = 7};

    // Absence leaves outputs and error alone.
    assert_false(td_gguf_has(g, "nothing"));
    assert_true(td_gguf_has(g, "u8"));
    assert_int_equal(td_gguf_u32(g, "nothing", &u32, &err), TD_EARG);
    assert_int_equal(td_gguf_u64(g, "nothing", &u64, &err), TD_EARG);
    assert_int_equal(td_gguf_f32(g, "nothing", &f32, &err), TD_EARG);
    assert_int_equal(td_gguf_bool(g, "nothing", &flag, &err), TD_EARG);
    assert_int_equal(td_gguf_str(g, "nothing", &s, &err), TD_EARG);
    assert_int_equal(td_gguf_array(g, "nothing", &a, &err), TD_EARG);
    assert_string_equal(err.msg, "untouched");

    assert_int_equal(td_gguf_u32(g, "u64", &u32, &err), TD_EFORMAT);
    assert_non_null(strstr(err.msg, "key 'u64' is 18000000000000000000, at most 4294967295"));
    assert_int_equal(td_gguf_u32(g, "i8", &u32, &err), TD_EFORMAT);
    assert_non_null(strstr(err.msg, "key 'i8' is -5, below 0"));
    assert_int_equal(td_gguf_u64(g, "i16", &u64, &err), TD_EFORMAT);
    assert_non_null(strstr(err.msg, "-300"));
    assert_int_equal(td_gguf_u64(g, "i32", &u64, &err), TD_EFORMAT);
    assert_non_null(strstr(err.msg, "-70000"));
    assert_int_equal(td_gguf_u64(g, "i64", &u64, &err), TD_EFORMAT);
    assert_non_null(strstr(err.msg, "-5000000000"));
    assert_int_equal(td_gguf_u32(g, "str", &u32, &err), TD_EFORMAT);
    assert_non_null(strstr(err.msg, "key 'str' is of type string, not an integer"));
    assert_int_equal(td_gguf_u32(g, "bool", &u32, &err), TD_EFORMAT);
    assert_int_equal(td_gguf_u32(g, "f32", &u32, NULL), TD_EFORMAT);
    assert_int_equal(td_gguf_f32(g, "u32", &f32, &err), TD_EFORMAT);
    assert_int_equal(td_gguf_bool(g, "u8", &flag, &err), TD_EFORMAT);
    assert_int_equal(td_gguf_str(g, "u8", &s, &err), TD_EFORMAT);
    assert_int_equal(td_gguf_array(g, "str", &a, &err), TD_EFORMAT);
    assert_non_null(strstr(err.msg, "test.gguf: key 'str' is of type string, not an array"));
    assert_int_equal(u32, 7);
    assert_int_equal(u64, 7);
    assert_true(f32 == 7 && flag);
    assert_int_equal(s.size_bytes, 7);
    assert_int_equal(a.n, 7);
    td_gguf_close(g);
}

static void test_f64_range(void **state)
{
    (void)state;
    struct build b = {.n = 0};
    put_head(&b, 3, 0, 2);
    put_key(&b, "large", 12);
    put_f64(&b, 1e300);
    put_key(&b, "infinite", 12);
    put_f64(&b, (double)td_f32_of_bits(0x7f800000u));
    struct td_gguf *g = parse(&b);
    struct td_error err = {0};
    float f = 7;
    assert_int_equal(td_gguf_f32(g, "large", &f, &err), TD_EFORMAT);
    assert_non_null(strstr(err.msg, "1e+300"));
    assert_int_equal(td_gguf_f32(g, "infinite", &f, &err), TD_OK);
    assert_int_equal(td_bits_of_f32(f), 0x7f800000u);
    td_gguf_close(g);
}

static void put_elem(struct build *b, uint32_t type, int64_t v)
{
    switch (type) {
    case 0:
    case 1: put8(b, (uint8_t)v); break;
    case 7: put8(b, v != 0); break;
    case 2:
    case 3: put16(b, (uint16_t)v); break;
    case 4:
    case 5: put32(b, (uint32_t)v); break;
    case 6: put_f32(b, (float)v); break;
    case 10:
    case 11: put64(b, (uint64_t)v); break;
    case 12: put_f64(b, (double)v); break;
    default: fail_msg("type %u", type);
    }
}

static void test_arrays(void **state)
{
    (void)state;
    static const struct {
        uint32_t type;
        int64_t v[3];
    } arrays[] = {
        {0, {0, 5, 255}},         {1, {-128, 5, 127}},
        {2, {0, 5, 65535}},       {3, {-32768, 5, 32767}},
        {4, {0, 5, 4294967295}},  {5, {-2147483648LL, 5, 2147483647}},
        {6, {-3, 5, 1 << 20}},    {7, {0, 1, 1}},
        {10, {0, 5, INT64_MAX}},  {11, {INT64_MIN, -5, INT64_MAX}},
        {12, {-3, 5, 1LL << 50}},
    };
    const uint32_t n = sizeof(arrays) / sizeof(arrays[0]);
    struct build b = {.n = 0};
    put_head(&b, 2, 0, n);
    for (uint32_t k = 0; k < n; k++) {
        char key[16];
        snprintf(key, sizeof(key), "a%u", arrays[k].type);
        put_key_arr(&b, key, arrays[k].type, 3);
        for (int i = 0; i < 3; i++) put_elem(&b, arrays[k].type, arrays[k].v[i]);
    }
    struct td_gguf *g = parse(&b);
    assert_int_equal(td_gguf_version(g), 2);
    for (uint32_t k = 0; k < n; k++) {
        struct td_gguf_array a;
        assert_int_equal(td_gguf_array(g, td_gguf_key_at(g, k), &a, NULL), TD_OK);
        assert_int_equal(a.type, arrays[k].type);
        assert_int_equal(a.n, 3);
        for (uint64_t i = 0; i < 3; i++) {
            assert_true(td_gguf_array_i64(&a, i) == arrays[k].v[i]);
            assert_true(td_gguf_array_f64(&a, i) == (double)arrays[k].v[i]);
        }
    }
    td_gguf_close(g);
}

// What does not fit is held at the ends of the range, never undefined.
static void test_array_conversions(void **state)
{
    (void)state;
    struct build b = {.n = 0};
    put_head(&b, 3, 0, 2);
    put_key_arr(&b, "u", 10, 1);
    put64(&b, UINT64_MAX);
    put_key_arr(&b, "f", 12, 4);
    put_f64(&b, 1e30);
    put_f64(&b, -1e30);
    put_f64(&b, (double)td_f32_of_bits(0x7fc00000u));
    put_f64(&b, -2.75);
    struct td_gguf *g = parse(&b);
    struct td_gguf_array a;
    assert_int_equal(td_gguf_array(g, "u", &a, NULL), TD_OK);
    assert_true(td_gguf_array_i64(&a, 0) == INT64_MAX);
    assert_true(td_gguf_array_f64(&a, 0) == 0x1p64);
    assert_int_equal(td_gguf_array(g, "f", &a, NULL), TD_OK);
    assert_true(td_gguf_array_i64(&a, 0) == INT64_MAX);
    assert_true(td_gguf_array_i64(&a, 1) == INT64_MIN);
    assert_true(td_gguf_array_i64(&a, 2) == 0);
    assert_true(td_gguf_array_i64(&a, 3) == -2);
    td_gguf_close(g);
}

static void test_strings(void **state)
{
    (void)state;
    struct build b = {.n = 0};
    put_head(&b, 3, 0, 2);
    put_key_arr(&b, "tokens", 8, 4);
    put_text(&b, "!");
    put_text(&b, "");
    put64(&b, 3);
    put(&b, "a\0b", 3);
    put_text(&b, "\xff");
    put_key_arr(&b, "none", 8, 0);
    struct td_gguf *g = parse(&b);
    struct td_gguf_array a;
    assert_int_equal(td_gguf_array(g, "tokens", &a, NULL), TD_OK);
    assert_int_equal(a.type, TD_GGUF_STR);
    assert_int_equal(a.n, 4);
    assert_int_equal(a.size_bytes, 4 * 8 + 5);
    struct td_bytes at = td_gguf_strs(&a);
    assert_int_equal(td_gguf_next_str(&at).size_bytes, 1);
    assert_int_equal(td_gguf_next_str(&at).size_bytes, 0);
    struct td_str s = td_gguf_next_str(&at);
    assert_int_equal(s.size_bytes, 3);
    assert_memory_equal(s.at, "a\0b", 3);
    s = td_gguf_next_str(&at);
    assert_int_equal(s.size_bytes, 1);
    assert_memory_equal(s.at, "\xff", 1);
    assert_int_equal(td_gguf_next_str(&at).size_bytes, 0); // beyond the end: empty
    assert_true(at.short_read);
    assert_int_equal(td_gguf_array(g, "none", &a, NULL), TD_OK);
    assert_int_equal(a.n, 0);
    td_gguf_close(g);
}

static void test_tensors(void **state)
{
    (void)state;
    struct build b = {.n = 0};
    put_head(&b, 3, 4, 1);
    put_key_u32(&b, "general.alignment", 64);
    put_tensor(&b, "b.weight", TD_Q8_0, 64, 2, 64); // 136 bytes
    put_tensor(&b, "a.weight", TD_F32, 3, 1, 0);
    put_tensor(&b, "old", 12, 256, 1, 256); // Q4_K: no size yet
    put_tensor(&b, "m\xc3\xbc", TD_MXFP4, 32, 1, 320);
    pad(&b, 64);
    const size_t data = b.n;
    put_zeros(&b, 320 + 17);
    b.at[data + 64] = 42;
    struct td_gguf *g = parse(&b);
    assert_int_equal(td_gguf_n_tensors(g), 4);
    const struct td_gguf_tensor *t = td_gguf_find_tensor(g, "b.weight");
    assert_ptr_equal(t, td_gguf_tensor_at(g, 0));
    assert_string_equal(t->name, "b.weight");
    assert_int_equal(t->type, TD_Q8_0);
    assert_int_equal(t->n_dims, 2);
    assert_int_equal(t->dim[0], 64);
    assert_int_equal(t->dim[1], 2);
    assert_int_equal(t->dim[2], 1);
    assert_int_equal(t->dim[3], 1);
    assert_int_equal(t->size_bytes, 136);
    assert_int_equal(t->i_part, 0);
    assert_ptr_equal(t->data, b.at + data + 64);
    t = td_gguf_find_tensor(g, "a.weight");
    assert_int_equal(t->size_bytes, 12);
    assert_ptr_equal(t->data, b.at + data);
    t = td_gguf_find_tensor(g, "m\xc3\xbc");
    assert_int_equal(t->size_bytes, 17);
    // A type whose size is not known is listed all the same.
    t = td_gguf_find_tensor(g, "old");
    if (!td_type_info(12)) assert_int_equal(t->size_bytes, 0);
    assert_ptr_equal(t->data, b.at + data + 256);
    assert_null(td_gguf_find_tensor(g, "c.weight"));
    assert_null(td_gguf_find_tensor(g, ""));
    td_gguf_close(g);
}

static void test_header_only(void **state)
{
    (void)state;
    struct build b = {.n = 0};
    put_head(&b, 3, 1, 0);
    put_tensor(&b, "huge", TD_F32, 1 << 20, 1 << 20, 1 << 20);
    struct td_gguf *g;
    struct td_error err = {0};
    assert_int_equal(td_gguf_parse(&g, b.at, b.n, "x", false, &err), TD_EFORMAT);
    assert_null(g);
    assert_int_equal(td_gguf_parse(&g, b.at, b.n, "x", true, &err), TD_OK);
    const struct td_gguf_tensor *t = td_gguf_tensor_at(g, 0);
    assert_null(t->data);
    assert_int_equal(t->size_bytes, 1LL << 42);
    td_gguf_bind(g, 0, b.at);
    assert_ptr_equal(td_gguf_tensor_at(g, 0)->data, b.at);
    td_gguf_close(g);
}

static void expect_text(const struct td_gguf *g, uint32_t i, size_t size, const char *want)
{
    char *text = malloc(size); // of just that size: a sanitizer sees one byte too many
    assert_non_null(text);
    td_gguf_value_text(g, i, text, size);
    assert_string_equal(text, want);
    free(text);
}

static void test_value_text(void **state)
{
    (void)state;
    struct build b = {.n = 0};
    one_value_of_each_type(&b);
    struct td_gguf *g = parse(&b);
    static const char *const want[] = {"250",
                                       "-5",
                                       "65000",
                                       "-300",
                                       "4000000000",
                                       "-70000",
                                       "1.5",
                                       "true",
                                       "\"caf\xc3\xa9\"",
                                       "18000000000000000000",
                                       "-5000000000",
                                       "0.10000000000000001"};
    for (uint32_t i = 0; i < 12; i++) expect_text(g, i, 100, want[i]);
    // Cut between characters, never inside one, and saying so.
    expect_text(g, 8, 7, "\"ca...");
    expect_text(g, 8, 8, "\"caf...");
    expect_text(g, 8, 9, "\"caf...");
    expect_text(g, 8, 10, "\"caf\xc3\xa9...");
    expect_text(g, 8, 1, "");
    for (size_t size = 1; size < 12; size++) {
        char text[12];
        td_gguf_value_text(g, 8, text, size);
        assert_true(strlen(text) < size);
    }
    td_gguf_value_text(g, 8, NULL, 0);
    td_gguf_close(g);
}

static void test_value_text_escapes(void **state)
{
    (void)state;
    struct build b = {.n = 0};
    put_head(&b, 3, 0, 3);
    put_key_str(&b, "s", "\"\\\n\t\r\x1b[2J\x7f\xff\xc3(\xed\xa0\x80\xc2\x9b\xf0\x9f\x98\x80");
    put_key_arr(&b, "tokens", 8, 2);
    put_text(&b, "!");
    put_text(&b, "\"");
    put_key_arr(&b, "types", 5, 3);
    for (uint32_t i = 1; i <= 3; i++) put32(&b, i);
    struct td_gguf *g = parse(&b);
    expect_text(g, 0, 200,
                "\"\\\"\\\\\\n\\t\\r\\x1b[2J\\x7f\\xff\\xc3(\\xed\\xa0\\x80\\u009b"
                "\xf0\x9f\x98\x80\"");
    expect_text(g, 1, 200, "[2] \"!\", \"\\\"\"");
    expect_text(g, 2, 200, "[3] 1, 2, 3");
    td_gguf_close(g);
}

// A small file that ends anywhere is refused or read, never read beyond.
static void test_every_prefix(void **state)
{
    (void)state;
    struct build b = {.n = 0};
    put_head(&b, 3, 2, 3);
    put_key_str(&b, "general.architecture", "none");
    put_key_arr(&b, "tokens", 8, 2);
    put_text(&b, "a");
    put_text(&b, "bc");
    put_key_arr(&b, "types", 5, 2);
    put64(&b, 0);
    put_tensor(&b, "one", TD_F32, 4, 1, 0);
    put_tensor(&b, "two", TD_F16, 4, 2, 32);
    const size_t n_header = b.n;
    pad(&b, 32);
    put_zeros(&b, 48);
    uint32_t n_refused = 0;
    for (size_t n = 0; n <= b.n; n++) {
        for (int header_only = 0; header_only < 2; header_only++) {
            uint8_t *bytes = malloc(n ? n : 1); // of just that size
            assert_non_null(bytes);
            memcpy(bytes, b.at, n);
            struct td_gguf *g;
            struct td_error err = {0};
            const int code = td_gguf_parse(&g, bytes, n, "cut.gguf", header_only, &err);
            const bool is_whole = header_only ? n >= n_header : n == b.n;
            if (is_whole) {
                assert_int_equal(code, TD_OK);
            } else {
                assert_int_equal(code, TD_EFORMAT);
                assert_non_null(strstr(err.msg, "cut.gguf: "));
                assert_null(g);
                n_refused++;
            }
            td_gguf_close(g);
            free(bytes);
        }
    }
    assert_int_equal(n_refused, b.n + n_header);
}

// A vocabulary's worth of strings; the time is not asserted, only that lookup and access work.
static void test_many_strings(void **state)
{
    (void)state;
    enum { N = 200000 };
    const size_t cap = 64 + (size_t)N * 16;
    uint8_t *bytes = calloc(1, cap);
    assert_non_null(bytes);
    struct build b = {.n = 0};
    put_head(&b, 3, 0, 1);
    put_key_arr(&b, "tokens", 8, N);
    memcpy(bytes, b.at, b.n);
    size_t n = b.n;
    for (uint32_t i = 0; i < N; i++) {
        const uint64_t size_bytes = 1 + i % 7;
        memcpy(bytes + n, &size_bytes, 8);
        bytes[n + 8] = (uint8_t)i;
        n += 8 + size_bytes;
    }
    struct td_gguf *g;
    struct td_error err = {0};
    assert_int_equal(td_gguf_parse(&g, bytes, n, "x", false, &err), TD_OK);
    struct td_gguf_array a;
    assert_int_equal(td_gguf_array(g, "tokens", &a, NULL), TD_OK);
    assert_int_equal(a.n, N);
    struct td_bytes at = td_gguf_strs(&a);
    for (uint32_t i = 0; i < N; i++) {
        const struct td_str s = td_gguf_next_str(&at);
        if (i % 777) continue;
        assert_int_equal(s.size_bytes, 1 + i % 7);
        assert_int_equal((uint8_t)s.at[0], i % 256);
    }
    td_gguf_close(g);
    free(bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_scalars),      cmocka_unit_test(test_getters_refuse),
        cmocka_unit_test(test_f64_range),    cmocka_unit_test(test_arrays),
        cmocka_unit_test(test_strings),      cmocka_unit_test(test_array_conversions),
        cmocka_unit_test(test_tensors),      cmocka_unit_test(test_header_only),
        cmocka_unit_test(test_value_text),   cmocka_unit_test(test_value_text_escapes),
        cmocka_unit_test(test_every_prefix), cmocka_unit_test(test_many_strings),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
