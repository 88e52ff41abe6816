// SPDX-License-Identifier: MIT
// errno as words: strerror_r has two shapes, this file asks for the POSIX one.
#include "relay/why_impl.h"

#include <stdio.h>
#include <string.h>

const char *td_relay_why(int errno_value, char *buf, size_t buf_bytes)
{
    if (strerror_r(errno_value, buf, buf_bytes) != 0)
        (void)snprintf(buf, buf_bytes, "error %d", errno_value);
    return buf;
}
