// SPDX-License-Identifier: MIT
// docs/WIRE.md, "A session", steps 1 and 2.
#include "relay/peer.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>

#define GREET_MS 10000 // for each frame of the greeting: no model is read meanwhile

// What decides whether one side's KV means the same on the other; written field by field, since
// padding is nobody's.
static int hash_layout(const struct td_spec *spec, uint8_t out[32], struct td_error *err)
{
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    bool ok = ctx && EVP_DigestInit_ex(ctx, EVP_sha256(), NULL);
    static const char domain[] = "tandem kv layout 1";
    ok = ok && EVP_DigestUpdate(ctx, domain, sizeof(domain));
    for (uint32_t il = 0; il < spec->n_layers; il++) {
        const struct td_kv_layer *l = &spec->kv[il];
        const uint32_t fields[3] = {l->n_kv_heads, l->head_dim, l->window};
        ok = ok && EVP_DigestUpdate(ctx, fields, sizeof(fields));
    }
    const struct td_rope *r = &spec->rope;
    const uint32_t whole[2] = {r->n_dims, r->truncate};
    const double real[6] = {r->base,      r->factor,    r->original_ctx,
                            r->beta_fast, r->beta_slow, r->attn_factor};
    ok = ok && EVP_DigestUpdate(ctx, whole, sizeof(whole)) &&
         EVP_DigestUpdate(ctx, real, sizeof(real)) && EVP_DigestFinal_ex(ctx, out, NULL);
    EVP_MD_CTX_free(ctx);
    return ok ? TD_OK : td_fail(err, TD_EIO, "relay: SHA-256 failed");
}

int td_peer_init(struct td_peer *out, enum td_wire_role role, const struct td_spec *spec,
                 const uint8_t tokenizer[32], const uint8_t weights[32], enum td_type kv_type,
                 struct td_error *err)
{
    *out = (struct td_peer){.hello = {.version_min = TD_WIRE_VERSION_MIN,
                                      .version_max = TD_WIRE_VERSION_MAX,
                                      .role = (uint8_t)role,
                                      .build = "tandem " TD_VERSION},
                            .identity = {.kv_types = 1u << kv_type,
                                         .n_layers = spec->n_layers,
                                         .n_vocab = spec->n_vocab}};
    bool has_blocks = true;
    for (uint32_t il = 0; il < spec->n_layers; il++)
        if (spec->kv[il].head_dim % TD_QK != 0) has_blocks = false;
    if (has_blocks) out->identity.kv_types |= TD_WIRE_KV_Q8_0;
    memcpy(out->identity.tokenizer, tokenizer, 32);
    memcpy(out->identity.weights, weights, 32);
    td_peer_text(spec->name, out->identity.name, sizeof(out->identity.name));
    return hash_layout(spec, out->identity.layout, err);
}

void td_peer_text(const char *theirs, char *out, size_t out_bytes)
{
    size_t n = 0;
    for (; theirs[n] && n + 1 < out_bytes; n++) {
        const bool is_control = (unsigned char)theirs[n] < 0x20 || theirs[n] == 0x7f;
        out[n] = theirs[n];
        if (is_control) out[n] = '?';
    }
    out[n] = 0;
}

bool td_peer_same_token(const uint8_t a[32], const uint8_t b[32])
{
    return CRYPTO_memcmp(a, b, 32) == 0;
}

void td_peer_refuse(struct td_frames *f, uint64_t request, enum td_wire_reason reason,
                    const char *text)
{
    struct td_wire_msg msg = {.h = {.type = TD_WIRE_ERROR, .request = request},
                              .u.error = {.reason = (uint16_t)reason}};
    td_peer_text(text, msg.u.error.msg, sizeof(msg.u.error.msg));
    // The connection ends anyway; whether it still hears us changes nothing.
    struct td_error ignored;
    if (td_frames_write(f, &msg, &ignored)) return;
}

int td_peer_expect(struct td_frames *f, enum td_wire_type type, uint32_t wait_ms,
                   struct td_wire_msg *out, struct td_error *err)
{
    struct td_wire_header h;
    bool is_there;
    int code = td_frames_header(f, &h, wait_ms, &is_there, err);
    if (code) return code;
    if (!is_there)
        return td_fail(err, TD_EIO, "%s: no %s came within %.1f seconds", td_link_peer(f->link),
                       td_wire_type_name((uint8_t)type), wait_ms / 1000.0);
    code = td_frames_payload(f, &h, out, err);
    if (code || h.type == (uint8_t)type) return code;
    if (h.type != TD_WIRE_ERROR)
        return td_fail(err, TD_EFORMAT, "%s: %s instead of %s", td_link_peer(f->link),
                       td_wire_type_name(h.type), td_wire_type_name((uint8_t)type));
    char text[sizeof(out->u.error.msg)];
    td_peer_text(out->u.error.msg, text, sizeof(text));
    return td_fail(err, TD_ECANCEL, "%s says: %s", td_link_peer(f->link), text);
}

