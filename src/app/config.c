// SPDX-License-Identifier: MIT
// Words of a command line -> checked values. Every number is read whole or refused; an unknown
// option gets one sentence with the nearest one that exists.
#include "app/config.h"

#include "app/app.h"
#include "app/options_impl.h"
#include "base/num.h"
#include "kernels/kernels.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_LIST = 64 };

// A whole number with an optional unit: "4096", "4k", "16G".
static bool parse_count(const char *text, size_t size_bytes, uint64_t *out)
{
    char word[32];
    // strtoull would take a sign or white space; a count has neither.
    if (size_bytes == 0 || size_bytes >= sizeof(word) || !isdigit((unsigned char)text[0]))
        return false;
    memcpy(word, text, size_bytes);
    word[size_bytes] = '\0';
    char *end = NULL;
    errno = 0;
    const unsigned long long v = strtoull(word, &end, 10);
    if (errno != 0) return false;
    uint32_t shift = 0;
    switch (tolower((unsigned char)*end)) {
    case '\0': break;
    case 'k': shift = 10; break;
    case 'm': shift = 20; break;
    case 'g': shift = 30; break;
    default: return false;
    }
    if (*end && end[1]) return false;
    if (shift && v > (UINT64_MAX >> shift)) return false;
    *out = (uint64_t)v << shift;
    return true;
}

static bool parse_real(const char *text, double *out)
{
    // Digits and a point only: no "nan", "inf", hexadecimal or white space.
    if (!*text || strspn(text, "0123456789.eE-+") != strlen(text)) return false;
    char *end = NULL;
    errno = 0;
    *out = strtod(text, &end);
    return errno == 0 && *end == '\0' && isfinite(*out);
}

// Calls for each number of "512,2048"; false when one is wrong.
static bool parse_list(const char *text, uint64_t min, uint64_t max, uint32_t *out, uint32_t cap,
                       uint32_t *n_out)
{
    uint32_t n = 0;
    for (const char *at = text;;) {
        const size_t len = strcspn(at, ",");
        uint64_t v;
        if (!parse_count(at, len, &v) || v < min || v > max || n == cap) return false;
        if (out) out[n] = (uint32_t)v;
        n++;
        if (!at[len]) break;
        at += len + 1;
    }
    *n_out = n;
    return true;
}

// "450" or "0:450,8192:380"; false when it is neither.
static bool parse_rate(const char *text, struct td_split_rate *out)
{
    *out = (struct td_split_rate){0};
    for (const char *at = text;;) {
        char word[64];
        const size_t len = strcspn(at, ",");
        if (len == 0 || len >= sizeof(word) || out->n_points == TD_SPLIT_MAX_POINTS) return false;
        memcpy(word, at, len);
        word[len] = '\0';
        const char *colon = strchr(word, ':');
        uint64_t depth = 0;
        double rate;
        if (colon && !parse_count(word, (size_t)(colon - word), &depth)) return false;
        if (!parse_real(colon ? colon + 1 : word, &rate) || rate < 1e-6 || rate > 1e9) return false;
        const bool is_alone = !colon && out->n_points == 0 && !at[len];
        if (!colon && !is_alone) return false;
        if (depth >= UINT32_MAX) return false;
        if (out->n_points && (double)depth <= out->points[out->n_points - 1].depth_tokens)
            return false;
        out->points[out->n_points++] =
            (struct td_split_point){.depth_tokens = (double)depth, .tokens_per_s = rate};
        if (!at[len]) return true;
        at += len + 1;
    }
}

static bool find_choice(const char *choices, const char *word, uint32_t *i_out)
{
    uint32_t i = 0;
    for (const char *at = choices;; i++) {
        const size_t len = strcspn(at, "|");
        if (strlen(word) == len && memcmp(at, word, len) == 0) {
            *i_out = i;
            return true;
        }
        if (!at[len]) return false;
        at += len + 1;
    }
}

