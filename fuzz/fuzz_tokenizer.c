// SPDX-License-Identifier: MIT
// Any bytes come back from their ids, with each pre-tokenizer, special tokens parsed or not.
// Also: the UTF-8 stream gives the same however its input is cut.
#include "../tests/text/small_vocab.h"
#include "text/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_round_trip(const struct td_tokenizer *t, const char *text, size_t n, bool special)
{
    struct td_ids ids = {0};
    if (td_encode(t, text, n, special, &ids, NULL)) abort();
    size_t at = 0;
    for (size_t i = 0; i < ids.n; i++) {
        const struct td_str s = td_token_bytes(t, ids.at[i]);
        if (s.size_bytes == 0 || s.size_bytes > n - at) abort();
        if (memcmp(s.at, text + at, s.size_bytes) != 0) abort();
        if (!special && td_token_is_special(t, ids.at[i])) abort();
        at += s.size_bytes;
    }
    if (at != n) abort();
    td_ids_free(&ids);
}

static size_t stream(const char *text, size_t n, size_t step, char *out)
{
    struct td_utf8_stream s = {0};
    size_t n_out = 0;
    for (size_t at = 0; at < n; at += step)
        n_out += td_utf8_feed(&s, text + at, n - at < step ? n - at : step, out + n_out);
    return n_out + td_utf8_finish(&s, out + n_out);
}

static void check_stream(const char *text, size_t n)
{
    char *a = malloc(3 * n + 12), *b = malloc(3 * n + 12);
    if (!a || !b) abort();
    const size_t n_a = stream(text, n, n + 1, a);
    for (size_t step = 1; step <= 5; step++)
        if (stream(text, n, step, b) != n_a || memcmp(a, b, n_a) != 0) abort();
    free(a);
    free(b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const pres[] = {"gpt-4o", "llama-bpe", "qwen2"};
    static struct td_tokenizer *tokenizers[3]; // opened once, kept to the end
    for (size_t i = 0; i < 3; i++) {
        if (tokenizers[i]) continue;
        uint8_t *bytes = NULL;
        struct td_gguf *g = small_gguf(pres[i], &bytes);
        if (td_tokenizer_open(&tokenizers[i], g, NULL)) abort();
        td_gguf_close(g);
        free(bytes);
    }
    char *text = malloc(size + 1);
    if (!text) abort();
    if (size > 0) memcpy(text, data, size);
    for (size_t i = 0; i < 3; i++) {
        check_round_trip(tokenizers[i], text, size, false);
        check_round_trip(tokenizers[i], text, size, true);
    }
    check_stream(text, size);
    free(text);
    return 0;
}
