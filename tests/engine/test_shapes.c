// SPDX-License-Identifier: MIT
// The engine against the independent float64 reference over random tiny shapes: odd head groups,
// expert counts that are no power of two, windows shorter and longer than the prompt, 1 to 400
// tokens.
#include "reference/ref_gptoss.h"
#include "reference/vectors.h"
#include "support.h"

#include <stdio.h>
#include <stdlib.h>

// Compares high precision with f32 KV: what is left is float32 rounding, so that any slip in the
// semantics stands out by orders of magnitude. Random tokens may meet a near-tie between experts
// that rounding flips; the reference says how wide each gap was, and rows after a narrow one are
// not compared.
static uint32_t compare_shape(const char *name, uint32_t n_tokens, struct td_rng *rng)
{
    struct td_model *m = open_model(name);
    const uint32_t n_vocab = m->spec.n_vocab;
    int32_t *tokens = malloc(n_tokens * sizeof(*tokens));
    float *ours = malloc((size_t)n_tokens * n_vocab * sizeof(*ours));
    double *theirs = malloc((size_t)n_tokens * n_vocab * sizeof(*theirs));
    double *gaps = malloc((size_t)n_tokens * m->spec.n_layers * sizeof(*gaps));
    assert_true(tokens && ours && theirs && gaps);
    random_tokens(rng, tokens, n_tokens, n_vocab);

    struct td_engine_config cfg = config(1 + (uint32_t)(td_rng_u64(rng) % 64), 2);
    cfg.device.precision = TD_PRECISION_HIGH;
    cfg.device.kv_f32 = true;
    struct td_engine *e = open_engine_cfg(m, cfg);
    eval_rows(e, tokens, n_tokens, ours);
    td_engine_close(e);

    struct ref_gptoss *ref = ref_gptoss_open(m->gguf);
    assert_non_null(ref);
    const struct ref_options opt = {.gaps_out = gaps};
    ref_gptoss_logits(ref, tokens, n_tokens, &opt, theirs);
    ref_gptoss_close(ref);

    uint32_t n_compared = 0;
    while (n_compared < n_tokens) {
        bool is_narrow = false;
        for (uint32_t il = 0; il < m->spec.n_layers; il++)
            is_narrow |= gaps[(size_t)n_compared * m->spec.n_layers + il] < 1e-4;
        if (is_narrow) break;
        n_compared++;
    }
    if (n_compared > 0) {
        const struct logits_diff d = logits_compare_f64(theirs, ours, n_compared, n_vocab);
        print_message("%s: %u of %u tokens, max |d| %.2g, KL %.2g\n", name, n_compared, n_tokens,
                      d.max_abs, d.mean_kl);
        if (!(d.max_abs < 1e-4 && d.mean_kl < 1e-10))
            fail_msg("%s: too far from the reference", name);
    }
    free(tokens);
    free(ours);
    free(theirs);
    free(gaps);
    td_model_close(m);
    return n_compared;
}

static void named_corner_shapes(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        uint32_t n_tokens;
    } shapes[] = {
        {"synth:tiny,seed=3,heads=6,kv-heads=2,head-dim=16,layers=2", 90},
        {"synth:tiny,seed=4,heads=5,kv-heads=5,experts=5,top-k=3", 70},
        {"synth:tiny,seed=5,heads=7,kv-heads=1,experts=7,top-k=7,ff=96", 70},
        {"synth:tiny,seed=6,experts=3,top-k=1,window=1", 40},
        {"synth:tiny,seed=7,window=64", 200},
        {"synth:tiny,seed=8,window=65", 200},
        {"synth:tiny,seed=9,window=1000", 130},
        {"synth:tiny,seed=10,window=16,layers=3", 400},
        {"synth:tiny,seed=11,head-dim=64,hidden=96,vocab=1024", 100},
        {"synth:tiny,seed=12", 1},
    };
    struct td_rng rng = {1};
    uint32_t n_compared = 0;
    for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++)
        n_compared += compare_shape(shapes[i].name, shapes[i].n_tokens, &rng);
    assert_true(n_compared > 600);
}

// Uniform in [low, high].
static unsigned pick(struct td_rng *rng, unsigned low, unsigned high)
{
    return low + (unsigned)(td_rng_u64(rng) % (high - low + 1));
}

static void random_shapes(void **state)
{
    (void)state;
    static const char *const types[] = {"F32", "F16", "BF16", "Q8_0", "MXFP4"};
    struct td_rng rng = {20261122};
    uint32_t n_compared = 0;
    for (unsigned i = 0; i < 12; i++) {
        // One draw a statement: the order of arguments' evaluation is the compiler's.
        const unsigned kv_heads = pick(&rng, 1, 4);
        const unsigned heads = kv_heads * pick(&rng, 1, 5);
        // Blocks of 32 must fill a row of the attention output.
        const unsigned head_dim = heads % 2 == 0 ? 16 * pick(&rng, 1, 5) : 32 * pick(&rng, 1, 3);
        const unsigned layers = pick(&rng, 1, 4), hidden = 32 * pick(&rng, 1, 5),
                       ff = 32 * pick(&rng, 1, 5);
        const unsigned experts = pick(&rng, 1, 13);
        const unsigned top_k = pick(&rng, 1, experts);
        const unsigned vocab = pick(&rng, 512, 1100);
        const unsigned window = pick(&rng, 1, 150);
        const char *experts_type = types[pick(&rng, 0, 4)];
        const char *attn_type = types[pick(&rng, 0, 4)];
        const char *embd_type = types[pick(&rng, 0, 4)];
        char name[256];
        snprintf(
            name, sizeof(name),
            "synth:tiny,seed=%u,layers=%u,hidden=%u,heads=%u,kv-heads=%u,head-dim=%u,experts=%u,"
            "top-k=%u,ff=%u,vocab=%u,window=%u,experts-type=%s,attn-type=%s,embd-type=%s",
            100 + i, layers, hidden, heads, kv_heads, head_dim, experts, top_k, ff, vocab, window,
            experts_type, attn_type, embd_type);
        n_compared += compare_shape(name, pick(&rng, 1, 150), &rng);
    }
    assert_true(n_compared > 200);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(named_corner_shapes),
        cmocka_unit_test(random_shapes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
