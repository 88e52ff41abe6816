// SPDX-License-Identifier: MIT
// Whether the peer computes what this machine computes: one short prompt, read there and here, its
// KV and logits compared. Digests say what a peer claims to hold; this says what comes of it.
#include "relay/far_impl.h"

#include "base/num.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define N_TOKENS 24u // long enough that every layer mixes positions
#define SEED     0x74616e64656d0001u
// Two machines that run the same weights by other kernels differ in the last bits of f16 and, with
// activations of 8 bits, by 1e-3 to 1e-2 of a layer's RMS; q8_0 on the wire adds 6e-3. Other
// weights differ by about 1.
#define MAX_KV_ERROR  2e-2
#define MAX_LOGITS_KL 1e-2
// A peer that is alive and does not get to so short a prompt is of no use now.
#define WAIT_NS 60000000000u

struct td_canary {
    struct td_far *far;
    int32_t tokens[N_TOKENS];
    uint32_t n;
    struct td_session *here, *there; // computed here; fetched
    struct td_fetch *fetch;          // NULL: over
    float *logits;                   // (n_vocab) as the peer says
    uint64_t begin_ns;
};

// KV of positions of one layer in the canonical layout.
static int read_kv(const struct td_canary *y, struct td_session *s, const struct td_kv_span *where,
                   void *out, size_t size_bytes, struct td_error *err)
{
    const struct td_backend *b = y->far->cfg.backend;
    struct td_kv_span span = *where;
    span.kv = td_session_kv(s);
    struct td_kv_pin *pin;
    int code = b->kv_pin(&pin, &span, err);
    if (code) return code;
    code = b->kv_read(pin, out, size_bytes, err);
    b->kv_unpin(pin);
    return code;
}

static double value(const uint8_t *kv, bool is_f32, size_t i)
{
    float v;
    uint16_t h;
    if (!is_f32) {
        memcpy(&h, kv + 2 * i, sizeof(h));
        return (double)td_f32_of_f16(h);
    }
    memcpy(&v, kv + 4 * i, sizeof(v));
    return (double)v;
}

// Relative RMS difference of one layer's KV.
static int compare_layer(const struct td_canary *y, uint32_t layer, double *out,
                         struct td_error *err)
{
    const struct td_kv_layer *l = &td_engine_model(y->far->cfg.engine)->spec.kv[layer];
    // What a sliding-window layer still holds on both sides.
    const uint32_t pos0 = l->window && y->n > l->window ? y->n - l->window : 0;
    *out = 0;
    if (pos0 + 1 >= y->n) return TD_OK;
    const struct td_kv_span span = {.layer = layer, .pos0 = pos0, .n = y->n - 1 - pos0};
    const bool is_f32 = y->far->cfg.engine_kv_type == TD_F32;
    const size_t n_values = (size_t)2 * span.n * l->n_kv_heads * l->head_dim;
    const size_t size_bytes = n_values * (is_f32 ? 4 : 2);
    uint8_t *both = malloc(2 * size_bytes);
    if (!both) return td_fail(err, TD_ENOMEM, "no memory for the canary");
    int code = read_kv(y, y->here, &span, both, size_bytes, err);
    if (!code) code = read_kv(y, y->there, &span, both + size_bytes, size_bytes, err);
    double sum = 0, difference = 0;
    for (size_t i = 0; !code && i < n_values; i++) {
        const double a = value(both, is_f32, i), b = value(both + size_bytes, is_f32, i);
        sum += a * a;
        difference += (a - b) * (a - b);
    }
    free(both);
    if (!code) *out = difference == 0 ? 0 : sqrt(difference / sum);
    return code;
}

static double log_sum_exp(const float *x, uint32_t n)
{
    double most = (double)x[0], sum = 0;
    for (uint32_t i = 1; i < n; i++) most = fmax(most, (double)x[i]);
    for (uint32_t i = 0; i < n; i++) sum += exp((double)x[i] - most);
    return most + log(sum);
}

// Nats from here to there; not a number when theirs are none.
static double divergence(const float *here, const float *there, uint32_t n)
{
    const double norm_here = log_sum_exp(here, n), norm_there = log_sum_exp(there, n);
    double kl = 0;
    for (uint32_t i = 0; i < n; i++) {
        const double p = (double)here[i] - norm_here, q = (double)there[i] - norm_there;
        kl += exp(p) * (p - q);
    }
    return kl;
}

