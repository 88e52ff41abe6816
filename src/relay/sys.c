// SPDX-License-Identifier: MIT
// macOS cannot choose a condition's clock, so its waits are relative; it has no MSG_NOSIGNAL but an
// option of the socket. Neither is visible there unless it is asked for. Written after its manual,
// and not tried on it yet.
#ifdef __APPLE__
#define _DARWIN_C_SOURCE 1
#endif
#include "relay/sys_impl.h"

#include "base/clock.h"

#include <sys/socket.h>
#include <time.h>

static struct timespec timespec_of(uint64_t ns)
{
    return (struct timespec){.tv_sec = (time_t)(ns / 1000000000u),
                             .tv_nsec = (long)(ns % 1000000000u)};
}

uint64_t td_cond_deadline(uint32_t wait_ms)
{
    return td_clock_ns() + (uint64_t)wait_ms * 1000000u;
}

#ifdef __APPLE__

void td_cond_init(pthread_cond_t *cond)
{
    pthread_cond_init(cond, NULL);
}

int td_cond_wait_until(pthread_cond_t *cond, pthread_mutex_t *mutex, uint64_t until_ns)
{
    const uint64_t now_ns = td_clock_ns();
    const struct timespec left = timespec_of(until_ns > now_ns ? until_ns - now_ns : 0);
    return pthread_cond_timedwait_relative_np(cond, mutex, &left);
}

ssize_t td_sys_send(int fd, const void *bytes, size_t n)
{
    return send(fd, bytes, n, 0);
}

void td_sys_no_sigpipe(int fd)
{
    const int on = 1;
    (void)setsockopt(fd, SOL_SOCKET, SO_NOSIGPIPE, &on, sizeof(on));
}

#else

void td_cond_init(pthread_cond_t *cond)
{
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    (void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC); // td_clock_ns's
    pthread_cond_init(cond, &attr);
    pthread_condattr_destroy(&attr);
}

int td_cond_wait_until(pthread_cond_t *cond, pthread_mutex_t *mutex, uint64_t until_ns)
{
    const struct timespec until = timespec_of(until_ns);
    return pthread_cond_timedwait(cond, mutex, &until);
}

ssize_t td_sys_send(int fd, const void *bytes, size_t n)
{
    return send(fd, bytes, n, MSG_NOSIGNAL);
}

void td_sys_no_sigpipe(int fd)
{
    (void)fd;
}

#endif
