// SPDX-License-Identifier: MIT
// The relay's protocol as bytes. docs/WIRE.md describes every field, who sends what when, and why.
// A pure codec: no I/O, no clock, no allocation; what it decodes points into the caller's buffer.
// It does not know what a session may do next; that is the receiver's to check.
#ifndef TD_RELAY_WIRE_H
#define TD_RELAY_WIRE_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Protocol versions this build speaks. A change of any layout below takes a new number.
#define TD_WIRE_VERSION_MIN 1
#define TD_WIRE_VERSION_MAX 1

#define TD_WIRE_HEADER_BYTES 48
// Payload of a frame at most. A control frame is short so that CANCEL never waits behind much.
#define TD_WIRE_MAX_CONTROL (64u << 10)
#define TD_WIRE_MAX_DATA    (1u << 20)
// Positions are below this: sums of two never overflow 32 bits.
#define TD_WIRE_MAX_TOKENS        (1u << 24)
#define TD_WIRE_MAX_LAYERS        512u
#define TD_WIRE_MAX_VOCAB         (1u << 24)
#define TD_WIRE_MAX_CANARY_TOKENS 256u
#define TD_WIRE_MAX_RATES         32u
#define TD_WIRE_MAX_PROBE_BYTES   (1u << 30)
#define TD_WIRE_MAX_TOKENS_FRAME  (TD_WIRE_MAX_CONTROL / 4) // token ids in one TOKENS frame

// Control and data are two connections of one session.
enum td_wire_channel { TD_WIRE_CONTROL, TD_WIRE_DATA };

enum td_wire_type {
    TD_WIRE_HELLO = 1,
    TD_WIRE_IDENTITY,
    TD_WIRE_WELCOME,
    TD_WIRE_RATES,
    TD_WIRE_JOIN,
    TD_WIRE_JOINED,
    TD_WIRE_REQUEST,
    TD_WIRE_TOKENS,
    TD_WIRE_ACCEPT,
    TD_WIRE_PROGRESS,
    TD_WIRE_CANCEL,
    TD_WIRE_RESUME,
    TD_WIRE_COMMITTED,
    TD_WIRE_ERROR,
    TD_WIRE_PING,
    TD_WIRE_PONG,
    TD_WIRE_PROBE,
    TD_WIRE_BLAST,
    TD_WIRE_PROBED,
    TD_WIRE_BYE,
    TD_WIRE_SPAN,
    TD_WIRE_CHECKPOINT,
    TD_WIRE_FINAL,
    TD_WIRE_LOGITS,
    TD_WIRE_N_TYPES // one past the last
};

enum td_wire_role { TD_WIRE_DECODE = 0, TD_WIRE_PREFILL = 1 };

// Type numbers of KV on the wire are those of enum td_type (base/type.h); bit i of a mask of them:
#define TD_WIRE_KV_F32  (1u << 0)
#define TD_WIRE_KV_F16  (1u << 1)
#define TD_WIRE_KV_Q8_0 (1u << 8)

// identity.flags
#define TD_WIRE_ALLOW_WEIGHTS  (1u << 0) // other weights are fine here
#define TD_WIRE_HIGH_PRECISION (1u << 1) // calculates with --precision high
#define TD_WIRE_FINE_PRECISION (1u << 2) // calculates with --precision fine
#define TD_WIRE_CANARY         (1u << 0) // request.flags: also the last token's logits; nothing is kept

// Why a request (request != 0) or the whole session (request == 0) ended. A reader keeps numbers
// that it does not know.
enum td_wire_reason {
    TD_WIRE_E_VERSION = 1, // no protocol version in common
    TD_WIRE_E_LAYOUT,      // KV layouts differ
    TD_WIRE_E_TOKENIZER,
    TD_WIRE_E_WEIGHTS,  // weights differ and that was not allowed
    TD_WIRE_E_KV_TYPE,  // the KV type asked for cannot be sent
    TD_WIRE_E_BUDGET,   // does not fit the memory set aside
    TD_WIRE_E_BUSY,     // every slot is taken
    TD_WIRE_E_CANCELED, // as asked
    TD_WIRE_E_TIMEOUT,  // no progress for too long
    TD_WIRE_E_FORMAT,   // a frame that is not what it claims to be
    TD_WIRE_E_ORDER,    // a frame that may not come now
    TD_WIRE_E_TOKEN,    // no session has this token
    TD_WIRE_E_GONE,     // nothing is left to resume from
    TD_WIRE_E_TROUBLE,  // the engine failed
    TD_WIRE_E_SHUTDOWN, // the process ends
};

