// SPDX-License-Identifier: MIT
// Matrix products: the set under test against generic, several rows against one, part of the
// outputs against all, and generic against sums in double.
#include "kcheck.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_ROWS 20

const struct mm_slot mm_slots[N_MM_SLOTS] = {
    {"mm_f32_f32", TD_F32, ACT_F32, offsetof(struct td_kernels, mm_f32_f32)},
    {"mm_f16_f32", TD_F16, ACT_F32, offsetof(struct td_kernels, mm_f16_f32)},
    {"mm_bf16_f32", TD_BF16, ACT_F32, offsetof(struct td_kernels, mm_bf16_f32)},
    {"mm_q8_0_f32", TD_Q8_0, ACT_F32, offsetof(struct td_kernels, mm_q8_0_f32)},
    {"mm_mxfp4_f32", TD_MXFP4, ACT_F32, offsetof(struct td_kernels, mm_mxfp4_f32)},
    {"mm_mxfp4_q8", TD_MXFP4, ACT_Q8, offsetof(struct td_kernels, mm_mxfp4_q8)},
    {"mm_q8_0_q16", TD_Q8_0, ACT_Q16, offsetof(struct td_kernels, mm_q8_0_q16)},
    {"mm_mxfp4_q16", TD_MXFP4, ACT_Q16, offsetof(struct td_kernels, mm_mxfp4_q16)},
};

td_mm_fn *mm_of(const struct td_kernels *k, const struct mm_slot *s)
{
    td_mm_fn *f;
    memcpy(&f, (const char *)k + s->offset, sizeof(f));
    return f;
}

size_t act_row_bytes(enum activations act, uint32_t n)
{
    switch (act) {
    case ACT_F32: return n * sizeof(float);
    case ACT_Q8: return td_q8_row_bytes(n);
    case ACT_Q16: return td_q16_row_bytes(n);
    }
    return 0;
}

void act_fill(const struct kc *kc, enum activations act, void *row, const float *f, uint32_t n)
{
    switch (act) {
    case ACT_F32: memcpy(row, f, n * sizeof(float)); return;
    case ACT_Q8: kc->ref.quantize_q8(row, f, n); return;
    case ACT_Q16: kc->ref.quantize_q16(row, f, n); return;
    }
}

// Element i of a row as the kernel sees it.
static double act_value(enum activations act, const void *row, uint32_t n, uint32_t i)
{
    switch (act) {
    case ACT_F32: return (double)((const float *)row)[i];
    case ACT_Q8: return (double)((const int8_t *)row)[i] * (double)td_q8_d(row, n)[i / TD_QK];
    case ACT_Q16: return (double)((const int16_t *)row)[i] * (double)td_q16_d(row, n)[i / TD_QK];
    }
    return 0.0;
}

// One product and all that its checks need.
struct mm_case {
    const struct mm_slot *slot;
    uint32_t n_in, n_out, n_rows;
    uint32_t stride; // floats from one row of y to the next; what lies between stays as it is
    struct guard w, x, y;
    const uint8_t *weights; // at any address
    const void *rows[MAX_ROWS];
    float *xf; // the activations before quantisation
    float *want;
    void *scratch;
};

static void run(struct mm_case *c, td_mm_fn *mm, float *y0, uint32_t o0, uint32_t o1, uint32_t r0,
                uint32_t r1)
{
    float *y[MAX_ROWS];
    for (uint32_t r = r0; r < r1; r++) y[r - r0] = y0 + (size_t)r * c->stride + o0;
    const size_t row_bytes = (size_t)td_type_size_bytes(c->slot->type, c->n_in);
    mm(y, c->weights + o0 * row_bytes, c->rows + r0, c->n_in, o1 - o0, r1 - r0, c->scratch);
}

static void fill(struct kc *kc, struct mm_case *c, bool special)
{
    const struct mm_slot *s = c->slot;
    const uint64_t n_w = (uint64_t)c->n_in * c->n_out;
    // Rows in a file begin anywhere: now and then leave a few bytes to the page behind.
    const size_t n_bytes = (size_t)td_type_size_bytes(s->type, n_w);
    uint8_t *w = guard_get(&c->w, kc, n_bytes + (kc_below(kc, 3) ? 0 : kc_below(kc, 4)));
    kc_fill_weights(kc, w, s->type, n_w, special);
    c->weights = w;
    const size_t row_bytes = act_row_bytes(s->act, c->n_in);
    uint8_t *x = guard_get(&c->x, kc, row_bytes * c->n_rows);
    for (uint32_t r = 0; r < c->n_rows; r++) {
        float *f = c->xf + (size_t)r * c->n_in;
        // Backwards, so that it is not always the last row that ends at the page.
        uint8_t *row = x + (c->n_rows - 1 - r) * row_bytes;
        kc_fill_f32(kc, f, c->n_in);
        // A block that is no number: all of its products are NaN, and nobody else's.
        if (special && kc_below(kc, 3) == 0) {
            f[kc_below(kc, c->n_in)] = kc_below(kc, 2) ? NAN : -INFINITY;
        }
        act_fill(kc, s->act, row, f, c->n_in);
        c->rows[r] = row;
    }
}

