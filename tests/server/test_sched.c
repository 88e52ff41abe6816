// SPDX-License-Identifier: MIT
// Answers of the scheduler: alone, beside others, cancelled, refused, stopped, short of memory.
#include "server/sched_rig.h"

#include <math.h>

#define MINI "models/tandem-mini.gguf"
#define TINY "tests/data/gptoss-tiny.gguf"

#define N_TOKENS 1200
static int32_t tokens[9][N_TOKENS]; // prompts that have nothing in common

static void submit(struct rig *r, struct answer *a, const struct td_job_spec *spec)
{
    answer_begin(a, spec);
    OK(td_sched_submit(r->sched, a->job, NULL, &err));
}

static void open_tiny(struct rig *r, uint32_t n_slots, uint32_t n_queue, uint32_t chunk)
{
    rig_open(
        r,
        &(struct rig_config){
            .path = TINY, .n_ctx = 2048, .n_slots = n_slots, .n_queue = n_queue, .chunk = chunk});
    for (uint32_t i = 0; i < 9; i++)
        fill_tokens(tokens[i], N_TOKENS, i + 1, td_engine_model(r->engine)->spec.n_vocab);
}

// ---- answers ----------------------------------------------------------------------------------

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
    submit(&r, &a, &spec);
    answer_read(&a);
    assert_false(a.has_failed);
    assert_int_equal(a.end, TD_JOB_STOPPED);
    assert_non_null(strstr(a.text[TD_CHANNEL_FINAL], "5"));
    assert_int_equal(a.stats.n_prompt, ids.n);
    assert_true(a.stats.n_written > 0 && a.stats.ttft_seconds > 0);
    answer_end(&a);
    // The final channel at once: the beginning of the answer is in the prompt.
    OK(td_encode(r.tokenizer, "<|channel|>final<|message|>", 27, true, &ids, &err));
    spec.tokens = ids.at;
    spec.n_tokens = (uint32_t)ids.n;
    spec.n_begun = 3;
    submit(&r, &a, &spec);
    answer_read(&a);
    assert_int_equal(a.end, TD_JOB_STOPPED);
    assert_int_equal(a.n_text[TD_CHANNEL_ANALYSIS], 0);
    assert_non_null(strstr(a.text[TD_CHANNEL_FINAL], "5"));
    answer_end(&a);
    td_ids_free(&ids);
    td_ids_free(&marks);
    rig_close(&r);
}

static void same_alone_and_beside_others(void **state)
{
    (void)state;
    struct rig r;
    open_tiny(&r, 8, 8, 32);
    struct answer alone[8], beside[8];
    struct td_job_spec specs[8];
    for (uint32_t i = 0; i < 8; i++) {
        specs[i] = spec_of(tokens[i], 3 + 37 * i, 40 - 3 * i);
        specs[i].sampling.seed = i;
        submit(&r, &alone[i], &specs[i]);
        answer_read(&alone[i]);
        assert_int_equal(alone[i].end, TD_JOB_LENGTH);
        assert_int_equal(alone[i].stats.n_written, specs[i].max_tokens);
    }
    for (uint32_t i = 0; i < 8; i++) submit(&r, &beside[i], &specs[i]);
    for (uint32_t i = 0; i < 8; i++) {
        answer_read(&beside[i]);
        assert_int_equal(beside[i].n_text[TD_CHANNEL_FINAL], alone[i].n_text[TD_CHANNEL_FINAL]);
        assert_memory_equal(beside[i].text[TD_CHANNEL_FINAL], alone[i].text[TD_CHANNEL_FINAL],
                            alone[i].n_text[TD_CHANNEL_FINAL]);
        answer_end(&alone[i]);
        answer_end(&beside[i]);
    }
    struct td_sched_stats stats;
    td_sched_stats(r.sched, &stats);
    assert_int_equal(stats.n_done, 16);
    assert_int_equal(stats.n_running + stats.n_queued, 0);
    assert_int_equal(stats.ttft.n, 16);
    assert_int_equal(stats.gap.n, stats.n_written - 16);
    rig_close(&r);
}

