// SPDX-License-Identifier: MIT
// KV pages: reference-counted blocks of TD_ATTN_BLOCK positions, shared between sequences and
// copied only when one of them writes where another may read. It does not compute.
//
// The one rule of writing: positions of a page at or beyond n_filled have never been seen by any
// owner, so whoever comes first may append in place, even to a shared or pinned page. Writing below
// n_filled of a page with more than one owner makes a copy first. kv_write, which may come from
// another thread than the engine's, always does: nobody else's pages change under a run.
#include "backend/cpu/kv.h"

#include "backend/cpu/cpu_impl.h"
#include "base/num.h"
#include "base/os.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

struct td_kv_pin {
    struct td_device *dev;
    uint32_t layer;
    uint32_t pos0;
    uint32_t n;
    uint32_t n_pages;
    uint32_t pages[]; // (n_pages), the first holds pos0
};

// ---- pool -------------------------------------------------------------------------------------

int td_kv_pool_init(struct td_kv_pool *pool, const struct td_spec *spec, bool is_f32,
                    uint64_t max_bytes, struct td_error *err)
{
    *pool = (struct td_kv_pool){0};
    size_t page_bytes = 0;
    for (uint32_t il = 0; il < spec->n_layers; il++) {
        const size_t bytes = (size_t)2 * spec->kv[il].n_kv_heads * spec->kv[il].head_dim *
                             TD_ATTN_BLOCK * (is_f32 ? 4 : 2);
        if (bytes > page_bytes) page_bytes = bytes;
    }
    if (max_bytes == 0) {
        struct td_os_info os;
        td_os_info(&os);
        max_bytes = os.memory_bytes ? os.memory_bytes : (uint64_t)16 << 30;
    }
    // Every layer has heads: the model was checked.
    assert(page_bytes > 0);
    uint64_t n_pages = max_bytes / page_bytes;
    if (n_pages < 1) n_pages = 1;
    if (n_pages >= TD_NO_PAGE) n_pages = TD_NO_PAGE - 1;
    pool->page_bytes = page_bytes;
    pool->n_pages = (uint32_t)n_pages;
    pool->reserved_bytes = (size_t)n_pages * page_bytes;
    pool->meta_bytes = (size_t)n_pages * sizeof(struct td_kv_page);
    pthread_mutex_init(&pool->mutex, NULL);
    pool->bytes = td_os_reserve(pool->reserved_bytes);
    pool->pages = td_os_reserve(pool->meta_bytes);
    pool->free = td_os_reserve(pool->meta_bytes);
    if (!pool->bytes || !pool->pages || !pool->free) {
        td_kv_pool_free(pool);
        return td_fail(err, TD_ENOMEM, "no address space for %llu MiB of KV cache",
                       (unsigned long long)(pool->reserved_bytes >> 20));
    }
    // A token reads all of a long context's pages: small ones would cost a table walk each 4 KiB.
    td_os_want_huge(pool->bytes, pool->reserved_bytes);
    return TD_OK;
}

void td_kv_pool_free(struct td_kv_pool *pool)
{
    if (pool->page_bytes == 0) return;
    td_os_release(pool->bytes, pool->reserved_bytes);
    td_os_release(pool->pages, pool->meta_bytes);
    td_os_release(pool->free, pool->meta_bytes);
    pthread_mutex_destroy(&pool->mutex);
    pool->page_bytes = 0;
}

// A page for kv, out of its own reservation or of what nobody has reserved.
static uint32_t take_page(struct td_kv *kv, uint32_t n_filled)
{
    struct td_kv_pool *pool = &kv->dev->pool;
    pthread_mutex_lock(&pool->mutex);
    uint32_t page = TD_NO_PAGE;
    const bool is_room = kv->n_reserved > 0 || pool->n_pages - pool->n_used > pool->n_reserved;
    if (is_room && pool->n_free > 0)
        page = pool->free[--pool->n_free];
    else if (is_room && pool->n_touched < pool->n_pages)
        page = pool->n_touched++;
    if (page != TD_NO_PAGE) {
        pool->pages[page] = (struct td_kv_page){.n_refs = 1, .n_filled = n_filled};
        pool->n_used++;
        if (kv->n_reserved > 0) {
            kv->n_reserved--;
            pool->n_reserved--;
        }
    }
    pthread_mutex_unlock(&pool->mutex);
    return page;
}

