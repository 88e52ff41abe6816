// SPDX-License-Identifier: MIT
// Frames <-> structs. Each payload is described once, by a function that walks its fields in order;
// the same walk writes and reads, so the two cannot disagree. What a walk accepts it would write
// byte for byte the same: nothing is skipped and nothing reserved is ignored.
#include "relay/wire.h"

#include "base/bytes.h"
#include "base/type.h"

#include <assert.h>
#include <string.h>
#include <xxhash.h>

#define MAGIC 0x564b4454u // "TDKV"

// Header offsets; docs/WIRE.md has the table.
enum { AT_REQUEST = 8, AT_LAYER = 16, AT_POS0 = 20, AT_N = 24, AT_SIZE = 28, AT_SUM = 32 };
enum { AT_HEADER_SUM = 40 };

// Header fields that a type uses; the others must be 0.
enum {
    USES_REQUEST = 1,  // not 0
    MAY_REQUEST = 2,   // or 0: the session
    USES_LAYER = 4,    //
    USES_RANGE = 8,    // pos0 and n, n >= 1
    USES_N = 16,       // n >= 1
    USES_KV_TYPE = 32, //
};
enum { C = 1 << TD_WIRE_CONTROL, D = 1 << TD_WIRE_DATA };

struct rule {
    const char *name;
    uint8_t channels;
    uint8_t uses;
    uint32_t min_bytes, max_bytes; // of the payload
};

static const struct rule rules[TD_WIRE_N_TYPES] = {
    [TD_WIRE_HELLO] = {"HELLO", C, 0, 6, 69},
    [TD_WIRE_IDENTITY] = {"IDENTITY", C, 0, 114, 240},
    [TD_WIRE_WELCOME] = {"WELCOME", C, 0, 56, 56},
    [TD_WIRE_RATES] = {"RATES", C, 0, 0, TD_WIRE_MAX_RATES *TD_WIRE_RATE_BYTES},
    [TD_WIRE_JOIN] = {"JOIN", D, 0, 32, 32},
    [TD_WIRE_JOINED] = {"JOINED", D, 0, 0, 0},
    [TD_WIRE_REQUEST] = {"REQUEST", C, USES_REQUEST | USES_KV_TYPE, 32, 32},
    [TD_WIRE_TOKENS] = {"TOKENS", C, USES_REQUEST | USES_RANGE, 4, TD_WIRE_MAX_CONTROL},
    [TD_WIRE_ACCEPT] = {"ACCEPT", C, USES_REQUEST, 20, 20},
    [TD_WIRE_PROGRESS] = {"PROGRESS", C, USES_REQUEST, 32, 32},
    [TD_WIRE_CANCEL] = {"CANCEL", C, USES_REQUEST, 0, 0},
    [TD_WIRE_RESUME] = {"RESUME", C, USES_REQUEST, 56, 52 + 4 * TD_WIRE_MAX_LAYERS},
    [TD_WIRE_COMMITTED] = {"COMMITTED", C, USES_REQUEST, 4, 4},
    [TD_WIRE_ERROR] = {"ERROR", C | D, MAY_REQUEST, 3, 242},
    [TD_WIRE_PING] = {"PING", C | D, 0, 8, 8},
    [TD_WIRE_PONG] = {"PONG", C | D, 0, 8, 8},
    [TD_WIRE_PROBE] = {"PROBE", C, USES_REQUEST, 9, 9},
    [TD_WIRE_BLAST] = {"BLAST", D, USES_REQUEST, 1, TD_WIRE_MAX_DATA},
    [TD_WIRE_PROBED] = {"PROBED", C, USES_REQUEST, 16, 16},
    [TD_WIRE_BYE] = {"BYE", C, 0, 0, 0},
    [TD_WIRE_SPAN] = {"SPAN", D, USES_REQUEST | USES_LAYER | USES_RANGE | USES_KV_TYPE, 1,
                      TD_WIRE_MAX_DATA},
    [TD_WIRE_CHECKPOINT] = {"CHECKPOINT", D, USES_REQUEST | USES_N, 16, 16},
    [TD_WIRE_FINAL] = {"FINAL", D, USES_REQUEST | USES_N, 48, 48},
    [TD_WIRE_LOGITS] = {"LOGITS", D, USES_REQUEST | USES_RANGE, 4, TD_WIRE_MAX_DATA},
};

