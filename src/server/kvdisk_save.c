// SPDX-License-Identifier: MIT
// Writing a timeline into a file: which places it shall have, what it makes superfluous, and a
// thread that writes, so that nobody else waits for the disk. The pages that it writes are pinned;
// each is given back once it is written.
#include "server/kvdisk_impl.h"

#include "base/num.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

// Distance of further places where nothing is forgotten.
#define STRIDE 1024u

// Up to TD_KVFILE_PIECE positions of a layer.
struct piece {
    struct td_kv_pin *pin; // NULL: written
    uint64_t bytes;
    uint32_t i_stop;
};

struct td_kvdisk_saving {
    struct td_kvdisk *d;
    struct td_kvdisk_entry x;
    char temp[64];
    int fd; // of the file while it is written; -1: there is none
    pthread_t thread;
    _Atomic bool is_over, is_given_up;
    // The thread's until it is over.
    struct piece *pieces; // in the order of the file
    uint64_t n_pieces;
    uint8_t *room; // for the largest
    XXH3_state_t *sum;
    int code;
    struct td_error err;
};

// ---- places -----------------------------------------------------------------------------------

static uint32_t add_place(struct td_place *out, uint32_t n, struct td_place place)
{
    uint32_t at = n;
    while (at > 0 && out[at - 1].pos > place.pos) at--;
    if (at > 0 && out[at - 1].pos == place.pos) {
        out[at - 1].is_mark |= place.is_mark;
        return n;
    }
    if (n == TD_KVFILE_MAX_STOPS) return n;
    memmove(&out[at + 1], &out[at], (n - at) * sizeof(*out));
    out[at] = place;
    return n + 1;
}

static uint32_t choose(const struct td_kvdisk *d, const struct td_timeline *t, struct td_place *out)
{
    const struct td_backend *b = td_engine_backend(d->engine);
    if (t->n_places == 0) return 0;
    uint32_t n = 0;
    for (uint32_t i = 0; i < t->n_places; i++) {
        const struct td_place *p = &t->places[i];
        if (!p->is_mark && i + 1 < t->n_places) continue;
        n = add_place(out, n, (struct td_place){p->kv, p->pos, p->is_mark});
        // The same prompt once more: its last token is computed anew.
        if (p->pos == t->n_prompt && p->pos > 1 && b->kv_holds(p->kv, p->pos - 1))
            n = add_place(out, n, (struct td_place){p->kv, p->pos - 1, false});
    }
    // Where nothing has been forgotten, also in between.
    const struct td_place *last = &t->places[t->n_places - 1];
    if (t->n_prompt > 0 && t->n_prompt < last->pos && b->kv_holds(last->kv, t->n_prompt))
        n = add_place(out, n, (struct td_place){last->kv, t->n_prompt, true});
    const uint32_t stride = td_max_u32(STRIDE, last->pos / (TD_KVFILE_MAX_STOPS / 4));
    for (uint32_t pos = stride; pos < last->pos; pos += stride)
        if (b->kv_holds(last->kv, pos))
            n = add_place(out, n, (struct td_place){last->kv, pos, false});
    return n;
}

// ---- what is worth a file ---------------------------------------------------------------------

// A file covers the timeline when all of its prompt can be taken up from it: the next turn drops or
// repeats the answer.
static uint32_t find_covering(const struct td_kvdisk *d, const struct td_timeline *t, uint32_t end)
{
    const uint32_t need = t->n_prompt > 0 && t->n_prompt < end ? t->n_prompt : end;
    uint32_t i = 0;
    for (; i < d->n_entries; i++) {
        const struct td_kvdisk_entry *x = &d->entries[i];
        if (!x->is_ours) continue;
        const uint32_t k =
            td_kvdisk_stops_in(x, td_kvdisk_same(x->tokens, x->n_tokens, t->tokens, end));
        if (k > 0 && x->stops[k - 1].pos >= need) break;
    }
    return i;
}

// Files whose prompt the new one begins with, and can be taken up as far on.
static void mark_superseded(struct td_kvdisk *d, const struct td_kvdisk_entry *new)
{
    for (uint32_t i = 0; i < d->n_entries; i++) {
        struct td_kvdisk_entry *x = &d->entries[i];
        x->is_superseded = false;
        if (!x->is_ours) continue;
        const uint32_t same = td_kvdisk_same(x->tokens, x->n_tokens, new->tokens, new->n_tokens);
        const uint32_t theirs = td_kvdisk_stops_in(x, x->n_prompt),
                       ours = td_kvdisk_stops_in(new, same);
        if (same < x->n_prompt || ours == 0) continue;
        x->is_superseded = theirs == 0 || new->stops[ours - 1].pos >= x->stops[theirs - 1].pos;
    }
}

