// SPDX-License-Identifier: MIT
// tandem as a library: open a model, turn text into tokens, compute, draw the next token.
//
//     model -> tokenizer            text <-> tokens
//     model -> engine -> session    tokens -> logits -> one more token
//
// A model is weights in a file. An engine holds it ready on this machine's processor with a team of
// threads. A session is one timeline of tokens: `tandem_session_sync` is told the whole timeline
// and computes only what is new, `tandem_session_next` adds one token. Several sessions of an
// engine share its work: see `tandem_engine_step`. examples/complete.c is a whole program.
//
// Errors: functions that can fail return 0 or a negative tandem_code, and put one sentence for a
// person into *err, which may be NULL. Handles given out through `out` are NULL after a failure.
// Closing NULL is fine.
//
// Threads: a model and a tokenizer never change, any thread may use them. An engine and its
// sessions belong to one thread at a time; only tandem_session_cancel may be called from others.
// Nothing is printed, and nothing ends the process, with one exception: a model's file that is
// truncated by somebody while it is open is a SIGBUS, as with any mapped file.
//
// Lifetimes: sessions end before their engine, engines before their model. A tokenizer stands
// alone.
#ifndef TANDEM_H
#define TANDEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define TANDEM_API        __attribute__((visibility("default")))
#define TANDEM_MUST_CHECK __attribute__((warn_unused_result))

enum tandem_code {
    TANDEM_OK = 0,
    TANDEM_EARG = -1,    // what was asked makes no sense
    TANDEM_EFORMAT = -2, // the file is not what it claims to be
    TANDEM_EUNSUP = -3,  // well formed, but tandem does not do it
    TANDEM_ENOMEM = -4,  // memory, or the limit set for KV, is used up
    TANDEM_EIO = -5,     // the operating system said no
    TANDEM_EFULL = -6,   // the context, or the room given, is full
    TANDEM_ECANCEL = -7, // stopped because somebody asked
};

struct tandem_error {
    int code;      // enum tandem_code
    char msg[240]; // one sentence without newline; names the file, tensor or argument
};

// "0.1.0": of the library that runs, which may differ from the header's.
TANDEM_API const char *tandem_version(void);

// Progress of long work: `done` of `total`. Return false to cancel.
typedef bool tandem_progress_fn(void *ctx, uint64_t done, uint64_t total);

// ---- Model

struct tandem_model;

// Maps a GGUF file (any part of a split one), or makes random weights for "synth:NAME[,seed=S,...]"
// (gpt-oss-20b, gpt-oss-120b, ...). progress, which may be NULL, is told the bytes of weights made;
// files are mapped at once.
// Fails: EIO, EFORMAT, EUNSUP (an architecture or tensor type tandem lacks), ENOMEM, ECANCEL.
TANDEM_API int tandem_model_open(struct tandem_model **out, const char *path,
                                 tandem_progress_fn *progress, void *progress_ctx,
                                 struct tandem_error *err) TANDEM_MUST_CHECK;
TANDEM_API void tandem_model_close(struct tandem_model *model);

struct tandem_model_info {
    const char *architecture; // "gpt-oss"; these texts live as long as the model
    const char *digest;       // 16 hex digits: names, types, shapes and metadata
    const char *note;         // what a user should know ("random weights ..."), or ""
    uint32_t n_vocab;         // ids are below this
    uint32_t n_layers;
    uint32_t n_ctx_train; // tokens it was trained for; 0: not said
    uint64_t weights_bytes;
};
TANDEM_API void tandem_model_describe(const struct tandem_model *model,
                                      struct tandem_model_info *out);

// ---- Tokenizer

struct tandem_tokenizer;

// The model's own tokenizer. It keeps what it needs: the model may be closed before it.
// Fails: EFORMAT (no vocabulary, a damaged one), EUNSUP (a kind tandem lacks), ENOMEM.
TANDEM_API int tandem_tokenizer_open(struct tandem_tokenizer **out,
                                     const struct tandem_model *model,
                                     struct tandem_error *err) TANDEM_MUST_CHECK;
