// SPDX-License-Identifier: MIT

/** A random name. crypto.randomUUID is not there when a page comes from another machine by http. */
export function newId(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
