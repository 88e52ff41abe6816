// SPDX-License-Identifier: MIT
// Opens a model file, and with it the other parts when it is one of a split model. Each part is
// parsed as a file of its own, held against the first, and its tensors move over to the first.
// Source: the split.* keys and the name pattern of llama.cpp's gguf-split.
#include "gguf/gguf_impl.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// "-00002-of-00007.gguf"
enum { SUFFIX_BYTES = 20, MAX_PARTS = 65535 };

// What a file says of its place in a split model, part numbers from 0.
struct place {
    uint32_t no;
    uint32_t count;     // 1: not split
    uint64_t n_tensors; // of all parts
    bool has_n_tensors;
};

// Five digits at s; UINT32_MAX when they are not.
static uint32_t five_digits(const char *s)
{
    uint32_t v = 0;
    for (int i = 0; i < 5; i++) {
        if (s[i] < '0' || s[i] > '9') return UINT32_MAX;
        v = v * 10 + (uint32_t)(s[i] - '0');
    }
    return v;
}

// What the file's name says; false when it has not the pattern.
static bool place_of_path(const char *path, struct place *out)
{
    const size_t n = strlen(path);
    if (n < SUFFIX_BYTES) return false;
    const char *s = path + n - SUFFIX_BYTES;
    const uint32_t no = s[0] == '-' ? five_digits(s + 1) : UINT32_MAX;
    const uint32_t count = memcmp(s + 6, "-of-", 4) == 0 ? five_digits(s + 10) : UINT32_MAX;
    if (no == UINT32_MAX || count == UINT32_MAX || strcmp(s + 15, ".gguf") != 0) return false;
    if (no < 1 || no > count || count > MAX_PARTS) return false;
    *out = (struct place){.no = no - 1, .count = count};
    return true;
}

// The path of part no, in the pattern of path, which has it.
static void path_of_part(char *out, size_t size_bytes, const char *path, uint32_t no,
                         uint32_t count)
{
    const size_t n_stem = strlen(path) - SUFFIX_BYTES;
    assert(size_bytes > n_stem + SUFFIX_BYTES);
    snprintf(out, size_bytes, "%.*s-%05u-of-%05u.gguf", (int)n_stem, path, no + 1, count);
}

static int read_place(const struct td_gguf *g, struct place *out, struct td_error *err)
{
    *out = (struct place){.count = 1};
    int code = td_gguf_u32(g, "split.count", &out->count, err);
    if (code == TD_EARG) return TD_OK;
    if (code) return code;
    if (out->count <= 1) { // some tools write 0 or 1 for "not split"
        out->count = 1;
        return TD_OK;
    }
    if (out->count > MAX_PARTS)
        return td_fail(err, TD_EFORMAT, "%s: key 'split.count' is %u, at most %d parts exist",
                       g->show, out->count, MAX_PARTS);
    code = td_gguf_u32(g, "split.no", &out->no, err);
    if (code == TD_EARG)
        return td_fail(err, TD_EFORMAT, "%s: has 'split.count' but no 'split.no'", g->show);
    if (code) return code;
    if (out->no >= out->count)
        return td_fail(err, TD_EFORMAT, "%s: key 'split.no' is %u of only %u parts", g->show,
                       out->no, out->count);
    code = td_gguf_u64(g, "split.tensors.count", &out->n_tensors, err);
    if (code == TD_EARG) return TD_OK;
    out->has_n_tensors = code == TD_OK;
    return code;
}

// Maps and parses one file, which then owns its map.
static int open_part(struct td_gguf **out, const char *path, struct td_error *err)
{
    *out = NULL;
    struct td_map *map = calloc(1, sizeof(*map));
    if (!map) return td_fail(err, TD_ENOMEM, "%.96s: no memory for its directory", path);
    int code = td_os_map_file(map, path, err);
    if (!code) code = td_gguf_parse(out, map->bytes, map->size_bytes, path, false, err);
    if (code) {
        td_os_unmap(map);
        free(map);
        return code;
    }
    (*out)->maps = map;
    return TD_OK;
}

