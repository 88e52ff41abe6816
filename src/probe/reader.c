// SPDX-License-Identifier: MIT
// A plain read loop over memory that is already there: the bar for decoding, which has to read its
// weights once for each token. The spans are cut into slices that the threads claim, as they claim
// tiles of a matrix.
#include "probe/probe.h"

#include "base/clock.h"
#include "base/team.h"
#include "probe/loops_impl.h"

#include <stdatomic.h>
#include <stdlib.h>

enum { SLICE_BYTES = 1 << 20, GRAIN_BYTES = 1024, ALIGN_BYTES = 64 };

struct slice {
    const uint8_t *bytes;
    size_t size_bytes;
};

struct td_probe_reader {
    struct td_team *team;
    struct td_loops loops;
    struct slice *slices;
    uint32_t n_slices;
    uint64_t size_bytes; // of all slices
    // One read: n slices beginning with `first`.
    uint32_t first, n;
    _Atomic uint64_t sink; // takes the results, so that they are wanted
};

// Slices of the spans; with out NULL only their number.
static uint32_t cut(const struct td_probe_span *spans, uint32_t n_spans, struct slice *out)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < n_spans; i++) {
        const size_t skew = (ALIGN_BYTES - (uintptr_t)spans[i].bytes % ALIGN_BYTES) % ALIGN_BYTES;
        if (spans[i].size_bytes < skew) continue;
        const uint8_t *at = spans[i].bytes + skew;
        size_t left = (spans[i].size_bytes - skew) / GRAIN_BYTES * GRAIN_BYTES;
        while (left > 0) {
            const size_t size_bytes = left < SLICE_BYTES ? left : SLICE_BYTES;
            if (out) out[n] = (struct slice){at, size_bytes};
            n++;
            at += size_bytes;
            left -= size_bytes;
        }
    }
    return n;
}

int td_probe_reader_open(struct td_probe_reader **out, const struct td_probe_span *spans,
                         uint32_t n_spans, uint32_t n_threads, enum td_isa isa,
                         struct td_error *err)
{
    *out = NULL;
    struct td_probe_reader *r = calloc(1, sizeof(*r));
    if (!r) return td_fail(err, TD_ENOMEM, "no memory for a read loop");
    td_loops_get(&r->loops, isa);
    r->n_slices = cut(spans, n_spans, NULL);
    r->slices = calloc(r->n_slices ? r->n_slices : 1, sizeof(*r->slices));
    int code = TD_OK;
    if (!r->slices) code = td_fail(err, TD_ENOMEM, "no memory for a read loop");
    if (r->slices) {
        cut(spans, n_spans, r->slices);
        for (uint32_t i = 0; i < r->n_slices; i++) r->size_bytes += r->slices[i].size_bytes;
        if (r->size_bytes < SLICE_BYTES)
            code = td_fail(err, TD_EARG, "%llu bytes are too few for a read loop",
                           (unsigned long long)r->size_bytes);
    }
    if (code == TD_OK) code = td_team_open(&r->team, n_threads, err);
    if (code != TD_OK) {
        td_probe_reader_close(r);
        return code;
    }
    *out = r;
    return TD_OK;
}

void td_probe_reader_close(struct td_probe_reader *r)
{
    if (!r) return;
    td_team_close(r->team);
    free(r->slices);
    free(r);
}

uint64_t td_probe_reader_bytes(const struct td_probe_reader *r)
{
    return r->size_bytes;
}

static void read_slices(void *ctx, struct td_member *me)
{
    struct td_probe_reader *r = ctx;
    uint64_t result = 0;
    for (uint32_t i; td_team_claim(me, r->n, &i);) {
        const struct slice *s = &r->slices[(r->first + i) % r->n_slices];
        result ^= r->loops.read_loop(s->bytes, s->size_bytes);
    }
    atomic_fetch_xor_explicit(&r->sink, result, memory_order_relaxed);
}

double td_probe_read(struct td_probe_reader *r, uint64_t size_bytes)
{
    uint64_t n_bytes = 0;
    r->n = 0;
    while (n_bytes < size_bytes && r->n < UINT32_MAX / 2)
        n_bytes += r->slices[(r->first + r->n++) % r->n_slices].size_bytes;
    const uint64_t t0_ns = td_clock_ns();
    td_team_run(r->team, read_slices, r);
    const uint64_t t_ns = td_clock_ns() - t0_ns;
    r->first = (r->first + r->n) % r->n_slices;
    return (double)n_bytes * 1e9 / (double)(t_ns ? t_ns : 1);
}
