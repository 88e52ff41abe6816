// SPDX-License-Identifier: MIT
// A prompt that may be read elsewhere: what is shown while it is, and what is said afterwards.
#include "app/pair.h"

#include "base/clock.h"

#include <string.h>
#include <unistd.h>

enum { WAIT_MS = 300, REDRAW_MS = 100 };

struct view {
    struct td_progress here; // of what is computed here
    uint64_t t0_ns, shown_ns;
    bool is_shown;
};

static void wipe(struct view *v)
{
    if (!v->is_shown) return;
    fputs("\r\033[K", stderr);
    fflush(stderr);
    v->is_shown = false;
}

static bool show_here(void *ctx, uint64_t done, uint64_t total)
{
    struct view *v = ctx;
    wipe(v);
    return td_progress_step(&v->here, done, total);
}

static bool show_there(void *ctx, const struct td_fetch_report *r)
{
    struct view *v = ctx;
    const uint64_t now_ns = td_clock_ns();
    if (!isatty(STDERR_FILENO) || now_ns - v->t0_ns < WAIT_MS * 1000000ull ||
        now_ns - v->shown_ns < REDRAW_MS * 1000000ull)
        return !td_app_interrupted();
    v->shown_ns = now_ns;
    v->is_shown = true;
    char bytes[24], rate[40] = "", overlap[32] = "";
    if (r->link_bytes_per_s > 0) {
        char per_s[24];
        snprintf(rate, sizeof(rate), ", %s/s",
                 td_text_gb(per_s, sizeof(per_s), (uint64_t)r->link_bytes_per_s));
    }
    if (r->transfer_seconds > 0) {
        const double part = 1 - r->exposed_seconds / r->transfer_seconds;
        snprintf(overlap, sizeof(overlap), ", overlap %.0f %%", part > 0 ? 100 * part : 0);
    }
    fprintf(stderr, "\r\033[Kreading there %u/%u tokens, %s here%s%s", r->n_far_computed,
            r->n_tokens, td_text_gb(bytes, sizeof(bytes), r->bytes), rate, overlap);
    fflush(stderr);
    return !td_app_interrupted();
}

int td_pair_sync(struct td_pair *p, struct td_session *s, const int32_t *tokens, uint32_t n,
                 const uint32_t *marks, uint32_t n_marks, struct td_remote_stats *stats,
                 struct td_error *err)
{
    struct view v = {.t0_ns = td_clock_ns()};
    *stats = (struct td_remote_stats){0};
    td_progress_begin(&v.here, "reading", "tokens");
    int code;
    if (p && p->remote) {
        const struct td_remote_ask ask = {.tokens = tokens,
                                          .n = n,
                                          .marks = marks,
                                          .n_marks = n_marks,
                                          .n_answer = p->n_answer,
                                          .progress = show_here,
                                          .remote_progress = show_there,
                                          .progress_ctx = &v};
        code = td_remote_sync(p->remote, s, &ask, stats, err);
        wipe(&v);
        td_progress_end(&v.here);
        if (code == TD_OK && stats->weights_differ)
            td_app_note("a model with other weights or another precision has read this prompt or "
                        "its beginning%s%s",
                        stats->peer[0] ? ", at " : "", stats->peer);
        return code;
    }
    code = td_session_sync(s, tokens, n, marks, n_marks, show_here, &v, err);
    td_progress_end(&v.here);
    return code;
}

static const char *kv_name(enum td_type type)
{
    return type == TD_Q8_0 ? "q8_0" : type == TD_F16 ? "f16" : "f32";
}

json_t *td_pair_stats_json(const struct td_remote_stats *s)
{
    json_t *out = json_object();
    td_json_text(out, "path", td_remote_path_text(s->path));
    td_json_bytes(out, "reason", s->reason, strlen(s->reason));
    td_json_bytes(out, "peer", s->peer, strlen(s->peer));
    td_json_u64(out, "tokens", s->n_tokens);
    td_json_u64(out, "have", s->n_have);
    td_json_u64(out, "remote_tokens", s->n_remote);
    td_json_u64(out, "local_tokens", s->n_local);
    td_json_u64(out, "resumes", s->n_resumed);
    td_json_f64(out, "seconds", s->seconds);
    td_json_f64(out, "far_seconds", s->far_seconds);
    td_json_u64(out, "bytes", s->bytes);
    td_json_text(out, "kv_wire", s->n_remote ? kv_name(s->kv_type) : "");
    td_json_f64(out, "transfer_seconds", s->transfer_seconds);
    td_json_f64(out, "exposed_seconds", s->exposed_seconds);
    td_json_f64(out, "overlap", s->overlap);
    td_json_f64(out, "stall_seconds", s->stall_seconds);
    td_json_f64(out, "predicted_seconds", s->predicted_seconds);
    json_object_set_new(out, "weights_differ", json_boolean(s->weights_differ));
    json_object_set_new(out, "all_there_is_faster", json_boolean(s->all_there_is_faster));
    return out;
}

const char *td_pair_stats_text(const struct td_remote_stats *s, char *buf, size_t buf_bytes)
{
    int n = 0;
    switch (s->path) {
    case TD_REMOTE_LOCAL: n = snprintf(buf, buf_bytes, "read here: %s", s->reason); break;
    case TD_REMOTE_REMOTE: n = snprintf(buf, buf_bytes, "read at %s", s->peer); break;
    case TD_REMOTE_RESUMED:
        n = snprintf(buf, buf_bytes, "read at %s over %u connections", s->peer, s->n_resumed + 1);
        break;
    case TD_REMOTE_SALVAGED:
        n = snprintf(buf, buf_bytes, "%u tokens of it read at %s, the rest here: %s", s->n_remote,
                     s->peer, s->reason);
        break;
    }
    if (n > 0 && (size_t)n < buf_bytes && s->n_remote > 0 && s->kv_type == TD_Q8_0)
        n += snprintf(buf + n, buf_bytes - (size_t)n, " (KV as q8_0)");
    if (n > 0 && (size_t)n < buf_bytes && s->all_there_is_faster)
        snprintf(buf + n, buf_bytes - (size_t)n,
                 " (with the answer it would be done sooner there)");
    return buf;
}
