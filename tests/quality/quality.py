# SPDX-License-Identifier: MIT
"""Scores tandem-mini on the held-out tasks of train/tasks.py, and holds the score against the bars.

    quality.py BUILD [MODEL] [-n 200] [--n-relay 20] [--seed test] [--only PART,...]
        BUILD    folder with tandem and tests/answer_items
        MODEL    models/tandem-mini.gguf when not given; where that is not there yet: status 77

The model must not only answer: it must give the same answers for any chunk, beside other prompts,
through `tandem run`, with a cache that was moved from another session or read by a peer; within noise the same with
f32 keys and values and on every instruction set; and with the full layers' cache wiped beyond the
window it must be reduced to guessing. Prints Markdown tables. Python's standard library only.
"""
import argparse
import datetime
import json
import math
import os
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
sys.path.insert(0, os.path.join(ROOT, "train"))
import bpe  # noqa: E402
import tasks  # noqa: E402

BARS = {"recall@50": 95, "recall@200": 95, "recall@1000": 95, "recall@3000": 80, "arithmetic": 95, "copying": 98,
        "story": 90}
# What every variant answers. 3000 tokens a prompt are for the main run only.
SHORT = [t for t in tasks.TASKS if t != "recall@3000"]
N_VARIANT, N_CLI = 20, 3
RECALL = ["recall@50", "recall@1000"]
PARTS = ["score", "same", "relay", "kv", "isa", "wipe"]


class Bench:
    def __init__(self, a):
        self.a, self.tok = a, bpe.Tokenizer()
        self.answers = {}  # of the main run: id -> text
        self.failures = []

    def fail(self, sentence):
        print(f"FAILED: {sentence}", flush=True)
        self.failures.append(sentence)

    def items(self, names, n):
        return [dict(id=f"{t}/{i}", **tasks.one(t, self.tok, f"{self.a.seed}/{t}/{i}")) for t in names for i in range(n)]

    def ask(self, items, *options):
        """id -> text; None when this CPU lacks what the options ask for."""
        def part(some):
            lines = "".join(json.dumps(x) + "\n" for x in some)
            command = [os.path.join(self.a.build, "tests", "answer_items"), self.a.model, *options]
            return command, subprocess.run(command, input=lines, capture_output=True, text=True, encoding="utf-8")

        # Two processes: alternate items, so that both get as many long ones.
        n_jobs = min(os.cpu_count() or 1, 8)
        out = {}
        with ThreadPoolExecutor(n_jobs) as pool:
            for command, done in pool.map(part, [items[i::n_jobs] for i in range(n_jobs)]):
                if done.returncode == 77:
                    return None
                if done.returncode:
                    sys.exit(f"quality: {' '.join(command)}: status {done.returncode}: {done.stderr.strip()}")
                out.update((x["id"], x["text"]) for x in map(json.loads, done.stdout.splitlines()))
        if len(out) != len(items):
            sys.exit(f"quality: {len(items)} prompts, {len(out)} answers ({' '.join(options)})")
        return out

    def main_answers(self, items):
        """Those of the main run, asked for now if it has not had these items."""
        new = [x for x in items if x["id"] not in self.answers]
        if new:
            self.answers.update(self.ask(new))
        return self.answers


def rights(items, answers):
    return [tasks.right(x, answers[x["id"]]) for x in items]


def score_text(right):
    n, good = len(right), sum(right)
    # Never 0: none of n wrong still says only so much.
    error = math.sqrt(max(good, 1) * max(n - good, 1) / n) / n
    return f"{100 * good / n:.1f} % ± {100 * error:.1f}"


def chance_of(items):
    return sum(x["chance"] for x in items) / len(items)


def table(head, rows):
    widths = [max(len(str(r[i])) for r in [head, *rows]) for i in range(len(head))]
    def line(cells):
        return "| " + " | ".join(str(c).ljust(w) for c, w in zip(cells, widths)) + " |"
    print(line(head))
    print("|" + "|".join("-" * (w + 2) for w in widths) + "|")
    for r in rows:
        print(line(r))
    print(flush=True)


def by_task(items):
    out = {}
    for x in items:
        out.setdefault(x["task"], []).append(x)
    return out


