#!/usr/bin/env python3
"""Scale: what the number of workers costs. From `stark -f worker.ini` typed to its return, when every worker is ready;
the drain of a queue that appears at once before idle workers; `stark stop` to its return; memory (RSS and PSS) and
processor time of the master while all are idle; processor time of all workers and scripts then, which is what
answering heartbeats and measuring memory costs.

`ROUNDS` (5) repeats the starts; the rest is measured in the last round. `COUNTS=4,50` chooses the numbers of workers."""

import os
import re
import time

from stage import KEY, ROUNDS, children, median, need, script, stage, table, wait_until

COUNTS = [int(count) for count in os.environ.get("COUNTS", "4,50,200,1000").split(",")]
# Scripts are processes of several MiB each.
MOST_SCRIPTS = 200
JOBS = int(os.environ.get("JOBS", "200000"))
SECONDS = 10


def cpu_ns(pid):
    """Time on a processor of all threads, to the nanosecond."""
    total = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/schedstat") as stat:
            total += int(stat.read().split()[0])
    return total


def memory_mib(pid, field):
    with open(f"/proc/{pid}/smaps_rollup") as rollup:
        return int(re.search(rf"^{field}:\s+(\d+)", rollup.read(), re.M)[1]) / 1024


def drain(here, running):
    here.redis.fill(JOBS, b"x" * 100, "full")
    began = time.monotonic()
    here.redis.ask("RENAME", "full", KEY)
    wait_until(lambda: here.redis.processed() >= JOBS, limit=300, pause=0.002)
    return JOBS / (time.monotonic() - began)


def measure(here, running):
    """Figures of a daemon at work, and then idle."""
    running.wait_until_idle()
    rate = drain(here, running)
    running.wait_until_idle()
    # The first beats of a new process, and the last of the drain, are not idling.
    time.sleep(3)
    master = running.master
    others = children(master)
    before = cpu_ns(master), sum(map(cpu_ns, others))
    time.sleep(SECONDS)
    cpu = [(now - then) / 1e9 / SECONDS * 100 for now, then in
           zip((cpu_ns(master), sum(map(cpu_ns, others))), before)]
    return [f"{rate:,.0f}", f"{memory_mib(master, 'Rss'):.2f}", f"{memory_mib(master, 'Pss'):.2f}",
            f"{cpu[0]:.3f}", f"{cpu[1]:.3f}"]


def rows(here, kind, run, count):
    starts, stops = [], []
    for number in range(ROUNDS):
        running = here.daemon(run, count)
        with running:
            starts.append(running.start_seconds * 1000)
            if number == ROUNDS - 1:
                figures = measure(here, running)
            began = time.monotonic()
        stops.append((time.monotonic() - began) * 1000)
    return [kind, count, f"{median(starts):.0f} ({min(starts):.0f} to {max(starts):.0f})",
            f"{median(stops):.0f} ({min(stops):.0f} to {max(stops):.0f})", *figures]


def main():
    need("php")
    with stage() as here:
        php = script(here.home, "<?php function run($worker, $data) {}")
        cases = [("builtin", count, "builtin = null") for count in COUNTS]
        cases += [("PHP", count, php) for count in COUNTS if count <= MOST_SCRIPTS]
        results = [rows(here, kind, run, count) for kind, count, run in cases]
    table(["consumer", "workers", "start ms, median of %d" % ROUNDS, "stop ms", "drain jobs/s", "master RSS MiB",
           "PSS MiB", "CPU % idle", "CPU % of all others"], results)


if __name__ == "__main__":
    main()
