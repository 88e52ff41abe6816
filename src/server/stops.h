// SPDX-License-Identifier: MIT
// Finds the first of several texts in a stream that comes in pieces, and says how much of its end
// might still become one. What it finds does not depend on where the pieces were cut.
#ifndef TD_SERVER_STOPS_H
#define TD_SERVER_STOPS_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// All texts of one request together: more is no stop text but an attack.
#define TD_STOPS_MAX_BYTES (64u << 10)

struct td_stops;
// Copies; empty texts are left out. *out is NULL when nothing is left. Fails: TD_EARG (too long, or
// not at the start of a UTF-8 character), TD_ENOMEM.
int td_stops_open(struct td_stops **out, const char *const *texts, uint32_t n,
                  struct td_error *err) TD_MUST_CHECK;
void td_stops_close(struct td_stops *s);
// Forgets what was fed.
void td_stops_reset(struct td_stops *s);
// Feeds the stream. True when a text is complete (the first to be; the longest of those that end
// at the same byte): *end_out bytes of this piece were looked at, the last *size_out bytes fed are
// the text.
bool td_stops_feed(struct td_stops *s, const char *piece, size_t n, size_t *end_out,
                   size_t *size_out);
// How many of the last bytes fed may be the beginning of a text.
size_t td_stops_held(const struct td_stops *s);

#endif
