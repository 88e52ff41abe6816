// SPDX-License-Identifier: MIT
// This end of a pair: who it is, how fast it is, whom it asks.
#include "app/pair.h"

#include "app/cache.h"
#include "base/clock.h"
#include "base/num.h"
#include "plan/rates.h"
#include "relay/identity.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

// ---- identity ---------------------------------------------------------------------------------

static void to_hex(const uint8_t sum[32], char out[65])
{
    for (size_t i = 0; i < 32; i++) snprintf(out + 2 * i, 3, "%02x", sum[i]);
}

static bool of_hex(const char *text, uint8_t out[32])
{
    if (!text || strlen(text) != 64 || strspn(text, "0123456789abcdef") != 64) return false;
    for (size_t i = 0; i < 32; i++) {
        const char byte[3] = {text[2 * i], text[2 * i + 1], 0};
        out[i] = (uint8_t)strtoul(byte, NULL, 16);
    }
    return true;
}

// Path of part i of a split model, whose path (of any part) ends in -0000K-of-0000N.gguf.
static bool part_path(const char *path, uint32_t i, uint32_t n_parts, char *out, size_t out_bytes)
{
    const size_t n = strlen(path), n_tail = strlen("-00001-of-00003.gguf");
    if (n_parts == 1) return (size_t)snprintf(out, out_bytes, "%s", path) < out_bytes;
    if (n < n_tail || n_parts > 99999) return false;
    return (size_t)snprintf(out, out_bytes, "%.*s-%05u-of-%05u.gguf", (int)(n - n_tail), path,
                            i + 1, n_parts) < out_bytes;
}

// Nanoseconds within the second of the last change: macOS names the field otherwise.
static long mtime_nsec(const struct stat *st)
{
#ifdef __APPLE__
    return st->st_mtimensec;
#else
    return st->st_mtim.tv_nsec;
#endif
}

// What says that the files are those of last time: place, size, moment of change. NULL: there are
// no files, or they cannot be asked.
static char *files_key(const struct td_model *m)
{
    if (m->synth) return NULL; // as quickly hashed as made
    const uint32_t n_parts = td_gguf_n_parts(m->gguf);
    char folder[4096] = "";
    if (td_gguf_path(m->gguf)[0] != '/' && !getcwd(folder, sizeof(folder))) return NULL;
    char *key = NULL;
    size_t n = 0;
    for (uint32_t i = 0; i < n_parts; i++) {
        char path[4096];
        struct stat st;
        const bool is_there = part_path(td_gguf_path(m->gguf), i, n_parts, path, sizeof(path)) &&
                              stat(path, &st) == 0;
        const size_t room = strlen(folder) + strlen(path) + 128;
        char *grown = is_there ? realloc(key, n + room) : NULL;
        if (!grown) {
            free(key);
            return NULL;
        }
        key = grown;
        n += (size_t)snprintf(key + n, room, "%s%s%s|%llu|%lld|%lld.%09ld;", folder,
                              folder[0] ? "/" : "", path, (unsigned long long)st.st_ino,
                              (long long)st.st_size, (long long)st.st_mtime, mtime_nsec(&st));
    }
    return key;
}

int td_pair_weights(const struct td_config *cfg, const struct td_app *app, uint8_t out[32],
                    struct td_error *err)
{
    char *key = files_key(app->model);
    json_t *known = key ? td_cache_get(cfg, "digests", key) : NULL;
    const bool is_known = of_hex(json_string_value(known), out);
    json_decref(known);
    int code = TD_OK;
    if (!is_known) {
        struct td_progress progress;
        td_progress_begin(&progress, "hashing the weights", "bytes");
        code =
            td_identity_weights(app->model, app->n_threads, td_progress_step, &progress, out, err);
        td_progress_end(&progress);
        char hex[65];
        to_hex(out, hex);
        if (code == TD_OK && key) td_cache_put(cfg, "digests", key, json_string(hex));
    }
    free(key);
    return code;
}

// ---- speeds -----------------------------------------------------------------------------------

