// SPDX-License-Identifier: MIT
// Conversions of rows: quantisation, weights to f32, f16 both ways.
#include "kcheck.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MAX_N 4096

static uint32_t length(struct kc *kc, int i, uint32_t block)
{
    const uint32_t n = i < 70 ? (uint32_t)i + 1 : 1 + kc_below(kc, MAX_N / TD_QK);
    return block == 1 && i % 2 ? n : n * TD_QK;
}

static void quantize(struct kc *kc, int i)
{
    static struct guard gx, gy, gw;
    const uint32_t n = length(kc, i, TD_QK);
    float *x = guard_get(&gx, kc, n * sizeof(float));
    kc_fill_f32(kc, x, n);
    if (i % 5 == 0) x[kc_below(kc, n)] = kc_below(kc, 2) ? NAN : -INFINITY;
    if (i % 5 == 1) x[kc_below(kc, n)] = 3.4e38f;
    if (i % 5 == 2) { // exact ties
        for (uint32_t j = 0; j < n; j++) x[j] = (float)kc_below(kc, 255) * 0.5f - 63.5f;
        x[kc_below(kc, n)] = 127.0f;
    }
    const size_t n_bytes = n + n / TD_QK * 8;
    uint8_t *y = guard_end(&gy, td_q8_row_bytes(n));
    uint8_t *want = guard_end(&gw, td_q8_row_bytes(n));
    kc->ref.quantize_q8(want, x, n);
    kc->fast.quantize_q8(y, x, n);
    kc_expect(kc, memcmp(y, want, n_bytes) == 0, "quantize_q8 n %u: other bytes", n);
    kc_expect(kc, guard_intact(&gy), "quantize_q8 n %u: writes beside y", n);
    int32_t sum = 0;
    for (int j = 0; j < TD_QK; j++) {
        const float d = td_q8_d(want, n)[0];
        const int8_t q = ((const int8_t *)want)[j];
        sum += q;
        if (!(d > 0.0f)) continue;
        kc_expect(kc, fabs((double)x[j] - (double)d * q) <= (double)d * 0.50001,
                  "quantize_q8 %g is not %g * %d", (double)x[j], (double)d, q);
    }
    kc_expect(kc, sum == td_q8_s(want, n)[0], "quantize_q8 n %u: wrong sum", n);
}

static void quantize16(struct kc *kc, int i)
{
    static struct guard gx, gy, gw;
    const uint32_t n = length(kc, i, TD_QK);
    float *x = guard_get(&gx, kc, n * sizeof(float));
    kc_fill_f32(kc, x, n);
    if (i % 6 == 0) x[kc_below(kc, n)] = kc_below(kc, 2) ? NAN : -INFINITY;
    if (i % 6 == 1) x[kc_below(kc, n)] = 3.4e38f;
    if (i % 6 == 2) { // exact ties
        for (uint32_t j = 0; j < n; j++) x[j] = (float)kc_below(kc, 65535) * 0.5f - 16383.5f;
        x[kc_below(kc, n)] = 32767.0f;
    }
    if (i % 6 == 3) { // about as small as a block may be before it counts as zeros
        for (uint32_t j = 0; j < n; j++) x[j] = (td_rng_f32(&kc->rng) - 0.5f) * 0x1.01p-96f;
    }
    const size_t n_bytes = 2 * n + n / TD_QK * 4;
    uint8_t *y = guard_end(&gy, td_q16_row_bytes(n));
    uint8_t *want = guard_end(&gw, td_q16_row_bytes(n));
    kc->ref.quantize_q16(want, x, n);
    kc->fast.quantize_q16(y, x, n);
    kc_expect(kc, memcmp(y, want, n_bytes) == 0, "quantize_q16 n %u: other bytes", n);
    kc_expect(kc, guard_intact(&gy), "quantize_q16 n %u: writes beside y", n);
    const float d = td_q16_d(want, n)[0];
    for (int j = 0; j < TD_QK && d > 0.0f; j++) {
        const int16_t q = ((const int16_t *)(const void *)want)[j];
        // x * inv is rounded in binary32 before it is rounded to an integer: 2^-24 of 32767 more.
        kc_expect(kc, fabs((double)x[j] - (double)d * q) <= (double)d * 0.51,
                  "quantize_q16 %g is not %g * %d", (double)x[j], (double)d, q);
    }
}

