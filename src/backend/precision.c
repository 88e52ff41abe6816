// SPDX-License-Identifier: MIT
// How precisely a device calculates, by name.
#include "backend/backend.h"

const char *td_precision_name(enum td_precision precision)
{
    switch (precision) {
    case TD_PRECISION_DEFAULT: return "default";
    case TD_PRECISION_HIGH: return "high";
    case TD_PRECISION_FINE: return "fine";
    case TD_N_PRECISIONS: break;
    }
    return "unknown";
}
