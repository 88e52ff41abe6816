// SPDX-License-Identifier: MIT
// Where a prompt is read: by measured speeds, by policy, at the peer that answers, and always with
// the bits of a prompt read here.
#include "pair_rig.h"

#include <netinet/in.h>
#include <sys/socket.h>
#include <time.h>

enum { N = 300 };

// Told: what it believes of its speed.
static struct house house_of(double told_tokens_per_s, double pace, uint32_t n_slots)
{
    return (struct house){.key = &key_a,
                          .pace = pace,
                          .cfg = {.n_slots = n_slots,
                                  .max_kv_bytes = 4 << 20,
                                  .prefill = speed(told_tokens_per_s),
                                  .decode = speed(100)}};
}

static void open_far(struct house *h)
{
    *h = house_of(1000, 0, 1);
    open_house(h);
}

static struct home home_of(enum td_remote_policy policy, double prefill_tokens_per_s)
{
    return (struct home){
        .policy = policy,
        .far = {.key = &key_a, .prefill = speed(prefill_tokens_per_s), .decode = speed(100)}};
}

static void open_home_of(struct home *h, const char *peers, enum td_remote_policy policy,
                         double prefill_tokens_per_s)
{
    *h = home_of(policy, prefill_tokens_per_s);
    open_home(h, peers);
}

static int read_prompt(struct home *h, uint32_t n)
{
    const struct td_remote_ask ask = {.tokens = g_tokens, .n = n, .n_answer = 16};
    return td_remote_sync(h->remote, h->session, &ask, &h->stats, &err);
}

static void the_faster_side_reads(void **state)
{
    (void)state;
    struct house far;
    open_far(&far);
    struct home h;
    open_home_of(&h, far.where, TD_REMOTE_AUTO, 1); // a snail: it would take five minutes
    OK(read_prompt(&h, N));
    assert_read(&h, N, TD_REMOTE_REMOTE);
    assert_int_equal(h.stats.n_remote, N - 1);
    assert_int_equal(h.stats.n_local, 1);
    assert_true(h.stats.bytes > 0 && h.stats.predicted_seconds > 0 && h.stats.far_seconds > 0);
    assert_true(h.stats.overlap >= 0 && h.stats.overlap <= 1);
    // The next turn sends what is new.
    OK(read_prompt(&h, N + 120));
    assert_read(&h, N + 120, TD_REMOTE_REMOTE);
    assert_int_equal(h.stats.n_have, N);
    // The same again asks no one.
    OK(read_prompt(&h, N + 120));
    assert_read(&h, N + 120, TD_REMOTE_LOCAL);
    close_home(&h);

    open_home_of(&h, far.where, TD_REMOTE_AUTO, 1e6); // done before a peer is reached
    OK(read_prompt(&h, N));
    assert_read(&h, N, TD_REMOTE_LOCAL);
    close_home(&h);
    open_home_of(&h, far.where, TD_REMOTE_AUTO, 1e6);
    struct td_far *peer; // reached already, and slower
    OK(td_remote_peer(h.remote, 0, &peer, &err));
    OK(read_prompt(&h, N));
    assert_read(&h, N, TD_REMOTE_LOCAL);
    assert_non_null(strstr(h.stats.reason, far.where));
    assert_int_equal(h.stats.bytes, 0);
    close_home(&h);
    close_house(&far);
}

static void policies_are_kept(void **state)
{
    (void)state;
    struct house far;
    open_far(&far);
    struct home h;
    open_home_of(&h, far.where, TD_REMOTE_NEVER, 1);
    OK(read_prompt(&h, N));
    assert_read(&h, N, TD_REMOTE_LOCAL);
    assert_string_equal(h.stats.reason, "policy never");
    close_home(&h);
    open_home_of(&h, far.where, TD_REMOTE_REQUIRE, 1e9); // it would be faster here
    OK(read_prompt(&h, N));
    assert_read(&h, N, TD_REMOTE_REMOTE);
    close_home(&h);
    close_house(&far);
}

