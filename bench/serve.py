#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Measures `tandem serve` as its clients see it.

    bench/serve.py throughput TANDEM MODEL [--parallel 1,8] [--gen 64] [--repeat 3] [-- SERVE OPTIONS]
    bench/serve.py turns TANDEM MODEL [--prompt 4000] [--repeat 3] [--only "at once"] [-- SERVE OPTIONS]

throughput: tokens per second of so many answers at once, from the first token of the last to begin
until the first is done. turns: time to the first token of a conversation's second turn against its
first: at once, after others used the slots, and after a restart with --kv-disk. The first turn has
--prompt tokens; 350 are written; the second turn has 50 others in their place, as when 300 of them
were reasoning that is not sent back, and 50 more that are asked. After a pause: the answer of 50
tokens as it was, in which time the server may have read it ahead. Each --repeat times; the medians
are compared. Only the standard library.
"""
import argparse
import http.client
import json
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time


class Server:
    def __init__(self, tandem, model, options):
        self.process = subprocess.Popen([tandem, "serve", "-m", model, "--port", "0", "--log-format", "none", *options],
                                        stderr=subprocess.PIPE, text=True)
        self.port = None
        said = []
        for line in self.process.stderr:
            said.append(line)
            if "serving at http" in line:
                self.port = int(line.split("http://")[1].split("/")[0].rsplit(":", 1)[1])
                break
        if not self.port:
            sys.exit(f"serve: {tandem} did not start: {''.join(said)}")
        threading.Thread(target=self.process.stderr.read, daemon=True).start()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()

    def ask(self, path, body, seen=lambda moment: None):
        """Streams an answer; seen is told the time of each piece. Returns the last object with timings."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        connection.request("POST", path, json.dumps({**body, "stream": True}), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        if answer.status != 200:
            sys.exit(f"serve: {answer.status}: {answer.read().decode()}")
        last, text = None, ""
        for line in answer:
            if not line.startswith(b"data: {"):
                continue
            piece = json.loads(line[6:])
            if "error" in piece:
                sys.exit(f"serve: {piece['error']['message']}")
            if any(c.get("text") or c.get("delta") for c in piece.get("choices", [])):
                seen(time.monotonic())
            text += "".join(c.get("delta", {}).get("content") or "" for c in piece.get("choices", []))
            if "timings" in piece:
                last = piece
        connection.close()
        last["timings"]["text"] = text
        return last


def words(n, seed):
    """A text of n words."""
    dice = random.Random(seed)
    return " ".join(dice.choice(["the", "red", "fox", "ran", "over", "a", "hill", "and", "saw", "some", "old", "trees"])
                    for _ in range(n))


def together(server, n, gen, seed):
    """Tokens per second of n answers, while all of them are being written."""
    timings = [None] * n
    moments = [[] for _ in range(n)]

    def one(i):
        timings[i] = server.ask("/v1/completions", {"prompt": words(16, f"{seed}/{i}"), "max_tokens": gen,
                                                    "ignore_eos": True, "temperature": 0}, moments[i].append)["timings"]

    threads = [threading.Thread(target=one, args=(i,)) for i in range(n)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    begin, end = max(m[0] for m in moments), min(m[-1] for m in moments)
    # Pieces may hold more than one token: each answer's own rate, over the time all of them share.
    done = sum((t["predicted_n"] - 1) * (end - begin) / (m[-1] - m[0]) for t, m in zip(timings, moments))
    return done / (end - begin)


def throughput(a):
    server = Server(a.tandem, a.model, ["--slots", str(max(a.parallel)), "--ctx", "1024", *a.options])
    together(server, 1, 8, "warm")
    for n in a.parallel:
        rates = [together(server, n, a.gen, f"{n}/{r}") for r in range(a.repeat)]
        print(f"{n} at once: {statistics.median(rates):.2f} tok/s ({min(rates):.2f} to {max(rates):.2f}), {a.gen} tokens each", flush=True)
    server.stop()


def turns(a):
    with tempfile.TemporaryDirectory() as folder:
        options = ["--slots", "2", "--ctx", str(a.prompt + 1024), "--kv-disk", folder + "/kv", *a.options]
        server = Server(a.tandem, a.model, options)
        chat = lambda messages, n: server.ask("/v1/chat/completions", {
            "messages": messages, "max_completion_tokens": n, "ignore_eos": True, "temperature": 0})["timings"]

        def start():
            """Touches all weights; returns the tokens of a word."""
            t = server.ask("/v1/completions", {"prompt": words(200, "warm"), "max_tokens": 2, "ignore_eos": True})["timings"]
            return (t["prompt_n"] + t["cache_n"]) / 200

        per_word = start()
        n_template = chat([{"role": "user", "content": "warm"}], 2)["prompt_n"]
        text = lambda n, seed: words(round(n / per_word), seed)
        story = lambda seed, n=a.prompt: [{"role": "user", "content": text(n - n_template, seed)}]
        next_turn = lambda seed: story(seed) + [{"role": "assistant", "content": text(50, seed + "/answer")},
                                                {"role": "user", "content": text(50, seed + "/more")}]

        def at_once(seed):
            first = chat(story(seed), 350)
            return first, chat(next_turn(seed), 8)

        def after_others(seed):
            first = chat(story(seed), 350)
            for other in "12":
                chat(story(seed + other, 1000), 8)
            return first, chat(next_turn(seed), 8)

        def after_pause(seed):
            # The answer as it was: what is read ahead.
            first = chat(story(seed), 50)
            time.sleep(a.pause)
            messages = next_turn(seed)
            messages[-2]["content"] = first["text"]
            return first, chat(messages, 8)

        def after_restart(seed):
            nonlocal server
            first = chat(story(seed), 350)
            server.stop()
            server = Server(a.tandem, a.model, options)
            start()
            return first, chat(next_turn(seed), 8)

        for what, way in (("at once", at_once), ("after others", after_others), ("after a pause", after_pause), ("after a restart", after_restart)):
            if a.only and a.only != what:
                continue
            firsts, seconds = zip(*[way(f"{what}/{r}") for r in range(a.repeat)])
            first, second = (statistics.median(t["ttft_ms"] for t in them) for them in (firsts, seconds))
            print(f"{what}: first turn {first / 1000:.2f} s for {firsts[0]['prompt_n']} tokens, second {second / 1000:.3f} s "
                  f"({', '.join(format(t['ttft_ms'] / 1000, '.3f') for t in seconds)}) for {seconds[0]['prompt_n']} of "
                  f"{seconds[0]['prompt_n'] + seconds[0]['cache_n']}: {100 * second / first:.1f} %", flush=True)
        server.stop()


def main():
    argv = sys.argv[1:]
    options = argv[argv.index("--") + 1:] if "--" in argv else []
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("what", choices=["throughput", "turns"])
    ap.add_argument("tandem")
    ap.add_argument("model")
    ap.add_argument("--parallel", type=lambda s: [int(n) for n in s.split(",")], default=[1, 8])
    ap.add_argument("--gen", type=int, default=64)
    ap.add_argument("--repeat", type=int, default=3)
    ap.add_argument("--prompt", type=int, default=4000)
    ap.add_argument("--only", choices=["at once", "after others", "after a pause", "after a restart"])
    ap.add_argument("--pause", type=float, default=3)
    a = ap.parse_args(argv[:argv.index("--")] if "--" in argv else argv)
    a.options = options
    {"throughput": throughput, "turns": turns}[a.what](a)


if __name__ == "__main__":
    main()
