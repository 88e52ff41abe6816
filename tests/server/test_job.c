// SPDX-License-Identifier: MIT
// A job's events and who holds it; stop texts in any pieces; tokens of an answer to events.
#include "server/answer.h"
#include "server/sched_rig.h"

#include <stdatomic.h>

static const int32_t some_tokens[] = {1, 2, 3};

static struct td_job *open_job(const char *const *stops, uint32_t n_stops, bool is_chat,
                               bool wants_logprobs)
{
    const struct td_job_spec spec = {.tokens = some_tokens,
                                     .n_tokens = 3,
                                     .stops = stops,
                                     .n_stops = n_stops,
                                     .is_chat = is_chat,
                                     .wants_logprobs = wants_logprobs};
    struct td_job *job;
    OK(td_job_open(&job, &spec, &err));
    return job;
}

static void add_text(struct td_job *job, enum td_channel channel, const char *text)
{
    OK(td_job_add_text(job, TD_JOB_TEXT, channel, text, strlen(text), NULL, 0, &err));
}

static void refuses_nonsense(void **state)
{
    (void)state;
    struct td_job *job;
    struct td_job_spec spec = {.tokens = some_tokens};
    assert_int_equal(td_job_open(&job, &spec, &err), TD_EARG);
    assert_null(job);
    spec.n_tokens = 3;
    spec.n_top = TD_JOB_MAX_TOP + 1;
    assert_int_equal(td_job_open(&job, &spec, &err), TD_EARG);
    spec.n_top = 0;
    spec.n_begun = 4;
    assert_int_equal(td_job_open(&job, &spec, &err), TD_EARG);
    spec.n_begun = 0;
    const char *stops[TD_JOB_MAX_STOPS + 1];
    for (int i = 0; i <= TD_JOB_MAX_STOPS; i++) stops[i] = "x";
    spec.stops = stops;
    spec.n_stops = TD_JOB_MAX_STOPS + 1;
    assert_int_equal(td_job_open(&job, &spec, &err), TD_EARG);
    stops[0] = "\x80";
    spec.n_stops = 1;
    assert_int_equal(td_job_open(&job, &spec, &err), TD_EARG);
    td_job_close(NULL);
}

static void events_in_order(void **state)
{
    (void)state;
    struct td_job *job = open_job(NULL, 0, false, false);
    struct td_job_event e;
    assert_false(td_job_next(job, &e));
    td_job_add_progress(job, 1, 3, false);
    td_job_add_progress(job, 2, 3, true); // only the newest
    add_text(job, TD_CHANNEL_ANALYSIS, "think");
    add_text(job, TD_CHANNEL_ANALYSIS, "ing");
    add_text(job, TD_CHANNEL_FINAL, "answer");
    const struct td_job_stats stats = {.n_written = 5};
    td_job_add_end(job, TD_JOB_LENGTH, &stats, NULL);
    add_text(job, TD_CHANNEL_FINAL, "too late");
    td_job_add_end(job, TD_JOB_STOPPED, &stats, NULL);

    assert_true(td_job_next(job, &e));
    assert_int_equal(e.kind, TD_JOB_PROGRESS);
    assert_int_equal(e.n_done, 2);
    assert_true(e.is_remote);
    assert_true(td_job_next(job, &e));
    assert_int_equal(e.channel, TD_CHANNEL_ANALYSIS);
    assert_string_equal(e.text, "thinking");
    assert_int_equal(e.text_bytes, 8);
    assert_true(td_job_next(job, &e));
    assert_string_equal(e.text, "answer");
    assert_true(td_job_next(job, &e));
    assert_int_equal(e.kind, TD_JOB_END);
    assert_int_equal(e.end, TD_JOB_LENGTH);
    assert_int_equal(e.stats.n_written, 5);
    assert_false(td_job_next(job, &e));
    td_job_close(job);
}

