#!/usr/bin/env python3
"""Recovery: from `kill -9` of a worker in the middle of a job to that very job running again, by what the job itself
writes down as it begins. One worker, so that nobody else could take it."""

import os
import signal
import time

from stage import KEY, ROUNDS, median, need, script, stage, table, wait_until

PHP = """<?php
function run($worker, $data) {
    file_put_contents($data, hrtime(true) . "\\n", FILE_APPEND);
    if (count(file($data)) % 2) sleep(60);
}
"""


def lines(path):
    try:
        with open(path) as file:
            return file.read().split("\n")[:-1]
    except FileNotFoundError:
        return []


def script_begins(path):
    """The job writes down when it began."""
    return int(wait_until(lambda: lines(path)[1:])[0])


def builtin_begins(path):
    """The job writes down that it began; seen at most half a millisecond later."""
    wait_until(lambda: lines(path)[1:])
    return time.monotonic_ns()


def kill_once(here, run, path, payload, begins):
    with here.daemon(run, 1) as running:
        here.redis.ask("RPUSH", KEY, payload)
        wait_until(lambda: len(lines(path)) == 1)
        worker = int(running.workers()[0]["pid"])
        killed = time.monotonic_ns()
        os.kill(worker, signal.SIGKILL)
        return (begins(path) - killed) / 1e6


def main():
    need("php")
    with stage() as here:
        php = script(here.home, PHP)
        times = {"builtin": [], "PHP, script started anew": []}
        for number in range(ROUNDS):
            path = os.path.join(here.home, f"builtin.{number}")
            probe = f"append {path} begun;sleep 1000"
            times["builtin"].append(kill_once(here, "builtin = probe", path, probe, builtin_begins))
            path = os.path.join(here.home, f"php.{number}")
            times["PHP, script started anew"].append(kill_once(here, php, path, path, script_begins))
    table(
        ["worker killed to its job running again", "ms (median of %d)" % ROUNDS, "lowest to highest"],
        [[kind, f"{median(t):.1f}", f"{min(t):.1f} to {max(t):.1f}"] for kind, t in times.items()])


if __name__ == "__main__":
    main()
