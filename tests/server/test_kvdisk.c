// SPDX-License-Identifier: MIT
// KV that outlives its process: a next turn after a restart reads the file and computes what is
// new, to the bit of what reading it all gives; and whatever somebody does to the files, no answer
// changes.
#include "engine/support.h"

#include "server/kvdisk.h"
#include "server/kvfile.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <xxhash.h>

#define MODEL "synth:tiny,window=16,vocab=1024,ctx=8192"

static struct td_model *g_model; // window 16 on even layers
static char g_dir[] = "/tmp/td_kvdisk_XXXXXX";
static char g_path[512]; // of the last file found

static int setup(void **state)
{
    (void)state;
    g_model = open_model(MODEL);
    return mkdtemp(g_dir) ? 0 : -1;
}

// Of files with this end; the last one's path in g_path.
static uint32_t count_files(const char *end)
{
    DIR *dir = opendir(g_dir);
    assert_non_null(dir);
    uint32_t n = 0;
    for (const struct dirent *e; (e = readdir(dir));) {
        const size_t n_name = strlen(e->d_name), n_end = strlen(end);
        if (n_name < n_end || strcmp(e->d_name + n_name - n_end, end) != 0) continue;
        if (e->d_name[0] == '.') continue;
        n++;
        snprintf(g_path, sizeof(g_path), "%s/%.200s", g_dir, e->d_name);
    }
    closedir(dir);
    return n;
}

static int empty_dir(void **state)
{
    (void)state;
    while (count_files("")) assert_int_equal(remove(g_path), 0);
    assert_int_equal(chmod(g_dir, 0700), 0);
    return 0;
}

static int teardown(void **state)
{
    td_model_close(g_model);
    empty_dir(state);
    return rmdir(g_dir);
}

// An engine with a folder: what a process has.
struct process {
    struct td_engine *e;
    struct td_session *s;
    struct td_kvdisk *d;
};

static struct process start_with(struct td_engine_config cfg, uint64_t max_bytes, uint8_t weights)
{
    struct process p;
    p.e = open_engine_cfg(g_model, cfg);
    td_engine_cache(p.e, UINT64_MAX);
    p.s = open_session(p.e, 5000);
    const struct td_kvdisk_config disk = {
        .dir = g_dir, .max_bytes = max_bytes, .weights = {weights}};
    OK(td_kvdisk_open(&p.d, &disk, p.e, &err));
    return p;
}

static struct process start(void)
{
    return start_with(config(256, 2), UINT64_MAX, 1);
}

static void end(struct process *p)
{
    td_kvdisk_close(p->d);
    td_session_close(p->s);
    td_engine_close(p->e);
}

static void write_answer(struct process *p, struct td_rng *rng, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        OK(td_session_append(p->s, (int32_t)(td_rng_u64(rng) % 1024), &err));
        OK(td_engine_step(p->e, NULL, &err));
    }
}

static void save(struct process *p)
{
    static struct td_timeline t;
    td_session_timeline(p->s, &t);
    OK(td_kvdisk_save(p->d, &t, &err));
}

// Reads a prompt with help of the folder; returns the tokens that were not computed.
static uint32_t read_prompt(struct process *p, const int32_t *tokens, uint32_t n)
{
    const uint32_t found = td_kvdisk_find(p->d, tokens, n);
    uint32_t got = 0;
    OK(td_kvdisk_load(p->d, p->s, tokens, n, &got, &err));
    assert_true(got <= found);
    OK(td_session_sync(p->s, tokens, n, NULL, 0, NULL, NULL, &err));
    return td_session_reused(p->s);
}

