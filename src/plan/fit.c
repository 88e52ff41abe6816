// SPDX-License-Identifier: MIT
// The most likely rates, given measurements. With f the formula in logarithms, x a sample's rates
// and g = df/dx, a sample says y = log(seconds) - f(x) + g.(x - mean) = g.(effects) + noise.
// Effects are normal, so y is normal with covariance K: K_ij = sum over rates of g_i g_j k_ij, k_ij
// the variance of the effects that i and j share. Then effects = k g K^-1 y, and x follows, and g
// anew. Samples far from what the others say count less (Student's t with 4 degrees of freedom).
#include "plan/fit.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define N_STEPS      12
#define STEP         1e-4 // of a logarithm, to differentiate
#define FREEDOM      4.0
#define LEAST_GROUPS 10 // that can say how wide an interval must be, left out in turn

// Of a normal distribution.
static const struct td_plan_width usual_width = {0, 1.645, 1.645};

// What is left out to learn how wide an interval must be with some evidence, and what must still
// be there.
static const struct {
    enum td_plan_level out, left;
} evidences[TD_PLAN_N_EVIDENCES] = {
    [TD_PLAN_KNOWN] = {TD_PLAN_MODEL, TD_PLAN_BACKEND},
    [TD_PLAN_OTHER_PROGRAM] = {TD_PLAN_BACKEND, TD_PLAN_DEVICE},
    [TD_PLAN_NEW_MACHINE] = {TD_PLAN_DEVICE, TD_PLAN_ALL},
};

struct td_plan_fit {
    struct td_plan_prior prior;
    double variance[TD_PLAN_N_LEVELS][TD_PLAN_N_RATES]; // squares of the prior's spreads
    uint32_t n;
    struct td_plan_sample *samples;
    double (*slope)[TD_PLAN_N_RATES]; // g
    double *lower;                    // (n, n) Cholesky factor of K, row-major, lower part
    double *alpha;                    // K^-1 y
    struct td_plan_width width[TD_PLAN_N_EVIDENCES][TD_PLAN_N_CLASSES];
    double (*shares)[TD_PLAN_N_RATES]; // n: room of td_plan_fit_belief
};

// Variances that two contexts share, by rate.
static void shared_variance(double out[TD_PLAN_N_RATES], const struct td_plan_fit *fit,
                            const struct td_plan_context *a, const struct td_plan_context *b)
{
    for (int r = 0; r < TD_PLAN_N_RATES; r++) out[r] = 0;
    for (int l = 0; l < TD_PLAN_N_LEVELS; l++) {
        if (a->id[l] == 0 || a->id[l] != b->id[l]) continue;
        for (int r = 0; r < TD_PLAN_N_RATES; r++) out[r] += fit->variance[l][r];
    }
}

// log(seconds) at rates, and its slope by each rate.
static double log_time(double slope[TD_PLAN_N_RATES], const struct td_plan_cost *cost,
                       const struct td_plan_device *device, const struct td_plan_rates *rates,
                       const struct td_plan_test *test)
{
    struct td_plan_rates x = *rates;
    for (int r = 0; r < TD_PLAN_N_RATES; r++) {
        x.log[r] = rates->log[r] + STEP;
        const double up = log(td_plan_test_time(NULL, cost, device, &x, test));
        x.log[r] = rates->log[r] - STEP;
        const double down = log(td_plan_test_time(NULL, cost, device, &x, test));
        x.log[r] = rates->log[r];
        slope[r] = (up - down) / (2 * STEP);
    }
    return log(td_plan_test_time(NULL, cost, device, rates, test));
}

static double noise_of(const struct td_plan_prior *prior, const struct td_plan_test *test)
{
    return test->is_prefill ? prior->noise_prefill : prior->noise_decode;
}

static double sample_noise(const struct td_plan_prior *prior, const struct td_plan_sample *s)
{
    return s->noise > 0 ? s->noise : noise_of(prior, &s->test);
}

