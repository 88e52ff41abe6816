// SPDX-License-Identifier: MIT
// The tokenizer on a small vocabulary: merges, pieces, special tokens, bytes that are not text,
// malformed files, streaming UTF-8. Ids of a real vocabulary are checked by text.o200k.
#include "text/tokenizer.h"

#include "base/clock.h"
#include "base/num.h"
#include "small_vocab.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

static const char *const PRES[] = {"gpt-4o", "llama-bpe", "qwen2"};
#define N_PRES (sizeof(PRES) / sizeof(PRES[0]))

struct fixture {
    struct td_gguf *g;
    uint8_t *bytes;
    struct td_tokenizer *t;
};

static struct fixture open_small(const char *pre)
{
    struct fixture f = {0};
    struct td_error err = {0};
    f.g = small_gguf(pre, &f.bytes);
    if (td_tokenizer_open(&f.t, f.g, &err)) fail_msg("%s", err.msg);
    return f;
}

static void close_small(struct fixture *f)
{
    td_tokenizer_close(f->t);
    td_gguf_close(f->g);
    free(f->bytes);
}

// "hello/ w/aa/...": the tokens' bytes with a bar between, to read and compare.
static const char *bars(const struct td_tokenizer *t, const char *text, bool parse_special)
{
    static char out[4096];
    struct td_ids ids = {0};
    struct td_error err = {0};
    if (td_encode(t, text, strlen(text), parse_special, &ids, &err)) fail_msg("%s", err.msg);
    size_t n = 0;
    for (size_t i = 0; i < ids.n; i++) {
        const struct td_str s = td_token_bytes(t, ids.at[i]);
        if (i > 0) out[n++] = '|';
        memcpy(out + n, s.at, s.size_bytes);
        n += s.size_bytes;
        if (td_token_is_special(t, ids.at[i])) out[n++] = '!';
    }
    out[n] = 0;
    td_ids_free(&ids);
    return out;
}

static void test_merges(void **state)
{
    (void)state;
    struct fixture f = open_small("gpt-4o");
    assert_string_equal(bars(f.t, "hello", false), "hello");
    assert_string_equal(bars(f.t, "hello wall", false), "hello| w|a|ll");
    assert_string_equal(bars(f.t, "aaaaaaa", false), "aaaaaa|a");
    assert_string_equal(bars(f.t, "aaaaaaaaa", false), "aaaa|aaaa|a"); // "aaaa" outranks "aaaaaa"
    // (a b) is rank 21 and (b c) rank 22: the lower goes first, whatever the order in the text.
    assert_string_equal(bars(f.t, "abc", false), "abc");
    assert_string_equal(bars(f.t, "xbcab", false), "x|bc|ab");
    assert_string_equal(bars(f.t, "", false), "");
    close_small(&f);
}

static void test_pieces(void **state)
{
    (void)state;
    struct fixture o = open_small("gpt-4o"), l = open_small("llama-bpe"), q = open_small("qwen2");
    // Numbers: up to three digits in the first two, single ones in qwen2.
    assert_string_equal(bars(o.t, "12312", false), "123|12");
    assert_string_equal(bars(l.t, "12312", false), "123|12");
    assert_string_equal(bars(q.t, "12312", false), "1|2|3|1|2");
    // o200k keeps a contraction with its word, so "'s" can not be its own piece but still merges.
    assert_string_equal(bars(o.t, "a's", false), "a|'s");
    assert_string_equal(bars(l.t, "a's", false), "a|'s");
    // The last space before a word belongs to the word.
    assert_string_equal(bars(o.t, "     a", false), "    | |a");
    assert_string_equal(bars(o.t, "a\r\n\n  b", false), "a|\r\n|\n| | |b");
    // Only o200k takes slashes behind a line's end into the piece.
    assert_string_equal(bars(o.t, "!\n/", false), "!|\n/");
    assert_string_equal(bars(l.t, "!\n/", false), "!|\n|/");
    close_small(&o);
    close_small(&l);
    close_small(&q);
}

