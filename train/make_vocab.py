# SPDX-License-Identifier: MIT
"""Trains the byte-level BPE vocabulary on the generator's own text; writes vocab.json.

Random words would give a different split to every name, so they are counted as their syllables:
a name is then 2 to 4 tokens, one per syllable. Digits are never merged.
"""
import json
import os
import random
from collections import Counter

import bpe
import chat
import text as T

N_VOCAB = 2048


def corpus_words():
    """Pre-tokens and how often they count."""
    rng = random.Random(7)
    made = set()

    class Recorder(T.Source):
        def _split(self, draw):
            w = super()._split(draw)
            made.update((w, w.capitalize(), w.upper()))
            return w

    s = Recorder(rng)
    counts = Counter()
    texts = []
    for _ in range(3000):
        f = T.facts(s, 3)
        texts += [T.fact_text(s, *x) for x in f] + [T.fact_question(s, *x[:2]) for x in f]
        texts += [T.filler(s), *T.copying(s), *T.counting(s), *T.arithmetic(s), *T.story(s)]
    for q, a in T.CHAT:
        texts += [q, a, a.upper()] * 50
    for n in T.NOUNS:
        texts += [" " + n, n, n.capitalize()] * 5 + [" " + n.upper(), n.upper()] * 3
    for effort in ("low", "medium", "high"):
        texts += [chat.system_text("2026-11-22", effort)] * 100
    texts += ["system", "developer", "user", "assistant", "analysis", "commentary", "final", "# Instructions\n\n",
              "Answer in capital letters. Write all answers in capital letters. End every answer with the word "
              "Always end with the word Begin every answer with the word Always begin with the word",
              "I WAS NOT TOLD THAT. THERE ARE WORDS. THERE IS 1 WORD. Remember these facts. Read this text. "
              "I will remember that. I was not told that."] * 100
    for t in texts:
        for w in bpe.PATTERN.findall(t):
            if not any(ch.isdigit() for ch in w):
                counts[w] += 1
    for w in list(counts):
        bare = w.strip(" '").removesuffix("'s")
        # A random word can also be a common one ("the"): those come often.
        if (bare in made or bare.lower() in made) and counts[w] < 60:
            del counts[w]
    for syl in T.SYLLABLES:
        for form in (syl, " " + syl, " " + syl.capitalize(), syl.capitalize()):
            counts[form] = 400000 if form == syl else 100000
    return counts


def train():
    words = {tuple(bpe.to_chars(w)): n for w, n in corpus_words().items()}
    tokens = [bpe.BYTE[b] for b in range(256)]
    merges = []
    while len(tokens) < N_VOCAB - len(bpe.SPECIALS):
        pairs = Counter()
        for w, n in words.items():
            for p in zip(w, w[1:]):
                pairs[p] += n
        if not pairs:
            break
        best = min(pairs, key=lambda p: (-pairs[p], p))
        merges.append(best)
        if best[0] + best[1] not in tokens:
            tokens.append(best[0] + best[1])
        new = Counter()
        for w, n in words.items():
            out, i = [], 0
            while i < len(w):
                if i + 1 < len(w) and (w[i], w[i + 1]) == best:
                    out.append(w[i] + w[i + 1])
                    i += 2
                else:
                    out.append(w[i])
                    i += 1
            new[tuple(out)] += n
        words = new
    # Short of words: common letter groups fill the table.
    return tokens, merges


def main():
    tokens, merges = train()
    n_spare = N_VOCAB - len(tokens) - len(bpe.SPECIALS)
    tokens = tokens + [f"<|reserved_{i}|>" for i in range(n_spare)] + bpe.SPECIALS
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "vocab.json")
    with open(path, "w", encoding="utf-8") as f:
        json.dump({"tokens": tokens, "merges": merges}, f, ensure_ascii=False, separators=(",", ":"))
        f.write("\n")
    print(f"{len(tokens)} tokens, {len(merges)} merges, {n_spare} reserved: {path}")


if __name__ == "__main__":
    main()