const char *td_wire_type_name(uint8_t type)
{
    return type < TD_WIRE_N_TYPES && rules[type].name ? rules[type].name : "?";
}

static bool is_kv_type(uint8_t type)
{
    return type == TD_F32 || type == TD_F16 || type == TD_Q8_0;
}

// Every version can read these two, so that two versions can tell each other what is wrong.
static bool is_of_all_versions(uint8_t type)
{
    return type == TD_WIRE_HELLO || type == TD_WIRE_ERROR;
}

// ---- headers

// The name of the first field that breaks its bounds, NULL when none does.
static const char *wrong_field(const struct td_wire_header *h)
{
    const uint8_t uses = rules[h->type].uses;
    if (uses & USES_REQUEST ? h->request == 0 : !(uses & MAY_REQUEST) && h->request != 0)
        return "request";
    if (uses & USES_LAYER ? h->layer >= TD_WIRE_MAX_LAYERS : h->layer != 0) return "layer";
    if (uses & USES_KV_TYPE ? !is_kv_type(h->kv_type) : h->kv_type != 0) return "kv_type";
    if (!(uses & USES_RANGE) && h->pos0 != 0) return "pos0";
    const bool has_n = uses & (USES_RANGE | USES_N);
    if (has_n ? h->n == 0 : h->n != 0) return "n";
    if (h->n > TD_WIRE_MAX_TOKENS || h->pos0 > TD_WIRE_MAX_TOKENS - h->n) return "n";
    if (h->size_bytes < rules[h->type].min_bytes || h->size_bytes > rules[h->type].max_bytes)
        return "size";
    return NULL;
}

uint64_t td_wire_sum(const void *bytes, size_t size_bytes)
{
    return XXH64(bytes, size_bytes, 0);
}

static void put(uint8_t *out, const void *value, size_t size_bytes)
{
    memcpy(out, value, size_bytes);
}

static void put_header(uint8_t out[TD_WIRE_HEADER_BYTES], const struct td_wire_header *h)
{
    assert(h->type < TD_WIRE_N_TYPES && rules[h->type].name && !wrong_field(h));
    assert(is_of_all_versions(h->type) == (h->version == 0));
    const uint32_t magic = MAGIC;
    memset(out, 0, TD_WIRE_HEADER_BYTES);
    put(out, &magic, 4);
    out[4] = h->version;
    out[5] = h->type;
    out[6] = h->kv_type;
    put(out + AT_REQUEST, &h->request, 8);
    put(out + AT_LAYER, &h->layer, 4);
    put(out + AT_POS0, &h->pos0, 4);
    put(out + AT_N, &h->n, 4);
    put(out + AT_SIZE, &h->size_bytes, 4);
    put(out + AT_SUM, &h->sum, 8);
    const uint64_t header_sum = td_wire_sum(out, AT_HEADER_SUM);
    put(out + AT_HEADER_SUM, &header_sum, 8);
}

void td_wire_seal(uint8_t out[TD_WIRE_HEADER_BYTES], struct td_wire_header *h, const void *payload,
                  uint32_t size_bytes)
{
    h->size_bytes = size_bytes;
    h->sum = td_wire_sum(payload, size_bytes);
    put_header(out, h);
}

int td_wire_get_header(struct td_wire_header *out, const uint8_t in[TD_WIRE_HEADER_BYTES],
                       enum td_wire_channel channel, uint8_t version, struct td_error *err)
{
    struct td_bytes b = td_bytes_of(in, TD_WIRE_HEADER_BYTES);
    if (td_bytes_u32le(&b) != MAGIC)
        return td_fail(err, TD_EFORMAT, "relay: the peer does not speak tandem's protocol");
    struct td_wire_header h = {0};
    h.version = td_bytes_u8(&b);
    h.type = td_bytes_u8(&b);
    h.kv_type = td_bytes_u8(&b);
    const uint8_t zero = td_bytes_u8(&b);
    h.request = td_bytes_u64le(&b);
    h.layer = td_bytes_u32le(&b);
    h.pos0 = td_bytes_u32le(&b);
    h.n = td_bytes_u32le(&b);
    h.size_bytes = td_bytes_u32le(&b);
    h.sum = td_bytes_u64le(&b);
    // Before anything is believed, the length above all.
    if (td_bytes_u64le(&b) != td_wire_sum(in, AT_HEADER_SUM))
        return td_fail(err, TD_EFORMAT, "relay: a frame's header arrived damaged");
    if (h.version != (is_of_all_versions(h.type) ? 0 : version))
        return td_fail(err, TD_EUNSUP, "relay: a frame of protocol %u where %u was agreed on",
                       h.version, version);
    if (h.type >= TD_WIRE_N_TYPES || !rules[h.type].name)
        return td_fail(err, TD_EFORMAT, "relay: a frame of unknown type %u", h.type);
    if (!(rules[h.type].channels & 1 << channel))
        return td_fail(err, TD_EFORMAT, "relay: a %s frame on the %s connection",
                       rules[h.type].name, channel == TD_WIRE_DATA ? "data" : "control");
    if (version == 0 && !is_of_all_versions(h.type))
        return td_fail(err, TD_EFORMAT, "relay: a %s frame before HELLO", rules[h.type].name);
    const char *wrong = zero ? "reserved" : wrong_field(&h);
    if (wrong)
        return td_fail(err, TD_EFORMAT, "relay: a %s frame with an impossible '%s'",
                       rules[h.type].name, wrong);
    *out = h;
    return TD_OK;
}

