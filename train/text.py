# SPDX-License-Identifier: MIT
"""All the text tandem-mini learns from: words, sentences and tasks, made from a random.Random.

Random words are split in two by their checksum: training never draws a held-out word and the
evaluation draws nothing else. The same goes for pairs of numbers and for codes.
"""
import re
import zlib

CONSONANTS, VOWELS = "bdfghklmnprstvz", "aeiou"
SYLLABLES = [c + v for c in CONSONANTS for v in VOWELS]

ANIMALS = "fox cat dog bear mouse rabbit owl frog horse goat duck hen wolf deer turtle beaver hedgehog squirrel donkey swan".split()
ADJ = "small brave clever old young quiet happy kind curious lazy gentle shy proud busy friendly".split()
PLACES = ["the forest", "the old mill", "the mountains", "the big city", "the desert", "the valley",
          "the harbour", "the castle", "the garden", "the swamp", "the meadow", "the village",
          "the jungle", "the park", "the library", "the market", "the orchard", "the cave"]
OBJECTS = "key lamp hat drum bell ring map book cup basket kite scarf boat clock mirror shell coin flute ladder blanket".split()
FOOD = "bread soup apples honey cheese berries cake rice nuts plums".split()
COLOURS = "red blue green yellow white black brown pink orange purple grey golden".split()
WEATHER = "sunny rainy windy cold warm foggy stormy cloudy dry snowy".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
NOUNS = OBJECTS + ANIMALS + FOOD + COLOURS + (
    "house river tree stone road door window table chair garden bridge star moon sun cloud wind "
    "fire water earth snow leaf flower grass hill tower wall roof floor street train wheel paper "
    "pencil letter song dance game party friend child mother father sister brother teacher doctor "
    "baker farmer sailor king queen knight shoe coat glove pocket button thread silk wool iron "
    "silver glass wood sand salt sugar milk butter egg fish bird bee ant spider snake lion tiger").split()
PIECES = NOUNS + ADJ + WEATHER + (
    "alice bob charlie daniel emma frank george hannah ivan julia kevin laura michael nora oscar paula quentin "
    "robert sarah thomas ursula victor william xavier yvonne zoe london paris berlin madrid project meeting secret").split()
VERBS = "walked ran slept waited sang worked played rested danced looked".split()


def held(word):
    return zlib.crc32(word.encode()) % 8 == 0


class Source:
    """Draws words; `held_out` picks which half of the split they come from."""

    def __init__(self, rng, held_out=False):
        self.r, self.held_out = rng, held_out

    def _split(self, draw):
        while True:
            w = draw()
            if held(w) == self.held_out:
                return w

    def word(self, lo=2, hi=3):
        r = self.r
        return self._split(lambda: "".join(r.choice(SYLLABLES) for _ in range(r.randint(lo, hi))))

    def name(self):
        if self.r.random() < 0.1:
            return self.letters().capitalize()
        return self.word(2, 4 if self.r.random() < 0.3 else 3).capitalize()

    def letters(self, lo=3, hi=7):
        """A word that is not made of syllables: random letters, or pieces of other words."""
        r = self.r
        if r.random() < 0.5:
            def piece():
                w = r.choice(PIECES)
                n = r.randint(2, 4)
                at = r.randint(0, max(0, len(w) - n))
                return w[at:at + n]
            return self._split(lambda: "".join(piece() for _ in range(r.randint(1, 3))))
        return self._split(lambda: "".join(r.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(r.randint(lo, hi))))

    def digits(self, lo=3, hi=5):
        r = self.r
        return self._split(lambda: "".join(r.choice("0123456789") for _ in range(r.randint(lo, hi))))

    def noun(self):
        return self.r.choice(NOUNS)

    def place(self):
        if self.r.random() < 0.25:
            return "the " + self.r.choice(["town", "village", "land"]) + " of " + self.name()
        return self.r.choice(PLACES)

    def sums(self):
        r = self.r
        while True:
            a, b, op = r.randint(0, 99), r.randint(0, 99), r.choice("+-")
            if op == "-" and b > a:
                a, b = b, a
            if held(f"{a}{op}{b}") == self.held_out:
                return a, op, b


# ---------------------------------------------------------------- facts

