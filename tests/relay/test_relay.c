// SPDX-License-Identifier: MIT
// Both real ends in one process, over sockets: whatever the lengths, the prefixes, the breaks, the
// answer's logits are those of a machine that read the prompt itself, bit by bit.
#include "fault_proxy.h"
#include "pair_rig.h"

#include <math.h>

static struct td_model *g_other; // the same shape, other weights

static int setup_both(void **state)
{
    g_other = open_model(MODEL ",seed=2");
    return setup(state);
}

static int teardown_both(void **state)
{
    td_model_close(g_other);
    return teardown(state);
}

// Until the prefill side has no request any more.
static void wait_idle_there(struct house *h, struct near *n)
{
    struct td_host_report there;
    const uint64_t t0 = td_clock_ns();
    do {
        nap_ms(5);
        (void)td_far_tend(n->far, 0, NULL);
        td_host_report(h->host, &there);
    } while (there.n_requests > 0 && seconds_since(t0) < SOON_S);
    assert_int_equal(there.n_requests, 0);
}

// A proxy before the prefill side.
static struct fault_proxy *open_proxy(const struct house *h)
{
    struct fault_proxy *proxy = fault_proxy_open("127.0.0.1", 0, "127.0.0.1", h->port);
    assert_non_null(proxy);
    return proxy;
}

// ---- well -------------------------------------------------------------------------------------

static const uint32_t lengths[] = {2,          3,         WINDOW - 1, WINDOW,    WINDOW + 1,
                                   WINDOW + 2, CHUNK - 1, CHUNK,      CHUNK + 1, 3 * CHUNK + 7,
                                   500};

static void bits_are_those_of_a_local_prefill(void **state)
{
    (void)state;
    for (int has_key = 0; has_key < 2; has_key++) {
        struct house h = {.key = has_key ? &key_a : NULL};
        struct near n;
        open_house(&h);
        const struct td_far_config with_canary = {0};
        OK(open_near(&n, h.port, h.key, &with_canary));
        struct td_far_info info;
        td_far_info(n.far, &info);
        assert_true(info.canary_kv_error == 0 && fabs(info.canary_logits_kl) < 1e-9);
        assert_int_equal(info.is_encrypted, has_key);
        assert_false(info.weights_differ);
        for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
            new_tokens(100 + i);
            fetch_all(&n, lengths[i], NULL);
        }
        // The far side has its beginning; this one does not.
        td_session_close(n.session);
        n.session = open_session(n.engine, N_CTX);
        fetch_all(&n, 400, NULL);
        close_near(&n);
        close_house(&h);
    }
}

static void a_prefix_on_either_side_changes_nothing(void **state)
{
    (void)state;
    struct house h = {.key = &key_a};
    struct near n;
    open_house(&h);
    OK(open_near(&n, h.port, &key_a, NULL));
    for (size_t i = 0; i < N_PREFIXES; i++) {
        const uint32_t far = g_prefixes[i][0], near = g_prefixes[i][1];
        new_tokens(200 + i);
        if (far > 1) {
            fetch_all(&n, far + 1, NULL);
            td_session_close(n.session);
            n.session = open_session(n.engine, N_CTX);
        }
        if (near) OK(td_session_sync(n.session, g_tokens, near, NULL, 0, NULL, NULL, &err));
        fetch_all(&n, 3 * CHUNK + 7, NULL);
        // Generated tokens are known here, not there; then the next turn.
        write_answer(n.session, 3 * CHUNK + 7, i % 2 == 0);
        fetch_all(&n, 3 * CHUNK + 7 + N_WRITTEN + 1, NULL);
        fetch_all(&n, 400, NULL);
    }
    close_near(&n);
    close_house(&h);
}