static int compare(struct td_canary *y, struct td_error *err)
{
    struct td_far *far = y->far;
    const struct td_spec *spec = &td_engine_model(far->cfg.engine)->spec;
    double worst = -1;
    uint32_t i_worst = 0;
    for (uint32_t il = 0; il < spec->n_layers; il++) {
        double e;
        const int code = compare_layer(y, il, &e, err);
        if (code) return code;
        if (e <= worst) continue; // not so for what is no number
        worst = e;
        i_worst = il;
        if (isnan(e)) break;
    }
    far->canary_kv_error = worst;
    far->canary_logits_kl = divergence(td_session_logits(y->here), y->logits, spec->n_vocab);
    // Weights that are known to differ, and allowed to, give other numbers; but numbers.
    const bool may_differ = far->conn->weights_differ;
    if (may_differ ? !isfinite(worst) : !(worst <= MAX_KV_ERROR))
        return td_fail(err, TD_EARG,
                       "%s does not compute what this machine does: KV of layer %u is off by %.2g",
                       far->cfg.where, i_worst, worst);
    if (may_differ ? !isfinite(far->canary_logits_kl) : !(far->canary_logits_kl <= MAX_LOGITS_KL))
        return td_fail(err, TD_EARG,
                       "%s does not compute what this machine does: logits are off by %.2g nats",
                       far->cfg.where, far->canary_logits_kl);
    return TD_OK;
}

int td_canary_begin(struct td_canary **out, struct td_far *far, struct td_error *err)
{
    *out = NULL;
    struct td_canary *y = calloc(1, sizeof(*y));
    if (!y) return td_fail(err, TD_ENOMEM, "no memory for the canary");
    y->far = far;
    y->n = td_min_u32(N_TOKENS, far->conn->welcome.max_tokens);
    y->begin_ns = td_clock_ns();
    const uint32_t n_vocab = td_engine_model(far->cfg.engine)->spec.n_vocab;
    struct td_rng rng = {SEED};
    for (uint32_t i = 0; i < y->n; i++) y->tokens[i] = (int32_t)(td_rng_u64(&rng) % n_vocab);
    int code = td_session_open(&y->here, far->cfg.engine, y->n, err);
    if (!code) code = td_session_open(&y->there, far->cfg.engine, y->n, err);
    y->logits = malloc(n_vocab * sizeof(*y->logits));
    if (!code && !y->logits) code = td_fail(err, TD_ENOMEM, "no memory for the canary");
    if (!code) td_session_isolate(y->here);
    if (!code) td_session_isolate(y->there);
    // Asked for before it is wanted here: nothing of it is known yet.
    if (!code) code = td_fetch_ask(&y->fetch, far, y->there, y->tokens, y->n, y->logits, err);
    if (!code) code = td_session_want(y->here, y->tokens, y->n, NULL, 0, err);
    if (code)
        td_canary_end(y);
    else
        *out = y;
    return code;
}

// What the peer sent is whole: whether it is all there.
static int end_fetch(struct td_canary *y, struct td_error *err)
{
    struct td_recv_report in;
    td_recv_report(y->fetch->recv, &in);
    const int code = y->fetch->code;
    td_fetch_end(y->fetch);
    y->fetch = NULL;
    if (code) return code;
    if (in.n_logits != td_engine_model(y->far->cfg.engine)->spec.n_vocab)
        return td_fail(err, TD_EFORMAT, "%s sent no logits with the canary", y->far->cfg.where);
    return TD_OK;
}

bool td_canary_poll(struct td_canary *y, int *code, struct td_error *err)
{
    *code = TD_OK;
    const bool is_late = td_clock_ns() - y->begin_ns > WAIT_NS;
    if (y->fetch && td_fetch_poll(y->fetch, 0, err) != TD_FETCH_RUNNING) *code = end_fetch(y, err);
    if (!*code && is_late)
        *code = td_fail(err, TD_EFULL, "%s does not get to the canary", y->far->cfg.where);
    const enum td_session_state here = td_session_state(y->here);
    if (!*code && here == TD_SESSION_IDLE) // a step failed, for whatever reason
        *code = td_session_want(y->here, y->tokens, y->n, NULL, 0, err);
    if (*code) return true;
    if (y->fetch || here != TD_SESSION_READY) return false;
    *code = compare(y, err);
    y->far->canary_seconds = (double)(td_clock_ns() - y->begin_ns) / 1e9;
    return true;
}

bool td_canary_wants_step(const struct td_canary *y)
{
    return td_session_state(y->here) == TD_SESSION_PREFILLING;
}

void td_canary_end(struct td_canary *y)
{
    if (!y) return;
    td_fetch_end(y->fetch);
    td_session_close(y->here);
    td_session_close(y->there);
    free(y->logits);
    free(y);
}
