// SPDX-License-Identifier: MIT
// The page of `tandem plan -o html`: sliders, tables and charts over plan_core.js. Nothing is
// fetched; text from the data is set as text, never as markup.
'use strict';

const data = JSON.parse(document.getElementById('data').textContent);
const cost = data.cost;
const machines = data.machines.map((m, i) => ({ ...m, k: Plan.factors(m.rates), i, shown: false }));
const $ = (id) => document.getElementById(id);
const MOST_SHOWN = 8;

// ---- text ----
function number(v) {
  if (!Number.isFinite(v)) return '–';
  if (v === 0) return '0';
  const a = Math.abs(v);
  const digits = a >= 99.95 ? 0 : a >= 9.995 ? 1 : a >= 0.9995 ? 2 : 3;
  return digits ? v.toFixed(digits) : Math.round(v).toLocaleString('en-US');
}
const count = (v) => v.toLocaleString('en-US');
const seconds = (v) => v < 0.0995 ? number(v * 1000) + ' ms'
  : v < 600 ? number(v) + ' s' : v < 36000 ? number(v / 60) + ' min' : number(v / 3600) + ' h';
const tokens = (v) => v >= 1024 && v % 1024 === 0 ? v / 1024 + 'k' : v >= 10000
  ? number(v / 1024) + 'k' : count(v);
const tick = (v) => v >= 1000 ? count(v) : String(Number(v.toPrecision(3)));
function short(name) {
  if (name.includes('(Strix Halo)')) return 'Strix Halo';
  return name.replace(/^Apple /, '').replace(/ \(.*\)$/, '').replace(/ Blackwell WS$/, '');
}
const pairName = (p) => [p.reader, p.writer].map((m) => short(m.name).replace(/ \d+c$/, ''))
  .join(' → ');
const isSure = (p) => p.reader.is_measured && p.writer.is_measured;
function make(tag, attributes, ...children) {
  const e = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (key === 'style') e.style.cssText = value; else e.setAttribute(key, value);
  }
  for (const c of children) e.append(c);
  return e;
}
function svg(tag, attributes, text) {
  const e = document.createElementNS('http://www.w3.org/2000/svg', tag);
  for (const [key, value] of Object.entries(attributes)) e.setAttribute(key, value);
  if (text !== undefined) e.textContent = text;
  return e;
}

// ---- sliders ----
function stops(from, to, asked) {
  const list = [];
  for (let v = from; v <= to; v *= 2) {
    list.push(v);
    if (v * 1.5 < to && Number.isInteger(v * 1.5)) list.push(v * 1.5);
  }
  if (!list.includes(asked)) list.push(asked);
  return list.sort((a, b) => a - b);
}
// Payload of a link, as src/app/plan.c has it.
const ethernet = (gigabits) => ({ name: gigabits + 'GbE', bytes_per_s: gigabits * 1e9 / 8 * 0.94,
  round_trip_seconds: gigabits >= 100 ? 60e-6 : 200e-6 });
function linkStops(asked) {
  const list = [{ name: 'wifi', bytes_per_s: 0.6e9 / 8, round_trip_seconds: 4e-3 },
    ethernet(1), ethernet(2.5), ethernet(5), ethernet(10),
    { name: 'TB4', bytes_per_s: 20e9 / 8, round_trip_seconds: 50e-6 }, ethernet(25),
    { name: 'TB5', bytes_per_s: 40e9 / 8, round_trip_seconds: 50e-6 }, ethernet(100),
    ethernet(200)].filter((l) => l.name !== asked.name);
  list.push(asked);
  return list.sort((a, b) => a.bytes_per_s - b.bytes_per_s);
}
const sliders = {
  prompt: stops(128, 131072, data.goal.prompt),
  answer: stops(16, 8192, data.goal.answer),
  batch: stops(1, 64, data.goal.batch),
  link: linkStops(data.link),
};
const asked = { ...data.goal, link: data.link };
const fromAddress = new URLSearchParams(location.hash.slice(1));
for (const [name, list] of Object.entries(sliders)) {
  const input = $(name), kept = fromAddress.get(name);
  const text = (v) => String(v.name || v);
  let at = list.findIndex((v) => text(v) === kept);
  if (at < 0) at = list.indexOf(asked[name]);
  input.max = list.length - 1;
  input.value = at;
  input.addEventListener('input', () => schedule(name));
}
const valueOf = (name) => sliders[name][Number($(name).value)];
function goalNow() {
  return { prompt: valueOf('prompt'), answer: valueOf('answer'), batch: valueOf('batch'),
    depth: data.goal.depth, chunk: data.goal.chunk };
}