// The next prompt parts from the last one before its end, where sliding-window layers have
// forgotten: either side goes on from the last place that it kept.
static void a_prompt_that_parts_early_goes_on_from_a_checkpoint(void **state)
{
    (void)state;
    struct house h = {.key = &key_a};
    struct near n;
    struct td_fetch_report report;
    open_house(&h);
    OK(open_near(&n, h.port, &key_a, NULL));
    new_tokens(900);
    fetch_all(&n, 200, NULL);
    fetch_all(&n, 590, NULL);
    // Its chunks end at 199 + k * 64, and there its checkpoints are.
    g_tokens[400] = (g_tokens[400] + 1) % N_VOCAB;
    fetch_all(&n, 590, &report);
    assert_int_equal(report.n_far_reused, 199); // the end of its first prompt
    assert_int_equal(report.n_have, 391);
    g_tokens[500] = (g_tokens[500] + 1) % N_VOCAB;
    OK(td_session_sync(n.session, g_tokens, 590, NULL, 0, NULL, NULL, &err)); // nobody is asked
    assert_int_equal(td_session_reused(n.session), 455);
    assert_fresh(g_model, n.session, g_tokens, 590);
    fetch_all(&n, 595, NULL);
    close_near(&n);
    close_house(&h);
}

// All that was read there travels again, to who has nothing of it, and breaks: checkpoints are
// where the other side can return to.
static void checkpoints_of_what_was_read_before_are_kept(void **state)
{
    (void)state;
    struct house h = {.key = NULL};
    open_house(&h);
    struct fault_proxy *proxy = open_proxy(&h);
    const struct fault_plan none = {0};
    fault_proxy_begin(proxy, &none);
    struct near n;
    const struct td_far_config wishes = {
        .resume_ms = 200, .checkpoint_tokens = 100, .no_canary = true};
    OK(open_near(&n, fault_proxy_port(proxy), NULL, &wishes));
    new_tokens(910);
    for (uint32_t k = 1; k <= 3; k++) fetch_all(&n, 150 * k + 1, NULL); // three turns
    close_near(&n);
    // 512 bytes a token: a break behind the second of three.
    struct fault_plan plan = {.n_faults = 1};
    plan.faults[0] = (struct fault){.kind = FAULT_CUT,
                                    .i_conn = 1,
                                    .direction = FAULT_TO_CLIENT,
                                    .at_byte = 185000,
                                    .refuse_ms = 60000,
                                    .is_all = true};
    fault_proxy_begin(proxy, &plan);
    OK(open_near(&n, fault_proxy_port(proxy), NULL, &wishes));
    struct td_fetch_report report;
    assert_int_equal(fetch(&n, 500, &report), TD_FETCH_ENDED);
    // What was said on the control connection may have been cut off.
    assert_true(report.n_far_reused == 450 || report.n_far_reused == 0);
    assert_int_equal(report.n_committed, 300);
    close_near(&n);
    fault_proxy_close(proxy);
    close_house(&h);
}

static void two_requests_share_a_connection(void **state)
{
    (void)state;
    struct house h = {.key = &key_a, .cfg.n_slots = 2, .pace = 4000};
    struct near n;
    open_house(&h);
    OK(open_near(&n, h.port, &key_a, NULL));
    struct td_session *other = open_session(n.engine, N_CTX);
    int32_t tokens[N_CTX];
    new_tokens(301);
    memcpy(tokens, g_tokens, sizeof(tokens));
    new_tokens(302);
    struct td_fetch *f[2];
    OK(td_fetch_begin(&f[0], n.far, n.session, g_tokens, 400, &err));
    OK(td_fetch_begin(&f[1], n.far, other, tokens, 300, &err));
    double rate;
    assert_int_equal(td_far_measure(n.far, 1000, true, &rate, &err), TD_EARG);
    // Whoever is waited for, both go on.
    assert_int_equal(wait_for(f[1]), TD_FETCH_DONE);
    assert_int_equal(wait_for(f[0]), TD_FETCH_DONE);
    td_fetch_end(f[0]);
    td_fetch_end(f[1]);
    read_rest(&n, 400, 399);
    OK(td_session_sync(other, tokens, 300, NULL, 0, NULL, NULL, &err));
    assert_int_equal(td_session_reused(other), 299);
    assert_fresh(g_model, other, tokens, 300);
    OK(td_far_measure(n.far, 1 << 20, true, &rate, &err));
    OK(td_far_measure(n.far, 1 << 20, false, &rate, &err));
    td_session_close(other);
    close_near(&n);
    close_house(&h);
}

