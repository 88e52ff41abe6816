// SPDX-License-Identifier: MIT
// An API that does as the request's body says, so that HTTP can be tested without a model. It
// stands in for the real one: a test program that includes this defines all of td_api_* itself.
//   whole N         an answer of N bytes, at once
//   late N MS       the same after MS milliseconds, until then not settled
//   stream N MS     N events, the first at once, the others MS milliseconds apart
//   hang            never settled
//   silent          a stream of one event, then nothing
//   begin MS        td_api_begin takes so long; then as "whole 2"
//   full            the queue is full: 503, Retry-After 7
//   none            no memory
#ifndef TD_TESTS_FAKE_API_H
#define TD_TESTS_FAKE_API_H

#include "base/clock.h"
#include "server/api.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const char fake_event[] = "data: event\n\n";
static const char fake_word[] = ": still here\n\n";

struct td_api_reply {
    char kind[16];
    uint64_t n, every_ns;
    uint64_t n_read, t0_ns;
    uint64_t next_note;
    struct td_api_request req;
    char *whole;
    struct td_api_reply *next;
};

static struct {
    pthread_mutex_t lock; // held while notify is called: that must call nothing of the API
    pthread_t thread;
    bool ends;
    struct td_api_reply *all;
    atomic_uint n_asked; // begins, done or not
    atomic_uint n_begun, n_ended;
    atomic_ullong last_client, last_body_bytes;
} g_fake = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void fake_sleep_ms(unsigned ms)
{
    const struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};
    nanosleep(&t, NULL);
}

static bool fake_is(const struct td_api_reply *r, const char *kind)
{
    return strcmp(r->kind, kind) == 0;
}

// Events that are there by now.
static uint64_t fake_ready(const struct td_api_reply *r)
{
    if (fake_is(r, "silent")) return 1;
    if (!fake_is(r, "stream")) return td_clock_ns() - r->t0_ns >= r->every_ns;
    if (!r->every_ns) return r->n;
    const uint64_t n = 1 + (td_clock_ns() - r->t0_ns) / r->every_ns;
    return n < r->n ? n : r->n;
}

static void *fake_ticker(void *arg)
{
    (void)arg;
    for (bool ends = false; !ends;) {
        fake_sleep_ms(2);
        pthread_mutex_lock(&g_fake.lock);
        ends = g_fake.ends;
        for (struct td_api_reply *r = g_fake.all; r; r = r->next) {
            const uint64_t n = fake_ready(r);
            if (n > r->next_note) r->req.notify(r->req.ctx);
            r->next_note = n;
        }
        pthread_mutex_unlock(&g_fake.lock);
    }
    return NULL;
}

static void fake_start(void)
{
    g_fake.ends = false;
    pthread_create(&g_fake.thread, NULL, fake_ticker, NULL);
}

static void fake_stop(void)
{
    pthread_mutex_lock(&g_fake.lock);
    g_fake.ends = true;
    pthread_mutex_unlock(&g_fake.lock);
    pthread_join(g_fake.thread, NULL);
}

bool td_api_has(const char *method, const char *path, const char **methods_out)
{
    *methods_out = NULL;
    if (strcmp(path, "/v1/fake") == 0) *methods_out = "POST, OPTIONS";
    if (strcmp(path, "/v1/list") == 0) *methods_out = "GET, HEAD, OPTIONS";
    return *methods_out && strncmp(*methods_out, method, strlen(method)) == 0;
}

