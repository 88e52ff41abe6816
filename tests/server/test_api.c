// SPDX-License-Identifier: MIT
// What clients get: each route's answer to scripted events, byte for byte as in golden/ but for ids
// and times. With TD_GOLDEN=write in the environment the files are written instead of compared.
// cmocka.h needs these first.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "server/api_rig.h"

#define HELLO "\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}]"

static struct td_api *api;
static struct td_tokenizer *tokenizer;

static int setup(void **state)
{
    (void)state;
    tokenizer = rig_tokenizer();
    const struct td_api_config cfg = {
        .tokenizer = tokenizer, .model_name = "small", .n_ctx = 4096, .version = "1.2"};
    return td_api_open(&api, &cfg, NULL);
}

static int teardown(void **state)
{
    (void)state;
    td_api_close(api);
    td_tokenizer_close(tokenizer);
    free(asked.tokens);
    asked.tokens = NULL;
    return 0;
}

static int reset(void **state)
{
    (void)state;
    memset(&script, 0, sizeof(script));
    asked.n_jobs = asked.n_submitted = asked.n_cancelled = 0;
    return 0;
}

static void play(const struct td_job_event *events, size_t n)
{
    script.events = events;
    script.n_events = script.n_released = n;
}

// ---- Answers as text ----

struct text {
    char *at;
    size_t n;
};

static void add(struct text *t, const char *bytes, size_t n)
{
    t->at = realloc(t->at, t->n + n + 1);
    assert_non_null(t->at);
    memcpy(t->at + t->n, bytes, n);
    t->n += n;
    t->at[t->n] = '\0';
}

static struct td_api_reply *begin(const char *method, const char *path, const char *body)
{
    const struct td_api_request req = {
        .method = method, .path = path, .body = body, .body_bytes = body ? strlen(body) : 0};
    struct td_api_reply *r = td_api_begin(api, &req);
    assert_non_null(r);
    return r;
}

// Everything there is, or an empty text; whether it is all.
static bool read_all(struct td_api_reply *r, struct text *out)
{
    for (;;) {
        const char *bytes = NULL;
        size_t n = 0;
        const enum td_api_state state = td_api_read(r, &bytes, &n);
        if (state == TD_API_DONE) return true;
        if (state == TD_API_WAIT) return false;
        assert_true(n > 0);
        add(out, bytes, n);
    }
}

// Ids and times: another one each time.
static size_t changing(const char *p, char last[2])
{
    static const char *const ids[] = {"chatcmpl-", "cmpl-", "resp_", "msg_", "rs_", "fc_", "call_"};
    static const char *const times[] = {
        "\"created\":", "\"created_at\":",  "\"completed_at\":", "\"total_duration\":",
        "\"time_ms\":", "\"modified_at\":", "\"expires_at\":"};
    for (size_t i = 0; i < sizeof(ids) / sizeof(ids[0]); i++) {
        const size_t n = strlen(ids[i]);
        if (strncmp(p, ids[i], n) != 0 ||
            strspn(p + n, "0123456789abcdefghijklmnopqrstuvwxyz") != 24)
            continue;
        return n + 24;
    }
    for (size_t i = 0; i < sizeof(times) / sizeof(times[0]); i++) {
        const size_t n = strlen(times[i]);
        if (strncmp(p, times[i], n) != 0) continue;
        last[0] = ':';
        return n + strspn(p + n, "0123456789.+-eTZ:\"");
    }
    return 0;
}

static void normalise(struct text *t)
{
    char *to = t->at;
    for (const char *p = t->at; *p;) {
        char last[2] = "#";
        const size_t n = changing(p, last);
        if (n == 0) {
            *to++ = *p++;
            continue;
        }
        const size_t n_name = last[0] == ':' ? strcspn(p, ":") : strcspn(p, "-_");
        memmove(to, p, n_name + 1);
        to += n_name + 1;
        *to++ = '#';
        p += n;
    }
    *to = '\0';
    t->n = (size_t)(to - t->at);
}

static void compare(const char *name, struct text *t)
{
    char path[128];
    (void)snprintf(path, sizeof(path), "tests/server/golden/%s.txt", name);
    normalise(t);
    const char *mode = getenv("TD_GOLDEN"); // NOLINT(concurrency-mt-unsafe)
    if (mode && strcmp(mode, "write") == 0) {
        FILE *f = fopen(path, "w");
        assert_non_null(f);
        assert_int_equal(fwrite(t->at, 1, t->n, f), t->n);
        fclose(f);
        return;
    }
    FILE *f = fopen(path, "r");
    if (!f) fail_msg("no %s", path);
    static char want[64 << 10];
    const size_t n = fread(want, 1, sizeof(want) - 1, f);
    fclose(f);
    want[n] = '\0';
    if (strcmp(want, t->at) != 0) fail_msg("%s:\n%s\ninstead of\n%s", path, t->at, want);
}

