// SPDX-License-Identifier: MIT
// When each layer of each chunk was computed on one side and when its KV travelled to the other: a
// prompt read over the relay, both ends in this process, the link slowed by the fault proxy. Prints
// what bench/timeline.py draws. It sees what the two ends do through their backends: the engine's
// runs there, the sender's reads, the receiver's writes.
//   trace_relay SHAPE TOKENS CHUNK PACE_TOK_S LINK_BYTES_S stream|at-end
#include "base/clock.h"
#include "base/num.h"
#include "fault_proxy.h"
#include "relay/far.h"
#include "relay/host.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_ROWS = 1 << 16, MAX_PINS = 4096 };

enum row_kind { COMPUTE, SEND, N_ROW_KINDS };
static const char *const row_names[N_ROW_KINDS] = {"compute", "send"};

struct row {
    enum row_kind kind;
    uint32_t layer, pos0, n;
    uint64_t begin_ns, end_ns; // SEND: read there, written here
};

// What the wrapped backends see. The lock guards all of it.
static struct {
    pthread_mutex_t lock;
    bool is_on;
    struct row rows[MAX_ROWS];
    uint32_t n_rows;
    struct {
        const struct td_kv_pin *pin;
        struct td_kv_span span;
    } pins[MAX_PINS];
    uint64_t layer_begin_ns; // the engine's thread only
} g_trace = {.lock = PTHREAD_MUTEX_INITIALIZER};

static struct td_backend g_far, g_near;

static void add_row(const struct row *row)
{
    pthread_mutex_lock(&g_trace.lock);
    if (g_trace.is_on && g_trace.n_rows < MAX_ROWS) g_trace.rows[g_trace.n_rows++] = *row;
    pthread_mutex_unlock(&g_trace.lock);
}

static void layer_done(void *ctx, const struct td_kv_span *span)
{
    const struct td_watch *watch = ctx;
    if (watch->layer_done) watch->layer_done(watch->ctx, span);
    const struct row row = {COMPUTE,      span->layer, span->pos0, span->n, g_trace.layer_begin_ns,
                            td_clock_ns()};
    add_row(&row);
    g_trace.layer_begin_ns = row.end_ns;
}

static int far_run(struct td_device *dev, const struct td_batch *batch,
                   const struct td_watch *watch, float *logits, struct td_error *err)
{
    struct td_watch inner = watch ? *watch : (struct td_watch){0};
    const struct td_watch outer = {&inner, layer_done, inner.cancel};
    g_trace.layer_begin_ns = td_clock_ns();
    return td_backend_cpu()->run(dev, batch, &outer, logits, err);
}

static int far_kv_pin(struct td_kv_pin **out, const struct td_kv_span *span, struct td_error *err)
{
    const int code = td_backend_cpu()->kv_pin(out, span, err);
    pthread_mutex_lock(&g_trace.lock);
    for (uint32_t i = 0; i < MAX_PINS && !code; i++) {
        if (g_trace.pins[i].pin && g_trace.pins[i].pin != *out) continue;
        g_trace.pins[i].pin = *out;
        g_trace.pins[i].span = *span;
        break;
    }
    pthread_mutex_unlock(&g_trace.lock);
    return code;
}

static void far_kv_unpin(struct td_kv_pin *pin)
{
    pthread_mutex_lock(&g_trace.lock);
    for (uint32_t i = 0; i < MAX_PINS; i++)
        if (g_trace.pins[i].pin == pin) g_trace.pins[i].pin = NULL;
    pthread_mutex_unlock(&g_trace.lock);
    td_backend_cpu()->kv_unpin(pin);
}

static int far_kv_read(const struct td_kv_pin *pin, void *out, size_t size_bytes,
                       struct td_error *err)
{
    struct row row = {.kind = SEND, .begin_ns = td_clock_ns()};
    pthread_mutex_lock(&g_trace.lock);
    for (uint32_t i = 0; i < MAX_PINS; i++) {
        if (g_trace.pins[i].pin != pin) continue;
        row.layer = g_trace.pins[i].span.layer;
        row.pos0 = g_trace.pins[i].span.pos0;
        row.n = g_trace.pins[i].span.n;
    }
    pthread_mutex_unlock(&g_trace.lock);
    add_row(&row);
    return td_backend_cpu()->kv_read(pin, out, size_bytes, err);
}

