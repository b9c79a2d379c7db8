#!/bin/sh
# Everything that must be green before a commit: format, lints, documentation, tests.
# Installs nothing: names what is missing and ends.
set -eu
cd "$(dirname "$0")/.."

missing=
need() { # program, Debian package
    command -v "$1" >/dev/null 2>&1 || missing="$missing
    $1: apt-get install $2"
}
need cc gcc
need redis-server redis-server
need redis-cli redis-tools
need php php-cli
need setpriv util-linux
need script bsdutils
need node nodejs
php -r 'exit(extension_loaded("redis") ? 0 : 1);' 2>/dev/null || missing="$missing
    phpredis: apt-get install php-redis"
python3 -c 'import redis' 2>/dev/null || /usr/bin/python3 -c 'import redis' 2>/dev/null || missing="$missing
    redis-py: apt-get install python3-redis"
[ -d "${CARGO_TARGET_DIR:-target}/clients/node_modules/ioredis" ] || missing="$missing
    ioredis: scripts/clients.sh"
cargo --version >/dev/null 2>&1 || missing="$missing
    cargo: Rust 1.88 or later, see https://rustup.rs"
cargo fmt --version >/dev/null 2>&1 || missing="$missing
    cargo fmt: rustup component add rustfmt"
cargo clippy --version >/dev/null 2>&1 || missing="$missing
    cargo clippy: rustup component add clippy"
if [ -n "$missing" ]; then
    echo "scripts/test.sh: these programs are missing:$missing" >&2
    exit 1
fi

cargo fmt --all --check
cargo clippy --locked --all-targets -- -D warnings
RUSTDOCFLAGS='-D warnings' cargo doc --locked --no-deps --document-private-items
exec cargo test --locked --no-fail-fast
