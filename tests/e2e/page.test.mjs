// SPDX-License-Identifier: MIT
// The chat page in headless Chromium: what a user does with it, on a server with the small model.
// Screenshots are left in TD_WORK/screenshots, to be looked at.
import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { after, afterEach, before, describe, test } from "node:test";
import { chromium } from "playwright-core";
import { startServer } from "./server.mjs";

const PATIENCE_MS = 60_000;
const PHONE = { viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true, deviceScaleFactor: 2 };
const work = process.env.TD_WORK;
const screenshots = join(work, "screenshots");
const axeSource = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

let server, browser;
const contexts = [];

before(async () => {
  mkdirSync(screenshots, { recursive: true });
  // TD_URL: another server, such as web/dev/mock.mjs, to work on these tests.
  server = process.env.TD_URL ? { url: process.env.TD_URL, stop: async () => 0 } : await startServer();
  browser = await chromium.launch({ executablePath: process.env.TD_CHROMIUM });
});

afterEach(async () => {
  for (const context of contexts.splice(0)) await context.close();
});

after(async () => {
  await browser?.close();
  assert.equal(await server?.stop(), 0, "tandem serve ends with 0");
});

/** A page in a browser of its own. It fails on a script error and on a request to anybody else. */
async function open({ url = server.url, path = "/", ...options } = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, reducedMotion: "reduce", ...options });
  contexts.push(context);
  context.setDefaultTimeout(PATIENCE_MS);
  // The likeliest answer, so that it is the same everywhere.
  await context.addInitScript(() => (localStorage["tandem.settings"] ??= '{"sampling":{"temperature":0}}'));
  const page = await context.newPage();
  const faults = [];
  page.on("pageerror", (error) => faults.push(error.message));
  page.on("console", (message) => {
    const text = message.text();
    // Taking a screenshot puts a style into the page, which the page's own policy refuses.
    if (message.type() === "error" && !/Failed to load resource|Applying inline style/.test(text)) faults.push(text);
  });
  context.on("request", (request) => {
    if (!request.url().startsWith(`${url}/`) && !request.url().startsWith("blob:")) faults.push(request.url());
  });
  page.faults = faults;
  await page.goto(url + path);
  await page.getByRole("heading", { level: 1 }).waitFor();
  return page;
}

const field = (page) => page.getByRole("textbox", { name: "Message", exact: true });
const messages = (page) => page.getByRole("article");
const lastAnswer = (page) => page.getByRole("article", { name: "Answer" }).last();
/** What was said, without the reasoning. */
const lastText = (page) => lastAnswer(page).locator("> .markdown");

async function settle(page) {
  await page.getByRole("button", { name: "Send", exact: true }).waitFor();
  await page.locator("[aria-busy]").waitFor({ state: "detached" });
}

async function ask(page, text) {
  const n = await messages(page).count();
  await field(page).fill(text);
  await field(page).press("Enter");
  await messages(page).nth(n + 1).waitFor();
  await settle(page);
}

const shot = (page, name) => page.screenshot({ path: join(screenshots, `${name}.png`) });

async function assertAccessible(page) {
  // By the debugger, since the page's policy lets no script in.
  await page.evaluate(axeSource);
  const { violations } = await page.evaluate(() => window.axe.run());
  const found = violations.map(({ id, impact, nodes }) => `${id} (${impact}): ${nodes.map((node) => node.html).join(" | ")}`);
  assert.deepEqual(found, []);
}

function assertQuiet(page) {
  assert.deepEqual(page.faults, []);
}

/** Answers of our own choice, for what the small model does not say. */
function script(page, text, { progress, status = 200, headers = {} } = {}) {
  const events = [
    ...(progress ? [{ choices: [], prompt_progress: progress }] : []),
    { choices: [{ index: 0, delta: { role: "assistant", content: "" }, finish_reason: null }] },
    ...text.split(/(?<=\n)/).map((content) => ({ choices: [{ index: 0, delta: { content }, finish_reason: null }] })),
    { choices: [{ index: 0, delta: {}, finish_reason: "stop" }] },
    {
      choices: [],
      usage: { prompt_tokens: 4000, completion_tokens: 200, total_tokens: 4200 },
      timings: { prompt_n: 4000, cache_n: 0, prompt_ms: 2000, predicted_n: 200, predicted_ms: 8000 },
      prefill: {
        path: "remote", reason: "it is faster", peer: "10.0.0.2:9310", n_tokens: 4000, n_remote: 3999,
        bytes: 98_000_000, seconds: 2, transfer_seconds: 0.9, overlap: 0.94,
      },
    },
  ];
  const body = events.map((event) => `data: ${JSON.stringify(event)}\n\n`).join("") + "data: [DONE]\n\n";
  const fail = JSON.stringify({ error: { message: text, type: "server_error", param: null, code: null } });
  return page.route("**/v1/chat/completions", (route) =>
    route.fulfill({
      status,
      headers: { "Content-Type": status === 200 ? "text/event-stream" : "application/json", ...headers },
      body: status === 200 ? body : fail,
    }),
  );
}