static void test_special(void **state)
{
    (void)state;
    struct fixture f = open_small("gpt-4o");
    assert_string_equal(bars(f.t, "<|start|>hello<|end|>", true), "<|start|>!|hello|<|end|>!");
    assert_string_equal(bars(f.t, "<|x|>y<|x|><|x<|", true), "<|x|>y!|<|x|>!|<|x!|<||");
    const char *plain = bars(f.t, "<|start|>", false);
    assert_null(strchr(plain, '!'));
    assert_int_equal(td_token_find(f.t, "<|start|>"), SMALL_SPECIAL(0));
    assert_int_equal(td_token_find(f.t, "hello"), 256 + 3);
    assert_int_equal(td_token_find(f.t, "<|nothing|>"), -1);
    assert_int_equal(td_token_find(f.t, ""), -1);
    assert_int_equal(td_token_bos(f.t), SMALL_SPECIAL(10));
    assert_int_equal(td_token_eos(f.t), SMALL_SPECIAL(5));
    assert_false(td_tokenizer_adds_bos(f.t));
    assert_true(td_token_ends_generation(f.t, SMALL_SPECIAL(5)));
    assert_true(td_token_ends_generation(f.t, SMALL_SPECIAL(6)));  // <|call|>
    assert_true(td_token_ends_generation(f.t, SMALL_SPECIAL(10))); // <|endoftext|>
    assert_false(td_token_ends_generation(f.t, SMALL_SPECIAL(1))); // <|end|>: the next message
    assert_false(td_token_ends_generation(f.t, -1));
    assert_int_equal(td_token_bytes(f.t, -1).size_bytes, 0);
    assert_int_equal(td_token_bytes(f.t, (int32_t)SMALL_N_VOCAB).size_bytes, 0);
    assert_int_equal(td_tokenizer_n_vocab(f.t), SMALL_N_VOCAB);
    close_small(&f);
    struct fixture l = open_small("llama-bpe");
    assert_true(td_tokenizer_adds_bos(l.t));
    close_small(&l);
}

static void check_round_trip(const struct td_tokenizer *t, const char *text, size_t n, bool special)
{
    struct td_ids ids = {0};
    struct td_error err = {0};
    if (td_encode(t, text, n, special, &ids, &err)) fail_msg("%s", err.msg);
    size_t at = 0;
    for (size_t i = 0; i < ids.n; i++) {
        const struct td_str s = td_token_bytes(t, ids.at[i]);
        assert_true(s.size_bytes > 0 && s.size_bytes <= n - at);
        assert_memory_equal(s.at, text + at, s.size_bytes);
        at += s.size_bytes;
    }
    assert_int_equal(at, n);
    td_ids_free(&ids);
}

static void test_round_trip(void **state)
{
    (void)state;
    // Pieces of text and of not quite text: cut characters, overlong forms, surrogates.
    static const char *const parts[] = {"hello",
                                        " ",
                                        "\n",
                                        "a",
                                        "123",
                                        "\xE4\xB8\xAD",
                                        "\xE4\xB8",
                                        "\xED\xA0\x80",
                                        "\xC0\x80",
                                        "\xF0\x9F\x98\x80",
                                        "\xF4\x90\x80\x80",
                                        "\xFF\xFF",
                                        "<|x|>",
                                        "'s",
                                        "\xF0\x9F",
                                        "\x80"};
    struct td_rng rng = {.state = 7};
    for (size_t k = 0; k < N_PRES; k++) {
        struct fixture f = open_small(PRES[k]);
        char all[256];
        for (size_t i = 0; i < 256; i++) {
            all[i] = (char)i;
            check_round_trip(f.t, all + i, 1, false);
        }
        check_round_trip(f.t, all, 256, false);
        for (int round = 0; round < 400; round++) {
            char text[512];
            size_t n = 0;
            for (uint64_t left = td_rng_u64(&rng) % 30; left > 0; left--) {
                const char *p = parts[td_rng_u64(&rng) % (sizeof(parts) / sizeof(parts[0]))];
                for (; *p; p++) text[n++] = *p;
                if (td_rng_u64(&rng) % 8 == 0) text[n++] = (char)td_rng_u64(&rng);
            }
            check_round_trip(f.t, text, n, round % 2 == 0);
        }
        close_small(&f);
    }
}

