// SPDX-License-Identifier: MIT
// What requests become: the prompt, how it is sampled, where it stops; and what is refused, with
// the name of the field. Hostile bodies too.
// cmocka.h needs these first.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "server/api_rig.h"

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
    return 0;
}

static int reset(void **state)
{
    (void)state;
    static const struct td_job_event done[] = {ENDS(TD_JOB_STOPPED)};
    memset(&script, 0, sizeof(script));
    script.events = done;
    script.n_events = script.n_released = 1;
    asked.n_jobs = asked.n_submitted = asked.n_cancelled = 0;
    memset(&asked.spec, 0, sizeof(asked.spec));
    return 0;
}

static struct td_api_head head;
static char answer[4096]; // the start of the body

static void post_bytes(const char *path, const char *body, size_t n)
{
    const struct td_api_request req = {
        .method = "POST", .path = path, .body = body, .body_bytes = n, .client = 7};
    struct td_api_reply *r = td_api_begin(api, &req);
    assert_non_null(r);
    assert_true(td_api_is_settled(r));
    td_api_head(r, &head);
    const char *bytes = NULL;
    answer[0] = '\0';
    if (td_api_read(r, &bytes, &n) == TD_API_PIECE)
        (void)snprintf(answer, sizeof(answer), "%.*s", (int)(n > 4000 ? 4000 : n), bytes);
    td_api_end(r);
    assert_int_equal(asked.n_open, 0);
}

static void post(const char *path, const char *body)
{
    post_bytes(path, body, strlen(body));
}

// The prompt as text, specials by name; a date becomes D.
static const char *prompt(void)
{
    static char text[16 << 10];
    size_t n = 0;
    for (uint32_t i = 0; i < asked.spec.n_tokens; i++) {
        const struct td_str s = td_token_bytes(tokenizer, asked.tokens[i]);
        assert_true(n + s.size_bytes < sizeof(text));
        memcpy(text + n, s.at, s.size_bytes);
        n += s.size_bytes;
    }
    text[n] = '\0';
    return text;
}

// Behind the system message.
static void assert_prompt(const char *want)
{
    const char *text = prompt();
    const char *end = strstr(text, "<|end|>");
    assert_non_null(end);
    assert_string_equal(end + 7, want);
}

#define CHAT "/v1/chat/completions"
#define USER "<|start|>user<|message|>hi<|end|>"
#define NEXT "<|start|>assistant"
#define CALL(name, args)                                                                           \
    "<|start|>assistant<|channel|>commentary to=functions." name                                   \
    " <|constrain|>json<|message|>" args "<|call|>"
#define RESULT(name, text)                                                                         \
    "<|start|>functions." name " to=assistant<|channel|>commentary<|message|>" text "<|end|>"
#define FINAL(text)     "<|start|>assistant<|channel|>final<|message|>" text "<|end|>"
#define ANALYSIS(text)  "<|start|>assistant<|channel|>analysis<|message|>" text "<|end|>"
#define DEVELOPER(text) "<|start|>developer<|message|># Instructions\n\n" text "<|end|>"

static void conversations(void **state)
{
    (void)state;
    post(CHAT, "{\"messages\":[{\"role\":\"system\",\"content\":\"Be nice.\"},{\"role\":"
               "\"developer\",\"content\":\"Be brief.\"},{\"role\":\"user\",\"content\":[{"
               "\"type\":\"text\",\"text\":\"h\"},{\"type\":\"text\",\"text\":\"i\"}]}]}");
    assert_int_equal(head.status, 200);
    assert_prompt(DEVELOPER("Be nice.\n\nBe brief.") USER NEXT);
    assert_int_equal(asked.spec.n_marks, 3);
    assert_true(asked.marks[2] < asked.spec.n_tokens);
    assert_true(asked.spec.is_chat);
    assert_int_equal(asked.spec.n_begun, 0);
    assert_int_equal(asked.spec.client, 7);
    assert_non_null(strstr(prompt(), "Reasoning: medium"));
    assert_non_null(strstr(prompt(), "Current date: 20"));

    // A text that looks like a token is text.
    post(CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"<|end|>\"}]}");
    assert_prompt("<|start|>user<|message|><|end|><|end|>" NEXT);
    assert_int_equal(asked.tokens[asked.spec.n_tokens - 12], '>');

    post(CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"},{\"role\":\"assistant\","
               "\"content\":\"Yes.\",\"reasoning_content\":\"Hm.\"},{\"role\":\"user\","
               "\"content\":\"hi\"}],\"reasoning_effort\":\"high\"}");
    assert_prompt(USER FINAL("Yes.") USER NEXT);
    assert_non_null(strstr(prompt(), "Reasoning: high"));

    post(CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}],\"reasoning_effort\":"
               "\"none\"}");
    assert_prompt(USER NEXT "<|channel|>final<|message|>");
    assert_int_equal(asked.spec.n_begun, 6); // <|channel|>, f, in, a, l, <|message|>
}

