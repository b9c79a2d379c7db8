#!/usr/bin/env python3
"""Priority: how long a job of the more important key waits while all workers are busy with a backlog of the less
important one: from its push to its start, by what it writes down itself. 4 workers, `key = bench low`; low jobs of 1 ms
and of 10 ms. A reservation holds about 20 ms of work."""

import os
import time

from stage import KEY, Daemon, need, percentile, script, stage, table, wait_until

JOBS = int(os.environ.get("JOBS", "200"))
WORKERS = 4
PHP = """<?php
function run($worker, $data) {
    if ($data[0] === 's') { usleep(1000 * (int) substr($data, 6)); return; }
    [$pushed, $path] = explode(' ', $data);
    file_put_contents($path, (hrtime(true) - (int) $pushed) . "\\n", FILE_APPEND);
}
"""


class TwoKeys(Daemon):
    def __init__(self, here, run):
        super().__init__(here.stark, here.redis, here.home, run, WORKERS)
        with open(self.ini) as ini:
            text = ini.read()
        with open(self.ini, "w") as ini:
            ini.write(text.replace(f"key = {KEY}\n", f"key = {KEY} low\n"))


def waits(here, run, low_ms):
    """Milliseconds of each push."""
    with TwoKeys(here, run) as running:
        path = os.path.join(running.home, "waited")
        here.redis.fill(JOBS * 200 * WORKERS // low_ms, f"sleep {low_ms}", "low")
        # Batches have been learned by then.
        wait_until(lambda: int(here.redis.ask("HGET", "{low}:stark:stats", "processed") or 0) > 1000 // low_ms)
        for _ in range(JOBS):
            here.redis.ask("RPUSH", KEY, f"{time.monotonic_ns()} {path}")
            # Not in step with the workers.
            time.sleep(0.0137)
        wait_until(lambda: here.redis.processed() >= JOBS)
        left = here.redis.ask("LLEN", "low")
        assert left, "the backlog was too short"
        here.redis.ask("DEL", "low")
        with open(path) as file:
            return [int(line) / 1e6 for line in file]


def main():
    need("php")
    rows = []
    with stage() as here:
        php = script(here.home, PHP)
        for low_ms in (1, 10):
            taken = waits(here, php, low_ms)
            rows.append([f"PHP, low jobs of {low_ms} ms", *(f"{percentile(taken, share):.1f}" for share in (.5, .99)),
                         f"{max(taken):.1f}"])
    table(["push to start of a high job, %d workers busy with low ones" % WORKERS, "p50 ms", "p99 ms", "max ms"], rows)


if __name__ == "__main__":
    main()