static void name_entry(const struct td_kvdisk *d, struct td_kvdisk_entry *x)
{
    uint8_t digest[16];
    td_kvdisk_digest(d, x->tokens, x->n_tokens, digest);
    for (unsigned i = 0; i < 16; i++) snprintf(x->name + (size_t)2 * i, 3, "%02x", digest[i]);
    memcpy(x->name + 32, TD_KVDISK_SUFFIX, sizeof(TD_KVDISK_SUFFIX));
}

// ---- the thread -------------------------------------------------------------------------------

static int write_all(int fd, const void *in, uint64_t n, struct td_error *err)
{
    const uint8_t *at = in;
    while (n > 0) {
        const ssize_t put = write(fd, at, n);
        if (put < 0 && errno == EINTR) continue;
        if (put < 0) return td_kvdisk_errno(err, "its bytes");
        at += put;
        n -= (uint64_t)put;
    }
    return TD_OK;
}

static int write_piece(struct td_kvdisk_saving *v, struct piece *p, struct td_error *err)
{
    const struct td_backend *b = td_engine_backend(v->d->engine);
    int code = b->kv_read(p->pin, v->room, p->bytes, err);
    b->kv_unpin(p->pin);
    p->pin = NULL;
    if (code) return code;
    XXH3_128bits_update(v->sum, v->room, p->bytes);
    return write_all(v->fd, v->room, p->bytes, err);
}

static int write_head(struct td_kvdisk_saving *v, struct td_error *err)
{
    const struct td_kvfile f = td_kvdisk_describe(v->d, &v->x);
    const size_t n = td_kvfile_head_bytes(&f);
    uint8_t *head = malloc(n);
    if (!head) return td_fail(err, TD_ENOMEM, "no memory for a head of %zu bytes", n);
    td_kvfile_write(head, &f, v->x.stops, v->x.tokens);
    int code = lseek(v->fd, 0, SEEK_SET) < 0 ? td_kvdisk_errno(err, "its bytes") : TD_OK;
    if (!code) code = write_all(v->fd, head, n, err);
    free(head);
    return code;
}

static int write_file(struct td_kvdisk_saving *v, struct td_error *err)
{
    const struct td_kvfile f = td_kvdisk_describe(v->d, &v->x);
    // The sums come last, into the place that is kept for them.
    if (lseek(v->fd, (off_t)td_kvfile_head_bytes(&f), SEEK_SET) < 0)
        return td_kvdisk_errno(err, "its bytes");
    int code = TD_OK;
    uint64_t i = 0;
    for (uint32_t i_stop = 0; !code && i_stop < v->x.n_stops; i_stop++) {
        XXH3_128bits_reset(v->sum);
        for (; !code && i < v->n_pieces && v->pieces[i].i_stop == i_stop; i++) {
            if (atomic_load(&v->is_given_up)) return td_fail(err, TD_ECANCEL, "it was given up");
            code = write_piece(v, &v->pieces[i], err);
        }
        td_kvdisk_put_sum(XXH3_128bits_digest(v->sum), v->x.stops[i_stop].sum);
    }
    return code ? code : write_head(v, err);
}

static void *writer(void *ctx)
{
    struct td_kvdisk_saving *v = ctx;
    v->code = write_file(v, &v->err);
    atomic_store(&v->is_over, true);
    return NULL;
}

static int start_thread(struct td_kvdisk_saving *v, struct td_error *err)
{
    // Signals are for the thread that waits for them.
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const int failure = pthread_create(&v->thread, NULL, writer, v);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return failure ? td_fail(err, TD_ENOMEM, "no thread to write KV") : TD_OK;
}

// ---- begin and end ----------------------------------------------------------------------------

static void free_saving(struct td_kvdisk_saving *v)
{
    const struct td_backend *b = td_engine_backend(v->d->engine);
    for (uint64_t i = 0; v->pieces && i < v->n_pieces; i++) b->kv_unpin(v->pieces[i].pin);
    if (v->fd >= 0) {
        close(v->fd);
        (void)unlinkat(v->d->fd, v->temp, 0);
    }
    td_kvdisk_free_entry(&v->x);
    if (v->sum) XXH3_freeState(v->sum);
    free(v->room);
    free(v->pieces);
    free(v);
}

