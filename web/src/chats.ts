// SPDX-License-Identifier: MIT
// The conversations: which there are, which is on show, and everything a user does to them.
import { batch, computed, effect, signal } from "@preact/signals";
import { announce, announceAnswer } from "./announce";
import { Answer } from "./answer";
import { newId } from "./id";
import { ImportError, newOnes, readFile } from "./import";
import { needKey, serverIsGone } from "./server";
import { settings } from "./settings";
import * as store from "./store";
import { append, branch, change, dropLeaf, find, newestLeaf } from "./tree";
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

/** Removed ones: an answer that was still being made must not bring them back. */
const removed = new Set<Id>();

/** Another tab has changed a conversation, or removed it. */
async function follow(id: Id) {
  await refresh();
  const changed = await store.get(id);
  if (changed) {
    removed.delete(id);
    if (current.value?.id === id) current.value = onOwnBranch(changed);
  } else {
    removed.add(id);
    answers.value.get(id)?.stop();
    if (current.value?.id === id) await show(null);
  }
}

/** While an answer is being made here, this tab stays on the branch that it shows. */
function onOwnBranch(conversation: Conversation): Conversation {
  const shown = current.value;
  const isBusy = shown?.id === conversation.id && answers.value.has(shown.id);
  return isBusy && find(conversation, shown.head) ? { ...conversation, head: shown.head } : conversation;
}

export async function refresh() {
  summaries.value = await store.list();
}

function notKept() {
  announce("The browser did not keep this conversation.");
}

function tellOthers({ id, title, updatedAt }: Conversation) {
  const others = summaries.value.filter((summary) => summary.id !== id);
  summaries.value = [{ id, title, updatedAt }, ...others].sort((a, b) => b.updatedAt - a.updatedAt);
  channel.postMessage(id);
}

async function save(conversation: Conversation) {
  await store.put(conversation).catch(notKept);
  tellOthers(conversation);
}

/** Changes the newest state of a conversation, which may not be on show any more. */
async function update(
  id: Id,
  changes: (conversation: Conversation) => Conversation,
): Promise<Conversation | undefined> {
  if (removed.has(id)) return undefined;
  let changed = await store.change(id, (c) => changes(onOwnBranch(c))).catch(notKept);
  const shown = current.value;
  // One that the browser does not keep is here as long as it is on show.
  if (!changed && shown?.id === id && !removed.has(id)) changed = changes(shown);
  if (!changed) return undefined;
  if (shown?.id === id) current.value = changed;
  tellOthers(changed);
  return changed;
}

// Where the page is: #/ID, so that a reload and the back button find it.

function showConversation(conversation: Conversation | null) {
  batch(() => {
    current.value = conversation;
    draftSystem.value = undefined;
  });
  const hash = conversation ? `#/${conversation.id}` : "#/";
  if (location.hash !== hash && (location.hash || conversation)) history.pushState(null, "", hash);
}

effect(() => {
  document.title = current.value ? `${current.value.title} · tandem` : "tandem";
});

export async function show(id: Id | null) {
  showConversation(id ? ((await store.get(id)) ?? null) : null);
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
  const message = newMessage("user", null, text);
  const id = current.value?.id;
  if (id) {
    await answer(id, message.id, (c) => append(c, { ...message, parent: c.head }));
    return;
  }
  const now = Date.now();
  const conversation: Conversation = {
    id: newId(),
    title: titleOf(text),
    createdAt: now,
    updatedAt: now,
    system: draftSystem.value,
    messages: [message],
    head: message.id,
  };
  await save(conversation);
  showConversation(conversation);
  await answer(conversation.id, message.id);
}

/** Another text for a message of the user's: a branch beside the old one. */
export async function edit(message: Message, text: string) {
  const edited = newMessage("user", message.parent, text);
  const id = current.value?.id;
  if (id) await answer(id, edited.id, (c) => append(c, edited));
}

/** Another answer to the same question; one that failed before it said anything is replaced. */
export async function regenerate(message: Message) {
  const id = current.value?.id;
  if (!id || !message.parent) return;
  const isEmpty = message.end === "failed" && !message.text && !message.reasoning;
  await answer(id, message.parent, (c) => (isEmpty ? dropLeaf(c, message.id) : c));
}

export function stop() {
  currentAnswer.value?.stop();
}

export async function switchTo(message: Message) {
  const id = current.value?.id;
  if (id) await update(id, (c) => ({ ...c, head: newestLeaf(c, message.id) }));
}

function requestBody(conversation: Conversation, question: Id | null): object {
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

/** Asks for an answer to a message, which `prepare` puts there if it is not yet. */
async function answer(id: Id, question: Id, prepare: (conversation: Conversation) => Conversation = (c) => c) {
  if (answers.value.has(id)) return;
  const message = newMessage("assistant", question);
  const running = new Answer(message.id);
  answers.value = new Map(answers.value).set(id, running);
  const conversation = await update(id, (c) => append(prepare(c), message));
  if (conversation) await write(conversation, message, running);
  const others = new Map(answers.value);
  others.delete(id);
  answers.value = others;
}

async function write(conversation: Conversation, message: Message, running: Answer) {
  const { id } = conversation;
  announce("Sent.");
  const stopAnnouncing = announceAnswer(running);
  // A reload in the middle of a long answer loses no more than this.
  const saver = setInterval(() => {
    void update(id, (c) => change(c, message.id, running.snapshot()));
  }, SAVE_EVERY_MS);

  const { failure, ...result } = await running.run(requestBody(conversation, message.parent));
  clearInterval(saver);
  await update(id, (c) => change(c, message.id, result));
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
  const id = current.value?.id;
  if (id) await update(id, (c) => ({ ...c, system: text }));
  else draftSystem.value = text;
}

/** Gives what was removed, for `restore`. */
export async function remove(id: Id): Promise<Conversation | undefined> {
  const kept = await store.get(id);
  const conversation = kept ?? (current.value?.id === id ? current.value : undefined);
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

/** Adds what a file holds and is not here yet; gives what to say about it. Throws an ImportError. */
export async function importFile(file: File): Promise<string> {
  const wanted = await readFile(file);
  const added = newOnes(wanted, await store.all());
  try {
    await store.putAll(added);
  } catch {
    throw new ImportError("The browser has no room for these conversations: none was added.");
  }
  for (const { id } of added) removed.delete(id);
  await refresh();
  added.forEach(({ id }) => channel.postMessage(id));
  const known = wanted.length - added.length;
  return [
    `Imported ${added.length} ${added.length === 1 ? "conversation" : "conversations"}.`,
    known === 0 ? "" : known === 1 ? "One was here already." : `${known} were here already.`,
  ]
    .join(" ")
    .trim();
}

/** Answers that a closed tab left unfinished will not go on. */
export function isAbandoned(conversation: Conversation, message: Message): boolean {
  return message.role === "assistant" && !message.end && answers.value.get(conversation.id)?.messageId !== message.id;
}