// generic's own results against sums in double of the very numbers it is given.
static void check_double(struct kc *kc, const struct mm_case *c)
{
    float *w = calloc(c->n_in, sizeof(*w));
    const size_t row_bytes = (size_t)td_type_size_bytes(c->slot->type, c->n_in);
    for (uint32_t o = 0; w && o < c->n_out; o++) {
        kc->ref.row_f32(w, c->slot->type, c->weights + o * row_bytes, c->n_in);
        for (uint32_t r = 0; r < c->n_rows; r++) {
            double sum = 0.0, size = 0.0;
            for (uint32_t i = 0; i < c->n_in; i++) {
                const double x = act_value(c->slot->act, c->rows[r], c->n_in, i);
                sum += (double)w[i] * x;
                size += fabs((double)w[i] * x);
            }
            const double got = (double)c->want[(size_t)r * c->stride + o];
            const double ulps = 8 + c->n_in / 32;
            kc_expect(kc, !(fabs(got - sum) > size * ulps * 0x1p-24 + 1e-36),
                      "%s n_in %u: %.9g, in double %.9g", c->slot->name, c->n_in, got, sum);
        }
    }
    free(w);
}

static void one(struct kc *kc, struct mm_case *c, bool special)
{
    const uint32_t n_out = c->n_out;
    fill(kc, c, special);
    c->stride = n_out + kc_below(kc, 4);
    const size_t n_y = (size_t)(c->n_rows - 1) * c->stride + n_out;
    c->want = calloc(n_y, sizeof(float));
    float *y = guard_end(&c->y, n_y * sizeof(float));
    if (!c->want) exit(2);
    memcpy(c->want, y, n_y * sizeof(float));
    run(c, mm_of(&kc->ref, c->slot), c->want, 0, n_out, 0, c->n_rows);
    td_mm_fn *mm = mm_of(&kc->fast, c->slot);
    run(c, mm, y, 0, n_out, 0, c->n_rows);
    uint32_t at = kc_differs(y, c->want, (uint32_t)n_y);
    kc_expect(kc, at == n_y, "%s n_in %u n_out %u n_rows %u: row %u out %u: %.9g, generic %.9g",
              c->slot->name, c->n_in, n_out, c->n_rows, at / c->stride, at % c->stride,
              at < n_y ? (double)y[at] : 0.0, at < n_y ? (double)c->want[at] : 0.0);
    kc_expect(kc, guard_intact(&c->y), "%s n_in %u n_out %u n_rows %u: writes beside y",
              c->slot->name, c->n_in, n_out, c->n_rows);

    memset(y, 0xa5, n_y * sizeof(float));
    for (uint32_t r = 0; r < c->n_rows; r++) run(c, mm, y, 0, n_out, r, r + 1);
    at = kc_differs(y, c->want, (uint32_t)n_y);
    kc_expect(kc, at == n_y, "%s n_in %u n_out %u: one row gives other bits than %u rows",
              c->slot->name, c->n_in, n_out, c->n_rows);

    memset(y, 0xa5, n_y * sizeof(float));
    const uint32_t cut = kc_below(kc, n_out + 1);
    run(c, mm, y, 0, cut, 0, c->n_rows);
    run(c, mm, y, cut, n_out, 0, c->n_rows);
    at = kc_differs(y, c->want, (uint32_t)n_y);
    kc_expect(kc, at == n_y, "%s n_in %u n_out %u n_rows %u: other bits when cut at output %u",
              c->slot->name, c->n_in, n_out, c->n_rows, cut);
    if (strcmp(kc->fast.isa, "generic") == 0 && !special) check_double(kc, c);
    free(c->want);
    c->want = NULL;
}

static void slot(struct kc *kc, const struct mm_slot *s)
{
    const uint32_t max_in = 16384 + 4096;
    struct mm_case c = {.slot = s};
    c.xf = calloc((size_t)MAX_ROWS * max_in, sizeof(float));
    if (!c.xf || posix_memalign(&c.scratch, 64, TD_MM_SCRATCH_BYTES) != 0) exit(2);
    const uint32_t block = td_type_info(s->type)->block;
    // Every number of blocks up to 70, then a few long rows; many outputs seldom, many rows often.
    for (uint32_t n_blocks = 1; n_blocks <= 70;
         n_blocks += kc->is_short ? 1 + kc_below(kc, 6) : 1) {
        for (int i = 0; i < (kc->is_short ? 1 : 6); i++) {
            c.n_in = block == 1 && kc_below(kc, 2) ? n_blocks : n_blocks * TD_QK;
            c.n_out = 1 + kc_below(kc, kc_below(kc, 3) ? 20 : 70);
            c.n_rows = 1 + kc_below(kc, MAX_ROWS);
            one(kc, &c, kc_below(kc, 5) == 0);
        }
    }
    for (int i = 0; i < (kc->is_short ? 2 : 20); i++) {
        c.n_in = TD_QK * (71 + kc_below(kc, 58));
        c.n_out = 1 + kc_below(kc, 20);
        c.n_rows = 1 + kc_below(kc, kc->is_short ? 4 : MAX_ROWS);
        one(kc, &c, false);
    }
    for (int i = 0; i < (kc->is_short ? 1 : 6); i++) { // longer than a panel in scratch
        c.n_in = i % 2 ? max_in : 16384;
        c.n_out = 17 + kc_below(kc, 2);
        c.n_rows = kc->is_short ? 4 : 4 + kc_below(kc, MAX_ROWS - 4);
        one(kc, &c, false);
    }
    guard_free(&c.w);
    guard_free(&c.x);
    guard_free(&c.y);
    free(c.xf);
    free(c.scratch);
}

void check_mm(struct kc *kc)
{
    for (int i = 0; i < N_MM_SLOTS; i++) {
        if (kc_wants(kc, mm_slots[i].name)) slot(kc, &mm_slots[i]);
    }
}
