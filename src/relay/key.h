// SPDX-License-Identifier: MIT
// The pairing secret: 256 random bits in a file that only its owner can read. Whoever has it may
// ask for KV and give it. It is never sent and never logged; what people compare is a fingerprint.
#ifndef TD_RELAY_KEY_H
#define TD_RELAY_KEY_H

#include "base/status.h"

#include <stdint.h>

#define TD_KEY_BYTES       32
#define TD_KEY_FINGERPRINT 20 // "1a2b-3c4d-5e6f-7890" with its NUL

struct td_key {
    uint8_t secret[TD_KEY_BYTES];
};

// A fresh secret from the operating system's random source.
int td_key_new(struct td_key *out, struct td_error *err) TD_MUST_CHECK;

// Writes a new file of mode 0600: one line of text, so that it can be copied by any means. An
// existing file is never overwritten (TD_EARG); on failure no file is left.
int td_key_save(const struct td_key *key, const char *path, struct td_error *err) TD_MUST_CHECK;

// Reads a file that td_key_save wrote. TD_EARG when others than its owner may read or write it,
// TD_EFORMAT when it is no key. *out is zeroed on failure.
int td_key_load(struct td_key *out, const char *path, struct td_error *err) TD_MUST_CHECK;

// 64 bits of a hash of the secret, to compare by eye on two machines. Says nothing else about it.
// Without memory for the hash it is question marks.
void td_key_fingerprint(const struct td_key *key, char out[TD_KEY_FINGERPRINT]);

// What TLS gets: a key of its own, so that the secret itself has one use only. Fails: TD_ENOMEM.
int td_key_psk(const struct td_key *key, uint8_t out[TD_KEY_BYTES],
               struct td_error *err) TD_MUST_CHECK;

void td_key_wipe(struct td_key *key);

#endif
