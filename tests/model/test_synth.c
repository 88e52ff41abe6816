// SPDX-License-Identifier: MIT
// Synthetic models: the same bytes however they are made, values that behave, a usable vocabulary.
#include "model/synth.h"

#include "base/num.h"
#include "reference/ref_gptoss.h"

#include <inttypes.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static struct td_model *open_model(const char *path, uint32_t n_threads, bool header_only)
{
    const struct td_model_options opt = {.n_threads = n_threads, .header_only = header_only};
    struct td_error err = {0};
    struct td_model *m = NULL;
    if (td_model_open(&m, path, &opt, &err) != TD_OK) fail_msg("%s: %s", path, err.msg);
    return m;
}

static void test_parse_errors(void **state)
{
    (void)state;
    static const struct {
        const char *text, *says;
    } cases[] = {
        {"", "no shape ''"},
        {"gpt-oss-21b", "no shape 'gpt-oss-21b'"},
        {"tiny,", "'' is not key=value"},
        {"tiny,layers", "'layers' is not key=value"},
        {"tiny,layer=2", "no key 'layer'"},
        {"tiny,layers=", "layers is ''"},
        {"tiny,layers=0", "possible are 1 to 512"},
        {"tiny,layers=513", "possible are 1 to 512"},
        {"tiny,layers=-1", "layers is '-1'"},
        {"tiny,layers=2x", "layers is '2x'"},
        {"tiny,layers=4294967298", "possible are"},
        {"tiny,layers=99999999999999999999999", "possible are"},
        {"tiny,seed=abc", "seed is 'abc'"},
        {"tiny,vocab=100", "vocab is '100'"},
        {"tiny,hidden=100", "hidden is 100"},
        {"tiny,ff=33", "ff is 33"},
        {"tiny,head-dim=24,heads=4", "not a multiple of 16"},
        {"tiny,heads=3", "3 heads are not a multiple of 2 kv-heads"},
        {"tiny,heads=2,kv-heads=4", "2 heads are not a multiple"},
        {"tiny,head-dim=16,heads=1,kv-heads=1", "heads x head-dim is 16"},
        {"tiny,top-k=9", "top-k is 9 of only 8"},
        {"tiny,experts-type=Q4_K", "experts-type is 'Q4_K'"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct td_synth_shape shape = {.n_layers = 77};
        struct td_error err = {0};
        assert_int_equal(td_synth_parse(&shape, cases[i].text, &err), TD_EARG);
        if (!strstr(err.msg, cases[i].says)) fail_msg("'%s' says: %s", cases[i].text, err.msg);
        assert_int_equal(shape.n_layers, 77); // untouched
    }
    char text[1000];
    memset(text, 'x', sizeof(text));
    text[sizeof(text) - 1] = '\0';
    struct td_synth_shape shape;
    struct td_error err = {0};
    assert_int_equal(td_synth_parse(&shape, text, &err), TD_EARG);
}

static void test_parse(void **state)
{
    (void)state;
    struct td_synth_shape s;
    assert_int_equal(td_synth_parse(&s,
                                    "gpt-oss-20b,seed=18446744073709551615,layers=3,top-k=2,"
                                    "attn-type=bf16,window=7",
                                    NULL),
                     TD_OK);
    assert_true(s.seed == UINT64_MAX);
    assert_int_equal(s.n_layers, 3);
    assert_int_equal(s.n_experts_used, 2);
    assert_int_equal(s.n_experts, 32);
    assert_int_equal(s.type_attn, TD_BF16);
    assert_int_equal(s.type_experts, TD_MXFP4);
    assert_int_equal(s.window, 7);
}

static uint8_t *read_all(const char *path, size_t *n_out)
{
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    assert_int_equal(fseek(f, 0, SEEK_END), 0);
    const long n = ftell(f);
    rewind(f);
    uint8_t *p = malloc((size_t)n);
    assert_non_null(p);
    assert_int_equal(fread(p, 1, (size_t)n, f), n);
    fclose(f);
    *n_out = (size_t)n;
    return p;
}

static void temp_path(char out[static 64], const char *name)
{
    snprintf(out, 64, "/tmp/td_test_synth.%d.%s.gguf", (int)getpid(), name);
}

static void write_synth(const char *text, const char *path, uint32_t n_threads)
{
    struct td_synth_shape s;
    struct td_error err = {0};
    const struct td_model_options opt = {.n_threads = n_threads};
    if (td_synth_parse(&s, text, &err) != TD_OK || td_synth_write(&s, path, &opt, &err) != TD_OK)
        fail_msg("%s", err.msg);
}

static uint64_t fnv1a(const uint8_t *p, size_t n)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < n; i++) h = (h ^ p[i]) * 0x100000001b3u;
    return h;
}

