#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""How well `tandem plan` predicts `tandem bench` on this machine.

    bench/plan_bars.py TANDEM OUT_DIR [--round N]...   measure (round N alone: in several calls)
    bench/plan_bars.py TANDEM OUT_DIR --report         predict what lies there
    bench/plan_bars.py TANDEM OUT.json --calibrate [--shape N]...
                                                       measure data/engine.json anew (shape N alone:
                                                       added to what is there)

Each round is a probe and a bench, in turn, of three shapes that are not among those that
data/engine.json was measured with: a shared machine may be half as fast a minute later. Every row
is predicted from the probe before it alone, and again with one row of the round's first bench,
which then is not counted. Of each row the median of the rounds' errors counts. Wants a machine
that does nothing else. Python's standard library only.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys

TESTS = [
    ("a", "synth:gpt-oss-20b,layers=4,vocab=32768", "16,256", "12", "0,2048"),
    ("b", "synth:gpt-oss-120b,layers=2,experts=64,vocab=16384", "32,192", "12", "0,1024"),
    ("c", "synth:gpt-oss-20b,layers=6,hidden=1536,heads=24,kv-heads=4,head-dim=128,experts=12,"
          "top-k=3,vocab=24576", "48,320", "16", "0,3072"),
]
# Other shapes, sizes and depths than the tests'.
CALIBRATION = [
    ("synth:gpt-oss-20b,layers=2,vocab=65536", "8,64,512", "12", "0,1024,4096"),
    ("synth:gpt-oss-20b,layers=3,hidden=2048,heads=32,experts=16,top-k=2,vocab=12288",
     "8,128,512", "16", "0,4096"),
    ("synth:gpt-oss-20b,layers=3,experts=64,top-k=8,ff=1024,vocab=8192", "4,32,256", "12",
     "0,2048"),
    ("synth:gpt-oss-20b,layers=5,hidden=1024,heads=16,kv-heads=2,head-dim=128,experts=6,top-k=2,"
     "vocab=8192", "24,384", "16", "0,2048"),
]
# The row that the second prediction may know: writing, at depth 0, of the first shape.
KNOWN = ("a", 0, 12, 0)
FIELDS = ["cpu_info", "model_filename", "n_prompt", "n_gen", "n_depth", "n_ubatch", "median_ts",
          "machine_int8_ops_per_s", "machine_read_bytes_per_s", "machine_memory_bytes",
          "test_time", "build_commit"]
REPEAT = "3"


def run(*args):
    done = subprocess.run(args, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(args)}: {done.stderr.strip()}")
    return done.stdout


def bench(tandem, model, prompts, answers, depths):
    return json.loads(run(tandem, "bench", "-m", model, "-p", prompts, "-n", answers, "-d", depths,
                          "--fill", "noise", "-r", REPEAT, "-o", "json"))


def probe(tandem, path):
    run(tandem, "probe", "-o", path)
    with open(path, encoding="utf-8") as f:
        return json.load(f)["all_threads"]


def with_machine(rows, machine):
    """The machine as the probe has it, not the bench's own quick look."""
    for row in rows:
        row["machine_int8_ops_per_s"] = machine["int8_ops_per_s"]
        row["machine_read_bytes_per_s"] = machine["read_bytes_per_s"]
    return rows


def measure(tandem, folder, number):
    os.makedirs(folder, exist_ok=True)
    for name, *what in TESTS:
        base = os.path.join(folder, f"round{number}.{name}")
        machine = probe(tandem, f"{base}.probe.json")
        rows = bench(tandem, *what)
        with open(f"{base}.json", "w", encoding="utf-8") as f:
            json.dump(with_machine(rows, machine), f)


def calibrate(tandem, path, shapes):
    rows = []
    if shapes and os.path.exists(path):
        with open(path, encoding="utf-8") as f:
            rows = json.load(f)
    for number in shapes or range(len(CALIBRATION)):
        model, prompts, answers, depths = CALIBRATION[number]
        for depth in depths.split(","):
            machine = probe(tandem, f"{path}.probe")
            for row in with_machine(bench(tandem, model, prompts, answers, depth), machine):
                # The best, as the probe has it: others only ever take away.
                row["median_ts"] = row["max_ts"]
                rows.append({k: row[k] for k in FIELDS})
        os.remove(f"{path}.probe")
    with open(path, "w", encoding="utf-8") as f:
        f.write("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")
    print(f"{path}: {len(rows)} rows")


def key_of(name, row):
    return (name, row["tokens"] if row["test"] == "pp" else 0,
            row["tokens"] if row["test"] == "tg" else 0, row["depth"])


def predict(tandem, base, known):
    rows = {}
    for name, *_ in TESTS:
        extra = ["--measured", known] if known else []
        out = json.loads(run(tandem, "plan", "--validate", f"{base}.{name}.json", "--machines",
                             f"{base}.{name}.probe.json", *extra, "-o", "json"))
        rows.update({key_of(name, row): row for row in out["rows"]})
    return rows


def report(tandem, folder):
    rounds = sorted({f.split(".")[0] for f in os.listdir(folder) if f.endswith(".probe.json")})
    alone, one = {}, {}
    for name in rounds:
        base = os.path.join(folder, name)
        for key, row in predict(tandem, base, None).items():
            alone.setdefault(key, []).append(row)
        with open(f"{base}.{KNOWN[0]}.json", encoding="utf-8") as f:
            row = [r for r in json.load(f)
                   if (r["n_prompt"], r["n_gen"], r["n_depth"]) == KNOWN[1:]]
        with open(f"{base}.known", "w", encoding="utf-8") as f:
            json.dump(row, f)
        os.replace(f"{base}.known", f"{base}.known.json")
        for key, row in predict(tandem, base, f"{base}.known.json").items():
            if key != KNOWN:
                one.setdefault(key, []).append(row)
    print(f"{len(rounds)} rounds; per cent of error, median (smallest to largest)\n")
    print(f"{'shape':6} {'test':6} {'depth':>6} {'tok/s':>9}  {'probe alone':>22}  {'and one row':>22}")
    totals = [[], []]
    for key in sorted(alone):
        name, n_prompt, n_gen, depth = key
        texts = []
        for which, table in enumerate((alone, one)):
            errors = [100 * r["error"] for r in table.get(key, [])]
            if errors:
                totals[which].append(statistics.median(abs(e) for e in errors))
                texts.append(f"{statistics.median(errors):+6.1f} ({min(errors):+.1f} to {max(errors):+.1f})")
            else:
                texts.append("known")
        speed = statistics.median(r["measured"] for r in alone[key])
        test = f"pp{n_prompt:.0f}" if n_prompt else f"tg{n_gen:.0f}"
        print(f"{name:6} {test:6} {depth:6.0f} {speed:9.2f}  {texts[0]:>22}  {texts[1]:>22}")
    for what, errors, bar in (("probe alone", totals[0], 15), ("and one row", totals[1], 7)):
        print(f"\n{what}: median {statistics.median(errors):.1f} %, largest {max(errors):.1f} %, "
              f"{sum(e <= bar for e in errors)} of {len(errors)} within {bar} %")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("tandem")
    parser.add_argument("out")
    parser.add_argument("--round", type=int, action="append")
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--calibrate", action="store_true")
    parser.add_argument("--shape", type=int, action="append")
    args = parser.parse_args()
    if args.calibrate:
        calibrate(args.tandem, args.out, args.shape)
    elif args.report:
        report(args.tandem, args.out)
    else:
        for number in args.round or range(1, 6):
            measure(args.tandem, args.out, number)


if __name__ == "__main__":
    main()
