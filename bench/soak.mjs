#!/usr/bin/env node
// SPDX-License-Identifier: MIT
// `tandem serve` under many clients for a long time: most of them idle, some slow to ask or slow to
// read, some that leave in the middle, and a number of busy ones. Says whether anything failed,
// stalled or leaked; exit 1 if so.
//   node bench/soak.mjs TANDEM [--seconds 600] [--connections 1000] [--streams 32] [--model FILE]
//                       [--stall SECONDS] [-- options for tandem serve]
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { Agent, get, request } from "node:http";
import { connect } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    seconds: { type: "string", default: "600" },
    connections: { type: "string", default: "1000" },
    streams: { type: "string", default: "32" },
    model: { type: "string", default: fileURLToPath(new URL("../models/tandem-mini.gguf", import.meta.url)) },
    stall: { type: "string", default: "15" },
  },
});
const [tandem, ...serveOptions] = positionals;
if (!tandem) {
  console.error("usage: soak.mjs TANDEM [--seconds N] [--connections N] [--streams N] [--model FILE] [-- OPTIONS]");
  process.exit(2);
}
const seconds = Number(values.seconds);
const nConnections = Number(values.connections);
const nStreams = Number(values.streams);
const stallMs = 1000 * Number(values.stall);

// Who the connections are, besides the busy ones: of 20, 3 send their request byte by byte, 1 reads
// its answer in sips, 16 mostly keep still.
const nQuiet = nConnections - nStreams;
const nSlowSenders = Math.floor((3 * nQuiet) / 20);
const nSlowReaders = Math.floor(nQuiet / 20);
const nIdle = nQuiet - nSlowSenders - nSlowReaders;

// Memory grows until the KV that is kept reaches its limit and the oldest is given up; from then on
// it may not. The wait for that is part of the time, at most half of it.
const MAX_WARM_SHARE = 0.5;
const MAX_GROWTH = 0.05;
const LEAVES_EVERY = 10; // every tenth stream is left in the middle
const MIN_RIGHT = 0.9; // of the sums: a model this small errs now and then

const begin = Date.now();
const end = begin + 1000 * seconds;
const count = { streams: 0, left: 0, tokens: 0, sums: 0, right: 0, slowReads: 0, slowAsks: 0, idleAsks: 0, reconnects: 0 };
const errors = new Map();
const gaps = [];
let longestGapMs = 0;
let nOpen = 0;
const isOver = () => Date.now() >= end;

function fail(what) {
  if (isOver()) return; // the end itself cuts streams
  errors.set(what, (errors.get(what) ?? 0) + 1);
}

// ---- the server ------------------------------------------------------------------------------

async function startServer() {
  const options = ["--port", "0", "--slots", String(nStreams), "--queue", "256", "--kv-mem", "96M", "--log-format", "none"];
  const child = spawn(tandem, ["serve", "-m", values.model, ...options, ...serveOptions], {
    stdio: ["ignore", "inherit", "pipe"],
  });
  child.on("exit", (code, signal) => {
    if (isOver()) return;
    console.error(`the server ended: ${signal ?? code}`);
    process.exit(1);
  });
  let said = "";
  for await (const text of child.stderr) {
    said += text;
    const port = /http:\/\/[^\s/]+:(\d+)/.exec(said)?.[1];
    if (!port) continue;
    child.stderr.on("data", (more) => process.stderr.write(more)).resume();
    return { child, port: Number(port) };
  }
  throw new Error(`the server said no address: ${said}`);
}

function rssBytes(pid) {
  if (process.platform === "linux") return 1024 * Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, "utf8"))[1]);
  return 1024 * Number(execFileSync("ps", ["-o", "rss=", "-p", String(pid)], { encoding: "utf8" }));
}

/** A number of /metrics; NaN when it is not there. */
function metric(port, name) {
  return new Promise((resolve) => {
    get({ port, host: "127.0.0.1", path: "/metrics", agent: false }, async (response) => {
      let text = "";
      for await (const part of response.setEncoding("utf8")) text += part;
      resolve(Number(new RegExp(`^${name} (\\S+)`, "m").exec(text)?.[1]));
    }).on("error", () => resolve(NaN));
  });
}

// ---- busy clients ----------------------------------------------------------------------------

const below = (n) => Math.floor(Math.random() * n);

