// SPDX-License-Identifier: MIT
// The secret's file and what is derived from it. HMAC-SHA256 with a label for each use keeps the
// uses apart: knowing one result says nothing about another.
#include "relay/key.h"

#include "relay/why_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PREFIX "tandem-key-1 "
enum { N_PREFIX = sizeof(PREFIX) - 1, N_LINE = N_PREFIX + 2 * TD_KEY_BYTES + 1 };

int td_key_new(struct td_key *out, struct td_error *err)
{
    if (RAND_priv_bytes(out->secret, sizeof(out->secret)) == 1) return TD_OK;
    td_key_wipe(out);
    return td_fail(err, TD_EIO, "no random numbers from the operating system");
}

// SHA-256 of 60 bytes: false only without memory for a context.
static bool derive(const struct td_key *key, const char *label, uint8_t out[32])
{
    unsigned n = 0;
    return HMAC(EVP_sha256(), key->secret, sizeof(key->secret), (const unsigned char *)label,
                strlen(label), out, &n) != NULL &&
           n == 32;
}

int td_key_psk(const struct td_key *key, uint8_t out[TD_KEY_BYTES], struct td_error *err)
{
    if (derive(key, "tandem relay psk 1", out)) return TD_OK;
    return td_fail(err, TD_ENOMEM, "no memory to derive the key of TLS");
}

void td_key_fingerprint(const struct td_key *key, char out[TD_KEY_FINGERPRINT])
{
    uint8_t d[32];
    if (!derive(key, "tandem key fingerprint 1", d)) {
        (void)snprintf(out, TD_KEY_FINGERPRINT, "\?\?\?\?-\?\?\?\?-\?\?\?\?-\?\?\?\?");
        return;
    }
    (void)snprintf(out, TD_KEY_FINGERPRINT, "%02x%02x-%02x%02x-%02x%02x-%02x%02x", d[0], d[1], d[2],
                   d[3], d[4], d[5], d[6], d[7]);
    OPENSSL_cleanse(d, sizeof(d));
}

void td_key_wipe(struct td_key *key)
{
    OPENSSL_cleanse(key, sizeof(*key));
}

static bool write_all(int fd, const char *bytes, size_t n)
{
    while (n > 0) {
        const ssize_t wrote = write(fd, bytes, n);
        if (wrote < 0 && errno == EINTR) continue;
        if (wrote <= 0) return false;
        bytes += wrote;
        n -= (size_t)wrote;
    }
    return true;
}

int td_key_save(const struct td_key *key, const char *path, struct td_error *err)
{
    char why[80];
    // O_EXCL also refuses a symbolic link that somebody has put there.
    const int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0 && errno == EEXIST)
        return td_fail(err, TD_EARG, "%.120s is there already; a key is never overwritten", path);
    if (fd < 0)
        return td_fail(err, TD_EIO, "%.120s: %s", path, td_relay_why(errno, why, sizeof(why)));
    static const char digits[] = "0123456789abcdef";
    char line[N_LINE] = PREFIX;
    for (size_t i = 0; i < TD_KEY_BYTES; i++) {
        line[N_PREFIX + 2 * i] = digits[key->secret[i] >> 4];
        line[N_PREFIX + 2 * i + 1] = digits[key->secret[i] & 15];
    }
    line[N_LINE - 1] = '\n';
    bool is_written = write_all(fd, line, sizeof(line)) && fsync(fd) == 0;
    int reason = errno;
    OPENSSL_cleanse(line, sizeof(line));
    if (close(fd) != 0 && is_written) {
        reason = errno;
        is_written = false;
    }
    if (is_written) return TD_OK;
    unlink(path);
    return td_fail(err, TD_EIO, "%.120s: %s", path, td_relay_why(reason, why, sizeof(why)));
}

// The value of a hexadecimal digit, or 16.
static uint8_t hex_value(char c)
{
    if (c >= '0' && c <= '9') return (uint8_t)(c - '0');
    if (c >= 'a' && c <= 'f') return (uint8_t)(c - 'a' + 10);
    return 16;
}

static bool parse(struct td_key *out, const char *line, size_t n)
{
    // The newline may be missing: it gets lost when people copy text.
    if (n != N_LINE && n != N_LINE - 1) return false;
    if (n == N_LINE && line[N_LINE - 1] != '\n') return false;
    if (memcmp(line, PREFIX, N_PREFIX) != 0) return false;
    for (size_t i = 0; i < TD_KEY_BYTES; i++) {
        const uint8_t high = hex_value(line[N_PREFIX + 2 * i]);
        const uint8_t low = hex_value(line[N_PREFIX + 2 * i + 1]);
        if (high > 15 || low > 15) return false;
        out->secret[i] = (uint8_t)(high << 4 | low);
    }
    return true;
}

int td_key_load(struct td_key *out, const char *path, struct td_error *err)
{
    memset(out, 0, sizeof(*out));
    char why[80];
    // O_NONBLOCK: opening a FIFO that nobody writes would wait for ever.
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return td_fail(err, TD_EIO, "%.120s: %s", path, td_relay_why(errno, why, sizeof(why)));
    int code = TD_OK;
    struct stat st;
    char line[N_LINE + 1];
    size_t n = 0;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        code = td_fail(err, TD_EIO, "%.120s: not a regular file", path);
    } else if (st.st_mode & 077) {
        code = td_fail(err, TD_EARG,
                       "%.100s may be read by others than its owner (mode %03o): chmod 600 it, or "
                       "make a new key if somebody has",
                       path, (unsigned)(st.st_mode & 0777));
    } else {
        // One byte more than a key has: a longer file is seen.
        while (n < sizeof(line)) {
            const ssize_t got = read(fd, line + n, sizeof(line) - n);
            if (got < 0 && errno == EINTR) continue;
            if (got <= 0) break;
            n += (size_t)got;
        }
        if (!parse(out, line, n))
            code =
                td_fail(err, TD_EFORMAT, "%.120s is not a tandem key (tandem key new FILE)", path);
    }
    close(fd);
    OPENSSL_cleanse(line, sizeof(line));
    if (code) td_key_wipe(out);
    return code;
}