enum { LOOK_TOKENS = 128, WARM_TOKENS = 32, LOOK_SINGLE = 4 };

static int measure_with(struct td_app *app, struct td_session *s, struct td_split_rate *prefill,
                        struct td_split_rate *decode, struct td_error *err)
{
    const uint32_t n_vocab = app->model->spec.n_vocab;
    uint32_t n = app->n_ctx > LOOK_SINGLE + 1 ? app->n_ctx - LOOK_SINGLE - 1 : 1;
    if (n > LOOK_TOKENS) n = LOOK_TOKENS;
    int32_t tokens[LOOK_TOKENS];
    struct td_rng rng = {.state = 7};
    for (uint32_t i = 0; i < n; i++) tokens[i] = (int32_t)(td_rng_u64(&rng) % n_vocab);

    // The first run reads weights that nobody has touched; it is not this machine's speed.
    int code = td_session_sync(s, tokens + n - td_min_u32(n, WARM_TOKENS),
                               td_min_u32(n, WARM_TOKENS), NULL, 0, NULL, NULL, err);
    uint64_t t0_ns = td_clock_ns();
    if (code == TD_OK) code = td_session_sync(s, tokens, n, NULL, 0, NULL, NULL, err);
    const uint32_t n_read = n - td_session_reused(s);
    if (code == TD_OK && n_read > 1)
        td_rates_saw(prefill, 0, n_read, (double)(td_clock_ns() - t0_ns) * 1e-9, 1);
    for (uint32_t i = 0; i <= LOOK_SINGLE && code == TD_OK; i++) {
        if (i == 1) t0_ns = td_clock_ns();
        if (td_session_len(s) == app->n_ctx) return TD_OK; // a toy context
        code = td_session_append(s, tokens[i % n], err);
        if (code == TD_OK) code = td_engine_step(app->engine, NULL, err);
    }
    if (code == TD_OK)
        td_rates_saw(decode, n, LOOK_SINGLE, (double)(td_clock_ns() - t0_ns) * 1e-9, 1);
    return code;
}

int td_pair_measure(struct td_app *app, struct td_split_rate *prefill, struct td_split_rate *decode,
                    struct td_error *err)
{
    struct td_session *s;
    *prefill = *decode = (struct td_split_rate){0};
    int code = td_session_open(&s, app->engine, td_min_u32(app->n_ctx, LOOK_TOKENS + 16), err);
    if (code != TD_OK) return code;
    td_app_on_interrupt(s);
    code = measure_with(app, s, prefill, decode, err);
    td_app_on_interrupt(NULL);
    td_session_close(s);
    if (code == TD_OK && td_app_interrupted()) code = td_fail(err, TD_ECANCEL, "interrupted");
    return code;
}

json_t *td_pair_rate_json(const struct td_split_rate *rate)
{
    json_t *list = json_array();
    for (uint32_t i = 0; i < rate->n_points; i++) {
        json_t *point = json_object();
        td_json_f64(point, "depth", rate->points[i].depth_tokens);
        td_json_f64(point, "tok_s", rate->points[i].tokens_per_s);
        json_array_append_new(list, point);
    }
    return list;
}

// False, and no points, when it is not a list of ascending depths with speeds.
static bool rate_of_json(const json_t *list, struct td_split_rate *out)
{
    *out = (struct td_split_rate){0};
    const size_t n = json_array_size(list);
    if (n == 0 || n > TD_SPLIT_MAX_POINTS) return false;
    double before = -1;
    for (size_t i = 0; i < n; i++) {
        const json_t *point = json_array_get(list, i);
        const double depth = json_number_value(json_object_get(point, "depth"));
        const double rate = json_number_value(json_object_get(point, "tok_s"));
        if (!(depth > before) || !(depth < 1e9) || !(rate > 1e-6) || !(rate < 1e9)) {
            *out = (struct td_split_rate){0};
            return false;
        }
        before = depth;
        out->points[out->n_points++] =
            (struct td_split_point){.depth_tokens = depth, .tokens_per_s = rate};
    }
    return true;
}