static void a_taken_event_stays(void **state)
{
    (void)state;
    struct td_job *job = open_job(NULL, 0, false, false);
    struct td_job_event e, f;
    add_text(job, TD_CHANNEL_FINAL, "one");
    assert_true(td_job_next(job, &e));
    add_text(job, TD_CHANNEL_FINAL, "two"); // not joined to what the reader has
    assert_string_equal(e.text, "one");
    assert_true(td_job_next(job, &f));
    assert_string_equal(f.text, "two");
    td_job_close(job);
}

static void count_call(void *ctx)
{
    (*(int *)ctx)++;
}

static void tells_of_news_once(void **state)
{
    (void)state;
    struct td_job *job = open_job(NULL, 0, false, false);
    int n = 0;
    td_job_notify(job, count_call, &n);
    td_job_tell(job);
    assert_int_equal(n, 0);
    add_text(job, TD_CHANNEL_FINAL, "a");
    add_text(job, TD_CHANNEL_FINAL, "b");
    td_job_tell(job);
    td_job_tell(job);
    assert_int_equal(n, 1);
    td_job_notify(job, NULL, NULL);
    add_text(job, TD_CHANNEL_FINAL, "c");
    td_job_tell(job);
    assert_int_equal(n, 1);
    td_job_close(job);
}

static void wait_ms(long ms)
{
    nanosleep(&(struct timespec){.tv_nsec = ms * 1000000}, NULL);
}

// The reader goes while the scheduler tells it.
struct slow {
    _Atomic bool is_in, is_gone;
};

static void slow_call(void *ctx)
{
    struct slow *s = ctx;
    s->is_in = true;
    wait_ms(30);
    assert_false(s->is_gone);
    s->is_in = false;
}

static void *tell(void *ctx)
{
    struct td_job *job = ctx;
    add_text(job, TD_CHANNEL_FINAL, "a");
    td_job_tell(job);
    td_job_detach(job);
    return NULL;
}

static void close_waits_for_a_call(void **state)
{
    (void)state;
    struct td_job *job = open_job(NULL, 0, false, false);
    struct slow s = {.is_in = false};
    int n_wakes = 0;
    OK(td_job_attach(job, count_call, &n_wakes, &err));
    assert_int_equal(td_job_attach(job, count_call, &n_wakes, &err), TD_EARG);
    td_job_notify(job, slow_call, &s);
    pthread_t thread;
    pthread_create(&thread, NULL, tell, job);
    while (!s.is_in) wait_ms(1);
    td_job_close(job);
    s.is_gone = true;
    pthread_join(thread, NULL);
}

static void close_means_cancel(void **state)
{
    (void)state;
    struct td_job *job = open_job(NULL, 0, false, false);
    int n_wakes = 0;
    OK(td_job_attach(job, count_call, &n_wakes, &err));
    add_text(job, TD_CHANNEL_FINAL, "never read");
    td_job_close(job);
    assert_int_equal(n_wakes, 1);
    assert_true(td_job_is_cancelled(job));
    add_text(job, TD_CHANNEL_FINAL, "dropped");
    td_job_add_end(job, TD_JOB_CANCELLED, &(struct td_job_stats){0}, NULL);
    td_job_detach(job);
}

// ---- stops ------------------------------------------------------------------------------------

// The specification: the text up to the first stop to be complete, and of those the longest.
static size_t naive_end(const char *text, const char *const *stops, uint32_t n)
{
    for (size_t end = 1; text[end - 1]; end++) {
        size_t longest = 0;
        for (uint32_t i = 0; i < n; i++) {
            const size_t size = strlen(stops[i]);
            if (size && size <= end && !memcmp(text + end - size, stops[i], size) && size > longest)
                longest = size;
        }
        if (longest) return end - longest;
    }
    return strlen(text);
}

// Feeds pieces as the bits of `cuts` say; returns what would have gone out by then.
static size_t fed_end(const char *text, const char *const *stops, uint32_t n, uint32_t cuts)
{
    struct td_stops *s;
    OK(td_stops_open(&s, stops, n, &err));
    const size_t size = strlen(text);
    size_t from = 0, out = 0;
    for (size_t i = 0; s && i < size; i++) {
        if (i + 1 < size && !((cuts >> i) & 1)) continue;
        size_t end = 0, found = 0;
        if (td_stops_feed(s, text + from, i + 1 - from, &end, &found)) {
            const size_t at = from + end - found;
            assert_true(at >= out); // nothing of a stop has gone out
            td_stops_close(s);
            return at;
        }
        from = i + 1;
        out = from - td_stops_held(s);
    }
    td_stops_close(s);
    return size;
}