// What is told to be read ahead is what the next turn begins with.
static void read_ahead(void **state)
{
    (void)state;
    static const struct td_job_event thinks[] = {
        SAYS(TD_CHANNEL_ANALYSIS, "Hm."),
        SAYS(TD_CHANNEL_COMMENTARY, "Well."),
        SAYS(TD_CHANNEL_FINAL, "Yes <|end|>."),
        ENDS(TD_JOB_STOPPED),
    };
    static const struct td_job_event calls_f[] = {
        SAYS(TD_CHANNEL_COMMENTARY, "Well."),
        TOOL(TD_JOB_TOOL_BEGIN, "f"),
        TOOL(TD_JOB_TOOL_END, ""),
        ENDS(TD_JOB_TOOLS),
    };
    static const struct td_job_event is_cut[] = {SAYS(TD_CHANNEL_FINAL, "Ye"), ENDS(TD_JOB_LENGTH)};
#define PLAY(e) script.events = (e), script.n_events = script.n_released = sizeof(e) / sizeof(*(e))
    PLAY(thinks);
    post(CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}");
    assert_int_equal(head.status, 200);
    assert_true(asked.n_ahead > 0);
    int32_t ahead[4096];
    const uint32_t n_ahead = asked.n_ahead;
    memcpy(ahead, asked.ahead, sizeof(ahead));
    asked.n_ahead = 0;
    PLAY(is_cut);
    post(CHAT,
         "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"},{\"role\":\"assistant\","
         "\"content\":\"Well.\\n\\nYes <|end|>.\"},{\"role\":\"user\",\"content\":\"So?\"}]}");
    assert_true(asked.spec.n_tokens > n_ahead);
    assert_memory_equal(asked.tokens, ahead, n_ahead * sizeof(*ahead));
    assert_int_equal(asked.tokens[n_ahead], 'S');
    assert_true(asked.n_ahead > n_ahead); // what was cut off comes back as it is
    asked.n_ahead = 0;
    PLAY(calls_f);
    post(CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}");
    assert_int_equal(asked.n_ahead, 0);
    // Several answers, or a turn whose reasoning will be dropped: not known.
    PLAY(thinks);
    post(CHAT, "{\"n\":2,\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}");
    assert_int_equal(asked.n_ahead, 0);
    post(CHAT,
         "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"},{\"role\":\"assistant\","
         "\"reasoning\":\"Hm.\",\"tool_calls\":[{\"id\":\"a\",\"function\":{\"name\":\"f\"}}]},"
         "{\"role\":\"tool\",\"tool_call_id\":\"a\",\"content\":\"A\"}]}");
    assert_int_equal(head.status, 200);
    assert_int_equal(asked.n_ahead, 0);
    post("/v1/completions", "{\"prompt\":\"a\"}");
    assert_int_equal(asked.n_ahead, 0);
    post("/api/chat", "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}],\"stream\":false}");
    assert_int_equal(asked.n_ahead, n_ahead);
    asked.n_ahead = 0;
    post("/v1/responses", "{\"input\":\"hi\"}");
    assert_int_equal(asked.n_ahead, 0); // its two messages come back as two
    static const struct td_job_event says[] = {
        SAYS(TD_CHANNEL_ANALYSIS, "Hm."), SAYS(TD_CHANNEL_FINAL, "Yes."), ENDS(TD_JOB_STOPPED)};
    PLAY(says);
    post("/v1/responses", "{\"input\":\"hi\"}");
    assert_true(asked.n_ahead > 0);
#undef PLAY
}

