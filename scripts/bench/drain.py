#!/usr/bin/env python3
"""Drain rate: how fast 2 workers empty a full queue of 100-byte payloads, beside a bare client that takes the same
turns at batch 100 with 2 processes. The queue appears at once, by RENAME, before idle workers; the time ends when the
last job is settled. Rounds of all three alternate, so that other load meets all of them."""

import os
import subprocess
import time

from stage import KEY, ROUNDS, build, median, need, script, stage, table, wait_until

WORKERS = 2
PAYLOAD = b"x" * 100
JOBS = {"bare": 1_000_000, "null": 1_000_000, "php": 300_000}
PHP = "<?php function run($worker, $data) { return true; }"


def bare(here, program):
    redis = here.redis
    redis.ask("FLUSHALL")
    redis.fill(JOBS["bare"], PAYLOAD, KEY)
    clients = [
        subprocess.Popen([program, redis.socket, KEY, str(slot), "100"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for slot in range(WORKERS)
    ]
    for client in clients:
        client.stdout.readline()
    began = time.monotonic()
    for client in clients:
        client.stdin.write(b"\n")
        client.stdin.flush()
    total = sum(int(client.stdout.readline()) for client in clients)
    seconds = time.monotonic() - began
    for client in clients:
        client.communicate()
    assert total == JOBS["bare"], total
    return total / seconds


def daemon(here, run, jobs):
    with here.daemon(run, WORKERS) as running:
        running.wait_until_idle()
        here.redis.fill(jobs, PAYLOAD, "full")
        began = time.monotonic()
        here.redis.ask("RENAME", "full", KEY)
        wait_until(lambda: here.redis.processed() >= jobs, limit=300, pause=0.002)
        seconds = time.monotonic() - began
        assert here.redis.processed() == jobs
    return jobs / seconds


def main():
    need("php")
    program = build("scripts/bench/bare/Cargo.toml", "bare")
    with stage() as here:
        php = script(here.home, PHP)
        rates = {"bare": [], "null": [], "php": []}
        for _ in range(ROUNDS):
            rates["bare"].append(bare(here, program))
            rates["null"].append(daemon(here, "builtin = null", JOBS["null"]))
            rates["php"].append(daemon(here, php, JOBS["php"]))
    peer = median(rates["bare"])
    names = {"bare": "bare client, batch 100", "null": "stark, `builtin = null`", "php": "stark, PHP `return true`"}
    table(
        ["drain, 2 workers, 100 bytes", "jobs/s (median of %d)" % ROUNDS, "lowest to highest", "to the bare client"],
        [
            [names[who], f"{median(r):,.0f}", f"{min(r):,.0f} to {max(r):,.0f}", f"{median(r) / peer:.2f}"]
            for who, r in rates.items()
        ])


if __name__ == "__main__":
    main()
