// SPDX-License-Identifier: MIT
// A reader believes a header first, then waits for its payload: docs/WIRE.md, "Frames".
#include "relay/frames.h"

#include <openssl/crypto.h>
#include <stdlib.h>

static size_t limit(enum td_wire_channel channel)
{
    return channel == TD_WIRE_DATA ? TD_WIRE_MAX_DATA : TD_WIRE_MAX_CONTROL;
}

#define FRAME_BYTES (TD_WIRE_HEADER_BYTES + TD_WIRE_MAX_CONTROL)

int td_frames_init(struct td_frames *out, struct td_link *link, enum td_wire_channel channel,
                   uint8_t version, struct td_error *err)
{
    *out = (struct td_frames){.link = link, .channel = channel, .version = version};
    out->payload = malloc(limit(channel));
    out->frame = malloc(FRAME_BYTES);
    if (out->payload && out->frame && pthread_mutex_init(&out->write_mutex, NULL) == 0)
        return TD_OK;
    free(out->payload);
    free(out->frame);
    *out = (struct td_frames){0};
    return td_fail(err, TD_ENOMEM, "no memory for a connection's frames");
}

int td_frames_first(struct td_frames *out, struct td_link *link, uint32_t wait_ms,
                    struct td_wire_header *h, struct td_error *err)
{
    *out = (struct td_frames){0};
    uint8_t bytes[TD_WIRE_HEADER_BYTES];
    size_t n;
    int code = td_link_read_some(link, bytes, sizeof(bytes), wait_ms, &n, err);
    if (!code && n == 0) code = td_fail(err, TD_EIO, "%s said nothing", td_link_peer(link));
    if (!code) code = td_link_read(link, bytes + n, sizeof(bytes) - n, err);
    if (code) return code;
    // Believed only as far as to choose what the header is checked against.
    const uint8_t version = bytes[4];
    const bool is_data = bytes[5] == TD_WIRE_JOIN;
    const enum td_wire_channel channel = is_data ? TD_WIRE_DATA : TD_WIRE_CONTROL;
    code = td_wire_get_header(h, bytes, channel, is_data ? version : 0, err);
    if (!code && !is_data && h->type != TD_WIRE_HELLO)
        code = td_fail(err, TD_EFORMAT, "%s began with %s", td_link_peer(link),
                       td_wire_type_name(h->type));
    // 0 is below the least version.
    if (!code && is_data && (version < TD_WIRE_VERSION_MIN || version > TD_WIRE_VERSION_MAX))
        code = td_fail(err, TD_EUNSUP, "%s joins with protocol %u", td_link_peer(link), version);
    return code ? code : td_frames_init(out, link, channel, is_data ? version : 0, err);
}

void td_frames_free(struct td_frames *f)
{
    if (!f->payload) return;
    // KV and token ids are the prompt in another form.
    OPENSSL_cleanse(f->payload, limit(f->channel));
    OPENSSL_cleanse(f->frame, FRAME_BYTES);
    free(f->payload);
    free(f->frame);
    pthread_mutex_destroy(&f->write_mutex);
    *f = (struct td_frames){0};
}

int td_frames_header(struct td_frames *f, struct td_wire_header *out, uint32_t wait_ms,
                     bool *is_there, struct td_error *err)
{
    *is_there = false;
    uint8_t bytes[TD_WIRE_HEADER_BYTES];
    size_t n;
    int code = td_link_read_some(f->link, bytes, sizeof(bytes), wait_ms, &n, err);
    if (code || n == 0) return code;
    code = td_link_read(f->link, bytes + n, sizeof(bytes) - n, err);
    if (!code) code = td_wire_get_header(out, bytes, f->channel, f->version, err);
    *is_there = code == TD_OK;
    return code;
}

int td_frames_payload(struct td_frames *f, const struct td_wire_header *h, struct td_wire_msg *out,
                      struct td_error *err)
{
    const int code = td_link_read(f->link, f->payload, h->size_bytes, err);
    return code ? code : td_wire_decode(out, h, f->payload, err);
}

int td_frames_write(struct td_frames *f, const struct td_wire_msg *msg, struct td_error *err)
{
    pthread_mutex_lock(&f->write_mutex);
    const size_t n = td_wire_encode(f->frame, FRAME_BYTES, msg);
    const int code = td_link_write(f->link, f->frame, n, err);
    pthread_mutex_unlock(&f->write_mutex);
    return code;
}

int td_frames_write_bulk(struct td_frames *f, const uint8_t header[TD_WIRE_HEADER_BYTES],
                         const void *payload, size_t size_bytes, struct td_error *err)
{
    pthread_mutex_lock(&f->write_mutex);
    int code = td_link_write(f->link, header, TD_WIRE_HEADER_BYTES, err);
    if (!code) code = td_link_write(f->link, payload, size_bytes, err);
    pthread_mutex_unlock(&f->write_mutex);
    return code;
}