static uint32_t stop_before(const struct td_kvdisk_entry *x, uint32_t i_stop)
{
    return i_stop ? x->stops[i_stop - 1].pos : 0;
}

static uint64_t count_pieces(const struct td_kvdisk *d, const struct td_kvdisk_entry *x)
{
    const struct td_spec *spec = td_kvdisk_spec(d);
    uint64_t n = 0;
    for (uint32_t i = 0; i < x->n_stops; i++)
        for (uint32_t il = 0; il < spec->n_layers; il++) {
            const uint32_t first =
                td_kvdisk_first(&spec->kv[il], stop_before(x, i), x->stops[i].pos);
            n += (x->stops[i].pos - first + TD_KVFILE_PIECE - 1) / TD_KVFILE_PIECE;
        }
    return n;
}

static int pin_layer(struct td_kvdisk_saving *v, uint32_t i_stop, struct td_kv_span span,
                     struct td_error *err)
{
    const struct td_kvdisk *d = v->d;
    const uint64_t pos_bytes = td_kvdisk_position_bytes(d, &td_kvdisk_spec(d)->kv[span.layer]);
    const uint32_t end = v->x.stops[i_stop].pos;
    for (; span.pos0 < end; span.pos0 += span.n) {
        span.n = td_min_u32(end - span.pos0, TD_KVFILE_PIECE);
        struct piece *p = &v->pieces[v->n_pieces];
        const int code = td_engine_backend(d->engine)->kv_pin(&p->pin, &span, err);
        if (code) return code;
        p->bytes = span.n * pos_bytes;
        p->i_stop = i_stop;
        v->n_pieces++;
    }
    return TD_OK;
}

static int pin_all(struct td_kvdisk_saving *v, const struct td_place *places, struct td_error *err)
{
    const struct td_spec *spec = td_kvdisk_spec(v->d);
    const uint64_t n = count_pieces(v->d, &v->x);
    v->pieces = calloc(n ? n : 1, sizeof(*v->pieces));
    v->room = malloc(v->d->piece_bytes);
    v->sum = XXH3_createState();
    if (!v->pieces || !v->room || !v->sum) return td_fail(err, TD_ENOMEM, "no memory to write KV");
    int code = TD_OK;
    for (uint32_t i = 0; !code && i < v->x.n_stops; i++)
        for (uint32_t il = 0; !code && il < spec->n_layers; il++) {
            const uint32_t first =
                td_kvdisk_first(&spec->kv[il], stop_before(&v->x, i), places[i].pos);
            const struct td_kv_span span = {places[i].kv, il, first, 0};
            code = pin_layer(v, i, span, err);
        }
    return code;
}

