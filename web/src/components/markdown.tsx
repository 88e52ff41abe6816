// SPDX-License-Identifier: MIT
import { useLayoutEffect, useRef } from "preact/hooks";
import { copy } from "../clipboard";
import { renderInto } from "../markdown";

const SAYS_COPIED_MS = 1500;

async function onClick(event: MouseEvent) {
  const button = (event.target as Element).closest<HTMLButtonElement>("[data-copy-code]");
  if (!button) return;
  const code = button.closest(".code")?.querySelector("code")?.textContent ?? "";
  if (!(await copy(code))) return;
  button.textContent = "Copied";
  setTimeout(() => (button.textContent = "Copy"), SAYS_COPIED_MS);
}

export function Markdown({ text, isGrowing = false }: { text: string; isGrowing?: boolean }) {
  const container = useRef<HTMLDivElement>(null);
  useLayoutEffect(() => renderInto(container.current!, text, isGrowing), [text, isGrowing]);
  return <div class="markdown" ref={container} onClick={onClick} />;
}
