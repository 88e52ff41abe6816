// SPDX-License-Identifier: MIT
// The wire codec: every type there and back, every truncation, every flipped bit, every bound.
#include "relay/wire.h"
#include "wire_samples.h"

#include <stdio.h>
#include <stdlib.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#define CAP (TD_WIRE_HEADER_BYTES + TD_WIRE_MAX_CONTROL)
static uint8_t frame[CAP], again[CAP];

static int read_frame(struct td_wire_msg *out, const uint8_t *bytes, size_t n, uint8_t type,
                      struct td_error *err)
{
    struct td_wire_header h;
    assert_true(n >= TD_WIRE_HEADER_BYTES);
    const int code = td_wire_get_header(&h, bytes, sample_channel(type), SAMPLE_VERSION, err);
    if (code) return code;
    if (h.size_bytes > n - TD_WIRE_HEADER_BYTES) return TD_EIO; // the link would wait for more
    return td_wire_decode(out, &h, bytes + TD_WIRE_HEADER_BYTES, err);
}

// Puts correct checksums on a damaged frame, so that what lies behind them is tested.
static void reseal(uint8_t *bytes, size_t n)
{
    const uint64_t sum = td_wire_sum(bytes + TD_WIRE_HEADER_BYTES, n - TD_WIRE_HEADER_BYTES);
    memcpy(bytes + 32, &sum, 8);
    const uint64_t header_sum = td_wire_sum(bytes, 40);
    memcpy(bytes + 40, &header_sum, 8);
}

static void test_checksum(void **state)
{
    (void)state;
    // Published values of XXH64 with seed 0.
    assert_true(td_wire_sum("", 0) == 0xEF46DB3751D8E999u);
    assert_true(td_wire_sum("a", 1) == 0xD24EC4F1A98C6E5Bu);
    assert_true(td_wire_sum("abc", 3) == 0x44BC2CF5AD770999u);
    assert_true(td_wire_sum("Nobody inspects the spammish repetition", 39) == 0xFBCEA83C8A378BF1u);
    // Every length up to a few blocks: a flipped bit anywhere is seen, an over-read by ASan.
    for (size_t n = 1; n < 100; n++) {
        uint8_t *p = malloc(n);
        assert_non_null(p);
        for (size_t i = 0; i < n; i++) p[i] = (uint8_t)(i * 37 + n);
        const uint64_t sum = td_wire_sum(p, n);
        for (size_t bit = 0; bit < 8 * n; bit++) {
            p[bit / 8] ^= (uint8_t)(1 << bit % 8);
            assert_true(td_wire_sum(p, n) != sum);
            p[bit / 8] ^= (uint8_t)(1 << bit % 8);
        }
        free(p);
    }
}

static void test_round_trip(void **state)
{
    (void)state;
    for (uint8_t type = TD_WIRE_HELLO; type < TD_WIRE_N_TYPES; type++) {
        const struct td_wire_msg m = sample(type);
        memset(frame, 0xee, sizeof(frame));
        const size_t n = td_wire_encode(frame, CAP, &m);
        assert_true(n >= TD_WIRE_HEADER_BYTES && frame[n] == 0xee);
        struct td_wire_msg got;
        struct td_error err = {0};
        assert_int_equal(read_frame(&got, frame, n, type, &err), TD_OK);
        assert_int_equal(got.h.type, type);
        assert_true(got.h.request == m.h.request && got.h.n == m.h.n && got.h.pos0 == m.h.pos0);
        assert_int_equal(got.h.layer, m.h.layer);
        assert_int_equal(got.h.kv_type, m.h.kv_type);
        assert_int_equal(got.items_bytes, m.items_bytes);
        if (m.items_bytes) assert_memory_equal(got.items, m.items, m.items_bytes);
        // The samples' texts leave the rest of their arrays zero, as decoding does.
        assert_memory_equal(&got.u, &m.u, sizeof(m.u));
        assert_int_equal(td_wire_encode(again, CAP, &got), n);
        assert_memory_equal(frame, again, n);
        assert_string_not_equal(td_wire_type_name(type), "?");
    }
    assert_string_equal(td_wire_type_name(0), "?");
    assert_string_equal(td_wire_type_name(TD_WIRE_N_TYPES), "?");
    assert_string_equal(td_wire_type_name(255), "?");
}

