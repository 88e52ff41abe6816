// SPDX-License-Identifier: MIT
// Arbitrary bytes as the spans and checkpoints of a request. Beside the ledger a table keeps, for
// each layer and position, what a receiver would hold that keeps window - 1 positions of a window
// layer aside; whatever checkpoint is accepted, all that a token there sees must be in the table.
#include "relay/ledger.h"

#include <stdlib.h>
#include <string.h>

enum { N_LAYERS = 3, MAX_TOKENS = 64 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool held[N_LAYERS][MAX_TOKENS];

static void take(struct td_ledger *b, const struct td_wire_header *h)
{
    const struct td_ledger_layer *l = &b->layers[h->layer];
    // A span that leaves a gap starts the layer anew, behind what is whole.
    for (uint32_t p = b->n_whole; h->pos0 > l->mark && p < h->pos0; p++) held[h->layer][p] = false;
    td_ledger_take_span(b, h);
    for (uint32_t p = h->pos0; p < h->pos0 + h->n; p++) held[h->layer][p] = true;
    for (uint32_t p = b->n_whole; l->window && p + l->window - 1 < l->mark; p++)
        held[h->layer][p] = false;
    if (l->begin > l->mark || l->mark > b->end) abort();
    if (l->window && l->mark - l->begin > l->window - 1) abort();
}

static void check_whole(const struct td_ledger *b)
{
    for (uint32_t il = 0; il < N_LAYERS; il++) {
        const uint32_t w = b->layers[il].window, n = b->n_whole;
        for (uint32_t p = w && n >= w ? n - w + 1 : 0; p < n; p++)
            if (!held[il][p]) abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 5) return 0;
    struct td_spec spec = {.n_layers = N_LAYERS};
    for (uint32_t il = 0; il < N_LAYERS; il++)
        spec.kv[il] = (struct td_kv_layer){.n_kv_heads = 1, .head_dim = 1, .window = data[il] % 24};
    struct td_ledger b;
    if (td_ledger_init(&b, &spec, TD_F16, data[3] % MAX_TOKENS, data[4] % MAX_TOKENS + 1u, NULL))
        return 0;
    for (uint32_t il = 0; il < N_LAYERS; il++) {
        memset(held[il], 0, MAX_TOKENS);
        memset(held[il], 1, b.have);
    }
    for (size_t i = 5; i + 3 <= size; i += 3) {
        const uint8_t what = data[i], x = data[i + 1], y = data[i + 2];
        const struct td_wire_checkpoint count = {b.n_spans + (what >= 250), b.span_sum};
        const struct td_wire_final final = {
            .n_spans = count.n_spans, .span_sum = b.span_sum, .span_bytes = b.span_bytes};
        struct td_wire_header h = {.type = TD_WIRE_SPAN,
                                   .kv_type = TD_F16,
                                   .layer = what % 4,
                                   .pos0 = x,
                                   .n = y % 32,
                                   .size_bytes = y % 32 * 4u + (y > 250)};
        switch (what / 4 % 4) {
        case 0: // anything
            if (td_ledger_check_span(&b, &h, NULL) == TD_OK) take(&b, &h);
            break;
        case 1: // what a sender would send
            if (what % 4 >= N_LAYERS || !td_ledger_next_span(&b, what % 4, x, y % 2, &h)) break;
            if (b.is_final) break;
            if (td_ledger_check_span(&b, &h, NULL) != TD_OK) abort();
            take(&b, &h);
            break;
        case 2:
            if (td_ledger_checkpoint(&b, x, &count, NULL) == TD_OK) check_whole(&b);
            break;
        case 3:
            if (td_ledger_final(&b, x, &final, NULL) == TD_OK) check_whole(&b);
            break;
        }
        (void)td_ledger_is_due(&b, x, y);
    }
    return 0;
}
