# SPDX-License-Identifier: MIT
"""Conversations in the harmony format, as tokens, targets and loss weights.

A conversation is cut at the length asked for. Harmony drops past reasoning from the history and
ends past answers with <|end|> where the model wrote <|return|>: targets say the second, tokens
the first.
"""
import text as T

IDENTITY = "You are ChatGPT, a large language model trained by OpenAI."
CHANNELS = ("# Valid channels: analysis, commentary, final. "
            "Channel must be included for every message.")
W_HEAD = 0.2  # <|channel|>final<|message|> is nearly free to predict


def system_text(date, effort, identity=IDENTITY, cutoff="2024-06"):
    return (f"{identity}\nKnowledge cutoff: {cutoff}\n" + (f"Current date: {date}\n" if date else "") +
            f"\nReasoning: {effort}\n\n{CHANNELS}")


class Conversation:
    def __init__(self, tok):
        self.tok = tok
        self.ids, self.targets, self.weights = [], [], []

    def text(self, s, w=0.0):
        ids = self.tok.encode(s)
        self.ids += ids
        self.targets += ids
        self.weights += [w] * len(ids)

    def special(self, s, w=0.0, target=None):
        self.ids.append(self.tok.special[s])
        self.targets.append(self.tok.special[target or s])
        self.weights.append(w)

    def message(self, role, content):
        self.special("<|start|>")
        self.text(role)
        self.special("<|message|>")
        self.text(content)
        self.special("<|end|>")

    def ask(self, question):
        self.message("user", question)
        self.special("<|start|>")
        self.text("assistant")

    def answer(self, final, analysis=None, w=1.0, w_channel=W_HEAD):
        if analysis:
            self.special("<|channel|>", W_HEAD)
            self.text("analysis", W_HEAD)
            self.special("<|message|>", W_HEAD)
            self.text(analysis, w)
            self.special("<|end|>", W_HEAD)
            self.special("<|start|>", W_HEAD)
            self.text("assistant", W_HEAD)
            w_channel = W_HEAD
        self.special("<|channel|>", W_HEAD)
        self.text("final", w_channel)
        self.special("<|message|>", W_HEAD)
        self.text(final, w)
        self.special("<|end|>", w, target="<|return|>")


def date(r):
    return f"{r.randint(2024, 2030)}-{r.randint(1, 12):02d}-{r.randint(1, 28):02d}"


class Maker:
    """Endless training conversations. mix: relative frequency of tasks."""

    MIX = {"recall": 5, "arithmetic": 4, "copying": 2, "counting": 1, "story": 1, "chat": 0.3, "tell": 0.4}

    def __init__(self, tok, rng, p_system=0.5, mix=None):
        self.tok, self.r = tok, rng
        self.s = T.Source(rng)
        self.p_system = p_system
        self.mix = mix or self.MIX

    def decorate(self, rule, text):
        if rule is None:
            return text
        kind, w = rule
        if kind == "end":
            return text + " " + w
        if kind == "begin":
            return w + " " + text
        return text.upper()

    def conversation(self, length):
        r, s = self.r, self.s
        c = Conversation(self.tok)
        effort = r.choice(["low", "medium", "medium", "high"])
        rule = None
        if r.random() < self.p_system:
            c.message("system", system_text(date(r) if r.random() < 0.8 else None, effort))
        else:
            effort = "medium"
        if r.random() < 0.2:
            kind = r.choice(["end", "begin", "upper"])
            if kind == "upper":
                rule = (kind, None)
                say = r.choice(["Answer in capital letters.", "Write all answers in capital letters."])
            else:
                w = s.word() if r.random() < 0.6 else s.noun()
                rule = (kind, w)
                say = r.choice({"end": ["End every answer with the word {}.", "Always end with the word {}."],
                                "begin": ["Begin every answer with the word {}.", "Always begin with the word {}."]}[kind]).format(w)
            c.message("developer", "# Instructions\n\n" + say)
        known, names = [], set()
        self.asked = set()
        tasks, freq = list(self.mix), list(self.mix.values())
        if rule and rule[0] == "upper":
            tasks, freq = ["arithmetic", "counting", "chat", "nouns"], [2, 1, 2, 3]
        first = True
        while len(c.ids) < length:
            k = r.choices(tasks, freq)[0]
            if first and "recall" in tasks and (length > 1000 or r.random() < 0.6):
                k = "open"
            if k == "recall" and not known:
                k = "open"
            first = False
            final = analysis = None
            if k in ("open", "tell"):
                left = length - len(c.ids)
                if k == "open":
                    # About half of what is left, the rest is for questions.
                    budget = int(left * r.uniform(0.15, 0.65)) if length > 300 else r.randint(15, 80)
                    n = max(1, min(int(budget / r.choice([12, 12, 14, 20, 40])), 40))
                    intro = r.choice(["", "", "Remember these facts. ", "Read this text. "])
                else:
                    budget, n, intro = 0, r.randint(1, 3), ""
                new = [f for f in T.facts(s, n) if f[0] not in names]
                names |= {f[0] for f in new}
                sent = [T.fact_text(s, *f) for f in new]
                used = 13 * len(sent)
                fill = []
                while used < budget:
                    fill.append(T.filler(s))
                    used += 11
                # Facts keep their order, filler goes anywhere.
                slots = sorted(r.sample(range(len(sent) + len(fill)), len(sent)))
                body, it = fill, iter(sent)
                merged, fi = [], 0
                slotset = set(slots)
                for i in range(len(sent) + len(fill)):
                    if i in slotset:
                        merged.append(next(it))
                    else:
                        merged.append(body[fi])
                        fi += 1
                known += new
                if not new:
                    continue
                if k == "tell":
                    final = "I will remember that."
                    question = " ".join(merged)
                else:
                    q, final = self.question(known, names)
                    question = intro + " ".join(merged) + " " + q
            elif k == "recall":
                question, final = self.question(known, names)
            elif k == "arithmetic":
                question, analysis, final = T.arithmetic(s)
            elif k == "copying":
                question, final = T.copying(s)
            elif k == "counting":
                question, final = T.counting(s)
            elif k == "story":
                question, final = T.story(s)
            elif k == "nouns":
                final = " ".join(s.noun() for _ in range(r.randint(1, 8)))
                question = r.choice(["Repeat exactly: ", "Copy this: ", "Say: "]) + final
            else:
                question, final = r.choice(T.CHAT)
            c.ask(question)
            final = self.decorate(rule, final)
            if analysis and effort == "low":
                analysis = None
            if analysis and r.random() < 0.25:
                c.answer(final, None, w_channel=0.0)  # as it stands in a history
            else:
                c.answer(final, analysis)
        return c

    def question(self, known, names):
        r, s = self.r, self.s
        k = r.random()
        if k < 0.1:
            name = s.name()
            while name in names:
                name = s.name()
            attr = r.choice(T.ATTRS)
            return T.fact_question(s, name, attr), T.no_answer(name, attr)
        if k < 0.15:
            name = r.choice(known)[0]
            missing = [a for a in T.ATTRS if not any(f[0] == name and f[1] == a for f in known)]
            attr = r.choice(missing)
            return T.fact_question(s, name, attr), T.no_answer(name, attr)
        # Asked again, a fact stands nearby in the earlier answer: take new ones while there are any.
        fresh = [f for f in known if f not in self.asked]
        f = r.choice(fresh if fresh and r.random() < 0.9 else known)
        self.asked.add(f)
        return T.fact_question(s, f[0], f[1]), T.fact_answer(*f)