static void stops_across_tokens(void **state)
{
    (void)state;
    struct rig r;
    open_tiny(&r, 4, 4, 32);
    struct answer whole, cut;
    struct td_job_spec spec = spec_of(tokens[0], 20, 40);
    submit(&r, &whole, &spec);
    answer_read(&whole);
    const char *text = whole.text[TD_CHANNEL_FINAL];
    const size_t n = whole.n_text[TD_CHANNEL_FINAL];
    uint32_t n_tried = 0;
    for (size_t from = 1; from + 6 < n; from += 7) {
        char stop[7] = {0};
        memcpy(stop, text + from, 6);
        if (((unsigned char)stop[0] & 0xc0u) == 0x80u || memchr(stop, 0, 6)) continue;
        n_tried++;
        const char *const stops[] = {"not there", stop};
        spec.stops = stops;
        spec.n_stops = 2;
        submit(&r, &cut, &spec);
        answer_read(&cut);
        assert_int_equal(cut.end, TD_JOB_STOPPED);
        assert_string_equal(cut.text[TD_CHANNEL_FINAL] + cut.n_text[TD_CHANNEL_FINAL], "");
        assert_int_equal(cut.n_text[TD_CHANNEL_FINAL], (size_t)(strstr(text, stop) - text));
        assert_memory_equal(cut.text[TD_CHANNEL_FINAL], text, cut.n_text[TD_CHANNEL_FINAL]);
        answer_end(&cut);
    }
    assert_true(n_tried > 5);
    answer_end(&whole);
    rig_close(&r);
}

static double log_of(const float *logits, uint32_t n, int32_t token)
{
    double most = -HUGE_VAL, sum = 0;
    for (uint32_t i = 0; i < n; i++) most = fmax(most, (double)logits[i]);
    for (uint32_t i = 0; i < n; i++) sum += exp((double)logits[i] - most);
    return (double)logits[token] - most - log(sum);
}

static void logprobs_are_those_of_the_model(void **state)
{
    (void)state;
    struct rig r;
    open_tiny(&r, 2, 2, 32);
    struct answer a;
    struct td_job_spec spec = spec_of(tokens[1], 30, 12);
    spec.sampling.temp = 0.5f;
    spec.wants_logprobs = true;
    spec.n_top = 5;
    submit(&r, &a, &spec);
    answer_read(&a);
    assert_int_equal(a.n_tokens, 12);

    td_sched_close(r.sched); // the engine is ours again
    r.sched = NULL;
    const uint32_t n_vocab = td_engine_model(r.engine)->spec.n_vocab;
    struct td_session *s;
    OK(td_session_open(&s, r.engine, 64, &err));
    int32_t all[64];
    memcpy(all, tokens[1], 30 * sizeof(*all));
    for (uint32_t i = 0; i < 12; i++) {
        OK(td_session_sync(s, all, 30 + i, NULL, 0, NULL, NULL, &err));
        const float *logits = td_session_logits(s);
        const struct td_job_token *t = &a.tokens[i];
        assert_true(fabs((double)t->chosen.logprob - log_of(logits, n_vocab, t->chosen.token)) <
                    1e-4);
        assert_int_equal(t->n_top, 5);
        for (uint32_t k = 0; k < 5; k++) {
            assert_true(fabs((double)t->top[k].logprob - log_of(logits, n_vocab, t->top[k].token)) <
                        1e-4);
            uint32_t n_above = 0;
            for (uint32_t v = 0; v < n_vocab; v++) n_above += logits[v] > logits[t->top[k].token];
            assert_true(n_above <= k);
        }
        all[30 + i] = t->chosen.token;
    }
    td_session_close(s);
    answer_end(&a);
    rig_close(&r);
}

// ---- the queue --------------------------------------------------------------------------------

