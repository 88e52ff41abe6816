// SPDX-License-Identifier: MIT
// What is predicted of a prompt, beside what it then takes, and whether `auto` picks the side that
// is really faster. Both ends are held to paces so slow that this machine's own speed does not
// matter; what is left of it (a machine that is busy with other work) is met by trying again: a
// prediction that is wrong is wrong each time.
#include "fault_proxy.h"
#include "pair_rig.h"

#include <math.h>

// Of the truth, from either side.
#define TOLERANCE 0.15
enum { MAX_TRIES = 4, N_ANSWER = 16 };

struct world {
    struct house far;
    struct home near;
    struct fault_proxy *proxy; // NULL: none between them
};

struct speeds {
    double here, there;               // prefill
    double here_decode, there_decode; // 0: 100
    uint32_t latency_ms;              // each way
    uint64_t bytes_per_s;             // of the link; 0: as fast as it can
    double told_there;                // what the peer believes of itself; 0: the truth
};

static void open_world(struct world *w, const struct speeds *v, enum td_remote_policy policy)
{
    const double decode = v->here_decode > 0 ? v->here_decode : 100;
    *w = (struct world){
        .far = {.key = &key_a,
                .pace = v->there,
                .cfg = {.n_slots = 4,
                        .max_kv_bytes = 64 << 20,
                        .prefill = speed(v->told_there > 0 ? v->told_there : v->there),
                        .decode = speed(v->there_decode > 0 ? v->there_decode : 100)}},
        .near = {.pace = v->here,
                 .pace_decode = decode,
                 .policy = policy,
                 .far = {.key = &key_a,
                         .no_canary = true, // it would be read at these paces too
                         .prefill = speed(v->here),
                         .decode = speed(decode)}}};
    open_house(&w->far);
    char where[32];
    (void)snprintf(where, sizeof(where), "%s", w->far.where);
    if (v->latency_ms || v->bytes_per_s) {
        w->proxy = fault_proxy_open("127.0.0.1", 0, "127.0.0.1", w->far.port);
        assert_non_null(w->proxy);
        const struct fault_plan plan = {.latency_ms = v->latency_ms, .bytes_per_s = v->bytes_per_s};
        fault_proxy_begin(w->proxy, &plan);
        (void)snprintf(where, sizeof(where), "127.0.0.1:%u", fault_proxy_port(w->proxy));
    }
    open_home(&w->near, where);
    if (policy == TD_REMOTE_NEVER) return;
    // Connected, checked, the link looked at: what a prompt then takes is the prompt's.
    struct td_far *far;
    struct td_far_info info = {0};
    OK(td_remote_peer(w->near.remote, 0, &far, &err));
    for (int i = 0; i < 1000 && info.round_trip_seconds <= 0; i++) {
        nap_ms(5);
        td_far_info(far, &info);
    }
    assert_true(info.round_trip_seconds > 0);
}

static void close_world(struct world *w)
{
    close_home(&w->near);
    fault_proxy_close(w->proxy);
    close_house(&w->far);
}

static void read_prompt(struct home *h, uint32_t n, uint32_t n_answer)
{
    const struct td_remote_ask ask = {.tokens = g_tokens, .n = n, .n_answer = n_answer};
    OK(td_remote_sync(h->remote, h->session, &ask, &h->stats, &err));
}

// A prompt that neither side has read but for its first n_have tokens, which are here.
static void begin_prompt(struct home *h, uint32_t n_have)
{
    static uint64_t seed = 1000;
    new_tokens(seed++);
    td_session_close(h->session);
    h->session = open_session(h->engine, N_CTX);
    td_engine_pace(h->engine, NULL);
    if (n_have) OK(td_session_sync(h->session, g_tokens, n_have, NULL, 0, NULL, NULL, &err));
    const struct td_pace pace = {.prefill = speed(h->pace), .decode = speed(h->pace_decode)};
    td_engine_pace(h->engine, &pace);
}

static bool is_right(const struct td_remote_stats *s)
{
    return fabs(s->predicted_seconds / s->seconds - 1) <= TOLERANCE;
}

// Reads prompts until one takes what was said.
static void expect_prediction(struct home *h, uint32_t n_have, uint32_t n, enum td_remote_path path)
{
    for (int i = 0; i < MAX_TRIES; i++) {
        begin_prompt(h, n_have);
        read_prompt(h, n, N_ANSWER);
        assert_read(h, n, h->stats.path);
        assert_int_equal(h->stats.n_have, n_have);
        if (h->stats.path == path && is_right(&h->stats)) return;
    }
    fail_msg("%u of %u tokens to read, %s: %.3f s predicted, %.3f s", n - n_have, n,
             td_remote_path_text(path), h->stats.predicted_seconds, h->stats.seconds);
}

