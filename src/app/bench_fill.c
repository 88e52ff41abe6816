// SPDX-License-Identifier: MIT
// A KV cache of noise: what a test at a depth costs does not depend on what the cache holds, and to
// compute 32k tokens takes minutes.
#include "app/bench.h"

#include "base/num.h"

#include <stdlib.h>

enum { SPAN_TOKENS = 256 };

// Positions [pos0, depth) of a layer, all from the same noise.
static int write_layer(const struct td_app *app, struct td_session *s, uint32_t il, uint32_t depth,
                       const void *noise, size_t position_bytes, struct td_error *err)
{
    const uint32_t window = app->model->spec.kv[il].window;
    uint32_t pos = window && depth > window - 1 ? depth - (window - 1) : 0;
    while (pos < depth) {
        const uint32_t n = td_min_u32(SPAN_TOKENS, depth - pos);
        const struct td_kv_span span = {td_session_kv(s), il, pos, n};
        const int code = app->backend->kv_write(&span, noise, n * position_bytes, err);
        if (code) return code;
        pos += n;
    }
    return TD_OK;
}

static size_t layer_bytes(const struct td_app *app, uint32_t il)
{
    const struct td_kv_layer *l = &app->model->spec.kv[il];
    return (size_t)l->n_kv_heads * l->head_dim * 2 * (app->kv_f32 ? 4 : 2);
}

int td_bench_fill_noise(const struct td_app *app, struct td_session *s, const int32_t *tokens,
                        uint32_t depth, struct td_error *err)
{
    const uint32_t n_layers = app->model->spec.n_layers;
    size_t most = 2; // bytes of a position
    for (uint32_t il = 0; il < n_layers; il++)
        if (layer_bytes(app, il) > most) most = layer_bytes(app, il);
    const size_t n_values = SPAN_TOKENS * most / (app->kv_f32 ? 4 : 2);
    void *noise = malloc(SPAN_TOKENS * most);
    if (!noise) return td_fail(err, TD_ENOMEM, "no memory to fill the KV cache");
    struct td_rng rng = {.state = 7};
    for (size_t i = 0; i < n_values; i++) {
        const float x = 2 * td_rng_f32(&rng) - 1;
        if (app->kv_f32)
            ((float *)noise)[i] = x;
        else
            ((uint16_t *)noise)[i] = td_f16_of_f32(x);
    }
    int code = td_session_want(s, tokens, 1, NULL, 0, err); // the depth before goes
    if (!code) code = td_session_adopt(s, tokens, 1, err);
    if (!code) code = td_session_reserve(s, depth, err);
    for (uint32_t il = 0; il < n_layers && !code; il++)
        code = write_layer(app, s, il, depth, noise, layer_bytes(app, il), err);
    if (!code) code = app->backend->kv_commit(td_session_kv(s), depth, err);
    if (!code) code = td_session_adopt(s, tokens, depth, err);
    free(noise);
    return code;
}
