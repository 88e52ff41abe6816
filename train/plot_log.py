# SPDX-License-Identifier: MIT
"""Draws the loss in log.csv as SVG and prints the scores on the way as a Markdown table.

    plot_log.py train/out/log.csv docs/mini-loss.svg
"""
import csv
import json
import math
import sys

W, H, LEFT, BOTTOM = 720, 300, 50, 40


def main():
    # A run that was stopped has logged some steps twice: the last time counts.
    loss, scores = {}, {}
    for row in csv.reader(open(sys.argv[1])):
        step, seen = int(row[1]), int(row[2]) / 1e6
        if row[0] == "loss":
            loss[step] = (seen, float(row[5]), int(row[4]))
        else:
            scores[step] = (step, seen, float(row[3]) / 60, json.loads(row[5]))
    loss = [loss[k] for k in sorted(loss)]
    scores = [scores[k] for k in sorted(scores)]
    x_max = loss[-1][0]
    lo, hi = min(l for _, l, _ in loss) / 1.2, max(l for _, l, _ in loss) * 1.2

    def x(v):
        return LEFT + (W - LEFT - 15) * v / x_max

    def y(v):
        return 15 + (H - BOTTOM - 15) * math.log(hi / v) / math.log(hi / lo)

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {W} {H}" font-family="sans-serif" font-size="12">',
           f'<rect width="{W}" height="{H}" fill="white"/>']
    for v in (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5):
        if lo <= v <= hi:
            out.append(f'<path d="M{LEFT} {y(v):.1f}H{W - 15}" stroke="#ddd"/>'
                       f'<text x="{LEFT - 6}" y="{y(v) + 4:.1f}" text-anchor="end">{v:g}</text>')
    step = 10 ** math.floor(math.log10(x_max / 2))
    step *= 2 if x_max / step > 10 else 1
    for i in range(int(x_max / step) + 1):
        out.append(f'<text x="{x(i * step):.1f}" y="{H - BOTTOM + 16}" text-anchor="middle">{i * step:g}</text>')
    out.append(f'<text x="{W / 2}" y="{H - 6}" text-anchor="middle">million tokens seen; loss on answers, log scale; '
               'vertical lines: longer conversations</text>')
    for a, b in zip(loss, loss[1:]):
        if a[2] != b[2]:
            out.append(f'<path d="M{x(b[0]):.1f} 15V{H - BOTTOM}" stroke="#aaa" stroke-dasharray="4 3"/>'
                       f'<text x="{x(b[0]) + 3:.1f}" y="26">{b[2]}</text>')
    path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b, _ in loss)
    out += [f'<polyline points="{path}" fill="none" stroke="#06c" stroke-width="1.5"/>', "</svg>"]
    open(sys.argv[2], "w").write("\n".join(out) + "\n")

    # About ten rows tell the story; the last is one of them.
    scores = scores[::-1][::max(1, round(len(scores) / 10))][::-1]
    tasks = list(scores[-1][3]) if scores else []
    print("| step | million tokens | minutes | " + " | ".join(tasks) + " |")
    print("|---" * (3 + len(tasks)) + "|")
    for s, t, m, sc in scores:
        print(f"| {s} | {t:.1f} | {m:.0f} | " + " | ".join(f"{100 * sc[k]:.0f}" if k in sc else "" for k in tasks) + " |")


if __name__ == "__main__":
    main()