static int near_kv_write(const struct td_kv_span *span, const void *in, size_t size_bytes,
                         struct td_error *err)
{
    const int code = td_backend_cpu()->kv_write(span, in, size_bytes, err);
    pthread_mutex_lock(&g_trace.lock);
    for (uint32_t i = 0; i < g_trace.n_rows; i++) {
        struct row *row = &g_trace.rows[i];
        if (row->kind == SEND && row->layer == span->layer && row->pos0 == span->pos0)
            row->end_ns = td_clock_ns();
    }
    pthread_mutex_unlock(&g_trace.lock);
    return code;
}

struct rig {
    struct td_model *model;
    struct td_engine *engine[2]; // there, here
    struct td_peer peer[2];
    struct td_listener *listener;
    struct td_host *host;
    struct fault_proxy *proxy;
    struct td_far *far;
    struct td_session *session;
    pthread_t thread;
    uint32_t n_tokens, chunk;
    double pace_tok_s;
    uint64_t link_bytes_s;
    bool send_at_end;
};

static void *serve_main(void *ctx)
{
    struct td_error err;
    if (td_host_serve(ctx, &err)) fprintf(stderr, "trace_relay: %s\n", err.msg);
    return NULL;
}

static int open_ends(struct rig *r, const struct td_key *key, struct td_error *err)
{
    static const uint8_t sum[32] = {1};
    const struct td_backend *const backend[2] = {&g_far, &g_near};
    int code = TD_OK;
    for (int i = 0; i < 2 && !code; i++) {
        const struct td_engine_config cfg = {
            .device = {.n_threads = 1, .max_rows = r->chunk, .max_logits_rows = 1, .isa = -1}};
        code = td_engine_open(&r->engine[i], r->model, backend[i], &cfg, err);
        if (!code)
            code = td_peer_init(&r->peer[i], i ? TD_WIRE_DECODE : TD_WIRE_PREFILL, &r->model->spec,
                                sum, sum, TD_F16, err);
    }
    const struct td_split_rate there = {{{0, r->pace_tok_s}}, 1};
    const struct td_pace pace = {.prefill = there};
    if (!code) td_engine_pace(r->engine[0], &pace);
    if (!code) code = td_listener_open(&r->listener, "127.0.0.1:0", key, NULL, err);
    const struct td_host_config host = {.engine = r->engine[0],
                                        .backend = &g_far,
                                        .peer = &r->peer[0],
                                        .kv_type = TD_F16,
                                        .n_slots = 1,
                                        .n_ctx = r->n_tokens + 64,
                                        .max_kv_bytes = (uint64_t)4 << 30,
                                        .send_at_end = r->send_at_end,
                                        .prefill = there};
    if (!code) code = td_host_open(&r->host, &host, r->listener, err);
    if (code) return code;
    if (pthread_create(&r->thread, NULL, serve_main, r->host) != 0)
        return td_fail(err, TD_ENOMEM, "no thread");
    r->proxy = fault_proxy_open("127.0.0.1", 0, "127.0.0.1", td_listener_port(r->listener));
    if (!r->proxy) return td_fail(err, TD_EIO, "no proxy");
    char where[32];
    (void)snprintf(where, sizeof(where), "127.0.0.1:%u", fault_proxy_port(r->proxy));
    const struct fault_plan plan = {.bytes_per_s = r->link_bytes_s};
    fault_proxy_begin(r->proxy, &plan);
    const struct td_far_config far = {.where = where,
                                      .key = key,
                                      .engine = r->engine[1],
                                      .backend = &g_near,
                                      .peer = &r->peer[1],
                                      .engine_kv_type = TD_F16,
                                      .kv_type = TD_F16};
    code = td_far_open(&r->far, &far, err);
    return code ? code : td_session_open(&r->session, r->engine[1], r->n_tokens + 64, err);
}