static void test_items(void **state)
{
    (void)state;
    struct td_wire_msg m = sample(TD_WIRE_TOKENS);
    for (uint32_t i = 0; i < 3; i++) assert_int_equal(td_wire_token(&m, i), sample_tokens[i]);
    m = sample(TD_WIRE_RESUME);
    for (uint32_t i = 0; i < 4; i++) assert_int_equal(td_wire_mark(&m, i), sample_marks[i]);
    m = sample(TD_WIRE_RATES);
    struct td_wire_rate r;
    td_wire_rate(&m, 1, &r);
    assert_int_equal(r.depth_tokens, 32768);
    assert_true(r.prefill_milli_tok_s == 1221230 && r.decode_milli_tok_s == 38760);
}

// A frame that ends early, and one whose header says that it ends early.
static void test_truncation(void **state)
{
    (void)state;
    for (uint8_t type = TD_WIRE_HELLO; type < TD_WIRE_N_TYPES; type++) {
        const struct td_wire_msg m = sample(type);
        const size_t n = td_wire_encode(frame, CAP, &m);
        for (size_t cut = TD_WIRE_HEADER_BYTES; cut < n; cut++) {
            struct td_wire_msg got;
            struct td_error err = {0};
            // Exactly as long as what is left: ASan sees a read beyond.
            uint8_t *bytes = malloc(cut);
            assert_non_null(bytes);
            memcpy(bytes, frame, cut);
            assert_int_not_equal(read_frame(&got, bytes, cut, type, &err), TD_OK);
            const uint32_t size_bytes = (uint32_t)(cut - TD_WIRE_HEADER_BYTES);
            memcpy(bytes + 28, &size_bytes, 4);
            reseal(bytes, cut);
            const int code = read_frame(&got, bytes, cut, type, &err);
            // Filler has no end of its own; KV must still be whole positions.
            const bool is_free =
                type == TD_WIRE_BLAST || (type == TD_WIRE_SPAN && size_bytes % 3 == 0);
            const bool is_rates = type == TD_WIRE_RATES && size_bytes % TD_WIRE_RATE_BYTES == 0;
            assert_int_equal(code, (is_free && size_bytes) || is_rates ? TD_OK : TD_EFORMAT);
            free(bytes);
        }
    }
}

static void test_bit_flips(void **state)
{
    (void)state;
    for (uint8_t type = TD_WIRE_HELLO; type < TD_WIRE_N_TYPES; type++) {
        const struct td_wire_msg m = sample(type);
        const size_t n = td_wire_encode(frame, CAP, &m);
        for (size_t bit = 0; bit < 8 * n; bit++) {
            struct td_wire_msg got;
            struct td_error err = {0};
            frame[bit / 8] ^= (uint8_t)(1 << bit % 8);
            assert_int_equal(read_frame(&got, frame, n, type, &err), TD_EFORMAT);
            assert_int_equal(err.code, TD_EFORMAT);
            // With right checksums: refused, or a valid frame that says exactly these bytes.
            memcpy(again, frame, n);
            reseal(again, n);
            if (read_frame(&got, again, n, type, &err) == TD_OK) {
                static uint8_t third[CAP];
                assert_int_equal(td_wire_encode(third, CAP, &got), n);
                assert_memory_equal(third, again, n);
            }
            frame[bit / 8] ^= (uint8_t)(1 << bit % 8);
        }
    }
}

static void test_one_byte_more(void **state)
{
    (void)state;
    for (uint8_t type = TD_WIRE_HELLO; type < TD_WIRE_N_TYPES; type++) {
        const struct td_wire_msg m = sample(type);
        size_t n = td_wire_encode(frame, CAP, &m);
        frame[n++] = 0;
        const uint32_t size_bytes = (uint32_t)(n - TD_WIRE_HEADER_BYTES);
        memcpy(frame + 28, &size_bytes, 4);
        reseal(frame, n);
        struct td_wire_msg got;
        const int code = read_frame(&got, frame, n, type, NULL);
        assert_int_equal(code, type == TD_WIRE_BLAST ? TD_OK : TD_EFORMAT);
    }
}

