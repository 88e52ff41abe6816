// SPDX-License-Identifier: MIT
// One file of KV: how its bytes follow from stops and layout, its head, and how it is written from
// a backend's spans. Reading its KV is kvdisk_load.c.
#include "server/kvdisk_impl.h"

#include "base/bytes.h"
#include "base/num.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

// Distance of further places where nothing is forgotten.
#define STRIDE 1024u

const struct td_spec *td_kvdisk_spec(const struct td_kvdisk *d)
{
    return &td_engine_model(d->engine)->spec;
}

// ---- sizes and digests ------------------------------------------------------------------------

uint64_t td_kvdisk_position_bytes(const struct td_kvdisk *d, const struct td_kv_layer *l)
{
    return (uint64_t)2 * l->n_kv_heads * l->head_dim * d->elem_bytes;
}

uint32_t td_kvdisk_first(const struct td_kv_layer *l, uint32_t before, uint32_t pos)
{
    const uint32_t seen = l->window == 0 || pos < l->window ? 0 : pos - l->window + 1;
    return td_max_u32(before, seen);
}

uint64_t td_kvdisk_payload_bytes(const struct td_kvdisk *d, const struct td_kvfile_stop *stops,
                                 uint32_t n_stops)
{
    // At most 2^24 positions of 2^9 layers of 2^21 bytes: no overflow.
    const struct td_spec *spec = td_kvdisk_spec(d);
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < n_stops; i++)
        for (uint32_t il = 0; il < spec->n_layers; il++)
            bytes += td_kvdisk_position_bytes(d, &spec->kv[il]) *
                     (stops[i].pos -
                      td_kvdisk_first(&spec->kv[il], i ? stops[i - 1].pos : 0, stops[i].pos));
    return bytes;
}

static struct td_kvfile describe(const struct td_kvdisk *d, const struct td_kvdisk_entry *x)
{
    struct td_kvfile f = {.n_stops = x->n_stops,
                          .n_tokens = x->n_tokens,
                          .n_prompt = x->n_prompt,
                          .payload_bytes = td_kvdisk_payload_bytes(d, x->stops, x->n_stops)};
    memcpy(f.weights, d->weights, sizeof(f.weights));
    memcpy(f.layout, d->layout, sizeof(f.layout));
    return f;
}

uint64_t td_kvdisk_file_bytes(const struct td_kvdisk *d, const struct td_kvdisk_entry *x)
{
    const struct td_kvfile f = describe(d, x);
    return td_kvfile_head_bytes(&f) + f.payload_bytes;
}

static void put_sum(XXH128_hash_t sum, uint8_t out[16])
{
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, sum);
    memcpy(out, canonical.digest, 16);
}

// Everything besides weights and tokens that KV's bits depend on, field by field.
static void hash_layout(struct td_kvdisk *d)
{
    const struct td_spec *spec = td_kvdisk_spec(d);
    const struct td_rope *r = &spec->rope;
    const struct td_device_config *cfg = td_engine_device_config(d->engine);
    XXH3_state_t *sum = d->sum;
    XXH3_128bits_reset(sum);
    XXH3_128bits_update(sum, spec->arch, sizeof(spec->arch));
    for (uint32_t il = 0; il < spec->n_layers; il++) {
        const struct td_kv_layer *l = &spec->kv[il];
        const uint32_t fields[3] = {l->n_kv_heads, l->head_dim, l->window};
        XXH3_128bits_update(sum, fields, sizeof(fields));
    }
    const uint32_t whole[] = {
        spec->n_embd, spec->n_vocab,        spec->n_heads, spec->n_experts, spec->n_ff_expert,
        r->n_dims,    spec->n_experts_used, r->truncate,   d->elem_bytes,   cfg->precision};
    const double real[] = {(double)spec->rms_eps,
                           (double)spec->swiglu_alpha,
                           (double)spec->swiglu_limit,
                           r->base,
                           r->factor,
                           r->original_ctx,
                           r->beta_fast,
                           r->beta_slow,
                           r->attn_factor};
    XXH3_128bits_update(sum, whole, sizeof(whole));
    XXH3_128bits_update(sum, real, sizeof(real));
    put_sum(XXH3_128bits_digest(sum), d->layout);
}

void td_kvdisk_digest(const struct td_kvdisk *d, const int32_t *tokens, uint32_t n, uint8_t out[16])
{
    XXH3_state_t *sum = d->sum;
    XXH3_128bits_reset(sum);
    XXH3_128bits_update(sum, d->weights, sizeof(d->weights));
    XXH3_128bits_update(sum, d->layout, sizeof(d->layout));
    XXH3_128bits_update(sum, tokens, n * sizeof(*tokens));
    put_sum(XXH3_128bits_digest(sum), out);
}

