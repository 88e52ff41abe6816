// SPDX-License-Identifier: MIT
// The chat prompt: line editing and history by libedit, pasted text of several lines as one
// message. The history is not written to disk.
#include "app/chat.h"

#include <errno.h>
#include <histedit.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <wchar.h>

enum { HISTORY = 500, MAX_MESSAGE_BYTES = 16 << 20, PASTE_WAIT_MS = 15 };

static const char help[] =
    "  /clear   start a new conversation\n"
    "  /exit    leave (or Ctrl-D)\n"
    "  /help    this\n"
    "Ctrl-C stops an answer. Pasted lines are one message; a line that ends in \\ goes on.\n";

static bool g_is_more; // the prompt of a line that continues a message

static char *prompt(EditLine *el)
{
    static char first[] = "> ", more[] = ". ";
    (void)el;
    return g_is_more ? more : first;
}

// Reads one character for libedit. Its own reader tries again after a signal, so a Ctrl-C that
// comes just before the read would wait for the next key; here it is seen within a tenth of a
// second.
static int get_char(EditLine *el, wchar_t *out)
{
    (void)el;
    char bytes[MB_LEN_MAX];
    for (size_t n = 0; n < sizeof(bytes);) {
        if (!td_app_wait_input(STDIN_FILENO)) return -1;
        const ssize_t got = read(STDIN_FILENO, bytes + n, 1);
        if (got == 0) return 0;
        if (got < 0 && errno == EAGAIN) continue;
        if (got < 0) return -1;
        mbstate_t state = {0};
        // NOLINTNEXTLINE(concurrency-mt-unsafe): safe with a state of our own
        const size_t used = mbrtowc(out, bytes, ++n, &state);
        if (used == (size_t)-2) continue; // the rest is to come
        if (used == (size_t)-1) *out = L'?';
        return 1;
    }
    *out = L'?';
    return 1;
}

// More input is already there: the rest of a paste.
static bool is_pasting(void)
{
    struct pollfd in = {.fd = STDIN_FILENO, .events = POLLIN};
    return poll(&in, 1, PASTE_WAIT_MS) > 0 && (in.revents & POLLIN);
}

struct message {
    char *at;
    size_t n;
};

static bool append(struct message *m, const char *text, size_t n)
{
    if (m->n + n > MAX_MESSAGE_BYTES) return false;
    char *grown = realloc(m->at, m->n + n + 1);
    if (!grown) return false;
    m->at = grown;
    memcpy(m->at + m->n, text, n);
    m->n += n;
    m->at[m->n] = '\0';
    return true;
}

enum got { GOT_MESSAGE, GOT_NOTHING, GOT_END };

static enum got read_message(EditLine *el, struct message *m)
{
    m->n = 0;
    g_is_more = false;
    for (;;) {
        int n = 0;
        errno = 0;
        const char *line = el_gets(el, &n);
        if (td_app_interrupted()) {
            // Ctrl-C throws away what was typed.
            td_app_clear_interrupt();
            el_reset(el);
            fputc('\n', stdout);
            return GOT_NOTHING;
        }
        if (!line || n <= 0) {
            if (errno == EINTR) continue;
            return m->n ? GOT_MESSAGE : GOT_END;
        }
        size_t len = (size_t)n;
        const bool is_ended = line[len - 1] == '\n';
        const bool goes_on = is_ended && len >= 2 && line[len - 2] == '\\';
        if (goes_on) len -= 2;
        if (!append(m, line, len) || (goes_on && !append(m, "\n", 1))) {
            td_app_note("the message is too long");
            return GOT_NOTHING;
        }
        g_is_more = true;
        if (goes_on || is_pasting()) continue;
        while (m->n && m->at[m->n - 1] == '\n') m->at[--m->n] = '\0';
        return m->n ? GOT_MESSAGE : GOT_NOTHING;
    }
}

static bool is_blank(const char *text)
{
    return text[strspn(text, " \t\n")] == '\0';
}

// Whether the message was a command; *leave_out when it asks to go.
static bool run_command(struct td_conversation *c, const char *text, bool *leave_out)
{
    if (text[0] != '/' || strchr(text, '\n')) return false;
    if (strcmp(text, "/exit") == 0 || strcmp(text, "/quit") == 0) {
        *leave_out = true;
    } else if (strcmp(text, "/clear") == 0) {
        td_conversation_clear(c);
        td_app_note("a new conversation");
    } else if (strcmp(text, "/help") == 0) {
        fputs(help, stdout);
    } else if (strchr(text + 1, '/') || strchr(text, ' ')) {
        return false; // a path, or a sentence that begins with a slash
    } else {
        td_app_note("there is no command '%.40s'; /help lists them", text);
    }
    return true;
}

int td_repl(struct td_conversation *c, const struct td_app *app,
            void (*after)(const struct td_chat_stats *stats, void *ctx), void *ctx)
{
    EditLine *el = el_init("tandem", stdin, stdout, stderr);
    History *past = history_init();
    if (!el || !past) {
        td_app_note("the terminal cannot be set up; give the prompt with -p");
        if (el) el_end(el);
        if (past) history_end(past);
        return TD_EXIT_FAIL;
    }
    HistEvent event;
    history(past, &event, H_SETSIZE, HISTORY);
    history(past, &event, H_SETUNIQUE, 1);
    el_set(el, EL_PROMPT, prompt);
    el_set(el, EL_EDITOR, "emacs");
    el_set(el, EL_GETCFN, get_char);
    el_set(el, EL_HIST, history, past);
    el_source(el, NULL); // ~/.editrc

    fprintf(stderr, "%s, context %u tokens, %u threads; /help, Ctrl-D leaves\n",
            app->model->spec.name[0] ? app->model->spec.name : app->model->spec.arch, app->n_ctx,
            app->n_threads);
    struct message m = {0};
    int exit_code = TD_EXIT_OK;
    for (bool leave = false; !leave;) {
        const enum got got = read_message(el, &m);
        if (got == GOT_END) {
            fputc('\n', stdout);
            break;
        }
        if (got == GOT_NOTHING || is_blank(m.at)) continue;
        history(past, &event, H_ENTER, m.at);
        if (run_command(c, m.at, &leave)) continue;

        struct td_error err = {0};
        struct td_chat_stats stats;
        const int code = td_conversation_say(c, m.at, m.n, &stats, &err);
        td_app_clear_interrupt();
        if (code == TD_OK) {
            after(&stats, ctx);
        } else if (code == TD_EFULL) {
            td_app_note("%s; /clear starts a new conversation", err.msg);
        } else {
            exit_code = td_app_fail(&err);
            break;
        }
    }
    free(m.at);
    history_end(past);
    el_end(el);
    return exit_code;
}
