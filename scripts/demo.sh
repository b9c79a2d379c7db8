#!/bin/sh
# Builds stark and shows its main job on a Redis of its own: a worker daemon that counts the words of this repository's
# texts. Everything lives in a temporary directory and is gone at the end. Installs nothing.
set -eu
cd "$(dirname "$0")/.."

missing=
packages=
need() { # program, Debian package
    command -v "$1" >/dev/null 2>&1 || { missing="$missing $1"; packages="$packages $2"; }
}
need cc gcc
need redis-server redis-server
need redis-cli redis-tools
need php php-cli
need ps procps
if [ -n "$missing" ]; then
    echo "scripts/demo.sh: missing:$missing. On Debian: apt-get install$packages" >&2
    exit 1
fi
if ! cargo --version >/dev/null 2>&1; then
    echo "scripts/demo.sh: missing: cargo. Rust 1.88 or later is at https://rustup.rs" >&2
    exit 1
fi

say() { printf '\n== %s\n' "$*"; }
run() { printf '$ %s\n' "$*"; "$@"; }
await() { # description, condition
    tries=0
    until eval "$2"; do
        tries=$((tries + 1))
        [ $tries -lt 600 ] || { echo "scripts/demo.sh: $1: not within 30 s" >&2; exit 1; }
        sleep 0.05
    done
}

say 'Build'
cargo build --release --locked
PATH="$(cd "${CARGO_TARGET_DIR:-target}" && pwd)/release:$PATH"
repository=$PWD

home=$(mktemp -d)
socket=$home/redis.sock
finish() {
    stark -f "$home/config.ini" stop >/dev/null 2>&1 || true
    redis-cli -s "$socket" shutdown nosave >/dev/null 2>&1 || true
    rm -rf "$home"
}
trap finish EXIT
trap 'exit 130' INT TERM

# The example as it stands, but for what would meet others on this machine: the environment overrides the file.
cp conf/examples/config.ini conf/examples/run.php "$home"
export STARK_MAIN__PORT=0 STARK_MAIN__WORKING_DIR="$home" STARK_QUEUE__HOST="$socket"
redis-server --port 0 --unixsocket "$socket" --save '' --dir "$home" --daemonize yes >/dev/null
await 'Redis answers' 'redis-cli -s "$socket" ping >/dev/null 2>&1'

cd "$home"
say 'Start: returns when all workers are ready'
run stark -f config.ini
run stark -f config.ini status
daemon=$(cat run/config.pid)
ps --no-headers -o pid,args --ppid "$daemon" -p "$daemon"

say 'Push the texts of this repository, by stark and by redis-cli; one file does not exist'
find "$repository" -path "$repository/target" -prune -o \( -name '*.md' -o -name '*.rs' \) -type f -print >jobs
stark -f config.ini push - <jobs
run redis-cli -s redis.sock rpush test:redis "$repository/LICENSE-APACHE" /no/such/file
pushed=$(($(wc -l <jobs) + 2))

processed() { redis-cli -s redis.sock hget '{test:redis}:stark:stats' processed; }
await 'all jobs are done' '[ "$(processed)" = "$pushed" ]'

say 'The log'
log=$(echo logs/config-*.log)
grep -v 'most often' "$log" | tail -n 12
grep 'most often' "$log" | tail -n 5
say "What the queue's Redis holds: nothing waits, all was counted"
run redis-cli -s redis.sock llen test:redis
run redis-cli -s redis.sock hgetall '{test:redis}:stark:stats'

say 'The daemon answers redis-cli'
run redis-cli -p "$(cat run/config.port)" info worker stats

say 'Stop: jobs in hand are finished, nothing is left'
run stark -f config.ini stop
# An ended process may wait to be reaped by init: a zombie (Z) is nothing left of ours.
if ps --no-headers -o stat -p "$daemon" | grep -qv Z || [ -n "$(ls run)" ]; then
    echo 'scripts/demo.sh: something is left' >&2
    exit 1
fi
echo 'no process, no pidfile, no port'