static void golden(const char *name, unsigned status, const char *path, const char *body)
{
    struct text t = {0};
    struct td_api_head head;
    struct td_api_reply *r = begin(body ? "POST" : "GET", path, body);
    assert_true(td_api_is_settled(r));
    td_api_head(r, &head);
    char line[128];
    (void)snprintf(line, sizeof(line), "%u %s%s\n", head.status, head.content_type,
                   head.is_stream ? ", a stream" : "");
    add(&t, line, strlen(line));
    const size_t n = t.n;
    assert_true(read_all(r, &t));
    if (!head.is_stream) assert_int_equal(head.length_bytes, t.n - n);
    assert_int_equal(head.status, status);
    td_api_end(r);
    assert_int_equal(asked.n_open, 0);
    compare(name, &t);
    free(t.at);
}

// ---- Scripts ----

static const struct td_job_token tokens[] = {
    {.chosen = {SMALL_SPECIAL(0) - 1, -0.5f}, .top = {{'h', -0.25f}, {0xC3, -3}}, .n_top = 2},
    {.chosen = {'i', -0.125f}, .top = {{'i', -0.125f}}, .n_top = 1},
};

static const struct td_job_event talk[] = {
    {.kind = TD_JOB_PROGRESS, .n_done = 6, .n_prompt = 70, .text = ""},
    {.kind = TD_JOB_PROGRESS, .n_done = 38, .n_prompt = 70, .is_remote = true, .text = ""},
    SAYS(TD_CHANNEL_ANALYSIS, "They say \"hello\"."),
    SAYS(TD_CHANNEL_FINAL, "Hi,\n"),
    SAYS(TD_CHANNEL_FINAL, "there \xF0\x9F\x99\x82"),
    ENDS(TD_JOB_STOPPED),
};

static const struct td_job_event call[] = {
    SAYS(TD_CHANNEL_ANALYSIS, "Weather."),
    SAYS(TD_CHANNEL_COMMENTARY, "Let me look."),
    TOOL(TD_JOB_TOOL_BEGIN, "get_weather"),
    TOOL(TD_JOB_TOOL_ARGS, "{\"city\":"),
    TOOL(TD_JOB_TOOL_ARGS, "\"Bern\"}"),
    TOOL(TD_JOB_TOOL_END, ""),
    ENDS(TD_JOB_TOOLS),
};

static const struct td_job_event calls[] = {
    TOOL(TD_JOB_TOOL_BEGIN, "get_weather"),
    TOOL(TD_JOB_TOOL_ARGS, "{\"city\":"),
    TOOL(TD_JOB_TOOL_ARGS, "\"Bern\"}"),
    TOOL(TD_JOB_TOOL_END, ""),
    SAYS(TD_CHANNEL_COMMENTARY, "And there."),
    TOOL(TD_JOB_TOOL_BEGIN, "get_weather"),
    TOOL(TD_JOB_TOOL_ARGS, "{\"city\":\"Basel\"}"),
    TOOL(TD_JOB_TOOL_END, ""),
    TOOL(TD_JOB_TOOL_BEGIN, "get_time"),
    TOOL(TD_JOB_TOOL_END, ""),
    ENDS(TD_JOB_TOOLS),
};

static const struct td_job_event cut[] = {
    SAYS(TD_CHANNEL_COMMENTARY, "First."),
    SAYS(TD_CHANNEL_FINAL, "Then it sto"),
    ENDS(TD_JOB_LENGTH),
};

static const struct td_job_event breaks[] = {
    SAYS(TD_CHANNEL_FINAL, "So far"),
    {.kind = TD_JOB_FAILED, .text = "", .error = {.code = TD_EIO, .msg = "the disk is gone"}},
};

static const struct td_job_event with_tokens[] = {
    {.kind = TD_JOB_TEXT,
     .channel = TD_CHANNEL_FINAL,
     .text = "hi",
     .text_bytes = 2,
     .tokens = tokens,
     .n_tokens = 2},
    ENDS(TD_JOB_STOPPED),
};

#define PLAY(events) play(events, sizeof(events) / sizeof((events)[0]))