static void a_full_queue_says_when(void **state)
{
    (void)state;
    struct rig r;
    open_tiny(&r, 1, 2, 32);
    struct answer a[3], late;
    const struct td_job_spec spec = spec_of(tokens[0], 20, 1000);
    for (int i = 0; i < 3; i++) submit(&r, &a[i], &spec);
    answer_begin(&late, &spec);
    uint32_t retry_s = 0;
    assert_int_equal(td_sched_submit(r.sched, late.job, &retry_s, &err), TD_EFULL);
    assert_true(retry_s >= 1);
    struct td_sched_stats stats;
    td_sched_stats(r.sched, &stats);
    assert_int_equal(stats.n_refused, 1);
    for (int i = 0; i < 3; i++) td_job_cancel(a[i].job);
    for (int i = 0; i < 3; i++) {
        answer_read(&a[i]);
        assert_int_equal(a[i].end, TD_JOB_CANCELLED);
        answer_end(&a[i]);
    }
    // A job that was refused may be tried again.
    OK(td_sched_submit(r.sched, late.job, NULL, &err));
    answer_end(&late);
    assert_true(td_sched_wait_idle(r.sched, PATIENCE_SECONDS * 1000));
    rig_close(&r);
}

static void prompts_that_do_not_fit(void **state)
{
    (void)state;
    struct rig r;
    rig_open(&r, &(struct rig_config){.path = TINY, .n_ctx = 64, .n_slots = 1});
    fill_tokens(tokens[0], N_TOKENS, 1, td_engine_model(r.engine)->spec.n_vocab);
    struct answer a;
    struct td_job_spec spec = spec_of(tokens[0], 64, 0);
    answer_begin(&a, &spec);
    assert_int_equal(td_sched_submit(r.sched, a.job, NULL, &err), TD_EARG);
    assert_non_null(strstr(err.msg, "64"));
    answer_end(&a);
    // As much as the context holds.
    spec.n_tokens = 60;
    submit(&r, &a, &spec);
    answer_read(&a);
    assert_int_equal(a.end, TD_JOB_LENGTH);
    assert_int_equal(a.stats.n_written, 4);
    answer_end(&a);
    // What is no token is the job's failure, not the server's.
    const int32_t odd[] = {1, 1 << 30};
    spec.tokens = odd;
    spec.n_tokens = 2;
    submit(&r, &a, &spec);
    answer_read(&a);
    assert_true(a.has_failed);
    assert_non_null(strstr(a.error.msg, "vocabulary"));
    answer_end(&a);
    rig_close(&r);
}

static void clients_take_turns(void **state)
{
    (void)state;
    struct rig r;
    open_tiny(&r, 1, 8, 32);
    struct answer first, a[4], b;
    struct td_job_spec spec = spec_of(tokens[0], 20, 300);
    spec.client = 1;
    submit(&r, &first, &spec);
    spec.max_tokens = 3;
    for (int i = 0; i < 4; i++) submit(&r, &a[i], &spec);
    spec.client = 2;
    submit(&r, &b, &spec);
    answer_read(&first);
    answer_read(&b);
    for (int i = 0; i < 4; i++) answer_read(&a[i]);
    // B came last, and waited for one of the other client's at most.
    assert_true(b.stats.queue_seconds < a[1].stats.queue_seconds);
    for (int i = 1; i < 4; i++)
        assert_true(a[i - 1].stats.queue_seconds < a[i].stats.queue_seconds);
    answer_end(&first);
    answer_end(&b);
    for (int i = 0; i < 4; i++) answer_end(&a[i]);
    rig_close(&r);
}

// ---- the end ----------------------------------------------------------------------------------

