# SPDX-License-Identifier: MIT
"""Byte-level BPE as GGUF's gpt2 model with the gpt-4o pre-tokenizer reads it."""
import json
import os

# Pre-tokenizer of o200k (openai/tiktoken, tiktoken_ext/openai_public.py). Without the regex module
# (the tests do not need it) only ASCII is split rightly, which is all the generator writes.
try:
    import regex
    _UP, _LOW = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
    _LETTER, _DIGIT = r"\p{L}", r"\p{N}"
except ImportError:
    import re as regex
    _UP, _LOW, _LETTER, _DIGIT = "A-Z", "a-z", "A-Za-z", "0-9"
_SUF = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
PATTERN = regex.compile("|".join([
    rf"[^\r\n{_LETTER}{_DIGIT}]?[{_UP}]*[{_LOW}]+{_SUF}",
    rf"[^\r\n{_LETTER}{_DIGIT}]?[{_UP}]+[{_LOW}]*{_SUF}",
    rf"[{_DIGIT}]{{1,3}}",
    rf" ?[^\s{_LETTER}{_DIGIT}]+[\r\n/]*",
    r"\s*[\r\n]+",
    r"\s+(?!\S)",
    r"\s+",
]))

SPECIALS = ["<|startoftext|>", "<|endoftext|>", "<|return|>", "<|constrain|>", "<|channel|>",
            "<|start|>", "<|end|>", "<|message|>", "<|call|>", "<|endofprompt|>"]


def byte_chars():
    """GPT-2's printable stand-in for each byte."""
    keep = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table, extra = {}, 0
    for b in range(256):
        if b in keep:
            table[b] = chr(b)
        else:
            table[b] = chr(256 + extra)
            extra += 1
    return table


BYTE = byte_chars()
UNBYTE = {c: b for b, c in BYTE.items()}


def to_chars(text):
    return "".join(BYTE[b] for b in text.encode("utf-8"))


class Tokenizer:
    def __init__(self, path=None):
        path = path or os.path.join(os.path.dirname(os.path.abspath(__file__)), "vocab.json")
        with open(path, encoding="utf-8") as f:
            v = json.load(f)
        self.tokens, self.merges = v["tokens"], [tuple(m) for m in v["merges"]]
        self.rank = {m: i for i, m in enumerate(self.merges)}
        self.id = {t: i for i, t in enumerate(self.tokens)}
        self.special = {s: self.id[s] for s in SPECIALS}
        self.cache = {}

    def _word(self, word):
        parts = list(to_chars(word))
        while len(parts) > 1:
            ranks = [self.rank.get(p, 1 << 30) for p in zip(parts, parts[1:])]
            best = min(ranks)
            if best == 1 << 30:
                break
            i = ranks.index(best)
            parts[i:i + 2] = [parts[i] + parts[i + 1]]
        return [self.id[p] for p in parts]

    def encode(self, text):
        out = []
        for word in PATTERN.findall(text):
            ids = self.cache.get(word)
            if ids is None:
                ids = self._word(word)
                if len(self.cache) < 200000:
                    self.cache[word] = ids
            out += ids
        return out

    def decode(self, ids):
        out = b""
        for i in ids:
            t = self.tokens[i]
            out += t.encode() if t in self.special else bytes(UNBYTE[c] for c in t)
        return out.decode("utf-8", "replace")
