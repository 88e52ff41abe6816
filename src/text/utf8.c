// SPDX-License-Identifier: MIT
// UTF-8 as RFC 3629 has it: which bytes are whole characters, and the cutting of a byte stream at
// character boundaries. No surrogates, no overlong forms, nothing above U+10FFFF.
#include "text/tokenizer_impl.h"

#include <string.h>

// How many bytes a character that starts with c has, and the range of its second byte, from the
// table of well-formed sequences (Unicode 15.0, table 3-7). 0: c starts no character.
static uint32_t lead(uint8_t c, uint8_t *lo, uint8_t *hi)
{
    *lo = 0x80;
    *hi = 0xbf;
    if (c < 0x80) return 1;
    if (c < 0xc2) return 0; // continuation bytes; C0 and C1 are always overlong
    if (c < 0xe0) return 2;
    if (c < 0xf0) {
        if (c == 0xe0) *lo = 0xa0; // below: overlong
        if (c == 0xed) *hi = 0x9f; // above: surrogates
        return 3;
    }
    if (c > 0xf4) return 0;
    if (c == 0xf0) *lo = 0x90;
    if (c == 0xf4) *hi = 0x8f; // above: beyond U+10FFFF
    return 4;
}

// Looks at the start of text: *n_whole is the size of a whole character or 0; the result is how
// many bytes a valid character could start with (the "maximal subpart"), at least 1.
static uint32_t look(const char *text, size_t size_bytes, uint32_t *n_whole)
{
    uint8_t c, lo, hi;
    memcpy(&c, text, 1);
    *n_whole = 0;
    const uint32_t n = lead(c, &lo, &hi);
    if (n == 0) return 1;
    uint32_t i = 1;
    for (; i < n && i < size_bytes; i++) {
        memcpy(&c, text + i, 1);
        if (c < lo || c > hi) return i;
        lo = 0x80;
        hi = 0xbf;
    }
    if (i == n) *n_whole = n;
    return i;
}

uint32_t td_utf8_char(const char *text, size_t size_bytes)
{
    uint32_t n_whole = 0;
    if (size_bytes > 0) (void)look(text, size_bytes, &n_whole);
    return n_whole;
}

size_t td_utf8_valid(const char *text, size_t size_bytes)
{
    size_t i = 0;
    while (i < size_bytes) {
        uint64_t eight;
        if (size_bytes - i >= sizeof(eight)) {
            memcpy(&eight, text + i, sizeof(eight));
            if ((eight & 0x8080808080808080u) == 0) { // eight ASCII characters
                i += sizeof(eight);
                continue;
            }
        }
        const uint32_t n = td_utf8_char(text + i, size_bytes - i);
        if (n == 0) break;
        i += n;
    }
    return i;
}

static size_t put_replacement(char *out)
{
    static const char replacement[3] = {'\xEF', '\xBF', '\xBD'}; // U+FFFD
    memcpy(out, replacement, sizeof(replacement));
    return sizeof(replacement);
}

// Takes whole characters from the start of in; what may still become one is left.
static size_t take(const char *in, size_t n, char *out, size_t *n_out)
{
    size_t i = 0;
    while (i < n) {
        uint32_t n_whole;
        const uint32_t n_part = look(in + i, n - i, &n_whole);
        uint8_t lo, hi, c;
        memcpy(&c, in + i, 1);
        if (n_whole == 0 && n_part == n - i && lead(c, &lo, &hi) > n_part) break;
        if (n_whole > 0) {
            memcpy(out + *n_out, in + i, n_whole);
            *n_out += n_whole;
        } else {
            *n_out += put_replacement(out + *n_out);
        }
        i += n_part;
    }
    return i;
}

size_t td_utf8_feed(struct td_utf8_stream *s, const char *in, size_t n, char *out)
{
    size_t n_out = 0;
    // Complete what is held, byte by byte: at most three steps. A byte that breaks the held
    // sequence turns it into U+FFFD and is looked at afresh.
    while (s->n_held > 0 && n > 0) {
        char both[8];
        memcpy(both, s->held, s->n_held);
        both[s->n_held] = *in;
        const size_t n_both = s->n_held + 1;
        const size_t n_taken = take(both, n_both, out, &n_out);
        s->n_held = (uint32_t)(n_both - n_taken);
        memcpy(s->held, both + n_taken, s->n_held);
        in++;
        n--;
    }
    if (n == 0) return n_out;
    const size_t n_taken = take(in, n, out, &n_out);
    s->n_held = (uint32_t)(n - n_taken);
    memcpy(s->held, in + n_taken, s->n_held);
    return n_out;
}

size_t td_utf8_finish(struct td_utf8_stream *s, char *out)
{
    if (s->n_held == 0) return 0;
    s->n_held = 0;
    return put_replacement(out); // a cut-off sequence is one maximal subpart
}