static void to_f32(struct kc *kc, int i, enum td_type type)
{
    static struct guard gw, gy;
    const uint32_t n = length(kc, i, td_type_info(type)->block);
    void *w = guard_get(&gw, kc, (size_t)td_type_size_bytes(type, n));
    kc_fill_weights(kc, w, type, n, i % 4 == 0);
    float *y = guard_end(&gy, n * sizeof(float));
    float *want = calloc(n, sizeof(float));
    if (!want) exit(2);
    kc->ref.row_f32(want, type, w, n);
    kc->fast.row_f32(y, type, w, n);
    const uint32_t at = kc_differs(y, want, n);
    kc_expect(kc, at == n, "row_f32 %s n %u: other bits at %u", td_type_info(type)->name, n, at);
    kc_expect(kc, guard_intact(&gy), "row_f32 %s n %u: writes beside y", td_type_info(type)->name,
              n);
    free(want);
}

// Every one of the 65536, and for the way back each boundary between two of them.
static void halves(struct kc *kc)
{
    uint16_t *h = calloc(65536, sizeof(*h));
    uint16_t *back = calloc(65536, sizeof(*back));
    float *x = calloc(65536, sizeof(*x));
    if (!h || !x || !back) exit(2);
    for (uint32_t i = 0; i < 65536; i++) h[i] = (uint16_t)i;
    kc->fast.f32_of_f16(x, h, 65536);
    uint32_t n_bad = 0;
    for (uint32_t i = 0; i < 65536; i++) {
        n_bad += td_bits_of_f32(x[i]) != td_bits_of_f32(td_f32_of_f16((uint16_t)i));
    }
    kc_expect(kc, n_bad == 0, "f32_of_f16: %u of 65536 differ", n_bad);
    for (uint32_t step = 0; step < 0x2000; step += step < 2 || step > 0x1ffd ? 1 : 0xffd) {
        for (uint32_t i = 0; i < 65536; i++) {
            x[i] = td_f32_of_bits(td_bits_of_f32(td_f32_of_f16((uint16_t)i)) + step);
        }
        kc->fast.f16_of_f32(back, x, 65536);
        n_bad = 0;
        for (uint32_t i = 0; i < 65536; i++) n_bad += back[i] != td_f16_of_f32(x[i]);
        kc_expect(kc, n_bad == 0, "f16_of_f32: %u of 65536 differ at step %u", n_bad, step);
    }
    free(h);
    free(back);
    free(x);
}

static void halves_at_page(struct kc *kc, int i)
{
    static struct guard gx, gh;
    const uint32_t n = length(kc, i, 1);
    float *x = guard_get(&gx, kc, n * sizeof(float));
    kc_fill_f32(kc, x, n);
    uint16_t *h = guard_end(&gh, n * sizeof(uint16_t));
    kc->fast.f16_of_f32(h, x, n);
    uint32_t n_bad = 0;
    for (uint32_t j = 0; j < n; j++) n_bad += h[j] != td_f16_of_f32(x[j]);
    kc_expect(kc, n_bad == 0 && guard_intact(&gh), "f16_of_f32 n %u", n);
    kc->fast.f32_of_f16(x, h, n);
    for (uint32_t j = 0; j < n; j++) {
        n_bad += td_bits_of_f32(x[j]) != td_bits_of_f32(td_f32_of_f16(h[j]));
    }
    kc_expect(kc, n_bad == 0 && guard_intact(&gx), "f32_of_f16 n %u", n);
}

void check_rows(struct kc *kc)
{
    static const enum td_type types[] = {TD_F32, TD_F16, TD_BF16, TD_Q8_0, TD_MXFP4};
    const int n = kc->is_short ? 90 : 400;
    for (int i = 0; i < n; i++) {
        if (kc_wants(kc, "quantize_q8")) quantize(kc, i);
        if (kc_wants(kc, "quantize_q16")) quantize16(kc, i);
        if (kc_wants(kc, "f16")) halves_at_page(kc, i);
        for (int t = 0; t < 5 && kc_wants(kc, "row_f32"); t++) to_f32(kc, i, types[t]);
    }
    if (kc_wants(kc, "f16")) halves(kc);
}
