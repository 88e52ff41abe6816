// SPDX-License-Identifier: MIT
// The page of `tandem plan -o html` in a browser: at several positions of its sliders the numbers
// are those of the program for the same question, nothing is fetched, light and dark both draw.
//   run.sh plan TANDEM FOLDER, or where the packages are: TD_TANDEM=TANDEM node plan.test.mjs
import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

const tandem = process.env.TD_TANDEM;
const browserPath = process.env.TD_CHROMIUM || ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome']
  .find(existsSync);
let chromium;
try {
  ({ chromium } = await import('playwright-core'));
} catch {
  console.log('skipped: playwright-core is not installed (npm ci in tests/e2e)');
  process.exit(77);
}
if (!browserPath) {
  console.log('skipped: no chromium');
  process.exit(77);
}

let nChecks = 0, nFailed = 0;
function check(what, good) {
  nChecks++;
  if (good) return;
  nFailed++;
  console.log('FAILED: ' + what);
}
// The program prints nine digits; the page takes its slopes and powers from another library.
function near(what, got, want, relative = 2e-7) {
  check(`${what}: ${got} on the page, ${want} by the program`,
    Math.abs(got - want) <= relative * Math.abs(want) + 1e-12);
}
const plan = (...args) => execFileSync(tandem, ['plan', ...args], { maxBuffer: 1 << 26 }).toString();

const questions = [
  { args: ['-m', 'gpt-oss-120b', '--machines', 'dgx-spark,m4-max,strix-halo,m3-ultra,thor'],
    positions: [{}, { prompt: 32768, answer: 256, link: 'TB5' }, { prompt: 128, answer: 16, link: '1GbE' },
      { prompt: 3072, answer: 2048, link: 'wifi' }, { prompt: 131072, answer: 8192, link: '200GbE' },
      { prompt: 4096, answer: 512, batch: 8 }, { prompt: 24576, answer: 128, batch: 64 }] },
  { args: ['-m', 'Llama-3.1-8B', '--quant', 'F16', '--machines', 'all', '-p', '5000', '-n', '77', '-d', '3000',
    '--link', '7'], positions: [{}, { prompt: 65536, link: 'TB4' }, { answer: 4096, batch: 3 }] },
  { args: ['-m', 'synth:gpt-oss-20b', '--machines', '4090,5090,b580'],
    positions: [{}, { prompt: 16384, answer: 384, link: '2.5GbE' }] },
];

function compare(at, page, want) {
  check(`${at}: as many machines`, page.machines.length === want.machines.length);
  for (const w of want.machines) {
    const p = page.machines.find((m) => m.name === w.machine), what = `${at}, ${w.machine}`;
    check(`${what} is there`, p !== undefined);
    if (!p) continue;
    check(`${what} fits`, p.fits === w.fits);
    near(`${what} needs`, p.needed, w.needed_bytes);
    if (!w.fits) continue;
    near(`${what} first`, p.first, w.first_token_seconds.value);
    near(`${what} first, low`, p.firstLow, w.first_token_seconds.low, 1e-6);
    near(`${what} first, high`, p.firstHigh, w.first_token_seconds.high, 1e-6);
    near(`${what} all`, p.total, w.seconds.value);
    near(`${what} all, low`, p.totalLow, w.seconds.low, 1e-6);
    near(`${what} all, high`, p.totalHigh, w.seconds.high, 1e-6);
    near(`${what} reads`, p.prefillSpeed, w.prefill_tokens_per_s.value);
    near(`${what} writes`, p.decodeSpeed, w.decode_tokens_per_s.value);
    if (w.joule) near(`${what} joule`, p.joule, w.joule);
  }
  for (const w of want.pairs) {
    const p = page.pairs.find((q) => q.reads === w.reads && q.answers === w.answers);
    const what = `${at}, ${w.reads} -> ${w.answers}`;
    check(`${what} is there`, p !== undefined);
    if (!p) continue;
    near(`${what} first`, p.first, w.first_token_seconds);
    near(`${what} all`, p.total, w.seconds);
    near(`${what} gain`, p.gain, w.gain);
    near(`${what} KV`, p.kv, w.kv_bytes);
    check(`${what} exposed`, Math.abs(p.exposed - w.exposed_seconds) <= 1e-7 * p.total);
    // A prompt at which both are the same to the last bit may fall on either side.
    check(`${what} pays from ${p.from}, ${w.pays_from_tokens}`, Math.abs(p.from - w.pays_from_tokens) <= 1);
  }
}