// ---- payloads

// Walks the fields of a payload, writing or reading them. Remembers the first field that does not
// fit or breaks its bounds.
struct walk {
    struct td_bytes in;
    uint8_t *out;
    size_t left; // of out
    bool is_put;
    const char *wrong;
};

static void raw(struct walk *w, void *value, size_t size_bytes, const char *name)
{
    if (w->wrong) return;
    if (w->is_put && size_bytes <= w->left) {
        memcpy(w->out, value, size_bytes);
        w->out += size_bytes;
        w->left -= size_bytes;
        return;
    }
    const uint8_t *p = w->is_put ? NULL : td_bytes_take(&w->in, size_bytes);
    if (p)
        memcpy(value, p, size_bytes);
    else
        w->wrong = name;
}

static void need(struct walk *w, bool is_right, const char *name)
{
    if (!w->wrong && !is_right) w->wrong = name;
}

static void u8(struct walk *w, uint8_t *v, uint8_t max, const char *name)
{
    raw(w, v, 1, name);
    need(w, *v <= max, name);
}

static void u16(struct walk *w, uint16_t *v, const char *name)
{
    raw(w, v, 2, name);
}

static void u32(struct walk *w, uint32_t *v, uint32_t min, uint32_t max, const char *name)
{
    raw(w, v, 4, name);
    need(w, *v >= min && *v <= max, name);
}

static void u64(struct walk *w, uint64_t *v, const char *name)
{
    raw(w, v, 8, name);
}

// A length and as many bytes, none of them 0; shorter than cap, which is at most 256.
static void text(struct walk *w, char *v, size_t cap, const char *name)
{
    uint8_t n = 0;
    if (w->is_put) {
        const char *end = memchr(v, 0, cap);
        need(w, end != NULL, name);
        n = end ? (uint8_t)(end - v) : 0;
    }
    u8(w, &n, (uint8_t)(cap - 1), name);
    if (w->wrong) return;
    raw(w, v, n, name);
    if (w->is_put || w->wrong) return;
    need(w, memchr(v, 0, n) == NULL, name);
    v[n] = '\0';
}

static void walk_identity(struct walk *w, struct td_wire_identity *m)
{
    raw(w, m->layout, sizeof(m->layout), "layout");
    raw(w, m->tokenizer, sizeof(m->tokenizer), "tokenizer");
    raw(w, m->weights, sizeof(m->weights), "weights");
    u32(w, &m->kv_types, 1, UINT32_MAX, "kv_types");
    need(w, (m->kv_types & ~(TD_WIRE_KV_F32 | TD_WIRE_KV_F16 | TD_WIRE_KV_Q8_0)) == 0, "kv_types");
    u32(w, &m->flags, 0, TD_WIRE_ALLOW_WEIGHTS | TD_WIRE_HIGH_PRECISION | TD_WIRE_FINE_PRECISION,
        "flags");
    u32(w, &m->n_layers, 1, TD_WIRE_MAX_LAYERS, "n_layers");
    u32(w, &m->n_vocab, 1, TD_WIRE_MAX_VOCAB, "n_vocab");
    text(w, m->name, sizeof(m->name), "name");
    text(w, m->quant, sizeof(m->quant), "quant");
}