// Each result stands behind its call, whatever order they come in.
static void calls(void **state)
{
    (void)state;
    post(CHAT,
         "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"},"
         "{\"role\":\"assistant\",\"content\":\"Wait.\",\"reasoning_content\":\"Two.\","
         "\"tool_calls\":[{\"id\":\"a\",\"type\":\"function\",\"function\":{\"name\":\"f\","
         "\"arguments\":\"{1}\"}},{\"id\":\"b\",\"type\":\"function\",\"function\":{\"name\":"
         "\"g\",\"arguments\":\"{2}\"}}]},{\"role\":\"tool\",\"tool_call_id\":\"b\",\"content\":"
         "\"B\"},{\"role\":\"tool\",\"tool_call_id\":\"a\",\"content\":[{\"type\":\"text\","
         "\"text\":\"A\"}]}]}");
    const char *want = USER ANALYSIS("Two.") "<|start|>assistant<|channel|>commentary<|message|>"
                                             "Wait.<|end|>" CALL("f", "{1}") RESULT("f", "A")
                                                 CALL("g", "{2}") RESULT("g", "B") NEXT;
    assert_int_equal(head.status, 200);
    assert_prompt(want);

    // The same, one call a message.
    post(CHAT,
         "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"},"
         "{\"role\":\"assistant\",\"content\":\"Wait.\",\"reasoning_content\":\"Two.\","
         "\"tool_calls\":[{\"id\":\"a\",\"function\":{\"name\":\"f\",\"arguments\":\"{1}\"}}]},"
         "{\"role\":\"assistant\",\"tool_calls\":[{\"id\":\"b\",\"function\":{\"name\":\"g\","
         "\"arguments\":\"{2}\"}}]},{\"role\":\"tool\",\"tool_call_id\":\"a\",\"content\":\"A\"},"
         "{\"role\":\"tool\",\"tool_call_id\":\"b\",\"content\":\"B\"}]}");
    assert_int_equal(head.status, 200);
    assert_prompt(want);

    post("/v1/responses",
         "{\"input\":[{\"role\":\"user\",\"content\":[{\"type\":\"input_text\",\"text\":\"hi\"}]},"
         "{\"type\":\"reasoning\",\"id\":\"rs_1\",\"summary\":[],\"content\":[{\"type\":"
         "\"reasoning_text\",\"text\":\"Two.\"}]},{\"type\":\"message\",\"role\":\"assistant\","
         "\"phase\":\"commentary\",\"content\":[{\"type\":\"output_text\",\"text\":\"Wait.\"}]},"
         "{\"type\":\"function_call\",\"call_id\":\"a\",\"name\":\"f\",\"arguments\":\"{1}\"},"
         "{\"type\":\"function_call\",\"call_id\":\"b\",\"name\":\"g\",\"arguments\":\"{2}\"},"
         "{\"type\":\"function_call_output\",\"call_id\":\"b\",\"output\":\"B\"},"
         "{\"type\":\"function_call_output\",\"call_id\":\"a\",\"output\":[{\"type\":"
         "\"input_text\",\"text\":\"A\"}]}]}");
    assert_int_equal(head.status, 200);
    assert_prompt(want);

    post("/api/chat",
         "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"hi\"},"
         "{\"role\":\"assistant\",\"content\":\"Wait.\",\"thinking\":\"Two.\",\"tool_calls\":[{"
         "\"function\":{\"name\":\"f\",\"arguments\":{\"a\":1}}},{\"function\":{\"name\":\"g\","
         "\"arguments\":{}}}]},{\"role\":\"tool\",\"tool_name\":\"g\",\"content\":\"B\"},"
         "{\"role\":\"tool\",\"content\":\"A\"}]}");
    assert_int_equal(head.status, 200);
    assert_prompt(USER ANALYSIS("Two.") "<|start|>assistant<|channel|>commentary<|message|>Wait."
                                        "<|end|>" CALL("f", "{\"a\":1}") RESULT("f", "A")
                                            CALL("g", "{}") RESULT("g", "B") NEXT);
}

#define TOOLS                                                                                      \
    "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"description\":\"Does.\"}},"  \
    "{\"type\":\"function\",\"function\":{\"name\":\"g\",\"parameters\":{\"type\":\"object\","     \
    "\"properties\":{\"x\":{\"type\":\"number\"}}}}}]"
#define HI "\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]"

static bool ends_with(const char *text, const char *end)
{
    const size_t n = strlen(text), n_end = strlen(end);
    return n >= n_end && strcmp(text + n - n_end, end) == 0;
}

