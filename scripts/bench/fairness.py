#!/usr/bin/env python3
"""Fairness: how far from ideal 4 workers finish a queue that appears at once before them while they are idle. The ideal
is the work divided by the workers; the time ends with the last job, by what the jobs themselves write down. One row for
each shape of queue: long jobs, short ones, a mixture, empty ones, and one very long job among short ones, where what
counts is when the others have ended.

Jobs sleep and do not compute, so that 4 workers fit on fewer cores. What a machine adds to each sleep is shown by 4
bare PHP processes that run equal shares of the same jobs in a loop. `SHAPES=40x20,2000m` chooses the rows."""

import os
import random
import subprocess
import time

from stage import KEY, ROUNDS, median, need, script, stage, table, wait_until

WORKERS = 4
LONG_MS = 10_000
CHOSEN = os.environ.get("SHAPES")
PHP = """<?php
function run($worker, $data) {
    foreach (explode(';', $data) as $command) {
        $words = explode(' ', trim($command), 3);
        if ($words[0] === 'sleep' && $words[1] > 0) usleep(1000 * (int) $words[1]);
        elseif ($words[0] === 'append') file_put_contents($words[1], "$words[2]\\n", FILE_APPEND);
    }
}
"""

# Says that it is ready, and runs its jobs when it is told to.
BARE = """
echo "\\n";
fgets(STDIN);
foreach (file($argv[1], FILE_IGNORE_NEW_LINES) as $data) run(null, $data);
"""


def mixture():
    """2000 jobs, every tenth of them of 10 ms, in an order that is the same each time."""
    jobs = [10] * 200 + [0] * 1800
    random.Random(1).shuffle(jobs)
    return jobs


# Name: milliseconds of each job.
SHAPES = {
    "40x20": [20] * 40,
    "400x5": [5] * 400,
    "2000m": mixture(),
    "300000x0": [0] * 300_000,
    "1x10s+100x5": [LONG_MS] + [5] * 100,
}
NAMES = {
    "40x20": "40 of 20 ms",
    "400x5": "400 of 5 ms",
    "2000m": "2000, 10 % of them 10 ms, else empty",
    "300000x0": "300,000 empty",
    "1x10s+100x5": "one of 10 s before 100 of 5 ms: until the others are done",
}


def payloads(shape, path):
    return [f"sleep {ms};append {path} {ms}" if ms else "sleep 0" for ms in shape]


def fill(redis, shape, path):
    """Under another name, so that the queue can appear at once."""
    if not any(shape):
        redis.fill(len(shape), "sleep 0", "full")
        return
    jobs = payloads(shape, path)
    for begin in range(0, len(jobs), 1000):
        redis.ask("RPUSH", "full", *jobs[begin:begin + 1000])


def until_done(here, shape, path):
    """Milliseconds from the queue's appearance to the end of its last job, but for the very long one."""
    waited_for = sum(0 < ms < LONG_MS for ms in shape)
    began = time.monotonic()
    here.redis.ask("RENAME", "full", KEY)
    if waited_for:
        # Each ended job has written a line of at least two bytes: the size alone is cheap to ask.
        line = {ms: len(f"{ms}\n") for ms in shape}
        size = sum(line[ms] for ms in shape if 0 < ms < LONG_MS)
        wait_until(lambda: os.path.exists(path) and os.path.getsize(path) >= size)
    if waited_for == 0 or 0 in shape:
        wait_until(lambda: here.redis.processed() >= len(shape), limit=300)
    return (time.monotonic() - began) * 1000


def measure(here, run, shape):
    with here.daemon(run, WORKERS) as running:
        times = []
        for number in range(ROUNDS if LONG_MS not in shape else 1):
            running.wait_until_idle()
            here.redis.ask("DEL", "{bench}:stark:stats")
            path = os.path.join(running.home, f"done.{number}")
            fill(here.redis, shape, path)
            times.append(until_done(here, shape, path))
    return times


def bare(here, shape):
    """Milliseconds that processes with equal shares of the work take: no queue, nothing to decide."""
    workers = WORKERS - (LONG_MS in shape)
    jobs = sorted((ms for ms in shape if ms < LONG_MS), reverse=True)
    path = os.path.join(here.home, "bare")
    processes = []
    for number in range(workers):
        share = os.path.join(here.home, f"share.{number}")
        with open(share, "w") as file:
            file.write("\n".join(payloads(jobs[number::workers], path)))
        command = ["php", "-r", PHP.replace("<?php", "") + BARE, share]
        processes.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
    for process in processes:
        process.stdout.readline()
    began = time.monotonic()
    for process in processes:
        process.stdin.write(b"\n")
        process.stdin.flush()
    for process in processes:
        process.wait()
    return (time.monotonic() - began) * 1000


def main():
    need("php")
    rows = []
    with stage() as here:
        php = script(here.home, PHP)
        for name, shape in SHAPES.items():
            if CHOSEN and name not in CHOSEN.split(","):
                continue
            workers = WORKERS - (LONG_MS in shape)
            ideal = sum(ms for ms in shape if ms < LONG_MS) / workers
            peer = median([bare(here, shape) for _ in range(ROUNDS)])
            for kind, run in (("builtin", "builtin = probe"), ("PHP", php)):
                times = measure(here, run, shape)
                over = [f"{(median(times) / than - 1) * 100:+.1f} %" if ideal else "-" for than in (ideal, peer)]
                rows.append([NAMES[name], kind, f"{ideal:.0f}" if ideal else "-", f"{median(times):.1f}",
                             f"{min(times):.1f} to {max(times):.1f}", over[0], f"{peer:.1f}", over[1]])
    table(["%d workers, jobs" % WORKERS, "consumer", "ideal ms", "ms (median of %d)" % ROUNDS, "lowest to highest",
           "over ideal", "bare PHP ms", "over bare"], rows)


if __name__ == "__main__":
    main()
