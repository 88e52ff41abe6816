// SPDX-License-Identifier: MIT
// Plays a person at a terminal: pty COMMAND ARGS..., with what to do on standard input, a line
// each:
//   wait TEXT     until TEXT appears in what was written since the last wait (30 s at most)
//   absent TEXT   TEXT has not appeared since the last wait
//   send TEXT     types it; \n \t \\ and \xHH are understood
//   sleep MS
//   exit CODE     waits for the end; it must be this exit code
// Exits 1 with the line and the output at the first that fails. The output is shown on stdout.
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MAX_OUT = 1 << 20, TIMEOUT_MS = 30000 };

static char g_out[MAX_OUT + 1];
static size_t g_n, g_from; // bytes there; where the last wait ended

static void fail(const char *line)
{
    printf("\npty: failed at: %s\n", line);
    exit(1);
}

static long now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (long)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

// Takes what is written within timeout_ms; 0 when the other side is gone.
static int take(int fd, int timeout_ms)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    if (poll(&p, 1, timeout_ms) <= 0) return 1;
    const ssize_t n = read(fd, g_out + g_n, MAX_OUT - g_n);
    if (n <= 0) return 0;
    fwrite(g_out + g_n, 1, (size_t)n, stdout);
    g_n += (size_t)n;
    g_out[g_n] = '\0';
    return g_n < MAX_OUT;
}

static void do_wait(int fd, const char *text, const char *line)
{
    const long end_ms = now_ms() + TIMEOUT_MS;
    for (;;) {
        const char *at = strstr(g_out + g_from, text);
        if (at) {
            g_from = (size_t)(at - g_out) + strlen(text);
            return;
        }
        if (now_ms() > end_ms || !take(fd, 100)) {
            if (strstr(g_out + g_from, text)) continue;
            fail(line);
        }
    }
}

static void do_send(int fd, const char *text)
{
    for (; *text; text++) {
        char c = *text;
        if (c == '\\' && text[1]) {
            text++;
            if (*text == 'n') c = '\r'; // what the Return key sends
            if (*text == 't') c = '\t';
            if (*text == '\\') c = '\\';
            if (*text == 'x' && text[1] && text[2]) {
                const char hex[] = {text[1], text[2], '\0'};
                c = (char)strtol(hex, NULL, 16);
                text += 2;
            }
        }
        if (write(fd, &c, 1) != 1) return;
    }
}

static void do_exit(int fd, pid_t child, int want, const char *line)
{
    const long end_ms = now_ms() + TIMEOUT_MS;
    int status = 0;
    while (waitpid(child, &status, WNOHANG) == 0) {
        if (now_ms() > end_ms) fail(line);
        (void)take(fd, 50);
    }
    while (take(fd, 0) && g_n < MAX_OUT) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        if (poll(&p, 1, 0) <= 0 || !(p.revents & POLLIN)) break;
    }
    if (!WIFEXITED(status) || WEXITSTATUS(status) != want) fail(line);
}

static void child_main(const char *name, char **argv)
{
    setsid();
    const int fd = open(name, O_RDWR);
    if (fd < 0) _exit(126);
    (void)ioctl(fd, TIOCSCTTY, 0);
    const struct winsize size = {.ws_row = 24, .ws_col = 100};
    (void)ioctl(fd, TIOCSWINSZ, &size);
    dup2(fd, 0);
    dup2(fd, 1);
    dup2(fd, 2);
    close(fd);
    setenv("TERM", "xterm", 1);
    execvp(argv[0], argv);
    _exit(127);
}

int main(int argc, char **argv)
{
    if (argc < 2) return 2;
    const int fd = posix_openpt(O_RDWR | O_NOCTTY);
    if (fd < 0 || grantpt(fd) != 0 || unlockpt(fd) != 0) {
        printf("no pseudo-terminal here: %s\n", strerror(errno));
        return 77;
    }
    // The program must not hold the other end: closing ours hangs up.
    (void)fcntl(fd, F_SETFD, FD_CLOEXEC);
    const char *name = ptsname(fd);
    const pid_t child = fork();
    if (child == 0) child_main(name, argv + 1);
    char line[1024];
    while (fgets(line, sizeof(line), stdin)) {
        line[strcspn(line, "\n")] = '\0';
        if (strncmp(line, "wait ", 5) == 0)
            do_wait(fd, line + 5, line);
        else if (strncmp(line, "absent ", 7) == 0 && strstr(g_out + g_from, line + 7))
            fail(line);
        else if (strncmp(line, "send ", 5) == 0)
            do_send(fd, line + 5);
        else if (strncmp(line, "sleep ", 6) == 0)
            for (const long end = now_ms() + strtol(line + 6, NULL, 10); now_ms() < end;)
                (void)take(fd, 20);
        else if (strncmp(line, "exit ", 5) == 0)
            do_exit(fd, child, (int)strtol(line + 5, NULL, 10), line);
    }
    printf("\n");
    return 0;
}
