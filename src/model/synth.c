// SPDX-License-Identifier: MIT
// Makes synthetic models: streamed to a file, or in memory by a team of threads.
#include "base/os.h"
#include "base/team.h"
#include "model/synth_impl.h"

#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { REASON_BYTES = 80 };

// What errno says, in text.
static const char *reason(char text[static REASON_BYTES])
{
    const int e = errno;
    if (strerror_r(e, text, REASON_BYTES) != 0) snprintf(text, REASON_BYTES, "error %d", e);
    return text;
}

static bool report(const struct td_model_options *opt, uint64_t done, uint64_t total)
{
    return !opt->progress || opt->progress(opt->progress_ctx, done, total);
}

// --- to a file ------------------------------------------------------------------------------

// Pieces made side by side before they are written: enough for a team, little memory.
enum { N_BATCH = 16, MAX_ELEM_BYTES = 4 };

struct batch {
    const struct td_synth_tensor *tensor;
    uint64_t first; // piece
    uint32_t n;     // pieces
    uint64_t slot_bytes;
    uint8_t *bytes; // (N_BATCH slots)
};

static void fill_batch(void *ctx, struct td_member *me)
{
    const struct batch *b = ctx;
    uint32_t i;
    while (td_team_claim(me, b->n, &i))
        td_synth_fill(b->tensor, b->first + i, b->bytes + i * b->slot_bytes);
}

struct writer {
    FILE *file;
    const char *path;
    struct td_team *team;
    uint8_t *bytes; // (N_BATCH pieces of the largest type)
    uint64_t done_bytes, total_bytes;
    const struct td_model_options *opt;
};

static int write_bytes(struct writer *w, const void *bytes, size_t n, struct td_error *err)
{
    char text[REASON_BYTES];
    if (fwrite(bytes, 1, n, w->file) == n) return TD_OK;
    return td_fail(err, TD_EIO, "%.160s: cannot be written: %s", w->path, reason(text));
}

static int write_tensor(struct writer *w, const struct td_synth_tensor *t, struct td_error *err)
{
    static const uint8_t zeros[64];
    const uint64_t n_pieces = td_synth_n_pieces(t);
    struct batch b = {.tensor = t, .bytes = w->bytes};
    b.slot_bytes = td_synth_piece_bytes(t, 0); // the last piece may be smaller, none is larger
    for (b.first = 0; b.first < n_pieces; b.first += b.n) {
        const uint64_t left = n_pieces - b.first;
        b.n = left < N_BATCH ? (uint32_t)left : N_BATCH;
        td_team_run(w->team, fill_batch, &b);
        const uint64_t size = (b.n - 1) * b.slot_bytes + td_synth_piece_bytes(t, b.first + b.n - 1);
        const int code = write_bytes(w, b.bytes, size, err);
        if (code != TD_OK) return code;
        w->done_bytes += size;
        if (!report(w->opt, w->done_bytes, w->total_bytes))
            return td_fail(err, TD_ECANCEL, "%.160s: stopped", w->path);
    }
    return write_bytes(w, zeros, td_gguf_data_padding(t->size_bytes), err);
}

static int write_all(struct writer *w, const struct td_synth_shape *shape,
                     const struct td_synth_plan *plan, struct td_error *err)
{
    struct td_gguf_writer *header = NULL;
    int code = td_gguf_writer_open(&header, err);
    if (code != TD_OK) return code;
    const uint8_t *bytes = NULL;
    size_t size = 0;
    code = td_synth_put_header(header, shape, plan, err);
    if (code == TD_OK) code = td_gguf_writer_header(header, &bytes, &size, err);
    if (code == TD_OK) code = write_bytes(w, bytes, size, err);
    td_gguf_writer_close(header);
    for (uint32_t i = 0; i < plan->n_tensors && code == TD_OK; i++)
        code = write_tensor(w, &plan->tensors[i], err);
    return code;
}

static const struct td_model_options *options_or_plain(const struct td_model_options *opt)
{
    static const struct td_model_options plain = {0};
    return opt ? opt : &plain;
}

// The finished file appears under its name at once; until then it is PATH.part.
static int write_part(struct writer *w, const struct td_synth_shape *shape,
                      const struct td_synth_plan *plan, const char *part, struct td_error *err)
{
    char text[REASON_BYTES];
    w->file = fopen(part, "wb");
    if (!w->file) return td_fail(err, TD_EIO, "%.160s: %s", part, reason(text));
    int code = write_all(w, shape, plan, err);
    if (fclose(w->file) != 0 && code == TD_OK)
        code = td_fail(err, TD_EIO, "%.160s: cannot be written: %s", part, reason(text));
    if (code == TD_OK && rename(part, w->path) != 0)
        code = td_fail(err, TD_EIO, "%.160s: %s", w->path, reason(text));
    if (code != TD_OK) (void)remove(part);
    return code;
}

