// SPDX-License-Identifier: MIT
// One connection to a peer: bytes there and back, encrypted and both ends authenticated, with a
// deadline on every wait. It knows nothing of frames. Something other than TLS over TCP can stand
// behind the same functions later.
//
// With a key: TLS 1.3, the key as external PSK and a fresh (EC)DHE exchange (docs/WIRE.md says
// why). Without: in the clear, and only to and from loopback addresses.
//
// Threads: one may read while another writes; cancel is for any thread, close for the last.
#ifndef TD_RELAY_LINK_H
#define TD_RELAY_LINK_H

#include "base/status.h"
#include "relay/key.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct td_link;
struct td_listener;

// Zero takes the default.
struct td_link_limits {
    uint32_t handshake_ms; // connecting and handshake together; 5 000
    uint32_t stall_ms;     // a read or write in which no byte moves; 10 000. Never on total time.
    uint64_t rekey_bytes;  // sent under one key; 2^37, far below what AES-GCM bears
};

// Connects to "HOST:PORT" or "[ADDRESS]:PORT". key may be NULL. Fails: TD_EARG for a bad address
// or one that is not loopback without a key; TD_EIO when nobody answers, the keys differ or time is
// up. Resolving a name takes as long as the system lets it. stop: set by any thread, it then fails
// soon (TD_ECANCEL); may be NULL.
int td_link_connect(struct td_link **out, const char *where, const struct td_key *key,
                    const struct td_link_limits *limits, const _Atomic bool *stop,
                    struct td_error *err) TD_MUST_CHECK;

// Makes a link of a connected stream socket, which it owns from then on, also when it fails.
// Without a key the caller answers for where the socket leads.
int td_link_of_fd(struct td_link **out, int fd, bool is_listening_side, const struct td_key *key,
                  const struct td_link_limits *limits, struct td_error *err) TD_MUST_CHECK;

// Reads exactly n bytes. Fails: TD_EIO when the peer closed, the connection was cut or damaged, or
// nothing came for stall_ms; TD_ECANCEL. How much of out is then written is not said.
int td_link_read(struct td_link *link, void *out, size_t n, struct td_error *err) TD_MUST_CHECK;

// Reads what there is, at least one byte and at most n, waiting wait_ms at most: *n_out is 0 when
// nothing came. Fails as td_link_read does.
int td_link_read_some(struct td_link *link, void *out, size_t n, uint32_t wait_ms, size_t *n_out,
                      struct td_error *err) TD_MUST_CHECK;

// Writes n bytes; returns when the system has taken them. Fails as td_link_read does.
int td_link_write(struct td_link *link, const void *bytes, size_t n,
                  struct td_error *err) TD_MUST_CHECK;

// Any thread: reads and writes under way or to come return TD_ECANCEL.
void td_link_cancel(struct td_link *link);

// Says goodbye if it can without waiting, and closes. NULL is fine.
void td_link_close(struct td_link *link);

const char *td_link_peer(const struct td_link *link); // "192.168.7.2:4711", for people
bool td_link_is_encrypted(const struct td_link *link);

// Listens on HOST:PORT (port 0: any, see td_listener_port). Fails: TD_EARG for a bad address or one
// that is not loopback without a key; TD_EIO.
int td_listener_open(struct td_listener **out, const char *where, const struct td_key *key,
                     const struct td_link_limits *limits, struct td_error *err) TD_MUST_CHECK;
void td_listener_close(struct td_listener *listener); // NULL is fine
uint16_t td_listener_port(const struct td_listener *listener);

// The next peer that has proven that it holds the key; *out is NULL when none did in wait_ms. Who
// has not proven it costs a slot of TD_LISTENER_MAX_PENDING for handshake_ms at most (when all are
// taken the oldest gives way after a second), and is told nothing. Fails: TD_ECANCEL, TD_EIO,
// TD_ENOMEM. Threads: one at a time.
#define TD_LISTENER_MAX_PENDING 16
int td_listener_accept(struct td_listener *listener, uint32_t wait_ms, struct td_link **out,
                       struct td_error *err) TD_MUST_CHECK;

// Handshakes that failed or ran out of time so far, and why the last one did ("" if none).
// Threads: as td_listener_accept.
uint64_t td_listener_n_refused(const struct td_listener *listener, struct td_error *last_out);

// Any thread: an accept under way or to come returns TD_ECANCEL.
void td_listener_cancel(struct td_listener *listener);

#endif
