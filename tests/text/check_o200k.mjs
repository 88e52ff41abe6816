// SPDX-License-Identifier: MIT
// Compares td_encode with the npm package tiktoken (OpenAI's tokenizer, compiled to WebAssembly) on
// a few thousand texts, with both ways to derive the merges. Exit 77: the package can not be had.
// Usage: node check_o200k.mjs ENCODE_RECORDS WORK_DIR
import { execFileSync, spawnSync } from "node:child_process";
import { copyFileSync, existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const [program, work] = process.argv.slice(2);
if (!program || !work) { console.error("usage: node check_o200k.mjs ENCODE_RECORDS WORK_DIR"); process.exit(2); }

function skip(why) { console.log(`skipped: ${why}`); process.exit(77); }

// The package goes to the work directory, beside a copy of these scripts that finds it there.
mkdirSync(work, { recursive: true });
for (const f of ["package.json", "package-lock.json", "make_o200k_gguf.mjs", "o200k_strings.mjs"]) copyFileSync(join(here, f), join(work, f));
if (!existsSync(join(work, "node_modules", "tiktoken", "package.json"))) {
  const npm = spawnSync("npm", ["ci", "--ignore-scripts", "--no-audit", "--no-fund"], { cwd: work, encoding: "utf8", timeout: 120000 });
  if (npm.error) skip(`npm can not be run (${npm.error.message})`);
  if (npm.status !== 0) skip(`npm ci failed: ${npm.stderr.trim().split("\n").slice(-3).join(" ")}`);
}
const { make, tokensOf, encoding, SPECIAL } = await import(join(work, "make_o200k_gguf.mjs"));
const { strings } = await import(join(work, "o200k_strings.mjs"));
const { Tiktoken } = createRequire(join(work, "package.json"))("tiktoken");

const o200k = encoding();
const tokens = tokensOf(o200k);
const judge = new Tiktoken(o200k.bpe_ranks, Object.fromEntries(SPECIAL), o200k.pat_str);
const texts = strings();
const expected = texts.map(({ text, special }) => judge.encode(text, special ? "all" : [], []));

const records = [];
for (const { text, special } of texts) {
  const bytes = Buffer.from(text, "utf8"), head = Buffer.alloc(8);
  head.writeUInt32LE(special ? 1 : 0, 0);
  head.writeUInt32LE(bytes.length, 4);
  records.push(head, bytes);
}
writeFileSync(join(work, "texts.bin"), Buffer.concat(records));

let n_bad = 0;
for (const kind of ["recovered", "all"]) {
  const model = join(work, `o200k-${kind}.gguf`);
  const n_merges = make(model, kind, tokens);
  console.log(execFileSync(program, [model, join(work, "texts.bin"), join(work, "ids.bin")], { encoding: "utf8" }).trim());
  const got = readFileSync(join(work, "ids.bin"));
  let at = 0, n_ids = 0, n_here = 0;
  texts.forEach(({ text }, i) => {
    const n = got.readUInt32LE(at);
    const ids = new Uint32Array(n).map((_, k) => got.readUInt32LE(at + 4 + 4 * k));
    at += 4 + 4 * n;
    n_ids += n;
    if (n === expected[i].length && ids.every((id, k) => id === expected[i][k])) return;
    n_here++;
    if (n_here > 5) return;
    const first = ids.findIndex((id, k) => id !== expected[i][k]);
    console.error(`differs: text ${i} ${JSON.stringify(text.slice(0, 120))}\n  tandem   ${ids.slice(first, first + 8)}\n  tiktoken ${expected[i].slice(first, first + 8)}`);
  });
  if (at !== got.length) { console.error("the answer has bytes left over"); n_here++; }
  console.log(`${kind}: ${n_merges} merges, ${texts.length} texts, ${n_ids} ids, ${n_here} texts differ`);
  n_bad += n_here;
}
process.exit(n_bad === 0 && texts.length >= 2000 ? 0 : 1);
