// SPDX-License-Identifier: MIT
// KV of conversations in files, so that a restart does not forget them: one file per timeline, in a
// folder of mode 0700, named by the digest of weights, KV layout and tokens. What is read from it
// is hostile: sizes, layout, tokens and checksums are verified before anything is used. A file
// holds every place where the timeline can be taken up, the end of its last prompt above all, since
// that is where a next turn diverges. Format: server/kvfile.h. Threads: one at a time, the
// engine's.
#ifndef TD_SERVER_KVDISK_H
#define TD_SERVER_KVDISK_H

#include "base/status.h"
#include "engine/engine.h"

struct td_kvdisk;
struct td_kvdisk_config {
    const char *dir;     // made (0700) when missing; refused when others may read it
    uint64_t max_bytes;  // of the folder; oldest use goes first
    uint8_t weights[32]; // digest of the weights; what tokens become otherwise is taken from the
                         // engine. Files of others only count as bytes
};
// Fails: TD_EARG (a folder that others may read, or in use by another process), TD_EIO, TD_ENOMEM.
int td_kvdisk_open(struct td_kvdisk **out, const struct td_kvdisk_config *cfg,
                   struct td_engine *engine, struct td_error *err) TD_MUST_CHECK;
void td_kvdisk_close(struct td_kvdisk *d); // NULL is fine

// Of tokens[0, n), how many a file would save: the longest usable prefix without the last token;
// 0: none. Reads no file.
uint32_t td_kvdisk_find(struct td_kvdisk *d, const int32_t *tokens, uint32_t n);
// Retires the session and reads that prefix into it: *n_out tokens, from which a want goes on; 0:
// there is none, or nothing came. A file that is damaged is removed; what of it came whole before
// stays. Fails: TD_ENOMEM, TD_EFULL (the session's context), TD_EIO: go on with *n_out.
int td_kvdisk_load(struct td_kvdisk *d, struct td_session *s, const int32_t *tokens, uint32_t n,
                   uint32_t *n_out, struct td_error *err) TD_MUST_CHECK;
// The same in pieces, between steps of others; the session is not to be touched meanwhile.
// td_kvdisk_begin: *out is NULL when there is no file. td_kvdisk_more reads about max_bytes; it is
// over when *is_done, or with a failure. td_kvdisk_end at any time; NULL is fine. What has been
// read up to a place where the timeline can be taken up counts.
struct td_kvdisk_load;
int td_kvdisk_begin(struct td_kvdisk_load **out, struct td_kvdisk *d, struct td_session *s,
                    const int32_t *tokens, uint32_t n, struct td_error *err) TD_MUST_CHECK;
int td_kvdisk_more(struct td_kvdisk_load *load, uint64_t max_bytes, bool *is_done,
                   struct td_error *err) TD_MUST_CHECK;
void td_kvdisk_end(struct td_kvdisk_load *load, uint32_t *n_out);
// Writes a timeline (td_session_timeline, td_engine_kept) with the places where it can be taken up;
// does nothing when it is short, larger than the folder may be, or when a file already covers it.
// Files that it makes superfluous go. Fails: TD_EIO (a full disk ...), TD_ENOMEM; then the folder
// is as before, but for what was given up for room.
int td_kvdisk_save(struct td_kvdisk *d, const struct td_timeline *t,
                   struct td_error *err) TD_MUST_CHECK;
// The same beside the engine's steps, one at a time: a thread writes, so nothing waits for the disk
// but td_kvdisk_save_end, before it is over. The timeline may change once it has begun; its pages
// are pinned until they are written. td_kvdisk_save_begin: *out is NULL when there is nothing to
// do. used_ns (of td_kvdisk_now_ns) is when the timeline was used: room is made only by files that
// were used before it; without room there is nothing to do. td_kvdisk_save_end: gives_up ends it at
// the next piece, as if it had not begun; has to be called before td_kvdisk_close.
struct td_kvdisk_saving;
int td_kvdisk_save_begin(struct td_kvdisk_saving **out, struct td_kvdisk *d,
                         const struct td_timeline *t, uint64_t used_ns,
                         struct td_error *err) TD_MUST_CHECK;
uint64_t td_kvdisk_now_ns(void); // wall clock
bool td_kvdisk_save_is_over(const struct td_kvdisk_saving *v);
int td_kvdisk_save_end(struct td_kvdisk_saving *v, bool gives_up,
                       struct td_error *err) TD_MUST_CHECK;
uint64_t td_kvdisk_bytes(const struct td_kvdisk *d);

#endif
