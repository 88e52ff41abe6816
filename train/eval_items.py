# SPDX-License-Identifier: MIT
"""Held-out prompts for any program that can run the model, and the scorer of its answers.

    eval_items.py items [-n 200] [--seed test] [--tasks ...]   JSON lines: id, task, developer, prompt, ...
    eval_items.py score ITEMS ANSWERS                          ANSWERS: JSON lines with id and text

Needs no PyTorch. The score of a task is the share of right answers; chance is printed beside it.
"""
import argparse
import json
import math
import sys
from collections import defaultdict

import bpe
import tasks


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("what", choices=["items", "score"])
    ap.add_argument("files", nargs="*")
    ap.add_argument("-n", type=int, default=200)
    ap.add_argument("--seed", default="test")
    ap.add_argument("--tasks", default=",".join(tasks.TASKS))
    a = ap.parse_args()
    if a.what == "items":
        tok = bpe.Tokenizer()
        for task in a.tasks.split(","):
            for i in range(a.n):
                print(json.dumps(dict(id=f"{task}/{i}", **tasks.one(task, tok, f"{a.seed}/{task}/{i}"))))
        return
    items = {x["id"]: x for x in map(json.loads, open(a.files[0]))}
    texts = {x["id"]: x["text"] for x in map(json.loads, open(a.files[1]))}
    rows = defaultdict(list)
    for i, item in items.items():
        rows[item["task"]].append((tasks.right(item, texts.get(i, "")), item["chance"]))
    for task, r in rows.items():
        n, good = len(r), sum(ok for ok, _ in r)
        se = math.sqrt(max(good, 1) * max(n - good, 1) / n) / n
        print(f"{task:12s} {100 * good / n:6.1f} % +- {100 * se:.1f}  (chance {100 * sum(c for _, c in r) / n:.1f} %, n {n})")


if __name__ == "__main__":
    sys.exit(main())