static void stops_in_any_pieces(void **state)
{
    (void)state;
    static const struct {
        const char *text, *stops[3];
    } cases[] = {
        {"abcabcabd", {"abcabd", "zz"}},
        {"aaaaaab", {"aaab", "b"}},
        {"xxENDyy", {"END", "ENDy"}},
        {"xxENDyy", {"xEND", "END"}},
        {"abab", {"ba", "abab"}},
        {"nothing", {"nothing else", "thingy"}},
        {"no stop", {"", ""}},
        {"h\xc3\xa9llo", {"\xc3\xa9l", "o"}},
        {"abcde", {"bcd", "c", "abcde"}},
        {"\n\n\nUser:", {"\n\nUser:", "\n\n\n\n"}},
    };
    for (size_t c = 0; c < sizeof(cases) / sizeof(cases[0]); c++) {
        const char *const *stops = cases[c].stops;
        const uint32_t n = stops[2] ? 3 : 2;
        const size_t want = naive_end(cases[c].text, stops, n);
        for (uint32_t cuts = 0; cuts < 1u << (strlen(cases[c].text) - 1); cuts++)
            assert_int_equal(fed_end(cases[c].text, stops, n, cuts), want);
    }
}

// ---- answers ----------------------------------------------------------------------------------

static struct td_model *model;
static struct td_tokenizer *tokenizer;

static int open_tokenizer(void **state)
{
    (void)state;
    OK(td_model_open(&model, "models/tandem-mini.gguf", NULL, &err));
    OK(td_tokenizer_open(&tokenizer, model->gguf, &err));
    return 0;
}

static int close_tokenizer(void **state)
{
    (void)state;
    td_tokenizer_close(tokenizer);
    td_model_close(model);
    return 0;
}

// Writes what a model would: special tokens by name. The answer as read, its job closed.
static void write_answer(struct answer *a, struct td_job *job, const char *text,
                         uint32_t *n_reasoning)
{
    *a = (struct answer){.job = job};
    for (int i = 0; i < 3; i++) a->text[i] = calloc(1, 1);
    struct td_answer *writer;
    struct td_ids ids = {0};
    OK(td_answer_open(&writer, job, tokenizer, &err));
    OK(td_encode(tokenizer, text, strlen(text), true, &ids, &err));
    bool is_over = false;
    enum td_job_end end = TD_JOB_LENGTH;
    for (size_t i = 0; i < ids.n && !is_over; i++) {
        const struct td_job_token t = {.chosen = {.token = ids.at[i], .logprob = -1}};
        OK(td_answer_feed(writer, ids.at[i], job->spec.wants_logprobs ? &t : NULL, &is_over, &end,
                          &err));
        answer_take(a);
    }
    bool is_stopped = false;
    const bool is_whole = is_over || td_answer_is_whole(writer);
    OK(td_answer_finish(writer, &is_stopped, &err));
    if (!is_whole) end = is_stopped ? TD_JOB_STOPPED : TD_JOB_LENGTH;
    answer_take(a);
    a->end = end;
    if (n_reasoning) *n_reasoning = td_answer_n_reasoning(writer);
    td_answer_close(writer);
    td_ids_free(&ids);
}

// The text of the tokens whose logprobs came with the text.
static void check_tokens(const struct answer *a, const char *text)
{
    char joined[512];
    size_t n = 0;
    for (uint32_t i = 0; i < a->n_tokens; i++) {
        const struct td_str s = td_token_bytes(tokenizer, a->tokens[i].chosen.token);
        assert_true(n + s.size_bytes < sizeof(joined));
        memcpy(joined + n, s.at, s.size_bytes);
        n += s.size_bytes;
    }
    joined[n] = '\0';
    assert_string_equal(joined, text);
}

