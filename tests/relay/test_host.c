// SPDX-License-Identifier: MIT
// The prefill side against a scripted peer: good requests give the bits of a local prefill, broken
// ones go on where they were, bad ones are told why and cost nothing that stays.
#include "host_rig.h"

#include <stdatomic.h>

// ---- tests ------------------------------------------------------------------------------------

static void good_requests_give_the_bits_of_a_local_prefill(void **state)
{
    (void)state;
    struct house h;
    open_house_as(&h, &(struct td_host_config){.progress_ms = 20}, &key_a);
    struct client c;
    open_client(&c, &h, &key_a);
    fetch_well(&c, 2);
    fetch_well(&c, 3 * CHUNK + 7);
    fetch_well(&c, 500); // a prefix on both sides
    assert_true(c.accept.n_reused > 0);
    assert_true(c.accept.kv_bytes > 0);
    close_client(&c, true);
    struct client d; // nothing here, all there
    open_client(&d, &h, &key_a);
    fetch_well(&d, 500);
    assert_int_equal(d.accept.n_reused, 498);
    while (d.n_pings == 0) assert_true(take_control(&d, 20)); // the heartbeat of an idle session
    close_client(&d, true);
    wait_idle(&h);
    struct td_host_report report;
    td_host_report(h.host, &report);
    assert_int_equal(report.n_done, 4);
    assert_int_equal(report.n_ended, 0);
    while (h.n_events[TD_HOST_CAME] < 2) nap_ms(1); // told soon
    close_house(&h);
}

// A request whose tokens follow, and why it is refused.
static void refused(struct client *c, struct td_wire_msg msg, uint16_t reason)
{
    send_msg(&c->control, msg);
    send_tokens(c, td_min_u32(msg.u.request.n_tokens, N_CTX));
    expect_error(c, reason);
}

static void bad_requests_are_told_why(void **state)
{
    (void)state;
    struct house h;
    open_house_as(&h, &(struct td_host_config){.progress_ms = 20}, NULL);
    struct client c;
    open_client(&c, &h, NULL);
    struct td_wire_msg msg = request_of(&c, 300, 100);
    msg.u.request.have_sum ^= 1;
    refused(&c, msg, TD_WIRE_E_FORMAT);
    msg = request_of(&c, 300, 100);
    msg.u.request.tokens_sum ^= 1;
    refused(&c, msg, TD_WIRE_E_FORMAT);
    msg = request_of(&c, 300, 0);
    msg.u.request.n_tokens = N_CTX + 1;
    refused(&c, msg, TD_WIRE_E_BUDGET);
    msg = request_of(&c, 300, 0);
    msg.u.request.n_tokens = TD_WIRE_MAX_TOKENS;
    refused(&c, msg, TD_WIRE_E_BUDGET);
    msg = request_of(&c, 300, 0);
    msg.h.kv_type = TD_F32;
    refused(&c, msg, TD_WIRE_E_KV_TYPE);
    const int32_t kept = g_tokens[50];
    g_tokens[50] = N_VOCAB;
    refused(&c, request_of(&c, 300, 0), TD_WIRE_E_FORMAT);
    g_tokens[50] = kept;
    fetch_well(&c, 300); // the session goes on
    wait_idle(&h);
    close_client(&c, true);
    close_house(&h);
}

static void a_cancelled_request_gives_its_slot_back(void **state)
{
    (void)state;
    struct house h;
    open_house_as(&h, &(struct td_host_config){.progress_ms = 20}, &key_a);
    struct client c;
    open_client(&c, &h, &key_a);
    for (uint32_t i = 0; i < 4; i++) {
        // Before its tokens are there, before it begins, and while it runs.
        send_msg(&c.control, request_of(&c, 600, 0));
        if (i > 0) send_tokens(&c, 600);
        if (i > 1) nap_ms(i * 5);
        send_msg(&c.control, (struct td_wire_msg){.h = {.type = TD_WIRE_CANCEL, .request = c.id}});
        expect_error(&c, TD_WIRE_E_CANCELED);
    }
    cut_one(&c.link[1], &c.data); // with what was on its way
    join_data(&c);
    fetch_well(&c, 600);
    wait_idle(&h);
    close_client(&c, true);
    close_house(&h);
}

// ---- breaks -----------------------------------------------------------------------------------

// How the next connection comes to be.
enum again { BOTH, ONLY_DATA, UNNOTICED, N_AGAIN };