TANDEM_API void tandem_tokenizer_close(struct tandem_tokenizer *t);

// The ids of text, any size_bytes bytes (at most 2 GiB), which need not be valid UTF-8.
//   parse_special  names of special tokens in the text ("<|end|>") become these tokens; leave it
//                  false for text that strangers wrote
//   ids      (cap) written; size_bytes ids are always enough
//   n_out    ids of the text, also when they do not fit
// Fails: EFULL when cap is too small (ids then holds the first cap), ENOMEM, EARG (too long),
// EUNSUP (a byte the vocabulary has no token for).
TANDEM_API int tandem_encode(const struct tandem_tokenizer *t, const char *text, size_t size_bytes,
                             bool parse_special, int32_t *ids, size_t cap, size_t *n_out,
                             struct tandem_error *err) TANDEM_MUST_CHECK;

// The bytes of one token, of special ones the name; not NUL-terminated, and not always whole UTF-8
// characters. They live as long as t. An id that does not exist has none.
TANDEM_API const char *tandem_token_bytes(const struct tandem_tokenizer *t, int32_t id,
                                          size_t *size_bytes_out);
// Bytes of all n ids, one after the other; the first cap of them are written to out. ids without
// bytes are skipped.
TANDEM_API size_t tandem_decode(const struct tandem_tokenizer *t, const int32_t *ids, size_t n,
                                char *out, size_t cap);
// Id of a token by its bytes or special name; -1: there is none.
TANDEM_API int32_t tandem_token_find(const struct tandem_tokenizer *t, const char *name);
TANDEM_API bool tandem_token_is_special(const struct tandem_tokenizer *t, int32_t id);
// After which an answer is over.
TANDEM_API bool tandem_token_ends_generation(const struct tandem_tokenizer *t, int32_t id);
// The token that is to stand before a text, -1: none. tandem_encode does not add it.
TANDEM_API int32_t tandem_token_bos(const struct tandem_tokenizer *t);

// ---- Engine

struct tandem_engine;

// All zero is the default.
struct tandem_engine_options {
    uint32_t n_threads;    // 0: as many as the processors this process may use
    uint32_t chunk_tokens; // of a prompt, computed together; 0: 512. Changes speed, never bits
    bool precision_high;   // 32-bit activations everywhere: closer to the exact logits, slower
    bool kv_f32;           // keys and values in 32 instead of 16 bits: twice the memory
    uint64_t max_kv_bytes; // keys and values of all sessions together; 0: what memory holds
    const char *isa; // "generic", "avx2", "avx512", "neon": at most this; NULL: the best there is
};

// options may be NULL. Fails: EARG (no such isa), ENOMEM, EUNSUP.
TANDEM_API int tandem_engine_open(struct tandem_engine **out, const struct tandem_model *model,
                                  const struct tandem_engine_options *options,
                                  struct tandem_error *err) TANDEM_MUST_CHECK;
TANDEM_API void tandem_engine_close(struct tandem_engine *e); // after its sessions

// ---- Session

struct tandem_session;

// A timeline of at most n_ctx tokens, empty at first. Memory is taken as it grows.
TANDEM_API int tandem_session_open(struct tandem_session **out, struct tandem_engine *e,
                                   uint32_t n_ctx, struct tandem_error *err) TANDEM_MUST_CHECK;
TANDEM_API void tandem_session_close(struct tandem_session *s);

// Makes the timeline tokens[0, n): keeps the longest prefix it already has (also after an edit in
// the middle) and computes the rest. Then the logits of the last token are there.
//   tokens    (n), each in [0, n_vocab); n >= 1
//   marks     (n_marks) ascending token counts in [1, n] at which a later timeline may leave this
//   one,
//             as the ends of messages of a chat: going back to one is cheap then. May be NULL with
//             0
//   progress  may be NULL; told the tokens done after each chunk
// Fails: EARG, EFULL (n > n_ctx), ENOMEM, ECANCEL (by progress or tandem_session_cancel). What was
// computed until then stays, and the next sync goes on from there.
TANDEM_API int tandem_session_sync(struct tandem_session *s, const int32_t *tokens, uint32_t n,
                                   const uint32_t *marks, uint32_t n_marks,
                                   tandem_progress_fn *progress, void *progress_ctx,
                                   struct tandem_error *err) TANDEM_MUST_CHECK;

