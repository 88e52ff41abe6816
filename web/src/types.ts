// SPDX-License-Identifier: MIT
// What the page keeps and what the server says.

export type Id = string;

/** Figures of one answer, as the server measured them. */
export interface Stats {
  nPrompt: number;
  nCached: number;
  promptMs: number;
  nWritten: number;
  writeMs: number;
  prefill?: Prefill;
}

/** Where a prompt was read, on a server with peers. */
export interface Prefill {
  path: "local" | "remote" | "resumed" | "salvaged";
  reason?: string;
  peer?: string;
  n_tokens?: number;
  n_remote?: number;
  bytes?: number;
  transfer_seconds?: number;
  overlap?: number;
}

export type End = "done" | "length" | "stopped" | "failed";

export interface Message {
  id: Id;
  /** The message before; null for a first one. Messages with one parent are branches. */
  parent: Id | null;
  role: "user" | "assistant";
  text: string;
  reasoning: string;
  createdAt: number;
  /** Assistant only: how it ended; undefined while it is being written. */
  end?: End;
  error?: string;
  reasoningMs?: number;
  stats?: Stats;
}

export interface Summary {
  id: Id;
  title: string;
  updatedAt: number;
}

export interface Conversation extends Summary {
  createdAt: number;
  /** The system prompt; undefined: the one of the settings. */
  system?: string;
  messages: Message[];
  /** The last message of the branch on show. */
  head: Id | null;
}

/** While a prompt is read; `processed` counts `cache` in. */
export interface Progress {
  total: number;
  cache: number;
  processed: number;
  time_ms: number;
  where?: "local" | "remote";
}

interface Timings {
  prompt_n?: number;
  cache_n?: number;
  prompt_ms?: number;
  predicted_n?: number;
  predicted_ms?: number;
}

interface Usage {
  prompt_tokens: number;
  completion_tokens: number;
  prompt_tokens_details?: { cached_tokens?: number };
}

/** One event of a streamed chat completion. */
export interface Chunk {
  choices?: {
    delta?: { content?: string | null; reasoning_content?: string | null };
    finish_reason?: string | null;
  }[];
  prompt_progress?: Progress;
  usage?: Usage | null;
  timings?: Timings;
  prefill?: Prefill;
  error?: { message?: string };
}
