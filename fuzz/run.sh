#!/bin/sh
# Fuzzes targets: fuzz/run.sh SECONDS [TARGET...]
#
# Each target (all but the canary, when none is named) runs for SECONDS, FUZZ_JOBS (2) of them at
# a time. They begin from the committed corpus, which is never written to: what a run learns stays
# in fuzz/scratch for the next one, and what breaks a law in fuzz/artifacts. At the end the canary
# has to be found, or the rig finds nothing.
#
# Exit code: 1 on a finding, 2 when something cannot run. Without the tools it says so and
# succeeds, unless FUZZ_REQUIRED=1.
set -eu

fail() {
    echo "fuzz: $1" >&2
    exit 2
}

skip() {
    [ "${FUZZ_REQUIRED:-0}" = 1 ] && fail "$1"
    echo "fuzz: SKIPPED, $1" >&2
    exit 0
}

dictionary() {
    case $1 in
        chunked | fields | handshake | head | response | websocket) echo http ;;
        account | batch | echo | event | finish | listed | literal | reply | request | scanner | \
            splitter | stored | stream | trouble | usage) echo json ;;
        path | resource) echo path ;;
        canary | config | multipart) echo "$1" ;;
    esac
}

row() {
    printf '%-10s %12s %8s %9s %7s  %s\n' "$@"
}

# The number behind the last $1 in the log.
last() {
    sed -n "s/.* *$1: *\([0-9][0-9]*\).*/\1/p" "$log" | tail -n 1
}

# Runs one target and prints its row; fails on a finding.
one() {
    seconds=$1 target=$2
    log=scratch/$target.log
    mkdir -p "scratch/$target" "artifacts/$target"
    words=$(dictionary "$target")
    code=0
    "$FUZZ_BINARIES/$target" "scratch/$target" "corpus/$target" \
        -artifact_prefix="artifacts/$target/" ${words:+"-dict=dictionaries/$words.dict"} \
        -max_len=4096 -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 \
        -print_final_stats=1 >"$log" 2>&1 || code=$?
    case $code in
        0) finding=none ;;
        72) finding=interrupted ;;
        *) finding=FOUND ;;
    esac
    row "$target" "$(last number_of_executed_units)" "$(last average_exec_per_sec)" \
        "$(last cov)" "$(last corp)" "$finding"
    # xargs starts nothing more after 255.
    [ $code != 72 ] || return 255
    [ $code != 0 ] || return 0
    [ "$target" = canary ] || {
        grep -m 1 -A 3 -E 'panicked at|ERROR: ' "$log" || tail "$log"
        sed -n "s|.*Test unit written to |fuzz: the input is fuzz/|p" "$log"
    } >&2
    return 1
}

if [ "${1:-}" = --one ]; then
    one "$2" "$3"
    exit
fi
case ${1:-} in '' | *[!0-9]*) fail "usage: fuzz/run.sh SECONDS [TARGET...]" ;; esac
seconds=$1
shift

# Beside what the product's own compiler and flags build, not among it.
build=${CARGO_TARGET_DIR:+$CARGO_TARGET_DIR/fuzz}
build=${build:-$(dirname "$0")/target}
mkdir -p "$build"
build=$(cd "$build" && pwd)
cd "$(dirname "$0")"
if [ $# -eq 0 ]; then
    for source in fuzz_targets/*.rs; do
        target=$(basename "$source" .rs)
        [ "$target" = canary ] || set -- "$@" "$target"
    done
fi
for target in "$@"; do
    [ -f "fuzz_targets/$target.rs" ] || fail "there is no target $target"
done

wanted=$(sed -n 's/^channel = "\(.*\)"$/\1/p' rust-toolchain.toml)
command -v rustup >/dev/null || skip "rustup is missing"
command -v cargo-fuzz >/dev/null || skip "cargo-fuzz is missing: cargo install cargo-fuzz"
if rustup toolchain list | grep -q "^$wanted-"; then
    toolchain=$wanted
elif rustup toolchain list | grep -q '^nightly-[a-z]'; then
    toolchain=nightly
    echo "fuzz: $wanted is missing, $(rustc +nightly --version) stands in for it" >&2
else
    skip "$wanted is missing: rustup toolchain install $wanted"
fi

host=$(rustc "+$toolchain" -vV | sed -n 's/^host: //p')
cargo "+$toolchain" fuzz build --codegen-units 16 --target "$host" --target-dir "$build" ||
    fail "no build"
export FUZZ_BINARIES="$build/$host/release"

row target executions exec/s coverage corpus finding
code=0
printf '%s\n' "$@" | xargs -n 1 -P "${FUZZ_JOBS:-2}" ./run.sh --one "$seconds" || code=1

# Its dictionary holds the word that its only seed lacks, so that a machine of any speed finds it.
rm -rf scratch/canary artifacts/canary
if ./run.sh --one 60 canary || ! grep -q 'the canary sings' scratch/canary.log; then
    echo "fuzz: the canary was not found, so nothing above means anything" >&2
    code=1
fi
exit $code
