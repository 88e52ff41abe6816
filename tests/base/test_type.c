// SPDX-License-Identifier: MIT
// Type numbers, names and sizes agree with each other.
#include "base/type.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static void test_sizes(void **state)
{
    (void)state;
    assert_int_equal(td_type_size_bytes(TD_F32, 3), 12);
    assert_int_equal(td_type_size_bytes(TD_F16, 3), 6);
    assert_int_equal(td_type_size_bytes(TD_BF16, 3), 6);
    assert_int_equal(td_type_size_bytes(TD_Q8_0, 64), 68);
    assert_int_equal(td_type_size_bytes(TD_MXFP4, 64), 34);
    assert_int_equal(td_type_size_bytes(TD_MXFP4, 0), 0);
    // 2^40 elements: no 32-bit step on the way.
    assert_true(td_type_size_bytes(TD_F32, (uint64_t)1 << 40) == (uint64_t)1 << 42);
}

static void test_names(void **state)
{
    (void)state;
    uint32_t n_computed = 0;
    for (uint32_t type = 0; type < 300; type++) {
        const struct td_type_info *info = td_type_info(type);
        const char *name = td_type_known_name(type);
        if (!info) continue;
        n_computed++;
        assert_non_null(name);
        assert_string_equal(info->name, name);
        assert_true(info->block >= 1 && info->block_bytes >= 1);
    }
    assert_true(n_computed >= 5);
    assert_string_equal(td_type_known_name(12), "Q4_K");
    assert_string_equal(td_type_known_name(39), "MXFP4");
    assert_string_equal(td_type_known_name(40), "NVFP4");
    const uint32_t never[] = {4, 5, 31, 32, 33, 36, 37, 38, 1000, UINT32_MAX};
    for (size_t i = 0; i < sizeof(never) / sizeof(never[0]); i++) {
        assert_null(td_type_known_name(never[i]));
        assert_null(td_type_info(never[i]));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