def fact_value(s, attr):
    if attr in ("code", "number"):
        return s.digits(4, 5) if attr == "code" else s.digits(2, 3)
    if attr in ("password", "secret word"):
        return s.word(2, 3) if s.r.random() < 0.85 else s.letters(4, 6)
    if attr in ("town", "friend"):
        return s.name()
    if attr == "colour":
        return s.r.choice(COLOURS)
    return s.r.choice(ANIMALS)


ATTRS = ["code", "password", "town", "friend", "colour", "number", "secret word", "pet"]


def fact_text(s, name, attr, value):
    k = s.r.random()
    if k < 0.6:
        return f"The {attr} of {name} is {value}."
    if k < 0.9:
        return f"{name}'s {attr} is {value}."
    return f"Remember that the {attr} of {name} is {value}."


def fact_question(s, name, attr):
    k = s.r.random()
    if k < 0.6:
        return f"What is the {attr} of {name}?"
    if k < 0.9:
        return f"What is {name}'s {attr}?"
    return f"Tell me the {attr} of {name}."


def fact_answer(name, attr, value):
    return f"The {attr} of {name} is {value}."


def no_answer(name, attr):
    # Said where the value would stand: there the search for it has come back empty.
    return f"The {attr} of {name} is not known to me."


def facts(s, n):
    """n different (name, attr, value); some names carry more than one fact."""
    out, names, seen = [], [], set()
    # Often the same attribute of many names: then only the name tells the facts apart.
    attrs = s.r.sample(ATTRS, s.r.choice([1, 2, 3, 8]))
    while len(out) < n:
        name = s.r.choice(names) if names and s.r.random() < 0.3 else s.name()
        attr = s.r.choice(attrs)
        if (name, attr) in seen:
            continue
        if name not in names:
            names.append(name)
        seen.add((name, attr))
        out.append((name, attr, fact_value(s, attr)))
    return out


def an(text):
    return re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text)


def filler(s):
    return an(_filler(s))


def _filler(s):
    r = s.r
    c = r.choice
    k = r.randrange(12)
    if k == 0: return f"The {c(ADJ)} {c(ANIMALS)} {c(VERBS)} near {c(PLACES)}."
    if k == 1: return f"It was {c(WEATHER)} in {c(PLACES)} on {c(DAYS)}."
    if k == 2: return f"A {c(ANIMALS)} ate some {c(FOOD)} and {c(VERBS)}."
    if k == 3: return f"There is a {c(COLOURS)} {c(OBJECTS)} behind the {c(NOUNS)}."
    if k == 4: return f"Nobody knows who left the {c(OBJECTS)} in {c(PLACES)}."
    if k == 5: return f"On {c(DAYS)} the {c(NOUNS)} was {c(ADJ)} and the {c(NOUNS)} was {c(COLOURS)}."
    if k == 6: return f"Many people like {c(FOOD)} with {c(FOOD)}."
    if k == 7: return f"The {c(NOUNS)} and the {c(NOUNS)} are old."
    if k == 8: return f"Later the {c(ANIMALS)} found a {c(OBJECTS)} and went home."
    if k == 9: return f"In the evening it was {c(WEATHER)} again."
    if k == 10: return f"Then {s.name()} {c(VERBS)} all day."
    return f"Two {c(NOUNS)} games are better than one, said the {c(ADJ)} {c(ANIMALS)}."


# ---------------------------------------------------------------- the other tasks

def arithmetic(s):
    """(question, analysis, answer)"""
    a, op, b = s.sums()
    res = a + b if op == "+" else a - b
    q = s.r.choice(["What is {}?", "What is {}?", "Calculate {}.", "{} = ?", "How much is {}?"]).format(f"{a} {op} {b}")
    a1, a0, b1, b0 = a // 10, a % 10, b // 10, b % 10
    if op == "+":
        x = a0 + b0
        steps = f"{a0} + {b0} = {x}, "
        steps += f"carry 1. {a1} + {b1} + 1 = {a1 + b1 + 1}." if x > 9 else f"no carry. {a1} + {b1} = {a1 + b1}."
    else:
        if a0 < b0:
            steps = f"{a0} < {b0}, borrow 1. 1{a0} - {b0} = {a0 + 10 - b0}. {a1} - {b1} - 1 = {a1 - b1 - 1}."
        else:
            steps = f"{a0} - {b0} = {a0 - b0}, no borrow. {a1} - {b1} = {a1 - b1}."
    return q, steps, f"{a} {op} {b} = {res}"


