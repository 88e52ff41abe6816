// SPDX-License-Identifier: MIT
// Private to backend/cpu: the device, its KV pages and its lowered program.
#ifndef TD_BACKEND_CPU_CPU_IMPL_H
#define TD_BACKEND_CPU_CPU_IMPL_H

#include "backend/backend.h"
#include "base/team.h"
#include "kernels/kernels.h"

#include <pthread.h>
#include <stdatomic.h>

// ---- KV pages (kv.c) --------------------------------------------------------------------------

#define TD_NO_PAGE UINT32_MAX

// A page holds TD_ATTN_BLOCK positions of one layer: for each KV head, K as (head_dim, positions),
// then V as (positions, head_dim): what one call of an attend kernel reads, in one run. Pages of
// all layers have the size of the largest, so that any page serves any layer.
struct td_kv_page {
    // Guarded by the pool's mutex.
    uint32_t n_refs;    // owners: sequences and pins
    uint32_t n_filled;  // positions ever written since the page was taken
    uint32_t n_counted; // 0 but inside td_cpu_kv_alone
};

struct td_kv_pool {
    // Guards all below that changes, and each sequence's n_reserved: pins come and go on any
    // thread, kv_write may come from one beside the engine's.
    pthread_mutex_t mutex;
    uint8_t *bytes; // reserved address space: n_pages * page_bytes
    size_t page_bytes;
    uint32_t n_pages;
    uint32_t n_touched; // pages below were taken at least once
    uint32_t n_used;
    uint32_t n_reserved; // of those not in use: promised to sequences
    uint32_t n_free;     // entries of `free`: pages below n_touched that nobody owns
    struct td_kv_page *pages;
    uint32_t *free;
    size_t reserved_bytes;
    size_t meta_bytes; // of pages and of free, each
};

// What a layer holds besides its pages' being there.
struct td_kv_extent {
    uint32_t whole_from; // every position of [whole_from, len) that has a page is computed
    // kv_write brought these and no commit has counted them yet.
    uint32_t written_begin, written_end;
};

struct td_kv {
    struct td_device *dev;
    uint32_t n_ctx;
    uint32_t len;
    uint32_t dropped_for;         // pages unseen from this position on were given back
    uint32_t n_reserved;          // pages of the pool's n_reserved that are this one's
    bool is_reserved;             // pages that a commit frees are kept for it
    uint32_t n_blocks;            // pages per layer at most
    uint32_t *pages;              // (n_layers, n_blocks), TD_NO_PAGE where nothing is held
    struct td_kv_extent *extents; // (n_layers)
};

int td_kv_pool_init(struct td_kv_pool *pool, const struct td_spec *spec, bool is_f32,
                    uint64_t max_bytes, struct td_error *err);
void td_kv_pool_free(struct td_kv_pool *pool);

// Makes positions [len, len + n) of every layer writable by this kv alone.
int td_kv_prepare(struct td_kv *kv, uint32_t n, struct td_error *err);
// The positions of td_kv_prepare are final: len grows, pages that no later token sees are given
// back.
void td_kv_advance(struct td_kv *kv, uint32_t n);
// Undoes td_kv_prepare.
void td_kv_abandon(struct td_kv *kv);

// Pages that somebody owns now.
uint32_t td_kv_pool_used(struct td_kv_pool *pool);

// K and V of a head in a page that is held.
uint8_t *td_kv_block(const struct td_device *dev, const struct td_kv *kv, uint32_t layer,
                     uint32_t i_block, uint32_t head);
// Puts position t of a block: k and v (head_dim) in the type of the cache, elem_bytes (2 or 4)
// each.
void td_kv_store(uint8_t *block, uint32_t t, const void *k, const void *v, uint32_t head_dim,
                 size_t elem_bytes);

// ---- The lowered program (lower.c) ------------------------------------------------------------

// An op becomes one step or a few.
enum td_step_kind {
    TD_STEP_ANGLES, // cos and sin of every row's position
    TD_STEP_EMBED,
    TD_STEP_RMSNORM,
    TD_STEP_QUANTIZE, // a slot -> its 8- or 16-bit copy
    TD_STEP_LINEAR,
    TD_STEP_ROPE,
    TD_STEP_KV_PUT,
    TD_STEP_KEEP,
    TD_STEP_ATTEND,
    TD_STEP_ROUTE,
    TD_STEP_SORT, // rows of each expert, so that an expert's rows are one matrix product
    TD_STEP_EXPERTS_GLU,
    TD_STEP_EXPERTS_DOWN,
    TD_STEP_EXPERTS_COMBINE,
    TD_STEP_ADD,
};

