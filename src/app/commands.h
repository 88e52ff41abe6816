// SPDX-License-Identifier: MIT
// The subcommands, one file each. Every one gets its parsed options and returns an exit code:
// 0 done, 1 failed, 2 wrong usage, 130 stopped by Ctrl-C (enum td_exit, app/app.h).
#ifndef TD_APP_COMMANDS_H
#define TD_APP_COMMANDS_H

#include "app/config.h"

int td_cmd_run(const struct td_config *cfg);
int td_cmd_eval(const struct td_config *cfg);
int td_cmd_bench(const struct td_config *cfg);
int td_cmd_inspect(const struct td_config *cfg);
int td_cmd_tokenize(const struct td_config *cfg);
int td_cmd_detokenize(const struct td_config *cfg);
int td_cmd_synth(const struct td_config *cfg);
int td_cmd_probe(const struct td_config *cfg);
int td_cmd_prefill(const struct td_config *cfg);
int td_cmd_doctor(const struct td_config *cfg);
int td_cmd_key(const struct td_config *cfg);
int td_cmd_plan(const struct td_config *cfg);
int td_cmd_serve(const struct td_config *cfg);

#endif
