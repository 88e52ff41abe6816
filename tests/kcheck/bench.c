// SPDX-License-Identifier: MIT
// How fast each slot is on one thread: best of several, at the shapes of gpt-oss-20b.
#include "kcheck.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

// This thread's own time, so that a busy machine disturbs less.
static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

// Runs STMT until it has taken about 0.1 s, and keeps the fastest of the rounds.
#define BEST_NS(best, STMT)                                                                        \
    do {                                                                                           \
        (best) = UINT64_MAX;                                                                       \
        uint64_t spent = 0;                                                                        \
        for (int round = 0; round < 3 || (spent < 200000000u && round < 2000); round++) {          \
            const uint64_t t0 = now_ns();                                                          \
            STMT;                                                                                  \
            const uint64_t t = now_ns() - t0 + 1;                                                  \
            spent += t;                                                                            \
            if (t < (best)) (best) = t;                                                            \
        }                                                                                          \
    } while (0)

static void *room(size_t n_bytes)
{
    void *p = NULL;
    if (posix_memalign(&p, 64, n_bytes) != 0) exit(2);
    memset(p, 0, n_bytes);
    return p;
}

static void bench_mm(struct kc *kc, const struct mm_slot *s, uint32_t n_out, uint32_t n_rows)
{
    const uint32_t n_in = 2880;
    // Matrices enough that, at one row, the weights come from memory and not from a cache.
    const size_t w_bytes = (size_t)td_type_size_bytes(s->type, (uint64_t)n_in * n_out);
    const uint32_t n_mats = n_rows > 1 ? 1 : (uint32_t)(200000000 / w_bytes) + 1;
    uint8_t *w = room(w_bytes * n_mats);
    kc_fill_weights(kc, w, s->type, (uint64_t)n_in * n_out, false);
    for (uint32_t i = 1; i < n_mats; i++) memcpy(w + i * w_bytes, w, w_bytes);
    const size_t x_bytes = act_row_bytes(s->act, n_in);
    uint8_t *x = room(x_bytes * n_rows);
    float *f = room(n_in * sizeof(float));
    float *out = room((size_t)n_rows * n_out * sizeof(float));
    const void **rows = room(n_rows * sizeof(*rows));
    float **y = room(n_rows * sizeof(*y));
    void *scratch = room(TD_MM_SCRATCH_BYTES);
    for (uint32_t r = 0; r < n_rows; r++) {
        for (uint32_t i = 0; i < n_in; i++) f[i] = td_rng_f32(&kc->rng) - 0.5f;
        rows[r] = x + r * x_bytes;
        y[r] = out + (size_t)r * n_out;
        act_fill(kc, s->act, x + r * x_bytes, f, n_in);
    }
    td_mm_fn *mm = mm_of(&kc->fast, s);
    uint64_t ns;
    uint32_t i_mat = 0;
    BEST_NS(ns, (mm(y, w + i_mat * w_bytes, rows, n_in, n_out, n_rows, scratch),
                 i_mat = (i_mat + 1) % n_mats));
    const double ops = 2.0 * n_in * n_out * n_rows;
    printf("%-14s %5u x %-5u rows %-4u %11llu ns %8.2f GB/s %8.1f GOP/s\n", s->name, n_in, n_out,
           n_rows, (unsigned long long)ns, (double)w_bytes / (double)ns, ops / (double)ns);
    fflush(stdout);
    free(w);
    free(x);
    free(f);
    free(out);
    free(rows);
    free(y);
    free(scratch);
}

static void report(const char *name, uint64_t ns, double n_bytes, double n_ops)
{
    printf("%-24s %11llu ns %8.2f GB/s %8.1f GOP/s\n", name, (unsigned long long)ns,
           n_bytes / (double)ns, n_ops / (double)ns);
}

