// SPDX-License-Identifier: MIT
// Errors, files and signals as the subcommands share them.
#include "app/app.h"

#include "base/os.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// Written by commands, read by the signal handler: lock-free, so both are async-signal-safe.
static _Atomic(struct td_session *) g_session;
static atomic_bool g_interrupted;
static _Atomic(void *) g_stop_ctx;
static void (*_Atomic g_stop)(void *ctx);

const char *td_app_why(int errno_value)
{
    return strerror(errno_value); // NOLINT(concurrency-mt-unsafe): the main thread only
}

int td_app_fail(const struct td_error *err)
{
    if (err->code == TD_ECANCEL && td_app_interrupted()) return TD_EXIT_INTERRUPTED;
    fflush(stdout); // what was written stands before the error
    fprintf(stderr, "tandem: %s\n", err->msg);
    return TD_EXIT_FAIL;
}

int td_app_usage(const struct td_config *cfg, const char *fmt, ...)
{
    char line[512];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(line, sizeof(line), fmt, args);
    va_end(args);
    fprintf(stderr, "tandem: %s; see `tandem %s --help`\n", line, cfg->command->name);
    return TD_EXIT_USAGE;
}

void td_app_note(const char *fmt, ...)
{
    char line[512];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(line, sizeof(line), fmt, args);
    va_end(args);
    fprintf(stderr, "tandem: %s\n", line);
}

int td_app_flush(void)
{
    static bool is_lost; // said once
    if (is_lost) return TD_EXIT_FAIL;
    errno = 0;
    if (fflush(stdout) == 0 && !ferror(stdout)) return TD_EXIT_OK;
    is_lost = true;
    // The reader went away (`tandem ... | head`): nobody is left to be told.
    if (errno != EPIPE)
        td_app_note("the output cannot be written: %s", errno ? td_app_why(errno) : "write error");
    return TD_EXIT_FAIL;
}

bool td_app_wait_input(int fd)
{
    // In slices: a signal between the question and the wait would otherwise be slept over.
    struct pollfd in = {.fd = fd, .events = POLLIN};
    while (!td_app_interrupted())
        if (poll(&in, 1, 100) > 0) return true;
    return false;
}

int td_app_read_file(const char *path, uint64_t max_bytes, char **out, size_t *size_bytes_out,
                     struct td_error *err)
{
    *out = NULL;
    const bool is_stdin = strcmp(path, "-") == 0;
    const char *name = is_stdin ? "the standard input" : path;
    const int fd = is_stdin ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return td_fail(err, TD_EIO, "%.160s: %s", name, td_app_why(errno));

    int code = TD_OK;
    size_t n = 0, cap = 0;
    char *bytes = NULL;
    for (;;) {
        if (n + 1 >= cap) {
            cap = cap ? cap * 2 : 65536;
            char *grown = realloc(bytes, cap);
            if (!grown) {
                code = td_fail(err, TD_ENOMEM, "%.160s: no memory for %zu bytes", name, cap);
                break;
            }
            bytes = grown;
        }
        if (!td_app_wait_input(fd)) {
            code = td_fail(err, TD_ECANCEL, "interrupted");
            break;
        }
        const ssize_t got = read(fd, bytes + n, cap - n - 1);
        if (got < 0) {
            code = td_fail(err, TD_EIO, "%.160s: %s", name, td_app_why(errno));
            break;
        }
        if (got == 0) break;
        n += (size_t)got;
        if (n > max_bytes) {
            code = td_fail(err, TD_EARG, "%.160s: longer than %llu bytes", name,
                           (unsigned long long)max_bytes);
            break;
        }
    }
    if (!is_stdin) close(fd);
    if (code != TD_OK || !bytes) {
        free(bytes);
        return code;
    }
    bytes[n] = '\0';
    *out = bytes;
    *size_bytes_out = n;
    return TD_OK;
}

static void on_interrupt(int sig)
{
    (void)sig;
    void (*stop)(void *) = atomic_load(&g_stop);
    if (stop && atomic_load(&g_interrupted)) _exit(TD_EXIT_INTERRUPTED); // it took too long
    atomic_store(&g_interrupted, true);
    if (stop) stop(atomic_load(&g_stop_ctx));
    struct td_session *s = atomic_load(&g_session);
    if (s) td_session_cancel(s); // one atomic store
}

static void write_text(const char *text)
{
    // Nothing can be done about a failure here.
    const ssize_t n = write(STDERR_FILENO, text, strlen(text));
    (void)n;
}

// A mapped file became shorter, or its disk failed: the page is gone and computing cannot go on.
static void on_bus_error(int sig, siginfo_t *info, void *context)
{
    (void)sig;
    (void)context;
    // Several threads may meet the missing pages at once; the first one speaks, and ends them all.
    static atomic_flag is_said = ATOMIC_FLAG_INIT;
    while (atomic_flag_test_and_set(&is_said)) (void)pause();
    const char *path = td_os_map_path_at(info->si_addr);
    write_text("tandem: ");
    if (path) {
        write_text(path);
        write_text(": the file was cut short, or its disk failed, while it was in use; get it "
                   "again and start over\n");
    } else {
        write_text("bus error: memory that was promised could not be had\n");
    }
    _exit(TD_EXIT_FAIL);
}

void td_app_signals(void)
{
    struct sigaction action = {0};
    sigemptyset(&action.sa_mask);
    // Writes go on after a Ctrl-C, or half a line of output would count as a failure; reads that
    // may wait for a person go through td_app_wait_input.
    action.sa_flags = SA_RESTART;
    action.sa_handler = on_interrupt;
    (void)sigaction(SIGINT, &action, NULL);

    action.sa_flags = 0;
    action.sa_handler = SIG_IGN;
    (void)sigaction(SIGPIPE, &action, NULL);

    action.sa_handler = NULL;
    action.sa_sigaction = on_bus_error;
    action.sa_flags = SA_SIGINFO;
    (void)sigaction(SIGBUS, &action, NULL);
}

void td_app_on_interrupt(struct td_session *s)
{
    atomic_store(&g_session, s);
}

void td_app_on_stop(void (*fn)(void *ctx), void *ctx)
{
    atomic_store(&g_stop_ctx, ctx);
    atomic_store(&g_stop, fn);
    struct sigaction action = {.sa_flags = SA_RESTART, .sa_handler = on_interrupt};
    sigemptyset(&action.sa_mask);
    (void)sigaction(SIGTERM, &action, NULL);
}

bool td_app_interrupted(void)
{
    return atomic_load(&g_interrupted);
}

void td_app_clear_interrupt(void)
{
    atomic_store(&g_interrupted, false);
}

const char *td_text_gb(char *buf, size_t buf_bytes, uint64_t size_bytes)
{
    if (size_bytes < 1000000u)
        snprintf(buf, buf_bytes, "%.1f kB", (double)size_bytes * 1e-3);
    else if (size_bytes < 1000000000u)
        snprintf(buf, buf_bytes, "%.1f MB", (double)size_bytes * 1e-6);
    else
        snprintf(buf, buf_bytes, "%.1f GB", (double)size_bytes * 1e-9);
    return buf;
}

const char *td_text_gib(char *buf, size_t buf_bytes, uint64_t size_bytes)
{
    if (size_bytes < (1u << 20))
        snprintf(buf, buf_bytes, "%.1f KiB", (double)size_bytes * 0x1p-10);
    else if (size_bytes < (1u << 30))
        snprintf(buf, buf_bytes, "%.1f MiB", (double)size_bytes * 0x1p-20);
    else
        snprintf(buf, buf_bytes, "%.1f GiB", (double)size_bytes * 0x1p-30);
    return buf;
}
