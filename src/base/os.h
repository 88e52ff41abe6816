// SPDX-License-Identifier: MIT
// What tandem asks of the operating system: file maps, memory figures, CPU facts.
#ifndef TD_BASE_OS_H
#define TD_BASE_OS_H

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

// A whole file, mapped read-only and shared: the pages are the page cache's own.
struct td_map {
    const uint8_t *bytes;
    size_t size_bytes;
};

// Maps a regular file. On failure *out is zeroed and err names the file.
int td_os_map_file(struct td_map *out, const char *path, struct td_error *err) TD_MUST_CHECK;

// Unmaps; a zeroed map is fine.
void td_os_unmap(struct td_map *map);

// The path of the mapped file that holds address, or NULL. Async-signal-safe: the app's SIGBUS
// handler uses it to say which file was truncated while it was mapped.
const char *td_os_map_path_at(const void *address);

// How many bytes of the map that holds address this process sees through huge pages (2 MiB); what
// it has not touched yet does not count. 0 also where the system does not say. It reads a list of
// the whole address space and looks at every page of it: not for hot paths.
uint64_t td_os_huge_bytes(const void *address);

// Zeroed memory for a table that is filled and read in no order, given back with free(). A large
// one lies on huge pages where the system has them: 16 MB else cost 4 096 page faults, and a
// look-up misses the TLB as well as the cache. NULL without memory.
void *td_os_alloc_table(size_t n, size_t elem_bytes);

// Reserves address space; pages cost memory only when first written. NULL when refused.
void *td_os_reserve(size_t size_bytes);
void td_os_release(void *p, size_t size_bytes);
// Asks for huge pages in a reserved range that will be written from its start on and read all
// over. Only advice; a range that is partly written costs up to a huge page (2 MiB) more.
void td_os_want_huge(void *p, size_t size_bytes);

struct td_os_info {
    char cpu_name[96];
    char os_name[96];
    uint32_t n_cpus;           // this process may run on
    uint64_t memory_bytes;     // installed, or the container's limit when that is lower
    uint64_t available_bytes;  // free or reclaimable now
    uint64_t last_cache_bytes; // size of the last-level cache; 0 when unknown
    uint64_t page_bytes;
};
void td_os_info(struct td_os_info *out);

// Resident memory of this process: now, its peak, and the part that is file pages (shared with
// every process that maps the same file). 0 when the system does not say.
struct td_os_rss {
    uint64_t now_bytes;
    uint64_t peak_bytes;
    uint64_t file_bytes;
};
void td_os_rss(struct td_os_rss *out);

#endif