static void a_restart_forgets_nothing(void **state)
{
    (void)state;
    enum { N = 4000, N_REASONING = 300, N_ANSWER = 50, N_NEW = 50, N_ALL = N + N_ANSWER + N_NEW };
    struct td_rng rng = {1};
    static int32_t talk[N_ALL], written[N + 400];
    static struct td_timeline t;
    random_tokens(&rng, talk, N_ALL, 1024);
    const uint32_t marks[] = {20, 1500, 3000};
    for (int way = 0; way < 2; way++) {
        empty_dir(state);
        struct process p = start();
        OK(td_session_sync(p.s, talk, N, marks, 3, NULL, NULL, &err));
        write_answer(&p, &rng, N_REASONING + N_ANSWER);
        td_session_timeline(p.s, &t);
        memcpy(written, t.tokens, t.n * sizeof(*written));
        // By the session, or what is kept of it when the process ends.
        if (way == 1) {
            td_session_retire(p.s);
            assert_true(td_engine_kept(p.e, 0, &t));
        }
        OK(td_kvdisk_save(p.d, &t, &err));
        const uint64_t bytes = td_kvdisk_bytes(p.d);
        assert_true(bytes > 0);
        end(&p);

        // The next turn, without the reasoning.
        p = start();
        assert_int_equal(td_kvdisk_bytes(p.d), bytes);
        assert_in_range(read_prompt(&p, talk, N_ALL), N, N_ALL - N_NEW);
        assert_fresh(g_model, p.s, talk, N_ALL);
        end(&p);

        // The answer goes on where it ended; an earlier message is written anew.
        p = start();
        assert_int_equal(read_prompt(&p, written, N + 350), N);
        end(&p);
        p = start();
        memcpy(&written[N + 350], talk, 50 * sizeof(*talk));
        assert_int_equal(read_prompt(&p, written, N + 400), N + 350);
        assert_fresh(g_model, p.s, written, N + 400);
        talk[1500] ^= 1;
        assert_int_equal(read_prompt(&p, talk, 2000), 1500);
        assert_fresh(g_model, p.s, talk, 2000);
        talk[1500] ^= 1;
        end(&p);
        struct stat st;
        assert_int_equal(count_files(".kv"), 1);
        assert_int_equal(stat(g_path, &st), 0);
        assert_int_equal(st.st_mode & 0777, 0600);
        assert_int_equal(st.st_size, bytes);
    }
}

// What was restored can be taken up at all its places, and saved again.
static void what_was_read_is_a_conversation_like_any(void **state)
{
    struct td_rng rng = {2};
    static int32_t talk[1500];
    random_tokens(&rng, talk, 1500, 1024);
    const uint32_t marks[] = {200, 700};
    struct process p = start();
    OK(td_session_sync(p.s, talk, 1000, marks, 2, NULL, NULL, &err));
    save(&p);
    end(&p);
    p = start();
    assert_int_equal(read_prompt(&p, talk, 1200), 1000);
    save(&p); // longer: takes the first one's place
    assert_int_equal(count_files(".kv"), 1);
    td_session_retire(p.s);
    talk[700] ^= 1;
    OK(td_session_sync(p.s, talk, 900, NULL, 0, NULL, NULL, &err));
    assert_int_equal(td_session_reused(p.s), 700); // the mark came back from the disk
    assert_fresh(g_model, p.s, talk, 900);
    talk[700] ^= 1;
    end(&p);
    empty_dir(state);

    // Nothing is written for what is short, or what a file covers.
    p = start();
    OK(td_session_sync(p.s, talk, 100, NULL, 0, NULL, NULL, &err));
    save(&p);
    assert_int_equal(td_kvdisk_bytes(p.d), 0);
    OK(td_session_sync(p.s, talk, 800, NULL, 0, NULL, NULL, &err));
    save(&p);
    const uint64_t bytes = td_kvdisk_bytes(p.d);
    assert_true(bytes > 0);
    write_answer(&p, &rng, 30); // another answer to the same prompt
    save(&p);
    assert_int_equal(td_kvdisk_bytes(p.d), bytes);
    end(&p);
}