static void connect_again(struct client *c, enum again how)
{
    if (how == BOTH) cut(c);
    if (how == ONLY_DATA) cut_one(&c->link[1], &c->data);
    struct client before = *c; // the host still takes these to be alive
    if (how != ONLY_DATA) connect_control(c);
    join_data(c);
    send_resume(c, c->first_token);
    if (how == UNNOTICED) cut(&before);
}

static void a_broken_request_goes_on_where_it_was(void **state)
{
    (void)state;
    for (uint32_t at = 1;; at++) {
        struct house h;
        open_house_as(&h, &(struct td_host_config){.progress_ms = 20, .n_queue = at % 4},
                      at % 2 ? &key_a : NULL);
        struct client c;
        open_client(&c, &h, at % 2 ? &key_a : NULL);
        c.checkpoint_tokens = CHUNK;
        c.cut_after = at;
        ask(&c, 300);
        int code = receive(&c);
        const bool is_cut = code != TD_OK;
        if (is_cut) {
            connect_again(&c, (enum again)(at % N_AGAIN));
            if (at > 3) { // once more
                c.cut_after = at + 3;
                code = receive(&c);
                if (code) connect_again(&c, BOTH);
            }
            c.cut_after = 0;
            if (code) code = receive(&c);
            if (code) fail_msg("cut after %u: %s; %s; %s", at, err.msg, c.data_err.msg, c.text);
            while (!c.is_accepted) assert_true(take_control(&c, SOON_MS));
            struct td_host_report report;
            td_host_report(h.host, &report);
            assert_true(report.n_resumed >= 1);
        }
        finish(&c);
        close_request(&c);
        wait_idle(&h);
        close_client(&c, true);
        close_house(&h);
        if (!is_cut) break;
        assert_true(at < 100);
    }
}

static void a_lease_ends(void **state)
{
    (void)state;
    struct house h;
    open_house_as(&h, &(struct td_host_config){.progress_ms = 20, .lease_ms = 30}, &key_a);
    struct client c;
    open_client(&c, &h, &key_a);
    c.cut_after = 3;
    ask(&c, 500);
    assert_int_equal(receive(&c), TD_EIO);
    cut_one(&c.link[1], &c.data);
    expect_error(&c, TD_WIRE_E_GONE); // the session is still there and is told
    wait_idle(&h);
    join_data(&c);
    send_resume(&c, c.first_token);
    expect_error(&c, TD_WIRE_E_GONE);
    close_request(&c);
    c.cut_after = 0;
    OK(td_session_adopt(c.session, g_tokens, 500, &err));
    fetch_well(&c, 500); // asked anew, with what is here and there
    close_client(&c, false);
    close_house(&h);
}

// Who claims to have what was not sent gets nothing, and the slot is free again.
static void a_resume_that_lies_is_refused(void **state)
{
    (void)state;
    struct house h;
    open_house_as(&h, &(struct td_host_config){.progress_ms = 20}, &key_a);
    struct client c;
    open_client(&c, &h, &key_a);
    for (uint32_t lie = 0; lie < 3; lie++) {
        c.cut_after = 4;
        ask(&c, 500);
        assert_int_equal(receive(&c), TD_EIO);
        cut_one(&c.link[1], &c.data);
        join_data(&c);
        uint8_t token[32];
        memcpy(token, c.first_token, 32);
        uint32_t marks[TD_WIRE_MAX_LAYERS] = {0};
        if (lie == 0) token[31] ^= 1;
        struct td_wire_msg msg = {.h = {.type = TD_WIRE_RESUME, .request = c.id + (lie == 1)},
                                  .u.resume = {.n_spans = 1,
                                               .span_sum = 7,
                                               .n_layers = g_model->spec.n_layers - (lie == 2)},
                                  .items = marks,
                                  .items_bytes = (g_model->spec.n_layers - (lie == 2)) * 4};
        memcpy(msg.u.resume.token, token, 32);
        send_msg(&c.control, msg);
        expect_error(&c, TD_WIRE_E_GONE);
        send_msg(&c.control, (struct td_wire_msg){.h = {.type = TD_WIRE_CANCEL, .request = c.id}});
        if (lie < 2) expect_error(&c, TD_WIRE_E_CANCELED); // that one was not touched
        close_request(&c);
        td_session_close(c.session);
        c.session = open_session(c.engine, N_CTX + 1);
        wait_idle(&h);
    }
    c.cut_after = 0;
    fetch_well(&c, 500);
    close_client(&c, true);
    close_house(&h);
}

// ---- the rest ---------------------------------------------------------------------------------

