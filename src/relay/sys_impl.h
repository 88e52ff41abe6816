// SPDX-License-Identifier: MIT
// Where systems differ: waits that end at a time of td_clock_ns, which no one sets, and sockets
// whose other end has gone. All else in this folder is POSIX and OpenSSL.
#ifndef TD_RELAY_SYS_IMPL_H
#define TD_RELAY_SYS_IMPL_H

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

void td_cond_init(pthread_cond_t *cond);
// Waits until the time: 0 when it was signalled, or for no reason; ETIMEDOUT.
int td_cond_wait_until(pthread_cond_t *cond, pthread_mutex_t *mutex, uint64_t until_ns);
uint64_t td_cond_deadline(uint32_t wait_ms);

// send(2) that fails with EPIPE and raises no SIGPIPE. Where that is a matter of the socket, it
// must have been said of it before.
ssize_t td_sys_send(int fd, const void *bytes, size_t n);
void td_sys_no_sigpipe(int fd);

#endif
