// SPDX-License-Identifier: MIT
// How many rows of prompts may ride in a step, so that the answers being written do not pause for
// long: learns how long a step takes by its rows. Pure: no clock, no engine.
#ifndef TD_SERVER_SCHED_PACE_H
#define TD_SERVER_SCHED_PACE_H

#include <stdint.h>

// Steps of 1, 2-3, 4-7 ... rows.
#define TD_PACER_BUCKETS 16

struct td_pacer {
    double max_seconds; // aimed at for a step that answers ride in
    uint32_t max_rows;  // the device's
    struct {
        double rows, seconds; // smoothed; rows 0: not seen yet
    } buckets[TD_PACER_BUCKETS];
    double excess; // of what steps took over what was expected, relative, smoothed
};

void td_pacer_init(struct td_pacer *p, uint32_t max_rows, double max_seconds);
// A step of so many rows took so long.
void td_pacer_saw(struct td_pacer *p, uint32_t rows, double seconds);
// What a step of so many rows is expected to take; 0: nothing is known.
double td_pacer_expect(const struct td_pacer *p, uint32_t rows);
// Rows of prompts for the next step, with n_single rows of answers in it; at least 1.
uint32_t td_pacer_rows(const struct td_pacer *p, uint32_t n_single);

#endif
