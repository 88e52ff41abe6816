// SPDX-License-Identifier: MIT
import { announce } from "./announce";

/** The old way works where the Clipboard API does not: pages from another machine by http. */
function copyBySelection(text: string): boolean {
  const field = document.createElement("textarea");
  field.value = text;
  field.className = "visually-hidden";
  document.body.append(field);
  const focused = document.activeElement;
  field.select();
  const isCopied = document.execCommand("copy");
  field.remove();
  if (focused instanceof HTMLElement) focused.focus();
  return isCopied;
}

export async function copy(text: string): Promise<boolean> {
  let isCopied = true;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    isCopied = copyBySelection(text);
  }
  announce(isCopied ? "Copied." : "The browser did not allow copying.");
  return isCopied;
}