static int set_value(struct td_opt_value *v, const struct td_opt_row *row, const char *text,
                     struct td_error *err)
{
    v->text = text;
    uint32_t n;
    struct td_split_rate rate;
    switch (row->type) {
    case TD_OPT_TYPE_FLAG:
    case TD_OPT_TYPE_TEXT: return TD_OK;
    case TD_OPT_TYPE_COUNT:
        if (!parse_count(text, strlen(text), &v->u64))
            return td_fail(err, TD_EARG, "%s: '%.60s' is not a whole number (like 512 or 4k)",
                           row->name, text);
        if (v->u64 < row->min || v->u64 > row->max)
            return td_fail(err, TD_EARG, "%s: %.60s is not between %llu and %llu", row->name, text,
                           (unsigned long long)row->min, (unsigned long long)row->max);
        return TD_OK;
    case TD_OPT_TYPE_REAL:
        if (!parse_real(text, &v->f64))
            return td_fail(err, TD_EARG, "%s: '%.60s' is not a number (like 0.8)", row->name, text);
        if (v->f64 < (double)row->min || v->f64 > (double)row->max)
            return td_fail(err, TD_EARG, "%s: %.60s is not between %llu and %llu", row->name, text,
                           (unsigned long long)row->min, (unsigned long long)row->max);
        return TD_OK;
    case TD_OPT_TYPE_LIST:
        if (!parse_list(text, row->min, row->max, NULL, MAX_LIST, &n))
            return td_fail(err, TD_EARG,
                           "%s: '%.60s' is not a list of at most %d numbers from %llu on (like "
                           "512,2048)",
                           row->name, text, MAX_LIST, (unsigned long long)row->min);
        return TD_OK;
    case TD_OPT_TYPE_RATE:
        if (!parse_rate(text, &rate))
            return td_fail(err, TD_EARG,
                           "%s: '%.60s' is not tokens per second (like 450), nor such a table by "
                           "depth (like 0:450,8192:380)",
                           row->name, text);
        return TD_OK;
    case TD_OPT_TYPE_CHOICE:
        if (!find_choice(row->value, text, &n))
            return td_fail(err, TD_EARG, "%s: '%.60s' is not one of %s", row->name, text,
                           row->value);
        return TD_OK;
    }
    return TD_OK;
}

// Edits between two words, for "did you mean": a letter too many, missing, wrong, or two swapped
// (optimal string alignment).
static uint32_t distance(const char *a, const char *b)
{
    enum { MAX_WORD = 40 };
    const size_t n_a = strlen(a), n_b = strlen(b);
    if (n_a >= MAX_WORD || n_b >= MAX_WORD) return UINT32_MAX;
    uint32_t d[MAX_WORD + 1][MAX_WORD + 1];
    for (size_t i = 0; i <= n_a; i++) d[i][0] = (uint32_t)i;
    for (size_t j = 0; j <= n_b; j++) d[0][j] = (uint32_t)j;
    for (size_t i = 1; i <= n_a; i++) {
        for (size_t j = 1; j <= n_b; j++) {
            uint32_t least = d[i - 1][j - 1] + (a[i - 1] != b[j - 1]);
            least = td_min_u32(least, td_min_u32(d[i - 1][j], d[i][j - 1]) + 1);
            const bool is_swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
            d[i][j] = is_swapped ? td_min_u32(least, d[i - 2][j - 2] + 1) : least;
        }
    }
    return d[n_a][n_b];
}

// A third of the word may be wrong before a suggestion is a guess.
static bool is_near(uint32_t edits, const char *word)
{
    return edits <= (uint32_t)(strlen(word) + 2) / 3;
}

const struct td_command *td_command_find(const char *name)
{
    for (uint32_t i = 0; i < td_n_commands; i++)
        if (strcmp(td_commands[i].name, name) == 0) return &td_commands[i];
    return NULL;
}

