// SPDX-License-Identifier: MIT
// Encodes many texts with one tokenizer, for comparison with another program.
//   encode_records MODEL IN OUT   IN: records of a 32-bit flag (1: parse special tokens), a 32-bit
//                                 size and the text; OUT: a 32-bit count and the ids for each
//   encode_records MODEL --time   seconds to open, and to encode a megabyte of several kinds
// Every text must come back from its ids.
#include "base/clock.h"
#include "gguf/gguf.h"
#include "text/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int fail(const struct td_error *err)
{
    fprintf(stderr, "encode_records: %s\n", err->msg);
    return 1;
}

static bool comes_back(const struct td_tokenizer *t, const struct td_ids *ids, const char *text,
                       size_t size_bytes)
{
    size_t at = 0;
    for (size_t i = 0; i < ids->n; i++) {
        const struct td_str s = td_token_bytes(t, ids->at[i]);
        if (s.size_bytes > size_bytes - at || memcmp(s.at, text + at, s.size_bytes) != 0)
            return false;
        at += s.size_bytes;
    }
    return at == size_bytes;
}

static int one_record(const struct td_tokenizer *t, FILE *in, FILE *out, const uint32_t head[2])
{
    struct td_error err = {0};
    struct td_ids ids = {0};
    char *text = malloc((size_t)head[1] + 1);
    int rc = 1;
    if (!text || fread(text, 1, head[1], in) != head[1]) {
        fprintf(stderr, "encode_records: the input is cut short\n");
    } else if (td_encode(t, text, head[1], head[0] == 1, &ids, &err)) {
        (void)fail(&err);
    } else if (!comes_back(t, &ids, text, head[1])) {
        fprintf(stderr, "encode_records: a text of %u bytes does not come back\n", head[1]);
    } else {
        const uint32_t n = (uint32_t)ids.n;
        rc = fwrite(&n, 4, 1, out) != 1 || fwrite(ids.at, 4, ids.n, out) != ids.n;
    }
    free(text);
    td_ids_free(&ids);
    return rc;
}

static int all_records(const struct td_tokenizer *t, const char *in_path, const char *out_path)
{
    FILE *in = fopen(in_path, "rb");
    FILE *out = fopen(out_path, "wb");
    int rc = in && out ? 0 : 1;
    uint32_t head[2];
    while (rc == 0 && fread(head, 4, 2, in) == 2) rc = one_record(t, in, out, head);
    if (in) fclose(in);
    if (out && fclose(out) != 0) rc = 1;
    return rc;
}

static int time_one(const struct td_tokenizer *t, const char *what, const char *text, size_t n)
{
    struct td_ids ids = {0};
    struct td_error err = {0};
    const uint64_t t0 = td_clock_ns();
    const int code = td_encode(t, text, n, false, &ids, &err);
    const double seconds = (double)(td_clock_ns() - t0) * 1e-9;
    if (!code) printf("%-12s %8zu bytes %8zu ids %8.3f s\n", what, n, ids.n, seconds);
    td_ids_free(&ids);
    return code ? fail(&err) : 0;
}

static int time_all(const struct td_tokenizer *t)
{
    static const char *const one[] = {"a", " ", "7", "A", "\n", "\xE4\xB8\xAD", "\xFF", "!", "'"};
    const size_t n = 1 << 20;
    char *text = malloc(n);
    if (!text) return 1;
    int rc = 0;
    for (size_t k = 0; rc == 0 && k < sizeof(one) / sizeof(one[0]); k++) {
        const size_t step = strlen(one[k]);
        for (size_t i = 0; i < n; i++) text[i] = one[k][i % step];
        rc = time_one(t, k == 4 ? "newline" : one[k], text, n - n % step);
    }
    uint32_t x = 1; // a linear congruential generator: any letters will do
    for (size_t i = 0; i < n; i++) {
        x = x * 1664525u + 1013904223u;
        text[i] = (char)('a' + (x >> 16) % 26);
    }
    if (rc == 0) rc = time_one(t, "letters", text, n);
    for (size_t i = 0; i < n; i++) {
        x = x * 1664525u + 1013904223u;
        if ((x >> 16) % 6 == 0) text[i] = ' ';
    }
    if (rc == 0) rc = time_one(t, "words", text, n);
    free(text);
    return rc;
}

int main(int argc, char **argv)
{
    if (argc != 4 && !(argc == 3 && strcmp(argv[2], "--time") == 0)) {
        fprintf(stderr, "usage: encode_records MODEL IN OUT | MODEL --time\n");
        return 2;
    }
    struct td_error err = {0};
    struct td_gguf *g = NULL;
    struct td_tokenizer *t = NULL;
    const uint64_t t0 = td_clock_ns();
    int code = td_gguf_open(&g, argv[1], &err);
    const uint64_t t1 = td_clock_ns();
    if (!code) code = td_tokenizer_open(&t, g, &err);
    const uint64_t t2 = td_clock_ns();
    int rc = code ? fail(&err) : argc == 4 ? all_records(t, argv[2], argv[3]) : time_all(t);
    if (!code)
        printf("opened in %.1f ms (file) + %.1f ms (tokenizer)\n", (double)(t1 - t0) * 1e-6,
               (double)(t2 - t1) * 1e-6);
    td_tokenizer_close(t);
    td_gguf_close(g);
    return rc;
}
