// SPDX-License-Identifier: MIT
// The folder: who may use it, which files there are, which of them helps a prompt, which go when
// there are too many. A file's head is kvdisk_io.c's, writing one kvdisk_save.c's, reading its KV
// kvdisk_load.c's.
//
// What is not a regular file of this user alone (a link, a pipe, another owner, others may read
// it) is left alone and not used. A file with a wrong head, size or sum is removed. One of another
// version, other weights or another layout stays until it is the oldest.
#include "server/kvdisk_impl.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"

#define SUFFIX      TD_KVDISK_SUFFIX
#define TEMP_SUFFIX SUFFIX TD_KVDISK_NEW
#define MAX_ENTRIES 65536u

int td_kvdisk_errno(struct td_error *err, const char *what)
{
    char text[100];
    if (strerror_r(errno, text, sizeof(text)) != 0) memcpy(text, "it failed", 10);
    return td_fail(err, TD_EIO, "%.120s: %s", what, text);
}

// ---- entries ----------------------------------------------------------------------------------

void td_kvdisk_free_entry(struct td_kvdisk_entry *x)
{
    free(x->tokens);
    free(x->stops);
}

void td_kvdisk_forget(struct td_kvdisk *d, uint32_t i)
{
    d->bytes -= d->entries[i].bytes;
    td_kvdisk_free_entry(&d->entries[i]);
    d->entries[i] = d->entries[--d->n_entries];
}

void td_kvdisk_remove(struct td_kvdisk *d, uint32_t i)
{
    if (unlinkat(d->fd, d->entries[i].name, 0) && errno != ENOENT)
        td_log(TD_LOG_WARN, "KV on disk: %s cannot be removed", d->entries[i].name);
    td_kvdisk_forget(d, i);
}

bool td_kvdisk_add(struct td_kvdisk *d, const struct td_kvdisk_entry *x)
{
    if (d->n_entries == MAX_ENTRIES) return false;
    if (d->n_entries == d->cap) {
        const uint32_t cap = d->cap ? 2 * d->cap : 16;
        struct td_kvdisk_entry *grown = realloc(d->entries, cap * sizeof(*grown));
        if (!grown) return false;
        d->entries = grown;
        d->cap = cap;
    }
    d->entries[d->n_entries++] = *x;
    d->bytes += x->bytes;
    return true;
}

uint64_t td_kvdisk_now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint32_t find_name(const struct td_kvdisk *d, const char *name)
{
    uint32_t i = 0;
    while (i < d->n_entries && strcmp(d->entries[i].name, name) != 0) i++;
    return i;
}

void td_kvdisk_used(struct td_kvdisk *d, const char *name, int fd)
{
    const uint32_t i = find_name(d, name);
    if (i < d->n_entries) d->entries[i].used_ns = td_kvdisk_now_ns();
    (void)futimens(fd, NULL); // for the next start; without it, the order is a little worse
}

void td_kvdisk_damaged(struct td_kvdisk *d, const char *name, const char *why)
{
    const uint32_t i = find_name(d, name);
    if (i == d->n_entries) return;
    td_log(TD_LOG_WARN, "KV on disk: %s is removed: %s", name, why);
    td_kvdisk_remove(d, i);
}

bool td_kvdisk_make_room(struct td_kvdisk *d, uint64_t bytes, uint64_t used_ns)
{
    uint64_t left = 0, stays = 0;
    for (uint32_t i = 0; i < d->n_entries; i++) {
        const struct td_kvdisk_entry *x = &d->entries[i];
        if (x->is_superseded) continue;
        left += x->bytes;
        if (x->used_ns >= used_ns) stays += x->bytes;
    }
    if (bytes > d->cfg_max_bytes || stays > d->cfg_max_bytes - bytes) return false;
    while (left > d->cfg_max_bytes - bytes) {
        uint32_t oldest = UINT32_MAX;
        for (uint32_t i = 0; i < d->n_entries; i++) {
            const struct td_kvdisk_entry *x = &d->entries[i];
            if (x->is_superseded) continue;
            if (oldest == UINT32_MAX || x->used_ns < d->entries[oldest].used_ns) oldest = i;
        }
        left -= d->entries[oldest].bytes;
        td_kvdisk_remove(d, oldest);
    }
    return true;
}

// ---- the folder as it is found ----------------------------------------------------------------