static void a_prompt_takes_what_was_predicted(void **state)
{
    (void)state;
    struct world w;
    const struct speeds there_faster = {.here = 100, .there = 400};
    open_world(&w, &there_faster, TD_REMOTE_AUTO);
    expect_prediction(&w.near, 0, 301, TD_REMOTE_REMOTE);
    expect_prediction(&w.near, 150, 400, TD_REMOTE_REMOTE);
    // The next turn: known on both sides up to here.
    const uint32_t n = w.near.stats.n_tokens;
    read_prompt(&w.near, n + 120, N_ANSWER);
    assert_read(&w.near, n + 120, TD_REMOTE_REMOTE);
    assert_true(w.near.stats.predicted_seconds < 0.5); // 120 tokens, not 520
    close_world(&w);
    const struct speeds here_faster = {.here = 400, .there = 100};
    open_world(&w, &here_faster, TD_REMOTE_AUTO);
    expect_prediction(&w.near, 0, 301, TD_REMOTE_LOCAL);
    expect_prediction(&w.near, 150, 400, TD_REMOTE_LOCAL);
    close_world(&w);
}

static void so_it_does_over_a_link_that_is_slow_or_far(void **state)
{
    (void)state;
    struct world w;
    const struct speeds far_away = {.here = 100, .there = 1000, .latency_ms = 60};
    open_world(&w, &far_away, TD_REMOTE_AUTO);
    expect_prediction(&w.near, 0, 301, TD_REMOTE_REMOTE);
    close_world(&w);
    // 512 bytes a token: 150 KB, which take longer than the 0.3 s of reading.
    const struct speeds narrow = {.here = 100, .there = 1000, .bytes_per_s = 250000};
    open_world(&w, &narrow, TD_REMOTE_AUTO);
    expect_prediction(&w.near, 0, 301, TD_REMOTE_REMOTE);
    close_world(&w);
}

// What the peer says of itself is wrong at first; it notices, says so, and then it is right.
static void speeds_are_learnt(void **state)
{
    (void)state;
    struct world w;
    const struct speeds proud = {.here = 50, .there = 500, .told_there = 5000};
    open_world(&w, &proud, TD_REMOTE_AUTO);
    begin_prompt(&w.near, 0);
    read_prompt(&w.near, 301, N_ANSWER);
    assert_read(&w.near, 301, TD_REMOTE_REMOTE);
    assert_true(w.near.stats.predicted_seconds < 0.5 * w.near.stats.seconds);
    begin_prompt(&w.near, 0);
    read_prompt(&w.near, 301, N_ANSWER);
    expect_prediction(&w.near, 0, 301, TD_REMOTE_REMOTE);
    close_world(&w);
}

// ---- the choice -------------------------------------------------------------------------------

static double seconds_by(struct world *w, uint32_t n_have, uint32_t n)
{
    begin_prompt(&w->near, n_have);
    read_prompt(&w->near, n, N_ANSWER);
    return w->near.stats.seconds;
}

struct choice {
    uint32_t n_have, n;
    enum td_remote_path path; // of the faster side
};

static bool is_choice_right(struct world by_policy[3], const struct choice *c)
{
    struct home *h = &by_policy[TD_REMOTE_AUTO].near;
    (void)seconds_by(&by_policy[TD_REMOTE_AUTO], c->n_have, c->n);
    assert_read(h, c->n, h->stats.path);
    const double here = seconds_by(&by_policy[TD_REMOTE_NEVER], c->n_have, c->n);
    const double there = seconds_by(&by_policy[TD_REMOTE_REQUIRE], c->n_have, c->n);
    if (h->stats.path == c->path && (there < here) == (c->path == TD_REMOTE_REMOTE)) return true;
    fprintf(stderr, "%u of %u tokens to read: %s, %.3f s here, %.3f s there\n", c->n - c->n_have,
            c->n, td_remote_path_text(h->stats.path), here, there);
    return false;
}

// Each try begins with speeds that nothing has disturbed.
static void expect_choices(const struct speeds *v, const struct choice *choices, size_t n)
{
    bool is_right_now = false;
    for (int i = 0; i < MAX_TRIES && !is_right_now; i++) {
        struct world w[3];
        for (int policy = 0; policy < 3; policy++)
            open_world(&w[policy], v, (enum td_remote_policy)policy);
        is_right_now = true;
        for (size_t k = 0; k < n && is_right_now; k++)
            is_right_now = is_choice_right(w, &choices[k]);
        for (int policy = 0; policy < 3; policy++) close_world(&w[policy]);
    }
    assert_true(is_right_now);
}