#define TOOLS                                                                                      \
    "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"get_weather\",\"parameters\":"     \
    "{\"type\":\"object\",\"properties\":{\"city\":{\"type\":\"string\"}}}}}]"
#define FLAT_TOOLS                                                                                 \
    "\"tools\":[{\"type\":\"function\",\"name\":\"get_weather\",\"parameters\":"                   \
    "{\"type\":\"object\",\"properties\":{\"city\":{\"type\":\"string\"}}}}]"

// ---- Tests ----

static void chat(void **state)
{
    (void)state;
    PLAY(talk);
    golden("chat", 200, "/v1/chat/completions", "{" HELLO "}");
    golden("chat-stream", 200, "/v1/chat/completions", "{\"stream\":true," HELLO "}");
    golden("chat-stream-more", 200, "/v1/chat/completions",
           "{\"stream\":true,\"return_progress\":true,\"stream_options\":{\"include_usage\":true},"
           "\"n\":2," HELLO "}");
    golden("chat-quiet", 200, "/v1/chat/completions",
           "{\"reasoning_effort\":\"none\"," TOOLS "," HELLO "}");
    PLAY(call);
    golden("chat-call", 200, "/v1/chat/completions", "{" HELLO "," TOOLS "}");
    golden("chat-call-stream", 200, "/v1/chat/completions",
           "{\"stream\":true," HELLO "," TOOLS "}");
    PLAY(calls);
    golden("chat-calls", 200, "/v1/chat/completions", "{" HELLO "," TOOLS "}");
    golden("chat-calls-stream", 200, "/v1/chat/completions",
           "{\"stream\":true," HELLO "," TOOLS "}");
    PLAY(cut);
    golden("chat-cut", 200, "/v1/chat/completions", "{" HELLO "}");
    PLAY(with_tokens);
    golden("chat-logprobs", 200, "/v1/chat/completions",
           "{" HELLO ",\"logprobs\":true,\"top_logprobs\":2}");
    golden("chat-logprobs-stream", 200, "/v1/chat/completions",
           "{" HELLO ",\"logprobs\":true,\"top_logprobs\":2,\"stream\":true}");
}

static void completion(void **state)
{
    (void)state;
    static const struct td_job_event plain[] = {
        {.kind = TD_JOB_PROGRESS, .n_done = 1, .n_prompt = 2, .text = ""},
        SAYS(TD_CHANNEL_FINAL, " wor"),
        SAYS(TD_CHANNEL_FINAL, "ld"),
        ENDS(TD_JOB_LENGTH),
    };
    PLAY(plain);
    golden("completion", 200, "/v1/completions", "{\"prompt\":\"hello\"}");
    golden("completion-stream", 200, "/v1/completions",
           "{\"prompt\":[\"hello\",\"ab\"],\"echo\":true,\"stream\":true,"
           "\"stream_options\":{\"include_usage\":true}}");
    golden("completion-many", 200, "/v1/completions",
           "{\"prompt\":[[104,105],\"ab\"],\"echo\":true,\"n\":2}");
    PLAY(with_tokens);
    golden("completion-logprobs", 200, "/v1/completions", "{\"prompt\":\"hello\",\"logprobs\":2}");
}

static void responses(void **state)
{
    (void)state;
    PLAY(talk);
    golden("responses", 200, "/v1/responses",
           "{\"input\":\"hello\",\"metadata\":{\"a\":\"b\"},\"instructions\":\"Be nice.\"}");
    golden("responses-stream", 200, "/v1/responses", "{\"input\":\"hello\",\"stream\":true}");
    PLAY(call);
    golden("responses-call", 200, "/v1/responses", "{\"input\":\"hello\"," FLAT_TOOLS "}");
    golden("responses-call-stream", 200, "/v1/responses",
           "{\"input\":\"hello\",\"stream\":true," FLAT_TOOLS "}");
    PLAY(calls);
    golden("responses-calls", 200, "/v1/responses",
           "{\"input\":\"hello\",\"parallel_tool_calls\":true," FLAT_TOOLS "}");
    golden("responses-calls-stream", 200, "/v1/responses",
           "{\"input\":\"hello\",\"stream\":true," FLAT_TOOLS "}");
    PLAY(cut);
    golden("responses-cut", 200, "/v1/responses", "{\"input\":\"hello\"}");
    PLAY(with_tokens);
    golden("responses-logprobs", 200, "/v1/responses",
           "{\"input\":\"hello\",\"stream\":true,\"include\":[\"message.output_text.logprobs\"]}");
}

