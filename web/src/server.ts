// SPDX-License-Identifier: MIT
// What is known of the server: its model, whether it wants a key, whether it is there.
import { effect, signal } from "@preact/signals";
import * as api from "./api";
import { showToast } from "./toast";

export const model = signal<api.Model | null>(null);
export const needKey = signal(false);
export const serverIsGone = signal(false);

const LOOK_EVERY_MS = 3000;

export async function greet() {
  try {
    model.value = await api.model();
    needKey.value = false;
    serverIsGone.value = false;
  } catch (error) {
    if (!(error instanceof api.ApiError)) throw error;
    if (error.status === 401) needKey.value = true;
    serverIsGone.value = error.status === 0;
  }
}

/** False: the server does not take this key. */
export async function enterKey(key: string): Promise<boolean> {
  if (!/^[\x21-\x7e]+$/.test(key)) return false; // no header can carry it
  api.setKey(key);
  await greet();
  return !needKey.value;
}

// It may have gone, or come back with another model, while nobody looked.
document.addEventListener("visibilitychange", () => {
  if (document.visibilityState === "visible") void greet();
});

// Once it is gone, look until it is back.
effect(() => {
  if (!serverIsGone.value) return undefined;
  const timer = setInterval(async () => {
    if (await api.isAlive()) await greet();
    if (!serverIsGone.value) showToast({ text: "The server is back." });
  }, LOOK_EVERY_MS);
  return () => clearInterval(timer);
});
