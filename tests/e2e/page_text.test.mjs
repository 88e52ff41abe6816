// SPDX-License-Identifier: MIT
// The chat page in headless Chromium: how it shows what a model says, whatever that is.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import {
  addPuppet, ask, askPuppet, assertAccessible, assertQuiet, field, lastAnswer, lastText, messages, open, reload, script, settle, shot,
} from "./page_kit.mjs";
import { HEBREW, HOSTILE, RICH, TRICKY } from "./page_words.mjs";

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
    await addPuppet(page);
    await reload(page);
    await askPuppet(page, HOSTILE);
    await page.evaluate((text) => {
      window.puppet.reason(text);
      window.puppet.say(text);
      window.puppet.end();
    }, HOSTILE);
    await settle(page);
    await lastAnswer(page).locator("summary").click();
    await page.waitForTimeout(200);
    assert.equal(await page.evaluate(() => window.hit), undefined);
    const strangers = "img, script, style, iframe, svg:not(.icon), math, form, base, meta, [onerror], [style]";
    const places = page.locator(".message, header, nav");
    assert.equal(await places.locator(strangers).count(), 0);
    assert.equal(await lastAnswer(page).locator(".markdown").count(), 2, "the reasoning is on show, too");
    const links = await lastAnswer(page).getByRole("link").evaluateAll((all) => all.map((a) => [a.href, a.getAttributeNames().sort().join(" ")]));
    assert.ok(links.length >= 6, `${links.length} links`);
    for (const [href, names] of links) {
      assert.match(href, /^https:/);
      assert.match(names, /^href rel target( title)?$/);
    }
    // Neither as a title, nor from the store.
    await reload(page);
    assert.equal(await page.evaluate(() => window.hit), undefined);
    assert.equal(await places.locator(strangers).count(), 0);
    assertQuiet(page);
  });

  test("nothing in what the server says runs", async () => {
    const page = await open();
    await script(page, HOSTILE, { status: 500 });
    await page.route("**/v1/models", (route) =>
      route.fulfill({ json: { data: [{ id: '<img src=x onerror="window.hit=1">', meta: { n_ctx: "<b>" } }] } }),
    );
    await reload(page);
    await ask(page, "Be evil.");
    await page.getByRole("alert").waitFor();
    assert.equal(await page.evaluate(() => window.hit), undefined);
    assert.equal(await page.locator("img, b").count(), 0);
    assertQuiet(page);
  });

  test("an answer that grows looks as the whole of it", async () => {
    const page = await open();
    await addPuppet(page);
    await reload(page);
    await askPuppet(page, "Go on.");
    // Bit by bit, and shown after each: every place where a line may be half there.
    const shown = await page.evaluate(async (text) => {
      const seen = () => document.querySelector("[aria-busy] > .markdown")?.textContent.length ?? 0;
      for (let at = 0; at < text.length; at += 3) {
        const before = seen();
        window.puppet.say(text.slice(at, at + 3));
        const begin = performance.now();
        while (seen() === before && performance.now() - begin < 60) await new Promise((resolve) => setTimeout(resolve, 5));
      }
      await new Promise((resolve) => setTimeout(resolve, 300));
      return document.querySelector("[aria-busy] > .markdown").innerHTML;
    }, TRICKY);
    await page.evaluate(() => window.puppet.end());
    await settle(page);
    assert.equal(shown, await lastText(page).innerHTML());
    await reload(page);
    await lastText(page).getByText("The end").waitFor();
    assert.equal(shown, await lastText(page).innerHTML());
    assert.match(shown, /<ol>.*second.*tenth.*<\/ol>/s);
    assert.match(shown, /href="https:\/\/example.org\/known"[^>]*>known</);
    assert.doesNotMatch(shown, /too-late/);
    assertQuiet(page);
  });

  test("a very long answer: what is finished stays as it is, and the page listens", async () => {
    const page = await open();
    await addPuppet(page);
    await reload(page);
    await askPuppet(page, "Write a book.");
    const paragraph = "The fox walked along the harbour and **counted** the boats. ".repeat(8);
    const part = `## Chapter\n\n${paragraph}\n\n- one\n- two\n\n\`\`\`python\nprint("fox")\n\`\`\`\n\n`;
    await page.evaluate((text) => window.puppet.say(text), part);
    await lastAnswer(page).locator(".hljs-string").waitFor();
    await page.evaluate(() => {
      const text = document.querySelector("[aria-busy] > .markdown");
      window.firsts = [...text.children].slice(0, 2);
      window.nMade = 0;
      new MutationObserver((changes) => changes.forEach((change) => (window.nMade += change.addedNodes.length))).observe(text, { childList: true });
    });
    const nParts = 250;
    await field(page).pressSequentially("next");
    await page.evaluate(
      async ([text, n]) => {
        for (let i = 0; i < n; i++) {
          window.puppet.say(text);
          if (i % 4 === 3) await new Promise((resolve) => setTimeout(resolve, 0));
        }
      },
      [part, nParts],
    );
    await field(page).pressSequentially(" question");
    assert.equal(await field(page).inputValue(), "next question");
    const nChars = 100_000;
    await page.waitForFunction((n) => document.querySelector("[aria-busy] > .markdown").textContent.length > n, nChars);
    assert.ok(await page.evaluate(() => window.firsts.every((block) => block.isConnected)));
    // Every block once, and with each of the parts at most its last two again.
    const nMade = await page.evaluate(() => window.nMade);
    assert.ok(nMade < 2 * 4 * nParts, `${nMade} blocks were made for ${4 * nParts}`);
    await page.evaluate(() => window.puppet.end());
    await settle(page);
    assert.ok((await lastText(page).innerText()).length > nChars);
    assert.ok(await page.evaluate(() => window.firsts.every((block) => block.isConnected)), "not made anew at its end either");
    assertQuiet(page);
  });

  test("long code is plain while it grows, and coloured at its end; what is open stays open", async () => {
    const page = await open();
    await addPuppet(page);
    await reload(page);
    await askPuppet(page, "Write code.");
    await page.evaluate(() => window.puppet.reason("I think."));
    await lastAnswer(page).locator("summary").click();
    await lastAnswer(page).getByText("I think.").waitFor();
    const keywords = lastText(page).locator(".hljs-keyword");
    await page.evaluate(() => window.puppet.say("```js\nconst a = 1;\n"));
    await keywords.first().waitFor();
    await page.evaluate(() => window.puppet.say("const b = 2;\n".repeat(1000)));
    await keywords.first().waitFor({ state: "detached" });
    await page.evaluate(() => window.puppet.end());
    await settle(page);
    assert.equal(await keywords.count(), 1001);
    assert.ok(await lastAnswer(page).getByText("I think.").isVisible());
    assertQuiet(page);
  });

  test("text from right to left, code from left to right", async () => {
    const page = await open();
    await script(page, HEBREW);
    await ask(page, "מה שלומך?");
    const direction = (locator) => locator.evaluate((element) => getComputedStyle(element).direction);
    const answer = lastText(page);
    assert.equal(await direction(messages(page).first().locator(".bubble")), "rtl");
    assert.equal(await direction(answer.locator("p").first()), "rtl");
    assert.equal(await direction(answer.locator("ul")), "rtl");
    assert.equal(await direction(answer.locator("pre")), "ltr");
    assert.equal(await direction(answer.locator("p").last()), "ltr");
    assert.equal(await answer.locator("ul").evaluate((list) => getComputedStyle(list).paddingLeft), "0px");
    await field(page).fill("שלום");
    assert.equal(await direction(field(page)), "rtl");
    await shot(page, "right-to-left");
    assertQuiet(page);
  });

  test("long lines and wide tables scroll by themselves", async () => {
    const page = await open({ viewport: { width: 390, height: 844 } });
    const row = `| ${"wide ".repeat(3)}`.repeat(12);
    await script(page, `\`\`\`\n${"x".repeat(5000)}\n\`\`\`\n\n${row}|\n${"|---".repeat(12)}|\n${row}|\n\n${"y".repeat(3000)}\n`);
    await ask(page, "Be wide.");
    assert.ok((await page.evaluate(() => document.querySelector(".thread").scrollWidth)) <= 390);
    for (const part of [lastText(page).locator("pre"), lastText(page).locator(".table")]) {
      assert.ok(await part.evaluate((element) => element.scrollWidth > element.clientWidth), "it scrolls");
    }
    assertQuiet(page);
  });

  test("a screen reader is told paragraphs, not words", async () => {
    const page = await open();
    await addPuppet(page);
    await reload(page);
    await page.evaluate(() => {
      window.told = [];
      const live = document.querySelector("[role=status][aria-atomic]");
      new MutationObserver(() => window.told.push(live.textContent)).observe(live, { childList: true, characterData: true, subtree: true });
    });
    await askPuppet(page, "Tell me.");
    await page.evaluate(async () => {
      for (const word of "The first paragraph has *some* words.\n\nThe second one, too.\n\n```\ncode;\n\nmore\n```\n\nThe end".split(/(?<=\s)/)) {
        window.puppet.say(word);
        await new Promise((resolve) => setTimeout(resolve, 60));
      }
      window.puppet.end();
    });
    await settle(page);
    const told = await page.evaluate(() => window.told.map((text) => text.trim()).filter(Boolean));
    assert.ok(told.includes("The first paragraph has some words."), told.join(" | "));
    assert.ok(told.includes("The second one, too."), told.join(" | "));
    assert.match(told.at(-1), /The end End of answer\.$/);
    assert.ok(told.length <= 7, told.join(" | "));
    assert.doesNotMatch(told.join(" "), /more|code;/);
    assertQuiet(page);
  });
});