static void share_page(struct td_kv_pool *pool, uint32_t page)
{
    pthread_mutex_lock(&pool->mutex);
    pool->pages[page].n_refs++;
    pthread_mutex_unlock(&pool->mutex);
}

// One owner less. A page that is free then is set aside for heir, unless that is NULL.
static void give_page(struct td_kv_pool *pool, uint32_t page, struct td_kv *heir)
{
    pthread_mutex_lock(&pool->mutex);
    assert(pool->pages[page].n_refs > 0);
    if (--pool->pages[page].n_refs == 0) {
        pool->free[pool->n_free++] = page;
        pool->n_used--;
        if (heir) {
            heir->n_reserved++;
            pool->n_reserved++;
        }
    }
    pthread_mutex_unlock(&pool->mutex);
}

static uint32_t filled(struct td_kv_pool *pool, uint32_t page)
{
    pthread_mutex_lock(&pool->mutex);
    const uint32_t n = pool->pages[page].n_filled;
    pthread_mutex_unlock(&pool->mutex);
    return n;
}

uint32_t td_kv_pool_used(struct td_kv_pool *pool)
{
    pthread_mutex_lock(&pool->mutex);
    const uint32_t n = pool->n_used;
    pthread_mutex_unlock(&pool->mutex);
    return n;
}

static uint8_t *page_at(const struct td_kv_pool *pool, uint32_t page)
{
    return pool->bytes + (size_t)page * pool->page_bytes;
}

// ---- sequences --------------------------------------------------------------------------------

static void forget_written(struct td_kv *kv)
{
    for (uint32_t il = 0; il < kv->dev->model->spec.n_layers; il++)
        kv->extents[il].written_begin = kv->extents[il].written_end = 0;
}

static uint32_t *slot_of(const struct td_kv *kv, uint32_t layer, uint32_t i_block)
{
    return &kv->pages[(size_t)layer * kv->n_blocks + i_block];
}

static void drop_blocks(struct td_kv *kv, uint32_t layer, uint32_t begin, uint32_t end,
                        struct td_kv *heir)
{
    for (uint32_t b = begin; b < end; b++) {
        uint32_t *page = slot_of(kv, layer, b);
        if (*page == TD_NO_PAGE) continue;
        give_page(&kv->dev->pool, *page, heir);
        *page = TD_NO_PAGE;
    }
}

static void unreserve(struct td_kv *kv)
{
    struct td_kv_pool *pool = &kv->dev->pool;
    pthread_mutex_lock(&pool->mutex);
    pool->n_reserved -= kv->n_reserved;
    kv->n_reserved = 0;
    pthread_mutex_unlock(&pool->mutex);
    kv->is_reserved = false;
}

static uint32_t blocks_for(uint32_t n)
{
    return n / TD_ATTN_BLOCK + (n % TD_ATTN_BLOCK != 0);
}

// First position that a token at position n sees in this layer.
static uint32_t first_visible(const struct td_kv_layer *l, uint32_t n)
{
    return l->window == 0 || n < l->window ? 0 : n - l->window + 1;
}

int td_cpu_kv_open(struct td_device *dev, struct td_kv **out, uint32_t n_ctx, struct td_error *err)
{
    *out = NULL;
    if (n_ctx == 0) return td_fail(err, TD_EARG, "a context of 0 tokens holds nothing");
    const uint32_t n_layers = dev->model->spec.n_layers;
    const uint32_t n_blocks = blocks_for(n_ctx);
    struct td_kv *kv = calloc(1, sizeof(*kv));
    uint32_t *pages = malloc((size_t)n_layers * n_blocks * sizeof(*pages));
    struct td_kv_extent *extents = calloc(n_layers, sizeof(*extents));
    if (!kv || !pages || !extents) {
        free(kv);
        free(pages);
        free(extents);
        return td_fail(err, TD_ENOMEM, "no memory for the page table of %u tokens", n_ctx);
    }
    // All bytes 0xff is TD_NO_PAGE.
    memset(pages, 0xff, (size_t)n_layers * n_blocks * sizeof(*pages));
    *kv = (struct td_kv){
        .dev = dev, .n_ctx = n_ctx, .n_blocks = n_blocks, .pages = pages, .extents = extents};
    *out = kv;
    return TD_OK;
}