static void test_channels_and_versions(void **state)
{
    (void)state;
    struct td_wire_header h;
    struct td_error err;
    for (uint8_t type = TD_WIRE_HELLO; type < TD_WIRE_N_TYPES; type++) {
        const struct td_wire_msg m = sample(type);
        td_wire_encode(frame, CAP, &m);
        const enum td_wire_channel right = sample_channel(type);
        const enum td_wire_channel other = right == TD_WIRE_DATA ? TD_WIRE_CONTROL : TD_WIRE_DATA;
        const bool is_both = type == TD_WIRE_ERROR || type == TD_WIRE_PING || type == TD_WIRE_PONG;
        assert_int_equal(td_wire_get_header(&h, frame, other, 1, &err),
                         is_both ? TD_OK : TD_EFORMAT);
        const bool is_old = type == TD_WIRE_HELLO || type == TD_WIRE_ERROR;
        assert_int_equal(td_wire_get_header(&h, frame, right, 0, &err), is_old ? TD_OK : TD_EUNSUP);
        assert_int_equal(td_wire_get_header(&h, frame, right, 2, &err), is_old ? TD_OK : TD_EUNSUP);
    }
    // A frame that says version 0 and is neither HELLO nor ERROR.
    const struct td_wire_msg m = sample(TD_WIRE_PING);
    const size_t n = td_wire_encode(frame, CAP, &m);
    frame[4] = 0;
    reseal(frame, n);
    assert_int_equal(td_wire_get_header(&h, frame, TD_WIRE_CONTROL, 0, &err), TD_EFORMAT);
    assert_string_equal(err.msg, "relay: a PING frame before HELLO");
    memset(frame, 'G', TD_WIRE_HEADER_BYTES);
    assert_int_equal(td_wire_get_header(&h, frame, TD_WIRE_CONTROL, 1, &err), TD_EFORMAT);
    assert_string_equal(err.msg, "relay: the peer does not speak tandem's protocol");
}

// Writes size bytes of value at a byte of the frame, makes the sums right, and expects a refusal
// that names the field.
static void refuses(uint8_t type, size_t at, uint64_t value, size_t size, const char *field)
{
    const struct td_wire_msg m = sample(type);
    const size_t n = td_wire_encode(frame, CAP, &m);
    memcpy(frame + at, &value, size);
    reseal(frame, n);
    struct td_wire_msg got;
    struct td_error err = {0};
    char want[16];
    snprintf(want, sizeof(want), "'%s'", field);
    assert_int_equal(read_frame(&got, frame, n, type, &err), TD_EFORMAT);
    if (!strstr(err.msg, want)) fail_msg("%s, not %s", err.msg, want);
}

static void test_bounds(void **state)
{
    (void)state;
    enum { P = TD_WIRE_HEADER_BYTES };
    refuses(TD_WIRE_SPAN, 7, 1, 1, "reserved");
    refuses(TD_WIRE_SPAN, 8, 0, 8, "request");
    refuses(TD_WIRE_PING, 8, 1, 8, "request");
    refuses(TD_WIRE_SPAN, 16, TD_WIRE_MAX_LAYERS, 4, "layer");
    refuses(TD_WIRE_CHECKPOINT, 16, 1, 4, "layer");
    refuses(TD_WIRE_SPAN, 6, 39, 1, "kv_type");
    refuses(TD_WIRE_CANCEL, 6, 1, 1, "kv_type");
    refuses(TD_WIRE_CHECKPOINT, 20, 1, 4, "pos0");
    refuses(TD_WIRE_CHECKPOINT, 24, 0, 4, "n");
    refuses(TD_WIRE_SPAN, 24, 0, 4, "n");
    refuses(TD_WIRE_SPAN, 24, 5, 4, "n"); // 24 bytes are not 5 positions
    refuses(TD_WIRE_SPAN, 24, TD_WIRE_MAX_TOKENS + 1, 4, "n");
    refuses(TD_WIRE_SPAN, 20, TD_WIRE_MAX_TOKENS - 2, 4, "n");
    refuses(TD_WIRE_SPAN, 20, UINT32_MAX, 4, "n");
    refuses(TD_WIRE_SPAN, 28, TD_WIRE_MAX_DATA + 1, 4, "size");
    refuses(TD_WIRE_TOKENS, 28, TD_WIRE_MAX_CONTROL + 1, 4, "size");
    refuses(TD_WIRE_HELLO, P, 0, 2, "version_min");
    refuses(TD_WIRE_HELLO, P, 4, 2, "version_max");
    refuses(TD_WIRE_HELLO, P + 4, 2, 1, "role");
    refuses(TD_WIRE_HELLO, P + 5, 64, 1, "build");
    refuses(TD_WIRE_HELLO, P + 6, 0, 1, "build"); // a text with a NUL inside
    refuses(TD_WIRE_IDENTITY, P + 96, 0, 4, "kv_types");
    refuses(TD_WIRE_IDENTITY, P + 96, 4, 4, "kv_types");
    refuses(TD_WIRE_IDENTITY, P + 100, 8, 4, "flags");
    refuses(TD_WIRE_IDENTITY, P + 104, 0, 4, "n_layers");
    refuses(TD_WIRE_IDENTITY, P + 104, 513, 4, "n_layers");
    refuses(TD_WIRE_IDENTITY, P + 108, 0, 4, "n_vocab");
    refuses(TD_WIRE_WELCOME, P + 36, 0, 4, "progress_ms");
    refuses(TD_WIRE_WELCOME, P + 40, 0, 4, "n_slots");
    refuses(TD_WIRE_WELCOME, P + 44, 1, 4, "max_tokens");
    refuses(TD_WIRE_RATES, P, 32768, 4, "depth"); // not ascending
    refuses(TD_WIRE_RATES, P + 4, UINT64_MAX, 8, "rate");
    refuses(TD_WIRE_REQUEST, P, 1, 4, "n_tokens");
    refuses(TD_WIRE_REQUEST, P, TD_WIRE_MAX_TOKENS + 1, 4, "n_tokens");
    refuses(TD_WIRE_REQUEST, P + 4, 4999, 4, "have"); // N - 1: nothing would be left to do
    refuses(TD_WIRE_REQUEST, P + 8, 0, 4, "checkpoint_tokens");
    refuses(TD_WIRE_REQUEST, P + 12, 2, 4, "flags");
    refuses(TD_WIRE_REQUEST, P + 12, TD_WIRE_CANARY, 4, "n_tokens"); // too long for a canary
    refuses(TD_WIRE_TOKENS, P + 4, UINT32_MAX, 4, "token");
    refuses(TD_WIRE_TOKENS, P + 4, TD_WIRE_MAX_VOCAB, 4, "token");
    refuses(TD_WIRE_RESUME, P + 48, 3, 4, "n_layers");
    refuses(TD_WIRE_RESUME, P + 52, TD_WIRE_MAX_TOKENS + 1, 4, "mark");
    refuses(TD_WIRE_COMMITTED, P, TD_WIRE_MAX_TOKENS + 1, 4, "n_committed");
    refuses(TD_WIRE_PROBE, P, 2, 1, "towards_asker");
    refuses(TD_WIRE_PROBE, P + 1, 0, 8, "size_bytes");
    refuses(TD_WIRE_PROBE, P + 1, TD_WIRE_MAX_PROBE_BYTES + 1, 8, "size_bytes");
    refuses(TD_WIRE_ERROR, P + 2, 240, 1, "msg");
}