// Others go on between two pieces; whoever loses patience has what came whole.
static void a_file_can_be_read_in_pieces(void **state)
{
    (void)state;
    struct td_rng rng = {7};
    int32_t talk[700], other[600];
    random_tokens(&rng, talk, 700, 1024);
    random_tokens(&rng, other, 600, 1024);
    struct process p = start();
    const uint32_t marks[] = {128, 333};
    OK(td_session_sync(p.s, talk, 600, marks, 2, NULL, NULL, &err));
    save(&p);
    end(&p);
    for (uint32_t n_most = 0; n_most <= 600; n_most += 200) {
        p = start();
        struct td_session *s = open_session(p.e, 700);
        OK(td_session_sync(s, other, 10, NULL, 0, NULL, NULL, &err));
        struct td_kvdisk_load *load;
        OK(td_kvdisk_begin(&load, p.d, p.s, talk, 700, &err));
        assert_non_null(load);
        uint32_t n_pieces = 0, n = 99;
        bool is_done = false;
        for (; !is_done && td_session_computed(p.s) < n_most; n_pieces++) {
            OK(td_kvdisk_more(load, 1, &is_done, &err));
            OK(td_session_append(s, other[10 + n_pieces], &err));
            OK(td_engine_step(p.e, NULL, &err));
            if (n_pieces == 5) save(&p); // a file more or less in the meantime
        }
        assert_true(n_pieces >= n_most / 50);
        td_kvdisk_end(load, &n);
        assert_int_equal(n, n_most == 0 ? 0 : n_most == 200 ? 333 : n_most == 400 ? 599 : 600);
        assert_int_equal(is_done, n_most == 600);
        OK(td_session_sync(p.s, talk, 700, NULL, 0, NULL, NULL, &err));
        assert_int_equal(td_session_reused(p.s), n);
        assert_fresh(g_model, p.s, talk, 700);
        assert_fresh(g_model, s, other, 10 + n_pieces);
        td_session_close(s);
        end(&p);
    }
    p = start();
    struct td_kvdisk_load *load;
    OK(td_kvdisk_begin(&load, p.d, p.s, other, 600, &err)); // no file
    assert_null(load);
    uint32_t n = 99;
    td_kvdisk_end(load, &n);
    assert_int_equal(n, 0);
    end(&p);
}

// What is being written may be left, given up and written over meanwhile.
static void a_file_is_written_beside_others(void **state)
{
    (void)state;
    static struct td_timeline t;
    struct td_rng rng = {9};
    int32_t talk[900], other[600];
    random_tokens(&rng, talk, 900, 1024);
    random_tokens(&rng, other, 600, 1024);
    for (int way = 0; way < 2; way++) {
        empty_dir(state);
        struct process p = start();
        struct td_kvdisk_saving *saving;
        OK(td_session_sync(p.s, talk, 800, NULL, 0, NULL, NULL, &err));
        td_session_timeline(p.s, &t);
        OK(td_kvdisk_save_begin(&saving, p.d, &t, td_kvdisk_now_ns(), &err));
        assert_non_null(saving);
        if (way == 1) OK(td_kvdisk_save_end(saving, true, &err));
        // The same pages, written further; then nobody's but the file's.
        OK(td_session_sync(p.s, talk, 900, NULL, 0, NULL, NULL, &err));
        OK(td_session_sync(p.s, other, 600, NULL, 0, NULL, NULL, &err));
        td_engine_cache(p.e, 0);
        OK(td_session_sync(p.s, talk, 700, NULL, 0, NULL, NULL, &err));
        if (way == 0) {
            OK(td_kvdisk_save_end(saving, false, &err));
            OK(td_session_sync(p.s, talk, 800, NULL, 0, NULL, NULL, &err));
            td_session_timeline(p.s, &t);
            OK(td_kvdisk_save_begin(&saving, p.d, &t, td_kvdisk_now_ns(), &err));
            assert_null(saving); // it is there
        }
        end(&p);
        assert_int_equal(count_files(".kv.new"), 0);
        if (way == 0) assert_int_equal(count_files(".kv"), 1);
        if (count_files(".kv") == 0) continue; // given up in time
        p = start();
        assert_int_equal(read_prompt(&p, talk, 900), 800);
        assert_fresh(g_model, p.s, talk, 900);
        end(&p);
    }
}

static void visit(struct process *p, uint64_t number, uint32_t n, uint32_t expected)
{
    struct td_rng rng = {number};
    static int32_t tokens[3000];
    random_tokens(&rng, tokens, n, 1024);
    td_engine_cache(p->e, 0); // what is found comes from the disk
    assert_int_equal(read_prompt(p, tokens, n), expected);
    save(p);
}

static void the_folder_keeps_its_size(void **state)
{
    (void)state;
    struct process p = start();
    visit(&p, 1, 600, 0);
    const uint64_t one = td_kvdisk_bytes(p.d);
    end(&p);
    p = start_with(config(256, 2), 3 * one + one / 2, 1);
    visit(&p, 2, 600, 0);
    visit(&p, 3, 600, 0);
    struct td_rng rng = {1};
    int32_t tokens[601];
    random_tokens(&rng, tokens, 600, 1024);
    tokens[600] = 5;
    assert_int_equal(read_prompt(&p, tokens, 601), 600); // used again
    end(&p);
    p = start_with(config(256, 2), 3 * one + one / 2, 1); // which a restart knows
    visit(&p, 4, 600, 0);
    assert_int_equal(count_files(".kv"), 3);
    assert_true(td_kvdisk_bytes(p.d) <= 3 * one + one / 2);
    assert_int_equal(td_kvdisk_find(p.d, tokens, 601), 600);
    rng.state = 2;
    random_tokens(&rng, tokens, 600, 1024);
    assert_int_equal(td_kvdisk_find(p.d, tokens, 601), 0);
    visit(&p, 5, 3000, 0); // larger than the folder may be: nothing changes
    assert_int_equal(count_files(".kv"), 3);
    end(&p);
    // Less room than before.
    p = start_with(config(256, 2), one, 1);
    assert_int_equal(count_files(".kv"), 1);
    assert_int_equal(td_kvdisk_bytes(p.d), one);
    end(&p);
}

