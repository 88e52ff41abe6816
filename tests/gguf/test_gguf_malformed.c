// SPDX-License-Identifier: MIT
// Malformed files: each is refused with its code and a sentence that says what is wrong and where.
// Cases marked (l) are those of llama.cpp's tests/test-gguf.cpp; where it accepts what the
// specification forbids (alignment 1, dimension 0), we follow the specification.
#include "base/type.h"
#include "gguf/gguf.h"

#include "build_gguf.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

static void expect_refused(const char *name, const struct build *b, int code, const char *says)
{
    // A block of just that size: a sanitizer sees every byte read beyond.
    uint8_t *bytes = malloc(b->n ? b->n : 1);
    assert_non_null(bytes);
    memcpy(bytes, b->at, b->n);
    struct td_gguf *g = NULL;
    struct td_error err = {0};
    const int got = td_gguf_parse(&g, bytes, b->n, "bad.gguf", false, &err);
    if (got != code || err.code != code)
        fail_msg("%s: code %d (%d), not %d: %s", name, got, err.code, code, err.msg);
    if (strncmp(err.msg, "bad.gguf: ", 10) != 0 || !strstr(err.msg, says))
        fail_msg("%s: '%s' does not say '%s'", name, err.msg, says);
    if (strchr(err.msg, '\n')) fail_msg("%s: more than one line", name);
    if (g) fail_msg("%s: left a directory behind", name);
    // The same without anybody to tell.
    if (td_gguf_parse(&g, bytes, b->n, "bad.gguf", false, NULL) != code) fail_msg("%s: NULL", name);
    free(bytes);
}

// Beginnings of files.
static void test_heads(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        const char *bytes;
        size_t n;
        int code;
        const char *says;
    } cases[] = {
        {"nothing", "", 0, TD_EFORMAT, "the file is empty"},
        {"one byte", "G", 1, TD_EFORMAT, "not a GGUF file"},
        {"magic alone", "GGUF", 4, TD_EFORMAT, "ends inside its header, after 4 bytes"},
        {"version cut", "GGUF\3\0", 6, TD_EFORMAT, "ends inside its header"},
        {"counts missing", "GGUF\3\0\0\0", 8, TD_EFORMAT, "ends inside its header"},
        {"bad magic (l)", "FUGG\3\0\0\0", 8, TD_EFORMAT, "first bytes are not \"GGUF\""},
        {"magic of other case", "gguf\3\0\0\0", 8, TD_EFORMAT, "first bytes are not \"GGUF\""},
        {"version 0 (l)", "GGUF\0\0\0\0", 8, TD_EFORMAT, "version 0 does not exist"},
        {"version 1 (l)", "GGUF\1\0\0\0", 8, TD_EUNSUP, "version 1 is not supported"},
        {"future version (l)", "GGUF\4\0\0\0", 8, TD_EUNSUP, "version 4 is not supported"},
        {"version of no sense", "GGUF\1\1\1\1", 8, TD_EUNSUP, "version 16843009"},
        {"big-endian v3", "GGUF\0\0\0\3", 8, TD_EUNSUP, "a big-endian GGUF file"},
        {"big-endian v2", "GGUF\0\0\0\2", 8, TD_EUNSUP, "a big-endian GGUF file"},
        {"web page", "<!DOCTYPE html>", 15, TD_EFORMAT, "a web page"},
        {"web page, lower case", "<html><body>", 12, TD_EFORMAT, "a web page"},
        {"git lfs pointer", "version https://git-lfs.github.com/spec/v1", 42, TD_EFORMAT,
         "a Git LFS pointer"},
        {"older ggml", "tjgg\3\0\0\0", 8, TD_EFORMAT, "before GGUF"},
        {"zip", "PK\3\4\0\0\0\0", 8, TD_EFORMAT, "PyTorch"},
        {"safetensors", "\x40\0\0\0\0\0\0\0{\"a\":", 13, TD_EFORMAT, "safetensors"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct build b = {.n = 0};
        put(&b, cases[i].bytes, cases[i].n);
        expect_refused(cases[i].name, &b, cases[i].code, cases[i].says);
    }
}