// In place; a is positive definite by construction (noise on the diagonal).
static void cholesky(double *a, uint32_t n)
{
    for (uint32_t j = 0; j < n; j++) {
        double *row_j = a + (size_t)j * n;
        for (uint32_t i = j; i < n; i++) {
            double *row_i = a + (size_t)i * n;
            // Four sums, so that the additions do not wait for each other.
            double s[4] = {0};
            uint32_t k = 0;
            for (; k + 4 <= j; k += 4)
                for (uint32_t u = 0; u < 4; u++) s[u] += row_i[k + u] * row_j[k + u];
            for (; k < j; k++) s[0] += row_i[k] * row_j[k];
            const double rest = row_i[j] - ((s[0] + s[1]) + (s[2] + s[3]));
            row_i[j] = i == j ? sqrt(fmax(rest, 1e-12)) : rest / row_j[j];
        }
    }
}

// x = L^-1 x
static void solve_lower(const double *l, uint32_t n, double *x)
{
    for (uint32_t i = 0; i < n; i++) {
        double s = x[i];
        for (uint32_t k = 0; k < i; k++) s -= l[(size_t)i * n + k] * x[k];
        x[i] = s / l[(size_t)i * n + i];
    }
}

// x = L^-T x
static void solve_upper(const double *l, uint32_t n, double *x)
{
    for (uint32_t i = n; i-- > 0;) {
        x[i] /= l[(size_t)i * n + i];
        for (uint32_t k = 0; k < i; k++) x[k] -= l[(size_t)i * n + k] * x[i];
    }
}

// The rates of a context, from the effects it shares with samples.
static void rates_of(struct td_plan_rates *out, const struct td_plan_fit *fit,
                     const struct td_plan_context *context)
{
    double shared[TD_PLAN_N_RATES];
    memcpy(out->log, fit->prior.mean, sizeof(out->log));
    for (uint32_t j = 0; j < fit->n; j++) {
        shared_variance(shared, fit, context, &fit->samples[j].context);
        for (int r = 0; r < TD_PLAN_N_RATES; r++)
            out->log[r] += shared[r] * fit->slope[j][r] * fit->alpha[j];
    }
}

// K and y of the samples' present rates, factored and solved.
static void solve(struct td_plan_fit *fit)
{
    const uint32_t n = fit->n;
    double shared[TD_PLAN_N_RATES];
    for (uint32_t i = 0; i < n; i++) {
        struct td_plan_sample *s = &fit->samples[i];
        double y =
            log(s->seconds) - log_time(fit->slope[i], &s->cost, &s->device, &s->rates, &s->test);
        for (int r = 0; r < TD_PLAN_N_RATES; r++)
            y += fit->slope[i][r] * (s->rates.log[r] - fit->prior.mean[r]);
        fit->alpha[i] = y;
        for (uint32_t j = 0; j <= i; j++) {
            double k = 0;
            shared_variance(shared, fit, &s->context, &fit->samples[j].context);
            for (int r = 0; r < TD_PLAN_N_RATES; r++)
                k += shared[r] * fit->slope[i][r] * fit->slope[j][r];
            fit->lower[(size_t)i * n + j] = k;
        }
        const double noise = sample_noise(&fit->prior, s);
        fit->lower[(size_t)i * n + i] += noise * noise / s->weight;
    }
    cholesky(fit->lower, n);
    solve_lower(fit->lower, n, fit->alpha);
    solve_upper(fit->lower, n, fit->alpha);
}

// New rates and weights for every sample; returns the largest change of a logarithm.
static double improve(struct td_plan_fit *fit, double most)
{
    double largest = 0;
    for (uint32_t i = 0; i < fit->n; i++) {
        struct td_plan_sample *s = &fit->samples[i];
        struct td_plan_rates rates;
        rates_of(&rates, fit, &s->context);
        for (int r = 0; r < TD_PLAN_N_RATES; r++) {
            // A step beyond what the linearisation can know is cut.
            const double step = fmax(fmin(rates.log[r] - s->rates.log[r], most), -most);
            s->rates.log[r] += step;
            largest = fmax(largest, fabs(step));
        }
        const double off =
            log(s->seconds / td_plan_test_time(NULL, &s->cost, &s->device, &s->rates, &s->test)) /
            sample_noise(&fit->prior, s);
        s->weight = (FREEDOM + 1) / (FREEDOM + off * off);
    }
    return largest;
}

