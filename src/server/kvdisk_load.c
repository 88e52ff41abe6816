// SPDX-License-Identifier: MIT
// Reading a file's KV into a session, in pieces. A stop's positions count only after its sum was
// right; each stop that counts is a place to return to.
#include "server/kvdisk_impl.h"

#include "base/num.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

struct td_kvdisk_load {
    struct td_kvdisk *d;
    struct td_session *s;
    int fd;
    char name[sizeof(((struct td_kvdisk_entry *)0)->name)];
    // As the file has them. The list may change while this is under way.
    struct td_kvfile_stop *stops; // (n_stops) up to the last one wanted
    int32_t *tokens;
    uint32_t n_stops;
    uint32_t i_stop; // the one being read; what is before is committed
    bool is_open;    // the session is empty or has what was read
    bool is_stop_begun;
    struct td_kv_span span; // next piece; n is set when it is read
    XXH3_state_t *sum;
};

static uint32_t committed(const struct td_kvdisk_load *l)
{
    return td_engine_backend(l->d->engine)->kv_len(l->span.kv);
}

// ---- begin and end ----------------------------------------------------------------------------

// Reads the head again: the file must still be the one that was listed.
static int read_head(struct td_kvdisk_load *l, const struct td_kvdisk_entry *x, uint64_t bytes,
                     struct td_error *err)
{
    struct td_kvfile f;
    uint8_t *head;
    int code = td_kvdisk_read_head(l->fd, bytes, &f, &head, err);
    if (code) return code;
    if (bytes != x->bytes || f.n_stops != x->n_stops || f.n_tokens != x->n_tokens) {
        free(head);
        return td_fail(err, TD_EFORMAT, "it has changed");
    }
    l->stops = malloc(f.n_stops * sizeof(*l->stops));
    l->tokens = malloc(f.n_tokens * sizeof(*l->tokens));
    if (!l->stops || !l->tokens) {
        free(head);
        return td_fail(err, TD_ENOMEM, "no memory for its tokens");
    }
    code = td_kvfile_read(&f, head, td_kvfile_head_bytes(&f), l->stops, l->tokens, err);
    free(head);
    if (code) return code;
    bool is_same = memcmp(l->tokens, x->tokens, f.n_tokens * sizeof(*l->tokens)) == 0;
    for (uint32_t i = 0; is_same && i < f.n_stops; i++)
        is_same = l->stops[i].pos == x->stops[i].pos &&
                  memcmp(l->stops[i].sum, x->stops[i].sum, sizeof(x->stops[i].sum)) == 0;
    return is_same ? TD_OK : td_fail(err, TD_EFORMAT, "it has changed");
}

static int open_load(struct td_kvdisk_load *l, const struct td_kvdisk_entry *x,
                     struct td_error *err)
{
    struct stat st;
    l->fd = td_kvdisk_open_file(l->d, x->name, &st);
    if (l->fd < 0) return td_fail(err, TD_EFORMAT, "it is not there as it was");
    l->sum = XXH3_createState();
    if (!l->sum) return td_fail(err, TD_ENOMEM, "no memory to read it");
    return read_head(l, x, (uint64_t)st.st_size, err);
}

// Without a cache, retiring leaves the session what it had.
static int empty_session(struct td_kvdisk_load *l, const int32_t *tokens, struct td_error *err)
{
    td_session_retire(l->s);
    const int code = td_engine_backend(l->d->engine)->kv_trim(l->span.kv, 0, err);
    return code ? code : td_session_adopt(l->s, tokens, 0, err);
}

int td_kvdisk_begin(struct td_kvdisk_load **out, struct td_kvdisk *d, struct td_session *s,
                    const int32_t *tokens, uint32_t n, struct td_error *err)
{
    *out = NULL;
    uint32_t n_stops = 0;
    const uint32_t i = td_kvdisk_best(d, tokens, n, &n_stops);
    if (i == d->n_entries) return TD_OK;
    struct td_kvdisk_load *l = calloc(1, sizeof(*l));
    if (!l) return td_fail(err, TD_ENOMEM, "no memory to read KV from disk");
    *l = (struct td_kvdisk_load){
        .d = d, .s = s, .fd = -1, .n_stops = n_stops, .span = {.kv = td_session_kv(s)}};
    memcpy(l->name, d->entries[i].name, sizeof(l->name));
    struct td_error why = {0};
    int code = open_load(l, &d->entries[i], &why);
    if (!code) code = empty_session(l, tokens, &why);
    if (!code) {
        l->is_open = true;
        *out = l;
        return TD_OK;
    }
    if (code == TD_EFORMAT) td_kvdisk_damaged(d, l->name, why.msg);
    const bool is_damaged = code == TD_EFORMAT;
    if (!is_damaged) (void)td_fail(err, code, "KV on disk: %s: %.180s", l->name, why.msg);
    uint32_t ignored;
    td_kvdisk_end(l, &ignored);
    return is_damaged ? TD_OK : code;
}

