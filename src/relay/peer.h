// SPDX-License-Identifier: MIT
// How two ends meet: versions, roles, identity, before any token is sent; and how a data connection
// proves which session it belongs to. It keeps nothing.
#ifndef TD_RELAY_PEER_H
#define TD_RELAY_PEER_H

#include "engine/engine.h"
#include "relay/frames.h"

// What one end says of itself.
struct td_peer {
    struct td_wire_hello hello;
    struct td_wire_identity identity;
};

// What the model says about a peer: versions of this build, SHA-256 of the KV layout, its numbers
// and name. tokenizer and weights are SHA-256 of the vocabulary and of the weights; kv_type is what
// the engine keeps KV in, and travels, as does q8_0 where its blocks fit the heads. Fails: TD_EIO
// when hashing does.
int td_peer_init(struct td_peer *out, enum td_wire_role role, const struct td_spec *spec,
                 const uint8_t tokenizer[32], const uint8_t weights[32], enum td_type kv_type,
                 struct td_error *err) TD_MUST_CHECK;

// HELLO and IDENTITY, both at once, on a new control connection; afterwards it speaks the agreed
// version and *theirs is a peer of the other role with the same layout and tokenizer.
// *weights_differ: other weights, which both sides' flags were not against. When this end refuses
// it sends the reason (ERROR) before it fails. Fails: TD_EUNSUP no common version, TD_EARG what
// differs, in a sentence; TD_EFORMAT; as td_link_read does.
int td_peer_greet(struct td_frames *f, const struct td_peer *ours, struct td_peer *theirs,
                  bool *weights_differ, struct td_error *err) TD_MUST_CHECK;

// The same on the listening side, which has read the header of the peer's HELLO (td_frames_first).
int td_peer_answer(struct td_frames *f, const struct td_wire_header *hello,
                   const struct td_peer *ours, struct td_peer *theirs, bool *weights_differ,
                   struct td_error *err) TD_MUST_CHECK;

// Reads the one frame that may come now, of this type, within wait_ms. ERROR becomes a failure with
// its text. Fails: TD_EIO nothing came; TD_EFORMAT another frame came; TD_ECANCEL the peer refused.
int td_peer_expect(struct td_frames *f, enum td_wire_type type, uint32_t wait_ms,
                   struct td_wire_msg *out, struct td_error *err) TD_MUST_CHECK;

// Says why, as well as it can. request 0: the session ends.
void td_peer_refuse(struct td_frames *f, uint64_t request, enum td_wire_reason reason,
                    const char *text);

// The other side's text, of printable ASCII and UTF-8 only: control characters become '?'.
void td_peer_text(const char *theirs, char *out, size_t out_bytes);

// Compares tokens in constant time.
bool td_peer_same_token(const uint8_t a[32], const uint8_t b[32]);

// Weights or precision: KV of the one is not what the other would have computed.
bool td_peer_differs(const struct td_wire_identity *a, const struct td_wire_identity *b);

#endif
