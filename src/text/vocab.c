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

static inline uint64_t hash_bytes(const char *p, size_t n)
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

// A token's slot: the id + 1 in the low bits, the hash without its low bits above; 0 when empty.
// Those low bits are where the probe begins, so that nearly all of the hash is compared.
#define ID_BITS 25 // MAX_TOKENS + 1

static int32_t id_of_slot(uint64_t slot)
{
    return (int32_t)(slot & ((1u << ID_BITS) - 1)) - 1;
}

// The slot with this hash, or the empty one where it belongs; NULL after MAX_PROBES. No two tokens
// of one vocabulary are taken for each other here (add_normal).
static uint64_t *token_slot(const struct td_tokenizer *t, uint64_t hash)
{
    uint32_t i = (uint32_t)hash & t->tokens_mask;
    for (uint32_t n_probes = 0; n_probes < MAX_PROBES; n_probes++) {
        uint64_t *s = &t->tokens[i];
        if (*s == 0 || *s >> ID_BITS == hash >> ID_BITS) return s;
        i = (i + 1) & t->tokens_mask;
    }
    return NULL;
}

int32_t td_vocab_find(const struct td_tokenizer *t, const char *bytes, size_t size_bytes)
{
    const uint64_t *s = token_slot(t, hash_bytes(bytes, size_bytes));
    if (!s || *s == 0) return -1;
    // The text may be made to have a token's hash.
    size_t n;
    const char *token = token_at(t, (uint32_t)id_of_slot(*s), &n);
    return n == size_bytes && memcmp(token, bytes, n) == 0 ? id_of_slot(*s) : -1;
}

// A merge's slot: the rank + 1 in the low bits, bits of the hash above, so that the pair is looked
// at nearly only when it is the one; 0 when empty.
#define RANK_BITS 27 // MAX_MERGES + 1

static uint32_t rank_of_slot(uint32_t slot)
{
    return (slot & ((1u << RANK_BITS) - 1)) - 1;
}

static uint64_t hash_pair(int32_t left, int32_t right)
{
    const uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    return mix(pair ^ 0x9e3779b97f4a7c15u, 0x94d049bb133111ebu);
}

// The slot of this pair, or the empty one where it belongs; NULL after MAX_PROBES.
static uint32_t *merge_slot(const struct td_tokenizer *t, uint64_t hash, int32_t left,
                            int32_t right)
{
    uint32_t i = (uint32_t)hash & t->merges_mask;
    for (uint32_t n_probes = 0; n_probes < MAX_PROBES; n_probes++) {
        uint32_t *s = &t->merge_slots[i];
        if (*s == 0) return s;
        if (*s >> RANK_BITS == hash >> (32 + RANK_BITS)) {
            const struct td_merge *m = &t->merges[rank_of_slot(*s)];
            if (m->left == left && m->right == right) return s;
        }
        i = (i + 1) & t->merges_mask;
    }
    return NULL;
}

int32_t td_vocab_merge(const struct td_tokenizer *t, int32_t left, int32_t right,
                       uint32_t *rank_out)
{
    const uint32_t *s = merge_slot(t, hash_pair(left, right), left, right);
    if (!s || *s == 0) return -1;
    *rank_out = rank_of_slot(*s);
    return t->merges[*rank_out].made;
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
    struct td_bytes next_token, next_merge; // what of the lists is not read yet
    size_t n_bytes;                         // the room in t->bytes
    // A token's name in the file, on the walk along what merges make.
    struct td_bytes next_made;
    struct td_str made_name;
    int32_t made;
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
    struct td_str text;
    uint64_t hash_left, hash_right; // of its parts' bytes
    uint64_t hash;                  // of its parts' ids
    struct td_merge merge;
};

struct batch {
    char bytes[2 * (MAX_TOKEN_BYTES + 1)]; // of one merge
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
    const uint32_t n_merges = (uint32_t)l->merges.n;
    // All names without their lengths: in bytes they are no longer.
    const size_t total = l->tokens.size_bytes - n * sizeof(uint64_t);
    if (total > UINT32_MAX)
        return td_fail(l->err, TD_EFORMAT, "%s: the tokens have %zu bytes together", l->path,
                       total);
    l->n_bytes = total;
    t->n_vocab = n;
    t->tokens_mask = table_slots(n) - 1;
    t->merges_mask = table_slots(n_merges) - 1;
    t->bytes = malloc(total + 1);
    t->at = calloc((size_t)n + 1, sizeof(*t->at));
    t->types = malloc((size_t)n + 1);
    t->merges = malloc(((size_t)n_merges + 1) * sizeof(*t->merges));
    t->tokens = td_os_alloc_table((size_t)t->tokens_mask + 1, sizeof(*t->tokens));
    t->merge_slots = td_os_alloc_table((size_t)t->merges_mask + 1, sizeof(*t->merge_slots));
    if (!t->bytes || !t->at || !t->types || !t->merges || !t->tokens || !t->merge_slots)
        return no_memory(l);
    return TD_OK;
}

