# SPDX-License-Identifier: MIT
"""Builds and loads fused.c; autograd functions around it. `fused.py` run alone checks them."""
import ctypes
import os
import subprocess
import tempfile

import torch

HERE = os.path.dirname(os.path.abspath(__file__))


class Attn(ctypes.Structure):
    _fields_ = [(n, ctypes.c_int) for n in ("n_seq", "len", "n_heads", "n_kv", "window")] + [
        ("scale", ctypes.c_float), ("cos", ctypes.c_void_p), ("sin", ctypes.c_void_p)]


def load():
    """The library, built once per session beside the temporary files; None without a compiler."""
    so = os.path.join(tempfile.mkdtemp(prefix="tandem_train_"), "fused.so")
    try:
        subprocess.run(["gcc", "-O3", "-march=native", "-mprefer-vector-width=512", "-fno-math-errno", "-fopenmp",
                        "-shared", "-fPIC", "-o", so, os.path.join(HERE, "fused.c"), "-lm"], check=True)
        return ctypes.CDLL(so)
    except (OSError, subprocess.CalledProcessError):
        print("fused.c could not be built: training in plain PyTorch, about half as fast")
        return None


LIB = load()


def ptr(t):
    assert t.is_contiguous() and t.dtype == torch.float32
    return ctypes.c_void_p(t.data_ptr())


class Attention(torch.autograd.Function):
    """qkv (B, L, heads + 2 kv, 64) before rotation -> (B, L, heads * 64)"""
    @staticmethod
    def forward(ctx, qkv, sinks, cos, sin, n_kv, window):
        B, L, H, _ = qkv.shape
        H -= 2 * n_kv
        a = Attn(B, L, H, n_kv, window, 0.125, ptr(cos), ptr(sin))
        y, lse = torch.empty(B, L, H * 64), torch.empty(B, H, L)
        LIB.attn_forward(ctypes.byref(a), ptr(qkv), ptr(sinks), ptr(y), ptr(lse))
        ctx.save_for_backward(qkv, sinks, cos, sin, y, lse)
        ctx.a = a
        return y

    @staticmethod
    def backward(ctx, dy):
        qkv, sinks, cos, sin, y, lse = ctx.saved_tensors
        dy = dy.contiguous()
        dqkv, ds = torch.empty_like(qkv), torch.empty(qkv.shape[0], sinks.shape[0])
        LIB.attn_backward(ctypes.byref(ctx.a), ptr(qkv), ptr(sinks), ptr(y), ptr(lse), ptr(dy), ptr(dqkv), ptr(ds))
        return dqkv, ds.sum(0), None, None, None, None


class Swiglu(torch.autograd.Function):
    """h (T, 2, E, ff), w (T, E) -> (T, E, ff)"""
    @staticmethod
    def forward(ctx, h, w):
        T, _, E, ff = h.shape
        y = torch.empty(T, E, ff)
        LIB.swiglu_forward(T, E, ff, ptr(h), ptr(w), ptr(y))
        ctx.save_for_backward(h, w)
        return y

    @staticmethod
    def backward(ctx, dy):
        h, w = ctx.saved_tensors
        T, _, E, ff = h.shape
        dy = dy.contiguous()
        dh, dw = torch.empty_like(h), torch.empty_like(w)
        LIB.swiglu_backward(T, E, ff, ptr(h), ptr(w), ptr(dy), ptr(dh), ptr(dw))
        return dh, dw


class Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, g):
        n, d = x.shape
        y, r = torch.empty_like(x), torch.empty(n)
        LIB.norm_forward(n, d, ptr(x), ptr(g), ptr(y), ptr(r))
        ctx.save_for_backward(x, g, r)
        return y

    @staticmethod
    def backward(ctx, dy):
        x, g, r = ctx.saved_tensors
        dy = dy.contiguous()
        dx, dg = torch.empty_like(x), torch.empty_like(g)
        LIB.norm_backward(x.shape[0], x.shape[1], ptr(x), ptr(g), ptr(r), ptr(dy), ptr(dx), ptr(dg))
        return dx, dg


def check():
    """Loss and every gradient, fused against plain, on lengths that do and do not fill tiles."""
    import model as M
    for B, L in ((3, 100), (2, 256), (1, 512)):
        torch.manual_seed(L)
        x, w = torch.randint(0, 300, (B, L)), torch.randn(B * L, 64)
        grads = []
        for fused in (True, False):
            m = M.Model(M.Config(n_vocab=300, hidden=64, ff=32, n_layers=2))
            with torch.no_grad():
                for i, p in enumerate(m.parameters()):
                    p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(i)) * 0.1)
            m.fused = fused
            h, aux = m.hidden(x)
            ((h * w).sum() + aux).backward()
            grads.append([h.detach()] + [p.grad for p in m.parameters() if p.grad is not None])
        worst = max(float((a - b).norm() / (b.norm() + 1e-6)) for a, b in zip(*grads))
        print(f"B={B} L={L}: largest relative difference {worst:.2e} of {len(grads[0])} tensors")
        assert worst < 1e-3


if __name__ == "__main__":
    check()