void td_cpu_kv_close(struct td_kv *kv)
{
    if (!kv) return;
    unreserve(kv);
    for (uint32_t il = 0; il < kv->dev->model->spec.n_layers; il++)
        drop_blocks(kv, il, 0, kv->n_blocks, NULL);
    free(kv->pages);
    free(kv->extents);
    free(kv);
}

uint32_t td_cpu_kv_len(const struct td_kv *kv)
{
    return kv->len;
}

bool td_cpu_kv_holds(const struct td_kv *kv, uint32_t n)
{
    const struct td_spec *spec = &kv->dev->model->spec;
    if (n > kv->len) return false;
    for (uint32_t il = 0; il < spec->n_layers && n > 0; il++) {
        if (first_visible(&spec->kv[il], n) < kv->extents[il].whole_from) return false;
        const uint32_t begin = first_visible(&spec->kv[il], n) / TD_ATTN_BLOCK;
        for (uint32_t b = begin; b < blocks_for(n); b++)
            if (*slot_of(kv, il, b) == TD_NO_PAGE) return false;
    }
    return true;
}

int td_cpu_kv_share(struct td_kv *dst, const struct td_kv *src, uint32_t n, struct td_error *err)
{
    assert(dst->len == 0 && dst->dev == src->dev);
    const struct td_spec *spec = &src->dev->model->spec;
    if (n > dst->n_ctx || !td_cpu_kv_holds(src, n))
        return td_fail(err, TD_EARG, "position %u is no longer in the KV cache", n);
    td_kv_abandon(dst); // pages of an uncommitted write
    for (uint32_t il = 0; il < spec->n_layers; il++) {
        const uint32_t begin = first_visible(&spec->kv[il], n) / TD_ATTN_BLOCK;
        for (uint32_t b = begin; b < blocks_for(n); b++) {
            const uint32_t page = *slot_of(src, il, b);
            share_page(&src->dev->pool, page);
            *slot_of(dst, il, b) = page;
        }
        dst->extents[il].whole_from = n > 0 ? src->extents[il].whole_from : 0;
    }
    dst->len = n;
    return TD_OK;
}

int td_cpu_kv_trim(struct td_kv *kv, uint32_t n, struct td_error *err)
{
    if (!td_cpu_kv_holds(kv, n))
        return td_fail(err, TD_EARG, "position %u is no longer in the KV cache", n);
    kv->len = n;
    if (kv->dropped_for > n) kv->dropped_for = n;
    for (uint32_t il = 0; il < kv->dev->model->spec.n_layers && n == 0; il++)
        kv->extents[il].whole_from = 0;
    td_kv_abandon(kv);
    return TD_OK;
}

// Counts a page of one of the sequences; true for the last of its owners.
static bool count_owner(struct td_kv_pool *pool, uint32_t page)
{
    return page != TD_NO_PAGE && ++pool->pages[page].n_counted == pool->pages[page].n_refs;
}

uint64_t td_cpu_kv_alone(struct td_kv *const *kvs, uint32_t n)
{
    if (n == 0) return 0;
    struct td_kv_pool *pool = &kvs[0]->dev->pool;
    const uint32_t n_layers = kvs[0]->dev->model->spec.n_layers;
    uint64_t n_pages = 0;
    pthread_mutex_lock(&pool->mutex);
    for (uint32_t i = 0; i < n; i++)
        for (size_t at = 0; at < (size_t)n_layers * kvs[i]->n_blocks; at++)
            n_pages += count_owner(pool, kvs[i]->pages[at]);
    for (uint32_t i = 0; i < n; i++)
        for (size_t at = 0; at < (size_t)n_layers * kvs[i]->n_blocks; at++)
            if (kvs[i]->pages[at] != TD_NO_PAGE) pool->pages[kvs[i]->pages[at]].n_counted = 0;
    pthread_mutex_unlock(&pool->mutex);
    return n_pages * pool->page_bytes;
}

// ---- writing ----------------------------------------------------------------------------------

