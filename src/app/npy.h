// SPDX-License-Identifier: MIT
// NumPy's .npy, as far as logits need it: version 1, little-endian float32, two dimensions, C
// order. Source: numpy.lib.format.
#ifndef TD_APP_NPY_H
#define TD_APP_NPY_H

#include "base/os.h"
#include "base/status.h"

#include <stdint.h>
#include <stdio.h>

// Writes the header of a (n_rows, n_cols) array; the rows follow as they come.
int td_npy_begin(FILE *out, uint32_t n_rows, uint32_t n_cols, struct td_error *err) TD_MUST_CHECK;

struct td_npy {
    struct td_map map;
    uint64_t n_rows, n_cols;
    const uint8_t *data; // (n_rows, n_cols) f32, alignment of 1 byte promised
};
// On failure *out is zeroed. The size of the file is checked against the shape.
int td_npy_open(struct td_npy *out, const char *path, struct td_error *err) TD_MUST_CHECK;
void td_npy_close(struct td_npy *npy);

#endif