static void walk_welcome(struct walk *w, struct td_wire_welcome *m)
{
    enum { HOUR_MS = 3600 * 1000 };
    raw(w, m->token, sizeof(m->token), "token");
    u32(w, &m->lease_ms, 0, 24 * HOUR_MS, "lease_ms");
    u32(w, &m->progress_ms, 1, HOUR_MS, "progress_ms");
    u32(w, &m->n_slots, 1, 1u << 16, "n_slots");
    u32(w, &m->max_tokens, 2, TD_WIRE_MAX_TOKENS, "max_tokens");
    u64(w, &m->max_kv_bytes, "max_kv_bytes");
}

static void walk_request(struct walk *w, struct td_wire_request *m)
{
    u32(w, &m->n_tokens, 2, TD_WIRE_MAX_TOKENS, "n_tokens");
    // The last token is run where the answer is written; at least one must be asked for.
    u32(w, &m->have, 0, m->n_tokens >= 2 ? m->n_tokens - 2 : 0, "have");
    u32(w, &m->checkpoint_tokens, 1, TD_WIRE_MAX_TOKENS, "checkpoint_tokens");
    u32(w, &m->flags, 0, TD_WIRE_CANARY, "flags");
    u64(w, &m->have_sum, "have_sum");
    u64(w, &m->tokens_sum, "tokens_sum");
    const bool is_canary = m->flags & TD_WIRE_CANARY;
    need(w, !is_canary || (m->n_tokens <= TD_WIRE_MAX_CANARY_TOKENS && m->have == 0), "n_tokens");
}

static void walk_final(struct walk *w, struct td_wire_final *m)
{
    u64(w, &m->n_spans, "n_spans");
    u64(w, &m->span_sum, "span_sum");
    u64(w, &m->span_bytes, "span_bytes");
    u64(w, &m->far_ns, "far_ns");
    u64(w, &m->stall_ns, "stall_ns");
    u32(w, &m->n_computed, 0, TD_WIRE_MAX_TOKENS, "n_computed");
    u32(w, &m->n_reused, 0, TD_WIRE_MAX_TOKENS, "n_reused");
}

// What fills the rest of the payload.
static void items(struct walk *w, struct td_wire_msg *msg)
{
    if (w->wrong) return;
    if (!w->is_put) {
        msg->items_bytes = (uint32_t)td_bytes_left(&w->in);
        msg->items = td_bytes_take(&w->in, msg->items_bytes);
    } else if (msg->items_bytes <= w->left) {
        if (msg->items_bytes > 0) memcpy(w->out, msg->items, msg->items_bytes);
        w->out += msg->items_bytes;
        w->left -= msg->items_bytes;
    } else {
        w->wrong = "items";
    }
}

static void walk_tokens(struct walk *w, struct td_wire_msg *msg)
{
    items(w, msg);
    need(w, msg->items_bytes == 4ull * msg->h.n, "n");
    for (uint32_t i = 0; !w->wrong && i < msg->h.n; i++)
        need(w, (uint32_t)td_wire_token(msg, i) < TD_WIRE_MAX_VOCAB, "token");
}

static void walk_resume(struct walk *w, struct td_wire_msg *msg)
{
    struct td_wire_resume *m = &msg->u.resume;
    raw(w, m->token, sizeof(m->token), "token");
    u64(w, &m->n_spans, "n_spans");
    u64(w, &m->span_sum, "span_sum");
    u32(w, &m->n_layers, 1, TD_WIRE_MAX_LAYERS, "n_layers");
    items(w, msg);
    need(w, msg->items_bytes == 4ull * m->n_layers, "n_layers");
    for (uint32_t i = 0; !w->wrong && i < m->n_layers; i++)
        need(w, td_wire_mark(msg, i) <= TD_WIRE_MAX_TOKENS, "mark");
}

static void walk_rates(struct walk *w, struct td_wire_msg *msg)
{
    const uint64_t most = 1000000000000u; // 10^9 tokens a second
    items(w, msg);
    need(w, msg->items_bytes % TD_WIRE_RATE_BYTES == 0, "rates");
    uint32_t last = 0;
    for (uint32_t i = 0; !w->wrong && i < msg->items_bytes / TD_WIRE_RATE_BYTES; i++) {
        struct td_wire_rate r;
        td_wire_rate(msg, i, &r);
        need(w, (i == 0 || r.depth_tokens > last) && r.depth_tokens <= TD_WIRE_MAX_TOKENS, "depth");
        need(w, r.prefill_milli_tok_s <= most && r.decode_milli_tok_s <= most, "rate");
        last = r.depth_tokens;
    }
}

