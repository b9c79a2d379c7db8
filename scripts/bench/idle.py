#!/usr/bin/env python3
"""Idle: what 4 workers without jobs cost in 10 seconds. Processor time and wake-ups (context switches) of each process
from /proc, and memory as PSS, in which pages that processes share are divided among them."""

import os
import re
import time

from stage import children, need, script, stage, table

SECONDS = 10


def wakeups(pid):
    """Voluntary switches of all threads: each is one return from sleep."""
    total = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/status") as status:
            total += int(re.search(r"^voluntary_ctxt_switches:\s+(\d+)", status.read(), re.M)[1])
    return total


def cpu_ns(pid):
    """Time on a processor of all threads, to the nanosecond: clock ticks are too coarse for idling."""
    total = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/schedstat") as stat:
            total += int(stat.read().split()[0])
    return total


def pss_kib(pid):
    with open(f"/proc/{pid}/smaps_rollup") as rollup:
        return int(re.search(r"^Pss:\s+(\d+)", rollup.read(), re.M)[1])


def title(pid):
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        line = file.read().rstrip(b"\0 ").replace(b"\0", b" ").decode()
    return line if line.startswith("stark: ") else "script: " + line.split(" ", 1)[0]


def measure(here, kind, run):
    with here.daemon(run, 4) as running:
        running.wait_until_idle()
        # The first beats of a new process are not idling.
        time.sleep(3)
        pids = [running.master, *children(running.master)]
        before = {pid: (cpu_ns(pid), wakeups(pid)) for pid in pids}
        time.sleep(SECONDS)
        for pid in pids:
            cpu = (cpu_ns(pid) - before[pid][0]) / 1e9 / SECONDS * 100
            yield [kind, title(pid), f"{cpu:.3f}", f"{(wakeups(pid) - before[pid][1]) / SECONDS:.1f}",
                   f"{pss_kib(pid) / 1024:.2f}"]


def main():
    need("php")
    with stage() as here:
        php = script(here.home, "<?php function run($worker, $data) {}")
        rows = [*measure(here, "builtin", "builtin = null"), *measure(here, "PHP", php)]
    table(["idle for %d s" % SECONDS, "process", "CPU %", "wake-ups/s", "PSS MiB"], rows)


if __name__ == "__main__":
    main()