static double divergence(const float *a, const float *b)
{
    double sum[2] = {0}, kl = 0;
    for (int i = 0; i < N_VOCAB; i++) sum[0] += exp((double)a[i]), sum[1] += exp((double)b[i]);
    for (int i = 0; i < N_VOCAB; i++) {
        const double p = (double)a[i] - log(sum[0]), q = (double)b[i] - log(sum[1]);
        kl += exp(p) * (p - q);
    }
    return kl;
}

static void q8_0_is_half_the_bytes_and_nearly_the_same(void **state)
{
    (void)state;
    struct house h = {.key = &key_a};
    struct near n;
    open_house(&h);
    const struct td_far_config wishes = {.kv_type = TD_Q8_0};
    OK(open_near(&n, h.port, &key_a, &wishes));
    new_tokens(400);
    for (uint32_t n_tokens = 65; n_tokens <= 465; n_tokens += 200) {
        struct td_fetch *f;
        struct td_fetch_report report;
        OK(td_fetch_begin(&f, n.far, n.session, g_tokens, n_tokens, &err));
        if (wait_for(f) != TD_FETCH_DONE) fail_msg("%s", err.msg);
        td_fetch_report(f, &report);
        td_fetch_end(f);
        OK(td_session_sync(n.session, g_tokens, n_tokens, NULL, 0, NULL, NULL, &err));
        assert_int_equal(td_session_reused(n.session), n_tokens - 1);
        struct td_session *local = open_session(n.engine, N_CTX);
        OK(td_session_sync(local, g_tokens, n_tokens, NULL, 0, NULL, NULL, &err));
        const double kl = divergence(td_session_logits(local), td_session_logits(n.session));
        if (!(kl <= 1e-3)) fail_msg("KL of %u tokens by q8_0: %g", n_tokens, kl);
        td_session_close(local);
    }
    close_near(&n);
    close_house(&h);
}

// ---- not so well ------------------------------------------------------------------------------

static void who_differs_is_refused(void **state)
{
    (void)state;
    struct td_far_info info;
    struct near n;
    const struct td_far_config strict = {0}, lenient = {.peer = &n.peer};
    // Other weights, said so.
    struct house h = {.key = &key_a, .weights = 5, .model = g_other};
    open_house(&h);
    assert_int_equal(open_near(&n, h.port, &key_a, &strict), TD_EARG);
    assert_non_null(strstr(err.msg, "weights"));
    close_near(&n);
    OK(open_near(&n, h.port, &key_a, &lenient));
    td_far_info(n.far, &info);
    assert_true(info.weights_differ && info.canary_kv_error > 0.1 && info.canary_logits_kl > 0.1);
    close_near(&n);
    assert_int_equal(open_near(&n, h.port, &key_b, &lenient), TD_EIO); // another key
    close_near(&n);
    close_house(&h);
    // Other weights, not said.
    h = (struct house){.key = &key_a, .model = g_other};
    open_house(&h);
    assert_int_equal(open_near(&n, h.port, &key_a, &strict), TD_EARG);
    assert_non_null(strstr(err.msg, "does not compute what this machine does"));
    close_near(&n);
    close_house(&h);
    // The same weights by other arithmetic are within the tolerance.
    h = (struct house){.key = &key_a, .is_high = true};
    open_house(&h);
    OK(open_near(&n, h.port, &key_a, &strict));
    td_far_info(n.far, &info);
    assert_true(info.canary_kv_error > 0 && info.canary_kv_error < 2e-2);
    close_near(&n);
    close_house(&h);
}