TANDEM_API uint32_t tandem_session_len(const struct tandem_session *s); // tokens of the timeline
TANDEM_API uint32_t
tandem_session_reused(const struct tandem_session *s); // not computed by the last sync

// Logits (n_vocab) of the last token, until the session or its engine computes again; NULL when the
// last token is not computed yet.
TANDEM_API const float *tandem_session_logits(const struct tandem_session *s);

// Any thread, and signal handlers: what the session computes ends within one layer, with ECANCEL.
// While it computes nothing, the next `next` or `step` ends so; sync and want begin anew and forget
// it.
TANDEM_API void tandem_session_cancel(struct tandem_session *s);

// How a token is drawn. In this order: temperature, top-k, top-p, min-p, draw. All zero: the
// likeliest token, always.
struct tandem_sampling {
    float temp;     // 0: the likeliest token, of equals the lowest id
    uint32_t top_k; // 0: all
    float top_p;    // 0 or 1: all
    float min_p;    // of the likeliest token's chance; 0: all
    uint64_t seed;  // the same seed and logits give the same tokens
};
struct tandem_sampler;
// Fails: EARG (a value out of its range, named), ENOMEM.
TANDEM_API int tandem_sampler_open(struct tandem_sampler **out, const struct tandem_model *model,
                                   const struct tandem_sampling *how,
                                   struct tandem_error *err) TANDEM_MUST_CHECK;
TANDEM_API void tandem_sampler_close(struct tandem_sampler *sampler);
// Draws from logits (n_vocab); allocates nothing.
TANDEM_API int32_t tandem_sampler_draw(struct tandem_sampler *sampler, const float *logits);

// One more token after a sync: computes the one before if it is not yet, draws, appends. The token
// is part of the timeline at once, and computed by the next call. Fails: EARG (nothing synced,
// a sampler for another vocabulary), EFULL (the context is used up), ENOMEM, ECANCEL.
TANDEM_API int tandem_session_next(struct tandem_session *s, struct tandem_sampler *sampler,
                                   int32_t *token_out, struct tandem_error *err) TANDEM_MUST_CHECK;

// ---- Several sessions at once
//
// `want` and `append` only say what is to be computed; each `step` computes one batch for all
// sessions of the engine that want something. Weights are read once for the batch, whose sessions
// do not change each other's bits.

enum tandem_session_state {
    TANDEM_SESSION_IDLE,    // nothing wanted
    TANDEM_SESSION_READING, // has tokens that are not computed
    TANDEM_SESSION_READY,   // the logits of its last token are there
};
TANDEM_API enum tandem_session_state tandem_session_state(const struct tandem_session *s);
// As sync, but computes nothing.
TANDEM_API int tandem_session_want(struct tandem_session *s, const int32_t *tokens, uint32_t n,
                                   const uint32_t *marks, uint32_t n_marks,
                                   struct tandem_error *err) TANDEM_MUST_CHECK;
// One token more (one drawn from its logits) for a READY session.
TANDEM_API int tandem_session_append(struct tandem_session *s, int32_t token,
                                     struct tandem_error *err) TANDEM_MUST_CHECK;
// n_rows_out (may be NULL): tokens computed, 0 when nobody wants any. ECANCEL: some session was
// cancelled; it is IDLE, the others go on with the next step.
TANDEM_API int tandem_engine_step(struct tandem_engine *e, uint32_t *n_rows_out,
                                  struct tandem_error *err) TANDEM_MUST_CHECK;

#ifdef __cplusplus
}
#endif

#endif
