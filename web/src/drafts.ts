// SPDX-License-Identifier: MIT
// What is written and not sent yet, for each conversation. It survives a reload, in its tab only.
import { computed, effect, signal } from "@preact/signals";
import { current } from "./chats";
import type { Id } from "./types";

const KEY = "tandem.drafts";
/** The place of a conversation that is not there yet. */
const NEW = "";

function read(): ReadonlyMap<Id, string> {
  try {
    return new Map(JSON.parse(sessionStorage.getItem(KEY) ?? "[]"));
  } catch {
    return new Map();
  }
}

const drafts = signal(read());
effect(() => {
  try {
    sessionStorage.setItem(KEY, JSON.stringify([...drafts.value]));
  } catch {
    // Full or forbidden: they hold until the page is left.
  }
});

export const draft = computed(() => drafts.value.get(current.value?.id ?? NEW) ?? "");

/** Of the conversation on show, if no other is named. */
export function setDraft(text: string, id: Id = current.value?.id ?? NEW) {
  const others = new Map(drafts.value);
  if (text) others.set(id, text);
  else others.delete(id);
  drafts.value = others;
}
