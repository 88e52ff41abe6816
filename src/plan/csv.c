// SPDX-License-Identifier: MIT
// Comma-separated text, field by field. What is read may come from anybody: lengths are checked,
// long fields are cut, nothing is allocated.
#include "plan/csv.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

// Larger numbers are no measurements, and stay finite in whatever unit they are taken.
#define TD_CSV_MAX 1e18

static void keep(char *out, size_t out_bytes, size_t *n, char c)
{
    if (*n + 1 < out_bytes) out[(*n)++] = c;
}

// One field into out; leaves csv->at on the separator behind it.
static void field(struct td_csv *csv, char *out, size_t out_bytes)
{
    size_t n = 0;
    const bool is_quoted = csv->at < csv->end && *csv->at == '"';
    if (is_quoted) csv->at++;
    while (csv->at < csv->end) {
        const char c = *csv->at;
        if (is_quoted && c == '"') {
            csv->at++;
            if (csv->at == csv->end || *csv->at != '"') break;
        } else if (!is_quoted && (c == ',' || c == '\n' || c == '\r')) {
            break;
        }
        if (c == '\n') csv->line++;
        keep(out, out_bytes, &n, *csv->at++);
    }
    out[n] = '\0';
    // Behind a closing quote nothing but a separator has a meaning.
    while (csv->at < csv->end && *csv->at != ',' && *csv->at != '\n' && *csv->at != '\r') csv->at++;
}

// Steps over what ends a field: true for a comma, false for the end of the record.
static bool has_more(struct td_csv *csv)
{
    if (csv->at < csv->end && *csv->at == ',') {
        csv->at++;
        return true;
    }
    if (csv->at < csv->end && *csv->at == '\r') csv->at++;
    if (csv->at < csv->end && *csv->at == '\n') csv->at++;
    return false;
}

int td_csv_open(struct td_csv *csv, const char *name, const char *text, size_t n_bytes,
                struct td_error *err)
{
    *csv = (struct td_csv){.name = name, .at = text, .end = text + n_bytes, .line = 1};
    if (n_bytes == 0) return td_fail(err, TD_EFORMAT, "%.100s is empty", name);
    bool more = true;
    while (more) {
        if (csv->n_columns == TD_CSV_MAX_COLUMNS)
            return td_fail(err, TD_EFORMAT, "%.100s: more than %u columns", name,
                           TD_CSV_MAX_COLUMNS);
        field(csv, csv->columns[csv->n_columns], sizeof(csv->columns[0]));
        csv->n_columns++;
        more = has_more(csv);
    }
    return TD_OK;
}

int td_csv_next(struct td_csv *csv, struct td_error *err)
{
    while (csv->at < csv->end && (*csv->at == '\n' || *csv->at == '\r')) {
        if (*csv->at == '\n') csv->line++;
        csv->at++;
    }
    if (csv->at == csv->end) return 0;
    csv->line++;
    const uint32_t line = csv->line;
    uint32_t n = 0;
    bool more = true;
    while (more) {
        if (n == csv->n_columns) break;
        field(csv, csv->fields[n++], TD_CSV_MAX_TEXT);
        more = has_more(csv);
    }
    if (more || n != csv->n_columns)
        return td_fail(err, TD_EFORMAT, "%.100s, line %u: %s than the %u columns of the first line",
                       csv->name, line, more ? "more fields" : "fewer fields", csv->n_columns);
    return 1;
}

int td_csv_column(const struct td_csv *csv, const char *column)
{
    for (uint32_t i = 0; i < csv->n_columns; i++)
        if (strcmp(csv->columns[i], column) == 0) return (int)i;
    return -1;
}

const char *td_csv_text(const struct td_csv *csv, const char *column)
{
    const int i = td_csv_column(csv, column);
    return i < 0 ? "" : csv->fields[i];
}

int td_csv_number(const struct td_csv *csv, const char *column, double none, double *out,
                  struct td_error *err)
{
    const char *text = td_csv_text(csv, column);
    char *end = NULL;
    *out = none;
    if (text[0] == '\0') return TD_OK;
    const double v = strtod(text, &end);
    const bool is_number = end != text && *end == '\0' && !isnan(v);
    if (!is_number || fabs(v) > TD_CSV_MAX)
        return td_fail(err, TD_EFORMAT, "%.100s, line %u: '%.40s' of column %s is %s", csv->name,
                       csv->line, text, column,
                       is_number ? "beyond 1e18, which nothing here can be" : "not a number");
    *out = v;
    return TD_OK;
}
