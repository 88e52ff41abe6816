// SPDX-License-Identifier: MIT
// Result codes and the one-sentence error that cold paths return.
#ifndef TD_BASE_STATUS_H
#define TD_BASE_STATUS_H

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "tandem runs on little-endian hosts only"
#endif
_Static_assert(sizeof(void *) == 8, "tandem runs on 64-bit hosts only");

// Each code has a different right response by the caller.
enum td_code {
    TD_OK = 0,
    TD_EARG = -1,    // the caller or user asked for something that makes no sense
    TD_EFORMAT = -2, // bytes from outside are not what they claim to be
    TD_EUNSUP = -3,  // well formed, but tandem does not do it
    TD_ENOMEM = -4,  // memory or a budget is used up
    TD_EIO = -5,     // the operating system or the network said no
    TD_EFULL = -6,   // a bounded thing (context, queue) is full
    TD_ECANCEL = -7, // stopped because somebody asked
};

struct td_error {
    int code;      // enum td_code
    char msg[240]; // one sentence without newline; names the file, tensor, field or option
};

#define TD_MUST_CHECK       __attribute__((warn_unused_result))
#define TD_PRINTF(fmt, arg) __attribute__((format(printf, fmt, arg)))

// Fills *err (which may be NULL) and returns code, so that a failure is one line:
// `return td_fail(err, TD_EFORMAT, "tensor '%s': ...", name);`. A message that does not fit is cut;
// control characters in it become '?'.
int td_fail(struct td_error *err, int code, const char *fmt, ...) TD_PRINTF(3, 4);

#endif
