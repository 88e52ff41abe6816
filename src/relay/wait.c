// SPDX-License-Identifier: MIT
#include "relay/wait_impl.h"

#include "base/clock.h"

#include <time.h>

void td_cond_init(pthread_cond_t *cond)
{
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    (void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC); // a clock that every system has
    pthread_cond_init(cond, &attr);
    pthread_condattr_destroy(&attr);
}

int td_cond_wait_until(pthread_cond_t *cond, pthread_mutex_t *mutex, uint64_t until_ns)
{
    const struct timespec until = {.tv_sec = (time_t)(until_ns / 1000000000u),
                                   .tv_nsec = (long)(until_ns % 1000000000u)};
    return pthread_cond_timedwait(cond, mutex, &until);
}

uint64_t td_cond_deadline(uint32_t wait_ms)
{
    return td_clock_ns() + (uint64_t)wait_ms * 1000000u;
}