static void bench_rows(struct kc *kc)
{
    const uint32_t n = 2880;
    float *a = room(n * sizeof(float));
    float *b = room(n * sizeof(float));
    float *y = room(n * sizeof(float));
    uint8_t *w = room(n * sizeof(float));
    uint64_t ns;
    for (uint32_t i = 0; i < n; i++) a[i] = b[i] = td_rng_f32(&kc->rng) - 0.5f;
    BEST_NS(ns, kc->fast.quantize_q8(w, a, n));
    report("quantize_q8", ns, 5.0 * n, n);
    BEST_NS(ns, kc->fast.quantize_q16(w, a, n));
    report("quantize_q16", ns, 6.0 * n, n);
    BEST_NS(ns, kc->fast.rmsnorm(y, a, b, n, 1e-5f));
    report("rmsnorm", ns, 12.0 * n, 4.0 * n);
    BEST_NS(ns, kc->fast.swiglu_clamped(y, a, b, n, 1.702f, 7.0f));
    report("swiglu_clamped", ns, 12.0 * n, 20.0 * n);
    BEST_NS(ns, kc->fast.rope(y, a, b, n / 64, 64));
    report("rope", ns, 8.0 * n, 3.0 * n);
    BEST_NS(ns, kc->fast.add(y, a, n));
    report("add", ns, 12.0 * n, n);
    BEST_NS(ns, kc->fast.madd(y, a, 1e-9f, n));
    report("madd", ns, 12.0 * n, 2.0 * n);
    kc_fill_weights(kc, w, TD_MXFP4, n, false);
    BEST_NS(ns, kc->fast.row_f32(y, TD_MXFP4, w, n));
    report("row_f32 MXFP4", ns, 4.5 * n, n);
    kc_fill_weights(kc, w, TD_Q8_0, n, false);
    BEST_NS(ns, kc->fast.row_f32(y, TD_Q8_0, w, n));
    report("row_f32 Q8_0", ns, 5.0 * n, n);
    free(a);
    free(b);
    free(y);
    free(w);
}

// gpt-oss's 8 query heads of one KV head: a row on its own, or a tile of rows.
static void bench_attend(struct kc *kc, enum td_type type, uint32_t n_rows)
{
    const uint32_t head_dim = 64, n = 8 * n_rows, n_elems = 2 * TD_ATTN_BLOCK * head_dim;
    void *kv = room(n_elems * sizeof(float));
    void *scratch = room(td_attn_scratch_bytes(head_dim));
    float *q = room(n * head_dim * sizeof(float));
    float *state = room(n * (2 + head_dim) * sizeof(float));
    struct td_attn_limits *limits = room(n * sizeof(*limits));
    const struct td_attn a = {n, limits, q, state + 2 * n, state, state + n};
    kc_fill_weights(kc, kv, type, n_elems, false);
    for (uint32_t i = 0; i < n; i++) limits[i].last = TD_ATTN_BLOCK;
    for (uint32_t i = 0; i < n * head_dim; i++) q[i] = td_rng_f32(&kc->rng) - 0.5f;
    td_attend_fn *attend = type == TD_F16 ? kc->fast.attend_f16 : kc->fast.attend_f32;
    uint64_t ns;
    BEST_NS(ns, attend(&a, kv, NULL, head_dim, scratch));
    char name[40];
    snprintf(name, sizeof(name), "attend_%s 8 x 64, %u rows", type == TD_F16 ? "f16" : "f32",
             n_rows);
    report(name, ns, (double)td_type_size_bytes(type, n_elems), 2.0 * n_elems * n);
    free(kv);
    free(scratch);
    free(q);
    free(state);
    free(limits);
}

void bench(struct kc *kc)
{
    static const uint32_t outs[] = {2880, 4096, 512};
    static const uint32_t rows[] = {1, 2, 4, 16, 64, 512};
    for (int s = 0; s < N_MM_SLOTS; s++) {
        if (!kc_wants(kc, mm_slots[s].name)) continue;
        for (int o = 0; o < 3; o++) {
            for (int r = 0; r < 6; r++) {
                if (kc->is_short && (o > 0 || rows[r] > 64)) continue;
                bench_mm(kc, &mm_slots[s], outs[o], rows[r]);
            }
        }
    }
    if (!kc->slot) {
        bench_rows(kc);
        bench_attend(kc, TD_F16, 1);
        bench_attend(kc, TD_F16, 16);
        bench_attend(kc, TD_F32, 16);
    }
}