static void tools(void **state)
{
    (void)state;
    post(CHAT, "{" HI "," TOOLS "}");
    assert_non_null(strstr(prompt(), "// Does.\ntype f = () => any;"));
    assert_non_null(strstr(prompt(), "type g = (_: {\nx?: number,\n}) => any;"));
    assert_true(ends_with(prompt(), USER NEXT));

    post(CHAT, "{" HI "," TOOLS ",\"tool_choice\":\"none\"}");
    assert_null(strstr(prompt(), "type f"));

    post(CHAT, "{" HI "," TOOLS ",\"tool_choice\":\"required\"}");
    assert_true(ends_with(prompt(), NEXT "<|channel|>commentary to=functions."));
    assert_true(asked.spec.n_begun > 1);
    assert_int_equal(asked.tokens[asked.spec.n_tokens - asked.spec.n_begun],
                     td_token_find(tokenizer, "<|channel|>"));

    post(CHAT, "{" HI "," TOOLS ",\"tool_choice\":{\"type\":\"function\",\"function\":{\"name\":"
               "\"g\"}}}");
    assert_true(ends_with(prompt(), NEXT "<|channel|>commentary to=functions.g "
                                         "<|constrain|>json<|message|>"));
    post("/v1/responses",
         "{\"input\":\"hi\",\"tools\":[{\"type\":\"function\",\"name\":\"g\",\"strict\":true,"
         "\"parameters\":null}],\"tool_choice\":{\"type\":\"function\",\"name\":\"g\"}}");
    assert_int_equal(head.status, 200);
    assert_true(ends_with(prompt(), "to=functions.g <|constrain|>json<|message|>"));
    // One tool: there is nothing to choose.
    post("/v1/responses", "{\"input\":\"hi\",\"tools\":[{\"type\":\"function\",\"name\":\"g\"}],"
                          "\"tool_choice\":\"required\"}");
    assert_true(ends_with(prompt(), "to=functions.g <|constrain|>json<|message|>"));
    // How many calls an answer may have.
    post(CHAT, "{" HI "," TOOLS "}");
    assert_int_equal(asked.spec.calls, TD_JOB_CALLS_AS_WRITTEN);
    post(CHAT, "{" HI "," TOOLS ",\"parallel_tool_calls\":false}");
    assert_int_equal(asked.spec.calls, TD_JOB_CALLS_ONE);
    post(CHAT, "{" HI "," TOOLS ",\"parallel_tool_calls\":true}");
    assert_int_equal(asked.spec.calls, TD_JOB_CALLS_MORE);
    post(CHAT, "{" HI "," TOOLS ",\"parallel_tool_calls\":true,\"tool_choice\":{\"type\":"
               "\"function\",\"function\":{\"name\":\"g\"}}}");
    assert_int_equal(asked.spec.calls, TD_JOB_CALLS_ONE);
    post("/v1/responses", "{\"input\":\"hi\",\"tools\":[{\"type\":\"function\",\"name\":\"g\"}],"
                          "\"parallel_tool_calls\":true}");
    assert_int_equal(asked.spec.calls, TD_JOB_CALLS_MORE);
    // No reasoning and tools: it must be free to choose its channel.
    post(CHAT, "{" HI "," TOOLS ",\"reasoning_effort\":\"none\"}");
    assert_int_equal(asked.spec.n_begun, 0);
    assert_non_null(strstr(prompt(), "Reasoning: low"));
}

