// SPDX-License-Identifier: MIT
// `tandem serve`: opens the model, the scheduler, the API and the HTTP server over each other, says
// where it is to be found, and closes them in the opposite order when it is told to.
#include "app/serve.h"
#include "app/app.h"
#include "app/commands.h"
#include "app/pair.h"
#include "server/kvdisk.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { MAX_NAMES = 64, MAX_SECRET_BYTES = 1 << 20, MIN_KEY_CHARS = 16, FLUSH_MS = 5000 };

// Texts of a list option: "a,b", cut in place.
struct names {
    char *text;
    const char *items[MAX_NAMES];
    uint32_t n;
};

struct serve {
    const struct td_config *cfg;
    struct td_app app;
    struct td_pair pair;
    struct td_kvdisk *disk;
    struct td_sched *sched;
    struct td_api *api;
    struct td_http *http;
    char *api_key, *tls_cert, *tls_key;
    struct names hosts, origins;
    char name[128];
    int stop_pipe[2];
};

// ---- what the options name --------------------------------------------------------------------

static int split_names(struct names *out, const struct td_config *cfg, enum td_opt opt,
                       struct td_error *err)
{
    const char *text = td_opt_text(cfg, opt);
    if (!text) return TD_OK;
    out->text = strdup(text);
    if (!out->text) return td_fail(err, TD_ENOMEM, "no memory");
    for (char *at = out->text; at;) {
        char *comma = strchr(at, ',');
        if (comma) *comma = '\0';
        if (out->n == MAX_NAMES)
            return td_fail(err, TD_EARG, "more than %d names in one list", MAX_NAMES);
        if (*at) out->items[out->n++] = at;
        at = comma ? comma + 1 : NULL;
    }
    return TD_OK;
}

// A file that holds a secret: nobody but its owner may read it.
static int read_secret(const char *path, char **out, struct td_error *err)
{
    struct stat st;
    size_t n = 0;
    if (stat(path, &st) != 0) return td_fail(err, TD_EIO, "%.160s: %s", path, td_app_why(errno));
    if (!S_ISREG(st.st_mode)) return td_fail(err, TD_EIO, "%.160s: not a file", path);
    if (st.st_mode & 077)
        return td_fail(err, TD_EIO,
                       "%.160s may be read by others than its owner (mode %03o): chmod 600 it",
                       path, (unsigned)(st.st_mode & 0777));
    const int code = td_app_read_file(path, MAX_SECRET_BYTES, out, &n, err);
    if (code == TD_OK && (!*out || n == 0)) return td_fail(err, TD_EARG, "%.160s: empty", path);
    return code;
}

static int read_api_key(struct serve *s, struct td_error *err)
{
    const char *path = td_opt_text(s->cfg, TD_OPT_API_KEY);
    if (!path) return TD_OK;
    const int code = read_secret(path, &s->api_key, err);
    if (code != TD_OK) return code;
    // The first line; what a header cannot carry is no key.
    s->api_key[strcspn(s->api_key, "\r\n")] = '\0';
    for (const char *c = s->api_key; *c; c++)
        if (*c <= ' ' || *c >= 0x7f)
            return td_fail(err, TD_EARG,
                           "%.160s: an API key is one line of letters, digits and signs", path);
    if (strlen(s->api_key) < MIN_KEY_CHARS)
        return td_fail(err, TD_EARG,
                       "%.160s: an API key has at least %d characters (openssl rand -hex 32 makes "
                       "a good one)",
                       path, MIN_KEY_CHARS);
    return TD_OK;
}

static int read_files(struct serve *s, struct td_error *err)
{
    size_t n;
    const char *cert = td_opt_text(s->cfg, TD_OPT_TLS_CERT);
    const char *key = td_opt_text(s->cfg, TD_OPT_TLS_KEY);
    int code = read_api_key(s, err);
    if (code == TD_OK && cert)
        code = td_app_read_file(cert, MAX_SECRET_BYTES, &s->tls_cert, &n, err);
    if (code == TD_OK && cert && !s->tls_cert) code = td_fail(err, TD_EARG, "%.160s: empty", cert);
    if (code == TD_OK && key) code = read_secret(key, &s->tls_key, err);
    if (code == TD_OK) code = split_names(&s->hosts, s->cfg, TD_OPT_ALLOW_HOST, err);
    if (code == TD_OK) code = split_names(&s->origins, s->cfg, TD_OPT_CORS, err);
    return code;
}

