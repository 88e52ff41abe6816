// SPDX-License-Identifier: MIT
// make_vectors MODEL.gguf N_TOKENS MIN_GAP OUT: writes OUT.tokens.txt and OUT.logits.npy. Tokens
// are drawn at random, but only those whose router gap is at least MIN_GAP in every layer: rounding
// then cannot flip a route, and an engine's noise shows as noise.
#include "base/num.h"
#include "reference/ref_gptoss.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool choose_tokens(const struct ref_gptoss *ref, int32_t *tokens, uint32_t n, double min_gap,
                          double *logits)
{
    const uint32_t n_layers = ref_gptoss_n_layers(ref);
    double *gaps = calloc((size_t)n * n_layers, sizeof(*gaps));
    const struct ref_options opt = {.gaps_out = gaps};
    struct td_rng r = {42};
    // Later tokens do not change earlier ones: choose one after the other.
    uint32_t t = 0;
    for (uint32_t n_tries = 0; gaps && t < n && n_tries < 100 * n; n_tries++) {
        tokens[t] = (int32_t)(td_rng_u64(&r) % ref_gptoss_n_vocab(ref));
        ref_gptoss_logits(ref, tokens, t + 1, &opt, logits);
        bool wide = true;
        for (uint32_t il = 0; il < n_layers; il++) wide &= gaps[t * n_layers + il] >= min_gap;
        t += wide;
    }
    free(gaps);
    return t == n;
}

static bool write_npy(const char *path, const double *logits, uint32_t n_rows, uint32_t n_cols)
{
    FILE *f = fopen(path, "wb");
    if (!f) return false;
    char header[118];
    memset(header, ' ', sizeof(header));
    const int n =
        snprintf(header, sizeof(header),
                 "{'descr': '<f4', 'fortran_order': False, 'shape': (%u, %u), }", n_rows, n_cols);
    header[n] = ' ';
    header[sizeof(header) - 1] = '\n';
    fwrite("\x93NUMPY\x01\x00\x76\x00", 1, 10, f); // 118 bytes follow: data starts at 128
    fwrite(header, 1, sizeof(header), f);
    for (size_t i = 0; i < (size_t)n_rows * n_cols; i++) {
        const float v = (float)logits[i];
        fwrite(&v, sizeof(v), 1, f);
    }
    return fclose(f) == 0;
}

int main(int argc, char **argv)
{
    if (argc != 5) {
        fprintf(stderr, "make_vectors MODEL.gguf N_TOKENS MIN_GAP OUT\n");
        return 2;
    }
    struct td_error err = {0};
    struct td_gguf *g = NULL;
    if (td_gguf_open(&g, argv[1], &err) != TD_OK) {
        fprintf(stderr, "%s\n", err.msg);
        return 1;
    }
    struct ref_gptoss *ref = ref_gptoss_open(g);
    const uint32_t n = (uint32_t)strtoul(argv[2], NULL, 10);
    if (!ref || n == 0) return 1;
    const uint32_t n_vocab = ref_gptoss_n_vocab(ref);
    bool ok = false;
    int32_t *tokens = calloc(n, sizeof(*tokens));
    double *logits = calloc((size_t)n * n_vocab, sizeof(*logits));
    if (!tokens || !logits) goto fail;
    if (!choose_tokens(ref, tokens, n, strtod(argv[3], NULL), logits)) {
        fprintf(stderr, "no such tokens: try a smaller gap\n");
        goto fail;
    }
    ref_gptoss_logits(ref, tokens, n, NULL, logits);
    char path[512];
    snprintf(path, sizeof(path), "%s.tokens.txt", argv[4]);
    FILE *f = fopen(path, "w");
    if (!f) goto fail;
    for (uint32_t i = 0; i < n; i++) fprintf(f, "%d%c", tokens[i], i + 1 < n ? ' ' : '\n');
    fclose(f);
    snprintf(path, sizeof(path), "%s.logits.npy", argv[4]);
    ok = write_npy(path, logits, n, n_vocab);
fail:
    free(tokens);
    free(logits);
    ref_gptoss_close(ref);
    td_gguf_close(g);
    return ok ? 0 : 1;
}