static void a_cancelled_request_ends_there_too(void **state)
{
    (void)state;
    struct house h = {.pace = 500};
    struct near n;
    open_house(&h);
    OK(open_near(&n, h.port, NULL, NULL));
    new_tokens(500);
    struct td_fetch *f;
    struct td_fetch_report report;
    OK(td_fetch_begin(&f, n.far, n.session, g_tokens, 500, &err));
    do {
        assert_int_equal(td_fetch_poll(f, 50, &err), TD_FETCH_RUNNING);
        td_fetch_report(f, &report);
    } while (report.n_committed == 0);
    td_fetch_cancel(f);
    assert_int_equal(td_fetch_poll(f, 0, &err), TD_FETCH_ENDED);
    assert_int_equal(err.code, TD_ECANCEL);
    td_fetch_end(f);
    read_rest(&n, 500, report.n_committed);
    wait_idle_there(&h, &n);
    new_tokens(501);
    fetch_all(&n, 70, NULL);
    close_near(&n);
    close_house(&h);
}

static void cancel_at_mark(void *ctx, uint32_t i_fault, const struct fault *fault)
{
    (void)i_fault;
    struct td_fetch **f = ctx;
    if (fault->kind == FAULT_MARK) td_fetch_cancel(*f);
}

// Cancelled while the connection is being made anew: the far side hears of it all the same.
static void a_cancel_in_a_break_is_told(void **state)
{
    (void)state;
    struct house h = {.cfg.lease_ms = 600000, .pace = 2000};
    open_house(&h);
    struct fault_proxy *proxy = open_proxy(&h);
    struct td_fetch *f;
    fault_proxy_watch(proxy, &f, cancel_at_mark);
    // Connection 0 is control, 1 data, 2 control again.
    const struct fault_plan plan = {.n_faults = 2,
                                    .faults = {{.kind = FAULT_CUT,
                                                .i_conn = 1,
                                                .direction = FAULT_TO_CLIENT,
                                                .at_byte = 60000,
                                                .is_all = true},
                                               {.kind = FAULT_MARK,
                                                .i_conn = 2,
                                                .direction = FAULT_TO_CLIENT,
                                                .at_byte = 1,
                                                .ms = 50}}};
    fault_proxy_begin(proxy, &plan);
    struct near n;
    OK(open_near(&n, fault_proxy_port(proxy), NULL, NULL));
    new_tokens(800);
    OK(td_fetch_begin(&f, n.far, n.session, g_tokens, 500, &err));
    assert_int_equal(wait_for(f), TD_FETCH_ENDED);
    assert_int_equal(err.code, TD_ECANCEL);
    wait_idle_there(&h, &n);
    assert_true(td_far_is_up(n.far)); // nobody went away
    td_fetch_end(f);
    close_near(&n);
    fault_proxy_close(proxy);
    close_house(&h);
}

// A break during the canary is no verdict: it is tried again.
static void a_break_during_the_canary_is_no_verdict(void **state)
{
    (void)state;
    struct house h = {.key = NULL};
    open_house(&h);
    struct fault_proxy *proxy = open_proxy(&h);
    const struct fault_plan plan = {
        .n_faults = 2,
        .faults = {
            {.kind = FAULT_CUT, .i_conn = 1, .direction = FAULT_TO_CLIENT, .at_byte = 3000},
            {.kind = FAULT_CUT, .i_conn = 2, .direction = FAULT_TO_CLIENT, .at_byte = 1500}}};
    fault_proxy_begin(proxy, &plan);
    struct near n;
    const struct td_far_config with_canary = {0};
    OK(open_near(&n, fault_proxy_port(proxy), NULL, &with_canary));
    struct fault_count count;
    fault_proxy_count(proxy, &count);
    assert_true(count.n_conns > 2); // broken, by the plan or by a machine that is too slow for it
    new_tokens(810);
    fetch_all(&n, 200, NULL);
    close_near(&n);
    fault_proxy_close(proxy);
    close_house(&h);
}