int td_kvdisk_open_file(const struct td_kvdisk *d, const char *name, struct stat *st)
{
    // Without O_NONBLOCK a pipe would wait for its other end.
    const int fd = openat(d->fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) return -1;
    if (fstat(fd, st) == 0 && S_ISREG(st->st_mode) && st->st_uid == geteuid() &&
        (st->st_mode & 077) == 0 && st->st_nlink == 1 && st->st_size >= 0)
        return fd;
    close(fd);
    return -1;
}

static bool ends_with(const char *text, const char *end)
{
    const size_t n = strlen(text), n_end = strlen(end);
    return n >= n_end && strcmp(text + n - n_end, end) == 0;
}

// Reads the head of a file into x; TD_EUNSUP: it is none of ours, but may stay.
static int read_entry(struct td_kvdisk *d, struct td_kvdisk_entry *x, int fd, struct td_error *err)
{
    uint8_t *head = NULL;
    struct td_kvfile f;
    int code = td_kvdisk_read_head(fd, x->bytes, &f, &head, err);
    if (!code && (memcmp(f.weights, d->weights, sizeof(f.weights)) != 0 ||
                  memcmp(f.layout, d->layout, sizeof(f.layout)) != 0))
        code = td_fail(err, TD_EUNSUP, "it is of other weights");
    if (!code) {
        x->n_tokens = f.n_tokens;
        x->n_prompt = f.n_prompt;
        x->n_stops = f.n_stops;
        x->tokens = malloc(f.n_tokens * sizeof(*x->tokens));
        x->stops = malloc(f.n_stops * sizeof(*x->stops));
        if (!x->tokens || !x->stops) code = td_fail(err, TD_ENOMEM, "no memory for %s", x->name);
    }
    if (!code) code = td_kvfile_read(&f, head, td_kvfile_head_bytes(&f), x->stops, x->tokens, err);
    if (!code && f.payload_bytes != td_kvdisk_payload_bytes(d, x->stops, x->n_stops))
        code = td_fail(err, TD_EFORMAT, "it has another size than its stops say");
    free(head);
    x->is_ours = code == TD_OK;
    if (code) {
        td_kvdisk_free_entry(x);
        x->tokens = NULL;
        x->stops = NULL;
    }
    return code;
}

static int find_file(struct td_kvdisk *d, const char *name, struct td_error *err)
{
    struct td_kvdisk_entry x = {0};
    if (strlen(name) >= sizeof(x.name)) return TD_OK; // no name that we give
    memcpy(x.name, name, strlen(name) + 1);
    struct stat st;
    const int fd = td_kvdisk_open_file(d, name, &st);
    if (fd < 0) return TD_OK;
    x.bytes = (uint64_t)st.st_size;
    x.used_ns = (uint64_t)st.st_mtim.tv_sec * 1000000000u + (uint64_t)st.st_mtim.tv_nsec;
    struct td_error why = {0};
    const int code = read_entry(d, &x, fd, &why);
    close(fd);
    if (code == TD_EFORMAT) {
        td_log(TD_LOG_WARN, "KV on disk: %s is removed: %s", name, why.msg);
        (void)unlinkat(d->fd, name, 0);
        return TD_OK;
    }
    if (code == TD_ENOMEM) return td_fail(err, code, "%s", why.msg);
    if (td_kvdisk_add(d, &x)) return TD_OK;
    td_kvdisk_free_entry(&x);
    return td_fail(err, TD_ENOMEM, "KV on disk: more files than can be listed");
}

static int find_files(struct td_kvdisk *d, struct td_error *err)
{
    const int fd = dup(d->fd); // closedir takes it
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    if (!dir) {
        if (fd >= 0) close(fd);
        return td_kvdisk_errno(err, d->dir);
    }
    int code = TD_OK;
    // A stream of its own: readdir is safe here. NOLINTNEXTLINE(concurrency-mt-unsafe)
    for (const struct dirent *e; code == TD_OK && (e = readdir(dir));) {
        // What a process left that ended while it wrote.
        if (ends_with(e->d_name, TEMP_SUFFIX))
            (void)unlinkat(d->fd, e->d_name, 0);
        else if (ends_with(e->d_name, SUFFIX))
            code = find_file(d, e->d_name, err);
    }
    closedir(dir);
    return code;
}