struct td_api_reply *td_api_begin(struct td_api *api, const struct td_api_request *req)
{
    (void)api;
    unsigned long long n = 2, ms = 0;
    struct td_api_reply *r = calloc(1, sizeof(*r));
    if (!r) abort();
    atomic_fetch_add(&g_fake.n_asked, 1);
    atomic_store(&g_fake.last_client, req->client);
    atomic_store(&g_fake.last_body_bytes, req->body_bytes);
    if (sscanf(req->body, "%15s %llu %llu", r->kind, &n, &ms) < 1)
        snprintf(r->kind, sizeof(r->kind), "whole");
    if (fake_is(r, "none")) {
        free(r);
        return NULL;
    }
    if (fake_is(r, "begin")) {
        fake_sleep_ms((unsigned)n);
        n = 2;
        snprintf(r->kind, sizeof(r->kind), "whole");
    }
    r->n = n;
    r->every_ns = ms * 1000000;
    r->t0_ns = td_clock_ns();
    r->req = *req;
    if (!fake_is(r, "stream")) {
        r->whole = malloc(n + 1);
        if (!r->whole) abort();
        memset(r->whole, 'x', n);
    }
    atomic_fetch_add(&g_fake.n_begun, 1);
    pthread_mutex_lock(&g_fake.lock);
    r->next = g_fake.all;
    g_fake.all = r;
    pthread_mutex_unlock(&g_fake.lock);
    return r;
}

void td_api_end(struct td_api_reply *r)
{
    if (!r) return;
    pthread_mutex_lock(&g_fake.lock);
    struct td_api_reply **at = &g_fake.all;
    while (*at != r) at = &(*at)->next;
    *at = r->next;
    pthread_mutex_unlock(&g_fake.lock);
    atomic_fetch_add(&g_fake.n_ended, 1);
    free(r->whole);
    free(r);
}

bool td_api_is_settled(struct td_api_reply *r)
{
    return !fake_is(r, "hang") && fake_ready(r) > 0;
}

void td_api_head(struct td_api_reply *r, struct td_api_head *out)
{
    const bool is_stream = fake_is(r, "stream") || fake_is(r, "silent");
    *out =
        (struct td_api_head){.status = fake_is(r, "full") ? 503 : 200,
                             .content_type = is_stream ? "text/event-stream" : "application/json",
                             .is_stream = is_stream,
                             .length_bytes = r->n,
                             .retry_after_s = fake_is(r, "full") ? 7 : 0};
}

enum td_api_state td_api_read(struct td_api_reply *r, const char **bytes_out, size_t *n_bytes_out)
{
    if (fake_is(r, "stream") || fake_is(r, "silent")) {
        if (fake_is(r, "stream") && r->n_read == r->n) return TD_API_DONE;
        if (r->n_read >= fake_ready(r)) return TD_API_WAIT;
        *bytes_out = fake_event;
        *n_bytes_out = sizeof(fake_event) - 1;
        r->n_read++;
        return TD_API_PIECE;
    }
    if (r->n_read) return TD_API_DONE;
    *bytes_out = r->whole;
    *n_bytes_out = r->n;
    r->n_read = 1;
    return TD_API_PIECE;
}

void td_api_keep_alive(struct td_api_reply *r, const char **bytes_out, size_t *n_bytes_out)
{
    (void)r;
    *bytes_out = fake_word;
    *n_bytes_out = sizeof(fake_word) - 1;
}

void td_api_account(struct td_api_reply *r, struct td_api_account *out)
{
    *out = (struct td_api_account){
        .model = "fake", .n_written = (uint32_t)r->n_read, .outcome = "stop", .path = "local"};
}

size_t td_api_error_json(char *buf, size_t buf_bytes, unsigned status, const char *message)
{
    const int n =
        snprintf(buf, buf_bytes, "{\"error\":{\"message\":\"%s\",\"code\":%u}}", message, status);
    return (size_t)n < buf_bytes ? (size_t)n : buf_bytes - 1;
}

const double td_histogram_bounds[TD_HISTOGRAM_BOUNDS] = {0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1,
                                                         2,     5,    10,   30,  60,  120, 300};

void td_sched_stats(struct td_sched *s, struct td_sched_stats *out)
{
    (void)s;
    *out = (struct td_sched_stats){.n_slots = 3, .n_prompt = 123456789012u};
    out->ttft.n = 2;
    out->ttft.sum = 1.5;
}

#endif