// A megabyte that is one piece must not take minutes; wall time is not checked closely here.
static void test_long_pieces(void **state)
{
    (void)state;
    static const char *const runs[] = {"a", " ", "A", "7", "\n", "!", "\xFF", "\xE4\xB8\xAD", "bc"};
    char *text = malloc(1 << 20);
    assert_non_null(text);
    for (size_t k = 0; k < N_PRES; k++) {
        const size_t n = k == 0 ? 1 << 20 : 1 << 17;
        struct fixture f = open_small(PRES[k]);
        for (size_t i = 0; i < sizeof(runs) / sizeof(runs[0]); i++) {
            const size_t step = strlen(runs[i]);
            for (size_t j = 0; j < n; j++) text[j] = runs[i][j % step];
            const uint64_t t0 = td_clock_ns();
            check_round_trip(f.t, text, n - n % step, false);
            assert_true(td_clock_ns() - t0 < UINT64_C(20000000000)); // sanitizers included
        }
        close_small(&f);
    }
    free(text);
}

static void test_failed_encode_leaves_out_alone(void **state)
{
    (void)state;
    struct small_vocab v;
    struct td_gguf_writer *w = NULL;
    small_vocab_make(&v);
    v.tokens['z'] = (struct td_str){.at = "zz", .size_bytes = 2}; // no token for 'z'
    assert_int_equal(td_gguf_writer_open(&w, NULL), TD_OK);
    small_vocab_put(w, &v, "gpt-4o");
    uint8_t *bytes = NULL;
    struct td_gguf *g = small_gguf_of(w, &bytes);
    struct td_tokenizer *t = NULL;
    struct td_error err = {0};
    assert_int_equal(td_tokenizer_open(&t, g, &err), TD_OK);
    struct td_ids ids = {0};
    assert_int_equal(td_encode(t, "hello", 5, false, &ids, &err), TD_OK);
    assert_int_equal(td_encode(t, "hello z", 7, false, &ids, &err), TD_EUNSUP);
    assert_string_equal(err.msg, "tokenizer: the vocabulary has no token for byte 122");
    assert_int_equal(ids.n, 1);
    td_ids_free(&ids);
    td_tokenizer_close(t);
    td_gguf_close(g);
    free(bytes);
    free(v.text);
}

// Opens a vocabulary after one change; the sentence must hold `expected`.
enum change {
    NO_MODEL,
    OTHER_MODEL,
    NO_PRE,
    OTHER_PRE,
    NO_TOKENS,
    EMPTY_TOKENS,
    TOKENS_ARE_NUMBERS,
    TYPES_ARE_TEXT,
    FEWER_TYPES,
    UNKNOWN_TYPE,
    NEGATIVE_TYPE,
    MERGES_ARE_NUMBERS,
    MERGE_WITHOUT_SPACE,
    MERGE_LEFT,
    MERGE_RIGHT,
    MERGE_RESULT,
    MERGE_ALPHABET,
    MERGE_EMPTY,
    SAME_TOKENS,
    SAME_SPECIALS,
    LONG_TOKEN,
    LONG_SPECIAL,
    BOS_RANGE,
    EOS_TEXT,
    N_CHANGES
};

