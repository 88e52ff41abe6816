// SPDX-License-Identifier: MIT
// tandem tokenize: text -> ids. tandem detokenize: ids -> bytes. Only the model's metadata is read,
// so files that hold nothing but a vocabulary will do.
#include "app/app.h"
#include "app/commands.h"
#include "gguf/gguf.h"
#include "text/tokenizer.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define MAX_TEXT ((uint64_t)1 << 31)
// Ten digits and a separator for every id of the longest text.
#define MAX_IDS_TEXT (MAX_TEXT * 11)

struct input {
    struct td_model *model; // of synth:NAME; owns its directory
    struct td_gguf *gguf;   // of a file
    struct td_tokenizer *tokenizer;
    char *text; // of -f, or the arguments joined by spaces
    size_t size_bytes;
};

static int join_args(struct input *in, const struct td_config *cfg, struct td_error *err)
{
    size_t n = 0;
    for (uint32_t i = 0; i < cfg->n_args; i++) n += strlen(cfg->args[i]) + 1;
    in->text = malloc(n + 1);
    if (!in->text) return td_fail(err, TD_ENOMEM, "no memory for the text");
    for (uint32_t i = 0; i < cfg->n_args; i++) {
        const size_t size = strlen(cfg->args[i]);
        if (i > 0) in->text[in->size_bytes++] = ' ';
        memcpy(in->text + in->size_bytes, cfg->args[i], size);
        in->size_bytes += size;
    }
    in->text[in->size_bytes] = 0;
    return TD_OK;
}

static void close_input(struct input *in)
{
    td_tokenizer_close(in->tokenizer);
    td_gguf_close(in->gguf);
    td_model_close(in->model);
    free(in->text);
}

static int open_input(struct input *in, const struct td_config *cfg, uint64_t max_bytes,
                      struct td_error *err)
{
    *in = (struct input){0};
    const char *path = td_opt_text(cfg, TD_OPT_MODEL);
    int code = td_app_check_model_path(path, err);
    if (code) return code;
    if (strncmp(path, "synth:", 6) == 0) {
        const struct td_model_options options = {.header_only = true};
        code = td_model_open(&in->model, path, &options, err);
        if (!code) code = td_tokenizer_open(&in->tokenizer, in->model->gguf, err);
    } else {
        code = td_gguf_open(&in->gguf, path, err);
        if (!code) code = td_tokenizer_open(&in->tokenizer, in->gguf, err);
    }
    if (code) return code;
    const char *file = td_opt_text(cfg, TD_OPT_FILE);
    return file ? td_app_read_file(file, max_bytes, &in->text, &in->size_bytes, err)
                : join_args(in, cfg, err);
}

// 0, or the exit code of a command line that does not say what to read.
static int check_usage(const struct td_config *cfg, const char *what)
{
    if (!td_opt_text(cfg, TD_OPT_MODEL)) return td_app_usage(cfg, "no model given (-m MODEL)");
    const bool has_file = td_opt_text(cfg, TD_OPT_FILE) != NULL;
    if (has_file && cfg->n_args > 0)
        return td_app_usage(cfg, "%s comes from the arguments or from -f, not from both", what);
    if (!has_file && cfg->n_args == 0) return td_app_usage(cfg, "no %s given", what);
    return TD_EXIT_OK;
}

int td_cmd_tokenize(const struct td_config *cfg)
{
    int rc = check_usage(cfg, "text");
    if (rc) return rc;
    struct input in;
    struct td_error err = {0};
    struct td_ids ids = {0};
    int code = open_input(&in, cfg, MAX_TEXT, &err);
    if (!code)
        code = td_encode(in.tokenizer, in.text, in.size_bytes, td_opt_is_set(cfg, TD_OPT_SPECIAL),
                         &ids, &err);
    if (code) {
        rc = td_app_fail(&err);
    } else {
        const bool is_json = td_opt_is_set(cfg, TD_OPT_JSON);
        if (is_json) fputc('[', stdout);
        for (size_t i = 0; i < ids.n; i++)
            fprintf(stdout, "%s%" PRId32, i == 0 ? "" : is_json ? ", " : " ", ids.at[i]);
        fputs(is_json ? "]\n" : "\n", stdout);
        rc = td_app_flush();
    }
    td_ids_free(&ids);
    close_input(&in);
    return rc;
}

static bool is_separator(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n' || c == ',' || c == '[' || c == ']';
}

// Reads ids: numbers with white space or commas between, brackets around them allowed, so that
// both forms that tokenize prints (and a JSON array) are read.
static int parse_ids(const struct input *in, struct td_ids *ids, struct td_error *err)
{
    const uint32_t n_vocab = td_tokenizer_n_vocab(in->tokenizer);
    const char *p = in->text, *end = in->text + in->size_bytes;
    while (p < end) {
        if (is_separator(*p)) {
            p++;
            continue;
        }
        const char *word = p;
        uint64_t id = 0;
        while (p < end && *p >= '0' && *p <= '9' && id < n_vocab)
            id = id * 10 + (uint64_t)(*p++ - '0');
        const bool is_number = p > word && (p == end || is_separator(*p));
        if (id >= n_vocab)
            return td_fail(err, TD_EARG, "an id at byte %zu is not below %u, the tokens there are",
                           (size_t)(word - in->text), n_vocab);
        if (!is_number)
            return td_fail(err, TD_EARG,
                           "at byte %zu: ids are numbers, separated by spaces or commas",
                           (size_t)(word - in->text));
        if (td_ids_push(ids, (int32_t)id)) return td_fail(err, TD_ENOMEM, "no memory for the ids");
    }
    return TD_OK;
}

int td_cmd_detokenize(const struct td_config *cfg)
{
    int rc = check_usage(cfg, "ids");
    if (rc) return rc;
    struct input in;
    struct td_error err = {0};
    struct td_ids ids = {0};
    int code = open_input(&in, cfg, MAX_IDS_TEXT, &err);
    if (!code) code = parse_ids(&in, &ids, &err);
    if (code) {
        rc = td_app_fail(&err);
    } else {
        for (size_t i = 0; i < ids.n; i++) {
            const struct td_str s = td_token_bytes(in.tokenizer, ids.at[i]);
            (void)fwrite(s.at, 1, s.size_bytes, stdout); // td_app_flush reports what went wrong
        }
        rc = td_app_flush();
    }
    td_ids_free(&ids);
    close_input(&in);
    return rc;
}