static void a_full_house_is_busy_until_somebody_has_gone(void **state)
{
    (void)state;
    struct house h;
    open_house_as(&h, &(struct td_host_config){.progress_ms = 20, .n_slots = 2, .n_queue = 1},
                  &key_a);
    struct client c[3];
    for (int i = 0; i < 3; i++) open_client(&c[i], &h, &key_a);
    for (int i = 0; i < 2; i++) {
        c[i].cut_after = 2;
        ask(&c[i], 600);
        assert_int_equal(receive(&c[i]), TD_EIO);
    }
    send_msg(&c[2].control, request_of(&c[2], 300, 0));
    send_tokens(&c[2], 300);
    expect_error(&c[2], TD_WIRE_E_BUSY);
    cut(&c[0]); // its lease gives way
    struct td_host_report report;
    do {
        nap_ms(2);
        td_host_report(h.host, &report);
    } while (report.n_peers == 3);
    fetch_well(&c[2], 300);
    c[1].cut_after = 0; // goes on beside it
    OK(receive(&c[1]));
    finish(&c[1]);
    for (int i = 0; i < 2; i++) close_request(&c[i]);
    for (int i = 0; i < 3; i++) close_client(&c[i], true);
    wait_idle(&h);
    close_house(&h);
}

// What is kept for later gives way to what is asked now; two that do not fit at once: one is told.
static void memory_is_made_for_those_who_ask(void **state)
{
    (void)state;
    struct house h;
    open_house_as(&h,
                  &(struct td_host_config){
                      .progress_ms = 20, .n_slots = 2, .max_kv_bytes = max_kv_bytes(1200)},
                  &key_a);
    struct client c[2];
    for (int i = 0; i < 2; i++) open_client(&c[i], &h, &key_a);
    for (int i = 0; i < 4; i++) {
        g_tokens[0] = (g_tokens[0] + 1) % N_VOCAB; // another conversation
        fetch_well(&c[i % 2], 600);
    }
    close_house(&h);
    for (int i = 0; i < 2; i++) close_client(&c[i], false);
    open_house_as(&h,
                  &(struct td_host_config){
                      .progress_ms = 20, .n_slots = 2, .max_kv_bytes = max_kv_bytes(400)},
                  &key_a);
    open_client(&c[0], &h, &key_a);
    send_msg(&c[0].control, request_of(&c[0], 600, 0));
    send_tokens(&c[0], 600);
    expect_error(&c[0], TD_WIRE_E_BUDGET);
    cut_one(&c[0].link[1], &c[0].data);
    join_data(&c[0]);
    fetch_well(&c[0], 300);
    close_client(&c[0], true);
    close_house(&h);
}

// A backend that has no memory when told so.
static _Atomic bool g_no_sequence, g_no_read;

static int scarce_open(struct td_device *dev, struct td_kv **out, uint32_t n_ctx,
                       struct td_error *e)
{
    *out = NULL;
    if (g_no_sequence) return td_fail(e, TD_ENOMEM, "no memory for a sequence");
    return td_backend_cpu()->kv_open(dev, out, n_ctx, e);
}

static int scarce_read(const struct td_kv_pin *pin, void *out, size_t size_bytes,
                       struct td_error *e)
{
    if (g_no_read) return td_fail(e, TD_ENOMEM, "no memory to read KV");
    return td_backend_cpu()->kv_read(pin, out, size_bytes, e);
}

// Asks without taking in what comes; the reason that is told.
static void expect_refusal(struct client *c, uint32_t n_tokens, uint16_t reason)
{
    send_msg(&c->control, request_of(c, n_tokens, 0));
    send_tokens(c, n_tokens);
    expect_error(c, reason);
}

// A peer whose request cannot be served is told so, does not wait for ever, and the next one is.
static void trouble_of_its_own_is_told(void **state)
{
    (void)state;
    struct td_backend scarce = *td_backend_cpu();
    scarce.kv_open = scarce_open;
    scarce.kv_read = scarce_read;
    struct house h;
    open_house_as(
        &h,
        &(struct td_host_config){
            .progress_ms = 20, .n_slots = 2, .max_kv_bytes = max_kv_bytes(420), .backend = &scarce},
        &key_a);
    struct client c;
    open_client(&c, &h, &key_a);
    g_no_read = true;
    expect_refusal(&c, 100, TD_WIRE_E_BUDGET);
    wait_idle(&h);
    g_no_read = false;
    fetch_well(&c, 400);
    // Room for another conversation is made of what is kept, whose slot cannot be opened anew.
    g_no_sequence = true;
    g_tokens[0] = (g_tokens[0] + 1) % N_VOCAB;
    fetch_well(&c, 500);
    g_tokens[0] = (g_tokens[0] + 1) % N_VOCAB;
    expect_refusal(&c, 500, TD_WIRE_E_BUDGET);
    g_no_sequence = false;
    fetch_well(&c, 500);
    close_client(&c, true);
    close_house(&h);
}