static void assert_same_weights(const struct td_model *a, const struct td_model *b)
{
    assert_int_equal(a->n_weights, b->n_weights);
    for (uint32_t i = 0; i < a->n_weights; i++) {
        assert_string_equal(a->weights[i].name, b->weights[i].name);
        assert_int_equal(a->weights[i].size_bytes, b->weights[i].size_bytes);
        assert_memory_equal(a->weights[i].data, b->weights[i].data, a->weights[i].size_bytes);
    }
}

// Every type, tensors of several pieces and of a part of one.
static const char mixed[] = "tiny,layers=2,hidden=64,heads=6,head-dim=16,ff=96,experts=5,top-k=2,"
                            "vocab=2500,experts-type=q8_0,attn-type=f16,embd-type=bf16,seed=7";

static void test_same_bytes_for_any_threads(void **state)
{
    (void)state;
    static const char *const texts[] = {"tiny", mixed};
    // Recorded on x86-64; any machine must make the same.
    static const uint64_t golden[] = {0x6b5a9b6cba391e9fu, 0x1875b1efb15b4286u};
    char one[64], three[64];
    temp_path(one, "one");
    temp_path(three, "three");
    for (int i = 0; i < 2; i++) {
        write_synth(texts[i], one, 1);
        write_synth(texts[i], three, 3);
        size_t n1, n3;
        uint8_t *a = read_all(one, &n1), *b = read_all(three, &n3);
        assert_int_equal(n1, n3);
        assert_memory_equal(a, b, n1);
        if (fnv1a(a, n1) != golden[i]) fail_msg("%s: 0x%016" PRIx64, texts[i], fnv1a(a, n1));
        free(a);
        free(b);

        char text[256];
        snprintf(text, sizeof(text), "synth:%s", texts[i]);
        struct td_model *file = open_model(one, 0, false), *memory = open_model(text, 2, false);
        assert_same_weights(file, memory);
        td_model_close(file);
        td_model_close(memory);
    }
    remove(one);
    remove(three);
}

static void test_seed_changes_values_and_digest(void **state)
{
    (void)state;
    struct td_model *a = open_model("synth:tiny", 1, false);
    struct td_model *b = open_model("synth:tiny,seed=2", 1, false);
    assert_string_not_equal(a->digest, b->digest);
    for (uint32_t i = 0; i < a->n_weights; i++)
        assert_memory_not_equal(a->weights[i].data, b->weights[i].data, a->weights[i].size_bytes);
    assert_non_null(strstr(b->note, "synthetic"));
    td_model_close(a);
    td_model_close(b);
}

static const struct td_weight_info *weight(const struct td_model *m, const char *name)
{
    for (uint32_t i = 0; i < m->n_weights; i++)
        if (strcmp(m->weights[i].name, name) == 0) return &m->weights[i];
    fail_msg("no weight %s", name);
    return NULL;
}

static void test_pool(void **state)
{
    (void)state;
    struct td_model *m = open_model("synth:tiny,layers=5,pool=2", 2, false);
    const uint8_t *l0 = weight(m, "blk.0.attn_q.weight")->data;
    const uint8_t *l1 = weight(m, "blk.1.attn_q.weight")->data;
    assert_ptr_not_equal(l0, l1);
    assert_ptr_equal(weight(m, "blk.2.attn_q.weight")->data, l0);
    assert_ptr_equal(weight(m, "blk.3.attn_q.weight")->data, l1);
    assert_ptr_equal(weight(m, "blk.4.attn_q.weight")->data, l0);
    assert_non_null(strstr(m->note, "pooled"));
    struct td_model *whole = open_model("synth:tiny,layers=5", 2, false);
    assert_null(strstr(whole->note, "pooled"));
    assert_string_not_equal(m->digest, whole->digest);
    assert_memory_equal(weight(whole, "blk.1.attn_q.weight")->data, l1, 100);
    td_model_close(whole);

    char path[64]; // a file says the same as memory
    temp_path(path, "pool");
    write_synth("tiny,layers=5,pool=2", path, 2);
    struct td_model *file = open_model(path, 0, false);
    assert_same_weights(file, m);
    remove(path);
    td_model_close(file);
    td_model_close(m);
}