// The folder must be this user's alone, and this process's: two that count each other's files as
// their own would remove what the other reads.
static int open_dir(struct td_kvdisk *d, const char *dir, struct td_error *err)
{
    if (mkdir(dir, 0700) && errno != EEXIST) return td_kvdisk_errno(err, dir);
    d->fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (d->fd < 0) return td_kvdisk_errno(err, dir);
    struct stat st;
    if (fstat(d->fd, &st)) return td_kvdisk_errno(err, dir);
    if (st.st_uid != geteuid())
        return td_fail(err, TD_EARG, "%s belongs to another user: conversations do not go there",
                       dir);
    if (st.st_mode & 077)
        return td_fail(err, TD_EARG,
                       "others may use %s (mode %03o): conversations only go where nobody else may "
                       "read them (chmod 700)",
                       dir, (unsigned)st.st_mode & 0777);
    d->lock_fd =
        openat(d->fd, "lock", O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0600);
    if (d->lock_fd < 0) return td_kvdisk_errno(err, "its lock");
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    if (fcntl(d->lock_fd, F_SETLK, &lock))
        return td_fail(err, TD_EARG, "%s is in use by another process", dir);
    return TD_OK;
}

int td_kvdisk_open(struct td_kvdisk **out, const struct td_kvdisk_config *cfg,
                   struct td_engine *engine, struct td_error *err)
{
    *out = NULL;
    struct td_kvdisk *d = calloc(1, sizeof(*d));
    if (!d) return td_fail(err, TD_ENOMEM, "no memory for KV on disk");
    d->fd = d->lock_fd = -1;
    d->cfg_max_bytes = cfg->max_bytes;
    memcpy(d->weights, cfg->weights, sizeof(d->weights));
    d->engine = engine;
    d->dir = strdup(cfg->dir);
    int code = d->dir ? TD_OK : td_fail(err, TD_ENOMEM, "no memory for KV on disk");
    if (!code) code = td_kvdisk_open_io(d, err);
    if (!code) code = open_dir(d, cfg->dir, err);
    if (!code) code = find_files(d, err);
    if (code) {
        td_kvdisk_close(d);
        return code;
    }
    (void)td_kvdisk_make_room(d, 0, UINT64_MAX);
    *out = d;
    return TD_OK;
}

void td_kvdisk_close(struct td_kvdisk *d)
{
    if (!d) return;
    for (uint32_t i = 0; i < d->n_entries; i++) td_kvdisk_free_entry(&d->entries[i]);
    free(d->entries);
    td_kvdisk_close_io(d);
    if (d->lock_fd >= 0) close(d->lock_fd);
    if (d->fd >= 0) close(d->fd);
    free(d->dir);
    free(d);
}

uint64_t td_kvdisk_bytes(const struct td_kvdisk *d)
{
    return d->bytes;
}

// ---- what helps -------------------------------------------------------------------------------

uint32_t td_kvdisk_same(const int32_t *a, uint32_t n_a, const int32_t *b, uint32_t n_b)
{
    uint32_t same = 0;
    while (same < n_a && same < n_b && a[same] == b[same]) same++;
    return same;
}

// How many of its stops lie within the first n tokens.
uint32_t td_kvdisk_stops_in(const struct td_kvdisk_entry *x, uint32_t n)
{
    uint32_t i = 0;
    while (i < x->n_stops && x->stops[i].pos <= n) i++;
    return i;
}

uint32_t td_kvdisk_best(const struct td_kvdisk *d, const int32_t *tokens, uint32_t n,
                        uint32_t *n_stops_out)
{
    uint32_t best = d->n_entries, most = 0;
    for (uint32_t i = 0; i < d->n_entries && n > 0; i++) {
        const struct td_kvdisk_entry *x = &d->entries[i];
        if (!x->is_ours) continue;
        const uint32_t n_stops =
            td_kvdisk_stops_in(x, td_kvdisk_same(x->tokens, x->n_tokens, tokens, n - 1));
        if (n_stops == 0 || x->stops[n_stops - 1].pos <= most) continue;
        most = x->stops[n_stops - 1].pos;
        best = i;
        *n_stops_out = n_stops;
    }
    return best;
}

uint32_t td_kvdisk_find(struct td_kvdisk *d, const int32_t *tokens, uint32_t n)
{
    uint32_t n_stops = 0;
    const uint32_t i = td_kvdisk_best(d, tokens, n, &n_stops);
    return i < d->n_entries ? d->entries[i].stops[n_stops - 1].pos : 0;
}
