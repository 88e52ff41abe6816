// SPDX-License-Identifier: MIT
// The operating system, as Linux has it (macOS: os_darwin.c when it comes). The only file that
// needs more than POSIX. It maps files, counts memory and reads CPU facts from /proc and /sys.
#define _GNU_SOURCE // NOLINT(bugprone-reserved-identifier): the C library's own switch
#include "base/os.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

// Mapped files, for td_os_map_path_at. A slot is taken while `bytes` is not NULL; the path is
// written before (release) and never freed while taken, so a signal handler may read it.
enum { MAX_MAPS = 256 };
static struct {
    _Atomic(const uint8_t *) bytes;
    _Atomic size_t size_bytes;
    char path[512];
    atomic_flag is_taken;
} g_maps[MAX_MAPS];

static void remember_map(const struct td_map *map, const char *path)
{
    for (int i = 0; i < MAX_MAPS; i++) {
        if (atomic_flag_test_and_set(&g_maps[i].is_taken)) continue;
        snprintf(g_maps[i].path, sizeof(g_maps[i].path), "%s", path);
        atomic_store(&g_maps[i].size_bytes, map->size_bytes);
        atomic_store(&g_maps[i].bytes, map->bytes);
        return;
    }
}

static void forget_map(const struct td_map *map)
{
    for (int i = 0; i < MAX_MAPS; i++) {
        if (atomic_load(&g_maps[i].bytes) != map->bytes) continue;
        atomic_store(&g_maps[i].bytes, NULL);
        atomic_flag_clear(&g_maps[i].is_taken);
        return;
    }
}

const char *td_os_map_path_at(const void *address)
{
    const uint8_t *p = address;
    for (int i = 0; i < MAX_MAPS; i++) {
        const uint8_t *bytes = atomic_load(&g_maps[i].bytes);
        if (bytes && p >= bytes && p < bytes + atomic_load(&g_maps[i].size_bytes))
            return g_maps[i].path;
    }
    return NULL;
}

int td_os_map_file(struct td_map *out, const char *path, struct td_error *err)
{
    *out = (struct td_map){0};
    // A sentence holds 239 bytes: of a long path its end must do, so that the reason stays.
    enum { SHOWN = 130 };
    const size_t n_path = strlen(path);
    const bool is_long = n_path > SHOWN;
    const char *dots = is_long ? "..." : "", *end = is_long ? path + n_path - SHOWN : path;
    // O_NONBLOCK: opening a FIFO that nobody writes would wait for ever.
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return td_fail(err, TD_EIO, "%s%s: %s", dots, end, strerrordesc_np(errno));
    struct stat st;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        close(fd);
        return td_fail(err, TD_EIO, "%s%s: not a regular file", dots, end);
    }
    if (st.st_size == 0) {
        close(fd);
        return td_fail(err, TD_EFORMAT, "%s%s: the file is empty", dots, end);
    }
    const size_t size_bytes = (size_t)st.st_size;
    void *p = mmap(NULL, size_bytes, PROT_READ, MAP_SHARED, fd, 0);
    const int map_errno = errno;
    close(fd);
    if (p == MAP_FAILED)
        return td_fail(err, TD_EIO, "%s%s: cannot be mapped: %s", dots, end,
                       strerrordesc_np(map_errno));
    // Where the file system keeps large folios (ext4 from Linux 6.16, XFS and btrfs before), what
    // is read from disk through this map comes in huge pages, for every process that maps the
    // file. The TLB is then out of the way of a decode, which reads all active weights a token.
    // What the page cache already holds in small pages stays so.
    (void)madvise(p, size_bytes, MADV_HUGEPAGE);
    *out = (struct td_map){.bytes = p, .size_bytes = size_bytes};
    remember_map(out, path);
    return TD_OK;
}

void td_os_unmap(struct td_map *map)
{
    if (!map->bytes) return;
    forget_map(map);
    munmap((void *)(uintptr_t)map->bytes, map->size_bytes);
    *map = (struct td_map){0};
}

// The number of a line "Key:   123 kB" of a /proc file when key is its key; else 0.
static uint64_t line_kib(const char *line, const char *key)
{
    const size_t key_len = strlen(key);
    if (strncmp(line, key, key_len) != 0 || line[key_len] != ':') return 0;
    return strtoull(line + key_len + 1, NULL, 10);
}

uint64_t td_os_huge_bytes(const void *address)
{
    const uintptr_t at = (uintptr_t)address;
    FILE *f = fopen("/proc/self/smaps", "re");
    if (!f) return 0;
    // Each map is a line "begin-end rights ... path", the numbers in small letters, and lines of
    // figures, whose keys begin with a capital. Of a line longer than this only the start counts.
    char line[256];
    bool is_start = true, is_in = false;
    uint64_t kib = 0;
    while (fgets(line, sizeof(line), f)) {
        const bool was_start = is_start;
        is_start = strchr(line, '\n') != NULL;
        if (!was_start) continue;
        if (line[0] < 'A' || line[0] > 'Z') {
            char *dash;
            const uint64_t begin = strtoull(line, &dash, 16);
            is_in = *dash == '-' && at >= begin && at < strtoull(dash + 1, NULL, 16);
        } else if (is_in) {
            // Pages of a file on disk, of one in memory, of none.
            kib += line_kib(line, "FilePmdMapped") + line_kib(line, "ShmemPmdMapped") +
                   line_kib(line, "AnonHugePages");
        }
    }
    fclose(f);
    return kib * 1024;
}

