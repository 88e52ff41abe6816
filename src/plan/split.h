// SPDX-License-Identifier: MIT
// One request, two machines and a link: is it faster to read the prompt here, there, or to run all
// of it there? Numbers in, numbers out; no I/O, no clock, no state. The one formula for this
// question: the policy of a running relay and the offline planner both call it.
#ifndef TD_PLAN_SPLIT_H
#define TD_PLAN_SPLIT_H

#include <stdbool.h>
#include <stdint.h>

#define TD_SPLIT_MAX_POINTS 32
#define TD_SPLIT_MAX_GROUPS 8

// A machine's speed at a depth of context.
struct td_split_point {
    double depth_tokens;
    double tokens_per_s;
};

// Speed by depth, ascending. Between points seconds per token are interpolated, as attention makes
// them grow with depth; beyond the last they go on with the last slope, but never fall. No point:
// not known.
struct td_split_rate {
    struct td_split_point points[TD_SPLIT_MAX_POINTS];
    uint32_t n_points;
};

// Layers that keep their KV alike.
struct td_split_group {
    uint32_t n_layers;
    uint32_t window_tokens;       // a token sees itself and window - 1 before it; 0: all before it
    double bytes_per_token_layer; // on the wire, K and V
};

enum td_split_stream {
    TD_SPLIT_BY_LAYER, // a layer's KV of a chunk travels while later layers compute
    TD_SPLIT_AT_END,   // all of it after the last chunk
};

struct td_split_machine {
    struct td_split_rate prefill;
    struct td_split_rate decode;
    uint32_t n_cached_tokens; // of this prompt, from its start; less than n_prompt_tokens
    double wait_seconds;      // before it begins: others are served first
};

struct td_split_ask {
    struct td_split_machine here;  // decodes
    struct td_split_machine there; // could prefill
    uint32_t n_prompt_tokens;      // >= 1
    uint32_t n_answer_tokens;      // expected, >= 1
    double link_bytes_per_s;       // towards here
    double round_trip_seconds;
    double setup_seconds;       // everything else that asking costs, as measured
    uint32_t chunk_tokens;      // of the prefill there, >= 1
    uint32_t checkpoint_tokens; // window layers travel this often, >= 1
    struct td_split_group groups[TD_SPLIT_MAX_GROUPS];
    uint32_t n_groups;
    enum td_split_stream stream;
};

enum td_split_why {
    TD_SPLIT_PAYS,            // the peer reads the prompt faster
    TD_SPLIT_NOTHING_TO_READ, // all but the last token is cached here
    TD_SPLIT_UNKNOWN,         // a speed that is needed has not been measured
    TD_SPLIT_CACHED_HERE,     // the peer would have to read more than this machine
    TD_SPLIT_PEER_SLOWER,     // not even a perfect link would help
    TD_SPLIT_LATENCY,         // the round trip and setup cost more than is gained
    TD_SPLIT_LINK_SLOW,       // the KV takes too long to travel
};

// Seconds are from the request until the first token, or the last, of the answer. What is not known
// is HUGE_VAL.
struct td_split {
    bool pays; // prefill there, answer here, beats doing it all here
    enum td_split_why why;
    bool all_there_is_faster; // than the better of the two, until the last token

    double here_first_seconds, here_seconds;
    double split_first_seconds, split_seconds;
    double there_first_seconds, there_seconds;

    // Of the split:
    uint32_t n_here_tokens, n_there_tokens; // that each end would compute without the other
    double far_seconds;                     // prefill there
    double kv_bytes;                        // over the link
    double transfer_seconds;                // of it, alone on the link
    double exposed_seconds; // from the end of the far prefill until the last byte is here
};

void td_split(struct td_split *out, const struct td_split_ask *ask);

// Seconds to read tokens [from, to) at this speed; HUGE_VAL when it is not known.
double td_split_read_seconds(const struct td_split_rate *rate, double from_tokens,
                             double to_tokens);

// The fewest prompt tokens, nothing cached on either side, from which prefill there pays; 0 when it
// does not up to max_tokens. The prompt and cache of ask are ignored.
uint32_t td_split_pays_from(const struct td_split_ask *ask, uint32_t max_tokens);

// A sentence's end for people: "the link is too slow for the KV".
const char *td_split_why_text(enum td_split_why why);

#endif
