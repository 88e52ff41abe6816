// SPDX-License-Identifier: MIT
// The error sentence: formatted once, bounded, without newline.
#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>

int td_fail(struct td_error *err, int code, const char *fmt, ...)
{
    if (!err) return code;
    err->code = code;
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(err->msg, sizeof(err->msg), fmt, args);
    va_end(args);
    return code;
}
