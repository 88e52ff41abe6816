// SPDX-License-Identifier: MIT
// A forward pass as data: a flat list of ops over named slots. Recorded once per model by its
// architecture file; rows, positions and sequences come with each run. A backend replays it, the
// cost model prices it, `tandem inspect --program` prints it.
#ifndef TD_MODEL_PROGRAM_H
#define TD_MODEL_PROGRAM_H

#include "base/status.h"
#include "base/type.h"
#include "model/spec.h"

#include <stddef.h>
#include <stdint.h>

typedef uint16_t td_slot;  // index into td_program.slots
typedef int32_t td_weight; // index into td_model.weights
#define TD_NO_SLOT   ((td_slot)0xffff)
#define TD_NO_WEIGHT ((td_weight)-1)
#define TD_NO_LAYER  0xffffu

enum td_op_kind {
    TD_OP_EMBED,       // out = row `token` of w
    TD_OP_RMSNORM,     // out = rmsnorm(in) * w
    TD_OP_LINEAR,      // out = w in + bias
    TD_OP_ROPE,        // in place on out: n_heads heads of head_dim
    TD_OP_KV_PUT,      // keys in, values in2 -> the layer's cache at each row's position
    TD_OP_KEEP,        // from here on only rows that want logits: compacts out (and in, if given)
    TD_OP_ATTEND,      // out = attention(in) over the layer's cache: causal, window, sink
    TD_OP_ROUTE,       // out_ids, out = top-k of logits in, softmax over the chosen
    TD_OP_EXPERTS_GLU, // out (k, n_ff) = act(gate_e in + gate_b, up_e in + up_b) per chosen expert
    TD_OP_EXPERTS_SUM, // out = sum over slots of weight * (down_e h + down_b), in slot order
    TD_OP_ADD,         // out += in
    TD_N_OPS
};

struct td_op {
    enum td_op_kind kind;
    uint16_t layer; // TD_NO_LAYER outside layers
    td_slot out;
    td_slot out_ids; // ROUTE: chosen experts (k)
    td_slot in;      // first input
    td_slot in2;     // KV_PUT: values; EXPERTS_*: expert weights (SUM)
    td_slot in_ids;  // EXPERTS_*: chosen experts
    td_weight w;     // main matrix or norm; EXPERTS_GLU: gate; EXPERTS_SUM: down; ATTEND: sinks
    td_weight bias;
    td_weight w2; // EXPERTS_GLU: up
    td_weight bias2;
    uint32_t n_heads;    // ROPE, ATTEND
    uint32_t n_kv_heads; // KV_PUT, ATTEND
    uint32_t head_dim;   // ROPE, KV_PUT, ATTEND
    uint32_t window;     // ATTEND: 0 is none
    uint32_t k;          // ROUTE, EXPERTS_*: experts per token
    float eps;           // RMSNORM
    float scale;         // ATTEND
    float alpha, limit;  // EXPERTS_GLU
};

struct td_slot_info {
    char name[16];
    uint32_t width; // elements per row: f32, or int32 for ids
    bool is_ids;
};

struct td_program {
    uint32_t n_ops;
    uint32_t n_slots;
    struct td_op *ops;
    struct td_slot_info *slots;
    td_slot logits;  // the slot that holds (rows that want logits, n_vocab) at the end
    uint32_t i_keep; // index of the KEEP op
};

// "rmsnorm", "experts_glu", ...
const char *td_op_name(enum td_op_kind kind);

#endif