static int refuse(struct td_frames *f, enum td_wire_reason reason, int code,
                  const struct td_error *why, struct td_error *err)
{
    td_peer_refuse(f, 0, reason, why->msg);
    if (err) *err = *why;
    return code;
}

// hello: of the peer's, when its header has been read; else NULL.
static int greet_hello(struct td_frames *f, const struct td_wire_header *hello,
                       const struct td_peer *ours, struct td_peer *theirs, uint8_t *version_out,
                       struct td_error *err)
{
    struct td_wire_msg msg = {.h = {.type = TD_WIRE_HELLO}, .u.hello = ours->hello};
    int code = td_frames_write(f, &msg, err);
    if (!code && hello)
        code = td_frames_payload(f, hello, &msg, err);
    else if (!code)
        code = td_peer_expect(f, TD_WIRE_HELLO, GREET_MS, &msg, err);
    if (code) return code;
    theirs->hello = msg.u.hello;
    struct td_error why;
    if (theirs->hello.role == ours->hello.role) {
        code = td_fail(&why, TD_EARG, "%s: both ends are the %s side", td_link_peer(f->link),
                       ours->hello.role == TD_WIRE_PREFILL ? "prefill" : "decode");
        return refuse(f, TD_WIRE_E_ORDER, code, &why, err);
    }
    code = td_wire_agree(version_out, &ours->hello, &theirs->hello, &why);
    return code ? refuse(f, TD_WIRE_E_VERSION, code, &why, err) : TD_OK;
}

bool td_peer_differs(const struct td_wire_identity *a, const struct td_wire_identity *b)
{
    return memcmp(a->weights, b->weights, sizeof(a->weights)) != 0 ||
           (a->flags ^ b->flags) & (TD_WIRE_HIGH_PRECISION | TD_WIRE_FINE_PRECISION);
}

// Whether the two models' KV can stand for one another.
static int compare(struct td_frames *f, const struct td_wire_identity *a,
                   const struct td_wire_identity *b, bool *weights_differ, struct td_error *err)
{
    enum td_wire_reason reason = TD_WIRE_E_LAYOUT;
    const char *what = NULL;
    if (memcmp(a->layout, b->layout, 32) != 0 || a->n_layers != b->n_layers)
        what = "its KV has another layout";
    else if (a->n_vocab != b->n_vocab || memcmp(a->tokenizer, b->tokenizer, 32) != 0)
        reason = TD_WIRE_E_TOKENIZER, what = "it has another tokenizer";
    else if (!(a->kv_types & b->kv_types))
        reason = TD_WIRE_E_KV_TYPE, what = "no KV type in common";
    *weights_differ = td_peer_differs(a, b);
    // The decode side decides; the prefill side's flag is 0.
    if (!what && *weights_differ && !((a->flags | b->flags) & TD_WIRE_ALLOW_WEIGHTS)) {
        reason = TD_WIRE_E_WEIGHTS;
        what = "it has other weights";
        if (memcmp(a->weights, b->weights, 32) == 0)
            what = "it calculates with another --precision than the other end";
    }
    if (!what) return TD_OK;
    char name[sizeof(b->name)];
    td_peer_text(b->name, name, sizeof(name));
    struct td_error why;
    const int code =
        td_fail(&why, TD_EARG, "%s has the model '%s': %s", td_link_peer(f->link), name, what);
    return refuse(f, reason, code, &why, err);
}

int td_peer_greet(struct td_frames *f, const struct td_peer *ours, struct td_peer *theirs,
                  bool *weights_differ, struct td_error *err)
{
    return td_peer_answer(f, NULL, ours, theirs, weights_differ, err);
}

int td_peer_answer(struct td_frames *f, const struct td_wire_header *hello,
                   const struct td_peer *ours, struct td_peer *theirs, bool *weights_differ,
                   struct td_error *err)
{
    *weights_differ = false;
    uint8_t version = 0;
    int code = greet_hello(f, hello, ours, theirs, &version, err);
    if (code) return code;
    f->version = version;
    struct td_wire_msg msg = {.h = {.version = version, .type = TD_WIRE_IDENTITY},
                              .u.identity = ours->identity};
    code = td_frames_write(f, &msg, err);
    if (!code) code = td_peer_expect(f, TD_WIRE_IDENTITY, GREET_MS, &msg, err);
    if (code) return code;
    theirs->identity = msg.u.identity;
    return compare(f, &ours->identity, &theirs->identity, weights_differ, err);
}
