// SPDX-License-Identifier: MIT
// The chat page in headless Chromium: what it keeps. Files in and out, several tabs, a browser that
// forbids keeping, drafts.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { describe, test } from "node:test";
import {
  addPuppet, ask, askPuppet, assertAccessible, assertQuiet, field, lastAnswer, lastText, messages, open, reload, script, server, settle, shot,
} from "./page_kit.mjs";

const list = (page) => page.getByRole("navigation", { name: "Conversations" });
const entries = (page) => list(page).getByRole("listitem");

async function openSettings(page) {
  await page.locator("header.top").getByRole("button", { name: "Settings" }).click();
}

/** The text of the file with all conversations. */
async function exportAll(page) {
  await openSettings(page);
  const [download] = await Promise.all([
    page.waitForEvent("download"),
    page.getByRole("button", { name: "Export all conversations" }).click(),
  ]);
  assert.match(download.suggestedFilename(), /^tandem-conversations-\d{4}-\d\d-\d\d\.json$/);
  await page.keyboard.press("Escape");
  return readFileSync(await download.path(), "utf8");
}

/** Gives the page a file, as its button does; the settings stay open where it is refused. */
async function importText(page, text) {
  if (!(await page.getByRole("dialog", { name: "Settings" }).isVisible())) await openSettings(page);
  const [chooser] = await Promise.all([
    page.waitForEvent("filechooser"),
    page.getByRole("button", { name: "Import conversations" }).click(),
  ]);
  await chooser.setFiles({ name: "a.json", mimeType: "application/json", buffer: Buffer.from(text) });
}

async function remove(page, title) {
  const entry = entries(page).filter({ hasText: title });
  await entry.hover();
  await entry.getByRole("button", { name: /^Delete/ }).click();
  await entry.waitFor({ state: "detached" });
}

