// SPDX-License-Identifier: MIT
// `tandem run`: one answer, or a chat.
#include "app/app.h"
#include "app/chat.h"
#include "app/commands.h"
#include "app/json.h"

#include "base/clock.h"
#include "base/os.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_PROMPT_BYTES = 256 << 20 };
enum stats_form { STATS_TEXT, STATS_JSON, STATS_NONE };

struct run {
    const struct td_config *cfg;
    struct td_app app;
    struct td_pair pair;
    struct td_conversation *conversation;
    uint64_t seed;
    bool is_chat;
};

static double rate(double n, double seconds)
{
    return n > 0 && seconds > 0 ? n / seconds : 0;
}

static void print_stats_json(const struct run *r, const struct td_chat_stats *s)
{
    struct td_os_rss rss;
    struct td_device_report device;
    td_os_rss(&rss);
    td_engine_report(r->app.engine, &device);
    json_t *out = json_object();
    td_json_u64(out, "prompt_tokens", s->n_prompt);
    td_json_u64(out, "reused_tokens", s->n_reused);
    td_json_u64(out, "generated_tokens", s->n_generated);
    td_json_f64(out, "prompt_seconds", s->prompt_seconds);
    td_json_f64(out, "decode_seconds", s->decode_seconds);
    td_json_f64(out, "prompt_tok_s", rate(s->n_prompt - s->n_reused, s->prompt_seconds));
    td_json_f64(out, "decode_tok_s", rate(s->n_generated - 1.0, s->decode_seconds));
    td_json_f64(out, "ttft_seconds", s->ttft_seconds);
    td_json_f64(out, "load_seconds", r->app.load_seconds);
    td_json_text(out, "stop_reason", s->stop_reason);
    td_json_u64(out, "seed", r->seed);
    td_json_u64(out, "n_ctx", r->app.n_ctx);
    td_json_u64(out, "n_threads", r->app.n_threads);
    td_json_text(out, "isa", device.isa);
    td_json_u64(out, "rss_bytes", rss.now_bytes);
    td_json_u64(out, "rss_peak_bytes", rss.peak_bytes);
    td_json_u64(out, "rss_file_bytes", rss.file_bytes);
    td_json_u64(out, "kv_bytes", device.kv_bytes);
    td_json_u64(out, "scratch_bytes", device.scratch_bytes);
    if (r->pair.remote) json_object_set_new(out, "prefill", td_pair_stats_json(&s->prefill));
    (void)td_json_print(stderr, out, JSON_COMPACT);
}

static void print_stats(const struct td_chat_stats *s, void *ctx)
{
    const struct run *r = ctx;
    const enum stats_form form = (enum stats_form)td_opt_choice(r->cfg, TD_OPT_STATS);
    if (strcmp(s->stop_reason, "context") == 0)
        td_app_note("the answer stopped because the context of %u tokens is full%s", r->app.n_ctx,
                    r->is_chat ? "; /clear starts a new conversation" : "; use a larger --ctx");
    if (form == STATS_NONE) return;
    if (form == STATS_JSON) {
        print_stats_json(r, s);
        return;
    }
    const bool dim = isatty(STDERR_FILENO) && !r->cfg->no_color;
    char reused[48] = "";
    if (s->n_reused) snprintf(reused, sizeof(reused), " (%u of them reused)", s->n_reused);
    char where[400] = "";
    if (r->pair.remote) {
        char text[380];
        snprintf(where, sizeof(where), ", %s", td_pair_stats_text(&s->prefill, text, sizeof(text)));
    }
    fprintf(stderr, "%sprompt %u tokens%s, %.1f tok/s%s; answer %u tokens, %.1f tok/s%s%s\n",
            dim ? "\033[2m" : "", s->n_prompt, reused,
            rate(s->n_prompt - s->n_reused, s->prompt_seconds), where, s->n_generated,
            rate(s->n_generated - 1.0, s->decode_seconds),
            strcmp(s->stop_reason, "interrupted") == 0 ? "; interrupted" : "",
            dim ? "\033[0m" : "");
}

// A seed nobody chose: from the system, or from what differs between two runs.
static uint64_t random_seed(void)
{
    uint64_t seed = 0;
    const int fd = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
    const bool got = fd >= 0 && read(fd, &seed, sizeof(seed)) == (ssize_t)sizeof(seed);
    if (fd >= 0) close(fd);
    if (!got) seed = td_clock_ns() ^ ((uint64_t)getpid() << 32);
    return seed >> 16; // short enough to copy from a screen, and exact in any JSON reader
}

// The prompt's text: from -p, -f or the standard input; NULL and TD_OK for a chat.
static int get_prompt(const struct td_config *cfg, char **out, size_t *size_bytes_out,
                      struct td_error *err)
{
    *out = NULL;
    const char *text = td_opt_text(cfg, TD_OPT_PROMPT);
    const char *file = td_opt_text(cfg, TD_OPT_PROMPT_FILE);
    if (!text && !file && isatty(STDIN_FILENO)) return TD_OK;
    if (!text && !file) file = "-";
    if (text && strcmp(text, "-") == 0) file = "-";
    if (!file) {
        *size_bytes_out = strlen(text);
        *out = strdup(text);
        return *out ? TD_OK : td_fail(err, TD_ENOMEM, "no memory for the prompt");
    }
    return td_app_read_file(file, MAX_PROMPT_BYTES, out, size_bytes_out, err);
}

