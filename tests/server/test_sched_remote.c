// SPDX-License-Identifier: MIT
// Prompts that a peer reads while the scheduler goes on with others.
#include "server/sched_rig.h"

#include "relay/pair_rig.h"

#define TINY "tests/data/gptoss-tiny.gguf"

enum { N = 300 };

static int32_t g_prompts[4][N_CTX];

// ---- the prefill side -------------------------------------------------------------------------

static int setup_tiny(void **state)
{
    (void)state;
    g_model = open_model(TINY);
    return 0;
}

// pace: tokens per second that are really held; 0: as fast as it can.
static void open_far(struct house *h, double pace)
{
    *h = (struct house){
        .key = &key_a,
        .pace = pace,
        .cfg = {
            .n_slots = 2, .max_kv_bytes = 64 << 20, .prefill = speed(1000), .decode = speed(100)}};
    open_house(h);
}

// ---- this side --------------------------------------------------------------------------------

struct server {
    struct rig rig;
    struct td_peer peer;
    struct td_remote *remote;
};

static void open_server(struct server *h, const char *peers, enum td_remote_policy policy)
{
    rig_open(&h->rig, &(struct rig_config){
                          .path = TINY, .n_ctx = N_CTX, .n_slots = 3, .n_queue = 3, .chunk = 32});
    for (uint32_t i = 0; i < 4; i++)
        fill_tokens(g_prompts[i], N_CTX, i + 1, h->rig.model->spec.n_vocab);
    if (!peers) return;
    td_sched_close(h->rig.sched);
    init_peer(&h->peer, TD_WIRE_DECODE, h->rig.model, 0);
    const struct td_remote_config cfg = {.far = {.key = &key_a,
                                                 .engine = h->rig.engine,
                                                 .backend = td_backend_cpu(),
                                                 .peer = &h->peer,
                                                 .engine_kv_type = TD_F16,
                                                 .kv_type = TD_F16,
                                                 .checkpoint_tokens = 100,
                                                 .prefill = speed(1),
                                                 .decode = speed(100)},
                                         .peers = peers,
                                         .policy = policy};
    OK(td_remote_open(&h->remote, &cfg, &err));
    h->rig.cfg.remote = h->remote;
    OK(td_sched_open(&h->rig.sched, &h->rig.cfg, &err));
}

static void close_server(struct server *h)
{
    td_sched_close(h->rig.sched);
    h->rig.sched = NULL;
    td_remote_close(h->remote);
    rig_close(&h->rig);
}

static void ask(struct server *h, struct answer *a, uint32_t i, uint32_t n)
{
    const struct td_job_spec spec = spec_of(g_prompts[i], n, 20);
    answer_begin(a, &spec);
    OK(td_sched_submit(h->rig.sched, a->job, NULL, &err));
}

static void the_answer_is_that_of_one_machine(void **state)
{
    (void)state;
    struct answer here[3], there[3];
    struct server h = {0};
    open_server(&h, NULL, TD_REMOTE_NEVER);
    for (uint32_t i = 0; i < 3; i++) {
        ask(&h, &here[i], i, N);
        answer_read(&here[i]);
        assert_int_equal(here[i].n_remote_progress, 0);
    }
    close_server(&h);

    struct house far;
    open_far(&far, 0);
    h = (struct server){0};
    open_server(&h, far.where, TD_REMOTE_REQUIRE);
    for (uint32_t i = 0; i < 3; i++) ask(&h, &there[i], i, N);
    for (uint32_t i = 0; i < 3; i++) {
        answer_read(&there[i]);
        if (there[i].has_failed) fail_msg("%s", there[i].error.msg);
        assert_int_equal(there[i].stats.prefill.path, TD_REMOTE_REMOTE);
        assert_int_equal(there[i].stats.prefill.n_remote, N - 1);
        assert_int_equal(there[i].stats.n_reused, 0);
        assert_int_equal(there[i].n_text[TD_CHANNEL_FINAL], here[i].n_text[TD_CHANNEL_FINAL]);
        assert_memory_equal(there[i].text[TD_CHANNEL_FINAL], here[i].text[TD_CHANNEL_FINAL],
                            here[i].n_text[TD_CHANNEL_FINAL]);
        answer_end(&here[i]);
        answer_end(&there[i]);
    }
    struct td_sched_stats stats;
    td_sched_stats(h.rig.sched, &stats);
    assert_int_equal(stats.n_path[TD_REMOTE_REMOTE], 3);
    assert_true(stats.relay_bytes > 0);
    // A second turn sends what is new.
    ask(&h, &there[0], 0, N + 100);
    answer_read(&there[0]);
    assert_true(there[0].stats.n_reused >= N - 1);
    assert_int_equal(there[0].stats.prefill.n_have, there[0].stats.n_reused);
    answer_end(&there[0]);
    close_server(&h);
    close_house(&far);
}

static bool has_remote_progress(const struct answer *a)
{
    return a->n_remote_progress > 0;
}

static void cancelled_while_it_is_fetched(void **state)
{
    (void)state;
    struct house far;
    open_far(&far, 200);
    struct server h = {0};
    open_server(&h, far.where, TD_REMOTE_REQUIRE);
    struct answer a, b;
    ask(&h, &a, 0, 500);
    answer_read_until(&a, has_remote_progress);
    td_job_cancel(a.job);
    answer_read(&a);
    assert_int_equal(a.end, TD_JOB_CANCELLED);
    assert_int_equal(a.stats.n_written, 0);
    answer_end(&a);
    // A reader that goes, and an end of all while one is fetched.
    ask(&h, &a, 1, 500);
    answer_read_until(&a, has_remote_progress);
    answer_end(&a);
    ask(&h, &b, 2, 100);
    answer_read(&b);
    assert_int_equal(b.end, TD_JOB_LENGTH);
    answer_end(&b);
    ask(&h, &b, 3, 500);
    answer_read_until(&b, has_remote_progress);
    td_sched_close(h.rig.sched);
    h.rig.sched = NULL;
    answer_read(&b);
    assert_int_equal(b.end, TD_JOB_CANCELLED);
    answer_end(&b);
    close_server(&h);
    close_house(&far);
}

static void nobody_there(void **state)
{
    (void)state;
    struct server h = {0};
    open_server(&h, "127.0.0.1:1", TD_REMOTE_AUTO);
    struct answer a;
    ask(&h, &a, 0, N);
    answer_read(&a);
    assert_int_equal(a.end, TD_JOB_LENGTH);
    assert_int_equal(a.stats.prefill.path, TD_REMOTE_LOCAL);
    assert_true(a.stats.prefill.reason[0] != '\0');
    answer_end(&a);
    close_server(&h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_answer_is_that_of_one_machine),
        cmocka_unit_test(cancelled_while_it_is_fetched),
        cmocka_unit_test(nobody_there),
    };
    return cmocka_run_group_tests(tests, setup_tiny, teardown);
}
