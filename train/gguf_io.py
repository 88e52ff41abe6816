# SPDX-License-Identifier: MIT
"""GGUF v3, as little of it as tandem-mini needs: F32, Q8_0 and MXFP4, written and read back.

Layouts: ggml/docs/gguf.md and ggml-common.h of ggml-org/llama.cpp; MXFP4 is OCP MX 1.0: 32 codes
of 4 bits (E2M1) and one power of two (E8M0, bias 127).
"""
import struct

import numpy as np

F32, Q8_0, MXFP4 = 0, 8, 39
BLOCK = {F32: (1, 4), Q8_0: (32, 34), MXFP4: (32, 17)}
U32, FLOAT, BOOL, STRING, ARRAY, I32 = 4, 6, 7, 8, 9, 5
FP4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
EDGES = np.array([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0], np.float32)
SIGNED = np.concatenate([FP4, -FP4])


def pack_q8_0(w):
    b = np.ascontiguousarray(w, np.float32).reshape(-1, 32)
    d = np.abs(b).max(1, keepdims=True) / 127
    q = np.where(d > 0, np.rint(b / np.where(d > 0, d, 1)), 0).clip(-127, 127).astype(np.int8)
    return np.concatenate([d.astype("<f2").view(np.uint8), q.view(np.uint8)], 1).tobytes()


def pack_mxfp4(w):
    """The same rounding as model.mxfp4."""
    b = np.ascontiguousarray(w, np.float32).reshape(-1, 32)
    top = np.maximum(np.abs(b).max(1, keepdims=True), np.float32(1e-30))
    e = np.floor(np.log2(top)) - 2
    e = np.clip(e + (top > 7 * np.exp2(e)), -127, 127)
    code = np.searchsorted(EDGES, np.abs(b) / np.exp2(e), side="left") + 8 * (b < 0)
    packed = (code[:, :16] | code[:, 16:] << 4).astype(np.uint8)
    return np.concatenate([(e + 127).astype(np.uint8), packed], 1).tobytes()


PACK = {F32: lambda w: np.ascontiguousarray(w, "<f4").tobytes(), Q8_0: pack_q8_0, MXFP4: pack_mxfp4}


def unpack(kind, raw, shape):
    if kind == F32:
        return np.frombuffer(raw, "<f4").reshape(shape).copy()
    b = np.frombuffer(raw, np.uint8).reshape(-1, BLOCK[kind][1])
    if kind == Q8_0:
        out = b[:, 2:].view(np.int8).astype(np.float32) * b[:, :2].copy().view("<f2").astype(np.float32)
    else:
        code = np.concatenate([b[:, 1:] & 15, b[:, 1:] >> 4], 1)
        out = SIGNED[code] * np.exp2(b[:, :1].astype(np.float32) - 127)
    return out.reshape(shape).astype(np.float32)


def _string(s):
    raw = s.encode("utf-8")
    return struct.pack("<Q", len(raw)) + raw


def _value(kind, v):
    if kind == ARRAY:
        of, items = v
        return struct.pack("<IQ", of, len(items)) + b"".join(_value(of, x) for x in items)
    if kind == STRING:
        return _string(v)
    return struct.pack({U32: "<I", FLOAT: "<f", BOOL: "<?", I32: "<i"}[kind], v)


def write(path, keys, tensors, align=32):
    """keys: (name, kind, value); tensors: (name, kind, array), arrays row-major, last axis first in the file."""
    head = struct.pack("<IIQQ", 0x46554747, 3, len(tensors), len(keys))
    for name, kind, v in keys:
        head += _string(name) + struct.pack("<I", kind) + _value(kind, v)
    blobs, at = [], 0
    for name, kind, w in tensors:
        dims = w.shape[::-1]
        assert dims[0] % BLOCK[kind][0] == 0, name
        head += _string(name) + struct.pack("<I", len(dims)) + struct.pack(f"<{len(dims)}Q", *dims)
        head += struct.pack("<IQ", kind, at)
        raw = PACK[kind](w)
        raw += bytes(-len(raw) % align)
        blobs.append(raw)
        at += len(raw)
    with open(path, "wb") as f:
        f.write(head + bytes(-len(head) % align))
        f.writelines(blobs)


def read(path):
    """(keys, tensors) with every tensor as float32."""
    data = open(path, "rb").read()
    at = 0

    def take(fmt):
        nonlocal at
        v = struct.unpack_from("<" + fmt, data, at)
        at += struct.calcsize("<" + fmt)
        return v[0] if len(v) == 1 else v

    def string():
        nonlocal at
        n = take("Q")
        at += n
        return data[at - n:at].decode("utf-8")

    def value(kind):
        if kind == STRING:
            return string()
        if kind == ARRAY:
            of, n = take("I"), take("Q")
            return [value(of) for _ in range(n)]
        return take({0: "B", 1: "b", 2: "H", 3: "h", U32: "I", I32: "i", FLOAT: "f", BOOL: "?", 10: "Q", 11: "q", 12: "d"}[kind])

    assert take("I") == 0x46554747 and take("I") == 3
    n_tensors, n_keys = take("Q"), take("Q")
    keys = {}
    for _ in range(n_keys):
        name = string()
        keys[name] = value(take("I"))
    infos = []
    for _ in range(n_tensors):
        name = string()
        dims = [take("Q") for _ in range(take("I"))]
        infos.append((name, dims, take("I"), take("Q")))
    at += -at % keys.get("general.alignment", 32)
    tensors = {}
    for name, dims, kind, off in infos:
        n = int(np.prod(dims))
        size = n // BLOCK[kind][0] * BLOCK[kind][1]
        tensors[name] = unpack(kind, data[at + off:at + off + size], dims[::-1])
    return keys, tensors