// ---- what is computed ----
function allPairs(goal, link) {
  if (goal.batch > 1) return [];
  const able = machines.filter((m) => m.answer.fits);
  const rates = new Map(able.map((m) => [m, Plan.ratesOf(cost, m, goal)]));
  const list = [];
  for (const reader of able)
    for (const writer of able) {
      if (reader === writer) continue;
      const ask = Plan.askOf(cost, rates.get(reader), rates.get(writer), link, goal);
      list.push({ reader, writer, ask, split: Plan.split(ask) });
    }
  return list;
}
function compute() {
  const goal = goalNow(), link = valueOf('link');
  for (const m of machines) m.answer = Plan.single(cost, m, goal, true);
  const able = machines.filter((m) => m.answer.fits)
    .sort((a, b) => a.answer.total - b.answer.total);
  const pairs = allPairs(goal, link);
  pairs.sort((a, b) => b.split.gain - a.split.gain);
  return { goal, link, able, pairs, unfit: machines.filter((m) => !m.answer.fits) };
}
// Colours stay with a machine while it is shown.
const colours = new Array(MOST_SHOWN).fill(null);
function show(m, on) {
  if (on) {
    const free = colours.indexOf(null);
    if (free < 0) return;
    colours[free] = m;
    m.colour = `var(--c${free})`;
  } else {
    colours[colours.indexOf(m)] = null;
  }
  m.shown = on;
}
const shown = () => machines.filter((m) => m.shown && m.answer.fits);