static int add_normal(struct loader *l, uint32_t id, uint64_t hash)
{
    struct td_tokenizer *t = l->t;
    size_t n;
    const char *p = token_at(t, id, &n);
    uint64_t *s = token_slot(t, hash);
    if (!s)
        return td_fail(l->err, TD_EFORMAT, "%s: token %u ('%s') collides with too many others",
                       l->path, id, readable(p, n).text);
    // The same bytes, or (once in ten million vocabularies of 200 000 tokens) the same hash.
    if (*s)
        return td_fail(l->err, TD_EFORMAT, "%s: tokens %d and %u are the same ('%s')", l->path,
                       id_of_slot(*s), id, readable(p, n).text);
    *s = hash >> ID_BITS << ID_BITS | (id + 1);
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
    const struct td_str s = td_gguf_next_str(&l->next_token);
    if (s.size_bytes > MAX_TOKEN_BYTES)
        return td_fail(l->err, TD_EFORMAT, "%s: token %u has %zu bytes, at most %u", l->path, i,
                       s.size_bytes, MAX_TOKEN_BYTES);
    // Only of a file that is rewritten while it is read.
    if (s.size_bytes > l->n_bytes - t->at[i])
        return td_fail(l->err, TD_EFORMAT, "%s: token %u has changed while it was read", l->path,
                       i);
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
        if (n > 0) memcpy(out, s.at, n);
    }
    t->at[i + 1] = t->at[i] + (uint32_t)n;
    return TD_OK;
}

