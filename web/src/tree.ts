// SPDX-License-Identifier: MIT
// A conversation's messages form a tree: editing or regenerating begins another branch beside the
// old one. Pure functions over it.
import type { Conversation, Id, Message } from "./types";

export function find(conversation: Conversation, id: Id | null): Message | undefined {
  return conversation.messages.find((message) => message.id === id);
}

/** From the first message to the head: the branch on show. */
export function branch(conversation: Conversation, head = conversation.head): Message[] {
  const byId = new Map<Id | null, Message>(conversation.messages.map((message) => [message.id, message]));
  const path: Message[] = [];
  for (let at = byId.get(head); at; at = byId.get(at.parent)) path.push(at);
  return path.reverse();
}

/** The message and its alternatives, oldest first. */
export function siblings(conversation: Conversation, message: Message): Message[] {
  return conversation.messages.filter((other) => other.parent === message.parent);
}

/** The end of the branch that begins at `id`: always its newest continuation. */
export function newestLeaf(conversation: Conversation, id: Id): Id {
  // A message stands behind the one it follows, so the last child of each is the newest.
  const newestChild = new Map(conversation.messages.map((message) => [message.parent, message.id]));
  let leaf = id;
  for (let next = newestChild.get(leaf); next; next = newestChild.get(leaf)) leaf = next;
  return leaf;
}

/** With the message added and the branch on show ending in it. */
export function append(conversation: Conversation, message: Message): Conversation {
  return {
    ...conversation,
    messages: [...conversation.messages, message],
    head: message.id,
    updatedAt: Date.now(),
  };
}

/** With `changes` made to one message. */
export function change(conversation: Conversation, id: Id, changes: Partial<Message>): Conversation {
  return {
    ...conversation,
    messages: conversation.messages.map((message) =>
      message.id === id ? { ...message, ...changes } : message,
    ),
  };
}

/** Without a message that nothing follows; the head falls back to its parent. */
export function dropLeaf(conversation: Conversation, id: Id): Conversation {
  const leaf = find(conversation, id);
  if (!leaf || conversation.messages.some((message) => message.parent === id)) return conversation;
  return {
    ...conversation,
    messages: conversation.messages.filter((message) => message.id !== id),
    head: conversation.head === id ? leaf.parent : conversation.head,
  };
}
