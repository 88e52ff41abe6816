// SPDX-License-Identifier: MIT
// The rows of the tables in options.c, for config.c and help.c.
#ifndef TD_APP_OPTIONS_IMPL_H
#define TD_APP_OPTIONS_IMPL_H

#include "app/config.h"

enum td_opt_type {
    TD_OPT_TYPE_FLAG,
    TD_OPT_TYPE_TEXT,
    TD_OPT_TYPE_COUNT,  // whole number, units k M G (powers of 1024), in [min, max]
    TD_OPT_TYPE_REAL,   // decimal fraction in [min, max]
    TD_OPT_TYPE_LIST,   // counts separated by commas
    TD_OPT_TYPE_RATE,   // tokens per second, or DEPTH:RATE pairs separated by commas
    TD_OPT_TYPE_CHOICE, // one of the words of `value`, which are separated by '|'
};

struct td_opt_row {
    const char *name; // with its dashes
    char letter;      // 0: none
    enum td_opt_type type;
    const char *value;  // what stands for the value in help; NULL for flags
    const char *preset; // default, as the user would write it; NULL: none
    uint64_t min, max;
    uint32_t commands; // bit i: td_commands[i] has it
    const char *help;
};

extern const struct td_command td_commands[];
extern const uint32_t td_n_commands;
extern const struct td_opt_row td_options[TD_N_OPTS];

bool td_opt_belongs(enum td_opt opt, const struct td_command *command);

#endif
