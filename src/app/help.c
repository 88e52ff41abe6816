// SPDX-License-Identifier: MIT
// The tables as text: --help of the program, of each command, and the man page.
#include "app/options_impl.h"

#include <string.h>

// Prints words of text from column `indent`, broken before column 80; the cursor stands at `at`.
static void wrap(FILE *out, const char *text, int indent, int at)
{
    while (*text) {
        const int len = (int)strcspn(text, " ");
        if (at > indent && at + 1 + len > 79) {
            fprintf(out, "\n%*s", indent, "");
            at = indent;
        } else if (at > indent) {
            fputc(' ', out);
            at++;
        } else {
            fprintf(out, "%*s", indent - at, "");
            at = indent;
        }
        fprintf(out, "%.*s", len, text);
        at += len;
        text += len;
        text += strspn(text, " ");
    }
    fputc('\n', out);
}

static void option_name(const struct td_opt_row *row, char *out, size_t out_bytes)
{
    char letter[8] = "    ";
    if (row->letter) snprintf(letter, sizeof(letter), "-%c, ", row->letter);
    snprintf(out, out_bytes, "%s%s%s%s", letter, row->name, row->value ? " " : "",
             row->value ? row->value : "");
}

static void option_help(const struct td_opt_row *row, char *out, size_t out_bytes)
{
    snprintf(out, out_bytes, "%s%s%s%s", row->help, row->preset ? " [" : "",
             row->preset ? row->preset : "", row->preset ? "]" : "");
}

void td_help_all(FILE *out)
{
    fputs("tandem runs large mixture-of-experts language models on small machines.\n"
          "\n"
          "usage: tandem COMMAND [options]\n"
          "\n",
          out);
    for (uint32_t i = 0; i < td_n_commands; i++)
        fprintf(out, "  %-11s %s\n", td_commands[i].name, td_commands[i].summary);
    fputs("\n"
          "  tandem COMMAND --help   the options of a command\n"
          "  tandem --version        version, build and instruction set\n"
          "  tandem --man            this manual as a man page: tandem --man | man -l -\n"
          "\n"
          "Numbers may end in k, M or G (powers of 1024). TANDEM_ISA=generic|avx2|avx512|neon\n"
          "in the environment lowers the instruction set that is used.\n",
          out);
}

void td_help_command(FILE *out, const struct td_command *command)
{
    fprintf(out, "usage: tandem %s %s\n\n%s\n\n", command->name, command->args, command->about);
    for (int i = 0; i < TD_N_OPTS; i++) {
        if (!td_opt_belongs((enum td_opt)i, command)) continue;
        char name[80], help[400];
        option_name(&td_options[i], name, sizeof(name));
        option_help(&td_options[i], help, sizeof(help));
        const int n = fprintf(out, "  %s", name);
        enum { COLUMN = 32 };
        if (n > COLUMN - 2) fputc('\n', out);
        wrap(out, help, COLUMN, n > COLUMN - 2 ? 0 : n);
    }
}

// Roff: a backslash and a leading point or apostrophe mean something; a dash must stay a minus.
static void roff(FILE *out, const char *text)
{
    bool at_start = true;
    for (; *text; text++) {
        if (at_start && (*text == '.' || *text == '\'')) fputs("\\&", out);
        if (*text == '\\')
            fputs("\\e", out);
        else if (*text == '-')
            fputs("\\-", out);
        else if (*text == '\n' && text[1] == '\n')
            fputs("\n.PP", out);
        else
            fputc(*text, out);
        if (*text == '\n' && text[1] == '\n') {
            text++;
            fputc('\n', out);
        }
        at_start = *text == '\n';
    }
}

void td_help_man(FILE *out)
{
    fputs(".\\\" SPDX-License-Identifier: MIT\n"
          ".\\\" Made by `tandem --man` from src/app/options.c.\n"
          ".TH TANDEM 1 \"\" \"tandem " TD_VERSION "\" \"User commands\"\n"
          ".SH NAME\n"
          "tandem \\- run large mixture\\-of\\-experts language models on small machines\n"
          ".SH SYNOPSIS\n",
          out);
    for (uint32_t i = 0; i < td_n_commands; i++) {
        fprintf(out, "%s.B tandem %s\n", i ? ".br\n" : "", td_commands[i].name);
        roff(out, td_commands[i].args);
        fputc('\n', out);
    }
    fputs(".SH DESCRIPTION\n"
          "Numbers may end in k, M or G (powers of 1024). Errors are one line on the standard\n"
          "error, \"tandem: SENTENCE\".\n",
          out);
    for (uint32_t i = 0; i < td_n_commands; i++) {
        const struct td_command *command = &td_commands[i];
        fprintf(out, ".SH %s\n", command->name);
        fprintf(out, ".B tandem %s\n", command->name);
        roff(out, command->args);
        fputs("\n.PP\n", out);
        roff(out, command->about);
        fputc('\n', out);
        for (int o = 0; o < TD_N_OPTS; o++) {
            if (!td_opt_belongs((enum td_opt)o, command)) continue;
            const struct td_opt_row *row = &td_options[o];
            char help[400];
            option_help(row, help, sizeof(help));
            fputs(".TP\n.B ", out);
            if (row->letter) fprintf(out, "\\-%c, ", row->letter);
            roff(out, row->name);
            if (row->value) {
                fputs(" \\fI", out);
                roff(out, row->value);
                fputs("\\fR", out);
            }
            fputc('\n', out);
            roff(out, help);
            fputc('\n', out);
        }
    }
    fputs(".SH ENVIRONMENT\n"
          ".TP\n.B TANDEM_ISA\n"
          "The strongest instruction set that may be used: generic, avx2, avx512 or neon. It only\n"
          "lowers what the machine has.\n"
          ".TP\n.B XDG_CACHE_HOME\n"
          "Where digests of models and speeds of this machine are kept between runs, in the\n"
          "folder tandem; by default ~/.cache. They may be deleted at any time.\n"
          ".TP\n.B NO_COLOR\n"
          "Any value: no colours or dimmed text.\n"
          ".SH EXIT STATUS\n"
          "0 done, 1 failed, 2 wrong usage, 130 stopped by Ctrl\\-C.\n",
          out);
}
