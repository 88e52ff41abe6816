// SPDX-License-Identifier: MIT
// Recording a program: one function per op kind, called by an architecture's file in the order of
// its forward pass. Running out of memory is remembered and comes out at the end.
#ifndef TD_MODEL_PROGRAM_IMPL_H
#define TD_MODEL_PROGRAM_IMPL_H

#include "model/program.h"

struct td_recorder {
    const struct td_spec *spec;
    uint16_t layer; // of the ops that come; TD_NO_LAYER outside layers
    struct td_program program;
    uint32_t cap_ops, cap_slots;
    bool no_memory;
};

void td_rec_begin(struct td_recorder *r, const struct td_spec *spec);
// Moves the program to *out; on failure *out is zeroed.
int td_rec_end(struct td_recorder *r, td_slot logits, struct td_program *out,
               struct td_error *err) TD_MUST_CHECK;
void td_program_free(struct td_program *program);

// A slot of `width` f32 (or int32) per row.
td_slot td_rec_slot(struct td_recorder *r, const char *name, uint32_t width);
td_slot td_rec_slot_ids(struct td_recorder *r, const char *name, uint32_t width);

void td_rec_embed(struct td_recorder *r, td_slot out, td_weight w);
void td_rec_rmsnorm(struct td_recorder *r, td_slot out, td_slot in, td_weight w);
void td_rec_linear(struct td_recorder *r, td_slot out, td_slot in, td_weight w, td_weight bias);
void td_rec_rope(struct td_recorder *r, td_slot heads, uint32_t n_heads);
void td_rec_kv_put(struct td_recorder *r, td_slot k, td_slot v);
void td_rec_keep(struct td_recorder *r, td_slot a, td_slot b);
void td_rec_attend(struct td_recorder *r, td_slot out, td_slot q, td_weight sinks);
void td_rec_route(struct td_recorder *r, td_slot ids, td_slot gates, td_slot logits);
void td_rec_experts_glu(struct td_recorder *r, td_slot out, td_slot ids, td_slot in,
                        const td_weight gate[2], const td_weight up[2]); // matrix, bias
void td_rec_experts_sum(struct td_recorder *r, td_slot out, td_slot ids, td_slot gates, td_slot in,
                        const td_weight down[2]);
void td_rec_add(struct td_recorder *r, td_slot out, td_slot in);

#endif
