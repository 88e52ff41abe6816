// SPDX-License-Identifier: MIT
// The chat page in headless Chromium, for the tests beside: a server with the small model, a browser,
// and what a user does. Screenshots are left in TD_WORK/screenshots, to be looked at.
import assert from "node:assert/strict";
import { mkdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { after, afterEach, before } from "node:test";
import { chromium } from "playwright-core";
import { startServer } from "./server.mjs";

const PATIENCE_MS = 60_000;
export const PHONE = { viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true, deviceScaleFactor: 2 };
export const work = process.env.TD_WORK;
const screenshots = join(work, "screenshots");
const axeSource = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

export let server;
let browser;
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
export async function open({ url = server.url, path = "/", ...options } = {}) {
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

export const field = (page) => page.getByRole("textbox", { name: "Message", exact: true });
export const messages = (page) => page.getByRole("article");
export const lastAnswer = (page) => page.getByRole("article", { name: "Answer" }).last();
/** What was said, without the reasoning. */
export const lastText = (page) => lastAnswer(page).locator("> .markdown");

export async function settle(page) {
  await page.getByRole("button", { name: "Send", exact: true }).waitFor();
  await page.locator("[aria-busy]").waitFor({ state: "detached" });
}

// Again, and until what was kept is there.
export async function reload(page) {
  await page.reload();
  await settle(page);
}

export async function ask(page, text) {
  const n = await messages(page).count();
  await field(page).fill(text);
  await field(page).press("Enter");
  await messages(page).nth(n + 1).waitFor();
  await settle(page);
}

export const shot = (page, name) => page.screenshot({ path: join(screenshots, `${name}.png`) });

export async function assertAccessible(page) {
  // By the debugger, since the page's policy lets no script in.
  await page.evaluate(axeSource);
  const { violations } = await page.evaluate(() => window.axe.run());
  const found = violations.map(({ id, impact, nodes }) => `${id} (${impact}): ${nodes.map((node) => node.html).join(" | ")}`);
  assert.deepEqual(found, []);
}

export function assertQuiet(page) {
  assert.deepEqual(page.faults, []);
}

/**
 * Lets a test say an answer bit by bit, from the next load of the page on: `puppet.say(TEXT)` and
 * `puppet.end()` in the page, once `puppet.isAsked`.
 */
export function addPuppet(page) {
  return page.addInitScript(() => {
    const real = window.fetch;
    const puppet = (window.puppet = { isAsked: false, isLeft: false });
    window.fetch = async (path, init) => {
      if (!String(path).endsWith("/v1/chat/completions")) return real(path, init);
      const encoder = new TextEncoder();
      const body = new ReadableStream({
        start(controller) {
          const send = (data) => controller.enqueue(encoder.encode(`data: ${data}\n\n`));
          const choice = (delta, finish_reason = null) => JSON.stringify({ choices: [{ index: 0, delta, finish_reason }] });
          puppet.say = (content) => send(choice({ content }));
          puppet.reason = (reasoning_content) => send(choice({ reasoning_content }));
          puppet.end = () => {
            send(choice({}, "stop"));
            send("[DONE]");
            controller.close();
          };
          puppet.breakOff = () => controller.error(new TypeError("network error"));
          init.signal.addEventListener("abort", () => {
            puppet.isLeft = true;
            controller.error(init.signal.reason);
          });
        },
      });
      puppet.isAsked = true;
      return new Response(body, { headers: { "Content-Type": "text/event-stream" } });
    };
  });
}

/** Asks; the puppet is to answer. */
export async function askPuppet(page, text) {
  await page.evaluate(() => (window.puppet.isAsked = window.puppet.isLeft = false));
  await field(page).fill(text);
  await field(page).press("Enter");
  await page.waitForFunction(() => window.puppet.isAsked);
}

/** Answers of our own choice, for what the small model does not say. */
export function script(page, text, { progress, status = 200, headers = {} } = {}) {
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