static const char *const EXPECTED[N_CHANGES] = {
    [NO_MODEL] = "tokenizer.ggml.model is missing",
    [OTHER_MODEL] = "tokenizer.ggml.model is 'llama'",
    [NO_PRE] = "tokenizer.ggml.pre is missing",
    [OTHER_PRE] = "tokenizer.ggml.pre is 'default'",
    [NO_TOKENS] = "tokenizer.ggml.tokens is missing",
    [EMPTY_TOKENS] = "has 0 tokens",
    [TOKENS_ARE_NUMBERS] = "tokenizer.ggml.tokens is not a list of strings",
    [TYPES_ARE_TEXT] = "tokenizer.ggml.token_type is not a list of 32-bit integers",
    [FEWER_TYPES] = "tokenizer.ggml.token_type has 3 entries",
    [UNKNOWN_TYPE] = "token 5 has the unknown type 99",
    [NEGATIVE_TYPE] = "token 5 has the unknown type -1",
    [MERGES_ARE_NUMBERS] = "tokenizer.ggml.merges is not a list of strings",
    [MERGE_WITHOUT_SPACE] = "merge 2 ('hell') is not two tokens",
    [MERGE_LEFT] = "merge 2 ('qqq a'): its first part is not a token",
    [MERGE_RIGHT] = "merge 2 ('a qqq'): its second part is not a token",
    [MERGE_RESULT] = "merge 2 ('q q'): what it makes is not a token",
    [MERGE_ALPHABET] = "merge 2 ('a \?\?\?') has characters outside",
    [MERGE_EMPTY] = "merge 2 ('') is not two tokens",
    [SAME_TOKENS] = "tokens 65 and 66 are the same ('A')",
    [SAME_SPECIALS] = "are the same ('<|end|>')",
    [LONG_TOKEN] = "token 270 has 20000 bytes",
    [LONG_SPECIAL] = "has 300 bytes, at most 256",
    [BOS_RANGE] = "tokenizer.ggml.bos_token_id is 5000000",
    [EOS_TEXT] = "tokenizer.ggml.eos_token_id",
};

static void put_tokens(struct td_gguf_writer *w, enum change c, struct small_vocab *v,
                       const char *spare)
{
    if (c == SAME_TOKENS) v->tokens[66] = v->tokens[65];
    if (c == SAME_SPECIALS) v->tokens[SMALL_SPECIAL(0)] = v->tokens[SMALL_SPECIAL(1)];
    if (c == LONG_TOKEN) v->tokens[270] = (struct td_str){.at = spare, .size_bytes = 20000};
    if (c == LONG_SPECIAL)
        v->tokens[SMALL_SPECIAL(3)] = (struct td_str){.at = spare, .size_bytes = 300};
    if (c == UNKNOWN_TYPE) v->types[5] = 99;
    if (c == NEGATIVE_TYPE) v->types[5] = -1;
    if (c == TOKENS_ARE_NUMBERS)
        td_gguf_put_i32s(w, "tokenizer.ggml.tokens", v->types, SMALL_N_VOCAB);
    else if (c != NO_TOKENS)
        td_gguf_put_strs(w, "tokenizer.ggml.tokens", v->tokens,
                         c == EMPTY_TOKENS ? 0 : SMALL_N_VOCAB);
    if (c == TYPES_ARE_TEXT)
        td_gguf_put_strs(w, "tokenizer.ggml.token_type", v->tokens, SMALL_N_VOCAB);
    else
        td_gguf_put_i32s(w, "tokenizer.ggml.token_type", v->types,
                         c == FEWER_TYPES ? 3 : SMALL_N_VOCAB);
}

static void put_merges(struct td_gguf_writer *w, enum change c, struct small_vocab *v)
{
    static const char *const merge[N_CHANGES] = {[MERGE_WITHOUT_SPACE] = "hell",
                                                 [MERGE_LEFT] = "qqq a",
                                                 [MERGE_RIGHT] = "a qqq",
                                                 [MERGE_RESULT] = "q q",
                                                 [MERGE_EMPTY] = "",
                                                 [MERGE_ALPHABET] = "a \xE4\xB8\xAD"};
    if (merge[c]) v->merges[2] = (struct td_str){.at = merge[c], .size_bytes = strlen(merge[c])};
    if (c == MERGES_ARE_NUMBERS)
        td_gguf_put_i32s(w, "tokenizer.ggml.merges", v->types, SMALL_N_MERGES);
    else
        td_gguf_put_strs(w, "tokenizer.ggml.merges", v->merges, SMALL_N_MERGES);
}