const char *td_command_nearest(const char *name)
{
    const char *best = NULL;
    uint32_t least = UINT32_MAX;
    for (uint32_t i = 0; i < td_n_commands; i++) {
        const uint32_t edits = distance(name, td_commands[i].name);
        if (edits < least) {
            least = edits;
            best = td_commands[i].name;
        }
    }
    return is_near(least, name) ? best : NULL;
}

// name: "--temp" or "--temp=1"; only the part before '=' counts.
static int find_long(const struct td_command *command, const char *word, size_t len)
{
    for (int i = 0; i < TD_N_OPTS; i++) {
        const char *name = td_options[i].name;
        if (strlen(name) == len && memcmp(name, word, len) == 0 &&
            (!command || td_opt_belongs((enum td_opt)i, command)))
            return i;
    }
    return -1;
}

static int find_letter(const struct td_command *command, char letter)
{
    for (int i = 0; i < TD_N_OPTS; i++)
        if (td_options[i].letter == letter && letter &&
            (!command || td_opt_belongs((enum td_opt)i, command)))
            return i;
    return -1;
}

static int unknown_option(const struct td_command *command, const char *word, struct td_error *err)
{
    char name[64];
    snprintf(name, sizeof(name), "%.*s", (int)strcspn(word, "="), word);
    const char *best = NULL;
    uint32_t least = UINT32_MAX;
    for (int i = 0; i < TD_N_OPTS; i++) {
        if (!td_opt_belongs((enum td_opt)i, command)) continue;
        const uint32_t edits = distance(name, td_options[i].name);
        if (edits < least) {
            least = edits;
            best = td_options[i].name;
        }
    }
    const int other = name[1] == '-' ? find_long(NULL, name, strlen(name))
                                     : (name[2] == '\0' ? find_letter(NULL, name[1]) : -1);
    if (other >= 0) {
        for (uint32_t i = 0; i < td_n_commands; i++)
            if (td_opt_belongs((enum td_opt)other, &td_commands[i]))
                return td_fail(err, TD_EARG, "'%s' has no option %s (it belongs to '%s')",
                               command->name, name, td_commands[i].name);
    }
    if (best && name[1] == '-' && is_near(least, name + 2))
        return td_fail(err, TD_EARG, "'%s' has no option %s; did you mean %s?", command->name, name,
                       best);
    return td_fail(err, TD_EARG, "'%s' has no option %s", command->name, name);
}

// Reads the option at argv[*i], and its value from the same word or the next.
static int parse_option(struct td_config *cfg, int argc, char **argv, int *i, struct td_error *err)
{
    const char *word = argv[*i];
    int opt;
    const char *value = NULL;
    if (word[1] == '-') {
        const size_t len = strcspn(word, "=");
        opt = find_long(cfg->command, word, len);
        if (word[len] == '=') value = word + len + 1;
    } else {
        opt = find_letter(cfg->command, word[1]);
        if (opt >= 0 && word[2]) value = word + 2 + (word[2] == '=');
    }
    if (opt < 0) return unknown_option(cfg->command, word, err);

    const struct td_opt_row *row = &td_options[opt];
    struct td_opt_value *v = &cfg->values[opt];
    if (row->type == TD_OPT_TYPE_FLAG) {
        if (value)
            return td_fail(err, TD_EARG, "%s takes no value, but '%.60s' was given", row->name,
                           value);
        v->is_set = true;
        return TD_OK;
    }
    if (v->is_set) return td_fail(err, TD_EARG, "%s is given twice", row->name);
    if (!value) {
        if (*i + 1 >= argc)
            return td_fail(err, TD_EARG, "%s needs a value: %s %s", row->name, row->name,
                           row->value);
        value = argv[++*i];
    }
    v->is_set = true;
    return set_value(v, row, value, err);
}

// ---- a file of options ------------------------------------------------------------------------

