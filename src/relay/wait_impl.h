// SPDX-License-Identifier: MIT
// Condition variables whose waits end at a time of td_clock_ns: no one sets that clock.
#ifndef TD_RELAY_WAIT_IMPL_H
#define TD_RELAY_WAIT_IMPL_H

#include <pthread.h>
#include <stdint.h>

void td_cond_init(pthread_cond_t *cond);
// Waits until the time: 0 when it was signalled, or for no reason; ETIMEDOUT.
int td_cond_wait_until(pthread_cond_t *cond, pthread_mutex_t *mutex, uint64_t until_ns);
uint64_t td_cond_deadline(uint32_t wait_ms);

#endif