static void a_chat_answer(void **state)
{
    (void)state;
    struct answer a;
    uint32_t n_reasoning = 0;
    write_answer(
        &a, open_job(NULL, 0, true, true),
        "<|channel|>analysis<|message|>Let me see.<|end|><|start|>assistant<|channel|>final"
        "<|message|>It is h\xc3\xa9re.<|return|>",
        &n_reasoning);
    assert_string_equal(a.text[TD_CHANNEL_ANALYSIS], "Let me see.");
    assert_string_equal(a.text[TD_CHANNEL_FINAL], "It is h\xc3\xa9re.");
    assert_int_equal(a.end, TD_JOB_STOPPED);
    check_tokens(&a, "Let me see.It is h\xc3\xa9re.");
    struct td_ids ids = {0};
    OK(td_encode(tokenizer, "Let me see.", 11, false, &ids, &err));
    assert_int_equal(n_reasoning, ids.n);
    td_ids_free(&ids);
    answer_end(&a);
}

static void a_tool_call(void **state)
{
    (void)state;
    struct answer a;
    write_answer(
        &a, open_job(NULL, 0, true, false),
        "<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{\"city\":\"Ulm\"}"
        "<|call|>",
        NULL);
    assert_string_equal(a.calls, "weather({\"city\":\"Ulm\"})");
    assert_int_equal(a.end, TD_JOB_TOOLS);
    answer_end(&a);
}

#define CALL(args, end) "<|channel|>commentary to=functions.f <|constrain|>json<|message|>" args end
#define NEXT            "<|start|>assistant"
#define FINAL           "<|channel|>final<|message|>Done.<|return|>"

#define WRITTEN TD_JOB_CALLS_AS_WRITTEN
#define ONE     TD_JOB_CALLS_ONE
#define MORE    TD_JOB_CALLS_MORE

// What a model writes behind a call, and which calls an answer has then.
static void several_tool_calls(void **state)
{
    (void)state;
    static const char one[] = "f(1)", two[] = "f(1)f(2)";
    static const struct {
        const char *text, *calls, *final;
        enum td_job_calls mode;
    } cases[] = {
        // Ended as any message is: the answer goes on.
        {CALL("1", "<|end|>") NEXT CALL("2", "<|call|>"), two, "", WRITTEN},
        {CALL("1", "<|end|>") NEXT CALL("2", "<|end|>") NEXT FINAL, two, "Done.", WRITTEN},
        {CALL("1", "<|end|>") NEXT CALL("2", "<|call|>"), one, "", ONE},
        {CALL("1", "") NEXT CALL("2", "<|call|>"), two, "", WRITTEN}, // no end at all
        {CALL("1", "") NEXT CALL("2", "<|call|>"), one, "", ONE},
        {CALL("1", "<|end|>") NEXT CALL("2", "<|call|>") NEXT CALL("3", "<|return|>"),
         "f(1)f(2)f(3)", "", MORE},
        // Ended as a call is: so is the answer, unless more are wanted and there are more.
        {CALL("1", "<|call|>") NEXT CALL("2", "<|call|>"), one, "", WRITTEN},
        {CALL("1", "<|call|>") NEXT CALL("2", "<|call|>"), one, "", ONE},
        {CALL("1", "<|call|>") NEXT CALL("2", "<|call|><|call|>") NEXT CALL("3", ""), two, "",
         MORE},
        {CALL("1", "<|call|>") NEXT
         " to=functions.f<|channel|>commentary json<|message|>2<|call|>x",
         two, "", MORE},
        // Anything else behind it is not said: a call that stutters, its own result, an answer
        // without one, a header in plain letters.
        {CALL("1", "<|call|><|call|>") NEXT CALL("2", "<|call|>"), one, "", MORE},
        {CALL("1", "<|call|>commentary") CALL("2", "<|call|>"), one, "", MORE},
        {CALL("1", "<|call|>") "<|start|>functions.f to=assistant<|channel|>commentary<|message|>2"
                               "<|end|>",
         one, "", MORE},
        {CALL("1", "<|call|>") NEXT FINAL, one, "", MORE},
        {CALL("1", "<|call|>") NEXT "<|channel|>commentary<|message|>Hm.<|end|>", one, "", MORE},
        {CALL("1", "<|call|>") "<|start|>ass<|start|>istant" CALL("2", "<|call|>"), one, "", MORE},
        {CALL("1", "<|call|>") "<" NEXT CALL("2", "<|call|>"), one, "", MORE},
        {CALL("1", "<|call|><|return|>"), one, "", MORE},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct answer a;
        struct td_job *job = open_job(NULL, 0, true, true);
        job->spec.calls = cases[i].mode;
        write_answer(&a, job, cases[i].text, NULL);
        assert_string_equal(a.calls, cases[i].calls);
        assert_string_equal(a.text[TD_CHANNEL_FINAL], cases[i].final);
        assert_string_equal(a.text[TD_CHANNEL_COMMENTARY], "");
        assert_int_equal(a.end, TD_JOB_TOOLS);
        answer_end(&a);
    }
    // The limit comes where nothing is cut off, and where something is.
    struct answer a;
    struct td_job *job = open_job(NULL, 0, true, false);
    job->spec.calls = MORE;
    write_answer(&a, job, CALL("1", "<|call|>") NEXT "<|channel|>comm", NULL);
    assert_string_equal(a.calls, one);
    assert_int_equal(a.end, TD_JOB_TOOLS);
    answer_end(&a);
    job = open_job(NULL, 0, true, false);
    job->spec.calls = MORE;
    write_answer(&a, job, CALL("1", "<|call|>") NEXT CALL("2", ""), NULL);
    assert_string_equal(a.calls, "f(1)f(2");
    assert_int_equal(a.end, TD_JOB_LENGTH);
    answer_end(&a);
}