// ---- tables ----
function cell(text, range, kind) {
  const td = make('td', kind ? { class: kind } : {}, text);
  if (range) td.append(make('span', { class: 'range' }, range));
  return td;
}
const range = (low, high) => `${number(low)}–${number(high)}`;
// A machine that nobody has measured gets the interval alone.
function figure(m, v, low, high, kind) {
  return m.is_measured ? cell(number(v), range(low, high), kind)
    : cell('', range(low, high), 'only');
}
function bar(m, scale) {
  const a = m.answer, td = make('td', { class: 'barcell' }), pct = (v) => 100 * v / scale + '%';
  const whisker = make('div', { class: 'whisker' });
  if (m.is_measured) {
    const b = make('div', { class: a.total > scale ? 'bar cut' : 'bar' },
      make('i', { class: 'read', style: `width:${pct(Math.min(a.first, scale))}` }),
      make('i', { class: 'write',
        style: `width:${pct(Math.max(Math.min(a.total, scale) - a.first, 0))}` }));
    td.append(b);
    if (a.totalLow < scale)
      whisker.append(make('i', { style: `left:${pct(a.totalLow)};width:${
        pct(Math.min(a.totalHigh, scale) - a.totalLow)}` }));
  } else {
    const low = Math.min(a.totalLow, scale), high = Math.min(a.totalHigh, scale);
    td.append(make('div', { class: 'bar open' },
      make('i', { style: `left:${pct(low)};width:${pct(high - low)}` })));
  }
  td.append(whisker);
  td.addEventListener('pointermove', (e) => tip(e, partsText(m)));
  td.addEventListener('pointerleave', hideTip);
  return td;
}
function partsText(m) {
  const a = m.answer, lines = [];
  const name = { dense: 'shared weights', experts: 'experts', attend: 'attention and KV',
    overhead: 'overhead' };
  for (const [what, t, n] of [['Reading', a.prefill, valueOf('batch')], ['Writing', a.decode, 1]]) {
    lines.push([`${what}: ${seconds(t.whole * n)}`]);
    for (const part of Object.keys(name))
      if (t[part] > 0) lines.push([name[part], `${Math.round(100 * t[part] / t.whole)} %`]);
  }
  return { title: m.name, lines };
}
function head(table, names) {
  const tr = make('tr', {});
  for (const n of names) tr.append(make('th', n === '' ? { class: 'barcell' } : {}, n));
  table.replaceChildren(make('thead', {}, tr));
}
function ranking(now) {
  const table = $('ranking'), body = make('tbody', {});
  head(table, ['machine', '', 'first token, s', 'all, s', 'reads, tok/s', 'writes, tok/s', 'USD']);
  const best = now.able.length ? now.able[0].answer.total : 1;
  const longest = now.able.length ? now.able[now.able.length - 1].answer.total : 1;
  const scale = Math.min(longest, 7 * best) * 1.04;
  for (const m of now.able) {
    const a = m.answer;
    const box = make('input', { type: 'checkbox', 'aria-label': `show ${m.name} in the charts` });
    box.checked = m.shown;
    box.disabled = !m.shown && !colours.includes(null);
    box.addEventListener('change', () => { show(m, box.checked); redraw(); });
    const name = make('td', { class: 'name', style: m.shown ? `--mark:${m.colour}` : '' },
      make('label', {}, box, make('span', {}, m.name,
        make('small', {}, m.is_measured ? m.program : `${m.program}, not measured`))));
    const tr = make('tr', { 'data-machine': m.name }, name, bar(m, scale),
      figure(m, a.first, a.firstLow, a.firstHigh),
      figure(m, a.total, a.totalLow, a.totalHigh, 'strong'),
      figure(m, a.prefillSpeed, a.prefillSpeed / a.prefillWidth.high, a.prefillSpeed / a.prefillWidth.low),
      figure(m, a.decodeSpeed, a.decodeSpeed / a.decodeWidth.high, a.decodeSpeed / a.decodeWidth.low),
      cell(m.price_usd > 0 ? count(m.price_usd) : ''));
    body.append(tr);
  }
  table.append(body);
  $('rank-note').replaceChildren(make('i', { class: 'key read', style: 'margin-left:0' }), 'reading',
    make('i', { class: 'key write' }), 'writing',
    '. Small figures: 90 % of new measurements lie between. Ticked machines are in the charts.');
  $('unfit').textContent = now.unfit.length === 0 ? '' : 'Does not fit: ' + now.unfit.map((m) =>
    `${short(m.name)} (${number(m.answer.needed / 2 ** 30)} of ${
      number(m.usable_bytes / 2 ** 30)} GiB)`).join(', ') + '.';
}
function pairTable(now) {
  const many = now.pairs.length > 12, table = $('pairs'), body = make('tbody', {});
  const rows = now.pairs.filter((p) => !many || p.split.gain > 1.02).slice(0, 12);
  $('pairs-section').hidden = machines.length < 2;
  head(table, ['reads → answers', 'first token, s', 'all, s', 'link hides, %', 'gain',
    'first token sooner from']);
  for (const { reader, writer, ask, split } of rows) {
    const from = Plan.paysFrom(ask);
    const hidden = split.transfer > 0 ? 100 * (1 - split.exposed / split.transfer) : 100;
    const pays = split.gain > 1, sure = isSure({ reader, writer }) ? '' : '≈ ';
    const tr = make('tr', { 'data-pair': `${reader.name} -> ${writer.name}`, class: pays ? '' : 'dim' },
      cell(`${short(reader.name)} → ${short(writer.name)}`), cell(sure + number(split.first)),
      cell(sure + number(split.total), '', pays ? 'strong' : ''),
      cell(String(Math.max(0, Math.floor(hidden)))),
      cell(`${sure}${split.gain.toFixed(2)}×`, '', pays ? 'strong' : ''),
      cell(from ? `${count(from)} tokens` : 'never'));
    body.append(tr);
  }
  table.append(body);
  table.hidden = rows.length === 0;
  $('pairs-note').textContent = now.goal.batch > 1
    ? 'Pairs are planned for one request at a time: move “At the same time” to 1.'
    : rows.length === 0 ? 'No two of these are faster together than the faster one alone.'
      : rows.every(isSure) ? '' : '≈: nobody has measured one of the two; its interval is above.';
}
function headline(now) {
  const p = $('headline'), best = now.able[0], pair = now.pairs.find(isSure);
  const bold = (t) => make('b', {}, t);
  if (!best) {
    p.textContent = 'None of these machines holds the model with so much context.';
    return;
  }
  const a = best.answer, total = best.is_measured ? seconds(a.total)
    : `${number(a.totalLow)} to ${seconds(a.totalHigh)}`;
  const work = now.goal.batch > 1 ? `${now.goal.batch} prompts of ${tokens(now.goal.prompt)} tokens and ` +
    `answers of ${tokens(now.goal.answer)}` : `A prompt of ${tokens(now.goal.prompt)} tokens and ` +
    `an answer of ${tokens(now.goal.answer)}`;
  p.replaceChildren(`${work}: `, bold(best.name), now.able.length > 1 ? ' is done first, in '
    : ' takes ', bold(total), '.');
  if (pair && pair.split.gain > 1.02)
    p.append(' Over ' + now.link.name + ', ', bold(pairName(pair)), ' are ', bold(pair.split.gain.toFixed(2) + ' times'),
    ' as fast together as the better of the two alone.');
  else if (pair) p.append(' No two of these gain from working together here.');
}

// ---- tips ----
function tip(event, content) {
  const t = $('tip');
  t.replaceChildren(make('b', {}, content.title));
  for (const [left, right, colour] of content.lines) {
    const name = make('span', {}, make('em', { style: 'font-style:normal' },
      colour ? make('i', { style: `background:${colour}` }) : '', left));
    if (right !== undefined) name.append(make('b', {}, right));
    t.append(name);
  }
  t.hidden = false;
  const x = event.clientX + 16, y = event.clientY + 14, w = t.offsetWidth, h = t.offsetHeight;
  t.style.left = (x + w > innerWidth - 8 ? event.clientX - w - 12 : x) + 'px';
  t.style.top = Math.max(8, y + h > innerHeight - 8 ? event.clientY - h - 12 : y) + 'px';
}
function hideTip() { $('tip').hidden = true; }

