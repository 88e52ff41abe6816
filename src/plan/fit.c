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

#define N_STEPS        12
#define STEP           1e-4 // of a logarithm, to differentiate
#define FREEDOM        4.0
#define USUAL_INTERVAL 1.645 // standard deviations that hold 90 % of a normal distribution
#define LEAST_MODELS   10    // that can say better, left out in turn

struct td_plan_fit {
    struct td_plan_prior prior;
    double variance[TD_PLAN_N_LEVELS][TD_PLAN_N_RATES]; // squares of the prior's spreads
    uint32_t n;
    struct td_plan_sample *samples;
    double (*slope)[TD_PLAN_N_RATES]; // g
    double *lower;                    // (n, n) Cholesky factor of K, row-major, lower part
    double *alpha;                    // K^-1 y
    double interval[TD_PLAN_N_CLASSES];
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

// Each member's residual in standard deviations when all members (m) of a group are left out, from
// the fit of all: with P the group's block of K^-1, the left-out residuals are P^-1 alpha, and
// their covariance P^-1. x (n, m) and p (m, m) are room. Rasmussen and Williams, Gaussian
// Processes for Machine Learning, 5.4.2, for one left out; blocks alike.
static void leave_group(double *z, const struct td_plan_fit *fit, const uint32_t *members,
                        uint32_t m, double *x, double *p)
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
        z[members[a]] = fabs(e[a]) / sqrt(fmax(variance, noise * noise));
    }
}

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

// How many models the samples of some classes are of.
static uint32_t count_models(const struct td_plan_fit *fit, unsigned classes)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < fit->n; i++) {
        bool is_new = classes >> td_plan_class_of(&fit->samples[i].test) & 1;
        for (uint32_t j = 0; j < i && is_new; j++)
            is_new = !(classes >> td_plan_class_of(&fit->samples[j].test) & 1) ||
                     fit->samples[j].context.id[TD_PLAN_MODEL] !=
                         fit->samples[i].context.id[TD_PLAN_MODEL];
        n += is_new;
    }
    return n;
}

// The factor that holds nine tenths of the residuals of some classes, counted as if the next one
// were among them (conformal prediction). Of few models: stays as it is.
static double find_interval(const struct td_plan_fit *fit, const double *z, unsigned classes,
                            double otherwise, double *sorted)
{
    uint32_t n = 0;
    if (count_models(fit, classes) < LEAST_MODELS) return otherwise;
    for (uint32_t i = 0; i < fit->n; i++)
        if (classes >> td_plan_class_of(&fit->samples[i].test) & 1) sorted[n++] = z[i];
    qsort(sorted, n, sizeof(*sorted), by_size);
    return sorted[(uint32_t)fmin(ceil(0.9 * (n + 1)), n) - 1];
}

// A class of few models has the interval of its kind, reading or writing.
static void find_intervals(struct td_plan_fit *fit, const double *z, double *sorted)
{
    for (unsigned c = 0; c < TD_PLAN_N_CLASSES; c++) {
        const unsigned kind = c == TD_PLAN_CLASS_PREFILL || c == TD_PLAN_CLASS_SMALL
                                  ? 1u << TD_PLAN_CLASS_PREFILL | 1u << TD_PLAN_CLASS_SMALL
                                  : 1u << TD_PLAN_CLASS_DECODE | 1u << TD_PLAN_CLASS_BATCHED;
        const double of_kind = find_interval(fit, z, kind, USUAL_INTERVAL, sorted);
        fit->interval[c] = find_interval(fit, z, 1u << c, of_kind, sorted);
    }
    for (uint32_t i = 0; i < fit->n; i++)
        fit->samples[i].interval = fit->interval[td_plan_class_of(&fit->samples[i].test)];
}

// How wide intervals must be, by leaving out every model in turn. Fails: TD_ENOMEM.
static int calibrate_intervals(struct td_plan_fit *fit, struct td_error *err)
{
    const uint32_t n = fit->n;
    double *z = malloc(n * sizeof(*z)), *x = malloc((size_t)n * n * sizeof(*x));
    double *p = malloc((size_t)n * n * sizeof(*p));
    uint32_t *members = malloc(n * sizeof(*members));
    bool *is_done = calloc(n, sizeof(*is_done));
    int code = TD_OK;
    if (!z || !x || !p || !members || !is_done) {
        code = td_fail(err, TD_ENOMEM, "no memory to calibrate with %u measurements", n);
        goto end;
    }
    for (uint32_t i = 0; i < n; i++) {
        if (is_done[i]) continue;
        const uint32_t model = fit->samples[i].context.id[TD_PLAN_MODEL];
        uint32_t m = 0;
        for (uint32_t j = i; j < n; j++) {
            if (fit->samples[j].context.id[TD_PLAN_MODEL] != model) continue;
            is_done[j] = true;
            members[m++] = j;
        }
        // One model alone leaves nothing to learn from.
        if (m == n) goto end;
        leave_group(z, fit, members, m, x, p);
    }
    find_intervals(fit, z, x);
end:
    free(z);
    free(x);
    free(p);
    free(members);
    free(is_done);
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
    for (int c = 0; c < TD_PLAN_N_CLASSES; c++) fit->interval[c] = USUAL_INTERVAL;
    if (is_fitted) {
        solve(fit);
        for (uint32_t i = 0; i < n; i++)
            if (samples[i].interval > 0)
                fit->interval[td_plan_class_of(&samples[i].test)] = samples[i].interval;
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
        const int code = calibrate_intervals(fit, err);
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

void td_plan_fit_belief(struct td_plan_belief *out, const struct td_plan_fit *fit,
                        const struct td_plan_context *context)
{
    double shared[TD_PLAN_N_RATES];
    *out = (struct td_plan_belief){.noise_prefill = fit->prior.noise_prefill,
                                   .noise_decode = fit->prior.noise_decode};
    memcpy(out->interval, fit->interval, sizeof(out->interval));
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
    const double wide = out->log_sd * belief->interval[td_plan_class_of(test)];
    out->low = out->seconds * exp(-wide);
    out->high = out->seconds * exp(wide);
}

void td_plan_fit_answer(struct td_plan_answer *out, const struct td_plan_fit *fit,
                        const struct td_plan_cost *cost, const struct td_plan_device *device,
                        const struct td_plan_context *context, const struct td_plan_test *test)
{
    struct td_plan_belief belief;
    td_plan_fit_belief(&belief, fit, context);
    td_plan_belief_answer(out, &belief, cost, device, test);
}
