// SPDX-License-Identifier: MIT
// td_encode: text -> ids. Special tokens (when asked) cut the text, then invalid UTF-8 does, then
// the pre-tokenizer; each piece is merged on its own. Any bytes round trip: a run of bytes that are
// not UTF-8 is one piece, made of the tokens of its bytes and their merges.
//
// The merge loop keeps the pieces of a piece in a linked list and its possible merges in a heap,
// lowest rank first, then leftmost: O(n log n) for a piece of n bytes. A merge in the heap that no
// longer holds (a neighbour changed) is recognised when it comes out, by its rank.
#include "text/tokenizer_impl.h"

#include <stdlib.h>
#include <string.h>

#define NO_RANK UINT32_MAX
// 2^31 bytes: positions fit in 32 bits, and ids in the counts of everyone above.
#define MAX_TEXT ((size_t)1 << 31)

// One part of a piece; it starts as one byte.
struct part {
    int32_t id;
    int32_t made;  // what it merges into with its right neighbour
    uint32_t rank; // of that merge; NO_RANK when there is none or the part is gone
    uint32_t prev, next;
};

struct encoder {
    const struct td_tokenizer *t;
    struct td_pretok_run run;
    struct part *parts; // (cap)
    uint64_t *heap;     // (2 * cap) rank << 32 | part
    size_t n_heap;
    size_t cap;
    struct td_ids *out;
    struct td_error *err;
};

static int no_memory(struct encoder *e)
{
    return td_fail(e->err, TD_ENOMEM, "tokenizer: no memory to encode the text");
}

static int reserve(struct encoder *e, size_t n)
{
    if (n <= e->cap) return TD_OK;
    size_t cap = e->cap ? e->cap : 64;
    while (cap < n) cap *= 2;
    free(e->parts);
    free(e->heap);
    e->cap = 0;
    e->parts = malloc(cap * sizeof(*e->parts));
    // A merge takes at least one entry out and puts two in, and there are fewer than n merges.
    e->heap = malloc(2 * cap * sizeof(*e->heap));
    if (!e->parts || !e->heap) return no_memory(e);
    e->cap = cap;
    return TD_OK;
}

// A heap with four children to a node: half the levels of a binary one, and four keys lie in one
// or two cache lines.
static void heap_push(struct encoder *e, uint64_t key)
{
    size_t i = e->n_heap++;
    while (i > 0) {
        const size_t parent = (i - 1) / 4;
        if (e->heap[parent] <= key) break;
        e->heap[i] = e->heap[parent];
        i = parent;
    }
    e->heap[i] = key;
}

static uint64_t heap_pop(struct encoder *e)
{
    uint64_t *heap = e->heap;
    const uint64_t top = heap[0];
    const uint64_t key = heap[--e->n_heap];
    const size_t n = e->n_heap;
    size_t i = 0;
    for (size_t child = 1; child < n; child = 4 * i + 1) {
        const size_t end = child + 4 < n ? child + 4 : n;
        size_t least = child;
        for (size_t c = child + 1; c < end; c++)
            if (heap[c] < heap[least]) least = c;
        if (heap[least] >= key) break;
        heap[i] = heap[least];
        i = least;
    }
    heap[i] = key;
    return top;
}

// Looks up how part i merges with its right neighbour, and puts that into the heap.
static void offer(struct encoder *e, uint32_t i, uint32_t n)
{
    struct part *p = &e->parts[i];
    p->rank = NO_RANK;
    if (p->next >= n) return;
    uint32_t rank;
    p->made = td_vocab_merge(e->t, p->id, e->parts[p->next].id, &rank);
    if (p->made < 0) return;
    p->rank = rank;
    heap_push(e, (uint64_t)rank << 32 | i);
}

static void merge_parts(struct encoder *e, uint32_t n)
{
    struct part *parts = e->parts;
    e->n_heap = 0;
    for (uint32_t i = 0; i + 1 < n; i++) offer(e, i, n);
    while (e->n_heap > 0) {
        const uint64_t key = heap_pop(e);
        const uint32_t i = (uint32_t)key;
        struct part *p = &parts[i];
        if (p->rank != (uint32_t)(key >> 32)) continue;
        struct part *gone = &parts[p->next];
        p->id = p->made;
        p->next = gone->next;
        gone->rank = NO_RANK;
        if (p->next < n) parts[p->next].prev = i;
        offer(e, i, n);
        if (i > 0) offer(e, p->prev, n);
    }
}

