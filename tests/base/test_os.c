// SPDX-License-Identifier: MIT
// File maps, address space and the machine's figures.
#include "base/os.h"

#include "base/clock.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static void save(char *path, const void *bytes, size_t n)
{
    const int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, n), n);
    close(fd);
}

static void test_map(void **state)
{
    (void)state;
    char path[] = "/tmp/td_map_XXXXXX";
    save(path, "some bytes", 10);
    struct td_map map;
    struct td_error err = {0};
    if (td_os_map_file(&map, path, &err)) fail_msg("%s", err.msg);
    assert_int_equal(map.size_bytes, 10);
    assert_memory_equal(map.bytes, "some bytes", 10);
    assert_string_equal(td_os_map_path_at(map.bytes), path);
    assert_string_equal(td_os_map_path_at(map.bytes + 9), path);
    assert_null(td_os_map_path_at(map.bytes + 10));
    assert_null(td_os_map_path_at(NULL));

    // The same file twice is two maps; each is forgotten with its own end.
    struct td_map again;
    assert_int_equal(td_os_map_file(&again, path, &err), TD_OK);
    const uint8_t *was = map.bytes;
    td_os_unmap(&map);
    assert_null(map.bytes);
    assert_int_equal(map.size_bytes, 0);
    assert_null(td_os_map_path_at(was));
    assert_string_equal(td_os_map_path_at(again.bytes), path);
    td_os_unmap(&again);
    td_os_unmap(&again); // a zeroed map is fine
    unlink(path);
}

static void expect_refused(const char *path, int code, const char *says)
{
    struct td_map map = {.size_bytes = 7};
    struct td_error err = {0};
    assert_int_equal(td_os_map_file(&map, path, &err), code);
    if (!strstr(err.msg, says) || !strstr(err.msg, path)) fail_msg("'%s'", err.msg);
    assert_null(map.bytes);
    assert_int_equal(map.size_bytes, 0);
}

static void test_map_refused(void **state)
{
    (void)state;
    char path[] = "/tmp/td_map_XXXXXX";
    save(path, "", 0);
    expect_refused(path, TD_EFORMAT, "the file is empty");
    unlink(path);
    expect_refused(path, TD_EIO, "No such file or directory");
    expect_refused("/tmp", TD_EIO, "not a regular file");
    expect_refused("/dev/null", TD_EIO, "not a regular file");
}

// More maps than are remembered still map.
static void test_many_maps(void **state)
{
    (void)state;
    enum { N = 300 };
    char path[] = "/tmp/td_map_XXXXXX";
    save(path, "x", 1);
    static struct td_map maps[N];
    for (int i = 0; i < N; i++) {
        assert_int_equal(td_os_map_file(&maps[i], path, NULL), TD_OK);
        assert_int_equal(maps[i].bytes[0], 'x');
    }
    for (int i = 0; i < N; i++) td_os_unmap(&maps[i]);
    struct td_map map;
    assert_int_equal(td_os_map_file(&map, path, NULL), TD_OK);
    assert_string_equal(td_os_map_path_at(map.bytes), path); // slots came back
    td_os_unmap(&map);
    unlink(path);
}

static void test_reserve(void **state)
{
    (void)state;
    const size_t n = (size_t)1 << 34; // 16 GiB of address space
    uint8_t *p = td_os_reserve(n);
    assert_non_null(p);
    p[0] = 1;
    p[n - 1] = 2;
    assert_int_equal(p[n / 2], 0);
    assert_int_equal(p[0], 1);
    assert_int_equal(p[n - 1], 2);
    td_os_release(p, n);
    td_os_release(NULL, 0);
}

static void test_table(void **state)
{
    (void)state;
    const size_t sizes[] = {1, 4096, (size_t)1 << 20, ((size_t)4 << 20) + 8};
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        uint8_t *p = td_os_alloc_table(sizes[i], 1);
        assert_non_null(p);
        for (size_t k = 0; k < sizes[i]; k++) assert_int_equal(p[k], 0);
        memset(p, 1, sizes[i]);
        free(p); // the next one may get the same memory
    }
    assert_null(td_os_alloc_table(SIZE_MAX / 4, 8));
    assert_null(td_os_alloc_table(SIZE_MAX, 1));
}

static void test_info(void **state)
{
    (void)state;
    struct td_os_info info;
    td_os_info(&info);
    assert_true(info.n_cpus >= 1);
    assert_true(info.memory_bytes > 0);
    assert_true(info.available_bytes <= info.memory_bytes);
    assert_true(info.page_bytes >= 4096 && (info.page_bytes & (info.page_bytes - 1)) == 0);
    assert_true(strlen(info.cpu_name) > 0 && strlen(info.os_name) > 0);
    struct td_os_rss rss;
    td_os_rss(&rss);
    assert_true(rss.now_bytes > 0);
    assert_true(rss.peak_bytes >= rss.file_bytes);
    const uint64_t t = td_clock_ns();
    assert_true(td_clock_ns() >= t);
}

// All that this process has on huge pages without a file.
static uint64_t all_huge_bytes(void)
{
    FILE *f = fopen("/proc/self/smaps_rollup", "r");
    if (!f) return 0;
    char line[256];
    unsigned long long kib = 0;
    while (fgets(line, sizeof(line), f))
        if (strncmp(line, "AnonHugePages:", 14) == 0) kib = strtoull(line + 14, NULL, 10);
    fclose(f);
    return kib * 1024;
}

// Whether huge pages are given is the system's choice; that they are counted, and only those of
// this map, is ours.
static void test_huge(void **state)
{
    (void)state;
    const size_t huge = (size_t)2 << 20, n = 8 * huge;
    const uint64_t before = all_huge_bytes();
    uint8_t *p = td_os_reserve(n);
    assert_non_null(p);
    assert_int_equal(td_os_huge_bytes(p), 0); // nothing was touched
    td_os_want_huge(p, n);
    memset(p, 1, n);
    const uint64_t got = td_os_huge_bytes(p);
    assert_true(got % huge == 0);
    assert_int_equal(got, all_huge_bytes() - before);
    assert_int_equal(td_os_huge_bytes(p + n - 1), got);
    td_os_release(p, n);
    assert_int_equal(td_os_huge_bytes(p), 0); // no map any more
    assert_int_equal(td_os_huge_bytes(NULL), 0);

    // A map of a file: less than a huge page can be on none, and a large one on its own only.
    char path[] = "/tmp/td_huge_XXXXXX";
    save(path, "some bytes", 10);
    struct td_map map;
    assert_int_equal(td_os_map_file(&map, path, NULL), TD_OK);
    assert_int_equal(map.bytes[0], 's');
    assert_int_equal(td_os_huge_bytes(map.bytes), 0);
    td_os_unmap(&map);
    assert_int_equal(truncate(path, (off_t)n), 0);
    assert_int_equal(td_os_map_file(&map, path, NULL), TD_OK);
    uint64_t sum = 0;
    for (size_t i = 0; i < n; i += 4096) sum += map.bytes[i];
    assert_int_equal(sum, 's');
    assert_true(td_os_huge_bytes(map.bytes) <= n);
    assert_true(td_os_huge_bytes(map.bytes) % huge == 0);
    td_os_unmap(&map);
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_map),     cmocka_unit_test(test_map_refused),
        cmocka_unit_test(test_reserve), cmocka_unit_test(test_many_maps),
        cmocka_unit_test(test_info),    cmocka_unit_test(test_table),
        cmocka_unit_test(test_huge),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
