// SPDX-License-Identifier: MIT
// One table of commands and one of options: parsing, every --help and the man page come from them.
// The only place that reads the environment (TANDEM_ISA, NO_COLOR, TERM, XDG_CACHE_HOME, HOME). It
// runs nothing itself.
#ifndef TD_APP_CONFIG_H
#define TD_APP_CONFIG_H

#include "base/status.h"
#include "plan/split.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

// Every option. An option that means different things to different commands is two options.
enum td_opt {
    TD_OPT_MODEL,
    // run
    TD_OPT_PROMPT,
    TD_OPT_PROMPT_FILE,
    TD_OPT_N_PREDICT,
    TD_OPT_TEMP,
    TD_OPT_TOP_K,
    TD_OPT_TOP_P,
    TD_OPT_MIN_P,
    TD_OPT_SYSTEM,
    TD_OPT_REASONING,
    TD_OPT_SHOW_REASONING,
    TD_OPT_RAW,
    TD_OPT_IGNORE_EOS,
    TD_OPT_STATS,
    // eval
    TD_OPT_TOKENS,
    TD_OPT_LOGITS,
    TD_OPT_LAST,
    TD_OPT_KL,
    TD_OPT_TEXT_FILE,
    TD_OPT_PPL,
    // bench
    TD_OPT_N_PROMPT,
    TD_OPT_N_GEN,
    TD_OPT_DEPTH,
    TD_OPT_FILL,
    TD_OPT_REPEAT,
    TD_OPT_FORMAT,
    TD_OPT_OPS,
    TD_OPT_SAVE,
    // several commands
    TD_OPT_CTX,
    TD_OPT_CTX_EVAL,
    TD_OPT_CTX_PREFILL,
    TD_OPT_CHUNK,
    TD_OPT_PRECISION,
    TD_OPT_KV,
    TD_OPT_SEED,
    TD_OPT_THREADS,
    // in tandem
    TD_OPT_PREFILL,
    TD_OPT_LISTEN,
    TD_OPT_KEY,
    TD_OPT_POLICY,
    TD_OPT_KV_WIRE,
    TD_OPT_OTHER_WEIGHTS,
    TD_OPT_CHECKPOINT,
    TD_OPT_SILENT,
    TD_OPT_MAX_KV,
    TD_OPT_SLOTS,
    TD_OPT_LEASE,
    TD_OPT_SEND_AT_END,
    TD_OPT_PACE_PREFILL,
    TD_OPT_PACE_DECODE,
    TD_OPT_DOCTOR_FORMAT,
    // tokenize, detokenize
    TD_OPT_SPECIAL,
    TD_OPT_FILE,
    // inspect
    TD_OPT_TENSORS,
    TD_OPT_PROGRAM,
    TD_OPT_JSON,
    // synth
    TD_OPT_LAYERS,
    TD_OPT_HIDDEN,
    TD_OPT_HEADS,
    TD_OPT_KV_HEADS,
    TD_OPT_HEAD_DIM,
    TD_OPT_EXPERTS,
    TD_OPT_SYNTH_TOP_K,
    TD_OPT_FF,
    TD_OPT_VOCAB,
    TD_OPT_SYNTH_CTX,
    TD_OPT_WINDOW,
    TD_OPT_EXPERTS_TYPE,
    TD_OPT_ATTN_TYPE,
    TD_OPT_EMBD_TYPE,
    TD_OPT_FORCE,
    // probe
    TD_OPT_QUICK,
    TD_OPT_OUT,
    // plan
    TD_OPT_PLAN_MODEL,
    TD_OPT_QUANT,
    TD_OPT_MACHINES,
    TD_OPT_LINK,
    TD_OPT_PLAN_PROMPT,
    TD_OPT_PLAN_GEN,
    TD_OPT_PLAN_BATCH,
    TD_OPT_PLAN_DEPTH,
    TD_OPT_BUDGET,
    TD_OPT_TTFT,
    TD_OPT_TPS,
    TD_OPT_POWER,
    TD_OPT_EXPLAIN,
    TD_OPT_GOLDEN,
    TD_OPT_PRICE_FLOPS,
    TD_OPT_PRICE_BW,
    TD_OPT_TABLE,
    TD_OPT_MEASURED,
    TD_OPT_VALIDATE,
    TD_OPT_CALIBRATE,
    TD_OPT_PLAN_FORM,
    // serve
    TD_OPT_HOST,
    TD_OPT_PORT,
    TD_OPT_CTX_SERVE,
    TD_OPT_SLOTS_SERVE,
    TD_OPT_QUEUE,
    TD_OPT_MAX_GAP,
    TD_OPT_KV_MEM,
    TD_OPT_KV_DISK,
    TD_OPT_KV_DISK_SIZE,
    TD_OPT_MAX_ANSWER,
    TD_OPT_NAME,
    TD_OPT_API_KEY,
    TD_OPT_ALLOW_PUBLIC,
    TD_OPT_ALLOW_HOST,
    TD_OPT_CORS,
    TD_OPT_TLS_CERT,
    TD_OPT_TLS_KEY,
    TD_OPT_MAX_BODY,
    TD_OPT_MAX_CONNECTIONS,
    TD_OPT_MAX_PER_ADDRESS,
    TD_OPT_MAX_RATE,
    TD_OPT_REQUEST_TIMEOUT,
    TD_OPT_KEEP_ALIVE,
    TD_OPT_DRAIN_TIMEOUT,
    TD_OPT_LOG_FORMAT,
    TD_OPT_CONFIG,
    // every command
    TD_OPT_HELP,
    TD_N_OPTS
};