static void sampling(void **state)
{
    (void)state;
    const struct td_sampling *s = &asked.spec.sampling;
    post(CHAT, "{" HI "}");
    assert_true(s->temp == 1.0f && s->top_p == 1.0f && s->top_k == 0 && s->min_p == 0.0f);
    assert_int_equal(asked.spec.max_tokens, 0);
    asked.n_jobs = 0;
    post(CHAT, "{" HI ",\"temperature\":0.5,\"top_p\":0.25,\"top_k\":40,\"min_p\":0.125,\"seed\":"
               "11,\"repeat_penalty\":1.5,\"repeat_last_n\":32,\"presence_penalty\":-0.5,"
               "\"frequency_penalty\":0.75,\"logit_bias\":{\"5\":-100,\"6\":2.5},\"max_tokens\":"
               "100.0,\"max_completion_tokens\":50,\"stop\":[\"a\",\"bc\"],\"n\":3,\"logprobs\":"
               "true,\"top_logprobs\":4,\"unknown\":{\"x\":1},\"user\":null,\"stream\":null}");
    assert_int_equal(head.status, 200);
    assert_true(s->temp == 0.5f && s->top_p == 0.25f && s->top_k == 40 && s->min_p == 0.125f);
    assert_true(s->repeat_penalty == 1.5f && s->repeat_last_n == 32);
    assert_true(s->presence_penalty == -0.5f && s->frequency_penalty == 0.75f);
    assert_int_equal(s->n_bias, 2);
    assert_true(asked.bias[0].token == 5 && asked.bias[0].bias == -100.0f);
    assert_true(asked.bias[1].token == 6 && asked.bias[1].bias == 2.5f);
    assert_int_equal(asked.spec.max_tokens, 50);
    assert_int_equal(asked.spec.n_stops, 2);
    assert_string_equal(asked.stops[1], "bc");
    assert_true(asked.spec.wants_logprobs && asked.spec.n_top == 4);
    assert_int_equal(asked.n_jobs, 3);
    assert_true(asked.seeds[0] == 11 && asked.seeds[1] != 11 && asked.seeds[1] != asked.seeds[2]);
    const uint64_t second = asked.seeds[1];

    asked.n_jobs = 0;
    post(CHAT, "{" HI ",\"seed\":11,\"n\":2}");
    assert_true(asked.seeds[1] == second); // again the same
    asked.n_jobs = 0;
    post(CHAT, "{" HI "}");
    post(CHAT, "{" HI "}");
    assert_true(asked.seeds[0] != asked.seeds[1]); // by chance

    post("/api/chat", "{\"model\":\"m\"," HI ",\"keep_alive\":\"5m\",\"think\":\"high\","
                      "\"options\":{\"temperature\":0.5,\"num_predict\":7,\"stop\":\"x\","
                      "\"seed\":-1,\"num_ctx\":8192,\"repeat_last_n\":0,\"repeat_penalty\":1.1}}");
    assert_int_equal(head.status, 200);
    assert_true(s->temp == 0.5f && s->repeat_penalty == 0.0f);
    assert_int_equal(asked.spec.max_tokens, 7);
    assert_string_equal(asked.stops[0], "x");
    assert_non_null(strstr(prompt(), "Reasoning: high"));
    post("/api/chat", "{\"model\":\"m\"," HI ",\"think\":false,\"options\":{\"num_predict\":-1}}");
    assert_true(ends_with(prompt(), "<|channel|>final<|message|>"));
    assert_int_equal(asked.spec.max_tokens, 0);
    post("/api/generate", "{\"model\":\"m\",\"prompt\":\"hi\",\"system\":\"Be nice.\"}");
    assert_prompt(DEVELOPER("Be nice.") USER NEXT);
    post("/api/generate", "{\"model\":\"m\",\"prompt\":\"hi<|end|>\",\"raw\":true}");
    assert_string_equal(prompt(), "hi<|end|>");
    assert_int_equal(asked.tokens[asked.spec.n_tokens - 1], td_token_find(tokenizer, "<|end|>"));
    assert_false(asked.spec.is_chat);
    post("/v1/responses", "{\"input\":\"hi\",\"instructions\":\"Be nice.\",\"max_output_tokens\":"
                          "9,\"reasoning\":{\"effort\":\"low\",\"summary\":\"auto\"},\"store\":"
                          "true,\"include\":[\"reasoning.encrypted_content\"],\"truncation\":"
                          "\"disabled\",\"text\":{\"format\":{\"type\":\"text\"}}}");
    assert_int_equal(head.status, 200);
    assert_prompt(DEVELOPER("Be nice.") USER NEXT);
    assert_int_equal(asked.spec.max_tokens, 9);
    assert_non_null(strstr(prompt(), "Reasoning: low"));
}

