// SPDX-License-Identifier: MIT
// How fast the link to a peer is: filler in one direction, timed by who receives it.
#include "relay/far_impl.h"

#include "base/num.h"

#include <stdlib.h>
#include <string.h>

static int send_blast(struct td_conn *c, uint64_t request, uint64_t size_bytes,
                      struct td_error *err)
{
    uint8_t *filler = malloc(TD_WIRE_MAX_DATA);
    if (!filler) return td_fail(err, TD_ENOMEM, "no memory to measure with");
    // Nothing on the way shall make it shorter.
    struct td_rng rng = {request};
    for (size_t i = 0; i < TD_WIRE_MAX_DATA; i += sizeof(uint64_t)) {
        const uint64_t v = td_rng_u64(&rng);
        memcpy(filler + i, &v, sizeof(v));
    }
    int code = TD_OK;
    while (!code && size_bytes > 0) {
        const uint32_t n = size_bytes < TD_WIRE_MAX_DATA ? (uint32_t)size_bytes : TD_WIRE_MAX_DATA;
        struct td_wire_header h = td_conn_header(c, TD_WIRE_BLAST, request);
        uint8_t header[TD_WIRE_HEADER_BYTES];
        td_wire_seal(header, &h, filler, n);
        code = td_frames_write_bulk(&c->data, header, filler, n, err);
        size_bytes -= n;
    }
    free(filler);
    if (code == TD_EIO && err) td_conn_fail(c, false, err);
    return code;
}

// Whether the last byte is here, or told from there; *code says whether it failed.
static bool is_measured(struct td_far *far, bool is_towards_here, int *code, struct td_error *err)
{
    pthread_mutex_lock(&far->mutex);
    const struct td_measure m = far->measure;
    const struct td_conn *c = far->conn;
    *code = m.code ? m.code : !c ? TD_EIO : c->code;
    if (*code && err && (m.code || c)) *err = m.code ? m.err : c->err;
    pthread_mutex_unlock(&far->mutex);
    if (*code) return true;
    if (is_towards_here ? m.n_bytes == m.size_bytes : m.is_probed) return true;
    const uint64_t now_ns = td_clock_ns();
    if (m.n_bytes != far->measure_seen) far->measure_seen = m.n_bytes, far->measure_ns = now_ns;
    if (now_ns - far->measure_ns <= (uint64_t)far->cfg.silent_ms * MS_NS) return false;
    *code = td_fail(err, TD_EIO, "%s does not answer PROBE", far->cfg.where);
    return true;
}

static int begin_measure(struct td_far *far, uint64_t size_bytes, bool is_towards_here,
                         struct td_error *err)
{
    if (size_bytes == 0 || size_bytes > TD_WIRE_MAX_PROBE_BYTES)
        return td_fail(err, TD_EARG, "a link is measured with 1 byte to 1 GiB");
    if (far->fetches) return td_fail(err, TD_EARG, "the link is in use");
    if (!td_far_is_up(far)) return td_fail(err, TD_EIO, "%s is not connected", far->cfg.where);
    struct td_conn *c = far->conn;
    const uint64_t id = far->next_request++;
    pthread_mutex_lock(&far->mutex);
    far->measure = (struct td_measure){.request = id, .size_bytes = size_bytes};
    pthread_mutex_unlock(&far->mutex);
    far->measure_ns = td_clock_ns();
    far->measure_seen = 0;
    const struct td_wire_msg probe = {.h = td_conn_header(c, TD_WIRE_PROBE, id),
                                      .u.probe = {is_towards_here, size_bytes}};
    return td_conn_say(c, &probe, err);
}

// Of one that went well unless code says otherwise: bytes per second, 0 when it did not.
static double end_measure(struct td_far *far, bool is_towards_here, int code)
{
    pthread_mutex_lock(&far->mutex);
    const struct td_measure m = far->measure;
    far->measure.request = 0;
    uint64_t ns = is_towards_here ? m.last_ns - m.first_ns : m.probed_ns;
    if (ns == 0) ns = 1;
    const double bytes_per_s = code ? 0 : (double)m.size_bytes / ((double)ns / 1e9);
    if (is_towards_here && bytes_per_s > far->link_bytes_per_s) far->link_bytes_per_s = bytes_per_s;
    pthread_mutex_unlock(&far->mutex);
    if (code || !is_towards_here) return bytes_per_s;
    const struct td_wire_msg probed = {.h = td_conn_header(far->conn, TD_WIRE_PROBED, m.request),
                                       .u.probed = {m.size_bytes, ns}};
    (void)td_conn_say(far->conn, &probed, NULL); // down: the next request notices
    return bytes_per_s;
}

int td_far_measure(struct td_far *far, uint64_t size_bytes, bool is_towards_here,
                   double *bytes_per_s_out, struct td_error *err)
{
    if (far->fetches) return td_fail(err, TD_EARG, "the link is in use");
    int code = td_far_connect(far, err);
    if (!code) code = begin_measure(far, size_bytes, is_towards_here, err);
    if (!code && !is_towards_here)
        code = send_blast(far->conn, far->measure.request, size_bytes, err);
    while (!code) {
        pthread_mutex_lock(&far->mutex);
        const uint64_t seen = far->n_events;
        pthread_mutex_unlock(&far->mutex);
        if (is_measured(far, is_towards_here, &code, err)) break;
        td_far_wait(far, seen, 500);
    }
    const double bytes_per_s = end_measure(far, is_towards_here, code);
    if (!code) *bytes_per_s_out = bytes_per_s;
    return code;
}

int td_far_measure_begin(struct td_far *far, uint64_t size_bytes, struct td_error *err)
{
    return begin_measure(far, size_bytes, true, err);
}

bool td_far_measure_poll(struct td_far *far, uint32_t wait_ms, double *bytes_per_s_out)
{
    int code;
    pthread_mutex_lock(&far->mutex);
    const uint64_t seen = far->n_events;
    pthread_mutex_unlock(&far->mutex);
    if (!is_measured(far, true, &code, NULL)) {
        if (wait_ms == 0) return false;
        td_far_wait(far, seen, wait_ms);
        if (!is_measured(far, true, &code, NULL)) return false;
    }
    *bytes_per_s_out = end_measure(far, true, code);
    return true;
}