enum td_plan_class td_plan_class_of(const struct td_plan_test *test)
{
    if (!test->is_prefill) return test->batch > 1 ? TD_PLAN_CLASS_BATCHED : TD_PLAN_CLASS_DECODE;
    return fmin(test->chunk_tokens, test->n_tokens) < TD_PLAN_LARGE_CHUNK ? TD_PLAN_CLASS_SMALL
                                                                          : TD_PLAN_CLASS_PREFILL;
}

// A sample's residual log(seconds / predicted) when its group is left out, and the standard
// deviation that was foreseen.
struct left_out {
    double residual, log_sd;
    bool is_like; // what is left is the evidence that is looked for
    uint32_t group;
};

// Residuals of all members (m) of a group that is left out, from the fit of all: with P the group's
// block of K^-1 they are P^-1 alpha, and their covariance P^-1. x (n, m) and p (m, m) are room.
// Rasmussen and Williams, Gaussian Processes for Machine Learning, 5.4.2, for one left out; blocks
// alike.
static void leave_group(struct left_out *out, const struct td_plan_fit *fit,
                        const uint32_t *members, uint32_t m, double *x, double *p)
{
    const uint32_t n = fit->n;
    for (uint32_t a = 0; a < m; a++) {
        double *column = x + (size_t)a * n;
        memset(column, 0, n * sizeof(*column));
        column[members[a]] = 1;
        solve_lower(fit->lower, n, column);
    }
    for (uint32_t a = 0; a < m; a++) {
        for (uint32_t b = 0; b <= a; b++) {
            double sum = 0;
            for (uint32_t k = members[a]; k < n; k++)
                sum += x[(size_t)a * n + k] * x[(size_t)b * n + k];
            p[(size_t)a * m + b] = sum;
        }
    }
    cholesky(p, m);
    double *e = x; // the columns are not needed any more
    for (uint32_t a = 0; a < m; a++) e[a] = fit->alpha[members[a]];
    solve_lower(p, m, e);
    solve_upper(p, m, e);
    double *column = x + m;
    for (uint32_t a = 0; a < m; a++) {
        const struct td_plan_sample *s = &fit->samples[members[a]];
        memset(column, 0, m * sizeof(*column));
        column[a] = 1;
        solve_lower(p, m, column);
        double variance = 0;
        for (uint32_t k = 0; k < m; k++) variance += column[k] * column[k];
        // A new measurement has the usual noise, not that of one that is hardly believed.
        const double noise = sample_noise(&fit->prior, s);
        variance += noise * noise - noise * noise / s->weight;
        out[members[a]].residual = e[a];
        out[members[a]].log_sd = sqrt(fmax(variance, noise * noise));
    }
}

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

double td_plan_width_scale(const struct td_plan_width *width, double log_sd)
{
    return sqrt(log_sd * log_sd + width->floor * width->floor);
}

static uint32_t count_groups(const struct left_out *left, uint32_t n)
{
    uint32_t n_groups = 0;
    for (uint32_t i = 0; i < n; i++) {
        bool is_new = true;
        for (uint32_t j = 0; j < i && is_new; j++) is_new = left[j].group != left[i].group;
        n_groups += is_new;
    }
    return n_groups;
}

// What holds nine tenths of the residuals (n), counted as if the next one were among them, and
// leaves as many out on either side (conformal prediction). sorted (n) is room.
static struct td_plan_width width_of(const struct left_out *left, uint32_t n, double floor_sd,
                                     double *sorted)
{
    struct td_plan_width w = {.floor = floor_sd};
    for (uint32_t i = 0; i < n; i++)
        sorted[i] = left[i].residual / td_plan_width_scale(&w, left[i].log_sd);
    qsort(sorted, n, sizeof(*sorted), by_size);
    const uint32_t n_inside = (uint32_t)fmin(ceil(0.9 * (n + 1)), n);
    const uint32_t n_faster = (n - n_inside) / 2;
    // The prediction itself always lies inside.
    w.faster = fmax(-sorted[n_faster], 0);
    w.slower = fmax(sorted[n_faster + n_inside - 1], 0);
    return w;
}

