// SPDX-License-Identifier: MIT
// A device that holds a model's buffers and runs its program. One table of functions per kind of
// device. It knows rows, positions and KV pages; it knows neither text, sampling nor sockets.
#ifndef TD_BACKEND_BACKEND_H
#define TD_BACKEND_BACKEND_H

#include "base/status.h"
#include "model/model.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct td_device; // a model loaded on a device
struct td_kv;     // keys and values of one sequence: positions [0, len)
struct td_kv_pin; // pages of a span, kept as they are until unpinned

enum td_precision {
    // Activations in blocks of 32, of 8 bits for MXFP4 weights and of 16 bits for Q8_0 weights.
    TD_PRECISION_DEFAULT,
    TD_PRECISION_HIGH, // f32 activations everywhere
    TD_PRECISION_FINE, // 16 bits for MXFP4 weights, too
    TD_N_PRECISIONS,
};

// "default", "high", "fine".
const char *td_precision_name(enum td_precision precision);

struct td_device_config {
    uint32_t n_threads; // >= 1
    enum td_precision precision;
    bool kv_f32;              // KV in f32 instead of f16
    uint32_t max_rows;        // rows of one run at most (the chunk)
    uint32_t max_logits_rows; // rows of one run that may want logits
    uint64_t max_kv_bytes;    // KV pages of all sequences together; 0: no limit but memory
    int isa;                  // enum td_isa the kernels may use at most; -1: what the CPU has
};

// Positions [pos0, pos0 + n) of one layer of one sequence.
struct td_kv_span {
    struct td_kv *kv;
    uint32_t layer;
    uint32_t pos0;
    uint32_t n;
};

// Consecutive rows of one sequence; they continue its KV: the first is at position kv_len(kv).
struct td_batch_part {
    struct td_kv *kv;
    const int32_t *tokens; // (n_rows), each < n_vocab
    uint32_t n_rows;       // >= 1
    uint32_t n_want;       // the last n_want rows want logits
};

struct td_batch {
    const struct td_batch_part *parts; // each kv at most once
    uint32_t n_parts;
};

// Called on the compute leader while a run is under way. layer_done: the layer's keys and values of
// the part's rows are final; it may pin the span and must return soon. A run that then fails takes
// back what it told (kv_len says so): the same positions are told again when they are computed
// again. cancel, if not NULL, is read between layers.
struct td_watch {
    void *ctx;
    void (*layer_done)(void *ctx, const struct td_kv_span *span); // may be NULL
    const _Atomic bool *cancel;                                   // may be NULL
};

struct td_device_report {
    char text[240]; // "cpu avx512, 2 threads, ..."
    const char *isa;
    uint64_t scratch_bytes;  // activations and per-thread scratch
    uint64_t kv_bytes;       // KV pages in use now, shared pages counted once
    uint64_t kv_page_bytes;  // one page of one layer (the largest)
    uint32_t kv_page_tokens; // positions of a page
};

// What a step multiplies, which says what limit it runs against.
enum td_arith { TD_ARITH_F32, TD_ARITH_INT8, TD_ARITH_INT16 };

// Time of one step of the program as the device runs it, summed over the runs since the times were
// switched on. A device may run an op as several steps, or several ops as one.
struct td_step_time {
    const char *name; // "linear", "quantize", ...
    // The ops it computes, i_op and those after it; n_ops is 0 for a step that only prepares op
    // i_op or ends it.
    uint32_t i_op, n_ops;
    enum td_arith arith;
    uint64_t n_runs;
    uint64_t time_ns; // from the end of the step before to the end of this one
    uint64_t wait_ns; // of that: a thread's wait for the others, the mean of all threads
};

// Calls come from one thread, the engine's, unless a function says otherwise.
struct td_backend {
    const char *name;

    // Binds a model (which must outlive the device) to the device. On failure *out is NULL.
    int (*load)(struct td_device **out, const struct td_model *model,
                const struct td_device_config *cfg, struct td_error *err);
    void (*close)(struct td_device *dev);

