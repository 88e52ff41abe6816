// SPDX-License-Identifier: MIT
// The pairing secret: its file is private, never overwritten, and read whole or not at all.
#include "relay/key.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static char folder[64];
static char path[96];

static int make_folder(void **state)
{
    (void)state;
    snprintf(folder, sizeof(folder), "/tmp/tandem-key.XXXXXX");
    if (!mkdtemp(folder)) return -1;
    snprintf(path, sizeof(path), "%s/key", folder);
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    unlink(path);
    return rmdir(folder);
}

static void write_file(const char *text, size_t n, mode_t mode)
{
    unlink(path);
    const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, n), n);
    assert_int_equal(fchmod(fd, mode), 0);
    close(fd);
}

static void refused(int code, const char *sentence)
{
    struct td_error err = {0};
    struct td_key key;
    memset(&key, 0x55, sizeof(key));
    assert_int_equal(td_key_load(&key, path, &err), code);
    if (!strstr(err.msg, sentence)) fail_msg("'%s' does not say '%s'", err.msg, sentence);
    static const struct td_key zero;
    assert_memory_equal(&key, &zero, sizeof(key)); // nothing of a refused key is left
}

static void test_there_and_back(void **state)
{
    (void)state;
    struct td_error err = {0};
    struct td_key a, b, c;
    assert_int_equal(td_key_new(&a, &err), TD_OK);
    assert_int_equal(td_key_new(&b, &err), TD_OK);
    assert_memory_not_equal(&a, &b, sizeof(a));
    unlink(path);
    const mode_t old = umask(0);
    assert_int_equal(td_key_save(&a, path, &err), TD_OK);
    umask(old);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    assert_int_equal(td_key_load(&c, path, &err), TD_OK);
    assert_memory_equal(&a, &c, sizeof(a));
    assert_int_equal(td_key_save(&b, path, &err), TD_EARG);
    assert_non_null(strstr(err.msg, "never overwritten"));
    assert_int_equal(td_key_load(&c, path, &err), TD_OK);
    assert_memory_equal(&a, &c, sizeof(a));
    td_key_wipe(&c);
    static const struct td_key zero;
    assert_memory_equal(&c, &zero, sizeof(c));
    snprintf(path, sizeof(path), "%s/none/key", folder);
    assert_int_equal(td_key_save(&b, path, &err), TD_EIO);
    snprintf(path, sizeof(path), "%s/key", folder);
}

static void test_derived(void **state)
{
    (void)state;
    // HMAC-SHA256 with key 00 01 .. 1f, computed with another implementation.
    struct td_key key;
    for (int i = 0; i < TD_KEY_BYTES; i++) key.secret[i] = (uint8_t)i;
    char fingerprint[TD_KEY_FINGERPRINT];
    td_key_fingerprint(&key, fingerprint);
    assert_string_equal(fingerprint, "b203-e6d2-01ef-ce88");
    static const uint8_t want[8] = {0x5a, 0x3c, 0xe9, 0x51, 0x63, 0x2e, 0x74, 0x9f};
    uint8_t psk[TD_KEY_BYTES];
    assert_int_equal(td_key_psk(&key, psk, NULL), TD_OK);
    assert_memory_equal(psk, want, sizeof(want));
}

static void test_mode(void **state)
{
    (void)state;
    char line[] = "tandem-key-1 00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\n";
    static const mode_t bad[] = {0640, 0620, 0604, 0602, 0610, 0601, 0644, 0666, 0777};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        write_file(line, sizeof(line) - 1, bad[i]);
        refused(TD_EARG, "chmod 600");
    }
    struct td_key key;
    static const mode_t good[] = {0600, 0400, 0700};
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        write_file(line, sizeof(line) - 1, good[i]);
        assert_int_equal(td_key_load(&key, path, NULL), TD_OK);
    }
    // The newline may get lost on the way, nothing else.
    write_file(line, sizeof(line) - 2, 0600);
    assert_int_equal(td_key_load(&key, path, NULL), TD_OK);
    for (size_t n = 0; n < sizeof(line) - 2; n++) {
        write_file(line, n, 0600);
        refused(TD_EFORMAT, "not a tandem key");
    }
    for (size_t i = 0; i < sizeof(line) - 1; i++) {
        const char c = line[i];
        line[i] = 'x'; // neither a digit nor part of the prefix
        write_file(line, sizeof(line) - 1, 0600);
        refused(TD_EFORMAT, "not a tandem key");
        line[i] = c;
    }
    write_file(line, sizeof(line), 0600); // one byte more
    refused(TD_EFORMAT, "not a tandem key");
}

static void test_not_a_file(void **state)
{
    (void)state;
    unlink(path);
    refused(TD_EIO, "No such file");
    assert_int_equal(mkfifo(path, 0600), 0);
    refused(TD_EIO, "not a regular file");
    unlink(path);
    assert_int_equal(mkdir(path, 0700), 0);
    refused(TD_EIO, "not a regular file");
    rmdir(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_there_and_back),
        cmocka_unit_test(test_derived),
        cmocka_unit_test(test_mode),
        cmocka_unit_test(test_not_a_file),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
