// SPDX-License-Identifier: MIT
// Frames over a link, one at a time. It joins wire (bytes) and link (a connection); it knows no
// rules of a session.
#ifndef TD_RELAY_FRAMES_H
#define TD_RELAY_FRAMES_H

#include "relay/link.h"
#include "relay/wire.h"

#include <pthread.h>

// One connection of a session. Threads: one may read while others write; the link is the owner's.
struct td_frames {
    struct td_link *link; // not owned
    enum td_wire_channel channel;
    uint8_t version;             // agreed on; 0 before
    uint8_t *payload;            // (limit of the channel) of the frame read last; reader's
    uint8_t *frame;              // (header + limit of the control channel) under write_mutex
    pthread_mutex_t write_mutex; // guards frame, and keeps frames whole
};

int td_frames_init(struct td_frames *out, struct td_link *link, enum td_wire_channel channel,
                   uint8_t version, struct td_error *err) TD_MUST_CHECK;
// The listening side: waits at most wait_ms for the first frame of a connection, which says what it
// is: HELLO (control, no version yet) or JOIN (data, of the version it names). Reads its header and
// initialises *out for that channel. Fails: TD_EIO nothing came; TD_EFORMAT, TD_EUNSUP another
// frame; TD_ENOMEM; as td_link_read does.
int td_frames_first(struct td_frames *out, struct td_link *link, uint32_t wait_ms,
                    struct td_wire_header *h, struct td_error *err) TD_MUST_CHECK;
void td_frames_free(struct td_frames *f); // wipes the buffers; the link stays

// Waits at most wait_ms for a frame to begin, then reads its header; *is_there says whether one
// did. Fails: TD_EFORMAT, TD_EUNSUP for what may not come here; as td_link_read does.
int td_frames_header(struct td_frames *f, struct td_wire_header *out, uint32_t wait_ms,
                     bool *is_there, struct td_error *err) TD_MUST_CHECK;
// Reads the payload of that header. msg->items points into the buffer until the next read.
int td_frames_payload(struct td_frames *f, const struct td_wire_header *h, struct td_wire_msg *out,
                      struct td_error *err) TD_MUST_CHECK;

// Writes a frame without bulk. Fails as td_link_write does.
int td_frames_write(struct td_frames *f, const struct td_wire_msg *msg,
                    struct td_error *err) TD_MUST_CHECK;
// Writes a sealed header and its payload from where it lies.
int td_frames_write_bulk(struct td_frames *f, const uint8_t header[TD_WIRE_HEADER_BYTES],
                         const void *payload, size_t size_bytes,
                         struct td_error *err) TD_MUST_CHECK;

#endif