static void check_change(enum change c)
{
    static char spare[20000];
    memset(spare, 'q', sizeof(spare));
    struct small_vocab v;
    struct td_gguf_writer *w = NULL;
    small_vocab_make(&v);
    assert_int_equal(td_gguf_writer_open(&w, NULL), TD_OK);
    td_gguf_put_str(w, "general.architecture", "gpt-oss");
    if (c != NO_MODEL)
        td_gguf_put_str(w, "tokenizer.ggml.model", c == OTHER_MODEL ? "llama" : "gpt2");
    if (c != NO_PRE)
        td_gguf_put_str(w, "tokenizer.ggml.pre", c == OTHER_PRE ? "default" : "gpt-4o");
    put_tokens(w, c, &v, spare);
    put_merges(w, c, &v);
    td_gguf_put_u32(w, "tokenizer.ggml.bos_token_id", c == BOS_RANGE ? 5000000 : 1);
    if (c == EOS_TEXT) td_gguf_put_str(w, "tokenizer.ggml.eos_token_id", "1");
    uint8_t *bytes = NULL;
    struct td_gguf *g = small_gguf_of(w, &bytes);
    struct td_tokenizer *t = NULL;
    struct td_error err = {0};
    const int code = td_tokenizer_open(&t, g, &err);
    if (code == TD_OK || t) fail_msg("change %d was accepted", c);
    assert_true(code == TD_EFORMAT || code == TD_EUNSUP);
    if (!strstr(err.msg, EXPECTED[c]) || !strstr(err.msg, "small.gguf"))
        fail_msg("change %d: '%s' does not say '%s'", c, err.msg, EXPECTED[c]);
    td_gguf_close(g);
    free(bytes);
    free(v.text);
}

static void test_bad_files(void **state)
{
    (void)state;
    for (int c = 0; c < N_CHANGES; c++) check_change((enum change)c);
}

// What other converters write, and is no mistake: tokens of undefined type, empty and unused ones,
// -1 for an id there is not, keys that are nothing to the tokenizer.
static void test_odd_files(void **state)
{
    (void)state;
    struct small_vocab v;
    struct td_gguf_writer *w = NULL;
    small_vocab_make(&v);
    for (int i = 0; i < 256; i += 2) v.types[i] = 0;
    v.tokens[SMALL_SPECIAL(7)] = (struct td_str){.at = "", .size_bytes = 0};
    v.tokens[SMALL_SPECIAL(8)] = (struct td_str){.at = "", .size_bytes = 0};
    v.tokens[SMALL_SPECIAL(9)] = (struct td_str){.at = "[PAD290]", .size_bytes = 8};
    v.types[SMALL_SPECIAL(9)] = 5;
    assert_int_equal(td_gguf_writer_open(&w, NULL), TD_OK);
    small_vocab_put(w, &v, "gpt-4o");
    td_gguf_put_u32(w, "tokenizer.ggml.eot_token_id", UINT32_MAX);
    td_gguf_put_u64(w, "tokenizer.ggml.eom_token_id", UINT64_MAX);
    td_gguf_put_u32(w, "tokenizer.ggml.padding_token_id", UINT32_MAX);
    td_gguf_put_str(w, "tokenizer.chat_template", "{{ messages }}");
    uint8_t *bytes = NULL;
    struct td_gguf *g = small_gguf_of(w, &bytes);
    struct td_tokenizer *t = NULL;
    struct td_error err = {0};
    if (td_tokenizer_open(&t, g, &err)) fail_msg("%s", err.msg);
    check_round_trip(t, "hello [PAD290] hall", 19, true);
    struct td_ids ids = {0};
    assert_int_equal(td_encode(t, "hello", 5, true, &ids, &err), TD_OK);
    assert_int_equal(ids.n, 1);
    td_ids_free(&ids);
    assert_false(td_tokenizer_adds_bos(t));
    assert_int_equal(td_token_eos(t), SMALL_SPECIAL(5));
    td_tokenizer_close(t);
    td_gguf_close(g);
    free(bytes);
    free(v.text);
}

// The reason is in the sentence, however deep the file lies.
static void test_long_path(void **state)
{
    (void)state;
    char path[400];
    memset(path, 'd', sizeof(path));
    snprintf(path + 380, sizeof(path) - 380, "/m.gguf");
    struct td_gguf_writer *w = NULL;
    const uint8_t *header = NULL;
    size_t n = 0;
    assert_int_equal(td_gguf_writer_open(&w, NULL), TD_OK);
    td_gguf_put_str(w, "tokenizer.ggml.model", "gpt2");
    td_gguf_put_str(w, "tokenizer.ggml.pre", "other");
    assert_int_equal(td_gguf_writer_header(w, &header, &n, NULL), TD_OK);
    struct td_gguf *g = NULL;
    struct td_tokenizer *t = NULL;
    struct td_error err = {0};
    assert_int_equal(td_gguf_parse(&g, header, n, path, true, NULL), TD_OK);
    assert_int_equal(td_tokenizer_open(&t, g, &err), TD_EUNSUP);
    if (!strstr(err.msg, "/m.gguf: tokenizer.ggml.pre is 'other'")) fail_msg("%s", err.msg);
    td_gguf_close(g);
    td_gguf_writer_close(w);
}

