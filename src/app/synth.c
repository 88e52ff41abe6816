// SPDX-License-Identifier: MIT
// `tandem synth`: a model of a known shape with random weights, as a file.
#include "app/app.h"
#include "app/commands.h"

#include "base/clock.h"
#include "base/num.h"
#include "model/synth.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

// Options of the command and the keys of td_synth_parse they stand for.
static const struct {
    enum td_opt opt;
    const char *key;
} keys[] = {
    {TD_OPT_SEED, "seed"},
    {TD_OPT_LAYERS, "layers"},
    {TD_OPT_HIDDEN, "hidden"},
    {TD_OPT_HEADS, "heads"},
    {TD_OPT_KV_HEADS, "kv-heads"},
    {TD_OPT_HEAD_DIM, "head-dim"},
    {TD_OPT_EXPERTS, "experts"},
    {TD_OPT_SYNTH_TOP_K, "top-k"},
    {TD_OPT_FF, "ff"},
    {TD_OPT_VOCAB, "vocab"},
    {TD_OPT_SYNTH_CTX, "ctx"},
    {TD_OPT_WINDOW, "window"},
    {TD_OPT_EXPERTS_TYPE, "experts-type"},
    {TD_OPT_ATTN_TYPE, "attn-type"},
    {TD_OPT_EMBD_TYPE, "embd-type"},
};

// "NAME,key=value,..." of the options given.
static int shape_text(const struct td_config *cfg, char *out, size_t out_bytes,
                      struct td_error *err)
{
    size_t n = (size_t)snprintf(out, out_bytes, "%s", cfg->args[0]);
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]) && n < out_bytes; i++) {
        if (!td_opt_is_set(cfg, keys[i].opt)) continue;
        const bool is_text = keys[i].opt == TD_OPT_EXPERTS_TYPE ||
                             keys[i].opt == TD_OPT_ATTN_TYPE || keys[i].opt == TD_OPT_EMBD_TYPE;
        if (is_text)
            n += (size_t)snprintf(out + n, out_bytes - n, ",%s=%s", keys[i].key,
                                  td_opt_text(cfg, keys[i].opt));
        else
            n += (size_t)snprintf(out + n, out_bytes - n, ",%s=%llu", keys[i].key,
                                  (unsigned long long)td_opt_u64(cfg, keys[i].opt));
    }
    if (n >= out_bytes) return td_fail(err, TD_EARG, "the description of the model is too long");
    return TD_OK;
}

// The folder must take size_bytes more; says so before an hour of writing.
static int check_space(const char *path, uint64_t size_bytes, struct td_error *err)
{
    char folder[512];
    const char *slash = strrchr(path, '/');
    const size_t len = slash ? (size_t)(slash - path) : 0;
    if (len >= sizeof(folder)) return td_fail(err, TD_EARG, "the path is too long");
    snprintf(folder, sizeof(folder), "%.*s", slash ? (int)(len ? len : 1) : 1, slash ? path : ".");
    struct statvfs fs;
    if (statvfs(folder, &fs) != 0)
        return td_fail(err, TD_EIO, "%.160s: %s", folder, td_app_why(errno));
    uint64_t free_bytes;
    if (!td_mul_u64(fs.f_bavail, fs.f_frsize, &free_bytes)) return TD_OK;
    if (free_bytes >= size_bytes) return TD_OK;
    char need[24], have[24];
    return td_fail(err, TD_EIO, "%.100s: %s are needed and %s are free on that disk", path,
                   td_text_gb(need, sizeof(need), size_bytes),
                   td_text_gb(have, sizeof(have), free_bytes));
}

static int size_of(const char *text, uint64_t *size_bytes_out, struct td_error *err)
{
    char name[600];
    snprintf(name, sizeof(name), "synth:%s", text);
    struct td_model *model = NULL;
    const struct td_model_options options = {.header_only = true};
    const int code = td_model_open(&model, name, &options, err);
    if (code == TD_OK) *size_bytes_out = model->weights_bytes;
    td_model_close(model);
    return code;
}

int td_cmd_synth(const struct td_config *cfg)
{
    struct td_error err = {0};
    const char *path = cfg->args[1];
    char text[512];
    struct td_synth_shape shape;
    if (shape_text(cfg, text, sizeof(text), &err) != TD_OK ||
        td_synth_parse(&shape, text, &err) != TD_OK)
        return td_app_usage(cfg, "%s", err.msg);

    struct stat st;
    const bool is_there = stat(path, &st) == 0;
    if (is_there && S_ISDIR(st.st_mode)) {
        td_app_note("%.160s: a folder; give the name of the file to write", path);
        return TD_EXIT_FAIL;
    }
    if (is_there && S_ISREG(st.st_mode) && !td_opt_is_set(cfg, TD_OPT_FORCE)) {
        td_app_note("%.160s is already there; --force overwrites it", path);
        return TD_EXIT_FAIL;
    }
    uint64_t size_bytes = 0;
    if (size_of(text, &size_bytes, &err) != TD_OK) return td_app_fail(&err);
    const uint64_t old_bytes = is_there ? (uint64_t)st.st_size : 0;
    if (size_bytes > old_bytes && check_space(path, size_bytes - old_bytes, &err) != TD_OK)
        return td_app_fail(&err);

    struct td_progress progress;
    td_progress_begin(&progress, "writing", "bytes");
    const struct td_model_options options = {
        .n_threads = td_app_threads(cfg), .progress = td_progress_step, .progress_ctx = &progress};
    const uint64_t t0_ns = td_clock_ns();
    const int code = td_synth_write(&shape, path, &options, &err);
    td_progress_end(&progress);
    if (code != TD_OK) {
        if (!is_there) (void)unlink(path); // a torso is worth nothing
        return td_app_fail(&err);
    }
    char gb[24];
    if (stat(path, &st) == 0)
        printf("%s: %s in %.1f s, random weights: its answers are noise\n", path,
               td_text_gb(gb, sizeof(gb), (uint64_t)st.st_size),
               (double)(td_clock_ns() - t0_ns) * 1e-9);
    return TD_EXIT_OK;
}