static void counts_n_kv(struct build *b)
{
    put_head(b, 3, 0, UINT64_MAX);
    put_zeros(b, 8);
}

static void counts_n_tensors(struct build *b)
{
    put_head(b, 3, UINT64_MAX, 0);
    put_zeros(b, 8);
}

static void counts_one_kv_too_many(struct build *b)
{
    put_head(b, 3, 0, 2);
    put_key_u32(b, "k", 1);
    put_zeros(b, 12);
}

static void counts_tensors_without_records(struct build *b)
{
    put_head(b, 2, 3, 0);
    put_zeros(b, 98);
}

static void key_size(struct build *b)
{
    put_head(b, 3, 0, 1);
    put64(b, UINT64_MAX);
    put_zeros(b, 32);
}

static void key_beyond_file(struct build *b)
{
    put_head(b, 3, 0, 2);
    put_key_u32(b, "first", 1);
    put64(b, 60000);
    put_zeros(b, 32);
}

static void key_empty(struct build *b)
{
    put_head(b, 3, 0, 1);
    put_key_u32(b, "", 1);
    put_zeros(b, 32);
}

static void key_with_escape(struct build *b)
{
    put_head(b, 3, 0, 1);
    put_key_u32(b, "a\x1b[2J", 1);
}

static void key_with_nul(struct build *b)
{
    put_head(b, 3, 0, 1);
    put64(b, 3);
    put(b, "a\0b", 3);
    put32(b, 4);
    put32(b, 1);
}

static void key_not_ascii(struct build *b)
{
    put_head(b, 3, 0, 1);
    put_key_u32(b, "caf\xc3\xa9", 1);
}

static void key_twice(struct build *b)
{
    put_head(b, 3, 0, 3);
    put_key_u32(b, "my.key", 1);
    put_key_u32(b, "other", 1);
    put_key_str(b, "my.key", "2");
}

static void type_unknown(struct build *b)
{
    put_head(b, 3, 0, 1);
    put_key(b, "my.key", 13);
    put_zeros(b, 32);
}

static void type_negative(struct build *b)
{
    put_head(b, 3, 0, 1);
    put_key(b, "my.key", UINT32_MAX);
    put_zeros(b, 32);
}

static void type_cut(struct build *b)
{
    put_head(b, 3, 0, 1);
    put_text(b, "my.key");
    put16(b, 4);
}

static void value_cut(struct build *b)
{
    put_head(b, 3, 0, 1);
    put_key(b, "my.key", 10);
    put32(b, 4);
}

static void bool_of_2(struct build *b)
{
    put_head(b, 3, 0, 1);
    put_key(b, "my.flag", 7);
    put8(b, 2);
}

static void bools_with_255(struct build *b)
{
    put_head(b, 3, 0, 1);
    put_key_arr(b, "my.flags", 7, 3);
    put8(b, 0);
    put8(b, 1);
    put8(b, 255);
}

static void string_size(struct build *b)
{
    put_head(b, 3, 0, 1);
    put_key(b, "my.str", 8);
    put64(b, UINT64_MAX);
    put_zeros(b, 32);
}

static void string_one_too_long(struct build *b)
{
    put_head(b, 3, 0, 1);
    put_key(b, "my.str", 8);
    put64(b, 33);
    put_zeros(b, 32);
}

static void string_size_cut(struct build *b)
{
    put_head(b, 3, 0, 1);
    put_key(b, "my.str", 8);
    put32(b, 1);
}

static void array_type(struct build *b)
{
    put_head(b, 3, 0, 1);
    put_key_arr(b, "my.arr", 99, 1);
    put_zeros(b, 32);
}

static void array_of_arrays(struct build *b)
{
    put_head(b, 3, 0, 1);
    put_key_arr(b, "my.arr", 9, 1);
    put32(b, 4);
    put64(b, 1);
    put32(b, 7);
}

static void array_count(struct build *b)
{
    put_head(b, 3, 0, 1);
    put_key_arr(b, "my.arr", 4, UINT64_MAX);
    put_zeros(b, 32);
}