// An address at which nobody listens.
static void nobody(char out[32])
{
    struct td_listener *l;
    OK(td_listener_open(&l, "127.0.0.1:0", &key_a, NULL, &err));
    (void)snprintf(out, 32, "127.0.0.1:%u", td_listener_port(l));
    td_listener_close(l);
}

static void without_a_peer_auto_goes_on_and_require_says_why(void **state)
{
    (void)state;
    char where[32];
    nobody(where);
    struct home h;
    open_home_of(&h, where, TD_REMOTE_AUTO, 1);
    OK(read_prompt(&h, N));
    assert_read(&h, N, TD_REMOTE_LOCAL);
    assert_non_null(strstr(h.stats.reason, where));
    close_home(&h);
    open_home_of(&h, where, TD_REMOTE_REQUIRE, 1);
    assert_int_not_equal(read_prompt(&h, N), TD_OK);
    assert_non_null(strstr(err.msg, where));
    assert_int_equal(td_session_state(h.session), TD_SESSION_IDLE);
    OK(td_session_sync(h.session, g_tokens, 20, NULL, 0, NULL, NULL, &err)); // still of use
    close_home(&h);
}

static void the_next_peer_is_asked(void **state)
{
    (void)state;
    char dead[32], peers[128];
    nobody(dead);
    struct house far;
    open_far(&far);
    (void)snprintf(peers, sizeof(peers), "%s, %s", dead, far.where);
    struct home h;
    open_home_of(&h, peers, TD_REMOTE_AUTO, 1);
    OK(read_prompt(&h, N));
    assert_read(&h, N, TD_REMOTE_REMOTE);
    assert_string_equal(h.stats.peer, far.where);
    struct td_far *peer;
    assert_int_equal(td_remote_peer(h.remote, 2, &peer, &err), TD_EARG);
    assert_int_not_equal(td_remote_peer(h.remote, 0, &peer, &err), TD_OK);
    OK(td_remote_peer(h.remote, 1, &peer, &err));
    close_home(&h);
    close_house(&far);
}

static bool stop_at_once(void *ctx, const struct td_fetch_report *report)
{
    (void)ctx;
    (void)report;
    return false;
}

// Every answer that uses KV of other weights says so, also those of later turns.
static void other_weights_are_said_as_long_as_they_count(void **state)
{
    (void)state;
    struct house far;
    far = house_of(1000, 0, 1);
    far.weights = 2;
    open_house(&far);
    struct home h;
    open_home_of(&h, far.where, TD_REMOTE_AUTO, 1);
    OK(read_prompt(&h, N)); // refused: the flag is not set
    assert_read(&h, N, TD_REMOTE_LOCAL);
    assert_false(h.stats.weights_differ);
    close_home(&h);
    h = home_of(TD_REMOTE_AUTO, 1);
    h.flags = TD_WIRE_ALLOW_WEIGHTS;
    open_home(&h, far.where);
    OK(read_prompt(&h, N));
    assert_read(&h, N, TD_REMOTE_REMOTE);
    assert_true(h.stats.weights_differ);
    OK(read_prompt(&h, N + 1)); // a turn that asks no one
    assert_read(&h, N + 1, TD_REMOTE_LOCAL);
    assert_true(h.stats.weights_differ);
    const int32_t kept = g_tokens[0];
    g_tokens[0] = (kept + 1) % N_VOCAB; // another conversation, read here
    close_house(&far);
    OK(read_prompt(&h, N));
    assert_read(&h, N, TD_REMOTE_LOCAL);
    assert_false(h.stats.weights_differ);
    g_tokens[0] = kept;
    close_home(&h);
}

static void a_cancelled_prompt_leaves_the_session_usable(void **state)
{
    (void)state;
    struct house far;
    far = house_of(1000, 200, 1);
    open_house(&far);
    struct home h;
    open_home_of(&h, far.where, TD_REMOTE_REQUIRE, 1);
    const struct td_remote_ask ask = {
        .tokens = g_tokens, .n = 500, .remote_progress = stop_at_once};
    assert_int_equal(td_remote_sync(h.remote, h.session, &ask, &h.stats, &err), TD_ECANCEL);
    assert_int_equal(td_session_state(h.session), TD_SESSION_IDLE);
    OK(read_prompt(&h, N));
    assert_read(&h, N, h.stats.path);
    close_home(&h);
    close_house(&far);
}

