// SPDX-License-Identifier: MIT
// What makes two models the same, and what does not.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "gguf/gguf_write.h"
#include "relay/identity.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TINY "tests/data/gptoss-tiny.gguf"

static struct td_error err;
static char g_dir[] = "/tmp/td_identity_XXXXXX";

#define OK(call)                                                                                   \
    do {                                                                                           \
        if ((call) != TD_OK) fail_msg("%s: %s", #call, err.msg);                                   \
    } while (0)

struct sums {
    uint8_t tokenizer[32], weights[32];
};

static struct td_model *open_model(const char *path)
{
    struct td_model *m;
    OK(td_model_open(&m, path, NULL, &err));
    return m;
}

static struct sums sums_of_model(const struct td_model *m, uint32_t n_threads)
{
    struct sums s;
    OK(td_identity_tokenizer(m, s.tokenizer, &err));
    OK(td_identity_weights(m, n_threads, NULL, NULL, s.weights, &err));
    return s;
}

static struct sums sums_of(const char *path)
{
    struct td_model *m = open_model(path);
    const struct sums s = sums_of_model(m, 2);
    td_model_close(m);
    return s;
}

static bool same(const uint8_t a[32], const uint8_t b[32])
{
    return memcmp(a, b, 32) == 0;
}

// ---- files ------------------------------------------------------------------------------------

static void copy_strs(struct td_gguf_writer *w, const char *key, const struct td_gguf_array *a)
{
    struct td_str *strs = calloc(a->n, sizeof(*strs));
    assert_non_null(strs);
    struct td_bytes at = td_gguf_strs(a);
    for (uint64_t i = 0; i < a->n; i++) strs[i] = td_gguf_next_str(&at);
    td_gguf_put_strs(w, key, strs, a->n);
    free(strs);
}

static void copy_i32s(struct td_gguf_writer *w, const char *key, const struct td_gguf_array *a)
{
    int32_t *v = calloc(a->n, sizeof(*v));
    assert_non_null(v);
    for (uint64_t i = 0; i < a->n; i++) v[i] = (int32_t)td_gguf_array_i64(a, i);
    td_gguf_put_i32s(w, key, v, a->n);
    free(v);
}

static void copy_key(struct td_gguf_writer *w, const struct td_gguf *g, uint32_t i)
{
    const char *key = td_gguf_key_at(g, i);
    struct td_str s;
    struct td_gguf_array a;
    uint32_t u;
    float f;
    bool b;
    if (td_gguf_array(g, key, &a, NULL) == TD_OK && a.type == TD_GGUF_STR) {
        copy_strs(w, key, &a);
    } else if (td_gguf_array(g, key, &a, NULL) == TD_OK) {
        copy_i32s(w, key, &a);
    } else if (td_gguf_str(g, key, &s, NULL) == TD_OK) {
        char text[4096];
        snprintf(text, sizeof(text), "%.*s", (int)s.size_bytes, s.at);
        td_gguf_put_str(w, key, text);
    } else if (td_gguf_u32(g, key, &u, NULL) == TD_OK) {
        td_gguf_put_u32(w, key, u);
    } else if (td_gguf_f32(g, key, &f, NULL) == TD_OK) {
        td_gguf_put_f32(w, key, f);
    } else if (td_gguf_bool(g, key, &b, NULL) == TD_OK) {
        td_gguf_put_bool(w, key, b);
    } else {
        fail_msg("key %s is of a type this test does not copy", key);
    }
}

// Tensors i with i % n_parts == part, keys in reverse order (part 0 has them all).
static void save_part(const struct td_gguf *g, const char *name, uint32_t part, uint32_t n_parts)
{
    struct td_gguf_writer *w;
    OK(td_gguf_writer_open(&w, &err));
    for (uint32_t i = td_gguf_n_kv(g); i-- > 0 && part == 0;) copy_key(w, g, i);
    if (n_parts > 1) {
        td_gguf_put_u32(w, "split.no", part);
        td_gguf_put_u32(w, "split.count", n_parts);
        td_gguf_put_u32(w, "split.tensors.count", td_gguf_n_tensors(g));
    }
    for (uint32_t i = part; i < td_gguf_n_tensors(g); i += n_parts) {
        const struct td_gguf_tensor *t = td_gguf_tensor_at(g, i);
        td_gguf_put_tensor(w, t->name, (enum td_type)t->type, t->n_dims, t->dim);
    }
    const uint8_t *header;
    size_t n_header;
    OK(td_gguf_writer_header(w, &header, &n_header, &err));
    char path[512];
    snprintf(path, sizeof(path), "%s/%s", g_dir, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(header, 1, n_header, f), n_header);
    for (uint32_t i = part; i < td_gguf_n_tensors(g); i += n_parts) {
        static const uint8_t zeros[32];
        const struct td_gguf_tensor *t = td_gguf_tensor_at(g, i);
        const size_t n_pad = (size_t)td_gguf_data_padding(t->size_bytes);
        assert_int_equal(fwrite(t->data, 1, (size_t)t->size_bytes, f), t->size_bytes);
        assert_int_equal(fwrite(zeros, 1, n_pad, f), n_pad);
    }
    assert_int_equal(fclose(f), 0);
    td_gguf_writer_close(w);
}

// ---- tests ------------------------------------------------------------------------------------

static void the_same_model_is_the_same(void **state)
{
    (void)state;
    const struct sums a = sums_of(TINY);
    struct td_model *m = open_model(TINY);
    for (uint32_t n_threads = 1; n_threads <= 5; n_threads++) {
        const struct sums b = sums_of_model(m, n_threads);
        assert_true(same(a.weights, b.weights) && same(a.tokenizer, b.tokenizer));
    }
    td_model_close(m);
}

// The model with weight i replaced by *w.
static struct sums sums_with(const struct td_model *m, uint32_t i, const struct td_weight_info *w)
{
    struct td_model other = *m;
    other.weights = calloc(m->n_weights, sizeof(*other.weights));
    assert_non_null(other.weights);
    memcpy(other.weights, m->weights, m->n_weights * sizeof(*other.weights));
    other.weights[i] = *w;
    const struct sums s = sums_of_model(&other, 2);
    free(other.weights);
    return s;
}

static void one_byte_makes_another(void **state)
{
    (void)state;
    struct td_model *m = open_model(TINY);
    const struct sums a = sums_of_model(m, 1);
    for (uint32_t i = 0; i < m->n_weights; i += 1 + m->n_weights / 7) {
        struct td_weight_info w = m->weights[i];
        uint8_t *bytes = malloc(w.size_bytes);
        assert_non_null(bytes);
        memcpy(bytes, w.data, w.size_bytes);
        w.data = bytes;
        struct sums b = sums_with(m, i, &w);
        assert_true(same(a.weights, b.weights));
        for (int k = 0; k < 2; k++) {
            uint8_t *at = &bytes[k ? w.size_bytes - 1 : 0];
            *at ^= 1;
            b = sums_with(m, i, &w);
            *at ^= 1;
            assert_false(same(a.weights, b.weights));
            assert_true(same(a.tokenizer, b.tokenizer));
        }
        w = m->weights[i];
        w.name = "another";
        b = sums_with(m, i, &w);
        assert_false(same(a.weights, b.weights));
        w = m->weights[i];
        w.n_dims++;
        b = sums_with(m, i, &w);
        assert_false(same(a.weights, b.weights));
        free(bytes);
    }
    td_model_close(m);
}

// Order of keys, order of tensors and parts do not matter.
static void a_split_file_is_the_whole_one(void **state)
{
    (void)state;
    const struct sums a = sums_of(TINY);
    struct td_gguf *g;
    OK(td_gguf_open(&g, TINY, &err));
    char path[512];
    const char *names[] = {"m-00001-of-00003.gguf", "m-00002-of-00003.gguf",
                           "m-00003-of-00003.gguf"};
    for (uint32_t i = 0; i < 3; i++) save_part(g, names[i], i, 3);
    snprintf(path, sizeof(path), "%s/%s", g_dir, names[1]);
    const struct sums b = sums_of(path);
    assert_true(same(a.weights, b.weights) && same(a.tokenizer, b.tokenizer));
    for (uint32_t i = 0; i < 3; i++) {
        snprintf(path, sizeof(path), "%s/%s", g_dir, names[i]);
        assert_int_equal(unlink(path), 0);
    }
    td_gguf_close(g);
}

// Other seed, other weights; other vocabulary, other tokenizer; both know only their own.
static void each_digest_has_its_own_subject(void **state)
{
    (void)state;
    const struct sums a = sums_of("synth:tiny,layers=1"), b = sums_of("synth:tiny,layers=1,seed=2");
    const struct sums c = sums_of("synth:tiny,layers=1,vocab=1000");
    assert_true(same(a.tokenizer, b.tokenizer));
    assert_false(same(a.weights, b.weights));
    assert_false(same(a.tokenizer, c.tokenizer));
    assert_false(same(a.weights, a.tokenizer));

    struct td_model *m = open_model("synth:tiny,layers=1");
    const struct td_gguf *g = m->gguf;
    struct sums bare;
    // A directory without any key of a vocabulary.
    struct td_gguf_writer *w;
    const uint8_t *header;
    size_t n_header;
    OK(td_gguf_writer_open(&w, &err));
    td_gguf_put_str(w, "general.architecture", "gpt-oss");
    OK(td_gguf_writer_header(w, &header, &n_header, &err));
    struct td_gguf *none;
    OK(td_gguf_parse(&none, header, n_header, "none", true, &err));
    m->gguf = none;
    OK(td_identity_tokenizer(m, bare.tokenizer, &err));
    assert_false(same(a.tokenizer, bare.tokenizer));
    td_gguf_close(none);
    td_gguf_writer_close(w);
    m->gguf = (struct td_gguf *)(uintptr_t)g;
    td_model_close(m);
}

static bool stop_at_once(void *ctx, uint64_t done, uint64_t total)
{
    assert_true(done > 0 && done <= total);
    ++*(uint32_t *)ctx;
    return false;
}

static bool count(void *ctx, uint64_t done, uint64_t total)
{
    assert_true(done <= total);
    *(uint64_t *)ctx = total;
    return true;
}

static void it_can_be_stopped(void **state)
{
    (void)state;
    struct td_model *m = open_model(TINY);
    uint8_t sum[32];
    uint32_t n_calls = 0;
    assert_int_equal(td_identity_weights(m, 1, stop_at_once, &n_calls, sum, &err), TD_ECANCEL);
    assert_int_equal(n_calls, 1);
    uint64_t total = 0;
    OK(td_identity_weights(m, 1, count, &total, sum, &err));
    assert_int_equal(total, m->weights_bytes);
    td_model_close(m);
}

static void without_weights_there_is_a_sentence(void **state)
{
    (void)state;
    const struct td_model_options options = {.header_only = true};
    struct td_model *m;
    uint8_t sum[32];
    OK(td_model_open(&m, "synth:tiny", &options, &err));
    assert_int_equal(td_identity_weights(m, 2, NULL, NULL, sum, &err), TD_EARG);
    assert_non_null(strstr(err.msg, "weight '"));
    td_model_close(m);
}

static int setup(void **state)
{
    (void)state;
    return mkdtemp(g_dir) ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    return rmdir(g_dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_same_model_is_the_same),
        cmocka_unit_test(one_byte_makes_another),
        cmocka_unit_test(a_split_file_is_the_whole_one),
        cmocka_unit_test(each_digest_has_its_own_subject),
        cmocka_unit_test(it_can_be_stopped),
        cmocka_unit_test(without_weights_there_is_a_sentence),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
