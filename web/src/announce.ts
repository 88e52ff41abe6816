// SPDX-License-Identifier: MIT
// What a screen reader is told: not every token, but each paragraph of an answer once it is whole.
import { effect, signal } from "@preact/signals";
import type { Answer } from "./answer";
import type { End } from "./types";

export const announcement = signal("");

export function announce(text: string) {
  announcement.value = text;
}

/** Markdown as it sounds: marks gone, code named and not read. */
function spoken(markdown: string): string {
  return markdown
    .replace(/```[\s\S]*?(```|$)/g, " Code block. ")
    .replace(/!?\[([^\]]*)\]\([^)]*\)/g, "$1")
    .replace(/[*_`#>|]+/g, " ")
    .replace(/\s+/g, " ")
    .trim();
}

/** Where the last whole paragraph ends: a blank line that is not inside a code block. */
function wholeParagraphs(text: string): number {
  const end = text.lastIndexOf("\n\n");
  const isInCode = (text.slice(0, end).match(/^```/gm)?.length ?? 0) % 2 === 1;
  return isInCode ? 0 : end;
}

const endings: Record<End, string> = {
  done: "End of answer.",
  length: "The answer was cut off: it reached its limit.",
  stopped: "Stopped.",
  failed: "The answer failed.",
};

/** Follows an answer; call the result with how it ended. */
export function announceAnswer(answer: Answer): (end: End) => void {
  let nSaid = 0;
  const stop = effect(() => {
    if (answer.phase.value === "reasoning") announce("Reasoning.");
  });
  const stopText = effect(() => {
    const text = answer.text.value;
    const end = wholeParagraphs(text);
    if (end <= nSaid) return;
    announce(spoken(text.slice(nSaid, end)));
    nSaid = end;
  });
  return (end) => {
    stop();
    stopText();
    announce(`${spoken(answer.text.peek().slice(nSaid))} ${endings[end]}`.trim());
  };
}