// Copies positions [0, n) of a page: those beyond may be written by another owner meanwhile.
static void copy_page(const struct td_device *dev, uint32_t layer, uint8_t *to, const uint8_t *from,
                      uint32_t n)
{
    const struct td_kv_layer *l = &dev->model->spec.kv[layer];
    const size_t elem_bytes = dev->kv_elem_bytes;
    const size_t half = (size_t)TD_ATTN_BLOCK * l->head_dim * elem_bytes;
    for (uint32_t h = 0; h < l->n_kv_heads; h++, to += 2 * half, from += 2 * half) {
        for (size_t at = 0; at < half;
             at += (size_t)TD_ATTN_BLOCK * elem_bytes) // K: (head_dim, positions)
            memcpy(to + at, from + at, (size_t)n * elem_bytes);
        memcpy(to + half, from + half, (size_t)n * l->head_dim * elem_bytes);
    }
}

// What a writer of a page's positions [first, last) must know; guarded by the pool's mutex.
static bool needs_copy(struct td_kv_pool *pool, uint32_t page, uint32_t first, uint32_t last,
                       bool is_apart, uint32_t *n_filled_out)
{
    pthread_mutex_lock(&pool->mutex);
    struct td_kv_page *p = &pool->pages[page];
    *n_filled_out = p->n_filled;
    const bool is_copy = p->n_refs > 1 && (is_apart || first < p->n_filled);
    if (!is_copy && p->n_filled < last) p->n_filled = last;
    pthread_mutex_unlock(&pool->mutex);
    return is_copy;
}

// Makes positions [first, last) of one page of a layer writable by this kv alone; is_apart: even
// those that no other owner has seen.
static int own_block(struct td_kv *kv, uint32_t layer, uint32_t i_block, uint32_t first,
                     uint32_t last, bool is_apart, struct td_error *err)
{
    struct td_kv_pool *pool = &kv->dev->pool;
    uint32_t *slot = slot_of(kv, layer, i_block);
    uint32_t n_filled = 0;
    const bool is_new = *slot == TD_NO_PAGE;
    if (!is_new && !needs_copy(pool, *slot, first, last, is_apart, &n_filled)) return TD_OK;
    const uint32_t page = take_page(kv, last);
    if (page == TD_NO_PAGE)
        return td_fail(
            err, TD_ENOMEM, "the KV cache is full: %llu MiB in use",
            (unsigned long long)(((uint64_t)td_kv_pool_used(pool) * pool->page_bytes) >> 20));
    if (!is_new) {
        copy_page(kv->dev, layer, page_at(pool, page), page_at(pool, *slot),
                  td_min_u32(first, n_filled));
        give_page(pool, *slot, NULL);
    }
    *slot = page;
    return TD_OK;
}

static int own_span(struct td_kv *kv, uint32_t layer, uint32_t pos0, uint32_t n, bool is_apart,
                    struct td_error *err)
{
    for (uint32_t pos = pos0; pos < pos0 + n;) {
        const uint32_t first = pos % TD_ATTN_BLOCK;
        const uint32_t last = td_min_u32(TD_ATTN_BLOCK, first + (pos0 + n - pos));
        const int code = own_block(kv, layer, pos / TD_ATTN_BLOCK, first, last, is_apart, err);
        if (code != TD_OK) return code;
        pos += last - first;
    }
    return TD_OK;
}

// Gives back what window layers no longer show to a token at len. Done before a run and not after
// it, so that between runs every position of the last chunk can still be shared or trimmed to.
static void drop_unseen(struct td_kv *kv)
{
    const struct td_spec *spec = &kv->dev->model->spec;
    for (uint32_t il = 0; il < spec->n_layers && kv->dropped_for < kv->len; il++) {
        const uint32_t begin = first_visible(&spec->kv[il], kv->dropped_for) / TD_ATTN_BLOCK;
        const uint32_t end = first_visible(&spec->kv[il], kv->len) / TD_ATTN_BLOCK;
        // The next checkpoint's window needs as many again.
        drop_blocks(kv, il, begin, end, kv->is_reserved ? kv : NULL);
    }
    kv->dropped_for = kv->len;
}

int td_kv_prepare(struct td_kv *kv, uint32_t n, struct td_error *err)
{
    if (n > kv->n_ctx - kv->len)
        return td_fail(err, TD_EFULL, "the context of %u tokens is full", kv->n_ctx);
    unreserve(kv);
    drop_unseen(kv);
    forget_written(kv); // the run goes over it
    for (uint32_t il = 0; il < kv->dev->model->spec.n_layers; il++) {
        const int code = own_span(kv, il, kv->len, n, false, err);
        if (code != TD_OK) {
            td_kv_abandon(kv);
            return code;
        }
    }
    return TD_OK;
}

