// SPDX-License-Identifier: MIT
// The formula of src/plan, once more, for the page that `tandem plan -o html` writes: the same
// pieces under the same names (time.c, cost.c, plan.c, split.c), fed with the coefficients that the
// program exports. tests/e2e compares its numbers with the program's.
'use strict';

const Plan = (() => {
  const MAX_POINTS = 32;      // TD_SPLIT_MAX_POINTS
  const LONGEST_PROMPT = 131072;
  const RATES = ['gemm', 'experts', 'attend', 'band', 'cache', 'layer', 'rows', 'expert_rows',
    'expert_band', 'vector', 'expert_vector', 'overlap', 'crowd'];

  // cost.c
  const distinct = (nExperts, nActive, nRows) =>
    nExperts === 0 ? 0 : nExperts * (1 - Math.pow(1 - nActive / nExperts, nRows));
  const passBytes = (c, nRows) => c.n_experts === 0 ? c.dense_bytes
    : c.dense_bytes + c.expert_bytes * distinct(c.n_experts, c.n_active, nRows) / c.n_experts;
  const inWindow = (c, tokens) => Math.min(tokens, c.window_tokens);
  const kvBytes = (c, depth) => c.kv_bytes_full * depth + c.kv_bytes_window * inWindow(c, depth);
  const attendFlop = (c, seen) =>
    c.attend_flop_full * seen + c.attend_flop_window * inWindow(c, seen);

  // time.c
  function both(a, b, p) {
    const longer = Math.max(a, b), shorter = Math.min(a, b);
    return longer > 0 ? longer * Math.pow(1 + Math.pow(shorter / longer, p), 1 / p) : 0;
  }
  function faster(a, b) {
    const longer = Math.max(a, b), shorter = Math.min(a, b);
    return longer > 0 ? shorter * Math.pow(1 + Math.pow(shorter / longer, 4), -0.25) : 0;
  }
  const products = (flop, rows, moreRows, flopPerS, vector) =>
    faster(flop * (rows + moreRows) / flopPerS, flop * rows / (flopPerS * vector));

  // Rates as factors, by name, of their logarithms.
  function factors(log) {
    const k = {};
    RATES.forEach((name, i) => { k[name] = Math.exp(log[i]); });
    return k;
  }

  // pass: {rows, sequences, seen, logits}. The three groups and the overhead add up to whole.
  function passTime(c, d, k, pass) {
    const flopPerS = d.flop_per_s * k.gemm;
    const bytesPerS = d.bytes_per_s * Math.min(k.band, 1);
    const expertBytesPerS = Math.min(bytesPerS * k.expert_band, d.bytes_per_s);
    const p = 1 + k.overlap, rows = pass.rows;
    const readDense = c.dense_bytes / bytesPerS;
    const multiplyDense = products(c.dense_flop, rows, k.rows, flopPerS, k.vector) +
      products(c.head_flop, pass.logits, k.rows, flopPerS, k.vector);
    let readExperts = 0, multiplyExperts = 0;
    if (c.n_experts > 0) {
      const visited = distinct(c.n_experts, c.n_active, Math.pow(rows, Math.min(k.crowd, 1)));
      const vector = rows < 1.5 ? k.vector : k.expert_vector;
      readExperts = c.expert_bytes * visited / c.n_experts / expertBytesPerS;
      multiplyExperts = products(c.expert_flop / c.n_active, rows * c.n_active,
        visited * k.expert_rows, flopPerS * k.experts, vector);
    }
    const multiplyKv = attendFlop(c, pass.seen) * rows / (d.flop_per_s * k.attend);
    const readKv = kvBytes(c, pass.seen) * pass.sequences / (bytesPerS * k.cache);
    const dense = both(readDense, multiplyDense, p);
    const experts = both(readExperts, multiplyExperts, p);
    const attend = both(multiplyKv, readKv, p);
    const overhead = c.n_layers * k.layer;
    return { dense, experts, attend, overhead, whole: dense + experts + attend + overhead };
  }

  function addTimes(sum, one, n) {
    for (const part of Object.keys(one)) sum[part] = (sum[part] || 0) + n * one[part];
    return sum;
  }

  // test: {isPrefill, n, depth, batch, chunk}
  function testTime(c, d, k, test) {
    const seen = test.depth + (test.n + 1) / 2;
    if (!test.isPrefill) {
      const pass = { rows: test.batch, sequences: test.batch, seen, logits: test.batch };
      return addTimes({}, passTime(c, d, k, pass), test.n);
    }
    const chunk = Math.min(test.chunk, test.n);
    const nWhole = Math.floor(test.n / chunk), rest = test.n - nWhole * chunk;
    const sum = addTimes({}, passTime(c, d, k, { rows: chunk, sequences: 1, seen, logits: 1 }),
      nWhole);
    if (rest >= 1)
      addTimes(sum, passTime(c, d, k, { rows: rest, sequences: 1, seen, logits: 1 }), 1);
    return sum;
  }

  // fit.c: how wide 90 % of new measurements lie around a test's time, as a factor.
  function classOf(test, largeChunk) {
    if (!test.isPrefill) return test.batch > 1 ? 3 : 2;
    return Math.min(test.chunk, test.n) < largeChunk ? 1 : 0;
  }
  function widthOf(c, m, test) {
    const STEP = 1e-4, slope = [];
    const at = (r, by) => {
      const log = m.rates.slice();
      log[r] += by;
      return Math.log(testTime(c, m, factors(log), test).whole);
    };
    for (let r = 0; r < RATES.length; r++) slope.push((at(r, STEP) - at(r, -STEP)) / (2 * STEP));
    let variance = 0;
    for (let r = 0; r < slope.length; r++)
      for (let q = 0; q < slope.length; q++) variance += slope[r] * m.covariance[r][q] * slope[q];
    const noise = test.isPrefill ? m.noise.prefill : m.noise.decode;
    const sd = Math.sqrt(Math.max(variance, 0) + noise * noise);
    const width = m.noise.width[classOf(test, m.noise.large_chunk)];
    const scale = Math.hypot(sd, width.floor);
    return { low: Math.exp(-width.faster * scale), high: Math.exp(width.slower * scale) };
  }

  // plan.c
  function readSeconds(c, d, k, goal) {
    const sum = { dense: 0, experts: 0, attend: 0, overhead: 0, whole: 0 };
    let depth = goal.depth;
    for (let left = goal.prompt; left > 0;) {
      const n = Math.min(left, goal.chunk);
      addTimes(sum, testTime(c, d, k, { isPrefill: true, n, depth, batch: 1, chunk: goal.chunk }), 1);
      depth += n;
      left -= n;
    }
    return sum;
  }

  const neededBytes = (c, goal) => c.file_bytes +
    goal.batch * kvBytes(c, goal.depth + goal.prompt + goal.answer) +
    (goal.chunk * 256e3 + goal.batch * c.logits_bytes) + 0.5 * 1073741824;

  function speeds(c, d, k, goal, isPrefill) {
    const end = goal.depth + goal.prompt + goal.answer;
    const chunk = Math.min(goal.chunk, goal.prompt), points = [];
    for (let i = 0; i < MAX_POINTS; i++) {
      const middle = i / (MAX_POINTS - 1) * end;
      const test = { isPrefill, n: isPrefill ? chunk : 1, depth: 0, batch: 1, chunk };
      test.depth = Math.max(middle - test.n / 2, 0);
      points.push({ depth: middle, speed: test.n / testTime(c, d, k, test).whole });
    }
    return points;
  }

  // One machine alone. m.k: factors(m.rates).
  function single(c, m, goal, withIntervals) {
    const needed = neededBytes(c, goal);
    const out = { needed, fits: needed <= m.usable_bytes };
    const read = { isPrefill: true, n: goal.prompt, depth: goal.depth, batch: 1,
      chunk: Math.min(goal.chunk, goal.prompt) };
    const write = { isPrefill: false, n: goal.answer, depth: goal.depth + goal.prompt,
      batch: goal.batch, chunk: 1 };
    out.prefill = readSeconds(c, m, m.k, goal);
    out.decode = testTime(c, m, m.k, write);
    out.prefillSpeed = goal.prompt / out.prefill.whole;
    out.decodeSpeed = goal.answer * goal.batch / out.decode.whole;
    const rest = (goal.answer - 1) / goal.answer;
    out.first = goal.batch * out.prefill.whole;
    out.total = out.first + rest * out.decode.whole;
    out.joule = m.power_watt * out.total;
    if (withIntervals) {
      const a = out.prefillWidth = widthOf(c, m, read);
      const b = out.decodeWidth = widthOf(c, m, write);
      out.firstLow = out.first * a.low;
      out.firstHigh = out.first * a.high;
      out.totalLow = out.firstLow + rest * out.decode.whole * b.low;
      out.totalHigh = out.firstHigh + rest * out.decode.whole * b.high;
    }
    return out;
  }

  // split.c
  function tokenSeconds(points, depth) {
    const n = points.length, first = 1 / points[0].speed;
    if (n === 1 || depth <= points[0].depth) return first;
    let i = 1;
    while (i + 1 < n && depth > points[i].depth) i++;
    const a = 1 / points[i - 1].speed, b = 1 / points[i].speed;
    const width = points[i].depth - points[i - 1].depth;
    if (!(width > 0)) return b;
    const at = a + (b - a) * (depth - points[i - 1].depth) / width;
    return depth > points[i].depth ? Math.max(at, b) : at;
  }
  function readRate(points, from, to) {
    if (to <= from) return 0;
    let seconds = 0, at = from;
    for (let i = 0; i <= points.length && at < to; i++) {
      const next = Math.min(i < points.length ? points[i].depth : to, to);
      if (next <= at) continue;
      seconds += (next - at) * (tokenSeconds(points, at) + tokenSeconds(points, next)) / 2;
      at = next;
    }
    return seconds;
  }
  function chunkBytes(ask, begin, end, isCheckpoint, windowSent) {
    let bytes = 0;
    for (const g of ask.groups) {
      const perToken = g.layers * g.bytes;
      if (g.window === 0) bytes += (end - begin) * perToken;
      else if (isCheckpoint)
        bytes += Math.max(end - Math.max(end - (g.window - 1), windowSent), 0) * perToken;
    }
    return bytes;
  }
  const linkSeconds = (ask, bytes) => bytes > 0 ? bytes / ask.bytesPerS : 0;

  // The far prefill chunk by chunk, and the link behind it, layer by layer.
  function stream(ask) {
    const end = ask.prompt - 1;
    let layers = 0;
    for (const g of ask.groups) layers += g.layers;
    layers = Math.max(layers, 1);
    let windowSent = ask.cached, checkpoint = ask.cached, t = 0, linkFree = 0, kv = 0;
    for (let begin = ask.cached; begin < end;) {
      const stop = ask.chunk ? Math.min(begin + ask.chunk, end) : end;
      const seconds = readRate(ask.there.prefill, begin, stop);
      const isCheckpoint = stop === end || stop - checkpoint >= ask.checkpoint;
      const bytes = chunkBytes(ask, begin, stop, isCheckpoint, windowSent);
      if (isCheckpoint) checkpoint = windowSent = stop;
      const x = linkSeconds(ask, bytes / layers);
      if (bytes > 0)
        linkFree = Math.max(Math.max(linkFree, t + seconds / layers) + layers * x, t + seconds + x);
      kv += bytes;
      t += seconds;
      begin = stop;
    }
    return { kv, far: t, end: Math.max(linkFree, t) };
  }
  function split(ask) {
    const n = ask.prompt, out = {};
    const rest = (m) => readRate(m.decode, n, n + ask.answer - 1);
    out.hereFirst = readRate(ask.here.prefill, ask.cached, n);
    out.here = out.hereFirst + rest(ask.here);
    out.thereFirst = ask.roundTrip + readRate(ask.there.prefill, ask.cached, n);
    out.there = out.thereFirst + rest(ask.there);
    const t = stream(ask);
    out.first = ask.roundTrip + t.end + tokenSeconds(ask.here.decode, n - 1);
    out.total = out.first + rest(ask.here);
    out.far = t.far;
    out.kv = t.kv;
    out.transfer = linkSeconds(ask, t.kv);
    out.exposed = t.end - t.far;
    out.pays = n - ask.cached > 1 && out.first < out.hereFirst;
    out.bestAlone = Math.min(out.here, out.there);
    out.gain = out.bestAlone / out.total;
    return out;
  }
  function askOf(c, reader, writer, link, goal) {
    const groups = [];
    if (c.n_full_layers > 0)
      groups.push({ layers: c.n_full_layers, window: 0, bytes: c.kv_bytes_full / c.n_full_layers });
    if (c.window_tokens > 0 && c.n_layers > c.n_full_layers) {
      const layers = c.n_layers - c.n_full_layers;
      groups.push({ layers, window: c.window_tokens, bytes: c.kv_bytes_window / layers });
    }
    return { here: writer, there: reader, prompt: goal.depth + goal.prompt, cached: goal.depth,
      answer: goal.answer, bytesPerS: link.bytes_per_s, roundTrip: link.round_trip_seconds, chunk: goal.chunk,
      checkpoint: goal.chunk, groups };
  }
  const ratesOf = (c, m, goal) => ({ prefill: speeds(c, m, m.k, goal, true),
    decode: speeds(c, m, m.k, goal, false) });

  // The shortest prompt from which the first token of a pair comes sooner; 0: none.
  function paysFrom(ask) {
    const pays = (prompt) => split({ ...ask, prompt, cached: 0 }).pays;
    let low = 1, high = 2;
    while (high < LONGEST_PROMPT && !pays(high)) {
      low = high;
      high = high > LONGEST_PROMPT / 2 ? LONGEST_PROMPT : high * 2;
    }
    if (high > LONGEST_PROMPT || !pays(high)) return 0;
    while (high - low > 1) {
      const middle = low + Math.floor((high - low) / 2);
      if (pays(middle)) high = middle; else low = middle;
    }
    return high;
  }

  // Work of a request and the balance it wants, as td_plan_golden.
  function golden(c, goal, k) {
    const p = goal.prompt, g = goal.answer, n = goal.batch, chunk = Math.min(goal.chunk, p);
    const linear = c.dense_flop + c.expert_flop;
    const readFlop = n * p * (linear + attendFlop(c, goal.depth + p / 2));
    const writeFlop =
      n * g * (linear + c.head_flop + attendFlop(c, goal.depth + p + g / 2));
    const readBytes = n * Math.ceil(p / chunk) * passBytes(c, chunk);
    const writeBytes = g * (passBytes(c, n) + n * kvBytes(c, goal.depth + p + g / 2));
    let reached = k.gemm;
    if (c.n_experts > 0) {
      const experts = c.expert_flop / linear;
      reached /= 1 - experts + experts / k.experts;
    }
    const steady = ((readFlop + writeFlop) / reached) / ((readBytes + writeBytes) / k.band);
    return { readFlop, writeFlop, readBytes, writeBytes, steady };
  }

  return { RATES, factors, passTime, testTime, readSeconds, single, speeds, ratesOf, askOf, split,
    paysFrom, golden, neededBytes, passBytes, kvBytes, attendFlop };
})();