struct td_wire_header {
    uint8_t version; // 0 in HELLO and ERROR, else the version agreed on
    uint8_t type;    // enum td_wire_type
    uint8_t kv_type; // of SPAN and REQUEST: enum td_type
    uint64_t request;
    uint32_t layer;
    uint32_t pos0;
    uint32_t n;
    uint32_t size_bytes; // of the payload
    uint64_t sum;        // td_wire_sum of the payload
};

struct td_wire_hello {
    uint16_t version_min, version_max;
    uint8_t role; // enum td_wire_role
    char build[64];
};

struct td_wire_identity {
    uint8_t layout[32];    // SHA-256 of the KV layout
    uint8_t tokenizer[32]; // SHA-256 of the vocabulary and merges
    uint8_t weights[32];   // SHA-256 of the weights
    uint32_t kv_types;     // mask of TD_WIRE_KV_...
    uint32_t flags;
    uint32_t n_layers;
    uint32_t n_vocab;
    char name[96];
    char quant[32]; // of the weights, for people: "MXFP4"
};

struct td_wire_welcome {
    uint8_t token[32];    // secret that binds further connections to this session
    uint32_t lease_ms;    // how long KV is kept for a peer that has gone
    uint32_t progress_ms; // a PROGRESS or PING comes at least this often
    uint32_t n_slots;     // requests at a time
    uint32_t max_tokens;  // of a request
    uint64_t max_kv_bytes;
};

struct td_wire_rate {
    uint32_t depth_tokens;
    uint64_t prefill_milli_tok_s; // tokens per 1000 seconds; 0: not known
    uint64_t decode_milli_tok_s;
};
#define TD_WIRE_RATE_BYTES 20u // one rate in the payload

struct td_wire_request {
    uint32_t n_tokens; // N: positions [0, N - 1) are asked for
    uint32_t have;     // positions [0, have) are already there
    uint32_t checkpoint_tokens;
    uint32_t flags;
    uint64_t have_sum;   // td_wire_sum of token ids [0, have)
    uint64_t tokens_sum; // td_wire_sum of all token ids
};

struct td_wire_accept {
    uint32_t n_reused; // positions whose KV the prefill side already holds
    uint64_t kv_bytes; // that will travel
    uint64_t wait_ns;  // expected, before it begins
};

struct td_wire_progress {
    uint32_t n_computed; // positions final in every layer
    uint32_t n_sent;     // positions handed to the socket in every layer
    uint64_t sent_bytes;
    uint64_t far_ns;   // spent computing
    uint64_t stall_ns; // of it, waiting for a full queue
};

struct td_wire_resume {
    uint8_t token[32]; // of the session in which the request was made
    uint64_t n_spans;  // accepted so far
    uint64_t span_sum; // sum of their digests, modulo 2^64
    uint32_t n_layers;
};

struct td_wire_error {
    uint16_t reason; // enum td_wire_reason
    char msg[240];
};

struct td_wire_probe {
    uint8_t towards_asker;
    uint64_t size_bytes;
};

struct td_wire_probed {
    uint64_t size_bytes;
    uint64_t elapsed_ns;
};

struct td_wire_checkpoint {
    uint64_t n_spans;  // of the request so far, over all connections
    uint64_t span_sum; // sum of their digests, modulo 2^64
};

struct td_wire_final {
    uint64_t n_spans;
    uint64_t span_sum;
    uint64_t span_bytes;
    uint64_t far_ns;
    uint64_t stall_ns;
    uint32_t n_computed;
    uint32_t n_reused;
};