void td_kv_abandon(struct td_kv *kv)
{
    for (uint32_t il = 0; il < kv->dev->model->spec.n_layers; il++)
        drop_blocks(kv, il, blocks_for(kv->len), kv->n_blocks, NULL);
    unreserve(kv);
    forget_written(kv);
}

void td_kv_advance(struct td_kv *kv, uint32_t n)
{
    kv->len += n;
}

// ---- inside a page ----------------------------------------------------------------------------

// Of the part of a page that is one head's: K, then V.
static size_t block_bytes(const struct td_device *dev, uint32_t layer)
{
    return (size_t)2 * TD_ATTN_BLOCK * dev->model->spec.kv[layer].head_dim * dev->kv_elem_bytes;
}

uint8_t *td_kv_block(const struct td_device *dev, const struct td_kv *kv, uint32_t layer,
                     uint32_t i_block, uint32_t head)
{
    const uint32_t page = *slot_of(kv, layer, i_block);
    assert(page != TD_NO_PAGE);
    return page_at(&dev->pool, page) + head * block_bytes(dev, layer);
}

void td_kv_store(uint8_t *block, uint32_t t, const void *k, const void *v, uint32_t head_dim,
                 size_t elem_bytes)
{
    const size_t row_bytes = head_dim * elem_bytes;
    const uint8_t *from = k;
    uint8_t *to = block + t * elem_bytes;
    for (uint32_t d = 0; d < head_dim; d++, from += elem_bytes, to += TD_ATTN_BLOCK * elem_bytes) {
        if (elem_bytes == 2)
            memcpy(to, from, 2);
        else
            memcpy(to, from, 4);
    }
    memcpy(block + (TD_ATTN_BLOCK + t) * row_bytes, v, row_bytes);
}

// The reverse of td_kv_store.
static void fetch(const uint8_t *block, uint32_t t, uint8_t *k, uint8_t *v, uint32_t head_dim,
                  size_t elem_bytes)
{
    const size_t row_bytes = head_dim * elem_bytes;
    const uint8_t *from = block + t * elem_bytes;
    for (uint32_t d = 0; d < head_dim; d++, k += elem_bytes, from += TD_ATTN_BLOCK * elem_bytes) {
        if (elem_bytes == 2)
            memcpy(k, from, 2);
        else
            memcpy(k, from, 4);
    }
    memcpy(v, block + (TD_ATTN_BLOCK + t) * row_bytes, row_bytes);
}

// ---- spans in the canonical layout ------------------------------------------------------------

// Bytes of K (or of V) of one position of a layer.
static size_t position_bytes(const struct td_device *dev, uint32_t layer)
{
    const struct td_kv_layer *l = &dev->model->spec.kv[layer];
    return (size_t)l->n_kv_heads * l->head_dim * dev->kv_elem_bytes;
}

static int check_span(const struct td_kv_span *span, struct td_error *err)
{
    const struct td_kv *kv = span->kv;
    if (span->layer >= kv->dev->model->spec.n_layers || span->n == 0 || span->pos0 > kv->n_ctx ||
        span->n > kv->n_ctx - span->pos0)
        return td_fail(err, TD_EARG, "KV span: layer %u, positions %u + %u are out of range",
                       span->layer, span->pos0, span->n);
    return TD_OK;
}

static int check_size(size_t have, size_t want, struct td_error *err)
{
    if (have == want) return TD_OK;
    return td_fail(err, TD_EARG, "KV span: %zu bytes instead of %zu", have, want);
}

int td_cpu_kv_pin(struct td_kv_pin **out, const struct td_kv_span *span, struct td_error *err)
{
    *out = NULL;
    const int code = check_span(span, err);
    if (code != TD_OK) return code;
    const uint32_t begin = span->pos0 / TD_ATTN_BLOCK;
    const uint32_t end = blocks_for(span->pos0 + span->n);
    for (uint32_t b = begin; b < end; b++) {
        const uint32_t page = *slot_of(span->kv, span->layer, b);
        const uint32_t last = td_min_u32(TD_ATTN_BLOCK, span->pos0 + span->n - b * TD_ATTN_BLOCK);
        if (page != TD_NO_PAGE && filled(&span->kv->dev->pool, page) >= last) continue;
        return td_fail(err, TD_EARG, "KV span: positions %u + %u of layer %u are not held",
                       span->pos0, span->n, span->layer);
    }
    struct td_kv_pin *pin = malloc(sizeof(*pin) + (end - begin) * sizeof(pin->pages[0]));
    if (!pin) return td_fail(err, TD_ENOMEM, "no memory to pin a KV span");
    *pin = (struct td_kv_pin){.dev = span->kv->dev,
                              .layer = span->layer,
                              .pos0 = span->pos0,
                              .n = span->n,
                              .n_pages = end - begin};
    for (uint32_t b = begin; b < end; b++) {
        pin->pages[b - begin] = *slot_of(span->kv, span->layer, b);
        share_page(&pin->dev->pool, pin->pages[b - begin]);
    }
    *out = pin;
    return TD_OK;
}

