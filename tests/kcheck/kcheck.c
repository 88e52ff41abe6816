// SPDX-License-Identifier: MIT
// kcheck --isa NAME [--short] [--seed N] [--slot NAME] [--bench]
//
// Compares each slot of an instruction set with generic/ on random shapes and data, bit for bit:
// no slot has a tolerance. Exit 0 same, 1 different, 77 when this machine cannot run the set.
#define _DEFAULT_SOURCE // MAP_ANONYMOUS
#include "kcheck.h"

#include "kernels/avx512/avx512.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define CANARY 0xa5
#define PAGE   (size_t)65536 // a multiple of every page size in use

static uint8_t *guard_room(struct guard *g, size_t n_bytes)
{
    if (n_bytes > g->size_bytes || !g->map) {
        guard_free(g);
        g->size_bytes = (n_bytes + PAGE) / PAGE * PAGE;
        g->map =
            mmap(NULL, g->size_bytes + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (g->map == MAP_FAILED ||
            mprotect(g->map + PAGE, g->size_bytes, PROT_READ | PROT_WRITE) != 0) {
            perror("kcheck: mmap");
            exit(2);
        }
    }
    memset(g->map + PAGE, CANARY, g->size_bytes);
    g->n_bytes = n_bytes;
    return g->map + PAGE;
}

void *guard_end(struct guard *g, size_t n_bytes)
{
    g->p = guard_room(g, n_bytes) + g->size_bytes - n_bytes;
    return g->p;
}

void *guard_get(struct guard *g, struct kc *kc, size_t n_bytes)
{
    if (kc_below(kc, 3) > 0) return guard_end(g, n_bytes);
    g->p = guard_room(g, n_bytes);
    return g->p;
}

bool guard_intact(const struct guard *g)
{
    for (const uint8_t *p = g->map + PAGE; p < g->map + PAGE + g->size_bytes; p++) {
        if (p == g->p) p += g->n_bytes;
        if (p < g->map + PAGE + g->size_bytes && *p != CANARY) return false;
    }
    return true;
}

void guard_free(struct guard *g)
{
    if (g->map) munmap(g->map, g->size_bytes + 2 * PAGE);
    *g = (struct guard){0};
}

bool kc_wants(const struct kc *kc, const char *slot)
{
    return !kc->slot || strcmp(kc->slot, slot) == 0;
}

bool kc_expect(struct kc *kc, bool ok, const char *fmt, ...)
{
    kc->n_checks++;
    if (ok) return true;
    if (kc->n_failed++ < 20) {
        va_list args;
        va_start(args, fmt);
        printf("FAILED ");
        vprintf(fmt, args);
        printf("\n");
        va_end(args);
    }
    return false;
}

uint32_t kc_differs(const float *a, const float *b, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        if (td_bits_of_f32(a[i]) != td_bits_of_f32(b[i]) && (a[i] == a[i] || b[i] == b[i])) {
            return i;
        }
    }
    return n;
}

uint32_t kc_below(struct kc *kc, uint32_t n)
{
    return (uint32_t)((td_rng_u64(&kc->rng) >> 32) * n >> 32);
}

void kc_fill_f32(struct kc *kc, float *x, uint32_t n)
{
    const uint32_t kind = kc_below(kc, 10);
    if (kind >= 8) { // all at the end of the 8-bit range, with one sign or with two
        for (uint32_t i = 0; i < n; i++) x[i] = kind == 9 && kc_below(kc, 9) == 0 ? -2.0f : 2.0f;
        return;
    }
    const float size = kind == 6 ? 1e-38f : kind == 7 ? 1e30f : 1.0f;
    for (uint32_t i = 0; i < n; i++) {
        // A sum of three is close enough to a bell; now and then one sticks out.
        const float v = td_rng_f32(&kc->rng) + td_rng_f32(&kc->rng) + td_rng_f32(&kc->rng) - 1.5f;
        x[i] = size * (kc_below(kc, 50) ? v : 20.0f * v);
        if (kind == 5 && kc_below(kc, 2)) x[i] = kc_below(kc, 2) ? 0.0f : -0.0f;
    }
    if (kind == 5) { // whole blocks of zeros
        for (uint32_t i = 0; i + TD_QK <= n; i += TD_QK) {
            if (kc_below(kc, 3) == 0) memset(x + i, 0, TD_QK * sizeof(*x));
        }
    }
}

static uint8_t e8m0(struct kc *kc, bool special)
{
    static const uint8_t odd[] = {0, 1, 2, 127, 254};
    return special ? odd[kc_below(kc, 5)] : (uint8_t)(110 + kc_below(kc, 25));
}