static int load_tokens(struct loader *l)
{
    struct td_tokenizer *t = l->t;
    l->next_token = td_gguf_strs(&l->tokens);
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

// A merge as the file writes it, cut at the space.
struct merge_text {
    struct td_str left, right;
};

static int split_merge(const struct loader *l, uint32_t rank, struct td_str m,
                       struct merge_text *out)
{
    if (m.size_bytes > 2 * MAX_TOKEN_BYTES + 1)
        return td_fail(l->err, TD_EFORMAT, "%s: merge %u has %zu bytes, at most %u", l->path, rank,
                       m.size_bytes, 2 * MAX_TOKEN_BYTES + 1);
    // The alphabet has no space, so the first one is the border.
    const char *space = m.size_bytes ? memchr(m.at, ' ', m.size_bytes) : NULL;
    if (!space || space == m.at || space + 1 == m.at + m.size_bytes)
        return td_fail(l->err, TD_EFORMAT, "%s: merge %u ('%s') is not two tokens", l->path, rank,
                       readable(m.at, m.size_bytes).text);
    out->left = (struct td_str){.at = m.at, .size_bytes = (size_t)(space - m.at)};
    out->right =
        (struct td_str){.at = space + 1, .size_bytes = m.size_bytes - out->left.size_bytes - 1};
    return TD_OK;
}

// Goes along the tokens to `id`; not back.
static void walk_to(struct loader *l, int32_t id)
{
    while (l->made < id) {
        l->made_name = td_gguf_next_str(&l->next_made);
        l->made++;
    }
}

// Whether m makes the token the walk is at, by their names: equal names are equal bytes.
static bool makes(const struct loader *l, const struct merge_text *m)
{
    const struct td_str name = l->made_name;
    return name.size_bytes == m->left.size_bytes + m->right.size_bytes &&
           memcmp(name.at, m->left.at, m->left.size_bytes) == 0 &&
           memcmp(name.at + m->left.size_bytes, m->right.at, m->right.size_bytes) == 0 &&
           is_normal(l->t->types[l->made]);
}

// The token m makes, when it is the walk's or the next; else -1. Merges come in nearly the order of
// the tokens they make, and finding one here spares decoding and hashing it.
static int32_t made_nearby(struct loader *l, const struct merge_text *m)
{
    if (makes(l, m)) return l->made;
    if ((uint32_t)l->made + 1 == l->t->n_vocab) return -1;
    walk_to(l, l->made + 1);
    return makes(l, m) ? l->made : -1;
}

// The bytes that m's left part stands for, when m makes n bytes: its characters.
static size_t n_left_bytes(const struct merge_text *m, size_t n)
{
    const size_t n_text = m->left.size_bytes;
    const size_t n_wide = n_text + m->right.size_bytes - n; // characters of two bytes
    if (n_wide == 0) return n_text;
    if (n_wide == 1 && (m->left.at[0] & 0x80)) return n_text - 1; // a space and a word
    size_t n_chars = 0;
    for (size_t i = 0; i < n_text; i++) n_chars += ((uint8_t)m->left.at[i] & 0xc0) != 0x80;
    return n_chars;
}

// Reads merge `rank`: what it makes (-1: no token) and the hashes of its parts, whose slots it asks
// for.
static int read_merge(struct loader *l, uint32_t rank, struct pending *p)
{
    const struct td_tokenizer *t = l->t;
    struct merge_text m = {.left = {.at = ""}, .right = {.at = ""}};
    p->text = td_gguf_next_str(&l->next_merge);
    const int code = split_merge(l, rank, p->text, &m);
    if (code) return code;
    const char *bytes = l->batch->bytes;
    size_t n_left, n_right, n;
    int32_t made = made_nearby(l, &m);
    if (made >= 0) {
        bytes = token_at(t, (uint32_t)made, &n);
        // Only of a file that is rewritten while it is read.
        if (n > (size_t)m.left.size_bytes + m.right.size_bytes || n < n_left_bytes(&m, n))
            return td_fail(l->err, TD_EFORMAT, "%s: the file changed while it was read", l->path);
        n_left = n_left_bytes(&m, n);
        n_right = n - n_left;
    } else {
        char *out = l->batch->bytes;
        if (!decode(l->byte_of, m.left.at, m.left.size_bytes, out, &n_left) ||
            !decode(l->byte_of, m.right.at, m.right.size_bytes, out + n_left, &n_right))
            return td_fail(l->err, TD_EFORMAT,
                           "%s: merge %u ('%s') has characters outside the byte alphabet", l->path,
                           rank, readable(p->text.at, p->text.size_bytes).text);
        made = td_vocab_find(t, bytes, n_left + n_right);
        walk_to(l, made);
    }
    p->merge.made = made;
    p->hash_left = hash_bytes(bytes, n_left);
    p->hash_right = hash_bytes(bytes + n_left, n_right);
    __builtin_prefetch(&t->tokens[p->hash_left & t->tokens_mask]);
    __builtin_prefetch(&t->tokens[p->hash_right & t->tokens_mask]);
    return TD_OK;
}

// A token by its hash alone. A name that only has the hash of a token is taken for it; no honest
// file has one, and a dishonest one gains nothing it could not write plainly.
static int32_t id_of_hash(const struct td_tokenizer *t, uint64_t hash)
{
    const uint64_t *s = token_slot(t, hash);
    return s ? id_of_slot(*s) : -1;
}

static int name_merge(struct loader *l, uint32_t rank, struct pending *p)
{
    const struct td_tokenizer *t = l->t;
    struct td_merge *m = &p->merge;
    m->left = id_of_hash(t, p->hash_left);
    m->right = id_of_hash(t, p->hash_right);
    if (m->left < 0 || m->right < 0 || m->made < 0)
        return td_fail(l->err, TD_EFORMAT,
                       "%s: merge %u ('%s'): %s is not a token of the vocabulary", l->path, rank,
                       readable(p->text.at, p->text.size_bytes).text,
                       m->left < 0    ? "its first part"
                       : m->right < 0 ? "its second part"
                                      : "what it makes");
    p->hash = hash_pair(m->left, m->right);
    __builtin_prefetch(&t->merge_slots[p->hash & t->merges_mask], 1);
    return TD_OK;
}

static int add_merge(struct loader *l, uint32_t rank, const struct pending *p)
{
    struct td_tokenizer *t = l->t;
    t->merges[rank] = p->merge;
    uint32_t *s = merge_slot(t, p->hash, p->merge.left, p->merge.right);
    if (!s)
        return td_fail(l->err, TD_EFORMAT, "%s: merge %u collides with too many others", l->path,
                       rank);
    if (*s) return TD_OK; // listed before: the lower rank counts
    *s = (uint32_t)(p->hash >> (32 + RANK_BITS)) << RANK_BITS | (rank + 1);
    return TD_OK;
}

static int load_merges(struct loader *l)
{
    struct pending *merges = l->batch->merges;
    const uint32_t n_merges = (uint32_t)l->merges.n;
    l->next_merge = td_gguf_strs(&l->merges);
    l->next_made = td_gguf_strs(&l->tokens);
    l->made = -1;
    walk_to(l, 0);
    for (uint32_t from = 0; from < n_merges; from += BATCH) {
        const uint32_t n = n_merges - from < BATCH ? n_merges - from : BATCH;
        int code = TD_OK;
        for (uint32_t i = 0; !code && i < n; i++) code = read_merge(l, from + i, &merges[i]);
        for (uint32_t i = 0; !code && i < n; i++) code = name_merge(l, from + i, &merges[i]);
        for (uint32_t i = 0; !code && i < n; i++) code = add_merge(l, from + i, &merges[i]);
        if (code) return code;
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
    l.batch = calloc(1, sizeof(*l.batch));
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
    free(t->merge_slots);
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
