// SPDX-License-Identifier: MIT
// A machine's speeds as a RATES frame and back. Pure.
#ifndef TD_RELAY_SPEEDS_H
#define TD_RELAY_SPEEDS_H

#include "plan/split.h"
#include "relay/wire.h"

// Fills *out, a RATES frame of this version whose items lie in buffer. A depth at which only one of
// the two is known says 0 for the other; of more than TD_WIRE_MAX_RATES depths the deepest are left
// out, as are speeds beyond what a frame may say.
#define TD_SPEEDS_BYTES ((size_t)TD_WIRE_MAX_RATES * TD_WIRE_RATE_BYTES)
void td_speeds_put(struct td_wire_msg *out, uint8_t buffer[TD_SPEEDS_BYTES], uint8_t version,
                   const struct td_split_rate *prefill, const struct td_split_rate *decode);

// Of a decoded RATES frame.
void td_speeds_get(const struct td_wire_msg *msg, struct td_split_rate *prefill_out,
                   struct td_split_rate *decode_out);

#endif