struct td_wire_msg {
    struct td_wire_header h;
    union {
        struct td_wire_hello hello;
        struct td_wire_identity identity;
        struct td_wire_welcome welcome;
        uint8_t join_token[32];
        struct td_wire_request request;
        struct td_wire_accept accept;
        struct td_wire_progress progress;
        struct td_wire_resume resume;
        uint32_t n_committed; // positions
        struct td_wire_error error;
        uint64_t t_ns; // PING and PONG: the asker's clock
        struct td_wire_probe probe;
        struct td_wire_probed probed;
        struct td_wire_checkpoint checkpoint;
        struct td_wire_final final;
    } u;
    // What is counted by h.n or fills the rest of the payload, little endian, not aligned when
    // decoded: token ids (TOKENS), end positions by layer (RESUME), f32 logits (LOGITS), rates as
    // they lie on the wire (RATES), KV (SPAN), filler (BLAST). Else NULL and 0.
    const void *items;
    uint32_t items_bytes;
};

// XXH64 with seed 0: against bugs, bad memory and bad cables; against people there is TLS.
uint64_t td_wire_sum(const void *bytes, size_t size_bytes);

// "REQUEST", for people; "?" for an unknown number.
const char *td_wire_type_name(uint8_t type);

// Fills h->size_bytes and h->sum for a payload, and writes the header. For frames whose payload is
// written from where it lies (SPAN, BLAST): nothing is copied.
void td_wire_seal(uint8_t out[TD_WIRE_HEADER_BYTES], struct td_wire_header *h, const void *payload,
                  uint32_t size_bytes);

// Writes the whole frame, header and payload, into out; returns its length. h.size_bytes and h.sum
// are computed. cap must hold the frame (TD_WIRE_HEADER_BYTES + the channel's limit always does)
// and every field be within its bounds: anything else is a bug of the caller.
size_t td_wire_encode(uint8_t *out, size_t cap, const struct td_wire_msg *msg);

// Reads a header. version is the one agreed on, 0 before that: only HELLO and ERROR are then read.
// Afterwards the type may travel on this channel, size_bytes is within the type's bounds, header
// fields that the type does not use are 0, and layer, pos0, n and kv_type are within theirs. Fails:
// TD_EFORMAT; TD_EUNSUP for a frame of another version. *out is untouched on failure.
int td_wire_get_header(struct td_wire_header *out, const uint8_t in[TD_WIRE_HEADER_BYTES],
                       enum td_wire_channel channel, uint8_t version,
                       struct td_error *err) TD_MUST_CHECK;

// Reads the payload (h->size_bytes) of a header that td_wire_get_header gave: checksum, layout,
// bounds of each field, nothing left over. out->items points into the payload. Fails: TD_EFORMAT.
int td_wire_decode(struct td_wire_msg *out, const struct td_wire_header *h, const void *payload,
                   struct td_error *err) TD_MUST_CHECK;

// The version two ranges agree on: the highest in both. TD_EUNSUP with a sentence that says which
// side to update when there is none.
int td_wire_agree(uint8_t *version_out, const struct td_wire_hello *ours,
                  const struct td_wire_hello *theirs, struct td_error *err) TD_MUST_CHECK;

// Digest of one SPAN, from its header alone (which has the payload's checksum). The digests of a
// request's spans are added modulo 2^64, so that their order and the connection do not matter.
uint64_t td_wire_span_digest(const struct td_wire_header *h);

// Items of a decoded message; i below their number.
int32_t td_wire_token(const struct td_wire_msg *msg, uint32_t i);
uint32_t td_wire_mark(const struct td_wire_msg *msg, uint32_t i);
void td_wire_rate(const struct td_wire_msg *msg, uint32_t i, struct td_wire_rate *out);
// Writes a rate as it lies in a RATES payload.
void td_wire_put_rate(uint8_t out[TD_WIRE_RATE_BYTES], const struct td_wire_rate *rate);

#endif