// Mean width, and 2 / (1 - 0.9) times what lies outside: least for an interval of the right width
// where it should be (Gneiting and Raftery, JASA 102, 2007).
static double score_of(const struct td_plan_width *w, const struct left_out *left, uint32_t n)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        const double scale = td_plan_width_scale(w, left[i].log_sd);
        const double low = -w->faster * scale, high = w->slower * scale, at = left[i].residual;
        sum += high - low + 20 * fmax(fmax(low - at, at - high), 0);
    }
    return sum / n;
}

// The width of some classes, with the floor that scores best. Of few groups: otherwise. some and
// sorted (n of the fit each) are room.
static struct td_plan_width find_width(const struct td_plan_fit *fit, const struct left_out *left,
                                       unsigned classes, struct td_plan_width otherwise,
                                       struct left_out *some, double *sorted)
{
    static const double floors[] = {0, 0.05, 0.1, 0.2};
    uint32_t n = 0;
    for (uint32_t i = 0; i < fit->n; i++)
        if (left[i].is_like && classes >> td_plan_class_of(&fit->samples[i].test) & 1)
            some[n++] = left[i];
    if (count_groups(some, n) < LEAST_GROUPS) return otherwise;
    struct td_plan_width best = otherwise;
    double least = HUGE_VAL;
    for (size_t k = 0; k < sizeof(floors) / sizeof(floors[0]); k++) {
        const struct td_plan_width w = width_of(some, n, floors[k], sorted);
        const double score = score_of(&w, some, n);
        if (score >= least) continue;
        least = score;
        best = w;
    }
    return best;
}

// A class of few groups has the width of its kind, reading or writing.
static void find_widths(struct td_plan_width *out, const struct td_plan_fit *fit,
                        const struct left_out *left, struct left_out *some, double *sorted)
{
    for (unsigned c = 0; c < TD_PLAN_N_CLASSES; c++) {
        const unsigned kind = c == TD_PLAN_CLASS_PREFILL || c == TD_PLAN_CLASS_SMALL
                                  ? 1u << TD_PLAN_CLASS_PREFILL | 1u << TD_PLAN_CLASS_SMALL
                                  : 1u << TD_PLAN_CLASS_DECODE | 1u << TD_PLAN_CLASS_BATCHED;
        const struct td_plan_width of_kind = find_width(fit, left, kind, usual_width, some, sorted);
        out[c] = find_width(fit, left, 1u << c, of_kind, some, sorted);
    }
}

// Whether a sample is left that shares a level with sample i but not another one.
static bool has_like(const struct td_plan_fit *fit, uint32_t i, enum td_plan_level shared,
                     enum td_plan_level other)
{
    const uint32_t *id = fit->samples[i].context.id;
    for (uint32_t j = 0; j < fit->n; j++) {
        const uint32_t *his = fit->samples[j].context.id;
        if (id[shared] && his[shared] == id[shared] && his[other] != id[other]) return true;
    }
    return false;
}

// Leaves every group of a kind of evidence out in turn. members, x and p are room.
static void leave_groups(struct left_out *left, const struct td_plan_fit *fit,
                         enum td_plan_evidence evidence, uint32_t *members, double *x, double *p)
{
    const enum td_plan_level out = evidences[evidence].out;
    for (uint32_t i = 0; i < fit->n; i++) left[i] = (struct left_out){0};
    for (uint32_t i = 0; i < fit->n; i++) {
        const uint32_t group = fit->samples[i].context.id[out];
        uint32_t m = 0;
        if (left[i].group || group == 0) continue;
        for (uint32_t j = i; j < fit->n; j++) {
            if (fit->samples[j].context.id[out] != group) continue;
            left[j].group = group;
            left[j].is_like = has_like(fit, j, evidences[evidence].left, out);
            members[m++] = j;
        }
        // One group alone leaves nothing to learn from.
        if (m < fit->n) leave_group(left, fit, members, m, x, p);
    }
}

