#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""`tandem serve` among clients that mean it ill: each gets a proper error or a closed connection,
their work ends, and a stream beside them stays what it is alone, to the byte.

    test_serve_hostile.py TANDEM MODEL

Nothing here depends on how fast the machine is. Only the standard library.
"""
import http.client
import json
import socket
import struct
import subprocess
import sys
import threading
import time

PATIENCE = 120  # seconds: longer than anything takes; it only ends a test that hangs
LARGE = 100 << 20
# Slow enough that the others come while it runs, however quick the machine is.
OPTIONS = ["-t", "1", "--port", "0", "--slots", "4", "--queue", "256", "--pace-decode", "100",
           "--request-timeout", "3", "--max-body", "4M"]
STREAM = {"prompt": "A long story:", "stream": True, "ignore_eos": True, "max_tokens": 250, "temperature": 0}

n_checks = 0
failures = []


def check(is_right, what):
    global n_checks
    n_checks += 1
    if not is_right:
        failures.append(what)
        print(f"FAILED: {what}", flush=True)


class Server:
    def __init__(self, tandem, model):
        self.process = subprocess.Popen([tandem, "serve", "-m", model, "--log-format", "none", *OPTIONS],
                                        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self.port = None
        for line in self.process.stderr:
            if line.startswith("serving at http"):
                self.port = int(line.split("http://")[1].split("/")[0].rsplit(":", 1)[1])
                break
        if not self.port:
            sys.exit(f"{tandem} did not start")
        threading.Thread(target=self.process.stderr.read, daemon=True).start()

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)

    def get(self, path):
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        c.request("GET", path)
        answer = c.getresponse()
        body = answer.read()
        c.close()
        return answer.status, body

    def stream(self, seen=lambda n: None):
        """The text of the stream, and the longest pause in it."""
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        c.request("POST", "/v1/completions", json.dumps(STREAM), {"Content-Type": "application/json"})
        answer = c.getresponse()
        text, n, is_whole = "", 0, False
        for line in answer:
            if line == b"data: [DONE]\n":
                is_whole = True
            elif line.startswith(b"data: {"):
                event = json.loads(line[6:])
                text += "".join(choice["text"] for choice in event.get("choices", []))
                n += 1
                seen(n)
        c.close()
        return text if is_whole else None


def head(length, path="/v1/chat/completions", more=""):
    return (f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"{more}Content-Length: {length}\r\n\r\n").encode()


def request(body, path="/v1/chat/completions"):
    return head(len(body), path) + body


def read_status(s):
    """The status of an answer, or 0 when the connection ends without one."""
    got = b""
    try:
        while b"\r\n" not in got:
            part = s.recv(4096)
            if not part:
                break
            got += part
    except OSError:
        pass
    line = got.split(b"\r\n")[0].split(b" ")
    return int(line[1]) if len(line) > 1 and line[0] == b"HTTP/1.1" else 0


def send(s, data):
    """False when the other side has closed."""
    try:
        s.sendall(data)
        return True
    except OSError:
        return False


def expect(server, what, data, statuses):
    with server.connect() as s:
        send(s, data)
        status = read_status(s)
    check(status in statuses, f"{what}: {status}, not one of {statuses}")


def bodies(server):
    expect(server, "100 MB, said beforehand", head(LARGE), (413,))
    with server.connect() as s:  # said beforehand and sent all the same
        send(s, head(LARGE))
        piece = b" " * (1 << 20)
        for _ in range(LARGE >> 20):
            if not send(s, piece):
                break
        check(read_status(s) in (413, 0), "100 MB are taken")
    with server.connect() as s:  # not said beforehand
        send(s, b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(LARGE >> 20):
            if not send(s, b"100000\r\n" + piece + b"\r\n"):
                break
        check(read_status(s) in (413, 0), "100 MB in chunks are taken")
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/api/chat", "/api/generate"):
        for deep in (b'{"a":' * 10000, b'{"messages":' + b"[" * 10000 + b"]" * 10000 + b"}",
                     b'{"prompt":' + b"[" * 10000 + b"]" * 10000 + b"}"):
            expect(server, f"10,000 levels at {path}", request(deep, path), (400,))
        for bad in (b'{"prompt":"\xff\xfe","messages":[{"role":"user","content":"\xc3"}],"input":"\xed\xa0\x80"}',
                    b'{"pro\x80mpt":"a"}', b'\xef\xbb\xbf{"prompt":"a"}', b'{"prompt":"\\ud800","input":"\\ud800",'
                    b'"messages":[{"role":"user","content":"\\ud800"}]}', b"\x00", b"[]", b"null", b"",
                    b'{"prompt":1e400}', b'{"prompt":"a","max_tokens":99999999999999999999}'):
            expect(server, f"{bad[:40]!r} at {path}", request(bad, path), (400,))


def floods(server):
    for what, start, more in (("headers", b"GET / HTTP/1.1\r\nHost: localhost\r\n", b"X-Header: of no use\r\n"),
                              ("a header", b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ", b"y" * 64),
                              ("a path", b"GET /", b"a" * 64)):
        with server.connect() as s:
            is_taken = send(s, start)
            for _ in range(20000):
                is_taken = is_taken and send(s, more)
            check(read_status(s) in (431, 414, 400, 0), f"a flood of {what} is taken")


def slow(server):
    """Requests that drip: cut off, all of them, though none is ever silent."""
    body = request(b'{"prompt":"' + b"x" * 4000 + b'"}', "/v1/completions")
    clients = [server.connect() for _ in range(40)]
    starts = [b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: ", body[:200]]
    for i, s in enumerate(clients):
        send(s, starts[i % 2])
    until = time.monotonic() + PATIENCE
    waiting = list(clients)
    while waiting and time.monotonic() < until:
        time.sleep(0.1)
        for s in list(waiting):
            s.setblocking(False)
            try:
                if send(s, b"x") and s.recv(4096):
                    continue
                waiting.remove(s)
            except BlockingIOError:
                pass
            except OSError:
                waiting.remove(s)
    check(not waiting, f"{len(waiting)} requests that drip are waited for")
    for s in clients:
        s.close()


def leave(s, is_reset):
    if is_reset:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    s.close()


def leavers(server):
    """Clients that leave at each stage of a request."""
    ask = {"prompt": "A long story:", "ignore_eos": True, "max_tokens": 3000}
    whole, stream = (request(json.dumps({**ask, "stream": is_stream}).encode(), "/v1/completions")
                     for is_stream in (False, True))
    long_prompt = request(json.dumps({"prompt": "It was windy. " * 600, "max_tokens": 3000,
                                      "stream": True}).encode(), "/v1/completions")
    stages = [("before a byte", b"", 0), ("in the first line", whole[:9], 0), ("in the head", whole[:40], 0),
              ("before the body", whole[:-len(whole.split(b"\r\n\r\n")[1])], 0), ("in the body", whole[:-5], 0),
              ("before the answer", whole, 0), ("while the prompt is read", long_prompt, 0),
              ("at the stream's head", stream, 1), ("in the stream", stream, 600)]
    for _ in range(2):
        for what, data, n_read in stages:
            for is_reset in (False, True):
                s = server.connect()
                send(s, data)
                got = 0
                try:
                    while got < n_read:
                        part = s.recv(n_read - got)
                        if not part:
                            break
                        got += len(part)
                except OSError:
                    pass
                check(got >= n_read, f"who wants to leave {what} is left first")
                leave(s, is_reset)


def half_closed(server):
    """Who says that it sends no more still gets its answer; who then leaves has left."""
    short = request(json.dumps({"prompt": "Once", "max_tokens": 4}).encode(), "/v1/completions")
    long = request(json.dumps({"prompt": "Once", "max_tokens": 3000, "ignore_eos": True, "stream": True}).encode(),
                   "/v1/completions")
    with server.connect() as s:
        send(s, short)
        s.shutdown(socket.SHUT_WR)
        # An interim answer may ask whether it is still there.
        got = b""
        while part := s.recv(4096):
            got += part
        check(b"HTTP/1.1 200" in got, f"half closed: {got[:40]!r}")
    for is_reset in (False, True):
        s = server.connect()
        send(s, long)
        s.shutdown(socket.SHUT_WR)
        check(read_status(s) in (100, 200), "half closed and streaming: no answer")
        leave(s, is_reset)


def health(server):
    return json.loads(server.get("/health")[1])


def main():
    server = Server(sys.argv[1], sys.argv[2])
    alone = server.stream()
    check(alone, "the stream alone is cut off")
    attacks = [bodies, floods, slow, leavers, half_closed]
    has_begun = threading.Event()
    beside = []
    threads = [threading.Thread(target=attack, args=(server,)) for attack in attacks]

    # A stream is there before the others come, and for as long as they are there.
    def read_streams():
        while not beside or any(t.is_alive() for t in threads):
            beside.append(server.stream(lambda n: has_begun.set()))

    reader = threading.Thread(target=read_streams)
    reader.start()
    has_begun.wait(PATIENCE)
    for t in threads:
        t.start()
    for t in threads + [reader]:
        t.join(PATIENCE)
        check(not t.is_alive(), "somebody waits for ever")
    for text in beside:
        check(text == alone, "the stream beside them is another one")
    # Whatever they asked for has ended, long before it would have by itself.
    until = time.monotonic() + PATIENCE
    while (now := health(server)) and (now["running"] or now["queued"]) and time.monotonic() < until:
        time.sleep(0.1)
    check(now["running"] == 0 and now["queued"] == 0, f"work of nobody goes on: {now}")
    check(server.stream() == alone, "the stream afterwards is another one")
    check(server.process.poll() is None, f"the server ended: {server.process.poll()}")
    server.process.terminate()
    code = server.process.wait(PATIENCE)
    check(code == 0, f"the server: exit {code}")
    print(f"test_serve_hostile.py: {n_checks} checks, {len(failures)} failed")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