static void cancel_in_every_state(void **state)
{
    (void)state;
    struct rig r;
    open_tiny(&r, 1, 4, 8);
    struct answer running, waiting, reading, both[2];
    const struct td_job_spec long_answer = spec_of(tokens[0], 20, 2000);
    const struct td_job_spec long_prompt = spec_of(tokens[1], N_TOKENS, 100);
    submit(&r, &running, &long_answer);
    answer_read_until(&running, has_text);
    submit(&r, &waiting, &long_answer);
    td_job_cancel(waiting.job);
    answer_read(&waiting);
    assert_int_equal(waiting.end, TD_JOB_CANCELLED);
    assert_int_equal(waiting.stats.n_written, 0);
    assert_false(running.has_ended);
    td_job_cancel(running.job);
    answer_read(&running);
    assert_int_equal(running.end, TD_JOB_CANCELLED);
    assert_true(running.stats.n_written > 0 && running.stats.n_written < 2000);
    answer_end(&running);
    answer_end(&waiting);

    submit(&r, &reading, &long_prompt);
    answer_read_until(&reading, has_progress);
    td_job_cancel(reading.job);
    answer_read(&reading);
    assert_int_equal(reading.end, TD_JOB_CANCELLED);
    assert_int_equal(reading.stats.n_written, 0);
    answer_end(&reading);

    // Readers that go, one being written and one waiting; before it is submitted; at once.
    submit(&r, &both[0], &long_answer);
    submit(&r, &both[1], &long_prompt);
    answer_read_until(&both[0], has_text);
    answer_end(&both[0]);
    answer_end(&both[1]);
    answer_begin(&both[0], &long_answer);
    td_job_cancel(both[0].job);
    OK(td_sched_submit(r.sched, both[0].job, NULL, &err));
    answer_read(&both[0]);
    assert_int_equal(both[0].end, TD_JOB_CANCELLED);
    answer_end(&both[0]);
    assert_true(td_sched_wait_idle(r.sched, PATIENCE_SECONDS * 1000));
    struct td_sched_stats stats;
    td_sched_stats(r.sched, &stats);
    assert_int_equal(stats.n_cancelled, 6);
    // And it still answers.
    const struct td_job_spec spec = spec_of(tokens[2], 5, 5);
    submit(&r, &running, &spec);
    answer_read(&running);
    assert_int_equal(running.end, TD_JOB_LENGTH);
    answer_end(&running);
    rig_close(&r);
}

static void a_reader_that_never_reads(void **state)
{
    (void)state;
    struct rig r;
    open_tiny(&r, 2, 2, 32);
    struct answer deaf, other;
    const struct td_job_spec spec = spec_of(tokens[0], 20, 200);
    struct td_job *job;
    OK(td_job_open(&job, &spec, &err));
    OK(td_sched_submit(r.sched, job, NULL, &err));
    submit(&r, &other, &spec);
    answer_read(&other);
    assert_true(td_sched_wait_idle(r.sched, PATIENCE_SECONDS * 1000));
    // All of it is there, in few events.
    deaf = (struct answer){.job = job};
    for (int i = 0; i < 3; i++) deaf.text[i] = calloc(1, 1);
    answer_take(&deaf);
    assert_true(deaf.has_ended);
    assert_true(deaf.n_events <= 3);
    assert_string_equal(deaf.text[TD_CHANNEL_FINAL], other.text[TD_CHANNEL_FINAL]);
    answer_end(&deaf);
    answer_end(&other);
    rig_close(&r);
}

static void drains_and_closes(void **state)
{
    (void)state;
    struct rig r;
    open_tiny(&r, 1, 4, 32);
    struct answer a, b, late;
    const struct td_job_spec spec = spec_of(tokens[0], 20, 50);
    submit(&r, &a, &spec);
    submit(&r, &b, &spec);
    td_sched_drain(r.sched);
    answer_begin(&late, &spec);
    assert_int_equal(td_sched_submit(r.sched, late.job, NULL, &err), TD_ECANCEL);
    answer_end(&late);
    assert_true(td_sched_wait_idle(r.sched, PATIENCE_SECONDS * 1000));
    answer_read(&a);
    answer_read(&b);
    assert_int_equal(b.end, TD_JOB_LENGTH);
    answer_end(&a);
    answer_end(&b);
    td_sched_close(r.sched);
    // Closed at work: all of them end.
    OK(td_sched_open(&r.sched, &r.cfg, &err));
    const struct td_job_spec endless = spec_of(tokens[0], 20, 2000);
    submit(&r, &a, &endless);
    submit(&r, &b, &endless);
    answer_read_until(&a, has_text);
    assert_false(td_sched_wait_idle(r.sched, 1));
    td_sched_close(r.sched);
    r.sched = NULL;
    answer_read(&a);
    answer_read(&b);
    assert_int_equal(a.end, TD_JOB_CANCELLED);
    assert_int_equal(b.end, TD_JOB_CANCELLED);
    answer_end(&a);
    answer_end(&b);
    rig_close(&r);
}