void td_cpu_kv_unpin(struct td_kv_pin *pin)
{
    if (!pin) return;
    for (uint32_t i = 0; i < pin->n_pages; i++) give_page(&pin->dev->pool, pin->pages[i], NULL);
    free(pin);
}

// Positions [first, last) of a page, against `flat`: the canonical K of the position `first`; V
// lies v_offset bytes after K.
struct page_part {
    uint8_t *page;
    uint32_t first, last;
    size_t v_offset;
};

static void page_to_flat(const struct td_device *dev, uint32_t layer, const struct page_part *p,
                         uint8_t *flat)
{
    const struct td_kv_layer *l = &dev->model->spec.kv[layer];
    for (uint32_t t = p->first; t < p->last; t++) {
        for (uint32_t h = 0; h < l->n_kv_heads; h++) {
            fetch(p->page + h * block_bytes(dev, layer), t, flat, flat + p->v_offset, l->head_dim,
                  dev->kv_elem_bytes);
            flat += (size_t)l->head_dim * dev->kv_elem_bytes;
        }
    }
}

static void flat_to_page(const struct td_device *dev, uint32_t layer, const struct page_part *p,
                         const uint8_t *flat)
{
    const struct td_kv_layer *l = &dev->model->spec.kv[layer];
    for (uint32_t t = p->first; t < p->last; t++) {
        for (uint32_t h = 0; h < l->n_kv_heads; h++) {
            td_kv_store(p->page + h * block_bytes(dev, layer), t, flat, flat + p->v_offset,
                        l->head_dim, dev->kv_elem_bytes);
            flat += (size_t)l->head_dim * dev->kv_elem_bytes;
        }
    }
}

int td_cpu_kv_read(const struct td_kv_pin *pin, void *out, size_t size_bytes, struct td_error *err)
{
    const struct td_device *dev = pin->dev;
    const size_t pos_bytes = position_bytes(dev, pin->layer);
    const int code = check_size(size_bytes, (size_t)2 * pin->n * pos_bytes, err);
    if (code != TD_OK) return code;
    const uint32_t end = pin->pos0 + pin->n;
    for (uint32_t pos = pin->pos0; pos < end;) {
        const uint32_t i_page = pos / TD_ATTN_BLOCK - pin->pos0 / TD_ATTN_BLOCK;
        const uint32_t first = pos % TD_ATTN_BLOCK;
        const struct page_part part = {
            .page = page_at(&dev->pool, pin->pages[i_page]),
            .first = first,
            .last = td_min_u32(TD_ATTN_BLOCK, first + (end - pos)),
            .v_offset = pin->n * pos_bytes,
        };
        page_to_flat(dev, pin->layer, &part, (uint8_t *)out + (pos - pin->pos0) * pos_bytes);
        pos += part.last - first;
    }
    return TD_OK;
}

// Adds [begin, end) to what joins it; a span that leaves a gap starts anew.
static void note_written(struct td_kv_extent *x, uint32_t begin, uint32_t end)
{
    const bool joins = begin <= x->written_end && end >= x->written_begin;
    x->written_begin = joins ? td_min_u32(x->written_begin, begin) : begin;
    x->written_end = joins ? td_max_u32(x->written_end, end) : end;
}