static void other_weights_and_layouts_are_not_looked_at(void **state)
{
    (void)state;
    struct td_rng rng = {3};
    int32_t tokens[500];
    random_tokens(&rng, tokens, 500, 1024);
    struct process p = start();
    OK(td_session_sync(p.s, tokens, 400, NULL, 0, NULL, NULL, &err));
    save(&p);
    end(&p);
    struct td_engine_config f32 = config(256, 2), high = config(256, 2);
    f32.device.kv_f32 = true;
    high.device.precision = TD_PRECISION_HIGH;
    struct process others[3] = {start_with(config(256, 2), UINT64_MAX, 2)};
    for (int i = 0; i < 3; i++) {
        if (i > 0) others[i] = start_with(i == 1 ? f32 : high, UINT64_MAX, 1);
        assert_int_equal(td_kvdisk_find(others[i].d, tokens, 500), 0);
        assert_true(td_kvdisk_bytes(others[i].d) > 0);
        end(&others[i]);
    }
    p = start();
    assert_int_equal(td_kvdisk_find(p.d, tokens, 500), 400); // and it is still there
    end(&p);
    // Of them, too, what is oldest goes.
    p = start_with(config(256, 2), 1000, 2);
    assert_int_equal(td_kvdisk_bytes(p.d), 0);
    assert_int_equal(count_files(".kv"), 0);
    end(&p);
}

// ---- hostile files ----------------------------------------------------------------------------

enum { N_HOSTILE = 400 };
static int32_t g_tokens[N_HOSTILE + 20];
static uint8_t *g_file;
static size_t g_file_bytes;
static char g_file_path[512];

// A good file as bytes: stops at 100, 250, 399, 400.
static void make_good_file(void **state)
{
    struct td_rng rng = {4};
    random_tokens(&rng, g_tokens, N_HOSTILE + 20, 1024);
    empty_dir(state);
    struct process p = start();
    const uint32_t marks[] = {100, 250};
    OK(td_session_sync(p.s, g_tokens, N_HOSTILE, marks, 2, NULL, NULL, &err));
    save(&p);
    g_file_bytes = (size_t)td_kvdisk_bytes(p.d);
    end(&p);
    assert_int_equal(count_files(".kv"), 1);
    memcpy(g_file_path, g_path, sizeof(g_path));
    free(g_file);
    g_file = malloc(g_file_bytes);
    assert_non_null(g_file);
    FILE *f = fopen(g_path, "rb");
    assert_non_null(f);
    assert_int_equal(fread(g_file, 1, g_file_bytes, f), g_file_bytes);
    fclose(f);
}

static void put_bytes(const uint8_t *bytes, size_t n)
{
    (void)remove(g_file_path);
    const int fd = open(g_file_path, O_WRONLY | O_CREAT | O_EXCL, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, n), n);
    close(fd);
}

// Logits of the whole, computed without any file.
static const float *g_right;

static void expect(struct process *p, uint32_t n_least, uint32_t n_most)
{
    const uint32_t n = read_prompt(p, g_tokens, N_HOSTILE + 20);
    assert_in_range(n, n_least, n_most);
    assert_memory_equal(td_session_logits(p->s), g_right, 1024 * sizeof(float));
}

// Opens the folder with these bytes as its file: between n_least and n_most tokens are reused, the
// answer is right, and a file that gave less than the whole is gone.
static void expect_of(const uint8_t *bytes, size_t n, uint32_t n_least, uint32_t n_most)
{
    put_bytes(bytes, n);
    struct process p = start();
    expect(&p, n_least, n_most);
    end(&p);
    if (n_most < N_HOSTILE) assert_int_equal(count_files(".kv"), 0);
}

