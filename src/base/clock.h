// SPDX-License-Identifier: MIT
// Monotonic time.
#ifndef TD_BASE_CLOCK_H
#define TD_BASE_CLOCK_H

#include <stdint.h>

// Nanoseconds since an arbitrary point; never goes back. Any thread.
uint64_t td_clock_ns(void);

#endif
