// SPDX-License-Identifier: MIT
// A progress bar on the standard error, for people only: silent when that is not a terminal.
#include "app/app.h"

#include "base/clock.h"

#include <string.h>
#include <unistd.h>

enum { BAR = 24, WAIT_MS = 300, REDRAW_MS = 100 };

void td_progress_begin(struct td_progress *p, const char *label, const char *unit)
{
    *p = (struct td_progress){.label = label, .unit = unit, .t0_ns = td_clock_ns()};
}

bool td_progress_step(void *ctx, uint64_t done, uint64_t total)
{
    struct td_progress *p = ctx;
    const uint64_t now_ns = td_clock_ns();
    // Short work needs no bar, and a bar that blinks is worse than none.
    if (total == 0 || !isatty(STDERR_FILENO) || now_ns - p->t0_ns < WAIT_MS * 1000000ull ||
        now_ns - p->shown_ns < REDRAW_MS * 1000000ull)
        return !td_app_interrupted();
    p->shown_ns = now_ns;
    p->is_shown = true;
    const double part = (double)done / (double)total;
    const double seconds = (double)(now_ns - p->t0_ns) * 1e-9;
    const int full = (int)(part * BAR);
    char bar[BAR + 1];
    memset(bar, '.', BAR);
    memset(bar, '#', (size_t)(full > BAR ? BAR : full));
    bar[BAR] = '\0';
    char what[64];
    if (strcmp(p->unit, "bytes") == 0) {
        char a[24], b[24];
        snprintf(what, sizeof(what), "%s of %s", td_text_gb(a, sizeof(a), done),
                 td_text_gb(b, sizeof(b), total));
    } else {
        snprintf(what, sizeof(what), "%llu of %llu %s, %.1f/s", (unsigned long long)done,
                 (unsigned long long)total, p->unit, (double)done / seconds);
    }
    fprintf(stderr, "\r\033[K%s [%s] %3.0f %%  %s", p->label, bar, 100.0 * part, what);
    fflush(stderr);
    return !td_app_interrupted();
}

void td_progress_end(struct td_progress *p)
{
    if (!p->is_shown) return;
    fputs("\r\033[K", stderr);
    fflush(stderr);
    p->is_shown = false;
}