static void ollama(void **state)
{
    (void)state;
    PLAY(talk);
    golden("ollama-chat", 200, "/api/chat", "{\"model\":\"m\",\"stream\":false," HELLO "}");
    golden("ollama-chat-stream", 200, "/api/chat", "{\"model\":\"m\"," HELLO "}");
    golden("ollama-generate", 200, "/api/generate",
           "{\"model\":\"m\",\"stream\":false,\"prompt\":\"hello\"}");
    golden("ollama-generate-stream", 200, "/api/generate", "{\"model\":\"m\",\"prompt\":\"a\"}");
    golden("ollama-load", 200, "/api/generate", "{\"model\":\"m\"}");
    PLAY(call);
    golden("ollama-call", 200, "/api/chat",
           "{\"model\":\"m\",\"stream\":false," HELLO "," TOOLS "}");
    golden("ollama-call-stream", 200, "/api/chat", "{\"model\":\"m\"," HELLO "," TOOLS "}");
    PLAY(calls);
    golden("ollama-calls", 200, "/api/chat",
           "{\"model\":\"m\",\"stream\":false," HELLO "," TOOLS "}");
    golden("ollama-calls-stream", 200, "/api/chat", "{\"model\":\"m\"," HELLO "," TOOLS "}");
    PLAY(cut);
    golden("ollama-cut", 200, "/api/chat", "{\"model\":\"m\",\"stream\":false," HELLO "}");
}

static void about(void **state)
{
    (void)state;
    golden("models", 200, "/v1/models", NULL);
    golden("model", 200, "/v1/models/small", NULL);
    golden("model-unknown", 404, "/v1/models/gpt-4", NULL);
    golden("ollama-tags", 200, "/api/tags", NULL);
    golden("ollama-ps", 200, "/api/ps", NULL);
    golden("ollama-show", 200, "/api/show", "{\"model\":\"small\"}");
    golden("ollama-version", 200, "/api/version", NULL);
}

// What fails before anything was said has a status; what fails later says so in the stream.
static void failures(void **state)
{
    (void)state;
    play(breaks + 1, 1);
    golden("fail", 500, "/v1/chat/completions", "{\"stream\":true," HELLO "}");
    golden("ollama-fail", 500, "/api/chat", "{" HELLO "}");
    PLAY(breaks);
    golden("chat-fail", 500, "/v1/chat/completions", "{" HELLO "}");
    golden("chat-fail-stream", 200, "/v1/chat/completions", "{\"stream\":true," HELLO "}");
    golden("completion-fail-stream", 200, "/v1/completions",
           "{\"stream\":true,\"prompt\":\"hello\"}");
    golden("responses-fail-stream", 200, "/v1/responses", "{\"stream\":true,\"input\":\"hello\"}");
    golden("ollama-fail-stream", 200, "/api/chat", "{" HELLO "}");
    static const struct td_job_event gone[] = {ENDS(TD_JOB_CANCELLED)};
    PLAY(gone);
    golden("cancelled", 503, "/v1/chat/completions", "{" HELLO "}");
}

static void queue(void **state)
{
    (void)state;
    struct td_api_head head;
    script.submit_code = TD_EFULL;
    script.submit_message = "16 wait";
    script.retry_s = 7;
    golden("full", 503, "/v1/chat/completions", "{" HELLO "}");
    golden("ollama-full", 503, "/api/chat", "{" HELLO "}");
    // The third of five is refused: the first two stop.
    script.n_accepted = asked.n_submitted + 2;
    struct td_api_reply *r = begin("POST", "/v1/chat/completions", "{\"n\":5," HELLO "}");
    td_api_head(r, &head);
    assert_int_equal(head.status, 503);
    assert_int_equal(head.retry_after_s, 7);
    assert_int_equal(asked.n_cancelled, 2);
    const char *bytes = NULL;
    size_t n = 0;
    assert_int_equal(td_api_read(r, &bytes, &n), TD_API_PIECE);
    assert_non_null(strstr(bytes, "Only 2 of the 5 answers find a place now"));
    td_api_end(r);
    assert_int_equal(asked.n_open, 0);
    script.submit_code = TD_ECANCEL;
    golden("draining", 503, "/v1/chat/completions", "{" HELLO "}");
    script.submit_code = TD_ENOMEM;
    script.submit_message = "no memory for a job";
    golden("no-memory", 500, "/v1/chat/completions", "{" HELLO "}");
}

