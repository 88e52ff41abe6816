// SPDX-License-Identifier: MIT
// Tables as comma-separated text (RFC 4180) that lies in memory: a header line with the names of
// the columns, then records. Quoted fields may hold commas, doubled quotes and line ends. Pure.
#ifndef TD_PLAN_CSV_H
#define TD_PLAN_CSV_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TD_CSV_MAX_COLUMNS 64
#define TD_CSV_MAX_TEXT    512 // bytes of a field that are kept, with the closing zero

struct td_csv {
    const char *name; // of the table, for errors
    const char *at, *end;
    uint32_t n_columns;
    uint32_t line; // of the record that was read last; the header is line 1
    char columns[TD_CSV_MAX_COLUMNS][48];
    char fields[TD_CSV_MAX_COLUMNS][TD_CSV_MAX_TEXT]; // of the last record; longer ones are cut
};

// Reads the header. text (n_bytes) must outlive csv. Fails: TD_EFORMAT.
int td_csv_open(struct td_csv *csv, const char *name, const char *text, size_t n_bytes,
                struct td_error *err) TD_MUST_CHECK;

// Reads the next record: 1 when there is one, 0 at the end, or TD_EFORMAT (another number of fields
// than the header has). Empty lines are skipped.
int td_csv_next(struct td_csv *csv, struct td_error *err) TD_MUST_CHECK;

// Position of a column, or -1.
int td_csv_column(const struct td_csv *csv, const char *column);

// The last record's field; "" when there is no such column.
const char *td_csv_text(const struct td_csv *csv, const char *column);

// The field as a finite number; none when it is empty or the column is missing. Fails: TD_EFORMAT,
// with the line and the column in the sentence.
int td_csv_number(const struct td_csv *csv, const char *column, double none, double *out,
                  struct td_error *err) TD_MUST_CHECK;

#endif
