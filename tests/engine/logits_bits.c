// SPDX-License-Identifier: MIT
// logits_bits MODEL.gguf TOKENS.txt REFERENCE.npy OUT: holds the engine's logits against the
// reference and writes them, so that those of another machine can be compared byte for byte. Needs
// nothing but libc, so that it cross-builds: make check runs it under qemu for Arm, and for an x86
// without AVX. The fuller test is test_vectors.c.
#include "engine/engine.h"
#include "kernels/kernels.h"
#include "reference/vectors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct run {
    const struct td_model *model;
    const int32_t *tokens;
    uint32_t n;
    float *logits; // (n, n_vocab), of the last eval
};

static int take_rows(void *ctx, uint32_t i0, uint32_t n, const float *logits, struct td_error *err)
{
    (void)err;
    const struct run *r = ctx;
    const size_t n_vocab = r->model->spec.n_vocab;
    memcpy(r->logits + i0 * n_vocab, logits, n * n_vocab * sizeof(float));
    return TD_OK;
}

static int eval(struct run *r, enum td_precision precision, uint32_t chunk, uint32_t n_threads,
                struct td_error *err)
{
    const struct td_engine_config cfg = {.device = {.n_threads = n_threads,
                                                    .precision = precision,
                                                    .max_rows = chunk,
                                                    .max_logits_rows = chunk,
                                                    .isa = -1}};
    struct td_engine *e = NULL;
    struct td_session *s = NULL;
    int code = td_engine_open(&e, r->model, td_backend_cpu(), &cfg, err);
    if (!code) code = td_session_open(&s, e, r->n, err);
    if (!code) code = td_session_eval(s, r->tokens, r->n, take_rows, r, err);
    td_session_close(s);
    td_engine_close(e);
    return code;
}

// All precisions; each in one chunk by one thread, and in small chunks by two.
static bool check(struct run *r, const struct npy *reference, FILE *out)
{
    static const double max_kl[] = {
        [TD_PRECISION_DEFAULT] = 2e-3, [TD_PRECISION_HIGH] = 1e-5, [TD_PRECISION_FINE] = 2e-4};
    const size_t size_bytes = (size_t)r->n * r->model->spec.n_vocab * sizeof(float);
    float *whole = malloc(size_bytes), *parts = malloc(size_bytes);
    bool ok = whole && parts;
    for (int p = 0; ok && p < TD_N_PRECISIONS; p++) {
        struct td_error err = {0};
        r->logits = whole;
        int code = eval(r, (enum td_precision)p, r->n, 1, &err);
        r->logits = parts;
        if (!code) code = eval(r, (enum td_precision)p, 7, 2, &err);
        if (code) {
            fprintf(stderr, "%s\n", err.msg);
            ok = false;
            break;
        }
        const struct logits_diff diff =
            logits_compare_f32(reference->at, whole, r->n, r->model->spec.n_vocab);
        printf("%s, precision %s: KL %.3g, top-1 %d/%u\n", td_isa_name(td_isa_native()),
               td_precision_name((enum td_precision)p), diff.mean_kl, (int)diff.n_top1, r->n);
        const bool is_same = memcmp(whole, parts, size_bytes) == 0;
        if (!is_same) fprintf(stderr, "chunks or threads change the bits\n");
        ok = is_same && diff.mean_kl <= max_kl[p] && diff.n_top1 + 2 >= r->n &&
             fwrite(whole, 1, size_bytes, out) == size_bytes;
    }
    free(whole);
    free(parts);
    return ok;
}

int main(int argc, char **argv)
{
    if (argc != 5) {
        fprintf(stderr, "logits_bits MODEL.gguf TOKENS.txt REFERENCE.npy OUT\n");
        return 2;
    }
    struct td_error err = {0};
    struct td_model *model = NULL;
    struct npy reference = {0};
    if (td_model_open(&model, argv[1], NULL, &err)) {
        fprintf(stderr, "%s\n", err.msg);
        return 1;
    }
    struct run r = {.model = model};
    int32_t *tokens = tokens_read(argv[2], &r.n);
    r.tokens = tokens;
    FILE *out = fopen(argv[4], "wb");
    bool ok = tokens && out && npy_read(&reference, argv[3]) && reference.n_rows == r.n &&
              reference.n_cols == model->spec.n_vocab;
    ok = ok && check(&r, &reference, out);
    if (out) ok = fclose(out) == 0 && ok;
    npy_free(&reference);
    free(tokens);
    td_model_close(model);
    if (!ok) fprintf(stderr, "%s: not what it should be\n", argv[1]);
    return ok ? 0 : 1;
}