static int push(struct encoder *e, int32_t id)
{
    return td_ids_push(e->out, id) ? no_memory(e) : TD_OK;
}

static int encode_piece(struct encoder *e, const char *piece, size_t size_bytes)
{
    const struct td_tokenizer *t = e->t;
    if (t->takes_whole_pieces || size_bytes == 1) {
        const int32_t whole = td_vocab_find(t, piece, size_bytes);
        if (whole >= 0) return push(e, whole);
    }
    const int code = reserve(e, size_bytes);
    if (code) return code;
    const uint32_t n = (uint32_t)size_bytes;
    for (uint32_t i = 0; i < n; i++) {
        uint8_t b;
        memcpy(&b, piece + i, 1);
        if (t->byte_id_plus_1[b] == 0)
            return td_fail(e->err, TD_EUNSUP, "tokenizer: the vocabulary has no token for byte %u",
                           b);
        e->parts[i] = (struct part){
            .id = (int32_t)t->byte_id_plus_1[b] - 1, .rank = NO_RANK, .prev = i - 1, .next = i + 1};
    }
    merge_parts(e, n);
    for (uint32_t i = 0; i < n; i = e->parts[i].next) {
        const int failed = push(e, e->parts[i].id);
        if (failed) return failed;
    }
    return TD_OK;
}

// Text that is valid UTF-8.
static int encode_valid(struct encoder *e, const char *text, size_t size_bytes)
{
    size_t at = 0;
    while (at < size_bytes) {
        size_t n = 0;
        int code = td_pretok_next(&e->run, text, size_bytes, at, &n, e->err);
        if (!code) code = encode_piece(e, text + at, n);
        if (code) return code;
        at += n;
    }
    return TD_OK;
}

static int encode_plain(struct encoder *e, const char *text, size_t size_bytes)
{
    size_t at = 0;
    while (at < size_bytes) {
        const size_t n_valid = td_utf8_valid(text + at, size_bytes - at);
        int code = encode_valid(e, text + at, n_valid);
        at += n_valid;
        size_t n_bad = 0;
        while (at + n_bad < size_bytes && !td_utf8_char(text + at + n_bad, size_bytes - at - n_bad))
            n_bad++;
        if (!code && n_bad > 0) code = encode_piece(e, text + at, n_bad);
        if (code) return code;
        at += n_bad;
    }
    return TD_OK;
}

static int encode_special(struct encoder *e, const char *text, size_t size_bytes)
{
    size_t from = 0;
    for (size_t at = 0; at < size_bytes;) {
        const int32_t id = td_vocab_special_at(e->t, text + at, size_bytes - at);
        if (id < 0) {
            at++;
            continue;
        }
        int code = encode_plain(e, text + from, at - from);
        if (!code) code = push(e, id);
        if (code) return code;
        at += td_token_bytes(e->t, id).size_bytes;
        from = at;
    }
    return encode_plain(e, text + from, size_bytes - from);
}

int td_encode(const struct td_tokenizer *t, const char *text, size_t size_bytes, bool parse_special,
              struct td_ids *out, struct td_error *err)
{
    if (size_bytes > MAX_TEXT)
        return td_fail(err, TD_EARG, "the text has %zu bytes, at most %zu can be encoded",
                       size_bytes, MAX_TEXT);
    if (size_bytes == 0) return TD_OK;
    const size_t n_before = out->n;
    struct encoder e = {.t = t, .out = out, .err = err};
    int code = td_pretok_begin(&e.run, t->pretok, err);
    if (!code) {
        code = parse_special ? encode_special(&e, text, size_bytes)
                             : encode_plain(&e, text, size_bytes);
        td_pretok_end(&e.run);
    }
    free(e.parts);
    free(e.heap);
    if (code) out->n = n_before;
    return code;
}

void td_ids_free(struct td_ids *ids)
{
    free(ids->at);
    *ids = (struct td_ids){0};
}

int td_ids_push(struct td_ids *ids, int32_t id)
{
    if (ids->n == ids->cap) {
        const size_t cap = ids->cap ? 2 * ids->cap : 32;
        int32_t *at = realloc(ids->at, cap * sizeof(*at));
        if (!at) return TD_ENOMEM;
        ids->at = at;
        ids->cap = cap;
    }
    ids->at[ids->n++] = id;
    return TD_OK;
}
