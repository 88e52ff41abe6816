// SPDX-License-Identifier: MIT
// The parts of a training step that PyTorch on a CPU does in many passes over memory, each in one:
// attention with sinks (rotation included), the gated expert activation, RMSNorm; forward and
// backward. fused.py builds this with the machine's own instructions and loads it; model.py has
// the same in plain PyTorch, against which `fused.py` checks it.
//
// Tiles are 64 x 64: 64 queries, 64 keys, 64 numbers a head.
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define N 64
typedef float v16 __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t i16 __attribute__((vector_size(64), aligned(4), may_alias));

static inline v16 splat(float x)
{
    return (v16){x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x};
}

static inline v16 pick(i16 mask, v16 yes, v16 no)
{
    return (v16)(((i16)yes & mask) | ((i16)no & ~mask));
}
static inline v16 most(v16 a, v16 b)
{
    return pick(a > b, a, b);
}
static inline v16 least(v16 a, v16 b)
{
    return pick(a < b, a, b);
}
static inline float total(v16 a)
{
    float z = 0;
    for (int k = 0; k < 16; k++) z += a[k];
    return z;
}

// e^x for x <= 0 to about 2 ulp: 2^n times a polynomial on [-0.5, 0.5].
static inline v16 exp16(v16 x)
{
    // Below e^-60 it is 0: smaller numbers would make products that are not normal, 100 x slower.
    const i16 tiny = x < -60.0f;
    x = most(x, splat(-60.0f));
    v16 t = x * splat(1.44269504f);
    const v16 magic = splat(12582912.0f); // 1.5 * 2^23: adding it rounds to an integer
    v16 n = (t + magic) - magic;
    v16 f = (t - n) * splat(0.69314718f);
    v16 p = splat(1.0f / 720);
    p = p * f + splat(1.0f / 120);
    p = p * f + splat(1.0f / 24);
    p = p * f + splat(1.0f / 6);
    p = p * f + splat(0.5f);
    p = p * f + splat(1.0f);
    p = p * f + splat(1.0f);
    i16 e = __builtin_convertvector(n, i16) << 23;
    return (v16)(((i16)p + e) & ~tiny);
}

// c (64, 64) = or += a (64, 64) * b (64, 64); a's element (i, k) is a[i * rs + k * cs].
static inline __attribute__((always_inline)) void tile(float *restrict c, const float *a, int rs,
                                                       int cs, const float *b, int add)
{
    for (int i = 0; i < N; i += 4) {
        v16 s[4][4];
        for (int r = 0; r < 4; r++)
            for (int j = 0; j < 4; j++)
                s[r][j] = add ? *(const v16 *)(c + (i + r) * N + j * 16) : splat(0.0f);
        for (int k = 0; k < N; k++) {
            v16 y[4];
            for (int j = 0; j < 4; j++) y[j] = *(const v16 *)(b + k * N + j * 16);
            for (int r = 0; r < 4; r++) {
                v16 x = splat(a[(i + r) * rs + k * cs]);
                for (int j = 0; j < 4; j++) s[r][j] += x * y[j];
            }
        }
        for (int r = 0; r < 4; r++)
            for (int j = 0; j < 4; j++) *(v16 *)(c + (i + r) * N + j * 16) = s[r][j];
    }
}
static void mul(float *c, const float *a, const float *b, int add)
{
    if (add)
        tile(c, a, N, 1, b, 1);
    else
        tile(c, a, N, 1, b, 0);
}
static void mul_t(float *c, const float *a, const float *b) // c += a^T b
{
    tile(c, a, 1, N, b, 1);
}
static void transpose(float *restrict d, const float *s)
{
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) d[j * N + i] = s[i * N + j];
}

struct attn {
    int n_seq, len, n_heads, n_kv, window; // window 0: all
    float scale;
    const float *cos, *sin; // (len, 32)
};

static void rotate(float *d, const float *s, const float *c, const float *n, float sign,
                   float scale)
{
    for (int i = 0; i < 32; i++) {
        float a = s[i] * scale, b = s[i + 32] * scale;
        d[i] = a * c[i] - sign * b * n[i];
        d[i + 32] = b * c[i] + sign * a * n[i];
    }
}

// Scores of one tile, masked. q rows start at i0, keys at j0; qt (64, 64), kt = keys transposed.
static void scores(float *s, const float *q, const float *kt, int i0, int j0, int window)
{
    mul(s, q, kt, 0);
    int first_i = i0, last_i = i0 + N - 1, last_j = j0 + N - 1;
    if (last_j <= first_i && (!window || j0 > last_i - window)) return;
    for (int i = 0; i < N; i++) {
        const int last = i0 + i - j0, first = window ? last - window + 1 : -N;
        for (int j = last + 1 < 0 ? 0 : last + 1; j < N; j++) s[i * N + j] = -1e30f;
        for (int j = 0; j < first && j < N; j++) s[i * N + j] = -1e30f;
    }
}