// The line without what surrounds its words, in place; NULL when nothing is on it.
static char *trim(char *line)
{
    line += strspn(line, " \t\r");
    size_t n = strlen(line);
    while (n && strchr(" \t\r", line[n - 1])) line[--n] = '\0';
    return n && *line != '#' ? line : NULL;
}

static int set_flag(struct td_opt_value *v, const struct td_opt_row *row, const char *value,
                    struct td_error *err)
{
    v->is_set = strcmp(value, "true") == 0;
    if (v->is_set || strcmp(value, "false") == 0) return TD_OK;
    return td_fail(err, TD_EARG, "%s is true or false, not '%.60s'", row->name + 2, value);
}

// "name = value", with or without quotes around the value.
static int read_line(struct td_config *cfg, char *line, bool *seen, struct td_error *err)
{
    char *equals = strchr(line, '=');
    if (!equals) return td_fail(err, TD_EARG, "'%.60s' is not \"name = value\"", line);
    *equals = '\0';
    const char *name = trim(line);
    char *value = trim(equals + 1);
    size_t n = value ? strlen(value) : 0;
    if (n >= 2 && value[0] == '"' && value[n - 1] == '"') {
        value[n - 1] = '\0';
        value++;
        n -= 2;
    }
    char word[64];
    snprintf(word, sizeof(word), "--%.60s", name ? name : "");
    const int opt = find_long(cfg->command, word, strlen(word));
    if (opt == TD_OPT_CONFIG || opt == TD_OPT_HELP || n == 0)
        return td_fail(err, TD_EARG, n ? "'%.60s' makes no sense here" : "'%.60s' has no value",
                       word + 2);
    if (opt < 0) return unknown_option(cfg->command, word, err);
    if (seen[opt]) return td_fail(err, TD_EARG, "%s is given twice", word + 2);
    seen[opt] = true;
    struct td_opt_value *v = &cfg->values[opt];
    if (v->is_set) return TD_OK; // the command line
    const struct td_opt_row *row = &td_options[opt];
    if (row->type == TD_OPT_TYPE_FLAG) return set_flag(v, row, value, err);
    v->is_set = true;
    return set_value(v, row, value, err);
}

int td_config_read(struct td_config *cfg, const char *path, struct td_error *err)
{
    enum { MAX_BYTES = 1 << 20 };
    bool seen[TD_N_OPTS] = {false};
    size_t n_bytes = 0;
    int code = td_app_read_file(path, MAX_BYTES, &cfg->file, &n_bytes, err);
    if (code != TD_OK) return code;
    if (cfg->file && strlen(cfg->file) != n_bytes)
        return td_fail(err, TD_EARG, "%.160s: not a text", path);
    uint32_t i_line = 1;
    for (char *line = cfg->file, *next; line; line = next, i_line++) {
        next = strchr(line, '\n');
        if (next) *next++ = '\0';
        char *words = trim(line);
        struct td_error why = {0};
        code = words ? read_line(cfg, words, seen, &why) : TD_OK;
        if (code != TD_OK) return td_fail(err, code, "%.100s, line %u: %s", path, i_line, why.msg);
    }
    return TD_OK;
}

void td_config_free(struct td_config *cfg)
{
    free(cfg->file);
    cfg->file = NULL;
}

int td_config_parse(struct td_config *cfg, const struct td_command *command, int argc, char **argv,
                    struct td_error *err)
{
    // What the environment said stays.
    cfg->command = command;
    memset(cfg->values, 0, sizeof(cfg->values));
    for (int i = 0; i < TD_N_OPTS; i++) {
        if (!td_options[i].preset || !td_opt_belongs((enum td_opt)i, command)) continue;
        const int code = set_value(&cfg->values[i], &td_options[i], td_options[i].preset, err);
        if (code != TD_OK) return code;
    }

