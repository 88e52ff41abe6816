# SPDX-License-Identifier: MIT
"""Trains tandem-mini. Every step's text follows from the seed and the step's number, so a run that
was stopped continues from its last checkpoint as if it had not been.

    train.py --out train/out [--phases NAME] [--minutes M]
"""
import argparse
import csv
import json
import math
import os
import random
import time

import torch
import torch.nn.functional as F

import bpe
import chat
import tasks
from model import Config, Model

# steps, length, conversations, share with a system message, fake MXFP4
PHASES = {
    "pilot": [(600, 256, 32, 0.3, False)],
    "full": [(2000, 256, 32, 0.3, False), (600, 512, 16, 0.5, True), (300, 1024, 8, 0.7, True),
             (150, 4096, 2, 1.0, True)],
}


class Muon:
    """Momentum, then the nearest orthogonal matrix (Jordan et al. 2024, Newton-Schulz of degree 5)."""

    def __init__(self, params, momentum=0.95):
        self.params, self.momentum = params, momentum
        self.buf = [torch.zeros_like(p) for p in params]

    @torch.no_grad()
    def step(self, lr, decay):
        for p, m in zip(self.params, self.buf):
            g = p.grad
            m.mul_(self.momentum).add_(g, alpha=1 - self.momentum)
            x = g.lerp(m, self.momentum)
            if x.dim() == 2:
                x = x[None]
            tall = x.shape[1] > x.shape[2]
            if tall:
                x = x.transpose(1, 2)
            x = x / (x.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
            for _ in range(5):
                a = x @ x.transpose(1, 2)
                x = 3.4445 * x + (-4.7750 * a + 2.0315 * (a @ a)) @ x
            if tall:
                x = x.transpose(1, 2)
            p.mul_(1 - lr * decay).add_(x.reshape(p.shape), alpha=-lr * max(1, p.shape[-2] / p.shape[-1]) ** 0.5)

    def state(self):
        return self.buf

    def load(self, buf):
        self.buf = buf


def batch(tok, seed, step, length, n, p_system):
    ids = torch.zeros(n, length, dtype=torch.long)
    tgt = torch.zeros(n, length, dtype=torch.long)
    w = torch.zeros(n, length)
    for b in range(n):
        c = chat.Maker(tok, random.Random(f"{seed}/{step}/{b}"), p_system).conversation(length + 1)
        ids[b] = torch.tensor(c.ids[:length])
        tgt[b] = torch.tensor(c.targets[1:length + 1])
        w[b] = torch.tensor(c.weights[1:length + 1])
    return ids, tgt.view(-1), w.view(-1)


@torch.no_grad()
def score(model, tok, names, n, seed, effort="medium"):
    """Share of held-out items whose whole answer is each step's most likely token."""
    model.eval()
    out = {}
    for task in names:
        good = 0
        for i in range(n):
            item = tasks.one(task, tok, f"{seed}/{task}/{i}")
            c = chat.Conversation(tok)
            c.message("system", chat.system_text("2026-11-22", effort))
            if item["developer"]:
                c.message("developer", "# Instructions\n\n" + item["developer"])
            c.ask(item["prompt"])
            n_prompt = len(c.ids)
            c.answer(item["answer"], item.get("analysis"))
            L = len(c.ids)
            pad = (-L) % 128 if L > 256 else 0
            x, _ = model.hidden(torch.tensor([c.ids + [0] * pad]))
            guess = F.linear(x[n_prompt - 1:L - 1], model.unembed).argmax(-1)
            good += bool((guess == torch.tensor(c.targets[n_prompt:])).all())
        out[task] = good / n
    model.train()
    return out


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--out", default="train/out")
    ap.add_argument("--phases", default="full")
    ap.add_argument("--config", default="{}", help="JSON of Config fields")
    ap.add_argument("--minutes", type=float, default=1e9)
    ap.add_argument("--lr", type=float, default=0.02)
    ap.add_argument("--adam", type=float, default=0.004)
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--eval-every", type=int, default=100)
    a = ap.parse_args()
    torch.set_num_threads(2)
    os.makedirs(a.out, exist_ok=True)
    tok = bpe.Tokenizer()
    model = Model(Config(n_vocab=len(tok.tokens), **json.loads(a.config)))
    muon_p = [p for n, p in model.named_parameters() if n.split(".")[-1] in ("q", "k", "v", "o", "gate", "up", "down")]
    ids = {id(p) for p in muon_p}
    adam_p = [p for p in model.parameters() if id(p) not in ids]
    muon = Muon(muon_p)
    adam = torch.optim.Adam(adam_p, lr=a.adam, betas=(0.9, 0.98), eps=1e-9)
    phases = PHASES[a.phases] if a.phases in PHASES else json.loads(a.phases)
    total = sum(p[0] for p in phases)
    ckpt, step, seen, spent = os.path.join(a.out, "last.pt"), 0, 0, 0.0
    if os.path.exists(ckpt):
        s = torch.load(ckpt)
        model.load_state_dict(s["model"])
        muon.load(s["muon"])
        adam.load_state_dict(s["adam"])
        step, seen, spent = s["step"], s["seen"], s["spent"]
        print(f"continuing at step {step}", flush=True)
    log = open(os.path.join(a.out, "log.csv"), "a", newline="")
    rows = csv.writer(log)

    def save():
        torch.save(dict(model=model.state_dict(), muon=muon.state(), adam=adam.state_dict(), step=step,
                        seen=seen, spent=spent, config=model.c.dict()), ckpt + ".new")
        os.replace(ckpt + ".new", ckpt)

    t_start = t_last = t_save = time.time()
    mean, n_mean = 0.0, 0
    while step < total and time.time() - t_start < a.minutes * 60:
        at = step
        for n_steps, length, n, p_system, quant in phases:
            if at < n_steps:
                break
            at -= n_steps
        model.quant = quant
        # Constant, then straight down over the last 40 %.
        scale = min(1.0, (step + 1) / 50, 0.02 + (total - step) / (0.4 * total))
        x, tgt, w = batch(tok, a.seed, step, length, n, p_system)
        h, aux = model.hidden(x)
        sel = (w > 0).nonzero().squeeze(1)
        ce = F.cross_entropy(F.linear(h[sel], model.unembed), tgt[sel], reduction="none")
        loss = (ce * w[sel]).sum() / w[sel].sum()
        for p in model.parameters():
            p.grad = None
        (loss + 0.01 * aux).backward()
        torch.nn.utils.clip_grad_norm_(adam_p, 1.0)
        for g in adam.param_groups:
            g["lr"] = a.adam * scale
        muon.step(a.lr * scale, 0.02)
        adam.step()
        step += 1
        seen += x.numel()
        mean += loss.item()
        n_mean += 1
        if step % 20 == 0:
            now = time.time()
            spent += now - t_last
            rows.writerow(["loss", step, seen, round(spent, 1), length, round(mean / n_mean, 4)])
            log.flush()
            print(f"{step:5d} {seen / 1e6:6.2f}M {spent / 60:5.1f}min L={length} loss {mean / n_mean:.4f} aux {float(aux):.3f}", flush=True)
            mean, n_mean, t_last = 0.0, 0, now
        if step % a.eval_every == 0 or step == total:
            names = [t for t in tasks.TASKS if t != "story" and not (t.startswith("recall@") and int(t[7:]) > max(200, length))]
            sc = score(model, tok, names, 32, "dev")
            rows.writerow(["score", step, seen, round(spent, 1), length, json.dumps(sc)])
            log.flush()
            print("      " + "  ".join(f"{k} {v:.2f}" for k, v in sc.items()), flush=True)
            t_last = time.time()
        if time.time() - t_save > 180:
            save()
            t_save = time.time()
    save()
    log.close()


if __name__ == "__main__":
    main()