void *td_os_alloc_table(size_t n, size_t elem_bytes)
{
    const size_t huge = (size_t)2 << 20;
    size_t size_bytes;
    if (__builtin_mul_overflow(n, elem_bytes, &size_bytes) || size_bytes > SIZE_MAX - huge)
        return NULL;
    if (size_bytes < huge / 2) return calloc(n, elem_bytes);
    // On their border, and whole: a rest would be small pages, 512 of them.
    size_bytes = (size_bytes + huge - 1) & ~(huge - 1);
    void *p = aligned_alloc(huge, size_bytes);
    if (!p) return NULL;
    (void)madvise(p, size_bytes, MADV_HUGEPAGE);
    memset(p, 0, size_bytes);
    return p;
}

void *td_os_reserve(size_t size_bytes)
{
    void *p = mmap(NULL, size_bytes, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

void td_os_release(void *p, size_t size_bytes)
{
    if (p) munmap(p, size_bytes);
}

void td_os_want_huge(void *p, size_t size_bytes)
{
    (void)madvise(p, size_bytes, MADV_HUGEPAGE);
}

// The number in front of the unit in "Key:   123 kB" of a /proc file, in bytes; 0 when absent.
static uint64_t proc_kib(const char *path, const char *key)
{
    FILE *f = fopen(path, "re");
    if (!f) return 0;
    char line[256];
    uint64_t kib = 0;
    while (!kib && fgets(line, sizeof(line), f)) kib = line_kib(line, key);
    fclose(f);
    return kib * 1024;
}

static uint64_t file_u64(const char *path)
{
    FILE *f = fopen(path, "re");
    if (!f) return 0;
    char line[64] = "";
    const char *got = fgets(line, sizeof(line), f);
    fclose(f);
    return got ? strtoull(line, NULL, 10) : 0; // "max" gives 0
}

// "49152K" of the highest cache index of CPU 0.
static uint64_t last_cache_bytes(void)
{
    uint64_t bytes = 0;
    for (int i = 0; i < 8; i++) {
        char path[96];
        snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu0/cache/index%d/size", i);
        const uint64_t kib = file_u64(path);
        if (kib * 1024 > bytes) bytes = kib * 1024;
    }
    return bytes;
}

static void cpu_name(char *out, size_t size_bytes)
{
    snprintf(out, size_bytes, "unknown CPU");
    FILE *f = fopen("/proc/cpuinfo", "re");
    if (!f) return;
    char line[256];
    while (fgets(line, sizeof(line), f)) {
        if (strncmp(line, "model name", 10) != 0) continue;
        const char *colon = strchr(line, ':');
        if (!colon) continue;
        colon += 1 + strspn(colon + 1, " \t");
        snprintf(out, size_bytes, "%.*s", (int)strcspn(colon, "\n"), colon);
        break;
    }
    fclose(f);
}

void td_os_info(struct td_os_info *out)
{
    *out = (struct td_os_info){0};
    cpu_name(out->cpu_name, sizeof(out->cpu_name));
    struct utsname u;
    if (uname(&u) == 0)
        snprintf(out->os_name, sizeof(out->os_name), "%.20s %.40s %.20s", u.sysname, u.release,
                 u.machine);
    cpu_set_t set;
    out->n_cpus = sched_getaffinity(0, sizeof(set), &set) == 0 ? (uint32_t)CPU_COUNT(&set) : 1;
    out->memory_bytes = proc_kib("/proc/meminfo", "MemTotal");
    out->available_bytes = proc_kib("/proc/meminfo", "MemAvailable");
    const uint64_t limit = file_u64("/sys/fs/cgroup/memory.max");
    if (limit && limit < out->memory_bytes) {
        const uint64_t used = file_u64("/sys/fs/cgroup/memory.current");
        out->memory_bytes = limit;
        const uint64_t left = limit > used ? limit - used : 0;
        if (left < out->available_bytes) out->available_bytes = left;
    }
    out->last_cache_bytes = last_cache_bytes();
    out->page_bytes = (uint64_t)sysconf(_SC_PAGESIZE);
}

void td_os_rss(struct td_os_rss *out)
{
    out->now_bytes = proc_kib("/proc/self/status", "VmRSS");
    out->peak_bytes = proc_kib("/proc/self/status", "VmHWM");
    out->file_bytes = proc_kib("/proc/self/status", "RssFile");
}
