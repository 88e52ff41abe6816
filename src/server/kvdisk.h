// SPDX-License-Identifier: MIT
// KV of conversations in files, so that a restart does not forget them: one file per sequence, in a
// folder of mode 0700, named by the digest of weights, KV layout and tokens. What is read from it
// is hostile: sizes, layout, tokens and a checksum are verified before anything is used. Threads:
// one at a time.
#ifndef TD_SERVER_KVDISK_H
#define TD_SERVER_KVDISK_H

#include "base/status.h"
#include "engine/engine.h"

struct td_kvdisk;
struct td_kvdisk_config {
    const char *dir;     // made (0700) when missing; refused when others may read it
    uint64_t max_bytes;  // oldest use goes first
    uint8_t weights[32]; // digest of weights and layout: files of others are not looked at
};
int td_kvdisk_open(struct td_kvdisk **out, const struct td_kvdisk_config *cfg,
                   const struct td_engine *engine, struct td_error *err) TD_MUST_CHECK;
void td_kvdisk_close(struct td_kvdisk *d);

// Of the tokens, how many a file would save: the longest usable prefix; 0: none.
uint32_t td_kvdisk_find(struct td_kvdisk *d, const int32_t *tokens, uint32_t n);
// Reads that prefix into an IDLE session, which then holds *n_out tokens. A file that is damaged is
// removed and counts as not there (TD_OK, *n_out as it was).
int td_kvdisk_load(struct td_kvdisk *d, struct td_session *s, const int32_t *tokens, uint32_t n,
                   uint32_t *n_out, struct td_error *err) TD_MUST_CHECK;
// Writes the session's KV at a position where it can be taken up (its length, or a snapshot); does
// nothing when a file already covers it.
int td_kvdisk_save(struct td_kvdisk *d, struct td_session *s, struct td_error *err) TD_MUST_CHECK;
uint64_t td_kvdisk_bytes(const struct td_kvdisk *d);

#endif