// A prompt that takes longer than the silence after which a peer counts as dead.
static void slow_is_not_dead(void **state)
{
    (void)state;
    struct house h = {.pace = 150};
    open_house(&h);
    struct near n;
    const struct td_far_config wishes = {.silent_ms = 1200, .no_canary = true};
    OK(open_near(&n, h.port, NULL, &wishes));
    new_tokens(820);
    struct td_fetch_report report;
    if (fetch(&n, 400, &report) != TD_FETCH_DONE) fail_msg("%s", err.msg);
    assert_true(report.seconds > 2);
    close_near(&n);
    close_house(&h);
}

// The connection breaks, and who answers then says nothing: no handshake is waited for beyond the
// time in which a break is mended.
static void a_break_is_not_mended_for_ever(void **state)
{
    (void)state;
    struct house h = {.pace = 2000};
    open_house(&h);
    struct fault_proxy *proxy = open_proxy(&h);
    const struct fault_plan plan = {.n_faults = 2,
                                    .faults = {{.kind = FAULT_CUT,
                                                .i_conn = 1,
                                                .direction = FAULT_TO_CLIENT,
                                                .at_byte = 60000,
                                                .is_all = true},
                                               {.kind = FAULT_STALL,
                                                .i_conn = 2,
                                                .direction = FAULT_TO_CLIENT,
                                                .at_byte = 1,
                                                .ms = 3600000}}};
    fault_proxy_begin(proxy, &plan);
    struct near n;
    const struct td_far_config wishes = {
        .resume_ms = 300, .silent_ms = 3600000, .limits.stall_ms = 3600000, .no_canary = true};
    OK(open_near(&n, fault_proxy_port(proxy), NULL, &wishes));
    new_tokens(830);
    struct td_fetch_report report;
    assert_int_equal(fetch(&n, 500, &report), TD_FETCH_ENDED);
    assert_true(report.n_committed > 0);
    close_near(&n);
    fault_proxy_close(proxy);
    close_house(&h);
}

// Cut, reset or damaged at many bytes of either connection: goes on where it was.
static void a_broken_link_is_mended(void **state)
{
    (void)state;
    struct house h = {.cfg.lease_ms = 20000};
    open_house(&h);
    struct fault_proxy *proxy = open_proxy(&h);
    uint32_t n_resumed = 0, n_hit = 0;
    for (uint32_t i = 0; i < 40; i++) {
        // Connection 0 is control, 1 data.
        struct fault_plan plan = {.n_faults = 1};
        const bool is_data = i % 4 != 3;
        plan.faults[0] = (struct fault){.kind = i % 3 == 0   ? FAULT_CUT
                                                : i % 3 == 1 ? FAULT_RESET
                                                             : FAULT_FLIP,
                                        .i_conn = is_data,
                                        .direction = FAULT_TO_CLIENT,
                                        .at_byte = is_data ? 500 + i * 7919u : 700 + i * 13u};
        fault_proxy_begin(proxy, &plan);
        struct near n;
        if (open_near(&n, fault_proxy_port(proxy), NULL, NULL)) {
            close_near(&n); // broke before there was anything to mend
            continue;
        }
        new_tokens(600 + i);
        struct td_fetch_report report;
        const enum td_fetch_state end = fetch(&n, 400, &report);
        if (end != TD_FETCH_DONE) fail_msg("run %u: %s", i, err.msg);
        n_resumed += report.n_resumed;
        struct fault_count count;
        fault_proxy_count(proxy, &count);
        n_hit += count.n_hit;
        close_near(&n);
    }
    fault_proxy_close(proxy);
    close_house(&h);
    if (n_resumed < 20) fail_msg("%u of %u breaks were mended", n_resumed, n_hit);
}