// How wide intervals must be, by evidence and class. Fails: TD_ENOMEM.
static int calibrate_widths(struct td_plan_fit *fit, struct td_error *err)
{
    const uint32_t n = fit->n;
    struct left_out *left = malloc(2 * (size_t)n * sizeof(*left));
    double *x = malloc((size_t)n * n * sizeof(*x)), *p = malloc((size_t)n * n * sizeof(*p));
    uint32_t *members = malloc(n * sizeof(*members));
    int code = TD_OK;
    if (!left || !x || !p || !members) {
        code = td_fail(err, TD_ENOMEM, "no memory to calibrate with %u measurements", n);
        goto end;
    }
    for (int e = 0; e < TD_PLAN_N_EVIDENCES; e++) {
        leave_groups(left, fit, (enum td_plan_evidence)e, members, x, p);
        find_widths(fit->width[e], fit, left, left + n, x);
        for (uint32_t i = 0; i < n; i++)
            fit->samples[i].width[e] = fit->width[e][td_plan_class_of(&fit->samples[i].test)];
    }
end:
    free(left);
    free(x);
    free(p);
    free(members);
    return code;
}

int td_plan_fit_open(struct td_plan_fit **out, const struct td_plan_prior *prior,
                     const struct td_plan_sample *samples, uint32_t n, bool is_fitted,
                     struct td_error *err)
{
    *out = NULL;
    if (n == 0 || n > TD_PLAN_MAX_MEASUREMENTS)
        return td_fail(err, TD_EARG, "%u measurements to calibrate with: 1 to %u can be", n,
                       TD_PLAN_MAX_MEASUREMENTS);
    struct td_plan_fit *fit = calloc(1, sizeof(*fit));
    if (fit) {
        fit->prior = *prior;
        for (int r = 0; r < TD_PLAN_N_RATES; r++)
            for (int l = 0; l < TD_PLAN_N_LEVELS; l++)
                fit->variance[l][r] = prior->spread[r][l] * prior->spread[r][l];
        fit->n = n;
        fit->samples = malloc(n * sizeof(*fit->samples));
        fit->slope = malloc(n * sizeof(*fit->slope));
        fit->lower = malloc((size_t)n * n * sizeof(*fit->lower));
        fit->alpha = malloc(n * sizeof(*fit->alpha));
        fit->shares = malloc(n * sizeof(*fit->shares));
    }
    if (!fit || !fit->samples || !fit->slope || !fit->lower || !fit->alpha || !fit->shares) {
        td_plan_fit_close(fit);
        return td_fail(err, TD_ENOMEM, "no memory to calibrate with %u measurements", n);
    }
    memcpy(fit->samples, samples, n * sizeof(*fit->samples));
    for (int e = 0; e < TD_PLAN_N_EVIDENCES; e++)
        for (int c = 0; c < TD_PLAN_N_CLASSES; c++) fit->width[e][c] = usual_width;
    if (is_fitted) {
        solve(fit);
        for (uint32_t i = 0; i < n; i++)
            for (int e = 0; e < TD_PLAN_N_EVIDENCES; e++)
                if (samples[i].width[e].slower > 0)
                    fit->width[e][td_plan_class_of(&samples[i].test)] = samples[i].width[e];
    } else {
        for (uint32_t i = 0; i < n; i++) {
            memcpy(fit->samples[i].rates.log, prior->mean, sizeof(prior->mean));
            fit->samples[i].weight = 1;
        }
        // Steps that grow smaller end also where two linearisations would take turns.
        double change = 1, most = 0.8;
        for (int step = 0; step < N_STEPS && change > 0.01; step++) {
            solve(fit);
            change = improve(fit, most);
            if (step >= 3) most *= 0.6;
        }
        const int code = calibrate_widths(fit, err);
        if (code != TD_OK) {
            td_plan_fit_close(fit);
            return code;
        }
    }
    *out = fit;
    return TD_OK;
}

void td_plan_fit_close(struct td_plan_fit *fit)
{
    if (!fit) return;
    free(fit->samples);
    free(fit->slope);
    free(fit->lower);
    free(fit->alpha);
    free(fit->shares);
    free(fit);
}