static int first_block(int i0, int window)
{
    int lo = window ? i0 - window + 1 : 0;
    return lo < 0 ? 0 : lo / N;
}

static float *take(float **pool, size_t n)
{
    float *p = *pool;
    *pool += n;
    return p;
}

// qkv (n_seq, len, (n_heads + 2 n_kv) * 64); y (n_seq, len, n_heads * 64); lse (n_seq, n_heads,
// len)
void attn_forward(const struct attn *a, const float *qkv, const float *sinks, float *y, float *lse)
{
    const int L = a->len, nb = (L + N - 1) / N, G = a->n_heads / a->n_kv;
    const int row = (a->n_heads + 2 * a->n_kv) * N;
    const size_t S = (size_t)nb * N * N;
#pragma omp parallel
    {
        float *mem = aligned_alloc(64, (2 * S + 4 * N * N) * sizeof(float));
#pragma omp for collapse(2) schedule(dynamic)
        for (int b = 0; b < a->n_seq; b++)
            for (int kv = 0; kv < a->n_kv; kv++) {
                float *pool = mem;
                float *kt = take(&pool, S), *v = take(&pool, S);
                float *q = take(&pool, N * N), *s = take(&pool, N * N), *o = take(&pool, N * N);
                float *tmp = take(&pool, N * N);
                const float *base = qkv + (size_t)b * L * row;
                for (int j = 0; j < nb; j++) {
                    memset(tmp, 0, N * N * sizeof(float));
                    memset(v + j * N * N, 0, N * N * sizeof(float));
                    for (int t = 0; t < N && j * N + t < L; t++) {
                        int p = j * N + t;
                        const float *src = base + (size_t)p * row;
                        rotate(tmp + t * N, src + (a->n_heads + kv) * N, a->cos + p * 32,
                               a->sin + p * 32, 1, 1);
                        memcpy(v + p * N, src + (a->n_heads + a->n_kv + kv) * N, N * sizeof(float));
                    }
                    transpose(kt + j * N * N, tmp);
                }
                for (int h = kv * G; h < (kv + 1) * G; h++)
                    for (int ib = 0; ib < nb; ib++) {
                        float m[N], l[N];
                        memset(q, 0, N * N * sizeof(float));
                        memset(o, 0, N * N * sizeof(float));
                        for (int t = 0; t < N && ib * N + t < L; t++) {
                            int p = ib * N + t;
                            rotate(q + t * N, base + (size_t)p * row + h * N, a->cos + p * 32,
                                   a->sin + p * 32, 1, a->scale);
                        }
                        for (int t = 0; t < N; t++) m[t] = sinks[h], l[t] = 1;
                        for (int j = first_block(ib * N, a->window); j <= ib; j++) {
                            scores(s, q, kt + j * N * N, ib * N, j * N, a->window);
                            for (int t = 0; t < N; t++) {
                                float *r = s + t * N, mx = m[t];
                                v16 top = *(v16 *)r;
                                for (int k = 16; k < N; k += 16) top = most(top, *(v16 *)(r + k));
                                for (int k = 0; k < 16; k++) mx = top[k] > mx ? top[k] : mx;
                                float f = expf(m[t] - mx);
                                v16 sum = splat(0), M = splat(mx);
                                for (int k = 0; k < N; k += 16) {
                                    v16 e = exp16(*(v16 *)(r + k) - M);
                                    *(v16 *)(r + k) = e;
                                    sum += e;
                                }
                                l[t] = l[t] * f + total(sum);
                                m[t] = mx;
                                if (f != 1)
                                    for (int k = 0; k < N; k++) o[t * N + k] *= f;
                            }
                            mul(o, s, v + j * N * N, 1);
                        }
                        for (int t = 0; t < N && ib * N + t < L; t++) {
                            int p = ib * N + t;
                            float *dst = y + ((size_t)b * L + p) * a->n_heads * N + h * N;
                            for (int k = 0; k < N; k++) dst[k] = o[t * N + k] / l[t];
                            lse[((size_t)b * a->n_heads + h) * L + p] = m[t] + logf(l[t]);
                        }
                    }
            }
        free(mem);
    }
}

