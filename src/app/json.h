// SPDX-License-Identifier: MIT
// Small helpers over jansson: text that may not be UTF-8, numbers that may not be finite.
#ifndef TD_APP_JSON_H
#define TD_APP_JSON_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

void td_json_u64(json_t *object, const char *key, uint64_t v); // above 2^63 - 1: as text
void td_json_f64(json_t *object, const char *key, double v);   // not finite: null
void td_json_text(json_t *object, const char *key, const char *text);
// Any bytes; what is not UTF-8 becomes U+FFFD.
void td_json_bytes(json_t *object, const char *key, const char *text, size_t size_bytes);

// Writes value with flags of json_dumpf and a newline, and frees it. 0, or -1 when it failed.
int td_json_print(FILE *out, json_t *value, size_t flags);

#endif
