// SPDX-License-Identifier: MIT
// Files on disk: single, split, and every way in which parts can fail to be one model.
#include "base/os.h"
#include "base/type.h"
#include "gguf/gguf.h"

#include "build_gguf.h"

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

static char g_dir[] = "/tmp/td_split_XXXXXX";

static const char *in_dir(const char *name)
{
    static char path[512];
    snprintf(path, sizeof(path), "%s/%s", g_dir, name);
    return path;
}

static void save(const char *name, const struct build *b)
{
    FILE *f = fopen(in_dir(name), "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(b->at, 1, b->n, f), b->n);
    assert_int_equal(fclose(f), 0);
}

static void empty_dir(void)
{
    DIR *dir = opendir(g_dir);
    assert_non_null(dir);
    for (struct dirent *e; (e = readdir(dir));)
        if (e->d_name[0] != '.') assert_int_equal(unlink(in_dir(e->d_name)), 0);
    closedir(dir);
}

static int setup(void **state)
{
    (void)state;
    return mkdtemp(g_dir) ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    empty_dir();
    return rmdir(g_dir);
}

// What a part says of itself, and what it holds.
struct part {
    const char *arch; // NULL: no key
    uint32_t no;
    uint32_t count;
    int32_t n_tensors_total; // -1: no key
    const char *tensors[3];
    uint32_t n_tensors;
};

static void put_part(struct build *b, const struct part *p)
{
    b->n = 0;
    put_head(b, 3, p->n_tensors,
             2u + (p->arch != NULL) + (p->n_tensors_total >= 0)); // the types are gguf-split's
    if (p->arch) put_key_str(b, "general.architecture", p->arch);
    put_key(b, "split.no", 2);
    put16(b, p->no);
    put_key(b, "split.count", 2);
    put16(b, p->count);
    if (p->n_tensors_total >= 0) {
        put_key(b, "split.tensors.count", 5);
        put32(b, (uint32_t)p->n_tensors_total);
    }
    for (uint32_t i = 0; i < p->n_tensors; i++)
        put_tensor(b, p->tensors[i], TD_F32, 8, 1, (uint64_t)i * 32);
    pad(b, 32);
    // Every float of a tensor is marked with its part and place.
    for (uint32_t i = 0; i < p->n_tensors; i++)
        for (uint32_t k = 0; k < 8; k++) put_f32(b, (float)(p->no * 10 + i));
}

static void save_part(const char *name, const struct part *p)
{
    struct build b;
    put_part(&b, p);
    save(name, &b);
}

static const struct part whole[3] = {
    {"gpt-oss", 0, 3, 4, {"a", "b"}, 2},
    {NULL, 1, 3, 4, {"c"}, 1},
    {NULL, 2, 3, 4, {"d"}, 1},
};
static const char *const names[3] = {
    "m-00001-of-00003.gguf",
    "m-00002-of-00003.gguf",
    "m-00003-of-00003.gguf",
};

static void save_whole(void)
{
    empty_dir();
    for (int i = 0; i < 3; i++) save_part(names[i], &whole[i]);
}

static void expect_refused(const char *name, int code, const char *says_a, const char *says_b)
{
    struct td_gguf *g = NULL;
    struct td_error err = {0};
    assert_int_equal(td_gguf_open(&g, in_dir(name), &err), code);
    assert_int_equal(err.code, code);
    assert_null(g);
    if (!strstr(err.msg, says_a) || !strstr(err.msg, says_b))
        fail_msg("'%s' does not say '%s' and '%s'", err.msg, says_a, says_b);
}

static void test_opened_by_any_part(void **state)
{
    (void)state;
    save_whole();
    for (int k = 0; k < 3; k++) {
        struct td_gguf *g;
        struct td_error err = {0};
        if (td_gguf_open(&g, in_dir(names[k]), &err)) fail_msg("%s", err.msg);
        assert_int_equal(td_gguf_n_parts(g), 3);
        assert_string_equal(td_gguf_path(g), in_dir(names[k]));
        assert_true(td_gguf_has(g, "general.architecture"));
        assert_int_equal(td_gguf_n_tensors(g), 4);
        static const char *const tensors[] = {"a", "b", "c", "d"};
        static const float marks[] = {0, 1, 10, 20};
        static const uint32_t parts[] = {0, 0, 1, 2};
        for (uint32_t i = 0; i < 4; i++) {
            const struct td_gguf_tensor *t = td_gguf_find_tensor(g, tensors[i]);
            assert_ptr_equal(t, td_gguf_tensor_at(g, i));
            assert_int_equal(t->i_part, parts[i]);
            float v[8];
            memcpy(v, t->data, sizeof(v));
            for (int j = 0; j < 8; j++) assert_true(v[j] == marks[i]);
            // The maps are known to the handler of a file truncated while mapped.
            assert_string_equal(td_os_map_path_at(t->data), in_dir(names[parts[i]]));
        }
        struct build b;
        uint64_t total = 0;
        for (int i = 0; i < 3; i++) {
            put_part(&b, &whole[i]);
            total += b.n;
        }
        assert_int_equal(td_gguf_file_bytes(g), total);
        td_gguf_close(g);
    }
}

static void test_missing(void **state)
{
    (void)state;
    for (int gone = 0; gone < 3; gone++) {
        save_whole();
        assert_int_equal(unlink(in_dir(names[gone])), 0);
        char says[32];
        snprintf(says, sizeof(says), "part %d", gone + 1);
        for (int k = 0; k < 3; k++)
            if (k != gone) expect_refused(names[k], TD_EIO, says, names[gone]);
        // Asked for itself it is simply not there.
        expect_refused(names[gone], TD_EIO, names[gone], "No such file");
    }
}

static void test_repeated(void **state)
{
    (void)state;
    save_whole();
    save_part(names[2], &whole[1]); // a copy of part 2 in the place of part 3
    expect_refused(names[0], TD_EFORMAT, "stands as part 3 of 3 but says it is part 2", names[2]);
    expect_refused(names[2], TD_EFORMAT, "repeated or misnamed", names[2]);
    save_whole();
    save_part(names[0], &whole[1]);
    expect_refused(names[1], TD_EFORMAT, "stands as part 1 of 3 but says it is part 2", names[0]);
}

static void test_foreign(void **state)
{
    (void)state;
    const struct {
        struct part part; // in the place of part 2
        const char *says;
    } cases[] = {
        {{NULL, 1, 4, 4, {"c"}, 1}, "says it is one of 4"},
        {{NULL, 1, 3, 9, {"c"}, 1}, "key 'split.tensors.count' differs"},
        {{"llama", 1, 3, 4, {"c"}, 1}, "key 'general.architecture' differs"},
        {{NULL, 1, 3, 4, {"b"}, 1}, "tensor 'b' is in part 1 and in part 2"},
        {{NULL, 1, 3, 4, {"c", "x"}, 2}, "have 5 tensors, 'split.tensors.count' says 4"},
        {{NULL, 1, 3, 4, {NULL}, 0}, "have 3 tensors, 'split.tensors.count' says 4"},
        {{NULL, 7, 3, 4, {"c"}, 1}, "'split.no' is 7 of only 3"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        save_whole();
        save_part(names[1], &cases[i].part);
        expect_refused(names[0], TD_EFORMAT, cases[i].says, ".gguf: ");
        expect_refused(names[2], TD_EFORMAT, cases[i].says, ".gguf: ");
    }
    // The same architecture again is no contradiction.
    save_whole();
    // Nor is a count of tensors that only the first part has.
    const struct part fine[] = {{"gpt-oss", 1, 3, 4, {"c"}, 1}, {NULL, 1, 3, -1, {"c"}, 1}};
    for (size_t i = 0; i < sizeof(fine) / sizeof(fine[0]); i++) {
        save_part(names[1], &fine[i]);
        struct td_gguf *g;
        assert_int_equal(td_gguf_open(&g, in_dir(names[1]), NULL), TD_OK);
        assert_non_null(td_gguf_find_tensor(g, "c"));
        td_gguf_close(g);
    }
}

static void test_part_is_damaged(void **state)
{
    (void)state;
    save_whole();
    struct build b;
    put_part(&b, &whole[1]);
    b.n -= 1;
    save(names[1], &b);
    expect_refused(names[0], TD_EFORMAT, names[1], "the download is incomplete");
    b.n = 0;
    save(names[1], &b);
    expect_refused(names[0], TD_EFORMAT, names[1], "the file is empty");
    put(&b, "something else", 14);
    save(names[1], &b);
    expect_refused(names[0], TD_EFORMAT, names[1], "not a GGUF file");
}

static void test_names(void **state)
{
    (void)state;
    empty_dir();
    // A part under a name that does not lead to the others.
    save_part("model.gguf", &whole[1]);
    expect_refused("model.gguf", TD_EFORMAT, "is part 2 of 3, but its name does not end in",
                   "-00002-of-00003.gguf");
    save_part("m-0002-of-00003.gguf", &whole[1]);
    expect_refused("m-0002-of-00003.gguf", TD_EFORMAT, "its name does not end in",
                   "cannot be found");
    save_part("m-00004-of-00003.gguf", &whole[1]);
    expect_refused("m-00004-of-00003.gguf", TD_EFORMAT, "its name does not end in", "is part 2");
    // Named a part, and none by its keys.
    struct build b = {.n = 0};
    put_head(&b, 3, 0, 0);
    save(names[1], &b);
    expect_refused(names[1], TD_EFORMAT, "stands as part 2 of 3", "not of this model");
    // One part that is all is a file like any other, with or without the keys.
    const struct part only = {"gpt-oss", 0, 1, 1, {"a"}, 1};
    save("m-00001-of-00001.gguf", &b);
    struct td_gguf *g;
    struct td_error err = {0};
    if (td_gguf_open(&g, in_dir("m-00001-of-00001.gguf"), &err)) fail_msg("%s", err.msg);
    td_gguf_close(g);
    save_part("m-00001-of-00001.gguf", &only);
    if (td_gguf_open(&g, in_dir("m-00001-of-00001.gguf"), &err)) fail_msg("%s", err.msg);
    assert_int_equal(td_gguf_n_parts(g), 1);
    td_gguf_close(g);
    save_part("any name", &only);
    if (td_gguf_open(&g, in_dir("any name"), &err)) fail_msg("%s", err.msg);
    td_gguf_close(g);
}

static void test_wrong_keys(void **state)
{
    (void)state;
    empty_dir();
    struct build b = {.n = 0};
    put_head(&b, 3, 0, 1);
    put_key(&b, "split.count", 2);
    put16(&b, 3);
    put_zeros(&b, 32);
    save(names[0], &b);
    expect_refused(names[0], TD_EFORMAT, "has 'split.count' but no 'split.no'", names[0]);
    b.n = 0;
    put_head(&b, 3, 0, 1);
    put_key_str(&b, "split.count", "3");
    save(names[0], &b);
    expect_refused(names[0], TD_EFORMAT, "key 'split.count' is of type string", names[0]);
    b.n = 0;
    put_head(&b, 3, 0, 2);
    put_key_u32(&b, "split.count", 4000000000u);
    put_key_u32(&b, "split.no", 0);
    save(names[0], &b);
    expect_refused(names[0], TD_EFORMAT, "'split.count' is 4000000000", names[0]);
}

static void test_not_files(void **state)
{
    (void)state;
    empty_dir();
    expect_refused("nowhere.gguf", TD_EIO, "nowhere.gguf: No such file or directory", "");
    expect_refused("", TD_EIO, "not a regular file", g_dir);
}

static void test_alignments_differ(void **state)
{
    (void)state;
    empty_dir();
    const struct part first = {NULL, 0, 2, 2, {"a"}, 1};
    save_part("m-00001-of-00002.gguf", &first);
    struct build b = {.n = 0};
    put_head(&b, 3, 1, 4);
    put_key_u32(&b, "general.alignment", 256); // of each file its own
    put_key_u32(&b, "split.no", 1);
    put_key_u32(&b, "split.count", 2);
    put_key_u32(&b, "split.tensors.count", 2);
    put_tensor(&b, "b", TD_F32, 1, 1, 256);
    pad(&b, 256);
    put_zeros(&b, 256);
    put_f32(&b, 5);
    save("m-00002-of-00002.gguf", &b);
    struct td_gguf *g;
    struct td_error err = {0};
    if (td_gguf_open(&g, in_dir("m-00001-of-00002.gguf"), &err)) fail_msg("%s", err.msg);
    float v;
    memcpy(&v, td_gguf_find_tensor(g, "b")->data, sizeof(v));
    assert_true(v == 5);
    td_gguf_close(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_opened_by_any_part), cmocka_unit_test(test_missing),
        cmocka_unit_test(test_repeated),           cmocka_unit_test(test_foreign),
        cmocka_unit_test(test_part_is_damaged),    cmocka_unit_test(test_names),
        cmocka_unit_test(test_wrong_keys),         cmocka_unit_test(test_not_files),
        cmocka_unit_test(test_alignments_differ),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