// ---- what a peer can cost -----------------------------------------------------------------------

static _Atomic bool g_is_shut;
static _Atomic bool g_has_slow;
static _Thread_local bool is_slow; // whose reads of KV wait while it is shut: the first that comes

static int slow_read(const struct td_kv_pin *pin, void *out, size_t size_bytes,
                     struct td_error *err_out)
{
    if (g_is_shut && !atomic_exchange(&g_has_slow, true)) is_slow = true;
    while (g_is_shut && is_slow) nap_ms(1);
    return td_backend_cpu()->kv_read(pin, out, size_bytes, err_out);
}

// Whose KV does not get away is not computed meanwhile, and others are.
static void a_slow_peer_holds_up_nobody_else(void **state)
{
    (void)state;
    struct td_backend slow = *td_backend_cpu();
    slow.kv_read = slow_read;
    struct house h;
    open_house_as(
        &h,
        &(struct td_host_config){.progress_ms = 20, .n_slots = 2, .n_queue = 1, .backend = &slow},
        &key_a);
    struct client c[2];
    for (int i = 0; i < 2; i++) open_client(&c[i], &h, &key_a);
    g_is_shut = true;
    ask(&c[0], 600);
    while (!g_has_slow) nap_ms(1);
    g_tokens[0] = (g_tokens[0] + 1) % N_VOCAB; // another conversation
    fetch_well(&c[1], 500);
    g_tokens[0] = (g_tokens[0] + N_VOCAB - 1) % N_VOCAB;
    while (c[0].progress.n_computed == 0) assert_true(take_control(&c[0], 20));
    assert_true(c[0].progress.n_computed < 599); // it waits
    g_is_shut = false;
    OK(receive(&c[0]));
    finish(&c[0]);
    close_request(&c[0]);
    wait_idle(&h);
    struct td_host_report report;
    td_host_report(h.host, &report);
    assert_true(report.stall_ns > 0);
    for (int i = 0; i < 2; i++) close_client(&c[i], true);
    close_house(&h);
}

// Who asks and gives no tokens, or takes KV and does not say so, loses the slot.
static void a_slot_is_not_held_by_doing_nothing(void **state)
{
    (void)state;
    struct house h;
    open_house_as(&h, &(struct td_host_config){.progress_ms = 20, .lease_ms = 300}, &key_a);
    struct client c;
    open_client(&c, &h, &key_a);
    send_msg(&c.control, request_of(&c, 300, 0));
    expect_error(&c, TD_WIRE_E_TIMEOUT);
    ask(&c, 300);
    assert_int_equal(pthread_create(&c.thread, NULL, data_main, &c), 0);
    expect_error(&c, TD_WIRE_E_TIMEOUT); // nothing is committed
    td_link_cancel(c.link[1]);
    struct td_error why;
    (void)td_fail(&why, TD_EIO, "over");
    td_recv_stop(c.recv, TD_EIO, &why);
    pthread_join(c.thread, NULL);
    close_request(&c);
    wait_idle(&h);
    close_client(&c, true);
    close_house(&h);
}

static void sessions_have_a_limit(void **state)
{
    (void)state;
    enum { MOST = 64 };
    struct house h;
    open_house_as(&h, &(struct td_host_config){.progress_ms = 20}, &key_a);
    struct td_peer ours, theirs;
    init_peer(&ours, TD_WIRE_DECODE, g_model, 0);
    struct td_link *link[MOST];
    struct td_frames frames[MOST];
    uint32_t n = 0;
    int code = TD_OK;
    while (!code) {
        assert_true(n < MOST);
        bool weights_differ;
        struct td_wire_msg msg;
        OK(td_link_connect(&link[n], h.where, &key_a, NULL, NULL, &err));
        OK(td_frames_init(&frames[n], link[n], TD_WIRE_CONTROL, 0, &err));
        OK(td_peer_greet(&frames[n], &ours, &theirs, &weights_differ, &err));
        code = td_peer_expect(&frames[n++], TD_WIRE_WELCOME, SOON_MS, &msg, &err);
    }
    assert_int_equal(code, TD_ECANCEL);
    assert_non_null(strstr(err.msg, "sessions already"));
    assert_true(n > 2);
    for (uint32_t i = 0; i < n; i++) cut_one(&link[i], &frames[i]);
    struct td_host_report report;
    do {
        nap_ms(2);
        td_host_report(h.host, &report);
    } while (report.n_peers > 0);
    struct client c; // there is room again
    open_client(&c, &h, &key_a);
    fetch_well(&c, 100);
    close_client(&c, true);
    wait_idle(&h);
    close_house(&h);
}