// How a matrix product takes its activations; by weight type (td_cpu_lower).
enum td_act { TD_ACT_F32, TD_ACT_Q8, TD_ACT_Q16, TD_N_ACTS };

struct td_step {
    enum td_step_kind kind;
    const struct td_op *op; // NULL for ANGLES and QUANTIZE
    uint32_t i_op;          // the op it was made for
    td_slot slot;           // QUANTIZE, EXPERTS_GLU: which
    uint32_t n_vectors;     // the same: vectors per row of it (top-k for expert inputs, else 1)
    bool is_kept;           // runs on the rows that want logits
    td_mm_fn *mm;           // LINEAR, EXPERTS_*
    td_mm_fn *mm2;          // EXPERTS_GLU: up
    enum td_act act;        // what mm takes; QUANTIZE: what it makes
    enum td_act act2;       // what mm2 takes
    enum td_act out_act;    // EXPERTS_GLU: what it writes
};

// What the team does between two barriers: the less of them, the less waiting.
enum td_phase_kind {
    // Each step takes a row from its own values alone, so whoever claims a row takes it through all
    // of them while it is in the nearest cache.
    TD_PHASE_ROWS,
    // One step, or matrix products of one input, whose tiles then make one list.
    TD_PHASE_BESIDE,
};

struct td_phase {
    enum td_phase_kind kind;
    uint32_t first, n_steps;
    td_weight next; // the next matrix that will surely be read after this phase, or TD_NO_WEIGHT
};

// ---- The device (cpu.c, exec*.c) -------------------------------------------------------

// Output columns of one claim in a matrix product, at most; a multiple of TD_QK.
#define TD_TILE_OUT 64
// Bytes of the next matrix that who waits fetches at most: a part of a second-level cache.
#define TD_AHEAD_BYTES ((size_t)256 * 1024)
// With at most so many rows a matrix product only reads its weights: who waits fetches those that
// come next.
#define TD_FEW_ROWS 8
// Rows of an expert whose gate and up tiles are held at once.
#define TD_TILE_ROWS 128
// Rows of a tile of attention: enough that converting K and V is little of its work.
#define TD_ATTN_ROWS 16

struct td_row {
    uint32_t pos;
    uint32_t i_part;
    int32_t token;
};

// Rows of one sequence that attention takes together.
struct td_row_tile {
    uint32_t begin, n;
};

// Private memory of one team member.
struct td_scratch {
    void *mm;         // TD_MM_SCRATCH_BYTES
    void *attn_panel; // td_attn_scratch_bytes
    // Of a tile's queries: (TD_ATTN_ROWS * group), q and acc by head_dim.
    float *attn_q, *attn_acc, *attn_m, *attn_l;
    struct td_attn_limits *attn_limits;
    float *tile;    // 2 x (TD_TILE_ROWS, TD_TILE_OUT)
    const void **x; // (max_rows)
    float **y;      // (max_rows)
    // What this member fetches while it waits: bytes [0, n_ahead) of `ahead` are done.
    const uint8_t *ahead;
    size_t n_ahead, max_ahead;
};

// What was measured of one phase; only while times are taken.
struct td_step_clock {
    uint64_t n_runs;
    uint64_t time_ns, wait_ns; // as in struct td_step_time
};

struct td_device {
    const struct td_model *model;
    struct td_device_config cfg;
    struct td_kernels k;
    struct td_team *team;
    struct td_kv_pool pool;
    uint32_t kv_elem_bytes;

    struct td_step *steps;
    uint32_t n_steps;
    struct td_phase *phases;
    uint32_t n_phases;
    const float **vectors; // (n_weights): f32 norms, biases, sinks; NULL for matrices
    float *vectors_owned;  // those that the file has in another type

