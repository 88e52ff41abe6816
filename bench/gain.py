#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What two machines gain over each alone, measured with their published speeds, beside what the
planner's formula expects.

    bench/gain.py [--tandem build/tandem] [--split-says build/tests/split_says] [--pair NAME]
                  [--factor F] [--prompt N] [--answers 32,128,512,2048]

Both ends run a small model whose KV has gpt-oss-120b's bytes per token, each slowed to the speed of
the machine it stands for, by depth; the link between their network namespaces is shaped to 10 Gb/s
(needs root). What this machine cannot do at full speed it does F times slower: all speeds and the
link are divided by F, latency is multiplied by it, so that the gains stay. Three runs: the prompt
read there and answered here, all here, all there. Each gain must be within 5 per cent of the
formula's (plan/split.h); exit code 1 when one is not.
"""
import argparse
import json
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


def slowed(rate, factor):
    points = [p.split(":") for p in rate.split(",")]
    return ",".join(f"{depth}:{float(speed) / factor:.6g}" for depth, speed in points)


def paces(machine, factor):
    return ["--pace-prefill", slowed(machine["prefill"], factor),
            "--pace-decode", slowed(machine["decode"], factor)]


def bench(lab, args, options, prefix):
    command = list(prefix) + [lab.tandem, "bench", "-m", MODEL, "-p", str(args.prompt), "-n",
                              args.answers, "-r", "1", "-t", "1", "--chunk", str(CHUNK), "-o",
                              "json"] + options
    done = subprocess.run(command, env=lab.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, check=False)
    if done.returncode:
        raise Trouble(done.stderr.strip())
    return {row["n_gen"]: row["median_seconds"] for row in json.loads(done.stdout)}


def expected(args, here, there, answer):
    words = [f"here-prefill={slowed(here['prefill'], args.factor)}",
             f"here-decode={slowed(here['decode'], args.factor)}",
             f"there-prefill={slowed(there['prefill'], args.factor)}",
             f"there-decode={slowed(there['decode'], args.factor)}",
             f"link={LINK / args.factor}", f"round-trip={ROUND_TRIP * args.factor}",
             f"prompt={args.prompt}", f"answer={answer}", f"chunk={CHUNK}", f"groups={GROUPS}"]
    return json.loads(subprocess.run([args.split_says] + words, stdout=subprocess.PIPE, text=True,
                                     check=True).stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--tandem", default="build/tandem")
    parser.add_argument("--split-says", default="build/tests/split_says")
    parser.add_argument("--pair", choices=PAIRS, default="spark+m4max")
    parser.add_argument("--factor", type=float, default=8)
    parser.add_argument("--prompt", type=int, default=2048)
    parser.add_argument("--answers", default="32,128,512,2048")
    args = parser.parse_args()
    here, there = PAIRS[args.pair]
    lab, net, far = Lab(args.tandem), None, None
    try:
        net = Namespaces()
        net.rate(LINK * 8 / args.factor)
        far = Prefill(lab, MODEL, listen=f"{net.far_address}:0", prefix=net.far(),
                      options=["--chunk", str(CHUNK), "-t", "1", "--ctx", str(args.prompt + 64)] +
                      paces(there, args.factor))
        far.wait()
        ask = ["--prefill", far.listen, "--key", lab.key]
        both = bench(lab, args, ask + paces(here, args.factor), net.near())
        alone = {name: bench(lab, args, ask + ["--prefill-policy", "never"] +
                             paces(machine, args.factor), net.near())
                 for name, machine in (("here", here), ("there", there))}
        print(f"{args.pair}, {args.prompt} tokens read, everything {args.factor:g} times slower; "
              "seconds at full speed, measured / expected")
        print(f"{'answer':>7} {'here alone':>17} {'there alone':>17} {'in tandem':>17} "
              f"{'gain over here':>17} {'over there':>17}")
        is_fine = True
        for answer in map(int, args.answers.split(",")):
            want = expected(args, here, there, answer)
            pairs = [(alone["here"][answer], want["here_seconds"]),
                     (alone["there"][answer], want["there_seconds"]),
                     (both[answer], want["split_seconds"])]
            cells = [f"{a / args.factor:8.2f} /{b / args.factor:7.2f}" for a, b in pairs]
            for i in (0, 1):
                got = pairs[i][0] / pairs[2][0]
                should = pairs[i][1] / pairs[2][1]
                is_ok = abs(got / should - 1) <= 0.05
                is_fine = is_fine and is_ok
                cells.append(f"{got:8.3f} /{should:7.3f}{'' if is_ok else ' MISSED'}")
            print(f"{answer:7} " + " ".join(cells), flush=True)
        return 0 if is_fine else 1
    except (Trouble, OSError, subprocess.SubprocessError) as e:
        print(f"gain: {e}", file=sys.stderr)
        return 1
    finally:
        if far and far.process.poll() is None:
            far.kill()
        if net:
            net.close()
        lab.close()


if __name__ == "__main__":
    sys.exit(main())