// ---- charts ----
function ticksOf(scale) {
  if (scale.ticks) return scale.ticks.filter((v) => v >= scale.min && v <= scale.max);
  if (!scale.log) {
    const rough = (scale.max - scale.min) / 5, unit = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((s) => s * unit).find((s) => s >= rough);
    const list = [];
    for (let v = Math.ceil(scale.min / step) * step; v <= scale.max * 1.0001; v += step) list.push(v);
    return list;
  }
  const list = [], decades = Math.log10(scale.max / scale.min);
  for (let e = Math.floor(Math.log10(scale.min)); e <= Math.ceil(Math.log10(scale.max)); e++)
    for (const s of decades > 3 ? [1] : [1, 2, 5]) {
      const v = s * 10 ** e;
      if (v >= scale.min * 0.999 && v <= scale.max * 1.001) list.push(v);
    }
  return list;
}
function place(scale, v, from, to) {
  const part = scale.log ? Math.log(v / scale.min) / Math.log(scale.max / scale.min)
    : (v - scale.min) / (scale.max - scale.min);
  return from + part * (to - from);
}
// An empty chart with its axes: {root, x, y, box}.
function frame(id, xScale, yScale, height, right) {
  const holder = $(id), width = Math.max(holder.clientWidth, 280);
  const box = { left: 46, right: width - right, top: 22, bottom: height - 38, width, height };
  const root = svg('svg', { width, height, viewBox: `0 0 ${width} ${height}`, role: 'img',
    'aria-label': `${yScale.name} against ${xScale.name}` });
  const x = (v) => place(xScale, v, box.left, box.right);
  const y = (v) => place(yScale, v, box.bottom, box.top);
  for (const v of ticksOf(yScale)) {
    root.append(svg('line', { x1: box.left, x2: box.right, y1: y(v), y2: y(v), class: 'gridline' }),
      svg('text', { x: box.left - 7, y: y(v) + 4, 'text-anchor': 'end' }, yScale.text(v)));
  }
  let last = -99;
  for (const v of ticksOf(xScale)) {
    root.append(svg('line', { x1: x(v), x2: x(v), y1: box.top, y2: box.bottom, class: 'gridline' }));
    if (x(v) - last < 34) continue;
    last = x(v);
    root.append(svg('text', { x: x(v), y: box.bottom + 16, 'text-anchor': 'middle' },
      xScale.text(v)));
  }
  root.append(svg('line', { x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom,
    class: 'axis' }),
  svg('text', { x: box.right, y: height - 5, 'text-anchor': 'end' }, xScale.name),
  svg('text', { x: box.left - 38, y: 9 }, yScale.name));
  holder.replaceChildren(root);
  return { root, x, y, box, xScale, yScale };
}
// Labels at the ends of lines, pushed apart; below the chart where there is no room beside it.
function endLabels(chart, list, narrow) {
  const { root, box } = chart, GAP = 13.5;
  if (narrow) {
    root.parentNode.append(make('p', { class: 'note legend' }, ...list.map((l) => make('span', {},
      make('i', { style: `background:${l.colour}` }), l.text))));
    return;
  }
  list.sort((a, b) => a.y - b.y);
  for (let i = 0; i < list.length; i++) list[i].at = Math.max(list[i].y, i ? list[i - 1].at + GAP : box.top);
  for (let i = list.length - 1; i >= 0; i--)
    list[i].at = Math.min(list[i].at, i + 1 < list.length ? list[i + 1].at - GAP : box.bottom);
  for (const l of list)
    root.append(svg('text', { x: box.right + 7, y: l.at + 4, class: 'label', style: `fill:${l.colour}` },
      l.text));
}
const pathOf = (chart, points) => points.map(([a, b], i) =>
  (i ? 'L' : 'M') + chart.x(a).toFixed(1) + ' ' + chart.y(b).toFixed(1)).join('');
