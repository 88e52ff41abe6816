// SPDX-License-Identifier: MIT
// The book of one request: which positions of which layer have travelled, what is complete in all
// layers, what may come next. Both ends keep one by the rules of docs/WIRE.md; the receiver's is
// what a hostile sender meets. Pure: no I/O, no clock, no allocation, no KV.
#ifndef TD_RELAY_LEDGER_H
#define TD_RELAY_LEDGER_H

#include "base/type.h"
#include "engine/engine.h"
#include "relay/wire.h"

struct td_ledger_layer {
    uint32_t window;         // 0: keeps every token
    uint32_t position_bytes; // K and V of one position on the wire
    // [begin, mark) travelled without a gap; mark is where the last span ended. Of a window layer
    // never more than window - 1 positions: what a later token can still see.
    uint32_t begin, mark;
};

// The request covers positions [have, end); open for reading, written by the functions below.
struct td_ledger {
    enum td_type kv_type;
    uint32_t have, end;
    uint32_t n_whole; // [0, n_whole) is complete in every layer: the last checkpoint, or have
    bool is_final;
    uint64_t n_spans, span_sum, span_bytes; // so far, over all connections
    uint32_t n_layers;
    struct td_ledger_layer layers[TD_WIRE_MAX_LAYERS];
};

// A request of n_tokens tokens of which the decode side has `have`. Fails: TD_EARG when there is
// nothing to send; TD_EUNSUP when the model's KV cannot travel in kv_type.
int td_ledger_init(struct td_ledger *out, const struct td_spec *spec, enum td_type kv_type,
                   uint32_t have, uint32_t n_tokens, struct td_error *err) TD_MUST_CHECK;

// Whether a SPAN may come now: layer, type, exact size, place. Reads only the header, so before the
// payload is waited for. Fails: TD_EFORMAT.
int td_ledger_check_span(const struct td_ledger *ledger, const struct td_wire_header *h,
                         struct td_error *err) TD_MUST_CHECK;
// Counts a SPAN that passed the check.
void td_ledger_take_span(struct td_ledger *ledger, const struct td_wire_header *h);

// Whether positions [0, n) are complete in every layer and the sender counted the same spans; then
// n_whole is n. The last checkpoint may be repeated (a sender that resumes cannot know). Fails:
// TD_EFORMAT, and nothing changes.
int td_ledger_checkpoint(struct td_ledger *ledger, uint32_t n,
                         const struct td_wire_checkpoint *count,
                         struct td_error *err) TD_MUST_CHECK;
// The same for FINAL; nothing may follow.
int td_ledger_final(struct td_ledger *ledger, uint32_t n, const struct td_wire_final *final,
                    struct td_error *err) TD_MUST_CHECK;

// ---- for the sender ---------------------------------------------------------------------------

// Whether a checkpoint goes with a chunk that ends at n: the end, or checkpoint_tokens or more
// behind the last one with no layer ahead of n (a chunk that was computed again may end earlier).
bool td_ledger_is_due(const struct td_ledger *ledger, uint32_t n, uint32_t checkpoint_tokens);

// The next span of a layer whose positions [0, n) are final, at most a frame long; false when there
// is nothing to send (window layers travel at checkpoints only).
bool td_ledger_next_span(const struct td_ledger *ledger, uint32_t layer, uint32_t n,
                         bool is_checkpoint, struct td_wire_header *out);

// What was sent, in order: a span, or (n_spans is its index) the checkpoint after it.
struct td_ledger_record {
    uint64_t digest; // of the span
    uint32_t layer;  // TD_LEDGER_CHECKPOINT: positions [0, n) are whole
    uint32_t pos0, n;
};
#define TD_LEDGER_CHECKPOINT UINT32_MAX

// After a break: which of the records the receiver, whose marks these are, lacks. is_sent_out[i]
// says that record i need not travel again. Fails: TD_EFORMAT when what it counted is not what was
// sent.
int td_ledger_resume(const struct td_ledger_record *records, uint32_t n_records,
                     const uint32_t *marks, uint32_t n_layers, const struct td_wire_resume *resume,
                     bool *is_sent_out, struct td_error *err) TD_MUST_CHECK;

#endif
