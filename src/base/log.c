// SPDX-License-Identifier: MIT
// The log sink: the one global besides the kernel table, set once by the app.
#include "base/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>

static _Atomic(td_log_sink *) g_sink;

void td_log_set_sink(td_log_sink *sink)
{
    atomic_store_explicit(&g_sink, sink, memory_order_release);
}

void td_log(enum td_log_level level, const char *fmt, ...)
{
    td_log_sink *sink = atomic_load_explicit(&g_sink, memory_order_acquire);
    if (!sink) return;
    char line[512];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(line, sizeof(line), fmt, args);
    va_end(args);
    sink(level, line);
}