static uint16_t f16(struct kc *kc, bool special)
{
    static const uint16_t odd[] = {0, 0x8000, 1, 0x3ff, 0x400, 0x7bff, 0xfbff};
    return special ? odd[kc_below(kc, 7)] : td_f16_of_f32(td_rng_f32(&kc->rng) * 2.0f - 1.0f);
}

void kc_fill_weights(struct kc *kc, void *w, enum td_type type, uint64_t n, bool special)
{
    uint8_t *p = w;
    const uint64_t n_bytes = td_type_size_bytes(type, n);
    for (uint64_t i = 0; i < n_bytes; i++) p[i] = (uint8_t)(td_rng_u64(&kc->rng) >> 56);
    switch (type) {
    case TD_F32:
        for (uint64_t i = 0; i < n; i++, p += 4) {
            const float f = td_rng_f32(&kc->rng) * 2.0f - 1.0f;
            memcpy(p, &f, sizeof(f));
        }
        break;
    case TD_F16:
    case TD_BF16:
        for (uint64_t i = 0; i < n; i++, p += 2) {
            const uint16_t u =
                type == TD_F16 ? f16(kc, special) : (uint16_t)(kc_below(kc, 0x8000) * 2);
            // A bfloat16 with an exponent that ordinary sums survive.
            const uint16_t h = type == TD_F16 ? u : (uint16_t)((u & 0x80ff) | 0x3e00);
            memcpy(p, &h, sizeof(h));
        }
        break;
    case TD_Q8_0:
        for (uint64_t b = 0; b < n / TD_QK; b++, p += sizeof(struct td_block_q8_0)) {
            const uint16_t d = f16(kc, special && kc_below(kc, 2));
            memcpy(p, &d, sizeof(d));
            if (special) memset(p + 2, kc_below(kc, 2) ? 0x80 : 0x7f, TD_QK);
        }
        break;
    case TD_MXFP4:
        for (uint64_t b = 0; b < n / TD_QK; b++, p += sizeof(struct td_block_mxfp4)) {
            p[0] = e8m0(kc, special);
            if (special && kc_below(kc, 2)) memset(p + 1, kc_below(kc, 2) ? 0xff : 0x77, TD_QK / 2);
        }
        break;
    }
}

static int usage(void)
{
    fprintf(stderr, "usage: kcheck --isa generic|avx2|avx512|neon [--short] [--seed N] "
                    "[--slot NAME] [--bench]\n");
    return 2;
}

int main(int argc, char **argv)
{
    struct kc kc = {.rng = {.state = 1}};
    enum td_isa isa = td_isa_native();
    bool is_bench = false;
    for (int i = 1; i < argc; i++) {
        const bool has_value = i + 1 < argc;
        if (strcmp(argv[i], "--isa") == 0 && has_value) {
            if (!td_isa_parse(argv[++i], &isa)) return usage();
        } else if (strcmp(argv[i], "--short") == 0) {
            kc.is_short = true;
        } else if (strcmp(argv[i], "--seed") == 0 && has_value) {
            kc.rng.state = strtoull(argv[++i], NULL, 0);
        } else if (strcmp(argv[i], "--slot") == 0 && has_value) {
            kc.slot = argv[++i];
        } else if (strcmp(argv[i], "--bench") == 0) {
            is_bench = true;
        } else {
            return usage();
        }
    }
    if (!td_isa_supported(isa)) {
        printf("kcheck: skipped: this machine does not have %s\n", td_isa_name(isa));
        return 77;
    }
    td_kernels_get(&kc.ref, TD_ISA_GENERIC);
    td_kernels_get(&kc.fast, isa);
    if (is_bench) {
        bench(&kc);
        return 0;
    }
    check_mm(&kc);
    check_rows(&kc);
    check_ops(&kc);
    check_attend(&kc);
#if defined(__x86_64__)
    // A CPU that has more than the set asks for would never run this one.
    if (isa == TD_ISA_AVX512 && kc.fast.mm_mxfp4_q8 != td_mm_mxfp4_q8_avx512) {
        kc.fast.mm_mxfp4_q8 = td_mm_mxfp4_q8_avx512;
        if (!kc.slot) kc.slot = "mm_mxfp4_q8";
        if (strcmp(kc.slot, "mm_mxfp4_q8") == 0) check_mm(&kc);
    }
#endif
    printf("kcheck: %s: %u checks, %u failed\n", kc.fast.isa, kc.n_checks, kc.n_failed);
    return kc.n_failed != 0 || kc.n_checks == 0;
}
