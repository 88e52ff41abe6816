// SPDX-License-Identifier: MIT
// What the commands that work in tandem share: the pairing key, what this machine's model is and
// how fast it runs, and a prompt that may be read elsewhere, with its live line and its account.
#ifndef TD_APP_PAIR_H
#define TD_APP_PAIR_H

#include "app/app.h"
#include "app/json.h"
#include "relay/key.h"
#include "relay/remote.h"

struct td_pair {
    const struct td_config *cfg;
    struct td_app *app;
    struct td_key key;
    bool has_key;
    struct td_peer peer; // of this end
    char weights[65];    // its digest, hex
    struct td_split_rate prefill, decode;
    struct td_remote *remote; // NULL: of a prefill side
    uint32_t n_answer;        // tokens expected of an answer; 0: not known
};

// False, and *why_out says why, when options that belong to --prefill stand without it.
bool td_pair_is_usable(const struct td_config *cfg, const char **why_out);

// --key, if given. TD_OK and has_key false without.
int td_pair_key(struct td_pair *p, const struct td_config *cfg, struct td_error *err) TD_MUST_CHECK;

// The digest of the model's weights: hashed with a progress bar, or known from last time.
int td_pair_weights(const struct td_config *cfg, const struct td_app *app, uint8_t out[32],
                    struct td_error *err) TD_MUST_CHECK;

// Identity of the model (hashed with a progress bar, or known from last time) and speeds of this
// machine: those of --pace, those known from last time, and measured where nothing is known
// (wants_rates).
int td_pair_init(struct td_pair *p, struct td_app *app, enum td_wire_role role, bool wants_rates,
                 struct td_error *err) TD_MUST_CHECK;

// For --prefill: key, identity, speeds, peers. p->remote stays NULL, and nothing is done, without
// it.
int td_pair_open(struct td_pair *p, struct td_app *app, enum td_remote_policy policy,
                 struct td_error *err) TD_MUST_CHECK;
void td_pair_close(struct td_pair *p); // keeps the speeds for next time; zeroed is fine

// td_session_sync, or td_remote_sync when p (which may be NULL) has peers; shows what happens on a
// terminal, and says so when the weights differ. stats is all zero when no peers were given.
int td_pair_sync(struct td_pair *p, struct td_session *s, const int32_t *tokens, uint32_t n,
                 const uint32_t *marks, uint32_t n_marks, struct td_remote_stats *stats,
                 struct td_error *err) TD_MUST_CHECK;

// Keeps the speeds that are known now.
void td_pair_save_rates(const struct td_pair *p);

json_t *td_pair_stats_json(const struct td_remote_stats *stats);
// "read at 10.0.0.2:4711" or "read here: the link is too slow for the KV"; returns buf.
const char *td_pair_stats_text(const struct td_remote_stats *stats, char *buf, size_t buf_bytes);

// Speeds of this machine at depth 0: a prompt of a chunk at most, and a few single tokens.
int td_pair_measure(struct td_app *app, struct td_split_rate *prefill, struct td_split_rate *decode,
                    struct td_error *err) TD_MUST_CHECK;

// A speed in words: "450.0 tok/s", "450.0 tok/s, 310.2 at a depth of 8192"; returns buf.
const char *td_pair_rate_text(const struct td_split_rate *rate, char *buf, size_t buf_bytes);
json_t *td_pair_rate_json(const struct td_split_rate *rate); // a list of {depth, tok_s}

#endif