static void rates_key(const struct td_pair *p, char *out, size_t out_bytes)
{
    struct td_device_report device;
    td_engine_report(p->app->engine, &device);
    // Small chunks are slow; from 128 tokens on it matters little.
    const uint64_t chunk = td_opt_u64(p->cfg, TD_OPT_CHUNK);
    snprintf(out, out_bytes, "%s|%u|%s|%s|%u", p->weights, p->app->n_threads, device.isa,
             td_precision_name(p->app->precision),
             (unsigned)(chunk < LOOK_TOKENS ? chunk : LOOK_TOKENS));
}

static bool is_paced(const struct td_config *cfg)
{
    return td_opt_text(cfg, TD_OPT_PACE_PREFILL) || td_opt_text(cfg, TD_OPT_PACE_DECODE);
}

void td_pair_save_rates(const struct td_pair *p)
{
    if (!p->cfg || is_paced(p->cfg)) return; // not this machine's
    if (!p->weights[0]) return;              // of what, nobody has looked
    if (p->prefill.n_points == 0 || p->decode.n_points == 0) return;
    char key[160];
    rates_key(p, key, sizeof(key));
    json_t *value = json_object();
    json_object_set_new(value, "prefill", td_pair_rate_json(&p->prefill));
    json_object_set_new(value, "decode", td_pair_rate_json(&p->decode));
    td_cache_put(p->cfg, "rates", key, value);
}

// Paces first, then what is known from last time, then a look if anything is still missing.
static int find_rates(struct td_pair *p, bool may_measure, struct td_error *err)
{
    td_opt_rate(p->cfg, TD_OPT_PACE_PREFILL, &p->prefill);
    td_opt_rate(p->cfg, TD_OPT_PACE_DECODE, &p->decode);
    const bool has_prefill = p->prefill.n_points > 0, has_decode = p->decode.n_points > 0;
    if (has_prefill && has_decode) return TD_OK;
    char key[160];
    rates_key(p, key, sizeof(key));
    json_t *known = td_cache_get(p->cfg, "rates", key);
    struct td_split_rate prefill, decode;
    const bool is_known = rate_of_json(json_object_get(known, "prefill"), &prefill) &&
                          rate_of_json(json_object_get(known, "decode"), &decode);
    json_decref(known);
    if (!is_known) {
        if (!may_measure) return TD_OK;
        const int code = td_pair_measure(p->app, &prefill, &decode, err);
        if (code != TD_OK) return code;
    }
    if (!has_prefill) p->prefill = prefill;
    if (!has_decode) p->decode = decode;
    if (!is_known) td_pair_save_rates(p);
    return TD_OK;
}

const char *td_pair_rate_text(const struct td_split_rate *rate, char *buf, size_t buf_bytes)
{
    if (rate->n_points == 0) {
        snprintf(buf, buf_bytes, "not known");
        return buf;
    }
    const struct td_split_point *first = &rate->points[0];
    const struct td_split_point *last = &rate->points[rate->n_points - 1];
    if (rate->n_points == 1)
        snprintf(buf, buf_bytes, "%.1f tok/s", first->tokens_per_s);
    else
        snprintf(buf, buf_bytes, "%.1f tok/s, %.1f at a depth of %.0f", first->tokens_per_s,
                 last->tokens_per_s, last->depth_tokens);
    return buf;
}

// ---- this end ---------------------------------------------------------------------------------

bool td_pair_is_usable(const struct td_config *cfg, const char **why_out)
{
    static const struct {
        enum td_opt opt;
        const char *why;
    } rows[] = {
        {TD_OPT_KEY, "--key goes with --prefill"},
        {TD_OPT_POLICY, "--prefill-policy goes with --prefill"},
        {TD_OPT_KV_WIRE, "--kv-wire goes with --prefill"},
        {TD_OPT_OTHER_WEIGHTS, "--allow-different-weights goes with --prefill"},
        {TD_OPT_CHECKPOINT, "--checkpoint goes with --prefill"},
        {TD_OPT_SILENT, "--prefill-timeout goes with --prefill"},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        if (td_opt_is_set(cfg, TD_OPT_PREFILL) || !td_opt_is_set(cfg, rows[i].opt)) continue;
        *why_out = rows[i].why;
        return false;
    }
    return true;
}

