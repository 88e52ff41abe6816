#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""How much of a transfer hides behind the prefill that makes it, on links of different speed.

    bench/overlap.py [--tandem build/tandem] [--rounds 5] [--shares 25,50,90,0] [--save FILE]
    bench/overlap.py --report FILE...

Two network namespaces joined by a shaped link (bench/tandem_netns.sh, needs root): `tandem prefill`,
slowed to a pace, in one, `tandem bench --prefill` in the other. The link's rate is set so that all KV takes 25,
50 and 90 per cent of the far prefill's time; 0 is the link as it is. Each round measures every share
twice, in turn: KV sent layer by layer while it is made, and all of it after the last chunk
(--send-at-end), as is usual elsewhere. With --save a long measurement can be made in pieces, such as
`--rounds 1 --shares 25,50`: the rounds in the file say who is measured first.

Bars: exposed time (from the end of the prefill there until the last KV is here) at most 5 per cent of
the far prefill and a round trip; on the link as it is, first token at most 3 per cent of the far
prefill + 30 ms after its end. Exit code 1 when the median misses one.
"""
import argparse
import collections
import json
import os
import statistics
import subprocess
import sys
import time

from relay_lab import Lab, Namespaces, Prefill, Trouble

# 12 layers keep all, 12 the last 128 tokens; 16 chunks; 48 KiB of KV a token and layer pair.
MODEL = ("synth:tiny,layers=24,hidden=64,heads=8,kv-heads=8,head-dim=64,experts=2,top-k=1,ff=32,"
         "window=128,vocab=1024,ctx=8192")
CHUNK, N_PROMPT, PACE = 256, 4097, 1000
FULL, WINDOWED, LAYER_BYTES = 12, 12, 2048
# What Ethernet, IP, TCP and TLS add to KV.
OVERHEAD = 1.05
# Of the namespaces' link; less than it is.
ROUND_TRIP = 0.0001


def kv_bytes():
    return (FULL * (N_PROMPT - 1) + WINDOWED * 127) * LAYER_BYTES


def rate_of(share, far_seconds):
    """Bits per second of a link that needs this share of the far prefill's time; 0: any."""
    return kv_bytes() * 8 * OVERHEAD / (far_seconds * share / 100) if share else 0


def measure(lab, net, far, n_prompt):
    command = net.near() + [lab.tandem, "bench", "-m", MODEL, "--prefill", far.listen, "--key", lab.key,
                            "-p", str(n_prompt), "-n", "0", "-r", "1", "-t", "1", "-o", "json"]
    done = subprocess.run(command, env=lab.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, timeout=300, check=False)
    if done.returncode:
        raise Trouble(done.stderr.strip())
    row = json.loads(done.stdout)[0]
    if row["path"] != "remote":
        raise Trouble(f"the prompt was read by path {row['path']}: {row['prefill'][0]['reason']}")
    return row


def read_rows(paths):
    rows = []
    for path in paths:
        with open(path, encoding="utf-8") as f:
            rows += [json.loads(line) for line in f]
    return rows


def campaign(args, n_before):
    lab, net, ends, rows = Lab(args.tandem), None, [], []
    try:
        net = Namespaces()
        options = ["--chunk", str(CHUNK), "-t", "1", "--ctx", str(N_PROMPT + 64), "--pace-prefill",
                   str(PACE), "--pace-decode", "100"]
        for extra in ([], ["--send-at-end"]):
            ends.append(Prefill(lab, MODEL, listen=f"{net.far_address}:0", options=options + extra,
                                prefix=net.far()))
            ends[-1].wait()
        far_seconds = args.far
        if not far_seconds:
            far_seconds = measure(lab, net, ends[0], N_PROMPT - 100)["far_seconds"]
        for i in range(args.rounds):
            for share in args.shares:
                rate = rate_of(share, far_seconds)
                net.rate(rate)
                for mode in (0, 1) if (i + n_before[share]) % 2 == 0 else (1, 0):
                    # Another length is another prompt, which nobody has read yet.
                    n_prompt = N_PROMPT - int(time.time() * 10) % 97
                    row = measure(lab, net, ends[mode], n_prompt)
                    rows.append({"share": share, "mode": ("stream", "at end")[mode], "bits_per_s": rate,
                                 **{k: row[k] for k in (
                                     "n_prompt", "ttft_seconds", "far_seconds", "transfer_seconds",
                                     "exposed_seconds", "stall_seconds", "bytes")}})
                    print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
        return rows
    finally:
        for end in ends:
            if end.process.poll() is None:
                end.kill()
        if net:
            net.close()
        lab.close()


def spread(some, key):
    """Median and range, in seconds."""
    values = [key(r) for r in some]
    return f"{statistics.median(values):6.3f} ({min(values):.3f}-{max(values):.3f})"


def report(rows):
    print("seconds: median (least-most)")
    print(f"{'link':>10} {'share':>6} {'sent':>7} {'runs':>4} {'far prefill':>21} {'transfer':>21} "
          f"{'exposed':>21} {'of far':>7} {'first token after far':>21}")
    is_fine = True
    for share in sorted({r["share"] for r in rows}, key=lambda s: s or 1e9):
        for mode in ("stream", "at end"):
            some = [r for r in rows if r["share"] == share and r["mode"] == mode]
            if not some:
                continue

            def mid(key):
                return statistics.median(key(r) for r in some)
            far = mid(lambda r: r["far_seconds"])
            exposed = mid(lambda r: r["exposed_seconds"])
            late = mid(lambda r: r["ttft_seconds"] - r["far_seconds"])
            link = f"{mid(lambda r: r['bits_per_s']) / 1e6:.0f} Mb/s" if share else "unshaped"
            verdict = ""
            if mode == "stream":
                is_ok = exposed <= 0.05 * far + ROUND_TRIP if share else late <= 0.03 * far + 0.03
                is_fine = is_fine and is_ok
                verdict = "  ok" if is_ok else "  MISSED"
            print(f"{link:>10} {f'{share} %' if share else '':>6} {mode:>7} {len(some):>4} "
                  f"{spread(some, lambda r: r['far_seconds']):>21} "
                  f"{spread(some, lambda r: r['transfer_seconds']):>21} "
                  f"{spread(some, lambda r: r['exposed_seconds']):>21} {100 * exposed / far:6.2f}% "
                  f"{spread(some, lambda r: r['ttft_seconds'] - r['far_seconds']):>21}{verdict}")
    return is_fine


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--tandem", default="build/tandem")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--shares", default="25,50,90,0",
                        type=lambda text: [int(x) for x in text.split(",")])
    parser.add_argument("--far", type=float, help="seconds of the far prefill; default: one run says")
    parser.add_argument("--save", help="add what was measured to this file, a JSON object a line")
    parser.add_argument("--report", nargs="+", help="only say what such files hold")
    args = parser.parse_args()
    try:
        if args.report:
            rows = read_rows(args.report)
        else:
            before = read_rows([args.save]) if args.save and os.path.exists(args.save) else []
            n_before = collections.Counter(r["share"] for r in before if r["mode"] == "stream")
            rows = campaign(args, n_before)
            if args.save:
                with open(args.save, "a", encoding="utf-8") as f:
                    f.writelines(json.dumps(row) + "\n" for row in rows)
        return 0 if report(rows) else 1
    except (Trouble, OSError, subprocess.SubprocessError) as e:
        print(f"overlap: {e}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