describe("files", () => {
  test("export all, delete, import: everything is back, once", async () => {
    const page = await open();
    await script(page, "It is **42**.");
    await ask(page, "What is 17 + 25?");
    await page.getByRole("button", { name: "Regenerate answer" }).click();
    await settle(page);
    await page.getByRole("button", { name: "New chat" }).first().click();
    await ask(page, "And another?");
    const text = await exportAll(page);
    await remove(page, "17 + 25");
    await remove(page, "another");

    await importText(page, text);
    await page.getByText("Imported 2 conversations.").waitFor();
    assert.equal(await entries(page).count(), 2);
    await page.getByRole("link", { name: "What is 17 + 25?" }).click();
    await lastText(page).getByText("42").waitFor();
    assert.match(await lastAnswer(page).getByRole("group", { name: "Versions" }).innerText(), /2\s*(of|\/)/);
    assert.equal(JSON.stringify(sorted(await exportAll(page))), JSON.stringify(sorted(text)));

    await importText(page, text);
    await page.getByText("Imported 0 conversations. 2 were here already.").waitFor();
    assert.equal(await entries(page).count(), 2);
    await reload(page);
    await lastText(page).getByText("42").waitFor();
    assert.equal(await entries(page).count(), 2);
    assertQuiet(page);
  });

  test("what is here is not overwritten", async () => {
    const page = await open();
    await script(page, "It is 42.");
    await ask(page, "What is 17 + 25?");
    const text = await exportAll(page);
    await importText(page, text.replace("It is 42.", "It is 43."));
    await page.getByText("Imported 1 conversation.").waitFor();
    assert.equal(await entries(page).count(), 2);
    assert.match(await lastText(page).innerText(), /42/);
    const answers = sorted(await exportAll(page)).map((conversation) => conversation.messages[1].text);
    assert.deepEqual(answers.sort(), ["It is 42.", "It is 43."]);
    // The copy is known by what it says.
    await importText(page, text.replace("It is 42.", "It is 43."));
    await page.getByText("Imported 0 conversations. One was here already.").waitFor();
    // An older state of what went on is known, too.
    await ask(page, "Sure?");
    await importText(page, text);
    await page.getByText("Imported 0 conversations. One was here already.").waitFor();
    assertQuiet(page);
  });

  test("a hostile file is refused in one sentence, and nothing is lost", async () => {
    const page = await open();
    await script(page, "It is 42.");
    await ask(page, "What is 17 + 25?");
    const text = await exportAll(page);
    /** The file with something changed in its one conversation. */
    const spoilt = (change) => {
      const file = JSON.parse(text);
      file.conversations.unshift({ ...structuredClone(file.conversations[0]), id: "another" });
      change(file.conversations[1], file);
      return JSON.stringify(file);
    };
    const notOurs = "This file does not hold tandem's conversations.";
    const cases = [
      ["", "This file is not JSON"],
      ["\u0000\u0001\u0002", "This file is not JSON"],
      [text.slice(0, -5), "This file is not JSON"],
      ["[".repeat(200_000), "This file is not JSON"],
      ["null", notOurs],
      ["[]", notOurs],
      ['{"format":"tandem-conversations"}', notOurs],
      ['{"format":"tandem-conversations","version":1,"conversations":{}}', notOurs],
      [spoilt((c, file) => (file.version = 2)), "another version of tandem"],
      [spoilt((c, file) => (file.conversations[1] = 7)), "Conversation 2 of this file is not a conversation."],
      [spoilt((c) => delete c.title), "Conversation 2: “title” is missing"],
      [spoilt((c) => (c.id = "../../etc/passwd")), "Conversation 2: “id” is missing or not what it should be."],
      [spoilt((c) => (c.id = "x".repeat(65))), "Conversation 2: “id”"],
      [spoilt((c) => (c.updatedAt = 1e300)), "“updatedAt”"],
      [spoilt((c) => (c.createdAt = "now")), "“createdAt”"],
      [spoilt((c) => (c.system = { toString: 1 })), "“system”"],
      [spoilt((c) => (c.messages = "none")), "“messages”"],
      [spoilt((c) => (c.head = "nowhere")), "Conversation 2 ends in a message that is not there."],
      [spoilt((c) => (c.messages[1] = null)), "Conversation 2, message 2 is not a message."],
      [spoilt((c) => (c.messages[0].role = "system")), "Conversation 2, message 1: “role”"],
      [spoilt((c) => (c.messages[1].text = ["<b>"])), "Conversation 2, message 2: “text”"],
      [spoilt((c) => (c.messages[1].end = "exploded")), "“end”"],
      [spoilt((c) => (c.messages[1].stats = [])), "“stats”"],
      [spoilt((c) => (c.messages[1].stats.nPrompt = -1)), "“nPrompt”"],
      [spoilt((c) => (c.messages[1].stats.prefill.path = "moon")), "“path”"],
      [spoilt((c) => (c.messages[1].parent = "nobody")), "Conversation 2, message 2 follows one that is not there."],
      [spoilt((c) => (c.messages[0].parent = c.messages[1].id)), "Conversation 2, message 1 follows one that is not there."],
      [spoilt((c) => (c.messages[1].id = c.messages[0].id)), "Conversation 2, message 2: its id is there twice."],
    ];
    const dialog = page.getByRole("dialog", { name: "Settings" });
    for (const [file, sentence] of cases) {
      await importText(page, file);
      await dialog.getByRole("alert").getByText(sentence).waitFor();
      assert.match(await dialog.getByRole("alert").innerText(), /^[^.]*\.$/, "one sentence");
    }
    await shot(page, "import-refused");
    await assertAccessible(page);
    await page.keyboard.press("Escape");
    assert.equal(await entries(page).count(), 1);
    assert.equal(JSON.stringify(sorted(await exportAll(page))), JSON.stringify(sorted(text)));
    assertQuiet(page);
  });

  test("a file brings in nothing but what the page shows", async () => {
    const page = await open();
    const message = (id, parent, role, text) => ({ id, parent, role, text, reasoning: "", createdAt: 1 });
    const evil = '<img src=x onerror="window.hit=1">';
    const conversation = {
      id: "constructor", title: ` ${evil}\n${"long ".repeat(200)}`, createdAt: 0, updatedAt: 8.64e15, head: "b",
      messages: [{ ...message("__proto__", null, "user", evil), extra: evil }, message("b", "__proto__", "assistant", evil)],
      extra: evil,
    };
    const nested = JSON.stringify({ format: "tandem-conversations", version: 1, conversations: [conversation] });
    await importText(page, nested.replace('"extra"', '"__proto__":{"polluted":1},"extra"'));
    await page.getByText("Imported 1 conversation.").waitFor();
    await page.getByRole("link", { name: "onerror" }).click();
    await messages(page).nth(1).waitFor();
    assert.equal(await messages(page).count(), 2);
    assert.equal(await page.locator("img").count(), 0);
    assert.deepEqual(await page.evaluate(() => [window.hit, {}.polluted]), [undefined, undefined]);
    const [kept] = sorted(await exportAll(page));
    assert.ok(kept.title.length <= 300 && !kept.title.includes("\n"));
    assert.equal(kept.extra ?? kept.messages[0].extra, undefined);
    // A text longer than any answer is shown, not rendered.
    const huge = { ...conversation, id: "huge", title: "Huge", updatedAt: 6, messages: [message("h", null, "assistant", "**x** ".repeat(500_000))], head: "h" };
    await importText(page, JSON.stringify({ format: "tandem-conversations", version: 1, conversations: [huge] }));
    await page.getByText("Imported 1 conversation.").waitFor();
    await page.getByRole("link", { name: "Huge", exact: true }).click();
    await page.getByRole("heading", { level: 1, name: "Huge" }).waitFor();
    assert.equal(await page.locator(".markdown strong").count(), 0);
    assert.match((await page.locator(".markdown").evaluate((text) => text.textContent.slice(0, 12))), /^\*\*x\*\* /);
    // A very long conversation, too: nothing recurses.
    const many = Array.from({ length: 20_000 }, (_, i) => message(`m${i}`, i ? `m${i - 1}` : null, i % 2 ? "assistant" : "user", ""));
    const long = { ...conversation, id: "long", title: "Long", updatedAt: 5, messages: many, head: "m3" };
    await importText(page, JSON.stringify({ format: "tandem-conversations", version: 1, conversations: [long] }));
    await page.getByText("Imported 1 conversation.").waitFor();
    await page.getByRole("link", { name: "Long", exact: true }).click();
    await page.getByRole("heading", { level: 1, name: "Long" }).waitFor();
    assert.equal(await messages(page).count(), 4);
    assertQuiet(page);
  });

  test("a browser without room: one sentence, nothing half there", async () => {
    const page = await open();
    await script(page, "It is 42.");
    await ask(page, "What is 17 + 25?");
    const file = JSON.parse(await exportAll(page));
    file.conversations.push({ ...structuredClone(file.conversations[0]), id: "second" });
    file.conversations.forEach((conversation, i) => (conversation.messages[0].id = `new-${i}`));
    file.conversations.forEach((conversation, i) => (conversation.messages[1].parent = `new-${i}`));
    await page.evaluate(() => {
      const { put } = IDBObjectStore.prototype;
      let left = 3;
      IDBObjectStore.prototype.put = function (value) {
        if (left-- > 0) return put.call(this, value);
        this.transaction.abort();
        throw new DOMException("full", "QuotaExceededError");
      };
    });
    await importText(page, JSON.stringify(file));
    await page.getByRole("alert").getByText("none was added").waitFor();
    await reload(page);
    await entries(page).first().waitFor();
    assert.equal(await entries(page).count(), 1);
  });
});

