// SPDX-License-Identifier: MIT
// The gpt-oss equations of docs/MODELS.md, as plainly as C allows. Not for speed.
#include "reference/ref_gptoss.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct ref_gptoss {
    const struct td_gguf *g;
    uint32_t n_layers, n_embd, n_heads, n_kv, hd, n_ff, n_experts, k, window, n_vocab;
    double eps, base, factor, orig_ctx;
    double **tensors; // (n_tensors of g), expanded when first asked for
};

static void *must(void *p)
{
    if (!p) {
        fprintf(stderr, "reference: no memory\n");
        exit(1); // NOLINT(concurrency-mt-unsafe)
    }
    return p;
}

static double *zeros(size_t n)
{
    return must(calloc(n ? n : 1, sizeof(double)));
}

// --- numbers ----------------------------------------------------------------------------------

static double half(const uint8_t *p)
{
    const unsigned u = p[0] | (unsigned)p[1] << 8;
    const int exponent = (int)(u >> 10 & 31);
    const double m = u & 1023;
    double v = exponent ? ldexp(1024 + m, exponent - 25) : ldexp(m, -24);
    if (exponent == 31) v = m != 0 ? nan("") : HUGE_VAL;
    return u >> 15 ? -v : v;
}

static double single(uint32_t u)
{
    float f;
    memcpy(&f, &u, 4);
    return (double)f;
}

static uint32_t u32_at(const uint8_t *p)
{
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

// Element i of a tensor, by GGUF type number.
static double element(const uint8_t *data, uint32_t type, uint64_t i)
{
    static const double e2m1[8] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
    if (type == 0) return single(u32_at(data + 4 * i));
    if (type == 1) return half(data + 2 * i);
    if (type == 30) return single((uint32_t)(data[2 * i] | data[2 * i + 1] << 8) << 16);
    const uint64_t block = i / 32, j = i % 32;
    if (type == 8) {
        const uint8_t *b = data + block * 34;
        return half(b) * (int8_t)b[2 + j];
    }
    if (type == 39) {
        const uint8_t *b = data + block * 17;
        const unsigned code = j < 16 ? b[1 + j] & 15 : b[1 + j - 16] >> 4;
        const double v = ldexp(e2m1[code & 7], b[0] - 127);
        return code & 8 ? -v : v;
    }
    fprintf(stderr, "reference: tensor type %u\n", type);
    exit(1); // NOLINT(concurrency-mt-unsafe)
}

static const double *tensor(const struct ref_gptoss *m, const char *fmt, ...)
{
    char name[96];
    va_list args;
    va_start(args, fmt);
    vsnprintf(name, sizeof(name), fmt, args);
    va_end(args);
    for (uint32_t i = 0; i < td_gguf_n_tensors(m->g); i++) {
        const struct td_gguf_tensor *t = td_gguf_tensor_at(m->g, i);
        if (strcmp(t->name, name) != 0) continue;
        if (m->tensors[i]) return m->tensors[i];
        uint64_t n = 1;
        for (uint32_t k = 0; k < t->n_dims; k++) n *= t->dim[k];
        m->tensors[i] = zeros(n);
        for (uint64_t k = 0; k < n; k++) m->tensors[i][k] = element(t->data, t->type, k);
        return m->tensors[i];
    }
    return NULL;
}

static bool number(const struct td_gguf *g, const char *key, uint32_t *out)
{
    char name[96];
    snprintf(name, sizeof(name), "gpt-oss.%s", key);
    if (td_gguf_u32(g, name, out, NULL) == TD_OK) return true;
    fprintf(stderr, "reference: key %s\n", name);
    return false;
}

static double real(const struct td_gguf *g, const char *key, double otherwise)
{
    char name[96];
    float v = 0;
    snprintf(name, sizeof(name), "gpt-oss.%s", key);
    return td_gguf_f32(g, name, &v, NULL) == TD_OK ? (double)v : otherwise;
}

struct ref_gptoss *ref_gptoss_open(const struct td_gguf *g)
{
    struct ref_gptoss *m = must(calloc(1, sizeof(*m)));
    m->g = g;
    m->tensors = must(calloc(td_gguf_n_tensors(g) + 1, sizeof(*m->tensors)));
    uint32_t orig = 4096;
    const bool ok =
        number(g, "block_count", &m->n_layers) && number(g, "embedding_length", &m->n_embd) &&
        number(g, "attention.head_count", &m->n_heads) &&
        number(g, "attention.head_count_kv", &m->n_kv) &&
        number(g, "attention.key_length", &m->hd) &&
        number(g, "expert_feed_forward_length", &m->n_ff) &&
        number(g, "expert_count", &m->n_experts) && number(g, "expert_used_count", &m->k) &&
        number(g, "attention.sliding_window", &m->window) &&
        number(g, "rope.scaling.original_context_length", &orig);
    const struct td_gguf_tensor *embd = td_gguf_find_tensor(g, "token_embd.weight");
    if (!ok || !embd) {
        ref_gptoss_close(m);
        return NULL;
    }
    m->n_vocab = (uint32_t)embd->dim[1];
    m->orig_ctx = orig;
    m->eps = real(g, "attention.layer_norm_rms_epsilon", 1e-5);
    m->base = real(g, "rope.freq_base", 150000);
    m->factor = real(g, "rope.scaling.factor", 1);
    return m;
}

void ref_gptoss_close(struct ref_gptoss *m)
{
    if (!m) return;
    for (uint32_t i = 0; i < td_gguf_n_tensors(m->g); i++) free(m->tensors[i]);
    free(m->tensors);
    free(m);
}

uint32_t ref_gptoss_n_vocab(const struct ref_gptoss *m)
{
    return m->n_vocab;
}

uint32_t ref_gptoss_n_layers(const struct ref_gptoss *m)
{
    return m->n_layers;
}

uint32_t ref_gptoss_n_experts(const struct ref_gptoss *m)
{
    return m->n_experts;
}

uint32_t ref_gptoss_top_k(const struct ref_gptoss *m)
{
    return m->k;
}

// --- the equations ----------------------------------------------------------------------------

static void rmsnorm(double *out, const double *x, const double *w, uint32_t n, double eps)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++) sum += x[i] * x[i];
    const double scale = 1 / sqrt(sum / n + eps);
    for (uint32_t i = 0; i < n; i++) out[i] = x[i] * scale * w[i];
}

