// SPDX-License-Identifier: MIT
// The conversations: which there are, which is on show, and everything a user does to them.
import { batch, computed, signal } from "@preact/signals";
import { announce, announceAnswer } from "./announce";
import { Answer } from "./answer";
import { newId } from "./id";
import { needKey, serverIsGone } from "./server";
import { settings } from "./settings";
import * as store from "./store";
import { append, branch, change, dropLeaf, newestLeaf } from "./tree";
import type { Conversation, Id, Message, Summary } from "./types";

export const summaries = signal<Summary[]>([]);
/** null: a new one that nothing has been said in. */
export const current = signal<Conversation | null>(null);
/** The system prompt of a conversation that is not there yet. */
export const draftSystem = signal<string | undefined>(undefined);
/** Answers being made, by conversation. */
export const answers = signal<ReadonlyMap<Id, Answer>>(new Map());
export const currentAnswer = computed(() => answers.value.get(current.value?.id ?? ""));

const SAVE_EVERY_MS = 2000;
const TITLE_LENGTH = 60;

// Other tabs show the same list.
const channel = new BroadcastChannel("tandem.conversations");
channel.onmessage = ({ data }: MessageEvent<Id>) => void follow(data);

/** Another tab has changed a conversation: what is on show here must not overwrite it later. */
async function follow(id: Id) {
  await refresh();
  if (current.value?.id !== id || answers.value.has(id)) return;
  const changed = await store.get(id);
  if (changed && current.value?.id === id) current.value = changed;
}

/** Removed ones: an answer that was still being made must not bring them back. */
const removed = new Set<Id>();

export async function refresh() {
  summaries.value = await store.list();
}

async function save(conversation: Conversation) {
  if (removed.has(conversation.id)) return;
  if (current.value?.id === conversation.id) current.value = conversation;
  await store.put(conversation).catch(() => announce("The browser did not keep this conversation."));
  const { id, title, updatedAt } = conversation;
  const others = summaries.value.filter((summary) => summary.id !== id);
  summaries.value = [{ id, title, updatedAt }, ...others].sort((a, b) => b.updatedAt - a.updatedAt);
  channel.postMessage(id);
}

/** The newest state of a conversation that may not be on show any more. */
async function latest(id: Id): Promise<Conversation | undefined> {
  return current.value?.id === id ? current.value : store.get(id);
}

async function update(id: Id, changes: (conversation: Conversation) => Conversation) {
  const conversation = await latest(id);
  if (conversation) await save(changes(conversation));
}

// Where the page is: #/ID, so that a reload and the back button find it.

export async function show(id: Id | null) {
  const conversation = id ? ((await store.get(id)) ?? null) : null;
  batch(() => {
    current.value = conversation;
    draftSystem.value = undefined;
  });
  const hash = conversation ? `#/${conversation.id}` : "#/";
  if (location.hash !== hash && (location.hash || conversation)) history.pushState(null, "", hash);
  document.title = conversation ? `${conversation.title} · tandem` : "tandem";
}

export function showFromAddress() {
  return show(location.hash.slice(2) || null);
}

// Writing.

function newMessage(role: Message["role"], parent: Id | null, text = ""): Message {
  return { id: newId(), parent, role, text, reasoning: "", createdAt: Date.now() };
}

function titleOf(text: string): string {
  const line = text.trim().split("\n", 1)[0] ?? "";
  return line.length > TITLE_LENGTH ? `${line.slice(0, TITLE_LENGTH - 1).trimEnd()}…` : line;
}

export async function send(text: string) {
  let conversation = current.value;
  if (!conversation) {
    const now = Date.now();
    conversation = {
      id: newId(),
      title: titleOf(text),
      createdAt: now,
      updatedAt: now,
      system: draftSystem.value,
      messages: [],
      head: null,
    };
  }
  const message = newMessage("user", conversation.head, text);
  conversation = append(conversation, message);
  await save(conversation);
  current.value = conversation;
  await show(conversation.id);
  await answer(conversation, message.id);
}

/** Another text for a message of the user's: a branch beside the old one. */
export async function edit(message: Message, text: string) {
  const conversation = current.value;
  if (!conversation) return;
  const edited = newMessage("user", message.parent, text);
  await answer(append(conversation, edited), edited.id);
}

/** Another answer to the same question; one that failed before it said anything is replaced. */
export async function regenerate(message: Message) {
  const conversation = current.value;
  if (!conversation || !message.parent) return;
  const isEmpty = message.end === "failed" && !message.text && !message.reasoning;
  await answer(isEmpty ? dropLeaf(conversation, message.id) : conversation, message.parent);
}

export function stop() {
  currentAnswer.value?.stop();
}

export async function switchTo(message: Message) {
  const conversation = current.value;
  if (conversation) await save({ ...conversation, head: newestLeaf(conversation, message.id) });
}

function requestBody(conversation: Conversation, question: Id): object {
  const { system, effort, sampling } = settings.value;
  const prompt = (conversation.system ?? system).trim();
  const messages = branch(conversation, question)
    .filter((message) => message.text)
    .map(({ role, text }) => ({ role, content: text }));
  return {
    messages: prompt ? [{ role: "system", content: prompt }, ...messages] : messages,
    ...sampling,
    ...(effort && { reasoning_effort: effort }),
  };
}

async function answer(conversation: Conversation, question: Id) {
  const { id } = conversation;
  if (answers.value.has(id)) return;
  const message = newMessage("assistant", question);
  const running = new Answer(message.id);
  const withAnswer = append(conversation, message);
  batch(() => {
    answers.value = new Map(answers.value).set(id, running);
    current.value = withAnswer;
  });
  await save(withAnswer);
  announce("Sent.");
  const stopAnnouncing = announceAnswer(running);
  // A reload in the middle of a long answer loses no more than this.
  const saver = setInterval(() => {
    void update(id, (c) => change(c, message.id, running.snapshot()));
  }, SAVE_EVERY_MS);

  const { failure, ...result } = await running.run(requestBody(withAnswer, question));
  clearInterval(saver);
  await update(id, (c) => change(c, message.id, result));
  const others = new Map(answers.value);
  others.delete(id);
  answers.value = others;
  stopAnnouncing(result.end ?? "done");
  if (failure?.status === 401) needKey.value = true;
  if (failure?.status === 0) serverIsGone.value = true;
}

// Keeping house.

export async function rename(id: Id, title: string) {
  const wanted = title.trim();
  if (wanted) await update(id, (c) => ({ ...c, title: wanted }));
}

export async function setSystem(text: string | undefined) {
  const conversation = current.value;
  if (conversation) await save({ ...conversation, system: text });
  else draftSystem.value = text;
}

/** Gives what was removed, for `restore`. */
export async function remove(id: Id): Promise<Conversation | undefined> {
  const conversation = await latest(id);
  removed.add(id);
  answers.value.get(id)?.stop();
  if (current.value?.id === id) await show(null);
  await store.remove(id);
  await refresh();
  channel.postMessage(id);
  return conversation;
}

export async function restore(conversation: Conversation) {
  removed.delete(conversation.id);
  await save(conversation);
}

/** Answers that a closed tab left unfinished will not go on. */
export function isAbandoned(conversation: Conversation, message: Message): boolean {
  return message.role === "assistant" && !message.end && answers.value.get(conversation.id)?.messageId !== message.id;
}