// series: {name, colour, dash, points, band: {low, high} factors}; of a band without a line the points are its middle.
function lines(id, xScale, yScale, series, unit) {
  const all = series.flatMap((s) => s.points.flatMap(([, v]) => s.band ? [v * s.band.low, v * s.band.high] : [v]));
  const least = Math.min(...all), most = Math.max(...all);
  const y = { ...yScale, min: yScale.log ? least / 1.2 : 0, max: yScale.log ? most * 1.2 : most * 1.06 };
  const narrow = $(id).clientWidth < 430;
  const chart = frame(id, xScale, y, 310, narrow ? 12 : 148), labels = [];
  for (const s of series) {
    if (s.band) {
      const up = s.points.map(([a, v]) => [a, v * s.band.high]);
      const down = s.points.map(([a, v]) => [a, v * s.band.low]).reverse();
      chart.root.append(svg('path', { d: pathOf(chart, up.concat(down)) + 'Z',
        style: `fill:${s.colour};opacity:.16` }));
    } else {
      chart.root.append(svg('path', { d: pathOf(chart, s.points), class: 'series',
        style: `stroke:${s.colour}`, 'stroke-dasharray': s.dash || 'none' }));
    }
    const [, v] = s.points[s.points.length - 1];
    labels.push({ y: chart.y(v), text: s.name, colour: s.colour });
  }
  endLabels(chart, labels, narrow);
  const rule = svg('line', { y1: chart.box.top, y2: chart.box.bottom, class: 'axis', visibility: 'hidden' });
  chart.root.append(rule);
  chart.root.addEventListener('pointermove', (e) => {
    const at = e.clientX - chart.root.getBoundingClientRect().left;
    const xs = series.length ? series[0].points.map(([a]) => a) : [];
    const near = xs.reduce((best, v, i) =>
      Math.abs(chart.x(v) - at) < Math.abs(chart.x(xs[best]) - at) ? i : best, 0);
    if (!xs.length) return;
    rule.setAttribute('x1', chart.x(xs[near]));
    rule.setAttribute('x2', chart.x(xs[near]));
    rule.setAttribute('visibility', 'visible');
    const rows = series.map((s) => [s, s.points[near][1]]).sort((a, b) => b[1] - a[1]);
    tip(e, { title: `${xScale.text(xs[near])} ${xScale.unit || 'tokens'}`, lines: rows.map(([s, v]) => [s.name,
      s.band ? range(v * s.band.low, v * s.band.high) : unit(v), s.colour]) });
  });
  chart.root.addEventListener('pointerleave', () => {
    rule.setAttribute('visibility', 'hidden');
    hideTip();
  });
  return chart;
}

const DEPTHS = Array.from({ length: 17 }, (_, i) => i * 4096);
const depthScale = { name: 'tokens in the context before', log: false, min: 0, max: 65536,
  ticks: [0, 16384, 32768, 49152, 65536], text: (v) => v === 0 ? '0' : Math.round(v / 1024) + 'k' };