// The payload of every type, field by field.
static void walk_payload(struct walk *w, struct td_wire_msg *msg)
{
    switch ((enum td_wire_type)msg->h.type) {
    case TD_WIRE_HELLO:
        u16(w, &msg->u.hello.version_min, "version_min");
        u16(w, &msg->u.hello.version_max, "version_max");
        // Version 0 is what HELLO itself is sent as.
        need(w, msg->u.hello.version_min >= 1, "version_min");
        need(w, msg->u.hello.version_min <= msg->u.hello.version_max, "version_max");
        u8(w, &msg->u.hello.role, TD_WIRE_PREFILL, "role");
        text(w, msg->u.hello.build, sizeof(msg->u.hello.build), "build");
        return;
    case TD_WIRE_IDENTITY: walk_identity(w, &msg->u.identity); return;
    case TD_WIRE_WELCOME: walk_welcome(w, &msg->u.welcome); return;
    case TD_WIRE_RATES: walk_rates(w, msg); return;
    case TD_WIRE_JOIN: raw(w, msg->u.join_token, sizeof(msg->u.join_token), "token"); return;
    case TD_WIRE_REQUEST: walk_request(w, &msg->u.request); return;
    case TD_WIRE_TOKENS: walk_tokens(w, msg); return;
    case TD_WIRE_ACCEPT:
        u32(w, &msg->u.accept.n_reused, 0, TD_WIRE_MAX_TOKENS, "n_reused");
        u64(w, &msg->u.accept.kv_bytes, "kv_bytes");
        u64(w, &msg->u.accept.wait_ns, "wait_ns");
        return;
    case TD_WIRE_PROGRESS:
        u32(w, &msg->u.progress.n_computed, 0, TD_WIRE_MAX_TOKENS, "n_computed");
        u32(w, &msg->u.progress.n_sent, 0, TD_WIRE_MAX_TOKENS, "n_sent");
        u64(w, &msg->u.progress.sent_bytes, "sent_bytes");
        u64(w, &msg->u.progress.far_ns, "far_ns");
        u64(w, &msg->u.progress.stall_ns, "stall_ns");
        return;
    case TD_WIRE_RESUME: walk_resume(w, msg); return;
    case TD_WIRE_COMMITTED:
        u32(w, &msg->u.n_committed, 0, TD_WIRE_MAX_TOKENS, "n_committed");
        return;
    case TD_WIRE_ERROR:
        u16(w, &msg->u.error.reason, "reason");
        text(w, msg->u.error.msg, sizeof(msg->u.error.msg), "msg");
        return;
    case TD_WIRE_PING:
    case TD_WIRE_PONG: u64(w, &msg->u.t_ns, "t_ns"); return;
    case TD_WIRE_PROBE:
        u8(w, &msg->u.probe.towards_asker, 1, "towards_asker");
        u64(w, &msg->u.probe.size_bytes, "size_bytes");
        need(w, msg->u.probe.size_bytes - 1 < TD_WIRE_MAX_PROBE_BYTES, "size_bytes");
        return;
    case TD_WIRE_PROBED:
        u64(w, &msg->u.probed.size_bytes, "size_bytes");
        u64(w, &msg->u.probed.elapsed_ns, "elapsed_ns");
        return;
    case TD_WIRE_CHECKPOINT:
        u64(w, &msg->u.checkpoint.n_spans, "n_spans");
        u64(w, &msg->u.checkpoint.span_sum, "span_sum");
        return;
    case TD_WIRE_FINAL: walk_final(w, &msg->u.final); return;
    case TD_WIRE_LOGITS:
        items(w, msg);
        need(w, msg->items_bytes == 4ull * msg->h.n, "n");
        return;
    case TD_WIRE_SPAN:
        items(w, msg);
        // Its receiver knows the layer's exact size; that it is whole positions is known here.
        need(w, msg->items_bytes % msg->h.n == 0, "n");
        return;
    case TD_WIRE_BLAST: items(w, msg); return;
    case TD_WIRE_JOINED:
    case TD_WIRE_CANCEL:
    case TD_WIRE_BYE:
    case TD_WIRE_N_TYPES: return;
    }
}