struct td_opt_value {
    bool is_set;      // given by the user, not a default
    const char *text; // as given, or the default; NULL when there is neither
    uint64_t u64;     // counts and sizes
    double f64;       // fractions
};

struct td_config;
typedef int td_command_fn(const struct td_config *cfg);

struct td_command {
    const char *name;
    td_command_fn *run;
    const char *args;         // what follows the name in the usage line: "MODEL [options]"
    uint32_t min_args, n_max; // positional arguments
    bool needs_model;         // -m must be given
    const char *summary;      // one line for the list of commands
    const char *about;        // paragraphs for --help and the man page, '\n' between lines
};

struct td_config {
    const struct td_command *command;
    struct td_opt_value values[TD_N_OPTS];
    const char *const *args; // positional arguments, in order
    uint32_t n_args;
    int isa;              // enum td_isa from TANDEM_ISA; -1 when unset
    bool no_color;        // NO_COLOR is set or the terminal is dumb
    char cache_dir[1024]; // where what is known of models is kept; "": nowhere
    char *file;           // of --config: the text that values point into; NULL without
};

// Reads argv[2..) as options of command; positional arguments may stand between them, "--" ends the
// options. argv is reordered: cfg->args points into it. On failure err holds one sentence.
int td_config_parse(struct td_config *cfg, const struct td_command *command, int argc, char **argv,
                    struct td_error *err) TD_MUST_CHECK;
// Reads a file of lines "name = value", whose names are the command's options without dashes, and
// sets those that the command line has not. "#" begins a comment; a flag is true or false. On
// failure err names file and line.
int td_config_read(struct td_config *cfg, const char *path, struct td_error *err) TD_MUST_CHECK;
void td_config_free(struct td_config *cfg);

static inline bool td_opt_is_set(const struct td_config *cfg, enum td_opt opt)
{
    return cfg->values[opt].is_set;
}
static inline const char *td_opt_text(const struct td_config *cfg, enum td_opt opt)
{
    return cfg->values[opt].text;
}
static inline uint64_t td_opt_u64(const struct td_config *cfg, enum td_opt opt)
{
    return cfg->values[opt].u64;
}
static inline double td_opt_f64(const struct td_config *cfg, enum td_opt opt)
{
    return cfg->values[opt].f64;
}
// The numbers of a list option ("512,2048"); n_out of at most cap. Checked when parsed.
void td_opt_list(const struct td_config *cfg, enum td_opt opt, uint32_t *out, uint32_t cap,
                 uint32_t *n_out);
// A speed, by depth or the same at all ("450", "0:450,8192:380"). Checked when parsed; no points
// when it was not given.
void td_opt_rate(const struct td_config *cfg, enum td_opt opt, struct td_split_rate *out);
// Position of a choice option's value among its choices ("default|high": 0 or 1).
uint32_t td_opt_choice(const struct td_config *cfg, enum td_opt opt);

const struct td_command *td_command_find(const char *name);
// The known command closest to name, NULL when none is near.
const char *td_command_nearest(const char *name);

// The environment, once: fills isa, no_color and cache_dir.
int td_config_env(struct td_config *cfg, struct td_error *err) TD_MUST_CHECK;

void td_help_all(FILE *out);
void td_help_command(FILE *out, const struct td_command *command);
void td_help_man(FILE *out); // the man page, as roff

#endif