// Widths are of seconds.
const ofSpeed = (width) => ({ low: 1 / width.high, high: 1 / width.low });
function byDepth(now) {
  for (const [id, isPrefill, name] of [['prefill', true, 'tok/s, a chunk of the prompt'],
    ['decode', false, 'tok/s, all answers together']]) {
    const series = shown().map((m) => ({ name: short(m.name), colour: m.colour,
      band: m.is_measured ? null : ofSpeed(isPrefill ? m.answer.prefillWidth : m.answer.decodeWidth),
      points: DEPTHS.map((depth) => {
        const n = isPrefill ? now.goal.chunk : 1;
        const test = { isPrefill, n, depth, batch: isPrefill ? 1 : now.goal.batch, chunk: now.goal.chunk };
        return [depth, n * test.batch / Plan.testTime(cost, m, m.k, test).whole];
      }) }));
    lines(id, depthScale, { name, log: isPrefill, text: tick }, series, (v) => number(v) + ' tok/s');
  }
}
const PROMPTS = Array.from({ length: 21 }, (_, i) => Math.round(128 * 2 ** (i / 2)));
function bestPairs(now) {
  const able = new Set(shown());
  return now.pairs.filter((p) => able.has(p.reader) && able.has(p.writer) && p.split.gain > 1 && isSure(p))
    .slice(0, 2);
}
function ttft(now) {
  const goalOf = (prompt) => ({ ...now.goal, prompt });
  const series = shown().map((m) => ({ name: short(m.name), colour: m.colour,
    band: m.is_measured ? null : m.answer.prefillWidth,
    points: PROMPTS.map((p) => [p, now.goal.batch * Plan.readSeconds(cost, m, m.k, goalOf(p)).whole]) }));
  bestPairs(now).forEach((pair, i) => series.push({ colour: `var(--p${i})`, dash: '5 4',
    name: pairName(pair),
    points: PROMPTS.map((p) => {
      const goal = goalOf(p);
      const ask = Plan.askOf(cost, Plan.ratesOf(cost, pair.reader, goal),
        Plan.ratesOf(cost, pair.writer, goal), now.link, goal);
      return [p, Plan.split(ask).first];
    }) }));
  const x = { name: 'prompt, tokens', log: true, min: 128, max: 131072,
    ticks: [128, 512, 2048, 8192, 32768, 131072], text: tokens };
  const chart = lines('ttft', x, { name: 'seconds', log: true, text: tick }, series, seconds);
  chart.root.append(svg('line', { x1: chart.x(now.goal.prompt), x2: chart.x(now.goal.prompt),
    y1: chart.box.top, y2: chart.box.bottom, style: 'stroke:var(--accent);opacity:.55',
    'stroke-dasharray': '2 3' }));
}
function roofline(now) {
  const list = shown(), best = list[0] || machines[0];
  const work = Plan.golden(cost, now.goal, best.k);
  const dots = [];
  for (const m of list) {
    const w = Plan.golden(cost, now.goal, m.k);
    dots.push({ m, what: 'reading', i: w.readFlop / w.readBytes,
      f: w.readFlop / (now.goal.batch * m.answer.prefill.whole), square: true });
    dots.push({ m, what: 'writing', i: w.writeFlop / w.writeBytes, f: w.writeFlop / m.answer.decode.whole });
  }
  const top = Math.max(1e12, ...machines.map((m) => m.flop_per_s || 0));
  const low = Math.min(...dots.map((d) => d.f), ...list.map((m) => m.bytes_per_s));
  const x = { name: 'FLOP per byte', log: true, min: Math.min(0.5, ...dots.map((d) => d.i / 1.5)),
    max: Math.max(3000, ...dots.map((d) => d.i * 2), work.steady * 2), text: tick };
  const y = { name: 'TFLOP/s', log: true, min: low / 2e12, max: top * 2e-12, text: tick };
  const narrow = $('roofline').clientWidth < 430;
  const chart = frame('roofline', x, y, 310, narrow ? 12 : 148), labels = [];
  const roof = (m) => [[x.min, Math.max(m.bytes_per_s * x.min * 1e-12, y.min)],
    [m.flop_per_s / m.bytes_per_s, m.flop_per_s * 1e-12], [x.max, m.flop_per_s * 1e-12]];
  for (const m of machines)
    if (!m.shown && m.flop_per_s > 0)
      chart.root.append(svg('circle', { cx: chart.x(m.flop_per_s / m.bytes_per_s),
        cy: chart.y(m.flop_per_s * 1e-12), r: 2.5, style: 'fill:var(--p1);opacity:.55' }));
  for (const m of list) {
    const first = roof(m);
    if (m.bytes_per_s * x.min * 1e-12 < y.min) first[0][0] = y.min * 1e12 / m.bytes_per_s;
    chart.root.append(svg('path', { d: pathOf(chart, first), class: 'series',
      style: `stroke:${m.colour};stroke-width:1.6;opacity:.75` }));
    labels.push({ y: chart.y(m.flop_per_s * 1e-12), text: short(m.name), colour: m.colour });
  }
  chart.root.append(svg('line', { x1: chart.x(work.steady), x2: chart.x(work.steady), y1: chart.box.top,
    y2: chart.box.bottom, style: 'stroke:var(--accent)', 'stroke-dasharray': '4 4' }),
  svg('text', { x: chart.x(work.steady) + 5, y: chart.box.bottom - 6, class: 'label',
    ...(chart.x(work.steady) > chart.box.right - 80 ? { x: chart.x(work.steady) - 5, 'text-anchor': 'end' } : {}),
    style: 'fill:var(--accent)' }, `balanced: ${number(work.steady)}`));
  for (const d of dots) {
    const cx = chart.x(d.i), cy = chart.y(d.f * 1e-12), style = `fill:${d.m.colour};stroke:var(--card)`;
    const mark = d.square ? svg('rect', { x: cx - 5, y: cy - 5, width: 10, height: 10, rx: 2, style })
      : svg('circle', { cx, cy, r: 5.5, style });
    mark.addEventListener('pointermove', (e) => tip(e, { title: `${d.m.name}, ${d.what}`, lines: [
      ['FLOP per byte', number(d.i)], ['TFLOP/s', number(d.f * 1e-12)],
      ['of the roof', `${Math.round(100 * d.f / Math.min(d.m.flop_per_s, d.i * d.m.bytes_per_s))} %`]] }));
    mark.addEventListener('pointerleave', hideTip);
    chart.root.append(mark);
  }
  endLabels(chart, labels, narrow);
}

