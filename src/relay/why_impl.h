// SPDX-License-Identifier: MIT
// What an errno value means, for the sentences of this folder.
#ifndef TD_RELAY_WHY_IMPL_H
#define TD_RELAY_WHY_IMPL_H

#include <stddef.h>

// Writes the text into buf, which is returned. Any thread.
const char *td_relay_why(int errno_value, char *buf, size_t buf_bytes);

#endif