// dqkv like qkv, written; dsinks (n_seq, n_heads), written.
void attn_backward(const struct attn *a, const float *qkv, const float *sinks, const float *y,
                   const float *lse, const float *dy, float *dqkv, float *dsinks)
{
    const int L = a->len, nb = (L + N - 1) / N, G = a->n_heads / a->n_kv;
    const int row = (a->n_heads + 2 * a->n_kv) * N;
    const size_t S = (size_t)nb * N * N;
#pragma omp parallel
    {
        float *mem = aligned_alloc(64, (6 * S + 6 * N * N) * sizeof(float));
#pragma omp for collapse(2) schedule(dynamic)
        for (int b = 0; b < a->n_seq; b++)
            for (int kv = 0; kv < a->n_kv; kv++) {
                float *pool = mem;
                float *kk = take(&pool, S), *kt = take(&pool, S), *vt = take(&pool, S);
                float *dk = take(&pool, S), *dv = take(&pool, S);
                float *q = take(&pool, N * N), *s = take(&pool, N * N), *dp = take(&pool, N * N);
                float *dq = take(&pool, N * N), *go = take(&pool, N * N), *tmp = take(&pool, N * N);
                const float *base = qkv + (size_t)b * L * row;
                float *dbase = dqkv + (size_t)b * L * row;
                memset(kk, 0, S * sizeof(float));
                memset(dk, 0, 2 * S * sizeof(float));
                for (int j = 0; j < nb; j++) {
                    memset(tmp, 0, N * N * sizeof(float));
                    for (int t = 0; t < N && j * N + t < L; t++) {
                        int p = j * N + t;
                        const float *src = base + (size_t)p * row;
                        rotate(kk + p * N, src + (a->n_heads + kv) * N, a->cos + p * 32,
                               a->sin + p * 32, 1, 1);
                        memcpy(tmp + t * N, src + (a->n_heads + a->n_kv + kv) * N,
                               N * sizeof(float));
                    }
                    transpose(vt + j * N * N, tmp);
                    transpose(kt + j * N * N, kk + j * N * N);
                }
                for (int h = kv * G; h < (kv + 1) * G; h++) {
                    double ds = 0;
                    for (int ib = 0; ib < nb; ib++) {
                        float D[N], Z[N];
                        memset(q, 0, N * N * sizeof(float));
                        memset(go, 0, N * N * sizeof(float));
                        memset(dq, 0, N * N * sizeof(float));
                        for (int t = 0; t < N; t++) {
                            int p = ib * N + t;
                            D[t] = 0, Z[t] = 1e30f; // rows past the end get probability 0
                            if (p >= L) continue;
                            rotate(q + t * N, base + (size_t)p * row + h * N, a->cos + p * 32,
                                   a->sin + p * 32, 1, a->scale);
                            size_t at = ((size_t)b * L + p) * a->n_heads * N + h * N;
                            memcpy(go + t * N, dy + at, N * sizeof(float));
                            v16 d = splat(0);
                            for (int k = 0; k < N; k += 16)
                                d += *(const v16 *)(dy + at + k) * *(const v16 *)(y + at + k);
                            D[t] = total(d);
                            Z[t] = lse[((size_t)b * a->n_heads + h) * L + p];
                            ds -= (double)(expf(sinks[h] - Z[t]) * D[t]);
                        }
                        for (int j = first_block(ib * N, a->window); j <= ib; j++) {
                            scores(s, q, kt + j * N * N, ib * N, j * N, a->window);
                            mul(dp, go, vt + j * N * N, 0);
                            for (int t = 0; t < N; t++)
                                for (int k = 0; k < N; k += 16) {
                                    v16 e = exp16(*(v16 *)(s + t * N + k) - splat(Z[t]));
                                    *(v16 *)(s + t * N + k) = e;
                                    *(v16 *)(dp + t * N + k) =
                                        e * (*(v16 *)(dp + t * N + k) - splat(D[t]));
                                }
                            mul_t(dv + j * N * N, s, go);
                            mul_t(dk + j * N * N, dp, q);
                            mul(dq, dp, kk + j * N * N, 1);
                        }
                        for (int t = 0; t < N && ib * N + t < L; t++) {
                            int p = ib * N + t;
                            rotate(dbase + (size_t)p * row + h * N, dq + t * N, a->cos + p * 32,
                                   a->sin + p * 32, -1, a->scale);
                        }
                    }
                    dsinks[b * a->n_heads + h] = (float)ds;
                }
                for (int p = 0; p < L; p++) {
                    float *dst = dbase + (size_t)p * row;
                    rotate(dst + (a->n_heads + kv) * N, dk + p * N, a->cos + p * 32,
                           a->sin + p * 32, -1, 1);
                    memcpy(dst + (a->n_heads + a->n_kv + kv) * N, dv + p * N, N * sizeof(float));
                }
            }
        free(mem);
    }
}

#define ALPHA 1.702f
#define LIMIT 7.0f