static void stops_are_for_the_final_channel(void **state)
{
    (void)state;
    static const char *const stops[] = {"see. It", "END"};
    struct answer a;
    write_answer(&a, open_job(stops, 2, true, true),
                 "<|channel|>analysis<|message|>An END<|end|><|start|>assistant<|channel|>final"
                 "<|message|>We see. That EN and EEND more<|return|>",
                 NULL);
    assert_string_equal(a.text[TD_CHANNEL_ANALYSIS], "An END");
    assert_string_equal(a.text[TD_CHANNEL_FINAL], "We see. That EN and E");
    assert_int_equal(a.end, TD_JOB_STOPPED);
    answer_end(&a);
}

static void held_text_comes_at_the_end(void **state)
{
    (void)state;
    static const char *const stops[] = {"END"};
    struct answer a;
    write_answer(&a, open_job(stops, 1, false, true), "the EN", NULL);
    assert_string_equal(a.text[TD_CHANNEL_FINAL], "the EN");
    assert_int_equal(a.end, TD_JOB_LENGTH);
    check_tokens(&a, "the EN");
    answer_end(&a);
    write_answer(&a, open_job(stops, 1, false, true), "the END", NULL);
    assert_string_equal(a.text[TD_CHANNEL_FINAL], "the ");
    assert_int_equal(a.end, TD_JOB_STOPPED);
    answer_end(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refuses_nonsense),
        cmocka_unit_test(events_in_order),
        cmocka_unit_test(a_taken_event_stays),
        cmocka_unit_test(tells_of_news_once),
        cmocka_unit_test(close_waits_for_a_call),
        cmocka_unit_test(close_means_cancel),
        cmocka_unit_test(stops_in_any_pieces),
        cmocka_unit_test(a_chat_answer),
        cmocka_unit_test(a_tool_call),
        cmocka_unit_test(several_tool_calls),
        cmocka_unit_test(stops_are_for_the_final_channel),
        cmocka_unit_test(held_text_comes_at_the_end),
    };
    return cmocka_run_group_tests(tests, open_tokenizer, close_tokenizer);
}
