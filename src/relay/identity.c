// SPDX-License-Identifier: MIT
// SHA-256 over what the model means, not over its file: the order of keys and tensors, padding and
// how many parts it is split into say nothing about KV.
#include "relay/identity.h"

#include "base/team.h"

#include <openssl/evp.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

// Between two looks at progress and cancel: some milliseconds of hashing.
#define BLOCK_BYTES ((uint64_t)4 << 20)

static bool eat_u64(EVP_MD_CTX *md, uint64_t v)
{
    return EVP_DigestUpdate(md, &v, sizeof(v));
}

// Length first, so that "ab","c" and "a","bc" differ.
static bool eat_bytes(EVP_MD_CTX *md, const void *bytes, size_t size_bytes)
{
    return eat_u64(md, size_bytes) && EVP_DigestUpdate(md, bytes, size_bytes);
}

static EVP_MD_CTX *begin(const char *domain)
{
    EVP_MD_CTX *md = EVP_MD_CTX_new();
    if (md && EVP_DigestInit_ex(md, EVP_sha256(), NULL) && eat_bytes(md, domain, strlen(domain)))
        return md;
    EVP_MD_CTX_free(md);
    return NULL;
}

// ---- vocabulary -------------------------------------------------------------------------------

static bool eat_array(EVP_MD_CTX *md, const struct td_gguf_array *a)
{
    bool ok = eat_u64(md, a->n);
    // Strings lie in the file as eat_bytes has them.
    if (a->type == TD_GGUF_STR) return ok && eat_bytes(md, a->data, a->size_bytes);
    const bool is_real = a->type == TD_GGUF_F32 || a->type == TD_GGUF_F64;
    for (uint64_t i = 0; i < a->n && ok; i++) {
        const double v = is_real ? td_gguf_array_f64(a, i) : 0;
        ok = is_real ? EVP_DigestUpdate(md, &v, sizeof(v)) != 0
                     : eat_u64(md, (uint64_t)td_gguf_array_i64(a, i));
    }
    return ok;
}

// By value: two writers may store the same number in other types.
static bool eat_value(EVP_MD_CTX *md, const struct td_gguf *g, uint32_t i_kv)
{
    const char *key = td_gguf_key_at(g, i_kv);
    struct td_str s;
    struct td_gguf_array a;
    switch (td_gguf_type_at(g, i_kv)) {
    case TD_GGUF_STR:
        return td_gguf_str(g, key, &s, NULL) == TD_OK && eat_bytes(md, s.at, s.size_bytes);
    case TD_GGUF_ARR: return td_gguf_array(g, key, &a, NULL) == TD_OK && eat_array(md, &a);
    case TD_GGUF_U8:
    case TD_GGUF_I8:
    case TD_GGUF_U16:
    case TD_GGUF_I16:
    case TD_GGUF_U32:
    case TD_GGUF_I32:
    case TD_GGUF_F32:
    case TD_GGUF_BOOL:
    case TD_GGUF_U64:
    case TD_GGUF_I64:
    case TD_GGUF_F64: break;
    }
    char text[64]; // numbers and truth values fit
    td_gguf_value_text(g, i_kv, text, sizeof(text));
    return eat_bytes(md, text, strlen(text));
}

struct key {
    const char *name;
    uint32_t i_kv;
};

static int by_key(const void *a, const void *b)
{
    return strcmp(((const struct key *)a)->name, ((const struct key *)b)->name);
}

int td_identity_tokenizer(const struct td_model *model, uint8_t out[32], struct td_error *err)
{
    static const char prefix[] = "tokenizer.ggml.";
    const struct td_gguf *g = model->gguf;
    const uint32_t n_kv = td_gguf_n_kv(g);
    struct key *keys = calloc(n_kv ? n_kv : 1, sizeof(*keys));
    EVP_MD_CTX *md = begin("tandem tokenizer 1");
    bool ok = keys && md;
    uint32_t n = 0;
    for (uint32_t i = 0; i < n_kv && ok; i++)
        if (strncmp(td_gguf_key_at(g, i), prefix, sizeof(prefix) - 1) == 0)
            keys[n++] = (struct key){td_gguf_key_at(g, i), i};
    if (ok) qsort(keys, n, sizeof(*keys), by_key);
    for (uint32_t i = 0; i < n && ok; i++)
        ok = eat_bytes(md, keys[i].name, strlen(keys[i].name)) && eat_value(md, g, keys[i].i_kv);
    ok = ok && EVP_DigestFinal_ex(md, out, NULL);
    EVP_MD_CTX_free(md);
    free(keys);
    return ok ? TD_OK : td_fail(err, TD_EIO, "SHA-256 of the vocabulary failed");
}