const struct td_plan_sample *td_plan_fit_samples(const struct td_plan_fit *fit)
{
    return fit->samples;
}

static enum td_plan_evidence evidence_of(const struct td_plan_fit *fit,
                                         const struct td_plan_context *context)
{
    bool is_device = false;
    for (uint32_t i = 0; i < fit->n; i++) {
        const uint32_t *id = fit->samples[i].context.id;
        if (context->id[TD_PLAN_BACKEND] && id[TD_PLAN_BACKEND] == context->id[TD_PLAN_BACKEND])
            return TD_PLAN_KNOWN;
        is_device = is_device || (context->id[TD_PLAN_DEVICE] &&
                                  id[TD_PLAN_DEVICE] == context->id[TD_PLAN_DEVICE]);
    }
    return is_device ? TD_PLAN_OTHER_PROGRAM : TD_PLAN_NEW_MACHINE;
}

void td_plan_fit_belief(struct td_plan_belief *out, const struct td_plan_fit *fit,
                        const struct td_plan_context *context)
{
    double shared[TD_PLAN_N_RATES];
    *out = (struct td_plan_belief){.noise_prefill = fit->prior.noise_prefill,
                                   .noise_decode = fit->prior.noise_decode};
    out->evidence = evidence_of(fit, context);
    memcpy(out->width, fit->width[out->evidence], sizeof(out->width));
    rates_of(&out->rates, fit, context);
    // Covariance of the rates with each sample; L^-1 of it; and what the samples leave open.
    const uint32_t n = fit->n;
    double(*v)[TD_PLAN_N_RATES] = fit->shares;
    for (uint32_t i = 0; i < n; i++) {
        shared_variance(shared, fit, context, &fit->samples[i].context);
        const double *row = fit->lower + (size_t)i * n;
        for (int r = 0; r < TD_PLAN_N_RATES; r++) v[i][r] = shared[r] * fit->slope[i][r];
        for (uint32_t k = 0; k < i; k++)
            for (int r = 0; r < TD_PLAN_N_RATES; r++) v[i][r] -= row[k] * v[k][r];
        for (int r = 0; r < TD_PLAN_N_RATES; r++) v[i][r] /= row[i];
    }
    shared_variance(shared, fit, context, context);
    for (int r = 0; r < TD_PLAN_N_RATES; r++) out->covariance[r][r] = shared[r];
    for (uint32_t i = 0; i < n; i++)
        for (int r = 0; r < TD_PLAN_N_RATES; r++)
            for (int q = 0; q < TD_PLAN_N_RATES; q++) out->covariance[r][q] -= v[i][r] * v[i][q];
}

void td_plan_belief_answer(struct td_plan_answer *out, const struct td_plan_belief *belief,
                           const struct td_plan_cost *cost, const struct td_plan_device *device,
                           const struct td_plan_test *test)
{
    double slope[TD_PLAN_N_RATES], variance = 0;
    out->rates = belief->rates;
    log_time(slope, cost, device, &out->rates, test);
    out->seconds = td_plan_test_time(&out->parts, cost, device, &out->rates, test);
    for (int r = 0; r < TD_PLAN_N_RATES; r++)
        for (int q = 0; q < TD_PLAN_N_RATES; q++)
            variance += slope[r] * belief->covariance[r][q] * slope[q];
    const double noise = test->is_prefill ? belief->noise_prefill : belief->noise_decode;
    out->log_sd = sqrt(fmax(variance, 0) + noise * noise);
    const struct td_plan_width *width = &belief->width[td_plan_class_of(test)];
    const double scale = td_plan_width_scale(width, out->log_sd);
    out->low = out->seconds * exp(-width->faster * scale);
    out->high = out->seconds * exp(width->slower * scale);
}

void td_plan_fit_answer(struct td_plan_answer *out, const struct td_plan_fit *fit,
                        const struct td_plan_cost *cost, const struct td_plan_device *device,
                        const struct td_plan_context *context, const struct td_plan_test *test)
{
    struct td_plan_belief belief;
    td_plan_fit_belief(&belief, fit, context);
    td_plan_belief_answer(out, &belief, cost, device, test);
}