// What this end has learnt about its speed is told to those who are there.
static void new_speeds_are_told(void **state)
{
    (void)state;
    struct house h;
    open_house_as(&h, &(struct td_host_config){.progress_ms = 20}, &key_a);
    struct client c;
    open_client(&c, &h, &key_a);
    while (c.n_rates == 0) assert_true(take_control(&c, 20));
    fetch_well(&c, 300);
    while (c.n_rates < 2) assert_true(take_control(&c, 20));
    close_client(&c, true);
    wait_idle(&h);
    close_house(&h);
}

static void a_canary_brings_logits(void **state)
{
    (void)state;
    struct house h;
    open_house_as(&h, &(struct td_host_config){.progress_ms = 20}, &key_a);
    struct client c;
    open_client(&c, &h, &key_a);
    for (uint32_t n = 2; n <= 256; n = n * 5 + 1) {
        c.flags = TD_WIRE_CANARY;
        fetch_well(&c, n);
        assert_int_equal(c.n_logits, N_VOCAB);
        OK(td_session_want(c.session, g_tokens + 7, 5, NULL, 0, &err)); // other tokens: have = 0
        OK(td_session_sync(c.session, g_tokens + 7, 5, NULL, 0, NULL, NULL, &err));
    }
    wait_idle(&h);
    close_client(&c, true);
    close_house(&h);
}

static void nothing_before_the_end_if_so_wished(void **state)
{
    (void)state;
    struct house h;
    open_house_as(&h, &(struct td_host_config){.progress_ms = 20, .send_at_end = true}, &key_a);
    struct client c;
    open_client(&c, &h, &key_a);
    c.checkpoint_tokens = 64;
    fetch_well(&c, 500);
    assert_int_equal(c.n_frames, g_model->spec.n_layers + 1); // one checkpoint, which is FINAL
    close_client(&c, true);
    close_house(&h);
}

static void probes_are_measured_both_ways(void **state)
{
    (void)state;
    struct house h;
    open_house_as(&h, &(struct td_host_config){.progress_ms = 20}, &key_a);
    struct client c;
    open_client(&c, &h, &key_a);
    const uint32_t size = (3u << 20) + 17;
    struct td_wire_msg msg = {.h = {.type = TD_WIRE_PROBE, .request = 1},
                              .u.probe = {.towards_asker = 1, .size_bytes = size}};
    send_msg(&c.control, msg);
    for (uint32_t n = 0; n < size;) {
        struct td_wire_header header;
        bool is_there;
        OK(td_frames_header(&c.data, &header, SOON_MS, &is_there, &err));
        assert_true(is_there && header.type == TD_WIRE_BLAST);
        OK(td_frames_payload(&c.data, &header, &msg, &err));
        n += header.size_bytes;
        assert_true(n <= size);
    }
    msg = (struct td_wire_msg){.h = {.type = TD_WIRE_PROBE, .request = 2},
                               .u.probe = {.towards_asker = 0, .size_bytes = 1000}};
    static const uint8_t filler[500];
    for (int i = 0; i < 2; i++) {
        struct td_wire_header header = {.version = 1, .type = TD_WIRE_BLAST, .request = 2};
        uint8_t bytes[TD_WIRE_HEADER_BYTES];
        td_wire_seal(bytes, &header, filler, sizeof(filler));
        OK(td_frames_write_bulk(&c.data, bytes, filler, sizeof(filler), &err));
        if (i == 0) nap_ms(10);
        if (i == 0) send_msg(&c.control, msg); // what announces it may come later
    }
    while (!c.probed.size_bytes) assert_true(take_control(&c, SOON_MS));
    assert_int_equal(c.probed.size_bytes, 1000);
    c.id = 2;
    fetch_well(&c, 100);
    close_client(&c, true);
    close_house(&h);
}