// 2^62 + 1 four-byte values are 4 bytes if the product wraps.
static void array_count_wraps(struct build *b)
{
    put_head(b, 3, 0, 1);
    put_key_arr(b, "my.arr", 4, ((uint64_t)1 << 62) + 1);
    put_zeros(b, 32);
}

static void array_one_too_many(struct build *b)
{
    put_head(b, 3, 0, 1);
    put_key_arr(b, "my.arr", 11, 5);
    put_zeros(b, 39);
}

static void array_cut(struct build *b)
{
    put_head(b, 3, 0, 1);
    put_key(b, "my.arr", 9);
    put32(b, 4);
    put32(b, 1);
}

static void strings_count(struct build *b)
{
    put_head(b, 3, 0, 1);
    put_key_arr(b, "my.strs", 8, (uint64_t)1 << 61);
    put_zeros(b, 32);
}

static void strings_last_too_long(struct build *b)
{
    put_head(b, 3, 0, 1);
    put_key_arr(b, "my.strs", 8, 2);
    put_text(b, "fine");
    put64(b, 5);
    put_zeros(b, 4);
}

static void strings_size_cut(struct build *b)
{
    put_head(b, 3, 0, 1);
    put_key_arr(b, "my.strs", 8, 2);
    put_text(b, "some text of length");
    put32(b, 0);
}

static void align_not_power(struct build *b)
{
    put_head(b, 3, 0, 1);
    put_key_u32(b, "general.alignment", 13);
}

static void align_0(struct build *b)
{
    put_head(b, 3, 0, 1);
    put_key_u32(b, "general.alignment", 0);
}

static void align_1(struct build *b)
{
    put_head(b, 3, 0, 1);
    put_key_u32(b, "general.alignment", 1);
}

static void align_large(struct build *b)
{
    put_head(b, 3, 0, 1);
    put_key_u32(b, "general.alignment", 1u << 31);
}

static void align_of_other_type(struct build *b)
{
    put_head(b, 3, 0, 1);
    put_key(b, "general.alignment", 5);
    put32(b, 32);
}

static void align_string(struct build *b)
{
    put_head(b, 3, 0, 1);
    put_key_str(b, "general.alignment", "32");
}

