// SPDX-License-Identifier: MIT
// Two lists ascending by depth, merged into one.
#include "relay/speeds.h"

#include <math.h>

_Static_assert(TD_SPLIT_MAX_POINTS >= TD_WIRE_MAX_RATES, "a frame's speeds fit");

#define MOST 1e12 // of the wire, in tokens per 1000 s

// The speed in the wire's unit; 0 when it is none.
static uint64_t milli(const struct td_split_point *p)
{
    const double v = p->tokens_per_s * 1000;
    return v >= 1 && v <= MOST ? (uint64_t)v : 0;
}

// The point's depth in tokens, rounded; false when a frame cannot say it.
static bool depth_of(const struct td_split_point *p, uint32_t *out)
{
    if (!(p->depth_tokens >= 0 && p->depth_tokens <= TD_WIRE_MAX_TOKENS)) return false;
    *out = (uint32_t)lround(p->depth_tokens);
    return milli(p) > 0;
}

// The least depth of a rate at or above `from`, and its speed.
static bool next(const struct td_split_rate *rate, uint32_t from, uint32_t *depth, uint64_t *v)
{
    for (uint32_t i = 0; i < rate->n_points; i++) {
        if (!depth_of(&rate->points[i], depth) || *depth < from) continue;
        *v = milli(&rate->points[i]);
        return true;
    }
    return false;
}

void td_speeds_put(struct td_wire_msg *out, uint8_t buffer[TD_SPEEDS_BYTES], uint8_t version,
                   const struct td_split_rate *prefill, const struct td_split_rate *decode)
{
    uint32_t n = 0, from = 0;
    while (n < TD_WIRE_MAX_RATES) {
        uint32_t at_prefill = 0, at_decode = 0;
        uint64_t v_prefill = 0, v_decode = 0;
        const bool has_prefill = next(prefill, from, &at_prefill, &v_prefill);
        const bool has_decode = next(decode, from, &at_decode, &v_decode);
        if (!has_prefill && !has_decode) break;
        uint32_t at = has_prefill ? at_prefill : at_decode;
        if (has_decode && at_decode < at) at = at_decode;
        const struct td_wire_rate rate = {
            .depth_tokens = at,
            .prefill_milli_tok_s = has_prefill && at_prefill == at ? v_prefill : 0,
            .decode_milli_tok_s = has_decode && at_decode == at ? v_decode : 0,
        };
        td_wire_put_rate(buffer + (size_t)n++ * TD_WIRE_RATE_BYTES, &rate);
        from = at + 1;
    }
    *out = (struct td_wire_msg){.h = {.version = version, .type = TD_WIRE_RATES},
                                .items = buffer,
                                .items_bytes = n * TD_WIRE_RATE_BYTES};
}

static void add(struct td_split_rate *rate, uint32_t depth, uint64_t milli_tok_s)
{
    if (milli_tok_s == 0) return;
    rate->points[rate->n_points++] = (struct td_split_point){depth, (double)milli_tok_s / 1000};
}

void td_speeds_get(const struct td_wire_msg *msg, struct td_split_rate *prefill_out,
                   struct td_split_rate *decode_out)
{
    prefill_out->n_points = decode_out->n_points = 0;
    for (uint32_t i = 0; i < msg->items_bytes / TD_WIRE_RATE_BYTES; i++) {
        struct td_wire_rate rate;
        td_wire_rate(msg, i, &rate);
        add(prefill_out, rate.depth_tokens, rate.prefill_milli_tok_s);
        add(decode_out, rate.depth_tokens, rate.decode_milli_tok_s);
    }
}
