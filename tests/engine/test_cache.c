// SPDX-License-Identifier: MIT
// KV that outlives its session: a next turn finds what any session has read before, to the bit of
// what a session gives that reads it all for the first time; and it never stands in the way of who
// needs the room.
#include "support.h"

#include <stdlib.h>

#define WINDOW_MODEL "synth:tiny,window=16,vocab=1024,ctx=8192"
#define FULL_MODEL   "synth:tiny,window=1073741824,vocab=1024,ctx=8192"

static struct td_model *g_model; // window 16 on even layers

static int setup(void **state)
{
    (void)state;
    g_model = open_model(WINDOW_MODEL);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    td_model_close(g_model);
    return 0;
}

static struct td_engine *open_cached(struct td_engine_config cfg, uint64_t max_bytes)
{
    struct td_engine *e = open_engine_cfg(g_model, cfg);
    td_engine_cache(e, max_bytes);
    return e;
}

static struct td_cache_stats stats_of(struct td_engine *e)
{
    struct td_cache_stats stats;
    td_engine_cache_stats(e, &stats);
    return stats;
}

static uint64_t kv_bytes(const struct td_engine *e)
{
    struct td_device_report report;
    td_engine_report(e, &report);
    return report.kv_bytes;
}

// Returns the tokens that were not computed again.
static uint32_t read_prompt(struct td_session *s, const int32_t *tokens, uint32_t n)
{
    OK(td_session_sync(s, tokens, n, NULL, 0, NULL, NULL, &err));
    return td_session_reused(s);
}

static void write_answer(struct td_engine *e, struct td_session *s, struct td_rng *rng, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        OK(td_session_append(s, (int32_t)(td_rng_u64(rng) % 1024), &err));
        OK(td_engine_step(e, NULL, &err));
    }
}

// A conversation of 4,000 tokens, 300 of reasoning and 50 of an answer after it; the next turn has
// the prompt, the answer without its reasoning, and a new message of 50. `others` come in between.
static void the_next_turn_pays_for_what_is_new(void **state)
{
    (void)state;
    enum { N = 4000, N_REASONING = 300, N_ANSWER = 50, N_NEW = 50 };
    struct td_rng rng = {1};
    static int32_t talk[N + N_ANSWER + N_NEW], other[3000];
    random_tokens(&rng, talk, N + N_ANSWER + N_NEW, 1024);
    struct td_engine *e = open_cached(config(256, 2), UINT64_MAX);
    struct td_session *s[2] = {open_session(e, 5000), open_session(e, 5000)};
    for (int round = 0; round < 3; round++) {
        talk[0] = round; // another conversation each time
        assert_int_equal(read_prompt(s[0], talk, N), 0);
        write_answer(e, s[0], &rng, N_REASONING + N_ANSWER);
        if (round > 0) td_session_retire(s[0]);
        // Other conversations take both sessions, one with this one's first half.
        for (int i = 0; i < 2; i++) {
            random_tokens(&rng, other, 3000, 1024);
            if (round == 2 && i == 0) memcpy(other, talk, 1500 * sizeof(*talk));
            (void)read_prompt(s[i], other, 3000);
            if (round == 2) td_session_retire(s[i]);
        }
        struct td_session *next = s[round % 2];
        const uint32_t n_reused = read_prompt(next, talk, N + N_ANSWER + N_NEW);
        assert_in_range(n_reused, N, N + N_ANSWER);
        assert_fresh(g_model, next, talk, N + N_ANSWER + N_NEW);
        const struct td_cache_stats stats = stats_of(e);
        assert_true(stats.n_hits >= 1 && stats.n_hit_tokens >= N);
        td_session_retire(next);
    }
    td_session_close(s[0]);
    td_session_close(s[1]);
    td_engine_close(e);
}

