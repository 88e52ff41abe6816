// SPDX-License-Identifier: MIT
// One short message at the foot of the page, with at most one thing to do about it.
import { signal } from "@preact/signals";

export interface Toast {
  text: string;
  action?: { label: string; run: () => void };
}

export const toast = signal<Toast | null>(null);

const STAYS_MS = 8000;
let timer = 0;

export function showToast(message: Toast) {
  toast.value = message;
  letToastGo();
}

/** Somebody is at it: it stays. */
export function holdToast() {
  clearTimeout(timer);
}

export function letToastGo() {
  clearTimeout(timer);
  timer = window.setTimeout(hideToast, STAYS_MS);
}

export function hideToast() {
  clearTimeout(timer);
  toast.value = null;
}
