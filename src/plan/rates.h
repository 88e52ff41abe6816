// SPDX-License-Identifier: MIT
// A machine's speed by depth, learnt from what it does: a few depths, each the speed seen there
// lately. Pure. What it learns is what split.h asks for.
#ifndef TD_PLAN_RATES_H
#define TD_PLAN_RATES_H

#include "plan/split.h"

// Adds what was seen: n_tokens beginning at depth took seconds. Runs shorter than min_tokens say
// little about speed and are not taken. Depths stay ascending, at most TD_SPLIT_MAX_POINTS.
void td_rates_saw(struct td_split_rate *rate, uint32_t depth, uint32_t n_tokens, double seconds,
                  uint32_t min_tokens);

#endif
