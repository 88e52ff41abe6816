// SPDX-License-Identifier: MIT
// One Knuth-Morris-Pratt automaton for each text: a state is how much of it the stream ends with,
// so that a byte costs the same however long the texts are.
#include "server/stops.h"

#include <stdlib.h>
#include <string.h>

struct pattern {
    char *text;
    uint32_t n;
    uint32_t *shorter; // (n) of the first i + 1 bytes: the longest proper start that is their end
    uint32_t state;    // bytes of it that the stream ends with
};

struct td_stops {
    struct pattern *patterns;
    uint32_t n;
};

static uint32_t next_state(const struct pattern *p, uint32_t state, char c)
{
    while (state > 0 && p->text[state] != c) state = p->shorter[state - 1];
    return p->text[state] == c ? state + 1 : 0;
}

static bool pattern_init(struct pattern *p, const char *text, size_t n)
{
    p->n = (uint32_t)n;
    p->text = malloc(n);
    p->shorter = calloc(n, sizeof(*p->shorter));
    if (!p->text || !p->shorter) return false;
    memcpy(p->text, text, n);
    for (uint32_t i = 1; i < p->n; i++) p->shorter[i] = next_state(p, p->shorter[i - 1], text[i]);
    return true;
}

int td_stops_open(struct td_stops **out, const char *const *texts, uint32_t n, struct td_error *err)
{
    *out = NULL;
    uint32_t n_used = 0;
    size_t total = 0;
    for (uint32_t i = 0; i < n; i++) {
        const size_t size = strlen(texts[i]);
        n_used += size > 0;
        total += size;
        if (total > TD_STOPS_MAX_BYTES)
            return td_fail(err, TD_EARG, "the stop texts have more than %u bytes together",
                           TD_STOPS_MAX_BYTES);
        // Else a cut before it could lie inside a character.
        if (((unsigned char)texts[i][0] & 0xc0u) == 0x80u)
            return td_fail(err, TD_EARG, "stop text %u does not begin with a whole character", i);
    }
    if (n_used == 0) return TD_OK;
    struct td_stops *s = calloc(1, sizeof(*s));
    if (s) s->patterns = calloc(n_used, sizeof(*s->patterns));
    bool ok = s && s->patterns;
    for (uint32_t i = 0; ok && i < n; i++) {
        const size_t size = strlen(texts[i]);
        if (size > 0) ok = pattern_init(&s->patterns[s->n++], texts[i], size);
    }
    if (!ok) {
        td_stops_close(s);
        return td_fail(err, TD_ENOMEM, "no memory for the stop texts");
    }
    *out = s;
    return TD_OK;
}

void td_stops_close(struct td_stops *s)
{
    if (!s) return;
    for (uint32_t i = 0; i < s->n; i++) {
        free(s->patterns[i].text);
        free(s->patterns[i].shorter);
    }
    free(s->patterns);
    free(s);
}

void td_stops_reset(struct td_stops *s)
{
    for (uint32_t i = 0; i < s->n; i++) s->patterns[i].state = 0;
}

bool td_stops_feed(struct td_stops *s, const char *piece, size_t n, size_t *end_out,
                   size_t *size_out)
{
    for (size_t at = 0; at < n; at++) {
        uint32_t longest = 0;
        for (uint32_t i = 0; i < s->n; i++) {
            struct pattern *p = &s->patterns[i];
            p->state = next_state(p, p->state, piece[at]);
            if (p->state == p->n && p->n > longest) longest = p->n;
        }
        if (longest == 0) continue;
        *end_out = at + 1;
        *size_out = longest;
        td_stops_reset(s);
        return true;
    }
    return false;
}

size_t td_stops_held(const struct td_stops *s)
{
    uint32_t held = 0;
    for (uint32_t i = 0; i < s->n; i++)
        if (s->patterns[i].state > held) held = s->patterns[i].state;
    return held;
}
