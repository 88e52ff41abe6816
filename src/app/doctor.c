// SPDX-License-Identifier: MIT
// `tandem doctor`: what stands between two machines that shall work in tandem, step by step, and
// from how many tokens on it pays.
#include "app/app.h"
#include "app/commands.h"
#include "app/pair.h"

#include "base/num.h"
#include "relay/far.h"

#include <stdarg.h>
#include <string.h>

// Sent each way: a moment on 1 Gb/s, and long against a round trip on 10 Gb/s.
#define PROBE_BYTES ((uint64_t)32 << 20)
enum { MAX_TOKENS = 1 << 17, SHOW_TOKENS = 8192 };

struct doctor {
    const struct td_config *cfg;
    struct td_app app;
    struct td_pair pair;
    struct td_far *far; // the remote's
    uint32_t pays_from; // tokens; 0: never
    json_t *steps;      // NULL: lines to read
    bool is_well;
};

static void step(struct doctor *d, const char *name, bool is_well, const char *fmt, ...)
    TD_PRINTF(4, 5);
static void step(struct doctor *d, const char *name, bool is_well, const char *fmt, ...)
{
    char text[400];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    if (!is_well) d->is_well = false;
    if (d->steps) {
        json_t *row = json_object();
        td_json_text(row, "step", name);
        json_object_set_new(row, "ok", json_boolean(is_well));
        td_json_bytes(row, "text", text, strlen(text));
        json_array_append_new(d->steps, row);
        return;
    }
    printf("%-5s %-11s %s\n", is_well ? "ok" : "FAIL", name, text);
    fflush(stdout);
}

static void say_pays(struct doctor *d, const struct td_far_info *info, double link_bytes_per_s)
{
    const uint32_t most = td_min_u32(MAX_TOKENS, info->max_tokens > 2 ? info->max_tokens : 2);
    struct td_error err = {0};
    struct td_split_ask ask;
    struct td_split split;
    if (td_remote_question(d->pair.remote, 0, td_min_u32(SHOW_TOKENS, most), &ask, &err) != TD_OK) {
        step(d, "pays", false, "%s", err.msg);
        return;
    }
    ask.link_bytes_per_s = link_bytes_per_s;
    const uint32_t from = td_split_pays_from(&ask, most);
    if (from > ask.n_prompt_tokens) ask.n_prompt_tokens = from;
    td_split(&split, &ask);
    d->pays_from = from;
    if (!from) {
        step(d, "pays", true, "never here: %s", td_split_why_text(split.why));
        return;
    }
    step(d, "pays", true,
         "from %u prompt tokens on; the first token after %u takes %.2f s here, %.2f s in tandem%s",
         from, ask.n_prompt_tokens, split.here_first_seconds, split.split_first_seconds,
         split.all_there_is_faster ? "; with its answer it would be done sooner there" : "");
}

static void say_link(struct doctor *d, double bytes_per_s[2])
{
    static const char *const names[2] = {"link there", "link here"};
    for (int i = 0; i < 2; i++) {
        struct td_error err = {0};
        char rate[24];
        if (td_far_measure(d->far, PROBE_BYTES, i == 1, &bytes_per_s[i], &err) != TD_OK)
            step(d, names[i], false, "%s", err.msg);
        else
            step(d, names[i], true, "%s/s",
                 td_text_gb(rate, sizeof(rate), (uint64_t)bytes_per_s[i]));
    }
}

static void say_peer(struct doctor *d, struct td_far_info *info)
{
    char kv[24], rate[400];
    td_far_info(d->far, info);
    step(d, "reachable", true, "%s in %.0f ms", info->peer, info->connect_seconds * 1e3);
    if (info->is_encrypted)
        step(d, "key", true, "TLS 1.3, the same key on both ends");
    else
        step(d, "key", true, "none: in the clear, on this machine only");
    step(d, "protocol", true, "%s there, %s here", info->build, d->pair.peer.hello.build);
    step(d, "model", true, "%s (%s): the same layout and tokenizer, %s weights", info->model,
         info->quant, info->weights_differ ? "OTHER" : "the same");
    step(d, "canary", true, "KV off by %.1e of its size, last token's distribution by %.1e nats",
         info->canary_kv_error, info->canary_logits_kl);
    step(d, "room", true, "%u slot%s, prompts of %u tokens at most, KV %s", info->n_slots,
         info->n_slots == 1 ? "" : "s", info->max_tokens,
         td_text_gib(kv, sizeof(kv), info->max_kv_bytes));
    step(d, "round trip", true, "%.2f ms", info->round_trip_seconds * 1e3);
    step(d, "reads there", info->prefill.n_points > 0, "%s",
         td_pair_rate_text(&info->prefill, rate, sizeof(rate)));
    step(d, "reads here", d->pair.prefill.n_points > 0, "%s",
         td_pair_rate_text(&d->pair.prefill, rate, sizeof(rate)));
}

