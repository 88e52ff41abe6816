// SPDX-License-Identifier: MIT
// The program: finds the subcommand, reads its options, runs it.
#include "app/app.h"
#include "app/commands.h"
#include "app/commit.h" // made by tools/commit.cmake

#include <locale.h>
#include <stdio.h>
#include <string.h>

#ifndef TD_BUILD_TYPE
#define TD_BUILD_TYPE "unknown"
#endif

#if defined(__clang__)
#define TD_COMPILER "clang " __clang_version__
#elif defined(__GNUC__)
#define TD_COMPILER "gcc " __VERSION__
#else
#define TD_COMPILER "an unknown compiler"
#endif

static int version(const struct td_config *cfg)
{
    char kernels[96];
    printf("tandem %s (%s)\n"
           "kernels: %s\n"
           "build: %s, %s\n",
           TD_VERSION, TD_COMMIT, td_app_kernels(cfg, kernels, sizeof(kernels)), TD_BUILD_TYPE,
           TD_COMPILER);
    return td_app_flush();
}

static bool is_word(const char *arg, const char *name, const char *letter)
{
    return strcmp(arg, name) == 0 || strcmp(arg, letter) == 0;
}

int main(int argc, char **argv)
{
    // Only the character set: numbers keep their point in every language.
    setlocale(LC_CTYPE, ""); // NOLINT(concurrency-mt-unsafe): before any thread
    td_app_signals();

    struct td_config cfg = {0};
    struct td_error err = {0};
    if (td_config_env(&cfg, &err) != TD_OK) {
        td_app_note("%s", err.msg);
        return TD_EXIT_USAGE;
    }
    if (argc < 2) {
        td_help_all(stderr);
        return TD_EXIT_USAGE;
    }
    const char *name = argv[1];
    if (is_word(name, "--version", "-V")) return version(&cfg);
    if (is_word(name, "--help", "-h") || strcmp(name, "help") == 0) {
        const struct td_command *about = argc > 2 ? td_command_find(argv[2]) : NULL;
        if (about)
            td_help_command(stdout, about);
        else
            td_help_all(stdout);
        return td_app_flush();
    }
    if (strcmp(name, "--man") == 0) {
        td_help_man(stdout);
        return td_app_flush();
    }

    const struct td_command *command = td_command_find(name);
    if (!command) {
        const char *nearest = td_command_nearest(name);
        if (nearest)
            td_app_note("there is no command '%.60s'; did you mean '%s'?", name, nearest);
        else
            td_app_note("there is no command '%.60s'; `tandem --help` lists them", name);
        return TD_EXIT_USAGE;
    }
    if (td_config_parse(&cfg, command, argc, argv, &err) != TD_OK) {
        cfg.command = command;
        td_config_free(&cfg);
        return err.code == TD_EIO ? td_app_fail(&err) : td_app_usage(&cfg, "%s", err.msg);
    }
    if (td_opt_is_set(&cfg, TD_OPT_HELP)) {
        td_help_command(stdout, command);
        return td_app_flush();
    }
    const int exit_code = command->run(&cfg);
    td_config_free(&cfg);
    const int flush_code = td_app_flush();
    return exit_code != TD_EXIT_OK ? exit_code : flush_code;
}
