# SPDX-License-Identifier: MIT
"""The gpt-oss architecture in PyTorch, small and dense enough to train on a CPU.

Nothing here is specific to tandem-mini: sizes come from Config, the equations are those of
docs/MODELS.md. Two paths compute the same: one in plain PyTorch, where all experts see every token
and the unchosen ones weigh 0, and one with fused.c, where each expert sees its own tokens.
"""
import math
from dataclasses import dataclass, asdict

import torch
import torch.nn.functional as F

import fused

ALPHA, LIMIT, EPS = 1.702, 7.0, 1e-5


@dataclass
class Config:
    n_vocab: int = 2048
    n_layers: int = 4
    hidden: int = 192
    n_heads: int = 4
    n_kv: int = 2
    head_dim: int = 64
    n_experts: int = 8
    top_k: int = 4
    ff: int = 64
    window: int = 128
    # YaRN ramps from pair 3 to pair 13 (3.0006 and 12.997): readers that round the range to
    # integers and readers that do not compute the same angles.
    rope_base: float = 65800.0
    rope_factor: float = 8.0
    rope_original: int = 569
    n_ctx: int = 4096

    def dict(self):
        return asdict(self)


def yarn_inv_freq(c):
    """Inverse frequencies (head_dim / 2) in float64 and the concentration factor."""
    half = c.head_dim // 2
    i = torch.arange(half, dtype=torch.float64)
    inv = c.rope_base ** (-2.0 * i / c.head_dim)

    def pair_of(rotations):
        return half * math.log(c.rope_original / (rotations * 2 * math.pi)) / math.log(c.rope_base)

    low, high = pair_of(32.0), pair_of(1.0)
    ramp = ((i - low) / (high - low)).clamp(0, 1)
    return inv / c.rope_factor * ramp + inv * (1 - ramp), 0.1 * math.log(c.rope_factor) + 1.0


FP4 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
FP4_EDGES = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0])


def mxfp4(w):
    """w as the file will hold it: blocks of 32 along the last axis, one power of two each."""
    b = w.reshape(-1, 32)
    amax = b.abs().amax(-1, keepdim=True).clamp_min(1e-30)
    # 6 is the largest code: the exponent is raised where the block's peak would be cut by > 1/8.
    e = torch.floor(torch.log2(amax)) - 2
    e = e + (amax > 7.0 * torch.exp2(e)).float()
    s = torch.exp2(e.clamp(-127, 127))
    q = FP4[torch.bucketize((b.abs() / s).contiguous(), FP4_EDGES, right=False)]
    return (q * s * b.sign()).reshape(w.shape)


def q8_0(w):
    """w as Q8_0 holds it: blocks of 32, an f16 scale."""
    b = w.reshape(-1, 32)
    d = (b.abs().amax(-1, keepdim=True) / 127)
    inv = torch.where(d > 0, 1 / d, torch.zeros_like(d))
    return (torch.round(b * inv) * d.half().float()).reshape(w.shape)


class Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, g):
        r = torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS)
        n = x * r
        ctx.save_for_backward(n, r, g)
        return n * g

    @staticmethod
    def backward(ctx, dy):
        n, r, g = ctx.saved_tensors
        dg = (dy * n).sum(0)
        dn = dy * g
        dx = (dn - n * (dn * n).mean(-1, keepdim=True)).mul_(r)
        return dx, dg


class Swiglu(torch.autograd.Function):
    """h (T, 2, E, ff) gate then up, w (T, E) -> (T, E, ff), each expert's row times its weight."""
    @staticmethod
    def forward(ctx, h, w):
        g = h[:, 0].clamp(max=LIMIT)
        u = h[:, 1].clamp(-LIMIT, LIMIT).add_(1)
        s = torch.sigmoid(g * ALPHA)
        gs = g * s
        y = gs * u
        ctx.save_for_backward(h, w, g, u, s, gs)
        return y * w.unsqueeze(-1)

    @staticmethod
    def backward(ctx, dy):
        h, w, g, u, s, gs = ctx.saved_tensors
        dw = (dy * gs * u).sum(-1)
        dy = dy * w.unsqueeze(-1)
        dh = torch.empty_like(h)
        torch.mul(dy, gs, out=dh[:, 1])
        # d(g s)/dg = s + alpha g s (1 - s)
        t = (1 - s).mul_(gs).mul_(ALPHA).add_(s)
        torch.mul(dy.mul_(u), t, out=dh[:, 0])
        dh.mul_(h.abs() <= LIMIT)  # a gate below -7 is not clamped, but its slope is 0 to 1e-4
        return dh, dw