static inline v16 sigmoid(v16 x)
{
    // By e^-|x|, so that the power is never above 1.
    i16 positive = x > 0.0f;
    v16 e = exp16(pick(positive, -x, x));
    return pick(positive, splat(1), e) / (e + 1.0f);
}

// h (n, 2, n_experts, ff): gates then ups; w (n, n_experts), 0 where not chosen; y (n, n_experts,
// ff)
void swiglu_forward(int n, int n_experts, int ff, const float *h, const float *w, float *y)
{
#pragma omp parallel for
    for (int t = 0; t < n; t++)
        for (int e = 0; e < n_experts; e++) {
            const float *g = h + ((size_t)t * 2 * n_experts + e) * ff, *u = g + n_experts * ff;
            float *o = y + ((size_t)t * n_experts + e) * ff;
            const float we = w[t * n_experts + e];
            if (we == 0) {
                memset(o, 0, ff * sizeof(float));
                continue;
            }
            for (int i = 0; i < ff; i += 16) {
                v16 x = *(const v16 *)(g + i), z = *(const v16 *)(u + i);
                x = least(x, splat(LIMIT));
                z = most(least(z, splat(LIMIT)), splat(-LIMIT));
                v16 s = sigmoid(x * ALPHA);
                *(v16 *)(o + i) = x * s * (z + 1.0f) * we;
            }
        }
}

void swiglu_backward(int n, int n_experts, int ff, const float *h, const float *w, const float *dy,
                     float *dh, float *dw)
{
#pragma omp parallel for
    for (int t = 0; t < n; t++)
        for (int e = 0; e < n_experts; e++) {
            const size_t at = ((size_t)t * 2 * n_experts + e) * ff;
            const float *g = h + at, *u = g + n_experts * ff;
            float *dg = dh + at, *du = dg + n_experts * ff;
            const float *d = dy + ((size_t)t * n_experts + e) * ff;
            const float we = w[t * n_experts + e];
            dw[t * n_experts + e] = 0;
            if (we == 0) {
                memset(dg, 0, ff * sizeof(float));
                memset(du, 0, ff * sizeof(float));
                continue;
            }
            v16 sum = splat(0);
            for (int i = 0; i < ff; i += 16) {
                v16 x0 = *(const v16 *)(g + i), z0 = *(const v16 *)(u + i),
                    k = *(const v16 *)(d + i);
                v16 x = least(x0, splat(LIMIT));
                v16 z = most(least(z0, splat(LIMIT)), splat(-LIMIT));
                v16 s = sigmoid(x * ALPHA);
                v16 xs = x * s;
                sum += k * xs * (z + 1.0f);
                k *= splat(we);
                v16 a = k * (z + 1.0f) * (s + ALPHA * xs * (1.0f - s));
                v16 c = k * xs;
                *(v16 *)(dg + i) = pick(x0 > LIMIT, splat(0), a);
                *(v16 *)(du + i) = pick(z == z0, c, splat(0));
            }
            dw[t * n_experts + e] = total(sum);
        }
}

// y = x / rms(x) * g; r (n) keeps 1 / rms.
void norm_forward(int n, int d, const float *x, const float *g, float *y, float *r)
{
#pragma omp parallel for
    for (int t = 0; t < n; t++) {
        const float *a = x + (size_t)t * d;
        v16 sum = splat(0);
        for (int i = 0; i < d; i += 16) sum += *(const v16 *)(a + i) * *(const v16 *)(a + i);
        const float z = r[t] = 1 / sqrtf(total(sum) / (float)d + 1e-5f);
        for (int i = 0; i < d; i++) y[(size_t)t * d + i] = a[i] * z * g[i];
    }
}

void norm_backward(int n, int d, const float *x, const float *g, const float *r, const float *dy,
                   float *dx, float *dg)
{
    memset(dg, 0, (size_t)d * sizeof(float));
#pragma omp parallel
    {
        float *mine = calloc((size_t)d, sizeof(float));
#pragma omp for
        for (int t = 0; t < n; t++) {
            const float *a = x + (size_t)t * d, *k = dy + (size_t)t * d;
            v16 sum = splat(0);
            for (int i = 0; i < d; i += 16)
                sum += *(const v16 *)(a + i) * *(const v16 *)(k + i) * *(const v16 *)(g + i);
            const float rt = r[t], z = total(sum) * rt * rt / (float)d;
            for (int i = 0; i < d; i++) {
                mine[i] += k[i] * a[i] * rt;
                dx[(size_t)t * d + i] = rt * (k[i] * g[i] - a[i] * z);
            }
        }
#pragma omp critical
        for (int i = 0; i < d; i++) dg[i] += mine[i];
        free(mine);
    }
}
