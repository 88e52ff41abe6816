// SPDX-License-Identifier: MIT
// The public header, as a program outside the house sees it: nothing of src/ is included.
#include <tandem.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define MODEL "tests/data/gptoss-tiny.gguf"

static struct tandem_model *g_model;
static struct tandem_error err;

#define OK(call)                                                                                   \
    do {                                                                                           \
        if ((call) != TANDEM_OK) fail_msg("%s: %s", #call, err.msg);                               \
    } while (0)

static int setup(void **state)
{
    (void)state;
    return tandem_model_open(&g_model, MODEL, NULL, NULL, &err);
}

static int teardown(void **state)
{
    (void)state;
    tandem_model_close(g_model);
    return 0;
}

static struct tandem_engine *open_engine(uint32_t chunk)
{
    const struct tandem_engine_options options = {.n_threads = 2, .chunk_tokens = chunk};
    struct tandem_engine *e;
    OK(tandem_engine_open(&e, g_model, &options, &err));
    return e;
}

static void tokens_of(int32_t *out, uint32_t n, uint32_t seed)
{
    for (uint32_t i = 0; i < n; i++) out[i] = (int32_t)((i * 37 + seed) % 1999);
}

static void describes(void **state)
{
    (void)state;
    struct tandem_model_info info;
    tandem_model_describe(g_model, &info);
    assert_string_equal(info.architecture, "gpt-oss");
    assert_int_equal(strlen(info.digest), 16);
    assert_int_equal(info.n_vocab, 2000);
    assert_true(info.n_layers > 0 && info.weights_bytes > 1000000);
    assert_string_equal(info.note, "");
    assert_true(strlen(tandem_version()) >= 5);
}

static void says_what_is_wrong(void **state)
{
    (void)state;
    struct tandem_model *m = g_model;
    assert_int_equal(tandem_model_open(&m, "tests/data/absent.gguf", NULL, NULL, &err), TANDEM_EIO);
    assert_null(m);
    assert_int_equal(err.code, TANDEM_EIO);
    assert_non_null(strstr(err.msg, "absent.gguf"));
    assert_int_equal(tandem_model_open(&m, "tests/data/README.md", NULL, NULL, NULL),
                     TANDEM_EFORMAT); // without a place for the sentence
    assert_int_equal(tandem_model_open(&m, "synth:nothing", NULL, NULL, &err), TANDEM_EARG);

    struct tandem_engine *e;
    struct tandem_engine_options options = {.isa = "sse"};
    assert_int_equal(tandem_engine_open(&e, g_model, &options, &err), TANDEM_EARG);
    assert_null(e);
    assert_non_null(strstr(err.msg, "'sse'"));
    options = (struct tandem_engine_options){.n_threads = 100000};
    assert_int_equal(tandem_engine_open(&e, g_model, &options, &err), TANDEM_EARG);
    options = (struct tandem_engine_options){.chunk_tokens = 1u << 30};
    assert_int_equal(tandem_engine_open(&e, g_model, &options, &err), TANDEM_EARG);

    struct tandem_sampler *sampler;
    const struct tandem_sampling how = {.temp = -1};
    assert_int_equal(tandem_sampler_open(&sampler, g_model, &how, &err), TANDEM_EARG);
    assert_null(sampler);
    tandem_sampler_close(NULL);
    tandem_session_close(NULL);
    tandem_engine_close(NULL);
    tandem_tokenizer_close(NULL);
    tandem_model_close(NULL);
}

static void text_goes_there_and_back(void **state)
{
    (void)state;
    struct tandem_model *m;
    struct tandem_tokenizer *t;
    OK(tandem_model_open(&m, "synth:tiny", NULL, NULL, &err));
    struct tandem_model_info info;
    tandem_model_describe(m, &info);
    assert_true(strlen(info.note) > 0); // random weights must not pass for a model
    OK(tandem_tokenizer_open(&t, m, &err));
    tandem_model_close(m); // the tokenizer stands alone
    static const char text[] = "Hello, <|end|> world \xff\xf0";
    const size_t size = sizeof(text) - 1;
    int32_t ids[sizeof(text)];
    size_t n, n_special;
    OK(tandem_encode(t, text, size, true, ids, size, &n_special, &err));
    OK(tandem_encode(t, text, size, false, ids, size, &n, &err));
    assert_true(n > n_special && n <= size);
    char back[sizeof(text)] = {0};
    assert_int_equal(tandem_decode(t, ids, n, back, sizeof(back)), size);
    assert_memory_equal(back, text, size);
    memset(back, '?', sizeof(back));
    assert_int_equal(tandem_decode(t, ids, n, back, 5), size); // cut, and says how long it is
    assert_memory_equal(back, "Hello?", 6);

    int32_t few[3] = {-5, -5, -5};
    size_t needed = 0;
    assert_int_equal(tandem_encode(t, text, size, false, few, 2, &needed, &err), TANDEM_EFULL);
    assert_int_equal(needed, n);
    assert_memory_equal(few, ids, 2 * sizeof(*few));
    assert_int_equal(few[2], -5);
    OK(tandem_encode(t, "", 0, false, NULL, 0, &needed, &err));
    assert_int_equal(needed, 0);

    const int32_t end = tandem_token_find(t, "<|end|>");
    assert_true(end >= 0 && tandem_token_is_special(t, end));
    assert_true(tandem_token_ends_generation(t, tandem_token_find(t, "<|return|>")));
    assert_false(tandem_token_ends_generation(t, ids[0]));
    assert_int_equal(tandem_token_find(t, "no such token"), -1);
    size_t n_bytes = 1;
    tandem_token_bytes(t, -1, &n_bytes);
    assert_int_equal(n_bytes, 0);
    tandem_tokenizer_close(t);
}

struct watch {
    uint32_t n_calls;
    uint64_t done, total;
    uint64_t stop_at; // 0: never
};

static bool watch(void *ctx, uint64_t done, uint64_t total)
{
    struct watch *w = ctx;
    assert_true(done > w->done);
    w->n_calls++;
    w->done = done;
    w->total = total;
    return !w->stop_at || done < w->stop_at;
}

static void syncs_cancels_and_goes_on(void **state)
{
    (void)state;
    struct tandem_engine *e = open_engine(8);
    struct tandem_session *s;
    OK(tandem_session_open(&s, e, 64, &err));
    int32_t tokens[65], token;
    tokens_of(tokens, 65, 3);
    struct tandem_sampler *sampler;
    const struct tandem_sampling how = {.temp = 0.8f, .top_k = 50, .seed = 7};
    OK(tandem_sampler_open(&sampler, g_model, &how, &err));
    assert_null(tandem_session_logits(s));
    assert_int_equal(tandem_session_next(s, sampler, &token, &err), TANDEM_EARG);
    assert_int_equal(tandem_session_sync(s, tokens, 65, NULL, 0, NULL, NULL, &err), TANDEM_EFULL);
    assert_int_equal(tandem_session_sync(s, tokens, 0, NULL, 0, NULL, NULL, &err), TANDEM_EARG);

    struct watch w = {.stop_at = 16};
    assert_int_equal(tandem_session_sync(s, tokens, 40, NULL, 0, watch, &w, &err), TANDEM_ECANCEL);
    assert_int_equal(w.n_calls, 2);
    assert_null(tandem_session_logits(s));
    w = (struct watch){0};
    OK(tandem_session_sync(s, tokens, 40, NULL, 0, watch, &w, &err));
    assert_int_equal(tandem_session_reused(s), 16);
    assert_int_equal(w.n_calls, 3);
    assert_int_equal(w.done, 40);
    assert_int_equal(w.total, 40);
    assert_int_equal(tandem_session_len(s), 40);
    const float *logits = tandem_session_logits(s);
    assert_non_null(logits);

    // What next draws is what the logits say, with the same seed.
    struct tandem_sampler *same;
    OK(tandem_sampler_open(&same, g_model, &how, &err));
    const int32_t expected = tandem_sampler_draw(same, logits);
    OK(tandem_session_next(s, sampler, &token, &err));
    assert_int_equal(token, expected);
    uint32_t n = 1;
    int code;
    while ((code = tandem_session_next(s, sampler, &token, &err)) == TANDEM_OK) n++;
    assert_int_equal(code, TANDEM_EFULL);
    assert_int_equal(n, 24);
    tandem_session_cancel(s); // nothing is computed: forgotten by the next sync
    OK(tandem_session_sync(s, tokens, 30, NULL, 0, NULL, NULL, &err));
    tandem_sampler_close(same);
    tandem_sampler_close(sampler);
    tandem_session_close(s);
    tandem_engine_close(e);
}

// Two sessions of one engine, stepped together, give the bits of one alone.
static void steps_together(void **state)
{
    (void)state;
    struct tandem_engine *e = open_engine(16);
    struct tandem_session *s[2], *alone;
    int32_t tokens[2][30];
    const size_t row_bytes = 2000 * sizeof(float);
    for (uint32_t i = 0; i < 2; i++) {
        tokens_of(tokens[i], 30, 100 * i);
        OK(tandem_session_open(&s[i], e, 40, &err));
        OK(tandem_session_want(s[i], tokens[i], 29, NULL, 0, &err));
        assert_int_equal(tandem_session_state(s[i]), TANDEM_SESSION_READING);
    }
    uint32_t n_rows, n_steps = 0;
    do {
        OK(tandem_engine_step(e, &n_rows, &err));
        n_steps += n_rows > 0;
        for (uint32_t i = 0; i < 2; i++)
            if (tandem_session_state(s[i]) == TANDEM_SESSION_READY &&
                tandem_session_len(s[i]) == 29)
                OK(tandem_session_append(s[i], tokens[i][29], &err));
    } while (n_rows > 0);
    assert_true(n_steps >= 4);
    OK(tandem_session_open(&alone, e, 40, &err));
    for (uint32_t i = 0; i < 2; i++) {
        OK(tandem_session_sync(alone, tokens[i], 30, NULL, 0, NULL, NULL, &err));
        assert_int_equal(tandem_session_state(s[i]), TANDEM_SESSION_READY);
        assert_memory_equal(tandem_session_logits(s[i]), tandem_session_logits(alone), row_bytes);
    }
    tandem_session_close(alone);
    tandem_session_close(s[0]);
    tandem_session_close(s[1]);
    tandem_engine_close(e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(describes),
        cmocka_unit_test(says_what_is_wrong),
        cmocka_unit_test(text_goes_there_and_back),
        cmocka_unit_test(syncs_cancels_and_goes_on),
        cmocka_unit_test(steps_together),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
