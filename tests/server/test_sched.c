// SPDX-License-Identifier: MIT
// Answers of the scheduler: alone, beside others, cancelled, refused, stopped.
#include "server/sched_rig.h"

#define MINI "models/tandem-mini.gguf"
#define TINY "tests/data/gptoss-tiny.gguf"

static void chat_answers(void **state)
{
    (void)state;
    struct rig r;
    rig_open(&r, &(struct rig_config){.path = MINI, .n_ctx = 512, .n_slots = 2});
    const struct td_message m = {
        .role = TD_ROLE_USER, .content = "What is 2 + 3?", .content_bytes = 14};
    const struct td_chat chat = {
        .effort = TD_EFFORT_LOW, .messages = &m, .n_messages = 1, .add_generation_prompt = true};
    struct td_ids ids = {0}, marks = {0};
    OK(td_harmony_render(r.tokenizer, &chat, &ids, &marks, &err));
    struct td_job_spec spec = {.tokens = ids.at,
                               .n_tokens = (uint32_t)ids.n,
                               .sampling = {.temp = 0, .top_p = 1},
                               .is_chat = true};
    struct answer a;
    answer_begin(&a, &spec);
    OK(td_sched_submit(r.sched, a.job, NULL, &err));
    answer_read(&a);
    assert_false(a.has_failed);
    assert_int_equal(a.end, TD_JOB_STOPPED);
    assert_non_null(strstr(a.text[TD_CHANNEL_FINAL], "5"));
    assert_int_equal(a.stats.n_prompt, ids.n);
    assert_true(a.stats.n_written > 0 && a.stats.ttft_seconds > 0);
    answer_end(&a);
    td_ids_free(&ids);
    td_ids_free(&marks);
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(chat_answers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