static void linear(double *y, const double *w, const double *bias, const double *x, uint32_t n_in,
                   uint32_t n_out)
{
    for (uint32_t o = 0; o < n_out; o++) {
        double sum = bias ? bias[o] : 0;
        for (uint32_t i = 0; i < n_in; i++) sum += w[(size_t)o * n_in + i] * x[i];
        y[o] = sum;
    }
}

static void rope(const struct ref_gptoss *m, double *head, uint32_t pos, bool rounds)
{
    const double pi = acos(-1.0);
    const uint32_t half_dims = m->hd / 2;
    double low = half_dims * log(m->orig_ctx / (32 * 2 * pi)) / log(m->base);
    double high = half_dims * log(m->orig_ctx / (1 * 2 * pi)) / log(m->base);
    if (rounds) {
        low = floor(low);
        high = ceil(high);
    }
    if (low < 0) low = 0;
    if (high > m->hd - 1) high = m->hd - 1;
    if (high - low < 0.001) high = low + 0.001;
    const double concentration = m->factor > 1 ? 0.1 * log(m->factor) + 1 : 1;
    for (uint32_t i = 0; i < half_dims; i++) {
        const double extrapolated = 1 / pow(m->base, 2.0 * i / m->hd);
        const double interpolated = extrapolated / m->factor;
        double ramp = (i - low) / (high - low);
        ramp = ramp < 0 ? 0 : ramp > 1 ? 1 : ramp;
        const double angle = pos * (interpolated * ramp + extrapolated * (1 - ramp));
        const double c = cos(angle) * concentration, s = sin(angle) * concentration;
        const double a = head[i], b = head[i + half_dims];
        head[i] = a * c - b * s;
        head[i + half_dims] = b * c + a * s;
    }
}

