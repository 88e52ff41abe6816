// SPDX-License-Identifier: MIT
// Private to server/kvdisk*.c.
#ifndef TD_SERVER_KVDISK_IMPL_H
#define TD_SERVER_KVDISK_IMPL_H

#include "server/kvdisk.h"
#include "server/kvfile.h"

#include <sys/stat.h>
#include <xxhash.h>

#define TD_KVDISK_SUFFIX ".kv"
#define TD_KVDISK_NEW    ".new" // behind it while it is written
// What is read again sooner than a file is found.
#define TD_KVDISK_MIN_TOKENS 128u

struct td_kvdisk_entry {
    char name[48];
    uint64_t bytes;
    uint64_t used_ns; // wall clock
    bool is_ours;     // of these weights and this layout: what follows is known
    bool is_superseded;
    uint32_t n_tokens, n_prompt, n_stops;
    int32_t *tokens;
    struct td_kvfile_stop *stops;
};

struct td_kvdisk {
    char *dir;
    int fd, lock_fd;
    uint64_t cfg_max_bytes;
    uint8_t weights[32], layout[16];
    struct td_engine *engine;
    uint32_t elem_bytes; // of KV
    struct td_kvdisk_entry *entries;
    uint32_t n_entries, cap;
    uint64_t bytes;
    uint64_t piece_bytes; // of the largest layer
    uint8_t *piece;       // room for one
    void *sum;            // XXH3 state
};

// kvdisk.c
int td_kvdisk_errno(struct td_error *err, const char *what); // TD_EIO, with errno in words
int td_kvdisk_open_file(const struct td_kvdisk *d, const char *name, struct stat *st); // or -1
void td_kvdisk_free_entry(struct td_kvdisk_entry *x);
// Adds it to the list, which owns its arrays then. False: the list is full, or no memory.
bool td_kvdisk_add(struct td_kvdisk *d, const struct td_kvdisk_entry *x);
void td_kvdisk_forget(struct td_kvdisk *d, uint32_t i); // takes it from the list
void td_kvdisk_remove(struct td_kvdisk *d, uint32_t i); // the file too
// Gives up what was used longest ago, before used_ns, and is not to go anyway, until the folder has
// room. False, and nothing is given up, when that is not enough.
bool td_kvdisk_make_room(struct td_kvdisk *d, uint64_t bytes, uint64_t used_ns);
// How many tokens two timelines begin with alike.
uint32_t td_kvdisk_same(const int32_t *a, uint32_t n_a, const int32_t *b, uint32_t n_b);
// How many of a file's stops lie within the first n tokens.
uint32_t td_kvdisk_stops_in(const struct td_kvdisk_entry *x, uint32_t n);
// Removes the file of that name, if it is listed, and says why.
void td_kvdisk_damaged(struct td_kvdisk *d, const char *name, const char *why);
void td_kvdisk_used(struct td_kvdisk *d, const char *name, int fd);
// The file with the longest usable prefix of tokens[0, n), its last token apart: its index, and how
// many of its stops that takes; or n_entries.
uint32_t td_kvdisk_best(const struct td_kvdisk *d, const int32_t *tokens, uint32_t n,
                        uint32_t *n_stops_out);

// kvdisk_io.c
int td_kvdisk_open_io(struct td_kvdisk *d, struct td_error *err);
void td_kvdisk_close_io(struct td_kvdisk *d);
// Of weights, layout and tokens.
void td_kvdisk_digest(const struct td_kvdisk *d, const int32_t *tokens, uint32_t n,
                      uint8_t out[16]);
const struct td_spec *td_kvdisk_spec(const struct td_kvdisk *d);
// Of K and V of one position.
uint64_t td_kvdisk_position_bytes(const struct td_kvdisk *d, const struct td_kv_layer *l);
// First position of a layer that lies between two stops in a file.
uint32_t td_kvdisk_first(const struct td_kv_layer *l, uint32_t before, uint32_t pos);
int td_kvdisk_read_bytes(int fd, void *out, uint64_t n, struct td_error *err);
uint64_t td_kvdisk_payload_bytes(const struct td_kvdisk *d, const struct td_kvfile_stop *stops,
                                 uint32_t n_stops);
uint64_t td_kvdisk_file_bytes(const struct td_kvdisk *d, const struct td_kvdisk_entry *x);
// Reads and checks a head; *head_out is the caller's to free, NULL on failure.
int td_kvdisk_read_head(int fd, uint64_t file_bytes, struct td_kvfile *out, uint8_t **head_out,
                        struct td_error *err);
struct td_kvfile td_kvdisk_describe(const struct td_kvdisk *d, const struct td_kvdisk_entry *x);
void td_kvdisk_put_sum(XXH128_hash_t sum, uint8_t out[16]);

#endif