// A part's name and its own account against the part that was asked for.
static int check_place(const struct td_gguf *g, const struct place *is, const struct place *want,
                       struct td_error *err)
{
    if (is->count != want->count)
        return td_fail(err, TD_EFORMAT,
                       "%s: stands as part %u of %u but says it is one of %u: it is not of this "
                       "model",
                       g->show, want->no + 1, want->count, is->count);
    if (is->no != want->no)
        return td_fail(err, TD_EFORMAT,
                       "%s: stands as part %u of %u but says it is part %u: repeated or misnamed",
                       g->show, want->no + 1, want->count, is->no + 1);
    if (want->has_n_tensors && is->has_n_tensors && is->n_tensors != want->n_tensors)
        return td_fail(err, TD_EFORMAT,
                       "%s: key 'split.tensors.count' differs from that of other parts: it is not "
                       "of this model",
                       g->show);
    return TD_OK;
}

static bool same_value(const struct td_gguf_kv *a, const struct td_gguf_kv *b)
{
    if (a->type != b->type || a->elem != b->elem || a->n != b->n) return false;
    if (a->type == TD_GGUF_STR) return a->n == 0 || memcmp(a->data, b->data, a->n) == 0;
    if (a->type == TD_GGUF_ARR)
        return a->size_bytes == b->size_bytes && memcmp(a->data, b->data, a->size_bytes) == 0;
    return memcmp(a->data, b->data, td_gguf_type_bytes(a->type)) == 0;
}

// Later parts mostly carry split.* alone; what else they carry must be the first part's.
static int check_same_model(const struct td_gguf *first, const struct td_gguf *g,
                            struct td_error *err)
{
    for (uint32_t i = 0; i < g->n_kv; i++) {
        const struct td_gguf_kv *kv = &g->kv[i];
        if (strncmp(kv->key, "split.", 6) == 0 || strcmp(kv->key, "general.alignment") == 0)
            continue;
        const struct td_gguf_kv *other = td_gguf_find_kv(first, kv->key);
        if (other && same_value(kv, other)) continue;
        return td_fail(err, TD_EFORMAT,
                       "%s: key '%.64s' differs from that of the first part: it is not of this "
                       "model",
                       g->show, kv->key);
    }
    return TD_OK;
}

// Moves tensors, names and the map of `g` behind those of `all`. On failure both stay whole.
static int absorb(struct td_gguf *all, struct td_gguf *g, uint32_t i_part, struct td_error *err)
{
    const uint32_t n =
        all->n_tensors + g->n_tensors; // each at most TD_GGUF_MAX_TENSORS: no overflow
    if (n > TD_GGUF_MAX_TENSORS)
        return td_fail(err, TD_EUNSUP, "%s: more than %d tensors with the parts before", g->show,
                       TD_GGUF_MAX_TENSORS);
    struct td_gguf_tensor *tensors = realloc(all->tensors, (n ? n : 1) * sizeof(*tensors));
    if (!tensors) return td_fail(err, TD_ENOMEM, "%s: no memory for its tensors", g->show);
    all->tensors = tensors;
    for (uint32_t i = 0; i < g->n_tensors; i++) {
        tensors[all->n_tensors + i] = g->tensors[i];
        tensors[all->n_tensors + i].i_part = i_part;
    }
    all->n_tensors = n;
    all->file_bytes += g->file_bytes;

    // In front: a walk to the end of all names for every part would be quadratic.
    struct td_gguf_names **tail = &g->names;
    while (*tail) tail = &(*tail)->next;
    *tail = all->names;
    all->names = g->names;
    g->names = NULL;
    g->n_tensors = 0;

    all->maps[i_part] = g->maps[0];
    g->maps[0] = (struct td_map){0};
    return TD_OK;
}

