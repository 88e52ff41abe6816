// SPDX-License-Identifier: MIT
// What was found out once and takes long to find out again, in files of the user's cache folder.
// Losing it costs time, never correctness; what is in the files is believed only as far as it reads
// well. Where there is no folder nothing is kept.
#ifndef TD_APP_CACHE_H
#define TD_APP_CACHE_H

#include "app/config.h"

#include <jansson.h>

// The entry of key in the file NAME of the cache folder: a new reference, or NULL.
json_t *td_cache_get(const struct td_config *cfg, const char *name, const char *key);

// Puts value, which it takes over, in its place. Old entries give way when there are too many.
void td_cache_put(const struct td_config *cfg, const char *name, const char *key, json_t *value);

#endif