int td_cpu_kv_write(const struct td_kv_span *span, const void *in, size_t size_bytes,
                    struct td_error *err)
{
    struct td_kv *kv = span->kv;
    const struct td_device *dev = kv->dev;
    int code = check_span(span, err);
    if (code != TD_OK) return code;
    const size_t pos_bytes = position_bytes(dev, span->layer);
    code = check_size(size_bytes, (size_t)2 * span->n * pos_bytes, err);
    if (code != TD_OK) return code;
    if (span->pos0 < kv->len)
        return td_fail(err, TD_EARG, "KV span: position %u is already in use", span->pos0);
    code = own_span(kv, span->layer, span->pos0, span->n, true, err);
    if (code != TD_OK) return code;
    const uint32_t end = span->pos0 + span->n;
    for (uint32_t pos = span->pos0; pos < end;) {
        const uint32_t first = pos % TD_ATTN_BLOCK;
        const struct page_part part = {
            .page = td_kv_block(dev, kv, span->layer, pos / TD_ATTN_BLOCK, 0),
            .first = first,
            .last = td_min_u32(TD_ATTN_BLOCK, first + (end - pos)),
            .v_offset = span->n * pos_bytes,
        };
        flat_to_page(dev, span->layer, &part, (const uint8_t *)in + (pos - span->pos0) * pos_bytes);
        pos += part.last - first;
    }
    note_written(&kv->extents[span->layer], span->pos0, end);
    return TD_OK;
}

// Pages that writing positions [len, n) may take. A window layer holds the last checkpoint's while
// the next one's are written; those before are free again.
static uint64_t pages_to_write(const struct td_kv *kv, uint32_t n)
{
    const struct td_spec *spec = &kv->dev->model->spec;
    uint64_t n_pages = 0;
    for (uint32_t il = 0; il < spec->n_layers && n > kv->len; il++) {
        const uint32_t all = blocks_for(n) - kv->len / TD_ATTN_BLOCK;
        const uint32_t window = spec->kv[il].window;
        const uint32_t seen = window ? 2 * (blocks_for(window - 1) + 1) : all;
        n_pages += td_min_u32(all, seen);
    }
    return n_pages;
}

int td_cpu_kv_reserve(struct td_kv *kv, uint32_t n, struct td_error *err)
{
    struct td_kv_pool *pool = &kv->dev->pool;
    unreserve(kv);
    if (n > kv->n_ctx)
        return td_fail(err, TD_EFULL, "the context of %u tokens cannot hold %u", kv->n_ctx, n);
    const uint64_t n_pages = pages_to_write(kv, n);
    pthread_mutex_lock(&pool->mutex);
    const uint64_t n_left = (uint64_t)pool->n_pages - pool->n_used - pool->n_reserved;
    const bool is_room = n_pages <= n_left;
    if (is_room) {
        kv->n_reserved = (uint32_t)n_pages;
        pool->n_reserved += (uint32_t)n_pages;
    }
    pthread_mutex_unlock(&pool->mutex);
    kv->is_reserved = is_room && n_pages > 0;
    if (is_room) return TD_OK;
    return td_fail(err, TD_ENOMEM,
                   "the KV cache has room for %llu MiB, %u more tokens take up to %llu MiB",
                   (unsigned long long)((n_left * pool->page_bytes) >> 20), n - kv->len,
                   (unsigned long long)((n_pages * pool->page_bytes) >> 20));
}

int td_cpu_kv_commit(struct td_kv *kv, uint32_t n, struct td_error *err)
{
    const struct td_spec *spec = &kv->dev->model->spec;
    if (n < kv->len || n > kv->n_ctx)
        return td_fail(err, TD_EARG, "KV commit of %u tokens: %u are there, %u fit", n, kv->len,
                       kv->n_ctx);
    for (uint32_t il = 0; il < spec->n_layers && n > kv->len; il++) {
        // What was there, then what was written, must reach from the first position seen to n.
        const struct td_kv_extent *x = &kv->extents[il];
        const uint32_t need = td_max_u32(kv->len, first_visible(&spec->kv[il], n));
        if (need < n && (x->written_begin > need || x->written_end < n))
            return td_fail(err, TD_EARG, "KV commit of %u tokens: layer %u is not complete", n, il);
    }
    for (uint32_t il = 0; il < spec->n_layers && n > kv->len; il++) {
        struct td_kv_extent *x = &kv->extents[il];
        // A window layer may have jumped over positions that nobody sees any more.
        if (x->written_begin > kv->len) x->whole_from = td_min_u32(x->written_begin, n);
    }
    kv->len = n;
    forget_written(kv);
    drop_unseen(kv);
    return TD_OK;
}