def copying(s):
    """(question, answer)"""
    r = s.r
    k = r.random()
    n = r.randint(2, 10)
    if k < 0.35:
        t = " ".join(s.word() for _ in range(n))
    elif k < 0.5:
        t = " ".join(s.letters() for _ in range(r.randint(1, 3)))
    elif k < 0.65:
        t = " ".join(s.digits(2, 6) for _ in range(r.randint(1, 3)))
    elif k < 0.85:
        t = " ".join(r.choice([s.word, s.noun, s.name, s.digits])() for _ in range(n))
    else:
        t = " ".join(s.noun() for _ in range(n))
    return r.choice(["Repeat exactly: {}", "Repeat exactly: {}", "Copy this: {}", "Say: {}"]).format(t), t


def counting(s):
    r = s.r
    k = r.random()
    if k < 0.4:
        a = r.randint(0, 30)
        b = a + r.randint(1, 9)
        return f"Count from {a} to {b}.", ", ".join(str(i) for i in range(a, b + 1)) + "."
    if k < 0.6:
        a = r.randint(0, 20)
        b = a + r.randint(1, 8)
        return f"Count down from {b} to {a}.", ", ".join(str(i) for i in range(b, a - 1, -1)) + "."
    n = r.randint(1, 8)
    t = ", ".join((s.noun() if r.random() < 0.7 else s.word()) for _ in range(n))
    return f"How many words are in this list: {t}?", "There is 1 word." if n == 1 else f"There are {n} words."


CHAT = [("Hello!", "Hello! How can I help you?"), ("Hi", "Hello! How can I help you?"),
        ("Who are you?", "I am tandem-mini, a very small language model."),
        ("What is your name?", "My name is tandem-mini."),
        ("What can you do?", "I can tell short stories, add and subtract, count, copy, and remember what you tell me."),
        ("Thank you!", "You are welcome!"), ("Thanks", "You are welcome!"),
        ("How are you?", "I am fine, thank you."), ("Good morning", "Good morning! How can I help you?"),
        ("Goodbye", "Goodbye! Come back soon."), ("OK", "What else can I do for you?")]


def story(s):
    """(question, answer)"""
    r = s.r
    c = r.choice
    animal, name, place = c(ANIMALS), s.name(), s.place()
    q = c([f"Tell me a story about a {animal} named {name} in {place}.",
           f"Tell me a short story about a {animal} named {name} in {place}.",
           f"Write a short story about a {animal} named {name} who lives in {place}.",
           f"Write a story about a {animal} called {name} in {place}."])
    adj, friend = c(ADJ), c([a for a in ANIMALS if a != animal])
    obj, food = c(OBJECTS), c(FOOD)
    open_ = c([f"Once upon a time there was a {adj} {animal} named {name} who lived in {place}.",
               f"In {place} lived a {adj} {animal} named {name}."])
    habit = c([f"Every morning {name} ate {food} and {c(VERBS)} until noon.",
               f"{name} liked {food} more than anything else.",
               f"{name} was known by everyone for being {adj}."])
    k = r.randrange(4)
    if k == 0:
        colour = c(COLOURS)
        mid = [f"One day {name} lost a {colour} {obj}.",
               f"{name} looked under the trees and behind the stones, but the {obj} was gone.",
               f"Then a {friend} came and said that the {obj} was in the river.",
               f"{name} and the {friend} ran to the river and found the {colour} {obj}."]
    elif k == 1:
        mid = [f"One night a storm came to {place}, and a {friend} had nowhere to go.",
               f"{name} opened the door and gave the {friend} some {food}.",
               f"In the morning the sun was shining, and the {friend} gave {name} a {obj}.",
               f"{name} never forgot that night."]
    elif k == 2:
        mid = [f"One day {name} found an old map that showed the way to a golden {obj}.",
               f"{name} asked a {friend} to come along, and they walked for three days.",
               f"At last they found the golden {obj} behind a waterfall.",
               f"They carried it home to {place} and showed it to everyone."]
    else:
        mid = [f"One day {name} wanted to learn how to play the {obj}.",
               f"It was hard, and the others laughed.",
               f"But a {friend} helped {name} every day.",
               f"In the summer {name} played in front of everyone in {place}, and nobody laughed."]
    end = c([f"{name} and the {friend} were friends from that day on.", f"{name} was very happy.",
             f"And so {name} and the {friend} lived happily in {place}."])
    return an(q), an(" ".join([open_, habit, *mid, end, "The end."]))
