# SPDX-License-Identifier: MIT
"""Scores a GGUF on the held-out tasks with a KV cache and greedy decoding, in PyTorch.

    eval_torch.py models/tandem-mini.gguf [-n 200] [--tasks recall@50,story] [--wipe] [--show 3]

The same prompts can be had as JSON lines for another program: eval_items.py.
"""
import argparse
import json
import math

import torch
import torch.nn.functional as F

import bpe
import chat
import export_gguf
import tasks


class Session:
    """One timeline; forward() takes any number of tokens and gives the logits of the last."""

    def __init__(self, model):
        self.m, self.n = model, 0
        self.k = [None] * model.c.n_layers
        self.v = [None] * model.c.n_layers

    @torch.no_grad()
    def forward(self, ids):
        m, c, T = self.m, self.m.c, len(ids)
        x = F.embedding(torch.tensor(ids), m.embed)
        pos = torch.arange(self.n, self.n + T)
        for il, l in enumerate(m.layers):
            a = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * l.attn_norm
            q = m.rope(F.linear(a, l.q, l.qb).view(1, T, c.n_heads, 64), pos)[0]
            k = m.rope(F.linear(a, l.k, l.kb).view(1, T, c.n_kv, 64), pos)[0]
            v = F.linear(a, l.v, l.vb).view(T, c.n_kv, 64)
            k = self.k[il] = k if self.k[il] is None else torch.cat((self.k[il], k))
            v = self.v[il] = v if self.v[il] is None else torch.cat((self.v[il], v))
            at = torch.arange(self.n + T)
            seen = at[None] <= pos[:, None]
            if il % 2 == 0:
                seen &= at[None] > pos[:, None] - c.window
            q = q.view(T, c.n_kv, -1, 64)
            s = torch.einsum("tkgd,skd->kgts", q, k) / 8
            s = s.masked_fill(~seen, -math.inf)
            sink = l.sinks.view(c.n_kv, -1, 1, 1).expand(-1, -1, T, 1)
            p = torch.softmax(torch.cat((s, sink), -1), -1)[..., :-1]
            y = torch.einsum("kgts,skd->tkgd", p, v).reshape(T, -1)
            x = x + F.linear(y, l.o, l.ob)
            b = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * l.ffn_norm
            x = x + m.experts(l, b)[0]
        self.n += T
        x = x[-1] * torch.rsqrt(x[-1].square().mean() + 1e-5) * m.norm
        return F.linear(x, m.unembed)

    def wipe_full_layers(self):
        """Forgets everything before the last 128 tokens in the layers that are not windowed."""
        for il in range(1, self.m.c.n_layers, 2):
            self.k[il][:-128] = 0
            self.v[il][:-128] = 0


def answer(model, tok, item, effort="medium", limit=256, wipe=False, chunk=0):
    c = chat.Conversation(tok)
    c.message("system", chat.system_text("2026-11-22", effort))
    if item["developer"]:
        c.message("developer", "# Instructions\n\n" + item["developer"])
    c.ask(item["prompt"])
    s = Session(model)
    chunk = chunk or len(c.ids)
    for i in range(0, len(c.ids), chunk):
        logits = s.forward(c.ids[i:i + chunk])
        if wipe and i + chunk < len(c.ids):
            s.wipe_full_layers()
    out = []
    while len(out) < limit:
        t = int(logits.argmax())
        if t in (tok.special["<|return|>"], tok.special["<|call|>"]):
            break
        out.append(t)
        logits = s.forward([t])
    text = tok.decode(out)
    mark = "<|channel|>final<|message|>"
    return text[text.rindex(mark) + len(mark):] if mark in text else text


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("model")
    ap.add_argument("-n", type=int, default=200)
    ap.add_argument("--seed", default="test")
    ap.add_argument("--tasks", default=",".join(tasks.TASKS))
    ap.add_argument("--effort", default="medium")
    ap.add_argument("--wipe", action="store_true")
    ap.add_argument("--show", type=int, default=0)
    a = ap.parse_args()
    torch.set_num_threads(1)
    tok = bpe.Tokenizer()
    model, _ = export_gguf.load_model(a.model)
    for task in a.tasks.split(","):
        good, chance = 0, 0.0
        for i in range(a.n):
            item = tasks.one(task, tok, f"{a.seed}/{task}/{i}")
            got = answer(model, tok, item, a.effort, wipe=a.wipe, chunk=256 if a.wipe else 0)
            ok = tasks.right(item, got)
            good += ok
            chance += item["chance"]
            if i < a.show or (not ok and good + a.show > i):
                print(json.dumps(dict(prompt=item["prompt"][-160:], want=item["answer"], got=got, ok=ok)))
        se = math.sqrt(max(good, 1) * max(a.n - good, 1) / a.n) / a.n
        print(f"{task:12s} {100 * good / a.n:6.1f} % +- {100 * se:.1f}  (chance {100 * chance / a.n:.1f} %, n {a.n})", flush=True)


if __name__ == "__main__":
    main()
