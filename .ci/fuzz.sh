#!/usr/bin/env bash
# Runs every fuzz target for a short while (FUZZ_SECONDS each, 20 unless said). The committed
# corpora are read and never written. The compiler is the one that fuzz/rust-toolchain.toml names,
# else any nightly that is there; without one this is skipped, and says so: `cargo test` replays the
# corpora on stable in any case.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-$PWD/target}/fuzz
seconds=${FUZZ_SECONDS:-20}

[ -f fuzz/Cargo.toml ] || { echo "no fuzz targets"; exit 1; }
named=$(sed -n 's/^channel *= *"\(.*\)"/\1/p' fuzz/rust-toolchain.toml)
toolchain=
for candidate in "$named" nightly; do
    if rustup toolchain list | grep -q "^$candidate-" &&
        rustup run "$candidate" rustc --version >/dev/null 2>&1; then
        toolchain=$candidate
        break
    fi
done
if [ -z "$toolchain" ] &&
    timeout 300 rustup toolchain install --profile minimal "$named" >/dev/null 2>&1; then
    toolchain=$named
fi
if [ -z "$toolchain" ]; then
    echo "FUZZ SKIPPED: neither $named nor another nightly compiler can be had here."
    exit 0
fi
command -v cargo-fuzz >/dev/null || cargo install --locked --quiet cargo-fuzz@0.13.2

export RUSTUP_TOOLCHAIN=$toolchain
echo "fuzzing with $(rustc --version)"
cargo fuzz build --target-dir "$target"
found=$(mktemp -d)
trap 'rm -rf "$found"' EXIT
for name in $(cargo fuzz list); do
    echo "--- $name, $seconds s"
    mkdir -p "$found/$name" "fuzz/corpus/$name"
    if ! cargo fuzz run --target-dir "$target" "$name" "$found/$name" "fuzz/corpus/$name" -- \
        -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
        >"$found/log" 2>&1; then
        # A canary has to fail: it proves that this would notice.
        case $name in
        *canary*) echo "$name fails, as it must" && continue ;;
        esac
        tail -60 "$found/log"
        exit 1
    fi
    case $name in
    *canary*) echo "$name was not noticed: the rig is broken" && exit 1 ;;
    esac
    grep -E '^stat::number_of_executed_units' "$found/log" || true
done
