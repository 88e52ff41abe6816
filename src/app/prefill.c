// SPDX-License-Identifier: MIT
// `tandem prefill`: the machine that reads prompts for others. Opens the model, listens, and says
// what happens, a line each, until it is stopped.
#include "app/app.h"
#include "app/commands.h"
#include "app/pair.h"

#include "relay/host.h"
#include "relay/link.h"

#include <string.h>
#include <time.h>

struct prefill {
    const struct td_config *cfg;
    struct td_app app;
    struct td_pair pair;
    struct td_listener *listener;
    struct td_host *host;
};

static void say_when(void)
{
    const time_t now = time(NULL);
    struct tm local;
    char text[16] = "";
    if (localtime_r(&now, &local)) strftime(text, sizeof(text), "%H:%M:%S ", &local);
    fputs(text, stderr);
}

static void say_request(const struct td_host_event *e, const char *what)
{
    char reused[48] = "", bytes[24];
    if (e->n_reused) snprintf(reused, sizeof(reused), ", %u of them reused", e->n_reused);
    fprintf(stderr, "%s request %llu %s: %u tokens%s", e->peer, (unsigned long long)e->request,
            what, e->n_tokens, reused);
    if (e->kind == TD_HOST_BEGAN) {
        fputc('\n', stderr);
        return;
    }
    const double n_computed = e->n_tokens > e->n_reused ? e->n_tokens - e->n_reused : 0;
    if (e->seconds > 0)
        fprintf(stderr, ", %.2f s, %.1f tok/s", e->seconds, n_computed / e->seconds);
    fprintf(stderr, ", %s sent", td_text_gb(bytes, sizeof(bytes), e->bytes));
    if (e->stall_seconds > 0) fprintf(stderr, ", stalled %.2f s", e->stall_seconds);
    if (e->text[0]) fprintf(stderr, "; %s", e->text);
    fputc('\n', stderr);
}

// Any thread, one at a time.
static void on_event(void *ctx, const struct td_host_event *e)
{
    (void)ctx;
    say_when();
    switch (e->kind) {
    case TD_HOST_CAME: fprintf(stderr, "%s came: %s\n", e->peer, e->text); return;
    case TD_HOST_LEFT:
        fprintf(stderr, "%s left%s%s\n", e->peer, e->text[0] ? ": " : "", e->text);
        return;
    case TD_HOST_REFUSED: fprintf(stderr, "%s refused: %s\n", e->peer, e->text); return;
    case TD_HOST_BEGAN: say_request(e, "began"); return;
    case TD_HOST_DONE: say_request(e, "done"); return;
    case TD_HOST_RESUMED: say_request(e, "resumed"); return;
    case TD_HOST_ENDED: say_request(e, "ended"); return;
    }
}

static void say_ready(const struct prefill *p)
{
    const char *where = td_opt_text(p->cfg, TD_OPT_LISTEN);
    const char *colon = strrchr(where, ':');
    char fingerprint[TD_KEY_FINGERPRINT] = "none: in the clear", kv[24], rate[400];
    if (p->pair.has_key) td_key_fingerprint(&p->pair.key, fingerprint);
    fprintf(
        stderr,
        "listening on %.*s:%u, model %s (%s), key %s; %u slot%s of %u tokens, KV %s; reads %s\n",
        (int)(colon ? colon - where : 0), where, td_listener_port(p->listener),
        p->pair.peer.identity.name, p->pair.peer.identity.quant, fingerprint,
        (unsigned)td_opt_u64(p->cfg, TD_OPT_SLOTS),
        td_opt_u64(p->cfg, TD_OPT_SLOTS) == 1 ? "" : "s", p->app.n_ctx,
        td_text_gib(kv, sizeof(kv), p->app.kv_bytes * td_opt_u64(p->cfg, TD_OPT_SLOTS)),
        td_pair_rate_text(&p->pair.prefill, rate, sizeof(rate)));
}

static void stop(void *host)
{
    td_host_stop(host);
}

static int listen_at(struct prefill *p, struct td_error *err)
{
    return td_listener_open(&p->listener, td_opt_text(p->cfg, TD_OPT_LISTEN),
                            p->pair.has_key ? &p->pair.key : NULL, NULL, err);
}

static int serve(struct prefill *p, struct td_error *err)
{
    const struct td_config *cfg = p->cfg;
    const uint32_t n_slots = (uint32_t)td_opt_u64(cfg, TD_OPT_SLOTS);
    const double lease_ms = td_opt_f64(cfg, TD_OPT_LEASE) * 1e3;
    const struct td_host_config host = {.engine = p->app.engine,
                                        .backend = p->app.backend,
                                        .peer = &p->pair.peer,
                                        .kv_type = p->app.kv_f32 ? TD_F32 : TD_F16,
                                        .n_slots = n_slots,
                                        .n_ctx = p->app.n_ctx,
                                        .max_kv_bytes = p->app.kv_bytes * n_slots,
                                        .lease_ms = lease_ms < 1 ? 1 : (uint32_t)lease_ms,
                                        .send_at_end = td_opt_is_set(cfg, TD_OPT_SEND_AT_END),
                                        .prefill = p->pair.prefill,
                                        .decode = p->pair.decode,
                                        .event = on_event};
    int code = td_host_open(&p->host, &host, p->listener, err);
    if (code != TD_OK) return code;
    td_app_on_stop(stop, p->host);
    if (td_app_interrupted()) return TD_OK; // a moment before
    say_ready(p);
    code = td_host_serve(p->host, err);
    struct td_host_report report;
    td_host_report(p->host, &report);
    p->pair.prefill = report.prefill;
    td_pair_save_rates(&p->pair);
    return code;
}

static int run(struct prefill *p, struct td_error *err)
{
    const struct td_config *cfg = p->cfg;
    int code = td_pair_key(&p->pair, cfg, err);
    // An address that is wrong or taken should be known before a large model is opened; until that
    // is ready nobody is kept waiting.
    if (code == TD_OK) code = listen_at(p, err);
    td_listener_close(p->listener);
    p->listener = NULL;
    const struct td_app_wants wants = {.n_ctx = (uint32_t)td_opt_u64(cfg, TD_OPT_CTX_PREFILL),
                                       .n_slots = (uint32_t)td_opt_u64(cfg, TD_OPT_SLOTS),
                                       .max_kv_bytes = td_opt_u64(cfg, TD_OPT_MAX_KV),
                                       .long_ctx = true,
                                       .max_logits_rows = 1};
    if (code == TD_OK) code = td_app_open(&p->app, cfg, &wants, err);
    if (code == TD_OK) code = td_pair_init(&p->pair, &p->app, TD_WIRE_PREFILL, true, err);
    if (code == TD_OK) code = listen_at(p, err);
    return code == TD_OK ? serve(p, err) : code;
}

int td_cmd_prefill(const struct td_config *cfg)
{
    if (!td_opt_is_set(cfg, TD_OPT_LISTEN))
        return td_app_usage(cfg, "'prefill' needs an address: --listen HOST:PORT");
    struct td_error err = {0};
    if (td_app_check_model_path(td_opt_text(cfg, TD_OPT_MODEL), &err) != TD_OK)
        return td_app_fail(&err);
    struct prefill p = {.cfg = cfg};
    const int code = run(&p, &err);
    td_app_on_stop(NULL, NULL);
    td_host_close(p.host);
    td_listener_close(p.listener);
    td_pair_close(&p.pair);
    if (p.app.model) td_app_close(&p.app);
    return code == TD_OK ? TD_EXIT_OK : td_app_fail(&err);
}