static void test_metadata(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        void (*make)(struct build *b);
        int code;
        const char *says;
    } cases[] = {
        {"n_kv (l)", counts_n_kv, TD_EFORMAT, "18446744073709551615 metadata keys cannot fit in"},
        {"n_tensors (l)", counts_n_tensors, TD_EFORMAT,
         "18446744073709551615 tensors cannot fit in the 8 bytes left"},
        {"a kv too many", counts_one_kv_too_many, TD_EFORMAT,
         "metadata key 2 of 2: the name is empty"},
        {"no records", counts_tensors_without_records, TD_EFORMAT, "3 tensors cannot fit in"},
        {"key size (l)", key_size, TD_EFORMAT,
         "metadata key 1 of 1: a name of 18446744073709551615 bytes, at most 65535"},
        {"key beyond", key_beyond_file, TD_EFORMAT, "ends inside metadata key 2 of 2"},
        {"key empty (l)", key_empty, TD_EFORMAT, "metadata key 1 of 1: the name is empty"},
        {"key escape", key_with_escape, TD_EFORMAT, "the name 'a?[2J' is not printable ASCII"},
        {"key nul", key_with_nul, TD_EFORMAT, "the name 'a?b' is not printable ASCII"},
        {"key utf-8", key_not_ascii, TD_EFORMAT, "the name 'caf\?\?' is not printable ASCII"},
        {"key twice (l)", key_twice, TD_EFORMAT, "key 'my.key' is there twice"},
        {"type (l)", type_unknown, TD_EFORMAT, "key 'my.key': unknown value type 13"},
        {"type -1", type_negative, TD_EFORMAT, "unknown value type 4294967295"},
        {"type cut", type_cut, TD_EFORMAT, "ends inside the value of 'my.key'"},
        {"value cut", value_cut, TD_EFORMAT, "ends inside the value of 'my.key'"},
        {"bool 2", bool_of_2, TD_EFORMAT, "key 'my.flag': a bool is 0 or 1, not 2"},
        {"bools 255", bools_with_255, TD_EFORMAT, "key 'my.flags': a bool is 0 or 1, not 255"},
        {"string size (l)", string_size, TD_EFORMAT,
         "key 'my.str': a string of 18446744073709551615 bytes, but the file has only 32 left"},
        {"string by one", string_one_too_long, TD_EFORMAT, "a string of 33 bytes, but"},
        {"string size cut", string_size_cut, TD_EFORMAT, "ends inside the value of 'my.str'"},
        {"array type (l)", array_type, TD_EFORMAT, "key 'my.arr': an array of unknown type 99"},
        {"array of arrays", array_of_arrays, TD_EUNSUP, "key 'my.arr': arrays of arrays"},
        {"array count", array_count, TD_EFORMAT,
         "key 'my.arr': 18446744073709551615 values of u32 cannot fit in the 32 bytes left"},
        {"array wraps", array_count_wraps, TD_EFORMAT, "4611686018427387905 values of u32"},
        {"array by one", array_one_too_many, TD_EFORMAT, "5 values of i64 cannot fit in"},
        {"array cut", array_cut, TD_EFORMAT, "ends inside the value of 'my.arr'"},
        {"strings count", strings_count, TD_EFORMAT, "2305843009213693952 strings cannot fit in"},
        {"strings last", strings_last_too_long, TD_EFORMAT, "key 'my.strs': a string of 5 bytes"},
        {"strings cut", strings_size_cut, TD_EFORMAT, "ends inside the value of 'my.strs'"},
        {"align 13 (l)", align_not_power, TD_EFORMAT,
         "key 'general.alignment' is 13, not a power of two between 8 and 65536"},
        {"align 0", align_0, TD_EFORMAT, "'general.alignment' is 0"},
        {"align 1", align_1, TD_EFORMAT, "'general.alignment' is 1"},
        {"align 2^31", align_large, TD_EFORMAT, "'general.alignment' is 2147483648"},
        {"align i32 (l)", align_of_other_type, TD_EFORMAT, "has type i32, not u32"},
        {"align string", align_string, TD_EFORMAT, "has type string, not u32"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct build b = {.n = 0};
        cases[i].make(&b);
        expect_refused(cases[i].name, &b, cases[i].code, cases[i].says);
    }
}

// One tensor in a file that is fine but for it.
struct one_tensor {
    const char *name;
    const char *tensor;
    uint32_t n_dims;
    uint64_t dim[5];
    uint32_t type;
    uint64_t offset;
    uint32_t n_data;
    int code;
    const char *says;
};