int td_pair_key(struct td_pair *p, const struct td_config *cfg, struct td_error *err)
{
    p->cfg = cfg;
    const char *path = td_opt_text(cfg, TD_OPT_KEY);
    if (!path) return TD_OK;
    const int code = td_key_load(&p->key, path, err);
    p->has_key = code == TD_OK;
    return code;
}

int td_pair_init(struct td_pair *p, struct td_app *app, enum td_wire_role role, bool wants_rates,
                 struct td_error *err)
{
    p->app = app;
    const struct td_spec *spec = &app->model->spec;
    uint8_t tokenizer[32], weights[32];
    int code = td_identity_tokenizer(app->model, tokenizer, err);
    if (code == TD_OK) code = td_pair_weights(p->cfg, app, weights, err);
    if (code != TD_OK) return code;
    to_hex(weights, p->weights);
    code =
        td_peer_init(&p->peer, role, spec, tokenizer, weights, app->kv_f32 ? TD_F32 : TD_F16, err);
    if (code != TD_OK) return code;
    const bool is_default = app->precision == TD_PRECISION_DEFAULT;
    snprintf(p->peer.identity.quant, sizeof(p->peer.identity.quant), "%.15s%s%s",
             td_app_main_type(app->model), is_default ? "" : ", ",
             is_default ? "" : td_precision_name(app->precision));
    if (role == TD_WIRE_DECODE && td_opt_is_set(p->cfg, TD_OPT_OTHER_WEIGHTS))
        p->peer.identity.flags |= TD_WIRE_ALLOW_WEIGHTS;
    if (app->precision == TD_PRECISION_HIGH) p->peer.identity.flags |= TD_WIRE_HIGH_PRECISION;
    if (app->precision == TD_PRECISION_FINE) p->peer.identity.flags |= TD_WIRE_FINE_PRECISION;
    return find_rates(p, wants_rates, err);
}

// What of far.h the options say; `where` is not set.
static void far_config(const struct td_pair *p, struct td_far_config *out)
{
    const struct td_config *cfg = p->cfg;
    const enum td_type own = p->app->kv_f32 ? TD_F32 : TD_F16;
    const double silent_ms = td_opt_f64(cfg, TD_OPT_SILENT) * 1e3;
    *out = (struct td_far_config){
        .key = p->has_key ? &p->key : NULL,
        .engine = p->app->engine,
        .backend = p->app->backend,
        .peer = &p->peer,
        .engine_kv_type = own,
        .kv_type = td_opt_choice(cfg, TD_OPT_KV_WIRE) == 1 ? TD_Q8_0 : own,
        .checkpoint_tokens = (uint32_t)td_opt_u64(cfg, TD_OPT_CHECKPOINT),
        .silent_ms = silent_ms < 1 ? 1 : (uint32_t)silent_ms,
        .prefill = p->prefill,
        .decode = p->decode,
    };
}

int td_pair_open(struct td_pair *p, struct td_app *app, enum td_remote_policy policy,
                 struct td_error *err)
{
    p->app = app;
    const char *peers = td_opt_text(p->cfg, TD_OPT_PREFILL);
    if (!peers) return TD_OK;
    // Nobody is asked: no weights need to be read for a digest.
    int code = TD_OK;
    if (policy != TD_REMOTE_NEVER)
        code = td_pair_init(p, app, TD_WIRE_DECODE, policy == TD_REMOTE_AUTO, err);
    if (code != TD_OK) return code;
    struct td_remote_config remote = {.peers = peers, .policy = policy};
    far_config(p, &remote.far);
    return td_remote_open(&p->remote, &remote, err);
}

void td_pair_close(struct td_pair *p)
{
    if (p->remote) {
        td_remote_rates(p->remote, &p->prefill, &p->decode);
        td_pair_save_rates(p);
    }
    td_remote_close(p->remote);
    td_key_wipe(&p->key);
    *p = (struct td_pair){0};
}