// ---- sharing ----------------------------------------------------------------------------------

static void a_long_prompt_stops_no_stream(void **state)
{
    (void)state;
    struct rig r;
    open_tiny(&r, 2, 2, 16);
    struct answer stream, newcomer;
    const struct td_job_spec endless = spec_of(tokens[0], 20, 2000);
    const struct td_job_spec long_prompt = spec_of(tokens[1], N_TOKENS, 1);
    submit(&r, &stream, &endless);
    answer_read_until(&stream, has_text);
    submit(&r, &newcomer, &long_prompt);
    answer_read(&newcomer);
    td_job_cancel(stream.job);
    answer_read(&stream);
    // A token in each of the steps that the prompt took.
    assert_true(stream.stats.n_written > N_TOKENS / 16);
    answer_end(&stream);
    answer_end(&newcomer);
    rig_close(&r);
}

static void equal_prompts_are_read_once(void **state)
{
    (void)state;
    struct rig r;
    open_tiny(&r, 4, 4, 16);
    struct answer a[4];
    for (uint32_t i = 0; i < 4; i++) {
        struct td_job_spec spec = spec_of(tokens[3], 400, 10);
        spec.sampling.seed = i;
        submit(&r, &a[i], &spec);
    }
    uint32_t n_reused = 0;
    for (uint32_t i = 0; i < 4; i++) {
        answer_read(&a[i]);
        n_reused += a[i].stats.n_reused;
    }
    assert_int_equal(n_reused, 3 * 399);
    for (uint32_t i = 0; i < 4; i++) answer_end(&a[i]);
    rig_close(&r);
}

static void a_second_turn_reuses_the_first(void **state)
{
    (void)state;
    struct rig r;
    open_tiny(&r, 2, 2, 32);
    struct answer a;
    // A question, 200 tokens of an answer that is dropped, another question.
    const struct td_job_spec first = spec_of(tokens[4], 500, 200);
    submit(&r, &a, &first);
    answer_read(&a);
    answer_end(&a);
    for (uint32_t i = 5; i < 8; i++) { // others used the slots
        const struct td_job_spec other = spec_of(tokens[i], 300, 5);
        submit(&r, &a, &other);
        answer_read(&a);
        assert_int_equal(a.stats.n_reused, 0);
        answer_end(&a);
    }
    int32_t second[600];
    memcpy(second, tokens[4], 500 * sizeof(*second));
    fill_tokens(second + 500, 100, 77, td_engine_model(r.engine)->spec.n_vocab);
    const struct td_job_spec spec = spec_of(second, 600, 5);
    submit(&r, &a, &spec);
    answer_read(&a);
    assert_int_equal(a.stats.n_reused, 500);
    answer_end(&a);
    rig_close(&r);
}

static uint64_t n_ahead(struct rig *r)
{
    struct td_sched_stats stats;
    td_sched_stats(r->sched, &stats);
    return stats.n_ahead;
}

static void wait_ahead(struct rig *r, uint64_t n)
{
    for (int i = 0; i < PATIENCE_SECONDS * 100 && n_ahead(r) < n; i++)
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    assert_true(n_ahead(r) >= n);
}

