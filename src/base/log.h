// SPDX-License-Identifier: MIT
// Lines for people who watch a program run. Silent until the app sets a sink.
#ifndef TD_BASE_LOG_H
#define TD_BASE_LOG_H

#include "base/status.h"

enum td_log_level { TD_LOG_WARN, TD_LOG_INFO, TD_LOG_DEBUG };

typedef void td_log_sink(enum td_log_level level, const char *line);

// Set once, before other threads start; NULL is silence. Never given prompts or KV.
void td_log_set_sink(td_log_sink *sink);

void td_log(enum td_log_level level, const char *fmt, ...) TD_PRINTF(2, 3);

#endif
