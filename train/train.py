# SPDX-License-Identifier: MIT
"""Trains tandem-mini. Every step's text follows from the seed and the step's number, so a run that
was stopped continues from its last checkpoint as if it had not been.

    train.py --out train/out [--phases NAME] [--minutes M]
"""
import argparse
import csv
import json
import multiprocessing
import os
import random
import shutil
import time

import torch
import torch.nn.functional as F

import bpe
import chat
import tasks
from model import Config, Model

# One process per core, each with its own conversations; gradients meet once a step in shared
# memory. That keeps both cores busy where threads would wait for each other in every operation.
N_RANKS = 2

# A rank reads this many tokens a step (one conversation of 4096 where that is more).
TOKENS = 2048

# steps, lengths of conversations in turn, share that open with the system message, MXFP4 in the
# forward pass, learning rate from and to (relative), the mix of tasks where it is not Maker.MIX.
# This is the run that was made: the rate falls four times because what was still wrong after each
# fall was looked at (docs/MINI.md); a run planned at once would need fewer steps.
PHASES = [
    (900, [256], 0.12, False, 1.0, 1.0),
    (1200, [256], 0.2, False, 1.0, 1.0),
    (1700, [256, 512, 256, 1024], 0.5, True, 1.0, 1.0),
    (1100, [256, 1024, 512, 4096], 0.8, True, 1.0, 0.333),
    (800, [256, 1024, 512, 4096], 0.8, True, 0.333, 0.02),
    (200, [256, 1024, 512, 4096], 0.8, True, 0.5, 0.393),
    (100, [256, 1024, 512, 4096], 0.8, True, 0.393, 0.374),
    (1600, [256, 1024, 4096, 512, 1024, 4096], 0.8, True, 0.4, 0.4,
     {"recall": 6, "arithmetic": 3, "copying": 5, "counting": 1, "story": 1, "chat": 0.3, "tell": 0.4}),
    (800, [256, 1024, 4096, 512, 1024, 4096], 0.8, True, 0.4, 0.2212,
     {"recall": 6, "arithmetic": 3, "copying": 5, "counting": 1, "story": 1, "chat": 0.3, "tell": 0.4}),
    (500, [256, 1024, 4096, 512, 1024, 4096], 0.8, True, 0.2212, 0.02,
     {"recall": 6, "arithmetic": 3, "copying": 5, "counting": 1, "story": 1, "chat": 0.3, "tell": 0.4}),
    (700, [256, 1024, 256, 512, 256, 4096], 0.8, True, 0.2, 0.02,
     {"recall": 5, "arithmetic": 3, "copying": 14, "counting": 1, "story": 1, "chat": 0.3, "tell": 0.4}),
    (600, [256, 512, 256, 1024, 256, 4096], 0.8, True, 0.22, 0.02,
     {"recall": 6, "arithmetic": 3, "copying": 24, "counting": 1, "story": 1, "chat": 0.3, "tell": 0.4}),
]


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


def batch(tok, seed, step, length, n, p_system, mix):
    ids = torch.zeros(n, length, dtype=torch.long)
    tgt = torch.zeros(n, length, dtype=torch.long)
    w = torch.zeros(n, length)
    for b in range(n):
        c = chat.Maker(tok, random.Random(f"{seed}/{step}/{b}"), p_system, mix).conversation(length + 1)
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


