// SPDX-License-Identifier: MIT
// Conversations in IndexedDB: whole ones in one store, what the list shows in another, so that a
// long history costs nothing until it is opened. Where the browser refuses (some private modes),
// they live as long as the tab.
import type { Conversation, Id, Summary } from "./types";

const SUMMARIES = "summaries";
const CONVERSATIONS = "conversations";

function settled<T>(request: IDBRequest<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

function finished(transaction: IDBTransaction): Promise<void> {
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve();
    transaction.onabort = () => reject(transaction.error);
  });
}

// Async, so that what indexedDB.open throws where storage is forbidden becomes a rejection.
async function openDatabase(): Promise<IDBDatabase> {
  const request = indexedDB.open("tandem", 1);
  request.onupgradeneeded = () => {
    request.result.createObjectStore(SUMMARIES, { keyPath: "id" });
    request.result.createObjectStore(CONVERSATIONS, { keyPath: "id" });
  };
  return settled(request);
}

const memory = new Map<Id, Conversation>();
let database: Promise<IDBDatabase | null> | undefined;

function open(): Promise<IDBDatabase | null> {
  database ??= openDatabase().catch(() => null);
  return database;
}

function summaryOf({ id, title, updatedAt }: Conversation): Summary {
  return { id, title, updatedAt };
}

/** False: conversations will be gone with the tab. */
export async function isLasting(): Promise<boolean> {
  return (await open()) !== null;
}

/** Newest first. */
export async function list(): Promise<Summary[]> {
  const db = await open();
  const summaries: Summary[] = db
    ? await settled(db.transaction(SUMMARIES).objectStore(SUMMARIES).getAll())
    : [...memory.values()].map(summaryOf);
  return summaries.sort((a, b) => b.updatedAt - a.updatedAt);
}

export async function get(id: Id): Promise<Conversation | undefined> {
  const db = await open();
  if (!db) return memory.get(id);
  return settled(db.transaction(CONVERSATIONS).objectStore(CONVERSATIONS).get(id));
}

export async function all(): Promise<Conversation[]> {
  const db = await open();
  if (!db) return [...memory.values()];
  return settled(db.transaction(CONVERSATIONS).objectStore(CONVERSATIONS).getAll());
}

/** All of them or, on failure, none. */
export async function putAll(conversations: Conversation[]): Promise<void> {
  const db = await open();
  if (!db) {
    for (const conversation of conversations) memory.set(conversation.id, conversation);
    return;
  }
  const transaction = db.transaction([SUMMARIES, CONVERSATIONS], "readwrite");
  for (const conversation of conversations) {
    transaction.objectStore(CONVERSATIONS).put(conversation);
    transaction.objectStore(SUMMARIES).put(summaryOf(conversation));
  }
  await finished(transaction);
}

export function put(conversation: Conversation): Promise<void> {
  return putAll([conversation]);
}

/**
 * Changes what is kept, as it is now: another tab may have changed it since this one looked.
 * Gives the result; undefined: it is not there (any more).
 */
export async function change(
  id: Id,
  changes: (conversation: Conversation) => Conversation,
): Promise<Conversation | undefined> {
  const db = await open();
  if (!db) {
    const here = memory.get(id);
    if (here) memory.set(id, changes(here));
    return memory.get(id);
  }
  const transaction = db.transaction([SUMMARIES, CONVERSATIONS], "readwrite");
  const conversations = transaction.objectStore(CONVERSATIONS);
  const here: Conversation | undefined = await settled(conversations.get(id));
  if (!here) return undefined;
  const changed = changes(here);
  conversations.put(changed);
  transaction.objectStore(SUMMARIES).put(summaryOf(changed));
  await finished(transaction);
  return changed;
}

export async function remove(id: Id): Promise<void> {
  const db = await open();
  if (!db) {
    memory.delete(id);
    return;
  }
  const transaction = db.transaction([SUMMARIES, CONVERSATIONS], "readwrite");
  transaction.objectStore(CONVERSATIONS).delete(id);
  transaction.objectStore(SUMMARIES).delete(id);
  await finished(transaction);
}
