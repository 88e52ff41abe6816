// SPDX-License-Identifier: MIT
#include "app/npy.h"

#include "app/app.h"
#include "base/bytes.h"
#include "base/num.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

int td_npy_begin(FILE *out, uint32_t n_rows, uint32_t n_cols, struct td_error *err)
{
    // Magic, version, length and text are a multiple of 64 bytes together, the text ends in '\n'.
    enum { PREFIX = 10, TOTAL = 128 };
    uint8_t header[TOTAL];
    memset(header, ' ', sizeof(header));
    static const uint8_t magic[] = {0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0};
    memcpy(header, magic, sizeof(magic));
    header[8] = (TOTAL - PREFIX) & 0xff;
    header[9] = (TOTAL - PREFIX) >> 8;
    const int n =
        snprintf((char *)header + PREFIX, TOTAL - PREFIX,
                 "{'descr': '<f4', 'fortran_order': False, 'shape': (%u, %u), }", n_rows, n_cols);
    header[PREFIX + n] = ' '; // over snprintf's NUL
    header[TOTAL - 1] = '\n';
    if (fwrite(header, 1, TOTAL, out) != TOTAL)
        return td_fail(err, TD_EIO, "the .npy header: %s", td_app_why(errno));
    return TD_OK;
}

// The text after 'key': in the header's dictionary, NULL when it is missing.
static const char *value_of(const char *header, const char *key)
{
    char quoted[32];
    snprintf(quoted, sizeof(quoted), "'%s'", key);
    const char *at = strstr(header, quoted);
    if (!at) return NULL;
    at += strlen(quoted);
    at += strspn(at, " ");
    if (*at != ':') return NULL;
    at++;
    return at + strspn(at, " ");
}

// "(40, 2000)" or "(40, 2000, )".
static bool parse_shape(const char *at, uint64_t *n_rows, uint64_t *n_cols)
{
    uint64_t dim[2];
    if (!at || *at++ != '(') return false;
    for (int i = 0; i < 2; i++) {
        at += strspn(at, " ");
        if (!isdigit((unsigned char)*at)) return false;
        char *end = NULL;
        errno = 0;
        dim[i] = strtoull(at, &end, 10);
        if (errno != 0) return false;
        at = end + strspn(end, " ");
        if (i == 0 && *at++ != ',') return false;
    }
    if (*at == ',') at += 1 + strspn(at + 1, " ");
    if (*at != ')') return false;
    *n_rows = dim[0];
    *n_cols = dim[1];
    return true;
}

int td_npy_open(struct td_npy *out, const char *path, struct td_error *err)
{
    *out = (struct td_npy){0};
    struct td_npy npy = {0};
    int code = td_os_map_file(&npy.map, path, err);
    if (code != TD_OK) return code;

    struct td_bytes in = td_bytes_of(npy.map.bytes, npy.map.size_bytes);
    const uint8_t *magic = td_bytes_take(&in, 6);
    const uint8_t major = td_bytes_u8(&in);
    (void)td_bytes_u8(&in);
    const uint32_t len = major == 1 ? td_bytes_u16le(&in) : td_bytes_u32le(&in);
    const uint8_t *text = td_bytes_take(&in, len);
    char header[1024];
    if (in.short_read || memcmp(magic, "\x93NUMPY", 6) != 0 || major < 1 || major > 3 ||
        len >= sizeof(header)) {
        code = td_fail(err, TD_EFORMAT, "%.160s: not a .npy file", path);
        goto fail;
    }
    memcpy(header, text, len);
    header[len] = '\0';
    const char *descr = value_of(header, "descr");
    const char *order = value_of(header, "fortran_order");
    uint64_t n, size_bytes;
    if (!descr || strncmp(descr, "'<f4'", 5) != 0) {
        code = td_fail(err, TD_EFORMAT, "%.160s: the numbers are not float32 ('<f4')", path);
        goto fail;
    }
    if (!order || strncmp(order, "False", 5) != 0) {
        code = td_fail(err, TD_EFORMAT, "%.160s: the array is not in C order", path);
        goto fail;
    }
    if (!parse_shape(value_of(header, "shape"), &npy.n_rows, &npy.n_cols)) {
        code = td_fail(err, TD_EFORMAT, "%.160s: the array has not two dimensions", path);
        goto fail;
    }
    if (!td_mul_u64(npy.n_rows, npy.n_cols, &n) || !td_mul_u64(n, 4, &size_bytes) ||
        size_bytes != td_bytes_left(&in)) {
        code = td_fail(err, TD_EFORMAT, "%.140s: %llu x %llu numbers are not %zu bytes; truncated?",
                       path, (unsigned long long)npy.n_rows, (unsigned long long)npy.n_cols,
                       td_bytes_left(&in));
        goto fail;
    }
    npy.data = in.at;
    *out = npy;
    return TD_OK;

fail:
    td_npy_close(&npy);
    return code;
}

void td_npy_close(struct td_npy *npy)
{
    td_os_unmap(&npy->map);
    *npy = (struct td_npy){0};
}