size_t td_wire_encode(uint8_t *out, size_t cap, const struct td_wire_msg *msg)
{
    assert(cap >= TD_WIRE_HEADER_BYTES);
    struct td_wire_msg m = *msg; // the walk reads through pointers that may be written
    struct walk w = {
        .out = out + TD_WIRE_HEADER_BYTES, .left = cap - TD_WIRE_HEADER_BYTES, .is_put = true};
    walk_payload(&w, &m);
    assert(!w.wrong);
    const size_t size_bytes = (size_t)(w.out - out) - TD_WIRE_HEADER_BYTES;
    assert(size_bytes <= TD_WIRE_MAX_DATA);
    td_wire_seal(out, &m.h, out + TD_WIRE_HEADER_BYTES, (uint32_t)size_bytes);
    return TD_WIRE_HEADER_BYTES + size_bytes;
}

int td_wire_decode(struct td_wire_msg *out, const struct td_wire_header *h, const void *payload,
                   struct td_error *err)
{
    const char *name = td_wire_type_name(h->type);
    if (td_wire_sum(payload, h->size_bytes) != h->sum)
        return td_fail(err, TD_EFORMAT, "relay: a %s frame arrived damaged", name);
    *out = (struct td_wire_msg){.h = *h};
    struct walk w = {.in = td_bytes_of(payload, h->size_bytes)};
    walk_payload(&w, out);
    need(&w, td_bytes_left(&w.in) == 0, "size");
    if (w.wrong)
        return td_fail(err, TD_EFORMAT, "relay: a %s frame with an impossible '%s'", name, w.wrong);
    return TD_OK;
}

int td_wire_agree(uint8_t *version_out, const struct td_wire_hello *ours,
                  const struct td_wire_hello *theirs, struct td_error *err)
{
    if (ours->version_min > theirs->version_max)
        return td_fail(err, TD_EUNSUP,
                       "relay: the peer (%s) speaks protocol %u at most, this end %u at least; "
                       "update the peer",
                       theirs->build, theirs->version_max, ours->version_min);
    if (theirs->version_min > ours->version_max)
        return td_fail(err, TD_EUNSUP,
                       "relay: the peer (%s) speaks protocol %u at least, this end %u at most; "
                       "update this end",
                       theirs->build, theirs->version_min, ours->version_max);
    const uint16_t version =
        ours->version_max < theirs->version_max ? ours->version_max : theirs->version_max;
    *version_out = (uint8_t)version; // ours is at most TD_WIRE_VERSION_MAX
    return TD_OK;
}

uint64_t td_wire_span_digest(const struct td_wire_header *h)
{
    uint8_t b[32] = {0};
    put(b, &h->sum, 8);
    put(b + 8, &h->layer, 4);
    put(b + 12, &h->pos0, 4);
    put(b + 16, &h->n, 4);
    put(b + 20, &h->size_bytes, 4);
    b[24] = h->kv_type;
    return td_wire_sum(b, sizeof(b));
}

static uint32_t item_u32(const struct td_wire_msg *msg, uint32_t i)
{
    uint32_t v;
    memcpy(&v, (const uint8_t *)msg->items + 4 * (size_t)i, sizeof(v));
    return v;
}

int32_t td_wire_token(const struct td_wire_msg *msg, uint32_t i)
{
    return (int32_t)item_u32(msg, i);
}

uint32_t td_wire_mark(const struct td_wire_msg *msg, uint32_t i)
{
    return item_u32(msg, i);
}

void td_wire_rate(const struct td_wire_msg *msg, uint32_t i, struct td_wire_rate *out)
{
    const uint8_t *at = (const uint8_t *)msg->items + (size_t)TD_WIRE_RATE_BYTES * i;
    struct td_bytes b = td_bytes_of(at, TD_WIRE_RATE_BYTES);
    out->depth_tokens = td_bytes_u32le(&b);
    out->prefill_milli_tok_s = td_bytes_u64le(&b);
    out->decode_milli_tok_s = td_bytes_u64le(&b);
}

void td_wire_put_rate(uint8_t out[TD_WIRE_RATE_BYTES], const struct td_wire_rate *rate)
{
    put(out, &rate->depth_tokens, 4);
    put(out + 4, &rate->prefill_milli_tok_s, 8);
    put(out + 12, &rate->decode_milli_tok_s, 8);
}