/** What to ask, and, where it can be told, what must be in the answer. */
function question() {
  const kind = below(10);
  if (kind < 4) {
    const [a, b] = [10 + below(80), 10 + below(80)];
    return { text: `What is ${a} + ${b}?`, expects: String(a + b) };
  }
  if (kind < 8) return { text: "Tell me a story about a fox in a harbour." };
  // A long prompt: other streams must go on while it is read.
  return { text: `${"It was windy in the harbour on Monday. ".repeat(20 + below(150))}What is 8 + 5?` };
}

function post(port, agent, body) {
  return new Promise((resolve, reject) => {
    const asked = request(
      { port, host: "127.0.0.1", path: "/v1/chat/completions", method: "POST", agent, headers: { "Content-Type": "application/json" } },
      resolve,
    );
    asked.on("error", reject);
    asked.end(JSON.stringify(body));
  });
}

async function oneStream(port, agent, turn) {
  const { text, expects } = question();
  const leavesAt = turn % LEAVES_EVERY === LEAVES_EVERY - 1 ? 1 + below(20) : Infinity;
  const body = {
    messages: [{ role: "user", content: text }],
    stream: true,
    max_tokens: 300,
    ...(expects ? { temperature: 0 } : { temperature: 1, seed: below(1e9) }),
  };
  const response = await post(port, agent, body);
  if (response.statusCode !== 200) {
    response.resume();
    fail(`status ${response.statusCode}`);
    return sleep(1000);
  }
  let rest = "";
  let answer = "";
  let nPieces = 0;
  let isDone = false;
  let at = Date.now();
  for await (const part of response.setEncoding("utf8")) {
    const lines = (rest + part).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data: ")) continue;
      if (line === "data: [DONE]") isDone = true;
      else {
        const event = JSON.parse(line.slice(6));
        if (event.error) fail(`event: ${event.error.message}`);
        const delta = event.choices?.[0]?.delta ?? {};
        if (!delta.content && !delta.reasoning_content) continue;
        answer += delta.content ?? "";
        const now = Date.now();
        if (nPieces++ > 0) {
          if (gaps.length < 2e6) gaps.push(now - at);
          longestGapMs = Math.max(longestGapMs, now - at);
          if (now - at > stallMs) fail("a stream stalled");
        }
        at = now;
      }
    }
    if (nPieces >= leavesAt) {
      response.destroy();
      count.left++;
      return undefined;
    }
  }
  if (!isDone) fail("a stream ended without [DONE]");
  count.streams++;
  count.tokens += nPieces;
  if (expects) {
    count.sums++;
    if (answer.includes(expects)) count.right++;
  }
  return undefined;
}

async function busy(port, i) {
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  for (let turn = i; !isOver(); turn++) {
    try {
      await oneStream(port, agent, turn);
    } catch (error) {
      fail(`stream: ${error.code ?? error.message}`);
      await sleep(200);
    }
  }
  agent.destroy();
}

// ---- quiet clients ---------------------------------------------------------------------------

/** Opens a connection and lives on it until either side ends; then again. */
async function live(port, pauseMs, life) {
  await sleep(below(5000)); // not all at once
  while (!isOver()) {
    const socket = connect(port, "127.0.0.1");
    socket.on("error", (error) => {
      // The server may cut a client that is too slow; it may not turn anybody away.
      if (error.code === "ECONNREFUSED") fail("connection refused");
    });
    const closed = once(socket, "close").catch(() => {});
    const connected = await Promise.race([once(socket, "connect").then(() => true, () => false), closed]);
    if (connected === true) {
      nOpen++;
      await Promise.race([life(socket), closed]).catch(() => {});
      nOpen--;
    }
    socket.destroy();
    if (!isOver()) count.reconnects++;
    await sleep(pauseMs);
  }
}

const ask = "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";

/** A browser tab in the background: a look now and then. */
async function idle(socket) {
  socket.resume();
  while (!isOver()) {
    socket.write(ask);
    count.idleAsks++;
    await sleep(10_000 + below(20_000));
  }
}

/** One byte at a time: it must cost the others nothing, and may be cut. */
async function slowSender(socket) {
  socket.resume();
  while (!isOver()) {
    for (const byte of ask) {
      socket.write(byte);
      await sleep(300);
      if (isOver()) return;
    }
    count.slowAsks++;
  }
}

/** Reads an answer in sips: the answer is made at full speed all the same. */
async function slowReader(socket) {
  const body = JSON.stringify({ messages: [{ role: "user", content: "Tell me a story." }], stream: true, max_tokens: 100 });
  const head = `POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n`;
  socket.pause();
  let tail = "";
  while (!isOver()) {
    socket.write(head + body);
    for (tail = ""; !tail.includes("data: [DONE]"); ) {
      await sleep(1000);
      if (isOver() || socket.destroyed) return;
      tail = tail.slice(-20) + (socket.read(Math.min(512, socket.readableLength)) ?? "");
    }
    count.slowReads++;
    socket.read();
    await sleep(20_000 + below(20_000));
  }
}

