// SPDX-License-Identifier: MIT
// A stand-in for `tandem serve` to work on the page without a model: the same routes, made-up
// answers. Words in the question choose what happens: "code", "table", "busy", "long", "break".
//   node dev/mock.mjs [PORT]     then `npm run dev`, or the built page at http://127.0.0.1:PORT/
// TANDEM_MOCK_KEY=secret makes it ask for that API key.
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { extname, join, normalize } from "node:path";
import { fileURLToPath } from "node:url";
import { setTimeout as sleep } from "node:timers/promises";

const port = Number(process.argv[2] ?? 8080);
const key = process.env.TANDEM_MOCK_KEY;
const dist = fileURLToPath(new URL("../dist/", import.meta.url));
const TOKEN_MS = 15;
const N_CTX = 8192;

// As the server sends it, so that what would break there breaks here.
const pageHeaders = {
  "Content-Security-Policy":
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; " +
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  "X-Content-Type-Options": "nosniff",
  "Referrer-Policy": "no-referrer",
};
const types = { ".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml" };

const CODE = `A **binary search** halves the range at each step, so it needs about \`log2(n)\` looks.

\`\`\`python
from typing import Sequence


def search(items: Sequence[int], wanted: int) -> int | None:
    """Index of \`wanted\` in the sorted \`items\`, or None."""
    low, high = 0, len(items)
    while low < high:
        middle = (low + high) // 2
        if items[middle] < wanted:
            low = middle + 1
        else:
            high = middle
    return low if low < len(items) and items[low] == wanted else None


print(search([2, 3, 5, 7, 11, 13], 7))  # 3
\`\`\`

The same in C, for comparison:

\`\`\`c
size_t lower_bound(const int *items, size_t n, int wanted)
{
    size_t low = 0;
    while (n > 0) {
        const size_t half = n / 2;
        if (items[low + half] < wanted) low += half + 1, n -= half + 1;
        else n = half;
    }
    return low; // n when every item is smaller
}
\`\`\`

Three things to keep in mind:

1. The items must be **sorted**; nothing checks that.
2. \`(low + high) / 2\` can overflow in C with large indices. The version above avoids it.
3. With equal items it finds the *first* one.

See [the article](https://example.org/binary-search) for the history of its bugs.`;

const TABLE = `Here is how the formats compare.

| format | bits | size of 20B | quality |
|:-------|-----:|------------:|:--------|
| F16    |   16 |     41.8 GB | as trained |
| Q8_0   |  8.5 |     22.2 GB | the same |
| MXFP4  | 4.25 |     12.1 GB | as published |

> Fewer bits mean fewer bytes to read for each token, and bytes are what decides the speed.

![a chart](https://example.org/chart.png)

### What to take

- **MXFP4** where the model was trained for it
- \`Q8_0\` otherwise, if it fits
  - and Q4_K if it does not`;

function answerTo(question) {
  if (/code|function|search/i.test(question)) return CODE;
  if (/table|compare/i.test(question)) return TABLE;
  if (/long|story/i.test(question)) {
    return Array.from({ length: 4 }, (_, i) => `Paragraph ${i + 1}. ${"The fox walked along the harbour and counted the boats. ".repeat(5)}`).join("\n\n");
  }
  const [, a, b] = /(\d+) \+ (\d+)/.exec(question) ?? [];
  return a ? `${a} + ${b} is ${Number(a) + Number(b)}.` : "That is a good question.";
}

const pieces = (text) => text.match(/\s*\S{1,6}/g) ?? [];

async function chat(request, response, body) {
  const question = body.messages.at(-1).content;
  const error = (status, message, headers = {}) => {
    response.writeHead(status, { "Content-Type": "application/json", ...headers });
    response.end(JSON.stringify({ error: { message, type: "error", param: null, code: null } }));
  };
  if (key && request.headers.authorization !== `Bearer ${key}`) return error(401, "This needs an API key.");
  if (/busy/i.test(question)) {
    return error(503, "All slots are taken and the queue is full. Try again in 7 seconds.", { "Retry-After": "7" });
  }
  response.writeHead(200, { "Content-Type": "text/event-stream", "Cache-Control": "no-store" });
  const send = (data) => response.write(`data: ${JSON.stringify(data)}\n\n`);
  const delta = (delta, finish_reason = null) => send({ choices: [{ index: 0, delta, finish_reason }] });
  let isGone = false;
  response.on("close", () => (isGone = true));

  const total = 400 + question.length;
  const cache = body.messages.length > 2 ? 380 : 0;
  const isRemote = /remote|long|table/i.test(question);
  const begin = Date.now();
  for (let processed = cache; !isGone; processed += 64) {
    const progress = { total, cache, processed: Math.min(processed, total), time_ms: Date.now() - begin };
    send({ choices: [], prompt_progress: { ...progress, where: isRemote ? "remote" : "local" } });
    if (processed >= total) break;
    await sleep(60);
  }
  const promptMs = Date.now() - begin;
  const reasoning = pieces("The user asks a question. I know this one; a short look at it is enough, then I answer.");
  const answer = pieces(answerTo(question));
  const max = body.max_tokens ?? Infinity;
  delta({ role: "assistant", content: "" });
  let n = 0;
  for (const piece of reasoning) {
    if (isGone || n++ >= max) break;
    delta({ reasoning_content: piece });
    await sleep(TOKEN_MS);
  }
  for (const piece of answer) {
    if (isGone || n++ >= max) break;
    if (n > 40 && /break/i.test(question)) return response.destroy();
    delta({ content: piece });
    await sleep(TOKEN_MS);
  }
  delta({}, n > max ? "length" : "stop");
  const nWritten = Math.min(n, max);
  send({
    choices: [],
    usage: { prompt_tokens: total, completion_tokens: nWritten, total_tokens: total + nWritten },
    timings: {
      prompt_n: total - cache, cache_n: cache, prompt_ms: promptMs,
      predicted_n: nWritten, predicted_ms: Date.now() - begin - promptMs,
    },
    ...(isRemote && {
      prefill: {
        path: "remote", reason: "faster there", peer: "10.0.0.2:9310", n_tokens: total, n_remote: total - 1,
        bytes: 31e6, transfer_seconds: 0.28, overlap: 0.93,
      },
    }),
  });
  response.end("data: [DONE]\n\n");
}

async function page(path, response) {
  const name = normalize(path === "/" ? "/index.html" : path);
  try {
    const bytes = await readFile(join(dist, name));
    response.writeHead(200, { ...pageHeaders, "Content-Type": types[extname(name)] ?? "text/plain" });
    response.end(bytes);
  } catch {
    response.writeHead(404).end();
  }
}

const server = createServer(async (request, response) => {
  const { pathname } = new URL(request.url, "http://localhost");
  if (pathname === "/health") return response.writeHead(200).end('{"status":"ok"}');
  if (pathname === "/v1/models") {
    if (key && request.headers.authorization !== `Bearer ${key}`) {
      response.writeHead(401, { "Content-Type": "application/json" });
      return response.end('{"error":{"message":"This needs an API key."}}');
    }
    response.writeHead(200, { "Content-Type": "application/json" });
    return response.end(JSON.stringify({ object: "list", data: [{ id: "mock-20b", object: "model", meta: { n_ctx: N_CTX } }] }));
  }
  if (pathname !== "/v1/chat/completions") return page(pathname, response);
  let text = "";
  for await (const part of request) text += part;
  return chat(request, response, JSON.parse(text));
});
server.listen(port, "127.0.0.1", () => console.log(`mock at http://127.0.0.1:${server.address().port}/`));
