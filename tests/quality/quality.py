# SPDX-License-Identifier: MIT
"""Runs the held-out tasks of train/tasks.py through `tandem run` and compares the scores with the bars.

    quality.py build/tandem models/tandem-mini.gguf [-n 200] [--tasks recall@50,...] [-j 2] [-- options for run]

Prints every score with its standard error and the chance of a guess that knows the format. Ends
with status 1 when a bar is missed. Python's standard library only.
"""
import argparse
import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "train"))
import bpe  # noqa: E402
import tasks  # noqa: E402

BARS = {"recall@50": 95, "recall@200": 95, "recall@1000": 95, "recall@3000": 80, "arithmetic": 95, "copying": 98,
        "story": 90}


def ask(a, item, extra):
    command = [a.tandem, "run", "-m", a.model, "-p", "-", "--temp", "0", "-n", "300", "--stats", "none", "-t", "1"]
    if item["developer"]:
        command += ["--system", item["developer"]]
    done = subprocess.run(command + extra, input=item["prompt"], capture_output=True, text=True, timeout=120)
    if done.returncode:
        sys.exit(f"quality: {' '.join(command)}: status {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def main():
    argv, extra = sys.argv[1:], []
    if "--" in argv:
        cut = argv.index("--")
        argv, extra = argv[:cut], argv[cut + 1:]
    ap = argparse.ArgumentParser()
    ap.add_argument("tandem")
    ap.add_argument("model")
    ap.add_argument("-n", type=int, default=200)
    ap.add_argument("-j", type=int, default=2)
    ap.add_argument("--seed", default="test")
    ap.add_argument("--tasks", default=",".join(tasks.TASKS))
    a = ap.parse_args(argv)
    tok, missed = bpe.Tokenizer(), []
    for task in a.tasks.split(","):
        items = [tasks.one(task, tok, f"{a.seed}/{task}/{i}") for i in range(a.n)]
        with ThreadPoolExecutor(a.j) as pool:
            texts = list(pool.map(lambda it: ask(a, it, extra), items))
        right = [tasks.right(*x) for x in zip(items, texts)]
        good = sum(right)
        error = math.sqrt(max(good, 1) * max(a.n - good, 1) / a.n) / a.n
        chance = sum(it["chance"] for it in items) / a.n
        bar = BARS.get(task)
        ok = bar is None or 100 * good >= bar * a.n
        print(f"{task:12s} {100 * good / a.n:6.1f} % +- {100 * error:.1f}  chance {100 * chance:.1f} %  n {a.n}" +
              ("" if bar is None else f"  bar {bar} %: {'met' if ok else 'MISSED'}"), flush=True)
        if not ok:
            missed.append(task)
            for it, text, r in zip(items, texts, right):
                if not r:
                    print(f"  asked ...{it['prompt'][-80:]!r}, wanted {it['answer']!r}, got {text.strip()!r}")
                    break
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
