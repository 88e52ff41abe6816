// SPDX-License-Identifier: MIT
#include "base/clock.h"

#include <time.h>

uint64_t td_clock_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t); // cannot fail with a valid clock and pointer
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}
