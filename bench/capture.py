#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Listens on the link between two network namespaces while a prompt is read over it, and looks for
the prompt in what went by. Needs root and Linux.

    bench/capture.py [--tandem build/tandem] [--model MODEL] [--tokens FILE]

Looked for: the token ids as the protocol writes them (eight in a row), as text, the prompt's text, and
the KV itself: rows of a layer as the model here computes them cannot be known from outside, so the
same run is captured once more in the clear on loopback, and whatever 32 bytes of its spans appear in
both captures count. Also looked for: the frames' magic. In the clear all of these must be found, or
the search would prove nothing; over TLS none may be.

Exit code 0; 1 when something is found that must not be, or not found that must.
"""
import argparse
import random
import struct
import subprocess
import sys
import threading
import time

from relay_lab import Lab, Namespaces, Prefill, Trouble, ask

MODEL = "synth:tiny,layers=4,vocab=1024,ctx=4096"


class Capture:
    """Every byte of TCP that passes a device, in the order it was seen: python in a namespace."""

    SCRIPT = """
import socket, sys
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 20)
s.bind((sys.argv[1], 0))
sys.stderr.write("on\\n"); sys.stderr.flush()
out = sys.stdout.buffer
while True:
    p = s.recv(1 << 17)
    if len(p) < 54 or p[12:14] != b"\\x08\\x00" or p[23] != 6:
        continue
    at = 14 + (p[14] & 15) * 4
    body = p[at + (p[at + 12] >> 4) * 4:]
    out.write(body); out.flush()
"""

    def __init__(self, prefix, device):
        self.bytes = bytearray()
        self.process = subprocess.Popen(list(prefix) + [sys.executable, "-c", self.SCRIPT, device],
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        if self.process.stderr.readline() != b"on\n":
            raise Trouble("cannot listen on the link: needs root")
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        while True:
            some = self.process.stdout.read1(1 << 20)
            if not some:
                return
            self.bytes += some

    def close(self):
        time.sleep(0.5)
        self.process.kill()
        self.reader.join()
        self.process.wait()
        return bytes(self.bytes)


def read_over(lab, net, args, has_key):
    """One prompt over the link (with the key) or over the far side's loopback (without)."""
    address = net.far_address if has_key else "127.0.0.1"
    prefix = net.near() if has_key else net.far()
    capture = Capture(net.far(), "eth0" if has_key else "lo")
    far = Prefill(lab, args.model, listen=f"{address}:0", prefix=net.far(), has_key=has_key,
                  options=["--ctx", "2048", "-t", "1"])
    try:
        far.wait()
        options = ["--prefill", far.listen, "--prefill-policy", "require", "-t", "1"]
        got = ask(lab, args.model, args.tokens, options + (["--key", lab.key] if has_key else []),
                  prefix=prefix)
        if got.code or got.stats["path"] != "remote":
            raise Trouble(f"the prompt was not read over the link: {got.said}")
    finally:
        far.kill()
    return capture.close()


def pieces_of_kv(clear):
    """Places in the clear capture's spans: 32 bytes each, not of one value."""
    found, at = [], 0
    while (at := clear.find(b"TDKV\x01\x15", at)) >= 0:
        size = struct.unpack_from("<I", clear, at + 28)[0]
        for k in range(at + 48 + 64, min(at + 48 + size, len(clear)) - 32, max(size // 4, 64)):
            piece = clear[k:k + 32]
            if len(set(piece)) > 8:
                found.append(piece)
        at += 48
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--tandem", default="build/tandem")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--tokens", help="token ids in a file; default: some at random")
    args = parser.parse_args()
    lab, net = Lab(args.tandem), None
    try:
        if not args.tokens:
            args.tokens = lab.new_prompt("prompt.txt", 700, 1024, random.randrange(1 << 30))
        with open(args.tokens, encoding="ascii") as f:
            ids = [int(x) for x in f.read().split()]
        net = Namespaces()
        clear = read_over(lab, net, args, False)
        sealed = read_over(lab, net, args, True)
        rows = [struct.pack("<8i", *ids[i:i + 8]) for i in range(0, len(ids) - 8, 50)]
        text = [" ".join(map(str, ids[i:i + 8])).encode() for i in range(0, len(ids) - 8, 50)]
        text += ["\n".join(map(str, ids[i:i + 8])).encode() for i in range(0, len(ids) - 8, 50)]
        looked = [("token ids", rows, True), ("token ids as text", text, False),
                  ("KV", pieces_of_kv(clear), True), ("frames", [b"TDKV\x01"], True),
                  ("the model's name", [args.model.split(",")[0].split(":")[-1].encode()], False)]
        is_fine = len(sealed) > 100000
        print(f"captured: {len(clear)} bytes in the clear, {len(sealed)} over TLS")
        for name, needles, must in looked:
            n = [sum(x in capture for x in needles) for capture in (clear, sealed)]
            is_ok = (not must or n[0] > 0) and n[1] == 0
            is_fine = is_fine and is_ok
            print(f"{name:20} {len(needles):6} looked for, {n[0]:6} found in the clear, {n[1]:6} over "
                  f"TLS{'' if is_ok else '   WRONG'}")
        return 0 if is_fine else 1
    except (Trouble, OSError, subprocess.SubprocessError) as e:
        print(f"capture: {e}", file=sys.stderr)
        return 1
    finally:
        if net:
            net.close()
        lab.close()


if __name__ == "__main__":
    sys.exit(main())
