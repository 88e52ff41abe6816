// SPDX-License-Identifier: MIT
// The bounded reader: little endian, whole or not at all, first failure kept.
#include "base/bytes.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static const uint8_t bytes[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 0xff};

static void test_reads(void **state)
{
    (void)state;
    struct td_bytes b = td_bytes_of(bytes, sizeof(bytes));
    assert_int_equal(td_bytes_left(&b), 15);
    assert_int_equal(td_bytes_u8(&b), 1);
    assert_int_equal(td_bytes_u16le(&b), 0x0302);
    assert_int_equal(td_bytes_u32le(&b), 0x07060504);
    assert_int_equal(td_bytes_left(&b), 8);
    assert_true(td_bytes_u64le(&b) == 0xff0e0d0c0b0a0908u);
    assert_int_equal(td_bytes_left(&b), 0);
    assert_false(b.short_read);
    assert_ptr_equal(td_bytes_take(&b, 0), bytes + sizeof(bytes));
    assert_false(b.short_read);
    assert_int_equal(td_bytes_u8(&b), 0);
    assert_true(b.short_read);
}

static void test_short_read_is_sticky(void **state)
{
    (void)state;
    for (size_t n = 0; n < 8; n++) {
        struct td_bytes b = td_bytes_of(bytes, n);
        assert_true(td_bytes_u64le(&b) == 0);
        assert_true(b.short_read);
        // What would fit is refused from now on, and nothing was consumed.
        assert_int_equal(td_bytes_left(&b), n);
        assert_int_equal(td_bytes_u8(&b), 0);
        assert_int_equal(td_bytes_u16le(&b), 0);
        assert_int_equal(td_bytes_u32le(&b), 0);
        assert_null(td_bytes_take(&b, 0));
        assert_int_equal(td_bytes_left(&b), n);
    }
    struct td_bytes b = td_bytes_of(bytes, 3);
    assert_int_equal(td_bytes_u32le(&b), 0);
    assert_true(b.short_read);
    b = td_bytes_of(bytes, 1);
    assert_int_equal(td_bytes_u16le(&b), 0);
    assert_true(b.short_read);
}

static void test_huge_lengths(void **state)
{
    (void)state;
    const uint64_t huge[] = {16, UINT32_MAX, INT64_MAX, UINT64_MAX - 1, UINT64_MAX};
    for (size_t i = 0; i < sizeof(huge) / sizeof(huge[0]); i++) {
        struct td_bytes b = td_bytes_of(bytes, sizeof(bytes));
        assert_null(td_bytes_take(&b, huge[i]));
        assert_true(b.short_read);
        assert_int_equal(td_bytes_left(&b), sizeof(bytes));
    }
    struct td_bytes b = td_bytes_of(bytes, sizeof(bytes));
    assert_ptr_equal(td_bytes_take(&b, sizeof(bytes)), bytes);
    assert_false(b.short_read);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reads),
        cmocka_unit_test(test_short_read_is_sticky),
        cmocka_unit_test(test_huge_lengths),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