/** The conversations of an exported file, in an order of their own, without what the server said beyond need. */
function sorted(text) {
  const file = JSON.parse(text, (key, value) => (key === "seconds" ? undefined : value));
  return file.conversations.sort((a, b) => (a.id < b.id ? -1 : 1));
}

describe("several tabs", () => {
  async function another(page) {
    const other = await page.context().newPage();
    await addPuppet(other);
    await other.goto(page.url());
    await messages(other).nth(1).waitFor();
    return other;
  }

  test("none overwrites what another said", async () => {
    const page = await open();
    await script(page, "It is 42.");
    await ask(page, "What is 17 + 25?");
    await page.unroute("**/v1/chat/completions");
    const other = await another(page);
    // The other begins an answer; here the question before is asked in other words meanwhile.
    await askPuppet(other, "Are you sure?");
    await other.evaluate(() => window.puppet.say("Quite "));
    await messages(page).nth(3).waitFor();
    await script(page, "It is 55.");
    const question = page.getByRole("article", { name: "You" }).first();
    await question.hover();
    await question.getByRole("button", { name: "Edit message" }).click();
    await page.getByRole("textbox", { name: "Edit message" }).fill("What is 21 + 34?");
    await page.keyboard.press("Enter");
    await lastText(page).getByText("55").waitFor();
    await settle(page);
    await other.evaluate(() => {
      window.puppet.say("sure.");
      window.puppet.end();
    });
    await settle(other);
    // There, the branch on show is still its own, and the other one is beside it.
    assert.equal(await lastText(other).innerText(), "Quite sure.");
    assert.match(await other.getByRole("group", { name: "Versions" }).innerText(), /1\s*(of|\/)[^2]*2/);
    await reload(page);
    const versions = page.getByRole("group", { name: "Versions" });
    await versions.waitFor();
    const texts = new Set();
    for (const step of ["Previous version", "Next version"]) {
      const button = versions.getByRole("button", { name: step });
      if (await button.isEnabled()) await button.click();
      await versions.getByRole("button", { name: step, disabled: true }).waitFor();
      texts.add(await page.getByRole("article").last().locator("> .markdown").innerText());
    }
    assert.deepEqual([...texts].sort(), ["It is 55.", "Quite sure."]);
    assertQuiet(page);
  });

  test("what one removed, an answer in another does not bring back", async () => {
    const page = await open();
    await script(page, "It is 42.");
    await ask(page, "What is 17 + 25?");
    const other = await another(page);
    await askPuppet(other, "Are you sure?");
    await other.evaluate(() => window.puppet.say("Quite "));
    await remove(page, "17 + 25");
    await other.getByRole("heading", { level: 1, name: "New chat" }).waitFor();
    await other.waitForFunction(() => window.puppet.isLeft);
    await other.waitForTimeout(2500); // longer than between two times of keeping what has come
    for (const tab of [page, other]) {
      await reload(tab);
      await field(tab).waitFor();
      assert.equal(await entries(tab).count(), 0);
    }
    assertQuiet(page);
  });

  test("nor in the same one; undoing it brings it back", async () => {
    const page = await open();
    await addPuppet(page);
    await reload(page);
    await askPuppet(page, "Tell me a story.");
    await page.evaluate(() => window.puppet.say("Once upon a time"));
    await lastAnswer(page).getByText("Once upon").waitFor();
    await remove(page, "Tell me a story.");
    assert.ok(await page.evaluate(() => window.puppet.isLeft));
    await page.waitForTimeout(300);
    await page.evaluate(() => (location.hash = ""));
    assert.equal(await entries(page).count(), 0);
    await page.getByRole("button", { name: "Undo" }).click();
    await page.getByRole("link", { name: "Tell me a story." }).click();
    await messages(page).nth(1).waitFor();
    await page.getByText("This answer is not finished.").waitFor();
    assertQuiet(page);
  });
});