// ---- weights ----------------------------------------------------------------------------------

struct weights {
    const struct td_weight_info **sorted; // (n)
    uint8_t (*sums)[32];                  // (n)
    uint32_t n;
    uint64_t total_bytes;
    td_progress_fn *progress;
    void *progress_ctx;
    // Any member; the leader looks at them between its blocks.
    _Atomic uint64_t done_bytes;
    _Atomic bool is_cancelled, is_broken;
};

static int by_name(const void *a, const void *b)
{
    const struct td_weight_info *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

// False: stop.
static bool step(struct weights *w, const struct td_member *me, uint64_t n_bytes)
{
    const uint64_t done = atomic_fetch_add(&w->done_bytes, n_bytes) + n_bytes;
    // Only the leader: progress may draw.
    if (me->id == 0 && w->progress && !w->progress(w->progress_ctx, done, w->total_bytes))
        atomic_store(&w->is_cancelled, true);
    return !atomic_load(&w->is_cancelled);
}

static bool hash_weight(struct weights *w, const struct td_member *me, EVP_MD_CTX *md, uint32_t i)
{
    const struct td_weight_info *info = w->sorted[i];
    bool ok = EVP_DigestInit_ex(md, EVP_sha256(), NULL) &&
              eat_bytes(md, info->name, strlen(info->name)) && eat_u64(md, info->type) &&
              eat_u64(md, info->n_dims);
    for (uint32_t d = 0; d < info->n_dims && ok; d++) ok = eat_u64(md, info->dim[d]);
    for (uint64_t at = 0; at < info->size_bytes && ok;) {
        const uint64_t left = info->size_bytes - at;
        const uint64_t n = left < BLOCK_BYTES ? left : BLOCK_BYTES;
        ok = EVP_DigestUpdate(md, info->data + at, (size_t)n);
        if (!step(w, me, n)) return true;
        at += n;
    }
    return ok && EVP_DigestFinal_ex(md, w->sums[i], NULL);
}

static void hash_weights(void *ctx, struct td_member *me)
{
    struct weights *w = ctx;
    EVP_MD_CTX *md = EVP_MD_CTX_new();
    uint32_t i;
    if (!md) atomic_store(&w->is_broken, true);
    while (!atomic_load(&w->is_broken) && !atomic_load(&w->is_cancelled) &&
           td_team_claim(me, w->n, &i))
        if (!hash_weight(w, me, md, i)) atomic_store(&w->is_broken, true);
    EVP_MD_CTX_free(md);
}

static int hash_list(const struct weights *w, uint8_t out[32], struct td_error *err)
{
    EVP_MD_CTX *md = begin("tandem weights 1");
    const bool ok = md && eat_bytes(md, w->sums, (size_t)w->n * sizeof(w->sums[0])) &&
                    EVP_DigestFinal_ex(md, out, NULL);
    EVP_MD_CTX_free(md);
    return ok ? TD_OK : td_fail(err, TD_EIO, "SHA-256 of the weights failed");
}

int td_identity_weights(const struct td_model *model, uint32_t n_threads, td_progress_fn *progress,
                        void *ctx, uint8_t out[32], struct td_error *err)
{
    struct weights w = {.n = model->n_weights, .progress = progress, .progress_ctx = ctx};
    struct td_team *team = NULL;
    int code = TD_OK;
    w.sorted = calloc(w.n ? w.n : 1, sizeof(struct td_weight_info *));
    w.sums = calloc(w.n ? w.n : 1, sizeof(w.sums[0]));
    if (!w.sorted || !w.sums) {
        code = td_fail(err, TD_ENOMEM, "no memory for the digests of %u weights", w.n);
        goto done;
    }
    for (uint32_t i = 0; i < w.n; i++) {
        w.sorted[i] = &model->weights[i];
        w.total_bytes += model->weights[i].size_bytes;
        if (model->weights[i].data || model->weights[i].size_bytes == 0) continue;
        code = td_fail(err, TD_EARG, "weight '%s' is not here: the model was opened for its header",
                       model->weights[i].name);
        goto done;
    }
    qsort((void *)w.sorted, w.n, sizeof(struct td_weight_info *), by_name);
    code = td_team_open(&team, n_threads ? n_threads : 1, err);
    if (code != TD_OK) goto done;
    td_team_run(team, hash_weights, &w);
    if (atomic_load(&w.is_cancelled))
        code = td_fail(err, TD_ECANCEL, "cancelled");
    else if (atomic_load(&w.is_broken))
        code = td_fail(err, TD_EIO, "SHA-256 of the weights failed");
    else
        code = hash_list(&w, out, err);

done:
    td_team_close(team);
    free((void *)w.sorted);
    free(w.sums);
    return code;
}
