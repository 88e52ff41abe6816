// SPDX-License-Identifier: MIT
// The vocabulary of a GGUF file as tables for encode: bytes -> id, (id, id) -> merge, names of
// special tokens. Built once, in linear time; nothing in the file is trusted.
//
// Both tables are flat, half empty at least, and probed linearly. A file could be made whose
// tokens all fall on one slot; MAX_PROBES turns that into an error instead of a long wait (with a
// good hash and a load of at most 1/2 the longest run of 16 million keys is about 90: a run of k
// has the chance exp(-0.19 k)).
#include "text/tokenizer_impl.h"

#include "base/os.h"

#include <stdlib.h>
#include <string.h>

#define MAX_TOKENS        (1u << 24)
#define MAX_MERGES        (1u << 26)
#define MAX_TOKEN_BYTES   16383u // as written in the file; o200k has at most 256
#define MAX_SPECIAL_BYTES 256u   // bounds the work at each byte when special tokens are parsed
#define MAX_PROBES        512u

// Eight bytes at a time, multiply and fold: the constants are those of SplitMix64 and the golden
// ratio, any odd ones with well mixed bits would do.
static uint64_t mix(uint64_t a, uint64_t b)
{
    const __uint128_t r = (__uint128_t)a * b;
    return (uint64_t)r ^ (uint64_t)(r >> 64);
}

static uint64_t hash_bytes(const char *p, size_t n)
{
    uint64_t h = 0x9e3779b97f4a7c15u ^ (n * 0xbf58476d1ce4e5b9u);
    uint64_t word;
    for (; n >= 8; n -= 8, p += 8) {
        memcpy(&word, p, 8);
        h = mix(h ^ word, 0x94d049bb133111ebu);
    }
    word = 0;
    if (n & 4) {
        uint32_t four;
        memcpy(&four, p, 4);
        word = four;
        p += 4;
    }
    if (n & 2) {
        uint16_t two;
        memcpy(&two, p, 2);
        word = word << 16 | two;
        p += 2;
    }
    if (n & 1) {
        uint8_t one;
        memcpy(&one, p, 1);
        word = word << 8 | one;
    }
    return mix(h ^ word, 0xd6e8feb86659fd93u);
}

static uint32_t hash_pair(uint64_t pair)
{
    return (uint32_t)mix(pair ^ 0x9e3779b97f4a7c15u, 0x94d049bb133111ebu);
}

// A table's size: a power of two, at least twice n.
static uint32_t table_slots(uint64_t n)
{
    uint32_t slots = 16;
    while (slots < 2 * n) slots *= 2;
    return slots;
}

// What a person can read of a token: control characters and all above ASCII become '?'.
struct readable {
    char text[44];
};

static struct readable readable(const char *at, size_t n)
{
    struct readable r = {{0}};
    const size_t n_shown = n < 40 ? n : 40;
    memset(r.text, '?', n_shown);
    for (size_t i = 0; i < n_shown; i++)
        if (at[i] >= 0x20 && at[i] < 0x7f) r.text[i] = at[i];
    if (n > n_shown) memcpy(r.text + n_shown, "...", 3);
    return r;
}

static const char *token_at(const struct td_tokenizer *t, uint32_t id, size_t *n)
{
    *n = t->at[id + 1] - t->at[id];
    return t->bytes + t->at[id];
}

// The slot with this hash, or the empty one where it belongs; NULL after MAX_PROBES. No two tokens
// of one vocabulary have the same hash (add_normal).
static struct td_token_slot *token_slot(const struct td_tokenizer *t, uint64_t hash)
{
    uint32_t i = (uint32_t)hash & t->tokens_mask;
    for (uint32_t n_probes = 0; n_probes < MAX_PROBES; n_probes++) {
        struct td_token_slot *s = &t->tokens[i];
        if (s->id_plus_1 == 0 || s->hash == hash) return s;
        i = (i + 1) & t->tokens_mask;
    }
    return NULL;
}