// ---- the map ----
const MAP_X = 49, MAP_Y = 33;
const mapPrompt = (i) => Math.round(128 * 2 ** (10 * i / (MAP_X - 1)));
const mapAnswer = (j) => Math.round(16 * 2 ** (9 * j / (MAP_Y - 1)));
const map = { key: '', cells: [], pairs: [] };
// A machine's speeds for every cell do not depend on the link: kept for the pair at hand.
function* mapRates(reader, writer) {
  const list = [];
  for (let j = 0; j < MAP_Y; j++) {
    for (let i = 0; i < MAP_X; i++) {
      const goal = { prompt: mapPrompt(i), answer: mapAnswer(j), batch: 1, depth: data.goal.depth,
        chunk: data.goal.chunk };
      list.push({ goal, reader: Plan.ratesOf(cost, reader, goal), writer: Plan.ratesOf(cost, writer, goal) });
    }
    yield null;
  }
  return list;
}
function mapColour(gain, dark) {
  // Below break-even warm, above it blue; each doubling a step.
  const doublings = Math.max(-1, Math.min(1, Math.log2(gain)));
  const t = Math.sign(doublings) * Math.abs(doublings) ** 0.75;
  const mix = (a, b, part) => a.map((v, i) => Math.round(v + (b[i] - v) * part));
  const middle = dark ? [44, 47, 57] : [243, 241, 236];
  const up = dark ? [105, 162, 255] : [30, 80, 205], down = dark ? [200, 118, 58] : [226, 150, 84];
  const rgb = t >= 0 ? mix(middle, up, 0.14 + 0.86 * t) : mix(middle, down, Math.min(1, -t));
  return `rgb(${rgb.join(',')})`;
}
function mapKey(dark) {
  const holder = $('map-key');
  holder.replaceChildren(...[0.5, 0.7, 0.9, 1.05, 1.2, 1.4, 1.7, 2].map((gain) => make('span', {},
    make('i', { style: `background:${mapColour(gain, dark)}` }), `${gain}×`)));
}
function drawMap(now, cells) {
  const x = { name: 'prompt, tokens', log: true, min: 128, max: 131072,
    ticks: [128, 512, 2048, 8192, 32768, 131072], text: tokens };
  const y = { name: 'answer, tokens', log: true, min: 16, max: 8192, ticks: [16, 64, 256, 1024, 4096],
    text: tokens };
  const chart = frame('map', x, y, 380, 14), { box, root } = chart;
  const canvas = make('canvas', {});
  canvas.width = MAP_X;
  canvas.height = MAP_Y;
  canvas.style.cssText = `left:${box.left}px;top:${box.top}px;width:${box.right - box.left}px;height:${
    box.bottom - box.top}px;z-index:0`;
  const pen = canvas.getContext('2d'), dark = matchMedia('(prefers-color-scheme: dark)').matches;
  for (let j = 0; j < MAP_Y; j++)
    for (let i = 0; i < MAP_X; i++) {
      pen.fillStyle = mapColour(cells[j * MAP_X + i].gain, dark);
      pen.fillRect(i, MAP_Y - 1 - j, 1, 1);
    }
  $('map').prepend(canvas);
  mapKey(dark);
  root.style.position = 'relative';
  const w = (box.right - box.left) / MAP_X, h = (box.bottom - box.top) / MAP_Y;
  const pays = (i, j) => cells[j * MAP_X + i].gain > 1;
  let border = '';
  for (let j = 0; j < MAP_Y; j++)
    for (let i = 0; i < MAP_X; i++) {
      const cx = box.left + i * w, cy = box.bottom - (j + 1) * h;
      if (i + 1 < MAP_X && pays(i, j) !== pays(i + 1, j)) border += `M${cx + w} ${cy}v${h}`;
      if (j + 1 < MAP_Y && pays(i, j) !== pays(i, j + 1)) border += `M${cx} ${cy}h${w}`;
    }
  root.append(svg('path', { d: border, style: 'stroke:var(--ink);stroke-width:1.5;fill:none;opacity:.8' }));
  const dotX = Math.min(Math.max(chart.x(now.goal.prompt), box.left), box.right);
  const dotY = Math.min(Math.max(chart.y(now.goal.answer), box.top), box.bottom);
  zoneLabels(root, box, cells, dotX, dotY);
  root.append(svg('circle', { cx: dotX, cy: dotY, r: 6,
    style: 'fill:var(--card);stroke:var(--ink);stroke-width:2.5' }));
  root.addEventListener('pointermove', (e) => {
    const r = root.getBoundingClientRect();
    const i = Math.floor((e.clientX - r.left - box.left) / w);
    const j = Math.floor((box.bottom - (e.clientY - r.top)) / h);
    if (i < 0 || j < 0 || i >= MAP_X || j >= MAP_Y) return hideTip();
    const c = cells[j * MAP_X + i];
    return tip(e, { title: `prompt ${tokens(mapPrompt(i))}, answer ${tokens(mapAnswer(j))}`, lines: [
      ['the pair', seconds(c.total)], [`${short(map.pair.reader.name)} alone`, seconds(c.there)],
      [`${short(map.pair.writer.name)} alone`, seconds(c.here)], ['gain', c.gain.toFixed(2) + '×']] });
  });
  root.addEventListener('pointerleave', hideTip);
}
function zoneLabels(root, box, cells, dotX, dotY) {
  const zones = { pair: 'faster in tandem', reader: `${short(map.pair.reader.name)} alone`,
    writer: `${short(map.pair.writer.name)} alone` };
  const at = { pair: [0, 0, 0], reader: [0, 0, 0], writer: [0, 0, 0] };
  cells.forEach((c, n) => {
    const zone = c.gain > 1 ? 'pair' : c.there < c.here ? 'reader' : 'writer';
    at[zone][0] += n % MAP_X;
    at[zone][1] += Math.floor(n / MAP_X);
    at[zone][2]++;
  });
  for (const [zone, [i, j, n]] of Object.entries(at)) {
    if (n < 60) continue;
    const x = box.left + (i / n + 0.5) / MAP_X * (box.right - box.left);
    let y = box.bottom - (j / n + 0.5) / MAP_Y * (box.bottom - box.top);
    if (Math.abs(x - dotX) < 90 && Math.abs(y - dotY) < 26) y = dotY + (dotY > box.top + 60 ? -32 : 40);
    root.append(svg('text', { x, y, 'text-anchor': 'middle', class: 'zone' }, zones[zone]));
  }
}
let mapTurn = 0;
function mapNow(now) {
  const pair = map.pair;
  if (!pair) return;
  const key = `${pair.reader.i} ${pair.writer.i}`, turn = ++mapTurn;
  const finish = () => {
    map.cells = map.rates.map((c) => Plan.split(Plan.askOf(cost, c.reader, c.writer, now.link, c.goal)));
    drawMap(now, map.cells);
  };
  if (map.key === key) return finish();
  // Some milliseconds of work at a time, so that the sliders stay quick.
  const work = mapRates(pair.reader, pair.writer);
  const step = () => {
    if (turn !== mapTurn) return;
    for (const end = performance.now() + 12; performance.now() < end;) {
      const { done, value } = work.next();
      if (!done) continue;
      map.rates = value;
      map.key = key;
      finish();
      return;
    }
    setTimeout(step, 0);
  };
  step();
}
function choosePairs(now) {
  const select = $('pair'), able = now.able;
  const section = select.closest('section');
  section.hidden = able.length < 2;
  if (able.length < 2) return;
  const one = { ...now.goal, batch: 1 };
  const list = allPairs(one, now.link).sort((a, b) => b.split.gain - a.split.gain).slice(0, 30);
  const keyOf = (p) => `${p.reader.i} ${p.writer.i}`;
  const kept = list.find((p) => map.pair && keyOf(p) === keyOf(map.pair));
  map.pair = kept || list[0];
  map.pairs = list;
  select.replaceChildren(...list.map((p, i) => {
    const option = make('option', { value: i }, `${short(p.reader.name)} → ${short(p.writer.name)}`);
    option.selected = p === map.pair;
    return option;
  }));
}
$('pair').addEventListener('change', () => {
  map.pair = map.pairs[Number($('pair').value)];
  mapNow(latest);
});