    // Positional arguments are moved to the front of argv[2..), which the options leave free.
    int n_args = 0;
    bool only_args = false;
    for (int i = 2; i < argc; i++) {
        const char *word = argv[i];
        // "-" alone is a file name: the standard input.
        if (only_args || word[0] != '-' || word[1] == '\0') {
            argv[2 + n_args++] = argv[i];
            continue;
        }
        if (strcmp(word, "--") == 0) {
            only_args = true;
            continue;
        }
        const int code = parse_option(cfg, argc, argv, &i, err);
        if (code != TD_OK) return code;
    }
    cfg->args = (const char *const *)(argv + 2);
    cfg->n_args = (uint32_t)n_args;
    if (cfg->values[TD_OPT_HELP].is_set) return TD_OK;
    if (cfg->values[TD_OPT_CONFIG].is_set) {
        const int code = td_config_read(cfg, cfg->values[TD_OPT_CONFIG].text, err);
        if (code != TD_OK) return code;
    }
    if (cfg->n_args > command->n_max)
        return td_fail(err, TD_EARG, "'%s' does not know what to do with '%.100s'", command->name,
                       cfg->args[command->n_max]);
    if (cfg->n_args < command->min_args)
        return td_fail(err, TD_EARG, "'%s' needs more: tandem %s %s", command->name, command->name,
                       command->args);
    if (command->needs_model && !cfg->values[TD_OPT_MODEL].text)
        return td_fail(err, TD_EARG, "'%s' needs a model: -m FILE.gguf or -m synth:gpt-oss-20b",
                       command->name);
    return TD_OK;
}

void td_opt_list(const struct td_config *cfg, enum td_opt opt, uint32_t *out, uint32_t cap,
                 uint32_t *n_out)
{
    *n_out = 0;
    const struct td_opt_row *row = &td_options[opt];
    (void)parse_list(cfg->values[opt].text, row->min, row->max, out, cap, n_out);
}

void td_opt_rate(const struct td_config *cfg, enum td_opt opt, struct td_split_rate *out)
{
    *out = (struct td_split_rate){0};
    if (cfg->values[opt].text) (void)parse_rate(cfg->values[opt].text, out);
}

uint32_t td_opt_choice(const struct td_config *cfg, enum td_opt opt)
{
    uint32_t i = 0;
    (void)find_choice(td_options[opt].value, cfg->values[opt].text, &i);
    return i;
}

// A folder of ours in the user's cache, as the XDG base directory specification has it; without an
// absolute path there is none.
static void find_cache(struct td_config *cfg)
{
    const char *cache = getenv("XDG_CACHE_HOME"); // NOLINT(concurrency-mt-unsafe): before threads
    const char *home = getenv("HOME");            // NOLINT(concurrency-mt-unsafe)
    int n = 0;
    if (cache && cache[0] == '/')
        n = snprintf(cfg->cache_dir, sizeof(cfg->cache_dir), "%s/tandem", cache);
    else if (home && home[0] == '/')
        n = snprintf(cfg->cache_dir, sizeof(cfg->cache_dir), "%s/.cache/tandem", home);
    if (n <= 0 || (size_t)n >= sizeof(cfg->cache_dir)) cfg->cache_dir[0] = '\0';
}

int td_config_env(struct td_config *cfg, struct td_error *err)
{
    cfg->isa = -1;
    find_cache(cfg);
    const char *term = getenv("TERM");         // NOLINT(concurrency-mt-unsafe): before any thread
    const char *no_color = getenv("NO_COLOR"); // NOLINT(concurrency-mt-unsafe)
    cfg->no_color = (no_color && *no_color) || (term && strcmp(term, "dumb") == 0);
    const char *name = getenv("TANDEM_ISA"); // NOLINT(concurrency-mt-unsafe)
    if (!name || !*name) return TD_OK;
    enum td_isa isa;
    if (!td_isa_parse(name, &isa))
        return td_fail(err, TD_EARG, "TANDEM_ISA='%.40s' is not one of generic, avx2, avx512, neon",
                       name);
    cfg->isa = (int)isa;
    return TD_OK;
}
