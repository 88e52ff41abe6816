#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Draws when each layer of each chunk was computed there and when its KV was on its way here.

    build/tests/trace_relay SHAPE TOKENS CHUNK PACE LINK stream >stream.csv
    build/tests/trace_relay SHAPE TOKENS CHUNK PACE LINK at-end >end.csv
    bench/timeline.py stream.csv end.csv >docs/tandem-timeline.svg
"""
import csv
import sys

WIDTH, LEFT, RIGHT, ROW = 720, 118, 16, 7
COMPUTE, SEND, FIRST = ("#3b6fb5", "#7fa6d9"), ("#d9822b", "#f0b878"), "#2e8b57"


def load(path):
    with open(path, encoding="ascii") as f:
        rows = list(csv.DictReader(line for line in f if not line.startswith("#")))
    for r in rows:
        r.update(layer=int(r["layer"]), pos0=int(r["pos0"]), begin=float(r["begin"]),
                 end=float(r["end"]))
    return rows


def panel(out, rows, title, y, scale):
    """One run; returns the y below it."""
    n_layers = 1 + max(r["layer"] for r in rows)
    chunks = {p: i for i, p in enumerate(sorted({r["pos0"] for r in rows if r["what"] == "compute"}))}
    starts = sorted(chunks)
    out.append(f'<text x="{LEFT}" y="{y + 12}" font-weight="bold">{title}</text>')
    top = y + 20
    lanes = (("compute", COMPUTE, "computed there", top),
             ("send", SEND, "KV on its way", top + ROW * n_layers + 8))
    bottom = lanes[1][3] + ROW * n_layers
    for what, colours, name, lane in lanes:
        middle = lane + ROW * n_layers / 2
        out.append(f'<text x="{LEFT - 8}" y="{middle}" text-anchor="end">{name}</text>')
        out.append(f'<text x="{LEFT - 8}" y="{middle + 13}" text-anchor="end" fill="#777" '
                   f'font-size="10">layers 1 to {n_layers}</text>')
        out.append(f'<rect x="{LEFT}" y="{lane}" width="{WIDTH - LEFT - RIGHT}" '
                   f'height="{ROW * n_layers}" fill="#f4f4f4"/>')
        for r in rows:
            if r["what"] != what:
                continue
            i = chunks.get(r["pos0"], sum(p <= r["pos0"] for p in starts) - 1)
            out.append(f'<rect x="{LEFT + r["begin"] * scale:.1f}" y="{lane + ROW * r["layer"]}" '
                       f'width="{max((r["end"] - r["begin"]) * scale, 0.6):.1f}" height="{ROW - 1}" '
                       f'fill="{colours[i % 2]}"/>')
    computed = max(r["end"] for r in rows if r["what"] == "compute")
    first = next(r["end"] for r in rows if r["what"] == "first")
    x = LEFT + computed * scale
    out.append(f'<path d="M{x:.1f} {top - 4}V{bottom + 4}" stroke="#555" stroke-dasharray="4 3"/>')
    out.append(f'<text x="{x - 4:.1f}" y="{y + 12}" text-anchor="end" fill="#555">all computed</text>')
    x = LEFT + first * scale
    out.append(f'<path d="M{x:.1f} {top - 4}V{bottom + 4}" stroke="{FIRST}" stroke-width="2"/>')
    late = (first - computed) * 1e3
    anchor, dx = ("end", -5) if x > WIDTH - 150 else ("start", 5)
    out.append(f'<text x="{x + dx:.1f}" y="{bottom + 15}" text-anchor="{anchor}" fill="{FIRST}">'
               f'first token, {late:.0f} ms later</text>')
    return bottom + 30


def main():
    if len(sys.argv) != 3:
        print(__doc__.strip(), file=sys.stderr)
        return 2
    runs = [load(path) for path in sys.argv[1:]]
    end = max(r["end"] for rows in runs for r in rows)
    scale = (WIDTH - LEFT - RIGHT - 4) / end
    out = []
    y = panel(out, runs[0], "KV sent while it is made", 8, scale)
    y = panel(out, runs[1], "KV sent after the last chunk", y, scale)
    step = next(s for s in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50) if end / s <= 10)
    t = 0.0
    while t <= end:
        out.append(f'<text x="{LEFT + t * scale:.1f}" y="{y + 4}" text-anchor="middle" fill="#777">'
                   f'{t:g} s</text>')
        t = round(t + step, 6)
    height = y + 12
    print(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
          f'font-family="sans-serif" font-size="12">\n<rect width="{WIDTH}" height="{height}" '
          'fill="white"/>')
    print("\n".join(out))
    print("</svg>")
    return 0


if __name__ == "__main__":
    sys.exit(main())
