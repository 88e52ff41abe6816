// SPDX-License-Identifier: MIT
// Names from a file: read, kept, sorted, found, and made fit to print. It does not know what they
// name.
#include "gguf/gguf_impl.h"

#include <stdlib.h>
#include <string.h>

enum { NAMES_BLOCK_BYTES = 16 * 1024 };

const char *td_gguf_keep_name(struct td_gguf *g, struct td_str s)
{
    const size_t need = s.size_bytes + 1; // at most TD_GGUF_MAX_KEY + 1: checked by the reader
    struct td_gguf_names *b = g->names;
    if (!b || need > b->cap - b->used) {
        const size_t cap = need > NAMES_BLOCK_BYTES ? need : NAMES_BLOCK_BYTES;
        b = malloc(sizeof(*b) + cap);
        if (!b) return NULL;
        b->next = g->names;
        b->used = 0;
        b->cap = cap;
        g->names = b;
    }
    char *copy = b->at + b->used;
    if (s.size_bytes) memcpy(copy, s.at, s.size_bytes);
    copy[s.size_bytes] = '\0';
    b->used += need;
    return copy;
}

static int by_name(const void *a, const void *b)
{
    const struct td_gguf_name *x = a;
    const struct td_gguf_name *y = b;
    return strcmp(x->name, y->name);
}

// Sorted and not hashed: no names a file could choose make it slow.
bool td_gguf_sort_names(struct td_gguf_name *index, uint32_t n, const char **twice_out)
{
    if (n > 1) qsort(index, n, sizeof(*index), by_name);
    for (uint32_t i = 1; i < n; i++) {
        if (strcmp(index[i - 1].name, index[i].name) != 0) continue;
        *twice_out = index[i].name;
        return false;
    }
    return true;
}

uint32_t td_gguf_find_name(const struct td_gguf_name *index, uint32_t n, const char *name)
{
    uint32_t low = 0;
    uint32_t high = n;
    while (low < high) {
        const uint32_t mid = low + (high - low) / 2;
        const int order = strcmp(index[mid].name, name);
        if (order == 0) return index[mid].i;
        if (order < 0)
            low = mid + 1;
        else
            high = mid;
    }
    return UINT32_MAX;
}

uint32_t td_gguf_utf8_len(const uint8_t *s, size_t n)
{
    const uint8_t c = s[0];
    if (c < 0x80) return 1;
    // Lead bytes 80..C1 and F5..FF never begin a sequence.
    if (c < 0xc2 || c > 0xf4) return 0;
    const uint32_t len = c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
    if (n < len) return 0;
    for (uint32_t i = 1; i < len; i++)
        if ((s[i] & 0xc0) != 0x80) return 0;
    // Overlong forms, surrogates, and what lies beyond U+10FFFF.
    if (c == 0xe0 && s[1] < 0xa0) return 0;
    if (c == 0xed && s[1] > 0x9f) return 0;
    if (c == 0xf0 && s[1] < 0x90) return 0;
    if (c == 0xf4 && s[1] > 0x8f) return 0;
    return len;
}

struct td_gguf_shown td_gguf_show(struct td_str s)
{
    struct td_gguf_shown shown;
    const size_t room = sizeof(shown.text) - 4; // "..." and NUL
    const size_t n = s.size_bytes < room ? s.size_bytes : room;
    for (size_t i = 0; i < n; i++) {
        const bool is_plain = s.at[i] >= ' ' && s.at[i] <= '~';
        memcpy(shown.text + i, is_plain ? s.at + i : "?", 1);
    }
    const bool is_cut = n < s.size_bytes;
    memcpy(shown.text + n, is_cut ? "..." : "", is_cut ? 4 : 1);
    return shown;
}
