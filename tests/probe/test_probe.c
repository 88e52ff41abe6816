// SPDX-License-Identifier: MIT
// The loops compute what they claim, and a quick measurement gives plausible rates.
#include "probe/loops_impl.h"
#include "probe/probe.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const enum td_isa isas[] = {TD_ISA_GENERIC, TD_ISA_AVX2, TD_ISA_AVX512, TD_ISA_NEON};

// Were the compiler to drop the work, the sums would not follow the number of iterations.
static void loops_do_their_work(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(isas) / sizeof(isas[0]); i++) {
        if (!td_isa_supported(isas[i])) continue;
        struct td_loops l;
        td_loops_get(&l, isas[i]);
        const uint32_t one = l.int8_loop(1);
        assert_int_not_equal(one, 0);
        assert_int_equal(l.int8_loop(1000), one * 1000);
        assert_true(l.f32_loop(1000) > l.f32_loop(10));
    }
}

static void read_loops_see_every_byte(void **state)
{
    (void)state;
    enum { SIZE = 4096 };
    uint64_t *words = aligned_alloc(64, SIZE);
    assert_non_null(words);
    for (size_t i = 0; i < sizeof(isas) / sizeof(isas[0]); i++) {
        if (!td_isa_supported(isas[i])) continue;
        struct td_loops l;
        td_loops_get(&l, isas[i]);
        memset(words, 0, SIZE);
        assert_int_equal(l.read_loop(words, SIZE), 0);
        uint32_t n_seen = 0;
        for (size_t w = 0; w < SIZE / 8; w++) {
            words[w] = 1;
            n_seen += l.read_loop(words, SIZE) != 0;
            words[w] = 0;
        }
        // A wide loop folds one lane of its accumulators: it sees that lane's share of the words.
        assert_true(n_seen >= SIZE / 8 / 8);
    }
    free(words);
}

// The reader leaves out the skewed ends only, and goes round.
static void a_reader_goes_over_its_spans(void **state)
{
    (void)state;
    struct td_error err = {0};
    struct td_probe_reader *r;
    enum { SIZE = 3 << 20 };
    uint8_t *bytes = calloc(1, SIZE);
    assert_non_null(bytes);
    const struct td_probe_span spans[] = {{bytes + 3, SIZE - 3}, {bytes, 10}, {bytes, 1 << 20}};
    assert_int_equal(td_probe_reader_open(&r, spans, 2, 2, td_isa_native(), &err), TD_OK);
    assert_in_range(td_probe_reader_bytes(r), SIZE - 2048, SIZE);
    for (int i = 0; i < 3; i++) assert_true(td_probe_read(r, 2 << 20) > 1e6);
    assert_true(td_probe_read(r, 100 << 20) > 1e6);
    td_probe_reader_close(r);
    // Too little: a sentence, no reader.
    assert_int_equal(td_probe_reader_open(&r, spans + 1, 1, 1, td_isa_native(), &err), TD_EARG);
    assert_null(r);
    assert_non_null(strstr(err.msg, "too few"));
    td_probe_reader_close(NULL);
    free(bytes);
}

static bool never(void)
{
    return false;
}

static void quick_measurement_is_plausible(void **state)
{
    (void)state;
    struct td_probe p;
    struct td_error err = {0};
    assert_int_equal(td_probe_measure(&p, 2, true, td_isa_native(), NULL, &err), TD_OK);
    assert_int_equal(p.one.n_threads, 1);
    assert_int_equal(p.all.n_threads, 2);
    assert_true(p.buffer_bytes >= 256u << 20);
    // Loose enough for an emulator, tight enough for a unit that is wrong by a thousand.
    assert_true(p.one.read_bytes_per_s > 1e7 && p.one.read_bytes_per_s < 1e13);
    assert_true(p.one.int8_ops_per_s > 1e7 && p.one.int8_ops_per_s < 1e14);
    assert_true(p.one.f32_flops_per_s > 1e6 && p.one.f32_flops_per_s < 1e14);
}

static void stops_when_not_wanted(void **state)
{
    (void)state;
    struct td_probe p;
    struct td_error err = {0};
    assert_int_equal(td_probe_measure(&p, 1, true, TD_ISA_GENERIC, never, &err), TD_ECANCEL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(loops_do_their_work),
        cmocka_unit_test(read_loops_see_every_byte),
        cmocka_unit_test(a_reader_goes_over_its_spans),
        cmocka_unit_test(quick_measurement_is_plausible),
        cmocka_unit_test(stops_when_not_wanted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