def rank_main(rank, a, model, grads, barrier):
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    tok = bpe.Tokenizer()
    named = list(model.named_parameters())
    flat, at = [], 0
    for _, p in named:
        flat.append(slice(at, at + p.numel()))
        at += p.numel()
    # Each rank updates its own half of the (shared) parameters.
    order = sorted(range(len(named)), key=lambda i: -named[i][1].numel())
    mine = set(order[rank::N_RANKS])
    is_matrix = [n.split(".")[-1] in ("q", "k", "v", "o", "gate", "up", "down") for n, _ in named]
    muon = Muon([p for i, (_, p) in enumerate(named) if i in mine and is_matrix[i]])
    adam = torch.optim.Adam([p for i, (_, p) in enumerate(named) if i in mine and not is_matrix[i]],
                            lr=a.adam, betas=(0.9, 0.98), eps=1e-9)
    step, seen, spent = 0, 0, 0.0
    path = os.path.join(a.out, f"rank{rank}.pt")
    if os.path.exists(path):
        s = torch.load(path)
        muon.buf = s["muon"]
        adam.load_state_dict(s["adam"])
        step, seen, spent = s["step"], s["seen"], s["spent"]
    phases = json.load(open(a.phases)) if a.phases else PHASES
    ends = {sum(p[0] for p in phases[:i + 1]) for i in range(len(phases))}
    total = max(ends)
    log = rows = None
    if rank == 0:
        print(f"{at} parameters, step {step} of {total}", flush=True)
        log = open(os.path.join(a.out, "log.csv"), "a", newline="")
        rows = csv.writer(log)

    def save():
        # Both files or none: the old pair stays until the new pair is complete.
        torch.save(dict(muon=muon.buf, adam=adam.state_dict(), step=step, seen=seen, spent=spent), path + ".new")
        if rank == 0:
            torch.save(dict(model=model.state_dict(), config=model.c.dict(), step=step), os.path.join(a.out, "model.pt.new"))
        barrier.wait()
        os.replace(path + ".new", path)
        if rank == 0:
            os.replace(os.path.join(a.out, "model.pt.new"), os.path.join(a.out, "model.pt"))
            if step in ends:  # where the rate has fallen: kept, the export takes the mean of the last two
                shutil.copyfile(os.path.join(a.out, "model.pt"), os.path.join(a.out, f"model-{step}.pt"))
        barrier.wait()

    t_start = t_last = time.time()
    mean, n_mean = 0.0, 0
    while step < total:
        at = step
        for n_steps, lengths, p_system, quant, lr0, lr1, *mix in phases:
            if at < n_steps:
                break
            at -= n_steps
        length = lengths[step % len(lengths)]
        n = max(1, TOKENS // length)
        model.quant = quant
        scale = min((step + 1) / 50, lr0 + (lr1 - lr0) * at / n_steps)
        x, tgt, w = batch(tok, f"{a.seed}.{rank}", step, length, n, p_system, *(mix or [None]))
        h, aux = model.hidden(x)
        sel = (w > 0).nonzero().squeeze(1)
        ce = F.cross_entropy(F.linear(h[sel], model.unembed), tgt[sel], reduction="none")
        loss = (ce * w[sel]).sum() / w[sel].sum()
        for _, p in named:
            p.grad = None
        (loss + 0.01 * aux).backward()
        for (_, p), f in zip(named, flat):
            grads[rank][f] = p.grad.view(-1) if p.grad is not None else 0
        barrier.wait()
        for i in mine:
            p = named[i][1]
            p.grad = grads[:, flat[i]].mean(0).view(p.shape)
        torch.nn.utils.clip_grad_norm_(adam.param_groups[0]["params"], 1.0)
        adam.param_groups[0]["lr"] = a.adam * scale
        muon.step(a.lr * scale, 0.02)
        adam.step()
        barrier.wait()
        step += 1
        seen += x.numel() * N_RANKS
        mean += loss.item()
        n_mean += 1
        if rank == 0 and step % 20 == 0:
            now = time.time()
            spent += now - t_last
            t_last = now
            rows.writerow(["loss", step, seen, round(spent, 1), max(lengths), round(mean / n_mean, 4)])
            log.flush()
            print(f"{step:5d} {seen / 1e6:6.2f}M {spent / 60:5.1f}min L<={max(lengths)} loss {mean / n_mean:.4f} aux {float(aux):.3f}", flush=True)
            mean, n_mean = 0.0, 0
        if rank == 0 and (step % a.eval_every == 0 or step == total):
            names = [t for t in tasks.TASKS if t != "story" and not (t.startswith("recall@") and int(t[7:]) > max(200, *lengths))]
            sc = score(model, tok, names, 32, "dev")
            rows.writerow(["score", step, seen, round(spent, 1), max(lengths), json.dumps(sc)])
            log.flush()
            print("      " + "  ".join(f"{k} {v:.2f}" for k, v in sc.items()), flush=True)
            t_last = time.time()
        if step % 100 == 0 or step == total:
            save()
            # A file named stop ends the run after a checkpoint.
            if os.path.exists(os.path.join(a.out, "stop")):
                break


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--out", default="train/out")
    ap.add_argument("--phases", help="JSON file instead of PHASES")
    ap.add_argument("--config", default="{}", help="JSON of Config fields")
    ap.add_argument("--lr", type=float, default=0.02)
    ap.add_argument("--adam", type=float, default=0.004)
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--eval-every", type=int, default=200)
    a = ap.parse_args()
    os.makedirs(a.out, exist_ok=True)
    torch.set_num_threads(1)
    model = Model(Config(n_vocab=len(bpe.Tokenizer().tokens), **json.loads(a.config)))
    path = os.path.join(a.out, "model.pt")
    if os.path.exists(path):
        model.load_state_dict(torch.load(path)["model"])
    model.share_memory()
    grads = torch.zeros(N_RANKS, sum(p.numel() for p in model.parameters())).share_memory_()
    ctx = multiprocessing.get_context("fork")
    barrier = ctx.Barrier(N_RANKS)
    ranks = [ctx.Process(target=rank_main, args=(r, a, model, grads, barrier)) for r in range(N_RANKS)]
    for p in ranks:
        p.start()
    for p in ranks:
        p.join()


if __name__ == "__main__":
    main()
