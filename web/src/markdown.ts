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

/** What a block is rendered with while its text grows. */
const GROWING: Env = {};

markdown.renderer.rules.fence = (tokens, index, _options, env) => {
  const token = tokens[index]!;
  const language = token.info.trim().split(/\s+/, 1)[0] ?? "";
  const { escapeHtml } = markdown.utils;
  const code = highlight(token.content, language, env === GROWING) ?? escapeHtml(token.content);
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

/** The tokens of each top-level block. */
function blocksOf(tokens: Token[]): Token[][] {
  const blocks: Token[][] = [];
  let depth = 0;
  for (const token of tokens) {
    if (depth === 0) blocks.push([]);
    blocks.at(-1)!.push(token);
    depth += token.nesting;
  }
  return blocks;
}

/** Link targets by name are known from their definition on; `env` collects them. */
function render(text: string, env: Env, isGrowing: boolean): Rendered {
  const tokens = markdown.parse(text, env);
  tokens.forEach(alignCell);
  const blocks = blocksOf(tokens);
  const last = isGrowing ? blocks.at(-1) : undefined;
  return {
    html: blocks.map((block) => markdown.renderer.render(block, markdown.options, block === last ? GROWING : env)),
    lines: blocks.map((block) => block[0]!.map?.[0] ?? 0),
  };
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

  blocks(text: string, isGrowing: boolean): string[] {
    if (!isGrowing || !text.startsWith(this.#final)) {
      this.#final = "";
      this.#html = [];
      this.#references = {};
    }
    const rest = text.slice(this.#final.length);
    const { html, lines } = render(rest, { references: { ...this.#references } }, isGrowing);
    const blocks = [...this.#html, ...html];
    const nFinal = html.length - 2;
    if (isGrowing && nFinal > 0 && !rest.includes("\r")) {
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

/** A text beyond this is shown as it is: no answer is that long, but a file with conversations may say so. */
const MAX_LENGTH = 1_000_000;

/** How long the last call of renderInto took: what grows must not be shown more often than that. */
export let lastRenderMs = 0;

/** Makes `container` show `text`, which may go on growing. */
export function renderInto(container: HTMLElement, text: string, isGrowing: boolean) {
  if (text.length > MAX_LENGTH) {
    const plain = document.createElement("div");
    plain.className = "block plain";
    plain.textContent = text;
    container.replaceChildren(plain);
    return;
  }
  const begin = performance.now();
  const state = growing.get(container) ?? new Growing();
  growing.set(container, state);
  const wanted = state.blocks(text, isGrowing);
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
