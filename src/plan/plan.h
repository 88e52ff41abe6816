// SPDX-License-Identifier: MIT
// Answers: what a machine does with a model, what two do together, and what a balanced machine
// would be. From a calibration (fit.h); pure.
#ifndef TD_PLAN_PLAN_H
#define TD_PLAN_PLAN_H

#include "plan/fit.h"
#include "plan/split.h"

// A request, or batch of them that are alike.
struct td_plan_goal {
    uint32_t prompt_tokens; // >= 1
    uint32_t answer_tokens; // >= 1
    uint32_t batch;         // requests that are answered at the same time, >= 1
    uint32_t depth_tokens;  // of the context before the prompt, already read
    uint32_t chunk_tokens;  // of a prompt, computed at once, >= 1
};

struct td_plan_single {
    bool fits;                                   // into the memory that may be used
    double needed_bytes, usable_bytes;           // weights, KV of all requests, activations
    struct td_plan_answer prefill, decode;       // of one prompt; of all answers at their depths
    double prefill_tokens_per_s;                 // over the whole prompt
    double decode_tokens_per_s;                  // of all answers together
    double first_seconds, first_low, first_high; // until the last request's first token
    double total_seconds, total_low, total_high; // until the last token
    double joule;                                // at the power its maker states; 0: not stated
    struct td_plan_belief belief;                // that all of it comes from
    struct td_split_rate prefill_rate, decode_rate;
};

// One machine alone. The prompts are read one after the other, the answers written together.
void td_plan_single(struct td_plan_single *out, const struct td_plan_fit *fit,
                    const struct td_plan_cost *cost, const struct td_plan_device *device,
                    const struct td_plan_context *context, const struct td_plan_goal *goal);

// Memory that a model and its KV may take: what the system keeps is left out.
double td_plan_usable_bytes(const struct td_plan_device *device);
double td_plan_needed_bytes(const struct td_plan_cost *cost, const struct td_plan_goal *goal);

struct td_plan_link {
    double bytes_per_s, round_trip_seconds;
};

struct td_plan_pair {
    struct td_split split;
    double best_alone_seconds; // of the two
    double gain;               // best alone / together
    struct td_split_ask ask;   // what was asked of td_split
};

// Prefill on reader, decode on writer, for one request (a batch of 1).
void td_plan_pair(struct td_plan_pair *out, const struct td_plan_cost *cost,
                  const struct td_plan_single *reader, const struct td_plan_single *writer,
                  const struct td_plan_link *link, const struct td_plan_goal *goal);

// The shortest prompt from which the first token of a pair comes sooner than from the writer alone;
// 0: none up to 131072 tokens.
uint32_t td_plan_pair_pays_from(const struct td_plan_pair *pair);

// The balance of a workload: docs/GOLDEN-FORMULA.md, "The golden ratio".
struct td_plan_golden {
    double flop, bytes;                 // of a request: what must be multiplied and read
    double reached_flop, reached_bytes; // parts of the nameplate that programs reach
    double steady_ratio;                // FLOP per byte of a nameplate with no bottleneck
    double cheapest_ratio;              // the same for the least price at a latency
    double flop_per_s, bytes_per_s;     // of the cheapest machine that takes seconds for a request
    double seconds;
    double memory_bytes;
    double price_usd;
    double off_by_2, off_by_4; // times the seconds at the same price, when the ratio is off
};
struct td_plan_prices {
    double usd_per_flop_per_s, usd_per_byte_per_s, usd_per_byte;
};
// seconds: what a request may take, from the first to the last token. rates: of a machine whose
// programs are typical.
void td_plan_golden(struct td_plan_golden *out, const struct td_plan_cost *cost,
                    const struct td_plan_goal *goal, const struct td_plan_rates *rates,
                    const struct td_plan_prices *prices, double seconds);

// Seconds to read tokens [depth, depth + n) in chunks.
double td_plan_read_seconds(struct td_plan_parts *parts, const struct td_plan_cost *cost,
                            const struct td_plan_device *device, const struct td_plan_rates *rates,
                            const struct td_plan_goal *goal);

#endif
