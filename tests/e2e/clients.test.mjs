// SPDX-License-Identifier: MIT
// The official npm clients of OpenAI and Ollama against `tandem serve`. The small model really
// answers, so that what a client gives back can be checked, not only its form.
import assert from "node:assert/strict";
import { mkdtempSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { Ollama } from "ollama";
import OpenAI from "openai";
import { startServer } from "./server.mjs";

const SUM = [{ role: "user", content: "What is 17 + 25?" }];
const STORY = [{ role: "user", content: "Tell me a story about a fox in a harbour." }];
const MODEL = "tandem-mini";
const greedy = { model: MODEL, temperature: 0 };

const weather = {
  name: "get_weather",
  description: "Weather of a city",
  parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
};
const tools = [{ type: "function", function: weather }];

let server, openai, ollama;

before(async () => {
  server = await startServer();
  openai = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: "none", maxRetries: 0 });
  ollama = new Ollama({ host: server.url });
});

after(async () => {
  assert.equal(await server.stop(), 0, "tandem serve ends with 0");
});

async function all(stream) {
  const items = [];
  for await (const item of stream) items.push(item);
  return items;
}

describe("openai", () => {
  test("models", async () => {
    const { data } = await openai.models.list();
    assert.equal(data.length, 1);
    assert.equal(data[0].id, MODEL);
    assert.equal(data[0].object, "model");
    assert.ok(data[0].meta.n_ctx > 0);
    assert.equal((await openai.models.retrieve(MODEL)).id, MODEL);
  });

  test("chat", async () => {
    const reply = await openai.chat.completions.create({ ...greedy, messages: SUM });
    assert.equal(reply.object, "chat.completion");
    const [choice] = reply.choices;
    assert.equal(choice.message.role, "assistant");
    assert.match(choice.message.content, /42/);
    assert.equal(choice.finish_reason, "stop");
    const { prompt_tokens, completion_tokens, total_tokens } = reply.usage;
    assert.ok(prompt_tokens > 5 && completion_tokens > 0);
    assert.equal(prompt_tokens + completion_tokens, total_tokens);
  });

  test("a stream says the same as the whole", async () => {
    const request = { ...greedy, messages: STORY };
    const whole = await openai.chat.completions.create(request);
    const chunks = await all(
      await openai.chat.completions.create({ ...request, stream: true, stream_options: { include_usage: true } }),
    );
    const text = chunks.map((chunk) => chunk.choices[0]?.delta?.content ?? "").join("");
    assert.equal(text, whole.choices[0].message.content);
    assert.ok(chunks.length > 5, "in many pieces");
    assert.ok(chunks.every((chunk) => chunk.id === chunks[0].id && chunk.object === "chat.completion.chunk"));
    assert.equal(chunks[0].choices[0].delta.role, "assistant");
    const ends = chunks.map((chunk) => chunk.choices[0]?.finish_reason).filter(Boolean);
    assert.deepEqual(ends, ["stop"]);
    assert.equal(chunks.at(-1).usage.completion_tokens, whole.usage.completion_tokens);
    assert.deepEqual(chunks.at(-1).choices, []);
  });

  test("progress, timings", async () => {
    const chunks = await all(
      await openai.chat.completions.create({
        ...greedy,
        messages: [{ role: "user", content: `${"It was windy in the harbour. ".repeat(80)}What is 8 + 5?` }],
        stream: true,
        stream_options: { include_usage: true },
        return_progress: true,
      }),
    );
    const progress = chunks.map((chunk) => chunk.prompt_progress).filter(Boolean);
    assert.ok(progress.length > 0);
    for (const { total, cache, processed } of progress) {
      assert.ok(cache <= processed && processed <= total, `${cache} <= ${processed} <= ${total}`);
    }
    const timings = chunks.findLast((chunk) => chunk.timings)?.timings;
    assert.ok(timings.predicted_n > 0 && timings.predicted_ms > 0);
  });

  test("the SDK's own stream helper", async () => {
    const stream = openai.chat.completions.stream({ ...greedy, messages: SUM });
    const content = await stream.finalContent();
    assert.match(content, /42/);
  });

  test("one seed, one answer", async () => {
    const ask = async (seed) => {
      const request = { model: MODEL, temperature: 1, seed, messages: STORY, max_tokens: 80 };
      return (await openai.chat.completions.create(request)).choices[0].message.content;
    };
    assert.equal(await ask(7), await ask(7));
  });

  test("limits: max_tokens, stop", async () => {
    const cut = await openai.chat.completions.create({ ...greedy, messages: STORY, max_completion_tokens: 4 });
    assert.equal(cut.choices[0].finish_reason, "length");
    assert.equal(cut.usage.completion_tokens, 4);
    const whole = (await openai.chat.completions.create({ ...greedy, messages: STORY })).choices[0].message.content;
    const word = whole.split(" ")[4];
    const stopped = await openai.chat.completions.create({ ...greedy, messages: STORY, stop: [word] });
    assert.equal(stopped.choices[0].finish_reason, "stop");
    assert.equal(stopped.choices[0].message.content, whole.slice(0, whole.indexOf(word)));
  });

  test("logprobs", async () => {
    const reply = await openai.chat.completions.create({ ...greedy, messages: SUM, logprobs: true, top_logprobs: 3 });
    const { content } = reply.choices[0].logprobs;
    assert.ok(content.length > 0);
    for (const { logprob, top_logprobs } of content) {
      assert.ok(logprob <= 0);
      assert.equal(top_logprobs.length, 3);
      assert.ok(top_logprobs[0].logprob >= top_logprobs[2].logprob);
    }
  });

  test("n: several answers", async () => {
    const reply = await openai.chat.completions.create({ model: MODEL, temperature: 1, seed: 1, messages: SUM, n: 3, max_tokens: 60 });
    assert.deepEqual(reply.choices.map((choice) => choice.index), [0, 1, 2]);
    assert.ok(reply.choices.every((choice) => choice.message.role === "assistant"));
  });

  // The small model has not learned to call functions: what can be checked is that they are taken,
  // and that a forced call has the form of one.
  test("tools are taken", async () => {
    const reply = await openai.chat.completions.create({ ...greedy, messages: SUM, tools, max_tokens: 200 });
    assert.ok(["stop", "length", "tool_calls"].includes(reply.choices[0].finish_reason));
    const history = [
      { role: "user", content: "How is the weather in Oslo?" },
      {
        role: "assistant",
        content: null,
        tool_calls: [{ id: "call_1", type: "function", function: { name: "get_weather", arguments: '{"city":"Oslo"}' } }],
      },
      { role: "tool", tool_call_id: "call_1", content: '{"temperature": 3}' },
    ];
    const next = await openai.chat.completions.create({ ...greedy, messages: history, tools, max_tokens: 50 });
    assert.equal(next.choices[0].message.role, "assistant");
  });

  test("a forced call", async () => {
    const request = {
      ...greedy,
      messages: SUM,
      tools,
      tool_choice: { type: "function", function: { name: "get_weather" } },
      max_tokens: 60,
    };
    const { message } = (await openai.chat.completions.create(request)).choices[0];
    assert.equal(message.tool_calls.length, 1);
    assert.equal(message.tool_calls[0].type, "function");
    assert.equal(message.tool_calls[0].function.name, "get_weather");
    assert.equal(typeof message.tool_calls[0].function.arguments, "string");
    const chunks = await all(await openai.chat.completions.create({ ...request, stream: true }));
    const calls = chunks.flatMap((chunk) => chunk.choices[0]?.delta?.tool_calls ?? []);
    assert.equal(calls[0].function.name, "get_weather");
    assert.ok(calls.every((call) => call.index === 0));
    const streamed = calls.map((call) => call.function.arguments ?? "").join("");
    assert.equal(streamed, message.tool_calls[0].function.arguments);
  });

  test("completions", async () => {
    const reply = await openai.completions.create({ ...greedy, prompt: "The fox", max_tokens: 8 });
    assert.equal(reply.object, "text_completion");
    assert.equal(typeof reply.choices[0].text, "string");
    assert.ok(reply.usage.completion_tokens <= 8);
  });

  test("responses", async () => {
    const reply = await openai.responses.create({ ...greedy, input: "What is 17 + 25?" });
    assert.equal(reply.object, "response");
    assert.equal(reply.status, "completed");
    assert.match(reply.output_text, /42/);
    assert.ok(reply.usage.input_tokens > 0 && reply.usage.output_tokens > 0);
  });

  test("responses, streamed", async () => {
    const events = await all(await openai.responses.create({ ...greedy, input: SUM, stream: true }));
    assert.equal(events[0].type, "response.created");
    assert.equal(events.at(-1).type, "response.completed");
    events.forEach((event, i) => assert.equal(event.sequence_number, i));
    const deltas = events.filter((event) => event.type === "response.output_text.delta");
    const text = deltas.map((event) => event.delta).join("");
    assert.match(text, /42/);
    const done = events.find((event) => event.type === "response.output_text.done");
    assert.equal(done.text, text);
    assert.equal(events.at(-1).response.output.find((item) => item.type === "message").content[0].text, text);
  });

  test("responses with tools and the SDK's helper", async () => {
    const request = { ...greedy, input: SUM, tools: [{ type: "function", ...weather }], max_output_tokens: 200 };
    const stream = openai.responses.stream(request);
    const reply = await stream.finalResponse();
    assert.ok(["completed", "incomplete"].includes(reply.status));
  });

  test("errors have OpenAI's shape", async () => {
    const chat = (fields) => openai.chat.completions.create({ ...greedy, messages: SUM, ...fields });
    await assert.rejects(chat({ temperature: "hot" }), (error) => {
      assert.ok(error instanceof OpenAI.BadRequestError);
      assert.match(error.message, /temperature/);
      return true;
    });
    await assert.rejects(chat({ response_format: { type: "json_object" } }), OpenAI.BadRequestError);
    await assert.rejects(chat({ messages: [] }), OpenAI.BadRequestError);
    await assert.rejects(openai.get("/nothing"), OpenAI.NotFoundError);
    const reply = await chat({ something_new: true });
    assert.match(reply.choices[0].message.content, /42/);
  });

  test("a client that leaves disturbs nobody", async () => {
    const stream = await openai.chat.completions.create({ ...greedy, messages: STORY, stream: true });
    for await (const _ of stream) break; // closes the connection
    const reply = await openai.chat.completions.create({ ...greedy, messages: SUM });
    assert.match(reply.choices[0].message.content, /42/);
  });

  test("many at once", async () => {
    const sums = Array.from({ length: 12 }, (_, i) => [i + 11, 2 * i + 10]);
    const replies = await Promise.all(
      sums.map(([a, b]) =>
        openai.chat.completions.create({ ...greedy, messages: [{ role: "user", content: `What is ${a} + ${b}?` }] }),
      ),
    );
    const right = replies.filter((reply, i) => reply.choices[0].message.content.includes(String(sums[i][0] + sums[i][1])));
    assert.ok(right.length >= 11, `${right.length} of ${sums.length} right`);
  });
});