const RICH = `Here is a **binary search** in Python.

\`\`\`python
def search(items: list[int], wanted: int) -> int | None:
    """Index of \`wanted\` in the sorted \`items\`, or None."""
    low, high = 0, len(items)
    while low < high:
        middle = (low + high) // 2
        if items[middle] < wanted:
            low = middle + 1
        else:
            high = middle
    return low if low < len(items) and items[low] == wanted else None
\`\`\`

| items | looks |
|:------|------:|
| 1,000 | 10 |
| 1,000,000 | 20 |

> It needs about \`log2(n)\` looks.

3. The items must be *sorted*.
4. See [the article](https://example.org/search).
`;

const HOSTILE = `<img src="https://evil.example/a.png" onerror="window.hit = 1"> <script>window.hit = 2</script>

![pixel](https://evil.example/pixel.png) [run](javascript:window.hit=3) [data](data:text/html,x)

<style>body { display: none }</style> <iframe src="https://evil.example/"></iframe>

[a](https://evil.example/ "x\\" onmouseover=\\"window.hit=4")

\`\`\`"><img src=x onerror=window.hit=5>
</code></pre><script>window.hit = 6</script>
\`\`\`
`;

describe("chat", () => {
  test("type, stream, see figures", async () => {
    const page = await open();
    await shot(page, "empty-light");
    await assertAccessible(page);
    assert.equal(await page.evaluate(() => document.activeElement.id), "prompt");
    await ask(page, "What is 17 + 25?");
    assert.match(await lastText(page).innerText(), /42/);
    const strip = page.getByRole("region", { name: "Figures" });
    assert.match(await strip.innerText(), /prompt \d+.*answer \d+.*context/s);
    await ask(page, "Count from 3 to 7.");
    assert.equal(await messages(page).count(), 4);
    // Told to screen readers: the answer, once, and that it is over.
    const told = await page.locator("[role=status][aria-atomic]").innerText();
    assert.match(told, /End of answer/);
    await shot(page, "chat-light");
    await assertAccessible(page);
    assertQuiet(page);
  });

  test("Shift+Enter makes a new line, Enter sends", async () => {
    const page = await open();
    await field(page).pressSequentially("What is");
    await field(page).press("Shift+Enter");
    await field(page).pressSequentially("17 + 25?");
    assert.equal(await field(page).inputValue(), "What is\n17 + 25?");
    await field(page).press("Enter");
    await messages(page).nth(1).waitFor();
    await settle(page);
    assert.equal(await field(page).inputValue(), "");
  });

  test("stop", async () => {
    const page = await open();
    // An answer that begins and does not end, until the browser hangs up.
    await page.addInitScript(() => {
      const real = window.fetch;
      window.fetch = async (path, init) => {
        if (!String(path).endsWith("/v1/chat/completions")) return real(path, init);
        const chunk = { choices: [{ index: 0, delta: { content: "Once upon " }, finish_reason: null }] };
        const bytes = new TextEncoder().encode(`data: ${JSON.stringify(chunk)}\n\n`);
        const body = new ReadableStream({
          start(controller) {
            const timer = setInterval(() => controller.enqueue(bytes), 20);
            init.signal.addEventListener("abort", () => {
              clearInterval(timer);
              controller.error(init.signal.reason);
            });
          },
        });
        return new Response(body, { headers: { "Content-Type": "text/event-stream" } });
      };
    });
    await page.reload();
    for (const stop of [() => page.keyboard.press("Escape"), () => page.getByRole("button", { name: "Stop" }).click()]) {
      await field(page).fill("Tell me a story.");
      await field(page).press("Enter");
      await lastAnswer(page).getByText("Once upon").waitFor();
      await stop();
      await lastAnswer(page).getByText("You stopped this answer.").waitFor();
      await settle(page);
    }
    assert.equal(await messages(page).count(), 4);
    assertQuiet(page);
  });

  test("stop a real answer at once", async () => {
    const page = await open();
    await field(page).fill("Tell me a story about a fox in a harbour.");
    await field(page).press("Enter");
    await page.getByRole("button", { name: "Stop" }).waitFor();
    await page.keyboard.press("Escape");
    await settle(page);
    await ask(page, "What is 17 + 25?");
    assert.match(await lastText(page).innerText(), /42/);
    assertQuiet(page);
  });

  test("regenerate and go back", async () => {
    const page = await open();
    await ask(page, "Count from 3 to 7.");
    const first = await lastText(page).innerText();
    await lastAnswer(page).getByRole("button", { name: "Regenerate answer" }).click();
    await lastAnswer(page).getByRole("group", { name: "Versions" }).waitFor();
    await settle(page);
    assert.match(await lastAnswer(page).getByRole("group", { name: "Versions" }).innerText(), /2\s*(of|\/)/);
    await lastAnswer(page).getByRole("button", { name: "Previous version" }).click();
    assert.equal(await lastText(page).innerText(), first);
    assert.equal(await messages(page).count(), 2);
    assertQuiet(page);
  });

  test("edit a message: a branch from there", async () => {
    const page = await open();
    await ask(page, "What is 17 + 25?");
    await ask(page, "Count from 3 to 7.");
    const question = page.getByRole("article", { name: "You" }).first();
    await question.hover();
    await question.getByRole("button", { name: "Edit message" }).click();
    const editor = page.getByRole("textbox", { name: "Edit message" });
    assert.equal(await editor.inputValue(), "What is 17 + 25?");
    await editor.fill("What is 21 + 34?");
    await editor.press("Enter");
    await lastText(page).getByText("55").waitFor();
    await settle(page);
    assert.equal(await messages(page).count(), 2);
    await shot(page, "branches");
    // The old branch, with all that followed, is one step away.
    await question.getByRole("button", { name: "Previous version" }).click();
    assert.equal(await messages(page).count(), 4);
    assertQuiet(page);
  });

  test("copy a message", async () => {
    const page = await open({ permissions: ["clipboard-read", "clipboard-write"] });
    await ask(page, "What is 17 + 25?");
    await lastAnswer(page).getByRole("button", { name: "Copy message" }).click();
    await lastAnswer(page).getByRole("button", { name: "Copied" }).waitFor();
    assert.match(await page.evaluate(() => navigator.clipboard.readText()), /42/);
  });
});