static void damage_changes_no_answer(void **state)
{
    make_good_file(state);
    struct process whole = start();
    struct td_engine *fresh_engine = open_engine_cfg(g_model, config(256, 2));
    struct td_session *fresh = open_session(fresh_engine, 1000);
    OK(td_session_sync(fresh, g_tokens, N_HOSTILE + 20, NULL, 0, NULL, NULL, &err));
    g_right = td_session_logits(fresh);
    expect(&whole, N_HOSTILE, N_HOSTILE);
    end(&whole);

    struct td_kvfile f;
    OK(td_kvfile_read_fixed(&f, g_file, &err));
    const size_t head = td_kvfile_head_bytes(&f);
    struct td_rng rng = {5};
    uint8_t *bytes = malloc(g_file_bytes + 1);
    assert_non_null(bytes);
    for (int i = 0; i < 60; i++) { // a bit of the head, or of the rest
        memcpy(bytes, g_file, g_file_bytes);
        const size_t at = i < 40 ? (size_t)(i < 20 ? (uint64_t)i * 6 : td_rng_u64(&rng) % head)
                                 : head + (size_t)(td_rng_u64(&rng) % (g_file_bytes - head));
        bytes[at] ^= (uint8_t)(1u << td_rng_u64(&rng) % 8);
        // Another version or other weights are no damage: the file stays, unused.
        const bool is_other = at >= 8 && at < 12;
        if (is_other) {
            put_bytes(bytes, g_file_bytes);
            struct process p = start();
            expect(&p, 0, 0);
            end(&p);
            assert_int_equal(count_files(".kv"), 1);
            continue;
        }
        expect_of(bytes, g_file_bytes, 0, 399);
    }
    for (int i = 0; i < 12; i++) { // cut, or longer
        const size_t n = i == 0 ? 0 : i < 5 ? (size_t)i * 40 : i < 11 ? g_file_bytes * i / 11 : 0;
        memcpy(bytes, g_file, g_file_bytes);
        bytes[g_file_bytes] = 7;
        expect_of(bytes, i == 11 ? g_file_bytes + 1 : n, 0, 0);
    }
    // Damage that appears while it is listed: what is before it still counts.
    put_bytes(g_file, g_file_bytes);
    struct process p = start();
    memcpy(bytes, g_file, g_file_bytes);
    bytes[g_file_bytes - 1] ^= 1;
    put_bytes(bytes, g_file_bytes);
    expect(&p, 399, 399);
    assert_int_equal(td_kvdisk_bytes(p.d), 0);
    end(&p);
    assert_int_equal(count_files(".kv"), 0);
    // A file that goes, or is another one, while it is listed.
    put_bytes(g_file, g_file_bytes);
    p = start();
    put_bytes(g_file, g_file_bytes / 2);
    expect(&p, 0, 0);
    end(&p);
    put_bytes(g_file, g_file_bytes);
    p = start();
    assert_int_equal(remove(g_file_path), 0);
    expect(&p, 0, 0);
    end(&p);
    free(bytes);
    td_session_close(fresh);
    td_engine_close(fresh_engine);
}

static void put_u32(uint8_t *at, uint32_t v)
{
    memcpy(at, &v, 4);
}

// Makes the sum of a head right again, as an attacker would.
static void sum_head(uint8_t *bytes, size_t head)
{
    XXH128_canonical_t sum;
    XXH128_canonicalFromHash(
        &sum, XXH3_128bits_withSeed(bytes + 128, head - 128, XXH3_64bits(bytes, 112)));
    memcpy(bytes + 112, sum.digest, 16);
}

