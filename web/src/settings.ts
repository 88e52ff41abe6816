// SPDX-License-Identifier: MIT
// What the user sets, kept in the browser. An empty sampling field is left to the server.
import { effect, signal } from "@preact/signals";

export interface Sampling {
  temperature?: number;
  top_p?: number;
  top_k?: number;
  min_p?: number;
  presence_penalty?: number;
  frequency_penalty?: number;
  max_tokens?: number;
  seed?: number;
}

export type Effort = "" | "low" | "medium" | "high";

export interface Settings {
  system: string;
  effort: Effort;
  sampling: Sampling;
}

export type Theme = "system" | "light" | "dark";

function read<T>(key: string, fallback: T): T {
  try {
    const text = localStorage.getItem(key);
    return text === null ? fallback : { ...fallback, ...JSON.parse(text) };
  } catch {
    return fallback;
  }
}

function write(key: string, text: string | null) {
  try {
    if (text === null) localStorage.removeItem(key);
    else localStorage.setItem(key, text);
  } catch {
    // Full or forbidden: it holds for this tab.
  }
}

const SETTINGS_KEY = "tandem.settings";
const THEME_KEY = "tandem.theme"; // read by public/theme.js too

export const defaults: Settings = { system: "", effort: "", sampling: {} };
export const settings = signal<Settings>(read(SETTINGS_KEY, defaults));
effect(() => write(SETTINGS_KEY, JSON.stringify(settings.value)));

export const theme = signal<Theme>(
  (document.documentElement.dataset.theme as Theme | undefined) ?? "system",
);
effect(() => {
  const root = document.documentElement;
  if (theme.value === "system") delete root.dataset.theme;
  else root.dataset.theme = theme.value;
  write(THEME_KEY, theme.value === "system" ? null : theme.value);
});