// Feeds text in steps and compares with what must come out.
static void check_stream(const char *in, size_t n, const char *expected)
{
    for (size_t step = 1; step <= n; step++) {
        struct td_utf8_stream s = {0};
        char out[256];
        size_t n_out = 0;
        for (size_t at = 0; at < n; at += step)
            n_out += td_utf8_feed(&s, in + at, n - at < step ? n - at : step, out + n_out);
        n_out += td_utf8_finish(&s, out + n_out);
        out[n_out] = 0;
        assert_string_equal(out, expected);
    }
}

#define FFFD "\xEF\xBF\xBD"

static void test_utf8_stream(void **state)
{
    (void)state;
#define CHECK(in, expected) check_stream(in, sizeof(in) - 1, expected)
    CHECK("plain", "plain");
    CHECK("\xE4\xB8\xAD\xF0\x9F\x98\x80\xC3\xA9", "\xE4\xB8\xAD\xF0\x9F\x98\x80\xC3\xA9");
    CHECK("a\xFFz", "a" FFFD "z");
    CHECK("\xE4\xB8", FFFD); // cut off: one maximal subpart
    CHECK("\xE4\xB8x", FFFD "x");
    CHECK("\xF0\x9F\xE4\xB8\xAD", FFFD "\xE4\xB8\xAD");
    CHECK("\xED\xA0\x80", FFFD FFFD FFFD); // a surrogate: no valid character starts ED A0
    CHECK("\xC0\x80", FFFD FFFD);
    CHECK("\xF4\x90\x80\x80", FFFD FFFD FFFD FFFD);
    CHECK("\x80\x80", FFFD FFFD);
#undef CHECK
}

static void *encode_often(void *ctx)
{
    static const char text[] = "hello wall 123 aaaaaaaaaaaaaaaa \xFF\xFF <|start|> \xE4\xB8\xAD";
    uintptr_t n_bad = 0;
    for (int i = 0; i < 200; i++) {
        struct td_ids ids = {0};
        n_bad += td_encode(ctx, text, sizeof(text) - 1, i % 2 == 0, &ids, NULL) != TD_OK;
        n_bad += ids.n == 0;
        td_ids_free(&ids);
    }
    return (void *)n_bad; // NOLINT(performance-no-int-to-ptr): a count, not an address
}

// One tokenizer, several threads: for the sanitizer.
static void test_threads(void **state)
{
    (void)state;
    struct fixture f = open_small("gpt-4o");
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, encode_often, f.t), 0);
    for (int i = 0; i < 4; i++) {
        void *n_bad = NULL;
        assert_int_equal(pthread_join(threads[i], &n_bad), 0);
        assert_null(n_bad);
    }
    close_small(&f);
}

static void test_ids(void **state)
{
    (void)state;
    struct td_ids ids = {0};
    for (int32_t i = 0; i < 1000; i++) assert_int_equal(td_ids_push(&ids, i), TD_OK);
    for (int32_t i = 0; i < 1000; i++) assert_int_equal(ids.at[i], i);
    td_ids_free(&ids);
    assert_null(ids.at);
    td_ids_free(&ids);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_merges),      cmocka_unit_test(test_pieces),
        cmocka_unit_test(test_special),     cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_long_pieces), cmocka_unit_test(test_failed_encode_leaves_out_alone),
        cmocka_unit_test(test_bad_files),   cmocka_unit_test(test_odd_files),
        cmocka_unit_test(test_long_path),   cmocka_unit_test(test_utf8_stream),
        cmocka_unit_test(test_threads),     cmocka_unit_test(test_ids),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
