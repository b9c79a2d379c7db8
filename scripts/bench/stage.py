"""What the benches stand on: the release build, a private Redis, a daemon in a directory of its own, and a table.

Everything lives in a temporary directory and is gone at the end. Needs python3, cargo, redis-server and, for the
figures of scripts, php. Only the standard library.
"""

import json
import os
import pathlib
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
ROUNDS = int(os.environ.get("ROUNDS", "5"))
KEY = "bench"
STATS = "{bench}:stark:stats"


def build(manifest="Cargo.toml", program="stark"):
    """Builds in release mode; the path of the program."""
    path = REPOSITORY / manifest
    command = ["cargo", "build", "--release", "--quiet", "--message-format=json", "--manifest-path", path]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    built = (json.loads(line).get("executable") for line in output.splitlines())
    return next(path for path in built if path and path.endswith("/" + program))


def need(*programs):
    missing = [program for program in programs if not shutil.which(program)]
    if missing:
        sys.exit("missing: " + " ".join(missing))


def wait_until(condition, limit=60.0, pause=0.0005):
    """Asks again and again; what a bench waits for is not slower than `pause` to see."""
    deadline = time.monotonic() + limit
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError("not within %s s" % limit)
        time.sleep(pause)
    return found


class Redis:
    """A private server without persistence, and a client of it."""

    def __init__(self, home):
        self.socket = os.path.join(home, "redis.sock")
        self.process = subprocess.Popen(
            ["redis-server", "--port", "0", "--unixsocket", self.socket, "--save", "", "--dir", home],
            stdout=subprocess.DEVNULL)
        wait_until(lambda: os.path.exists(self.socket))
        self.client = socket.socket(socket.AF_UNIX)
        wait_until(self.is_connected)
        self.replies = self.client.makefile("rb")

    def is_connected(self):
        try:
            self.client.connect(self.socket)
            return True
        except OSError:
            return False

    def ask(self, *words):
        parts = [b"*%d\r\n" % len(words)]
        for word in words:
            word = word if isinstance(word, bytes) else str(word).encode()
            parts.append(b"$%d\r\n%s\r\n" % (len(word), word))
        self.client.sendall(b"".join(parts))
        return self.reply()

    def reply(self):
        line = self.replies.readline().rstrip()
        kind, rest = line[:1], line[1:]
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return None if rest == b"-1" else self.replies.read(int(rest) + 2)[:-2]
        if kind == b"*":
            return None if rest == b"-1" else [self.reply() for _ in range(int(rest))]
        if kind == b"-":
            raise RuntimeError(rest.decode())
        return rest

    def fill(self, jobs, payload, key):
        script = ("local v = {} for i = 1, 1000 do v[i] = ARGV[1] end "
                  "for i = 1, ARGV[2] / 1000 do redis.call('RPUSH', KEYS[1], unpack(v)) end")
        self.ask("EVAL", script, 1, key, payload, jobs)

    def processed(self):
        return int(self.ask("HGET", STATS, "processed") or 0)


class Daemon:
    """A stark in a directory of its own, stopped at the end of its `with`."""

    def __init__(self, stark, redis, home, run, count):
        self.stark, self.redis = stark, redis
        self.home = tempfile.mkdtemp(dir=home)
        self.ini = os.path.join(self.home, "bench.ini")
        with open(self.ini, "w") as ini:
            ini.write(f"[main]\nport = 0\nworking_dir = {self.home}\n[run]\n{run}\n"
                      f"[worker]\ncount = {count}\nmax_run_count = 0\n[queue]\nhost = {redis.socket}\nkey = {KEY}\n")

    def command(self, *arguments):
        done = subprocess.run([self.stark, "-f", self.ini, *arguments], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr)
        return done.stdout

    def __enter__(self):
        self.redis.ask("FLUSHALL")
        began = time.monotonic()
        self.command()
        self.start_seconds = time.monotonic() - began
        return self

    def __exit__(self, *_):
        self.command("stop")

    @property
    def master(self):
        with open(os.path.join(self.home, "run", "bench.pid")) as pidfile:
            return int(pidfile.read())

    def info(self):
        lines = self.command("info").splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def workers(self):
        """The facts of `worker0`, `worker1`, ..."""
        info, workers = self.info(), []
        while line := info.get(f"worker{len(workers)}"):
            workers.append(dict(pair.split("=", 1) for pair in line.split(",")))
        return workers

    def is_idle(self):
        return all(worker["state"] == "idle" for worker in self.workers())

    def wait_until_idle(self):
        wait_until(self.is_idle, pause=0.01)


def children(pid):
    """The descent of a process, nearest first."""
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        own = [int(child) for child in file.read().split()]
    return own + [pid for child in own for pid in children(child)]


def script(home, text):
    path = os.path.join(home, "bench.php")
    with open(path, "w") as file:
        file.write(text)
    return f"script_file = {path}"


def stage():
    """What one bench stands on, for a `with`."""
    need("cargo", "redis-server")
    return Stage(build(), tempfile.mkdtemp(prefix="stark-bench-"))


class Stage:
    """A temporary directory with a Redis, and the program under test."""

    def __init__(self, stark, home):
        self.home = home
        self.redis = Redis(home)
        self.stark = stark

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.redis.process.terminate()
        self.redis.process.wait()
        shutil.rmtree(self.home)

    def daemon(self, run, count):
        return Daemon(self.stark, self.redis, self.home, run, count)


def median(values):
    return statistics.median(values)


def percentile(values, share):
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def table(heads, rows):
    rows = [[str(cell) for cell in row] for row in rows]
    print("| " + " | ".join(heads) + " |")
    print("|" + "---|" * len(heads))
    for row in rows:
        print("| " + " | ".join(row) + " |")
