#!/usr/bin/env bash
# Builds the static release binary and proves that it is one: nothing to load, nothing needed, and
# host names are resolved in an empty root that holds the binary, its configuration, hosts and
# resolv.conf. Needs root, for chroot and for port 53 of a loopback address.
set -euo pipefail
cd "$(dirname "$0")/.."
triple=$(uname -m)-unknown-linux-gnu
RUSTFLAGS='-C target-feature=+crt-static' cargo build --locked --release --target "$triple"
binary=${CARGO_TARGET_DIR:-$PWD/target}/$triple/release/gproxy

program_headers=$(readelf --program-headers --wide "$binary")
dynamic=$(readelf --dynamic --wide "$binary")
if grep -q INTERP <<<"$program_headers"; then
    echo "not static: it asks for a loader" && exit 1
fi
if grep -q NEEDED <<<"$dynamic"; then
    echo "not static: it needs shared libraries" && exit 1
fi
sections=$(readelf --sections --wide "$binary")
if grep -q '[.]symtab' <<<"$sections"; then
    echo "not small: names of its functions are still in it" && exit 1
fi
echo "static: $(stat -c %s "$binary") bytes, no loader, no shared libraries"
[ "$(id -u)" = 0 ] || { echo "the rest needs root" && exit 1; }
python3 .ci/empty_root.py "$binary"