// Events that come one by one, and what is said while none comes.
static void steps(void **state)
{
    (void)state;
    struct text t = {0};
    const char *bytes = NULL;
    size_t n = 0;
    PLAY(talk);
    script.n_released = 0;
    struct td_api_reply *r = begin("POST", "/v1/chat/completions", "{\"stream\":true," HELLO "}");
    assert_false(td_api_is_settled(r));
    assert_int_equal(td_api_read(r, &bytes, &n), TD_API_WAIT);
    td_api_keep_alive(r, &bytes, &n);
    assert_int_equal(n, 0); // nothing can be said before the status
    script.n_released = 1;
    assert_true(td_api_is_settled(r));
    assert_false(read_all(r, &t));
    assert_non_null(strstr(t.at, ": progress 6/70"));
    td_api_keep_alive(r, &bytes, &n);
    assert_true(n > 2 && bytes[0] == ':' && memcmp(bytes + n - 2, "\n\n", 2) == 0);
    script.n_released = 4;
    assert_false(read_all(r, &t));
    assert_non_null(strstr(t.at, "Hi,"));
    assert_null(strstr(t.at, "there"));
    script.n_released = script.n_events;
    assert_true(read_all(r, &t));
    assert_non_null(strstr(t.at, "data: [DONE]"));
    struct td_api_account a;
    td_api_account(r, &a);
    assert_string_equal(a.outcome, "stop");
    assert_string_equal(a.path, "local");
    assert_int_equal(a.n_prompt, 70);
    assert_int_equal(a.n_reused, 6);
    assert_int_equal(a.n_written, 20);
    td_api_end(r);
    free(t.at);

    // A whole answer waits for its end; a client that goes first is "cancelled".
    script.n_released = 4;
    r = begin("POST", "/v1/chat/completions", "{" HELLO "}");
    assert_false(td_api_is_settled(r));
    assert_int_equal(td_api_read(r, &bytes, &n), TD_API_WAIT);
    td_api_account(r, &a);
    assert_string_equal(a.outcome, "cancelled");
    td_api_end(r);
    assert_int_equal(asked.n_open, 0);

    script.n_released = 4;
    r = begin("POST", "/api/chat", "{" HELLO "}");
    assert_true(td_api_is_settled(r));
    td_api_keep_alive(r, &bytes, &n);
    assert_true(n > 2 && bytes[0] == '{' && bytes[n - 1] == '\n');
    td_api_end(r);
}

static void routes(void **state)
{
    (void)state;
    const char *methods = NULL;
    assert_true(td_api_has("POST", "/v1/chat/completions", &methods));
    assert_true(td_api_has("GET", "/v1/models/a%20b", &methods));
    assert_false(td_api_has("GET", "/v1/chat/completions", &methods));
    assert_string_equal(methods, "POST");
    assert_false(td_api_has("GET", "/v1/models/", &methods));
    assert_null(methods);
    assert_false(td_api_has("POST", "/v1/embeddings", &methods));
    assert_null(methods);
    golden("no-route", 404, "/v1/embeddings", "{}");
    golden("no-method", 405, "/v1/models", "{}");
}

static void error_json(void **state)
{
    (void)state;
    char buf[256];
    size_t n = td_api_error_json(buf, sizeof(buf), 401, "A key is \"needed\".");
    assert_int_equal(n, strlen(buf));
    assert_string_equal(buf, "{\"error\":{\"message\":\"A key is \\\"needed\\\".\",\"type\":"
                             "\"authentication_error\",\"param\":null,\"code\":null}}");
    char text[600];
    for (size_t i = 0; i + 1 < sizeof(text); i += 2) memcpy(text + i, "\xC3\xA9", 2);
    text[598] = '\0';
    for (size_t size = 0; size < sizeof(buf); size++) {
        memset(buf, 'x', sizeof(buf));
        n = td_api_error_json(buf, size, 413, text);
        assert_true(n == 0 || n < size);
        if (n == 0) continue;
        assert_true(buf[0] == '{' && strcmp(buf + n - 2, "}}") == 0);
        assert_null(strstr(buf, "\xEF\xBF\xBD"));
    }
    assert_true(n > 200);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(chat, reset),      cmocka_unit_test_setup(completion, reset),
        cmocka_unit_test_setup(responses, reset), cmocka_unit_test_setup(ollama, reset),
        cmocka_unit_test_setup(about, reset),     cmocka_unit_test_setup(failures, reset),
        cmocka_unit_test_setup(queue, reset),     cmocka_unit_test_setup(steps, reset),
        cmocka_unit_test_setup(routes, reset),    cmocka_unit_test_setup(error_json, reset),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