static bool is_loopback(const char *host)
{
    unsigned char v4[4];
    if (inet_pton(AF_INET, host, v4) == 1) return v4[0] == 127;
    return strcmp(host, "localhost") == 0 || strcmp(host, "::1") == 0;
}

// --name, or the file's without its folder and ending.
static void choose_name(struct serve *s)
{
    const char *path = td_opt_text(s->cfg, TD_OPT_MODEL);
    const char *name = td_opt_text(s->cfg, TD_OPT_NAME);
    const char *slash = strrchr(path, '/');
    if (!name) name = slash ? slash + 1 : path;
    const size_t n = strlen(name), n_end = strlen(".gguf");
    const bool has_end = n > n_end && strcmp(name + n - n_end, ".gguf") == 0;
    snprintf(s->name, sizeof(s->name), "%.*s", (int)(has_end ? n - n_end : n), name);
}

// ---- the floors, upwards ----------------------------------------------------------------------

static int open_app(struct serve *s, struct td_error *err)
{
    const struct td_config *cfg = s->cfg;
    const struct td_app_wants wants = {.n_ctx = (uint32_t)td_opt_u64(cfg, TD_OPT_CTX_SERVE),
                                       .n_slots = 1,
                                       .max_kv_bytes = td_opt_u64(cfg, TD_OPT_KV_MEM),
                                       .long_ctx = true,
                                       .one_pool = true,
                                       .max_logits_rows =
                                           (uint32_t)td_opt_u64(cfg, TD_OPT_SLOTS_SERVE),
                                       .text = true};
    // A wrong key should be known before a large model is opened.
    int code = td_pair_key(&s->pair, cfg, err);
    if (code == TD_OK) code = td_app_open(&s->app, cfg, &wants, err);
    if (code == TD_OK)
        code = td_pair_open(&s->pair, &s->app,
                            (enum td_remote_policy)td_opt_choice(cfg, TD_OPT_POLICY), err);
    return code;
}

static int open_disk(struct serve *s, struct td_error *err)
{
    struct td_kvdisk_config disk = {.dir = td_opt_text(s->cfg, TD_OPT_KV_DISK),
                                    .max_bytes = td_opt_u64(s->cfg, TD_OPT_KV_DISK_SIZE)};
    if (!disk.dir) return TD_OK;
    const int code = td_pair_weights(s->cfg, &s->app, disk.weights, err);
    // KV that came in fewer bits is not what these weights give: files of its own.
    if (s->pair.remote && td_opt_choice(s->cfg, TD_OPT_KV_WIRE) == 1) disk.weights[31] ^= 1;
    return code == TD_OK ? td_kvdisk_open(&s->disk, &disk, s->app.engine, err) : code;
}