static void test_published_shapes(void **state)
{
    (void)state;
    struct td_model *m = open_model("synth:gpt-oss-120b", 1, true);
    assert_int_equal(m->spec.n_layers, 36);
    assert_int_equal(m->spec.n_experts, 128);
    assert_int_equal(m->spec.n_vocab, 201088);
    assert_null(m->weights[0].data);
    // The published files are 63.4 and 12.1 GB, of which some 10 MB are vocabulary.
    assert_true(m->weights_bytes / 100000000 == 633);
    td_model_close(m);
    m = open_model("synth:gpt-oss-20b", 1, true);
    assert_true(m->weights_bytes / 10000000 == 1209);
    assert_int_equal(m->spec.kv[0].window, 128);
    assert_int_equal(m->spec.kv[1].window, 0);
    assert_int_equal(m->spec.kv[23].window, 0);
    // 12 full layers of 8 heads of 64, K and V, two bytes each.
    assert_int_equal(td_spec_kv_bytes_per_token(&m->spec, 2), 12 * 2 * 8 * 64 * 2);
    assert_int_equal(td_spec_kv_window_bytes(&m->spec, 2), 12 * 128 * 2 * 8 * 64 * 2);
    td_model_close(m);
}

static bool stop_at_half(void *ctx, uint64_t done, uint64_t total)
{
    uint32_t *n_calls = ctx;
    ++*n_calls;
    return done < total / 2;
}

static void test_cancel_leaves_nothing(void **state)
{
    (void)state;
    uint32_t n_calls = 0;
    const struct td_model_options opt = {
        .n_threads = 2, .progress = stop_at_half, .progress_ctx = &n_calls};
    struct td_synth_shape s;
    assert_int_equal(td_synth_parse(&s, "tiny", NULL), TD_OK);
    char path[64], part[80];
    temp_path(path, "cancel");
    snprintf(part, sizeof(part), "%s.part", path);
    struct td_error err = {0};
    assert_int_equal(td_synth_write(&s, path, &opt, &err), TD_ECANCEL);
    assert_true(n_calls > 1);
    assert_int_equal(access(path, F_OK), -1);
    assert_int_equal(access(part, F_OK), -1);

    struct td_model *m = NULL;
    n_calls = 0;
    // Whether the leader claims the last pieces is up to chance: it always makes some.
    const struct td_model_options now = {
        .n_threads = 1, .progress = stop_at_half, .progress_ctx = &n_calls};
    assert_int_equal(td_model_open(&m, "synth:tiny", &now, &err), TD_ECANCEL);
    assert_null(m);
    assert_int_equal(td_synth_write(&s, "/nonexistent/x.gguf", NULL, &err), TD_EIO);
    assert_non_null(strstr(err.msg, "/nonexistent/x.gguf"));
}

static void check_behaviour(const char *text)
{
    enum { N = 96 };
    struct td_model *m = open_model(text, 2, false);
    struct ref_gptoss *ref = ref_gptoss_open(m->gguf);
    assert_non_null(ref);
    const uint32_t n_vocab = m->spec.n_vocab, n_layers = m->spec.n_layers;
    const uint32_t n_experts = m->spec.n_experts, k = m->spec.n_experts_used;
    double *logits = calloc((size_t)N * n_vocab, sizeof(*logits));
    int32_t *chosen = calloc((size_t)N * n_layers * k, sizeof(*chosen));
    int32_t tokens[N];
    struct td_rng r = {3};
    for (int i = 0; i < N; i++) tokens[i] = (int32_t)(td_rng_u64(&r) % n_vocab);
    const struct ref_options opt = {.experts_out = chosen};
    ref_gptoss_logits(ref, tokens, N, &opt, logits);

    double sum = 0, square = 0;
    for (size_t i = 0; i < (size_t)N * n_vocab; i++) {
        assert_true(isfinite(logits[i]));
        sum += logits[i];
        square += logits[i] * logits[i];
    }
    const double mean = sum / N / n_vocab, std = sqrt(square / N / n_vocab - mean * mean);
    if (!(fabs(mean) < 0.3 && std > 1.5 && std < 4)) fail_msg("logits %g +- %g", mean, std);

    for (uint32_t il = 0; il < n_layers; il++) {
        double count[TD_MAX_EXPERTS] = {0};
        for (uint32_t t = 0; t < N; t++)
            for (uint32_t c = 0; c < k; c++)
                count[chosen[((size_t)t * n_layers + il) * k + c]] += 1;
        const double even = (double)N * k / n_experts;
        for (uint32_t e = 0; e < n_experts; e++)
            if (!(count[e] > even / 4 && count[e] < even * 2.5))
                fail_msg("%s: layer %u expert %u: %g of %g", text, il, e, count[e], even);
    }
    free(chosen);
    free(logits);
    ref_gptoss_close(ref);
    td_model_close(m);
}

static void test_values_behave(void **state)
{
    (void)state;
    check_behaviour("synth:tiny");
    check_behaviour("synth:tiny,layers=12,experts=6,top-k=2,seed=5");
    check_behaviour("synth:tiny,layers=2,hidden=64,heads=6,head-dim=16,ff=96,experts=5,top-k=2,"
                    "vocab=600,experts-type=f16,attn-type=f32,embd-type=bf16,seed=7");
}