static void sessions_share_what_they_have_in_common(void **state)
{
    (void)state;
    struct td_rng rng = {2};
    int32_t tokens[900];
    random_tokens(&rng, tokens, 900, 1024);
    struct td_engine *e = open_cached(config(64, 2), UINT64_MAX);
    struct td_session *a = open_session(e, 1000), *b = open_session(e, 1000);
    const uint32_t marks[] = {300, 800};
    OK(td_session_sync(a, tokens, 800, marks, 2, NULL, NULL, &err));
    const uint64_t before = kv_bytes(e);
    // The same prompt for another answer, while the first is being written.
    write_answer(e, a, &rng, 40);
    assert_int_equal(read_prompt(b, tokens, 800), 799);
    assert_fresh(g_model, b, tokens, 800);
    assert_true(kv_bytes(e) < before + before / 2);
    // One that leaves it at a message: the place came along.
    td_session_close(a); // forgets
    assert_int_equal(stats_of(e).n_kept, 0);
    tokens[300] ^= 1;
    assert_int_equal(td_engine_prefix(e, tokens, 900), 300);
    assert_int_equal(read_prompt(b, tokens, 900), 300);
    assert_fresh(g_model, b, tokens, 900);
    td_session_close(b);
    td_engine_close(e);
}

static void without_a_cache_sessions_know_nothing_of_each_other(void **state)
{
    (void)state;
    struct td_rng rng = {3};
    int32_t tokens[300];
    random_tokens(&rng, tokens, 300, 1024);
    struct td_engine *e = open_cached(config(64, 1), 0);
    struct td_session *a = open_session(e, 300), *b = open_session(e, 300);
    (void)read_prompt(a, tokens, 300);
    assert_int_equal(read_prompt(b, tokens, 300), 0);
    td_session_retire(a); // keeps what it has
    assert_int_equal(td_session_len(a), 300);
    assert_int_equal(td_session_state(a), TD_SESSION_IDLE);
    assert_int_equal(read_prompt(a, tokens, 300), 299);
    td_session_close(a);
    td_session_close(b);
    assert_int_equal(stats_of(e).n_kept, 0);
    assert_int_equal(kv_bytes(e), 0);
    td_engine_close(e);
}

// Reads a conversation of its own (by its number) and lets it rest.
static uint32_t visit(struct td_session *s, uint64_t number, uint32_t n)
{
    struct td_rng rng = {number};
    static int32_t tokens[2000];
    random_tokens(&rng, tokens, n, 1024);
    const uint32_t n_reused = read_prompt(s, tokens, n);
    td_session_retire(s);
    return n_reused;
}

static void what_was_used_longest_ago_goes_first(void **state)
{
    (void)state;
    struct td_engine *e = open_cached(config(128, 2), UINT64_MAX);
    struct td_session *s = open_session(e, 2000);
    (void)visit(s, 1, 640);
    const uint64_t one = stats_of(e).bytes;
    assert_int_equal(one, kv_bytes(e)); // nobody else has anything
    td_engine_cache(e, 3 * one + one / 2);
    (void)visit(s, 2, 640);
    (void)visit(s, 3, 640);
    assert_int_equal(stats_of(e).n_evicted, 0);
    assert_int_equal(visit(s, 1, 640), 639); // used again
    (void)visit(s, 4, 640);
    assert_int_equal(stats_of(e).n_kept, 3);
    assert_int_equal(stats_of(e).n_evicted, 1);
    assert_true(stats_of(e).bytes <= 3 * one + one / 2);
    assert_int_equal(stats_of(e).bytes, kv_bytes(e));
    assert_int_equal(visit(s, 1, 640), 639);
    assert_int_equal(visit(s, 4, 640), 639);
    assert_int_equal(visit(s, 3, 640), 639);
    assert_int_equal(visit(s, 2, 640), 0);
    // What does not fit is not kept, and less room keeps less.
    td_engine_cache(e, one / 2);
    assert_int_equal(stats_of(e).n_kept, 0);
    (void)visit(s, 5, 640);
    assert_int_equal(stats_of(e).n_kept, 0);
    assert_int_equal(kv_bytes(e), 0);
    td_session_close(s);
    td_engine_close(e);
}

