// SPDX-License-Identifier: MIT
// The chat page in headless Chromium: what a user does with it, on a server with the small model.
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, test } from "node:test";
import {
  addPuppet, ask, askPuppet, assertAccessible, assertQuiet, field, lastAnswer, lastText, messages, open, PHONE, script, server,
  reload, settle, shot, work,
} from "./page_kit.mjs";
import { startServer } from "./server.mjs";
import { RICH } from "./page_words.mjs";

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
    await addPuppet(page);
    await reload(page);
    for (const stop of [() => page.keyboard.press("Escape"), () => page.getByRole("button", { name: "Stop" }).click()]) {
      await askPuppet(page, "Tell me a story.");
      await page.evaluate(() => window.puppet.say("Once upon a time"));
      await lastAnswer(page).getByText("Once upon").waitFor();
      await stop();
      assert.ok(await page.evaluate(() => window.puppet.isLeft), "the request is given up");
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
    await reload(page);
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
    await reload(page);
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
    await reload(page);
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

describe("what is served", () => {
  test("the licences of what is bundled, and a policy that lets in nothing else", { skip: process.env.TD_URL && "not with another server" }, async () => {
    const licences = await (await fetch(`${server.url}/licenses.txt`)).text();
    for (const name of ["preact", "markdown-it", "dompurify", "highlight.js"]) assert.match(licences, new RegExp(`^${name} \\d`, "m"));
    assert.match(licences, /Permission is hereby granted/);
    const policy = (await fetch(server.url)).headers.get("Content-Security-Policy");
    assert.match(policy, /default-src 'none'/);
    assert.match(policy, /script-src 'self'(;|$)/);
    assert.match(policy, /connect-src 'self'(;|$)/);
    assert.doesNotMatch(policy, /unsafe|https?:|\*/);
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
    await reload(page);
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

describe("keyboard", () => {
  test("every action can be reached, and each stop is marked", async () => {
    const page = await open();
    await script(page, RICH);
    await ask(page, "Show me a binary search.");
    await page.getByRole("button", { name: "Regenerate answer" }).click();
    await settle(page);
    await page.evaluate(() => {
      const all = document.querySelectorAll("a[href], button:enabled, input, textarea, select, summary, [tabindex='0']");
      const isThere = (element) => element.checkVisibility({ visibilityProperty: true }) && !element.closest("dialog:not([open])");
      const isStop = (element) => element.type !== "radio" || element.checked; // arrows lead to the others
      window.wanted = new Set([...all].filter((element) => isThere(element) && isStop(element)));
      window.nWanted = window.wanted.size;
      document.activeElement.blur();
    });
    const { nWanted } = await page.evaluate(() => ({ nWanted: window.nWanted }));
    assert.ok(nWanted > 18, `${nWanted} things to do`);
    for (let i = 0; i < nWanted + 5; i++) {
      await page.keyboard.press("Tab");
      const unmarked = await page.evaluate(() => {
        const at = document.activeElement;
        if (at === document.body) return "";
        window.wanted.delete(at);
        const styled = at.type === "radio" ? at.closest("label") : at;
        const isSeen = at.checkVisibility({ opacityProperty: true }) || at.type === "radio";
        return isSeen && getComputedStyle(styled).outlineWidth === "2px" ? "" : at.outerHTML;
      });
      assert.equal(unmarked, "");
    }
    assert.deepEqual(await page.evaluate(() => [...window.wanted].map((element) => element.outerHTML)), []);
    assertQuiet(page);
  });

  test("the focus is not lost with what had it", async () => {
    const page = await open();
    await script(page, "It is 42.");
    await ask(page, "What is 17 + 25?");
    await page.getByRole("button", { name: "New chat" }).first().click();
    await ask(page, "Another one");
    const focused = () => page.evaluate(() => document.activeElement.getAttribute("aria-label") ?? document.activeElement.textContent);
    const press = async (button, key = "Enter") => {
      await button.focus();
      await page.keyboard.press(key);
    };
    await press(page.getByRole("button", { name: "Edit message" }).last());
    await page.getByRole("textbox", { name: "Edit message" }).waitFor();
    await page.keyboard.press("Escape");
    await page.getByRole("textbox", { name: "Edit message" }).waitFor({ state: "detached" });
    assert.equal(await focused(), "Edit message");

    await press(page.getByRole("button", { name: "Rename Another one" }));
    await page.getByRole("textbox", { name: "Title" }).fill("Renamed");
    await page.keyboard.press("Enter");
    await page.waitForFunction(() => document.activeElement.textContent === "Renamed");
    assert.match(await page.title(), /^Renamed/);

    await press(page.getByRole("button", { name: "Delete What is 17 + 25?" }));
    await page.getByText("Deleted").waitFor();
    await page.waitForFunction(() => document.activeElement !== document.body);
    await press(page.getByRole("button", { name: "Undo" }));
    await page.getByRole("link", { name: "What is 17 + 25?" }).waitFor();

    await press(page.locator("header.top").getByRole("button", { name: "Settings" }));
    await page.keyboard.press("Escape");
    assert.equal(await focused(), "Settings");
    assertQuiet(page);
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
    await page.getByText("The server is back.").waitFor();
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
      // Keys that no header can carry are refused before they are tried, and do not stick.
      for (const key of ["schl\u00fcssel", "two words", "\u{1f511}"]) {
        await page.getByLabel("API key").fill(key);
        await page.keyboard.press("Enter");
        await page.getByText("The server does not take this key.").waitFor();
        assert.ok(!(await page.evaluate(() => sessionStorage["tandem.key"] ?? "")).includes(key));
      }
      await page.getByLabel("API key").fill("open-sesame-for-the-test");
      await page.keyboard.press("Enter");
      await dialog.waitFor({ state: "hidden" });
      await ask(page, "What is 17 + 25?");
      assert.match(await lastText(page).innerText(), /42/);
      await reload(page);
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
