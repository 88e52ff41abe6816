# SPDX-License-Identifier: MIT
"""Held-out tasks: prompts and what a right answer is, from words training never draws.

Each item is a dict: task, prompt (the user's message), developer (or None), answer (the final
text) and chance (the score of a guess that knows the format). Stories have no single answer:
theirs holds the words that must appear.
"""
import random

import text as T

RECALL = [50, 200, 1000, 3000]


def recall(tok, seed, distance):
    """One fact about a name, `distance` tokens before the question, among other facts."""
    r = random.Random(seed)
    s = T.Source(r, held_out=True)
    n_other = max(3, min(24, distance // 60))
    facts = T.facts(s, n_other + 1)
    target = facts[r.randrange(len(facts))]
    others = [f for f in facts if f is not target]
    before = [T.fact_text(s, *f) for f in others[:2]]
    after = [T.fact_text(s, *f) for f in others[2:]]
    question = T.fact_question(s, *target[:2])
    used = sum(len(tok.encode(" " + x)) for x in after)
    while used < distance:
        x = T.filler(s)
        after.insert(r.randint(0, len(after)), x)
        used += len(tok.encode(" " + x))
    same = sum(1 for f in facts if f[1] == target[1])
    prompt = " ".join(before + [T.fact_text(s, *target)] + after + [question])
    return dict(task=f"recall@{distance}", prompt=prompt, developer=None, answer=T.fact_answer(*target),
                chance=1.0 / same)


def one(task, tok, seed):
    if task.startswith("recall@"):
        return recall(tok, seed, int(task[7:]))
    r = random.Random(seed)
    s = T.Source(r, held_out=True)
    item = dict(task=task, developer=None, chance=0.0)
    if task == "arithmetic":
        item["prompt"], item["analysis"], item["answer"] = T.arithmetic(s)
        item["chance"] = 0.005
    elif task == "copying":
        item["prompt"], item["answer"] = T.copying(s)
    elif task == "counting":
        item["prompt"], item["answer"] = T.counting(s)
    elif task == "story":
        item["prompt"], item["answer"] = T.story(s)
    elif task == "refusal":
        facts = T.facts(s, r.randint(1, 6))
        name = s.name()
        while name in [f[0] for f in facts]:
            name = s.name()
        item["prompt"] = " ".join([T.fact_text(s, *f) for f in facts] + [T.fact_question(s, name, r.choice(T.ATTRS))])
        item["answer"] = T.NO_ANSWER
    elif task == "instruction":
        w = s.word()
        end = r.random() < 0.5
        item["developer"] = (r.choice(["End every answer with the word {}.", "Always end with the word {}."]) if end else
                             r.choice(["Begin every answer with the word {}.", "Always begin with the word {}."])).format(w)
        q, a = T.copying(s)
        item["prompt"], item["answer"] = q, f"{a} {w}" if end else f"{w} {a}"
    else:
        raise ValueError(task)
    return item


TASKS = [f"recall@{d}" for d in RECALL] + ["arithmetic", "copying", "counting", "refusal", "instruction", "story"]
