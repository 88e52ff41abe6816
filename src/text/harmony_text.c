// SPDX-License-Identifier: MIT
// A growing text and the harmony format's special tokens: the ground of harmony_*.c.
#include "text/harmony_impl.h"

#include <stdlib.h>
#include <string.h>

void td_text_free(struct td_text *b)
{
    free(b->at);
    *b = (struct td_text){0};
}

static bool reserve(struct td_text *b, size_t n)
{
    if (b->no_memory) return false;
    if (n <= b->cap - b->n) return true;
    size_t cap = b->cap ? b->cap : 256;
    while (cap - b->n < n && cap <= SIZE_MAX / 2) cap *= 2;
    char *at = cap - b->n < n ? NULL : realloc(b->at, cap);
    if (!at) {
        b->no_memory = true;
        return false;
    }
    b->at = at;
    b->cap = cap;
    return true;
}

void td_text_put(struct td_text *b, const char *p, size_t n)
{
    if (n == 0 || !reserve(b, n)) return;
    memcpy(b->at + b->n, p, n);
    b->n += n;
}

void td_text_puts(struct td_text *b, const char *s)
{
    td_text_put(b, s, strlen(s));
}

void td_text_pad(struct td_text *b, size_t n)
{
    if (n == 0 || !reserve(b, n)) return;
    memset(b->at + b->n, ' ', n);
    b->n += n;
}

int td_harmony_ids_find(struct td_harmony_ids *out, const struct td_tokenizer *t,
                        struct td_error *err)
{
    struct td_harmony_ids ids;
    const struct {
        const char *name;
        int32_t *id;
    } wanted[] = {{"<|start|>", &ids.start},
                  {"<|end|>", &ids.end},
                  {"<|message|>", &ids.message},
                  {"<|channel|>", &ids.channel},
                  {"<|constrain|>", &ids.constrain},
                  {"<|return|>", &ids.ret},
                  {"<|call|>", &ids.call}};
    for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++) {
        *wanted[i].id = td_token_find(t, wanted[i].name);
        if (!td_token_is_special(t, *wanted[i].id))
            return td_fail(err, TD_EUNSUP,
                           "the model's vocabulary has no special token %s: it does not speak the "
                           "harmony chat format",
                           wanted[i].name);
    }
    *out = ids;
    return TD_OK;
}