// ---- without waiting --------------------------------------------------------------------------

static void nap(void)
{
    const struct timespec t = {.tv_nsec = 2000000};
    nanosleep(&t, NULL);
}

// One round of a scheduler: rows of whoever wants some; a moment's rest when nobody does.
static void one_round(struct home *h)
{
    uint32_t n_rows;
    (void)td_remote_tend(h->remote);
    OK(td_engine_step(h->engine, &n_rows, &err));
    if (n_rows == 0) nap();
}

static void wait_until_up(struct home *h, uint32_t i_peer)
{
    struct td_far *far;
    for (int i = 0; i < 5000 && !td_remote_is_up(h->remote, i_peer); i++) one_round(h);
    assert_true(td_remote_is_up(h->remote, i_peer));
    OK(td_remote_peer(h->remote, i_peer, &far, &err));
}

// Polls until it is known who reads; other sessions go on.
static enum td_remote_state rounds(struct home *h, struct td_remote_try *t)
{
    enum td_remote_state state;
    while ((state = td_remote_poll(t, 0, &err)) == TD_REMOTE_RUNNING) one_round(h);
    return state;
}

static void finish_try(struct home *h, struct td_remote_try *t, struct td_session *s)
{
    while (td_session_state(s) == TD_SESSION_PREFILLING) one_round(h);
    assert_int_equal(td_session_state(s), TD_SESSION_READY);
    td_remote_end(t, &h->stats);
}

static void others_go_on_while_prompts_are_fetched(void **state)
{
    (void)state;
    enum { N_OTHER = 40 };
    struct house far;
    far = house_of(1000, 2000, 2);
    open_house(&far);
    struct home h;
    open_home_of(&h, far.where, TD_REMOTE_AUTO, 1);
    struct td_session *second = open_session(h.engine, N_CTX), *writer = open_session(h.engine, 64);
    wait_until_up(&h, 0); // the canary's rows went with the rounds
    OK(td_session_sync(writer, g_tokens, 10, NULL, 0, NULL, NULL, &err));
    const struct td_remote_ask ask = {.tokens = g_tokens, .n = N, .n_answer = 16};
    const struct td_remote_ask other = {.tokens = g_tokens + N_OTHER, .n = N, .n_answer = 16};
    struct td_remote_try *a, *b;
    OK(td_remote_begin(&a, h.remote, h.session, &ask, &err));
    OK(td_remote_begin(&b, h.remote, second, &other, &err));
    uint32_t n_written = 0;
    bool is_both = false;
    enum td_remote_state at_a = TD_REMOTE_RUNNING, at_b = TD_REMOTE_RUNNING;
    while (at_a == TD_REMOTE_RUNNING || at_b == TD_REMOTE_RUNNING) {
        at_a = td_remote_poll(a, 0, &err);
        at_b = td_remote_poll(b, 0, &err);
        is_both = is_both || (at_a == TD_REMOTE_RUNNING && at_b == TD_REMOTE_RUNNING);
        struct td_fetch_report report;
        td_remote_report(a, &report);
        assert_int_equal(report.n_tokens, N);
        assert_true(report.n_committed < N);
        if (td_session_state(writer) == TD_SESSION_READY && n_written < 50)
            OK(td_session_append(writer, g_tokens[10 + n_written++], &err));
        one_round(&h);
    }
    assert_true(is_both);
    assert_true(n_written > 1); // it went on writing meanwhile
    assert_int_equal(at_a, TD_REMOTE_READY);
    assert_int_equal(at_b, TD_REMOTE_READY);
    finish_try(&h, a, h.session);
    assert_read(&h, N, TD_REMOTE_REMOTE);
    assert_true(h.stats.seconds > 0 && h.stats.n_local == 1);
    finish_try(&h, b, second);
    assert_int_equal(h.stats.path, TD_REMOTE_REMOTE);
    assert_fresh(g_model, second, g_tokens + N_OTHER, N);
    while (td_session_state(writer) != TD_SESSION_READY) one_round(&h);
    assert_fresh(g_model, writer, g_tokens, 10 + n_written);
    td_session_close(second);
    td_session_close(writer);
    close_home(&h);
    close_house(&far);
}