    // An empty sequence that may grow to n_ctx positions.
    int (*kv_open)(struct td_device *dev, struct td_kv **out, uint32_t n_ctx, struct td_error *err);
    void (*kv_close)(struct td_kv *kv); // NULL is fine
    uint32_t (*kv_len)(const struct td_kv *kv);

    // Whether kv still holds everything a token at position n may see (0 <= n <= len). After a run
    // that is so for every position of its rows, until the next run.
    bool (*kv_holds)(const struct td_kv *kv, uint32_t n);
    // Makes the empty dst equal to positions [0, n) of src, sharing pages. TD_EARG when src does
    // not hold n. Pages are copied only when one of them later writes into a shared page.
    int (*kv_share)(struct td_kv *dst, const struct td_kv *src, uint32_t n, struct td_error *err);
    // Forgets positions >= n; TD_EARG when kv does not hold n.
    int (*kv_trim)(struct td_kv *kv, uint32_t n, struct td_error *err);

    // Bytes of the pages that no one but these sequences holds: what closing all n would free.
    uint64_t (*kv_alone)(struct td_kv *const *kvs, uint32_t n);

    // Pinned pages are neither trimmed, evicted nor overwritten; any thread may read or unpin. Only
    // from layer_done may a span reach beyond kv_len. TD_EARG when it is not held.
    int (*kv_pin)(struct td_kv_pin **out, const struct td_kv_span *span, struct td_error *err);
    void (*kv_unpin)(struct td_kv_pin *pin);

    // The canonical layout: K of the span, then V, each (n, n_kv_heads, head_dim), little endian,
    // in the session's KV type. size_bytes must be exactly that. Any thread.
    int (*kv_read)(const struct td_kv_pin *pin, void *out, size_t size_bytes, struct td_error *err);
    // Sets pages aside so that kv_write of positions [kv_len, n) finds room, whatever others take
    // meanwhile; until a run, trim, share into or close of kv, or the next reserve (n <= kv_len:
    // nothing). Fails: TD_ENOMEM when they are not free, TD_EFULL when n is beyond n_ctx.
    int (*kv_reserve)(struct td_kv *kv, uint32_t n, struct td_error *err);
    // Writes positions of one layer from the canonical layout, allocating pages; the span must lie
    // below n_ctx and at or after kv_len. They count only once kv_commit says so, and are forgotten
    // by a trim or a run. Spans of a layer join one another; one that leaves a gap starts anew, as
    // a window layer's next checkpoint does. May come from one thread beside the engine's, for a kv
    // that nothing else touches meanwhile (no run, share, trim or commit); other sequences may run.
    int (*kv_write)(const struct td_kv_span *span, const void *in, size_t size_bytes,
                    struct td_error *err);
    // Declares positions [0, n) complete in all layers (window layers: what a token at n may see).
    // TD_EARG, and nothing changes, when the spans written do not fill them without a gap.
    int (*kv_commit)(struct td_kv *kv, uint32_t n, struct td_error *err);

    // Runs the program once over a batch: at most max_rows rows, max_logits_rows of them wanting
    // logits. logits: (rows that want logits, n_vocab) f32 in batch order, or NULL if none do.
    // On failure (TD_ECANCEL, TD_ENOMEM, TD_EFULL) every kv has its length and content of before;
    // window layers may hold fewer of the positions before kv_len.
    int (*run)(struct td_device *dev, const struct td_batch *batch, const struct td_watch *watch,
               float *logits, struct td_error *err);

    void (*report)(struct td_device *dev, struct td_device_report *out);

    // Takes the time of every step of the runs to come, from zero, until it is switched off; the
    // times stay. While off, a run does nothing for it.
    int (*time_steps)(struct td_device *dev, bool on, struct td_error *err);
    // Steps of the program, and (out != NULL) their times in the order they run.
    uint32_t (*step_times)(const struct td_device *dev, struct td_step_time *out);
};

const struct td_backend *td_backend_cpu(void);

#endif
