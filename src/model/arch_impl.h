// SPDX-License-Identifier: MIT
// What an architecture's file gives to load.c, and the list of them.
#ifndef TD_MODEL_ARCH_IMPL_H
#define TD_MODEL_ARCH_IMPL_H

#include "model/bind_impl.h"
#include "model/program_impl.h"

struct td_arch {
    const char *name; // general.architecture
    // Fills *spec from metadata and published constants; failures go to the binder.
    void (*read_spec)(struct td_binder *b, struct td_spec *spec);
    // Binds every weight and records the forward pass; returns the logits' slot.
    td_slot (*record)(struct td_binder *b, struct td_recorder *r);
};

extern const struct td_arch td_arch_gptoss;

#endif