static void test_agree(void **state)
{
    (void)state;
    struct td_wire_hello a = {.version_min = 2, .version_max = 4, .build = "a"};
    struct td_wire_hello b = {.version_min = 1, .version_max = 3, .build = "b"};
    struct td_error err;
    uint8_t v = 0;
    assert_int_equal(td_wire_agree(&v, &a, &b, &err), TD_OK);
    assert_int_equal(v, 3);
    assert_int_equal(td_wire_agree(&v, &b, &a, &err), TD_OK);
    assert_int_equal(v, 3);
    b.version_max = 1;
    assert_int_equal(td_wire_agree(&v, &a, &b, &err), TD_EUNSUP);
    assert_non_null(strstr(err.msg, "update the peer"));
    assert_int_equal(td_wire_agree(&v, &b, &a, &err), TD_EUNSUP);
    assert_non_null(strstr(err.msg, "update this end"));
    assert_int_equal(v, 3);
}

static void test_seal_and_digest(void **state)
{
    (void)state;
    const struct td_wire_msg m = sample(TD_WIRE_SPAN);
    const size_t n = td_wire_encode(frame, CAP, &m);
    struct td_wire_header h = m.h;
    td_wire_seal(again, &h, m.items, m.items_bytes);
    assert_memory_equal(frame, again, TD_WIRE_HEADER_BYTES);
    assert_memory_equal(frame + TD_WIRE_HEADER_BYTES, m.items, n - TD_WIRE_HEADER_BYTES);
    const uint64_t digest = td_wire_span_digest(&h);
    // Says which span, and what is in it; not which request or connection.
    struct td_wire_header other = h;
    other.request++;
    assert_true(td_wire_span_digest(&other) == digest);
    other = h;
    other.layer++;
    assert_true(td_wire_span_digest(&other) != digest);
    other = h;
    other.pos0++;
    assert_true(td_wire_span_digest(&other) != digest);
    other = h;
    other.n--;
    assert_true(td_wire_span_digest(&other) != digest);
    other = h;
    other.kv_type = TD_Q8_0;
    assert_true(td_wire_span_digest(&other) != digest);
    other = h;
    other.sum ^= 1;
    assert_true(td_wire_span_digest(&other) != digest);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_checksum),
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_items),
        cmocka_unit_test(test_truncation),
        cmocka_unit_test(test_bit_flips),
        cmocka_unit_test(test_one_byte_more),
        cmocka_unit_test(test_channels_and_versions),
        cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_agree),
        cmocka_unit_test(test_seal_and_digest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