describe("ollama", () => {
  const options = { temperature: 0 };

  test("list and show", async () => {
    const { models } = await ollama.list();
    assert.equal(models.length, 1);
    assert.ok(models[0].name.startsWith(MODEL));
    const about = await ollama.show({ model: MODEL });
    assert.equal(about.details.format, "gguf");
    assert.ok(about.model_info);
  });

  test("chat", async () => {
    const reply = await ollama.chat({ model: MODEL, messages: SUM, options });
    assert.match(reply.message.content, /42/);
    assert.equal(reply.message.role, "assistant");
    assert.equal(reply.done, true);
    assert.ok(reply.eval_count > 0 && reply.prompt_eval_count > 0);
  });

  test("chat, streamed", async () => {
    const parts = await all(await ollama.chat({ model: MODEL, messages: STORY, options, stream: true }));
    assert.ok(parts.length > 5);
    assert.deepEqual(parts.map((part) => part.done).filter(Boolean), [true]);
    const text = parts.map((part) => part.message.content).join("");
    const whole = await ollama.chat({ model: MODEL, messages: STORY, options });
    assert.equal(text, whole.message.content);
  });

  test("generate", async () => {
    const reply = await ollama.generate({ model: MODEL, prompt: "What is 17 + 25?", options });
    assert.match(reply.response, /42/);
    const parts = await all(await ollama.generate({ model: MODEL, prompt: "What is 17 + 25?", options, stream: true }));
    assert.equal(parts.map((part) => part.response).join(""), reply.response);
  });
});

test("an API key", async () => {
  const file = join(mkdtempSync(join(process.env.TD_WORK, "key-")), "key");
  writeFileSync(file, "secret-for-the-test\n", { mode: 0o600 });
  const locked = await startServer("--api-key", file);
  try {
    const wrong = new OpenAI({ baseURL: `${locked.url}/v1`, apiKey: "guess", maxRetries: 0 });
    await assert.rejects(wrong.models.list(), OpenAI.AuthenticationError);
    const right = new OpenAI({ baseURL: `${locked.url}/v1`, apiKey: "secret-for-the-test", maxRetries: 0 });
    assert.equal((await right.models.list()).data[0].id, MODEL);
  } finally {
    assert.equal(await locked.stop(), 0);
  }
});