static struct td_chat_options chat_options(const struct td_config *cfg, uint64_t seed)
{
    return (struct td_chat_options){
        .raw = td_opt_is_set(cfg, TD_OPT_RAW),
        .parse_special = td_opt_is_set(cfg, TD_OPT_SPECIAL),
        .show_reasoning = td_opt_is_set(cfg, TD_OPT_SHOW_REASONING),
        .no_color = cfg->no_color,
        .ignore_end = td_opt_is_set(cfg, TD_OPT_IGNORE_EOS),
        .max_tokens = (uint32_t)td_opt_u64(cfg, TD_OPT_N_PREDICT),
        .system = td_opt_text(cfg, TD_OPT_SYSTEM),
        .effort = (enum td_effort)td_opt_choice(cfg, TD_OPT_REASONING),
        .sampling = {.temp = (float)td_opt_f64(cfg, TD_OPT_TEMP),
                     .top_k = (uint32_t)td_opt_u64(cfg, TD_OPT_TOP_K),
                     .top_p = (float)td_opt_f64(cfg, TD_OPT_TOP_P),
                     .min_p = (float)td_opt_f64(cfg, TD_OPT_MIN_P),
                     .seed = seed},
    };
}

static int run(struct run *r, const char *text, size_t size_bytes, struct td_error *err)
{
    const struct td_config *cfg = r->cfg;
    const struct td_app_wants wants = {
        .n_ctx = (uint32_t)td_opt_u64(cfg, TD_OPT_CTX), .max_logits_rows = 1, .text = true};
    // A wrong key should be known before a large model is opened.
    int code = td_pair_key(&r->pair, cfg, err);
    if (code == TD_OK) code = td_app_open(&r->app, cfg, &wants, err);
    if (code != TD_OK) return code;
    code = td_pair_open(&r->pair, &r->app, (enum td_remote_policy)td_opt_choice(cfg, TD_OPT_POLICY),
                        err);
    if (code != TD_OK) return code;
    r->pair.n_answer = (uint32_t)td_opt_u64(cfg, TD_OPT_N_PREDICT);
    struct td_chat_options options = chat_options(cfg, r->seed);
    options.pair = &r->pair;
    code = td_conversation_open(&r->conversation, &r->app, &options, err);
    if (code != TD_OK || r->is_chat) return code;
    struct td_chat_stats stats;
    code = td_conversation_say(r->conversation, text, size_bytes, &stats, err);
    if (code == TD_OK) print_stats(&stats, r);
    return code;
}

// The command line is in order and names a model.
static int run_checked(const struct td_config *cfg)
{
    struct td_error err = {0};
    char *text = NULL;
    size_t size_bytes = 0;
    int code = td_app_check_model_path(td_opt_text(cfg, TD_OPT_MODEL), &err);
    if (code == TD_OK) code = get_prompt(cfg, &text, &size_bytes, &err);
    if (code != TD_OK) return td_app_fail(&err);
    if (text && size_bytes == 0) {
        free(text);
        return td_app_usage(cfg, "the prompt is empty");
    }
    struct run r = {.cfg = cfg,
                    .seed = td_opt_is_set(cfg, TD_OPT_SEED) ? td_opt_u64(cfg, TD_OPT_SEED)
                                                            : random_seed(),
                    .is_chat = !text};
    if (r.is_chat && td_opt_is_set(cfg, TD_OPT_RAW))
        return td_app_usage(cfg, "--raw needs a prompt: -p TEXT or -f FILE");
    code = run(&r, text, size_bytes, &err);
    int exit_code = TD_EXIT_OK;
    if (code != TD_OK)
        exit_code = td_app_fail(&err);
    else if (r.is_chat)
        exit_code = td_repl(r.conversation, &r.app, print_stats, &r);
    else if (td_app_interrupted())
        exit_code = TD_EXIT_INTERRUPTED;
    td_conversation_close(r.conversation);
    td_pair_close(&r.pair);
    if (r.app.model) td_app_close(&r.app);
    free(text);
    return exit_code;
}

int td_cmd_run(const struct td_config *cfg)
{
    const char *usage;
    if (td_opt_is_set(cfg, TD_OPT_PROMPT) && td_opt_is_set(cfg, TD_OPT_PROMPT_FILE))
        return td_app_usage(cfg, "-p and -f both give the prompt");
    if (td_opt_is_set(cfg, TD_OPT_SPECIAL) && !td_opt_is_set(cfg, TD_OPT_RAW))
        return td_app_usage(cfg, "--special goes with --raw");
    if (td_opt_is_set(cfg, TD_OPT_SYSTEM) && td_opt_is_set(cfg, TD_OPT_RAW))
        return td_app_usage(cfg, "--system needs the chat format, which --raw leaves out");
    if (!td_pair_is_usable(cfg, &usage)) return td_app_usage(cfg, "%s", usage);
    if (td_opt_text(cfg, TD_OPT_MODEL)) return run_checked(cfg);

    struct td_config with_model = *cfg;
    char path[4096];
    if (!td_app_shipped_model(path, sizeof(path)))
        return td_app_usage(cfg, "'run' needs a model: -m FILE.gguf or -m synth:gpt-oss-20b");
    with_model.values[TD_OPT_MODEL].text = path;
    td_app_note("this is tandem-mini, the small model that comes with tandem; -m takes another");
    return run_checked(&with_model);
}
