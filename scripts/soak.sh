#!/bin/sh
# Proves that nothing grows: resident memory and descriptors of the master, the keeper and the workers, first over 10 000
# generations of workers (each leaves after 100 jobs), then over 10 million jobs of workers that stay. Measured after the
# first tenth and after the last; memory may move by SLACK_KB, descriptors not at all, no worker may crash, and exactly
# as many jobs must have been settled as were pushed. Prints a table; exit status 1 when a bound is broken.
#
# Takes about a minute on 2 cores. Smaller or larger: GENERATIONS=500 JOBS=1000000 scripts/soak.sh
# Works in a temporary directory with a Redis of its own, and leaves nothing.
set -eu
cd "$(dirname "$0")/.."

GENERATIONS=${GENERATIONS:-10000}
JOBS=${JOBS:-10000000}
SLACK_KB=${SLACK_KB:-256}
WORKERS=2
JOBS_PER_GENERATION=100
TENTHS=10

for program in cargo redis-server redis-cli; do
    command -v "$program" >/dev/null 2>&1 || { echo "scripts/soak.sh: missing: $program" >&2; exit 1; }
done

echo "== building" >&2
cargo build --release --quiet --locked
stark=${CARGO_TARGET_DIR:-target}/release/stark
home=$(mktemp -d)
redis=$home/redis.sock
redis-server --port 0 --unixsocket "$redis" --save '' --dir "$home" --daemonize yes --pidfile "$home/redis.pid" >/dev/null
ini=$home/soak.ini

finish() {
    "$stark" -f "$ini" shutdown now >/dev/null 2>&1 || true
    redis-cli -s "$redis" shutdown nosave >/dev/null 2>&1 || true
    rm -rf "$home"
}
trap finish EXIT
trap 'exit 1' INT TERM

ask() { redis-cli -s "$redis" "$@"; }
until ask ping >/dev/null 2>&1; do sleep 0.05; done

info() { "$stark" -f "$ini" info | tr -d '\r' | sed -n "s/^$1://p"; }

start() { # max_run_count
    ask flushall >/dev/null
    cat >"$ini" <<INI
[main]
port = 0
working_dir = $home/daemon
[run]
builtin = null
[worker]
count = $WORKERS
max_run_count = $1
jitter = 0%
[queue]
url = redis+unix://$redis
key = soak
INI
    "$stark" -f "$ini"
    started=$(date +%s)
    pushed=0
}

# Pushes 100-byte jobs and waits until they are settled.
drain() { # jobs
    ask eval "local v = {} for i = 1, 1000 do v[i] = ARGV[1] end
        local left = tonumber(ARGV[2])
        while left >= 1000 do redis.call('RPUSH', KEYS[1], unpack(v)) left = left - 1000 end
        for i = 1, left do redis.call('RPUSH', KEYS[1], ARGV[1]) end" \
        1 soak "$(printf '%0100d' 0)" "$1" >/dev/null
    pushed=$((pushed + $1))
    patience=6000
    while [ "$(ask hget '{soak}:stark:stats' processed)" != "$pushed" ]; do
        patience=$((patience - 1))
        [ $patience -gt 0 ] || fail "not settled within 10 minutes: $pushed jobs"
        sleep 0.1
    done
}

broken=0
fail() {
    echo "scripts/soak.sh: $*" >&2
    broken=1
    exit 1
}

# Lines of: who, resident kB, descriptors. Of a worker the number stays, the process may be another one.
measure() {
    patience=100
    while [ "$(info worker_idle)" != $WORKERS ] && [ $patience -gt 0 ]; do
        patience=$((patience - 1))
        sleep 0.1
    done
    master=$(cat "$home/daemon/run/soak.pid")
    for pid in $master $(cat "/proc/$master/task/$master/children"); do
        who=$(tr '\0' ' ' <"/proc/$pid/cmdline" | sed 's/^stark: soak //; s/ \[.*//; s/ *$//; s/ /_/')
        rss=$(sed -n 's/^VmRSS:[^0-9]*\([0-9]*\).*/\1/p' "/proc/$pid/status")
        echo "$who $rss $(ls "/proc/$pid/fd" | wc -l)"
    done | sort
}

# Runs a phase in tenths, and compares the first with the last.
phase() { # name, jobs
    tenth=$(($2 / TENTHS))
    drain $tenth
    measure >"$home/first"
    done_tenths=1
    while [ $done_tenths -lt $TENTHS ]; do
        drain $tenth
        done_tenths=$((done_tenths + 1))
    done
    measure >"$home/last"
    generations=$(info worker_total)
    crashed=$(info workers_crashed)
    seconds=$(($(date +%s) - started))
    "$stark" -f "$ini" stop >/dev/null
    cat >>"$home/summary" <<LINE
$1: $pushed jobs, $generations generations, $crashed crashed, $seconds s
LINE
    [ "$crashed" = 0 ] || broken=1
    [ "$(wc -l <"$home/first")" = $((WORKERS + 2)) ] || broken=1
    join "$home/first" "$home/last" | while read -r who rss1 fds1 rss2 fds2; do
        verdict=flat
        [ $((rss2 - rss1)) -le "$SLACK_KB" ] || verdict=GROWS
        [ "$fds1" = "$fds2" ] || verdict=GROWS
        echo "$1 $who $rss1 $rss2 $fds1 $fds2 $verdict"
    done >>"$home/table"
}

echo "== $GENERATIONS generations" >&2
start $JOBS_PER_GENERATION
phase recycling $((GENERATIONS * JOBS_PER_GENERATION))
[ "$generations" -ge "$GENERATIONS" ] || broken=1

echo "== $JOBS jobs" >&2
start 0
phase staying "$JOBS"

echo
cat "$home/summary"
echo
{
    echo "phase process kB_after_1/10 kB_at_end descriptors_after_1/10 at_end verdict"
    cat "$home/table"
} | column -t 2>/dev/null || cat "$home/table"
rows=$(wc -l <"$home/table")
[ "$rows" = $((2 * (WORKERS + 2))) ] || broken=1
! grep -q GROWS "$home/table" || broken=1
[ $broken = 0 ] && echo && echo "flat"
exit $broken
