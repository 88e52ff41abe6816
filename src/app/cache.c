// SPDX-License-Identifier: MIT
// One JSON object a file, keys to values, the newest last. Written anew under another name and
// renamed, so that a reader sees a whole file; of two writers at once the later one wins, and the
// other's entry is found out again.
#include "app/cache.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_ENTRIES = 64, MAX_FILE_BYTES = 1 << 20 };

static bool path_of(const struct td_config *cfg, const char *name, char *out, size_t out_bytes)
{
    if (!cfg->cache_dir[0]) return false;
    const int n = snprintf(out, out_bytes, "%s/%s", cfg->cache_dir, name);
    return n > 0 && (size_t)n < out_bytes;
}

// The whole file as an object; NULL when it is none.
static json_t *load(const char *path)
{
    // Not blocking: whatever lies there, it must not hold us.
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return NULL;
    struct stat st;
    json_t *root = NULL;
    char *text = NULL;
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size <= MAX_FILE_BYTES)
        text = malloc((size_t)st.st_size + 1);
    if (text) {
        const ssize_t n = read(fd, text, (size_t)st.st_size);
        if (n > 0) root = json_loadb(text, (size_t)n, 0, NULL);
        free(text);
    }
    close(fd);
    if (root && !json_is_object(root)) {
        json_decref(root);
        root = NULL;
    }
    return root;
}

json_t *td_cache_get(const struct td_config *cfg, const char *name, const char *key)
{
    char path[1200];
    if (!path_of(cfg, name, path, sizeof(path))) return NULL;
    json_t *root = load(path);
    json_t *value = json_incref(json_object_get(root, key));
    json_decref(root);
    return value;
}

// The folder and those above it, as far as they are missing.
static void make_folder(const char *folder)
{
    char path[1200];
    snprintf(path, sizeof(path), "%s", folder);
    for (char *at = path + 1; *at; at++) {
        if (*at != '/') continue;
        *at = '\0';
        (void)mkdir(path, 0700);
        *at = '/';
    }
    (void)mkdir(path, 0700);
}

static bool save(const char *path, const json_t *root)
{
    char temporary[1300];
    snprintf(temporary, sizeof(temporary), "%s.%ld", path, (long)getpid());
    char *text = json_dumps(root, JSON_INDENT(1) | JSON_REAL_PRECISION(9));
    if (!text) return false;
    (void)unlink(temporary); // of a process of this number that is gone
    const int fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    const size_t n = strlen(text);
    bool ok = fd >= 0 && write(fd, text, n) == (ssize_t)n;
    if (fd >= 0 && close(fd) != 0) ok = false;
    free(text);
    ok = ok && rename(temporary, path) == 0;
    if (!ok && fd >= 0) (void)unlink(temporary);
    return ok;
}

void td_cache_put(const struct td_config *cfg, const char *name, const char *key, json_t *value)
{
    char path[1200];
    if (!path_of(cfg, name, path, sizeof(path)) || !value) {
        json_decref(value);
        return;
    }
    json_t *root = load(path);
    if (!root) root = json_object();
    // Objects keep the order in which keys came: the newest is last, the oldest goes first.
    (void)json_object_del(root, key);
    while (json_object_size(root) >= MAX_ENTRIES)
        (void)json_object_del(root, json_object_iter_key(json_object_iter(root)));
    if (json_object_set_new(root, key, value) == 0 && !save(path, root)) {
        make_folder(cfg->cache_dir);
        (void)save(path, root); // a cache that cannot be written is none
    }
    json_decref(root);
}