describe("what the browser keeps", () => {
  test("drafts survive a reload, each in its conversation", async () => {
    const page = await open();
    await script(page, "It is 42.");
    await field(page).fill("not sent yet");
    await reload(page);
    assert.equal(await field(page).inputValue(), "not sent yet");
    await ask(page, "What is 17 + 25?");
    assert.equal(await field(page).inputValue(), "");
    await field(page).fill("half of a");
    await page.getByRole("button", { name: "New chat" }).first().click();
    assert.equal(await field(page).inputValue(), "");
    await field(page).fill("something else");
    await reload(page);
    assert.equal(await field(page).inputValue(), "something else");
    await page.getByRole("link", { name: "What is 17 + 25?" }).click();
    await page.getByRole("heading", { level: 1, name: "17 + 25" }).waitFor();
    assert.equal(await field(page).inputValue(), "half of a");
    await remove(page, "17 + 25");
    await page.waitForTimeout(50);
    assert.doesNotMatch(await page.evaluate(() => JSON.stringify(sessionStorage)), /half of a/);
    assertQuiet(page);
  });

  test("a browser that keeps nothing: the page works, and says so", async () => {
    const page = await open();
    await page.addInitScript(() => {
      const forbid = (name) =>
        Object.defineProperty(window, name, {
          get() {
            throw new DOMException("forbidden", "SecurityError");
          },
        });
      ["localStorage", "sessionStorage"].forEach(forbid);
      IDBFactory.prototype.open = () => {
        throw new DOMException("forbidden", "SecurityError");
      };
    });
    page.faults.length = 0;
    await page.goto(`${server.url}/?`);
    await page.getByText("This browser does not keep data").waitFor();
    await script(page, "It is 42.");
    await ask(page, "What is 17 + 25?");
    assert.match(await lastText(page).innerText(), /42/);
    await ask(page, "Sure?");
    assert.equal(await messages(page).count(), 4);
    await page.getByTitle("Dark").click();
    await page.getByRole("button", { name: "New chat" }).first().click();
    await page.getByRole("link", { name: "What is 17 + 25?" }).click();
    await messages(page).nth(3).waitFor();
  });
});
