// SPDX-License-Identifier: MIT
// Opens the tokenizer of any GGUF header. Whatever is accepted must encode and give back a text, or
// say that a byte has no token; ids it gives must exist.
#include "text/harmony.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_text(const struct td_tokenizer *t, const char *text, size_t n)
{
    struct td_ids ids = {0};
    const int code = td_encode(t, text, n, true, &ids, NULL);
    if (code != TD_OK && code != TD_EUNSUP) abort();
    size_t at = 0;
    for (size_t i = 0; i < ids.n; i++) {
        const struct td_str s = td_token_bytes(t, ids.at[i]);
        if (s.size_bytes == 0 || s.size_bytes > n - at) abort();
        if (memcmp(s.at, text + at, s.size_bytes) != 0) abort();
        at += s.size_bytes;
    }
    if (code == TD_OK && at != n) abort();
    td_ids_free(&ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char text[] = "<|start|>hello wall 123 aaaaaaa\r\n it's \xE4\xB8\xAD\xFF\xFF";
    struct td_gguf *g = NULL;
    struct td_tokenizer *t = NULL;
    struct td_error err = {0};
    if (td_gguf_parse(&g, data, size, "fuzz.gguf", true, &err)) return 0;
    if (td_tokenizer_open(&t, g, &err) == TD_OK) {
        check_text(t, text, sizeof(text) - 1);
        for (int32_t id = -1; id <= (int32_t)td_tokenizer_n_vocab(t); id++) {
            const struct td_str s = td_token_bytes(t, id);
            if (s.size_bytes > 0) check_text(t, s.at, s.size_bytes);
        }
        const int32_t bos = td_token_bos(t), eos = td_token_eos(t);
        if (bos >= (int32_t)td_tokenizer_n_vocab(t) || eos >= (int32_t)td_tokenizer_n_vocab(t))
            abort();
    } else if (!err.msg[0] || t) {
        abort();
    }
    td_tokenizer_close(t);
    td_gguf_close(g);
    return 0;
}
