// SPDX-License-Identifier: MIT
// Markdown to DOM, again and again while an answer grows. Only blocks whose HTML changed are
// replaced, so that finished ones keep their selection and cost nothing. Nothing in an answer may
// make the browser ask anybody for anything: HTML is text, images become links, and the sanitizer
// has the last word.
import DOMPurify from "dompurify";
import MarkdownIt from "markdown-it";
import { highlight } from "./highlight";

type Token = ReturnType<InstanceType<typeof MarkdownIt>["parse"]>[number];

const markdown = new MarkdownIt({ html: false, linkify: true });

markdown.renderer.rules.image = (tokens, index) => {
  const token = tokens[index]!;
  const { escapeHtml } = markdown.utils;
  const label = token.content || "image";
  return `<a href="${escapeHtml(String(token.attrGet("src") ?? ""))}">${escapeHtml(label)}</a>`;
};

markdown.renderer.rules.fence = (tokens, index) => {
  const token = tokens[index]!;
  const language = token.info.trim().split(/\s+/, 1)[0] ?? "";
  const { escapeHtml } = markdown.utils;
  const code = highlight(token.content, language) ?? escapeHtml(token.content);
  return `<pre title="${escapeHtml(language)}"><code>${code}</code></pre>`;
};
markdown.renderer.rules.code_block = markdown.renderer.rules.fence;

// The alignment of a table's columns, without a style attribute.
function alignCell(token: Token) {
  const align = /text-align:(\w+)/.exec(String(token.attrGet("style") ?? ""))?.[1];
  if (align) token.attrs = [["align", align]];
}

const purifier = DOMPurify(window);
purifier.addHook("afterSanitizeAttributes", (node) => {
  if (node.nodeName !== "A") return;
  node.setAttribute("target", "_blank");
  node.setAttribute("rel", "noopener noreferrer");
});
const ALLOWED = {
  ALLOWED_TAGS: [
    ..."a blockquote br code del em h1 h2 h3 h4 h5 h6 hr li ol p pre s span strong".split(" "),
    ..."table tbody td th thead tr ul".split(" "),
  ],
  ALLOWED_ATTR: ["align", "class", "href", "start", "title"],
  ADD_URI_SAFE_ATTR: ["align", "start"], // of these, any value
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
};

/** The HTML of each top-level block. */
function blocks(text: string): string[] {
  const env = {};
  const tokens = markdown.parse(text, env);
  const html: string[] = [];
  let depth = 0;
  let block: Token[] = [];
  for (const token of tokens) {
    alignCell(token);
    block.push(token);
    depth += token.nesting;
    if (depth > 0) continue;
    html.push(markdown.renderer.render(block, markdown.options, env));
    block = [];
  }
  return html;
}

/** Code gets a head with its language and a button; what may scroll can be reached by keyboard. */
function furnish(block: HTMLElement) {
  for (const pre of block.querySelectorAll("pre")) {
    const language = pre.title;
    pre.removeAttribute("title");
    pre.tabIndex = 0;
    const head = document.createElement("div");
    head.className = "code-head";
    const name = document.createElement("span");
    name.textContent = language || "text";
    const button = document.createElement("button");
    button.type = "button";
    button.dataset.copyCode = "";
    button.textContent = "Copy";
    head.append(name, button);
    const frame = document.createElement("div");
    frame.className = "code";
    pre.replaceWith(frame);
    frame.append(head, pre);
  }
  for (const table of block.querySelectorAll("table")) {
    const frame = document.createElement("div");
    frame.className = "table";
    frame.tabIndex = 0;
    frame.role = "region";
    frame.ariaLabel = "Table";
    table.replaceWith(frame);
    frame.append(table);
  }
}

const sources = new WeakMap<Element, string>();

/** Makes `container` show `text`. */
export function renderInto(container: HTMLElement, text: string) {
  const wanted = blocks(text);
  wanted.forEach((html, i) => {
    const old = container.children[i];
    if (old && sources.get(old) === html) return;
    const block = document.createElement("div");
    block.className = "block";
    block.append(purifier.sanitize(html, { ...ALLOWED, RETURN_DOM_FRAGMENT: true }));
    furnish(block);
    sources.set(block, html);
    if (old) old.replaceWith(block);
    else container.append(block);
  });
  while (container.children.length > wanted.length) container.lastElementChild?.remove();
}
