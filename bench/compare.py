#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Says which differences between two results of `tandem bench -o json` exceed the noise.

    bench/compare.py OLD.json NEW.json [--least PCT] [--fail]

Tests are matched by prompt, answer and depth. The samples of each test give an interval for the
ratio of the medians, by resampling; a difference counts when that interval leaves out 1 and the
ratio is at least --least per cent away from it (default 1). Less than five samples on a side never
count. Results of another machine, model, precision or chunk are named, since they explain more than
any change of the program. Needs nothing but Python's standard library.

Exit code: 0; 1 with --fail when something became slower beyond the noise or logits changed; 2 when
the files cannot be compared.
"""
import argparse
import json
import random
import statistics
import sys

LEAST_SAMPLES = 5
N_RESAMPLES = 4000
# What must agree for times to be comparable, and how to call it.
SETTINGS = [("cpu_info", "CPU"), ("n_threads", "threads"), ("isa", "instruction set"),
            ("model_digest", "model"), ("precision", "precision"), ("type_k", "KV type"),
            ("n_ubatch", "chunk")]


class Mistake(Exception):
    pass


def load(path):
    try:
        with open(path, encoding="utf-8") as f:
            rows = json.load(f)
    except OSError as e:
        raise Mistake(f"{path}: {e.strerror}") from e
    except ValueError as e:
        raise Mistake(f"{path}: no JSON ({e})") from e
    tests = {}
    if not isinstance(rows, list):
        raise Mistake(f"{path}: not a list of tests; write it with tandem bench -o json")
    for row in rows:
        try:
            key = (int(row["n_prompt"]), int(row["n_gen"]), int(row["n_depth"]))
            samples = [float(t) for t in row["samples_ns"]]
        except (KeyError, TypeError, ValueError) as e:
            raise Mistake(f"{path}: a test without n_prompt, n_gen, n_depth or samples_ns") from e
        if not samples or not all(0 < t < float("inf") for t in samples):
            raise Mistake(f"{path}: {name_of(key)} has no samples")
        if key in tests:
            # The same test again: more samples of it, as from runs in turn.
            tests[key][1].extend(samples)
        else:
            tests[key] = (row, samples)
    if not tests:
        raise Mistake(f"{path}: no tests in it")
    return tests


def name_of(key):
    n_prompt, n_gen, depth = key
    name = f"pp{n_prompt}" if n_prompt else f"tg{n_gen}"
    return f"{name} @ d{depth}" if depth else name


def interval(old, new, rng):
    """95 % interval of (speed of new / speed of old), by resampling both sides' medians."""
    ratios = []
    for _ in range(N_RESAMPLES):
        a = statistics.median(rng.choices(old, k=len(old)))
        b = statistics.median(rng.choices(new, k=len(new)))
        ratios.append(a / b)
    ratios.sort()
    return ratios[int(0.025 * N_RESAMPLES)], ratios[int(0.975 * N_RESAMPLES) - 1]


def verdict(old, new, low, high, ratio, least_pct):
    if min(len(old), len(new)) < LEAST_SAMPLES:
        return "too few samples"
    if low <= 1 <= high or abs(ratio - 1) * 100 < least_pct:
        return "noise"
    return "faster" if ratio > 1 else "SLOWER"


def spread(samples):
    middle = statistics.median(samples)
    return 100 * statistics.median(abs(t - middle) for t in samples) / middle


def differing(old, new):
    found = []
    for field, name in SETTINGS:
        a, b = old.get(field), new.get(field)
        if a is not None and b is not None and a != b:
            found.append(f"{name}: {a} -> {b}")
    return found


def compare(old_tests, new_tests, least_pct, out):
    rng = random.Random(1)  # the same answer each time
    n_bad = 0
    notes = []
    print(f"{'test':<18} {'old tok/s':>10} {'new tok/s':>10} {'change':>9}  {'95 % of it':>17}  "
          f"{'spread':>13}  verdict", file=out)
    for key, (old_row, old) in old_tests.items():
        if key not in new_tests:
            notes.append(f"{name_of(key)}: only in the old results")
            continue
        new_row, new = new_tests[key]
        n_tokens = key[0] or key[1]
        ratio = statistics.median(old) / statistics.median(new)
        low, high = interval(old, new, rng)
        what = verdict(old, new, low, high, ratio, least_pct)
        n_bad += what == "SLOWER"
        print(f"{name_of(key):<18} {n_tokens * 1e9 / statistics.median(old):>10.2f} "
              f"{n_tokens * 1e9 / statistics.median(new):>10.2f} {100 * (ratio - 1):>+8.1f}%  "
              f"{100 * (low - 1):>+7.1f}% {100 * (high - 1):>+7.1f}%  "
              f"{spread(old):>5.1f}% {spread(new):>5.1f}%  {what}", file=out)
        for text in differing(old_row, new_row):
            if text not in notes:
                notes.append(text)
        same = not any(t.startswith(("model:", "precision:", "KV type:")) for t in notes)
        if same and old_row.get("logits_hash") != new_row.get("logits_hash"):
            notes.append(f"{name_of(key)}: the logits differ: {old_row.get('logits_hash')} -> "
                         f"{new_row.get('logits_hash')}")
            n_bad += 1
    for key in new_tests:
        if key not in old_tests:
            notes.append(f"{name_of(key)}: only in the new results")
    for text in notes:
        print(f"note: {text}", file=out)
    return n_bad


def main():
    parser = argparse.ArgumentParser(
        description="Says which differences between two results of tandem bench -o json exceed "
                    "the noise.")
    parser.add_argument("old")
    parser.add_argument("new")
    parser.add_argument("--least", type=float, default=1.0, metavar="PCT",
                        help="differences below this many per cent count as noise (default 1)")
    parser.add_argument("--fail", action="store_true",
                        help="exit with 1 when something is slower or logits changed")
    args = parser.parse_args()
    try:
        n_bad = compare(load(args.old), load(args.new), args.least, sys.stdout)
    except Mistake as e:
        print(f"compare.py: {e}", file=sys.stderr)
        return 2
    return 1 if args.fail and n_bad else 0


if __name__ == "__main__":
    sys.exit(main())
