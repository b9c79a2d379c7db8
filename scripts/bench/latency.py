#!/usr/bin/env python3
"""Latency: from a push to the start of `run` on an idle daemon of 4 workers. A PHP script says how old the push was when
it was called; beside it a bare PHP loop on BLPOP does the same. The builtin cannot: what is measured for it ends when
the bench has read its line, and so includes the way back through a pipe."""

import os
import subprocess
import time

from stage import KEY, need, percentile, script, stage, table

JOBS = int(os.environ.get("JOBS", "1000"))
WARM_UP = 20
# Time for a worker to be idle again.
PAUSE = 0.005
STARK = """<?php
function run($worker, $data) { $now = hrtime(true); file_put_contents('%s', ($now - (int) $data) . "\\n"); }
"""
BARE = """
$redis = stream_socket_client('unix://%s');
while (true) {
    fwrite($redis, "*3\\r\\n\\$5\\r\\nBLPOP\\r\\n\\$4\\r\\nbare\\r\\n\\$1\\r\\n0\\r\\n");
    for ($line = 0; $line < 5; $line++) $data = fgets($redis);
    $now = hrtime(true);
    file_put_contents('%s', ($now - (int) $data) . "\\n");
}
"""


class Pipe:
    """A named pipe that jobs write a line to; nobody polls."""

    def __init__(self, home):
        self.path = os.path.join(home, "pipe")
        os.mkfifo(self.path)
        # Open for both, so that a writer that closes is not the end.
        self.lines = os.fdopen(os.open(self.path, os.O_RDWR), "rb", buffering=0)


def push_each(redis, key, payload, measure):
    """One job after the other, each on an idle consumer; milliseconds."""
    taken = []
    for _ in range(WARM_UP + JOBS):
        pushed = time.monotonic_ns()
        redis.ask("RPUSH", key, payload or pushed)
        taken.append(measure(pushed) / 1e6)
        time.sleep(PAUSE)
    return taken[WARM_UP:]


def main():
    need("php")
    with stage() as here:
        pipe = Pipe(here.home)

        def said(_):
            return int(pipe.lines.readline())

        def seen(pushed):
            pipe.lines.readline()
            return time.monotonic_ns() - pushed

        with here.daemon(script(here.home, STARK % pipe.path), 4) as running:
            running.wait_until_idle()
            ours = push_each(here.redis, KEY, None, said)
        with here.daemon("builtin = probe", 4) as running:
            running.wait_until_idle()
            builtin = push_each(here.redis, KEY, f"append {pipe.path} x", seen)
        loop = subprocess.Popen(["php", "-r", BARE % (here.redis.socket, pipe.path)])
        bare = push_each(here.redis, "bare", None, said)
        loop.kill()
        loop.wait()
    rows = (("stark, PHP", ours), ("PHP loop on BLPOP", bare), ("stark, builtin, and back to the bench", builtin))
    table(
        ["push to start of run, idle, %d jobs" % JOBS, "p50 ms", "p99 ms"],
        [[name, f"{percentile(t, .5):.3f}", f"{percentile(t, .99):.3f}"] for name, t in rows])


if __name__ == "__main__":
    main()
