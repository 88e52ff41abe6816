// SPDX-License-Identifier: MIT
// plan/split.h from the command line: what the formula expects of two machines and a link, for
// scripts that compare it with what they measured.
//   split_says WORD=VALUE...
// here-prefill, here-decode, there-prefill, there-decode: DEPTH:TOK_S,DEPTH:TOK_S,...; link:
// bytes/s; round-trip, setup: seconds; prompt, answer, chunk, checkpoint: tokens; stream: layer,
// end; groups: LAYERS:WINDOW:BYTES_PER_TOKEN_LAYER,... Prints one JSON object.
#include "plan/split.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Up to three numbers with ':' between them; returns how many, *text is behind them and a ','.
static int numbers(const char **text, double out[3])
{
    int n = 0;
    while (n < 3) {
        char *end;
        out[n] = strtod(*text, &end);
        if (end == *text) return 0;
        n++;
        *text = end;
        if (**text != ':') break;
        (*text)++;
    }
    if (**text == ',')
        (*text)++;
    else if (**text)
        return 0;
    return n;
}

static bool rate_of(const char *text, struct td_split_rate *out)
{
    double x[3];
    for (out->n_points = 0; *text; out->n_points++) {
        if (out->n_points == TD_SPLIT_MAX_POINTS || numbers(&text, x) != 2) return false;
        out->points[out->n_points] = (struct td_split_point){x[0], x[1]};
    }
    return out->n_points > 0;
}

static bool groups_of(const char *text, struct td_split_ask *ask)
{
    double x[3];
    for (ask->n_groups = 0; *text; ask->n_groups++) {
        if (ask->n_groups == TD_SPLIT_MAX_GROUPS || numbers(&text, x) != 3) return false;
        ask->groups[ask->n_groups] = (struct td_split_group){(uint32_t)x[0], (uint32_t)x[1], x[2]};
    }
    return ask->n_groups > 0;
}

static bool take(struct td_split_ask *ask, const char *word)
{
    const char *value = strchr(word, '=');
    if (!value) return false;
    const size_t n = (size_t)(value++ - word);
    const struct {
        const char *name;
        struct td_split_rate *out;
    } rates[] = {{"here-prefill", &ask->here.prefill},
                 {"here-decode", &ask->here.decode},
                 {"there-prefill", &ask->there.prefill},
                 {"there-decode", &ask->there.decode}};
    for (size_t i = 0; i < sizeof(rates) / sizeof(rates[0]); i++)
        if (strlen(rates[i].name) == n && strncmp(word, rates[i].name, n) == 0)
            return rate_of(value, rates[i].out);
    if (strncmp(word, "groups", n) == 0) return groups_of(value, ask);
    if (strncmp(word, "stream", n) == 0) {
        ask->stream = strcmp(value, "end") == 0 ? TD_SPLIT_AT_END : TD_SPLIT_BY_LAYER;
        return true;
    }
    char *end;
    const double x = strtod(value, &end);
    if (*end || end == value || !(x >= 0)) return false;
    const struct {
        const char *name;
        double *seconds;
        uint32_t *tokens;
    } plain[] = {{"link", &ask->link_bytes_per_s, NULL},
                 {"round-trip", &ask->round_trip_seconds, NULL},
                 {"setup", &ask->setup_seconds, NULL},
                 {"prompt", NULL, &ask->n_prompt_tokens},
                 {"answer", NULL, &ask->n_answer_tokens},
                 {"chunk", NULL, &ask->chunk_tokens},
                 {"checkpoint", NULL, &ask->checkpoint_tokens}};
    for (size_t i = 0; i < sizeof(plain) / sizeof(plain[0]); i++) {
        if (strlen(plain[i].name) != n || strncmp(word, plain[i].name, n) != 0) continue;
        if (plain[i].seconds) *plain[i].seconds = x;
        if (plain[i].tokens) *plain[i].tokens = (uint32_t)x;
        return true;
    }
    return false;
}

static void say(const char *name, double x)
{
    if (isfinite(x))
        printf("\"%s\": %.9g, ", name, x);
    else
        printf("\"%s\": null, ", name);
}

int main(int argc, char **argv)
{
    struct td_split_ask ask = {
        .n_prompt_tokens = 1, .n_answer_tokens = 1, .chunk_tokens = 512, .checkpoint_tokens = 4096};
    for (int i = 1; i < argc; i++) {
        if (take(&ask, argv[i])) continue;
        fprintf(stderr, "split_says: not understood: '%s'\n", argv[i]);
        return 2;
    }
    struct td_split s;
    td_split(&s, &ask);
    printf("{");
    say("here_first_seconds", s.here_first_seconds);
    say("here_seconds", s.here_seconds);
    say("split_first_seconds", s.split_first_seconds);
    say("split_seconds", s.split_seconds);
    say("there_first_seconds", s.there_first_seconds);
    say("there_seconds", s.there_seconds);
    say("far_seconds", s.far_seconds);
    say("kv_bytes", s.kv_bytes);
    say("transfer_seconds", s.transfer_seconds);
    say("exposed_seconds", s.exposed_seconds);
    printf("\"pays_from\": %u, \"pays\": %s, \"all_there_is_faster\": %s, \"why\": \"%s\"}\n",
           td_split_pays_from(&ask, 1u << 20), s.pays ? "true" : "false",
           s.all_there_is_faster ? "true" : "false", td_split_why_text(s.why));
    return 0;
}
