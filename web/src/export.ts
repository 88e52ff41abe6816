// SPDX-License-Identifier: MIT
// Conversations as files: Markdown to read, JSON to keep.
import { FORMAT, VERSION } from "./import";
import * as store from "./store";
import { branch } from "./tree";
import type { Conversation } from "./types";

function download(name: string, type: string, text: string) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  URL.revokeObjectURL(link.href);
}

function fileName(title: string): string {
  const name = title.toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "");
  return name.slice(0, 60) || "conversation";
}

function toMarkdown(conversation: Conversation): string {
  const parts = branch(conversation).map(
    ({ role, text }) => `## ${role === "user" ? "You" : "Answer"}\n\n${text.trim()}\n`,
  );
  return [`# ${conversation.title}\n`, ...parts].join("\n");
}

export function exportOne(conversation: Conversation) {
  download(`${fileName(conversation.title)}.md`, "text/markdown", toMarkdown(conversation));
}

export async function exportAll() {
  const day = new Date().toISOString().slice(0, 10);
  const conversations = await store.all();
  const text = JSON.stringify({ format: FORMAT, version: VERSION, conversations }, null, 1);
  download(`tandem-conversations-${day}.json`, "application/json", text);
}
