// SPDX-License-Identifier: MIT
// One answer while it is being made: what has come so far, as signals that the views follow.
import { signal } from "@preact/signals";
import * as api from "./api";
import { lastRenderMs } from "./markdown";
import type { Chunk, End, Id, Message, Prefill, Progress, Stats } from "./types";

export type Phase = "waiting" | "reading" | "reasoning" | "writing";

/** How often text is shown: often enough to flow, and at most this share of the time is spent on it. */
const SHOW_EVERY_MS = 40;
const SHOW_SHARE = 1 / 4;

export class Answer {
  readonly phase = signal<Phase>("waiting");
  readonly progress = signal<Progress | null>(null);
  readonly text = signal("");
  readonly reasoning = signal("");
  /** Pieces that came: about as many as tokens. */
  readonly nPieces = signal(0);
  readonly tokensPerSecond = signal(0);

  #controller = new AbortController();
  #text = "";
  #reasoning = "";
  #nPieces = 0;
  #showTimer = 0;
  #firstAt = 0;
  #finalAt = 0;
  #end: End = "done";
  #usage: Chunk["usage"];
  #timings: Chunk["timings"];
  #prefill: Prefill | undefined;

  constructor(readonly messageId: Id) {}

  stop() {
    this.#controller.abort();
  }

  /** Runs to the end, whatever that is; gives what the message becomes. Never throws. */
  async run(body: object): Promise<Partial<Message> & { failure?: api.ApiError }> {
    let failure: api.ApiError | undefined;
    try {
      for await (const chunk of api.chat(body, this.#controller.signal)) this.#take(chunk);
    } catch (error) {
      if (this.#controller.signal.aborted) {
        this.#end = "stopped";
      } else {
        failure = error instanceof api.ApiError ? error : new api.ApiError(String(error), 0);
        this.#end = "failed";
      }
    }
    this.#show();
    return { ...this.snapshot(), end: this.#end, error: failure?.message, stats: this.#stats(), failure };
  }

  /** The message as far as it has come. */
  snapshot(): Partial<Message> {
    const reasoningMs = this.#reasoning ? (this.#finalAt || performance.now()) - this.#firstAt : undefined;
    return { text: this.#text, reasoning: this.#reasoning, reasoningMs };
  }

  #take(chunk: Chunk) {
    if (chunk.prompt_progress) {
      this.progress.value = chunk.prompt_progress;
      if (this.phase.value === "waiting") this.phase.value = "reading";
    }
    const choice = chunk.choices?.[0];
    const { content, reasoning_content } = choice?.delta ?? {};
    if (content || reasoning_content) {
      const now = performance.now();
      this.#firstAt ||= now;
      if (content) this.#finalAt ||= now;
      this.#reasoning += reasoning_content ?? "";
      this.#text += content ?? "";
      this.#nPieces++;
      const pauseMs = Math.max(SHOW_EVERY_MS, lastRenderMs / SHOW_SHARE);
      this.#showTimer ||= window.setTimeout(() => this.#show(), pauseMs);
    }
    if (choice?.finish_reason === "length") this.#end = "length";
    this.#usage = chunk.usage ?? this.#usage;
    this.#timings = chunk.timings ?? this.#timings;
    this.#prefill = chunk.prefill ?? this.#prefill;
  }

  #show() {
    clearTimeout(this.#showTimer);
    this.#showTimer = 0;
    this.reasoning.value = this.#reasoning;
    this.text.value = this.#text;
    this.nPieces.value = this.#nPieces;
    const seconds = (performance.now() - this.#firstAt) / 1000;
    if (this.#nPieces > 1 && seconds > 0.2) this.tokensPerSecond.value = (this.#nPieces - 1) / seconds;
    if (this.#firstAt) this.phase.value = this.#text ? "writing" : "reasoning";
  }

  #stats(): Stats | undefined {
    const timings = this.#timings;
    if (!this.#usage && !timings) return undefined;
    const nCached = timings?.cache_n ?? this.#usage?.prompt_tokens_details?.cached_tokens ?? 0;
    return {
      nPrompt: this.#usage?.prompt_tokens ?? (timings?.prompt_n ?? 0) + nCached,
      nCached,
      promptMs: timings?.prompt_ms ?? 0,
      nWritten: this.#usage?.completion_tokens ?? timings?.predicted_n ?? 0,
      writeMs: timings?.predicted_ms ?? 0,
      prefill: this.#prefill,
    };
  }
}