static void heads_that_lie_are_refused(void **state)
{
    make_good_file(state);
    struct td_kvfile f;
    OK(td_kvfile_read_fixed(&f, g_file, &err));
    const size_t head = td_kvfile_head_bytes(&f);
    const size_t tokens_at = 128 + (size_t)24 * f.n_stops;
    static const uint32_t huge[] = {0, 1, 401, 0x7fffffff, 0xffffffff, 1u << 24, (1u << 24) + 1};
    uint8_t *bytes = malloc(g_file_bytes);
    assert_non_null(bytes);
    const size_t fields[] = {12, 64, 68, 72, 76, 80, 84, 88, 108, 128, 132, 152, 156};
    for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
        for (size_t k = 0; k < sizeof(huge) / sizeof(huge[0]); k++) {
            memcpy(bytes, g_file, g_file_bytes);
            put_u32(bytes + fields[i], huge[k]);
            sum_head(bytes, head);
            put_bytes(bytes, g_file_bytes);
            const bool is_same = memcmp(bytes, g_file, g_file_bytes) == 0;
            struct process p = start();
            const uint32_t found = td_kvdisk_find(p.d, g_tokens, N_HOSTILE + 20);
            // n_prompt and the flag of a mark may have other values.
            const bool is_free = fields[i] == 72 || fields[i] == 132 || fields[i] == 156;
            if (!is_same && !is_free) assert_int_equal(found, 0);
            uint32_t n = 0;
            OK(td_kvdisk_load(p.d, p.s, g_tokens, N_HOSTILE + 20, &n, &err));
            assert_true(is_same || is_free || n == 0);
            end(&p);
        }
    }
    memcpy(bytes, g_file, g_file_bytes);
    put_u32(bytes + tokens_at + 4 * 77, 0x80000001);
    sum_head(bytes, head);
    put_bytes(bytes, g_file_bytes);
    struct process p = start();
    assert_int_equal(td_kvdisk_bytes(p.d), 0);
    // Tokens are compared one by one, whatever the name says.
    memcpy(bytes, g_file, g_file_bytes);
    put_u32(bytes + tokens_at + 4 * 120, (uint32_t)g_tokens[120] ^ 1);
    sum_head(bytes, head);
    end(&p);
    put_bytes(bytes, g_file_bytes);
    p = start();
    assert_int_equal(td_kvdisk_find(p.d, g_tokens, N_HOSTILE + 20), 100);
    end(&p);
    free(bytes);
}

static void what_is_no_file_of_ours_is_left_alone(void **state)
{
    make_good_file(state);
    char other[600];
    snprintf(other, sizeof(other), "%s/elsewhere", g_dir);
    for (int kind = 0; kind < 6; kind++) {
        put_bytes(g_file, g_file_bytes);
        (void)remove(other);
        if (kind == 0) assert_int_equal(rename(g_file_path, other), 0);
        if (kind == 0) assert_int_equal(symlink(other, g_file_path), 0);
        if (kind == 1) assert_int_equal(chmod(g_file_path, 0640), 0);
        if (kind == 2) assert_int_equal(link(g_file_path, other), 0);
        if (kind == 3) assert_int_equal(remove(g_file_path), 0);
        if (kind == 3) assert_int_equal(mkfifo(g_file_path, 0600), 0);
        if (kind == 4) assert_int_equal(remove(g_file_path), 0);
        if (kind == 4) assert_int_equal(mkdir(g_file_path, 0700), 0);
        if (kind == 5 && chown(g_file_path, 12345, 12345)) continue; // only root can
        struct process p = start();
        assert_int_equal(td_kvdisk_bytes(p.d), 0);
        assert_int_equal(td_kvdisk_find(p.d, g_tokens, N_HOSTILE + 20), 0);
        end(&p);
        struct stat st;
        assert_int_equal(lstat(g_file_path, &st), 0); // still there
    }
    empty_dir(state);
}

static int try_open(const char *dir)
{
    struct td_engine *e = open_engine_cfg(g_model, config(64, 1));
    const struct td_kvdisk_config cfg = {.dir = dir, .max_bytes = 1 << 20};
    struct td_kvdisk *d;
    const int code = td_kvdisk_open(&d, &cfg, e, &err);
    if (code) assert_null(d);
    td_kvdisk_close(d);
    td_engine_close(e);
    return code;
}

static void folders_that_others_may_use_are_refused(void **state)
{
    (void)state;
    char path[600];
    snprintf(path, sizeof(path), "%s/in", g_dir);
    assert_int_equal(try_open(path), TD_OK); // made
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0700);
    assert_int_equal(chmod(path, 0750), 0);
    assert_int_equal(try_open(path), TD_EARG);
    assert_non_null(strstr(err.msg, path));
    assert_int_equal(chmod(path, 0700), 0);
    if (chown(path, 12345, 12345) == 0) { // only root can
        assert_int_equal(try_open(path), TD_EARG);
        assert_int_equal(chown(path, geteuid(), getegid()), 0);
    }
    // In use by another process.
    struct process p = start();
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct td_kvdisk *d;
        const struct td_kvdisk_config cfg = {.dir = g_dir, .max_bytes = 1};
        _exit(td_kvdisk_open(&d, &cfg, p.e, NULL) == TD_EARG ? 0 : 1);
    }
    int status = -1;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    end(&p);
    char lock[700];
    snprintf(lock, sizeof(lock), "%s/lock", path);
    assert_int_equal(remove(lock), 0);
    assert_int_equal(rmdir(path), 0);
    assert_int_equal(try_open(path), TD_OK);
    assert_int_equal(remove(lock), 0);
    assert_int_equal(rmdir(path), 0);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fclose(f);
    assert_int_equal(try_open(path), TD_EIO);
    snprintf(path, sizeof(path), "%s/not/there", g_dir);
    assert_int_equal(try_open(path), TD_EIO);
}

