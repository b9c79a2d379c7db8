#!/usr/bin/env python3
"""Start: from `stark -f worker.ini` typed to its return, when every worker is ready."""

from stage import ROUNDS, median, need, script, stage, table


def main():
    need("php")
    with stage() as here:
        php = script(here.home, "<?php function run($worker, $data) {}")
        cases = [("builtin", 4, "builtin = null"), ("builtin", 50, "builtin = null"), ("PHP", 4, php), ("PHP", 50, php)]
        times = [[] for _ in cases]
        for _ in range(ROUNDS):
            for (_, count, run), taken in zip(cases, times):
                with here.daemon(run, count) as running:
                    taken.append(running.start_seconds * 1000)
    table(
        ["start to all ready", "workers", "ms (median of %d)" % ROUNDS, "lowest to highest"],
        [[kind, count, f"{median(t):.0f}", f"{min(t):.0f} to {max(t):.0f}"] for (kind, count, _), t in zip(cases, times)])


if __name__ == "__main__":
    main()
