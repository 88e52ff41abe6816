// SPDX-License-Identifier: MIT
// rmsnorm, rope, swiglu, sums and td_expf.
#include "kcheck.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

// Inputs a and b and the two results of an operation on n floats.
struct ops_case {
    struct guard a, b, y;
    float *want;
    uint32_t n;
};

static void same(struct kc *kc, const struct ops_case *c, const char *name)
{
    const float *y = (const float *)(const void *)c->y.p;
    const uint32_t at = kc_differs(y, c->want, c->n);
    kc_expect(kc, at == c->n, "%s n %u: [%u] is %.9g, generic %.9g", name, c->n, at,
              at < c->n ? (double)y[at] : 0.0, at < c->n ? (double)c->want[at] : 0.0);
    kc_expect(kc, guard_intact(&c->y), "%s n %u: writes beside y", name, c->n);
}

static void elementwise(struct kc *kc, struct ops_case *c, float *a, float *b)
{
    const uint32_t n = c->n;
    float *y = guard_get(&c->y, kc, n * sizeof(float));
    if (kc_wants(kc, "rmsnorm")) {
        kc->ref.rmsnorm(c->want, a, b, n, 1e-5f);
        kc->fast.rmsnorm(y, a, b, n, 1e-5f);
        same(kc, c, "rmsnorm");
    }
    if (kc_wants(kc, "swiglu_clamped")) {
        const float alpha = kc_below(kc, 8) ? 1.702f : 100.0f;
        kc->ref.swiglu_clamped(c->want, a, b, n, alpha, 7.0f);
        kc->fast.swiglu_clamped(y, a, b, n, alpha, 7.0f);
        same(kc, c, "swiglu_clamped");
    }
    if (kc_wants(kc, "scale")) {
        kc->ref.scale(c->want, a, 0.3f, n);
        kc->fast.scale(y, a, 0.3f, n);
        same(kc, c, "scale");
    }
    if (kc_wants(kc, "add")) {
        memcpy(c->want, b, n * sizeof(float));
        memcpy(y, b, n * sizeof(float));
        kc->ref.add(c->want, a, n);
        kc->fast.add(y, a, n);
        same(kc, c, "add");
    }
    if (kc_wants(kc, "madd")) {
        memcpy(c->want, b, n * sizeof(float));
        memcpy(y, b, n * sizeof(float));
        kc->ref.madd(c->want, a, -0.7f, n);
        kc->fast.madd(y, a, -0.7f, n);
        same(kc, c, "madd");
    }
}

static void rope(struct kc *kc, struct ops_case *c)
{
    const uint32_t half = 1 + kc_below(kc, 70);
    const uint32_t n_heads = 1 + kc_below(kc, 6);
    c->n = n_heads * 2 * half;
    float *cosines = guard_get(&c->a, kc, half * sizeof(float));
    float *sines = guard_get(&c->b, kc, half * sizeof(float));
    float *y = guard_get(&c->y, kc, c->n * sizeof(float));
    kc_fill_f32(kc, cosines, half);
    kc_fill_f32(kc, sines, half);
    kc_fill_f32(kc, c->want, c->n);
    memcpy(y, c->want, c->n * sizeof(float));
    kc->ref.rope(c->want, cosines, sines, n_heads, 2 * half);
    kc->fast.rope(y, cosines, sines, n_heads, 2 * half);
    same(kc, c, "rope");
}

static void expf_is_close(struct kc *kc)
{
    double worst = 0.0;
    for (int i = 0; i < (kc->is_short ? 50000 : 1000000); i++) {
        const float x = (float)(-87.33 + 175.33 * (double)td_rng_f32(&kc->rng));
        const double want = exp((double)x);
        const double ulp = ldexp(1.0, ilogb(want) - 23);
        worst = fmax(worst, fabs((double)td_expf(x) - want) / ulp);
    }
    kc_expect(kc, worst <= 2.0, "td_expf is %.3f ulp off", worst);
    kc_expect(kc, td_expf(-INFINITY) == 0.0f && td_expf(-1000.0f) == 0.0f, "td_expf far below");
    kc_expect(kc, td_expf(0.0f) == 1.0f && td_expf(-0.0f) == 1.0f, "td_expf(0)");
    kc_expect(kc, td_expf(3e38f) == INFINITY, "td_expf far above");
    kc_expect(kc, isnan(td_expf(NAN)), "td_expf(NaN)");
}

void check_ops(struct kc *kc)
{
    struct ops_case c = {.want = calloc(4096, sizeof(float))};
    if (!c.want) exit(2);
    for (int i = 0; i < (kc->is_short ? 100 : 1000); i++) {
        c.n = i < 70 ? (uint32_t)i + 1 : 1 + kc_below(kc, 4096);
        float *a = guard_get(&c.a, kc, c.n * sizeof(float));
        float *b = guard_get(&c.b, kc, c.n * sizeof(float));
        kc_fill_f32(kc, a, c.n);
        kc_fill_f32(kc, b, c.n);
        elementwise(kc, &c, a, b);
        if (kc_wants(kc, "rope")) rope(kc, &c);
    }
    if (kc_wants(kc, "expf")) expf_is_close(kc);
    guard_free(&c.a);
    guard_free(&c.b);
    guard_free(&c.y);
    free(c.want);
}
