# SPDX-License-Identifier: MIT
"""The generator's promises: the same seed gives the same text, what is held out is never trained
on and nothing else is asked, the answers are right, and the vocabulary is what the text needs."""
import hashlib
import os
import random
import re
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "train"))
import bpe  # noqa: E402
import chat  # noqa: E402
import tasks  # noqa: E402
import text as T  # noqa: E402

TOK = bpe.Tokenizer()
SHORT = [t for t in tasks.TASKS if t not in ("recall@1000", "recall@3000")]
# Words the generator writes by itself; a random word may well be one of them.
LISTS = set(re.findall(r"[a-z]+", " ".join(T.NOUNS + T.PIECES + T.ANIMALS + T.ADJ + T.FOOD + T.WEATHER + T.VERBS)))

# Of the first conversation below, by Python 3.11.
GOLDEN = "2ed29d9313cd13b3"


class Recorder(T.Source):
    """A source that remembers what it drew at random."""

    def __init__(self, *args, **named):
        super().__init__(*args, **named)
        self.drawn = set()

    def _split(self, draw):
        w = super()._split(draw)
        self.drawn.add(w)
        return w

    def sums(self):
        a, op, b = super().sums()
        self.drawn.add(f"{a}{op}{b}")
        return a, op, b


def drawn_in_training(seed, length, n):
    out = set()
    for i in range(n):
        m = chat.Maker(TOK, random.Random(f"{seed}/{i}"))
        m.s = Recorder(m.r)
        m.conversation(length)
        out |= m.s.drawn
    return out


def drawn_in_tests(n):
    """What held-out items draw; tasks.one makes its own source."""
    out, real = set(), T.Source
    sources = []

    def make(*args, **named):
        sources.append(Recorder(*args, **named))
        return sources[-1]

    T.Source = make
    try:
        for t in SHORT:
            for i in range(n):
                tasks.one(t, TOK, f"test/{t}/{i}")
    finally:
        T.Source = real
    for s in sources:
        out |= s.drawn
    return out


class Text(unittest.TestCase):
    def test_the_same_seed_gives_the_same_text(self):
        def conversations(seed):
            h = hashlib.sha256()
            for i in range(6):
                c = chat.Maker(TOK, random.Random(f"{seed}/{i}")).conversation(700)
                h.update(repr((c.ids, c.targets, c.weights)).encode())
            return h.hexdigest()

        def items(seed):
            return [tasks.one(t, TOK, f"{seed}/{t}/{i}") for t in SHORT for i in range(3)]

        self.assertEqual(conversations("1.0"), conversations("1.0"))
        self.assertNotEqual(conversations("1.0"), conversations("1.1"))
        self.assertEqual(items("test"), items("test"))
        self.assertNotEqual(items("test"), items("dev"))

    def test_other_versions_of_python_write_this_text_too(self):
        # A change here means: train again, or the results are not this generator's.
        c = chat.Maker(TOK, random.Random("golden")).conversation(300)
        self.assertEqual(hashlib.sha256(TOK.decode(c.ids).encode()).hexdigest()[:16], GOLDEN)

    def test_training_and_tests_share_no_random_word(self):
        train, test = drawn_in_training("1.0", 1000, 150), drawn_in_tests(60)
        self.assertGreater(len(train), 3000)
        self.assertGreater(len(test), 1000)
        self.assertEqual({w for w in train if T.held(w)}, set())
        self.assertEqual({w for w in test if not T.held(w)}, set())
        self.assertEqual(train & test, set())

    def test_what_is_asked_stands_in_no_training_text(self):
        # Not only not drawn: not there as a word either, but for words of the lists.
        asked = {w.lower() for w in drawn_in_tests(60) if w.isalpha() and len(w) > 4} - LISTS
        seen = set()
        for i in range(150):
            c = chat.Maker(TOK, random.Random(f"1.0/{i}")).conversation(1000)
            seen |= set(re.findall(r"[a-z]+", TOK.decode(c.ids).lower()))
        both = asked & seen
        self.assertEqual(both, set())

    def test_recall_is_as_far_and_as_hard_as_it_says(self):
        for distance in (50, 200, 1000):
            for i in range(20):
                x = tasks.one(f"recall@{distance}", TOK, f"test/recall@{distance}/{i}")
                name, attr, value = re.fullmatch(r"The (.+) of (\w+) is (\w+)\.", x["answer"]).group(2, 1, 3)
                said = [m for m in re.finditer(rf"The {attr} of (\w+) is (\w+)\.|(\w+)'s {attr} is (\w+)\.|"
                                               rf"Remember that the {attr} of (\w+) is (\w+)\.", x["prompt"])]
                of = {(m[1] or m[3] or m[5]): (m[2] or m[4] or m[6], m) for m in said}
                self.assertEqual(of[name][0], value)
                self.assertGreaterEqual(len(of), 4, "three others have the same attribute")
                self.assertAlmostEqual(x["chance"], 1 / len(of))
                rest = x["prompt"][of[name][1].end():]
                question = len(TOK.encode(rest)) - (x["cut"] - 3)
                self.assertGreaterEqual(question, distance)
                self.assertLess(question, distance + 40)

    def test_answers_are_right(self):
        s = T.Source(random.Random(1))
        for _ in range(300):
            _, steps, answer = T.arithmetic(s)
            a, op, b, c = re.fullmatch(r"(\d+) ([+-]) (\d+) = (\d+)", answer).groups()
            self.assertEqual(int(c), int(a) + int(b) if op == "+" else int(a) - int(b))
            last = re.search(r"([\d +-]+) = (\d+)\.$", steps)
            self.assertEqual(eval(last[1]), int(last[2]), steps)  # digits and signs only
            q, a = T.copying(s)
            self.assertTrue(q.endswith(": " + a))
            q, a = T.counting(s)
            if q.startswith("How many"):
                self.assertIn(str(len(q.split(": ")[1].split(", "))), a)
            else:
                n = [int(x) for x in re.findall(r"\d+", q)]
                got = [int(x) for x in re.findall(r"\d+", a)]
                self.assertEqual((got[0], got[-1], len(got)), (n[0], n[1], abs(n[0] - n[1]) + 1))

    def test_a_story_of_the_generator_is_right_and_others_are_not(self):
        for i in range(100):
            x = tasks.one("story", TOK, f"test/story/{i}")
            self.assertTrue(tasks.right(x, x["answer"]), x)
            name = x["subject"][0]
            self.assertFalse(tasks.right(x, x["answer"].replace(name, "Bobo")))
            self.assertFalse(tasks.right(x, x["answer"].removesuffix(" The end.")))
            self.assertFalse(tasks.right(x, ""))

    def test_tokens_come_back(self):
        for t in SHORT:
            x = tasks.one(t, TOK, f"test/{t}/0")
            self.assertEqual(TOK.decode(TOK.encode(x["prompt"])), x["prompt"])
        for word in ("Ärger", "naïve café", "日本", "\x00\x7f"):
            self.assertEqual(TOK.decode(TOK.encode(word)), word)


if __name__ == "__main__":
    unittest.main()