static void on_request(void *ctx, const struct td_http_record *record)
{
    const enum td_log_form form = *(const enum td_log_form *)ctx;
    struct timespec now;
    char line[2048];
    (void)clock_gettime(CLOCK_REALTIME, &now);
    const size_t n =
        td_log_line(line, sizeof(line), form,
                    (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000, record);
    // One write a line, so that lines of several threads do not mix.
    const ssize_t written = write(STDERR_FILENO, line, n);
    (void)written;
}

static int open_server(struct serve *s, enum td_log_form *form, struct td_error *err)
{
    const struct td_config *cfg = s->cfg;
    const struct td_sched_config sched = {
        .engine = s->app.engine,
        .tokenizer = s->app.tokenizer,
        .n_ctx = s->app.n_ctx,
        .n_slots = (uint32_t)td_opt_u64(cfg, TD_OPT_SLOTS_SERVE),
        .n_queue = (uint32_t)td_opt_u64(cfg, TD_OPT_QUEUE),
        .chunk = s->app.chunk,
        .max_gap_ms = (uint32_t)td_opt_u64(cfg, TD_OPT_MAX_GAP),
        .max_kv_bytes = s->app.max_kv_bytes,
        .remote = s->pair.remote,
        .disk = s->disk,
    };
    int code = td_sched_open(&s->sched, &sched, err);
    const struct td_api_config api = {.sched = s->sched,
                                      .tokenizer = s->app.tokenizer,
                                      .model = s->app.model,
                                      .model_name = s->name,
                                      .n_ctx = s->app.n_ctx,
                                      .max_answer = (uint32_t)td_opt_u64(cfg, TD_OPT_MAX_ANSWER),
                                      .version = TD_VERSION};
    if (code == TD_OK) code = td_api_open(&s->api, &api, err);
    *form = (enum td_log_form)td_opt_choice(cfg, TD_OPT_LOG_FORMAT);
    const struct td_http_config http = {
        .api = s->api,
        .sched = s->sched,
        .host = td_opt_text(cfg, TD_OPT_HOST),
        .port = (uint16_t)td_opt_u64(cfg, TD_OPT_PORT),
        .api_key = s->api_key,
        .tls_cert = s->tls_cert,
        .tls_key = s->tls_key,
        .hosts = s->hosts.items,
        .n_hosts = s->hosts.n,
        .origins = s->origins.items,
        .n_origins = s->origins.n,
        .max_body_bytes = td_opt_u64(cfg, TD_OPT_MAX_BODY),
        .max_connections = (uint32_t)td_opt_u64(cfg, TD_OPT_MAX_CONNECTIONS),
        .max_connections_ip = (uint32_t)td_opt_u64(cfg, TD_OPT_MAX_PER_ADDRESS),
        .max_requests_per_s = (uint32_t)td_opt_u64(cfg, TD_OPT_MAX_RATE),
        .header_timeout_s = (uint32_t)td_opt_u64(cfg, TD_OPT_REQUEST_TIMEOUT),
        .keep_alive_s = (uint32_t)td_opt_u64(cfg, TD_OPT_KEEP_ALIVE),
        .version = TD_VERSION,
        .log = *form == TD_LOG_NONE ? NULL : on_request,
        .log_ctx = form,
    };
    if (code == TD_OK) code = td_http_open(&s->http, &http, err);
    return code;
}

static void say_ready(const struct serve *s)
{
    const char *host = td_opt_text(s->cfg, TD_OPT_HOST);
    const bool is_v6 = strchr(host, ':') != NULL;
    const unsigned n_slots = (unsigned)td_opt_u64(s->cfg, TD_OPT_SLOTS_SERVE);
    char kv[24];
    fprintf(stderr,
            "serving at %s://%s%s%s:%u/, model %s (%s), context %u tokens, %u slot%s, KV up to "
            "%s%s\n",
            s->tls_cert ? "https" : "http", is_v6 ? "[" : "", host, is_v6 ? "]" : "",
            td_http_port(s->http), s->name, td_app_main_type(s->app.model), s->app.n_ctx, n_slots,
            n_slots == 1 ? "" : "s", td_text_gib(kv, sizeof(kv), s->app.max_kv_bytes),
            s->pair.remote ? ", prompts may be read by peers" : "");
    if (!is_loopback(host) && !s->tls_cert)
        td_app_note("what is said travels in the clear; --tls-cert and --tls-key encrypt it");
}

// ---- until it is told to stop -----------------------------------------------------------------

// In a signal handler.
static void stop(void *ctx)
{
    const struct serve *s = ctx;
    const ssize_t n = write(s->stop_pipe[1], "", 1);
    (void)n;
}

static void wait_for_stop(struct serve *s)
{
    struct pollfd in = {.fd = s->stop_pipe[0], .events = POLLIN};
    while (poll(&in, 1, -1) < 0 && errno == EINTR) {
    }
}

static void drain(struct serve *s)
{
    const uint64_t timeout_ms = td_opt_u64(s->cfg, TD_OPT_DRAIN_TIMEOUT) * 1000;
    struct td_sched_stats stats;
    td_http_drain(s->http);
    td_sched_drain(s->sched);
    td_sched_stats(s->sched, &stats);
    const uint32_t n = stats.n_running + stats.n_queued;
    if (n)
        td_app_note("ending; %u answer%s may go on for %llu s, a second signal ends at once", n,
                    n == 1 ? "" : "s", (unsigned long long)(timeout_ms / 1000));
    if (!td_sched_wait_idle(s->sched, (uint32_t)timeout_ms))
        td_app_note("answers that have not ended are cut off");
    else
        (void)td_http_wait_idle(s->http, FLUSH_MS); // what is written is also to be read
}

static int serve(struct serve *s, struct td_error *err)
{
    enum td_log_form form;
    struct sigaction ignore = {.sa_handler = SIG_IGN};
    sigemptyset(&ignore.sa_mask);
    (void)sigaction(SIGHUP, &ignore, NULL); // there is nothing to open anew
    int code = read_files(s, err);
    if (code == TD_OK) code = open_app(s, err);
    if (code == TD_OK && td_app_interrupted()) code = td_fail(err, TD_ECANCEL, "interrupted");
    choose_name(s);
    if (code == TD_OK) code = open_disk(s, err);
    if (code == TD_OK) code = open_server(s, &form, err);
    if (code == TD_OK) {
        td_app_on_stop(stop, s);
        say_ready(s);
        if (!td_app_interrupted()) wait_for_stop(s); // else: a moment before
        drain(s);
    }
    td_http_close(s->http);
    td_api_close(s->api);
    td_sched_close(s->sched);
    td_kvdisk_close(s->disk);
    td_app_on_stop(NULL, NULL);
    return code;
}

static int run_checked(const struct td_config *cfg)
{
    struct td_error err = {0};
    struct serve s = {.cfg = cfg, .stop_pipe = {-1, -1}};
    int code = td_app_check_model_path(td_opt_text(cfg, TD_OPT_MODEL), &err);
    if (code == TD_OK && pipe(s.stop_pipe) != 0)
        code = td_fail(&err, TD_EIO, "no pipe: %s", td_app_why(errno));
    if (code == TD_OK) code = serve(&s, &err);
    td_pair_close(&s.pair);
    if (s.app.model) td_app_close(&s.app);
    for (int i = 0; i < 2; i++)
        if (s.stop_pipe[i] >= 0) close(s.stop_pipe[i]);
    free(s.api_key);
    free(s.tls_cert);
    free(s.tls_key);
    free(s.hosts.text);
    free(s.origins.text);
    return code == TD_OK ? TD_EXIT_OK : td_app_fail(&err);
}

int td_cmd_serve(const struct td_config *cfg)
{
    const char *usage;
    const char *host = td_opt_text(cfg, TD_OPT_HOST);
    if (td_opt_is_set(cfg, TD_OPT_TLS_CERT) != td_opt_is_set(cfg, TD_OPT_TLS_KEY))
        return td_app_usage(cfg, "--tls-cert and --tls-key go together");
    if (td_opt_is_set(cfg, TD_OPT_KV_DISK_SIZE) && !td_opt_is_set(cfg, TD_OPT_KV_DISK))
        return td_app_usage(cfg, "--kv-disk-size goes with --kv-disk");
    if (!is_loopback(host) && !td_opt_is_set(cfg, TD_OPT_API_KEY) &&
        !td_opt_is_set(cfg, TD_OPT_ALLOW_PUBLIC))
        return td_app_usage(cfg,
                            "at %.60s others than this machine can ask: give an --api-key, or "
                            "--allow-public if they may",
                            host);
    if (!td_pair_is_usable(cfg, &usage)) return td_app_usage(cfg, "%s", usage);
    if (td_opt_text(cfg, TD_OPT_MODEL)) return run_checked(cfg);

    struct td_config with_model = *cfg;
    char path[4096];
    if (!td_app_shipped_model(path, sizeof(path)))
        return td_app_usage(cfg, "'serve' needs a model: -m FILE.gguf or -m synth:gpt-oss-20b");
    with_model.values[TD_OPT_MODEL].text = path;
    td_app_note("this is tandem-mini, the small model that comes with tandem; -m takes another");
    return run_checked(&with_model);
}
