// SPDX-License-Identifier: MIT
// The rules of a request as arithmetic on positions. All positions are below 2^24, so that sums of
// two of them fit: the codec or td_ledger_init has checked.
#include "relay/ledger.h"

#include "base/num.h"

#include <assert.h>

// First position that a token at position n sees.
static uint32_t first_visible(const struct td_ledger_layer *l, uint32_t n)
{
    return l->window == 0 || n < l->window ? 0 : n - l->window + 1;
}

// K and V of a position, in bytes; 0 when the type cannot hold it.
static uint64_t position_bytes(const struct td_kv_layer *l, enum td_type kv_type)
{
    const uint64_t n = (uint64_t)2 * l->n_kv_heads * l->head_dim;
    if (kv_type == TD_F32) return n * 4;
    if (kv_type == TD_F16) return n * 2;
    return kv_type == TD_Q8_0 && l->head_dim % 32 == 0 ? n / 32 * 34 : 0;
}

int td_ledger_init(struct td_ledger *out, const struct td_spec *spec, enum td_type kv_type,
                   uint32_t have, uint32_t n_tokens, struct td_error *err)
{
    if (n_tokens < 2 || n_tokens > TD_WIRE_MAX_TOKENS || have > n_tokens - 2)
        return td_fail(err, TD_EARG, "relay: nothing to ask for with %u of %u tokens there", have,
                       n_tokens);
    *out = (struct td_ledger){.kv_type = kv_type,
                              .have = have,
                              .end = n_tokens - 1,
                              .n_whole = have,
                              .n_layers = spec->n_layers};
    for (uint32_t il = 0; il < spec->n_layers; il++) {
        const uint64_t bytes = position_bytes(&spec->kv[il], kv_type);
        if (bytes == 0 || bytes > TD_WIRE_MAX_DATA)
            return td_fail(err, TD_EUNSUP, "relay: the KV of layer %u cannot travel as type %d", il,
                           (int)kv_type);
        out->layers[il] = (struct td_ledger_layer){.window = spec->kv[il].window,
                                                   .position_bytes = (uint32_t)bytes,
                                                   .begin = have,
                                                   .mark = have};
    }
    return TD_OK;
}

int td_ledger_check_span(const struct td_ledger *ledger, const struct td_wire_header *h,
                         struct td_error *err)
{
    if (ledger->is_final) return td_fail(err, TD_EFORMAT, "SPAN after FINAL");
    if (h->layer >= ledger->n_layers)
        return td_fail(err, TD_EFORMAT, "SPAN: layer %u of %u", h->layer, ledger->n_layers);
    if (h->kv_type != (uint8_t)ledger->kv_type)
        return td_fail(err, TD_EFORMAT, "SPAN: KV type %u instead of %d", h->kv_type,
                       (int)ledger->kv_type);
    const struct td_ledger_layer *l = &ledger->layers[h->layer];
    const uint32_t pos0 = h->pos0, n = h->n;
    if (n == 0 || pos0 > ledger->end || n > ledger->end - pos0)
        return td_fail(err, TD_EFORMAT, "SPAN: positions %u + %u of layer %u go beyond %u", pos0, n,
                       h->layer, ledger->end);
    if (h->size_bytes != (uint64_t)n * l->position_bytes)
        return td_fail(err, TD_EFORMAT, "SPAN: %u bytes for %u positions of layer %u",
                       h->size_bytes, n, h->layer);
    if (l->window == 0 ? pos0 != l->mark : pos0 < l->mark)
        return td_fail(err, TD_EFORMAT, "SPAN: layer %u goes on at %u instead of %u", h->layer,
                       pos0, l->mark);
    return TD_OK;
}

void td_ledger_take_span(struct td_ledger *ledger, const struct td_wire_header *h)
{
    struct td_ledger_layer *l = &ledger->layers[h->layer];
    if (h->pos0 > l->mark) l->begin = h->pos0;
    l->mark = h->pos0 + h->n;
    if (l->window > 0 && l->mark - l->begin > l->window - 1) l->begin = l->mark - (l->window - 1);
    ledger->n_spans++;
    ledger->span_sum += td_wire_span_digest(h);
    ledger->span_bytes += h->size_bytes;
}

// Whether [0, n) is complete in the layer, given that [0, n_whole) was.
static bool is_complete(const struct td_ledger *ledger, const struct td_ledger_layer *l, uint32_t n)
{
    const uint32_t need = td_max_u32(ledger->n_whole, first_visible(l, n));
    if (l->window == 0 || need < n) return l->mark == n && l->begin <= need;
    return l->mark <= n;
}