int32_t td_vocab_find(const struct td_tokenizer *t, const char *bytes, size_t size_bytes)
{
    const struct td_token_slot *s = token_slot(t, hash_bytes(bytes, size_bytes));
    if (!s || s->id_plus_1 == 0) return -1;
    // The text may be made to have a token's hash.
    size_t n;
    const char *token = token_at(t, s->id_plus_1 - 1, &n);
    return n == size_bytes && memcmp(token, bytes, n) == 0 ? (int32_t)s->id_plus_1 - 1 : -1;
}

static struct td_merge_slot *merge_slot(const struct td_tokenizer *t, uint64_t pair)
{
    uint32_t i = hash_pair(pair) & t->merges_mask;
    for (uint32_t n_probes = 0; n_probes < MAX_PROBES; n_probes++) {
        struct td_merge_slot *s = &t->merges[i];
        if (s->id_plus_1 == 0 || s->pair == pair) return s;
        i = (i + 1) & t->merges_mask;
    }
    return NULL;
}

static uint64_t pair_of(int32_t left, int32_t right)
{
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

const struct td_merge_slot *td_vocab_merge(const struct td_tokenizer *t, int32_t left,
                                           int32_t right)
{
    const struct td_merge_slot *s = merge_slot(t, pair_of(left, right));
    return s && s->id_plus_1 ? s : NULL;
}

// GGUF writes the bytes of a token as characters, after GPT-2: printable Latin-1 bytes stand for
// themselves, the 68 others for U+0100 and up, in order. This is the way back: code point -> byte,
// 0xffff for characters outside that alphabet.
static void alphabet(uint16_t byte_of[324])
{
    for (uint32_t i = 0; i < 324; i++) byte_of[i] = 0xffff;
    uint32_t next = 0x100;
    for (uint16_t b = 0; b < 256; b++) {
        const bool stands =
            (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || (b >= 0xae && b <= 0xff);
        byte_of[stands ? b : next++] = b;
    }
}

// Decodes n characters of the alphabet to out (at least n bytes); false when some character is
// not of it.
static bool decode(const uint16_t byte_of[324], const char *p, size_t n, char *out, size_t *n_out)
{
    size_t i = 0, n_done = 0;
    while (i < n) {
        uint8_t c = 0, d = 0;
        memcpy(&c, p + i, 1);
        i++;
        if (c >= 0x21 && c <= 0x7e) { // most there is: stands for itself
            memcpy(out + n_done, &c, 1);
            n_done++;
            continue;
        }
        uint32_t point = c;
        if (c >= 0x80) {
            // The alphabet ends at U+0143: two bytes are enough.
            if (c < 0xc2 || c > 0xc5 || i == n) return false;
            memcpy(&d, p + i, 1);
            if ((d & 0xc0) != 0x80) return false;
            point = (uint32_t)(c & 0x1f) << 6 | (d & 0x3f);
            i++;
        }
        if (point >= 324 || byte_of[point] == 0xffff) return false;
        const uint8_t b = (uint8_t)byte_of[point];
        memcpy(out + n_done, &b, 1);
        n_done++;
    }
    *n_out = n_done;
    return true;
}

struct loader {
    struct td_tokenizer *t;
    const char *path;
    struct td_gguf_array tokens, types, merges;
    uint16_t byte_of[324];
    struct batch *batch;
    struct td_error *err;
};

// Tables of megabytes miss the cache at every look, and a vocabulary takes over a million looks.
// So the work goes in batches: first the hashes, asking for the slots, then the slots, which have
// come meanwhile. It halves the time to open 200k tokens and 446k merges.
#define BATCH 64

// One merge on its way through load_merges.
struct pending {
    const char *pair; // the bytes of both parts
    size_t n_left, n; // of the first part; of both
    uint64_t hash_left, hash_right;
    int32_t left, right, made;
};

struct batch {
    char bytes[4 * (MAX_TOKEN_BYTES + 1)];
    struct pending merges[BATCH];
    uint64_t hashes[BATCH];
};

static int no_memory(struct loader *l)
{
    return td_fail(l->err, TD_ENOMEM, "%s: no memory for the vocabulary", l->path);
}

static int read_arrays(struct loader *l, const struct td_gguf *g)
{
    int code = td_gguf_array(g, "tokenizer.ggml.tokens", &l->tokens, l->err);
    if (code == TD_EARG)
        return td_fail(l->err, TD_EFORMAT, "%s: no vocabulary (tokenizer.ggml.tokens is missing)",
                       l->path);
    if (code) return code;
    if (l->tokens.type != TD_GGUF_STR)
        return td_fail(l->err, TD_EFORMAT, "%s: tokenizer.ggml.tokens is not a list of strings",
                       l->path);
    if (l->tokens.n == 0 || l->tokens.n > MAX_TOKENS)
        return td_fail(l->err, TD_EFORMAT, "%s: tokenizer.ggml.tokens has %llu tokens, not 1 to %u",
                       l->path, (unsigned long long)l->tokens.n, MAX_TOKENS);

    code = td_gguf_array(g, "tokenizer.ggml.token_type", &l->types, l->err);
    if (code && code != TD_EARG) return code;
    if (code == TD_OK) {
        if (l->types.type != TD_GGUF_I32 && l->types.type != TD_GGUF_U32)
            return td_fail(l->err, TD_EFORMAT,
                           "%s: tokenizer.ggml.token_type is not a list of 32-bit integers",
                           l->path);
        if (l->types.n != l->tokens.n)
            return td_fail(l->err, TD_EFORMAT,
                           "%s: tokenizer.ggml.token_type has %llu entries for %llu tokens",
                           l->path, (unsigned long long)l->types.n,
                           (unsigned long long)l->tokens.n);
    }

    code = td_gguf_array(g, "tokenizer.ggml.merges", &l->merges, l->err);
    if (code && code != TD_EARG) return code;
    if (code == TD_OK && l->merges.n > 0 && l->merges.type != TD_GGUF_STR)
        return td_fail(l->err, TD_EFORMAT, "%s: tokenizer.ggml.merges is not a list of strings",
                       l->path);
    if (l->merges.n > MAX_MERGES)
        return td_fail(l->err, TD_EFORMAT, "%s: tokenizer.ggml.merges has %llu merges, at most %u",
                       l->path, (unsigned long long)l->merges.n, MAX_MERGES);
    return TD_OK;
}

static bool is_normal(uint8_t type)
{
    return type == TD_TOKEN_NORMAL || type == TD_TOKEN_BYTE;
}

static bool is_parsed(uint8_t type)
{
    return type == TD_TOKEN_CONTROL || type == TD_TOKEN_USER_DEFINED;
}

// Sizes of all tables, from counts that are already checked against the file.
static int allocate(struct loader *l)
{
    struct td_tokenizer *t = l->t;
    const uint32_t n = (uint32_t)l->tokens.n;
    uint64_t total = 0;
    for (uint32_t i = 0; i < n; i++) {
        const size_t size = l->tokens.strs[i].size_bytes;
        if (size > MAX_TOKEN_BYTES)
            return td_fail(l->err, TD_EFORMAT, "%s: token %u has %zu bytes, at most %u", l->path, i,
                           size, MAX_TOKEN_BYTES);
        total += size;
    }
    if (total > UINT32_MAX)
        return td_fail(l->err, TD_EFORMAT, "%s: the tokens have %llu bytes together", l->path,
                       (unsigned long long)total);
    t->n_vocab = n;
    t->tokens_mask = table_slots(n) - 1;
    t->merges_mask = table_slots(l->merges.n) - 1;
    t->bytes = malloc(total + 1);
    t->at = calloc((size_t)n + 1, sizeof(*t->at));
    t->types = malloc((size_t)n + 1);
    t->tokens = calloc((size_t)t->tokens_mask + 1, sizeof(*t->tokens));
    t->merges = calloc((size_t)t->merges_mask + 1, sizeof(*t->merges));
    if (!t->bytes || !t->at || !t->types || !t->tokens || !t->merges) return no_memory(l);
    // Both are filled in no order: a fault for every page would be a fifth of the time to start.
    td_os_want_huge(t->tokens, ((size_t)t->tokens_mask + 1) * sizeof(*t->tokens));
    td_os_want_huge(t->merges, ((size_t)t->merges_mask + 1) * sizeof(*t->merges));
    return TD_OK;
}

static int add_normal(struct loader *l, uint32_t id, uint64_t hash)
{
    struct td_tokenizer *t = l->t;
    size_t n;
    const char *p = token_at(t, id, &n);
    struct td_token_slot *s = token_slot(t, hash);
    if (!s)
        return td_fail(l->err, TD_EFORMAT, "%s: token %u ('%s') collides with too many others",
                       l->path, id, readable(p, n).text);
    if (s->id_plus_1)
        return td_fail(l->err, TD_EFORMAT, "%s: tokens %u and %u are the same ('%s')", l->path,
                       s->id_plus_1 - 1, id, readable(p, n).text);
    *s = (struct td_token_slot){.hash = hash, .id_plus_1 = id + 1};
    if (n == 1) {
        uint8_t b;
        memcpy(&b, p, 1);
        t->byte_id_plus_1[b] = id + 1;
    }
    return TD_OK;
}

// Decodes token i behind the one before it.
static int decode_token(struct loader *l, uint32_t i)
{
    struct td_tokenizer *t = l->t;
    const struct td_str s = l->tokens.strs[i];
    int32_t type = TD_TOKEN_NORMAL;
    if (l->types.n) memcpy(&type, l->types.data + (size_t)i * sizeof(type), sizeof(type));
    if (type == TD_TOKEN_UNDEFINED) type = TD_TOKEN_NORMAL; // not said: like a file without types
    if (type < TD_TOKEN_NORMAL || type > TD_TOKEN_BYTE)
        return td_fail(l->err, TD_EFORMAT, "%s: token %u has the unknown type %d", l->path, i,
                       type);
    t->types[i] = (uint8_t)type;
    char *out = t->bytes + t->at[i];
    size_t n = s.size_bytes;
    if (is_normal(t->types[i]) && !decode(l->byte_of, s.at, s.size_bytes, out, &n))
        t->types[i] = TD_TOKEN_UNUSED; // outside the alphabet: no merge can make it
    if (!is_normal(t->types[i])) {
        n = s.size_bytes;
        if (n > 0) memcpy(out, s.at, n); // n bytes were counted by allocate
    }
    t->at[i + 1] = t->at[i] + (uint32_t)n;
    return TD_OK;
}

static int load_tokens(struct loader *l)
{
    struct td_tokenizer *t = l->t;
    t->at[0] = 0;
    for (uint32_t from = 0; from < t->n_vocab; from += BATCH) {
        const uint32_t n = t->n_vocab - from < BATCH ? t->n_vocab - from : BATCH;
        for (uint32_t i = 0; i < n; i++) {
            const int code = decode_token(l, from + i);
            if (code) return code;
            size_t size;
            const char *p = token_at(t, from + i, &size);
            l->batch->hashes[i] = hash_bytes(p, size);
            __builtin_prefetch(&t->tokens[l->batch->hashes[i] & t->tokens_mask], 1);
        }
        for (uint32_t i = 0; i < n; i++) {
            const uint32_t id = from + i;
            if (!is_normal(t->types[id]) || t->at[id] == t->at[id + 1]) continue;
            const int code = add_normal(l, id, l->batch->hashes[i]);
            if (code) return code;
        }
    }
    return TD_OK;
}

// The id of what a merge names, searched first at `guess`: merges come in nearly the same order
// as the tokens they make.
static int32_t find_near(const struct td_tokenizer *t, int32_t guess, const char *p, size_t n)
{
    for (int32_t id = guess; id < guess + 2; id++) {
        if (id < 0 || (uint32_t)id >= t->n_vocab) continue;
        size_t n_token;
        const char *token = token_at(t, (uint32_t)id, &n_token);
        if (n_token == n && is_normal(t->types[id]) && memcmp(token, p, n) == 0) return id;
    }
    return td_vocab_find(t, p, n);
}

// Decodes merge `rank` to the front of out and asks for the slots of its parts.
static int decode_merge(struct loader *l, uint32_t rank, struct pending *p, char *out)
{
    const struct td_str m = l->merges.strs[rank];
    // The alphabet has no space, so the first one is the border.
    const char *space = m.size_bytes ? memchr(m.at, ' ', m.size_bytes) : NULL;
    if (!space || space == m.at || space + 1 == m.at + m.size_bytes)
        return td_fail(l->err, TD_EFORMAT, "%s: merge %u ('%s') is not two tokens", l->path, rank,
                       readable(m.at, m.size_bytes).text);
    const size_t n_first = (size_t)(space - m.at);
    size_t n_right;
    if (!decode(l->byte_of, m.at, n_first, out, &p->n_left) ||
        !decode(l->byte_of, space + 1, m.size_bytes - n_first - 1, out + p->n_left, &n_right))
        return td_fail(l->err, TD_EFORMAT,
                       "%s: merge %u ('%s') has characters outside the byte alphabet", l->path,
                       rank, readable(m.at, m.size_bytes).text);
    p->pair = out;
    p->n = p->n_left + n_right;
    p->hash_left = hash_bytes(out, p->n_left);
    p->hash_right = hash_bytes(out + p->n_left, n_right);
    __builtin_prefetch(&l->t->tokens[p->hash_left & l->t->tokens_mask]);
    __builtin_prefetch(&l->t->tokens[p->hash_right & l->t->tokens_mask]);
    return TD_OK;
}

// A token by its hash alone. A name that only has the hash of a token is taken for it; no honest
// file has one, and a dishonest one gains nothing it could not write plainly.
static int32_t id_of_hash(const struct td_tokenizer *t, uint64_t hash)
{
    const struct td_token_slot *s = token_slot(t, hash);
    return s ? (int32_t)s->id_plus_1 - 1 : -1;
}

static int name_merge(struct loader *l, uint32_t rank, struct pending *p, int32_t guess)
{
    const struct td_tokenizer *t = l->t;
    p->left = id_of_hash(t, p->hash_left);
    p->right = id_of_hash(t, p->hash_right);
    p->made = find_near(t, guess, p->pair, p->n);
    if (p->left < 0 || p->right < 0 || p->made < 0) {
        const struct td_str m = l->merges.strs[rank];
        return td_fail(l->err, TD_EFORMAT,
                       "%s: merge %u ('%s'): %s is not a token of the vocabulary", l->path, rank,
                       readable(m.at, m.size_bytes).text,
                       p->left < 0    ? "its first part"
                       : p->right < 0 ? "its second part"
                                      : "what it makes");
    }
    __builtin_prefetch(&t->merges[hash_pair(pair_of(p->left, p->right)) & t->merges_mask], 1);
    return TD_OK;
}

static int add_merge(struct loader *l, uint32_t rank, const struct pending *p)
{
    const uint64_t pair = pair_of(p->left, p->right);
    struct td_merge_slot *s = merge_slot(l->t, pair);
    if (!s)
        return td_fail(l->err, TD_EFORMAT, "%s: merge %u collides with too many others", l->path,
                       rank);
    if (s->id_plus_1) return TD_OK; // listed before: the lower rank counts
    *s = (struct td_merge_slot){.pair = pair, .rank = rank, .id_plus_1 = (uint32_t)p->made + 1};
    return TD_OK;
}

static int load_merges(struct loader *l)
{
    struct pending *merges = l->batch->merges;
    const uint32_t n_merges = (uint32_t)l->merges.n;
    int32_t guess = 0;
    for (uint32_t from = 0; from < n_merges;) {
        uint32_t n = 0;
        size_t n_bytes = 0;
        int code = TD_OK;
        for (; !code && n < BATCH && from + n < n_merges; n++) {
            const size_t size = l->merges.strs[from + n].size_bytes;
            if (size > 2 * MAX_TOKEN_BYTES + 1)
                return td_fail(l->err, TD_EFORMAT, "%s: merge %u has %zu bytes, at most %u",
                               l->path, from + n, size, 2 * MAX_TOKEN_BYTES + 1);
            if (size > sizeof(l->batch->bytes) - n_bytes) break;
            code = decode_merge(l, from + n, &merges[n], l->batch->bytes + n_bytes);
            n_bytes += size;
        }
        for (uint32_t i = 0; !code && i < n; i++) {
            code = name_merge(l, from + i, &merges[i], guess);
            guess = merges[i].made;
        }
        for (uint32_t i = 0; !code && i < n; i++) code = add_merge(l, from + i, &merges[i]);
        if (code) return code;
        from += n;
    }
    return TD_OK;
}

static int by_name(const void *a, const void *b)
{
    const struct td_special *x = a, *y = b;
    const uint32_t n = x->size_bytes < y->size_bytes ? x->size_bytes : y->size_bytes;
    const int order = memcmp(x->name, y->name, n);
    if (order) return order;
    return (x->size_bytes > y->size_bytes) - (x->size_bytes < y->size_bytes);
}

static int load_specials(struct loader *l)
{
    struct td_tokenizer *t = l->t;
    uint32_t n = 0;
    for (uint32_t i = 0; i < t->n_vocab; i++)
        n += !is_normal(t->types[i]) && t->at[i + 1] > t->at[i];
    t->specials = malloc(((size_t)n + 1) * sizeof(*t->specials));
    if (!t->specials) return no_memory(l);
    for (uint32_t i = 0; i < t->n_vocab; i++) {
        if (is_normal(t->types[i]) || t->at[i + 1] == t->at[i]) continue;
        size_t size;
        const char *name = token_at(t, i, &size);
        if (is_parsed(t->types[i]) && size > MAX_SPECIAL_BYTES)
            return td_fail(l->err, TD_EFORMAT,
                           "%s: special token %u ('%s') has %zu bytes, at most %u", l->path, i,
                           readable(name, size).text, size, MAX_SPECIAL_BYTES);
        t->specials[t->n_specials++] =
            (struct td_special){.name = name, .size_bytes = (uint32_t)size, .id = (int32_t)i};
    }
    qsort(t->specials, t->n_specials, sizeof(*t->specials), by_name);
    for (uint32_t i = 1; i < t->n_specials; i++) {
        if (by_name(&t->specials[i - 1], &t->specials[i]) == 0)
            return td_fail(l->err, TD_EFORMAT, "%s: special tokens %d and %d are the same ('%s')",
                           l->path, t->specials[i - 1].id, t->specials[i].id,
                           readable(t->specials[i].name, t->specials[i].size_bytes).text);
    }
    uint32_t at = 0;
    for (uint32_t c = 0; c <= 256; c++) {
        while (at < t->n_specials && (uint8_t)t->specials[at].name[0] < c) at++;
        t->special_first[c] = at;
    }
    return TD_OK;
}

int td_vocab_load(struct td_tokenizer *t, const struct td_gguf *g, struct td_error *err)
{
    struct loader l = {.t = t, .path = td_gguf_shown_path(g), .err = err};
    alphabet(l.byte_of);
    l.batch = malloc(sizeof(*l.batch));
    if (!l.batch) return no_memory(&l);
    int code = read_arrays(&l, g);
    if (!code) code = allocate(&l);
    if (!code) code = load_tokens(&l);
    if (!code) code = load_merges(&l);
    if (!code) code = load_specials(&l);
    free(l.batch);
    return code;
}

void td_vocab_free(struct td_tokenizer *t)
{
    free(t->bytes);
    free(t->at);
    free(t->types);
    free(t->tokens);
    free(t->merges);
    free(t->specials);
}

int32_t td_vocab_special_at(const struct td_tokenizer *t, const char *text, size_t size_bytes)
{
    if (size_bytes == 0) return -1;
    uint8_t c;
    memcpy(&c, text, 1);
    // [lo, hi) are the names that start with the first `depth` bytes of text: sorted, they lie
    // together, and the one that is exactly as long comes first.
    uint32_t lo = t->special_first[c], hi = t->special_first[c + 1];
    int32_t best = -1;
    for (size_t depth = 1; lo < hi; depth++) {
        const struct td_special *s = &t->specials[lo];
        if (s->size_bytes == depth) {
            if (is_parsed(t->types[s->id])) best = s->id;
            lo++;
        }
        if (depth == size_bytes) break;
        memcpy(&c, text + depth, 1);
        uint32_t a = lo, b = hi; // first name whose next byte is >= c
        while (a < b) {
            const uint32_t mid = a + (b - a) / 2;
            if ((uint8_t)t->specials[mid].name[depth] < c)
                a = mid + 1;
            else
                b = mid;
        }
        lo = a;
        b = hi; // first name whose next byte is > c
        while (a < b) {
            const uint32_t mid = a + (b - a) / 2;
            if ((uint8_t)t->specials[mid].name[depth] <= c)
                a = mid + 1;
            else
                b = mid;
        }
        hi = a;
    }
    return best;
}
