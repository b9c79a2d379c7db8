#!/usr/bin/env python3
"""Latency: from a push to the start of `run` on an idle daemon of 4 workers, for a PHP script that notes the time at
which it was called. Beside it, in the same rounds, a bare PHP loop on BLPOP."""

import os
import subprocess
import time

from stage import KEY, need, percentile, script, stage, table, wait_until

JOBS = int(os.environ.get("JOBS", "1000"))
PAUSE = 0.005
STARK = """<?php
function run($worker, $data) { $now = hrtime(true); file_put_contents('%s', ($now - (int) $data) . "\\n", FILE_APPEND); }
"""
BARE = """<?php
$redis = stream_socket_client('unix://%s');
while (true) {
    fwrite($redis, "*3\\r\\n\\$5\\r\\nBLPOP\\r\\n\\$4\\r\\nbare\\r\\n\\$1\\r\\n0\\r\\n");
    for ($line = 0; $line < 5; $line++) $data = fgets($redis);
    $now = hrtime(true);
    file_put_contents('%s', ($now - (int) $data) . "\\n", FILE_APPEND);
}
"""


def push(redis, key, path):
    """One job after the other, each on an idle consumer; its latencies in microseconds."""
    for done in range(JOBS):
        redis.ask("RPUSH", key, time.monotonic_ns())
        wait_until(lambda: count(path) > done, pause=0.0002)
        time.sleep(PAUSE)
    with open(path) as file:
        return [int(line) / 1000 for line in file]


def count(path):
    # Every line ends its own write, so that lines are counted by their ends.
    try:
        with open(path, "rb") as file:
            return file.read().count(b"\n")
    except FileNotFoundError:
        return 0


def main():
    need("php")
    with stage() as here:
        paths = [os.path.join(here.home, name) for name in ("stark.ns", "bare.ns")]
        with here.daemon(script(here.home, STARK % paths[0]), 4) as running:
            running.wait_until_idle()
            loop = subprocess.Popen(["php", "-r", (BARE % (here.redis.socket, paths[1]))[len("<?php"):]])
            ours, bare = push(here.redis, KEY, paths[0]), push(here.redis, "bare", paths[1])
            loop.kill()
            loop.wait()
    table(
        ["push to start of run, idle, %d jobs" % JOBS, "p50 ms", "p99 ms"],
        [[name, f"{percentile(t, .5) / 1000:.3f}", f"{percentile(t, .99) / 1000:.3f}"]
         for name, t in (("stark, PHP, 4 workers", ours), ("PHP loop on BLPOP", bare))])


if __name__ == "__main__":
    main()