static void turns_of_one_conversation_are_kept_once(void **state)
{
    (void)state;
    struct td_rng rng = {5};
    static int32_t tokens[2000];
    random_tokens(&rng, tokens, 2000, 1024);
    struct td_engine *e = open_cached(config(128, 2), UINT64_MAX);
    struct td_session *s = open_session(e, 2000);
    for (uint32_t n = 300; n <= 1500; n += 300) {
        assert_int_equal(read_prompt(s, tokens, n), n == 300 ? 0 : n - 300);
        write_answer(e, s, &rng, 100); // dropped by the next turn
        td_session_retire(s);
        assert_int_equal(stats_of(e).n_kept, 1);
        assert_int_equal(stats_of(e).bytes, kv_bytes(e));
    }
    // An earlier message is edited: both versions live on.
    tokens[900] ^= 1;
    assert_int_equal(read_prompt(s, tokens, 1300), 900);
    td_session_retire(s);
    assert_int_equal(stats_of(e).n_kept, 2);
    assert_int_equal(stats_of(e).bytes, kv_bytes(e));
    tokens[900] ^= 1;
    assert_int_equal(read_prompt(s, tokens, 1600), 1500);
    assert_fresh(g_model, s, tokens, 1600);
    td_session_close(s);
    td_engine_cache(e, 0);
    assert_int_equal(kv_bytes(e), 0);
    td_engine_close(e);
}

static void what_is_kept_gives_way_to_who_runs(void **state)
{
    (void)state;
    struct td_engine *e = open_cached(config(64, 2), UINT64_MAX);
    struct td_session *s = open_session(e, 2000);
    (void)visit(s, 1, 1000);
    const uint64_t one = stats_of(e).bytes;
    td_session_close(s);
    td_engine_close(e);

    struct td_engine_config cfg = config(64, 2);
    cfg.device.max_kv_bytes = one * 5 / 2;
    e = open_cached(cfg, UINT64_MAX);
    s = open_session(e, 2000);
    for (uint64_t i = 1; i <= 6; i++) assert_int_equal(visit(s, i, 1000), 0);
    struct td_cache_stats stats = stats_of(e);
    assert_in_range(stats.n_kept, 1, 2);
    assert_int_equal(stats.n_kept + stats.n_evicted, 6);
    assert_int_equal(visit(s, 6, 1000), 999);
    // Room for somebody else's writing: all but the session's own goes, its snapshots stay.
    struct td_session *other = open_session(e, 2000);
    struct td_rng rng = {6};
    int32_t tokens[1000];
    random_tokens(&rng, tokens, 1000, 1024);
    assert_int_equal(read_prompt(s, tokens, 1000), 999);
    const uint64_t snapshots = td_session_snapshot_bytes(s);
    assert_true(snapshots > 0);
    OK(td_session_reserve(other, 900, &err));
    assert_int_equal(td_session_snapshot_bytes(s), snapshots);
    assert_true(stats_of(e).n_evicted > stats.n_evicted);
    td_session_close(other);
    td_session_close(s);
    td_engine_close(e);
}

// Who is being written to by another thread is not read from.
static void a_lent_session_is_left_alone(void **state)
{
    (void)state;
    struct td_rng rng = {7};
    int32_t tokens[300];
    random_tokens(&rng, tokens, 300, 1024);
    struct td_engine *e = open_cached(config(64, 1), UINT64_MAX);
    struct td_session *a = open_session(e, 600), *b = open_session(e, 600);
    (void)read_prompt(a, tokens, 300);
    OK(td_session_adopt(a, tokens, 300, &err));
    OK(td_session_reserve(a, 500, &err));
    assert_int_equal(read_prompt(b, tokens, 300), 0);
    OK(td_session_adopt(a, tokens, 300, &err));
    td_session_retire(b);
    td_engine_cache(e, 0); // what b has left
    td_engine_cache(e, UINT64_MAX);
    assert_int_equal(read_prompt(b, tokens, 300), 299);
    td_session_close(a);
    td_session_close(b);
    td_engine_close(e);
}

static void who_is_isolated_neither_takes_nor_gives(void **state)
{
    (void)state;
    struct td_rng rng = {10};
    int32_t tokens[300];
    random_tokens(&rng, tokens, 300, 1024);
    struct td_engine *e = open_cached(config(64, 1), UINT64_MAX);
    struct td_session *a = open_session(e, 300), *b = open_session(e, 300);
    td_session_isolate(a);
    (void)read_prompt(a, tokens, 300);
    assert_int_equal(read_prompt(b, tokens, 300), 0);
    tokens[10] ^= 1;
    (void)read_prompt(b, tokens, 300);
    assert_int_equal(read_prompt(a, tokens, 300), 0);
    td_session_retire(a);
    assert_int_equal(td_session_len(a), 0);
    assert_int_equal(stats_of(e).n_kept, 1);            // what b read first
    assert_int_equal(read_prompt(a, tokens, 300), 299); // b's: it is one of them again
    td_session_close(a);
    td_session_close(b);
    td_engine_close(e);
}