static int open_temp(struct td_kvdisk_saving *v, struct td_error *err)
{
    snprintf(v->temp, sizeof(v->temp), "%s" TD_KVDISK_NEW, v->x.name);
    (void)unlinkat(v->d->fd, v->temp, 0);
    v->fd = openat(v->d->fd, v->temp, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    return v->fd < 0 ? td_kvdisk_errno(err, v->temp) : TD_OK;
}

// Everything of the entry but its name and its sums. False: no memory.
static bool describe_entry(const struct td_kvdisk *d, struct td_kvdisk_entry *x,
                           const struct td_timeline *t, const struct td_place *places, uint32_t n)
{
    const uint32_t end = places[n - 1].pos;
    if (end == 0) return false; // never: it is long
    *x = (struct td_kvdisk_entry){.n_tokens = end,
                                  .n_prompt = t->n_prompt < end ? t->n_prompt : end,
                                  .n_stops = n,
                                  .tokens = malloc(end * sizeof(*x->tokens)),
                                  .stops = calloc(n, sizeof(*x->stops))};
    if (!x->tokens || !x->stops) return false;
    memcpy(x->tokens, t->tokens, end * sizeof(*x->tokens));
    for (uint32_t i = 0; i < n; i++)
        x->stops[i] = (struct td_kvfile_stop){.pos = places[i].pos, .is_mark = places[i].is_mark};
    x->bytes = td_kvdisk_file_bytes(d, x);
    return true;
}

static int begin(struct td_kvdisk_saving **out, struct td_kvdisk *d, const struct td_timeline *t,
                 uint64_t used_ns, const struct td_place *places, uint32_t n_places,
                 struct td_error *err)
{
    struct td_kvdisk_saving *v = calloc(1, sizeof(*v));
    if (!v) return td_fail(err, TD_ENOMEM, "no memory to write KV");
    v->d = d;
    v->fd = -1;
    struct td_error why = {0};
    int code = TD_OK;
    if (!describe_entry(d, &v->x, t, places, n_places))
        code = td_fail(&why, TD_ENOMEM, "no memory to write KV");
    if (!code) {
        v->x.used_ns = used_ns;
        name_entry(d, &v->x);
        mark_superseded(d, &v->x);
        if (!td_kvdisk_make_room(d, v->x.bytes, used_ns)) {
            free_saving(v);
            return TD_OK;
        }
        code = open_temp(v, &why);
    }
    if (!code) code = pin_all(v, places, &why);
    if (!code) code = start_thread(v, &why);
    if (code) {
        free_saving(v);
        return td_fail(err, code, "KV on disk: %.200s", why.msg);
    }
    *out = v;
    return TD_OK;
}

int td_kvdisk_save_begin(struct td_kvdisk_saving **out, struct td_kvdisk *d,
                         const struct td_timeline *t, uint64_t used_ns, struct td_error *err)
{
    *out = NULL;
    struct td_place *places = malloc(TD_KVFILE_MAX_STOPS * sizeof(*places));
    if (!places) return td_fail(err, TD_ENOMEM, "no memory to write KV");
    const uint32_t n_places = choose(d, t, places);
    const uint32_t end = n_places ? places[n_places - 1].pos : 0;
    int code = TD_OK;
    if (end >= TD_KVDISK_MIN_TOKENS && end <= TD_KVFILE_MAX_TOKENS) {
        const uint32_t i = find_covering(d, t, end);
        if (i == d->n_entries)
            code = begin(out, d, t, used_ns, places, n_places, err);
        else if (d->entries[i].used_ns < used_ns)
            d->entries[i].used_ns = used_ns;
    }
    free(places);
    return code;
}

bool td_kvdisk_save_is_over(const struct td_kvdisk_saving *v)
{
    return atomic_load(&v->is_over);
}

// The file is whole: it gets its name.
static int put_file(struct td_kvdisk_saving *v, struct td_error *err)
{
    // What a delayed write could not do is told here at the latest, on file systems that tell.
    const int code = close(v->fd) ? td_kvdisk_errno(err, v->x.name) : TD_OK;
    v->fd = -1;
    // No fsync: after a power cut a half-written file has a wrong sum, and is removed.
    if (!code && renameat(v->d->fd, v->temp, v->d->fd, v->x.name) == 0) return TD_OK;
    if (!code) (void)td_kvdisk_errno(err, v->x.name);
    (void)unlinkat(v->d->fd, v->temp, 0);
    return TD_EIO;
}

// Lists the file, which owns the entry then, and removes what it makes superfluous.
static int list_file(struct td_kvdisk_saving *v, struct td_error *err)
{
    struct td_kvdisk *d = v->d;
    mark_superseded(d, &v->x);
    for (uint32_t i = d->n_entries; i > 0; i--) {
        if (strcmp(d->entries[i - 1].name, v->x.name) == 0)
            td_kvdisk_forget(d, i - 1); // the new file has taken its place
        else if (d->entries[i - 1].is_superseded)
            td_kvdisk_remove(d, i - 1);
    }
    v->x.is_ours = true;
    if (td_kvdisk_add(d, &v->x)) {
        v->x.tokens = NULL;
        v->x.stops = NULL;
        return TD_OK;
    }
    (void)unlinkat(d->fd, v->x.name, 0);
    return td_fail(err, TD_ENOMEM, "no memory to list one more file");
}

int td_kvdisk_save_end(struct td_kvdisk_saving *v, bool gives_up, struct td_error *err)
{
    if (gives_up) atomic_store(&v->is_given_up, true);
    pthread_join(v->thread, NULL);
    int code = v->code;
    if (!code) code = put_file(v, &v->err);
    if (!code) code = list_file(v, &v->err);
    const bool is_given_up = gives_up && code == TD_ECANCEL;
    if (code && !is_given_up) (void)td_fail(err, code, "KV on disk: %.200s", v->err.msg);
    free_saving(v);
    return is_given_up ? TD_OK : code;
}

int td_kvdisk_save(struct td_kvdisk *d, const struct td_timeline *t, struct td_error *err)
{
    struct td_kvdisk_saving *v;
    const int code = td_kvdisk_save_begin(&v, d, t, td_kvdisk_now_ns(), err);
    return code || !v ? code : td_kvdisk_save_end(v, false, err);
}
