// SPDX-License-Identifier: MIT
// Two ends meet: who fits goes on, who does not is told why, on both sides, before any token.
#include "link_support.h"
#include "relay/peer.h"

static struct td_error err;
static const uint8_t sum_a[32] = {1}, sum_b[32] = {2};

static void make_spec(struct td_spec *spec)
{
    *spec = (struct td_spec){.name = "small\nmodel", .n_layers = 2, .n_vocab = 100};
    for (uint32_t il = 0; il < 2; il++)
        spec->kv[il] = (struct td_kv_layer){.n_kv_heads = 2, .head_dim = 64, .window = il * 16};
    spec->rope = (struct td_rope){.n_dims = 64, .base = 10000, .factor = 1};
}

static struct td_peer peer_of(enum td_wire_role role)
{
    struct td_spec spec;
    make_spec(&spec);
    struct td_peer p;
    assert_int_equal(td_peer_init(&p, role, &spec, sum_a, sum_a, TD_F16, &err), TD_OK);
    return p;
}

struct side {
    struct td_frames frames;
    struct td_peer ours, theirs;
    bool weights_differ;
    int code;
    struct td_error err;
};

static void *greet_main(void *ctx)
{
    struct side *s = ctx;
    s->code = td_peer_greet(&s->frames, &s->ours, &s->theirs, &s->weights_differ, &s->err);
    return NULL;
}

// Both greet one another; s[0] is the prefill side.
static void greet(struct side s[2])
{
    struct td_link *link[2];
    connect_pair(link, &key_a, (struct td_link_limits){.handshake_ms = 10000, .stall_ms = 10000});
    pthread_t thread[2];
    for (int i = 0; i < 2; i++) {
        assert_int_equal(td_frames_init(&s[i].frames, link[i], TD_WIRE_CONTROL, 0, &err), TD_OK);
        assert_int_equal(pthread_create(&thread[i], NULL, greet_main, &s[i]), 0);
    }
    for (int i = 0; i < 2; i++) pthread_join(thread[i], NULL);
    for (int i = 0; i < 2; i++) {
        td_frames_free(&s[i].frames);
        td_link_close(link[i]);
    }
}

static void init(struct side s[2])
{
    for (int i = 0; i < 2; i++)
        s[i] = (struct side){.ours = peer_of(i == 0 ? TD_WIRE_PREFILL : TD_WIRE_DECODE)};
}

static void ends_that_fit_go_on(void **state)
{
    (void)state;
    struct side s[2];
    init(s);
    greet(s);
    for (int i = 0; i < 2; i++) {
        if (s[i].code) fail_msg("%s", s[i].err.msg);
        assert_false(s[i].weights_differ);
        assert_int_equal(s[i].theirs.hello.role, s[!i].ours.hello.role);
        assert_string_equal(s[i].theirs.identity.name, "small?model");
    }
    // Other weights, by the decode side's wish.
    init(s);
    memcpy(s[0].ours.identity.weights, sum_b, 32);
    s[1].ours.identity.flags = TD_WIRE_ALLOW_WEIGHTS;
    greet(s);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(s[i].code, TD_OK);
        assert_true(s[i].weights_differ);
    }
}

static void refused(struct side s[2], int code, const char *word)
{
    greet(s);
    for (int i = 0; i < 2; i++) {
        // Whoever hears the other's reason first repeats it.
        assert_true(s[i].code == code || s[i].code == TD_ECANCEL);
        if (!strstr(s[i].err.msg, word)) fail_msg("'%s' lacks '%s'", s[i].err.msg, word);
    }
}

static void ends_that_do_not_fit_are_told_why(void **state)
{
    (void)state;
    struct side s[2];
    init(s);
    s[1].ours.hello.role = TD_WIRE_PREFILL;
    refused(s, TD_EARG, "both ends are the prefill side");
    init(s);
    s[0].ours.hello.version_min = s[0].ours.hello.version_max = 7;
    refused(s, TD_EUNSUP, "update");
    for (int i = 0; i < 2; i++) {
        init(s);
        s[i].ours.identity.flags |= TD_WIRE_HIGH_PRECISION;
        refused(s, TD_EARG, "precision");
        init(s);
        s[i].ours.identity.flags |= TD_WIRE_FINE_PRECISION;
        refused(s, TD_EARG, "precision");
    }
    init(s);
    s[0].ours.identity.layout[5] ^= 1;
    refused(s, TD_EARG, "layout");
    init(s);
    s[1].ours.identity.n_layers++;
    refused(s, TD_EARG, "layout");
    init(s);
    s[1].ours.identity.tokenizer[31] ^= 1;
    refused(s, TD_EARG, "tokenizer");
    init(s);
    s[1].ours.identity.n_vocab++;
    refused(s, TD_EARG, "tokenizer");
    init(s);
    s[1].ours.identity.kv_types = TD_WIRE_KV_F32;
    refused(s, TD_EARG, "KV type");
    init(s);
    memcpy(s[0].ours.identity.weights, sum_b, 32);
    refused(s, TD_EARG, "weights");
}

// Everything that changes what KV means changes the hash, and nothing else does.
static void the_layout_is_what_kv_means(void **state)
{
    (void)state;
    const struct td_peer right = peer_of(TD_WIRE_DECODE);
    for (int i = 0; i < 12; i++) {
        struct td_spec spec;
        make_spec(&spec);
        switch (i) {
        case 0: spec.kv[1].window++; break;
        case 1: spec.kv[0].n_kv_heads = 4, spec.kv[0].head_dim = 32; break;
        case 2: spec.n_layers = 1; break;
        case 3: spec.rope.base = 20000; break;
        case 4: spec.rope.factor = 2; break;
        case 5: spec.rope.n_dims = 32; break;
        case 6: spec.rope.beta_fast = 1; break;
        case 7: spec.rope.beta_slow = 1; break;
        case 8: spec.rope.truncate = true; break;
        case 9: spec.rope.attn_factor = 0.5; break;
        case 10: spec.rope.original_ctx = 4096; break;
        default: spec.n_experts = 8; break; // nothing of KV
        }
        struct td_peer p;
        assert_int_equal(td_peer_init(&p, TD_WIRE_DECODE, &spec, sum_a, sum_a, TD_F16, &err),
                         TD_OK);
        const bool is_same = memcmp(p.identity.layout, right.identity.layout, 32) == 0;
        assert_int_equal(is_same, i == 11);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ends_that_fit_go_on),
        cmocka_unit_test(ends_that_do_not_fit_are_told_why),
        cmocka_unit_test(the_layout_is_what_kv_means),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
