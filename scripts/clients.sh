#!/bin/sh
# Puts the client libraries that no Debian package has where tests/clients.rs looks for them, at the versions and with the
# hashes of tests/clients/package-lock.json.
set -eu
cd "$(dirname "$0")/.."

there=${CARGO_TARGET_DIR:-target}/clients
if [ -d "$there/node_modules/ioredis" ] &&
    cmp -s tests/clients/package-lock.json "$there/package-lock.json"; then
    exit 0
fi
mkdir -p "$there"
cp tests/clients/package.json tests/clients/package-lock.json "$there"
cd "$there"
npm ci --ignore-scripts --no-audit --no-fund </dev/null