// One head of one token over all keys and values it may see; the sink joins the softmax only.
// k and v are those of the head's group at position 0; the next position is `stride` further.
static void attend_head(double *out, const double *q, const double *k, const double *v, size_t hd,
                        size_t stride, const uint32_t span[2], double sink)
{
    const uint32_t first = span[0], last = span[1];
    double *s = zeros((size_t)last + 1);
    double top = sink, sum = 0;
    for (uint32_t j = first; j <= last; j++) {
        for (size_t i = 0; i < hd; i++) s[j] += q[i] * k[j * stride + i];
        s[j] /= sqrt((double)hd);
        if (s[j] > top) top = s[j];
    }
    for (uint32_t j = first; j <= last; j++) sum += exp(s[j] - top);
    sum += exp(sink - top);
    for (size_t i = 0; i < hd; i++) {
        out[i] = 0;
        for (uint32_t j = first; j <= last; j++)
            out[i] += exp(s[j] - top) / sum * v[j * stride + i];
    }
    free(s);
}

static void attention(const struct ref_gptoss *m, uint32_t il, double *x, uint32_t n_tokens,
                      bool rounds)
{
    const size_t hd = m->hd;
    const uint32_t nq = m->n_heads * m->hd, nkv = m->n_kv * m->hd;
    double *n = zeros(m->n_embd), *q = zeros((size_t)n_tokens * nq), *att = zeros(nq);
    double *k = zeros((size_t)n_tokens * nkv), *v = zeros((size_t)n_tokens * nkv);
    double *y = zeros(m->n_embd);
    for (uint32_t t = 0; t < n_tokens; t++) {
        double *qt = q + (size_t)t * nq, *kt = k + (size_t)t * nkv, *vt = v + (size_t)t * nkv;
        rmsnorm(n, x + (size_t)t * m->n_embd, tensor(m, "blk.%u.attn_norm.weight", il), m->n_embd,
                m->eps);
        linear(qt, tensor(m, "blk.%u.attn_q.weight", il), tensor(m, "blk.%u.attn_q.bias", il), n,
               m->n_embd, nq);
        linear(kt, tensor(m, "blk.%u.attn_k.weight", il), tensor(m, "blk.%u.attn_k.bias", il), n,
               m->n_embd, nkv);
        linear(vt, tensor(m, "blk.%u.attn_v.weight", il), tensor(m, "blk.%u.attn_v.bias", il), n,
               m->n_embd, nkv);
        for (uint32_t h = 0; h < m->n_heads; h++) rope(m, qt + h * hd, t, rounds);
        for (uint32_t h = 0; h < m->n_kv; h++) rope(m, kt + h * hd, t, rounds);
    }
    const double *sinks = tensor(m, "blk.%u.attn_sinks.weight", il);
    for (uint32_t t = 0; t < n_tokens; t++) {
        const bool slides = il % 2 == 0;
        const uint32_t span[2] = {slides && t + 1 > m->window ? t + 1 - m->window : 0, t};
        for (uint32_t h = 0; h < m->n_heads; h++) {
            const size_t group = h * m->n_kv / m->n_heads * hd;
            attend_head(att + h * hd, q + (size_t)t * nq + h * hd, k + group, v + group, hd, nkv,
                        span, sinks[h]);
        }
        linear(y, tensor(m, "blk.%u.attn_output.weight", il),
               tensor(m, "blk.%u.attn_output.bias", il), att, nq, m->n_embd);
        for (uint32_t i = 0; i < m->n_embd; i++) x[(size_t)t * m->n_embd + i] += y[i];
    }
    free(n), free(q), free(att), free(k), free(v), free(y);
}

// ids of the k largest, best first; of equals the lower id. Returns the gap to the next.
static double top_k(const double *r, uint32_t n, uint32_t k, int32_t *ids)
{
    double last = 0;
    for (uint32_t c = 0; c <= k && c < n; c++) {
        int32_t best = -1;
        for (uint32_t e = 0; e < n; e++) {
            bool taken = false;
            for (uint32_t i = 0; i < (c < k ? c : k); i++) taken |= ids[i] == (int32_t)e;
            if (!taken && (best < 0 || r[e] > r[best])) best = (int32_t)e;
        }
        if (c == k) return last - r[best];
        ids[c] = best;
        last = r[best];
    }
    return HUGE_VAL;
}

static double swiglu(double g, double u)
{
    if (g > 7) g = 7;
    if (u > 7) u = 7;
    if (u < -7) u = -7;
    return g / (1 + exp(-1.702 * g)) * (u + 1);
}

