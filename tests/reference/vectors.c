// SPDX-License-Identifier: MIT
// Reads test vectors and compares logits. For tests only.
#include "reference/vectors.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char *file_read(const char *path, size_t *size_out)
{
    FILE *f = fopen(path, "rb");
    if (!f) {
        fprintf(stderr, "cannot open %s\n", path);
        return NULL;
    }
    char *text = NULL;
    size_t n = 0, cap = 0;
    for (;;) {
        if (n + 1 >= cap) {
            cap = cap ? cap * 2 : 1 << 16;
            text = realloc(text, cap);
            if (!text) break;
        }
        const size_t got = fread(text + n, 1, cap - n - 1, f);
        if (got == 0) break;
        n += got;
    }
    fclose(f);
    if (text) text[n] = '\0';
    *size_out = n;
    return text;
}

static bool parse_header(struct npy *out, const char *header)
{
    if (!strstr(header, "'<f4'") || strstr(header, "'fortran_order': True")) return false;
    const char *shape = strstr(header, "'shape': (");
    if (!shape) return false;
    char *end;
    const uint64_t a = strtoull(shape + 10, &end, 10);
    if (*end != ',') return false;
    char *end2;
    const uint64_t b = strtoull(end + 1, &end2, 10);
    out->n_rows = end2 == end + 1 ? 1 : a;
    out->n_cols = end2 == end + 1 ? a : b;
    return true;
}

bool npy_read(struct npy *out, const char *path)
{
    *out = (struct npy){0};
    size_t size = 0;
    char *text = file_read(path, &size);
    bool ok = false;
    if (text && size > 10 && memcmp(text, "\x93NUMPY\x01\x00", 8) == 0) {
        const size_t n_header = (uint8_t)text[8] | (size_t)(uint8_t)text[9] << 8;
        char *header = calloc(1, n_header + 1);
        if (header && 10 + n_header <= size) {
            memcpy(header, text + 10, n_header);
            ok = parse_header(out, header) &&
                 size - 10 - n_header == out->n_rows * out->n_cols * sizeof(float);
            if (ok) out->at = malloc(size);
            if (out->at) memcpy(out->at, text + 10 + n_header, size - 10 - n_header);
        }
        free(header);
    }
    if (!ok) fprintf(stderr, "%s is not a .npy file of float32\n", path);
    free(text);
    return ok && out->at;
}

void npy_free(struct npy *a)
{
    free(a->at);
    *a = (struct npy){0};
}

int32_t *tokens_read(const char *path, uint32_t *n_out)
{
    size_t size = 0;
    char *text = file_read(path, &size);
    if (!text) return NULL;
    int32_t *ids = calloc(size / 2 + 1, sizeof(*ids));
    uint32_t n = 0;
    char *at = text, *end;
    while (ids) {
        const long v = strtol(at, &end, 10);
        if (end == at) break;
        ids[n++] = (int32_t)v;
        at = end;
    }
    *n_out = n;
    free(text);
    return ids;
}

static double log_sum_exp(const double *x, uint64_t n, uint64_t *top)
{
    *top = 0;
    for (uint64_t i = 1; i < n; i++)
        if (x[i] > x[*top]) *top = i;
    double sum = 0;
    for (uint64_t i = 0; i < n; i++) sum += exp(x[i] - x[*top]);
    return x[*top] + log(sum);
}

static void compare_row(struct logits_diff *d, const double *a, const double *b, uint64_t n)
{
    uint64_t top_a, top_b;
    const double za = log_sum_exp(a, n, &top_a), zb = log_sum_exp(b, n, &top_b);
    double kl = 0;
    for (uint64_t i = 0; i < n; i++) {
        kl += exp(a[i] - za) * ((a[i] - za) - (b[i] - zb));
        // Written so that a NaN counts as infinitely far.
        if (!(fabs(a[i] - b[i]) <= d->max_abs))
            d->max_abs = isnan(a[i] - b[i]) ? HUGE_VAL : fabs(a[i] - b[i]);
    }
    d->mean_kl += kl;
    if (!(kl <= d->max_kl)) d->max_kl = kl;
    d->n_top1 += top_a == top_b;
}

struct logits_diff logits_compare_f64(const double *reference, const float *ours, uint64_t n_rows,
                                      uint64_t n_cols)
{
    struct logits_diff d = {0};
    double *b = calloc(n_cols, sizeof(*b));
    for (uint64_t r = 0; b && r < n_rows; r++) {
        for (uint64_t i = 0; i < n_cols; i++) b[i] = (double)ours[r * n_cols + i];
        compare_row(&d, reference + r * n_cols, b, n_cols);
    }
    free(b);
    d.mean_kl /= (double)n_rows;
    return d;
}

struct logits_diff logits_compare_f32(const float *reference, const float *ours, uint64_t n_rows,
                                      uint64_t n_cols)
{
    double *a = calloc(n_rows * n_cols, sizeof(*a));
    struct logits_diff d = {.max_abs = HUGE_VAL, .mean_kl = HUGE_VAL};
    if (!a) return d;
    for (uint64_t i = 0; i < n_rows * n_cols; i++) a[i] = (double)reference[i];
    d = logits_compare_f64(a, ours, n_rows, n_cols);
    free(a);
    return d;
}
