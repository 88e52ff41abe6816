// SPDX-License-Identifier: MIT
// relay_bits MODEL HOST:PORT [TOKENS [MORE]]: whether a prompt that `tandem prefill` has read gives
// the logits of one that was read here, byte for byte: TOKENS of it, three written tokens, then a
// next turn with MORE tokens. For models too large for the tests. Exit status 0 when all are equal.
#include "base/num.h"
#include "relay/identity.h"
#include "relay/remote.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N_WRITTEN = 3 };

struct bits {
    struct td_model *model;
    struct td_engine *engine;
    struct td_session *there, *here; // who read its prompts
    struct td_peer self;
    struct td_remote *remote;
    int32_t *tokens;
    uint32_t n, n_all;
    struct td_error err;
};

static int open_all(struct bits *b, const char *path, const char *peer)
{
    const struct td_engine_config cfg = {
        .device = {.n_threads = 2, .max_rows = 256, .max_logits_rows = 2, .isa = -1}};
    uint8_t tokenizer[32], weights[32];
    int code = td_model_open(&b->model, path, NULL, &b->err);
    if (!code) code = td_engine_open(&b->engine, b->model, td_backend_cpu(), &cfg, &b->err);
    if (!code) code = td_session_open(&b->there, b->engine, b->n_all, &b->err);
    if (!code) code = td_session_open(&b->here, b->engine, b->n_all, &b->err);
    if (!code) code = td_identity_tokenizer(b->model, tokenizer, &b->err);
    if (!code) code = td_identity_weights(b->model, 2, NULL, NULL, weights, &b->err);
    if (!code)
        code = td_peer_init(&b->self, TD_WIRE_DECODE, &b->model->spec, tokenizer, weights, TD_F16,
                            &b->err);
    const struct td_remote_config remote = {.far = {.engine = b->engine,
                                                    .backend = td_backend_cpu(),
                                                    .peer = &b->self,
                                                    .engine_kv_type = TD_F16,
                                                    .kv_type = TD_F16},
                                            .peers = peer,
                                            .policy = TD_REMOTE_REQUIRE};
    return code ? code : td_remote_open(&b->remote, &remote, &b->err);
}

// Both sessions read tokens [0, n), one by way of the peer: whether their logits are equal.
static int read_both(struct bits *b, uint32_t n, bool *is_equal)
{
    struct td_remote_stats st;
    const struct td_remote_ask ask = {.tokens = b->tokens, .n = n};
    int code = td_remote_sync(b->remote, b->there, &ask, &st, &b->err);
    if (code) return code;
    printf("%s: %u tokens, %u were here, %u came (%.1f MB), %u computed here; %.1f s, %.1f s of it "
           "there, %.3f s exposed\n",
           td_remote_path_text(st.path), n, st.n_have, st.n_remote, (double)st.bytes / 1e6,
           st.n_local, st.seconds, st.far_seconds, st.exposed_seconds);
    code = td_session_sync(b->here, b->tokens, n, NULL, 0, NULL, NULL, &b->err);
    if (code) return code;
    *is_equal = memcmp(td_session_logits(b->there), td_session_logits(b->here),
                       b->model->spec.n_vocab * sizeof(float)) == 0;
    printf("logits of token %u: %s\n", n - 1, *is_equal ? "equal" : "DIFFERENT");
    return TD_OK;
}

static int32_t most_likely(const float *logits, uint32_t n)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < n; i++)
        if (logits[i] > logits[best]) best = i;
    return (int32_t)best;
}

// What was written is here, not there.
static int write_some(struct bits *b)
{
    int code = TD_OK;
    for (uint32_t i = 0; !code && i < N_WRITTEN; i++) {
        const int32_t token = most_likely(td_session_logits(b->there), b->model->spec.n_vocab);
        b->tokens[b->n + i] = token;
        code = td_session_append(b->there, token, &b->err);
        if (!code) code = td_session_append(b->here, token, &b->err);
        if (!code) code = td_engine_step(b->engine, NULL, &b->err);
    }
    return code;
}

static int run(struct bits *b, bool *is_equal)
{
    struct td_rng rng = {.state = 5};
    for (uint32_t i = 0; i < b->n_all; i++)
        b->tokens[i] = (int32_t)(td_rng_u64(&rng) % b->model->spec.n_vocab);
    bool is_first = false, is_next = false;
    int code = read_both(b, b->n, &is_first);
    if (!code) code = write_some(b);
    if (!code) code = read_both(b, b->n_all, &is_next);
    *is_equal = is_first && is_next;
    return code;
}

int main(int argc, char **argv)
{
    static struct bits b;
    if (argc < 3 || argc > 5) {
        fprintf(stderr, "usage: relay_bits MODEL HOST:PORT [TOKENS [MORE]]\n");
        return 2;
    }
    b.n = argc > 3 ? (uint32_t)strtoul(argv[3], NULL, 10) : 512;
    b.n_all = b.n + N_WRITTEN + (argc > 4 ? (uint32_t)strtoul(argv[4], NULL, 10) : 64);
    if (b.n < 2 || b.n_all > 100000) return 2;
    b.tokens = calloc(b.n_all, sizeof(*b.tokens));
    bool is_equal = false;
    int code = b.tokens ? open_all(&b, argv[1], argv[2]) : TD_ENOMEM;
    if (!code) code = run(&b, &is_equal);
    if (code) fprintf(stderr, "relay_bits: %s\n", b.err.msg);
    td_remote_close(b.remote);
    td_session_close(b.there);
    td_session_close(b.here);
    td_engine_close(b.engine);
    td_model_close(b.model);
    free(b.tokens);
    return code || !is_equal;
}
