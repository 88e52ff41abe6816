// SPDX-License-Identifier: MIT
// The error sentence: formatted once, bounded, without newline.
#include "base/status.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>

// Texts from files reach terminals through errors: what moves a cursor becomes '?'. C1 controls
// (U+0080..U+009F) are C2 80..C2 9F in UTF-8.
static void make_printable(char *text)
{
    // char is signed on some machines and not on others.
    for (unsigned char *p = (unsigned char *)text; *p; p++) {
        const bool is_c1 = p[0] == 0xC2 && (p[1] & 0xE0) == 0x80;
        if (*p < 0x20 || *p == 0x7f || is_c1) *p = '?';
        if (is_c1) *++p = '?';
    }
}

int td_fail(struct td_error *err, int code, const char *fmt, ...)
{
    if (!err) return code;
    err->code = code;
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(err->msg, sizeof(err->msg), fmt, args);
    va_end(args);
    make_printable(err->msg);
    return code;
}