static const struct one_tensor one_tensors[] = {
    {"name of 65 bytes (l)",
     "12345678901234567890123456789012345678901234567890123456789012345",
     1,
     {8},
     TD_F32,
     0,
     32,
     TD_EFORMAT,
     "tensor 1 of 1: a name of 65 bytes, at most 64"},
    {"name empty", "", 1, {8}, TD_F32, 0, 32, TD_EFORMAT, "tensor 1 of 1: the name is empty"},
    {"name with newline",
     "a\nb",
     1,
     {8},
     TD_F32,
     0,
     32,
     TD_EFORMAT,
     "the name 'a?b' has control characters"},
    {"name with DEL", "a\x7f", 1, {8}, TD_F32, 0, 32, TD_EFORMAT, "control characters"},
    {"name with C1", "a\xc2\x9b", 1, {8}, TD_F32, 0, 32, TD_EFORMAT, "control characters"},
    {"name not UTF-8", "a\xff", 1, {8}, TD_F32, 0, 32, TD_EFORMAT, "invalid UTF-8"},
    {"name of cut UTF-8", "a\xe2\x82", 1, {8}, TD_F32, 0, 32, TD_EFORMAT, "invalid UTF-8"},
    {"0 dims", "t", 0, {0}, TD_F32, 0, 32, TD_EFORMAT, "tensor 't': 0 dimensions"},
    {"5 dims (l)",
     "t",
     5,
     {1, 1, 1, 1, 1},
     TD_F32,
     0,
     32,
     TD_EFORMAT,
     "tensor 't': 5 dimensions, between 1 and 4 exist"},
    {"dim 0", "t", 1, {0}, TD_F32, 0, 32, TD_EFORMAT, "tensor 't': dimension 0 is 0"},
    {"later dim 0 (l)", "t", 3, {8, 1, 0}, TD_F32, 0, 32, TD_EFORMAT, "dimension 2 is 0"},
    {"dims of -1 (l)",
     "t",
     2,
     {UINT64_MAX, UINT64_MAX},
     TD_F32,
     0,
     32,
     TD_EFORMAT,
     "tensor 't': the product of its dimensions is beyond 63 bits"},
    {"one dim of -1", "t", 1, {UINT64_MAX}, TD_F32, 0, 32, TD_EFORMAT, "beyond 63 bits"},
    // 4 * (2^31 - 1), squared, is 2^66; four times 2^16 wraps to 0.
    {"elements (l)",
     "t",
     2,
     {8589934588u, 8589934588u},
     TD_F32,
     0,
     32,
     TD_EFORMAT,
     "beyond 63 bits"},
    {"elements wrap to 0",
     "t",
     4,
     {65536, 65536, 65536, 65536},
     TD_F32,
     0,
     32,
     TD_EFORMAT,
     "beyond 63 bits"},
    {"bytes (l)",
     "t",
     1,
     {(uint64_t)1 << 62},
     TD_F32,
     0,
     32,
     TD_EFORMAT,
     "tensor 't': its size is beyond 64 bits"},
    {"type (l)", "t", 1, {32}, 99, 0, 32, TD_EUNSUP, "tensor 't': unknown type 99"},
    {"type -1", "t", 1, {32}, UINT32_MAX, 0, 32, TD_EUNSUP, "unknown type 4294967295"},
    {"withdrawn type", "t", 1, {32}, 4, 0, 32, TD_EUNSUP, "unknown type 4"},
    {"ragged Q8_0",
     "t",
     1,
     {33},
     TD_Q8_0,
     0,
     68,
     TD_EFORMAT,
     "tensor 't': rows of 33 elements, but Q8_0 comes in blocks of 32"},
    {"ragged rows", "t", 2, {16, 2}, TD_MXFP4, 0, 32, TD_EFORMAT, "but MXFP4 comes in blocks of"},
    {"offset -1 (l)",
     "t",
     1,
     {8},
     TD_F32,
     UINT64_MAX,
     32,
     TD_EFORMAT,
     "tensor 't': offset 18446744073709551615 is not a multiple of the alignment 32"},
    {"offset 1 (l)", "t", 1, {7}, TD_F32, 1, 32, TD_EFORMAT, "offset 1 is not a multiple"},
    {"offset plus size wraps",
     "t",
     1,
     {64},
     TD_F32,
     UINT64_MAX - 31,
     32,
     TD_EFORMAT,
     "tensor 't': offset 18446744073709551584 plus 256 bytes is beyond 64 bits"},
    {"begin plus end wraps",
     "t",
     1,
     {7},
     TD_F32,
     UINT64_MAX - 31,
     32,
     TD_EFORMAT,
     "the file has 128 bytes but tensor 't' ends at 18446744073.7 GB"},
    {"a byte short (l)",
     "t",
     1,
     {8},
     TD_F32,
     0,
     31,
     TD_EFORMAT,
     "the file has 127 bytes but tensor 't' ends at 128 bytes: the download is incomplete"},
    {"offset beyond", "t", 1, {8}, TD_F32, 32, 32, TD_EFORMAT, "tensor 't' ends at 160 bytes"},
    {"no data", "t", 1, {1000000000}, TD_F32, 0, 0, TD_EFORMAT, "tensor 't' ends at 4.0 GB"},
    {"no data, megabytes", "t", 1, {5000000}, TD_F32, 0, 0, TD_EFORMAT, "ends at 20.0 MB"},
    {"size not known, offset beyond", "t", 1, {256}, 11, 32, 32, TD_EFORMAT, "tensor 't' ends at"},
};