static void auto_takes_the_faster_side_on_both_sides_of_break_even(void **state)
{
    (void)state;
    // An answer is cached here and not there: (n - 200) / 400 = n / 800 at n = 400.
    static const struct speeds cached = {.here = 400, .there = 800};
    static const struct choice by_cache[] = {{200, 280, TD_REMOTE_LOCAL},
                                             {200, 560, TD_REMOTE_REMOTE}};
    expect_choices(&cached, by_cache, 2);
    // A round trip of 0.16 s: n / 200 = 0.16 + n / 800 at n = 43.
    static const struct speeds far_away = {.here = 200, .there = 800, .latency_ms = 80};
    static const struct choice by_trip[] = {{0, 20, TD_REMOTE_LOCAL}, {0, 200, TD_REMOTE_REMOTE}};
    expect_choices(&far_away, by_trip, 2);
}

// Where plan/split.h says that it pays is where `auto` changes sides.
static void break_even_is_where_the_formula_has_it(void **state)
{
    (void)state;
    static const struct speeds v = {.here = 1000, .there = 4000, .latency_ms = 50};
    struct world w;
    open_world(&w, &v, TD_REMOTE_AUTO);
    struct td_split_ask question;
    OK(td_remote_question(w.near.remote, 0, 500, &question, &err));
    const uint32_t n = td_split_pays_from(&question, 500);
    assert_in_range(n, 80, 400); // 0.1 s and a little, at 1000 and 4000 tokens per second
    begin_prompt(&w.near, 0);
    read_prompt(&w.near, n * 7 / 10, N_ANSWER);
    assert_read(&w.near, n * 7 / 10, TD_REMOTE_LOCAL);
    assert_non_null(strstr(w.near.stats.reason, td_split_why_text(TD_SPLIT_LATENCY)));
    begin_prompt(&w.near, 0);
    read_prompt(&w.near, n * 13 / 10, N_ANSWER);
    assert_read(&w.near, n * 13 / 10, TD_REMOTE_REMOTE);
    close_world(&w);
}

// Reported whoever reads the prompt, and only when the answer is long enough to matter.
static void that_all_of_it_were_faster_there_is_said(void **state)
{
    (void)state;
    struct world w;
    const struct speeds slow_writer = {
        .here = 400, .there = 800, .here_decode = 10, .there_decode = 100};
    open_world(&w, &slow_writer, TD_REMOTE_AUTO);
    begin_prompt(&w.near, 0);
    read_prompt(&w.near, 200, 64); // 6.3 s of writing here, 0.6 there
    assert_read(&w.near, 200, TD_REMOTE_REMOTE);
    assert_true(w.near.stats.all_there_is_faster);
    begin_prompt(&w.near, 200);
    read_prompt(&w.near, 220, 64); // read here, and still
    assert_read(&w.near, 220, TD_REMOTE_LOCAL);
    assert_true(w.near.stats.all_there_is_faster);
    begin_prompt(&w.near, 200);
    read_prompt(&w.near, 220, 1);
    assert_read(&w.near, 220, TD_REMOTE_LOCAL);
    assert_false(w.near.stats.all_there_is_faster);
    close_world(&w);
    const struct speeds quick_writer = {.here = 400, .there = 800, .there_decode = 10};
    open_world(&w, &quick_writer, TD_REMOTE_AUTO);
    begin_prompt(&w.near, 0);
    read_prompt(&w.near, 200, 64);
    assert_read(&w.near, 200, TD_REMOTE_REMOTE);
    assert_false(w.near.stats.all_there_is_faster);
    close_world(&w);
}

int main(void)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    if (!getenv("TEST_PREDICT_ALL")) {
        fprintf(stderr, "paces cannot be held under a sanitizer\n");
        return 77;
    }
#endif
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_prompt_takes_what_was_predicted),
        cmocka_unit_test(so_it_does_over_a_link_that_is_slow_or_far),
        cmocka_unit_test(speeds_are_learnt),
        cmocka_unit_test(auto_takes_the_faster_side_on_both_sides_of_break_even),
        cmocka_unit_test(break_even_is_where_the_formula_has_it),
        cmocka_unit_test(that_all_of_it_were_faster_there_is_said),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