// What the next turn begins with is there when it comes; its answer is the same.
static void the_next_turn_is_read_ahead(void **state)
{
    (void)state;
    struct rig r;
    struct answer a, right;
    int32_t next[N_TOKENS];
    open_tiny(&r, 2, 2, 256);
    memcpy(next, tokens[4], 500 * sizeof(*next));
    fill_tokens(next + 500, N_TOKENS - 500, 77, td_engine_model(r.engine)->spec.n_vocab);
    const struct td_job_spec first = spec_of(tokens[4], 500, 50), second = spec_of(next, 700, 20);
    submit(&r, &right, &second);
    answer_read(&right);
    rig_close(&r);

    open_tiny(&r, 2, 2, 256);
    submit(&r, &a, &first);
    answer_read(&a);
    answer_end(&a);
    const uint32_t mark = 580;
    td_sched_read_ahead(r.sched, next, 600, &mark, 1);
    wait_ahead(&r, 100);
    submit(&r, &a, &second);
    answer_read(&a);
    assert_true(a.stats.n_reused >= 599);
    assert_string_equal(a.text[TD_CHANNEL_FINAL], right.text[TD_CHANNEL_FINAL]);
    answer_end(&a);
    // Told once more, when it is known; when the conversation is not; and with whoever comes
    // meanwhile.
    const uint64_t n = n_ahead(&r);
    td_sched_read_ahead(r.sched, next, 600, NULL, 0);
    td_sched_read_ahead(r.sched, next, N_TOKENS, NULL, 0);
    wait_ahead(&r, n + 1);
    submit(&r, &a, &first);
    answer_read(&a);
    assert_false(a.has_failed);
    answer_end(&a);
    wait_ahead(&r, n + N_TOKENS - 720);
    assert_true(n_ahead(&r) <= n + N_TOKENS - 600);
    for (uint32_t i = 0; i < 20; i++) td_sched_read_ahead(r.sched, tokens[i % 9], 300, NULL, 0);
    answer_end(&right);
    rig_close(&r);
}

static void too_little_memory_for_two(void **state)
{
    (void)state;
    struct rig r;
    struct answer alone[2], beside[2];
    uint64_t kv_bytes = 0;
    // What one answer of 700 tokens takes, then two in a pool of less than twice that.
    for (int is_tight = 0; is_tight < 2; is_tight++) {
        struct rig_config c = {.path = TINY, .n_ctx = 740, .n_slots = 2, .chunk = 32};
        c.max_kv_bytes = is_tight ? kv_bytes / 4 * 7 : 0;
        rig_open(&r, &c);
        for (uint32_t i = 0; i < 2; i++) {
            fill_tokens(tokens[i], N_TOKENS, i + 1, td_engine_model(r.engine)->spec.n_vocab);
            const struct td_job_spec spec = spec_of(tokens[i], 40, 0);
            struct answer *a = is_tight ? &beside[i] : &alone[i];
            submit(&r, a, &spec);
            if (is_tight) continue;
            answer_read(a);
        }
        for (int i = 0; is_tight && i < 2; i++) answer_read(&beside[i]);
        td_sched_close(r.sched);
        r.sched = NULL;
        kv_bytes = td_engine_kv_need(r.engine, 740);
        rig_close(&r);
    }
    for (int i = 0; i < 2; i++) {
        if (beside[i].has_failed) fail_msg("%s", beside[i].error.msg);
        assert_int_equal(beside[i].end, TD_JOB_LENGTH);
        assert_int_equal(beside[i].stats.n_written, 700);
        assert_string_equal(beside[i].text[TD_CHANNEL_FINAL], alone[i].text[TD_CHANNEL_FINAL]);
        answer_end(&alone[i]);
        answer_end(&beside[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(chat_answers),
        cmocka_unit_test(same_alone_and_beside_others),
        cmocka_unit_test(stops_across_tokens),
        cmocka_unit_test(logprobs_are_those_of_the_model),
        cmocka_unit_test(a_full_queue_says_when),
        cmocka_unit_test(prompts_that_do_not_fit),
        cmocka_unit_test(clients_take_turns),
        cmocka_unit_test(cancel_in_every_state),
        cmocka_unit_test(a_reader_that_never_reads),
        cmocka_unit_test(drains_and_closes),
        cmocka_unit_test(a_long_prompt_stops_no_stream),
        cmocka_unit_test(equal_prompts_are_read_once),
        cmocka_unit_test(a_second_turn_reuses_the_first),
        cmocka_unit_test(the_next_turn_is_read_ahead),
        cmocka_unit_test(too_little_memory_for_two),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
