// SPDX-License-Identifier: MIT
// The server's API as far as the page needs it. The key, when one is asked for, is kept for this
// tab only.
import type { Chunk } from "./types";

const KEY = "tandem.key";
let apiKey = readKey();

function readKey(): string {
  try {
    return sessionStorage.getItem(KEY) ?? "";
  } catch {
    return "";
  }
}

export function setKey(key: string) {
  apiKey = key;
  try {
    sessionStorage.setItem(KEY, key);
  } catch {
    // Forbidden: it holds until the page is left.
  }
}

export class ApiError extends Error {
  constructor(
    message: string,
    /** Of HTTP; 0: the server was not reached. */
    readonly status: number,
    readonly retryAfterS?: number,
  ) {
    super(message);
  }
}

async function request(path: string, init: RequestInit = {}): Promise<Response> {
  const headers = new Headers(init.headers);
  if (apiKey) headers.set("Authorization", `Bearer ${apiKey}`);
  let response: Response;
  try {
    response = await fetch(path, { ...init, headers, cache: "no-store" });
  } catch (error) {
    if (init.signal?.aborted) throw error;
    throw new ApiError("The server does not answer.", 0);
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => null);
  const message = body?.error?.message ?? `The server answered ${response.status}.`;
  const retryAfter = Number(response.headers.get("Retry-After"));
  throw new ApiError(message, response.status, retryAfter > 0 ? retryAfter : undefined);
}

export interface Model {
  id: string;
  nCtx: number;
}

export async function model(): Promise<Model> {
  const body = await (await request("/v1/models")).json();
  const first = body.data?.[0];
  return { id: String(first?.id ?? ""), nCtx: Number(first?.meta?.n_ctx) || 0 };
}

export async function isAlive(): Promise<boolean> {
  try {
    return (await fetch("/health", { cache: "no-store" })).ok;
  } catch {
    return false;
  }
}

/** The data of each server-sent event, comments left out. */
async function* events(body: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  const reader = body.pipeThrough(new TextDecoderStream() as TransformStream<Uint8Array, string>).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const parts = (rest + value).split(/\r?\n\r?\n/);
      rest = parts.pop() ?? "";
      for (const part of parts) {
        const lines = part.split(/\r?\n/).filter((line) => line.startsWith("data:"));
        if (lines.length) yield lines.map((line) => line.slice(5).trimStart()).join("\n");
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** Asks for an answer and gives its chunks as they come. */
export async function* chat(body: object, signal: AbortSignal): AsyncGenerator<Chunk> {
  const response = await request("/v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({
      ...body,
      stream: true,
      stream_options: { include_usage: true },
      return_progress: true,
    }),
    signal,
  });
  if (!response.body) throw new ApiError("The server sent no answer.", response.status);
  let isWhole = false;
  try {
    for await (const data of events(response.body)) {
      if (data === "[DONE]") {
        isWhole = true;
        break;
      }
      const chunk: Chunk = JSON.parse(data);
      if (chunk.error) throw new ApiError(chunk.error.message ?? "The server gave up.", response.status);
      yield chunk;
    }
  } catch (error) {
    if (error instanceof ApiError || signal.aborted) throw error;
    throw new ApiError("The connection to the server broke off.", 0);
  }
  if (!isWhole) throw new ApiError("The answer broke off.", 0);
}