int td_kvdisk_open_io(struct td_kvdisk *d, struct td_error *err)
{
    const struct td_spec *spec = td_kvdisk_spec(d);
    d->elem_bytes = td_engine_device_config(d->engine)->kv_f32 ? 4 : 2;
    uint64_t most = 1;
    for (uint32_t il = 0; il < spec->n_layers; il++) {
        const uint64_t bytes = td_kvdisk_position_bytes(d, &spec->kv[il]);
        if (bytes > most) most = bytes;
    }
    d->piece = malloc(most * TD_KVFILE_PIECE);
    d->sum = XXH3_createState();
    if (!d->piece || !d->sum) return td_fail(err, TD_ENOMEM, "no memory for KV on disk");
    hash_layout(d);
    return TD_OK;
}

void td_kvdisk_close_io(struct td_kvdisk *d)
{
    free(d->piece);
    if (d->sum) XXH3_freeState(d->sum);
}

// ---- bytes ------------------------------------------------------------------------------------

int td_kvdisk_read_bytes(int fd, void *out, uint64_t n, struct td_error *err)
{
    uint8_t *at = out;
    while (n > 0) {
        const ssize_t got = read(fd, at, n);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return td_kvdisk_errno(err, "its bytes");
        if (got == 0) return td_fail(err, TD_EFORMAT, "it ends too soon");
        at += got;
        n -= (uint64_t)got;
    }
    return TD_OK;
}

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

int td_kvdisk_read_head(int fd, uint64_t file_bytes, struct td_kvfile *out, uint8_t **head_out,
                        struct td_error *err)
{
    *head_out = NULL;
    uint8_t fixed[TD_KVFILE_FIXED_BYTES];
    int code = td_kvdisk_read_bytes(fd, fixed, sizeof(fixed), err);
    if (!code) code = td_kvfile_read_fixed(out, fixed, err);
    if (code) return code;
    const size_t n = td_kvfile_head_bytes(out);
    // Also bounds what is allocated next: a file that claims much must be large.
    if (file_bytes < n || file_bytes - n != out->payload_bytes)
        return td_fail(err, TD_EFORMAT, "it has %llu bytes, its head says otherwise",
                       (unsigned long long)file_bytes);
    uint8_t *head = malloc(n);
    if (!head) return td_fail(err, TD_ENOMEM, "no memory for a head of %zu bytes", n);
    memcpy(head, fixed, sizeof(fixed));
    code = td_kvdisk_read_bytes(fd, head + sizeof(fixed), n - sizeof(fixed), err);
    if (!code && !td_kvfile_is_sound(head, n))
        code = td_fail(err, TD_EFORMAT, "the sum of its head is wrong");
    if (code)
        free(head);
    else
        *head_out = head;
    return code;
}

// ---- writing ----------------------------------------------------------------------------------

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

uint32_t td_kvdisk_choose(const struct td_kvdisk *d, const struct td_timeline *t,
                          struct td_place *out)
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

static int write_layer(struct td_kvdisk *d, int fd, struct td_kv_span *span, uint32_t end,
                       struct td_error *err)
{
    const struct td_backend *b = td_engine_backend(d->engine);
    const uint64_t pos_bytes = td_kvdisk_position_bytes(d, &td_kvdisk_spec(d)->kv[span->layer]);
    for (; span->pos0 < end; span->pos0 += span->n) {
        span->n = td_min_u32(end - span->pos0, TD_KVFILE_PIECE);
        struct td_kv_pin *pin;
        int code = b->kv_pin(&pin, span, err);
        if (code) return code;
        code = b->kv_read(pin, d->piece, span->n * pos_bytes, err);
        b->kv_unpin(pin);
        if (code) return code;
        XXH3_128bits_update(d->sum, d->piece, span->n * pos_bytes);
        code = write_all(fd, d->piece, span->n * pos_bytes, err);
        if (code) return code;
    }
    return TD_OK;
}

int td_kvdisk_write(struct td_kvdisk *d, int fd, struct td_kvdisk_entry *x,
                    const struct td_place *places, struct td_error *err)
{
    const struct td_spec *spec = td_kvdisk_spec(d);
    const struct td_kvfile f = describe(d, x);
    const size_t head_bytes = td_kvfile_head_bytes(&f);
    uint8_t *head = malloc(head_bytes);
    if (!head) return td_fail(err, TD_ENOMEM, "no memory for a head of %zu bytes", head_bytes);
    // The sums come last, into the place that is kept for them.
    int code = TD_OK;
    if (lseek(fd, (off_t)head_bytes, SEEK_SET) < 0) code = td_kvdisk_errno(err, "its bytes");
    for (uint32_t i = 0; !code && i < x->n_stops; i++) {
        const uint32_t before = i ? places[i - 1].pos : 0;
        XXH3_128bits_reset(d->sum);
        for (uint32_t il = 0; !code && il < spec->n_layers; il++) {
            struct td_kv_span span = {places[i].kv, il,
                                      td_kvdisk_first(&spec->kv[il], before, places[i].pos), 0};
            code = write_layer(d, fd, &span, places[i].pos, err);
        }
        put_sum(XXH3_128bits_digest(d->sum), x->stops[i].sum);
    }
    if (!code && lseek(fd, 0, SEEK_SET) < 0) code = td_kvdisk_errno(err, "its bytes");
    if (!code) {
        td_kvfile_write(head, &f, x->stops, x->tokens);
        code = write_all(fd, head, head_bytes, err);
    }
    free(head);
    return code;
}
