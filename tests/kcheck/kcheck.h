// SPDX-License-Identifier: MIT
// kcheck: every kernel of an instruction set against generic/, bit for bit. Shared by its files.
#ifndef KCHECK_H
#define KCHECK_H

#include "base/num.h"
#include "kernels/kernels.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct kc {
    struct td_kernels ref;  // generic
    struct td_kernels fast; // what is under test
    struct td_rng rng;
    bool is_short;
    const char *slot; // only this one, or NULL
    unsigned n_checks;
    unsigned n_failed;
};

// Memory that ends (or begins, at random) at an unmapped page, filled with a canary.
struct guard {
    uint8_t *map; // one unmapped page, size_bytes, one unmapped page
    size_t size_bytes;
    uint8_t *p; // what was asked for
    size_t n_bytes;
};
void *guard_get(struct guard *g, struct kc *kc, size_t n_bytes);
// As guard_get, but always up against the page behind.
void *guard_end(struct guard *g, size_t n_bytes);
// Whether nothing beside the n_bytes asked for was written.
bool guard_intact(const struct guard *g);
void guard_free(struct guard *g);

// Whether a check of this slot is wanted.
bool kc_wants(const struct kc *kc, const char *slot);
// Counts a check; prints what failed.
bool kc_expect(struct kc *kc, bool ok, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
// Index of the first float that differs in bits, n if none. Two NaNs are the same.
uint32_t kc_differs(const float *a, const float *b, uint32_t n);
uint32_t kc_below(struct kc *kc, uint32_t n); // uniform in 0 .. n - 1

// Floats of one of several kinds: ordinary, with zeros and denormals, huge.
void kc_fill_f32(struct kc *kc, float *x, uint32_t n);
// Rows of weights of a type, scales sane or (special) at their extremes.
void kc_fill_weights(struct kc *kc, void *w, enum td_type type, uint64_t n, bool special);

enum activations { ACT_F32, ACT_Q8, ACT_Q16 };

struct mm_slot {
    const char *name;
    enum td_type type;
    enum activations act;
    size_t offset;
};
#define N_MM_SLOTS 8
extern const struct mm_slot mm_slots[N_MM_SLOTS];
// Bytes of a row of n activations; the row of f, quantised by generic where the slot wants it.
size_t act_row_bytes(enum activations act, uint32_t n);
void act_fill(const struct kc *kc, enum activations act, void *row, const float *f, uint32_t n);
td_mm_fn *mm_of(const struct td_kernels *k, const struct mm_slot *s);

void check_mm(struct kc *kc);
void check_rows(struct kc *kc);
void check_ops(struct kc *kc);
void check_attend(struct kc *kc);
void bench(struct kc *kc);

#endif
