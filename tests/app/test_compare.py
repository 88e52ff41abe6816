#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""bench/compare.py tells a difference from noise, and says what it cannot compare.

    test_compare.py COMPARE.py [TANDEM MODEL]
"""
import copy
import json
import os
import random
import subprocess
import sys
import tempfile

compare = sys.argv[1]
n_failed = 0


def row(samples, **more):
    return {"n_prompt": 512, "n_gen": 0, "n_depth": 0, "samples_ns": samples,
            "logits_hash": "1", "n_ubatch": 512, "cpu_info": "a CPU", "precision": "default",
            **more}


def run(old, new, *flags):
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for name, rows in (("old", old), ("new", new)):
            paths.append(os.path.join(folder, name + ".json"))
            with open(paths[-1], "w", encoding="utf-8") as f:
                f.write(rows if isinstance(rows, str) else json.dumps(rows))
        p = subprocess.run([sys.executable, compare, *paths, *flags], capture_output=True,
                           text=True, check=False)
        return p.returncode, p.stdout, p.stderr


def expect(what, is_so, *shown):
    global n_failed
    if not is_so:
        n_failed += 1
        print("FAILED:", what, *shown, sep="\n  ")


rng = random.Random(7)


def noisy(ns, n, pct):
    return [ns * (1 + rng.uniform(-pct, pct) / 100) for _ in range(n)]


# Half as long is faster, twice as long is slower, whatever the noise of 5 %.
code, out, err = run([row(noisy(1e9, 7, 5))], [row(noisy(5e8, 7, 5))])
expect("twice the speed is faster", code == 0 and " faster" in out, out, err)
code, out, err = run([row(noisy(1e9, 7, 5))], [row(noisy(2e9, 7, 5))], "--fail")
expect("half the speed is slower, and --fail says so", code == 1 and "SLOWER" in out, out, err)
code, out, err = run([row(noisy(1e9, 7, 5))], [row(noisy(2e9, 7, 5))])
expect("without --fail it only reports", code == 0, out, err)

# The same distribution is noise nearly always: 95 % intervals of medians, 40 draws.
n_noise = sum(" noise" in run([row(noisy(1e9, 9, 10))], [row(noisy(1e9, 9, 10))])[1]
              for _ in range(40))
expect("noise is called noise", n_noise >= 34, n_noise)
# A difference of 3 % shows through 1 % of noise, not through 20 %.
code, out, err = run([row(noisy(1e9, 9, 0.5))], [row(noisy(0.97e9, 9, 0.5))])
expect("3 % through a spread of 0.5 %", " faster" in out, out)
spread = [1e9 * f for f in (0.8, 0.85, 0.9, 0.95, 1, 1.05, 1.1, 1.15, 1.2)]
code, out, err = run([row(spread)], [row([0.97 * t for t in spread])])
expect("3 % within a spread of 20 % is noise", " noise" in out, out)
# The same bytes give the same answer, and a run against itself has nothing to say.
a = [row(noisy(1e9, 6, 5))]
expect("deterministic", run(a, a)[1] == run(a, a)[1])
expect("against itself", run(a, a, "--fail")[0] == 0 and " noise" in run(a, a)[1])
expect("too few samples", "too few samples" in run([row([1e9] * 3)], [row([2e9] * 3)])[1])
# The same test twice in a file adds its samples.
two = [row([1e9] * 3), row([1e9] * 3)]
expect("runs in turn", " faster" in run(two, [row([5e8] * 3), row([5e8] * 3)])[1])

# What differs besides the time is said.
b = copy.deepcopy(a)
b[0]["n_ubatch"] = 1024
expect("another chunk", "chunk: 512 -> 1024" in run(a, b)[1])
b[0]["logits_hash"] = "2"
code, out, err = run(a, b, "--fail")
expect("other logits", code == 1 and "the logits differ: 1 -> 2" in out, out)
b[0]["precision"] = "high"
code, out, err = run(a, b, "--fail")
expect("other logits are due to the precision", code == 0 and "logits" not in out, out)
code, out, err = run(a, [row([1e9] * 6, n_prompt=0, n_gen=64, n_depth=8192)])
expect("tests of one side", "pp512: only in the old" in out and "tg64 @ d8192: only in the new" in out,
       out)

# What cannot be compared gets a sentence.
for bad, why in (("", "no JSON"), ("{}", "not a list"), ("[]", "no tests"), ("[{}]", "a test without"),
                 ("[3]", "a test without"), (json.dumps([row([])]), "no samples"),
                 (json.dumps([row(["x"])]), "a test without"), (json.dumps([row([0])]), "no samples"),
                 (json.dumps([row([float("nan")])]), "no samples")):
    code, out, err = run(bad, a)
    expect(f"'{bad[:20]}': {why}", code == 2 and why in err and err.count("\n") == 1, out, err)
p = subprocess.run([sys.executable, compare, "/nonexistent/a", "/b"], capture_output=True, text=True,
                   check=False)
expect("no file", p.returncode == 2 and "No such file" in p.stderr, p.stderr)

# What the program writes is what compare.py reads.
if len(sys.argv) > 3:
    made = subprocess.run([sys.argv[2], "bench", "-m", sys.argv[3], "-p", "8", "-n", "2", "-r", "5",
                           "-o", "json"], capture_output=True, text=True, check=False)
    code, out, err = run(made.stdout, made.stdout, "--fail")
    expect("bench's own output", code == 0 and out.count(" noise") == 2, out, err, made.stderr)

print("test_compare:", "failed" if n_failed else "ok")
sys.exit(1 if n_failed else 0)