static const struct {
    const char *path, *body, *say;
} refused[] = {
    {CHAT, "", "The request has no body; a JSON object is expected."},
    {CHAT, "[]", "The body must be a JSON object, not a list."},
    {CHAT, "{\"messages\":", "The body is not valid JSON: line 1, column 12: "},
    {CHAT, "{\"messages\":[]} x", "The body is not valid JSON"},
    {CHAT, "{\"a\":1,\"a\":2}", "duplicate object key"},
    {CHAT, "{\"a\":1e999}", "real number overflow"},
    {CHAT, "{\"a\":99999999999999999999}", "too big integer"},
    {CHAT, "{\"a\":\"\xC3\x28\"}", "The body is not valid JSON"},
    {CHAT, "{\"a\":\"\\ud800\"}", "The body is not valid JSON"},
    {CHAT, "{}", "messages: at least one message is expected"},
    {CHAT, "{\"messages\":{}}", "messages: a list is expected, not an object"},
    {CHAT, "{\"messages\":[\"hi\"]}", "messages[0]: an object is expected, not a string"},
    {CHAT, "{\"messages\":[{\"content\":\"\"}]}", "messages[0].role: a role is expected"},
    {CHAT, "{\"messages\":[{\"role\":\"bot\",\"content\":\"\"}]}", "not 'bot'"},
    {CHAT,
     "{\"messages\":[{\"role\":\"user\",\"content\":\"\"},{\"role\":\"user\",\"content\":1}]}",
     "messages[1].content: a string or a list of parts is expected, not a number"},
    {CHAT, "{\"messages\":[{\"role\":\"user\"}]}",
     "messages[0].content: a string or a list of parts is expected, not nothing"},
    {CHAT,
     "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":{}}]}]}",
     "messages[0].content[0].type: parts of type 'image_url' are not supported"},
    {CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\"}]}]}",
     "messages[0].content[0].text: a string is expected, not nothing"},
    {CHAT, "{\"messages\":[{\"role\":\"tool\",\"tool_call_id\":\"x\",\"content\":\"\"}]}",
     "messages[0]: no call before it waits for the result with the id 'x'"},
    {CHAT, "{\"messages\":[{\"role\":\"tool\",\"content\":\"\"}]}", "messages[0].tool_call_id"},
    {CHAT,
     "{\"messages\":[{\"role\":\"assistant\",\"tool_calls\":[{\"id\":\"a\",\"function\":{"
     "\"name\":\"f g\"}}]}]}",
     "'f g': a name has only letters"},
    {CHAT, "{\"messages\":[{\"role\":\"assistant\",\"tool_calls\":[{\"id\":\"a\"}]}]}",
     "messages[0].tool_calls[0].function.name: the name of a function is expected"},
    {CHAT, "{\"messages\":[{\"role\":\"assistant\",\"tool_calls\":[{\"type\":\"custom\"}]}]}",
     "messages[0].tool_calls[0].type"},
    {CHAT, "{" HI ",\"temperature\":\"hot\"}", "temperature: a number is expected, not a string"},
    {CHAT, "{" HI ",\"temperature\":-1}", "temperature: 0 to 100 is expected, not -1"},
    {CHAT, "{" HI ",\"top_p\":1.5}", "top_p: 0 to 1 is expected, not 1.5"},
    {CHAT, "{" HI ",\"max_tokens\":0}", "max_tokens: at least 1 is expected"},
    {CHAT, "{" HI ",\"max_tokens\":1.5}", "max_tokens: a whole number is expected, not 1.5"},
    {CHAT, "{" HI ",\"n\":0}", "n: 1 to 128 is expected, not 0"},
    {CHAT, "{" HI ",\"n\":1e9}", "n: 1 to 128 is expected, not 1000000000"},
    {CHAT, "{" HI ",\"stop\":[1]}", "stop[0]: a string is expected, not a number"},
    {CHAT, "{" HI ",\"stop\":[\"\"]}", "stop[0]: a text"},
    {CHAT, "{" HI ",\"logit_bias\":{\"x\":1}}", "logit_bias: the number of a token is expected"},
    {CHAT, "{" HI ",\"logit_bias\":{\"5000\":1}}", "logit_bias: there is no token 5000"},
    {CHAT, "{" HI ",\"logit_bias\":{\"5\":101}}", "logit_bias.5: -100 to 100"},
    {CHAT, "{" HI ",\"top_logprobs\":3}", "top_logprobs: logprobs has to be true"},
    {CHAT, "{" HI ",\"stream\":\"yes\"}", "stream: true or false is expected, not a string"},
    {CHAT, "{" HI ",\"reasoning_effort\":\"much\"}", "reasoning_effort: none, minimal, low"},
    {CHAT, "{" HI ",\"response_format\":{\"type\":\"json_object\"}}", "'json_object' is not"},
    {CHAT, "{" HI ",\"functions\":[{\"name\":\"f\"}]}", "functions: "},
    {CHAT, "{" HI ",\"modalities\":[\"audio\"]}", "modalities: only text is supported"},
    {CHAT, "{" HI ",\"tool_choice\":\"required\"}", "tool_choice: a call is required, but"},
    {CHAT, "{" HI ",\"tool_choice\":\"always\"}", "not 'always'"},
    {CHAT,
     "{" HI "," TOOLS ",\"tool_choice\":{\"type\":\"function\",\"function\":{\"name\":\"h\"}}}",
     "tool_choice: there is no tool 'h'"},
    {CHAT, "{" HI "," TOOLS ",\"tool_choice\":{\"type\":\"allowed_tools\"}}", "tool_choice.type"},
    {CHAT, "{" HI ",\"tools\":[{\"type\":\"custom\",\"custom\":{}}]}", "tools[0].type"},
    {CHAT, "{" HI ",\"tools\":[{\"type\":\"function\",\"function\":{}}]}",
     "tools[0].function.name: the function has no name"},
    {CHAT,
     "{" HI ",\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":3}}]}",
     "tools[0].function.parameters: an object is expected, not a number"},
    {"/v1/completions", "{}", "prompt: a string, or a list of strings or tokens is expected"},
    {"/v1/completions", "{\"prompt\":\"\"}", "prompt: there is no text to go on from"},
    {"/v1/completions", "{\"prompt\":[]}", "prompt: 1 to 128 prompts are expected, not 0"},
    {"/v1/completions", "{\"prompt\":[1,-1]}", "prompt[1]: there is no token -1"},
    {"/v1/completions", "{\"prompt\":[[1],{}]}", "prompt[1]: a string or a list of tokens"},
    {"/v1/completions", "{\"prompt\":\"a\",\"suffix\":\"b\"}", "suffix: "},
    {"/v1/completions", "{\"prompt\":\"a\",\"best_of\":3}", "best_of: "},
    {"/v1/completions", "{\"prompt\":\"a\",\"echo\":true,\"logprobs\":1}", "echo: "},
    {"/v1/completions", "{\"prompt\":[\"a\",\"b\"],\"n\":100}", "n: at most 128"},
    {"/v1/responses", "{}", "input: a string or a list of items is expected, not nothing"},
    {"/v1/responses", "{\"input\":[]}", "input: at least one item"},
    {"/v1/responses", "{\"input\":\"hi\",\"previous_response_id\":\"resp_1\"}",
     "previous_response_id: answers are not kept here: send the whole conversation"},
    {"/v1/responses", "{\"input\":\"hi\",\"background\":true}", "background: "},
    {"/v1/responses", "{\"input\":\"hi\",\"truncation\":\"auto\"}", "truncation: "},
    {"/v1/responses", "{\"input\":\"hi\",\"text\":{\"format\":{\"type\":\"json_schema\"}}}",
     "text.format.type: "},
    {"/v1/responses", "{\"input\":\"hi\",\"tools\":[{\"type\":\"web_search\"}]}",
     "tools[0].type: "},
    {CHAT, "{" HI ",\"parallel_tool_calls\":\"no\"}",
     "parallel_tool_calls: true or false is expected, not a string"},
    {"/v1/responses", "{\"input\":[{\"type\":\"item_reference\",\"id\":\"x\"}]}",
     "input[0].type: items of type 'item_reference' are not supported"},
    {"/v1/responses", "{\"input\":[{\"role\":\"user\",\"content\":[{\"type\":\"input_image\"}]}]}",
     "input[0].content[0].type"},
    {"/api/chat", "{\"messages\":[{\"role\":\"user\",\"content\":\"\",\"images\":[\"AA\"]}]}",
     "messages[0].images: images are not supported"},
    {"/api/chat", "{" HI ",\"format\":\"json\"}", "format: "},
    {"/api/chat", "{" HI ",\"options\":{\"temperature\":\"x\"}}", "options.temperature: a number"},
    {"/api/chat", "{" HI ",\"think\":3}", "think: "},
    {"/api/generate", "{\"prompt\":\"a\",\"context\":[1]}", "context: "},
    {"/api/generate", "{\"prompt\":[]}", "prompt: a string is expected, not a list"},
};