static void a_second_data_connection_takes_the_place_of_the_first(void **state)
{
    (void)state;
    struct house h;
    open_house_as(&h, &(struct td_host_config){.progress_ms = 20}, &key_a);
    struct client c;
    open_client(&c, &h, &key_a);
    fetch_well(&c, 100);
    struct client before = c;
    join_data(&c);
    fetch_well(&c, 200);
    uint8_t byte;
    assert_int_equal(td_link_read(before.link[1], &byte, 1, &err), TD_EIO);
    cut_one(&before.link[1], &before.data);
    close_client(&c, true);
    close_house(&h);
}

static void who_has_no_token_or_no_manners_is_put_out(void **state)
{
    (void)state;
    struct house h;
    open_house_as(&h, &(struct td_host_config){.progress_ms = 20}, &key_a);
    struct client c;
    open_client(&c, &h, &key_a);
    // A token of no session.
    struct client d = c;
    OK(td_link_connect(&d.link[1], d.where, d.key, NULL, NULL, &err));
    OK(td_frames_init(&d.data, d.link[1], TD_WIRE_DATA, 1, &err));
    struct td_wire_msg msg = {.h = {.type = TD_WIRE_JOIN}};
    memcpy(msg.u.join_token, c.welcome.token, 32);
    msg.u.join_token[0] ^= 1;
    send_msg(&d.data, msg);
    assert_int_equal(td_peer_expect(&d.data, TD_WIRE_JOINED, SOON_MS, &msg, &err), TD_ECANCEL);
    cut_one(&d.link[1], &d.data);
    // Garbage at the beginning, and a frame that may not be first.
    struct td_rng rng = {5};
    for (uint32_t i = 0; i < 6; i++) {
        struct td_link *link;
        OK(td_link_connect(&link, h.where, &key_a, NULL, NULL, &err));
        uint8_t bytes[200];
        for (size_t k = 0; k < sizeof(bytes); k++) bytes[k] = (uint8_t)td_rng_u64(&rng);
        if (i > 2) {
            msg = (struct td_wire_msg){.h = {.type = TD_WIRE_PING, .version = 1}};
            (void)td_wire_encode(bytes, sizeof(bytes), &msg);
        }
        OK(td_link_write(link, bytes, sizeof(bytes), &err));
        assert_int_not_equal(td_link_read(link, bytes, 1, &err), TD_OK);
        td_link_close(link);
    }
    fetch_well(&c, 100); // nobody else is disturbed
    // Numbers of requests ascend; else the session ends, and says why.
    c.id--;
    send_msg(&c.control, request_of(&c, 100, 0));
    expect_error(&c, TD_WIRE_E_FORMAT);
    while (take_control(&c, SOON_MS)) {
    }
    close_client(&c, false);
    wait_idle(&h);
    close_house(&h);
}

static void a_stop_is_told(void **state)
{
    (void)state;
    struct house h;
    open_house_as(&h, &(struct td_host_config){.progress_ms = 20, .n_queue = 1}, &key_a);
    struct client c;
    open_client(&c, &h, &key_a);
    c.cut_after = 2;
    ask(&c, 600);
    assert_int_equal(receive(&c), TD_EIO);
    close_house(&h); // with a request under way
    expect_error(&c, TD_WIRE_E_SHUTDOWN);
    close_request(&c);
    close_client(&c, false);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(good_requests_give_the_bits_of_a_local_prefill),
        cmocka_unit_test(bad_requests_are_told_why),
        cmocka_unit_test(a_cancelled_request_gives_its_slot_back),
        cmocka_unit_test(a_broken_request_goes_on_where_it_was),
        cmocka_unit_test(a_lease_ends),
        cmocka_unit_test(a_resume_that_lies_is_refused),
        cmocka_unit_test(a_full_house_is_busy_until_somebody_has_gone),
        cmocka_unit_test(memory_is_made_for_those_who_ask),
        cmocka_unit_test(trouble_of_its_own_is_told),
        cmocka_unit_test(a_slow_peer_holds_up_nobody_else),
        cmocka_unit_test(a_slot_is_not_held_by_doing_nothing),
        cmocka_unit_test(sessions_have_a_limit),
        cmocka_unit_test(new_speeds_are_told),
        cmocka_unit_test(a_canary_brings_logits),
        cmocka_unit_test(nothing_before_the_end_if_so_wished),
        cmocka_unit_test(probes_are_measured_both_ways),
        cmocka_unit_test(a_second_data_connection_takes_the_place_of_the_first),
        cmocka_unit_test(who_has_no_token_or_no_manners_is_put_out),
        cmocka_unit_test(a_stop_is_told),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
