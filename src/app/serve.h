// SPDX-License-Identifier: MIT
// What the files of `tandem serve` share: the log's line for a request.
#ifndef TD_APP_SERVE_H
#define TD_APP_SERVE_H

#include "server/http.h"

#include <stddef.h>
#include <stdint.h>

enum td_log_form { TD_LOG_TEXT, TD_LOG_JSON, TD_LOG_NONE }; // as --log-format lists them

// The line for a finished request, with its newline, into buf; returns its size, 0 when it does not
// fit. unix_ms: when it finished. Nothing in it can begin another line or be taken for a command of
// a terminal, whatever the client sent; what was said is not in it.
size_t td_log_line(char *buf, size_t buf_bytes, enum td_log_form form, uint64_t unix_ms,
                   const struct td_http_record *record);

#endif
