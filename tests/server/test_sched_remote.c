// SPDX-License-Identifier: MIT
// Prompts that a peer reads while the scheduler goes on with others.
#include "relay/host.h"
#include "server/sched_rig.h"

#define TINY "tests/data/gptoss-tiny.gguf"

enum { N_CTX = 600, N = 300 };

static const struct td_key g_key = {.secret = {1, 2, 3}};
static const uint8_t g_digest[32] = {1};
static int32_t g_tokens[4][N_CTX];

static struct td_split_rate speed(double tokens_per_s)
{
    return (struct td_split_rate){.points = {{0, tokens_per_s}}, .n_points = tokens_per_s > 0};
}

// ---- the prefill side -------------------------------------------------------------------------

struct house {
    struct td_model *model;
    struct td_engine *engine;
    struct td_listener *listener;
    struct td_peer peer;
    struct td_host *host;
    pthread_t thread;
    int code;
    struct td_error err;
    char where[32];
};

static void *house_main(void *ctx)
{
    struct house *h = ctx;
    h->code = td_host_serve(h->host, &h->err);
    return NULL;
}

// pace: tokens per second that are really held; 0: as fast as it can.
static void open_house(struct house *h, double pace)
{
    *h = (struct house){0};
    OK(td_model_open(&h->model, TINY, NULL, &err));
    const struct td_engine_config ecfg = {
        .device = {.n_threads = 1, .max_rows = 32, .max_logits_rows = 1, .isa = -1}};
    OK(td_engine_open(&h->engine, h->model, td_backend_cpu(), &ecfg, &err));
    const struct td_pace slow = {.prefill = speed(pace)};
    if (pace > 0) td_engine_pace(h->engine, &slow);
    OK(td_listener_open(&h->listener, "127.0.0.1:0", &g_key, NULL, &err));
    (void)snprintf(h->where, sizeof(h->where), "127.0.0.1:%u", td_listener_port(h->listener));
    OK(td_peer_init(&h->peer, TD_WIRE_PREFILL, &h->model->spec, g_digest, g_digest, TD_F16, &err));
    const struct td_host_config cfg = {.engine = h->engine,
                                       .backend = td_backend_cpu(),
                                       .peer = &h->peer,
                                       .kv_type = TD_F16,
                                       .n_slots = 2,
                                       .n_ctx = N_CTX,
                                       .max_kv_bytes = 64 << 20,
                                       .prefill = speed(1000),
                                       .decode = speed(100)};
    OK(td_host_open(&h->host, &cfg, h->listener, &err));
    assert_int_equal(pthread_create(&h->thread, NULL, house_main, h), 0);
}

static void close_house(struct house *h)
{
    td_host_stop(h->host);
    pthread_join(h->thread, NULL);
    if (h->code) fail_msg("%s", h->err.msg);
    td_host_close(h->host);
    td_listener_close(h->listener);
    td_engine_close(h->engine);
    td_model_close(h->model);
}

// ---- this side --------------------------------------------------------------------------------

struct home {
    struct rig rig;
    struct td_peer peer;
    struct td_remote *remote;
};

static void open_home(struct home *h, const char *peers, enum td_remote_policy policy)
{
    rig_open(&h->rig, &(struct rig_config){
                          .path = TINY, .n_ctx = N_CTX, .n_slots = 3, .n_queue = 3, .chunk = 32});
    for (uint32_t i = 0; i < 4; i++)
        fill_tokens(g_tokens[i], N_CTX, i + 1, h->rig.model->spec.n_vocab);
    if (!peers) return;
    td_sched_close(h->rig.sched);
    OK(td_peer_init(&h->peer, TD_WIRE_DECODE, &h->rig.model->spec, g_digest, g_digest, TD_F16,
                    &err));
    const struct td_remote_config cfg = {.far = {.key = &g_key,
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

static void close_home(struct home *h)
{
    td_sched_close(h->rig.sched);
    h->rig.sched = NULL;
    td_remote_close(h->remote);
    rig_close(&h->rig);
}

static void ask(struct home *h, struct answer *a, uint32_t i, uint32_t n)
{
    const struct td_job_spec spec = spec_of(g_tokens[i], n, 20);
    answer_begin(a, &spec);
    OK(td_sched_submit(h->rig.sched, a->job, NULL, &err));
}

static void the_answer_is_that_of_one_machine(void **state)
{
    (void)state;
    struct answer here[3], there[3];
    struct home h = {0};
    open_home(&h, NULL, TD_REMOTE_NEVER);
    for (uint32_t i = 0; i < 3; i++) {
        ask(&h, &here[i], i, N);
        answer_read(&here[i]);
        assert_int_equal(here[i].n_remote_progress, 0);
    }
    close_home(&h);

    struct house far;
    open_house(&far, 0);
    h = (struct home){0};
    open_home(&h, far.where, TD_REMOTE_REQUIRE);
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
    close_home(&h);
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
    open_house(&far, 200);
    struct home h = {0};
    open_home(&h, far.where, TD_REMOTE_REQUIRE);
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
    close_home(&h);
    close_house(&far);
}

static void nobody_there(void **state)
{
    (void)state;
    struct home h = {0};
    open_home(&h, "127.0.0.1:1", TD_REMOTE_AUTO);
    struct answer a;
    ask(&h, &a, 0, N);
    answer_read(&a);
    assert_int_equal(a.end, TD_JOB_LENGTH);
    assert_int_equal(a.stats.prefill.path, TD_REMOTE_LOCAL);
    assert_true(a.stats.prefill.reason[0] != '\0');
    answer_end(&a);
    close_home(&h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_answer_is_that_of_one_machine),
        cmocka_unit_test(cancelled_while_it_is_fetched),
        cmocka_unit_test(nobody_there),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