async function readPage(page) {
  return page.evaluate(() => {
    const now = window.plan.now();
    return {
      machines: window.plan.machines.map((m) => ({ name: m.name, ...m.answer })),
      pairs: now.pairs.map((p) => ({ reads: p.reader.name, answers: p.writer.name, ...p.split,
        from: window.Plan ? window.Plan.paysFrom(p.ask) : Plan.paysFrom(p.ask) })),
      shownTotal: [...document.querySelectorAll('#ranking tbody tr')].map((tr) =>
        [tr.dataset.machine, tr.children[3].firstChild.textContent || tr.children[3].textContent]),
      best: now.able.map((m) => [m.name, m.answer.total, m.is_measured]),
    };
  });
}

async function move(page, position) {
  await page.evaluate((to) => {
    for (const [name, value] of Object.entries(to)) {
      const input = document.getElementById(name);
      const at = window.plan.sliders[name].findIndex((v) => (v.name || v) === value);
      if (at < 0) throw new Error(`no stop ${value} of ${name}`);
      input.value = at;
      input.dispatchEvent(new Event('input'));
    }
  }, position);
  // The page draws in the next frame.
  await page.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))));
}

const folder = mkdtempSync(join(tmpdir(), 'tandem-plan.'));
const browser = await chromium.launch({ executablePath: browserPath, args: ['--no-sandbox'] });
try {
  for (const [n, { args, positions }] of questions.entries()) {
    const file = join(folder, `plan${n}.html`);
    writeFileSync(file, plan(...args, '-o', 'html'));
    const page = await browser.newPage({ viewport: { width: 1200, height: 900 },
      colorScheme: n % 2 ? 'dark' : 'light' });
    page.on('pageerror', (e) => check('no error on the page: ' + e, false));
    page.on('console', (m) => check('nothing on the console: ' + m.text(), m.type() !== 'error'));
    page.on('request', (r) => check('asks nobody: ' + r.url(), r.url().startsWith('file:')));
    await page.goto(pathToFileURL(file).href);
    for (const position of positions) {
      await move(page, position);
      const flags = { prompt: '-p', answer: '-n', batch: '--batch', link: '--link' };
      const asked = [...args];
      if (!asked.includes('--link')) asked.push('--link', '10GbE');
      for (const [name, v] of Object.entries(position)) {
        const i = asked.indexOf(flags[name]);
        if (i >= 0) asked[i + 1] = String(v); else asked.push(flags[name], String(v));
      }
      const want = JSON.parse(plan(...asked, '-o', 'json'));
      const got = await readPage(page);
      const at = `question ${n}, ${JSON.stringify(position)}`;
      compare(at, got, want);
      // What stands in the table is what was computed, in its order.
      check(`${at}: the table's order`, got.best.every(([name], i) => got.shownTotal[i][0] === name));
      for (const [i, [name, total, measured]] of got.best.entries()) {
        const text = got.shownTotal[i][1].replace(/,/g, '');
        check(`${at}: ${name} shows ${text}`, measured ? Math.abs(Number(text) / total - 1) < 6e-3
          : text.includes('–'));
      }
      // The slider stays where it was put; other positions are relative to the question.
      const back = {};
      for (const name of Object.keys(position)) back[name] = await page.evaluate((slider) => {
        const first = slider === 'link' ? window.plan.data.link.name : window.plan.data.goal[slider];
        return first;
      }, name);
      await move(page, back);
    }
    // The map is worked out a little at a time; how long that takes is the machine's affair.
    await page.waitForFunction(() => document.querySelector('#map svg path'), null, { timeout: 120000 }).catch(() => {});
    const charts = await page.evaluate(() => ['ttft', 'roofline', 'prefill', 'decode', 'map']
      .map((id) => document.querySelectorAll(`#${id} svg path`).length));
    check(`question ${n}: every chart has lines (${charts})`, charts.every((c) => c > 0));
    const wide = await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth);
    check(`question ${n}: no wider than the window`, wide);
    await page.close();
  }
  // A name from outside must not become markup.
  const html = plan('-m', 'gpt-oss-20b', '--machines', 'rtx-5090', '-o', 'html');
  check('no request in the file', !/(src|href)=|@import|url\(|https?:[^"]*\.js/.test(
    html.replace(/<script type="application\/json"[^]*?<\/script>/, '').replace(/http:\/\/www\.w3\.org\/2000\/svg/, '')));
} finally {
  await browser.close();
  rmSync(folder, { recursive: true });
}
console.log(`plan.test.mjs: ${nChecks} checks, ${nFailed} failed`);
process.exit(nFailed ? 1 : 0);
