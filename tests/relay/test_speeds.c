// SPDX-License-Identifier: MIT
// Speeds by depth survive a RATES frame; what a frame cannot say is left out, and what comes out is
// always a frame that may travel.
#include "relay/speeds.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

// Through the wire and back.
static void travel(const struct td_split_rate in[2], struct td_split_rate out[2])
{
    uint8_t buffer[TD_SPEEDS_BYTES], frame[TD_WIRE_HEADER_BYTES + TD_SPEEDS_BYTES];
    struct td_wire_msg msg, got;
    struct td_wire_header h;
    struct td_error err;
    td_speeds_put(&msg, buffer, 1, &in[0], &in[1]);
    (void)td_wire_encode(frame, sizeof(frame), &msg);
    assert_int_equal(td_wire_get_header(&h, frame, TD_WIRE_CONTROL, 1, &err), TD_OK);
    assert_int_equal(td_wire_decode(&got, &h, frame + TD_WIRE_HEADER_BYTES, &err), TD_OK);
    td_speeds_get(&got, &out[0], &out[1]);
}

static void speeds_survive(void **state)
{
    (void)state;
    const struct td_split_rate in[2] = {
        {.points = {{0, 1723.5}, {4096, 1500.25}, {32768, 900}}, .n_points = 3},
        {.points = {{1024, 49.125}, {4096, 48}}, .n_points = 2}};
    struct td_split_rate out[2];
    travel(in, out);
    for (int k = 0; k < 2; k++) {
        assert_int_equal(out[k].n_points, in[k].n_points);
        for (uint32_t i = 0; i < in[k].n_points; i++) {
            assert_true(out[k].points[i].depth_tokens == in[k].points[i].depth_tokens);
            assert_true(out[k].points[i].tokens_per_s == in[k].points[i].tokens_per_s);
        }
    }
    const struct td_split_rate none[2] = {0};
    travel(none, out);
    assert_int_equal(out[0].n_points + out[1].n_points, 0);
}

static void what_a_frame_cannot_say_is_left_out(void **state)
{
    (void)state;
    struct td_split_rate in[2] = {0}, out[2];
    in[0] = (struct td_split_rate){.points = {{-1, 5},
                                              {0, (double)NAN},
                                              {1, HUGE_VAL},
                                              {2, -3},
                                              {3, 0},
                                              {4, 1e-9},
                                              {5, 7},
                                              {1e9, 7}},
                                   .n_points = 8};
    travel(in, out);
    assert_int_equal(out[0].n_points, 1);
    assert_true(out[0].points[0].depth_tokens == 5);
    // Two full lists with no depth in common: the first 32 depths of both.
    for (uint32_t i = 0; i < TD_SPLIT_MAX_POINTS; i++) {
        in[0].points[i] = (struct td_split_point){2 * i, 10};
        in[1].points[i] = (struct td_split_point){2 * i + 1, 20};
    }
    in[0].n_points = in[1].n_points = TD_SPLIT_MAX_POINTS;
    travel(in, out);
    assert_int_equal(out[0].n_points + out[1].n_points, TD_WIRE_MAX_RATES);
    assert_true(out[1].points[15].depth_tokens == 31);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(speeds_survive),
        cmocka_unit_test(what_a_frame_cannot_say_is_left_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