static void close_ends(struct rig *r)
{
    td_session_close(r->session);
    td_far_close(r->far);
    fault_proxy_close(r->proxy);
    if (r->host) td_host_stop(r->host);
    if (r->thread) pthread_join(r->thread, NULL);
    td_host_close(r->host);
    td_listener_close(r->listener);
    for (int i = 0; i < 2; i++) td_engine_close(r->engine[i]);
    td_model_close(r->model);
}

static void switch_on(bool on)
{
    pthread_mutex_lock(&g_trace.lock);
    g_trace.is_on = on;
    pthread_mutex_unlock(&g_trace.lock);
}

static int read_prompt(struct rig *r, struct td_error *err)
{
    int32_t *tokens = malloc(r->n_tokens * sizeof(*tokens));
    if (!tokens) return td_fail(err, TD_ENOMEM, "no memory for a prompt");
    struct td_rng rng = {3};
    for (uint32_t i = 0; i < r->n_tokens; i++)
        tokens[i] = (int32_t)(td_rng_u64(&rng) % r->model->spec.n_vocab);
    switch_on(true);
    const uint64_t t0_ns = td_clock_ns();
    struct td_fetch *fetch;
    int code = td_fetch_begin(&fetch, r->far, r->session, tokens, r->n_tokens, err);
    enum td_fetch_state state = TD_FETCH_RUNNING;
    struct td_fetch_report report = {0};
    while (!code && state == TD_FETCH_RUNNING) state = td_fetch_poll(fetch, 100, err);
    if (!code) {
        td_fetch_report(fetch, &report);
        td_fetch_end(fetch);
    }
    switch_on(false);
    if (!code && state != TD_FETCH_DONE) code = err->code ? err->code : TD_EIO;
    const uint64_t t1_ns = td_clock_ns();
    if (!code) code = td_session_sync(r->session, tokens, r->n_tokens, NULL, 0, NULL, NULL, err);
    const uint64_t t2_ns = td_clock_ns();
    free(tokens);
    if (code) return code;
    const double s = 1e-9;
    printf("what,layer,pos0,n,begin,end\n");
    for (uint32_t i = 0; i < g_trace.n_rows; i++) {
        const struct row *row = &g_trace.rows[i];
        if (row->end_ns < row->begin_ns || row->begin_ns < t0_ns) continue;
        printf("%s,%u,%u,%u,%.6f,%.6f\n", row_names[row->kind], row->layer, row->pos0, row->n,
               (double)(row->begin_ns - t0_ns) * s, (double)(row->end_ns - t0_ns) * s);
    }
    printf("first,0,%u,1,%.6f,%.6f\n", r->n_tokens - 1, (double)(t1_ns - t0_ns) * s,
           (double)(t2_ns - t0_ns) * s);
    printf("# %.1f MB, far %.3f s, transfer %.3f s, exposed %.3f s, %u layers\n",
           (double)report.bytes / 1e6, report.far_seconds, report.transfer_seconds,
           report.exposed_seconds, r->model->spec.n_layers);
    return TD_OK;
}

int main(int argc, char **argv)
{
    if (argc != 7) {
        fprintf(stderr, "usage: trace_relay SHAPE TOKENS CHUNK PACE_TOK_S LINK_BYTES_S "
                        "stream|at-end\n");
        return 2;
    }
    g_far = g_near = *td_backend_cpu();
    g_far.run = far_run;
    g_far.kv_pin = far_kv_pin;
    g_far.kv_unpin = far_kv_unpin;
    g_far.kv_read = far_kv_read;
    g_near.kv_write = near_kv_write;
    struct rig r = {.n_tokens = (uint32_t)strtoul(argv[2], NULL, 10),
                    .chunk = (uint32_t)strtoul(argv[3], NULL, 10),
                    .pace_tok_s = strtod(argv[4], NULL),
                    .link_bytes_s = strtoull(argv[5], NULL, 10),
                    .send_at_end = strcmp(argv[6], "at-end") == 0};
    static const struct td_key key = {{1, 2, 3}};
    struct td_error err = {0};
    int code = td_model_open(&r.model, argv[1], NULL, &err);
    if (!code) code = open_ends(&r, &key, &err);
    if (!code) code = read_prompt(&r, &err);
    if (code) fprintf(stderr, "trace_relay: %s\n", err.msg);
    close_ends(&r);
    return code ? 1 : 0;
}