static void put_one_tensor(struct build *b, const struct one_tensor *c)
{
    put_text(b, c->tensor);
    put32(b, c->n_dims);
    for (uint32_t d = 0; d < c->n_dims; d++) put64(b, c->dim[d]);
    put32(b, c->type);
    put64(b, c->offset);
}

static void test_one_tensor(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(one_tensors) / sizeof(one_tensors[0]); i++) {
        struct build b = {.n = 0};
        put_head(&b, 3, 1, 1);
        put_key_str(&b, "pad", "1"); // so that the shortest record clears the least size
        put_one_tensor(&b, &one_tensors[i]);
        pad(&b, 32);
        put_zeros(&b, one_tensors[i].n_data);
        expect_refused(one_tensors[i].name, &b, one_tensors[i].code, one_tensors[i].says);
    }
}

static void two_of_one_name(struct build *b)
{
    put_head(b, 3, 2, 0);
    put_tensor(b, "same", TD_F32, 8, 1, 0);
    put_tensor(b, "same", TD_F32, 8, 1, 32);
    pad(b, 32);
    put_zeros(b, 64);
}

static void two_in_one_place(struct build *b)
{
    put_head(b, 3, 2, 0);
    put_tensor(b, "first", TD_F32, 8, 1, 0);
    put_tensor(b, "second", TD_F32, 8, 1, 0);
    pad(b, 32);
    put_zeros(b, 64);
}

static void two_overlapping(struct build *b)
{
    put_head(b, 3, 2, 0);
    put_tensor(b, "late", TD_F32, 8, 1, 32);
    put_tensor(b, "early", TD_F32, 9, 1, 0);
    pad(b, 32);
    put_zeros(b, 64);
}

static void inside_another(struct build *b)
{
    put_head(b, 3, 2, 0);
    put_tensor(b, "whole", TD_F32, 64, 1, 0);
    put_tensor(b, "unsized", 12, 256, 1, 64); // Q4_K: only its place is known
    pad(b, 32);
    put_zeros(b, 256);
}

// Data laid out by an alignment that the file does not declare.
static void undeclared_align(struct build *b)
{
    put_head(b, 3, 2, 0);
    put_tensor(b, "first", TD_F32, 3, 1, 0);
    put_tensor(b, "second", TD_F32, 3, 1, 12);
    put_zeros(b, 64);
}

static void declared_align_not_kept(struct build *b)
{
    put_head(b, 3, 2, 1);
    put_key_u32(b, "general.alignment", 64);
    put_tensor(b, "first", TD_F32, 8, 1, 0);
    put_tensor(b, "second", TD_F32, 8, 1, 32);
    pad(b, 64);
    put_zeros(b, 128);
}

static void sizes_overflow(struct build *b)
{
    put_head(b, 3, 2, 0);
    put_tensor(b, "first", TD_F16, 0x3fffffffffffffe0u, 1, 0);
    put_tensor(b, "second", TD_F16, 0x3fffffffffffffe0u, 1, 0x7fffffffffffffc0u);
    pad(b, 32);
    put_zeros(b, 32);
}

static void second_cut(struct build *b)
{
    put_head(b, 3, 2, 0);
    put_tensor(b, "first tensor of long name", TD_F32, 8, 1, 0);
    put_text(b, "second");
    put32(b, 2);
    put64(b, 8);
}

static void record_cut(struct build *b)
{
    put_head(b, 3, 1, 0);
    put_text(b, "a tensor of long name");
    put32(b, 1);
    put64(b, 8);
    put32(b, TD_F32);
}

static void name_cut(struct build *b)
{
    put_head(b, 3, 1, 0);
    put64(b, 50);
    put_zeros(b, 32);
}

