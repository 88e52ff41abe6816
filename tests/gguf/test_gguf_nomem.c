// SPDX-License-Identifier: MIT
// Memory runs out at the Nth allocation, for every N until none fails: reader, split reader and
// writer say so, free what they had and leave their output NULL. Linked with -Wl,--wrap.
#include "base/type.h"
#include "gguf/gguf.h"
#include "gguf/gguf_write.h"

#include "build_gguf.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

// The linker chose these names. NOLINTBEGIN(bugprone-reserved-identifier,cert-*)
void *__real_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t size);

static long g_n_left = -1; // allocations until one fails; below 0: never

static int must_fail(void)
{
    if (g_n_left < 0) return 0;
    if (g_n_left == 0) return 1; // and every later one too
    g_n_left--;
    return 0;
}

void *__wrap_malloc(size_t size)
{
    return must_fail() ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t n, size_t size)
{
    return must_fail() ? NULL : __real_calloc(n, size);
}

void *__wrap_realloc(void *p, size_t size)
{
    return must_fail() ? NULL : __real_realloc(p, size);
}

// NOLINTEND(bugprone-reserved-identifier,cert-*)

static void put_file(struct build *b, uint32_t no, const char *tensor)
{
    b->n = 0;
    put_head(b, 3, 1, 4);
    put_key(b, "split.no", 2);
    put16(b, no);
    put_key(b, "split.count", 2);
    put16(b, 2);
    put_key_arr(b, "tokens", 8, 2);
    put_text(b, "a");
    put_text(b, "b");
    put_key_arr(b, "more", 8, 1);
    put_text(b, "c");
    put_tensor(b, tensor, TD_F32, 8, 1, 0);
    pad(b, 32);
    put_zeros(b, 32);
}

static void test_parse(void **state)
{
    (void)state;
    struct build b;
    put_file(&b, 0, "a");
    int n_refused = 0;
    for (long n = 0;; n++) {
        struct td_gguf *g = NULL;
        struct td_error err = {0};
        g_n_left = n;
        const int code = td_gguf_parse(&g, b.at, b.n, "x.gguf", false, &err);
        g_n_left = -1;
        if (code == TD_OK) {
            td_gguf_close(g);
            break;
        }
        assert_int_equal(code, TD_ENOMEM);
        assert_non_null(strstr(err.msg, "x.gguf: no memory"));
        assert_null(g);
        n_refused++;
    }
    assert_true(n_refused >= 8);
}

static void test_open_split(void **state)
{
    (void)state;
    char dir[] = "/tmp/td_nomem_XXXXXX";
    assert_non_null(mkdtemp(dir));
    char path[2][64];
    for (uint32_t i = 0; i < 2; i++) {
        struct build b;
        put_file(&b, i, i ? "b" : "a");
        snprintf(path[i], sizeof(path[i]), "%s/m-%05u-of-00002.gguf", dir, i + 1);
        FILE *f = fopen(path[i], "wb");
        assert_non_null(f);
        assert_int_equal(fwrite(b.at, 1, b.n, f), b.n);
        assert_int_equal(fclose(f), 0);
    }
    int n_refused = 0;
    for (long n = 0;; n++) {
        struct td_gguf *g = NULL;
        struct td_error err = {0};
        g_n_left = n;
        const int code = td_gguf_open(&g, path[1], &err);
        g_n_left = -1;
        if (code == TD_OK) {
            assert_int_equal(td_gguf_n_tensors(g), 2);
            td_gguf_close(g);
            break;
        }
        assert_int_equal(code, TD_ENOMEM);
        assert_non_null(strstr(err.msg, "no memory"));
        assert_null(g);
        n_refused++;
    }
    assert_true(n_refused >= 30);
    for (int i = 0; i < 2; i++) unlink(path[i]);
    rmdir(dir);
}

static void test_write(void **state)
{
    (void)state;
    int n_refused = 0;
    bool is_done = false;
    for (long n = 0; !is_done; n++) {
        struct td_gguf_writer *w = NULL;
        struct td_error err = {0};
        const struct td_str strs[] = {{"a", 1}};
        const uint64_t dim = 32;
        const uint8_t *header = NULL;
        size_t header_bytes;
        char text[2000];
        memset(text, 'x', sizeof(text) - 1);
        text[sizeof(text) - 1] = '\0';
        g_n_left = n;
        int code = td_gguf_writer_open(&w, &err);
        if (!code) {
            td_gguf_put_str(w, "k", text);
            td_gguf_put_strs(w, "l", strs, 1);
            td_gguf_put_str(w, "m", text);
            td_gguf_put_tensor(w, "t", TD_MXFP4, 1, &dim);
            code = td_gguf_writer_header(w, &header, &header_bytes, &err);
        }
        g_n_left = -1;
        is_done = code == TD_OK;
        if (!is_done) {
            assert_int_equal(code, TD_ENOMEM);
            assert_non_null(strstr(err.msg, "no memory"));
            assert_null(header);
            n_refused++;
        }
        td_gguf_writer_close(w);
    }
    assert_true(n_refused >= 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parse),
        cmocka_unit_test(test_open_split),
        cmocka_unit_test(test_write),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