// Both connections end for good while whole checkpoints are still unread: they are kept.
static void what_came_before_the_end_is_kept(void **state)
{
    (void)state;
    struct house h = {0};
    open_house(&h);
    struct fault_proxy *proxy = open_proxy(&h);
    // 400 tokens are about 200 KiB.
    for (uint32_t i = 0; i < 4; i++) {
        struct fault_plan plan = {.n_faults = 1};
        plan.faults[0] = (struct fault){.kind = FAULT_CUT,
                                        .i_conn = 1,
                                        .direction = FAULT_TO_CLIENT,
                                        .at_byte = 100000 + 10000 * i,
                                        .refuse_ms = 60000,
                                        .is_all = true};
        fault_proxy_begin(proxy, &plan);
        struct near n;
        const struct td_far_config wishes = {.resume_ms = 200, .no_canary = true};
        OK(open_near(&n, fault_proxy_port(proxy), NULL, &wishes));
        new_tokens(650 + i);
        struct td_fetch_report report;
        assert_int_equal(fetch(&n, 400, &report), TD_FETCH_ENDED);
        if (report.n_committed < 2 * CHUNK || report.bytes < 70000)
            fail_msg("%u positions of %llu bytes are whole: %s", report.n_committed,
                     (unsigned long long)report.bytes, err.msg);
        close_near(&n);
    }
    fault_proxy_close(proxy);
    close_house(&h);
}

// The process there is another one: what is whole stays, the rest is read here.
static void a_restarted_peer_leaves_what_is_whole(void **state)
{
    (void)state;
    struct house h = {.key = &key_a, .pace = 400};
    struct near n;
    open_house(&h);
    OK(open_near(&n, h.port, &key_a, NULL));
    new_tokens(700);
    struct td_fetch *f;
    struct td_fetch_report report;
    OK(td_fetch_begin(&f, n.far, n.session, g_tokens, 500, &err));
    do {
        assert_int_equal(td_fetch_poll(f, 50, &err), TD_FETCH_RUNNING);
        td_fetch_report(f, &report);
    } while (report.n_committed == 0);
    close_house(&h);
    open_house(&h);
    assert_int_equal(wait_for(f), TD_FETCH_ENDED);
    assert_int_equal(err.code, TD_EIO);
    td_fetch_report(f, &report);
    td_fetch_end(f);
    assert_true(report.n_committed >= CHUNK && report.n_committed < 499);
    read_rest(&n, 500, report.n_committed);
    new_tokens(701);
    fetch_all(&n, 70, NULL); // it serves the next
    close_near(&n);
    close_house(&h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bits_are_those_of_a_local_prefill),
        cmocka_unit_test(a_prefix_on_either_side_changes_nothing),
        cmocka_unit_test(a_prompt_that_parts_early_goes_on_from_a_checkpoint),
        cmocka_unit_test(checkpoints_of_what_was_read_before_are_kept),
        cmocka_unit_test(two_requests_share_a_connection),
        cmocka_unit_test(q8_0_is_half_the_bytes_and_nearly_the_same),
        cmocka_unit_test(who_differs_is_refused),
        cmocka_unit_test(a_cancelled_request_ends_there_too),
        cmocka_unit_test(a_cancel_in_a_break_is_told),
        cmocka_unit_test(a_break_during_the_canary_is_no_verdict),
        cmocka_unit_test(slow_is_not_dead),
        cmocka_unit_test(a_break_is_not_mended_for_ever),
        cmocka_unit_test(a_broken_link_is_mended),
        cmocka_unit_test(what_came_before_the_end_is_kept),
        cmocka_unit_test(a_restarted_peer_leaves_what_is_whole),
    };
    return cmocka_run_group_tests(tests, setup_both, teardown_both);
}