static void test_tensors(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        void (*make)(struct build *b);
        const char *says;
    } cases[] = {
        {"twice (l)", two_of_one_name, "tensor 'same' is there twice"},
        {"one place", two_in_one_place, "the data of tensors 'first' and 'second' overlap"},
        {"overlap", two_overlapping, "the data of tensors 'early' and 'late' overlap"},
        {"inside", inside_another, "the data of tensors 'whole' and 'unsized' overlap"},
        {"inconsistent align (l)", undeclared_align, "tensor 'second': offset 12 is not"},
        {"align not kept (l)", declared_align_not_kept, "not a multiple of the alignment 64"},
        {"sum of sizes (l)", sizes_overflow, "ends at 18446744073.7 GB: the download"},
        {"shape cut", second_cut, "ends inside the shape of tensor 'second'"},
        {"record cut", record_cut, "ends inside the record of tensor 'a tensor of long name'"},
        {"name cut", name_cut, "ends inside the name of tensor 1 of 1"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct build b = {.n = 0};
        cases[i].make(&b);
        expect_refused(cases[i].name, &b, TD_EFORMAT, cases[i].says);
    }
}

// More records than any model has, in bytes that could hold them.
static void test_limits(void **state)
{
    (void)state;
    const size_t n = (size_t)64 << 20;
    uint8_t *bytes = calloc(1, n); // never written: costs address space only
    assert_non_null(bytes);
    struct td_gguf *g;
    struct td_error err = {0};
    struct build b = {.n = 0};
    put_head(&b, 3, 0, 70000);
    memcpy(bytes, b.at, b.n);
    assert_int_equal(td_gguf_parse(&g, bytes, n, "x", false, &err), TD_EUNSUP);
    assert_non_null(strstr(err.msg, "70000 metadata keys, at most 65536"));
    b.n = 0;
    put_head(&b, 3, 2000000, 0);
    memcpy(bytes, b.at, b.n);
    assert_int_equal(td_gguf_parse(&g, bytes, n, "x", false, &err), TD_EUNSUP);
    assert_non_null(strstr(err.msg, "2000000 tensors, at most 1048576"));
    free(bytes);
}

// The sentence survives a path longer than itself.
static void test_long_path(void **state)
{
    (void)state;
    char path[1000];
    memset(path, 'd', sizeof(path));
    memcpy(path + sizeof(path) - 12, "/model.gguf", 12);
    struct td_gguf *g;
    struct td_error err = {0};
    assert_int_equal(td_gguf_parse(&g, "GGUF\1\0\0\0", 8, path, false, &err), TD_EUNSUP);
    assert_non_null(strstr(err.msg, "ddd/model.gguf: GGUF version 1 is not supported, only 2"));
}

// What must stay possible: the smallest files that say something.
static void test_accepted(void **state)
{
    (void)state;
    struct td_gguf *g;
    struct td_error err = {0};
    struct build b = {.n = 0};
    put_head(&b, 3, 0, 0);
    if (td_gguf_parse(&g, b.at, b.n, "x", false, &err)) fail_msg("%s", err.msg);
    td_gguf_close(g);
    // A vocabulary alone, without padding at its end; alignment at both ends of its range.
    for (uint32_t align = 8; align <= 65536; align *= 2) {
        b.n = 0;
        put_head(&b, 2, 0, 1);
        put_key_u32(&b, "general.alignment", align);
        if (td_gguf_parse(&g, b.at, b.n, "x", false, &err)) fail_msg("%s", err.msg);
        td_gguf_close(g);
    }
    // A name of 64 bytes, gaps between tensors, bytes behind the last.
    b.n = 0;
    put_head(&b, 3, 2, 0);
    put_tensor(&b, "1234567890123456789012345678901234567890123456789012345678901234", TD_F32, 1, 1,
               0);
    put_tensor(&b, "b", TD_F32, 1, 1, 320);
    pad(&b, 32);
    put_zeros(&b, 400);
    if (td_gguf_parse(&g, b.at, b.n, "x", false, &err)) fail_msg("%s", err.msg);
    td_gguf_close(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_heads),      cmocka_unit_test(test_metadata),
        cmocka_unit_test(test_one_tensor), cmocka_unit_test(test_tensors),
        cmocka_unit_test(test_limits),     cmocka_unit_test(test_long_path),
        cmocka_unit_test(test_accepted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
