// SPDX-License-Identifier: MIT
// The ledger of a request: what a sender makes of it a receiver accepts, whatever the chunks and
// wherever the connection breaks; anything else is refused before it could be written.
#include "relay/ledger.h"

#include "base/num.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct td_error err;

#define OK(call)                                                                                   \
    do {                                                                                           \
        if ((call) != TD_OK) fail_msg("%s: %s", #call, err.msg);                                   \
    } while (0)

enum { MAX_RECORDS = 4096, N_LAYERS = 4 };

static void make_spec(struct td_spec *spec, uint32_t window)
{
    *spec = (struct td_spec){.n_layers = N_LAYERS};
    for (uint32_t il = 0; il < N_LAYERS; il++)
        spec->kv[il] =
            (struct td_kv_layer){.n_kv_heads = 2, .head_dim = 32, .window = il % 2 ? 0 : window};
}

// A sender's whole story of one request.
struct story {
    struct td_ledger_record records[MAX_RECORDS];
    struct td_wire_header spans[MAX_RECORDS]; // of the records that are spans
    struct td_wire_checkpoint counts[MAX_RECORDS];
    uint32_t n;
    struct td_ledger ledger;
};

static void tell_layer(struct story *s, uint32_t layer, uint32_t n, bool is_checkpoint)
{
    struct td_wire_header h;
    while (td_ledger_next_span(&s->ledger, layer, n, is_checkpoint, &h)) {
        h.request = 7;
        h.version = 1;
        h.sum = (uint64_t)h.pos0 * 1000 + layer;
        OK(td_ledger_check_span(&s->ledger, &h, &err));
        td_ledger_take_span(&s->ledger, &h);
        assert_true(s->n < MAX_RECORDS);
        s->spans[s->n] = h;
        s->records[s->n++] = (struct td_ledger_record){td_wire_span_digest(&h), layer, h.pos0, h.n};
    }
}

static void tell(struct story *s, const struct td_spec *spec, uint32_t have, uint32_t n_tokens,
                 uint32_t chunk, uint32_t checkpoint_tokens)
{
    s->n = 0;
    OK(td_ledger_init(&s->ledger, spec, TD_F16, have, n_tokens, &err));
    for (uint32_t pos = 0; pos < n_tokens - 1;) {
        pos = td_min_u32(pos + chunk, n_tokens - 1);
        const bool is_due = td_ledger_is_due(&s->ledger, pos, checkpoint_tokens);
        for (uint32_t il = 0; il < N_LAYERS; il++) tell_layer(s, il, pos, is_due);
        if (!is_due || pos == n_tokens - 1) continue;
        const struct td_wire_checkpoint count = {s->ledger.n_spans, s->ledger.span_sum};
        OK(td_ledger_checkpoint(&s->ledger, pos, &count, &err));
        s->counts[s->n] = count;
        s->records[s->n++] = (struct td_ledger_record){.layer = TD_LEDGER_CHECKPOINT, .n = pos};
    }
}

static void hear(struct td_ledger *receiver, const struct story *s, uint32_t i)
{
    if (s->records[i].layer == TD_LEDGER_CHECKPOINT) {
        OK(td_ledger_checkpoint(receiver, s->records[i].n, &s->counts[i], &err));
        return;
    }
    OK(td_ledger_check_span(receiver, &s->spans[i], &err));
    td_ledger_take_span(receiver, &s->spans[i]);
}

// The receiver hears the first n_heard records, loses the connection, resumes and hears the rest.
static void break_after(const struct story *s, const struct td_spec *spec, uint32_t n_heard)
{
    struct td_ledger receiver;
    OK(td_ledger_init(&receiver, spec, TD_F16, s->ledger.have, s->ledger.end + 1, &err));
    for (uint32_t i = 0; i < n_heard; i++) hear(&receiver, s, i);
    uint32_t marks[N_LAYERS];
    for (uint32_t il = 0; il < N_LAYERS; il++) marks[il] = receiver.layers[il].mark;
    struct td_wire_resume resume = {
        .n_spans = receiver.n_spans, .span_sum = receiver.span_sum, .n_layers = N_LAYERS};
    static bool is_sent[MAX_RECORDS];
    OK(td_ledger_resume(s->records, s->n, marks, N_LAYERS, &resume, is_sent, &err));
    for (uint32_t i = 0; i < s->n; i++) {
        // Only a checkpoint with nothing behind it may come twice.
        const bool may_repeat = i + 1 == n_heard && s->records[i].layer == TD_LEDGER_CHECKPOINT;
        if (!may_repeat) assert_int_equal(is_sent[i], i < n_heard);
        if (!is_sent[i]) hear(&receiver, s, i);
    }
    const struct td_wire_final final = {.n_spans = s->ledger.n_spans,
                                        .span_sum = s->ledger.span_sum,
                                        .span_bytes = s->ledger.span_bytes};
    OK(td_ledger_final(&receiver, s->ledger.end, &final, &err));
    assert_int_equal(receiver.n_whole, s->ledger.end);

    resume.span_sum++;
    assert_int_equal(td_ledger_resume(s->records, s->n, marks, N_LAYERS, &resume, is_sent, &err),
                     TD_EFORMAT);
}

static void breaks_anywhere_are_resumed(void **state)
{
    (void)state;
    static struct story s;
    struct td_rng rng = {5};
    for (int round = 0; round < 300; round++) {
        struct td_spec spec;
        make_spec(&spec, 1 + (uint32_t)(td_rng_u64(&rng) % 40));
        const uint32_t n_tokens = 2 + (uint32_t)(td_rng_u64(&rng) % 200);
        const uint32_t have =
            td_rng_u64(&rng) % 2 ? 0 : (uint32_t)(td_rng_u64(&rng) % (n_tokens - 1));
        const uint32_t chunk = 1 + (uint32_t)(td_rng_u64(&rng) % 50);
        tell(&s, &spec, have, n_tokens, chunk, 1 + (uint32_t)(td_rng_u64(&rng) % 90));
        for (uint32_t i = 0; i <= s.n; i++) break_after(&s, &spec, i);
    }
}

static void only_what_is_seen_travels(void **state)
{
    (void)state;
    static struct story s;
    struct td_spec spec;
    make_spec(&spec, 16);
    tell(&s, &spec, 0, 1001, 64, 256);
    uint32_t n_of_window = 0, n_of_full = 0, n_checkpoints = 0;
    for (uint32_t i = 0; i < s.n; i++) {
        if (s.records[i].layer == TD_LEDGER_CHECKPOINT)
            n_checkpoints++;
        else if (spec.kv[s.records[i].layer].window)
            n_of_window += s.records[i].n;
        else
            n_of_full += s.records[i].n;
    }
    assert_int_equal(n_checkpoints, 3); // 256, 512, 768; the end is FINAL's
    assert_int_equal(n_of_window, 2 * 4 * 15);
    assert_int_equal(n_of_full, 2 * 1000);
    // A span is never longer than a frame: 64 KiB a position.
    spec.kv[1] = (struct td_kv_layer){.n_kv_heads = 64, .head_dim = 256};
    tell(&s, &spec, 0, 101, 64, 256);
    for (uint32_t i = 0; i < s.n; i++)
        if (s.records[i].layer == 1) assert_true(s.records[i].n <= 16);
}

// A chunk that was computed again and then ended earlier: layers ahead of it put the checkpoint
// off, and what was sent stays sent.
static void a_shorter_second_try_is_no_trouble(void **state)
{
    (void)state;
    static struct story s;
    struct td_spec spec;
    make_spec(&spec, 16);
    s.n = 0;
    OK(td_ledger_init(&s.ledger, &spec, TD_F16, 0, 101, &err));
    assert_true(td_ledger_is_due(&s.ledger, 40, 40));
    tell_layer(&s, 0, 40, true);
    tell_layer(&s, 1, 40, true); // and then the run fails
    assert_false(td_ledger_is_due(&s.ledger, 30, 20));
    for (uint32_t il = 0; il < N_LAYERS; il++) tell_layer(&s, il, 30, false);
    assert_true(td_ledger_is_due(&s.ledger, 44, 20));
    for (uint32_t il = 0; il < N_LAYERS; il++) tell_layer(&s, il, 44, true);
    const struct td_wire_checkpoint count = {s.ledger.n_spans, s.ledger.span_sum};
    OK(td_ledger_checkpoint(&s.ledger, 44, &count, &err));
    struct td_ledger receiver;
    OK(td_ledger_init(&receiver, &spec, TD_F16, 0, 101, &err));
    for (uint32_t i = 0; i < s.n; i++) hear(&receiver, &s, i);
    OK(td_ledger_checkpoint(&receiver, 44, &count, &err));
}

static void wrong_frames_are_refused(void **state)
{
    (void)state;
    struct td_spec spec;
    make_spec(&spec, 16);
    struct td_ledger b, before;
    assert_int_equal(td_ledger_init(&b, &spec, TD_F16, 0, 1, &err), TD_EARG);
    assert_int_equal(td_ledger_init(&b, &spec, TD_F16, 99, 100, &err), TD_EARG);
    assert_int_equal(td_ledger_init(&b, &spec, TD_BF16, 0, 100, &err), TD_EUNSUP);
    spec.kv[2].head_dim = 40;
    assert_int_equal(td_ledger_init(&b, &spec, TD_Q8_0, 0, 100, &err), TD_EUNSUP);
    spec.kv[2].head_dim = 32;
    OK(td_ledger_init(&b, &spec, TD_Q8_0, 0, 100, &err));
    assert_int_equal(b.layers[0].position_bytes, 2 * 2 * 34);
    OK(td_ledger_init(&b, &spec, TD_F16, 10, 100, &err));
    const struct td_wire_header good = {.type = TD_WIRE_SPAN,
                                        .kv_type = TD_F16,
                                        .layer = 1,
                                        .pos0 = 10,
                                        .n = 20,
                                        .size_bytes = 20 * 256};
    OK(td_ledger_check_span(&b, &good, &err));
    struct td_wire_header bad[10];
    for (size_t i = 0; i < 10; i++) bad[i] = good;
    bad[0].layer = N_LAYERS;
    bad[1].layer = UINT32_MAX;
    bad[2].kv_type = TD_F32;
    bad[3].pos0 = 9;  // had already
    bad[4].pos0 = 11; // a gap
    bad[5].size_bytes -= 1;
    bad[6].n = 90, bad[6].size_bytes = 90 * 256; // token N - 1 is never sent
    bad[7].n = 0, bad[7].size_bytes = 0;
    bad[8].pos0 = UINT32_MAX;
    bad[9].n = UINT32_MAX;
    before = b;
    for (size_t i = 0; i < 10; i++)
        assert_int_equal(td_ledger_check_span(&b, &bad[i], &err), TD_EFORMAT);
    // Checkpoints: nothing came yet, wrong count, beyond the end, not the end.
    const struct td_wire_checkpoint none = {0, 0}, one = {1, 0};
    const struct td_wire_final no_final = {0};
    assert_int_equal(td_ledger_checkpoint(&b, 10, &none, &err), TD_EFORMAT);
    assert_int_equal(td_ledger_checkpoint(&b, 30, &none, &err), TD_EFORMAT);
    assert_int_equal(td_ledger_checkpoint(&b, 30, &one, &err), TD_EFORMAT);
    assert_int_equal(td_ledger_checkpoint(&b, 99, &none, &err), TD_EFORMAT);
    assert_int_equal(td_ledger_checkpoint(&b, UINT32_MAX, &none, &err), TD_EFORMAT);
    assert_int_equal(td_ledger_final(&b, 98, &no_final, &err), TD_EFORMAT);
    assert_int_equal(td_ledger_final(&b, 99, &no_final, &err), TD_EFORMAT);
    assert_memory_equal(&b, &before, sizeof(b));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(breaks_anywhere_are_resumed),
        cmocka_unit_test(only_what_is_seen_travels),
        cmocka_unit_test(a_shorter_second_try_is_no_trouble),
        cmocka_unit_test(wrong_frames_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
