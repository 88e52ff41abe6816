#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Breaks the relay in every way it promises to bear, and checks what came of it.

    bench/faults.py [--tandem build/tandem] [--proxy build/tests/fault_proxy] [--runs N] [--seed S]
                    [--paces HERE THERE]

A real `tandem prefill` process, a proxy before it (tests/relay/fault_proxy.c), and N prompts read by
`tandem eval --last --prefill`, each with one trouble drawn from the seed: a connection cut, reset,
stalled or damaged at a byte, slow links, the process killed with SIGKILL in the middle of a prompt
and started again, also with another model, another key or too little memory.

Checked of every run: under `auto` it succeeds, and its logits are byte for byte those of a prompt
read without any peer; under `require` it does that or says one sentence. What --stats says must add
up; what is salvaged ends at a checkpoint, and at the last one whose bytes had arrived. In the end the
prefill process must answer as in the beginning, hold no connection and end when asked.

Prints the counts. Exit code 0; 1 when anything was violated.
"""
import argparse
import collections
import random
import sys
import threading
import time

from relay_lab import Lab, Prefill, Proxy, Trouble, ask

MODEL = "synth:tiny,layers=6,window=32,vocab=1024,ctx=4096"
OTHER_MODEL = MODEL + ",seed=99"
N_VOCAB, CHUNK, CHECKPOINT, CTX = 1024, 32, 96, 1200
LENGTHS = (330, 417, 512, 640, 700, 801, 905, 1024)
# Here a prompt takes a second or two, there a fraction; so that asking pays.
PACE_HERE, PACE_THERE = 600, 4000
# Slow enough for faults to meet bytes on their way, and for the look at the link to stay short.
LINK = 3_000_000
SILENT = 1.0

KINDS = collections.OrderedDict([
    # kind: how often of 100
    ("none", 1), ("cut", 18), ("reset", 8), ("flip", 12), ("stall", 4), ("twice", 8), ("kill", 32),
    ("away", 6), ("connecting", 4), ("slow", 2), ("other model", 2), ("other key", 1),
    ("no memory", 2)])


class Prompt:
    """A prompt, its right logits, and which bytes of a connection are its KV (of all of its length)."""

    def __init__(self, lab, length, seed):
        self.n = length
        self.file = lab.new_prompt(f"prompt-{seed % 1000}.txt", self.n, N_VOCAB, seed)
        here = ask(lab, MODEL, self.file, ["-t", "1"])
        if here.code:
            raise Trouble(f"a prompt read here fails: {here.said}")
        self.logits = here.logits
        self.kv_begin = self.kv_end = 0


class Campaign:
    def __init__(self, lab, args):
        self.lab, self.rng, self.args = lab, random.Random(args.seed), args
        self.seed = args.seed * 1000000
        self.prompts = [Prompt(lab, n, self.seed + i) for i, n in enumerate(LENGTHS)]
        self.there = Prefill(lab, MODEL, options=[
            "--ctx", str(CTX), "--chunk", str(CHUNK), "--slots", "2", "-t", "1", "--lease", "20",
            "--pace-prefill", str(args.paces[1]), "--pace-decode", "100"])
        self.there.wait()
        self.proxy = Proxy(lab, self.there.port)
        self.paths, self.kinds = collections.Counter(), collections.Counter()
        self.by_kind = collections.Counter()
        self.violations = []
        self.n_errors = self.n_runs = self.n_kept = self.n_fds = 0
        self.reasons = collections.Counter()

    def options(self, policy="auto"):
        return ["--prefill", f"127.0.0.1:{self.proxy.port}", "--key", self.lab.key,
                "--prefill-policy", policy, "--checkpoint", str(CHECKPOINT), "--prefill-timeout",
                str(SILENT), "--pace-prefill", str(self.args.paces[0]), "--pace-decode", "100",
                "-t", "1"]

    def violated(self, what):
        self.violations.append(what)
        print(f"VIOLATED: {what}", flush=True)

    def undisturbed(self):
        """Every prompt once: must be read there; where on the connection its KV lies."""
        for p in self.prompts:
            self.proxy.begin(f"rate={LINK}")
            got = ask(self.lab, MODEL, p.file, self.options())
            bytes_from = self.proxy.count()[3][1][1]
            if got.code or got.logits != p.logits or got.stats["path"] != "remote":
                self.violated(f"undisturbed: exit {got.code}, {got.stats}, {got.said}")
                continue
            p.kv_end = bytes_from
            p.kv_begin = bytes_from - int(got.stats["bytes"] * 1.005)

    # ---- troubles: a plan for the proxy, and what happens to the process -------------------------

    def place(self, p):
        """Where a fault strikes: mostly KV, sometimes what is said beside it."""
        if self.rng.random() < 0.2:
            direction = self.rng.choice(["to", "from"])
            at = self.rng.randrange(1500, 1500 + 5 * p.n) if direction == "to" else \
                self.rng.randrange(1000, 3000)
            return f"0,{direction},{at}"
        # A little beyond the end too: a fault that comes too late is a case.
        span = (p.kv_end - p.kv_begin) * 1.03
        return f"1,from,{p.kv_begin + int(span * self.rng.random())}"

    def word(self, kind, p):
        extra = ",all" if self.rng.random() < 0.4 else ""
        if kind == "stall":
            extra += f",ms={int(SILENT * self.rng.choice([300, 2500]))}"
        elif self.rng.random() < 0.3:
            extra += f",refuse={self.rng.randrange(10, 800)}"
        return f"{kind},{self.place(p)}{extra}"

    def plan(self, kind, p):
        words = [f"rate={LINK}"]
        if kind in ("cut", "reset", "flip", "stall"):
            words.append(self.word(kind, p))
        elif kind == "twice":
            for k in range(self.rng.randrange(2, 4)):
                # After a break the connections are two new ones, which carry what is left.
                at = self.place(p) if k == 0 else \
                    f"{1 + 2 * k},from,{self.rng.randrange(1000, (p.kv_end - p.kv_begin) // 2)}"
                words.append(f"{self.rng.choice(['cut', 'reset', 'flip'])},{at}")
        elif kind in ("kill", "other model", "other key", "no memory"):
            at = p.kv_begin + int((p.kv_end - p.kv_begin) * self.rng.random())
            words.append(f"mark,1,from,{at},ms=60")
        elif kind == "away":
            words.append(f"cut,{self.place(p)},refuse=6000,all")
        elif kind == "connecting":
            words.append(f"{self.rng.choice(['cut', 'reset', 'flip'])},{self.rng.randrange(2)},"
                         f"{self.rng.choice(['to', 'from'])},{self.rng.randrange(4000)}")
        elif kind == "slow":
            words[0] = f"rate={self.rng.choice([300_000, 1_000_000])}"
            words.append(f"latency={self.rng.choice([1, 10, 40])}")
        return " ".join(words)

    def restart(self, kind):
        """Kills the process when the mark is hit and starts one, of another kind maybe."""
        pause = self.rng.choice([0, 0, 0.1, 0.5])
        there = self.there

        def on_hit(_):
            there.kill()
            time.sleep(pause)
            if kind == "other model":
                there.start(model=OTHER_MODEL)
            elif kind == "other key":
                there.start(key=self.lab.new_key(f"key-{self.n_runs}"))
            elif kind == "no memory":
                there.start(options=there.options + ["--max-kv", "64k"])
            else:
                there.start()
        return lambda i: threading.Thread(target=on_hit, args=(i,)).start()

    # ---- one run ------------------------------------------------------------------------------------

    def run(self):
        kind = self.rng.choices(list(KINDS), KINDS.values())[0]
        p = self.rng.choice(self.prompts)
        # Mostly a prompt that nobody has read: what the peer has kept of one travels without
        # checkpoints on the way.
        is_new = self.rng.random() < 0.8
        if is_new:
            known = p
            p = Prompt(self.lab, known.n, self.seed + 100 + self.n_runs)
            p.kv_begin, p.kv_end = known.kv_begin, known.kv_end
        policy = "require" if self.rng.random() < 0.12 else "auto"
        is_kill = kind in ("kill", "other model", "other key", "no memory")
        plan = self.plan(kind, p)
        self.proxy.on_hit = self.restart(kind) if is_kill else None
        self.proxy.begin(plan)
        name = f"run {self.n_runs} ({kind}, {policy}, {p.n} tokens, '{plan}')"
        got = ask(self.lab, MODEL, p.file, self.options(policy))
        self.kinds[kind] += 1
        n_hit = self.proxy.count()[1]
        if got.code:
            self.n_errors += 1
            self.by_kind[kind, "error"] += 1
            if policy != "require" or len(got.said) != 1:
                self.violated(f"{name}: exit {got.code}, {got.said}")
        else:
            self.check(name, kind, plan if is_new else "", p, got)
        if is_kill and n_hit:
            # As it was, for the runs to come.
            self.proxy.on_hit = None
            time.sleep(0.6)
            if kind != "kill":
                self.there.kill()
                self.there.start()
            self.there.wait()
        self.n_runs += 1

    def check(self, name, kind, plan, p, got):
        s = got.stats
        if got.logits != p.logits:
            self.violated(f"{name}: other logits, {s}")
        path = s["path"]
        self.paths[path] += 1
        self.by_kind[kind, path] += 1
        if path != "remote":
            self.reasons[s["reason"][:60]] += 1
        n_remote = s["remote_tokens"]
        if path in ("remote", "resumed") and n_remote != p.n - 1:
            self.violated(f"{name}: {path}, but {n_remote} of {p.n - 1} tokens came, {s}")
        if path == "local" and n_remote:
            self.violated(f"{name}: local, but {n_remote} tokens came, {s}")
        if path == "salvaged":
            if n_remote == 0 or plan and n_remote % CHECKPOINT:
                self.violated(f"{name}: {n_remote} salvaged tokens end at no checkpoint, {s}")
            self.check_kept(name, plan, p, n_remote)

    def check_kept(self, name, plan, p, n_remote):
        """What had passed when the data connection ended in an orderly way holds whole checkpoints."""
        ends = [w for w in plan.split() if w.startswith(("cut,1,from,", "mark,1,from,"))]
        if len(ends) != 1 or len(plan.split()) != 2:
            return
        passed = int(ends[0].split(",")[3]) - p.kv_begin
        share = passed / (p.kv_end - p.kv_begin)
        # Window layers travel at checkpoints, so bytes are not quite even: a checkpoint less.
        sure = int(share * (p.n - 1) * 0.97) // CHECKPOINT * CHECKPOINT - CHECKPOINT
        self.n_kept += 1
        if n_remote < sure:
            self.violated(f"{name}: {n_remote} tokens kept, {sure} had surely arrived")

    # ---- the whole --------------------------------------------------------------------------------

    def finish(self):
        self.undisturbed()
        self.proxy.begin("")
        for _ in range(100):
            n_fds = self.there.n_fds()
            if n_fds <= self.n_fds:
                break
            time.sleep(0.1)
        else:
            self.violated(f"{n_fds} files and sockets are open, {self.n_fds} in the beginning")
        log = self.there.lines
        trouble = [line for line in log if "ERROR: " in line or "runtime error" in line]
        if trouble:
            self.violated(f"the prefill process says: {trouble[0]}")
        code = self.there.stop()
        if code not in (0, 130):
            self.violated(f"the prefill process ends with exit code {code}: {log[-3:]}")
        self.proxy.close()

    def report(self):
        print(f"\n{self.n_runs} runs: " + ", ".join(
            f"{self.paths[k]} {k}" for k in ("remote", "resumed", "salvaged", "local")) +
            f", {self.n_errors} errors under require; what was kept was checked of {self.n_kept}")
        paths = ("remote", "resumed", "salvaged", "local", "error")
        print(f"{'':14}" + "".join(f"{x:>10}" for x in ("runs",) + paths))
        for kind in KINDS:
            row = [self.kinds[kind]] + [self.by_kind[kind, x] for x in paths]
            print(f"{kind:14}" + "".join(f"{n:10}" for n in row))
        print("reasons, most often:")
        for reason, n in self.reasons.most_common(12):
            print(f"  {n:5}  {reason}")
        print(f"{len(self.violations)} violations")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--tandem", default="build/tandem")
    parser.add_argument("--proxy", default="build/tests/fault_proxy")
    parser.add_argument("--runs", type=int, default=600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--paces", type=int, nargs=2, default=[PACE_HERE, PACE_THERE],
                        help="tokens per second here and there; lower on a busy machine")
    parser.add_argument("--least", type=int, default=100,
                        help="so many must end resumed, and so many salvaged")
    args = parser.parse_args()
    lab = Lab(args.tandem, args.proxy)
    campaign = None
    try:
        campaign = Campaign(lab, args)
        campaign.undisturbed()
        time.sleep(1)
        campaign.n_fds = campaign.there.n_fds()
        for i in range(args.runs):
            campaign.run()
            if i % 25 == 24:
                print(f"{i + 1} runs: {dict(campaign.paths)}, {campaign.n_errors} errors, "
                      f"rss {campaign.there.rss_kib()} KiB", flush=True)
        campaign.finish()
        campaign.report()
        for path in ("resumed", "salvaged"):
            if campaign.paths[path] < args.least:
                campaign.violated(f"only {campaign.paths[path]} runs ended {path}")
        return 1 if campaign.violations else 0
    except (Trouble, KeyboardInterrupt) as e:
        print(f"faults: {e}", file=sys.stderr)
        if campaign:
            campaign.report()
            if campaign.there.process.poll() is None:
                campaign.there.kill()
        return 1
    finally:
        lab.close()


if __name__ == "__main__":
    sys.exit(main())