describe("conversations", () => {
  test("reload and find it; rename, export, delete, undo", async () => {
    const page = await open();
    await ask(page, "What is 17 + 25?");
    await page.reload();
    assert.equal(await messages(page).count(), 2);
    assert.match(await lastText(page).innerText(), /42/);
    await page.goto(`${server.url}/`);
    await page.getByRole("link", { name: "What is 17 + 25?" }).click();
    await messages(page).nth(1).waitFor();
    await page.getByRole("button", { name: "New chat" }).first().click();
    await ask(page, "Count from 3 to 7.");
    const list = page.getByRole("navigation", { name: "Conversations" });
    assert.equal(await list.getByRole("link").count(), 2);

    const entry = list.getByRole("listitem").filter({ hasText: "17 + 25" });
    await entry.hover();
    await entry.getByRole("button", { name: /^Rename/ }).click();
    await page.getByRole("textbox", { name: "Title" }).fill("A sum");
    await page.keyboard.press("Enter");
    const renamed = list.getByRole("listitem").filter({ hasText: "A sum" });
    await renamed.hover();
    const [download] = await Promise.all([
      page.waitForEvent("download"),
      renamed.getByRole("button", { name: /^Export/ }).click(),
    ]);
    assert.equal(download.suggestedFilename(), "a-sum.md");
    const text = readFileSync(await download.path(), "utf8");
    assert.match(text, /^# A sum\n[\s\S]*17 \+ 25[\s\S]*42/);

    await renamed.hover();
    await renamed.getByRole("button", { name: /^Delete/ }).click();
    await renamed.waitFor({ state: "detached" });
    await shot(page, "deleted");
    await page.getByRole("button", { name: "Undo" }).click();
    await renamed.waitFor();
    await page.reload();
    await renamed.waitFor();
    assertQuiet(page);
  });

  test("settings go into the request and stay", async () => {
    const page = await open();
    await page.getByRole("banner").or(page.locator("header.top")).getByRole("button", { name: "Settings" }).click();
    await page.getByLabel("For all conversations").fill("Answer in one sentence.");
    await page.getByLabel("Temperature").fill("0");
    await page.getByLabel("Seed").fill("7");
    await page.getByLabel("Reasoning effort").selectOption("low");
    await page.getByLabel("Seed").press("Tab");
    await shot(page, "settings");
    await assertAccessible(page);
    await page.keyboard.press("Escape");
    await page.reload();
    const [request] = await Promise.all([
      page.waitForRequest("**/v1/chat/completions"),
      ask(page, "What is 17 + 25?"),
    ]);
    const body = request.postDataJSON();
    assert.equal(body.messages[0].role, "system");
    assert.equal(body.messages[0].content, "Answer in one sentence.");
    assert.equal(body.temperature, 0);
    assert.equal(body.seed, 7);
    assert.equal(body.reasoning_effort, "low");
    assert.equal(body.top_k, undefined);
    assertQuiet(page);
  });
});

describe("Markdown", () => {
  test("code is coloured and can be copied, tables and lists are right", async () => {
    const page = await open({ permissions: ["clipboard-read", "clipboard-write"] });
    await script(page, RICH);
    await ask(page, "Show me a binary search.");
    const answer = lastAnswer(page);
    assert.equal(await answer.locator(".hljs-keyword", { hasText: "def" }).count(), 1);
    assert.equal(await answer.locator("td[align=right]").count(), 2);
    assert.equal(await answer.locator("ol").getAttribute("start"), "3");
    const link = answer.getByRole("link", { name: "the article" });
    assert.equal(await link.getAttribute("target"), "_blank");
    assert.equal(await link.getAttribute("rel"), "noopener noreferrer");
    await answer.locator(".code").getByRole("button", { name: "Copy" }).click();
    assert.match(await page.evaluate(() => navigator.clipboard.readText()), /^def search.*\n.*else None\n$/s);
    // Where the prompt was read, over which link.
    const strip = await page.getByRole("region", { name: "Figures" }).innerText();
    assert.match(strip, /read on\s+10\.0\.0\.2:9310/);
    assert.match(strip, /109 MB\/s/);
    assert.match(strip, /94 %/);
    await page.locator(".thread").evaluate((thread) => (thread.scrollTop = 0));
    await shot(page, "code-light");
    await assertAccessible(page);
    await page.emulateMedia({ colorScheme: "dark" });
    await shot(page, "code-dark");
    await assertAccessible(page);
    assertQuiet(page);
  });

  test("nothing in an answer runs, and nothing is fetched", async () => {
    const page = await open();
    await script(page, HOSTILE);
    await ask(page, "Be evil.");
    const answer = lastAnswer(page);
    await page.waitForTimeout(200);
    assert.equal(await page.evaluate(() => window.hit), undefined);
    assert.equal(await answer.locator("img, script, style, iframe").count(), 0);
    const links = await answer.getByRole("link").evaluateAll((all) => all.map((a) => [a.href, a.getAttributeNames().sort().join(" ")]));
    for (const [href, names] of links) {
      assert.match(href, /^https:/);
      assert.match(names, /^href rel target( title)?$/);
    }
    assertQuiet(page);
  });
});

describe("looks", () => {
  const background = (page) => page.evaluate(() => getComputedStyle(document.body).backgroundColor);

  test("dark as the system has it, or by the switch", async () => {
    const page = await open({ colorScheme: "dark" });
    const dark = await background(page);
    await shot(page, "empty-dark");
    await assertAccessible(page);
    await page.getByTitle("Light").click();
    const light = await background(page);
    assert.notEqual(light, dark);
    await page.reload();
    assert.equal(await background(page), light);
    assert.ok(await page.getByRole("radio", { name: "Light" }).isChecked());
    await page.getByTitle("As the system").click();
    assert.equal(await background(page), dark);
    assertQuiet(page);
  });

  test("phone", async () => {
    const page = await open(PHONE);
    await shot(page, "phone-empty");
    await script(page, RICH);
    await ask(page, "Show me a binary search.");
    await shot(page, "phone-code");
    const width = await page.evaluate(() => document.documentElement.scrollWidth);
    assert.ok(width <= 390, `${width} wide`);
    await assertAccessible(page);
    await page.getByRole("button", { name: "Conversations" }).click();
    await page.getByRole("link", { name: "Show me a binary search." }).waitFor();
    await page.waitForTimeout(100);
    await shot(page, "phone-list");
    await assertAccessible(page);
    await page.getByRole("link", { name: "Show me a binary search." }).click();
    await page.getByRole("navigation").waitFor({ state: "hidden" });
    assertQuiet(page);
  });

  test("by keyboard alone", async () => {
    const page = await open();
    await ask(page, "What is 17 + 25?");
    assert.ok(await page.evaluate(() => document.querySelector("a, button, input").matches(".skip")), "the first stop");
    const skip = page.getByRole("button", { name: "Skip to the message field" });
    await skip.focus();
    assert.ok((await skip.boundingBox()).y >= 0, "in sight once it has the focus");
    await page.keyboard.press("Enter");
    assert.equal(await page.evaluate(() => document.activeElement.id), "prompt");
    // Back from the field, through everything in sight, each stop with a visible mark.
    for (let i = 0; i < 12; i++) {
      await page.keyboard.press("Shift+Tab");
      const outline = await page.evaluate(() => {
        const at = document.activeElement;
        const styled = at.type === "radio" ? at.closest("label") : at;
        return at === document.body ? "2px" : getComputedStyle(styled).outlineWidth;
      });
      assert.equal(outline, "2px");
    }
    await page.keyboard.press("Control+Shift+O");
    await page.getByRole("heading", { level: 1, name: "New chat" }).waitFor();
  });
});

describe("trouble", () => {
  test("busy server: what it says, and another try", async () => {
    const page = await open();
    await script(page, "All slots are taken. Try again in 3 seconds.", { status: 503, headers: { "Retry-After": "3" } });
    await ask(page, "What is 17 + 25?");
    await page.getByRole("alert").getByText("All slots are taken").waitFor();
    await shot(page, "busy");
    await assertAccessible(page);
    await page.unroute("**/v1/chat/completions");
    await page.getByRole("button", { name: "Try again" }).click();
    await lastText(page).getByText("42").waitFor();
    await settle(page);
    assert.equal(await messages(page).count(), 2);
    assert.equal(await page.getByRole("group", { name: "Versions" }).count(), 0);
    assertQuiet(page);
  });

  test("server gone, and back", async () => {
    const page = await open();
    await page.route(/\/(v1|health)/, (route) => route.abort("connectionrefused"));
    await ask(page, "What is 17 + 25?");
    await page.getByText("The page goes on as soon as it is back").waitFor();
    await shot(page, "server-gone");
    await assertAccessible(page);
    await page.unroute(/\/(v1|health)/);
    await page.getByText("The page goes on as soon as it is back").waitFor({ state: "detached" });
    await page.getByRole("button", { name: "Try again" }).click();
    await lastText(page).getByText("42").waitFor();
    assertQuiet(page);
  });

  test("an API key is asked for and kept for the tab", { skip: process.env.TD_URL && "not with another server" }, async () => {
    const file = join(mkdtempSync(join(work, "key-")), "key");
    writeFileSync(file, "open-sesame-for-the-test\n", { mode: 0o600 });
    const locked = await startServer("--api-key", file);
    try {
      const page = await open({ url: locked.url });
      const dialog = page.getByRole("dialog", { name: "This server asks for a key" });
      await dialog.waitFor();
      await shot(page, "key");
      await assertAccessible(page);
      await page.getByLabel("API key").fill("wrong");
      await page.keyboard.press("Enter");
      await page.getByText("The server does not take this key.").waitFor();
      await page.getByLabel("API key").fill("open-sesame-for-the-test");
      await page.keyboard.press("Enter");
      await dialog.waitFor({ state: "hidden" });
      await ask(page, "What is 17 + 25?");
      assert.match(await lastText(page).innerText(), /42/);
      await page.reload();
      await settle(page);
      assert.equal(await dialog.isVisible(), false);
      assert.doesNotMatch(await page.evaluate(() => JSON.stringify(localStorage)), /sesame/);
      const other = await page.context().newPage();
      await other.goto(locked.url);
      await other.getByRole("dialog", { name: "This server asks for a key" }).waitFor();
    } finally {
      await locked.stop();
    }
  });
});