// What admission is decided by holds while prompts are read and answers written.
static void sessions_take_no_more_than_they_need(void **state)
{
    (void)state;
    struct td_rng rng = {11};
    static int32_t tokens[2000];
    random_tokens(&rng, tokens, 2000, 1024);
    static const uint32_t chunks[] = {1, 64, 500};
    for (int i = 0; i < 3; i++) {
        struct td_engine_config cfg = config(chunks[i], 2);
        cfg.max_snapshot_bytes = 1;
        struct td_engine *e = open_cached(cfg, UINT64_MAX);
        struct td_session *s = open_session(e, 2000);
        const uint32_t n = i == 0 ? 200 : 1500;
        OK(td_session_want(s, tokens, n, NULL, 0, &err));
        for (uint32_t n_rows = 1; n_rows > 0;) {
            OK(td_engine_step(e, &n_rows, &err));
            assert_true(kv_bytes(e) <= td_engine_kv_need(e, n));
        }
        assert_int_equal(td_session_computed(s), n);
        write_answer(e, s, &rng, 100);
        assert_true(kv_bytes(e) <= td_engine_kv_need(e, n + 100));
        td_session_close(s);
        td_engine_close(e);
    }
}

// The timeline and its places are what they say: each place's KV can be taken up there.
static void timelines_say_where_they_can_be_taken_up(void **state)
{
    (void)state;
    struct td_rng rng = {8};
    int32_t tokens[700];
    random_tokens(&rng, tokens, 700, 1024);
    struct td_engine *e = open_cached(config(64, 1), UINT64_MAX);
    struct td_session *s = open_session(e, 900);
    const uint32_t marks[] = {100, 400};
    OK(td_session_sync(s, tokens, 700, marks, 2, NULL, NULL, &err));
    write_answer(e, s, &rng, 60);
    static struct td_timeline t, kept;
    td_session_timeline(s, &t);
    assert_int_equal(t.n, 760);
    assert_int_equal(t.n_prompt, 700);
    const struct td_backend *b = td_engine_backend(e);
    uint32_t found = 0;
    for (uint32_t i = 0; i < t.n_places; i++) {
        assert_true(b->kv_holds(t.places[i].kv, t.places[i].pos));
        if (i > 0) assert_true(t.places[i].pos > t.places[i - 1].pos);
        const uint32_t pos = t.places[i].pos;
        found |= (pos == 100) | (pos == 400) << 1 | (pos == 700) << 2 | (pos == 760) << 3;
        assert_int_equal(t.places[i].is_mark, pos == 100 || pos == 400 || pos == 700);
    }
    assert_int_equal(found, 15);
    assert_false(td_engine_kept(e, 0, &kept));
    td_session_retire(s);
    assert_true(td_engine_kept(e, 0, &kept));
    assert_int_equal(kept.n, 760);
    assert_int_equal(kept.n_prompt, 700);
    assert_int_equal(kept.n_places, t.n_places);
    assert_memory_equal(kept.tokens, tokens, sizeof(tokens));
    assert_false(td_engine_kept(e, 1, &kept));
    td_session_timeline(s, &t);
    assert_int_equal(t.n, 0);
    assert_int_equal(t.n_places, 0);
    td_session_close(s);
    td_engine_close(e);
}

enum { N_LIVES_CTX = 700 };

static void change_somewhere(struct td_rng *rng, int32_t *tokens, const int32_t *other)
{
    const uint32_t at = (uint32_t)(td_rng_u64(rng) % N_LIVES_CTX);
    // A branch of another conversation, an edit, or nothing.
    const uint64_t kind = td_rng_u64(rng) % 4;
    if (kind == 0) memcpy(tokens, other, at * sizeof(*tokens));
    if (kind <= 1) tokens[at] = (int32_t)(td_rng_u64(rng) % 1024);
}