int td_synth_write(const struct td_synth_shape *shape, const char *path,
                   const struct td_model_options *opt, struct td_error *err)
{
    struct writer w = {.path = path, .opt = options_or_plain(opt)};
    struct td_synth_plan plan;
    int code = td_synth_plan_init(&plan, shape, shape->pool_layers, err);
    if (code != TD_OK) return code;
    w.total_bytes = plan.size_bytes;
    const size_t n_path = strlen(path);
    char *part = malloc(n_path + sizeof(".part"));
    w.bytes = malloc(N_BATCH * TD_SYNTH_PIECE * MAX_ELEM_BYTES);
    if (!part || !w.bytes) {
        code = td_fail(err, TD_ENOMEM, "%.160s: no memory for a buffer", path);
    } else {
        snprintf(part, n_path + sizeof(".part"), "%s.part", path);
        code = td_team_open(&w.team, w.opt->n_threads ? w.opt->n_threads : 1, err);
    }
    if (code == TD_OK) code = write_part(&w, shape, &plan, part, err);
    td_team_close(w.team);
    free(part);
    free(w.bytes);
    td_synth_plan_free(&plan);
    return code;
}

// --- in memory ------------------------------------------------------------------------------

struct td_synth {
    struct td_gguf_writer *header; // owns the directory's bytes
    uint8_t *weights;
    size_t size_bytes;
};

void td_synth_close(struct td_synth *s)
{
    if (!s) return;
    td_gguf_writer_close(s->header);
    if (s->weights) td_os_release(s->weights, s->size_bytes);
    free(s);
}

// A tensor with data of its own, where it lies and the number of its first piece.
struct place {
    const struct td_synth_tensor *tensor;
    uint64_t offset, first_piece;
};

struct maker {
    struct place *places; // (n_places)
    uint32_t n_places;
    uint32_t n_pieces;
    uint8_t *weights;
    uint64_t total_bytes;
    const struct td_model_options *opt;
    _Atomic uint64_t done_bytes; // relaxed: a figure for people
    _Atomic bool is_cancelled;
};

static const struct place *place_of_piece(const struct maker *m, uint64_t i_piece)
{
    uint32_t lo = 0, hi = m->n_places; // places[lo].first_piece <= i_piece < places[hi]'s
    while (hi - lo > 1) {
        const uint32_t mid = lo + (hi - lo) / 2;
        if (m->places[mid].first_piece <= i_piece)
            lo = mid;
        else
            hi = mid;
    }
    return &m->places[lo];
}

static void make_pieces(void *ctx, struct td_member *me)
{
    struct maker *m = ctx;
    uint32_t i;
    while (!atomic_load_explicit(&m->is_cancelled, memory_order_relaxed) &&
           td_team_claim(me, m->n_pieces, &i)) {
        const struct place *p = place_of_piece(m, i);
        const uint64_t piece = i - p->first_piece;
        td_synth_fill(p->tensor, piece,
                      m->weights + p->offset + piece * td_synth_piece_bytes(p->tensor, 0));
        const uint64_t size = td_synth_piece_bytes(p->tensor, piece);
        const uint64_t done =
            atomic_fetch_add_explicit(&m->done_bytes, size, memory_order_relaxed) + size;
        if (me->id == 0 && !report(m->opt, done, m->total_bytes))
            atomic_store_explicit(&m->is_cancelled, true, memory_order_relaxed);
    }
}

// Every place starts on a cache line. Returns the bytes of all, or 0 when that is too much.
static uint64_t lay_out(struct maker *m, const struct td_synth_plan *plan)
{
    uint64_t at = 0, piece = 0;
    for (uint32_t i = 0; i < plan->n_tensors; i++) {
        const struct td_synth_tensor *t = &plan->tensors[i];
        if (t->i_source != i) continue;
        m->places[m->n_places++] = (struct place){t, at, piece};
        at += (t->size_bytes + 63) / 64 * 64;
        piece += td_synth_n_pieces(t);
        m->total_bytes += t->size_bytes;
    }
    if (piece > UINT32_MAX) return 0;
    m->n_pieces = (uint32_t)piece;
    return at;
}

static int fill_memory(struct maker *m, struct td_error *err)
{
    struct td_team *team = NULL;
    const int code = td_team_open(&team, m->opt->n_threads ? m->opt->n_threads : 1, err);
    if (code != TD_OK) return code;
    td_team_run(team, make_pieces, m);
    td_team_close(team);
    if (atomic_load(&m->is_cancelled)) return td_fail(err, TD_ECANCEL, "synth: stopped");
    return TD_OK;
}

static void bind_data(struct td_gguf *g, const struct maker *m, const struct td_synth_plan *plan)
{
    // Sources come before what shares them, and places are in the order of their tensors.
    for (uint32_t i = 0, k = 0; i < plan->n_tensors; i++) {
        const uint32_t source = plan->tensors[i].i_source;
        if (source == i)
            td_gguf_bind(g, i, m->weights + m->places[k++].offset);
        else
            td_gguf_bind(g, i, td_gguf_tensor_at(g, source)->data);
    }
}

