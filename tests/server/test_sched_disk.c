// SPDX-License-Identifier: MIT
// Conversations that are on disk when the server starts again.
#include "server/kvdisk.h"
#include "server/sched_rig.h"

#include <dirent.h>
#include <unistd.h>

#define TINY "tests/data/gptoss-tiny.gguf"

// A disk that takes nothing while it is told to wait.
static struct {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    bool waits;
    uint32_t n_waiting;
} g_slow = {.mutex = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

ssize_t __real_write(int fd, const void *bytes, size_t n);
ssize_t __wrap_write(int fd, const void *bytes, size_t n);

ssize_t __wrap_write(int fd, const void *bytes, size_t n)
{
    pthread_mutex_lock(&g_slow.mutex);
    g_slow.n_waiting++;
    while (g_slow.waits) pthread_cond_wait(&g_slow.changed, &g_slow.mutex);
    g_slow.n_waiting--;
    pthread_mutex_unlock(&g_slow.mutex);
    return __real_write(fd, bytes, n);
}

static void slow_disk(bool waits)
{
    pthread_mutex_lock(&g_slow.mutex);
    g_slow.waits = waits;
    pthread_cond_broadcast(&g_slow.changed);
    pthread_mutex_unlock(&g_slow.mutex);
}

static bool is_writing(void)
{
    pthread_mutex_lock(&g_slow.mutex);
    const bool is = g_slow.n_waiting > 0;
    pthread_mutex_unlock(&g_slow.mutex);
    return is;
}

static char g_dir[64];
static uint64_t g_disk_bytes = 64 << 20;
static int32_t g_tokens[3][800];

struct house {
    struct rig rig;
    struct td_kvdisk *disk;
};

static void open_house(struct house *h)
{
    rig_open(&h->rig, &(struct rig_config){.path = TINY, .n_ctx = 1024, .n_slots = 2, .chunk = 32});
    for (uint32_t i = 0; i < 3; i++)
        fill_tokens(g_tokens[i], 800, i + 1, h->rig.model->spec.n_vocab);
    td_sched_close(h->rig.sched);
    const struct td_kvdisk_config cfg = {.dir = g_dir, .max_bytes = g_disk_bytes, .weights = {7}};
    OK(td_kvdisk_open(&h->disk, &cfg, h->rig.engine, &err));
    h->rig.cfg.disk = h->disk;
    OK(td_sched_open(&h->rig.sched, &h->rig.cfg, &err));
}

static void close_house(struct house *h)
{
    td_sched_close(h->rig.sched);
    h->rig.sched = NULL;
    td_kvdisk_close(h->disk);
    rig_close(&h->rig);
}

static void ask(struct house *h, struct answer *a, uint32_t i, uint32_t n)
{
    const struct td_job_spec spec = spec_of(g_tokens[i], n, 10);
    answer_begin(a, &spec);
    OK(td_sched_submit(h->rig.sched, a->job, NULL, &err));
    answer_read(a);
    assert_int_equal(a->end, TD_JOB_LENGTH);
}

static void a_restart_forgets_nothing(void **state)
{
    (void)state;
    struct house h;
    struct answer first, again, other;
    struct td_sched_stats stats;
    open_house(&h);
    ask(&h, &first, 0, 600);
    ask(&h, &other, 1, 300);
    answer_end(&other);
    close_house(&h); // at once: what is to be kept is written at the end

    open_house(&h);
    ask(&h, &other, 2, 300); // somebody else first
    assert_int_equal(other.stats.n_reused, 0);
    answer_end(&other);
    ask(&h, &again, 0, 600);
    assert_true(again.stats.n_reused >= 512);
    assert_string_equal(again.text[TD_CHANNEL_FINAL], first.text[TD_CHANNEL_FINAL]);
    td_sched_stats(h.rig.sched, &stats);
    assert_int_equal(stats.n_reused_disk, again.stats.n_reused);
    answer_end(&again);
    ask(&h, &again, 0, 700); // the next turn finds it in memory
    assert_true(again.stats.n_reused >= 599);
    td_sched_stats(h.rig.sched, &stats);
    assert_true(stats.n_reused_disk < again.stats.n_reused + 1);
    answer_end(&again);
    answer_end(&first);
    close_house(&h);
}

static bool is_saved(struct house *h)
{
    struct td_sched_stats stats;
    td_sched_stats(h->rig.sched, &stats);
    return stats.disk_bytes > 0;
}

static void a_quiet_moment_is_used(void **state)
{
    (void)state;
    struct house h;
    struct answer a;
    open_house(&h);
    ask(&h, &a, 1, 700);
    answer_end(&a);
    for (int i = 0; i < PATIENCE_SECONDS * 10 && !is_saved(&h); i++)
        nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
    assert_true(is_saved(&h));
    close_house(&h);
}

static uint32_t reused(struct house *h, uint32_t i, uint32_t n)
{
    struct answer a;
    ask(h, &a, i, n);
    const uint32_t n_reused = a.stats.n_reused;
    answer_end(&a);
    return n_reused;
}

// Answers do not wait for what is being written, whatever the disk.
static void a_slow_disk_holds_nobody_up(void **state)
{
    (void)state;
    struct house h;
    struct answer next, again;
    open_house(&h);
    assert_int_equal(reused(&h, 0, 700), 0);
    slow_disk(true);
    for (int i = 0; i < PATIENCE_SECONDS * 10 && !is_writing(); i++)
        nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
    assert_true(is_writing());
    assert_int_equal(reused(&h, 1, 300), 0);
    ask(&h, &next, 0, 750);
    assert_true(next.stats.n_reused >= 699); // what is being written goes on being used
    assert_true(is_writing());
    assert_false(is_saved(&h));
    slow_disk(false);
    close_house(&h);

    open_house(&h);
    ask(&h, &again, 0, 750);
    assert_true(again.stats.n_reused >= 700);
    assert_string_equal(again.text[TD_CHANNEL_FINAL], next.text[TD_CHANNEL_FINAL]);
    answer_end(&again);
    answer_end(&next);
    close_house(&h);
}

// A folder that holds only one of them keeps the one used last.
static void a_small_folder_keeps_the_newest(void **state)
{
    (void)state;
    struct house h;
    struct td_sched_stats stats;
    open_house(&h);
    (void)reused(&h, 0, 600);
    close_house(&h);
    open_house(&h);
    const uint64_t one_bytes = td_kvdisk_bytes(h.disk);
    close_house(&h);
    g_disk_bytes = one_bytes + one_bytes / 2;
    open_house(&h);
    (void)reused(&h, 1, 600);
    (void)reused(&h, 2, 600);
    close_house(&h);
    open_house(&h);
    assert_true(reused(&h, 2, 600) >= 512);
    assert_int_equal(reused(&h, 0, 600), 0);
    assert_int_equal(reused(&h, 1, 600), 0);
    td_sched_stats(h.rig.sched, &stats);
    assert_true(stats.n_reused_disk >= 512);
    g_disk_bytes = 64 << 20;
    close_house(&h);
}

static int make_dir(void **state)
{
    (void)state;
    (void)snprintf(g_dir, sizeof(g_dir), "/tmp/test_sched_disk.XXXXXX");
    return mkdtemp(g_dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
    (void)state;
    DIR *dir = opendir(g_dir);
    for (struct dirent *e; dir && (e = readdir(dir)) != NULL;) {
        char path[400];
        (void)snprintf(path, sizeof(path), "%s/%s", g_dir, e->d_name);
        if (e->d_name[0] != '.' || e->d_name[1]) (void)unlink(path);
    }
    if (dir) closedir(dir);
    (void)rmdir(g_dir);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_restart_forgets_nothing, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(a_quiet_moment_is_used, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(a_slow_disk_holds_nobody_up, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(a_small_folder_keeps_the_newest, make_dir, remove_dir),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
