// SPDX-License-Identifier: MIT
// What the subcommands share: exit codes, the error line, progress, signals, opening a model with
// all that hangs on it. Prints; decides nothing about models.
#ifndef TD_APP_APP_H
#define TD_APP_APP_H

#include "app/config.h"
#include "base/status.h"
#include "engine/engine.h"
#include "model/model.h"
#include "text/tokenizer.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum td_exit { TD_EXIT_OK = 0, TD_EXIT_FAIL = 1, TD_EXIT_USAGE = 2, TD_EXIT_INTERRUPTED = 130 };

// Prints "tandem: SENTENCE" to stderr and returns the exit code that fits: interrupted for
// TD_ECANCEL, failure for all else.
int td_app_fail(const struct td_error *err);
// The same for a wrong command line: names the command's --help; returns TD_EXIT_USAGE.
int td_app_usage(const struct td_config *cfg, const char *fmt, ...) TD_PRINTF(2, 3);
// What an errno value means. Main thread only.
const char *td_app_why(int errno_value);
// "tandem: LINE" to stderr: something the user should know.
void td_app_note(const char *fmt, ...) TD_PRINTF(1, 2);

// Flushes stdout; TD_EXIT_OK or TD_EXIT_FAIL. A failed write (a full disk) is said once, a closed
// pipe not at all.
int td_app_flush(void);

// Waits until fd can be read (or has ended); false when Ctrl-C came first.
bool td_app_wait_input(int fd);

// Reads a whole file, "-" is stdin, of at most max_bytes; *out is NUL-terminated and the caller's
// to free, NULL on failure.
int td_app_read_file(const char *path, uint64_t max_bytes, char **out, size_t *size_bytes_out,
                     struct td_error *err) TD_MUST_CHECK;

// Signals. SIGINT sets a flag and cancels the session given last; SIGBUS on a mapped file says
// which file was cut short and ends the program; SIGPIPE is ignored.
void td_app_signals(void);
void td_app_on_interrupt(struct td_session *s); // NULL: the flag only
// SIGINT and SIGTERM call fn(ctx), which must be safe in a signal handler; a second one ends the
// program. For good.
void td_app_on_stop(void (*fn)(void *ctx), void *ctx);
bool td_app_interrupted(void);
void td_app_clear_interrupt(void);

// A progress bar on stderr while it is a terminal; nothing otherwise.
struct td_progress {
    const char *label;
    const char *unit; // "tokens", "bytes"
    uint64_t t0_ns, shown_ns;
    bool is_shown;
};
void td_progress_begin(struct td_progress *p, const char *label, const char *unit);
// A td_progress_fn whose ctx is a td_progress; false once Ctrl-C was pressed.
bool td_progress_step(void *ctx, uint64_t done, uint64_t total);
void td_progress_end(struct td_progress *p); // wipes the line

// "12.1 GB" (decimal, as files are sold) and "11.3 GiB" (binary, as memory is); returns buf.
const char *td_text_gb(char *buf, size_t buf_bytes, uint64_t size_bytes);
const char *td_text_gib(char *buf, size_t buf_bytes, uint64_t size_bytes);

// Bytes of KV that a session of n_ctx tokens may come to, at most.
uint64_t td_app_kv_bytes(const struct td_spec *spec, uint32_t n_ctx, uint32_t chunk, bool kv_f32);

// A model ready to compute, opened as the options say.
struct td_app {
    struct td_model *model;
    struct td_tokenizer *tokenizer; // NULL when not wanted, or the file has none
    struct td_engine *engine;
    const struct td_backend *backend;
    uint32_t n_ctx;
    uint32_t n_threads;
    uint32_t chunk;
    bool kv_f32;
    enum td_precision precision;
    uint64_t kv_bytes;     // that n_ctx tokens may come to
    uint64_t max_kv_bytes; // of all sessions together; 0: as memory allows
    double load_seconds;
};
struct td_app_wants {
    uint32_t n_ctx;           // 0: the model's, as far as memory allows
    uint32_t max_logits_rows; // 0: as many as fit in 64 MiB, at most the chunk
    uint32_t n_slots;         // sessions of n_ctx tokens; 0: one
    uint64_t max_kv_bytes;    // of all of them; 0: as memory allows
    bool one_pool;            // the KV of all sessions is one pool, which holds one of n_ctx
    bool long_ctx;            // n_ctx 0: as long as the model and max_kv_bytes allow
    bool quiet;               // the model's note is shown elsewhere
    bool text;                // a tokenizer is needed: a model without one is an error
};
int td_app_open(struct td_app *app, const struct td_config *cfg, const struct td_app_wants *wants,
                struct td_error *err) TD_MUST_CHECK;
void td_app_close(struct td_app *app);

// Fails with a sentence that says what to do when path is no readable file; for `synth:` it is
// fine.
int td_app_check_model_path(const char *path, struct td_error *err) TD_MUST_CHECK;
// The path of the model that comes with tandem; false, and out is of no use, where there is none.
bool td_app_shipped_model(char *out, size_t out_bytes);
// The type that most of the weights' bytes have: "MXFP4".
const char *td_app_main_type(const struct td_model *model);
// -t, or the CPUs this process may use.
uint32_t td_app_threads(const struct td_config *cfg);
// The kernels that will run: "avx512, all 23 functions", and what is generic though it need not be.
const char *td_app_kernels(const struct td_config *cfg, char *buf, size_t buf_bytes);

#endif