static int by_text(const void *a, const void *b)
{
    const struct td_str *x = a, *y = b;
    const size_t n = x->size_bytes < y->size_bytes ? x->size_bytes : y->size_bytes;
    const int order = memcmp(x->at, y->at, n);
    return order ? order : (x->size_bytes > y->size_bytes) - (x->size_bytes < y->size_bytes);
}

static void check_vocab(const char *text, uint32_t first_special)
{
    struct td_model *m = open_model(text, 1, true);
    const uint32_t n_vocab = m->spec.n_vocab;
    struct td_gguf_array tokens, merges, types;
    assert_int_equal(td_gguf_array(m->gguf, "tokenizer.ggml.tokens", &tokens, NULL), TD_OK);
    assert_int_equal(td_gguf_array(m->gguf, "tokenizer.ggml.merges", &merges, NULL), TD_OK);
    assert_int_equal(td_gguf_array(m->gguf, "tokenizer.ggml.token_type", &types, NULL), TD_OK);
    assert_int_equal(tokens.n, n_vocab);
    assert_int_equal(types.n, n_vocab);
    assert_int_equal(merges.n, first_special - 256);

    struct td_str *names = malloc(n_vocab * sizeof(*names));
    struct td_str *sorted = malloc(n_vocab * sizeof(*sorted));
    assert_non_null(names);
    assert_non_null(sorted);
    struct td_bytes at = td_gguf_strs(&tokens);
    for (uint32_t i = 0; i < n_vocab; i++) names[i] = td_gguf_next_str(&at);
    memcpy(sorted, names, n_vocab * sizeof(*sorted));
    qsort(sorted, n_vocab, sizeof(*sorted), by_text);
    for (uint32_t i = 1; i < n_vocab; i++) assert_true(by_text(&sorted[i - 1], &sorted[i]) < 0);
    // Merge i makes token 256 + i, of two parts that are tokens before it.
    at = td_gguf_strs(&merges);
    for (uint32_t i = 0; i < merges.n; i++) {
        const struct td_str s = td_gguf_next_str(&at);
        const char *space = memchr(s.at, ' ', s.size_bytes);
        assert_non_null(space);
        const struct td_str left = {s.at, (size_t)(space - s.at)};
        const struct td_str right = {space + 1, s.size_bytes - left.size_bytes - 1};
        const struct td_str whole = names[256 + i];
        assert_int_equal(whole.size_bytes, s.size_bytes - 1);
        assert_memory_equal(whole.at, left.at, left.size_bytes);
        assert_memory_equal(whole.at + left.size_bytes, right.at, right.size_bytes);
        assert_non_null(bsearch(&left, sorted, n_vocab, sizeof(left), by_text));
        assert_non_null(bsearch(&right, sorted, n_vocab, sizeof(right), by_text));
    }
    free(sorted);
    static const struct {
        uint32_t offset;
        const char *name;
    } named[] = {{0, "<|startoftext|>"}, {1, "<|endoftext|>"}, {4, "<|return|>"},
                 {5, "<|constrain|>"},   {7, "<|channel|>"},   {8, "<|start|>"},
                 {9, "<|end|>"},         {10, "<|message|>"},  {14, "<|call|>"}};
    for (size_t i = 0; i < sizeof(named) / sizeof(named[0]); i++) {
        const struct td_str s = names[first_special + named[i].offset];
        assert_int_equal(s.size_bytes, strlen(named[i].name));
        assert_memory_equal(s.at, named[i].name, s.size_bytes);
        assert_int_equal(td_gguf_array_i64(&types, first_special + named[i].offset), 3);
    }
    free(names);
    assert_int_equal(td_gguf_array_i64(&types, 300 < first_special ? 300 : 0), 1);
    td_model_close(m);
}

static void test_vocabulary(void **state)
{
    (void)state;
    check_vocab("synth:gpt-oss-20b", 199998);
    check_vocab("synth:tiny", 2048 - 15);
    check_vocab("synth:tiny,vocab=271", 256);
    check_vocab("synth:tiny,vocab=1048576", 1048576 - 15);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parse_errors),
        cmocka_unit_test(test_parse),
        cmocka_unit_test(test_same_bytes_for_any_threads),
        cmocka_unit_test(test_seed_changes_values_and_digest),
        cmocka_unit_test(test_pool),
        cmocka_unit_test(test_published_shapes),
        cmocka_unit_test(test_cancel_leaves_nothing),
        cmocka_unit_test(test_values_behave),
        cmocka_unit_test(test_vocabulary),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
