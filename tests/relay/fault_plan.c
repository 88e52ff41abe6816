// SPDX-License-Identifier: MIT
// A fault plan as text.
#include "fault_proxy.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const kinds[N_FAULT_KINDS] = {"cut", "reset", "flip", "stall", "mark"};

static bool number(const char *text, uint64_t *out)
{
    char *end;
    if (*text < '0' || *text > '9') return false;
    *out = strtoull(text, &end, 10);
    return *end == '\0';
}

// Splits at the next `stop`: text is cut there, *next is behind it or NULL.
static void split_at(char *text, char stop, char **next)
{
    char *end = strchr(text, stop);
    *next = end ? end + 1 : NULL;
    if (end) *end = '\0';
}

static bool parse_fault(struct fault *out, char *word)
{
    *out = (struct fault){.kind = N_FAULT_KINDS};
    int i_field = 0;
    uint64_t n;
    for (char *next; word; word = next, i_field++) {
        split_at(word, ',', &next);
        if (i_field == 0) {
            for (int k = 0; k < N_FAULT_KINDS; k++)
                if (strcmp(word, kinds[k]) == 0) out->kind = (enum fault_kind)k;
            if (out->kind == N_FAULT_KINDS) return false;
        } else if (i_field == 1) {
            if (!number(word, &n) || n >= FAULT_MAX_CONNS) return false;
            out->i_conn = (uint32_t)n;
        } else if (i_field == 2) {
            if (strcmp(word, "to") != 0 && strcmp(word, "from") != 0) return false;
            out->direction = strcmp(word, "to") == 0 ? FAULT_TO_SERVER : FAULT_TO_CLIENT;
        } else if (i_field == 3) {
            if (!number(word, &out->at_byte)) return false;
        } else if (strcmp(word, "all") == 0) {
            out->is_all = true;
        } else if (strncmp(word, "ms=", 3) == 0 && number(word + 3, &n) && n <= UINT32_MAX) {
            out->ms = (uint32_t)n;
        } else if (strncmp(word, "refuse=", 7) == 0 && number(word + 7, &n) && n <= UINT32_MAX) {
            out->refuse_ms = (uint32_t)n;
        } else {
            return false;
        }
    }
    return i_field >= 4;
}

bool fault_plan_parse(struct fault_plan *out, const char *text, char *why, size_t why_bytes)
{
    *out = (struct fault_plan){0};
    char copy[2048];
    if (snprintf(copy, sizeof(copy), "%s", text) >= (int)sizeof(copy)) {
        (void)snprintf(why, why_bytes, "a plan of more than %zu bytes", sizeof(copy) - 1);
        return false;
    }
    char *next;
    for (char *word = copy; word; word = next) {
        split_at(word, ' ', &next);
        if (*word == '\0') continue;
        char said[80];
        (void)snprintf(said, sizeof(said), "%.79s", word);
        uint64_t n = 0;
        bool is_fine;
        if (strncmp(word, "rate=", 5) == 0) {
            is_fine = number(word + 5, &out->bytes_per_s);
        } else if (strncmp(word, "latency=", 8) == 0) {
            is_fine = number(word + 8, &n) && n <= 60000;
            out->latency_ms = (uint32_t)n;
        } else {
            is_fine = out->n_faults < FAULT_MAX && parse_fault(&out->faults[out->n_faults], word);
            out->n_faults++;
        }
        if (!is_fine) {
            (void)snprintf(why, why_bytes, "not understood: '%s'", said);
            return false;
        }
    }
    return true;
}
