// SPDX-License-Identifier: MIT
// One file of KV: how its bytes follow from stops and layout, and its head. Writing it is
// kvdisk_save.c, reading its KV kvdisk_load.c.
#include "server/kvdisk_impl.h"

#include "base/bytes.h"
#include "base/num.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

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

struct td_kvfile td_kvdisk_describe(const struct td_kvdisk *d, const struct td_kvdisk_entry *x)
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
    const struct td_kvfile f = td_kvdisk_describe(d, x);
    return td_kvfile_head_bytes(&f) + f.payload_bytes;
}

void td_kvdisk_put_sum(XXH128_hash_t sum, uint8_t out[16])
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
    td_kvdisk_put_sum(XXH3_128bits_digest(sum), d->layout);
}

void td_kvdisk_digest(const struct td_kvdisk *d, const int32_t *tokens, uint32_t n, uint8_t out[16])
{
    XXH3_state_t *sum = d->sum;
    XXH3_128bits_reset(sum);
    XXH3_128bits_update(sum, d->weights, sizeof(d->weights));
    XXH3_128bits_update(sum, d->layout, sizeof(d->layout));
    XXH3_128bits_update(sum, tokens, n * sizeof(*tokens));
    td_kvdisk_put_sum(XXH3_128bits_digest(sum), out);
}

int td_kvdisk_open_io(struct td_kvdisk *d, struct td_error *err)
{
    const struct td_spec *spec = td_kvdisk_spec(d);
    d->elem_bytes = td_engine_device_config(d->engine)->kv_f32 ? 4 : 2;
    d->piece_bytes = 1;
    for (uint32_t il = 0; il < spec->n_layers; il++) {
        const uint64_t bytes = TD_KVFILE_PIECE * td_kvdisk_position_bytes(d, &spec->kv[il]);
        if (bytes > d->piece_bytes) d->piece_bytes = bytes;
    }
    d->piece = malloc(d->piece_bytes);
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