def scores(b):
    """The bars."""
    items = b.items(b.a.tasks, b.a.n)
    answers = b.main_answers(items)
    rows = []
    for task, some in by_task(items).items():
        right = rights(some, answers)
        bar, percent = BARS.get(task), 100 * sum(right) / len(right)
        says = "" if bar is None else "met" if percent >= bar else "**missed**"
        rows.append([task, score_text(right), f"{100 * chance_of(some):.1f} %", len(some),
                     "" if bar is None else f"{bar} %", says])
    table(["task", "score", "chance", "n", "bar", ""], rows)
    for r in rows:
        if "missed" in r[5]:
            some = by_task(items)[r[0]]
            x = next(x for x, ok in zip(some, rights(some, answers)) if not ok)
            b.fail(f"{r[0]}: {r[1]}, not {r[4]}; asked ...{x['prompt'][-70:]!r}, wanted {x['answer'][-120:]!r}, "
                   f"got {answers[x['id']][-120:]!r}")


def compare(b, name, items, other, same_text):
    """A variant's answers with the main run's: the same, or as many right within noise."""
    main = b.main_answers(items)
    n_same = sum(other[x["id"]] == main[x["id"]] for x in items)
    ours, theirs = rights(items, main), rights(items, other)
    # The same items: only those count that one got right and the other did not; if nothing but
    # chance decides between the two, their difference has this variance.
    won = sum(t and not o for o, t in zip(ours, theirs))
    lost = sum(o and not t for o, t in zip(ours, theirs))
    if same_text and n_same != len(items):
        x = next(x for x in items if other[x["id"]] != main[x["id"]])
        b.fail(f"{name}: {len(items) - n_same} of {len(items)} answers differ; {x['id']}: "
               f"{other[x['id']]!r}, not {main[x['id']]!r}")
    if abs(won - lost) > 3 * math.sqrt(won + lost):
        b.fail(f"{name}: {won} answers better and {lost} worse: more than noise")
    return [name, len(items), n_same, score_text(ours), score_text(theirs),
            "the same text" if same_text else "within noise"]


def relay(b):
    """Prompts that `tandem prefill` reads: with f16 on the wire the same text, with q8_0 as good."""
    items = b.items([t for t in b.a.tasks if t.startswith("recall")], min(b.a.n, b.a.n_relay))
    command = [os.path.join(b.a.build, "tandem"), "prefill", "-m", b.a.model, "--listen", "127.0.0.1:0", "--ctx", "4096",
               "--slots", "16", "-t", "1"]
    rows = []
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, encoding="utf-8") as there:
        try:
            lines = iter(there.stderr.readline, "")
            where = next((re.search(r"listening on (\S+),", x) for x in lines if x.startswith("listening on ")), None)
            if not where:
                sys.exit("quality: `tandem prefill` did not start")
            drain = threading.Thread(target=there.stderr.read, daemon=True)
            drain.start()
            for kind in ("f16", "q8_0"):
                other = b.ask(items, "--relay", where[1], "--kv-wire", kind)
                rows.append(compare(b, f"read by a peer, {kind} on the wire", items, other, kind == "f16"))
        finally:
            there.terminate()
    return rows


HEAD = ["variant", "n", "same text", "score without", "score with", "bar"]


def same(b):
    """What must not change a letter."""
    items = b.items(SHORT, N_VARIANT)
    recall = b.items(RECALL, N_VARIANT)
    rows = [compare(b, "one prompt at a time", items, b.ask(items, "--sessions", "1"), True),
            compare(b, "token by token (chunk 1)", items, b.ask(items, "--sessions", "1", "--chunk", "1"), True),
            compare(b, "chunk 100", items, b.ask(items, "--chunk", "100"), True),
            compare(b, "KV moved to another session", recall, b.ask(recall, "--move"), True)]
    rows.append(command_line(b))
    return rows