void td_kvdisk_end(struct td_kvdisk_load *l, uint32_t *n_out)
{
    *n_out = 0;
    if (!l) return;
    if (l->is_open) {
        // What was written beyond the last stop that counts is forgotten. Neither can fail.
        *n_out = committed(l);
        if (td_engine_backend(l->d->engine)->kv_trim(l->span.kv, *n_out, NULL) ||
            td_session_adopt(l->s, l->tokens, *n_out, NULL))
            *n_out = 0;
    }
    if (l->sum) XXH3_freeState(l->sum);
    if (l->fd >= 0) close(l->fd);
    free(l->stops);
    free(l->tokens);
    free(l);
}

// ---- pieces -----------------------------------------------------------------------------------

static int begin_stop(struct td_kvdisk_load *l, struct td_error *err)
{
    const struct td_kv_layer *layer = &td_kvdisk_spec(l->d)->kv[0];
    XXH3_128bits_reset(l->sum);
    l->span.layer = 0;
    l->span.pos0 = td_kvdisk_first(layer, committed(l), l->stops[l->i_stop].pos);
    l->is_stop_begun = true;
    // Each time anew: places to return to hold pages that the one before reserved.
    return td_session_reserve(l->s, l->stops[l->n_stops - 1].pos, err);
}

static int end_stop(struct td_kvdisk_load *l, struct td_error *err)
{
    const struct td_kvfile_stop *stop = &l->stops[l->i_stop];
    XXH128_canonical_t sum;
    XXH128_canonicalFromHash(&sum, XXH3_128bits_digest(l->sum));
    if (memcmp(sum.digest, stop->sum, sizeof(stop->sum)) != 0)
        return td_fail(err, TD_EFORMAT, "the sum of tokens %u to %u is wrong", committed(l),
                       stop->pos);
    int code = td_engine_backend(l->d->engine)->kv_commit(l->span.kv, stop->pos, err);
    if (!code) code = td_session_adopt(l->s, l->tokens, stop->pos, err);
    if (code) return code;
    td_session_mark(l->s);
    l->is_stop_begun = false;
    l->i_stop++;
    return TD_OK;
}

// Reads one piece of one layer, and what comes with the last one of a stop.
static int read_piece(struct td_kvdisk_load *l, uint64_t *n_read, struct td_error *err)
{
    const struct td_spec *spec = td_kvdisk_spec(l->d);
    int code = l->is_stop_begun ? TD_OK : begin_stop(l, err);
    if (code) return code;
    struct td_kv_span *span = &l->span;
    const uint32_t end = l->stops[l->i_stop].pos;
    if (span->pos0 < end) {
        span->n = td_min_u32(end - span->pos0, TD_KVFILE_PIECE);
        const uint64_t bytes = span->n * td_kvdisk_position_bytes(l->d, &spec->kv[span->layer]);
        code = td_kvdisk_read_bytes(l->fd, l->d->piece, bytes, err);
        if (code) return code;
        XXH3_128bits_update(l->sum, l->d->piece, bytes);
        code = td_engine_backend(l->d->engine)->kv_write(span, l->d->piece, bytes, err);
        if (code) return code;
        span->pos0 += span->n;
        *n_read += bytes;
    }
    while (span->pos0 >= end && span->layer + 1 < spec->n_layers) {
        span->layer++;
        span->pos0 = td_kvdisk_first(&spec->kv[span->layer], committed(l), end);
    }
    return span->pos0 >= end ? end_stop(l, err) : TD_OK;
}

int td_kvdisk_more(struct td_kvdisk_load *l, uint64_t max_bytes, bool *is_done,
                   struct td_error *err)
{
    struct td_error why = {0};
    int code = TD_OK;
    for (uint64_t n_read = 0; !code && l->i_stop < l->n_stops && n_read < max_bytes;)
        code = read_piece(l, &n_read, &why);
    *is_done = code == TD_EFORMAT || l->i_stop == l->n_stops;
    if (code == TD_EFORMAT) {
        td_kvdisk_damaged(l->d, l->name, why.msg);
        l->n_stops = l->i_stop; // there is no more
        return TD_OK;
    }
    if (code) return td_fail(err, code, "KV on disk: %s: %.180s", l->name, why.msg);
    if (*is_done) td_kvdisk_used(l->d, l->name, l->fd);
    return TD_OK;
}

int td_kvdisk_load(struct td_kvdisk *d, struct td_session *s, const int32_t *tokens, uint32_t n,
                   uint32_t *n_out, struct td_error *err)
{
    *n_out = 0;
    struct td_kvdisk_load *l;
    int code = td_kvdisk_begin(&l, d, s, tokens, n, err);
    bool is_done = l == NULL;
    while (!code && !is_done) code = td_kvdisk_more(l, UINT64_MAX, &is_done, err);
    td_kvdisk_end(l, n_out);
    return code;
}
