#!/usr/bin/env python3
"""The admin port: how long one client waits for `INFO` and `PING`. 100 workers are idle; then comes trouble: 1000 idle
connections, a client that never reads, a stopped worker, a stopped logger (which stands for a disk that stalls) while
every client is worth a log line. At last the workers drain a queue of empty jobs, and compute, with and without
`worker.nice`.

The client shares the machine with all others, so under load its own waits for a core are in the figures; the column of
a bare Redis that answers `PING` to the same client at the same time shows them. `SECONDS` (5) per row."""

import contextlib
import os
import resource
import signal
import socket
import threading
import time

from stage import KEY, Daemon, Redis, children, percentile, stage, table

SECONDS = float(os.environ.get("SECONDS", "5"))
WORKERS = 100
# Between two questions. With 50 busy workers on its core a master has 2 % of it: asked without end, it waits for more.
PAUSE = 0.02
REFILL = 500_000


class Talkative(Daemon):
    """100 workers, room for many clients, and a line of log for each."""

    def __init__(self, here, run, nice=0):
        super().__init__(here.stark, here.redis, here.home, run, WORKERS)
        with open(self.ini) as ini:
            text = ini.read()
        with open(self.ini, "w") as ini:
            ini.write(text.replace("[main]\n", "[main]\nmax_clients = 1200\nlog_level = debug\n")
                      .replace("[worker]\n", f"[worker]\nnice = {nice}\n"))

    @property
    def port(self):
        with open(os.path.join(self.home, "run", "bench.port")) as file:
            return int(file.read())

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port))

    def logger(self):
        for pid in children(self.master):
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                if b"logger" in file.read():
                    return pid
        raise RuntimeError("no logger")


class Client:
    """Asks and waits, one question at a time."""

    def __init__(self, stream):
        self.stream = stream
        self.replies = stream.makefile("rb")

    def ask(self, word):
        began = time.monotonic_ns()
        self.stream.sendall(word + b"\r\n")
        line = self.replies.readline()
        if line[:1] == b"$":
            self.replies.read(int(line[1:]) + 2)
        elif line[:1] != b"+":
            raise RuntimeError(line)
        return (time.monotonic_ns() - began) / 1e6


def row(running, redis, name):
    clients = {"INFO": Client(running.connect()), "PING": Client(running.connect())}
    peer = socket.socket(socket.AF_UNIX)
    peer.connect(redis.socket)
    clients["Redis' PING"] = Client(peer)
    taken = {who: [] for who in clients}
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        for who, client in clients.items():
            taken[who].append(client.ask(who.split()[-1].encode()))
        time.sleep(PAUSE)
    cells = [f"{percentile(t, .5):.2f} / {percentile(t, .99):.2f} / {max(t):.2f}" for t in taken.values()]
    return [name, len(taken["INFO"]), *cells]


@contextlib.contextmanager
def refilled(redis):
    """Keeps the queue from running dry."""
    end = threading.Event()
    client = Redis.__new__(Redis)
    client.client = socket.socket(socket.AF_UNIX)
    client.client.connect(redis.socket)
    client.replies = client.client.makefile("rb")

    def fill():
        while not end.wait(0.02):
            if client.ask("LLEN", KEY) < REFILL:
                # In steps, or the server would do nothing else meanwhile.
                client.fill(20_000, "x" * 10, KEY)

    thread = threading.Thread(target=fill)
    thread.start()
    yield
    end.set()
    thread.join()
    client.ask("DEL", KEY)


@contextlib.contextmanager
def stopped(pid):
    os.kill(pid, signal.SIGSTOP)
    yield
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def crowd(running, count):
    clients = [running.connect() for _ in range(count)]
    yield
    for client in clients:
        client.close()


@contextlib.contextmanager
def never_reading(running):
    """Asks until neither side takes more, and reads nothing; closed by the master, it comes again."""
    end = threading.Event()

    def ask():
        while not end.is_set():
            client = running.connect()
            client.settimeout(0.2)
            with contextlib.suppress(OSError):
                while not end.is_set():
                    client.sendall(b"INFO\r\n" * 100)
            client.close()

    thread = threading.Thread(target=ask)
    thread.start()
    yield
    end.set()
    thread.join()


@contextlib.contextmanager
def chatter(running):
    """Clients that come and go: two lines of log each."""
    end = threading.Event()

    def come_and_go():
        while not end.wait(0.0005):
            running.connect().close()

    thread = threading.Thread(target=come_and_go)
    thread.start()
    yield
    end.set()
    thread.join()


def main():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    rows = []
    with stage() as here:
        redis = here.redis
        with Talkative(here, "builtin = null") as running:
            running.wait_until_idle()
            rows.append(row(running, redis, "idle"))
            with crowd(running, 1000):
                rows.append(row(running, redis, "1000 idle connections"))
            with never_reading(running):
                rows.append(row(running, redis, "a client that never reads"))
            with stopped(int(running.workers()[0]["pid"])):
                rows.append(row(running, redis, "a stopped worker"))
            with chatter(running):
                rows.append(row(running, redis, "clients that come and go"))
                with stopped(running.logger()):
                    rows.append(row(running, redis, "the same, a stopped logger"))
            running.wait_until_idle()
        for nice in (0, 10):
            with Talkative(here, "builtin = null", nice) as running:
                running.wait_until_idle()
                with refilled(redis):
                    rows.append(row(running, redis, f"draining empty jobs, worker.nice = {nice}"))
            with Talkative(here, "builtin = probe", nice) as running:
                running.wait_until_idle()
                redis.fill(int(SECONDS + 5) * 2000, "spin 5", KEY)
                rows.append(row(running, redis, f"all 100 compute, worker.nice = {nice}"))
                redis.ask("DEL", KEY)
    table(["%d workers, p50 / p99 / max ms" % WORKERS, "questions", "INFO", "PING", "bare Redis' PING"], rows)


if __name__ == "__main__":
    main()