// One slot there, and reading here takes minutes: the second prompt waits for the first.
static void a_slot_is_waited_for_if_that_pays(void **state)
{
    (void)state;
    struct house far;
    far = house_of(1000, 2000, 1);
    open_house(&far);
    struct home h;
    open_home_of(&h, far.where, TD_REMOTE_AUTO, 1);
    struct td_session *second = open_session(h.engine, N_CTX);
    wait_until_up(&h, 0);
    const struct td_remote_ask ask = {.tokens = g_tokens, .n = N, .n_answer = 16};
    const struct td_remote_ask other = {.tokens = g_tokens + 40, .n = N, .n_answer = 16};
    struct td_remote_try *a, *b;
    OK(td_remote_begin(&a, h.remote, h.session, &ask, &err));
    OK(td_remote_begin(&b, h.remote, second, &other, &err));
    enum td_remote_state at_a = TD_REMOTE_RUNNING, at_b = TD_REMOTE_RUNNING;
    while (at_a == TD_REMOTE_RUNNING || at_b == TD_REMOTE_RUNNING) {
        at_a = td_remote_poll(a, 0, &err);
        at_b = td_remote_poll(b, 0, &err);
        one_round(&h);
    }
    finish_try(&h, a, h.session);
    assert_read(&h, N, TD_REMOTE_REMOTE);
    finish_try(&h, b, second);
    assert_int_equal(h.stats.path, TD_REMOTE_REMOTE);
    assert_fresh(g_model, second, g_tokens + 40, N);
    td_session_close(second);
    close_home(&h);
    close_house(&far);
}

static void a_peer_that_is_not_up_is_not_waited_for(void **state)
{
    (void)state;
    struct house far;
    open_far(&far);
    struct home h;
    open_home_of(&h, far.where, TD_REMOTE_AUTO, 1);
    const struct td_remote_ask ask = {.tokens = g_tokens, .n = N, .n_answer = 16};
    struct td_remote_try *t;
    OK(td_remote_begin(&t, h.remote, h.session, &ask, &err));
    assert_int_equal(td_remote_poll(t, 0, &err), TD_REMOTE_HERE);
    finish_try(&h, t, h.session);
    assert_read(&h, N, TD_REMOTE_LOCAL);
    assert_non_null(strstr(h.stats.reason, far.where));
    wait_until_up(&h, 0);
    const struct td_remote_ask next = {.tokens = g_tokens, .n = N + 100, .n_answer = 16};
    OK(td_remote_begin(&t, h.remote, h.session, &next, &err));
    assert_int_equal(rounds(&h, t), TD_REMOTE_READY);
    finish_try(&h, t, h.session);
    assert_read(&h, N + 100, TD_REMOTE_REMOTE);
    assert_int_equal(h.stats.n_have, N);
    close_home(&h);
    close_house(&far);
}

// A cancelled try, and one that is ended while it runs.
static void a_try_that_ends_leaves_the_session_idle(void **state)
{
    (void)state;
    struct house far;
    far = house_of(1000, 200, 1);
    open_house(&far);
    struct home h;
    open_home_of(&h, far.where, TD_REMOTE_REQUIRE, 1);
    const struct td_remote_ask ask = {.tokens = g_tokens, .n = 500, .n_answer = 16};
    struct td_remote_try *t;
    OK(td_remote_begin(&t, h.remote, h.session, &ask, &err)); // waits for the peer: require
    struct td_fetch_report report = {0};
    while (report.n_far_computed == 0) {
        assert_int_equal(td_remote_poll(t, 0, &err), TD_REMOTE_RUNNING);
        one_round(&h);
        td_remote_report(t, &report);
    }
    td_remote_cancel(t);
    assert_int_equal(rounds(&h, t), TD_REMOTE_FAILED);
    assert_int_equal(err.code, TD_ECANCEL);
    td_remote_end(t, &h.stats);
    assert_int_equal(td_session_state(h.session), TD_SESSION_IDLE);
    OK(td_remote_begin(&t, h.remote, h.session, &ask, &err));
    assert_int_equal(td_remote_poll(t, 0, &err), TD_REMOTE_RUNNING);
    td_remote_end(t, NULL);
    assert_int_equal(td_session_state(h.session), TD_SESSION_IDLE);
    OK(read_prompt(&h, N));
    assert_read(&h, N, TD_REMOTE_REMOTE);
    close_home(&h);
    close_house(&far);
}