def command_line(b):
    """`tandem run` dates its system message with today: so must the answers it is held against."""
    items = b.items(SHORT, N_CLI)

    def run(x):
        command = [os.path.join(b.a.build, "tandem"), "run", "-m", b.a.model, "-p", "-", "--temp", "0", "-n", "300",
                   "--stats", "none", "-t", "1"] + (["--system", x["developer"]] if x["developer"] else [])
        done = subprocess.run(command, input=x["prompt"], capture_output=True, text=True, encoding="utf-8")
        if done.returncode:
            sys.exit(f"quality: {' '.join(command)}: status {done.returncode}: {done.stderr.strip()}")
        return x["id"], done.stdout.rstrip("\n")

    day = None
    while day != datetime.date.today():  # again when it went on over midnight
        day = datetime.date.today()
        with ThreadPoolExecutor(2) as pool:
            shown = dict(pool.map(run, items))
    dated = Bench(b.a)
    dated.failures = b.failures
    dated.answers = {i: t.rstrip("\n") for i, t in b.ask(items, "--date", str(day)).items()}
    return compare(dated, "tandem run", items, shown, True)


def kv(b):
    items = b.items(SHORT, max(N_VARIANT, min(b.a.n, 50)))
    return [compare(b, "KV in f32", items, b.ask(items, "--kv", "f32"), False)]


def isas(b):
    """Every instruction set of this CPU but the main run's."""
    version = subprocess.run([os.path.join(b.a.build, "tandem"), "--version"], capture_output=True, text=True).stdout
    rows, missing = [], []
    items = b.items(SHORT, N_VARIANT)
    for isa in ("generic", "avx2", "avx512", "neon"):
        if version.split("kernels: ")[1].split(",")[0] == isa:
            continue
        other = b.ask(items, "--isa", isa)
        if other is None:
            missing.append(isa)
        else:
            rows.append(compare(b, isa, items, other, True))
    if missing:
        print(f"not tested, this CPU lacks it: {', '.join(missing)}\n")
    return rows


def wipe(b):
    """The control: what recall beyond the window rests on is the full layers' cache."""
    rows = []
    for task in RECALL:
        items = b.items([task], b.a.n)
        near = task == "recall@50"
        right, wiped = rights(items, b.main_answers(items)), rights(items, b.ask(items, "--wipe"))
        chance, n = chance_of(items), len(items)
        noise = 3 * math.sqrt(chance * (1 - chance) / n)
        if near:
            lost = sum(o and not w for o, w in zip(right, wiped)) - sum(w and not o for o, w in zip(right, wiped))
            if lost > 0.1 * n + 3 * math.sqrt(sum(o != w for o, w in zip(right, wiped))):
                b.fail(f"{task}: wiping what the window does not reach lost {lost} of {n} answers within it")
        elif sum(wiped) / n > chance + noise:
            b.fail(f"{task}: still {score_text(wiped)} with the full layers' cache wiped, chance is {100 * chance:.1f} %")
        rows.append([task, score_text(right), score_text(wiped), f"{100 * chance:.1f} %", n,
                     "within the window: stays" if near else "beyond it: falls to chance"])
    table(["task", "score", "full layers wiped", "chance", "n", "bar"], rows)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("build")
    ap.add_argument("model", nargs="?")
    ap.add_argument("-n", type=int, default=200)
    ap.add_argument("--n-relay", type=int, default=N_VARIANT, help="prompts of each recall task read by a peer")
    ap.add_argument("--seed", default="test")
    ap.add_argument("--tasks", default=",".join(tasks.TASKS))
    ap.add_argument("--only", default=",".join(PARTS))
    a = ap.parse_args()
    a.tasks, parts = a.tasks.split(","), a.only.split(",")
    if not a.model:
        a.model = os.path.normpath(os.path.join(ROOT, "models", "tandem-mini.gguf"))
        if not os.path.exists(a.model):
            print("NOT TESTED: models/tandem-mini.gguf is not there (train/run.sh makes it)")
            return 77
    b, t0 = Bench(a), time.time()
    if "score" in parts:
        scores(b)
    rows = [r for part, f in (("same", same), ("relay", relay), ("kv", kv), ("isa", isas)) if part in parts for r in f(b)]
    if rows:
        table(HEAD, rows)
    if "wipe" in parts:
        wipe(b)
    print(f"{time.time() - t0:.0f} s; {len(b.failures)} failed")
    return 1 if b.failures else 0


if __name__ == "__main__":
    sys.exit(main())