    // Activations by slot: (max_rows, width); the logits slot has none, it is the caller's.
    uint8_t *arena;
    size_t arena_bytes;
    void **slots;
    uint8_t **quantized[TD_N_ACTS]; // by format and slot; NULL where the program never makes it
    float *angles;                  // (max_rows, n_dims): cos, then sin of each row
    float *down;                    // (max_rows * top_k, n_embd)
    uint32_t top_k;                 // of the expert ops; 0 when there are none
    struct td_scratch *scratch;     // (n_threads)

    // Rows of the current run, and those that want logits. Written by the leader before the run.
    struct td_row *rows;
    struct td_row *kept;
    uint32_t *kept_from; // (n_kept): index into rows
    uint32_t n_rows, n_kept;
    struct td_row_tile *tiles, *kept_tiles; // of rows and of kept
    uint32_t n_tiles, n_kept_tiles;

    // Experts that the current layer's rows chose: TD_STEP_SORT writes, expert steps read.
    uint32_t n_active;
    uint32_t *active;       // (n_experts): expert ids, ascending
    uint32_t *expert_begin; // (n_experts + 1): first pick of active[i]
    uint32_t *picks;        // (max_rows * top_k): row * top_k + slot

    // The current run.
    const struct td_batch *batch;
    const struct td_watch *watch;
    float *logits;
    bool is_timed;
    struct td_step_clock *clocks; // (n_phases), the leader's; NULL until times are first taken
    uint64_t *done_ns;            // (n_phases, n_threads): when a member had no more to do
    // The phase after which everybody stops: set by the leader before that phase's barrier.
    _Atomic uint32_t stop_after;
};

// Makes steps and vectors of a device whose model, cfg and kernels are set.
int td_cpu_lower(struct td_device *dev, struct td_error *err);
// Elements of one quantised vector of a QUANTIZE or EXPERTS_GLU step: the slot's width over the
// vectors per row.
uint32_t td_cpu_vector_width(const struct td_device *dev, const struct td_step *quantize);
// Vector i of a slot as a matrix product takes it; n elements.
const void *td_cpu_input(const struct td_device *dev, td_slot slot, enum td_act act, size_t i,
                         uint32_t n);
size_t td_cpu_act_bytes(enum td_act act, uint32_t n);
// Output columns of one claim of a matrix product.
uint32_t td_cpu_tile(const struct td_device *dev, const struct td_step *s);

// Runs all steps on the team; the rows are set. False when it was cancelled.
bool td_cpu_execute(struct td_device *dev);

// See struct td_backend (times.c).
int td_cpu_time_steps(struct td_device *dev, bool on, struct td_error *err);
uint32_t td_cpu_step_times(const struct td_device *dev, struct td_step_time *out);

// Work items of an expert step and one item of it (exec_moe.c).
uint32_t td_cpu_moe_items(const struct td_device *dev, const struct td_step *s, uint32_t n_rows);
// Where the down step that follows a GLU step begins to read.
const uint8_t *td_cpu_moe_first(const struct td_device *dev, const struct td_step *down);
void td_cpu_moe_item(struct td_device *dev, const struct td_step *s, uint32_t i, uint32_t n_rows,
                     struct td_scratch *scratch);

// Cuts rows into tiles; out has room for n_rows of them. Gives their number (exec_attn.c).
uint32_t td_cpu_tiles(struct td_row_tile *out, const struct td_row *rows, uint32_t n_rows);
// Writes K and V of row r of a run to its page.
void td_cpu_kv_put(struct td_device *dev, const struct td_op *op, const struct td_row *row,
                   uint32_t r, struct td_scratch *scratch);
// Work items of attention, and one of them.
uint32_t td_cpu_attn_items(const struct td_device *dev, const struct td_step *s);
void td_cpu_attn_item(struct td_device *dev, const struct td_step *s, uint32_t i,
                      struct td_scratch *scratch);

static inline const struct td_weight_info *td_cpu_weight(const struct td_device *dev, td_weight w)
{
    return &dev->model->weights[w];
}

static inline float *td_cpu_row(const struct td_device *dev, td_slot slot, uint32_t row)
{
    if (slot == dev->model->program.logits)
        return dev->logits + (size_t)row * dev->model->program.slots[slot].width;
    return (float *)dev->slots[slot] + (size_t)row * dev->model->program.slots[slot].width;
}

#endif