// With all the time of the world for a handshake.
static void open_patient(struct home *h, const char *peers, enum td_remote_policy policy)
{
    *h = home_of(policy, 1);
    h->far.limits.handshake_ms = 3600000;
    open_home(h, peers);
}

// A peer that takes connections and says nothing holds nobody up: not the rounds, not the next
// peer, not the end.
static void a_peer_that_swallows_everything_costs_no_wait(void **state)
{
    (void)state;
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t at_bytes = sizeof(at);
    assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof(at)), 0);
    assert_int_equal(listen(fd, 16), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &at_bytes), 0);
    struct house far;
    open_far(&far);
    char peers[64];
    (void)snprintf(peers, sizeof(peers), "127.0.0.1:%u,%s", ntohs(at.sin_port), far.where);
    struct home h;
    open_patient(&h, peers, TD_REMOTE_AUTO); // who waits for it never ends
    OK(read_prompt(&h, N));                  // waits a moment, then goes without it
    assert_read(&h, N, TD_REMOTE_REMOTE);
    assert_string_equal(h.stats.peer, far.where);
    close_home(&h);
    // Who is told to stop does, also while nobody has answered yet.
    (void)snprintf(peers, sizeof(peers), "127.0.0.1:%u", ntohs(at.sin_port));
    open_patient(&h, peers, TD_REMOTE_REQUIRE);
    const struct td_remote_ask ask = {.tokens = g_tokens, .n = N, .remote_progress = stop_at_once};
    assert_int_equal(td_remote_sync(h.remote, h.session, &ask, &h.stats, &err), TD_ECANCEL);
    close_home(&h);
    (void)snprintf(peers, sizeof(peers), "127.0.0.1:%u,%s", ntohs(at.sin_port), far.where);
    open_patient(&h, peers, TD_REMOTE_AUTO);
    wait_until_up(&h, 1);
    for (int i = 0; i < 20; i++) one_round(&h);
    assert_false(td_remote_is_up(h.remote, 0));
    assert_true(td_remote_is_up(h.remote, 1));
    close_home(&h);
    close_house(&far);
    close(fd);
}

static void a_list_of_peers_is_checked(void **state)
{
    (void)state;
    static const char *const bad[] = {"",  ",",  "a:1,,b:2", "a:1,",
                                      "a", "a:", ":1",       "a:1,b:1,c:1,d:1,e:1,f:1,g:1,h:1,i:1"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct td_remote *r;
        const struct td_remote_config cfg = {.peers = bad[i]};
        assert_int_equal(td_remote_open(&r, &cfg, &err), TD_EARG);
        assert_null(r);
        assert_non_null(strstr(err.msg, "--prefill"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_faster_side_reads),
        cmocka_unit_test(policies_are_kept),
        cmocka_unit_test(without_a_peer_auto_goes_on_and_require_says_why),
        cmocka_unit_test(the_next_peer_is_asked),
        cmocka_unit_test(other_weights_are_said_as_long_as_they_count),
        cmocka_unit_test(a_cancelled_prompt_leaves_the_session_usable),
        cmocka_unit_test(others_go_on_while_prompts_are_fetched),
        cmocka_unit_test(a_slot_is_waited_for_if_that_pays),
        cmocka_unit_test(a_peer_that_is_not_up_is_not_waited_for),
        cmocka_unit_test(a_try_that_ends_leaves_the_session_idle),
        cmocka_unit_test(a_peer_that_swallows_everything_costs_no_wait),
        cmocka_unit_test(a_list_of_peers_is_checked),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