// Sessions come, branch off one another, rest and go, under every kind of limit.
static void live(struct td_rng *rng, struct td_engine *e)
{
    enum { N_SESSIONS = 3, N_TALKS = 5 };
    struct td_session *s[N_SESSIONS];
    static int32_t talks[N_TALKS][N_LIVES_CTX];
    for (int i = 0; i < N_SESSIONS; i++) s[i] = open_session(e, N_LIVES_CTX);
    for (int i = 0; i < N_TALKS; i++) random_tokens(rng, talks[i], N_LIVES_CTX, 1024);
    for (int round = 0; round < 8; round++) {
        uint32_t n[N_SESSIONS];
        int talk[N_SESSIONS];
        for (int i = 0; i < N_SESSIONS; i++) {
            talk[i] = (int)((td_rng_u64(rng) + (uint64_t)i) % N_TALKS);
            change_somewhere(rng, talks[talk[i]], talks[(talk[i] + 1) % N_TALKS]);
        }
        for (int i = 0; i < N_SESSIONS; i++) {
            n[i] = 1 + (uint32_t)(td_rng_u64(rng) % N_LIVES_CTX);
            const uint32_t marks[2] = {n[i] / 2 + 1, n[i]};
            OK(td_session_want(s[i], talks[talk[i]], n[i], marks, 2, &err));
        }
        for (uint32_t n_rows = 1; n_rows > 0;) OK(td_engine_step(e, &n_rows, &err));
        for (int i = 0; i < N_SESSIONS; i++) {
            assert_fresh(g_model, s[i], talks[talk[i]], n[i]);
            for (int k = 0; k < 5 && td_session_len(s[i]) < N_LIVES_CTX; k++) {
                OK(td_session_append(s[i], 5, &err));
                OK(td_engine_step(e, NULL, &err));
            }
            const uint64_t end = td_rng_u64(rng) % 4;
            if (end < 2) td_session_retire(s[i]);
            if (end == 2) td_session_close(s[i]);
            if (end == 2) s[i] = open_session(e, N_LIVES_CTX);
        }
    }
    for (int i = 0; i < N_SESSIONS; i++) td_session_close(s[i]);
    assert_int_equal(stats_of(e).bytes, kv_bytes(e));
    td_engine_cache(e, 0);
    assert_int_equal(kv_bytes(e), 0); // every page came back
}

static void random_lives(void **state)
{
    (void)state;
    struct td_rng rng = {20261123};
    for (int life = 0; life < 4; life++) {
        struct td_engine_config cfg = config(1 + (uint32_t)(td_rng_u64(&rng) % 200), 2);
        if (life == 1) cfg.max_snapshot_bytes = 200000;
        if (life == 2) cfg.device.max_kv_bytes = (uint64_t)12 << 20;
        struct td_engine *e = open_cached(cfg, life == 3 ? (uint64_t)3 << 20 : UINT64_MAX);
        live(&rng, e);
        if (life >= 2) assert_true(stats_of(e).n_evicted > 0);
        assert_true(stats_of(e).n_hits > 0);
        td_engine_close(e);
    }
}

// Nothing is forgotten where no layer has a window: every position can be taken up.
static void without_windows_any_position_will_do(void **state)
{
    (void)state;
    struct td_model *m = open_model(FULL_MODEL), *window_model = g_model;
    g_model = m;
    struct td_rng rng = {9};
    int32_t tokens[600];
    random_tokens(&rng, tokens, 600, 1024);
    struct td_engine *e = open_cached(config(64, 2), UINT64_MAX);
    struct td_session *s = open_session(e, 600);
    (void)read_prompt(s, tokens, 600);
    td_session_retire(s);
    (void)visit(s, 1, 600);
    tokens[333] ^= 1;
    assert_int_equal(read_prompt(s, tokens, 500), 333);
    assert_fresh(m, s, tokens, 500);
    td_session_close(s);
    td_engine_close(e);
    g_model = window_model;
    td_model_close(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_next_turn_pays_for_what_is_new),
        cmocka_unit_test(sessions_share_what_they_have_in_common),
        cmocka_unit_test(without_a_cache_sessions_know_nothing_of_each_other),
        cmocka_unit_test(what_was_used_longest_ago_goes_first),
        cmocka_unit_test(turns_of_one_conversation_are_kept_once),
        cmocka_unit_test(what_is_kept_gives_way_to_who_runs),
        cmocka_unit_test(a_lent_session_is_left_alone),
        cmocka_unit_test(who_is_isolated_neither_takes_nor_gives),
        cmocka_unit_test(sessions_take_no_more_than_they_need),
        cmocka_unit_test(timelines_say_where_they_can_be_taken_up),
        cmocka_unit_test(random_lives),
        cmocka_unit_test(without_windows_any_position_will_do),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
