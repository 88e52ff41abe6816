// SPDX-License-Identifier: MIT
// Conversations from a file that `exportAll` wrote, or that somebody says it wrote: each is built
// anew from what was checked, so nothing else of the file gets into the page. One fault, and the
// file is refused as a whole; what is here is never overwritten.
import { newId } from "./id";
import type { Conversation, End, Id, Message, Prefill, Stats } from "./types";

export const FORMAT = "tandem-conversations";
export const VERSION = 1;

const MAX_FILE_BYTES = 256 * 1024 * 1024;
const MAX_TITLE_LENGTH = 300;
/** Beyond it, JavaScript's dates end. */
const MAX_TIME = 8.64e15;

/** What a file is refused for, in one sentence. */
export class ImportError extends Error {}

type Fields = Record<string, unknown>;

function isObject(value: unknown): value is Fields {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** The fields of one thing in the file, `where` it stands, and what is wrong when something is. */
class Reader {
  constructor(
    readonly fields: Fields,
    readonly where: string,
  ) {}

  refuse(name: string): never {
    throw new ImportError(`${this.where}: “${name}” is missing or not what it should be.`);
  }

  string(name: string): string {
    const value = this.fields[name];
    return typeof value === "string" ? value : this.refuse(name);
  }

  optionalString(name: string): string | undefined {
    return this.fields[name] === undefined ? undefined : this.string(name);
  }

  id(name: string): Id {
    const value = this.string(name);
    return /^[\w-]{1,64}$/.test(value) ? value : this.refuse(name);
  }

  idOrNull(name: string): Id | null {
    return this.fields[name] === null ? null : this.id(name);
  }

  number(name: string, max = Number.MAX_VALUE): number {
    const value = this.fields[name];
    return typeof value === "number" && value >= 0 && value <= max ? value : this.refuse(name);
  }

  optionalNumber(name: string): number | undefined {
    return this.fields[name] === undefined ? undefined : this.number(name);
  }

  oneOf<T extends string>(name: string, values: readonly T[]): T {
    const value = values.find((wanted) => wanted === this.fields[name]);
    return value ?? this.refuse(name);
  }

  list(name: string): unknown[] {
    const value = this.fields[name];
    return Array.isArray(value) ? value : this.refuse(name);
  }

  /** What stands under `name`, or undefined where nothing does. */
  inner(name: string): Reader | undefined {
    const value = this.fields[name];
    if (value === undefined) return undefined;
    return isObject(value) ? new Reader(value, this.where) : this.refuse(name);
  }
}

const ENDS: readonly End[] = ["done", "length", "stopped", "failed"];
const PATHS: readonly Prefill["path"][] = ["local", "remote", "resumed", "salvaged"];

function readPrefill(from: Reader): Prefill {
  return {
    path: from.oneOf("path", PATHS),
    reason: from.optionalString("reason"),
    peer: from.optionalString("peer"),
    n_tokens: from.optionalNumber("n_tokens"),
    n_remote: from.optionalNumber("n_remote"),
    bytes: from.optionalNumber("bytes"),
    transfer_seconds: from.optionalNumber("transfer_seconds"),
    overlap: from.optionalNumber("overlap"),
  };
}

function readStats(from: Reader): Stats {
  const prefill = from.inner("prefill");
  return {
    nPrompt: from.number("nPrompt"),
    nCached: from.number("nCached"),
    promptMs: from.number("promptMs"),
    nWritten: from.number("nWritten"),
    writeMs: from.number("writeMs"),
    prefill: prefill && readPrefill(prefill),
  };
}

function readMessage(from: Reader): Message {
  const stats = from.inner("stats");
  return {
    id: from.id("id"),
    parent: from.idOrNull("parent"),
    role: from.oneOf("role", ["user", "assistant"] as const),
    text: from.string("text"),
    reasoning: from.string("reasoning"),
    createdAt: from.number("createdAt", MAX_TIME),
    end: from.fields.end === undefined ? undefined : from.oneOf("end", ENDS),
    error: from.optionalString("error"),
    reasoningMs: from.optionalNumber("reasoningMs"),
    stats: stats && readStats(stats),
  };
}

function readConversation(from: Reader): Conversation {
  const title = from.string("title").replace(/\s+/g, " ").trim();
  const conversation: Conversation = {
    id: from.id("id"),
    title: title.slice(0, MAX_TITLE_LENGTH) || "Untitled",
    createdAt: from.number("createdAt", MAX_TIME),
    updatedAt: from.number("updatedAt", MAX_TIME),
    system: from.optionalString("system"),
    messages: [],
    head: from.idOrNull("head"),
  };
  const known = new Set<Id | null>([null]);
  from.list("messages").forEach((value, i) => {
    const where = `${from.where}, message ${i + 1}`;
    if (!isObject(value)) throw new ImportError(`${where} is not a message.`);
    const message = readMessage(new Reader(value, where));
    // Each follows one that was read before it: so they form a tree, without circles.
    if (known.has(message.id)) throw new ImportError(`${where}: its id is there twice.`);
    if (!known.has(message.parent)) throw new ImportError(`${where} follows one that is not there.`);
    known.add(message.id);
    conversation.messages.push(message);
  });
  if (!known.has(conversation.head)) throw new ImportError(`${from.where} ends in a message that is not there.`);
  return conversation;
}

/** The conversations in a file's text; throws an ImportError. */
export function parseConversations(text: string): Conversation[] {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw new ImportError("This file is not JSON: choose one that “Export all conversations” wrote.");
  }
  if (!isObject(value) || value.format !== FORMAT || !Array.isArray(value.conversations)) {
    throw new ImportError("This file does not hold tandem's conversations.");
  }
  if (value.version !== VERSION) {
    throw new ImportError("This file was written by another version of tandem, which this one cannot read.");
  }
  return value.conversations.map((item, i) => {
    const where = `Conversation ${i + 1}`;
    if (!isObject(item)) throw new ImportError(`${where} of this file is not a conversation.`);
    return readConversation(new Reader(item, where));
  });
}

export async function readFile(file: File): Promise<Conversation[]> {
  if (file.size > MAX_FILE_BYTES) throw new ImportError("This file is too big: at most 256 MB can be read.");
  let text: string;
  try {
    text = await file.text();
  } catch {
    throw new ImportError("The browser could not read this file.");
  }
  return parseConversations(text);
}

/** All that `wanted` says is said in `here` already. */
function isContained(wanted: Conversation, here: Conversation): boolean {
  const byId = new Map(here.messages.map((message) => [message.id, message]));
  return wanted.messages.every((message) => {
    const same = byId.get(message.id);
    return same && same.parent === message.parent && same.text === message.text && same.reasoning === message.reasoning;
  });
}

/** Those of the file that are new. One whose name another has gets a name of its own. */
export function newOnes(wanted: Conversation[], here: Conversation[]): Conversation[] {
  const names = new Set<Id>();
  const byFirst = new Map<Id | undefined, Conversation[]>();
  const take = (conversation: Conversation) => {
    names.add(conversation.id);
    const first = conversation.messages[0]?.id;
    byFirst.set(first, [...(byFirst.get(first) ?? []), conversation]);
  };
  here.forEach(take);
  const added: Conversation[] = [];
  for (const conversation of wanted) {
    const alike = byFirst.get(conversation.messages[0]?.id) ?? [];
    if (alike.some((other) => isContained(conversation, other))) continue;
    const fresh = names.has(conversation.id) ? { ...conversation, id: newId() } : conversation;
    take(fresh);
    added.push(fresh);
  }
  return added;
}