static json_t *peer_json(const struct doctor *d, const struct td_far_info *info,
                         const double bytes_per_s[2])
{
    json_t *out = json_object();
    td_json_text(out, "peer", info->peer);
    td_json_bytes(out, "build", info->build, strlen(info->build));
    td_json_bytes(out, "model", info->model, strlen(info->model));
    td_json_bytes(out, "quant", info->quant, strlen(info->quant));
    json_object_set_new(out, "encrypted", json_boolean(info->is_encrypted));
    json_object_set_new(out, "weights_differ", json_boolean(info->weights_differ));
    td_json_f64(out, "connect_seconds", info->connect_seconds);
    td_json_f64(out, "round_trip_seconds", info->round_trip_seconds);
    td_json_f64(out, "canary_seconds", info->canary_seconds);
    td_json_f64(out, "canary_kv_error", info->canary_kv_error);
    td_json_f64(out, "canary_logits_kl", info->canary_logits_kl);
    td_json_f64(out, "bytes_per_s_there", bytes_per_s[0]);
    td_json_f64(out, "bytes_per_s_here", bytes_per_s[1]);
    td_json_u64(out, "pays_from_tokens", d->pays_from); // 0: never
    td_json_u64(out, "slots", info->n_slots);
    td_json_u64(out, "max_tokens", info->max_tokens);
    td_json_u64(out, "max_kv_bytes", info->max_kv_bytes);
    json_object_set_new(out, "prefill_there", td_pair_rate_json(&info->prefill));
    json_object_set_new(out, "decode_there", td_pair_rate_json(&info->decode));
    json_object_set_new(out, "prefill_here", td_pair_rate_json(&d->pair.prefill));
    json_object_set_new(out, "decode_here", td_pair_rate_json(&d->pair.decode));
    return out;
}

// Which step it was that a connection did not get past, by what went wrong.
static const char *failed_step(int code, const char *sentence)
{
    if (code == TD_EUNSUP) return "protocol";
    if (strstr(sentence, "canary")) return "canary";
    if (strstr(sentence, "key")) return "key";
    if (code == TD_EARG && strstr(sentence, "model")) return "model";
    return "reachable";
}

static int examine(struct doctor *d, json_t **found_out, struct td_error *err)
{
    const struct td_app_wants wants = {.n_ctx = 1024, .max_logits_rows = 1};
    int code = td_pair_key(&d->pair, d->cfg, err);
    if (code == TD_OK) code = td_app_open(&d->app, d->cfg, &wants, err);
    if (code == TD_OK) code = td_pair_open(&d->pair, &d->app, TD_REMOTE_AUTO, err);
    if (code != TD_OK) return code;
    struct td_error why = {0};
    code = td_remote_peer(d->pair.remote, 0, &d->far, &why);
    if (code == TD_ECANCEL && td_app_interrupted()) return td_fail(err, code, "interrupted");
    if (code != TD_OK) {
        step(d, failed_step(code, why.msg), false, "%s", why.msg);
        return TD_OK;
    }
    struct td_far_info info;
    double bytes_per_s[2] = {0, 0};
    say_peer(d, &info);
    say_link(d, bytes_per_s);
    if (d->is_well) say_pays(d, &info, bytes_per_s[1]);
    if (d->steps) *found_out = peer_json(d, &info, bytes_per_s);
    return TD_OK;
}

static int doctor(const struct td_config *cfg)
{
    struct td_error err = {0};
    struct doctor d = {.cfg = cfg, .is_well = true};
    if (td_opt_choice(cfg, TD_OPT_DOCTOR_FORMAT) == 1) d.steps = json_array();
    json_t *found = NULL;
    const int code = examine(&d, &found, &err);
    td_pair_close(&d.pair);
    if (d.app.model) td_app_close(&d.app);
    if (code == TD_OK && d.steps) {
        json_t *out = found ? found : json_object();
        json_object_set_new(out, "ok", json_boolean(d.is_well));
        json_object_set(out, "steps", d.steps);
        (void)td_json_print(stdout, out, JSON_INDENT(2));
    }
    json_decref(d.steps);
    if (code != TD_OK) return td_app_fail(&err);
    return d.is_well ? TD_EXIT_OK : TD_EXIT_FAIL;
}

int td_cmd_doctor(const struct td_config *cfg)
{
    const char *where = td_opt_text(cfg, TD_OPT_PREFILL);
    if (!where) return td_app_usage(cfg, "'doctor' needs a machine: --prefill HOST:PORT");
    if (strchr(where, ',')) return td_app_usage(cfg, "'doctor' asks one machine at a time");
    struct td_config with_model = *cfg;
    char path[4096];
    if (!td_opt_text(cfg, TD_OPT_MODEL)) {
        if (!td_app_shipped_model(path, sizeof(path)))
            return td_app_usage(cfg, "'doctor' needs the model that is served there: -m FILE.gguf");
        with_model.values[TD_OPT_MODEL].text = path;
        td_app_note(
            "this is tandem-mini, the small model that comes with tandem; -m takes another");
    }
    return doctor(&with_model);
}