// ---- all together ----
let latest = null;
function redraw() {
  for (const name of Object.keys(sliders)) {
    const v = valueOf(name);
    $(name + '-out').textContent = name === 'link' ? v.name : name === 'batch' ? count(v)
      : `${count(v)} tokens`;
    $(name).setAttribute('aria-valuetext', $(name + '-out').textContent);
  }
  const now = latest = compute();
  headline(now);
  ranking(now);
  pairTable(now);
  ttft(now);
  roofline(now);
  byDepth(now);
  choosePairs(now);
  mapNow(now);
}
let waiting = false;
function schedule(name) {
  const out = valueOf(name);
  $(name + '-out').textContent = String(out.name || count(out));
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    redraw();
    const keep = new URLSearchParams();
    for (const n of Object.keys(sliders)) keep.set(n, String(valueOf(n).name || valueOf(n)));
    history.replaceState(null, '', '#' + keep);
  });
}
function about() {
  document.title = `${data.model}: tandem plan`;
  $('title').replaceChildren(data.model, make('small', {}, `${data.quant} · ${
    number(cost.file_bytes * 1e-9)} GB${data.goal.depth ? ` · behind ${tokens(data.goal.depth)} tokens` : ''}`));
  $('about').textContent = `Predictions rest on ${count(data.n_measurements)} published measurements` +
    (data.calibrated ? `, fitted on ${data.calibrated}` : '') + '. The interval is where 90 % of new ' +
    'measurements should lie; a machine that nobody has measured gets an interval and no number. ' +
    'Measure your own with tandem bench and give it to tandem plan.';
  for (const m of machines)
    if (m.doubtful) $('doubts').append(make('dt', {}, m.name), make('dd', {}, m.doubtful));
}
about();
for (const m of machines) m.answer = Plan.single(cost, m, goalNow(), false);
machines.filter((m) => m.answer.fits).sort((a, b) => a.answer.total - b.answer.total)
  .sort((a, b) => b.is_measured - a.is_measured).slice(0, 6).forEach((m) => show(m, true));
redraw();
let widthThen = innerWidth;
addEventListener('resize', () => {
  if (innerWidth === widthThen) return;
  widthThen = innerWidth;
  redraw();
});
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', redraw);
window.plan = { data, machines, sliders, valueOf, now: () => latest };