// A limit of the file size stands for a full disk: the write fails in the middle.
static void a_full_disk_is_no_trouble(void **state)
{
    make_good_file(state);
    struct process p = start();
    struct td_rng rng = {6};
    int32_t tokens[600];
    random_tokens(&rng, tokens, 600, 1024);
    OK(td_session_sync(p.s, tokens, 600, NULL, 0, NULL, NULL, &err));
    static struct td_timeline t;
    td_session_timeline(p.s, &t);
    const uint64_t before = td_kvdisk_bytes(p.d);
    struct rlimit old, small = {0, 0};
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    small = old;
    small.rlim_cur = 20000;
    void (*const handler)(int) = signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    const int code = td_kvdisk_save(p.d, &t, &err);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    signal(SIGXFSZ, handler);
    assert_int_equal(code, TD_EIO);
    assert_int_equal(td_kvdisk_bytes(p.d), before);
    assert_int_equal(count_files(".kv.new"), 0);
    assert_int_equal(td_kvdisk_find(p.d, tokens, 600), 0);
    OK(td_kvdisk_save(p.d, &t, &err));
    assert_int_equal(td_kvdisk_find(p.d, tokens, 600), 599); // the last is computed
    // What a process leaves that is killed while it writes is swept.
    char temp[600];
    snprintf(temp, sizeof(temp), "%s/0123.kv.new", g_dir);
    FILE *f = fopen(temp, "w");
    assert_non_null(f);
    fclose(f);
    end(&p);
    p = start();
    assert_int_equal(count_files(".kv.new"), 0);
    assert_int_equal(count_files(".kv"), 2);
    end(&p);
}

static void a_full_pool_is_no_trouble(void **state)
{
    make_good_file(state);
    struct process p = start();
    struct td_device_report report;
    td_engine_report(p.e, &report);
    end(&p);
    struct td_engine_config cfg = config(64, 2);
    cfg.device.max_kv_bytes = report.kv_page_bytes * 16;
    p = start_with(cfg, UINT64_MAX, 1);
    uint32_t n = 7;
    assert_int_equal(td_kvdisk_load(p.d, p.s, g_tokens, N_HOSTILE + 20, &n, &err), TD_ENOMEM);
    assert_int_equal(td_session_state(p.s), TD_SESSION_IDLE);
    assert_int_equal(td_session_len(p.s), n);
    OK(td_session_sync(p.s, g_tokens, 120, NULL, 0, NULL, NULL, &err));
    assert_fresh(g_model, p.s, g_tokens, 120);
    end(&p);
    assert_int_equal(count_files(".kv"), 1); // it is not the file's fault
    free(g_file);
    g_file = NULL;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(a_restart_forgets_nothing, empty_dir),
        cmocka_unit_test_setup(what_was_read_is_a_conversation_like_any, empty_dir),
        cmocka_unit_test_setup(a_file_can_be_read_in_pieces, empty_dir),
        cmocka_unit_test_setup(a_file_is_written_beside_others, empty_dir),
        cmocka_unit_test_setup(the_folder_keeps_its_size, empty_dir),
        cmocka_unit_test_setup(other_weights_and_layouts_are_not_looked_at, empty_dir),
        cmocka_unit_test_setup(damage_changes_no_answer, empty_dir),
        cmocka_unit_test_setup(heads_that_lie_are_refused, empty_dir),
        cmocka_unit_test_setup(what_is_no_file_of_ours_is_left_alone, empty_dir),
        cmocka_unit_test_setup(folders_that_others_may_use_are_refused, empty_dir),
        cmocka_unit_test_setup(a_full_disk_is_no_trouble, empty_dir),
        cmocka_unit_test_setup(a_full_pool_is_no_trouble, empty_dir),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
