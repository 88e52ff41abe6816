# SPDX-License-Identifier: MIT
"""Held-out tasks: prompts and what a right answer is, from words training never draws.

Each item is a dict: task, prompt (the user's message), developer (or None), answer (the final
text) and chance (the score of a guess that knows the format). Stories have no single answer:
theirs holds the words that must appear. Recall has cut: the tokens from the question to the end of
the rendered prompt.
"""
import random
import re

import text as T

RECALL = [50, 200, 1000, 3000]


def recall(tok, seed, distance):
    """One fact about a name, `distance` tokens before the question, among other facts."""
    r = random.Random(seed)
    s = T.Source(r, held_out=True)
    n_other = max(4, min(24, distance // 60))
    facts = T.facts(s, n_other + 1)
    target = facts[r.randrange(len(facts))]
    # At least three other names have the same attribute.
    for i, f in enumerate(facts):
        name, same = f[0], [g[0] for g in facts if g[1] == target[1]]
        if len(same) >= 4 or f[1] == target[1]:
            continue
        while name in same:
            name = s.name()
        facts[i] = (name, target[1], T.fact_value(s, target[1]))
    others = [f for f in facts if f is not target]
    n_before = 2 if distance > 100 else 3
    before = [T.fact_text(s, *f) for f in others[:n_before]]
    after = [T.fact_text(s, *f) for f in others[n_before:]]
    question = T.fact_question(s, *target[:2])
    used = sum(len(tok.encode(" " + x)) for x in after)
    while used < distance:
        x = T.filler(s)
        after.insert(r.randint(0, len(after)), x)
        used += len(tok.encode(" " + x))
    same = sum(1 for f in facts if f[1] == target[1])
    prompt = " ".join(before + [T.fact_text(s, *target)] + after + [question])
    # <|end|><|start|>assistant stands behind the question.
    return dict(task=f"recall@{distance}", prompt=prompt, developer=None, answer=T.fact_answer(*target),
                chance=1.0 / same, cut=len(tok.encode(" " + question)) + 3)


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
        w = item["prompt"].split()
        at = max(i for i, x in enumerate(w) if x in ("named", "called"))
        item["subject"] = [w[at + 1], w[at - 1]]
    elif task == "refusal":
        facts = T.facts(s, r.randint(1, 6))
        name = s.name()
        while name in [f[0] for f in facts]:
            name = s.name()
        attr = r.choice(T.ATTRS)
        item["prompt"] = " ".join([T.fact_text(s, *f) for f in facts] + [T.fact_question(s, name, attr)])
        item["answer"] = T.no_answer(name, attr)
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


def right(item, got):
    """Whether an answer is right: the wanted text; for a story, that it stays with its subject (the
    name in at least three sentences, the animal, no name nobody gave it) and comes to its end."""
    got = got.strip()
    if item["task"] != "story":
        return got == item["answer"]
    name, animal = item["subject"]
    sentences = [x.strip() for x in got.split(".") if x.strip()]
    known = set(re.findall(r"[A-Z][a-z]+", item["prompt"])) | STARTERS
    strange = [x for x in re.findall(r"[A-Z][a-z]+", got) if x not in known]
    return (got.endswith("The end.") and 5 <= len(sentences) <= 14 and animal in got and not strange
            and sum(name in x for x in sentences) >= 3 and len(set(sentences)) == len(sentences))


# Words a story's sentences may begin with.
STARTERS = set("Once In Every One Then It But At They And The".split())

TASKS = [f"recall@{d}" for d in RECALL] + ["arithmetic", "copying", "counting", "refusal", "instruction", "story"]
