// SPDX-License-Identifier: MIT
// Markdown to DOM, again and again while an answer grows. Only blocks whose HTML changed are
// replaced, so that finished ones keep their selection and cost nothing. Nothing in an answer may
// make the browser ask anybody for anything: HTML is text, images become links, and the sanitizer
// has the last word.
import DOMPurify from "dompurify";
import MarkdownIt from "markdown-it";
import { highlight } from "./highlight";

type Token = ReturnType<InstanceType<typeof MarkdownIt>["parse"]>[number];
type Env = Parameters<InstanceType<typeof MarkdownIt>["parse"]>[1];

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

interface Rendered {
  /** The HTML of each top-level block. */
  html: string[];
  /** Where each begins, in lines of the text. */
  lines: number[];
}

/** Link targets by name are known from their definition on; `env` collects them. */
function render(text: string, env: Env): Rendered {
  const rendered: Rendered = { html: [], lines: [] };
  let depth = 0;
  let block: Token[] = [];
  for (const token of markdown.parse(text, env)) {
    alignCell(token);
    block.push(token);
    depth += token.nesting;
    if (depth > 0) continue;
    rendered.html.push(markdown.renderer.render(block, markdown.options, env));
    rendered.lines.push(block[0]!.map?.[0] ?? 0);
    block = [];
  }
  return rendered;
}

/** Where line `line` of `text` begins. */
function offsetOf(text: string, line: number): number {
  let at = 0;
  for (let i = 0; i < line; i++) at = text.indexOf("\n", at) + 1;
  return at;
}

/**
 * Renders a growing text again and again without reading it from its beginning each time. The last
 * line may be half there, and it can change the block before it ("1" begins a paragraph, "1." goes
 * on with the list above): all but the last two blocks are final.
 */
class Growing {
  #final = "";
  #html: string[] = [];
  #references: NonNullable<Env["references"]> = {};

  blocks(text: string): string[] {
    if (!text.startsWith(this.#final)) {
      this.#final = "";
      this.#html = [];
      this.#references = {};
    }
    const rest = text.slice(this.#final.length);
    const { html, lines } = render(rest, { references: { ...this.#references } });
    const blocks = [...this.#html, ...html];
    const nFinal = html.length - 2;
    if (nFinal > 0 && !rest.includes("\r")) {
      const final = rest.slice(0, offsetOf(rest, lines[nFinal]!));
      markdown.parse(final, { references: this.#references });
      this.#html = blocks.slice(0, this.#html.length + nFinal);
      this.#final += final;
    }
    return blocks;
  }
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
    frame.dir = "ltr";
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
const growing = new WeakMap<Element, Growing>();

/** How long the last call of renderInto took: what grows must not be shown more often than that. */
export let lastRenderMs = 0;

/** Makes `container` show `text`. */
export function renderInto(container: HTMLElement, text: string) {
  const begin = performance.now();
  const state = growing.get(container) ?? new Growing();
  growing.set(container, state);
  const wanted = state.blocks(text);
  wanted.forEach((html, i) => {
    const old = container.children[i];
    if (old && sources.get(old) === html) return;
    const block = document.createElement("div");
    block.className = "block";
    block.dir = "auto";
    block.append(purifier.sanitize(html, { ...ALLOWED, RETURN_DOM_FRAGMENT: true }));
    furnish(block);
    sources.set(block, html);
    if (old) old.replaceWith(block);
    else container.append(block);
  });
  while (container.children.length > wanted.length) container.lastElementChild?.remove();
  lastRenderMs = performance.now() - begin;
}