// How many layers get weights of their own; 0: all. The pool must be so large that no cache keeps
// it between two visits of a layer: 32 times the last-level cache.
static int choose_pool(const struct td_synth_shape *s, const struct td_synth_plan *plan,
                       uint32_t *pool_out, struct td_error *err)
{
    struct td_os_info os;
    td_os_info(&os);
    *pool_out = s->pool_layers;
    if (s->pool_layers != 0 || os.available_bytes == 0) return TD_OK;
    const uint64_t budget = os.available_bytes / 4 * 3;
    if (plan->size_bytes <= budget) return TD_OK;
    const uint64_t rest = plan->size_bytes - s->n_layers * plan->layer_size_bytes;
    const uint64_t cache = os.last_cache_bytes ? os.last_cache_bytes : (uint64_t)64 << 20;
    uint64_t n = 32 * cache / plan->layer_size_bytes + 1;
    if (n < 2) n = 2;
    if (n > s->n_layers) n = s->n_layers;
    if (rest + n * plan->layer_size_bytes > budget)
        return td_fail(err, TD_ENOMEM,
                       "synth: even %" PRIu64
                       " shared layers of %.1f GB do not fit in 75 %% of the "
                       "%.1f GB that are free; pool=N sets their number",
                       n, (double)plan->layer_size_bytes * 1e-9, (double)os.available_bytes * 1e-9);
    *pool_out = (uint32_t)n;
    return TD_OK;
}

static void write_note(char *note, size_t size, const struct td_synth_shape *s,
                       const struct td_synth_plan *plan, uint32_t pool)
{
    if (pool == 0 || pool >= s->n_layers)
        snprintf(note, size, "synthetic weights, seed %" PRIu64, s->seed);
    else
        snprintf(note, size,
                 "synthetic weights, seed %" PRIu64 "; pooled: the weights of %" PRIu32
                 " layers (%.1f GB) serve all %" PRIu32,
                 s->seed, pool, (double)(pool * plan->layer_size_bytes) * 1e-9, s->n_layers);
}

static int make_weights(struct td_synth *s, struct td_gguf *g, const struct td_synth_plan *plan,
                        const struct td_model_options *opt, struct td_error *err)
{
    struct maker m = {.opt = opt};
    m.places = calloc(plan->n_tensors, sizeof(*m.places));
    if (!m.places) return td_fail(err, TD_ENOMEM, "synth: no memory for a list of tensors");
    int code = TD_OK;
    s->size_bytes = lay_out(&m, plan);
    if (s->size_bytes > 0) s->weights = td_os_reserve(s->size_bytes);
    // As a mapped file's weights lie where the file system keeps large pages.
    if (s->weights) td_os_want_huge(s->weights, s->size_bytes);
    if (!s->weights) {
        code = td_fail(err, TD_ENOMEM, "synth: no memory for %.1f GB of weights",
                       (double)m.total_bytes * 1e-9);
    } else {
        m.weights = s->weights;
        code = fill_memory(&m, err);
    }
    if (code == TD_OK) bind_data(g, &m, plan);
    free(m.places);
    return code;
}

// The directory of a plan, parsed back from the header that a file would have.
static int make_directory(struct td_synth *s, struct td_gguf **out,
                          const struct td_synth_shape *shape, const struct td_synth_plan *plan,
                          struct td_error *err)
{
    char name[80];
    snprintf(name, sizeof(name), "synth:%s", shape->name);
    const uint8_t *bytes = NULL;
    size_t size = 0;
    int code = td_gguf_writer_open(&s->header, err);
    if (code == TD_OK) code = td_synth_put_header(s->header, shape, plan, err);
    if (code == TD_OK) code = td_gguf_writer_header(s->header, &bytes, &size, err);
    if (code == TD_OK) code = td_gguf_parse(out, bytes, size, name, true, err);
    return code;
}

int td_synth_make(struct td_synth **out, struct td_gguf **gguf_out,
                  const struct td_synth_shape *shape, const struct td_model_options *opt,
                  char *note, size_t note_bytes, struct td_error *err)
{
    *out = NULL;
    *gguf_out = NULL;
    opt = options_or_plain(opt);
    struct td_synth_shape own = *shape; // with the pool that is chosen
    struct td_synth_plan plan = {0};
    struct td_gguf *g = NULL;
    struct td_synth *s = calloc(1, sizeof(*s));
    if (!s) return td_fail(err, TD_ENOMEM, "synth: no memory");

    uint32_t pool = own.pool_layers;
    int code = td_synth_plan_init(&plan, &own, pool, err);
    if (code == TD_OK && !opt->header_only) code = choose_pool(&own, &plan, &pool, err);
    if (code == TD_OK && pool != own.pool_layers) {
        own.pool_layers = pool; // into the header, and so into the digest
        td_synth_plan_free(&plan);
        code = td_synth_plan_init(&plan, &own, pool, err);
    }
    if (code == TD_OK) code = make_directory(s, &g, &own, &plan, err);
    if (code == TD_OK && !opt->header_only) code = make_weights(s, g, &plan, opt, err);
    if (code == TD_OK) {
        write_note(note, note_bytes, &own, &plan, pool);
        *out = s;
        *gguf_out = g;
    } else {
        td_gguf_close(g);
        td_synth_close(s);
    }
    td_synth_plan_free(&plan);
    return code;
}