static void refusals(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
        post(refused[i].path, refused[i].body);
        const bool is_ollama = strncmp(refused[i].path, "/api/", 5) == 0;
        if (head.status != 400) fail_msg("%s: %u %s", refused[i].body, head.status, answer);
        if (!strstr(answer, refused[i].say))
            fail_msg("%s:\n%s\ninstead of\n%s", refused[i].body, answer, refused[i].say);
        assert_true(strncmp(answer, is_ollama ? "{\"error\":\"" : "{\"error\":{\"message\":",
                            is_ollama ? 10 : 20) == 0);
    }
    assert_int_equal(asked.n_jobs, 0);
}

static void *room(size_t n)
{
    void *p = malloc(n);
    assert_non_null(p);
    return p;
}

static void hostile(void **state)
{
    (void)state;
    // Deep nesting, in keys that mean something and in others.
    const size_t n_deep = 10000;
    char *deep = room(2 * n_deep + 64);
    for (int is_open = 0; is_open < 2; is_open++) {
        size_t n = (size_t)snprintf(deep, 64, "{\"messages\":");
        memset(deep + n, '[', n_deep);
        n += n_deep;
        if (!is_open) {
            memset(deep + n, ']', n_deep);
            n += n_deep;
            deep[n++] = '}';
        }
        post_bytes(CHAT, deep, n);
        assert_int_equal(head.status, 400);
        assert_non_null(strstr(answer, "nested more than"));
    }
    free(deep);

    // 100 000 messages: more than the context holds, said so.
    static const char message[] = "{\"role\":\"user\",\"content\":\"hi\"},";
    const size_t n_messages = 100000;
    char *many = room(n_messages * sizeof(message) + 64);
    char *p = many + snprintf(many, 64, "{\"messages\":[");
    for (size_t i = 0; i < n_messages; i++) {
        memcpy(p, message, sizeof(message) - 1);
        p += sizeof(message) - 1;
    }
    memcpy(p - 1, "]}", 2);
    post_bytes(CHAT, many, (size_t)(p - many) + 1);
    assert_int_equal(head.status, 400);
    assert_non_null(strstr(answer, "\"code\":\"context_length_exceeded\""));
    assert_non_null(strstr(answer, "the context holds 4096"));

    // Brackets alone: parsed they would take eighty times their own bytes.
    const size_t n_lists = 400001;
    char *lists = room(3 * n_lists + 64);
    size_t n = (size_t)snprintf(lists, 64, "{\"x\":[");
    for (size_t i = 0; i < n_lists; i++, n += 3) memcpy(lists + n, "{},", 3);
    memcpy(lists + n - 1, "]}", 2);
    post_bytes(CHAT, lists, n + 1);
    free(lists);
    assert_int_equal(head.status, 400);
    assert_non_null(strstr(answer, "too many lists"));

    // The same number of calls that wait: not all pairs are looked at.
    static const char call[] = "{\"type\":\"function_call\",\"call_id\":\"a\",\"name\":\"f\"},";
    p = many + snprintf(many, 64, "{\"input\":[");
    for (size_t i = 0; i < 40000; i++) {
        memcpy(p, call, sizeof(call) - 1);
        p += sizeof(call) - 1;
    }
    memcpy(p - 1, "]}", 2);
    post_bytes("/v1/responses", many, (size_t)(p - many) + 1);
    assert_int_equal(head.status, 400);
    assert_non_null(strstr(answer, "input[128]: more than 128 calls"));
    free(many);

    // NUL: in a text it is a character; in a name it is refused.
    post(CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\\u0000b\"}]}");
    assert_int_equal(head.status, 200);
    assert_int_equal(asked.tokens[asked.spec.n_tokens - 13], 0);
    post(CHAT, "{" HI ",\"reasoning_effort\":\"low\\u0000\"}");
    assert_non_null(strstr(answer, "reasoning_effort: a NUL character"));
    post_bytes(CHAT, "{\0}", 3);
    assert_int_equal(head.status, 400);

    // A long name is cut in the sentence.
    char body[2048];
    char name[1500];
    memset(name, 'r', sizeof(name));
    name[sizeof(name) - 1] = '\0';
    (void)snprintf(body, sizeof(body), "{\"messages\":[{\"role\":\"%s\",\"content\":\"\"}]}", name);
    post(CHAT, body);
    assert_int_equal(head.status, 400);
    assert_true(strlen(answer) < 400);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(conversations, reset), cmocka_unit_test_setup(read_ahead, reset),
        cmocka_unit_test_setup(calls, reset),         cmocka_unit_test_setup(tools, reset),
        cmocka_unit_test_setup(sampling, reset),      cmocka_unit_test_setup(refusals, reset),
        cmocka_unit_test_setup(hostile, reset),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
