#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What two machines gain over each alone, measured with their published speeds, beside what the
planner's formula expects.

    bench/gain.py [--tandem build/tandem] [--split-says build/tests/split_says] [--pair NAME]
                  [--factor F] [--prompt N] [--answers 32,128,512,2048] [--limit SECONDS]
                  [--who both,here,there] [--save FILE]
    bench/gain.py --report FILE...

Both ends run a small model whose KV has gpt-oss-120b's bytes per token, each slowed to the speed of
the machine it stands for, by depth; the link between their network namespaces is shaped to 10 Gb/s
(needs root). What this machine cannot do at full speed it does F times slower: all speeds and the
link are divided by F, so that the gains stay. Three runs an answer: the prompt read there and
answered here, all here, all there. What would take longer than the limit is made shorter: prompt,
answer and the depths of the speeds are divided by one power of two, which changes no gain either.

--save adds what was measured to a file, --report judges such files: so a long measurement can be
made in pieces. Each gain must be within 5 per cent of the formula's (plan/split.h); exit code 1 when
one is not.
"""
import argparse
import json
import statistics
import subprocess
import sys

from relay_lab import Lab, Namespaces, Prefill, Trouble

# gpt-oss-120b: 36 layers of 8 KV heads of 64, every other one with a window of 128.
MODEL = ("synth:tiny,layers=36,hidden=64,heads=8,kv-heads=8,head-dim=64,experts=2,top-k=1,ff=32,"
         "window=128,vocab=1024,ctx=65536")
GROUPS = "18:0:2048,18:128:2048"
LINK, ROUND_TRIP, CHUNK = 10e9 / 8, 0.0002, 512

# tok/s by depth. gpt-oss-120b MXFP4, llama.cpp, chunks of 2048: ggml-org/llama.cpp discussion 16578
# (Spark); published beside it in October 2025 (M4 Max, 40 GPU cores).
SPARK = {"prefill": "0:1689.47,4096:1733.41,8192:1705.93,16384:1514.78,32768:1221.23",
         "decode": "0:52.87,4096:51.02,8192:48.46,16384:44.78,32768:38.76"}
M4_MAX = {"prefill": "0:871.16,4096:643.32,8192:516.77,16384:351.42,32768:235.87",
          "decode": "0:62.85,4096:56.48,8192:50.79,16384:46.2,32768:40.22"}
# Llama 3.1 8B in 16 bits, from the seconds of 8192 tokens read and 32 written in exo's article of
# October 2025 (blog.exolabs.net/nvidia-dgx-spark): 1.47 and 2.87, 5.57 and 0.85.
SPARK_8B = {"prefill": "0:5572.8", "decode": "0:11.15"}
M3_ULTRA_8B = {"prefill": "0:1470.7", "decode": "0:37.65"}
PAIRS = {"spark+m4max": (M4_MAX, SPARK), "spark+m3ultra": (M3_ULTRA_8B, SPARK_8B)}


WHO = ("both", "here", "there")


def slowed(rate, factor, shrink):
    points = [p.split(":") for p in rate.split(",")]
    return ",".join(f"{float(depth) / shrink:.6g}:{float(speed) / factor:.6g}"
                    for depth, speed in points)


def paces(machine, factor, shrink):
    return ["--pace-prefill", slowed(machine["prefill"], factor, shrink),
            "--pace-decode", slowed(machine["decode"], factor, shrink)]


def expected(args, pair, factor, prompt, answer, shrink):
    """Seconds of each run as it is made here."""
    here, there = PAIRS[pair]
    words = [f"{side}-{what}={slowed(machine[what], factor, shrink)}"
             for side, machine in (("here", here), ("there", there)) for what in ("prefill", "decode")]
    words += [f"link={LINK / factor}", f"round-trip={ROUND_TRIP}", f"prompt={prompt // shrink}",
              f"answer={answer // shrink}", f"chunk={CHUNK}", f"groups={GROUPS}"]
    said = json.loads(subprocess.run([args.split_says] + words, stdout=subprocess.PIPE, text=True,
                                     check=True).stdout)
    return {"both": said["split_seconds"], "here": said["here_seconds"],
            "there": said["there_seconds"]}


def shrink_of(args, answer):
    shrink = 1
    while (max(expected(args, args.pair, args.factor, args.prompt, answer, shrink)[w]
               for w in args.who) > args.limit and answer // (2 * shrink) >= 16):
        shrink *= 2
    return shrink


def bench(lab, args, far, shrink, answer, options, prefix):
    command = list(prefix) + [lab.tandem, "bench", "-m", MODEL, "-p", str(args.prompt // shrink), "-n",
                              str(answer // shrink), "-r", "1", "-t", "1", "--chunk", str(CHUNK),
                              "-o", "json", "--prefill", far.listen, "--key", lab.key] + options
    done = subprocess.run(command, env=lab.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, check=False)
    if done.returncode:
        raise Trouble(done.stderr.strip())
    return json.loads(done.stdout)[-1]["median_seconds"]


def measure(args):
    here, there = PAIRS[args.pair]
    lab, net, far = Lab(args.tandem), None, None
    try:
        net = Namespaces()
        net.rate(LINK * 8 / args.factor)
        for answer in args.answers:
            shrink = shrink_of(args, answer)
            far = Prefill(lab, MODEL, listen=f"{net.far_address}:0", prefix=net.far(),
                          options=["--chunk", str(CHUNK), "-t", "1", "--ctx", str(args.prompt + 64)] +
                          paces(there, args.factor, shrink))
            far.wait()
            for who in args.who:
                machine = there if who == "there" else here
                policy = "require" if who == "both" else "never"
                seconds = bench(lab, args, far, shrink, answer, ["--prefill-policy", policy] +
                                paces(machine, args.factor, shrink), net.near())
                row = {"pair": args.pair, "factor": args.factor, "prompt": args.prompt,
                       "answer": answer, "shrink": shrink, "who": who, "seconds": seconds}
                print(json.dumps(row), file=sys.stderr, flush=True)
                yield row
            far.kill()
    finally:
        if far and far.process.poll() is None:
            far.kill()
        if net:
            net.close()
        lab.close()


def gain_cell(got, should):
    is_ok = abs(got / should - 1) <= 0.05
    return f"{got:8.3f} /{should:7.3f}{'' if is_ok else ' MISSED'}", is_ok


def report(args, rows):
    """Seconds and gains as they are at full speed and length; of several runs the median."""
    is_fine = True
    for pair, prompt in sorted({(r["pair"], r["prompt"]) for r in rows}):
        some = [r for r in rows if (r["pair"], r["prompt"]) == (pair, prompt)]
        print(f"{pair}, {prompt} tokens read; seconds at full speed, measured / expected")
        print(f"{'answer':>7} {'runs':>5} {'slower':>7} {'shorter':>8} {'here alone':>17} "
              f"{'there alone':>17} {'in tandem':>17} {'gain over here':>17} {'over there':>17}")
        for answer in sorted({r["answer"] for r in some}):
            got, want, shapes, n_runs = {}, {}, set(), []
            for who in WHO:
                runs = [r for r in some if r["answer"] == answer and r["who"] == who]
                if not runs:
                    continue
                scales = [r["shrink"] / r["factor"] for r in runs]
                got[who] = statistics.median(r["seconds"] * x for r, x in zip(runs, scales))
                want[who] = statistics.median(
                    expected(args, pair, r["factor"], prompt, answer, r["shrink"])[who] * x
                    for r, x in zip(runs, scales))
                shapes |= {(r["factor"], r["shrink"]) for r in runs}
                n_runs.append(len(runs))
            cells = [f"{got[who]:8.2f} /{want[who]:7.2f}" if who in got else "-"
                     for who in ("here", "there", "both")]
            for who in ("here", "there"):
                if who not in got or "both" not in got:
                    cells.append("-")
                    continue
                text, is_ok = gain_cell(got[who] / got["both"], want[who] / want["both"])
                is_fine = is_fine and is_ok
                cells.append(text)
            slower, shorter = ("-".join(sorted({f"{s[i]:g}" for s in shapes})) for i in (0, 1))
            print(f"{answer:7} {min(n_runs):5} {slower:>7} {shorter:>8} " +
                  " ".join(f"{c:>17}" for c in cells), flush=True)
    return is_fine


def words_of(text):
    return text.split(",")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--tandem", default="build/tandem")
    parser.add_argument("--split-says", default="build/tests/split_says")
    parser.add_argument("--pair", choices=PAIRS, default="spark+m4max")
    parser.add_argument("--factor", type=float, default=8)
    parser.add_argument("--prompt", type=int, default=2048)
    parser.add_argument("--answers", default=[32, 128, 512, 2048],
                        type=lambda text: [int(x) for x in words_of(text)])
    parser.add_argument("--limit", type=float, default=1e9, help="seconds of one run at most")
    parser.add_argument("--who", default=list(WHO), type=words_of)
    parser.add_argument("--save", help="add what was measured to this file, a JSON object a line")
    parser.add_argument("--report", nargs="+", help="only say what such files hold")
    args = parser.parse_args()
    rows = []
    try:
        for path in args.report or []:
            with open(path, encoding="utf-8") as f:
                rows += [json.loads(line) for line in f]
        for row in [] if args.report else measure(args):
            rows.append(row)
            if args.save:
                with open(args.save, "a", encoding="utf-8") as f:
                    f.write(json.dumps(row) + "\n")
        return 0 if report(args, rows) else 1
    except (Trouble, OSError, subprocess.SubprocessError) as e:
        print(f"gain: {e}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
