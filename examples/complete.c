// SPDX-License-Identifier: MIT
// complete MODEL TEXT [N]: goes on with a text for N tokens (16), as an embedding program would.
//
//     cc complete.c $(pkg-config --cflags --libs tandem) -o complete
//
// Ctrl-C stops the computing within one layer, and what was written stays.
#include <tandem.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct tandem_session *session; // for the signal handler

static void on_interrupt(int number)
{
    (void)number;
    tandem_session_cancel(session);
}

static bool on_progress(void *ctx, uint64_t done, uint64_t total)
{
    (void)ctx;
    fprintf(stderr, "read %llu of %llu tokens\n", (unsigned long long)done,
            (unsigned long long)total);
    return true; // false: stop
}

// Reads the prompt, then writes up to n tokens.
static int complete(const struct tandem_tokenizer *tokenizer, struct tandem_sampler *sampler,
                    const char *text, uint32_t n, struct tandem_error *err)
{
    const size_t size_bytes = strlen(text);
    int32_t *ids = malloc((size_bytes + 1) * sizeof(*ids)); // a token has at least one byte
    size_t n_ids = 0;
    if (!ids) return TANDEM_ENOMEM;
    int code = tandem_encode(tokenizer, text, size_bytes, false, ids, size_bytes, &n_ids, err);
    if (!code)
        code = tandem_session_sync(session, ids, (uint32_t)n_ids, NULL, 0, on_progress, NULL, err);
    free(ids);
    for (uint32_t i = 0; !code && i < n; i++) {
        int32_t id;
        code = tandem_session_next(session, sampler, &id, err);
        if (code || tandem_token_ends_generation(tokenizer, id)) break;
        size_t n_bytes;
        const char *bytes = tandem_token_bytes(tokenizer, id, &n_bytes);
        fwrite(bytes, 1, n_bytes, stdout);
        fflush(stdout);
    }
    printf("\n");
    return code;
}

int main(int argc, char **argv)
{
    if (argc < 3) {
        fprintf(stderr, "usage: complete MODEL TEXT [N]\n");
        return 2;
    }
    struct tandem_model *model = NULL;
    struct tandem_tokenizer *tokenizer = NULL;
    struct tandem_engine *engine = NULL;
    struct tandem_sampler *sampler = NULL;
    const struct tandem_sampling greedy = {.temp = 0};
    struct tandem_error err = {0};

    int code = tandem_model_open(&model, argv[1], NULL, NULL, &err);
    if (!code) code = tandem_tokenizer_open(&tokenizer, model, &err);
    if (!code) code = tandem_engine_open(&engine, model, NULL, &err);
    if (!code) code = tandem_session_open(&session, engine, 4096, &err);
    if (!code) code = tandem_sampler_open(&sampler, model, &greedy, &err);
    if (!code) {
        signal(SIGINT, on_interrupt);
        const uint32_t n = argc > 3 ? (uint32_t)strtoul(argv[3], NULL, 10) : 16;
        code = complete(tokenizer, sampler, argv[2], n, &err);
        signal(SIGINT, SIG_DFL);
    }
    if (code) fprintf(stderr, "complete: %s\n", err.msg);

    tandem_sampler_close(sampler);
    tandem_session_close(session);
    tandem_engine_close(engine);
    tandem_tokenizer_close(tokenizer);
    tandem_model_close(model);
    return code ? 1 : 0;
}