// ---- the verdict -----------------------------------------------------------------------------

const mean = (numbers) => numbers.reduce((sum, n) => sum + n, 0) / numbers.length;
const mib = (bytes) => (bytes / 2 ** 20).toFixed(1);

async function watch(pid, port) {
  const samples = [];
  let said = 0;
  let isWarm = false;
  while (!isOver()) {
    await sleep(Math.min(1000, Math.max(0, end - Date.now())));
    const rss = rssBytes(pid);
    isWarm ||= (await metric(port, "tandem_kv_evictions_total")) > nStreams;
    samples.push({ at: (Date.now() - begin) / (end - begin), rss, isWarm, nOpen: nOpen + nStreams });
    if (Date.now() - said < 30_000) continue;
    said = Date.now();
    const nErrors = [...errors.values()].reduce((sum, n) => sum + n, 0);
    console.log(
      `${((said - begin) / 1000).toFixed(0).padStart(5)} s  ${nOpen + nStreams} connections  ${count.streams} streams  ` +
        `${count.tokens} pieces  RSS ${mib(rss)} MiB  longest gap ${longestGapMs} ms  ${nErrors} errors`,
    );
  }
  return samples;
}

function verdict(samples) {
  const warm = samples.filter((sample) => sample.isWarm || sample.at >= MAX_WARM_SHARE);
  const tenth = Math.max(1, Math.floor(warm.length / 10));
  const first = mean(warm.slice(0, tenth).map((sample) => sample.rss));
  const last = mean(warm.slice(-tenth).map((sample) => sample.rss));
  const growth = last / first - 1;
  gaps.sort((a, b) => a - b);
  const quantile = (q) => gaps[Math.floor(q * (gaps.length - 1))] ?? 0;
  const checks = [
    [errors.size === 0, `errors: ${[...errors].map(([what, n]) => `${n} x ${what}`).join(", ") || "none"}`],
    [growth <= MAX_GROWTH,
      `RSS: ${mib(first)} MiB when warm (${Math.round(warm[0].at * seconds)} s), ${mib(last)} at the end, ` +
        `${(100 * growth).toFixed(1)} %${samples.at(-1).isWarm ? "" : "; the KV kept never reached its limit: run longer"}`],
    [longestGapMs <= stallMs, `gaps in streams: median ${quantile(0.5)} ms, 95 % ${quantile(0.95)} ms, longest ${longestGapMs} ms`],
    [count.streams > nStreams, `streams: ${count.streams} whole, ${count.left} left in the middle, ${count.tokens} pieces`],
    [count.right >= MIN_RIGHT * count.sums, `sums: ${count.right} of ${count.sums} right`],
    [Math.max(...samples.map((sample) => sample.nOpen)) >= 0.9 * nConnections,
      `connections: ${Math.max(...samples.map((sample) => sample.nOpen))} at once; ${count.idleAsks} idle looks, ` +
        `${count.slowAsks} slow asks, ${count.slowReads} slow reads, ${count.reconnects} reconnects`],
  ];
  for (const [isGood, text] of checks) console.log(`${isGood ? "ok  " : "FAIL"}  ${text}`);
  return checks.every(([isGood]) => isGood);
}

const { child, port } = await startServer();
console.log(
  `soak: ${nConnections} connections (${nStreams} busy, ${nIdle} idle, ${nSlowSenders} slow to ask, ` +
    `${nSlowReaders} slow to read) for ${seconds} s`,
);
const clients = [
  ...Array.from({ length: nStreams }, (_, i) => busy(port, i)),
  ...Array.from({ length: nIdle }, () => live(port, 100, idle)),
  ...Array.from({ length: nSlowSenders }, () => live(port, 500, slowSender)),
  ...Array.from({ length: nSlowReaders }, () => live(port, 500, slowReader)),
];
const samples = await watch(child.pid, port);
await Promise.race([Promise.all(clients), sleep(2000)]);
const isGood = verdict(samples);
child.kill("SIGTERM");
const stopped = await Promise.race([once(child, "exit"), sleep(20_000)]);
if (!stopped) child.kill("SIGKILL");
console.log(isGood ? "soak: passed" : "soak: FAILED");
process.exit(isGood ? 0 : 1);