// Adds one chosen expert's answer, times its weight p, to x.
static void expert(const struct ref_gptoss *m, uint32_t il, uint32_t e, double p, const double *n,
                   double *x)
{
    const size_t matrix = (size_t)m->n_ff * m->n_embd;
    double *g = zeros(m->n_ff), *u = zeros(m->n_ff), *y = zeros(m->n_embd);
    linear(g, tensor(m, "blk.%u.ffn_gate_exps.weight", il) + e * matrix,
           tensor(m, "blk.%u.ffn_gate_exps.bias", il) + (size_t)e * m->n_ff, n, m->n_embd, m->n_ff);
    linear(u, tensor(m, "blk.%u.ffn_up_exps.weight", il) + e * matrix,
           tensor(m, "blk.%u.ffn_up_exps.bias", il) + (size_t)e * m->n_ff, n, m->n_embd, m->n_ff);
    for (uint32_t i = 0; i < m->n_ff; i++) g[i] = swiglu(g[i], u[i]);
    linear(y, tensor(m, "blk.%u.ffn_down_exps.weight", il) + e * matrix,
           tensor(m, "blk.%u.ffn_down_exps.bias", il) + (size_t)e * m->n_embd, g, m->n_ff,
           m->n_embd);
    for (uint32_t i = 0; i < m->n_embd; i++) x[i] += p * y[i];
    free(g), free(u), free(y);
}

// x of one token; the chosen experts and the gap to the next come out.
static double experts(const struct ref_gptoss *m, uint32_t il, double *x, int32_t *ids)
{
    double *n = zeros(m->n_embd), *r = zeros(m->n_experts), *p = zeros(m->k);
    rmsnorm(n, x, tensor(m, "blk.%u.post_attention_norm.weight", il), m->n_embd, m->eps);
    linear(r, tensor(m, "blk.%u.ffn_gate_inp.weight", il),
           tensor(m, "blk.%u.ffn_gate_inp.bias", il), n, m->n_embd, m->n_experts);
    const double gap = top_k(r, m->n_experts, m->k, ids);
    double sum = 0;
    for (uint32_t c = 0; c < m->k; c++) sum += p[c] = exp(r[ids[c]] - r[ids[0]]);
    for (uint32_t c = 0; c < m->k; c++) expert(m, il, (uint32_t)ids[c], p[c] / sum, n, x);
    free(n), free(r), free(p);
    return gap;
}

void ref_gptoss_logits(const struct ref_gptoss *m, const int32_t *tokens, uint32_t n_tokens,
                       const struct ref_options *opt, double *logits)
{
    static const struct ref_options plain = {0};
    if (!opt) opt = &plain;
    double *x = zeros((size_t)n_tokens * m->n_embd), *n = zeros(m->n_embd);
    int32_t *ids = must(calloc(m->k, sizeof(*ids)));
    const double *embd = tensor(m, "token_embd.weight");
    for (uint32_t t = 0; t < n_tokens; t++)
        memcpy(x + (size_t)t * m->n_embd, embd + (size_t)tokens[t] * m->n_embd,
               m->n_embd * sizeof(*x));
    for (uint32_t il = 0; il < m->n_layers; il++) {
        attention(m, il, x, n_tokens, opt->rounds_rope);
        for (uint32_t t = 0; t < n_tokens; t++) {
            const double gap = experts(m, il, x + (size_t)t * m->n_embd, ids);
            const size_t at = (size_t)t * m->n_layers + il;
            if (opt->gaps_out) opt->gaps_out[at] = gap;
            if (opt->experts_out) memcpy(opt->experts_out + at * m->k, ids, m->k * sizeof(*ids));
        }
    }
    const double *output = tensor(m, "output.weight");
    if (!output) output = embd;
    for (uint32_t t = 0; t < n_tokens; t++) {
        rmsnorm(n, x + (size_t)t * m->n_embd, tensor(m, "output_norm.weight"), m->n_embd, m->eps);
        linear(logits + (size_t)t * m->n_vocab, output, NULL, n, m->n_embd, m->n_vocab);
    }
    free(x), free(n), free(ids);
}
