// SPDX-License-Identifier: MIT
// Makes a GGUF that holds a vocabulary and nothing else: o200k with gpt-oss' special tokens, from
// the ranks in the npm package tiktoken. The ranks say which tokens exist and in which order they
// were made; the merges, which GGUF wants, are derived in one of two ways:
//   recovered  for every token the one pair it was made from: the last two parts left when the
//              merges before it are run over its bytes
//   all        every split of a token into two tokens, as the files in circulation have it
// Usage: node make_o200k_gguf.mjs OUT.gguf [recovered|all]
import { createRequire } from "node:module";
import { openSync, writeSync, closeSync } from "node:fs";
import { pathToFileURL } from "node:url";

const require = createRequire(import.meta.url);
export const N_VOCAB = 201088;

// Source: openai/harmony, docs/format.md, "Special Tokens"; the others are reserved.
export const SPECIAL = new Map([
  ["<|startoftext|>", 199998], ["<|endoftext|>", 199999], ["<|return|>", 200002],
  ["<|constrain|>", 200003], ["<|channel|>", 200005], ["<|start|>", 200006], ["<|end|>", 200007],
  ["<|message|>", 200008], ["<|call|>", 200012], ["<|endofprompt|>", 200018],
]);
{
  const used = new Set(SPECIAL.values());
  for (let id = 199998; id < N_VOCAB; id++) if (!used.has(id)) SPECIAL.set(`<|reserved_${id}|>`, id);
}

// The package's encoding: {pat_str, bpe_ranks, ...}; ranks as "! FIRST base64 base64 ..." lines.
export function encoding() {
  return require("tiktoken/encoders/o200k_base.json");
}

// Tokens as strings with one character per byte, in order of rank.
export function tokensOf(o200k) {
  const tokens = [];
  for (const line of o200k.bpe_ranks.split("\n")) {
    const [bang, first, ...rest] = line.split(" ");
    if (bang !== "!") continue;
    rest.forEach((b64, i) => { tokens[Number(first) + i] = Buffer.from(b64, "base64").toString("latin1"); });
  }
  return tokens;
}

// The pair that token was made from: byte-pair merges below its own rank until two parts are left.
function lastPair(ranks, token, rank) {
  const parts = [...token];
  while (parts.length > 2) {
    let best = rank, at = -1;
    for (let i = 0; i + 1 < parts.length; i++) {
      const r = ranks.get(parts[i] + parts[i + 1]);
      if (r !== undefined && r < best) { best = r; at = i; }
    }
    if (at < 0) throw new Error(`token ${rank} can not be made by merges`);
    parts.splice(at, 2, parts[at] + parts[at + 1]);
  }
  return parts;
}

function mergesOf(tokens, kind) {
  const ranks = new Map(tokens.map((t, i) => [t, i]));
  const merges = [];
  tokens.forEach((token, rank) => {
    if (token.length < 2) return;
    if (kind === "recovered") { merges.push(lastPair(ranks, token, rank)); return; }
    const splits = [];
    for (let i = 1; i < token.length; i++) {
      const l = ranks.get(token.slice(0, i)), r = ranks.get(token.slice(i));
      if (l !== undefined && r !== undefined) splits.push([l, r]);
    }
    splits.sort((a, b) => a[0] - b[0] || a[1] - b[1]);
    for (const [l, r] of splits) merges.push([tokens[l], tokens[r]]);
  });
  return merges;
}

// GPT-2's alphabet: printable Latin-1 stands for itself, the 68 other bytes for U+0100 and up.
const ALPHABET = (() => {
  const out = [];
  let next = 0x100;
  for (let b = 0; b < 256; b++) {
    const stands = (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
    out.push(String.fromCharCode(stands ? b : next++));
  }
  return out;
})();
const spell = (token) => Array.from(token, (c) => ALPHABET[c.charCodeAt(0)]).join("");

class Writer {
  constructor() { this.chunks = []; this.n_kv = 0; }
  u32(v) { const b = Buffer.alloc(4); b.writeUInt32LE(v); this.chunks.push(b); }
  u64(v) { const b = Buffer.alloc(8); b.writeBigUInt64LE(BigInt(v)); this.chunks.push(b); }
  str(s) { const b = Buffer.from(s, "utf8"); this.u64(b.length); this.chunks.push(b); }
  kv(key, type) { this.n_kv++; this.str(key); this.u32(type); }
  kvStr(key, v) { this.kv(key, 8); this.str(v); }
  kvU32(key, v) { this.kv(key, 4); this.u32(v); }
  kvBool(key, v) { this.kv(key, 7); this.chunks.push(Buffer.from([v ? 1 : 0])); }
  kvStrs(key, list) { this.kv(key, 9); this.u32(8); this.u64(list.length); list.forEach((s) => this.str(s)); }
  kvI32s(key, list) {
    this.kv(key, 9); this.u32(5); this.u64(list.length);
    const b = Buffer.alloc(4 * list.length);
    list.forEach((v, i) => b.writeInt32LE(v, 4 * i));
    this.chunks.push(b);
  }
  save(path) {
    const head = Buffer.alloc(24);
    head.write("GGUF", 0, "latin1");
    head.writeUInt32LE(3, 4);
    head.writeBigUInt64LE(0n, 8); // no tensors
    head.writeBigUInt64LE(BigInt(this.n_kv), 16);
    const fd = openSync(path, "w");
    const all = Buffer.concat([head, ...this.chunks]);
    for (let done = 0; done < all.length;) done += writeSync(fd, all, done);
    closeSync(fd);
  }
}

export function make(path, kind, tokens) {
  const names = tokens.map(spell);
  const types = tokens.map(() => 1);
  for (const [name, id] of SPECIAL) { names[id] = name; types[id] = 3; }
  const merges = mergesOf(tokens, kind).map(([l, r]) => `${spell(l)} ${spell(r)}`);
  const w = new Writer();
  w.kvStr("general.architecture", "gpt-oss");
  w.kvStr("general.name", `o200k vocabulary, ${kind} merges`);
  w.kvStr("tokenizer.ggml.model", "gpt2");
  w.kvStr("tokenizer.ggml.pre", "gpt-4o");
  w.kvStrs("tokenizer.ggml.tokens", names);
  w.kvI32s("tokenizer.ggml.token_type", types);
  w.kvStrs("tokenizer.ggml.merges", merges);
  w.kvU32("tokenizer.ggml.bos_token_id", 199998);
  w.kvU32("tokenizer.ggml.eos_token_id", 200002);
  w.kvU32("tokenizer.ggml.padding_token_id", 199999);
  w.kvBool("tokenizer.ggml.add_bos_token", false);
  w.save(path);
  return merges.length;
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  const [out, kind = "recovered"] = process.argv.slice(2);
  if (!out || !["recovered", "all"].includes(kind)) {
    console.error("usage: node make_o200k_gguf.mjs OUT.gguf [recovered|all]");
    process.exit(2);
  }
  const n = make(out, kind, tokensOf(encoding()));
  console.log(`${out}: ${N_VOCAB} tokens, ${n} merges`);
}