class Model(torch.nn.Module):
    def __init__(self, c, seed=1):
        super().__init__()
        self.c = c
        gen = torch.Generator().manual_seed(seed)

        def mat(*shape, std):
            return torch.nn.Parameter(torch.randn(*shape, generator=gen) * std)

        def const(*shape, v=0.0):
            return torch.nn.Parameter(torch.full(shape, v))

        D = c.hidden
        q_dim, kv_dim = c.n_heads * c.head_dim, c.n_kv * c.head_dim
        self.embed = mat(c.n_vocab, D, std=1.0)
        self.unembed = mat(c.n_vocab, D, std=0.5 / math.sqrt(D))
        self.norm = const(D, v=1.0)
        self.layers = torch.nn.ModuleList()
        for _ in range(c.n_layers):
            m = torch.nn.Module()
            m.attn_norm, m.ffn_norm = const(D, v=1.0), const(D, v=1.0)
            m.q, m.qb = mat(q_dim, D, std=D ** -0.5), const(q_dim)
            m.k, m.kb = mat(kv_dim, D, std=D ** -0.5), const(kv_dim)
            m.v, m.vb = mat(kv_dim, D, std=D ** -0.5), const(kv_dim)
            m.o, m.ob = mat(D, q_dim, std=0.3 * q_dim ** -0.5), const(D)
            m.sinks = const(c.n_heads)
            m.router, m.rb = mat(c.n_experts, D, std=0.5 * D ** -0.5), const(c.n_experts)
            m.gate = mat(c.n_experts, c.ff, D, std=D ** -0.5)
            m.up = mat(c.n_experts, c.ff, D, std=D ** -0.5)
            m.down = mat(c.n_experts, D, c.ff, std=0.5 * c.ff ** -0.5)
            m.gb, m.ub, m.db = const(c.n_experts, c.ff), const(c.n_experts, c.ff), const(c.n_experts, D)
            self.layers.append(m)
        inv, conc = yarn_inv_freq(c)
        ang = torch.arange(c.n_ctx, dtype=torch.float64)[:, None] * inv
        # The concentration multiplies cos and sin of both q and k.
        self.register_buffer("cos", (ang.cos() * conc).float(), persistent=False)
        self.register_buffer("sin", (ang.sin() * conc).float(), persistent=False)
        self.quant = False
        self.fused = fused.LIB is not None
        self.masks = {}

    def rope(self, x, pos):
        """x (B, L, heads, 64)"""
        cos, sin = self.cos[pos][:, None], self.sin[pos][:, None]
        a, b = x.chunk(2, -1)
        return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)

    def mask(self, n_q, n_k, offset, window):
        """(n_q, n_k + 1) additive; column 0 is the sink. Key j of query i: j <= i + offset."""
        key = (n_q, n_k, offset, window)
        if key not in self.masks:
            i = torch.arange(n_q)[:, None] + offset
            j = torch.arange(n_k)[None, :]
            ok = j <= i
            if window:
                ok &= j > i - window
            m = torch.zeros(n_q, n_k + 1)
            m[:, 1:].masked_fill_(~ok, -1e30)
            if len(self.masks) > 16:
                self.masks.clear()
            self.masks[key] = m
        return self.masks[key]

    def attend(self, q, k, v, sinks, mask):
        """q (N, KV, G*n_q, 64), k, v (N, KV, n_k + 1, 64) with a row of zeros first."""
        s = torch.matmul(q, k.transpose(-1, -2))
        N, KV, Gn, K1 = s.shape
        n_q = mask.shape[0]
        s = s.view(N, KV, Gn // n_q, n_q, K1)
        add = mask.expand(KV, Gn // n_q, n_q, K1).clone()
        add[..., 0] += sinks.view(KV, -1, 1)
        p = torch.softmax(s + add, -1)
        return torch.matmul(p.view(N, KV, Gn, K1), v)

    def attention(self, m, il, x, B, L):
        c = self.c
        qkv = F.linear(x, torch.cat((m.q, m.k, m.v)), torch.cat((m.qb, m.kb, m.vb)))
        qkv = qkv.view(B, L, c.n_heads + 2 * c.n_kv, c.head_dim)
        if self.fused:
            y = fused.Attention.apply(qkv, m.sinks, self.cos, self.sin, c.n_kv, 0 if il % 2 else c.window)
            return F.linear(y.view(B * L, -1), m.o, m.ob)
        qk = self.rope(qkv[:, :, :c.n_heads + c.n_kv], slice(0, L))
        q, k, v = qk[:, :, :c.n_heads], qk[:, :, c.n_heads:], qkv[:, :, c.n_heads + c.n_kv:]
        G = c.n_heads // c.n_kv
        W = c.window
        q = (q * 0.125).view(B, L, c.n_kv, G, 64).permute(0, 2, 3, 1, 4)  # B KV G L d
        k, v = k.permute(0, 2, 1, 3), v.permute(0, 2, 1, 3)      # B KV L d
        if il % 2 == 0 and L > 2 * W:
            # Blocks of W queries see their own block and the one before.
            nb = L // W
            q = q.reshape(B, c.n_kv, G, nb, W, 64).permute(0, 3, 1, 2, 4, 5).reshape(B * nb, c.n_kv, G * W, 64)

            def band(t):
                t = t.reshape(B, c.n_kv, nb, W, 64).permute(0, 2, 1, 3, 4)
                prev = F.pad(t, (0, 0, 0, 0, 0, 0, 1, 0))[:, :-1]
                return F.pad(torch.cat((prev, t), 3), (0, 0, 1, 0)).reshape(B * nb, c.n_kv, 2 * W + 1, 64)

            mask = self.mask(W, 2 * W, W, W)
            first = self.masks.get(("first", W))
            if first is None:
                first = mask.clone()
                first[:, 1:W + 1] = -1e30
                self.masks[("first", W)] = first
            kb, vb = band(k), band(v)
            s = torch.matmul(q, kb.transpose(-1, -2)).view(B, nb, c.n_kv, G, W, 2 * W + 1)
            add = torch.stack([first] + [mask] * (nb - 1)).view(nb, 1, 1, W, 2 * W + 1).expand(
                nb, c.n_kv, G, W, 2 * W + 1).clone()
            add[..., 0] += m.sinks.view(c.n_kv, G, 1)
            p = torch.softmax(s + add, -1).view(B * nb, c.n_kv, G * W, 2 * W + 1)
            y = torch.matmul(p, vb).view(B, nb, c.n_kv, G, W, 64).permute(0, 1, 4, 2, 3, 5)
        else:
            q = q.reshape(B, c.n_kv, G * L, 64)
            y = self.attend(q, F.pad(k, (0, 0, 1, 0)), F.pad(v, (0, 0, 1, 0)), m.sinks,
                            self.mask(L, L, 0, W if il % 2 == 0 else 0))
            y = y.view(B, c.n_kv, G, L, 64).permute(0, 3, 1, 2, 4)
        return F.linear(y.reshape(B * L, c.n_heads * 64), m.o, m.ob)

    def experts(self, m, x):
        c = self.c
        T = x.shape[0]
        logits = F.linear(x, m.router, m.rb)
        top, idx = logits.topk(c.top_k, -1)
        w = torch.zeros_like(logits).scatter(1, idx, top.softmax(-1))
        gate, up, down = m.gate, m.up, m.down
        if self.quant:
            gate, up, down = (t + (mxfp4(t.detach()) - t.detach()) for t in (gate, up, down))
        if self.fused:
            # Each expert sees its own tokens only: rows sorted by expert.
            pairs = (w.t() > 0).nonzero()
            counts = torch.bincount(pairs[:, 0], minlength=c.n_experts).tolist()
            rows = pairs[:, 1]
            xs = x.index_select(0, rows).split(counts)
            h = torch.cat([F.linear(xs[e], torch.cat((gate[e], up[e])), torch.cat((m.gb[e], m.ub[e])))
                           for e in range(c.n_experts)])
            y = fused.Swiglu.apply(h.view(-1, 2, 1, c.ff), w[rows, pairs[:, 0]].unsqueeze(1))
            ys = y.view(-1, c.ff).split(counts)
            out = (w @ m.db).index_add_(0, rows, torch.cat([F.linear(ys[e], down[e]) for e in range(c.n_experts)]))
            return out, self.balance(logits, idx)
        h = F.linear(x, torch.cat((gate.view(-1, c.hidden), up.view(-1, c.hidden))),
                     torch.cat((m.gb.view(-1), m.ub.view(-1))))
        y = Swiglu.apply(h.view(T, 2, c.n_experts, c.ff), w)
        out = F.linear(y.view(T, -1), down.permute(1, 0, 2).reshape(c.hidden, -1))
        return out + w @ m.db, self.balance(logits, idx)

    def balance(self, logits, idx):
        """Even use of experts (Switch Transformer): share of choices times mean probability."""
        if not self.training:
            return None
        n, k = self.c.n_experts, idx.numel()
        share = torch.zeros(n).index_add_(0, idx.reshape(-1), torch.full((k,), 1.0 / k))
        return (share * logits.softmax(-1).mean(0)).sum() * n

    def hidden(self, tokens):
        """tokens (B, L) -> rows (B * L, hidden) before the output matrix, and the balance loss."""
        B, L = tokens.shape
        x = F.embedding(tokens.reshape(-1), self.embed)
        aux = 0.0
        norm = (fused.Norm if self.fused else Norm).apply
        for il, m in enumerate(self.layers):
            x = x + self.attention(m, il, norm(x, m.attn_norm), B, L)
            y, a = self.experts(m, norm(x, m.ffn_norm))
            x = x + y
            if a is not None:
                aux = aux + a
        return norm(x, self.norm), aux

    def forward(self, tokens):
        x, aux = self.hidden(tokens)
        return F.linear(x, self.unembed), aux
