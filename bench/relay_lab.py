# SPDX-License-Identifier: MIT
"""What the scripts beside it share: a prefill process that can be killed, the fault proxy, prompts
asked of the program, two network namespaces. Python's standard library only."""
import json
import os
import random
import re
import signal
import struct
import subprocess
import tempfile
import threading
import time


class Trouble(Exception):
    pass


def _end(number, _):
    raise SystemExit(128 + number)


# Ended by `timeout` or `kill`, a script still takes away its processes and namespaces.
signal.signal(signal.SIGTERM, _end)


class Lab:
    """A folder that goes away, with a key and a cache of its own; the program's environment."""

    def __init__(self, tandem, proxy=None):
        self.tandem = os.path.abspath(tandem)
        self.proxy_program = os.path.abspath(proxy) if proxy else None
        self._folder = tempfile.TemporaryDirectory(prefix="tandem-lab.")
        self.folder = self._folder.name
        self.env = dict(os.environ, HOME=self.folder, XDG_CACHE_HOME=self.folder, NO_COLOR="1")
        self.key = self.new_key("key")

    def close(self):
        self._folder.cleanup()

    def path(self, name):
        return os.path.join(self.folder, name)

    def new_key(self, name):
        subprocess.run([self.tandem, "key", "new", self.path(name)], check=True, env=self.env,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return self.path(name)

    def new_prompt(self, name, n_tokens, n_vocab, seed):
        rng = random.Random(seed)
        ids = [rng.randrange(n_vocab) for _ in range(n_tokens)]
        with open(self.path(name), "w", encoding="ascii") as f:
            f.write("\n".join(map(str, ids)) + "\n")
        return self.path(name)


class Prefill:
    """`tandem prefill`, which can be killed and started again at the same port."""

    def __init__(self, lab, model, listen="127.0.0.1:0", options=(), prefix=(), has_key=True):
        self.lab, self.model, self.listen = lab, model, listen
        self.options, self.prefix = list(options), list(prefix)
        self.process, self.lines = None, []
        self.key = lab.key if has_key else None
        self.start()

    def start(self, model=None, options=None, key=None):
        command = self.prefix + [self.lab.tandem, "prefill", "-m", model or self.model, "--listen",
                                 self.listen]
        if key or self.key:
            command += ["--key", key or self.key]
        command += self.options if options is None else list(options)
        self.process = subprocess.Popen(command, env=self.lab.env, stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self.ready = threading.Event()
        self.reader = threading.Thread(target=self._read, args=(self.process,), daemon=True)
        self.reader.start()

    def _read(self, process):
        for line in process.stderr:
            self.lines.append(line.rstrip("\n"))
            found = re.search(r"listening on (\S+):(\d+)", line)
            if found:
                self.listen = f"{found[1]}:{found[2]}"
                self.ready.set()
        self.ready.set()

    def wait(self, seconds=60):
        if not self.ready.wait(seconds) or self.process.poll() is not None:
            raise Trouble("prefill does not come up: " + " | ".join(self.lines[-3:]))

    @property
    def port(self):
        return int(self.listen.rsplit(":", 1)[1])

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.reader.join()
        self.process.stderr.close()

    def stop(self, seconds=20):
        """Asks it to end, as Ctrl-C does; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired as e:
            self.kill()
            raise Trouble("prefill does not end when asked") from e
        self.reader.join()
        self.process.stderr.close()
        return code

    def n_fds(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def rss_kib(self):
        with open(f"/proc/{self.process.pid}/status", encoding="ascii") as f:
            return int(re.search(r"VmRSS:\s+(\d+)", f.read())[1])


class Proxy:
    """The fault proxy: begin(plan) starts anew, on_hit is called for each fault that came to pass."""

    def __init__(self, lab, to_port, host="127.0.0.1", to_host="127.0.0.1", plan="", prefix=()):
        self.on_hit = None
        self._answers, self._lock = [], threading.Condition()
        self.process = subprocess.Popen(
            list(prefix) + [lab.proxy_program, host, "0", to_host, str(to_port)] + plan.split(),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        self.host = host
        self.port = int(self._answer().split()[1])

    def _read(self):
        for line in self.process.stdout:
            if line.startswith("hit "):
                if self.on_hit:
                    self.on_hit(int(line.split()[1]))
                continue
            with self._lock:
                self._answers.append(line.strip())
                self._lock.notify()

    def _answer(self):
        with self._lock:
            if not self._lock.wait_for(lambda: self._answers, 20):
                raise Trouble("the fault proxy does not answer")
            return self._answers.pop(0)

    def begin(self, plan):
        self.process.stdin.write(f"begin {plan}\n")
        if self._answer() != "ok":
            raise Trouble(f"the fault proxy does not take the plan '{plan}'")

    def count(self):
        """(connections, faults that came to pass, open now, [(bytes to, bytes from), ...])"""
        self.process.stdin.write("count\n")
        n = [int(x) for x in self._answer().split()[1:]]
        return n[0], n[1], n[2], list(zip(n[3::2], n[4::2]))

    def close(self):
        self.process.stdin.close()
        self.process.wait(20)
        self.reader.join()
        self.process.stdout.close()


class Answer:
    """What `eval --last` said: exit code, the logits' bytes, the prefill object of --stats json."""

    def __init__(self, code, logits, stats, said, seconds):
        self.code, self.logits, self.stats = code, logits, stats
        self.said, self.seconds = said, seconds


def ask(lab, model, tokens, options=(), prefix=(), timeout=300):
    """Reads a prompt with `eval --last`; a run that does not end in time is a Trouble."""
    out = lab.path(f"logits-{threading.get_ident()}.npy")
    if os.path.exists(out):
        os.remove(out)
    command = list(prefix) + [lab.tandem, "eval", "-m", model, "--tokens", tokens, "--last",
                              "--logits", out] + list(options)
    if "--prefill" in options:
        command += ["--stats", "json"]
    t0 = time.monotonic()
    try:
        done = subprocess.run(command, env=lab.env, stdin=subprocess.DEVNULL, timeout=timeout,
                              stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                              check=False)
    except subprocess.TimeoutExpired as e:
        raise Trouble(f"stuck for {timeout} s: {' '.join(command)}") from e
    seconds = time.monotonic() - t0
    stats, said = None, []
    for line in done.stderr.splitlines():
        if line.startswith("{"):
            stats = json.loads(line).get("prefill")
        elif line.startswith("tandem: ") and "synthetic weights" not in line:
            said.append(line)
    logits = None
    if done.returncode == 0:
        with open(out, "rb") as f:
            logits = f.read()
    return Answer(done.returncode, logits, stats, said, seconds)


def npy_floats(data):
    """The numbers of a float32 .npy file."""
    n_header = struct.unpack("<H", data[8:10])[0]
    body = data[10 + n_header:]
    return struct.unpack(f"<{len(body) // 4}f", body)


class Namespaces:
    """bench/tandem_netns.sh: the far side is 10.77.0.1, the near side 10.77.0.2."""

    script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "tandem_netns.sh")
    far_address, near_address = "10.77.0.1", "10.77.0.2"

    def __init__(self, rate="none"):
        self.name = f"tdlab{os.getpid()}"
        self._call("up", self.name, rate)

    def _call(self, *words):
        done = subprocess.run([self.script, *words], stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            raise Trouble(done.stderr.strip() or f"{self.script} failed")

    def rate(self, bits_per_s):
        self._call("rate", self.name, f"{bits_per_s:.0f}bit" if bits_per_s else "none")

    def far(self):
        return [self.script, "in", self.name, "far"]

    def near(self):
        return [self.script, "in", self.name, "near"]

    def close(self):
        self._call("down", self.name)