// Opens part want->no beside the first and absorbs it.
static int add_part(struct td_gguf *all, const char *path, const struct place *want,
                    struct td_error *err)
{
    struct td_gguf *g;
    struct td_error why;
    int code = open_part(&g, path, &why);
    if (code == TD_EIO)
        return td_fail(err, code, "part %u of %u is missing or unreadable: %s", want->no + 1,
                       want->count, why.msg);
    if (code || !g) return td_fail(err, code, "%s", why.msg);
    struct place is;
    code = read_place(g, &is, err);
    if (!code) code = check_place(g, &is, want, err);
    if (!code) code = check_same_model(all, g, err);
    if (!code) code = absorb(all, g, want->no, err);
    td_gguf_close(g);
    return code;
}

static int check_n_tensors(const struct td_gguf *all, const struct place *first,
                           struct td_error *err)
{
    if (!first->has_n_tensors || first->n_tensors == all->n_tensors) return TD_OK;
    return td_fail(err, TD_EFORMAT,
                   "%s: the %u parts have %u tensors, 'split.tensors.count' says %llu", all->show,
                   first->count, all->n_tensors, (unsigned long long)first->n_tensors);
}

// `path` is of part `given`; the whole model comes out under that path.
static int open_split(struct td_gguf **out, const char *path, const struct place *given,
                      struct td_error *err)
{
    assert(given->count > 1);
    struct td_gguf *all = NULL;
    const size_t path_bytes = strlen(path) + 1;
    char *part_path = malloc(path_bytes);
    if (!part_path) return td_fail(err, TD_ENOMEM, "%.96s: no memory for its parts", path);

    path_of_part(part_path, path_bytes, path, 0, given->count);
    struct td_error why;
    int code = open_part(&all, part_path, &why);
    if (code || !all) {
        const char *missing = code == TD_EIO ? "part 1 is missing or unreadable: " : "";
        (void)td_fail(err, code, "%s%s", missing, why.msg);
        goto done;
    }
    struct place first;
    struct place want = {.no = 0, .count = given->count};
    code = read_place(all, &first, err);
    if (!code) code = check_place(all, &first, &want, err);
    if (code) goto done;

    struct td_map *maps = realloc(all->maps, given->count * sizeof(*maps));
    if (!maps) {
        code = td_fail(err, TD_ENOMEM, "%s: no memory for %u parts", all->show, given->count);
        goto done;
    }
    memset(maps + 1, 0, (given->count - 1) * sizeof(*maps));
    all->maps = maps;
    all->n_parts = given->count;
    want = first;
    for (want.no = 1; !code && want.no < given->count; want.no++) {
        path_of_part(part_path, path_bytes, path, want.no, given->count);
        code = add_part(all, part_path, &want, err);
    }
    // Once: sorted anew for each of many parts it would be quadratic. Twins show here.
    if (!code) code = td_gguf_index_tensors(all, err);
    if (!code) code = check_n_tensors(all, &first, err);
    if (!code) {
        memcpy(all->path, path, path_bytes); // as given: part names are of one length
        *out = all;
        all = NULL;
    }

done:
    td_gguf_close(all);
    free(part_path);
    return code;
}

int td_gguf_open(struct td_gguf **out, const char *path, struct td_error *err)
{
    *out = NULL;
    struct td_gguf *g;
    int code = open_part(&g, path, err);
    if (code) return code;
    struct place is;
    struct place named;
    const bool is_named = place_of_path(path, &named);
    code = read_place(g, &is, err);
    if (!code && is_named)
        code = check_place(g, &is, &named, err);
    else if (!code && is.count > 1)
        code = td_fail(err, TD_EFORMAT,
                       "%s: is part %u of %u, but its name does not end in -%05u-of-%05u.gguf, so "
                       "the others cannot be found",
                       g->show, is.no + 1, is.count, is.no + 1, is.count);
    if (!code && is.count == 1) {
        *out = g;
        return TD_OK;
    }
    td_gguf_close(g);
    return code ? code : open_split(out, path, &is, err);
}
