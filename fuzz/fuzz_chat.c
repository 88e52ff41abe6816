// SPDX-License-Identifier: MIT
// Arbitrary tokens through the harmony parser. Always: what stands between <|message|> and the
// token that ends it comes out whole, as valid UTF-8; calls begin before they have arguments and
// end once. Each byte of the input below 0xE0 is a byte of text; the others are the special tokens
// and a few merged ones.
#include "../tests/text/small_vocab.h"
#include "text/harmony.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define ROOM (1u << 20)

struct heard {
    char *text;
    size_t n;
    bool in_call;
};

static void hear(void *ctx, const struct td_chat_event *e)
{
    struct heard *h = ctx;
    if (e->text_bytes > 0 && !e->text) abort();
    struct td_utf8_stream s = {0};
    char *again = malloc(3 * e->text_bytes + 12);
    if (!again) abort();
    // Whole characters: reading them as UTF-8 changes nothing and holds nothing back.
    const size_t n = td_utf8_feed(&s, e->text, e->text_bytes, again);
    if (n != e->text_bytes || s.n_held > 0 || memcmp(again, e->text, n) != 0) abort();
    free(again);
    switch (e->kind) {
    case TD_CHAT_TOOL_BEGIN:
        if (h->in_call) abort();
        h->in_call = true;
        return;
    case TD_CHAT_TOOL_END:
        if (!h->in_call) abort();
        h->in_call = false;
        return;
    case TD_CHAT_TEXT:
    case TD_CHAT_TOOL_ARGS:
        if (h->in_call != (e->kind == TD_CHAT_TOOL_ARGS)) abort();
        if (e->text_bytes == 0 || h->n + e->text_bytes > ROOM) abort();
        memcpy(h->text + h->n, e->text, e->text_bytes);
        h->n += e->text_bytes;
        return;
    case TD_CHAT_MESSAGE_END:
    case TD_CHAT_DONE: return;
    }
    abort();
}

// What a message must give, made beside the parser.
struct expected {
    bool in_content;
    struct td_utf8_stream utf8;
    char *text;
    size_t n;
};

static int32_t token_of(uint8_t b)
{
    if (b < 0xE0) return b;
    static const uint8_t bytes[] = {0xE4, 0xB8, 0xAD, 0xF0, 0x9F, 0xFF};
    const uint8_t k = (uint8_t)(b - 0xE0);
    if (k < SMALL_N_SPECIALS) return SMALL_SPECIAL(k);
    if (k < SMALL_N_SPECIALS + sizeof(bytes)) return bytes[k - SMALL_N_SPECIALS];
    return 256 + k;
}

// A token after which the message before it is complete.
static bool ends_message(int32_t token)
{
    // start, end, channel, return, call, endoftext, as small_specials has them
    return token == SMALL_SPECIAL(0) || token == SMALL_SPECIAL(1) || token == SMALL_SPECIAL(3) ||
           token == SMALL_SPECIAL(5) || token == SMALL_SPECIAL(6) || token == SMALL_SPECIAL(10);
}

static void check_message(struct expected *x, const struct heard *h, size_t n_heard_before)
{
    x->n += td_utf8_finish(&x->utf8, x->text + x->n);
    if (h->n - n_heard_before != x->n) abort();
    if (memcmp(h->text + n_heard_before, x->text, x->n) != 0) abort();
    x->in_content = false;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct td_tokenizer *t;
    static struct heard h;
    static struct expected x;
    if (size > 20000) return 0;
    if (!t) {
        uint8_t *bytes = NULL;
        struct td_gguf *g = small_gguf("gpt-4o", &bytes);
        if (td_tokenizer_open(&t, g, NULL)) abort();
        td_gguf_close(g);
        free(bytes);
        h.text = malloc(ROOM);
        x.text = malloc(ROOM);
        if (!h.text || !x.text) abort();
    }
    struct td_harmony_parser *p = NULL;
    if (td_harmony_parser_open(&p, t, NULL)) abort();
    h.n = 0;
    h.in_call = x.in_content = false;
    size_t n_before = 0; // heard when the message began
    for (size_t i = 0; i < size; i++) {
        const int32_t token = token_of(data[i]);
        if (td_harmony_feed(p, token, hear, &h, NULL)) abort();
        if (x.in_content && ends_message(token)) {
            check_message(&x, &h, n_before);
        } else if (x.in_content && !td_token_is_special(t, token)) {
            const struct td_str s = td_token_bytes(t, token);
            x.n += td_utf8_feed(&x.utf8, s.at, s.size_bytes, x.text + x.n);
        } else if (x.in_content && token == SMALL_SPECIAL(2)) { // a second <|message|>
            x.n += td_utf8_finish(&x.utf8, x.text + x.n);
        } else if (token == SMALL_SPECIAL(2)) {
            x = (struct expected){.in_content = true, .text = x.text};
            n_before = h.n;
        }
    }
    if (td_harmony_finish(p, hear, &h, NULL)) abort();
    if (x.in_content) check_message(&x, &h, n_before);
    td_harmony_parser_close(p);
    return 0;
}