static int check_whole(const struct td_ledger *ledger, uint32_t n, uint64_t n_spans,
                       uint64_t span_sum, struct td_error *err)
{
    if (ledger->is_final) return td_fail(err, TD_EFORMAT, "checkpoint after FINAL");
    if (n_spans != ledger->n_spans || span_sum != ledger->span_sum)
        return td_fail(err, TD_EFORMAT,
                       "checkpoint %u: the sender counts %llu spans, %llu came, or not the same", n,
                       (unsigned long long)n_spans, (unsigned long long)ledger->n_spans);
    for (uint32_t il = 0; il < ledger->n_layers; il++)
        if (!is_complete(ledger, &ledger->layers[il], n))
            return td_fail(err, TD_EFORMAT, "checkpoint %u: layer %u is not complete", n, il);
    return TD_OK;
}

static void set_whole(struct td_ledger *ledger, uint32_t n)
{
    ledger->n_whole = n;
    for (uint32_t il = 0; il < ledger->n_layers; il++)
        ledger->layers[il].begin = ledger->layers[il].mark = n;
}

int td_ledger_checkpoint(struct td_ledger *ledger, uint32_t n,
                         const struct td_wire_checkpoint *count, struct td_error *err)
{
    if (n < ledger->n_whole || n <= ledger->have || n >= ledger->end)
        return td_fail(err, TD_EFORMAT, "checkpoint %u after %u in a request that ends at %u", n,
                       ledger->n_whole, ledger->end);
    const int code = check_whole(ledger, n, count->n_spans, count->span_sum, err);
    if (code == TD_OK) set_whole(ledger, n);
    return code;
}

int td_ledger_final(struct td_ledger *ledger, uint32_t n, const struct td_wire_final *final,
                    struct td_error *err)
{
    if (n != ledger->end)
        return td_fail(err, TD_EFORMAT, "FINAL at %u of a request that ends at %u", n, ledger->end);
    if (final->span_bytes != ledger->span_bytes)
        return td_fail(err, TD_EFORMAT, "FINAL: the sender counts %llu bytes, %llu came",
                       (unsigned long long) final->span_bytes,
                       (unsigned long long)ledger->span_bytes);
    const int code = check_whole(ledger, n, final->n_spans, final->span_sum, err);
    if (code != TD_OK) return code;
    set_whole(ledger, n);
    ledger->is_final = true;
    return TD_OK;
}

bool td_ledger_is_due(const struct td_ledger *ledger, uint32_t n, uint32_t checkpoint_tokens)
{
    if (n == ledger->end) return true;
    if (n <= ledger->n_whole || n > ledger->end || n - ledger->n_whole < checkpoint_tokens)
        return false;
    for (uint32_t il = 0; il < ledger->n_layers; il++)
        if (ledger->layers[il].mark > n) return false;
    return true;
}

bool td_ledger_next_span(const struct td_ledger *ledger, uint32_t layer, uint32_t n,
                         bool is_checkpoint, struct td_wire_header *out)
{
    assert(layer < ledger->n_layers);
    const struct td_ledger_layer *l = &ledger->layers[layer];
    const uint32_t end = td_min_u32(n, ledger->end);
    if (l->window > 0 && !is_checkpoint) return false;
    const uint32_t pos0 = td_max_u32(l->mark, first_visible(l, end));
    if (pos0 >= end) return false;
    const uint32_t n_frame = TD_WIRE_MAX_DATA / l->position_bytes;
    const uint32_t n_span = td_min_u32(end - pos0, n_frame);
    *out = (struct td_wire_header){.type = TD_WIRE_SPAN,
                                   .kv_type = (uint8_t)ledger->kv_type,
                                   .layer = layer,
                                   .pos0 = pos0,
                                   .n = n_span,
                                   .size_bytes = n_span * l->position_bytes};
    return true;
}

int td_ledger_resume(const struct td_ledger_record *records, uint32_t n_records,
                     const uint32_t *marks, uint32_t n_layers, const struct td_wire_resume *resume,
                     bool *is_sent_out, struct td_error *err)
{
    if (resume->n_layers != n_layers)
        return td_fail(err, TD_EFORMAT, "RESUME: %u layers instead of %u", resume->n_layers,
                       n_layers);
    uint64_t n_spans = 0, span_sum = 0;
    uint32_t n_reached = 0; // records before this one were sent before something that arrived
    for (uint32_t i = 0; i < n_records; i++) {
        const struct td_ledger_record *r = &records[i];
        is_sent_out[i] =
            r->layer != TD_LEDGER_CHECKPOINT && (uint64_t)r->pos0 + r->n <= marks[r->layer];
        if (!is_sent_out[i]) continue;
        n_spans++;
        span_sum += r->digest;
        n_reached = i;
    }
    if (n_spans != resume->n_spans || span_sum != resume->span_sum)
        return td_fail(err, TD_EFORMAT, "RESUME: the receiver has other spans than were sent");
    for (uint32_t i = 0; i < n_reached; i++) {
        if (records[i].layer == TD_LEDGER_CHECKPOINT)
            is_sent_out[i] = true;
        else if (!is_sent_out[i]) // one connection keeps the order
            return td_fail(err, TD_EFORMAT, "RESUME: the receiver has a later span than it says");
    }
    return TD_OK;
}
